//! What is wanted of each machine, for those who tell it.

use std::sync::Arc;

use super::pool::{ClassId, Wants};
use super::{Effect, Queue};
use crate::execution::grants::{Demand, MOST_TOLD};

impl Queue {
    /// What is wanted of a machine: what waits that it could run, and what it was given.
    pub fn demand(&self, machine: &str) -> Demand {
        let classes = self.pool.classes_of(machine);
        let waiting = self.waiting_for(&classes);
        self.demand_of(machine, &classes, waiting)
    }

    /// The machines of which something else is wanted than was told last, with that. From now on
    /// [`Effect::DemandChanged`] says, once, that it may be asked again.
    pub fn demands(&mut self) -> Vec<(Arc<str>, Demand)> {
        self.is_watched = true;
        self.pool.take_change();
        let mut changed = Vec::new();
        // Most machines could run the same.
        let mut known: Option<(Vec<ClassId>, Wants)> = None;
        for machine in self.pool.present() {
            let classes = self.pool.classes_of(machine);
            let waiting = match known.take() {
                Some((of, waiting)) if of == classes => waiting,
                _ => self.waiting_for(&classes),
            };
            let demand = self.demand_of(machine, &classes, waiting.clone());
            known = Some((classes, waiting));
            if !self.pool.told(machine).is_some_and(|told| is_known(told, &demand)) {
                changed.push((machine.clone(), demand));
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

    /// What waits of these classes, or would go elsewhere than where it is.
    fn waiting_for(&self, classes: &[ClassId]) -> Wants {
        let mut wants = self.pool.waiting_for(classes);
        for ((class, person, build), count) in self.ahead.groups() {
            if classes.contains(class) {
                wants.entry(person, build).spare += count;
            }
        }
        wants
    }

    /// The same for a machine, which has some of that already.
    fn demand_of(&self, machine: &str, classes: &[ClassId], mut wants: Wants) -> Demand {
        for (group, _) in self.ahead.groups().filter(|(group, _)| classes.contains(&group.0)) {
            let want = wants.entry(&group.1, &group.2);
            want.spare = want.spare.saturating_sub(self.ahead.count_at(group, machine));
        }
        for id in &self.stragglers {
            let (Some(attempt), Some(run)) = (self.attempts.get(id), self.runs.get(&id.run)) else {
                continue;
            };
            if *attempt.worker != *machine && classes.contains(&run.class) {
                wants.entry(&attempt.person, &attempt.build).spare += 1;
            }
        }
        self.pool.add_held(machine, &mut wants);
        wants.into_demand()
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
