//! [`Incoming`]: the messages of an upload, whose bytes stay where HTTP/2 has put them.
//!
//! The decoder of generated services gathers each message in a buffer of its own before it is read:
//! one more copy of every blob. Here a message is a list of the pieces it came in, and its data goes
//! on as they are. Small pieces are joined, so that a client which sends single bytes costs no more
//! than one that does not.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::Body as _;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::rpc::MAX_RECEIVED_MESSAGE;
use crate::rpc::codec::undecodable;

/// Field numbers of `google.bytestream.WriteRequest`.
const RESOURCE_NAME: u32 = 1;
const WRITE_OFFSET: u32 = 2;
const FINISH_WRITE: u32 = 3;
const DATA: u32 = 10;

/// Bytes in front of each message: a compression flag and the length.
const PREFIX: usize = 5;

/// Pieces shorter than this are joined with what came before.
const SMALL: usize = 16 * 1024;

/// A `google.bytestream.WriteRequest`.
#[derive(Debug, Default)]
pub(super) struct Message {
    /// Name of the upload; clients may leave it empty after the first message.
    pub(super) resource_name: String,
    /// Offset of `data` in the resource, in bytes.
    pub(super) write_offset: i64,
    /// Set on the last message of a complete upload.
    pub(super) finish_write: bool,
    /// The bytes to append.
    pub(super) data: Pieces,
}

/// The messages a client sends in one call.
pub(super) struct Incoming {
    body: Body,
    /// Received and not yet handed out.
    received: Pieces,
    ended: bool,
}

/// Bytes in the pieces they came in, in order.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    whole: VecDeque<Bytes>,
    /// Small pieces, joined; they come behind `whole`.
    joined: BytesMut,
    len: usize,
}

// === impl Incoming ===

impl Incoming {
    /// The messages in the body of a request.
    pub(super) fn new(body: Body) -> Self {
        Self { body, received: Pieces::default(), ended: false }
    }

    /// The next message; `None` when the client has sent its last one, or has gone.
    pub(super) async fn message(&mut self) -> Result<Option<Message>, Status> {
        if !self.receive(PREFIX).await? {
            return if self.received.has_remaining() { Err(torn()) } else { Ok(None) };
        }
        if self.received.get_u8() != 0 {
            return Err(Status::unimplemented("gRPC compression is not supported here"));
        }
        let length = self.received.get_u32() as usize;
        if length > MAX_RECEIVED_MESSAGE {
            let text = format!("the message has {length} bytes; {MAX_RECEIVED_MESSAGE} are the most taken");
            return Err(Status::out_of_range(text));
        }
        if !self.receive(length).await? {
            return Err(torn());
        }
        Message::decode(self.received.split_to(length)).map(Some)
    }

    /// Throws the next bytes away. Returns how many; `None` at the end.
    pub(super) async fn discard(&mut self) -> Result<Option<usize>, Status> {
        self.received = Pieces::default();
        Ok(self.frame().await?.map(|data| data.len()))
    }

    /// Receives until there are `len` bytes; false if the client sends no more.
    async fn receive(&mut self, len: usize) -> Result<bool, Status> {
        while self.received.remaining() < len {
            let Some(data) = self.frame().await? else { return Ok(false) };
            self.received.push(data);
        }
        Ok(true)
    }

    /// The data of the next frame; `None` at the end.
    async fn frame(&mut self) -> Result<Option<Bytes>, Status> {
        while !self.ended {
            match poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                // A client that goes away sends no more; nobody hears what is answered.
                Some(Err(status)) if status.code() == Code::Cancelled => self.ended = true,
                Some(Err(status)) => {
                    self.ended = true;
                    return Err(status);
                }
                None => self.ended = true,
            }
        }
        Ok(None)
    }
}

fn torn() -> Status {
    Status::invalid_argument("the stream ends inside a message")
}

// === impl Message ===

impl Message {
    fn decode(mut pieces: Pieces) -> Result<Self, Status> {
        let mut message = Self::default();
        while pieces.has_remaining() {
            let (tag, wire_type) = decode_key(&mut pieces).map_err(undecodable)?;
            match (tag, wire_type) {
                (RESOURCE_NAME, WireType::LengthDelimited) => {
                    let name = pieces.take_delimited()?.into_vec();
                    message.resource_name = String::from_utf8(name).map_err(undecodable)?;
                }
                (WRITE_OFFSET, WireType::Varint) => {
                    message.write_offset = decode_varint(&mut pieces).map_err(undecodable)? as i64;
                }
                (FINISH_WRITE, WireType::Varint) => {
                    message.finish_write = decode_varint(&mut pieces).map_err(undecodable)? != 0;
                }
                (DATA, WireType::LengthDelimited) => message.data = pieces.take_delimited()?,
                (RESOURCE_NAME | WRITE_OFFSET | FINISH_WRITE | DATA, _) => {
                    return Err(undecodable("a field has the wrong wire type"));
                }
                _ => {
                    skip_field(wire_type, tag, &mut pieces, DecodeContext::default()).map_err(undecodable)?
                }
            }
        }
        Ok(message)
    }
}

// === impl Pieces ===

impl Pieces {
    /// Adds bytes at the end.
    fn push(&mut self, data: Bytes) {
        self.len += data.len();
        if data.len() < SMALL {
            self.joined.put(data);
        } else {
            self.end_joined();
            self.whole.push_back(data);
        }
    }

    fn end_joined(&mut self) {
        if !self.joined.is_empty() {
            self.whole.push_back(self.joined.split().freeze());
        }
    }

    /// Takes the next piece; `None` after the last.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if self.whole.is_empty() {
            self.end_joined();
        }
        let piece = self.whole.pop_front()?;
        self.len -= piece.len();
        Some(piece)
    }

    /// Takes the first `len` bytes; there must be so many.
    fn split_to(&mut self, len: usize) -> Self {
        let mut taken = Self { len, ..Self::default() };
        self.len -= len;
        let mut wanted = len;
        while wanted > 0 {
            match self.whole.front_mut() {
                Some(front) if front.len() > wanted => {
                    taken.whole.push_back(front.split_to(wanted));
                    wanted = 0;
                }
                Some(front) => {
                    wanted -= front.len();
                    taken.whole.extend(self.whole.pop_front());
                }
                None => {
                    taken.joined = self.joined.split_to(wanted);
                    wanted = 0;
                }
            }
        }
        taken
    }

    /// Takes a length and so many bytes behind it.
    fn take_delimited(&mut self) -> Result<Self, Status> {
        let length = decode_varint(self).map_err(undecodable)?;
        match usize::try_from(length) {
            Ok(length) if length <= self.len => Ok(self.split_to(length)),
            _ => Err(undecodable("a field is longer than its message")),
        }
    }

    pub(super) fn into_vec(mut self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len);
        while let Some(piece) = self.pop() {
            all.extend_from_slice(&piece);
        }
        all
    }
}

impl From<Bytes> for Pieces {
    fn from(data: Bytes) -> Self {
        let mut pieces = Self::default();
        pieces.push(data);
        pieces
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.whole.front().map_or(&self.joined, |front| front)
    }

    fn advance(&mut self, count: usize) {
        drop(self.split_to(count));
    }
}

#[cfg(test)]
mod tests {
    use farmhand_proto::bytestream;
    use proptest::prelude::*;
    use prost::Message as _;
    use tokio_stream::StreamExt as _;

    use super::*;

    /// A body that gives these frames.
    fn incoming(frames: Vec<Bytes>) -> Incoming {
        struct Frames(std::vec::IntoIter<Bytes>);

        impl http_body::Body for Frames {
            type Data = Bytes;
            type Error = Status;

            fn poll_frame(
                mut self: Pin<&mut Self>,
                _context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Status>>> {
                std::task::Poll::Ready(self.0.next().map(|data| Ok(http_body::Frame::data(data))))
            }
        }

        Incoming::new(Body::new(Frames(frames.into_iter())))
    }

    /// The bytes of a stream, cut at `cuts` again and again.
    fn cut(bytes: &[u8], cuts: &[usize]) -> Vec<Bytes> {
        let (mut rest, mut frames) = (bytes, Vec::new());
        for len in cuts.iter().cycle().take(100_000) {
            let (frame, behind) = rest.split_at((*len).min(rest.len()));
            frames.push(Bytes::copy_from_slice(frame));
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        frames
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        [&[0][..], &(message.len() as u32).to_be_bytes(), message].concat()
    }

    async fn all(mut incoming: Incoming) -> Result<Vec<bytestream::WriteRequest>, Status> {
        let mut messages = Vec::new();
        while let Some(Message { resource_name, write_offset, finish_write, data }) =
            incoming.message().await?
        {
            let data = data.into_vec();
            messages.push(bytestream::WriteRequest { resource_name, write_offset, finish_write, data });
        }
        Ok(messages)
    }

    fn now<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn any_message() -> impl Strategy<Value = bytestream::WriteRequest> {
        let len = prop_oneof![0..40_usize, 0..100_000_usize];
        ("[a-z/]{0,20}", any::<i64>(), any::<bool>(), len, any::<u8>()).prop_map(
            |(resource_name, write_offset, finish_write, len, first)| {
                let data = (0..len).map(|i| first.wrapping_add((i % 251) as u8)).collect();
                bytestream::WriteRequest { resource_name, write_offset, finish_write, data }
            },
        )
    }

    proptest! {
        #[test]
        fn messages_are_read_however_they_are_cut(
            sent in proptest::collection::vec(any_message(), 0..5),
            cuts in proptest::collection::vec(prop_oneof![1..9_usize, 1..70_000_usize], 1..6),
        ) {
            let bytes: Vec<u8> = sent.iter().flat_map(|message| framed(&message.encode_to_vec())).collect();
            prop_assume!(bytes.len() / cuts.iter().max().unwrap() < 20_000);
            prop_assert_eq!(now(all(incoming(cut(&bytes, &cuts)))).unwrap(), sent);
        }

        /// Damaged messages are read as the published decoder reads them, or refused.
        #[test]
        fn damage_is_seen_as_the_published_decoder_sees_it(
            message in any_message(),
            changes in proptest::collection::vec((0..60_usize, any::<u8>()), 0..5),
            cuts in proptest::collection::vec(1..20_000_usize, 1..4),
        ) {
            let mut bytes = message.encode_to_vec();
            for (at, byte) in changes.into_iter().filter(|(at, _)| *at < bytes.len()).collect::<Vec<_>>() {
                bytes[at] = byte;
            }
            let read = now(all(incoming(cut(&framed(&bytes), &cuts)))).ok();
            let published = bytestream::WriteRequest::decode(&*bytes).ok();
            prop_assert_eq!(read, published.map(|message| vec![message]));
        }

        #[test]
        fn any_bytes_are_read_or_refused(frames in proptest::collection::vec(any::<Vec<u8>>(), 0..8)) {
            let _ = now(all(incoming(frames.into_iter().map(Bytes::from).collect())));
        }
    }

    #[tokio::test]
    async fn what_is_no_stream_of_messages_is_refused() {
        let code = |bytes: &[u8]| {
            let body = incoming(vec![Bytes::copy_from_slice(bytes)]);
            async move { all(body).await.unwrap_err().code() }
        };
        assert_eq!(code(&[1, 0, 0, 0, 0]).await, Code::Unimplemented);
        assert_eq!(code(&[0, 0xff, 0, 0, 0]).await, Code::OutOfRange);
        assert_eq!(code(&[0, 0, 0]).await, Code::InvalidArgument);
        assert_eq!(code(&[0, 0, 0, 0, 9, 1]).await, Code::InvalidArgument);
    }

    #[tokio::test]
    async fn large_pieces_are_not_copied_and_small_ones_are_joined() {
        let data = vec![7; 3 * SMALL];
        let message = bytestream::WriteRequest { data, ..Default::default() };
        let frame = Bytes::from(framed(&message.encode_to_vec()));
        let mut read = incoming(vec![frame.clone()]).message().await.unwrap().unwrap().data;
        let piece = read.pop().unwrap();
        assert!(frame.as_ptr_range().contains(&piece.as_ptr()));
        assert_eq!((piece.len(), read.pop()), (3 * SMALL, None));

        let single = tokio_stream::iter(frame.to_vec()).map(|byte| Bytes::from(vec![byte]));
        let frames = single.collect().await;
        let mut read = incoming(frames).message().await.unwrap().unwrap().data;
        assert_eq!(read.pop().map(|piece| piece.len()), Some(3 * SMALL));
        assert_eq!(read.remaining(), 0);
    }
}
