//! Justbuild with `--compatible`: all three lists of outputs at once, a time limit on everything, small calls in
//! great number, and an answer expected for each blob of a batch.

use farmhand_proto::reapi;

use super::{Tool, lookup, upload};
use crate::support::{ActionBuilder, Node, random_bytes};

fn tool() -> Tool {
    Tool::new("just", "1.6.0")
}

fn action(script: &str) -> ActionBuilder {
    let mut action =
        ActionBuilder::sh(script).outputs(&["out/file", "out/dir", "out/link"]).timeout_ms(300_000);
    action.command.output_files = vec!["out/file".into(), "out/link".into()];
    action.command.output_directories = vec!["out/dir".into()];
    action
}

#[tokio::test]
async fn a_build_and_the_same_again() {
    let node = Node::start();
    let client = node.client_of("").await;
    let script =
        "echo made > out/file; mkdir -p out/dir/sub; echo x > out/dir/sub/x; ln -s file out/link; echo said";
    let action = action(script);
    // One small question for each blob.
    let (_, blobs) = action.blobs(&client);
    for blob in &blobs {
        let missing = tool().finds_missing(&client, &[client.digest(blob)]).await;
        assert_eq!(missing, usize::from(!blob.is_empty()));
    }
    let digest = upload(&tool(), &client, &action).await;
    let outcome = tool().executes(&client, &action, digest).await;
    let result = outcome.success();
    assert_eq!(outcome.output(&client, "out/file").await, b"made\n");
    assert_eq!(result.output_directories.len(), 1);
    let links = [&result.output_symlinks, &result.output_file_symlinks, &result.output_directory_symlinks];
    let link = links.into_iter().flatten().find(|link| link.path == "out/link").unwrap();
    assert_eq!(link.target, "file");

    let request = reapi::GetActionResultRequest {
        inline_output_files: vec!["out/file".into(), "no/such/file".into()],
        inline_stdout: true,
        ..lookup(&client, &digest)
    };
    let hit = tool().looks_up(&client, request).await.unwrap();
    assert_eq!(hit.output_files[0].contents, b"made\n");
    assert_eq!(hit.stdout_raw, b"said\n");
}

/// It counts the answers, and takes an empty piece of a blob for the end.
#[tokio::test]
async fn each_blob_has_an_answer_and_each_piece_bytes() {
    let node = Node::start();
    let client = node.client_of("").await;
    let blobs: Vec<Vec<u8>> = (0..64).map(|seed| random_bytes(seed, 40_000)).collect();
    tool().batch_updates(&client, &blobs).await;
    let digests: Vec<_> = blobs.iter().map(|blob| client.digest(blob)).collect();
    let read = client.batch_read(&digests).await.unwrap();
    assert_eq!(read.responses.len(), digests.len());

    let large = random_bytes(99, 9 << 20);
    let digest = client.put(&large).await;
    let request = farmhand_proto::bytestream::ReadRequest {
        resource_name: client.read_name(&digest),
        ..Default::default()
    };
    let mut stream = client.byte_stream().read(tool().says(request)).await.unwrap().into_inner();
    let mut read = Vec::new();
    while let Some(piece) = stream.message().await.unwrap() {
        assert!(!piece.data.is_empty());
        read.extend_from_slice(&piece.data);
    }
    assert_eq!(read, large);
}

/// A failed action has its outputs, and what it wrote, and is no error of the call.
#[tokio::test]
async fn a_failure_has_its_logs_and_its_outputs() {
    let node = Node::start();
    let client = node.client_of("").await;
    let action = action("echo half > out/file; echo wrong >&2; exit 3");
    let digest = upload(&tool(), &client, &action).await;
    let outcome = tool().executes(&client, &action, digest).await;
    assert_eq!((outcome.code(), outcome.result().exit_code), (0, 3));
    assert_eq!(outcome.stderr(&client).await, "wrong\n");
    assert_eq!(outcome.output(&client, "out/file").await, b"half\n");
}
