//! Bytes and their digest, as they are stored.

use bytes::Bytes;
use prost::Message;

use crate::digest::{Digest, DigestFunction};

/// Bytes with their digest, which is by SHA-256: every server knows that.
#[derive(Clone, Debug)]
pub(in crate::cli) struct Blob {
    pub(in crate::cli) digest: Digest,
    pub(in crate::cli) data: Bytes,
}

impl Blob {
    pub(in crate::cli) fn new(data: impl Into<Bytes>) -> Self {
        let data = data.into();
        Self { digest: Digest::of(DigestFunction::Sha256, &data), data }
    }

    /// An encoded message.
    pub(in crate::cli) fn of(message: &impl Message) -> Self {
        Self::new(message.encode_to_vec())
    }
}
