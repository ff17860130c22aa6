//! What a [`ControlService`](super::ControlService) needs in tests of single calls.

use std::sync::Arc;

use super::{ControlParts, ControlSource};
use crate::activity::Activity;
use crate::execution::Settings;
use crate::execution::testing::Farm;
use crate::rpc::Instances;

/// A farm of its own without workers, with its stores, and `source`.
pub(super) fn parts(source: impl ControlSource) -> ControlParts {
    of_farm(source, &Farm::new(Settings::default()))
}

/// The stores and the scheduler of `farm`, and `source`.
pub(super) fn of_farm(source: impl ControlSource, farm: &Farm) -> ControlParts {
    ControlParts {
        source: Arc::new(source),
        activity: Arc::new(Activity::new(1, "test")),
        cas: Arc::new(farm.cas.clone()),
        results: Arc::new(farm.action_cache.clone()),
        scheduler: farm.scheduler.clone(),
        instances: Instances::default(),
    }
}
