//! `build.bazel.remote.logstream.v1.LogStreamService`, and log streams as ByteStream reads and writes them.
//!
//! There are two kinds. What an action writes to stdout and stderr is a stream of its run: named in the metadata
//! of its operation from the moment it is given to a machine, and read out of the file that grows, here or as it
//! comes from another machine, then out of the log that was kept (`output`). It is had for as long as its
//! operation. An action that is run again has other streams.
//!
//! The other kind is made by a client, which gets a name to read by and a name to write to; those are kept by
//! [`created`], within bounds.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use farmhand_proto::logstream::log_stream_service_server::{
    LogStreamService as LogStreamApi, LogStreamServiceServer,
};
use farmhand_proto::logstream::{CreateLogStreamRequest, LogStream};
use futures_util::stream::{self, BoxStream, StreamExt};
use tonic::{Request, Response, Status};

use super::Instances;
use super::output::{Reader, Subject, Which};
use super::resource_name::LogName;
use crate::cas::ContentAddressableStorage;
use crate::execution::queue::AttemptId;
use crate::execution::{Operation, OperationState, Scheduler};
use created::Created;

mod created;
mod spool;
#[cfg(test)]
mod tests;

/// What stands behind the number of the attempt in the name of a stream of an action.
const STDOUT: &str = "stdout";
const STDERR: &str = "stderr";

/// The service.
pub struct LogStreamService {
    streams: LogStreams,
    instances: Instances,
}

/// All log streams. Clones are the same.
#[derive(Clone)]
pub struct LogStreams(Arc<Shared>);

struct Shared {
    created: Created,
    scheduler: Scheduler,
    cas: Arc<dyn ContentAddressableStorage>,
}

/// The bytes of a stream, as they come.
pub type LogBytes = BoxStream<'static, Result<Bytes, Status>>;

/// Why a stream is not read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// There is none of that name, or no longer.
    #[error("there is no log stream {0:?} (any more)")]
    NotFound(String),
    /// It is read by its other name.
    #[error("this name is for writing: read the stream by its name without the last part")]
    ForWriting,
    /// It is written to by its other name.
    #[error("this name is for reading: write to the write_resource_name of the stream")]
    ForReading,
    /// Before its beginning, or behind its end.
    #[error("read_offset {0} is outside the stream")]
    Offset(i64),
    /// Negative.
    #[error("read_limit {0} is negative")]
    Limit(i64),
    /// Not where the stream stands.
    #[error("write_offset is {actual}, but the stream has {expected} bytes")]
    Gap {
        /// Bytes it has.
        expected: u64,
        /// Where the bytes were to go.
        actual: u64,
    },
    /// Nothing can be added.
    #[error("the stream is finished")]
    Finished,
    /// It has as much as a stream may have.
    #[error("a log stream takes no more than {} MiB, and all of them {} MiB", created::MOST_BYTES >> 20, created::MOST_IN_ALL >> 20)]
    TooLong,
    /// There are as many as may be, none of them finished.
    #[error("{} log streams are open; finish some", created::MOST_STREAMS)]
    TooMany,
    /// The disk failed.
    #[error("the log stream cannot be kept: {0}")]
    Io(#[from] std::io::Error),
}

// === names of streams of actions ===

/// The names of what an operation in this state writes to stdout and stderr; empty before it was given to a
/// machine, or when it never needed to be.
pub(super) fn names_of(operation: &Operation, state: &OperationState) -> [String; 2] {
    if state.run.is_none() || state.timeline.attempt == 0 {
        return [String::new(), String::new()];
    }
    [STDOUT, STDERR].map(|kind| {
        let id = format!("{}-{}-{kind}", operation.id.uuid(), state.timeline.attempt);
        LogName { instance: operation.instance.clone(), id, token: None }.to_string()
    })
}

/// Operation, number of the attempt, and which of the two, out of the id of a stream.
fn parse_id(id: &str) -> Option<(&str, u32, Which)> {
    let (rest, kind) = id.rsplit_once('-')?;
    let (operation, attempt) = rest.rsplit_once('-')?;
    let which = match kind {
        STDOUT => Which::Stdout,
        STDERR => Which::Stderr,
        _ => return None,
    };
    Some((operation, attempt.parse().ok()?, which))
}

// === impl LogStreams ===

impl LogStreams {
    /// The streams of what `scheduler` runs, whose logs are kept in `cas`; what clients write goes to files
    /// below `directory` where it is long.
    pub fn new(directory: PathBuf, scheduler: Scheduler, cas: Arc<dyn ContentAddressableStorage>) -> Self {
        Self(Arc::new(Shared { created: Created::new(directory), scheduler, cas }))
    }

    /// The bytes of a stream from `offset` on, at most `limit` of them where that is not 0, as they come.
    ///
    /// # Errors
    /// [`LogError`], or what keeps the log of an action from being read.
    pub async fn read(&self, name: &LogName, offset: i64, limit: i64) -> Result<LogBytes, Status> {
        if name.token.is_some() {
            return Err(LogError::ForWriting.into());
        }
        let at = u64::try_from(offset).map_err(|_| LogError::Offset(offset))?;
        let most = match u64::try_from(limit).map_err(|_| LogError::Limit(limit))? {
            0 => u64::MAX,
            most => most,
        };
        if let Some((operation, attempt, which)) = parse_id(&name.id) {
            let pieces = self.read_run(&name.id, operation, attempt, which, offset).await?;
            return Ok(Box::pin(limited(pieces, most)));
        }
        let stop = self.0.scheduler.stopping().clone();
        Ok(Box::pin(limited(self.0.created.read(&name.id, at, stop)?, most)))
    }

    /// What an attempt at running an action writes.
    async fn read_run(
        &self,
        id: &str,
        operation: &str,
        number: u32,
        which: Which,
        offset: i64,
    ) -> Result<LogBytes, Status> {
        let absent = || LogError::NotFound(id.to_owned());
        let operation = self.0.scheduler.get(operation).ok_or_else(absent)?;
        let run = operation.state().run.ok_or_else(absent)?;
        let attempt = AttemptId { run, number };
        if operation.state().attempt() != Some(attempt) {
            return Err(absent().into());
        }
        let (scheduler, cas) = (self.0.scheduler.clone(), Arc::clone(&self.0.cas));
        let subject = Subject::Operation(operation);
        let mut reader = Reader::new(scheduler, cas, subject, which, offset, true).bound_to(attempt);
        // Where nothing has to be waited for, what cannot be read is the status of the call.
        let first = if reader.is_over() { reader.next().await? } else { None };
        let rest = stream::try_unfold(reader, |mut reader| async move {
            Ok::<_, Status>(reader.next().await?.map(|piece| (piece, reader)))
        });
        let pieces = stream::iter(first.map(Ok)).chain(rest);
        let with_bytes = pieces.map(|piece| piece.map(|piece| Bytes::from(piece.data)));
        Ok(Box::pin(
            with_bytes.filter(|piece| std::future::ready(!piece.as_ref().is_ok_and(Bytes::is_empty))),
        ))
    }

    /// Adds bytes to a stream, at its end; `is_last` finishes it. How many it has then.
    ///
    /// # Errors
    /// [`LogError`]; nothing was added then.
    pub async fn append(
        &self,
        name: &LogName,
        offset: u64,
        data: Vec<u8>,
        is_last: bool,
    ) -> Result<u64, LogError> {
        let token = name.token.as_deref().ok_or(LogError::ForReading)?;
        self.0.created.append(&name.id, token, offset, data, is_last).await
    }

    /// Bytes that a stream has, and whether it is finished.
    ///
    /// # Errors
    /// [`LogError`].
    pub fn written(&self, name: &LogName) -> Result<(u64, bool), LogError> {
        let token = name.token.as_deref().ok_or(LogError::ForReading)?;
        self.0.created.written(&name.id, token)
    }
}

/// The first `most` bytes of a stream.
fn limited(pieces: LogBytes, most: u64) -> impl stream::Stream<Item = Result<Bytes, Status>> + Send {
    stream::try_unfold((pieces, most), |(mut pieces, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let Some(piece) = pieces.next().await else { return Ok(None) };
        let mut piece = piece?;
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left - piece.len() as u64;
        Ok(Some((piece, (pieces, left))))
    })
}

// === impl LogStreamService ===

impl LogStreamService {
    /// Makes streams among `streams`.
    pub fn new(streams: LogStreams, instances: Instances) -> Self {
        Self { streams, instances }
    }

    /// For [`Routes`](tonic::service::Routes).
    pub fn into_server(self) -> LogStreamServiceServer<Self> {
        LogStreamServiceServer::new(self)
    }
}

#[async_trait]
impl LogStreamApi for LogStreamService {
    /// The parent is an instance.
    async fn create_log_stream(
        &self,
        request: Request<CreateLogStreamRequest>,
    ) -> Result<Response<LogStream>, Status> {
        let instance = self.instances.find(&request.into_inner().parent)?.name;
        let (id, token) = self.streams.0.created.create()?;
        let name = LogName { instance, id, token: None };
        let write_name = LogName { token: Some(token), ..name.clone() };
        Ok(Response::new(LogStream { name: name.to_string(), write_resource_name: write_name.to_string() }))
    }
}
