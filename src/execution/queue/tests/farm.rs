//! The rules of the queue where machines come and go, grant slots and take them back.

use super::*;
use crate::execution::grants::{Demand, Grant, Share, Slots, Want};
use crate::execution::placement::{Holdings, Site};

const SECOND: Duration = Duration::from_secs(1);

/// A link as fast as in a home.
const LINK: Site = Site { is_remote: true, latency: Duration::from_micros(500), has_other_toolchain: false };

impl Bench {
    /// A machine joins that shares its slots out.
    fn join_remote(&mut self, worker: &str) {
        self.join(worker, 0);
        self.apply(Event::Sited { worker: worker.into(), site: LINK });
    }

    fn grant(&mut self, worker: &str, number: u64, shares: &[(&str, usize, usize)]) -> Vec<Effect> {
        let share = |(person, slots, ahead): &(&str, _, _)| Share {
            person: (*person).into(),
            slots: *slots,
            ahead: *ahead,
        };
        let slots = Slots::Shared(shares.iter().map(share).collect());
        self.apply(Event::Granted { worker: worker.into(), grant: Grant { number, slots } })
    }

    fn submit_for(&mut self, person: &str, build: &str, numbers: std::ops::Range<u128>) -> Vec<Effect> {
        let mut effects = Vec::new();
        for number in numbers {
            let action = action(&format!("{person} {number}"), None, false);
            let submission = self.submission(number, &action);
            let (person, build) = (person.into(), build.into());
            effects.extend(self.apply(Event::Submitted(Submission { person, build, ..submission })));
        }
        effects
    }

    /// An action whose like ran for a second before.
    fn submit_like(&mut self, number: u128, private: bool) -> Vec<Effect> {
        let action = action(&number.to_string(), None, private);
        let submission = Submission { like: Like::new("", "Cpp"), ..self.submission(number, &action) };
        self.apply(Event::Submitted(submission))
    }

    fn learn(&mut self) {
        self.queue.placement.learn(Like::new("", "Cpp"), "elsewhere", SECOND);
    }

    fn tick_after(&mut self, time: Duration) -> Vec<Effect> {
        self.wait(time);
        self.apply(Event::Tick)
    }
}

fn want(person: &str, build: &str, waiting: usize, given: usize, spare: usize) -> Want {
    Want { person: person.into(), build: build.into(), waiting, given, spare, priority: 0 }
}

fn is_demand(effect: &Effect) -> bool {
    matches!(effect, Effect::DemandChanged)
}

fn workers(effects: &[Effect]) -> Vec<&str> {
    assigned(effects).into_iter().map(|(_, worker)| worker).collect()
}

fn stopped(effects: &[Effect]) -> Vec<AttemptId> {
    let one = |effect: &Effect| match effect {
        Effect::CancelRun(attempt) => Some(*attempt),
        _ => None,
    };
    effects.iter().filter_map(one).collect()
}

/// What an operation was told last.
fn told(effects: &[Effect], number: u128) -> OperationState {
    let one = |effect: &Effect| match effect {
        Effect::Notify(operation, state) if *operation == id(number) => Some(state.clone()),
        _ => None,
    };
    effects.iter().rev().find_map(one).expect("it was told something")
}

// === grants ===

#[test]
fn each_person_has_the_slots_that_were_granted() {
    let mut bench = Bench::new(&Settings::default());
    bench.join_remote("far");
    bench.submit_for("ann", "a", 0..10);
    bench.submit_for("ben", "b", 10..20);
    let effects = bench.grant("far", 5, &[("ann", 2, 0), ("cat", 4, 0)]);
    let people: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Assign(assignment) => Some(&*assignment.person),
            _ => None,
        })
        .collect();
    assert_eq!(people, ["ann", "ann"]);
    assert!(bench.grant("far", 4, &[("ann", 9, 0)]).is_empty(), "older than what is known");
    assert_eq!(assigned(&bench.grant("far", 6, &[("ann", 1, 0), ("ben", 3, 0)])).len(), 3);
    let machine = &bench.queue.machines()[0];
    assert_eq!((machine.slots, machine.busy, machine.is_shared), (4, 5, true));
}

#[test]
fn people_take_turns_and_so_do_the_builds_of_each() {
    let mut bench = Bench::new(&Settings::default());
    bench.submit_for("ann", "a", 0..9);
    bench.submit_for("ann", "b", 9..18);
    bench.submit_for("ben", "c", 18..27);
    let effects = bench.join("m", 8);
    let builds: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Assign(assignment) => Some(&*assignment.build),
            _ => None,
        })
        .collect();
    assert_eq!(builds, ["a", "c", "b", "c", "a", "c", "b", "c"]);
}

#[test]
fn a_busy_machine_is_no_loss_and_gets_nothing_until_it_grants_anew() {
    let mut bench = Bench::new(&Settings::default());
    bench.join_remote("far");
    bench.submit_for("ann", "a", 0..3);
    let effects = bench.grant("far", 1, &[("ann", 1, 0)]);
    let attempt = only_attempt(&effects);
    assert_eq!((attempt.run, told(&effects, 0).timeline.attempts), (RunId(0), 1));
    let effects = bench.apply(Event::Busy(attempt));
    let state = told(&effects, 0);
    assert_eq!((state.stage, state.timeline.attempts, state.timeline.worker), (Stage::Queued, 0, None));
    assert!(assigned(&effects).is_empty(), "it would be busy again");
    assert!(bench.apply(Event::Busy(attempt)).is_empty());
    let effects = bench.grant("far", 2, &[("ann", 1, 0)]);
    let again = only_attempt(&effects);
    assert_eq!((again, told(&effects, 0).timeline.attempts), (AttemptId { run: RunId(0), number: 2 }, 1));
    assert!(bench.queue.runs[&RunId(0)].timeline.losses.is_empty());
    // A grant that came before the news of the one it replaced counts.
    bench.grant("far", 3, &[("ann", 2, 0)]);
    assert_eq!(assigned(&bench.apply(Event::Busy(again))).len(), 1);
}

#[test]
fn a_machine_that_was_busy_is_asked_again_after_a_while() {
    let mut bench = Bench::new(&Settings::default());
    bench.join_remote("far");
    bench.grant("far", 1, &[("ann", 1, 0)]);
    let attempt = only_attempt(&bench.submit_for("ann", "a", 0..1));
    bench.apply(Event::Busy(attempt));
    assert!(assigned(&bench.tick_after(SECOND / 2)).is_empty());
    assert!(bench.queue.explain(bench.now.instant, id(0)).is_some());
    assert_eq!(assigned(&bench.tick_after(SECOND / 2)).len(), 1);
}

#[test]
fn who_is_cancelled_or_killed_while_the_machine_is_busy_is_over() {
    for (event, code_then) in
        [(Event::Cancel(id(0)), None), (Event::Kill(Target::Operation(id(0))), Some(tonic::Code::Cancelled))]
    {
        let mut bench = Bench::new(&Settings::default());
        bench.join("m", 1);
        let attempt = only_attempt(&bench.submit_for("ann", "a", 0..1));
        bench.apply(event);
        let effects = bench.apply(Event::Busy(attempt));
        assert_eq!(done(&effects).first().map(|(_, response)| code(response)), code_then);
        assert!(bench.queue.runs.is_empty() && bench.queue.attempts.is_empty());
    }
}

// === machines that come and go ===

#[test]
fn what_only_machines_in_and_out_could_run_waits_and_says_so() {
    let settings = Settings::default();
    let mut bench = Bench::new(&settings);
    bench.join("here", 1);
    bench.join_remote("far");
    let leave = |bench: &mut Bench| {
        bench.apply(Event::WorkerLeft { worker: "far".into(), reason: "the link broke".into() })
    };
    leave(&mut bench);
    bench.submit(1, &action("x", Some("far"), false));
    for _ in 0..5 {
        bench.tick_after(settings.absent_worker_wait - SECOND);
        let waiting = bench.queue.explain(bench.now.instant, id(1)).unwrap();
        let texts: Vec<_> = waiting.obstacles.iter().map(|(name, why)| format!("{name}: {why}")).collect();
        assert_eq!(
            texts,
            [
                "far: could run it, and has been away for 59s: waiting",
                "here: cannot run it: on=far is not here"
            ]
        );
        bench.join_remote("far");
        leave(&mut bench);
    }
    assert!(matches!(bench.submit(2, &action("y", Some("gone"), false))[..], [Effect::Refuse(..)]));
    let effects = bench.tick_after(settings.absent_worker_wait);
    assert_eq!(done_ids(&effects), [id(1)]);
    let (_, response) = &done(&effects)[0];
    for text in ["here: on=far is not here", "far: it could, but it has been away for 1m"] {
        assert!(response.message.contains(text), "{}", response.message);
    }
}

#[test]
fn a_machine_that_is_there_and_fits_no_more_leaves_nothing_waiting_for_ever() {
    let settings = Settings::default();
    let mut bench = Bench::new(&settings);
    bench.join("far", 0);
    bench.submit(1, &action("x", Some("far"), false));
    let refuses = Matcher::new(|_| vec!["its labels have changed".to_owned()]);
    bench.apply(Event::WorkerJoined { worker: "far".into(), slots: 1, matcher: refuses });
    assert!(done(&bench.tick_after(settings.absent_worker_wait - SECOND)).is_empty());
    let effects = bench.tick_after(SECOND);
    assert!(done(&effects)[0].1.message.contains("far: its labels have changed"));
    assert_eq!(bench.queue.queued, 0);
}

#[test]
fn losses_name_each_machine_with_the_reason() {
    let mut bench = Bench::new(&Settings::default());
    bench.submit_for("ann", "a", 0..1);
    let mut effects = Vec::new();
    for number in 0..=MAX_LOSSES {
        let name = format!("far{number}");
        bench.join_remote(&name);
        let assigned = told(&bench.grant(&name, 1, &[("ann", 1, 0)]), 0);
        effects = bench.apply(Event::WorkerLeft { worker: name.into(), reason: format!("reason {number}") });
        assert_eq!(assigned.timeline.losses.len(), number, "those before it");
    }
    let (_, response) = &done(&effects)[0];
    assert_eq!(code(response), tonic::Code::Aborted);
    for number in 0..=MAX_LOSSES {
        assert!(response.message.contains(&format!("far{number}: reason {number}")), "{}", response.message);
    }
}

// === demand ===

#[test]
fn each_machine_is_wanted_for_what_it_could_run() {
    let mut bench = Bench::new(&Settings::default());
    bench.join("here", 0);
    bench.join_remote("far");
    assert_eq!(bench.queue.demands(), [], "nothing is wanted");
    assert!(bench.submit_for("ann", "a", 0..2).iter().any(is_demand));
    assert!(!bench.submit_for("ann", "b", 2..5).iter().any(is_demand), "said once");
    let picky = action("picky", Some("far"), false);
    let picky = Submission { build: "a".into(), priority: -3, ..bench.submission(9, &picky) };
    bench.apply(Event::Submitted(picky));
    bench.apply(Event::WaiterGone(id(4)));
    let told: BTreeMap<_, _> = bench.queue.demands().into_iter().collect();
    let (a, b) = (want("ann", "a", 2, 0, 0), want("ann", "b", 2, 0, 1));
    assert_eq!(told["here"].wants, [a.clone(), b.clone()]);
    assert_eq!(told["far"].wants, [Want { waiting: 3, priority: -3, ..a.clone() }, b.clone()]);
    assert_eq!(bench.queue.demands(), []);
    bench.grant("far", 1, &[("ann", 2, 0)]);
    // The urgent one, and the first of those whose turn it is.
    assert_eq!(bench.queue.demand("far").wants, [Want { waiting: 1, given: 2, ..a }, b]);
    assert_eq!(bench.queue.demand("unknown"), Demand::default());
}

#[test]
fn numbers_beyond_what_any_machine_has_are_not_told() {
    let mut bench = Bench::new(&Settings::default());
    bench.join_remote("far");
    let many = crate::execution::grants::MOST_TOLD as u128;
    bench.submit_for("ann", "a", 0..many + 2);
    assert_eq!(bench.queue.demands().len(), 1);
    let attempts = assigned(&bench.grant("far", 1, &[("ann", 2, 0)])).len();
    assert_eq!((attempts, bench.queue.demands()), (2, vec![]));
    for number in many - 128..many {
        bench.apply(Event::Cancel(id(number)));
    }
    let told = bench.queue.demands();
    assert_eq!(told[0].1.wants, [want("ann", "a", many as usize - 128, 2, 0)]);
}

#[test]
fn a_machine_that_comes_back_is_told_anew() {
    let mut bench = Bench::new(&Settings::default());
    bench.join_remote("far");
    bench.submit_for("ann", "a", 0..2);
    assert_eq!(bench.queue.demands().len(), 1);
    bench.apply(Event::WorkerLeft { worker: "far".into(), reason: String::new() });
    assert!(bench.queue.demands().is_empty());
    bench.join_remote("far");
    assert_eq!(bench.queue.demands().len(), 1);
    assert_eq!(assigned(&bench.grant("far", 1, &[("ann", 1, 0)])).len(), 1, "numbers begin anew");
}

// === sent ahead ===

/// A queue whose machine `far` runs one action and has another one waiting, sent ahead.
fn with_one_ahead() -> (Bench, Vec<AttemptId>) {
    let mut bench = Bench::new(&Settings::default());
    bench.join("here", 0);
    bench.join_remote("far");
    bench.submit_for("ann", "a", 0..2);
    let effects = bench.grant("far", 1, &[("ann", 1, 1)]);
    let attempts = assigned(&effects).into_iter().map(|(attempt, _)| attempt).collect();
    (bench, attempts)
}

#[test]
fn what_was_sent_ahead_goes_where_a_slot_is_free_first() {
    let (mut bench, attempts) = with_one_ahead();
    assert_eq!(attempts.len(), 2);
    assert_eq!(
        bench.queue.demand("here").wants,
        [want("ann", "a", 0, 0, 1)],
        "if nobody else wants the slot"
    );
    let effects = bench.join("here", 1);
    assert_eq!((workers(&effects), stopped(&effects)), (vec!["here"], vec![attempts[1]]));
    let state = told(&effects, 1);
    assert_eq!((state.timeline.worker.as_deref(), state.timeline.attempt), (Some("here"), 2));
    // Whatever becomes of the first, it is the second that counts, and the first holds its slot until then.
    assert_eq!(bench.queue.pool.slots()["far"], (2, 1));
    assert!(done(&bench.apply(Event::Ended(attempts[1], exit(0)))).is_empty());
    assert_eq!(bench.queue.pool.slots()["far"], (1, 1));
    assert_eq!(stores(&bench.apply(Event::Ended(state.attempt().unwrap(), exit(0)))), 1);
}

#[test]
fn what_has_begun_stays_where_it_is() {
    let (mut bench, attempts) = with_one_ahead();
    bench.apply(Event::Ended(attempts[0], exit(0)));
    bench.apply(Event::Progress(attempts[1], Step::Running));
    assert!(assigned(&bench.join("here", 1)).is_empty());
    assert_eq!(bench.queue.demand("here").wants, []);
}

#[test]
fn what_is_handed_back_waits_again() {
    let (mut bench, attempts) = with_one_ahead();
    bench.grant("far", 2, &[("ann", 1, 0)]);
    let effects = bench.apply(Event::Busy(attempts[1]));
    assert_eq!(told(&effects, 1).stage, Stage::Queued);
    assert_eq!(bench.queue.demand("far").wants, [want("ann", "a", 1, 1, 0)]);
}

// === placement ===

/// What `lacks` says a machine lacks, in megabytes.
struct Lacking(fn(&str, &str) -> u64);

impl Holdings for Lacking {
    fn lacking(&self, action: &PreparedAction, machine: &str) -> u64 {
        let name = action.command.arguments.first().map_or("", String::as_str);
        (self.0)(name, machine) * 1_000_000
    }
}

fn named(name: &str) -> Arc<PreparedAction> {
    let mut named = (*action(name, None, false)).clone();
    let command = farmhand_proto::reapi::Command { arguments: vec![name.to_owned()], ..Default::default() };
    named.command = Arc::new(command);
    Arc::new(named)
}

#[test]
fn a_run_goes_where_its_inputs_are() {
    let mut bench = Bench::new(&Settings::default());
    bench.queue.set_holdings(Arc::new(Lacking(|_, machine| if machine == "b" { 1 } else { 200 })));
    for name in ["a", "b", "c"] {
        bench.join_remote(name);
        bench.grant(name, 1, &[("ann", if name == "b" { 1 } else { 9 }, 0)]);
    }
    assert_eq!(workers(&bench.submit(1, &named("x"))), ["b"]);
    assert_ne!(workers(&bench.submit(2, &named("y"))), ["b"], "it has no slot left");
}

#[test]
fn a_machine_takes_the_one_of_the_next_runs_whose_inputs_it_has() {
    let mut bench = Bench::new(&Settings::default());
    bench.queue.set_holdings(Arc::new(Lacking(|name, _| if name == "known" { 1 } else { 200 })));
    bench.join_remote("far");
    for (number, name) in [(1, "u"), (2, "v"), (3, "known")] {
        bench.submit(number, &named(name));
    }
    let first = only_attempt(&bench.grant("far", 1, &[("ann", 1, 0)]));
    assert_eq!(first.run, RunId(2));
    assert_eq!(only_attempt(&bench.apply(Event::Ended(first, exit(1)))).run, RunId(0));
}

#[test]
fn this_machine_goes_first_unless_another_is_much_faster() {
    let mut bench = Bench::new(&Settings::default());
    bench.join_remote("far");
    bench.grant("far", 1, &[("ann", 9, 0)]);
    bench.join("here", 1);
    bench.learn();
    assert_eq!(workers(&bench.submit_like(1, false)), ["here"]);
    assert_eq!(workers(&bench.submit_like(2, false)), ["far"]);
    bench.join("here", 9);
    for _ in 0..50 {
        bench.queue.placement.learn(Like::new("", "Cpp"), "here", 2 * SECOND);
        bench.queue.placement.learn(Like::new("", "Cpp"), "far", SECOND);
    }
    assert_eq!(workers(&bench.submit_like(3, false)), ["far"]);
}

#[test]
fn what_takes_longer_to_move_than_to_wait_waits() {
    let mut bench = Bench::new(&Settings::default());
    bench.queue.set_holdings(Arc::new(Lacking(|_, _| 1000)));
    bench.learn();
    bench.join("here", 1);
    bench.join_remote("far");
    bench.grant("far", 1, &[("ann", 1, 0)]);
    bench.submit_like(0, false);
    // Ten seconds to get there, and one here.
    assert!(assigned(&bench.submit_like(1, false)).is_empty());
    let waiting = bench.queue.explain(bench.now.instant, id(1)).unwrap();
    let (name, obstacle) = &waiting.obstacles[0];
    assert_eq!((&**name, obstacle.clone()), ("far", super::super::Obstacle::Far));
    assert!(obstacle.to_string().contains("get its inputs"));
    // With nine more, this machine would not be done before.
    let effects: Vec<_> = (2..12).flat_map(|number| bench.submit_like(number, false)).collect();
    assert_eq!(workers(&effects), ["far"]);
}

#[test]
fn what_waited_in_vain_for_this_machine_goes_far() {
    let mut bench = Bench::new(&Settings::default());
    bench.queue.set_holdings(Arc::new(Lacking(|_, _| 1000)));
    bench.learn();
    bench.join("here", 1);
    bench.join_remote("far");
    bench.grant("far", 1, &[("ann", 1, 0)]);
    // It has no like: nobody knows how long it holds the slot.
    bench.submit(0, &action("endless", None, false));
    assert!(assigned(&bench.submit_like(1, false)).is_empty());
    assert!(assigned(&bench.tick_after(10 * SECOND)).is_empty());
    assert_eq!(workers(&bench.tick_after(2 * SECOND)), ["far"], "it would have been there and back");
}

#[test]
fn equal_toolchains_go_first_for_those_who_see_them() {
    let mut bench = Bench::new(&Settings::default());
    for (name, has_other_toolchain, slots) in [("other", true, 9), ("equal", false, 1)] {
        bench.join_remote(name);
        let site = Site { has_other_toolchain, ..LINK };
        bench.apply(Event::Sited { worker: name.into(), site });
        bench.grant(name, 1, &[("ann", slots, 0)]);
    }
    let mut own = (*action("own", None, false)).clone();
    Arc::make_mut(&mut own.requirements).input_root = crate::platform::InputRootPlace::Filesystem;
    assert_eq!(workers(&bench.submit(1, &Arc::new(own))), ["other"], "more slots are free there");
    assert_eq!(workers(&bench.submit(2, &action("host", None, false))), ["equal"]);
    assert_eq!(workers(&bench.submit(3, &action("host too", None, false))), ["other"]);
}

#[test]
fn a_run_goes_where_its_persistent_worker_is_and_does_not_wait_for_it() {
    let mut bench = Bench::new(&Settings::default());
    let for_worker = |name: &str, key: &str| {
        let mut action = (*action(name, None, false)).clone();
        Arc::make_mut(&mut action.requirements).worker_key = Some(key.to_owned());
        Arc::new(action)
    };
    bench.join_remote("a");
    bench.grant("a", 1, &[("ann", 1, 0)]);
    let first = only_attempt(&bench.submit(1, &for_worker("x", "javac")));
    bench.apply(Event::Ended(first, exit(0)));
    bench.join_remote("b");
    bench.grant("b", 1, &[("ann", 9, 0)]);
    assert_eq!(workers(&bench.submit(2, &for_worker("y", "javac"))), ["a"], "although b has more slots free");
    assert_eq!(workers(&bench.submit(3, &for_worker("z", "javac"))), ["b"]);
    assert_eq!(workers(&bench.submit(4, &for_worker("u", "scalac"))), ["b"]);
}

// === stragglers ===

/// A queue whose machine `slow` runs an action like those that took a second, for so long.
fn with_straggler(private: bool, settings: &Settings, time: Duration) -> (Bench, AttemptId) {
    let mut bench = Bench::new(settings);
    bench.learn();
    bench.join("slow", 1);
    let attempt = only_attempt(&bench.submit_like(1, private));
    bench.apply(Event::Progress(attempt, Step::Running));
    bench.tick_after(time);
    (bench, attempt)
}

#[test]
fn what_takes_too_long_gets_a_second_attempt_and_the_first_result_wins() {
    for copy_wins in [true, false] {
        let (mut bench, first) = with_straggler(false, &Settings::default(), 3 * SECOND);
        bench.join_remote("far");
        assert_eq!(bench.queue.demand("far").wants, [want("ann", "", 0, 0, 1)]);
        let effects = bench.grant("far", 1, &[("ann", 1, 0)]);
        let second = only_attempt(&effects);
        assert_eq!((second.run, second.number), (first.run, 2));
        assert_eq!(told(&effects, 1).timeline.worker.as_deref(), Some("slow"), "as far as people are told");
        assert!(assigned(&bench.tick_after(SECOND)).is_empty(), "and no third");
        let (winner, loser) = if copy_wins { (second, first) } else { (first, second) };
        let effects = bench.apply(Event::Ended(winner, exit(0)));
        assert_eq!((stores(&effects), stopped(&effects)), (1, vec![loser]));
        let effects = bench.apply(Event::Stored(winner.run, Ok(())));
        let worker = told(&effects, 1).timeline.worker;
        assert_eq!(worker.as_deref(), Some(if copy_wins { "far" } else { "slow" }));
        assert!(bench.queue.runs.is_empty() && bench.queue.attempts.len() == 1, "its slot is taken");
        assert!(bench.apply(Event::Ended(loser, exit(1))).is_empty());
        assert!(bench.queue.attempts.is_empty());
        assert!(bench.queue.pool.slots().values().all(|(busy, _)| *busy == 0));
    }
}

#[test]
fn a_failure_wins_as_well() {
    let (mut bench, first) = with_straggler(false, &Settings::default(), 3 * SECOND);
    let second = only_attempt(&bench.join("idle", 1));
    let effects = bench.apply(Event::Ended(second, exit(1)));
    assert_eq!((done_ids(&effects), stopped(&effects)), (vec![id(1)], vec![first]));
}

#[test]
fn who_does_not_get_a_second_attempt() {
    let usual = Settings::default();
    let off = Settings { second_attempts: false, ..Settings::default() };
    for (private, settings, time) in
        [(true, &usual, 9 * SECOND), (false, &off, 9 * SECOND), (false, &usual, 2 * SECOND)]
    {
        let (mut bench, _) = with_straggler(private, settings, time);
        assert!(assigned(&bench.join("idle", 1)).is_empty());
    }
    let (mut bench, first) = with_straggler(false, &usual, 3 * SECOND);
    assert!(matches!(bench.submit(2, &action("2", Some("idle"), false))[..], [Effect::Refuse(..)]));
    bench.submit(3, &action("3", Some("slow"), false));
    assert!(assigned(&bench.join("idle", 1)).is_empty(), "something of its build waits");
    bench.apply(Event::Cancel(id(3)));
    assert_eq!(assigned(&bench.tick_after(SECOND)), [(AttemptId { number: 2, ..first }, "idle")]);
}

#[test]
fn a_lost_copy_is_no_loss_and_a_lost_first_attempt_no_new_one() {
    let (mut bench, first) = with_straggler(false, &Settings::default(), 3 * SECOND);
    let second = only_attempt(&bench.join("idle", 1));
    assert!(done(&bench.apply(Event::Lost(second, "unplugged".into()))).is_empty());
    assert!(bench.queue.runs[&first.run].timeline.losses.is_empty());
    let (mut bench, first) = with_straggler(false, &Settings::default(), 3 * SECOND);
    let second = only_attempt(&bench.join("idle", 1));
    bench.apply(Event::Progress(second, Step::Running));
    let effects = bench.apply(Event::Lost(first, "unplugged".into()));
    let state = told(&effects, 1);
    assert_eq!((state.stage, state.timeline.worker.as_deref()), (Stage::Executing, Some("idle")));
    assert!(state.timeline.running_at.is_some() && assigned(&effects).is_empty());
    assert_eq!(bench.queue.runs[&first.run].timeline.losses.len(), 1);
    assert_eq!(stores(&bench.apply(Event::Ended(second, exit(0)))), 1);
}

#[test]
fn cancelling_and_killing_stop_both_attempts() {
    for event in [Event::Cancel(id(1)), Event::Kill(Target::Operation(id(1)))] {
        let (mut bench, first) = with_straggler(false, &Settings::default(), 3 * SECOND);
        let second = only_attempt(&bench.join("idle", 1));
        let effects = bench.apply(event);
        assert_eq!(stopped(&effects), [first, second]);
        assert!(bench.apply(Event::Ended(second, exit(0))).is_empty(), "the one that was told of counts");
        bench.apply(Event::Ended(first, exit(0)));
        assert!(bench.queue.runs.is_empty() && bench.queue.attempts.is_empty());
    }
}
