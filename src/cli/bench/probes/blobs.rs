//! Many small blobs in one call: stored, read, asked for.

use bytes::Bytes;
use farmhand_proto::reapi;
use prost::Message;

use super::super::super::error::CliError;
use super::super::super::remote::Blob;
use super::super::Bench;
use super::super::figure::Figure;
use super::super::load::{call_rate, round_rate, time_all};

/// Bytes of a blob.
const SIZE: usize = 4 << 10;

/// Blobs in a call, and calls in flight.
const BATCH: usize = 100;
const IN_FLIGHT: usize = 16;

/// Calls prepared at once.
const ROUND: usize = 64;

/// Digests in a FindMissing, and calls in flight.
const ASKED: usize = 1000;
const ASKED_IN_FLIGHT: usize = 8;

/// Bytes of a digest on the wire: two tags, two lengths, 64 hex digits, a size.
const DIGEST_BYTES: f64 = 71.0;

/// Blobs stored a second.
pub(super) async fn batch_write(bench: &Bench) -> Result<Figure, CliError> {
    let rate = round_rate(bench.time, async || {
        let blobs = bench.blobs.blobs(BATCH * ROUND, SIZE);
        let requests: Vec<Bytes> =
            blobs.chunks(BATCH).map(|batch| bench.client.update_request(batch)).collect();
        let calls = requests.into_iter().map(|request| bench.client.update(request));
        Ok((BATCH * ROUND, time_all(IN_FLIGHT, calls).await?))
    })
    .await?;
    Ok(Figure::rate("batch-write", rate)
        .beside("SHA-256 of 4 KiB, one core", bench.limits.hash_rate() / SIZE as f64)
        .beside("loopback TCP / 4 KiB", bench.limits.socket_rate()? / SIZE as f64))
}

/// Blobs read a second.
pub(super) async fn batch_read(bench: &Bench) -> Result<Figure, CliError> {
    let blobs = bench.blobs.blobs(BATCH * ROUND, SIZE);
    bench.client.store(&blobs).await?;
    let request = |batch: &[Blob]| {
        let request = reapi::BatchReadBlobsRequest {
            instance_name: bench.client.instance(),
            digests: batch.iter().map(|blob| blob.digest.to_wire()).collect(),
            ..Default::default()
        };
        Bytes::from(request.encode_to_vec())
    };
    let requests: Vec<Bytes> = blobs.chunks(BATCH).map(request).collect();
    let mut turn = requests.iter().cycle();
    let calls = call_rate(IN_FLIGHT, bench.time, || {
        let request = turn.next().cloned().unwrap_or_default();
        async {
            match bench.client.read_batch(request).await? {
                bytes if bytes == BATCH * SIZE => Ok(()),
                bytes => Err(CliError::new(format!("{bytes} bytes of {} were read", BATCH * SIZE))),
            }
        }
    });
    let rate = calls.await? * BATCH as f64;
    Ok(Figure::rate("batch-read", rate)
        .beside("loopback TCP / 4 KiB", bench.limits.socket_rate()? / SIZE as f64))
}

/// Digests asked for a second, all of them present.
pub(super) async fn find_missing(bench: &Bench) -> Result<Figure, CliError> {
    let blobs = bench.blobs.blobs(ASKED, 64);
    bench.client.store(&blobs).await?;
    let request = reapi::FindMissingBlobsRequest {
        instance_name: bench.client.instance(),
        blob_digests: blobs.iter().map(|blob| blob.digest.to_wire()).collect(),
        ..Default::default()
    };
    let request = Bytes::from(request.encode_to_vec());
    let calls = call_rate(ASKED_IN_FLIGHT, bench.time, || async {
        let path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs";
        // Nothing missing is nothing said.
        match bench.client.call(path, request.clone()).await?.is_empty() {
            true => Ok(()),
            false => Err(CliError::new("blobs that were stored are missing")),
        }
    });
    let rate = calls.await? * ASKED as f64;
    let limit = bench.limits.socket_rate()? / DIGEST_BYTES;
    Ok(Figure::rate("find-missing", rate).beside("loopback TCP / digest", limit))
}
