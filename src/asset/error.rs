//! What can go wrong: [`AssetError`] where the request or this node is at fault, [`OriginError`] where content
//! could not be had from where it is.
//!
//! The first kind fails the call; the second is told inside an answer (`FetchBlobResponse.status`). Neither
//! holds secrets: addresses are shown without user and query.

use std::io;
use std::sync::Arc;

use super::qualifiers::QualifierError;
use super::rules::Refused;
use super::uri::UriError;
use crate::action_cache::ActionCacheError;
use crate::cas::CasError;

/// URIs in one request at most.
pub const MOST_URIS: usize = 100;

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub enum AssetError {
    /// There must be one.
    #[error("uris is empty; name at least one")]
    NoUri,
    /// More than anybody needs.
    #[error("{0} uris are more than {MOST_URIS}")]
    TooManyUris(usize),
    /// Text that is no name.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// Qualifiers that are malformed or cannot be heeded.
    #[error(transparent)]
    Qualifier(#[from] QualifierError),
    /// A time or a length that there is not.
    #[error("{0} is out of range")]
    Time(&'static str),
    /// The owner of the node keeps names to himself.
    #[error("this node takes no names from clients; its owner can set asset-push")]
    PushOff,
    /// What is pushed has not the checksum it is pushed with.
    #[error("the blob has none of the checksums it is pushed with")]
    Checksum,
    /// More references than one entry has room for.
    #[error("{0} bytes of references are more than one asset can have; name directories in place of blobs")]
    TooManyReferences(usize),
    /// More downloads wait than this node remembers.
    #[error("too many downloads are waiting; try again later")]
    Full,
    /// The download ended with the node.
    #[error("the node is ending")]
    Ending,
    /// The store of associations failed.
    #[error(transparent)]
    Cache(#[from] ActionCacheError),
    /// The store of blobs failed.
    #[error(transparent)]
    Cas(#[from] CasError),
}

/// Why content is not to be had from its origin.
#[derive(Clone, Debug, thiserror::Error)]
pub enum OriginError {
    /// Nobody has pushed it, and its name is not that of a place.
    #[error("nothing is known under this name")]
    Unknown,
    /// The origin has it not.
    #[error("the origin says {0}")]
    NotFound(Answer),
    /// The repository or archive does not have what is wanted of it.
    #[error("there is no {0}")]
    Absent(String),
    /// The origin does not give it to us.
    #[error("the origin says {0}")]
    Forbidden(Answer),
    /// The origin wants fewer requests.
    #[error("the origin says {0}")]
    Busy(Answer),
    /// The origin fails.
    #[error("the origin says {0}")]
    Failing(Answer),
    /// Any other answer.
    #[error("the origin says {0}")]
    Strange(Answer),
    /// The owner of the node does not let us.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Not in a way that this node knows.
    #[error("this node downloads by http and https only")]
    Scheme,
    /// A redirect to where nobody can go.
    #[error("the origin redirects to something that is no address")]
    Redirect,
    /// A redirect after a redirect.
    #[error("the origin redirects too often")]
    Redirects,
    /// No connection, or one that broke.
    #[error("the connection failed: {0}")]
    Broken(Arc<str>),
    /// No time left, or nothing came for long.
    #[error("{0} took too long")]
    Slow(&'static str),
    /// More than the owner of the node allows.
    #[error("it is larger than {0} bytes; asset-max-size would allow more")]
    TooLarge(u64),
    /// Not what was asked for.
    #[error("what came has none of the checksums that were asked for; it has {0}")]
    Checksum(String),
    /// Not what it should be, or not safe to unpack.
    #[error("what came cannot be used: {0}")]
    Unusable(String),
}

/// A status of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer(pub http::StatusCode);

/// Either of the two, on the way up.
#[derive(Debug)]
pub enum FetchError {
    /// Of the origin, or of what came from there.
    Origin(OriginError),
    /// Of the request, or of this node.
    Own(AssetError),
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

// === impl OriginError ===

impl OriginError {
    /// What an answer other than OK means.
    pub(super) fn answered(status: http::StatusCode) -> Self {
        let answer = Answer(status);
        match status.as_u16() {
            404 | 410 => Self::NotFound(answer),
            401 | 402 | 403 | 407 | 451 => Self::Forbidden(answer),
            408 | 504 => Self::Slow("the origin"),
            429 => Self::Busy(answer),
            500.. => Self::Failing(answer),
            _ => Self::Strange(answer),
        }
    }

    /// A connection that does not work.
    pub(super) fn broken(error: impl ToString) -> Self {
        Self::Broken(error.to_string().into())
    }

    /// How much it tells: of the errors of several places, the one that tells most is shown.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::Checksum(_) | Self::Unusable(_) => 6,
            Self::Refused(_) | Self::Forbidden(_) | Self::Scheme => 5,
            Self::TooLarge(_) | Self::Busy(_) => 4,
            Self::Slow(_) => 3,
            Self::Broken(_) | Self::Failing(_) => 2,
            Self::Strange(_) | Self::Redirect | Self::Redirects => 1,
            Self::NotFound(_) | Self::Absent(_) | Self::Unknown => 0,
        }
    }
}

// === impl FetchError ===

impl FetchError {
    /// A file of ours that does not work.
    pub(super) fn file(path: &std::path::Path, error: io::Error) -> Self {
        Self::Own(CasError::io(path, error).into())
    }
}

impl From<OriginError> for FetchError {
    fn from(error: OriginError) -> Self {
        Self::Origin(error)
    }
}

/// What is wrong with what came.
impl From<String> for FetchError {
    fn from(reason: String) -> Self {
        Self::Origin(OriginError::Unusable(reason))
    }
}

impl From<AssetError> for FetchError {
    fn from(error: AssetError) -> Self {
        Self::Own(error)
    }
}

impl From<CasError> for FetchError {
    fn from(error: CasError) -> Self {
        Self::Own(error.into())
    }
}

impl From<QualifierError> for FetchError {
    fn from(error: QualifierError) -> Self {
        Self::Own(error.into())
    }
}
