//! EX: stages, waiting, merging, cancelling, and the Operations service.

use std::time::Duration;

use farmhand::digest::Digest;
use farmhand_proto::longrunning::{self, GetOperationRequest, Operation};
use farmhand_proto::reapi::execution_stage::Value as Stage;
use farmhand_proto::reapi::{self, ActionResult, OutputFile, WaitExecutionRequest};
use tonic::{Code, Status, Streaming};

use crate::running::{eventually, is_running};
use crate::support::action::{finish, metadata, response};
use crate::support::{ActionBuilder, Client, Node};

async fn start(action: &ActionBuilder, client: &Client) -> (Streaming<Operation>, Digest) {
    let digest = action.upload(client).await;
    (action.start(client, &digest).await.unwrap(), digest)
}

async fn next(stream: &mut Streaming<Operation>) -> Operation {
    stream.message().await.unwrap().expect("the stream does not end before it is done")
}

async fn wait_execution(client: &Client, name: &str) -> Result<Streaming<Operation>, Status> {
    let request = WaitExecutionRequest { name: name.into() };
    Ok(client.execution().wait_execution(request).await?.into_inner())
}

async fn cancel(client: &Client, name: &str) -> Result<(), Status> {
    let request = longrunning::CancelOperationRequest { name: name.into() };
    client.operations().cancel_operation(request).await.map(drop)
}

async fn get(client: &Client, name: &str) -> Result<Operation, Status> {
    Ok(client.operations().get_operation(GetOperationRequest { name: name.into() }).await?.into_inner())
}

fn one_slot() -> Node {
    Node::builder().arguments(&["--slots", "1"]).start()
}

/// Occupies the only slot until the node ends.
async fn hold_the_slot(client: &Client) -> Streaming<Operation> {
    let (mut stream, _) = start(&ActionBuilder::sh("sleep 1000").do_not_cache(), client).await;
    while metadata(&next(&mut stream).await).stage() != Stage::Executing {}
    stream
}

#[tokio::test]
async fn the_first_message_comes_at_once_with_a_name() {
    let node = one_slot();
    let client = node.client().await;
    let _held = hold_the_slot(&client).await;
    let (mut stream, digest) = start(&ActionBuilder::sh("true"), &client).await;
    let first = tokio::time::timeout(Duration::from_secs(1), next(&mut stream)).await.unwrap();
    assert!(!first.name.is_empty() && !first.done);
    assert_eq!(metadata(&first).action_digest, Some(digest.to_wire()));
}

#[tokio::test]
async fn stages_run_forward_and_done_is_last() {
    let node = Node::start();
    let client = node.client().await;
    for function in farmhand::digest::DigestFunction::ALL {
        let client = client.clone().with_function(function);
        let outcome = ActionBuilder::sh("sleep 0.1").run(&client).await;
        let mut last = Stage::Unknown as i32;
        for (update, metadata) in outcome.updates.iter().zip(outcome.metadata()) {
            assert!(metadata.stage >= last, "{:?}", outcome.metadata());
            last = metadata.stage;
            assert_eq!(metadata.action_digest, Some(outcome.action_digest.to_wire()));
            assert_eq!(metadata.digest_function, function.to_wire());
            assert_eq!(metadata.stage() == Stage::Completed, update.done);
            assert_eq!(update.name, outcome.updates[0].name);
        }
        assert_eq!(outcome.updates.iter().filter(|update| update.done).count(), 1);
        assert!(outcome.metadata().iter().any(|metadata| metadata.stage() == Stage::Executing));
    }
}

/// A stream that is idle is repeated, and pings of an idle connection are answered.
#[tokio::test]
async fn state_is_repeated_while_waiting_and_pings_are_welcome() {
    let node = Node::builder().config("update-interval = \"200ms\"").start();
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", node.address)).unwrap();
    let channel = endpoint
        .http2_keep_alive_interval(Duration::from_millis(100))
        .keep_alive_while_idle(true)
        .keep_alive_timeout(Duration::from_secs(5))
        .connect()
        .await
        .unwrap();
    let client = Client { channel, ..node.client().await };
    let outcome = ActionBuilder::sh("sleep 1.5").run(&client).await;
    outcome.success();
    assert!(outcome.updates.len() >= 5, "{} updates in 1.5 s", outcome.updates.len());
}

#[tokio::test]
async fn a_run_outlives_its_caller_and_can_be_waited_for() {
    let node = Node::start();
    let client = node.client().await;
    let action = ActionBuilder::sh("sleep 1; date +%N").do_not_cache();
    let (mut stream, _) = start(&action, &client).await;
    let name = next(&mut stream).await.name;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut waiting = wait_execution(&client, &name).await.unwrap();
    let first = next(&mut waiting).await;
    assert_eq!(first.name, name);
    let mut last = first;
    while let Some(update) = waiting.message().await.unwrap() {
        last = update;
    }
    let first = response(&last).result.unwrap();
    assert_eq!(first.exit_code, 0);
    // Finished operations stay known: the same result, at once.
    let mut again = wait_execution(&client, &name).await.unwrap();
    let done = next(&mut again).await;
    assert!(done.done);
    assert_eq!(response(&done).result.unwrap().stdout_digest, first.stdout_digest);
    assert!(again.message().await.unwrap().is_none());
}

#[tokio::test]
async fn unknown_names_are_not_found_also_after_a_restart() {
    let mut node = Node::start();
    let client = node.client().await;
    let outcome = ActionBuilder::sh("true").run(&client).await;
    let name = outcome.updates[0].name.clone();
    for unknown in ["", "nonsense", "operations/00000000-0000-0000-0000-000000000000", &format!("{name}x")] {
        assert_eq!(
            wait_execution(&client, unknown).await.err().unwrap().code(),
            Code::NotFound,
            "{unknown:?}"
        );
        assert_eq!(get(&client, unknown).await.unwrap_err().code(), Code::NotFound);
        let code = cancel(&client, unknown).await.unwrap_err().code();
        assert!(matches!(code, Code::NotFound | Code::InvalidArgument));
    }
    node.kill();
    node.restart();
    let client = node.client().await;
    assert_eq!(wait_execution(&client, &name).await.err().unwrap().code(), Code::NotFound);
}

#[tokio::test]
async fn ten_waiters_all_see_the_end() {
    let node = Node::start();
    let client = node.client().await;
    let (mut stream, _) = start(&ActionBuilder::sh("sleep 0.5; echo x"), &client).await;
    let name = next(&mut stream).await.name;
    let mut waiters = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (client, name) = (client.clone(), name.clone());
        waiters.spawn(async move {
            let mut stream = wait_execution(&client, &name).await.unwrap();
            let mut last = next(&mut stream).await;
            while let Some(update) = stream.message().await.unwrap() {
                assert!(metadata(&update).stage >= metadata(&last).stage);
                last = update;
            }
            response(&last).result.unwrap().stdout_digest
        });
    }
    while let Some(digest) = waiters.join_next().await {
        assert_eq!(digest.unwrap(), Some(client.digest(b"x\n").to_wire()));
    }
}

#[tokio::test]
async fn the_second_run_is_a_cached_result_with_the_first_ones_metadata() {
    let node = Node::start();
    let client = node.client().await;
    let action = ActionBuilder::sh("echo cached");
    let first = action.run(&client).await;
    assert!(!first.response.cached_result);
    let second = action.run(&client).await;
    assert!(second.response.cached_result);
    assert_eq!(second.success().execution_metadata, first.success().execution_metadata);
    assert_eq!(second.metadata().last().unwrap().stage(), Stage::Completed);
}

#[tokio::test]
async fn skip_cache_lookup_runs_again_and_heals_the_entry() {
    let node = Node::start();
    let client = node.client().await;
    let action = ActionBuilder::sh("echo right > out").outputs(&["out"]);
    let digest = action.upload(&client).await;
    let wrong = client.put(b"wrong").await;
    let poisoned = ActionResult {
        output_files: vec![OutputFile {
            path: "out".into(),
            digest: Some(wrong.to_wire()),
            ..Default::default()
        }],
        ..Default::default()
    };
    client.update_action_result(&digest, poisoned).await.unwrap();
    assert_eq!(action.run(&client).await.output(&client, "out").await, b"wrong");
    let fresh = action.clone().skip_cache_lookup().run(&client).await;
    assert!(!fresh.response.cached_result);
    assert_eq!(fresh.output(&client, "out").await, b"right\n");
    assert_eq!(action.run(&client).await.output(&client, "out").await, b"right\n");
}

#[tokio::test]
async fn do_not_cache_neither_reads_nor_writes_nor_merges() {
    let node = Node::builder().arguments(&["--slots", "2"]).start();
    let client = node.client().await;
    let action = ActionBuilder::sh("sleep 0.3; cat /proc/sys/kernel/random/uuid").do_not_cache();
    let (one, two) = tokio::join!(action.run(&client), action.run(&client));
    assert_ne!(one.success().stdout_digest, two.success().stdout_digest, "two runs");
    assert!(client.action_result(&one.action_digest).await.is_none());
    let planted = ActionResult::default();
    client.update_action_result(&one.action_digest, planted).await.unwrap();
    assert!(!action.run(&client).await.response.cached_result);
}

#[tokio::test]
async fn equal_actions_in_flight_run_once() {
    let node = Node::builder().arguments(&["--slots", "4"]).start();
    let client = node.client().await;
    let action = ActionBuilder::sh("sleep 0.5; cat /proc/sys/kernel/random/uuid");
    action.upload(&client).await;
    let mut runs = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (client, action) = (client.clone(), action.clone());
        runs.spawn(async move { action.run(&client).await.success().stdout_digest.clone() });
    }
    let digests = runs.join_all().await;
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
}

#[tokio::test]
async fn one_caller_that_leaves_does_not_harm_the_others() {
    let node = Node::start();
    let client = node.client().await;
    let action = ActionBuilder::sh("sleep 1; echo shared");
    let (stream, _) = start(&action, &client).await;
    let (other, digest) = start(&action, &client).await;
    drop(stream);
    finish(other, digest).await.unwrap().success();
}

#[tokio::test]
async fn get_operation_agrees_with_the_stream() {
    let node = Node::start();
    let client = node.client().await;
    let (mut stream, digest) = start(&ActionBuilder::sh("sleep 0.5; echo got"), &client).await;
    let first = next(&mut stream).await;
    let polled = get(&client, &first.name).await.unwrap();
    assert!(!polled.done);
    assert_eq!(metadata(&polled).action_digest, Some(digest.to_wire()));
    let outcome = finish(stream, digest).await.unwrap();
    let polled = get(&client, &first.name).await.unwrap();
    assert_eq!(response(&polled), outcome.response);
}

#[tokio::test]
async fn cancelling_in_each_state() {
    let node = one_slot();
    let client = node.client().await;
    let (mut running, _) =
        start(&ActionBuilder::sh("echo begun; sleep 14142135").do_not_cache(), &client).await;
    let mut update = next(&mut running).await;
    while metadata(&update).stage() != Stage::Executing {
        update = next(&mut running).await;
    }
    eventually("it runs", || is_running("14142135")).await;
    let (mut queued, _) = start(&ActionBuilder::sh("true").do_not_cache(), &client).await;
    let queued_name = next(&mut queued).await.name;
    cancel(&client, &queued_name).await.unwrap();
    let mut last = None;
    while let Some(update) = queued.message().await.unwrap() {
        last = Some(update);
    }
    let ended = response(&last.expect("a last update"));
    assert_eq!(ended.status.unwrap().code, Code::Cancelled as i32);

    cancel(&client, &update.name).await.unwrap();
    let mut last = update.clone();
    while let Some(update) = running.message().await.unwrap() {
        last = update;
    }
    assert_eq!(response(&last).status.unwrap().code, Code::Cancelled as i32);
    eventually("the process is gone", || !is_running("14142135")).await;
    ActionBuilder::sh("true").run(&client).await.success();
    cancel(&client, &update.name).await.unwrap();
}

/// Nobody waits, so after the grace period nobody runs.
#[tokio::test]
async fn an_action_nobody_waits_for_ends_after_the_grace_period() {
    let node = Node::builder().config("orphan-grace = \"300ms\"").start();
    let client = node.client().await;
    let (mut stream, _) = start(&ActionBuilder::sh("sleep 17320508").do_not_cache(), &client).await;
    while metadata(&next(&mut stream).await).stage() != Stage::Executing {}
    eventually("it runs", || is_running("17320508")).await;
    drop(stream);
    eventually("it is cancelled", || !is_running("17320508")).await;
}

/// An action that somebody waits for does not wait for one that nobody waits for.
#[tokio::test]
async fn an_action_nobody_waits_for_gives_its_slot_to_one_with_a_client() {
    let node = one_slot();
    let client = node.client().await;
    let (mut stream, _) = start(&ActionBuilder::sh("sleep 31622776").do_not_cache(), &client).await;
    let mut update = next(&mut stream).await;
    while metadata(&update).stage() != Stage::Executing {
        update = next(&mut stream).await;
    }
    eventually("it runs", || is_running("31622776")).await;
    drop(stream);
    let waited_for = ActionBuilder::sh("true");
    let served = tokio::time::timeout(Duration::from_secs(30), waited_for.run(&client)).await;
    served.expect("the slot is given up long before the grace period is over").success();
    assert!(!is_running("31622776"), "its process is gone");
    let ended = response(&get(&client, &update.name).await.unwrap()).status.unwrap();
    assert_eq!(ended.code, Code::Cancelled as i32);
    assert!(ended.message.contains("gave way"), "{}", ended.message);
}

#[tokio::test]
async fn a_stopping_node_ends_streams_as_unavailable() {
    let mut node = Node::start();
    let client = node.client().await;
    let (mut stream, _) = start(&ActionBuilder::sh("sleep 22360679").do_not_cache(), &client).await;
    while metadata(&next(&mut stream).await).stage() != Stage::Executing {}
    assert!(node.stop().success());
    loop {
        match stream.message().await {
            Ok(Some(update)) => assert!(!update.done),
            Ok(None) => panic!("the stream ended well without being done"),
            Err(status) => {
                assert!(matches!(status.code(), Code::Unavailable | Code::Unknown), "{status}");
                break;
            }
        }
    }
    eventually("nothing is left", || !is_running("22360679")).await;
}

#[tokio::test]
async fn a_killed_node_leaves_no_process() {
    let mut node = Node::start();
    let client = node.client().await;
    let script = "setsid sleep 26457513 & sleep 26457513";
    let (mut stream, _) = start(&ActionBuilder::sh(script).do_not_cache(), &client).await;
    while metadata(&next(&mut stream).await).stage() != Stage::Executing {}
    eventually("it runs", || is_running("26457513")).await;
    node.kill();
    eventually("nothing is left", || !is_running("26457513")).await;
}

#[tokio::test]
async fn operations_can_be_listed_waited_for_and_deleted() {
    let node = Node::start();
    let client = node.client().await;
    for i in 0..5 {
        ActionBuilder::sh("true").salt(&format!("list {i}")).run(&client).await.success();
    }
    let mut names = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = longrunning::ListOperationsRequest { page_size: 2, page_token, ..Default::default() };
        let page = client.operations().list_operations(request).await.unwrap().into_inner();
        assert!(page.operations.len() <= 2);
        names.extend(page.operations.into_iter().map(|operation| operation.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names.len(), 5);
    let name = names.pop().unwrap();
    let request = longrunning::WaitOperationRequest { name: name.clone(), timeout: None };
    assert!(client.operations().wait_operation(request).await.unwrap().into_inner().done);
    let request = longrunning::DeleteOperationRequest { name: name.clone() };
    client.operations().delete_operation(request).await.unwrap();
    assert_eq!(wait_execution(&client, &name).await.err().unwrap().code(), Code::NotFound);
    assert_eq!(get(&client, &name).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn output_is_inlined_as_asked_for_runs_and_for_hits() {
    let node = Node::start();
    let client = node.client().await;
    let mut action = ActionBuilder::sh("echo out; echo err >&2; echo file > f").outputs(&["f"]);
    action.request = reapi::ExecuteRequest {
        inline_stdout: true,
        inline_stderr: true,
        inline_output_files: vec!["f".into()],
        ..Default::default()
    };
    for cached in [false, true] {
        let outcome = action.run(&client).await;
        assert_eq!(outcome.response.cached_result, cached);
        let result = outcome.success();
        assert_eq!((&*result.stdout_raw, &*result.stderr_raw), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!(result.output_files[0].contents, b"file\n");
        assert!(result.stdout_digest.is_some());
    }
    action.request = reapi::ExecuteRequest::default();
    assert!(action.run(&client).await.success().stdout_raw.is_empty());
}
