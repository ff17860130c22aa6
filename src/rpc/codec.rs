//! The gRPC codec of the services that move blobs, and an answer stream that does not copy them.
//!
//! Two differences to the codec of generated services: a request that does not decode is the client's
//! fault (`INVALID_ARGUMENT`, which nobody tries again), and [`data_stream`] hands the pieces of a
//! blob to HTTP/2 as they are, where the ordinary encoder copies each into a buffer of its own.

use std::fmt::Display;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::Stream;
use http::header::CONTENT_TYPE;
use http_body::Frame;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{
    Codec, DecodeBuf, Decoder, EncodeBody, EncodeBuf, Encoder, SingleMessageCompressionOverride,
};
use tonic::metadata::GRPC_CONTENT_TYPE;

/// Field number of `data` in `google.bytestream.ReadResponse`.
const DATA_TAG: u32 = 10;

/// Bytes in front of each gRPC message: a compression flag and the length.
const PREFIX: usize = 5;

/// Pieces shorter than this are copied behind their header, so that they make one frame.
const SMALL_PIECE: usize = 16 * 1024;

/// Takes and gives messages as they stand on the wire, for services that read and write them by
/// themselves.
pub(super) struct EncodedCodec;

/// Encodes `E`, decodes `D`.
pub(super) struct BlobCodec<E, D>(PhantomData<(E, D)>);

/// Encodes `E` into a buffer of the right size.
pub(super) struct BlobEncoder<E>(PhantomData<E>);

/// Decodes `D`; its `Bytes` fields share the memory of the received message.
pub(super) struct BlobDecoder<D>(PhantomData<D>);

/// Body of a `ReadResponse` stream.
struct DataStream<S> {
    pieces: S,
    /// Data whose header has gone out.
    queued: Option<Bytes>,
    ended: bool,
}

// === impl BlobCodec ===

impl<E, D> Default for BlobCodec<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E, D> Codec for BlobCodec<E, D>
where
    E: Message + 'static,
    D: Message + Default + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = BlobEncoder<E>;
    type Decoder = BlobDecoder<D>;

    fn encoder(&mut self) -> Self::Encoder {
        BlobEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        BlobDecoder::default()
    }
}

impl<E: Message> Encoder for BlobEncoder<E> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(item.encoded_len());
        item.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl<D> Default for BlobDecoder<D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<D: Message + Default> Decoder for BlobDecoder<D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        D::decode(buffer).map(Some).map_err(undecodable)
    }
}

/// The answer to a request that does not decode.
pub(super) fn undecodable(error: impl Display) -> Status {
    Status::invalid_argument(format!("the request does not decode: {error}"))
}

// === impl EncodedCodec ===

impl Codec for EncodedCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for EncodedCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for EncodedCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// The answer of a call that gives one message.
pub(super) fn single<M: Message + 'static>(message: M) -> http::Response<Body> {
    let messages = tokio_stream::once(Ok(message));
    let compression = SingleMessageCompressionOverride::default();
    let body = EncodeBody::new_server(BlobEncoder(PhantomData), messages, None, compression, None);
    answer(Body::new(body))
}

fn answer(body: Body) -> http::Response<Body> {
    let mut response = http::Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

// === impl DataStream ===

/// The answer to `google.bytestream.ByteStream/Read`: each piece becomes one `ReadResponse`.
pub(super) fn data_stream<S>(pieces: S) -> http::Response<Body>
where
    S: Stream<Item = Result<Bytes, Status>> + Send + Unpin + 'static,
{
    answer(Body::new(DataStream { pieces, queued: None, ended: false }))
}

impl<S> http_body::Body for DataStream<S>
where
    S: Stream<Item = Result<Bytes, Status>> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Some(data) = this.queued.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        match ready!(Pin::new(&mut this.pieces).poll_next(context)) {
            Some(Ok(piece)) => {
                let (head, rest) = frame_piece(piece);
                this.queued = rest;
                Poll::Ready(Some(Ok(Frame::data(head))))
            }
            Some(Err(status)) => Poll::Ready(Some(this.end(&status))),
            None => Poll::Ready(Some(this.end(&Status::ok("")))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }
}

impl<S> DataStream<S> {
    fn end(&mut self, status: &Status) -> Result<Frame<Bytes>, Status> {
        self.ended = true;
        let mut trailers = http::HeaderMap::new();
        status.add_header(&mut trailers)?;
        Ok(Frame::trailers(trailers))
    }
}

/// The bytes that open a message with `piece`, and what is to follow them.
fn frame_piece(piece: Bytes) -> (Bytes, Option<Bytes>) {
    let length = piece.len() as u64;
    let message = key_len(DATA_TAG) + encoded_len_varint(length) + piece.len();
    let mut head =
        BytesMut::with_capacity(PREFIX + 16 + if piece.len() < SMALL_PIECE { piece.len() } else { 0 });
    head.put_u8(0);
    head.put_u32(message as u32);
    encode_key(DATA_TAG, WireType::LengthDelimited, &mut head);
    encode_varint(length, &mut head);
    if piece.len() < SMALL_PIECE {
        head.put_slice(&piece);
        return (head.freeze(), None);
    }
    (head.freeze(), Some(piece))
}

#[cfg(test)]
mod tests {
    use farmhand_proto::raw::ReadResponse;

    use super::*;

    #[test]
    fn framed_pieces_are_read_responses() {
        for len in [1, 127, 128, SMALL_PIECE - 1, SMALL_PIECE, 1 << 20] {
            let piece = Bytes::from(vec![9; len]);
            let (head, rest) = frame_piece(piece.clone());
            let all = [&head[..], rest.as_deref().unwrap_or_default()].concat();
            assert_eq!(all[0], 0);
            assert_eq!(u32::from_be_bytes(all[1..5].try_into().unwrap()) as usize, all.len() - PREFIX);
            assert_eq!(all[PREFIX..], ReadResponse { data: piece }.encode_to_vec());
        }
    }
}
