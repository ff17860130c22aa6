//! What the machines view knows besides the farm: its rows, filtered and sorted, and the settings of
//! the node.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::control::{Machine, Setting, machine};
use farmhand_proto::time::std_duration;

use super::copies::{Leave, leave, role_word};
use super::farm::Farm;
use super::filter::Filter;
use super::list::ListState;
use crate::{format, sanitize};

/// Columns one can sort by.
pub(crate) const COLUMNS: &[&str] = &[
    "Name", "State", "Slots", "Guests", "CPU", "Memory", "Pressure", "Net", "Disk", "RTT", "Heard", "Copies",
    "Owed",
];

/// State of the machines view.
#[derive(Clone, Debug, Default)]
pub(crate) struct Machines {
    /// The rows that are shown, by name, in their order.
    pub(crate) rows: Vec<Arc<str>>,
    /// The machine that is chosen; it stays so when rows move.
    pub(crate) chosen: Option<Arc<str>>,
    /// Which machines are wanted.
    pub(crate) filter: Option<Filter>,
    /// Settings of the node that are not the defaults; `None` before they were told.
    pub(crate) settings: Option<Vec<(String, String)>>,
    lease: Option<Duration>,
    repair_after: Option<Duration>,
}

// === impl Machines ===

impl Machines {
    /// Brings the rows up to date with the farm.
    pub(crate) fn refresh(&mut self, farm: &Farm, list: &mut ListState) {
        let wanted = |machine: &&Machine| {
            self.filter.as_ref().is_none_or(|filter| filter.wants(&texts(farm, machine)))
        };
        let mut machines: Vec<&Machine> = farm.machines.iter().filter(wanted).collect();
        if let Some(sort) = list.sort {
            machines.sort_by(|a, b| {
                let order = compare(farm, a, b, sort.column);
                if sort.descending { order.reverse() } else { order }
            });
        }
        self.rows = machines.into_iter().map(|machine| machine.name.as_str().into()).collect();
        list.resize(self.rows.len());
        match self.chosen.as_ref().and_then(|chosen| self.rows.iter().position(|name| name == chosen)) {
            Some(row) => list.select(row),
            None => self.chosen = self.rows.get(list.selected).cloned(),
        }
    }

    /// A row was chosen.
    pub(crate) fn choose(&mut self, row: usize) {
        self.chosen = self.rows.get(row).cloned();
    }

    /// How long the node keeps what clients were told of, as far as its settings were told.
    pub(crate) fn lease(&self) -> Option<Duration> {
        self.lease
    }

    /// How long a machine may be away before its copies are made anew, as far as the settings were told.
    pub(crate) fn repair_after(&self) -> Option<Duration> {
        self.repair_after
    }

    /// Takes the settings of the node; defaults are left out.
    pub(crate) fn take(&mut self, settings: Vec<Setting>) {
        let clean = |text: &str| sanitize::line(text).into_owned();
        let length_of = |name: &str| {
            let found = settings.iter().find(|setting| setting.name == name);
            found.and_then(|setting| length(&setting.value))
        };
        self.lease = length_of("lease");
        self.repair_after = length_of("repair-after");
        let own = settings.iter().filter(|setting| !setting.is_default);
        self.settings = Some(own.map(|setting| (clean(&setting.name), clean(&setting.value))).collect());
    }
}

/// The share of memory that is in use.
pub(crate) fn memory(machine: &Machine) -> Option<f64> {
    let load = machine.load.as_ref().filter(|load| load.memory_total > 0)?;
    Some(1.0 - load.memory_available.min(load.memory_total) as f64 / load.memory_total as f64)
}

/// The greatest of its pressures.
pub(crate) fn pressure(machine: &Machine) -> Option<f64> {
    let load = machine.load.as_ref()?;
    let pressures = [load.cpu_pressure, load.memory_pressure, load.io_pressure];
    pressures.into_iter().flatten().max_by(f64::total_cmp)
}

/// The share of its budget of blobs that is used.
pub(crate) fn disk(machine: &Machine) -> Option<f64> {
    (machine.budget_bytes > 0).then(|| machine.used_bytes as f64 / machine.budget_bytes as f64)
}

/// Time to it and back.
pub(crate) fn round_trip(machine: &Machine) -> Option<Duration> {
    machine.round_trip.as_ref().and_then(std_duration)
}

/// A short time, in milliseconds whatever it is, so that a column of them can be compared.
pub(crate) fn milliseconds(time: Duration) -> String {
    match time.as_secs_f64() * 1000.0 {
        short @ ..10.0 => format!("{short:.1} ms"),
        long => format!("{long:.0} ms"),
    }
}

/// Seconds by which its clock is ahead of that of the node; negative when it is behind.
pub(crate) fn clock_ahead(machine: &Machine) -> Option<f64> {
    let ahead = machine.clock_ahead.as_ref()?;
    Some(ahead.seconds as f64 + f64::from(ahead.nanos) / 1e9)
}

/// How far a clock is off.
pub(crate) fn clock_words(ahead: f64) -> String {
    let way = if ahead < 0.0 { "behind" } else { "ahead" };
    match ahead.abs() {
        off if !off.is_finite() || off < 0.05 => "clock in step".to_owned(),
        off => format!("clock {} {way}", format::duration(Duration::from_secs_f64(off.min(1e9)))),
    }
}

/// What its state means, in a few words.
pub(crate) fn state_words(farm: &Farm, machine: &Machine) -> &'static str {
    match machine.state() {
        machine::State::Active => "active",
        machine::State::Yielding => "yielding",
        machine::State::Draining if matches!(leave(farm, machine), Some(Leave::Safe | Leave::NotTold)) => {
            "drained"
        }
        machine::State::Draining => "draining",
        machine::State::Paused => "paused",
        machine::State::Lost => "lost",
        machine::State::Connecting => "calling",
        machine::State::Refused => "refused",
        machine::State::Incompatible => "misfit",
        machine::State::Unspecified => "not told",
    }
}

/// A length as the configuration has it: `90s`, `5m`, `3h`, `2d`.
fn length(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let seconds = match unit.trim() {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    Some(Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(seconds)?))
}

fn texts<'a>(farm: &Farm, machine: &'a Machine) -> [&'a str; 7] {
    let Machine { name, os, arch, version, found_by, address, .. } = machine;
    [name, os, arch, version, found_by, address, state_words(farm, machine)]
}

fn compare(farm: &Farm, a: &Machine, b: &Machine, column: usize) -> Ordering {
    let number =
        |value: fn(&Machine) -> Option<f64>| value(a).unwrap_or(-1.0).total_cmp(&value(b).unwrap_or(-1.0));
    let net =
        |machine: &Machine| machine.load.as_ref().map(|load| load.received.saturating_add(load.sent) as f64);
    let heard = |machine: &Machine| {
        let age = machine.last_heard.as_ref().and_then(std_duration);
        age.map(|age| age.as_secs_f64())
    };
    match column {
        0 => a.name.cmp(&b.name),
        1 => a.state.cmp(&b.state),
        2 => (a.busy, a.slots).cmp(&(b.busy, b.slots)),
        3 => number(|machine| machine.guests.map(f64::from)),
        4 => number(|machine| machine.load.as_ref().map(|load| load.cpu)),
        5 => number(memory),
        6 => number(pressure),
        7 => number(net),
        8 => number(disk),
        9 => number(|machine| round_trip(machine).map(|time| time.as_secs_f64())),
        10 => number(heard),
        11 => role_word(farm, a).0.cmp(role_word(farm, b).0),
        _ => a.owed_bytes.cmp(&b.owed_bytes),
    }
}

#[cfg(test)]
mod tests {
    use farmhand_proto::control::{Load, WatchResponse};

    use super::super::list::Sort;
    use super::*;

    fn farm() -> Farm {
        let machine = |name: &str, cpu, busy| Machine {
            name: name.into(),
            busy,
            slots: 4,
            load: Some(Load { cpu, memory_total: 100, memory_available: 25, ..Default::default() }),
            used_bytes: 1,
            budget_bytes: 4,
            ..Default::default()
        };
        let mut farm = Farm::default();
        let machines = vec![machine("shed", 0.5, 1), machine("attic", 0.9, 0), machine("desk", 0.1, 4)];
        farm.apply(WatchResponse { machines, ..Default::default() }, std::time::Duration::ZERO);
        farm
    }

    #[test]
    fn rows_are_sorted_and_the_choice_stays() {
        let (farm, mut machines, mut list) = (farm(), Machines::default(), ListState::default());
        machines.refresh(&farm, &mut list);
        assert_eq!(machines.rows, ["shed".into(), "attic".into(), "desk".into()]);
        list.select(1);
        machines.choose(1);
        list.sort = Some(Sort { column: 4, descending: true });
        machines.refresh(&farm, &mut list);
        assert_eq!(machines.rows, ["attic".into(), "shed".into(), "desk".into()]);
        assert_eq!((machines.chosen.as_deref(), list.selected), (Some("attic"), 0));
        machines.filter = Filter::parse("desk").unwrap();
        machines.refresh(&farm, &mut list);
        assert_eq!((machines.rows.len(), machines.chosen.as_deref()), (1, Some("desk")));
    }

    #[test]
    fn the_lease_is_read_from_the_settings() {
        let mut machines = Machines::default();
        let setting = |value: &str| Setting { name: "lease".into(), value: value.into(), is_default: true };
        machines.take(vec![setting("90m")]);
        assert_eq!(
            (machines.lease(), machines.settings.as_deref()),
            (Some(Duration::from_secs(5400)), Some(&[][..]))
        );
        for nonsense in ["", "3", "h", "3 weeks", "99999999999999999999h"] {
            machines.take(vec![setting(nonsense)]);
            assert_eq!(machines.lease(), None, "{nonsense}");
        }
    }

    #[test]
    fn clocks_and_round_trips_in_words() {
        let words = [0.0, -0.01, 90.0, -2.5, f64::NAN].map(clock_words);
        assert_eq!(
            words,
            ["clock in step", "clock in step", "clock 1m30s ahead", "clock 2.5s behind", "clock in step"]
        );
        assert_eq!(milliseconds(Duration::from_micros(340)), "0.3 ms");
        assert_eq!(milliseconds(Duration::from_micros(25_400)), "25 ms");
    }

    #[test]
    fn shares() {
        let farm = farm();
        let machine = &farm.machines[0];
        assert_eq!((memory(machine), disk(machine), pressure(machine)), (Some(0.75), Some(0.25), None));
        assert_eq!((memory(&Machine::default()), disk(&Machine::default())), (None, None));
    }
}
