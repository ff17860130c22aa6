//! Blobs that are cut into chunks.

use bytes::Bytes;

use super::input::Input;
use crate::cas::chunking::{Chunker, Chunking};

/// Whatever the bytes: chunks put together are the blob, none is empty or of a size that was not promised, and how
/// the bytes came makes no difference.
///
/// # Panics
/// When that does not hold.
pub fn chunking(data: &[u8]) {
    let mut input = Input(data);
    let average = 1024 << input.below(3);
    let least = 64 + input.below(300);
    let horizon = input.below(3000);
    let piece = 1 + input.below(5000);
    for (chunking, sizes) in [
        (Chunking::FastCdc2020 { average }, average / 4..=average * 4),
        (Chunking::RepMaxCdc { least, horizon }, least..=least * 2 - 1),
    ] {
        let chunks = cut(chunking, input.0, piece);
        assert_eq!(chunks.concat(), input.0);
        assert_eq!(chunks, cut(chunking, input.0, usize::MAX), "in pieces of {piece}");
        let (last, others) = chunks.split_last().map_or((0, &[][..]), |(last, others)| (last.len(), others));
        assert!(others.iter().all(|chunk| sizes.contains(&chunk.len())), "{chunking:?}");
        assert!(last <= *sizes.end() && (last > 0 || input.0.is_empty()));
    }
}

fn cut(chunking: Chunking, data: &[u8], piece: usize) -> Vec<Bytes> {
    let mut chunker = Chunker::new(chunking);
    let mut chunks: Vec<Bytes> = data.chunks(piece).flat_map(|piece| chunker.push(piece)).collect();
    chunks.extend(chunker.finish());
    chunks
}
