//! A heartbeat for the threads that run tasks.
//!
//! A thread that runs a task may stand still: a short write into the page cache waits without end on
//! a disk that is frozen or gone. The others could go on, but if they sleep and it was the one that
//! looked after sockets and timers, nobody wakes them: tokio hands that duty on only when a thread
//! goes to sleep. So a task that does nothing comes along now and then. A sleeper wakes for it, finds
//! nothing else to do, and takes up the duty before it sleeps again.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use tokio::runtime::{Handle, Runtime};

/// How long nobody may look after sockets and timers.
const PERIOD: Duration = Duration::from_millis(100);

/// Threads that run tasks, at least: one may stand still.
const THREADS: usize = 2;

/// Beats until it is dropped.
#[derive(Debug)]
pub struct Heartbeat {
    _beating: Sender<()>,
}

impl Heartbeat {
    /// Begins to beat for the threads of `runtime`.
    ///
    /// # Errors
    ///
    /// When no thread can be started.
    pub fn start(runtime: Handle) -> io::Result<Self> {
        let (beating, ended) = mpsc::channel();
        let beat = move || {
            while ended.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                runtime.spawn(std::future::ready(()));
            }
        };
        std::thread::Builder::new().name("heartbeat".to_owned()).spawn(beat)?;
        Ok(Self { _beating: beating })
    }
}

/// A runtime for the tasks of a node, of a thread for each processor.
///
/// # Errors
///
/// When its threads cannot be started.
pub fn runtime() -> io::Result<Runtime> {
    let threads = std::thread::available_parallelism().map_or(THREADS, |found| found.get().max(THREADS));
    tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing is as slow as that, so it is no measure of speed.
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn timers_go_on_beside_a_thread_that_stands_still() {
        let runtime = runtime().unwrap();
        let _heartbeat = Heartbeat::start(runtime.handle().clone()).unwrap();
        let (blocked, is_blocked) = mpsc::channel();
        let (free, wait) = mpsc::channel::<()>();
        let (tick, ticked) = mpsc::channel();
        runtime.spawn(async move {
            // The thread that looked after this timer stands still at once.
            tokio::time::sleep(Duration::from_millis(50)).await;
            blocked.send(()).unwrap();
            wait.recv().unwrap_err();
        });
        runtime.spawn(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            tick.send(()).unwrap();
        });
        is_blocked.recv().unwrap();
        let went_on = ticked.recv_timeout(PATIENCE);
        drop(free);
        went_on.unwrap();
    }
}
