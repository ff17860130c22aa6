//! [`Runs`]: which operations share a run, and how many runs wait and run.
//!
//! Operations are what clients see; slots are taken by runs. What is said of the node as a whole counts
//! runs.

use std::collections::{BTreeSet, HashMap};

use crate::execution::queue::RunId;
use crate::execution::{OperationId, Stage};

/// Operations of one run that are told when one more shares it. With many more, telling all of them each
/// time would cost more than the number is worth.
const TOLD: usize = 32;

/// The runs that are not over.
#[derive(Debug, Default)]
pub(super) struct Runs {
    runs: HashMap<RunId, Run>,
    queued: u64,
    running: u64,
}

#[derive(Debug)]
struct Run {
    stage: Stage,
    operations: BTreeSet<OperationId>,
    /// Whether its end was counted.
    ended: bool,
}

/// What one operation less means for a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    /// Operations that still share it.
    pub(super) callers: u32,
    /// Whether this is the first that the run ended for.
    pub(super) is_end: bool,
}

// === impl Runs ===

impl Runs {
    /// Runs that wait, and runs that run.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.queued, self.running)
    }

    /// The run of an operation is in that stage.
    pub(super) fn update(&mut self, id: RunId, stage: Stage) {
        let Some(run) = self.runs.get_mut(&id) else { return };
        let before = std::mem::replace(&mut run.stage, stage);
        self.count(Some(before), Some(stage));
    }

    /// One more operation shares a run, which is in that stage. Gives the number of all.
    pub(super) fn join(&mut self, id: RunId, operation: OperationId, stage: Stage) -> u32 {
        if !self.runs.contains_key(&id) {
            self.count(None, Some(stage));
        }
        let run = self.runs.entry(id).or_insert(Run { stage, operations: BTreeSet::new(), ended: false });
        run.operations.insert(operation);
        callers(run)
    }

    /// One operation less; `is_over` says that the run itself is. `None` if it was none of it.
    pub(super) fn leave(&mut self, id: RunId, operation: OperationId, is_over: bool) -> Option<Left> {
        let run = self.runs.get_mut(&id)?;
        if !run.operations.remove(&operation) {
            return None;
        }
        let is_end = is_over && !run.ended;
        run.ended |= is_over;
        let left = Left { callers: callers(run), is_end };
        if left.callers == 0 {
            let stage = run.stage;
            self.runs.remove(&id);
            self.count(Some(stage), None);
        }
        Some(left)
    }

    /// The operations of a run that are told of others.
    pub(super) fn told(&self, id: RunId) -> Vec<OperationId> {
        self.runs.get(&id).map_or_else(Vec::new, |run| run.operations.iter().take(TOLD).copied().collect())
    }

    fn count(&mut self, from: Option<Stage>, to: Option<Stage>) {
        match from {
            Some(Stage::Queued) => self.queued -= 1,
            Some(Stage::Executing) => self.running -= 1,
            Some(Stage::Completed) | None => {}
        }
        match to {
            Some(Stage::Queued) => self.queued += 1,
            Some(Stage::Executing) => self.running += 1,
            Some(Stage::Completed) | None => {}
        }
    }
}

fn callers(run: &Run) -> u32 {
    u32::try_from(run.operations.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u128) -> OperationId {
        OperationId::from_number(number)
    }

    #[test]
    fn a_run_is_counted_once_whoever_shares_it() {
        let mut runs = Runs::default();
        assert_eq!(runs.join(RunId(1), id(1), Stage::Queued), 1);
        assert_eq!(runs.join(RunId(1), id(2), Stage::Queued), 2);
        runs.join(RunId(2), id(3), Stage::Queued);
        assert_eq!((runs.counts(), runs.told(RunId(1))), ((2, 0), vec![id(1), id(2)]));
        for _ in 0..2 {
            runs.update(RunId(1), Stage::Executing);
        }
        assert_eq!(runs.counts(), (1, 1));
        let first = runs.leave(RunId(1), id(2), true);
        assert_eq!(first, Some(Left { callers: 1, is_end: true }));
        assert_eq!(runs.leave(RunId(1), id(1), true), Some(Left { callers: 0, is_end: false }));
        assert_eq!((runs.counts(), runs.leave(RunId(1), id(1), true)), ((1, 0), None));
    }

    #[test]
    fn who_only_leaves_does_not_end_the_run() {
        let mut runs = Runs::default();
        runs.join(RunId(1), id(1), Stage::Executing);
        runs.join(RunId(1), id(2), Stage::Executing);
        assert_eq!(runs.leave(RunId(1), id(1), false), Some(Left { callers: 1, is_end: false }));
        assert_eq!(runs.leave(RunId(1), id(2), true), Some(Left { callers: 0, is_end: true }));
    }
}
