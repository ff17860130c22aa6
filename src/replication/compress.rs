//! Whether it is worth it to compress what goes to a machine: where the link is slower than zstd.
//!
//! The speed of a link is that of the best transfer of the last minutes: others, a busy disk and a busy
//! machine only ever make one slower. Only what went as it is tells of it, so that the speed of zstd is
//! never taken for that of the link; when it is not known, things go as they are, and then it is.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Transfers that are remembered, and for how long.
const REMEMBERED: usize = 16;
/// See [`REMEMBERED`].
const FRESH: Duration = Duration::from_secs(120);

/// Bytes of the smallest transfer that tells of a link: of smaller ones most is waiting for a disk.
pub const TELLING: u64 = 1 << 20;

/// Bytes a second that compression saves at most: what goes over a faster link is not even looked at.
pub const MOST_SAVED: f64 = 400e6;

/// By how much compression has to be faster: it takes a processor from somebody.
const MARGIN: f64 = 1.25;

/// What compression would do to some bytes, after a look at a part of them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Bytes that were looked at, and what they came to.
    pub bytes: u64,
    /// See `bytes`.
    pub compressed: u64,
    /// Time that took.
    pub took: Duration,
}

/// Transfers to one machine, in the order of their ends.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    /// When each ended, and how many bytes went in a second.
    recent: VecDeque<(Instant, f64)>,
}

// === impl Sample ===

impl Sample {
    /// Bytes that are saved in each second of work.
    fn saved_per_second(&self) -> f64 {
        let saved = self.bytes.saturating_sub(self.compressed);
        saved as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// Whether all of it is to be compressed for a link of so many bytes a second: whether a second of work
    /// saves more than a second of the link.
    pub fn is_worth_it(&self, link: Option<f64>) -> bool {
        link.is_some_and(|link| self.saved_per_second() > MARGIN * link)
    }
}

// === impl Pace ===

impl Pace {
    /// `bytes` that went as they are took that long, until `now`.
    pub fn note(&mut self, now: Instant, bytes: u64, took: Duration) {
        if bytes < TELLING || took.is_zero() {
            return;
        }
        if self.recent.len() == REMEMBERED {
            self.recent.pop_front();
        }
        self.recent.push_back((now, bytes as f64 / took.as_secs_f64()));
    }

    /// Bytes a second over the link; `None` if that is not known, or not any more.
    pub fn bytes_per_second(&self, now: Instant) -> Option<f64> {
        let fresh = self.recent.iter().filter(|(at, _)| now.saturating_duration_since(*at) < FRESH);
        fresh.map(|(_, speed)| *speed).max_by(f64::total_cmp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// What zstd does in a second.
    fn sample(megabytes: u64, saved_percent: u64) -> Sample {
        let bytes = megabytes * 1_000_000;
        Sample { bytes, compressed: bytes / 100 * (100 - saved_percent), took: Duration::from_secs(1) }
    }

    #[test]
    fn a_link_that_is_slower_than_zstd_gets_what_is_compressed() {
        for (link, zstd, saved, is_worth_it) in [
            // Wi-Fi, a gigabit, ten of them.
            (Some(10e6), 400, 60, true),
            (Some(110e6), 400, 60, true),
            (Some(1100e6), 400, 60, false),
            // What is compressed already; a machine that has other things to do.
            (Some(10e6), 400, 2, false),
            (Some(110e6), 100, 60, false),
            (None, 400, 90, false),
        ] {
            assert_eq!(sample(zstd, saved).is_worth_it(link), is_worth_it, "{link:?} {zstd} {saved}");
        }
        let grown = Sample { bytes: 10, compressed: 20, took: Duration::ZERO };
        assert!(!grown.is_worth_it(Some(1.0)));
        assert!(!Sample { bytes: 0, compressed: 0, took: Duration::ZERO }.is_worth_it(Some(1.0)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_is_as_fast_as_its_best_transfer_of_late() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut pace = Pace::default();
        assert_eq!(pace.bytes_per_second(start), None);
        pace.note(start, TELLING - 1, second);
        pace.note(start, MIB, Duration::ZERO);
        assert_eq!(pace.bytes_per_second(start), None);
        pace.note(start, 8 * MIB, second);
        pace.note(start + 100 * second, 2 * MIB, second);
        assert_eq!(pace.bytes_per_second(start + 100 * second), Some(8.0 * MIB as f64));
        assert_eq!(pace.bytes_per_second(start + 130 * second), Some(2.0 * MIB as f64));
        assert_eq!(pace.bytes_per_second(start + 300 * second), None);
        for _ in 0..REMEMBERED {
            pace.note(start, MIB, second);
        }
        assert_eq!(pace.bytes_per_second(start), Some(MIB as f64));
    }
}
