//! The connection to the node: the stream of changes, and single calls beside it.
//!
//! [`watch`] keeps a stream open, resumes it where it stopped, and tries again with growing pauses
//! when it breaks. A node that says nothing for a while counts as gone, as it promised to speak
//! every second. [`calls`] asks what a person wants to see or do. Both tell by channels of bounded
//! length, so that a slow screen slows the node's stream and nothing is heaped up.

mod calls;
mod connect;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use farmhand_proto::client::Client;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

pub(crate) use calls::Calls;
pub(crate) use connect::connect;
use watch::Pace;

use crate::message::FeedEvent;

/// Messages that wait to be applied.
const WAITING: usize = 16;

/// The stream of changes.
pub(crate) struct Feed {
    events: mpsc::Receiver<FeedEvent>,
    clients: tokio::sync::watch::Receiver<Option<Client>>,
    now: Arc<Notify>,
    // Aborts the task when dropped.
    _task: JoinSet<()>,
}

// === impl Feed ===

impl Feed {
    /// Connects to the node at `socket`, and keeps at it.
    pub(crate) fn start(socket: PathBuf) -> Self {
        Self::start_at(socket, Pace::default())
    }

    fn start_at(socket: PathBuf, pace: Pace) -> Self {
        let (send, events) = mpsc::channel(WAITING);
        let (publish, clients) = tokio::sync::watch::channel(None);
        let now = Arc::new(Notify::new());
        let mut task = JoinSet::new();
        task.spawn(watch::run(socket, send, publish, now.clone(), pace));
        Self { events, clients, now, _task: task }
    }

    /// What happened next.
    pub(crate) async fn next(&mut self) -> Option<FeedEvent> {
        self.events.recv().await
    }

    /// What happened already, if anything did.
    pub(crate) fn ready(&mut self) -> Option<FeedEvent> {
        self.events.try_recv().ok()
    }

    /// Tries to connect now and not when the pause is over.
    pub(crate) fn reconnect(&self) {
        self.now.notify_one();
    }

    /// The connection that is open, for calls.
    pub(crate) fn client(&self) -> Option<Client> {
        self.clients.borrow().clone()
    }
}

#[cfg(test)]
mod tests;
