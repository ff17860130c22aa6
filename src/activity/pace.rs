//! [`Pace`]: so many things a second, and not one more.

use std::time::Duration;

use tokio::time::Instant;

/// Lets a number of things through in each second.
#[derive(Debug)]
pub(super) struct Pace {
    each_second: u32,
    since: Option<Instant>,
    left: u32,
}

impl Pace {
    /// Lets `each_second` through.
    pub(super) fn new(each_second: u32) -> Self {
        Self { each_second, since: None, left: 0 }
    }

    /// Whether one more may go at `now`.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let is_over = |since: Instant| now.saturating_duration_since(since) >= Duration::from_secs(1);
        if self.since.is_none_or(is_over) {
            (self.since, self.left) = (Some(now), self.each_second);
        }
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_too_much_in_one_second_waits_for_the_next() {
        let mut pace = Pace::new(2);
        let start = Instant::now();
        let mut take = |milliseconds| pace.take(start + Duration::from_millis(milliseconds));
        assert_eq!(
            [take(0), take(500), take(999), take(1000), take(1001), take(1002)],
            [true, true, false, true, true, false]
        );
    }
}
