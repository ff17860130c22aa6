//! The spawner's end of the socket to the daemon: blocking, one frame at a time.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

use super::wire::{HEADER, MAX_MESSAGE, Reply, Request};

/// Descriptors that come with a frame at most.
const MAX_DESCRIPTORS: usize = 3;

/// The socket to the daemon.
pub(super) struct Channel(OwnedFd);

impl Channel {
    /// Talks over `socket`, a blocking Unix stream socket.
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Waits for a request and the descriptors that came with it. `None`: the daemon is gone, or
    /// what it sends makes no sense.
    pub(super) fn receive(&self) -> Option<(Request, Vec<OwnedFd>)> {
        let mut descriptors = Vec::new();
        let mut header = [0; HEADER];
        self.fill(&mut header, &mut descriptors).ok()?;
        let length = u32::from_le_bytes(header) as usize;
        if length > MAX_MESSAGE {
            return None;
        }
        let mut message = vec![0; length];
        self.fill(&mut message, &mut descriptors).ok()?;
        Some((Request::decode(&message).ok()?, descriptors))
    }

    /// Sends `reply`.
    pub(super) fn send(&self, reply: &Reply) -> Result<(), Errno> {
        self.send_with(reply, None)
    }

    /// Sends `reply`, and a descriptor with it.
    pub(super) fn send_with(&self, reply: &Reply, descriptor: Option<&OwnedFd>) -> Result<(), Errno> {
        let descriptors: Vec<_> = descriptor.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
        }
        let frame = reply.frame();
        let mut rest = frame.as_slice();
        while !rest.is_empty() {
            match sendmsg(&self.0, &[IoSlice::new(rest)], &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    rest = &rest[sent..];
                    ancillary.clear();
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn fill(&self, mut buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> Result<(), Errno> {
        while !buffer.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC;
            let received = match recvmsg(&self.0, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags) {
                Err(Errno::INTR) => continue,
                other => other?.bytes,
            };
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    descriptors.extend(rights);
                }
            }
            if received == 0 {
                return Err(Errno::CONNRESET);
            }
            buffer = &mut buffer[received..];
        }
        Ok(())
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn receives_what_arrives_in_pieces() {
        let (mut daemon, spawner) = UnixStream::pair().unwrap();
        let channel = Channel::new(spawner.into());
        let writer = std::thread::spawn(move || {
            for byte in Request::kill_frame() {
                daemon.write_all(&[byte]).unwrap();
            }
            daemon
        });
        let (request, descriptors) = channel.receive().unwrap();
        assert_eq!(request, Request::Kill);
        assert!(descriptors.is_empty());
        drop(writer.join().unwrap());
        assert!(channel.receive().is_none(), "the end of the daemon is the end");
    }

    #[test]
    fn nonsense_is_the_end() {
        let (mut daemon, spawner) = UnixStream::pair().unwrap();
        let channel = Channel::new(spawner.into());
        daemon.write_all(&u32::MAX.to_le_bytes()).unwrap();
        assert!(channel.receive().is_none());
        daemon.write_all(&[1, 0, 0, 0, 77]).unwrap();
        assert!(channel.receive().is_none());
    }
}
