//! `/cas`: blobs by the hash of their bytes.
//!
//! Clients tell no size with the hash: a read finds it in the store, a write has it in its headers.

use std::sync::Arc;

use http::request::Parts;
use http::{Method, Response, StatusCode};
use tonic::body::Body;

use super::HttpService;
use super::headers::{self, Announced};
use super::incoming::Incoming;
use super::outgoing;
use super::refusal::Refusal;
use crate::activity::Meter;
use crate::cas::compression::Compressor;
use crate::cas::{BlobStream, ByteRange, CasError};
use crate::digest::{BlobHash, Digest};
use crate::rpc::byte_stream::OPEN_UPLOAD;
use crate::rpc::byte_stream::upload::Upload;
use crate::rpc::server::Held;

impl HttpService {
    /// The blob of that hash, or what is to be known of it.
    pub(super) async fn get_blob(&self, head: &Parts, hash: &BlobHash) -> Result<Response<Body>, Refusal> {
        let cas = &self.0.parts.cas;
        let digest = cas.find(hash).await?.ok_or_else(|| absent(hash))?;
        let (blob, coding): (BlobStream, _) = if head.method == Method::HEAD {
            if !cas.find_missing(&[digest]).await?.is_empty() {
                return Err(absent(hash));
            }
            (Box::pin(futures_util::stream::empty()), Compressor::Identity)
        } else {
            (cas.read(&digest, ByteRange::default()).await?, headers::accepted(&head.headers))
        };
        outgoing::blob(blob, digest.size(), coding, self.meter(head))
    }

    /// Takes the blob of that hash.
    pub(super) async fn put_blob(
        &self,
        head: &Parts,
        body: &mut Incoming,
        hash: &BlobHash,
    ) -> Result<Response<Body>, Refusal> {
        let announced = Announced::read(&head.headers)?;
        let digest = hash.sized(announced.size);
        let cas = &self.0.parts.cas;
        if cas.find_missing(&[digest]).await?.is_empty() {
            return Ok(outgoing::done());
        }
        let _held = Held::for_call(&head.extensions, OPEN_UPLOAD);
        let mut upload = Upload::new(Arc::clone(cas), digest, None);
        upload.open().await?;
        let mut data = body.decoded(announced, self.meter(head))?;
        while let Some(piece) = data.next().await? {
            let is_last = upload.written() + piece.len() as u64 == digest.size();
            upload.write(piece, is_last).await?;
        }
        upload.commit().await.map_err(|error| told(error, &digest))?;
        Ok(outgoing::done())
    }

    /// Counts what a request moves, for whoever made it.
    pub(super) fn meter(&self, head: &Parts) -> Meter {
        let metadata = headers::metadata(&head.headers);
        self.0.parts.activity.meter(metadata.build(), || metadata.clone())
    }
}

fn absent(hash: &BlobHash) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, format!("blob {hash} is not in the CAS"))
}

/// A client of HTTP sent a hash; what it sent is told without the sizes where they are the same.
fn told(error: CasError, wanted: &Digest) -> Refusal {
    match error {
        CasError::Mismatch { actual, .. } if actual.size() == wanted.size() => Refusal::new(
            StatusCode::BAD_REQUEST,
            format!(
                "the bytes have another hash than {}: {}",
                BlobHash::from(wanted),
                BlobHash::from(&actual)
            ),
        ),
        error => error.into(),
    }
}
