//! What replication needs of the store here ([`CopyStore`]) and of other machines ([`CopyPeer`]).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;

use super::roster::Roster;
use crate::cas::entry::{EntryKey, Standing};
use crate::cas::fetch::{BlobSource, SourceError};
use crate::cas::{BlobStream, CasError};
use crate::digest::{BlobHash, Digest};
use crate::peer::MachineId;

mod disk;
#[cfg(any(test, fuzzing))]
pub mod memory;
#[cfg(test)]
pub mod testing;

/// Bytes up to which an entry travels in a batch; larger ones are streams of their own.
pub const SMALL: u64 = 512 << 10;

/// Bytes of the entries in one batch, and their number.
pub const BATCH_BYTES: u64 = 2 << 20;
/// See [`BATCH_BYTES`].
pub const BATCH_ENTRIES: usize = 2000;

/// Bytes of the largest result that travels, alone in its message: as much as a client may send.
pub const LARGEST_RESULT: u64 = 32 << 20;

/// Keys in one question.
pub const MOST_KEYS: usize = 20_000;

/// An entry of the store, looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which.
    pub key: EntryKey,
    /// Bytes of the blob, or of the stored result.
    pub bytes: u64,
    /// What is known of its other copies.
    pub standing: Standing,
    /// Time since its last use.
    pub age: Duration,
}

/// A copy on its way from one store to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Of what.
    pub key: EntryKey,
    /// The blob, or the result in its stored form.
    pub data: Bytes,
    /// Time since its last use, so that it is not younger than the original.
    pub age: Duration,
}

/// What became of a copy that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Taken {
    /// It is stored there.
    Stored,
    /// There is no room for it, or what has just been evicted there was younger.
    NoRoom,
    /// It was no copy of that entry, or cannot be read where it comes from any more.
    Bad,
}

/// The store of this machine.
#[async_trait]
pub trait CopyStore: Send + Sync + 'static {
    /// Whether each of `keys` is here; `extend` renews the life of those that are.
    fn have(&self, keys: &[EntryKey], extend: bool) -> Vec<bool>;

    /// The digest of the blob of that hash; its life is what it was.
    fn find(&self, hash: &BlobHash) -> Option<Digest>;

    /// The entry of `key`; its life is what it was.
    fn look(&self, key: &EntryKey) -> Option<Entry>;

    /// All entries of one range, in any order.
    fn range(&self, range: u8) -> Vec<Entry>;

    /// Notes what is known of the other copies; of entries that are not here, nothing.
    fn mark(&self, keys: &[EntryKey], standing: Standing);

    /// The data of an entry of [`SMALL`] bytes at most, checked for damage; `None` if it is not here (any more).
    /// Whoever gets it hashes it.
    async fn load(&self, key: &EntryKey) -> Result<Option<Bytes>, CasError>;

    /// The bytes of a blob from `offset` on.
    async fn stream(&self, key: &EntryKey, offset: u64) -> Result<BlobStream, CasError>;

    /// Takes a copy, with a standing, after verifying it: a blob by its digest, a result by the key that it
    /// carries. What is here already stays as it is, but for a result, which is replaced.
    async fn keep(&self, copy: Copy, standing: Standing) -> Taken;
}

/// Another machine's store.
#[async_trait]
pub trait CopyPeer: Send + Sync + 'static {
    /// Its name, for people.
    fn name(&self) -> &str;

    /// Whether it has each of `keys` ([`MOST_KEYS`] at most); `extend` renews their life there.
    ///
    /// # Errors
    /// When it does not answer.
    async fn have(&self, keys: &[EntryKey], extend: bool) -> Result<Vec<bool>, SourceError>;

    /// The digest of the blob of that hash, if it has one.
    ///
    /// # Errors
    /// When it does not answer.
    async fn find(&self, hash: &BlobHash) -> Result<Option<Digest>, SourceError>;

    /// Gives it copies that fit into one batch; what became of each.
    ///
    /// # Errors
    /// When it does not answer.
    async fn give(&self, copies: Vec<Copy>) -> Result<Vec<Taken>, SourceError>;

    /// Gives it a blob that is too large for a batch, out of `store`; goes on where an earlier try broke off.
    ///
    /// # Errors
    /// When it does not answer.
    async fn send(&self, key: &EntryKey, store: &dyn CopyStore) -> Result<Taken, SourceError>;

    /// Tells it that there are as many of these as there should be, in the farm with this
    /// [fingerprint](Roster::fingerprint).
    ///
    /// # Errors
    /// When it does not answer.
    async fn settle(&self, keys: &[EntryKey], farm: u64) -> Result<(), SourceError>;

    /// Results in their stored form, for those of `keys` that it has, in any order.
    ///
    /// # Errors
    /// When it does not answer.
    async fn results(&self, keys: &[EntryKey]) -> Result<Vec<(EntryKey, Bytes)>, SourceError>;
}

/// Another machine there is a link to.
#[derive(Clone)]
pub struct Other {
    /// Who.
    pub id: MachineId,
    /// Its store, for copies.
    pub copies: Arc<dyn CopyPeer>,
    /// Its blobs.
    pub blobs: Arc<dyn BlobSource>,
}

/// The other machines, now. Nothing here waits.
pub trait Others: Send + Sync + 'static {
    /// Who there is, whenever that changes.
    fn follow(&self) -> watch::Receiver<Arc<Roster>>;

    /// Who there is.
    fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.follow().borrow())
    }

    /// That machine, while there is a link to it.
    fn other(&self, id: MachineId) -> Option<Other>;

    /// Whether a machine has copies to make still, so that it may have what no holder has: a machine that
    /// said so, or any while the farm is being compared.
    fn may_have_more(&self, id: MachineId) -> bool;
}
