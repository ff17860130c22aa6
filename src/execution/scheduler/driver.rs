//! The task that owns the queue: `loop { perform(queue.apply(now, next().await)) }`.
//!
//! It never waits for anything but its next message, so it cannot be held up by a worker, a disk
//! or a client.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::reapi::ExecuteResponse;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Claimer, Message, Question, Shared, now};
use crate::action_cache::ActionKey;
use crate::execution::operations::{Operation, OperationId, OperationState};
use crate::execution::queue::{
    Assignment, AttemptId, Effect, Event, Matcher, Queue, Refusal, RunId, Step, Submission,
};
use crate::worker::{Lease, NoResponse, Progress, Worker};

/// How often the queue is told that time passes.
const TICK: Duration = Duration::from_secs(1);

/// Messages that are handled, when they come without a pause, before new demand is told.
const PATIENCE: u32 = 64;

struct Driver {
    shared: Arc<Shared>,
    queue: Queue,
    workers: HashMap<Arc<str>, Arc<dyn Worker>>,
    running: HashMap<AttemptId, CancellationToken>,
    claimer: Option<Arc<dyn Claimer>>,
    has_new_demand: bool,
    /// Messages that may yet be handled before new demand is told.
    patience: u32,
}

/// What a worker is asked to do with an action.
#[derive(Clone, Copy, Debug)]
enum Execution {
    /// To run it.
    Run,
    /// To let us wait for it with its own clients.
    Join,
}

/// A promise of one last event: if the task that owes it ends without, the fallback is sent.
struct Report {
    events: mpsc::UnboundedSender<Message>,
    fallback: Option<Event>,
}

/// Runs until the node ends.
pub(super) async fn run(shared: Arc<Shared>, queue: Queue, mut messages: mpsc::UnboundedReceiver<Message>) {
    let stopping = shared.tasks.token().clone();
    let mut driver = Driver {
        shared,
        queue,
        workers: HashMap::new(),
        running: HashMap::new(),
        claimer: None,
        has_new_demand: false,
        patience: PATIENCE,
    };
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = stopping.cancelled() => return,
            _ = ticks.tick() => driver.tick(),
            Some(message) = messages.recv(), if driver.patience > 0 => driver.handle(message),
            () = std::future::ready(()), if driver.has_new_demand => driver.tell_demand(),
        }
    }
}

// === impl Driver ===

impl Driver {
    fn handle(&mut self, message: Message) {
        match message {
            Message::Event(event) => {
                self.note_duty(&event);
                self.forget_demand(&event);
                self.apply(event);
            }
            Message::Submit { operation, submission, reply } => self.submit(operation, submission, reply),
            Message::AddWorker(worker) => self.add_worker(worker),
            Message::Question(question) => self.answer(question),
            Message::WatchDemand => self.tell_demand(),
            Message::Holdings(holdings) => self.queue.set_holdings(holdings),
            Message::Claimer(claimer) => self.claimer = Some(claimer),
        }
        self.patience -= u32::from(self.has_new_demand);
    }

    /// Tells who watches what a machine was told to do.
    fn note_duty(&self, event: &Event) {
        if let Event::Told { worker, duty } = event {
            self.shared.duties.send_if_modified(|told| told.insert(worker.clone(), *duty) != Some(*duty));
        }
    }

    /// The queue forgets what it was told that a machine was told, and so does who tells it: it begins anew
    /// when it is back.
    fn forget_demand(&self, event: &Event) {
        if let Event::WorkerLeft { worker, .. } = event {
            self.shared.demand.send_if_modified(|told| {
                told.remove(worker);
                false
            });
        }
    }

    /// Tells who watches what is wanted of each machine.
    fn tell_demand(&mut self) {
        (self.has_new_demand, self.patience) = (false, PATIENCE);
        let changed = self.queue.demands();
        self.shared.demand.send_if_modified(|told| {
            let is_changed = !changed.is_empty();
            told.extend(changed);
            is_changed
        });
    }

    /// Whoever asked may have gone away meanwhile.
    fn answer(&mut self, question: Question) {
        match question {
            Question::Kill(target, reply) => {
                let ended = self.queue.victims(&target).len();
                self.apply(Event::Kill(target));
                let _gone = reply.send(ended);
            }
            Question::Explain(operation, reply) => {
                let _gone = reply.send(self.queue.explain(now().instant, operation));
            }
            Question::Find(key, reply) => {
                let _gone = reply.send(self.queue.find(&key));
            }
            Question::Machines(reply) => {
                let _gone = reply.send(self.queue.machines());
            }
            Question::Worker(name, reply) => {
                let _gone = reply.send(self.workers.get(&name).cloned());
            }
        }
    }

    fn tick(&mut self) {
        self.shared.operations.expire(now().instant);
        self.apply(Event::Tick);
        let known: HashSet<_> = self.queue.machines().into_iter().map(|machine| machine.name).collect();
        self.workers.retain(|name, _| known.contains(name));
    }

    fn apply(&mut self, event: Event) {
        let over = match &event {
            Event::Ended(attempt, _) | Event::Lost(attempt, _) | Event::Busy(attempt) => Some(*attempt),
            _ => None,
        };
        if let Some(attempt) = &over {
            self.running.remove(attempt);
        }
        for effect in self.queue.apply(now(), event) {
            self.perform(effect);
        }
        if let Some(attempt) = over {
            // Last, so that who follows these files finds what came of them.
            self.shared.logs.ended(attempt);
        }
    }

    fn add_worker(&mut self, worker: Arc<dyn Worker>) {
        let name: Arc<str> = worker.name().into();
        let slots = worker.slots();
        self.workers.insert(name.clone(), worker.clone());
        let matcher = Matcher::new(move |requirements| {
            let mut reasons = worker.mismatches(requirements);
            reasons.extend(requirements.wrong_machine(worker.name()));
            reasons
        });
        self.apply(Event::WorkerJoined { worker: name, slots, matcher });
    }

    fn submit(
        &mut self,
        operation: Arc<Operation>,
        submission: Submission,
        reply: oneshot::Sender<Result<(), Refusal>>,
    ) {
        let action = submission.action.clone();
        // Another machine may have had the result before.
        let may_be_elsewhere = !action.do_not_cache && submission.looked_up_at.is_some();
        let mut effects = self.queue.apply(now(), Event::Submitted(submission));
        let refused = effects.iter().position(|e| matches!(e, Effect::Refuse(id, _) if *id == operation.id));
        let answer = match refused.map(|index| effects.remove(index)) {
            Some(Effect::Refuse(_, refusal)) => Err(refusal),
            _ => {
                if let Some(claimer) = self.claimer.as_ref().filter(|_| may_be_elsewhere) {
                    claimer.claim(operation.id, &action.key);
                }
                self.shared.operations.insert(now().instant, operation, Some(&action));
                Ok(())
            }
        };
        for effect in effects {
            self.perform(effect);
        }
        // A caller that went away meanwhile has sent a notice of it.
        let _gone = reply.send(answer);
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Notify(id, state) => self.notify(id, state),
            Effect::Amend(id, response) => self.shared.operations.amend(id, &response),
            Effect::Assign(assignment) => self.assign(assignment),
            Effect::CancelRun(attempt) => {
                if let Some(token) = self.running.get(&attempt) {
                    token.cancel();
                }
            }
            Effect::Store(run, key, response) => {
                let store = store(self.shared.clone(), run, key, response);
                self.shared.tasks.spawn("store result", store);
            }
            Effect::DemandChanged => self.has_new_demand = true,
            Effect::Refuse(id, refusal) => tracing::error!(%id, %refusal, "refused twice"),
        }
    }

    fn notify(&self, id: OperationId, state: OperationState) {
        if let Some(operation) = self.shared.operations.get(id) {
            log_if_cancelled(&operation, &state);
        }
        self.shared.operations.update(now().instant, id, state);
    }

    fn assign(&mut self, assignment: Assignment) {
        let Assignment { attempt, worker: name, operation, action, queued_at, person, is_joined, .. } =
            assignment;
        let report = Report::new(&self.shared, Event::Lost(attempt, "it gave no answer".into()));
        let Some(worker) = self.workers.get(&name).cloned() else { return };
        let invocation = self.shared.operations.get(operation).map(|operation| operation.invocation.clone());
        let invocation = invocation.unwrap_or_default();
        let lease = Lease {
            operation: format!("{}-{}", operation.uuid(), attempt.number),
            instance: action.key.instance.clone(),
            action_digest: action.key.action,
            command: action.command.clone(),
            input_root: action.input_root,
            platform: action.requirements.clone(),
            timeout: action.timeout,
            queued_at,
            person,
            is_guest: false,
            invocation,
        };
        let cancel = self.shared.tasks.token().child_token();
        self.running.insert(attempt, cancel.clone());
        let execution = if is_joined { Execution::Join } else { Execution::Run };
        let execute = execute(self.shared.clone(), worker, (lease, execution), attempt, cancel, report);
        self.shared.tasks.spawn("run action", execute);
    }
}

/// Says which operation ended before its time, and why. Those that only stood in the queue can be
/// thousands at once, and are of less interest.
fn log_if_cancelled(operation: &Operation, state: &OperationState) {
    let status = state.response.as_ref().and_then(|response| response.status.as_ref());
    let Some(status) = status.filter(|status| status.code == tonic::Code::Cancelled as i32) else { return };
    let (id, action, target) = (operation.id, operation.action, &operation.invocation.target_id);
    let reason = &status.message;
    if state.timeline.assigned_at.is_some() {
        tracing::info!(operation = %id, %action, target, reason, "operation cancelled");
    } else {
        tracing::debug!(operation = %id, %action, target, reason, "operation cancelled in the queue");
    }
}

/// Has a worker run an action, and passes on what it tells.
async fn execute(
    shared: Arc<Shared>,
    worker: Arc<dyn Worker>,
    (lease, execution): (Lease, Execution),
    attempt: AttemptId,
    cancel: CancellationToken,
    report: Report,
) {
    let (progress, mut steps) = mpsc::unbounded_channel();
    let mut execution = match execution {
        Execution::Run => worker.execute(lease, progress, cancel),
        Execution::Join => worker.join(lease, progress, cancel),
    };
    let tell = |progress| match progress {
        Progress::Staging => {}
        Progress::Running { stdout, stderr } => {
            shared.logs.started(attempt, stdout, stderr);
            report.send(Event::Progress(attempt, Step::Running));
        }
        Progress::Yielded => report.send(Event::Progress(attempt, Step::Yielded)),
        Progress::Collecting => report.send(Event::Progress(attempt, Step::Collecting)),
    };
    let outcome = loop {
        tokio::select! {
            biased;
            Some(progress) = steps.recv() => tell(progress),
            outcome = &mut execution => break outcome,
        }
    };
    // The last steps may have come together with the end.
    while let Ok(progress) = steps.try_recv() {
        tell(progress);
    }
    report.finish(match outcome {
        Ok(response) => Event::Ended(attempt, Arc::new(response)),
        Err(NoResponse::Lost(lost)) => Event::Lost(attempt, lost.reason),
        Err(NoResponse::Busy) => Event::Busy(attempt),
    });
}

/// Puts a result into the action cache.
async fn store(shared: Arc<Shared>, run: RunId, key: ActionKey, response: Arc<ExecuteResponse>) {
    let report = Report::new(&shared, Event::Stored(run, Err("the action cache gave no answer".into())));
    let result = response.result.clone().unwrap_or_default();
    let outcome = shared.action_cache.put(&key, result).await.map_err(|error| error.to_string());
    if let Err(reason) = &outcome {
        tracing::warn!(action = %key.action, reason, "result not cached");
    }
    report.finish(Event::Stored(run, outcome));
}

// === impl Report ===

impl Report {
    fn new(shared: &Shared, fallback: Event) -> Self {
        Self { events: shared.events.clone(), fallback: Some(fallback) }
    }

    fn send(&self, event: Event) {
        let _ended = self.events.send(Message::Event(event));
    }

    fn finish(mut self, event: Event) {
        self.fallback = None;
        self.send(event);
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(fallback) = self.fallback.take() {
            self.send(fallback);
        }
    }
}
