//! Who waits for an operation, and what becomes of runs that nobody waits for.
//!
//! Why a client went away cannot be seen: it may have given up, or it comes back to the same
//! operation at once, or after its connection has recovered. So an *orphan*, a run that nobody waits
//! for, goes on for the whole grace period, but never at the expense of others:
//!
//! - it gets a slot only if no run that somebody waits for could take it;
//! - it gives its slot up, and ends, when such a run needs it and nobody came back for
//!   `orphan_yield`. The oldest orphan goes first, and no more go than are needed;
//! - it gives its place in a full queue up, and ends.
//!
//! A client that comes back in time, or one more that wants the same action, makes an orphan an
//! ordinary run again.

use tokio::time::Instant;

use super::pool::Slot;
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
            if self.is_alone(&(since, operation)) {
                self.detach(operation, TOO_LONG);
            }
        }
    }

    /// Ends the oldest orphan that has not begun. Returns whether there was one.
    pub(super) fn end_queued_orphan(&mut self) -> bool {
        while self.alone.front().is_some_and(|entry| !self.is_alone(entry)) {
            self.alone.pop_front();
        }
        let oldest = self.alone.iter().filter(|entry| self.is_alone(entry)).find_map(|(_, operation)| {
            let id = self.tickets.get(operation)?.run;
            let run = self.runs.get(&id)?;
            let waits = matches!(run.phase, Phase::Queued) && self.orphan_since(run).is_some();
            waits.then(|| run.operations.clone())
        });
        for operation in oldest.iter().flatten() {
            self.detach(*operation, GAVE_WAY);
        }
        oldest.is_some()
    }

    /// Whether an operation is alone since the time that was noted, and was not joined meanwhile.
    fn is_alone(&self, (since, operation): &(Instant, OperationId)) -> bool {
        self.tickets.get(operation).is_some_and(|ticket| ticket.alone_since == Some(*since))
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
        for id in self.pool.must_yield(self.stopping_slots(), orphans) {
            let operations = self.runs[&id].operations.clone();
            for operation in operations {
                self.detach(operation, GAVE_WAY);
            }
        }
    }

    /// Running orphans that may be stopped, with their slots; the oldest orphan first.
    pub(super) fn ripe_orphans(&self) -> Vec<(RunId, Slot)> {
        let mut orphans = Vec::new();
        for (id, attempt) in
            self.attempts.iter().filter(|(_, attempt)| !attempt.is_stopping && attempt.has_slot())
        {
            let Some(since) = self.runs.get(&id.run).and_then(|run| self.orphan_since(run)) else { continue };
            if self.now.instant - since >= self.orphan_yield {
                orphans.push((since, *id, attempt.slot()));
            }
        }
        orphans.sort_unstable_by_key(|(since, id, _)| (*since, *id));
        orphans.into_iter().map(|(_, id, slot)| (id.run, slot)).collect()
    }

    /// Since when nobody waits for any operation of `run`; `None` if somebody does.
    pub(super) fn orphan_since(&self, run: &Run) -> Option<Instant> {
        let since: Option<Vec<_>> =
            run.operations.iter().map(|operation| self.tickets[operation].alone_since).collect();
        since?.into_iter().max()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{Bench, action, assigned, code, done, done_ids, exit, id, only_attempt};
    use super::super::{AttemptId, Effect, Event, Settings, Submission};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn bench() -> (Bench, Duration) {
        let settings = Settings::default();
        (Bench::new(&settings), settings.orphan_yield)
    }

    /// A queue whose machine `m` runs the action 1, alone since a moment ago.
    fn with_orphan() -> (Bench, Duration, AttemptId) {
        let (mut bench, orphan_yield) = bench();
        bench.join("m", 1);
        let orphan = only_attempt(&bench.submit(1, &action("a", None, false)));
        bench.apply(Event::WaiterGone(id(1)));
        (bench, orphan_yield, orphan)
    }

    fn stopped(effects: &[Effect]) -> Vec<AttemptId> {
        let one = |effect: &Effect| match effect {
            Effect::CancelRun(attempt) => Some(*attempt),
            _ => None,
        };
        effects.iter().filter_map(one).collect()
    }

    #[test]
    fn queued_orphans_let_others_go_first_and_run_when_none_is_there() {
        let (mut bench, _) = bench();
        let urgent = Submission { priority: -5, ..bench.submission(1, &action("orphan", None, false)) };
        bench.apply(Event::Submitted(urgent));
        bench.submit(2, &action("waited for", None, true));
        bench.apply(Event::WaiterGone(id(1)));
        let first = only_attempt(&bench.join("m", 1));
        assert_eq!(first.run, RunId(1));
        assert_eq!(only_attempt(&bench.apply(Event::Ended(first, exit(0)))).run, RunId(0));
    }

    #[test]
    fn a_queued_orphan_is_an_ordinary_run_again_when_somebody_comes_back() {
        let returns: [fn(&mut Bench); 2] = [
            |bench| drop(bench.apply(Event::WaiterJoined(id(1)))),
            |bench| drop(bench.submit(3, &action("a", None, false))),
        ];
        for come_back in returns {
            let (mut bench, _) = bench();
            bench.submit(1, &action("a", None, false));
            bench.apply(Event::WaiterGone(id(1)));
            bench.submit(2, &action("b", None, false));
            come_back(&mut bench);
            assert_eq!(only_attempt(&bench.join("m", 1)).run, RunId(0), "the oldest");
            assert_eq!(bench.queue.pool.waiting().into_iter().collect::<Vec<_>>(), [RunId(1)]);
        }
    }

    #[test]
    fn the_oldest_running_orphans_give_way_and_no_more_than_needed() {
        let (mut bench, orphan_yield) = bench();
        bench.join("m", 3);
        let attempts = [1, 2, 3]
            .map(|number| only_attempt(&bench.submit(number, &action(&number.to_string(), None, false))));
        bench.apply(Event::WaiterGone(id(2)));
        bench.wait(SECOND);
        bench.apply(Event::WaiterGone(id(1)));
        assert!(stopped(&bench.submit(4, &action("4", None, false))).is_empty(), "not at once");
        bench.wait(orphan_yield - SECOND);
        let effects = bench.apply(Event::Tick);
        assert_eq!((stopped(&effects), done_ids(&effects)), (vec![attempts[1]], vec![id(2)]));
        let (_, response) = &done(&effects)[0];
        assert_eq!((code(response), &*response.message), (tonic::Code::Cancelled, GAVE_WAY));
        bench.wait(orphan_yield);
        assert!(stopped(&bench.apply(Event::Tick)).is_empty(), "a slot is on its way");
        assert_eq!(assigned(&bench.apply(Event::Ended(attempts[1], exit(0)))).len(), 1);
        assert_eq!(stopped(&bench.submit(5, &action("5", None, false))), [attempts[0]], "ripe already");
        assert!(stopped(&bench.submit(6, &action("6", None, false))).is_empty(), "3 has a client");
    }

    #[test]
    fn an_orphan_that_somebody_comes_back_to_stays() {
        let returns: [fn(&mut Bench); 2] = [
            |bench| drop(bench.apply(Event::WaiterJoined(id(1)))),
            |bench| drop(bench.submit(3, &action("a", None, false))),
        ];
        for come_back in returns {
            let (mut bench, orphan_yield, orphan) = with_orphan();
            bench.submit(2, &action("b", None, false));
            bench.wait(orphan_yield - SECOND);
            come_back(&mut bench);
            bench.wait(orphan_yield);
            assert!(stopped(&bench.apply(Event::Tick)).is_empty());
            let back = if bench.queue.tickets.contains_key(&id(3)) { id(3) } else { id(1) };
            bench.apply(Event::WaiterGone(back));
            bench.wait(orphan_yield - SECOND);
            assert!(stopped(&bench.apply(Event::Tick)).is_empty(), "its time starts anew");
            bench.wait(SECOND);
            assert_eq!(stopped(&bench.apply(Event::Tick)), [orphan]);
        }
    }

    #[test]
    fn orphans_do_not_give_way_to_orphans() {
        let (mut bench, orphan_yield, orphan) = with_orphan();
        bench.submit(2, &action("b", None, false));
        bench.apply(Event::WaiterGone(id(2)));
        bench.wait(orphan_yield);
        assert!(stopped(&bench.apply(Event::Tick)).is_empty());
        assert_eq!(stopped(&bench.apply(Event::WaiterJoined(id(2)))), [orphan]);
    }

    #[test]
    fn only_the_slots_of_machines_that_fit_are_given_up() {
        let (mut bench, orphan_yield) = bench();
        for machine in ["a", "b"] {
            bench.join(machine, 1);
        }
        bench.submit(1, &action("1", Some("a"), false));
        let on_b = only_attempt(&bench.submit(2, &action("2", Some("b"), false)));
        for number in [1, 2] {
            bench.apply(Event::WaiterGone(id(number)));
        }
        bench.wait(orphan_yield);
        assert_eq!(stopped(&bench.submit(3, &action("3", Some("b"), false))), [on_b]);
        let effects = bench.apply(Event::Ended(on_b, exit(0)));
        assert_eq!(assigned(&effects)[0].1, "b");
    }

    #[test]
    fn a_machine_with_more_runs_than_slots_stops_as_many_as_free_one() {
        let (mut bench, orphan_yield) = bench();
        bench.join("m", 2);
        for number in [1, 2] {
            bench.submit(number, &action(&number.to_string(), None, false));
            bench.apply(Event::WaiterGone(id(number)));
        }
        bench.wait(orphan_yield);
        bench.join("m", 0);
        assert!(stopped(&bench.submit(3, &action("3", None, false))).is_empty(), "it has no slots");
        let attempts = stopped(&bench.join("m", 1));
        assert_eq!(attempts.len(), 2);
        assert!(assigned(&bench.apply(Event::Ended(attempts[0], exit(0)))).is_empty());
        assert_eq!(assigned(&bench.apply(Event::Ended(attempts[1], exit(0)))).len(), 1);
    }

    #[test]
    fn orphans_keep_nobody_out_of_a_full_queue() {
        let settings = Settings { queue_limit: 2, ..Settings::default() };
        let mut bench = Bench::new(&settings);
        for number in [1, 2] {
            bench.submit(number, &action(&number.to_string(), None, false));
        }
        let refused = |effects: &[Effect]| matches!(effects, [Effect::Refuse(..)]);
        assert!(refused(&bench.submit(3, &action("3", None, false))), "both are waited for");
        bench.apply(Event::WaiterGone(id(2)));
        let effects = bench.submit(4, &action("4", None, false));
        assert_eq!(done_ids(&effects), [id(2)]);
        assert!(refused(&bench.submit(5, &action("5", None, false))));
        bench.apply(Event::WaiterGone(id(1)));
        bench.apply(Event::WaiterJoined(id(1)));
        assert!(refused(&bench.submit(6, &action("6", None, false))), "somebody came back");
    }
}
