//! [`Shelf`]: the workers that are kept, and which of them have to go. Pure.
//!
//! There are never more than `count`, at work and idle together. Of those that are idle the one that was idle for
//! longest goes first: when another is to be started, when all together have more memory than they may, and
//! when memory is short for everybody. Nobody stays idle for longer than `idle`.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How many workers are kept, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Workers, at work and idle; 0: none is ever started.
    pub count: usize,
    /// Bytes of memory that all idle ones together may have.
    pub memory: u64,
    /// How long one may be idle.
    pub idle: Duration,
}

/// Workers by key. Equal keys mean that one may do the work of the other.
#[derive(Debug)]
pub(super) struct Shelf<K, W> {
    bounds: Bounds,
    /// The one that is idle for longest first.
    idle: VecDeque<Idle<K, W>>,
    /// Workers that are taken, or about to be started.
    at_work: usize,
    is_closed: bool,
}

#[derive(Debug)]
struct Idle<K, W> {
    key: K,
    worker: W,
    memory: u64,
    since: Instant,
}

/// What there is for somebody who needs a worker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place<W> {
    /// This one.
    Warm(W),
    /// Room for a new one, as soon as this one, if any, has ended.
    Free(Option<W>),
    /// Nothing: too many are at work.
    Full,
}

impl<K: Eq, W> Shelf<K, W> {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self { bounds, idle: VecDeque::new(), at_work: 0, is_closed: false }
    }

    /// The worker of that key that was idle for the shortest time, or room for one. It counts as at work until
    /// it is put back or let go.
    pub(super) fn take(&mut self, key: &K) -> Place<W> {
        if self.is_closed {
            return Place::Full;
        }
        let warm = self.idle.iter().rposition(|idle| idle.key == *key);
        if let Some(idle) = warm.and_then(|place| self.idle.remove(place)) {
            self.at_work += 1;
            return Place::Warm(idle.worker);
        }
        if self.at_work >= self.bounds.count {
            return Place::Full;
        }
        let is_full = self.at_work + self.idle.len() >= self.bounds.count;
        let gone = if is_full { self.idle.pop_front().map(|idle| idle.worker) } else { None };
        self.at_work += 1;
        Place::Free(gone)
    }

    /// One that was at work has ended.
    pub(super) fn let_go(&mut self) {
        self.at_work = self.at_work.saturating_sub(1);
    }

    /// One that was at work is idle now. Those that have to go for it, perhaps itself.
    pub(super) fn put_back(&mut self, key: K, worker: W, memory: u64, now: Instant) -> Vec<W> {
        self.let_go();
        self.idle.push_back(Idle { key, worker, memory, since: now });
        let mut gone = Vec::new();
        while self.is_closed || self.memory() > self.bounds.memory || self.idle.len() > self.bounds.count {
            let Some(idle) = self.idle.pop_front() else { break };
            gone.push(idle.worker);
        }
        gone
    }

    /// Those that have been idle for too long.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<W> {
        let is_over = |idle: &Idle<K, W>| now.saturating_duration_since(idle.since) >= self.bounds.idle;
        let over = self.idle.iter().take_while(|idle| is_over(idle)).count();
        self.idle.drain(..over).map(|idle| idle.worker).collect()
    }

    /// The one that is idle for longest.
    pub(super) fn pop(&mut self) -> Option<W> {
        self.idle.pop_front().map(|idle| idle.worker)
    }

    /// All that are idle. From now on nobody is kept.
    pub(super) fn close(&mut self) -> Vec<W> {
        self.is_closed = true;
        self.idle.drain(..).map(|idle| idle.worker).collect()
    }

    /// How many are idle.
    pub(super) fn len(&self) -> usize {
        self.idle.len()
    }

    /// Bytes of memory of those that are idle.
    pub(super) fn memory(&self) -> u64 {
        self.idle.iter().map(|idle| idle.memory).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn shelf(count: usize, memory: u64) -> Shelf<u8, u32> {
        Shelf::new(Bounds { count, memory, idle: MINUTE })
    }

    #[test]
    fn the_one_that_was_used_last_works_again() {
        let (mut shelf, now) = (shelf(3, 100), Instant::now());
        for _ in 0..3 {
            assert_eq!(shelf.take(&b'a'), Place::Free(None));
        }
        assert_eq!(shelf.take(&b'a'), Place::Full);
        for worker in 1..=3 {
            assert!(shelf.put_back(b'a', worker, 1, now).is_empty());
        }
        assert_eq!(shelf.take(&b'a'), Place::Warm(3));
        assert_eq!(shelf.take(&b'b'), Place::Free(Some(1)), "another key has the oldest one end");
        assert_eq!(shelf.len(), 1);
    }

    #[test]
    fn memory_and_time_are_bounded() {
        let (mut shelf, now) = (shelf(8, 10), Instant::now());
        for worker in 0..4 {
            assert_eq!(shelf.take(&worker), Place::Free(None));
        }
        assert!(shelf.put_back(0, 0, 4, now).is_empty());
        assert!(shelf.put_back(1, 1, 4, now + MINUTE / 2).is_empty());
        assert_eq!(shelf.put_back(2, 2, 4, now + MINUTE / 2), [0]);
        assert_eq!(
            shelf.put_back(3, 3, 11, now + MINUTE / 2),
            [1, 2, 3],
            "one that is too large goes itself"
        );
        assert_eq!(shelf.take(&9), Place::Free(None));
        assert!(shelf.put_back(9, 9, 1, now).is_empty());
        assert!(shelf.expire(now + MINUTE / 2).is_empty());
        assert_eq!(shelf.expire(now + MINUTE), [9]);
    }

    #[test]
    fn nobody_is_kept_after_the_end() {
        let (mut shelf, now) = (shelf(2, 10), Instant::now());
        assert_eq!(shelf.take(&1), Place::Free(None));
        assert!(shelf.close().is_empty());
        assert_eq!(shelf.take(&1), Place::Full);
        assert_eq!(shelf.put_back(1, 7, 1, now), [7]);
    }

    proptest! {
        /// Whatever happens: never more than may be, none under another key, and none is lost from sight.
        #[test]
        fn bounds_hold(steps in prop::collection::vec((0..5_u8, 0..4_u8, 0..8_u64), 1..200), count in 0..5_usize) {
            let mut shelf: Shelf<u8, (u8, u32)> = Shelf::new(Bounds { count, memory: 20, idle: MINUTE });
            let (mut now, mut made, mut gone) = (Instant::now(), 0, 0);
            let mut at_work: Vec<(u8, u32)> = Vec::new();
            for (step, key, memory) in steps {
                match step {
                    0 | 1 => match shelf.take(&key) {
                        Place::Warm(worker) => {
                            prop_assert_eq!(worker.0, key);
                            at_work.push(worker);
                        }
                        Place::Free(ended) => {
                            gone += ended.into_iter().count();
                            made += 1;
                            at_work.push((key, made));
                        }
                        Place::Full => prop_assert!(at_work.len() >= count),
                    },
                    2 | 3 => if let Some(worker) = at_work.pop() {
                        gone += shelf.put_back(worker.0, worker, memory, now).len();
                    },
                    _ => {
                        now += MINUTE / 3;
                        gone += shelf.expire(now).len();
                    }
                }
                prop_assert!(at_work.len() + shelf.len() <= count);
                prop_assert!(shelf.memory() <= 20);
                prop_assert_eq!(made as usize, at_work.len() + shelf.len() + gone);
            }
        }
    }
}
