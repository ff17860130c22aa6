//! The stages of one run with their lengths: queue, inputs, command, outputs.
//!
//! Taken from what the node tells of the operation, or from the metadata of a result, which may
//! be of an earlier run on another machine. Both clocks may be off: a stage never ends before it
//! begins, and none is made up where a time is missing.

use std::ops::Range;
use std::time::Duration;

use farmhand_proto::protobuf::Timestamp;
use farmhand_proto::reapi::ExecutedActionMetadata;

use crate::lanes::Micros;
use crate::model::op::{Op, Status};
use crate::model::time::Stamp;

/// A stage of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Waited for a slot.
    Queue,
    /// Its inputs were fetched and staged.
    Inputs,
    /// Its command ran.
    Command,
    /// Its outputs were collected.
    Outputs,
    /// The action cache answered.
    Lookup,
}

/// One stage of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Which.
    pub(crate) stage: Stage,
    /// When it began.
    pub(crate) start: Micros,
    /// When it was over; `None` while it goes on.
    pub(crate) end: Option<Micros>,
}

// === impl Stage ===

impl Stage {
    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Inputs => "inputs",
            Self::Command => "command",
            Self::Outputs => "outputs",
            Self::Lookup => "look-up",
        }
    }
}

// === impl Span ===

impl Span {
    /// How long it took, or goes on at `now`.
    pub(crate) fn length(self, now: Micros) -> Duration {
        let length = self.end.unwrap_or(now).saturating_sub(self.start);
        Duration::from_micros(u64::try_from(length).unwrap_or(0))
    }
}

/// The stages of an operation, as far as it is.
pub(crate) fn of_op(op: &Op) -> Vec<Span> {
    let finished = op.finished.map(|end| end.0);
    if matches!(op.status, Status::Hit | Status::Upload) || op.started.is_none() && op.status.is_over() {
        let span = |start: Stamp| Span {
            stage: Stage::Lookup,
            start: start.0,
            end: finished.map(|end| end.max(start.0)),
        };
        return op.queued.map(span).into_iter().collect();
    }
    let marks = [
        (Stage::Queue, op.queued),
        (Stage::Inputs, op.started),
        (Stage::Command, op.command_started),
        (Stage::Outputs, op.command_ended),
    ];
    let mut spans: Vec<Span> = Vec::with_capacity(4);
    for (stage, start) in marks {
        let Some(Stamp(start)) = start else { continue };
        let start = spans.last().map_or(start, |before| start.max(before.start));
        if let Some(before) = spans.last_mut() {
            before.end = Some(start);
        }
        spans.push(Span { stage, start, end: None });
    }
    if let (Some(last), true) = (spans.last_mut(), op.status.is_over()) {
        last.end = Some(finished.map_or(last.start, |end| end.max(last.start)));
    }
    spans
}

/// The stages a result tells of.
pub(crate) fn of_metadata(metadata: &ExecutedActionMetadata) -> Vec<Span> {
    let stages = [
        (Stage::Queue, &metadata.queued_timestamp, &metadata.worker_start_timestamp),
        (Stage::Inputs, &metadata.input_fetch_start_timestamp, &metadata.input_fetch_completed_timestamp),
        (Stage::Command, &metadata.execution_start_timestamp, &metadata.execution_completed_timestamp),
        (
            Stage::Outputs,
            &metadata.output_upload_start_timestamp,
            &metadata.output_upload_completed_timestamp,
        ),
    ];
    let span = |(stage, start, end): (Stage, &Option<Timestamp>, &Option<Timestamp>)| {
        let (Stamp(start), Stamp(end)) = (Stamp::of(start.as_ref())?, Stamp::of(end.as_ref())?);
        Some(Span { stage, start, end: Some(end.max(start)) })
    };
    stages.into_iter().filter_map(span).collect()
}

/// From the first beginning to the last end; what still goes on ends at `now`.
pub(crate) fn whole(spans: &[Span], now: Micros) -> Option<Range<Micros>> {
    let start = spans.iter().map(|span| span.start).min()?;
    let end = spans.iter().map(|span| span.end.unwrap_or(now)).max()?;
    Some(start..end.max(start))
}

/// The cells of `width` that `span` takes of `whole`: at least one, so that nothing is lost.
pub(crate) fn cells(span: Span, whole: &Range<Micros>, width: u16, now: Micros) -> Range<u16> {
    if width == 0 {
        return 0..0;
    }
    let total = whole.end.saturating_sub(whole.start).max(1);
    let cell = |at: Micros| {
        let offset = at.saturating_sub(whole.start).clamp(0, total);
        u16::try_from(i128::from(offset) * i128::from(width) / i128::from(total)).unwrap_or(width)
    };
    let first = cell(span.start).min(width - 1);
    first..cell(span.end.unwrap_or(now)).clamp(first + 1, width)
}

#[cfg(test)]
mod tests {
    use farmhand_proto::control::Operation;
    use farmhand_proto::control::operation::Stage as Progress;
    use proptest::prelude::*;

    use super::*;

    fn stamp(seconds: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds, nanos: 0 })
    }

    fn told(spans: &[Span]) -> Vec<(&'static str, i64, Option<i64>)> {
        let second = |at: Micros| at / 1_000_000;
        spans.iter().map(|span| (span.stage.name(), second(span.start), span.end.map(second))).collect()
    }

    fn op(stage: Progress, change: impl FnOnce(&mut Operation)) -> Op {
        let mut wire = Operation {
            stage: stage.into(),
            queued: stamp(10),
            started: stamp(12),
            command_started: stamp(13),
            ..Default::default()
        };
        change(&mut wire);
        Op::of(&wire, &mut |text| text.into())
    }

    fn running() -> Op {
        op(Progress::Running, |_| {})
    }

    #[test]
    fn a_run_in_its_middle_and_at_its_end() {
        assert_eq!(
            told(&of_op(&running())),
            [("queue", 10, Some(12)), ("inputs", 12, Some(13)), ("command", 13, None)]
        );
        let over = op(Progress::Done, |wire| {
            wire.command_ended = stamp(20);
            wire.finished = stamp(21);
        });
        assert_eq!(told(&of_op(&over))[2..], [("command", 13, Some(20)), ("outputs", 20, Some(21))]);
    }

    #[test]
    fn what_was_cut_short_or_answered_at_once() {
        let killed = op(Progress::Done, |wire| wire.finished = stamp(15));
        assert_eq!(told(&of_op(&killed)).last(), Some(&("command", 13, Some(15))));
        let cached = op(Progress::Done, |wire| {
            wire.cached = true;
            wire.finished = stamp(9);
        });
        assert_eq!(told(&of_op(&cached)), [("look-up", 10, Some(10))]);
        assert_eq!(of_op(&Op::of(&Operation::default(), &mut |text| text.into())), []);
    }

    #[test]
    fn clocks_that_disagree_do_not_turn_time_round() {
        let odd = op(Progress::Running, |wire| wire.started = stamp(8));
        assert_eq!(
            told(&of_op(&odd)),
            [("queue", 10, Some(10)), ("inputs", 10, Some(13)), ("command", 13, None)]
        );
    }

    #[test]
    fn metadata_tells_what_it_has() {
        let metadata = ExecutedActionMetadata {
            queued_timestamp: stamp(1),
            worker_start_timestamp: stamp(2),
            execution_start_timestamp: stamp(4),
            execution_completed_timestamp: stamp(9),
            output_upload_start_timestamp: stamp(9),
            ..Default::default()
        };
        assert_eq!(told(&of_metadata(&metadata)), [("queue", 1, Some(2)), ("command", 4, Some(9))]);
    }

    #[test]
    fn bars_share_the_width() {
        let spans = of_op(&running());
        let now = 20_000_000;
        let whole = whole(&spans, now).unwrap();
        let cells: Vec<_> = spans.iter().map(|&span| cells(span, &whole, 20, now)).collect();
        assert_eq!(cells, [0..4, 4..6, 6..20]);
        assert_eq!(spans[2].length(now), Duration::from_secs(7));
    }

    proptest! {
        #[test]
        fn bars_stay_inside(start: i64, end in any::<Option<i64>>(), from: i64, to: i64, now: i64, width in 0_u16..300) {
            let span = Span { stage: Stage::Queue, start, end };
            let cells = cells(span, &(from..to), width, now);
            prop_assert!(cells.end <= width && (width == 0 || !cells.is_empty()));
            let _ = span.length(now);
        }
    }
}
