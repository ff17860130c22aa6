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

#[tokio::test]
async fn what_ran_on_a_machine_that_is_killed_runs_elsewhere() {
    let Some((_lan, mut farm)) = farm(3, 4).await else { return };
    let client = farm[0].client().await;
    let work = tokio::spawn(async move { run(&client, "sleep 2", 12, 12).await });
    sleep(Duration::from_millis(1000)).await;
    let killed = farm[2].name();
    let since = Instant::now();
    farm[2].kill();
    let outcomes = work.await.unwrap();
    println!("12 actions of 2 s, a machine killed after 1 s: over {:?} after that", since.elapsed());
    let places = places(&outcomes);
    assert!(!places.contains_key(&killed), "{places:?}");
}
