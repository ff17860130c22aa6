//! HTTP/2 by hand, for clients that do what no library does. Answers are read only where the windows for
//! sending demand it.

use std::net::SocketAddr;
use std::time::Duration;

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames, and the flags in use (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Bytes in one DATA frame.
const PIECE: usize = 16 * 1024;

/// A connection.
pub(crate) struct Wire {
    stream: TcpStream,
    next: u32,
    /// Bytes of data the node takes on this connection before it says more.
    window: u64,
}

impl Wire {
    /// Connects and says nothing.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, next: 1, window: 65_535 }
    }

    /// Connects and begins, with `window` bytes of an answer at most under way on each stream.
    pub(crate) async fn begin(address: SocketAddr, window: u32) -> Self {
        let mut wire = Self::connect(address).await;
        let setting = [&4u16.to_be_bytes()[..], &window.to_be_bytes()].concat();
        let bytes = [PREFACE, &frame(SETTINGS, 0, 0, &setting)].concat();
        wire.send(&bytes).await;
        while wire.read().await.is_some_and(|kind| kind != SETTINGS) {}
        wire.send(&frame(SETTINGS, ACK, 0, &[])).await;
        wire
    }

    /// Sends bytes as they are; false when the node has closed the connection.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Opens a call of `path` and leaves it open.
    pub(crate) async fn open(&mut self, path: &str) -> u32 {
        let id = self.id();
        self.send(&frame(HEADERS, END_HEADERS, id, &headers(path, &[]))).await;
        id
    }

    /// Makes a unary call whole. False when the node has closed the connection.
    pub(crate) async fn call(&mut self, path: &str, message: &impl Message) -> bool {
        let id = self.open(path).await;
        self.data(id, &grpc(message), true).await
    }

    /// Sends the beginning of a header block and `pieces` more, none of them the last.
    pub(crate) async fn endless_headers(&mut self, path: &str, piece: &[u8], pieces: usize) -> bool {
        let id = self.id();
        let mut sent = self.send(&frame(HEADERS, 0, id, &headers(path, &[]))).await;
        for _ in 0..pieces {
            sent = sent && self.send(&frame(CONTINUATION, 0, id, piece)).await;
        }
        sent
    }

    /// Opens a call with headers of its own.
    pub(crate) async fn open_with(&mut self, path: &str, more: &[(&str, &str)]) -> bool {
        let block = headers(path, more);
        let id = self.id();
        let mut pieces = block.chunks(PIECE).peekable();
        let mut kind = HEADERS;
        let mut sent = true;
        while let Some(piece) = pieces.next() {
            let flags = if pieces.peek().is_none() { END_HEADERS } else { 0 };
            sent = sent && self.send(&frame(kind, flags, id, piece)).await;
            kind = CONTINUATION;
        }
        sent
    }

    /// Sends bytes of a call. False when the node has closed the connection.
    pub(crate) async fn data(&mut self, id: u32, bytes: &[u8], is_last: bool) -> bool {
        while self.window < bytes.len() as u64 {
            if self.read().await.is_none() {
                return false;
            }
        }
        self.window -= bytes.len() as u64;
        let mut pieces = bytes.chunks(PIECE).peekable();
        let mut all = Vec::with_capacity(bytes.len() + 9 * pieces.len());
        while let Some(piece) = pieces.next() {
            let flags = if is_last && pieces.peek().is_none() { END_STREAM } else { 0 };
            all.extend(frame(DATA, flags, id, piece));
        }
        self.send(&all).await
    }

    /// Gives up a call.
    pub(crate) async fn reset(&mut self, id: u32) -> bool {
        self.send(&frame(RST_STREAM, 0, id, &8u32.to_be_bytes())).await
    }

    /// Reads and throws away until the node closes the connection; false if it has not within a minute.
    pub(crate) async fn is_closed(&mut self) -> bool {
        let mut buffer = vec![0; 1 << 16];
        let to_the_end = async { while matches!(self.stream.read(&mut buffer).await, Ok(1..)) {} };
        tokio::time::timeout(Duration::from_secs(60), to_the_end).await.is_ok()
    }

    /// Reads a frame: its kind, or `None` when the node has closed the connection or says nothing.
    async fn read(&mut self) -> Option<u8> {
        let mut head = [0; 9];
        let limit = Duration::from_secs(20);
        let read = tokio::time::timeout(limit, self.stream.read_exact(&mut head)).await;
        read.ok()?.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        if head[3] == WINDOW_UPDATE && head[5..] == [0; 4] {
            self.window += u64::from(u32::from_be_bytes(payload.try_into().ok()?));
        }
        Some(head[3])
    }

    fn id(&mut self) -> u32 {
        let id = self.next;
        self.next += 2;
        id
    }
}

/// The bytes of a message, as gRPC has them.
pub(crate) fn grpc(message: &impl Message) -> Vec<u8> {
    let data = message.encode_to_vec();
    [&[0][..], &(data.len() as u32).to_be_bytes(), &data].concat()
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block, every field as a literal that is not indexed (RFC 7541, section 6.2.2).
fn headers(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let usual = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "node"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut block = Vec::new();
    for (name, value) in usual.iter().chain(more) {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// An integer with a prefix of seven bits (RFC 7541, section 5.1).
fn integer(block: &mut Vec<u8>, value: usize) {
    if value < 127 {
        block.push(value as u8);
        return;
    }
    block.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        block.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    block.push(rest as u8);
}
