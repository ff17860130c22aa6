//! [`Chart`]: which of the machines that are linked to ask for an entry, and in which order.
//!
//! Pure. The holders come first, then those that take over from one that is full or away, then those that
//! have copies to make still, then the rest: an entry is rarely anywhere else, and never asked for where
//! there is no link.

use super::placement::{MOST_COPIES, Places};
use super::roster::Roster;
use crate::cas::entry::EntryKey;
use crate::peer::MachineId;

/// The other machines there is a link to, as of one moment.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    roster: &'a Roster,
    /// In the order of their ids.
    linked: Vec<Linked>,
}

#[derive(Clone, Copy, Debug)]
struct Linked {
    id: MachineId,
    has_more: bool,
    is_slow: bool,
}

/// What a machine is asked: by their places in the list that was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Who.
    pub machine: MachineId,
    /// Places of the keys.
    pub places: Vec<usize>,
}

// === impl Chart ===

impl<'a> Chart<'a> {
    /// Of the machines in `roster` that are linked, those for which `may_have_more` holds, and those that are
    /// `slow`.
    pub fn new(roster: &'a Roster, may_have_more: impl Fn(MachineId) -> bool, slow: &[MachineId]) -> Self {
        let linked = roster.others().map(|machine| Linked {
            id: machine.id,
            has_more: may_have_more(machine.id),
            is_slow: slow.contains(&machine.id),
        });
        Self { roster, linked: linked.collect() }
    }

    /// Number of machines.
    pub fn len(&self) -> usize {
        self.linked.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.linked.is_empty()
    }

    /// Puts all machines into `order`, the likeliest to have `key` first, and of the holders the slow ones
    /// last. What was in it is gone.
    pub fn order(&self, key: &EntryKey, order: &mut Vec<MachineId>) {
        order.clear();
        let holders = self.roster.holders(key);
        order.extend(self.among(&holders).filter(|linked| !linked.is_slow).map(|linked| linked.id));
        order.extend(self.among(&holders).filter(|linked| linked.is_slow).map(|linked| linked.id));
        let places = self.roster.places(key, MOST_COPIES);
        let more = self.linked.iter().filter(|linked| linked.has_more);
        for linked in self.among(&places).chain(more).chain(&self.linked) {
            if !order.contains(&linked.id) {
                order.push(linked.id);
            }
        }
    }

    /// Whom to ask whether they have `keys`: each holder about its own, and those that may have more about
    /// all. Without keys for it a machine is asked nothing.
    pub fn questions<'k>(&self, keys: impl ExactSizeIterator<Item = &'k EntryKey>) -> Vec<Question> {
        let all = keys.len();
        let mut lists: Vec<Vec<usize>> = vec![Vec::new(); self.linked.len()];
        for (place, key) in keys.enumerate() {
            for at in self.roster.holders(key).iter().filter_map(|id| self.find(id)) {
                lists[at].push(place);
            }
        }
        for (linked, places) in self.linked.iter().zip(&mut lists) {
            if linked.has_more {
                *places = (0..all).collect();
            }
        }
        let questions = self.linked.iter().zip(lists);
        let questions = questions.map(|(linked, places)| Question { machine: linked.id, places });
        questions.filter(|question| !question.places.is_empty()).collect()
    }

    /// Those to ask for `key` when there is no time for all: the holders, and those that may have more.
    pub fn likely(&self, key: &EntryKey) -> Vec<MachineId> {
        let questions = self.questions([key].into_iter());
        questions.into_iter().map(|question| question.machine).collect()
    }

    fn among<'b>(&'b self, places: &'b Places<'_>) -> impl Iterator<Item = &'b Linked> {
        places.iter().filter_map(|id| self.linked.get(self.find(id)?))
    }

    fn find(&self, id: MachineId) -> Option<usize> {
        self.linked.binary_search_by_key(&id, |linked| linked.id).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Digest, DigestFunction};
    use crate::replication::roster::{Machine, Role};

    fn id(number: u8) -> MachineId {
        MachineId::new([number; 32])
    }

    fn key(number: u64) -> EntryKey {
        EntryKey::from(&Digest::of(DigestFunction::Sha256, &number.to_le_bytes()))
    }

    /// Machine 0 is this one, 7 transient, 8 has no link, the rest count.
    fn roster() -> Roster {
        let machine = |number: u8| Machine {
            id: id(number),
            name: format!("m{number}").into(),
            weight: 4,
            role: if number == 7 { Role::Transient } else { Role::Counts },
            is_linked: number != 8,
            boot_epoch: 1,
        };
        Roster::new(id(0), (0..9).map(machine).collect(), 3)
    }

    #[test]
    fn every_linked_machine_has_its_place_once_and_holders_come_first() {
        let roster = roster();
        let chart = Chart::new(&roster, |_| false, &[]);
        let mut order = vec![id(99)];
        for key in (0..500).map(key) {
            chart.order(&key, &mut order);
            let expected = |wanted| -> Vec<MachineId> {
                let linked = |id: &MachineId| roster.is_linked(*id) && *id != roster.me();
                roster.places(&key, wanted).iter().filter(linked).collect()
            };
            let holders = expected(3);
            assert_eq!(order[..holders.len()], holders);
            let places = expected(8);
            assert_eq!(order[..places.len()], places);
            let mut all = order.clone();
            all.sort_unstable();
            assert_eq!(all, (1..8).map(id).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_may_have_more_comes_before_the_rest_and_slow_holders_after_others() {
        let roster = Roster::new(id(0), roster().machines()[..3].to_vec(), 2);
        let three = [&roster.machines()[..3], &self::roster().machines()[6..8]].concat();
        let roster = Roster::new(id(0), three, 2);
        let slow = [id(1)];
        let chart = Chart::new(&roster, |machine| machine == id(7), &slow);
        let mut order = Vec::new();
        for key in (0..200).map(key) {
            chart.order(&key, &mut order);
            let holders: Vec<_> = roster.holders(&key).iter().filter(|holder| *holder != id(0)).collect();
            assert!(holders.contains(&order[0]) || holders.is_empty());
            if holders.len() == 2 && holders.contains(&id(1)) {
                assert_eq!(order[1], id(1), "slow, and so the last of the holders");
            }
            assert_eq!(order.len(), 4);
            assert_eq!(order[3], id(7), "it does not count, and so has no place");
        }
    }

    #[test]
    fn each_holder_is_asked_about_its_own_and_who_may_have_more_about_all() {
        let roster = roster();
        let keys: Vec<_> = (0..1000).map(key).collect();
        let chart = Chart::new(&roster, |machine| machine == id(7), &[]);
        let questions = chart.questions(keys.iter());
        assert_eq!(questions.len(), 7);
        for Question { machine, places } in questions {
            let is_asked = |key: &EntryKey| machine == id(7) || roster.is_holder(machine, key);
            let expected: Vec<usize> = (0..1000).filter(|place| is_asked(&keys[*place])).collect();
            assert_eq!(places, expected);
        }
        let likely = chart.likely(&keys[0]);
        assert!(likely.contains(&id(7)) && likely.len() <= 4);
    }

    #[test]
    fn a_machine_alone_asks_nobody() {
        let roster = Roster::new(id(0), roster().machines()[..1].to_vec(), 2);
        let chart = Chart::new(&roster, |_| true, &[]);
        assert!(chart.is_empty() && chart.questions([key(1)].iter()).is_empty());
    }
}
