//! [`Operations`]: every operation a client may ask about by name.
//!
//! A map behind one short lock: live operations as long as they live, finished ones until
//! [`Retention`] says otherwise, the oldest first. Nothing here decides anything about running;
//! the queue does. Also keeps the counters and the recent history that people look at, and tells the
//! [`Observer`] of everything before clients learn of it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use farmhand_proto::reapi;
use prost::Message;
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use super::action::PreparedAction;
use super::inline::InlineHints;
use super::observer::{Observer, Sequence};
use super::queue::{AttemptId, Loss, RunId};
use super::{About, Retention};
use crate::digest::Digest;
use crate::instance::InstanceName;
use crate::request_metadata::RequestMetadata;

/// The name of an operation: random, so nobody can guess that of another.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperationId(Uuid);

/// One Execute call: what it asked for, and how far it is.
#[derive(Debug)]
pub struct Operation {
    /// Its name.
    pub id: OperationId,
    /// What asked for it.
    pub kind: Kind,
    /// Instance of the call.
    pub instance: InstanceName,
    /// Digest of the Action.
    pub action: Digest,
    /// Who called.
    pub invocation: Arc<RequestMetadata>,
    /// `ExecutionPolicy.priority`, as far as it is honoured.
    pub priority: i32,
    /// What the caller wants inside the result.
    pub hints: InlineHints,
    /// Something the caller should know, for `ExecuteResponse.message`.
    pub note: Option<String>,
    /// What it wants run; `None` if it never needed a run.
    pub about: Option<Box<About>>,
    sequence: OnceLock<u64>,
    state: watch::Sender<OperationState>,
}

/// What an operation is asked for with.
#[derive(Clone, Debug)]
pub struct Call {
    /// What asks for it.
    pub kind: Kind,
    /// Instance of the call.
    pub instance: InstanceName,
    /// Digest of the Action.
    pub action: Digest,
    /// Who calls.
    pub invocation: Arc<RequestMetadata>,
    /// `ExecutionPolicy.priority`, as far as it is honoured.
    pub priority: i32,
    /// What the caller wants inside the result.
    pub hints: InlineHints,
}

/// What asks for an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A client called Execute.
    #[default]
    Execute,
    /// A person has an action run again.
    Rerun,
}

/// How far an operation is. Never goes back once it is completed.
#[derive(Clone, Debug)]
pub struct OperationState {
    /// Its stage.
    pub stage: Stage,
    /// The run it waits for; `None` if it never needed one.
    pub run: Option<RunId>,
    /// Where and when.
    pub timeline: Timeline,
    /// The response, from [`Stage::Completed`] on and never before.
    pub response: Option<Arc<reapi::ExecuteResponse>>,
}

/// Stage of an operation (`ExecutionStage.Value`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Waits for a slot.
    Queued,
    /// A worker has it.
    Executing,
    /// Over, however it ended.
    Completed,
}

/// Where and when a run went. Times are those of the scheduler's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timeline {
    /// Queued first.
    pub queued_at: Option<SystemTime>,
    /// Worker that has, or had, it.
    pub worker: Option<Arc<str>>,
    /// Given to that worker.
    pub assigned_at: Option<SystemTime>,
    /// Inputs staged, command started.
    pub running_at: Option<SystemTime>,
    /// Command ended.
    pub collecting_at: Option<SystemTime>,
    /// Over.
    pub ended_at: Option<SystemTime>,
    /// Times it was given to a worker, but for those that had no slot for it.
    pub attempts: u32,
    /// The number of the attempt that this tells of; 0 before the first.
    pub attempt: u32,
    /// Workers that were lost with it before.
    pub losses: Vec<Loss>,
}

/// How a finished operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0.
    Succeeded,
    /// Another exit code.
    Failed(i32),
    /// The call itself ended with this status code.
    Error(i32),
}

/// All operations.
pub struct Operations {
    retention: Retention,
    observer: Arc<dyn Observer>,
    sequence: Sequence,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    all: BTreeMap<OperationId, Arc<Operation>>,
    live: BTreeMap<OperationId, Arc<Operation>>,
    finished: VecDeque<Finished>,
    finished_bytes: usize,
}

struct Finished {
    at: Instant,
    id: OperationId,
    bytes: usize,
}

// === impl OperationId ===

impl OperationId {
    /// A name nobody had before.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }

    /// A name made of a number.
    pub fn from_number(number: u128) -> Self {
        Self(Uuid::from_u128(number))
    }

    /// The random part, fit for a file name.
    pub fn uuid(&self) -> &Uuid {
        &self.0
    }

    /// Reads a name. Only the last segment counts, as proxies put prefixes before it.
    pub fn parse(name: &str) -> Option<Self> {
        let (_, last) = name.rsplit_once('/').unwrap_or(("", name));
        Uuid::try_parse(last).ok().map(Self)
    }
}

/// `operations/{uuid}`.
impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "operations/{}", self.0)
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

// === impl Operation ===

impl Operation {
    /// An operation in its first state.
    pub fn new(call: Call, note: Option<String>, state: OperationState) -> Self {
        let id = OperationId::random();
        let Call { kind, instance, action, invocation, priority, hints } = call;
        let (about, sequence, state) = (None, OnceLock::new(), watch::Sender::new(state));
        Self { id, kind, instance, action, invocation, priority, hints, note, about, sequence, state }
    }

    /// The same, and what it wants run.
    #[must_use]
    pub fn with(self, about: About) -> Self {
        Self { about: Some(Box::new(about)), ..self }
    }

    /// Its number among the finished ones, which only grows; 0 while it is not over.
    pub fn sequence(&self) -> u64 {
        self.sequence.get().copied().unwrap_or(0)
    }

    /// The present state.
    pub fn state(&self) -> OperationState {
        self.state.borrow().clone()
    }

    /// Follows the state from now on.
    pub fn subscribe(&self) -> watch::Receiver<OperationState> {
        self.state.subscribe()
    }

    /// Whether it is over.
    pub fn is_done(&self) -> bool {
        self.state.borrow().is_done()
    }
}

impl OperationState {
    /// Waiting for a slot since `now`.
    pub fn queued(now: SystemTime) -> Self {
        let timeline = Timeline { queued_at: Some(now), ..Default::default() };
        Self { stage: Stage::Queued, run: None, timeline, response: None }
    }

    /// Over before anything had to run.
    pub fn completed(now: SystemTime, response: Arc<reapi::ExecuteResponse>) -> Self {
        let timeline = Timeline { queued_at: Some(now), ended_at: Some(now), ..Default::default() };
        Self { stage: Stage::Completed, run: None, timeline, response: Some(response) }
    }

    /// The attempt that it tells of.
    pub fn attempt(&self) -> Option<AttemptId> {
        self.run.map(|run| AttemptId { run, number: self.timeline.attempt })
    }

    /// Whether this is the last state.
    pub fn is_done(&self) -> bool {
        self.stage == Stage::Completed
    }
}

impl Outcome {
    /// How `response` ended.
    pub fn of(response: &reapi::ExecuteResponse) -> Self {
        match (&response.status, &response.result) {
            (Some(status), _) if status.code != 0 => Self::Error(status.code),
            (_, Some(result)) if result.exit_code != 0 => Self::Failed(result.exit_code),
            _ => Self::Succeeded,
        }
    }
}

// === impl Operations ===

impl Operations {
    /// No operations yet.
    /// No operations yet. Those that end are numbered by `sequence`.
    pub fn new(retention: Retention, sequence: Sequence, observer: Arc<dyn Observer>) -> Self {
        Self { retention, observer, sequence, table: Mutex::default() }
    }

    /// Takes in a new operation, finished or waiting for `action` to be run.
    pub fn insert(&self, now: Instant, operation: Arc<Operation>, action: Option<&PreparedAction>) {
        let state = operation.state();
        if state.is_done() {
            self.number(&operation, state.timeline.ended_at);
        }
        self.observer.came(&operation, &state, action);
        let mut table = self.table();
        table.all.insert(operation.id, operation.clone());
        if !state.is_done() {
            table.live.insert(operation.id, operation);
            return;
        }
        drop(table);
        self.finish(now, &operation);
    }

    /// The operation called `id`.
    pub fn get(&self, id: OperationId) -> Option<Arc<Operation>> {
        self.table().all.get(&id).cloned()
    }

    /// Tells everybody who waits for `id` its new state. Nothing happens to a finished one.
    pub fn update(&self, now: Instant, id: OperationId, state: OperationState) {
        let Some(operation) = self.get(id).filter(|operation| !operation.is_done()) else { return };
        let is_done = state.is_done();
        if is_done {
            self.number(&operation, state.timeline.ended_at);
        }
        self.observer.changed(&operation, &state);
        operation.state.send_replace(state);
        if is_done {
            self.finish(now, &operation);
        }
    }

    /// Before anybody can see that it is over.
    fn number(&self, operation: &Operation, ended_at: Option<SystemTime>) {
        let number = self.sequence.next(ended_at.unwrap_or(SystemTime::UNIX_EPOCH));
        operation.sequence.get_or_init(|| number);
    }

    fn finish(&self, now: Instant, operation: &Arc<Operation>) {
        let mut table = self.table();
        table.live.remove(&operation.id);
        table.finish(now, operation);
        table.expire(now, &self.retention);
        drop(table);
        self.observer.finished(operation);
    }

    /// Adds to an operation that ended before its worker did what the worker told afterwards: exit
    /// code, logs and times. Its status stays. These are some hundred bytes, which do not count for
    /// [`Retention::bytes`].
    pub fn amend(&self, id: OperationId, late: &reapi::ExecuteResponse) {
        let Some(operation) = self.get(id) else { return };
        let Some(result) = &late.result else { return };
        let is_new = operation.state.send_if_modified(|state| {
            let Some(response) = state.response.as_mut().filter(|response| response.result.is_none()) else {
                return false;
            };
            Arc::make_mut(response).result = Some(reapi::ActionResult {
                exit_code: result.exit_code,
                stdout_digest: result.stdout_digest.clone(),
                stderr_digest: result.stderr_digest.clone(),
                execution_metadata: result.execution_metadata.clone(),
                ..Default::default()
            });
            true
        });
        if is_new {
            self.observer.amended(&operation);
        }
    }

    /// Up to `limit` operations after `after`, in the order of their names: new ones never shift a
    /// page.
    pub fn page(&self, after: Option<OperationId>, limit: usize) -> Vec<Arc<Operation>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.table().all.range((from, Bound::Unbounded)).take(limit).map(|(_, o)| o.clone()).collect()
    }

    /// Forgets a finished operation; `false` if it is live or unknown.
    pub fn forget(&self, id: OperationId) -> bool {
        let mut table = self.table();
        !table.live.contains_key(&id) && table.all.remove(&id).is_some()
    }

    /// Forgets finished operations whose time is over.
    pub fn expire(&self, now: Instant) {
        self.table().expire(now, &self.retention);
    }

    /// All live operations.
    pub fn live(&self) -> Vec<Arc<Operation>> {
        self.table().live.values().cloned().collect()
    }

    /// The finished ones that are kept, newest first.
    #[cfg(test)]
    pub fn ended(&self) -> Vec<Arc<Operation>> {
        let table = self.table();
        table.finished.iter().rev().filter_map(|finished| table.all.get(&finished.id).cloned()).collect()
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn finish(&mut self, now: Instant, operation: &Operation) {
        let bytes = operation.state.borrow().response.as_ref().map_or(0, |response| response.encoded_len());
        self.finished.push_back(Finished { at: now, id: operation.id, bytes });
        self.finished_bytes += bytes;
    }

    fn expire(&mut self, now: Instant, retention: &Retention) {
        while let Some(oldest) = self.finished.front() {
            let within = now.saturating_duration_since(oldest.at) < retention.age
                && self.finished.len() <= retention.count
                && self.finished_bytes <= retention.bytes;
            if within {
                break;
            }
            self.finished_bytes -= oldest.bytes;
            self.all.remove(&oldest.id);
            self.finished.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::digest::DigestFunction;
    use crate::execution::response;

    fn operation(state: OperationState) -> Arc<Operation> {
        let call = Call {
            kind: Kind::Execute,
            instance: InstanceName::default(),
            action: Digest::empty(DigestFunction::Sha256),
            invocation: Arc::default(),
            priority: 0,
            hints: InlineHints::default(),
        };
        Arc::new(Operation::new(call, None, state))
    }

    fn done() -> OperationState {
        OperationState::completed(SystemTime::UNIX_EPOCH, Arc::new(response::cancelled("test")))
    }

    fn operations(count: usize, bytes: usize) -> Operations {
        Operations::new(
            Retention { age: Duration::from_secs(600), count, bytes },
            Sequence::default(),
            Arc::new(()),
        )
    }

    #[test]
    fn names_are_found_behind_prefixes_and_nothing_else_is_a_name() {
        let id = OperationId::random();
        for name in [id.to_string(), format!("a/b/{id}"), id.0.to_string()] {
            assert_eq!(OperationId::parse(&name), Some(id), "{name}");
        }
        for name in ["", "operations/", "operations/x", &format!("{id}/")] {
            assert_eq!(OperationId::parse(name), None, "{name}");
        }
    }

    #[test]
    fn finished_ones_are_forgotten_by_age_number_and_size() {
        let start = Instant::now();
        let operations = operations(2, 1 << 20);
        let all: Vec<_> = (0..3).map(|_| operation(done())).collect();
        for operation in &all {
            operations.insert(start, operation.clone(), None);
        }
        assert!(operations.get(all[0].id).is_none());
        assert!(operations.get(all[2].id).is_some());
        operations.expire(start + Duration::from_secs(599));
        assert!(operations.get(all[2].id).is_some());
        operations.expire(start + Duration::from_secs(600));
        assert!(operations.get(all[2].id).is_none());

        let small = self::operations(10, 1);
        small.insert(start, all[0].clone(), None);
        assert!(small.get(all[0].id).is_none());
    }

    #[test]
    fn live_ones_stay_whatever_the_limits() {
        let start = Instant::now();
        let operations = operations(0, 0);
        let live = operation(OperationState::queued(SystemTime::UNIX_EPOCH));
        operations.insert(start, live.clone(), None);
        operations.expire(start + Duration::from_secs(100_000));
        assert!(operations.get(live.id).is_some());
        assert!(!operations.forget(live.id));
        operations.update(start, live.id, done());
        assert!(operations.live().is_empty());
        assert!(operations.get(live.id).is_none());
    }

    #[test]
    fn a_finished_state_is_final() {
        let operations = operations(10, 1 << 20);
        let operation = operation(done());
        operations.insert(Instant::now(), operation.clone(), None);
        operations.update(Instant::now(), operation.id, OperationState::queued(SystemTime::UNIX_EPOCH));
        assert!(operation.is_done());
        assert_eq!(operations.ended().len(), 1);
    }

    #[test]
    fn what_is_told_late_is_added_and_changes_no_outcome() {
        let operations = operations(10, 1 << 20);
        let operation = operation(done());
        operations.insert(Instant::now(), operation.clone(), None);
        let late = |exit_code| reapi::ExecuteResponse {
            result: Some(reapi::ActionResult { exit_code, ..Default::default() }),
            ..Default::default()
        };
        operations.amend(operation.id, &late(137));
        operations.amend(operation.id, &late(0));
        let response = operation.state().response.unwrap();
        assert_eq!(response.result.as_ref().map(|result| result.exit_code), Some(137));
        assert_eq!(Outcome::of(&response), Outcome::Error(tonic::Code::Cancelled as i32));
    }

    #[test]
    fn pages_join_to_the_whole() {
        let operations = operations(100, 1 << 20);
        for _ in 0..10 {
            operations.insert(Instant::now(), operation(done()), None);
        }
        let mut after = None;
        let mut seen = Vec::new();
        loop {
            let page = operations.page(after, 3);
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            seen.extend(page.iter().map(|operation| operation.id));
        }
        assert_eq!(seen.len(), 10);
        assert!(seen.is_sorted());
    }
}
