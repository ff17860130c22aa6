//! [`Timeline`]: when an action was where.
//!
//! Clients subtract these times from each other without a look, so all are set, and none is before
//! its predecessor: the wall clock is read once, and a clock that cannot go back does the rest.

use std::time::{SystemTime, UNIX_EPOCH};

use farmhand_proto::{protobuf, reapi};
use tokio::time::Instant;

/// The parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Fetching,
    Executing,
    Uploading,
}

/// The times of one action on one worker.
#[derive(Debug)]
pub(super) struct Timeline {
    worker: String,
    queued_at: SystemTime,
    started_at: SystemTime,
    clock: Instant,
    /// When each stage began, in their order.
    began: [Option<SystemTime>; 3],
}

impl Timeline {
    /// Begins now. A queueing time in the future, from a machine with another clock, becomes now.
    pub(super) fn start(worker: &str, queued_at: SystemTime) -> Self {
        let now = SystemTime::now();
        Self {
            worker: worker.to_owned(),
            queued_at: queued_at.min(now),
            started_at: now,
            clock: Instant::now(),
            began: [None; 3],
        }
    }

    /// The action enters `stage`.
    pub(super) fn enter(&mut self, stage: Stage) {
        self.began[stage as usize] = Some(self.now());
    }

    /// Writes the times into `metadata`. Stages that were not reached begin and end now.
    pub(super) fn fill(&self, metadata: &mut reapi::ExecutedActionMetadata) {
        let now = self.now();
        let began = |stage: Stage| Some(timestamp(self.began[stage as usize].unwrap_or(now)));
        metadata.worker.clone_from(&self.worker);
        metadata.queued_timestamp = Some(timestamp(self.queued_at));
        metadata.worker_start_timestamp = Some(timestamp(self.started_at));
        metadata.input_fetch_start_timestamp = began(Stage::Fetching);
        metadata.input_fetch_completed_timestamp = began(Stage::Executing);
        metadata.execution_start_timestamp = began(Stage::Executing);
        metadata.execution_completed_timestamp = began(Stage::Uploading);
        metadata.output_upload_start_timestamp = began(Stage::Uploading);
        metadata.output_upload_completed_timestamp = Some(timestamp(now));
        metadata.worker_completed_timestamp = Some(timestamp(now));
        metadata.virtual_execution_duration.get_or_insert_default();
    }

    fn now(&self) -> SystemTime {
        self.started_at + self.clock.elapsed()
    }
}

fn timestamp(time: SystemTime) -> protobuf::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    protobuf::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn times_are_set_and_in_order_even_when_stages_are_missing() {
        for reached in 0..=3 {
            let mut timeline = Timeline::start("w", SystemTime::now() + Duration::from_secs(60));
            for stage in [Stage::Fetching, Stage::Executing, Stage::Uploading].into_iter().take(reached) {
                tokio::time::advance(Duration::from_secs(2)).await;
                timeline.enter(stage);
            }
            tokio::time::advance(Duration::from_secs(2)).await;
            let mut metadata = reapi::ExecutedActionMetadata::default();
            timeline.fill(&mut metadata);
            let times = [
                metadata.queued_timestamp,
                metadata.worker_start_timestamp,
                metadata.input_fetch_start_timestamp,
                metadata.input_fetch_completed_timestamp,
                metadata.execution_start_timestamp,
                metadata.execution_completed_timestamp,
                metadata.output_upload_start_timestamp,
                metadata.output_upload_completed_timestamp,
                metadata.worker_completed_timestamp,
            ]
            .map(|time| time.map(|time| (time.seconds, time.nanos)).unwrap());
            assert!(times.is_sorted(), "{times:?}");
            let total = times[8].0 - times[1].0;
            assert_eq!(total, 2 * (reached as i64 + 1));
            assert_eq!(metadata.worker, "w");
        }
    }
}
