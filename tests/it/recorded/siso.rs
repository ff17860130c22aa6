//! Siso: an instance of several segments, an Execute that it cuts after a minute to wait by name instead, and
//! outputs named the old way but read the new way.

use farmhand_proto::{bytestream, longrunning, reapi};
use tonic::Code;

use super::{Tool, lookup, upload};
use crate::support::action::{finish, response};
use crate::support::{ActionBuilder, Client, Node, random_bytes};

const INSTANCE: &str = "projects/farmhand/instances/default";

fn tool() -> Tool {
    Tool::new("siso", "1.3")
}

fn compile(script: &str) -> ActionBuilder {
    let mut action = ActionBuilder::sh(script).file("src/a.cc", "int a;").working_directory("out/Default");
    action = action.file("out/Default/args.gn", "is_debug = false");
    action.command.output_files = vec!["obj/a.o".into(), "obj/a.d".into()];
    action.action.timeout = Some(farmhand_proto::protobuf::Duration { seconds: 600, nanos: 0 });
    action.property("OSFamily", "Linux").property("container-image", "none")
}

#[tokio::test]
async fn a_build_and_the_same_again() {
    let node = Node::start();
    let client = node.client_of(INSTANCE).await;
    let caps = client.get_capabilities().await.unwrap().cache_capabilities.unwrap();
    // It takes the first one, whatever that is.
    assert_eq!(caps.supported_compressors[0], reapi::compressor::Value::Zstd as i32);

    let action = compile("cat ../../src/a.cc args.gn > obj/a.o; ln -s a.o obj/a.d");
    let digest = upload(&tool(), &client, &action).await;
    let missing = tool().looks_up(&client, lookup(&client, &digest)).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    let outcome = tool().executes(&client, &action, digest).await;
    let result = outcome.success();
    assert_eq!(outcome.output(&client, "obj/a.o").await, b"int a;is_debug = false");
    let links = result.output_symlinks.iter().chain(&result.output_file_symlinks);
    assert!(links.into_iter().any(|link| link.path == "obj/a.d" && link.target == "a.o"), "{result:?}");
    assert_eq!(tool().looks_up(&client, lookup(&client, &digest)).await.unwrap().exit_code, 0);
}

#[tokio::test]
async fn a_cut_execute_is_waited_for_by_name() {
    let node = Node::start();
    let client = node.client_of(INSTANCE).await;
    let action = compile("sleep 2; echo o > obj/a.o");
    let digest = upload(&tool(), &client, &action).await;
    let request = tool().says(action.execute_request(&client, &digest));
    let mut stream = client.execution().execute(request).await.unwrap().into_inner();
    let name = stream.message().await.unwrap().unwrap().name;
    drop(stream);
    let outcome = finish(wait(&client, &name).await.unwrap(), digest).await.unwrap();
    outcome.success();
    // The result came of the run that was cut off, not of another.
    assert_eq!(outcome.updates[0].name, name);
    let unknown = wait(&client, "operations/none").await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
}

/// Any other text, and it tries again for ever.
#[tokio::test]
async fn the_text_of_a_timeout_is_the_one_it_knows() {
    let node = Node::start();
    let client = node.client_of(INSTANCE).await;
    let outcome = compile("sleep 100").timeout_ms(300).run(&client).await;
    let last = outcome.updates.last().unwrap();
    let status = response(last).status.unwrap();
    let told = (status.code, status.message.as_str());
    assert_eq!(told, (Code::DeadlineExceeded as i32, "execution timeout exceeded"));
}

/// Compressed, with the end in a message of its own; the size it wants back is that of the blob.
#[tokio::test]
async fn a_large_blob_goes_compressed_both_ways() {
    let node = Node::start();
    let client = node.client_of(INSTANCE).await;
    let data = random_bytes(3, 5 << 20);
    let digest = client.digest(&data);
    let name = client.write_name(&digest).replace("/blobs/", "/compressed-blobs/zstd/");
    let compressed = zstd::encode_all(&data[..], 0).unwrap();
    let mut offset = 0;
    let mut messages = Vec::new();
    for (i, chunk) in compressed.chunks(1 << 20).enumerate() {
        messages.push(bytestream::WriteRequest {
            resource_name: if i == 0 { name.clone() } else { String::new() },
            write_offset: offset,
            finish_write: false,
            data: chunk.to_vec(),
        });
        offset += chunk.len() as i64;
    }
    let end = bytestream::WriteRequest { write_offset: offset, finish_write: true, ..Default::default() };
    messages.push(end);
    let request = tool().says(tokio_stream::iter(messages));
    let committed = client.byte_stream().write(request).await.unwrap().into_inner().committed_size;
    assert_eq!(committed, data.len() as i64);

    let name = client.read_name(&digest).replace("/blobs/", "/compressed-blobs/zstd/");
    let read = client.read_named(name, 0, 0).await.unwrap();
    assert_eq!(zstd::decode_all(&read[..]).unwrap(), data);
}

/// A Chromium build asks for all inputs of a step in one message.
#[tokio::test]
async fn a_long_list_is_asked_for_at_once() {
    let node = Node::start();
    let client = node.client_of(INSTANCE).await;
    let digests: Vec<_> = (0..50_000u32).map(|i| client.digest(&i.to_le_bytes())).collect();
    assert_eq!(tool().finds_missing(&client, &digests).await, digests.len());
    let blobs: Vec<Vec<u8>> = (0..1000u32).map(|i| i.to_le_bytes().to_vec()).collect();
    tool().batch_updates(&client, &blobs).await;
    assert_eq!(tool().finds_missing(&client, &digests[..1000]).await, 0);
}

async fn wait(
    client: &Client,
    name: &str,
) -> Result<tonic::Streaming<longrunning::Operation>, tonic::Status> {
    let request = reapi::WaitExecutionRequest { name: name.to_owned() };
    Ok(client.execution().wait_execution(tool().says(request)).await?.into_inner())
}
