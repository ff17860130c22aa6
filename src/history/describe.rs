//! From operations as the scheduler has them to operations as the control API tells them.

use std::sync::Arc;

use farmhand_proto::control::{self, operation};
use farmhand_proto::time::{duration, std_duration, timestamp};
use farmhand_proto::{any, reapi};
use prost::Message;

use crate::execution::operations::{Operation, Outcome, Timeline};
use crate::execution::queue::Loss;
use crate::execution::{Kind, LiveAction, Stage};
use crate::worker::local::ResourceUsage;

/// One that waits or runs.
pub fn live(action: &LiveAction) -> control::Operation {
    let stage = match action.state.stage {
        Stage::Queued => operation::Stage::Queued,
        Stage::Executing => operation::Stage::Running,
        Stage::Completed => operation::Stage::Done,
    };
    control::Operation {
        stage: stage.into(),
        callers: u32::try_from(action.callers).unwrap_or(u32::MAX),
        ..common(&action.operation, &action.state.timeline)
    }
}

/// One in whatever state, with its result where it has one.
pub fn told(operation: &Arc<Operation>) -> control::Operation {
    let state = operation.state();
    match &state.response {
        Some(response) => control::Operation {
            result: response.result.as_ref().map(Message::encode_to_vec),
            ..finished(operation, &state.timeline, response)
        },
        None => live(&LiveAction { operation: Arc::clone(operation), state, callers: 1 }),
    }
}

/// One that is over, but for its result.
pub(super) fn finished(
    operation: &Operation,
    timeline: &Timeline,
    response: &reapi::ExecuteResponse,
) -> control::Operation {
    let (status_code, exit_code) = match Outcome::of(response) {
        Outcome::Succeeded => (0, 0),
        Outcome::Failed(code) => (0, code),
        Outcome::Error(code) => (code, 0),
    };
    let result = response.result.as_ref();
    let usage = result.filter(|_| !response.cached_result).and_then(usage).unwrap_or_default();
    let cpu = [&usage.user_time, &usage.system_time].into_iter().flatten().filter_map(std_duration).sum();
    let common = common(operation, timeline);
    let first_output = match (common.first_output.is_empty(), result) {
        (true, Some(result)) => first_output_of(result),
        _ => common.first_output.clone(),
    };
    // What the worker wrote down is closer than what it told the scheduler; of a hit it is another run.
    let metadata =
        result.filter(|_| !response.cached_result).and_then(|result| result.execution_metadata.clone());
    let metadata = metadata.unwrap_or_default();
    control::Operation {
        stage: operation::Stage::Done.into(),
        command_started: metadata.execution_start_timestamp.or(common.command_started),
        command_ended: metadata.execution_completed_timestamp.or(common.command_ended),
        cached: response.cached_result,
        status_code,
        exit_code,
        message: message(response),
        cpu_time: usage.user_time.is_some().then(|| duration(cpu)),
        peak_memory: usage.max_resident_bytes,
        sequence: operation.sequence(),
        first_output,
        ..common
    }
}

fn common(operation: &Operation, timeline: &Timeline) -> control::Operation {
    let invocation = &operation.invocation;
    let tool = format!("{} {}", invocation.tool_name, invocation.tool_version);
    let about = operation.about.as_deref();
    control::Operation {
        name: operation.id.to_string(),
        action_digest: operation.action.to_string(),
        instance_name: operation.instance.to_string(),
        kind: kind(operation.kind).into(),
        machine: timeline.worker.as_deref().unwrap_or_default().to_owned(),
        queued: timeline.queued_at.map(timestamp),
        started: timeline.assigned_at.map(timestamp),
        command_started: timeline.running_at.map(timestamp),
        command_ended: timeline.collecting_at.map(timestamp),
        finished: timeline.ended_at.map(timestamp),
        attempts: timeline.attempts,
        losses: timeline.losses.iter().map(Into::into).collect(),
        target: invocation.target_id.clone(),
        mnemonic: invocation.action_mnemonic.clone(),
        invocation: invocation.tool_invocation_id.clone(),
        tool: tool.trim().to_owned(),
        first_output: about.map(|about| about.first_output.clone()).unwrap_or_default(),
        priority: operation.priority,
        ..Default::default()
    }
}

impl From<&Loss> for control::Loss {
    fn from(loss: &Loss) -> Self {
        Self { machine: loss.worker.to_string(), reason: loss.reason.clone() }
    }
}

fn kind(kind: Kind) -> operation::Kind {
    match kind {
        Kind::Execute => operation::Kind::Execute,
        Kind::Rerun => operation::Kind::Rerun,
    }
}

/// What the status says, and what was noted besides.
fn message(response: &reapi::ExecuteResponse) -> String {
    let status = response.status.as_ref().map(|status| status.message.as_str()).unwrap_or_default();
    // Those that come from the scheduler say it in both places.
    let parts = [status, response.message.strip_prefix(status).unwrap_or(&response.message).trim_start()];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
}

/// What its worker wrote down of a run.
fn usage(result: &reapi::ActionResult) -> Option<ResourceUsage> {
    let metadata = result.execution_metadata.as_ref()?;
    metadata.auxiliary_metadata.iter().find_map(any::unpack)
}

fn first_output_of(result: &reapi::ActionResult) -> String {
    let file = result.output_files.first().map(|file| &file.path);
    let path = file.or_else(|| result.output_directories.first().map(|directory| &directory.path));
    path.map(|path| path.chars().take(512).collect()).unwrap_or_default()
}
