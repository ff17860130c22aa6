//! [`Pool`]: the machines, the classes of waiting runs, and which fits which.
//!
//! Runs with equal requirements form a *class*. Whether a machine can serve a class is asked once,
//! when either comes; so finding the next assignment looks at classes and machines, never at the
//! runs behind the first.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ready::{Place, Ready};
use super::{Duty, Mismatch, Now, Refusal, RunId};
use crate::platform::Requirements;

/// Why a machine can never run something; empty if it can. Pure.
#[derive(Clone)]
pub struct Matcher(Arc<Judge>);

type Judge = dyn Fn(&Requirements) -> Vec<String> + Send + Sync;

/// Runs with equal requirements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ClassId(u64);

#[derive(Debug)]
pub(super) struct Pool {
    absent_wait: Duration,
    machines: BTreeMap<Arc<str>, Machine>,
    classes: BTreeMap<ClassId, Class>,
    next_class: u64,
    served: u64,
}

#[derive(Debug)]
struct Machine {
    slots: usize,
    busy: usize,
    matcher: Matcher,
    duty: Duty,
    /// When it was told so; `None` for one that never was told anything.
    told_at: Option<Now>,
    /// Set while it is away; it may come back.
    left_at: Option<Instant>,
}

/// How a machine stands.
#[derive(Clone, Debug)]
pub struct MachineState {
    /// Its name.
    pub name: Arc<str>,
    /// Actions it runs at once.
    pub slots: usize,
    /// Actions it runs.
    pub busy: usize,
    /// What it was told to do.
    pub duty: Duty,
    /// When it was told so; `None` for one that never was told anything.
    pub told_at: Option<Now>,
    /// Set while it is away.
    pub left_at: Option<Instant>,
}

#[derive(Debug)]
struct Class {
    requirements: Arc<Requirements>,
    ready: Ready,
    /// Runs of this class, waiting or not.
    runs: usize,
    /// Machines that fit, present or away.
    machines: BTreeSet<Arc<str>>,
    /// Since when no machine that fits is present.
    stranded_since: Option<Instant>,
    /// When it was served last, on a clock that counts assignments.
    served: u64,
}

// === impl Matcher ===

impl Matcher {
    /// Wraps the judgement of a machine.
    pub fn new(judge: impl Fn(&Requirements) -> Vec<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(judge))
    }

    fn mismatches(&self, requirements: &Requirements) -> Vec<String> {
        (self.0)(requirements)
    }

    fn fits(&self, requirements: &Requirements) -> bool {
        self.mismatches(requirements).is_empty()
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Matcher")
    }
}

// === impl Machine ===

impl Machine {
    fn is_present(&self) -> bool {
        self.left_at.is_none()
    }

    /// Whether it takes anything new at all.
    fn is_taking(&self) -> bool {
        self.is_present() && self.duty == Duty::Active && self.slots > 0
    }

    fn free(&self) -> usize {
        if self.is_taking() { self.slots.saturating_sub(self.busy) } else { 0 }
    }

    /// Free slots; negative if it has more runs than slots.
    fn room(&self) -> isize {
        self.slots.cast_signed() - self.busy.cast_signed()
    }
}

// === impl Pool ===

impl Pool {
    pub(super) fn new(absent_wait: Duration) -> Self {
        Self { absent_wait, machines: BTreeMap::new(), classes: BTreeMap::new(), next_class: 0, served: 0 }
    }

    /// A machine came, or changed what it offers.
    pub(super) fn join(&mut self, name: Arc<str>, slots: usize, matcher: Matcher) {
        for class in self.classes.values_mut() {
            if matcher.fits(&class.requirements) {
                class.machines.insert(name.clone());
                class.stranded_since = None;
            } else {
                class.machines.remove(&name);
            }
        }
        let known = self.machines.get(&name).map(|machine| (machine.busy, machine.duty, machine.told_at));
        let (busy, duty, told_at) = known.unwrap_or_default();
        self.machines.insert(name, Machine { slots, busy, matcher, duty, told_at, left_at: None });
    }

    /// A person told a machine what to do.
    pub(super) fn tell(&mut self, now: Now, name: &str, duty: Duty) {
        let Some(machine) = self.machines.get_mut(name).filter(|machine| machine.duty != duty) else {
            return;
        };
        machine.duty = duty;
        machine.told_at = Some(now);
    }

    /// Every machine that is there, or may come back.
    pub(super) fn machines(&self) -> impl Iterator<Item = MachineState> {
        self.machines.iter().map(|(name, machine)| MachineState {
            name: name.clone(),
            slots: machine.slots,
            busy: machine.busy,
            duty: machine.duty,
            told_at: machine.told_at,
            left_at: machine.left_at,
        })
    }

    /// Why a machine can never run this class; empty if it can.
    pub(super) fn mismatches_of(&self, machine: &str, class: ClassId) -> Vec<String> {
        match (self.machines.get(machine), self.classes.get(&class)) {
            (Some(machine), Some(class)) => machine.matcher.mismatches(&class.requirements),
            _ => Vec::new(),
        }
    }

    /// Runs that will likely be started before `run`, which waits at `place`. Classes that no machine
    /// of this one could run do not count; those of equal rank take turns.
    pub(super) fn ahead_of(&self, id: ClassId, place: &Place, run: RunId) -> usize {
        let Some(own) = self.classes.get(&id) else { return 0 };
        let (before, among) = own.ready.ahead_of(place, run);
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

    /// A machine went away; none of its slots is taken any more.
    pub(super) fn leave(&mut self, now: Instant, name: &str) {
        let Some(machine) = self.machines.get_mut(name) else { return };
        machine.left_at.get_or_insert(now);
        machine.busy = 0;
        for class in self.classes.values_mut() {
            let machines = &self.machines;
            if !class.machines.iter().any(|name| machines[name].is_present()) {
                class.stranded_since.get_or_insert(now);
            }
        }
    }

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
            let refusal = Refusal::NoWorker(self.mismatches(requirements));
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
        }
    }

    /// Lets a run no longer wait at `place`.
    pub(super) fn withdraw(&mut self, id: ClassId, place: &Place, run: RunId) {
        if let Some(class) = self.classes.get_mut(&id) {
            class.ready.remove(place, run);
        }
    }

    /// Takes a slot for the run that is next. `was_lost_on` tells of machines that lost this run
    /// before: others are preferred.
    pub(super) fn assign(&mut self, was_lost_on: impl Fn(RunId, &str) -> bool) -> Option<(RunId, Arc<str>)> {
        if self.machines.values().all(|machine| machine.free() == 0) {
            return None;
        }
        let candidates = self.classes.iter().filter_map(|(id, class)| {
            let (rank, run) = class.ready.first()?;
            let name = self.choose_machine(class, |name| was_lost_on(run, name))?;
            Some((rank, class.served, *id, name))
        });
        let (_, _, id, name) = candidates.min()?;
        let run = self.classes.get_mut(&id)?.serve(&mut self.served)?;
        self.machines.get_mut(&name)?.busy += 1;
        Some((run, name))
    }

    /// The machine with the most free slots, one without a bad history first.
    fn choose_machine(&self, class: &Class, is_bad: impl Fn(&str) -> bool) -> Option<Arc<str>> {
        let free = class.machines.iter().filter(|name| self.machines[*name].free() > 0);
        free.min_by_key(|name| (is_bad(name), std::cmp::Reverse(self.machines[*name].free()))).cloned()
    }

    /// Which of `orphans` are to be stopped so that runs somebody waits for get their slots: the
    /// first ones that help, and no more than that. Each comes with its machine. `stopping` has the
    /// machine of each slot that will be free soon anyway.
    ///
    /// Which run will take which slot is a guess where machines differ. A wrong one is put right
    /// when the slot is free: then the question is asked again.
    pub(super) fn must_yield(
        &self,
        stopping: impl Iterator<Item = Arc<str>>,
        orphans: Vec<(RunId, Arc<str>)>,
    ) -> Vec<RunId> {
        let mut slots: Vec<_> = stopping.map(|name| (None, name)).collect();
        slots.extend(orphans.into_iter().map(|(run, name)| (Some(run), name)));
        let mut wanted = Vec::new();
        for class in self.classes.values() {
            wanted.push((&class.machines, class.ready.waited_for(slots.len())));
        }
        // Negative while a machine has more runs than slots.
        let mut room: HashMap<Arc<str>, isize> = HashMap::new();
        let mut chosen = Vec::new();
        for (orphan, name) in slots {
            let Some(machine) = self.machines.get(&name).filter(|machine| machine.is_taking()) else {
                continue;
            };
            let fits = |(machines, runs): &&mut (&BTreeSet<_>, usize)| *runs > 0 && machines.contains(&name);
            let Some((_, runs)) = wanted.iter_mut().find(fits) else { continue };
            let room = room.entry(name.clone()).or_insert_with(|| machine.room());
            *room += 1;
            *runs -= usize::from(*room > 0);
            chosen.extend(orphan);
        }
        chosen
    }

    /// Gives a slot back.
    pub(super) fn free(&mut self, name: &str) {
        if let Some(machine) = self.machines.get_mut(name) {
            machine.busy = machine.busy.saturating_sub(1);
        }
    }

    /// Forgets machines that stayed away too long. Returns the waiting runs that no machine was
    /// there for all this time, with the reason.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<(RunId, String)> {
        let wait = self.absent_wait;
        let is_over = |since: Option<Instant>| since.is_some_and(|since| now - since >= wait);
        self.machines.retain(|_, machine| !is_over(machine.left_at));
        let mut given_up = Vec::new();
        let mut overdue = Vec::new();
        for class in self.classes.values_mut() {
            let machines = &self.machines;
            class.machines.retain(|name| machines.contains_key(name));
            if is_over(class.stranded_since) {
                overdue.push((class.ready.runs(), class.requirements.clone()));
            }
        }
        for (runs, requirements) in overdue {
            let reason = Refusal::NoWorker(self.mismatches(&requirements)).to_string();
            given_up.extend(runs.into_iter().map(|run| (run, reason.clone())));
        }
        given_up
    }

    fn mismatches(&self, requirements: &Requirements) -> Vec<Mismatch> {
        let present = self.machines.iter().filter(|(_, machine)| machine.is_present());
        let mismatch = |(name, machine): (&Arc<str>, &Machine)| Mismatch {
            machine: name.clone(),
            reasons: machine.matcher.mismatches(requirements),
        };
        present.map(mismatch).collect()
    }

    fn new_class(&mut self, now: Instant, requirements: Arc<Requirements>) -> ClassId {
        let id = ClassId(self.next_class);
        self.next_class += 1;
        let fits = |(_, machine): &(&Arc<str>, &Machine)| machine.matcher.fits(&requirements);
        let machines: BTreeSet<_> = self.machines.iter().filter(fits).map(|(name, _)| name.clone()).collect();
        let is_stranded = !machines.iter().any(|name| self.machines[name].is_present());
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
}

#[cfg(test)]
impl Pool {
    /// Slots taken and slots there, of every present machine.
    pub(super) fn slots(&self) -> BTreeMap<Arc<str>, (usize, usize)> {
        let present = self.machines.iter().filter(|(_, machine)| machine.is_present());
        present.map(|(name, machine)| (name.clone(), (machine.busy, machine.slots))).collect()
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

// === impl Class ===

impl Class {
    fn serve(&mut self, clock: &mut u64) -> Option<RunId> {
        *clock += 1;
        self.served = *clock;
        self.ready.serve()
    }
}
