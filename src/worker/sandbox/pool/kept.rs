//! [`Kept`]: a command that lives on, with the spawner it has to itself.
//!
//! The spawner is its own from the start to the end: the slots of the pool do not count it, and it does not go
//! back there, so nothing of the command is ever near another one.

use std::io;

use async_trait::async_trait;
use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncWriteExt, Interest};

use super::{Failure, Reply, Request, Spawner, read_reply, refusal};
use crate::worker::sandbox::wire::MAX_MESSAGE;
use crate::worker::{Exit, Kept, Overlay, PreparedCommand, RunError, Usage};

/// A command that runs, or has ended without anybody having looked.
struct KeptCommand {
    spawner: Spawner,
}

/// Has `spawner` start `command`; returns when it runs.
pub(super) async fn start(mut spawner: Spawner, command: PreparedCommand) -> Result<Box<dyn Kept>, RunError> {
    let frame = Request::run_frame(&command);
    if frame.len() > MAX_MESSAGE {
        spawner.end().await;
        return Err(super::program(&command, io::Error::from_raw_os_error(libc::E2BIG)));
    }
    let ordered = spawner.order(&frame, &command).await;
    let reply = match ordered {
        Ok(()) => read_reply(&mut spawner.socket).await,
        Err(error) => Err(error),
    };
    match reply {
        Ok(Reply::Settled) => Ok(Box::new(KeptCommand { spawner })),
        Ok(Reply::Failed(failure)) => {
            spawner.end().await;
            Err(refusal(failure, &command))
        }
        _ => {
            spawner.end().await;
            Err(RunError::SpawnerLost)
        }
    }
}

impl KeptCommand {
    /// Asks the spawner for something. Another answer than the one to that means that the command is gone.
    async fn ask(&mut self, frame: &[u8]) -> Result<Reply, RunError> {
        let socket = &mut self.spawner.socket;
        socket.write_all(frame).await.map_err(|_| RunError::SpawnerLost)?;
        match read_reply(socket).await {
            Ok(Reply::Failed(Failure::Setup { step, errno })) => Err(super::setup(step, errno.into())),
            Ok(reply @ (Reply::Settled | Reply::Resting(_))) => Ok(reply),
            _ => Err(RunError::SpawnerLost),
        }
    }
}

#[async_trait]
impl Kept for KeptCommand {
    async fn rest(&mut self) -> Result<Usage, RunError> {
        match self.ask(&Request::rest_frame()).await? {
            Reply::Resting(usage) => Ok(usage),
            _ => Err(RunError::SpawnerLost),
        }
    }

    async fn change(&mut self, overlay: Overlay) -> Result<(), RunError> {
        match self.ask(&Request::change_frame(&overlay)).await? {
            Reply::Settled => Ok(()),
            _ => Err(RunError::SpawnerLost),
        }
    }

    async fn stand_still(&mut self, still: bool) -> Result<(), RunError> {
        let frame = Request::stand_still_frame(still);
        self.spawner.socket.write_all(&frame).await.map_err(|_| RunError::SpawnerLost)
    }

    async fn stirs(&self) {
        let look = || {
            let mut byte = [0_u8; 1];
            recv(&self.spawner.socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
            Ok(())
        };
        // An error is news too.
        let _ = self.spawner.socket.async_io(Interest::READABLE, look).await;
    }

    fn is_alive(&self) -> bool {
        self.spawner.is_alive()
    }

    async fn end(mut self: Box<Self>) -> Option<Exit> {
        let socket = &mut self.spawner.socket;
        let killed = socket.write_all(&Request::kill_frame()).await;
        let exit = match killed {
            Ok(()) => read_reply(socket).await.ok(),
            Err(_) => None,
        };
        self.spawner.end().await;
        match exit {
            Some(Reply::Ended { exit, .. }) => Some(exit),
            _ => None,
        }
    }
}
