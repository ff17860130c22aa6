//! [`Queue`]: who runs what, where and when. A pure state machine.
//!
//! [`Queue::apply`] takes one [`Event`] and the time, and returns the [`Effect`]s that somebody
//! else performs. No I/O, no clock, no randomness: a test can feed it any history. What it promises,
//! whatever the order of events:
//!
//! - every operation gets exactly one completed state, and nothing after it;
//! - a worker never has more runs than slots, nor more of a person's than it granted that person, but for
//!   those that it lets be sent ahead;
//! - a run is with one worker, or with two where a second attempt is worth a slot that nobody else
//!   wants, and never with two that both may be told of: one attempt is the present one, the first
//!   response wins, and the other attempt is stopped;
//! - each attempt holds its slot until its worker has told its end, whatever became of the run;
//! - a run whose worker is lost goes back to the queue, up to [`MAX_LOSSES`] times; one whose worker was
//!   busy goes back as if it had not been given to it; neither does while another attempt goes on;
//! - cancelling an operation, or nobody waiting for it, ends a run only if no other operation
//!   shares it; killing ends it for all of them, who get what the worker has of it by then;
//! - an operation that left its run early is told what the worker says of it in the end;
//! - a machine that was told to rest or to drain gets nothing new, and finishes what it has;
//! - a run that nobody waits for keeps no slot from one that somebody waits for, but for a moment in
//!   which a client may come back;
//! - a result is marked as becoming visible before it is stored, so a caller that does not want
//!   cached results never joins a run whose result others may have read already, here or elsewhere.
//!
//! `event` has what goes in and comes out, `ready` the order of what waits, `pool` the machines and
//! what fits them, `attempts` what becomes of runs that are with a worker, `ahead` those that wait there, `elsewhere` those that another
//! machine sees to for its own clients, `second` who gets a second attempt, `demand` what is wanted of each machine, `orphans` what becomes of runs that nobody waits for,
//! `explain` why a run waits, `kill` what a person ends.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::reapi::ExecuteResponse;
use tokio::time::Instant;

use super::action::PreparedAction;
use super::operations::{OperationId, OperationState, Stage, Timeline};
use super::placement::{Holdings, Placement};
use super::run_times::Like;
use super::{Settings, response};
use crate::action_cache::ActionKey;

mod ahead;
mod attempts;
mod demand;
mod elsewhere;
mod event;
mod explain;
mod kill;
#[cfg(test)]
mod model;
mod orphans;
mod pool;
mod ready;
mod second;
#[cfg(test)]
mod tests;

use ahead::Ahead;
use attempts::Attempt;

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
    second_attempts: bool,
    made_at: Instant,
    now: Now,
    pool: Pool,
    placement: Placement,
    runs: BTreeMap<RunId, Run>,
    /// What holds slots.
    attempts: BTreeMap<AttemptId, Attempt>,
    /// Those that were sent ahead of their slots, and have not begun.
    ahead: Ahead,
    /// Those that take too long, as of the last tick.
    stragglers: BTreeSet<AttemptId>,
    joinable: HashMap<ActionKey, RunId>,
    tickets: HashMap<OperationId, Ticket>,
    /// Operations that lost their last waiter, in that order.
    alone: VecDeque<(Instant, OperationId)>,
    recent: HashMap<ActionKey, (Instant, OperationState)>,
    recent_order: VecDeque<(Instant, ActionKey)>,
    queued: usize,
    next_run: u64,
    /// Whether somebody is to be told when the demand for a machine has changed.
    is_watched: bool,
    effects: Vec<Effect>,
}

#[derive(Debug)]
struct Run {
    action: Arc<PreparedAction>,
    like: Like,
    class: ClassId,
    operations: BTreeSet<OperationId>,
    /// Operations that ended while the present attempt was with its worker.
    left: Vec<OperationId>,
    phase: Phase,
    /// Of the present attempt, or the last one.
    timeline: Timeline,
    /// Attempts so far, busy ones included.
    numbers: u32,
    /// Some caller of it wants no result that was there before.
    must_be_fresh: bool,
    /// Since when it waits for a slot, as time since the queue was made.
    waits_since: Duration,
}

#[derive(Debug)]
enum Phase {
    Queued,
    /// The present attempt goes on.
    Executing,
    /// Nobody wants it any more; the worker is stopping it.
    Cancelling,
    /// A person ended it; the worker is stopping it, and its operations get what it answers.
    Killing,
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
            second_attempts: settings.second_attempts,
            made_at: now.instant,
            now,
            pool: Pool::new(settings.absent_worker_wait),
            placement: Placement::new(),
            runs: BTreeMap::new(),
            attempts: BTreeMap::new(),
            ahead: Ahead::default(),
            stragglers: BTreeSet::new(),
            joinable: HashMap::new(),
            tickets: HashMap::new(),
            alone: VecDeque::new(),
            recent: HashMap::new(),
            recent_order: VecDeque::new(),
            queued: 0,
            next_run: 0,
            is_watched: false,
            effects: Vec::new(),
        }
    }

    /// Asks `holdings` from now on what machines hold already.
    pub fn set_holdings(&mut self, holdings: Arc<dyn Holdings>) {
        self.placement.set_holdings(holdings);
    }

    /// Takes in what happened at `now`, and says what is to be done, in this order.
    pub fn apply(&mut self, now: Now, event: Event) -> Vec<Effect> {
        self.now = now;
        match event {
            Event::Submitted(submission) => self.submitted(submission),
            Event::WorkerJoined { worker, slots, matcher } => {
                self.pool.join(now.instant, worker, slots, matcher);
            }
            Event::Granted { worker, grant } => self.pool.grant(&worker, grant),
            Event::Sited { worker, site } => self.pool.site(&worker, site),
            Event::WorkerLeft { worker, reason } => self.worker_left(&worker, &reason),
            Event::Progress(attempt, step) => self.progress(attempt, step),
            Event::Ended(attempt, response) => self.ended(attempt, response),
            Event::Lost(attempt, reason) => self.lost(attempt, reason),
            Event::Busy(attempt) => self.busy(attempt),
            Event::FoundElsewhere { operation, worker } => self.found_elsewhere(operation, worker),
            Event::Stored(run, outcome) => self.stored(run, outcome),
            Event::WaiterJoined(operation) => self.waiter_joined(operation),
            Event::WaiterGone(operation) => self.waiter_gone(operation),
            Event::Cancel(operation) => self.detach(operation, "the client cancelled the operation"),
            Event::Kill(target) => self.kill(target),
            Event::Told { worker, duty } => self.pool.tell(now, &worker, duty),
            Event::Tick => self.tick(),
        }
        self.dispatch();
        self.use_spare_slots();
        self.make_way();
        self.note_demand();
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
        // Another machine may have had the result before.
        let is_elsewhere = self.attempts_of(id).any(|(_, attempt)| attempt.is_joined);
        let is_visible = is_elsewhere || matches!(self.runs[&id].phase, Phase::Storing(_));
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
            like: submission.like,
            class,
            operations: BTreeSet::new(),
            left: Vec::new(),
            phase: Phase::Queued,
            timeline: Timeline { queued_at: Some(self.now.wall), ..Default::default() },
            numbers: 0,
            must_be_fresh: false,
            waits_since: self.now.instant - self.made_at,
        };
        self.runs.insert(id, run);
        Ok(id)
    }

    fn attach(&mut self, id: RunId, submission: Submission) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let rank = Rank { alone: false, priority: submission.priority };
        let place = Place { rank, person: submission.person, build: submission.build };
        run.operations.insert(submission.operation);
        run.must_be_fresh |= submission.looked_up_at.is_none();
        if matches!(run.phase, Phase::Queued) {
            self.pool.enqueue(run.class, &place, id);
        }
        self.effects.push(Effect::Notify(submission.operation, run.state(id)));
        self.tickets.insert(submission.operation, Ticket { run: id, place, waiters: 1, alone_since: None });
    }

    // --- results ---

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
        self.lose_patience();
        self.find_stragglers();
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
            Phase::Executing | Phase::Cancelling if run.left.len() < MOST_LEFT => {
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
        match &run.phase {
            Phase::Queued => {
                self.queued -= 1;
                self.remove(id);
            }
            Phase::Executing => {
                run.phase = Phase::Cancelling;
                self.no_longer_joinable(id);
                self.stop_attempts(id);
            }
            Phase::Cancelling | Phase::Killing | Phase::Storing(_) => {}
        }
    }

    /// How every machine stands that is there, or may come back.
    pub fn machines(&self) -> Vec<MachineState> {
        self.pool.machines().collect()
    }

    // --- small things ---

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
    fn was_lost_on(&self, worker: &str) -> bool {
        self.timeline.losses.iter().any(|loss| &*loss.worker == worker)
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
