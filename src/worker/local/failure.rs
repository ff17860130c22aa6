//! [`Failure`]: why an action gave no result, and what the client is told.

use std::io;

use farmhand_proto::{reapi, rpc};

use crate::cas::CasError;
use crate::digest::Digest;
use crate::worker::RunError;
use crate::worker::inputs::InputError;
use crate::worker::missing::missing_blobs;
use crate::worker::outputs::{OutputError, RequestError};
use crate::worker::shortage::shortage;

/// Numbers of `google.rpc.Code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Cancelled = 1,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
}

/// An action that was not run to its end.
#[derive(Debug)]
pub(super) enum Failure {
    /// Input blobs are missing: the client uploads them and tries again.
    Missing(Vec<Digest>),
    /// The action itself is at fault.
    Refused { code: Code, text: String, exit_code: i32 },
    /// The lease was cancelled before the command began.
    Cancelled,
    /// This machine lacks something.
    Shortage(String),
    /// This machine is at fault.
    Lost(String),
}

impl Failure {
    pub(super) fn invalid(text: impl Into<String>) -> Self {
        Self::Refused { code: Code::InvalidArgument, text: text.into(), exit_code: 0 }
    }

    fn precondition(text: impl Into<String>) -> Self {
        Self::Refused { code: Code::FailedPrecondition, text: text.into(), exit_code: 0 }
    }

    /// A command that could not be started. The exit codes are those of a shell.
    pub(super) fn from_run(error: RunError) -> Self {
        let text = error.to_string();
        match error {
            RunError::Program { source, .. } => {
                let not_found = source.kind() == std::io::ErrorKind::NotFound;
                let exit_code = if not_found { 127 } else { 126 };
                Self::Refused { code: Code::InvalidArgument, text, exit_code }
            }
            RunError::WorkingDirectory { .. } => Self::invalid(text),
            RunError::Image { .. } => Self::precondition(text),
            RunError::Setup { .. } | RunError::SpawnerLost | RunError::MemoryFull => Self::Lost(text),
        }
    }

    /// This machine is at fault. If it lacks something, trying again at once would not help: the client
    /// is told.
    fn of_the_machine(error: &(dyn std::error::Error + 'static)) -> Self {
        let Some(remedy) = remedy(error) else { return Self::Lost(error.to_string()) };
        Self::Shortage(format!("{error}; {remedy}"))
    }

    /// The answer to the client, or why this worker has none.
    pub(super) fn into_response(self) -> Result<reapi::ExecuteResponse, String> {
        let (status, exit_code) = match self {
            Self::Missing(digests) => (missing_blobs(&digests), 0),
            Self::Refused { code, text, exit_code } => (status(code, text), exit_code),
            Self::Shortage(reason) => (shortage(&reason), 0),
            Self::Cancelled => (status(Code::Cancelled, "the action was cancelled before it ran"), 0),
            Self::Lost(reason) => return Err(reason),
        };
        let result = Some(reapi::ActionResult { exit_code, ..Default::default() });
        Ok(reapi::ExecuteResponse { result, status: Some(status), ..Default::default() })
    }
}

pub(super) fn status(code: Code, message: impl Into<String>) -> rpc::Status {
    rpc::Status { code: code as i32, message: message.into(), details: Vec::new() }
}

/// What helps, if an error comes of something that ran out.
fn remedy(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    const ROOM: &str = "free some room on the disk of data-dir";
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match (error.kind(), error.raw_os_error()) {
                (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => Some(ROOM),
                (_, Some(libc::EMFILE | libc::ENFILE)) => Some("raise the limit of open files"),
                _ => None,
            };
        }
        if matches!(
            (error.downcast_ref(), error.downcast_ref()),
            (Some(InputError::Cas(CasError::NoSpace { .. })), _)
                | (_, Some(OutputError::Cas(CasError::NoSpace { .. })))
        ) {
            return Some(ROOM);
        }
        cause = error.source();
    }
    None
}

impl From<RequestError> for Failure {
    fn from(error: RequestError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl From<InputError> for Failure {
    fn from(error: InputError) -> Self {
        match error {
            InputError::Missing(digests) => Self::Missing(digests),
            InputError::Malformed { .. }
            | InputError::TooManyEntries { .. }
            | InputError::DirectoryTooLarge { .. }
            | InputError::Unstageable { .. } => Self::invalid(error.to_string()),
            InputError::Cas(_) | InputError::Io { .. } => Self::of_the_machine(&error),
        }
    }
}

impl From<OutputError> for Failure {
    fn from(error: OutputError) -> Self {
        match error {
            OutputError::Missing(digests) => Self::Missing(digests),
            OutputError::Malformed { .. } => Self::invalid(error.to_string()),
            _ if error.is_of_the_action() => Self::precondition(error.to_string()),
            _ => Self::of_the_machine(&error),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match Self::of_the_machine(&error) {
            Self::Lost(reason) => Self::Lost(format!("the scratch directory failed: {reason}")),
            full => full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_store_is_told_and_not_tried_again() {
        let full = || CasError::NoSpace { wanted: 1, reason: "all is leased".into() };
        for failure in [Failure::from(InputError::Cas(full())), OutputError::Cas(full()).into()] {
            let status = failure.into_response().unwrap().status.unwrap();
            assert_eq!(status.code, Code::ResourceExhausted as i32);
            assert!(status.message.contains("all is leased"), "{}", status.message);
        }
    }

    #[test]
    fn a_broken_store_is_the_fault_of_the_machine() {
        let broken = CasError::io("/x", std::io::Error::other("broken"));
        assert!(Failure::from(OutputError::Cas(broken)).into_response().is_err());
    }
}
