//! Random histories: whatever owners say and do, slots are never shared out twice nor forgotten.

use proptest::prelude::*;

use super::tests::{Machine, SECOND, id, limits, peer};
use super::*;

const PEOPLE: [&str; 3] = ["ann", "ben", "cat"];

/// Something that happens. Numbers choose among what is there at that moment.
#[derive(Clone, Debug)]
enum Happening {
    Limits { slots: usize, guests: usize, reserve: usize, ahead: bool, duty: Duty },
    Demand { owner: u8, wants: Vec<(u8, u8, usize, usize, usize)> },
    Gone { owner: u8 },
    Arrive { owner: u8, person: u8, build: u8 },
    End { which: u8 },
    Wait { milliseconds: u64 },
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::*;
    let duty = prop_oneof![4 => Just(Duty::Active), 1 => Just(Duty::Draining), 1 => Just(Duty::Paused)];
    let want = (0..3_u8, 0..2_u8, 0..6_usize, 0..3_usize, 0..2_usize);
    prop_oneof![
        1 => (0..6_usize, 0..5_usize, 0..3_usize, any::<bool>(), duty)
            .prop_map(|(slots, guests, reserve, ahead, duty)| Limits { slots, guests, reserve, ahead, duty }),
        4 => (0..4_u8, prop::collection::vec(want, 0..4)).prop_map(|(owner, wants)| Demand { owner, wants }),
        1 => (1..4_u8).prop_map(|owner| Gone { owner }),
        6 => (0..4_u8, 0..3_u8, 0..2_u8)
            .prop_map(|(owner, person, build)| Arrive { owner, person, build }),
        4 => any::<u8>().prop_map(|which| End { which }),
        2 => (0..1500_u64).prop_map(|milliseconds| Wait { milliseconds }),
    ]
}

fn owner(number: u8) -> Owner {
    if number == 0 { Owner::Own } else { peer(number) }
}

struct World {
    machine: Machine,
    /// Runs that are here, and whether they have a slot.
    stays: BTreeMap<StayId, bool>,
}

impl World {
    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Limits { slots, guests, reserve, ahead, duty } => {
                let limits = Limits { reserve, ahead, duty, ..limits(slots, guests) };
                self.apply(Event::Limits(limits));
            }
            Happening::Demand { owner: number, wants } => {
                let wants = wants.into_iter().map(|(person, build, waiting, given, spare)| {
                    let (person, build) = (PEOPLE[usize::from(person)].into(), build.to_string().into());
                    Want { person, build, waiting, given, spare, priority: 0 }
                });
                self.apply(Event::Demand(owner(number), Demand { wants: wants.collect() }));
            }
            Happening::Gone { owner: number } => {
                self.machine.told.remove(&owner(number));
                self.apply(Event::Gone(id(number)));
            }
            Happening::Arrive { owner: number, person, build } => {
                let person = PEOPLE[usize::from(person)];
                let (stay, effects) = self.machine.come(owner(number), person, &build.to_string());
                let (Effect::Start(answered) | Effect::Ahead(answered) | Effect::Busy(answered)) = effects[0]
                else {
                    panic!("{effects:?}");
                };
                assert_eq!(answered, stay);
                self.perform(effects);
            }
            Happening::End { which } => {
                let stays: Vec<_> = self.stays.keys().copied().collect();
                if !stays.is_empty() {
                    let stay = stays[usize::from(which) % stays.len()];
                    self.stays.remove(&stay);
                    self.apply(Event::Ended(stay));
                }
            }
            Happening::Wait { milliseconds } => {
                self.machine.now += Duration::from_millis(milliseconds);
                self.apply(Event::Tick);
            }
        }
        self.check();
    }

    fn apply(&mut self, event: Event) {
        let effects = self.machine.apply(event);
        self.perform(effects);
    }

    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start(stay) => assert_ne!(self.stays.insert(stay, true), Some(true)),
                Effect::Ahead(stay) => assert_eq!(self.stays.insert(stay, false), None),
                Effect::Busy(stay) => assert_ne!(self.stays.remove(&stay), Some(true), "taken off its slot"),
                Effect::Grant(..) => {}
            }
        }
    }

    /// What holds after every event.
    fn check(&self) {
        let grants = &self.machine.grants;
        let limits = &grants.limits;
        let known: BTreeMap<_, _> = grants.stays.iter().map(|(id, stay)| (*id, stay.has_slot)).collect();
        assert_eq!(known, self.stays);
        let tenancies: Vec<_> = grants.tenancies().collect();
        let sum = |counts: fn(&Tenancy) -> usize| tenancies.iter().map(counts).sum::<usize>();
        assert_eq!(sum(|tenancy| tenancy.running), grants.busy());
        assert_eq!(sum(|tenancy| tenancy.running + tenancy.ahead), self.stays.len());
        let told = |owner| self.machine.told.get(&owner).map(|grant| grant.slots.clone());
        if let Some(Slots::Open(open)) = told(Owner::Own) {
            assert!(tenancies.iter().all(|tenancy| tenancy.owner == Owner::Own && tenancy.ahead == 0));
            assert_eq!(open, if limits.duty == Duty::Active { limits.slots } else { 0 });
            return;
        }
        self.check_slots(&tenancies);
        for (owner, tenant) in grants.tenants.iter().filter(|(_, tenant)| !tenant.is_gone) {
            let shares = tenant.shares();
            assert!(told(*owner).map_or(shares.is_none(), |told| told == shares), "{owner:?} knows better");
        }
    }

    fn check_slots(&self, tenancies: &[Tenancy]) {
        let grants = &self.machine.grants;
        let limits = &grants.limits;
        let taken = |guests: bool| -> (usize, usize) {
            let counted = tenancies.iter().filter(|tenancy| !guests || tenancy.owner != Owner::Own);
            counted.fold((0, 0), |(taken, running), tenancy| {
                (taken + tenancy.granted.max(tenancy.running), running + tenancy.running)
            })
        };
        let (all, running) = taken(false);
        let (guests, running_guests) = taken(true);
        assert!(all <= limits.slots.max(running), "{all} of {limits:?}");
        assert!(guests <= limits.guests.max(running_guests), "{guests} of {limits:?}");
        for (owner, tenant) in &grants.tenants {
            for part in tenant.people.values() {
                let spare: usize = part.builds.values().map(|build| build.spare).sum();
                assert!(part.granted <= part.wanted() + spare);
                assert!(part.ahead.len() <= part.may_send && part.may_send <= part.granted);
                assert!(part.ahead.is_empty() || part.running() >= part.granted, "waits beside a free slot");
                let is_taking = limits.duty == Duty::Active;
                assert!(is_taking || part.granted == 0);
                let is_free = all < limits.slots && (*owner == Owner::Own || guests < limits.guests);
                assert!(!is_taking || !is_free || part.granted >= part.wanted(), "a slot is left over");
            }
        }
    }
}

proptest! {
    #[test]
    fn every_history_keeps_the_promises(history in prop::collection::vec(happening(), 0..150)) {
        let mut world = World { machine: Machine::new(limits(4, 3)), stays: BTreeMap::new() };
        world.apply(Event::Tick);
        for happening in history {
            world.happen(happening);
        }
        for number in 1..4 {
            world.happen(Happening::Gone { owner: number });
        }
        while !world.stays.is_empty() {
            world.happen(Happening::End { which: 0 });
        }
        world.happen(Happening::Demand { owner: 0, wants: Vec::new() });
        prop_assert_eq!(world.machine.grants.tenants.len(), 1);
        world.happen(Happening::Wait { milliseconds: 600_000 });
        prop_assert!(world.machine.grants.people.is_empty() && world.machine.grants.stays.is_empty());
    }

    /// However unequal their wishes: when every run that was there has ended, each person has an equal part
    /// of the slots, or all it wants.
    #[test]
    fn people_end_up_with_equal_parts(
        slots in 1..12_usize,
        waiting in prop::collection::vec((0..3_usize, 1..40_usize), 1..5),
    ) {
        let mut machine = Machine::new(limits(slots, slots));
        let mut running = std::collections::VecDeque::new();
        for _ in 0..6 {
            for (number, (person, waiting)) in waiting.iter().enumerate() {
                let owner = peer(number as u8 + 1);
                let given = running.iter().filter(|(_, other)| *other == owner).count();
                let want = Want {
                    person: PEOPLE[*person].into(),
                    build: number.to_string().into(),
                    waiting: *waiting,
                    given,
                    spare: 0,
                    priority: 0,
                };
                machine.apply(Event::Demand(owner, Demand { wants: vec![want] }));
                loop {
                    let (stay, answer) = machine.arrive(owner, PEOPLE[*person], &number.to_string());
                    if answer != Effect::Start(stay) {
                        break;
                    }
                    running.push_back((stay, owner));
                }
            }
            machine.now += SECOND;
            for (stay, _) in running.drain(..running.len().div_ceil(2)) {
                machine.apply(Event::Ended(stay));
            }
        }
        let held = |person: &str| -> (usize, usize) {
            let of_person = machine.grants.tenancies().filter(|tenancy| &*tenancy.person == person);
            of_person.fold((0, 0), |(held, wanted), tenancy| {
                (held + tenancy.granted, wanted + tenancy.running + tenancy.waiting)
            })
        };
        let people: Vec<_> = PEOPLE.map(held).into_iter().filter(|(_, wanted)| *wanted > 0).collect();
        let most = people.iter().map(|(held, _)| *held).max().unwrap_or(0);
        for (held, wanted) in people {
            prop_assert!(held + 1 >= most.min(wanted), "{held} of {most}, {wanted} wanted");
        }
    }
}
