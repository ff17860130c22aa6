//! Who gets which slot.
//!
//! The slots are dealt one by one, all of them and from the beginning, to whoever holds fewest by then:
//! that is what is *due* to each. What somebody holds cannot be dealt anew: runs, and slots that were
//! granted a moment ago and whose runs may be on the way. So only what is free goes to those to whom
//! more is due than they hold, in the order in which it was dealt; and those who hold too much are told
//! what is due to them. Nothing is kept from one time to the next, so no slot can be lost count of.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Effect, Grant, Grants, Owner, Part, Share, Slots, StayId, Tenant, UNUSED};
use crate::execution::queue::Duty;

/// In which order wishes are granted: what is wanted; then what is wanted by those who leave slots
/// unused; then what is content with slots that nobody else wants.
const ROUNDS: usize = 3;

/// What is dealt, and to whom.
#[derive(Debug, Default)]
struct Table {
    people: Vec<Person>,
    seats: Vec<Seat>,
    lines: Vec<Line>,
    /// Slots and guests that are still to be dealt.
    slots: usize,
    guests: usize,
    reserve: usize,
    /// Who was dealt each slot, in order.
    dealt: Vec<usize>,
}

/// A person, whichever owners act for them.
#[derive(Debug)]
struct Person {
    name: Arc<str>,
    is_own: bool,
    usage: u64,
    dealt: usize,
}

/// A person at an owner.
#[derive(Debug)]
struct Seat {
    is_guest: bool,
    running: usize,
    /// What cannot be given to others now.
    held: usize,
    /// What is due.
    due: usize,
    /// What is added to what is held.
    added: usize,
}

/// A build of a person at an owner.
#[derive(Debug)]
struct Line {
    person: usize,
    seat: usize,
    /// The most it may have, by round.
    most: [usize; ROUNDS],
    usage: u64,
    priority: i32,
    dealt: usize,
}

// === impl Grants ===

impl Grants {
    /// Deals the slots, gives those that are free to runs that wait for one, and tells the owners.
    pub(super) fn share_out(&mut self) {
        let is_alone =
            self.tenants.iter().all(|(owner, tenant)| *owner == Owner::Own || !tenant.is_present());
        if !is_alone {
            self.deal();
            while self.settle_ahead() {
                // What was handed back is not wanted any more.
                self.deal();
            }
        }
        self.tell(is_alone);
    }

    fn deal(&mut self) {
        let mut table = self.table();
        table.deal();
        table.add();
        let now = self.now;
        for (part, seat) in self.parts_mut().zip(&table.seats) {
            let granted = seat.granted();
            if granted > part.granted {
                part.unused_since = now;
            }
            part.granted = granted;
        }
    }

    fn parts_mut(&mut self) -> impl Iterator<Item = &mut Part> {
        self.tenants.values_mut().flat_map(|tenant| tenant.people.values_mut())
    }

    /// Everybody who wants or has something, in the order of [`parts_mut`](Self::parts_mut).
    fn table(&mut self) -> Table {
        let (now, limits) = (self.now, &self.limits);
        let slots = if limits.duty == Duty::Active { limits.slots } else { 0 };
        let mut table = Table { slots, guests: limits.guests, reserve: limits.reserve, ..Table::default() };
        for (owner, tenant) in &mut self.tenants {
            for (name, part) in &mut tenant.people {
                let used = || self.people.get(name).map_or(0, |usage| usage.of_late(now));
                let person = table.person(name, *name == limits.person, used);
                let seat = part.look(now, *owner != Owner::Own);
                table.seat(person, part, seat, now);
            }
        }
        table
    }

    /// Starts runs that were sent ahead and have a slot now, and hands back those that are too many.
    /// Returns whether there were any of these.
    fn settle_ahead(&mut self) -> bool {
        let is_taking = self.limits.ahead && self.limits.duty == Duty::Active;
        let (mut starting, mut handed_back): (Vec<StayId>, Vec<StayId>) = (Vec::new(), Vec::new());
        for (owner, tenant) in &mut self.tenants {
            for part in tenant.people.values_mut() {
                let mut free = part.granted.saturating_sub(part.running()).min(part.ahead.len());
                part.may_send = part.wanted().saturating_sub(part.granted).min(part.granted);
                if tenant.is_gone {
                    free = 0;
                }
                if tenant.is_gone || !is_taking || *owner == Owner::Own {
                    part.may_send = 0;
                }
                starting.extend(part.ahead.iter().take(free));
                handed_back.extend(part.ahead.iter().skip(free + part.may_send));
            }
        }
        for stay in starting {
            self.start(stay);
        }
        for stay in &handed_back {
            self.ended(*stay);
            self.effects.push(Effect::Busy(*stay));
        }
        !handed_back.is_empty()
    }

    /// Tells each owner what has changed for it.
    fn tell(&mut self, is_alone: bool) {
        let is_taking = self.limits.duty == Duty::Active;
        for (owner, tenant) in self.tenants.iter_mut().filter(|(_, tenant)| !tenant.is_gone) {
            let slots = if is_alone && *owner == Owner::Own {
                Slots::Open(if is_taking { self.limits.slots } else { 0 })
            } else {
                tenant.shares()
            };
            if tenant.told.as_ref().map_or(slots.is_none(), |told| *told == slots) {
                continue;
            }
            self.told += 1;
            tenant.told = Some(slots.clone());
            self.effects.push(Effect::Grant(*owner, Grant { number: self.told, slots }));
        }
    }
}

// === impl Tenant ===

impl Tenant {
    pub(super) fn shares(&self) -> Slots {
        let granted = self.people.iter().filter(|(_, part)| part.granted + part.may_send > 0);
        let share = |(person, part): (&Arc<str>, &Part)| Share {
            person: person.clone(),
            slots: part.granted,
            ahead: part.may_send,
        };
        Slots::Shared(granted.map(share).collect())
    }
}

// === impl Part ===

impl Part {
    /// What it holds, and whether it uses that.
    fn look(&mut self, now: Instant, is_guest: bool) -> Seat {
        let running = self.running();
        let unused = self.granted.min(self.wanted()).saturating_sub(running);
        // Unused slots of the machine itself can be taken back: nothing is ever on the way.
        let is_fresh = is_guest && now.saturating_duration_since(self.unused_since) < UNUSED;
        self.is_idle |= is_guest && unused > 0 && !is_fresh;
        let held = if is_fresh { running + unused } else { running };
        Seat { is_guest, running, held, due: 0, added: 0 }
    }
}

// === impl Table ===

impl Table {
    fn person(&mut self, name: &Arc<str>, is_own: bool, usage: impl FnOnce() -> u64) -> usize {
        let known = self.people.iter().position(|person| person.name == *name);
        known.unwrap_or_else(|| {
            self.people.push(Person { name: name.clone(), is_own, usage: usage(), dealt: 0 });
            self.people.len() - 1
        })
    }

    fn seat(&mut self, person: usize, part: &Part, seat: Seat, now: Instant) {
        let index = self.seats.len();
        self.seats.push(seat);
        self.lines.extend(part.builds.values().map(|build| {
            let wanted = build.wanted();
            let first = if part.is_idle { build.running } else { wanted };
            Line {
                person,
                seat: index,
                most: [first, wanted, wanted + build.spare],
                usage: build.usage.of_late(now),
                priority: build.priority,
                dealt: 0,
            }
        }));
    }

    /// Deals all slots.
    fn deal(&mut self) {
        let mut guests = self.guests;
        for round in 0..ROUNDS {
            while self.dealt.len() < self.slots {
                let Some(next) = self.next(round, guests > 0) else { break };
                let line = &mut self.lines[next];
                line.dealt += 1;
                self.people[line.person].dealt += 1;
                let seat = &mut self.seats[line.seat];
                seat.due += 1;
                guests -= usize::from(seat.is_guest);
                self.dealt.push(line.seat);
            }
        }
    }

    /// Whose turn it is.
    fn next(&self, round: usize, takes_guests: bool) -> Option<usize> {
        let wants =
            |line: &Line| line.dealt < line.most[round] && (takes_guests || !self.seats[line.seat].is_guest);
        let lines = self.lines.iter().enumerate().filter(|(_, line)| wants(line));
        let turn = |(_, line): &(usize, &Line)| {
            let person = &self.people[line.person];
            let is_reserved = person.is_own && person.dealt < self.reserve;
            let by_person = (!is_reserved, person.dealt, person.usage, line.person);
            (by_person, line.dealt, line.usage, line.priority)
        };
        lines.min_by_key(turn).map(|(index, _)| index)
    }

    /// Adds what is free to what is held, in the order in which it was dealt.
    fn add(&mut self) {
        let held = |seats: &[Seat], counts: fn(&Seat) -> bool| -> usize {
            seats.iter().filter(|seat| counts(seat)).map(|seat| seat.held).sum()
        };
        let mut free = self.slots.saturating_sub(held(&self.seats, |_| true));
        let mut free_to_guests = self.guests.saturating_sub(held(&self.seats, |seat| seat.is_guest));
        let mut passed = vec![0; self.seats.len()];
        for index in &self.dealt {
            let seat = &mut self.seats[*index];
            passed[*index] += 1;
            let is_more = passed[*index] > seat.held;
            if is_more && free > 0 && (!seat.is_guest || free_to_guests > 0) {
                seat.added += 1;
                free -= 1;
                free_to_guests -= usize::from(seat.is_guest);
            }
        }
    }
}

// === impl Seat ===

impl Seat {
    /// What its owner is told.
    fn granted(&self) -> usize {
        if self.due > self.held || self.held > self.running { self.held + self.added } else { self.due }
    }
}
