//! Messages on the wire: two bytes of length, then the message, of at most [`MOST_BYTES`].

use std::io;

use farmhand_proto::peer::{JoinMessage, join_message};
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of the longest message.
pub(super) const MOST_BYTES: usize = 4096;

/// Why there is no message.
#[derive(Debug, thiserror::Error)]
pub(super) enum FrameError {
    /// The connection is broken, or ended.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Longer than any message, or no message.
    #[error("that is no message of a newcomer or a member")]
    Garbled,
}

/// A message, and the bytes it came in.
pub(super) struct Frame {
    pub(super) message: join_message::Message,
    pub(super) bytes: Vec<u8>,
}

/// Waits for a message.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Frame, FrameError> {
    let length = usize::from(stream.read_u16().await?);
    if length > MOST_BYTES {
        return Err(FrameError::Garbled);
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    let message = parse(&bytes).ok_or(FrameError::Garbled)?;
    Ok(Frame { message, bytes })
}

/// The message in these bytes.
pub(super) fn parse(bytes: &[u8]) -> Option<join_message::Message> {
    JoinMessage::decode(bytes).ok()?.message
}

/// Sends a message; the bytes it went in.
pub(super) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    message: join_message::Message,
) -> io::Result<Vec<u8>> {
    let bytes = JoinMessage { message: Some(message) }.encode_to_vec();
    let length = u16::try_from(bytes.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(2 + bytes.len());
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(&bytes);
    stream.write_all(&frame).await?;
    stream.flush().await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use farmhand_proto::peer::JoinProof;

    use super::*;

    async fn read_all(mut bytes: &[u8]) -> Result<Frame, FrameError> {
        read(&mut bytes).await
    }

    #[tokio::test]
    async fn a_message_comes_as_it_was_sent() {
        let message = join_message::Message::Proof(JoinProof { mac: vec![7; 32] });
        let mut wire = Vec::new();
        let sent = write(&mut wire, message.clone()).await.unwrap();
        let frame = read_all(&wire).await.unwrap();
        assert_eq!((frame.message, frame.bytes), (message, sent));
        for cut in 0..wire.len() {
            assert!(matches!(read_all(&wire[..cut]).await, Err(FrameError::Io(_))), "{cut}");
        }
    }

    #[tokio::test]
    async fn what_is_too_long_is_refused_before_it_came() {
        let mut wire = (MOST_BYTES as u16 + 1).to_be_bytes().to_vec();
        assert!(matches!(read_all(&wire).await, Err(FrameError::Garbled)));
        wire.extend_from_slice(&[0; 8]);
        assert!(matches!(read_all(&wire).await, Err(FrameError::Garbled)));
        assert!(matches!(read_all(b"GET / HTTP/1.1\r\n\r\n").await, Err(FrameError::Garbled)));
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        for body in [&[][..], &[0xff; 9], &[0x3a, 0x00]] {
            let mut wire = (body.len() as u16).to_be_bytes().to_vec();
            wire.extend_from_slice(body);
            assert!(matches!(read_all(&wire).await, Err(FrameError::Garbled)), "{body:?}");
        }
    }
}
