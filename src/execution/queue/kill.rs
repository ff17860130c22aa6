//! What a person ends: a run, for everybody who waits for it.
//!
//! Unlike a client that does not want its operation any more, a person wants to see what the action
//! did until then. So the operations of a run that is with a worker stay until the worker has
//! answered, and get that answer, with the logs in it, as CANCELLED; whatever it was, it does not enter
//! the action cache. Nobody joins the run meanwhile, and it is not tried again if its worker is lost. A run
//! that waits ends at once. One whose result is being stored has ended already: nothing changes.

use std::sync::Arc;

use super::{OperationId, Phase, Queue, RunId, Target, response};

impl Queue {
    /// Operations that killing `target` would end, or that are being ended already.
    pub fn victims(&self, target: &Target) -> Vec<OperationId> {
        let runs = self.runs_of(target).into_iter().filter_map(|id| self.runs.get(&id));
        let ending = runs.filter(|run| !matches!(run.phase, Phase::Storing(_)));
        ending.flat_map(|run| run.operations.iter().copied()).collect()
    }

    fn runs_of(&self, target: &Target) -> Vec<RunId> {
        match target {
            Target::Operation(operation) => {
                self.tickets.get(operation).map(|ticket| ticket.run).into_iter().collect()
            }
            Target::Action(digest) => {
                let of_action = self.runs.iter().filter(|(_, run)| run.action.key.action == *digest);
                of_action.map(|(id, _)| *id).collect()
            }
        }
    }

    /// Ends runs for everybody who waits for them. Of one that has ended, the result stays.
    pub(super) fn kill(&mut self, target: Target) {
        for id in self.runs_of(&target) {
            let Some(run) = self.runs.get_mut(&id) else { continue };
            match &run.phase {
                Phase::Queued => {
                    self.queued -= 1;
                    self.leave_line(id);
                    self.finish(id, Arc::new(response::killed(None)));
                }
                Phase::Executing => {
                    run.phase = Phase::Killing;
                    self.no_longer_joinable(id);
                    self.stop_attempts(id);
                }
                Phase::Cancelling | Phase::Killing | Phase::Storing(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{
        Bench, action, assigned, code, done, done_ids, exit, id, only_attempt, stores,
    };
    use super::super::{AttemptId, Effect, Event, Settings, Step};
    use super::*;

    fn bench() -> Bench {
        let mut bench = Bench::new(&Settings::default());
        bench.join("m", 1);
        bench
    }

    fn kill(bench: &mut Bench, number: u128) -> Vec<Effect> {
        bench.apply(Event::Kill(Target::Operation(id(number))))
    }

    fn victims(bench: &Bench, number: u128) -> Vec<OperationId> {
        bench.queue.victims(&Target::Operation(id(number)))
    }

    fn is_stop_of(effects: &[Effect], attempt: AttemptId) -> bool {
        matches!(effects, [Effect::CancelRun(stopped)] if *stopped == attempt)
    }

    #[test]
    fn all_callers_of_a_running_one_get_what_the_worker_answers() {
        let mut bench = bench();
        let shared = action("a", None, false);
        let attempt = only_attempt(&bench.submit(1, &shared));
        bench.submit(2, &shared);
        assert_eq!(victims(&bench, 2), [id(1), id(2)]);
        assert!(is_stop_of(&kill(&mut bench, 2), attempt));
        assert_eq!(victims(&bench, 1), [id(1), id(2)], "both are on their way");
        assert!(kill(&mut bench, 1).is_empty(), "twice is once");
        assert!(bench.apply(Event::Progress(attempt, Step::Collecting)).is_empty());
        assert!(assigned(&bench.submit(3, &shared)).is_empty(), "the slot is taken, the run not shared");

        // It had just ended well by itself.
        let effects = bench.apply(Event::Ended(attempt, exit(0)));
        assert_eq!((stores(&effects), done_ids(&effects)), (0, vec![id(1), id(2)]));
        for (_, response) in done(&effects) {
            assert_eq!(code(&response), tonic::Code::Cancelled);
            assert!(response.message.contains("killed by a person") && response.result.is_some());
        }
        assert_eq!(only_attempt(&effects).run, RunId(1), "the slot is free");
        assert!(victims(&bench, 1).is_empty());
        assert!(kill(&mut bench, 1).is_empty());
        assert!(bench.apply(Event::Ended(attempt, exit(0))).is_empty(), "late news");
    }

    #[test]
    fn what_waits_ends_at_once() {
        let mut bench = bench();
        bench.submit(1, &action("a", None, false));
        bench.submit(2, &action("b", None, false));
        bench.submit(3, &action("b", None, false));
        let effects = kill(&mut bench, 2);
        assert_eq!(done_ids(&effects), [id(2), id(3)]);
        assert_eq!(code(&done(&effects)[0].1), tonic::Code::Cancelled);
        assert_eq!((bench.queue.queued, bench.queue.runs.len()), (0, 1));
    }

    #[test]
    fn an_action_is_killed_in_all_its_runs() {
        let mut bench = bench();
        let private = action("a", None, true);
        let attempt = only_attempt(&bench.submit(1, &private));
        bench.submit(2, &private);
        bench.submit(3, &action("b", None, false));
        let target = Target::Action(private.key.action);
        assert_eq!(bench.queue.victims(&target), [id(1), id(2)]);
        let effects = bench.apply(Event::Kill(target));
        assert_eq!(done_ids(&effects), [id(2)]);
        assert_eq!(done_ids(&bench.apply(Event::Ended(attempt, exit(1)))), [id(1)]);
        assert_eq!(bench.queue.runs.len(), 1);
    }

    #[test]
    fn a_result_that_is_being_stored_stays() {
        let mut bench = bench();
        let attempt = only_attempt(&bench.submit(1, &action("a", None, false)));
        bench.apply(Event::Ended(attempt, exit(0)));
        assert!(victims(&bench, 1).is_empty());
        assert!(kill(&mut bench, 1).is_empty());
        let effects = bench.apply(Event::Stored(attempt.run, Ok(())));
        assert_eq!(code(&done(&effects)[0].1), tonic::Code::Ok);
    }

    #[test]
    fn one_whose_worker_is_lost_is_not_tried_again() {
        let loss = |attempt| Event::Lost(attempt, "unplugged".into());
        let leave = |_| Event::WorkerLeft { worker: "m".into(), reason: "unplugged".into() };
        let ways: [&dyn Fn(AttemptId) -> Event; 2] = [&loss, &leave];
        for way in ways {
            let mut bench = bench();
            let attempt = only_attempt(&bench.submit(1, &action("a", None, false)));
            kill(&mut bench, 1);
            let effects = bench.apply(way(attempt));
            assert_eq!(done_ids(&effects), [id(1)]);
            assert_eq!(code(&done(&effects)[0].1), tonic::Code::Cancelled);
            assert!(bench.queue.runs.is_empty() && bench.queue.attempts.is_empty());
        }
    }

    #[test]
    fn clients_may_go_while_it_ends() {
        let mut bench = bench();
        let attempt = only_attempt(&bench.submit(1, &action("a", None, false)));
        bench.apply(Event::WaiterGone(id(1)));
        assert!(is_stop_of(&kill(&mut bench, 1), attempt), "an orphan is killed like any other");
        assert_eq!(done_ids(&bench.apply(Event::Cancel(id(1)))), [id(1)]);
        let effects = bench.apply(Event::Ended(attempt, exit(137)));
        assert!(done(&effects).is_empty() && bench.queue.runs.is_empty());
        assert_eq!(bench.queue.pool.slots()["m"], (0, 1));
    }
}
