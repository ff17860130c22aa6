//! What the headers of a request say: of the body that comes, of the answer that is wanted, of who is asking.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::cas::compression::Compressor;
use crate::request_metadata::RequestMetadata;
use crate::rpc::metadata;

/// Bytes of a body once it is decompressed.
pub(super) const X_DIGEST_SIZE: HeaderName = HeaderName::from_static("x-digest-sizebytes");

/// The media type of JSON.
pub(super) const JSON: &str = "application/json";

/// Bytes kept of the name of a tool.
const TOOL: usize = 100;

/// What a request says of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    /// The form in which it comes.
    pub(super) coding: Compressor,
    /// Its bytes, once it is decompressed.
    pub(super) size: u64,
}

/// Why a body is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HeaderError {
    /// Nothing says how long it is.
    #[error("Content-Length is not set")]
    NoLength,
    /// A length that is none.
    #[error("{0} is no number of bytes")]
    Number(HeaderName),
    /// Compressed, and nothing says how much comes out.
    #[error("X-Digest-SizeBytes is not set: the bytes of the body before it was compressed")]
    NoSize,
    /// Two lengths of the same.
    #[error("Content-Length and X-Digest-SizeBytes disagree")]
    Disagree,
    /// A form that is not understood.
    #[error("Content-Encoding {0:?} is not understood; zstd is")]
    Coding(String),
}

// === impl Announced ===

impl Announced {
    /// Reads what is said of a body.
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, HeaderError> {
        let length = number(headers, &CONTENT_LENGTH)?;
        let size = number(headers, &X_DIGEST_SIZE)?;
        match coding(headers)? {
            Compressor::Zstd => Ok(Self { coding: Compressor::Zstd, size: size.ok_or(HeaderError::NoSize)? }),
            Compressor::Identity => {
                let length = length.ok_or(HeaderError::NoLength)?;
                if size.is_some_and(|size| size != length) {
                    return Err(HeaderError::Disagree);
                }
                Ok(Self { coding: Compressor::Identity, size: length })
            }
        }
    }
}

fn coding(headers: &HeaderMap) -> Result<Compressor, HeaderError> {
    let mut codings = items(headers, &CONTENT_ENCODING).filter(|coding| !coding.is_empty());
    let Some(coding) = codings.next() else { return Ok(Compressor::Identity) };
    match (coding.to_ascii_lowercase().as_str(), codings.next()) {
        ("identity", None) => Ok(Compressor::Identity),
        ("zstd", None) => Ok(Compressor::Zstd),
        _ => Err(HeaderError::Coding(coding.chars().take(40).collect())),
    }
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, HeaderError> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = digits.and_then(|digits| digits.parse::<i64>().ok()).and_then(|n| u64::try_from(n).ok());
    number.map(Some).ok_or_else(|| HeaderError::Number(name.clone()))
}

/// The items of a header that is a list, in all its values. What is no text is left out.
fn items<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> + use<'a> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// The form in which the client takes an answer.
pub(super) fn accepted(headers: &HeaderMap) -> Compressor {
    let takes_zstd = items(headers, &ACCEPT_ENCODING).any(|item| {
        let (coding, parameters) = item.split_once(';').unwrap_or((item, ""));
        coding.trim().eq_ignore_ascii_case("zstd") && !is_refused(parameters)
    });
    if takes_zstd { Compressor::Zstd } else { Compressor::Identity }
}

/// Whether the parameters of an item have a weight of nothing (`q=0`, RFC 9110).
fn is_refused(parameters: &str) -> bool {
    let mut parameters = parameters.split(';').filter_map(|parameter| parameter.split_once('='));
    let weight = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("q"));
    weight.is_some_and(|(_, weight)| weight.trim().parse::<f32>().is_ok_and(|weight| weight <= 0.0))
}

/// Whether the client asks for JSON by name.
pub(super) fn wants_json(headers: &HeaderMap) -> bool {
    items(headers, &ACCEPT).any(is_json_type)
}

/// Whether the body is JSON.
pub(super) fn is_json(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(is_json_type)
}

fn is_json_type(value: &str) -> bool {
    let media_type = value.split_once(';').map_or(value, |(media_type, _)| media_type);
    media_type.trim().eq_ignore_ascii_case(JSON)
}

/// Whether the client sends its body only once it is told to go on.
pub(super) fn waits_to_send(headers: &HeaderMap) -> bool {
    headers.get(EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Who is asking: what the header of REAPI clients tells, or else the program that `User-Agent` names first.
pub(super) fn metadata(headers: &HeaderMap) -> RequestMetadata {
    let told = metadata::of_headers(headers);
    if !told.build().is_empty() {
        return told;
    }
    let agent = headers.get(USER_AGENT).and_then(agent).unwrap_or("http");
    let (name, version) = agent.split_once('/').unwrap_or((agent, ""));
    RequestMetadata { tool_name: name.to_owned(), tool_version: version.to_owned(), ..told }
}

fn agent(value: &HeaderValue) -> Option<&str> {
    value
        .to_str()
        .ok()?
        .split_whitespace()
        .next()
        .filter(|agent| agent.len() <= TOOL && !agent.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn announced(pairs: &[(&str, &str)]) -> Result<(Compressor, u64), HeaderError> {
        Announced::read(&headers(pairs)).map(|announced| (announced.coding, announced.size))
    }

    #[test]
    fn what_is_said_of_a_body() {
        use Compressor::{Identity, Zstd};
        let size = "x-digest-sizebytes";
        assert_eq!(announced(&[("content-length", "17")]), Ok((Identity, 17)));
        let plain = [("content-length", "17"), ("content-encoding", "identity"), (size, "17")];
        assert_eq!(announced(&plain), Ok((Identity, 17)));
        let packed = [("content-length", "9"), ("content-encoding", "ZSTD"), (size, "17")];
        assert_eq!(announced(&packed), Ok((Zstd, 17)));
        assert_eq!(announced(&[]), Err(HeaderError::NoLength));
        assert_eq!(announced(&packed[..2]), Err(HeaderError::NoSize));
        assert_eq!(announced(&[("content-length", "1"), (size, "2")]), Err(HeaderError::Disagree));
        for number in ["x", "-1", "+1", "", "1 2", "9223372036854775808"] {
            let error = announced(&[("content-length", number)]).unwrap_err();
            assert!(matches!(error, HeaderError::Number(_)), "{number:?}");
        }
        for coding in ["gzip", "zstd, gzip", "zstd, zstd"] {
            let error = announced(&[("content-length", "1"), ("content-encoding", coding)]).unwrap_err();
            assert!(matches!(error, HeaderError::Coding(_)), "{coding}");
        }
    }

    #[test]
    fn what_answer_is_wanted() {
        let zstd = |value| accepted(&headers(&[("accept-encoding", value)])) == Compressor::Zstd;
        assert!(zstd("zstd") && zstd("gzip, deflate, ZSTD;q=0.5") && zstd("br;q=0, zstd; q=1"));
        assert!(!zstd("gzip") && !zstd("*") && !zstd("zstd;q=0") && !zstd("zstd; Q=0.000") && !zstd("zstdx"));
        let json = |value| wants_json(&headers(&[("accept", value)]));
        assert!(json("application/json") && json("text/html, Application/JSON;q=0.9"));
        assert!(!json("*/*") && !json("application/*") && !json("application/octet-stream"));
        assert!(is_json(&headers(&[("content-type", "application/json; charset=utf-8")])));
        assert!(!is_json(&headers(&[("content-type", "text/json")])));
        assert!(waits_to_send(&headers(&[("expect", "100-Continue")])));
        assert!(!waits_to_send(&headers(&[])));
    }

    #[test]
    fn who_is_asking() {
        let tool = |value: &str| metadata(&headers(&[("user-agent", value)])).tool();
        assert_eq!(tool("ccache/4.7.5"), "ccache 4.7.5");
        assert_eq!(tool("curl/7.88.1 extra"), "curl 7.88.1");
        assert_eq!(tool(""), "http");
        assert_eq!(tool("/1"), "http");
        assert_eq!(tool(&"x".repeat(101)), "http");
        assert_eq!(metadata(&HeaderMap::new()).build(), "http");
    }
}
