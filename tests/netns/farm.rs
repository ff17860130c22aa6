//! Builds on a farm, while what happens on a LAN happens to it.

use std::collections::BTreeMap;
use std::time::Duration;

use farmhand::digest::Digest;
use farmhand_proto::reapi;
use futures_util::StreamExt;
use futures_util::stream;
use prost::Message;
use tokio::time::{Instant, sleep};

use crate::disk::SmallDisk;
use crate::lan::{Lan, Quality};
use crate::machine::Machine;
use crate::support::{ActionBuilder, Client, Outcome, finish};

/// A farm of so many machines with so many slots each, all linked; `None` where there can be none.
pub(crate) async fn farm(machines: usize, slots: usize) -> Option<(Lan, Vec<Machine>)> {
    let lan = Lan::new(machines)?;
    let farm = linked(&lan, machines, |_| vec!["--slots".to_owned(), slots.to_string()]).await;
    Some((lan, farm))
}

/// So many machines of a LAN, each with its arguments, all linked.
async fn linked(lan: &Lan, count: usize, arguments: impl Fn(usize) -> Vec<String>) -> Vec<Machine> {
    let start = |number: usize| {
        let arguments = arguments(number);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        Machine::start(lan, number, &arguments)
    };
    let farm: Vec<_> = (0..count).map(start).collect();
    for machine in &farm {
        let others: Vec<_> = farm.iter().filter(|other| other.name() != machine.name()).collect();
        machine.links_with(&others).await;
    }
    farm
}

/// Runs actions of this script, all of them different and so many at once; what came of each.
pub(crate) async fn run(client: &Client, script: &str, count: usize, at_once: usize) -> Vec<Outcome> {
    let actions = upload(client, script, count).await;
    execute(client, actions, at_once).await
}

/// Uploads so many actions of this script, all of them different.
pub(crate) async fn upload(client: &Client, script: &str, count: usize) -> Vec<(ActionBuilder, Digest)> {
    let salt = uuid::Uuid::new_v4();
    let action = |number: usize| {
        let (action, client) = (ActionBuilder::sh(script).salt(&format!("{salt} {number}")), client.clone());
        async move {
            let digest = action.upload(&client).await;
            (action, digest)
        }
    };
    stream::iter(0..count).map(action).buffer_unordered(16).collect().await
}

/// Runs actions that are uploaded, so many at once; what came of each.
pub(crate) async fn execute(
    client: &Client,
    actions: Vec<(ActionBuilder, Digest)>,
    at_once: usize,
) -> Vec<Outcome> {
    let run = |(action, digest): (ActionBuilder, Digest)| {
        let client = client.clone();
        async move { finish(action.start(&client, &digest).await.unwrap(), digest).await.unwrap() }
    };
    stream::iter(actions).map(run).buffer_unordered(at_once).collect().await
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
    let busy = ActionBuilder::sh("sleep 5").salt(&uuid::Uuid::new_v4().to_string());
    let data = vec![7; 3 << 20];
    let action = ActionBuilder::sh("cat in > out; mkdir d; cp in d/x; echo said; echo warned >&2")
        .file("in", &data)
        .outputs(&["out", "d"])
        .salt(&uuid::Uuid::new_v4().to_string());
    let far = async {
        until_busy(&farm[..1], 1).await;
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

/// Starts work on three machines of four slots, has `harm` done to one that does some for another once all
/// of it runs, and tells which that was and how long after it the last action began again elsewhere. There are
/// slots for all of them.
async fn work_through(farm: &mut [Machine], harm: impl FnOnce(&mut Machine)) -> (usize, Duration) {
    let client = farm[0].client().await;
    let work = tokio::spawn(async move { run(&client, "sleep 5", 8, 8).await });
    until_busy(farm, 8).await;
    let busy = [busy(&farm[1]).await, busy(&farm[2]).await];
    let victim = if busy[0] > busy[1] { 1 } else { 2 };
    assert!(busy[victim - 1] > 0);
    let harmed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    harm(&mut farm[victim]);
    let outcomes = work.await.unwrap();
    let began = outcomes.iter().map(|outcome| {
        let began = outcome.success().execution_metadata.as_ref().unwrap().worker_start_timestamp.as_ref();
        let began = began.unwrap();
        Duration::new(began.seconds.try_into().unwrap(), began.nanos.try_into().unwrap())
    });
    let last = began.max().unwrap();
    assert!(last > harmed, "something ran again");
    let places = places(&outcomes);
    assert!(!places.contains_key(&farm[victim].name()), "{places:?}");
    (victim, last - harmed)
}

/// Actions that a machine runs.
async fn busy(machine: &Machine) -> u32 {
    machine.machines().await.into_iter().find(|machine| machine.is_self).unwrap().busy
}

/// Waits until these machines run so many actions together.
async fn until_busy(machines: &[Machine], wanted: u32) {
    let since = Instant::now();
    loop {
        let mut running = 0;
        for machine in machines {
            running += busy(machine).await;
        }
        if running == wanted {
            return;
        }
        assert!(since.elapsed() < Duration::from_secs(30), "{running} run, {wanted} are wanted");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_ran_on_a_machine_that_is_killed_runs_elsewhere() {
    let Some((_lan, mut farm)) = farm(3, 4).await else { return };
    let (_, took) = work_through(&mut farm, Machine::kill).await;
    println!("FIGURE a machine killed: its actions run elsewhere {took:.2?} after that");
}

#[tokio::test]
async fn what_ran_on_a_machine_that_is_cut_off_runs_elsewhere() {
    let Some((lan, mut farm)) = farm(3, 4).await else { return };
    let (victim, took) = work_through(&mut farm, |machine| lan.silence(machine.number())).await;
    println!("FIGURE a machine cut off in silence: its actions run elsewhere {took:.2?} after that");
    // What it ran for others it has ended, and it comes back by itself.
    until_busy(&farm[victim..=victim], 0).await;
    lan.unsilence(victim);
    farm[0].links_with(&[&farm[victim]]).await;
    let outcomes = run(&farm[0].client().await, "sleep 0.5", 24, 24).await;
    assert!(places(&outcomes).contains_key(&farm[victim].name()));
}

#[tokio::test]
async fn what_ran_on_a_machine_that_is_frozen_runs_elsewhere() {
    let Some((_lan, mut farm)) = farm(3, 4).await else { return };
    let (victim, took) = work_through(&mut farm, |machine| machine.signal("STOP")).await;
    println!("FIGURE a machine frozen: its actions run elsewhere {took:.2?} after that");
    farm[victim].signal("CONT");
    farm[0].links_with(&[&farm[victim]]).await;
}

#[tokio::test]
async fn guests_end_with_their_owner() {
    let Some((_lan, mut farm)) = farm(2, 2).await else { return };
    let client = farm[0].client().await;
    // A command that nothing else on this machine runs.
    let command = format!("sleep 987.{}", std::process::id());
    let pattern = format!("^{command}$");
    let work = tokio::spawn(async move { run(&client, &command, 4, 4).await });
    until_busy(&farm[1..], 2).await;
    farm[0].kill();
    work.abort();
    until_busy(&farm[1..], 0).await;
    // Those of the owner's own end with it; the machine it had others on ends them itself.
    let since = Instant::now();
    while std::process::Command::new("pgrep").args(["-f", &pattern]).output().unwrap().status.success() {
        assert!(since.elapsed() < Duration::from_secs(30));
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn two_people_get_equal_shares() {
    let Some(lan) = Lan::new(3) else { return };
    let person = |number: usize| ["--slots", "4", "--person", ["ada", "ben", "cyd"][number]];
    let farm = linked(&lan, 3, |number| person(number).map(str::to_owned).into()).await;
    let (many, few) = (farm[0].client().await, farm[1].client().await);
    let some = upload(&few, "sleep 0.2", 200).await;
    let all = tokio::spawn(async move { run(&many, "sleep 0.2", 600, 600).await });
    until_busy(&farm[..1], 4).await;
    // While both have more to do than there are slots for.
    let began = std::time::SystemTime::now() + Duration::from_secs(2);
    let some = execute(&few, some, 200).await;
    let ended = std::time::SystemTime::now() - Duration::from_millis(500);
    let all = all.await.unwrap();
    assert!(began < ended, "it was over before the shares had settled");
    let [ada, ben] = [&all, &some].map(|outcomes| slot_time(outcomes, began, ended));
    let share = ben / (ada + ben);
    println!("FIGURE two people, one with 3 times as many actions: {:.1} % for who has few", share * 100.0);
    assert!((0.3..0.7).contains(&share), "{ben:.1} s of slots for who has few, {ada:.1} s for who has many");
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

/// Runs an action as a part of a build.
async fn run_in(client: &Client, build: &str, action: &ActionBuilder) -> Outcome {
    let digest = action.upload(client).await;
    let mut request = tonic::Request::new(action.execute_request(client, &digest));
    let metadata = reapi::RequestMetadata { tool_invocation_id: build.to_owned(), ..Default::default() };
    let metadata = tonic::metadata::MetadataValue::from_bytes(&metadata.encode_to_vec());
    request.metadata_mut().insert_bin("build.bazel.remote.execution.v2.requestmetadata-bin", metadata);
    let stream = client.execution().execute(request).await.unwrap().into_inner();
    finish(stream, digest).await.unwrap()
}

#[tokio::test]
async fn what_one_machine_made_goes_to_the_next_without_its_owner() {
    let Some(lan) = Lan::new(3) else { return };
    let pool = |number: usize| ["--slots", "1", "--pools", ["home", "makers", "users"][number]];
    let farm = linked(&lan, 3, |number| pool(number).map(str::to_owned).into()).await;
    let (client, build) = (farm[0].client().await, uuid::Uuid::new_v4().to_string());
    let make = ActionBuilder::sh("head -c 24000000 /dev/urandom > out").outputs(&["out"]).salt(&build);
    let made = run_in(&client, &build, &make.property("Pool", "makers")).await;
    let out = made.output(&client, "out").await;
    assert_eq!(out.len(), 24_000_000);
    let before = [0, 1].map(|machine| lan.sent(machine));
    let using = ActionBuilder::sh("wc -c < in").file("in", &out).salt(&build).property("Pool", "users");
    let used = run_in(&client, &build, &using).await;
    assert_eq!(used.stdout(&client).await, "24000000\n");
    let [owner, maker] = [0, 1].map(|machine| lan.sent(machine) - before[machine]);
    assert!(maker > 24_000_000 && owner < 2_000_000, "the owner sent {owner} bytes, who made it {maker}");
}

#[tokio::test]
async fn what_two_people_ask_for_runs_once() {
    let Some((_lan, farm)) = farm(2, 1).await else { return };
    let [one, other] = [farm[0].client().await, farm[1].client().await];
    // Both have so much to do that each hears of the other's work.
    let ahead = |client: &Client| {
        let client = client.clone();
        tokio::spawn(async move { run(&client, "sleep 1", 4, 4).await })
    };
    let busy = [ahead(&one), ahead(&other)];
    sleep(Duration::from_millis(500)).await;
    let salt = uuid::Uuid::new_v4().to_string();
    let same = |number: usize| {
        ActionBuilder::sh("head -c 20 /dev/urandom > out; sleep 0.3")
            .outputs(&["out"])
            .salt(&format!("{salt} {number}"))
    };
    let all = async |client: &Client| {
        let actions = (0..6).map(|number| {
            let (action, client) = (same(number), client.clone());
            async move { (number, action.run(&client).await) }
        });
        let mut outcomes: Vec<_> = stream::iter(actions).buffer_unordered(6).collect().await;
        outcomes.sort_by_key(|(number, _)| *number);
        let out = |outcome: &Outcome| outcome.success().output_files[0].digest.clone().unwrap().hash;
        outcomes.iter().map(|(_, outcome)| out(outcome)).collect::<Vec<_>>()
    };
    let (first, second) = tokio::join!(all(&one), all(&other));
    for work in busy {
        work.await.unwrap();
    }
    let once = first.iter().zip(&second).filter(|(one, other)| one == other).count();
    assert!(once >= 5, "{once} of 6 ran once: {first:?} {second:?}");
}

#[tokio::test]
async fn a_clock_that_is_wrong_by_a_year_is_no_reason() {
    const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    if !std::path::Path::new(LIBRARY).exists() {
        println!("SKIPPED: libfaketime is not installed ({LIBRARY})");
        return;
    }
    let Some(lan) = Lan::new(2) else { return };
    let wrong = [("LD_PRELOAD", LIBRARY), ("FAKETIME", "-365d"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
    let farm =
        [Machine::start(&lan, 0, &["--slots", "1"]), Machine::start_with(&lan, 1, &["--slots", "2"], &wrong)];
    farm[0].links_with(&[&farm[1]]).await;
    farm[1].links_with(&[&farm[0]]).await;
    for machine in &farm {
        let began = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let outcomes = run(&machine.client().await, "sleep 0.3", 9, 9).await;
        assert_eq!(places(&outcomes).len(), 2);
        if machine.name() == "m0" {
            let metadata =
                outcomes.iter().map(|outcome| outcome.success().execution_metadata.clone().unwrap());
            let began = i64::try_from(began).unwrap();
            let times = metadata.map(|metadata| metadata.worker_start_timestamp.unwrap().seconds - began);
            assert!(times.clone().all(|ahead| (-5..60).contains(&ahead)), "{:?}", times.collect::<Vec<_>>());
        }
    }
    let ahead = farm[0].machines().await.into_iter().find(|machine| !machine.is_self).unwrap().clock_ahead;
    assert!(ahead.unwrap().seconds < -364 * 86_400, "and people are told of it");
}

#[tokio::test]
async fn a_machine_whose_disk_is_full_loses_nobody_a_build() {
    let Some(lan) = Lan::new(2) else { return };
    let full = SmallDisk::mount(48);
    let data = full.data();
    let arguments = ["--slots", "4", "--data-dir", &data, "--disk-budget", "40MB", "--disk-reserve", "0"];
    let farm = [Machine::start(&lan, 0, &["--slots", "1"]), Machine::start(&lan, 1, &arguments)];
    farm[0].links_with(&[&farm[1]]).await;
    // It cannot all be written, and need not be.
    full.fill(0);
    let client = farm[0].client().await;
    let outcomes = run(&client, "head -c 2000000 /dev/urandom > out; sleep 0.1", 12, 12).await;
    assert!(places(&outcomes).contains_key("m0"));
}

#[tokio::test]
async fn a_bad_link_is_a_slow_one_and_no_lost_machine() {
    let Some(mut lan) = Lan::new(2) else { return };
    lan.worsen(1, Quality::WIFI);
    let farm = [Machine::start(&lan, 0, &["--slots", "1"]), Machine::start(&lan, 1, &["--slots", "4"])];
    farm[0].links_with(&[&farm[1]]).await;
    let client = farm[0].client().await;
    // More than such a link carries in the time in which a machine that is silent is taken for gone.
    let busy = ActionBuilder::sh("sleep 8").salt(&uuid::Uuid::new_v4().to_string());
    let large = ActionBuilder::sh("cat in | wc -c")
        .file("in", vec![5; 8 << 20])
        .salt(&uuid::Uuid::new_v4().to_string());
    let far = async {
        until_busy(&farm[..1], 1).await;
        large.run(&client).await
    };
    let (_, outcome) = tokio::join!(busy.run(&client), far);
    assert_eq!(outcome.success().execution_metadata.as_ref().unwrap().worker, "m1");
    assert_eq!(outcome.stdout(&client).await, "8388608\n");
    assert!(!farm[0].log().contains("lost"), "{}", farm[0].log());
}
