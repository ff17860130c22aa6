//! [`Index`]: a small embedded key-value store, and the only file that names its engine (sled).
//!
//! It owns one directory. It promises that a [`commit`](Index::commit) that returned is on the disk
//! whole, also after a power loss, and that an index which lost anything is told from one that is
//! merely empty. It does not promise to survive damage: whatever is in it must be rebuildable by
//! its user, who moves the directory aside ([`set_aside`]) and starts anew.
//!
//! How the engine is held, and why:
//! - sled 0.34 flushes without a sync, so the committer thread calls `flush()` and then `fdatasync`
//!   on its own handle of the database file; at open the directory and all files in it are synced.
//! - `flush_async` hangs from some sixteen tasks on and is never called; commits of several callers
//!   are drained from a channel and flushed together by one thread.
//! - A damaged database makes sled panic, or open empty. So opening and every call run inside
//!   `catch_unwind`, opening has a time limit, and a sentinel record holds the count of all records.
//! - After any error sled stays broken: the index then refuses everything until opened again. What it
//!   had taken before is there then.
//! - Threads of sled may hold the database's lock for a moment after it was closed: opening waits.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::Duration;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

/// Version of the framing of every value, its first byte.
const FRAME: u8 = 1;
const FRAME_LEN: usize = 5;

/// Key of the sentinel; no key of a caller begins with a zero byte.
const SENTINEL: &[u8] = b"\0sentinel";

/// How often, and after what pause, opening asks again for a lock that threads of a database just
/// closed still hold.
const LOCK_TRIES: u32 = 500;
const LOCK_PAUSE: Duration = Duration::from_millis(4);

/// Commits that may wait for the committer thread.
const WAITING_COMMITS: usize = 16;

/// An open index.
pub struct Index {
    path: PathBuf,
    db: Option<sled::Db>,
    commits: Option<SyncSender<Commit>>,
    committer: Option<JoinHandle<u64>>,
    opened: Opened,
    /// The generation of the last commit that succeeded.
    generation: Arc<AtomicU64>,
}

/// What was found when an index was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// There was no database: either nothing was ever stored, or all of it was lost.
    pub fresh: bool,
    /// Commits made in the life of the database.
    pub generation: u64,
    /// Records in it.
    pub records: u64,
}

/// Changes that take effect together.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

/// What can go wrong with an index.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IndexError {
    /// It does not open, or lacks records: set it aside and rebuild.
    #[error("the index in {} is damaged: {reason}", path.display())]
    Damaged {
        /// Its directory.
        path: PathBuf,
        /// What was seen.
        reason: String,
    },
    /// A newer program wrote it.
    #[error("the index in {} has records of version {found}; this program knows up to {FRAME}", path.display())]
    Newer {
        /// Its directory.
        path: PathBuf,
        /// Version found.
        found: u8,
    },
    /// An operation failed; the index refuses all others until it is opened again.
    #[error("the index in {} failed: {reason}", path.display())]
    Failed {
        /// Its directory.
        path: PathBuf,
        /// What was seen.
        reason: String,
    },
}

struct Commit {
    batch: Batch,
    reply: SyncSender<Result<(), IndexError>>,
}

/// The state of the committer thread.
struct Committer {
    path: PathBuf,
    db: sled::Db,
    file: File,
    generation: u64,
    told: Arc<AtomicU64>,
    records: u64,
    failure: Option<IndexError>,
}

// === impl Batch ===

impl Batch {
    /// Stores `value` under `key`, which must not begin with a zero byte.
    pub fn put(&mut self, key: Vec<u8>, value: &[u8]) {
        self.changes.insert(key, Some(frame(value)));
    }

    /// Removes `key`.
    pub fn remove(&mut self, key: Vec<u8>) {
        self.changes.insert(key, None);
    }

    /// Changes in it.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// True when it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

// === impl Index ===

impl Index {
    /// Opens the index in `path`, making it if there is none. `cache` is the memory the engine may
    /// keep pages in, in bytes; opening may take `time_limit`.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] or [`IndexError::Newer`].
    pub fn open(path: &Path, cache: u64, time_limit: Duration) -> Result<Self, IndexError> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let owned = path.to_owned();
        let opening = std::thread::Builder::new().name("index-open".to_owned()).spawn(move || {
            let opened = guarded(|| open_database(&owned, cache));
            // The receiver is gone when the time limit was over.
            let _ = sender.send(opened);
        });
        opening.map_err(|error| damaged(path, error))?;
        let opened = receiver.recv_timeout(time_limit).map_err(|error| match error {
            RecvTimeoutError::Timeout => damaged(path, format!("it did not open within {time_limit:?}")),
            RecvTimeoutError::Disconnected => damaged(path, "the opening thread died"),
        })?;
        match opened {
            Ok(Ok((db, file, opened))) => Self::start(path, db, file, opened),
            Ok(Err(OpenFault::Newer(found))) => Err(IndexError::Newer { path: path.to_owned(), found }),
            Ok(Err(OpenFault::Damaged(reason))) | Err(reason) => Err(damaged(path, reason)),
        }
    }

    fn start(path: &Path, db: sled::Db, file: File, opened: Opened) -> Result<Self, IndexError> {
        let (commits, receiver) = mpsc::sync_channel(WAITING_COMMITS);
        let generation = Arc::new(AtomicU64::new(opened.generation));
        let committer = Committer {
            path: path.to_owned(),
            db: db.clone(),
            file,
            generation: opened.generation,
            told: generation.clone(),
            records: opened.records,
            failure: None,
        };
        let committer = std::thread::Builder::new()
            .name("index-commit".to_owned())
            .spawn(move || committer.run(&receiver))
            .map_err(|error| damaged(path, error))?;
        Ok(Self {
            path: path.to_owned(),
            db: Some(db),
            commits: Some(commits),
            committer: Some(committer),
            opened,
            generation,
        })
    }

    /// What was found at open.
    pub fn opened(&self) -> Opened {
        self.opened
    }

    /// Commits that succeeded in the life of the database. After a failure there may be one more.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Visits every record in the order of keys.
    ///
    /// # Errors
    /// [`IndexError::Damaged`] when a record cannot be read, or when there are more or fewer than
    /// the sentinel says. Only valid before the first commit.
    pub fn scan(&self, mut visit: impl FnMut(&[u8], &[u8])) -> Result<(), IndexError> {
        let db = self.database()?;
        let scanned = guarded(AssertUnwindSafe(|| {
            let mut records = 0;
            for item in db.iter() {
                let (key, value) = item.map_err(|error| error.to_string())?;
                if &*key == SENTINEL {
                    continue;
                }
                records += 1;
                visit(&key, unframe(&value).map_err(|fault| fault.to_string())?);
            }
            Ok::<u64, String>(records)
        }));
        let records = scanned.and_then(|records| records).map_err(|reason| damaged(&self.path, reason))?;
        if records != self.opened.records {
            let expected = self.opened.records;
            return Err(damaged(&self.path, format!("it has {records} records of {expected}")));
        }
        Ok(())
    }

    /// The value under `key`.
    ///
    /// # Errors
    /// [`IndexError::Failed`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
        let db = self.database()?;
        let value = guarded(AssertUnwindSafe(|| db.get(key).map_err(|error| error.to_string())))
            .and_then(|value| value)
            .map_err(|reason| failed(&self.path, reason))?;
        value
            .map(|value| unframe(&value).map(<[u8]>::to_vec).map_err(|fault| failed(&self.path, fault)))
            .transpose()
    }

    /// Makes `batch` durable. Blocks until it is.
    ///
    /// # Errors
    /// [`IndexError::Failed`]; the batch may or may not be there after the next open, but whole.
    pub fn commit(&self, batch: Batch) -> Result<(), IndexError> {
        let (reply, answer) = mpsc::sync_channel(1);
        let gone = || failed(&self.path, "the committer thread is gone");
        let commits = self.commits.as_ref().ok_or_else(gone)?;
        commits.send(Commit { batch, reply }).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }

    /// Closes it. Returns the generation it ended with: what [`opened`](Self::opened) will say.
    pub fn close(mut self) -> u64 {
        self.stop().unwrap_or(self.opened.generation)
    }

    fn stop(&mut self) -> Option<u64> {
        self.commits = None;
        // A panic inside was already turned into an error.
        let generation = self.committer.take()?.join().ok();
        let db = self.db.take();
        // A broken engine may panic once more while it closes.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(db)));
        generation
    }

    /// Bytes of disk it takes.
    pub fn disk_bytes(&self) -> u64 {
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).filter(|meta| meta.is_file()).map(|m| m.len()).sum()
    }

    fn database(&self) -> Result<&sled::Db, IndexError> {
        self.db.as_ref().ok_or_else(|| failed(&self.path, "it is closed"))
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Moves the index in `path` aside, so that a new one can be made there; one such copy is kept.
///
/// # Errors
/// Whatever the file system says.
pub fn set_aside(path: &Path) -> io::Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".damaged");
    let aside = path.with_file_name(name);
    match std::fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    match std::fs::rename(path, &aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(aside),
    }
}

// === impl Committer ===

impl Committer {
    /// Returns the generation it ended with.
    fn run(mut self, commits: &Receiver<Commit>) -> u64 {
        while let Ok(first) = commits.recv() {
            let mut merged = first.batch;
            let mut replies = vec![first.reply];
            while let Ok(next) = commits.try_recv() {
                merged.changes.extend(next.batch.changes);
                replies.push(next.reply);
            }
            let outcome = self.commit(merged);
            for reply in replies {
                // A caller that went away needs no answer.
                let _ = reply.send(outcome.clone());
            }
        }
        self.generation
    }

    fn commit(&mut self, batch: Batch) -> Result<(), IndexError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        let applied = guarded(AssertUnwindSafe(|| self.apply(batch))).and_then(|applied| applied);
        applied.map_err(|reason| {
            let failure = failed(&self.path, reason);
            self.failure = Some(failure.clone());
            failure
        })
    }

    fn apply(&mut self, batch: Batch) -> Result<(), String> {
        let mut records = self.records;
        let mut changes = sled::Batch::default();
        for (key, value) in batch.changes {
            let present = self.db.contains_key(&key).map_err(|error| error.to_string())?;
            match value {
                Some(value) => {
                    records += u64::from(!present);
                    changes.insert(key, value);
                }
                None => {
                    records -= u64::from(present);
                    changes.remove(key);
                }
            }
        }
        changes.insert(SENTINEL, sentinel(self.generation + 1, records));
        self.db.apply_batch(changes).map_err(|error| error.to_string())?;
        self.db.flush().map_err(|error| error.to_string())?;
        self.file.sync_data().map_err(|error| error.to_string())?;
        self.generation += 1;
        self.told.store(self.generation, Ordering::Release);
        self.records = records;
        Ok(())
    }
}

// === opening ===

enum OpenFault {
    Damaged(String),
    Newer(u8),
}

impl<E: std::error::Error> From<E> for OpenFault {
    fn from(error: E) -> Self {
        Self::Damaged(error.to_string())
    }
}

fn open_database(path: &Path, cache: u64) -> Result<(sled::Db, File, Opened), OpenFault> {
    let db = open_unlocked(&sled::Config::new().path(path).cache_capacity(cache).flush_every_ms(None))?;
    let opened = match db.get(SENTINEL)? {
        Some(value) => {
            let (generation, records) = read_sentinel(&value)?;
            Opened { fresh: false, generation, records }
        }
        None if db.is_empty() => {
            db.insert(SENTINEL, sentinel(0, 0))?;
            Opened { fresh: true, generation: 0, records: 0 }
        }
        None => return Err(OpenFault::Damaged("the sentinel record is missing".to_owned())),
    };
    db.flush()?;
    sync_directory(path)?;
    let file = File::open(path.join("db"))?;
    Ok((db, file, opened))
}

fn open_unlocked(config: &sled::Config) -> sled::Result<sled::Db> {
    for _ in 1..LOCK_TRIES {
        match config.open() {
            // The only way to tell: sled wraps the system's error into one of kind `Other`.
            Err(sled::Error::Io(error)) if error.to_string().contains("could not acquire lock") => {
                std::thread::sleep(LOCK_PAUSE);
            }
            opened => return opened,
        }
    }
    config.open()
}

fn sync_directory(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(path)?.sync_all()?;
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn sentinel(generation: u64, records: u64) -> Vec<u8> {
    let mut value = [0; 16];
    value[..8].copy_from_slice(&generation.to_le_bytes());
    value[8..].copy_from_slice(&records.to_le_bytes());
    frame(&value)
}

fn read_sentinel(value: &[u8]) -> Result<(u64, u64), OpenFault> {
    let value = unframe(value).map_err(|fault| match fault {
        FrameFault::Newer(found) => OpenFault::Newer(found),
        other => OpenFault::Damaged(other.to_string()),
    })?;
    match value.split_first_chunk::<8>() {
        Some((generation, rest)) if rest.len() == 8 => {
            let records = rest.try_into().expect("invariant: the length was just checked");
            Ok((u64::from_le_bytes(*generation), u64::from_le_bytes(records)))
        }
        _ => Err(OpenFault::Damaged("the sentinel record is malformed".to_owned())),
    }
}

// === values ===

#[derive(Debug, thiserror::Error)]
enum FrameFault {
    #[error("a record is too short")]
    Short,
    #[error("a record has version {0}")]
    Newer(u8),
    #[error("a record fails its checksum")]
    Checksum,
}

/// Version, CRC-32 of the value, value.
fn frame(value: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(FRAME_LEN + value.len());
    framed.push(FRAME);
    framed.extend_from_slice(&crc32fast::hash(value).to_le_bytes());
    framed.extend_from_slice(value);
    framed
}

fn unframe(framed: &[u8]) -> Result<&[u8], FrameFault> {
    let (head, value) = framed.split_first_chunk::<FRAME_LEN>().ok_or(FrameFault::Short)?;
    let [version, crc @ ..] = *head;
    if version > FRAME {
        return Err(FrameFault::Newer(version));
    }
    if crc32fast::hash(value) != u32::from_le_bytes(crc) {
        return Err(FrameFault::Checksum);
    }
    Ok(value)
}

/// Runs `work`; a panic in it becomes a text.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
        format!("the engine panicked: {text}")
    })
}

fn damaged(path: &Path, reason: impl ToString) -> IndexError {
    IndexError::Damaged { path: path.to_owned(), reason: reason.to_string() }
}

fn failed(path: &Path, reason: impl ToString) -> IndexError {
    IndexError::Failed { path: path.to_owned(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    const CACHE: u64 = 1 << 20;
    const LIMIT: Duration = Duration::from_secs(30);

    fn open(path: &Path) -> Result<Index, IndexError> {
        Index::open(path, CACHE, LIMIT)
    }

    fn batch(puts: &[(&str, &str)], removes: &[&str]) -> Batch {
        let mut batch = Batch::default();
        for (key, value) in puts {
            batch.put(key.as_bytes().to_vec(), value.as_bytes());
        }
        for key in removes {
            batch.remove(key.as_bytes().to_vec());
        }
        batch
    }

    fn contents(index: &Index) -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let mut all = Vec::new();
        index.scan(|key, value| all.push((text(key), text(value)))).unwrap();
        all
    }

    #[test]
    fn keeps_what_was_committed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        let index = open(&path).unwrap();
        assert!(index.opened().fresh);
        index.commit(batch(&[("a", "1"), ("b", "2"), ("c", "3")], &[])).unwrap();
        index.commit(batch(&[("b", "4")], &["c", "never"])).unwrap();
        assert_eq!(index.get(b"b").unwrap(), Some(b"4".to_vec()));
        assert_eq!(index.close(), 2);
        let index = open(&path).unwrap();
        assert_eq!(index.opened(), Opened { fresh: false, generation: 2, records: 2 });
        assert_eq!(contents(&index), [("a".into(), "1".into()), ("b".into(), "4".into())]);
    }

    #[test]
    fn a_lock_still_held_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        let index = open(&path).unwrap();
        index.commit(batch(&[("a", "1")], &[])).unwrap();
        let lingering = index.database().unwrap().clone();
        assert_eq!(index.close(), 1);
        let release = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            drop(lingering);
        });
        assert_eq!(open(&path).unwrap().opened().records, 1);
        release.join().unwrap();
    }

    #[test]
    fn a_lost_record_is_damage() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        let index = open(&path).unwrap();
        index.commit(batch(&[("a", "1"), ("b", "2")], &[])).unwrap();
        index.database().unwrap().remove("a").unwrap();
        drop(index);
        let index = open(&path).unwrap();
        assert!(matches!(index.scan(|_, _| {}), Err(IndexError::Damaged { .. })));
    }

    #[test]
    fn a_lost_sentinel_is_damage_and_an_emptied_index_is_fresh() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        let index = open(&path).unwrap();
        index.commit(batch(&[("a", "1")], &[])).unwrap();
        index.database().unwrap().remove(SENTINEL).unwrap();
        drop(index);
        assert!(matches!(open(&path), Err(IndexError::Damaged { .. })));
        std::fs::remove_dir_all(&path).unwrap();
        assert!(open(&path).unwrap().opened().fresh);
    }

    #[test]
    fn a_newer_version_is_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        let index = open(&path).unwrap();
        let mut value = sentinel(1, 0);
        value[0] = FRAME + 1;
        index.database().unwrap().insert(SENTINEL, value).unwrap();
        drop(index);
        assert!(matches!(open(&path), Err(IndexError::Newer { found: 2, .. })));
    }

    #[test]
    fn garbage_in_the_database_is_an_error_and_not_a_panic() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index");
        let index = open(&path).unwrap();
        let value = "x".repeat(3000);
        for round in 0..20 {
            index.commit(batch(&[(&format!("k{round}"), &value)], &[])).unwrap();
        }
        drop(index);
        let file = File::options().write(true).open(path.join("db")).unwrap();
        let len = file.metadata().unwrap().len();
        for offset in (0..len).step_by(512) {
            file.write_all_at(&[0xa5; 64], offset).unwrap();
        }
        let outcome = open(&path).and_then(|index| index.scan(|_, _| {}).map(|()| index.opened().fresh));
        // The engine takes a database for an empty one when its first segments are damaged.
        assert!(matches!(outcome, Ok(true) | Err(IndexError::Damaged { .. })), "{outcome:?}");
        let aside = set_aside(&path).unwrap();
        assert!(aside.exists() && !path.exists());
        assert!(open(&path).unwrap().opened().fresh);
        assert_eq!(set_aside(&path).unwrap(), aside);
    }
}
