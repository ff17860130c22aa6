//! [`Writer`]: the thread that takes in what ended, and writes it down about once a second.
//!
//! While nothing ends it sleeps. While the index does not work, or the disk is nearly full, records
//! stay in memory as far as they fit, and it is tried again later; the store has the room first.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::record::Record;
use super::{INDEX_CACHE, Inner, OPEN_LIMIT, State, lock, log};
use crate::execution::OperationId;
use crate::execution::operations::Operation;
use crate::index::{Batch, Index, IndexError, set_aside};

/// Longest time a record waits to be written.
const INTERVAL: Duration = Duration::from_secs(1);

/// Records beyond which the next commit comes at once.
const MANY: usize = 1024;

/// Time until an index that failed is tried again.
const RETRY: Duration = Duration::from_secs(30);

/// Free bytes on the disk without which nothing is written: the store needs them more.
const ROOM: u64 = 16 << 20;

/// Time between two complaints of the same kind.
const COMPLAINT: Duration = Duration::from_secs(60);

/// What the thread is told.
pub(super) enum Note {
    /// An operation is over.
    Finished(Arc<Operation>),
    /// The same, by somebody who made the record.
    Record(Box<Record>),
    /// It is known why an operation missed that was over before.
    Explained(OperationId),
    /// What is on the disk could not be read.
    Suspect,
    /// Answer once everything before this is seen by readers.
    Settle(oneshot::Sender<()>),
    /// Write what there is, and end.
    Stop,
}

/// The state of the thread.
pub(super) struct Writer {
    inner: Arc<Inner>,
    path: PathBuf,
    /// When the next commit is due.
    due: Option<Instant>,
    retry: Option<Instant>,
    complained: Option<Instant>,
    lost: u64,
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(inner: Arc<Inner>, path: PathBuf) -> Self {
        let retry = inner.index().is_none().then(|| Instant::now() + RETRY);
        Self { inner, path, due: None, retry, complained: None, lost: 0 }
    }

    /// Works until told to stop.
    pub(super) fn run(mut self, notes: &Receiver<Note>) {
        loop {
            let note = match self.due {
                None => notes.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => notes.recv_timeout(due.saturating_duration_since(Instant::now())),
            };
            match note {
                Ok(Note::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(note) => self.take(note),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let is_due = self.due.is_some_and(|due| Instant::now() >= due);
            if is_due || self.inner.state().unwritten() >= MANY {
                self.write();
            }
        }
        self.write();
        self.inner.set_index(None);
    }

    fn take(&mut self, note: Note) {
        match note {
            Note::Finished(operation) => {
                if let Some(mut record) = Record::of(&operation) {
                    record.miss = lock(&self.inner.explained).remove(&operation.id);
                    self.push(record);
                }
            }
            Note::Record(record) => self.push(*record),
            Note::Explained(id) => self.explain(&id),
            Note::Suspect if self.retry.is_none() => {
                tracing::warn!("the history cannot be read and is looked into");
                self.give_up();
                self.retry = Some(Instant::now());
                self.due = Some(Instant::now());
            }
            Note::Suspect => {}
            // A caller that went away needs no answer.
            Note::Settle(reply) => drop(reply.send(())),
            Note::Stop => {}
        }
    }

    /// Adds to a record that was made without its explanation. What is on the disk for good stays.
    fn explain(&mut self, id: &OperationId) {
        let Some(miss) = lock(&self.inner.explained).misses.get(id).cloned() else { return };
        if self.inner.state().runs.explain(id, miss) {
            lock(&self.inner.explained).remove(id);
            self.due = self.due.or_else(|| Some(Instant::now() + INTERVAL));
        }
    }

    fn push(&mut self, mut record: Record) {
        let mut state = self.inner.state();
        record.operation.sequence = record.sequence().max(state.last() + 1);
        let log = if record.is_hit() { &mut state.hits } else { &mut state.runs };
        self.lost += log.push(record) as u64;
        drop(state);
        self.due = self.due.or_else(|| Some(Instant::now() + INTERVAL));
    }

    fn write(&mut self) {
        self.due = None;
        self.complain();
        if self.retry.is_some_and(|at| Instant::now() < at) || !self.has_room() {
            self.due = self.inner.state().is_dirty().then(|| Instant::now() + INTERVAL);
            return;
        }
        if self.retry.is_some() {
            self.renew();
        }
        let Some(index) = self.inner.index() else { return };
        if let Err(error) = commit(&self.inner, &index) {
            tracing::warn!(%error, "the history cannot be written; trying again");
            drop(index);
            self.give_up();
        }
    }

    fn has_room(&self) -> bool {
        let directory = self.path.parent().unwrap_or(&self.path);
        let free = rustix::fs::statvfs(directory);
        free.map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize)) >= ROOM
    }

    /// Lets go of an index that failed: it refuses everything until it is opened again.
    fn give_up(&mut self) {
        let broken = self.inner.set_index(None);
        self.retry = Some(Instant::now() + RETRY);
        self.due = Some(Instant::now() + INTERVAL);
        // It may hang while it closes.
        let closing = std::thread::Builder::new().name("history-close".to_owned());
        if let Err(error) = closing.spawn(move || drop(broken)) {
            tracing::debug!(%error, "no thread to close the index of the history");
        }
    }

    /// Opens the index again, or begins a new one.
    fn renew(&mut self) {
        match open(&self.path, &self.inner, true) {
            Ok(()) => self.retry = None,
            Err(error) => {
                tracing::warn!(%error, "the history does not open; trying again");
                self.retry = Some(Instant::now() + RETRY);
            }
        }
    }

    /// Says what was lost, now and then.
    fn complain(&mut self) {
        let lost = self.lost + self.inner.dropped.swap(0, Ordering::Relaxed);
        let is_time = self.complained.is_none_or(|at| at.elapsed() >= COMPLAINT);
        self.lost = if lost > 0 && is_time {
            tracing::warn!(lost, "finished operations could not be kept in the history");
            self.complained = Some(Instant::now());
            0
        } else {
            lost
        };
    }
}

/// Writes what is not written.
fn commit(inner: &Inner, index: &Index) -> Result<(), IndexError> {
    let mut batch = Batch::default();
    let (runs, hits) = {
        let state = inner.state();
        if !state.is_dirty() {
            return Ok(());
        }
        (state.runs.stage(&mut batch, index)?, state.hits.stage(&mut batch, index)?)
    };
    index.commit(batch)?;
    let mut state = inner.state();
    state.runs.settle(runs);
    state.hits.settle(hits);
    Ok(())
}

/// Opens the index and what is in it; reads all of it if `thorough`. A damaged one is set aside, and a
/// new one begun: what is in memory is written into that.
///
/// # Errors
/// [`IndexError`], when not even a new one opens.
pub(super) fn open(path: &Path, inner: &Inner, thorough: bool) -> Result<(), IndexError> {
    let was_there = path.join("db").exists();
    match open_whole(path, inner, thorough) {
        Ok((index, mut state)) => {
            if was_there && index.opened().fresh {
                tracing::warn!("the history was there and is empty: it begins anew");
            }
            let mut present = inner.state();
            state.adopt(&present);
            *present = state;
            inner.set_index(Some(index));
            Ok(())
        }
        Err(error @ IndexError::Newer { .. }) => Err(error),
        Err(error) => {
            tracing::warn!(%error, "the history is damaged; it is set aside and begins anew");
            let failed = |error: std::io::Error| IndexError::Failed {
                path: path.to_owned(),
                reason: error.to_string(),
            };
            set_aside(path).map_err(failed)?;
            let index = Index::open(path, INDEX_CACHE, OPEN_LIMIT)?;
            inner.state().lose_disk();
            inner.set_index(Some(index));
            Ok(())
        }
    }
}

fn open_whole(path: &Path, inner: &Inner, thorough: bool) -> Result<(Index, State), IndexError> {
    let index = Index::open(path, INDEX_CACHE, OPEN_LIMIT)?;
    if thorough {
        let mut is_sound = true;
        index.scan(|key, value| is_sound &= log::is_sound(key, value))?;
        if !is_sound {
            return Err(index.damaged("a block of the history is spoiled"));
        }
    }
    let state = State::open(inner.limits, &index)?;
    Ok((index, state))
}
