//! Compression of blobs on the wire: zstd, in small steps.
//!
//! Blobs are stored as they are; this is about the form in which they come and go. Each step handles
//! at most [`STEP`] bytes, so that a stream never holds more than that and never keeps a thread for
//! longer than a millisecond. The decoder stops as soon as more comes out than was announced.

use std::io;

use bytes::{Buf, Bytes};
use farmhand_proto::reapi::compressor::Value as WireCompressor;
use futures_util::{StreamExt, stream};
use zstd::stream::raw::{self, DParameter, InBuffer, Operation, OutBuffer};

use super::{BlobStream, CasError};

/// Bytes in or out of one step.
pub const STEP: usize = 256 * 1024;

/// Compressed pieces are at least this long, but for the last.
const PIECE: usize = 64 * 1024;

/// The fastest of the ordinary levels: links of a farm are faster than level 3.
const LEVEL: i32 = 1;

/// Largest window a frame may ask for, as a power of two: bounds the memory of a decoder at 32 MiB.
/// Levels up to 20 stay below it.
const WINDOW_LOG_MAX: u32 = 25;

/// A form in which bytes travel (`build.bazel.remote.execution.v2.Compressor`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compressor {
    /// As they are.
    #[default]
    Identity,
    /// zstd frames, RFC 8878.
    Zstd,
}

/// What can go wrong with compressed bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// A compressor that is not advertised.
    #[error("compressor {0:?} is not supported; this node has zstd")]
    Unsupported(String),
    /// Not zstd frames, or something behind them.
    #[error("the data is not valid zstd: {0}")]
    Corrupt(String),
    /// Ends inside a frame.
    #[error("the zstd data ends inside a frame")]
    Truncated,
    /// More comes out than was announced.
    #[error("the data decompresses to more than the {announced} bytes announced")]
    TooLong {
        /// Bytes that were to come out.
        announced: u64,
    },
    /// The compressor itself failed.
    #[error("zstd failed: {0}")]
    Engine(String),
}

/// Decompresses a stream of zstd frames, several and skippable ones included.
pub struct Decoder {
    raw: raw::Decoder<'static>,
    announced: u64,
    produced: u64,
    inside_frame: bool,
    more_output: bool,
}

/// Compresses a stream into one zstd frame.
struct Encoder {
    raw: raw::Encoder<'static>,
    source: BlobStream,
    input: Bytes,
    output: Vec<u8>,
    ended: bool,
}

// === impl Compressor ===

impl Compressor {
    /// Those advertised besides `IDENTITY`. Siso takes the first blindly.
    pub const ADVERTISED: [WireCompressor; 1] = [WireCompressor::Zstd];

    /// Reads a `Compressor.Value`.
    ///
    /// # Errors
    /// [`CompressionError::Unsupported`].
    pub fn from_wire(value: i32) -> Result<Self, CompressionError> {
        match WireCompressor::try_from(value) {
            Ok(WireCompressor::Identity) => Ok(Self::Identity),
            Ok(WireCompressor::Zstd) => Ok(Self::Zstd),
            Ok(other) => Err(CompressionError::Unsupported(other.as_str_name().to_lowercase())),
            Err(_) => Err(CompressionError::Unsupported(value.to_string())),
        }
    }

    /// Reads the segment of a resource name, where `identity` is not allowed.
    ///
    /// # Errors
    /// [`CompressionError::Unsupported`].
    pub fn from_segment(segment: &str) -> Result<Self, CompressionError> {
        match segment {
            "zstd" => Ok(Self::Zstd),
            other => Err(CompressionError::Unsupported(other.chars().take(40).collect())),
        }
    }

    /// The wire value.
    pub fn to_wire(self) -> i32 {
        match self {
            Self::Identity => WireCompressor::Identity as i32,
            Self::Zstd => WireCompressor::Zstd as i32,
        }
    }

    /// The name in resource names.
    pub fn segment(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Zstd => "zstd",
        }
    }
}

// === impl Decoder ===

impl Decoder {
    /// A decoder from which `announced` bytes are to come.
    ///
    /// # Errors
    /// [`CompressionError::Engine`] if there is no memory.
    pub fn new(announced: u64) -> Result<Self, CompressionError> {
        let mut raw = raw::Decoder::new().map_err(engine)?;
        raw.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(engine)?;
        Ok(Self { raw, announced, produced: 0, inside_frame: false, more_output: false })
    }

    /// Takes some of `input` and gives the next piece that comes out, or `None` when all of `input` is
    /// used up.
    ///
    /// # Errors
    /// [`CompressionError::Corrupt`] or [`CompressionError::TooLong`].
    pub fn step(&mut self, input: &mut Bytes) -> Result<Option<Bytes>, CompressionError> {
        while !input.is_empty() || self.more_output {
            let room = (self.announced - self.produced).saturating_add(1).min(STEP as u64);
            let mut output = Vec::with_capacity(room as usize);
            let used = self.run(input, &mut output)?;
            if used == 0 && output.is_empty() && !input.is_empty() {
                return Err(CompressionError::Corrupt("no progress".into()));
            }
            input.advance(used);
            self.produced += output.len() as u64;
            if self.produced > self.announced {
                return Err(CompressionError::TooLong { announced: self.announced });
            }
            if !output.is_empty() {
                return Ok(Some(output.into()));
            }
        }
        Ok(None)
    }

    /// Checks that the input ended where a frame does.
    ///
    /// # Errors
    /// [`CompressionError::Truncated`].
    pub fn finish(&self) -> Result<(), CompressionError> {
        if self.inside_frame { Err(CompressionError::Truncated) } else { Ok(()) }
    }

    fn run(&mut self, input: &[u8], output: &mut Vec<u8>) -> Result<usize, CompressionError> {
        let capacity = output.capacity();
        let mut source = InBuffer::around(&input[..input.len().min(STEP)]);
        let mut target = OutBuffer::around(output);
        let hint = self
            .raw
            .run(&mut source, &mut target)
            .map_err(|error| CompressionError::Corrupt(error.to_string()))?;
        self.inside_frame = hint != 0;
        self.more_output = self.inside_frame && target.pos() == capacity;
        Ok(source.pos())
    }
}

/// Decompresses bytes of which `announced` are to come out; the caller bounds that number.
///
/// # Errors
/// [`CompressionError`]; fewer bytes than announced are not an error here.
pub fn decompress(mut data: Bytes, announced: u64) -> Result<Bytes, CompressionError> {
    let mut decoder = Decoder::new(announced)?;
    let Some(first) = decoder.step(&mut data)? else {
        decoder.finish()?;
        return Ok(Bytes::new());
    };
    let mut all = Vec::new();
    while let Some(piece) = decoder.step(&mut data)? {
        if all.is_empty() {
            all.extend_from_slice(&first);
        }
        all.extend_from_slice(&piece);
    }
    decoder.finish()?;
    Ok(if all.is_empty() { first } else { all.into() })
}

/// Compresses bytes that are in memory.
///
/// # Errors
/// [`CompressionError::Engine`] if there is no memory.
pub fn compress(data: &[u8]) -> Result<Vec<u8>, CompressionError> {
    zstd::bulk::compress(data, LEVEL).map_err(engine)
}

/// Compresses many blobs, one after the other, with the memory for one.
pub struct Packer(zstd::bulk::Compressor<'static>);

impl Packer {
    /// One.
    ///
    /// # Errors
    /// [`CompressionError::Engine`] if there is no memory.
    pub fn new() -> Result<Self, CompressionError> {
        zstd::bulk::Compressor::new(LEVEL).map(Self).map_err(engine)
    }

    /// As [`compress`].
    ///
    /// # Errors
    /// [`CompressionError::Engine`] if there is no memory.
    pub fn pack(&mut self, data: &[u8]) -> Result<Vec<u8>, CompressionError> {
        self.0.compress(data).map_err(engine)
    }
}

// === impl Encoder ===

/// Compresses `blob`, which has `size` bytes, as it passes.
///
/// # Errors
/// [`CompressionError::Engine`] if there is no memory.
pub fn compress_stream(blob: BlobStream, size: u64) -> Result<BlobStream, CompressionError> {
    let mut raw = raw::Encoder::new(LEVEL).map_err(engine)?;
    raw.set_pledged_src_size(Some(size)).map_err(engine)?;
    let encoder =
        Encoder { raw, source: blob, input: Bytes::new(), output: Vec::with_capacity(STEP), ended: false };
    Ok(Box::pin(stream::try_unfold(encoder, |mut encoder| async move {
        let piece = encoder.next_piece().await?;
        Ok(piece.map(|piece| (piece, encoder)))
    })))
}

impl Encoder {
    /// The next piece; `None` at the end.
    async fn next_piece(&mut self) -> Result<Option<Bytes>, CasError> {
        while !self.ended && self.output.len() < PIECE {
            if self.input.is_empty() {
                match self.source.next().await {
                    Some(piece) => self.input = piece?,
                    None => self.end()?,
                }
            } else {
                self.run()?;
            }
        }
        if self.output.is_empty() {
            return Ok(None);
        }
        let piece = std::mem::replace(&mut self.output, Vec::with_capacity(STEP));
        Ok(Some(piece.into()))
    }

    fn run(&mut self) -> Result<(), CasError> {
        let mut source = InBuffer::around(&self.input[..self.input.len().min(STEP)]);
        let position = self.output.len();
        let mut target = OutBuffer::around_pos(&mut self.output, position);
        self.raw.run(&mut source, &mut target).map_err(stream_failed)?;
        let used = source.pos();
        self.input.advance(used);
        Ok(())
    }

    /// Writes the end of the frame.
    fn end(&mut self) -> Result<(), CasError> {
        loop {
            self.output.reserve(PIECE);
            let position = self.output.len();
            let mut target = OutBuffer::around_pos(&mut self.output, position);
            if self.raw.finish(&mut target, false).map_err(stream_failed)? == 0 {
                self.ended = true;
                return Ok(());
            }
        }
    }
}

fn engine(error: io::Error) -> CompressionError {
    CompressionError::Engine(error.to_string())
}

fn stream_failed(error: io::Error) -> CasError {
    CasError::io("zstd", error)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode_all(pieces: &[&[u8]], announced: u64) -> Result<Vec<u8>, CompressionError> {
        let mut decoder = Decoder::new(announced)?;
        let mut all = Vec::new();
        for piece in pieces {
            let mut input = Bytes::copy_from_slice(piece);
            while let Some(out) = decoder.step(&mut input)? {
                assert!(!out.is_empty() && out.len() <= STEP);
                all.extend_from_slice(&out);
            }
        }
        decoder.finish()?;
        Ok(all)
    }

    const SKIPPABLE: &[u8] = &[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];

    #[test]
    fn several_and_skippable_frames() {
        let frames = [&compress(b"hello ").unwrap()[..], SKIPPABLE, &compress(b"world").unwrap()].concat();
        assert_eq!(decode_all(&[&frames], 11).unwrap(), b"hello world");
        for cut in 1..frames.len() {
            assert_eq!(decode_all(&[&frames[..cut], &frames[cut..]], 11).unwrap(), b"hello world");
        }
        let bytewise: Vec<&[u8]> = frames.chunks(1).collect();
        assert_eq!(decode_all(&bytewise, 11).unwrap(), b"hello world");
    }

    #[test]
    fn truncation_and_junk_are_refused() {
        let frame = compress(&[7; 1000]).unwrap();
        for cut in 1..frame.len() {
            assert!(decode_all(&[&frame[..cut]], 1000).is_err(), "{cut}");
        }
        for junk in [&b"j"[..], b"junk", b"more junk than that"] {
            assert!(decode_all(&[&frame, junk], 1000).is_err(), "{junk:?}");
        }
        assert!(matches!(decode_all(&[b"rubbish rubbish"], 10), Err(CompressionError::Corrupt(_))));
    }

    #[test]
    fn a_bomb_stops_at_the_announced_size() {
        let bomb = compress(&vec![0; 50 << 20]).unwrap();
        assert!(bomb.len() < 10_000);
        let mut decoder = Decoder::new(5).unwrap();
        let result = decoder.step(&mut Bytes::from(bomb));
        assert_eq!(result, Err(CompressionError::TooLong { announced: 5 }));
    }

    #[test]
    fn a_window_beyond_the_bound_is_refused() {
        // Magic, no content size, window of 2^31 bytes, one empty last block.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3, 1, 0, 0];
        assert!(matches!(decode_all(&[&frame], 10), Err(CompressionError::Corrupt(_))));
    }

    async fn stream_of(data: &[u8], piece: usize) -> Vec<u8> {
        let pieces: Vec<_> = data.chunks(piece.max(1)).map(|c| Ok(Bytes::copy_from_slice(c))).collect();
        let blob: BlobStream = Box::pin(stream::iter(pieces));
        let mut compressed = compress_stream(blob, data.len() as u64).unwrap();
        let mut all = Vec::new();
        while let Some(piece) = compressed.next().await {
            let piece = piece.unwrap();
            assert!(!piece.is_empty() && piece.len() <= 2 * STEP);
            all.extend_from_slice(&piece);
        }
        all
    }

    #[tokio::test]
    async fn streams_of_any_size_come_back() {
        for len in [0, 1, 1000, STEP, 3 * STEP + 17] {
            let data: Vec<u8> = (0..len).map(|i| ((i * i) >> 7) as u8).collect();
            let compressed = stream_of(&data, 100_000).await;
            assert_eq!(decompress(compressed.into(), len as u64).unwrap(), data, "{len}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(data in proptest::collection::vec(any::<u8>(), 0..300), magic: bool) {
            let mut data = data;
            if magic && data.len() > 4 {
                data[..4].copy_from_slice(&[0x28, 0xb5, 0x2f, 0xfd]);
            }
            let _ = decode_all(&[&data], 1000);
        }
    }
}
