//! The Operations service through a socket, with the generated client.

use std::collections::HashSet;

use farmhand_proto::longrunning::operations_client::OperationsClient;
use farmhand_proto::protobuf;
use tonic::Code;
use tonic::transport::Channel;

use super::*;
use crate::execution::Settings;
use crate::rpc::execution::tests::{Front, execute_request, last, response_of};

async fn client(front: &Front) -> OperationsClient<Channel> {
    OperationsClient::connect(format!("http://{}", front.address)).await.unwrap()
}

fn get(name: &str) -> longrunning::GetOperationRequest {
    longrunning::GetOperationRequest { name: name.into() }
}

fn cancel(name: &str) -> longrunning::CancelOperationRequest {
    longrunning::CancelOperationRequest { name: name.into() }
}

fn delete(name: &str) -> longrunning::DeleteOperationRequest {
    longrunning::DeleteOperationRequest { name: name.into() }
}

fn wait(name: &str, nanos: i32) -> longrunning::WaitOperationRequest {
    let timeout = Some(protobuf::Duration { seconds: 0, nanos });
    longrunning::WaitOperationRequest { name: name.into(), timeout }
}

#[tokio::test]
async fn get_shows_what_the_stream_shows() {
    let front = Front::new(Settings::default()).await;
    let mut client = client(&front).await;
    let mut messages = front.execute(front.farm.action(&["true"])).await;
    let queued = messages.message().await.unwrap().unwrap();
    assert_eq!(client.get_operation(get(&queued.name)).await.unwrap().into_inner(), queued);
    let waited = client.wait_operation(wait(&queued.name, 1)).await.unwrap().into_inner();
    assert_eq!(waited, queued);
    front.farm.add_worker("worker", 1);
    let done = last(messages).await;
    assert_eq!(client.get_operation(get(&done.name)).await.unwrap().into_inner(), done);
    assert_eq!(client.wait_operation(wait(&done.name, 0)).await.unwrap().into_inner(), done);
}

#[tokio::test]
async fn cancel_ends_the_operation_with_a_response() {
    let front = Front::new(Settings::default()).await;
    let mut client = client(&front).await;
    let mut messages = front.execute(front.farm.action(&["true"])).await;
    let name = messages.message().await.unwrap().unwrap().name;
    client.cancel_operation(cancel(&name)).await.unwrap();
    let done = last(messages).await;
    assert_eq!(response_of(&done).status.unwrap().code, Code::Cancelled as i32);
    client.cancel_operation(cancel(&name)).await.unwrap();
    assert_eq!(client.get_operation(get(&name)).await.unwrap().into_inner(), done);
}

#[tokio::test]
async fn unknown_names_are_not_found() {
    let front = Front::new(Settings::default()).await;
    let mut client = client(&front).await;
    for name in ["", "operations/x", "operations/00000000-0000-4000-8000-000000000000"] {
        assert_eq!(client.get_operation(get(name)).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(client.cancel_operation(cancel(name)).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(client.delete_operation(delete(name)).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(client.wait_operation(wait(name, 0)).await.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn delete_forgets_what_is_over_only() {
    let front = Front::new(Settings::default()).await;
    let mut client = client(&front).await;
    let mut messages = front.execute(front.farm.action(&["true"])).await;
    let name = messages.message().await.unwrap().unwrap().name;
    assert_eq!(client.delete_operation(delete(&name)).await.unwrap_err().code(), Code::FailedPrecondition);
    front.farm.add_worker("worker", 1);
    last(messages).await;
    client.delete_operation(delete(&name)).await.unwrap();
    assert_eq!(client.get_operation(get(&name)).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn pages_join_to_the_list_and_filters_hold() {
    let front = Front::new(Settings::default()).await;
    let mut client = client(&front).await;
    let mut streams = Vec::new();
    for number in 0..7 {
        let action = front.farm.action(&["true", &number.to_string()]);
        let mut stream = front.execute(action).await;
        let name = stream.message().await.unwrap().unwrap().name;
        streams.push((name, stream));
    }
    let names: HashSet<_> = streams.iter().map(|(name, _)| name.clone()).collect();
    client.cancel_operation(cancel(&streams[0].0)).await.unwrap();
    last(streams.remove(0).1).await;

    let mut seen = Vec::new();
    let mut request = longrunning::ListOperationsRequest { page_size: 3, ..Default::default() };
    loop {
        let page = client.list_operations(request.clone()).await.unwrap().into_inner();
        assert!(page.operations.len() <= 3);
        seen.extend(page.operations.into_iter().map(|operation| operation.name));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!((seen.len(), seen.into_iter().collect::<HashSet<_>>()), (7, names));

    let mut count = async |name: &str, filter: &str| {
        let request = longrunning::ListOperationsRequest {
            name: name.into(),
            filter: filter.into(),
            ..Default::default()
        };
        client.list_operations(request).await.map(|page| page.into_inner().operations.len())
    };
    assert_eq!(count("operations", "done = true").await.unwrap(), 1);
    assert_eq!(count("", "done=false").await.unwrap(), 6);
    assert_eq!(count("elsewhere/operations", "").await.unwrap(), 0);
    assert_eq!(count("", "colour=red").await.unwrap_err().code(), Code::InvalidArgument);
    let nonsense = longrunning::ListOperationsRequest { page_token: "x".into(), ..Default::default() };
    assert_eq!(client.list_operations(nonsense).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_instance_of_a_list_is_the_prefix_of_its_name() {
    let front = Front::new(Settings::default()).await;
    let mut client = client(&front).await;
    let mut request = execute_request(front.farm.action(&["true"]));
    request.instance_name = "farm/a".into();
    let _stream = front.call(request).await.unwrap();
    for (name, expected) in [("farm/a/operations", 1), ("farm/a", 1), ("farm", 0), ("operations", 1)] {
        let request = longrunning::ListOperationsRequest { name: name.into(), ..Default::default() };
        let page = client.list_operations(request).await.unwrap().into_inner();
        assert_eq!(page.operations.len(), expected, "{name}");
    }
}
