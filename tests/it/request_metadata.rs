//! RMD: the RequestMetadata header in all its forms; it never changes a result.

use farmhand_proto::reapi::{self, RequestMetadata, ToolDetails};
use prost::Message;
use tonic::Request;
use tonic::metadata::{BinaryMetadataKey, BinaryMetadataValue};

use crate::support::{ActionBuilder, Client, Node};

/// The name of today and the two older ones.
pub(crate) const NAMES: [&str; 3] = [
    "build.bazel.remote.execution.v2.requestmetadata-bin",
    "google.devtools.remoteexecution.v1test.requestmetadata-bin",
    "requestmetadata-bin",
];

/// Attaches the header as today's clients do.
pub(crate) fn attach<T>(request: &mut Request<T>, metadata: &RequestMetadata) {
    insert(request, NAMES[0], &metadata.encode_to_vec());
}

pub(crate) fn insert<T>(request: &mut Request<T>, name: &str, bytes: &[u8]) {
    let key = BinaryMetadataKey::from_bytes(name.as_bytes()).unwrap();
    request.metadata_mut().append_bin(key, BinaryMetadataValue::from_bytes(bytes));
}

fn sample(invocation: &str) -> RequestMetadata {
    RequestMetadata {
        tool_details: Some(ToolDetails { tool_name: "bazel".into(), tool_version: "7.0.0".into() }),
        action_id: "0".repeat(64),
        tool_invocation_id: invocation.into(),
        correlated_invocations_id: "ci-job".into(),
        action_mnemonic: "CppCompile".into(),
        target_id: "//a:b".into(),
        configuration_id: "k8-fastbuild".into(),
    }
}

async fn find_missing_with(client: &Client, name: &str, values: &[&[u8]]) -> Result<(), tonic::Status> {
    let mut request = Request::new(reapi::FindMissingBlobsRequest::default());
    values.iter().for_each(|value| insert(&mut request, name, value));
    client.cas().find_missing_blobs(request).await.map(drop)
}

#[tokio::test]
async fn rubbish_never_fails_a_call() {
    let node = Node::start();
    let client = node.client().await;
    for name in NAMES {
        for value in [&b""[..], b"\xff\xff\xff\xff", b"rubbish", &[0; 4000]] {
            find_missing_with(&client, name, &[value]).await.unwrap();
        }
    }
    let long = RequestMetadata { correlated_invocations_id: "i".repeat(8 * 1024), ..sample("x") };
    find_missing_with(&client, NAMES[0], &[&long.encode_to_vec()]).await.unwrap();
    let twice = [&sample("x").encode_to_vec()[..], &sample("y").encode_to_vec()];
    find_missing_with(&client, NAMES[0], &twice).await.unwrap();
}

/// Both spellings of base64 on the wire, sent by hand because libraries pick one.
#[tokio::test]
async fn padded_and_joined_values_are_understood() {
    let node = Node::start();
    let client = node.client().await;
    for action in ["padded==", "joined,values"] {
        let mut request = Request::new(reapi::FindMissingBlobsRequest::default());
        insert(&mut request, NAMES[0], action.as_bytes());
        client.cas().find_missing_blobs(request).await.unwrap();
    }
}

/// The words that clients put where an action digest usually stands.
#[tokio::test]
async fn action_ids_may_be_words() {
    let node = Node::start();
    let client = node.client().await;
    for word in ["capabilities", "remote_downloader", "lease-extension", "", "../../etc"] {
        let metadata = RequestMetadata { action_id: word.into(), ..sample("words") };
        find_missing_with(&client, NAMES[0], &[&metadata.encode_to_vec()]).await.unwrap();
    }
}

#[tokio::test]
async fn results_do_not_depend_on_it() {
    let node = Node::start();
    let client = node.client().await;
    let action = ActionBuilder::sh("echo same");
    let digest = action.upload(&client).await;
    let mut cached = Vec::new();
    for invocation in ["one", "two"] {
        let mut request = Request::new(action.execute_request(&client, &digest));
        attach(&mut request, &sample(invocation));
        let stream = client.execution().execute(request).await.unwrap().into_inner();
        let outcome = crate::support::action::finish(stream, digest).await.unwrap();
        cached.push(outcome.response.cached_result);
    }
    assert_eq!(cached, [false, true]);
}

/// All three names reach the history of actions that the node shows.
#[tokio::test]
async fn every_name_is_shown_with_target_and_mnemonic() {
    let node = Node::start();
    let client = node.client().await;
    for (i, name) in NAMES.iter().enumerate() {
        let action = ActionBuilder::sh("true").salt(name);
        let digest = action.upload(&client).await;
        let mut request = Request::new(action.execute_request(&client, &digest));
        let metadata = RequestMetadata { target_id: format!("//target:number{i}"), ..sample("shown") };
        insert(&mut request, name, &metadata.encode_to_vec());
        let stream = client.execution().execute(request).await.unwrap().into_inner();
        crate::support::action::finish(stream, digest).await.unwrap();
        let shown = node.cli(&["action", &format!("{}/{}", digest.hash_hex(), digest.size()), "show"]);
        let text = String::from_utf8(shown.stdout).unwrap();
        assert!(text.contains(&format!("//target:number{i}")), "{name}: {text}");
        assert!(text.contains("CppCompile"), "{name}: {text}");
    }
}
