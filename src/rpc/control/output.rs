//! `ReadOutput`: what an action wrote to stdout or stderr, while it runs and afterwards.
//!
//! While the command runs, the file that it writes to is read as the caller takes the bytes; nobody
//! else pays for that, and a caller costs one piece of memory. When the attempt is over, the reader
//! goes on in the log that was kept (`rpc::output`). For how an action is named see [`Subject`].

use std::sync::Arc;

use farmhand_proto::control::read_output_request::Stream as WireStream;
use farmhand_proto::control::{ReadOutputRequest, ReadOutputResponse};
use futures_util::stream::{self, StreamExt};
use tonic::{Request, Response, Status};

use super::query::Query;
use super::{ControlService, Replies};
use crate::action_cache::ActionKey;
use crate::digest::Digest;
use crate::history::Record;
use crate::instance::InstanceName;
use crate::rpc::output::{Reader, Subject, Which};

#[cfg(test)]
mod tests;

fn which(stream: WireStream) -> Result<Which, Status> {
    match stream {
        WireStream::Stdout => Ok(Which::Stdout),
        WireStream::Stderr => Ok(Which::Stderr),
        WireStream::Unspecified => Err(Status::invalid_argument("stream is not set: stdout or stderr")),
    }
}

/// Operations of one action among which one with logs is looked for.
const LOOKED_AT: usize = 20;

// === impl ControlService ===

impl ControlService {
    pub(super) async fn read_output(
        &self,
        request: Request<ReadOutputRequest>,
    ) -> Result<Response<Replies<ReadOutputResponse>>, Status> {
        let request = request.into_inner();
        let which = which(request.stream())?;
        let subject = self.subject(&request.operation).await?;
        let mut reader = Reader::new(
            self.scheduler.clone(),
            Arc::clone(&self.cas),
            subject,
            which,
            request.offset,
            request.follow,
        );
        // Where nothing has to be waited for, what cannot be read is the status of the call.
        let first = if reader.is_over() { reader.next().await? } else { None };
        let rest = stream::try_unfold(reader, |mut reader| async move {
            let piece = reader.next().await?;
            Ok(piece.map(|piece| (piece, reader)))
        });
        Ok(Response::new(Box::pin(stream::iter(first.map(Ok)).chain(rest))))
    }

    async fn subject(&self, text: &str) -> Result<Subject, Status> {
        if let Some(operation) = self.scheduler.get(text) {
            return Ok(Subject::Operation(operation));
        }
        let query = Query::parse(text)?;
        self.history.settle().await;
        if let Query::Operation(id) = query {
            let record = self.history.named(id).await?;
            return record.as_deref().and_then(recorded).ok_or_else(|| not_kept(text));
        }
        let live = self.source.operations().await;
        let digest = self.resolve(&query, &live).await?;
        let wanted = digest.to_string();
        let running = live.iter().find(|operation| operation.action_digest == wanted);
        if let Some(operation) = running.and_then(|operation| self.scheduler.get(&operation.name)) {
            return Ok(Subject::Operation(operation));
        }
        let ended = self.history.of_action(digest, u64::MAX, LOOKED_AT).await?;
        let subject = ended.iter().find_map(|record| match self.scheduler.get(&record.operation.name) {
            Some(operation) => Some(Subject::Operation(operation)),
            None => recorded(record),
        });
        match subject {
            Some(subject) => Ok(subject),
            None => self.cached(digest).await?.ok_or_else(|| not_kept(text)),
        }
    }

    async fn cached(&self, action: Digest) -> Result<Option<Subject>, Status> {
        let key = ActionKey { instance: InstanceName::default(), action };
        let result = self.results.get(&key).await?;
        Ok(result.map(|result| Subject::Result(Box::new(result), action.function())))
    }
}

/// What the history has of an operation.
fn recorded(record: &Record) -> Option<Subject> {
    let (action, result) = (record.action()?, record.result_message()?);
    Some(Subject::Result(Box::new(result), action.function()))
}

fn not_kept(what: &str) -> Status {
    let what: String = what.chars().take(200).collect();
    Status::not_found(format!("nothing that {what:?} wrote is known (any more)"))
}
