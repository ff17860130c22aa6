//! recc of 2021: a process, and its connections, for each compilation; asks for everything inlined; sends the
//! name of an upload before its bytes.

use farmhand_proto::{bytestream, longrunning, reapi};
use tonic::Code;

use super::Tool;
use crate::support::{ActionBuilder, Client, Node};

fn tool() -> Tool {
    Tool { header: "requestmetadata-bin", ..Tool::new("recc", "0.1") }
}

/// A compilation as it makes one: no property, output files of the first protocol, the common ancestor of all
/// files as working directory.
fn compile(unit: &str) -> ActionBuilder {
    let script = format!("cat src/{unit}.c src/common.h > build/{unit}.o; echo warning: {unit} >&2");
    let action = ActionBuilder::new(&["/bin/sh", "-c", &script]);
    let action = action.file(&format!("app/src/{unit}.c"), format!("int {unit};")).working_directory("app");
    let mut action = action.file("app/src/common.h", "#pragma once").file("app/src/empty.h", "");
    action.command.output_files = vec![format!("build/{unit}.o")];
    action
}

fn inlined(client: &Client, action: &ActionBuilder) -> reapi::GetActionResultRequest {
    let (digest, _) = action.blobs(client);
    reapi::GetActionResultRequest {
        inline_stdout: true,
        inline_stderr: true,
        inline_output_files: action.command.output_files.clone(),
        ..super::lookup(client, &digest)
    }
}

#[tokio::test]
async fn a_compilation_each_on_a_connection_of_its_own() {
    let node = Node::start();
    for unit in ["apple", "pear", "plum"] {
        let client = node.client_of("").await;
        let action = compile(unit);
        let missing = tool().looks_up(&client, inlined(&client, &action)).await.unwrap_err();
        assert_eq!(missing.code(), Code::NotFound);
        let (digest, blobs) = action.blobs(&client);
        let digests: Vec<_> = blobs.iter().map(|blob| client.digest(blob)).collect();
        assert!(tool().finds_missing(&client, &digests).await >= 4);
        tool().batch_updates(&client, &blobs).await;
        let outcome = tool().executes(&client, &action, digest).await;
        outcome.success();
        assert_eq!(outcome.stderr(&client).await, format!("warning: {unit}\n"));
        let object = outcome.output(&client, &format!("build/{unit}.o")).await;
        assert_eq!(object, format!("int {unit};#pragma once").as_bytes());
    }
    for unit in ["apple", "pear", "plum"] {
        let client = node.client_of("").await;
        let hit = tool().looks_up(&client, inlined(&client, &compile(unit))).await.unwrap();
        // It writes this out as the object, without a look at the digest.
        assert_eq!(hit.output_files[0].contents, format!("int {unit};#pragma once").as_bytes());
        assert_eq!(hit.stderr_raw, format!("warning: {unit}\n").as_bytes());
    }
}

#[tokio::test]
async fn an_upload_begins_with_its_name_alone() {
    let node = Node::start();
    let client = node.client_of("").await;
    let data = b"precompiled header".repeat(1000);
    let digest = client.digest(&data);
    let first = bytestream::WriteRequest {
        resource_name: client.write_name(&digest),
        write_offset: 0,
        finish_write: false,
        data: Vec::new(),
    };
    let rest = bytestream::WriteRequest { data: data.clone(), finish_write: true, ..first.clone() };
    assert_eq!(client.write_messages(vec![first, rest]).await.unwrap(), data.len() as i64);
    assert_eq!(client.read(&digest).await.unwrap(), data);

    // Of the empty blob it sends the name, and no end.
    let empty = client.digest(b"");
    let only = bytestream::WriteRequest { resource_name: client.write_name(&empty), ..Default::default() };
    assert_eq!(client.write_messages(vec![only]).await.unwrap(), 0);
    assert!(client.has(&empty).await);
}

/// Ctrl-C: the name of the operation is known, and the stream still open.
#[tokio::test]
async fn an_interrupt_cancels_by_name() {
    let node = Node::start();
    let client = node.client_of("").await;
    let mut action = ActionBuilder::sh("sleep 600");
    action.command.output_files = vec!["never.o".into()];
    let digest = super::upload(&tool(), &client, &action).await;
    let request = tool().says(action.execute_request(&client, &digest));
    let mut stream = client.execution().execute(request).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap();
    let request = longrunning::CancelOperationRequest { name: first.name };
    client.operations().cancel_operation(tool().says(request)).await.unwrap();
    let mut last = None;
    while let Some(update) = stream.message().await.unwrap() {
        last = Some(update);
    }
    let status = crate::support::action::response(&last.unwrap()).status.unwrap();
    assert_eq!(status.code, Code::Cancelled as i32);
}
