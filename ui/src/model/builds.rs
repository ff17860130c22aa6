//! What the builds view knows besides the farm: its rows, filtered and sorted.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::farm::{BuildRow, Farm};
use super::filter::Filter;
use super::list::{ListState, Sort};
use super::time::Stamp;

/// Columns one can sort by.
pub(crate) const COLUMNS: &[&str] =
    &["Build", "Tool", "Began", "Done", "Run", "Wait", "Hits", "Failed", "Up", "Down", "Share", "ETA"];

/// State of the builds view.
#[derive(Clone, Debug, Default)]
pub(crate) struct Builds {
    /// Invocations of the rows that are shown, in their order.
    pub(crate) rows: Vec<Arc<str>>,
    /// The build that is chosen; it stays so when rows move.
    pub(crate) chosen: Option<Arc<str>>,
    /// Which builds are wanted.
    pub(crate) filter: Option<Filter>,
    places: HashMap<Arc<str>, Places>,
}

/// Machines on which actions of a build run, and how many; the most first.
type Places = Vec<(Arc<str>, usize)>;

// === impl Builds ===

impl Builds {
    /// Makes the rows anew, and keeps the chosen build chosen.
    pub(crate) fn refresh(&mut self, farm: &Farm, now: Option<Stamp>, list: &mut ListState) {
        self.places = places(farm);
        let mut rows: Vec<_> = farm.builds.all().filter(|build| self.wants(build)).collect();
        rows.sort_by(|a, b| order(a, b, list.sort, now));
        self.rows = rows.into_iter().map(|build| build.invocation.clone()).collect();
        list.resize(self.rows.len());
        let at = self.chosen.as_ref().and_then(|chosen| self.rows.iter().position(|row| row == chosen));
        if let Some(at) = at {
            list.selected = at;
        }
        self.chosen = self.rows.get(list.selected).cloned();
    }

    /// Machines on which actions of a build run, and how many; the most first.
    pub(crate) fn places(&self, invocation: &str) -> &[(Arc<str>, usize)] {
        self.places.get(invocation).map_or(&[], Vec::as_slice)
    }

    fn wants(&self, build: &BuildRow) -> bool {
        let Some(filter) = &self.filter else { return true };
        let places = self.places(&build.invocation).iter().map(|(machine, _)| &**machine);
        let texts: Vec<&str> =
            [&*build.person, &build.wire.tool, &build.invocation].into_iter().chain(places).collect();
        filter.wants(&texts)
    }
}

fn places(farm: &Farm) -> HashMap<Arc<str>, Places> {
    let mut counts: HashMap<Arc<str>, BTreeMap<Arc<str>, usize>> = HashMap::new();
    for (_, op) in farm.ops.running().filter(|(_, op)| !op.machine.is_empty()) {
        *counts.entry(op.invocation.clone()).or_default().entry(op.machine.clone()).or_default() += 1;
    }
    let sorted = counts.into_iter().map(|(invocation, counts)| {
        let mut places: Places = counts.into_iter().collect();
        places.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        (invocation, places)
    });
    sorted.collect()
}

/// Without a wish: what is under way first, then the latest.
fn order(a: &BuildRow, b: &BuildRow, sort: Option<Sort>, now: Option<Stamp>) -> Ordering {
    let Some(sort) = sort else {
        return (b.is_active(now), b.number).cmp(&(a.is_active(now), a.number));
    };
    let wished = match sort.column {
        0 => a.label().cmp(&b.label()),
        1 => a.wire.tool.cmp(&b.wire.tool),
        2 => a.began().cmp(&b.began()),
        3 => a.done().cmp(&b.done()),
        4 | 10 => a.wire.running.cmp(&b.wire.running),
        5 => a.wire.queued.cmp(&b.wire.queued),
        6 => hit_rate(a).total_cmp(&hit_rate(b)),
        7 => a.wire.failed.cmp(&b.wire.failed),
        8 => a.wire.uploaded_bytes.cmp(&b.wire.uploaded_bytes),
        9 => a.wire.downloaded_bytes.cmp(&b.wire.downloaded_bytes),
        _ => a.remaining(now).cmp(&b.remaining(now)),
    };
    let wished = if sort.descending { wished.reverse() } else { wished };
    wished.then(b.number.cmp(&a.number))
}

fn hit_rate(build: &BuildRow) -> f64 {
    build.wire.hits as f64 / build.wire.lookups.max(1) as f64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use farmhand_proto::control::operation::Stage;
    use farmhand_proto::control::{Build, Operation, WatchResponse};

    use super::*;

    #[test]
    fn a_filter_by_machine_knows_where_a_build_runs_now() {
        let mut farm = Farm::default();
        let build = Build { invocation: "b".into(), ..Default::default() };
        let on = |machine: &str| Operation {
            name: "operations/1".into(),
            invocation: "b".into(),
            stage: Stage::Running.into(),
            machine: machine.into(),
            ..Default::default()
        };
        let told = WatchResponse { builds: vec![build], operations: vec![on("attic")], ..Default::default() };
        farm.apply(told, Duration::ZERO);
        let (mut builds, mut list) = (Builds::default(), ListState::default());
        builds.filter = Filter::parse("kitchen").unwrap();
        builds.refresh(&farm, None, &mut list);
        assert!(builds.rows.is_empty());
        farm.apply(WatchResponse { operations: vec![on("kitchen")], ..Default::default() }, Duration::ZERO);
        builds.refresh(&farm, None, &mut list);
        assert_eq!(
            (builds.rows.as_slice(), builds.places("b")),
            (&["b".into()][..], &[("kitchen".into(), 1)][..])
        );
    }
}
