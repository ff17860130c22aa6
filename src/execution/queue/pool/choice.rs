//! Which run is next, and where it goes.

use std::cmp::Reverse;
use std::sync::Arc;

use super::machine::{Machine, Room};
use super::{ClassId, MachineIndex, Pool};
use crate::execution::queue::RunId;
use crate::execution::queue::ready::Rank;

/// Runs at the head of a line of which a machine may take the one whose inputs it has.
const LOOK_AHEAD: usize = 8;

/// Builds of a person, and ranks, that are looked at when what goes before them cannot go now.
const LOOK_BEYOND: usize = 8;

/// Who knows what it costs to run something somewhere.
pub(in crate::execution::queue) trait Judge {
    /// What it costs to run it there.
    fn cost(&self, run: RunId, machine: &Machine) -> Cost;

    /// Whether it may be sent ahead of its slot.
    fn may_go_ahead(&self, run: RunId) -> bool;

    /// Whether it had better wait for a slot of `here`, which is full, than go `there`.
    fn should_wait(&self, run: RunId, there: &Machine, here: &Machine) -> bool;
}

/// What it costs to run something somewhere: the least is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::execution::queue) struct Cost {
    /// It was lost there before.
    pub was_lost: bool,
    /// It sees another toolchain there.
    pub has_other_toolchain: bool,
    /// The [`step`](crate::execution::placement::step) of the time it takes.
    pub total: u32,
    /// The step of the time its inputs take to get there.
    pub moving: u32,
    /// Not on this machine.
    pub is_remote: bool,
}

/// A run that has a place.
#[derive(Clone, Debug)]
pub(in crate::execution::queue) struct Assigned {
    pub run: RunId,
    pub worker: Arc<str>,
    /// Whose slot it takes, and for which build.
    pub person: Arc<str>,
    pub build: Arc<str>,
    /// The grant it stands on.
    pub grant: u64,
    /// It is sent ahead of its slot.
    pub is_ahead: bool,
}

/// Somebody who is next.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    rank: Rank,
    /// When the person, and the class, were served last.
    served: (u64, u64),
    class: ClassId,
    person: Arc<str>,
}

/// A machine that takes something of whoever is next.
#[derive(Clone, Copy)]
struct Offer<'a> {
    index: MachineIndex,
    machine: &'a Machine,
    room: Room,
}

/// Which run goes where.
#[derive(Clone, Copy)]
struct Choice<'a> {
    run: RunId,
    build: &'a Arc<str>,
    index: MachineIndex,
    is_ahead: bool,
}

// === impl Pool ===

impl Pool {
    /// Takes a slot for the run that is next. What had better wait for a slot of this machine lets
    /// others go first.
    pub(in crate::execution::queue) fn assign(&mut self, judge: &impl Judge) -> Option<Assigned> {
        if self.roomy.is_empty() {
            return None;
        }
        let mut turns = self.turns();
        turns.sort_unstable();
        let choose = |turn: Turn| self.choose(&turn, judge).map(|choice| (turn, choice));
        let (turn, Choice { run, build, index, is_ahead }) = turns.into_iter().find_map(choose)?;
        let (build, Turn { rank, class, person, .. }) = (build.clone(), turn);
        self.served += 1;
        self.people.insert(person.clone(), self.served);
        let class = self.classes.get_mut(&class)?;
        class.served = self.served;
        class.ready.serve(rank, &person, &build, run);
        self.take(Choice { run, build: &build, index, is_ahead }, &person)
    }

    /// Takes a slot for a run of that class that has one elsewhere, on a machine that `is_other`.
    pub(in crate::execution::queue) fn assign_again(
        &mut self,
        run: (RunId, ClassId),
        (person, build): (&Arc<str>, &Arc<str>),
        is_other: impl Fn(&str) -> bool,
        judge: &impl Judge,
    ) -> Option<Assigned> {
        let (run, class) = run;
        let offers = self.offers(class, person).into_iter();
        let offers: Vec<_> =
            offers.filter(|offer| offer.room.now > 0 && is_other(&offer.machine.name)).collect();
        let (_, offer) = cheapest(run, &offers, judge)?;
        self.take(Choice { run, build, index: offer.index, is_ahead: false }, person)
    }

    /// Whether any machine has a slot that is free now, for anybody.
    pub(in crate::execution::queue) fn has_free_slot(&self) -> bool {
        !self.free.is_empty()
    }

    /// Whether any machine that fits the class has a slot free for that person.
    pub(in crate::execution::queue) fn has_slot_for(&self, class: ClassId, person: &str) -> bool {
        let Some(class) = self.classes.get(&class) else { return false };
        let mut free = self.free.iter().filter(|index| class.machines.contains(index));
        free.any(|index| self.machines[index].room(person).now > 0)
    }

    /// Whether a run had better wait for a slot of this machine than go to that one.
    pub(in crate::execution::queue) fn had_better_wait(
        &self,
        run: RunId,
        class: ClassId,
        there: &str,
        judge: &impl Judge,
    ) -> bool {
        self.machine(there).is_some_and(|there| self.waits_for_here(run, class, there, judge))
    }

    fn waits_for_here(&self, run: RunId, class: ClassId, there: &Machine, judge: &impl Judge) -> bool {
        let here = self.full_here(class).filter(|_| there.site.is_remote);
        here.is_some_and(|here| judge.should_wait(run, there, here))
    }

    /// Everybody who has something waiting.
    fn turns(&self) -> Vec<Turn> {
        let mut turns = Vec::new();
        for (id, class) in &self.classes {
            turns.extend(class.ready.ranks(LOOK_BEYOND).map(|(rank, person)| Turn {
                rank,
                served: (self.served(person), class.served),
                class: *id,
                person: person.clone(),
            }));
        }
        turns
    }

    /// Machines that fit the class and take something for the person.
    fn offers(&self, class: ClassId, person: &str) -> Vec<Offer<'_>> {
        let Some(class) = self.classes.get(&class) else { return Vec::new() };
        let fitting = self.roomy.iter().filter(|index| class.machines.contains(index));
        let offer = |index: &MachineIndex| {
            let machine = &self.machines[index];
            Offer { index: *index, machine, room: machine.room(person) }
        };
        fitting.map(offer).filter(|offer| offer.room != Room::default()).collect()
    }

    /// A run of the first build that has one that can go.
    fn choose(&self, turn: &Turn, judge: &impl Judge) -> Option<Choice<'_>> {
        let offers = self.offers(turn.class, &turn.person);
        let (now, ahead): (Vec<_>, Vec<_>) = offers.into_iter().partition(|offer| offer.room.now > 0);
        let mut builds =
            self.classes.get(&turn.class)?.ready.builds(turn.rank, &turn.person).take(LOOK_BEYOND);
        builds.find_map(|build| {
            let choice = |is_ahead| {
                move |(run, offer): (RunId, Offer<'_>)| Choice { run, build, index: offer.index, is_ahead }
            };
            let now = self.best((turn, build), &now, judge, |_| true).map(choice(false));
            let may_go = |run| judge.may_go_ahead(run);
            now.or_else(|| self.best((turn, build), &ahead, judge, may_go).map(choice(true)))
        })
    }

    /// Among several machines the cheapest for the first run; for a single one, that of the first few
    /// runs whose inputs are there soonest. A run that had better wait is passed over, and so is one that
    /// was lost on a machine that has not answered since, if there is another one.
    fn best<'a>(
        &self,
        (turn, build): (&Turn, &Arc<str>),
        offers: &[Offer<'a>],
        judge: &impl Judge,
        may_go: impl Fn(RunId) -> bool,
    ) -> Option<(RunId, Offer<'a>)> {
        if offers.is_empty() {
            return None;
        }
        let class = self.classes.get(&turn.class)?;
        let candidates = class.ready.candidates(turn.rank, &turn.person, build, LOOK_AHEAD);
        let candidates = candidates.filter(|run| may_go(*run));
        let mut willing = candidates.filter_map(|run| {
            let (cost, offer) = cheapest(run, offers, judge)?;
            let waits = self.waits_for_here(run, turn.class, offer.machine, judge)
                || (is_feared(cost, &offer) && self.has_other(class, &turn.person, offer.machine));
            (!waits).then_some(((cost.was_lost, cost.moving), run, offer))
        });
        let chosen = if offers.len() == 1 { willing.min_by_key(|(cost, ..)| *cost) } else { willing.next() };
        chosen.map(|(_, run, offer)| (run, offer))
    }

    /// This machine, if it could run the class and has no slot free.
    fn full_here(&self, class: ClassId) -> Option<&Machine> {
        let machines = self.classes.get(&class)?.machines.iter().map(|index| &self.machines[index]);
        let mut here = machines.filter(|machine| !machine.site.is_remote && machine.is_taking());
        here.find(|machine| machine.best_room().now == 0)
    }

    fn take(&mut self, choice: Choice<'_>, person: &Arc<str>) -> Option<Assigned> {
        let Choice { run, build, index, is_ahead } = choice;
        let machine = self.machines.get_mut(&index)?;
        machine.take(person, build);
        let (worker, grant) = (machine.name.clone(), machine.present_grant());
        self.note_room(index);
        Some(Assigned { run, worker, person: person.clone(), build: build.clone(), grant, is_ahead })
    }
}

/// The machine on which a run costs least; among equals that with the most room. One that is feared comes
/// after all others.
fn cheapest<'a>(run: RunId, offers: &[Offer<'a>], judge: &impl Judge) -> Option<(Cost, Offer<'a>)> {
    let costs = offers.iter().map(|offer| (judge.cost(run, offer.machine), *offer));
    costs.min_by_key(|(cost, offer)| {
        (is_feared(*cost, offer), *cost, Reverse(offer.room.now), Reverse(offer.room.ahead))
    })
}

/// Whether a run was lost there, and nothing was answered since.
fn is_feared(cost: Cost, offer: &Offer<'_>) -> bool {
    cost.was_lost && offer.machine.losses() > 0
}
