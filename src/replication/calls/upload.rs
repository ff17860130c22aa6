//! The messages of one upload, made as the connection takes them.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use farmhand_proto::raw::WriteRequest;
use futures_util::{Stream, StreamExt, stream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cas::{BlobStream, CasError};

/// Bytes of a message, but for the last; larger pieces go as they are.
const LEAST: usize = 256 << 10;

/// In which form a blob travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As it is.
    Plain,
    /// As a frame of zstd.
    Zstd,
}

/// How far an upload has come, for who waits for its answer.
#[derive(Debug, Default)]
pub(super) struct Course {
    sent: AtomicU64,
    is_complete: AtomicBool,
    is_unreadable: AtomicBool,
    end: CancellationToken,
}

/// What is still to be made.
struct Rest {
    /// For the first message.
    name: Option<String>,
    form: Form,
    /// Where the next message begins, and where the last ends if the form is plain.
    next: u64,
    end: u64,
    pieces: BlobStream,
    course: Arc<Course>,
}

// === impl Course ===

impl Course {
    /// Bytes that were handed to the connection.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether all messages were.
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Acquire)
    }

    /// Whether the blob could not be read to its end, or is longer or shorter than it should be.
    pub(super) fn is_unreadable(&self) -> bool {
        self.is_unreadable.load(Ordering::Acquire)
    }

    /// Ends the messages when the guard is dropped.
    pub(super) fn end_with_this(&self) -> DropGuard {
        self.end.clone().drop_guard()
    }
}

/// The messages that bring `pieces`, which are the `bytes` of a blob in that form, to the upload called `name`.
/// They end early when the course does, or when the blob cannot be read, without the last one: then the other
/// end keeps what has come.
pub(super) fn messages(
    name: String,
    form: Form,
    bytes: Range<u64>,
    pieces: BlobStream,
    course: Arc<Course>,
) -> impl Stream<Item = WriteRequest> + Send + 'static {
    let rest = Rest { name: Some(name), form, next: bytes.start, end: bytes.end, pieces, course };
    stream::unfold(rest, |mut rest| async {
        let message = rest.message().await?;
        Some((message, rest))
    })
}

// === impl Rest ===

impl Rest {
    async fn message(&mut self) -> Option<WriteRequest> {
        if self.course.is_complete() || self.course.is_unreadable() {
            return None;
        }
        let end = self.course.end.clone();
        match end.run_until_cancelled(self.data()).await? {
            Ok(data) => self.of(data),
            Err(_) => self.unreadable(),
        }
    }

    /// The next piece, of which small ones are joined; none at the end.
    async fn data(&mut self) -> Result<Bytes, CasError> {
        let Some(first) = self.pieces.next().await.transpose()? else { return Ok(Bytes::new()) };
        if first.len() >= LEAST {
            return Ok(first);
        }
        let mut joined = BytesMut::from(first);
        while joined.len() < LEAST
            && let Some(piece) = self.pieces.next().await.transpose()?
        {
            joined.extend_from_slice(&piece);
        }
        Ok(joined.freeze())
    }

    fn of(&mut self, data: Bytes) -> Option<WriteRequest> {
        let is_end = data.is_empty();
        let offset = self.next;
        self.next += data.len() as u64;
        let is_plain = self.form == Form::Plain;
        if is_plain && (self.next > self.end || is_end && self.next < self.end) {
            return self.unreadable();
        }
        let is_last = if is_plain { self.next == self.end } else { is_end };
        self.course.sent.fetch_add(data.len() as u64, Ordering::Relaxed);
        self.course.is_complete.store(is_last, Ordering::Release);
        Some(WriteRequest {
            resource_name: self.name.take().unwrap_or_default(),
            write_offset: i64::try_from(offset).unwrap_or(i64::MAX),
            finish_write: is_last,
            data,
        })
    }

    fn unreadable(&mut self) -> Option<WriteRequest> {
        self.course.is_unreadable.store(true, Ordering::Release);
        None
    }
}
