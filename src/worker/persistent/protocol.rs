//! The messages between a node and a persistent worker: Bazel's `worker_protocol.proto`, as protobuf with a
//! length in front, or as JSON.
//!
//! One request at a time, with number 0. What a worker says is hostile: an answer is bounded, its length is
//! believed only as far as bytes come, and whatever else it says ends it.

use std::borrow::Cow;

use base64::prelude::{BASE64_STANDARD as BASE64, Engine};
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::platform::WorkerProtocol;
use crate::worker::inputs::InputFile;

/// Bytes an answer may have.
pub(super) const MAX_ANSWER: usize = 16 << 20;

/// Bytes of what was no answer that are shown.
const SHOWN: usize = 120;

/// What fields of a response in protobuf begin with.
const FIELDS: [u8; 4] = [0x08, 0x12, 0x18, 0x20];

/// `blaze.worker.WorkRequest`.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(in crate::worker) struct WorkRequest {
    #[prost(string, repeated, tag = "1")]
    arguments: Vec<String>,
    #[prost(message, repeated, tag = "2")]
    inputs: Vec<Input>,
}

/// `blaze.worker.Input`.
#[derive(Clone, PartialEq, Message, Serialize)]
struct Input {
    #[prost(string, tag = "1")]
    path: String,
    /// The hash in hexadecimal digits, as Bazel sends it.
    #[prost(bytes = "vec", tag = "2")]
    #[serde(serialize_with = "as_base64")]
    digest: Vec<u8>,
}

/// `blaze.worker.WorkResponse`.
#[derive(Clone, PartialEq, Eq, Message, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct WorkResponse {
    /// As of a process.
    #[prost(int32, tag = "1")]
    #[serde(alias = "exit_code")]
    pub(crate) exit_code: i32,
    /// What is shown to people. Text, but nothing depends on it.
    #[prost(bytes = "vec", tag = "2")]
    #[serde(deserialize_with = "text")]
    pub(crate) output: Vec<u8>,
    /// Which request this answers.
    #[prost(int32, tag = "3")]
    #[serde(alias = "request_id")]
    pub(crate) request_id: i32,
    /// Whether it answers that the request was cancelled.
    #[prost(bool, tag = "4")]
    #[serde(alias = "was_cancelled")]
    pub(crate) was_cancelled: bool,
}

/// An answer that comes in pieces.
#[derive(Debug)]
pub(crate) struct Answer {
    protocol: WorkerProtocol,
    buffer: Vec<u8>,
}

/// What a worker said is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AnswerError {
    /// Not a message.
    #[error("it wrote {0:?} to its stdout, where only answers may be")]
    Nonsense(String),
    /// More than an answer may have.
    #[error("its answer has {0} bytes, and {MAX_ANSWER} is the most")]
    TooLong(u64),
    /// More than one answer.
    #[error("it wrote more than its answer to its stdout: {0:?}")]
    Surplus(String),
    /// The answer to something else.
    #[error("it answered request {0}, which nobody asked")]
    Number(i32),
    /// The request was never cancelled.
    #[error("it says that its request was cancelled, which nobody did")]
    Cancelled,
}

// === impl WorkRequest ===

impl WorkRequest {
    /// A request with these arguments, for a worker whose working directory is `way` below the root that has
    /// `inputs`.
    pub(in crate::worker) fn new(arguments: Vec<String>, inputs: &[InputFile], way: &str) -> Self {
        let inputs = inputs.iter().map(|input| Input {
            path: relative(&input.path, way).into_owned(),
            digest: input.digest.hash_hex().into_bytes(),
        });
        Self { arguments, inputs: inputs.collect() }
    }

    /// The bytes that are sent.
    pub(in crate::worker) fn bytes(&self, protocol: WorkerProtocol) -> Vec<u8> {
        match protocol {
            WorkerProtocol::Proto => self.encode_length_delimited_to_vec(),
            WorkerProtocol::Json => {
                let mut text =
                    serde_json::to_vec(self).expect("invariant: strings and lists are always JSON");
                text.push(b'\n');
                text
            }
        }
    }
}

// === impl Answer ===

impl Answer {
    /// Nothing yet.
    pub(crate) fn new(protocol: WorkerProtocol) -> Self {
        Self { protocol, buffer: Vec::new() }
    }

    /// More bytes have come. The response, once it is whole.
    ///
    /// # Errors
    /// [`AnswerError`]: nothing that comes later makes it better.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Option<WorkResponse>, AnswerError> {
        self.buffer.extend_from_slice(bytes);
        let response = match self.protocol {
            WorkerProtocol::Proto => self.protobuf()?,
            WorkerProtocol::Json => self.json(bytes)?,
        };
        match response {
            Some(response) if response.was_cancelled => Err(AnswerError::Cancelled),
            Some(WorkResponse { request_id, .. }) if request_id != 0 => Err(AnswerError::Number(request_id)),
            None if self.buffer.len() > MAX_ANSWER + 16 => {
                Err(AnswerError::TooLong(self.buffer.len() as u64))
            }
            response => Ok(response),
        }
    }

    fn protobuf(&self) -> Result<Option<WorkResponse>, AnswerError> {
        let Some((length, header)) = varint(&self.buffer).map_err(|()| self.nonsense())? else {
            return Ok(None);
        };
        if length > MAX_ANSWER as u64 {
            return Err(AnswerError::TooLong(length));
        }
        // Text that somebody printed is found at once, and not taken for a length that never comes.
        let body = &self.buffer[header..];
        if length > 0 && body.first().is_some_and(|key| !FIELDS.contains(key)) {
            return Err(self.nonsense());
        }
        let length = length as usize;
        if body.len() < length {
            return Ok(None);
        }
        let response = WorkResponse::decode(&body[..length]).map_err(|_| self.nonsense())?;
        if body.len() > length {
            Err(AnswerError::Surplus(shown(&body[length..])))
        } else {
            Ok(Some(response))
        }
    }

    fn json(&self, latest: &[u8]) -> Result<Option<WorkResponse>, AnswerError> {
        let text = self.buffer.trim_ascii_start();
        if text.first().is_some_and(|first| *first != b'{') {
            return Err(self.nonsense());
        }
        // Only where an object may have ended, so that long ones are not read over and over.
        if !latest.contains(&b'}') {
            return Ok(None);
        }
        let mut objects = serde_json::Deserializer::from_slice(text).into_iter::<WorkResponse>();
        match objects.next() {
            None => Ok(None),
            Some(Ok(response)) => {
                let rest = text[objects.byte_offset()..].trim_ascii();
                if rest.is_empty() { Ok(Some(response)) } else { Err(AnswerError::Surplus(shown(rest))) }
            }
            Some(Err(error)) if error.is_eof() => Ok(None),
            Some(Err(_)) => Err(self.nonsense()),
        }
    }

    fn nonsense(&self) -> AnswerError {
        AnswerError::Nonsense(shown(&self.buffer))
    }
}

/// The number at the beginning and its length; `None` while it is not whole.
fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, ()> {
    let mut number = 0_u64;
    for (index, byte) in bytes.iter().enumerate() {
        if index == 9 && *byte > 1 {
            return Err(());
        }
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((number, index + 1)));
        }
    }
    Ok(None)
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).into_owned()
}

/// `path`, which starts at the root, as seen from `way`.
fn relative<'a>(path: &'a str, way: &str) -> Cow<'a, str> {
    let mut names = way.split('/').filter(|name| !name.is_empty());
    let mut rest = path;
    while let Some(name) = names.next() {
        match rest.strip_prefix(name).and_then(|rest| rest.strip_prefix('/')) {
            Some(below) => rest = below,
            None => return Cow::Owned("../".repeat(1 + names.count()) + rest),
        }
    }
    Cow::Borrowed(rest)
}

/// Bytes as the JSON of protobuf has them.
fn as_base64<S: serde::Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64.encode(bytes))
}

fn text<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    String::deserialize(deserializer).map(String::into_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::{Digest, DigestFunction};

    fn input(path: &str) -> InputFile {
        let digest = Digest::of(DigestFunction::Sha256, path.as_bytes());
        InputFile { path: path.into(), digest, is_executable: false, is_tool: false }
    }

    fn feed(protocol: WorkerProtocol, bytes: &[u8]) -> Result<Option<WorkResponse>, AnswerError> {
        Answer::new(protocol).feed(bytes)
    }

    #[test]
    fn requests_are_as_in_the_definition() {
        let request = WorkRequest::new(vec!["-d".into(), "out".into()], &[input("a/b")], "");
        let hash = input("a/b").digest.hash_hex();
        let protobuf = request.bytes(WorkerProtocol::Proto);
        // Length; arguments; one input of 71 bytes: its path, its digest as digits.
        let mut expected = vec![82, 0x0a, 2, b'-', b'd', 0x0a, 3, b'o', b'u', b't', 0x12, 71, 0x0a, 3];
        expected.extend_from_slice(b"a/b");
        expected.extend_from_slice(&[0x12, 64]);
        expected.extend_from_slice(hash.as_bytes());
        assert_eq!(protobuf, expected);
        let digest = BASE64.encode(hash);
        let json = String::from_utf8(request.bytes(WorkerProtocol::Json)).unwrap();
        let inputs = format!(r#"[{{"path":"a/b","digest":"{digest}"}}]"#);
        assert_eq!(json, format!(r#"{{"arguments":["-d","out"],"inputs":{inputs}}}"#) + "\n");
    }

    #[test]
    fn paths_are_told_from_the_working_directory() {
        for (path, way, told) in [
            ("a/b", "", "a/b"),
            ("main/a", "main", "a"),
            ("external/x", "main", "../external/x"),
            ("mainly/x", "main", "../mainly/x"),
            ("a/c/x", "a/b", "../c/x"),
            ("c/x", "a/b", "../../c/x"),
        ] {
            assert_eq!(relative(path, way), told, "{path} from {way}");
        }
    }

    #[test]
    fn answers_in_json_have_both_spellings() {
        let full = br#" {"exitCode": 3, "output": "}{", "other": [1]} "#;
        let response = feed(WorkerProtocol::Json, full).unwrap().unwrap();
        assert_eq!((response.exit_code, response.output.as_slice()), (3, b"}{".as_slice()));
        assert_eq!(feed(WorkerProtocol::Json, br#"{"exit_code":2}"#).unwrap().unwrap().exit_code, 2);
        assert_eq!(feed(WorkerProtocol::Json, br#"{"output":"}"#), Ok(None));
        assert!(matches!(feed(WorkerProtocol::Json, b"hello"), Err(AnswerError::Nonsense(_))));
        assert!(matches!(feed(WorkerProtocol::Json, b"{}{}"), Err(AnswerError::Surplus(_))));
    }

    #[test]
    fn what_is_no_answer_is_told_as_what_it_is() {
        let printed = feed(WorkerProtocol::Proto, b"Hello").unwrap_err();
        assert_eq!(printed, AnswerError::Nonsense("Hello".into()));
        assert!(matches!(feed(WorkerProtocol::Proto, &[0xff; 10]), Err(AnswerError::Nonsense(_))));
        let huge = [0xff, 0xff, 0xff, 0xff, 0x7f];
        assert!(matches!(feed(WorkerProtocol::Proto, &huge), Err(AnswerError::TooLong(_))));
        let numbered = WorkResponse { request_id: 7, ..Default::default() };
        assert_eq!(
            feed(WorkerProtocol::Proto, &numbered.encode_length_delimited_to_vec()),
            Err(AnswerError::Number(7))
        );
        let cancelled = WorkResponse { was_cancelled: true, ..Default::default() };
        assert_eq!(
            feed(WorkerProtocol::Proto, &cancelled.encode_length_delimited_to_vec()),
            Err(AnswerError::Cancelled)
        );
        assert!(matches!(feed(WorkerProtocol::Proto, &[0, 1]), Err(AnswerError::Surplus(_))));
        let endless = [b"{\"output\":\"".as_slice(), &vec![b'x'; MAX_ANSWER + 16]].concat();
        assert!(matches!(feed(WorkerProtocol::Json, &endless), Err(AnswerError::TooLong(_))));
    }

    proptest! {
        #[test]
        fn answers_are_the_same_however_they_come(
            exit_code in any::<i32>(),
            output in prop::collection::vec(any::<u8>(), 0..300),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
        ) {
            let response = WorkResponse { exit_code, output, ..Default::default() };
            let bytes = response.encode_length_delimited_to_vec();
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let mut answer = Answer::new(WorkerProtocol::Proto);
            let mut got = None;
            for piece in cuts.windows(2) {
                prop_assert!(got.is_none() || piece[0] == piece[1]);
                if piece[0] < piece[1] {
                    got = answer.feed(&bytes[piece[0]..piece[1]]).unwrap();
                }
            }
            prop_assert_eq!(got, Some(response));
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for protocol in [WorkerProtocol::Proto, WorkerProtocol::Json] {
                let _ = feed(protocol, &bytes);
            }
        }
    }
}
