//! The `ExecuteResponse` of a command that ran.

use farmhand_proto::any::{self, Named};
use farmhand_proto::time::std_duration;
use farmhand_proto::{protobuf, reapi, rpc};

use super::failure::{Code, status};
use crate::worker::outputs::Collected;
use crate::worker::{Exit, Outcome};

/// The text that clients know a timeout by.
const TIMED_OUT: &str = "execution timeout exceeded";

/// Exit code of a command that signal 9 ended.
const KILLED: i32 = 128 + 9;

/// What an action used: `farmhand.v1.ResourceUsage`, in `ExecutedActionMetadata.auxiliary_metadata`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct ResourceUsage {
    /// CPU time in user mode.
    #[prost(message, optional, tag = "1")]
    pub user_time: Option<protobuf::Duration>,
    /// CPU time in the kernel.
    #[prost(message, optional, tag = "2")]
    pub system_time: Option<protobuf::Duration>,
    /// Largest resident set, in bytes.
    #[prost(uint64, tag = "3")]
    pub max_resident_bytes: u64,
}

impl Named for ResourceUsage {
    const NAME: &'static str = "farmhand.v1.ResourceUsage";
}

impl ResourceUsage {
    /// What the run used that made `result`, where its metadata tell.
    pub fn of(result: &reapi::ActionResult) -> Option<Self> {
        result.execution_metadata.as_ref()?.auxiliary_metadata.iter().find_map(any::unpack)
    }

    /// CPU time in all.
    pub fn cpu_time(&self) -> Option<std::time::Duration> {
        let (user, system) = (self.user_time.as_ref()?, self.system_time.as_ref()?);
        std_duration(user)?.checked_add(std_duration(system)?)
    }
}

/// Puts together how the command ended and what it left.
pub(super) fn of_run(exit: &Exit, collected: Collected) -> reapi::ExecuteResponse {
    let Collected { mut result, refused, mut notes, .. } = collected;
    let mut ended = rpc::Status::default();
    match exit.outcome {
        Outcome::Exited(code) => result.exit_code = code,
        Outcome::Signaled(signal) => {
            result.exit_code = 128 + signal;
            notes.insert(0, format!("the command was killed by {}", signal_name(signal)));
        }
        Outcome::TimedOut => {
            result.exit_code = KILLED;
            ended = status(Code::DeadlineExceeded, TIMED_OUT);
            notes.insert(0, format!("the command was killed after {:.1} s", exit.wall.as_secs_f64()));
        }
        Outcome::Cancelled => {
            result.exit_code = KILLED;
            ended = status(Code::Cancelled, "the action was cancelled while it ran");
        }
    }
    if let Some(limit) = exit.memory_exceeded {
        notes.push(format!(
            "the kernel killed processes for want of memory: all actions of this machine together may have \
             {} MiB (action-memory)",
            limit >> 20
        ));
    }
    match refused {
        Some(text) if ended.code == 0 && result.exit_code == 0 => {
            ended = status(Code::FailedPrecondition, text);
        }
        text => notes.extend(text),
    }
    let usage = ResourceUsage {
        user_time: Some(duration(exit.usage.user)),
        system_time: Some(duration(exit.usage.system)),
        max_resident_bytes: exit.usage.max_rss,
    };
    result.execution_metadata = Some(reapi::ExecutedActionMetadata {
        virtual_execution_duration: Some(duration(exit.wall)),
        auxiliary_metadata: vec![any::pack(&usage)],
        ..Default::default()
    });
    reapi::ExecuteResponse {
        result: Some(result),
        status: Some(ended),
        message: notes.join("\n"),
        ..Default::default()
    }
}

fn duration(duration: std::time::Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return format!("signal {signal}"),
    };
    format!("signal {signal} ({name})")
}
