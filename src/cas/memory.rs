//! [`MemoryCas`]: blobs in a map. The fake behind tests of everything above the CAS.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::{
    BlobParts, BlobStream, BlobWriter, ByteRange, CasError, ContentAddressableStorage, LocalBlobs, Pins,
};
use crate::digest::{BlobHash, Digest, DigestFunction};

/// Bytes in one piece of a read.
const PIECE: usize = 256 * 1024;

/// A CAS that forgets everything with the process. Clones share their blobs.
#[derive(Clone, Default)]
pub struct MemoryCas {
    blobs: Arc<Mutex<HashMap<Digest, Bytes>>>,
}

impl MemoryCas {
    /// Stores `data` under its digest of `function`.
    pub fn insert(&self, function: DigestFunction, data: impl Into<Bytes>) -> Digest {
        let data = data.into();
        let digest = Digest::of(function, &data);
        self.blobs().insert(digest, data);
        digest
    }

    /// Forgets a blob, as eviction would.
    pub fn remove(&self, digest: &Digest) {
        self.blobs().remove(digest);
    }

    fn blobs(&self) -> MutexGuard<'_, HashMap<Digest, Bytes>> {
        self.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lookup(&self, digest: &Digest) -> Result<Bytes, CasError> {
        if digest.is_empty_blob() {
            return Ok(Bytes::new());
        }
        self.blobs().get(digest).cloned().ok_or(CasError::NotFound(*digest))
    }

    fn insert_verified(&self, digest: &Digest, data: Bytes) -> Result<(), CasError> {
        let actual = Digest::of(digest.function(), &data);
        if actual != *digest {
            return Err(CasError::Mismatch { expected: *digest, actual });
        }
        self.blobs().insert(*digest, data);
        Ok(())
    }
}

#[async_trait]
impl ContentAddressableStorage for MemoryCas {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, CasError> {
        let mut missing = Vec::new();
        for digest in digests {
            if self.lookup(digest).is_err() && !missing.contains(digest) {
                missing.push(*digest);
            }
        }
        Ok(missing)
    }

    async fn find(&self, hash: &BlobHash) -> Result<Option<Digest>, CasError> {
        let stored = self.blobs().keys().find(|digest| BlobHash::from(*digest) == *hash).copied();
        Ok(stored.or_else(|| hash.of_nothing()))
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes, CasError> {
        self.lookup(digest)
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, CasError> {
        pieces(&self.lookup(digest)?, range)
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<(), CasError> {
        self.insert_verified(digest, data)
    }

    async fn writer(&self, digest: &Digest) -> Result<Box<dyn BlobWriter>, CasError> {
        Ok(Box::new(MemoryWriter::new(self.clone(), *digest)))
    }
}

/// A range of a blob, as it is read from memory.
///
/// # Errors
/// [`CasError::OutOfRange`].
pub fn pieces(blob: &Bytes, range: ByteRange) -> Result<BlobStream, CasError> {
    let end = range.end(blob.len() as u64)?;
    let mut rest = blob.slice(range.offset as usize..end as usize);
    let pieces =
        std::iter::from_fn(move || (!rest.is_empty()).then(|| Ok(rest.split_to(PIECE.min(rest.len())))));
    Ok(Box::pin(futures_util::stream::iter(pieces)))
}

/// A writer that collects a blob, and puts the whole of it into a store.
pub struct MemoryWriter<C> {
    store: C,
    digest: Digest,
    data: BytesMut,
}

// === impl MemoryWriter ===

impl<C> MemoryWriter<C> {
    /// Writes the blob with this digest into `store`.
    pub fn new(store: C, digest: Digest) -> Self {
        Self { store, digest, data: BytesMut::new() }
    }
}

#[async_trait]
impl<C: ContentAddressableStorage> BlobWriter for MemoryWriter<C> {
    async fn write(&mut self, data: Bytes) -> Result<(), CasError> {
        if self.written() + data.len() as u64 > self.digest.size() {
            return Err(CasError::TooLong(self.digest));
        }
        self.data.extend_from_slice(&data);
        Ok(())
    }

    fn written(&self) -> u64 {
        self.data.len() as u64
    }

    async fn commit(self: Box<Self>) -> Result<(), CasError> {
        self.store.put(&self.digest, self.data.freeze()).await
    }
}

#[async_trait]
impl BlobParts for MemoryCas {
    async fn divide(&self, whole: &Digest, parts: &[Digest]) -> Result<(), CasError> {
        let mut rest = self.lookup(whole)?;
        for part in parts {
            self.insert_verified(part, rest.split_to(part.size() as usize))?;
        }
        Ok(())
    }
}

impl LocalBlobs for MemoryCas {
    fn file(&self, digest: &Digest, _executable: bool) -> Result<Option<PathBuf>, CasError> {
        self.lookup(digest).map(|_| None)
    }

    fn load(&self, digest: &Digest) -> Result<Bytes, CasError> {
        self.lookup(digest)
    }

    fn adopt(&self, digest: &Digest, path: &Path) -> Result<(), CasError> {
        let data = std::fs::read(path).map_err(|error| CasError::io(path, error))?;
        self.insert_verified(digest, data.into())
    }

    fn store(&self, digest: &Digest, data: &[u8]) -> Result<(), CasError> {
        self.insert_verified(digest, Bytes::copy_from_slice(data))
    }

    fn pin(&self, _digests: &[Digest]) -> Pins {
        Pins::new(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn conforms() {
        crate::cas::conformance::suite(&MemoryCas::default()).await;
    }
}
