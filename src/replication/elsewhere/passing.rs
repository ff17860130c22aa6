//! Reading a blob that is elsewhere: it passes through to the reader and is kept on the way.
//!
//! A blob of up to 512 KiB is fetched as a whole and then read. A larger one that is read from its beginning
//! to its end passes: each piece goes to the reader and into the store here at once, and the last one is held
//! back until the hash of all was verified, so that a wrong blob never looks complete. Who wants the same blob
//! meanwhile waits until it has landed, if it is not larger than 64 MiB and its reader keeps up, or has a
//! passage of its own. When the reader goes away the blob is brought all the same if more than half of it has come.
//!
//! A part of a blob passes as it comes from the machine that has it: its hash cannot be verified, so such bytes
//! are as good as the word of a machine of this farm, which has checked its own disk. They are not kept; the
//! whole blob is fetched in the background if it is not larger than 64 MiB.

use std::io;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::Elsewhere;
use super::trail::Trail;
use crate::cas::fetch::Fetched;
use crate::cas::fetch::flights::{Flight, Landed, Seat};
use crate::cas::{BlobStream, BlobWriter, ByteRange, CasError};
use crate::digest::{Digest, Hasher};
use crate::replication::copies::SMALL;

/// Bytes up to which a blob is waited for that passes to somebody else, and fetched when a part of it is read.
const MEDIUM: u64 = 64 << 20;

/// How long a blob may wait for its reader, all in all, before others no longer wait for it.
const GRACE: Duration = Duration::from_secs(1);

/// Pieces on their way to the reader.
const AHEAD: usize = 4;

/// A blob that passes.
struct Passing {
    trail: Trail,
    hasher: Hasher,
    /// Where it is kept; `None` where there is no room, or somebody else keeps it.
    writer: Option<Box<dyn BlobWriter>>,
    /// Who waits for it besides the reader.
    flight: Option<Flight>,
    reader: Option<mpsc::Sender<Result<Bytes, CasError>>>,
    /// How long the reader may keep them waiting still.
    grace: Duration,
    /// The last piece that came.
    held: Option<Bytes>,
}

impl Elsewhere {
    /// The bytes of `range` of a blob that is not here.
    ///
    /// # Errors
    /// [`CasError::NotFound`] when nobody has it, [`CasError::OutOfRange`].
    pub(in crate::replication) async fn read(
        &self,
        digest: &Digest,
        range: ByteRange,
    ) -> Result<BlobStream, CasError> {
        let end = range.end(digest.size())?;
        if digest.size() <= SMALL {
            let data = self.get(digest).await?;
            return Ok(all_of(data.slice(range.offset as usize..end as usize)));
        }
        if range.offset == 0 && end == digest.size() {
            return self.pass(digest).await;
        }
        let part = self.part(digest, range).await?;
        if digest.size() <= MEDIUM {
            self.bring_soon(digest);
        }
        Ok(part)
    }

    /// The bytes of `range` as they come, neither verified nor kept.
    pub(in crate::replication) async fn part(
        &self,
        digest: &Digest,
        range: ByteRange,
    ) -> Result<BlobStream, CasError> {
        Ok(Trail::open(self, *digest, range).await?.into_stream())
    }

    async fn pass(&self, digest: &Digest) -> Result<BlobStream, CasError> {
        for _ in 0..super::PATIENCE {
            match self.0.fetcher.flights().take_off(digest) {
                Seat::Mine(flight) => return self.passage(digest, Some(flight)).await,
                Seat::Taken(_) if digest.size() > MEDIUM => break,
                Seat::Taken(landing) => {
                    if let Landed::Nowhere = landing.landed().await {
                        return Err(CasError::NotFound(*digest));
                    }
                    if let Ok(stream) = self.0.kept.read(digest, ByteRange::default()).await {
                        return Ok(stream);
                    }
                }
            }
        }
        self.passage(digest, None).await
    }

    async fn passage(&self, digest: &Digest, flight: Option<Flight>) -> Result<BlobStream, CasError> {
        let trail = match Trail::open(self, *digest, ByteRange::default()).await {
            Ok(trail) => trail,
            Err(error) => {
                flight.into_iter().for_each(|flight| flight.end(Landed::Nowhere));
                return Err(error);
            }
        };
        let (reader, pieces) = mpsc::channel(AHEAD);
        let writer = match flight {
            Some(_) => self.0.kept.writer(digest).await.inspect_err(|error| not_kept(digest, error)).ok(),
            None => None,
        };
        let writer = writer.map(|mut writer| {
            writer.trust();
            writer
        });
        let hasher = Hasher::new(digest.function());
        let passing =
            Passing { trail, hasher, writer, flight, reader: Some(reader), grace: GRACE, held: None };
        let (this, token) = (self.clone(), self.0.tasks.token().clone());
        self.0.tasks.spawn("passing", token.run_until_cancelled_owned(passing.run(this)));
        Ok(until_whole(*digest, pieces))
    }
}

// === impl Passing ===

impl Passing {
    async fn run(mut self, elsewhere: Elsewhere) {
        loop {
            match self.trail.piece().await {
                Ok(Some(piece)) => self.take(piece).await,
                Ok(None) => break,
                Err(error) => return self.fail(error).await,
            }
            if self.reader.is_none() && !self.is_worth_it() {
                return;
            }
        }
        let digest = *self.trail.digest();
        let actual = self.hasher.clone().finish();
        if actual != digest {
            elsewhere.distrust(&digest, self.trail.machines());
            let reason = format!("what other machines sent is not the blob but {actual}");
            return self.fail(broken(&digest, reason)).await;
        }
        elsewhere.count(Fetched { blobs: 1, bytes: digest.size() });
        let (writer, last) = (self.writer.take(), self.held.take());
        let keep = async {
            if let Some(writer) = writer {
                let _ = writer.commit().await.inspect_err(|error| not_kept(&digest, error));
            }
        };
        let end = async {
            self.hand_on(last).await;
            self.reader = None;
        };
        tokio::join!(keep, end);
    }

    async fn take(&mut self, piece: Bytes) {
        self.hasher.update(&piece);
        if let Some(writer) = &mut self.writer
            && let Err(error) = writer.write(piece.clone()).await
        {
            not_kept(self.trail.digest(), &error);
            self.writer = None;
        }
        let before = self.held.replace(piece);
        self.hand_on(before).await;
    }

    async fn hand_on(&mut self, piece: Option<Bytes>) {
        let (Some(reader), Some(piece)) = (self.reader.clone(), piece) else { return };
        let began = Instant::now();
        let mut sending = pin!(reader.send(Ok(piece)));
        let sent = match timeout(self.grace, &mut sending).await {
            Ok(sent) => sent,
            Err(_) => {
                self.flight = None;
                sending.await
            }
        };
        self.grace = self.grace.saturating_sub(began.elapsed());
        if sent.is_err() {
            self.reader = None;
        }
    }

    async fn fail(self, error: CasError) {
        drop(self.flight);
        if let Some(reader) = self.reader {
            // Who went away need not know.
            let _ = reader.send(Err(error)).await;
        }
    }

    /// Whether it is brought without a reader.
    fn is_worth_it(&self) -> bool {
        self.writer.is_some() && self.trail.next() > self.trail.digest().size() / 2
    }
}

/// The pieces of a whole blob. Where they end too soon, because this node ends, that is an error.
fn until_whole(digest: Digest, pieces: mpsc::Receiver<Result<Bytes, CasError>>) -> BlobStream {
    let step = move |(mut pieces, left): (mpsc::Receiver<Result<Bytes, CasError>>, u64)| async move {
        let piece = match pieces.recv().await {
            None if left == 0 => return None,
            None => Err(broken(&digest, "it broke off on its way from another machine")),
            Some(piece) => piece,
        };
        // After an error there is nothing to come.
        let left = piece.as_ref().map_or(0, |piece| left.saturating_sub(piece.len() as u64));
        Some((piece, (pieces, left)))
    };
    Box::pin(stream::unfold((pieces, digest.size()), step))
}

fn broken(digest: &Digest, reason: impl Into<String>) -> CasError {
    let source = io::Error::new(io::ErrorKind::InvalidData, reason.into());
    CasError::Io { path: digest.to_string().into(), source }
}

/// A small blob as a stream.
fn all_of(data: Bytes) -> BlobStream {
    Box::pin(stream::iter((!data.is_empty()).then_some(Ok(data))))
}

fn not_kept(digest: &Digest, error: &CasError) {
    tracing::debug!(%digest, %error, "a blob of another machine is not kept here");
}
