//! What the cache view knows besides the farm: rows of hit rates, filtered and sorted, and the
//! forecast of the store.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::control::Machine;
use farmhand_proto::time::std_duration;

use super::copies;
use super::farm::Farm;
use super::filter::Filter;
use super::list::{ListId, ListState};
use super::time::Stamp;

/// Columns one can sort by.
pub(crate) const COLUMNS: &[&str] = &["Name", "Look-ups", "Hits", "Rate", "Ran", "Failed", "Saved", "Time"];

/// Least time over which growth is measured.
const MEASURED: Duration = Duration::from_secs(20);

/// What the rows are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Part {
    /// A row a kind of actions.
    #[default]
    Kinds,
    /// A row a build.
    Builds,
    /// The copies on other machines, a row a machine.
    Copies,
}

/// Hits and misses of something.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rate {
    /// What it is of.
    pub(crate) name: String,
    /// Number of the sender, of a build.
    pub(crate) sender: Option<usize>,
    /// Look-ups in the action cache.
    pub(crate) lookups: u64,
    /// Those that found a result.
    pub(crate) hits: u64,
    /// Actions that ran.
    pub(crate) ran: u64,
    /// Those that failed.
    pub(crate) failed: u64,
    /// Time that hits saved, of a kind.
    pub(crate) saved: Option<Duration>,
    /// Time all commands ran, of a kind.
    pub(crate) time: Option<Duration>,
}

/// How the store goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Forecast {
    /// Too little is known.
    Unknown,
    /// It does not grow.
    Steady,
    /// It is at its budget: what comes displaces what was there. Blobs a minute.
    Evicting(f64),
    /// It grows by these bytes a second, and is full after this time at that.
    Full(f64, Duration),
}

/// State of the cache view.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cache {
    /// What the rows are of.
    pub(crate) part: Part,
    /// The rows, in their order.
    pub(crate) rows: Vec<Rate>,
    /// The machines that are shown, by name, in their order.
    pub(crate) machines: Vec<Arc<str>>,
    /// Which are wanted.
    pub(crate) filter: Option<Filter>,
}

// === impl Part ===

impl Part {
    /// All, in the order of their tabs.
    pub(crate) const ALL: [Self; 3] = [Self::Kinds, Self::Builds, Self::Copies];

    /// Its name.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Kinds => "By kind",
            Self::Builds => "By build",
            Self::Copies => "Copies",
        }
    }

    /// The one `steps` further on.
    pub(crate) fn step(self, steps: isize) -> Self {
        let count = Self::ALL.len();
        Self::ALL[(self as usize).wrapping_add_signed(steps).wrapping_add(count) % count]
    }

    /// The list of its rows.
    pub(crate) fn list(self) -> ListId {
        match self {
            Self::Kinds | Self::Builds => ListId::Cache,
            Self::Copies => ListId::Copies,
        }
    }
}

// === impl Rate ===

impl Rate {
    /// The share of look-ups that found a result.
    pub(crate) fn share(&self) -> Option<f64> {
        (self.lookups > 0).then(|| self.hits as f64 / self.lookups as f64)
    }
}

// === impl Cache ===

impl Cache {
    /// Brings the rows up to date with the farm.
    pub(crate) fn refresh(&mut self, farm: &Farm, list: &mut ListState) {
        let mut rows = match self.part {
            Part::Kinds => kinds(farm),
            Part::Builds => builds(farm),
            Part::Copies => return self.refresh_machines(farm, list),
        };
        rows.retain(|row| self.filter.as_ref().is_none_or(|filter| filter.wants(&[&row.name])));
        let (column, descending) = list.sort.map_or((1, true), |sort| (sort.column, sort.descending));
        rows.sort_by(|a, b| {
            let order = compare(a, b, column);
            let order = if descending { order.reverse() } else { order };
            order.then_with(|| a.name.cmp(&b.name))
        });
        self.rows = rows;
        list.resize(self.rows.len());
    }

    fn refresh_machines(&mut self, farm: &Farm, list: &mut ListState) {
        let texts = |machine: &Machine| [machine.name.clone(), copies::role_words(farm, machine).0];
        let is_wanted = |machine: &&Machine| {
            let texts = texts(machine);
            self.filter.as_ref().is_none_or(|filter| filter.wants(&[&texts[0], &texts[1]]))
        };
        let mut machines: Vec<&Machine> = farm.machines.iter().filter(is_wanted).collect();
        if let Some(sort) = list.sort {
            machines.sort_by(|a, b| {
                let order = copies::compare(farm, a, b, sort.column);
                if sort.descending { order.reverse() } else { order }
            });
        }
        self.machines = machines.into_iter().map(|machine| machine.name.as_str().into()).collect();
        list.resize(self.machines.len());
    }
}

/// How the store goes on, by the samples and the space there is.
pub(crate) fn forecast(farm: &Farm) -> Forecast {
    let (Some(first), Some(last)) = (farm.samples.front(), farm.samples.back()) else {
        return Forecast::Unknown;
    };
    let begun = Stamp::of(first.at.as_ref()).zip(Stamp::of(last.at.as_ref()));
    let Some(length) = begun.map(|(first, last)| last.since(first)).filter(|length| *length >= MEASURED)
    else {
        return Forecast::Unknown;
    };
    let evicted: u64 = farm.samples.iter().map(|sample| u64::from(sample.evicted)).sum();
    if evicted > 0 {
        return Forecast::Evicting(evicted as f64 * 60.0 / length.as_secs_f64());
    }
    let growth = last.used_bytes as f64 - first.used_bytes as f64;
    let rate = growth / length.as_secs_f64();
    if rate < 1.0 {
        return Forecast::Steady;
    }
    let own = farm.machines.iter().find(|machine| machine.is_self).and_then(|machine| machine.load.as_ref());
    let room = farm.storage.budget_bytes.saturating_sub(farm.storage.used_bytes);
    // A disk that others fill as well is full before the budget is.
    let room = own.map_or(room, |load| room.min(load.disk_free));
    Forecast::Full(rate, Duration::from_secs_f64((room as f64 / rate).min(1e9)))
}

/// Time that hits saved, of all kinds of actions.
pub(crate) fn saved(farm: &Farm) -> Duration {
    farm.mnemonics.values().filter_map(|kind| kind.saved_time.as_ref().and_then(std_duration)).sum()
}

fn kinds(farm: &Farm) -> Vec<Rate> {
    let row = |kind: &farmhand_proto::control::Mnemonic| Rate {
        name: if kind.name.is_empty() { "(none)".to_owned() } else { kind.name.clone() },
        sender: None,
        lookups: kind.lookups,
        hits: kind.hits,
        ran: kind.executed,
        failed: kind.failed,
        saved: kind.saved_time.as_ref().and_then(std_duration),
        time: kind.run_time.as_ref().and_then(std_duration),
    };
    farm.mnemonics.values().map(row).collect()
}

fn builds(farm: &Farm) -> Vec<Rate> {
    let row = |build: &super::farm::BuildRow| Rate {
        name: build.label(),
        sender: Some(build.sender),
        lookups: build.wire.lookups,
        hits: build.wire.hits,
        ran: build.wire.executed,
        failed: build.wire.failed,
        saved: None,
        time: None,
    };
    farm.builds.all().map(row).collect()
}

fn compare(a: &Rate, b: &Rate, column: usize) -> Ordering {
    match column {
        0 => a.name.cmp(&b.name),
        1 => a.lookups.cmp(&b.lookups),
        2 => a.hits.cmp(&b.hits),
        3 => a.share().unwrap_or(-1.0).total_cmp(&b.share().unwrap_or(-1.0)),
        4 => a.ran.cmp(&b.ran),
        5 => a.failed.cmp(&b.failed),
        6 => a.saved.cmp(&b.saved),
        _ => a.time.cmp(&b.time),
    }
}

#[cfg(test)]
mod tests {
    use farmhand_proto::control::{Mnemonic, Sample, Storage, WatchResponse};
    use farmhand_proto::protobuf::{self, Timestamp};

    use super::super::list::Sort;
    use super::*;

    fn farm(used: [u64; 3], evicted: u32) -> Farm {
        let sample = |(at, used_bytes): (usize, u64)| Sample {
            at: Some(Timestamp { seconds: 100 + 30 * at as i64, nanos: 0 }),
            used_bytes,
            evicted,
            ..Default::default()
        };
        let kind = |name: &str, lookups, hits, saved| Mnemonic {
            name: name.into(),
            lookups,
            hits,
            saved_time: Some(protobuf::Duration { seconds: saved, nanos: 0 }),
            ..Default::default()
        };
        let mut farm = Farm::default();
        let message = WatchResponse {
            samples: used.into_iter().enumerate().map(sample).collect(),
            mnemonics: vec![kind("Link", 10, 9, 5), kind("Compile", 100, 10, 60), kind("", 0, 0, 0)],
            storage: Some(Storage { used_bytes: used[2], budget_bytes: 16_000, ..Default::default() }),
            ..Default::default()
        };
        farm.apply(message, Duration::ZERO);
        farm
    }

    #[test]
    fn the_forecast_says_only_what_is_known() {
        assert_eq!(forecast(&Farm::default()), Forecast::Unknown);
        assert_eq!(forecast(&farm([5, 5, 5], 0)), Forecast::Steady);
        assert_eq!(forecast(&farm([0, 0, 0], 2)), Forecast::Evicting(6.0));
        assert_eq!(
            forecast(&farm([4_000, 7_000, 10_000], 0)),
            Forecast::Full(100.0, Duration::from_secs(60))
        );
    }

    #[test]
    fn rows_are_sorted_by_what_is_wanted() {
        let (farm, mut cache, mut list) = (farm([0; 3], 0), Cache::default(), ListState::default());
        let names = |cache: &Cache| cache.rows.iter().map(|row| row.name.clone()).collect::<Vec<_>>();
        cache.refresh(&farm, &mut list);
        assert_eq!(names(&cache), ["Compile", "Link", "(none)"]);
        list.sort = Some(Sort { column: 3, descending: true });
        cache.refresh(&farm, &mut list);
        assert_eq!(names(&cache), ["Link", "Compile", "(none)"]);
        cache.filter = Filter::parse("comp").unwrap();
        cache.refresh(&farm, &mut list);
        assert_eq!((names(&cache), list.len), (vec!["Compile".to_owned()], 1));
        cache.part = cache.part.step(1);
        cache.filter = None;
        cache.refresh(&farm, &mut list);
        assert!(cache.rows.is_empty());
        assert_eq!(saved(&farm), Duration::from_secs(65));
    }
}
