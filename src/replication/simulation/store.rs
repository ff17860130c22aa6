//! [`Store`]: what a machine has on its disk, as far as copies are concerned.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Time;
use crate::cas::entry::{EntryKey, Standing};
use crate::replication::copies::{Entry, Taken};

/// An entry on disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    pub bytes: u64,
    pub standing: Standing,
    pub used_at: Time,
    /// Which of the results of an action it is.
    pub version: u64,
}

/// A disk.
#[derive(Clone, Debug)]
pub(super) struct Store {
    pub entries: BTreeMap<EntryKey, Kept>,
    pub room: u64,
    /// It takes no copies.
    pub is_full: bool,
    used: u64,
}

// === impl Store ===

impl Store {
    pub(super) fn new(room: u64) -> Self {
        Self { entries: BTreeMap::new(), room, is_full: false, used: 0 }
    }

    pub(super) fn has(&self, key: &EntryKey) -> bool {
        self.entries.contains_key(key)
    }

    /// Everything on it is lost.
    pub(super) fn wipe(&mut self) {
        self.entries.clear();
        self.used = 0;
    }

    pub(super) fn remove(&mut self, key: &EntryKey) -> Option<Kept> {
        let kept = self.entries.remove(key)?;
        self.used -= kept.bytes;
        Some(kept)
    }

    /// Makes room by evicting what was used before `before`: the spare first, the only ones last.
    pub(super) fn make_room(&mut self, bytes: u64, before: Time) -> Option<Vec<(EntryKey, Kept)>> {
        let mut victims: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, kept)| kept.used_at < before)
            .map(|(key, kept)| (*key, *kept))
            .collect();
        victims.sort_by_key(|(_, kept)| (std::cmp::Reverse(kept.standing), kept.used_at));
        let (mut used, mut gone) = (self.used, 0);
        while used + bytes > self.room {
            used -= victims.get(gone)?.1.bytes;
            gone += 1;
        }
        victims.truncate(gone);
        for (key, _) in &victims {
            self.remove(key);
        }
        Some(victims)
    }

    pub(super) fn insert(&mut self, key: EntryKey, kept: Kept) {
        self.remove(&key);
        self.used += kept.bytes;
        self.entries.insert(key, kept);
    }

    /// Takes a copy; what went for it.
    pub(super) fn keep(&mut self, key: EntryKey, copy: Kept) -> (Taken, Vec<(EntryKey, Kept)>) {
        if let Some(kept) = self.entries.get_mut(&key) {
            if key.is_action() && kept.version != copy.version {
                (kept.version, kept.standing) = (copy.version, copy.standing);
            }
            return (Taken::Stored, Vec::new());
        }
        let gone = (!self.is_full).then(|| self.make_room(copy.bytes, copy.used_at)).flatten();
        let Some(gone) = gone else { return (Taken::NoRoom, Vec::new()) };
        self.insert(key, copy);
        (Taken::Stored, gone)
    }

    pub(super) fn mark(&mut self, keys: &[EntryKey], standing: Standing) {
        for key in keys {
            if let Some(kept) = self.entries.get_mut(key) {
                kept.standing = standing;
            }
        }
    }

    pub(super) fn range(&self, range: u8) -> Vec<Entry> {
        let in_range = self.entries.iter().filter(|(key, _)| key.range() == range);
        let entry = |(key, kept): (&EntryKey, &Kept)| Entry {
            key: *key,
            bytes: kept.bytes,
            standing: kept.standing,
            age: Duration::ZERO,
        };
        in_range.map(entry).collect()
    }

    /// Entries of a standing.
    pub(super) fn number_of(&self, standing: Standing) -> usize {
        self.entries.values().filter(|kept| kept.standing == standing).count()
    }
}
