//! [`Entry`]: what is kept of one operation, and how that looks to a person.
//!
//! Thousands of these are in memory, so what they share is kept once: the caller with all operations of
//! its build, the mnemonic and the platform properties with all of their kind.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use farmhand_proto::control::{self, miss};
use farmhand_proto::reapi::{ActionResult, ExecuteResponse};
use farmhand_proto::time::{duration, std_duration, timestamp};

use crate::digest::Digest;
use crate::execution;
use crate::execution::operations::{Outcome, Timeline};
use crate::execution::queue::RunId;
use crate::execution::{OperationId, Stage};
use crate::instance::InstanceName;
use crate::worker::local::ResourceUsage;

/// Bytes kept of a text that a worker or a client made.
const MAX_TEXT: usize = 1024;

/// One operation.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) id: OperationId,
    pub(super) kind: Kind,
    pub(super) action: Digest,
    pub(super) instance: InstanceName,
    pub(super) caller: Arc<Caller>,
    pub(super) target: Box<str>,
    pub(super) mnemonic: Arc<str>,
    pub(super) first_output: Box<str>,
    pub(super) needs: Needs,
    pub(super) priority: i32,
    pub(super) expected: Option<Duration>,
    pub(super) stage: Stage,
    pub(super) run: Option<RunId>,
    pub(super) callers: u32,
    pub(super) timeline: Timeline,
    /// The caller's note, and how it ended.
    pub(super) message: Box<str>,
    pub(super) end: Option<End>,
    /// Position among the finished ones.
    pub(super) sequence: u64,
    pub(super) remarks: Remarks,
}

/// What a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Execute.
    Execute,
    /// GetActionResult that found a result.
    Lookup,
    /// UpdateActionResult.
    Upload,
    /// A person has it run again.
    Rerun,
}

/// Who calls: shared by all operations of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Caller {
    /// Name of the build.
    pub(super) build: Box<str>,
    /// The tool with its version.
    pub(super) tool: Box<str>,
}

/// Platform properties: `name=value`.
pub(super) type Needs = Arc<[String]>;

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    pub(super) outcome: Outcome,
    pub(super) cached: bool,
    pub(super) cpu_time: Option<Duration>,
    pub(super) peak_memory: u64,
}

/// What is known of an operation besides its course; others find it out, and put it here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remarks {
    /// Why the action cache had no result for it.
    pub miss: miss::Kind,
}

// === impl Entry ===

impl Entry {
    /// As the control API shows it.
    pub(super) fn to_wire(&self) -> control::Operation {
        let (status_code, exit_code) = match self.end.map(|end| end.outcome) {
            None | Some(Outcome::Succeeded) => (0, 0),
            Some(Outcome::Failed(code)) => (0, code),
            Some(Outcome::Error(code)) => (code, 0),
        };
        let at = |time: Option<SystemTime>| time.map(timestamp);
        let Timeline {
            queued_at,
            worker,
            assigned_at,
            running_at,
            collecting_at,
            ended_at,
            attempts,
            losses,
            ..
        } = &self.timeline;
        control::Operation {
            name: self.id.to_string(),
            action_digest: self.action.to_string(),
            instance_name: self.instance.to_string(),
            stage: stage(self.stage).into(),
            cached: self.end.is_some_and(|end| end.cached),
            status_code,
            message: self.message.to_string(),
            exit_code,
            machine: worker.as_deref().unwrap_or_default().to_owned(),
            queued: at(*queued_at),
            started: at(*assigned_at),
            finished: at(*ended_at),
            target: self.target.to_string(),
            mnemonic: self.mnemonic.to_string(),
            invocation: self.caller.build.to_string(),
            tool: self.caller.tool.to_string(),
            result: None,
            kind: self.kind.to_wire().into(),
            command_started: at(*running_at),
            command_ended: at(*collecting_at),
            attempts: *attempts,
            first_output: self.first_output.to_string(),
            expected: self.expected.map(duration),
            miss: self.remarks.miss.into(),
            cpu_time: self.end.and_then(|end| end.cpu_time).map(duration),
            peak_memory: self.end.map_or(0, |end| end.peak_memory),
            priority: self.priority,
            callers: self.callers,
            needs: self.needs.to_vec(),
            sequence: self.sequence,
            // Known where pins are.
            pinned: false,
            losses: losses.iter().map(Into::into).collect(),
        }
    }

    /// Adds what is to be read of how it ended.
    pub(super) fn add_message(&mut self, response: &ExecuteResponse) {
        let status = response.status.as_ref().map(|status| status.message.as_str()).unwrap_or_default();
        // Responses that never ran say the same in both places.
        let more = if response.message == status { "" } else { response.message.as_str() };
        if status.is_empty() && more.is_empty() {
            return;
        }
        let parts = [&self.message, status, more].into_iter().filter(|part| !part.is_empty());
        let text = parts.collect::<Vec<_>>().join("\n");
        self.message = shortened(&text).into();
    }
}

impl From<execution::Kind> for Kind {
    fn from(kind: execution::Kind) -> Self {
        match kind {
            execution::Kind::Execute => Self::Execute,
            execution::Kind::Rerun => Self::Rerun,
        }
    }
}

impl Kind {
    fn to_wire(self) -> control::operation::Kind {
        match self {
            Self::Execute => control::operation::Kind::Execute,
            Self::Lookup => control::operation::Kind::Lookup,
            Self::Upload => control::operation::Kind::Upload,
            Self::Rerun => control::operation::Kind::Rerun,
        }
    }
}

impl End {
    /// How `response` ended. What a result out of the cache had used then is not told as of now.
    pub(super) fn of(response: &ExecuteResponse) -> Self {
        let (outcome, cached) = (Outcome::of(response), response.cached_result);
        let usage = response.result.as_ref().filter(|_| !cached).and_then(ResourceUsage::of);
        Self {
            outcome,
            cached,
            cpu_time: usage.as_ref().and_then(ResourceUsage::cpu_time),
            peak_memory: usage.map_or(0, |usage| usage.max_resident_bytes),
        }
    }

    /// Taken as it was, without a run: a result that was found, or told by a client.
    pub(super) fn result(result: &ActionResult, cached: bool) -> Self {
        let outcome = match result.exit_code {
            0 => Outcome::Succeeded,
            code => Outcome::Failed(code),
        };
        Self { outcome, cached, cpu_time: None, peak_memory: 0 }
    }
}

fn stage(stage: Stage) -> control::operation::Stage {
    match stage {
        Stage::Queued => control::operation::Stage::Queued,
        Stage::Executing => control::operation::Stage::Running,
        Stage::Completed => control::operation::Stage::Done,
    }
}

// === Results ===

/// How long the command of a result ran when it was run, as far as the result tells.
pub(super) fn command_time(result: &ActionResult) -> Option<Duration> {
    let metadata = result.execution_metadata.as_ref()?;
    if let Some(time) = &metadata.virtual_execution_duration {
        return std_duration(time);
    }
    let (start, end) = (metadata.execution_start_timestamp?, metadata.execution_completed_timestamp?);
    let nanos = i128::from(end.seconds - start.seconds) * 1_000_000_000 + i128::from(end.nanos - start.nanos);
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

/// The path of the first output of a result.
pub(super) fn first_output(result: &ActionResult) -> &str {
    let file = result.output_files.first().map(|file| &file.path);
    let directory = || result.output_directories.first().map(|directory| &directory.path);
    let link = || result.output_symlinks.first().map(|link| &link.path);
    file.or_else(directory).or_else(link).map_or("", |path| shortened(path))
}

/// The first [`MAX_TEXT`] bytes of `text`, or a little less.
pub(super) fn shortened(text: &str) -> &str {
    let end = (0..=MAX_TEXT.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use farmhand_proto::{any, protobuf, reapi, rpc};

    use super::*;

    fn result(metadata: reapi::ExecutedActionMetadata) -> ActionResult {
        ActionResult { execution_metadata: Some(metadata), ..Default::default() }
    }

    fn at(seconds: i64, nanos: i32) -> Option<protobuf::Timestamp> {
        Some(protobuf::Timestamp { seconds, nanos })
    }

    #[test]
    fn the_time_of_a_command_is_that_of_its_own_clock_first() {
        let times = reapi::ExecutedActionMetadata {
            execution_start_timestamp: at(10, 900_000_000),
            execution_completed_timestamp: at(12, 100_000_000),
            ..Default::default()
        };
        assert_eq!(command_time(&result(times.clone())), Some(Duration::from_millis(1200)));
        let both = reapi::ExecutedActionMetadata {
            virtual_execution_duration: Some(duration(Duration::from_secs(1))),
            ..times.clone()
        };
        assert_eq!(command_time(&result(both)), Some(Duration::from_secs(1)));
        let backwards =
            reapi::ExecutedActionMetadata { execution_completed_timestamp: at(i64::MIN / 2, 0), ..times };
        assert_eq!(command_time(&result(backwards)), None);
        assert_eq!(command_time(&ActionResult::default()), None);
    }

    #[test]
    fn what_a_run_used_is_told_and_that_of_an_earlier_run_is_not() {
        let usage = ResourceUsage {
            user_time: Some(duration(Duration::from_millis(30))),
            system_time: Some(duration(Duration::from_millis(12))),
            max_resident_bytes: 5 << 20,
        };
        let metadata = reapi::ExecutedActionMetadata {
            auxiliary_metadata: vec![any::pack(&usage)],
            ..Default::default()
        };
        let run = ExecuteResponse { result: Some(result(metadata)), ..Default::default() };
        let end = End::of(&run);
        assert_eq!((end.cpu_time, end.peak_memory), (Some(Duration::from_millis(42)), 5 << 20));
        let hit = End::of(&ExecuteResponse { cached_result: true, ..run });
        assert_eq!((hit.cpu_time, hit.peak_memory, hit.cached), (None, 0, true));
    }

    #[test]
    fn messages_are_joined_once_and_bounded() {
        let status = |text: &str| Some(rpc::Status { message: text.into(), ..Default::default() });
        let mut entry = super::super::testing::entry();
        entry.message = "note".into();
        let response =
            ExecuteResponse { status: status("same"), message: "same".into(), ..Default::default() };
        entry.add_message(&response);
        assert_eq!(&*entry.message, "note\nsame");
        let long = ExecuteResponse { message: "\u{e9}".repeat(4000), ..Default::default() };
        entry.add_message(&long);
        assert!(entry.message.len() <= MAX_TEXT && entry.message.starts_with("note\nsame\n\u{e9}"));
    }

    #[test]
    fn the_first_output_is_a_file_before_anything_else() {
        let directory = reapi::OutputDirectory { path: "d".into(), ..Default::default() };
        let mut result = ActionResult { output_directories: vec![directory], ..Default::default() };
        assert_eq!(first_output(&result), "d");
        result.output_files.push(reapi::OutputFile { path: "f".into(), ..Default::default() });
        assert_eq!(first_output(&result), "f");
        assert_eq!(first_output(&ActionResult::default()), "");
    }
}
