//! The map: what is stored, where, when it was last used, and what is known of its other copies. Lives in
//! memory, in shards: one for each range of keys, so that a range is had by looking at nothing else.
//!
//! Asking for a blob takes the read lock of one shard; so does renewing its last use, which is an
//! atomic. A last use is renewed only when it is older than a *grain* (a small share of the lease):
//! hot entries are not written to by every reader, and the journal of uses stays small. Leases are
//! longer by one grain, so nobody sees it. Standings are not written anywhere: after a start, all are
//! those of entries that are perhaps the only ones. 64 bytes hold an entry, key included.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::record::{Key, Kind};
use crate::cas::entry::{RANGES, Standing, Unsized, UnsizedKey};
use crate::digest::BlobHash;

/// Bit of an [`Entry`]'s files: an executable twin exists.
const HAS_TWIN: u8 = 4;

/// Bit of an [`Entry`]'s renewals: it came from another machine, and was not used here yet. The first use is
/// told of even when it is nearer than a grain: from then on it matters here that there are copies.
const FRESH: u8 = 4;

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
    /// What is known of its other copies.
    pub(super) standing: Standing,
    /// Seconds since 1970.
    pub(super) last_use: u32,
}

struct Entry {
    place: Place,
    length: u32,
    last_use: AtomicU32,
    kind: Kind,
    standing: AtomicU8,
    /// Who has not been told yet that the last use was renewed: [`Listener`]s, as bits.
    renewed: AtomicU8,
    /// [`LargeFile`]s known to be right, as bits, and whether there is a twin.
    files: AtomicU8,
}

/// Whose use it is when somebody looks at an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// That of a client or an action here.
    Here,
    /// That of another machine: its life is renewed, and observers are not told. They would tell the other
    /// machines, which would renew it here, and so on.
    Others,
    /// Nobody's: its life is what it was.
    Nobody,
}

/// Who takes the uses that were renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listener {
    /// The journal in the index.
    Journal = 1,
    /// Who observes the store.
    Observer = 2,
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
        let Found { place, length, kind, twin, standing, last_use } = *found;
        let is_fresh = standing != Standing::Sole;
        Self {
            place,
            length,
            last_use: AtomicU32::new(last_use),
            kind,
            standing: AtomicU8::new(standing as u8),
            renewed: AtomicU8::new(if is_fresh { FRESH } else { 0 }),
            files: AtomicU8::new(if twin { HAS_TWIN } else { 0 }),
        }
    }

    fn found(&self) -> Found {
        Found {
            place: self.place,
            length: self.length,
            kind: self.kind,
            twin: self.files.load(Ordering::Relaxed) & HAS_TWIN != 0,
            standing: self.standing(),
            last_use: self.last_use.load(Ordering::Relaxed),
        }
    }

    fn standing(&self) -> Standing {
        Standing::from_number(self.standing.load(Ordering::Relaxed))
    }

    fn use_here(&self, now: u32, grain: u32) {
        if self.renewed.load(Ordering::Relaxed) & FRESH != 0 {
            self.renewed.fetch_and(!FRESH, Ordering::Relaxed);
            self.renewed.fetch_or(Listener::Observer as u8, Ordering::Relaxed);
        }
        self.renew(now, grain, Listener::Journal as u8 | Listener::Observer as u8);
    }

    fn renew(&self, now: u32, grain: u32, listeners: u8) {
        let last_use = self.last_use.load(Ordering::Relaxed);
        if now > last_use && now - last_use > grain {
            self.last_use.fetch_max(now, Ordering::Relaxed);
            self.renewed.fetch_or(listeners, Ordering::Relaxed);
        }
    }
}

// === impl Map ===

impl Map {
    /// An empty map; uses nearer than `grain` seconds to the last are not noted.
    pub(super) fn new(grain: u32) -> Self {
        Self { shards: (0..RANGES).map(|_| RwLock::default()).collect(), grain }
    }

    pub(super) fn grain(&self) -> u32 {
        self.grain
    }

    /// Makes room for `entries` in all.
    pub(super) fn reserve(&mut self, entries: usize) {
        // A little more than the mean, since keys do not fall evenly.
        let each = entries / RANGES + entries / RANGES / 16;
        for shard in &mut self.shards {
            shard.get_mut().unwrap_or_else(PoisonError::into_inner).reserve(each);
        }
    }

    /// The entry of `key`, whose last use becomes `now`.
    pub(super) fn touch(&self, key: &Key, now: u32) -> Option<Found> {
        self.look(key, now, Use::Here)
    }

    /// The entry of `key`, used at `now` by whom `using` says.
    pub(super) fn look(&self, key: &Key, now: u32, using: Use) -> Option<Found> {
        let shard = self.read(key);
        let entry = shard.get(key)?;
        match using {
            Use::Here => entry.use_here(now, self.grain),
            Use::Others => entry.renew(now, self.grain, Listener::Journal as u8),
            Use::Nobody => {}
        }
        Some(entry.found())
    }

    /// The entry of `key`, left as it is.
    pub(super) fn peek(&self, key: &Key) -> Option<Found> {
        self.read(key).get(key).map(Entry::found)
    }

    /// The key of the blob of that hash.
    pub(super) fn find(&self, hash: &BlobHash) -> Option<Key> {
        let shard = self.read(&Key::from(&hash.sized(0)));
        let unsized_key = UnsizedKey::from(hash);
        shard.get_key_value(&unsized_key as &dyn Unsized).map(|(key, _)| *key)
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
            Some(entry) if entry.found().twin != twin => {
                *entry.files.get_mut() ^= HAS_TWIN;
                true
            }
            _ => false,
        }
    }

    /// Notes what is known of the other copies. Returns what was known before; `None` if it is not there.
    pub(super) fn set_standing(&self, key: &Key, standing: Standing) -> Option<Standing> {
        let shard = self.read(key);
        let before = shard.get(key)?.standing.swap(standing as u8, Ordering::Relaxed);
        Some(Standing::from_number(before))
    }

    /// Notes that a file of a large blob was written, or read whole and found right.
    pub(super) fn set_right(&self, key: &Key, file: LargeFile) {
        if let Some(entry) = self.read(key).get(key) {
            entry.files.fetch_or(file as u8, Ordering::Relaxed);
        }
    }

    /// Whether that was noted since the start.
    pub(super) fn is_right(&self, key: &Key, file: LargeFile) -> bool {
        self.read(key).get(key).is_some_and(|entry| entry.files.load(Ordering::Relaxed) & file as u8 != 0)
    }

    /// Sets a last use read from the journal, if it is later than the known one.
    pub(super) fn restore_use(&self, key: &Key, time: u32) {
        if let Some(entry) = self.read(key).get(key) {
            entry.last_use.fetch_max(time, Ordering::Relaxed);
        }
    }

    /// The uses renewed since this was last called for the same listener, and the number of all entries.
    pub(super) fn take_uses(&self, listener: Listener) -> (Vec<(Key, u32)>, usize) {
        let (mut uses, mut entries) = (Vec::new(), 0);
        for shard in self.shards() {
            entries += self.take_uses_in(shard, listener, &mut uses);
        }
        (uses, entries)
    }

    /// Adds those of one shard to `uses`. Returns the number of its entries.
    pub(super) fn take_uses_in(&self, shard: usize, listener: Listener, uses: &mut Vec<(Key, u32)>) -> usize {
        let (shard, bit) =
            (self.shards[shard].read().unwrap_or_else(PoisonError::into_inner), listener as u8);
        for (key, entry) in shard.iter() {
            let is_renewed = entry.renewed.load(Ordering::Relaxed) & bit != 0;
            // Nobody else knows of parts; the blobs they are parts of are used with them.
            let is_told = listener == Listener::Journal || entry.kind != Kind::Part;
            if is_renewed && entry.renewed.fetch_and(!bit, Ordering::Relaxed) & bit != 0 && is_told {
                uses.push((*key, entry.last_use.load(Ordering::Relaxed)));
            }
        }
        shard.len()
    }

    /// The numbers of the shards: those of the ranges.
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
        &self.shards[usize::from(key.range())]
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
        Found {
            place: Place { pack: 1, offset },
            length: 1,
            kind: Kind::Blob,
            twin: false,
            standing: Standing::Sole,
            last_use,
        }
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
        for listener in [Listener::Journal, Listener::Observer] {
            assert_eq!(map.take_uses(listener), (vec![(key(1), 130)], 1));
            assert_eq!(map.take_uses(listener), (vec![], 1));
        }
    }

    #[test]
    fn uses_of_others_renew_a_life_and_are_not_told_on() {
        let map = Map::new(10);
        map.insert(key(1), &found(0, 100));
        assert_eq!(map.look(&key(1), 200, Use::Nobody).unwrap().last_use, 100);
        assert_eq!(map.look(&key(1), 200, Use::Others).unwrap().last_use, 200);
        assert_eq!(map.take_uses(Listener::Observer), (vec![], 1));
        assert_eq!(map.take_uses(Listener::Journal), (vec![(key(1), 200)], 1));
    }

    #[test]
    fn the_first_use_here_of_what_others_brought_is_told_however_young_it_is() {
        let map = Map::new(10);
        map.insert(key(1), &Found { standing: Standing::Spare, ..found(0, 100) });
        map.look(&key(1), 100, Use::Others);
        assert_eq!(map.take_uses(Listener::Observer), (vec![], 1));
        map.touch(&key(1), 100);
        assert_eq!(map.take_uses(Listener::Observer), (vec![(key(1), 100)], 1));
        map.touch(&key(1), 100);
        assert_eq!(map.take_uses(Listener::Observer), (vec![], 1));
        assert_eq!(map.take_uses(Listener::Journal), (vec![], 1));
    }

    #[test]
    fn a_standing_is_kept_through_everything_but_a_new_entry() {
        let map = Map::new(10);
        assert_eq!(map.set_standing(&key(1), Standing::Spare), None);
        map.insert(key(1), &found(0, 1));
        assert_eq!(map.set_standing(&key(1), Standing::Counted), Some(Standing::Sole));
        map.set_twin(&key(1), true);
        map.set_right(&key(1), LargeFile::Plain);
        map.touch(&key(1), 100);
        map.relocate(&key(1), Place { pack: 1, offset: 0 }, Place { pack: 2, offset: 0 });
        let entry = map.peek(&key(1)).unwrap();
        assert_eq!((entry.standing, entry.twin), (Standing::Counted, true));
        assert!(map.set_twin(&key(1), false) && !map.set_twin(&key(1), false));
        assert!(map.is_right(&key(1), LargeFile::Plain));
        map.insert(key(1), &found(0, 1));
        assert_eq!(map.peek(&key(1)).unwrap().standing, Standing::Sole);
    }

    #[test]
    fn a_shard_is_a_range_and_its_keys_are_spread_by_other_bytes() {
        let map = Map::new(10);
        let keys: Vec<Key> = (0..20_000u32)
            .map(|n| Key::from(&Digest::of(DigestFunction::Sha256, &n.to_le_bytes())))
            .collect();
        keys.iter().for_each(|key| assert!(map.insert(*key, &found(0, 1)).is_none()));
        let hash = |key: &Key| {
            let mut spread = Spread::default();
            std::hash::Hash::hash(key, &mut spread);
            spread.finish()
        };
        for range in [0, 7, 255] {
            let mut inside = Vec::new();
            map.for_each_in(usize::from(range), |key, _| inside.push(*key));
            assert_eq!(inside.len(), keys.iter().filter(|key| key.range() == range).count());
            // The low bits choose the bucket, the seven highest are looked at first.
            let apart = |bits: fn(u64) -> u64| {
                inside.iter().map(|key| bits(hash(key))).collect::<std::collections::HashSet<_>>().len()
            };
            assert!(apart(|hash| hash & 0xff) > 48, "{}", apart(|hash| hash & 0xff));
            assert!(apart(|hash| hash >> 57) > 32, "{}", apart(|hash| hash >> 57));
        }
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
