//! Tasks by name: the only place that spawns, but for the connections and calls of the server.
//!
//! Every background task has a name in logs and ends when the node ends: [`Tasks::stop`] fires the
//! token that all of them were given and waits for them.

mod heartbeat;

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

pub use heartbeat::{Heartbeat, runtime};

/// The tasks of a node.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl Tasks {
    /// Starts `future` under `name`. It should end soon after [`token`](Self::token) fires.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        self.tracker.spawn(future.instrument(tracing::info_span!("task", name)))
    }

    /// Runs `work` on a thread that may block.
    pub fn spawn_blocking<F, T>(&self, work: F) -> JoinHandle<T>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        self.tracker.spawn_blocking(work)
    }

    /// Fires when the node is to end.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Tells all tasks to end and waits for them.
    pub async fn stop(&self) {
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Waits until all tasks have ended by themselves.
    #[cfg(test)]
    pub async fn idle(&self) {
        self.tracker.close();
        self.tracker.wait().await;
        self.tracker.reopen();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stop_waits_for_all() {
        let tasks = Tasks::default();
        let token = tasks.token().clone();
        let task = tasks.spawn("waits", async move {
            token.cancelled().await;
            7
        });
        tasks.stop().await;
        assert!(task.is_finished());
        assert_eq!(task.await.unwrap(), 7);
    }
}
