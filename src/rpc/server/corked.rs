//! [`Corked`]: a socket whose small writes go out together.
//!
//! HTTP/2 hands a connection its frames one by one and asks for each to be flushed. A write to a socket
//! costs more than many an answer, and wakes the client up each time. So what is written stays here
//! until the connection has no more to say for now, and its task calls [`poll_uncork`](Corked::poll_uncork).
//! Large pieces go straight on.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are kept back at most.
const KEPT: usize = 16 * 1024;

/// Bytes of memory that stay with a connection that has nothing to say.
const IDLE: usize = 4 * 1024;

/// Pieces written in one call, besides what was kept back.
const PIECES: usize = 63;

/// The socket. Clones are the same.
#[derive(Debug)]
pub(super) struct Corked<S>(Arc<Mutex<Inner<S>>>);

#[derive(Debug)]
struct Inner<S> {
    socket: S,
    kept: Vec<u8>,
}

impl<S> Clone for Corked<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<S> Corked<S> {
    pub(super) fn new(socket: S) -> Self {
        Self(Arc::new(Mutex::new(Inner { socket, kept: Vec::new() })))
    }

    /// Never waits: both clones are used by the same task.
    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncWrite + Unpin> Corked<S> {
    /// Writes what was kept back. While the socket takes no more, this has to be called again when the
    /// task is woken.
    pub(super) fn poll_uncork(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        ready!(inner.poll_empty(context))?;
        if inner.kept.capacity() > IDLE {
            inner.kept = Vec::new();
        }
        Pin::new(&mut inner.socket).poll_flush(context)
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    /// Writes all that was kept back.
    fn poll_empty(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.kept.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(context, &self.kept))?;
            self.take_kept(written)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, context: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        if self.kept.len() + len <= KEPT {
            self.kept.reserve(len);
            pieces.iter().for_each(|piece| self.kept.extend_from_slice(piece));
            return Poll::Ready(Ok(len));
        }
        while !self.kept.is_empty() {
            let written = {
                let mut all = [IoSlice::new(&[]); PIECES + 1];
                all[0] = IoSlice::new(&self.kept);
                let count = pieces.len().min(PIECES);
                all[1..=count].copy_from_slice(&pieces[..count]);
                ready!(Pin::new(&mut self.socket).poll_write_vectored(context, &all[..=count]))?
            };
            let of_pieces = written.saturating_sub(self.kept.len());
            self.take_kept(written)?;
            if of_pieces > 0 {
                return Poll::Ready(Ok(of_pieces));
            }
        }
        Pin::new(&mut self.socket).poll_write_vectored(context, pieces)
    }

    /// Forgets the first `written` bytes of what was kept back, or all of it.
    fn take_kept(&mut self, written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.kept.drain(..written.min(self.kept.len()));
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Corked<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.lock().socket).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Corked<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.lock().poll_write(context, &[IoSlice::new(data)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.lock().poll_write(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.lock().socket.is_write_vectored()
    }

    /// Nothing: the task of the connection uncorks.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.lock();
        ready!(inner.poll_empty(context))?;
        Pin::new(&mut inner.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn small_writes_wait_for_the_cork() {
        let (mut client, server) = duplex(1 << 20);
        let mut socket = Corked::new(server);
        let other = socket.clone();
        for _ in 0..10 {
            socket.write_all(b"small").await.unwrap();
            socket.flush().await.unwrap();
        }
        let mut received = [0; 100];
        let nothing = std::pin::pin!(client.read(&mut received));
        assert!(futures_util::FutureExt::now_or_never(nothing).is_none());
        poll_fn(|context| other.poll_uncork(context)).await.unwrap();
        assert_eq!(client.read(&mut received).await.unwrap(), 50);
    }

    proptest! {
        #[test]
        fn every_byte_arrives_in_order(
            writes in proptest::collection::vec((0usize..40_000, 0usize..3_000, any::<bool>()), 1..12),
            room in 1usize..50_000,
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async move {
                let (mut client, server) = duplex(room);
                let socket = Corked::new(server);
                let mut expected = Vec::new();
                for (number, (first, second, _)) in writes.iter().enumerate() {
                    expected.extend((0..first + second).map(|at| (at * 7 + number) as u8));
                }
                let write = async {
                    let mut at = 0;
                    let mut writing = socket.clone();
                    for (first, second, uncork) in writes {
                        let end = at + first + second;
                        while at < end {
                            let split = (end - at).min(first);
                            let pieces =
                                [IoSlice::new(&expected[at..at + split]), IoSlice::new(&expected[at + split..end])];
                            let write = |context: &mut Context<'_>| {
                                Pin::new(&mut writing).poll_write_vectored(context, &pieces)
                            };
                            at += poll_fn(write).await.unwrap();
                        }
                        if uncork {
                            poll_fn(|context| socket.poll_uncork(context)).await.unwrap();
                        }
                    }
                    writing.shutdown().await.unwrap();
                };
                let mut received = Vec::new();
                let read = client.read_to_end(&mut received);
                let ((), read) = tokio::join!(write, read);
                read.unwrap();
                assert!(received == expected);
            });
        }
    }
}
