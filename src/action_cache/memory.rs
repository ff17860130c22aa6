//! [`MemoryActionCache`]: results in a map. The fake behind tests.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use farmhand_proto::reapi::ActionResult;

use super::{ActionCache, ActionCacheError, ActionKey, PinError, Pinning};

/// An action cache that forgets everything with the process. Clones share their results.
#[derive(Clone, Default)]
pub struct MemoryActionCache {
    results: Arc<Mutex<HashMap<ActionKey, ActionResult>>>,
    pinned: Arc<Mutex<HashSet<ActionKey>>>,
}

impl MemoryActionCache {
    fn pinned(&self) -> MutexGuard<'_, HashSet<ActionKey>> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ActionCache for MemoryActionCache {
    async fn get(&self, key: &ActionKey) -> Result<Option<ActionResult>, ActionCacheError> {
        Ok(self.results.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    async fn put(&self, key: &ActionKey, result: ActionResult) -> Result<(), ActionCacheError> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), result);
        Ok(())
    }
}

/// Nothing is ever evicted here: a pin is a mark.
#[async_trait]
impl Pinning for MemoryActionCache {
    async fn pin(&self, key: &ActionKey) -> Result<u64, PinError> {
        if self.get(key).await?.is_none() {
            return Err(PinError::NoResult);
        }
        self.pinned().insert(key.clone());
        Ok(0)
    }

    async fn unpin(&self, key: &ActionKey) -> Result<bool, PinError> {
        Ok(self.pinned().remove(key))
    }

    fn is_pinned(&self, key: &ActionKey) -> bool {
        self.pinned().contains(key)
    }
}
