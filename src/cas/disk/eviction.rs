//! Making room: a round of eviction, and the compaction of packs. What goes is decided in `policy`.

use std::collections::HashSet;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::files::disk_bytes;
use super::maintenance::Maintenance;
use super::map::{Found, Place};
use super::packs::{PACK_HEADER, Pack};
use super::policy::{self, Candidates, Cut, PackState, Verdict, WORTHWHILE};
use super::record::{self, HEADER, Header, Key, Kind, record_len};
use super::store::{Store, lock};
use crate::cas::entry::Standing;

/// Bytes copied before other duties are looked at.
const TURN: u64 = 8 << 20;

/// Bytes of disk an entry takes, its record included.
pub(super) fn cost(key: &Key, found: &Found) -> u64 {
    let file = match (found.kind, key.digest()) {
        (Kind::Note, Some(digest)) => disk_bytes(digest.size()) * (1 + u64::from(found.twin)),
        _ => 0,
    };
    file + record_len(found.length)
}

/// What may go now.
struct Evictable {
    /// Entries last used after this are leased.
    horizon: u32,
    pinned: HashSet<Key>,
}

impl Evictable {
    fn allows(&self, key: &Key, found: &Found) -> bool {
        found.last_use <= self.horizon && !self.pinned.contains(key)
    }
}

impl Store {
    /// The latest last use whose lease is over; `None` if there can be none.
    pub(super) fn lease_horizon(&self) -> Option<u32> {
        let lease = u32::try_from(self.config.lease.as_secs()).unwrap_or(u32::MAX);
        // Uses are noted by the grain: a lease is longer by one.
        self.now().checked_sub(lease.saturating_add(self.map.grain()))
    }

    fn evictable(&self) -> Option<Evictable> {
        let horizon = self.lease_horizon()?;
        let mut pinned: HashSet<Key> =
            lock(&self.pins).pinned.values().flat_map(|keys| keys.iter().copied()).collect();
        pinned.extend(self.wholes_of(&pinned));
        Some(Evictable { horizon, pinned })
    }

    /// Whether a round would have anything to evict or to compact.
    pub(super) fn has_evictable(&self) -> bool {
        let Some(evictable) = self.evictable() else { return false };
        let any = |shard| {
            let mut any = false;
            self.map.for_each_in(shard, |key, found| any |= evictable.allows(key, &found));
            any
        };
        self.map.shards().any(any) || policy::reclaimable(&self.pack_states(), WORTHWHILE) > 0
    }

    fn pack_states(&self) -> Vec<PackState> {
        let state =
            |pack: &Arc<Pack>| PackState { id: pack.id, bytes: pack.end() - PACK_HEADER, dead: pack.dead() };
        self.packs.all().iter().map(state).collect()
    }

    /// Whether a copy of `bytes` that was last used then would be among the next to go: there is no room
    /// but what eviction makes, and the last one took what was worth more.
    pub(super) fn would_go(&self, standing: Standing, last_use: u32, bytes: u64) -> bool {
        let is_leased = self.lease_horizon().is_none_or(|horizon| last_use > horizon);
        if is_leased || self.space.used().saturating_add(bytes) <= self.marks.low {
            return false;
        }
        lock(&self.last_cut).is_some_and(|cut| cut.verdict(standing, last_use) == Verdict::Goes)
    }

    /// Evicts about `need` bytes of what may go: what has most copies, and of that the longest unused
    /// first. Returns the bytes.
    pub(super) fn evict(&self, need: u64) -> u64 {
        let Some(evictable) = self.evictable() else { return 0 };
        let (mut oldest, mut leased) = (evictable.horizon, 0);
        self.map.for_each(|key, found| match evictable.allows(key, &found) {
            true => oldest = oldest.min(found.last_use),
            false => leased += cost(key, &found),
        });
        self.counters.leased.store(leased, Ordering::Relaxed);
        let mut candidates = Candidates::new(oldest, evictable.horizon);
        self.map.for_each(|key, found| {
            if evictable.allows(key, &found) {
                candidates.add(found.standing, found.last_use, cost(key, &found));
            }
        });
        let cut = candidates.cut(need);
        let freed = self.evict_by(&evictable, cut);
        if freed > 0 {
            *lock(&self.last_cut) = Some(cut);
        }
        freed
    }

    fn evict_by(&self, evictable: &Evictable, cut: Cut) -> u64 {
        let (mut freed, mut edge_left) = (0, cut.edge_bytes);
        for shard in self.map.shards() {
            let mut victims = Vec::new();
            self.map.for_each_in(shard, |key, found| {
                let verdict = cut.verdict(found.standing, found.last_use);
                let goes = verdict == Verdict::Goes || (verdict == Verdict::Edge && edge_left > 0);
                if goes && evictable.allows(key, &found) {
                    if verdict == Verdict::Edge {
                        edge_left = edge_left.saturating_sub(cost(key, &found));
                    }
                    victims.push((*key, found.standing));
                }
            });
            for (key, standing) in victims {
                freed += self.evict_one(&key, standing, evictable.horizon);
            }
        }
        freed
    }

    fn evict_one(&self, key: &Key, standing: Standing, horizon: u32) -> u64 {
        // Whoever used it in between has a lease again, and it may be worth more by now.
        let still = |found: &Found| found.last_use <= horizon && found.standing >= standing;
        let Some(found) = self.remove(key, still) else { return 0 };
        let now = self.now();
        let (bytes, age) = (cost(key, &found), now.saturating_sub(found.last_use));
        lock(&self.vanished).note(key, now, false);
        let counters = &self.counters;
        counters.evicted.fetch_add(1, Ordering::Relaxed);
        counters.evicted_bytes.fetch_add(bytes, Ordering::Relaxed);
        let younger = |known: u32| (known == 0 || age < known - 1).then_some(age.saturating_add(1));
        // It stays as it is when an even younger one is known.
        let _ = counters.youngest_victim.fetch_update(Ordering::Relaxed, Ordering::Relaxed, younger);
        bytes
    }
}

impl Maintenance {
    /// Frees room down to the low-water mark, and in any case tries to make `wanted` bytes fit.
    pub(super) fn make_room(&mut self, wanted: u64) {
        let marks = self.store.marks;
        let fits = |store: &Store| store.space.used().saturating_add(wanted) <= marks.limit;
        if fits(&self.store) && self.store.space.used() <= marks.high {
            return;
        }
        let target = marks.low.min(marks.limit.saturating_sub(wanted));
        self.round(target, WORTHWHILE);
        if !fits(&self.store) {
            // Dead space that is hardly worth copying around is better than a refused write.
            self.round(target, 1);
        }
    }

    fn round(&mut self, target: u64, percent: u64) {
        let store = self.store.clone();
        let excess = || store.space.used().saturating_sub(target);
        loop {
            let need = excess().saturating_sub(policy::reclaimable(&store.pack_states(), percent));
            if need == 0 || store.evict(need) == 0 {
                break;
            }
        }
        for pack in policy::choose_packs(store.pack_states(), excess(), percent) {
            if !self.compact(pack) {
                break;
            }
        }
    }

    /// Copies what is live in a pack behind the end of the log, then deletes it. False if that
    /// failed.
    fn compact(&mut self, id: u32) -> bool {
        let store = self.store.clone();
        let Some(pack) = store.packs.get(id) else { return true };
        store.packs.appender().seal_if(id);
        if !pack.is_wholly_dead() {
            if let Err(error) = self.copy_live(&pack) {
                tracing::warn!(%error, pack = id, "cannot compact a pack");
                return false;
            }
            self.drop_uncopied(id);
        }
        // The copies must be on the disk before the originals go.
        if !self.close_epoch() {
            return false;
        }
        self.catalog.stage_drop(id);
        self.commit_index();
        store.packs.forget(id);
        if let Err(error) = std::fs::remove_file(&pack.path) {
            tracing::warn!(%error, pack = id, "cannot remove a pack");
        }
        store.space.remove(pack.end() - PACK_HEADER);
        true
    }

    fn copy_live(&mut self, pack: &Pack) -> std::io::Result<()> {
        let store = self.store.clone();
        let mut copied = 0;
        record::scan(&pack.file, store.packs.magic(), PACK_HEADER, pack.end(), |offset, header| {
            let place = Place { pack: pack.id, offset: offset as u32 };
            copied += copy_record(&store, pack, place, header)?;
            if copied > TURN {
                copied = 0;
                self.tick_epoch();
            }
            Ok::<(), std::io::Error>(())
        })?;
        Ok(())
    }

    /// Keeps the promise of the epochs while a pack is being copied.
    fn tick_epoch(&mut self) {
        if self.is_close_due() {
            self.close_epoch();
        }
    }

    /// Drops entries whose records the scan of their pack did not find whole.
    fn drop_uncopied(&self, pack: u32) {
        let mut lost = Vec::new();
        self.store.map.for_each(|key, found| {
            if found.place.pack == pack {
                lost.push((*key, found.place));
            }
        });
        for (key, place) in lost {
            self.store.drop_corrupt(&key, place);
        }
    }
}

/// Copies a record if it is live. Returns the bytes copied.
fn copy_record(store: &Store, pack: &Pack, place: Place, header: &Header) -> std::io::Result<u64> {
    let is_live = |found: &Found| found.place == place;
    if !store.map.peek(&header.key).is_some_and(|found| is_live(&found)) {
        return Ok(0);
    }
    let mut data = vec![0; header.length as usize];
    pack.file.read_exact_at(&mut data, u64::from(place.offset) + HEADER as u64)?;
    let mut appender = store.packs.appender();
    // Only now can it not be replaced any more.
    let Some(found) = store.map.peek(&header.key).filter(is_live) else { return Ok(0) };
    let copy = appender.append(header.kind, header.key, found.last_use, &data)?;
    if store.map.relocate(&header.key, place, copy) {
        appender.bury(place, header.length);
    } else {
        appender.bury(copy, header.length);
    }
    drop(appender);
    store.space.add(header.record_len());
    Ok(header.record_len())
}
