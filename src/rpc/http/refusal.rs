//! [`Refusal`]: what failures look like over plain HTTP: a status, and a line of text.
//!
//! Which failure is which is decided where it is for gRPC (`errors`); here is what its code is called in HTTP.

use http::header::HeaderName;
use http::{HeaderValue, Response, StatusCode};
use tonic::body::Body;
use tonic::{Code, Status};

use super::headers::HeaderError;
use super::outgoing;
use super::path::PathError;
use crate::rpc::errors::StatusOf;

/// The type of the texts.
const TEXT: &str = "text/plain; charset=utf-8";

/// Why a request is not answered as was hoped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    status: StatusCode,
    text: String,
    header: Option<(HeaderName, HeaderValue)>,
}

// === impl Refusal ===

impl Refusal {
    /// With that status, and a text without a newline.
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), header: None }
    }

    /// The same with a header.
    pub(super) fn with(self, name: HeaderName, value: HeaderValue) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    /// As it is sent.
    pub(super) fn into_response(self) -> Response<Body> {
        let mut response = outgoing::whole(TEXT, format!("{}\n", self.text));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.header);
        response
    }

    fn of_code(code: Code, text: &str) -> Self {
        Self::new(status_of(code), text)
    }
}

fn status_of(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::DeadlineExceeded | Code::Cancelled => StatusCode::REQUEST_TIMEOUT,
        Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::INSUFFICIENT_STORAGE,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Internal | Code::Unknown | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl<E: StatusOf> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::of_code(error.code(), &error.to_string())
    }
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self::of_code(status.code(), status.message())
    }
}

impl From<PathError> for Refusal {
    fn from(error: PathError) -> Self {
        let status = match error {
            PathError::Unknown => StatusCode::NOT_FOUND,
            PathError::Form | PathError::Instance(_) | PathError::Hash(_) => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}

impl From<HeaderError> for Refusal {
    fn from(error: HeaderError) -> Self {
        let status = match error {
            HeaderError::NoLength => StatusCode::LENGTH_REQUIRED,
            HeaderError::Coding(_) => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            HeaderError::Number(_) | HeaderError::NoSize | HeaderError::Disagree => StatusCode::BAD_REQUEST,
        };
        Self::new(status, error.to_string())
    }
}
