//! [`Directories`]: parsed Directory messages, kept in bounded memory.
//!
//! The roots of one project share almost all of their directories: each is read and parsed once,
//! and not for every root again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::InputError;
use crate::cas::{CasError, ContentAddressableStorage};
use crate::digest::Digest;
use crate::merkle::Directory;
use crate::recent::Recent;

/// Bytes a Directory message may have: some 300,000 entries.
const MAX_DIRECTORY: u64 = 32 << 20;

/// Entries of all directories kept: some 20 megabytes.
const MAX_ENTRIES: usize = 100_000;

/// What a directory costs besides its entries, in entries.
const OWN_COST: usize = 3;

/// Parsed messages that were used lately.
#[derive(Debug)]
pub(super) struct Directories(Mutex<Recent<Digest, Arc<Directory>>>);

impl Default for Directories {
    fn default() -> Self {
        Self(Mutex::new(Recent::weighed(MAX_ENTRIES, |directory| directory.entries() + OWN_COST)))
    }
}

// === impl Directories ===

impl Directories {
    /// The Directory `digest`, from memory or out of `cas`.
    ///
    /// # Errors
    /// [`InputError::Missing`] if it is not stored, and others if it cannot be used.
    pub(super) async fn load(
        &self,
        cas: &dyn ContentAddressableStorage,
        digest: Digest,
    ) -> Result<Arc<Directory>, InputError> {
        if digest.size() > MAX_DIRECTORY {
            return Err(InputError::DirectoryTooLarge { digest, limit: MAX_DIRECTORY });
        }
        if let Some(directory) = self.get(&digest) {
            return Ok(directory);
        }
        let data = match cas.get(&digest).await {
            Err(CasError::NotFound(_)) => return Err(InputError::Missing(vec![digest])),
            other => other?,
        };
        let directory = Directory::parse(&data, digest.function())
            .map(Arc::new)
            .map_err(|source| InputError::Malformed { digest, role: "input directory", source })?;
        self.recent().insert(digest, Arc::clone(&directory));
        Ok(directory)
    }

    /// Has those of `digests` that are to be read out of `cas` made ready there all at once: where they have
    /// to come from other machines, each for itself would take its time.
    pub(super) async fn prepare(
        &self,
        cas: &dyn ContentAddressableStorage,
        digests: &[Digest],
    ) -> Result<(), InputError> {
        let is_read = |digest: &&Digest| digest.size() <= MAX_DIRECTORY && self.get(digest).is_none();
        let read: Vec<Digest> = digests.iter().filter(is_read).copied().collect();
        if read.len() > 1 {
            cas.find_missing(&read).await.map_err(InputError::Cas)?;
        }
        Ok(())
    }

    /// The Directory `digest`, if it is in memory.
    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Directory>> {
        self.recent().get(digest).cloned()
    }

    fn recent(&self) -> MutexGuard<'_, Recent<Digest, Arc<Directory>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;
    use farmhand_proto::reapi;
    use prost::Message;

    use super::*;
    use crate::cas::memory::MemoryCas;
    use crate::cas::{BlobStream, BlobWriter, ByteRange};
    use crate::digest::BlobHash;
    use crate::digest::DigestFunction::Sha256;

    /// Notes what it is asked for.
    #[derive(Default)]
    struct Asked(MemoryCas, Mutex<Vec<Vec<Digest>>>);

    #[async_trait]
    impl ContentAddressableStorage for Asked {
        async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, CasError> {
            self.1.lock().unwrap().push(digests.to_vec());
            self.0.find_missing(digests).await
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

    #[tokio::test]
    async fn what_is_to_be_read_is_asked_for_at_once_and_only_that() {
        let (cas, directories) = (Asked::default(), Directories::default());
        let known = Digest::empty(Sha256);
        directories.load(&cas, known).await.unwrap();
        let absent = |number: u8| Digest::of(Sha256, &[number]);
        let huge = Digest::from_parts(Sha256, [1; 32], MAX_DIRECTORY + 1);
        directories.prepare(&cas, &[known, absent(1), huge]).await.unwrap();
        assert!(cas.1.lock().unwrap().is_empty(), "one alone is read as it is");
        directories.prepare(&cas, &[absent(1), known, absent(2), huge]).await.unwrap();
        assert_eq!(*cas.1.lock().unwrap(), [[absent(1), absent(2)]]);
    }

    #[tokio::test]
    async fn what_is_in_use_is_read_once_and_memory_is_bounded() {
        let (cas, directories) = (MemoryCas::default(), Directories::default());
        let with_link = |target: String| {
            let link = reapi::SymlinkNode { name: "l".into(), target, ..Default::default() };
            reapi::Directory { symlinks: vec![link], ..Default::default() }.encode_to_vec()
        };
        let used = cas.insert(Sha256, with_link("used".into()));
        let first = directories.load(&cas, used).await.unwrap();
        for n in 0..MAX_ENTRIES {
            let digest = Digest::of(Sha256, &n.to_le_bytes());
            directories.recent().insert(digest, Arc::clone(&first));
            if n % 1000 == 0 {
                assert!(Arc::ptr_eq(&first, &directories.get(&used).unwrap()));
            }
        }
        assert!(directories.get(&Digest::of(Sha256, &0_usize.to_le_bytes())).is_none());
        let absent = Digest::of(Sha256, b"absent");
        assert!(matches!(directories.load(&cas, absent).await, Err(InputError::Missing(_))));
    }
}
