//! One `Write` call: from its messages to a blob.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::HeaderMap;
use tokio::time::timeout;
use tonic::Status;

use super::incoming::{Incoming, Message, Pieces};
use super::partial::Session;
use super::upload::Upload;
use super::{ByteStreamMethods, counts_uncompressed, signed};
use crate::activity::Meter;
use crate::cas::compression::{Compressor, Decoder};
use crate::cas::remote::wire;
use crate::rpc::log_stream::LogStreams;
use crate::rpc::metadata;
use crate::rpc::resource_name::{LogName, WriteName};

/// After so many bytes an upload looks whether somebody else has completed the blob.
const LOOK_AGAIN: u64 = 16 * 1024 * 1024;

/// How long the end of the stream is waited for after `finish_write`.
const CLOSING: Duration = Duration::from_millis(500);

/// What a whole compressed upload that was answered early is told.
const ANSWERED_EARLY: i64 = -1;

/// Why a sequence of messages is no upload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The stream ended before its first message.
    #[error("the stream has no message")]
    NoMessage,
    /// A later message names another resource.
    #[error("resource_name changed from {first:?} to {later:?} within one stream")]
    Renamed {
        /// Name in the first message.
        first: String,
        /// Name in the later one.
        later: String,
    },
    /// A gap, or bytes twice.
    #[error("write_offset is {actual}, but the upload stands at {expected}")]
    Offset {
        /// Offset that would be right.
        expected: u64,
        /// Offset sent; negative ones appear as their distance from zero.
        actual: u64,
    },
    /// Something after `finish_write`.
    #[error("a message follows the one that had finish_write set")]
    AfterFinish,
    /// The upload goes on in another stream, which has not ended yet.
    #[error("the upload is still open in another stream")]
    StillOpen,
    /// Nothing came for too long.
    #[error("the upload was idle for too long")]
    Idle,
}

/// Checks that the messages of one stream fit together. Pure.
#[derive(Debug)]
struct Sequence {
    name: String,
    /// Offset the next message must have.
    next: u64,
    finished: bool,
}

/// Where an upload comes from.
#[derive(Clone, Copy)]
struct Source<'a> {
    /// What the client calls itself.
    tool: &'a str,
    /// Time since the last use of the blob, if it is a copy of another machine.
    age: Option<Duration>,
}

/// How a call ended that has an answer.
struct Answer {
    committed: i64,
    /// Whether the client may still be sending.
    is_early: bool,
}

/// One call under way.
struct Receiver<'a> {
    methods: &'a ByteStreamMethods,
    name: WriteName,
    sequence: Sequence,
    session: Session,
    /// Present for compressed uploads.
    decoder: Option<Decoder>,
    looked_at: u64,
}

// === impl ByteStreamMethods ===

impl ByteStreamMethods {
    /// Receives an upload; gives the committed size.
    pub(super) async fn write(&self, headers: &HeaderMap, mut stream: Incoming) -> Result<i64, Status> {
        let metadata = metadata::of_headers(headers);
        let meter = self.activity.meter(metadata.build(), || metadata.clone());
        let first = next_message(&mut stream, self.settings.idle).await?.ok_or(WriteError::NoMessage)?;
        let name = match self.parse_write_name(&first.resource_name) {
            Ok(name) => name,
            Err(status) => {
                let written = match self.log_named(&first.resource_name) {
                    Some((logs, name)) => self.write_log(logs, &name, first, &mut stream).await,
                    None => Err(status),
                };
                if written.is_err() {
                    self.drain.rest_of(stream, 0);
                }
                return written;
            }
        };
        let size = name.digest.size();
        let source = Source { tool: &metadata.tool_name, age: wire::age_of(headers) };
        let answer = self.receive(name, source, first, &mut stream, &meter).await;
        if answer.as_ref().is_ok_and(|answer| !answer.is_early) {
            return answer.map(|answer| answer.committed);
        }
        self.drain.rest_of(stream, size);
        answer.map(|answer| answer.committed)
    }

    /// Receives the next bytes of a log stream; gives how many it has.
    async fn write_log(
        &self,
        logs: &LogStreams,
        name: &LogName,
        first: Message,
        stream: &mut Incoming,
    ) -> Result<i64, Status> {
        let mut sequence = Sequence::new(&first)?;
        let mut committed = 0;
        let mut next = Some(first);
        while let Some(message) = next {
            sequence.accept(&message)?;
            let (offset, is_last) = (sequence.next - message.data.remaining() as u64, message.finish_write);
            committed = logs.append(name, offset, message.data.into_vec(), is_last).await?;
            next = if is_last { None } else { next_message(stream, self.settings.idle).await? };
        }
        if sequence.finished {
            expect_end(stream).await?;
        }
        Ok(signed(committed))
    }

    async fn receive(
        &self,
        name: WriteName,
        source: Source<'_>,
        first: Message,
        stream: &mut Incoming,
        meter: &Meter,
    ) -> Result<Answer, Status> {
        meter.uploaded(first.data.remaining() as u64);
        let counts_uncompressed = name.compressor == Compressor::Identity
            || counts_uncompressed(self.settings.committed_size, source.tool);
        let size = signed(name.digest.size());
        let early =
            Answer { committed: if counts_uncompressed { size } else { ANSWERED_EARLY }, is_early: true };
        if self.is_present(&name.digest).await? {
            return Ok(early);
        }
        let mut receiver = Receiver::new(self, name, source.age, &first)?;
        if !first.finish_write || receiver.decoder.is_some() {
            receiver.session.open().await?;
        }
        receiver.accept(first).await?;
        while !receiver.sequence.finished {
            if receiver.is_done_elsewhere().await? {
                receiver.session.discard();
                return Ok(early);
            }
            match next_message(stream, self.settings.idle).await? {
                Some(message) => {
                    meter.uploaded(message.data.remaining() as u64);
                    receiver.accept(message).await?;
                }
                None => return Ok(Answer { committed: signed(receiver.session.written()), is_early: false }),
            }
        }
        expect_end(stream).await?;
        let received = signed(receiver.sequence.next);
        receiver.commit().await?;
        Ok(Answer { committed: if counts_uncompressed { size } else { received }, is_early: false })
    }
}

async fn next_message(stream: &mut Incoming, idle: Duration) -> Result<Option<Message>, Status> {
    timeout(idle, stream.message()).await.map_err(|_| WriteError::Idle)?
}

/// Waits until the client has closed its side. One that leaves it open gets its answer a little later.
async fn expect_end(stream: &mut Incoming) -> Result<(), Status> {
    match timeout(CLOSING, stream.message()).await {
        Ok(Ok(None)) | Err(_) => Ok(()),
        Ok(Ok(Some(_))) => Err(WriteError::AfterFinish.into()),
        Ok(Err(status)) => Err(status),
    }
}

// === impl Receiver ===

impl<'a> Receiver<'a> {
    fn new(
        methods: &'a ByteStreamMethods,
        name: WriteName,
        age: Option<Duration>,
        first: &Message,
    ) -> Result<Self, Status> {
        let sequence = Sequence::new(first)?;
        let digest = name.digest;
        let fresh = || Upload::new(Arc::clone(&methods.cas), digest, age);
        let session = methods.partials.begin(name.clone().into(), sequence.next, fresh)?;
        let decoder = match name.compressor {
            Compressor::Identity => None,
            Compressor::Zstd => Some(Decoder::new(digest.size().saturating_sub(sequence.next))?),
        };
        let looked_at = session.written();
        Ok(Self { methods, name, sequence, session, decoder, looked_at })
    }

    async fn accept(&mut self, message: Message) -> Result<(), Status> {
        self.sequence.accept(&message)?;
        let is_last = message.finish_write;
        match &mut self.decoder {
            None => write_all(&mut self.session, message.data, is_last).await?,
            Some(decoder) => {
                let result = decompress_all(decoder, &mut self.session, message.data).await;
                if result.is_err() {
                    self.session.discard();
                }
                result?;
            }
        }
        Ok(())
    }

    /// Whether the blob has been completed by somebody else; looks now and then only.
    async fn is_done_elsewhere(&mut self) -> Result<bool, Status> {
        let written = self.session.written();
        if written - self.looked_at < LOOK_AGAIN {
            return Ok(false);
        }
        self.looked_at = written;
        self.methods.is_present(&self.name.digest).await
    }

    async fn commit(mut self) -> Result<(), Status> {
        if let Some(Err(error)) = self.decoder.as_ref().map(Decoder::finish) {
            self.session.discard();
            return Err(error.into());
        }
        Ok(self.session.commit().await?)
    }
}

async fn write_all(session: &mut Session, mut data: Pieces, is_last: bool) -> Result<(), Status> {
    while let Some(piece) = data.pop() {
        session.write(piece, is_last && !data.has_remaining()).await?;
    }
    Ok(())
}

async fn decompress_all(
    decoder: &mut Decoder,
    session: &mut Session,
    mut data: Pieces,
) -> Result<(), Status> {
    // A message without data may still hold the end of what the decoder has taken in.
    let mut next = Some(data.pop().unwrap_or_default());
    while let Some(piece) = next {
        decompress(decoder, session, piece).await?;
        next = data.pop();
    }
    Ok(())
}

async fn decompress(decoder: &mut Decoder, session: &mut Session, mut data: Bytes) -> Result<(), Status> {
    while let Some(piece) = decoder.step(&mut data)? {
        session.write(piece, false).await?;
        tokio::task::consume_budget().await;
    }
    Ok(())
}

// === impl Sequence ===

impl Sequence {
    fn new(first: &Message) -> Result<Self, WriteError> {
        let next = u64::try_from(first.write_offset)
            .map_err(|_| WriteError::Offset { expected: 0, actual: first.write_offset.unsigned_abs() })?;
        Ok(Self { name: first.resource_name.clone(), next, finished: false })
    }

    fn accept(&mut self, message: &Message) -> Result<(), WriteError> {
        if self.finished {
            return Err(WriteError::AfterFinish);
        }
        if !message.resource_name.is_empty() && message.resource_name != self.name {
            let later = message.resource_name.chars().take(300).collect();
            return Err(WriteError::Renamed { first: self.name.clone(), later });
        }
        if u64::try_from(message.write_offset) != Ok(self.next) {
            let actual = message.write_offset.unsigned_abs();
            return Err(WriteError::Offset { expected: self.next, actual });
        }
        self.next += message.data.remaining() as u64;
        self.finished = message.finish_write;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(name: &str, offset: i64, len: usize, finish_write: bool) -> Message {
        let data = Pieces::from(Bytes::from(vec![0; len]));
        Message { resource_name: name.into(), write_offset: offset, finish_write, data }
    }

    proptest! {
        /// Any cut of a stream into contiguous messages is fine, with the name in any of them; and any
        /// one wrong offset is not.
        #[test]
        fn contiguous_streams_only(
            start in 0..1_000_i64,
            lens in proptest::collection::vec((0..50_usize, any::<bool>()), 1..20),
            broken in 0..40_usize,
            shift in prop_oneof![-5..0_i64, 1..5_i64],
        ) {
            let first = message("n", start, lens[0].0, false);
            let mut sequence = Sequence::new(&first).unwrap();
            let mut offset = start;
            for (i, (len, named)) in lens.iter().enumerate() {
                let name = if *named || i == 0 { "n" } else { "" };
                if i == broken {
                    let result = sequence.accept(&message(name, offset + shift, *len, false));
                    let refused = matches!(result, Err(WriteError::Offset { .. }));
                    prop_assert!(refused);
                }
                prop_assert_eq!(sequence.accept(&message(name, offset, *len, i + 1 == lens.len())), Ok(()));
                offset += *len as i64;
            }
            prop_assert_eq!(sequence.next, offset as u64);
            prop_assert_eq!(sequence.accept(&message("", offset, 0, false)), Err(WriteError::AfterFinish));
        }
    }

    #[test]
    fn names_may_not_change_and_offsets_not_be_negative() {
        let first = message("n", 0, 3, false);
        let mut sequence = Sequence::new(&first).unwrap();
        sequence.accept(&first).unwrap();
        assert!(matches!(sequence.accept(&message("m", 3, 1, false)), Err(WriteError::Renamed { .. })));
        assert!(Sequence::new(&message("n", -1, 0, false)).is_err());
    }
}
