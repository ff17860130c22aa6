//! What replication needs of the store besides [`ContentAddressableStorage`](crate::cas): its entries with
//! what is known of their copies, their bytes without a use, and a way in for copies that keep their age. Parts
//! of blobs are no entries here: who has the blob has them.

use std::time::Duration;

use bytes::Bytes;

use super::DiskCas;
use super::map::{Found, Use};
use super::news::Origin;
use super::record::{Key, Kind, record_len};
use crate::cas::entry::{EntryKey, Standing};
use crate::cas::{BlobStream, ByteRange, CasError};
use crate::digest::{BlobHash, Digest};

/// How often a result is looked for again that was moved while it was read.
const RETRIES: usize = 3;

/// An entry of the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoredEntry {
    pub(crate) key: EntryKey,
    /// Bytes of the blob, or of the stored result.
    pub(crate) bytes: u64,
    pub(crate) standing: Standing,
    /// Time since its last use.
    pub(crate) age: Duration,
}

impl StoredEntry {
    fn new(key: &Key, found: &Found, now: u32) -> Self {
        let bytes = key.digest().map_or(u64::from(found.length), |digest| digest.size());
        let age = Duration::from_secs(now.saturating_sub(found.last_use).into());
        Self { key: *key, bytes, standing: found.standing, age }
    }
}

impl DiskCas {
    /// Whether it is there; `extend` renews its life, as a use by another machine.
    pub(crate) fn has_entry(&self, key: &EntryKey, extend: bool) -> bool {
        let using = if extend { Use::Others } else { Use::Nobody };
        let store = self.inner();
        store.map.look(key, store.now(), using).is_some_and(|found| found.kind != Kind::Part)
            || key.digest().is_some_and(|digest| digest.is_empty_blob())
    }

    /// The digest of the blob of that hash, which is left as it is.
    pub(crate) fn find_entry(&self, hash: &BlobHash) -> Option<Digest> {
        self.inner().map.find(hash).and_then(|key| key.digest()).or_else(|| hash.of_nothing())
    }

    /// The entry, left as it is.
    pub(crate) fn entry(&self, key: &EntryKey) -> Option<StoredEntry> {
        let found = self.inner().map.peek(key).filter(|found| found.kind != Kind::Part)?;
        Some(StoredEntry::new(key, &found, self.inner().now()))
    }

    /// The entries of one range: a shard of the map, locked for writers for as long as it is copied.
    pub(crate) fn entries_in(&self, range: u8) -> Vec<StoredEntry> {
        let (store, mut entries) = (self.inner(), Vec::new());
        let now = store.now();
        let add = |key: &Key, found: Found| {
            if found.kind != Kind::Part {
                entries.push(StoredEntry::new(key, &found, now));
            }
        };
        store.map.for_each_in(range.into(), add);
        entries
    }

    /// Notes what is known of the other copies of an entry, if it is there.
    pub(crate) fn set_standing(&self, key: &EntryKey, standing: Standing) {
        self.inner().map.set_standing(key, standing);
    }

    /// All bytes of a blob, checked for damage, for whoever hashes them; its life is what it was.
    pub(crate) async fn peek_blob(&self, digest: &Digest) -> Result<Bytes, CasError> {
        match self.inner().peek_packed(digest) {
            Some(data) => Ok(data),
            None => self.get_for(digest, Use::Nobody).await,
        }
    }

    /// The bytes of a blob from `offset` on; its life is what it was.
    pub(crate) async fn peek_stream(&self, digest: &Digest, offset: u64) -> Result<BlobStream, CasError> {
        self.read_for(digest, ByteRange { offset, limit: None }, Use::Nobody).await
    }

    /// A result in its stored form, checked; its life is what it was.
    pub(crate) async fn peek_result(&self, key: &EntryKey) -> Result<Option<Bytes>, CasError> {
        for _ in 0..RETRIES {
            let Some(stored) = self.look_at_action(key, Use::Nobody) else { break };
            if let Some(data) = self.read_action(stored).await? {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Whether a copy that is not here would be among the next to go, if it were; `cost` are its bytes of disk.
    pub(super) fn is_unwelcome(&self, key: &EntryKey, origin: Origin, cost: u64) -> bool {
        let store = self.inner();
        store.map.peek(key).is_none() && store.would_go(origin.standing(), origin.last_use(store.now()), cost)
    }

    /// Takes a copy of a blob, or of a result that is known to be the one of `key`. A blob that is there
    /// stays as it is, a result is replaced. False when there is no room for it: none at all, or none
    /// but that of what is worth more.
    ///
    /// # Errors
    /// As a write; [`CasError::NoSpace`] is none.
    pub(crate) async fn keep_copy(
        &self,
        key: &EntryKey,
        data: Bytes,
        standing: Standing,
        age: Duration,
    ) -> Result<bool, CasError> {
        let store = self.inner();
        let origin = Origin::Others { standing, age: 0 }.aged(age);
        let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let cost = key.digest().map_or(record_len(length), |digest| store.cost(&digest));
        if self.is_unwelcome(key, origin, cost) {
            return Ok(false);
        }
        let kept = match key.digest() {
            Some(digest) => self.put_from(&digest, data, origin).await,
            None => self.put_action_from(*key, data, origin).await.map(|_| ()),
        };
        match kept {
            Err(CasError::NoSpace { .. } | CasError::TooLarge { .. }) => Ok(false),
            kept => kept.map(|()| true),
        }
    }
}
