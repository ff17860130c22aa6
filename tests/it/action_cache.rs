//! AC: results are stored, served only while complete, and never leak.

use farmhand::digest::{Digest, DigestFunction};
use farmhand_proto::protobuf::Any;
use farmhand_proto::reapi::{self, ActionResult, GetActionResultRequest, OutputDirectory, OutputFile};
use prost::Message;
use tonic::Code;

use crate::support::{ActionBuilder, Client, Node, random_bytes};

fn file(path: &str, digest: &Digest) -> OutputFile {
    OutputFile { path: path.into(), digest: Some(digest.to_wire()), ..Default::default() }
}

fn result_with(files: Vec<OutputFile>) -> ActionResult {
    ActionResult { output_files: files, ..Default::default() }
}

fn get_request(client: &Client, action: &Digest) -> GetActionResultRequest {
    GetActionResultRequest {
        instance_name: client.instance.clone(),
        action_digest: Some(action.to_wire()),
        ..Default::default()
    }
}

#[tokio::test]
async fn without_an_entry_it_is_not_found() {
    let node = Node::start();
    let client = node.client().await;
    let request = get_request(&client, &client.digest(b"nobody ran this"));
    let status = client.action_cache().get_action_result(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn update_stores_returns_and_survives_a_restart() {
    let mut node = Node::start();
    let client = node.client().await;
    let output = client.put(b"the output").await;
    let action = client.digest(b"action");
    let result = result_with(vec![file("out", &output)]);
    let echoed = client.update_action_result(&action, result.clone()).await.unwrap();
    assert_eq!(echoed.output_files, result.output_files);
    assert_eq!(client.action_result(&action).await.unwrap().output_files, result.output_files);
    assert!(node.stop().success());
    node.restart();
    let client = node.client().await;
    assert_eq!(client.action_result(&action).await.unwrap().output_files, result.output_files);
}

/// A file two levels down in a Tree is evicted; the result must vanish with it.
#[tokio::test]
async fn a_result_is_hidden_when_a_file_deep_in_a_tree_is_gone() {
    let node = Node::builder().config("lease = \"1s\"").arguments(&["--disk-budget", "8MB"]).start();
    let client = node.client().await;
    let deep = client.put(&random_bytes(1, 200_000)).await;
    let leaf = reapi::Directory {
        files: vec![reapi::FileNode {
            name: "deep".into(),
            digest: Some(deep.to_wire()),
            ..Default::default()
        }],
        ..Default::default()
    };
    let leaf_digest = client.digest(&leaf.encode_to_vec());
    let root = reapi::Directory {
        directories: vec![reapi::DirectoryNode { name: "d".into(), digest: Some(leaf_digest.to_wire()) }],
        ..Default::default()
    };
    let tree = reapi::Tree { root: Some(root), children: vec![leaf] };
    let tree = client.put(&tree.encode_to_vec()).await;
    let directory =
        OutputDirectory { path: "d".into(), tree_digest: Some(tree.to_wire()), ..Default::default() };
    let result = ActionResult { output_directories: vec![directory], ..Default::default() };
    let action = client.digest(b"tree action");
    client.update_action_result(&action, result).await.unwrap();
    assert!(client.action_result(&action).await.is_some());
    for seed in 100..220 {
        assert!(client.has(&tree).await, "the Tree itself is used all the time");
        let data = random_bytes(seed, 200_000);
        let _ = client.batch_update(&[(client.digest(&data), &data)]).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
    assert!(client.action_result(&action).await.is_none(), "a hit would promise a file that is gone");
    assert!(!client.has(&deep).await, "the store did not evict");
}

/// Results stay complete as long as they are asked for.
#[tokio::test]
async fn a_hit_extends_the_life_of_all_it_names() {
    let node = Node::builder().config("lease = \"1s\"").arguments(&["--disk-budget", "8MB"]).start();
    let client = node.client().await;
    let output = client.put(&random_bytes(2, 200_000)).await;
    let stdout = client.put(&random_bytes(3, 50_000)).await;
    let result = ActionResult {
        output_files: vec![file("out", &output)],
        stdout_digest: Some(stdout.to_wire()),
        ..Default::default()
    };
    let action = client.digest(b"kept action");
    client.update_action_result(&action, result).await.unwrap();
    let bystander = client.put(&random_bytes(4, 200_000)).await;
    for seed in 500..620 {
        assert!(client.action_result(&action).await.is_some(), "gone after {seed}");
        let data = random_bytes(seed, 200_000);
        let _ = client.batch_update(&[(client.digest(&data), &data)]).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
    }
    assert!(!client.has(&bystander).await, "the store did evict");
    assert!(client.read(&output).await.is_ok() && client.read(&stdout).await.is_ok());
}

#[tokio::test]
async fn inlining_only_as_asked_and_only_what_fits() {
    let node = Node::start();
    let client = node.client().await;
    let small = client.put(b"small").await;
    let large = client.put(&random_bytes(5, 10_000_000)).await;
    let stdout = client.put(b"hello").await;
    let result = ActionResult {
        output_files: vec![file("small", &small), file("large", &large)],
        stdout_digest: Some(stdout.to_wire()),
        stdout_raw: b"hello".to_vec(),
        ..Default::default()
    };
    let action = client.digest(b"inline action");
    client.update_action_result(&action, result).await.unwrap();
    let plain = client.action_result(&action).await.unwrap();
    assert!(plain.stdout_raw.is_empty(), "not asked for");
    assert!(plain.output_files.iter().all(|f| f.contents.is_empty()));
    let request = GetActionResultRequest {
        inline_stdout: true,
        inline_stderr: true,
        inline_output_files: vec!["small".into(), "large".into(), "./small".into(), "no such".into()],
        ..get_request(&client, &action)
    };
    let inlined = client.action_cache().get_action_result(request).await.unwrap().into_inner();
    assert_eq!(inlined.stdout_raw, b"hello");
    assert_eq!(inlined.stdout_digest, Some(stdout.to_wire()));
    assert_eq!(inlined.output_files[0].contents, b"small");
    assert_eq!(inlined.output_files[0].digest, Some(small.to_wire()));
    assert!(inlined.output_files[1].contents.is_empty(), "10 MB do not fit a message");
    let request = GetActionResultRequest {
        inline_output_files: vec!["./small".into()],
        ..get_request(&client, &action)
    };
    let inexact = client.action_cache().get_action_result(request).await.unwrap().into_inner();
    assert!(inexact.output_files[0].contents.is_empty(), "paths match exactly or not at all");
}

#[tokio::test]
async fn absent_outputs_are_refused_and_an_absent_action_is_not() {
    let node = Node::start();
    let client = node.client().await;
    let absent = client.digest(b"never uploaded");
    let action = client.digest(b"Please made this key itself");
    for result in [
        result_with(vec![file("out", &absent)]),
        ActionResult { stdout_digest: Some(absent.to_wire()), ..Default::default() },
        ActionResult {
            output_directories: vec![OutputDirectory {
                path: "d".into(),
                tree_digest: Some(absent.to_wire()),
                ..Default::default()
            }],
            ..Default::default()
        },
    ] {
        let status = client.update_action_result(&action, result).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    }
    assert!(client.action_result(&action).await.is_none());
    let present = client.put(b"present").await;
    client.update_action_result(&action, result_with(vec![file("out", &present)])).await.unwrap();
    assert!(client.action_result(&action).await.is_some());
}

#[tokio::test]
async fn malformed_results_are_invalid() {
    let node = Node::start();
    let client = node.client().await;
    let present = client.put(b"present").await;
    let action = client.digest(b"malformed");
    let broken = OutputFile {
        path: "x".into(),
        digest: Some(reapi::Digest { hash: "xyz".into(), size_bytes: 1 }),
        ..Default::default()
    };
    let unset = OutputFile { path: "x".into(), ..Default::default() };
    for bad in [file("/etc/x", &present), file("a\0b", &present), broken, unset] {
        let status = client.update_action_result(&action, result_with(vec![bad])).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
}

/// Clients look the directories of a Tree up by digest, and some break when one is not there.
#[tokio::test]
async fn a_tree_that_lacks_a_directory_is_invalid() {
    let node = Node::start();
    let client = node.client().await;
    let below = reapi::Directory {
        symlinks: vec![reapi::SymlinkNode { name: "l".into(), target: "x".into(), ..Default::default() }],
        ..Default::default()
    };
    let child = |digest: Digest| reapi::DirectoryNode { name: "d".into(), digest: Some(digest.to_wire()) };
    let root = |digest| reapi::Directory { directories: vec![child(digest)], ..Default::default() };
    let below_digest = client.put(&below.encode_to_vec()).await;
    let empty = Digest::empty(DigestFunction::Sha256);
    for (digest, children, accepted) in
        [(below_digest, vec![], false), (below_digest, vec![below], true), (empty, vec![], true)]
    {
        let tree = client.put(&reapi::Tree { root: Some(root(digest)), children }.encode_to_vec()).await;
        let output = reapi::OutputDirectory {
            path: "out".into(),
            tree_digest: Some(tree.to_wire()),
            ..Default::default()
        };
        let result = ActionResult { output_directories: vec![output], ..Default::default() };
        match client.update_action_result(&client.digest(b"tree"), result).await {
            Ok(_) => assert!(accepted, "{digest}"),
            Err(status) => assert!(!accepted && status.code() == Code::InvalidArgument, "{status}"),
        }
    }
}

#[tokio::test]
async fn the_key_has_salt_and_size_and_function() {
    let node = Node::start();
    let client = node.client().await;
    let salted = |salt: &str| ActionBuilder::sh("echo x").salt(salt);
    let first = salted("1").run(&client).await;
    let second = salted("2").run(&client).await;
    assert_ne!(first.action_digest, second.action_digest);
    assert!(!second.response.cached_result);
    let other_size = Digest::from_parts(
        DigestFunction::Sha256,
        *first.action_digest.hash(),
        first.action_digest.size() + 1,
    );
    assert!(client.action_result(&other_size).await.is_none());
    let blake3 = client.clone().with_function(DigestFunction::Blake3);
    let same_text =
        Digest::from_parts(DigestFunction::Blake3, *first.action_digest.hash(), first.action_digest.size());
    assert!(blake3.action_result(&same_text).await.is_none());
}

#[tokio::test]
async fn failed_and_refused_results_are_never_hits() {
    let node = Node::start();
    let client = node.client().await;
    let failing = ActionBuilder::sh("echo oops >&2; exit 3");
    let first = failing.run(&client).await;
    assert_eq!(first.result().exit_code, 3);
    assert!(client.action_result(&first.action_digest).await.is_none());
    assert!(!failing.run(&client).await.response.cached_result);

    let uncached = ActionBuilder::sh("echo hi").do_not_cache().run(&client).await;
    uncached.success();
    assert!(client.action_result(&uncached.action_digest).await.is_none());

    let slow = ActionBuilder::sh("sleep 100").timeout_ms(200).run(&client).await;
    assert_eq!(slow.code(), Code::DeadlineExceeded as i32);
    assert!(client.action_result(&slow.action_digest).await.is_none());

    let action = client.digest(b"uploaded by somebody");
    let failed = ActionResult { exit_code: 1, ..Default::default() };
    let _ = client.update_action_result(&action, failed).await;
    assert!(client.action_result(&action).await.is_none());
}

#[tokio::test]
async fn foreign_metadata_passes_unchanged() {
    let node = Node::start();
    let client = node.client().await;
    let foreign = Any { type_url: "type.googleapis.com/example.Foreign".into(), value: vec![1, 2, 3].into() };
    let metadata = reapi::ExecutedActionMetadata {
        worker: "elsewhere".into(),
        auxiliary_metadata: vec![foreign.clone()],
        ..Default::default()
    };
    let action = client.digest(b"foreign");
    let result = ActionResult { execution_metadata: Some(metadata.clone()), ..Default::default() };
    client.update_action_result(&action, result).await.unwrap();
    assert_eq!(client.action_result(&action).await.unwrap().execution_metadata, Some(metadata));
    // And without any metadata, as Please and HTTP clients send it.
    let bare = client.digest(b"bare");
    client.update_action_result(&bare, ActionResult::default()).await.unwrap();
    assert!(client.action_result(&bare).await.is_some());
}
