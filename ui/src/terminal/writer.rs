//! The thread that writes to the terminal, so that nothing else ever waits for it.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

/// How long the end waits for a terminal that takes nothing.
const PATIENCE: Duration = Duration::from_millis(500);

/// Writes to the terminal, elsewhere.
pub(super) struct Writer {
    frames: Sender<Frame>,
    state: Arc<State>,
}

enum Frame {
    Bytes(Vec<u8>),
    /// Tell when everything before was written.
    Mark(Sender<()>),
}

#[derive(Default)]
struct State {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Default)]
struct Waiting {
    /// Frames not written yet.
    frames: usize,
    /// The terminal is gone.
    failed: Option<io::ErrorKind>,
}

// === impl Writer ===

impl Writer {
    /// Starts the thread. It ends when this is dropped.
    pub(super) fn start() -> io::Result<Self> {
        let (frames, queue) = channel();
        let state = Arc::new(State::default());
        let shared = state.clone();
        std::thread::Builder::new()
            .name("farmhand-screen".to_owned())
            .spawn(move || write_all(&queue, &shared, &mut io::stdout()))?;
        Ok(Self { frames, state })
    }

    /// Hands bytes over. A caller that asked [`is_idle`](Self::is_idle) before keeps the queue short.
    pub(super) fn write(&self, bytes: Vec<u8>) {
        self.state.update(|waiting| waiting.frames += 1);
        // The thread outlives the queue; when it died, the terminal is gone, and `idle` tells.
        let _ = self.frames.send(Frame::Bytes(bytes));
    }

    /// Whether everything was written.
    pub(super) fn is_idle(&self) -> bool {
        self.state.look().is_ok_and(|frames| frames == 0)
    }

    /// Waits until everything was written.
    pub(super) async fn idle(&self) -> io::Result<()> {
        loop {
            let changed = self.state.changed.notified();
            if self.state.look()? == 0 {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Waits a while, without yielding, until everything was written.
    pub(super) fn flush(&self) {
        let (done, wait) = channel();
        if self.frames.send(Frame::Mark(done)).is_ok() {
            let _ = wait.recv_timeout(PATIENCE);
        }
    }
}

// === impl State ===

impl State {
    fn update(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
    }

    fn look(&self) -> io::Result<usize> {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        match waiting.failed {
            Some(kind) => Err(kind.into()),
            None => Ok(waiting.frames),
        }
    }
}

fn write_all(queue: &Receiver<Frame>, state: &State, out: &mut impl Write) {
    while let Ok(frame) = queue.recv() {
        match frame {
            Frame::Bytes(bytes) => {
                let result = out.write_all(&bytes).and_then(|()| out.flush());
                state.update(|waiting| {
                    waiting.frames = waiting.frames.saturating_sub(1);
                    waiting.failed = waiting.failed.or(result.err().map(|error| error.kind()));
                });
            }
            Frame::Mark(done) => drop(done.send(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A terminal that is gone after some writes.
    struct Going(usize);

    impl Write for Going {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            match self.0.checked_sub(1) {
                Some(left) => {
                    self.0 = left;
                    Ok(bytes.len())
                }
                None => Err(io::ErrorKind::BrokenPipe.into()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_terminal_that_is_gone_is_noticed() {
        let (frames, queue) = channel();
        let writer = Writer { frames, state: Arc::default() };
        writer.write(b"one".to_vec());
        assert!(!writer.is_idle());
        writer.write(b"two".to_vec());
        let state = writer.state.clone();
        let thread = std::thread::spawn(move || write_all(&queue, &state, &mut Going(1)));
        let error = loop {
            match writer.idle().await {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        drop(writer);
        thread.join().unwrap();
    }
}
