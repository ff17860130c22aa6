//! [`History`]: what became of operations, kept on disk beyond the end of the node.
//!
//! It owns `history/` below the data directory, so that no damage to it, and no want of room for it, ever
//! touches the store. It hears of finished operations as their [`Observer`] and keeps the latest: runs and
//! answers of the cache in a log each, so that a day of hits does not wash away the runs that explain
//! tomorrow's misses.
//!
//! What is promised: to hear of an operation costs its way a push (`inbox`) and never a wait; what comes
//! too fast is counted and lost, and of answers of the cache a sample is enough (`sampler`). A record is
//! seen by readers at once and is in a file about a second later (`writer`); with nothing to write, nothing
//! is done. Memory does not grow with what is kept: records are read block by block (`log`,
//! `segment`, `block`). Bytes on the disk that make no sense are passed over and cost what they were.
//!
//! These are files and not an [`Index`](crate::index::Index) because its engine keeps every page in memory
//! that was touched since its start, as long as there are few: all of the history, here.
//!
//! `explainer` tells why operations missed, from what is remembered here; how two actions are compared
//! is for [`miss`](crate::miss).

use std::collections::{HashMap, VecDeque};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use farmhand_proto::control::{self, Miss};
use tokio::sync::{mpsc, oneshot};

use crate::digest::{Digest, HASH_LEN};
use crate::execution::action::PreparedAction;
use crate::execution::{Kind, Observer, Operation, OperationId, OperationState};

mod block;
pub mod describe;
pub mod explainer;
pub mod filter;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod inbox;
mod log;
pub mod record;
mod sampler;
mod segment;
mod writer;

pub use explainer::Explainer;
pub use filter::Filter;
pub use record::Record;

use inbox::Inbox;
use log::{Cursor, Limits, Log};
use record::{Listed, action_mark, id_mark};
use sampler::Sampler;
use segment::Frame;
use writer::{Note, Writer};

/// Bytes of each of the two logs.
const LOG_BYTES: u64 = 128 << 20;

/// Operations that wait to be explained.
const MISSES: usize = 2048;

/// Explanations of operations that are not written down.
const EXPLAINED: usize = 4096;

/// Records looked at for one page.
const SCAN: usize = 20_000;

/// Records looked at for the actions that have one hash.
const TWINS: usize = 256;

/// How long a reader waits for what ended just before.
const SETTLE: Duration = Duration::from_secs(1);

/// What is kept of finished operations. Clones are the same history.
#[derive(Clone)]
pub struct History {
    handle: Arc<Handle>,
}

/// Some of the finished operations, the newest first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Those wanted, as lists tell them.
    pub operations: Vec<control::Operation>,
    /// Where to go on; `None` at the end.
    pub next: Option<u64>,
}

/// Why the history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The system's words.
    #[error("the history cannot be read: {0}")]
    Io(#[from] io::Error),
    /// The node is ending.
    #[error("the history is closed")]
    Closed,
}

/// Which records are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Runs,
    Both,
}

/// Ends the thread with the last clone.
struct Handle {
    inner: Arc<Inner>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What readers and the thread share.
struct Inner {
    inbox: Inbox<Note>,
    state: Mutex<State>,
    misses: mpsc::Sender<Arc<Operation>>,
    /// Until somebody follows them.
    waiting_misses: Mutex<Option<mpsc::Receiver<Arc<Operation>>>>,
    /// Of operations that are not over.
    explained: Mutex<Explained>,
    sampler: Sampler,
    /// Operations the thread could not be told of.
    dropped: AtomicU64,
}

/// The latest explanations of operations that are not written down.
#[derive(Default)]
struct Explained {
    misses: HashMap<OperationId, Miss>,
    /// The oldest first; may name some that are gone.
    order: VecDeque<OperationId>,
}

/// The two logs.
struct State {
    runs: Log,
    hits: Log,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl History ===

impl History {
    /// Opens the history in `path`, or begins one there, that keeps at least `records` runs and as many
    /// answers of the cache. Blocks. One that cannot be opened is kept in memory, as far as it fits, and
    /// tried again later.
    pub fn open(path: &Path, records: u64) -> Self {
        let inner = Arc::new(Inner::new(Limits { records, bytes: LOG_BYTES }));
        let mut writer = Writer::new(Arc::clone(&inner), path.to_owned());
        writer.open();
        let thread = std::thread::Builder::new().name("history".to_owned()).spawn(move || writer.run());
        if let Err(error) = &thread {
            tracing::warn!(%error, "no thread for the history: nothing is kept");
            inner.inbox.close();
        }
        Self { handle: Arc::new(Handle { inner, thread: Mutex::new(thread.ok()) }) }
    }

    /// A history that keeps nothing.
    pub fn forgetful() -> Self {
        let inner = Inner::new(Limits { records: 0, bytes: 0 });
        inner.inbox.close();
        Self { handle: Arc::new(Handle { inner: Arc::new(inner), thread: Mutex::default() }) }
    }

    /// Writes what there is and ends. Blocks.
    pub fn close(&self) {
        self.handle.stop();
    }

    /// Takes in the record of what somebody else saw end. Returns at once.
    pub fn remember(&self, record: Record) {
        self.inner().tell(Note::Record(Box::new(record)));
    }

    /// Whether an answer of the cache is to be told by [`remember`](Self::remember): of very many a
    /// sample is enough.
    pub fn wants_hit(&self) -> bool {
        self.inner().sampler.takes(SystemTime::now())
    }

    /// Why an operation that is not over missed, once that is known.
    pub fn explanation(&self, name: &str) -> Option<Miss> {
        lock(&self.inner().explained).misses.get(&OperationId::parse(name)?).cloned()
    }

    /// Takes note of why an operation missed.
    fn explained(&self, id: OperationId, miss: Miss, is_over: bool) {
        lock(&self.inner().explained).insert(id, miss);
        if is_over {
            self.inner().tell(Note::Explained(id));
        }
    }

    /// The operations that missed, for who explains them; `None` from the second time on.
    fn take_misses(&self) -> Option<mpsc::Receiver<Arc<Operation>>> {
        lock(&self.inner().waiting_misses).take()
    }

    /// The largest number of an operation that ended.
    pub fn last_sequence(&self) -> u64 {
        self.inner().state().last()
    }

    /// A number above those of all that ended.
    pub fn end(&self) -> u64 {
        self.inner().state().last().saturating_add(1)
    }

    /// Waits until what ended before this is seen by readers.
    pub async fn settle(&self) {
        let (reply, settled) = oneshot::channel();
        if self.inner().inbox.put(Note::Settle(reply)).is_ok() {
            self.inner().inbox.hurry();
            // In a flood readers see what there is.
            let _ = tokio::time::timeout(SETTLE, settled).await;
        }
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.handle.inner
    }
}

// === reading ===

impl History {
    /// Up to `limit` operations below the number `before` that `filter` wants, the newest first. Gives up
    /// after a while: then `next` says where to go on.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub async fn page(&self, filter: Filter, before: u64, limit: usize) -> Result<Page, HistoryError> {
        self.reading(move |inner| inner.page(&filter, before, limit)).await
    }

    /// The operations of `action` in any instance, the newest first.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub async fn of_action(
        &self,
        action: Digest,
        before: u64,
        limit: usize,
    ) -> Result<Vec<Arc<Record>>, HistoryError> {
        let text = action.to_string();
        let wanted = move |record: &Record| record.operation.action_digest == text;
        let mark = action_mark(action.hash());
        self.reading(move |inner| inner.find(Sort::Both, mark, before, limit, wanted)).await
    }

    /// The runs with the mark of a [`Kin`](record::Kin), the newest first.
    async fn of_kin(&self, mark: u32, before: u64, limit: usize) -> Result<Vec<Arc<Record>>, HistoryError> {
        let wanted = move |record: &Record| record.kin().is_some_and(|kin| kin.mark() == mark);
        self.reading(move |inner| inner.find(Sort::Runs, mark, before, limit, wanted)).await
    }

    /// The operation called `id`.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub async fn named(&self, id: OperationId) -> Result<Option<Arc<Record>>, HistoryError> {
        let name = id.to_string();
        let wanted = move |record: &Record| record.operation.name == name;
        let found =
            self.reading(move |inner| inner.find(Sort::Both, id_mark(&id), u64::MAX, 1, wanted)).await?;
        Ok(found.into_iter().next())
    }

    /// The actions whose hash this is; several differ in size or function.
    ///
    /// # Errors
    /// [`HistoryError`].
    pub async fn actions_with(&self, hash: [u8; HASH_LEN]) -> Result<Vec<Digest>, HistoryError> {
        let wanted = move |record: &Record| record.action().is_some_and(|action| *action.hash() == hash);
        let mark = action_mark(&hash);
        let found = self.reading(move |inner| inner.find(Sort::Both, mark, u64::MAX, TWINS, wanted)).await?;
        let mut actions: Vec<Digest> = found.iter().filter_map(|record| record.action()).collect();
        actions.sort_unstable();
        actions.dedup();
        Ok(actions)
    }

    /// Reads where waiting for the disk is allowed.
    async fn reading<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> Result<T, HistoryError> {
        let inner = Arc::clone(self.inner());
        let done = tokio::task::spawn_blocking(move || read(&inner));
        Ok(done.await.map_err(|_| HistoryError::Closed)??)
    }
}

impl Observer for History {
    fn came(&self, operation: &Arc<Operation>, _: &OperationState, action: Option<&PreparedAction>) {
        if action.is_some() && operation.kind == Kind::Execute {
            // Under load the miss is explained when somebody asks.
            let _ = self.inner().misses.try_send(Arc::clone(operation));
        }
    }

    fn finished(&self, operation: &Arc<Operation>) {
        let is_run = operation.about.is_some();
        if is_run || self.wants_hit() {
            self.inner().tell(Note::Finished(Arc::clone(operation)));
        }
    }

    fn amended(&self, operation: &Arc<Operation>) {
        self.inner().tell(Note::Amended(Arc::clone(operation)));
    }
}

// === impl Handle ===

impl Handle {
    fn stop(&self) {
        if let Some(thread) = lock(&self.thread).take() {
            self.inner.inbox.close();
            // A panic there was logged.
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

// === impl Inner ===

impl Inner {
    fn new(limits: Limits) -> Self {
        let (misses, waiting) = mpsc::channel(MISSES);
        Self {
            inbox: Inbox::new(),
            state: Mutex::new(State::new(limits)),
            misses,
            waiting_misses: Mutex::new(Some(waiting)),
            explained: Mutex::default(),
            sampler: Sampler::default(),
            dropped: AtomicU64::new(0),
        }
    }

    /// Tells the thread, which is never waited for.
    fn tell(&self, note: Note) {
        let Err(note) = self.inbox.put(note) else { return };
        if let Note::Finished(operation) = &note {
            lock(&self.explained).remove(&operation.id);
        }
        if matches!(note, Note::Finished(_) | Note::Record(_)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn page(&self, filter: &Filter, before: u64, limit: usize) -> io::Result<Page> {
        let mut cursors = {
            let state = self.state();
            [state.runs.cursor(before), state.hits.cursor(before)]
        };
        let mut page = Page::default();
        let may_match = |frame: &Frame| filter.may_match(frame);
        let next = |cursor: &mut Cursor| cursor.next(&may_match);
        let [runs, hits] = &mut cursors;
        let (mut run, mut hit) = (next(runs)?, next(hits)?);
        for looked_at in 1.. {
            let number = |one: &Option<Listed>| one.as_ref().map_or(0, |one| one.operation.sequence);
            let is_run = number(&run) >= number(&hit);
            let newest = if is_run { run.take() } else { hit.take() };
            let Some(Listed { operation }) = newest else { break };
            let position = operation.sequence;
            if filter.matches(&operation) {
                page.operations.push(operation);
            }
            if page.operations.len() >= limit || looked_at >= SCAN {
                page.next = Some(position);
                break;
            }
            if is_run {
                run = next(runs)?;
            } else {
                hit = next(hits)?;
            }
        }
        Ok(page)
    }

    fn find(
        &self,
        sort: Sort,
        mark: u32,
        before: u64,
        limit: usize,
        wanted: impl Fn(&Record) -> bool,
    ) -> io::Result<Vec<Arc<Record>>> {
        let searches = {
            let state = self.state();
            let runs = state.runs.search(mark);
            if sort == Sort::Runs { vec![runs] } else { vec![runs, state.hits.search(mark)] }
        };
        let mut all = Vec::new();
        for search in searches {
            let is_wanted = |record: &Record| record.sequence() < before && wanted(record);
            let mut found: Vec<Arc<Record>> =
                search.memory.iter().filter(|record| is_wanted(record)).take(limit).cloned().collect();
            if found.len() < limit {
                search.on_disk(before, |record| {
                    if is_wanted(&record) {
                        found.push(Arc::new(record));
                    }
                    if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                })?;
            }
            all.extend(found);
        }
        all.sort_unstable_by_key(|record| std::cmp::Reverse(record.sequence()));
        all.truncate(limit);
        Ok(all)
    }
}

// === impl Explained ===

impl Explained {
    fn insert(&mut self, id: OperationId, miss: Miss) {
        self.misses.insert(id, miss);
        self.order.push_back(id);
        while self.order.len() > EXPLAINED {
            if let Some(oldest) = self.order.pop_front() {
                self.misses.remove(&oldest);
            }
        }
    }

    fn remove(&mut self, id: &OperationId) -> Option<Miss> {
        self.misses.remove(id)
    }
}

// === impl State ===

impl State {
    fn new(limits: Limits) -> Self {
        Self { runs: Log::new(limits), hits: Log::new(limits) }
    }

    fn log(&mut self, of_hits: bool) -> &mut Log {
        if of_hits { &mut self.hits } else { &mut self.runs }
    }

    fn last(&self) -> u64 {
        self.runs.last().max(self.hits.last())
    }

    fn waiting(&self) -> usize {
        self.runs.waiting() + self.hits.waiting()
    }
}

#[cfg(test)]
mod tests;
