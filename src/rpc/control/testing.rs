//! What a [`ControlService`](super::ControlService) needs in tests of single calls.

use std::sync::Arc;

use super::{ControlParts, ControlSource};
use crate::activity::Activity;
use crate::cas::memory::MemoryCas;
use crate::execution::testing::Farm;
use crate::execution::{Sequence, Settings};
use crate::history::{Explainer, History};
use crate::rpc::Instances;

/// A farm of its own without workers, with its stores, and `source`.
pub(super) fn parts(source: impl ControlSource) -> ControlParts {
    of_farm(source, &Farm::new(Settings::default()))
}

/// The same over the blobs of `cas`.
pub(super) fn over(source: impl ControlSource, cas: &Arc<MemoryCas>) -> ControlParts {
    ControlParts { cas: cas.clone(), ..parts(source) }
}

/// The stores and the scheduler of `farm`, and `source`.
pub(super) fn of_farm(source: impl ControlSource, farm: &Farm) -> ControlParts {
    let (history, cas) = (History::forgetful(), Arc::new(farm.cas.clone()));
    let results = Arc::new(farm.action_cache.clone());
    ControlParts {
        source: Arc::new(source),
        activity: Arc::new(Activity::new(1, "test", Sequence::default())),
        explainer: Explainer::new(history.clone(), cas.clone(), Arc::new(|_| None)),
        history,
        cas,
        results: results.clone(),
        pins: results,
        scheduler: farm.scheduler.clone(),
        instances: Instances::default(),
        config: Arc::default(),
        log: Arc::default(),
    }
}
