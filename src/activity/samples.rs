//! [`Samples`]: what the node did in each of the last seconds.

use std::collections::VecDeque;
use std::time::SystemTime;

use farmhand_proto::control;
use farmhand_proto::time::timestamp;

use super::traffic::Moved;

/// Samples that are the last minute.
const MINUTE: usize = 60;

/// The last seconds, the present one apart.
#[derive(Debug)]
pub(super) struct Samples {
    ring: VecDeque<Sample>,
    kept: usize,
    present: Counts,
    moved: Moved,
    evicted: u64,
    forgotten: u64,
}

/// One second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    change: u64,
    at: SystemTime,
    counts: Counts,
    queued: u64,
    running: u64,
    gauges: Gauges,
    moved: Moved,
    evicted: u64,
}

/// What is counted as it happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) executed: u64,
    pub(super) lookups: u64,
    pub(super) hits: u64,
}

/// What others know at the end of a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Actions the farm runs at once.
    pub slots: u64,
    /// Bytes of blobs on disk.
    pub used_bytes: u64,
    /// Blobs evicted since the start.
    pub evicted: u64,
}

// === impl Samples ===

impl Samples {
    /// None yet; `kept` are remembered.
    pub(super) fn new(kept: usize) -> Self {
        Self {
            ring: VecDeque::new(),
            kept,
            present: Counts::default(),
            moved: Moved::default(),
            evicted: 0,
            forgotten: 0,
        }
    }

    /// What happens in the present second.
    pub(super) fn present(&mut self) -> &mut Counts {
        &mut self.present
    }

    /// Ends the present second by change number `change`. `moved` are all bytes since the start.
    pub(super) fn end(
        &mut self,
        change: u64,
        at: SystemTime,
        (queued, running): (u64, u64),
        gauges: Gauges,
        moved: Moved,
    ) {
        let sample = Sample {
            change,
            at,
            counts: std::mem::take(&mut self.present),
            queued,
            running,
            gauges,
            moved: moved.since(self.moved),
            evicted: gauges.evicted.saturating_sub(self.evicted),
        };
        (self.moved, self.evicted) = (moved, gauges.evicted);
        self.ring.push_back(sample);
        if self.ring.len() > self.kept {
            self.forgotten = self.ring.pop_front().map_or(0, |oldest| oldest.change);
        }
    }

    /// The last minute, and the present second.
    pub(super) fn recent(&self) -> Counts {
        let minute = self.ring.iter().rev().take(MINUTE).map(|sample| &sample.counts);
        minute.fold(self.present, |sum, counts| Counts {
            executed: sum.executed + counts.executed,
            lookups: sum.lookups + counts.lookups,
            hits: sum.hits + counts.hits,
        })
    }

    /// Those after change number `after`, and not after number `to`; the oldest first.
    pub(super) fn changed(&self, after: u64, to: u64) -> impl Iterator<Item = &Sample> {
        let first = self.ring.partition_point(|sample| sample.change <= after);
        self.ring.range(first..).take_while(move |sample| sample.change <= to)
    }

    /// The change of the latest sample that is not here any more.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

// === impl Sample ===

impl Sample {
    /// The change by which it came.
    pub(super) fn changed(&self) -> u64 {
        self.change
    }

    /// As the control API shows it.
    pub(super) fn to_wire(self) -> control::Sample {
        let small = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        control::Sample {
            at: Some(timestamp(self.at)),
            executed: small(self.counts.executed),
            lookups: small(self.counts.lookups),
            hits: small(self.counts.hits),
            queued: small(self.queued),
            running: small(self.running),
            slots: small(self.gauges.slots),
            uploaded_bytes: self.moved.uploaded,
            downloaded_bytes: self.moved.downloaded,
            used_bytes: self.gauges.used_bytes,
            evicted: small(self.evicted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(samples: &mut Samples, change: u64, moved: u64, evicted: u64) {
        let gauges = Gauges { slots: 4, used_bytes: 9, evicted };
        let moved = Moved { uploaded: moved, downloaded: 2 * moved };
        samples.end(change, SystemTime::UNIX_EPOCH, (1, 2), gauges, moved);
    }

    #[test]
    fn a_sample_tells_of_its_own_second() {
        let mut samples = Samples::new(10);
        samples.present().lookups += 2;
        end(&mut samples, 1, 100, 3);
        samples.present().lookups += 5;
        end(&mut samples, 2, 150, 4);
        let wire: Vec<_> = samples.changed(0, 2).map(|sample| sample.to_wire()).collect();
        let facts = |sample: &control::Sample| {
            (sample.lookups, sample.uploaded_bytes, sample.downloaded_bytes, sample.evicted)
        };
        assert_eq!(wire.iter().map(facts).collect::<Vec<_>>(), [(2, 100, 200, 3), (5, 50, 100, 1)]);
        assert_eq!((wire[0].queued, wire[0].running, wire[0].slots, wire[0].used_bytes), (1, 2, 4, 9));
    }

    #[test]
    fn the_last_ones_are_kept_and_what_went_is_known() {
        let mut samples = Samples::new(3);
        for change in 1..=5 {
            end(&mut samples, change * 10, 0, 0);
        }
        let numbers = |after, to| samples.changed(after, to).map(Sample::changed).collect::<Vec<_>>();
        assert_eq!((numbers(0, 99), samples.forgotten()), (vec![30, 40, 50], 20));
        assert_eq!((numbers(30, 40), numbers(50, 99)), (vec![40], vec![]));
    }

    #[test]
    fn the_last_minute_has_sixty_seconds() {
        let mut samples = Samples::new(100);
        for change in 1..=80 {
            samples.present().hits += 1;
            end(&mut samples, change, 0, 0);
        }
        samples.present().hits += 1;
        assert_eq!(samples.recent().hits, 61);
    }
}
