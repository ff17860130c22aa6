//! Reruns with fakes around them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tonic::Code;

use super::*;
use crate::action_cache::{ActionCache, ActionKey};
use crate::execution::testing::{Farm, request};
use crate::execution::{MachineChange, Stage, Target};

fn again(action: Digest, times: u32) -> RerunRequest {
    RerunRequest {
        instance: InstanceName::default(),
        action,
        platform: PlatformRules::default(),
        times,
        machine: None,
    }
}

async fn all(rerun: &mut Rerun) -> Vec<(u32, Stage)> {
    let mut steps = Vec::new();
    while let Some(step) = rerun.next().await {
        let step = step.unwrap();
        steps.push((step.run, step.state.stage));
    }
    steps
}

#[tokio::test(start_paused = true)]
async fn every_run_is_a_run_of_its_own_and_leaves_no_trace() {
    let (farm, worker) = Farm::with_worker(4);
    let action = farm.action(&["true"]);
    farm.scheduler.execute(request(action)).await.unwrap().done().await;
    let key = ActionKey { instance: InstanceName::default(), action };
    let cached = farm.action_cache.get(&key).await.unwrap();
    let poison = reapi::ActionResult { stdout_raw: b"before".to_vec(), ..Default::default() };
    farm.action_cache.put(&key, poison.clone()).await.unwrap();

    let mut rerun = farm.scheduler.rerun(again(action, 3)).await.unwrap();
    assert_eq!((rerun.at_once, rerun.cached().await), (2, Some(poison.clone())));
    let steps = all(&mut rerun).await;
    for run in 1..=3 {
        let of_run: Vec<_> = steps.iter().filter(|step| step.0 == run).map(|step| step.1).collect();
        assert!(of_run.is_sorted() && of_run.last() == Some(&Stage::Completed), "{steps:?}");
    }
    assert_eq!(worker.runs(), 4);
    assert_eq!(farm.action_cache.get(&key).await.unwrap(), Some(poison));
    assert!(cached.is_some());
    let finished = farm.scheduler.ended();
    assert_eq!(finished.iter().filter(|operation| operation.kind == Kind::Rerun).count(), 3);
    assert!(finished.iter().all(|operation| !operation.state().response.unwrap().cached_result));
}

#[tokio::test(start_paused = true)]
async fn a_build_goes_first() {
    let (farm, worker) = Farm::with_worker(1);
    let action = farm.action(&["wait"]);
    let mut rerun = farm.scheduler.rerun(again(action, 2)).await.unwrap();
    assert_eq!(rerun.at_once, 1);
    while rerun.next().await.unwrap().unwrap().state.stage != Stage::Executing {}
    let mut build = farm.scheduler.execute(request(farm.action(&["true"]))).await.unwrap();
    worker.release();
    worker.release();
    let state = build.done().await;
    assert_eq!(Code::from(state.response.unwrap().status.clone().unwrap_or_default().code), Code::Ok);
    all(&mut rerun).await;
    let leases = worker.leases.lock().unwrap();
    let programs: Vec<_> = leases.iter().map(|lease| lease.command.arguments[0].as_str()).collect();
    assert_eq!(programs, ["wait", "true", "wait"]);
}

#[tokio::test(start_paused = true)]
async fn leaving_ends_what_runs_and_what_waits() {
    let (farm, worker) = Farm::with_worker(2);
    let change = MachineChange { slots: Some(1), ..Default::default() };
    let mut rerun = farm.scheduler.rerun(again(farm.action(&["wait"]), 9)).await.unwrap();
    rerun.at_once = 2;
    farm.scheduler.set_machine("worker", change).await.unwrap();
    for _ in 0..4 {
        let step = tokio::time::timeout(Duration::from_secs(1), rerun.next()).await;
        if step.is_err() {
            break;
        }
    }
    let snapshot = farm.scheduler.snapshot();
    assert_eq!((snapshot.running.len(), snapshot.queued.len()), (1, 1));
    drop(rerun);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let snapshot = farm.scheduler.snapshot();
    assert_eq!((snapshot.running.len(), snapshot.queued.len()), (0, 0));
    assert_eq!((worker.runs(), worker.cancelled.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn it_runs_where_it_is_told_to() {
    let (farm, first) = Farm::with_worker(4);
    let second = farm.add_worker("second", 4);
    let action = farm.action(&["true"]);
    let on = |name: &str| RerunRequest { machine: Some(name.into()), ..again(action, 4) };
    all(&mut farm.scheduler.rerun(on("second")).await.unwrap()).await;
    assert_eq!((first.runs(), second.runs()), (0, 4));
    let unknown = farm.scheduler.rerun(on("third")).await.err().unwrap();
    assert!(matches!(unknown, RerunError::UnknownMachine(name) if name == "third"));
}

#[tokio::test(start_paused = true)]
async fn what_is_gone_cannot_be_run_again() {
    let (farm, worker) = Farm::with_worker(1);
    let absent = Digest::of(crate::digest::DigestFunction::Sha256, b"absent");
    let missing_file = farm.action_with(&["true"], |action, _| {
        let file = reapi::FileNode { name: "f".into(), digest: Some(absent.to_wire()), ..Default::default() };
        let root = reapi::Directory { files: vec![file], ..Default::default() };
        let root = prost::Message::encode_to_vec(&root);
        action.input_root_digest =
            Some(farm.cas.insert(crate::digest::DigestFunction::Sha256, root).to_wire());
    });
    let no_command = farm.action_with(&["true"], |action, _| action.command_digest = Some(absent.to_wire()));
    for action in [absent, missing_file, no_command] {
        let error = farm.scheduler.rerun(again(action, 1)).await.err().unwrap();
        assert!(matches!(&error, RerunError::Missing(missing) if *missing == [absent]), "{error}");
    }
    assert_eq!(worker.runs(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_killed_run_is_over_and_the_others_go_on() {
    let (farm, worker) = Farm::with_worker(2);
    let mut rerun = farm.scheduler.rerun(again(farm.action(&["wait"]), 2)).await.unwrap();
    let operation = loop {
        let step = rerun.next().await.unwrap().unwrap();
        if step.state.stage == Stage::Executing {
            break step.operation;
        }
    };
    assert_eq!(farm.scheduler.kill(Target::Operation(operation.id)).await.unwrap(), 1);
    worker.release();
    all(&mut rerun).await;
    let codes = farm.outcomes();
    assert!(codes.contains(&crate::execution::operations::Outcome::Succeeded));
    assert!(codes.contains(&crate::execution::operations::Outcome::Error(Code::Cancelled as i32)));
}
