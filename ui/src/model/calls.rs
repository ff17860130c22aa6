//! Calls to the node: which are under way, and whether an answer still matters.

use std::collections::BTreeMap;

use crate::message::{Call, CallId, Command, Slot, Todo};

/// Deeds of a person that may be under way at a time.
const DEEDS: u8 = 8;

/// Calls that are under way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    next: u64,
    next_deed: u8,
    open: BTreeMap<Slot, u64>,
}

// === impl Calls ===

impl Calls {
    /// Asks the node. An earlier call of the same slot is given up.
    pub(crate) fn ask(&mut self, slot: Slot, call: Call, todo: &mut Todo) {
        self.next += 1;
        self.open.insert(slot, self.next);
        todo.push(Command::Call(CallId { slot, serial: self.next }, Box::new(call)));
    }

    /// A slot for something a person did.
    pub(crate) fn deed(&mut self) -> Slot {
        self.next_deed = (self.next_deed + 1) % DEEDS;
        Slot::Deed(self.next_deed)
    }

    /// Gives up the call of a slot.
    pub(crate) fn cancel(&mut self, slot: Slot, todo: &mut Todo) {
        if self.open.remove(&slot).is_some() {
            todo.push(Command::Cancel(slot));
        }
    }

    /// Whether an answer to `id` still matters.
    pub(crate) fn is_open(&self, id: CallId) -> bool {
        self.open.get(&id.slot) == Some(&id.serial)
    }

    /// Whether a slot waits for something.
    pub(crate) fn is_waiting(&self, slot: Slot) -> bool {
        self.open.contains_key(&slot)
    }

    /// The call is over.
    pub(crate) fn close(&mut self, id: CallId) {
        if self.is_open(id) {
            self.open.remove(&id.slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use farmhand_proto::control::GetSettingsRequest;

    use super::*;

    #[test]
    fn a_later_call_takes_the_place_of_an_earlier_one() {
        let (mut calls, mut todo) = (Calls::default(), Todo::default());
        let ask = |calls: &mut Calls, todo: &mut Todo| {
            calls.ask(Slot::Settings, Call::Settings(GetSettingsRequest {}), todo);
            match todo.commands.last() {
                Some(Command::Call(id, _)) => *id,
                other => panic!("{other:?}"),
            }
        };
        let first = ask(&mut calls, &mut todo);
        let second = ask(&mut calls, &mut todo);
        assert!(!calls.is_open(first) && calls.is_open(second));
        calls.close(first);
        assert!(calls.is_waiting(Slot::Settings));
        calls.cancel(Slot::Settings, &mut todo);
        assert!(!calls.is_open(second));
        assert_eq!(todo.commands.last(), Some(&Command::Cancel(Slot::Settings)));
    }
}
