//! Random histories of whole farms: whatever happens, nothing is lost, run twice or idle for long.
//!
//! `FARMHAND_SIMULATION_SEED` runs the history of one seed again, `FARMHAND_SIMULATION_RUNS` so many of
//! others than usual.

use super::*;
use crate::dice::for_each_seed;
use crate::execution::queue::{Duty, MAX_LOSSES, Target};
use crate::execution::run_times::Like;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

fn setup(seed: u64, slots: Vec<usize>) -> Setup {
    Setup {
        seed,
        slots,
        latency: MILLISECOND,
        jitter: MILLISECOND,
        ahead: true,
        clocks_off: 3600 * SECOND,
        settings: Settings::default(),
    }
}

/// Clients, which number what they submit.
struct Clients {
    farm: Farm,
    submitted: Vec<(usize, OperationId)>,
    next: u64,
}

/// What a client wants.
#[derive(Clone, Copy)]
struct Wish<'a> {
    person: &'a str,
    build: &'a str,
    /// Equal actions have equal numbers.
    number: Option<u64>,
    time: Duration,
    on: Option<&'a str>,
    is_private: bool,
    priority: i32,
    mnemonic: &'a str,
}

const WISH: Wish<'static> = Wish {
    person: "ann",
    build: "a",
    number: None,
    time: MILLISECOND,
    on: None,
    is_private: false,
    priority: 0,
    mnemonic: "",
};

impl Clients {
    fn new(setup: Setup) -> Self {
        let mut farm = Farm::new(setup);
        farm.run_for(SECOND);
        Self { farm, submitted: Vec::new(), next: 0 }
    }

    fn submit(&mut self, machine: usize, wish: Wish) -> Option<OperationId> {
        self.next += 1;
        let number = wish.number.unwrap_or(self.next + (1 << 40));
        let submission = Submission {
            operation: OperationId::from_number(self.next.into()),
            action: action(number, wish.time, wish.on, wish.is_private),
            priority: wish.priority,
            person: wish.person.into(),
            build: wish.build.into(),
            like: Like::new("", wish.mnemonic),
            looked_up_at: None,
        };
        let id = self.farm.submit(machine, submission)?;
        self.submitted.push((machine, id));
        Some(id)
    }

    /// Everything ends, and nothing is left of it anywhere.
    fn finish(&mut self) {
        assert!(self.farm.finish(3600 * SECOND), "{} live at {:?}", self.farm.ledger.live(), self.farm.now());
        // What is told once a second, and what fades.
        self.farm.run_for(400 * SECOND);
        for machine in &self.farm.machines {
            assert!(machine.stays.is_empty() && machine.given.is_empty(), "{}", machine.name);
            assert_eq!(machine.grants.busy(), 0);
            let tenancies: Vec<_> = machine.grants.tenancies().collect();
            assert!(tenancies.is_empty(), "{}: {tenancies:?}", machine.name);
            for state in machine.queue.machines() {
                assert_eq!(state.busy, 0, "{state:?}");
                let is_own = state.name == machine.name;
                assert_eq!(state.slots, if is_own { machine.limits.slots } else { 0 }, "{state:?}");
            }
        }
        let submitted = self.submitted.iter();
        assert!(submitted.clone().all(|(_, id)| self.farm.ledger.outcome(*id).is_some()));
    }
}

// === anything may happen ===

/// A farm to which anything happens, and then nothing more.
struct Storm {
    clients: Clients,
    slots: Vec<usize>,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let dice = Dice::new(!seed);
        let slots: Vec<_> = (0..2 + dice.below(4)).map(|_| 1 + dice.below(4)).collect();
        let mut setup = setup(seed, slots.clone());
        setup.jitter = dice.time(20 * MILLISECOND);
        setup.ahead = !dice.one_in(4);
        Self { clients: Clients::new(setup), slots }
    }

    fn blow(&mut self) {
        for _ in 0..self.dice(20, 300) {
            let pause = 50 * MILLISECOND;
            let pause = self.clients.farm.dice().time(pause);
            self.clients.farm.run_for(pause);
            match self.dice(0, 100) {
                0..70 => self.submit(),
                70..84 => self.client_changes_its_mind(),
                _ => self.fault(),
            }
        }
    }

    fn dice(&self, least: usize, end: usize) -> usize {
        least + self.clients.farm.dice().below(end - least)
    }

    fn machine(&self) -> usize {
        self.dice(0, self.slots.len())
    }

    fn submit(&mut self) {
        let on = self.clients.farm.name(self.machine());
        let time = self.clients.farm.dice().exponential(300 * MILLISECOND);
        let wish = Wish {
            person: ["ann", "ben", "cat"][self.dice(0, 3)],
            build: ["a", "b"][self.dice(0, 2)],
            number: (self.dice(0, 3) > 0).then_some(self.dice(0, 20) as u64),
            time,
            on: (self.dice(0, 8) == 0).then_some(&*on),
            is_private: self.dice(0, 5) == 0,
            priority: self.dice(0, 3) as i32,
            mnemonic: ["", "Cpp", "Rust"][self.dice(0, 3)],
        };
        let machine = self.machine();
        for _ in 0..self.dice(1, 8) {
            self.clients
                .submit(machine, Wish { number: wish.number.map(|n| n + self.dice(0, 5) as u64), ..wish });
        }
    }

    fn client_changes_its_mind(&mut self) {
        if self.clients.submitted.is_empty() {
            return;
        }
        let (machine, operation) = self.clients.submitted[self.dice(0, self.clients.submitted.len())];
        if self.clients.farm.ledger.outcome(operation).is_some() {
            return;
        }
        match self.dice(0, 4) {
            0 => self.clients.farm.tell(machine, Event::Cancel(operation)),
            1 => self.clients.farm.tell(machine, Event::Kill(Target::Operation(operation))),
            2 => self.clients.farm.leave(machine, operation),
            _ => {
                self.clients.farm.leave(machine, operation);
                let comes_back = Event::WaiterJoined(operation);
                self.clients.farm.tell(machine, comes_back);
            }
        }
    }

    fn fault(&mut self) {
        let machine = self.machine();
        let other = (machine + 1 + self.dice(0, self.slots.len() - 1)) % self.slots.len();
        let back = self.clients.farm.dice().time(8 * SECOND);
        let fault = match self.dice(0, 10) {
            0..3 => Fault::Break(machine, other, back),
            3 => Fault::Kill(machine, back),
            4 => Fault::Freeze(machine, back),
            5 => Fault::Duty(machine, [Duty::Active, Duty::Draining, Duty::Paused][self.dice(0, 3)]),
            6 => Fault::Limits(machine, self.dice(0, 5), self.dice(0, 4)),
            7 => Fault::Lossy(machine, self.dice(0, 2) == 0),
            8 => Fault::Strays(machine, self.dice(0, 2) == 0),
            _ => Fault::Pace(machine, self.dice(50, 300) as u32),
        };
        self.clients.farm.fault(Duration::ZERO, fault);
    }

    /// Everything is as it was in the beginning.
    fn calm(&mut self) {
        self.clients.farm.run_for(20 * SECOND);
        for (machine, slots) in self.slots.clone().into_iter().enumerate() {
            for fault in [
                Fault::Start(machine),
                Fault::Duty(machine, Duty::Active),
                Fault::Limits(machine, slots, slots),
                Fault::Lossy(machine, false),
                Fault::Strays(machine, false),
            ] {
                self.clients.farm.fault(Duration::ZERO, fault);
            }
        }
    }
}

#[test]
fn every_storm_passes_and_nothing_is_lost() {
    for_each_seed(40, |seed| {
        let mut storm = Storm::new(seed);
        storm.blow();
        storm.calm();
        storm.clients.finish();
        for outcome in storm.clients.farm.ledger.outcomes() {
            if let Outcome::Failed(tonic::Code::Aborted, text) = outcome {
                let reasons = ["it went wrong", "the link broke"].map(|reason| text.matches(reason).count());
                assert_eq!(reasons.iter().sum::<usize>(), MAX_LOSSES + 1, "{text}");
                assert_eq!(text.matches(": ").count(), MAX_LOSSES + 2, "each names its machine: {text}");
            }
        }
    });
}

// === no slot is idle while something waits ===

#[test]
fn no_slot_is_idle_for_long_while_something_waits() {
    for_each_seed(30, |seed| {
        let dice = Dice::new(!seed);
        let slots: Vec<_> = (0..2 + dice.below(5)).map(|_| 1 + dice.below(6)).collect();
        let mut setup = setup(seed, slots.clone());
        setup.ahead = dice.one_in(2);
        let mut clients = Clients::new(setup);
        let mean = [2, 20, 200][dice.below(3)] * MILLISECOND;
        for _ in 0..dice.below(60) {
            clients.farm.run_for(dice.time(200 * MILLISECOND));
            let (machine, person) = (dice.below(slots.len()), ["ann", "ben", "cat"][dice.below(3)]);
            for _ in 0..dice.below(40) {
                clients.submit(machine, Wish { person, time: dice.exponential(mean), ..WISH });
            }
        }
        clients.finish();
        let Ledger { longest_idle, longest_idle_at, .. } = clients.farm.ledger;
        let most = 2 * clients.farm.round_trip();
        assert!(longest_idle <= most, "{longest_idle:?} at {longest_idle_at:?} of {slots:?}, mean {mean:?}");
    });
}

// === people share ===

/// Slots of two people, in parts of all slots, at many moments.
fn shares(clients: &mut Clients, moments: usize) -> Vec<[f64; 2]> {
    let all: usize = clients.farm.setup.slots.iter().sum();
    let shares = (0..moments).map(|_| {
        clients.farm.run_for(50 * MILLISECOND);
        [0, 1].map(|owner| clients.farm.ledger.running(owner) as f64 / all as f64)
    });
    shares.collect()
}

#[test]
fn of_two_people_each_has_half_of_the_slots_within_two_seconds() {
    for_each_seed(3, |seed| {
        let dice = Dice::new(!seed);
        let count = 2 + dice.below(4);
        let mut clients = Clients::new(setup(seed, vec![16; count]));
        let time = |dice: &Dice| 100 * MILLISECOND + dice.exponential(200 * MILLISECOND);
        let head_start = [Duration::ZERO, 3 * SECOND][dice.below(2)];
        for _ in 0..20_000 {
            clients.submit(0, Wish { time: time(&dice), ..WISH });
        }
        clients.farm.run_for(head_start);
        for _ in 0..2_000 {
            clients.submit(1, Wish { person: "ben", build: "b", time: time(&dice), ..WISH });
        }
        clients.farm.run_for(2 * SECOND);
        for [ann, ben] in shares(&mut clients, 40) {
            assert!(
                (ann - 0.5).abs() <= 0.1 && (ben - 0.5).abs() <= 0.1,
                "{ann} and {ben} of {count} machines"
            );
        }
    });
}
