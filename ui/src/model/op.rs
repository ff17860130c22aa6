//! One operation, as the dashboard keeps it: smaller than on the wire, and harmless.

use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::control::{self, miss, operation};
use farmhand_proto::time::std_duration;

use super::time::Stamp;
use crate::glyphs::Glyphs;
use crate::sanitize;
use crate::theme::Role;

/// Losses that are kept.
const LOSSES: usize = 8;

/// An operation within this dashboard. Later ones are greater; none is used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct OpKey(pub(crate) u64);

/// Where an operation is, or how it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Status {
    /// Runs.
    Running,
    /// Waits.
    Queued,
    /// Exit code other than 0.
    Failed,
    /// Could not be run, or was cancelled.
    Error,
    /// Ran and ended well.
    Ok,
    /// Out of the action cache.
    Hit,
    /// A client put its result into the action cache.
    Upload,
}

/// What a running operation is at, as far as was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Inputs are fetched and staged.
    Staging,
    /// The command runs.
    Running,
    /// Outputs are collected.
    Collecting,
}

/// One run of an action, or one answer from the cache.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Op {
    /// Its name, for the node.
    pub(crate) name: Arc<str>,
    /// Digest of the action, as the node writes it.
    pub(crate) digest: Arc<str>,
    /// Instance the client named.
    pub(crate) instance: Arc<str>,
    /// Where it is.
    pub(crate) status: Status,
    /// Whether a person had it run again.
    pub(crate) is_rerun: bool,
    /// gRPC status code of the run.
    pub(crate) status_code: i32,
    /// What was remarkable.
    pub(crate) message: Arc<str>,
    /// Exit code.
    pub(crate) exit_code: i32,
    /// Machine that ran or runs it.
    pub(crate) machine: Arc<str>,
    /// When it came in.
    pub(crate) queued: Option<Stamp>,
    /// When a machine took it.
    pub(crate) started: Option<Stamp>,
    /// When its command began.
    pub(crate) command_started: Option<Stamp>,
    /// When its command ended.
    pub(crate) command_ended: Option<Stamp>,
    /// When it was over.
    pub(crate) finished: Option<Stamp>,
    /// Its target.
    pub(crate) target: Arc<str>,
    /// Its kind.
    pub(crate) mnemonic: Arc<str>,
    /// Its build.
    pub(crate) invocation: Arc<str>,
    /// The tool that sent it.
    pub(crate) tool: Arc<str>,
    /// Path of its first output.
    pub(crate) first_output: Arc<str>,
    /// How often it was given to a machine.
    pub(crate) attempts: u32,
    /// How long its command will likely run.
    pub(crate) expected: Option<Duration>,
    /// Why the cache had nothing.
    pub(crate) miss: miss::Kind,
    /// CPU time of its command.
    pub(crate) cpu_time: Option<Duration>,
    /// Bytes of its largest resident set; 0 when unknown.
    pub(crate) peak_memory: u64,
    /// Lower is sooner.
    pub(crate) priority: i32,
    /// Operations that share its run.
    pub(crate) callers: u32,
    /// Platform properties it needs.
    pub(crate) needs: Arc<[Arc<str>]>,
    /// Position in the history; 0 for what is not over.
    pub(crate) sequence: u64,
    /// Whether its result is pinned.
    pub(crate) pinned: bool,
    /// Machines that had it and were lost, and what happened, the first one first.
    pub(crate) losses: Box<[(Arc<str>, Arc<str>)]>,
}

// === impl Status ===

impl Status {
    /// Whether it is over.
    pub(crate) fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// Its sign.
    pub(crate) fn glyph(self, glyphs: &Glyphs) -> &'static str {
        match self {
            Self::Queued => glyphs.queued,
            Self::Running => glyphs.running,
            Self::Failed => glyphs.failed,
            Self::Error => glyphs.error,
            Self::Ok => glyphs.ok,
            Self::Hit => glyphs.hit,
            Self::Upload => glyphs.upload,
        }
    }

    /// Its look.
    pub(crate) fn role(self) -> Role {
        match self {
            Self::Queued => Role::Queued,
            Self::Running => Role::Running,
            Self::Failed | Self::Error => Role::Bad,
            Self::Ok => Role::Good,
            Self::Hit | Self::Upload => Role::Hit,
        }
    }

    /// In a word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Failed => "failed",
            Self::Error => "error",
            Self::Ok => "ok",
            Self::Hit => "hit",
            Self::Upload => "upload",
        }
    }

    fn of(wire: &control::Operation) -> Self {
        match wire.stage() {
            operation::Stage::Running => return Self::Running,
            operation::Stage::Queued | operation::Stage::Unspecified => return Self::Queued,
            operation::Stage::Done => {}
        }
        match wire.kind() {
            _ if wire.status_code != 0 => Self::Error,
            operation::Kind::Upload => Self::Upload,
            operation::Kind::Lookup => Self::Hit,
            _ if wire.cached => Self::Hit,
            _ if wire.exit_code != 0 => Self::Failed,
            _ => Self::Ok,
        }
    }
}

// === impl Phase ===

impl Phase {
    /// In a word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Staging => "stage",
            Self::Running => "run",
            Self::Collecting => "collect",
        }
    }

    /// In a few words.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Staging => "inputs are staged",
            Self::Running => "command runs",
            Self::Collecting => "outputs are collected",
        }
    }
}

// === impl Op ===

impl Op {
    /// That of the wire. `share` gives texts that many operations have in common one place.
    pub(crate) fn of(wire: &control::Operation, share: &mut impl FnMut(&str) -> Arc<str>) -> Self {
        let length = |wire: Option<&farmhand_proto::protobuf::Duration>| wire.and_then(std_duration);
        Self {
            name: sanitize::shared(&wire.name),
            digest: sanitize::shared(&wire.action_digest),
            instance: share(&wire.instance_name),
            status: Status::of(wire),
            is_rerun: wire.kind() == operation::Kind::Rerun,
            status_code: wire.status_code,
            message: share(&wire.message),
            exit_code: wire.exit_code,
            machine: share(&wire.machine),
            queued: Stamp::of(wire.queued.as_ref()),
            started: Stamp::of(wire.started.as_ref()),
            command_started: Stamp::of(wire.command_started.as_ref()),
            command_ended: Stamp::of(wire.command_ended.as_ref()),
            finished: Stamp::of(wire.finished.as_ref()),
            target: sanitize::shared(&wire.target),
            mnemonic: share(&wire.mnemonic),
            invocation: share(&wire.invocation),
            tool: share(&wire.tool),
            first_output: sanitize::shared(&wire.first_output),
            attempts: wire.attempts,
            expected: length(wire.expected.as_ref()),
            miss: wire.miss(),
            cpu_time: length(wire.cpu_time.as_ref()),
            peak_memory: wire.peak_memory,
            priority: wire.priority,
            callers: wire.callers,
            needs: wire.needs.iter().map(|need| share(need)).collect(),
            sequence: wire.sequence,
            pinned: wire.pinned,
            losses: losses(wire, share),
        }
    }

    /// What a person calls it: its target, else its first output, else its digest.
    pub(crate) fn label(&self) -> &str {
        [&self.target, &self.first_output, &self.digest]
            .into_iter()
            .find(|text| !text.is_empty())
            .map_or("?", |text| text)
    }

    /// What it is at, of one that runs.
    pub(crate) fn phase(&self) -> Option<Phase> {
        match (self.status, self.command_started, self.command_ended) {
            (Status::Running, _, Some(_)) => Some(Phase::Collecting),
            (Status::Running, Some(_), None) => Some(Phase::Running),
            (Status::Running, None, None) => Some(Phase::Staging),
            _ => None,
        }
    }

    /// When the time that counts for a person began: when it came in while it waits, when a machine
    /// took it after that.
    pub(crate) fn since(&self) -> Option<Stamp> {
        match self.status {
            Status::Queued => self.queued,
            _ => self.started.or(self.queued),
        }
    }

    /// Time it took, or has taken so far.
    pub(crate) fn elapsed(&self, now: Option<Stamp>) -> Option<Duration> {
        let end = if self.status.is_over() { self.finished } else { now };
        Some(end?.since(self.since()?))
    }

    /// Time it waited for a machine, or has waited so far.
    pub(crate) fn waited(&self, now: Option<Stamp>) -> Option<Duration> {
        let end = match self.status {
            Status::Queued => now,
            _ => self.started.or(self.finished),
        };
        Some(end?.since(self.queued?))
    }
}

/// Attempts that came to nothing; the node gives up after a few.
fn losses(
    wire: &control::Operation,
    share: &mut impl FnMut(&str) -> Arc<str>,
) -> Box<[(Arc<str>, Arc<str>)]> {
    wire.losses.iter().take(LOSSES).map(|loss| (share(&loss.machine), share(&loss.reason))).collect()
}
