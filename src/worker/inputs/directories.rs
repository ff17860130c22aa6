//! [`Directories`]: parsed Directory messages, kept in bounded memory.
//!
//! The roots of one project share almost all of their directories: each is read and parsed once,
//! and not for every root again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::InputError;
use crate::cas::{CasError, ContentAddressableStorage};
use crate::digest::Digest;
use crate::merkle::Directory;

/// Bytes a Directory message may have: some 300,000 entries.
const MAX_DIRECTORY: u64 = 32 << 20;

/// Entries of all directories kept: some 20 megabytes.
const MAX_ENTRIES: usize = 100_000;

/// What a directory costs besides its entries, in entries.
const OWN_COST: usize = 3;

/// Parsed messages in two generations: when the young one is full it becomes the old one, and what
/// was not asked for since is forgotten.
#[derive(Debug, Default)]
pub(super) struct Directories {
    generations: Mutex<Generations>,
}

#[derive(Debug, Default)]
struct Generations {
    young: HashMap<Digest, Arc<Directory>>,
    young_entries: usize,
    old: HashMap<Digest, Arc<Directory>>,
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
        self.generations().insert(digest, Arc::clone(&directory));
        Ok(directory)
    }

    /// The Directory `digest`, if it is in memory.
    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<Directory>> {
        self.generations().get(digest)
    }

    fn generations(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Generations ===

impl Generations {
    fn get(&mut self, digest: &Digest) -> Option<Arc<Directory>> {
        if let Some(directory) = self.young.get(digest) {
            return Some(Arc::clone(directory));
        }
        let directory = self.old.remove(digest)?;
        self.insert(*digest, Arc::clone(&directory));
        Some(directory)
    }

    fn insert(&mut self, digest: Digest, directory: Arc<Directory>) {
        let entries = directory.entries() + OWN_COST;
        if entries > MAX_ENTRIES / 8 {
            return;
        }
        if self.young_entries + entries > MAX_ENTRIES / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_entries = 0;
        }
        if self.young.insert(digest, directory).is_none() {
            self.young_entries += entries;
        }
    }
}

#[cfg(test)]
mod tests {
    use farmhand_proto::reapi;
    use prost::Message;

    use super::*;
    use crate::cas::memory::MemoryCas;
    use crate::digest::DigestFunction::Sha256;

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
            directories.generations().insert(digest, Arc::clone(&first));
            if n % 1000 == 0 {
                assert!(Arc::ptr_eq(&first, &directories.get(&used).unwrap()));
            }
        }
        let kept = |generations: &Generations| generations.young.len() + generations.old.len();
        assert!(kept(&directories.generations()) <= MAX_ENTRIES);
        let absent = Digest::of(Sha256, b"absent");
        assert!(matches!(directories.load(&cas, absent).await, Err(InputError::Missing(_))));
    }
}
