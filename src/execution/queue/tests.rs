//! The rules of the queue one by one.

use std::time::SystemTime;

use super::*;
use crate::digest::{Digest, DigestFunction};
use crate::instance::InstanceName;
use crate::platform::Requirements;

mod doubt;
mod farm;

/// A queue with a clock that only the test moves.
pub(super) struct Bench {
    pub(super) queue: Queue,
    pub(super) now: Now,
}

impl Bench {
    pub(super) fn new(settings: &Settings) -> Self {
        let now = Now { instant: Instant::now(), wall: SystemTime::UNIX_EPOCH };
        Self { queue: Queue::new(settings, now), now }
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now.instant += time;
        self.now.wall += time;
    }

    pub(super) fn apply(&mut self, event: Event) -> Vec<Effect> {
        self.queue.apply(self.now, event)
    }

    pub(super) fn join(&mut self, worker: &str, slots: usize) -> Vec<Effect> {
        let matcher = Matcher::new(can_run(worker.to_owned()));
        self.apply(Event::WorkerJoined { worker: worker.into(), slots, matcher })
    }

    pub(super) fn submit(&mut self, number: u128, action: &Arc<PreparedAction>) -> Vec<Effect> {
        let submission = self.submission(number, action);
        self.apply(Event::Submitted(submission))
    }

    pub(super) fn submission(&self, number: u128, action: &Arc<PreparedAction>) -> Submission {
        Submission {
            operation: id(number),
            action: action.clone(),
            priority: 0,
            person: "ann".into(),
            build: "".into(),
            like: Like::default(),
            looked_up_at: Some(self.now.instant),
        }
    }
}

/// Runs everything, but what asks for another machine by the property `on`.
fn can_run(worker: String) -> impl Fn(&Requirements) -> Vec<String> {
    move |requirements| match requirements.properties.get("on") {
        Some(names) if !names.contains(&worker) => vec![format!("on={} is not {worker}", names.join(","))],
        _ => Vec::new(),
    }
}

pub(super) fn id(number: u128) -> OperationId {
    OperationId::from_number(number)
}

/// An action told from others by `name`; `on` names the machine it needs.
pub(super) fn action(name: &str, on: Option<&str>, do_not_cache: bool) -> Arc<PreparedAction> {
    let digest = Digest::of(DigestFunction::Sha256, name.as_bytes());
    let mut requirements = Requirements::default();
    if let Some(machine) = on {
        requirements.properties.insert("on".into(), vec![machine.into()]);
    }
    Arc::new(PreparedAction {
        key: ActionKey { instance: InstanceName::default(), action: digest },
        command: Arc::default(),
        command_digest: Digest::empty(DigestFunction::Sha256),
        input_root: Digest::empty(DigestFunction::Sha256),
        requirements: Arc::new(requirements),
        timeout: Duration::from_secs(1),
        do_not_cache,
    })
}

pub(super) fn exit(exit_code: i32) -> Arc<ExecuteResponse> {
    let result = farmhand_proto::reapi::ActionResult { exit_code, ..Default::default() };
    Arc::new(ExecuteResponse { result: Some(result), ..Default::default() })
}

pub(super) fn assigned(effects: &[Effect]) -> Vec<(AttemptId, &str)> {
    let mut attempts = Vec::new();
    for effect in effects {
        if let Effect::Assign(assignment) = effect {
            attempts.push((assignment.attempt, &*assignment.worker));
        }
    }
    attempts
}

pub(super) fn only_attempt(effects: &[Effect]) -> AttemptId {
    let attempts = assigned(effects);
    assert_eq!(attempts.len(), 1, "{effects:?}");
    attempts[0].0
}

/// Responses announced, by operation.
pub(super) fn done(effects: &[Effect]) -> Vec<(OperationId, Arc<ExecuteResponse>)> {
    let one = |effect: &Effect| match effect {
        Effect::Notify(id, state) => state.response.clone().map(|response| (*id, response)),
        _ => None,
    };
    effects.iter().filter_map(one).collect()
}

pub(super) fn done_ids(effects: &[Effect]) -> Vec<OperationId> {
    done(effects).into_iter().map(|(id, _)| id).collect()
}

pub(super) fn code(response: &ExecuteResponse) -> tonic::Code {
    response.status.as_ref().map_or(0, |status| status.code).into()
}

pub(super) fn stores(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Store(..))).count()
}

#[test]
fn a_run_from_start_to_end() {
    let mut bench = Bench::new(&Settings::default());
    bench.join("m", 1);
    let effects = bench.submit(1, &action("a", None, false));
    let attempt = only_attempt(&effects);
    let stages: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Notify(_, state) => Some((state.stage, state.timeline.worker.as_deref())),
            _ => None,
        })
        .collect();
    assert_eq!(stages, [(Stage::Queued, None), (Stage::Executing, Some("m"))]);
    assert!(done(&bench.apply(Event::Progress(attempt, Step::Running))).is_empty());
    let effects = bench.apply(Event::Ended(attempt, exit(0)));
    assert_eq!((stores(&effects), done(&effects).len()), (1, 0));
    let effects = bench.apply(Event::Stored(attempt.run, Ok(())));
    assert_eq!(done_ids(&effects), [id(1)]);
    assert!(bench.queue.runs.is_empty() && bench.queue.tickets.is_empty());
}

#[test]
fn failures_and_do_not_cache_are_announced_without_being_stored() {
    let mut bench = Bench::new(&Settings::default());
    bench.join("m", 2);
    let failing = only_attempt(&bench.submit(1, &action("a", None, false)));
    let private = only_attempt(&bench.submit(2, &action("b", None, true)));
    for (attempt, response, operation) in [(failing, exit(3), 1), (private, exit(0), 2)] {
        let effects = bench.apply(Event::Ended(attempt, response));
        assert_eq!((stores(&effects), done_ids(&effects)), (0, vec![id(operation)]));
    }
}

#[test]
fn equal_actions_share_a_run_and_cancelling_one_harms_nobody() {
    let mut bench = Bench::new(&Settings::default());
    bench.join("m", 9);
    let action = action("a", None, false);
    let attempt = only_attempt(&bench.submit(1, &action));
    for number in 2..=10 {
        assert!(assigned(&bench.submit(number, &action)).is_empty());
    }
    let effects = bench.apply(Event::Cancel(id(1)));
    assert_eq!(done_ids(&effects), [id(1)]);
    assert_eq!(code(&done(&effects)[0].1), tonic::Code::Cancelled);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::CancelRun(_))));
    bench.apply(Event::Ended(attempt, exit(0)));
    let effects = bench.apply(Event::Stored(attempt.run, Ok(())));
    assert_eq!(done_ids(&effects), (2..=10).map(id).collect::<Vec<_>>());
}

#[test]
fn do_not_cache_and_other_instances_never_share() {
    let mut bench = Bench::new(&Settings::default());
    bench.join("m", 9);
    let private = action("a", None, true);
    assert_eq!(assigned(&bench.submit(1, &private)).len(), 1);
    assert_eq!(assigned(&bench.submit(2, &private)).len(), 1);
    let shared = action("a", None, false);
    let mut elsewhere = (*shared).clone();
    elsewhere.key.instance = InstanceName::parse("b").unwrap();
    assert_eq!(assigned(&bench.submit(3, &shared)).len(), 1);
    assert_eq!(assigned(&bench.submit(4, &Arc::new(elsewhere))).len(), 1);
}

#[test]
fn who_skips_the_cache_joins_only_what_is_not_visible_yet() {
    let mut bench = Bench::new(&Settings::default());
    bench.join("m", 9);
    let action = action("a", None, false);
    let fresh =
        |bench: &Bench, number| Submission { looked_up_at: None, ..bench.submission(number, &action) };
    let attempt = only_attempt(&bench.submit(1, &action));
    let running = fresh(&bench, 2);
    assert!(assigned(&bench.apply(Event::Submitted(running))).is_empty());
    bench.apply(Event::Ended(attempt, exit(0)));
    let storing = fresh(&bench, 3);
    let second = only_attempt(&bench.apply(Event::Submitted(storing)));
    assert_eq!(done_ids(&bench.apply(Event::Stored(attempt.run, Ok(())))), [id(1), id(2)]);
    let finished = fresh(&bench, 4);
    assert!(assigned(&bench.apply(Event::Submitted(finished))).is_empty(), "joins the second run");
    bench.apply(Event::Ended(second, exit(0)));
    assert_eq!(done_ids(&bench.apply(Event::Stored(second.run, Ok(())))), [id(3), id(4)]);
}

#[test]
fn a_look_into_the_cache_that_came_too_early_is_made_good() {
    let mut bench = Bench::new(&Settings::default());
    bench.join("m", 1);
    let action = action("a", None, false);
    let early = bench.submission(2, &action);
    let attempt = only_attempt(&bench.submit(1, &action));
    bench.wait(Duration::from_millis(5));
    bench.apply(Event::Ended(attempt, exit(0)));
    bench.apply(Event::Stored(attempt.run, Ok(())));
    bench.wait(Duration::from_millis(5));
    assert_eq!(done_ids(&bench.apply(Event::Submitted(early))), [id(2)]);
    let late = bench.submit(3, &action);
    assert_eq!(assigned(&late).len(), 1, "this one saw no entry although it looked afterwards");
    bench.wait(RECENT);
    bench.apply(Event::Tick);
    assert!(bench.queue.recent.is_empty() && bench.queue.recent_order.is_empty());
}

#[test]
fn a_result_that_cannot_be_stored_is_still_a_result() {
    let mut bench = Bench::new(&Settings::default());
    bench.join("m", 1);
    let attempt = only_attempt(&bench.submit(1, &action("a", None, false)));
    bench.apply(Event::Ended(attempt, exit(0)));
    let effects = bench.apply(Event::Stored(attempt.run, Err("no room".into())));
    let (_, response) = &done(&effects)[0];
    assert!(response.message.contains("no room") && response.result.is_some());
}

#[test]
fn a_lost_worker_means_another_try_elsewhere_and_then_an_error_that_names_them() {
    let mut bench = Bench::new(&Settings::default());
    bench.join("a", 1);
    bench.join("b", 1);
    let mut effects = bench.submit(1, &action("x", None, false));
    let mut names = Vec::new();
    for attempt in 1..=MAX_LOSSES as u32 + 1 {
        let (id, worker) = assigned(&effects)[0];
        assert_eq!(id.number, attempt);
        names.push(worker.to_owned());
        effects = bench.apply(Event::Lost(id, format!("reason {attempt}")));
    }
    assert_ne!(names[0], names[1], "the second try is not where the first was lost");
    let (_, response) = &done(&effects)[0];
    assert_eq!(code(response), tonic::Code::Aborted);
    for text in ["a:", "b:", "reason 1", "reason 4"] {
        assert!(response.message.contains(text), "{}", response.message);
    }
    assert!(bench.queue.pool.slots().values().all(|(busy, _)| *busy == 0));
}

#[test]
fn news_of_an_earlier_try_is_ignored() {
    let mut bench = Bench::new(&Settings::default());
    bench.join("a", 1);
    let first = only_attempt(&bench.submit(1, &action("x", None, false)));
    let second = only_attempt(&bench.apply(Event::Lost(first, "gone".into())));
    assert!(bench.apply(Event::Ended(first, exit(0))).is_empty());
    assert!(bench.apply(Event::Lost(first, "gone".into())).is_empty());
    assert!(bench.apply(Event::Progress(first, Step::Running)).is_empty());
    assert_eq!(bench.queue.pool.slots()["a"], (1, 1));
    assert_eq!(stores(&bench.apply(Event::Ended(second, exit(0)))), 1);
}

#[test]
fn a_worker_that_leaves_hands_its_runs_back() {
    let mut bench = Bench::new(&Settings::default());
    bench.join("a", 2);
    let first = only_attempt(&bench.submit(1, &action("x", None, false)));
    bench.submit(2, &action("y", None, false));
    bench.apply(Event::Cancel(id(2)));
    let effects = bench.apply(Event::WorkerLeft { worker: "a".into(), reason: "unplugged".into() });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::CancelRun(attempt) if *attempt == first)));
    assert_eq!(bench.queue.runs.len(), 1, "the cancelled one is forgotten");
    let effects = bench.join("b", 1);
    assert_eq!(assigned(&effects)[0].1, "b");
}

#[test]
fn cancelling_the_last_caller_stops_the_run_and_frees_the_slot_when_it_ended() {
    let mut bench = Bench::new(&Settings::default());
    bench.join("m", 1);
    let action = action("a", None, false);
    let attempt = only_attempt(&bench.submit(1, &action));
    let effects = bench.apply(Event::Cancel(id(1)));
    assert!(matches!(effects[..], [Effect::Notify(..), Effect::CancelRun(stopped)] if stopped == attempt));
    assert!(assigned(&bench.submit(2, &action)).is_empty(), "never joins what is being stopped");
    let effects = bench.apply(Event::Ended(attempt, exit(0)));
    assert_eq!((stores(&effects), done(&effects).len(), assigned(&effects).len()), (0, 0, 1));
    assert!(bench.apply(Event::Cancel(id(1))).is_empty(), "a finished operation stays as it is");
}

fn amended(effects: &[Effect]) -> Vec<OperationId> {
    let one = |effect: &Effect| match effect {
        Effect::Amend(operation, _) => Some(*operation),
        _ => None,
    };
    effects.iter().filter_map(one).collect()
}

#[test]
fn who_left_a_run_is_told_what_came_of_it() {
    let mut bench = Bench::new(&Settings::default());
    bench.join("m", 1);
    let action = action("a", None, false);
    let attempt = only_attempt(&bench.submit(1, &action));
    for number in 2..=4 {
        bench.submit(number, &action);
    }
    assert!(amended(&bench.apply(Event::Cancel(id(1)))).is_empty(), "the worker has not answered");
    bench.apply(Event::Cancel(id(2)));
    assert_eq!(amended(&bench.apply(Event::Ended(attempt, exit(0)))), [id(1), id(2)]);
    assert_eq!(amended(&bench.apply(Event::Cancel(id(3)))), [id(3)], "the answer is there already");
    assert!(amended(&bench.apply(Event::Stored(attempt.run, Ok(())))).is_empty());
}

#[test]
fn who_left_an_attempt_is_not_told_of_the_next_one() {
    let mut bench = Bench::new(&Settings::default());
    bench.join("m", 1);
    let action = action("a", None, true);
    let first = only_attempt(&bench.submit(1, &action));
    bench.apply(Event::Cancel(id(1)));
    assert!(amended(&bench.apply(Event::Lost(first, "unplugged".into()))).is_empty());
    assert!(bench.queue.runs.is_empty());
}

#[test]
fn nobody_waiting_ends_an_operation_after_the_grace_period() {
    let settings = Settings::default();
    let mut bench = Bench::new(&settings);
    bench.submit(1, &action("a", None, false));
    bench.submit(2, &action("b", None, false));
    bench.apply(Event::WaiterGone(id(1)));
    bench.apply(Event::WaiterGone(id(2)));
    bench.wait(settings.grace / 2);
    bench.apply(Event::WaiterJoined(id(2)));
    bench.wait(settings.grace / 2 - Duration::from_secs(1));
    // Without any machine the actions would end for that reason first.
    bench.join("m", 0);
    assert!(done(&bench.apply(Event::Tick)).is_empty());
    bench.wait(Duration::from_secs(1));
    assert_eq!(done_ids(&bench.apply(Event::Tick)), [id(1)]);
    bench.wait(settings.grace);
    assert!(done(&bench.apply(Event::Tick)).is_empty());
    assert_eq!(bench.queue.queued, 1);
}

#[test]
fn the_most_urgent_caller_decides_and_takes_its_urgency_away_with_it() {
    let mut bench = Bench::new(&Settings::default());
    let (plain, merged) = (action("plain", None, false), action("merged", None, false));
    bench.submit(1, &plain);
    bench.submit(2, &merged);
    let urgent = Submission { priority: -5, ..bench.submission(3, &merged) };
    bench.apply(Event::Submitted(urgent.clone()));
    let first_run = |bench: &mut Bench| {
        let effects = bench.join("m", 1);
        let attempt = only_attempt(&effects);
        bench.apply(Event::WorkerLeft { worker: "m".into(), reason: String::new() });
        attempt.run
    };
    assert_eq!(first_run(&mut bench), RunId(1));
    bench.apply(Event::Cancel(id(3)));
    assert_eq!(first_run(&mut bench), RunId(0));
}

#[test]
fn builds_take_turns() {
    let mut bench = Bench::new(&Settings::default());
    for number in 0..1000_u128 {
        bench.submit(number, &action(&number.to_string(), None, false));
    }
    let mut late = bench.submission(5000, &action("late", None, false));
    late.build = "another build".into();
    bench.apply(Event::Submitted(late));
    let effects = bench.join("m", 2);
    let operations: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Assign(assignment) => Some(assignment.operation),
            _ => None,
        })
        .collect();
    assert_eq!(operations, [id(0), id(5000)]);
}

#[test]
fn a_full_queue_refuses_but_not_those_who_can_share() {
    let mut bench = Bench::new(&Settings { queue_limit: 1, ..Settings::default() });
    let waiting = action("a", None, false);
    bench.submit(1, &waiting);
    let effects = bench.submit(2, &action("b", None, false));
    assert!(matches!(effects[..], [Effect::Refuse(_, Refusal::Full(1))]));
    assert!(matches!(bench.submit(3, &waiting)[..], [Effect::Notify(..)]));
}

#[test]
fn what_no_machine_can_ever_run_is_refused_with_the_reason_of_each() {
    let mut bench = Bench::new(&Settings::default());
    bench.join("a", 1);
    bench.join("b", 1);
    let effects = bench.submit(1, &action("x", Some("c"), false));
    let [Effect::Refuse(_, refusal)] = &effects[..] else { panic!("{effects:?}") };
    let text = refusal.to_string();
    assert!(text.contains("a: on=c is not a") && text.contains("b: on=c is not b"), "{text}");
    assert_eq!(bench.queue.pool.class_count(), 0);
}

#[test]
fn what_only_an_absent_machine_can_run_waits_for_it_and_then_ends() {
    let settings = Settings::default();
    let mut bench = Bench::new(&settings);
    bench.join("a", 1);
    bench.join("b", 1);
    bench.apply(Event::WorkerLeft { worker: "b".into(), reason: "asleep".into() });
    assert!(matches!(bench.submit(1, &action("x", Some("b"), false))[..], [Effect::Notify(..)]));
    assert_eq!(assigned(&bench.join("b", 1))[0].1, "b");
    bench.apply(Event::WorkerLeft { worker: "b".into(), reason: "asleep".into() });
    bench.wait(settings.absent_worker_wait);
    let effects = bench.apply(Event::Tick);
    let (operation, response) = &done(&effects)[0];
    assert_eq!((*operation, code(response)), (id(1), tonic::Code::FailedPrecondition));
    assert!(response.message.contains("on=b"), "{}", response.message);
    assert_eq!(bench.queue.queued, 0);
    assert!(matches!(bench.submit(2, &action("x", Some("b"), false))[..], [Effect::Refuse(..)]));
}

#[test]
fn fewer_slots_stop_nothing_that_runs() {
    let mut bench = Bench::new(&Settings::default());
    bench.join("m", 2);
    let first = only_attempt(&bench.submit(1, &action("a", None, true)));
    bench.submit(2, &action("b", None, true));
    assert!(bench.join("m", 1).is_empty());
    bench.submit(3, &action("c", None, true));
    assert!(assigned(&bench.apply(Event::Ended(first, exit(0)))).is_empty(), "still one too many");
    assert_eq!(assigned(&bench.join("m", 2)).len(), 1);
}
