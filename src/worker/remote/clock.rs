//! Times of another machine, told by the clock of this one.

use std::time::{Duration, SystemTime};

use farmhand_proto::protobuf::Timestamp;
use farmhand_proto::reapi::ExecutedActionMetadata;
use farmhand_proto::time::{system_time, timestamp};

/// Clocks that are this far apart count as equal.
const TOLERANCE: Duration = Duration::from_secs(1);

/// Shifts the times in `metadata`, which has just come, so that the last of them is `now`; but not those of a
/// machine whose clock is right. The time it was queued is ours.
pub(super) fn align(metadata: &mut ExecutedActionMetadata, queued_at: SystemTime, now: SystemTime) {
    let last = metadata.worker_completed_timestamp.as_ref().and_then(system_time);
    let theirs = last.unwrap_or(now);
    metadata.queued_timestamp = Some(timestamp(queued_at));
    let is_right = theirs <= now + TOLERANCE && theirs >= now.checked_sub(TOLERANCE).unwrap_or(now);
    if is_right {
        return;
    }
    let times = [
        &mut metadata.worker_start_timestamp,
        &mut metadata.worker_completed_timestamp,
        &mut metadata.input_fetch_start_timestamp,
        &mut metadata.input_fetch_completed_timestamp,
        &mut metadata.execution_start_timestamp,
        &mut metadata.execution_completed_timestamp,
        &mut metadata.output_upload_start_timestamp,
        &mut metadata.output_upload_completed_timestamp,
    ];
    for time in times.into_iter().flatten() {
        *time = shifted(time, theirs, now);
    }
}

/// `time`, which is as far before `now` as it was before `theirs`.
fn shifted(time: &Timestamp, theirs: SystemTime, now: SystemTime) -> Timestamp {
    let before = system_time(time).and_then(|time| theirs.duration_since(time).ok()).unwrap_or_default();
    timestamp(now.checked_sub(before).unwrap_or(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    fn at(base: SystemTime, millis: u64) -> Option<Timestamp> {
        Some(timestamp(base + Duration::from_millis(millis)))
    }

    fn metadata(base: SystemTime) -> ExecutedActionMetadata {
        ExecutedActionMetadata {
            worker_start_timestamp: at(base, 0),
            execution_start_timestamp: at(base, 100),
            execution_completed_timestamp: at(base, 400),
            worker_completed_timestamp: at(base, 500),
            ..Default::default()
        }
    }

    #[test]
    fn a_clock_that_is_a_year_off_shows_in_no_time() {
        let start = SystemTime::UNIX_EPOCH + 50 * YEAR;
        let now = start + Duration::from_millis(500);
        for theirs in [start + YEAR, start - YEAR] {
            let mut told = metadata(theirs);
            align(&mut told, start, now);
            let expected = ExecutedActionMetadata { queued_timestamp: at(start, 0), ..metadata(start) };
            assert_eq!(told, expected);
        }
    }

    #[test]
    fn a_clock_that_is_right_is_left_alone() {
        let start = SystemTime::UNIX_EPOCH + 50 * YEAR;
        let mut told = metadata(start);
        align(&mut told, start, start + Duration::from_millis(900));
        assert_eq!(told.worker_start_timestamp, at(start, 0));
    }
}
