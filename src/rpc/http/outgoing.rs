//! Answers with a body: in memory, or as it comes out of the store.
//!
//! A body of known length carries it, which clients check; a compressed one does not, since nobody knows it
//! before the end. A body that breaks off ends the connection.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, VARY};
use http::{HeaderValue, Response};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use tonic::body::Body;

use super::headers::X_DIGEST_SIZE;
use super::refusal::Refusal;
use crate::activity::Meter;
use crate::cas::compression::{Compressor, compress_stream};
use crate::cas::{BlobStream, CasError};

/// Bytes of any kind.
pub(super) const BYTES: &str = "application/octet-stream";

/// An empty answer: all is well.
pub(super) fn done() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    set_length(&mut response, 0);
    response
}

/// What is in memory.
pub(super) fn whole(content_type: &'static str, data: impl Into<Bytes>) -> Response<Body> {
    let data = data.into();
    let length = data.len() as u64;
    let mut response = Response::new(Body::new(Full::new(data)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    set_length(&mut response, length);
    response
}

/// A blob of `size` bytes, in the form `coding`. What is sent is counted by `meter`.
pub(super) fn blob(
    pieces: BlobStream,
    size: u64,
    coding: Compressor,
    meter: Meter,
) -> Result<Response<Body>, Refusal> {
    let pieces = match coding {
        Compressor::Identity => pieces,
        Compressor::Zstd => compress_stream(pieces, size)?,
    };
    let mut response = Response::new(streamed(pieces, meter));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(BYTES));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    match coding {
        Compressor::Identity => set_length(&mut response, size),
        Compressor::Zstd => {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("zstd"));
            headers.insert(X_DIGEST_SIZE, HeaderValue::from(size));
        }
    }
    Ok(response)
}

fn streamed(pieces: impl Stream<Item = Result<Bytes, CasError>> + Send + 'static, meter: Meter) -> Body {
    Body::new(StreamBody::new(pieces.map(move |piece| {
        let piece = piece.inspect_err(|error| tracing::warn!(%error, "the body of an answer breaks off"))?;
        meter.downloaded(piece.len() as u64);
        Ok::<_, CasError>(Frame::data(piece))
    })))
}

/// Says how long the body is.
pub(super) fn set_length(response: &mut Response<Body>, length: u64) {
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
}
