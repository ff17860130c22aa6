//! What a [`ControlService`](super::ControlService) needs in tests of single calls.

use std::sync::Arc;

use super::Inspected;
use crate::action_cache::memory::MemoryActionCache;
use crate::cas::memory::MemoryCas;
use crate::execution::{Scheduler, Settings};
use crate::tasks::Tasks;

/// A scheduler without workers over these stores, the default settings, an empty log.
pub(super) fn inspected(cas: &Arc<MemoryCas>, results: &Arc<MemoryActionCache>) -> Inspected {
    let scheduler = Scheduler::start(cas.clone(), results.clone(), Settings::default(), &Tasks::default());
    Inspected { scheduler, pins: results.clone(), config: Arc::default(), log: Arc::default() }
}
