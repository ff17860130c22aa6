//! What goes wrong in a farm, and how it is put right.

use std::time::Duration;

use super::{Event, Farm, Happening, Message, Role, Standing};
use crate::replication::roster::Roster;

// === impl Farm ===

impl Farm {
    fn others(&self, index: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.machines.len()).filter(move |other| *other != index)
    }

    /// A machine starts and looks for the others.
    pub(super) fn start(&mut self, index: usize) {
        if self.machines[index].is_up || self.machines[index].is_gone {
            return;
        }
        self.machines[index].start(self.now, &self.setup);
        let epoch = self.machines[index].epoch;
        let grace = self.setup.grace + Duration::from_millis(1);
        self.plan(grace, Happening::Roster { machine: index, epoch });
        self.noticed(index);
        for other in self.others(index) {
            self.dial(index, other);
        }
    }

    /// A machine is killed, with all it knows, and starts again after a while if at all.
    pub(super) fn kill(&mut self, index: usize, back: Option<Duration>) {
        if !self.machines[index].is_up {
            return;
        }
        for other in self.others(index) {
            self.sever(index, other);
        }
        self.machines[index].is_up = false;
        if let Some(back) = back {
            self.plan(back, Happening::Start { machine: index });
        }
    }

    /// A machine is lost with its disk.
    pub(super) fn lose(&mut self, index: usize) {
        self.kill(index, None);
        self.machines[index].is_gone = true;
    }

    /// A machine stands still for a while.
    pub(super) fn freeze(&mut self, index: usize, time: Duration) {
        if !self.machines[index].is_running(self.now) {
            return;
        }
        self.machines[index].frozen_until = self.now + time;
        if time < Duration::from_secs(2) {
            return;
        }
        for other in self.others(index) {
            self.sever(index, other);
            let after = time + Duration::from_millis(10);
            self.plan(after, Happening::Linked { machines: (index, other) });
        }
    }

    /// Two machines cannot reach each other any more.
    pub(super) fn cut(&mut self, a: usize, b: usize) {
        if a != b && self.cuts.insert((a.min(b), a.max(b))) {
            self.sever(a, b);
        }
    }

    pub(super) fn mend(&mut self, a: usize, b: usize) {
        if self.cuts.remove(&(a.min(b), a.max(b))) {
            self.dial(a, b);
        }
    }

    /// A machine is something else for copies, and says so.
    pub(super) fn become_(&mut self, index: usize, role: Role) {
        self.machines[index].role = role;
        if !self.machines[index].is_up {
            return;
        }
        self.noticed(index);
        let weight = self.machines[index].weight;
        for other in self.others(index) {
            if let Some(link) = self.machines[index].link_to(other) {
                self.send(index, other, link, Message::State { role, weight });
            }
        }
    }

    /// A machine that is about to leave goes, if it says that nothing would be lost with it.
    pub(super) fn leave_if_safe(&mut self, index: usize) -> bool {
        let machine = &self.machines[index];
        let knows = |roster: &Roster| {
            let is_leaving = roster.machine(machine.id).is_some_and(|me| me.role == Role::Leaving);
            // One that sees few others can only bring what it has to these.
            is_leaving && roster.copies() >= self.wanted()
        };
        let is_safe = machine.is_running(self.now)
            && machine.roster.as_deref().is_some_and(knows)
            && machine.owed.is_settled()
            && machine.store.number_of(Standing::Sole) == 0;
        if is_safe {
            self.lose(index);
        }
        is_safe
    }

    /// A machine finds an entry damaged and fetches it from another.
    pub(super) fn damage(&mut self, index: usize, at: usize) {
        if !self.machines[index].is_running(self.now) {
            return;
        }
        let key = self.machines[index].store.entries.keys().nth(at).copied();
        if let Some(key) = key {
            self.machines[index].store.remove(&key);
            self.tell(index, Event::Gone(vec![key]));
            self.heal(index, key);
        }
    }
}
