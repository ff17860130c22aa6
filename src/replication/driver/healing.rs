//! [`Healing`]: which damaged entries are to be brought back, and when; [`heal`] brings one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::cas::CasError;
use crate::cas::entry::{EntryKey, Standing};
use crate::cas::fetch::{BlobSource, FetchError, Fetcher};
use crate::replication::copies::{Copy, CopyStore, Other, Taken};

/// Entries that are brought back at once.
const AT_ONCE: usize = 4;

/// Entries that are remembered.
const MOST: usize = 10_000;

/// A machine that failed is tried again after this.
const RETRY: Duration = Duration::from_secs(60);

/// How often an entry is tried.
const TRIES: u8 = 5;

/// What became of a damaged entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Healed {
    /// A good copy is in its place.
    Yes,
    /// There is nothing to be done: it is here already, or nobody has it, or there is no room.
    No,
    /// A machine that may have it did not answer.
    Unknown,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Healing {
    waiting: VecDeque<EntryKey>,
    /// How often each was tried that waits or is being tried.
    tries: HashMap<EntryKey, u8>,
    under_way: usize,
    retry_at: Option<Instant>,
}

// === impl Healing ===

impl Healing {
    /// An entry was dropped because it was damaged.
    pub(super) fn add(&mut self, key: EntryKey) {
        if self.tries.len() < MOST && self.tries.insert(key, 0).is_none() {
            self.waiting.push_back(key);
        }
    }

    /// The next that is to be brought, if any.
    pub(super) fn begin(&mut self, now: Instant) -> Option<EntryKey> {
        if self.retry_at.is_some_and(|at| at > now) || self.under_way >= AT_ONCE {
            return None;
        }
        self.retry_at = None;
        let key = self.waiting.pop_front()?;
        self.under_way += 1;
        Some(key)
    }

    /// What became of one.
    pub(super) fn end(&mut self, now: Instant, key: EntryKey, healed: Healed) {
        self.under_way -= 1;
        let Some(tries) = self.tries.get_mut(&key) else { return };
        *tries += 1;
        if healed == Healed::Unknown && *tries < TRIES {
            self.waiting.push_back(key);
            self.retry_at = Some(now + RETRY);
            return;
        }
        self.tries.remove(&key);
    }

    /// When something is to be tried again.
    pub(super) fn next(&self) -> Option<Instant> {
        self.retry_at.filter(|_| !self.waiting.is_empty())
    }
}

/// Brings an entry from the first of `others` that has it.
pub(super) async fn heal(key: EntryKey, others: &[Other], store: &dyn CopyStore, into: &Fetcher) -> Healed {
    let Some(digest) = key.digest() else { return heal_result(key, others, store).await };
    let sources: Vec<Arc<dyn BlobSource>> = others.iter().map(|other| Arc::clone(&other.blobs)).collect();
    let healed = match into.fetch(&[digest], &sources).await {
        Ok(fetched) if fetched.blobs > 0 => Healed::Yes,
        Ok(_) => Healed::No,
        Err(FetchError::Source(error)) => {
            tracing::debug!(?key, %error, "a damaged blob is not brought back yet");
            Healed::Unknown
        }
        Err(error @ (FetchError::Missing(_) | FetchError::Cas(_))) => {
            log(key, &error);
            Healed::No
        }
    };
    if healed == Healed::Yes {
        // It came as a copy of what others have, and is one of those that count, perhaps.
        store.mark(&[key], Standing::Sole);
    }
    healed
}

async fn heal_result(key: EntryKey, others: &[Other], store: &dyn CopyStore) -> Healed {
    let mut healed = Healed::No;
    for other in others {
        match other.copies.results(&[key]).await {
            Ok(results) => {
                for (key, data) in results.into_iter().filter(|(found, _)| *found == key) {
                    let copy = Copy { key, data, age: Duration::ZERO };
                    if store.keep(copy, Standing::Sole).await == Taken::Stored {
                        return Healed::Yes;
                    }
                }
            }
            Err(error) => {
                tracing::debug!(?key, %error, "a damaged result is not brought back yet");
                healed = Healed::Unknown;
            }
        }
    }
    healed
}

fn log(key: EntryKey, error: &FetchError) {
    match error {
        FetchError::Cas(CasError::NoSpace { .. }) => {
            tracing::warn!(?key, %error, "there is no room for a good copy of a damaged blob");
        }
        _ => tracing::warn!(?key, %error, "a damaged blob cannot be brought back"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> EntryKey {
        EntryKey::action(&[number; 32])
    }

    #[test]
    fn few_are_brought_at_once_and_who_fails_is_tried_again_later_and_not_for_ever() {
        let mut now = Instant::now();
        let mut healing = Healing::default();
        (0..6).chain(0..6).for_each(|number| healing.add(key(number)));
        let begun: Vec<_> = std::iter::from_fn(|| healing.begin(now)).collect();
        assert_eq!(begun, [0, 1, 2, 3].map(key));
        healing.end(now, key(0), Healed::Yes);
        assert_eq!(healing.begin(now), Some(key(4)));
        healing.end(now, key(1), Healed::Unknown);
        assert_eq!((healing.begin(now), healing.next()), (None, Some(now + RETRY)));
        [2, 3, 4].into_iter().for_each(|number| healing.end(now, key(number), Healed::No));
        now += RETRY;
        assert_eq!(healing.begin(now), Some(key(5)));
        healing.end(now, key(5), Healed::No);
        for _ in 1..TRIES {
            assert_eq!(healing.begin(now), Some(key(1)));
            healing.end(now, key(1), Healed::Unknown);
            now += RETRY;
        }
        assert_eq!((healing.begin(now), healing.next()), (None, None));
    }
}
