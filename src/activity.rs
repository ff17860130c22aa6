//! Activity: what a person may see of the actions of this node, and who is told when it changes.
//!
//! Execution and the services of REAPI tell it what happens; the control API reads it. It decides nothing,
//! and nothing waits for it: everything is kept in memory within fixed bounds, behind one lock that is
//! held for a moment, and bytes are counted without any.
//!
//! - `book` is the pure part: all of what is remembered, and the rules of counting;
//! - `journal` has the operations in the order of their last change, `entry` one of them;
//! - `builds`, `mnemonics`, `samples` have what is told by build, by kind of action and by second;
//! - `runs`, `misses`, `needs`, `pace` and `traffic` help the book;
//! - `follow` is how a watcher reads: a snapshot, then what changed.
//!
//! Nothing of this outlives the process; a history on disk is for others.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use farmhand_proto::control;
use farmhand_proto::reapi::ActionResult;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use crate::action_cache::ActionKey;
use crate::execution::action::PreparedAction;
use crate::execution::queue::Now;
use crate::execution::{self, Observer, Operation, OperationId, OperationState, Sequence};
use crate::request_metadata::RequestMetadata;
use book::{Book, Via};
use entry::Entry;
use traffic::Traffic;

mod book;
mod builds;
mod entry;
mod follow;
mod journal;
mod misses;
mod mnemonics;
mod needs;
mod pace;
mod runs;
mod samples;
#[cfg(test)]
mod testing;
mod traffic;

pub use entry::Remarks;
pub use follow::{Follower, Full, Position, Update};
pub use samples::Gauges;
pub use traffic::{Meter, Moved};

/// Watchers at once.
pub const WATCHERS: usize = 64;

/// Everything that is remembered, for all who tell and all who read.
pub struct Activity {
    epoch: u64,
    machine: Box<str>,
    person: Box<str>,
    book: Mutex<Book>,
    /// Told when the book changes while it is awaited.
    change: Notify,
    /// Bytes of all clients.
    traffic: Arc<Traffic>,
    watchers: Arc<Semaphore>,
}

/// A result that a client took from the action cache, or put there.
#[derive(Clone, Debug)]
pub struct Passed(Arc<Entry>);

// === impl Passed ===

impl Passed {
    /// As the control API tells it.
    pub fn to_operation(&self) -> control::Operation {
        self.0.to_wire()
    }
}

// === impl Activity ===

impl Activity {
    /// Nothing yet, of a node on `machine`. `epoch` grows with every start of the node, so that a reader
    /// can tell that the numbers of changes began anew.
    /// What ends is numbered by `sequence`.
    pub fn new(epoch: u64, machine: &str, sequence: Sequence) -> Self {
        Self {
            epoch,
            machine: machine.into(),
            person: "".into(),
            book: Mutex::new(Book::new(sequence)),
            change: Notify::new(),
            traffic: Arc::default(),
            watchers: Arc::new(Semaphore::new(WATCHERS)),
        }
    }

    /// The same of a machine that `person` uses: whose builds these are, as far as can be told.
    pub fn of_person(self, person: &str) -> Self {
        Self { person: person.into(), ..self }
    }

    /// The start of the node that this is about.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The counters of the node.
    pub fn execution(&self) -> control::Execution {
        self.book().execution()
    }

    /// A client asked for a result by GetActionResult, and got this. Returns the operation this is told
    /// as, if it is.
    pub fn looked_up(
        &self,
        key: &ActionKey,
        metadata: &RequestMetadata,
        found: Option<&ActionResult>,
    ) -> Option<Passed> {
        self.change(|book| book.looked_up(now(), Via::GetActionResult, key, metadata, found)).map(Passed)
    }

    /// A client told a result by UpdateActionResult. Returns the operation this is told as, if it is.
    pub fn stored(
        &self,
        key: &ActionKey,
        metadata: &RequestMetadata,
        result: &ActionResult,
    ) -> Option<Passed> {
        self.change(|book| book.stored(now(), key, metadata, result)).map(Passed)
    }

    /// Counts the bytes of a call of the build called `build`; `metadata` is asked for when nothing was
    /// seen of that build before.
    pub fn meter(&self, build: &str, metadata: impl FnOnce() -> RequestMetadata) -> Meter {
        let build = self.change(|book| book.traffic(SystemTime::now(), build, metadata));
        Meter { node: Arc::clone(&self.traffic), build }
    }

    /// The bytes of blobs that all clients moved since the start.
    pub fn moved(&self) -> Moved {
        self.traffic.moved()
    }

    /// Changes what is known of the operation called `name`, which watchers are told; `false` if it is
    /// not here.
    pub fn annotate(&self, name: &str, edit: impl FnOnce(&mut Remarks)) -> bool {
        let Some(id) = OperationId::parse(name) else { return false };
        self.change(|book| book.annotate(id, edit))
    }

    /// Something changed that is told of the operations of an action, though it is not kept here:
    /// watchers are told of them again.
    pub fn touch(&self, key: &ActionKey) {
        self.change(|book| book.touch(key));
    }

    /// Ends a second. To be called once in each, also while nothing happens: watchers take it for a sign
    /// of life.
    pub fn second(&self, gauges: Gauges) {
        let moved = self.traffic.moved();
        self.change(|book| book.second(SystemTime::now(), gauges, moved));
    }

    /// Changes the book, and wakes who waits for that.
    fn change<T>(&self, edit: impl FnOnce(&mut Book) -> T) -> T {
        let mut book = self.book();
        let before = book.changes();
        let done = edit(&mut book);
        let wake = book.changes() != before && std::mem::take(&mut book.is_awaited);
        drop(book);
        if wake {
            self.change.notify_waiters();
        }
        done
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Activity").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Observer for Activity {
    fn looked_up(&self, request: &execution::Request, found: Option<&ActionResult>) {
        let key = ActionKey { instance: request.instance.clone(), action: request.action };
        self.change(|book| book.looked_up(now(), Via::Execute, &key, &request.invocation, found));
    }

    fn came(&self, operation: &Arc<Operation>, state: &OperationState, action: Option<&PreparedAction>) {
        self.change(|book| book.came(now(), operation, state, action));
    }

    fn changed(&self, operation: &Operation, state: &OperationState) {
        self.change(|book| book.changed(operation, state));
    }
}

/// The time, on both clocks.
fn now() -> Now {
    Now { instant: Instant::now(), wall: SystemTime::now() }
}
