//! [`BroughtCas`]: the store of the farm for who needs the blobs on this disk.

use async_trait::async_trait;
use bytes::Bytes;

use super::ReplicatedCas;
use crate::cas::{BlobStream, BlobWriter, ByteRange, CasError, ContentAddressableStorage};
use crate::digest::{BlobHash, Digest};

/// As [`ReplicatedCas`], but what [`find_missing`](ContentAddressableStorage::find_missing) does not list is
/// on this disk: it fetches what is elsewhere only, many blobs at once and from several machines.
/// [`peek_missing`](ContentAddressableStorage::peek_missing) fetches nothing, and lists what is nowhere.
#[derive(Clone)]
pub struct BroughtCas<C>(ReplicatedCas<C>);

// === impl BroughtCas ===

impl<C> BroughtCas<C> {
    /// Brings here what `inner` finds elsewhere.
    pub fn new(inner: ReplicatedCas<C>) -> Self {
        Self(inner)
    }
}

#[async_trait]
impl<C: ContentAddressableStorage> ContentAddressableStorage for BroughtCas<C> {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, CasError> {
        let absent = self.0.local.find_missing(digests).await?;
        if absent.is_empty() {
            return Ok(absent);
        }
        self.0.elsewhere.bring(absent).await
    }

    async fn peek_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, CasError> {
        self.0.peek_missing(digests).await
    }

    async fn find(&self, hash: &BlobHash) -> Result<Option<Digest>, CasError> {
        self.0.find(hash).await
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes, CasError> {
        self.0.get(digest).await
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, CasError> {
        self.0.read(digest, range).await
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<(), CasError> {
        self.0.put(digest, data).await
    }

    async fn writer(&self, digest: &Digest) -> Result<Box<dyn BlobWriter>, CasError> {
        self.0.writer(digest).await
    }
}
