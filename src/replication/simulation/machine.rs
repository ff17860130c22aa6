//! [`Machine`]: a store, what is owed of it, and what it knows of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::store::Store;
use super::{Setup, Time};
use crate::cas::entry::EntryKey;
use crate::peer::MachineId;
use crate::replication::owed::{Effect, Owed};
use crate::replication::roster::{self, Role, Roster};

/// A machine.
#[derive(Debug)]
pub(super) struct Machine {
    pub id: MachineId,
    /// Number of its start.
    pub epoch: u64,
    pub is_up: bool,
    /// It never comes back.
    pub is_gone: bool,
    pub frozen_until: Time,
    pub role: Role,
    pub weight: u32,
    pub store: Store,
    pub owed: Owed,
    /// What it knows of the others, by their numbers; of those it has forgotten, nothing.
    pub known: BTreeMap<usize, Known>,
    pub roster: Option<Arc<Roster>>,
    pub is_roster_planned: bool,
    pub started_at: Time,
    /// What it asked others and waits for, by number of the request.
    pub calls: BTreeMap<u64, Call>,
    /// When the tick is due that is planned.
    pub tick_at: Option<Time>,
}

/// What a machine knows of another.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub id: MachineId,
    pub epoch: u64,
    pub role: Role,
    pub weight: u32,
    /// Number of the link, while there is one.
    pub link: Option<u64>,
    /// Since when there is none.
    pub away_since: Time,
}

/// A request that was not answered yet.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub to: usize,
    pub link: u64,
    pub effect: Effect,
}

// === impl Machine ===

impl Machine {
    pub(super) fn new(number: usize, room: u64, setup: &Setup) -> Self {
        let mut bytes = [0; 32];
        let dice = super::Dice::new(setup.seed ^ (number as u64) << 32);
        for part in bytes.chunks_mut(8) {
            part.copy_from_slice(&dice.number().to_le_bytes());
        }
        Self {
            id: MachineId::new(bytes),
            epoch: 0,
            is_up: false,
            is_gone: false,
            frozen_until: Time::ZERO,
            role: Role::Counts,
            weight: 1 + dice.below(4) as u32,
            store: Store::new(room),
            owed: Owed::new(setup.limits.clone()),
            known: BTreeMap::new(),
            roster: None,
            is_roster_planned: false,
            started_at: Time::ZERO,
            calls: BTreeMap::new(),
            tick_at: None,
        }
    }

    /// Begins anew with what is on disk.
    pub(super) fn start(&mut self, now: Time, setup: &Setup) {
        self.epoch += 1;
        self.is_up = true;
        self.frozen_until = now;
        self.started_at = now;
        self.owed = Owed::new(setup.limits.clone());
        self.roster = None;
        self.is_roster_planned = false;
        self.calls.clear();
        self.tick_at = None;
        for known in self.known.values_mut() {
            (known.link, known.away_since) = (None, now);
        }
        for kept in self.store.entries.values_mut() {
            kept.standing = crate::cas::entry::Standing::Sole;
        }
    }

    /// Whether it takes part.
    pub(super) fn is_running(&self, now: Time) -> bool {
        self.is_up && self.frozen_until <= now
    }

    pub(super) fn counts(&self) -> bool {
        self.is_up && self.role == Role::Counts
    }

    /// Whether copies on it are not lost.
    pub(super) fn keeps(&self) -> bool {
        !self.is_gone && self.role == Role::Counts
    }

    pub(super) fn link_to(&self, other: usize) -> Option<u64> {
        self.known.get(&other)?.link
    }

    pub(super) fn number_of(&self, id: MachineId) -> Option<usize> {
        self.known.iter().find(|(_, known)| known.id == id).map(|(number, _)| *number)
    }

    /// The farm as it looks from here.
    pub(super) fn look_around(&self, now: Time, setup: &Setup) -> Roster {
        let machine = |id, weight, role, is_linked, boot_epoch| roster::Machine {
            id,
            name: "".into(),
            weight,
            role,
            is_linked,
            boot_epoch,
        };
        let is_near = |known: &&Known| known.link.is_some() || now < known.away_since + setup.grace;
        let others = self.known.values().filter(is_near);
        let others = others.map(|it| machine(it.id, it.weight, it.role, it.link.is_some(), it.epoch));
        let me = machine(self.id, self.weight, self.role, true, self.epoch);
        Roster::new(self.id, others.chain([me]).collect(), setup.copies)
    }

    /// Whether `key` belongs here, or may do so as long as the others are not known.
    pub(super) fn is_holder(&self, key: &EntryKey) -> bool {
        self.roster.as_deref().is_none_or(|roster| roster.is_holder(self.id, key))
    }

    /// What others must agree on with it, once it knows them.
    pub(super) fn fingerprint(&self) -> Option<u64> {
        self.roster.as_deref().map(Roster::fingerprint)
    }

    /// What of it is on its way to another machine.
    pub(super) fn in_flight(&self, to: usize) -> impl Iterator<Item = &Effect> {
        self.calls.values().filter(move |call| call.to == to).map(|call| &call.effect)
    }

    /// Checks what is on its way against the limits.
    pub(super) fn check_in_flight(&self, to: usize, setup: &Setup) {
        let (mut asks, mut gives, mut sends, mut keys) = (0, 0, 0, BTreeSet::new());
        for effect in self.in_flight(to) {
            match effect {
                Effect::Ask { keys: asked, .. } => {
                    asks += 1;
                    assert!(asked.iter().all(|key| keys.insert(*key)), "twice on its way");
                }
                Effect::Give { keys: given, .. } => {
                    gives += 1;
                    assert!(given.iter().all(|key| keys.insert(*key)), "twice on its way");
                }
                Effect::Send { key, .. } => {
                    sends += 1;
                    assert!(keys.insert(*key), "twice on its way");
                }
                _ => {}
            }
        }
        assert!(asks <= 1 && gives <= setup.limits.gives && sends <= setup.limits.sends);
    }
}
