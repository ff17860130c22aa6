//! The rules of sharing one by one.

use super::*;

pub(super) const SECOND: Duration = Duration::from_secs(1);

/// A machine with a clock that only the test moves.
pub(super) struct Machine {
    pub(super) grants: Grants,
    pub(super) now: Instant,
    next: u64,
    /// What each owner was told last.
    pub(super) told: BTreeMap<Owner, Grant>,
}

impl Machine {
    pub(super) fn new(limits: Limits) -> Self {
        let now = Instant::now();
        Self { grants: Grants::new(limits, now), now, next: 0, told: BTreeMap::new() }
    }

    pub(super) fn apply(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.grants.apply(self.now, event);
        for effect in &effects {
            if let Effect::Grant(owner, grant) = effect {
                let before = self.told.insert(*owner, grant.clone());
                assert!(
                    before.is_none_or(|before| before.number < grant.number && before.slots != grant.slots)
                );
            }
        }
        effects
    }

    fn demand(&mut self, owner: Owner, wants: &[Want]) -> Vec<Effect> {
        self.apply(Event::Demand(owner, Demand { wants: wants.to_vec() }))
    }

    /// A run comes. Gives its number, and the answer.
    pub(super) fn arrive(&mut self, owner: Owner, person: &str, build: &str) -> (StayId, Effect) {
        let (stay, effects) = self.come(owner, person, build);
        (stay, effects[0].clone())
    }

    /// A run comes. Gives its number, and all that follows, the answer first.
    pub(super) fn come(&mut self, owner: Owner, person: &str, build: &str) -> (StayId, Vec<Effect>) {
        let stay = StayId(self.next);
        self.next += 1;
        let arrival = Arrival { stay, owner, person: person.into(), build: build.into() };
        (stay, self.apply(Event::Arrived(arrival)))
    }

    /// Runs come that all get slots.
    fn start(&mut self, owner: Owner, person: &str, build: &str, count: usize) -> Vec<StayId> {
        let start = |_| {
            let (stay, effect) = self.arrive(owner, person, build);
            assert_eq!(effect, Effect::Start(stay));
            stay
        };
        (0..count).map(start).collect()
    }

    /// Slots that an owner was told it has for a person, and runs it may send ahead.
    fn told(&self, owner: Owner, person: &str) -> (usize, usize) {
        match self.told.get(&owner).map(|grant| &grant.slots) {
            Some(Slots::Shared(shares)) => {
                let share = shares.iter().find(|share| &*share.person == person);
                share.map_or((0, 0), |share| (share.slots, share.ahead))
            }
            Some(Slots::Open(slots)) => (*slots, 0),
            None => (0, 0),
        }
    }

    fn slots(&self, owner: Owner, person: &str) -> usize {
        self.told(owner, person).0
    }
}

pub(super) fn id(number: u8) -> MachineId {
    MachineId::new([number; 32])
}

pub(super) fn peer(number: u8) -> Owner {
    Owner::Peer(id(number))
}

/// A machine of `ann`'s.
pub(super) fn limits(slots: usize, guests: usize) -> Limits {
    Limits { slots, guests, reserve: 0, person: "ann".into(), duty: Duty::Active, ahead: false }
}

fn want(person: &str, build: &str, waiting: usize, given: usize) -> Want {
    Want { person: person.into(), build: build.into(), waiting, given, spare: 0, priority: 0 }
}

#[test]
fn a_machine_alone_has_all_its_slots_without_asking() {
    let mut machine = Machine::new(limits(2, 2));
    assert_eq!(
        machine.apply(Event::Tick),
        [Effect::Grant(Owner::Own, Grant { number: 1, slots: Slots::Open(2) })]
    );
    let first = machine.start(Owner::Own, "ann", "a", 2);
    let (third, answer) = machine.arrive(Owner::Own, "ann", "a");
    assert_eq!(answer, Effect::Busy(third));
    assert!(machine.apply(Event::Ended(first[0])).is_empty());
    machine.start(Owner::Own, "ann", "a", 1);
    let paused = Limits { duty: Duty::Paused, ..limits(2, 2) };
    machine.apply(Event::Limits(paused));
    assert_eq!(machine.slots(Owner::Own, "ann"), 0);
    assert!(machine.apply(Event::Ended(first[1])).is_empty());
    let (late, answer) = machine.arrive(Owner::Own, "ann", "a");
    assert_eq!(answer, Effect::Busy(late));
}

#[test]
fn slots_are_shared_by_person_as_far_as_they_are_wanted() {
    let mut machine = Machine::new(limits(8, 8));
    machine.demand(Owner::Own, &[want("ann", "a", 100, 0)]);
    machine.demand(peer(1), &[want("ben", "b", 1000, 0)]);
    assert_eq!((machine.slots(Owner::Own, "ann"), machine.slots(peer(1), "ben")), (4, 4));
    machine.demand(peer(2), &[want("cat", "c", 1, 0)]);
    assert_eq!(machine.slots(peer(2), "cat"), 1, "the machine's own unused slots can be taken back");
    assert_eq!((machine.slots(Owner::Own, "ann"), machine.slots(peer(1), "ben")), (3, 4));
    machine.demand(peer(1), &[]);
    assert_eq!((machine.slots(Owner::Own, "ann"), machine.slots(peer(1), "ben")), (7, 0));
    machine.demand(peer(2), &[]);
    assert_eq!(machine.told[&Owner::Own].slots, Slots::Open(8));
}

#[test]
fn a_person_counts_once_whichever_machines_act_for_them() {
    let mut machine = Machine::new(limits(8, 8));
    let paused = Limits { duty: Duty::Paused, ..limits(8, 8) };
    machine.apply(Event::Limits(paused));
    machine.demand(peer(1), &[want("ben", "b", 50, 0), want("cat", "c", 50, 0)]);
    machine.demand(peer(2), &[want("ben", "d", 50, 0)]);
    machine.apply(Event::Limits(limits(8, 8)));
    let slots = |owner, person| machine.slots(peer(owner), person);
    assert_eq!((slots(1, "ben"), slots(1, "cat"), slots(2, "ben")), (2, 4, 2), "builds share what is ben's");
}

#[test]
fn within_a_person_builds_come_first_and_then_priority() {
    let mut machine = Machine::new(limits(4, 4));
    machine.apply(Event::Limits(Limits { duty: Duty::Draining, ..limits(4, 4) }));
    machine.demand(peer(1), &[Want { priority: 5, ..want("ben", "b", 9, 0) }]);
    machine.demand(peer(2), &[Want { priority: -5, ..want("ben", "c", 9, 0) }]);
    machine.demand(peer(3), &[Want { priority: 0, ..want("ben", "d", 9, 0) }]);
    machine.apply(Event::Limits(limits(4, 4)));
    let slots = |owner| machine.slots(peer(owner), "ben");
    assert_eq!((slots(1), slots(2), slots(3)), (1, 2, 1));
}

#[test]
fn the_person_of_the_machine_goes_first_within_the_reserve_only() {
    let with_reserve = Limits { reserve: 3, ..limits(8, 8) };
    let mut machine = Machine::new(Limits { duty: Duty::Draining, ..with_reserve.clone() });
    machine.demand(Owner::Own, &[want("ann", "a", 1, 0)]);
    machine.demand(peer(1), &[want("ben", "b", 50, 0), want("cat", "c", 50, 0)]);
    machine.demand(peer(2), &[want("ann", "a", 50, 0)]);
    machine.apply(Event::Limits(with_reserve));
    let slots = |owner, person| machine.slots(owner, person);
    assert_eq!(slots(Owner::Own, "ann") + slots(peer(2), "ann"), 3, "wherever ann's builds come from");
    assert_eq!(slots(peer(1), "ben") + slots(peer(1), "cat"), 5);
    let mut machine = Machine::new(Limits { reserve: 3, duty: Duty::Draining, ..limits(8, 8) });
    machine.demand(peer(1), &[want("ben", "b", 50, 0)]);
    machine.apply(Event::Limits(Limits { reserve: 3, ..limits(8, 8) }));
    assert_eq!(machine.slots(peer(1), "ben"), 8, "nothing is kept free for nobody");
}

#[test]
fn guests_get_no_more_than_is_lent() {
    let mut machine = Machine::new(limits(8, 3));
    machine.demand(peer(1), &[want("ben", "b", 50, 0)]);
    machine.demand(peer(2), &[want("ann", "a", 50, 0)]);
    assert_eq!(machine.slots(peer(1), "ben") + machine.slots(peer(2), "ann"), 3);
    let stays = machine.start(peer(1), "ben", "b", 3);
    machine.apply(Event::Limits(limits(8, 1)));
    assert_eq!(machine.slots(peer(1), "ben"), 1, "two are left to run, and nothing follows them");
    machine.demand(Owner::Own, &[want("ann", "x", 50, 0)]);
    assert_eq!(machine.slots(Owner::Own, "ann"), 5);
    machine.apply(Event::Ended(stays[0]));
    machine.apply(Event::Ended(stays[1]));
    assert_eq!((machine.slots(Owner::Own, "ann"), machine.slots(peer(1), "ben")), (7, 1));
    machine.apply(Event::Limits(limits(8, 0)));
    machine.apply(Event::Ended(stays[2]));
    assert_eq!((machine.slots(Owner::Own, "ann"), machine.slots(peer(2), "ann")), (8, 0));
}

#[test]
fn who_holds_too_much_is_told_so_and_gives_way_as_its_runs_end() {
    let mut machine = Machine::new(limits(4, 4));
    machine.demand(peer(1), &[want("ben", "b", 50, 0)]);
    let stays = machine.start(peer(1), "ben", "b", 4);
    machine.demand(peer(2), &[want("cat", "c", 50, 0)]);
    assert_eq!((machine.slots(peer(1), "ben"), machine.slots(peer(2), "cat")), (2, 0));
    let (stay, answer) = machine.arrive(peer(1), "ben", "b");
    assert_eq!(answer, Effect::Busy(stay));
    for (ended, expected) in [(0, (2, 1)), (1, (2, 2)), (2, (2, 2))] {
        machine.apply(Event::Ended(stays[ended]));
        assert_eq!((machine.slots(peer(1), "ben"), machine.slots(peer(2), "cat")), expected);
    }
    machine.start(peer(1), "ben", "b", 1);
}

#[test]
fn equals_go_by_what_they_used_of_late() {
    let mut machine = Machine::new(limits(3, 3));
    machine.demand(peer(1), &[want("ben", "b", 50, 0)]);
    let stays = machine.start(peer(1), "ben", "b", 3);
    machine.now += 5 * SECOND;
    machine.demand(peer(2), &[want("cat", "c", 50, 0)]);
    assert_eq!(machine.slots(peer(1), "ben"), 1);
    machine.apply(Event::Ended(stays[0]));
    machine.apply(Event::Ended(stays[1]));
    assert_eq!((machine.slots(peer(1), "ben"), machine.slots(peer(2), "cat")), (1, 2));
    let others = machine.start(peer(2), "cat", "c", 2);
    // What ben used fades, and cat uses twice as much.
    machine.now += 10 * SECOND;
    machine.apply(Event::Ended(others[0]));
    assert_eq!((machine.slots(peer(1), "ben"), machine.slots(peer(2), "cat")), (2, 1));
}

#[test]
fn what_is_not_used_goes_to_others_after_a_second() {
    let mut machine = Machine::new(limits(4, 4));
    machine.demand(peer(1), &[want("ben", "b", 50, 0)]);
    machine.start(peer(1), "ben", "b", 1);
    machine.demand(peer(2), &[want("cat", "c", 50, 0)]);
    machine.now += UNUSED - Duration::from_millis(1);
    machine.apply(Event::Tick);
    assert_eq!((machine.slots(peer(1), "ben"), machine.slots(peer(2), "cat")), (4, 0));
    machine.now += Duration::from_millis(1);
    machine.apply(Event::Tick);
    assert_eq!((machine.slots(peer(1), "ben"), machine.slots(peer(2), "cat")), (1, 3));
    machine.start(peer(2), "cat", "c", 3);
    machine.demand(peer(2), &[want("cat", "c", 0, 3)]);
    machine.now += 9 * SECOND;
    machine.apply(Event::Tick);
    assert_eq!(machine.slots(peer(1), "ben"), 1);
}

#[test]
fn what_nobody_else_wants_stays_granted_unused_or_not() {
    let mut machine = Machine::new(limits(4, 4));
    machine.demand(peer(1), &[want("ben", "b", 50, 0)]);
    machine.now += 60 * SECOND;
    assert!(machine.apply(Event::Tick).is_empty());
    machine.demand(peer(2), &[want("cat", "c", 50, 0)]);
    assert_eq!((machine.slots(peer(1), "ben"), machine.slots(peer(2), "cat")), (0, 4), "at once now");
    machine.demand(peer(2), &[]);
    machine.start(peer(1), "ben", "b", 1);
    machine.demand(peer(2), &[want("cat", "c", 50, 0)]);
    assert_eq!(machine.slots(peer(1), "ben"), 4, "it uses what it has again");
}

#[test]
fn a_run_on_the_way_keeps_its_slot() {
    let mut machine = Machine::new(limits(2, 2));
    machine.demand(peer(1), &[want("ben", "b", 2, 0)]);
    machine.demand(peer(2), &[want("cat", "c", 9, 0)]);
    // Its last two are on the way, and the word that nothing waits any more is faster.
    machine.demand(peer(1), &[want("ben", "b", 0, 2)]);
    assert_eq!((machine.slots(peer(1), "ben"), machine.slots(peer(2), "cat")), (2, 0));
    let stays = machine.start(peer(1), "ben", "b", 2);
    machine.apply(Event::Ended(stays[0]));
    assert_eq!((machine.slots(peer(1), "ben"), machine.slots(peer(2), "cat")), (1, 1));
}

#[test]
fn a_run_sent_ahead_gets_the_next_slot_of_its_person() {
    let mut machine = Machine::new(Limits { ahead: true, ..limits(2, 2) });
    machine.demand(peer(1), &[want("ben", "b", 9, 0)]);
    assert_eq!(machine.told(peer(1), "ben"), (2, 2));
    let stays = machine.start(peer(1), "ben", "b", 2);
    let (waiting, answer) = machine.arrive(peer(1), "ben", "b");
    assert_eq!(answer, Effect::Ahead(waiting));
    let (next, answer) = machine.arrive(peer(1), "ben", "b");
    assert_eq!(answer, Effect::Ahead(next));
    let (one_more, answer) = machine.arrive(peer(1), "ben", "b");
    assert_eq!(answer, Effect::Busy(one_more), "one for each slot");
    assert_eq!(machine.apply(Event::Ended(stays[0])), [Effect::Start(waiting)], "and no word is needed");
    machine.demand(peer(1), &[want("ben", "b", 0, 3)]);
    assert_eq!(machine.told(peer(1), "ben"), (2, 1));
    assert_eq!(machine.apply(Event::Ended(next)), [Effect::Grant(peer(1), machine.told[&peer(1)].clone())]);
    assert_eq!(machine.told(peer(1), "ben"), (2, 0));
}

#[test]
fn a_run_sent_ahead_is_handed_back_when_others_get_the_slot() {
    let mut machine = Machine::new(Limits { ahead: true, ..limits(2, 2) });
    machine.demand(peer(1), &[want("ben", "b", 9, 0)]);
    let stays = machine.start(peer(1), "ben", "b", 2);
    let ahead = [0, 1].map(|_| machine.arrive(peer(1), "ben", "b").0);
    let effects = machine.demand(peer(2), &[want("cat", "c", 9, 0)]);
    assert!(effects.contains(&Effect::Busy(ahead[1])) && !effects.contains(&Effect::Busy(ahead[0])));
    assert_eq!(machine.told(peer(1), "ben"), (1, 1));
    machine.apply(Event::Ended(stays[0]));
    assert_eq!((machine.told(peer(1), "ben"), machine.told(peer(2), "cat")), ((1, 1), (1, 1)));
    assert_eq!(machine.apply(Event::Ended(stays[1])), [Effect::Start(ahead[0])]);
    let effects = machine.apply(Event::Limits(Limits { duty: Duty::Draining, ..limits(2, 2) }));
    assert!(!effects.contains(&Effect::Busy(ahead[0])), "it runs");
}

#[test]
fn spare_slots_are_those_that_nobody_else_wants() {
    let spare = |waiting| Want { spare: 2, ..want("ben", "b", waiting, 0) };
    let mut machine = Machine::new(limits(4, 4));
    machine.demand(peer(1), &[spare(1)]);
    assert_eq!(machine.slots(peer(1), "ben"), 3);
    machine.demand(peer(2), &[want("cat", "c", 3, 0)]);
    assert_eq!((machine.slots(peer(1), "ben"), machine.slots(peer(2), "cat")), (1, 3));
}

#[test]
fn an_owner_that_went_away_keeps_slots_until_its_runs_have_ended() {
    let mut machine = Machine::new(limits(2, 2));
    machine.demand(Owner::Own, &[want("ann", "a", 9, 0)]);
    machine.demand(peer(1), &[want("ben", "b", 9, 0)]);
    let stays = machine.start(peer(1), "ben", "b", 1);
    machine.apply(Event::Gone(id(1)));
    assert_eq!(machine.slots(Owner::Own, "ann"), 1);
    let (late, answer) = machine.arrive(peer(1), "ben", "b");
    assert_eq!(answer, Effect::Busy(late));
    machine.apply(Event::Ended(stays[0]));
    assert_eq!(machine.told[&Owner::Own].slots, Slots::Open(2));
    assert_eq!(machine.grants.tenants.len(), 1);
    assert!(machine.apply(Event::Ended(stays[0])).is_empty(), "known to be over");
    machine.told.remove(&peer(1));
    machine.demand(peer(1), &[want("ben", "b", 9, 0)]);
    assert_eq!(machine.slots(peer(1), "ben"), 1, "it is told anew when it comes back");
}

#[test]
fn nothing_that_an_owner_sent_ahead_begins_after_it_went_away() {
    let mut machine = Machine::new(Limits { ahead: true, ..limits(1, 1) });
    machine.demand(peer(1), &[want("ben", "b", 9, 0)]);
    let stays = machine.start(peer(1), "ben", "b", 1);
    let (ahead, _) = machine.arrive(peer(1), "ben", "b");
    assert!(machine.apply(Event::Gone(id(1))).contains(&Effect::Busy(ahead)));
    let effects = machine.apply(Event::Ended(stays[0]));
    assert!(effects.iter().all(|effect| matches!(effect, Effect::Grant(Owner::Own, _))), "{effects:?}");
}
