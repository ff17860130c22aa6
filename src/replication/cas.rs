//! [`ReplicatedCas`]: the store of this machine, and those of all others where a blob is not here.
//!
//! What is written goes to the disk here, and is acknowledged as [`Acknowledge`] has it. What is read comes from
//! here, or else from [`Elsewhere`]; so does what a damaged disk cannot give any more, from where it broke
//! off. [`BroughtCas`] is the same store for those who need blobs on this disk.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::elsewhere::Elsewhere;
use crate::cas::entry::EntryKey;
use crate::cas::{BlobStream, BlobWriter, ByteRange, CasError, ContentAddressableStorage};
use crate::digest::{BlobHash, Digest};

mod brought;
#[cfg(test)]
mod tests;

pub use brought::BroughtCas;

/// When a write is begun, and when it counts as done.
#[async_trait]
pub trait Acknowledge: Send + Sync + 'static {
    /// Waits until more may be written.
    async fn admitted(&self);

    /// Waits until what was written here under `key` may be acknowledged.
    ///
    /// # Errors
    /// When it is not safe enough in time. It is stored here nevertheless.
    async fn acknowledged(&self, key: &EntryKey) -> Result<(), CasError>;
}

/// The store of the whole farm, as seen from here. Clones are the same, if those of the inner one are.
#[derive(Clone)]
pub struct ReplicatedCas<C> {
    local: C,
    elsewhere: Elsewhere,
    policy: Arc<dyn Acknowledge>,
}

/// A write that is acknowledged when the policy says so.
struct AcknowledgedWriter {
    inner: Box<dyn BlobWriter>,
    policy: Arc<dyn Acknowledge>,
    key: EntryKey,
}

/// A blob that is read from this disk as far as that goes.
struct Mended {
    stream: BlobStream,
    digest: Digest,
    next: u64,
    end: u64,
    /// Where it goes on; `None` if it does already.
    elsewhere: Option<Elsewhere>,
}

// === impl ReplicatedCas ===

impl<C> ReplicatedCas<C> {
    /// Decorates `local`; what it lacks is `elsewhere`. Writes are acknowledged by `policy`.
    pub fn new(local: C, elsewhere: Elsewhere, policy: Arc<dyn Acknowledge>) -> Self {
        Self { local, elsewhere, policy }
    }

    /// The others' stores.
    pub fn elsewhere(&self) -> &Elsewhere {
        &self.elsewhere
    }
}

#[async_trait]
impl<C: ContentAddressableStorage> ContentAddressableStorage for ReplicatedCas<C> {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, CasError> {
        let absent = self.local.find_missing(digests).await?;
        if absent.is_empty() {
            return Ok(absent);
        }
        Ok(self.elsewhere.lacking(absent, true).await)
    }

    async fn peek_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, CasError> {
        let absent = self.local.peek_missing(digests).await?;
        if absent.is_empty() {
            return Ok(absent);
        }
        Ok(self.elsewhere.lacking(absent, false).await)
    }

    async fn find(&self, hash: &BlobHash) -> Result<Option<Digest>, CasError> {
        match self.local.find(hash).await? {
            None => Ok(self.elsewhere.find(hash).await),
            found => Ok(found),
        }
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes, CasError> {
        match self.local.get(digest).await {
            Err(CasError::NotFound(_)) if !self.elsewhere.is_nowhere() => self.elsewhere.get(digest).await,
            found => found,
        }
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, CasError> {
        let here = self.local.read(digest, range).await;
        if self.elsewhere.is_nowhere() {
            return here;
        }
        match here {
            Err(CasError::NotFound(_)) => self.elsewhere.read(digest, range).await,
            Err(error) => Err(error),
            Ok(stream) => Ok(Mended {
                stream,
                digest: *digest,
                next: range.offset,
                end: range.end(digest.size())?,
                elsewhere: Some(self.elsewhere.clone()),
            }
            .into_stream()),
        }
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<(), CasError> {
        if digest.is_empty_blob() {
            return self.local.put(digest, data).await;
        }
        self.policy.admitted().await;
        self.local.put(digest, data).await?;
        self.policy.acknowledged(&EntryKey::from(digest)).await
    }

    async fn writer(&self, digest: &Digest) -> Result<Box<dyn BlobWriter>, CasError> {
        if digest.is_empty_blob() {
            return self.local.writer(digest).await;
        }
        self.policy.admitted().await;
        let inner = self.local.writer(digest).await?;
        let (policy, key) = (Arc::clone(&self.policy), EntryKey::from(digest));
        Ok(Box::new(AcknowledgedWriter { inner, policy, key }))
    }
}

// === impl AcknowledgedWriter ===

#[async_trait]
impl BlobWriter for AcknowledgedWriter {
    async fn write(&mut self, data: Bytes) -> Result<(), CasError> {
        self.inner.write(data).await
    }

    fn written(&self) -> u64 {
        self.inner.written()
    }

    async fn commit(self: Box<Self>) -> Result<(), CasError> {
        self.inner.commit().await?;
        self.policy.acknowledged(&self.key).await
    }
}

// === impl Mended ===

impl Mended {
    fn into_stream(self) -> BlobStream {
        Box::pin(stream::unfold(self, Self::step))
    }

    async fn step(mut self) -> Option<(Result<Bytes, CasError>, Self)> {
        let piece = match self.stream.next().await? {
            Err(error @ (CasError::NotFound(_) | CasError::Io { .. })) => self.go_on(error).await?,
            piece => piece,
        };
        self.next += piece.as_ref().map_or(0, |piece| piece.len() as u64);
        Some((piece, self))
    }

    /// The next piece from another machine; `error` if nobody has one.
    async fn go_on(&mut self, error: CasError) -> Option<Result<Bytes, CasError>> {
        let Some(elsewhere) = self.elsewhere.take() else { return Some(Err(error)) };
        let range = ByteRange { offset: self.next, limit: Some(self.end - self.next) };
        let Ok(stream) = elsewhere.part(&self.digest, range).await else { return Some(Err(error)) };
        tracing::warn!(digest = %self.digest, offset = self.next, %error, "the rest of a blob is read elsewhere");
        self.stream = stream;
        self.stream.next().await
    }
}
