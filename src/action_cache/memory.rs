//! [`MemoryActionCache`]: results in a map. The fake behind tests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use farmhand_proto::reapi::ActionResult;

use super::{ActionCache, ActionCacheError, ActionKey};

/// An action cache that forgets everything with the process. Clones share their results.
#[derive(Clone, Default)]
pub struct MemoryActionCache {
    results: Arc<Mutex<HashMap<ActionKey, ActionResult>>>,
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
