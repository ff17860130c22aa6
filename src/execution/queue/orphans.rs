//! Who waits for an operation, and what becomes of runs that nobody waits for.
//!
//! Why a client went away cannot be seen: it may have given up, or it comes back to the same
//! operation at once, or after its connection has recovered. So an *orphan*, a run that nobody waits
//! for, goes on for the whole grace period, but never at the expense of others:
//!
//! - it gets a slot only if no run that somebody waits for could take it;
//! - it gives its slot up, and ends, when such a run needs it and nobody came back for
//!   `orphan_yield`. The oldest orphan goes first, and no more go than are needed.
//!
//! A client that comes back in time, or one more that wants the same action, makes an orphan an
//! ordinary run again.

use std::sync::Arc;

use tokio::time::Instant;

use super::{OperationId, Phase, Queue, Run, RunId};

/// What an operation is told that gave way.
pub(super) const GAVE_WAY: &str =
    "no client waited for the operation, so it gave way to one that a client waits for";

/// What an operation is told whose grace period is over.
const TOO_LONG: &str = "no client has waited for the operation for too long";

impl Queue {
    pub(super) fn waiter_joined(&mut self, operation: OperationId) {
        let Some(ticket) = self.tickets.get_mut(&operation) else { return };
        ticket.waiters += 1;
        if ticket.alone_since.take().is_some() {
            self.change_rank(operation, false);
        }
    }

    pub(super) fn waiter_gone(&mut self, operation: OperationId) {
        let Some(ticket) = self.tickets.get_mut(&operation).filter(|ticket| ticket.waiters > 0) else {
            return;
        };
        ticket.waiters -= 1;
        if ticket.waiters == 0 {
            ticket.alone_since = Some(self.now.instant);
            self.alone.push_back((self.now.instant, operation));
            self.change_rank(operation, true);
        }
    }

    /// Puts the run of an operation where it belongs now that the operation is alone, or is not.
    fn change_rank(&mut self, operation: OperationId, alone: bool) {
        let Some(ticket) = self.tickets.get_mut(&operation) else { return };
        let before = ticket.place.clone();
        ticket.place.rank.alone = alone;
        let (id, place) = (ticket.run, ticket.place.clone());
        let Some(run) = self.runs.get(&id) else { return };
        if matches!(run.phase, Phase::Queued) {
            self.pool.enqueue(run.class, &place, id);
            self.leave_place(id, &before);
        }
    }

    /// Ends the operations whose grace period is over.
    pub(super) fn end_orphans(&mut self) {
        while let Some((since, operation)) = self.alone.front().copied() {
            if self.now.instant - since < self.grace {
                break;
            }
            self.alone.pop_front();
            if self.tickets.get(&operation).is_some_and(|ticket| ticket.alone_since == Some(since)) {
                self.detach(operation, TOO_LONG);
            }
        }
    }

    /// Stops orphans whose slots are needed. They hold them until their workers have answered.
    pub(super) fn make_way(&mut self) {
        if self.alone.is_empty() || self.queued == 0 {
            return;
        }
        let orphans = self.ripe_orphans();
        if orphans.is_empty() {
            return;
        }
        let stopping = self.on_worker.iter().filter_map(|id| match &self.runs[id].phase {
            Phase::Cancelling(worker) => Some(worker.clone()),
            _ => None,
        });
        for id in self.pool.must_yield(stopping, orphans) {
            let operations = self.runs[&id].operations.clone();
            for operation in operations {
                self.detach(operation, GAVE_WAY);
            }
        }
    }

    /// Running orphans that may be stopped, with their workers; the oldest orphan first.
    fn ripe_orphans(&self) -> Vec<(RunId, Arc<str>)> {
        let mut orphans = Vec::new();
        for id in &self.on_worker {
            let run = &self.runs[id];
            let (Phase::Executing(worker), Some(since)) = (&run.phase, self.orphan_since(run)) else {
                continue;
            };
            if self.now.instant - since >= self.orphan_yield {
                orphans.push((since, *id, worker.clone()));
            }
        }
        orphans.sort_unstable();
        orphans.into_iter().map(|(_, id, worker)| (id, worker)).collect()
    }

    /// Since when nobody waits for any operation of `run`; `None` if somebody does.
    pub(super) fn orphan_since(&self, run: &Run) -> Option<Instant> {
        let since: Option<Vec<_>> =
            run.operations.iter().map(|operation| self.tickets[operation].alone_since).collect();
        since?.into_iter().max()
    }
}
