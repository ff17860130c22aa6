//! A client that costs as little as it can: requests are encoded once, and answers are looked at no
//! more than needed to know that they are right.

use bytes::{Buf, BufMut, Bytes};
use farmhand_proto::bytestream::{ReadRequest, WriteResponse};
use farmhand_proto::raw::{
    BatchReadBlobsResponse, BatchUpdateBlobsRequest, BlobUpdate, ReadResponse, WriteRequest,
};
use farmhand_proto::{any, longrunning, reapi, rpc};
use futures_util::stream::{self, Stream, StreamExt};
use http::uri::PathAndQuery;
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::BinaryMetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::super::error::CliError;
use super::{Blob, resource_name};
use crate::digest::Digest;

/// Bytes of a message of a stream.
const PIECE: usize = 1 << 20;

/// Bytes of the largest message taken.
const MAX_MESSAGE: usize = 16 << 20;

/// Bytes of blobs in a batch, below the 4 MiB that any server takes.
const BATCH_BYTES: usize = 3 << 20;

/// Blobs in a batch that is stored ahead of a measurement.
const BATCH_BLOBS: usize = 1000;

/// The header in which a client tells who is asking.
const METADATA_HEADER: &str = "build.bazel.remote.execution.v2.requestmetadata-bin";

/// A REAPI client of one instance.
#[derive(Clone)]
pub(in crate::cli) struct Client {
    channel: Channel,
    instance: String,
    /// An encoded RequestMetadata, for every call.
    metadata: Option<BinaryMetadataValue>,
}

/// Why a call did not do what it should.
#[derive(Clone, Debug, thiserror::Error)]
pub(in crate::cli) enum CallError {
    /// The server refused it, or one blob of it, or the action.
    #[error("{} ({:?})", .0.message(), .0.code())]
    Refused(Status),
    /// It answered, but wrongly.
    #[error("{0}")]
    Wrong(String),
}

/// Sends messages that are encoded already, and leaves those received as they are.
#[derive(Clone, Copy, Default)]
struct WireCodec;

// === impl CallError ===

impl CallError {
    pub(in crate::cli) fn wrong(what: impl Into<String>) -> Self {
        Self::Wrong(what.into())
    }

    /// The code of a refusal.
    pub(in crate::cli) fn code(&self) -> Option<Code> {
        match self {
            Self::Refused(status) => Some(status.code()),
            Self::Wrong(_) => None,
        }
    }
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        Self::Refused(status)
    }
}

impl From<CallError> for CliError {
    fn from(error: CallError) -> Self {
        Self::new(error.to_string())
    }
}

// === impl Client ===

impl Client {
    pub(in crate::cli) fn new(channel: Channel, instance: &str) -> Self {
        Self { channel, instance: instance.to_owned(), metadata: None }
    }

    /// The same client, which tells with every call on whose behalf it is made.
    pub(in crate::cli) fn on_behalf_of(&self, metadata: &reapi::RequestMetadata) -> Self {
        let metadata = BinaryMetadataValue::from_bytes(&metadata.encode_to_vec());
        Self { metadata: Some(metadata), ..self.clone() }
    }

    /// Name of the instance, for requests.
    pub(in crate::cli) fn instance(&self) -> String {
        self.instance.clone()
    }

    /// One call with encoded messages.
    pub(in crate::cli) async fn call(&self, path: &'static str, request: Bytes) -> Result<Bytes, CallError> {
        let path = PathAndQuery::from_static(path);
        Ok(self.grpc().await?.unary(self.with_metadata(request), path, WireCodec).await?.into_inner())
    }

    /// Stores blobs, in batches and streams.
    pub(in crate::cli) async fn store(&self, blobs: &[Blob]) -> Result<(), CallError> {
        let mut rest = blobs;
        while let Some(first) = rest.first() {
            if first.data.len() > BATCH_BYTES {
                self.write(first).await?;
                rest = &rest[1..];
            } else {
                let (batch, after) = rest.split_at(batch_len(rest));
                self.update(self.update_request(batch)).await?;
                rest = after;
            }
        }
        Ok(())
    }

    /// The request that stores these blobs in one batch.
    pub(in crate::cli) fn update_request(&self, blobs: &[Blob]) -> Bytes {
        let update = |blob: &Blob| BlobUpdate {
            digest: Some(blob.digest.to_wire()),
            data: blob.data.clone(),
            compressor: 0,
        };
        let requests = blobs.iter().map(update).collect();
        let request =
            BatchUpdateBlobsRequest { instance_name: self.instance(), requests, digest_function: 0 };
        encode(&request)
    }

    /// Stores a batch; all of it must be taken.
    pub(in crate::cli) async fn update(&self, request: Bytes) -> Result<(), CallError> {
        let path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs";
        let answer = self.call(path, request).await?;
        let answer: reapi::BatchUpdateBlobsResponse = decode(answer)?;
        check_all("stored", answer.responses.into_iter().map(|response| response.status))
    }

    /// Reads a batch; returns the bytes that came. All must be there.
    pub(in crate::cli) async fn read_batch(&self, request: Bytes) -> Result<usize, CallError> {
        let path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs";
        let answer: BatchReadBlobsResponse = decode(self.call(path, request).await?)?;
        let bytes = answer.responses.iter().map(|response| response.data.len()).sum();
        check_all("read", answer.responses.into_iter().map(|response| response.status))?;
        Ok(bytes)
    }

    /// Stores one blob by ByteStream.
    pub(in crate::cli) async fn write(&self, blob: &Blob) -> Result<(), CallError> {
        let data = blob.data.clone();
        let pieces =
            (0..data.len()).step_by(PIECE).map(move |at| data.slice(at..(at + PIECE).min(data.len())));
        self.write_pieces(&blob.digest, pieces).await
    }

    /// Stores one blob, made while it is sent.
    pub(in crate::cli) async fn write_pieces(
        &self,
        digest: &Digest,
        pieces: impl Iterator<Item = Bytes> + Send + 'static,
    ) -> Result<(), CallError> {
        let requests = stream::iter(requests(self.upload_name(digest), digest.size(), 0, pieces));
        self.send(digest, requests).await
    }

    /// Sends the first half of a blob, then nothing more, and never ends.
    pub(in crate::cli) async fn write_half(&self, blob: &Blob, name: String) -> Result<(), CallError> {
        let half = blob.data.slice(..blob.data.len() / 2);
        let first = requests(name, blob.digest.size(), 0, std::iter::once(half));
        self.send(&blob.digest, stream::iter(first).chain(stream::pending())).await
    }

    /// Sends the second half of a blob.
    pub(in crate::cli) async fn write_rest(&self, blob: &Blob, name: String) -> Result<(), CallError> {
        let half = blob.data.len() / 2;
        let rest = std::iter::once(blob.data.slice(half..));
        let requests = stream::iter(requests(name, blob.digest.size(), half as u64, rest));
        self.send(&blob.digest, requests).await
    }

    /// A name for a new upload of this blob.
    pub(in crate::cli) fn upload_name(&self, digest: &Digest) -> String {
        let slash = if self.instance.is_empty() { "" } else { "/" };
        let (upload, resource) = (uuid::Uuid::new_v4(), resource_name("", digest));
        format!("{}{slash}uploads/{upload}/{resource}", self.instance)
    }

    async fn send(
        &self,
        digest: &Digest,
        requests: impl Stream<Item = WriteRequest> + Send + 'static,
    ) -> Result<(), CallError> {
        let path = PathAndQuery::from_static("/google.bytestream.ByteStream/Write");
        let codec = ProstCodec::<_, WriteResponse>::default();
        let answer = self.grpc().await?.client_streaming(self.with_metadata(requests), path, codec).await?;
        let committed = answer.into_inner().committed_size;
        if u64::try_from(committed) == Ok(digest.size()) {
            return Ok(());
        }
        Err(CallError::wrong(format!("{committed} bytes of {} were taken", digest.size())))
    }

    /// Reads one blob by ByteStream; all of it must come.
    pub(in crate::cli) async fn read(&self, digest: &Digest) -> Result<(), CallError> {
        self.read_with(digest, |_| ()).await
    }

    /// Reads one blob by ByteStream and hands on each piece; all of it must come.
    pub(in crate::cli) async fn read_with(
        &self,
        digest: &Digest,
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), CallError> {
        let mut pieces = self.read_stream(digest).await?;
        let mut read = 0;
        while let Some(piece) = pieces.message().await? {
            read += piece.data.len() as u64;
            take(&piece.data);
        }
        if read == digest.size() {
            return Ok(());
        }
        Err(CallError::wrong(format!("{read} bytes of {} were read", digest.size())))
    }

    /// The answer to a Read of one blob.
    pub(in crate::cli) async fn read_stream(
        &self,
        digest: &Digest,
    ) -> Result<Streaming<ReadResponse>, CallError> {
        let name = resource_name(&self.instance, digest);
        let request = ReadRequest { resource_name: name, ..Default::default() };
        let path = PathAndQuery::from_static("/google.bytestream.ByteStream/Read");
        let codec = ProstCodec::<_, ReadResponse>::default();
        Ok(self.grpc().await?.server_streaming(self.with_metadata(request), path, codec).await?.into_inner())
    }

    /// Digests among these that the server does not have.
    pub(in crate::cli) async fn find_missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, CallError> {
        let request = reapi::FindMissingBlobsRequest {
            instance_name: self.instance(),
            blob_digests: digests.iter().map(Digest::to_wire).collect(),
            ..Default::default()
        };
        let path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs";
        let answer: reapi::FindMissingBlobsResponse = decode(self.call(path, encode(&request)).await?)?;
        let is_missing = |digest: &Digest| answer.missing_blob_digests.contains(&digest.to_wire());
        Ok(digests.into_iter().filter(is_missing).collect())
    }

    /// The result of an action in the action cache.
    pub(in crate::cli) async fn cached_result(
        &self,
        action: &Digest,
    ) -> Result<Option<reapi::ActionResult>, CallError> {
        let request = reapi::GetActionResultRequest {
            instance_name: self.instance(),
            action_digest: Some(action.to_wire()),
            ..Default::default()
        };
        let path = "/build.bazel.remote.execution.v2.ActionCache/GetActionResult";
        match self.call(path, encode(&request)).await {
            Ok(answer) => decode(answer).map(Some),
            Err(error) if error.code() == Some(Code::NotFound) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Runs an action to its end, which must be a success.
    pub(in crate::cli) async fn execute(&self, request: Bytes) -> Result<reapi::ExecuteResponse, CallError> {
        success(self.run(request).await?)
    }

    /// Runs an action to its end, whatever the exit code of its command.
    pub(in crate::cli) async fn run(&self, request: Bytes) -> Result<reapi::ExecuteResponse, CallError> {
        let path = PathAndQuery::from_static("/build.bazel.remote.execution.v2.Execution/Execute");
        let answer =
            self.grpc().await?.server_streaming(self.with_metadata(request), path, WireCodec).await?;
        let mut updates = answer.into_inner();
        let mut last = None;
        while let Some(update) = updates.message().await? {
            last = Some(update);
        }
        let last = last.ok_or_else(|| CallError::wrong("the server told nothing of the action"))?;
        finished(decode(last)?)
    }

    fn with_metadata<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(value) = &self.metadata {
            request.metadata_mut().insert_bin(METADATA_HEADER, value.clone());
        }
        request
    }

    async fn grpc(&self) -> Result<tonic::client::Grpc<Channel>, CallError> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(format!("the connection is lost: {error}")))?;
        Ok(grpc)
    }
}

/// The messages of a Write of `pieces` into an upload of `size` bytes, from `offset` on.
fn requests(
    name: String,
    size: u64,
    offset: u64,
    pieces: impl Iterator<Item = Bytes> + Send + 'static,
) -> impl Iterator<Item = WriteRequest> + Send + 'static {
    let (mut name, mut sent) = (Some(name), offset);
    pieces.map(move |data| {
        let offset = sent;
        sent += data.len() as u64;
        WriteRequest {
            resource_name: name.take().unwrap_or_default(),
            write_offset: i64::try_from(offset).unwrap_or(i64::MAX),
            finish_write: sent == size,
            data,
        }
    })
}

/// How many of these fit into one batch; one at least.
fn batch_len(blobs: &[Blob]) -> usize {
    let mut bytes = 0;
    let fits = |blob: &&Blob| {
        bytes += blob.data.len();
        bytes <= BATCH_BYTES
    };
    blobs.iter().take(BATCH_BLOBS).take_while(fits).count().max(1)
}

fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

fn decode<M: Message + Default>(message: Bytes) -> Result<M, CallError> {
    M::decode(message).map_err(|error| CallError::wrong(format!("the server sent nonsense: {error}")))
}

fn check_all(done: &str, statuses: impl Iterator<Item = Option<rpc::Status>>) -> Result<(), CallError> {
    match statuses.flatten().find(|status| status.code != 0) {
        Some(status) => Err(refused(&format!("a blob was not {done}"), &status)),
        None => Ok(()),
    }
}

fn refused(what: &str, status: &rpc::Status) -> CallError {
    Status::new(Code::from(status.code), format!("{what}: {}", status.message)).into()
}

/// The response of an operation whose command was run to its end.
fn finished(operation: longrunning::Operation) -> Result<reapi::ExecuteResponse, CallError> {
    let response = match &operation.result {
        Some(longrunning::operation::Result::Response(any)) => any::unpack::<reapi::ExecuteResponse>(any),
        _ => None,
    };
    let response =
        response.ok_or_else(|| CallError::wrong("the server ended the action without a response"))?;
    if let Some(status) = response.status.as_ref().filter(|status| status.code != 0) {
        return Err(refused("the action was not run", status));
    }
    Ok(response)
}

/// The same response, if the command ended well.
fn success(response: reapi::ExecuteResponse) -> Result<reapi::ExecuteResponse, CallError> {
    match &response.result {
        Some(result) if result.exit_code == 0 => Ok(response),
        Some(result) => {
            Err(CallError::wrong(format!("the action ended with exit code {}", result.exit_code)))
        }
        None => Err(CallError::wrong("the response has no result")),
    }
}

// === impl WireCodec ===

impl Codec for WireCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for WireCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.len());
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for WireCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(response: reapi::ExecuteResponse) -> longrunning::Operation {
        longrunning::Operation {
            done: true,
            result: Some(longrunning::operation::Result::Response(any::pack(&response))),
            ..Default::default()
        }
    }

    #[test]
    fn only_a_success_counts() {
        let with_code = |exit_code| reapi::ExecuteResponse {
            result: Some(reapi::ActionResult { exit_code, ..Default::default() }),
            ..Default::default()
        };
        let end = |response| finished(done(response)).and_then(success);
        assert_eq!(end(with_code(0)).unwrap(), with_code(0));
        assert!(end(with_code(1)).is_err() && finished(done(with_code(1))).is_ok());
        let refused = rpc::Status { code: 9, message: "no".into(), details: Vec::new() };
        let refused = end(reapi::ExecuteResponse { status: Some(refused), ..with_code(0) });
        assert_eq!(refused.unwrap_err().code(), Some(Code::FailedPrecondition));
        assert!(end(reapi::ExecuteResponse::default()).is_err());
        assert!(finished(longrunning::Operation::default()).is_err());
    }

    #[test]
    fn one_refused_blob_spoils_a_batch() {
        let status = |code| Some(rpc::Status { code, message: "full".into(), details: Vec::new() });
        check_all("stored", [None, status(0)].into_iter()).unwrap();
        let error = check_all("stored", [status(0), status(8)].into_iter()).unwrap_err();
        assert_eq!(error.to_string(), "a blob was not stored: full (ResourceExhausted)");
    }

    #[test]
    fn batches_are_filled_up_to_their_limit() {
        let blobs = |number, len| vec![Blob::new(vec![0; len]); number];
        assert_eq!(batch_len(&blobs(5, 1 << 20)), 3);
        assert_eq!(batch_len(&blobs(1, BATCH_BYTES + 1)), 1);
        assert_eq!(batch_len(&blobs(BATCH_BLOBS + 1, 1)), BATCH_BLOBS);
    }

    #[test]
    fn a_blob_is_written_in_pieces_and_named_once() {
        let data = [Bytes::from_static(b"ab"), Bytes::from_static(b"c")];
        let made: Vec<_> = requests("name".into(), 5, 2, data.into_iter()).collect();
        let facts = |request: &WriteRequest| {
            (request.resource_name.clone(), request.write_offset, request.finish_write)
        };
        assert_eq!(facts(&made[0]), ("name".into(), 2, false));
        assert_eq!(facts(&made[1]), (String::new(), 4, true));
    }

    #[tokio::test]
    async fn uploads_are_named_below_their_instance() {
        let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let blob = Blob::new("x");
        let client = Client::new(channel, "a/b");
        let name = client.upload_name(&blob.digest);
        assert!(name.starts_with("a/b/uploads/") && name.ends_with(&format!("/blobs/{}", blob.digest)));
    }

    #[tokio::test]
    async fn who_asks_is_told_with_every_call() {
        let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let client = Client::new(channel, "");
        assert!(client.with_metadata(()).metadata().is_empty());
        let metadata = reapi::RequestMetadata { target_id: "//a:b".into(), ..Default::default() };
        let request = client.on_behalf_of(&metadata).with_metadata(());
        let told = request.metadata().get_bin(METADATA_HEADER).unwrap().to_bytes().unwrap();
        assert_eq!(reapi::RequestMetadata::decode(told).unwrap(), metadata);
    }
}
