//! What goes wrong in a farm, and how it is put right.

use std::time::Duration;

use super::machine::{id, matcher};
use super::{Farm, Happening, STOP};
use crate::execution::grants;
use crate::execution::placement::Site;
use crate::execution::queue::{Duty, Event};

/// Silence after which a link is given up.
const SILENCE: Duration = Duration::from_secs(3);

/// Time in which a machine finds another.
const DIAL: Duration = Duration::from_millis(50);

/// Something that happens to machines.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// The link between two machines breaks, and comes back after a while.
    Break(usize, usize, Duration),
    /// A machine is killed, with all it knows, and starts again after a while.
    Kill(usize, Duration),
    /// A machine starts, if it is not there.
    Start(usize),
    /// A machine stands still for a while.
    Freeze(usize, Duration),
    /// A machine is told what to do.
    Duty(usize, Duty),
    /// A machine offers another number of slots, and lends so many of them.
    Limits(usize, usize, usize),
    /// Whether a machine loses all it runs.
    Lossy(usize, bool),
    /// Whether some of what a machine runs takes very long.
    Strays(usize, bool),
    /// A machine takes so many hundredths of the usual time.
    Pace(usize, u32),
}

// === impl Farm ===

impl Farm {
    pub(super) fn go_wrong(&mut self, fault: Fault) {
        match fault {
            Fault::Break(a, b, back) => self.break_link(a, b, back),
            Fault::Kill(machine, back) => self.kill(machine, back),
            Fault::Start(machine) => self.start(machine),
            Fault::Freeze(machine, time) => self.freeze(machine, time),
            Fault::Duty(machine, duty) => {
                let worker = self.name(machine);
                self.machines[machine].limits.duty = duty;
                self.tell(machine, Event::Told { worker, duty });
                self.change_limits(machine);
            }
            Fault::Limits(machine, slots, guests) => {
                let limits = &mut self.machines[machine].limits;
                (limits.slots, limits.guests) = (slots, guests);
                self.change_limits(machine);
            }
            Fault::Lossy(machine, is_lossy) => self.machines[machine].is_lossy = is_lossy,
            Fault::Strays(machine, strays) => self.machines[machine].strays = strays,
            Fault::Pace(machine, hundredths) => self.machines[machine].pace = f64::from(hundredths) / 100.0,
        }
    }

    fn change_limits(&mut self, index: usize) {
        let machine = &mut self.machines[index];
        if machine.is_alive {
            machine.note_limits(self.now);
            let limits = machine.limits.clone();
            self.apply_grants(index, grants::Event::Limits(limits));
        }
    }

    /// Starts a machine, which looks for the others.
    pub(super) fn start(&mut self, index: usize) {
        if self.machines[index].is_alive {
            return;
        }
        let joined = self.machines[index].start(&self.setup, self.began_at, self.now);
        let epoch = self.machines[index].epoch;
        self.apply(index, joined);
        self.tell_demand(index);
        let first = self.dice.time(Duration::from_secs(1));
        self.plan(first, Happening::Tick { machine: index, epoch });
        self.apply_grants(index, grants::Event::Tick);
        for other in (0..self.machines.len()).filter(|other| *other != index) {
            self.dial(index, other, self.dice.time(DIAL));
        }
    }

    fn dial(&mut self, a: usize, b: usize, after: Duration) {
        self.plan(after, Happening::Linked { machines: (a, b) });
    }

    /// Two machines have found each other, if they can.
    pub(super) fn link(&mut self, a: usize, b: usize) {
        let [first, second] = [a, b].map(|index| &self.machines[index]);
        if !first.is_alive || !second.is_alive || self.links.since(a, b).is_some() {
            return;
        }
        let frozen_until = first.frozen_until.max(second.frozen_until);
        if frozen_until > self.now {
            return self.dial(a, b, frozen_until - self.now + DIAL);
        }
        for (machine, peer) in [(a, b), (b, a)] {
            if self.links.number(machine, peer).is_some() {
                // What is new takes the place of what was there.
                self.broken(machine, peer);
            }
        }
        self.links.link(self.now, (a, b));
        for (machine, peer) in [(a, b), (b, a)] {
            let worker = self.name(peer);
            let matcher = matcher(&worker);
            self.apply(machine, Event::WorkerJoined { worker: worker.clone(), slots: 0, matcher });
            let site = Site { is_remote: true, latency: self.round_trip(), ..Site::default() };
            self.apply(machine, Event::Sited { worker, site });
        }
    }

    fn break_link(&mut self, a: usize, b: usize, back: Duration) {
        self.links.cut(a, b);
        for (machine, peer) in [(a, b), (b, a)] {
            if let Some(link) = self.links.number(machine, peer) {
                let notices = self.dice.time(SILENCE);
                self.plan(notices, Happening::Broken { machine, peer, link });
            }
        }
        self.dial(a, b, back);
    }

    fn kill(&mut self, index: usize, back: Duration) {
        let machine = &mut self.machines[index];
        if !machine.is_alive {
            return;
        }
        machine.is_alive = false;
        machine.frozen_until = self.now;
        self.ledger.died(self.now, index);
        for peer in (0..self.machines.len()).filter(|peer| *peer != index) {
            self.links.cut(index, peer);
            self.links.forget(index, peer);
            if let Some(link) = self.links.number(peer, index) {
                let notices = self.dice.time(SILENCE);
                self.plan(notices, Happening::Broken { machine: peer, peer: index, link });
            }
        }
        self.plan(back, Happening::Fault(Fault::Start(index)));
    }

    fn freeze(&mut self, index: usize, time: Duration) {
        let until = self.now + time;
        if !self.machines[index].is_alive || self.machines[index].frozen_until > self.now {
            return;
        }
        self.machines[index].frozen_until = until;
        for peer in (0..self.machines.len()).filter(|peer| *peer != index && time > SILENCE) {
            for (machine, peer) in [(peer, index), (index, peer)] {
                if let Some(link) = self.links.number(machine, peer) {
                    self.plan(SILENCE, Happening::Broken { machine, peer, link });
                }
            }
            self.dial(index, peer, time + self.dice.time(DIAL));
        }
    }

    /// A machine has noticed that a link is broken: nothing of what the other one has will come, and
    /// nobody will ask for what is here.
    pub(super) fn broken(&mut self, index: usize, peer: usize) {
        self.links.cut(index, peer);
        self.links.forget(index, peer);
        let given = self.machines[index].given.iter().filter(|(_, worker)| **worker == peer);
        let given: Vec<_> = given.map(|(attempt, _)| *attempt).collect();
        for attempt in given {
            self.machines[index].given.remove(&attempt);
            // Either news may come first.
            if self.dice.one_in(2) {
                self.apply(index, Event::Lost(attempt, "the link broke".into()));
            }
        }
        let (worker, reason) = (self.name(peer), "the link broke".to_owned());
        self.apply(index, Event::WorkerLeft { worker, reason });
        // What was given to it in between was lost with the rest.
        self.machines[index].given.retain(|_, worker| *worker != peer);
        self.apply_grants(index, grants::Event::Gone(id(peer)));
        let epoch = self.machines[index].epoch;
        let stays = self.machines[index].stays.iter().filter(|(_, stay)| stay.owner == peer);
        for stay in stays.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.plan(STOP, Happening::Over { machine: index, epoch, stay, code: Some(137) });
        }
    }
}
