//! What is done next.

use tokio::time::Instant;

use super::Owed;
use super::model::{Effect, Kind, Stage};
use super::peer::{Class, Request};
use crate::cas::entry::EntryKey;
use crate::peer::MachineId;
use crate::replication::copies::{BATCH_BYTES, BATCH_ENTRIES, MOST_KEYS};

// === impl Owed ===

impl Owed {
    pub(super) fn dispatch(&mut self, now: Instant) {
        self.take_up_used(now);
        for peer in self.peers.values_mut() {
            peer.tick(now);
        }
        for machine in self.peers.keys().copied().collect::<Vec<_>>() {
            self.ask(machine);
            while self.give(machine) {}
            while self.send(machine) {}
        }
        self.walk();
    }

    fn ask(&mut self, machine: MachineId) {
        let Some((queue, extend)) = self.peers.get(&machine).and_then(|peer| peer.next_asks()) else {
            return;
        };
        let serials: Vec<u64> = queue.iter().take(MOST_KEYS).map(|(_, _, serial)| *serial).collect();
        let keys = self.take_off(machine, Request::Ask, &serials, Stage::Asking);
        self.effects.push(Effect::Ask { machine, keys, extend });
    }

    fn give(&mut self, machine: MachineId) -> bool {
        let queue = self.peers.get(&machine).and_then(|peer| peer.next_gives(&self.limits));
        let Some(queue) = queue else { return false };
        let (mut bytes, mut serials) = (0, Vec::new());
        for (_, _, serial) in queue.iter().take(BATCH_ENTRIES) {
            bytes += self.items[serial].bytes;
            if bytes > BATCH_BYTES && !serials.is_empty() {
                break;
            }
            serials.push(*serial);
        }
        let request = Request::Give(self.class_of(&serials));
        let keys = self.take_off(machine, request, &serials, Stage::Giving);
        self.effects.push(Effect::Give { machine, keys });
        true
    }

    fn send(&mut self, machine: MachineId) -> bool {
        let queue = self.peers.get(&machine).and_then(|peer| peer.next_sends(&self.limits));
        let Some((_, _, serial)) = queue.and_then(|queue| queue.first()).copied() else { return false };
        let request = Request::Send(self.class_of(&[serial]));
        let keys = self.take_off(machine, request, &[serial], Stage::Giving);
        self.effects.extend(keys.into_iter().map(|key| Effect::Send { machine, key }));
        true
    }

    fn class_of(&self, serials: &[u64]) -> Class {
        let first = serials.first().and_then(|serial| self.items.get(serial));
        first.map_or(Kind::Repair, |item| item.kind).into()
    }

    /// These are on their way to a machine now.
    fn take_off(
        &mut self,
        machine: MachineId,
        request: Request,
        serials: &[u64],
        stage: Stage,
    ) -> Vec<EntryKey> {
        let mut keys = Vec::with_capacity(serials.len());
        let Some(peer) = self.peers.get_mut(&machine) else { return keys };
        for serial in serials {
            let Some(item) = self.items.get_mut(serial) else { continue };
            let Some(target) = item.target(machine) else { continue };
            let was = std::mem::replace(&mut target.stage, stage);
            peer.dequeue(*serial, item, was);
            peer.enqueue(*serial, item, stage);
            keys.push(item.key);
        }
        peer.take_off(request, &keys);
        keys
    }

    fn walk(&mut self) {
        if !self.ranges.is_any_due(&self.limits) {
            return;
        }
        if self.items.len() >= self.limits.walking {
            self.park_waiting();
        }
        // A walk has to find what is known by now.
        self.flush_marks();
        while self.items.len() < self.limits.walking {
            let Some(range) = self.ranges.begin(&self.limits) else { return };
            self.effects.push(Effect::Walk(range));
        }
    }

    // --- what is complete ---

    pub(super) fn has_settled_to_tell(&self) -> bool {
        self.peers.values().any(|peer| peer.is_linked && peer.has_to_tell())
    }

    /// Tells machines what is complete, many at once.
    pub(super) fn flush_settled(&mut self, now: Instant) {
        let is_due = self.settle_at.is_some_and(|at| at <= now);
        if is_due {
            self.settle_at = None;
        }
        for (machine, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.is_linked) {
            if is_due || peer.settled.len() >= BATCH_ENTRIES {
                let settled = std::mem::take(&mut peer.settled);
                let parts = settled.chunks(MOST_KEYS).map(|keys| keys.to_vec());
                self.effects.extend(parts.map(|keys| Effect::Settle { machine: *machine, keys }));
            }
            if is_due || peer.looks.len() >= BATCH_ENTRIES {
                let looks = std::mem::take(&mut peer.looks);
                let parts = looks.chunks(MOST_KEYS).map(|keys| keys.to_vec());
                self.effects.extend(parts.map(|keys| Effect::Look { machine: *machine, keys }));
            }
        }
    }
}
