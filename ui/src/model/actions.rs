//! What the actions view knows besides the farm: its rows, filtered and sorted.
//!
//! The rows are kept from one change to the next. What changed is taken out and put in again, and
//! the whole is sorted by a sort that is quick where most is in order, so that a queue of ten
//! thousand costs little while it moves.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::farm::Farm;
use super::filter::Filter;
use super::list::{ListState, Sort};
use super::op::{Op, OpKey, Status};
use super::operations::Changes;
use super::time::Stamp;

/// Columns one can sort by.
pub(crate) const COLUMNS: &[&str] =
    &["State", "Target", "Mnemonic", "Machine", "Time", "Expected", "Waited", "CPU", "Memory", "Build"];

/// A part of the operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Section {
    /// All of them.
    #[default]
    All,
    /// What waits.
    Queue,
    /// What runs.
    Running,
    /// What is over.
    Finished,
    /// What ended badly.
    Failed,
    /// What ran because the cache had nothing.
    Missed,
    /// What took longer than was expected.
    Slow,
    /// What was given to a machine more than once.
    Retried,
}

/// State of the actions view.
#[derive(Clone, Debug, Default)]
pub(crate) struct Actions {
    /// The part that is shown.
    pub(crate) section: Section,
    /// The operation that is chosen; it stays so when rows move.
    pub(crate) chosen: Option<OpKey>,
    /// Which operations are wanted.
    pub(crate) filter: Option<Filter>,
    /// Only those on this machine.
    pub(crate) machine: Option<Arc<str>>,
    /// Where the history goes on, further back.
    pub(crate) older: Older,
    rows: Vec<(SortKey, OpKey)>,
    made_for: Option<MadeFor>,
}

/// How far back the history was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Older {
    /// Not beyond what the stream brought.
    #[default]
    Unasked,
    /// There is more behind this token.
    From(String),
    /// A page is on its way.
    Loading,
    /// There is no more.
    End,
}

/// What a row is sorted by. Text and numbers are never compared with one another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SortKey {
    /// Status first, then a number.
    Number(i64),
    Text(Arc<str>),
}

/// What the rows were made for; when it is another, they are made anew.
#[derive(Clone, Debug, PartialEq)]
struct MadeFor {
    section: Section,
    filter: Option<Filter>,
    machine: Option<Arc<str>>,
    build: Option<Arc<str>>,
    sort: Option<Sort>,
}

// === impl Section ===

impl Section {
    /// All, in the order of their tabs.
    pub(crate) const ALL: [Self; 8] = [
        Self::All,
        Self::Queue,
        Self::Running,
        Self::Finished,
        Self::Failed,
        Self::Missed,
        Self::Slow,
        Self::Retried,
    ];

    /// Its name.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::All => "All",
            Self::Queue => "Queue",
            Self::Running => "Running",
            Self::Finished => "Finished",
            Self::Failed => "Failed",
            Self::Missed => "Missed",
            Self::Slow => "Slow",
            Self::Retried => "Retried",
        }
    }

    /// The part `steps` further on.
    pub(crate) fn step(self, steps: isize) -> Self {
        let count = Self::ALL.len();
        let at = Self::ALL.iter().position(|section| *section == self).unwrap_or(0);
        Self::ALL[at.wrapping_add_signed(steps).wrapping_add(count) % count]
    }

    /// Whether it holds what is over, so that it goes on further back.
    pub(crate) fn is_history(self) -> bool {
        !matches!(self, Self::Queue | Self::Running)
    }

    /// Whether an operation belongs to it.
    pub(crate) fn has(self, op: &Op) -> bool {
        let ran = matches!(op.status, Status::Ok | Status::Failed);
        match self {
            Self::All => true,
            Self::Queue => op.status == Status::Queued,
            Self::Running => op.status == Status::Running,
            Self::Finished => op.status.is_over(),
            Self::Failed => matches!(op.status, Status::Failed | Status::Error),
            Self::Missed => ran && !op.is_rerun,
            Self::Slow => ran && is_slow(op),
            Self::Retried => op.attempts > 1,
        }
    }
}

/// Whether it took much longer than was expected.
fn is_slow(op: &Op) -> bool {
    let took = op.command_started.zip(op.command_ended).map(|(from, to)| to.since(from));
    took.zip(op.expected).is_some_and(|(took, expected)| {
        took > expected.saturating_mul(2) && took > expected + Duration::from_millis(500)
    })
}

// === impl Actions ===

impl Actions {
    /// The operations of the rows that are shown, in their order.
    pub(crate) fn row(&self, at: usize) -> Option<OpKey> {
        self.rows.get(at).map(|(_, key)| *key)
    }

    /// Rows there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The rows are of no use any more.
    pub(crate) fn forget_rows(&mut self) {
        self.made_for = None;
    }

    /// Brings the rows up to date, and keeps the chosen operation chosen.
    pub(crate) fn refresh(
        &mut self,
        farm: &Farm,
        changes: Changes,
        build: Option<&Arc<str>>,
        list: &mut ListState,
    ) {
        let wanted = MadeFor {
            section: self.section,
            filter: self.filter.clone(),
            machine: self.machine.clone(),
            build: build.cloned(),
            sort: list.sort,
        };
        match changes {
            Changes::Some(keys) if self.made_for.as_ref() == Some(&wanted) => {
                self.amend(farm, &keys, &wanted)
            }
            _ => self.make(farm, &wanted),
        }
        self.made_for = Some(wanted);
        self.keep_chosen(list);
    }

    /// The row that is chosen now is the chosen operation.
    pub(crate) fn choose(&mut self, row: usize) {
        self.chosen = self.row(row);
    }

    fn make(&mut self, farm: &Farm, wanted: &MadeFor) {
        let all = farm.ops.all().filter(|(_, op)| self.wants(op, wanted));
        self.rows = all.map(|(key, op)| (sort_key(op, wanted.sort), key)).collect();
        self.sort(wanted.sort);
    }

    fn amend(&mut self, farm: &Farm, keys: &[OpKey], wanted: &MadeFor) {
        if keys.is_empty() {
            return;
        }
        let changed: HashSet<OpKey> = keys.iter().copied().collect();
        self.rows.retain(|(_, key)| !changed.contains(key));
        for key in changed {
            if let Some(op) = farm.ops.get(key).filter(|op| self.wants(op, wanted)) {
                self.rows.push((sort_key(op, wanted.sort), key));
            }
        }
        self.sort(wanted.sort);
    }

    /// Rows alike stand in the order they came, the newest first.
    fn sort(&mut self, sort: Option<Sort>) {
        if sort.is_some_and(|sort| sort.descending) {
            self.rows.sort_by(|(a, i), (b, j)| b.cmp(a).then(j.cmp(i)));
        } else {
            self.rows.sort_by(|(a, i), (b, j)| a.cmp(b).then(i.cmp(j)));
        }
    }

    fn wants(&self, op: &Op, wanted: &MadeFor) -> bool {
        self.section.has(op)
            && wanted.build.as_ref().is_none_or(|build| op.invocation == *build)
            && wanted.machine.as_ref().is_none_or(|machine| op.machine == *machine)
            && self.filter.as_ref().is_none_or(|filter| {
                let texts =
                    [&op.target, &op.mnemonic, &op.machine, &op.first_output, &op.digest, &op.message];
                filter.wants(&texts.map(|text| &**text))
            })
    }

    fn keep_chosen(&mut self, list: &mut ListState) {
        list.resize(self.rows.len());
        // At the top one wants to see what comes, not to be carried away.
        let follows = list.selected > 0;
        let is_there = |row: usize| self.row(row) == self.chosen;
        let lost = follows && self.chosen.is_some() && !is_there(list.selected);
        let found = lost.then(|| self.rows.iter().position(|(_, key)| Some(*key) == self.chosen)).flatten();
        if let Some(at) = found {
            list.offset = (list.offset + at).saturating_sub(list.selected);
            list.selected = at;
        }
        self.chosen = self.row(list.selected);
    }
}

/// What `op` is sorted by. Without a wish: what runs, then what waits, each the longest first, then
/// what is over, the newest first.
fn sort_key(op: &Op, sort: Option<Sort>) -> SortKey {
    let millis = |length: Option<Duration>| length.map_or(-1, |length| length.as_millis() as i64);
    let begin = |stamp: Option<Stamp>| stamp.map_or(i64::MAX / 4, |stamp| stamp.0);
    const STEP: i64 = i64::MAX / 4;
    let Some(sort) = sort else {
        let number = match op.status {
            Status::Running => begin(op.since()).clamp(0, STEP - 1) - STEP,
            Status::Queued => begin(op.queued).clamp(0, STEP - 1),
            _ => 2 * STEP - (op.sequence.min(STEP as u64 - 1) as i64),
        };
        return SortKey::Number(number);
    };
    match sort.column {
        0 => SortKey::Number(op.status as i64),
        1 => SortKey::Text(Arc::from(op.label())),
        2 => SortKey::Text(op.mnemonic.clone()),
        3 => SortKey::Text(op.machine.clone()),
        // Of what goes on the time grows alike for all, so that its beginning tells the order.
        4 if op.status.is_over() => SortKey::Number(millis(op.elapsed(None))),
        4 => SortKey::Number(STEP - begin(op.since()).clamp(0, STEP - 1)),
        5 => SortKey::Number(millis(op.expected)),
        6 if op.status == Status::Queued => SortKey::Number(STEP - begin(op.queued).clamp(0, STEP - 1)),
        6 => SortKey::Number(millis(op.waited(None))),
        7 => SortKey::Number(millis(op.cpu_time)),
        8 => SortKey::Number(i64::try_from(op.peak_memory).unwrap_or(i64::MAX)),
        _ => SortKey::Text(op.invocation.clone()),
    }
}
