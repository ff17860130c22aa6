//! [`DiskCas`]: the store of this machine.
//!
//! What is on the disk, below one directory:
//! - `packs/`: append-only files with all blobs up to 32 KiB, a *note* for each larger one, and the
//!   action results. They are the log of truth (`packs`, `record`).
//! - `blobs/`: a file for each large blob, named by its digest (`files`, `large`).
//! - `index/`: what the map in memory is filled from at start (`catalog`, [`crate::index`]). It
//!   follows from the other two and is rebuilt when it is lost.
//! - `kept/`: what a person keeps from eviction (`kept`).
//! - `STATE`, `FORMAT`, `lock`, `reserve`, `tmp/`.
//!
//! What is promised:
//! - A blob is visible only after its hash and size were verified, and every byte read is checked
//!   again: small blobs by their digest, large ones piece by piece (`sums`). What fails is dropped.
//! - What was acknowledged survives the death of the process: records are complete in the page cache
//!   before anybody is told, and a start scans what the index does not know yet (`recovery`).
//! - Against power loss there are *epochs*: at most a second apart everything written is synced and
//!   the epoch is closed (`maintenance`); writers wait for a disk that cannot keep up (`lag`). After
//!   an unclean end of the machine, records of epochs that were not closed are dropped, so content is
//!   never wrong. With [`SyncMode::Always`] a write is acknowledged only when its epoch is closed;
//!   waiting writers share one sync.
//! - The disk budget holds for everything together. What is leased or pinned never goes; of the rest first
//!   what other machines have enough copies of, and of that the longest unused (`eviction`, `policy`).
//!
//! A blob may also be a stretch of a larger one, kept as a note of where it is (`parts`).
//!
//! What comes from other machines as a copy has a way in of its own (`others`, `copies`); an observer is told
//! of what is written here, used here or damaged (`news`).
//!
//! Whether a blob is there is answered by the `map` in memory alone. One thread does all maintenance,
//! another one reads everything now and then to find damage (`scrub`).
//! Reads and writes of small blobs happen on the caller's thread when the page cache has them:
//! they take microseconds.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use self::large::{LargeWriter, SmallWriter};
use self::map::Use;
use self::news::Origin;
use self::packs::{Appender, Wait};
use self::record::{Key, Kind, record_len};
use self::scrub::Scrub;
use self::space::Stop;
use self::store::{Lookup, Store, lock};
use super::entry::Standing;
use super::{BlobStream, BlobWriter, ByteRange, CasError, ContentAddressableStorage};
use crate::config::{DiskBudget, SyncMode};
use crate::digest::{BlobHash, Digest};

mod absent;
mod actions;
mod catalog;
mod clock;
mod copies;
mod directory;
mod eviction;
mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod gate;
mod kept;
mod lag;
mod large;
mod local;
mod maintenance;
mod map;
mod news;
mod others;
mod packs;
mod parts;
mod policy;
mod record;
mod recovery;
mod scrub;
mod space;
mod state;
mod store;
mod sums;
#[cfg(test)]
mod tests;
mod vanished;

pub(crate) use self::actions::ActionPlace;
pub(crate) use self::copies::StoredEntry;
pub(crate) use self::kept::KeepError;
pub use self::news::StoreNews;
pub use self::vanished::Departure;

/// How a store is set up.
#[derive(Clone, Debug)]
pub struct DiskConfig {
    /// The directory; made if it is not there.
    pub directory: PathBuf,
    /// Disk it may take in all: packs with their dead space, files, index. A share counts what the
    /// store holds by its own books when it opens.
    pub budget: DiskBudget,
    /// Percent of the budget that is left after an eviction.
    pub low_water: u8,
    /// How long nothing is evicted after its last use.
    pub lease: Duration,
    /// When writes are acknowledged.
    pub sync: SyncMode,
    /// The longest time between a write and its sync.
    pub epoch_interval: Duration,
    /// Time in which everything is read once to find damage; zero for never.
    pub scrub_interval: Duration,
    /// Bytes up to which blobs are kept in packs.
    pub pack_threshold: u32,
    /// Larger blobs are refused.
    pub max_blob_size: u64,
    /// Bytes of memory the index may use for its pages.
    pub index_cache: u64,
    /// Where time and boot come from.
    pub host: Host,
}

/// Clock and boot of the machine, replaceable in tests.
#[derive(Clone)]
pub struct Host {
    boot_id: String,
    now: Arc<dyn Fn() -> SystemTime + Send + Sync>,
}

/// How far a rebuild of the index is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RebuildProgress {
    /// Bytes read.
    pub done: u64,
    /// Bytes to read in all.
    pub total: u64,
    /// Entries found.
    pub entries: u64,
}

/// Why a store does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{} is in use by pid {pid}", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// The process, as it wrote it down.
        pid: String,
    },
    /// The directory cannot be written to.
    #[error("{} is read-only for this user: {source}", directory.display())]
    ReadOnly {
        /// The directory.
        directory: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A newer program wrote it; nothing was touched.
    #[error("{} was written by a newer version (format {found}, this program knows {known})", path.display())]
    Newer {
        /// What is too new.
        path: PathBuf,
        /// Format found.
        found: u32,
        /// Newest format known.
        known: u32,
    },
    /// A file that must be understood is not.
    #[error("{} is not what it should be: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The operating system failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Its words.
        source: io::Error,
    },
}

/// What a store takes, as in [`DiskStats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes used in all, those promised to running uploads included.
    pub used_bytes: u64,
    /// The budget.
    pub budget_bytes: u64,
    /// Blobs evicted since the start.
    pub evicted: u64,
}

/// Numbers for status and dashboard. Bytes are bytes of disk unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DiskStats {
    /// Blobs stored.
    pub blobs: u64,
    /// Their sizes in sum.
    pub blob_bytes: u64,
    /// Action results stored.
    pub actions: u64,
    /// Bytes of packs, dead ones included.
    pub pack_bytes: u64,
    /// Bytes in packs that nothing points at.
    pub dead_bytes: u64,
    /// Bytes of the index.
    pub index_bytes: u64,
    /// Bytes used in all, those promised to running uploads included.
    pub used_bytes: u64,
    /// The budget.
    pub budget_bytes: u64,
    /// Bytes that may not be evicted now: leased.
    pub leased_bytes: u64,
    /// Guards that pin blobs.
    pub pins: u64,
    /// Action results that a person keeps.
    pub kept: u64,
    /// Entries evicted since the start.
    pub evicted: u64,
    /// Their bytes.
    pub evicted_bytes: u64,
    /// Time since its last use of the youngest entry evicted since the start.
    pub youngest_victim: Option<Duration>,
    /// Entries dropped since the start because their bytes were damaged.
    pub corrupt: u64,
    /// Share of the entries that the scrub has been through in this pass, 0 to 1.
    pub scrub_progress: f64,
    /// Passes it ended since the start.
    pub scrub_passes: u64,
    /// Age of the oldest write that a power cut would take; `None` when everything is on the disk.
    pub unsynced: Option<Duration>,
    /// Grows whenever a blob vanishes.
    pub generation: u64,
    /// Entries that are perhaps the only ones: what would be lost with this machine.
    pub sole: Held,
    /// Entries that are one of as many copies as there should be.
    pub counted: Held,
    /// Entries of which others have as many copies as there should be.
    pub spare: Held,
}

/// Some of the entries of a store, blobs and action results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Their number.
    pub entries: u64,
    /// Bytes of their data: sizes of blobs, and of results as they are stored; not bytes of disk.
    pub bytes: u64,
}

/// The CAS on the disk of this machine. Clones are the same store.
#[derive(Clone)]
pub struct DiskCas {
    handle: Arc<Handle>,
}

/// Ends the store with its last clone.
struct Handle {
    store: Arc<Store>,
    thread: Mutex<Option<JoinHandle<()>>>,
    scrub: Mutex<Option<ScrubThread>>,
    _lock: std::fs::File,
}

/// The thread that scrubs.
struct ScrubThread {
    thread: JoinHandle<()>,
    /// Ends it when dropped.
    stop: SyncSender<()>,
}

// === impl DiskConfig ===

impl DiskConfig {
    /// The defaults, for a directory and a budget in bytes.
    pub fn new(directory: impl Into<PathBuf>, budget: u64) -> Self {
        Self {
            directory: directory.into(),
            budget: DiskBudget::Bytes(budget),
            low_water: 90,
            lease: Duration::from_secs(3 * 3600),
            sync: SyncMode::Epoch,
            epoch_interval: Duration::from_secs(1),
            scrub_interval: Duration::ZERO,
            pack_threshold: 32 * 1024,
            max_blob_size: u64::MAX,
            index_cache: 16 << 20,
            host: Host::this_machine(),
        }
    }
}

// === impl Host ===

impl Host {
    /// The real one. Its clock starts with the time of day and is never set after that.
    pub fn this_machine() -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let (wall, start) = (SystemTime::now(), Instant::now());
        Self::new(boot_id.trim(), move || wall + start.elapsed())
    }

    /// Another clock, and another name for the boot.
    pub fn new(boot_id: &str, now: impl Fn() -> SystemTime + Send + Sync + 'static) -> Self {
        Self { boot_id: boot_id.to_owned(), now: Arc::new(now) }
    }

    /// Seconds since 1970.
    fn now(&self) -> u32 {
        let since = (self.now)().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").field("boot_id", &self.boot_id).finish_non_exhaustive()
    }
}

// === impl OpenError ===

impl OpenError {
    fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}

// === impl DiskStats ===

impl DiskStats {
    fn held(&mut self, standing: Standing) -> &mut Held {
        match standing {
            Standing::Sole => &mut self.sole,
            Standing::Counted => &mut self.counted,
            Standing::Spare => &mut self.spare,
        }
    }
}

// === impl DiskCas ===

impl DiskCas {
    /// Opens the store and recovers what an unclean stop left; blocks meanwhile. `progress` is called
    /// now and then while much has to be read, as in a rebuild of the index.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(config: DiskConfig, progress: &dyn Fn(RebuildProgress)) -> Result<Self, OpenError> {
        let opened = recovery::open(config, progress)?;
        let store = opened.maintenance.store().clone();
        let directory = store.config.directory.clone();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || opened.maintenance.run())
            .map_err(|error| OpenError::io(directory, error))?;
        let scrub = Mutex::new(start_scrub(&store)?);
        let handle = Handle { store, thread: Mutex::new(Some(thread)), scrub, _lock: opened.lock };
        Ok(Self { handle: Arc::new(handle) })
    }

    /// Syncs everything and marks the directory clean. Writes fail from here on. Blocks.
    pub fn close(&self) {
        self.handle.stop(Stop::Clean);
    }

    /// A number that grows whenever a blob vanishes. Who read it, then found blobs present, knows
    /// them present for as long as it stays the same.
    pub fn generation(&self) -> u64 {
        self.inner().counters.generation.load(Ordering::Acquire)
    }

    /// Reads the whole blob and checks its digest; a damaged one is dropped. Blocks.
    ///
    /// # Errors
    /// [`CasError::NotFound`] when it is not there, or was damaged.
    pub fn verify(&self, digest: &Digest) -> Result<(), CasError> {
        let key = Key::from(digest);
        self.inner().check(&key);
        let is_there = digest.is_empty_blob() || self.inner().map.peek(&key).is_some();
        is_there.then_some(()).ok_or(CasError::NotFound(*digest))
    }

    /// The numbers that take no time.
    pub fn usage(&self) -> DiskUsage {
        let store = self.inner();
        let evicted = store.counters.evicted.load(Ordering::Relaxed);
        DiskUsage { used_bytes: store.space.used(), budget_bytes: store.marks.budget, evicted }
    }

    /// The numbers. Looks at every entry: some ten milliseconds for a million.
    pub fn stats(&self) -> DiskStats {
        let store = self.inner();
        let counters = &store.counters;
        let get = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let (kept, pinned) = {
            let pins = lock(&store.pins);
            (pins.kept.len(), pins.pinned.len())
        };
        let mut stats = DiskStats {
            index_bytes: get(&counters.index_bytes),
            used_bytes: store.space.used(),
            budget_bytes: store.marks.budget,
            pins: (pinned - kept) as u64,
            kept: kept as u64,
            evicted: get(&counters.evicted),
            evicted_bytes: get(&counters.evicted_bytes),
            corrupt: get(&counters.corrupt),
            scrub_progress: get(&counters.scrubbed_shards) as f64 / store.map.shards().len() as f64,
            scrub_passes: get(&counters.scrub_passes),
            unsynced: store.packs.oldest_unsynced().map(|since| since.elapsed()),
            generation: get(&counters.generation),
            ..DiskStats::default()
        };
        stats.youngest_victim = match counters.youngest_victim.load(Ordering::Relaxed) {
            0 => None,
            age => Some(Duration::from_secs(u64::from(age - 1))),
        };
        for pack in store.packs.all() {
            stats.pack_bytes += pack.end();
            stats.dead_bytes += pack.dead();
        }
        let horizon = store.lease_horizon();
        store.map.for_each(|key, found| {
            let bytes = match key.digest() {
                // Its bytes are those of another blob.
                Some(_) if found.kind == Kind::Part => return,
                Some(digest) => {
                    stats.blobs += 1;
                    stats.blob_bytes += digest.size();
                    digest.size()
                }
                None => {
                    stats.actions += 1;
                    u64::from(found.length)
                }
            };
            let held = stats.held(found.standing);
            held.entries += 1;
            held.bytes += bytes;
            if horizon.is_none_or(|horizon| found.last_use > horizon) {
                stats.leased_bytes += eviction::cost(key, &found);
            }
        });
        stats
    }

    fn inner(&self) -> &Arc<Store> {
        &self.handle.store
    }
}

/// The thread that scrubs, if that is wanted.
fn start_scrub(store: &Arc<Store>) -> Result<Option<ScrubThread>, OpenError> {
    let interval = store.config.scrub_interval;
    if interval.is_zero() {
        return Ok(None);
    }
    let (stop, stopped) = std::sync::mpsc::sync_channel(0);
    let first = usize::from(uuid::Uuid::new_v4().as_bytes()[0]);
    let scrub = Scrub::new(Arc::clone(store), first);
    let thread = std::thread::Builder::new()
        .name("scrub".to_owned())
        .spawn(move || scrub.run(interval, &stopped))
        .map_err(|error| OpenError::io(&store.config.directory, error))?;
    Ok(Some(ScrubThread { thread, stop }))
}

impl Handle {
    fn stop(&self, how: Stop) {
        self.store.work.stop(how);
        if let Some(ScrubThread { thread, stop }) = lock(&self.scrub).take() {
            drop(stop);
            // A panic there was logged.
            let _ = thread.join();
        }
        if let Some(thread) = lock(&self.thread).take() {
            // A panic there was logged, and ended the writers.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop(Stop::Abrupt);
    }
}

#[async_trait]
impl ContentAddressableStorage for DiskCas {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, CasError> {
        self.absent(digests, Use::Here).await
    }

    async fn peek_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, CasError> {
        self.absent(digests, Use::Nobody).await
    }

    async fn find(&self, hash: &BlobHash) -> Result<Option<Digest>, CasError> {
        Ok(self.find_entry(hash))
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes, CasError> {
        self.get_for(digest, Use::Here).await
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, CasError> {
        self.read_for(digest, range, Use::Here).await
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<(), CasError> {
        self.put_from(digest, data, self.inner().here(&Key::from(digest))).await
    }

    async fn writer(&self, digest: &Digest) -> Result<Box<dyn BlobWriter>, CasError> {
        self.writer_from(digest, self.inner().here(&Key::from(digest))).await
    }
}

impl DiskCas {
    async fn get_for(&self, digest: &Digest, using: Use) -> Result<Bytes, CasError> {
        if digest.is_empty_blob() {
            return Ok(Bytes::new());
        }
        if let Lookup::Data(data) = self.inner().read_small(digest, Wait::No, using)? {
            return Ok(data);
        }
        let digest = *digest;
        self.blocking(move |store| store.load(&digest, using)).await
    }

    async fn read_for(&self, digest: &Digest, range: ByteRange, using: Use) -> Result<BlobStream, CasError> {
        let end = range.end(digest.size())?;
        let digest = *digest;
        let small = if digest.is_empty_blob() {
            Lookup::Data(Bytes::new())
        } else {
            match self.inner().read_small(&digest, Wait::No, using)? {
                Lookup::WouldWait => {
                    self.blocking(move |store| store.read_small(&digest, Wait::Yes, using)).await?
                }
                found => found,
            }
        };
        match small {
            Lookup::Data(data) => {
                let data = data.slice(range.offset as usize..end as usize);
                let piece = (!data.is_empty()).then_some(Ok(data));
                Ok(Box::pin(futures_util::stream::iter(piece)))
            }
            Lookup::Large(found) => self.read_large(digest, found, range.offset, end).await,
            Lookup::Part(found) => {
                let data = self.blocking(move |store| store.load_part(&digest, &found, using)).await?;
                let mut rest = data.slice(range.offset as usize..end as usize);
                let next = move || (!rest.is_empty()).then(|| Ok(rest.split_to(sums::PIECE.min(rest.len()))));
                Ok(Box::pin(futures_util::stream::iter(std::iter::from_fn(next))))
            }
            Lookup::WouldWait => Err(CasError::NotFound(digest)),
        }
    }

    async fn put_from(&self, digest: &Digest, data: Bytes, origin: Origin) -> Result<(), CasError> {
        let store = self.inner();
        if digest.size() != data.len() as u64 || !store.is_small(digest.size()) {
            let mut writer = self.writer_from(digest, origin).await?;
            writer.write(data).await?;
            return writer.commit().await;
        }
        let actual = Digest::of(digest.function(), &data);
        if actual != *digest {
            return Err(CasError::Mismatch { expected: *digest, actual });
        }
        if data.is_empty() {
            return Ok(());
        }
        store.check_size(digest)?;
        let reservation = store.admit(record_len(data.len() as u32)).await?;
        let digest = *digest;
        let append = move |store: &Store, appender: Appender<'_>| {
            store.append_blob(appender, &digest, &data, reservation, origin)
        };
        let epoch = store.append(append).await?;
        store.settle(epoch).await
    }

    async fn writer_from(&self, digest: &Digest, origin: Origin) -> Result<Box<dyn BlobWriter>, CasError> {
        let store = self.inner().clone();
        store.check_size(digest)?;
        let reservation = store.admit(store.cost(digest)).await?;
        if store.is_small(digest.size()) {
            return Ok(Box::new(SmallWriter::new(store, *digest, reservation, origin)));
        }
        Ok(Box::new(LargeWriter::new(store, *digest, reservation, origin)))
    }

    async fn read_large(
        &self,
        digest: Digest,
        found: map::Found,
        next: u64,
        end: u64,
    ) -> Result<BlobStream, CasError> {
        let opened = self.blocking(move |store| {
            let large = store.open_large(&digest, &found)?;
            // A blob whose first piece is damaged is absent, not broken off.
            let piece = if next < end { large.read(next / sums::PIECE as u64) } else { Ok(Bytes::new()) };
            let first = piece.map_err(|error| {
                store.drop_large_piece(&digest, &error);
                CasError::NotFound(digest)
            })?;
            Ok((Arc::new(large), first))
        });
        let (large, first) = opened.await?;
        Ok(large::stream(self.inner().clone(), digest, large, (next, end), first))
    }

    /// Runs `work` where waiting for the disk is allowed.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<Store>) -> Result<T, CasError> + Send + 'static,
    ) -> Result<T, CasError> {
        let store = self.inner().clone();
        let path = store.config.directory.clone();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.map_err(|error| CasError::Io { path, source: error.into() })?
    }
}
