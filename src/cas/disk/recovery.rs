//! Opening a store: what of the directory counts.
//!
//! 1. The index fills the map, as far as its checkpoints go. If it is damaged, or does not open, it is
//!    moved aside and an empty one takes its place: then no pack has a checkpoint.
//! 2. Each pack is scanned from its checkpoint to its end. After a clean stop there is nothing to
//!    scan; after a kill it is what the last second or two wrote; without an index it is everything.
//!    Later records replace earlier ones of the same key.
//! 3. If the machine was booted anew since an unclean stop, records of epochs that were not closed are
//!    left out and cut off, and their files removed.
//! 4. After an unclean stop, or without an index, the blob tree is walked: entries without a whole
//!    file are dropped, files without an entry are removed, or taken in again after hashing them.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};

use super::catalog::{Catalog, Item, Loaded};
use super::clock::Clock;
use super::files::{Files, disk_bytes, remove_if_there};
use super::gate::Gate;
use super::kept::Keeping;
use super::lag::EpochAge;
use super::maintenance::{Maintenance, has_index_room, sync_files};
use super::map::{Found, Map, Place};
use super::packs::{Closing, PACK_HEADER, Pack, Packs, VERSION, Written, pack_id, read_pack_header};
use super::policy::Watermarks;
use super::record::{self, Key, Kind, Magic, is_lost, record_len};
use super::space::{Space, Work};
use super::state::{State, StateFile};
use super::store::{Counters, Store};
use super::sums::{PIECE, SumsBuilder};
use super::{DiskConfig, OpenError, RebuildProgress, directory};
use crate::cas::entry::Standing;
use crate::digest::{Digest, Hasher};
use crate::index::IndexError;

/// Name of the file that is given up when the disk is full.
pub(super) const RESERVE: &str = "reserve";

/// Share of the lease below which uses are not noted one by one.
const GRAINS: u32 = 64;

/// Bytes scanned between two reports.
const REPORT: u64 = 32 << 20;

/// A store ready to run.
pub(super) struct Opened {
    pub(super) maintenance: Maintenance,
    /// Holds the directory for this process.
    pub(super) lock: File,
}

/// Opens the store.
pub(super) fn open(config: DiskConfig, progress: &dyn Fn(RebuildProgress)) -> Result<Opened, OpenError> {
    let root = config.directory.clone();
    let lock = directory::take(&root)?;
    let magic = directory::check_format(&root)?;
    let state_path = root.join("STATE");
    let (state_file, state) =
        StateFile::open(&state_path).map_err(|error| OpenError::io(&state_path, error))?;
    let files = Files::open(&root).map_err(|error| OpenError::io(&root, error))?;
    let packs = find_packs(&root.join("packs"))?;
    let facts = Facts::new(state, &config);
    let (recovery, catalog) = Recovery::run(&config, magic, facts, packs, &files, progress)?;
    let maintenance = recovery.into_maintenance(config, magic, files, catalog, state_file)?;
    Ok(Opened { maintenance, lock })
}

fn find_packs(directory: &Path) -> Result<BTreeMap<u32, Pack>, OpenError> {
    let failed = |error| OpenError::io(directory, error);
    std::fs::create_dir_all(directory).map_err(failed)?;
    let mut packs = BTreeMap::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let Some(id) = path.file_name().and_then(|name| name.to_str()).and_then(pack_id) else { continue };
        let opened = File::options().read(true).write(true).open(&path);
        let file = opened.map_err(|error| OpenError::io(&path, error))?;
        // Its records count without its head.
        let header =
            read_pack_header(&file).or_else(|error| if is_lost(&error) { Ok(None) } else { Err(error) });
        let header = header.map_err(|error| OpenError::io(&path, error))?;
        if let Some((found, _)) = header.filter(|(version, _)| *version > VERSION) {
            return Err(OpenError::Newer { path, found, known: VERSION });
        }
        let end = file.metadata().map_err(|error| OpenError::io(&path, error))?.len();
        if end < PACK_HEADER {
            remove_if_there(&path).map_err(|error| OpenError::io(&path, error))?;
            continue;
        }
        packs.insert(id, Pack::new(id, file, path, end));
    }
    Ok(packs)
}

/// What `STATE` says of the last stop.
#[derive(Clone, Copy)]
struct Facts {
    closed: u64,
    /// The machine was booted since, and the stop was not clean.
    rebooted: bool,
    /// Commits the index had seen at a clean stop.
    clean: Option<u64>,
}

/// A recovery under way.
struct Recovery {
    magic: Magic,
    facts: Facts,
    /// The latest time any entry knows.
    latest: Option<u32>,
    packs: BTreeMap<u32, Pack>,
    map: Map,
    tail: Tail,
    /// The index knew nothing, though there was something to know.
    rebuilt: bool,
    next_pack: u32,
    /// Files without an entry, to be hashed.
    orphans: Vec<Digest>,
}

/// What the index does not know yet.
#[derive(Default)]
struct Tail {
    written: Vec<Written>,
    dead: Vec<Place>,
    /// Packs with records the index does not know.
    packs: Vec<u32>,
    /// Packs the index speaks of that are gone.
    gone: Vec<u32>,
    /// Large blobs whose files may not have been synced.
    unsynced: Vec<Key>,
    last_epoch: u64,
}

/// How far a scan of packs is.
struct Scanned<'a> {
    report: &'a dyn Fn(RebuildProgress),
    now: RebuildProgress,
    reported: u64,
}

// === impl Facts ===

impl Facts {
    fn new(state: Option<State>, config: &DiskConfig) -> Self {
        let state =
            state.unwrap_or_else(|| State { boot_id: config.host.boot_id.clone(), ..State::default() });
        Self {
            closed: state.closed,
            rebooted: !state.clean && state.boot_id != config.host.boot_id,
            clean: state.clean.then_some(state.index_generation),
        }
    }
}

// === impl Scanned ===

impl Scanned<'_> {
    fn at(&mut self, done: u64) {
        self.now.done = done;
        if done >= self.reported + REPORT || done == self.now.total {
            self.reported = done;
            (self.report)(self.now);
        }
    }
}

// === finding what counts ===

impl Recovery {
    fn run(
        config: &DiskConfig,
        magic: Magic,
        facts: Facts,
        packs: BTreeMap<u32, Pack>,
        files: &Files,
        progress: &dyn Fn(RebuildProgress),
    ) -> Result<(Self, Catalog), OpenError> {
        let mut recovery = Self {
            magic,
            facts,
            latest: None,
            packs,
            map: new_map(config),
            tail: Tail::default(),
            rebuilt: false,
            next_pack: 0,
            orphans: Vec::new(),
        };
        let (catalog, loaded) = recovery.load(config)?;
        let opened = catalog.index().map(crate::index::Index::opened);
        recovery.rebuilt = !recovery.packs.is_empty() && opened.is_none_or(|opened| opened.fresh);
        if recovery.rebuilt {
            tracing::warn!("the index is lost: rebuilding it from the blobs");
        }
        recovery.scan_packs(&loaded, progress)?;
        let is_clean = facts.clean.is_some() && facts.clean == opened.map(|opened| opened.generation);
        if recovery.rebuilt || !is_clean {
            recovery.walk(files).map_err(|error| OpenError::io(&config.directory, error))?;
        }
        recovery.sync(files).map_err(|error| OpenError::io(&config.directory, error))?;
        Ok((recovery, catalog))
    }

    /// Fills the map from the index. A damaged index is replaced by an empty one; where no index can
    /// be had, as on a full disk, the store runs without one.
    fn load(&mut self, config: &DiskConfig) -> Result<(Catalog, Loaded), OpenError> {
        let path = config.directory.join("index");
        // The engine does not open on a full disk: this is what the reserve is for.
        let reserve = config.directory.join(RESERVE);
        if !has_index_room(&config.directory) {
            remove_if_there(&reserve).map_err(|error| OpenError::io(&reserve, error))?;
        }
        if !has_index_room(&config.directory) {
            tracing::error!("the disk is full: running without an index");
            return Ok((Catalog::without_index(&path, config.index_cache), Loaded::default()));
        }
        let error = match self.try_load(config, &path) {
            Ok(loaded) => return Ok(loaded),
            Err(error) => error,
        };
        if let IndexError::Newer { path, found } = error {
            return Err(OpenError::Newer { path, found: found.into(), known: VERSION });
        }
        tracing::warn!(%error, "the index is moved aside");
        crate::index::set_aside(&path).map_err(|error| OpenError::io(&path, error))?;
        self.try_load(config, &path).or_else(|error| {
            tracing::error!(%error, "running without an index");
            self.forget_loaded(config);
            Ok((Catalog::without_index(&path, config.index_cache), Loaded::default()))
        })
    }

    fn try_load(&mut self, config: &DiskConfig, path: &Path) -> Result<(Catalog, Loaded), IndexError> {
        self.forget_loaded(config);
        let mut catalog = Catalog::open(path, config.index_cache)?;
        let loaded = self.fill(&mut catalog)?;
        Ok((catalog, loaded))
    }

    fn forget_loaded(&mut self, config: &DiskConfig) {
        self.map = new_map(config);
        self.tail = Tail::default();
        self.latest = None;
        self.next_pack = 0;
    }

    fn fill(&mut self, catalog: &mut Catalog) -> Result<Loaded, IndexError> {
        self.map.reserve(catalog.expected_entries());
        let (packs, map, tail) = (&self.packs, &self.map, &mut self.tail);
        let latest = Cell::new(self.latest);
        let entry = |item: Item| {
            let place = item.found.place;
            let end = u64::from(place.offset) + record_len(item.found.length);
            if packs.get(&place.pack).is_none_or(|pack| end > pack.end()) {
                tail.dead.push(place);
                return;
            }
            latest.set(latest.get().max(Some(item.found.last_use)));
            tail.dead.extend(map.insert(item.key, &item.found).map(|old| old.place));
        };
        let used = |key: &Key, time| {
            latest.set(latest.get().max(Some(time)));
            map.restore_use(key, time);
        };
        let loaded = catalog.load(entry, used)?;
        self.latest = latest.get();
        tail.gone = catalog.packs().filter(|id| !packs.contains_key(id)).collect();
        self.next_pack = loaded.last_pack + 1;
        Ok(loaded)
    }

    /// Reads what lies behind the checkpoints.
    fn scan_packs(&mut self, loaded: &Loaded, progress: &dyn Fn(RebuildProgress)) -> Result<(), OpenError> {
        let from = |pack: &Pack| loaded.ends.get(&pack.id).copied().unwrap_or(PACK_HEADER).min(pack.end());
        let total: u64 = self.packs.values().map(|pack| pack.end() - from(pack)).sum();
        let quiet = |_| {};
        let report: &dyn Fn(RebuildProgress) = if self.rebuilt || total > REPORT { progress } else { &quiet };
        let now = RebuildProgress { done: 0, total, entries: 0 };
        let mut scanned = Scanned { report, now, reported: 0 };
        for pack in std::mem::take(&mut self.packs).into_values() {
            let from = from(&pack);
            self.scan_pack(&pack, from, &mut scanned).map_err(|error| OpenError::io(&pack.path, error))?;
            self.next_pack = self.next_pack.max(pack.id + 1);
            self.packs.insert(pack.id, pack);
        }
        Ok(())
    }

    fn scan_pack(&mut self, pack: &Pack, from: u64, scanned: &mut Scanned<'_>) -> io::Result<()> {
        let end = pack.end();
        if from == end {
            return Ok(());
        }
        self.tail.packs.push(pack.id);
        let (start, mut kept) = (scanned.now.done, from);
        record::scan(&pack.file, &self.magic.clone(), from, end, |offset, header| {
            let place = Place { pack: pack.id, offset: offset as u32 };
            self.tail.last_epoch = self.tail.last_epoch.max(header.epoch);
            if !self.facts.rebooted || header.epoch <= self.facts.closed {
                self.take(Written { place, header: *header });
                kept = offset + header.record_len();
                scanned.now.entries += 1;
            }
            scanned.at(start + offset - from);
            Ok::<(), io::Error>(())
        })?;
        scanned.at(start + end - from);
        if kept < end { pack.truncate(kept) } else { Ok(()) }
    }

    fn take(&mut self, written: Written) {
        let header = &written.header;
        let found = Found {
            place: written.place,
            length: header.length,
            kind: header.kind,
            twin: false,
            standing: Standing::Sole,
            last_use: header.written,
        };
        self.latest = self.latest.max(Some(header.written));
        let old = self.map.insert(header.key, &found);
        if header.kind == Kind::Note && header.epoch > self.facts.closed {
            self.tail.unsynced.push(header.key);
        }
        if !self.rebuilt {
            self.tail.dead.extend(old.map(|old| old.place));
            self.tail.written.push(written);
        }
    }

    /// Compares the entries of large blobs with the files.
    fn walk(&mut self, files: &Files) -> io::Result<()> {
        let mut seen: HashMap<Key, bool> = HashMap::new();
        let mut twins = Vec::new();
        files.walk(|path, name| {
            let key = Key::from(&name.digest);
            let entry = self.map.peek(&key).filter(|found| found.kind == Kind::Note);
            let is_whole = std::fs::metadata(path).is_ok_and(|meta| meta.len() == name.digest.size());
            match (entry, name.is_twin) {
                // Twins are never synced, and made again in a moment.
                (Some(_), true) if is_whole && !self.facts.rebooted => twins.push(key),
                (Some(_), false) if is_whole => {
                    seen.insert(key, true);
                }
                (None, false) if is_whole && (self.rebuilt || !self.facts.rebooted) => {
                    self.orphans.push(name.digest);
                }
                _ => remove(path),
            }
            Ok::<(), io::Error>(())
        })?;
        let mut lost = Vec::new();
        self.map.for_each(|key, found| {
            if found.kind == Kind::Note && !seen.contains_key(key) {
                lost.push(*key);
            }
        });
        for key in lost {
            self.tail.dead.extend(self.map.remove_if(&key, |_| true).map(|found| found.place));
            if let Some(digest) = key.digest() {
                [false, true].iter().for_each(|twin| remove(&files.path(&digest, *twin)));
            }
        }
        seen.keys().for_each(|key| {
            self.map.set_twin(key, false);
        });
        twins.iter().for_each(|key| {
            self.map.set_twin(key, true);
        });
        Ok(())
    }

    /// Makes durable what an earlier process wrote and did not sync any more: from here on its epochs
    /// count as closed.
    fn sync(&self, files: &Files) -> io::Result<()> {
        if self.facts.rebooted || self.tail.last_epoch <= self.facts.closed {
            return Ok(());
        }
        sync_files(files, self.tail.unsynced.iter().copied())?;
        for pack in self.tail.packs.iter().filter_map(|id| self.packs.get(id)) {
            pack.file.sync_data()?;
            if let Some(directory) = pack.path.parent() {
                File::open(directory)?.sync_all()?;
            }
        }
        Ok(())
    }
}

/// Removes a file that does not count. One that stays does no harm: it is looked at again at the next
/// start.
fn remove(path: &Path) {
    if let Err(error) = remove_if_there(path) {
        tracing::warn!(%error, path = %path.display(), "cannot remove a file that is of no use");
    }
}

fn new_map(config: &DiskConfig) -> Map {
    let lease = u32::try_from(config.lease.as_secs()).unwrap_or(u32::MAX);
    Map::new(lease / GRAINS)
}

// === putting the store together ===

impl Recovery {
    fn into_maintenance(
        self,
        config: DiskConfig,
        magic: Magic,
        files: Files,
        mut catalog: Catalog,
        mut state: StateFile,
    ) -> Result<Maintenance, OpenError> {
        let closed = self.facts.closed.max(self.tail.last_epoch);
        let boot_id = config.host.boot_id.clone();
        let dirty = State { closed, clean: false, index_generation: 0, boot_id };
        state.write(dirty).map_err(|error| OpenError::io(config.directory.join("STATE"), error))?;
        let held = self.count_bytes();
        let budget = config.budget.resolve(free_bytes(&config.directory), held + besides(&config, &catalog));
        let marks = Watermarks::new(budget, config.low_water, u64::from(config.pack_threshold));
        let space = Space::new(marks.limit);
        space.add(marks.reserve + held);
        let packs = self.packs.into_values().collect();
        let packs =
            Packs::new(config.directory.join("packs"), magic, marks.pack, packs, self.next_pack, closed + 1);
        let clock = Clock::resume(config.host.clone(), self.latest);
        let store = Arc::new(Store {
            config,
            clock,
            marks,
            map: self.map,
            packs,
            files,
            space,
            pins: Mutex::default(),
            keeping: Keeping::default(),
            closed: Gate::new(closed),
            epoch_age: EpochAge::now(),
            rounds: Gate::new(0),
            work: Work::new(),
            counters: Counters::default(),
            forgotten: Mutex::default(),
            vanished: Mutex::default(),
            last_cut: Mutex::default(),
            news: OnceLock::new(),
            stopped: AtomicBool::new(false),
        });
        store.load_kept();
        if !self.rebuilt {
            let ends = self.tail.packs.iter().filter_map(|id| store.packs.get(*id));
            let packs = ends.map(|pack| (pack.clone(), pack.end())).collect();
            let Tail { written, dead, gone, .. } = self.tail;
            catalog.stage(Closing { epoch: closed, written, dead, packs, ..Closing::default() });
            gone.into_iter().for_each(|pack| catalog.stage_drop(pack));
        }
        take_in(&self.orphans, &store)?;
        let mut maintenance = Maintenance::new(store, catalog, state);
        if self.rebuilt && maintenance.catalog.index().is_some() {
            maintenance.refill_index();
        }
        Ok(maintenance)
    }

    /// Counts the live bytes of each pack. Returns the bytes of disk used.
    fn count_bytes(&self) -> u64 {
        let first = self.packs.keys().next().copied().unwrap_or(0);
        let span = self.packs.keys().last().map_or(0, |last| (last - first + 1) as usize);
        let mut live = vec![0; span];
        let mut bytes: u64 = self.packs.values().map(|pack| pack.end() - PACK_HEADER).sum();
        self.map.for_each(|key, found| {
            if let Some(live) = found.place.pack.checked_sub(first).and_then(|at| live.get_mut(at as usize)) {
                *live += record_len(found.length);
            }
            if let (Kind::Note, Some(digest)) = (found.kind, key.digest()) {
                bytes += disk_bytes(digest.size()) * (1 + u64::from(found.twin));
            }
        });
        for pack in self.packs.values() {
            pack.add_live(live[(pack.id - first) as usize]);
        }
        bytes
    }
}

/// Takes files in that the index does not know: their bytes decide.
fn take_in(orphans: &[Digest], store: &Store) -> Result<(), OpenError> {
    for digest in orphans {
        let path = store.files.path(digest, false);
        match store.take_in_orphan(digest, &path) {
            Err(error) if is_lost(&error) => remove(&path),
            taken => taken.map_err(|error| OpenError::io(path, error))?,
        }
    }
    Ok(())
}

/// Bytes of disk that are left for this user; 0 where the system does not say.
pub(super) fn free_bytes(directory: &Path) -> u64 {
    rustix::fs::statvfs(directory).map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize))
}

/// Bytes of disk that a store holds besides its packs and blobs: index and reserve.
fn besides(config: &DiskConfig, catalog: &Catalog) -> u64 {
    let reserve = std::fs::metadata(config.directory.join(RESERVE)).map_or(0, |reserve| reserve.len());
    reserve + catalog.index().map_or(0, crate::index::Index::disk_bytes)
}

impl Store {
    /// A file of the right name and length without a note: hashed, it is as good as any.
    fn take_in_orphan(&self, digest: &Digest, path: &Path) -> io::Result<()> {
        let mut file = File::open(path)?;
        let (mut hasher, mut sums) = (Hasher::new(digest.function()), SumsBuilder::default());
        let mut buffer = vec![0; PIECE];
        loop {
            let n = file.read(&mut buffer)?;
            if n == 0 {
                break;
            }
            hasher.update(&buffer[..n]);
            sums.update(&buffer[..n]);
        }
        if hasher.finish() != *digest {
            tracing::warn!(%digest, "a file is not what its name says: it is removed");
            remove(path);
            return Ok(());
        }
        let (key, now, sums) = (Key::from(digest), self.now(), sums.finish());
        let mut appender = self.packs.appender();
        let place = appender.append(Kind::Note, key, now, sums.encode())?;
        let length = sums.encode().len() as u32;
        let (kind, standing) = (Kind::Note, Standing::Sole);
        let found = Found { place, length, kind, twin: false, standing, last_use: now };
        if let Some(part) = self.map.insert(key, &found) {
            appender.bury(part.place, part.length);
        }
        drop(appender);
        self.space.add(disk_bytes(digest.size()) + record_len(length));
        Ok(())
    }
}
