//! Which lane of the timeline each run is drawn in, and which part of time is seen.
//!
//! A machine has as many lanes as it has slots, and more where more ran at once. A run takes the
//! lowest lane of its machine that is free all through it, and keeps it for as long as it is known:
//! a bar never jumps. Times are microseconds since 1970, so that arithmetic is plain.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use crate::model::OpKey;

/// Microseconds since 1970.
pub(crate) type Micros = i64;

/// One run on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run<'a> {
    /// The operation.
    pub(crate) key: OpKey,
    /// Machine that ran it.
    pub(crate) machine: &'a str,
    /// When it began there.
    pub(crate) start: Micros,
    /// When it was over; `None` while it runs.
    pub(crate) end: Option<Micros>,
}

/// Where a run is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Lane within the machine, from 0.
    pub(crate) lane: usize,
    /// When it began.
    pub(crate) start: Micros,
    /// When it was over.
    pub(crate) end: Option<Micros>,
}

/// The lanes of all machines.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lanes {
    machines: BTreeMap<Arc<str>, Vec<Lane>>,
    places: HashMap<OpKey, (Arc<str>, Place)>,
}

/// Runs of one lane by their start; none overlaps another.
#[derive(Clone, Debug, Default)]
struct Lane(BTreeMap<Micros, (Option<Micros>, OpKey)>);

/// The part of time that is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    start: Micros,
    span: Micros,
}

// === impl Lanes ===

impl Lanes {
    /// Takes in what is known of a run now. Runs are best told in the order of their start.
    pub(crate) fn place(&mut self, run: Run<'_>) -> Place {
        let end = run.end.map(|end| end.max(run.start));
        if let Some((machine, place)) = self.places.get_mut(&run.key) {
            if &**machine == run.machine && place.start == run.start {
                if place.end != end {
                    place.end = end;
                    let lane = self.machines.get_mut(run.machine).and_then(|lanes| lanes.get_mut(place.lane));
                    if let Some((known, _)) = lane.and_then(|lane| lane.0.get_mut(&run.start)) {
                        *known = end;
                    }
                }
                return *place;
            }
            self.forget(run.key);
        }
        let machine = self
            .machines
            .get_key_value(run.machine)
            .map_or_else(|| run.machine.into(), |(name, _)| name.clone());
        let lanes = self.machines.entry(Arc::clone(&machine)).or_default();
        let lane = lanes.iter().position(|lane| lane.is_free(run.start, end)).unwrap_or_else(|| {
            lanes.push(Lane::default());
            lanes.len() - 1
        });
        lanes[lane].0.insert(run.start, (end, run.key));
        let place = Place { lane, start: run.start, end };
        self.places.insert(run.key, (machine, place));
        place
    }

    /// Forgets every run that `is_known` does not know.
    pub(crate) fn retain(&mut self, is_known: impl Fn(OpKey) -> bool) {
        let gone: Vec<OpKey> = self.places.keys().copied().filter(|key| !is_known(*key)).collect();
        gone.into_iter().for_each(|key| self.forget(key));
        self.machines.retain(|_, lanes| {
            while lanes.last().is_some_and(|lane| lane.0.is_empty()) {
                lanes.pop();
            }
            !lanes.is_empty()
        });
    }

    /// Machines that ran something, by name, each with the number of its lanes.
    pub(crate) fn machines(&self) -> impl Iterator<Item = (&str, usize)> {
        self.machines.iter().map(|(name, lanes)| (&**name, lanes.len()))
    }

    /// How many lanes a machine has.
    pub(crate) fn count(&self, machine: &str) -> usize {
        self.machines.get(machine).map_or(0, Vec::len)
    }

    /// The runs of a lane that touch `window`, by their start.
    pub(crate) fn runs(&self, machine: &str, lane: usize, window: Window) -> Vec<(OpKey, Place)> {
        let Some(Lane(runs)) = self.machines.get(machine).and_then(|lanes| lanes.get(lane)) else {
            return Vec::new();
        };
        let before = runs.range(..window.start).next_back();
        before
            .into_iter()
            .chain(runs.range(window.start..window.end()))
            .filter(|(_, (end, _))| end.is_none_or(|end| end >= window.start))
            .map(|(&start, (end, key))| (*key, Place { lane, start, end: *end }))
            .collect()
    }

    /// The run of a lane before `at`, or after it.
    pub(crate) fn neighbour(
        &self,
        machine: &str,
        lane: usize,
        at: Micros,
        later: bool,
    ) -> Option<(OpKey, Place)> {
        let Lane(runs) = self.machines.get(machine)?.get(lane)?;
        let found = match later {
            true => runs.range(at.saturating_add(1)..).next(),
            false => runs.range(..at).next_back(),
        };
        found.map(|(&start, (end, key))| (*key, Place { lane, start, end: *end }))
    }

    /// Where a run is drawn, with its machine.
    pub(crate) fn find(&self, key: OpKey) -> Option<(&str, Place)> {
        self.places.get(&key).map(|(machine, place)| (&**machine, *place))
    }

    fn forget(&mut self, key: OpKey) {
        let Some((machine, place)) = self.places.remove(&key) else { return };
        if let Some(lane) = self.machines.get_mut(&machine).and_then(|lanes| lanes.get_mut(place.lane)) {
            lane.0.remove(&place.start);
        }
    }
}

// === impl Lane ===

impl Lane {
    /// Whether nothing in it overlaps `start` to `end`.
    fn is_free(&self, start: Micros, end: Option<Micros>) -> bool {
        let before = self.0.range(..start).next_back();
        let after = self.0.range(start..).next();
        before.is_none_or(|(_, (over, _))| over.is_some_and(|over| over <= start))
            && after.is_none_or(|(&next, _)| next > start && end.is_some_and(|end| end <= next))
    }
}

// === impl Window ===

impl Window {
    /// Least and most time that can be seen at once.
    pub(crate) const SPANS: Range<Micros> = 10_000..7 * 86_400_000_000;

    /// `span` of time from `start` on.
    pub(crate) fn new(start: Micros, span: Micros) -> Self {
        Self { start, span: span.clamp(Self::SPANS.start, Self::SPANS.end) }
    }

    /// `span` of time up to `end`.
    pub(crate) fn ending(end: Micros, span: Micros) -> Self {
        let window = Self::new(end, span);
        window.panned(-window.span)
    }

    /// The first moment seen.
    pub(crate) fn start(self) -> Micros {
        self.start
    }

    /// The first moment not seen any more.
    pub(crate) fn end(self) -> Micros {
        self.start.saturating_add(self.span)
    }

    /// How much is seen.
    pub(crate) fn span(self) -> Micros {
        self.span
    }

    /// The same span, `by` later.
    #[must_use]
    pub(crate) fn panned(self, by: Micros) -> Self {
        Self { start: self.start.saturating_add(by), ..self }
    }

    /// `factor` times as much time, with `anchor` at the same place of the screen.
    #[must_use]
    pub(crate) fn zoomed(self, anchor: Micros, factor: f64) -> Self {
        let zoomed = Self::new(self.start, (self.span as f64 * factor) as Micros);
        let share = (anchor.saturating_sub(self.start)) as f64 / self.span as f64;
        let start = anchor.saturating_sub((share * zoomed.span as f64) as Micros);
        Self { start, ..zoomed }
    }

    /// The moment at the left edge of `cell` of `width`.
    pub(crate) fn time_at(self, cell: u16, width: u16) -> Micros {
        let offset = i128::from(self.span) * i128::from(cell) / i128::from(width.max(1));
        self.start.saturating_add(Micros::try_from(offset).unwrap_or(Micros::MAX))
    }

    /// The cell of `width` that shows `at`; `None` when it is not seen.
    pub(crate) fn cell_of(self, at: Micros, width: u16) -> Option<u16> {
        if at < self.start || at >= self.end() {
            return None;
        }
        let offset = i128::from(at - self.start) * i128::from(width) / i128::from(self.span);
        u16::try_from(offset).ok().filter(|&cell| cell < width)
    }

    /// The cells of `width` a bar from `start` to `end` touches, at least one; `None` when none of
    /// it is seen.
    pub(crate) fn cells_of(self, start: Micros, end: Micros, width: u16) -> Option<Range<u16>> {
        if width == 0 || end < self.start || start >= self.end() {
            return None;
        }
        let first = self.cell_of(start.max(self.start), width)?;
        let last = self.cell_of(end.min(self.end()).saturating_sub(1), width).unwrap_or(first).max(first);
        Some(first..last + 1)
    }

    /// The distance of marks on the axis, so that about `wanted` of them are seen: one, two or five
    /// of a unit, or what clocks have.
    pub(crate) fn step(self, wanted: u16) -> Micros {
        const SECONDS: [i64; 13] = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 21_600];
        let ideal = self.span / i64::from(wanted.max(1));
        let below = (3..6).flat_map(|power| [1, 2, 5].map(|n| n * 10_i64.pow(power)));
        let clock = SECONDS.into_iter().map(|seconds| seconds * 1_000_000);
        below.chain(clock).find(|&step| step >= ideal).unwrap_or(86_400_000_000)
    }
}

/// What one cell of a lane shows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cover {
    /// Which of the runs covers the most of it.
    pub(crate) run: Option<usize>,
    /// How much of it is covered by all of them, 0 to 1.
    pub(crate) share: f32,
}

/// What each of `width` cells shows of the runs of one lane; those that run still reach to `now`.
pub(crate) fn cover(runs: &[(OpKey, Place)], window: Window, width: u16, now: Micros) -> Vec<Cover> {
    let mut cells = vec![Cover::default(); usize::from(width)];
    let mut most = vec![0.0_f32; usize::from(width)];
    let per_cell = window.span as f64 / f64::from(width.max(1));
    for (index, (_, place)) in runs.iter().enumerate() {
        let end = place.end.unwrap_or(now).max(place.start);
        let Some(touched) = window.cells_of(place.start, end, width) else { continue };
        for cell in touched {
            let left = f64::from(cell) * per_cell;
            let from = (place.start.saturating_sub(window.start) as f64).max(left);
            let to = (end.saturating_sub(window.start) as f64).min(left + per_cell);
            let share = ((to - from) / per_cell).clamp(0.0, 1.0) as f32;
            let cell = usize::from(cell);
            cells[cell].share = (cells[cell].share + share).min(1.0);
            if cells[cell].run.is_none() || share > most[cell] {
                cells[cell].run = Some(index);
                most[cell] = share;
            }
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: OpKey = OpKey(1);
    const B: OpKey = OpKey(2);
    const C: OpKey = OpKey(3);
    const D: OpKey = OpKey(4);

    fn run(key: OpKey, machine: &str, start: Micros, end: Option<Micros>) -> Run<'_> {
        Run { key, machine, start, end }
    }

    #[test]
    fn the_lowest_free_lane_and_for_good() {
        let mut lanes = Lanes::default();
        assert_eq!(lanes.place(run(A, "m", 0, None)).lane, 0);
        assert_eq!(lanes.place(run(B, "m", 1, None)).lane, 1);
        assert_eq!(lanes.place(run(A, "m", 0, Some(5))).lane, 0);
        assert_eq!(lanes.place(run(C, "m", 5, None)).lane, 0);
        assert_eq!(lanes.place(run(D, "n", 5, None)).lane, 0);
        assert_eq!(lanes.place(run(B, "m", 1, Some(9))), Place { lane: 1, start: 1, end: Some(9) });
        assert_eq!(lanes.machines().collect::<Vec<_>>(), [("m", 2), ("n", 1)]);
        assert_eq!(lanes.find(B).unwrap(), ("m", Place { lane: 1, start: 1, end: Some(9) }));
    }

    #[test]
    fn one_that_begins_anew_elsewhere_moves() {
        let mut lanes = Lanes::default();
        lanes.place(run(A, "m", 0, None));
        assert_eq!(lanes.place(run(A, "n", 7, None)).start, 7);
        assert_eq!(lanes.find(A).unwrap().0, "n");
        assert!(lanes.runs("m", 0, Window::new(0, 100_000)).is_empty());
    }

    #[test]
    fn what_is_forgotten_leaves_no_lane() {
        let mut lanes = Lanes::default();
        lanes.place(run(A, "m", 0, None));
        lanes.place(run(B, "m", 0, None));
        lanes.retain(|key| key == A);
        assert_eq!(lanes.machines().collect::<Vec<_>>(), [("m", 1)]);
        lanes.retain(|_| false);
        assert_eq!(lanes.machines().count(), 0);
        assert_eq!(lanes.find(A), None);
    }

    #[test]
    fn only_what_touches_the_window_is_drawn() {
        let mut lanes = Lanes::default();
        for (key, start, end) in [(A, 0, Some(10)), (B, 10, Some(60_000)), (C, 60_000, None)] {
            lanes.place(run(key, "m", start, end));
        }
        let keys = |window| lanes.runs("m", 0, window).into_iter().map(|(key, _)| key).collect::<Vec<_>>();
        assert_eq!(keys(Window::new(20_000, 10_000)), [B]);
        assert_eq!(keys(Window::new(0, 100_000)), [A, B, C]);
        assert_eq!(keys(Window::new(200_000, 10_000)), [C]);
        assert_eq!(lanes.runs("m", 7, Window::new(0, 100_000)), []);
    }

    #[test]
    fn zoom_keeps_the_anchor_and_pan_the_span() {
        let window = Window::new(1_000_000, 100_000);
        let closer = window.zoomed(1_050_000, 0.5);
        assert_eq!((closer.start(), closer.end()), (1_025_000, 1_075_000));
        assert_eq!(window.panned(5).start(), 1_000_005);
        assert_eq!(Window::ending(1_000_000, 100_000).end(), 1_000_000);
        assert_eq!(window.zoomed(1_050_000, 0.0).span(), Window::SPANS.start);
        assert_eq!(window.zoomed(1_050_000, 1e30).span(), Window::SPANS.end);
    }

    #[test]
    fn cells_and_times() {
        let window = Window::new(0, 100_000);
        assert_eq!((window.time_at(5, 10), window.cell_of(59_999, 10)), (50_000, Some(5)));
        assert_eq!([window.cell_of(-1, 10), window.cell_of(100_000, 10)], [None, None]);
        assert_eq!(window.cells_of(10_000, 30_000, 10), Some(1..3));
        assert_eq!(window.cells_of(10_000, 10_000, 10), Some(1..2));
        assert_eq!(window.cells_of(-50, 500_000, 10), Some(0..10));
        assert_eq!(window.cells_of(100_000, 200_000, 10), None);
        assert_eq!(window.step(10), 10_000);
        assert_eq!(Window::new(0, 60_000_000).step(4), 15_000_000);
    }

    #[test]
    fn a_cell_shows_the_longest_and_how_full_it_is() {
        let window = Window::new(0, 100_000);
        let place = |start, end| Place { lane: 0, start, end };
        let runs = [(A, place(0, Some(2_500))), (B, place(2_500, Some(15_000))), (C, place(30_000, None))];
        let cells = cover(&runs, window, 10, 40_000);
        assert_eq!(cells[0], Cover { run: Some(1), share: 1.0 });
        assert_eq!(cells[1], Cover { run: Some(1), share: 0.5 });
        assert_eq!(cells[2], Cover::default());
        assert_eq!(cells[3], Cover { run: Some(2), share: 1.0 });
        assert_eq!(cells[4].run, None);
    }

    #[test]
    fn neighbours_in_a_lane() {
        let mut lanes = Lanes::default();
        for (key, start, end) in [(A, 0, Some(10)), (B, 10, Some(20)), (C, 30, None)] {
            lanes.place(run(key, "m", start, end));
        }
        let neighbour = |at, later| lanes.neighbour("m", 0, at, later).map(|(key, _)| key);
        assert_eq!(
            [neighbour(10, true), neighbour(10, false), neighbour(0, false)],
            [Some(C), Some(A), None]
        );
        assert_eq!(lanes.neighbour("n", 0, 5, true), None);
    }

    proptest! {
        #[test]
        fn lanes_never_overlap(told in prop::collection::vec((0_u64..12, 0_usize..2, 0_i64..50, 0_i64..20), 0..60)) {
            let mut lanes = Lanes::default();
            let mut known: HashMap<u64, (usize, Micros, Micros)> = HashMap::new();
            for (name, machine, start, length) in told {
                let (machine, start, length) = *known.entry(name).or_insert((machine, start, length));
                lanes.place(run(OpKey(name), ["m", "n"][machine], start, Some(start + length)));
            }
            for lanes in lanes.machines.values() {
                for Lane(runs) in lanes {
                    let mut over = Micros::MIN;
                    for (&start, (end, _)) in runs {
                        prop_assert!(start >= over);
                        over = end.unwrap();
                    }
                }
            }
            prop_assert_eq!(lanes.places.len(), known.len());
        }

        #[test]
        fn no_window_panics(start in any::<i64>(), span in any::<i64>(), anchor in any::<i64>(), factor in any::<f64>(), at in any::<i64>(), width in 0_u16..400) {
            let window = Window::new(start, span).zoomed(anchor, factor).panned(at);
            let _ = (window.cell_of(at, width), window.cells_of(at, anchor, width), window.step(width));
            prop_assert!(window.end() >= window.start());
            let bars = [(A, Place { lane: 0, start: at, end: Some(anchor.max(at)) })];
            prop_assert_eq!(cover(&bars, window, width, at).len(), usize::from(width));
        }
    }
}
