//! [`Sampler`]: which answers of the cache are worth a record, when there are thousands a second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

/// Answers of one second that are all recorded.
const ALL: u64 = 500;

/// Of those beyond, one in so many is.
const ONE_IN: u64 = 32;

/// Counts the answers of the present second. Costs one atomic exchange.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    /// The second, above the count.
    state: AtomicU64,
}

impl Sampler {
    /// Whether the answer given at `now` is to be recorded.
    pub(super) fn takes(&self, now: SystemTime) -> bool {
        let second = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() << 32;
        let next = |state: u64| if state >> 32 == second >> 32 { state + 1 } else { second };
        let before = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| Some(next(state)));
        let count = before.map_or(0, next) & u64::from(u32::MAX);
        count < ALL || count.is_multiple_of(ONE_IN)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_has_five_hundred_and_a_few_of_the_rest() {
        let sampler = Sampler::default();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let taken = (0..3700).filter(|_| sampler.takes(now)).count();
        assert_eq!(taken, 500 + 100);
        assert!((0..500).all(|_| sampler.takes(now + Duration::from_secs(1))));
        assert!(!sampler.takes(now + Duration::from_millis(1999)));
    }
}
