//! The scrub: reads everything stored, slowly and again and again, so that damage is found while other
//! copies still exist and before anybody needs the bytes.
//!
//! [`Pace`] says how much to read and when: as much as a pass in the configured time takes, at the
//! lowest priority, and nothing while the disk cannot keep up with writers. A pass goes through the
//! shards of the map and begins with a random one, so that a machine which is never on for long
//! sees everything in the end. Reading here is no use: it renews no lease. What is damaged is
//! dropped and counted like anything found on a read.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use tokio::time::Instant;

use super::record::Key;
use super::store::Store;

/// Time between two looks at what is due.
const TICK: Duration = Duration::from_secs(10);

/// Bytes an entry counts for at least: what its read costs beside the bytes.
const LEAST: u64 = 4096;

/// Priority of the thread (`nice`): the lowest.
const NICE: i32 = 19;

/// How much may be read when. Pure.
pub(super) struct Pace {
    /// Time of a whole pass.
    interval: Duration,
    /// Bytes that may be read now; below zero after a large blob.
    allowance: i64,
}

/// A scrub under way.
pub(super) struct Scrub {
    store: Arc<Store>,
    first: usize,
    /// Shards that were begun in this pass.
    begun: usize,
    /// What is left of the last of them.
    keys: Vec<Key>,
}

// === impl Pace ===

impl Pace {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, allowance: 0 }
    }

    /// `passed` more time is over, with `held` bytes in the store. Returns whether something is to be
    /// read. Time in which the disk was busy is not made up for.
    pub(super) fn pass(&mut self, passed: Duration, held: u64, is_busy: bool) -> bool {
        if is_busy {
            return false;
        }
        let share = passed.as_secs_f64() / self.interval.as_secs_f64();
        let more = (held as f64 * share.min(1.0)) as i64;
        self.allowance =
            self.allowance.saturating_add(more.max(1)).min(i64::try_from(held).unwrap_or(i64::MAX));
        self.allowance > 0
    }

    /// Notes that an entry of `bytes` was read. Returns whether another one may be.
    pub(super) fn read(&mut self, bytes: u64) -> bool {
        self.allowance = self.allowance.saturating_sub_unsigned(bytes.max(LEAST));
        self.allowance > 0
    }
}

// === impl Scrub ===

impl Scrub {
    /// A scrub that begins with the shard of this number.
    pub(super) fn new(store: Arc<Store>, first: usize) -> Self {
        Self { store, first, begun: 0, keys: Vec::new() }
    }

    /// Works until the other end of `stop` is gone.
    pub(super) fn run(mut self, interval: Duration, stop: &Receiver<()>) {
        // Without it the scrub is as polite as its pace.
        let _ = rustix::process::setpriority_process(None, NICE);
        let mut pace = Pace::new(interval);
        let mut last = Instant::now();
        while stop.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
            let passed = last.elapsed();
            last = Instant::now();
            let mut goes_on = pace.pass(passed, self.store.space.used(), self.store.is_behind());
            while goes_on && !self.store.stopped.load(Ordering::Acquire) {
                let Some(bytes) = self.step() else { break };
                goes_on = pace.read(bytes) && !self.store.is_behind();
            }
        }
    }

    /// Checks the next entry. Returns the bytes read; `None` at the end of a pass.
    pub(super) fn step(&mut self) -> Option<u64> {
        let shards = self.store.map.shards().len();
        while self.keys.is_empty() {
            if self.begun == shards {
                self.begun = 0;
                self.store.counters.scrub_passes.fetch_add(1, Ordering::Relaxed);
                self.store.counters.scrubbed_shards.store(0, Ordering::Relaxed);
                return None;
            }
            let keys = &mut self.keys;
            self.store.map.for_each_in((self.first + self.begun) % shards, |key, _| keys.push(*key));
            self.store.counters.scrubbed_shards.store(self.begun as u64, Ordering::Relaxed);
            self.begun += 1;
        }
        let key = self.keys.pop()?;
        Some(self.store.check(&key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_pass_takes_its_time() {
        let mut pace = Pace::new(HOUR * 100);
        let (held, mut read) = (1_000_000_000, 0);
        for _ in 0..1000 {
            let mut goes_on = pace.pass(HOUR / 10, held, false);
            while goes_on {
                read += 50_000;
                goes_on = pace.read(50_000);
            }
        }
        assert!((read as i64 - held as i64).abs() <= 50_000, "{read}");
    }

    #[test]
    fn a_busy_disk_is_left_alone_and_a_large_blob_is_paid_for() {
        let mut pace = Pace::new(HOUR);
        assert!(!pace.pass(HOUR, 1 << 40, true));
        assert!(pace.pass(HOUR / 100, 100 << 20, false));
        assert!(!pace.read(10 << 20));
        for _ in 0..8 {
            assert!(!pace.pass(HOUR / 100, 100 << 20, false));
        }
        assert!(pace.pass(HOUR / 50, 100 << 20, false));
    }

    #[test]
    fn a_small_store_is_read_too() {
        let mut pace = Pace::new(HOUR * 24 * 30);
        let mut reads = 0;
        for _ in 0..1_000_000 {
            if pace.pass(TICK, 10, false) {
                reads += 1;
                pace.read(10);
            }
        }
        assert!(reads > 0);
    }
}
