//! WATCH: what a dashboard is told of a running node.

use std::collections::BTreeMap;

use farmhand_proto::control::operation::{Kind, Stage};
use farmhand_proto::control::{GetStatusRequest, Operation, WatchRequest};
use farmhand_proto::reapi::{GetActionResultRequest, RequestMetadata, ToolDetails};
use farmhand_proto::time::{std_duration, system_time};
use tonic::{Code, Request};

use crate::request_metadata::attach;
use crate::support::action::{Outcome, finish};
use crate::support::control::{View, control};
use crate::support::{ActionBuilder, Client, Node};

/// What build `b` tells of an action.
fn metadata(target: &str) -> RequestMetadata {
    RequestMetadata {
        tool_details: Some(ToolDetails { tool_name: "tool".into(), tool_version: "1.2".into() }),
        tool_invocation_id: "b".into(),
        correlated_invocations_id: "ci".into(),
        action_mnemonic: "Compile".into(),
        target_id: target.into(),
        ..Default::default()
    }
}

/// Uploads and executes as a part of build `b`.
async fn run(client: &Client, action: &ActionBuilder, target: &str) -> Outcome {
    let digest = action.upload(client).await;
    let mut request = Request::new(action.execute_request(client, &digest));
    attach(&mut request, &metadata(target));
    let stream = client.execution().execute(request).await.unwrap().into_inner();
    finish(stream, digest).await.unwrap()
}

/// Asks the action cache as a part of build `b`; whether there is a result.
async fn look_up(client: &Client, action: &ActionBuilder, target: &str) -> bool {
    let (digest, _) = action.blobs(client);
    let message = GetActionResultRequest { action_digest: Some(digest.to_wire()), ..Default::default() };
    let mut request = Request::new(message);
    attach(&mut request, &metadata(target));
    match client.action_cache().get_action_result(request).await {
        Ok(_) => true,
        Err(status) if status.code() == Code::NotFound => false,
        Err(status) => panic!("{status}"),
    }
}

#[tokio::test]
async fn what_runs_is_shown_with_everything_that_is_known_of_it() {
    let node = Node::start();
    let client = node.client().await;
    let (mut view, mut stream) = View::open(&mut control(&node).await, WatchRequest::default()).await;
    let mut action = ActionBuilder::sh("dd if=/dev/zero bs=1M count=20 2>/dev/null | wc -c > out")
        .outputs(&["out", "other"])
        .property("OSFamily", "linux");
    action.request.execution_policy = Some(farmhand_proto::reapi::ExecutionPolicy { priority: -7 });
    run(&client, &action, "//a").await.success();
    run(&client, &ActionBuilder::sh("echo why >&2; exit 3"), "//fails").await;
    view.until(&mut stream, |view| view.execution.executed == 2 && view.operations.len() == 2).await;

    let shown = view.operation("//a");
    assert_eq!((shown.kind(), shown.stage(), shown.cached), (Kind::Execute, Stage::Done, false));
    assert_eq!(
        (shown.mnemonic.as_str(), shown.invocation.as_str(), shown.tool.as_str()),
        ("Compile", "b", "tool 1.2")
    );
    assert_eq!((shown.machine.as_str(), shown.attempts, shown.callers), ("testnode", 1, 1));
    assert_eq!((shown.first_output.as_str(), shown.priority), ("out", -7));
    assert_eq!(shown.needs, ["OSFamily=linux"]);
    assert!(shown.cpu_time.as_ref().and_then(std_duration).is_some() && shown.peak_memory > 0);
    let times =
        [&shown.queued, &shown.started, &shown.command_started, &shown.command_ended, &shown.finished]
            .map(|time| system_time(time.as_ref().unwrap()).unwrap());
    assert!(times.is_sorted(), "{times:?}");
    assert!(shown.sequence > 0 && shown.result.is_none());
    assert_eq!(view.operation("//fails").exit_code, 3);
}

/// A client that asks before it executes, one action that fails, and hits both ways.
#[tokio::test]
async fn the_counts_of_node_build_and_mnemonic_add_up() {
    let node = Node::start();
    let client = node.client().await;
    let mut control = control(&node).await;
    let (mut view, mut stream) = View::open(&mut control, WatchRequest::default()).await;
    for number in 0..3 {
        let action = ActionBuilder::sh("true").salt(&number.to_string());
        assert!(!look_up(&client, &action, "//a").await);
        run(&client, &action, "//a").await.success();
        assert!(look_up(&client, &action, "//a").await);
        assert!(run(&client, &action, "//a").await.response.cached_result);
    }
    run(&client, &ActionBuilder::sh("exit 1"), "//b").await;
    view.until(&mut stream, |view| view.execution.executed == 4).await;
    view.until(&mut stream, |view| !view.samples.is_empty()).await;

    let status = control.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    let execution = status.execution.unwrap();
    assert_eq!((execution.executed, execution.failed, execution.errors), (4, 1, 0));
    assert_eq!((execution.cached, execution.queued, execution.running), (3, 0, 0));
    assert_eq!((execution.lookups, execution.hits), (3 + 3 + 3 + 1, 6), "a miss and its Execute are one");
    assert_eq!((execution.recent_lookups, execution.recent_hits), (10, 6));
    let build = &view.builds["b"];
    assert_eq!((build.executed, build.failed, build.lookups, build.hits), (4, 1, 10, 6));
    assert_eq!((build.tool.as_str(), build.correlated.as_str()), ("tool 1.2", "ci"));
    let kind = &view.mnemonics["Compile"];
    assert_eq!((kind.executed, kind.failed, kind.lookups, kind.hits), (4, 1, 10, 6));
    let time =
        |time: &Option<farmhand_proto::protobuf::Duration>| std_duration(time.as_ref().unwrap()).unwrap();
    assert!(!time(&kind.run_time).is_zero() && !time(&kind.saved_time).is_zero());
    let of_kind = |kind: Kind| view.operations.values().filter(|operation| operation.kind() == kind).count();
    assert_eq!((of_kind(Kind::Execute), of_kind(Kind::Lookup)), (7, 3));
}

#[tokio::test]
async fn bytes_are_counted_for_the_build_that_moves_them() {
    let node = Node::start();
    let client = node.client().await;
    let (mut view, mut stream) = View::open(&mut control(&node).await, WatchRequest::default()).await;
    let data = crate::support::random_bytes(1, 300_000);
    let digest = client.digest(&data);
    let messages = crate::support::client::write_requests(client.write_name(&digest), &data);
    let mut write = Request::new(tokio_stream::iter(messages));
    attach(&mut write, &metadata(""));
    client.byte_stream().write(write).await.unwrap();
    let mut read = Request::new(farmhand_proto::bytestream::ReadRequest {
        resource_name: client.read_name(&digest),
        read_limit: 1000,
        ..Default::default()
    });
    attach(&mut read, &metadata(""));
    let mut pieces = client.byte_stream().read(read).await.unwrap().into_inner();
    while pieces.message().await.unwrap().is_some() {}
    client.batch_read(&[digest]).await.unwrap();
    let sum = |view: &View, field: fn(&farmhand_proto::control::Sample) -> u64| {
        view.samples.iter().map(field).sum::<u64>()
    };
    view.until(&mut stream, |view| sum(view, |sample| sample.downloaded_bytes) == 301_000).await;
    assert_eq!(sum(&view, |sample| sample.uploaded_bytes), 300_000);
    let build = &view.builds["b"];
    assert_eq!((build.uploaded_bytes, build.downloaded_bytes), (300_000, 1000));
    assert_eq!(view.builds[""].downloaded_bytes, 300_000, "the batch named no build");
}

#[tokio::test]
async fn what_waits_and_runs_is_seen_while_it_does() {
    let node = Node::builder().arguments(&["--slots", "1"]).start();
    let client = node.client().await;
    let (mut view, mut stream) = View::open(&mut control(&node).await, WatchRequest::default()).await;
    run(&client, &ActionBuilder::sh("true"), "//before").await.success();
    let mut runs = tokio::task::JoinSet::new();
    let first = client.clone();
    runs.spawn(async move { run(&first, &ActionBuilder::sh("sleep 1"), "//runs").await });
    view.until(&mut stream, |view| view.execution.running == 1).await;
    runs.spawn(async move { run(&client, &ActionBuilder::sh("sleep 0"), "//waits").await });
    view.until(&mut stream, |view| view.execution.queued == 1 && view.operations.len() == 3).await;
    assert_eq!(view.operation("//waits").stage(), Stage::Queued);
    assert_eq!(view.operation("//runs").stage(), Stage::Running);
    let build = &view.builds["b"];
    assert_eq!((build.queued, build.running, view.machines[0].busy), (1, 1, 1));
    assert!(view.operation("//waits").expected.is_some(), "one of its kind was run before");
    view.until(&mut stream, |view| view.execution.executed == 3).await;
    assert_eq!((view.builds["b"].queued, view.builds["b"].running), (0, 0));
    runs.join_all().await;
}

#[tokio::test]
async fn who_comes_back_misses_nothing_and_gets_nothing_twice() {
    let node = Node::start();
    let client = node.client().await;
    let mut control = control(&node).await;
    let (mut view, mut stream) = View::open(&mut control, WatchRequest::default()).await;
    for round in 0..5 {
        for number in 0..4 {
            run(&client, &ActionBuilder::sh("true").salt(&format!("{round} {number}")), "//a").await;
        }
        let seen = view.samples.len();
        view.until(&mut stream, |view| view.samples.len() > seen).await;
        let request = WatchRequest { resume: view.position, ..Default::default() };
        stream = control.watch(request).await.unwrap().into_inner();
    }
    view.until(&mut stream, |view| view.execution.executed == 20).await;
    assert_eq!(view.snapshots, 1);
    let mut times: Vec<_> =
        view.samples.iter().map(|sample| system_time(sample.at.as_ref().unwrap()).unwrap()).collect();
    assert!(times.is_sorted());
    times.dedup();
    assert_eq!(times.len(), view.samples.len(), "each second once");
    let (fresh, _) = View::open(&mut control, WatchRequest::default()).await;
    assert_eq!(view.operations, fresh.operations);
    assert_eq!(view.builds["b"].executed, 20);
    let all: u32 = fresh.samples.iter().map(|sample| sample.executed).sum();
    let before: u32 = view.samples.iter().map(|sample| sample.executed).sum();
    assert!(before <= all && all <= 20, "{before} {all}");
}

#[tokio::test]
async fn a_restart_is_another_epoch_and_begins_anew() {
    let mut node = Node::start();
    let client = node.client().await;
    run(&client, &ActionBuilder::sh("true"), "//a").await;
    let (view, _stream) = View::open(&mut control(&node).await, WatchRequest::default()).await;
    assert_eq!(view.operations.len(), 1);
    node.kill();
    node.restart();
    let mut control = control(&node).await;
    let request = WatchRequest { resume: view.position, ..Default::default() };
    let (again, _stream) = View::open(&mut control, request).await;
    assert_eq!((again.snapshots, again.operations.len()), (1, 0));
    let (before, after) = (view.position.unwrap(), again.position.unwrap());
    assert!(after.boot_epoch > before.boot_epoch, "{before:?} {after:?}");
    let status = control.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.node.unwrap().boot_epoch, after.boot_epoch);
}

/// It is served what is there when it reads, and nothing is kept for it meanwhile.
#[tokio::test]
async fn a_watcher_that_stood_still_gets_the_latest_of_each() {
    let node = Node::start();
    let client = node.client().await;
    let mut control = control(&node).await;
    let (mut view, mut stream) = View::open(&mut control, WatchRequest::default()).await;
    for number in 0..60 {
        run(&client, &ActionBuilder::sh("true").salt(&number.to_string()), "//a").await;
    }
    let messages = view.messages;
    view.until(&mut stream, |view| view.execution.executed == 60).await;
    assert!(view.messages - messages < 60, "{} messages", view.messages - messages);
    let (fresh, _) = View::open(&mut control, WatchRequest::default()).await;
    assert_eq!((without_reasons(view.operations), view.snapshots), (without_reasons(fresh.operations), 1));
}

/// Why there was no result is found out a moment later, and may be told to one and not yet to the other.
fn without_reasons(mut operations: BTreeMap<String, Operation>) -> BTreeMap<String, Operation> {
    operations.values_mut().for_each(|operation| operation.miss = 0);
    operations
}

#[tokio::test]
async fn a_machine_tells_what_it_is_and_does() {
    let node = Node::start();
    let mut control = control(&node).await;
    let (mut view, mut stream) = View::open(&mut control, WatchRequest::default()).await;
    view.until(&mut stream, |view| view.machines[0].load.is_some()).await;
    let machine = &view.machines[0];
    assert_eq!((machine.os.as_str(), machine.found_by.as_str()), (std::env::consts::OS, "self"));
    assert!(machine.cpus > 0 && !machine.arch.is_empty() && machine.budget_bytes > 0);
    let load = machine.load.unwrap();
    assert!((0.0..=1.0).contains(&load.cpu) && load.memory_total > load.memory_available);
    assert!(load.disk_total >= load.disk_free && load.disk_free > 0 && load.measured.is_some());
    let status = control.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    assert!(status.machines[0].load.is_some());
}

#[tokio::test]
async fn nothing_happens_and_still_there_is_a_sign_of_life() {
    let node = Node::start();
    let (mut view, mut stream) = View::open(&mut control(&node).await, WatchRequest::default()).await;
    let samples = view.samples.len();
    view.until(&mut stream, |view| view.samples.len() >= samples + 2).await;
}

#[tokio::test]
async fn a_caller_that_needs_a_newer_node_is_refused() {
    let node = Node::start();
    let mut control = control(&node).await;
    let with = |version: &str| {
        let mut request = Request::new(GetStatusRequest {});
        request.metadata_mut().insert("farmhand-protocol", version.parse().unwrap());
        request
    };
    control.get_status(with("2")).await.unwrap();
    let refused = control.get_status(with("3")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("version 3") && refused.message().contains("version 2"), "{refused}");
    let mut watch = Request::new(WatchRequest::default());
    watch.metadata_mut().insert("farmhand-protocol", "3".parse().unwrap());
    assert_eq!(control.watch(watch).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_watcher_does_not_keep_the_node_from_ending() {
    let mut node = Node::start();
    let (_view, mut stream) = View::open(&mut control(&node).await, WatchRequest::default()).await;
    assert!(node.stop().success());
    let end = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn there_is_room_for_sixty_four_watchers() {
    let node = Node::start();
    let mut control = control(&node).await;
    let mut all = Vec::new();
    for _ in 0..64 {
        all.push(control.watch(WatchRequest::default()).await.unwrap().into_inner());
    }
    let refused = control.watch(WatchRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    for stream in &mut all {
        stream.message().await.unwrap().unwrap();
    }
}
