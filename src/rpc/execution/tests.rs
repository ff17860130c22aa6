//! Execute and WaitExecution through a socket, with the generated client.

use std::net::SocketAddr;
use std::time::Duration;

use farmhand_proto::reapi::execution_client::ExecutionClient;
use farmhand_proto::{raw, rpc};
use prost::Message;
use tokio::net::TcpListener;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Streaming};

use super::*;
use crate::digest::DigestFunction::Sha256;
use crate::execution::Settings;
use crate::execution::testing::{Farm, NEEDS, platform};
use crate::rpc::operations::OperationsService;
use crate::rpc::{InstanceSettings, InstancesConfig};

/// A farm behind a socket.
pub(in crate::rpc) struct Front {
    pub(in crate::rpc) farm: Farm,
    pub(in crate::rpc) address: SocketAddr,
}

pub(in crate::rpc) type Messages = Streaming<longrunning::Operation>;

impl Front {
    pub(in crate::rpc) async fn new(settings: Settings) -> Self {
        let farm = Farm::new(settings);
        let address = serve(&farm, Instances::default()).await;
        Self { farm, address }
    }

    async fn client(&self) -> ExecutionClient<tonic::transport::Channel> {
        ExecutionClient::connect(format!("http://{}", self.address)).await.unwrap()
    }

    pub(in crate::rpc) async fn execute(&self, action: Digest) -> Messages {
        self.call(execute_request(action)).await.unwrap()
    }

    pub(in crate::rpc) async fn call(&self, request: reapi::ExecuteRequest) -> Result<Messages, Status> {
        self.client().await.execute(request).await.map(Response::into_inner)
    }

    async fn wait_execution(&self, name: &str) -> Result<Messages, Status> {
        let request = reapi::WaitExecutionRequest { name: name.into() };
        self.client().await.wait_execution(request).await.map(Response::into_inner)
    }

    /// The response of a whole Execute.
    async fn run(&self, request: reapi::ExecuteRequest) -> reapi::ExecuteResponse {
        response_of(&last(self.call(request).await.unwrap()).await)
    }
}

async fn serve(farm: &Farm, instances: Instances) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder()
        .add_service(ExecutionService::new(farm.scheduler.clone(), instances).into_server())
        .add_service(OperationsService::new(farm.scheduler.clone()).into_server());
    let shutdown = farm.tasks.token().clone().cancelled_owned();
    farm.tasks.spawn("server", server.serve_with_incoming_shutdown(TcpIncoming::from(listener), shutdown));
    address
}

pub(in crate::rpc) fn execute_request(action: Digest) -> reapi::ExecuteRequest {
    reapi::ExecuteRequest { action_digest: Some(action.to_wire()), ..Default::default() }
}

pub(in crate::rpc) fn metadata_of(operation: &longrunning::Operation) -> reapi::ExecuteOperationMetadata {
    any::unpack(operation.metadata.as_ref().unwrap()).unwrap()
}

fn stage_of(operation: &longrunning::Operation) -> execution_stage::Value {
    metadata_of(operation).stage()
}

pub(in crate::rpc) fn response_of(operation: &longrunning::Operation) -> reapi::ExecuteResponse {
    let Some(longrunning::operation::Result::Response(response)) = &operation.result else {
        panic!("no response in {operation:?}");
    };
    assert_eq!(response.type_url, "type.googleapis.com/build.bazel.remote.execution.v2.ExecuteResponse");
    any::unpack(response).unwrap()
}

/// Reads a stream to its end, which must be OK and right after the done message.
pub(in crate::rpc) async fn last(mut messages: Messages) -> longrunning::Operation {
    while let Some(operation) = messages.message().await.unwrap() {
        let is_completed = stage_of(&operation) == execution_stage::Value::Completed;
        assert_eq!(operation.done, is_completed);
        if operation.done {
            assert_eq!(messages.message().await.unwrap(), None, "nothing after done");
            return operation;
        }
    }
    panic!("the stream ended without done");
}

/// Reads on until the operation is in `stage`.
async fn reach(messages: &mut Messages, stage: execution_stage::Value) -> longrunning::Operation {
    loop {
        let operation = messages.message().await.unwrap().expect("ends only when done");
        if stage_of(&operation) == stage {
            return operation;
        }
    }
}

#[tokio::test]
async fn a_stream_tells_the_stages_in_order() {
    let front = Front::new(Settings::default()).await;
    let action = front.farm.action(&["wait"]);
    let mut messages = front.execute(action).await;
    let first = messages.message().await.unwrap().unwrap();
    assert_eq!((stage_of(&first), first.done), (execution_stage::Value::Queued, false));
    assert!(first.name.starts_with("operations/"));
    let worker = front.farm.add_worker("worker", 1);
    let executing = reach(&mut messages, execution_stage::Value::Executing).await;
    let metadata = metadata_of(&executing);
    assert_eq!(metadata.action_digest, Some(action.to_wire()));
    assert_eq!(metadata.digest_function, Sha256.to_wire());
    let partial = metadata.partial_execution_metadata.unwrap();
    assert_eq!(partial.worker, "worker");
    assert!(partial.worker_start_timestamp.is_some());
    worker.release();
    let done = last(messages).await;
    assert_eq!(done.name, first.name);
    assert_eq!(response_of(&done).result.unwrap().exit_code, 0);
}

#[tokio::test]
async fn an_unchanged_state_is_repeated() {
    let settings = Settings { update_interval: Duration::from_millis(10), ..Settings::default() };
    let front = Front::new(settings).await;
    let mut messages = front.execute(front.farm.action(&["true"])).await;
    let first = messages.message().await.unwrap().unwrap();
    for _ in 0..3 {
        assert_eq!(messages.message().await.unwrap().unwrap(), first);
    }
}

#[tokio::test]
async fn a_cut_stream_is_taken_up_again_and_the_action_ran_once() {
    let front = Front::new(Settings::default()).await;
    let worker = front.farm.add_worker("worker", 1);
    let mut messages = front.execute(front.farm.action(&["wait"])).await;
    let name = reach(&mut messages, execution_stage::Value::Executing).await.name;
    drop(messages);
    let mut again = front.wait_execution(&name).await.unwrap();
    assert_eq!(stage_of(&again.message().await.unwrap().unwrap()), execution_stage::Value::Executing);
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(front.wait_execution(&name).await.unwrap());
    }
    worker.release();
    let done = last(again).await;
    for other in others {
        assert_eq!(last(other).await, done);
    }
    assert_eq!(last(front.wait_execution(&name).await.unwrap()).await, done, "long after the end");
    assert_eq!(worker.runs(), 1);
    let error = front.wait_execution("operations/unknown").await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}

#[tokio::test]
async fn small_outputs_come_inside_for_fresh_runs_and_hits() {
    let front = Front::new(Settings::default()).await;
    front.farm.add_worker("worker", 1);
    let action = front.farm.action(&["true"]);
    let plain = execute_request(action);
    let wanted = reapi::ExecuteRequest { inline_stdout: true, ..plain.clone() };
    for cached in [false, true] {
        let response = front.run(wanted.clone()).await;
        assert_eq!(response.cached_result, cached);
        assert_eq!(response.result.unwrap().stdout_raw, b"output 0");
    }
    let result = front.run(plain).await.result.unwrap();
    assert!(result.stdout_raw.is_empty() && result.stdout_digest.is_some());
}

#[tokio::test]
async fn missing_blobs_are_a_finished_operation() {
    let front = Front::new(Settings::default()).await;
    let absent = Digest::of(Sha256, b"absent");
    let status = front.run(execute_request(absent)).await.status.unwrap();
    assert_eq!((status.code, status.details.len()), (Code::FailedPrecondition as i32, 1));
    let failure: raw::PreconditionFailure = any::unpack(&status.details[0]).unwrap();
    assert_eq!(failure.violations[0].subject, absent.missing_subject());
}

#[tokio::test]
async fn a_priority_out_of_range_is_said() {
    let front = Front::new(Settings::default()).await;
    front.farm.add_worker("worker", 1);
    let action = front.farm.action(&["true"]);
    let with = |priority| reapi::ExecuteRequest {
        execution_policy: Some(reapi::ExecutionPolicy { priority }),
        ..execute_request(action)
    };
    assert!(front.run(with(99_999)).await.message.contains("99999"));
    assert!(front.run(with(5)).await.message.is_empty());
}

#[tokio::test]
async fn faults_of_the_request_are_statuses() {
    let front = Front::new(Settings { queue_limit: 1, ..Settings::default() }).await;
    front.farm.add_worker("worker", 0);
    let good = execute_request(front.farm.action(&["true"]));
    let picky = front.farm.action_with(&["true"], |action, _| action.platform = platform(NEEDS, "gpu"));
    let bad_digest = reapi::Digest { hash: "ABC".into(), size_bytes: 1 };
    let calls = [
        (reapi::ExecuteRequest { action_digest: None, ..good.clone() }, Code::InvalidArgument),
        (reapi::ExecuteRequest { action_digest: Some(bad_digest), ..good.clone() }, Code::InvalidArgument),
        (reapi::ExecuteRequest { instance_name: "a//b".into(), ..good.clone() }, Code::InvalidArgument),
        (reapi::ExecuteRequest { digest_function: 5, ..good.clone() }, Code::InvalidArgument),
        (execute_request(front.farm.action(&[])), Code::InvalidArgument),
        (execute_request(picky), Code::FailedPrecondition),
    ];
    for (request, code) in calls {
        assert_eq!(front.call(request).await.unwrap_err().code(), code);
    }
    let _queued = front.call(good).await.unwrap();
    let full = front.call(execute_request(front.farm.action(&["false"]))).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted);
    let details = rpc::Status::decode(full.details()).unwrap();
    let info: raw::RetryInfo = any::unpack(&details.details[0]).unwrap();
    assert!(info.retry_delay.unwrap().seconds > 0);
}

#[tokio::test]
async fn who_asks_is_shown() {
    let front = Front::new(Settings::default()).await;
    let message = reapi::RequestMetadata {
        tool_details: Some(reapi::ToolDetails { tool_name: "bazel".into(), ..Default::default() }),
        target_id: "//a:b".into(),
        ..Default::default()
    };
    let rubbish = tonic::metadata::BinaryMetadataValue::from_bytes(b"\xff\xff");
    let good = tonic::metadata::BinaryMetadataValue::from_bytes(&message.encode_to_vec());
    for (value, target) in [(good, "//a:b"), (rubbish, "")] {
        let mut request = Request::new(execute_request(front.farm.action(&["true", target])));
        request.metadata_mut().insert_bin("build.bazel.remote.execution.v2.requestmetadata-bin", value);
        let mut stream = front.client().await.execute(request).await.unwrap().into_inner();
        let name = stream.message().await.unwrap().unwrap().name;
        assert_eq!(front.farm.scheduler.get(&name).unwrap().invocation.target_id, target);
    }
}

#[tokio::test]
async fn switched_off_means_unimplemented() {
    let farm = Farm::new(Settings::default());
    let default = InstanceSettings { execution: false, ..Default::default() };
    let instances = Instances::new(InstancesConfig { default, ..Default::default() });
    let mut capabilities = reapi::ServerCapabilities::default();
    ExecutionCapabilitiesProvider.contribute(&instances.find("").unwrap(), &mut capabilities);
    assert_eq!(capabilities.execution_capabilities, None);
    let address = serve(&farm, instances).await;
    let mut client = ExecutionClient::connect(format!("http://{address}")).await.unwrap();
    let error = client.execute(execute_request(farm.action(&["true"]))).await.unwrap_err();
    assert_eq!(error.code(), Code::Unimplemented);
}

#[tokio::test]
async fn the_end_of_the_node_ends_streams_as_unavailable() {
    let front = Front::new(Settings::default()).await;
    let mut messages = front.execute(front.farm.action(&["true"])).await;
    messages.message().await.unwrap();
    let stop = front.farm.tasks.stop();
    let end = async {
        loop {
            match messages.message().await {
                Ok(Some(operation)) => assert!(!operation.done),
                other => break other,
            }
        }
    };
    let ((), end) = tokio::join!(stop, end);
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
}
