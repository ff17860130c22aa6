//! [`ReplicatedActionCache`]: the results of the whole farm.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use farmhand_proto::reapi::ActionResult;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, timeout_at};

use super::copies::{Copy, CopyStore, Other};
use super::elsewhere::Elsewhere;
use crate::action_cache::complete::Generation;
use crate::action_cache::disk::{decode, identity};
use crate::action_cache::{ActionCache, ActionCacheError, ActionKey};
use crate::cas::entry::{EntryKey, Standing};

#[cfg(test)]
mod tests;

/// How long an answer is waited for.
const DEADLINE: Duration = Duration::from_millis(150);

/// An action cache that asks the other machines for what is not here. Results are placed as blobs are: those on
/// which they belong are asked, and those that may have more, all at once; the first that has one gives it, and
/// it is kept here. That there was none is never remembered: one may come at any moment. What is written goes
/// to the cache here, which sees to its copies.
pub struct ReplicatedActionCache<A> {
    local: A,
    store: Arc<dyn CopyStore>,
    elsewhere: Elsewhere,
}

/// A generation for results whose blobs may be `elsewhere`: it grows with that of the store here, and whenever
/// a machine comes or goes, with which blobs may have gone.
pub fn generation(local: Generation, elsewhere: Elsewhere) -> Generation {
    Arc::new(move || local() + elsewhere.generation())
}

// === impl ReplicatedActionCache ===

impl<A: ActionCache> ReplicatedActionCache<A> {
    /// Decorates `local`, which keeps its results in `store`; what it lacks is asked for `elsewhere`.
    pub fn new(local: A, store: Arc<dyn CopyStore>, elsewhere: Elsewhere) -> Self {
        Self { local, store, elsewhere }
    }

    /// The cache of this machine alone.
    pub fn local(&self) -> &A {
        &self.local
    }

    /// A result that another machine has, and its stored form.
    async fn ask(&self, key: &ActionKey, entry: &EntryKey) -> Option<(ActionResult, Bytes)> {
        let roster = self.elsewhere.roster();
        let likely = self.elsewhere.chart(&roster).likely(entry);
        let others = likely.into_iter().filter_map(|machine| self.elsewhere.other(machine));
        let mut answers: FuturesUnordered<_> = others.map(|other| stored(other, *entry)).collect();
        let deadline = Instant::now() + DEADLINE;
        while let Ok(Some(answer)) = timeout_at(deadline, answers.next()).await {
            let found = answer.and_then(|data| Some((decode(key, &data)?, data)));
            if found.is_some() {
                return found;
            }
        }
        None
    }
}

/// What `other` has under `entry`.
async fn stored(other: Other, entry: EntryKey) -> Option<Bytes> {
    match other.copies.results(&[entry]).await {
        Ok(results) => results.into_iter().find(|(key, _)| *key == entry).map(|(_, data)| data),
        Err(error) => {
            tracing::debug!(%error, "a machine does not say whether it has a result");
            None
        }
    }
}

#[async_trait]
impl<A: ActionCache> ActionCache for ReplicatedActionCache<A> {
    async fn get(&self, key: &ActionKey) -> Result<Option<ActionResult>, ActionCacheError> {
        let here = self.local.get(key).await?;
        if here.is_some() {
            return Ok(here);
        }
        let entry = EntryKey::action(&identity(key));
        let Some((result, data)) = self.ask(key, &entry).await else { return Ok(None) };
        let copy = Copy { key: entry, data, age: Duration::ZERO };
        let taken = self.store.keep(copy, Standing::Spare).await;
        tracing::trace!(action = %key.action, ?taken, "a result of another machine");
        Ok(Some(result))
    }

    async fn put(&self, key: &ActionKey, result: ActionResult) -> Result<(), ActionCacheError> {
        self.local.put(key, result).await
    }
}
