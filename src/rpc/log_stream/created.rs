//! [`Created`]: the log streams that clients made and write to.
//!
//! Committed bytes never change; whoever reads a stream that is not finished waits for the rest, as many at once
//! as like. A stream can be read for some time after its end, and one that nobody writes to any more ends by
//! itself. Streams are bounded in number and bytes; the one that ended first makes room.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use uuid::Uuid;

use super::spool::Spool;
use super::{LogBytes, LogError};

/// Streams at once.
pub(super) const MOST_STREAMS: usize = 512;

/// Bytes of one stream, and of all of them.
pub(super) const MOST_BYTES: u64 = 64 << 20;
/// See [`MOST_BYTES`].
pub(super) const MOST_IN_ALL: u64 = 1 << 30;

/// How long a finished stream can be read.
const KEPT: Duration = Duration::from_secs(600);

/// A stream that nobody writes to for so long is finished.
const IDLE: Duration = Duration::from_secs(3600);

/// Bytes of a piece that is read at once.
const PIECE: usize = 64 << 10;

/// The streams.
pub(super) struct Created {
    directory: PathBuf,
    streams: Mutex<HashMap<String, Arc<Stream>>>,
}

struct Stream {
    /// What its writer knows.
    token: String,
    spool: Mutex<Spool>,
    head: watch::Sender<Head>,
}

/// How far a stream is.
#[derive(Clone, Copy, Debug)]
struct Head {
    bytes: u64,
    finished: bool,
    /// When it was written to last.
    at: Instant,
}

// === impl Created ===

impl Created {
    /// None yet. Files are made below `directory`.
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory: directory.join("streams"), streams: Mutex::default() }
    }

    /// A new stream: its id, and the token that writes to it.
    pub(super) fn create(&self) -> Result<(String, String), LogError> {
        let (id, token) = (Uuid::new_v4().to_string(), Uuid::new_v4().to_string());
        let head = Head { bytes: 0, finished: false, at: Instant::now() };
        let stream = Stream { token: token.clone(), spool: Mutex::default(), head: watch::Sender::new(head) };
        let mut streams = self.streams();
        if streams.len() >= MOST_STREAMS {
            let ended = streams.iter().filter(|(_, stream)| stream.head().finished);
            let first = ended.min_by_key(|(_, stream)| stream.head().at).map(|(id, _)| id.clone());
            streams.remove(&first.ok_or(LogError::TooMany)?);
        }
        streams.insert(id.clone(), Arc::new(stream));
        Ok((id, token))
    }

    /// Adds `data` at `offset`, where the stream stands; how many bytes it has then.
    pub(super) async fn append(
        &self,
        id: &str,
        token: &str,
        offset: u64,
        data: Vec<u8>,
        is_last: bool,
    ) -> Result<u64, LogError> {
        let stream = self.written_by(id, token)?;
        let room =
            MOST_IN_ALL.saturating_sub(self.streams().values().map(|stream| stream.head().bytes).sum());
        let directory = self.directory.clone();
        blocking(move || stream.append(&directory, offset, &data, room, is_last)).await
    }

    /// Bytes that a stream has, and whether it is finished.
    pub(super) fn written(&self, id: &str, token: &str) -> Result<(u64, bool), LogError> {
        let head = self.written_by(id, token)?.head();
        Ok((head.bytes, head.finished))
    }

    /// The bytes of a stream from `at` on, until it is finished or `stop` fires.
    pub(super) fn read(&self, id: &str, at: u64, stop: CancellationToken) -> Result<LogBytes, LogError> {
        let stream = self.find(id)?;
        let head = stream.head.subscribe();
        let now = *head.borrow();
        if now.finished && at > now.bytes {
            return Err(LogError::Offset(i64::try_from(at).unwrap_or(i64::MAX)));
        }
        let reader = Reader { stream, head, at, stop };
        Ok(Box::pin(stream::try_unfold(reader, |mut reader| async move {
            Ok::<_, Status>(reader.next().await?.map(|piece| (piece, reader)))
        })))
    }

    fn written_by(&self, id: &str, token: &str) -> Result<Arc<Stream>, LogError> {
        let stream = self.find(id)?;
        if stream.token != token {
            return Err(LogError::NotFound(format!("{id}/…")));
        }
        Ok(stream)
    }

    fn find(&self, id: &str) -> Result<Arc<Stream>, LogError> {
        self.streams().get(id).cloned().ok_or_else(|| LogError::NotFound(id.to_owned()))
    }

    /// The streams there are now: what was to end meanwhile has.
    fn streams(&self) -> MutexGuard<'_, HashMap<String, Arc<Stream>>> {
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        streams.retain(|_, stream| {
            let head = stream.head();
            let quiet = now.duration_since(head.at);
            if !head.finished && quiet > IDLE {
                stream.head.send_modify(|head| (head.finished, head.at) = (true, now));
                return true;
            }
            !head.finished || quiet <= KEPT
        });
        streams
    }
}

// === impl Stream ===

impl Stream {
    fn head(&self) -> Head {
        *self.head.borrow()
    }

    /// Waits for the disk.
    fn append(
        &self,
        directory: &std::path::Path,
        offset: u64,
        data: &[u8],
        room: u64,
        is_last: bool,
    ) -> Result<u64, LogError> {
        let mut spool = self.spool();
        // Judged with the spool locked: writers take turns.
        let head = self.head();
        if head.finished {
            return Err(LogError::Finished);
        }
        if offset != spool.len() {
            return Err(LogError::Gap { expected: spool.len(), actual: offset });
        }
        let more = data.len() as u64;
        if more > room || spool.len() + more > MOST_BYTES {
            return Err(LogError::TooLong);
        }
        spool.append(directory, data)?;
        let bytes = spool.len();
        self.head.send_replace(Head { bytes, finished: is_last, at: Instant::now() });
        Ok(bytes)
    }

    fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reader's way through a stream.
struct Reader {
    stream: Arc<Stream>,
    head: watch::Receiver<Head>,
    at: u64,
    stop: CancellationToken,
}

// === impl Reader ===

impl Reader {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, LogError> {
        loop {
            let head = *self.head.borrow_and_update();
            if self.at < head.bytes {
                let (stream, at) = (Arc::clone(&self.stream), self.at);
                let piece = blocking(move || Ok(stream.spool().read(at, PIECE)?)).await?;
                self.at += piece.len() as u64;
                return Ok(Some(piece.into()));
            }
            if head.finished {
                return Ok(None);
            }
            tokio::select! {
                // The stream is held, and so is the sender.
                _ = self.head.changed() => {}
                () = self.stop.cancelled() => return Ok(None),
            }
        }
    }
}

/// Runs `work` where waiting for a disk is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(std::io::Error::other(panic.to_string()).into()))
}
