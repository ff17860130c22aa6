//! The content-addressable storage (CAS): the trait every store of blobs has.
//!
//! Promises of every implementation, held by `conformance`: nothing is stored before its hash
//! and size are verified; what [`find_missing`](ContentAddressableStorage::find_missing) does not
//! list can be read in full at once; the empty blob is always there.
//!
//! `disk` is the store of this machine; `memory` is the fake for tests. Decorators (a replicated
//! store, say) take the inner one by value and are named adjective first.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;

use crate::digest::{BlobHash, Digest};

pub mod chunking;
pub mod chunks;
pub mod compression;
#[cfg(test)]
pub mod conformance;
pub mod disk;
pub mod entry;
pub mod fetch;
pub mod memory;
pub mod remote;

/// The bytes of a blob in pieces of 64 KiB to 1 MiB; no piece is empty.
pub type BlobStream = Pin<Box<dyn Stream<Item = Result<Bytes, CasError>> + Send>>;

/// Which bytes of a blob to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte wanted.
    pub offset: u64,
    /// Bytes wanted at most; `None` for all up to the end.
    pub limit: Option<u64>,
}

impl ByteRange {
    /// Where the range ends in a blob of `size` bytes.
    ///
    /// # Errors
    /// [`CasError::OutOfRange`] if it begins beyond the end.
    pub fn end(self, size: u64) -> Result<u64, CasError> {
        if self.offset > size {
            return Err(CasError::OutOfRange { offset: self.offset, size });
        }
        Ok(self.limit.map_or(size, |limit| size.min(self.offset.saturating_add(limit))))
    }
}

/// What can go wrong with a blob.
#[derive(Debug, thiserror::Error)]
pub enum CasError {
    /// The blob is not stored.
    #[error("blob {0} is not in the CAS")]
    NotFound(Digest),
    /// The bytes given do not have the digest given; nothing was stored.
    #[error("the bytes do not match digest {expected}: they are {actual}")]
    Mismatch {
        /// What was announced.
        expected: Digest,
        /// What came, or the least that had come when it was too much.
        actual: Digest,
    },
    /// More bytes came than the digest says; nothing was stored.
    #[error("more bytes were sent than blob {0} has")]
    TooLong(Digest),
    /// The range begins beyond the end of the blob.
    #[error("offset {offset} is outside the {size} bytes of the blob")]
    OutOfRange {
        /// Offset asked for.
        offset: u64,
        /// Size of the blob.
        size: u64,
    },
    /// Larger than the store can ever hold (budget or `max-blob-size`).
    #[error("blob {digest} is larger than the {limit} bytes this store takes")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// The limit in bytes.
        limit: u64,
    },
    /// No room: the budget is full of leased blobs, or the disk is full.
    #[error("no room for {wanted} bytes: {reason}")]
    NoSpace {
        /// Bytes that did not fit.
        wanted: u64,
        /// What fills the room, and the remedy.
        reason: String,
    },
    /// It is stored, and not on as many machines as a writer is to wait for.
    #[error(
        "{what} is on {have} of the {wanted} machines it is to be on before it counts as stored; start more \
         machines that keep copies, or lower copies-before-ack"
    )]
    TooFewCopies {
        /// The blob or the result, for people.
        what: String,
        /// Copies that were to be there.
        wanted: usize,
        /// Copies that are known.
        have: usize,
    },
    /// The operating system failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Its words.
        source: io::Error,
    },
}

impl CasError {
    /// Wraps an I/O error with its path; a full disk becomes [`CasError::NoSpace`].
    pub fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            let reason = format!(
                "the disk of {} is full; free some room there, or lower disk-budget below what it has",
                path.display()
            );
            return Self::NoSpace { wanted: 0, reason };
        }
        Self::Io { path, source }
    }
}

/// A store of blobs, named by digest.
#[async_trait]
pub trait ContentAddressableStorage: Send + Sync + 'static {
    /// Those of `digests` that are not stored, each once, in the order of their first mention. The
    /// life of the others is extended.
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, CasError>;

    /// As [`find_missing`](Self::find_missing), for who only looks: the life of the others is what it
    /// was, where the store can tell without using them.
    async fn peek_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, CasError> {
        self.find_missing(digests).await
    }

    /// The digest of the blob of that hash, if it is stored: for clients that tell no sizes. The life of
    /// the blob is what it was.
    async fn find(&self, hash: &BlobHash) -> Result<Option<Digest>, CasError>;

    /// The whole blob in memory. Callers bound the size before they ask.
    async fn get(&self, digest: &Digest) -> Result<Bytes, CasError>;

    /// The bytes of `range`, streamed. Reading at `offset == size` gives an empty stream.
    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, CasError>;

    /// Stores a blob that is in memory, after verifying it. Storing what is there is fine.
    async fn put(&self, digest: &Digest, data: Bytes) -> Result<(), CasError>;

    /// Begins a blob that comes in pieces. Fails at once where it can never fit.
    async fn writer(&self, digest: &Digest) -> Result<Box<dyn BlobWriter>, CasError>;

    /// As [`writer`](Self::writer), for a copy of what was last used so long ago where it comes from. A store of
    /// copies refuses at once what would be the next to go; to others it is a blob like any other.
    async fn copy_writer(&self, digest: &Digest, _age: Duration) -> Result<Box<dyn BlobWriter>, CasError> {
        self.writer(digest).await
    }

    /// Whether [`copy_writer`](Self::copy_writer) would not refuse at once.
    fn takes_copy(&self, _digest: &Digest, _age: Duration) -> bool {
        true
    }
}

/// A blob on its way in. Dropping it forgets what came.
#[async_trait]
pub trait BlobWriter: Send + Sync {
    /// Takes the next piece; [`CasError::TooLong`] as soon as more comes than announced.
    async fn write(&mut self, data: Bytes) -> Result<(), CasError>;

    /// Bytes taken so far.
    fn written(&self) -> u64;

    /// Whoever writes hashes what he gives, and commits only what is right: it need not be hashed here as
    /// well. To be said before the first piece.
    fn trust(&mut self) {}

    /// Verifies hash and size and makes the blob visible. When this returns, it survives the death
    /// of the process.
    async fn commit(self: Box<Self>) -> Result<(), CasError>;
}

/// A store that gives out parts of a blob as blobs of their own, without a second copy of the bytes.
#[async_trait]
pub trait BlobParts: Send + Sync + 'static {
    /// Has each of `parts` be a blob here: those that are not there are parts of `whole` from now on, which has
    /// their bytes one after the other, in this order. The lives of all of them are extended. A part is there for
    /// as long as the whole is, and using it uses the whole.
    ///
    /// The caller has computed the digests from the bytes of `whole`.
    ///
    /// # Errors
    /// [`CasError::NotFound`] if `whole` is not in this store; [`CasError::NoSpace`].
    async fn divide(&self, whole: &Digest, parts: &[Digest]) -> Result<(), CasError>;
}

/// What a worker needs from the store on its own disk. These calls block: they are for threads
/// that may wait for a disk.
pub trait LocalBlobs: Send + Sync + 'static {
    /// A read-only file that holds the blob and may be hardlinked (never handed to an action
    /// itself): mode 0444, or for `executable` a second inode of mode 0555, so that a file open for
    /// writing elsewhere never makes it unrunnable (ETXTBSY). `None` for blobs that are small enough
    /// to be kept inside packs: copy those with [`load`](Self::load).
    fn file(&self, digest: &Digest, executable: bool) -> Result<Option<PathBuf>, CasError>;

    /// The whole of a small blob.
    fn load(&self, digest: &Digest) -> Result<Bytes, CasError>;

    /// Takes the file at `path` into the store by renaming it where that is possible (same file
    /// system, worth a file of its own) and by copying otherwise; `path` may be gone afterwards.
    /// The caller has just computed `digest` from this file and vouches that nobody can write to
    /// it any more. Fixes the mode itself.
    fn adopt(&self, digest: &Digest, path: &Path) -> Result<(), CasError>;

    /// Stores bytes whose digest the caller has just computed from them: no second hash.
    fn store(&self, digest: &Digest, data: &[u8]) -> Result<(), CasError>;

    /// Keeps blobs from eviction until the returned guard is dropped, present or not.
    fn pin(&self, digests: &[Digest]) -> Pins;
}

/// Blobs kept from eviction while this lives.
pub struct Pins(#[expect(dead_code, reason = "held for its Drop")] Box<dyn Send + Sync>);

impl Pins {
    /// Wraps the guard of a store.
    pub fn new(guard: impl Send + Sync + 'static) -> Self {
        Self(Box::new(guard))
    }
}
