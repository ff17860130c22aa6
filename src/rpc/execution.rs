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
use farmhand_proto::{any, longrunning, protobuf, reapi};
use futures_util::{Stream, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::capabilities::digest_functions;
use super::{CapabilitiesProvider, Instance, Instances, log_stream, metadata};
use crate::cas::ContentAddressableStorage;
use crate::digest::Digest;
use crate::execution::inline::{InlineHints, inline};
use crate::execution::operations::Timeline;
use crate::execution::{
    self, ExecuteError, Kind, Operation, OperationState, OperationWatch, Scheduler, Stage, response,
};

/// The service. Clones share their scheduler.
#[derive(Clone)]
pub struct ExecutionService {
    scheduler: Scheduler,
    instances: Instances,
    outer: Option<Outer>,
}

/// An action that has others run.
#[derive(Clone, Debug)]
pub struct Outer {
    /// For whom it runs, and they do.
    pub person: Arc<str>,
    /// Fires when it waits for another.
    pub asked: CancellationToken,
}

/// What execution contributes to the capabilities: nothing where an instance is a cache only.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExecutionCapabilitiesProvider;

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
    /// Serves `scheduler` to the instances that execute.
    pub fn new(scheduler: Scheduler, instances: Instances) -> Self {
        Self { scheduler, instances, outer: None }
    }

    /// Serves an action only.
    pub fn within(self, outer: Outer) -> Self {
        Self { outer: Some(outer), ..self }
    }

    /// Whoever calls waits for an action from now on.
    fn note_wait(&self) {
        if let Some(outer) = &self.outer {
            outer.asked.cancel();
        }
    }

    /// The service for [`Routes`](tonic::service::Routes).
    pub fn into_server(self) -> ExecutionServer<Self> {
        ExecutionServer::new(self)
    }

    fn parse(&self, request: Request<reapi::ExecuteRequest>) -> Result<execution::Request, Status> {
        let invocation = Arc::new(metadata::of(request.metadata()));
        let request = request.into_inner();
        let instance = self.instances.find(&request.instance_name)?;
        if !instance.settings.execution {
            return Err(ExecuteError::SwitchedOff(instance.name).into());
        }
        let function = instance.function(request.digest_function)?;
        let action = Digest::from_field(function, request.action_digest.as_ref())?;
        Ok(execution::Request {
            kind: Kind::Execute,
            instance: instance.name,
            action,
            skip_cache_lookup: request.skip_cache_lookup,
            priority: request.execution_policy.unwrap_or_default().priority,
            hints: InlineHints {
                stdout: request.inline_stdout,
                stderr: request.inline_stderr,
                files: HashSet::from_iter(request.inline_output_files),
            },
            invocation,
            person: self.outer.as_ref().map(|outer| outer.person.clone()),
            platform: instance.settings.platform,
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
        let request = self.parse(request)?;
        self.note_wait();
        let watch = self.scheduler.execute(request).await?;
        Ok(Response::new(follow(self.scheduler.clone(), watch)))
    }

    async fn wait_execution(
        &self,
        request: Request<reapi::WaitExecutionRequest>,
    ) -> Result<Response<OperationStream>, Status> {
        let name = request.into_inner().name;
        let watch = self.scheduler.attach(&name).ok_or_else(|| unknown_operation(&name))?;
        self.note_wait();
        Ok(Response::new(follow(self.scheduler.clone(), watch)))
    }
}

impl CapabilitiesProvider for ExecutionCapabilitiesProvider {
    fn contribute(&self, instance: &Instance, capabilities: &mut reapi::ServerCapabilities) {
        if instance.settings.execution {
            let own = execution::capabilities(instance.settings.digest_function);
            let digest_functions = digest_functions(instance);
            capabilities.execution_capabilities =
                Some(reapi::ExecutionCapabilities { digest_functions, ..own });
        }
    }
}

/// No operation has this name, or it was forgotten.
pub(super) fn unknown_operation(name: &str) -> Status {
    let name: String = name.chars().take(200).collect();
    Status::not_found(format!("there is no operation {name:?} (any more)"))
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
    let [stdout_stream_name, stderr_stream_name] = log_stream::names_of(operation, state);
    reapi::ExecuteOperationMetadata {
        stage: stage as i32,
        stdout_stream_name,
        stderr_stream_name,
        action_digest: Some(operation.action.to_wire()),
        digest_function: operation.action.function().to_wire(),
        partial_execution_metadata: Some(partial(&state.timeline)),
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
