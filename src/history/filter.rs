//! [`Filter`]: which operations are wanted. The same for live and finished ones.

use std::time::SystemTime;

use farmhand_proto::control::action_filter::Outcome;
use farmhand_proto::control::operation::Stage;
use farmhand_proto::control::{ActionFilter, Operation};
use farmhand_proto::protobuf::Timestamp;
use farmhand_proto::time::system_time;

use super::segment::Frame;

/// Holds for an operation when every condition does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// The conditions as the API has them.
    wire: ActionFilter,
    since: Option<u64>,
    until: Option<u64>,
}

impl Filter {
    /// The filter of a request; none for all operations.
    pub fn new(wire: Option<ActionFilter>) -> Self {
        let wire = wire.unwrap_or_default();
        Self { since: wire.since.as_ref().map(micros), until: wire.until.as_ref().map(micros), wire }
    }

    /// The digest that all wanted operations have; empty for any.
    pub fn action_digest(&self) -> &str {
        &self.wire.action_digest
    }

    /// Whether `operation` is wanted.
    pub fn matches(&self, operation: &Operation) -> bool {
        let wire = &self.wire;
        let is = |wanted: &str, value: &str| wanted.is_empty() || wanted == value;
        is(&wire.invocation, &operation.invocation)
            && operation.target.contains(&wire.target)
            && is(&wire.mnemonic, &operation.mnemonic)
            && is(&wire.machine, &operation.machine)
            && is(&wire.action_digest, &operation.action_digest)
            && (wire.outcomes.is_empty() || wire.outcomes.contains(&outcome(operation).into()))
            && self.is_in_time(operation.finished.as_ref().map(micros))
    }

    fn is_in_time(&self, finished: Option<u64>) -> bool {
        let is_later = self.since.is_none_or(|since| finished.is_some_and(|finished| finished >= since));
        is_later && self.until.is_none_or(|until| finished.is_some_and(|finished| finished < until))
    }

    /// Whether operations of a block may be wanted, by what stands in front of it.
    pub(super) fn may_match(&self, block: &Frame) -> bool {
        self.since.is_none_or(|since| block.latest >= since)
            && self.until.is_none_or(|until| block.earliest < until)
    }
}

/// How an operation ended, or where it is.
pub fn outcome(operation: &Operation) -> Outcome {
    match operation.stage() {
        Stage::Unspecified => Outcome::Unspecified,
        Stage::Queued => Outcome::Queued,
        Stage::Running => Outcome::Running,
        Stage::Done if operation.status_code != 0 => Outcome::Error,
        Stage::Done if operation.exit_code != 0 => Outcome::Failed,
        Stage::Done if operation.cached => Outcome::Cached,
        Stage::Done => Outcome::Succeeded,
    }
}

/// Microseconds since 1970; what lies before is 0.
fn micros(time: &Timestamp) -> u64 {
    let time = system_time(time).unwrap_or(SystemTime::UNIX_EPOCH);
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(seconds: i64) -> Operation {
        let finished = Some(Timestamp { seconds, nanos: 0 });
        Operation { stage: Stage::Done.into(), finished, target: "//a/b:c".into(), ..Default::default() }
    }

    fn matches(wire: ActionFilter, operation: &Operation) -> bool {
        Filter::new(Some(wire)).matches(operation)
    }

    #[test]
    fn every_field_that_is_set_must_hold() {
        let operation = Operation { mnemonic: "M".into(), machine: "attic".into(), ..done(10) };
        assert!(Filter::new(None).matches(&operation));
        let filter = |target: &str, mnemonic: &str| ActionFilter {
            target: target.into(),
            mnemonic: mnemonic.into(),
            machine: "attic".into(),
            ..Default::default()
        };
        assert!(matches(filter("b:c", "M"), &operation));
        assert!(!matches(filter("b:d", "M"), &operation));
        assert!(!matches(filter("b:c", "N"), &operation));
        assert!(!matches(ActionFilter { action_digest: "x".into(), ..Default::default() }, &operation));
    }

    #[test]
    fn outcomes_are_those_a_person_sees() {
        let running = Operation { stage: Stage::Running.into(), ..Default::default() };
        assert_eq!(outcome(&running), Outcome::Running);
        assert_eq!(outcome(&done(1)), Outcome::Succeeded);
        assert_eq!(outcome(&Operation { cached: true, ..done(1) }), Outcome::Cached);
        assert_eq!(outcome(&Operation { exit_code: 1, ..done(1) }), Outcome::Failed);
        assert_eq!(outcome(&Operation { status_code: 1, ..done(1) }), Outcome::Error);
        let outcomes = vec![Outcome::Failed.into(), Outcome::Running.into()];
        let filter = ActionFilter { outcomes, ..Default::default() };
        assert!(matches(filter.clone(), &running) && !matches(filter, &done(1)));
    }

    #[test]
    fn times_are_those_of_the_end() {
        let at = |seconds| Some(Timestamp { seconds, nanos: 0 });
        let between = |since, until| ActionFilter { since, until, ..Default::default() };
        assert!(matches(between(at(10), at(11)), &done(10)));
        assert!(!matches(between(at(11), None), &done(10)));
        assert!(!matches(between(None, at(10)), &done(10)));
        let running = Operation { stage: Stage::Running.into(), ..Default::default() };
        assert!(!matches(between(at(1), None), &running));
    }
}
