//! [`Census`]: which machines there are and which of them count, from their links, what they tell, and time.
//!
//! What is promised: a machine that counts goes on doing so for a grace period after its link is lost, so
//! that nothing is copied elsewhere because a machine is started anew; one that is known from an earlier run
//! of this node is lost since the start, so that a node that comes back alone does not take itself for the
//! whole farm. A change is told a second later, with whatever joined it, and not at all if it was undone
//! by then; nothing is told in the first seconds, in which most links are made. It is pure: time is an
//! argument, and what comes from others is bounded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::peer::MachineState;
use tokio::time::Instant;

use self::keepers::Keeper;
use super::roster::{Machine, Role, Roster};
use crate::peer::MachineId;

pub mod keepers;
#[cfg(test)]
mod tests;

/// Nothing is told for so long after the start.
const SETTLING: Duration = Duration::from_secs(3);

/// A machine that counts is expected back for so long after its link was lost: most links are made again after the
/// network failed for a moment.
const RETURN: Duration = Duration::from_secs(5);

/// A change is told so long after it happened.
const JOINING: Duration = Duration::from_secs(1);

/// Machines that are known at most, this one included: as many as there can be peers, and those of the
/// file.
const MOST_MACHINES: usize = 512;

/// Bytes of disk that are one share of the copies.
const SHARE: u64 = 256 << 20;

/// Shares of one machine at most.
const MOST_SHARES: u64 = 1 << 24;

/// Share of the copies that a machine takes which offers so many bytes of disk: at least one.
pub fn weight(budget_bytes: u64) -> u32 {
    let shares = (budget_bytes / SHARE).clamp(1, MOST_SHARES);
    u32::try_from(shares).expect("invariant: it is at most MOST_SHARES")
}

/// What a machine tells of itself, as far as it matters who counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// What it is for copies.
    pub role: Role,
    /// Share of the copies that it takes; 0 for none.
    pub weight: u32,
}

/// This machine, and the rules.
#[derive(Clone, Debug)]
pub struct Settings {
    /// This machine.
    pub me: MachineId,
    /// Its name.
    pub name: Arc<str>,
    /// The start of its node.
    pub boot_epoch: u64,
    /// Share of the copies that it takes; 0 for none.
    pub weight: u32,
    /// Copies there should be of each entry.
    pub copies: usize,
    /// How long a machine that is lost counts.
    pub repair_after: Duration,
}

/// See the module.
#[derive(Debug)]
pub struct Census {
    settings: Settings,
    role: Role,
    machines: BTreeMap<MachineId, Known>,
    started: Instant,
    told: Option<Arc<Roster>>,
    /// When it was noticed first that what was told last is not so any more.
    changed: Option<Instant>,
}

/// Another machine.
#[derive(Clone, Debug)]
struct Known {
    name: Arc<str>,
    offer: Offer,
    boot_epoch: u64,
    /// Since when there is no link to it; `None` while there is one.
    lost: Option<Instant>,
}

// === impl Offer ===

impl Offer {
    /// Of a machine that has told nothing.
    const NONE: Self = Self { role: Role::Counts, weight: 0 };

    /// What `state` says.
    pub fn of(state: &MachineState) -> Self {
        let role = match state {
            MachineState { leaving: true, .. } => Role::Leaving,
            MachineState { transient: true, .. } => Role::Transient,
            _ => Role::Counts,
        };
        let keeps_copies = state.keeps_copies == Some(true);
        Self { role, weight: if keeps_copies { weight(state.budget_bytes) } else { 0 } }
    }

    fn counts(self) -> bool {
        self.role == Role::Counts && self.weight > 0
    }
}

// === impl Census ===

impl Census {
    /// Of this machine and those that counted in an earlier run of its node, at the start of this one.
    pub fn new(settings: Settings, keepers: Vec<Keeper>, now: Instant) -> Self {
        let known = |keeper: Keeper| {
            let offer = Offer { role: Role::Counts, weight: keeper.weight };
            (keeper.id, Known { name: keeper.name, offer, boot_epoch: keeper.boot_epoch, lost: Some(now) })
        };
        let machines = keepers.into_iter().take(MOST_MACHINES).map(known);
        let machines = machines.filter(|(id, _)| *id != settings.me).collect();
        Self { settings, role: Role::Counts, machines, started: now, told: None, changed: Some(now) }
    }

    /// There is a link to a machine, in that start of its node. It offers what it offered last, until it
    /// tells.
    pub fn linked(&mut self, now: Instant, id: MachineId, name: Arc<str>, boot_epoch: u64) {
        if id == self.settings.me || !self.machines.contains_key(&id) && self.is_full() {
            return;
        }
        let offer = self.machines.get(&id).map_or(Offer::NONE, |known| known.offer);
        self.machines.insert(id, Known { name, offer, boot_epoch, lost: None });
        self.compare(now);
    }

    /// A machine there is a link to tells what it offers.
    pub fn told(&mut self, now: Instant, id: MachineId, offer: Offer) {
        if let Some(known) = self.machines.get_mut(&id).filter(|known| known.lost.is_none()) {
            known.offer = offer;
            self.compare(now);
        }
    }

    /// The link to a machine is over.
    pub fn lost(&mut self, now: Instant, id: MachineId) {
        if let Some(known) = self.machines.get_mut(&id) {
            known.lost.get_or_insert(now);
            self.compare(now);
        }
    }

    /// What this machine is for copies from now on.
    pub fn set_role(&mut self, now: Instant, role: Role) {
        self.role = role;
        self.compare(now);
    }

    /// Forgets those whose grace period is over. What is to be told now, if anything: who there is.
    pub fn poll(&mut self, now: Instant) -> Option<Arc<Roster>> {
        let grace = self.settings.repair_after;
        self.machines.retain(|_, known| known.end(grace).is_none_or(|end| now < end));
        self.compare(now);
        if self.due()? > now {
            return None;
        }
        let roster = Arc::new(self.roster());
        self.changed = None;
        self.told = Some(Arc::clone(&roster));
        Some(roster)
    }

    /// When there is something to [`poll`](Self::poll) for, if nothing happens before.
    pub fn next(&self) -> Option<Instant> {
        let ends = self.machines.values().filter_map(|known| known.end(self.settings.repair_after));
        ends.chain(self.due()).min()
    }

    /// Whether what was told last is so.
    pub fn is_told(&self) -> bool {
        self.told.is_some() && self.changed.is_none()
    }

    /// Who there is at this moment, told or not.
    pub fn roster(&self) -> Roster {
        let Settings { me, name, boot_epoch, weight, copies, .. } = &self.settings;
        let own = Machine {
            id: *me,
            name: Arc::clone(name),
            weight: *weight,
            role: self.role,
            is_linked: true,
            boot_epoch: *boot_epoch,
        };
        let others = self.machines.iter().map(|(id, known)| Machine {
            id: *id,
            name: Arc::clone(&known.name),
            weight: known.offer.weight,
            role: known.offer.role,
            is_linked: known.lost.is_none(),
            boot_epoch: known.boot_epoch,
        });
        let roster = Roster::new(*me, std::iter::once(own).chain(others).collect(), *copies);
        let counting = self.machines.values().filter(|known| known.offer.counts());
        roster.expecting(counting.filter_map(|known| known.lost).max().map(|lost| lost + RETURN))
    }

    /// The other machines that count, to be known in the next run of the node.
    pub fn keepers(&self) -> Vec<Keeper> {
        let counting = self.machines.iter().filter(|(_, known)| known.offer.counts());
        let keeper = |(id, known): (&MachineId, &Known)| Keeper {
            id: *id,
            name: Arc::clone(&known.name),
            boot_epoch: known.boot_epoch,
            weight: known.offer.weight,
        };
        counting.map(keeper).collect()
    }

    /// Makes room for one more, if there is none, in place of one that is lost.
    fn is_full(&mut self) -> bool {
        if self.machines.len() + 1 < MOST_MACHINES {
            return false;
        }
        let lost = self.machines.iter().filter_map(|(id, known)| Some((known.lost?, *id)));
        let Some((_, oldest)) = lost.min() else { return true };
        self.machines.remove(&oldest);
        false
    }

    /// Notes whether what was told last is still so.
    fn compare(&mut self, now: Instant) {
        let is_so = self.told.as_ref().is_some_and(|told| **told == self.roster());
        self.changed = if is_so { None } else { Some(self.changed.unwrap_or(now)) };
    }

    fn due(&self) -> Option<Instant> {
        Some((self.changed? + JOINING).max(self.started + SETTLING))
    }
}

// === impl Known ===

impl Known {
    /// When it is not known any more, if its link does not come back.
    fn end(&self, grace: Duration) -> Option<Instant> {
        let lost = self.lost?;
        // What it has does not count: nobody need wait for it.
        if !self.offer.counts() {
            return Some(lost);
        }
        lost.checked_add(grace)
    }
}
