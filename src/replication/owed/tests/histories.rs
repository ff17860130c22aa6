//! Random histories: nothing is ever forgotten or taken for complete that is not, whatever is answered.

use proptest::prelude::*;

use super::super::model::{Item, Outcome};
use super::*;

/// What is counted is what there is.
pub(super) fn check(owed: &Owed) {
    let (mut writes, mut repairs, mut unknown) = (Amount::default(), Amount::default(), 0);
    for (serial, item) in &owed.items {
        assert_eq!(owed.serials.get(&item.key), Some(serial));
        assert_eq!(item.outcome(), Outcome::Pending);
        let mut again: Item = item.clone();
        again
            .count(owed.roster.as_deref().is_some_and(|it| it.machine(it.me()).is_some_and(Machine::counts)));
        assert_eq!(again.confirmed, item.confirmed);
        for target in item.pending() {
            match target.stage {
                _ if item.kind == Kind::Write => writes.add(item.bytes),
                Stage::Lacking | Stage::Giving => repairs.add(item.bytes),
                _ => unknown += 1,
            }
            let is_busy = owed.peers[&target.machine].is_busy_with(&item.key);
            assert_eq!(is_busy, target.stage.is_in_flight(), "{:?} at {:?}", item.key, target.stage);
        }
    }
    assert_eq!((writes, repairs, unknown), (owed.writes, owed.repairs, owed.unknown));
    assert_eq!(owed.items.len(), owed.serials.len());
    for (id, peer) in &owed.peers {
        let waiting = |queued: &Stage| {
            let stages = owed.items.values().flat_map(|item| &item.targets);
            stages.filter(|target| target.machine == *id && target.stage == *queued).count()
        };
        assert_eq!(peer.waiting(), waiting(&Stage::Unasked) + waiting(&Stage::Lacking));
    }
}

/// Something that happens; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Write(u8),
    Evict(u8),
    Use(u8),
    Link(u8),
    Restart { machine: u8, is_wiped: bool },
    Role(u8, u8),
    Come(u8),
    Full(u8),
    Answer { at: u8, is_lost: bool },
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<u8>().prop_map(Step::Write),
        1 => any::<u8>().prop_map(Step::Evict),
        1 => any::<u8>().prop_map(Step::Use),
        2 => any::<u8>().prop_map(Step::Link),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(machine, is_wiped)| Step::Restart { machine, is_wiped }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(machine, role)| Step::Role(machine, role)),
        1 => any::<u8>().prop_map(Step::Come),
        1 => any::<u8>().prop_map(Step::Full),
        12 => (any::<u8>(), prop::bool::weighted(0.15)).prop_map(|(at, is_lost)| Step::Answer { at, is_lost }),
        2 => any::<u16>().prop_map(Step::Wait),
    ]
}

/// What a machine really is.
#[derive(Clone, Debug)]
struct Other {
    machine: Machine,
    is_member: bool,
    is_full: bool,
    has: BTreeMap<EntryKey, u64>,
}

struct World {
    owed: Owed,
    now: Instant,
    me: Machine,
    others: Vec<Other>,
    store: BTreeMap<EntryKey, (u64, Standing)>,
    /// How often each was written.
    versions: BTreeMap<EntryKey, u64>,
    /// What waits for an answer, with what it carries.
    under_way: Vec<(Effect, u64, BTreeMap<EntryKey, u64>)>,
    told: Vec<Effect>,
}

impl World {
    fn new(machines: u8, limits: Limits, now: Instant) -> Self {
        let other = |number| Other {
            machine: machine(number),
            is_member: true,
            is_full: false,
            has: BTreeMap::new(),
        };
        let mut world = Self {
            owed: Owed::new(limits),
            now,
            me: machine(0),
            others: (1..machines).map(other).collect(),
            store: BTreeMap::new(),
            versions: BTreeMap::new(),
            under_way: Vec::new(),
            told: Vec::new(),
        };
        world.look_around();
        world
    }

    fn roster(&self) -> Roster {
        let others = self.others.iter().filter(|other| other.is_member).map(|other| other.machine.clone());
        Roster::new(id(0), others.chain([self.me.clone()]).collect(), 2)
    }

    fn look_around(&mut self) {
        let roster = Arc::new(self.roster());
        self.apply(Event::Roster(roster));
    }

    fn apply(&mut self, event: Event) {
        let effects = self.owed.apply(self.now, event);
        self.told.extend(effects.iter().cloned());
        for effect in effects {
            match &effect {
                Effect::Mark { keys, standing } => {
                    for key in keys {
                        self.store.entry(*key).and_modify(|entry| entry.1 = *standing);
                    }
                }
                Effect::Settle { machine, .. } | Effect::Look { machine, .. } => {
                    assert!(self.is_linked(*machine))
                }
                Effect::Ask { machine, keys, .. } | Effect::Give { machine, keys } => {
                    assert!(self.is_linked(*machine) && !keys.is_empty());
                    assert!(!matches!(effect, Effect::Give { .. }) || keys.len() <= BATCH_ENTRIES);
                    self.begin(effect);
                }
                Effect::Send { machine, .. } => {
                    assert!(self.is_linked(*machine));
                    self.begin(effect);
                }
                Effect::Walk(_) => self.begin(effect),
            }
        }
        check(&self.owed);
        self.check_nothing_is_forgotten();
    }

    fn begin(&mut self, effect: Effect) {
        let (epoch, keys) = match &effect {
            Effect::Ask { machine, .. } => (self.epoch_of(*machine), Vec::new()),
            Effect::Give { machine, keys } => (self.epoch_of(*machine), keys.clone()),
            Effect::Send { machine, key } => (self.epoch_of(*machine), vec![*key]),
            _ => (0, Vec::new()),
        };
        let carried = keys.into_iter().filter_map(|key| {
            let version = self.versions.get(&key).filter(|_| self.store.contains_key(&key))?;
            Some((key, *version))
        });
        self.under_way.push((effect, epoch, carried.collect()));
    }

    fn other(&self, id: MachineId) -> &Other {
        self.others.iter().find(|other| other.machine.id == id).unwrap()
    }

    fn other_mut(&mut self, id: MachineId) -> &mut Other {
        self.others.iter_mut().find(|other| other.machine.id == id).unwrap()
    }

    fn is_linked(&self, id: MachineId) -> bool {
        self.other(id).is_member && self.other(id).machine.is_linked
    }

    fn epoch_of(&self, id: MachineId) -> u64 {
        self.other(id).machine.boot_epoch
    }

    /// What is complete is so in truth; everything else is under way, or is to be looked at.
    fn check_nothing_is_forgotten(&self) {
        let roster = self.roster();
        let others =
            roster.machines().iter().filter(|machine| machine.id != id(0) && machine.counts()).count();
        for (key, (_, standing)) in &self.store {
            let is_open = self.owed.serials.contains_key(key) || self.owed.ranges.is_open(key.range());
            if is_open || others == 0 || self.owed.used.contains(key) {
                continue;
            }
            assert_ne!(*standing, Standing::Sole, "{key:?} is forgotten");
            let has =
                |other: &&Other| other.is_member && other.machine.counts() && other.has.contains_key(key);
            let copies = self.others.iter().filter(has).count() + usize::from(self.me.counts());
            assert!(copies >= roster.copies(), "{key:?} is {standing:?} and has {copies} copies");
        }
        assert!(self.owed.items.len() <= self.owed.limits.entries);
        for other in &self.others {
            let to = |effect: &&Effect| {
                matches!(effect,
                Effect::Ask { machine, .. } | Effect::Give { machine, .. } | Effect::Send { machine, .. }
                if *machine == other.machine.id)
            };
            let all: Vec<&Effect> = self.under_way.iter().map(|(effect, ..)| effect).filter(to).collect();
            let number = |kind: fn(&Effect) -> bool| all.iter().filter(|effect| kind(effect)).count();
            assert!(number(|effect| matches!(effect, Effect::Ask { .. })) <= 1);
            assert!(number(|effect| matches!(effect, Effect::Give { .. })) <= 2);
            assert!(number(|effect| matches!(effect, Effect::Send { .. })) <= 2);
        }
        let walks = self.under_way.iter().filter(|(effect, ..)| matches!(effect, Effect::Walk(_)));
        assert!(walks.count() <= self.owed.limits.walks);
    }

    fn answer(&mut self, at: usize, is_lost: bool) {
        if self.under_way.is_empty() {
            return;
        }
        let (effect, epoch, carried) = self.under_way.remove(at % self.under_way.len());
        let is_there = |world: &Self, id| world.is_linked(id) && world.epoch_of(id) == epoch && !is_lost;
        match effect {
            Effect::Walk(range) => {
                let entries = self.range(range);
                self.apply(Event::Walked { range, entries });
            }
            Effect::Ask { machine, keys, .. } => {
                let has = |key: &EntryKey| self.other(machine).has.contains_key(key);
                let present = is_there(self, machine).then(|| keys.iter().map(has).collect());
                self.apply(Event::Asked { machine, keys, present });
            }
            Effect::Give { machine, keys } => {
                let taken = is_there(self, machine).then(|| self.take(machine, &carried));
                let gone: Vec<EntryKey> =
                    keys.iter().filter(|key| !carried.contains_key(*key)).copied().collect();
                let gone: Vec<EntryKey> =
                    gone.into_iter().filter(|key| !self.store.contains_key(key)).collect();
                self.apply(Event::Gone(gone));
                self.apply(Event::Given { machine, taken, keys });
            }
            Effect::Send { machine, key } => {
                let taken = is_there(self, machine).then(|| self.take(machine, &carried));
                let taken = taken.and_then(|taken| taken.first().map(|(_, taken)| *taken));
                self.apply(Event::Sent { machine, key, taken });
            }
            Effect::Settle { .. } | Effect::Look { .. } | Effect::Mark { .. } => {}
        }
    }

    fn take(&mut self, machine: MachineId, carried: &BTreeMap<EntryKey, u64>) -> Vec<(EntryKey, Taken)> {
        let other = self.other_mut(machine);
        let mut take = |(key, version): (&EntryKey, &u64)| {
            if other.is_full && !other.has.contains_key(key) {
                return (*key, Taken::NoRoom);
            }
            other.has.insert(*key, *version);
            (*key, Taken::Stored)
        };
        carried.iter().map(&mut take).collect()
    }

    fn range(&self, range: u8) -> Vec<Entry> {
        let in_range = self.store.iter().filter(|(key, _)| key.range() == range);
        let age = Duration::ZERO;
        in_range
            .map(|(key, (bytes, standing))| Entry { key: *key, bytes: *bytes, standing: *standing, age })
            .collect()
    }

    /// The key with this number. There are few ranges, so that they matter.
    fn key(number: u8) -> (EntryKey, u64) {
        let bytes = [10, 10, 3000, 60_000, 700_000][usize::from(number % 5)];
        match number % 7 {
            0 => (EntryKey::action(&[number % 21; 32]), 500),
            _ => (key(u64::from(number % 60), bytes), bytes),
        }
    }

    fn step(&mut self, step: &Step) {
        let others = self.others.len();
        let at = |number: u8| usize::from(number) % others;
        match step {
            Step::Write(number) => {
                let (key, bytes) = Self::key(*number);
                if self.store.contains_key(&key) && !key.is_action() {
                    return;
                }
                *self.versions.entry(key).or_default() += 1;
                self.store.insert(key, (bytes, Standing::Sole));
                self.apply(Event::Stored { key, bytes });
            }
            Step::Evict(number) => {
                let (key, _) = Self::key(*number);
                if self.store.remove(&key).is_some() {
                    self.apply(Event::Gone(vec![key]));
                }
            }
            Step::Use(number) => {
                let (key, _) = Self::key(*number);
                if self.store.get(&key).is_some_and(|(_, standing)| *standing != Standing::Sole) {
                    self.apply(Event::Used(vec![key]));
                }
            }
            Step::Link(number) => self.others[at(*number)].machine.is_linked ^= true,
            Step::Restart { machine, is_wiped } => {
                let other = &mut self.others[at(*machine)];
                other.machine.boot_epoch += 1;
                if *is_wiped {
                    other.has.clear();
                }
            }
            Step::Role(number, role) => {
                let role =
                    [Role::Counts, Role::Counts, Role::Transient, Role::Leaving][usize::from(role % 4)];
                match usize::from(*number) % (self.others.len() + 1) {
                    0 => self.me.role = role,
                    other => self.others[other - 1].machine.role = role,
                }
            }
            Step::Come(number) => self.others[at(*number)].is_member ^= true,
            Step::Full(number) => self.others[at(*number)].is_full ^= true,
            Step::Answer { at, is_lost } => self.answer(usize::from(*at), *is_lost),
            Step::Wait(milliseconds) => {
                self.now += Duration::from_millis(u64::from(*milliseconds));
                self.apply(Event::Tick);
            }
        }
        if !matches!(
            step,
            Step::Answer { .. } | Step::Wait(_) | Step::Write(_) | Step::Evict(_) | Step::Use(_)
        ) {
            self.look_around();
        }
    }

    /// Everybody is there and answers.
    fn calm(&mut self) {
        for other in &mut self.others {
            (other.machine.is_linked, other.is_full) = (true, false);
        }
        self.look_around();
        for _ in 0..10_000 {
            if self.owed.is_settled() {
                return;
            }
            if self.under_way.is_empty() {
                let next = self.owed.next().expect("invariant: something is waited for");
                assert!(next > self.now);
                self.now = next;
                self.apply(Event::Tick);
            }
            self.answer(0, false);
        }
        panic!("it never ends: {:?}", self.owed.figures(self.now));
    }
}

fn limits(is_small: bool) -> Limits {
    let usual = Limits { compare: Duration::from_secs(1 << 40), ..Limits::default() };
    if is_small { Limits { entries: 12, walking: 6, walks: 2, ..usual } } else { usual }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_is_forgotten_and_everything_ends(
        machines in 2..6_u8, is_small: bool, steps in prop::collection::vec(step(), 1..120),
    ) {
        let mut world = World::new(machines, limits(is_small), Instant::now());
        for step in &steps {
            world.step(step);
        }
        world.calm();
        let me = world.me.clone();
        let others = world.others.iter().filter(|it| it.is_member && it.machine.counts()).count();
        let complete = if me.counts() { 2 } else { 1 };
        for (key, (_, standing)) in &world.store {
            prop_assert_eq!(*standing == Standing::Sole, others == 0 && complete > 0, "{:?}", key);
        }
    }

    #[test]
    fn the_same_history_has_the_same_effects(
        machines in 2..6_u8, is_small: bool, steps in prop::collection::vec(step(), 1..60),
    ) {
        let now = Instant::now();
        let told = || {
            let mut world = World::new(machines, limits(is_small), now);
            steps.iter().for_each(|step| world.step(step));
            world.told
        };
        prop_assert_eq!(told(), told());
    }
}
