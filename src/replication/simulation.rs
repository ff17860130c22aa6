//! A whole farm in one process, in virtual time: nothing of it is real but [`Owed`](super::owed::Owed), the roster
//! and the placement.
//!
//! Every machine has a store and sees to its copies; what lies between them is simulated: links with latency
//! and bandwidth that break and come back, machines that are killed, freeze, lose their disk, are replaced, join
//! and leave. One seed decides all of it, so whatever happened happens again.
//!
//! [`Farm`] is the loop: the next thing that happens, and what follows from it. `machine` is what a machine
//! is made of, `store` its disk, `calls` what machines say to each other, `faults` what goes wrong,
//! `checker` looks on from outside: what had all its copies once is never lost.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::copies::Taken;
use super::owed::{Effect, Event, Limits};
use super::roster::Role;
use crate::cas::entry::{EntryKey, Standing};
use crate::dice::Dice;

mod calls;
mod checker;
mod faults;
mod machine;
mod store;
mod tests;

use calls::Message;
use checker::Checker;
use machine::Machine;
use store::Kept;

/// What a message within a machine takes.
const HOP: Duration = Duration::from_micros(20);

/// Time in which changes of the farm are collected, and in which a machine that starts looks on.
const DEBOUNCE: Duration = Duration::from_secs(1);
const LOOK_ON: Duration = Duration::from_secs(3);

/// Time since the farm began.
type Time = Duration;

/// How a farm is.
#[derive(Clone, Debug)]
struct Setup {
    seed: u64,
    copies: usize,
    grace: Duration,
    limits: Limits,
    latency: Duration,
    /// Bytes in a second.
    bandwidth: u64,
}

/// The farm.
struct Farm {
    setup: Setup,
    now: Time,
    began_at: Instant,
    dice: Dice,
    machines: Vec<Machine>,
    /// Pairs that cannot reach each other.
    cuts: BTreeSet<(usize, usize)>,
    /// Machines whose links are slow.
    slow: BTreeSet<usize>,
    /// When the wire from one machine to another is free.
    wires: BTreeMap<(usize, usize), Time>,
    agenda: BinaryHeap<Reverse<(Time, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    next_number: u64,
    checker: Checker,
    /// Whether all effects are remembered, and they.
    trace: Option<Vec<(usize, Effect)>>,
}

/// What happens on a machine, or between two.
#[derive(Debug)]
enum Happening {
    Event {
        machine: usize,
        epoch: u64,
        event: Box<Event>,
    },
    Tick {
        machine: usize,
        epoch: u64,
    },
    Roster {
        machine: usize,
        epoch: u64,
    },
    Arrived {
        to: usize,
        epoch: u64,
        from: usize,
        link: u64,
        message: Box<Message>,
    },
    Broken {
        machine: usize,
        epoch: u64,
        other: usize,
        link: u64,
    },
    Linked {
        machines: (usize, usize),
    },
    Start {
        machine: usize,
    },
    /// What was damaged is fetched again.
    Heal {
        machine: usize,
        epoch: u64,
        key: EntryKey,
    },
}

// === impl Farm ===

impl Farm {
    fn new(setup: Setup, machines: usize, room: u64) -> Self {
        let mut farm = Self {
            now: Time::ZERO,
            began_at: Instant::now(),
            dice: Dice::new(setup.seed),
            machines: Vec::new(),
            cuts: BTreeSet::new(),
            slow: BTreeSet::new(),
            wires: BTreeMap::new(),
            agenda: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next_number: 0,
            checker: Checker::default(),
            trace: None,
            setup,
        };
        for _ in 0..machines {
            farm.add(room);
        }
        farm
    }

    /// A machine with an empty disk joins.
    fn add(&mut self, room: u64) -> usize {
        let number = self.machines.len();
        self.machines.push(Machine::new(number, room, &self.setup));
        self.start(number);
        number
    }

    fn plan(&mut self, after: Duration, happening: Happening) {
        self.next_number += 1;
        self.agenda.push(Reverse((self.now + after, self.next_number)));
        self.happenings.insert(self.next_number, happening);
    }

    /// Lets that much time pass.
    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse((at, number))) =
            self.agenda.peek().copied().filter(|Reverse((at, _))| *at <= end)
        {
            self.agenda.pop();
            let Some(happening) = self.happenings.remove(&number) else { continue };
            self.now = at;
            match self.frozen_until(&happening) {
                Some(until) => self.plan(until - at, happening),
                None => self.happen(happening),
            }
        }
        self.now = end;
    }

    /// When the machine that this happens to goes on, if it is frozen.
    fn frozen_until(&self, happening: &Happening) -> Option<Time> {
        let machine = match happening {
            Happening::Event { machine, .. }
            | Happening::Tick { machine, .. }
            | Happening::Roster { machine, .. }
            | Happening::Broken { machine, .. }
            | Happening::Heal { machine, .. }
            | Happening::Arrived { to: machine, .. } => *machine,
            Happening::Linked { .. } | Happening::Start { .. } => return None,
        };
        Some(self.machines[machine].frozen_until).filter(|until| *until > self.now)
    }

    fn is_same(&self, machine: usize, epoch: u64) -> bool {
        self.machines[machine].is_up && self.machines[machine].epoch == epoch
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Event { machine, epoch, event } if self.is_same(machine, epoch) => {
                self.apply(machine, *event);
            }
            Happening::Tick { machine, epoch } if self.is_same(machine, epoch) => self.tick(machine),
            Happening::Roster { machine, epoch } if self.is_same(machine, epoch) => self.look_around(machine),
            Happening::Arrived { to, epoch, from, link, message } if self.is_same(to, epoch) => {
                self.arrived(to, from, link, *message);
            }
            Happening::Broken { machine, epoch, other, link } if self.is_same(machine, epoch) => {
                self.broken(machine, other, link);
            }
            Happening::Heal { machine, epoch, key } if self.is_same(machine, epoch) => {
                self.heal(machine, key)
            }
            Happening::Linked { machines } => self.link(machines.0, machines.1),
            Happening::Start { machine } => self.start(machine),
            _ => {}
        }
    }

    // --- what is owed ---

    fn tell(&mut self, machine: usize, event: Event) {
        let epoch = self.machines[machine].epoch;
        self.plan(HOP, Happening::Event { machine, epoch, event: Box::new(event) });
    }

    fn tick(&mut self, index: usize) {
        if self.machines[index].tick_at.is_some_and(|at| at <= self.now) {
            self.machines[index].tick_at = None;
            self.apply(index, Event::Tick);
        }
    }

    fn apply(&mut self, index: usize, event: Event) {
        let now = self.began_at + self.now;
        let effects = self.machines[index].owed.apply(now, event);
        if let Some(trace) = &mut self.trace {
            trace.extend(effects.iter().map(|effect| (index, effect.clone())));
        }
        for effect in effects {
            self.perform(index, effect);
        }
        let machine = &mut self.machines[index];
        let next = machine.owed.next().map(|at| at.saturating_duration_since(self.began_at));
        if let Some(at) = next.filter(|at| machine.tick_at.is_none_or(|planned| *at < planned)) {
            assert!(at > self.now, "a tick is due at once: {:?}", machine.owed);
            machine.tick_at = Some(at);
            let epoch = machine.epoch;
            self.plan(at - self.now, Happening::Tick { machine: index, epoch });
        }
    }

    fn perform(&mut self, index: usize, effect: Effect) {
        let machine = &mut self.machines[index];
        match effect {
            Effect::Mark { keys, standing } => machine.store.mark(&keys, standing),
            Effect::Walk(range) => {
                // What it finds may be old when it is told.
                let entries = machine.store.range(range);
                let epoch = machine.epoch;
                let event = Box::new(Event::Walked { range, entries });
                let takes = self.dice.time(Duration::from_millis(20));
                self.plan(takes, Happening::Event { machine: index, epoch, event });
            }
            Effect::Ask { machine: to, .. }
            | Effect::Give { machine: to, .. }
            | Effect::Send { machine: to, .. }
            | Effect::Settle { machine: to, .. }
            | Effect::Look { machine: to, .. } => self.call(index, to, effect),
        }
    }

    /// The farm looks otherwise to a machine than before, or may do so.
    fn noticed(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        if !machine.is_roster_planned {
            machine.is_roster_planned = true;
            let epoch = machine.epoch;
            let after = DEBOUNCE.max((machine.started_at + LOOK_ON).saturating_sub(self.now));
            self.plan(after, Happening::Roster { machine: index, epoch });
        }
    }

    fn look_around(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        machine.is_roster_planned = false;
        let roster = Arc::new(machine.look_around(self.now, &self.setup));
        if machine.roster.as_ref() != Some(&roster) {
            machine.roster = Some(roster.clone());
            self.apply(index, Event::Roster(roster));
        }
    }

    // --- what clients do ---

    /// A client writes an entry on a machine.
    fn write(&mut self, index: usize, key: EntryKey, bytes: u64, version: u64) {
        let now = self.now;
        let machine = &mut self.machines[index];
        if !machine.is_running(now) {
            return;
        }
        if let Some(kept) = machine.store.entries.get_mut(&key).filter(|_| !key.is_action()) {
            kept.used_at = now;
            return;
        }
        machine.store.remove(&key);
        let Some(gone) = machine.store.make_room(bytes, now) else {
            return self.tell(index, Event::Gone(vec![key]));
        };
        machine.store.insert(key, Kept { bytes, standing: Standing::Sole, used_at: now, version });
        self.evicted(index, gone);
        self.checker.written(key);
        self.tell(index, Event::Stored { key, bytes });
    }

    /// A client reads an entry on a machine.
    fn read(&mut self, index: usize, key: EntryKey) {
        let now = self.now;
        let machine = &mut self.machines[index];
        if !machine.is_running(now) {
            return;
        }
        if let Some(kept) = machine.store.entries.get_mut(&key) {
            kept.used_at = now;
            if kept.standing != Standing::Sole {
                self.tell(index, Event::Used(vec![key]));
            }
            return;
        }
        let Some(copy) = self.find(index, &key) else { return };
        let standing = if self.machines[index].is_holder(&key) { Standing::Sole } else { Standing::Spare };
        let kept = Kept { used_at: now, standing, ..copy };
        let (_, gone) = self.machines[index].store.keep(key, kept);
        self.evicted(index, gone);
    }

    /// A copy on another machine.
    fn find(&self, index: usize, key: &EntryKey) -> Option<Kept> {
        let mut others = self.machines[index].known.keys().filter(|other| self.can_reach(index, **other));
        others.find_map(|other| self.machines[*other].store.entries.get(key).copied())
    }

    /// An entry that was damaged is fetched from another machine, as if it had been written here.
    fn heal(&mut self, index: usize, key: EntryKey) {
        if self.machines[index].store.has(&key) {
            return;
        }
        if let Some(copy) = self.find(index, &key) {
            return self.write(index, key, copy.bytes, copy.version);
        }
        let epoch = self.machines[index].epoch;
        self.plan(Duration::from_secs(10), Happening::Heal { machine: index, epoch, key });
    }

    fn evicted(&mut self, index: usize, gone: Vec<(EntryKey, Kept)>) {
        for (key, kept) in &gone {
            self.checker.evicted(*key, kept.standing);
        }
        if !gone.is_empty() {
            self.tell(index, Event::Gone(gone.into_iter().map(|(key, _)| key).collect()));
        }
    }
}
