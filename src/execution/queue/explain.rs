//! Why a run waits: what keeps each machine from it, and how many go first.
//!
//! Made when somebody asks, out of what is there; nothing is kept for it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Duty, MachineState, OperationId, Phase, Place, Queue, Run, Ticket};

/// Why an operation waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Runs that will likely be started before it.
    pub ahead: usize,
    /// What keeps each machine from it, by name. Empty while no machine is known.
    pub obstacles: Vec<(Arc<str>, Obstacle)>,
}

/// Why a machine does not run what waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It never can: a text for each property it does not meet.
    Unfit(Vec<String>),
    /// It went away so long ago, and may come back.
    Away(Duration),
    /// It was told to rest so long ago.
    Paused(Duration),
    /// It was told to take nothing new, and still runs so many.
    Draining(usize),
    /// It offers no slots.
    NoSlots,
    /// It granted nothing more than the so many that run there: others are served before.
    NotGranted(usize),
    /// It lost so many runs in a row, and gets nothing for so long.
    LeftAlone(u32, Duration),
    /// It has a slot, but a slot here will be free before the inputs would be there.
    Far,
    /// Its slots are taken.
    Busy {
        /// Slots it has.
        slots: usize,
        /// Runs it has; more than slots after these became fewer.
        busy: usize,
        /// Those among them that belong to the same build.
        own: usize,
    },
    /// None: it begins in a moment.
    Nothing,
}

// === impl Queue ===

impl Queue {
    /// Why `operation` waits; `None` unless it does.
    pub fn explain(&self, now: Instant, operation: OperationId) -> Option<Waiting> {
        let ticket = self.tickets.get(&operation)?;
        let run = self.runs.get(&ticket.run).filter(|run| matches!(run.phase, Phase::Queued))?;
        let places = run.operations.iter().map(|operation| &self.tickets[operation].place);
        let ahead = places.map(|place| self.pool.ahead_of(run.class, place, ticket.run)).min()?;
        let obstacle =
            |machine: MachineState| (machine.name.clone(), self.obstacle(now, ticket, run, &machine));
        Some(Waiting { ahead, obstacles: self.pool.machines().map(obstacle).collect() })
    }

    fn obstacle(&self, now: Instant, ticket: &Ticket, run: &Run, machine: &MachineState) -> Obstacle {
        let &MachineState { slots, busy, is_shared, duty, .. } = machine;
        let Place { person, build, .. } = &ticket.place;
        let mismatches = self.pool.mismatches_of(&machine.name, run.class);
        if !mismatches.is_empty() {
            return Obstacle::Unfit(mismatches);
        }
        if let Some(left_at) = machine.left_at {
            return Obstacle::Away(now.saturating_duration_since(left_at));
        }
        let alone = self.pool.left_alone(&machine.name).filter(|_| duty == Duty::Active);
        if let Some((losses, until)) = alone {
            return Obstacle::LeftAlone(losses, until.saturating_duration_since(now));
        }
        match duty {
            Duty::Paused => {
                let told = machine.told_at.map(|told| now.saturating_duration_since(told.instant));
                Obstacle::Paused(told.unwrap_or_default())
            }
            Duty::Draining => Obstacle::Draining(busy),
            Duty::Active if self.pool.takes(&machine.name, person) => {
                if self.had_better_wait(ticket.run, &machine.name) {
                    Obstacle::Far
                } else {
                    Obstacle::Nothing
                }
            }
            Duty::Active if is_shared && !self.pool.serves(&machine.name, person) => {
                Obstacle::NotGranted(busy)
            }
            Duty::Active if slots == 0 => Obstacle::NoSlots,
            Duty::Active => Obstacle::Busy { slots, busy, own: self.running_for(build, &machine.name) },
        }
    }

    /// Runs on a machine that belong to a build. Those that are in none belong together in nothing.
    fn running_for(&self, build: &Arc<str>, machine: &str) -> usize {
        if build.is_empty() {
            return 0;
        }
        let there = self.attempts.iter().filter(|(_, attempt)| *attempt.worker == *machine);
        let there = there.filter_map(|(id, _)| self.runs.get(&id.run));
        there.filter(|run| run.operations.iter().any(|id| self.tickets[id].place.build == *build)).count()
    }
}

// === impl Obstacle ===

/// As a sentence goes on after the name of the machine.
impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfit(reasons) => write!(f, "cannot run it: {}", reasons.join("; ")),
            Self::Away(time) => write!(f, "could run it, and has been away for {}: waiting", rough(*time)),
            Self::Paused(time) => write!(f, "paused for {}", rough(*time)),
            Self::Draining(0) => write!(f, "drained"),
            Self::Draining(busy) => {
                write!(f, "draining, {busy} still run{}", if *busy == 1 { "s" } else { "" })
            }
            Self::NoSlots => write!(f, "offers no slots"),
            Self::NotGranted(0) => write!(f, "serves others before"),
            Self::NotGranted(busy) => write!(f, "runs {busy} of ours, and serves others before more"),
            Self::LeftAlone(0, time) => {
                write!(f, "has no slots when it says so, left alone for {}", soon(*time))
            }
            Self::LeftAlone(losses, time) => {
                let times = if *losses == 1 { "once".to_owned() } else { format!("{losses} times in a row") };
                write!(f, "lost what it was given {times}, left alone for {}", soon(*time))
            }
            Self::Far => write!(f, "would take longer to get its inputs than a slot here takes to be free"),
            Self::Busy { slots, busy, own } => {
                match (slots, busy) {
                    (1, 1) => write!(f, "its slot is busy")?,
                    (slots, busy) if busy > slots => {
                        write!(f, "runs {busy} and has only {} now", slots_in_words(*slots))?
                    }
                    (slots, _) => write!(f, "all {slots} slots are busy")?,
                }
                match own {
                    0 => Ok(()),
                    own if own == busy => write!(f, " with actions of this build"),
                    own => write!(f, ", {own} with actions of this build"),
                }
            }
            Self::Nothing => write!(f, "begins it in a moment"),
        }
    }
}

fn slots_in_words(slots: usize) -> String {
    if slots == 1 { "1 slot".to_owned() } else { format!("{slots} slots") }
}

/// In whole seconds, and at least one.
fn soon(time: Duration) -> humantime::FormattedDuration {
    rough(Duration::from_secs(time.as_secs() + 1))
}

/// Without what does not matter: `3m`, and not `3m 7s 231ms`.
pub(super) fn rough(time: Duration) -> humantime::FormattedDuration {
    let seconds = time.as_secs();
    let unit = match seconds {
        0..60 => 1,
        60..3600 => 60,
        _ => 3600,
    };
    humantime::format_duration(Duration::from_secs(seconds - seconds % unit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{Bench, action, assigned, exit, id, only_attempt};
    use super::super::{Event, RunId, Settings, Submission};
    use super::*;

    fn texts(bench: &Bench, number: u128) -> Vec<String> {
        let waiting = bench.queue.explain(bench.now.instant, id(number)).unwrap();
        waiting.obstacles.iter().map(|(name, obstacle)| format!("{name}: {obstacle}")).collect()
    }

    fn tell(bench: &mut Bench, worker: &str, duty: Duty) -> Vec<super::super::Effect> {
        bench.apply(Event::Told { worker: worker.into(), duty })
    }

    #[test]
    fn every_machine_has_its_reason() {
        let mut bench = Bench::new(&Settings::default());
        for (name, slots) in [("a", 1), ("b", 2), ("c", 1), ("d", 1), ("e", 0), ("f", 1)] {
            bench.join(name, slots);
        }
        tell(&mut bench, "c", Duty::Paused);
        tell(&mut bench, "d", Duty::Draining);
        bench.apply(Event::WorkerLeft { worker: "f".into(), reason: "asleep".into() });
        bench.wait(Duration::from_secs(20));
        for number in 1..=3 {
            let mut submission = bench.submission(number, &action(&number.to_string(), None, true));
            submission.build = if number == 1 { "other" } else { "build" }.into();
            bench.apply(Event::Submitted(submission));
        }
        let build = Submission { build: "build".into(), ..bench.submission(4, &action("4", None, true)) };
        bench.apply(Event::Submitted(build));
        let expected = [
            "a: its slot is busy with actions of this build",
            "b: all 2 slots are busy, 1 with actions of this build",
            "c: paused for 20s",
            "d: drained",
            "e: offers no slots",
            "f: could run it, and has been away for 20s: waiting",
        ];
        assert_eq!(texts(&bench, 4), expected);
        bench.submit(5, &action("5", Some("b"), true));
        bench.wait(Duration::from_secs(200));
        let picky = texts(&bench, 5);
        assert_eq!(picky[0], "a: cannot run it: on=b is not a");
        assert_eq!(picky[1], "b: all 2 slots are busy", "nobody knows what it belongs to");
        assert_eq!(texts(&bench, 4)[2], "c: paused for 3m");
        assert_eq!(bench.queue.explain(bench.now.instant, id(1)), None, "it runs");
        assert_eq!(bench.queue.explain(bench.now.instant, id(99)), None, "unknown");
    }

    #[test]
    fn a_machine_with_too_many_or_on_its_way_out_says_so() {
        let mut bench = Bench::new(&Settings::default());
        bench.submit(9, &action("9", None, true));
        assert!(texts(&bench, 9).is_empty(), "nobody is there");
        bench.join("m", 2);
        bench.submit(1, &action("1", None, true));
        bench.submit(2, &action("2", None, true));
        bench.join("m", 1);
        assert_eq!(texts(&bench, 2), ["m: runs 2 and has only 1 slot now"]);
        tell(&mut bench, "m", Duty::Draining);
        assert_eq!(texts(&bench, 2), ["m: draining, 2 still run"]);
    }

    #[test]
    fn a_machine_at_rest_takes_nothing_refuses_nothing_and_finishes_what_it_has() {
        for duty in [Duty::Paused, Duty::Draining] {
            let mut bench = Bench::new(&Settings::default());
            bench.join("m", 2);
            let first = only_attempt(&bench.submit(1, &action("1", None, true)));
            assert!(tell(&mut bench, "m", duty).is_empty());
            assert!(assigned(&bench.submit(2, &action("2", None, true))).is_empty());
            bench.join("m", 3);
            assert_eq!(bench.queue.machines()[0].duty, duty, "told is told, whatever it offers");
            let effects = bench.apply(Event::Ended(first, exit(0)));
            assert!(assigned(&effects).is_empty());
            assert_eq!(super::super::tests::done_ids(&effects), [id(1)]);
            bench.wait(Duration::from_secs(10_000));
            assert!(bench.apply(Event::Tick).is_empty(), "what waits is not given up");
            assert_eq!(assigned(&tell(&mut bench, "m", Duty::Active)).len(), 1);
        }
    }

    #[test]
    fn no_orphan_gives_way_on_a_machine_that_rests() {
        let mut bench = Bench::new(&Settings::default());
        bench.join("m", 1);
        bench.submit(1, &action("1", None, true));
        bench.apply(Event::WaiterGone(id(1)));
        tell(&mut bench, "m", Duty::Paused);
        bench.wait(Settings::default().orphan_yield);
        let effects = bench.submit(2, &action("2", None, true));
        assert!(!effects.iter().any(|effect| matches!(effect, super::super::Effect::CancelRun(_))));
        assert_eq!(tell(&mut bench, "m", Duty::Active).len(), 2, "told and stopped");
    }

    /// Starts everything that waits, one after the other; the order of the runs.
    fn drain(bench: &mut Bench) -> Vec<RunId> {
        let mut order = Vec::new();
        let mut effects = bench.join("m", 1);
        while let Some(attempt) = assigned(&effects).first().map(|(attempt, _)| *attempt) {
            order.push(attempt.run);
            effects = bench.apply(Event::Ended(attempt, exit(1)));
        }
        order
    }

    proptest! {
        /// What is told to be ahead is what goes first, as long as nobody comes or goes.
        #[test]
        fn ahead_is_what_goes_first(
            wishes in prop::collection::vec((-1..2_i32, 0..3_u8, any::<bool>()), 1..25),
            kinds in 1..3_u8,
        ) {
            let mut bench = Bench::new(&Settings::default());
            bench.join("m", 0);
            for (number, (priority, build, picky)) in wishes.iter().enumerate() {
                let on = (*picky && kinds > 1).then_some("m");
                let action = action(&number.to_string(), on, true);
                let submission = Submission {
                    priority: if kinds > 1 { 0 } else { *priority },
                    build: build.to_string().into(),
                    ..bench.submission(number as u128, &action)
                };
                bench.apply(Event::Submitted(submission));
            }
            let ahead = |number| bench.queue.explain(bench.now.instant, id(number as u128)).unwrap().ahead;
            let told: Vec<_> = (0..wishes.len()).map(ahead).collect();
            for (position, run) in drain(&mut bench).into_iter().enumerate() {
                prop_assert_eq!(told[run.0 as usize], position, "{:?}", run);
            }
        }
    }
}
