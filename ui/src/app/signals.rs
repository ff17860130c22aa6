//! Signals: those that end the program, and those of the shell's job control.

use std::io;

use rustix::process::{self, Signal as Number};
use tokio::signal::unix::{self, SignalKind, signal};

/// A signal that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// The program is to end; the number of the signal.
    End(i32),
    /// The shell wants it stopped.
    Stop,
    /// It goes on after it was stopped.
    Continue,
}

/// Signals that are listened for.
pub(super) struct Signals {
    terminate: unix::Signal,
    hangup: unix::Signal,
    interrupt: unix::Signal,
    stop: unix::Signal,
    goes_on: unix::Signal,
}

// === impl Signals ===

impl Signals {
    /// Listens from now on.
    pub(super) fn new() -> io::Result<Self> {
        let kind = |number: Number| signal(SignalKind::from_raw(number.as_raw()));
        Ok(Self {
            terminate: kind(Number::TERM)?,
            hangup: kind(Number::HUP)?,
            interrupt: kind(Number::INT)?,
            stop: kind(Number::TSTP)?,
            goes_on: kind(Number::CONT)?,
        })
    }

    /// The next one.
    pub(super) async fn next(&mut self) -> Signal {
        let end = |number: Number| Signal::End(number.as_raw());
        tokio::select! {
            _ = self.terminate.recv() => end(Number::TERM),
            _ = self.hangup.recv() => end(Number::HUP),
            _ = self.interrupt.recv() => end(Number::INT),
            _ = self.stop.recv() => Signal::Stop,
            _ = self.goes_on.recv() => Signal::Continue,
        }
    }
}

/// Whether a shell would notice that this program stops, and could let it go on.
pub(super) fn can_stop() -> bool {
    process::getsid(None).is_ok_and(|session| session != process::getpgrp())
}

/// Stops this program and what was started with it, as the terminal's own key would; returns when it
/// goes on.
pub(super) fn stop_group() -> io::Result<()> {
    Ok(process::kill_current_process_group(Number::STOP)?)
}
