//! Large blobs: reading them in checked pieces, and taking them in while they are hashed.
//!
//! A read gives out 256 KiB at a time, each checked before its first byte is served, with a wait for
//! the disk only where the page cache lacks it. A write collects half a megabyte, then hands it to a
//! thread that hashes and writes it while the next comes in.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use tokio::task::JoinHandle;

use super::files::TempFile;
use super::news::Origin;
use super::packs::{Appender, read_cached};
use super::space::Reservation;
use super::store::Store;
use super::sums::{PIECE, Sums, SumsBuilder};
use crate::cas::{BlobStream, BlobWriter, CasError};
use crate::digest::{Digest, Hasher};

/// Bytes collected before a thread takes them.
const COLLECT: usize = 512 * 1024;

/// Pieces of a stream whose memory is used again.
const KEPT: usize = 4;

/// Bytes a piece counts for at least, so that tiny ones do not pile up.
const LEAST: usize = 1024;

/// Bytes hashed and summed in one go: what the fastest cache holds.
const HOT: usize = 16 * 1024;

/// An open large blob.
pub(super) struct Large {
    file: File,
    sums: Sums,
    size: u64,
}

// === impl Large ===

impl Large {
    pub(super) fn new(file: File, sums: Sums, size: u64) -> Self {
        Self { file, sums, size }
    }

    pub(super) fn pieces(&self) -> u64 {
        self.size.div_ceil(PIECE as u64)
    }

    /// A piece, checked. `InvalidData` if it is damaged.
    pub(super) fn read(&self, piece: u64) -> io::Result<Bytes> {
        let mut data = vec![0; self.piece_len(piece)];
        self.file.read_exact_at(&mut data, piece * PIECE as u64)?;
        self.check(piece, data.into())
    }

    /// A piece, checked, if the page cache has it. It is read into `buffer`.
    fn read_cached(&self, piece: u64, mut buffer: BytesMut) -> Option<io::Result<Bytes>> {
        buffer.resize(self.piece_len(piece), 0);
        read_cached(&self.file, &mut buffer, piece * PIECE as u64).then(|| self.check(piece, buffer.freeze()))
    }

    /// Copies all of it, checked.
    pub(super) fn copy_to(&self, mut target: &File) -> io::Result<()> {
        (0..self.pieces()).try_for_each(|piece| target.write_all(&self.read(piece)?))
    }

    /// Whether the content of another file is that of this blob.
    pub(super) fn is_same(&self, file: File) -> bool {
        let other = Self { file, sums: self.sums.clone(), size: self.size };
        (0..other.pieces()).all(|piece| other.read(piece).is_ok())
    }

    fn check(&self, piece: u64, data: Bytes) -> io::Result<Bytes> {
        if self.sums.hold(piece, &data) { Ok(data) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    fn piece_len(&self, piece: u64) -> usize {
        (self.size - piece * PIECE as u64).min(PIECE as u64) as usize
    }
}

// === streaming out ===

struct Reading {
    store: Arc<Store>,
    digest: Digest,
    large: Arc<Large>,
    next: u64,
    end: u64,
    /// The piece that was read to see whether the blob is good.
    first: Option<Bytes>,
    /// Pieces given out, oldest first: read into again once nobody has them any more.
    given: VecDeque<Bytes>,
}

/// Bytes `next..end` of an open large blob, of which `first` is the piece that has byte `next`.
pub(super) fn stream(
    store: Arc<Store>,
    digest: Digest,
    large: Arc<Large>,
    (next, end): (u64, u64),
    first: Bytes,
) -> BlobStream {
    let reading = Reading { store, digest, large, next, end, first: Some(first), given: VecDeque::new() };
    Box::pin(stream::try_unfold(reading, Reading::step))
}

impl Reading {
    async fn step(mut self) -> Result<Option<(Bytes, Self)>, CasError> {
        if self.next >= self.end {
            return Ok(None);
        }
        let number = self.next / PIECE as u64;
        let piece = match self.first.take() {
            Some(piece) => piece,
            None => self.piece(number).await.map_err(|error| self.failed(error))?,
        };
        let start = number * PIECE as u64;
        let until = self.end.min(start + piece.len() as u64);
        let bytes = piece.slice((self.next - start) as usize..(until - start) as usize);
        if self.given.len() < KEPT {
            self.given.push_back(piece);
        }
        self.next = until;
        Ok(Some((bytes, self)))
    }

    async fn piece(&mut self, number: u64) -> io::Result<Bytes> {
        let buffer = self.buffer();
        if let Some(piece) = self.large.read_cached(number, buffer) {
            return piece;
        }
        let large = self.large.clone();
        tokio::task::spawn_blocking(move || large.read(number)).await?
    }

    /// The memory of the oldest piece, if it has been sent, or new memory.
    fn buffer(&mut self) -> BytesMut {
        match self.given.pop_front().map(Bytes::try_into_mut) {
            Some(Ok(free)) => free,
            Some(Err(busy)) => {
                self.given.push_front(busy);
                BytesMut::new()
            }
            None => BytesMut::new(),
        }
    }

    fn failed(&self, error: io::Error) -> CasError {
        self.store.drop_large_piece(&self.digest, &error);
        CasError::Io { path: self.store.files.path(&self.digest, false), source: error }
    }
}

// === taking in ===

/// A large blob on its way in.
pub(super) struct LargeWriter {
    store: Arc<Store>,
    digest: Digest,
    written: u64,
    collected: Vec<Bytes>,
    collected_len: usize,
    stage: Stage,
    reservation: Option<Reservation>,
    origin: Origin,
    is_trusting: bool,
}

/// Where the half-made file is.
enum Stage {
    /// It is made with the first bytes that are written.
    New,
    Away(JoinHandle<Result<Box<HalfMade>, CasError>>),
    /// It failed; the error was reported.
    Lost,
}

/// A file in the making, with what is known of its bytes.
pub(super) struct HalfMade {
    temp: TempFile,
    /// `None` if somebody else hashes them.
    hasher: Option<Hasher>,
    sums: SumsBuilder,
}

impl HalfMade {
    /// Begins a file for the blob.
    pub(super) fn begin(store: &Store, digest: &Digest) -> Result<Box<Self>, CasError> {
        let temp = store.files.temporary().map_err(|(path, error)| CasError::io(path, error))?;
        let hasher = Some(Hasher::new(digest.function()));
        Ok(Box::new(Self { temp, hasher, sums: SumsBuilder::default() }))
    }

    /// Hashes and writes.
    pub(super) fn write<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>) -> Result<(), CasError> {
        let mut slices = Vec::new();
        for piece in pieces {
            for chunk in piece.chunks(HOT) {
                if let Some(hasher) = &mut self.hasher {
                    hasher.update(chunk);
                }
                self.sums.update(chunk);
            }
            slices.push(IoSlice::new(piece));
        }
        write_all_vectored(&self.temp.file, &mut slices)
            .map_err(|error| CasError::io(self.temp.path(), error))
    }

    /// Verifies the digest and installs the file. Returns the epoch to settle.
    pub(super) fn finish(
        self,
        store: &Store,
        digest: &Digest,
        reservation: Reservation,
        origin: Origin,
    ) -> Result<u64, CasError> {
        if let Some(actual) = self.hasher.map(Hasher::finish).filter(|actual| actual != digest) {
            return Err(CasError::Mismatch { expected: *digest, actual });
        }
        store.install(digest, self.temp, &self.sums.finish(), reservation, origin)
    }
}

/// Writes all of `slices`, in as few calls as the system takes.
fn write_all_vectored(mut file: &File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl LargeWriter {
    pub(super) fn new(store: Arc<Store>, digest: Digest, reservation: Reservation, origin: Origin) -> Self {
        let (collected, reservation) = (Vec::new(), Some(reservation));
        let stage = Stage::New;
        let is_trusting = false;
        Self {
            store,
            digest,
            written: 0,
            collected,
            collected_len: 0,
            stage,
            reservation,
            origin,
            is_trusting,
        }
    }

    /// The half-made file, once the thread that has it is done; `None` if there is none yet.
    async fn half_made(&mut self) -> Result<Option<Box<HalfMade>>, CasError> {
        let lost = |source| CasError::Io { path: self.store.files.path(&self.digest, false), source };
        match std::mem::replace(&mut self.stage, Stage::Lost) {
            Stage::New => Ok(None),
            Stage::Away(handle) => handle.await.map_err(|error| lost(error.into()))?.map(Some),
            Stage::Lost => Err(lost(io::Error::other("an earlier write of this blob failed"))),
        }
    }

    /// What a thread has to do: write all that was collected.
    async fn writing(
        &mut self,
    ) -> Result<impl FnOnce() -> Result<Box<HalfMade>, CasError> + use<>, CasError> {
        let half = self.half_made().await?;
        let (store, digest, is_trusting) = (self.store.clone(), self.digest, self.is_trusting);
        let collected = std::mem::take(&mut self.collected);
        self.collected_len = 0;
        Ok(move || {
            let mut half = half.map_or_else(|| HalfMade::begin(&store, &digest), Ok)?;
            half.hasher.take_if(|_| is_trusting);
            half.write(collected.iter().map(|data| &**data))?;
            Ok(half)
        })
    }
}

#[async_trait]
impl BlobWriter for LargeWriter {
    async fn write(&mut self, data: Bytes) -> Result<(), CasError> {
        if self.written + data.len() as u64 > self.digest.size() {
            return Err(CasError::TooLong(self.digest));
        }
        self.written += data.len() as u64;
        self.collected_len += data.len().max(LEAST);
        self.collected.push(data);
        if self.collected_len >= COLLECT {
            self.stage = Stage::Away(tokio::task::spawn_blocking(self.writing().await?));
        }
        Ok(())
    }

    fn written(&self) -> u64 {
        self.written
    }

    fn trust(&mut self) {
        self.is_trusting = true;
    }

    async fn commit(mut self: Box<Self>) -> Result<(), CasError> {
        let writing = self.writing().await?;
        let (store, digest, reservation) = (self.store.clone(), self.digest, self.reservation.take());
        let origin = self.origin;
        let finishing = tokio::task::spawn_blocking(move || {
            let reservation = reservation.expect("invariant: a writer is committed once");
            writing()?.finish(&store, &digest, reservation, origin)
        });
        let path = self.store.files.path(&self.digest, false);
        let epoch = finishing.await.map_err(|error| CasError::Io { path, source: error.into() })??;
        self.store.settle(epoch).await
    }
}

/// A small blob on its way in.
pub(super) struct SmallWriter {
    store: Arc<Store>,
    digest: Digest,
    data: BytesMut,
    reservation: Reservation,
    origin: Origin,
}

impl SmallWriter {
    pub(super) fn new(store: Arc<Store>, digest: Digest, reservation: Reservation, origin: Origin) -> Self {
        Self { store, digest, data: BytesMut::new(), reservation, origin }
    }
}

#[async_trait]
impl BlobWriter for SmallWriter {
    async fn write(&mut self, data: Bytes) -> Result<(), CasError> {
        if self.written() + data.len() as u64 > self.digest.size() {
            return Err(CasError::TooLong(self.digest));
        }
        self.data.extend_from_slice(&data);
        Ok(())
    }

    fn written(&self) -> u64 {
        self.data.len() as u64
    }

    async fn commit(self: Box<Self>) -> Result<(), CasError> {
        let actual = Digest::of(self.digest.function(), &self.data);
        if actual != self.digest {
            return Err(CasError::Mismatch { expected: self.digest, actual });
        }
        if actual.is_empty_blob() {
            return Ok(());
        }
        let Self { store, digest, data, reservation, origin } = *self;
        let append = move |store: &Store, appender: Appender<'_>| {
            store.append_blob(appender, &digest, &data, reservation, origin)
        };
        let epoch = store.append(append).await?;
        store.settle(epoch).await
    }
}
