//! What a change of the farm means, and which entries are to be looked at for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::time::Instant;

use super::model::{Item, Kind, Stage};
use super::peer::Peer;
use super::{Owed, is_alone};
use crate::cas::entry::Standing;
use crate::peer::MachineId;
use crate::replication::copies::Entry;
use crate::replication::roster::{Machine, Roster};

/// What is to become of an entry that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Need {
    Nothing,
    /// It may be the only one.
    Sole,
    /// It was complete, and the farm has changed since.
    Affected,
    /// Nothing speaks against it, but it is asked for.
    Comparison,
}

// === impl Owed ===

impl Owed {
    pub(super) fn change(&mut self, now: Instant, roster: Arc<Roster>) {
        let last = self.roster.replace(roster.clone());
        let before = last.as_deref();
        self.link(now, before, &roster);
        if before.is_some_and(|before| !matters(before, &roster)) {
            return;
        }
        let news: BTreeSet<MachineId> = new_machines(before, &roster).collect();
        let last = last.clone().map(|last| (self.number, last));
        self.number += 1;
        // What was complete in that farm is not told in this one: each finds out itself.
        self.peers.values_mut().for_each(Peer::tell_nothing);
        self.changed.retain(|id, _| roster.machine(*id).is_some());
        self.changed.extend(news.iter().map(|id| (*id, self.number)));
        self.ranges.renumber(last, is_alone(&roster));
        self.ranges.compare_from(now, self.limits.compare, is_alone(&roster));
        if is_alone(&roster) {
            self.used.clear();
        }
        for serial in self.items.keys().copied().collect::<Vec<_>>() {
            self.plan_again(now, serial, &roster, &news);
        }
        self.peers.retain(|id, peer| roster.machine(*id).is_some() || !peer.is_idle());
    }

    /// Notes who is there.
    fn link(&mut self, now: Instant, before: Option<&Roster>, roster: &Roster) {
        for (_, peer) in self.peers.iter_mut().filter(|(id, _)| roster.machine(**id).is_none()) {
            peer.is_linked = false;
            peer.tell_nothing();
        }
        for machine in roster.machines().iter().filter(|machine| machine.id != roster.me()) {
            let last = before.and_then(|before| before.machine(machine.id));
            let was_linked = last.is_some_and(|last| last.is_linked && last.boot_epoch == machine.boot_epoch);
            let peer = self.peers.entry(machine.id).or_default();
            peer.is_linked = machine.is_linked;
            if machine.is_linked && !was_linked {
                peer.answered();
                self.ranges.unpark();
                if peer.has_to_tell() {
                    self.settle_at.get_or_insert(now);
                }
            }
        }
        self.moves = self.limits.walking;
    }

    /// Chooses again who is to have an item; what `news` said before is not believed.
    fn plan_again(&mut self, now: Instant, serial: u64, roster: &Roster, news: &BTreeSet<MachineId>) {
        let Some(mut item) = self.lift(serial) else { return };
        let before = item.targets.clone();
        let (key, first) = (item.key, item.first_stage());
        for target in item.targets.iter_mut().filter(|target| news.contains(&target.machine)) {
            target.stage = if target.stage.is_in_flight() { Stage::Held } else { first };
        }
        item.plan(roster, |machine, stage| self.begin(machine, &key, stage));
        let mut is_affected = before.len() != item.targets.len();
        for target in &before {
            let is_kept = item.target(target.machine).is_some_and(|kept| kept.stage == target.stage);
            is_affected |= !is_kept;
            if let Some(peer) = self.peers.get_mut(&target.machine).filter(|_| !is_kept) {
                peer.disregard(&key);
            }
        }
        if is_affected {
            self.found_sole(&mut item);
        }
        self.lay(now, serial, item);
    }

    // --- entries of the store ---

    pub(super) fn walked(&mut self, now: Instant, range: u8, entries: &[Entry]) {
        let Some(is_comparing) = self.ranges.end(range) else { return };
        let Some(roster) = self.roster.clone() else { return };
        for entry in entries.iter().filter(|entry| entry.key.range() == range) {
            if self.serials.contains_key(&entry.key) {
                continue;
            }
            match self.need(&roster, entry, is_comparing) {
                Need::Nothing => {}
                need => self.take_up(now, &roster, entry, need),
            }
        }
        let farm = (!is_alone(&roster)).then_some((self.number, roster));
        self.ranges.settle(range, farm);
    }

    fn need(&self, roster: &Roster, entry: &Entry, is_comparing: bool) -> Need {
        if is_alone(roster) {
            let is_sole = entry.standing == Standing::Sole;
            return if is_sole { Need::Nothing } else { Need::Affected };
        }
        let farms = &self.ranges.get(entry.key.range()).farms;
        if entry.standing == Standing::Sole {
            Need::Sole
        } else if self.is_affected(farms, roster, entry) {
            Need::Affected
        } else if farms.is_empty() || is_comparing {
            Need::Comparison
        } else {
            Need::Nothing
        }
    }

    /// Whether the machines that are to have an entry are others than in one of `farms`, or have been away
    /// since, or this one has it in place of one of them.
    fn is_affected(&self, farms: &[(u64, Arc<Roster>)], roster: &Roster, entry: &Entry) -> bool {
        let Some((first, _)) = farms.first().filter(|(first, _)| *first != self.number) else { return false };
        let key = &entry.key;
        let holders = roster.holders(key);
        let is_as_in = |farm: &Roster| {
            let before = farm.holders(key);
            before.iter().len() == holders.iter().len() && holders.iter().all(|id| before.contains(id))
        };
        let is_in_place = entry.standing == Standing::Counted && !holders.contains(roster.me());
        let is_new = |id: MachineId| self.changed.get(&id).is_some_and(|changed| changed > first);
        is_in_place || !farms.iter().all(|(_, farm)| is_as_in(farm)) || holders.iter().any(is_new)
    }

    fn take_up(&mut self, now: Instant, roster: &Roster, entry: &Entry, need: Need) {
        let mut item = Item {
            key: entry.key,
            bytes: entry.bytes,
            kind: Kind::Repair,
            since: now,
            is_sole: entry.standing == Standing::Sole,
            is_told: need != Need::Affected,
            is_mine: false,
            is_short: false,
            confirmed: 0,
            targets: Vec::new(),
        };
        if need == Need::Affected {
            self.found_sole(&mut item);
        }
        item.plan(roster, |machine, stage| self.begin(machine, &entry.key, stage));
        self.put(now, item);
    }

    /// Takes up what was used, as much as there is room for.
    pub(super) fn take_up_used(&mut self, now: Instant) {
        let Some(roster) = self.roster.clone() else { return };
        while self.items.len() < self.limits.walking {
            let Some(key) = self.used.pop_front() else { return };
            if self.serials.contains_key(&key) {
                continue;
            }
            let mut item = Item {
                key,
                // Of a result that is lacking, the store tells.
                bytes: key.digest().map_or(0, |digest| digest.size()),
                kind: Kind::Use,
                since: now,
                is_sole: false,
                is_told: false,
                is_mine: false,
                is_short: false,
                confirmed: 0,
                targets: Vec::new(),
            };
            item.plan(&roster, |machine, stage| self.begin(machine, &key, stage));
            self.put(now, item);
        }
    }

    /// Leaves items in the store that wait only for machines that are away.
    pub(super) fn park_waiting(&mut self) {
        // Not before so much has changed that it is worth while to look at all of them.
        if self.moves < self.limits.walking / 4 {
            return;
        }
        self.moves = 0;
        let is_here = |id: &MachineId| self.peers.get(id).is_some_and(|peer| peer.is_linked);
        let waiting = self.items.iter().filter(|(_, item)| item.pending().all(|it| !is_here(&it.machine)));
        for key in waiting.map(|(_, item)| item.key).collect::<Vec<_>>() {
            self.forget(&key);
            self.mark(key, Standing::Sole);
            self.ranges.park(key.range());
        }
    }
}

/// Whether copies may have to be elsewhere than before, or may be lost.
fn matters(before: &Roster, after: &Roster) -> bool {
    let what = |machine: &Machine| (machine.id, machine.weight, machine.role, machine.boot_epoch);
    // One that comes and counts for nothing changes nothing.
    let new = |machine: &&Machine| machine.counts() || before.machine(machine.id).is_some();
    let after_all = after.machines().iter().filter(new).map(what);
    before.copies() != after.copies() || !before.machines().iter().map(what).eq(after_all)
}

/// Those that were started anew, or came to count anew; it may be this one.
fn new_machines<'a>(
    before: Option<&'a Roster>,
    after: &'a Roster,
) -> impl Iterator<Item = MachineId> + use<'a> {
    let is_new = move |machine: &&Machine| match before.and_then(|before| before.machine(machine.id)) {
        Some(last) => last.boot_epoch != machine.boot_epoch || !last.counts(),
        None => true,
    };
    after
        .machines()
        .iter()
        .filter(|machine| machine.id != after.me())
        .filter(is_new)
        .map(|machine| machine.id)
}
