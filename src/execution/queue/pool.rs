//! [`Pool`]: the machines, the classes of waiting runs, and which fits which.
//!
//! Runs with equal requirements form a *class*. Whether a machine can serve a class is asked once,
//! when either comes. Machines that have room for something are kept apart, so finding the next
//! assignment looks at these, at classes and at people, never at the runs behind the first few.
//!
//! `machine` has what a machine offers and does, `choice` which run goes where, `wants` what is wanted of
//! each machine.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::explain::rough;
use super::ready::{Place, Ready};
use super::{Duty, Mismatch, Now, Refusal, RunId};
use crate::execution::grants::Grant;
use crate::execution::placement::Site;
use crate::platform::Requirements;

mod choice;
mod machine;
mod wants;

pub(super) use choice::{Assigned, Cost, Judge};
pub(super) use machine::Machine;
use machine::Room;
pub use machine::{MachineState, Matcher};
pub(super) use wants::Wants;

/// Runs with equal requirements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClassId(u64);

/// A machine, in the order in which they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct MachineIndex(u32);

#[derive(Debug)]
pub(super) struct Pool {
    absent_wait: Duration,
    machines: BTreeMap<MachineIndex, Machine>,
    names: BTreeMap<Arc<str>, MachineIndex>,
    /// Those that take something for somebody.
    roomy: BTreeSet<MachineIndex>,
    /// Those of them with a slot that is free now.
    free: BTreeSet<MachineIndex>,
    classes: BTreeMap<ClassId, Class>,
    next_machine: u32,
    next_class: u64,
    /// Counts assignments.
    served: u64,
    /// When each person was served last, on that clock.
    people: HashMap<Arc<str>, u64>,
    /// Whether the demand for any machine may be another than it was told.
    is_changed: bool,
}

#[derive(Debug)]
struct Class {
    requirements: Arc<Requirements>,
    ready: Ready,
    /// Runs of this class, waiting or not.
    runs: usize,
    /// Machines that fit, present or away.
    machines: BTreeSet<MachineIndex>,
    /// Since when no machine that fits is present.
    stranded_since: Option<Instant>,
    /// When it was served last, on a clock that counts assignments.
    served: u64,
}

/// A slot that may become free: that of a run that is being stopped, or that could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    pub worker: Arc<str>,
    /// Whom it is held for.
    pub person: Arc<str>,
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(absent_wait: Duration) -> Self {
        Self {
            absent_wait,
            machines: BTreeMap::new(),
            names: BTreeMap::new(),
            roomy: BTreeSet::new(),
            free: BTreeSet::new(),
            classes: BTreeMap::new(),
            next_machine: 0,
            next_class: 0,
            served: 0,
            people: HashMap::new(),
            is_changed: false,
        }
    }

    // --- machines ---

    /// A machine came, or changed what it can run.
    pub(super) fn join(&mut self, now: Instant, name: Arc<str>, slots: usize, matcher: Matcher) {
        let index = *self.names.entry(name.clone()).or_insert_with(|| {
            self.next_machine += 1;
            MachineIndex(self.next_machine)
        });
        match self.machines.get_mut(&index) {
            Some(machine) => machine.join(slots, matcher.clone()),
            None => {
                self.machines.insert(index, Machine::new(name, slots, matcher.clone()));
            }
        }
        for class in self.classes.values_mut() {
            if matcher.fits(&class.requirements) {
                class.machines.insert(index);
            } else {
                class.machines.remove(&index);
            }
        }
        self.note_stranded(now);
        self.note_room(index);
    }

    /// A machine says what may be used of it.
    pub(super) fn grant(&mut self, name: &str, grant: Grant) {
        self.with_machine(name, |machine| machine.grant(grant));
    }

    /// Where a machine is.
    pub(super) fn site(&mut self, name: &str, site: Site) {
        self.with_machine(name, |machine| machine.site = site);
    }

    /// A person told a machine what to do.
    pub(super) fn tell(&mut self, now: Now, name: &str, duty: Duty) {
        self.with_machine(name, |machine| {
            if machine.duty != duty {
                (machine.duty, machine.told_at) = (duty, Some(now));
            }
        });
    }

    /// A machine went away; none of its slots is taken any more.
    pub(super) fn leave(&mut self, now: Instant, name: &str) {
        self.with_machine(name, |machine| machine.leave(now));
        self.note_stranded(now);
    }

    /// Gives a slot back, of a run that was expected to end at `due`.
    pub(super) fn free(&mut self, name: &str, person: &Arc<str>, build: &Arc<str>, due: Duration) {
        self.with_machine(name, |machine| {
            machine.free(person, build);
            machine.expect_no_more(due);
        });
    }

    /// A run there will likely end at `due`.
    pub(super) fn expect(&mut self, name: &str, due: Duration) {
        self.with_machine(name, |machine| machine.expect(due));
    }

    /// A machine had no slot for a run that stood on that grant, whether or not it had promised one.
    pub(super) fn was_busy(
        &mut self,
        now: Instant,
        name: &str,
        person: &Arc<str>,
        grant: u64,
        is_ahead: bool,
    ) {
        self.with_machine(name, |machine| {
            machine.was_busy(now, person.clone(), grant);
            if !is_ahead {
                machine.was_vain(now, grant);
            }
        });
    }

    /// A machine lost a run.
    pub(super) fn was_lost(&mut self, now: Instant, name: &str) {
        self.with_machine(name, |machine| machine.was_lost(now));
    }

    /// A command has begun on a machine.
    pub(super) fn has_begun(&mut self, name: &str) {
        if self.machine(name).is_some_and(Machine::is_doubtful) {
            self.with_machine(name, Machine::has_begun);
        }
    }

    /// A machine has told the end of a run.
    pub(super) fn has_answered(&mut self, name: &str) {
        if self.machine(name).is_some_and(Machine::is_doubtful) {
            self.with_machine(name, Machine::has_answered);
        }
    }

    /// How often in a row a machine has lost runs, and until when it gets nothing for that reason.
    pub(super) fn left_alone(&self, name: &str) -> Option<(u32, Instant)> {
        let machine = self.machine(name)?;
        Some((machine.losses(), machine.alone_until()?))
    }

    /// Whether a machine has lost runs, and has not answered any since.
    #[cfg(test)]
    pub(super) fn is_losing(&self, name: &str) -> bool {
        self.machine(name).is_some_and(|machine| machine.losses() > 0)
    }

    /// Every machine that is there, or may come back, by name.
    pub(super) fn machines(&self) -> impl Iterator<Item = MachineState> {
        self.names.values().map(|index| self.machines[index].state())
    }

    /// Why a machine can never run this class; empty if it can.
    pub(super) fn mismatches_of(&self, machine: &str, class: ClassId) -> Vec<String> {
        match (self.machine(machine), self.classes.get(&class)) {
            (Some(machine), Some(class)) => machine.matcher.mismatches(&class.requirements),
            _ => Vec::new(),
        }
    }

    /// Whether that person may use slots of a machine, be they taken.
    pub(super) fn serves(&self, machine: &str, person: &str) -> bool {
        self.machine(machine).is_some_and(|machine| machine.serves(person))
    }

    /// Whether a machine takes something for that person now.
    pub(super) fn takes(&self, machine: &str, person: &str) -> bool {
        self.machine(machine).is_some_and(|machine| machine.room(person) != Room::default())
    }

    fn machine(&self, name: &str) -> Option<&Machine> {
        self.machines.get(self.names.get(name)?)
    }

    fn with_machine(&mut self, name: &str, change: impl FnOnce(&mut Machine)) {
        let Some(index) = self.names.get(name).copied() else { return };
        if let Some(machine) = self.machines.get_mut(&index) {
            change(machine);
            self.note_room(index);
        }
    }

    /// After every change of a machine.
    fn note_room(&mut self, index: MachineIndex) {
        self.is_changed = true;
        let room = self.machines.get(&index).map(Machine::best_room).unwrap_or_default();
        for (set, belongs) in [(&mut self.roomy, room != Room::default()), (&mut self.free, room.now > 0)] {
            if belongs {
                set.insert(index);
            } else {
                set.remove(&index);
            }
        }
    }

    /// After machines came or went.
    fn note_stranded(&mut self, now: Instant) {
        for class in self.classes.values_mut() {
            if class.machines.iter().any(|index| self.machines[index].is_present()) {
                class.stranded_since = None;
            } else {
                class.stranded_since.get_or_insert(now);
            }
        }
    }

    // --- runs ---

    /// Counts a new run in; refuses it if machines are known and none of them ever fits.
    pub(super) fn admit(
        &mut self,
        now: Instant,
        requirements: &Arc<Requirements>,
    ) -> Result<ClassId, Refusal> {
        let known = self.classes.iter().find(|(_, class)| class.requirements == *requirements);
        let id = match known {
            Some((id, _)) => *id,
            None => self.new_class(now, requirements.clone()),
        };
        let class = &self.classes[&id];
        if class.machines.is_empty() && !self.machines.is_empty() {
            let refusal = Refusal::NoWorker(self.mismatches(now, requirements));
            self.remove_if_unused(id);
            return Err(refusal);
        }
        if let Some(class) = self.classes.get_mut(&id) {
            class.runs += 1;
        }
        Ok(id)
    }

    /// Counts a run out.
    pub(super) fn release(&mut self, id: ClassId) {
        if let Some(class) = self.classes.get_mut(&id) {
            class.runs -= 1;
        }
        self.remove_if_unused(id);
    }

    /// Lets a run wait at `place`.
    pub(super) fn enqueue(&mut self, id: ClassId, place: &Place, run: RunId) {
        if let Some(class) = self.classes.get_mut(&id) {
            class.ready.insert(place, run);
            self.is_changed = true;
        }
    }

    /// Lets a run no longer wait at `place`.
    pub(super) fn withdraw(&mut self, id: ClassId, place: &Place, run: RunId) {
        if let Some(class) = self.classes.get_mut(&id) {
            class.ready.remove(place, run);
            self.is_changed = true;
        }
    }

    /// Runs that will likely be started before `run`, which waits at `place`. Classes that no machine
    /// of this one could run do not count; those of equal rank take turns.
    pub(super) fn ahead_of(&self, id: ClassId, place: &Place, run: RunId) -> usize {
        let Some(own) = self.classes.get(&id) else { return 0 };
        let is_sooner =
            |other: &Arc<str>| (self.served(other), other) < (self.served(&place.person), &place.person);
        let (before, among) = own.ready.ahead_of(place, run, is_sooner);
        let turn = |more_urgent: usize, class: &Class, id: ClassId| (more_urgent > 0, class.served, id);
        let mut ahead = before + among;
        for (other_id, other) in &self.classes {
            if *other_id == id || other.machines.is_disjoint(&own.machines) {
                continue;
            }
            let (more_urgent, equal) = other.ready.count(place.rank);
            let goes_first = turn(more_urgent, other, *other_id) < turn(before, own, id);
            ahead += more_urgent + equal.min(among + usize::from(goes_first));
        }
        ahead
    }

    /// Which of `orphans` are to be stopped so that runs somebody waits for get their slots: the
    /// first ones that help, and no more than that. `stopping` has the slots that will be free soon
    /// anyway.
    ///
    /// Which run will take which slot is a guess where machines differ. A wrong one is put right
    /// when the slot is free: then the question is asked again.
    pub(super) fn must_yield(
        &self,
        stopping: impl Iterator<Item = Slot>,
        orphans: Vec<(RunId, Slot)>,
    ) -> Vec<RunId> {
        let mut slots: Vec<_> = stopping.map(|slot| (None, slot)).collect();
        slots.extend(orphans.into_iter().map(|(run, slot)| (Some(run), slot)));
        let mut wanted = Vec::new();
        for class in self.classes.values() {
            for person in class.ready.people() {
                wanted.push((&class.machines, person, class.ready.waited_for(person, slots.len())));
            }
        }
        // Negative while a machine has more runs than slots.
        let mut balance: HashMap<(MachineIndex, Option<Arc<str>>), isize> = HashMap::new();
        let mut chosen = Vec::new();
        for (orphan, Slot { worker, person }) in slots {
            let Some(index) = self.names.get(&worker) else { continue };
            let machine = &self.machines[index];
            let is_open = machine.is_open();
            let fits = |(machines, who, runs): &&mut (&BTreeSet<_>, &Arc<str>, usize)| {
                *runs > 0 && machines.contains(index) && (is_open || **who == person)
            };
            let Some((_, _, runs)) = wanted.iter_mut().find(fits).filter(|_| machine.serves(&person)) else {
                continue;
            };
            let key = (*index, (!is_open).then(|| person.clone()));
            let balance = balance.entry(key).or_insert_with(|| machine.balance(&person));
            *balance += 1;
            *runs -= usize::from(*balance > 0);
            chosen.extend(orphan);
        }
        chosen
    }

    /// Forgets machines that stayed away too long. Returns the waiting runs that no machine was
    /// there for all this time, with the reason.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(RunId, String)> {
        let wait = self.absent_wait;
        let is_over = |since: Option<Instant>| since.is_some_and(|since| now - since >= wait);
        let mut given_up = Vec::new();
        for class in self.classes.values().filter(|class| is_over(class.stranded_since)) {
            let reason = Refusal::NoWorker(self.mismatches(now, &class.requirements)).to_string();
            given_up.extend(class.ready.runs().into_iter().map(|run| (run, reason.clone())));
        }
        self.machines.retain(|_, machine| !is_over(machine.left_at));
        self.names.retain(|_, index| self.machines.contains_key(index));
        for class in self.classes.values_mut() {
            class.machines.retain(|index| self.machines.contains_key(index));
        }
        self.forgive(now);
        given_up
    }

    /// Machines that were busy after all may have room again.
    fn forgive(&mut self, now: Instant) {
        let forgave =
            |(index, machine): (&MachineIndex, &mut Machine)| machine.forgive(now).then_some(*index);
        let forgiven: Vec<_> = self.machines.iter_mut().filter_map(forgave).collect();
        for index in forgiven {
            self.note_room(index);
        }
    }

    /// Why each machine does not run something, those that are away included.
    fn mismatches(&self, now: Instant, requirements: &Requirements) -> Vec<Mismatch> {
        let machines = self.names.values().map(|index| &self.machines[index]);
        let mismatch = |machine: &Machine| {
            let mut reasons = machine.matcher.mismatches(requirements);
            if let Some(left_at) = machine.left_at {
                let away = rough(now.saturating_duration_since(left_at));
                let could = if reasons.is_empty() { "it could, but " } else { "" };
                reasons.push(format!("{could}it has been away for {away}"));
            }
            Mismatch { machine: machine.name.clone(), reasons }
        };
        machines.map(mismatch).collect()
    }

    fn new_class(&mut self, now: Instant, requirements: Arc<Requirements>) -> ClassId {
        let id = ClassId(self.next_class);
        self.next_class += 1;
        let fits = |(_, machine): &(&MachineIndex, &Machine)| machine.matcher.fits(&requirements);
        let machines: BTreeSet<_> = self.machines.iter().filter(fits).map(|(index, _)| *index).collect();
        let is_stranded = !machines.iter().any(|index| self.machines[index].is_present());
        let class = Class {
            requirements,
            ready: Ready::default(),
            runs: 0,
            machines,
            stranded_since: is_stranded.then_some(now),
            served: self.served,
        };
        self.classes.insert(id, class);
        id
    }

    fn remove_if_unused(&mut self, id: ClassId) {
        if self.classes.get(&id).is_some_and(|class| class.runs == 0) {
            self.classes.remove(&id);
        }
    }

    /// Whether a machine other than that one could run the class for that person, now or when it has a slot
    /// free, and is trusted.
    fn has_other(&self, class: &Class, person: &str, than: &Machine) -> bool {
        let others = class.machines.iter().map(|index| &self.machines[index]);
        let mut trusted = others.filter(|other| other.name != than.name && other.losses() == 0);
        trusted.any(|other| other.serves(person))
    }

    /// When a person was served last.
    fn served(&self, person: &str) -> u64 {
        self.people.get(person).copied().unwrap_or(0)
    }
}

#[cfg(test)]
impl Pool {
    /// Slots taken and slots there, of every present machine.
    pub(super) fn slots(&self) -> BTreeMap<Arc<str>, (usize, usize)> {
        let present = self.machines.values().filter(|machine| machine.is_present());
        let slots = |machine: &Machine| {
            let (slots, busy) = machine.slots();
            (machine.name.clone(), (busy, slots))
        };
        present.map(slots).collect()
    }

    /// Runs that wait, each once.
    pub(super) fn waiting(&self) -> BTreeSet<RunId> {
        self.classes.values().flat_map(|class| class.ready.runs()).collect()
    }

    /// Classes that exist.
    pub(super) fn class_count(&self) -> usize {
        self.classes.len()
    }
}
