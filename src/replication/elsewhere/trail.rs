//! [`Trail`]: the bytes of a blob, from one machine, or from several one after the other.

use bytes::Bytes;
use futures_util::{TryStreamExt, stream};

use super::race::Race;
use super::{Elsewhere, in_time};
use crate::cas::fetch::{SourceError, SourceStream};
use crate::cas::{BlobStream, ByteRange, CasError};
use crate::digest::Digest;
use crate::peer::MachineId;
use crate::replication::copies::Other;

/// Bytes of the largest piece given out.
const PIECE: usize = 1 << 20;

/// A range of a blob on its way here. A machine that breaks off is followed by the next one, at the same
/// offset; none is asked twice. Nothing is verified here.
pub(super) struct Trail {
    elsewhere: Elsewhere,
    digest: Digest,
    /// The first byte that has not been given out, and where it ends.
    next: u64,
    end: u64,
    candidates: Vec<Other>,
    current: Option<(MachineId, SourceStream)>,
    /// What came and has not been given out.
    came: Bytes,
    machines: Vec<MachineId>,
}

/// What a machine began to send.
struct Begun {
    machine: MachineId,
    first: Bytes,
    rest: SourceStream,
}

// === impl Trail ===

impl Trail {
    /// Those bytes of a blob, which begin within it.
    ///
    /// # Errors
    /// [`CasError::NotFound`] when nobody begins to send them, [`CasError::OutOfRange`].
    pub(super) async fn open(
        elsewhere: &Elsewhere,
        digest: Digest,
        range: ByteRange,
    ) -> Result<Self, CasError> {
        let end = range.end(digest.size())?;
        let mut trail = Self {
            elsewhere: elsewhere.clone(),
            digest,
            next: range.offset,
            end,
            candidates: elsewhere.candidates(&digest),
            current: None,
            came: Bytes::new(),
            machines: Vec::new(),
        };
        if trail.next < trail.end {
            trail.begin().await?;
        }
        Ok(trail)
    }

    /// The next piece, of 1 MiB at most and never empty; `None` at the end.
    ///
    /// # Errors
    /// [`CasError::NotFound`] when nobody is left who sends it.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, CasError> {
        while self.came.is_empty() {
            if self.next == self.end {
                return Ok(None);
            }
            let Some((machine, pieces)) = &mut self.current else {
                self.begin().await?;
                continue;
            };
            let machine = *machine;
            match in_time(pieces.try_next()).await {
                Ok(Some(piece)) => self.take(piece),
                Ok(None) => self.leave(machine, "it ended too soon"),
                Err(error) => self.leave(machine, &error.reason),
            }
        }
        let piece = self.came.split_to(self.came.len().min(PIECE));
        self.next += piece.len() as u64;
        Ok(Some(piece))
    }

    /// All that is left.
    ///
    /// # Errors
    /// As [`piece`](Self::piece).
    pub(super) async fn rest(&mut self) -> Result<Bytes, CasError> {
        let mut all = Vec::new();
        while let Some(piece) = self.piece().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.into())
    }

    /// All that is left, as a stream.
    pub(super) fn into_stream(self) -> BlobStream {
        let step = async |mut trail: Self| Ok(trail.piece().await?.map(|piece| (piece, trail)));
        Box::pin(stream::try_unfold(self, step))
    }

    /// Of what.
    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The first byte that has not been given out.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Who sent bytes of it.
    pub(super) fn machines(&self) -> &[MachineId] {
        &self.machines
    }

    /// Takes what a machine sent; nothing, or more than there is of the blob, is its failure.
    fn take(&mut self, piece: Bytes) {
        let left = self.end - self.next;
        let reason = match piece.len() as u64 {
            0 => "it sent nothing",
            bytes if bytes > left => "it sent too much",
            _ => {
                self.came = piece;
                return;
            }
        };
        if let Some((machine, _)) = self.current {
            self.leave(machine, reason);
        }
    }

    fn leave(&mut self, machine: MachineId, reason: &str) {
        tracing::debug!(digest = %self.digest, %machine, reason, "the next machine is asked for the rest of a blob");
        self.current = None;
    }

    /// Finds a machine that goes on from here.
    async fn begin(&mut self) -> Result<(), CasError> {
        let range = ByteRange { offset: self.next, limit: Some(self.end - self.next) };
        let (elsewhere, digest) = (&self.elsewhere, self.digest);
        let ask = |other: Other| {
            let elsewhere = elsewhere.clone();
            async move { elsewhere.heard(other.id, begun(&other, &digest, range)).await.ok().flatten() }
        };
        let mut tries = elsewhere.tries();
        loop {
            let mut race = Race::new(elsewhere, std::mem::take(&mut self.candidates), ask);
            let begun = race.next().await;
            self.candidates = race.left();
            if let Some(Begun { machine, first, rest }) = begun {
                self.machines.push(machine);
                self.current = Some((machine, rest));
                self.take(first);
                return Ok(());
            }
            if !tries.again(elsewhere).await {
                return Err(CasError::NotFound(digest));
            }
            self.candidates = elsewhere.candidates(&digest);
        }
    }
}

/// The first piece of what a machine sends; `None` if it lacks the blob.
async fn begun(other: &Other, digest: &Digest, range: ByteRange) -> Result<Option<Begun>, SourceError> {
    let Some(mut rest) = other.blobs.read(digest, range).await? else { return Ok(None) };
    Ok(rest.try_next().await?.map(|first| Begun { machine: other.id, first, rest }))
}
