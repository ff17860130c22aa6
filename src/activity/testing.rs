//! What the tests of this module share.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use farmhand_proto::{reapi, rpc};
use tokio::time::Instant;

use super::entry::{Entry, Kind, Remarks};
use crate::action_cache::ActionKey;
use crate::digest::{Digest, DigestFunction};
use crate::execution::inline::InlineHints;
use crate::execution::operations::Timeline;
use crate::execution::queue::{Now, RunId};
use crate::execution::{self, Call, Operation, OperationId, OperationState, Stage};
use crate::instance::InstanceName;
use crate::request_metadata::RequestMetadata;

/// An entry of which nothing is known.
pub(super) fn entry() -> Entry {
    Entry {
        id: OperationId::from_number(1),
        kind: Kind::Execute,
        action: digest("a"),
        instance: InstanceName::default(),
        caller: Arc::default(),
        target: Box::default(),
        mnemonic: "".into(),
        first_output: Box::default(),
        needs: Default::default(),
        priority: 0,
        expected: None,
        stage: Stage::Queued,
        run: None,
        callers: 1,
        timeline: Timeline::default(),
        message: Box::default(),
        end: None,
        sequence: 0,
        remarks: Remarks::default(),
    }
}

pub(super) fn digest(text: &str) -> Digest {
    Digest::of(DigestFunction::Sha256, text.as_bytes())
}

pub(super) fn key(text: &str) -> ActionKey {
    ActionKey { instance: InstanceName::default(), action: digest(text) }
}

/// What a build tells of an action.
pub(super) fn metadata(build: &str, target: &str, mnemonic: &str) -> RequestMetadata {
    RequestMetadata {
        tool_name: "tool".into(),
        tool_version: "1".into(),
        tool_invocation_id: build.into(),
        target_id: target.into(),
        action_mnemonic: mnemonic.into(),
        ..Default::default()
    }
}

/// An operation of a build that waits.
pub(super) fn operation(metadata: RequestMetadata) -> Operation {
    let state = OperationState::queued(at(1));
    let (instance, hints) = (InstanceName::default(), InlineHints::default());
    let (kind, action) = (execution::Kind::Execute, digest(&metadata.target_id));
    let call = Call { kind, instance, action, invocation: Arc::new(metadata), priority: 0, hints };
    Operation::new(call, None, state)
}

pub(super) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// The time `seconds` after 1970, on a clock that began then.
pub(super) fn now(start: Instant, seconds: u64) -> Now {
    Now { instant: start + Duration::from_secs(seconds), wall: at(seconds) }
}

/// A state on the way.
pub(super) fn state(stage: Stage, run: u64) -> OperationState {
    let timeline = Timeline {
        queued_at: Some(at(1)),
        assigned_at: (stage == Stage::Executing).then(|| at(2)),
        worker: (stage == Stage::Executing).then(|| "m".into()),
        attempts: u32::from(stage == Stage::Executing),
        ..Timeline::default()
    };
    OperationState { stage, run: Some(RunId(run)), timeline, response: None }
}

/// The last state of what ran for `seconds`.
pub(super) fn done(run: u64, seconds: u64, response: reapi::ExecuteResponse) -> OperationState {
    let timeline = Timeline {
        running_at: Some(at(3)),
        collecting_at: Some(at(3 + seconds)),
        ended_at: Some(at(4 + seconds)),
        ..state(Stage::Executing, run).timeline
    };
    OperationState {
        stage: Stage::Completed,
        run: Some(RunId(run)),
        timeline,
        response: Some(Arc::new(response)),
    }
}

pub(super) fn exit(code: i32) -> reapi::ExecuteResponse {
    let result = reapi::ActionResult { exit_code: code, ..Default::default() };
    reapi::ExecuteResponse { result: Some(result), ..Default::default() }
}

pub(super) fn error(code: tonic::Code) -> reapi::ExecuteResponse {
    let status = rpc::Status { code: code as i32, message: "why".into(), ..Default::default() };
    reapi::ExecuteResponse { status: Some(status), ..Default::default() }
}
