//! The way in for fuzzers: what the headers of a request say.

use http::HeaderMap;

use super::headers::{self, Announced};

/// Reads all that is read of `headers`.
pub(crate) fn headers(headers: &HeaderMap) {
    if let Ok(announced) = Announced::read(headers) {
        assert!(i64::try_from(announced.size).is_ok());
    }
    headers::accepted(headers);
    headers::wants_json(headers);
    headers::is_json(headers);
    headers::waits_to_send(headers);
    assert!(!headers::metadata(headers).build().is_empty());
}
