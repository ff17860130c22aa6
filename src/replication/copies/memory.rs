//! [`MemoryCopies`]: a store of entries in a map. The fake behind tests of everything that copies.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use farmhand_proto::reapi::ActionResult;
use prost::Message as _;
use sha2::Digest as _;

use super::{Copy, CopyStore, Entry, Taken};
use crate::action_cache::ActionKey;
use crate::action_cache::disk::is_stored_under;
use crate::cas::entry::{EntryKey, Standing};
use crate::cas::memory::{MemoryWriter, pieces};
use crate::cas::{BlobStream, BlobWriter, ByteRange, CasError, ContentAddressableStorage};
use crate::digest::{BlobHash, Digest, DigestFunction, KEY_LEN};

/// A store that forgets everything with the process. Clones share their entries. As a CAS it keeps what is
/// written as [`Standing::Sole`], or, where it is [`of_others`](Self::of_others), as [`Standing::Spare`].
#[derive(Clone, Debug, Default)]
pub struct MemoryCopies {
    inner: Arc<Mutex<Inner>>,
    written_as: Standing,
    /// Time since the last use of what is written.
    age: Duration,
}

#[derive(Debug, Default)]
struct Inner {
    entries: HashMap<EntryKey, Held>,
    /// Bytes that may be held; `None` for any number.
    room: Option<u64>,
    extended: Vec<EntryKey>,
}

#[derive(Clone, Debug)]
struct Held {
    data: Bytes,
    standing: Standing,
    age: Duration,
}

// === impl MemoryCopies ===

impl MemoryCopies {
    /// Stores a blob, as a client would; its key.
    pub fn blob(&self, data: impl Into<Bytes>) -> EntryKey {
        let data = data.into();
        let key = EntryKey::from(&Digest::of(DigestFunction::Sha256, &data));
        self.insert(key, data, Standing::Sole);
        key
    }

    /// Stores a result, as a client would; its key.
    pub fn result(&self, key: &ActionKey, result: &ActionResult) -> EntryKey {
        let (key, data) = stored_form(key, result);
        self.insert(key, data, Standing::Sole);
        key
    }

    /// Stores `data` under `key`, whether or not it is what the key says.
    pub fn insert(&self, key: EntryKey, data: impl Into<Bytes>, standing: Standing) {
        self.inner().entries.insert(key, Held { data: data.into(), standing, age: Duration::ZERO });
    }

    /// Forgets an entry, as eviction would.
    pub fn lose(&self, key: &EntryKey) {
        self.inner().entries.remove(key);
    }

    /// An entry was last used so long ago.
    pub fn set_age(&self, key: &EntryKey, age: Duration) {
        self.inner().entries.entry(*key).and_modify(|held| held.age = age);
    }

    /// Bytes that may be held from now on; `None` for any number.
    pub fn set_room(&self, room: Option<u64>) {
        self.inner().room = room;
    }

    /// The data of an entry, as it stands.
    pub fn data(&self, key: &EntryKey) -> Option<Bytes> {
        self.inner().entries.get(key).map(|held| held.data.clone())
    }

    /// What is known of the other copies; `None` if the entry is not here.
    pub fn standing(&self, key: &EntryKey) -> Option<Standing> {
        self.inner().entries.get(key).map(|held| held.standing)
    }

    /// All keys, in their order.
    pub fn keys(&self) -> Vec<EntryKey> {
        let mut keys: Vec<EntryKey> = self.inner().entries.keys().copied().collect();
        keys.sort_unstable();
        keys
    }

    /// Those whose life was extended, in the order in which it was; each as often as that.
    pub fn extended(&self) -> Vec<EntryKey> {
        self.inner().extended.clone()
    }

    /// The same store for what comes from other machines.
    pub fn of_others(&self) -> Self {
        Self { written_as: Standing::Spare, ..self.clone() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blob_of(&self, digest: &Digest) -> Result<Bytes, CasError> {
        if digest.is_empty_blob() {
            return Ok(Bytes::new());
        }
        self.data(&EntryKey::from(digest)).ok_or(CasError::NotFound(*digest))
    }

    fn put_verified(&self, digest: &Digest, data: Bytes) -> Result<(), CasError> {
        let actual = Digest::of(digest.function(), &data);
        if actual != *digest {
            return Err(CasError::Mismatch { expected: *digest, actual });
        }
        if digest.is_empty_blob() {
            return Ok(());
        }
        let wanted = data.len() as u64;
        let copy = Copy { key: EntryKey::from(digest), data, age: self.age };
        match self.inner().take(copy, self.written_as) {
            Taken::NoRoom => Err(CasError::NoSpace { wanted, reason: "the test says so".into() }),
            Taken::Stored | Taken::Bad => Ok(()),
        }
    }
}

// === impl Inner ===

impl Inner {
    fn has_room(&self, bytes: u64) -> bool {
        let used: u64 = self.entries.values().map(|held| held.data.len() as u64).sum();
        self.room.is_none_or(|room| used + bytes <= room)
    }

    /// Takes a copy that is what it says.
    fn take(&mut self, copy: Copy, standing: Standing) -> Taken {
        let Copy { key, data, age } = copy;
        if self.entries.contains_key(&key) && !key.is_action() {
            return Taken::Stored;
        }
        if !self.has_room(data.len() as u64) {
            return Taken::NoRoom;
        }
        self.entries.insert(key, Held { data, standing, age });
        Taken::Stored
    }
}

#[async_trait]
impl CopyStore for MemoryCopies {
    fn have(&self, keys: &[EntryKey], extend: bool) -> Vec<bool> {
        let mut inner = self.inner();
        let present: Vec<bool> = keys.iter().map(|key| inner.entries.contains_key(key)).collect();
        if extend {
            let here = keys.iter().zip(&present).filter(|(_, is_here)| **is_here);
            inner.extended.extend(here.map(|(key, _)| *key));
        }
        present
    }

    fn find(&self, hash: &BlobHash) -> Option<Digest> {
        let digests = |key: &EntryKey| key.digest().filter(|digest| BlobHash::from(digest) == *hash);
        self.inner().entries.keys().find_map(digests).or_else(|| hash.of_nothing())
    }

    fn look(&self, key: &EntryKey) -> Option<Entry> {
        self.inner().entries.get(key).map(|held| held.entry(key))
    }

    fn range(&self, range: u8) -> Vec<Entry> {
        let inner = self.inner();
        let of_it = inner.entries.iter().filter(|(key, _)| key.range() == range);
        of_it.map(|(key, held)| held.entry(key)).collect()
    }

    fn mark(&self, keys: &[EntryKey], standing: Standing) {
        let mut inner = self.inner();
        for key in keys {
            if let Some(held) = inner.entries.get_mut(key) {
                held.standing = standing;
            }
        }
    }

    async fn load(&self, key: &EntryKey) -> Result<Option<Bytes>, CasError> {
        let data = self.data(key);
        Ok(data.filter(|data| is_what_it_says(key, data)))
    }

    async fn stream(&self, key: &EntryKey, offset: u64) -> Result<BlobStream, CasError> {
        let Some(digest) = key.digest() else {
            return Err(CasError::io("result", std::io::Error::other("a result is no blob")));
        };
        self.read(&digest, ByteRange { offset, limit: None }).await
    }

    async fn keep(&self, copy: Copy, standing: Standing) -> Taken {
        if !is_what_it_says(&copy.key, &copy.data) {
            return Taken::Bad;
        }
        self.inner().take(copy, standing)
    }
}

#[async_trait]
impl ContentAddressableStorage for MemoryCopies {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, CasError> {
        let mut missing = Vec::new();
        for digest in digests {
            if self.blob_of(digest).is_err() && !missing.contains(digest) {
                missing.push(*digest);
            }
        }
        Ok(missing)
    }

    async fn find(&self, hash: &BlobHash) -> Result<Option<Digest>, CasError> {
        Ok(CopyStore::find(self, hash))
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes, CasError> {
        self.blob_of(digest)
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, CasError> {
        pieces(&self.blob_of(digest)?, range)
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<(), CasError> {
        self.put_verified(digest, data)
    }

    async fn writer(&self, digest: &Digest) -> Result<Box<dyn BlobWriter>, CasError> {
        Ok(Box::new(MemoryWriter::new(self.clone(), *digest)))
    }

    async fn copy_writer(&self, digest: &Digest, age: Duration) -> Result<Box<dyn BlobWriter>, CasError> {
        Ok(Box::new(MemoryWriter::new(Self { age, ..self.clone() }, *digest)))
    }

    fn takes_copy(&self, digest: &Digest, _age: Duration) -> bool {
        self.inner().has_room(digest.size())
    }
}

// === impl Held ===

impl Held {
    fn entry(&self, key: &EntryKey) -> Entry {
        Entry { key: *key, bytes: self.data.len() as u64, standing: self.standing, age: self.age }
    }
}

/// A result as it is stored, and its key.
pub fn stored_form(key: &ActionKey, result: &ActionResult) -> (EntryKey, Bytes) {
    let (action, instance) = (key.action.to_key(), key.instance.as_str());
    let length = u16::try_from(instance.len()).expect("invariant: instance names are short").to_le_bytes();
    let data = [&action[..], &length, instance.as_bytes(), &result.encode_to_vec()].concat();
    (EntryKey::action(&identity(&action, instance.as_bytes())), data.into())
}

/// Whether `data` is that of `key`.
pub fn is_what_it_says(key: &EntryKey, data: &[u8]) -> bool {
    if let Some(digest) = key.digest() {
        return Digest::of(digest.function(), data) == digest;
    }
    is_stored_under(key, data)
}

/// The hash under which the store keeps a result.
fn identity(action: &[u8; KEY_LEN], instance: &[u8]) -> [u8; 32] {
    let mut hash = sha2::Sha256::new();
    hash.update(b"farmhand action result\0");
    hash.update(action);
    hash.update(instance);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::InstanceName;

    #[tokio::test]
    async fn conforms() {
        crate::cas::conformance::suite(&MemoryCopies::default()).await;
    }

    #[tokio::test]
    async fn copies_are_kept_when_they_are_what_they_say_and_fit() {
        let (from, to) = (MemoryCopies::default(), MemoryCopies::default());
        let action = Digest::of(DigestFunction::Sha256, b"action");
        let result = from.result(
            &ActionKey { instance: InstanceName::default(), action },
            &ActionResult { exit_code: 3, ..Default::default() },
        );
        for key in [result, from.blob(&b"blob"[..])] {
            let copy = Copy { key, data: from.load(&key).await.unwrap().unwrap(), age: Duration::ZERO };
            let wrong = Copy { data: b"else"[..].into(), ..copy.clone() };
            assert_eq!(to.keep(wrong, Standing::Spare).await, Taken::Bad);
            to.set_room(Some(0));
            assert_eq!(to.keep(copy.clone(), Standing::Spare).await, Taken::NoRoom);
            to.set_room(None);
            assert_eq!(to.keep(copy, Standing::Spare).await, Taken::Stored);
            assert_eq!(to.standing(&key), Some(Standing::Spare));
        }
        assert_eq!(to.have(&to.keys(), true), [true, true]);
        assert_eq!(to.extended(), from.keys());
    }
}
