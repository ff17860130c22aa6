//! [`Drain`]: reads what clients still send after they have their answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::incoming::Incoming;
use crate::tasks::Tasks;

/// Streams drained at once; beyond that, clients see their stream reset after the answer.
const STREAMS: usize = 1024;

/// A stream that is silent for so long is let go.
const SILENCE: Duration = Duration::from_secs(30);

/// Longest time one stream is drained.
const LONGEST: Duration = Duration::from_secs(600);

/// Bytes read beyond the size of the blob: compressed data and what was under way may be larger.
const SLACK: u64 = 64 * 1024 * 1024;

/// Reads rests of uploads and throws them away.
pub(super) struct Drain {
    tasks: Tasks,
    streams: Arc<Semaphore>,
}

impl Drain {
    pub(super) fn new(tasks: Tasks) -> Self {
        Self { tasks, streams: Arc::new(Semaphore::new(STREAMS)) }
    }

    /// Reads `stream`, which carries a blob of `size` bytes, to its end in the background.
    pub(super) fn rest_of(&self, stream: Incoming, size: u64) {
        let Ok(permit) = Arc::clone(&self.streams).try_acquire_owned() else { return };
        let token = self.tasks.token().clone();
        self.tasks.spawn("drain upload", async move {
            let _permit = permit;
            let work = timeout(LONGEST, discard(stream, size.saturating_add(SLACK)));
            token.run_until_cancelled(work).await
        });
    }
}

async fn discard(mut stream: Incoming, limit: u64) {
    let mut seen = 0;
    while seen <= limit {
        match timeout(SILENCE, stream.discard()).await {
            Ok(Ok(Some(bytes))) => seen += bytes as u64,
            _ => return,
        }
    }
}
