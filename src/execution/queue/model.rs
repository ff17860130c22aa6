//! Random histories: whatever happens in whatever order, the queue keeps its promises.
//!
//! [`World`] is everything around the queue, as simple as it can be: it performs effects, and
//! remembers what must be true of them.

use proptest::prelude::*;

use super::pool::Slot;
use super::tests::{Bench, action, exit, id};
use super::*;
use crate::execution::grants::{Grant, Share, Slots};

/// Something that happens. Numbers choose among what is there at that moment.
#[derive(Clone, Debug)]
enum Happening {
    Submit { action: u8, priority: i32, person: u8, build: u8, skip: bool, private: bool, picky: bool },
    Join { worker: u8, slots: u8 },
    Grant { worker: u8, shares: Vec<(usize, usize)> },
    Leave { worker: u8 },
    Progress { which: u8 },
    End { which: u8, exit_code: i32 },
    Lose { which: u8 },
    Busy { which: u8 },
    Store { which: u8, fails: bool },
    Waiter { which: u8, joins: bool },
    Cancel { which: u8 },
    Kill { which: u8, everywhere: bool },
    Tell { worker: u8, duty: Duty },
    Elsewhere { which: u8, worker: u8 },
    Wait { seconds: u16 },
}

const PEOPLE: [&str; 2] = ["ann", "ben"];

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    prop_oneof![
        20 => ordinary(),
        2 => (0..3_u8, prop::collection::vec((0..3_usize, 0..2_usize), 2))
            .prop_map(|(worker, shares)| Grant { worker, shares }),
        2 => (any::<u8>(), 0..3_u8).prop_map(|(which, worker)| Elsewhere { which, worker }),
    ]
}

/// What happens where every slot is everybody's.
fn ordinary() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let unlikely = || prop::bool::weighted(0.2);
    prop_oneof![
        6 => (0..6_u8, -2..3, (0..2_u8, 0..3_u8), any::<bool>(), unlikely(), unlikely())
            .prop_map(|(action, priority, (person, build), skip, private, picky)| Submit {
                action, priority, person, build, skip, private, picky
            }),
        2 => (0..3_u8, 0..4_u8).prop_map(|(worker, slots)| Join { worker, slots }),
        1 => (0..3_u8).prop_map(|worker| Leave { worker }),
        2 => any::<u8>().prop_map(|which| Progress { which }),
        4 => (any::<u8>(), 0..2).prop_map(|(which, exit_code)| End { which, exit_code }),
        2 => any::<u8>().prop_map(|which| Lose { which }),
        2 => any::<u8>().prop_map(|which| Busy { which }),
        3 => (any::<u8>(), any::<bool>()).prop_map(|(which, fails)| Store { which, fails }),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(which, joins)| Waiter { which, joins }),
        2 => any::<u8>().prop_map(|which| Cancel { which }),
        2 => (any::<u8>(), any::<bool>()).prop_map(|(which, everywhere)| Kill { which, everywhere }),
        1 => (0..3_u8, duty()).prop_map(|(worker, duty)| Tell { worker, duty }),
        2 => prop_oneof![0..7_u16, 50..70_u16, 290..310_u16].prop_map(|seconds| Wait { seconds }),
    ]
}

fn duty() -> impl Strategy<Value = Duty> {
    prop_oneof![2 => Just(Duty::Active), 1 => Just(Duty::Draining), 1 => Just(Duty::Paused)]
}

struct World {
    bench: Bench,
    next: u128,
    operations: BTreeMap<OperationId, Known>,
    /// Attempts whose workers have not answered yet, stopped ones included.
    attempts: Vec<AttemptId>,
    /// Those of them that were told to stop.
    stopped: Vec<AttemptId>,
    /// The attempts that hold slots, and whose.
    holders: BTreeMap<AttemptId, Slot>,
    /// Those that hold none: their workers see to them for others. And with whom.
    joined: BTreeMap<AttemptId, Arc<str>>,
    /// Grants so far.
    grants: u64,
    stores: Vec<RunId>,
    /// Runs a person ended.
    killed_runs: BTreeSet<RunId>,
    private_runs: BTreeMap<RunId, OperationId>,
}

/// What an operation's waiters have been told.
#[derive(Default)]
struct Known {
    stage: Option<Stage>,
    done: usize,
    amended: bool,
    refused: bool,
    killed: bool,
    waiters: usize,
    /// When the last waiter went away.
    alone_since: Option<Instant>,
}

impl World {
    fn new(queue_limit: usize) -> Self {
        Self {
            bench: Bench::new(&Settings { queue_limit, ..Settings::default() }),
            next: 0,
            operations: BTreeMap::new(),
            attempts: Vec::new(),
            stopped: Vec::new(),
            holders: BTreeMap::new(),
            joined: BTreeMap::new(),
            grants: 0,
            stores: Vec::new(),
            killed_runs: BTreeSet::new(),
            private_runs: BTreeMap::new(),
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Submit { action, priority, person, build, skip, private, picky } => {
                let mut submission = self.submission(action, private, picky);
                submission.priority = priority;
                submission.person = PEOPLE[usize::from(person)].into();
                submission.build = build.to_string().into();
                submission.looked_up_at = submission.looked_up_at.filter(|_| !skip);
                self.apply(Event::Submitted(submission));
            }
            Happening::Join { worker, slots } => {
                let effects = self.bench.join(&format!("m{worker}"), slots.into());
                self.perform(effects);
            }
            Happening::Grant { worker, shares } => {
                let grant = self.grant(shares);
                self.apply(Event::Granted { worker: format!("m{worker}").into(), grant });
            }
            Happening::Leave { worker } => {
                let worker: Arc<str> = format!("m{worker}").into();
                self.holders.retain(|_, slot| slot.worker != worker);
                self.joined.retain(|_, with| *with != worker);
                self.apply(Event::WorkerLeft { worker, reason: "left".into() });
            }
            Happening::Progress { which } => {
                if let Some(&attempt) = pick(&self.attempts, which) {
                    self.apply(Event::Progress(attempt, Step::Running));
                }
            }
            Happening::End { which, exit_code } => {
                if let Some(attempt) = self.answer(which) {
                    self.apply(Event::Ended(attempt, exit(exit_code)));
                }
            }
            Happening::Lose { which } => {
                if let Some(attempt) = self.answer(which) {
                    self.apply(Event::Lost(attempt, "lost".into()));
                }
            }
            Happening::Busy { which } => {
                if let Some(attempt) = self.answer(which) {
                    self.apply(Event::Busy(attempt));
                }
            }
            Happening::Store { which, fails } => {
                if let Some(&run) = pick(&self.stores, which) {
                    self.stores.retain(|other| *other != run);
                    self.apply(Event::Stored(run, if fails { Err("full".into()) } else { Ok(()) }));
                }
            }
            Happening::Waiter { which, joins } => {
                if let Some(operation) = self.some_operation(which) {
                    self.waiter(operation, joins);
                }
            }
            Happening::Cancel { which } => {
                if let Some(operation) = self.some_operation(which) {
                    self.apply(Event::Cancel(operation));
                }
            }
            Happening::Kill { which, everywhere } => {
                if let Some(operation) = self.some_operation(which) {
                    self.kill(operation, everywhere);
                }
            }
            Happening::Tell { worker, duty } => {
                self.apply(Event::Told { worker: format!("m{worker}").into(), duty });
            }
            Happening::Elsewhere { which, worker } => {
                if let Some(operation) = self.some_operation(which) {
                    self.apply(Event::FoundElsewhere { operation, worker: format!("m{worker}").into() });
                }
            }
            Happening::Wait { seconds } => {
                self.bench.wait(Duration::from_secs(seconds.into()));
                self.apply(Event::Tick);
            }
        }
        self.check();
    }

    /// A new operation, of an action of that number.
    fn submission(&mut self, number: u8, private: bool, picky: bool) -> Submission {
        let on = picky.then(|| format!("m{}", number % 3));
        let action = action(&format!("{number}{private}{picky}"), on.as_deref(), private);
        let mut submission = self.bench.submission(self.next, &action);
        submission.like = Like::new("", &number.to_string());
        self.operations.insert(id(self.next), Known { waiters: 1, ..Known::default() });
        self.next += 1;
        submission
    }

    /// The next grant: slots for each person, and how many more are ahead.
    fn grant(&mut self, shares: Vec<(usize, usize)>) -> Grant {
        self.grants += 1;
        let shares = PEOPLE.iter().zip(shares).map(|(person, (slots, ahead))| Share {
            person: (*person).into(),
            slots,
            ahead: ahead.min(slots),
        });
        Grant { number: self.grants, slots: Slots::Shared(shares.collect()) }
    }

    fn waiter(&mut self, operation: OperationId, joins: bool) {
        let known = self.operations.get_mut(&operation).unwrap();
        if joins {
            known.waiters += 1;
            known.alone_since = None;
            self.apply(Event::WaiterJoined(operation));
        } else if known.waiters > 0 {
            known.waiters -= 1;
            known.alone_since = (known.waiters == 0).then_some(self.bench.now.instant);
            self.apply(Event::WaiterGone(operation));
        }
    }

    fn kill(&mut self, operation: OperationId, everywhere: bool) {
        let queue = &self.bench.queue;
        let run = queue.tickets.get(&operation).map(|ticket| ticket.run);
        let action = run.map(|run| queue.runs[&run].action.key.action);
        let target = match action.filter(|_| everywhere) {
            Some(action) => Target::Action(action),
            None => Target::Operation(operation),
        };
        let victims = queue.victims(&target);
        for victim in &victims {
            self.killed_runs.insert(queue.tickets[victim].run);
            self.operations.get_mut(victim).unwrap().killed = true;
        }
        self.apply(Event::Kill(target));
        for victim in victims {
            let known = &self.operations[&victim];
            assert!(known.done == 1 || known.stage == Some(Stage::Executing), "{victim} still waits");
        }
    }

    fn some_operation(&self, which: u8) -> Option<OperationId> {
        pick(&self.operations.keys().copied().collect::<Vec<_>>(), which).copied()
    }

    /// An attempt that gets its answer now.
    fn answer(&mut self, which: u8) -> Option<AttemptId> {
        let attempt = *pick(&self.attempts, which)?;
        self.attempts.retain(|other| *other != attempt);
        self.stopped.retain(|other| *other != attempt);
        self.holders.remove(&attempt);
        self.joined.remove(&attempt);
        Some(attempt)
    }

    fn apply(&mut self, event: Event) {
        let effects = self.bench.apply(event);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        self.check_orphans(&effects);
        for effect in effects {
            match effect {
                Effect::Refuse(operation, _) => {
                    let known = self.operations.get_mut(&operation).unwrap();
                    assert!(known.stage.is_none() && !known.refused);
                    known.refused = true;
                }
                Effect::Assign(assignment) => self.assign(assignment),
                Effect::CancelRun(attempt) => {
                    assert!(self.attempts.contains(&attempt));
                    self.stopped.push(attempt);
                }
                Effect::Store(run, _, response) => {
                    assert!(response::is_success(&response));
                    assert!(!self.private_runs.contains_key(&run) && !self.killed_runs.contains(&run));
                    assert!(!self.stores.contains(&run) && self.bench.queue.live_attempts(run).count() == 0);
                    self.stores.push(run);
                }
                Effect::Notify(operation, state) => self.notify(operation, &state),
                Effect::Amend(operation, _) => {
                    let known = self.operations.get_mut(&operation).unwrap();
                    assert!(known.done == 1 && !known.amended, "too early, or twice: {operation}");
                    known.amended = true;
                }
                Effect::DemandChanged => panic!("nobody asked"),
            }
        }
    }

    fn assign(&mut self, assignment: Assignment) {
        let Assignment { attempt, worker, operation, action, person, is_joined, .. } = assignment;
        if is_joined {
            assert!(!action.do_not_cache && !self.killed_runs.contains(&attempt.run), "{attempt:?}");
            assert!(!self.bench.queue.runs[&attempt.run].must_be_fresh);
            self.attempts.push(attempt);
            self.joined.insert(attempt, worker);
            return;
        }
        if action.do_not_cache {
            let owner = *self.private_runs.entry(attempt.run).or_insert(operation);
            assert_eq!(owner, operation, "a private run has one owner");
        }
        assert!(self.is_taking(&worker) && !self.killed_runs.contains(&attempt.run), "{attempt:?}");
        self.attempts.push(attempt);
        let before = self.holders.insert(attempt, Slot { worker, person });
        assert!(before.is_none(), "assigned twice: {attempt:?}");
    }

    fn notify(&mut self, operation: OperationId, state: &OperationState) {
        let known = self.operations.get_mut(&operation).unwrap();
        assert!(!known.refused && known.done == 0, "news after the end of {operation}");
        assert_eq!(state.is_done(), state.response.is_some());
        assert!(state.stage != Stage::Executing || state.timeline.worker.is_some());
        assert!(state.stage != Stage::Executing || state.timeline.attempt > 0);
        if let Some(response) = state.response.as_ref().filter(|_| known.killed) {
            assert_eq!(super::tests::code(response), tonic::Code::Cancelled, "{operation} was killed");
        }
        known.stage = Some(state.stage);
        known.done += usize::from(state.is_done());
    }

    /// No orphan is given a slot, or keeps one for long, that somebody waits for; and only orphans
    /// give way, for a reason.
    fn check_orphans(&self, effects: &[Effect]) {
        let queue = &self.bench.queue;
        let mut holders = self.holders.clone();
        for effect in effects {
            match effect {
                Effect::Assign(assignment) if assignment.is_joined => {}
                Effect::Assign(assignment) => {
                    let run = &queue.runs[&assignment.attempt.run];
                    let is_orphan = queue.orphan_since(run).is_some();
                    let (worker, person) = (assignment.worker.clone(), assignment.person.clone());
                    let slot = Slot { worker, person };
                    holders.insert(assignment.attempt, slot.clone());
                    // What was lost there may be left for another machine.
                    // What must not be run twice is not sent ahead.
                    let is_ahead =
                        queue.attempts.get(&assignment.attempt).is_some_and(|attempt| attempt.is_ahead);
                    let waits =
                        |run: &Run| !(run.was_lost_on(&slot.worker) || is_ahead && run.action.do_not_cache);
                    // And one that loses what it gets is tried with anything else, whosever turn it is.
                    let is_losing = queue.pool.is_losing(&slot.worker);
                    assert!(!is_orphan || is_losing || !self.is_needed_by(&slot, waits), "{assignment:?}");
                }
                Effect::Notify(operation, state) if gave_way(state) => {
                    let known = &self.operations[operation];
                    let alone = self.bench.now.instant - known.alone_since.expect("nobody waited");
                    assert_eq!(known.waiters, 0);
                    // One that did not run gave its place in the queue up, in favour of a run that is new; it
                    // may have lost a worker before.
                    if known.stage == Some(Stage::Executing) {
                        let run = state.run.unwrap();
                        // It may just have got what another one wants, but leaves for a better.
                        let mut held = holders.iter().filter(|(id, _)| id.run == run);
                        let is_needed = held.any(|(_, slot)| self.is_needed(slot));
                        assert!(alone >= queue.orphan_yield && is_needed);
                    } else {
                        assert!(queue.runs.values().any(|run| queue.orphan_since(run).is_none()));
                    }
                }
                _ => {}
            }
        }
        if !queue.attempts.values().any(|attempt| attempt.is_stopping) {
            for (_, slot) in queue.ripe_orphans() {
                assert!(
                    !self.is_needed(&slot),
                    "{slot:?} has an orphan that does not give way {:?} {:?}",
                    queue.pool,
                    queue.attempts
                );
            }
        }
    }

    /// Whether a run that somebody waits for is queued and could use that slot.
    fn is_needed(&self, slot: &Slot) -> bool {
        self.is_needed_by(slot, |_| true)
    }

    /// The same for those runs that count.
    fn is_needed_by(&self, slot: &Slot, counts: impl Fn(&Run) -> bool) -> bool {
        let queue = &self.bench.queue;
        let machines = queue.machines();
        let is_shared = machines.iter().any(|machine| machine.name == slot.worker && machine.is_shared);
        let could_run = |run: &Run| {
            let on = run.action.requirements.properties.get("on");
            on.is_none_or(|names| names.iter().any(|name| **name == *slot.worker))
        };
        let waits = |operation: &OperationId| {
            let person = &queue.tickets[operation].place.person;
            self.operations[operation].waiters > 0 && (!is_shared || *person == slot.person)
        };
        queue.pool.serves(&slot.worker, &slot.person)
            && queue
                .pool
                .waiting()
                .iter()
                .map(|id| &queue.runs[id])
                .any(|run| counts(run) && could_run(run) && run.operations.iter().any(waits))
    }

    /// Whether a machine is there and takes anything at all.
    fn is_taking(&self, worker: &str) -> bool {
        self.bench.queue.machines().iter().any(|machine| {
            let is_present = machine.left_at.is_none();
            *machine.name == *worker && is_present && machine.duty == Duty::Active && machine.slots > 0
        })
    }

    /// What holds after every event.
    fn check(&self) {
        let queue = &self.bench.queue;
        let waiting = queue.pool.waiting();
        for (id, run) in &queue.runs {
            assert_eq!(waiting.contains(id), matches!(run.phase, Phase::Queued), "{id:?}");
            assert!(!run.operations.is_empty() || !matches!(run.phase, Phase::Queued | Phase::Executing));
            self.check_attempts(*id, run);
        }
        let known: BTreeSet<_> = self.holders.keys().chain(self.joined.keys()).collect();
        assert!(queue.attempts.keys().eq(known));
        assert!(queue.ahead.iter().all(|id| queue.attempts[id].is_ahead
            && !queue.runs[&id.run].action.do_not_cache
            && !queue.attempts[id].is_stopping));
        assert!(waiting.iter().all(|run| queue.runs.contains_key(run)));
        assert_eq!(waiting.len(), queue.queued);
        for (name, (busy, _)) in queue.pool.slots() {
            let held = self.holders.values().filter(|slot| slot.worker == name).count();
            assert_eq!(busy, held, "slots of {name}");
        }
        for (operation, known) in &self.operations {
            let is_live = queue.tickets.contains_key(operation);
            assert_eq!(is_live, !known.refused && known.done == 0, "{operation}");
            let waits = is_live && known.stage == Some(Stage::Queued);
            assert_eq!(queue.explain(self.bench.now.instant, *operation).is_some(), waits, "{operation}");
        }
        assert!(queue.joinable.values().all(|run| queue.runs.contains_key(run)));
    }

    /// Which attempts a run has, as its phase has it.
    fn check_attempts(&self, id: RunId, run: &Run) {
        let queue = &self.bench.queue;
        let live: Vec<_> = queue.live_attempts(id).collect();
        let present = AttemptId { run: id, number: run.timeline.attempt };
        match run.phase {
            Phase::Queued | Phase::Storing(_) => assert!(live.is_empty()),
            Phase::Executing => assert!(live.contains(&present)),
            Phase::Cancelling | Phase::Killing => {
                assert!(live.is_empty() && queue.attempts[&present].is_stopping);
            }
        }
        if live.len() > 1 {
            assert!(live.len() == 2 && !run.action.do_not_cache);
            assert!(live.iter().all(|id| !queue.attempts[id].is_ahead));
        }
        let workers: BTreeSet<_> = live.iter().map(|id| &queue.attempts[id].worker).collect();
        assert_eq!(workers.len(), live.len(), "twice on one machine");
    }

    /// Every client goes away.
    fn leave_all(&mut self) {
        for operation in self.operations.keys().copied().collect::<Vec<_>>() {
            while self.operations[&operation].waiters > 0 {
                self.waiter(operation, false);
            }
        }
    }

    /// Lets everything that is under way end well.
    fn settle(&mut self) {
        for worker in 0..3 {
            self.happen(Happening::Join { worker, slots: 2 });
            // Who has granted anything before goes on to grant.
            self.happen(Happening::Grant { worker, shares: vec![(2, 0); PEOPLE.len()] });
            self.happen(Happening::Tell { worker, duty: Duty::Active });
        }
        // A machine that was left alone for its losses is tried again some time later.
        for _ in 0..4 {
            while !self.attempts.is_empty() || !self.stores.is_empty() {
                self.happen(Happening::End { which: 0, exit_code: 0 });
                self.happen(Happening::Store { which: 0, fails: false });
            }
            self.happen(Happening::Wait { seconds: 400 });
        }
    }
}

fn gave_way(state: &OperationState) -> bool {
    state.response.as_ref().is_some_and(|response| response.message == orphans::GAVE_WAY)
}

fn pick<T>(items: &[T], which: u8) -> Option<&T> {
    (!items.is_empty()).then(|| &items[usize::from(which) % items.len()])
}

proptest! {
    #[test]
    fn every_history_keeps_the_promises(history in prop::collection::vec(happening(), 0..120)) {
        let mut world = World::new(8);
        for happening in history {
            world.happen(happening);
        }
        world.settle();
        for (operation, known) in &world.operations {
            prop_assert_eq!(known.done + usize::from(known.refused), 1, "{}", operation);
        }
        let queue = &world.bench.queue;
        prop_assert!(queue.runs.is_empty() && queue.tickets.is_empty() && queue.joinable.is_empty());
        prop_assert!(queue.alone.is_empty() && queue.recent.is_empty());
        prop_assert_eq!(queue.pool.class_count(), 0);
        prop_assert!(queue.pool.slots().values().all(|(busy, _)| *busy == 0));
    }

    /// However many orphans there are: when the workers have stopped those they are told to, one
    /// `orphan_yield` later, the runs that somebody waits for have the slots.
    #[test]
    fn orphans_are_in_nobodys_way(history in prop::collection::vec(ordinary(), 0..80), wanted in 1..4_usize) {
        let mut world = World::new(1000);
        for happening in history {
            world.happen(happening);
        }
        world.happen(Happening::Join { worker: 0, slots: 2 });
        world.happen(Happening::Tell { worker: 0, duty: Duty::Active });
        for machine in world.bench.queue.machines() {
            // One that is left alone has no slots for anybody.
            world.bench.queue.pool.has_answered(&machine.name);
        }
        world.leave_all();
        world.happen(Happening::Wait { seconds: 5 });
        let first = world.next;
        for action in 0..wanted as u8 {
            world.happen(Happening::Submit {
                action, priority: 5, person: 0, build: 7, skip: true, private: true, picky: false
            });
        }
        while let Some(attempt) = world.stopped.first().copied() {
            let which = world.attempts.iter().position(|other| *other == attempt).unwrap();
            world.happen(Happening::End { which: which as u8, exit_code: 1 });
        }
        let served = |number: &u128| world.operations[&id(*number)].stage == Some(Stage::Executing);
        let machines = world.bench.queue.machines().into_iter();
        let slots: usize =
            machines.filter(|machine| world.is_taking(&machine.name)).map(|machine| machine.slots).sum();
        prop_assert_eq!((first..world.next).filter(served).count(), wanted.min(slots));
    }
}
