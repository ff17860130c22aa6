//! Time as the node tells it.

use std::time::Duration;

use farmhand_proto::protobuf::Timestamp;
use farmhand_proto::time::system_time;

/// How far the node's clock is run on after it was last heard.
const RUN_ON: Duration = Duration::from_millis(1500);

/// A time on the clock of the node: microseconds since 1970. Stages of short actions are less than a
/// millisecond long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Stamp(pub(crate) i64);

/// The clock of the node, as far as it was told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct NodeClock {
    /// What it showed, and when that was heard in time of the program.
    told: Option<(Stamp, Duration)>,
}

// === impl Stamp ===

impl Stamp {
    /// That of the wire; `None` when unset or nonsense.
    pub(crate) fn of(wire: Option<&Timestamp>) -> Option<Self> {
        let since = system_time(wire?)?.duration_since(std::time::UNIX_EPOCH).ok()?;
        i64::try_from(since.as_micros()).ok().map(Self)
    }

    /// Time from `earlier` to this one; nothing when it is the other way round.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The time that much later.
    pub(crate) fn plus(self, length: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(length.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Hours, minutes and seconds in UTC: `17:04:59`.
    pub(crate) fn clock(self) -> String {
        let seconds = self.0.div_euclid(1_000_000).rem_euclid(86_400);
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }
}

// === impl NodeClock ===

impl NodeClock {
    /// The node said it is `stamp`, at `now` of the program.
    pub(crate) fn hear(&mut self, stamp: Stamp, now: Duration) {
        self.told = Some((stamp, now));
    }

    /// What it shows at `now` of the program, as far as that may be believed.
    pub(crate) fn at(&self, now: Duration) -> Option<Stamp> {
        let (stamp, heard) = self.told?;
        Some(stamp.plus(now.saturating_sub(heard).min(RUN_ON)))
    }

    /// When it was last heard, in time of the program.
    pub(crate) fn heard(&self) -> Option<Duration> {
        self.told.map(|(_, heard)| heard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_a_silent_node_stands_still() {
        let mut clock = NodeClock::default();
        assert_eq!(clock.at(Duration::ZERO), None);
        clock.hear(Stamp(5_000_000), Duration::from_secs(1));
        assert_eq!(clock.at(Duration::from_secs(2)), Some(Stamp(6_000_000)));
        assert_eq!(clock.at(Duration::from_secs(60)), Some(Stamp(6_500_000)));
    }

    #[test]
    fn stamps() {
        let wire = Timestamp { seconds: 61, nanos: 500_000_000 };
        assert_eq!(Stamp::of(Some(&wire)), Some(Stamp(61_500_000)));
        assert_eq!(Stamp::of(Some(&Timestamp { seconds: i64::MAX, nanos: -1 })), None);
        assert_eq!(Stamp(61_500_000).clock(), "00:01:01");
        assert_eq!(Stamp(1).since(Stamp(2)), Duration::ZERO);
    }
}
