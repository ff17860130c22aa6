//! What failures look like on the wire: the only mapping of domain errors to statuses.
//!
//! Codes are chosen by what clients do with them. `INVALID_ARGUMENT`, `NOT_FOUND` and
//! `PERMISSION_DENIED` end a request for good; `RESOURCE_EXHAUSTED`, `UNAVAILABLE`, `ABORTED` and
//! `INTERNAL` are tried again by nearly everybody, so they say how long to wait (`RetryInfo`).

use std::fmt::Display;

use farmhand_proto::{any, protobuf, raw, rpc};
use prost::Message;
use tonic::{Code, Status};

use super::action_cache::UpdateError;
use super::byte_stream::{ReadError, WriteError};
use super::cas::{BatchError, ChunkError, TreeError};
use super::instances::InstanceError;
use super::log_stream::LogError;
use super::resource_name::ResourceNameError;
use crate::action_cache::{ActionCacheError, PinError};
use crate::activity::Full;
use crate::asset::qualifiers::QualifierError;
use crate::asset::{AssetError, OriginError};
use crate::cas::CasError;
use crate::cas::compression::CompressionError;
use crate::digest::DigestError;
use crate::execution::rerun::RerunError;
use crate::execution::{ExecuteError, KillError, MachineError, Refusal};
use crate::history::HistoryError;
use crate::instance::InstanceNameError;
use crate::peer::KeyRefused;
use crate::peer::trust::TrustError;
use crate::peer::trust::join::{CodeError, InviteError, JoinError, NotWaiting};
use crate::peer::trust::rotation::RotateError;
use crate::replication::messages::MessageError;
use crate::worker::SlotsError;

/// Seconds a client should wait before it tries again.
const RETRY_SECONDS: i64 = 2;

/// An error that has a place in `google.rpc.Code`. Its text becomes the message.
pub trait StatusOf: Display {
    /// The canonical code.
    fn code(&self) -> Code;

    /// Typed details, for errors a client acts on. By default: when to try again, for the codes that
    /// are tried again.
    fn details(&self) -> Vec<protobuf::Any> {
        retry_details(self.code())
    }
}

/// The status as a message, for answers that carry one for each entry.
pub fn wire<E: StatusOf + ?Sized>(error: &E) -> rpc::Status {
    rpc::Status { code: error.code() as i32, message: error.to_string(), details: error.details() }
}

/// The status of a whole call. Details travel as an encoded `google.rpc.Status`.
pub fn status<E: StatusOf + ?Sized>(error: &E) -> Status {
    let wire = wire(error);
    if wire.details.is_empty() {
        return Status::new(error.code(), wire.message);
    }
    let details = wire.encode_to_vec().into();
    Status::with_details(error.code(), wire.message, details)
}

fn retry_details(code: Code) -> Vec<protobuf::Any> {
    if !matches!(code, Code::ResourceExhausted | Code::Unavailable | Code::Internal | Code::Aborted) {
        return Vec::new();
    }
    let retry_delay = Some(protobuf::Duration { seconds: RETRY_SECONDS, nanos: 0 });
    vec![any::pack(&raw::RetryInfo { retry_delay })]
}

impl StatusOf for HistoryError {
    /// It is opened again, or begins anew, within seconds.
    fn code(&self) -> Code {
        Code::Unavailable
    }
}

impl StatusOf for KeyRefused {
    fn code(&self) -> Code {
        match self {
            Self::Malformed => Code::InvalidArgument,
            Self::NotKept(_) => Code::Unavailable,
        }
    }
}

impl StatusOf for CasError {
    fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::NotFound,
            Self::Mismatch { .. } | Self::TooLong(_) | Self::TooLarge { .. } => Code::InvalidArgument,
            Self::OutOfRange { .. } => Code::OutOfRange,
            Self::NoSpace { .. } => Code::ResourceExhausted,
            Self::TooFewCopies { .. } => Code::Unavailable,
            Self::Io { source, .. } if is_shortage(source) => Code::Unavailable,
            Self::Io { .. } => Code::Internal,
        }
    }
}

/// Whether the process lacks something that it may have again in a moment: descriptors or memory.
fn is_shortage(error: &std::io::Error) -> bool {
    let shortages = [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::EAGAIN];
    error.raw_os_error().is_some_and(|code| shortages.contains(&code))
}

impl StatusOf for ActionCacheError {
    fn code(&self) -> Code {
        match self {
            Self::Incomplete(_) => Code::FailedPrecondition,
            Self::Malformed(_) => Code::InvalidArgument,
            Self::Cas(error) => error.code(),
        }
    }
}

impl StatusOf for PinError {
    fn code(&self) -> Code {
        match self {
            Self::NoResult => Code::NotFound,
            Self::NoRoom(_) => Code::ResourceExhausted,
            Self::Cache(error) => error.code(),
        }
    }
}

impl StatusOf for DigestError {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

impl StatusOf for InstanceNameError {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

impl StatusOf for InstanceError {
    fn code(&self) -> Code {
        match self {
            Self::Name(error) => error.code(),
            Self::Unknown(_) => Code::NotFound,
        }
    }
}

impl StatusOf for ResourceNameError {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

impl StatusOf for CompressionError {
    fn code(&self) -> Code {
        match self {
            Self::Unsupported(_) | Self::Corrupt(_) | Self::Truncated | Self::TooLong { .. } => {
                Code::InvalidArgument
            }
            Self::Engine(_) => Code::Internal,
        }
    }
}

impl StatusOf for ReadError {
    fn code(&self) -> Code {
        match self {
            Self::Offset { .. } => Code::OutOfRange,
            Self::Limit(_) | Self::LimitOfCompressed(_) => Code::InvalidArgument,
        }
    }
}

impl StatusOf for WriteError {
    fn code(&self) -> Code {
        match self {
            Self::NoMessage | Self::Renamed { .. } | Self::Offset { .. } | Self::AfterFinish => {
                Code::InvalidArgument
            }
            Self::StillOpen => Code::Aborted,
            Self::Idle => Code::DeadlineExceeded,
        }
    }
}

impl StatusOf for LogError {
    fn code(&self) -> Code {
        match self {
            Self::NotFound(_) => Code::NotFound,
            Self::ForWriting | Self::ForReading | Self::Limit(_) | Self::Gap { .. } => Code::InvalidArgument,
            Self::Offset(_) => Code::OutOfRange,
            Self::Finished => Code::FailedPrecondition,
            Self::TooLong | Self::TooMany => Code::ResourceExhausted,
            Self::Io(_) => Code::Internal,
        }
    }
}

impl StatusOf for MessageError {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

impl StatusOf for BatchError {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

impl StatusOf for ChunkError {
    fn code(&self) -> Code {
        match self {
            Self::TooMany(_) => Code::FailedPrecondition,
            Self::NoFunction | Self::NoMessage | Self::Empty => Code::InvalidArgument,
        }
    }
}

impl StatusOf for TreeError {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

impl StatusOf for UpdateError {
    fn code(&self) -> Code {
        match self {
            Self::NotAllowed(_) => Code::PermissionDenied,
            Self::NoResult | Self::RawMismatch(_) | Self::TooLarge(_) => Code::InvalidArgument,
            Self::NotFound => Code::NotFound,
        }
    }
}

impl StatusOf for AssetError {
    fn code(&self) -> Code {
        match self {
            Self::NoUri
            | Self::TooManyUris(_)
            | Self::Uri(_)
            | Self::Qualifier(_)
            | Self::Time(_)
            | Self::Checksum
            | Self::TooManyReferences(_) => Code::InvalidArgument,
            Self::PushOff => Code::PermissionDenied,
            Self::Full => Code::ResourceExhausted,
            Self::Ending => Code::Unavailable,
            // Whoever pushes is to upload first.
            Self::Cache(ActionCacheError::Cas(error)) | Self::Cas(error) if is_absent(error) => {
                Code::FailedPrecondition
            }
            Self::Cache(error) => error.code(),
            Self::Cas(error) => error.code(),
        }
    }

    /// Qualifiers are named in the way that the specification of the API asks for.
    fn details(&self) -> Vec<protobuf::Any> {
        let Self::Qualifier(error) = self else { return retry_details(self.code()) };
        let field = match error {
            QualifierError::Unsupported(_) | QualifierError::Doubled(_) => "qualifiers.name",
            QualifierError::Value { .. } | QualifierError::Checksum(_) => "qualifiers.value",
            _ => "qualifiers",
        };
        let violation = raw::FieldViolation { field: field.to_owned(), description: error.to_string() };
        vec![any::pack(&raw::BadRequest { field_violations: vec![violation] })]
    }
}

fn is_absent(error: &CasError) -> bool {
    matches!(error, CasError::NotFound(_))
}

/// For `status` of an answer: what the protocol has for trouble at the origin.
impl StatusOf for OriginError {
    fn code(&self) -> Code {
        match self {
            Self::Unknown | Self::NotFound(_) | Self::Absent(_) => Code::NotFound,
            Self::Forbidden(_) | Self::Refused(_) | Self::Scheme => Code::PermissionDenied,
            Self::Busy(_) | Self::TooLarge(_) => Code::ResourceExhausted,
            Self::Failing(_) | Self::Broken(_) => Code::Unavailable,
            Self::Slow(_) => Code::DeadlineExceeded,
            Self::Strange(_) | Self::Redirect | Self::Redirects | Self::Checksum(_) | Self::Unusable(_) => {
                Code::Aborted
            }
        }
    }

    /// It is the origin that is to be asked again, or not.
    fn details(&self) -> Vec<protobuf::Any> {
        Vec::new()
    }
}

impl StatusOf for ExecuteError {
    fn code(&self) -> Code {
        match self {
            Self::Invalid(_) => Code::InvalidArgument,
            Self::Refused(Refusal::Full(_)) => Code::ResourceExhausted,
            Self::Refused(Refusal::NoWorker(_)) => Code::FailedPrecondition,
            Self::SwitchedOff(_) => Code::Unimplemented,
            Self::Cas(error) => error.code(),
            Self::ShuttingDown => Code::Unavailable,
        }
    }
}

impl StatusOf for Full {
    fn code(&self) -> Code {
        Code::ResourceExhausted
    }
}

impl StatusOf for KillError {
    fn code(&self) -> Code {
        match self {
            Self::Unknown(_) => Code::NotFound,
            Self::Over(_) => Code::FailedPrecondition,
            Self::ShuttingDown => Code::Unavailable,
        }
    }
}

impl StatusOf for MachineError {
    fn code(&self) -> Code {
        match self {
            Self::Unknown(_) => Code::NotFound,
            Self::Slots(SlotsError::Range { .. }) => Code::InvalidArgument,
            Self::Slots(SlotsError::Run(_)) => Code::Internal,
            Self::Slots(SlotsError::Remote(_)) => Code::FailedPrecondition,
            Self::ShuttingDown => Code::Unavailable,
        }
    }
}

impl StatusOf for RerunError {
    fn code(&self) -> Code {
        match self {
            Self::Missing(_) | Self::UnknownMachine(_) => Code::NotFound,
            Self::Execute(error) => error.code(),
        }
    }
}

impl StatusOf for TrustError {
    fn code(&self) -> Code {
        match self {
            Self::Fixed { .. } => Code::FailedPrecondition,
            Self::Busy => Code::Aborted,
            Self::Former => Code::PermissionDenied,
            Self::Exposed { .. }
            | Self::Foreign { .. }
            | Self::Key { .. }
            | Self::Odd { .. }
            | Self::Machine { .. }
            | Self::Certificate(_)
            | Self::Io { .. } => Code::Internal,
        }
    }
}

impl StatusOf for RotateError {
    fn code(&self) -> Code {
        match self {
            Self::Unknown(_) => Code::NotFound,
            Self::Ambiguous(_) => Code::InvalidArgument,
            Self::Busy => Code::Aborted,
            Self::Trust(error) => error.code(),
            Self::Panicked(_) => Code::Internal,
        }
    }
}

impl StatusOf for CodeError {
    fn code(&self) -> Code {
        Code::InvalidArgument
    }
}

impl StatusOf for InviteError {
    fn code(&self) -> Code {
        match self {
            Self::Open => Code::FailedPrecondition,
            Self::Listen { .. } => Code::Unavailable,
        }
    }
}

impl StatusOf for NotWaiting {
    fn code(&self) -> Code {
        Code::NotFound
    }
}

impl StatusOf for JoinError {
    fn code(&self) -> Code {
        match self {
            Self::Fixed(_) | Self::InFarm(_) | Self::Version => Code::FailedPrecondition,
            Self::Address(..) => Code::InvalidArgument,
            Self::NotFound => Code::NotFound,
            // Another code is what helps, not another address.
            Self::Code | Self::Over | Self::Refused | Self::Impostor => Code::PermissionDenied,
            Self::Unreachable(..) | Self::Taken | Self::Silent | Self::HungUp | Self::Lost => {
                Code::Unavailable
            }
            Self::Trust(error) => error.code(),
            Self::Panicked(_) => Code::Internal,
        }
    }
}

/// Lets handlers use `?` on these.
macro_rules! into_status {
    ($($error:ty),+ $(,)?) => {$(
        impl From<$error> for Status {
            fn from(error: $error) -> Self {
                status(&error)
            }
        }
    )+};
}

into_status!(
    ActionCacheError,
    AssetError,
    BatchError,
    ChunkError,
    HistoryError,
    CasError,
    CodeError,
    CompressionError,
    ExecuteError,
    DigestError,
    Full,
    InstanceError,
    InstanceNameError,
    InviteError,
    JoinError,
    KillError,
    LogError,
    MachineError,
    MessageError,
    NotWaiting,
    PinError,
    ReadError,
    RerunError,
    ResourceNameError,
    RotateError,
    TreeError,
    UpdateError,
    WriteError,
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Digest, DigestFunction};

    #[test]
    fn a_full_store_says_when_to_try_again() {
        let status = Status::from(CasError::NoSpace { wanted: 7, reason: "all leased".into() });
        assert_eq!(status.code(), Code::ResourceExhausted);
        let details = rpc::Status::decode(status.details()).unwrap();
        assert_eq!(details.code, Code::ResourceExhausted as i32);
        let info: raw::RetryInfo = any::unpack(&details.details[0]).unwrap();
        assert!(info.retry_delay.unwrap().seconds > 0);
    }

    #[test]
    fn too_few_copies_are_waited_for_again() {
        let what = Digest::of(DigestFunction::Sha256, b"a").to_string();
        let status = Status::from(CasError::TooFewCopies { what: what.clone(), wanted: 3, have: 1 });
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().starts_with(&format!("{what} is on 1 of the 3 machines")));
        assert!(!status.details().is_empty());
    }

    #[test]
    fn who_cannot_join_is_told_what_would_help() {
        for (error, code) in [
            (JoinError::NotFound, Code::NotFound),
            (JoinError::Over, Code::PermissionDenied),
            (JoinError::Code, Code::PermissionDenied),
            (JoinError::Taken, Code::Unavailable),
            (JoinError::Version, Code::FailedPrecondition),
        ] {
            assert_eq!(Status::from(error).code(), code);
        }
    }

    #[test]
    fn lasting_faults_carry_no_details() {
        let digest = Digest::empty(DigestFunction::Sha256);
        for (error, code) in [
            (CasError::NotFound(digest), Code::NotFound),
            (CasError::TooLong(digest), Code::InvalidArgument),
            (CasError::OutOfRange { offset: 2, size: 1 }, Code::OutOfRange),
        ] {
            let text = error.to_string();
            let status = Status::from(error);
            assert_eq!((status.code(), status.message()), (code, text.as_str()));
            assert!(status.details().is_empty());
        }
    }
}
