use proptest::prelude::*;

use super::*;

const GRACE: Duration = Duration::from_secs(900);
const KEEPS: Offer = Offer { role: Role::Counts, weight: 4 };

fn id(number: u8) -> MachineId {
    MachineId::new([number; 32])
}

fn seconds(number: f64) -> Duration {
    Duration::from_secs_f64(number)
}

fn settings() -> Settings {
    Settings { me: id(0), name: "me".into(), boot_epoch: 1, weight: 4, copies: 2, repair_after: GRACE }
}

fn census(keepers: &[u8], now: Instant) -> Census {
    let keeper = |number: &u8| Keeper { id: id(*number), name: "keeper".into(), boot_epoch: 1, weight: 4 };
    Census::new(settings(), keepers.iter().map(keeper).collect(), now)
}

fn counting(roster: &Roster) -> Vec<MachineId> {
    roster.machines().iter().filter(|machine| machine.counts()).map(|machine| machine.id).collect()
}

#[test]
fn a_weight_is_the_disk_in_shares_of_256_mib() {
    assert_eq!([0, SHARE - 1, SHARE, 10 * SHARE].map(weight), [1, 1, 1, 10]);
    assert_eq!(u64::from(weight(u64::MAX)), MOST_SHARES);
}

#[test]
fn an_offer_is_what_a_state_says() {
    let state = MachineState { budget_bytes: 4 * SHARE, ..Default::default() };
    assert!(!Offer::of(&state).counts(), "a program that keeps no copies");
    let state = MachineState { keeps_copies: Some(true), ..state };
    assert_eq!(Offer::of(&state), KEEPS);
    let transient = MachineState { transient: true, ..state.clone() };
    assert_eq!(Offer::of(&transient).role, Role::Transient);
    assert_eq!(Offer::of(&MachineState { leaving: true, ..transient }).role, Role::Leaving);
    assert_eq!(Offer::of(&MachineState { keeps_copies: Some(false), ..state }).weight, 0);
}

#[test]
fn nothing_is_told_in_the_first_seconds_and_then_everything_at_once() {
    let start = Instant::now();
    let mut census = census(&[], start);
    for number in 1..4 {
        census.linked(start, id(number), "other".into(), 1);
        census.told(start, id(number), KEEPS);
        assert!(census.poll(start + seconds(2.9)).is_none());
    }
    assert_eq!(census.next(), Some(start + SETTLING));
    let roster = census.poll(start + SETTLING).unwrap();
    assert_eq!(counting(&roster), [0, 1, 2, 3].map(id));
    assert_eq!((census.next(), census.poll(start + seconds(100.0))), (None, None));
}

#[test]
fn what_happens_within_a_second_is_one_change_and_what_is_undone_is_none() {
    let start = Instant::now();
    let mut census = census(&[], start);
    let later = start + seconds(10.0);
    assert!(census.poll(later).is_some());
    census.linked(later, id(1), "other".into(), 1);
    census.told(later + seconds(0.1), id(1), KEEPS);
    census.linked(later + seconds(0.5), id(2), "other".into(), 1);
    assert!(census.poll(later + seconds(0.9)).is_none());
    assert_eq!(census.next(), Some(later + JOINING));
    let roster = census.poll(later + JOINING).unwrap();
    assert_eq!((counting(&roster), roster.others().count()), (vec![id(0), id(1)], 2));

    let later = later + seconds(10.0);
    census.lost(later, id(1));
    census.linked(later + seconds(0.3), id(1), "other".into(), 1);
    assert_eq!((census.next(), census.poll(later + seconds(5.0))), (None, None));
    census.lost(later + seconds(6.0), id(1));
    census.linked(later + seconds(6.3), id(1), "other".into(), 2);
    assert_eq!(census.poll(later + seconds(7.0)).unwrap().machine(id(1)).unwrap().boot_epoch, 2);
}

#[test]
fn who_is_lost_counts_until_the_grace_period_is_over() {
    let start = Instant::now();
    let mut census = census(&[], start);
    for number in [1, 2] {
        census.linked(start, id(number), "other".into(), 1);
    }
    census.told(start, id(1), KEEPS);
    census.told(start, id(2), Offer { role: Role::Transient, weight: 4 });
    census.poll(start + SETTLING).unwrap();

    let lost = start + seconds(20.0);
    census.lost(lost, id(1));
    census.lost(lost, id(2));
    // Nobody waits for one that does not count.
    let roster = census.poll(lost + JOINING).unwrap();
    assert_eq!((counting(&roster), roster.is_linked(id(1))), (vec![id(0), id(1)], false));
    assert!(roster.machine(id(2)).is_none());
    assert_eq!(census.next(), Some(lost + GRACE));
    assert!(census.poll(lost + GRACE).is_none(), "a change is told a second later");
    assert_eq!(counting(&census.poll(lost + GRACE + JOINING).unwrap()), [id(0)]);
    assert_eq!(census.keepers(), []);
}

#[test]
fn who_is_known_from_an_earlier_run_is_lost_since_the_start() {
    let start = Instant::now();
    let mut census = census(&[0, 1, 2], start);
    let roster = census.poll(start + SETTLING).unwrap();
    assert_eq!((counting(&roster), roster.others().count()), ([0, 1, 2].map(id).to_vec(), 0));
    // What it offered counts until it tells.
    census.linked(start + seconds(5.0), id(1), "one".into(), 7);
    assert_eq!(counting(&census.poll(start + seconds(6.0)).unwrap()).len(), 3);
    assert_eq!(census.keepers().len(), 2);
    census.told(start + seconds(7.0), id(1), Offer { role: Role::Leaving, ..KEEPS });
    assert_eq!(census.keepers().len(), 1);
    assert_eq!(counting(&census.poll(start + seconds(8.0)).unwrap()), [0, 2].map(id));
    assert!(census.poll(start + GRACE).is_none());
    assert_eq!(counting(&census.poll(start + GRACE + JOINING).unwrap()), [id(0)]);
}

#[test]
fn a_role_of_this_machine_is_a_change() {
    let start = Instant::now();
    let mut census = census(&[1], start);
    census.poll(start + SETTLING).unwrap();
    census.set_role(start + seconds(9.0), Role::Leaving);
    assert_eq!(counting(&census.poll(start + seconds(10.0)).unwrap()), [id(1)]);
}

#[test]
fn no_more_are_known_than_there_can_be() {
    let start = Instant::now();
    let mut census = census(&[], start);
    let machine = |number: usize| {
        let mut id = [1; 32];
        id[..8].copy_from_slice(&number.to_le_bytes());
        MachineId::new(id)
    };
    for number in 0..2 * MOST_MACHINES {
        census.linked(start, machine(number), "other".into(), 1);
        if number % 2 == 0 {
            census.lost(start, machine(number));
        }
    }
    let roster = census.poll(start + SETTLING).unwrap();
    assert_eq!(roster.machines().len(), MOST_MACHINES);
    assert_eq!(roster.others().count(), MOST_MACHINES - 1, "who is lost makes room");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Linked(u8, u64),
    Told(u8, Offer),
    Lost(u8),
    Role(Role),
    Wait(u64),
    Sleep,
}

fn step() -> impl Strategy<Value = Step> {
    let role = prop_oneof![4 => Just(Role::Counts), 1 => Just(Role::Transient), 1 => Just(Role::Leaving)];
    let offer = (role.clone(), 0..3_u32).prop_map(|(role, weight)| Offer { role, weight });
    prop_oneof![
        (0..5_u8, 1..3_u64).prop_map(|(number, epoch)| Step::Linked(number, epoch)),
        (0..5_u8, offer).prop_map(|(number, offer)| Step::Told(number, offer)),
        (0..5_u8).prop_map(Step::Lost),
        role.prop_map(Step::Role),
        prop_oneof![0..1500_u64, 0..1_000_000_u64].prop_map(Step::Wait),
        Just(Step::Sleep),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_is_told_in_time_and_not_too_often(
        keepers in prop::collection::btree_set(1..5_u8, 0..4),
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let start = Instant::now();
        let mut census = census(&keepers.into_iter().collect::<Vec<_>>(), start);
        let (mut now, mut last_told, mut heard) = (start, None::<(Instant, Arc<Roster>)>, BTreeMap::new());
        for step in steps.into_iter().chain([Step::Sleep; 8]) {
            match step {
                Step::Linked(number, epoch) => census.linked(now, id(number), "other".into(), epoch),
                Step::Told(number, offer) => census.told(now, id(number), offer),
                Step::Lost(number) => census.lost(now, id(number)),
                Step::Role(role) => census.set_role(now, role),
                Step::Wait(milliseconds) => now += Duration::from_millis(milliseconds),
                Step::Sleep => now = census.next().unwrap_or(now).max(now),
            }
            if let Some(roster) = census.poll(now) {
                prop_assert!(now >= start + SETTLING);
                if let Some((before, told)) = &last_told {
                    prop_assert!(now - *before >= JOINING && **told != *roster);
                }
                last_told = Some((now, roster));
            }
            // A poll leaves nothing to be done at once.
            prop_assert!(census.next().is_none_or(|next| next > now));
            let roster = census.roster();
            prop_assert!(roster.machine(id(0)).is_some_and(|me| me.is_linked));
            for machine in roster.machines() {
                if machine.is_linked {
                    heard.insert(machine.id, now);
                }
                let away = now - *heard.get(&machine.id).unwrap_or(&start);
                prop_assert!(machine.is_linked || machine.counts() && away < GRACE);
            }
        }
        if census.next().is_none() {
            prop_assert_eq!(&census.roster(), &*last_told.unwrap().1);
        }
    }
}
