//! [`OthersCas`]: the store as other machines' blobs come into it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::DiskCas;
use super::map::Use;
use super::news::Origin;
use super::record::Key;
use crate::cas::{BlobStream, BlobWriter, ByteRange, CasError, ContentAddressableStorage};
use crate::digest::{BlobHash, Digest};

/// The same blobs, but what comes in here is a copy of what another machine has, and no news. Uses renew a
/// life as ever, and are not told on.
struct OthersCas(DiskCas, Origin);

impl DiskCas {
    /// This store for copies of what others have, which are spare until somebody knows better. What is written
    /// here at the same time counts as written here, whichever is done first.
    pub fn of_others(&self) -> Arc<dyn ContentAddressableStorage> {
        Arc::new(OthersCas(self.clone(), Origin::BROUGHT))
    }

    /// The same for copies that others give this machine to keep: perhaps nobody else has them, until whoever
    /// gave them says so.
    pub fn of_givers(&self) -> Arc<dyn ContentAddressableStorage> {
        Arc::new(OthersCas(self.clone(), Origin::GIVEN))
    }
}

#[async_trait]
impl ContentAddressableStorage for OthersCas {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, CasError> {
        self.0.absent(digests, Use::Others).await
    }

    async fn peek_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, CasError> {
        self.0.peek_missing(digests).await
    }

    async fn find(&self, hash: &BlobHash) -> Result<Option<Digest>, CasError> {
        self.0.find(hash).await
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes, CasError> {
        self.0.get_for(digest, Use::Others).await
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, CasError> {
        self.0.read_for(digest, range, Use::Others).await
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<(), CasError> {
        self.0.put_from(digest, data, self.1).await
    }

    async fn writer(&self, digest: &Digest) -> Result<Box<dyn BlobWriter>, CasError> {
        self.0.writer_from(digest, self.1).await
    }

    async fn copy_writer(&self, digest: &Digest, age: Duration) -> Result<Box<dyn BlobWriter>, CasError> {
        if !self.takes_copy(digest, age) {
            let reason = "copies that were used later have just been evicted here".to_owned();
            return Err(CasError::NoSpace { wanted: digest.size(), reason });
        }
        self.0.writer_from(digest, self.1.aged(age)).await
    }

    fn takes_copy(&self, digest: &Digest, age: Duration) -> bool {
        let store = self.0.inner();
        store.check_size(digest).is_ok()
            && !self.0.is_unwelcome(&Key::from(digest), self.1.aged(age), store.cost(digest))
    }
}
