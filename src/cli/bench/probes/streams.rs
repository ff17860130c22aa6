//! Blobs by ByteStream, large and small.

use super::super::super::error::CliError;
use super::super::super::remote::{Blob, CallError, Client};
use super::super::Bench;
use super::super::figure::Figure;
use super::super::load::{call_rate, round_rate, time_all};

/// Bytes of a large blob.
const LARGE: usize = 64 << 20;

/// Large blobs prepared at once, and how many are in flight.
const LARGE_ROUND: usize = 4;
const LARGE_IN_FLIGHT: usize = 2;

/// Bytes of a small blob.
const SMALL: usize = 4 << 10;

/// Small blobs prepared at once, and how many are in flight.
const SMALL_ROUND: usize = 1000;
const SMALL_IN_FLIGHT: usize = 8;

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Tcp,
    Unix,
}

/// Bytes a second of large blobs on their way in.
pub(super) async fn write(bench: &Bench, door: Door) -> Result<Figure, CliError> {
    let client = door.client(bench)?;
    let rate = round_rate(bench.time, async || {
        let blobs = bench.blobs.blobs(LARGE_ROUND, LARGE);
        let took = time_all(LARGE_IN_FLIGHT, blobs.iter().map(|blob| client.write(blob))).await?;
        Ok((LARGE_ROUND * LARGE, took))
    })
    .await?;
    beside(bench, Figure::throughput(door.name("stream-write", "unix-stream-write"), rate))
}

/// Bytes a second of large blobs on their way out.
pub(super) async fn read(bench: &Bench, door: Door) -> Result<Figure, CliError> {
    let client = door.client(bench)?;
    let blobs = bench.blobs.blobs(LARGE_IN_FLIGHT, LARGE);
    bench.client.store(&blobs).await?;
    let rate = alternately(&blobs, LARGE_IN_FLIGHT, bench, client).await? * LARGE as f64;
    beside(bench, Figure::throughput(door.name("stream-read", "unix-stream-read"), rate))
}

/// Small blobs stored a second, each by a call of its own.
pub(super) async fn write_small(bench: &Bench) -> Result<Figure, CliError> {
    let rate = round_rate(bench.time, async || {
        let blobs = bench.blobs.blobs(SMALL_ROUND, SMALL);
        let calls = blobs.iter().map(|blob| bench.client.write(blob));
        Ok((SMALL_ROUND, time_all(SMALL_IN_FLIGHT, calls).await?))
    })
    .await?;
    let limit = bench.limits.round_trip_rate()?;
    Ok(Figure::rate("small-stream-write", rate).beside("loopback round trips", limit))
}

/// Small blobs read a second, each by a call of its own.
pub(super) async fn read_small(bench: &Bench) -> Result<Figure, CliError> {
    let blobs = bench.blobs.blobs(SMALL_ROUND, SMALL);
    bench.client.store(&blobs).await?;
    let rate = alternately(&blobs, SMALL_IN_FLIGHT, bench, &bench.client).await?;
    let limit = bench.limits.round_trip_rate()?;
    Ok(Figure::rate("small-stream-read", rate).beside("loopback round trips", limit))
}

/// Reads one blob after the other, from the start again when all are read; how many a second.
async fn alternately(
    blobs: &[Blob],
    in_flight: usize,
    bench: &Bench,
    client: &Client,
) -> Result<f64, CallError> {
    let mut turn = blobs.iter().cycle();
    call_rate(in_flight, bench.time, || {
        let blob = turn.next();
        async move {
            match blob {
                Some(blob) => client.read(&blob.digest).await,
                None => Ok(()),
            }
        }
    })
    .await
}

fn beside(bench: &Bench, figure: Figure) -> Result<Figure, CliError> {
    Ok(figure
        .beside("loopback TCP", bench.limits.socket_rate()?)
        .beside("SHA-256, one core", bench.limits.hash_rate()))
}

// === impl Door ===

impl Door {
    fn client(self, bench: &Bench) -> Result<&Client, CliError> {
        match self {
            Self::Tcp => Ok(&bench.client),
            Self::Unix => bench.unix.as_ref().ok_or_else(|| CliError::new("the Unix socket is not known")),
        }
    }

    fn name(self, tcp: &'static str, unix: &'static str) -> &'static str {
        match self {
            Self::Tcp => tcp,
            Self::Unix => unix,
        }
    }
}
