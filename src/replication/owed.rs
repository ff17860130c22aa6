//! [`Owed`]: what is to be asked and sent so that every entry has its copies. A pure state machine.
//!
//! [`Owed::apply`] takes one [`Event`] and the time, and returns the [`Effect`]s that somebody else performs.
//! No I/O, no clock, no randomness. Each machine cares for what it has itself: for each of its entries it makes
//! sure that the machines on which it belongs have it. It asks, gives what is lacking, and marks the entry when
//! all have it. New writes, repair after a loss, a machine that comes back or is about to leave, and the
//! comparison in the background are all this. What is promised, whatever the order of events:
//!
//! - every entry of the store is complete as far as is known, or under way, or in a range that is to be
//!   walked, now or later; or there is no other machine to give it to;
//! - an entry is marked as [`Standing::Counted`] or [`Standing::Spare`] only when all machines on which it belongs
//!   have said that they have it, in their present start;
//! - what is under way, and what is on its way to one machine, is bounded; a machine that is not there or does
//!   not answer delays nothing but its own copies;
//! - a farm in which nothing happens is silent, but for the comparison.
//!
//! A copy that nobody has room for stays with [`Standing::Sole`] and is tried again later. One that arrives
//! from another machine is no event here: the machine that gave it sees to it, and if that is lost, the
//! change of the roster has the range walked.
//!
//! A result that was replaced is given without asking, as long as it is remembered that it was. After a
//! restart, or when it had to wait in the store, a machine that has an older one is taken to have it.
//!
//! `model` has what goes in and comes out, `peer` what waits for one machine, `ranges` what of the store is to
//! be looked at, `changes` what a change of the farm means, `answers` what others say, `dispatch` what is done next.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::roster::Roster;
use crate::cas::entry::{EntryKey, Standing};
use crate::peer::MachineId;
use model::{Item, Kind, Outcome, Stage};
use peer::Peer;
use ranges::Ranges;

mod answers;
mod changes;
mod dispatch;
mod model;
mod peer;
mod ranges;
#[cfg(test)]
mod tests;

pub use model::{Amount, Effect, Event, Figures, Limits};

/// The state machine.
#[derive(Debug)]
pub struct Owed {
    limits: Limits,
    roster: Option<Arc<Roster>>,
    /// Counts the changes of the farm that matter.
    number: u64,
    /// The change since which a machine is what it is: what it said before is not believed.
    changed: BTreeMap<MachineId, u64>,
    /// What is under way, the oldest first.
    items: BTreeMap<u64, Item>,
    serials: HashMap<EntryKey, u64>,
    next_serial: u64,
    peers: BTreeMap<MachineId, Peer>,
    ranges: Ranges,
    /// What was used, and is not under way yet.
    used: VecDeque<EntryKey>,
    /// Changes of items since they were looked at for machines that are away.
    moves: usize,
    /// When machines are told of what is complete.
    settle_at: Option<Instant>,
    writes: Amount,
    repairs: Amount,
    unknown: u64,
    marks: BTreeMap<EntryKey, Standing>,
    effects: Vec<Effect>,
}

// === impl Owed ===

impl Owed {
    /// Nothing is known of the store or of other machines.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            roster: None,
            number: 0,
            changed: BTreeMap::new(),
            items: BTreeMap::new(),
            serials: HashMap::new(),
            next_serial: 0,
            peers: BTreeMap::new(),
            ranges: Ranges::new(),
            used: VecDeque::new(),
            moves: 0,
            settle_at: None,
            writes: Amount::default(),
            repairs: Amount::default(),
            unknown: 0,
            marks: BTreeMap::new(),
            effects: Vec::new(),
        }
    }

    /// Takes in what happened at `now`, and says what is to be done, in this order.
    pub fn apply(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        self.ranges.tick(now, self.limits.compare);
        match event {
            Event::Roster(roster) => self.change(now, roster),
            Event::Stored { key, bytes } => self.stored(now, key, bytes),
            Event::Used(keys) => self.used(keys),
            Event::Walked { range, entries } => self.walked(now, range, &entries),
            Event::Asked { machine, keys, present } => self.asked(now, machine, &keys, present),
            Event::Given { machine, taken, keys } => self.given(now, machine, &keys, taken),
            Event::Sent { machine, key, taken } => self.sent(now, machine, key, taken),
            Event::Gone(keys) => keys.iter().for_each(|key| self.forget(key)),
            Event::Missed(range) => self.ranges.look_again(range),
            Event::Tick => {}
        }
        self.dispatch(now);
        self.flush_settled(now);
        self.flush_marks();
        std::mem::take(&mut self.effects)
    }

    /// When [`Event::Tick`] is due, if nothing happens before.
    pub fn next(&self) -> Option<Instant> {
        let peers = self.peers.values().filter_map(Peer::due);
        let settle = self.settle_at.filter(|_| self.has_settled_to_tell());
        peers.chain(self.ranges.due()).chain(settle).min()
    }

    /// How far copies are behind.
    pub fn figures(&self, now: Instant) -> Figures {
        let linked = self.peers.values().filter(|peer| peer.is_linked);
        let due = linked.clone().map(Peer::due_writes).fold(Amount::default(), Amount::plus);
        let oldest = linked.filter_map(Peer::oldest_write).min();
        let since = oldest.and_then(|serial| self.items.get(&serial)).map(|item| item.since);
        Figures {
            writes: self.writes,
            due,
            repairs: self.repairs,
            unknown: self.unknown + self.used.len() as u64,
            parked: self.ranges.parked,
            lag: since.map(|since| now.saturating_duration_since(since)),
            compared: self.ranges.share(),
            refused: self.ranges.refused,
        }
    }

    /// Copies of this entry that are known, the one here included if it counts; `None` if it is not under way.
    /// That may be because it is complete, because nobody took it, or because it waits in the store: its
    /// standing tells.
    pub fn confirmed(&self, key: &EntryKey) -> Option<usize> {
        let item = self.items.get(self.serials.get(key)?)?;
        Some(usize::from(item.confirmed))
    }

    /// Whether nothing is under way or to be looked at, now or later. Until then the standing of entries may be
    /// that of a farm that has changed.
    pub fn is_settled(&self) -> bool {
        self.items.is_empty()
            && self.used.is_empty()
            && self.ranges.is_settled()
            && !self.has_settled_to_tell()
    }

    // --- coming in ---

    fn stored(&mut self, now: Instant, key: EntryKey, bytes: u64) {
        let Some(roster) = self.roster.clone().filter(|roster| !is_alone(roster)) else { return };
        if let Some(item) = self.serials.get(&key).and_then(|serial| self.items.get(serial)) {
            if item.kind == Kind::Write && !key.is_action() {
                return;
            }
            self.forget(&key);
        }
        if key.is_action() {
            // What is known may be of the one that was there before.
            self.mark(key, Standing::Sole);
        }
        let mut item = Item {
            key,
            bytes,
            kind: Kind::Write,
            since: now,
            is_sole: true,
            is_told: true,
            is_mine: false,
            is_short: false,
            confirmed: 0,
            targets: Vec::new(),
        };
        let is_unasked = bytes <= self.limits.unasked;
        let first = |stage| if is_unasked { Stage::Lacking } else { stage };
        item.plan(&roster, |machine, stage| self.begin(machine, &key, first(stage)));
        self.put(now, item);
    }

    fn used(&mut self, keys: Vec<EntryKey>) {
        if self.roster.as_deref().is_none_or(is_alone) {
            return;
        }
        // What is more is found in the next comparison.
        let room = (2 * self.limits.entries).saturating_sub(self.used.len());
        self.used.extend(keys.into_iter().take(room));
    }

    // --- what is under way ---

    /// Where the copy of `key` on a machine begins: with the answer to what is on its way there.
    fn begin(&self, machine: MachineId, key: &EntryKey, stage: Stage) -> Stage {
        let is_busy = self.peers.get(&machine).is_some_and(|peer| peer.is_busy_with(key));
        if is_busy { Stage::Held } else { stage }
    }

    /// Takes up an entry of which nothing was under way, or leaves it in the store if that is too much.
    fn put(&mut self, now: Instant, item: Item) {
        if self.items.len() >= self.limits.entries {
            self.park_waiting();
        }
        if self.items.len() >= self.limits.entries {
            self.mark(item.key, Standing::Sole);
            return self.ranges.look_again(item.key.range());
        }
        self.next_serial += 1;
        self.lay(now, self.next_serial, item);
    }

    /// Takes an item out of all queues.
    fn lift(&mut self, serial: u64) -> Option<Item> {
        let item = self.items.remove(&serial)?;
        self.moves += 1;
        self.serials.remove(&item.key);
        for target in &item.targets {
            if let Some(peer) = self.peers.get_mut(&target.machine) {
                peer.dequeue(serial, &item, target.stage);
            }
        }
        self.count(&item, Amount::subtract, |unknown| unknown - 1);
        Some(item)
    }

    /// Puts an item where it belongs now, or ends it.
    fn lay(&mut self, now: Instant, serial: u64, mut item: Item) {
        let me = self.roster.as_deref().and_then(|roster| roster.machine(roster.me()));
        item.count(me.is_some_and(|me| me.counts()));
        let outcome = if item.is_unwieldy() { Outcome::Refused } else { item.outcome() };
        match outcome {
            Outcome::Pending => {
                for target in &item.targets {
                    if let Some(peer) = self.peers.get_mut(&target.machine) {
                        peer.enqueue(serial, &item, target.stage);
                    }
                }
                self.count(&item, Amount::add, |unknown| unknown + 1);
                self.serials.insert(item.key, serial);
                self.items.insert(serial, item);
            }
            Outcome::Complete => self.complete(now, &item),
            Outcome::Unowed => self.found_sole(&mut item),
            Outcome::Refused => {
                self.found_sole(&mut item);
                self.ranges.refuse(now, item.key.range(), self.limits.refused);
            }
        }
    }

    fn count(&mut self, item: &Item, amount: fn(&mut Amount, u64), unknown: fn(u64) -> u64) {
        for target in item.pending() {
            match target.stage {
                _ if item.kind == Kind::Write => amount(&mut self.writes, item.bytes),
                Stage::Lacking | Stage::Giving => amount(&mut self.repairs, item.bytes),
                _ => self.unknown = unknown(self.unknown),
            }
        }
    }

    fn complete(&mut self, now: Instant, item: &Item) {
        self.mark(item.key, if item.is_mine { Standing::Counted } else { Standing::Spare });
        let is_displaced = item.targets.iter().any(|target| target.stage == Stage::Refused);
        if is_displaced {
            self.ranges.displace(item.key.range());
        }
        let Some(roster) = self.roster.as_deref().filter(|_| item.is_told) else { return };
        for target in item.targets.iter().filter(|target| target.stage == Stage::Has) {
            let Some(peer) = self.peers.get_mut(&target.machine) else { continue };
            // Those on which it belongs would not learn that another one is lost that has it in place of one of
            // them: they see for themselves.
            let is_to_look = is_displaced && roster.is_holder(target.machine, &item.key);
            let told = if is_to_look { &mut peer.looks } else { &mut peer.settled };
            // Of what is more, it finds out itself.
            if told.len() < self.limits.entries {
                told.push(item.key);
                self.settle_at.get_or_insert(now + self.limits.settle);
            }
        }
    }

    /// Other machines have it no more, or never had it.
    fn found_sole(&mut self, item: &mut Item) {
        if !std::mem::replace(&mut item.is_sole, true) {
            self.mark(item.key, Standing::Sole);
        }
    }

    /// Nothing is under way with it any more, whatever is answered.
    fn forget(&mut self, key: &EntryKey) {
        let item = self.serials.get(key).copied().and_then(|serial| self.lift(serial));
        for target in item.iter().flat_map(|item| &item.targets) {
            if let Some(peer) = self.peers.get_mut(&target.machine) {
                peer.disregard(key);
            }
        }
    }

    fn mark(&mut self, key: EntryKey, standing: Standing) {
        self.marks.insert(key, standing);
    }

    fn flush_marks(&mut self) {
        let mut marks: BTreeMap<Standing, Vec<EntryKey>> = BTreeMap::new();
        for (key, standing) in std::mem::take(&mut self.marks) {
            marks.entry(standing).or_default().push(key);
        }
        self.effects.extend(marks.into_iter().map(|(standing, keys)| Effect::Mark { keys, standing }));
    }
}

/// Whether there is no other machine that a copy could be on.
fn is_alone(roster: &Roster) -> bool {
    roster.copies() == 0
        || roster.machines().iter().all(|machine| machine.id == roster.me() || !machine.counts())
}
