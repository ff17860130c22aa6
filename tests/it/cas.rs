//! CAS: FindMissingBlobs, the batch calls, GetTree.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use farmhand::digest::{Digest, DigestFunction};
use farmhand_proto::reapi;
use prost::Message;
use tonic::Code;

use crate::support::client::MESSAGE_LIMIT;
use crate::support::{ActionBuilder, Client, Node, random_bytes};

fn code(status: &Option<farmhand_proto::rpc::Status>) -> i32 {
    status.as_ref().map_or(0, |status| status.code)
}

async fn limit(client: &Client) -> usize {
    let cache = client.get_capabilities().await.unwrap().cache_capabilities.unwrap();
    usize::try_from(cache.max_batch_total_size_bytes).unwrap()
}

#[tokio::test]
async fn find_missing_lists_exactly_the_absent() {
    let node = Node::start();
    let client = node.client().await;
    let present = client.put(b"present").await;
    let absent = client.digest(b"absent");
    let missing = client.find_missing(&[present, absent, present, absent]).await.unwrap();
    assert_eq!(missing.iter().collect::<BTreeSet<_>>(), BTreeSet::from([&absent]));
    assert!(client.find_missing(&[]).await.unwrap().is_empty());
}

/// A store for a few blobs: the one that is asked for again and again outlives the others.
#[tokio::test]
async fn find_missing_extends_the_life_of_what_is_present() {
    let node = Node::builder().config("lease = \"1s\"").arguments(&["--disk-budget", "8MB"]).start();
    let client = node.client().await;
    let kept = client.put(&random_bytes(1, 100_000)).await;
    let untouched = client.put(&random_bytes(2, 100_000)).await;
    let mut refused = 0;
    for seed in 10..130 {
        assert!(client.has(&kept).await, "evicted after {seed} blobs");
        let data = random_bytes(seed, 200_000);
        let digest = client.digest(&data);
        let response = client.batch_update(&[(digest, &data)]).await.unwrap();
        refused += i32::from(code(&response.responses[0].status) != 0);
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert!(!client.has(&untouched).await, "the store did not evict at all");
    assert!(client.has(&kept).await);
    assert!(refused < 100, "{refused} of 120 refused: room is made when leases are over");
}

#[tokio::test]
async fn what_is_reported_present_can_be_read_and_half_uploads_are_not() {
    let node = Node::start();
    let client = node.client().await;
    let data = random_bytes(3, 300_000);
    let digest = client.digest(&data);
    let half = farmhand_proto::bytestream::WriteRequest {
        resource_name: client.write_name(&digest),
        write_offset: 0,
        finish_write: false,
        data: data[..150_000].to_vec(),
    };
    client.write_messages(vec![half]).await.unwrap();
    assert!(!client.has(&digest).await);
    client.put(&data).await;
    assert!(client.has(&digest).await);
    assert_eq!(client.read(&digest).await.unwrap(), data);
}

/// The file of a large blob is broken behind the node's back.
#[tokio::test]
async fn a_broken_file_is_never_served() {
    let node = Node::start();
    let client = node.client().await;
    let data = random_bytes(4, 300_000);
    let digest = client.put(&data).await;
    let file = find_file(&node.data_dir(), data.len() as u64).expect("the blob has a file of its own");
    let mut broken = data.clone();
    broken[150_000] ^= 1;
    let mut permissions = fs::metadata(&file).unwrap().permissions();
    #[expect(clippy::permissions_set_readonly_false, reason = "a test damages a file of its own")]
    permissions.set_readonly(false);
    fs::set_permissions(&file, permissions).unwrap();
    fs::write(&file, &broken).unwrap();
    match client.read(&digest).await {
        Ok(read) => assert_eq!(read, data, "wrong bytes were served as good"),
        Err(_) => assert!(!client.has(&digest).await, "a blob found broken is listed as missing"),
    }
    client.put(&data).await;
    assert_eq!(client.read(&digest).await.unwrap(), data);
}

fn find_file(directory: &std::path::Path, len: u64) -> Option<std::path::PathBuf> {
    fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
        let metadata = entry.metadata().ok()?;
        if metadata.is_dir() {
            find_file(&entry.path(), len)
        } else {
            (metadata.len() == len).then(|| entry.path())
        }
    })
}

#[tokio::test]
async fn two_hundred_thousand_digests_in_one_call() {
    let node = Node::start();
    let client = node.client().await;
    let present = client.put(b"one of many").await;
    let mut digests: Vec<_> = (0..200_000_u32)
        .map(|i| {
            let mut hash = [7; 32];
            hash[..4].copy_from_slice(&i.to_be_bytes());
            Digest::from_parts(DigestFunction::Sha256, hash, 1 + u64::from(i))
        })
        .collect();
    digests.push(present);
    let missing = client.find_missing(&digests).await.unwrap();
    assert_eq!(missing.len(), 200_000);
    assert!(!missing.contains(&present));
}

#[tokio::test]
async fn the_empty_blob_is_everywhere_without_upload() {
    let node = Node::start();
    for function in DigestFunction::ALL {
        let client = node.client().await.with_function(function);
        let empty = Digest::empty(function);
        assert!(client.has(&empty).await);
        let read = client.batch_read(&[empty]).await.unwrap();
        assert_eq!((code(&read.responses[0].status), read.responses[0].data.len()), (0, 0));
        assert_eq!(client.read(&empty).await.unwrap(), b"");
        // As an input root, as an input file, and as outputs.
        let action = ActionBuilder::sh("ls -A; : > out").input_root(empty).outputs(&["out"]);
        let outcome = action.run(&client).await;
        assert_eq!(outcome.success().output_files[0].digest, Some(empty.to_wire()));
        let directory = reapi::Directory {
            files: vec![reapi::FileNode {
                name: "e".into(),
                digest: Some(empty.to_wire()),
                ..Default::default()
            }],
            directories: vec![reapi::DirectoryNode { name: "d".into(), digest: Some(empty.to_wire()) }],
            ..Default::default()
        };
        let root = client.put(&directory.encode_to_vec()).await;
        let action = ActionBuilder::sh("test -f e && test ! -s e && test -d d").input_root(root);
        action.run(&client).await.success();
        // As a Command it parses, and has no arguments.
        let command = reapi::Action {
            command_digest: Some(empty.to_wire()),
            input_root_digest: Some(empty.to_wire()),
            ..Default::default()
        };
        let action = client.put(&command.encode_to_vec()).await;
        let status = ActionBuilder::default().start(&client, &action).await.err().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
}

#[tokio::test]
async fn batch_entries_succeed_and_fail_apart() {
    let node = Node::start();
    let client = node.client().await;
    let good: Vec<_> = (0..3).map(|i| random_bytes(100 + i, 1000)).collect();
    let mut blobs: Vec<_> = good.iter().map(|data| (client.digest(data), data.as_slice())).collect();
    let bad = client.digest(b"announced");
    blobs.insert(1, (bad, b"delivered"));
    let response = client.batch_update(&blobs).await.unwrap();
    assert_eq!(response.responses.len(), 4);
    for entry in &response.responses {
        let expected = if entry.digest == Some(bad.to_wire()) { Code::InvalidArgument as i32 } else { 0 };
        assert_eq!(code(&entry.status), expected, "{entry:?}");
        assert!(entry.status.is_some());
    }
    assert!(!client.has(&bad).await);
    for (digest, data) in blobs.iter().filter(|(digest, _)| *digest != bad) {
        assert_eq!(client.read(digest).await.unwrap(), *data);
    }
}

#[tokio::test]
async fn batches_over_the_limit_are_invalid() {
    let node = Node::start();
    let client = node.client().await;
    let limit = limit(&client).await;
    let half = random_bytes(9, limit / 2 + 1);
    let other = random_bytes(10, limit / 2 + 1);
    let blobs = [(client.digest(&half), half.as_slice()), (client.digest(&other), other.as_slice())];
    assert_eq!(client.batch_update(&blobs).await.unwrap_err().code(), Code::InvalidArgument);
    for (digest, data) in &blobs {
        client.write(digest, data).await.unwrap();
    }
    let digests = blobs.map(|(digest, _)| digest);
    assert_eq!(client.batch_read(&digests).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_full_store_says_so_and_reads_go_on() {
    let node = Node::builder().arguments(&["--disk-budget", "8MB"]).start();
    let client = node.client().await;
    let first = client.put(&random_bytes(20, 100_000)).await;
    let mut exhausted = None;
    for seed in 30..200 {
        let data = random_bytes(seed, 200_000);
        let response = client.batch_update(&[(client.digest(&data), &data)]).await.unwrap();
        let status = response.responses[0].status.clone().unwrap_or_default();
        if status.code != 0 {
            exhausted = Some(status);
            break;
        }
    }
    let status = exhausted.expect("8 MB are full of leased blobs");
    assert_eq!(status.code, Code::ResourceExhausted as i32);
    assert!(status.message.contains("budget"), "names the remedy: {}", status.message);
    let data = random_bytes(999, 300_000);
    let refused = client.write(&client.digest(&data), &data).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(client.read(&first).await.unwrap().len(), 100_000);
}

#[tokio::test]
async fn uploading_again_is_fine() {
    let node = Node::start();
    let client = node.client().await;
    for data in [random_bytes(40, 100), random_bytes(41, 200_000)] {
        let digest = client.put(&data).await;
        client.put(&data).await;
        assert_eq!(client.write(&digest, &data).await.unwrap(), data.len() as i64);
        assert_eq!(client.read(&digest).await.unwrap(), data);
    }
}

#[tokio::test]
async fn concurrent_uploads_of_one_blob_all_succeed() {
    let node = Node::start();
    let client = node.client().await;
    for len in [5_000, 500_000] {
        let data = random_bytes(50 + len as u64, len);
        let digest = client.digest(&data);
        let mut uploads = tokio::task::JoinSet::new();
        for i in 0..32 {
            let (client, data) = (client.clone(), data.clone());
            uploads.spawn(async move {
                if i % 2 == 0 {
                    client.put(&data).await;
                } else {
                    assert_eq!(client.write(&digest, &data).await.unwrap(), len as i64);
                }
            });
        }
        while let Some(upload) = uploads.join_next().await {
            upload.unwrap();
        }
        assert_eq!(client.read(&digest).await.unwrap(), data);
    }
}

#[tokio::test]
async fn batch_read_answers_each_digest_with_a_status() {
    let node = Node::start();
    let client = node.client().await;
    let present = [client.put(b"one").await, client.put(b"two").await, client.put(b"three").await];
    let absent = client.digest(b"four");
    let response = client.batch_read(&[present[0], present[1], present[2], absent]).await.unwrap();
    assert_eq!(response.responses.len(), 4);
    for entry in &response.responses {
        let expected = if entry.digest == Some(absent.to_wire()) { Code::NotFound as i32 } else { 0 };
        assert_eq!(entry.status.as_ref().expect("status is there even when OK").code, expected);
        assert_eq!(entry.compressor, 0, "nobody asked for compression");
    }
}

#[tokio::test]
async fn blobs_over_the_configured_size_are_refused_at_once() {
    let node = Node::builder().config("max-blob-size = \"1MB\"").start();
    let client = node.client().await;
    let cache = client.get_capabilities().await.unwrap().cache_capabilities.unwrap();
    assert_eq!(cache.max_cas_blob_size_bytes, 1_000_000);
    let data = random_bytes(60, 1_000_001);
    let digest = client.digest(&data);
    let response = client.batch_update(&[(digest, &data)]).await.unwrap();
    assert_eq!(code(&response.responses[0].status), Code::InvalidArgument as i32);
    assert_eq!(client.write(&digest, &data).await.unwrap_err().code(), Code::InvalidArgument);
    let name = format!("uploads/u/compressed-blobs/zstd/{}/{}", digest.hash_hex(), digest.size());
    assert_eq!(client.write_named(name, b"x").await.unwrap_err().code(), Code::InvalidArgument);
    client.put(&data[..1_000_000]).await;
}

#[tokio::test]
async fn nothing_unverified_enters_by_any_way() {
    let node = Node::start();
    let client = node.client().await;
    let digest = client.digest(b"the truth");
    let batch = client.batch_update(&[(digest, b"a lie, no")]).await.unwrap();
    assert_eq!(code(&batch.responses[0].status), Code::InvalidArgument as i32);
    assert_eq!(client.write(&digest, b"a lie, no").await.unwrap_err().code(), Code::InvalidArgument);
    let compressed = zstd::encode_all(&b"a lie, no"[..], 1).unwrap();
    let name = format!("uploads/u/compressed-blobs/zstd/{}/{}", digest.hash_hex(), digest.size());
    assert_eq!(client.write_named(name, &compressed).await.unwrap_err().code(), Code::InvalidArgument);
    assert!(!client.has(&digest).await);
}

#[tokio::test]
async fn messages_stay_below_the_default_receive_limit() {
    let node = Node::start();
    let client = node.client().await;
    // The generated clients have the 4 MiB limit of gRPC: a larger answer would be an error.
    let many: String = (0..30_000).map(|i| format!("a-long-enough-file-name-{i:08} ")).collect();
    let script = format!("mkdir d; for f in {many}; do : > d/$f; done");
    let outcome =
        ActionBuilder::new(&["/bin/sh", "run"]).file("run", script).outputs(&["d"]).run(&client).await;
    let directory = &outcome.success().output_directories[0];
    let tree = Digest::from_field(client.function, directory.tree_digest.as_ref()).unwrap();
    assert_eq!(client.read(&tree).await.unwrap().len() as u64, tree.size());
    let data = random_bytes(70, 3_900_000);
    let digest = client.put(&data).await;
    match client.batch_read(&[digest]).await {
        Ok(read) => assert_eq!(read.responses[0].data, data),
        Err(status) => assert_eq!(status.code(), Code::InvalidArgument, "{status}"),
    }
    let big = reapi::Directory {
        files: (0..40_000)
            .map(|i| reapi::FileNode {
                name: format!("file-{i:06}"),
                digest: Some(digest.to_wire()),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    };
    let bytes = big.encode_to_vec();
    assert!(bytes.len() > 3_000_000 && bytes.len() < MESSAGE_LIMIT);
    let middle = reapi::Directory {
        directories: vec![reapi::DirectoryNode {
            name: "big".into(),
            digest: Some(client.put(&bytes).await.to_wire()),
        }],
        ..big.clone()
    };
    let root = client.put(&middle.encode_to_vec()).await;
    let (directories, _) = get_tree(&client, &root, 0, "").await.unwrap();
    assert_eq!(directories.len(), 2);
}

#[tokio::test]
async fn a_short_lease_is_warned_about() {
    let node = Node::builder().config("lease = \"10m\"").start();
    assert!(node.log().contains("lease"), "{}", node.log());
    let quiet = Node::start();
    assert!(!quiet.log().contains("lease"), "{}", quiet.log());
}

// === GetTree ===

type TreeListing = (Vec<reapi::Directory>, Vec<String>);

async fn get_tree(
    client: &Client,
    root: &Digest,
    page_size: i32,
    token: &str,
) -> Result<TreeListing, tonic::Status> {
    let request = reapi::GetTreeRequest {
        instance_name: client.instance.clone(),
        root_digest: Some(root.to_wire()),
        page_size,
        page_token: token.into(),
        digest_function: client.wire_function(),
    };
    let mut stream = client.cas().get_tree(request).await?.into_inner();
    let (mut directories, mut tokens) = (Vec::new(), Vec::new());
    while let Some(message) = stream.message().await? {
        assert!(page_size == 0 || message.directories.len() <= page_size as usize);
        directories.extend(message.directories);
        tokens.push(message.next_page_token);
    }
    Ok((directories, tokens))
}

fn parent(children: &[(&str, &Digest)]) -> reapi::Directory {
    let nodes = children.iter();
    let nodes = nodes
        .map(|(name, digest)| reapi::DirectoryNode { name: (*name).into(), digest: Some(digest.to_wire()) });
    reapi::Directory { directories: nodes.collect(), ..Default::default() }
}

async fn put(client: &Client, directory: &reapi::Directory) -> Digest {
    client.put(&directory.encode_to_vec()).await
}

#[tokio::test]
async fn get_tree_lists_shared_directories_once() {
    let node = Node::start();
    let client = node.client().await;
    let mut digest = client.put(&parent(&[]).encode_to_vec()).await;
    for _ in 0..20 {
        digest = put(&client, &parent(&[("a", &digest), ("b", &digest)])).await;
    }
    let (directories, tokens) = get_tree(&client, &digest, 0, "").await.unwrap();
    assert_eq!(directories.len(), 21, "2^20 paths, 21 directories");
    assert_eq!(tokens.last().unwrap(), "");
}

#[tokio::test]
async fn get_tree_of_an_absent_root_and_of_an_absent_child() {
    let node = Node::start();
    let client = node.client().await;
    let absent = client.digest(&parent(&[]).encode_to_vec().repeat(2));
    let absent = Digest::from_parts(client.function, *absent.hash(), 77);
    assert_eq!(get_tree(&client, &absent, 0, "").await.unwrap_err().code(), Code::NotFound);
    let root = put(&client, &parent(&[("gone", &absent)])).await;
    assert_eq!(get_tree(&client, &root, 0, "").await.unwrap().0.len(), 1);
}

#[tokio::test]
async fn get_tree_resumes_from_its_tokens() {
    let node = Node::start();
    let client = node.client().await;
    let mut children = Vec::new();
    for i in 0..7 {
        let name = format!("leaf{i}");
        let leaf = reapi::Directory {
            symlinks: vec![reapi::SymlinkNode { name, target: "x".into(), node_properties: None }],
            ..Default::default()
        };
        children.push((format!("d{i}"), put(&client, &leaf).await));
    }
    let children: Vec<_> = children.iter().map(|(name, digest)| (name.as_str(), digest)).collect();
    let root = put(&client, &parent(&children)).await;
    let (whole, _) = get_tree(&client, &root, 0, "").await.unwrap();
    assert_eq!(whole.len(), 8);

    let (paged, tokens) = get_tree(&client, &root, 1, "").await.unwrap();
    assert_eq!((paged.len(), tokens.len()), (8, 8));
    assert_eq!(tokens.iter().filter(|token| token.is_empty()).count(), 1);
    assert_eq!(tokens.last().unwrap(), "");
    for (i, token) in tokens.iter().take(7).enumerate() {
        let (rest, _) = get_tree(&client, &root, 1, token).await.unwrap();
        assert_eq!(rest, paged[i + 1..], "after message {i}");
    }
    for nonsense in ["nonsense", "99999999", "-1"] {
        let status = get_tree(&client, &root, 1, nonsense).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{nonsense}: {status}");
    }
}
