//! [`Chunks`]: blobs split into chunks, and chunks spliced to blobs (REAPI `SplitBlob`, `SpliceBlob` and their
//! streamed siblings).
//!
//! A split reads the blob once, on this disk, and has the store give out its chunks as [parts](BlobParts) of it:
//! they cost a note each and no second copy. How a blob was split is remembered for a while, so that asking again
//! costs a look at the notes. A splice is an ordinary write, verified like any, whose bytes are read out of the
//! store. Memory is bounded by the largest chunk, and by one digest for each chunk of a split.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::TryStreamExt;
use tokio::sync::Semaphore;

use super::chunking::{Chunker, Chunking, ChunkingOffer};
use super::{BlobParts, BlobStream, BlobWriter, ByteRange, CasError, ContentAddressableStorage};
use crate::config::ChunkSize;
use crate::digest::Digest;
use crate::recent::Recent;

/// Blobs that are read and hashed at once; more wait.
const TURNS: usize = 2;

/// Digests of chunks that are remembered, of all blobs together.
const REMEMBERED: usize = 400_000;

/// Bytes that a thread cuts and hashes in one go.
const BATCH: usize = 1 << 20;

/// The ordered chunks of a blob.
pub type ChunkList = Arc<[Digest]>;

/// Splits and splices. Clones share what they remember.
#[derive(Clone)]
pub struct Chunks {
    inner: Arc<Inner>,
}

struct Inner {
    offer: ChunkingOffer,
    cas: Arc<dyn ContentAddressableStorage>,
    brought: Arc<dyn ContentAddressableStorage>,
    parts: Arc<dyn BlobParts>,
    turns: Semaphore,
    known: Mutex<Recent<(Digest, Chunking), ChunkList>>,
}

/// A blob that is being put together. Dropping it forgets what came.
pub struct Splice {
    cas: Arc<dyn ContentAddressableStorage>,
    blob: Digest,
    is_there: bool,
    /// There is one, and room for the blob, once the first chunks are known to be there.
    writer: Option<Box<dyn BlobWriter>>,
}

/// A blob that is being cut.
struct Cutting {
    chunker: Chunker,
    digests: Vec<Digest>,
}

// === impl Chunks ===

impl Chunks {
    /// Chunks of `size` in the mean. Blobs are put together in `cas`; those that are split come to the disk of
    /// `parts` by `brought`, where what is not missing is there.
    pub fn new(
        size: ChunkSize,
        cas: Arc<dyn ContentAddressableStorage>,
        brought: Arc<dyn ContentAddressableStorage>,
        parts: Arc<dyn BlobParts>,
    ) -> Self {
        let known = Mutex::new(Recent::weighed(REMEMBERED, |list: &ChunkList| list.len() + 1));
        let offer = ChunkingOffer::new(size);
        let inner = Inner { offer, cas, brought, parts, turns: Semaphore::new(TURNS), known };
        Self { inner: Arc::new(inner) }
    }

    /// How blobs are cut.
    pub fn offer(&self) -> ChunkingOffer {
        self.inner.offer
    }

    /// The chunks of `blob`, all of which are in the store from now on. The lives of all are extended.
    ///
    /// # Errors
    /// [`CasError::NotFound`] if the blob is nowhere, [`CasError::NoSpace`] if there is no room for the notes.
    pub async fn split(&self, blob: &Digest, chunking: Chunking) -> Result<ChunkList, CasError> {
        if blob.is_empty_blob() {
            return Ok(Arc::default());
        }
        let inner = &self.inner;
        // A blob that others ask for at the same time is known when it is their turn.
        let _turn = inner.turns.acquire().await.expect("invariant: nobody closes the semaphore");
        if !inner.brought.find_missing(std::slice::from_ref(blob)).await?.is_empty() {
            return Err(CasError::NotFound(*blob));
        }
        let known = inner.known().get(&(*blob, chunking)).cloned();
        let list = match known {
            Some(list) => list,
            None => cut(inner.brought.read(blob, ByteRange::default()).await?, blob, chunking).await?,
        };
        inner.parts.divide(blob, &list).await?;
        inner.known().insert((*blob, chunking), Arc::clone(&list));
        Ok(list)
    }

    /// Begins to put `blob` together.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn splice(&self, blob: &Digest) -> Result<Splice, CasError> {
        let cas = Arc::clone(&self.inner.cas);
        let is_there = cas.find_missing(std::slice::from_ref(blob)).await?.is_empty();
        Ok(Splice { cas, blob: *blob, is_there, writer: None })
    }
}

impl Inner {
    fn known(&self) -> MutexGuard<'_, Recent<(Digest, Chunking), ChunkList>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts the bytes of `blob`.
async fn cut(mut bytes: BlobStream, blob: &Digest, chunking: Chunking) -> Result<ChunkList, CasError> {
    let function = blob.function();
    let mut cutting = Cutting { chunker: Chunker::new(chunking), digests: Vec::new() };
    let mut ended = false;
    while !ended {
        let (mut pieces, mut len) = (Vec::new(), 0);
        while len < BATCH && !ended {
            match bytes.try_next().await? {
                Some(piece) => {
                    len += piece.len();
                    pieces.push(piece);
                }
                None => ended = true,
            }
        }
        let work = move || {
            for piece in pieces {
                let chunks = cutting.chunker.push(&piece);
                cutting.digests.extend(chunks.iter().map(|chunk| Digest::of(function, chunk)));
            }
            cutting
        };
        cutting = off_thread(work).await;
    }
    let Cutting { chunker, mut digests } = cutting;
    let work = move || {
        digests.extend(chunker.finish().iter().map(|chunk| Digest::of(function, chunk)));
        digests
    };
    Ok(off_thread(work).await.into())
}

async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("invariant: the work neither panics nor is aborted")
}

// === impl Splice ===

impl Splice {
    /// Adds chunks, in order; their lives are extended. Does nothing for a blob that is there.
    ///
    /// # Errors
    /// [`CasError::NotFound`] for the first that is not in the store; as a write.
    pub async fn add(&mut self, chunks: &[Digest]) -> Result<(), CasError> {
        if self.is_there {
            return Ok(());
        }
        let before = self.writer.as_ref().map_or(0, |writer| writer.written());
        let total = chunks.iter().fold(before, |sum, chunk| sum.saturating_add(chunk.size()));
        if total > self.blob.size() {
            return Err(CasError::TooLong(self.blob));
        }
        if let Some(absent) = self.cas.find_missing(chunks).await?.first() {
            return Err(CasError::NotFound(*absent));
        }
        let writer = match &mut self.writer {
            Some(writer) => writer,
            none => none.insert(self.cas.writer(&self.blob).await?),
        };
        for chunk in chunks {
            let mut bytes = self.cas.read(chunk, ByteRange::default()).await?;
            while let Some(piece) = bytes.try_next().await? {
                writer.write(piece).await?;
            }
        }
        Ok(())
    }

    /// Verifies the digest of all that was added, and makes the blob visible.
    ///
    /// # Errors
    /// [`CasError::Mismatch`]; as a write.
    pub async fn finish(self) -> Result<(), CasError> {
        match self.writer {
            Some(writer) => writer.commit().await,
            None if self.is_there => Ok(()),
            // Nothing was added.
            None => self.cas.writer(&self.blob).await?.commit().await,
        }
    }
}

#[cfg(test)]
mod tests;
