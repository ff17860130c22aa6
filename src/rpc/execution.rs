//! `Execution`: Execute and WaitExecution, as streams of operations.
//!
//! A stream gives the present state at once, each later one as it comes, and the last one again
//! from time to time, so that nothing between here and the client takes a long wait for a dead
//! connection. It ends OK after the completed state and never before: when the node ends first, it
//! ends as UNAVAILABLE. Dropping it only tells the scheduler that one client is gone.

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use farmhand_proto::reapi::execution_server::{Execution, ExecutionServer};
use farmhand_proto::reapi::execution_stage;
use farmhand_proto::{any, longrunning, protobuf, reapi, rpc};
use futures_util::{Stream, stream};
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use crate::cas::ContentAddressableStorage;
use crate::digest::{Digest, DigestFunction};
use crate::execution::inline::{InlineHints, inline};
use crate::execution::operations::Timeline;
use crate::execution::{
    self, ExecuteError, Invocation, Operation, OperationState, OperationWatch, Refusal, Scheduler, Stage,
    response,
};
use crate::instance::InstanceName;

/// Header with the `RequestMetadata` of a call.
const METADATA: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// The service. Clones share their scheduler.
#[derive(Clone)]
pub struct ExecutionService {
    scheduler: Option<Scheduler>,
    digest_function: DigestFunction,
}

/// States of one operation, the completed one last.
pub type OperationStream = Pin<Box<dyn Stream<Item = Result<longrunning::Operation, Status>> + Send>>;

/// A client that follows an operation.
struct Follower {
    scheduler: Scheduler,
    watch: OperationWatch,
    next: Next,
}

/// What a stream says next.
enum Next {
    /// The present state, without waiting.
    State,
    /// The state after this one.
    Change,
    /// Nothing.
    End,
}

// === impl ExecutionService ===

impl ExecutionService {
    /// Serves `scheduler`; `None` where execution is switched off. `digest_function` is what an
    /// unset one means.
    pub fn new(scheduler: Option<Scheduler>, digest_function: DigestFunction) -> Self {
        Self { scheduler, digest_function }
    }

    /// The service for [`Routes`](tonic::service::Routes).
    pub fn into_server(self) -> ExecutionServer<Self> {
        ExecutionServer::new(self)
    }

    /// This service's part of the capabilities; `None` where execution is switched off.
    pub fn execution_capabilities(&self) -> Option<reapi::ExecutionCapabilities> {
        self.scheduler.is_some().then(|| execution::capabilities(self.digest_function))
    }

    fn parse(&self, request: Request<reapi::ExecuteRequest>) -> Result<execution::Request, Status> {
        let invocation = Arc::new(invocation(request.metadata()));
        let request = request.into_inner();
        let invalid = |error: &dyn std::fmt::Display| Status::invalid_argument(error.to_string());
        let instance = InstanceName::parse(&request.instance_name).map_err(|error| invalid(&error))?;
        let function = DigestFunction::from_wire(request.digest_function, self.digest_function)
            .map_err(|error| invalid(&error))?;
        let action = Digest::from_field(function, request.action_digest.as_ref())
            .map_err(|error| invalid(&format_args!("action_digest: {error}")))?;
        Ok(execution::Request {
            instance,
            action,
            skip_cache_lookup: request.skip_cache_lookup,
            priority: request.execution_policy.unwrap_or_default().priority,
            hints: InlineHints {
                stdout: request.inline_stdout,
                stderr: request.inline_stderr,
                files: HashSet::from_iter(request.inline_output_files),
            },
            invocation,
            root_as_slash: false,
        })
    }
}

#[async_trait]
impl Execution for ExecutionService {
    type ExecuteStream = OperationStream;
    type WaitExecutionStream = OperationStream;

    async fn execute(
        &self,
        request: Request<reapi::ExecuteRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        let scheduler = required(self.scheduler.as_ref())?;
        let watch = scheduler.execute(self.parse(request)?).await.map_err(|error| {
            let status = execute_status(&error, scheduler);
            Status::with_details(error_code(&error), status.message.clone(), status.encode_to_vec().into())
        })?;
        Ok(Response::new(follow(scheduler.clone(), watch)))
    }

    async fn wait_execution(
        &self,
        request: Request<reapi::WaitExecutionRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        let scheduler = required(self.scheduler.as_ref())?;
        let name = request.into_inner().name;
        let watch = scheduler.attach(&name).ok_or_else(|| unknown_operation(&name))?;
        Ok(Response::new(follow(scheduler.clone(), watch)))
    }
}

/// The scheduler, where execution is switched on.
pub(super) fn required(scheduler: Option<&Scheduler>) -> Result<&Scheduler, Status> {
    scheduler.ok_or_else(|| Status::unimplemented("execution is switched off on this machine"))
}

/// No operation has this name, or it was forgotten.
pub(super) fn unknown_operation(name: &str) -> Status {
    let name: String = name.chars().take(200).collect();
    Status::not_found(format!("there is no operation {name:?} (any more)"))
}

/// Who calls. Rubbish in the header is like no header.
fn invocation(metadata: &MetadataMap) -> Invocation {
    let bytes = metadata.get_bin(METADATA).and_then(|value| value.to_bytes().ok());
    let message = bytes.and_then(|bytes| reapi::RequestMetadata::decode(bytes).ok());
    message.map(Invocation::from_wire).unwrap_or_default()
}

// === Errors ===

/// How a call that got no operation ends.
pub fn execute_status(error: &ExecuteError, scheduler: &Scheduler) -> rpc::Status {
    let code = error_code(error);
    let is_passing = matches!(code, Code::ResourceExhausted | Code::Unavailable | Code::Internal);
    let details = is_passing.then(|| response::retry_info(scheduler.settings().retry_after));
    rpc::Status { code: code as i32, message: error.to_string(), details: details.into_iter().collect() }
}

fn error_code(error: &ExecuteError) -> Code {
    match error {
        ExecuteError::Invalid(_) => Code::InvalidArgument,
        ExecuteError::Refused(Refusal::Full(_)) => Code::ResourceExhausted,
        ExecuteError::Refused(Refusal::NoWorker(_)) => Code::FailedPrecondition,
        ExecuteError::Cas(_) => Code::Internal,
        ExecuteError::ShuttingDown => Code::Unavailable,
    }
}

// === Streams ===

fn follow(scheduler: Scheduler, watch: OperationWatch) -> OperationStream {
    let follower = Follower { scheduler, watch, next: Next::State };
    Box::pin(stream::unfold(follower, Follower::step))
}

impl Follower {
    async fn step(mut self) -> Option<(Result<longrunning::Operation, Status>, Self)> {
        match self.next {
            Next::State => {}
            Next::Change => {
                if !self.wait().await {
                    self.next = Next::End;
                    return Some((Err(Status::unavailable("this machine is shutting down")), self));
                }
            }
            Next::End => return None,
        }
        let state = self.watch.state();
        self.next = if state.is_done() { Next::End } else { Next::Change };
        let message = to_wire(self.scheduler.cas(), self.watch.operation(), &state).await;
        Some((Ok(message), self))
    }

    /// Waits until something is to be said; `false` if the node ends.
    async fn wait(&mut self) -> bool {
        tokio::select! {
            biased;
            () = self.watch.changed() => true,
            () = self.scheduler.stopping().cancelled() => false,
            () = tokio::time::sleep(self.scheduler.settings().update_interval) => true,
        }
    }
}

// === Messages ===

/// One state of an operation, as every service shows it.
pub(super) async fn to_wire(
    cas: &dyn ContentAddressableStorage,
    operation: &Operation,
    state: &OperationState,
) -> longrunning::Operation {
    let result = match &state.response {
        Some(response) => {
            let response = for_caller(cas, operation, response).await;
            Some(longrunning::operation::Result::Response(any::pack(&response)))
        }
        None => None,
    };
    longrunning::Operation {
        name: operation.id.to_string(),
        metadata: Some(any::pack(&metadata(operation, state))),
        done: result.is_some(),
        result,
    }
}

/// The response of a run with what this caller asked for inside, and what only it should know.
async fn for_caller(
    cas: &dyn ContentAddressableStorage,
    operation: &Operation,
    response: &reapi::ExecuteResponse,
) -> reapi::ExecuteResponse {
    let mut response = response.clone();
    if let Some(note) = &operation.note {
        response::add_message(&mut response, note);
    }
    if let Some(result) = response.result.take() {
        response.result = Some(inline(cas, operation.action.function(), &operation.hints, result).await);
    }
    response
}

fn metadata(operation: &Operation, state: &OperationState) -> reapi::ExecuteOperationMetadata {
    let stage = match state.stage {
        Stage::Queued => execution_stage::Value::Queued,
        Stage::Executing => execution_stage::Value::Executing,
        Stage::Completed => execution_stage::Value::Completed,
    };
    reapi::ExecuteOperationMetadata {
        stage: stage as i32,
        action_digest: Some(operation.action.to_wire()),
        digest_function: operation.action.function().to_wire(),
        partial_execution_metadata: Some(partial(&state.timeline)),
        ..Default::default()
    }
}

fn partial(timeline: &Timeline) -> reapi::ExecutedActionMetadata {
    reapi::ExecutedActionMetadata {
        worker: timeline.worker.as_deref().unwrap_or_default().to_owned(),
        queued_timestamp: timeline.queued_at.map(timestamp),
        worker_start_timestamp: timeline.assigned_at.map(timestamp),
        input_fetch_start_timestamp: timeline.assigned_at.map(timestamp),
        input_fetch_completed_timestamp: timeline.running_at.map(timestamp),
        execution_start_timestamp: timeline.running_at.map(timestamp),
        execution_completed_timestamp: timeline.collecting_at.map(timestamp),
        output_upload_start_timestamp: timeline.collecting_at.map(timestamp),
        ..Default::default()
    }
}

fn timestamp(time: SystemTime) -> protobuf::Timestamp {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    protobuf::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

#[cfg(test)]
pub(super) mod tests;
