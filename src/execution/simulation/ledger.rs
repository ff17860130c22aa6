//! [`Ledger`]: what clients were told, and what slots were used for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tonic::Code;

use super::Time;
use crate::execution::operations::{OperationId, OperationState, Stage};
use crate::execution::queue::{Refusal, Submission};

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A command ran to its end.
    Result,
    /// It never did, with the code and the words of the answer.
    Failed(Code, String),
    /// The queue did not take it.
    Refused(String),
    /// The machine that owned it was killed.
    Died,
}

/// Looks on.
#[derive(Debug)]
pub struct Ledger {
    operations: BTreeMap<OperationId, Known>,
    live: usize,
    /// Operations that wait at each machine and that every machine could run.
    waiting: Vec<BTreeSet<(Time, OperationId)>>,
    /// Runs of each owner, wherever they run.
    running: Vec<usize>,
    /// The same by where they run.
    there: Vec<Vec<usize>>,
    changed_at: Time,
    /// The longest time for which a slot was idle beside something that waited and could have had it.
    pub longest_idle: Duration,
    /// When that was over.
    pub longest_idle_at: Time,
    /// Messages between machines.
    pub messages: usize,
    /// Runs that came to a machine that had no slot for them.
    pub busy: usize,
    /// Runs that were sent ahead of their slots.
    pub sent_ahead: usize,
}

#[derive(Debug)]
struct Known {
    machine: usize,
    waits_since: Option<Time>,
    fits_all: bool,
    outcome: Option<Outcome>,
}

// === impl Ledger ===

impl Ledger {
    pub(super) fn new(machines: usize) -> Self {
        Self {
            operations: BTreeMap::new(),
            live: 0,
            waiting: vec![BTreeSet::new(); machines],
            running: vec![0; machines],
            there: vec![vec![0; machines]; machines],
            changed_at: Time::ZERO,
            longest_idle: Duration::ZERO,
            longest_idle_at: Time::ZERO,
            messages: 0,
            busy: 0,
            sent_ahead: 0,
        }
    }

    /// How an operation ended, if it has.
    pub fn outcome(&self, operation: OperationId) -> Option<&Outcome> {
        self.operations.get(&operation)?.outcome.as_ref()
    }

    /// How all operations ended that have.
    pub fn outcomes(&self) -> impl Iterator<Item = &Outcome> {
        self.operations.values().filter_map(|known| known.outcome.as_ref())
    }

    /// Operations that have not ended.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Slots in use by runs of that owner.
    pub fn running(&self, owner: usize) -> usize {
        self.running[owner]
    }

    /// When a run began or ended last.
    pub fn last_change(&self) -> Time {
        self.changed_at
    }

    pub(super) fn submitted(&mut self, machine: usize, submission: &Submission) {
        let fits_all = submission.action.requirements.properties.is_empty();
        let known = Known { machine, waits_since: None, fits_all, outcome: None };
        let before = self.operations.insert(submission.operation, known);
        assert!(before.is_none(), "submitted twice");
        self.live += 1;
    }

    pub(super) fn refused(&mut self, operation: OperationId, refusal: &Refusal) {
        self.end(operation, Outcome::Refused(refusal.to_string()));
    }

    /// A client is told something. Since when the operation waited, if it does no longer.
    pub(super) fn notified(&mut self, now: Time, id: OperationId, state: &OperationState) -> Option<Time> {
        let known = self.operations.get_mut(&id).expect("news of an operation that nobody submitted");
        assert_eq!(known.outcome, None, "news after the end of {id}");
        let since = known.waits_since.take();
        if let Some(since) = since {
            self.waiting[known.machine].remove(&(since, id));
        }
        if state.stage == Stage::Queued && known.fits_all {
            known.waits_since = Some(now);
            self.waiting[known.machine].insert((now, id));
        }
        if let Some(response) = &state.response {
            let status = response.status.as_ref().filter(|status| status.code != 0);
            let failed = status.map(|status| Outcome::Failed(status.code.into(), status.message.clone()));
            self.end(id, failed.unwrap_or(Outcome::Result));
        }
        since
    }

    fn end(&mut self, id: OperationId, outcome: Outcome) {
        let known = self.operations.get_mut(&id).expect("the end of an operation that nobody submitted");
        assert_eq!(known.outcome, None, "{id} ended twice");
        known.outcome = Some(outcome);
        self.live -= 1;
    }

    /// Nobody waits for it any more: it may wait beside idle slots.
    pub(super) fn left(&mut self, id: OperationId) {
        let Some(known) = self.operations.get_mut(&id) else { return };
        known.fits_all = false;
        if let Some(since) = known.waits_since.take() {
            self.waiting[known.machine].remove(&(since, id));
        }
    }

    /// A machine was killed, and with it what it owned and what it ran.
    pub(super) fn died(&mut self, now: Time, machine: usize) {
        self.waiting[machine].clear();
        let owned = self.operations.values_mut().filter(|known| known.machine == machine);
        for known in owned.filter(|known| known.outcome.is_none()) {
            known.outcome = Some(Outcome::Died);
            self.live -= 1;
        }
        self.changed_at = now;
        for (owner, there) in std::mem::take(&mut self.there[machine]).into_iter().enumerate() {
            self.running[owner] -= there;
        }
        self.there[machine] = vec![0; self.running.len()];
    }

    /// Since when what waits longest at a machine has waited.
    pub(super) fn oldest_waiting(&self, owner: usize) -> Option<Time> {
        self.waiting[owner].first().map(|(since, _)| *since)
    }

    pub(super) fn was_idle(&mut self, now: Time, time: Duration) {
        if time > self.longest_idle {
            (self.longest_idle, self.longest_idle_at) = (time, now);
        }
    }

    pub(super) fn began(&mut self, now: Time, machine: usize, owner: usize) {
        self.changed_at = now;
        self.running[owner] += 1;
        self.there[machine][owner] += 1;
    }

    pub(super) fn ended(&mut self, now: Time, machine: usize, owner: usize) {
        self.changed_at = now;
        self.running[owner] -= 1;
        self.there[machine][owner] -= 1;
    }
}
