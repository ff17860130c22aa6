//! What other machines say.

use std::collections::HashMap;

use tokio::time::Instant;

use super::Owed;
use super::model::{Item, Kind, Stage};
use super::peer::Request;
use crate::cas::entry::{EntryKey, Standing};
use crate::peer::MachineId;
use crate::replication::copies::Taken;

/// What was said of one entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Has,
    Lacks,
    Took,
    Refuses,
    /// Nothing.
    None,
}

// === impl Owed ===

impl Owed {
    pub(super) fn asked(
        &mut self,
        now: Instant,
        machine: MachineId,
        keys: &[EntryKey],
        present: Option<Vec<bool>>,
    ) {
        let present = present.filter(|present| present.len() == keys.len());
        let answer = |at: usize| match present.as_ref().map(|present| present[at]) {
            Some(true) => Answer::Has,
            Some(false) => Answer::Lacks,
            None => Answer::None,
        };
        let answers = (0..keys.len()).map(answer).collect();
        self.answered(now, machine, keys, answers, |request| request == Request::Ask);
    }

    pub(super) fn given(
        &mut self,
        now: Instant,
        machine: MachineId,
        keys: &[EntryKey],
        taken: Option<Vec<(EntryKey, Taken)>>,
    ) {
        let taken: HashMap<EntryKey, Taken> = taken.into_iter().flatten().collect();
        let answers = keys.iter().map(|key| took(taken.get(key).copied())).collect();
        self.answered(now, machine, keys, answers, |request| matches!(request, Request::Give(_)));
    }

    pub(super) fn sent(&mut self, now: Instant, machine: MachineId, key: EntryKey, taken: Option<Taken>) {
        let is_send = |request| matches!(request, Request::Send(_));
        self.answered(now, machine, &[key], vec![took(taken)], is_send);
    }

    fn answered(
        &mut self,
        now: Instant,
        machine: MachineId,
        keys: &[EntryKey],
        answers: Vec<Answer>,
        is_it: impl Fn(Request) -> bool,
    ) {
        let Some(peer) = self.peers.get_mut(&machine) else { return };
        let Some(landed) = peer.land(keys, is_it) else { return };
        if answers.contains(&Answer::None) {
            peer.failed(now, self.limits.retry);
        } else {
            peer.answered();
        }
        for ((key, counts), answer) in keys.iter().zip(landed).zip(answers) {
            if let Some(counts) = counts {
                self.take_in(now, machine, key, if counts { answer } else { Answer::None });
            }
        }
    }

    fn take_in(&mut self, now: Instant, machine: MachineId, key: &EntryKey, answer: Answer) {
        let Some(serial) = self.serials.get(key).copied() else { return };
        let is_to_be_found_again = self.items.get(&serial).is_some_and(is_to_be_found_again);
        if answer == Answer::Lacks && is_to_be_found_again {
            self.forget(key);
            self.mark(*key, Standing::Sole);
            return self.ranges.look_again(key.range());
        }
        let Some(mut item) = self.lift(serial) else { return };
        let first = item.first_stage();
        if let Some(target) = item.target(machine).filter(|target| target.stage.is_in_flight()) {
            target.stage = match answer {
                Answer::Has | Answer::Took => Stage::Has,
                Answer::Lacks => Stage::Lacking,
                Answer::Refuses => Stage::Refused,
                Answer::None if target.stage == Stage::Giving => Stage::Lacking,
                Answer::None => first,
            };
            item.is_told |= answer == Answer::Took;
            match answer {
                Answer::Lacks => self.lacks(&mut item),
                Answer::Refuses => self.choose_other(&mut item),
                _ => {}
            }
        }
        self.lay(now, serial, item);
    }

    fn lacks(&mut self, item: &mut Item) {
        if item.kind == Kind::Use {
            item.kind = Kind::Repair;
        }
        self.found_sole(item);
    }

    fn choose_other(&mut self, item: &mut Item) {
        let Some(roster) = self.roster.clone() else { return };
        let key = item.key;
        item.plan(&roster, |machine, stage| self.begin(machine, &key, stage));
    }
}

/// Whether it takes the store to tell how large it is.
fn is_to_be_found_again(item: &Item) -> bool {
    item.kind == Kind::Use && item.key.is_action()
}

fn took(taken: Option<Taken>) -> Answer {
    match taken {
        Some(Taken::Stored) => Answer::Took,
        Some(Taken::NoRoom | Taken::Bad) => Answer::Refuses,
        None => Answer::None,
    }
}
