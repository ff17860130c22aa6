//! The maintenance thread: closes epochs, tells the index, keeps recency, makes room.
//!
//! Closing an epoch: no record can get its number any more; the files and packs written in it and
//! their directories are synced; `STATE` says so; writers that waited go on. Only then is the epoch
//! staged for the index. If a sync fails, nothing written since can be trusted to be on the disk:
//! the store takes no more writes, and goes on serving reads.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{Advice, FallocateFlags};
use tokio::time::Instant;

use super::catalog::{Catalog, Item};
use super::files::{Files, remove_if_there};
use super::map::Listener;
use super::packs::Closing;
use super::record::{Key, Kind};
use super::recovery::free_bytes;
use super::space::Stop;
use super::state::{State, StateFile};
use super::store::{Store, lock};
use crate::digest::Digest;
use crate::index::IndexError;

/// Time between two looks at what was used: lives here and on other machines end at most so much apart.
const USES_INTERVAL: Duration = Duration::from_secs(30);

/// Time until a failed index is tried again.
const INDEX_RETRY: Duration = Duration::from_secs(5);

/// Uses in the journal, beyond one for each entry, before it is written into the blocks.
const JOURNAL_SLACK: usize = 100_000;

/// Room on the disk without which the index is left alone: what is staged waits, and so would be
/// found by scanning.
const INDEX_ROOM: u64 = 4 << 20;

/// Free room on the disk, in reserves, that leaves one for a reserve.
const RESERVE_MARGIN: u64 = 4;

/// Time until a file is opened again for which there was no descriptor.
const DESCRIPTOR_PAUSE: Duration = Duration::from_millis(50);

/// Threads that sync large files, when there are many.
const SYNC_THREADS: usize = 8;

/// Files for which no further thread is worth it.
const SYNC_BATCH: usize = 8;

/// What the thread owns.
pub(super) struct Maintenance {
    pub(super) store: Arc<Store>,
    pub(super) catalog: Catalog,
    state: StateFile,
    /// Something was written or removed since the last close.
    open: bool,
    last_close: Instant,
    last_commit: Instant,
    last_uses: Instant,
    retry_index: Option<Instant>,
}

/// Sends everybody away who waits for the thread, however it ends.
struct EndGates(Arc<Store>);

impl Drop for EndGates {
    fn drop(&mut self) {
        self.0.stopped.store(true, Ordering::Release);
        self.0.closed.end();
        self.0.rounds.end();
    }
}

impl Maintenance {
    pub(super) fn new(store: Arc<Store>, catalog: Catalog, state: StateFile) -> Self {
        let now = Instant::now();
        let mut maintenance = Self {
            store,
            catalog,
            state,
            open: true,
            last_close: now,
            last_commit: now,
            last_uses: now,
            retry_index: None,
        };
        if maintenance.catalog.index().is_none() {
            maintenance.retry_index = Some(now + INDEX_RETRY);
        }
        maintenance.measure_index();
        maintenance.refill_reserve();
        maintenance
    }

    pub(super) fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Works until told to stop.
    pub(super) fn run(mut self) {
        let _gates = EndGates(self.store.clone());
        loop {
            let todo = self.store.work.take(Some(self.timeout()));
            match todo.stop {
                Some(Stop::Abrupt) => return,
                Some(Stop::Clean) => return self.finish(),
                None => {}
            }
            self.open |= todo.dirty;
            if let Some((bytes, round)) = todo.room {
                self.make_room(bytes);
                self.store.rounds.advance(round);
            }
            self.tick(todo.close);
        }
    }

    /// Does what is due. Long work calls this now and then.
    pub(super) fn tick(&mut self, close: bool) {
        let interval = self.store.config.epoch_interval;
        if self.is_close_due() || close {
            self.close_epoch();
        }
        if self.catalog.has_staged() && self.last_commit.elapsed() >= interval {
            self.commit_index();
        }
        if self.retry_index.is_some_and(|at| Instant::now() >= at) {
            self.renew_index();
        }
        if self.last_uses.elapsed() >= USES_INTERVAL {
            self.note_uses();
        }
        if self.store.space.used() > self.store.marks.high && self.store.has_evictable() {
            self.make_room(0);
        }
    }

    /// Whether the open epoch is as old as it may get.
    pub(super) fn is_close_due(&self) -> bool {
        self.open && self.last_close.elapsed() >= self.store.config.epoch_interval
    }

    fn timeout(&self) -> Duration {
        let interval = self.store.config.epoch_interval;
        let mut timeout = USES_INTERVAL.saturating_sub(self.last_uses.elapsed());
        if self.open {
            timeout = timeout.min(interval.saturating_sub(self.last_close.elapsed()));
        }
        if self.catalog.has_staged() {
            timeout = timeout.min(interval.saturating_sub(self.last_commit.elapsed()));
        }
        timeout.max(Duration::from_millis(1))
    }
}

// === epochs ===

impl Maintenance {
    /// Makes everything written so far durable. False if that failed.
    pub(super) fn close_epoch(&mut self) -> bool {
        self.begin_close();
        let closing = self.store.packs.begin_close();
        closing.is_none_or(|closing| self.end_close(closing))
    }

    fn begin_close(&mut self) {
        self.last_close = Instant::now();
        self.store.epoch_age.begin();
        self.open = false;
        // Before the epoch ends: what is written from here on asks for the next close.
        self.store.work.clear_dirty();
    }

    fn end_close(&mut self, closing: Closing) -> bool {
        if self.store.closed.is_ended() {
            return false;
        }
        if closing.needs_sync()
            && let Err(error) = self.sync(&closing)
        {
            tracing::error!(%error, "cannot sync what was written: the store takes no more writes");
            self.store.stopped.store(true, Ordering::Release);
            self.store.closed.end();
            return false;
        }
        self.store.closed.advance(closing.epoch);
        self.store.packs.end_close();
        self.catalog.stage(closing);
        true
    }

    fn sync(&mut self, closing: &Closing) -> io::Result<()> {
        let notes = closing.written.iter().filter(|written| written.header.kind == Kind::Note);
        sync_files(&self.store.files, notes.map(|written| written.header.key))?;
        for (pack, _) in &closing.packs {
            pack.file.sync_data()?;
        }
        if closing.new_packs {
            open_patiently(self.store.packs.directory())?.sync_all()?;
        }
        let state = State { closed: closing.epoch, ..self.state.state().clone() };
        self.state.write(state)
    }

    fn finish(mut self) {
        // With the tail locked, so that no write is on its way past the check.
        let appender = self.store.packs.appender();
        self.store.stopped.store(true, Ordering::Release);
        drop(appender);
        if !self.close_epoch() {
            return;
        }
        if !has_index_room(&self.store.config.directory) {
            self.give_up_reserve();
        }
        self.commit_index();
        self.note_uses();
        // An index that was not told everything is not to be trusted alone.
        if self.retry_index.is_some() || self.catalog.has_staged() {
            return;
        }
        let Some(index_generation) = self.catalog.close() else { return };
        let state = State { clean: true, index_generation, ..self.state.state().clone() };
        if let Err(error) = self.state.write(state) {
            tracing::warn!(%error, "cannot mark the store as cleanly closed");
        }
    }
}

/// Whether the engine of the index can be expected not to run out of room.
pub(super) fn has_index_room(directory: &Path) -> bool {
    free_bytes(directory) >= INDEX_ROOM
}

/// Syncs the files of large blobs and the directories they are in. Commits of the file system's
/// journal are most of the cost: with many files, writing all of them is begun before the first is
/// waited for, and several threads wait, so that few commits serve them all.
pub(super) fn sync_files(files: &Files, keys: impl Iterator<Item = Key>) -> io::Result<()> {
    let digests: Vec<Digest> = keys.filter_map(|key| key.digest()).collect();
    if digests.len() > SYNC_BATCH {
        for digest in &digests {
            begin_writing(&files.path(digest, false));
        }
    }
    let each = digests.len().div_ceil(SYNC_THREADS).max(SYNC_BATCH);
    std::thread::scope(|scope| {
        let batches: Vec<_> =
            digests.chunks(each).map(|batch| scope.spawn(|| sync_batch(files, batch))).collect();
        let ended = |batch: std::thread::ScopedJoinHandle<'_, io::Result<()>>| {
            batch.join().unwrap_or_else(|_| Err(io::Error::other("a syncing thread panicked")))
        };
        batches.into_iter().try_for_each(ended)
    })?;
    let directories: BTreeSet<PathBuf> = digests.iter().map(|digest| files.directory(digest)).collect();
    directories.iter().try_for_each(|directory| open_patiently(directory)?.sync_all())
}

/// Has the kernel begin to write a file: of all calls that need no unsafe code, this advice is the one
/// that does. Pages not yet written stay in the cache.
fn begin_writing(path: &Path) {
    // Whether it worked is seen by the sync.
    let _ = File::open(path).map(|file| rustix::fs::fadvise(&file, 0, None, Advice::DontNeed));
}

/// Opens a file to sync it. That the process has no descriptor left for it does not mean that it
/// cannot be synced: this waits for one.
fn open_patiently(path: &Path) -> io::Result<File> {
    loop {
        match File::open(path) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => {
                std::thread::sleep(DESCRIPTOR_PAUSE);
            }
            opened => return opened,
        }
    }
}

fn sync_batch(files: &Files, digests: &[Digest]) -> io::Result<()> {
    digests.iter().try_for_each(|digest| match open_patiently(&files.path(digest, false)) {
        Ok(file) => file.sync_data(),
        // It was evicted since.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    })
}

// === the index ===

impl Maintenance {
    /// Tells the index what is staged, if the disk has room for that.
    pub(super) fn commit_index(&mut self) {
        self.last_commit = Instant::now();
        if !has_index_room(&self.store.config.directory) {
            return;
        }
        match self.catalog.commit(&self.store.map) {
            Ok(epoch) => {
                lock(&self.store.forgotten).retain(|_, left| *left > epoch);
                self.measure_index();
            }
            Err(error) => self.index_failed(&error),
        }
    }

    /// Notes what was used since the last time.
    fn note_uses(&mut self) {
        self.last_uses = Instant::now();
        self.store.tell_uses();
        if !has_index_room(&self.store.config.directory) {
            return;
        }
        let (uses, entries) = self.store.map.take_uses(Listener::Journal);
        let noted = if self.catalog.journal_len() + uses.len() > entries + JOURNAL_SLACK {
            self.rewrite_index()
        } else {
            self.catalog.commit_uses(&uses)
        };
        if let Err(error) = noted {
            self.index_failed(&error);
        }
        self.refill_reserve();
    }

    /// Fills an index that lost everything.
    pub(super) fn refill_index(&mut self) {
        if let Err(error) = self.rewrite_index() {
            self.index_failed(&error);
        }
    }

    /// Writes the index anew from the map, with all recency in its blocks.
    fn rewrite_index(&mut self) -> Result<(), IndexError> {
        self.begin_close();
        let store = self.store.clone();
        // With the tail locked: the end of an epoch, and exactly what was true then.
        let mut appender = store.packs.appender();
        let closing = appender.begin_close();
        let mut items = Vec::new();
        store.map.for_each(|key, found| items.push(Item { key: *key, found }));
        let ends: BTreeMap<u32, u64> = store.packs.all().iter().map(|pack| (pack.id, pack.end())).collect();
        let epoch = appender.epoch() - 1;
        drop(appender);
        if let Some(closing) = closing
            && !self.end_close(closing)
        {
            return Ok(());
        }
        self.catalog.rewrite(items, &ends)?;
        lock(&self.store.forgotten).retain(|_, left| *left > epoch);
        self.measure_index();
        Ok(())
    }

    /// The engine failed: most likely the disk is full. The index is opened again, with the room of
    /// the reserve.
    fn index_failed(&mut self, error: &IndexError) {
        tracing::warn!(%error, "the index failed and is opened again");
        self.give_up_reserve();
        self.renew_index();
    }

    fn give_up_reserve(&self) {
        let reserve = self.store.config.directory.join(super::recovery::RESERVE);
        if let Err(error) = remove_if_there(&reserve) {
            tracing::warn!(%error, "cannot give up the reserve");
        }
    }

    /// Gets the index to work again. It starts over only if nothing else helps. Nothing is tried on a
    /// full disk: opening there, the engine would spoil what it has.
    fn renew_index(&mut self) {
        if !has_index_room(&self.store.config.directory) {
            self.retry_index = Some(Instant::now() + INDEX_RETRY);
            return;
        }
        let reopened = self.catalog.is_whole().then(|| self.catalog.reopen());
        let renewed = match reopened {
            Some(Ok(())) => Ok(()),
            lost => {
                if let Some(Err(error)) = lost {
                    tracing::warn!(%error, "the index starts over");
                }
                self.catalog.start_over().and_then(|()| self.rewrite_index())
            }
        };
        self.retry_index = match renewed {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(%error, "there is no index; trying again");
                Some(Instant::now() + INDEX_RETRY)
            }
        };
        if self.retry_index.is_none() {
            self.refill_reserve();
        }
    }

    fn measure_index(&self) {
        let bytes = self.catalog.index().map_or(0, crate::index::Index::disk_bytes);
        let before = self.store.counters.index_bytes.swap(bytes, Ordering::Relaxed);
        self.store.space.add(bytes);
        self.store.space.remove(before);
    }

    /// Makes the file that is given up when the disk is full.
    fn refill_reserve(&self) {
        let (path, bytes) =
            (self.store.config.directory.join(super::recovery::RESERVE), self.store.marks.reserve);
        let free = free_bytes(&self.store.config.directory);
        if path.exists() || free < bytes.saturating_mul(RESERVE_MARGIN) {
            return;
        }
        let made = File::create(&path).and_then(|file| {
            rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes).map_err(io::Error::from)
        });
        if let Err(error) = made {
            tracing::debug!(%error, "no reserve could be made");
            // Without room there is no reserve; an empty file would hide that.
            let _ = remove_if_there(&path);
        }
    }
}
