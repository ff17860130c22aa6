//! `/ac`: results of actions by the hash of the action, and whatever else clients keep under one.
//!
//! A body that is an `ActionResult` goes to the action cache of gRPC, with its checks. Its key has a size, which
//! a client of HTTP does not tell: it is that of the Action where that is stored, as build tools do, and 0
//! where it is not.
//!
//! Some tools keep bytes of their own here: ccache does. They become blobs of at most [`PIECE`] bytes, listed
//! by a result under a key of its own (`sha256(domain, hash)`), which gives them the copies, the lease and the
//! completeness of any result. `http-results = "checked"` refuses them.

use std::pin::pin;
use std::sync::LazyLock;

use bytes::Bytes;
use farmhand_proto::reapi::{ActionResult, OutputFile};
use futures_util::future::{Either, select};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use prost::Message;
use sha2::Digest as _;
use tonic::body::Body;

use super::HttpService;
use super::headers::{self, Announced};
use super::incoming::{Decoded, Incoming};
use super::outgoing;
use super::refusal::Refusal;
use crate::action_cache::ActionKey;
use crate::cas::compression::Compressor;
use crate::cas::{BlobStream, ByteRange};
use crate::config::HttpResults;
use crate::digest::{BlobHash, Digest, DigestFunction, Hasher};
use crate::instance::InstanceName;
use crate::rpc::server::Held;
use crate::rpc::{Instance, MAX_SENT_MESSAGE};

/// Bytes of one blob of a body that is no result; a body that could be one has no more.
const PIECE: usize = MAX_SENT_MESSAGE;

/// Blobs of one body.
const PIECES: u64 = 8192;

/// Separates these keys from all others.
const DOMAIN: &[u8] = b"farmhand http body\0";

/// What is told of bytes that are no result.
static NO_RESULT: LazyLock<ActionResult> = LazyLock::new(ActionResult::default);

/// What is kept under the hash of an action.
enum Kept {
    /// The result of this action.
    Result(Digest, Box<ActionResult>),
    /// Other bytes: the blobs they are in.
    Other(Vec<Digest>),
}

// === reading ===

impl HttpService {
    /// What is kept under that hash, whole, or what is to be known of it.
    pub(super) async fn get_result(
        &self,
        head: &Parts,
        instance: &Instance,
        hash: &BlobHash,
    ) -> Result<Response<Body>, Refusal> {
        let (other, result) = (self.find_other(&instance.name, hash), self.find_result(&instance.name, hash));
        // Who has both put one after the other; neither waits for machines that do not have the other.
        let kept = match select(pin!(other), pin!(result)).await {
            Either::Left((Ok(None), result)) => result.await?,
            Either::Left((other, _)) => other?,
            Either::Right((Ok(None), other)) => other.await?,
            Either::Right((result, _)) => result?,
        };
        let found = match &kept {
            None => None,
            Some(Kept::Result(action, result)) => Some((*action, &**result)),
            Some(Kept::Other(_)) => Some((hash.sized(0), &*NO_RESULT)),
        };
        let action = found.map_or_else(|| hash.sized(0), |(action, _)| action);
        let key = ActionKey { instance: instance.name.clone(), action };
        let metadata = headers::metadata(&head.headers);
        self.0.parts.results.told_lookup(&key, &metadata, found.map(|(_, result)| result));
        match kept {
            None => {
                let text = format!("no result is stored for action {hash}, or not all that it names");
                Err(Refusal::new(StatusCode::NOT_FOUND, text))
            }
            Some(Kept::Result(_, result)) => written(&result, headers::wants_json(&head.headers)),
            Some(Kept::Other(blobs)) => self.get_other(head, blobs).await,
        }
    }

    /// The complete result of the action of that hash.
    async fn find_result(&self, instance: &InstanceName, hash: &BlobHash) -> Result<Option<Kept>, Refusal> {
        let (action, without_size) = (self.action(hash).await?, hash.sized(0));
        let also = (action != without_size).then_some(without_size);
        for action in [Some(action), also].into_iter().flatten() {
            let key = ActionKey { instance: instance.clone(), action };
            if let Some(result) = self.0.parts.results.find(&key).await? {
                return Ok(Some(Kept::Result(action, Box::new(result))));
            }
        }
        Ok(None)
    }

    /// The digest of the Action of that hash; without a size if it is not stored.
    async fn action(&self, hash: &BlobHash) -> Result<Digest, Refusal> {
        Ok(self.0.parts.cas.find(hash).await?.unwrap_or_else(|| hash.sized(0)))
    }

    /// The blobs of the bytes kept under that hash, all of which are there.
    async fn find_other(&self, instance: &InstanceName, hash: &BlobHash) -> Result<Option<Kept>, Refusal> {
        let key = other_key(instance, hash);
        let Some(listed) = self.0.parts.results.find(&key).await? else { return Ok(None) };
        let digest = |file: &OutputFile| Digest::from_field(DigestFunction::Sha256, file.digest.as_ref());
        let blobs: Result<Vec<Digest>, _> = listed.output_files.iter().map(digest).collect();
        Ok(Some(blobs?).filter(|blobs| !blobs.is_empty()).map(Kept::Other))
    }

    async fn get_other(&self, head: &Parts, blobs: Vec<Digest>) -> Result<Response<Body>, Refusal> {
        let size = blobs.iter().map(Digest::size).sum();
        let meter = self.meter(head);
        if head.method == Method::HEAD {
            return outgoing::blob(Box::pin(stream::empty()), size, Compressor::Identity, meter);
        }
        let cas = self.0.parts.cas.clone();
        let mut blobs = blobs.into_iter();
        let Some(first) = blobs.next() else { return Ok(outgoing::done()) };
        let first = cas.read(&first, ByteRange::default()).await?;
        let rest = stream::iter(blobs).then(move |blob| {
            let cas = cas.clone();
            async move { cas.read(&blob, ByteRange::default()).await }
        });
        let all: BlobStream = Box::pin(first.chain(rest.try_flatten()));
        outgoing::blob(all, size, headers::accepted(&head.headers), meter)
    }
}

/// A result as it is sent.
fn written(result: &ActionResult, as_json: bool) -> Result<Response<Body>, Refusal> {
    if !as_json {
        return Ok(outgoing::whole(outgoing::BYTES, result.encode_to_vec()));
    }
    let text = serde_json::to_vec(result).map_err(|error| {
        let text = format!("the result cannot be written as JSON: {error}");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    })?;
    Ok(outgoing::whole(headers::JSON, text))
}

/// Where bytes are listed that are no result.
fn other_key(instance: &InstanceName, hash: &BlobHash) -> ActionKey {
    let mut key = sha2::Sha256::new();
    key.update(DOMAIN);
    key.update(hash.to_bytes());
    let action = Digest::from_parts(DigestFunction::Sha256, key.finalize().into(), 0);
    ActionKey { instance: instance.clone(), action }
}

// === writing ===

impl HttpService {
    /// Keeps what comes under that hash.
    pub(super) async fn put_result(
        &self,
        head: &Parts,
        body: &mut Incoming,
        instance: Instance,
        hash: &BlobHash,
    ) -> Result<Response<Body>, Refusal> {
        self.0.parts.results.check_updates(&instance)?;
        let announced = Announced::read(&head.headers)?;
        if announced.size > PIECES * PIECE as u64 {
            let text = format!("{} bytes are more than are kept under one hash", announced.size);
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        let held = usize::try_from(announced.size).unwrap_or(PIECE).min(PIECE);
        let _held = Held::for_call(&head.extensions, held as u64);
        let mut data = body.decoded(announced, self.meter(head))?;
        let first = data.collect(PIECE).await?;
        let is_whole = first.len() as u64 == announced.size;
        if headers::is_json(&head.headers) {
            let result = if is_whole { from_json(&first)? } else { return Err(no_result()) };
            return self.store_result(head, instance, hash, result).await;
        }
        match result_in(&first).filter(|_| is_whole) {
            Some(result) => self.store_result(head, instance, hash, result).await,
            None if self.0.parts.other_results == HttpResults::Any => {
                self.store_other(head, &instance.name, hash, announced, first, data).await
            }
            None => Err(no_result()),
        }
    }

    async fn store_result(
        &self,
        head: &Parts,
        instance: Instance,
        hash: &BlobHash,
        result: ActionResult,
    ) -> Result<Response<Body>, Refusal> {
        let results = &self.0.parts.results;
        let (action, other) = (self.action(hash).await?, other_key(&instance.name, hash));
        results.update(instance, action, result, &headers::metadata(&head.headers)).await?;
        // Bytes that were kept under this hash before would go on hiding it.
        if results.find(&other).await?.is_some_and(|listed| !listed.output_files.is_empty()) {
            results.keep(&other, ActionResult::default()).await?;
        }
        Ok(outgoing::done())
    }

    /// Stores bytes that are no result, of which `first` has come.
    async fn store_other(
        &self,
        head: &Parts,
        instance: &InstanceName,
        hash: &BlobHash,
        announced: Announced,
        first: Bytes,
        mut data: Decoded<'_>,
    ) -> Result<Response<Body>, Refusal> {
        let (mut listed, mut come) = (Vec::new(), 0);
        let mut piece = first;
        while !piece.is_empty() {
            come += piece.len() as u64;
            let mut hasher = Hasher::new(DigestFunction::Sha256);
            hasher.update(&piece);
            let digest = hasher.finish();
            self.0.parts.cas.put(&digest, piece).await?;
            let path = listed.len().to_string();
            listed.push(OutputFile { path, digest: Some(digest.to_wire()), ..OutputFile::default() });
            piece = data.collect(PIECE).await?;
        }
        if come != announced.size {
            let text = format!("{come} bytes came of the {} announced", announced.size);
            return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
        }
        let result = ActionResult { output_files: listed, ..ActionResult::default() };
        let key = other_key(instance, hash);
        self.0.parts.results.keep(&key, result).await?;
        let action = ActionKey { action: hash.sized(0), ..key };
        self.0.parts.results.told_update(
            &action,
            &headers::metadata(&head.headers),
            &ActionResult::default(),
        );
        Ok(outgoing::done())
    }
}

/// The result that `data` is; `None` if it is none. Nearly all bytes that are none do not decode; the rest has
/// nothing in it that a result has.
fn result_in(data: &Bytes) -> Option<ActionResult> {
    let result = ActionResult::decode(data.clone()).ok()?;
    (data.is_empty() || result != ActionResult::default()).then_some(result)
}

fn from_json(data: &[u8]) -> Result<ActionResult, Refusal> {
    serde_json::from_slice(data).map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, format!("the body is no ActionResult as JSON: {error}"))
    })
}

fn no_result() -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, "the body is no ActionResult, and nothing else is kept here")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn results_are_told_from_other_bytes() {
        let digest = Digest::of(DigestFunction::Sha256, b"x").to_wire();
        let result = ActionResult { stdout_digest: Some(digest), ..ActionResult::default() };
        for result in [result, ActionResult { exit_code: 3, ..Default::default() }, ActionResult::default()] {
            assert_eq!(result_in(&result.encode_to_vec().into()), Some(result));
        }
        // What ccache, gzip, zstd, ELF, ar and zip begin with, and texts.
        let others: [&[u8]; 9] = [
            &[0xcc, 0xac, 0, 1, 2],
            &[0x1f, 0x8b, 8, 0],
            &[0x28, 0xb5, 0x2f, 0xfd, 4],
            b"\x7fELF\x02\x01\x01",
            b"!<arch>\n",
            b"PK\x03\x04",
            b"{\"a\": 1}",
            b"garbage",
            b"not a result\n",
        ];
        for other in others {
            assert_eq!(result_in(&Bytes::from_static(other)), None, "{other:?}");
        }
    }

    #[test]
    fn keys_of_other_bytes_are_their_own() {
        let hash = |data: &[u8]| BlobHash::from(&Digest::of(DigestFunction::Sha256, data));
        let instance = InstanceName::default();
        let key = other_key(&instance, &hash(b"a"));
        assert_ne!(key.action, other_key(&instance, &hash(b"b")).action);
        assert_ne!(BlobHash::from(&key.action), hash(b"a"));
        let blake3 = BlobHash::from(&Digest::of(DigestFunction::Blake3, b"a"));
        assert_ne!(key.action, other_key(&instance, &blake3).action);
    }

    proptest! {
        #[test]
        fn a_result_comes_back_from_json(exit_code: i32, stdout: Vec<u8>, path in "[a-z/]{0,20}", size in 0i64..i64::MAX) {
            let digest = farmhand_proto::reapi::Digest { hash: "ab".repeat(32), size_bytes: size };
            let file = OutputFile { path, digest: Some(digest), is_executable: true, ..Default::default() };
            let result = ActionResult { exit_code, stdout_raw: stdout, output_files: vec![file], ..Default::default() };
            let json = serde_json::to_vec(&result).unwrap();
            prop_assert_eq!(from_json(&json).unwrap(), result);
        }
    }
}
