//! Names of ByteStream resources, parsed once.
//!
//! ```text
//! [{instance}/]blobs/[{function}/]{hash}/{size}
//! [{instance}/]compressed-blobs/{compressor}/[{function}/]{hash}/{size}
//! [{instance}/]uploads/{uuid}/blobs/[{function}/]{hash}/{size}[/{anything}]
//! [{instance}/]uploads/{uuid}/compressed-blobs/{compressor}/[{function}/]{hash}/{size}[/{anything}]
//! [{instance}/]logstreams/{id}[/{token}]
//! ```
//!
//! The instance may have any number of segments; it ends at the first reserved word. The grammar is
//! that of the comment on `ContentAddressableStorage` in `remote_execution.proto`.

use std::fmt;

use crate::cas::compression::{CompressionError, Compressor};
use crate::digest::{Digest, DigestError, DigestFunction};
use crate::instance::{InstanceName, InstanceNameError};

const BLOBS: &str = "blobs";
const COMPRESSED_BLOBS: &str = "compressed-blobs";
const UPLOADS: &str = "uploads";
const LOG_STREAMS: &str = "logstreams";

/// Bytes the upload id may have. Clients send a UUID; nothing here depends on that.
const MAX_UPLOAD_ID: usize = 256;

/// Bytes the id and the token of a log stream may have.
const MAX_LOG_ID: usize = 128;

/// Name of a blob to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadName {
    /// The instance.
    pub instance: InstanceName,
    /// Digest of the uncompressed bytes.
    pub digest: Digest,
    /// Form in which the bytes are to be sent.
    pub compressor: Compressor,
}

/// Name of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteName {
    /// The instance.
    pub instance: InstanceName,
    /// What the client calls this upload; several blobs may share it.
    pub upload: String,
    /// Digest of the uncompressed bytes.
    pub digest: Digest,
    /// Form in which the bytes come.
    pub compressor: Compressor,
}

/// Name of a log stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogName {
    /// The instance.
    pub instance: InstanceName,
    /// What the stream is called.
    pub id: String,
    /// What only its writer knows; names to read by have none.
    pub token: Option<String>,
}

/// Why a text is no resource name.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResourceNameError {
    /// Not of the expected form.
    #[error("resource name {name:?} is not {expected}")]
    Form {
        /// The name, shortened.
        name: String,
        /// The form it should have.
        expected: &'static str,
    },
    /// The instance part is no instance name.
    #[error(transparent)]
    Instance(#[from] InstanceNameError),
    /// The digest part is no digest.
    #[error("resource name with a bad digest: {0}")]
    Digest(#[from] DigestError),
    /// The compressor part is not one that is advertised.
    #[error(transparent)]
    Compressor(#[from] CompressionError),
}

/// A name taken apart from the left.
struct Segments<'a> {
    rest: Option<&'a str>,
}

// === impl ReadName ===

impl ReadName {
    const EXPECTED: &'static str = "[{instance}/]blobs/[{digest_function}/]{hash}/{size} \
        or [{instance}/]compressed-blobs/zstd/[{digest_function}/]{hash}/{size}";

    /// Parses the name of a blob; `default_function` tells what a digest without a function segment
    /// means in an instance.
    ///
    /// # Errors
    /// [`ResourceNameError`].
    pub fn parse(
        name: &str,
        default_function: impl FnOnce(&InstanceName) -> DigestFunction,
    ) -> Result<Self, ResourceNameError> {
        let form = || form_error(name, Self::EXPECTED);
        let (instance, keyword, mut segments) =
            split_instance(name, &[BLOBS, COMPRESSED_BLOBS]).ok_or_else(form)?;
        let instance = InstanceName::parse(instance)?;
        let function = default_function(&instance);
        let (compressor, digest) = segments.blob(keyword, function).map_err(|e| e.unwrap_or_else(form))?;
        if segments.rest.is_some() {
            return Err(form());
        }
        Ok(Self { instance, digest, compressor })
    }
}

impl fmt::Display for ReadName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_instance(f, &self.instance)?;
        write_blob(f, self.compressor, &self.digest)
    }
}

// === impl WriteName ===

impl WriteName {
    const EXPECTED: &'static str = "[{instance}/]uploads/{uuid}/blobs/[{digest_function}/]{hash}/{size} \
        or [{instance}/]uploads/{uuid}/compressed-blobs/zstd/[{digest_function}/]{hash}/{size}";

    /// Parses the name of an upload; what follows the size is ignored.
    ///
    /// # Errors
    /// [`ResourceNameError`].
    pub fn parse(
        name: &str,
        default_function: impl FnOnce(&InstanceName) -> DigestFunction,
    ) -> Result<Self, ResourceNameError> {
        let form = || form_error(name, Self::EXPECTED);
        let (instance, _, mut segments) = split_instance(name, &[UPLOADS]).ok_or_else(form)?;
        let instance = InstanceName::parse(instance)?;
        let function = default_function(&instance);
        let upload = segments
            .next()
            .filter(|id| !id.is_empty() && id.len() <= MAX_UPLOAD_ID)
            .ok_or_else(form)?
            .to_owned();
        let keyword = segments.next().ok_or_else(form)?;
        let (compressor, digest) = segments.blob(keyword, function).map_err(|e| e.unwrap_or_else(form))?;
        Ok(Self { instance, upload, digest, compressor })
    }
}

impl fmt::Display for WriteName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_instance(f, &self.instance)?;
        write!(f, "{UPLOADS}/{}/", self.upload)?;
        write_blob(f, self.compressor, &self.digest)
    }
}

// === impl LogName ===

impl LogName {
    const EXPECTED: &'static str = "[{instance}/]logstreams/{id} or [{instance}/]logstreams/{id}/{token}";

    /// Parses the name of a log stream. Clients of the Go SDK put the instance and `logstreams` in front of a
    /// whole name, so the last `logstreams` counts.
    ///
    /// # Errors
    /// [`ResourceNameError`].
    pub fn parse(name: &str) -> Result<Self, ResourceNameError> {
        let form = || form_error(name, Self::EXPECTED);
        let (instance, _, mut segments) = split_instance(name, &[LOG_STREAMS]).ok_or_else(form)?;
        let instance = InstanceName::parse(instance)?;
        let rest = segments.rest.ok_or_else(form)?;
        let last = rest.rfind("logstreams/").filter(|at| *at == 0 || rest.as_bytes()[at - 1] == b'/');
        segments.rest = Some(last.map_or(rest, |at| &rest[at + LOG_STREAMS.len() + 1..]));
        let mut next = || segments.next().map(str::to_owned);
        let (id, token) = (next().ok_or_else(form)?, next());
        let is_bounded = |text: &str| !text.is_empty() && text.len() <= MAX_LOG_ID;
        if segments.rest.is_some() || !is_bounded(&id) || !token.as_deref().is_none_or(is_bounded) {
            return Err(form());
        }
        Ok(Self { instance, id, token })
    }
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_instance(f, &self.instance)?;
        write!(f, "{LOG_STREAMS}/{}", self.id)?;
        self.token.iter().try_for_each(|token| write!(f, "/{token}"))
    }
}

// === impl Segments ===

impl<'a> Segments<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest?;
        match rest.split_once('/') {
            Some((segment, rest)) => {
                self.rest = Some(rest);
                Some(segment)
            }
            None => self.rest.take(),
        }
    }

    /// Takes what follows `keyword`, up to the size. `Err(None)` if it does not have the form at all.
    fn blob(
        &mut self,
        keyword: &str,
        default_function: DigestFunction,
    ) -> Result<(Compressor, Digest), Option<ResourceNameError>> {
        let compressor = match keyword {
            BLOBS => Compressor::Identity,
            COMPRESSED_BLOBS => {
                Compressor::from_segment(self.next().ok_or(None)?).map_err(|e| Some(e.into()))?
            }
            _ => return Err(None),
        };
        let mut hash = self.next().ok_or(None)?;
        let mut function = default_function;
        if let Some(named) = DigestFunction::from_segment(hash) {
            function = named.map_err(|e| Some(e.into()))?;
            hash = self.next().ok_or(None)?;
        }
        let size = self.next().and_then(parse_size).ok_or(None)?;
        let digest = Digest::parse(function, hash, size).map_err(|e| Some(e.into()))?;
        Ok((compressor, digest))
    }
}

/// Cuts `name` at the first of `keywords`: the instance, the keyword, what follows it.
fn split_instance<'a>(name: &'a str, keywords: &[&str]) -> Option<(&'a str, &'a str, Segments<'a>)> {
    let mut segments = Segments { rest: Some(name) };
    let mut start = 0;
    while let Some(segment) = segments.next() {
        if keywords.contains(&segment) {
            let instance = match start {
                0 => "",
                // A name that begins with a slash has an instance of one empty segment.
                1 => return None,
                _ => &name[..start - 1],
            };
            return Some((instance, segment, segments));
        }
        start += segment.len() + 1;
    }
    None
}

fn parse_size(text: &str) -> Option<i64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn form_error(name: &str, expected: &'static str) -> ResourceNameError {
    ResourceNameError::Form { name: name.chars().take(300).collect(), expected }
}

fn write_instance(f: &mut fmt::Formatter<'_>, instance: &InstanceName) -> fmt::Result {
    if instance.as_str().is_empty() { Ok(()) } else { write!(f, "{instance}/") }
}

/// The function's segment stands only where the hash length does not tell the function.
fn write_blob(f: &mut fmt::Formatter<'_>, compressor: Compressor, digest: &Digest) -> fmt::Result {
    match compressor {
        Compressor::Identity => write!(f, "{BLOBS}/{digest}"),
        Compressor::Zstd => write!(f, "{COMPRESSED_BLOBS}/{}/{digest}", compressor.segment()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHA256: DigestFunction = DigestFunction::Sha256;

    fn hash() -> String {
        "ab".repeat(32)
    }

    fn read(name: &str) -> Result<ReadName, ResourceNameError> {
        ReadName::parse(name, |_| SHA256)
    }

    fn write(name: &str) -> Result<WriteName, ResourceNameError> {
        WriteName::parse(name, |_| SHA256)
    }

    #[test]
    fn every_instance_and_form_of_a_read() {
        let hash = hash();
        for instance in ["", "main", "projects/p/instances/i"] {
            let prefix = if instance.is_empty() { String::new() } else { format!("{instance}/") };
            for (middle, function, compressor) in [
                ("blobs", SHA256, Compressor::Identity),
                ("blobs/sha256", SHA256, Compressor::Identity),
                ("blobs/blake3", DigestFunction::Blake3, Compressor::Identity),
                ("compressed-blobs/zstd", SHA256, Compressor::Zstd),
                ("compressed-blobs/zstd/blake3", DigestFunction::Blake3, Compressor::Zstd),
            ] {
                let name = read(&format!("{prefix}{middle}/{hash}/17")).unwrap();
                assert_eq!(name.instance.as_str(), instance);
                assert_eq!((name.digest.function(), name.compressor), (function, compressor));
                assert_eq!((name.digest.hash_hex(), name.digest.size()), (hash.clone(), 17));
            }
        }
    }

    #[test]
    fn trailing_metadata_is_for_uploads_only() {
        let hash = hash();
        let name = write(&format!("a/b/uploads/u-1/blobs/{hash}/3/foo/bar.o")).unwrap();
        assert_eq!((name.instance.as_str(), name.upload.as_str(), name.digest.size()), ("a/b", "u-1", 3));
        let name = write(&format!("uploads/u/compressed-blobs/zstd/{hash}/3/")).unwrap();
        assert_eq!(name.compressor, Compressor::Zstd);
        assert!(matches!(read(&format!("blobs/{hash}/3/foo")), Err(ResourceNameError::Form { .. })));
    }

    #[test]
    fn the_default_function_is_that_of_the_instance() {
        let text = format!("b3/blobs/{}/1", hash());
        let name =
            ReadName::parse(
                &text,
                |instance| {
                    if instance.as_str() == "b3" { DigestFunction::Blake3 } else { SHA256 }
                },
            );
        assert_eq!(name.unwrap().digest.function(), DigestFunction::Blake3);
    }

    #[test]
    fn malformed_names() {
        let hash = hash();
        for name in [
            String::new(),
            "blobs".into(),
            hash.clone(),
            format!("blobs/{hash}"),
            format!("blobs/{hash}/"),
            format!("blobs/{hash}/1x"),
            format!("blobs/{hash}/-1"),
            format!("blobs/{hash}/+1"),
            format!("blobs/{hash}/99999999999999999999"),
            format!("blobs/{}/1", hash.to_uppercase()),
            format!("blobs/{}/1", &hash[1..]),
            format!("blobs/vso/{hash}/1"),
            format!("blobs/nonsense/{hash}/1"),
            format!("/blobs/{hash}/1"),
            format!("a//blobs/{hash}/1"),
            format!("actions/blobs/{hash}/1"),
            format!("compressed-blobs/{hash}/1"),
            format!("compressed-blobs/identity/{hash}/1"),
            format!("compressed-blobs/brotli/{hash}/1"),
            format!("uploads/u/blobs/{hash}/1"),
        ] {
            assert!(read(&name).is_err(), "{name}");
        }
        for name in [
            format!("blobs/{hash}/1"),
            format!("uploads/blobs/{hash}/1"),
            format!("uploads//blobs/{hash}/1"),
            format!("uploads/u/{hash}/1"),
            format!("uploads/u/blobs/{hash}"),
            format!("uploads/u/compressed-blobs/identity/{hash}/1"),
            format!("uploads/{}/blobs/{hash}/1", "u".repeat(300)),
        ] {
            assert!(write(&name).is_err(), "{name}");
        }
    }

    #[test]
    fn log_streams_by_every_name_that_clients_make() {
        let parse =
            |name: &str| LogName::parse(name).map(|name| (name.instance.to_string(), name.id, name.token));
        let name = |instance: &str, token: Option<&str>| {
            Ok((instance.to_owned(), "i-1".to_owned(), token.map(str::to_owned)))
        };
        for (text, expected) in [
            ("logstreams/i-1", name("", None)),
            ("a/b/logstreams/i-1", name("a/b", None)),
            ("a/logstreams/i-1/t", name("a", Some("t"))),
            ("a/logstreams/a/logstreams/i-1", name("a", None)),
            ("logstreams/logstreams/i-1", name("", None)),
            ("a/b/logstreams/a/b/logstreams/i-1", name("a/b", None)),
        ] {
            assert_eq!(parse(text).map_err(|error| error.to_string()), expected, "{text}");
        }
        let long = format!("logstreams/{}", "x".repeat(129));
        for text in [
            "",
            "logstreams",
            "logstreams/",
            "/logstreams/i",
            "a//logstreams/i",
            "logstreams/i/",
            "logstreams/i/t/u",
            "logstreams/a/logstreams/",
            "xlogstreams/i",
            "blobs/logstreams/i",
            &long,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    fn any_digest() -> impl Strategy<Value = Digest> {
        (any::<bool>(), any::<[u8; 32]>(), 0..i64::MAX as u64).prop_map(|(blake3, hash, size)| {
            let function = if blake3 { DigestFunction::Blake3 } else { SHA256 };
            Digest::from_parts(function, hash, size)
        })
    }

    fn any_instance() -> impl Strategy<Value = InstanceName> {
        "([a-z]{1,5}(/[a-z0-9]{1,5}){0,3})?"
            .prop_filter_map("valid instance names only", |name| InstanceName::parse(&name).ok())
    }

    proptest! {
        #[test]
        fn names_round_trip(instance in any_instance(), upload in "[a-z0-9-]{1,36}", digest in any_digest(), zstd: bool) {
            let compressor = if zstd { Compressor::Zstd } else { Compressor::Identity };
            let name = ReadName { instance: instance.clone(), digest, compressor };
            prop_assert_eq!(read(&name.to_string()).unwrap(), name);
            let name = WriteName { instance, upload, digest, compressor };
            prop_assert_eq!(write(&name.to_string()).unwrap(), name);
        }

        #[test]
        fn nothing_panics(name in "(blobs|uploads|logstreams|compressed-blobs|zstd|sha256|[0-9a-f]{64}|[^/]{0,4}|/){0,12}") {
            let _ = read(&name);
            let _ = write(&name);
            let _ = LogName::parse(&name);
        }
    }
}
