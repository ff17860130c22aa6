//! [`Clock`]: the time of a store, by which leases run and the longest unused is found.
//!
//! It begins as the time of day when the store is made, and passes only while the store is open,
//! at the pace of the monotonic clock. So no lease ends early because somebody sets the clock of the
//! machine, and nothing that was used in the future, as it were, stays for ever. It is not written
//! anywhere: the latest use of any entry is where it goes on.

use super::Host;

/// The time of a store.
pub(super) struct Clock {
    host: Host,
    /// Seconds this clock is ahead of that of the host.
    ahead: i64,
}

impl Clock {
    /// Goes on from `latest`, the latest time any entry knows.
    pub(super) fn resume(host: Host, latest: Option<u32>) -> Self {
        let ahead = latest.map_or(0, |latest| i64::from(latest) - i64::from(host.now()));
        Self { host, ahead }
    }

    /// Seconds since 1970, as far as the clock of the host was right when the store was made.
    pub(super) fn now(&self) -> u32 {
        u32::try_from((i64::from(self.host.now()) + self.ahead).max(0)).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, SystemTime};

    use super::*;

    const YEAR: u64 = 365 * 24 * 3600;

    #[test]
    fn goes_on_from_the_latest_use_whatever_the_machine_says() {
        let wall = Arc::new(AtomicU64::new(50 * YEAR));
        let clock = |latest| {
            let wall = wall.clone();
            let now = move || SystemTime::UNIX_EPOCH + Duration::from_secs(wall.load(Ordering::Relaxed));
            Clock::resume(Host::new("boot", now), latest)
        };
        assert_eq!(u64::from(clock(None).now()), 50 * YEAR, "a new store");
        for jump in [49 * YEAR, 50 * YEAR, 51 * YEAR] {
            wall.store(jump, Ordering::Relaxed);
            let clock = clock(Some(1000));
            assert_eq!(clock.now(), 1000);
            wall.fetch_add(7, Ordering::Relaxed);
            assert_eq!(clock.now(), 1007);
        }
    }
}
