//! [`PinnedActionCache`]: results that a person keeps from eviction.
//!
//! Pinning a result keeps its entry and all blobs it names: outputs, Trees and what is in them, logs. Not the
//! inputs, nor the Action: they can be had again from whoever sent them. A new result of a pinned
//! action takes the place of the earlier one in every respect.
//!
//! Wrap it around the cache that shows complete results only; what is kept, and where that is
//! written down, is the business of the store ([`crate::cas::disk`]).

use std::sync::Arc;

use async_trait::async_trait;
use farmhand_proto::reapi::ActionResult;

use super::complete::named;
use super::disk::identity;
use super::{ActionCache, ActionCacheError, ActionKey, PinError, Pinning};
use crate::cas::disk::{DiskCas, KeepError};
use crate::cas::{CasError, ContentAddressableStorage};
use crate::digest::Digest;

/// An action cache whose results can be pinned.
pub struct PinnedActionCache<A> {
    inner: A,
    store: DiskCas,
    brought: Arc<dyn ContentAddressableStorage>,
}

// === impl PinnedActionCache ===

impl<A: ActionCache> PinnedActionCache<A> {
    /// Decorates `inner`, whose results and blobs are pinned in `store`. What `brought` does not list as
    /// missing is there from then on.
    pub fn new(inner: A, store: DiskCas, brought: Arc<dyn ContentAddressableStorage>) -> Self {
        Self { inner, store, brought }
    }

    /// Pins anew what was pinned, as far as the lists of it were damaged. For a task beside the start.
    pub async fn mend(&self) {
        for hash in self.store.damaged_keeps() {
            let mended = match super::disk::key_of(&self.store, &hash).await {
                Ok(Some(key)) => self.pin(&key).await.map_err(|error| error.to_string()),
                Ok(None) => Err("the result is lost".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            match mended {
                Ok(_) => tracing::info!("a damaged list of pinned blobs was made anew"),
                Err(reason) => tracing::warn!(reason, "what a pinned result names is no longer kept"),
            }
        }
    }

    /// Runs `work` where waiting for the disk is allowed.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&DiskCas) -> Result<T, KeepError> + Send + 'static,
    ) -> Result<T, KeepError> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.map_err(|panic| CasError::io("kept", panic.into()))?
    }
}

#[async_trait]
impl<A: ActionCache> Pinning for PinnedActionCache<A> {
    async fn pin(&self, key: &ActionKey) -> Result<u64, PinError> {
        let result = self.inner.get(key).await?.ok_or(PinError::NoResult)?;
        let named = named(&*self.brought, key.action.function(), &result).await?;
        let (hash, blobs): (_, Vec<Digest>) = (identity(key), named.blobs.into_iter().collect());
        let is_here = self.brought.find_missing(&blobs).await.map_err(ActionCacheError::from)?.is_empty();
        if !is_here || !named.unread.is_empty() {
            return Err(PinError::NoResult);
        }
        self.blocking(move |store| store.keep(&hash, &blobs)).await.map_err(PinError::from)
    }

    async fn unpin(&self, key: &ActionKey) -> Result<bool, PinError> {
        let hash = identity(key);
        Ok(self.blocking(move |store| Ok(store.let_go(&hash)?)).await?)
    }

    fn is_pinned(&self, key: &ActionKey) -> bool {
        self.store.keeps_any() && self.store.is_kept(&identity(key))
    }
}

#[async_trait]
impl<A: ActionCache> ActionCache for PinnedActionCache<A> {
    async fn get(&self, key: &ActionKey) -> Result<Option<ActionResult>, ActionCacheError> {
        self.inner.get(key).await
    }

    async fn put(&self, key: &ActionKey, result: ActionResult) -> Result<(), ActionCacheError> {
        self.inner.put(key, result).await?;
        if self.is_pinned(key)
            && let Err(error) = self.pin(key).await
        {
            tracing::warn!(action = %key.action, %error, "the new result of a pinned action is not kept");
        }
        Ok(())
    }
}

impl From<KeepError> for PinError {
    fn from(error: KeepError) -> Self {
        match error {
            KeepError::Missing(_) => Self::NoResult,
            KeepError::TooMuch { .. } | KeepError::TooMany(_) => Self::NoRoom(error.to_string()),
            KeepError::Cas(error) => Self::Cache(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
