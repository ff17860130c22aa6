//! [`Ahead`]: attempts that were sent ahead of their slots, and have not begun.
//!
//! There may be one for each slot of the farm. Whoever asks which of them could begin elsewhere, or how many
//! would, looks at kinds and not at each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::AttemptId;
use super::pool::ClassId;

/// What attempts have in common that have the same places to go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    pub class: ClassId,
    pub person: Arc<str>,
    pub build: Arc<str>,
    /// Where they wait.
    pub worker: Arc<str>,
}

/// A class, person and build.
type Group = (ClassId, Arc<str>, Arc<str>);

#[derive(Debug, Default)]
pub(super) struct Ahead {
    kinds: BTreeMap<Kind, BTreeSet<AttemptId>>,
    /// How many there are of each group, wherever they wait.
    groups: BTreeMap<Group, usize>,
}

// === impl Ahead ===

impl Ahead {
    pub(super) fn insert(&mut self, kind: Kind, id: AttemptId) {
        *self.groups.entry(kind.group()).or_default() += 1;
        self.kinds.entry(kind).or_default().insert(id);
    }

    pub(super) fn remove(&mut self, kind: &Kind, id: AttemptId) {
        let Some(attempts) = self.kinds.get_mut(kind) else { return };
        if !attempts.remove(&id) {
            return;
        }
        if attempts.is_empty() {
            self.kinds.remove(kind);
        }
        let group = kind.group();
        if let Some(count) = self.groups.get_mut(&group) {
            *count -= 1;
            if *count == 0 {
                self.groups.remove(&group);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    /// How many there are of each group.
    pub(super) fn groups(&self) -> impl Iterator<Item = (&Group, usize)> {
        self.groups.iter().map(|(group, count)| (group, *count))
    }

    /// How many of a group wait at `worker`.
    pub(super) fn count_at(&self, (class, person, build): &Group, worker: &str) -> usize {
        let (class, person, build) = (*class, person.clone(), build.clone());
        let kind = Kind { class, person, build, worker: worker.into() };
        self.kinds.get(&kind).map_or(0, BTreeSet::len)
    }

    /// The oldest of the kinds that `may_go`.
    pub(super) fn oldest(&self, may_go: impl Fn(&Kind) -> bool) -> Option<(Kind, AttemptId)> {
        let kinds = self.kinds.iter().filter(|(kind, _)| may_go(kind));
        let oldest = kinds.filter_map(|(kind, attempts)| Some((kind, *attempts.first()?)));
        oldest.min_by_key(|(_, id)| *id).map(|(kind, id)| (kind.clone(), id))
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &AttemptId> {
        self.kinds.values().flatten()
    }
}

// === impl Kind ===

impl Kind {
    fn group(&self) -> Group {
        (self.class, self.person.clone(), self.build.clone())
    }
}
