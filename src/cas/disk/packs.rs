//! Packs: the append-only files that hold small blobs, notes of large ones, and action results.
//!
//! One pack is active and takes all records; a full one is sealed. An append writes under the lock
//! of the tail: the file system serialises writes to one file anyway, and so records are complete
//! up to the end at any moment. A killed process leaves at most one torn record, at the very end,
//! and the order in the packs (by pack number, then offset) is the order in which records took
//! effect. The tail also gathers what the next epoch close has to sync and to tell the index.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};

use bytes::Bytes;
use rustix::io::ReadWriteFlags;
use tokio::time::Instant;

use super::map::Place;
use super::record::{self, HEADER, Header, Key, Kind, Magic, record_len};

/// Bytes in front of the first record: mark, format version, magic, pack number, checksum.
pub(super) const PACK_HEADER: u64 = 32;

const MARK: &[u8; 8] = b"FHPACK\r\n";

/// Version of the layout of packs and records.
pub(super) const VERSION: u32 = 1;

/// Packs end before offsets stop fitting [`Place`].
pub(super) const MAX_PACK: u64 = 1 << 31;

/// One pack file.
pub(super) struct Pack {
    pub(super) id: u32,
    pub(super) file: File,
    pub(super) path: PathBuf,
    /// Bytes in it.
    end: AtomicU64,
    /// Bytes of the records that the map points at.
    live: AtomicU64,
}

/// All packs of a store.
pub(super) struct Packs {
    directory: PathBuf,
    magic: Magic,
    limit: u64,
    table: RwLock<HashMap<u32, Arc<Pack>>>,
    tail: Mutex<Tail>,
    unsynced: Mutex<Unsynced>,
}

/// The end of the log, and all that happened since the last epoch close.
struct Tail {
    active: Option<Arc<Pack>>,
    next: u32,
    epoch: u64,
    closing: Closing,
}

/// When the oldest records were written that may not be on the disk.
#[derive(Default)]
struct Unsynced {
    /// Of the epoch that is being closed.
    closing: Option<Instant>,
    /// Of the open one.
    open: Option<Instant>,
}

/// What one epoch did.
#[derive(Default)]
pub(super) struct Closing {
    /// Its number.
    pub(super) epoch: u64,
    /// Records written, in order.
    pub(super) written: Vec<Written>,
    /// Records that are no longer pointed at.
    pub(super) dead: Vec<Place>,
    /// Packs written to, with their ends.
    pub(super) packs: Vec<(Arc<Pack>, u64)>,
    /// Pack files were made.
    pub(super) new_packs: bool,
    /// Something the index should be told of besides (twins).
    pub(super) stale: Vec<Place>,
}

/// A record that was written.
#[derive(Clone, Copy)]
pub(super) struct Written {
    pub(super) place: Place,
    pub(super) header: Header,
}

/// Whether a read may wait for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Only what the page cache has.
    No,
    /// As long as it takes.
    Yes,
}

/// The tail, locked: nothing is appended by others meanwhile.
pub(super) struct Appender<'a> {
    packs: &'a Packs,
    tail: MutexGuard<'a, Tail>,
}

// === impl Pack ===

impl Pack {
    fn create(directory: &Path, magic: &Magic, id: u32) -> io::Result<Self> {
        let path = pack_path(directory, id);
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        let mut head = [0; PACK_HEADER as usize];
        head[..8].copy_from_slice(MARK);
        head[8..12].copy_from_slice(&VERSION.to_le_bytes());
        head[12..20].copy_from_slice(magic);
        head[20..24].copy_from_slice(&id.to_le_bytes());
        let crc = crc32fast::hash(&head[..28]);
        head[28..].copy_from_slice(&crc.to_le_bytes());
        if let Err(error) = file.write_all_at(&head, 0) {
            // Without its head it would be no pack: best not there at all.
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        Ok(Self::new(id, file, path, PACK_HEADER))
    }

    pub(super) fn new(id: u32, file: File, path: PathBuf, end: u64) -> Self {
        Self { id, file, path, end: AtomicU64::new(end), live: AtomicU64::new(0) }
    }

    /// Bytes in the file.
    pub(super) fn end(&self) -> u64 {
        self.end.load(Ordering::Relaxed)
    }

    /// Bytes that would be freed if only live records were kept.
    pub(super) fn dead(&self) -> u64 {
        (self.end() - PACK_HEADER).saturating_sub(self.live.load(Ordering::Relaxed))
    }

    pub(super) fn is_wholly_dead(&self) -> bool {
        self.live.load(Ordering::Relaxed) == 0
    }

    /// Counts bytes of records as live.
    pub(super) fn add_live(&self, bytes: u64) {
        self.live.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove_live(&self, length: u32) {
        self.live.fetch_sub(record_len(length), Ordering::Relaxed);
    }

    /// Cuts the file off behind the last good record.
    pub(super) fn truncate(&self, end: u64) -> io::Result<()> {
        self.file.set_len(end)?;
        self.file.sync_all()?;
        self.end.store(end, Ordering::Relaxed);
        Ok(())
    }
}

/// Path of a pack.
pub(super) fn pack_path(directory: &Path, id: u32) -> PathBuf {
    directory.join(format!("{id:08x}.pack"))
}

/// The number in a pack's file name.
pub(super) fn pack_id(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".pack")?;
    (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

/// Version and magic in the head of a pack; `None` if it is damaged.
pub(super) fn read_pack_header(file: &File) -> io::Result<Option<(u32, Magic)>> {
    let mut head = [0; PACK_HEADER as usize];
    match file.read_exact_at(&mut head, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let whole = head[..8] == MARK[..] && word(28) == crc32fast::hash(&head[..28]);
    let mut magic = Magic::default();
    magic.copy_from_slice(&head[12..20]);
    Ok(whole.then_some((word(8), magic)))
}

// === impl Closing ===

impl Closing {
    /// Whether anything happened that has to be synced.
    pub(super) fn needs_sync(&self) -> bool {
        !self.packs.is_empty()
    }

    fn is_empty(&self) -> bool {
        self.packs.is_empty() && self.dead.is_empty() && self.stale.is_empty()
    }
}

// === impl Packs ===

impl Packs {
    /// The packs found at start, with live bytes still to be counted. New packs begin at `next`,
    /// and the epoch is `epoch`.
    pub(super) fn new(
        directory: PathBuf,
        magic: Magic,
        limit: u64,
        found: Vec<Pack>,
        next: u32,
        epoch: u64,
    ) -> Self {
        let table: HashMap<u32, Arc<Pack>> =
            found.into_iter().map(|pack| (pack.id, Arc::new(pack))).collect();
        let active = table.values().max_by_key(|pack| pack.id).filter(|pack| pack.end() < limit).cloned();
        let closing = Closing { epoch, ..Closing::default() };
        let tail = Mutex::new(Tail { active, next, epoch, closing });
        Self {
            directory,
            magic,
            limit: limit.min(MAX_PACK),
            table: RwLock::new(table),
            tail,
            unsynced: Mutex::default(),
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(super) fn magic(&self) -> &Magic {
        &self.magic
    }

    /// Locks the tail.
    pub(super) fn appender(&self) -> Appender<'_> {
        Appender { packs: self, tail: self.tail.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Locks the tail unless somebody else has it: he may be waiting for the disk.
    pub(super) fn try_appender(&self) -> Option<Appender<'_>> {
        let tail = match self.tail.try_lock() {
            Ok(tail) => tail,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        Some(Appender { packs: self, tail })
    }

    pub(super) fn get(&self, id: u32) -> Option<Arc<Pack>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<Pack>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The data of a record, whole and unchecked. `Ok(None)` when it is not in the page cache and
    /// `wait` forbids waiting; `NotFound` when the pack is gone.
    pub(super) fn read_data(&self, place: Place, length: u32, wait: Wait) -> io::Result<Option<Bytes>> {
        self.read(place, HEADER as u64, length as usize, wait).map(|data| data.map(Bytes::from))
    }

    /// The data of a record whose checksum holds; `InvalidData` otherwise, and as
    /// [`read_data`](Self::read_data).
    pub(super) fn read_checked(
        &self,
        place: Place,
        key: &Key,
        length: u32,
        wait: Wait,
    ) -> io::Result<Option<Bytes>> {
        let Some(record) = self.read(place, 0, HEADER + length as usize, wait)? else { return Ok(None) };
        match record::parse(&self.magic, &record) {
            Some(header) if header.key == *key => Ok(Some(Bytes::from(record).slice(HEADER..))),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    fn read(&self, place: Place, skip: u64, len: usize, wait: Wait) -> io::Result<Option<Vec<u8>>> {
        let pack = self.get(place.pack).ok_or(io::ErrorKind::NotFound)?;
        let mut data = vec![0; len];
        let at = u64::from(place.offset) + skip;
        if wait == Wait::No {
            return Ok(read_cached(&pack.file, &mut data, at).then_some(data));
        }
        pack.file.read_exact_at(&mut data, at)?;
        Ok(Some(data))
    }

    /// Ends the epoch and hands out what it did; `None` if nothing happened in it.
    pub(super) fn begin_close(&self) -> Option<Closing> {
        self.appender().begin_close()
    }

    /// The epoch that was being closed is on the disk.
    pub(super) fn end_close(&self) {
        self.unsynced().closing = None;
    }

    /// When the oldest record was written that may not be on the disk. Waits for nobody.
    pub(super) fn oldest_unsynced(&self) -> Option<Instant> {
        let unsynced = self.unsynced();
        unsynced.closing.or(unsynced.open)
    }

    fn unsynced(&self) -> MutexGuard<'_, Unsynced> {
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a pack out of the table; open reads of it go on.
    pub(super) fn forget(&self, id: u32) -> Option<Arc<Pack>> {
        self.table.write().unwrap_or_else(PoisonError::into_inner).remove(&id)
    }
}

/// Reads without waiting; false when the page cache has not all of it.
pub(super) fn read_cached(file: &File, mut data: &mut [u8], mut at: u64) -> bool {
    while !data.is_empty() {
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(data)], at, ReadWriteFlags::NOWAIT) {
            Ok(0) | Err(_) => return false,
            Ok(n) => {
                data = &mut data[n..];
                at += n as u64;
            }
        }
    }
    true
}

// === impl Appender ===

impl Appender<'_> {
    /// As [`Packs::begin_close`].
    pub(super) fn begin_close(&mut self) -> Option<Closing> {
        let tail = &mut *self.tail;
        if tail.closing.is_empty() {
            return None;
        }
        tail.epoch += 1;
        let next = Closing { epoch: tail.epoch, ..Closing::default() };
        let mut closing = std::mem::replace(&mut tail.closing, next);
        closing.packs.iter_mut().for_each(|(pack, end)| *end = pack.end());
        let mut unsynced = self.packs.unsynced();
        unsynced.closing = unsynced.closing.or(unsynced.open.take());
        Some(closing)
    }

    /// Lets the next record begin a new pack, if this one is the active one.
    pub(super) fn seal_if(&mut self, id: u32) {
        self.tail.active.take_if(|active| active.id == id);
    }

    /// The epoch records get now.
    pub(super) fn epoch(&self) -> u64 {
        self.tail.epoch
    }

    /// The last epoch that has to be closed for all that was written so far to be durable.
    pub(super) fn last_written_epoch(&self) -> u64 {
        if self.tail.closing.needs_sync() { self.tail.epoch } else { self.tail.epoch - 1 }
    }

    /// Writes a record. Nothing changed if it fails.
    pub(super) fn append(&mut self, kind: Kind, key: Key, written: u32, data: &[u8]) -> io::Result<Place> {
        let length = u32::try_from(data.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        let pack = self.pack_for(record_len(length))?;
        let header = Header { kind, key, epoch: self.tail.epoch, written, length };
        let offset = pack.end();
        let head = header.encode(&self.packs.magic, data);
        write_both(&pack.file, &head, data, offset)?;
        pack.end.store(offset + header.record_len(), Ordering::Relaxed);
        pack.add_live(header.record_len());
        let place = Place { pack: pack.id, offset: offset as u32 };
        if self.tail.closing.written.is_empty() {
            self.packs.unsynced().open = Some(Instant::now());
        }
        self.tail.closing.written.push(Written { place, header });
        if !self.tail.closing.packs.iter().any(|(known, _)| known.id == pack.id) {
            self.tail.closing.packs.push((pack, 0));
        }
        Ok(place)
    }

    /// Notes that nothing points at a record any more.
    pub(super) fn bury(&mut self, place: Place, length: u32) {
        if let Some(pack) = self.packs.get(place.pack) {
            pack.remove_live(length);
        }
        self.tail.closing.dead.push(place);
    }

    /// Notes that the index has an old view of the entry whose record is here.
    pub(super) fn mark_stale(&mut self, place: Place) {
        self.tail.closing.stale.push(place);
    }

    fn pack_for(&mut self, len: u64) -> io::Result<Arc<Pack>> {
        if let Some(active) = &self.tail.active
            && (active.end() + len <= self.packs.limit || active.end() == PACK_HEADER)
        {
            return Ok(active.clone());
        }
        let pack = Arc::new(Pack::create(&self.packs.directory, &self.packs.magic, self.tail.next)?);
        self.tail.next += 1;
        self.tail.closing.new_packs = true;
        self.tail.active = Some(pack.clone());
        let mut table = self.packs.table.write().unwrap_or_else(PoisonError::into_inner);
        table.insert(pack.id, pack.clone());
        Ok(pack)
    }
}

fn write_both(file: &File, head: &[u8], data: &[u8], offset: u64) -> io::Result<()> {
    let written = rustix::io::pwritev(file, &[IoSlice::new(head), IoSlice::new(data)], offset)?;
    if written < head.len() {
        file.write_all_at(&head[written..], offset + written as u64)?;
    }
    let done = written.saturating_sub(head.len());
    file.write_all_at(&data[done..], offset + (head.len() + done) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packs(directory: &Path, limit: u64) -> Packs {
        Packs::new(directory.to_owned(), [7; 8], limit, Vec::new(), 1, 5)
    }

    #[test]
    fn rolls_over_and_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let packs = packs(directory.path(), 1000);
        let key = |n| Key::action(&[n; 32]);
        let places: Vec<Place> = (0..4)
            .map(|n| packs.appender().append(Kind::Action, key(n), 9, &vec![n; 400]).unwrap())
            .collect();
        assert_eq!(places.iter().map(|place| place.pack).collect::<Vec<_>>(), [1, 1, 2, 2]);
        let data = packs.read_checked(places[2], &key(2), 400, Wait::Yes).unwrap().unwrap();
        assert_eq!(data, vec![2; 400]);
        assert!(packs.read_checked(places[2], &key(3), 400, Wait::Yes).is_err());
        let big = packs.appender().append(Kind::Action, key(9), 9, &[1; 5000]).unwrap();
        assert_eq!((big.pack, u64::from(big.offset)), (3, PACK_HEADER), "a record is never split");
    }

    #[test]
    fn an_epoch_hands_out_exactly_what_was_done_in_it() {
        let directory = tempfile::tempdir().unwrap();
        let packs = packs(directory.path(), 1 << 20);
        assert!(packs.begin_close().is_none());
        let place = packs.appender().append(Kind::Action, Key::action(&[1; 32]), 9, b"x").unwrap();
        assert_eq!(packs.appender().last_written_epoch(), 5);
        let closing = packs.begin_close().unwrap();
        assert_eq!((closing.epoch, closing.written.len(), closing.dead.len()), (5, 1, 0));
        assert_eq!(closing.packs[0].1, PACK_HEADER + record_len(1));
        assert_eq!(packs.appender().last_written_epoch(), 5);
        packs.appender().bury(place, 1);
        let closing = packs.begin_close().unwrap();
        assert_eq!((closing.epoch, closing.written.len(), closing.dead), (6, 0, vec![place]));
        assert!(packs.get(1).unwrap().is_wholly_dead());
    }

    #[test]
    fn pack_names_parse_strictly() {
        assert_eq!(pack_id("0000001f.pack"), Some(31));
        for name in ["1f.pack", "0000001f.pac", "+000001f.pack.pack", "0000001f"] {
            assert_eq!(pack_id(name), None, "{name}");
        }
    }
}
