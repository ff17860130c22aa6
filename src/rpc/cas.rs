//! `ContentAddressableStorage`: which blobs are missing, small blobs in batches, trees.
//!
//! An own service in place of the generated one: lists of digests and the bytes of blobs are decoded
//! without a copy of each. `batch` has the batch calls, `tree` the directory walk. The calls about
//! chunks are not offered.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use farmhand_proto::{raw, reapi};
use futures_util::future::BoxFuture;
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::server::{Grpc, NamedService};
use tonic::{Request, Response, Status};
use tower::{Service, service_fn};

use super::codec::BlobCodec;
use super::server::Held;
use super::{Instances, MAX_RECEIVED_MESSAGE};
use crate::cas::ContentAddressableStorage;
use crate::digest::{Digest, DigestError, DigestFunction, HASH_LEN};

mod batch;
mod tree;

pub use batch::BatchError;
pub use tree::TreeError;

const NAME: &str = "build.bazel.remote.execution.v2.ContentAddressableStorage";

/// The service. Clones share their store.
#[derive(Clone)]
pub struct CasService {
    shared: Arc<Shared>,
}

struct Shared {
    cas: Arc<dyn ContentAddressableStorage>,
    instances: Instances,
}

// === impl CasService ===

impl CasService {
    /// Serves the blobs of `cas`.
    pub fn new(cas: Arc<dyn ContentAddressableStorage>, instances: Instances) -> Self {
        Self { shared: Arc::new(Shared { cas, instances }) }
    }
}

impl NamedService for CasService {
    const NAME: &'static str = NAME;
}

impl<B> Service<http::Request<B>> for CasService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<StdError> + Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { Ok(shared.serve(request).await) })
    }
}

// === impl Shared ===

impl Shared {
    async fn serve<B>(self: Arc<Self>, request: http::Request<B>) -> http::Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<StdError> + Send + 'static,
    {
        /// Serves one unary method with a handler of [`Shared`].
        macro_rules! unary {
            ($handler:ident, $request:ty) => {{
                let method = service_fn(move |request: Request<$request>| {
                    let shared = Arc::clone(&self);
                    async move { shared.$handler(request.into_inner()).await.map(Response::new) }
                });
                let mut grpc =
                    Grpc::new(BlobCodec::default()).max_decoding_message_size(MAX_RECEIVED_MESSAGE);
                grpc.unary(method, request).await
            }};
        }
        let path = request.uri().path();
        match path.strip_prefix('/').and_then(|path| path.strip_prefix(NAME)).unwrap_or(path) {
            "/FindMissingBlobs" => unary!(find_missing, raw::FindMissingBlobsRequest),
            "/BatchUpdateBlobs" => unary!(batch_update, raw::BatchUpdateBlobsRequest),
            "/BatchReadBlobs" => {
                let method = service_fn(move |request: Request<reapi::BatchReadBlobsRequest>| {
                    let shared = Arc::clone(&self);
                    async move {
                        // Before the blobs are in memory; the answer is counted by the server.
                        let bytes = batch::read_size(request.get_ref());
                        let _held = Held::for_call(request.extensions(), bytes);
                        shared.batch_read(request.into_inner()).await.map(Response::new)
                    }
                });
                let mut grpc =
                    Grpc::new(BlobCodec::default()).max_decoding_message_size(MAX_RECEIVED_MESSAGE);
                grpc.unary(method, request).await
            }
            "/GetTree" => {
                let method = service_fn(move |request: Request<reapi::GetTreeRequest>| {
                    let shared = Arc::clone(&self);
                    async move { shared.get_tree(request.into_inner()).await.map(Response::new) }
                });
                Grpc::new(BlobCodec::default()).server_streaming(method, request).await
            }
            _ => Status::unimplemented(format!("{path} is not served")).into_http(),
        }
    }

    async fn find_missing(
        &self,
        request: raw::FindMissingBlobsRequest,
    ) -> Result<raw::FindMissingBlobsResponse, Status> {
        let function = self.instances.find(&request.instance_name)?.function(request.digest_function)?;
        let digests = request
            .blob_digests
            .iter()
            .map(|digest| parse_text(function, digest))
            .collect::<Result<Vec<_>, _>>()?;
        let missing = self.cas.find_missing(&digests).await?;
        Ok(raw::FindMissingBlobsResponse { missing_blob_digests: to_text(&missing) })
    }
}

fn parse_text(function: DigestFunction, digest: &raw::TextDigest) -> Result<Digest, DigestError> {
    match std::str::from_utf8(&digest.hash) {
        Ok(hash) => Digest::parse(function, hash, digest.size_bytes),
        Err(_) => {
            let hash = String::from_utf8_lossy(&digest.hash).chars().take(80).collect();
            Err(DigestError::Hash { hash, function })
        }
    }
}

/// The wire form of many digests, their texts in one piece of memory.
fn to_text(digests: &[Digest]) -> Vec<raw::TextDigest> {
    const TEXT: usize = HASH_LEN * 2;
    let mut texts = BytesMut::zeroed(digests.len() * TEXT);
    for (digest, text) in digests.iter().zip(texts.chunks_exact_mut(TEXT)) {
        const_hex::encode_to_slice(digest.hash(), text).expect("invariant: the text has twice the length");
    }
    let texts = texts.freeze();
    let text_of = |i: usize| texts.slice(i * TEXT..(i + 1) * TEXT);
    let wire = |(i, digest): (usize, &Digest)| raw::TextDigest {
        hash: text_of(i),
        size_bytes: i64::try_from(digest.size()).unwrap_or(i64::MAX),
    };
    digests.iter().enumerate().map(wire).collect()
}

#[cfg(test)]
mod tests;
