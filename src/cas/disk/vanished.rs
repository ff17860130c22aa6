//! [`Vanished`]: what left the store not long ago, when and why. For explanations, so it is small,
//! forgets the oldest first, and is empty after a start.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use super::DiskCas;
use super::record::Key;
use super::store::lock;
use crate::digest::Digest;

/// Entries remembered: a quarter of a megabyte.
const LIMIT: usize = 16_384;

/// How an entry left the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// When.
    pub at: SystemTime,
    /// Whether its bytes were damaged; else it was evicted.
    pub damaged: bool,
}

/// The latest departures, the oldest first.
#[derive(Default)]
pub(super) struct Vanished(VecDeque<Entry>);

struct Entry {
    /// Enough of the key to tell it from all others here.
    spread: u64,
    /// Seconds since 1970.
    at: u32,
    damaged: bool,
}

// === impl Vanished ===

impl Vanished {
    pub(super) fn note(&mut self, key: &Key, at: u32, damaged: bool) {
        if self.0.len() == LIMIT {
            self.0.pop_front();
        }
        self.0.push_back(Entry { spread: key.spread(), at, damaged });
    }

    /// How `key` left last.
    fn find(&self, key: &Key) -> Option<Departure> {
        let entry = self.0.iter().rev().find(|entry| entry.spread == key.spread())?;
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(entry.at.into());
        Some(Departure { at, damaged: entry.damaged })
    }
}

// === impl DiskCas ===

impl DiskCas {
    /// How the blob left the store last; `None` if it never did, or too long ago to be remembered.
    pub fn departure(&self, digest: &Digest) -> Option<Departure> {
        lock(&self.inner().vanished).find(&Key::from(digest))
    }

    /// The same of the result whose identity hashes to `hash`.
    pub(crate) fn action_departure(&self, hash: &[u8; 32]) -> Option<Departure> {
        lock(&self.inner().vanished).find(&Key::action(hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: usize) -> Key {
        Key::from(&Digest::of(crate::digest::DigestFunction::Sha256, &n.to_le_bytes()))
    }

    #[test]
    fn the_latest_departure_of_a_key_is_told_and_old_ones_are_forgotten() {
        let mut vanished = Vanished::default();
        vanished.note(&key(1), 10, false);
        vanished.note(&key(2), 20, true);
        vanished.note(&key(1), 30, true);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(vanished.find(&key(1)), Some(Departure { at: at(30), damaged: true }));
        assert_eq!(vanished.find(&key(2)), Some(Departure { at: at(20), damaged: true }));
        assert_eq!(vanished.find(&key(3)), None);
        (10..LIMIT + 10).for_each(|n| vanished.note(&key(n), 40, false));
        assert_eq!(vanished.find(&key(1)), None);
        assert_eq!(vanished.0.len(), LIMIT);
    }
}
