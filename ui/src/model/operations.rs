//! The operations of the farm, by key and by name, and which of them wait, run, and are over.
//!
//! Every change costs the logarithm of what there is, and is noted, so that lists made from this
//! table need not be made anew.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use farmhand_proto::control;

use super::op::{Op, OpKey, Status};
use super::time::Stamp;
use crate::sanitize;

/// Operations that are over and kept while nobody looks further back.
const HISTORY: usize = 4096;

/// Operations that are over and kept when somebody does.
const HISTORY_LOADED: usize = 20_000;

/// Operations that wait or run and are kept; more than this no farm of this kind has.
const IN_FLIGHT: usize = 100_000;

/// Changes noted; after more of them, lists are made anew.
const NOTED: usize = 4096;

/// Texts that operations have in common, before those nobody uses are forgotten.
const SHARED: usize = 16_384;

/// The operations.
#[derive(Clone, Debug, Default)]
pub(crate) struct Operations {
    table: HashMap<OpKey, Op>,
    names: HashMap<Arc<str>, OpKey>,
    queued: BTreeSet<(Option<Stamp>, OpKey)>,
    running: BTreeSet<(Option<Stamp>, OpKey)>,
    over: BTreeMap<u64, OpKey>,
    /// Operations that a snapshot under way has not told yet; they go when it is complete.
    doubtful: HashSet<OpKey>,
    keeps_loaded: bool,
    next: u64,
    changes: Changes,
    shared: HashSet<Arc<str>>,
}

/// What changed since somebody looked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Changes {
    /// Anything may have.
    All,
    /// These did, or went.
    Some(Vec<OpKey>),
}

// === impl Changes ===

impl Default for Changes {
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

impl Changes {
    fn note(&mut self, key: OpKey) {
        match self {
            Self::Some(keys) if keys.len() < NOTED => keys.push(key),
            _ => *self = Self::All,
        }
    }
}

// === impl Operations ===

impl Operations {
    /// The operation of a key.
    pub(crate) fn get(&self, key: OpKey) -> Option<&Op> {
        self.table.get(&key)
    }

    /// The key of an operation's name.
    pub(crate) fn key_of(&self, name: &str) -> Option<OpKey> {
        self.names.get(name).copied()
    }

    /// All, in no order.
    pub(crate) fn all(&self) -> impl Iterator<Item = (OpKey, &Op)> {
        self.table.iter().map(|(key, op)| (*key, op))
    }

    /// Those that wait, the longest first.
    pub(crate) fn queued(&self) -> impl DoubleEndedIterator<Item = (OpKey, &Op)> {
        self.queued.iter().filter_map(|(_, key)| Some((*key, self.table.get(key)?)))
    }

    /// Those that run, the longest first.
    pub(crate) fn running(&self) -> impl DoubleEndedIterator<Item = (OpKey, &Op)> {
        self.running.iter().filter_map(|(_, key)| Some((*key, self.table.get(key)?)))
    }

    /// Those that are over, the newest first.
    pub(crate) fn over(&self) -> impl DoubleEndedIterator<Item = (OpKey, &Op)> {
        self.over.values().rev().filter_map(|key| Some((*key, self.table.get(key)?)))
    }

    /// How many wait, run, and are over, of those known here.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        (self.queued.len(), self.running.len(), self.over.len())
    }

    /// What changed since this was last asked.
    pub(crate) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// Takes what the node tells of an operation. The one before, if it was known.
    pub(crate) fn put(&mut self, wire: &control::Operation) -> (OpKey, Option<Op>) {
        let shared = &mut self.shared;
        let op = Op::of(wire, &mut |text| share(shared, text));
        let key = self.names.get(&op.name).copied().unwrap_or_else(|| {
            self.next += 1;
            OpKey(self.next)
        });
        self.doubtful.remove(&key);
        let before = self.table.remove(&key);
        if let Some(before) = &before {
            self.unlist(key, before);
        }
        self.list(key, &op);
        self.names.insert(op.name.clone(), key);
        self.table.insert(key, op);
        self.changes.note(key);
        self.forget_the_oldest();
        (key, before)
    }

    /// A snapshot begins: what it does not tell is void.
    pub(crate) fn begin_anew(&mut self) {
        self.doubtful = self.table.keys().copied().collect();
    }

    /// The snapshot is complete.
    pub(crate) fn complete(&mut self) {
        for key in std::mem::take(&mut self.doubtful) {
            self.remove(key);
        }
    }

    /// Whether operations from far back are kept, because somebody looks at them.
    pub(crate) fn keep_loaded(&mut self, keep: bool) {
        self.keeps_loaded = keep;
        self.forget_the_oldest();
    }

    /// Whether there is room for operations from further back.
    pub(crate) fn has_room(&self) -> bool {
        self.over.len() < HISTORY_LOADED
    }

    fn list(&mut self, key: OpKey, op: &Op) {
        match op.status {
            Status::Queued => drop(self.queued.insert((op.queued, key))),
            Status::Running => drop(self.running.insert((op.since(), key))),
            // A node that numbers two operations alike loses the earlier one here.
            _ => {
                if let Some(other) = self.over.insert(op.sequence, key).filter(|other| *other != key) {
                    self.drop_op(other);
                }
            }
        }
    }

    fn unlist(&mut self, key: OpKey, op: &Op) {
        match op.status {
            Status::Queued => drop(self.queued.remove(&(op.queued, key))),
            Status::Running => drop(self.running.remove(&(op.since(), key))),
            _ => {
                if self.over.get(&op.sequence) == Some(&key) {
                    self.over.remove(&op.sequence);
                }
            }
        }
    }

    fn remove(&mut self, key: OpKey) {
        if let Some(op) = self.table.get(&key).cloned() {
            self.unlist(key, &op);
            self.drop_op(key);
        }
    }

    /// Forgets an operation that is in no list any more.
    fn drop_op(&mut self, key: OpKey) {
        if let Some(op) = self.table.remove(&key) {
            self.names.remove(&op.name);
        }
        self.doubtful.remove(&key);
        self.changes.note(key);
    }

    fn forget_the_oldest(&mut self) {
        let limit = if self.keeps_loaded { HISTORY_LOADED } else { HISTORY };
        while self.over.len() > limit {
            if let Some((_, key)) = self.over.pop_first() {
                self.drop_op(key);
            }
        }
        while self.queued.len() + self.running.len() > IN_FLIGHT {
            match self.queued.pop_last().or_else(|| self.running.pop_last()) {
                Some((_, key)) => self.drop_op(key),
                None => break,
            }
        }
    }
}

/// The one copy of a text that many operations have.
fn share(shared: &mut HashSet<Arc<str>>, text: &str) -> Arc<str> {
    if let Some(known) = shared.get(text) {
        return known.clone();
    }
    if shared.len() >= SHARED {
        shared.retain(|text| Arc::strong_count(text) > 1);
    }
    let clean = sanitize::shared(text);
    // A hostile text is not found by its own bytes, and is made harmless each time.
    if shared.len() < SHARED && &*clean == text {
        shared.insert(clean.clone());
    }
    clean
}

#[cfg(test)]
mod tests {
    use farmhand_proto::control::operation::Stage;
    use proptest::prelude::*;

    use super::*;

    fn wire(name: u8, stage: Stage, sequence: u64) -> control::Operation {
        let mut op = control::Operation { name: format!("op{name}"), sequence, ..Default::default() };
        op.set_stage(stage);
        op
    }

    fn consistent(ops: &Operations) -> Result<(), TestCaseError> {
        let (queued, running, over) = ops.counts();
        prop_assert_eq!(queued + running + over, ops.table.len());
        prop_assert_eq!(ops.names.len(), ops.table.len());
        prop_assert_eq!(ops.queued().count() + ops.running().count() + ops.over().count(), ops.table.len());
        Ok(())
    }

    #[test]
    fn an_operation_moves_from_list_to_list() {
        let mut ops = Operations::default();
        let (key, before) = ops.put(&wire(1, Stage::Queued, 0));
        assert!(before.is_none() && ops.counts() == (1, 0, 0));
        ops.put(&wire(1, Stage::Running, 0));
        assert_eq!(ops.counts(), (0, 1, 0));
        let (same, before) = ops.put(&wire(1, Stage::Done, 9));
        assert_eq!((same, before.unwrap().status), (key, Status::Running));
        assert_eq!(ops.take_changes(), Changes::Some(vec![key; 3]));
        assert_eq!(ops.take_changes(), Changes::default());
    }

    #[test]
    fn a_snapshot_voids_what_it_does_not_tell() {
        let mut ops = Operations::default();
        let (kept, _) = ops.put(&wire(1, Stage::Queued, 0));
        ops.put(&wire(2, Stage::Running, 0));
        ops.begin_anew();
        ops.put(&wire(1, Stage::Running, 0));
        assert_eq!(ops.counts(), (0, 2, 0));
        ops.complete();
        assert_eq!(ops.all().map(|(key, _)| key).collect::<Vec<_>>(), [kept]);
    }

    #[test]
    fn the_history_is_bounded() {
        let mut ops = Operations::default();
        for sequence in 1..=HISTORY as u64 + 10 {
            let mut op = wire(0, Stage::Done, sequence);
            op.name = format!("op{sequence}");
            ops.put(&op);
        }
        assert_eq!(ops.counts(), (0, 0, HISTORY));
        assert_eq!(ops.over().next().unwrap().1.sequence, HISTORY as u64 + 10);
        assert_eq!(ops.take_changes(), Changes::All);
    }

    proptest! {
        #[test]
        fn the_lists_add_up(events in prop::collection::vec((0..12_u8, 0..4_u8, 0..6_u64), 0..80)) {
            let mut ops = Operations::default();
            for (name, what, sequence) in events {
                match what {
                    0 => drop(ops.put(&wire(name, Stage::Queued, 0))),
                    1 => drop(ops.put(&wire(name, Stage::Running, 0))),
                    2 => drop(ops.put(&wire(name, Stage::Done, sequence))),
                    _ if name < 6 => ops.begin_anew(),
                    _ => ops.complete(),
                }
                consistent(&ops)?;
            }
        }
    }
}
