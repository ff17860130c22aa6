//! What a [`ControlService`](super::ControlService) needs in tests of single calls.

use std::sync::Arc;

use super::{ControlParts, ControlSource};
use crate::activity::Activity;
use crate::execution::testing::Farm;
use crate::execution::{Sequence, Settings};
use crate::history::{Explainer, History};
use crate::rpc::Instances;

/// A farm of its own without workers, with its stores, and `source`.
pub(super) fn parts(source: impl ControlSource) -> ControlParts {
    of_farm(source, &Farm::new(Settings::default()))
}

/// The stores and the scheduler of `farm`, and `source`.
pub(super) fn of_farm(source: impl ControlSource, farm: &Farm) -> ControlParts {
    let (history, cas) = (History::forgetful(), Arc::new(farm.cas.clone()));
    ControlParts {
        source: Arc::new(source),
        activity: Arc::new(Activity::new(1, "test", Sequence::default())),
        explainer: Explainer::new(history.clone(), cas.clone(), Arc::new(|_| None)),
        history,
        cas,
        results: Arc::new(farm.action_cache.clone()),
        scheduler: farm.scheduler.clone(),
        instances: Instances::default(),
    }
}
