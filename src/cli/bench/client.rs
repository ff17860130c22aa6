//! A client that costs as little as it can: requests are encoded once, and answers are looked at no
//! more than needed to know that they are right.

use bytes::{Buf, BufMut, Bytes};
use farmhand_proto::bytestream::{ReadRequest, WriteResponse};
use farmhand_proto::raw::{
    BatchReadBlobsResponse, BatchUpdateBlobsRequest, BlobUpdate, ReadResponse, WriteRequest,
};
use farmhand_proto::{any, longrunning, reapi, rpc};
use futures_util::stream;
use http::uri::PathAndQuery;
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{IntoRequest, IntoStreamingRequest, Status};
use tonic_prost::ProstCodec;

use super::super::error::CliError;
use super::super::remote::resource_name;
use super::blobs::Blob;
use crate::digest::Digest;

/// Bytes of a message of a stream.
const PIECE: usize = 1 << 20;

/// Bytes of the largest message taken.
const MAX_MESSAGE: usize = 16 << 20;

/// Bytes of blobs in a batch, below the 4 MiB that any server takes.
const BATCH_BYTES: usize = 3 << 20;

/// Blobs in a batch that is stored ahead of a measurement.
const BATCH_BLOBS: usize = 1000;

/// A REAPI client of one instance.
#[derive(Clone)]
pub(super) struct Client {
    channel: Channel,
    instance: String,
}

/// Sends messages that are encoded already, and leaves those received as they are.
#[derive(Clone, Copy, Default)]
struct WireCodec;

// === impl Client ===

impl Client {
    pub(super) fn new(channel: Channel, instance: &str) -> Self {
        Self { channel, instance: instance.to_owned() }
    }

    /// Name of the instance, for requests.
    pub(super) fn instance(&self) -> String {
        self.instance.clone()
    }

    /// One call with encoded messages.
    pub(super) async fn call(&self, path: &'static str, request: Bytes) -> Result<Bytes, CliError> {
        let path = PathAndQuery::from_static(path);
        Ok(self.grpc().await?.unary(request.into_request(), path, WireCodec).await?.into_inner())
    }

    /// Stores blobs, in batches and streams.
    pub(super) async fn store(&self, blobs: &[Blob]) -> Result<(), CliError> {
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
    pub(super) fn update_request(&self, blobs: &[Blob]) -> Bytes {
        let update = |blob: &Blob| BlobUpdate {
            digest: Some(blob.digest.to_wire()),
            data: blob.data.clone(),
            compressor: 0,
        };
        let requests = blobs.iter().map(update).collect();
        let request =
            BatchUpdateBlobsRequest { instance_name: self.instance(), requests, digest_function: 0 };
        request.encode_to_vec().into()
    }

    /// Stores a batch; all of it must be taken.
    pub(super) async fn update(&self, request: Bytes) -> Result<(), CliError> {
        let path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs";
        let answer = self.call(path, request).await?;
        let answer: reapi::BatchUpdateBlobsResponse = decode(answer)?;
        check_all("stored", answer.responses.into_iter().map(|response| response.status))
    }

    /// Reads a batch; returns the bytes that came. All must be there.
    pub(super) async fn read_batch(&self, request: Bytes) -> Result<usize, CliError> {
        let path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs";
        let answer: BatchReadBlobsResponse = decode(self.call(path, request).await?)?;
        let bytes = answer.responses.iter().map(|response| response.data.len()).sum();
        check_all("read", answer.responses.into_iter().map(|response| response.status))?;
        Ok(bytes)
    }

    /// Stores one blob by ByteStream.
    pub(super) async fn write(&self, blob: &Blob) -> Result<(), CliError> {
        let pieces = stream::iter(self.pieces(blob));
        let path = PathAndQuery::from_static("/google.bytestream.ByteStream/Write");
        let codec = ProstCodec::<_, WriteResponse>::default();
        let answer =
            self.grpc().await?.client_streaming(pieces.into_streaming_request(), path, codec).await?;
        let committed = answer.into_inner().committed_size;
        if usize::try_from(committed) == Ok(blob.data.len()) {
            return Ok(());
        }
        Err(CliError::new(format!("{committed} bytes of {} were taken", blob.data.len())))
    }

    /// The messages of a Write.
    fn pieces(&self, blob: &Blob) -> impl Iterator<Item = WriteRequest> + Send + use<> {
        let slash = if self.instance.is_empty() { "" } else { "/" };
        let (upload, resource) = (uuid::Uuid::new_v4(), resource_name("", &blob.digest));
        let mut name = Some(format!("{}{slash}uploads/{upload}/{resource}", self.instance));
        let data = blob.data.clone();
        (0..data.len()).step_by(PIECE).map(move |offset| {
            let end = (offset + PIECE).min(data.len());
            WriteRequest {
                resource_name: name.take().unwrap_or_default(),
                write_offset: i64::try_from(offset).unwrap_or(i64::MAX),
                finish_write: end == data.len(),
                data: data.slice(offset..end),
            }
        })
    }

    /// Reads one blob by ByteStream; all of it must come.
    pub(super) async fn read(&self, digest: &Digest) -> Result<(), CliError> {
        let name = resource_name(&self.instance, digest);
        let request = ReadRequest { resource_name: name, ..Default::default() };
        let path = PathAndQuery::from_static("/google.bytestream.ByteStream/Read");
        let codec = ProstCodec::<_, ReadResponse>::default();
        let answer = self.grpc().await?.server_streaming(request.into_request(), path, codec).await?;
        let mut pieces = answer.into_inner();
        let mut read = 0;
        while let Some(piece) = pieces.message().await? {
            read += piece.data.len() as u64;
        }
        if read == digest.size() {
            return Ok(());
        }
        Err(CliError::new(format!("{read} bytes of {} were read", digest.size())))
    }

    /// Runs an action to its end, which must be a success.
    pub(super) async fn execute(&self, request: Bytes) -> Result<reapi::ExecuteResponse, CliError> {
        let path = PathAndQuery::from_static("/build.bazel.remote.execution.v2.Execution/Execute");
        let answer = self.grpc().await?.server_streaming(request.into_request(), path, WireCodec).await?;
        let mut updates = answer.into_inner();
        let mut last = None;
        while let Some(update) = updates.message().await? {
            last = Some(update);
        }
        let last = last.ok_or_else(|| CliError::new("the server told nothing of the action"))?;
        success(decode(last)?)
    }

    async fn grpc(&self) -> Result<tonic::client::Grpc<Channel>, CliError> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        grpc.ready().await.map_err(|error| CliError::new(format!("the connection is lost: {error}")))?;
        Ok(grpc)
    }
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

fn decode<M: Message + Default>(message: Bytes) -> Result<M, CliError> {
    M::decode(message).map_err(|error| CliError::new(format!("the server sent nonsense: {error}")))
}

fn check_all(done: &str, statuses: impl Iterator<Item = Option<rpc::Status>>) -> Result<(), CliError> {
    match statuses.flatten().find(|status| status.code != 0) {
        Some(status) => Err(CliError::new(format!("a blob was not {done}: {}", status.message))),
        None => Ok(()),
    }
}

/// The response of an operation that ended well, with a command that did.
fn success(operation: longrunning::Operation) -> Result<reapi::ExecuteResponse, CliError> {
    let response = match &operation.result {
        Some(longrunning::operation::Result::Response(any)) => any::unpack::<reapi::ExecuteResponse>(any),
        _ => None,
    };
    let response = response.ok_or_else(|| CliError::new("the server ended the action without a response"))?;
    if let Some(status) = response.status.as_ref().filter(|status| status.code != 0) {
        return Err(CliError::new(format!("the action was not run: {}", status.message)));
    }
    match &response.result {
        Some(result) if result.exit_code == 0 => Ok(response),
        Some(result) => Err(CliError::new(format!("the action ended with exit code {}", result.exit_code))),
        None => Err(CliError::new("the response has no result")),
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
    use super::super::blobs::Maker;
    use super::*;

    fn finished(response: reapi::ExecuteResponse) -> longrunning::Operation {
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
        assert_eq!(success(finished(with_code(0))), Ok(with_code(0)));
        assert!(success(finished(with_code(1))).is_err());
        let refused = rpc::Status { code: 9, message: "no".into(), details: Vec::new() };
        assert!(success(finished(reapi::ExecuteResponse { status: Some(refused), ..with_code(0) })).is_err());
        assert!(success(finished(reapi::ExecuteResponse::default())).is_err());
        assert!(success(longrunning::Operation::default()).is_err());
    }

    #[test]
    fn one_refused_blob_spoils_a_batch() {
        let status = |code| Some(rpc::Status { code, message: "full".into(), details: Vec::new() });
        assert_eq!(check_all("stored", [None, status(0)].into_iter()), Ok(()));
        let error = check_all("stored", [status(0), status(8)].into_iter()).unwrap_err();
        assert_eq!(error.to_string(), "a blob was not stored: full");
    }

    #[test]
    fn batches_are_filled_up_to_their_limit() {
        let maker = Maker::new();
        assert_eq!(batch_len(&maker.blobs(5, 1 << 20)), 3);
        assert_eq!(batch_len(&maker.blobs(1, BATCH_BYTES + 1)), 1);
        assert_eq!(batch_len(&maker.blobs(BATCH_BLOBS + 1, 1)), BATCH_BLOBS);
    }

    #[tokio::test]
    async fn a_blob_is_written_in_pieces_and_named_once() {
        let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
        let blob = Maker::new().blob(PIECE + 1);
        let pieces: Vec<_> = Client::new(channel, "a/b").pieces(&blob).collect();
        assert!(pieces[0].resource_name.starts_with("a/b/uploads/") && !pieces[0].finish_write);
        assert!(pieces[0].resource_name.ends_with(&blob.digest.to_string()));
        assert_eq!(
            (pieces.len(), pieces[1].resource_name.as_str(), pieces[1].write_offset),
            (2, "", 1 << 20)
        );
        assert!(pieces[1].finish_write);
    }
}
