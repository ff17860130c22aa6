//! Reflection, as grpcurl and its like use it: to call what they have never heard of.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage};
use tonic::Code;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{FileDescriptorResponse, ServerReflectionRequest};
use tonic_reflection::pb::v1alpha;

use crate::support::{Client, Node};

/// What a node answers to one question.
async fn asked(client: &Client, question: MessageRequest) -> MessageResponse {
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let mut reflection = ServerReflectionClient::new(client.channel.clone());
    let answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap()
}

async fn services(client: &Client) -> BTreeSet<String> {
    match asked(client, MessageRequest::ListServices(String::new())).await {
        MessageResponse::ListServicesResponse(list) => list.service.into_iter().map(|it| it.name).collect(),
        other => panic!("{other:?}"),
    }
}

/// Everything that the named services are made of, file by file.
async fn pool(client: &Client, services: &BTreeSet<String>) -> DescriptorPool {
    let mut questions: Vec<_> = services.iter().cloned().map(MessageRequest::FileContainingSymbol).collect();
    let mut files = BTreeMap::new();
    while let Some(question) = questions.pop() {
        let files_told = match asked(client, question.clone()).await {
            MessageResponse::FileDescriptorResponse(FileDescriptorResponse { file_descriptor_proto }) => {
                file_descriptor_proto
            }
            other => panic!("{question:?}: {other:?}"),
        };
        for bytes in files_told {
            let file = prost_types::FileDescriptorProto::decode(&*bytes).unwrap();
            let known: BTreeSet<_> = files.keys().cloned().collect();
            let unknown = file.dependency.iter().filter(|name| !known.contains(*name));
            questions.extend(unknown.cloned().map(MessageRequest::FileByFilename));
            files.insert(file.name().to_owned(), file);
        }
    }
    let mut pool = DescriptorPool::new();
    pool.add_file_descriptor_protos(files.into_values()).unwrap();
    pool
}

#[tokio::test]
async fn all_services_can_be_called_without_knowing_them() {
    let node = Node::start();
    let client = node.client().await;
    let services = services(&client).await;
    let reapi = "build.bazel.remote.execution.v2";
    for name in ["Capabilities", "ContentAddressableStorage", "ActionCache", "Execution"] {
        assert!(services.contains(&format!("{reapi}.{name}")), "{services:?}");
    }
    for name in [
        "build.bazel.remote.asset.v1.Fetch",
        "build.bazel.remote.asset.v1.Push",
        "build.bazel.remote.logstream.v1.LogStreamService",
        "google.bytestream.ByteStream",
        "google.longrunning.Operations",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ] {
        assert!(services.contains(name), "{name}: {services:?}");
    }
    let pool = pool(&client, &services).await;
    let told = pool.services().map(|service| service.full_name().to_owned()).collect();
    assert!(services.is_subset(&told), "{told:?}");

    // What is told is what is spoken: nothing of an answer is unknown.
    let capabilities = client.get_capabilities().await.unwrap();
    let descriptor = pool.get_message_by_name(&format!("{reapi}.ServerCapabilities")).unwrap();
    let read = DynamicMessage::decode(descriptor, &*capabilities.encode_to_vec()).unwrap();
    assert_eq!(read.unknown_fields().count(), 0);
    let version = read.get_field_by_name("high_api_version").unwrap();
    let minor = version.as_message().unwrap().get_field_by_name("minor").unwrap();
    assert_eq!(read.encode_to_vec().len(), capabilities.encoded_len());
    assert_eq!(minor.as_i32(), capabilities.high_api_version.map(|version| version.minor));
}

#[tokio::test]
async fn what_is_not_there_is_told() {
    let node = Node::start();
    let client = node.client().await;
    for question in [
        MessageRequest::FileContainingSymbol("no.such.Service".into()),
        MessageRequest::FileByFilename("no/such.proto".into()),
    ] {
        let mut reflection = ServerReflectionClient::new(client.channel.clone());
        let request = ServerReflectionRequest { message_request: Some(question), ..Default::default() };
        let answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap();
        let code = match answers.into_inner().message().await {
            Ok(answer) => match answer.unwrap().message_response.unwrap() {
                MessageResponse::ErrorResponse(error) => error.error_code,
                other => panic!("{other:?}"),
            },
            Err(status) => status.code() as i32,
        };
        assert_eq!(code, Code::NotFound as i32);
    }
}

#[tokio::test]
async fn tools_of_yesterday_are_answered_too() {
    let node = Node::start();
    let client = node.client().await;
    let question = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
    let request = v1alpha::ServerReflectionRequest { message_request: Some(question), ..Default::default() };
    let mut reflection =
        v1alpha::server_reflection_client::ServerReflectionClient::new(client.channel.clone());
    let answers = reflection.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap().message_response.unwrap();
    match answer {
        v1alpha::server_reflection_response::MessageResponse::ListServicesResponse(list) => {
            assert!(list.service.iter().any(|service| service.name == "google.bytestream.ByteStream"));
        }
        other => panic!("{other:?}"),
    }
}
