//! Builds on a farm, while what happens on a LAN happens to it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::{Instant, sleep};

use crate::lan::Lan;
use crate::machine::Machine;
use crate::support::{ActionBuilder, Client, Outcome};

/// A farm of so many machines with so many slots each, all linked; `None` where there can be none.
pub(crate) async fn farm(machines: usize, slots: usize) -> Option<(Lan, Vec<Machine>)> {
    let lan = Lan::new(machines)?;
    let slots = slots.to_string();
    let arguments = ["--slots", &slots];
    let farm: Vec<_> = (0..machines).map(|number| Machine::start(&lan, number, &arguments)).collect();
    for machine in &farm {
        let others: Vec<_> = farm.iter().filter(|other| other.name() != machine.name()).collect();
        machine.links_with(&others).await;
    }
    Some((lan, farm))
}

/// Runs actions of this script, all of them different and so many at once; what came of each.
pub(crate) async fn run(client: &Client, script: &str, count: usize, at_once: usize) -> Vec<Outcome> {
    let salt = uuid::Uuid::new_v4();
    let action = |number: usize| {
        let action = ActionBuilder::sh(script).salt(&format!("{salt} {number}"));
        let client = client.clone();
        async move { action.run(&client).await }
    };
    stream::iter(0..count).map(action).buffer_unordered(at_once).collect().await
}

/// How many actions ran on each machine.
pub(crate) fn places(outcomes: &[Outcome]) -> BTreeMap<String, usize> {
    let mut places = BTreeMap::new();
    for outcome in outcomes {
        let metadata = outcome.success().execution_metadata.as_ref().unwrap();
        *places.entry(metadata.worker.clone()).or_default() += 1;
    }
    places
}

#[tokio::test]
async fn machines_find_each_other_and_share_their_slots() {
    let Some((_lan, farm)) = farm(3, 2).await else { return };
    let client = farm[0].client().await;
    let outcomes = run(&client, "sleep 0.2; echo done > out; cat in 2>/dev/null; true", 30, 30).await;
    let places = places(&outcomes);
    assert_eq!(places.keys().collect::<Vec<_>>(), ["m0", "m1", "m2"], "{places:?}");
}

#[tokio::test]
async fn inputs_and_outputs_travel() {
    let Some((_lan, farm)) = farm(2, 1).await else { return };
    let client = farm[0].client().await;
    // The first one takes the slot that is nearer.
    let busy = ActionBuilder::sh("sleep 3").salt(&uuid::Uuid::new_v4().to_string());
    let data = vec![7; 3 << 20];
    let action = ActionBuilder::sh("cat in > out; mkdir d; cp in d/x; echo said; echo warned >&2")
        .file("in", &data)
        .outputs(&["out", "d"])
        .salt(&uuid::Uuid::new_v4().to_string());
    let far = async {
        sleep(Duration::from_millis(500)).await;
        action.run(&client).await
    };
    let (_, outcome) = tokio::join!(busy.run(&client), far);
    let metadata = outcome.success().execution_metadata.as_ref().unwrap();
    assert_eq!(metadata.worker, "m1");
    assert!(outcome.output(&client, "out").await == data);
    assert_eq!(outcome.stdout(&client).await, "said\n");
    assert_eq!(outcome.stderr(&client).await, "warned\n");
    assert_eq!(outcome.result().output_directories.len(), 1);
}

/// Starts work that keeps all slots of three machines busy, has `harm` done to the third one after a while,
/// and returns how long after that everything was over, with where it ran.
async fn work_through(
    farm: &mut [Machine],
    harm: impl FnOnce(&mut Machine),
) -> (Duration, BTreeMap<String, usize>) {
    let client = farm[0].client().await;
    let work = tokio::spawn(async move { run(&client, "sleep 2", 12, 12).await });
    sleep(Duration::from_millis(1000)).await;
    let since = Instant::now();
    harm(&mut farm[2]);
    let outcomes = work.await.unwrap();
    (since.elapsed(), places(&outcomes))
}

#[tokio::test]
async fn what_ran_on_a_machine_that_is_killed_runs_elsewhere() {
    let Some((_lan, mut farm)) = farm(3, 4).await else { return };
    let (took, places) = work_through(&mut farm, Machine::kill).await;
    assert!(!places.contains_key("m2"), "{places:?}");
    println!("FIGURE a machine killed: actions of 2 s over {took:.2?} after that");
}

#[tokio::test]
async fn what_ran_on_a_machine_that_is_cut_off_runs_elsewhere() {
    let Some((lan, mut farm)) = farm(3, 4).await else { return };
    let (took, places) = work_through(&mut farm, |_| lan.silence(2)).await;
    assert!(!places.contains_key("m2"), "{places:?}");
    println!("FIGURE a machine cut off in silence: actions of 2 s over {took:.2?} after that");
    // What it ran for others it has ended, and it comes back by itself.
    let since = Instant::now();
    while farm[2].machines().await.iter().any(|machine| machine.is_self && machine.busy > 0) {
        assert!(since.elapsed() < Duration::from_secs(30));
        sleep(Duration::from_millis(50)).await;
    }
    lan.unsilence(2);
    farm[0].links_with(&[&farm[2]]).await;
    let outcomes = run(&farm[0].client().await, "sleep 0.5", 12, 12).await;
    assert!(self::places(&outcomes).contains_key("m2"));
}

#[tokio::test]
async fn what_ran_on_a_machine_that_is_frozen_runs_elsewhere() {
    let Some((_lan, mut farm)) = farm(3, 4).await else { return };
    let (took, places) = work_through(&mut farm, |machine| machine.signal("STOP")).await;
    assert!(!places.contains_key("m2"), "{places:?}");
    println!("FIGURE a machine frozen: actions of 2 s over {took:.2?} after that");
    farm[2].signal("CONT");
    farm[0].links_with(&[&farm[2]]).await;
}

#[tokio::test]
async fn guests_end_with_their_owner() {
    let Some((_lan, mut farm)) = farm(2, 2).await else { return };
    let client = farm[0].client().await;
    let work = tokio::spawn(async move { run(&client, "sleep 987", 4, 4).await });
    let busy = async |machine: &Machine, wanted: u32| {
        let since = Instant::now();
        loop {
            let own = machine.machines().await.into_iter().find(|machine| machine.is_self).unwrap();
            if own.busy == wanted {
                return;
            }
            assert!(since.elapsed() < Duration::from_secs(30), "{} are busy", own.busy);
            sleep(Duration::from_millis(20)).await;
        }
    };
    busy(&farm[1], 2).await;
    farm[0].kill();
    work.abort();
    busy(&farm[1], 0).await;
    let processes = std::process::Command::new("pgrep").args(["-f", "^sleep 987$"]).output().unwrap();
    // Those of the owner's own are killed with it; the machine it had others on kills them itself.
    assert!(processes.stdout.is_empty(), "{:?}", String::from_utf8_lossy(&processes.stdout));
}

#[tokio::test]
async fn two_people_get_equal_shares() {
    let Some(lan) = Lan::new(3) else { return };
    let people = ["ada", "ben", "cyd"];
    let start = |number: usize| Machine::start(&lan, number, &["--slots", "4", "--person", people[number]]);
    let farm: Vec<_> = (0..3).map(start).collect();
    for machine in &farm {
        let others: Vec<_> = farm.iter().filter(|other| other.name() != machine.name()).collect();
        machine.links_with(&others).await;
    }
    let (many, few) = (farm[0].client().await, farm[1].client().await);
    let all = tokio::spawn(async move { run(&many, "sleep 0.2", 600, 600).await });
    sleep(Duration::from_millis(1500)).await;
    let began = std::time::SystemTime::now() + Duration::from_secs(2);
    let some = run(&few, "sleep 0.2", 100, 100).await;
    let ended = std::time::SystemTime::now() - Duration::from_millis(500);
    let all = all.await.unwrap();
    let [ada, ben] = [&all, &some].map(|outcomes| slot_time(outcomes, began, ended));
    println!(
        "FIGURE two people, one with 6 times as many actions: {:.1} % for who has few",
        ben / (ada + ben) * 100.0
    );
    assert!(ada > 0.0 && ben > 0.0);
}

/// Seconds that these actions held slots between two times.
fn slot_time(outcomes: &[Outcome], from: std::time::SystemTime, until: std::time::SystemTime) -> f64 {
    let seconds =
        |time: std::time::SystemTime| time.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let (from, until) = (seconds(from), seconds(until));
    let wire = |time: &farmhand_proto::protobuf::Timestamp| time.seconds as f64 + f64::from(time.nanos) / 1e9;
    let held = outcomes.iter().map(|outcome| {
        let metadata = outcome.success().execution_metadata.as_ref().unwrap();
        let [start, end] = [&metadata.worker_start_timestamp, &metadata.worker_completed_timestamp]
            .map(|time| wire(time.as_ref().unwrap()).clamp(from, until));
        end - start
    });
    held.sum()
}
