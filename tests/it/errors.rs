//! ERR: which fault is told where, and with which status.

use farmhand_proto::longrunning::operation::Result as OperationResult;
use farmhand_proto::{any, raw, reapi, rpc};
use prost::Message;
use tonic::Code;

use crate::support::{ActionBuilder, Node};

/// Subjects of the one PreconditionFailure in `status`, sorted; every violation is `MISSING`.
pub(crate) fn missing_subjects(status: &rpc::Status) -> Vec<String> {
    assert_eq!(status.code, Code::FailedPrecondition as i32, "{status:?}");
    assert_eq!(status.details.len(), 1, "one detail and no other: {status:?}");
    assert_eq!(status.details[0].type_url, "type.googleapis.com/google.rpc.PreconditionFailure");
    let failure: raw::PreconditionFailure = any::unpack(&status.details[0]).unwrap();
    assert!(failure.violations.iter().all(|violation| violation.r#type == "MISSING"));
    let mut subjects: Vec<_> = failure.violations.into_iter().map(|violation| violation.subject).collect();
    subjects.sort();
    subjects
}

#[tokio::test]
async fn faults_before_and_during_the_operation() {
    let node = Node::start();
    let client = node.client().await;
    let status = ActionBuilder::new(&[""]).try_run(&client).await.err().expect("refused by the call");
    assert_eq!(status.code(), Code::InvalidArgument);
    let outcome = ActionBuilder::sh("sleep 100").timeout_ms(100).try_run(&client).await.unwrap();
    assert_eq!(outcome.code(), Code::DeadlineExceeded as i32);
}

/// `response` itself checks the type URL.
#[tokio::test]
async fn an_operation_never_has_an_error() {
    let node = Node::start();
    let client = node.client().await;
    let actions = [
        ActionBuilder::sh("true"),
        ActionBuilder::sh("exit 1"),
        ActionBuilder::sh("sleep 100").timeout_ms(100),
        ActionBuilder::new(&["/no/such/program"]),
    ];
    for action in actions {
        let Ok(outcome) = action.try_run(&client).await else { continue };
        for update in &outcome.updates {
            assert!(!matches!(update.result, Some(OperationResult::Error(_))), "{update:?}");
        }
        let finished = outcome.code() != 0 || outcome.response.result.is_some();
        assert!(finished, "status OK has a result: {:?}", outcome.response);
    }
}

#[tokio::test]
async fn all_missing_blobs_are_named_in_one_pass_and_agree_with_find_missing() {
    let node = Node::start();
    let client = node.client().await;
    let mut action = ActionBuilder::sh("ls");
    for i in 0..8 {
        action = action.file(&format!("d{}/f{i}", i % 3), format!("missing content {i}"));
    }
    let (digest, blobs) = action.blobs(&client);
    // The eight input files come first; five of them stay away.
    for blob in &blobs[5..] {
        client.put(blob).await;
    }
    let stream = action.start(&client, &digest).await.unwrap();
    let outcome = crate::support::action::finish(stream, digest).await.unwrap();
    let subjects = missing_subjects(outcome.response.status.as_ref().unwrap());
    let mut expected: Vec<_> = blobs[..5].iter().map(|blob| client.digest(blob).missing_subject()).collect();
    expected.sort();
    assert_eq!(subjects, expected);
    let digests: Vec<_> = blobs.iter().map(|blob| client.digest(blob)).collect();
    let mut missing: Vec<_> =
        client.find_missing(&digests).await.unwrap().iter().map(|d| d.missing_subject()).collect();
    missing.sort();
    assert_eq!(missing, subjects);
    // And once they are uploaded, the action runs.
    for blob in &blobs[..5] {
        client.put(blob).await;
    }
    action.run(&client).await.success();
}

/// More than fits into a message is named as far as it does.
#[tokio::test]
async fn many_missing_blobs_are_named_in_a_message_that_clients_take() {
    let node = Node::start();
    let client = node.client().await;
    let file = |i: u32| reapi::FileNode {
        name: i.to_string(),
        digest: Some(client.digest(&i.to_be_bytes()).to_wire()),
        ..Default::default()
    };
    let directory = reapi::Directory { files: (0..60_000).map(file).collect(), ..Default::default() };
    let root = client.put(&directory.encode_to_vec()).await;
    // Clients refuse messages of more than 4 MiB: so does this one.
    let outcome = ActionBuilder::sh("ls").input_root(root).run(&client).await;
    assert!(missing_subjects(outcome.response.status.as_ref().unwrap()).len() >= 10_000);
}

#[tokio::test]
async fn subjects_of_other_functions_have_a_function_segment() {
    let node = Node::start();
    let client = node.client().await.with_function(farmhand::digest::DigestFunction::Blake3);
    let action = ActionBuilder::sh("ls").file("f", "missing");
    let (digest, blobs) = action.blobs(&client);
    for blob in &blobs[1..] {
        client.put(blob).await;
    }
    let stream = action.start(&client, &digest).await.unwrap();
    let outcome = crate::support::action::finish(stream, digest).await.unwrap();
    let subjects = missing_subjects(outcome.response.status.as_ref().unwrap());
    assert_eq!(subjects.len(), 1);
    assert!(subjects[0].starts_with("blobs/blake3/"), "{subjects:?}");
}

/// The spawner processes are the children of the node.
#[tokio::test]
async fn a_lost_spawner_is_survived_by_the_action() {
    let node = Node::builder().arguments(&["--slots", "1"]).start();
    let client = node.client().await;
    let marker = "test -e /nonexistent; sleep 1.0625";
    let action = ActionBuilder::sh(&format!("{marker}; echo survived")).do_not_cache();
    let digest = action.upload(&client).await;
    let stream = action.start(&client, &digest).await.unwrap();
    crate::running::eventually("the action runs", || crate::running::is_running("sleep\u{0}1.0625")).await;
    for child in children(node.pid()) {
        std::process::Command::new("kill").args(["-9", &child.to_string()]).status().unwrap();
    }
    let outcome = crate::support::action::finish(stream, digest).await.unwrap();
    outcome.success();
    assert_eq!(outcome.stdout(&client).await, "survived\n");
}

fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>())
        .collect()
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let node = Node::builder().arguments(&["--slots", "1"]).config("queue-limit = 1").start();
    let client = node.client().await;
    let mut streams = Vec::new();
    let mut refused = None;
    for i in 0..4 {
        let action = ActionBuilder::sh("sleep 3").salt(&i.to_string());
        let digest = action.upload(&client).await;
        match action.start(&client, &digest).await {
            Ok(stream) => streams.push(stream),
            Err(status) => refused = Some(status),
        }
    }
    let status = refused.expect("four do not fit into one slot and a queue of one");
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    use tonic_prost::prost::Message as _;
    let details = rpc::Status::decode(status.details()).unwrap().details;
    let retry: raw::RetryInfo = details.iter().find_map(any::unpack).expect("RetryInfo");
    assert!(retry.retry_delay.is_some());
}

#[tokio::test]
async fn a_timeout_has_the_known_text_and_the_output_so_far() {
    let node = Node::start();
    let client = node.client().await;
    let script = "echo hi; echo ho >&2; echo part > out; sleep 100";
    let outcome = ActionBuilder::sh(script).outputs(&["out"]).timeout_ms(1000).run(&client).await;
    let status = outcome.response.status.as_ref().unwrap();
    assert_eq!(status.code, Code::DeadlineExceeded as i32);
    assert_eq!(status.message, "execution timeout exceeded");
    assert_eq!(outcome.stdout(&client).await, "hi\n");
    assert_eq!(outcome.stderr(&client).await, "ho\n");
}

#[tokio::test]
async fn a_failing_command_is_not_an_error() {
    let node = Node::start();
    let client = node.client().await;
    let outcome = ActionBuilder::sh("exit 3").run(&client).await;
    assert_eq!((outcome.code(), outcome.result().exit_code), (0, 3));
}

#[tokio::test]
async fn impossible_requirements_are_refused_at_once() {
    let node = Node::start();
    let client = node.client().await;
    let action = ActionBuilder::sh("true").property("OSFamily", "plan9");
    let (code, message) = match action.try_run(&client).await {
        Err(status) => (status.code(), status.message().to_owned()),
        Ok(outcome) => {
            let status = outcome.response.status.clone().unwrap();
            (Code::from(status.code), status.message)
        }
    };
    assert!(matches!(code, Code::FailedPrecondition | Code::InvalidArgument), "{code:?}: {message}");
    assert!(message.contains("OSFamily") && message.contains("plan9"), "{message}");
}

#[tokio::test]
async fn failures_are_explained_in_the_message() {
    let node = Node::start();
    let client = node.client().await;
    let killed = ActionBuilder::sh("kill -9 $$; sleep 1").run(&client).await;
    assert!(killed.response.message.contains("signal"), "{:?}", killed.response.message);
    let refused = ActionBuilder::sh("true").property("container-image", "docker://nowhere/image:1");
    let message = match refused.try_run(&client).await {
        Err(status) => status.message().to_owned(),
        Ok(outcome) => outcome.response.status.clone().unwrap().message,
    };
    assert!(message.contains("container-image"), "{message}");
}

#[tokio::test]
async fn calls_that_are_not_offered_are_unimplemented() {
    let node = Node::start();
    let client = node.client().await;
    let digest = client.put(b"x").await;
    let split =
        farmhand_proto::reapi::SplitBlobRequest { blob_digest: Some(digest.to_wire()), ..Default::default() };
    let cache = client.get_capabilities().await.unwrap().cache_capabilities.unwrap();
    if !cache.split_blob_support {
        assert_eq!(client.cas().split_blob(split).await.unwrap_err().code(), Code::Unimplemented);
    }
    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    grpc.ready().await.unwrap();
    let codec =
        tonic_prost::ProstCodec::<farmhand_proto::protobuf::Any, farmhand_proto::protobuf::Any>::default();
    let path = http::uri::PathAndQuery::from_static("/no.such.Service/Method");
    let request = tonic::Request::new(farmhand_proto::protobuf::Any::default());
    let status = grpc.unary(request, path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
}
