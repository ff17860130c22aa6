//! What is wanted of a machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ClassId, Pool};
use crate::execution::grants::{Demand, MOST_TOLD, MOST_WANTS, Want};

/// What is wanted, by person and build.
#[derive(Debug, Default)]
pub(in crate::execution::queue) struct Wants(BTreeMap<(Arc<str>, Arc<str>), Want>);

impl Pool {
    /// What waits that a machine could run, and what it has. What nobody waits for would go there if nobody
    /// else wants the slots.
    pub(in crate::execution::queue) fn wants(&self, machine: &str) -> Wants {
        let mut wants = Wants::default();
        let Some(index) = self.names.get(machine) else { return wants };
        let classes = self.classes.values().filter(|class| class.machines.contains(index));
        for line in classes.flat_map(|class| class.ready.lines()) {
            let want = wants.entry(line.person, line.build);
            if line.rank.alone {
                want.spare += line.count;
            } else {
                let is_first = want.waiting == 0;
                want.priority =
                    if is_first { line.rank.priority } else { want.priority.min(line.rank.priority) };
                want.waiting += line.count;
            }
        }
        for (person, build, count) in self.machines[index].held() {
            wants.entry(person, build).given += count;
        }
        wants
    }

    /// Whether a machine could run a class.
    pub(in crate::execution::queue) fn fits(&self, machine: &str, class: ClassId) -> bool {
        let Some(index) = self.names.get(machine) else { return false };
        self.classes.get(&class).is_some_and(|class| class.machines.contains(index))
    }

    /// Whether anything of a build waits that somebody waits for.
    pub(in crate::execution::queue) fn waits(&self, person: &str, build: &str) -> bool {
        self.classes.values().any(|class| class.ready.waits(person, build))
    }

    /// What a machine was told last.
    pub(in crate::execution::queue) fn told(&self, machine: &str) -> Option<&Demand> {
        self.machine(machine).map(|machine| &machine.demand)
    }

    /// A machine is told that.
    pub(in crate::execution::queue) fn note_told(&mut self, machine: &str, demand: Demand) {
        let Some(index) = self.names.get(machine) else { return };
        if let Some(machine) = self.machines.get_mut(index) {
            machine.demand = demand;
        }
    }

    /// Something changed that demands depend on.
    pub(in crate::execution::queue) fn note_change(&mut self) {
        self.is_changed = true;
    }

    /// Whether something has changed that demands depend on, since this was asked last.
    pub(in crate::execution::queue) fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }
}

// === impl Wants ===

impl Wants {
    /// What is wanted for a build.
    pub(in crate::execution::queue) fn entry(&mut self, person: &Arc<str>, build: &Arc<str>) -> &mut Want {
        self.0.entry((person.clone(), build.clone())).or_insert_with(|| Want {
            person: person.clone(),
            build: build.clone(),
            waiting: 0,
            given: 0,
            spare: 0,
            priority: 0,
        })
    }

    /// The same in words for the machine, the most urgent first.
    pub(in crate::execution::queue) fn into_demand(self) -> Demand {
        let mut wants: Vec<_> = self.0.into_values().collect();
        for want in &mut wants {
            want.waiting = want.waiting.min(MOST_TOLD);
            want.spare = want.spare.min(MOST_TOLD);
        }
        wants.sort_by_key(|want| want.priority);
        wants.truncate(MOST_WANTS);
        Demand { wants }
    }
}
