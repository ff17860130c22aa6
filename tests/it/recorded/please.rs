//! Please: reads the single digest function and the platform of the Action, uses directories it was given as
//! inputs without an upload, and writes results of things it never executed.

use farmhand::digest::{Digest, DigestFunction};
use farmhand_proto::reapi::{self, execution_stage};

use super::{Tool, lookup, upload};
use crate::support::action::metadata;
use crate::support::{ActionBuilder, Node};

fn tool() -> Tool {
    Tool::new("please", "17.12")
}

fn rule(script: &str) -> ActionBuilder {
    let action = ActionBuilder::new(&["/bin/sh", "-euc", script]).env("TMP_DIR", "/build").env("PKG", "a");
    action.property("OSFamily", "linux")
}

#[tokio::test]
async fn it_finds_its_terms_in_the_capabilities() {
    let node = Node::start();
    let client = node.client_of("main").await;
    let caps = client.get_capabilities().await.unwrap();
    let execution = caps.execution_capabilities.unwrap();
    assert_eq!(execution.digest_function, DigestFunction::Sha256.to_wire());
    assert!(execution.exec_enabled);
    let cache = caps.cache_capabilities.unwrap();
    assert!(cache.digest_functions.contains(&DigestFunction::Sha256.to_wire()));
    assert!(cache.max_batch_total_size_bytes > 0);
    let (low, high) = (caps.low_api_version.unwrap(), caps.high_api_version.unwrap());
    assert!((low.major, low.minor) <= (2, 0) && (high.major, high.minor) >= (2, 0));
}

#[tokio::test]
async fn an_output_directory_is_an_input_of_the_next_rule() {
    let node = Node::start();
    let client = node.client_of("main").await;
    let first = rule("mkdir -p gen/sub; echo deep > gen/sub/f; ln -s sub/f gen/short").outputs(&["gen"]);
    let digest = upload(&tool(), &client, &first).await;
    let outcome = tool().executes(&client, &first, digest).await;
    let tree = outcome.success().output_directories[0].tree_digest.as_ref();
    let tree = client.read(&Digest::from_field(client.function, tree).unwrap()).await.unwrap();
    let tree: reapi::Tree = prost::Message::decode(&tree[..]).unwrap();
    // Each Directory is a blob of its own that nobody has uploaded.
    let root = prost::Message::encode_to_vec(tree.root.as_ref().unwrap());
    assert_eq!(tool().finds_missing(&client, &[client.digest(&root)]).await, 0);

    let second = rule("cat short sub/f > out").outputs(&["out"]).input_root(client.digest(&root));
    let (digest, blobs) = second.blobs(&client);
    tool().batch_updates(&client, &blobs).await;
    let outcome = tool().executes(&client, &second, digest).await;
    outcome.success();
    assert_eq!(outcome.output(&client, "out").await, b"deep\ndeep\n");
}

/// A `filegroup`, or a download: it makes the key itself, and there is no Action behind it.
#[tokio::test]
async fn a_result_of_nothing_that_ran_is_kept() {
    let node = Node::start();
    let client = node.client_of("main").await;
    let file = client.put(b"downloaded").await;
    let key = client.digest(b"no Action stands behind this");
    let output = reapi::OutputFile {
        path: "pkg/file".into(),
        digest: Some(file.to_wire()),
        is_executable: true,
        ..Default::default()
    };
    let result = reapi::ActionResult { output_files: vec![output], ..Default::default() };
    client.update_action_result(&key, result).await.unwrap();
    let found = tool().looks_up(&client, lookup(&client, &key)).await.unwrap();
    assert_eq!(found.output_files[0].path, "pkg/file");
    assert!(found.output_files[0].is_executable);
}

/// What it shows beside a rule that runs.
#[tokio::test]
async fn the_worker_has_a_name_while_the_rule_runs() {
    let node = Node::start();
    let client = node.client_of("main").await;
    let action = rule("sleep 0.3; ln -s nowhere link").outputs(&["link"]);
    let digest = upload(&tool(), &client, &action).await;
    let outcome = tool().executes(&client, &action, digest).await;
    let result = outcome.success();
    let running = outcome.updates.iter().map(metadata);
    let mut running = running.filter(|data| data.stage == execution_stage::Value::Executing as i32);
    let worker = running.find_map(|data| data.partial_execution_metadata).map(|data| data.worker);
    assert_eq!(worker, Some(result.execution_metadata.as_ref().unwrap().worker.clone()));
    // It reads the old field alone.
    assert_eq!(result.output_file_symlinks.len(), 1, "{result:?}");
}
