//! How far acknowledged writes may run ahead of the disk.
//!
//! Epochs are closed one after the other. While one is being synced, writes go into the next; if the
//! disk syncs more slowly than clients write, that one grows, and with it what a power cut would
//! take. So a writer waits once the open epoch has been growing for some intervals.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::SyncMode;

/// Intervals an epoch grows before its writers wait for the one before it.
const INTERVALS: u32 = 3;

/// When the open epoch began.
pub(super) struct EpochAge(Mutex<Instant>);

impl EpochAge {
    /// An epoch that begins now.
    pub(super) fn now() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    /// Another one begins.
    pub(super) fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// How long ago that was.
    pub(super) fn elapsed(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }
}

/// The epoch that must be closed before a write in `epoch` is acknowledged; `None` if it need not
/// wait. Pure.
pub(super) fn awaited(sync: SyncMode, epoch: u64, open_for: Duration, interval: Duration) -> Option<u64> {
    match sync {
        SyncMode::Always => Some(epoch),
        SyncMode::Epoch if open_for > interval * INTERVALS => Some(epoch.saturating_sub(1)),
        SyncMode::Epoch => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_wait_only_for_a_disk_that_lags_behind() {
        let interval = Duration::from_secs(1);
        let awaited = |sync, open_for| awaited(sync, 7, Duration::from_millis(open_for), interval);
        assert_eq!(awaited(SyncMode::Always, 0), Some(7));
        assert_eq!(awaited(SyncMode::Epoch, 0), None);
        assert_eq!(awaited(SyncMode::Epoch, 3000), None);
        assert_eq!(awaited(SyncMode::Epoch, 3001), Some(6), "the epoch before, not its own");
    }

    #[tokio::test(start_paused = true)]
    async fn an_epoch_ages_from_its_begin() {
        let opened = EpochAge::now();
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(opened.elapsed(), Duration::from_secs(5));
        opened.begin();
        assert_eq!(opened.elapsed(), Duration::ZERO);
    }
}
