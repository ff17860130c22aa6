//! The disk store of this machine as a [`CopyStore`].

use async_trait::async_trait;
use bytes::Bytes;

use super::{Copy, CopyStore, Entry, SMALL, Taken};
use crate::action_cache::disk::is_stored_under;
use crate::cas::disk::{DiskCas, StoredEntry};
use crate::cas::entry::{EntryKey, Standing};
use crate::cas::{BlobStream, CasError};
use crate::digest::{BlobHash, Digest};

impl From<StoredEntry> for Entry {
    fn from(StoredEntry { key, bytes, standing, age }: StoredEntry) -> Self {
        Self { key, bytes, standing, age }
    }
}

#[async_trait]
impl CopyStore for DiskCas {
    fn have(&self, keys: &[EntryKey], extend: bool) -> Vec<bool> {
        keys.iter().map(|key| self.has_entry(key, extend)).collect()
    }

    fn find(&self, hash: &BlobHash) -> Option<Digest> {
        self.find_entry(hash)
    }

    fn look(&self, key: &EntryKey) -> Option<Entry> {
        self.entry(key).map(Entry::from)
    }

    fn range(&self, range: u8) -> Vec<Entry> {
        self.entries_in(range).into_iter().map(Entry::from).collect()
    }

    fn mark(&self, keys: &[EntryKey], standing: Standing) {
        keys.iter().for_each(|key| self.set_standing(key, standing));
    }

    /// A result is had whole, however large.
    async fn load(&self, key: &EntryKey) -> Result<Option<Bytes>, CasError> {
        let Some(digest) = key.digest() else { return self.peek_result(key).await };
        if digest.size() > SMALL {
            return Err(CasError::TooLarge { digest, limit: SMALL });
        }
        match self.peek_blob(&digest).await {
            Err(CasError::NotFound(_)) => Ok(None),
            data => data.map(Some),
        }
    }

    async fn stream(&self, key: &EntryKey, offset: u64) -> Result<BlobStream, CasError> {
        match key.digest() {
            Some(digest) => self.peek_stream(&digest, offset).await,
            None => {
                let offset = usize::try_from(offset).unwrap_or(usize::MAX);
                let data = self.peek_result(key).await?.unwrap_or_default();
                let rest = data.slice(offset.min(data.len())..);
                let piece = (!rest.is_empty()).then_some(Ok(rest));
                Ok(Box::pin(futures_util::stream::iter(piece)))
            }
        }
    }

    async fn keep(&self, copy: Copy, standing: Standing) -> Taken {
        let Copy { key, data, age } = copy;
        let is_bad = match key.digest() {
            Some(digest) => digest.size() != data.len() as u64,
            None => !is_stored_under(&key, &data),
        };
        if is_bad {
            return Taken::Bad;
        }
        match self.keep_copy(&key, data, standing, age).await {
            Ok(true) => Taken::Stored,
            Ok(false) => Taken::NoRoom,
            Err(CasError::Mismatch { .. } | CasError::TooLong(_)) => Taken::Bad,
            Err(error) => {
                tracing::warn!(%error, "cannot keep a copy");
                Taken::NoRoom
            }
        }
    }
}

#[cfg(test)]
mod tests;
