//! Runs that another machine sees to for clients of its own: they are waited for, and take no slot.
//!
//! Such an attempt stands on nothing: it may end without an answer at any time, which counts against
//! nobody, and the run waits for a slot again.

use std::mem;
use std::sync::Arc;

use super::attempts::Attempt;
use super::{Assignment, AttemptId, Effect, Phase, Queue, RunId};
use crate::action_cache::ActionKey;
use crate::execution::operations::{OperationId, Timeline};

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
        let is_waiting = self.runs.get(&id).is_some_and(|run| matches!(run.phase, Phase::Queued));
        if !is_there || !is_waiting {
            return;
        }
        self.withdraw(id);
        self.queued -= 1;
        self.join_elsewhere(id, worker, (place.person, place.build));
    }

    /// Takes a run out of every line it stands in.
    fn withdraw(&mut self, id: RunId) {
        let Some(run) = self.runs.get(&id) else { return };
        for operation in &run.operations {
            if let Some(ticket) = self.tickets.get(operation) {
                self.pool.withdraw(run.class, &ticket.place, id);
            }
        }
    }

    fn join_elsewhere(&mut self, id: RunId, worker: Arc<str>, (person, build): (Arc<str>, Arc<str>)) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        run.numbers += 1;
        let attempt = AttemptId { run: id, number: run.numbers };
        run.phase = Phase::Executing;
        run.timeline = Timeline {
            queued_at: run.timeline.queued_at,
            worker: Some(worker.clone()),
            assigned_at: Some(self.now.wall),
            attempts: run.timeline.attempts + 1,
            attempt: attempt.number,
            losses: mem::take(&mut run.timeline.losses),
            ..Timeline::default()
        };
        let operation = run.operations.first().copied();
        self.effects.push(Effect::Assign(Assignment {
            attempt,
            worker: worker.clone(),
            operation: operation.expect("invariant: somebody wants what waits"),
            action: run.action.clone(),
            queued_at: run.timeline.queued_at.unwrap_or(self.now.wall),
            person: person.clone(),
            build: build.clone(),
            grant: 0,
            is_joined: true,
        }));
        self.attempts.insert(attempt, Attempt::joined(self.now, run.class, worker, (person, build)));
        self.notify(id);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Bench, action, assigned, exit, id};
    use super::super::{Event, Settings, Step};
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
