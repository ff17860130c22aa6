//! [`Journal`]: operations in the order of their last change.
//!
//! Who has seen everything up to change N asks what changed after it, and gets the present state of
//! each of these once: states between are skipped by themselves, and a slow reader costs nothing. All
//! live operations are there, and the latest of the finished ones. When a finished one is dropped, the
//! journal remembers up to where: a reader that had not seen its end must begin anew
//! ([`forgotten`](Journal::forgotten)).
//!
//! What is kept for each operation is none of this module's business, nor who gives the numbers; they
//! must only grow.

use std::collections::{BTreeMap, HashMap};
use std::iter;
use std::sync::Arc;

use crate::execution::OperationId;

/// Values by operation, in the order of their last change.
#[derive(Debug)]
pub(super) struct Journal<V> {
    slots: HashMap<OperationId, Slot<V>>,
    live: BTreeMap<u64, OperationId>,
    finished: BTreeMap<u64, OperationId>,
    /// Finished ones that are kept.
    kept: usize,
    forgotten: u64,
}

#[derive(Debug)]
struct Slot<V> {
    changed: u64,
    is_live: bool,
    /// Shared with readers, which take their time.
    value: Arc<V>,
}

// === impl Journal ===

impl<V: Clone> Journal<V> {
    /// An empty one that keeps so many finished operations.
    pub(super) fn new(kept: usize) -> Self {
        let (live, finished) = (BTreeMap::new(), BTreeMap::new());
        Self { slots: HashMap::new(), live, finished, kept, forgotten: 0 }
    }

    /// Takes in a new operation, by change number `change`.
    pub(super) fn insert(&mut self, change: u64, id: OperationId, value: impl Into<Arc<V>>, is_live: bool) {
        self.remove(id);
        self.slots.insert(id, Slot { changed: change, is_live, value: value.into() });
        self.order(is_live).insert(change, id);
        self.forget();
    }

    /// The operation called `id`.
    pub(super) fn get(&self, id: OperationId) -> Option<&V> {
        self.slots.get(&id).map(|slot| &*slot.value)
    }

    /// Changes an operation, which stays live or finished as it was; `false` if it is not here.
    pub(super) fn change(&mut self, change: u64, id: OperationId, edit: impl FnOnce(&mut V)) -> bool {
        let Some(slot) = self.slots.get_mut(&id) else { return false };
        let before = std::mem::replace(&mut slot.changed, change);
        edit(Arc::make_mut(&mut slot.value));
        let order = if slot.is_live { &mut self.live } else { &mut self.finished };
        order.remove(&before);
        order.insert(change, id);
        true
    }

    /// Changes a live operation for the last time; `false` if it is not here, or over already.
    pub(super) fn finish(&mut self, change: u64, id: OperationId, edit: impl FnOnce(&mut V)) -> bool {
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.is_live) else { return false };
        let before = std::mem::replace(&mut slot.changed, change);
        slot.is_live = false;
        edit(Arc::make_mut(&mut slot.value));
        self.live.remove(&before);
        self.finished.insert(change, id);
        self.forget();
        true
    }

    /// What changed after number `after`, the oldest change first. Finished operations that were last
    /// changed before number `floor` are left out.
    pub(super) fn changed(&self, after: u64, floor: u64) -> impl Iterator<Item = (u64, &Arc<V>)> {
        let first = after.saturating_add(1);
        let mut live = self.live.range(first..).peekable();
        let mut finished = self.finished.range(first.max(floor)..).peekable();
        let in_order = iter::from_fn(move || match (live.peek(), finished.peek()) {
            (Some((a, _)), Some((b, _))) if b < a => finished.next(),
            (None, Some(_)) => finished.next(),
            _ => live.next(),
        });
        in_order.filter_map(|(change, id)| Some((*change, &self.slots.get(id)?.value)))
    }

    /// The change number from which on there are the latest `count` finished operations.
    pub(super) fn floor(&self, count: usize) -> u64 {
        match count.checked_sub(1) {
            Some(before) => self.finished.keys().rev().nth(before).copied().unwrap_or(0),
            None => u64::MAX,
        }
    }

    /// The latest change of an operation that is not here any more. Who has seen less may hold one
    /// whose end it will never be told.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    fn order(&mut self, is_live: bool) -> &mut BTreeMap<u64, OperationId> {
        if is_live { &mut self.live } else { &mut self.finished }
    }

    fn remove(&mut self, id: OperationId) {
        if let Some(slot) = self.slots.remove(&id) {
            self.order(slot.is_live).remove(&slot.changed);
        }
    }

    fn forget(&mut self) {
        while self.finished.len() > self.kept {
            let Some((change, id)) = self.finished.pop_first() else { return };
            self.slots.remove(&id);
            self.forgotten = change;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEPT: usize = 4;

    /// One thing that happens, to one of ten operations or to a watcher.
    #[derive(Clone, Debug)]
    enum Step {
        Insert { id: u8, is_live: bool },
        Change(u8),
        Finish(u8),
        Read { most: usize },
    }

    /// Who reads pages and applies them.
    #[derive(Default)]
    struct Watcher {
        after: u64,
        begun: u64,
        table: BTreeMap<u64, (bool, u32)>,
        snapshots: usize,
    }

    /// A value that says whose it is, whether that is live, and which version this is.
    type Value = (u64, bool, u32);

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0..10_u8, any::<bool>()).prop_map(|(id, is_live)| Step::Insert { id, is_live }),
            4 => (0..10_u8).prop_map(Step::Change),
            3 => (0..10_u8).prop_map(Step::Finish),
            2 => (1..6_usize).prop_map(|most| Step::Read { most }),
        ]
    }

    fn id(number: u64) -> OperationId {
        OperationId::from_number(number.into())
    }

    fn values(journal: &Journal<Value>) -> Vec<Value> {
        journal.changed(0, 0).map(|(_, value)| **value).collect()
    }

    impl Watcher {
        fn read(&mut self, journal: &Journal<Value>, now: u64, most: usize) {
            if journal.forgotten() > self.after.max(self.begun) {
                *self = Self { begun: now, snapshots: self.snapshots + 1, ..Self::default() };
            }
            let page: Vec<_> = journal.changed(self.after, 0).take(most).collect();
            self.after = if page.len() < most { now } else { page.last().map_or(now, |last| last.0) };
            for (_, (id, is_live, version)) in page.iter().map(|(change, value)| (change, ***value)) {
                self.table.insert(id, (is_live, version));
            }
        }
    }

    proptest! {
        /// However a watcher falls behind, and wherever its pages are cut: in the end it holds what a
        /// fresh snapshot has, and nothing else that it takes for live.
        #[test]
        fn a_watcher_ends_with_what_is_there(steps in prop::collection::vec(step(), 0..120)) {
            let mut journal: Journal<Value> = Journal::new(KEPT);
            let mut watcher = Watcher::default();
            let (mut now, mut version) = (0, 0);
            // Each operation comes once; a second one of that number is another.
            let mut lives = [0_u64; 10];
            for step in steps {
                version += 1;
                let name = |lives: &[u64; 10], number: u8| u64::from(number) * 1000 + lives[usize::from(number)];
                let edit = |value: &mut Value| value.2 = version;
                match step {
                    Step::Insert { id: number, is_live } => {
                        let before = name(&lives, number);
                        if journal.get(id(before)).is_some_and(|value| value.1) {
                            continue;
                        }
                        lives[usize::from(number)] += 1;
                        let name = name(&lives, number);
                        now += 1;
                        journal.insert(now, id(name), (name, is_live, version), is_live);
                    }
                    Step::Change(number) => {
                        now += u64::from(journal.change(now + 1, id(name(&lives, number)), edit));
                    }
                    Step::Finish(number) => {
                        let finish = |value: &mut Value| *value = (value.0, false, version);
                        now += u64::from(journal.finish(now + 1, id(name(&lives, number)), finish));
                    }
                    Step::Read { most } => watcher.read(&journal, now, most),
                }
                prop_assert!(journal.finished.len() <= KEPT);
                prop_assert_eq!(journal.slots.len(), journal.finished.len() + journal.live.len());
            }
            while watcher.after < now || journal.forgotten() > watcher.after {
                watcher.read(&journal, now, 3);
            }
            for (name, is_live, version) in values(&journal) {
                prop_assert_eq!(watcher.table.get(&name), Some(&(is_live, version)));
            }
            let alive = watcher.table.iter().filter(|(_, (is_live, _))| *is_live);
            prop_assert_eq!(alive.count(), journal.live.len());
        }
    }

    #[test]
    fn changes_come_in_order_and_each_operation_once() {
        let mut journal = Journal::new(KEPT);
        for number in 1..=3 {
            journal.insert(number, id(number), (number, true, 0), true);
        }
        assert!(journal.change(4, id(1), |value| value.2 = 7));
        assert!(journal.finish(5, id(2), |value| value.1 = false));
        assert!(!journal.finish(6, id(2), |_| panic!("it is over")));
        assert!(!journal.change(6, id(9), |_| panic!("nobody knows it")));
        let numbers =
            |after, floor| journal.changed(after, floor).map(|(change, _)| change).collect::<Vec<_>>();
        assert_eq!(numbers(0, 0), [3, 4, 5]);
        assert_eq!(numbers(3, 0), [4, 5]);
        assert_eq!(numbers(0, 6), [3, 4]);
        assert_eq!(numbers(u64::MAX, 0), [0; 0]);
    }

    #[test]
    fn the_floor_leaves_the_latest_finished_ones() {
        let mut journal = Journal::new(KEPT);
        for number in 1..=6 {
            journal.insert(number, id(number), (number, false, 0), false);
        }
        assert_eq!(journal.forgotten(), 2);
        let counts = [1, 3, 4, 100].map(|count| journal.changed(0, journal.floor(count)).count());
        assert_eq!(counts, [1, 3, 4, 4]);
        assert_eq!(journal.changed(0, journal.floor(0)).count(), 0);
    }

    #[test]
    fn readers_keep_what_they_took() {
        let mut journal = Journal::new(KEPT);
        journal.insert(1, id(1), (1, true, 0), true);
        let taken = journal.changed(0, 0).next().map(|(_, value)| Arc::clone(value)).unwrap();
        journal.change(2, id(1), |value| value.2 = 9);
        assert_eq!((taken.2, journal.get(id(1)).unwrap().2), (0, 9));
    }
}
