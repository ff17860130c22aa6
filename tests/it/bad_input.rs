//! Bad input beyond single rows: a clear error, nothing lost, nothing left running.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use farmhand_proto::reapi;
use prost::Message;
use tonic::Code;

use crate::support::{ActionBuilder, Node, random_bytes};

#[tokio::test]
async fn a_tree_ten_thousand_deep() {
    let node = Node::start();
    let client = node.client().await;
    let mut digest = client.put(b"").await;
    for _ in 0..10_000 {
        let parent = reapi::Directory {
            directories: vec![reapi::DirectoryNode { name: "d".into(), digest: Some(digest.to_wire()) }],
            ..Default::default()
        };
        digest = client.put(&parent.encode_to_vec()).await;
    }
    let request = reapi::GetTreeRequest { root_digest: Some(digest.to_wire()), ..Default::default() };
    let mut stream = client.cas().get_tree(request).await.unwrap().into_inner();
    let mut listed = 0;
    while let Some(message) = stream.message().await.unwrap() {
        listed += message.directories.len();
    }
    assert!(listed >= 10_000, "{listed}");
    // Staged, or refused in words; the node lives on either way.
    match ActionBuilder::sh("true").input_root(digest).try_run(&client).await {
        Ok(outcome) if outcome.code() == 0 => {}
        Ok(outcome) => {
            let status = outcome.response.status.clone().unwrap();
            assert_eq!(status.code, Code::InvalidArgument as i32, "{status:?}");
        }
        Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{status}"),
    }
    ActionBuilder::sh("true").run(&client).await.success();
}

#[tokio::test]
async fn an_input_root_of_two_to_the_twentieth_paths() {
    let node = Node::start();
    let client = node.client().await;
    let mut digest = client.put(b"").await;
    for _ in 0..20 {
        let child = |name: &str| reapi::DirectoryNode { name: name.into(), digest: Some(digest.to_wire()) };
        let parent = reapi::Directory { directories: vec![child("a"), child("b")], ..Default::default() };
        digest = client.put(&parent.encode_to_vec()).await;
    }
    let status = match ActionBuilder::sh("true").input_root(digest).try_run(&client).await {
        Ok(outcome) => outcome.response.status.clone().unwrap_or_default(),
        Err(status) => farmhand_proto::rpc::Status {
            code: status.code() as i32,
            message: status.message().into(),
            details: Vec::new(),
        },
    };
    assert_eq!(status.code, Code::InvalidArgument as i32, "{status:?}");
    ActionBuilder::sh("true").run(&client).await.success();
}

#[tokio::test]
async fn a_budget_smaller_than_the_blob() {
    let node = Node::builder().arguments(&["--disk-budget", "4MB"]).start();
    let client = node.client().await;
    let data = random_bytes(1, 10_000_000);
    let status = client.write(&client.digest(&data), &data).await.unwrap_err();
    assert!(matches!(status.code(), Code::InvalidArgument | Code::ResourceExhausted), "{status}");
    assert!(status.message().contains("larger") || status.message().contains("budget"), "{status}");
    client.put(b"small ones go on").await;
}

#[tokio::test]
async fn a_data_directory_in_use() {
    let node = Node::start();
    let directory = tempfile::tempdir().unwrap();
    let data = node.data_dir();
    let builder = Node::builder().arguments(&["--data-dir", data.to_str().unwrap()]);
    let (code, log) = builder.refused(directory.path());
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("in use") && log.contains(&node.pid().to_string()), "{log}");
    assert_one_error_line(&log);
}

fn assert_one_error_line(log: &str) {
    assert_eq!(log.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{log}");
    assert!(!log.contains("panicked") && !log.contains("backtrace"), "{log}");
}

#[tokio::test]
async fn a_data_directory_of_a_newer_version() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut node = Node::builder().arguments(&["--data-dir", data.to_str().unwrap()]).start();
    assert!(node.stop().success());
    let format = fs::read_to_string(data.join("FORMAT")).unwrap();
    let is_number = |word: &&str| word.bytes().all(|byte| byte.is_ascii_digit());
    let version = format.split_whitespace().find(is_number).expect("the format has a number");
    let newer = format.replacen(version, "9999", 1);
    fs::write(data.join("FORMAT"), &newer).unwrap();
    let other = tempfile::tempdir().unwrap();
    let (code, log) =
        Node::builder().arguments(&["--data-dir", data.to_str().unwrap()]).refused(other.path());
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("newer"), "{log}");
    assert_one_error_line(&log);
    assert_eq!(fs::read_to_string(data.join("FORMAT")).unwrap(), newer, "untouched");
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_written() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a file");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    let data = file.join("data");
    let other = tempfile::tempdir().unwrap();
    let (code, log) =
        Node::builder().arguments(&["--data-dir", data.to_str().unwrap()]).refused(other.path());
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("a file/data"), "{log}");
    assert_one_error_line(&log);
}

#[tokio::test]
async fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let directory = tempfile::tempdir().unwrap();
    let (code, log) = Node::builder().arguments(&["--listen", &address]).refused(directory.path());
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains(&address) && log.contains("--listen"), "{log}");
    assert_one_error_line(&log);
}

#[tokio::test]
async fn an_open_address_without_tls_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (code, log) = Node::builder().arguments(&["--listen", "0.0.0.0:0"]).refused(directory.path());
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("insecure-lan"), "{log}");
}

/// Everything the node made survives a kill in the middle of work, and the next one cleans up.
#[tokio::test]
async fn a_kill_loses_nothing_acknowledged_and_leaves_no_scratch() {
    let mut node = Node::start();
    let client = node.client().await;
    let blobs: Vec<_> = (0..50).map(|seed| random_bytes(seed, 1 << (seed % 20))).collect();
    let mut digests = Vec::new();
    for blob in &blobs {
        digests.push(client.put(blob).await);
    }
    let outcome = ActionBuilder::sh("echo kept > out").file("in", "i").outputs(&["out"]).run(&client).await;
    outcome.success();
    let running = ActionBuilder::sh("sleep 1000").file("in", "i").do_not_cache();
    let digest = running.upload(&client).await;
    let _stream = running.start(&client, &digest).await.unwrap();
    node.kill();
    node.restart();
    let client = node.client().await;
    assert!(client.find_missing(&digests).await.unwrap().is_empty());
    for (digest, blob) in digests.iter().zip(&blobs) {
        assert_eq!(client.read(digest).await.unwrap(), *blob);
    }
    assert!(client.action_result(&outcome.action_digest).await.is_some());
    assert_eq!(outcome.output(&client, "out").await, b"kept\n");
}

#[tokio::test]
async fn a_lost_index_is_rebuilt_from_the_blobs() {
    let mut node = Node::start();
    let client = node.client().await;
    let blobs: Vec<_> = (0..20).map(|seed| random_bytes(seed, 1 + 7000 * seed as usize)).collect();
    let mut digests = Vec::new();
    for blob in &blobs {
        digests.push(client.put(blob).await);
    }
    let outcome = ActionBuilder::sh("echo x > out").outputs(&["out"]).run(&client).await;
    outcome.success();
    assert!(node.stop().success());
    fs::remove_dir_all(node.data_dir().join("index")).expect("the index has a directory of its own");
    node.restart();
    let client = node.client().await;
    for (digest, blob) in digests.iter().zip(&blobs) {
        assert_eq!(client.read(digest).await.unwrap(), *blob);
    }
    assert!(client.action_result(&outcome.action_digest).await.is_some());
}
