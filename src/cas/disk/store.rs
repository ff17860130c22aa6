//! The store behind [`DiskCas`](super::DiskCas): what all its parts share, and every change of a
//! single entry. Calls here may wait for the disk unless they say otherwise.
//!
//! Order of locks: the files of a digest, then the tail of the packs, then a shard of the map.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;

use super::DiskConfig;
use super::clock::Clock;
use super::files::{Files, TempFile, disk_bytes};
use super::gate::Gate;
use super::kept::Keeping;
use super::lag::{self, EpochAge};
use super::large::Large;
use super::map::{Found, LargeFile, Map, Place, Use};
use super::news::{Origin, StoreNews};
use super::packs::{Appender, Packs, Wait};
use super::policy::{Cut, Watermarks};
use super::record::{Key, Kind, is_lost, record_len};
use super::space::{Reservation, Space, Work};
use super::sums::Sums;
use super::vanished::Vanished;
use crate::cas::CasError;
use crate::digest::{Digest, Hasher};

/// How often a read is tried again because its record was moved meanwhile.
const RETRIES: usize = 5;

/// How often an appender asks for the tail before it lets another thread wait for it.
const SPINS: usize = 200;

/// Eviction rounds a writer waits for.
const ROUNDS: usize = 3;

/// Mode of the file of a blob, and of its twin.
const BLOB_MODE: u32 = 0o444;
const TWIN_MODE: u32 = 0o555;

/// Everything the parts of a store share.
pub(super) struct Store {
    pub(super) config: DiskConfig,
    pub(super) clock: Clock,
    pub(super) marks: Watermarks,
    pub(super) map: Map,
    pub(super) packs: Packs,
    pub(super) files: Files,
    pub(super) space: Arc<Space>,
    pub(super) pins: Mutex<PinTable>,
    pub(super) keeping: Keeping,
    /// The last epoch that is on the disk.
    pub(super) closed: Gate,
    /// How long the open epoch has been growing.
    pub(super) epoch_age: EpochAge,
    /// The last eviction round that ended.
    pub(super) rounds: Gate,
    pub(super) work: Work,
    pub(super) counters: Counters,
    /// Large blobs that left the map while the index may still know them, by the epoch they left in.
    pub(super) forgotten: Mutex<HashMap<Key, u64>>,
    /// What left not long ago.
    pub(super) vanished: Mutex<Vanished>,
    /// What went in the last eviction.
    pub(super) last_cut: Mutex<Option<Cut>>,
    pub(super) news: OnceLock<Arc<dyn StoreNews>>,
    pub(super) stopped: AtomicBool,
}

/// Keys kept from eviction, by the number of their guard.
#[derive(Default)]
pub(super) struct PinTable {
    pub(super) pinned: HashMap<u64, Arc<[Key]>>,
    /// Numbers of those that a person keeps, by the hash of the action result.
    pub(super) kept: HashMap<[u8; 32], u64>,
    next: u64,
}

/// Numbers for status and dashboard.
#[derive(Default)]
pub(super) struct Counters {
    /// Grows whenever a blob vanishes.
    pub(super) generation: AtomicU64,
    pub(super) evicted: AtomicU64,
    pub(super) evicted_bytes: AtomicU64,
    pub(super) corrupt: AtomicU64,
    /// Seconds since its last use of the youngest entry ever evicted, plus one; 0 for none.
    pub(super) youngest_victim: AtomicU32,
    /// Bytes that could not be evicted at the last full round.
    pub(super) leased: AtomicU64,
    pub(super) index_bytes: AtomicU64,
    /// Shards that the scrub has been through in this pass.
    pub(super) scrubbed_shards: AtomicU64,
    pub(super) scrub_passes: AtomicU64,
}

/// Where a small read ended.
pub(super) enum Lookup {
    /// The bytes, checked.
    Data(Bytes),
    /// They are not in the page cache.
    WouldWait,
    /// The blob has a file of its own.
    Large(Found),
    /// The blob is a part of another one.
    Part(Found),
}

/// The guard behind `Pins`.
pub(super) struct PinGuard {
    store: Arc<Store>,
    number: u64,
}

impl PinTable {
    /// Keeps `keys` from eviction; the number to remove them by.
    pub(super) fn insert(&mut self, keys: Arc<[Key]>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.pinned.insert(number, keys);
        number
    }
}

impl Drop for PinGuard {
    fn drop(&mut self) {
        lock(&self.store.pins).pinned.remove(&self.number);
    }
}

/// Locks, whatever happened to an earlier holder: every critical section here leaves whole data.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === room and durability ===

impl Store {
    pub(super) fn now(&self) -> u32 {
        self.clock.now()
    }

    /// The largest blob that is taken.
    pub(super) fn blob_limit(&self) -> u64 {
        self.config.max_blob_size.min(self.marks.limit.saturating_sub(self.marks.reserve))
    }

    pub(super) fn check_size(&self, digest: &Digest) -> Result<(), CasError> {
        let limit = self.blob_limit();
        if digest.size() > limit {
            return Err(CasError::TooLarge { digest: *digest, limit });
        }
        Ok(())
    }

    /// Bytes of disk a blob takes, the record included.
    pub(super) fn cost(&self, digest: &Digest) -> u64 {
        if self.is_small(digest.size()) {
            record_len(digest.size() as u32)
        } else {
            disk_bytes(digest.size())
        }
    }

    pub(super) fn is_small(&self, size: u64) -> bool {
        size <= u64::from(self.config.pack_threshold)
    }

    /// Promises room for `bytes`, waiting for eviction if need be.
    pub(super) async fn admit(&self, bytes: u64) -> Result<Reservation, CasError> {
        for _ in 0..ROUNDS {
            if let Some(reservation) = self.space.reserve(bytes) {
                return Ok(reservation);
            }
            let round = self.work.request_room(bytes);
            self.rounds.reached(round).await.map_err(|_| self.is_closed_error())?;
        }
        self.space.reserve(bytes).ok_or_else(|| self.no_space(bytes))
    }

    /// As [`admit`](Self::admit), blocking the thread.
    pub(super) fn admit_blocking(&self, bytes: u64) -> Result<Reservation, CasError> {
        for _ in 0..ROUNDS {
            if let Some(reservation) = self.space.reserve(bytes) {
                return Ok(reservation);
            }
            let round = self.work.request_room(bytes);
            self.rounds.wait(round).map_err(|_| self.is_closed_error())?;
        }
        self.space.reserve(bytes).ok_or_else(|| self.no_space(bytes))
    }

    fn no_space(&self, wanted: u64) -> CasError {
        let leased = self.counters.leased.load(Ordering::Relaxed);
        let lease = humantime::format_duration(self.config.lease);
        let reason = format!(
            "{} of {} bytes are taken, {leased} of them by blobs pinned or used in the last {lease}; \
             raise disk-budget or shorten lease",
            self.space.used(),
            self.space.limit(),
        );
        CasError::NoSpace { wanted, reason }
    }

    /// Waits until what was written in `epoch` may be acknowledged.
    pub(super) async fn settle(&self, epoch: u64) -> Result<(), CasError> {
        if let Some(awaited) = self.awaited(epoch) {
            self.work.request_close();
            self.closed.reached(awaited).await.map_err(|_| self.is_closed_error())?;
        }
        Ok(())
    }

    /// As [`settle`](Self::settle), blocking the thread.
    pub(super) fn settle_blocking(&self, epoch: u64) -> Result<(), CasError> {
        if let Some(awaited) = self.awaited(epoch) {
            self.work.request_close();
            self.closed.wait(awaited).map_err(|_| self.is_closed_error())?;
        }
        Ok(())
    }

    /// The epoch that has to be closed first, if it is not.
    fn awaited(&self, epoch: u64) -> Option<u64> {
        let interval = self.config.epoch_interval;
        let awaited = lag::awaited(self.config.sync, epoch, self.epoch_age.elapsed(), interval)?;
        (self.closed.value() < awaited).then_some(awaited)
    }

    fn is_closed_error(&self) -> CasError {
        let source = io::Error::other("the store is closed, or its disk failed");
        CasError::Io { path: self.config.directory.clone(), source }
    }

    fn check_open(&self) -> Result<(), CasError> {
        if self.stopped.load(Ordering::Acquire) { Err(self.is_closed_error()) } else { Ok(()) }
    }

    fn pack_error(&self, error: io::Error) -> CasError {
        CasError::io(self.packs.directory(), error)
    }
}

// === writing ===

impl Store {
    /// Appends to the packs on this thread, in microseconds, unless somebody else is about it: he may
    /// be waiting for a disk that stands still, and then this is done where waiting is allowed.
    pub(super) async fn append<T: Send + 'static>(
        self: &Arc<Self>,
        append: impl FnOnce(&Self, Appender<'_>) -> Result<T, CasError> + Send + 'static,
    ) -> Result<T, CasError> {
        for _ in 0..SPINS {
            if let Some(appender) = self.packs.try_appender() {
                return append(self, appender);
            }
            std::hint::spin_loop();
        }
        let store = Arc::clone(self);
        let appended = tokio::task::spawn_blocking(move || append(&store, store.packs.appender())).await;
        appended.map_err(|error| self.pack_error(error.into()))?
    }

    /// Puts a small, verified blob into a pack, unless it is there. Returns the epoch to settle.
    pub(super) fn append_blob(
        &self,
        mut appender: Appender<'_>,
        digest: &Digest,
        data: &[u8],
        reservation: Reservation,
        origin: Origin,
    ) -> Result<u64, CasError> {
        let (key, last_use) = (Key::from(digest), origin.last_use(self.now()));
        self.check_open()?;
        if self.is_whole(&key, last_use, origin) {
            let epoch = appender.last_written_epoch();
            drop(appender);
            self.claim(&key, digest.size(), origin);
            return Ok(epoch);
        }
        let place =
            appender.append(Kind::Blob, key, last_use, data).map_err(|error| self.pack_error(error))?;
        let entry = new_entry(place, data.len() as u32, Kind::Blob, last_use, origin);
        if let Some(part) = self.map.insert(key, &entry) {
            appender.bury(part.place, part.length);
        }
        let epoch = appender.epoch();
        drop(appender);
        reservation.keep();
        self.work.mark_dirty();
        self.tell_stored(&key, digest.size(), origin);
        Ok(epoch)
    }

    /// Puts an action result into a pack, in place of an earlier one, unless that is at `same`, where
    /// these very bytes are known to be. Returns its place and the epoch to settle.
    pub(super) fn append_action(
        &self,
        mut appender: Appender<'_>,
        key: Key,
        (data, same): (&[u8], Option<Place>),
        reservation: Reservation,
        origin: Origin,
    ) -> Result<(Place, u64), CasError> {
        let last_use = origin.last_use(self.now());
        self.check_open()?;
        if let Some(place) = same
            && self.map.look(&key, last_use, origin.using()).is_some_and(|found| found.place == place)
        {
            return Ok((place, appender.last_written_epoch()));
        }
        let place =
            appender.append(Kind::Action, key, last_use, data).map_err(|error| self.pack_error(error))?;
        let entry = new_entry(place, data.len() as u32, Kind::Action, last_use, origin);
        if let Some(old) = self.map.insert(key, &entry) {
            appender.bury(old.place, old.length);
        }
        let epoch = appender.epoch();
        drop(appender);
        reservation.keep();
        self.work.mark_dirty();
        self.tell_stored(&key, data.len() as u64, origin);
        Ok((place, epoch))
    }

    /// Where the result under `key` is, if it is known to be these very bytes.
    pub(super) fn same_action(&self, key: &Key, data: &[u8], wait: Wait) -> Option<Place> {
        let found = self.map.peek(key).filter(|found| found.length as usize == data.len())?;
        let stored = self.read_action(key, &found, wait)??;
        (stored == data).then_some(found.place)
    }

    /// Whether a blob is there with bytes of its own; its life is renewed then.
    fn is_whole(&self, key: &Key, last_use: u32, origin: Origin) -> bool {
        self.map.look(key, last_use, origin.using()).is_some_and(|found| found.kind != Kind::Part)
    }

    /// Gives a verified temporary file its name and notes it, unless the blob is there. Returns the
    /// epoch to settle.
    pub(super) fn install(
        &self,
        digest: &Digest,
        temp: TempFile,
        sums: &Sums,
        reservation: Reservation,
        origin: Origin,
    ) -> Result<u64, CasError> {
        let (key, last_use) = (Key::from(digest), origin.last_use(self.now()));
        let files = self.files.lock(digest);
        self.check_open()?;
        if self.is_whole(&key, last_use, origin) {
            drop(files);
            self.claim(&key, digest.size(), origin);
            return Ok(self.packs.appender().last_written_epoch());
        }
        let path = self.files.path(digest, false);
        let failed = |error| CasError::io(&path, error);
        if lock(&self.forgotten).contains_key(&key) {
            // The index may still hold the entry of an earlier file of this name, as one that is on
            // the disk: after a power loss this one would be taken for it.
            temp.file.sync_data().map_err(failed)?;
        }
        temp.persist(&path, BLOB_MODE).map_err(failed)?;
        let mut appender = self.packs.appender();
        let place = match appender.append(Kind::Note, key, last_use, sums.encode()) {
            Ok(place) => place,
            Err(error) => {
                drop(appender);
                // Without a note it would be an orphan: the next start removes what is left here.
                let _ = self.files.remove(digest);
                return Err(self.pack_error(error));
            }
        };
        let length = sums.encode().len() as u32;
        if let Some(part) = self.map.insert(key, &new_entry(place, length, Kind::Note, last_use, origin)) {
            appender.bury(part.place, part.length);
        }
        self.map.set_right(&key, LargeFile::Plain);
        let epoch = appender.epoch();
        drop((appender, files));
        reservation.keep();
        self.space.add(record_len(length));
        self.work.mark_dirty();
        self.tell_stored(&key, digest.size(), origin);
        Ok(epoch)
    }

    /// Makes the executable twin of a large blob.
    pub(super) fn make_twin(&self, digest: &Digest, found: &Found) -> Result<PathBuf, CasError> {
        let twin = self.files.path(digest, true);
        if found.twin && self.is_twin_right(digest, found, &twin) {
            return Ok(twin);
        }
        let reservation = self.admit_blocking(disk_bytes(digest.size()))?;
        // Before the files are locked: what turns out to be damaged is dropped, which locks them too.
        let large = self.open_large(digest, found)?;
        let temp = self.files.temporary().map_err(|(path, error)| CasError::io(path, error))?;
        large.copy_to(&temp.file).map_err(|error| self.copy_error(digest, &twin, error))?;
        let key = Key::from(digest);
        let _files = self.files.lock(digest);
        let found = self.map.peek(&key).ok_or(CasError::NotFound(*digest))?;
        temp.persist(&twin, TWIN_MODE).map_err(|error| CasError::io(&twin, error))?;
        let mut appender = self.packs.appender();
        if self.map.set_twin(&key, true) {
            appender.mark_stale(found.place);
            reservation.keep();
        }
        drop(appender);
        self.map.set_right(&key, LargeFile::Twin);
        self.work.mark_dirty();
        Ok(twin)
    }

    /// Why a large blob could not be copied to `target`. Damage makes it absent.
    fn copy_error(&self, digest: &Digest, target: &Path, error: io::Error) -> CasError {
        if is_damage(&error) {
            self.drop_large_piece(digest, &error);
            return CasError::NotFound(*digest);
        }
        CasError::io(target, error)
    }

    /// Whether the twin is whole; its content is looked at once after each start.
    fn is_twin_right(&self, digest: &Digest, found: &Found, twin: &Path) -> bool {
        let key = Key::from(digest);
        if !std::fs::metadata(twin).is_ok_and(|meta| meta.len() == digest.size()) {
            return false;
        }
        let is_right = || {
            let large = self.open_large(digest, found).ok()?;
            large.is_same(File::open(twin).ok()?).then(|| self.map.set_right(&key, LargeFile::Twin))
        };
        self.map.is_right(&key, LargeFile::Twin) || is_right().is_some()
    }
}

// === reading ===

impl Store {
    /// The bytes of a blob that is in a pack, checked against its digest at every read.
    pub(super) fn read_small(&self, digest: &Digest, wait: Wait, using: Use) -> Result<Lookup, CasError> {
        let key = Key::from(digest);
        for _ in 0..RETRIES {
            let found = self.map.look(&key, self.now(), using).ok_or(CasError::NotFound(*digest))?;
            match found.kind {
                Kind::Note => return Ok(Lookup::Large(found)),
                Kind::Part => return Ok(Lookup::Part(found)),
                Kind::Blob | Kind::Action => {}
            }
            match self.packs.read_data(found.place, found.length, wait) {
                Ok(Some(data)) if Digest::of(digest.function(), &data) == *digest => {
                    return Ok(Lookup::Data(data));
                }
                Ok(None) => return Ok(Lookup::WouldWait),
                Ok(Some(_)) => self.drop_corrupt(&key, found.place),
                Err(error) if is_damage(&error) => self.drop_unreadable(&key, found.place, &error),
                Err(error) => return Err(self.pack_error(error)),
            }
        }
        Err(CasError::NotFound(*digest))
    }

    /// The bytes of a blob that is in a pack and in the page cache, if the checksum of its record holds; its
    /// life is what it was.
    pub(super) fn peek_packed(&self, digest: &Digest) -> Option<Bytes> {
        let key = Key::from(digest);
        let found = self.map.peek(&key).filter(|found| found.kind == Kind::Blob)?;
        self.packs.read_checked(found.place, &key, found.length, Wait::No).ok()?
    }

    /// The data of an action result; `None` if there is none. Where `wait` forbids waiting for the
    /// disk, `Some(None)` says that it would have to.
    pub(super) fn read_action(&self, key: &Key, found: &Found, wait: Wait) -> Option<Option<Bytes>> {
        match self.packs.read_checked(found.place, key, found.length, wait) {
            Ok(data) => Some(data),
            Err(error) => {
                self.drop_unreadable(key, found.place, &error);
                None
            }
        }
    }

    /// Opens a large blob. What is not whole is dropped.
    pub(super) fn open_large(&self, digest: &Digest, found: &Found) -> Result<Large, CasError> {
        let (key, mut found) = (Key::from(digest), *found);
        for _ in 0..RETRIES {
            match self.try_open_large(digest, &key, &found) {
                Ok(large) => return Ok(large),
                Err(error) if is_damage(&error) => self.drop_unreadable(&key, found.place, &error),
                Err(error) => return Err(CasError::io(self.files.path(digest, false), error)),
            }
            found = self.map.peek(&key).ok_or(CasError::NotFound(*digest))?;
        }
        Err(CasError::NotFound(*digest))
    }

    fn try_open_large(&self, digest: &Digest, key: &Key, found: &Found) -> io::Result<Large> {
        let note = self.packs.read_checked(found.place, key, found.length, Wait::Yes)?;
        let sums = note.and_then(|note| Sums::decode(note.into(), digest.size()));
        let sums = sums.ok_or(io::ErrorKind::InvalidData)?;
        let file = File::open(self.files.path(digest, false))?;
        if file.metadata()?.len() != digest.size() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Large::new(file, sums, digest.size()))
    }

    /// The whole blob, wherever it is.
    pub(super) fn load(&self, digest: &Digest, using: Use) -> Result<Bytes, CasError> {
        match self.read_small(digest, Wait::Yes, using)? {
            Lookup::Data(data) => Ok(data),
            Lookup::WouldWait => Err(CasError::NotFound(*digest)),
            Lookup::Part(found) => self.load_part(digest, &found, using),
            Lookup::Large(found) => {
                let mut data = Vec::with_capacity(digest.size() as usize);
                self.each_piece(digest, &found, |piece| data.extend_from_slice(piece))?;
                Ok(data.into())
            }
        }
    }

    /// Reads a large blob piece by piece; damage makes it absent.
    pub(super) fn each_piece(
        &self,
        digest: &Digest,
        found: &Found,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), CasError> {
        let large = self.open_large(digest, found)?;
        for piece in 0..large.pieces() {
            match large.read(piece) {
                Ok(bytes) => take(&bytes),
                Err(error) => {
                    self.drop_large_piece(digest, &error);
                    return Err(CasError::NotFound(*digest));
                }
            }
        }
        Ok(())
    }
}

// === checking ===

impl Store {
    /// Whether the disk has more to do than it can.
    pub(super) fn is_behind(&self) -> bool {
        self.epoch_age.elapsed() > self.config.epoch_interval * 2 && self.packs.oldest_unsynced().is_some()
    }

    /// Reads an entry whole and drops it if it is damaged; its last use stays what it was. Returns the
    /// bytes read.
    pub(super) fn check(&self, key: &Key) -> u64 {
        let Some(found) = self.map.peek(key) else { return 0 };
        let checked = match (key.digest(), found.kind) {
            // Its bytes are those of another blob.
            (Some(digest), Kind::Part) => {
                self.stretch(&digest, &found, Use::Nobody);
                Ok(())
            }
            (Some(digest), Kind::Note) => self.check_large(&digest, key, &found),
            (digest, _) => self.check_record(digest.as_ref(), key, &found),
        };
        if let Err(error) = &checked {
            self.drop_unreadable(key, found.place, error);
        }
        record_len(found.length) + key.digest().filter(|_| found.kind == Kind::Note).map_or(0, |d| d.size())
    }

    fn check_record(&self, digest: Option<&Digest>, key: &Key, found: &Found) -> io::Result<()> {
        let data = self.packs.read_checked(found.place, key, found.length, Wait::Yes)?;
        let is_right = match (digest, data) {
            (Some(digest), Some(data)) => Digest::of(digest.function(), &data) == *digest,
            (None, data) => data.is_some(),
            (_, None) => false,
        };
        if is_right { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    fn check_large(&self, digest: &Digest, key: &Key, found: &Found) -> io::Result<()> {
        let large = self.try_open_large(digest, key, found)?;
        let mut hasher = Hasher::new(digest.function());
        for piece in 0..large.pieces() {
            if self.stopped.load(Ordering::Acquire) {
                return Ok(());
            }
            hasher.update(&large.read(piece)?);
        }
        if hasher.finish() == *digest { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

// === removing ===

impl Store {
    /// Removes the entry if `still` says so of it, with its file if it has one. Returns the entry.
    pub(super) fn remove(&self, key: &Key, still: impl FnOnce(&Found) -> bool) -> Option<Found> {
        let digest = key.digest().filter(|digest| !self.is_packed(key, digest));
        let files = digest.as_ref().map(|digest| self.files.lock(digest));
        let found = self.map.remove_if(key, still)?;
        let mut appender = self.packs.appender();
        appender.bury(found.place, found.length);
        let epoch = appender.epoch();
        drop(appender);
        if let Some(digest) = key.digest() {
            self.counters.generation.fetch_add(1, Ordering::AcqRel);
            if found.kind == Kind::Note {
                lock(&self.forgotten).insert(*key, epoch);
                if let Err(error) = self.files.remove(&digest) {
                    tracing::warn!(%digest, %error, "cannot remove the file of a blob");
                }
                self.space.remove(disk_bytes(digest.size()) * (1 + u64::from(found.twin)));
            }
        }
        drop(files);
        self.work.mark_dirty();
        Some(found)
    }

    fn is_packed(&self, key: &Key, digest: &Digest) -> bool {
        self.map.peek(key).map_or(self.is_small(digest.size()), |found| found.kind != Kind::Note)
    }

    /// Drops an entry whose bytes on the disk are not its own, unless it has been moved or replaced
    /// since.
    pub(super) fn drop_corrupt(&self, key: &Key, place: Place) {
        if self.remove(key, |found| found.place == place).is_some() {
            self.counters.corrupt.fetch_add(1, Ordering::Relaxed);
            lock(&self.vanished).note(key, self.now(), true);
            match key.digest() {
                Some(digest) => tracing::error!(%digest, "stored bytes are damaged: the blob is dropped"),
                None => tracing::error!("stored bytes of an action result are damaged: it is dropped"),
            }
            self.tell_damaged(key);
        }
    }

    /// Drops an entry that could not be read, if that is for good.
    fn drop_unreadable(&self, key: &Key, place: Place, error: &io::Error) {
        tracing::debug!(%error, "a record cannot be read");
        if is_damage(error) {
            self.drop_corrupt(key, place);
        }
    }

    /// Drops a large blob of which a piece could not be read whole.
    pub(super) fn drop_large_piece(&self, digest: &Digest, error: &io::Error) {
        let key = Key::from(digest);
        if let Some(found) = self.map.peek(&key) {
            self.drop_unreadable(&key, found.place, error);
        }
    }

    /// Keeps `keys` from eviction until the guard is dropped, and renews their use.
    pub(super) fn pin(self: &Arc<Self>, keys: Arc<[Key]>) -> PinGuard {
        let now = self.now();
        let number = lock(&self.pins).insert(Arc::clone(&keys));
        for key in &*keys {
            self.map.touch(key, now);
        }
        PinGuard { store: self.clone(), number }
    }
}

/// An entry whose record was just written.
pub(super) fn new_entry(place: Place, length: u32, kind: Kind, last_use: u32, origin: Origin) -> Found {
    Found { place, length, kind, twin: false, standing: origin.standing(), last_use }
}

/// Whether an error of opening means that the bytes are lost, and not that the process lacks
/// something.
fn is_damage(error: &io::Error) -> bool {
    is_lost(error) || matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData)
}
