use farmhand_proto::control::{Load, Storage, WatchResponse};
use farmhand_proto::protobuf::{self, Timestamp};

use super::*;

fn length(seconds: i64) -> Option<protobuf::Duration> {
    Some(protobuf::Duration { seconds, nanos: 0 })
}

fn good() -> Replication {
    Replication { copies_wanted: 2, copies: 2, keepers: 3, compared: 1.0, ..Default::default() }
}

/// What the node says after so many seconds.
fn message(at: i64, machines: Vec<Machine>, told: Replication) -> WatchResponse {
    WatchResponse {
        now: Some(Timestamp { seconds: 1000 + at, nanos: 0 }),
        machines,
        storage: Some(Storage { replication: Some(told), ..Default::default() }),
        ..Default::default()
    }
}

fn farm(messages: impl IntoIterator<Item = WatchResponse>) -> Farm {
    let mut farm = Farm::default();
    for message in messages {
        farm.apply(message, Duration::ZERO);
    }
    farm
}

fn machine(name: &str, state: machine::State) -> Machine {
    Machine {
        name: name.into(),
        state: state.into(),
        keeps_copies: true,
        budget_bytes: 1000,
        ..Default::default()
    }
}

#[test]
fn a_farm_that_is_well_is_told_in_few_words() {
    let farm = farm([message(0, vec![machine("attic", machine::State::Active)], good())]);
    let told = told(&farm).unwrap();
    assert_eq!(count_words(told).0, "2 of 2 on 3 machines");
    assert_eq!(behind_words(told).0, "nothing: all written");
    assert_eq!(sole_words(&farm, told).0, "nothing is lost if this machine leaves");
    assert_eq!(trouble(&farm), None);
}

#[test]
fn what_only_machines_have_that_are_away_is_not_said_to_be_safe() {
    let mut own = machine("attic", machine::State::Active);
    own.is_self = true;
    let other = |state| Machine { last_heard: length(5), ..machine("cellar", state) };
    let words = |state, told| {
        let farm = farm([message(0, vec![own.clone(), other(state)], told)]);
        sole_words(&farm, &told).0
    };
    let two = Replication { keepers: 2, ..good() };
    assert_eq!(words(machine::State::Active, two), "nothing is lost if attic leaves");
    let away = "what attic has is elsewhere too, but cellar is away and waited for";
    assert_eq!(words(machine::State::Lost, two), away);
    let comparing = Replication { compared: 0.5, ..two };
    assert_eq!(words(machine::State::Active, comparing), "nothing known; still comparing");
}

#[test]
fn too_few_machines_are_told() {
    let words = |copies, keepers| count_words(&Replication { copies, keepers, ..good() }).0;
    assert_eq!(words(1, 1), "1 of 2: only one machine keeps copies");
    assert_eq!(words(0, 0), "0 of 2: no machine keeps copies");
    let three = Replication { copies_wanted: 3, keepers: 2, ..good() };
    assert_eq!(count_words(&three).0, "2 of 3: only 2 machines keep copies");
    let one = Replication { copies_wanted: 1, copies: 1, ..good() };
    assert_eq!(count_words(&one).0, "1, as it is set, on 3 machines");
}

#[test]
fn what_is_owed_and_lost() {
    let mut own = machine("attic", machine::State::Active);
    own.is_self = true;
    let behind = Replication {
        owed_copies: 12,
        owed_bytes: 4 << 20,
        lag: length(3),
        compared: 0.4,
        sole_entries: 12,
        sole_bytes: 3 << 20,
        ..good()
    };
    let farm = farm([message(0, vec![own], behind)]);
    assert_eq!(behind_words(&behind).0, "3s behind, 12 copies, 4.0 MiB");
    let lost = sole_words(&farm, &behind).0;
    assert_eq!(lost, "if attic leaves now you lose up to 12 blobs and results, 3.0 MiB");
    assert_eq!(trouble(&farm), None, "a few seconds are nothing out of order");
    let repair = Replication {
        repair_copies: 1,
        repair_bytes: 5 << 20,
        remaining: length(180),
        bytes_per_second: 1 << 20,
        ..good()
    };
    assert_eq!(repair_words(&repair), "1 copy, 5.0 MiB, ~3m left");
}

#[test]
fn a_repair_is_as_far_as_was_seen() {
    let step = |at, repair_copies, repair_bytes| {
        message(at, Vec::new(), Replication { repair_copies, repair_bytes, ..good() })
    };
    let done = |steps: &[(i64, u64, u64)]| {
        let farm = farm(steps.iter().map(|step_of| step(step_of.0, step_of.1, step_of.2)));
        farm.copies.repaired(told(&farm).unwrap())
    };
    assert_eq!(done(&[(0, 10, 1000)]), 0.0);
    assert_eq!(done(&[(0, 10, 1000), (1, 5, 250)]), 0.75);
    assert_eq!(done(&[(0, 10, 0), (1, 5, 0)]), 0.5);
    assert_eq!(done(&[(0, 10, 1000), (1, 0, 0), (2, 5, 250)]), 0.0, "it begins anew");
}

#[test]
fn copies_that_fall_behind_are_seen() {
    let after = |lags: [i64; 2]| {
        let steps = (0..30).map(|at| {
            let (lag, owed) = if at < 15 { (lags[0], 100) } else { (lags[1], 100 + at as u64) };
            let told = Replication { owed_copies: 1, owed_bytes: owed, lag: length(lag), ..good() };
            message(at, Vec::new(), told)
        });
        farm(steps).copies.behind()
    };
    assert!(after([1, 25]).is_some());
    assert_eq!(after([1, 5]), None);
    assert_eq!(after([30, 25]), None);
}

#[test]
fn a_disk_is_full_after_the_growth_that_was_seen() {
    let word = |used: [u64; 3], state| {
        let steps = used.into_iter().enumerate().map(|(at, used_bytes)| {
            let load = Some(Load { disk_free: 1 << 40, ..Default::default() });
            let machine = Machine { used_bytes, load, ..machine("kitchen", state) };
            message(20 * at as i64, vec![machine], good())
        });
        let farm = farm(steps);
        filling_word(filling(&farm, &farm.machines[0])).0
    };
    let active = machine::State::Active;
    assert_eq!(word([100, 200, 500], active), "~50s");
    assert_eq!(word([500, 500, 500], active), "steady");
    assert_eq!(word([500, 700, 960], active), "full");
    assert_eq!(word([100, 200, 500], machine::State::Lost), "-");
}

#[test]
fn a_machine_that_leaves_says_how_far_it_is() {
    let farm = farm([message(0, Vec::new(), good())]);
    let mut leaving = machine("attic", machine::State::Draining);
    leaving.keeps_copies = false;
    assert_eq!((leave(&farm, &leaving), leave_words(&farm, &leaving)), (Some(Leave::NotTold), None));
    assert_eq!(role_words(&farm, &leaving).0, "not told");
    leaving.caches_because = "it is leaving".into();
    assert_eq!(leave_words(&farm, &leaving).unwrap().0, "not yet safe to leave");
    (leaving.sole_entries, leaving.sole_bytes) = (1, 2048);
    assert_eq!(role_words(&farm, &leaving).0, "leaving: 1 blob or result, 2.0 KiB only there still");
    leaving.busy = 2;
    assert_eq!((leave(&farm, &leaving), role_word(&farm, &leaving).0), (Some(Leave::Brings), "leaves"));
    (leaving.sole_entries, leaving.safe_to_leave) = (0, true);
    assert_eq!(leave(&farm, &leaving), Some(Leave::Runs));
    leaving.busy = 0;
    assert_eq!((leave(&farm, &leaving), role_word(&farm, &leaving).0), (Some(Leave::Safe), "safe"));
    let alone = Farm::default();
    leaving.safe_to_leave = false;
    assert_eq!(leave(&alone, &leaving), Some(Leave::NotTold));
    assert_eq!(leave(&farm, &machine("attic", machine::State::Active)), None);
}

#[test]
fn roles_of_machines() {
    let farm = farm([message(0, Vec::new(), good())]);
    let mut machine = machine("shed", machine::State::Active);
    assert_eq!(role_words(&farm, &machine).0, "keeps copies");
    machine.keeps_copies = false;
    assert_eq!(role_words(&farm, &machine).0, "not told");
    machine.caches_because = "it runs on battery".into();
    let words = (role_words(&farm, &machine).0, role_word(&farm, &machine).0);
    assert_eq!(words, ("caches: it runs on battery".into(), "caches"));
}

#[test]
fn a_machine_that_is_away_is_waited_for_while_it_counts() {
    let away =
        |name: &str, seconds| Machine { last_heard: length(seconds), ..machine(name, machine::State::Lost) };
    let machines =
        vec![machine("attic", machine::State::Active), away("long", 900), away("shed", 12), away("barn", 13)];
    let awaited = |keepers| {
        let farm = farm([message(0, machines.clone(), Replication { keepers, ..good() })]);
        let names = farm.machines.iter().filter(|machine| is_awaited(&farm, machine));
        let words = away_words(&farm);
        (names.map(|machine| machine.name.clone()).collect::<Vec<_>>(), words)
    };
    assert_eq!(awaited(1), (vec![], None));
    assert_eq!(awaited(2), (vec!["shed".to_owned()], Some("shed is away and waited for".to_owned())));
    let words = "shed and 1 more are away and waited for".to_owned();
    assert_eq!(awaited(3), (vec!["shed".to_owned(), "barn".to_owned()], Some(words)));
    let gone = farm([message(0, machines.clone(), Replication { keepers: 1, ..good() })]);
    assert_eq!(role_words(&gone, &gone.machines[2]).0, "gone, not counted");
}

#[test]
fn an_old_node_tells_nothing() {
    let farm = farm([WatchResponse { machines: vec![Machine::default(); 2], ..Default::default() }]);
    assert_eq!((told(&farm), trouble(&farm)), (None, None));
    assert!(!tells(&farm.machines[0]));
    let odd = Storage { replication: Some(Replication::default()), ..Default::default() };
    let mut farm = farm;
    farm.apply(WatchResponse { storage: Some(odd), ..Default::default() }, Duration::ZERO);
    assert_eq!(told(&farm), None);
}
