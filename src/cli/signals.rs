//! The signals that ask a command to end, as one stream.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGTERM and SIGINT; SIGHUP too, for a command that lives in a terminal.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Option<Signal>,
}

// === impl Signals ===

impl Signals {
    /// For a service, which may outlive its terminal (`nohup`). From now on neither signal ends the process
    /// by itself.
    pub(super) fn of_service() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: None,
        })
    }

    /// For a command that has something to clean up when its terminal goes.
    pub(super) fn of_terminal() -> io::Result<Self> {
        Ok(Self { hang_up: Some(signal(SignalKind::hangup())?), ..Self::of_service()? })
    }

    /// Waits for the next of them.
    pub(super) async fn next(&mut self) {
        let hung_up = async {
            match &mut self.hang_up {
                Some(hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hung_up => {}
        }
    }
}
