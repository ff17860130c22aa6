//! What is wanted of each machine, for those who tell it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::pool::ClassId;
use super::{Effect, Queue};
use crate::execution::grants::{Demand, MOST_TOLD};

/// Runs that would go to another machine than they are on: by class, the machine they are on, person and
/// build.
type Movable = BTreeMap<(ClassId, Arc<str>, Arc<str>, Arc<str>), usize>;

impl Queue {
    /// What is wanted of a machine: what waits that it could run, and what it was given.
    pub fn demand(&self, machine: &str) -> Demand {
        self.demand_with(machine, &self.movable())
    }

    /// The machines of which something else is wanted than was told last, with that. From now on
    /// [`Effect::DemandChanged`] says, once, that it may be asked again.
    pub fn demands(&mut self) -> Vec<(Arc<str>, Demand)> {
        self.is_watched = true;
        self.pool.take_change();
        let movable = self.movable();
        let mut changed = Vec::new();
        for machine in self.pool.machines().filter(|machine| machine.left_at.is_none()) {
            let demand = self.demand_with(&machine.name, &movable);
            if !self.pool.told(&machine.name).is_some_and(|told| is_known(told, &demand)) {
                changed.push((machine.name, demand));
            }
        }
        for (name, demand) in &changed {
            self.pool.note_told(name, demand.clone());
        }
        changed
    }

    /// After every event.
    pub(super) fn note_demand(&mut self) {
        if self.is_watched && self.pool.take_change() {
            self.is_watched = false;
            self.effects.push(Effect::DemandChanged);
        }
    }

    fn demand_with(&self, machine: &str, movable: &Movable) -> Demand {
        let mut wants = self.pool.wants(machine);
        for ((class, worker, person, build), count) in movable {
            if **worker != *machine && self.pool.fits(machine, *class) {
                wants.entry(person, build).spare += count;
            }
        }
        wants.into_demand()
    }

    /// Runs that wait for slots where they were sent ahead, and those that take too long.
    fn movable(&self) -> Movable {
        let mut movable = Movable::new();
        for id in self.ahead.iter().chain(&self.stragglers) {
            let (Some(attempt), Some(run)) = (self.attempts.get(id), self.runs.get(&id.run)) else {
                continue;
            };
            let (person, build) = (attempt.person.clone(), attempt.build.clone());
            *movable.entry((run.class, attempt.worker.clone(), person, build)).or_default() += 1;
        }
        movable
    }
}

/// Whether a machine would do nothing else if it was told. Where more waits than it could ever run, what
/// it was given makes no difference.
fn is_known(told: &Demand, now: &Demand) -> bool {
    told.wants.len() == now.wants.len()
        && told.wants.iter().zip(&now.wants).all(|(told, now)| {
            told == now
                || (told.waiting == MOST_TOLD
                    && now.waiting == MOST_TOLD
                    && (&told.person, &told.build, told.priority) == (&now.person, &now.build, now.priority))
        })
}
