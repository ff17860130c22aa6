//! The map: what is stored, where, and when it was last used. Lives in memory, in shards.
//!
//! Asking for a blob takes the read lock of one shard; so does renewing its last use, which is an
//! atomic. A last use is renewed only when it is older than a *grain* (a small share of the lease):
//! hot entries are not written to by every reader, and the journal of uses stays small. Leases are
//! longer by one grain, so nobody sees it. 64 bytes hold an entry, key included.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::record::{Key, Kind};

const SHARDS: usize = 64;

/// Where a record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) pack: u32,
    pub(super) offset: u32,
}

/// An entry as others see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) place: Place,
    /// Bytes of data in the record.
    pub(super) length: u32,
    pub(super) kind: Kind,
    /// An executable twin of the file exists.
    pub(super) twin: bool,
    /// Seconds since 1970.
    pub(super) last_use: u32,
}

struct Entry {
    place: Place,
    length: u32,
    last_use: AtomicU32,
    kind: Kind,
    twin: bool,
    /// The last use was renewed since [`Map::take_uses`] looked.
    renewed: AtomicBool,
    /// [`LargeFile`]s known to be right, as bits.
    right: AtomicU8,
}

/// The files of a large blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LargeFile {
    /// The one that is read.
    Plain = 1,
    /// Its executable twin.
    Twin = 2,
}

type Shard = HashMap<Key, Entry, BuildHasherDefault<Spread>>;

/// The map of a store.
pub(super) struct Map {
    shards: Vec<RwLock<Shard>>,
    grain: u32,
}

/// Takes the eight bytes a [`Key`] gives: they are random already.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

// === impl Entry ===

impl Entry {
    fn new(found: &Found) -> Self {
        let Found { place, length, kind, twin, last_use } = *found;
        Self {
            place,
            length,
            last_use: AtomicU32::new(last_use),
            kind,
            twin,
            renewed: AtomicBool::new(false),
            right: AtomicU8::new(0),
        }
    }

    fn found(&self) -> Found {
        let last_use = self.last_use.load(Ordering::Relaxed);
        Found { place: self.place, length: self.length, kind: self.kind, twin: self.twin, last_use }
    }

    fn touch(&self, now: u32, grain: u32) {
        let last_use = self.last_use.load(Ordering::Relaxed);
        if now > last_use && now - last_use > grain {
            self.last_use.fetch_max(now, Ordering::Relaxed);
            self.renewed.store(true, Ordering::Relaxed);
        }
    }
}

// === impl Map ===

impl Map {
    /// An empty map; uses nearer than `grain` seconds to the last are not noted.
    pub(super) fn new(grain: u32) -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect(), grain }
    }

    pub(super) fn grain(&self) -> u32 {
        self.grain
    }

    /// Makes room for `entries` in all.
    pub(super) fn reserve(&mut self, entries: usize) {
        // A little more than the mean, since keys do not fall evenly.
        let each = entries / SHARDS + entries / SHARDS / 16;
        for shard in &mut self.shards {
            shard.get_mut().unwrap_or_else(PoisonError::into_inner).reserve(each);
        }
    }

    /// The entry of `key`, whose last use becomes `now`.
    pub(super) fn touch(&self, key: &Key, now: u32) -> Option<Found> {
        let shard = self.read(key);
        let entry = shard.get(key)?;
        entry.touch(now, self.grain);
        Some(entry.found())
    }

    /// The entry of `key`, left as it is.
    pub(super) fn peek(&self, key: &Key) -> Option<Found> {
        self.read(key).get(key).map(Entry::found)
    }

    /// Puts an entry in place of an earlier one, which is returned.
    pub(super) fn insert(&self, key: Key, found: &Found) -> Option<Found> {
        self.write(&key).insert(key, Entry::new(found)).map(|entry| entry.found())
    }

    /// Removes the entry of `key` if `still` says so of it.
    pub(super) fn remove_if(&self, key: &Key, still: impl FnOnce(&Found) -> bool) -> Option<Found> {
        let mut shard = self.write(key);
        if !still(&shard.get(key)?.found()) {
            return None;
        }
        shard.remove(key).map(|entry| entry.found())
    }

    /// Points the entry at a copy of its record, if it is still at `from`.
    pub(super) fn relocate(&self, key: &Key, from: Place, to: Place) -> bool {
        match self.write(key).get_mut(key) {
            Some(entry) if entry.place == from => {
                entry.place = to;
                true
            }
            _ => false,
        }
    }

    /// Notes whether a twin exists; false when that was known or the entry is gone.
    pub(super) fn set_twin(&self, key: &Key, twin: bool) -> bool {
        match self.write(key).get_mut(key) {
            Some(entry) if entry.twin != twin => {
                entry.twin = twin;
                true
            }
            _ => false,
        }
    }

    /// Notes that a file of a large blob was written, or read whole and found right.
    pub(super) fn set_right(&self, key: &Key, file: LargeFile) {
        if let Some(entry) = self.read(key).get(key) {
            entry.right.fetch_or(file as u8, Ordering::Relaxed);
        }
    }

    /// Whether that was noted since the start.
    pub(super) fn is_right(&self, key: &Key, file: LargeFile) -> bool {
        self.read(key).get(key).is_some_and(|entry| entry.right.load(Ordering::Relaxed) & file as u8 != 0)
    }

    /// Sets a last use read from the journal, if it is later than the known one.
    pub(super) fn restore_use(&self, key: &Key, time: u32) {
        if let Some(entry) = self.read(key).get(key) {
            entry.last_use.fetch_max(time, Ordering::Relaxed);
        }
    }

    /// The uses renewed since this was last called, and the number of all entries.
    pub(super) fn take_uses(&self) -> (Vec<(Key, u32)>, usize) {
        let (mut uses, mut entries) = (Vec::new(), 0);
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            entries += shard.len();
            for (key, entry) in shard.iter() {
                if entry.renewed.load(Ordering::Relaxed) && entry.renewed.swap(false, Ordering::Relaxed) {
                    uses.push((*key, entry.last_use.load(Ordering::Relaxed)));
                }
            }
        }
        (uses, entries)
    }

    /// The numbers of the shards.
    pub(super) fn shards(&self) -> std::ops::Range<usize> {
        0..self.shards.len()
    }

    /// Visits the entries of one shard while it is locked.
    pub(super) fn for_each_in(&self, shard: usize, mut visit: impl FnMut(&Key, Found)) {
        let shard = self.shards[shard].read().unwrap_or_else(PoisonError::into_inner);
        shard.iter().for_each(|(key, entry)| visit(key, entry.found()));
    }

    /// Visits all entries, one locked shard after the other.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&Key, Found)) {
        self.shards().for_each(|shard| self.for_each_in(shard, &mut visit));
    }

    fn shard(&self, key: &Key) -> &RwLock<Shard> {
        // Not one of the bytes the tables spread by.
        &self.shards[usize::from(key.0[10]) % SHARDS]
    }

    fn read(&self, key: &Key) -> RwLockReadGuard<'_, Shard> {
        self.shard(key).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, key: &Key) -> RwLockWriteGuard<'_, Shard> {
        self.shard(key).write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Digest, DigestFunction};

    fn key(n: u8) -> Key {
        Key::from(&Digest::of(DigestFunction::Sha256, &[n]))
    }

    fn found(offset: u32, last_use: u32) -> Found {
        Found { place: Place { pack: 1, offset }, length: 1, kind: Kind::Blob, twin: false, last_use }
    }

    #[test]
    fn uses_are_noted_by_the_grain_and_never_go_back() {
        let map = Map::new(10);
        map.insert(key(1), &found(0, 100));
        for (now, noted) in [(110, 100), (111, 111), (50, 111), (130, 130)] {
            map.touch(&key(1), now);
            assert_eq!(map.peek(&key(1)).unwrap().last_use, noted);
        }
        assert!(map.touch(&key(2), 1).is_none());
        assert_eq!(map.take_uses(), (vec![(key(1), 130)], 1));
        assert_eq!(map.take_uses(), (vec![], 1));
    }

    #[test]
    fn relocation_and_removal_see_a_change_in_between() {
        let map = Map::new(0);
        map.insert(key(1), &found(0, 1));
        let (old, new) = (Place { pack: 1, offset: 0 }, Place { pack: 2, offset: 8 });
        assert!(map.relocate(&key(1), old, new));
        assert!(!map.relocate(&key(1), old, new));
        assert!(map.remove_if(&key(1), |found| found.place == old).is_none());
        assert!(map.remove_if(&key(1), |found| found.place == new).is_some());
        assert!(map.peek(&key(1)).is_none());
    }

    #[test]
    fn a_new_entry_has_no_file_that_is_known_to_be_right() {
        let map = Map::new(10);
        map.set_right(&key(1), LargeFile::Plain);
        map.insert(key(1), &found(0, 1));
        assert!(!map.is_right(&key(1), LargeFile::Plain));
        map.set_right(&key(1), LargeFile::Twin);
        assert!(map.is_right(&key(1), LargeFile::Twin) && !map.is_right(&key(1), LargeFile::Plain));
        map.insert(key(1), &found(8, 1));
        assert!(!map.is_right(&key(1), LargeFile::Twin));
    }

    #[test]
    fn an_entry_stays_small() {
        assert_eq!(std::mem::size_of::<(Key, Entry)>(), 64);
    }
}
