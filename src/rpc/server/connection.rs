//! [`Connection`]: a socket that ends when its client is too slow to begin, or when the [`Ledger`] says so.
//!
//! [`Ledger`]: super::ledger::Ledger

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::ledger::Account;

/// Bytes a client has sent once it has begun: the preface of HTTP/2 and the head of its first frame. No
/// request of HTTP/1 is much shorter.
const BEGINNING: usize = 24 + 9;

/// A connection of a client.
pub(super) struct Connection<S> {
    socket: S,
    account: Account,
    /// Until the client has begun.
    begins: Option<Begins>,
}

struct Begins {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

// === impl Connection ===

impl<S> Connection<S> {
    /// Serves `socket` if the client begins within `limit`.
    pub(super) fn new(socket: S, account: Account, limit: Duration) -> Self {
        let begins = Begins { missing: BEGINNING, deadline: Box::pin(sleep(limit)) };
        Self { socket, account, begins: Some(begins) }
    }

    /// An error once the connection is to end.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if self.account.is_closing(context.waker()) {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let begins = self.begins.as_mut();
        if begins.is_some_and(|begins| begins.deadline.as_mut().poll(context).is_ready()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.socket).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        self.begins.take_if(|begins| {
            begins.missing = begins.missing.saturating_sub(read);
            begins.missing == 0
        });
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.socket).poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.socket).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;
    use crate::rpc::server::ledger::Ledger;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_begin_is_let_go() {
        let ledger = Ledger::new(1);
        let (mut client, server) = duplex(100);
        let mut connection = Connection::new(server, ledger.enter(None), LIMIT);
        client.write_all(&[7; BEGINNING - 1]).await.unwrap();
        let mut buffer = [0; 100];
        assert_eq!(connection.read(&mut buffer).await.unwrap(), BEGINNING - 1);
        let error = connection.read(&mut buffer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_begun_may_take_its_time_until_it_is_closed() {
        let ledger = Ledger::new(1);
        let (mut client, server) = duplex(100);
        let mut connection = Connection::new(server, ledger.enter(None), LIMIT);
        let mut buffer = [0; 100];
        client.write_all(&[7; BEGINNING]).await.unwrap();
        assert_eq!(connection.read(&mut buffer).await.unwrap(), BEGINNING);
        let later = async {
            tokio::time::sleep(2 * LIMIT).await;
            client.write_all(b"more").await.unwrap();
        };
        let (read, ()) = tokio::join!(connection.read(&mut buffer), later);
        assert_eq!(read.unwrap(), 4);
        let close = async {
            tokio::time::sleep(LIMIT).await;
            assert!(ledger.close_quietest());
        };
        let (read, ()) = tokio::join!(connection.read(&mut buffer), close);
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert!(connection.write(b"answer").await.is_err());
    }
}
