//! Directories and blobs of an action, looked into over the control API.

use farmhand::digest::Digest;
use farmhand_proto::control::directory_entry::Kind;
use farmhand_proto::control::{
    DirectoryEntry, GetActionRequest, ListDirectoryRequest, ListDirectoryResponse, ReadBlobRequest,
};
use farmhand_proto::reapi;
use prost::Message;
use tonic::Status;

use super::support::{ActionBuilder, Node, random_bytes};

async fn list(node: &Node, request: ListDirectoryRequest) -> Result<ListDirectoryResponse, Status> {
    Ok(node.control().await.list_directory(request).await?.into_inner())
}

fn names(entries: &[DirectoryEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.name.as_str()).collect()
}

#[tokio::test]
async fn the_inputs_and_outputs_of_an_action_can_be_looked_into() {
    let node = Node::start();
    let client = node.client().await;
    let large = random_bytes(1, 700_000);
    let action = ActionBuilder::sh("cp -r src out; ln -s src/large out/link")
        .file("src/large", &large)
        .executable("src/deep/er/tool", "#!/bin/sh\n")
        .symlink("top", "src")
        .outputs(&["out"]);
    let outcome = action.run(&client).await;
    let tree = outcome.success().output_directories[0].tree_digest.clone().unwrap();
    let get = GetActionRequest { digest: outcome.action_digest.to_string(), ..Default::default() };
    let found = node.control().await.get_action(get).await.unwrap().into_inner();
    assert_eq!((found.missing_outputs, found.pinned), (Vec::<String>::new(), false));
    let root = reapi::Action::decode(found.action.as_slice()).unwrap().input_root_digest.unwrap();

    let text = |digest: &reapi::Digest| format!("{}/{}", digest.hash, digest.size_bytes);
    let inputs = ListDirectoryRequest { digest: text(&root), ..Default::default() };
    let entries = list(&node, inputs.clone()).await.unwrap().entries;
    assert_eq!(names(&entries), ["src", "top"]);
    assert_eq!((entries[0].files, entries[0].size_bytes), (Some(2), 700_010));
    assert_eq!((entries[1].kind(), entries[1].target.as_str()), (Kind::Symlink, "src"));
    let below = ListDirectoryRequest { path: "src/deep/er".into(), ..inputs.clone() };
    let entries = list(&node, below).await.unwrap().entries;
    assert_eq!((entries[0].name.as_str(), entries[0].is_executable), ("tool", true));

    let outputs = ListDirectoryRequest { digest: text(&tree), is_tree: true, ..Default::default() };
    let entries = list(&node, outputs).await.unwrap().entries;
    assert_eq!(names(&entries), ["deep", "large", "link"]);
    let file = &entries[1];
    assert!(file.is_stored && file.size_bytes == 700_000, "{file:?}");
    assert_eq!(file.digest, client.digest(&large).to_string());

    let request = ReadBlobRequest { digest: file.digest.clone(), offset: 1000, limit: 600_000 };
    let mut pieces = node.control().await.read_blob(request).await.unwrap().into_inner();
    let mut read = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        read.extend(piece.data);
    }
    assert!(read == large[1000..601_000]);
    let absent = ListDirectoryRequest { path: "src/nothing".into(), ..inputs };
    assert_eq!(list(&node, absent).await.unwrap_err().code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn a_wide_directory_comes_in_pages() {
    let node = Node::start();
    let client = node.client().await;
    let digest = client.put(b"x").await.to_wire();
    let files = (0..3000).map(|n| reapi::FileNode {
        name: format!("{n:05}"),
        digest: Some(digest.clone()),
        ..Default::default()
    });
    let directory = reapi::Directory { files: files.collect(), ..Default::default() };
    let root = client.put(&directory.encode_to_vec()).await;
    let mut request = ListDirectoryRequest { digest: root.to_string(), limit: 700, ..Default::default() };
    let mut seen = Vec::new();
    loop {
        let page = list(&node, request.clone()).await.unwrap();
        assert!(page.entries.len() <= 700 && page.entries.iter().all(|entry| entry.is_stored));
        seen.extend(page.entries.into_iter().map(|entry| entry.name));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert!(seen.len() == 3000 && seen.is_sorted());
}

/// Looking at a directory is no use of what it lists: what nobody uses goes.
#[tokio::test]
async fn looking_keeps_nothing_and_what_is_gone_is_told() {
    let node = Node::builder().config("lease = \"1s\"\ndisk-budget = \"32MiB\"").start();
    let client = node.client().await;
    let action = ActionBuilder::sh("head -c 100000 /dev/urandom > out").outputs(&["out"]);
    let outcome = action.run(&client).await;
    let output = outcome.success().output_files[0].digest.clone().unwrap();
    let node_of = reapi::FileNode { name: "out".into(), digest: Some(output.clone()), ..Default::default() };
    let directory = reapi::Directory { files: vec![node_of], ..Default::default() }.encode_to_vec();
    let root: Digest = client.put(&directory).await;
    let request = ListDirectoryRequest { digest: root.to_string(), ..Default::default() };
    let mut is_stored = true;
    for round in 0.. {
        assert!(round < 200, "it is never evicted");
        // Read again by every look, so that it stays.
        client.put(&directory).await;
        client.put(&random_bytes(round + 7, 1_000_000)).await;
        let entries = list(&node, request.clone()).await.unwrap().entries;
        is_stored = entries[0].is_stored;
        if !is_stored {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(!is_stored);
    let get = GetActionRequest { digest: outcome.action_digest.to_string(), ..Default::default() };
    let found = node.control().await.get_action(get).await.unwrap().into_inner();
    assert!(!found.in_action_cache);
    let gone = format!("{}/{}", output.hash, output.size_bytes);
    assert!(found.missing_outputs.contains(&gone), "{:?}", found.missing_outputs);
}
