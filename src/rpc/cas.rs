//! `ContentAddressableStorage`: which blobs are missing, small blobs in batches, trees.
//!
//! An own service in place of the generated one: lists of digests and the bytes of blobs are decoded
//! without a copy of each. `listing` has the messages of FindMissingBlobs, `batch` the batch calls,
//! `tree` the directory walk, `chunks` what is split and spliced.

use std::sync::Arc;

use bytes::Bytes;
use farmhand_proto::{raw, reapi};
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Request, Response, Status, Streaming};
use tower::service_fn;

use super::codec::{BlobCodec, EncodedCodec, undecodable};
use super::server::Held;
use super::service::{GrpcService, Methods, RequestBody};
use super::{Instances, MAX_RECEIVED_MESSAGE, metadata};
use crate::activity::Activity;
use crate::cas::ContentAddressableStorage;
use crate::cas::chunks::Chunks;
use listing::Listing;

mod batch;
mod chunks;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod listing;
mod tree;

pub use batch::BatchError;
pub use chunks::ChunkError;
pub use tree::TreeError;

/// The service. Clones share their store.
pub type CasService = GrpcService<CasMethods>;

/// The methods of [`CasService`].
pub struct CasMethods {
    cas: Arc<dyn ContentAddressableStorage>,
    chunks: Chunks,
    instances: Instances,
    activity: Arc<Activity>,
}

impl CasService {
    /// Serves the blobs of `cas`, which are split and spliced by `chunks`. `activity` is told how many bytes are
    /// moved.
    pub fn new(
        cas: Arc<dyn ContentAddressableStorage>,
        chunks: Chunks,
        instances: Instances,
        activity: Arc<Activity>,
    ) -> Self {
        Self::of(CasMethods { cas, chunks, instances, activity })
    }
}

// === impl CasMethods ===

impl Methods for CasMethods {
    const NAME: &'static str = "build.bazel.remote.execution.v2.ContentAddressableStorage";

    async fn serve<B: RequestBody>(
        self: Arc<Self>,
        method: &str,
        request: http::Request<B>,
    ) -> http::Response<Body> {
        /// Serves one method, of that kind, with a handler of [`CasMethods`].
        macro_rules! serve {
            ($kind:ident, $handler:ident, $request:ty, $codec:expr) => {{
                let method = service_fn(move |request: Request<$request>| {
                    let methods = Arc::clone(&self);
                    async move { methods.$handler(request.into_inner()).await.map(Response::new) }
                });
                let mut grpc = Grpc::new($codec).max_decoding_message_size(MAX_RECEIVED_MESSAGE);
                grpc.$kind(method, request).await
            }};
        }
        match method {
            "FindMissingBlobs" => serve!(unary, find_missing, Bytes, EncodedCodec),
            "GetTree" => serve!(server_streaming, get_tree, reapi::GetTreeRequest, BlobCodec::default()),
            "SplitBlob" => serve!(unary, split_blob, reapi::SplitBlobRequest, BlobCodec::default()),
            "SpliceBlob" => serve!(unary, splice_blob, reapi::SpliceBlobRequest, BlobCodec::default()),
            "GetChunkMapping" => {
                serve!(
                    server_streaming,
                    get_chunk_mapping,
                    reapi::GetChunkMappingRequest,
                    BlobCodec::default()
                )
            }
            "RegisterChunkMapping" => {
                serve!(client_streaming, register_chunk_mapping, Streaming<_>, BlobCodec::default())
            }
            "BatchUpdateBlobs" => {
                let meter = metadata::meter(&self.activity, request.headers());
                let method = service_fn(move |request: Request<raw::BatchUpdateBlobsRequest>| {
                    let (methods, meter) = (Arc::clone(&self), meter.clone());
                    async move { methods.batch_update(request.into_inner(), &meter).await.map(Response::new) }
                });
                let mut grpc =
                    Grpc::new(BlobCodec::default()).max_decoding_message_size(MAX_RECEIVED_MESSAGE);
                grpc.unary(method, request).await
            }
            "BatchReadBlobs" => {
                let meter = metadata::meter(&self.activity, request.headers());
                let method = service_fn(move |request: Request<reapi::BatchReadBlobsRequest>| {
                    let (methods, meter) = (Arc::clone(&self), meter.clone());
                    async move {
                        // Before the blobs are in memory; the answer is counted by the server.
                        let bytes = batch::read_size(request.get_ref());
                        let _held = Held::for_call(request.extensions(), bytes);
                        methods.batch_read(request.into_inner(), &meter).await.map(Response::new)
                    }
                });
                let mut grpc =
                    Grpc::new(BlobCodec::default()).max_decoding_message_size(MAX_RECEIVED_MESSAGE);
                grpc.unary(method, request).await
            }
            _ => Status::unimplemented(format!("{method} is not served")).into_http(),
        }
    }
}

impl CasMethods {
    async fn find_missing(&self, request: Bytes) -> Result<Bytes, Status> {
        let listing = Listing::parse(&request).map_err(undecodable)?;
        let function = self.instances.find(listing.instance_name)?.function(listing.digest_function)?;
        let digests = listing.digests(function)?;
        let missing = self.cas.find_missing(&digests).await?;
        Ok(listing::encode_missing(&missing))
    }
}

#[cfg(test)]
mod tests;
