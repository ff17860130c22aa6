//! [`Checker`]: what must not be lost.

use std::collections::BTreeSet;

use super::{EntryKey, Farm, Standing};

/// Looks on from outside.
#[derive(Debug, Default)]
pub(super) struct Checker {
    /// All that was written.
    written: BTreeSet<EntryKey>,
    /// What had as many copies as there should be at some time.
    protected: BTreeSet<EntryKey>,
    /// What had to go somewhere for want of room, though it counted there.
    excused: BTreeSet<EntryKey>,
    /// Machines whose copies were lost since everything was complete.
    pub lost: usize,
    /// Copies there should have been then.
    pub redundancy: usize,
}

// === impl Checker ===

impl Checker {
    pub(super) fn written(&mut self, key: EntryKey) {
        self.written.insert(key);
        self.excused.remove(&key);
    }

    pub(super) fn evicted(&mut self, key: EntryKey, standing: Standing) {
        if standing != Standing::Spare {
            self.excused.insert(key);
            self.protected.remove(&key);
        }
    }

    pub(super) fn keys(&self) -> Vec<EntryKey> {
        self.written.iter().copied().collect()
    }
}

// === impl Farm ===

impl Farm {
    /// Copies there should be, as things are.
    pub(super) fn wanted(&self) -> usize {
        let counting = self.machines.iter().filter(|machine| machine.keeps()).count();
        self.setup.copies.min(counting)
    }

    /// Copies that are there to stay: one that is spare may go at any time.
    fn copies_of(&self, key: &EntryKey) -> usize {
        let kept = |machine: &super::Machine| machine.store.entries.get(key).map(|kept| kept.standing);
        let stays = |standing: Standing| standing != Standing::Spare;
        self.machines.iter().filter(|machine| machine.keeps() && kept(machine).is_some_and(stays)).count()
    }

    /// Notes what is protected now, and whether everything is complete.
    pub(super) fn look_on(&mut self) {
        let wanted = self.wanted();
        if wanted < self.setup.copies {
            return;
        }
        for key in self.checker.keys() {
            if self.copies_of(&key) >= wanted && !self.checker.excused.contains(&key) {
                self.checker.protected.insert(key);
            }
        }
        if self.checker.protected.iter().all(|key| self.copies_of(key) >= wanted) {
            (self.checker.lost, self.checker.redundancy) = (0, wanted);
        }
    }

    /// Nothing that was protected is lost: some machine has it on its disk.
    pub(super) fn check_nothing_is_lost(&self) {
        for key in &self.checker.protected {
            let has = |machine: &super::Machine| !machine.is_gone && machine.store.has(key);
            assert!(self.machines.iter().any(has), "{key:?} is lost at {:?}", self.now);
        }
    }

    /// Everything that is anywhere, and not only as a spare copy of what never had others, has its copies.
    pub(super) fn check_complete(&self) {
        self.check_nothing_is_lost();
        let wanted = self.wanted();
        for machine in self.machines.iter().filter(|machine| machine.is_up) {
            for (key, kept) in &machine.store.entries {
                let is_promised = self.checker.protected.contains(key) || kept.standing != Standing::Spare;
                if !is_promised || self.checker.excused.contains(key) {
                    continue;
                }
                let copies = self.copies_of(key);
                assert!(
                    copies >= wanted,
                    "{:?} has {key:?} as {:?}, of which there are {copies} of {wanted} copies at {:?}",
                    machine.id,
                    kept.standing,
                    self.now,
                );
            }
        }
    }

    /// Whether no machine has anything to do.
    pub(super) fn is_settled(&self) -> bool {
        let up = self.machines.iter().filter(|machine| machine.is_up);
        up.clone()
            .all(|machine| machine.owed.is_settled() && machine.calls.is_empty() && machine.roster.is_some())
    }
}
