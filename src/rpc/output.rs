//! [`Reader`]: one caller's way through the output of an action, for the control API and for log streams.
//!
//! It pulls: a piece is read when the caller has taken the one before. Bytes come first from the file
//! that the command writes to, and from the kept log once the attempt is over. Both are the same
//! bytes, so the reader goes on where it was. It begins anew, at offset 0, where that does not hold:
//! when the command was started again, on this machine or another, or cut its own output short. A reader that
//! is [bound](Reader::bound_to) to one attempt never does: the bytes it gave stand, or it fails.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farmhand_proto::control::ReadOutputResponse;
use farmhand_proto::reapi::{ActionResult, ExecuteResponse};
use futures_util::StreamExt;
use tokio::sync::watch;
use tonic::Status;

use crate::cas::{BlobStream, ByteRange, ContentAddressableStorage};
use crate::digest::{Digest, DigestFunction};
use crate::execution::live_logs::LogFiles;
use crate::execution::queue::AttemptId;
use crate::execution::{Operation, OperationState, Scheduler, Stage};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Stdout,
    Stderr,
}

/// Whose output is read.
pub(super) enum Subject {
    /// An operation the scheduler knows: by its name, or the newest one of an action that has, or
    /// will have, something to read.
    Operation(Arc<Operation>),
    /// What is known of an operation that the scheduler has forgotten, or of an action that only
    /// the action cache knows.
    Result(Box<ActionResult>, DigestFunction),
}

/// Bytes of a piece at most.
const PIECE: usize = 64 << 10;

/// How often the file of a running command is looked at once all of it was read.
const POLL: Duration = Duration::from_millis(50);

/// Reads one stream of one action.
pub(super) struct Reader {
    scheduler: Scheduler,
    cas: Arc<dyn ContentAddressableStorage>,
    subject: Followed,
    which: Which,
    follow: bool,
    /// The only attempt whose output is given.
    bound: Option<AttemptId>,
    at: Position,
    source: Source,
}

/// Whose output it is, with what tells that it goes on.
enum Followed {
    Operation { operation: Arc<Operation>, state: watch::Receiver<OperationState> },
    Result(Box<ActionResult>, DigestFunction),
}

/// Where the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// As the caller asked, before anything was opened.
    Asked(i64),
    /// Known.
    At(u64),
}

/// Where bytes come from at present.
enum Source {
    /// None is open.
    None {
        before: Option<Before>,
    },
    Live(Live),
    Kept(Kept),
    /// All was told.
    Over,
}

/// One start of a command: attempt and number.
type Start = (AttemptId, u32);

/// What was read before, to tell whether the next source continues it.
#[derive(Clone, Copy)]
struct Before {
    start: Start,
    /// The command was not started again in that attempt.
    is_last: bool,
}

/// The file that a command writes to.
struct Live {
    files: watch::Receiver<LogFiles>,
    start: Start,
    file: Arc<File>,
    /// Bytes the file has had.
    seen: u64,
    /// Where to stop, for callers who do not follow.
    end: Option<u64>,
}

/// The log that was kept.
struct Kept {
    pieces: BlobStream,
    rest: Bytes,
}

// === impl Which ===

impl Which {
    fn file(self, files: &LogFiles) -> Arc<Path> {
        match self {
            Self::Stdout => Arc::clone(&files.stdout),
            Self::Stderr => Arc::clone(&files.stderr),
        }
    }
}

// === impl Reader ===

impl Reader {
    pub(super) fn new(
        scheduler: Scheduler,
        cas: Arc<dyn ContentAddressableStorage>,
        subject: Subject,
        which: Which,
        offset: i64,
        follow: bool,
    ) -> Self {
        let subject = match subject {
            Subject::Operation(operation) => Followed::Operation { state: operation.subscribe(), operation },
            Subject::Result(result, function) => Followed::Result(result, function),
        };
        let (at, source) = (Position::Asked(offset), Source::None { before: None });
        Self { scheduler, cas, subject, which, follow, bound: None, at, source }
    }

    /// The same for one attempt alone: what another one writes is neither given nor waited for, and what
    /// takes back bytes that were given is `ABORTED`.
    pub(super) fn bound_to(self, attempt: AttemptId) -> Self {
        Self { bound: Some(attempt), ..self }
    }

    /// Whether nothing more will be written: what there is can be read at once.
    pub(super) fn is_over(&self) -> bool {
        match &self.subject {
            Followed::Operation { operation, .. } => operation.is_done(),
            Followed::Result(..) => true,
        }
    }

    /// The next message; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<ReadOutputResponse>, Status> {
        loop {
            let piece = match &mut self.source {
                Source::Over => return Ok(None),
                Source::None { before } => {
                    let before = *before;
                    if !self.open(before).await? {
                        return Ok(None);
                    }
                    continue;
                }
                Source::Live(live) => match live.read(self.at.known()).await.map_err(unreadable)? {
                    LiveRead::Piece(piece) => piece,
                    LiveRead::Shrunk => {
                        if self.bound.is_some() {
                            return Err(taken_back());
                        }
                        live.seen = 0;
                        self.at = Position::At(0);
                        continue;
                    }
                    LiveRead::Nothing if live.end.is_some() => return Ok(self.leave()),
                    LiveRead::Nothing => {
                        if !self.wait_for_more().await {
                            return Ok(self.leave());
                        }
                        continue;
                    }
                },
                Source::Kept(kept) => match kept.next().await? {
                    Some(piece) => piece,
                    None => return Ok(Some(self.end())),
                },
            };
            let offset = self.at.known();
            self.at = Position::At(offset + piece.len() as u64);
            return Ok(Some(ReadOutputResponse { offset, data: piece, ended: false }));
        }
    }

    /// Opens what is to be read now, or waits for it. `false`: there is nothing more for this caller.
    async fn open(&mut self, before: Option<Before>) -> Result<bool, Status> {
        let (operation, state) = match &mut self.subject {
            Followed::Result(result, function) => {
                let log = log_of(result, self.which, *function);
                self.open_kept(log, false).await?;
                return Ok(true);
            }
            Followed::Operation { operation, state } => {
                let now = state.borrow_and_update().clone();
                (Arc::clone(operation), now)
            }
        };
        if self.is_beyond(&state) {
            return Ok(false);
        }
        if !has_log(&state)
            && let Some(files) = self.scheduler.live_logs(&state)
        {
            return self.open_live(files, before).await;
        }
        // What came of an attempt is told before its files are forgotten: this is the latest.
        let state = operation.state();
        if self.is_beyond(&state) {
            return Ok(false);
        }
        if !state.is_done() {
            return Ok((self.follow || is_nearly_over(&state)) && self.wait_for_news().await);
        }
        match state.response.as_deref().and_then(|response| response.result.as_ref()) {
            Some(result) => {
                let attempt = state.attempt();
                let is_another =
                    before.is_some_and(|before| !before.is_last || Some(before.start.0) != attempt);
                let log = log_of(result, self.which, operation.action.function());
                self.open_kept(log, is_another).await?;
            }
            None if matches!(self.at, Position::Asked(_)) => return Err(nothing_kept(&state)),
            None => self.source = Source::Kept(Kept::empty()),
        }
        Ok(true)
    }

    /// Whether the attempt that is read is over, and another has taken its place or will.
    fn is_beyond(&self, state: &OperationState) -> bool {
        self.bound.is_some_and(|attempt| {
            state.attempt() != Some(attempt) || (state.stage == Stage::Queued && !state.is_done())
        })
    }

    /// Opens the file of a running command. One that cannot be opened is about to be forgotten.
    async fn open_live(
        &mut self,
        mut files: watch::Receiver<LogFiles>,
        before: Option<Before>,
    ) -> Result<bool, Status> {
        let now = files.borrow_and_update().clone();
        let start = (now.attempt, now.start);
        let path = self.which.file(&now);
        let opened = blocking(move || {
            // Without a sandbox the action could put something else in its place.
            let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
            let file = File::options().read(true).custom_flags(flags).open(path)?;
            let length = file.metadata()?.len();
            Ok((file, length))
        });
        let (file, length) = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(%error, "the log of a running action does not open");
                tokio::select! {
                    _ = files.changed() => {}
                    () = tokio::time::sleep(POLL) => {}
                    () = self.scheduler.stopping().cancelled() => return Ok(false),
                }
                return Ok(true);
            }
        };
        if before.is_some_and(|before| before.start != start) {
            if self.bound.is_some() {
                return Err(taken_back());
            }
            self.at = Position::At(0);
        }
        let at = self.at.resolve(length);
        let end = (!self.follow).then_some(length);
        self.source = Source::Live(Live { files, start, file: Arc::new(file), seen: 0, end });
        self.at = Position::At(at);
        Ok(true)
    }

    /// Opens a kept log where the reader is, or at its beginning if it is another one than was read.
    async fn open_kept(&mut self, log: Log, is_another: bool) -> Result<(), Status> {
        let size = log.size();
        if self.bound.is_some() && (is_another || self.at.resolve(size) > size) {
            return Err(if is_another { taken_back() } else { behind_the_end() });
        }
        let mut at = if is_another { 0 } else { self.at.resolve(size) };
        if matches!(self.at, Position::At(known) if known > size) {
            at = 0;
        }
        let pieces = match log {
            Log::Blob(digest) => self.cas.read(&digest, ByteRange { offset: at, limit: None }).await?,
            Log::Bytes(_) if at > size => return Err(behind_the_end()),
            Log::Bytes(data) => Box::pin(futures_util::stream::iter([Ok(data.slice(at as usize..))])),
        };
        self.at = Position::At(at);
        self.source = Source::Kept(Kept { pieces, rest: Bytes::new() });
        Ok(())
    }

    /// Waits until the operation has another state. `false` if the node ends.
    async fn wait_for_news(&mut self) -> bool {
        let Followed::Operation { state, .. } = &mut self.subject else { return true };
        tokio::select! {
            // The sender lives as long as the operation, which is held.
            _ = state.changed() => true,
            () = self.scheduler.stopping().cancelled() => false,
        }
    }

    /// Waits until the command may have written more, was started again, or is over. `false` if the
    /// node ends.
    async fn wait_for_more(&mut self) -> bool {
        let Source::Live(live) = &mut self.source else { return true };
        tokio::select! {
            _ = live.files.changed() => {
                // Another start, or the end: what is right is opened next.
                let is_last = live.files.borrow().start == live.start.1;
                self.source = Source::None { before: Some(Before { start: live.start, is_last }) };
                true
            }
            () = tokio::time::sleep(POLL) => true,
            () = self.scheduler.stopping().cancelled() => false,
        }
    }

    /// Stops before the action is over.
    fn leave(&mut self) -> Option<ReadOutputResponse> {
        self.source = Source::Over;
        None
    }

    /// The last message: that was all.
    fn end(&mut self) -> ReadOutputResponse {
        self.source = Source::Over;
        ReadOutputResponse { offset: self.at.known(), data: Vec::new(), ended: true }
    }
}

// === impl Position ===

impl Position {
    /// The place in a log that has `length` bytes now.
    fn resolve(self, length: u64) -> u64 {
        match self {
            Self::At(at) => at,
            Self::Asked(offset) if offset < 0 => length.saturating_sub(offset.unsigned_abs()),
            Self::Asked(offset) => offset.unsigned_abs(),
        }
    }

    /// Once something is open.
    fn known(self) -> u64 {
        self.resolve(0)
    }
}

// === impl Live ===

/// What there was at a place of a growing file.
enum LiveRead {
    Piece(Vec<u8>),
    Nothing,
    /// The file is shorter than it was.
    Shrunk,
}

impl Live {
    async fn read(&mut self, at: u64) -> io::Result<LiveRead> {
        let most = self.end.map_or(PIECE as u64, |end| end.saturating_sub(at).min(PIECE as u64));
        let (file, seen) = (Arc::clone(&self.file), self.seen);
        let read = blocking(move || {
            let mut piece = vec![0; most as usize];
            let count = file.read_at(&mut piece, at)?;
            if count == 0 && file.metadata()?.len() < seen {
                return Ok(LiveRead::Shrunk);
            }
            piece.truncate(count);
            Ok(if count == 0 { LiveRead::Nothing } else { LiveRead::Piece(piece) })
        });
        let read = read.await?;
        if let LiveRead::Piece(piece) = &read {
            self.seen = at + piece.len() as u64;
        }
        Ok(read)
    }
}

// === impl Kept ===

impl Kept {
    fn empty() -> Self {
        Self { pieces: Box::pin(futures_util::stream::empty()), rest: Bytes::new() }
    }

    async fn next(&mut self) -> Result<Option<Vec<u8>>, Status> {
        while self.rest.is_empty() {
            match self.pieces.next().await {
                Some(piece) => self.rest = piece?,
                None => return Ok(None),
            }
        }
        Ok(Some(self.rest.split_to(PIECE.min(self.rest.len())).to_vec()))
    }
}

// === kept logs ===

/// A log in a result.
enum Log {
    Blob(Digest),
    Bytes(Bytes),
}

impl Log {
    fn size(&self) -> u64 {
        match self {
            Self::Blob(digest) => digest.size(),
            Self::Bytes(data) => data.len() as u64,
        }
    }
}

/// The log that a result names or holds; one that it does not mention is empty.
fn log_of(result: &ActionResult, which: Which, function: DigestFunction) -> Log {
    let (raw, digest) = match which {
        Which::Stdout => (&result.stdout_raw, &result.stdout_digest),
        Which::Stderr => (&result.stderr_raw, &result.stderr_digest),
    };
    match Digest::from_field(function, digest.as_ref()) {
        Ok(digest) => Log::Blob(digest),
        Err(_) => Log::Bytes(Bytes::copy_from_slice(raw)),
    }
}

/// Whether an operation is over and has its logs.
fn has_log(state: &OperationState) -> bool {
    state.response.as_deref().is_some_and(|response| response.result.is_some())
}

/// Whether the command has ended and what came of it is being put away.
fn is_nearly_over(state: &OperationState) -> bool {
    state.stage == Stage::Executing && state.timeline.collecting_at.is_some()
}

fn nothing_kept(state: &OperationState) -> Status {
    let reason = |response: &ExecuteResponse| response.status.as_ref().map(|status| status.message.clone());
    let reason = state.response.as_deref().and_then(reason).unwrap_or_default();
    Status::not_found(format!("the action wrote nothing that was kept: {reason}"))
}

fn taken_back() -> Status {
    Status::aborted("the command was started again, or cut its output short: read it anew")
}

fn behind_the_end() -> Status {
    Status::out_of_range("the offset is behind the end")
}

fn unreadable(error: io::Error) -> Status {
    Status::internal(format!("the log of the action cannot be read: {error}"))
}

/// Runs `work` where waiting for a disk is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|panic| Err(panic.into()))
}
