//! What is wanted of a machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{ClassId, Machine, Pool};
use crate::execution::grants::{Demand, MOST_TOLD, MOST_WANTS, Want};

/// What is wanted, by person and build.
#[derive(Clone, Debug, Default)]
pub(in crate::execution::queue) struct Wants(BTreeMap<(Arc<str>, Arc<str>), Want>);

impl Pool {
    /// Machines that are there, by name.
    pub(in crate::execution::queue) fn present(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.iter().filter(|(_, index)| self.machines[index].is_present()).map(|(name, _)| name)
    }

    /// Classes that a machine could run.
    pub(in crate::execution::queue) fn classes_of(&self, machine: &str) -> Vec<ClassId> {
        let Some(index) = self.names.get(machine) else { return Vec::new() };
        let classes = self.classes.iter().filter(|(_, class)| class.machines.contains(index));
        classes.map(|(id, _)| *id).collect()
    }

    /// What waits of these classes. What nobody waits for would go where nobody else wants the slots.
    pub(in crate::execution::queue) fn waiting_for(&self, classes: &[ClassId]) -> Wants {
        let mut wants = Wants::default();
        let classes = classes.iter().filter_map(|id| self.classes.get(id));
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
        wants
    }

    /// Adds what a machine has.
    pub(in crate::execution::queue) fn add_held(&self, machine: &str, wants: &mut Wants) {
        for (person, build, count) in self.machine(machine).into_iter().flat_map(Machine::held) {
            wants.entry(person, build).given += count;
        }
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
        // Nothing may be left of one whose runs all wait at that machine.
        wants.retain(|want| want.waiting + want.given + want.spare > 0);
        for want in &mut wants {
            want.waiting = about(want.waiting);
            // Of no weight unless slots are left over; then a few too many are given back.
            if want.spare > 0 {
                want.spare = want.spare.next_power_of_two().min(MOST_TOLD);
            }
        }
        wants.sort_by_key(|want| want.priority);
        wants.truncate(MOST_WANTS);
        Demand { wants }
    }
}

/// A number that is at least this one, and more by an eighth at most: the more wait, the less it matters
/// how many, and machines need not be told of each.
fn about(count: usize) -> usize {
    let unit = 1 << count.max(1).ilog2().saturating_sub(3);
    count.next_multiple_of(unit).min(MOST_TOLD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_wait_the_less_it_matters_how_many() {
        for count in 0..2 * MOST_TOLD {
            let told = about(count);
            assert!(told >= count.min(MOST_TOLD) && told <= count + count / 8, "{count}: {told}");
            assert!(count >= 16 || told == count);
            assert!(about(count + 1) >= told);
        }
    }
}
