//! What machines say to each other, and when it arrives.

use std::time::Duration;

use super::machine::{Call, Known};
use super::{Effect, EntryKey, Event, Farm, Happening, Kept, Role, Standing, Taken, Time};
use crate::peer::MachineId;

/// Time after which a slow machine's links have carried as much as those of others at once.
const SLOWNESS: u64 = 100;

/// Bytes of a key on the wire.
const KEY: u64 = 41;

/// What travels.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// A request with its number, and the copies that go with it.
    Request { number: u64, effect: Effect, copies: Vec<(EntryKey, Kept)>, fingerprint: Option<u64> },
    /// Whether it has what it was asked for.
    Present { number: u64, present: Vec<bool> },
    /// What became of copies.
    Taken { number: u64, taken: Vec<(EntryKey, Taken)> },
    /// What a machine is.
    State { role: Role, weight: u32 },
}

// === impl Message ===

impl Message {
    fn bytes(&self) -> u64 {
        match self {
            Self::Request { effect, copies, .. } => {
                let keys = match effect {
                    Effect::Ask { keys, .. } | Effect::Settle { keys, .. } | Effect::Look { keys, .. } => {
                        keys.len()
                    }
                    _ => copies.len(),
                };
                keys as u64 * KEY + copies.iter().map(|(_, copy)| copy.bytes).sum::<u64>()
            }
            Self::Present { present, .. } => present.len() as u64 / 8,
            Self::Taken { taken, .. } => taken.len() as u64,
            Self::State { .. } => 100,
        }
    }
}

// === impl Farm ===

impl Farm {
    // --- links ---

    pub(super) fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cuts.contains(&(a.min(b), a.max(b)))
    }

    /// Whether bytes pass between two machines.
    pub(super) fn can_reach(&self, a: usize, b: usize) -> bool {
        let is_running = |index: usize| self.machines[index].is_running(self.now);
        is_running(a) && is_running(b) && !self.is_cut(a, b)
    }

    /// Two machines look for each other until they can reach each other.
    pub(super) fn dial(&mut self, a: usize, b: usize) {
        let after = self.dice.time(Duration::from_secs(1));
        self.plan(after, Happening::Linked { machines: (a, b) });
    }

    pub(super) fn link(&mut self, a: usize, b: usize) {
        if [a, b].iter().any(|index| self.machines[*index].is_gone) {
            return;
        }
        if !self.can_reach(a, b) {
            // Whoever comes back dials.
            if self.machines[a].is_up && self.machines[b].is_up && !self.is_cut(a, b) {
                self.dial(a, b);
            }
            return;
        }
        let numbers = [(a, b), (b, a)].map(|(me, other)| self.machines[me].link_to(other));
        if let [Some(first), Some(second)] = numbers
            && first == second
        {
            return;
        }
        self.next_number += 1;
        let link = self.next_number;
        for (me, other) in [(a, b), (b, a)] {
            if let Some(old) = self.machines[me].link_to(other) {
                self.broken(me, other, old);
            }
            let it = &self.machines[other];
            let known = Known {
                id: it.id,
                epoch: it.epoch,
                role: it.role,
                weight: it.weight,
                link: Some(link),
                away_since: Time::ZERO,
            };
            self.machines[me].known.insert(other, known);
            self.noticed(me);
        }
    }

    /// Bytes do not pass any more between two machines; they notice it after a while.
    pub(super) fn sever(&mut self, a: usize, b: usize) {
        for (machine, other) in [(a, b), (b, a)] {
            let epoch = self.machines[machine].epoch;
            if let Some(link) = self.machines[machine].link_to(other) {
                let after = self.dice.time(Duration::from_secs(3));
                self.plan(after, Happening::Broken { machine, epoch, other, link });
            }
        }
    }

    /// A machine notices that a link is broken.
    pub(super) fn broken(&mut self, index: usize, other: usize, link: u64) {
        let now = self.now;
        let machine = &mut self.machines[index];
        let Some(known) = machine.known.get_mut(&other).filter(|known| known.link == Some(link)) else {
            return;
        };
        (known.link, known.away_since) = (None, now);
        let calls: Vec<u64> =
            machine.calls.iter().filter(|(_, call)| call.link == link).map(|(number, _)| *number).collect();
        for number in calls {
            let call = self.machines[index].calls.remove(&number);
            if let Some(event) = call.and_then(|call| unanswered(call.effect)) {
                self.tell(index, event);
            }
        }
        self.noticed(index);
        // It is left out after the grace period.
        let epoch = self.machines[index].epoch;
        self.plan(self.setup.grace + Duration::from_millis(1), Happening::Roster { machine: index, epoch });
        self.dial(index, other);
    }

    // --- calls ---

    pub(super) fn call(&mut self, from: usize, id: MachineId, effect: Effect) {
        let target = self.machines[from].number_of(id);
        let link = target.and_then(|to| self.machines[from].link_to(to));
        let (Some(to), Some(link)) = (target, link) else {
            if let Some(event) = unanswered(effect) {
                self.tell(from, event);
            }
            return;
        };
        self.next_number += 1;
        let number = self.next_number;
        let copies = self.load(from, &effect);
        if !matches!(effect, Effect::Settle { .. } | Effect::Look { .. }) {
            self.machines[from].calls.insert(number, Call { to, link, effect: effect.clone() });
            self.machines[from].check_in_flight(to, &self.setup);
        }
        let fingerprint = self.machines[from].fingerprint();
        self.send(from, to, link, Message::Request { number, effect, copies, fingerprint });
    }

    /// What is still there of what is to be given.
    fn load(&mut self, from: usize, effect: &Effect) -> Vec<(EntryKey, Kept)> {
        let keys = match effect {
            Effect::Give { keys, .. } => keys.clone(),
            Effect::Send { key, .. } => vec![*key],
            _ => return Vec::new(),
        };
        let entries = &self.machines[from].store.entries;
        let copies = keys.iter().filter_map(|key| Some((*key, *entries.get(key)?))).collect();
        let gone: Vec<EntryKey> = keys.into_iter().filter(|key| !entries.contains_key(key)).collect();
        if !gone.is_empty() {
            self.tell(from, Event::Gone(gone));
        }
        copies
    }

    pub(super) fn send(&mut self, from: usize, to: usize, link: u64, message: Message) {
        let is_slow = self.slow.contains(&from) || self.slow.contains(&to);
        let bandwidth = self.setup.bandwidth / if is_slow { SLOWNESS } else { 1 };
        let free_at = self.wires.get(&(from, to)).copied().unwrap_or_default().max(self.now);
        let free_at = free_at + Duration::from_micros(message.bytes() * 1_000_000 / bandwidth);
        self.wires.insert((from, to), free_at);
        let after = free_at - self.now + self.setup.latency;
        let epoch = self.machines[to].epoch;
        self.plan(after, Happening::Arrived { to, epoch, from, link, message: Box::new(message) });
    }

    pub(super) fn arrived(&mut self, to: usize, from: usize, link: u64, message: Message) {
        // What is on its way when a link breaks is lost.
        if self.is_cut(from, to) || self.machines[to].link_to(from) != Some(link) {
            return;
        }
        match message {
            Message::Request { effect: Effect::Settle { keys, .. }, fingerprint, .. } => {
                if fingerprint == self.machines[to].fingerprint() {
                    self.machines[to].store.mark(&keys, Standing::Counted);
                } else {
                    self.tell(to, Event::Used(keys));
                }
            }
            Message::Request { effect: Effect::Look { keys, .. }, .. } => self.tell(to, Event::Used(keys)),
            Message::Request { number, effect, copies, .. } => {
                if let Some(answer) = self.answer(to, number, effect, copies) {
                    self.send(to, from, link, answer);
                }
            }
            Message::Present { number, present } => {
                if let Some(Call { effect: Effect::Ask { machine, keys, .. }, .. }) =
                    self.take_call(to, number)
                {
                    self.tell(to, Event::Asked { machine, keys, present: Some(present) });
                }
            }
            Message::Taken { number, taken } => match self.take_call(to, number).map(|call| call.effect) {
                Some(Effect::Give { machine, keys }) => {
                    self.tell(to, Event::Given { machine, taken: Some(taken), keys });
                }
                Some(Effect::Send { machine, key }) => {
                    let taken = taken.first().map(|(_, taken)| *taken);
                    self.tell(to, Event::Sent { machine, key, taken });
                }
                _ => {}
            },
            Message::State { role, weight } => {
                if let Some(known) = self.machines[to].known.get_mut(&from) {
                    (known.role, known.weight) = (role, weight);
                    self.noticed(to);
                }
            }
        }
    }

    fn take_call(&mut self, index: usize, number: u64) -> Option<Call> {
        self.machines[index].calls.remove(&number)
    }

    /// What a machine does when it is asked, and what it says.
    fn answer(
        &mut self,
        me: usize,
        number: u64,
        effect: Effect,
        copies: Vec<(EntryKey, Kept)>,
    ) -> Option<Message> {
        match effect {
            Effect::Ask { keys, extend, .. } => {
                let now = self.now;
                let mut has = |key: &EntryKey| {
                    let kept = self.machines[me].store.entries.get_mut(key)?;
                    kept.used_at = if extend { now } else { kept.used_at };
                    Some(())
                };
                let present = keys.iter().map(|key| has(key).is_some()).collect();
                Some(Message::Present { number, present })
            }
            Effect::Give { .. } | Effect::Send { .. } => {
                let taken = copies.into_iter().map(|(key, copy)| (key, self.keep(me, key, copy))).collect();
                Some(Message::Taken { number, taken })
            }
            Effect::Settle { .. } | Effect::Look { .. } | Effect::Mark { .. } | Effect::Walk(_) => None,
        }
    }

    /// Takes a copy. Nothing is known of others until whoever gives it says so; where copies do not count, it
    /// is of no importance.
    fn keep(&mut self, me: usize, key: EntryKey, copy: Kept) -> Taken {
        let is_cache = self.machines[me].role != Role::Counts;
        let standing = if is_cache { Standing::Spare } else { Standing::Sole };
        let (taken, gone) = self.machines[me].store.keep(key, Kept { standing, ..copy });
        self.evicted(me, gone);
        taken
    }
}

/// What a machine hears when no answer comes.
fn unanswered(effect: Effect) -> Option<Event> {
    match effect {
        Effect::Ask { machine, keys, .. } => Some(Event::Asked { machine, keys, present: None }),
        Effect::Give { machine, keys } => Some(Event::Given { machine, taken: None, keys }),
        Effect::Send { machine, key } => Some(Event::Sent { machine, key, taken: None }),
        Effect::Settle { .. } | Effect::Look { .. } | Effect::Mark { .. } | Effect::Walk(_) => None,
    }
}
