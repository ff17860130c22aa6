//! What the timeline view knows besides the farm: lanes, the part of time that is seen, the bar that
//! is chosen.

use std::sync::Arc;

use super::farm::Farm;
use super::list::ListState;
use super::op::{Op, OpKey, Status};
use super::time::Stamp;
use crate::lanes::{Lanes, Micros, Place, Run, Window};

/// Time that is seen at first.
const SPAN: Micros = 60_000_000;

/// Kinds of actions that have a colour of their own.
const MNEMONICS: usize = 64;

/// What the colour of a bar tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Tells {
    /// Who sent it.
    #[default]
    Sender,
    /// How it stands.
    Status,
    /// Of which kind it is.
    Mnemonic,
}

/// A lane, as a row of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LaneRow {
    /// The machine.
    pub(crate) machine: Arc<str>,
    /// Lane within it.
    pub(crate) lane: usize,
    /// Whether the machine has a slot for it; more may have run at once for a moment.
    pub(crate) is_slot: bool,
}

/// State of the timeline view.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    /// Where each run lies.
    pub(crate) lanes: Lanes,
    /// The lanes that can be seen, in order.
    pub(crate) rows: Vec<LaneRow>,
    /// What colours tell.
    pub(crate) tells: Tells,
    /// The bar that is chosen.
    pub(crate) chosen: Option<OpKey>,
    /// Where the mouse took hold: column, and the end of the window then.
    pub(crate) held: Option<(u16, Micros)>,
    span: Micros,
    /// The last moment that is seen; unset follows the clock.
    end: Option<Micros>,
    mnemonics: Vec<Arc<str>>,
}

// === impl Tells ===

impl Tells {
    /// The next.
    pub(crate) fn next(self) -> Self {
        match self {
            Self::Sender => Self::Status,
            Self::Status => Self::Mnemonic,
            Self::Mnemonic => Self::Sender,
        }
    }

    /// In a word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Sender => "sender",
            Self::Status => "status",
            Self::Mnemonic => "mnemonic",
        }
    }
}

// === impl Timeline ===

impl Timeline {
    /// Brings the lanes up to date with the farm.
    pub(crate) fn refresh(&mut self, farm: &Farm, list: &mut ListState) {
        let mut runs: Vec<_> = farm.ops.all().filter_map(|(key, op)| Some((run_of(op)?, key, op))).collect();
        runs.sort_unstable_by_key(|(start, key, _)| (*start, *key));
        for (start, key, op) in runs {
            let end = op.status.is_over().then(|| op.finished.map_or(start, |end| end.0));
            self.lanes.place(Run { key, machine: &op.machine, start, end });
            self.number(&op.mnemonic);
        }
        self.lanes.retain(|key| farm.ops.get(key).is_some());
        self.rows = rows(farm, &self.lanes);
        list.resize(self.rows.len());
    }

    /// The part of time that is seen.
    pub(crate) fn window(&self, now: Stamp) -> Window {
        Window::ending(self.end.unwrap_or(now.0), self.span)
    }

    /// Whether it follows the clock.
    pub(crate) fn follows(&self) -> bool {
        self.end.is_none()
    }

    /// Shows another part of time; up to now it follows the clock.
    pub(crate) fn show(&mut self, window: Window, now: Stamp) {
        self.span = window.span();
        self.end = (window.end() < now.0).then_some(window.end());
    }

    /// Goes back to now.
    pub(crate) fn follow(&mut self) {
        self.end = None;
    }

    /// Shows more or less time, around the bar that is chosen or the middle; when it follows the clock
    /// it goes on to do so.
    pub(crate) fn zoom(&mut self, factor: f64, at: Option<Micros>, now: Stamp) {
        let window = self.window(now);
        let anchor = at.unwrap_or_else(|| match (self.end, self.place()) {
            (None, _) => window.end(),
            (_, Some(place)) if window.cell_of(place.start, 1).is_some() => place.start,
            _ => window.start() + window.span() / 2,
        });
        self.show(window.zoomed(anchor, factor), now);
    }

    /// Where the chosen bar lies.
    pub(crate) fn place(&self) -> Option<Place> {
        self.lanes.find(self.chosen?).map(|(_, place)| place)
    }

    /// Chooses the run of `row` that is nearest to `at`.
    pub(crate) fn choose_near(&mut self, row: usize, at: Micros) {
        let Some(LaneRow { machine, lane, .. }) = self.rows.get(row) else { return };
        let before = self.lanes.neighbour(machine, *lane, at.saturating_add(1), false);
        let after = self.lanes.neighbour(machine, *lane, at, true);
        let gap = |(_, place): &(OpKey, Place)| match place.end {
            _ if place.start > at => place.start - at,
            Some(end) if end < at => at - end,
            _ => 0,
        };
        self.chosen = [before, after].into_iter().flatten().min_by_key(gap).map(|(key, _)| key);
    }

    /// Chooses the run that lies at `at`, or near it by a hundredth of what is seen; else none.
    pub(crate) fn choose_at(&mut self, row: usize, at: Micros) {
        self.choose_near(row, at);
        let near = self.span / 100;
        let is_there = self.place().is_some_and(|place| {
            place.start.saturating_sub(near) <= at
                && place.end.is_none_or(|end| end.saturating_add(near) >= at)
        });
        if !is_there {
            self.chosen = None;
        }
    }

    /// Chooses the run before or after the chosen one in its lane.
    pub(crate) fn step(&mut self, row: usize, later: bool, now: Stamp) {
        let Some(place) = self.place() else {
            return self.choose_near(row, self.window(now).end());
        };
        let Some(LaneRow { machine, lane, .. }) = self.rows.get(row) else { return };
        if let Some((key, _)) = self.lanes.neighbour(machine, *lane, place.start, later) {
            self.chosen = Some(key);
        }
    }

    /// Moves the window so that the beginning of the chosen bar is seen.
    pub(crate) fn reveal(&mut self, now: Stamp) {
        let Some(place) = self.place() else { return };
        let window = self.window(now);
        if window.cell_of(place.start, 1).is_none() {
            let start = place.start.saturating_sub(window.span() / 4);
            self.show(Window::new(start, window.span()), now);
        }
    }

    /// The number of a kind of actions: its colour.
    pub(crate) fn mnemonic(&self, mnemonic: &str) -> usize {
        self.mnemonics.iter().position(|known| &**known == mnemonic).unwrap_or(MNEMONICS)
    }

    /// Kinds of actions in the order of their numbers.
    pub(crate) fn mnemonics(&self) -> &[Arc<str>] {
        &self.mnemonics
    }

    fn number(&mut self, mnemonic: &Arc<str>) {
        if self.mnemonics.len() < MNEMONICS && !self.mnemonics.contains(mnemonic) {
            self.mnemonics.push(mnemonic.clone());
        }
    }
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            lanes: Lanes::default(),
            rows: Vec::new(),
            tells: Tells::default(),
            chosen: None,
            held: None,
            span: SPAN,
            end: None,
            mnemonics: Vec::new(),
        }
    }
}

/// When an operation began to run; `None` of those that do not run on a machine.
fn run_of(op: &Op) -> Option<Micros> {
    let ran = !matches!(op.status, Status::Queued | Status::Hit | Status::Upload) && !op.machine.is_empty();
    op.started.filter(|_| ran).map(|start| start.0)
}

/// Machines in the order of the farm, then those that left; each with its lanes.
fn rows(farm: &Farm, lanes: &Lanes) -> Vec<LaneRow> {
    let known = farm.machines.iter().map(|machine| (machine.name.as_str(), machine.slots as usize));
    let gone = lanes.machines().map(|(name, _)| (name, 0)).filter(|(name, _)| farm.machine(name).is_none());
    let mut rows = Vec::new();
    for (name, slots) in known.chain(gone) {
        let machine: Arc<str> = name.into();
        let count = slots.min(1024).max(lanes.count(name));
        rows.extend((0..count).map(|lane| LaneRow { machine: machine.clone(), lane, is_slot: lane < slots }));
    }
    rows
}

#[cfg(test)]
mod tests {
    use farmhand_proto::control::operation::Stage;
    use farmhand_proto::control::{Machine, Operation, WatchResponse};
    use farmhand_proto::protobuf::Timestamp;

    use super::*;

    const SECOND: Micros = 1_000_000;

    fn op(name: &str, machine: &str, start: i64, end: Option<i64>) -> Operation {
        let stamp = |seconds| Some(Timestamp { seconds, nanos: 0 });
        Operation {
            name: name.into(),
            machine: machine.into(),
            mnemonic: format!("Kind{name}"),
            stage: if end.is_some() { Stage::Done } else { Stage::Running }.into(),
            started: stamp(start),
            finished: end.and_then(stamp),
            sequence: end.map_or(0, |end| end as u64),
            ..Default::default()
        }
    }

    fn farm() -> Farm {
        let mut farm = Farm::default();
        let machine = |name: &str| Machine { name: name.into(), slots: 2, ..Default::default() };
        farm.apply(
            WatchResponse {
                machines: vec![machine("attic"), machine("shed")],
                operations: vec![
                    op("a", "attic", 10, Some(20)),
                    op("b", "attic", 12, None),
                    op("c", "attic", 21, Some(25)),
                    op("d", "gone", 11, Some(13)),
                    Operation { name: "queued".into(), ..Default::default() },
                ],
                ..Default::default()
            },
            std::time::Duration::ZERO,
        );
        farm
    }

    fn timeline() -> (Timeline, Farm) {
        let (mut timeline, farm) = (Timeline::default(), farm());
        timeline.refresh(&farm, &mut ListState::default());
        (timeline, farm)
    }

    #[test]
    fn every_slot_has_a_row_and_machines_that_left_too() {
        let (timeline, _) = timeline();
        let rows: Vec<_> = timeline.rows.iter().map(|row| (&*row.machine, row.lane, row.is_slot)).collect();
        assert_eq!(
            rows,
            [
                ("attic", 0, true),
                ("attic", 1, true),
                ("shed", 0, true),
                ("shed", 1, true),
                ("gone", 0, false)
            ]
        );
        assert_eq!((timeline.mnemonic("Kinda"), timeline.mnemonic("Kindd")), (0, 1));
    }

    #[test]
    fn choosing_goes_from_bar_to_bar() {
        let (mut timeline, farm) = timeline();
        let now = Stamp(30 * SECOND);
        let name =
            |timeline: &Timeline| timeline.chosen.map(|key| farm.ops.get(key).unwrap().name.to_string());
        timeline.step(0, true, now);
        assert_eq!(name(&timeline).as_deref(), Some("c"));
        timeline.step(0, false, now);
        assert_eq!(name(&timeline).as_deref(), Some("a"));
        timeline.choose_near(1, 15 * SECOND);
        assert_eq!(name(&timeline).as_deref(), Some("b"));
        timeline.choose_near(2, 15 * SECOND);
        assert_eq!(timeline.chosen, None);
    }

    #[test]
    fn the_window_follows_until_it_is_moved() {
        let (mut timeline, _) = timeline();
        let now = Stamp(1_000 * SECOND);
        assert_eq!(timeline.window(now).end(), now.0);
        timeline.zoom(0.5, None, now);
        assert!(timeline.follows() && timeline.window(now).span() == 30 * SECOND);
        timeline.show(timeline.window(now).panned(-15 * SECOND), now);
        assert!(!timeline.follows());
        timeline.zoom(2.0, Some(980 * SECOND), now);
        assert_eq!(timeline.window(now).span(), 60 * SECOND);
        timeline.choose_near(0, 0);
        timeline.reveal(now);
        assert!(timeline.window(now).cell_of(10 * SECOND, 1).is_some());
        timeline.follow();
        assert!(timeline.follows());
    }
}
