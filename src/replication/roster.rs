//! [`Roster`]: the machines of the farm at one moment, as far as copies are concerned.
//!
//! A machine *counts* when it offers disk, stays (no laptop on battery, not about to leave), and is here
//! or was not away for longer than the grace period. Others cache what they use, and what they alone have
//! is brought to those that count.

use std::sync::Arc;

use tokio::time::Instant;

use super::placement::{Placement, Places, mix};
use crate::cas::entry::EntryKey;
use crate::peer::MachineId;

/// What a machine is for copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Copies on it count.
    Counts,
    /// It may go at any moment: it caches, and copies on it do not count.
    Transient,
    /// It is about to leave: what it has is brought elsewhere.
    Leaving,
}

/// A machine of the farm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Who it is.
    pub id: MachineId,
    /// What it is called, for people.
    pub name: Arc<str>,
    /// Share of the copies that it takes, by its disk; 0 for none.
    pub weight: u32,
    /// What it is for copies.
    pub role: Role,
    /// Whether there is a link to it; true for this machine.
    pub is_linked: bool,
    /// The start of its node that is known; what it said it had in an earlier one is asked again.
    pub boot_epoch: u64,
}

/// The machines of the farm at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    me: MachineId,
    machines: Vec<Machine>,
    placement: Placement,
    copies: usize,
    returning: Option<Instant>,
}

// === impl Machine ===

impl Machine {
    /// Whether copies on it count.
    pub fn counts(&self) -> bool {
        self.role == Role::Counts && self.weight > 0
    }
}

// === impl Roster ===

impl Roster {
    /// Of `machines`, one of which is `me`, with so many copies of each entry where there are as many that
    /// count. Those that are away for longer than the grace period are left out by the caller.
    pub fn new(me: MachineId, mut machines: Vec<Machine>, copies: usize) -> Self {
        machines.sort_by_key(|machine| machine.id);
        machines.dedup_by_key(|machine| machine.id);
        let counting = machines.iter().filter(|machine| machine.counts());
        let placement = Placement::new(counting.map(|machine| (machine.id, machine.weight)));
        Self { me, machines, placement, copies, returning: None }
    }

    /// The same, some machines of which lost their links so lately that they are expected back until then.
    pub fn expecting(self, returning: Option<Instant>) -> Self {
        Self { returning, ..self }
    }

    /// Until when machines that lost their links lately are expected back, if there are any.
    pub fn returning(&self) -> Option<Instant> {
        self.returning
    }

    /// This machine.
    pub fn me(&self) -> MachineId {
        self.me
    }

    /// All machines, in the order of their ids.
    pub fn machines(&self) -> &[Machine] {
        &self.machines
    }

    /// The machine with that id.
    pub fn machine(&self, id: MachineId) -> Option<&Machine> {
        let at = self.machines.binary_search_by_key(&id, |machine| machine.id).ok()?;
        self.machines.get(at)
    }

    /// Whether there is a link to `id`, or it is this machine.
    pub fn is_linked(&self, id: MachineId) -> bool {
        self.machine(id).is_some_and(|machine| machine.is_linked)
    }

    /// Copies there should be of each entry: as many as are set, or as there are machines that count.
    pub fn copies(&self) -> usize {
        self.copies.min(self.placement.len())
    }

    /// The machines on which `key` belongs: [`copies`](Self::copies) many, away or not.
    pub fn holders(&self, key: &EntryKey) -> Places<'_> {
        self.placement.places(key, self.copies())
    }

    /// The machines that count for `key`, `wanted` at most, the first choice first: holders, then those that
    /// take over from one that is full or away.
    pub fn places(&self, key: &EntryKey, wanted: usize) -> Places<'_> {
        self.placement.places(key, wanted)
    }

    /// Whether `id` should have `key`.
    pub fn is_holder(&self, id: MachineId, key: &EntryKey) -> bool {
        self.holders(key).contains(id)
    }

    /// A number that differs where machines would not agree on who has which entry: those that count, their
    /// shares, their starts, and the number of copies.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = self.copies() as u64;
        for machine in self.machines.iter().filter(|machine| machine.counts()) {
            let (parts, _) = machine.id.bytes().as_chunks::<8>();
            let id = parts.iter().map(|part| u64::from_le_bytes(*part));
            for number in id.chain([u64::from(machine.weight), machine.boot_epoch]) {
                hash = mix(hash.rotate_left(1) ^ number);
            }
        }
        hash
    }

    /// Other machines there is a link to.
    pub fn others(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|machine| machine.is_linked && machine.id != self.me)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_of_what_machines_must_agree_on() {
        let machine = |number: u8, role| Machine {
            id: MachineId::new([number; 32]),
            name: "".into(),
            weight: 2,
            role,
            is_linked: true,
            boot_epoch: 1,
        };
        let all = || (0..3).map(|number| machine(number, Role::Counts)).collect::<Vec<_>>();
        let of = |me: u8, machines| Roster::new(MachineId::new([me; 32]), machines, 2).fingerprint();
        let mut seen_otherwise = all();
        seen_otherwise[2].is_linked = false;
        seen_otherwise.push(machine(3, Role::Transient));
        assert_eq!(of(0, all()), of(1, seen_otherwise));
        let changes: [fn(&mut Vec<Machine>); 4] = [
            |machines| machines[1].weight = 3,
            |machines| machines[1].boot_epoch = 2,
            |machines| machines[1].role = Role::Leaving,
            |machines| drop(machines.pop()),
        ];
        for change in changes {
            let mut machines = all();
            change(&mut machines);
            assert_ne!(of(0, all()), of(0, machines));
        }
    }
}
