//! [`Remembered`]: which results were complete a moment ago.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farmhand_proto::reapi::ActionResult;
use tokio::time::Instant;

use crate::action_cache::ActionKey;

/// Results remembered at most: some ten megabytes.
const LIMIT: usize = 65_536;

/// Results that were found complete.
pub(super) struct Remembered {
    fresh: Duration,
    walks: Mutex<HashMap<ActionKey, Walked>>,
}

#[derive(Clone, Copy)]
struct Walked {
    fingerprint: u64,
    generation: u64,
    at: Instant,
}

impl Remembered {
    /// A table of walks that are good for `fresh`.
    pub(super) fn new(fresh: Duration) -> Self {
        Self { fresh, walks: Mutex::default() }
    }

    /// Whether this very result was complete in this generation, a short while before `now`.
    pub(super) fn holds(&self, key: &ActionKey, fingerprint: u64, generation: u64, now: Instant) -> bool {
        self.walks().get(key).is_some_and(|walked| {
            walked.fingerprint == fingerprint
                && walked.generation == generation
                && now.duration_since(walked.at) <= self.fresh
        })
    }

    /// Notes a complete result. `generation` was read before its walk began.
    pub(super) fn insert(&self, key: &ActionKey, fingerprint: u64, generation: u64, now: Instant) {
        let mut walks = self.walks();
        if walks.len() >= LIMIT {
            walks.retain(|_, walked| {
                walked.generation == generation && now.duration_since(walked.at) <= self.fresh
            });
        }
        if walks.len() >= LIMIT {
            walks.clear();
        }
        walks.insert(key.clone(), Walked { fingerprint, generation, at: now });
    }

    fn walks(&self) -> MutexGuard<'_, HashMap<ActionKey, Walked>> {
        self.walks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells results apart by what they name: two of equal fingerprint need the same blobs.
pub(super) fn fingerprint(result: &ActionResult) -> u64 {
    let mut hasher = DefaultHasher::new();
    result.stdout_digest.hash(&mut hasher);
    result.stderr_digest.hash(&mut hasher);
    for file in &result.output_files {
        file.digest.hash(&mut hasher);
    }
    result.output_directories.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Digest, DigestFunction};
    use crate::instance::InstanceName;

    const FRESH: Duration = Duration::from_secs(60);

    fn key(n: usize) -> ActionKey {
        let action = Digest::of(DigestFunction::Sha256, &n.to_le_bytes());
        ActionKey { instance: InstanceName::default(), action }
    }

    #[tokio::test]
    async fn only_this_result_in_this_generation_for_a_while() {
        let remembered = Remembered::new(FRESH);
        let now = Instant::now();
        remembered.insert(&key(1), 7, 3, now);
        assert!(remembered.holds(&key(1), 7, 3, now + FRESH));
        assert!(!remembered.holds(&key(1), 7, 3, now + FRESH + Duration::from_millis(1)));
        assert!(!remembered.holds(&key(1), 8, 3, now));
        assert!(!remembered.holds(&key(1), 7, 4, now));
        assert!(!remembered.holds(&key(2), 7, 3, now));
    }

    #[tokio::test]
    async fn the_table_is_bounded() {
        let remembered = Remembered::new(FRESH);
        let now = Instant::now();
        for n in 0..=LIMIT {
            remembered.insert(&key(n), 0, 0, now);
        }
        assert!(remembered.walks().len() <= LIMIT);
        assert!(remembered.holds(&key(LIMIT), 0, 0, now));
    }
}
