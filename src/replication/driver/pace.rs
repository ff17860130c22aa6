//! [`Pace`]: how fast copies are made.

use std::time::Duration;

use tokio::time::Instant;

/// Seconds that are looked back.
const WINDOW: u64 = 10;

/// Bytes of copies in each of the last seconds.
#[derive(Debug)]
pub(super) struct Pace {
    start: Instant,
    /// By number of the second since the start; what is older than the window is overwritten.
    seconds: [(u64, u64); WINDOW as usize],
    last: Option<Instant>,
}

// === impl Pace ===

impl Pace {
    /// Nothing was made before `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self { start: now, seconds: Default::default(), last: None }
    }

    /// Copies of so many bytes were made.
    pub(super) fn add(&mut self, now: Instant, bytes: u64) {
        let second = self.second(now);
        let slot = &mut self.seconds[(second % WINDOW) as usize];
        let before = if slot.0 == second { slot.1 } else { 0 };
        *slot = (second, before + bytes);
        self.last = Some(now);
    }

    /// Bytes a second of late.
    pub(super) fn per_second(&self, now: Instant) -> u64 {
        let second = self.second(now);
        let late = self.seconds.iter().filter(|(at, bytes)| *bytes > 0 && at + WINDOW > second);
        let Some(first) = late.clone().map(|(at, _)| *at).min() else { return 0 };
        late.map(|(_, bytes)| bytes).sum::<u64>() / (second + 1 - first)
    }

    /// Time since the last copy was made; `None` if none was.
    pub(super) fn idle(&self, now: Instant) -> Option<Duration> {
        self.last.map(|last| now.saturating_duration_since(last))
    }

    fn second(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_of_late_is_counted_and_what_is_old_is_not() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(start);
        assert_eq!((pace.per_second(at(5)), pace.idle(at(5))), (0, None));
        pace.add(at(100), 600);
        assert_eq!(pace.per_second(at(100)), 600);
        pace.add(at(100), 200);
        pace.add(at(103), 400);
        assert_eq!(pace.per_second(at(103)), 300);
        assert_eq!(pace.per_second(at(110)), 400 / 8);
        assert_eq!((pace.per_second(at(113)), pace.idle(at(113))), (0, Some(Duration::from_secs(10))));
    }
}
