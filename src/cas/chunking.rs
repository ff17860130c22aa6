//! Content-defined chunking: blobs are cut where their bytes say so, and not where a count does, so that blobs
//! that have a stretch in common have its chunks in common, wherever it begins in each.
//!
//! Two ways, both of the REAPI (`ChunkingFunction`): FastCDC 2020, by the crate the specification names, and
//! RepMaxCDC (`rep_max`). Pure: bytes in, chunks out. What becomes of chunks is up to [`chunks`](super::chunks).

use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};
use farmhand_proto::reapi;
use farmhand_proto::reapi::chunking_function::Value as WireChunking;
use fastcdc::v2020::{FastCDC, Normalization};

use self::rep_max::RepMax;
use crate::config::ChunkSize;

mod rep_max;
#[cfg(test)]
mod tests;

/// Bytes that the rolling hash of Gear depends on.
const GEAR_WINDOW: usize = 64;

/// A way to cut blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Chunking {
    /// `FAST_CDC_2020` with seed 0 and normalization 2: chunks of a quarter of `average` to four times as much.
    FastCdc2020 {
        /// Mean size of chunks in bytes.
        average: usize,
    },
    /// `REP_MAX_CDC`: chunks of `least` bytes to less than twice as many.
    RepMaxCdc {
        /// Bytes of the smallest chunk.
        least: usize,
        /// Bytes that are looked ahead for the best place to cut.
        horizon: usize,
    },
}

/// The ways to cut blobs that a server offers, by the mean size of chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkingOffer {
    average: usize,
}

/// Cuts one blob, which comes in pieces.
#[derive(Debug)]
pub struct Chunker {
    chunking: Chunking,
    /// What came and is not given out: less than the window of the chunking.
    buffer: BytesMut,
}

/// The random numbers both ways look up bytes in, as the paper of FastCDC has them.
static GEAR: LazyLock<[u64; 256]> = LazyLock::new(|| {
    let (table, _) = fastcdc::v2020::get_gear_with_seed(0);
    table.as_ref().try_into().expect("invariant: the table has a number for each byte")
});

// === impl Chunking ===

impl Chunking {
    /// The wire value (`ChunkingFunction`).
    pub fn to_wire(self) -> i32 {
        match self {
            Self::FastCdc2020 { .. } => WireChunking::FastCdc2020 as i32,
            Self::RepMaxCdc { .. } => WireChunking::RepMaxCdc as i32,
        }
    }

    /// Bytes that decide where the first of them are cut, whatever follows.
    fn window(self) -> usize {
        match self {
            Self::FastCdc2020 { average } => average * 4,
            Self::RepMaxCdc { least, horizon } => least * 2 + horizon,
        }
    }

    /// Adds the lengths of the first chunks of `data` to `cuts`, one at least. `data` is as long as the window,
    /// or goes to the end of the blob; it is not empty.
    fn cut(self, data: &[u8], cuts: &mut Vec<usize>) {
        match self {
            Self::FastCdc2020 { average } => {
                let level = Normalization::Level2;
                let chunker = FastCDC::with_level_and_seed(data, average / 4, average, average * 4, level, 0);
                cuts.push(chunker.cut(0, data.len()).1);
            }
            Self::RepMaxCdc { least, horizon } => RepMax { least, horizon, gear: &GEAR }.cut(data, cuts),
        }
    }
}

// === impl ChunkingOffer ===

impl ChunkingOffer {
    /// Chunks of that many bytes in the mean.
    pub fn new(size: ChunkSize) -> Self {
        Self { average: size.bytes() as usize }
    }

    /// The way that is offered under this wire value; FastCDC for one that is not offered.
    pub fn choose(self, wire: i32) -> Chunking {
        if wire == WireChunking::RepMaxCdc as i32 { self.rep_max() } else { self.fast() }
    }

    fn fast(self) -> Chunking {
        Chunking::FastCdc2020 { average: self.average }
    }

    fn rep_max(self) -> Chunking {
        let least = self.average / 2;
        Chunking::RepMaxCdc { least, horizon: least * 8 }
    }

    /// What is told to clients, which cut as this machine does then.
    pub fn advertise(self, capabilities: &mut reapi::CacheCapabilities) {
        let average = self.average as u64;
        capabilities.split_blob_support = true;
        capabilities.splice_blob_support = true;
        capabilities.fast_cdc_2020_params =
            Some(reapi::FastCdc2020Params { avg_chunk_size_bytes: average, seed: 0 });
        capabilities.rep_max_cdc_params = Some(reapi::RepMaxCdcParams {
            min_chunk_size_bytes: average / 2,
            horizon_size_bytes: average * 4,
        });
    }
}

// === impl Chunker ===

impl Chunker {
    /// Begins a blob.
    pub fn new(chunking: Chunking) -> Self {
        Self { chunking, buffer: BytesMut::new() }
    }

    /// Takes the next bytes. Returns the chunks that are whole with them, in order.
    pub fn push(&mut self, piece: &[u8]) -> Vec<Bytes> {
        self.buffer.extend_from_slice(piece);
        let mut chunks = Vec::new();
        while self.buffer.len() >= self.chunking.window() {
            self.give(&mut chunks);
        }
        chunks
    }

    /// The blob ends here. Returns the rest of its chunks.
    pub fn finish(mut self) -> Vec<Bytes> {
        let mut chunks = Vec::new();
        while !self.buffer.is_empty() {
            self.give(&mut chunks);
        }
        chunks
    }

    fn give(&mut self, chunks: &mut Vec<Bytes>) {
        let mut cuts = Vec::new();
        self.chunking.cut(&self.buffer, &mut cuts);
        chunks.extend(cuts.into_iter().map(|length| self.buffer.split_to(length).freeze()));
    }
}
