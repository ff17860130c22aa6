//! One `Read` call.

use bytes::Bytes;
use farmhand_proto::bytestream::ReadRequest;
use futures_util::future::Either;
use futures_util::{Stream, StreamExt};
use tonic::Status;

use super::{ByteStreamMethods, signed};
use crate::activity::Meter;
use crate::cas::ByteRange;
use crate::cas::compression::{Compressor, compress_stream};
use crate::rpc::resource_name::ReadName;

/// Why a range cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Negative, or beyond the end.
    #[error("read_offset {offset} is outside the {size} bytes of the blob")]
    Offset {
        /// Offset asked for.
        offset: i64,
        /// Size of the blob.
        size: u64,
    },
    /// Negative.
    #[error("read_limit {0} is negative")]
    Limit(i64),
    /// Compressed bytes cannot be limited.
    #[error("read_limit {0} is set; a compressed read must not have one")]
    LimitOfCompressed(i64),
}

impl ByteStreamMethods {
    /// The pieces that answer `request`, counted by `meter`. Offsets count uncompressed bytes.
    pub(super) async fn read(
        &self,
        request: ReadRequest,
        meter: Meter,
    ) -> Result<impl Stream<Item = Result<Bytes, Status>> + Send + Unpin + use<>, Status> {
        let name =
            ReadName::parse(&request.resource_name, |instance| self.instances.default_function(instance));
        if name.is_err()
            && let Some((logs, name)) = self.log_named(&request.resource_name)
        {
            return Ok(Either::Left(logs.read(&name, request.read_offset, request.read_limit).await?));
        }
        let name = name?;
        self.instances.get(name.instance)?;
        let range = range_of(&request, name.digest.size(), name.compressor)?;
        let blob = self.cas.read(&name.digest, range).await?;
        let blob = match name.compressor {
            Compressor::Identity => blob,
            Compressor::Zstd => compress_stream(blob, name.digest.size() - range.offset)?,
        };
        Ok(Either::Right(blob.map(move |piece| {
            let piece = piece?;
            meter.downloaded(piece.len() as u64);
            Ok(piece)
        })))
    }
}

fn range_of(request: &ReadRequest, size: u64, compressor: Compressor) -> Result<ByteRange, ReadError> {
    let offset = request.read_offset;
    if !(0..=signed(size)).contains(&offset) {
        return Err(ReadError::Offset { offset, size });
    }
    let limit = match request.read_limit {
        0 => None,
        limit if limit < 0 => return Err(ReadError::Limit(limit)),
        limit if compressor != Compressor::Identity => return Err(ReadError::LimitOfCompressed(limit)),
        limit => Some(limit.unsigned_abs()),
    };
    Ok(ByteRange { offset: offset.unsigned_abs(), limit })
}
