//! [`RemoteBlobs`]: the store of another machine, as a source of blobs, over the REAPI's own services.

use async_trait::async_trait;
use bytes::Bytes;
use farmhand_proto::bytestream::ReadRequest;
use farmhand_proto::raw::BatchReadBlobsResponse;
use farmhand_proto::reapi;
use futures_util::{StreamExt, TryStreamExt};
use http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::ByteRange;
use super::fetch::{BlobSource, SourceError, SourceStream};
use crate::digest::{Digest, DigestFunction};
use crate::peer::link::AnyChannel;

pub(crate) mod wire;

const BATCH_READ: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs";
const READ: &str = "/google.bytestream.ByteStream/Read";

/// Bytes of the largest batch taken.
const MAX_MESSAGE: usize = 8 << 20;

/// The blobs of another machine.
#[derive(Clone)]
pub struct RemoteBlobs {
    name: String,
    channel: AnyChannel,
}

// === impl RemoteBlobs ===

impl RemoteBlobs {
    /// Those of the machine called `name`, at the other end of `channel`.
    pub fn new(name: impl Into<String>, channel: AnyChannel) -> Self {
        Self { name: name.into(), channel }
    }

    fn failed(&self, status: &Status) -> SourceError {
        SourceError::new(&self.name, format!("{} ({:?})", status.message(), status.code()))
    }

    async fn grpc(&self) -> Result<tonic::client::Grpc<AnyChannel>, SourceError> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let lost = |error| SourceError::new(&self.name, format!("the connection is lost: {error}"));
        grpc.ready().await.map_err(lost)?;
        Ok(grpc)
    }

    async fn batch_of(
        &self,
        function: DigestFunction,
        digests: Vec<reapi::Digest>,
    ) -> Result<Vec<(Digest, Bytes)>, SourceError> {
        let request = reapi::BatchReadBlobsRequest {
            digests,
            digest_function: function.to_wire(),
            ..Default::default()
        };
        let codec = ProstCodec::<reapi::BatchReadBlobsRequest, BatchReadBlobsResponse>::default();
        let path = PathAndQuery::from_static(BATCH_READ);
        let answer = self.grpc().await?.unary(Request::new(request), path, codec).await;
        let answer = answer.map_err(|status| self.failed(&status))?.into_inner();
        let mut blobs = Vec::with_capacity(answer.responses.len());
        for response in answer.responses {
            if response.status.as_ref().is_some_and(|status| status.code != 0) {
                continue;
            }
            let digest = response.digest.unwrap_or_default();
            let digest = Digest::from_wire(function, &digest)
                .map_err(|error| SourceError::new(&self.name, format!("it sent no digest: {error}")))?;
            blobs.push((digest, response.data));
        }
        Ok(blobs)
    }
}

/// What to ask for; `None` for an offset that the wire has no number for.
fn read_request(digest: &Digest, range: ByteRange) -> Option<ReadRequest> {
    let read_offset = i64::try_from(range.offset).ok()?;
    let read_limit = range.limit.map_or(0, |limit| i64::try_from(limit).unwrap_or(i64::MAX));
    Some(ReadRequest { resource_name: format!("blobs/{digest}"), read_offset, read_limit })
}

#[async_trait]
impl BlobSource for RemoteBlobs {
    fn name(&self) -> &str {
        &self.name
    }

    async fn read_batch(&self, digests: &[Digest]) -> Result<Vec<(Digest, Bytes)>, SourceError> {
        let mut blobs = Vec::with_capacity(digests.len());
        // A request has one function for all.
        for function in DigestFunction::ALL {
            let of_it = digests.iter().filter(|digest| digest.function() == function);
            let wire: Vec<_> = of_it.map(Digest::to_wire).collect();
            if !wire.is_empty() {
                blobs.extend(self.batch_of(function, wire).await?);
            }
        }
        Ok(blobs)
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<Option<SourceStream>, SourceError> {
        // On the wire a limit of 0 is none.
        if range.limit == Some(0) {
            return Ok(Some(futures_util::stream::empty().boxed()));
        }
        let Some(request) = read_request(digest, range) else {
            return Err(SourceError::new(&self.name, format!("no blob has a byte {}", range.offset)));
        };
        let pieces = match wire::read(self.channel.clone(), READ, &request).await {
            Ok(pieces) => pieces.into_stream(),
            Err(status) if status.code() == Code::NotFound => return Ok(None),
            Err(status) => return Err(self.failed(&status)),
        };
        let this = self.clone();
        Ok(Some(pieces.map_err(move |status| this.failed(&status)).boxed()))
    }
}
