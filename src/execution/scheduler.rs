//! [`Scheduler`]: the handle through which everybody starts, follows and cancels executions.
//!
//! One task, the `driver`, owns the queue: it applies events one by one and performs the effects.
//! A result out of the action cache never reaches it. Around it: one task for each action that is
//! with a worker, and one for each result on its way into the action cache.
//!
//! The channel to the driver has no bound of its own. What bounds it: a caller has at most one
//! unanswered request in it, a stream at most one notice that it is gone, and a worker's news come
//! from as many actions as it has slots.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use farmhand_proto::reapi;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::about::About;
use super::action::{Action, Loaded, PlatformRules, PreparedAction};
use super::grants::{Demand, Grant};
use super::inline::InlineHints;
use super::live_logs::{LiveLogs, LogFiles};
use super::observer::{Observer, Sequence};
use super::operations::{Call, Kind, Operation, OperationId, OperationState, Operations, Stage};
use super::placement::{Holdings, Site};
use super::queue::{Duty, Event, Now, Queue, Refusal, Submission};
use super::run_times::Like;
use super::{ExecuteError, PRIORITIES, Settings, response};
use crate::action_cache::{ActionCache, ActionKey};
use crate::cas::ContentAddressableStorage;
use crate::digest::Digest;
use crate::instance::InstanceName;
use crate::request_metadata::RequestMetadata;
use crate::tasks::Tasks;
use crate::worker::Worker;

mod driver;
mod steering;
#[cfg(test)]
mod tests;

use steering::Question;
pub use steering::{KillError, MachineChange, MachineError};

/// One Execute call, its fields parsed.
#[derive(Clone, Debug)]
pub struct Request {
    /// What asks.
    pub kind: Kind,
    /// Instance named by the client.
    pub instance: InstanceName,
    /// Digest of the Action.
    pub action: Digest,
    /// Whether the action cache must not be read.
    pub skip_cache_lookup: bool,
    /// `ExecutionPolicy.priority`, as sent.
    pub priority: i32,
    /// What to put inside the result.
    pub hints: InlineHints,
    /// Who asks.
    pub invocation: Arc<RequestMetadata>,
    /// For whom it is to run; unset for the person of this machine.
    pub person: Option<Arc<str>>,
    /// How its platform properties are read.
    pub platform: PlatformRules,
}

/// Starts, follows and cancels executions. Clones are the same scheduler.
#[derive(Clone)]
pub struct Scheduler {
    shared: Arc<Shared>,
}

/// Follows one operation. As long as one of these lives, the operation has a client that waits.
pub struct OperationWatch {
    operation: Arc<Operation>,
    state: watch::Receiver<OperationState>,
    events: mpsc::UnboundedSender<Message>,
}

/// An action that another machine waits for.
pub enum Followed {
    /// It is under way.
    Live(OperationWatch),
    /// It is over.
    Known(Box<reapi::ExecuteResponse>),
}

/// What the farm does, for people.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Waiting for a slot, one entry for each run.
    pub queued: Vec<LiveAction>,
    /// With a worker, one entry for each run.
    pub running: Vec<LiveAction>,
}

/// A run that is not over.
#[derive(Clone, Debug)]
pub struct LiveAction {
    /// The first operation that wants it.
    pub operation: Arc<Operation>,
    /// Where it is.
    pub state: OperationState,
    /// Operations that want it.
    pub callers: usize,
}

struct Shared {
    cas: Arc<dyn ContentAddressableStorage>,
    action_cache: Arc<dyn ActionCache>,
    operations: Operations,
    observer: Arc<dyn Observer>,
    logs: LiveLogs,
    settings: Settings,
    demand: watch::Sender<DemandByMachine>,
    duties: watch::Sender<DutyByMachine>,
    events: mpsc::UnboundedSender<Message>,
    tasks: Tasks,
}

/// Asks whether other machines have an action too, and tells by [`Scheduler::found_elsewhere`].
pub trait Claimer: Send + Sync + 'static {
    /// A client of this machine wants this action, which is not in the cache. Must not wait.
    fn claim(&self, operation: OperationId, key: &ActionKey);
}

/// What is wanted of each machine that is there, or was.
pub type DemandByMachine = BTreeMap<Arc<str>, Demand>;

/// What machines were told to do, those that were told anything.
pub type DutyByMachine = BTreeMap<Arc<str>, Duty>;

/// What the driver is told.
enum Message {
    Event(Event),
    Submit { operation: Arc<Operation>, submission: Submission, reply: oneshot::Sender<Result<(), Refusal>> },
    AddWorker(Arc<dyn Worker>),
    Question(Question),
    WatchDemand,
    Holdings(Arc<dyn Holdings>),
    Claimer(Arc<dyn Claimer>),
}

/// The time, on both clocks.
fn now() -> Now {
    Now { instant: Instant::now(), wall: SystemTime::now() }
}

// === impl Scheduler ===

impl Scheduler {
    /// Starts a scheduler without workers, which tells `observer` what it does. It ends with `tasks`.
    pub fn start(
        cas: Arc<dyn ContentAddressableStorage>,
        action_cache: Arc<dyn ActionCache>,
        settings: Settings,
        sequence: Sequence,
        observer: Arc<dyn Observer>,
        tasks: &Tasks,
    ) -> Self {
        let (events, messages) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            cas,
            action_cache,
            operations: Operations::new(settings.retention, sequence, Arc::clone(&observer)),
            observer,
            logs: LiveLogs::default(),
            demand: watch::Sender::default(),
            duties: watch::Sender::default(),
            events,
            tasks: tasks.clone(),
            settings,
        });
        let queue = Queue::new(&shared.settings, now());
        tasks.spawn("scheduler", driver::run(shared.clone(), queue, messages));
        Self { shared }
    }

    /// Takes a worker in, or takes note of another number of slots of a known one.
    pub fn add_worker(&self, worker: Arc<dyn Worker>) {
        self.send(Message::AddWorker(worker));
    }

    /// Takes a worker out. What it has runs elsewhere, or waits for it to come back.
    pub fn remove_worker(&self, name: &str, reason: &str) {
        self.send(Message::Event(Event::WorkerLeft { worker: name.into(), reason: reason.to_owned() }));
    }

    /// Takes note of what a worker says of who may use its slots.
    pub fn grant(&self, worker: &str, grant: Grant) {
        self.send(Message::Event(Event::Granted { worker: worker.into(), grant }));
    }

    /// Takes note of where a worker is.
    pub fn site(&self, worker: &str, site: Site) {
        self.send(Message::Event(Event::Sited { worker: worker.into(), site }));
    }

    /// Asks `holdings` from now on what machines hold of an action's inputs.
    pub fn set_holdings(&self, holdings: Arc<dyn Holdings>) {
        self.send(Message::Holdings(holdings));
    }

    /// Tells `claimer` of actions from now on.
    pub fn set_claimer(&self, claimer: Arc<dyn Claimer>) {
        self.send(Message::Claimer(claimer));
    }

    /// The machine of that name sees to the action of an operation already, for clients of its own.
    pub fn found_elsewhere(&self, operation: OperationId, machine: &str) {
        self.send(Message::Event(Event::FoundElsewhere { operation, worker: machine.into() }));
    }

    /// Follows an action that this machine sees to itself, or has the result of, as one more client; `None`
    /// if there is none.
    pub async fn follow(&self, key: ActionKey) -> Option<Followed> {
        let found = self.ask(|reply| Question::Find(key.clone(), reply)).await.flatten();
        if let Some(watch) = found.and_then(|id| self.attach(&id.to_string())) {
            return Some(Followed::Live(watch));
        }
        let result = self.lookup(&key).await?;
        Some(Followed::Known(Box::new(response::cached(result))))
    }

    /// Follows what is wanted of each machine. What changes while nobody looks is told as one.
    pub fn demand(&self) -> watch::Receiver<DemandByMachine> {
        self.send(Message::WatchDemand);
        self.shared.demand.subscribe()
    }

    /// Follows what machines are told to do.
    pub fn duties(&self) -> watch::Receiver<DutyByMachine> {
        self.shared.duties.subscribe()
    }

    /// Starts an action, or finds its result. The operation returned may be over already: a hit, or
    /// an action whose blobs are absent.
    ///
    /// # Errors
    /// [`ExecuteError`], when there is no operation.
    pub async fn execute(&self, request: Request) -> Result<OperationWatch, ExecuteError> {
        let Shared { cas, settings, .. } = &*self.shared;
        let loaded = Action::load(&**cas, &request.instance, request.action, settings).await??;
        let action = match loaded {
            Loaded::Ready(action) => action,
            Loaded::Missing(digests) => return Ok(self.finished(request, response::missing(&digests))),
        };
        let mut looked_up_at = None;
        if !request.skip_cache_lookup && !action.do_not_cache() {
            looked_up_at = Some(Instant::now());
            let found = self.lookup(action.key()).await;
            self.shared.observer.looked_up(&request, found.as_ref());
            if let Some(result) = found {
                return Ok(self.finished(request, response::cached(result)));
            }
        }
        let mut rules = request.platform;
        rules.root_as_slash |= request.invocation.expects_root_as_slash();
        match action.prepare(&**cas, rules).await?? {
            Loaded::Ready(action) => self.submit(request, action, looked_up_at).await,
            Loaded::Missing(digests) => Ok(self.finished(request, response::missing(&digests))),
        }
    }

    /// The operation called `name`.
    pub fn get(&self, name: &str) -> Option<Arc<Operation>> {
        self.shared.operations.get(OperationId::parse(name)?)
    }

    /// Waits for the operation called `name` as one more client.
    pub fn attach(&self, name: &str) -> Option<OperationWatch> {
        let operation = self.get(name)?;
        if !operation.is_done() {
            self.send(Message::Event(Event::WaiterJoined(operation.id)));
        }
        Some(self.watch(operation))
    }

    /// Up to `limit` operations after `after`, in the order of their names.
    pub fn list(&self, after: Option<OperationId>, limit: usize) -> Vec<Arc<Operation>> {
        self.shared.operations.page(after, limit)
    }

    /// Cancels the operation called `name`; `false` if there is none. Nothing happens to one that
    /// is over. Others that share its run are not touched.
    pub fn cancel(&self, name: &str) -> bool {
        let Some(operation) = self.get(name) else { return false };
        self.send(Message::Event(Event::Cancel(operation.id)));
        true
    }

    /// As [`cancel`](Self::cancel), for one that the queue may not know yet.
    pub(super) fn give_up(&self, operation: &Operation) {
        self.send(Message::Event(Event::Cancel(operation.id)));
    }

    /// Forgets an operation that is over; `false` if it is not.
    pub fn forget(&self, operation: &Operation) -> bool {
        self.shared.operations.forget(operation.id)
    }

    /// The log files of the attempt that an operation in this state waits, or waited, for; `None` while
    /// its command has not begun, and when the attempt is over. What came of it is told to the operation
    /// before its files are forgotten.
    pub fn live_logs(&self, state: &OperationState) -> Option<watch::Receiver<LogFiles>> {
        self.shared.logs.follow(state.attempt()?)
    }

    /// What waits and runs.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let mut runs = BTreeMap::new();
        for operation in self.shared.operations.live() {
            let state = operation.state();
            let entry = runs.entry((state.run, state.run.is_none().then_some(operation.id)));
            entry.or_insert_with(|| LiveAction { operation, state, callers: 0 }).callers += 1;
        }
        for action in runs.into_values() {
            match action.state.stage {
                Stage::Queued => snapshot.queued.push(action),
                Stage::Executing => snapshot.running.push(action),
                Stage::Completed => {}
            }
        }
        snapshot
    }

    /// The finished operations that are kept, newest first.
    #[cfg(test)]
    pub fn ended(&self) -> Vec<Arc<Operation>> {
        self.shared.operations.ended()
    }

    /// How executions are handled.
    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// Where results are inlined from.
    pub fn cas(&self) -> &dyn ContentAddressableStorage {
        &*self.shared.cas
    }

    /// Fires when the node is to end: nothing that waits gets an answer any more.
    pub fn stopping(&self) -> &CancellationToken {
        self.shared.tasks.token()
    }

    /// The stored result, if it may be served. A cache that cannot be read is like an empty one: the
    /// build goes on.
    pub(super) async fn lookup(&self, key: &ActionKey) -> Option<reapi::ActionResult> {
        match self.shared.action_cache.get(key).await {
            Ok(found) => found.filter(|result| result.exit_code == 0),
            Err(error) => {
                tracing::warn!(action = %key.action, %error, "action cache not readable");
                None
            }
        }
    }

    async fn submit(
        &self,
        request: Request,
        action: PreparedAction,
        looked_up_at: Option<Instant>,
    ) -> Result<OperationWatch, ExecuteError> {
        let (watch, answer) = self.offer(request, Arc::new(action), looked_up_at);
        answer.await.map_err(|_| ExecuteError::ShuttingDown)??;
        Ok(watch)
    }

    /// Hands an action to the queue. The answer tells whether it was taken.
    pub(super) fn offer(
        &self,
        request: Request,
        action: Arc<PreparedAction>,
        looked_up_at: Option<Instant>,
    ) -> (OperationWatch, oneshot::Receiver<Result<(), Refusal>>) {
        let person = request.person.clone().unwrap_or_else(|| self.shared.settings.person.clone());
        let build = request.invocation.share();
        let like = Like::new(&request.invocation.target_id, &request.invocation.action_mnemonic);
        let about = About::new(&action, request.skip_cache_lookup);
        let operation = new_operation(request, OperationState::queued(SystemTime::now())).with(about);
        let operation = Arc::new(operation);
        let priority = operation.priority;
        let submission =
            Submission { operation: operation.id, action, priority, person, build, like, looked_up_at };
        // Made before the queue knows the operation: should this call be dropped while it waits for
        // the answer, the notice of that is in the channel behind the submission.
        let watch = self.watch(operation.clone());
        let (reply, answer) = oneshot::channel();
        self.send(Message::Submit { operation, submission, reply });
        (watch, answer)
    }

    /// An operation that is over before it began.
    fn finished(&self, request: Request, response: reapi::ExecuteResponse) -> OperationWatch {
        let state = OperationState::completed(SystemTime::now(), Arc::new(response));
        let operation = Arc::new(new_operation(request, state));
        self.shared.operations.insert(Instant::now(), operation.clone(), None);
        self.watch(operation)
    }

    fn watch(&self, operation: Arc<Operation>) -> OperationWatch {
        let state = operation.subscribe();
        OperationWatch { operation, state, events: self.shared.events.clone() }
    }

    /// A driver that has ended needs to be told nothing.
    fn send(&self, message: Message) {
        let _ended = self.shared.events.send(message);
    }
}

fn new_operation(request: Request, state: OperationState) -> Operation {
    let priority = clamp(request.priority);
    let note = (priority != request.priority).then(|| {
        let (least, most) = (PRIORITIES.start(), PRIORITIES.end());
        format!("priority {} is not between {least} and {most}; the nearest was taken", request.priority)
    });
    let Request { kind, instance, action, invocation, hints, .. } = request;
    Operation::new(Call { kind, instance, action, invocation, priority, hints }, note, state)
}

fn clamp(priority: i32) -> i32 {
    priority.clamp(*PRIORITIES.start(), *PRIORITIES.end())
}

// === impl OperationWatch ===

impl OperationWatch {
    /// What is followed.
    pub fn operation(&self) -> &Arc<Operation> {
        &self.operation
    }

    /// The latest state, which counts as seen from now on.
    pub fn state(&mut self) -> OperationState {
        self.state.borrow_and_update().clone()
    }

    /// Waits for a state that was not seen yet.
    pub async fn changed(&mut self) {
        // The sender lives in `operation`, so the channel cannot be closed.
        let _open = self.state.changed().await;
    }

    /// Waits for the end.
    pub async fn done(&mut self) -> OperationState {
        loop {
            let state = self.state();
            if state.is_done() {
                return state;
            }
            self.changed().await;
        }
    }
}

impl Drop for OperationWatch {
    fn drop(&mut self) {
        if !self.operation.is_done() {
            let _ended = self.events.send(Message::Event(Event::WaiterGone(self.operation.id)));
        }
    }
}
