//! [`Queue`]: who runs what, where and when. A pure state machine.
//!
//! [`Queue::apply`] takes one [`Event`] and the time, and returns the [`Effect`]s that somebody
//! else performs. No I/O, no clock, no randomness: a test can feed it any history. What it promises,
//! whatever the order of events:
//!
//! - every operation gets exactly one completed state, and nothing after it;
//! - a run is on one worker at a time, and a worker never has more runs than slots;
//! - a run whose worker is lost goes back to the queue, up to [`MAX_LOSSES`] times;
//! - cancelling an operation, or nobody waiting for it, ends a run only if no other operation
//!   shares it; killing ends it for all of them, who get what the worker has of it by then;
//! - an operation that left its run early is told what the worker says of it in the end;
//! - a machine that was told to rest or to drain gets nothing new, and finishes what it has;
//! - a run that nobody waits for keeps no slot from one that somebody waits for, but for a moment in
//!   which a client may come back;
//! - a result is marked as becoming visible before it is stored, so a caller that does not want
//!   cached results never joins a run whose result others may have read already.
//!
//! `event` has what goes in and comes out, `ready` the order of what waits, `pool` the machines and
//! what fits them, `orphans` what becomes of runs that nobody waits for, `explain` why a run waits,
//! `kill` what a person ends.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::reapi::ExecuteResponse;
use tokio::time::Instant;

use super::action::PreparedAction;
use super::operations::{OperationId, OperationState, Stage, Timeline};
use super::{Settings, response};
use crate::action_cache::ActionKey;

mod event;
mod explain;
mod kill;
#[cfg(test)]
mod model;
mod orphans;
mod pool;
mod ready;
#[cfg(test)]
mod tests;

pub use event::{
    Assignment, AttemptId, Duty, Effect, Event, Loss, Mismatch, Now, Refusal, RunId, Step, Submission, Target,
};
pub use explain::{Obstacle, Waiting};
use pool::{ClassId, Pool};
pub use pool::{MachineState, Matcher};
use ready::{Place, Rank};

/// Times a run is tried again after its worker was lost.
pub const MAX_LOSSES: usize = 3;

/// How long the end of a run is remembered for callers that asked the action cache before it. They
/// ask and submit within milliseconds.
const RECENT: Duration = Duration::from_secs(2);

/// Operations that are still told what a run wrote which they left before its end.
const MOST_LEFT: usize = 16;

/// The state machine.
#[derive(Debug)]
pub struct Queue {
    queue_limit: usize,
    grace: Duration,
    orphan_yield: Duration,
    now: Now,
    pool: Pool,
    runs: BTreeMap<RunId, Run>,
    /// Runs that hold a slot.
    on_worker: BTreeSet<RunId>,
    joinable: HashMap<ActionKey, RunId>,
    tickets: HashMap<OperationId, Ticket>,
    /// Operations that lost their last waiter, in that order.
    alone: VecDeque<(Instant, OperationId)>,
    recent: HashMap<ActionKey, (Instant, OperationState)>,
    recent_order: VecDeque<(Instant, ActionKey)>,
    queued: usize,
    next_run: u64,
    effects: Vec<Effect>,
}

#[derive(Debug)]
struct Run {
    action: Arc<PreparedAction>,
    class: ClassId,
    operations: BTreeSet<OperationId>,
    /// Operations that ended while the present attempt was with its worker.
    left: Vec<OperationId>,
    phase: Phase,
    timeline: Timeline,
    losses: Vec<Loss>,
}

#[derive(Debug)]
enum Phase {
    Queued,
    Executing(Arc<str>),
    /// Nobody wants it any more; the worker is stopping it.
    Cancelling(Arc<str>),
    /// A person ended it; the worker is stopping it, and its operations get what it answers.
    Killing(Arc<str>),
    Storing(Arc<ExecuteResponse>),
}

/// A live operation.
#[derive(Debug)]
struct Ticket {
    run: RunId,
    place: Place,
    waiters: usize,
    /// Since when it has no waiters.
    alone_since: Option<Instant>,
}

// === impl Queue ===

impl Queue {
    /// An empty queue without workers.
    pub fn new(settings: &Settings, now: Now) -> Self {
        Self {
            queue_limit: settings.queue_limit,
            grace: settings.grace,
            orphan_yield: settings.orphan_yield,
            now,
            pool: Pool::new(settings.absent_worker_wait),
            runs: BTreeMap::new(),
            on_worker: BTreeSet::new(),
            joinable: HashMap::new(),
            tickets: HashMap::new(),
            alone: VecDeque::new(),
            recent: HashMap::new(),
            recent_order: VecDeque::new(),
            queued: 0,
            next_run: 0,
            effects: Vec::new(),
        }
    }

    /// Takes in what happened at `now`, and says what is to be done, in this order.
    pub fn apply(&mut self, now: Now, event: Event) -> Vec<Effect> {
        self.now = now;
        match event {
            Event::Submitted(submission) => self.submitted(submission),
            Event::WorkerJoined { worker, slots, matcher } => self.pool.join(worker, slots, matcher),
            Event::WorkerLeft { worker, reason } => self.worker_left(&worker, &reason),
            Event::Progress(attempt, step) => self.progress(attempt, step),
            Event::Ended(attempt, response) => self.ended(attempt, response),
            Event::Lost(attempt, reason) => self.lost(attempt, reason),
            Event::Stored(run, outcome) => self.stored(run, outcome),
            Event::WaiterJoined(operation) => self.waiter_joined(operation),
            Event::WaiterGone(operation) => self.waiter_gone(operation),
            Event::Cancel(operation) => self.detach(operation, "the client cancelled the operation"),
            Event::Kill(target) => self.kill(target),
            Event::Told { worker, duty } => self.pool.tell(now, &worker, duty),
            Event::Tick => self.tick(),
        }
        self.dispatch();
        self.make_way();
        std::mem::take(&mut self.effects)
    }

    // --- coming in ---

    fn submitted(&mut self, submission: Submission) {
        if let Some(state) = self.just_finished(&submission) {
            self.effects.push(Effect::Notify(submission.operation, state));
            return;
        }
        let run = match self.joinable_run(&submission).map_or_else(|| self.new_run(&submission), Ok) {
            Ok(run) => run,
            Err(refusal) => {
                self.effects.push(Effect::Refuse(submission.operation, refusal));
                return;
            }
        };
        self.attach(run, submission);
    }

    /// The end of an equal run, if its result became visible after this caller had looked for it.
    fn just_finished(&self, submission: &Submission) -> Option<OperationState> {
        let looked_up_at = submission.looked_up_at?;
        if submission.action.do_not_cache {
            return None;
        }
        let (finished_at, state) = self.recent.get(&submission.action.key)?;
        (*finished_at >= looked_up_at).then(|| state.clone())
    }

    /// An equal run in flight that this caller may share.
    fn joinable_run(&self, submission: &Submission) -> Option<RunId> {
        if submission.action.do_not_cache {
            return None;
        }
        let id = *self.joinable.get(&submission.action.key)?;
        let is_visible = matches!(self.runs[&id].phase, Phase::Storing(_));
        (!is_visible || submission.looked_up_at.is_some()).then_some(id)
    }

    fn new_run(&mut self, submission: &Submission) -> Result<RunId, Refusal> {
        let action = &submission.action;
        let class = self.pool.admit(self.now.instant, &action.requirements)?;
        if self.queued >= self.queue_limit && !self.end_queued_orphan() {
            self.pool.release(class);
            return Err(Refusal::Full(self.queued));
        }
        let id = RunId(self.next_run);
        self.next_run += 1;
        self.queued += 1;
        if !action.do_not_cache {
            self.joinable.insert(action.key.clone(), id);
        }
        let run = Run {
            action: action.clone(),
            class,
            operations: BTreeSet::new(),
            left: Vec::new(),
            phase: Phase::Queued,
            timeline: Timeline { queued_at: Some(self.now.wall), ..Default::default() },
            losses: Vec::new(),
        };
        self.runs.insert(id, run);
        Ok(id)
    }

    fn attach(&mut self, id: RunId, submission: Submission) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let rank = Rank { alone: false, priority: submission.priority };
        let place = Place { rank, share: submission.share };
        run.operations.insert(submission.operation);
        if matches!(run.phase, Phase::Queued) {
            self.pool.enqueue(run.class, &place, id);
        }
        self.effects.push(Effect::Notify(submission.operation, run.state(id)));
        self.tickets.insert(submission.operation, Ticket { run: id, place, waiters: 1, alone_since: None });
    }

    // --- running ---

    fn dispatch(&mut self) {
        loop {
            let runs = &self.runs;
            let was_lost_on =
                |run: RunId, name: &str| runs.get(&run).is_some_and(|run| run.was_lost_on(name));
            let Some((id, worker)) = self.pool.assign(was_lost_on) else { return };
            self.assign(id, worker);
        }
    }

    fn assign(&mut self, id: RunId, worker: Arc<str>) {
        self.queued -= 1;
        self.leave_line(id);
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.phase = Phase::Executing(worker.clone());
        self.on_worker.insert(id);
        run.timeline = Timeline {
            queued_at: run.timeline.queued_at,
            worker: Some(worker.clone()),
            assigned_at: Some(self.now.wall),
            attempts: run.timeline.attempts + 1,
            ..Default::default()
        };
        let Some(operation) = run.operations.first().copied() else { return };
        self.effects.push(Effect::Assign(Assignment {
            attempt: run.attempt(id),
            worker,
            operation,
            action: run.action.clone(),
            queued_at: run.timeline.queued_at.unwrap_or(self.now.wall),
        }));
        self.notify(id);
    }

    fn progress(&mut self, attempt: AttemptId, step: Step) {
        let wall = Some(self.now.wall);
        let Some(run) = self.current(attempt) else { return };
        match step {
            Step::Running => run.timeline.running_at = wall,
            Step::Collecting => run.timeline.collecting_at = wall,
        }
        self.notify(attempt.run);
    }

    fn ended(&mut self, attempt: AttemptId, response: Arc<ExecuteResponse>) {
        if self.vacate(attempt).is_none() {
            return;
        }
        let Some(run) = self.runs.get_mut(&attempt.run) else { return };
        for operation in std::mem::take(&mut run.left) {
            self.effects.push(Effect::Amend(operation, response.clone()));
        }
        if run.operations.is_empty() {
            self.remove(attempt.run);
        } else if run.is_being_killed() {
            self.finish(attempt.run, Arc::new(response::killed(Some(&response))));
        } else if !run.action.do_not_cache && response::is_success(&response) {
            run.phase = Phase::Storing(response.clone());
            self.effects.push(Effect::Store(attempt.run, run.action.key.clone(), response));
        } else {
            self.finish(attempt.run, response);
        }
    }

    fn lost(&mut self, attempt: AttemptId, reason: String) {
        let Some(worker) = self.vacate(attempt) else { return };
        let Some(run) = self.runs.get_mut(&attempt.run) else { return };
        run.losses.push(Loss { worker, reason });
        run.left.clear();
        if run.operations.is_empty() {
            self.remove(attempt.run);
        } else if run.is_being_killed() {
            self.finish(attempt.run, Arc::new(response::killed(None)));
        } else if run.losses.len() > MAX_LOSSES {
            let response = response::lost(&run.losses);
            self.finish(attempt.run, Arc::new(response));
        } else {
            self.requeue(attempt.run);
        }
    }

    fn requeue(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.phase = Phase::Queued;
        self.queued += 1;
        for operation in &run.operations {
            if let Some(ticket) = self.tickets.get(operation) {
                self.pool.enqueue(run.class, &ticket.place, id);
            }
        }
        self.notify(id);
    }

    fn worker_left(&mut self, worker: &str, reason: &str) {
        let attempts: Vec<_> = self
            .on_worker
            .iter()
            .map(|id| (*id, &self.runs[id]))
            .filter(|(_, run)| run.worker().is_some_and(|name| &**name == worker))
            .map(|(id, run)| run.attempt(id))
            .collect();
        for attempt in attempts {
            self.effects.push(Effect::CancelRun(attempt));
            self.lost(attempt, reason.to_owned());
        }
        self.pool.leave(self.now.instant, worker);
    }

    fn stored(&mut self, id: RunId, outcome: Result<(), String>) {
        let Some(run) = self.runs.get(&id) else { return };
        let Phase::Storing(response) = &run.phase else { return };
        let mut response = response.clone();
        match outcome {
            Ok(()) => self.remember(id, response.clone()),
            Err(reason) => {
                let noted = Arc::make_mut(&mut response);
                response::add_message(noted, &format!("{}{reason}", response::NOT_CACHED));
            }
        }
        self.finish(id, response);
    }

    /// Keeps the end of a run for callers whose look into the action cache came just too early.
    fn remember(&mut self, id: RunId, response: Arc<ExecuteResponse>) {
        let Some(run) = self.runs.get(&id) else { return };
        let key = run.action.key.clone();
        let at = self.now.instant;
        self.recent.insert(key.clone(), (at, run.completed(id, self.now, response)));
        self.recent_order.push_back((at, key));
    }

    /// Ends a run for everybody who still wants it.
    fn finish(&mut self, id: RunId, response: Arc<ExecuteResponse>) {
        let Some(run) = self.remove(id) else { return };
        let state = run.completed(id, self.now, response);
        for operation in &run.operations {
            self.tickets.remove(operation);
            self.effects.push(Effect::Notify(*operation, state.clone()));
        }
    }

    // --- going away ---

    fn tick(&mut self) {
        let now = self.now.instant;
        self.end_orphans();
        for (run, reason) in self.pool.expire(now) {
            self.queued -= 1;
            self.leave_line(run);
            self.finish(run, Arc::new(response::unrunnable(reason)));
        }
        self.forget_recent();
    }

    fn forget_recent(&mut self) {
        let now = self.now.instant;
        while let Some((at, key)) = self.recent_order.front() {
            if now - *at < RECENT {
                break;
            }
            if self.recent.get(key).is_some_and(|(latest, _)| latest == at) {
                self.recent.remove(key);
            }
            self.recent_order.pop_front();
        }
    }

    /// Ends one operation as cancelled. Its run goes on if others share it.
    fn detach(&mut self, operation: OperationId, reason: &str) {
        let Some(ticket) = self.tickets.remove(&operation) else { return };
        let id = ticket.run;
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.operations.remove(&operation);
        let response = Arc::new(response::cancelled(reason));
        self.effects.push(Effect::Notify(operation, run.completed(id, self.now, response)));
        match &run.phase {
            Phase::Executing(_) | Phase::Cancelling(_) if run.left.len() < MOST_LEFT => {
                run.left.push(operation);
            }
            Phase::Storing(response) => self.effects.push(Effect::Amend(operation, response.clone())),
            _ => {}
        }
        let was_last = run.operations.is_empty();
        self.leave_place(id, &ticket.place);
        if was_last {
            self.abandon(id);
        }
    }

    /// Ends a run that nobody wants any more.
    fn abandon(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let attempt = run.attempt(id);
        match &run.phase {
            Phase::Queued => {
                self.queued -= 1;
                self.remove(id);
            }
            Phase::Executing(worker) => {
                run.phase = Phase::Cancelling(worker.clone());
                self.no_longer_joinable(id);
                self.effects.push(Effect::CancelRun(attempt));
            }
            Phase::Cancelling(_) | Phase::Killing(_) | Phase::Storing(_) => {}
        }
    }

    /// How every machine stands that is there, or may come back.
    pub fn machines(&self) -> Vec<MachineState> {
        self.pool.machines().collect()
    }

    // --- small things ---

    /// The run of an attempt, if that is its present one and somebody wants it.
    fn current(&mut self, attempt: AttemptId) -> Option<&mut Run> {
        let run = self.runs.get_mut(&attempt.run)?;
        let is_current = matches!(run.phase, Phase::Executing(_)) && run.attempt(attempt.run) == attempt;
        is_current.then_some(run)
    }

    /// Takes an attempt off its worker, which is returned, if it still is the present one.
    fn vacate(&mut self, attempt: AttemptId) -> Option<Arc<str>> {
        let run = self.runs.get(&attempt.run)?;
        let worker = run.worker().filter(|_| run.attempt(attempt.run) == attempt)?;
        self.pool.free(worker);
        self.on_worker.remove(&attempt.run);
        Some(worker.clone())
    }

    fn notify(&mut self, id: RunId) {
        let Some(run) = self.runs.get(&id) else { return };
        let state = run.state(id);
        self.effects.extend(run.operations.iter().map(|operation| Effect::Notify(*operation, state.clone())));
    }

    /// Takes a run out of every line it stands in.
    fn leave_line(&mut self, id: RunId) {
        let Some(run) = self.runs.get(&id) else { return };
        for operation in &run.operations {
            if let Some(ticket) = self.tickets.get(operation) {
                self.pool.withdraw(run.class, &ticket.place, id);
            }
        }
    }

    /// Takes a run away from `place`, unless an operation of it stands there.
    fn leave_place(&mut self, id: RunId, place: &Place) {
        let Some(run) = self.runs.get(&id) else { return };
        if !run.operations.iter().any(|operation| self.tickets[operation].place == *place) {
            self.pool.withdraw(run.class, place, id);
        }
    }

    fn no_longer_joinable(&mut self, id: RunId) {
        let Some(run) = self.runs.get(&id) else { return };
        if self.joinable.get(&run.action.key) == Some(&id) {
            self.joinable.remove(&run.action.key);
        }
    }

    fn remove(&mut self, id: RunId) -> Option<Run> {
        self.no_longer_joinable(id);
        let run = self.runs.remove(&id)?;
        self.pool.release(run.class);
        Some(run)
    }
}

// === impl Run ===

impl Run {
    fn worker(&self) -> Option<&Arc<str>> {
        match &self.phase {
            Phase::Executing(worker) | Phase::Cancelling(worker) | Phase::Killing(worker) => Some(worker),
            Phase::Queued | Phase::Storing(_) => None,
        }
    }

    fn is_being_killed(&self) -> bool {
        matches!(self.phase, Phase::Killing(_))
    }

    fn attempt(&self, id: RunId) -> AttemptId {
        AttemptId { run: id, number: self.timeline.attempts }
    }

    fn was_lost_on(&self, worker: &str) -> bool {
        self.losses.iter().any(|loss| &*loss.worker == worker)
    }

    fn state(&self, id: RunId) -> OperationState {
        let stage = if matches!(self.phase, Phase::Queued) { Stage::Queued } else { Stage::Executing };
        OperationState { stage, run: Some(id), timeline: self.timeline.clone(), response: None }
    }

    fn completed(&self, id: RunId, now: Now, response: Arc<ExecuteResponse>) -> OperationState {
        let timeline = Timeline { ended_at: Some(now.wall), ..self.timeline.clone() };
        OperationState { stage: Stage::Completed, run: Some(id), timeline, response: Some(response) }
    }
}
