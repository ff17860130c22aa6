//! [`Writer`]: the thread that takes in what ended, and writes it down about once a second.
//!
//! While nothing ends it sleeps. Operations that were ended before their worker answered wait a little
//! longer for what it tells of them, for what is written stays as it is. While its files cannot be written, or the disk is nearly full, records
//! stay in memory as far as they fit, and it is tried again later; the store has the room first.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::record::Record;
use super::{Inner, lock, log};
use crate::execution::OperationId;
use crate::execution::operations::Operation;

/// Longest time a record waits to be written once the thread has it.
const INTERVAL: Duration = Duration::from_secs(1);

/// Longest time a record waits for its worker's answer.
const LATE: Duration = Duration::from_secs(10);

/// Records that wait for no answer any more.
const MANY: usize = 1024;

/// Time until files that could not be opened or written are tried again.
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
    /// A worker told more of an operation that was over before.
    Amended(Arc<Operation>),
    /// It is known why an operation missed that was over before.
    Explained(OperationId),
    /// Answer once everything before this is seen by readers.
    Settle(oneshot::Sender<()>),
}

/// The directories of runs and of answers of the cache.
const DIRECTORIES: [(&str, bool); 2] = [("runs", false), ("hits", true)];

/// The state of the thread.
pub(super) struct Writer {
    inner: Arc<Inner>,
    path: PathBuf,
    /// When the next write is due.
    due: Option<Instant>,
    /// Operations whose worker has not answered.
    awaited: HashSet<OperationId>,
    /// Until when that is waited for.
    patience: Option<Instant>,
    /// Set while the files do not work: when they are tried again.
    retry: Option<Instant>,
    is_open: bool,
    complained: Option<Instant>,
    lost: u64,
}

// === impl Writer ===

impl Writer {
    /// Writes into `path`.
    pub(super) fn new(inner: Arc<Inner>, path: PathBuf) -> Self {
        Self {
            inner,
            path,
            due: None,
            awaited: HashSet::new(),
            patience: None,
            retry: None,
            is_open: false,
            complained: None,
            lost: 0,
        }
    }

    /// Opens what is there.
    pub(super) fn open(&mut self) {
        for (name, of_hits) in DIRECTORIES {
            match log::open(&self.path.join(name)) {
                Ok(found) => {
                    if found.is_damaged {
                        tracing::warn!(log = name, "a part of the history is damaged and passed over");
                    }
                    self.inner.state().log(of_hits).begin(found.segments);
                }
                Err(error) => {
                    tracing::warn!(%error, "the history does not open; what ends is kept in memory");
                    self.retry = Some(Instant::now() + RETRY);
                    return;
                }
            }
        }
        (self.is_open, self.retry) = (true, None);
    }

    /// Works until the inbox is closed.
    pub(super) fn run(mut self) {
        loop {
            let taken = self.inner.inbox.take(self.due);
            taken.notes.into_iter().for_each(|note| self.take(note));
            if taken.is_closed {
                break;
            }
            if taken.is_due && !self.holds_back() {
                self.write();
            }
        }
        self.retry = None;
        self.write();
    }

    fn take(&mut self, note: Note) {
        match note {
            Note::Finished(operation) => {
                if let Some(record) = Record::of(&operation) {
                    if record.is_awaited() {
                        self.awaited.insert(operation.id);
                        self.patience.get_or_insert_with(|| Instant::now() + LATE);
                    }
                    let miss = lock(&self.inner.explained).remove(&operation.id);
                    self.push(record.explained(miss));
                }
            }
            Note::Record(record) => self.push(*record),
            Note::Amended(operation) => self.amend(&operation),
            Note::Explained(id) => self.explain(&id),
            // A caller that went away needs no answer.
            Note::Settle(reply) => drop(reply.send(())),
        }
    }

    /// Adds to a record that was made without its explanation. What is written stays as it is.
    fn explain(&mut self, id: &OperationId) {
        let Some(miss) = lock(&self.inner.explained).misses.get(id).cloned() else { return };
        if self.inner.state().runs.revise(id, |record| record.explained(Some(miss))) {
            lock(&self.inner.explained).remove(id);
        }
    }

    /// Adds to a record that was made before the worker answered.
    fn amend(&mut self, operation: &Operation) {
        self.awaited.remove(&operation.id);
        if let Some(late) = Record::of(operation) {
            self.inner.state().runs.revise(&operation.id, |record| record.amended(late));
        }
    }

    /// Whether a worker may yet answer, and it can be waited for.
    fn holds_back(&mut self) -> bool {
        let is_patient = self.patience.is_some_and(|until| Instant::now() < until);
        let holds_back = is_patient && !self.awaited.is_empty() && self.inner.state().waiting() < MANY;
        if holds_back {
            self.due = Some(Instant::now() + INTERVAL);
        }
        holds_back
    }

    fn push(&mut self, mut record: Record) {
        let mut state = self.inner.state();
        record.operation.sequence = record.sequence().max(state.last() + 1);
        let of_hits = record.is_hit();
        self.lost += state.log(of_hits).push(record) as u64;
        drop(state);
        self.due = self.due.or_else(|| Some(Instant::now() + INTERVAL));
    }

    fn write(&mut self) {
        (self.due, self.patience) = (None, None);
        self.awaited.clear();
        self.complain();
        if self.retry.is_some_and(|at| Instant::now() >= at) && !self.is_open {
            self.open();
        }
        if self.is_open && self.has_room() && self.retry.is_none_or(|at| Instant::now() >= at) {
            match self.write_logs() {
                Ok(()) => self.retry = None,
                Err(error) => {
                    tracing::warn!(%error, "the history cannot be written; trying again");
                    self.retry = Some(Instant::now() + RETRY);
                }
            }
        }
        if self.inner.state().waiting() > 0 {
            self.due = Some(Instant::now() + INTERVAL);
        }
    }

    fn write_logs(&self) -> io::Result<()> {
        for (name, of_hits) in DIRECTORIES {
            let job = self.inner.state().log(of_hits).job();
            if let Some(done) = job.run(&self.path.join(name))? {
                self.inner.state().log(of_hits).settle(done);
            }
            let full = self.inner.state().log(of_hits).full();
            if let Some(full) = full {
                let sealed = log::seal(&full)?;
                self.inner.state().log(of_hits).replace_last(sealed);
            }
            let dropped = self.inner.state().log(of_hits).drop_oldest();
            dropped.iter().try_for_each(std::fs::remove_file)?;
        }
        Ok(())
    }

    fn has_room(&self) -> bool {
        let free = rustix::fs::statvfs(&self.path);
        free.map_or(0, |space| space.f_bavail.saturating_mul(space.f_frsize)) >= ROOM
    }

    /// Says what was lost, now and then.
    fn complain(&mut self) {
        self.lost += self.inner.dropped.swap(0, Ordering::Relaxed);
        if self.lost > 0 && self.complained.is_none_or(|at| at.elapsed() >= COMPLAINT) {
            tracing::warn!(lost = self.lost, "finished operations could not be kept in the history");
            (self.complained, self.lost) = (Some(Instant::now()), 0);
        }
    }
}
