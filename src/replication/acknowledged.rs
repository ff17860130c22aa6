//! When what is written here counts as stored: once as many machines have it as the settings say.

use std::sync::Arc;

use async_trait::async_trait;
use farmhand_proto::reapi::ActionResult;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::cas::Acknowledge;
use super::driver::{Replication, TooFew};
use crate::action_cache::complete::named;
use crate::action_cache::disk::identity;
use crate::action_cache::{ActionCache, ActionCacheError, ActionKey};
use crate::cas::entry::EntryKey;
use crate::cas::{CasError, ContentAddressableStorage};

/// Blobs of one result that are waited for at once.
const AT_ONCE: usize = 64;

/// Acknowledges what so many machines have, this one included.
#[derive(Clone)]
pub struct Copied {
    replication: Replication,
    before_ack: usize,
}

/// An action cache whose results count as stored when enough machines have them, and what they name.
pub struct AcknowledgedActionCache<A> {
    inner: A,
    policy: Copied,
    /// What results name is written here, by actions.
    written: Arc<dyn ContentAddressableStorage>,
}

// === impl Copied ===

impl Copied {
    /// What `before_ack` machines have, as `replication` knows.
    pub fn new(replication: Replication, before_ack: usize) -> Self {
        Self { replication, before_ack }
    }

    fn too_few(key: &EntryKey, error: &TooFew) -> CasError {
        tracing::warn!(entry = ?key, %error, "a write is not acknowledged");
        CasError::TooFewCopies { what: format!("{key:?}"), wanted: error.wanted, have: error.have }
    }
}

#[async_trait]
impl Acknowledge for Copied {
    async fn admitted(&self) {
        self.replication.room().await;
    }

    async fn acknowledged(&self, key: &EntryKey) -> Result<(), CasError> {
        if self.before_ack <= 1 {
            return Ok(());
        }
        let copied = self.replication.copied(key, self.before_ack).await;
        copied.map_err(|error| Self::too_few(key, &error))
    }
}

// === impl AcknowledgedActionCache ===

impl<A> AcknowledgedActionCache<A> {
    /// Decorates `inner`; what its results name is in `written`, as far as it was written here.
    pub fn new(inner: A, policy: Copied, written: Arc<dyn ContentAddressableStorage>) -> Self {
        Self { inner, policy, written }
    }

    /// Waits for what `result` names, as far as it is here: the rest came from other machines.
    async fn outputs(&self, key: &ActionKey, result: &ActionResult) -> Result<(), ActionCacheError> {
        let named = named(&*self.written, key.action.function(), result).await?.blobs;
        let digests: Vec<_> = named.into_iter().collect();
        let elsewhere = self.written.peek_missing(&digests).await?;
        let here = digests.iter().filter(|digest| !digest.is_empty_blob() && !elsewhere.contains(digest));
        let keys: Vec<_> = here.map(EntryKey::from).collect();
        let waits = stream::iter(keys).map(async |key| self.policy.acknowledged(&key).await);
        Ok(waits.buffer_unordered(AT_ONCE).try_collect::<()>().await?)
    }
}

#[async_trait]
impl<A: ActionCache> ActionCache for AcknowledgedActionCache<A> {
    async fn get(&self, key: &ActionKey) -> Result<Option<ActionResult>, ActionCacheError> {
        self.inner.get(key).await
    }

    async fn put(&self, key: &ActionKey, result: ActionResult) -> Result<(), ActionCacheError> {
        if self.policy.before_ack <= 1 {
            return self.inner.put(key, result).await;
        }
        self.outputs(key, &result).await?;
        self.inner.put(key, result).await?;
        Ok(self.policy.acknowledged(&EntryKey::action(&identity(key))).await?)
    }
}
