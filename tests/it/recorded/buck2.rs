//! Buck2, with its open-source client: never sets a digest function, never waits for an operation by name,
//! and compresses by itself where zstd is offered.

use farmhand_proto::{bytestream, reapi};

use super::{Tool, lookup};
use crate::support::client::MESSAGE_LIMIT;
use crate::support::{ActionBuilder, Node, random_bytes};

/// Digests in one FindMissingBlobs of it.
const AT_ONCE: usize = 100;

fn action() -> ActionBuilder {
    let script = "cp in/0 out.txt; mkdir -p dir/sub; echo deep > dir/sub/f; ln -s out.txt link; echo said";
    let mut action = ActionBuilder::sh(script).outputs(&["out.txt", "dir", "link"]);
    // Its strict mode names the same paths the old way too.
    action.command.output_files = vec!["out.txt".into(), "link".into()];
    action.command.output_directories = vec!["dir".into()];
    action.request.skip_cache_lookup = true;
    (0..150).fold(action, |action, i| action.file(&format!("in/{i}"), format!("input {i}")))
}

#[tokio::test]
async fn a_build_and_the_same_again() {
    let node = Node::start();
    let client = node.client_of("team/buck").await;
    let tool = Tool::new("buck2", "2026-08-22");

    let caps = client.get_capabilities().await.unwrap();
    let cache = caps.cache_capabilities.unwrap();
    assert!(cache.supported_compressors.contains(&(reapi::compressor::Value::Zstd as i32)));
    let (digest, blobs) = action().blobs(&client);
    let missing = tool.looks_up(&client, lookup(&client, &digest)).await.unwrap_err();
    assert_eq!(missing.code(), tonic::Code::NotFound);

    for chunk in blobs.chunks(AT_ONCE) {
        let digests: Vec<_> = chunk.iter().map(|blob| client.digest(blob)).collect();
        assert_eq!(tool.finds_missing(&client, &digests).await, chunk.len());
    }
    tool.batch_updates(&client, &blobs).await;
    let outcome = tool.executes(&client, &action(), digest).await;

    let result = outcome.success();
    // It fails without each of these.
    assert!(result.execution_metadata.is_some());
    assert!(result.stdout_digest.is_some() && result.stderr_digest.is_some());
    assert_eq!(result.output_symlinks.len(), 1);
    assert!(result.output_directories[0].tree_digest.is_some());
    assert_eq!(outcome.output(&client, "out.txt").await, b"input 0");
    assert!(prost::Message::encoded_len(&outcome.response) < MESSAGE_LIMIT);

    let hit = tool.looks_up(&client, lookup(&client, &digest)).await.unwrap();
    assert_eq!(hit.output_directories[0].path, "dir");
    // With uploads allowed, it writes the entry of what it ran itself.
    client.update_action_result(&digest, hit).await.unwrap();
}

/// The resource name stands in every message, and a message is as large as a batch may be.
#[tokio::test]
async fn a_large_blob_plain_and_compressed() {
    let node = Node::start();
    let client = node.client().await;
    let most = client.get_capabilities().await.unwrap().cache_capabilities.unwrap();
    let piece = usize::try_from(most.max_batch_total_size_bytes).unwrap();
    let data = random_bytes(1, 2 * piece + 7);
    let digest = client.digest(&data);
    let committed = client.write_messages(messages(&client.write_name(&digest), &data, piece)).await.unwrap();
    assert_eq!(committed, data.len() as i64);
    assert_eq!(client.read(&digest).await.unwrap(), data);

    let data = random_bytes(2, 6 << 20);
    let digest = client.digest(&data);
    let name = client.write_name(&digest).replace("/blobs/", "/compressed-blobs/zstd/");
    let compressed = zstd::encode_all(&data[..], 0).unwrap();
    for expected in [compressed.len() as i64, -1] {
        let committed = client.write_messages(messages(&name, &compressed, piece)).await.unwrap();
        assert!([compressed.len() as i64, expected].contains(&committed), "{committed}");
    }
    assert_eq!(client.read(&digest).await.unwrap(), data);
}

fn messages(name: &str, data: &[u8], piece: usize) -> Vec<bytestream::WriteRequest> {
    let pieces = data.chunks(piece).enumerate().map(|(i, chunk)| bytestream::WriteRequest {
        resource_name: name.to_owned(),
        write_offset: (i * piece) as i64,
        finish_write: i * piece + chunk.len() == data.len(),
        data: chunk.to_vec(),
    });
    pieces.collect()
}
