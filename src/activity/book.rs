//! [`Book`]: everything that is remembered, behind the one lock of the [`Activity`](super::Activity).
//!
//! Pure: what happens comes in with its time, and only changes numbers and lists. Every change has a
//! number of its own, one sequence for all kinds of things, so that one number says what a reader has
//! seen.
//!
//! What counts as what:
//! - the node counts runs, a build and its mnemonics count what was asked for: two calls that shared a run
//!   are one executed action of the node and two of their builds;
//! - cancelled operations count as errors of the node, and for nothing else;
//! - look-ups: see [`misses`](super::misses).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use farmhand_proto::control;
use farmhand_proto::reapi::{ActionResult, ExecuteResponse};

use super::builds::{Build, Builds};
use super::entry::{self, Caller, End, Entry, Kind, Remarks, command_time, shortened};
use super::journal::Journal;
use super::misses::Misses;
use super::mnemonics::{Mnemonic, Mnemonics};
use super::needs::Vocabulary;
use super::pace::Pace;
use super::runs::Runs;
use super::samples::{Gauges, Sample, Samples};
use super::traffic::{Moved, Traffic};
use crate::action_cache::ActionKey;
use crate::execution::action::PreparedAction;
use crate::execution::operations::{Outcome, Timeline};
use crate::execution::queue::{Now, RunId};
use crate::execution::run_times::{Like, RunTimes};
use crate::execution::{Operation, OperationId, OperationState, Sequence, Stage};
use crate::request_metadata::RequestMetadata;

/// Finished operations that are kept.
pub(super) const FINISHED: usize = 5000;

/// Builds that are kept.
const BUILDS: usize = 500;

/// Mnemonics that are told apart.
const MNEMONICS: usize = 500;

/// Seconds that are kept.
const SECONDS: usize = 600;

/// Targets and mnemonics whose run times are remembered.
const RUN_TIMES: usize = 10_000;

/// Misses whose Execute may come yet.
const MISSES: usize = 16 * 1024;

/// Operations a second that were over at once and are kept one by one. The rest is only counted.
const AT_ONCE: u32 = 1000;

/// Lists of platform properties that are shared.
const NEEDS: usize = 256;

/// What is remembered.
#[derive(Debug)]
pub(super) struct Book {
    sequence: Sequence,
    changes: u64,
    pub(super) journal: Journal<Entry>,
    builds: Builds,
    mnemonics: Mnemonics,
    samples: Samples,
    runs: Runs,
    run_times: RunTimes,
    misses: Misses,
    pace: Pace,
    vocabulary: Vocabulary,
    totals: Totals,
    /// Set by a reader that waits for the next change.
    pub(super) is_awaited: bool,
}

/// Since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    executed: u64,
    cached: u64,
    failed: u64,
    errors: u64,
    lookups: u64,
    hits: u64,
}

/// The call that looked something up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    /// GetActionResult.
    GetActionResult,
    /// Execute.
    Execute,
}

/// What changed, up to a number.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) operations: Vec<(u64, Arc<Entry>)>,
    pub(super) builds: Vec<Build>,
    pub(super) mnemonics: Vec<Mnemonic>,
    pub(super) samples: Vec<Sample>,
    /// The number up to which this is everything.
    pub(super) to: u64,
    /// Whether there was nothing more when it was made.
    pub(super) is_last: bool,
}

// === impl Book ===

impl Book {
    /// Nothing yet. What ends is numbered by `sequence`.
    pub(super) fn new(sequence: Sequence) -> Self {
        Self {
            sequence,
            changes: 0,
            journal: Journal::new(FINISHED),
            builds: Builds::new(BUILDS),
            mnemonics: Mnemonics::new(MNEMONICS),
            samples: Samples::new(SECONDS),
            runs: Runs::default(),
            run_times: RunTimes::new(RUN_TIMES),
            misses: Misses::new(MISSES),
            pace: Pace::new(AT_ONCE),
            vocabulary: Vocabulary::new(NEEDS),
            totals: Totals::default(),
            is_awaited: false,
        }
    }

    /// The number of the latest change.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    fn next(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }

    // --- operations ---

    /// An operation came.
    pub(super) fn came(
        &mut self,
        now: Now,
        operation: &Operation,
        state: &OperationState,
        action: Option<&PreparedAction>,
    ) {
        let change = self.next();
        let build = self.builds.seen(change, now.wall, &operation.invocation);
        build.moved(None, Some(state.stage));
        let caller = Arc::clone(&build.caller);
        if let Some(response) = &state.response {
            self.count_end(change, operation, state, response, None);
            if !self.pace.take(now.instant) {
                return;
            }
        }
        let mut entry = self.entry(operation, caller, state, action);
        if let Some(response) = &state.response {
            end(&mut entry, state, response, operation.sequence());
        }
        self.journal.insert(change, entry.id, Arc::new(entry), !state.is_done());
    }

    /// An operation is in a new state.
    pub(super) fn changed(&mut self, operation: &Operation, state: &OperationState) {
        let Some(before) = self.journal.get(operation.id) else { return };
        let (stage, known_run, caller) = (before.stage, before.run, Arc::clone(&before.caller));
        let change = self.next();
        if let Some(build) = self.builds.change(change, &caller.build) {
            build.moved(Some(stage), Some(state.stage));
        }
        match &state.response {
            Some(response) => self.ended(change, operation, state, response, known_run),
            None => self.went_on(change, operation.id, state, known_run),
        }
    }

    fn went_on(&mut self, change: u64, id: OperationId, state: &OperationState, known_run: Option<RunId>) {
        let mut callers = None;
        if let Some(run) = state.run {
            if known_run.is_none() {
                callers = Some(self.runs.join(run, id, state.stage));
            }
            self.runs.update(run, state.stage);
        }
        let run_times = &mut self.run_times;
        self.journal.change(change, id, |entry| {
            if entry.stage == Stage::Queued && state.stage == Stage::Executing {
                // Others of its like may have ended while it waited.
                let expected = run_times.expected(Like::new(&entry.target, &entry.mnemonic));
                entry.expected = expected.or(entry.expected);
            }
            entry.stage = state.stage;
            entry.run = state.run;
            entry.timeline.clone_from(&state.timeline);
            entry.callers = callers.unwrap_or(entry.callers);
        });
        if let (Some(run), Some(2..)) = (state.run, callers) {
            self.tell_callers(run, callers.unwrap_or_default());
        }
    }

    fn ended(
        &mut self,
        change: u64,
        operation: &Operation,
        state: &OperationState,
        response: &ExecuteResponse,
        known_run: Option<RunId>,
    ) {
        let is_over = !is_cancelled(Outcome::of(response));
        let left = known_run.and_then(|run| self.runs.leave(run, operation.id, is_over));
        self.count_end(change, operation, state, response, left.map(|left| left.is_end));
        let (end, sequence) = (End::of(response), operation.sequence());
        self.journal.finish(change, operation.id, |entry| finish(entry, state, response, end, sequence));
        if let (Some(run), Some(left), false) = (known_run, left, is_over) {
            self.tell_callers(run, left.callers);
        }
    }

    /// Notes on what shares `run` how many do.
    fn tell_callers(&mut self, run: RunId, callers: u32) {
        for id in self.runs.told(run) {
            if self.journal.get(id).is_some_and(|entry| entry.callers != callers) {
                let change = self.next();
                self.journal.change(change, id, |entry| entry.callers = callers);
            }
        }
    }

    fn entry(
        &mut self,
        operation: &Operation,
        caller: Arc<Caller>,
        state: &OperationState,
        action: Option<&PreparedAction>,
    ) -> Entry {
        let Operation { invocation, note, .. } = operation;
        let (target, mnemonic) = (&invocation.target_id, &invocation.action_mnemonic);
        let first_output = action.and_then(PreparedAction::first_output).unwrap_or_default();
        Entry {
            id: operation.id,
            kind: operation.kind.into(),
            action: operation.action,
            instance: operation.instance.clone(),
            caller,
            target: target.as_str().into(),
            mnemonic: self.mnemonics.name(mnemonic),
            first_output: shortened(first_output).into(),
            needs: action.map(|action| self.vocabulary.needs(&action.requirements)).unwrap_or_default(),
            priority: operation.priority,
            expected: action.and_then(|_| self.run_times.expected(Like::new(target, mnemonic))),
            stage: state.stage,
            run: None,
            callers: 1,
            timeline: state.timeline.clone(),
            message: note.as_deref().unwrap_or_default().into(),
            end: None,
            sequence: 0,
            remarks: Remarks::default(),
        }
    }

    /// Counts the end of an operation. `is_end` is `None` without a run, else whether the run ended with
    /// it and was not counted before.
    fn count_end(
        &mut self,
        change: u64,
        operation: &Operation,
        state: &OperationState,
        response: &ExecuteResponse,
        is_end: Option<bool>,
    ) {
        let outcome = Outcome::of(response);
        let is_run_end = is_end == Some(true);
        match outcome {
            _ if response.cached_result => self.totals.cached += 1,
            Outcome::Error(_) => self.totals.errors += 1,
            Outcome::Succeeded | Outcome::Failed(_) if is_run_end => {
                self.totals.executed += 1;
                self.totals.failed += u64::from(outcome != Outcome::Succeeded);
                self.samples.present().executed += 1;
            }
            Outcome::Succeeded | Outcome::Failed(_) => {}
        }
        if response.cached_result || is_cancelled(outcome) || state.run.is_none() {
            return;
        }
        let is_failed = u64::from(outcome != Outcome::Succeeded);
        if let Some(build) = self.builds.change(change, operation.invocation.build()) {
            build.counts().executed += 1;
            build.counts().failed += is_failed;
        }
        let time = command_time_of(response, &state.timeline).filter(|_| is_run_end);
        let (target, mnemonic) = (&operation.invocation.target_id, &operation.invocation.action_mnemonic);
        let kind = self.mnemonics.change(change, mnemonic);
        kind.executed += 1;
        kind.failed += is_failed;
        kind.run_time += time.unwrap_or_default();
        if let Some(time) = time.filter(|_| outcome == Outcome::Succeeded) {
            self.run_times.learn(Like::new(target, mnemonic), time);
        }
    }

    /// Changes what is known of an operation; `false` if it is not here.
    pub(super) fn annotate(&mut self, id: OperationId, edit: impl FnOnce(&mut Remarks)) -> bool {
        let change = self.next();
        self.journal.change(change, id, |entry| edit(&mut entry.remarks))
    }

    /// Counts the operations of an action as changed.
    pub(super) fn touch(&mut self, key: &ActionKey) {
        let is_one = |entry: &Entry| entry.action == key.action && entry.instance == key.instance;
        let ids: Vec<_> = self
            .journal
            .changed(0, 0)
            .filter(|(_, entry)| is_one(entry))
            .map(|(_, entry)| entry.id)
            .collect();
        for id in ids {
            self.annotate(id, |_| ());
        }
    }

    // --- the action cache ---

    /// A client asked the action cache.
    pub(super) fn looked_up(
        &mut self,
        now: Now,
        via: Via,
        key: &ActionKey,
        metadata: &RequestMetadata,
        found: Option<&ActionResult>,
    ) -> Option<Arc<Entry>> {
        let wish = self.misses.wish(metadata.build(), key);
        let is_new = match via {
            Via::GetActionResult => true,
            Via::Execute => !self.misses.take(now.instant, wish),
        };
        if via == Via::GetActionResult && found.is_none() {
            self.misses.add(now.instant, wish);
        }
        let (lookups, hits) = (u64::from(is_new), u64::from(found.is_some()));
        self.totals.lookups += lookups;
        self.totals.hits += hits;
        let present = self.samples.present();
        present.lookups += lookups;
        present.hits += hits;
        let change = self.next();
        let build = self.builds.seen(change, now.wall, metadata);
        build.counts().lookups += lookups;
        build.counts().hits += hits;
        let caller = Arc::clone(&build.caller);
        let kind = self.mnemonics.change(change, &metadata.action_mnemonic);
        kind.lookups += lookups;
        kind.hits += hits;
        kind.saved_time += found.and_then(command_time).unwrap_or_default();
        let (Via::GetActionResult, Some(result)) = (via, found) else { return None };
        self.passed(now, Kind::Lookup, caller, key, metadata, result)
    }

    /// A client told a result.
    pub(super) fn stored(
        &mut self,
        now: Now,
        key: &ActionKey,
        metadata: &RequestMetadata,
        result: &ActionResult,
    ) -> Option<Arc<Entry>> {
        let change = self.next();
        let build = self.builds.seen(change, now.wall, metadata);
        build.counts().uploads += 1;
        let caller = Arc::clone(&build.caller);
        self.passed(now, Kind::Upload, caller, key, metadata, result)
    }

    /// Keeps a result that a client took or gave as an operation, where it says what it is about.
    fn passed(
        &mut self,
        now: Now,
        kind: Kind,
        caller: Arc<Caller>,
        key: &ActionKey,
        metadata: &RequestMetadata,
        result: &ActionResult,
    ) -> Option<Arc<Entry>> {
        if !metadata.names_action() || !self.pace.take(now.instant) {
            return None;
        }
        let is_lookup = kind == Kind::Lookup;
        let entry = Entry {
            id: OperationId::random(),
            kind,
            action: key.action,
            instance: key.instance.clone(),
            caller,
            target: metadata.target_id.as_str().into(),
            mnemonic: self.mnemonics.name(&metadata.action_mnemonic),
            first_output: entry::first_output(result).into(),
            needs: Default::default(),
            priority: 0,
            expected: command_time(result).filter(|_| is_lookup),
            stage: Stage::Completed,
            run: None,
            callers: 1,
            timeline: Timeline { queued_at: Some(now.wall), ended_at: Some(now.wall), ..Timeline::default() },
            message: Box::default(),
            end: Some(End::result(result, is_lookup)),
            sequence: self.sequence.next(now.wall),
            remarks: Remarks::default(),
        };
        let (change, entry) = (self.next(), Arc::new(entry));
        self.journal.insert(change, entry.id, Arc::clone(&entry), false);
        Some(entry)
    }

    // --- time and bytes ---

    /// The traffic of the build that a call belongs to. `metadata` is asked for when it is a new one.
    pub(super) fn traffic(
        &mut self,
        now: SystemTime,
        build: &str,
        metadata: impl FnOnce() -> RequestMetadata,
    ) -> Arc<Traffic> {
        if let Some(traffic) = self.builds.traffic(build) {
            return traffic;
        }
        let change = self.next();
        self.builds.seen(change, now, &metadata()).traffic()
    }

    /// A second is over. `moved` are the bytes that all clients moved since the start.
    pub(super) fn second(&mut self, now: SystemTime, gauges: Gauges, moved: Moved) {
        let mut changes = self.changes;
        self.builds.collect_traffic(now, || {
            changes += 1;
            changes
        });
        self.changes = changes;
        let (change, runs) = (self.next(), self.runs.counts());
        self.samples.end(change, now, runs, gauges, moved);
    }

    // --- reading ---

    /// The counters of the node.
    pub(super) fn execution(&self) -> control::Execution {
        let (queued, running) = self.runs.counts();
        let Totals { executed, cached, failed, errors, lookups, hits } = self.totals;
        let recent = self.samples.recent();
        control::Execution {
            queued,
            running,
            executed,
            cached,
            failed,
            errors,
            recent_hits: recent.hits,
            recent_lookups: recent.lookups,
            hits,
            lookups,
        }
    }

    /// The latest change of something that is not here any more.
    pub(super) fn forgotten(&self) -> u64 {
        self.journal.forgotten().max(self.builds.forgotten()).max(self.samples.forgotten())
    }

    /// What changed after number `after`, at most so many operations; finished ones from `floor` on.
    pub(super) fn page(&self, after: u64, floor: u64, most: usize) -> Page {
        let mut changed = self.journal.changed(after, floor);
        let operations: Vec<_> =
            changed.by_ref().take(most).map(|(change, entry)| (change, Arc::clone(entry))).collect();
        let is_last = changed.next().is_none();
        let to = if is_last { self.changes } else { operations.last().map_or(after, |last| last.0) };
        Page {
            builds: self.builds.changed(after, to).cloned().collect(),
            mnemonics: self.mnemonics.changed(after, to).cloned().collect(),
            samples: self.samples.changed(after, to).copied().collect(),
            operations,
            to,
            is_last,
        }
    }
}

/// Ends an operation that was over when it came.
fn end(entry: &mut Entry, state: &OperationState, response: &ExecuteResponse, sequence: u64) {
    if let Some(result) = response.result.as_ref().filter(|_| response.cached_result) {
        entry.first_output = entry::first_output(result).into();
        entry.expected = command_time(result);
    }
    finish(entry, state, response, End::of(response), sequence);
}

/// Puts the end of an operation into its entry.
fn finish(entry: &mut Entry, state: &OperationState, response: &ExecuteResponse, end: End, sequence: u64) {
    entry.stage = Stage::Completed;
    entry.timeline.clone_from(&state.timeline);
    entry.add_message(response);
    entry.end = Some(end);
    entry.sequence = sequence;
}

fn is_cancelled(outcome: Outcome) -> bool {
    outcome == Outcome::Error(tonic::Code::Cancelled as i32)
}

/// How long the command of a run ran: by its own clock, or as it was seen from here.
fn command_time_of(response: &ExecuteResponse, timeline: &Timeline) -> Option<Duration> {
    response.result.as_ref().and_then(command_time).or_else(|| {
        let (start, end) = (timeline.running_at?, timeline.collecting_at?);
        end.duration_since(start).ok()
    })
}

#[cfg(test)]
mod tests;
