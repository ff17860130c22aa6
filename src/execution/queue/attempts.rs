//! What becomes of a run that is with a worker: an [`Attempt`], from its assignment to its end.
//!
//! An attempt holds a slot until its end is told: that it ended, that it was busy, or that it was lost;
//! whatever became of its run meanwhile. One attempt of a run is the *present* one, which clients are
//! told of. Others are copies, see `second`. What ends first with a response wins, and the others are
//! stopped. A copy takes the place of the present one when that is lost.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use farmhand_proto::reapi::ExecuteResponse;
use tokio::time::Instant;

use super::ahead::Kind;
use super::pool::{Assigned, ClassId, Cost, Judge, Machine, Slot};
use super::{
    Assignment, AttemptId, Effect, Loss, MAX_LOSSES, Now, Phase, Placement, Queue, Run, RunId, Step,
};
use crate::execution::operations::Timeline;
use crate::execution::{placement, response};

/// A run with a worker.
#[derive(Debug)]
pub(super) struct Attempt {
    class: ClassId,
    pub(super) worker: Arc<str>,
    /// Whose slot it takes, and for which build.
    pub(super) person: Arc<str>,
    pub(super) build: Arc<str>,
    /// The grant it stands on.
    grant: u64,
    /// It was told to stop.
    pub(super) is_stopping: bool,
    /// It was sent ahead of its slot, and has not begun as far as is known.
    pub(super) is_ahead: bool,
    /// Its worker sees to it for clients of its own: it has no slot.
    pub(super) is_joined: bool,
    /// Whether it gave its slot back, as it waits for actions of its own.
    pub(super) has_yielded: bool,
    /// It was sent ahead of its slot.
    was_ahead: bool,
    assigned_at: Now,
    running_at: Option<Now>,
    collecting_at: Option<Now>,
    /// When it will likely end, since the queue was made.
    due: Duration,
}

/// What the queue knows of costs.
pub(super) struct View<'a> {
    runs: &'a BTreeMap<RunId, Run>,
    placement: &'a Placement,
    /// Runs that wait.
    waiting: usize,
    /// Time since the queue was made.
    now: Duration,
}

// === impl Attempt ===

impl Attempt {
    /// What it has in common with others that were sent ahead.
    pub(super) fn kind(&self) -> Kind {
        let Self { class, person, build, worker, .. } = self;
        Kind { class: *class, person: person.clone(), build: build.clone(), worker: worker.clone() }
    }

    /// One of a run of that class, which its worker sees to for clients of its own.
    pub(super) fn joined(now: Now, class: ClassId, worker: Arc<str>, whose: (Arc<str>, Arc<str>)) -> Self {
        let (person, build) = whose;
        Self {
            class,
            worker,
            person,
            build,
            grant: 0,
            is_stopping: false,
            is_ahead: false,
            is_joined: true,
            has_yielded: false,
            was_ahead: false,
            assigned_at: now,
            running_at: None,
            collecting_at: None,
            due: Duration::ZERO,
        }
    }

    /// The slot it takes.
    pub(super) fn slot(&self) -> Slot {
        Slot { worker: self.worker.clone(), person: self.person.clone() }
    }

    /// Whether it holds a slot.
    pub(super) fn has_slot(&self) -> bool {
        !self.is_joined && !self.has_yielded
    }

    /// Whether its command has begun, as far as is known.
    pub(super) fn has_begun(&self) -> bool {
        self.running_at.is_some()
    }

    /// Since when it has had time to run.
    pub(super) fn began_at(&self) -> Instant {
        self.running_at.unwrap_or(self.assigned_at).instant
    }

    /// How long the command ran.
    fn run_time(&self, now: Now) -> Option<Duration> {
        let ended_at = self.collecting_at.unwrap_or(now).instant;
        self.running_at.map(|running_at| ended_at.saturating_duration_since(running_at.instant))
    }

    fn times(&self) -> (Option<SystemTime>, Option<SystemTime>) {
        (self.running_at.map(|now| now.wall), self.collecting_at.map(|now| now.wall))
    }
}

// === impl View ===

impl Judge for View<'_> {
    fn cost(&self, run: RunId, machine: &Machine) -> Cost {
        let run = &self.runs[&run];
        let price = self.placement.price(&run.action, run.like, &machine.name, &machine.site);
        Cost {
            was_lost: run.was_lost_on(&machine.name),
            has_other_toolchain: machine.site.has_other_toolchain && run.action.requirements.uses_host(),
            total: placement::step(price.total()),
            moving: placement::step(price.moving),
            is_remote: machine.site.is_remote,
        }
    }

    /// What must not be run twice at once cannot be called back: it may just have begun.
    fn may_go_ahead(&self, run: RunId) -> bool {
        !self.runs[&run].action.do_not_cache
    }

    /// Only what has a like can tell. All that waits would run here one after the other, the run itself
    /// last: a machine that would be done with it by then is worth its slot, however far it is.
    fn should_wait(&self, run: RunId, there: &Machine, here: &Machine) -> bool {
        let run = &self.runs[&run];
        let price =
            |machine: &Machine| self.placement.price(&run.action, run.like, &machine.name, &machine.site);
        let Some(running) = price(here).running else { return false };
        let there = price(there).total();
        // What was expected of this machine has not come true for as long as it would have taken there.
        if self.now.saturating_sub(run.waits_since) > there {
            return false;
        }
        let (slots, _) = here.slots();
        let before = here.remaining(self.now) + running * u32::try_from(self.waiting).unwrap_or(u32::MAX);
        let wait = before / u32::try_from(slots.max(1)).unwrap_or(u32::MAX);
        there > wait + running
    }
}

// === impl Queue ===

impl Queue {
    /// Gives free slots to what waits for one.
    pub(super) fn dispatch(&mut self) {
        loop {
            let now = self.now.instant - self.made_at;
            let view = View { runs: &self.runs, placement: &self.placement, waiting: self.queued, now };
            let Some(assigned) = self.pool.assign(&view) else { return };
            self.queued -= 1;
            self.leave_line(assigned.run);
            self.assign(assigned);
        }
    }

    /// Takes a slot on another machine for a run that is with one already.
    pub(super) fn assign_again(&mut self, id: AttemptId) -> Option<AttemptId> {
        let run = self.runs.get(&id.run)?;
        let attempt = self.attempts.get(&id)?;
        let (person, build) = (attempt.person.clone(), attempt.build.clone());
        let taken: Vec<_> = self.attempts_of(id.run).map(|(_, attempt)| attempt.worker.clone()).collect();
        let is_other = |name: &str| !taken.iter().any(|worker| **worker == *name) && !run.was_lost_on(name);
        let class = run.class;
        let now = self.now.instant - self.made_at;
        let view = View { runs: &self.runs, placement: &self.placement, waiting: self.queued, now };
        let assigned = self.pool.assign_again((id.run, class), (&person, &build), is_other, &view)?;
        Some(self.assign(assigned))
    }

    /// Whether a run that waits had better wait for a slot of this machine than go to that one.
    pub(super) fn had_better_wait(&self, id: RunId, machine: &str) -> bool {
        let Some(run) = self.runs.get(&id) else { return false };
        let now = self.now.instant - self.made_at;
        let view = View { runs: &self.runs, placement: &self.placement, waiting: self.queued, now };
        self.pool.had_better_wait(id, run.class, machine, &view)
    }

    /// A run is with a worker: its first one, or one more.
    fn assign(&mut self, assigned: Assigned) -> AttemptId {
        let Assigned { run: id, worker, person, build, grant, is_ahead } = assigned;
        let run = self.runs.get_mut(&id).expect("invariant: what waits or runs is known");
        let attempt = run.begin(id, &worker, self.now);
        self.placement.send(&run.action, &worker);
        let expected = self.placement.expected(run.like, &worker);
        let due = (self.now.instant - self.made_at) + expected.unwrap_or_default();
        self.pool.expect(&worker, due);
        let operation = run.operations.first().copied();
        self.effects.push(Effect::Assign(Assignment {
            attempt,
            worker: worker.clone(),
            operation: operation.expect("invariant: somebody wants what is assigned"),
            action: run.action.clone(),
            queued_at: run.timeline.queued_at.unwrap_or(self.now.wall),
            person: person.clone(),
            build: build.clone(),
            is_joined: false,
        }));
        let with_worker = Attempt {
            class: run.class,
            worker,
            person,
            build,
            grant,
            is_stopping: false,
            is_ahead,
            is_joined: false,
            has_yielded: false,
            was_ahead: is_ahead,
            assigned_at: self.now,
            running_at: None,
            collecting_at: None,
            due,
        };
        if is_ahead {
            self.ahead.insert(with_worker.kind(), attempt);
        }
        self.attempts.insert(attempt, with_worker);
        self.notify(id);
        attempt
    }

    pub(super) fn progress(&mut self, id: AttemptId, step: Step) {
        let now = self.now;
        let Some(attempt) = self.attempts.get_mut(&id).filter(|attempt| !attempt.is_stopping) else { return };
        match step {
            Step::Running => {
                attempt.running_at = Some(now);
                self.pool.has_begun(&attempt.worker);
                if attempt.is_ahead {
                    self.ahead.remove(&attempt.kind(), id);
                    attempt.is_ahead = false;
                    self.pool.note_change();
                }
            }
            Step::Collecting => attempt.collecting_at = Some(now),
            Step::Yielded => return self.yielded(id),
        }
        let times = attempt.times();
        let Some(run) = self.runs.get_mut(&id.run).filter(|run| run.timeline.attempt == id.number) else {
            return;
        };
        (run.timeline.running_at, run.timeline.collecting_at) = times;
        self.notify(id.run);
    }

    /// An attempt waits for actions of its own. It would wait for ever if its slot was the only one.
    fn yielded(&mut self, id: AttemptId) {
        let Some(attempt) = self.attempts.get_mut(&id).filter(|attempt| attempt.has_slot()) else { return };
        attempt.has_yielded = true;
        let Attempt { worker, person, build, due, .. } = attempt;
        self.pool.free(worker, person, build, *due);
        self.pool.note_change();
    }

    pub(super) fn ended(&mut self, id: AttemptId, response: Arc<ExecuteResponse>) {
        let Some(attempt) = self.vacate(id) else { return };
        self.pool.has_answered(&attempt.worker);
        let Some(run) = self.runs.get(&id.run) else { return };
        let is_present = run.timeline.attempt == id.number;
        match run.phase {
            Phase::Executing if !attempt.is_stopping => {}
            // What is being stopped as a whole is over when the one that was told of is.
            Phase::Cancelling | Phase::Killing if is_present => {}
            _ => return,
        }
        let is_telling = !attempt.is_joined && response::is_success(&response);
        if let Some(time) = attempt.run_time(self.now).filter(|_| is_telling) {
            self.placement.learn(run.like, &attempt.worker, time);
        }
        if let Some(run) = self.runs.get_mut(&id.run).filter(|_| !is_present) {
            run.tell_of(id, &attempt);
        }
        self.stop_attempts(id.run);
        self.answered(id.run, response);
    }

    /// A run has its response.
    fn answered(&mut self, id: RunId, response: Arc<ExecuteResponse>) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        for operation in mem::take(&mut run.left) {
            self.effects.push(Effect::Amend(operation, response.clone()));
        }
        if run.operations.is_empty() {
            self.remove(id);
        } else if matches!(run.phase, Phase::Killing) {
            self.finish(id, Arc::new(response::killed(Some(&response))));
        } else if !run.action.do_not_cache && response::is_success(&response) {
            run.phase = Phase::Storing(response.clone());
            self.effects.push(Effect::Store(id, run.action.key.clone(), response));
        } else {
            self.finish(id, response);
        }
    }

    pub(super) fn lost(&mut self, id: AttemptId, reason: String) {
        let Some(attempt) = self.vacate(id) else { return };
        if attempt.is_joined {
            return self.unanswered(id);
        }
        self.pool.was_lost(self.now.instant, &attempt.worker);
        let Some(run) = self.runs.get_mut(&id.run) else { return };
        if run.timeline.attempt != id.number {
            return;
        }
        run.timeline.losses.push(Loss { worker: attempt.worker, reason });
        self.without_answer(id);
    }

    /// The worker had no slot for it after all.
    pub(super) fn busy(&mut self, id: AttemptId) {
        let Some(attempt) = self.vacate(id) else { return };
        if !attempt.is_joined {
            let Attempt { worker, person, grant, was_ahead, .. } = &attempt;
            self.pool.was_busy(self.now.instant, worker, person, *grant, *was_ahead);
        }
        self.unanswered(id);
    }

    /// An attempt is over that was none, as far as anybody can tell.
    fn unanswered(&mut self, id: AttemptId) {
        let Some(run) = self.runs.get_mut(&id.run) else { return };
        run.timeline.attempts = run.timeline.attempts.saturating_sub(1);
        if run.timeline.attempt == id.number {
            self.without_answer(id);
        }
    }

    /// The present attempt of a run is over, and there is no response.
    fn without_answer(&mut self, id: AttemptId) {
        let copy = self.live_attempts(id.run).next();
        let Some(run) = self.runs.get_mut(&id.run) else { return };
        run.left.clear();
        if run.operations.is_empty() {
            self.remove(id.run);
        } else if matches!(run.phase, Phase::Killing) {
            self.finish(id.run, Arc::new(response::killed(None)));
        } else if let Some(copy) = copy {
            self.show(copy);
        } else if run.timeline.losses.len() > MAX_LOSSES {
            let response = response::lost(&run.timeline.losses);
            self.finish(id.run, Arc::new(response));
        } else {
            self.requeue(id.run);
        }
    }

    fn requeue(&mut self, id: RunId) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.phase = Phase::Queued;
        run.waits_since = self.now.instant - self.made_at;
        if run.timeline.attempts == 0 {
            // As far as anybody can tell it was never tried.
            run.timeline = Timeline { queued_at: run.timeline.queued_at, ..Timeline::default() };
        }
        self.queued += 1;
        for operation in &run.operations {
            if let Some(ticket) = self.tickets.get(operation) {
                self.pool.enqueue(run.class, &ticket.place, id);
            }
        }
        self.notify(id);
    }

    pub(super) fn worker_left(&mut self, worker: &str, reason: &str) {
        let there = self.attempts.iter().filter(|(_, attempt)| &*attempt.worker == worker);
        let there: Vec<_> = there.map(|(id, _)| *id).collect();
        for attempt in there {
            self.effects.push(Effect::CancelRun(attempt));
            self.lost(attempt, reason.to_owned());
        }
        self.pool.leave(self.now.instant, worker);
    }

    // --- attempts of a run ---

    /// Attempts of a run that hold a slot.
    pub(super) fn attempts_of(&self, run: RunId) -> impl Iterator<Item = (AttemptId, &Attempt)> {
        let all = AttemptId { run, number: 0 }..=AttemptId { run, number: u32::MAX };
        self.attempts.range(all).map(|(id, attempt)| (*id, attempt))
    }

    /// Those that were not told to stop.
    pub(super) fn live_attempts(&self, run: RunId) -> impl Iterator<Item = AttemptId> {
        self.attempts_of(run).filter(|(_, attempt)| !attempt.is_stopping).map(|(id, _)| id)
    }

    /// Stops all attempts of a run. They hold their slots until their ends are told.
    pub(super) fn stop_attempts(&mut self, run: RunId) {
        let living: Vec<_> = self.live_attempts(run).collect();
        for attempt in living {
            self.stop(attempt);
        }
    }

    pub(super) fn stop(&mut self, id: AttemptId) {
        if let Some(attempt) = self.attempts.get_mut(&id) {
            attempt.is_stopping = true;
            if std::mem::take(&mut attempt.is_ahead) {
                self.ahead.remove(&attempt.kind(), id);
            }
            self.effects.push(Effect::CancelRun(id));
        }
    }

    /// Takes an attempt off its worker, if it still is there.
    fn vacate(&mut self, id: AttemptId) -> Option<Attempt> {
        let attempt = self.attempts.remove(&id)?;
        if attempt.is_ahead {
            self.ahead.remove(&attempt.kind(), id);
        }
        if attempt.has_slot() {
            self.pool.free(&attempt.worker, &attempt.person, &attempt.build, attempt.due);
        }
        Some(attempt)
    }

    /// From now on clients are told of this attempt.
    pub(super) fn show(&mut self, id: AttemptId) {
        if let (Some(run), Some(attempt)) = (self.runs.get_mut(&id.run), self.attempts.get(&id)) {
            run.tell_of(id, attempt);
            self.notify(id.run);
        }
    }

    /// The slots that will be free soon.
    pub(super) fn stopping_slots(&self) -> impl Iterator<Item = Slot> {
        self.attempts.values().filter(|attempt| attempt.is_stopping && attempt.has_slot()).map(Attempt::slot)
    }
}

// === impl Run ===

impl Run {
    /// Begins an attempt, which is the present one if there is no other.
    pub(super) fn begin(&mut self, id: RunId, worker: &Arc<str>, now: Now) -> AttemptId {
        self.numbers += 1;
        let attempts = self.timeline.attempts + 1;
        if matches!(self.phase, Phase::Executing) {
            self.timeline.attempts = attempts;
        } else {
            self.phase = Phase::Executing;
            self.timeline = Timeline {
                queued_at: self.timeline.queued_at,
                worker: Some(worker.clone()),
                assigned_at: Some(now.wall),
                attempts,
                attempt: self.numbers,
                losses: mem::take(&mut self.timeline.losses),
                ..Default::default()
            };
        }
        AttemptId { run: id, number: self.numbers }
    }

    /// Makes an attempt the present one.
    fn tell_of(&mut self, id: AttemptId, attempt: &Attempt) {
        let (running_at, collecting_at) = attempt.times();
        self.timeline = Timeline {
            queued_at: self.timeline.queued_at,
            worker: Some(attempt.worker.clone()),
            assigned_at: Some(attempt.assigned_at.wall),
            running_at,
            collecting_at,
            ended_at: None,
            attempts: self.timeline.attempts,
            attempt: id.number,
            losses: mem::take(&mut self.timeline.losses),
        };
    }
}
