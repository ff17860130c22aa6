//! How fast a farm is. Nothing is asserted of times: they are printed, each on a line of its own, and what
//! is asserted is that the work was done. `FARMHAND_FIGURES=full` has them measured at length.

mod copies;
mod tls;

use std::time::Duration;

use farmhand_proto::control::{SetMachineRequest, machine};
use tokio::time::{Instant, sleep};

use crate::farm::{execute, farm, places, run, upload};
use crate::lan::Lan;
use crate::machine::Machine;
use crate::support::{ActionBuilder, Client};

/// Whether to measure at length.
fn is_full() -> bool {
    std::env::var("FARMHAND_FIGURES").is_ok_and(|how| how == "full")
}

/// Has a machine take no actions of its own clients.
async fn pause(machine: &Machine) {
    let paused = SetMachineRequest { state: machine::State::Paused.into(), ..Default::default() };
    machine.control().await.set_machine(paused).await.unwrap();
}

/// Times of no-op actions with some inputs, one after the other, in the order of their length; and where
/// the last one ran.
async fn no_ops(client: &Client, count: usize) -> (Vec<Duration>, String) {
    let mut times = Vec::new();
    let mut worker = String::new();
    for number in 0..count {
        let salt = uuid::Uuid::new_v4().to_string();
        let action = ActionBuilder::new(&["/bin/true"]).file("in", format!("{salt} {number}")).salt(&salt);
        let digest = action.upload(client).await;
        let since = Instant::now();
        let stream = action.start(client, &digest).await.unwrap();
        let outcome = crate::support::finish(stream, digest).await.unwrap();
        times.push(since.elapsed());
        worker.clone_from(&outcome.success().execution_metadata.as_ref().unwrap().worker);
    }
    times.sort();
    (times, worker)
}

fn median(times: &[Duration]) -> f64 {
    times[times.len() / 2].as_secs_f64() * 1000.0
}

#[tokio::test]
async fn a_remote_action_takes_little_longer_than_a_local_one() {
    let Some((_lan, farm)) = farm(2, 2).await else { return };
    pause(&farm[0]).await;
    let (here, there) = (farm[1].client().await, farm[0].client().await);
    let rounds = if is_full() { 10 } else { 2 };
    let (mut local, mut remote) = (Vec::new(), Vec::new());
    // In turns, so that both see the same load of this machine.
    for _ in 0..rounds {
        let (times, worker) = no_ops(&here, 20).await;
        assert_eq!(worker, "m1");
        local.extend(times);
        let (times, worker) = no_ops(&there, 20).await;
        assert_eq!(worker, "m1");
        remote.extend(times);
    }
    local.sort();
    remote.sort();
    let (local, remote) = (median(&local), median(&remote));
    println!(
        "FIGURE no-op action: {local:.2} ms on the machine itself, {remote:.2} ms from another, {:.2} ms more",
        remote - local
    );
}

#[tokio::test]
async fn the_slots_of_a_farm_are_used() {
    let (machines, slots, count) = if is_full() { (8, 4, 1000) } else { (4, 4, 160) };
    let Some((_lan, farm)) = farm(machines, slots).await else { return };
    let client = farm[0].client().await;
    // Whatever is done once only.
    run(&client, "sleep 0.01", machines * slots, machines * slots).await;
    let actions = upload(&client, "sleep 0.2", count).await;
    let since = Instant::now();
    let outcomes = execute(&client, actions, count).await;
    let took = since.elapsed().as_secs_f64();
    let places = places(&outcomes);
    assert_eq!(places.values().sum::<usize>(), count);
    assert_eq!(places.len(), machines, "{places:?}");
    let ideal = (count as f64 / (machines * slots) as f64).ceil() * 0.2;
    println!(
        "FIGURE {count} actions of sleep 0.2 on {machines} machines with {slots} slots: {took:.2} s, {:.1} % of the ideal",
        ideal / took * 100.0
    );
}

#[tokio::test]
async fn a_second_machine_works_soon_after_its_start() {
    let Some(lan) = Lan::new(2) else { return };
    let first = Machine::start(&lan, 0, &["--slots", "1"]);
    let mut second = Machine::start(&lan, 1, &["--slots", "4"]);
    first.links_with(&[&second]).await;
    second.kill();
    let client = first.client().await;
    let work = tokio::spawn(async move { run(&client, "sleep 0.1; date +%s.%N", 100, 100).await });
    sleep(Duration::from_millis(300)).await;
    let began = std::time::SystemTime::now();
    second.restart(&lan);
    let outcomes = work.await.unwrap();
    let began = began.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let there = outcomes.iter().filter_map(|outcome| {
        let metadata = outcome.success().execution_metadata.as_ref().unwrap();
        (metadata.worker == "m1").then(|| {
            let start = metadata.execution_start_timestamp.as_ref().unwrap();
            start.seconds as f64 + f64::from(start.nanos) / 1e9
        })
    });
    let first = there.fold(f64::INFINITY, f64::min);
    assert!(first.is_finite(), "nothing ran there: {:?}", places(&outcomes));
    println!(
        "FIGURE a second machine, from its start to its first action of the first: {:.2} s",
        first - began
    );
}
