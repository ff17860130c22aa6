//! Piece checksums of large blobs: what lets a read find a flipped bit before the byte is served.
//!
//! A CRC-32 of every 256 KiB is taken while the blob is written, and kept in its note. Reads check
//! piece by piece, at a tenth of the cost of the digest and for ranges too; the digest itself is
//! checked when a blob comes in and by `verify`.

/// Bytes one checksum covers.
pub(super) const PIECE: usize = 256 * 1024;

const SUM_LEN: usize = 4;

/// Takes checksums of bytes as they pass.
#[derive(Default)]
pub(super) struct SumsBuilder {
    current: crc32fast::Hasher,
    filled: usize,
    sums: Vec<u8>,
}

/// The checksums of one blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sums(Vec<u8>);

impl SumsBuilder {
    pub(super) fn update(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(PIECE - self.filled));
            self.current.update(now);
            self.filled += now.len();
            if self.filled == PIECE {
                self.close_piece();
            }
            data = later;
        }
    }

    pub(super) fn finish(mut self) -> Sums {
        if self.filled > 0 {
            self.close_piece();
        }
        Sums(self.sums)
    }

    fn close_piece(&mut self) {
        let crc = std::mem::take(&mut self.current).finalize();
        self.sums.extend_from_slice(&crc.to_le_bytes());
        self.filled = 0;
    }
}

impl Sums {
    /// Reads the data of a note; `None` unless it has a checksum for every piece of `size` bytes.
    pub(super) fn decode(data: Vec<u8>, size: u64) -> Option<Self> {
        (data.len() as u64 == size.div_ceil(PIECE as u64) * SUM_LEN as u64).then_some(Self(data))
    }

    /// The data of a note.
    pub(super) fn encode(&self) -> &[u8] {
        &self.0
    }

    /// Whether `data` is the piece with this number.
    pub(super) fn hold(&self, piece: u64, data: &[u8]) -> bool {
        let at = piece as usize * SUM_LEN;
        self.0.get(at..at + SUM_LEN) == Some(&crc32fast::hash(data).to_le_bytes()[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_piece_is_covered_however_the_bytes_came() {
        let data: Vec<u8> = (0..PIECE * 2 + 5000).map(|n| (n * 7 / 3) as u8).collect();
        let mut builder = SumsBuilder::default();
        data.chunks(70_001).for_each(|piece| builder.update(piece));
        let sums = builder.finish();
        for (number, piece) in data.chunks(PIECE).enumerate() {
            assert!(sums.hold(number as u64, piece));
            let mut flipped = piece.to_vec();
            flipped[piece.len() / 2] ^= 4;
            assert!(!sums.hold(number as u64, &flipped));
        }
        assert!(!sums.hold(3, &[]));
        let encoded = sums.encode().to_vec();
        assert_eq!(Sums::decode(encoded.clone(), data.len() as u64), Some(sums));
        assert_eq!(Sums::decode(encoded, PIECE as u64), None);
    }
}
