//! reclient, and whatever else is built on the Go SDK: long lists, long headers, working directories that are
//! not in the tree, and output links that it reads from the two old fields.

use farmhand_proto::reapi;
use tonic::Code;

use super::{Tool, lookup, upload};
use crate::support::{ActionBuilder, Node, random_bytes};

fn tool() -> Tool {
    let mut tool = Tool::new("re-client", "0.178");
    // It joins the ids of all actions that a call is for.
    tool.metadata.action_id = "6e1c0ad5f0b4,".repeat(600);
    tool
}

fn compile(working_directory: &str) -> ActionBuilder {
    let script =
        "echo o > a.o; ln -s a.o latest.o; mkdir -p gen/deep; echo h > gen/deep/a.h; ln -s gen headers";
    let mut action =
        ActionBuilder::sh(script).file("src/a.cc", "int a;").working_directory(working_directory);
    action.command.output_files = vec!["a.o".into(), "latest.o".into(), "never.d".into()];
    action.command.output_directories = vec!["gen".into(), "headers".into()];
    action.property("OSFamily", "Linux").property("label:type", "tool").property("Pool", "default")
}

#[tokio::test]
async fn a_build_and_the_same_again() {
    let node = Node::builder().config("[labels]\n\"label:type\" = \"tool\"").start();
    let client = node.client_of("projects/p/instances/i").await;
    let caps = client.get_capabilities().await.unwrap();
    // Zero, and it sends every blob alone.
    assert!(caps.cache_capabilities.unwrap().max_batch_total_size_bytes > 0);
    assert!(caps.execution_capabilities.unwrap().exec_enabled);

    // The last of these is not in the tree.
    for directory in ["", ".", "src", "out/Default"] {
        let action = compile(directory);
        let (digest, blobs) = action.blobs(&client);
        let digests: Vec<_> = blobs.iter().map(|blob| client.digest(blob)).collect();
        tool().finds_missing(&client, &digests).await;
        tool().batch_updates(&client, &blobs).await;
        let outcome = tool().executes(&client, &action, digest).await;
        let result = outcome.success();
        let target = |links: &[reapi::OutputSymlink], path: &str| {
            links.iter().find(|link| link.path == path).map(|link| link.target.clone())
        };
        assert_eq!(target(&result.output_file_symlinks, "latest.o").as_deref(), Some("a.o"), "{directory}");
        assert_eq!(
            target(&result.output_directory_symlinks, "headers").as_deref(),
            Some("gen"),
            "{directory}"
        );
        assert!(result.output_files.iter().all(|file| file.path != "never.d"));

        // Outputs come by batch; the tree is taken apart on its side.
        let tree = result.output_directories.iter().find(|directory| directory.path == "gen").unwrap();
        let tree = farmhand::digest::Digest::from_field(client.function, tree.tree_digest.as_ref()).unwrap();
        let read = client.batch_read(&[tree, client.digest(b"o\n")]).await.unwrap();
        assert_eq!(read.responses.len(), 2);
        assert!(
            read.responses.iter().all(|entry| entry.status.as_ref().is_some_and(|status| status.code == 0))
        );
        let hit = tool().looks_up(&client, lookup(&client, &digest)).await.unwrap();
        assert_eq!(hit.output_files.len(), result.output_files.len());
    }
}

#[tokio::test]
async fn ten_thousand_digests_at_once_and_an_operation_nobody_knows() {
    let node = Node::start();
    let client = node.client_of("projects/p/instances/i").await;
    let digests: Vec<_> = (0..10_000u32).map(|i| client.digest(&i.to_le_bytes())).collect();
    assert_eq!(tool().finds_missing(&client, &digests).await, digests.len());
    let request = reapi::WaitExecutionRequest { name: "operations/of-yesterday".into() };
    let unknown = client.execution().wait_execution(tool().says(request)).await.unwrap_err();
    // Anything else, and it does not call Execute again.
    assert_eq!(unknown.code(), Code::NotFound);
}

/// Its newer uploader wants the size of the blob back, not that of what was sent.
#[tokio::test]
async fn a_compressed_upload_is_answered_with_the_size_of_the_blob() {
    let node = Node::start();
    let client = node.client_of("projects/p/instances/i").await;
    let data = random_bytes(4, 3 << 20);
    let digest = client.digest(&data);
    let name = client.write_name(&digest).replace("/blobs/", "/compressed-blobs/zstd/");
    let compressed = zstd::encode_all(&data[..], 0).unwrap();
    let messages = crate::support::client::write_requests(name, &compressed);
    let request = tool().says(tokio_stream::iter(messages));
    let committed = client.byte_stream().write(request).await.unwrap().into_inner().committed_size;
    assert_eq!(committed, data.len() as i64);
    // What is there already may be answered early, in the same measure.
    assert_eq!(tool().finds_missing(&client, &[digest]).await, 0);
}

/// It has no repair of its own: what FindMissingBlobs has said is there must be there.
#[tokio::test]
async fn what_it_does_not_upload_twice_is_there() {
    let node = Node::start();
    let client = node.client_of("projects/p/instances/i").await;
    let mut first = ActionBuilder::sh("cat src/a.cc > a.o").file("src/a.cc", "int a;");
    first.command.output_files = vec!["a.o".into()];
    let digest = upload(&tool(), &client, &first).await;
    tool().executes(&client, &first, digest).await.success();
    // The object is an input now, and was never uploaded.
    let mut second = ActionBuilder::sh("cat a.o").file("a.o", "int a;");
    second.command.output_files = vec![];
    let (digest, blobs) = second.blobs(&client);
    let new: Vec<_> = blobs.into_iter().filter(|blob| blob != b"int a;").collect();
    tool().batch_updates(&client, &new).await;
    let outcome = tool().executes(&client, &second, digest).await;
    assert_eq!(outcome.stdout(&client).await, "int a;");
}
