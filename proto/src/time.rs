//! Times on the wire: `google.protobuf.Timestamp` and `Duration` to and from those of `std`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::protobuf;

/// The wire form of `time`; times before 1970 become 1970.
pub fn timestamp(time: SystemTime) -> protobuf::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let protobuf::Duration { seconds, nanos } = duration(since);
    protobuf::Timestamp { seconds, nanos }
}

/// The time `wire` stands for; `None` outside of what this system can hold, and before 1970.
pub fn system_time(wire: &protobuf::Timestamp) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(to_std(wire.seconds, wire.nanos)?)
}

/// The wire form of `length`.
pub fn duration(length: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(length.as_secs()).unwrap_or(i64::MAX),
        nanos: length.subsec_nanos().cast_signed(),
    }
}

/// The length `wire` stands for; `None` for negative ones.
pub fn std_duration(wire: &protobuf::Duration) -> Option<Duration> {
    to_std(wire.seconds, wire.nanos)
}

fn to_std(seconds: i64, nanos: i32) -> Option<Duration> {
    let nanos = u32::try_from(nanos).ok().filter(|&nanos| nanos < 1_000_000_000)?;
    Some(Duration::new(u64::try_from(seconds).ok()?, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refusals() {
        let length = Duration::new(90, 5);
        assert_eq!(std_duration(&duration(length)), Some(length));
        let time = UNIX_EPOCH + length;
        assert_eq!(system_time(&timestamp(time)), Some(time));
        assert_eq!(std_duration(&protobuf::Duration { seconds: -1, nanos: 0 }), None);
        assert_eq!(system_time(&protobuf::Timestamp { seconds: 1, nanos: 2_000_000_000 }), None);
        assert_eq!(timestamp(UNIX_EPOCH - length), protobuf::Timestamp { seconds: 0, nanos: 0 });
    }
}
