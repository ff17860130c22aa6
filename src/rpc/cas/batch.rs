//! `BatchUpdateBlobs` and `BatchReadBlobs`.
//!
//! Each entry of an answer has its own status; the call as a whole fails only when it is too large,
//! or names an instance or digest function that is not served.

use bytes::Bytes;
use farmhand_proto::reapi::batch_update_blobs_response;
use farmhand_proto::{raw, reapi, rpc};
use futures_util::{StreamExt, stream};
use prost::Message;
use tonic::Status;

use super::CasMethods;
use crate::activity::Meter;
use crate::cas::compression::{self, Compressor};
use crate::digest::{Digest, DigestFunction};
use crate::rpc::errors::{self, StatusOf};
use crate::rpc::server::leave_connection;
use crate::rpc::{MAX_BATCH, MAX_SENT_MESSAGE};

/// Entries worked on at once.
const AT_ONCE: usize = 32;

/// Bytes of a read entry besides its data: hash, size, status, field tags.
const ENTRY: u64 = 90;

/// Blobs below this size are not worth compressing.
const WORTH_COMPRESSING: usize = 128;

/// Why a batch is refused as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// Over the advertised limit.
    #[error("the batch has {size} bytes; max_batch_total_size_bytes is {MAX_BATCH}")]
    TooLarge {
        /// Bytes of all blobs.
        size: u64,
    },
    /// So many blobs that their digests alone make the answer too large.
    #[error("the answer for {count} blobs does not fit into a message of {MAX_SENT_MESSAGE} bytes")]
    TooMany {
        /// Blobs asked for.
        count: usize,
    },
}

impl CasMethods {
    pub(super) async fn batch_update(
        &self,
        request: raw::BatchUpdateBlobsRequest,
        meter: &Meter,
    ) -> Result<reapi::BatchUpdateBlobsResponse, Status> {
        leave_connection().await;
        let function = self.instances.find(&request.instance_name)?.function(request.digest_function)?;
        check_total(request.requests.iter().map(update_size))?;
        meter.uploaded(request.requests.iter().map(|entry| entry.data.len() as u64).sum());
        let entries = request.requests.into_iter().map(|entry| async move {
            let status = self.update_one(function, entry.digest.as_ref(), entry.data, entry.compressor).await;
            let status = status.err().unwrap_or_default();
            batch_update_blobs_response::Response { digest: entry.digest, status: Some(status) }
        });
        let responses = stream::iter(entries).buffered(AT_ONCE).collect().await;
        Ok(reapi::BatchUpdateBlobsResponse { responses })
    }

    async fn update_one(
        &self,
        function: DigestFunction,
        digest: Option<&reapi::Digest>,
        data: Bytes,
        compressor: i32,
    ) -> Result<(), rpc::Status> {
        let digest = Digest::from_field(function, digest).map_err(entry)?;
        let data = match Compressor::from_wire(compressor).map_err(entry)? {
            Compressor::Identity => data,
            Compressor::Zstd => decompress(data, digest.size()).await?,
        };
        self.cas.put(&digest, data).await.map_err(entry)
    }

    pub(super) async fn batch_read(
        &self,
        request: reapi::BatchReadBlobsRequest,
        meter: &Meter,
    ) -> Result<raw::BatchReadBlobsResponse, Status> {
        leave_connection().await;
        let function = self.instances.find(&request.instance_name)?.function(request.digest_function)?;
        check_total(request.digests.iter().map(wire_size))?;
        let count = request.digests.len();
        let expected = request.digests.iter().map(wire_size).sum::<u64>() + count as u64 * ENTRY;
        if expected > MAX_SENT_MESSAGE as u64 {
            return Err(BatchError::TooMany { count }.into());
        }
        let zstd = request.acceptable_compressors.contains(&Compressor::Zstd.to_wire());
        let entries = request.digests.into_iter().map(|digest| async move {
            let (data, compressor, status) = match self.read_one(function, &digest, zstd).await {
                Ok((data, compressor)) => (data, compressor, rpc::Status::default()),
                Err(status) => (Bytes::new(), Compressor::Identity, status),
            };
            raw::BlobRead {
                digest: Some(digest),
                data,
                status: Some(status),
                compressor: compressor.to_wire(),
            }
        });
        let responses = stream::iter(entries).buffered(AT_ONCE).collect().await;
        let answer = raw::BatchReadBlobsResponse { responses };
        if answer.encoded_len() > MAX_SENT_MESSAGE {
            return Err(BatchError::TooMany { count }.into());
        }
        meter.downloaded(answer.responses.iter().map(|response| response.data.len() as u64).sum());
        Ok(answer)
    }

    async fn read_one(
        &self,
        function: DigestFunction,
        digest: &reapi::Digest,
        zstd: bool,
    ) -> Result<(Bytes, Compressor), rpc::Status> {
        let digest = Digest::from_wire(function, digest).map_err(entry)?;
        let data = self.cas.get(&digest).await.map_err(entry)?;
        if !zstd || data.len() < WORTH_COMPRESSING {
            return Ok((data, Compressor::Identity));
        }
        let compressed = compress(data.clone()).await?;
        if compressed.len() < data.len() {
            Ok((compressed.into(), Compressor::Zstd))
        } else {
            Ok((data, Compressor::Identity))
        }
    }
}

/// Runs `work` here if it is small, else on a thread that may take its time.
async fn off_thread<T: Send + 'static>(len: u64, work: impl FnOnce() -> T + Send + 'static) -> T {
    if len <= compression::STEP as u64 {
        return work();
    }
    tokio::task::spawn_blocking(work).await.expect("invariant: the work neither panics nor is aborted")
}

async fn compress(data: Bytes) -> Result<Vec<u8>, rpc::Status> {
    let len = data.len() as u64;
    off_thread(len, move || compression::compress(&data)).await.map_err(entry)
}

async fn decompress(data: Bytes, announced: u64) -> Result<Bytes, rpc::Status> {
    let len = announced.max(data.len() as u64);
    off_thread(len, move || compression::decompress(data, announced)).await.map_err(entry)
}

fn check_total(sizes: impl Iterator<Item = u64>) -> Result<(), BatchError> {
    let size = sizes.fold(0, u64::saturating_add);
    if size > MAX_BATCH { Err(BatchError::TooLarge { size }) } else { Ok(()) }
}

/// What an entry counts: its bytes, and for compressed ones what is to come out of them.
fn update_size(entry: &raw::BlobUpdate) -> u64 {
    let sent = entry.data.len() as u64;
    if entry.compressor == Compressor::Identity.to_wire() {
        return sent;
    }
    sent.max(entry.digest.as_ref().map_or(0, wire_size))
}

/// Bytes the answer to `request` may have.
pub(super) fn read_size(request: &reapi::BatchReadBlobsRequest) -> u64 {
    request.digests.iter().map(wire_size).fold(0, u64::saturating_add).min(MAX_BATCH)
}

fn wire_size(digest: &reapi::Digest) -> u64 {
    u64::try_from(digest.size_bytes).unwrap_or(0)
}

/// The status of an entry. Texts are left short: thousands of them may stand in one answer.
fn entry(error: impl StatusOf) -> rpc::Status {
    let mut status = errors::wire(&error);
    if error.code() == tonic::Code::NotFound {
        status.message = "not in the CAS".into();
    }
    status
}
