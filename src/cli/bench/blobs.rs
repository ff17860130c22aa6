//! Blobs of one run, unlike those of any other.

use std::cell::Cell;

use super::super::remote::Blob;

/// Makes blobs that no server has seen.
#[derive(Debug)]
pub(super) struct Maker {
    salt: [u8; 16],
    made: Cell<u64>,
}

impl Maker {
    pub(super) fn new() -> Self {
        Self { salt: uuid::Uuid::new_v4().into_bytes(), made: Cell::new(0) }
    }

    /// Incompressible bytes.
    pub(super) fn blob(&self, len: usize) -> Blob {
        let mut data = vec![0; len];
        self.fill(&mut data);
        Blob::new(data)
    }

    /// Several of one size.
    pub(super) fn blobs(&self, number: usize, len: usize) -> Vec<Blob> {
        (0..number).map(|_| self.blob(len)).collect()
    }

    /// Bytes that make an Action differ from all others.
    pub(super) fn salt(&self) -> Vec<u8> {
        let mut data = vec![0; 16];
        self.fill(&mut data);
        data
    }

    fn fill(&self, data: &mut [u8]) {
        self.made.set(self.made.get() + 1);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.salt).update(&self.made.get().to_le_bytes());
        hasher.finalize_xof().fill(data);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Digest, DigestFunction};

    #[test]
    fn no_two_blobs_are_equal() {
        let (maker, other) = (Maker::new(), Maker::new());
        let blobs = [maker.blob(64), maker.blob(64), other.blob(64)];
        assert!(blobs.iter().all(|blob| blob.digest == Digest::of(DigestFunction::Sha256, &blob.data)));
        assert_ne!(blobs[0].data, blobs[1].data);
        assert_ne!(blobs[0].data, blobs[2].data);
    }
}
