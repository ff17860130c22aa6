//! The rules one by one, and random histories held against what is true of the other machines.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::copies::{BATCH_BYTES, BATCH_ENTRIES, Entry, Taken};
use super::super::roster::{Machine, Role};
use super::*;

mod histories;

const SECOND: Duration = Duration::from_secs(1);

fn id(number: u8) -> MachineId {
    MachineId::new([number.wrapping_mul(37) ^ 0x5a; 32])
}

fn key(number: u64, bytes: u64) -> EntryKey {
    let mut text = [0; EntryKey::LEN];
    text[0] = 1;
    for (at, byte) in text[1..33].iter_mut().enumerate() {
        *byte = (number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (at % 8 * 8)) as u8;
    }
    text[33..].copy_from_slice(&bytes.to_be_bytes());
    EntryKey::read(&text).unwrap()
}

fn machine(number: u8) -> Machine {
    let (role, name) = (Role::Counts, "".into());
    Machine { id: id(number), name, weight: 4, role, is_linked: true, boot_epoch: 1 }
}

/// A farm of so many machines, the first of which is this one.
fn farm(machines: u8, copies: usize) -> Vec<Machine> {
    assert!(usize::from(machines) >= copies);
    (0..machines).map(machine).collect()
}

/// This machine, with what it has.
struct Here {
    owed: Owed,
    now: Instant,
    copies: usize,
    store: BTreeMap<EntryKey, (u64, Standing)>,
}

impl Here {
    /// Among others, after the first walk of an empty store.
    fn among(machines: Vec<Machine>, copies: usize) -> Self {
        let owed = Owed::new(Limits::default());
        let mut here = Self { owed, now: Instant::now(), copies, store: BTreeMap::new() };
        let effects = here.farm(machines);
        assert!(effects.is_empty(), "{effects:?}");
        here
    }

    fn farm(&mut self, machines: Vec<Machine>) -> Vec<Effect> {
        let roster = Arc::new(Roster::new(id(0), machines, self.copies));
        self.apply(Event::Roster(roster))
    }

    fn write(&mut self, key: EntryKey, bytes: u64) -> Vec<Effect> {
        self.store.insert(key, (bytes, Standing::Sole));
        self.apply(Event::Stored { key, bytes })
    }

    /// What is to be done, but for marks and walks, which are done at once.
    fn apply(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = self.owed.apply(self.now, event);
        let mut to_do = Vec::new();
        while !effects.is_empty() {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Walk(range) => {
                        let entries = self.range(range);
                        effects.extend(self.owed.apply(self.now, Event::Walked { range, entries }));
                    }
                    Effect::Mark { keys, standing } => {
                        for key in keys {
                            self.store.entry(key).and_modify(|entry| entry.1 = standing);
                        }
                    }
                    other => to_do.push(other),
                }
            }
        }
        histories::check(&self.owed);
        to_do
    }

    fn range(&self, range: u8) -> Vec<Entry> {
        let in_range = self.store.iter().filter(|(key, _)| key.range() == range);
        let age = Duration::ZERO;
        in_range
            .map(|(key, (bytes, standing))| Entry { key: *key, bytes: *bytes, standing: *standing, age })
            .collect()
    }

    fn wait(&mut self, time: Duration) -> Vec<Effect> {
        self.now += time;
        self.apply(Event::Tick)
    }

    fn standing(&self, key: &EntryKey) -> Standing {
        self.store[key].1
    }

    /// The answer of a machine to what it is asked or given.
    fn answer(&mut self, effect: &Effect, has: bool, taken: Taken) -> Vec<Effect> {
        let event = match effect.clone() {
            Effect::Ask { machine, keys, .. } => {
                Event::Asked { machine, present: Some(vec![has; keys.len()]), keys }
            }
            Effect::Give { machine, keys } => {
                Event::Given { machine, taken: Some(keys.iter().map(|key| (*key, taken)).collect()), keys }
            }
            Effect::Send { machine, key } => Event::Sent { machine, key, taken: Some(taken) },
            other => panic!("{other:?} has no answer"),
        };
        self.apply(event)
    }

    /// All others lack everything, and take all they are given.
    fn settle(&mut self, effects: Vec<Effect>) {
        let mut waiting = effects;
        while let Some(effect) = waiting.pop() {
            if !matches!(effect, Effect::Settle { .. } | Effect::Look { .. }) {
                let more = self.answer(&effect, false, Taken::Stored);
                waiting.extend(more);
            }
        }
        let settled = self.wait(SECOND / 5);
        assert!(
            settled.iter().all(|effect| matches!(effect, Effect::Settle { .. } | Effect::Look { .. })),
            "{settled:?}"
        );
        assert!(self.owed.is_settled(), "{:?}", self.owed.figures(self.now));
    }
}

fn gives(effects: &[Effect]) -> Vec<(MachineId, Vec<EntryKey>)> {
    let give = |effect: &Effect| match effect {
        Effect::Give { machine, keys } => Some((*machine, keys.clone())),
        _ => None,
    };
    effects.iter().filter_map(give).collect()
}

/// A key that belongs on these machines, and only on these.
fn key_on(machines: &[Machine], holders: &[u8], bytes: u64) -> EntryKey {
    let roster = Roster::new(id(0), machines.to_vec(), holders.len());
    let wanted: BTreeSet<MachineId> = holders.iter().map(|number| id(*number)).collect();
    let keys = (0..).map(|number| key(number, bytes));
    let mut right = keys.filter(|key| roster.holders(key).iter().collect::<BTreeSet<_>>() == wanted);
    right.next().unwrap()
}

#[test]
fn a_small_write_is_given_at_once_and_marked_when_all_have_it() {
    let machines = farm(4, 2);
    let key = key_on(&machines, &[1, 2], 100);
    let mut here = Here::among(machines, 2);
    let effects = here.write(key, 100);
    assert_eq!(gives(&effects).len(), 2, "{effects:?}");
    assert_eq!(here.owed.confirmed(&key), Some(1));
    assert_eq!(here.owed.figures(here.now).writes, Amount { copies: 2, bytes: 200 });
    assert!(here.answer(&effects[0], false, Taken::Stored).is_empty());
    assert_eq!((here.owed.confirmed(&key), here.standing(&key)), (Some(2), Standing::Sole));
    here.answer(&effects[1], false, Taken::Stored);
    assert_eq!((here.owed.confirmed(&key), here.standing(&key)), (None, Standing::Spare));
    assert_eq!(here.wait(SECOND).len(), 2, "both are told");
    assert!(here.owed.is_settled());
}

#[test]
fn what_is_larger_is_asked_for_first_and_the_largest_travel_alone() {
    let machines = farm(2, 2);
    let [middle, large] = [5000, 50 << 20].map(|bytes| (key(1, bytes), bytes));
    let mut here = Here::among(machines, 2);
    let asked = here.write(middle.0, middle.1);
    assert!(here.write(large.0, large.1).is_empty(), "one question at a time");
    let effects = here.answer(&asked[0], true, Taken::Stored);
    assert_eq!(here.standing(&middle.0), Standing::Counted);
    let effects = here.answer(&effects[0], false, Taken::Stored);
    assert_eq!(effects, [Effect::Send { machine: id(1), key: large.0 }]);
    assert_eq!(here.owed.figures(here.now).lag, Some(Duration::ZERO));
    here.settle(effects);
}

#[test]
fn alone_nothing_is_owed_and_whoever_comes_gets_it() {
    let mut here = Here::among(farm(1, 1), 2);
    let key = key(7, 10);
    assert!(here.write(key, 10).is_empty() && here.owed.is_settled() && here.owed.next().is_none());
    let effects = here.farm(farm(2, 2));
    assert!(matches!(&effects[..], [Effect::Ask { extend: false, .. }]), "{effects:?}");
    here.settle(effects);
    assert_eq!(here.standing(&key), Standing::Counted);
    assert!(here.farm(farm(1, 1)).is_empty());
    assert_eq!(here.standing(&key), Standing::Sole, "it is the only one again");
    assert!(here.owed.is_settled());
}

#[test]
fn one_that_is_away_is_waited_for_and_one_that_is_gone_is_replaced() {
    let mut machines = farm(3, 2);
    let key = key_on(&machines, &[0, 1], 10);
    machines[1].is_linked = false;
    let mut here = Here::among(machines.clone(), 2);
    assert!(here.write(key, 10).is_empty());
    let figures = here.owed.figures(here.now + SECOND);
    assert_eq!((figures.writes.copies, figures.lag), (1, None), "nobody can help it");
    assert_eq!(here.owed.next(), here.owed.ranges.due(), "nothing but the comparison is waited for");
    machines[1].is_linked = true;
    assert_eq!(gives(&here.farm(machines.clone())), [(id(1), vec![key])]);
    let gone = machines[1].id;
    machines.remove(1);
    let effects = here.farm(machines);
    assert_eq!(gives(&effects).len() + effects.len(), 1, "the other is asked: {effects:?}");
    let answer = Event::Given { machine: gone, taken: Some(vec![(key, Taken::Stored)]), keys: vec![key] };
    assert!(here.apply(answer).is_empty() && here.standing(&key) == Standing::Sole);
    here.settle(effects);
}

#[test]
fn one_that_was_started_anew_is_asked_again() {
    let mut machines = farm(3, 2);
    let (with, without) = (key_on(&machines, &[0, 1], 10), key_on(&machines, &[0, 2], 10));
    let mut here = Here::among(machines.clone(), 2);
    for key in [with, without] {
        let effects = here.write(key, 10);
        here.settle(effects);
    }
    machines[1].boot_epoch = 2;
    let effects = here.farm(machines.clone());
    assert_eq!(effects, [Effect::Ask { machine: id(1), keys: vec![with], extend: false }]);
    assert_eq!([with, without].map(|key| here.standing(&key)), [Standing::Sole, Standing::Counted]);
    // What it says now may be of its last start.
    machines[1].boot_epoch = 3;
    assert!(here.farm(machines).is_empty());
    let again = here.answer(&effects[0], true, Taken::Stored);
    assert_eq!((&again, here.standing(&with)), (&effects, Standing::Sole));
    here.settle(again);
}

#[test]
fn one_without_answer_is_left_alone_for_longer_and_longer() {
    let mut machines = farm(2, 2);
    let mut here = Here::among(machines.clone(), 2);
    let key = key(3, 10);
    let mut effects = here.write(key, 10);
    for seconds in [1, 2, 4, 8, 16, 30] {
        let none = Event::Given { machine: id(1), taken: None, keys: vec![key] };
        assert!(here.apply(none).is_empty());
        assert_eq!(here.owed.next(), Some(here.now + seconds * SECOND));
        assert_eq!(here.wait(seconds * SECOND), effects);
    }
    here.apply(Event::Given { machine: id(1), taken: None, keys: vec![key] });
    machines[1].is_linked = false;
    here.farm(machines.clone());
    machines[1].is_linked = true;
    effects = here.farm(machines);
    assert_eq!(gives(&effects).len(), 1, "at once when it is back");
    here.settle(effects);
}

#[test]
fn what_is_refused_goes_to_the_next_and_is_tried_again_when_none_has_room() {
    let machines = farm(3, 2);
    let key = key_on(&machines, &[0, 1], 10);
    let mut here = Here::among(machines.clone(), 2);
    let effects = here.write(key, 10);
    let effects = here.answer(&effects[0], false, Taken::NoRoom);
    assert!(matches!(&effects[..], [Effect::Ask { machine, .. }] if *machine == id(2)), "{effects:?}");
    let effects = here.answer(&effects[0], false, Taken::NoRoom);
    let effects = here.answer(&effects[0], false, Taken::NoRoom);
    assert_eq!((effects.len(), here.standing(&key)), (0, Standing::Sole));
    assert_eq!(here.owed.figures(here.now).refused, 1);
    assert!(!here.owed.is_settled() && here.owed.confirmed(&key).is_none());
    let effects = here.wait(60 * SECOND);
    assert_eq!(effects.len(), 1, "{effects:?}");
    let effects = here.answer(&effects[0], false, Taken::NoRoom);
    let effects = here.answer(&effects[0], false, Taken::NoRoom);
    let effects = here.answer(&effects[0], false, Taken::NoRoom);
    let effects = here.answer(&effects[0], false, Taken::Stored);
    assert_eq!((effects.len(), here.standing(&key)), (0, Standing::Counted));
    assert_eq!(here.wait(SECOND), [Effect::Settle { machine: id(2), keys: vec![key] }]);
    // Where it is does not follow from the farm: any change has it asked for.
    let mut fewer = machines;
    fewer.remove(2);
    let effects = here.farm(fewer);
    assert_eq!(effects.len(), 1, "{effects:?}");
    here.settle(effects);
}

#[test]
fn a_machine_on_which_it_belongs_looks_for_itself_where_another_stands_in() {
    let machines = farm(4, 3);
    let key = key_on(&machines, &[0, 1, 2], 10);
    let mut here = Here::among(machines, 3);
    let effects = here.write(key, 10);
    let &[Effect::Give { machine: stays, .. }, ref refuses] = &effects[..] else { panic!("{effects:?}") };
    assert!(here.answer(&effects[0], false, Taken::Stored).is_empty());
    let effects = here.answer(refuses, false, Taken::NoRoom);
    let effects = here.answer(&effects[0], false, Taken::NoRoom);
    here.answer(&effects[0], false, Taken::Stored);
    let keys = vec![key];
    let told = [Effect::Look { machine: stays, keys: keys.clone() }, Effect::Settle { machine: id(3), keys }];
    assert_eq!(here.wait(SECOND), told);
    assert!(here.owed.is_settled());
}

#[test]
fn a_result_that_is_replaced_on_its_way_is_given_again() {
    let mut here = Here::among(farm(2, 2), 2);
    let key = EntryKey::action(&[9; 32]);
    let first = here.write(key, 500);
    assert!(here.write(key, 600).is_empty(), "not twice at once");
    let second = here.answer(&first[0], false, Taken::Stored);
    assert_eq!((&second, here.standing(&key)), (&first, Standing::Sole));
    here.settle(second);
}

#[test]
fn what_was_used_is_renewed_and_what_is_missing_is_given() {
    let mut here = Here::among(farm(2, 2), 2);
    let (blob, result) = (key(5, 5000), EntryKey::action(&[5; 32]));
    for (key, bytes) in [(blob, 5000), (result, 100)] {
        let effects = here.write(key, bytes);
        here.settle(effects);
    }
    let asked = here.apply(Event::Used(vec![blob, result]));
    assert!(matches!(&asked[..], [Effect::Ask { extend: true, keys, .. }] if keys.len() == 2), "{asked:?}");
    let effects = here.answer(&asked[0], true, Taken::Stored);
    assert!(effects.is_empty() && here.owed.is_settled());
    let asked = here.apply(Event::Used(vec![blob, result]));
    let effects = here.answer(&asked[0], false, Taken::Stored);
    assert_eq!([blob, result].map(|key| here.standing(&key)), [Standing::Sole; 2]);
    here.settle(effects);
}

#[test]
fn a_machine_that_leaves_brings_all_it_has_elsewhere() {
    let mut machines = farm(3, 2);
    let mut here = Here::among(machines.clone(), 2);
    for number in 0..100 {
        let effects = here.write(key(number, 10), 10);
        here.settle(effects);
    }
    machines[0].role = Role::Leaving;
    let effects = here.farm(machines);
    here.settle(effects);
    assert!(here.store.values().all(|(_, standing)| *standing == Standing::Spare));
}

#[test]
fn under_load_batches_fill_and_few_are_on_their_way() {
    let mut here = Here::among(farm(2, 2), 2);
    let mut effects = Vec::new();
    for number in 0..10_000 {
        effects.extend(here.write_unchecked(key(number, 1000), 1000));
    }
    assert_eq!(effects.len(), 2, "two batches at once");
    let more = here.answer(&effects[0], false, Taken::Stored);
    let [(_, keys)] = &gives(&more)[..] else { panic!("{more:?}") };
    assert_eq!(keys.len(), BATCH_ENTRIES.min(BATCH_BYTES as usize / 1000));
}

#[test]
fn writes_go_before_repair_unless_it_has_fewer_copies() {
    let mut machines = farm(2, 2);
    let mut here = Here::among(machines.clone(), 2);
    machines[1].is_linked = false;
    here.farm(machines.clone());
    for number in 0..3000 {
        here.store.insert(key(number, 2000), (2000, Standing::Sole));
    }
    machines[1].is_linked = true;
    machines[1].boot_epoch = 2;
    let asked = here.farm(machines);
    assert_eq!(asked.len(), 1);
    let mut effects = here.answer(&asked[0], false, Taken::Stored);
    while let Some(at) = effects.iter().position(|effect| matches!(effect, Effect::Ask { .. })) {
        let ask = effects.remove(at);
        effects.extend(here.answer(&ask, false, Taken::Stored));
    }
    assert_eq!(gives(&effects).len(), 2, "both are repair as long as nothing is written");
    let write = key(1 << 40, 10);
    assert!(here.write(write, 10).is_empty());
    let next = here.answer(&effects[0], false, Taken::Stored);
    assert_eq!(gives(&next), [(id(1), vec![write])]);
}

#[test]
fn everything_is_compared_in_time_and_what_is_missing_is_given() {
    let mut here = Here::among(farm(2, 2), 2);
    let missing = key(11, 10);
    let effects = here.write(missing, 10);
    here.settle(effects);
    let compare = here.owed.limits.compare;
    let step = compare / 256;
    let mut asked = Vec::new();
    for _ in 0..256 {
        asked.extend(here.wait(step));
    }
    assert_eq!(asked, [Effect::Ask { machine: id(1), keys: vec![missing], extend: false }]);
    assert_eq!(here.standing(&missing), Standing::Counted, "nothing speaks against it yet");
    let effects = here.answer(&asked[0], false, Taken::Stored);
    assert_eq!((gives(&effects).len(), here.standing(&missing)), (1, Standing::Sole));
    here.settle(effects);
}

#[test]
fn what_waits_for_one_that_is_away_does_not_fill_the_memory() {
    let mut machines = farm(2, 2);
    let mut here = Here::among(machines.clone(), 2);
    here.owed.limits.entries = 100;
    here.owed.limits.walking = 50;
    machines[1].is_linked = false;
    here.farm(machines.clone());
    for number in 0..1000 {
        here.write(key(number, 10), 10);
    }
    assert!(here.owed.items.len() <= 100);
    let figures = here.owed.figures(here.now);
    assert!(figures.parked > 0 && !here.owed.is_settled(), "{figures:?}");
    machines[1].is_linked = true;
    let effects = here.farm(machines);
    here.settle(effects);
    assert!(here.store.values().all(|(_, standing)| *standing == Standing::Counted));
}

impl Here {
    /// The same without looking whether all is well, which takes its time.
    fn write_unchecked(&mut self, key: EntryKey, bytes: u64) -> Vec<Effect> {
        self.store.insert(key, (bytes, Standing::Sole));
        self.owed.apply(self.now, Event::Stored { key, bytes })
    }
}
