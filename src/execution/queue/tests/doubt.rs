//! The rules of the queue for machines that lose what they are given, or have no slots when they say so.

use super::*;
use crate::execution::grants::{Grant, Share, Slots};
use crate::execution::placement::Site;

const SECOND: Duration = Duration::from_secs(1);

impl Bench {
    /// Another machine joins, which grants slots to `ann`.
    fn join_far(&mut self, worker: &str, slots: usize) -> Vec<Effect> {
        self.join(worker, 0);
        let site = Site { is_remote: true, ..Site::default() };
        self.apply(Event::Sited { worker: worker.into(), site });
        self.allow(worker, 1, slots, 0)
    }

    fn allow(&mut self, worker: &str, number: u64, slots: usize, ahead: usize) -> Vec<Effect> {
        let slots = Slots::Shared(vec![Share { person: "ann".into(), slots, ahead }]);
        self.apply(Event::Granted { worker: worker.into(), grant: Grant { number, slots } })
    }

    fn submit_many(&mut self, numbers: std::ops::Range<u128>) -> Vec<Effect> {
        numbers.flat_map(|number| self.submit(number, &action(&number.to_string(), None, false))).collect()
    }

    /// Loses attempts until nothing is given out any more. How many these were.
    fn lose_all(&mut self, effects: &[Effect]) -> usize {
        let mut waiting: VecDeque<_> = assigned(effects).into_iter().map(|(attempt, _)| attempt).collect();
        let mut lost = 0;
        while let Some(attempt) = waiting.pop_front() {
            lost += 1;
            let effects = self.apply(Event::Lost(attempt, "out of order".into()));
            waiting.extend(assigned(&effects).into_iter().map(|(attempt, _)| attempt));
        }
        lost
    }

    fn tick_later(&mut self, time: Duration) -> Vec<Effect> {
        self.wait(time);
        self.apply(Event::Tick)
    }

    fn why(&self, number: u128) -> Vec<String> {
        let waiting = self.queue.explain(self.now.instant, id(number)).unwrap();
        waiting.obstacles.iter().map(|(name, obstacle)| format!("{name}: {obstacle}")).collect()
    }
}

#[test]
fn a_machine_that_loses_everything_does_not_use_up_the_attempts_of_all() {
    let mut bench = Bench::new(&Settings::default());
    bench.submit_many(0..100);
    let effects = bench.join_far("broken", 8);
    assert_eq!(bench.lose_all(&effects), 8, "what was lost in one moment, and no more");
    assert_eq!(bench.why(50), ["broken: lost what it was given once, left alone for 1s"]);
    let mut lost = 8;
    for _ in 0..100 {
        let effects = bench.tick_later(SECOND);
        assert!(assigned(&effects).len() <= 1, "tried with one");
        lost += bench.lose_all(&effects);
    }
    assert!(lost < 20, "{lost} in 100 seconds");
    assert!(bench.why(50)[0].contains("times in a row, left alone for"), "{:?}", bench.why(50));
    let effects = bench.join("sound", 100);
    assert!(assigned(&effects).len() > 90, "hardly anything was given up");
}

#[test]
fn a_machine_that_answers_again_has_all_its_slots() {
    let mut bench = Bench::new(&Settings::default());
    bench.submit_many(0..10);
    let effects = bench.join_far("far", 4);
    bench.lose_all(&effects);
    let tried = only_attempt(&bench.tick_later(SECOND));
    assert_eq!(assigned(&bench.apply(Event::Progress(tried, Step::Running))).len(), 3);
    bench.apply(Event::Ended(tried, exit(0)));
    assert_eq!(bench.queue.pool.left_alone("far"), None);
}

#[test]
fn a_link_that_broke_and_is_back_is_trusted() {
    let mut bench = Bench::new(&Settings::default());
    bench.submit_many(0..10);
    bench.join_far("far", 4);
    bench.apply(Event::WorkerLeft { worker: "far".into(), reason: "the link broke".into() });
    assert_eq!(assigned(&bench.join_far("far", 4)).len(), 4);
}

#[test]
fn what_was_lost_on_a_machine_waits_for_another_until_that_one_has_answered() {
    let mut bench = Bench::new(&Settings::default());
    let effects = bench.join_far("far", 1);
    assert!(assigned(&effects).is_empty());
    let first = only_attempt(&bench.submit_many(0..1));
    bench.join("here", 1);
    bench.apply(Event::Lost(first, "out of order".into()));
    bench.submit_many(1..2);
    // The first has gone here; what comes next is tried there.
    let effects = bench.tick_later(SECOND);
    assert_eq!(assigned(&effects).iter().map(|(_, worker)| *worker).collect::<Vec<_>>(), ["far"]);
    bench.lose_all(&effects);
    assert!(assigned(&bench.tick_later(SECOND)).is_empty(), "it is not tried with the same");
}

#[test]
fn a_machine_whose_grants_are_good_for_nothing_is_left_alone() {
    let mut bench = Bench::new(&Settings::default());
    bench.submit_many(0..1);
    let mut effects = bench.join_far("far", 1);
    let mut vain = 0;
    while let Some((attempt, _)) = assigned(&effects).first().copied() {
        vain += 1;
        bench.apply(Event::Busy(attempt));
        effects = bench.allow("far", vain + 1, 1, 0);
    }
    assert_eq!(vain, 8);
    assert!(bench.why(0)[0].contains("has no slots when it says so"), "{:?}", bench.why(0));
    assert_eq!(assigned(&bench.tick_later(SECOND)).len(), 1);
    assert!(bench.queue.runs[&RunId(0)].timeline.losses.is_empty(), "none of that is a loss");
}

#[test]
fn runs_that_were_sent_ahead_and_come_back_say_nothing_of_a_machine() {
    let mut bench = Bench::new(&Settings::default());
    bench.submit_many(0..30);
    let first = bench.join_far("far", 1);
    assert_eq!(assigned(&first).len(), 1);
    for number in 2..20 {
        let effects = bench.allow("far", number, 1, 1);
        bench.apply(Event::Busy(only_attempt(&effects)));
    }
    assert_eq!(bench.queue.pool.left_alone("far"), None);
}

#[test]
fn what_must_not_run_twice_is_not_sent_ahead() {
    let mut bench = Bench::new(&Settings::default());
    bench.join_far("far", 1);
    bench.submit(1, &action("1", None, true));
    bench.submit(2, &action("2", None, true));
    bench.submit(3, &action("3", None, false));
    let effects = bench.allow("far", 2, 1, 1);
    assert_eq!(only_attempt(&effects).run, RunId(2), "the one that may be called back");
}

#[test]
fn what_cannot_be_sent_ahead_is_in_nobodys_way() {
    for (build, priority) in [("other", 0), ("one", 1)] {
        let mut bench = Bench::new(&Settings::default());
        bench.join_far("far", 1);
        let submit = |bench: &mut Bench, number, private, build: &str, priority| {
            let mut submission = bench.submission(number, &action(&number.to_string(), None, private));
            (submission.build, submission.priority) = (build.into(), priority);
            bench.apply(Event::Submitted(submission));
        };
        submit(&mut bench, 1, true, "one", 0);
        submit(&mut bench, 2, true, "one", 0);
        submit(&mut bench, 3, false, build, priority);
        let effects = bench.allow("far", 2, 1, 1);
        assert_eq!(only_attempt(&effects).run, RunId(2), "{build} {priority}");
    }
}

#[test]
fn what_was_lost_everywhere_goes_to_a_machine_that_has_answered_since() {
    let mut bench = Bench::new(&Settings::default());
    bench.submit_many(0..1);
    let first = only_attempt(&bench.join("answers", 1));
    bench.join("large", 3);
    let second = only_attempt(&bench.apply(Event::Lost(first, "out of order".into())));
    let effects = bench.submit_many(1..3);
    let (other, _) = *assigned(&effects).iter().find(|(_, worker)| *worker == "answers").unwrap();
    bench.apply(Event::Ended(other, exit(0)));
    let effects = bench.apply(Event::Lost(second, "out of order".into()));
    assert_eq!(assigned(&effects).iter().map(|(_, worker)| *worker).collect::<Vec<_>>(), ["answers"]);
}
