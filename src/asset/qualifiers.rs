//! [`Qualifiers`]: what a request says of the content it means, beside its URIs.
//!
//! Pure. Some qualifiers tell contents of one URI apart and are part of the key it is found under; the checksum
//! is one in its own way; headers are for the origin, hold secrets, and are neither keyed nor shown.
//! Qualifiers that mean nothing here are keys too, so that pushed content is found by them; but nothing is
//! downloaded for a request that has one, since what it asks for would not be heeded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::integrity::{Integrity, IntegrityError};

/// Qualifiers in one request at most.
const MOST: usize = 256;

/// Bytes of a name, and of a value, at most.
const LONGEST_NAME: usize = 512;
const LONGEST_VALUE: usize = 64 * 1024;

const CHECKSUM: &str = "checksum.sri";
const RESOURCE_TYPE: &str = "resource_type";
const BRANCH: &str = "vcs.branch";
const COMMIT: &str = "vcs.commit";
const DIRECTORY: &str = "directory";
const CANONICAL_ID: &str = "bazel.canonical_id";
const HEADER: &str = "http_header:";
const HEADER_OF_ONE: &str = "http_header_url:";

/// Headers that are the business of whoever makes the connection, or would have other bytes come.
const NOT_FROM_CLIENTS: [&str; 16] = [
    "accept-encoding",
    "connection",
    "content-length",
    "expect",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "range",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The qualifiers of a request.
#[derive(Clone, Debug, Default)]
pub struct Qualifiers {
    keyed: BTreeMap<String, String>,
    checksum: Option<Integrity>,
    headers: Headers,
}

/// Headers for origins. Their values are secrets.
#[derive(Clone, Default)]
struct Headers(Vec<Header>);

#[derive(Clone)]
struct Header {
    /// Index of the URI it is for; all of them without.
    uri: Option<usize>,
    name: HeaderName,
    value: HeaderValue,
}

/// Why qualifiers are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QualifierError {
    /// Names must be unique.
    #[error("the qualifier {0:?} is given twice")]
    Doubled(String),
    /// More than anybody needs.
    #[error("{0} qualifiers are more than {MOST}")]
    TooMany(usize),
    /// No name, or one that is too long, or a value that is.
    #[error(
        "a qualifier has a name of 1 to {LONGEST_NAME} bytes and a value of {LONGEST_VALUE} at most: {0:?}"
    )]
    Size(String),
    /// No list of checksums.
    #[error("qualifier {CHECKSUM:?}: {0}")]
    Checksum(#[from] IntegrityError),
    /// Not a header, or for a URI that is not there. The value is not shown.
    #[error("the qualifier {0:?} is no header of a request to one of the uris")]
    Header(String),
    /// Means nothing here, and nothing was pushed under it.
    #[error("\"{0}\" not supported")]
    Unsupported(String),
    /// A value that means nothing here.
    #[error("the value {value:?} of the qualifier {name:?} is not supported")]
    Value {
        /// The qualifier.
        name: &'static str,
        /// Its value, shortened.
        value: String,
    },
}

// === impl Qualifiers ===

impl Qualifiers {
    /// Parses names and values of a request that has `uris` URIs.
    ///
    /// # Errors
    /// [`QualifierError`] names the first that cannot be taken.
    pub fn parse(
        given: impl IntoIterator<Item = (String, String)>,
        uris: usize,
    ) -> Result<Self, QualifierError> {
        let given: Vec<_> = given.into_iter().collect();
        if given.len() > MOST {
            return Err(QualifierError::TooMany(given.len()));
        }
        let mut parsed = Self::default();
        let mut seen = BTreeSet::new();
        for (name, value) in given {
            if name.is_empty() || name.len() > LONGEST_NAME || value.len() > LONGEST_VALUE {
                return Err(QualifierError::Size(name.chars().take(80).collect()));
            }
            if !seen.insert(name.clone()) {
                return Err(QualifierError::Doubled(name));
            }
            parsed.take(name, value, uris)?;
        }
        Ok(parsed)
    }

    fn take(&mut self, name: String, value: String, uris: usize) -> Result<(), QualifierError> {
        if name == CHECKSUM {
            self.checksum = Some(Integrity::parse(&value)?);
        } else if name.starts_with(HEADER) || name.starts_with(HEADER_OF_ONE) {
            let header = Header::parse(&name, &value, uris).ok_or(QualifierError::Header(name))?;
            self.headers.0.extend(header);
        } else {
            self.keyed.insert(name, value);
        }
        Ok(())
    }

    /// Names and values that are part of the key, sorted by name.
    pub fn keyed(&self) -> impl Iterator<Item = (&str, &str)> {
        self.keyed.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What the content is to hash to.
    pub fn checksum(&self) -> Option<&Integrity> {
        self.checksum.as_ref()
    }

    /// The headers for the URI with that index; one for it alone goes before one for all.
    pub fn headers(&self, uri: usize) -> HeaderMap {
        let (all, one): (Vec<_>, Vec<_>) = self.headers.0.iter().partition(|header| header.uri.is_none());
        let meant = all.into_iter().chain(one.into_iter().filter(|header| header.uri == Some(uri)));
        let mut headers = HeaderMap::new();
        for header in meant {
            headers.insert(header.name.clone(), header.value.clone());
        }
        headers
    }

    /// Bytes that differ where headers do. For memory only: they hold secrets.
    pub(super) fn secrets(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for Header { uri, name, value } in &self.headers.0 {
            bytes.extend(format!("{uri:?} {name} {} ", value.len()).as_bytes());
            bytes.extend(value.as_bytes());
        }
        bytes
    }

    /// The media type of what the URI names.
    pub fn resource_type(&self) -> Option<&str> {
        self.value(RESOURCE_TYPE)
    }

    /// The branch of a repository.
    pub fn branch(&self) -> Option<&str> {
        self.value(BRANCH)
    }

    /// The commit of a repository.
    pub fn commit(&self) -> Option<&str> {
        self.value(COMMIT)
    }

    /// The directory inside of a repository or an archive.
    pub fn directory(&self) -> Option<&str> {
        self.value(DIRECTORY)
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.keyed.get(name).map(String::as_str)
    }

    /// The first that keeps a blob from being downloaded.
    pub(super) fn unsupported_for_blob(&self) -> Option<QualifierError> {
        self.unsupported(&[RESOURCE_TYPE, CANONICAL_ID])
    }

    /// The first that keeps a directory from being downloaded.
    pub(super) fn unsupported_for_directory(&self) -> Option<QualifierError> {
        self.unsupported(&[RESOURCE_TYPE, CANONICAL_ID, BRANCH, COMMIT, DIRECTORY])
    }

    /// The one that speaks of versions, which only repositories have.
    pub(super) fn versioned(&self) -> Option<QualifierError> {
        let unknown = [BRANCH, COMMIT].into_iter().find(|name| self.keyed.contains_key(*name))?;
        Some(QualifierError::Unsupported(unknown.to_owned()))
    }

    /// That the resource type means nothing here.
    pub(super) fn bad_resource_type(&self) -> QualifierError {
        let value = self.resource_type().unwrap_or_default().chars().take(80).collect();
        QualifierError::Value { name: RESOURCE_TYPE, value }
    }

    fn unsupported(&self, known: &[&str]) -> Option<QualifierError> {
        let unknown = self.keyed.keys().find(|name| !known.contains(&name.as_str()))?;
        Some(QualifierError::Unsupported(unknown.clone()))
    }
}

// === impl Header ===

impl Header {
    /// `None` if it is no header, `Some(None)` if it is one that clients have no say in.
    fn parse(name: &str, value: &str, uris: usize) -> Option<Option<Self>> {
        let (uri, name) = match name.strip_prefix(HEADER) {
            Some(name) => (None, name),
            None => {
                let (index, name) = name.strip_prefix(HEADER_OF_ONE)?.split_once(':')?;
                let index: usize = index.parse().ok().filter(|index| *index < uris)?;
                (Some(index), name)
            }
        };
        let name: HeaderName = name.parse().ok()?;
        let mut value: HeaderValue = value.parse().ok()?;
        if NOT_FROM_CLIENTS.contains(&name.as_str()) || name.as_str().starts_with("proxy-") {
            return Some(None);
        }
        value.set_sensitive(true);
        Some(Some(Self { uri, name, value }))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|header| &header.name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(given: &[(&str, &str)]) -> Result<Qualifiers, QualifierError> {
        Qualifiers::parse(given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())), 2)
    }

    #[test]
    fn headers_are_for_all_or_for_one_and_never_shown_nor_keyed() {
        let qualifiers = parse(&[
            ("http_header:X-Token", "s3cret"),
            ("http_header_url:1:x-token", "0ther"),
            ("http_header:Host", "evil"),
            ("http_header:Accept-Encoding", "gzip"),
            ("bazel.canonical_id", "id"),
        ])
        .unwrap();
        assert_eq!(qualifiers.headers(0).get("x-token").unwrap(), "s3cret");
        assert_eq!(qualifiers.headers(1).get("x-token").unwrap(), "0ther");
        assert_eq!(qualifiers.headers(0).len(), 1, "host and encoding are not for clients to say");
        assert_eq!(qualifiers.keyed().collect::<Vec<_>>(), [("bazel.canonical_id", "id")]);
        let shown = format!("{qualifiers:?} {:?}", qualifiers.headers(0));
        assert!(!shown.contains("s3cret") && !shown.contains("0ther"), "{shown}");
        let others = parse(&[("http_header:X-Token", "s3cres")]).unwrap();
        assert_ne!(qualifiers.secrets(), others.secrets());
    }

    #[test]
    fn one_probe_per_defect() {
        let doubled = parse(&[("resource_type", "a"), ("directory", "b"), ("resource_type", "a")]);
        assert_eq!(doubled.unwrap_err(), QualifierError::Doubled("resource_type".into()));
        assert!(matches!(parse(&[("", "x")]), Err(QualifierError::Size(_))));
        assert!(matches!(parse(&[("x", &"y".repeat(LONGEST_VALUE + 1))]), Err(QualifierError::Size(_))));
        assert!(matches!(parse(&[("checksum.sri", "nonsense")]), Err(QualifierError::Checksum(_))));
        for (name, value) in [
            ("http_header:a b", "x"),
            ("http_header:", "x"),
            ("http_header:a", "x\r\nEvil: y"),
            ("http_header_url:2:a", "no such uri"),
            ("http_header_url:x:a", "y"),
            ("http_header_url:0", "y"),
        ] {
            assert_eq!(parse(&[(name, value)]).unwrap_err(), QualifierError::Header(name.into()));
        }
        let many: Vec<_> = (0..=MOST).map(|at| (format!("q{at}"), String::new())).collect();
        assert_eq!(Qualifiers::parse(many, 1).unwrap_err(), QualifierError::TooMany(MOST + 1));
    }

    #[test]
    fn what_means_nothing_here_is_named_in_the_words_of_the_specification() {
        let qualifiers = parse(&[("frob", "1"), ("bazel.canonical_id", "x")]).unwrap();
        let error = qualifiers.unsupported_for_blob().unwrap();
        assert_eq!(error.to_string(), "\"frob\" not supported");
        let git = parse(&[("resource_type", "application/x-git"), ("vcs.branch", "main")]).unwrap();
        assert_eq!(git.unsupported_for_directory(), None);
        assert_eq!(git.unsupported_for_blob(), Some(QualifierError::Unsupported("vcs.branch".into())));
    }
}
