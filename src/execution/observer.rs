//! [`Observer`]: who wants to know what becomes of operations. Nothing here depends on him.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::operations::Operation;

/// Is told of operations where they change. The calls are made on the way of an action: they return
/// at once, whatever happens.
pub trait Observer: Send + Sync + 'static {
    /// The largest number that an earlier run of the node gave to an operation.
    fn last_sequence(&self) -> u64;

    /// An operation waits to be run: the action cache had no result for it, or was not asked.
    fn missed(&self, operation: &Arc<Operation>);

    /// An operation is over, and has its number.
    fn finished(&self, operation: &Arc<Operation>);
}

/// Wants to know nothing.
pub struct Nobody;

impl Observer for Nobody {
    fn last_sequence(&self) -> u64 {
        0
    }

    fn missed(&self, _: &Arc<Operation>) {}

    fn finished(&self, _: &Arc<Operation>) {}
}

/// Numbers finished operations in the order of their ends. A number is the time in microseconds
/// since 1970, or one more than the last where that is not less: so it grows from one run of the
/// node to the next even if the last one could not be written down.
#[derive(Debug, Default)]
pub struct Sequence(AtomicU64);

impl Sequence {
    /// Goes on after `last`.
    pub fn after(last: u64) -> Self {
        Self(AtomicU64::new(last))
    }

    /// The number of what is over at `now`.
    pub fn next(&self, now: SystemTime) -> u64 {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(since.as_micros()).unwrap_or(0);
        let number = |last: u64| time.max(last.saturating_add(1));
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(number(last)))
            .map_or(time, number)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_grow_whatever_the_clock_does() {
        let sequence = Sequence::after(5_000_000);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(sequence.next(at(1)), 5_000_001);
        assert_eq!(sequence.next(at(9)), 9_000_000);
        assert_eq!(sequence.next(at(9)), 9_000_001);
        assert_eq!(sequence.next(at(0)), 9_000_002);
    }
}
