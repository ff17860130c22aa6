//! [`StoreNews`]: what the store tells of itself while it works, for replication. And [`Origin`]: where an
//! entry comes from, which decides whether there is something to tell.
//!
//! What is told is told late rather than never: an entry that was written is readable by then, and may
//! be gone again when the observer looks.

use std::sync::Arc;
use std::time::Duration;

use super::DiskCas;
use super::map::{Listener, Use};
use super::record::Key;
use super::store::Store;
use crate::cas::entry::{EntryKey, Standing};

/// Uses told of at once, about: no more than fit into one question to another machine.
const BATCH: usize = 10_000;

/// Who observes a store. Nothing here may block: writers and readers call it.
pub trait StoreNews: Send + Sync + 'static {
    /// An entry was written here, by a client or an action: a blob that was not there, or a result other
    /// than the one that was. `bytes` are those of its data. Copies of what others have are not told of.
    fn stored(&self, key: EntryKey, bytes: u64);

    /// Another machine gave a copy to be kept, and nothing is known of others yet.
    fn given(&self, _key: EntryKey) {}

    /// The lives of these were renewed here; told within a minute, some thousands at a time.
    fn used(&self, keys: Vec<EntryKey>);

    /// It was dropped because its bytes were damaged.
    fn damaged(&self, key: EntryKey);
}

/// Where an entry that is put into the store comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// It is written here.
    Here {
        /// It was not there when that began. A copy of others' that gets in before the end makes no
        /// difference then.
        anew: bool,
    },
    /// It is a copy of what another machine has.
    Others {
        /// What is known of the other copies.
        standing: Standing,
        /// Seconds since its last use.
        age: u32,
    },
}

// === impl Origin ===

impl Origin {
    /// What comes from others for use here, and does not count as one of the copies.
    pub(super) const BROUGHT: Self = Self::Others { standing: Standing::Spare, age: 0 };

    /// What others give to be kept; until they say that there are enough copies, nothing is known of those.
    pub(super) const GIVEN: Self = Self::Others { standing: Standing::Sole, age: 0 };

    /// The same of what was last used so long ago where it comes from.
    pub(super) fn aged(self, age: Duration) -> Self {
        match self {
            Self::Here { .. } => self,
            Self::Others { standing, .. } => {
                Self::Others { standing, age: u32::try_from(age.as_secs()).unwrap_or(u32::MAX) }
            }
        }
    }

    /// A new entry's last use, if it is stored at `now`.
    pub(super) fn last_use(self, now: u32) -> u32 {
        match self {
            Self::Here { .. } => now,
            Self::Others { age, .. } => now.saturating_sub(age),
        }
    }

    /// A new entry's standing.
    pub(super) fn standing(self) -> Standing {
        match self {
            Self::Here { .. } => Standing::Sole,
            Self::Others { standing, .. } => standing,
        }
    }

    /// Whose use it is to bring what is there already.
    pub(super) fn using(self) -> Use {
        match self {
            Self::Here { .. } => Use::Here,
            Self::Others { .. } => Use::Others,
        }
    }
}

// === impl Store ===

impl Store {
    /// The origin of what is about to be written here.
    pub(super) fn here(&self, key: &Key) -> Origin {
        Origin::Here { anew: self.map.peek(key).is_none() }
    }

    /// Tells of a new entry. Locks are not to be held.
    pub(super) fn tell_stored(&self, key: &Key, bytes: u64, origin: Origin) {
        let Some(news) = self.news.get() else { return };
        match origin {
            Origin::Here { .. } => news.stored(*key, bytes),
            Origin::Others { standing: Standing::Sole, .. } => news.given(*key),
            Origin::Others { .. } => {}
        }
    }

    /// Has an entry that came from elsewhere, while it was being written here, be one that was written
    /// here.
    pub(super) fn claim(&self, key: &Key, bytes: u64, origin: Origin) {
        if origin != (Origin::Here { anew: true }) {
            return;
        }
        let before = self.map.set_standing(key, Standing::Sole);
        if before.is_some_and(|before| before != Standing::Sole) {
            self.tell_stored(key, bytes, origin);
        }
    }

    /// Tells of an entry that was damaged.
    pub(super) fn tell_damaged(&self, key: &Key) {
        if let Some(news) = self.news.get() {
            news.damaged(*key);
        }
    }

    /// Tells of the lives that were renewed since this was last called.
    pub(super) fn tell_uses(&self) {
        let Some(news) = self.news.get() else { return };
        let mut uses = Vec::new();
        for shard in self.map.shards() {
            self.map.take_uses_in(shard, Listener::Observer, &mut uses);
            if uses.len() >= BATCH {
                news.used(keys(&mut uses));
            }
        }
        if !uses.is_empty() {
            news.used(keys(&mut uses));
        }
    }
}

fn keys(uses: &mut Vec<(Key, u32)>) -> Vec<EntryKey> {
    uses.drain(..).map(|(key, _)| key).collect()
}

// === impl DiskCas ===

impl DiskCas {
    /// Has `news` be told of what happens from here on. A store is observed once: later calls change
    /// nothing. The observer lives as long as the store, so it must not hold the store.
    pub fn observe(&self, news: Arc<dyn StoreNews>) {
        // One that comes late is not wanted.
        let _ = self.inner().news.set(news);
    }
}
