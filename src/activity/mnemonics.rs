//! [`Mnemonics`]: what is known of the actions of one kind since the start.
//!
//! Names come from clients, so their number is bounded; what comes with more of them is counted
//! together, under a name that no build tool has.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::control;
use farmhand_proto::time::duration;

/// Stands for all kinds beyond the bound.
const OTHERS: &str = "(others)";

/// The kinds of actions.
#[derive(Debug)]
pub(super) struct Mnemonics {
    kinds: HashMap<Arc<str>, Mnemonic>,
    kept: usize,
}

/// One kind.
#[derive(Clone, Debug)]
pub(super) struct Mnemonic {
    name: Arc<str>,
    changed: u64,
    pub(super) lookups: u64,
    pub(super) hits: u64,
    pub(super) executed: u64,
    pub(super) failed: u64,
    pub(super) run_time: Duration,
    pub(super) saved_time: Duration,
}

// === impl Mnemonics ===

impl Mnemonics {
    /// None yet; `kept` are told apart, the others included.
    pub(super) fn new(kept: usize) -> Self {
        Self { kinds: HashMap::new(), kept }
    }

    /// The kind called `name`, changed by change number `change`.
    pub(super) fn change(&mut self, change: u64, name: &str) -> &mut Mnemonic {
        let is_room = self.kinds.len() + 1 < self.kept;
        let name = if is_room || self.kinds.contains_key(name) { name } else { OTHERS };
        if !self.kinds.contains_key(name) {
            let name: Arc<str> = name.into();
            self.kinds.insert(Arc::clone(&name), Mnemonic::new(name));
        }
        let kind = self.kinds.get_mut(name).expect("invariant: it was put there when it was missing");
        kind.changed = change;
        kind
    }

    /// `name`, shared with the kind where there is one.
    pub(super) fn name(&self, name: &str) -> Arc<str> {
        self.kinds.get(name).map_or_else(|| name.into(), |kind| Arc::clone(&kind.name))
    }

    /// Those that changed after number `after`, and not after number `to`.
    pub(super) fn changed(&self, after: u64, to: u64) -> impl Iterator<Item = &Mnemonic> {
        self.kinds.values().filter(move |kind| (after + 1..=to).contains(&kind.changed))
    }
}

// === impl Mnemonic ===

impl Mnemonic {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            changed: 0,
            lookups: 0,
            hits: 0,
            executed: 0,
            failed: 0,
            run_time: Duration::ZERO,
            saved_time: Duration::ZERO,
        }
    }

    /// When it was changed last.
    pub(super) fn changed(&self) -> u64 {
        self.changed
    }

    /// As the control API shows it.
    pub(super) fn to_wire(&self) -> control::Mnemonic {
        control::Mnemonic {
            name: self.name.to_string(),
            lookups: self.lookups,
            hits: self.hits,
            executed: self.executed,
            failed: self.failed,
            run_time: Some(duration(self.run_time)),
            saved_time: Some(duration(self.saved_time)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_much_is_counted_together() {
        let mut mnemonics = Mnemonics::new(3);
        for (change, name) in ["a", "b", "c", "d", "a"].into_iter().enumerate() {
            mnemonics.change(change as u64 + 1, name).lookups += 1;
        }
        let mut all: Vec<_> =
            mnemonics.changed(0, 9).map(|kind| (kind.name.to_string(), kind.lookups)).collect();
        all.sort();
        assert_eq!(all, [(OTHERS.to_owned(), 2), ("a".into(), 2), ("b".into(), 1)]);
        assert_eq!(mnemonics.changed(4, 9).count(), 1);
        assert!(Arc::ptr_eq(&mnemonics.name("a"), &mnemonics.name("a")));
        assert_eq!(&*mnemonics.name("d"), "d");
    }
}
