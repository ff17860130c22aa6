//! `google.bytestream` between machines without copies: the bytes of a blob go to HTTP/2 as they are, and come out
//! of it as they came.
//!
//! The codec of generated clients gathers each message in a buffer of its own: one more copy of every blob, into
//! fresh memory. Here a message that is sent is its head and its data, one after the other ([`write_body`]), and of
//! what comes only the heads are looked at ([`Pieces`]). Both ends are Farmhand, which sends no fields but these.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use farmhand_proto::raw::WriteRequest;
use futures_util::{Stream, StreamExt, stream};
use http::header::{CONTENT_TYPE, HeaderName, TE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::body::Body;
use tonic::metadata::{GRPC_CONTENT_TYPE, MetadataMap};
use tonic::{Extensions, Status};
use tower::{Service, ServiceExt};

use crate::peer::link::AnyChannel;

/// Field number of `data` in `google.bytestream.WriteRequest` and `ReadResponse`.
const DATA_TAG: u32 = 10;

/// Bytes in front of each message: a compression flag and the length.
const PREFIX: usize = 5;

/// Bytes of the longest head: prefix, key, length.
const HEAD: usize = PREFIX + 1 + 5;

/// Header of calls that bring a copy from another machine: seconds since its last use.
const AGE: HeaderName = HeaderName::from_static("farmhand-copy-age");

/// A body of frames, one after the other.
struct Frames<S>(S);

/// What comes as an answer to `Read`: the bytes of its messages.
pub(crate) struct Pieces {
    body: Body,
    /// Came, and is not looked at.
    came: Bytes,
    /// The head of the message that begins.
    head: BytesMut,
    /// Bytes of the message that goes on.
    left: usize,
}

// === impl Frames ===

impl<S: Stream<Item = Bytes> + Unpin> http_body::Body for Frames<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.0.poll_next_unpin(context).map(|frame| frame.map(|data| Ok(Frame::data(data))))
    }
}

/// A request about a copy that was last used so long ago.
pub(crate) fn of_age<T>(message: T, age: Duration) -> tonic::Request<T> {
    let mut headers = HeaderMap::new();
    headers.insert(AGE, HeaderValue::from(age.as_secs()));
    tonic::Request::from_parts(MetadataMap::from_headers(headers), Extensions::new(), message)
}

/// The age in the headers of a call, if it brings a copy.
pub(crate) fn age_of(headers: &HeaderMap) -> Option<Duration> {
    headers.get(AGE)?.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// The body of a call that sends these messages.
pub(crate) fn write_body(messages: impl Stream<Item = WriteRequest> + Send + 'static) -> Body {
    let frames = messages.flat_map(|message| {
        let (head, data) = frames_of(message);
        stream::iter([Some(head), data].into_iter().flatten())
    });
    Body::new(Frames(Box::pin(frames)))
}

/// A message as the bytes that open it, and its data if it has any.
fn frames_of(mut message: WriteRequest) -> (Bytes, Option<Bytes>) {
    let data = std::mem::take(&mut message.data);
    let length = data.len() as u64;
    let around = if data.is_empty() { 0 } else { key_len(DATA_TAG) + encoded_len_varint(length) };
    let fields = message.encoded_len();
    let mut head = BytesMut::with_capacity(PREFIX + fields + around);
    head.put_u8(0);
    // No message is larger than the pieces of a blob that are sent.
    head.put_u32(u32::try_from(fields + around + data.len()).unwrap_or(u32::MAX));
    message.encode_raw(&mut head);
    if data.is_empty() {
        return (head.freeze(), None);
    }
    encode_key(DATA_TAG, WireType::LengthDelimited, &mut head);
    encode_varint(length, &mut head);
    (head.freeze(), Some(data))
}

/// Calls a method that takes one message, `request`, and answers with a stream of pieces.
///
/// # Errors
/// What the other end says.
pub(crate) async fn read(
    channel: AnyChannel,
    path: &'static str,
    request: &impl Message,
) -> Result<Pieces, Status> {
    let mut message = BytesMut::with_capacity(PREFIX + request.encoded_len());
    message.put_u8(0);
    message.put_u32(u32::try_from(request.encoded_len()).unwrap_or(u32::MAX));
    request.encode_raw(&mut message);
    let body = Body::new(Frames(stream::iter([message.freeze()])));
    let mut call = Request::post(path).body(body).map_err(|error| Status::internal(error.to_string()))?;
    *call.version_mut() = http::Version::HTTP_2;
    call.headers_mut().insert(TE, HeaderValue::from_static("trailers"));
    call.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    let mut channel = channel;
    Pieces::of(channel.ready().await?.call(call).await?)
}

// === impl Pieces ===

impl Pieces {
    fn of(answer: Response<Body>) -> Result<Self, Status> {
        if let Some(status) = Status::from_header_map(answer.headers()).filter(is_failure) {
            return Err(status);
        }
        if answer.status() != StatusCode::OK {
            return Err(Status::unknown(format!("the answer has status {}", answer.status())));
        }
        Ok(Self::new(answer.into_body()))
    }

    /// Those in the body of an answer.
    pub(crate) fn new(body: Body) -> Self {
        Self { body, came: Bytes::new(), head: BytesMut::with_capacity(HEAD), left: 0 }
    }

    /// The next one, never empty; `None` at the end.
    ///
    /// # Errors
    /// What the other end says; `Internal` where it makes no sense.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if self.came.is_empty() {
                match self.frame().await? {
                    Some(data) => self.came = data,
                    None if self.left > 0 || !self.head.is_empty() => {
                        return Err(odd("it ends inside a message"));
                    }
                    None => return Ok(None),
                }
            } else if self.left == 0 {
                self.open()?;
            } else {
                let piece = self.came.split_to(self.came.len().min(self.left));
                self.left -= piece.len();
                return Ok(Some(piece));
            }
        }
    }

    /// As a stream.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Bytes, Status>> + Send {
        stream::try_unfold(self, |mut pieces| async move {
            let piece = pieces.next().await?;
            Ok(piece.map(|piece| (piece, pieces)))
        })
    }

    /// Takes what came of the head of a message.
    fn open(&mut self) -> Result<(), Status> {
        while self.came.has_remaining() {
            self.head.put_u8(self.came.get_u8());
            if let Some(length) = data_length(&self.head)? {
                self.head.clear();
                self.left = length;
                return Ok(());
            }
        }
        Ok(())
    }

    /// The data of the next frame; `None` at the end of a call that went well.
    async fn frame(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context)).await;
            let Some(frame) = frame.transpose()? else { return Err(Status::unknown("it broke off")) };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Ok(Some(data)),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    let status = Status::from_header_map(&trailers);
                    let status = status.unwrap_or_else(|| Status::unknown("it does not say how it went"));
                    return if is_failure(&status) { Err(status) } else { Ok(None) };
                }
            }
        }
    }
}

/// Bytes of data in the message that `head` opens; `None` while the head is not whole.
fn data_length(head: &[u8]) -> Result<Option<usize>, Status> {
    let Some((prefix, fields)) = head.split_at_checked(PREFIX) else { return Ok(None) };
    let length = prefix[1..].iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
    if prefix[0] != 0 {
        return Err(odd("a message is compressed"));
    }
    let Some((key, mut varint)) = fields.split_first() else { return Ok((length == 0).then_some(0)) };
    if u32::from(*key) != DATA_TAG << 3 | WireType::LengthDelimited as u32 {
        return Err(odd("a message has other fields"));
    }
    if varint.last().is_none_or(|byte| byte & 0x80 != 0) {
        return if head.len() < HEAD { Ok(None) } else { Err(odd("a message has no length")) };
    }
    let around = 1 + varint.len() as u64;
    let data = prost::encoding::decode_varint(&mut varint).map_err(|_| odd("a message has no length"))?;
    match usize::try_from(data) {
        Ok(bytes) if data + around == length => Ok(Some(bytes)),
        _ => Err(odd("a message has something behind its data")),
    }
}

fn is_failure(status: &Status) -> bool {
    status.code() != tonic::Code::Ok
}

fn odd(what: &str) -> Status {
    Status::internal(format!("the answer makes no sense: {what}"))
}

/// Bodies of any bytes.
#[cfg(any(test, fuzzing))]
pub(crate) mod testing {
    use super::*;

    /// Frames that are there already.
    struct All(std::vec::IntoIter<Frame<Bytes>>);

    impl http_body::Body for All {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.next().map(Ok))
        }
    }

    /// What is read of a body of these bytes, cut at these distances, that ends well.
    pub(crate) fn read_all(bytes: &[u8], cuts: &[usize]) -> Result<Vec<u8>, Status> {
        let (mut rest, mut frames, mut cuts) = (bytes, Vec::new(), cuts.iter().cycle());
        while let Some(cut) = cuts.next().filter(|_| !rest.is_empty()) {
            let (now, later) = rest.split_at(rest.len().min(*cut));
            frames.push(Frame::data(Bytes::copy_from_slice(now)));
            rest = later;
        }
        let mut trailers = HeaderMap::new();
        Status::ok("").add_header(&mut trailers)?;
        frames.push(Frame::trailers(trailers));
        let mut pieces = Pieces::new(Body::new(All(frames.into_iter())));
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("there is memory");
        runtime.block_on(async {
            let mut all = Vec::new();
            while let Some(piece) = pieces.next().await? {
                assert!(!piece.is_empty());
                all.extend_from_slice(&piece);
            }
            Ok(all)
        })
    }
}

#[cfg(test)]
mod tests {
    use farmhand_proto::bytestream;
    use proptest::prelude::*;

    use super::testing::read_all;
    use super::*;

    fn framed(message: &impl Message) -> Vec<u8> {
        let bytes = message.encode_to_vec();
        [&[0][..], &(bytes.len() as u32).to_be_bytes(), &bytes].concat()
    }

    #[test]
    fn an_age_is_told_and_nothing_else_is_one() {
        let request = of_age((), Duration::from_secs(77));
        assert_eq!(age_of(request.metadata().as_ref()), Some(Duration::from_secs(77)));
        let mut headers = HeaderMap::new();
        assert_eq!(age_of(&headers), None);
        for odd in ["-1", "", "1.5", "99999999999999999999"] {
            headers.insert(AGE, HeaderValue::from_static(odd));
            assert_eq!(age_of(&headers), None, "{odd}");
        }
    }

    proptest! {
        #[test]
        fn what_was_sent_is_read_however_it_is_cut(
            sent in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 0..6),
            cuts in proptest::collection::vec(1..300_usize, 1..6),
        ) {
            let message = |data: &Vec<u8>| framed(&bytestream::ReadResponse { data: data.clone() });
            let bytes: Vec<u8> = sent.iter().flat_map(message).collect();
            prop_assert_eq!(read_all(&bytes, &cuts).unwrap(), sent.concat());
        }

        /// Whatever comes is what a decoder of messages reads, or refused.
        #[test]
        fn any_bytes_are_read_as_messages_or_refused(
            data in proptest::collection::vec(any::<u8>(), 0..200),
            changes in proptest::collection::vec((0..12_usize, any::<u8>()), 0..3),
        ) {
            let mut bytes = framed(&bytestream::ReadResponse { data });
            for (at, byte) in changes {
                let at = at.min(bytes.len() - 1);
                bytes[at] = byte;
            }
            if let Ok(read) = read_all(&bytes, &[7]) {
                let message = bytestream::ReadResponse::decode(&bytes[PREFIX..]).unwrap();
                prop_assert_eq!(read, message.data);
            }
        }

        #[test]
        fn messages_are_sent_as_the_published_encoder_has_them(
            resource_name in ".{0,20}", write_offset in any::<i64>(), finish_write in any::<bool>(),
            data in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let data = Bytes::from(data);
            let message = WriteRequest { resource_name, write_offset, finish_write, data };
            let (head, data) = frames_of(message.clone());
            let sent = [&head[..], data.as_deref().unwrap_or_default()].concat();
            prop_assert_eq!(sent, framed(&message));
        }
    }
}
