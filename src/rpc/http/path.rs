//! [`Resource`]: the path of a plain HTTP request, parsed once.
//!
//! ```text
//! /[{instance}/]cas/{hash}
//! /[{instance}/]ac/{hash}
//! /status
//! /metrics
//! ```
//!
//! The hash is 64 hex digits of the digest function of the instance. An instance may have any number of
//! segments, percent-encoded where they need it.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::digest::{BlobHash, DigestError, DigestFunction};
use crate::instance::{InstanceName, InstanceNameError};

const BLOBS: &str = "cas";
const RESULTS: &str = "ac";
const STATUS: &str = "status";
const METRICS: &str = "metrics";

/// What is percent-encoded in the path of an instance.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// A blob.
    Blob {
        /// The instance.
        instance: InstanceName,
        /// The hash of its bytes.
        hash: BlobHash,
    },
    /// A result.
    Result {
        /// The instance, to which the result belongs.
        instance: InstanceName,
        /// The hash of the action.
        hash: BlobHash,
    },
    /// How the store is, as JSON.
    Status,
    /// Numbers for Prometheus.
    Metrics,
}

/// Why a path names nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// It looks like nothing that is served.
    #[error("not found")]
    Unknown,
    /// It looks like something that is served.
    #[error("the path is not [/instance]/cas/HASH or [/instance]/ac/HASH")]
    Form,
    /// The instance is no name.
    #[error(transparent)]
    Instance(#[from] InstanceNameError),
    /// The hash is none.
    #[error(transparent)]
    Hash(#[from] DigestError),
}

// === impl Resource ===

impl Resource {
    /// Parses a path; `default_function` tells which function the hashes of an instance are of.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn parse(
        path: &str,
        default_function: impl FnOnce(&InstanceName) -> DigestFunction,
    ) -> Result<Self, PathError> {
        let path = path.strip_prefix('/').ok_or(PathError::Form)?;
        match path {
            STATUS => return Ok(Self::Status),
            METRICS => return Ok(Self::Metrics),
            _ => {}
        }
        let odd = || {
            if path.split('/').any(|part| [BLOBS, RESULTS].contains(&part)) {
                PathError::Form
            } else {
                PathError::Unknown
            }
        };
        let (front, hash) = path.rsplit_once('/').ok_or_else(odd)?;
        let (instance, kind) = match front.rsplit_once('/') {
            Some(("", _)) => return Err(odd()),
            Some(parts) => parts,
            None => ("", front),
        };
        if ![BLOBS, RESULTS].contains(&kind) {
            return Err(odd());
        }
        let instance = percent_decode_str(instance).decode_utf8().map_err(|_| PathError::Form)?;
        let instance = InstanceName::parse(&instance)?;
        let hash = BlobHash::parse(default_function(&instance), hash)?;
        Ok(if kind == BLOBS { Self::Blob { instance, hash } } else { Self::Result { instance, hash } })
    }
}

/// A path that parses to the same.
impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (instance, kind, hash) = match self {
            Self::Blob { instance, hash } => (instance, BLOBS, hash),
            Self::Result { instance, hash } => (instance, RESULTS, hash),
            Self::Status => return write!(f, "/{STATUS}"),
            Self::Metrics => return write!(f, "/{METRICS}"),
        };
        if !instance.as_str().is_empty() {
            write!(f, "/{}", utf8_percent_encode(instance.as_str(), ENCODED))?;
        }
        write!(f, "/{kind}/{}", const_hex::encode(&hash.to_bytes()[1..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn parse(path: &str) -> Result<Resource, PathError> {
        Resource::parse(path, |_| DigestFunction::Sha256)
    }

    #[test]
    fn blobs_and_results_of_any_instance() {
        let hash = BlobHash::from(&Digest::of(DigestFunction::Sha256, b"a"));
        for (prefix, name) in
            [("", ""), ("/main", "main"), ("/a/b/c", "a/b/c"), ("/ac", "ac"), ("/%C3%BC%20x", "ü x")]
        {
            let instance = InstanceName::parse(name).unwrap();
            let blob = Resource::Blob { instance: instance.clone(), hash };
            assert_eq!(parse(&format!("{prefix}/cas/{hash}")), Ok(blob.clone()));
            assert_eq!(parse(&blob.to_string()), Ok(blob));
            let result = Resource::Result { instance, hash };
            assert_eq!(parse(&format!("{prefix}/ac/{hash}")), Ok(result.clone()));
            assert_eq!(parse(&result.to_string()), Ok(result));
        }
        assert_eq!(parse("/status"), Ok(Resource::Status));
        assert_eq!(parse("/metrics"), Ok(Resource::Metrics));
    }

    #[test]
    fn the_function_is_that_of_the_instance() {
        let path = format!("/b3/cas/{}", "ab".repeat(32));
        let Ok(Resource::Blob { hash, .. }) = Resource::parse(&path, |_| DigestFunction::Blake3) else {
            panic!("a blob")
        };
        assert_eq!(hash.sized(1).function(), DigestFunction::Blake3);
    }

    #[test]
    fn what_is_no_path_is_told_apart_from_what_is_not_there() {
        let hash = "ab".repeat(32);
        for path in ["", "/", "/x", "/x/y", "/statuses", "/status/", "/favicon.ico", &format!("/x/{hash}")] {
            let error = parse(path).unwrap_err();
            assert!(error == PathError::Unknown || path.is_empty(), "{path}: {error}");
        }
        for path in [
            "/cas".to_owned(),
            "/cas/".to_owned(),
            "/ac/x".to_owned(),
            format!("/cas/{}", &hash[1..]),
            format!("/cas/{hash}0"),
            format!("/cas/{}", hash.to_uppercase()),
            format!("/cas/{hash}/"),
            format!("/cas/{hash}/3"),
            format!("//cas/{hash}"),
            format!("/a//cas/{hash}"),
            format!("/a/blobs/cas/{hash}"),
            format!("/%00/cas/{hash}"),
            format!("/%ff/cas/{hash}"),
            format!("cas/{hash}"),
        ] {
            let error = parse(&path).unwrap_err();
            assert_ne!(error, PathError::Unknown, "{path}");
        }
    }
}
