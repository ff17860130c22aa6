//! [`Follower`]: one watcher, as far as it has read.
//!
//! It begins with a snapshot, or where an earlier follower stopped. Each read gives what changed since the
//! last one, in pieces of bounded size, each thing in its latest state; nothing is kept for a follower
//! between. One that comes so late that something was dropped before it was told of it gets a snapshot
//! again.

use std::sync::Arc;

use farmhand_proto::control;
use prost::Message;
use tokio::sync::OwnedSemaphorePermit;

use super::Activity;
use super::book::{FINISHED, Page};

/// Finished operations of a snapshot where the watcher leaves the number to us.
const DEFAULT_FINISHED: usize = 1000;

/// Operations read at once: the lock is held meanwhile.
const PAGE: usize = 2000;

/// Bytes of operations in one piece. Builds, mnemonics and samples come on top, a few hundred KiB at most.
const PIECE: usize = 768 * 1024;

/// A watcher. There are at most [`WATCHERS`](super::WATCHERS).
#[derive(Debug)]
pub struct Follower {
    activity: Arc<Activity>,
    /// It has seen what changed up to here.
    after: u64,
    /// What changed last before this is unknown to it, or was told since.
    begun: u64,
    /// Older finished operations are not for it.
    floor: u64,
    /// Finished operations it wants in a snapshot.
    finished: usize,
    progress: Progress,
    _place: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// A snapshot is to begin.
    New,
    /// A snapshot was told in part.
    Snapshot,
    /// Everything was told.
    Changes,
}

/// A place in the changes of one run of a node (`WatchPosition`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The start of the node.
    pub epoch: u64,
    /// The number of a change.
    pub change: u64,
}

/// There are too many watchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} watchers are connected already, which is the limit; close a dashboard", super::WATCHERS)]
pub struct Full;

/// What a follower reads at once.
#[derive(Clone, Debug, Default)]
pub struct Update {
    /// What was told before is void.
    pub is_snapshot: bool,
    /// A snapshot ends with this.
    pub is_complete: bool,
    /// To go on after this.
    pub change: u64,
    /// Operations that changed; the oldest change first.
    pub operations: Vec<control::Operation>,
    /// Builds that changed.
    pub builds: Vec<control::Build>,
    /// Kinds of actions that changed.
    pub mnemonics: Vec<control::Mnemonic>,
    /// Seconds that passed.
    pub samples: Vec<control::Sample>,
}

// === impl Activity ===

impl Activity {
    /// A new watcher, which goes on at `resume` where that is possible. It wants so many finished operations
    /// in a snapshot; 0 leaves that to us.
    ///
    /// # Errors
    /// [`Full`].
    pub fn follow(self: &Arc<Self>, resume: Option<Position>, finished: usize) -> Result<Follower, Full> {
        let place = Arc::clone(&self.watchers).try_acquire_owned().map_err(|_| Full)?;
        let resume = resume.filter(|at| at.epoch == self.epoch && at.change <= self.book().changes());
        Ok(Follower {
            activity: Arc::clone(self),
            after: resume.map_or(0, |at| at.change),
            begun: 0,
            floor: 0,
            finished: if finished == 0 { DEFAULT_FINISHED } else { finished.min(FINISHED) },
            progress: if resume.is_some() { Progress::Changes } else { Progress::New },
            _place: place,
        })
    }
}

// === impl Follower ===

impl Follower {
    /// Whether there is more of a snapshot to read at once.
    pub fn is_in_snapshot(&self) -> bool {
        self.progress != Progress::Changes
    }

    /// Waits until there is something that was not read.
    pub async fn changed(&self) {
        loop {
            let mut change = std::pin::pin!(self.activity.change.notified());
            change.as_mut().enable();
            {
                let mut book = self.activity.book();
                if book.changes() > self.after {
                    return;
                }
                book.is_awaited = true;
            }
            change.await;
        }
    }

    /// What changed since the last call, or the next piece of it.
    pub fn read(&mut self) -> Update {
        let (page, is_snapshot) = self.page();
        let mut update = Update { is_snapshot, ..Update::default() };
        let (to, is_last) = self.operations_of(&page, &mut update.operations);
        let Activity { machine, person, .. } = &*self.activity;
        let builds = page.builds.iter().filter(|build| build.changed() <= to);
        update.builds = builds.map(|build| build.to_wire(machine, person)).collect();
        let mnemonics = page.mnemonics.iter().filter(|kind| kind.changed() <= to);
        update.mnemonics = mnemonics.map(|kind| kind.to_wire()).collect();
        let samples = page.samples.iter().filter(|sample| sample.changed() <= to);
        update.samples = samples.map(|sample| sample.to_wire()).collect();
        self.after = to;
        if is_last {
            update.is_complete = self.is_in_snapshot();
            self.progress = Progress::Changes;
        }
        update.change = to;
        update
    }

    /// The next page, and whether it begins a snapshot.
    fn page(&mut self) -> (Page, bool) {
        let activity = Arc::clone(&self.activity);
        let book = activity.book();
        if book.forgotten() > self.after.max(self.begun) {
            self.progress = Progress::New;
        }
        let is_new = self.progress == Progress::New;
        if is_new {
            self.after = 0;
            self.begun = book.changes();
            self.floor = book.journal.floor(self.finished);
            self.progress = Progress::Snapshot;
        }
        (book.page(self.after, self.floor, PAGE), is_new)
    }

    /// The operations of `page` that fit into one piece. Gives the change up to which everything is told
    /// with them, and whether that is all.
    fn operations_of(&self, page: &Page, operations: &mut Vec<control::Operation>) -> (u64, bool) {
        let (mut bytes, mut to) = (0, self.after);
        for (change, entry) in &page.operations {
            let operation = entry.to_wire();
            bytes += operation.encoded_len();
            if bytes > PIECE && !operations.is_empty() {
                return (to, false);
            }
            operations.push(operation);
            to = *change;
        }
        (page.to, page.is_last)
    }
}

#[cfg(test)]
mod tests;
