//! [`Fetcher`]: brings blobs of other machines into the store of this one.
//!
//! What is promised: whatever a source sends is stored only after it was verified, as anything that comes
//! in; a blob that several want at once is fetched once; small blobs travel in batches, large ones as
//! streams, a bounded number of both at a time, so memory does not grow with what is fetched. A source
//! that fails, says nothing for long, lacks a blob or sends a wrong one is followed by the next. Which
//! sources have what is for the caller to know.

use std::collections::{HashMap, HashSet};
use std::ops::AddAssign;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::timeout;

use super::{ByteRange, CasError, ContentAddressableStorage};
use crate::digest::{Digest, DigestFunction};
use flights::{Flight, Flights};

pub(crate) mod flights;
mod plan;
#[cfg(test)]
mod tests;

/// Batches, and streams, that one fetch has under way at a time.
const BATCHES: usize = 4;
const STREAMS: usize = 2;

/// Times a blob is waited for that others fetch, before it is fetched all the same.
const PATIENCE: usize = 3;

/// How long a source may say nothing, if nobody says otherwise.
const SILENCE: Duration = Duration::from_secs(60);

/// The bytes of a blob from a source, in pieces.
pub type SourceStream = stream::BoxStream<'static, Result<Bytes, SourceError>>;

/// Another store, which may be far away.
#[async_trait]
pub trait BlobSource: Send + Sync + 'static {
    /// Its name, for people.
    fn name(&self) -> &str;

    /// Blobs that fit into one message together, in any order; those it lacks are left out.
    ///
    /// # Errors
    /// When it does not answer, or does not make sense.
    async fn read_batch(&self, digests: &[Digest]) -> Result<Vec<(Digest, Bytes)>, SourceError>;

    /// The bytes of `range` of one blob, which begins within it; `None` if it lacks the blob. Nothing is
    /// verified, neither their number nor their hash.
    ///
    /// # Errors
    /// When it does not answer.
    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<Option<SourceStream>, SourceError>;
}

/// A source failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{source_name}: {reason}")]
pub struct SourceError {
    /// Its name.
    pub source_name: String,
    /// What it said, or did.
    pub reason: String,
}

/// Why blobs did not come.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No source has them.
    #[error("{} blobs are nowhere, the first is {}", .0.len(), .0[0])]
    Missing(Vec<Digest>),
    /// Some source failed, and the others have not got them.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// They cannot be stored here.
    #[error(transparent)]
    Cas(CasError),
}

/// What was brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fetched {
    /// Number of blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Fetches. Clones are the same.
#[derive(Clone)]
pub struct Fetcher {
    local: Arc<dyn ContentAddressableStorage>,
    flights: Arc<Flights>,
    silence: Duration,
}

/// The blobs that one fetch has the right to fetch; each is let go as soon as it is here.
struct Mine(Mutex<HashMap<Digest, Flight>>);

// === impl SourceError ===

impl SourceError {
    /// `source` did, or said, this.
    pub fn new(source: &str, reason: impl Into<String>) -> Self {
        Self { source_name: source.to_owned(), reason: reason.into() }
    }
}

// === impl Fetched ===

impl AddAssign for Fetched {
    fn add_assign(&mut self, other: Self) {
        self.blobs += other.blobs;
        self.bytes += other.bytes;
    }
}

// === impl Fetcher ===

impl Fetcher {
    /// Fetches into `local`.
    pub fn new(local: Arc<dyn ContentAddressableStorage>) -> Self {
        Self { local, flights: Arc::default(), silence: SILENCE }
    }

    /// The same, but a source may say nothing for `silence` only.
    #[must_use]
    pub fn patient_for(self, silence: Duration) -> Self {
        Self { silence, ..self }
    }

    /// What is on its way here.
    pub(crate) fn flights(&self) -> &Arc<Flights> {
        &self.flights
    }

    /// Brings those of `digests` that are not here, each from the first of `sources` that has it.
    ///
    /// # Errors
    /// [`FetchError`], after everything that could be had was brought.
    pub async fn fetch(
        &self,
        digests: &[Digest],
        sources: &[Arc<dyn BlobSource>],
    ) -> Result<Fetched, FetchError> {
        let mut fetched = Fetched::default();
        let mut absent = self.local.find_missing(digests).await.map_err(FetchError::Cas)?;
        for _ in 0..PATIENCE {
            let (mine, others) = self.flights.take_off_all(&absent);
            let wanted: Vec<Digest> = mine.iter().map(|flight| *flight.digest()).collect();
            self.fetch_from_all(&wanted, sources, &Mine::new(mine), &mut fetched).await?;
            if others.is_empty() {
                return Ok(fetched);
            }
            let waited: Vec<Digest> = others.iter().map(|(digest, _)| *digest).collect();
            for (_, landing) in others {
                landing.landed().await;
            }
            absent = self.local.find_missing(&waited).await.map_err(FetchError::Cas)?;
            if absent.is_empty() {
                return Ok(fetched);
            }
        }
        // Those who fetched them may have had other sources, or none.
        self.fetch_from_all(&absent, sources, &Mine::new(Vec::new()), &mut fetched).await?;
        Ok(fetched)
    }

    /// Stores blobs that somebody sent unasked, as what they are.
    ///
    /// # Errors
    /// When they cannot be stored.
    pub async fn keep(&self, function: DigestFunction, blobs: &[Bytes]) -> Result<Fetched, CasError> {
        let mut kept = Fetched::default();
        for blob in blobs {
            self.local.put(&Digest::of(function, blob), blob.clone()).await?;
            kept += Fetched { blobs: 1, bytes: blob.len() as u64 };
        }
        Ok(kept)
    }

    async fn fetch_from_all(
        &self,
        wanted: &[Digest],
        sources: &[Arc<dyn BlobSource>],
        mine: &Mine,
        fetched: &mut Fetched,
    ) -> Result<(), FetchError> {
        let (mut rest, mut failure) = (wanted.to_vec(), None);
        for source in sources {
            if rest.is_empty() {
                return Ok(());
            }
            let Round { brought, lacking, failed } = self.fetch_from(&rest, source, mine).await?;
            *fetched += brought;
            rest = lacking;
            failure = failure.or(failed);
        }
        match (rest.is_empty(), failure) {
            (true, _) => Ok(()),
            (false, Some(failure)) => Err(failure.into()),
            (false, None) => Err(FetchError::Missing(rest)),
        }
    }

    async fn fetch_from(
        &self,
        wanted: &[Digest],
        source: &Arc<dyn BlobSource>,
        mine: &Mine,
    ) -> Result<Round, FetchError> {
        let plan = plan::plan(wanted);
        let batches = stream::iter(plan.batches.into_iter().map(|batch| self.batch(batch, source, mine)));
        let streams = stream::iter(plan.streams.into_iter().map(|digest| self.single(digest, source, mine)));
        let batches = batches.buffer_unordered(BATCHES).try_fold(Round::default(), Round::join);
        let streams = streams.buffer_unordered(STREAMS).try_fold(Round::default(), Round::join);
        let (batches, streams) = tokio::try_join!(batches, streams)?;
        batches.joined(streams)
    }

    async fn batch(
        &self,
        wanted: Vec<Digest>,
        source: &Arc<dyn BlobSource>,
        mine: &Mine,
    ) -> Result<Round, FetchError> {
        let mut round = Round::default();
        let blobs = match self.heard(&**source, source.read_batch(&wanted)).await {
            Ok(blobs) => blobs,
            Err(error) => return Ok(Round { lacking: wanted, failed: Some(error), ..round }),
        };
        let mut lacking: HashSet<Digest> = wanted.iter().copied().collect();
        for (digest, data) in blobs {
            if !lacking.contains(&digest) {
                continue;
            }
            match self.local.put(&digest, data).await {
                Ok(()) => {
                    mine.land(&digest);
                    lacking.remove(&digest);
                    round.brought += Fetched { blobs: 1, bytes: digest.size() };
                }
                Err(error) => round.failed = Some(blamed(source.name(), error)?),
            }
        }
        round.lacking = wanted.into_iter().filter(|digest| lacking.contains(digest)).collect();
        Ok(round)
    }

    async fn single(
        &self,
        digest: Digest,
        source: &Arc<dyn BlobSource>,
        mine: &Mine,
    ) -> Result<Round, FetchError> {
        match self.stream(&digest, source).await {
            Ok(true) => {
                mine.land(&digest);
                let brought = Fetched { blobs: 1, bytes: digest.size() };
                Ok(Round { brought, ..Round::default() })
            }
            Ok(false) => Ok(Round { lacking: vec![digest], ..Round::default() }),
            Err(FetchError::Source(failed)) => {
                Ok(Round { lacking: vec![digest], failed: Some(failed), ..Round::default() })
            }
            Err(error) => Err(error),
        }
    }

    async fn stream(&self, digest: &Digest, source: &Arc<dyn BlobSource>) -> Result<bool, FetchError> {
        let Some(mut pieces) = self.heard(&**source, source.read(digest, ByteRange::default())).await? else {
            return Ok(false);
        };
        let blame = |error| Ok::<_, FetchError>(FetchError::Source(blamed(source.name(), error)?));
        let mut writer = self.local.writer(digest).await.map_err(FetchError::Cas)?;
        while let Some(piece) = self.heard(&**source, pieces.try_next()).await? {
            if let Err(error) = writer.write(piece).await {
                return Err(blame(error)?);
            }
        }
        match writer.commit().await {
            Ok(()) => Ok(true),
            Err(error) => Err(blame(error)?),
        }
    }

    /// What a source says, if it says anything in time.
    async fn heard<T>(
        &self,
        source: &dyn BlobSource,
        said: impl Future<Output = Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        let silent = |_| {
            let seconds = self.silence.as_secs();
            Err(SourceError::new(source.name(), format!("it sent nothing for {seconds} seconds")))
        };
        timeout(self.silence, said).await.unwrap_or_else(silent)
    }
}

/// The fault of the source, if it is not ours.
fn blamed(source: &str, error: CasError) -> Result<SourceError, FetchError> {
    match error {
        CasError::Mismatch { .. } | CasError::TooLong(_) => Ok(SourceError::new(source, error.to_string())),
        ours => Err(FetchError::Cas(ours)),
    }
}

/// What came of asking one source.
#[derive(Default)]
struct Round {
    brought: Fetched,
    /// What it has not got, or sent wrongly.
    lacking: Vec<Digest>,
    failed: Option<SourceError>,
}

impl Round {
    async fn join(self, other: Self) -> Result<Self, FetchError> {
        self.joined(other)
    }

    fn joined(mut self, other: Self) -> Result<Self, FetchError> {
        self.brought += other.brought;
        self.lacking.extend(other.lacking);
        self.failed = self.failed.or(other.failed);
        Ok(self)
    }
}

// === impl Mine ===

impl Mine {
    fn new(flights: Vec<Flight>) -> Self {
        Self(Mutex::new(flights.into_iter().map(|flight| (*flight.digest(), flight)).collect()))
    }

    /// A blob is here: who waits for it may go on.
    fn land(&self, digest: &Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }
}
