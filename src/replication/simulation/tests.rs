//! Random histories of whole farms: whatever happens, what had its copies is never lost, and has them again
//! in the end.
//!
//! `FARMHAND_SIMULATION_SEED` runs the history of one seed again, `FARMHAND_SIMULATION_RUNS` so many of
//! others than usual.

use super::*;
use crate::dice::for_each_seed;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const PLENTY: u64 = 1 << 50;

fn setup(seed: u64) -> Setup {
    Setup {
        seed,
        copies: 2,
        grace: 10 * MINUTE,
        limits: Limits { compare: 10_000_000 * MINUTE, ..Limits::default() },
        latency: Duration::from_micros(300),
        bandwidth: 100 << 20,
    }
}

fn key(number: u64, bytes: u64) -> EntryKey {
    let mut text = [0; EntryKey::LEN];
    text[0] = 1;
    let dice = Dice::new(number);
    for part in text[1..33].chunks_mut(8) {
        part.copy_from_slice(&dice.number().to_le_bytes());
    }
    text[33..].copy_from_slice(&bytes.to_be_bytes());
    EntryKey::read(&text).unwrap()
}

/// A farm to which anything happens, and then nothing more.
struct Storm {
    farm: Farm,
    written: Vec<(EntryKey, u64)>,
    version: u64,
    room: u64,
    is_tight: bool,
}

impl Storm {
    fn new(seed: u64) -> Self {
        let dice = Dice::new(!seed);
        let mut setup = setup(seed);
        setup.copies = [1, 2, 2, 2, 2, 3, 3][dice.below(7)];
        setup.grace = [10 * SECOND, MINUTE, 10 * MINUTE][dice.below(3)];
        setup.latency = dice.time(Duration::from_millis(20));
        if dice.one_in(3) {
            setup.limits.entries = 10 + dice.below(40);
            setup.limits.walking = 5 + dice.below(setup.limits.entries - 5);
        }
        if dice.one_in(4) {
            setup.limits.compare = 10 * MINUTE;
        }
        // A single copy may go in the moment in which machines do not agree where it belongs.
        let is_tight = dice.one_in(4) && setup.copies > 1;
        let room = if is_tight { (1 + dice.below(4) as u64) << 20 } else { PLENTY };
        let machines = 2 + dice.below(7);
        Self { farm: Farm::new(setup, machines, room), written: Vec::new(), version: 0, room, is_tight }
    }

    fn dice(&self, end: usize) -> usize {
        self.farm.dice.below(end)
    }

    fn machine(&self) -> usize {
        self.dice(self.farm.machines.len())
    }

    fn blow(&mut self) {
        for _ in 0..20 + self.dice(150) {
            let pause = [20, 300, 3000, 60_000][self.dice(4)];
            let pause = self.farm.dice.time(Duration::from_millis(pause));
            self.farm.run_for(pause);
            self.farm.look_on();
            self.farm.check_nothing_is_lost();
            match self.dice(100) {
                0..40 => self.write(),
                40..60 => self.read(),
                60..85 => self.fault(),
                85..90 => self.destroy(),
                _ => self.leave(),
            }
        }
    }

    fn write(&mut self) {
        let machine = self.machine();
        for _ in 0..[1, 3, 40][self.dice(3)] {
            let bytes = match self.dice(if self.is_tight { 20 } else { 22 }) {
                0..12 => 1 + self.dice(4096) as u64,
                12..20 => 1 + self.dice(400_000) as u64,
                _ => 1 + self.dice(50 << 20) as u64,
            };
            self.version += 1;
            let (key, bytes) = match self.dice(6) {
                0 => (EntryKey::action(&[self.dice(30) as u8; 32]), 2000),
                1 if !self.written.is_empty() => self.written[self.dice(self.written.len())],
                _ => (key(self.version ^ self.farm.setup.seed << 20, bytes), bytes),
            };
            self.written.push((key, bytes));
            self.farm.write(machine, key, bytes, self.version);
        }
    }

    fn read(&mut self) {
        for _ in 0..1 + self.dice(10) {
            if let Some((key, _)) = self.farm.dice.pick(&self.written).copied() {
                self.farm.read(self.machine(), key);
            }
        }
    }

    fn fault(&mut self) {
        let (machine, other) = (self.machine(), self.machine());
        let time = self.farm.dice.time([SECOND, 20 * SECOND, 2 * self.farm.setup.grace][self.dice(3)]);
        match self.dice(10) {
            0 | 1 => self.farm.kill(machine, Some(time)),
            2 => self.farm.freeze(machine, time),
            3 | 4 => self.farm.cut(machine, other),
            5 | 6 => {
                if let Some((a, b)) = self.farm.cuts.iter().next().copied() {
                    self.farm.mend(a, b);
                }
            }
            7 => {
                if !self.farm.slow.remove(&machine) {
                    self.farm.slow.insert(machine);
                }
            }
            8 => self.farm.machines[machine].store.is_full ^= true,
            _ => self.turn(machine),
        }
    }

    /// A laptop is plugged in, or on battery.
    fn turn(&mut self, machine: usize) {
        match self.farm.machines[machine].role {
            Role::Counts if self.may_destroy() => {
                // Its copies do not count any more.
                self.farm.checker.lost += 1;
                self.farm.become_(machine, Role::Transient);
            }
            Role::Transient => self.farm.become_(machine, Role::Counts),
            _ => {}
        }
    }

    fn may_destroy(&self) -> bool {
        let Checker { lost, redundancy, .. } = self.farm.checker;
        lost + 1 < redundancy.min(self.farm.wanted() + lost)
    }

    /// Something is lost, as far as that must be survived.
    fn destroy(&mut self) {
        if !self.may_destroy() {
            return;
        }
        let machine = self.machine();
        self.farm.checker.lost += 1;
        match self.dice(4) {
            0 => {
                self.farm.lose(machine);
                self.farm.add(self.room);
            }
            1 => self.farm.lose(machine),
            2 => {
                self.farm.kill(machine, Some(self.farm.dice.time(20 * SECOND)));
                self.farm.machines[machine].store.wipe();
            }
            _ => {
                for _ in 0..5 {
                    let at = self.dice(self.farm.machines[machine].store.entries.len().max(1));
                    self.farm.damage(machine, at);
                }
            }
        }
    }

    fn leave(&mut self) {
        for machine in 0..self.farm.machines.len() {
            if self.farm.machines[machine].role == Role::Leaving && self.farm.leave_if_safe(machine) {
                self.farm.check_nothing_is_lost();
            }
        }
        let staying = self.farm.machines.iter().filter(|machine| machine.counts()).count();
        let machine = self.machine();
        if staying > 2 && self.farm.machines[machine].counts() && self.dice(3) == 0 {
            self.farm.become_(machine, Role::Leaving);
        } else if self.farm.machines.len() < 10 && self.dice(5) == 0 {
            self.farm.add(self.room);
        }
    }

    /// Everything is put right that can be.
    fn calm(&mut self) {
        self.farm.run_for(20 * SECOND);
        for (a, b) in self.farm.cuts.clone() {
            self.farm.mend(a, b);
        }
        self.farm.slow.clear();
        for machine in 0..self.farm.machines.len() {
            self.farm.start(machine);
            self.farm.machines[machine].store.is_full = false;
        }
        // One that stands still notices only then who has left.
        self.farm.run_for(3 * self.farm.setup.grace + 20 * SECOND);
    }

    /// Everything has its copies after a while, and then it is quiet.
    fn finish(&mut self) {
        let is_quiet = self.farm.setup.limits.compare > 1000 * MINUTE;
        let is_done = (0..200).any(|_| {
            self.farm.run_for(MINUTE / 2);
            self.farm.look_on();
            self.farm.check_nothing_is_lost();
            self.farm.is_settled()
        });
        if self.is_tight {
            return;
        }
        assert!(is_done, "{}", self.tell_what_is_open());
        self.farm.check_complete();
        self.farm.trace = Some(Vec::new());
        self.farm.run_for(20 * MINUTE);
        let trace = self.farm.trace.take().unwrap_or_default();
        assert!(!is_quiet || trace.is_empty(), "something goes on: {:?}", trace.first());
        for machine in 0..self.farm.machines.len() {
            if self.farm.machines[machine].role == Role::Leaving && self.farm.machines[machine].is_up {
                let has = &self.farm.machines[machine].store;
                let sole = has.entries.iter().find(|(_, kept)| kept.standing == Standing::Sole);
                let sole = sole.map(|(key, _)| *key);
                // While things are compared it has to wait.
                let leaves = self.farm.leave_if_safe(machine);
                assert!(
                    leaves || !is_quiet,
                    "it never may leave with {sole:?}: {}",
                    self.tell_what_is_open()
                );
                self.farm.check_nothing_is_lost();
            }
        }
    }

    fn tell_what_is_open(&self) -> String {
        let now = self.farm.began_at + self.farm.now;
        let open = self.farm.machines.iter().filter(|machine| machine.is_up && !machine.owed.is_settled());
        open.map(|machine| format!("{:?}: {:?}\n", machine.id, machine.owed.figures(now))).collect()
    }
}

#[test]
fn every_storm_passes_and_nothing_is_lost() {
    for_each_seed(12, |seed| {
        let mut storm = Storm::new(seed);
        storm.blow();
        storm.calm();
        storm.finish();
    });
}

#[test]
fn the_same_seed_is_the_same_storm() {
    let trace = |seed| {
        let mut storm = Storm::new(seed);
        storm.farm.trace = Some(Vec::new());
        storm.blow();
        storm.farm.trace
    };
    for_each_seed(2, |seed| assert_eq!(trace(seed), trace(seed)));
}
