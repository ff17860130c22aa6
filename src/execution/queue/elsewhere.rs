//! Runs that another machine sees to for clients of its own: they are waited for, and take no slot.
//!
//! Such an attempt stands on nothing: it may end without an answer at any time, which counts against
//! nobody, and the run waits for a slot again. What somebody wants anew is not looked for elsewhere: the
//! other machine may have had the result before.

use std::sync::Arc;
use std::time::Duration;

use super::attempts::Attempt;
use super::{Assignment, Effect, Phase, Queue, RunId};
use crate::action_cache::ActionKey;
use crate::execution::operations::OperationId;

/// How long another machine is waited for that has not begun what both want. It has slots of this one for
/// it, if both lend what they do not use.
const PATIENCE: Duration = Duration::from_secs(5);

impl Queue {
    /// A live operation with this action, if this machine sees to it itself.
    pub fn find(&self, key: &ActionKey) -> Option<OperationId> {
        let id = self.joinable.get(key)?;
        // Two machines that wait for each other would wait for ever.
        let is_joined = self.attempts_of(*id).any(|(_, attempt)| attempt.is_joined);
        self.runs[id].operations.first().copied().filter(|_| !is_joined)
    }

    /// A machine has the run of an operation too. It is waited for, unless the run has a slot by now.
    pub(super) fn found_elsewhere(&mut self, operation: OperationId, worker: Arc<str>) {
        let Some(ticket) = self.tickets.get(&operation) else { return };
        let (id, place) = (ticket.run, ticket.place.clone());
        let is_there =
            self.pool.machines().any(|machine| machine.name == worker && machine.left_at.is_none());
        let is_waiting = self.runs.get(&id).is_some_and(|run| {
            matches!(run.phase, Phase::Queued) && !run.must_be_fresh && !run.action.do_not_cache
        });
        if !is_there || !is_waiting {
            return;
        }
        self.leave_line(id);
        self.queued -= 1;
        self.join_elsewhere(id, worker, (place.person, place.build));
    }

    fn join_elsewhere(&mut self, id: RunId, worker: Arc<str>, (person, build): (Arc<str>, Arc<str>)) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let attempt = run.begin(id, &worker, self.now);
        let operation = run.operations.first().copied();
        self.effects.push(Effect::Assign(Assignment {
            attempt,
            worker: worker.clone(),
            operation: operation.expect("invariant: somebody wants what waits"),
            action: run.action.clone(),
            queued_at: run.timeline.queued_at.unwrap_or(self.now.wall),
            person: person.clone(),
            build: build.clone(),
            is_joined: true,
        }));
        self.attempts.insert(attempt, Attempt::joined(self.now, run.class, worker, (person, build)));
        self.notify(id);
    }

    /// What another machine has not begun for long goes to the next free slot, as if it had been sent
    /// ahead to it: that machine may rest, or its own queue be longer than this one's.
    pub(super) fn lose_patience(&mut self) {
        let now = self.now.instant;
        let waits = |attempt: &Attempt| {
            let is_idle =
                attempt.is_joined && !attempt.is_ahead && !attempt.is_stopping && !attempt.has_begun();
            is_idle && now.saturating_duration_since(attempt.began_at()) >= PATIENCE
        };
        let found: Vec<_> =
            self.attempts.iter().filter(|(_, attempt)| waits(attempt)).map(|(id, _)| *id).collect();
        for id in found {
            let Some(attempt) = self.attempts.get_mut(&id) else { continue };
            attempt.is_ahead = true;
            self.ahead.insert(attempt.kind(), id);
            self.pool.note_change();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Bench, action, assigned, exit, id};
    use super::super::{AttemptId, Event, Settings, Step};
    use super::*;

    fn joined(effects: &[Effect]) -> Vec<(AttemptId, Arc<str>)> {
        let joined = effects.iter().filter_map(|effect| match effect {
            Effect::Assign(assignment) if assignment.is_joined => {
                Some((assignment.attempt, assignment.worker.clone()))
            }
            _ => None,
        });
        joined.collect()
    }

    fn found(number: u128, worker: &str) -> Event {
        Event::FoundElsewhere { operation: id(number), worker: worker.into() }
    }

    #[test]
    fn what_was_lost_before_counts_on() {
        let mut bench = Bench::new(&Settings::default());
        bench.join("near", 1);
        bench.submit(1, &action("1", None, false));
        bench.apply(Event::WorkerLeft { worker: "near".into(), reason: "cut off".into() });
        bench.join("far", 0);
        assert_eq!(joined(&bench.apply(found(1, "far"))).len(), 1);
        assert!(bench.queue.runs.values().all(|run| run.timeline.losses.len() == 1));
    }

    /// A machine with no slot, so that everything waits.
    fn bench() -> Bench {
        let mut bench = Bench::new(&Settings::default());
        bench.join("far", 0);
        bench
    }

    #[test]
    fn what_another_machine_sees_to_takes_no_slot() {
        let mut bench = bench();
        bench.submit(1, &action("1", None, false));
        let attempts = joined(&bench.apply(found(1, "far")));
        assert_eq!(attempts.len(), 1);
        assert_eq!(&*attempts[0].1, "far");
        assert_eq!(bench.queue.queued, 0);
        let key = action("1", None, false).key.clone();
        assert_eq!(bench.queue.find(&key), None, "nobody may wait for who waits");
        assert!(joined(&bench.apply(found(1, "far"))).is_empty(), "once is enough");
        bench.apply(Event::Progress(attempts[0].0, Step::Running));
        let effects = bench.apply(Event::Ended(attempts[0].0, exit(0)));
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Store(..))));
        assert!(bench.queue.pool.machines().all(|machine| machine.busy == 0));
    }

    #[test]
    fn what_somebody_wants_anew_is_not_had_elsewhere() {
        let anew = |bench: &mut Bench, number| {
            let mut submission = bench.submission(number, &action("1", None, false));
            submission.looked_up_at = None;
            bench.apply(Event::Submitted(submission));
        };
        let mut bench = bench();
        anew(&mut bench, 1);
        assert!(joined(&bench.apply(found(1, "far"))).is_empty());
        // Not for others who share it either, and none shares one that is elsewhere.
        bench.submit(2, &action("1", None, false));
        assert!(joined(&bench.apply(found(2, "far"))).is_empty());
        let mut bench = self::bench();
        bench.submit(1, &action("1", None, false));
        assert_eq!(joined(&bench.apply(found(1, "far"))).len(), 1);
        anew(&mut bench, 2);
        assert_eq!((bench.queue.runs.len(), bench.queue.queued), (2, 1));
    }

    #[test]
    fn what_the_other_machine_does_not_begin_goes_to_the_next_free_slot() {
        for has_begun in [false, true] {
            let mut bench = bench();
            bench.submit(1, &action("1", None, false));
            let (attempt, _) = joined(&bench.apply(found(1, "far")))[0].clone();
            if has_begun {
                bench.apply(Event::Progress(attempt, Step::Running));
            }
            assert!(assigned(&bench.join("near", 1)).is_empty(), "the other machine has it");
            bench.wait(PATIENCE);
            let effects = bench.apply(Event::Tick);
            let stopped =
                effects.iter().any(|effect| matches!(effect, Effect::CancelRun(id) if *id == attempt));
            let workers: Vec<_> = assigned(&effects).iter().map(|(_, worker)| *worker).collect();
            assert_eq!((workers.is_empty(), stopped), (has_begun, !has_begun));
            // What comes from there now is too late.
            bench.apply(Event::Lost(attempt, "given up".into()));
            assert_eq!(bench.queue.queued, usize::from(has_begun && bench.queue.attempts.is_empty()));
        }
    }

    #[test]
    fn who_gets_no_answer_waits_for_a_slot_again() {
        for end in [Event::Busy as fn(AttemptId) -> Event, |attempt| Event::Lost(attempt, "gone".into())] {
            let mut bench = bench();
            bench.submit(1, &action("1", None, false));
            let (attempt, _) = joined(&bench.apply(found(1, "far")))[0].clone();
            bench.apply(end(attempt));
            assert_eq!(bench.queue.queued, 1);
            assert_eq!(assigned(&bench.join("near", 1)).len(), 1);
            assert!(bench.queue.runs.values().all(|run| run.timeline.losses.is_empty()));
        }
    }

    #[test]
    fn a_machine_that_goes_takes_nobody_along() {
        let mut bench = bench();
        bench.submit(1, &action("1", None, false));
        bench.apply(found(1, "far"));
        bench.apply(Event::WorkerLeft { worker: "far".into(), reason: "cut off".into() });
        assert_eq!(bench.queue.queued, 1);
        assert!(bench.queue.attempts.is_empty());
        assert!(joined(&bench.apply(found(1, "far"))).is_empty(), "it is not there");
    }

    #[test]
    fn what_runs_here_runs_on() {
        let mut bench = Bench::new(&Settings::default());
        bench.join("near", 1);
        assert_eq!(assigned(&bench.submit(1, &action("1", None, false))).len(), 1);
        assert!(joined(&bench.apply(found(1, "near"))).is_empty());
        assert!(joined(&bench.apply(found(7, "near"))).is_empty(), "nobody knows that one");
        let key = action("1", None, false).key.clone();
        assert_eq!(bench.queue.find(&key), Some(id(1)));
    }
}
