//! The copies on other machines, as far as they can be told: how far they are behind, what a machine is
//! for them, and what was seen of both while somebody watches.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use farmhand_proto::control::{Machine, Replication, machine};
use farmhand_proto::time::std_duration;

use super::cache::{self, Forecast};
use super::farm::{Farm, is_up};
use super::time::Stamp;
use crate::format;
use crate::theme::Role;

/// Columns of the table of machines one can sort by.
pub(crate) const COLUMNS: &[&str] = &["Machine", "Copies", "Disk", "Full", "Owed", "Only there"];

/// Least time between two looks at how much is owed, and how many are kept.
const STEP: Duration = Duration::from_millis(900);
const POINTS: usize = 300;

/// Least time between two looks at the disk of a machine, and how many are kept.
const DISK_STEP: Duration = Duration::from_secs(5);
const DISK_POINTS: usize = 120;

/// Least time over which the growth of a disk is measured.
const MEASURED: Duration = Duration::from_secs(30);

/// Share of its budget from which a store counts as full: it makes room before there is none.
const FULL: f64 = 0.94;

/// A write counts as late from this age on.
pub(crate) const LATE: Duration = Duration::from_secs(5);

/// What was owed at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Point {
    /// When, on the clock of the node.
    pub(crate) at: Stamp,
    /// Age of the oldest write that had too few copies.
    pub(crate) lag: Duration,
    /// Bytes of copies that were to be made.
    pub(crate) owed: u64,
}

/// What was seen while somebody watches.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    /// What was owed, the newest last.
    pub(crate) points: VecDeque<Point>,
    /// The most that was to be repaired since nothing was: copies and bytes.
    most: (u64, u64),
    disks: HashMap<String, VecDeque<(Stamp, u64)>>,
}

/// How the store of a machine goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filling {
    /// Too little is known.
    Unknown,
    /// It does not grow.
    Steady,
    /// It has what it may have: what comes displaces what was there.
    Full,
    /// It is full after this time, as it grew of late.
    In(Duration),
}

/// What stands between a draining machine and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// It may go: nothing runs, and others have all that it has.
    Safe,
    /// Others have all that it has, and actions run still.
    Runs,
    /// It is not known yet what others have, or there is something to bring to them.
    Brings,
    /// There are no copies to speak of: nothing runs, and that is all there is to know.
    NotTold,
}

// === impl History ===

impl History {
    /// Takes what is owed at `at`.
    pub(crate) fn take(&mut self, at: Stamp, told: &Replication) {
        let is_new = self.points.back().is_none_or(|last| at.since(last.at) >= STEP || at < last.at);
        if is_new {
            self.points.push_back(Point { at, lag: lag(told).unwrap_or_default(), owed: told.owed_bytes });
        }
        while self.points.len() > POINTS {
            self.points.pop_front();
        }
        self.most = match told.repair_copies {
            0 => (0, 0),
            copies => (self.most.0.max(copies), self.most.1.max(told.repair_bytes)),
        };
    }

    /// Takes how full the disks are at `at`.
    pub(crate) fn take_disks(&mut self, at: Stamp, machines: &[Machine]) {
        let names: HashSet<&str> = machines.iter().map(|machine| machine.name.as_str()).collect();
        self.disks.retain(|name, _| names.contains(name.as_str()));
        for machine in machines.iter().filter(|machine| is_up(machine)) {
            let disk = self.disks.entry(machine.name.clone()).or_default();
            if disk.back().is_none_or(|last| at.since(last.0) >= DISK_STEP || at < last.0) {
                disk.push_back((at, machine.used_bytes));
            }
            while disk.len() > DISK_POINTS {
                disk.pop_front();
            }
        }
    }

    /// The share of what was to be repaired that is done, of what was seen of it.
    pub(crate) fn repaired(&self, told: &Replication) -> f64 {
        let (copies, bytes) = self.most;
        let (left, all) =
            if bytes > 0 { (told.repair_bytes, bytes) } else { (told.repair_copies, copies.max(1)) };
        (1.0 - left as f64 / all as f64).clamp(0.0, 1.0)
    }

    /// What was owed when copies began to fall behind, and now; `None` while they keep up.
    pub(crate) fn behind(&self) -> Option<(Point, Point)> {
        const LEAST: Duration = Duration::from_secs(10);
        const OVER: Duration = Duration::from_secs(20);
        let last = *self.points.back()?;
        let before = *self.points.iter().rev().find(|point| last.at.since(point.at) >= OVER)?;
        let grows = last.lag >= before.lag.saturating_add(LEAST) && last.owed > before.owed;
        grows.then_some((before, last))
    }

    /// Bytes a second by which the disk of a machine grew, as far as that was seen.
    fn growth(&self, name: &str) -> Option<f64> {
        let disk = self.disks.get(name)?;
        let (first, last) = (disk.front()?, disk.back()?);
        let length = last.0.since(first.0);
        (length >= MEASURED).then(|| (last.1 as f64 - first.1 as f64) / length.as_secs_f64())
    }
}

/// What the node tells of copies; `None` when it does not, and of a machine on its own.
pub(crate) fn told(farm: &Farm) -> Option<&Replication> {
    farm.storage.replication.as_ref().filter(|told| told.copies_wanted > 0)
}

/// Age of the oldest write that has too few copies.
pub(crate) fn lag(told: &Replication) -> Option<Duration> {
    told.lag.as_ref().and_then(std_duration)
}

/// Whether there are writes that wait for their copies for long.
pub(crate) fn is_late(told: &Replication) -> bool {
    told.owed_copies > 0 && lag(told).is_some_and(|lag| lag >= LATE)
}

/// The share of the entries that was compared; `None` when all were.
pub(crate) fn compared(told: &Replication) -> Option<f64> {
    match told.compared {
        all if all >= 1.0 => None,
        share if share.is_finite() => Some(share.max(0.0)),
        _ => Some(0.0),
    }
}

/// `12 blobs and results, 3.0 MiB`.
pub(crate) fn entries(number: u64, bytes: u64) -> String {
    let what = if number == 1 { "blob or result" } else { "blobs and results" };
    format!("{} {what}, {}", format::count(number), format::bytes(bytes))
}

/// `12 copies, 4.0 MiB`.
pub(crate) fn owed(copies: u64, bytes: u64) -> String {
    let what = if copies == 1 { "copy" } else { "copies" };
    format!("{} {what}, {}", format::count(copies), format::bytes(bytes))
}

/// How many copies there are of each thing, and how that is.
pub(crate) fn count_words(told: &Replication) -> (String, Role) {
    let Replication { copies_wanted: wanted, copies, keepers, .. } = *told;
    let on = format::plural(keepers.into(), "machine");
    match (copies >= wanted, keepers) {
        (true, _) if wanted == 1 => (format!("1, as it is set, on {on}"), Role::Warn),
        (true, _) => (format!("{copies} of {wanted} on {on}"), Role::Good),
        (false, 0) => (format!("{copies} of {wanted}: no machine keeps copies"), Role::Warn),
        (false, 1) => (format!("{copies} of {wanted}: only one machine keeps copies"), Role::Warn),
        (false, _) => (format!("{copies} of {wanted}: only {on} keep copies"), Role::Warn),
    }
}

/// What is owed, in short.
pub(crate) fn behind_words(told: &Replication) -> (String, Role) {
    let what = owed(told.owed_copies, told.owed_bytes);
    match (told.owed_copies, lag(told)) {
        (0, _) if compared(told).is_some() => ("nothing known; still comparing".to_owned(), Role::Text),
        (0, _) => ("nothing: all written".to_owned(), Role::Text),
        (_, Some(lag)) if lag >= LATE => (format!("{} behind, {what}", format::age(lag)), Role::Warn),
        (_, Some(lag)) => (format!("{} behind, {what}", format::age(lag)), Role::Text),
        (_, None) => (what, Role::Text),
    }
}

/// What is to be repaired, and how long that takes.
pub(crate) fn repair_words(told: &Replication) -> String {
    let mut text = owed(told.repair_copies, told.repair_bytes);
    if let Some(left) = told.remaining.as_ref().and_then(std_duration) {
        text.push_str(&format!(", ~{} left", format::age(left)));
    }
    text
}

/// What would be lost with this machine.
pub(crate) fn sole_words(farm: &Farm, told: &Replication) -> (String, Role) {
    let name = farm.machines.iter().find(|machine| machine.is_self).map_or("", |own| &own.name);
    let who = if name.is_empty() { "this machine" } else { name };
    // Until it was compared, an entry counts as the only one.
    let most = if compared(told).is_some() { "up to " } else { "" };
    let is_anybody_else_here =
        farm.machines.iter().any(|other| !other.is_self && other.keeps_copies && is_up(other));
    match (told.sole_entries, away_words(farm)) {
        (0, _) if compared(told).is_some() => ("nothing known; still comparing".to_owned(), Role::Text),
        (0, Some(away)) if !is_anybody_else_here => {
            (format!("what {who} has is elsewhere too, but {away}"), Role::Warn)
        }
        (0, _) => (format!("nothing is lost if {who} leaves"), Role::Text),
        (number, _) => {
            let what = entries(number, told.sole_bytes);
            (format!("if {who} leaves now you lose {most}{what}"), Role::Warn)
        }
    }
}

/// What is out of order for longer than a moment, in one line; `None` when nothing is.
pub(crate) fn trouble(farm: &Farm) -> Option<(String, Role)> {
    let told = told(farm)?;
    let mut parts = Vec::new();
    if told.refused_copies > 0 {
        parts.push((format!("no machine has room for {}", format::count(told.refused_copies)), Role::Bad));
    }
    if told.copies < told.copies_wanted && farm.machines.len() > 1 {
        parts.push(count_words(told));
    }
    if told.repair_copies > 0 {
        parts.push((format!("repair: {}", repair_words(told)), Role::Warn));
    }
    if is_late(told) {
        parts.push(behind_words(told));
    }
    parts.extend(away_words(farm).map(|text| (text, Role::Warn)));
    if let Some(leaving) = farm.machines.iter().find(|machine| machine.state() == machine::State::Draining) {
        parts.extend(
            leave_words(farm, leaving).map(|(text, role)| (format!("{}: {text}", leaving.name), role)),
        );
    }
    let role = if parts.iter().any(|part| part.1 == Role::Bad) { Role::Bad } else { parts.first()?.1 };
    let words: Vec<_> = parts.into_iter().map(|part| part.0).collect();
    Some((format!("copies: {}", words.join("; ")), role))
}

/// Whether a machine tells of copies at all.
pub(crate) fn tells(machine: &Machine) -> bool {
    machine.keeps_copies
        || machine.safe_to_leave
        || !machine.caches_because.is_empty()
        || machine.owed_copies > 0
        || machine.sole_entries > 0
}

/// Whether it is away, and what it has counts still.
pub(crate) fn is_awaited(farm: &Farm, machine: &Machine) -> bool {
    let is_away = |machine: &Machine| machine.state() == machine::State::Lost && machine.keeps_copies;
    let Some(told) = told(farm).filter(|_| is_away(machine)) else { return false };
    // Of those that are away, the ones that went last count still.
    let heard =
        |machine: &Machine| machine.last_heard.as_ref().and_then(std_duration).unwrap_or(Duration::MAX);
    let goes_before = |other: &&Machine| {
        let is_here = other.keeps_copies && is_up(other);
        is_here || is_away(other) && heard(other) < heard(machine)
    };
    farm.machines.iter().filter(goes_before).count() < told.keepers as usize
}

/// Who is away while its copies are waited for; `None` when nobody is.
pub(crate) fn away_words(farm: &Farm) -> Option<String> {
    let mut away = farm.machines.iter().filter(|machine| is_awaited(farm, machine));
    let first = away.next()?;
    Some(match away.count() {
        0 => format!("{} is away and waited for", first.name),
        more => format!("{} and {more} more are away and waited for", first.name),
    })
}

/// How far a machine is that is told to leave; `None` of one that stays.
pub(crate) fn leave(farm: &Farm, machine: &Machine) -> Option<Leave> {
    if machine.state() != machine::State::Draining {
        return None;
    }
    Some(match (machine.safe_to_leave, machine.busy) {
        (true, 0) => Leave::Safe,
        (true, _) => Leave::Runs,
        (false, _) if tells(machine) && told(farm).is_some() => Leave::Brings,
        (false, 0) => Leave::NotTold,
        (false, _) => Leave::Runs,
    })
}

/// What that is in words, of a machine that tells of copies.
pub(crate) fn leave_words(farm: &Farm, machine: &Machine) -> Option<(String, Role)> {
    match leave(farm, machine)? {
        Leave::Safe => Some(("safe to leave".to_owned(), Role::Good)),
        Leave::Brings if machine.sole_entries > 0 => {
            let left = entries(machine.sole_entries, machine.sole_bytes);
            Some((format!("{left} only there still"), Role::Warn))
        }
        Leave::Brings => Some(("not yet safe to leave".to_owned(), Role::Warn)),
        Leave::Runs if machine.safe_to_leave => {
            Some(("all is elsewhere too, actions run still".to_owned(), Role::Warn))
        }
        Leave::Runs | Leave::NotTold => None,
    }
}

/// What a machine is for copies, in a few words.
pub(crate) fn role_words(farm: &Farm, machine: &Machine) -> (String, Role) {
    if let Some((text, role)) = leave_words(farm, machine) {
        return (format!("leaving: {text}"), role);
    }
    match (is_up(machine), machine.keeps_copies) {
        _ if !tells(machine) => ("not told".to_owned(), Role::Dim),
        (true, true) => ("keeps copies".to_owned(), Role::Text),
        (false, true) if is_awaited(farm, machine) => ("away, waited for".to_owned(), Role::Warn),
        (true, false) if machine.caches_because.is_empty() => ("caches only".to_owned(), Role::Dim),
        (true, false) => (format!("caches: {}", machine.caches_because), Role::Dim),
        (false, _) => ("gone, not counted".to_owned(), Role::Bad),
    }
}

/// The same in one word, for a narrow column.
pub(crate) fn role_word(farm: &Farm, machine: &Machine) -> (&'static str, Role) {
    let role = role_words(farm, machine).1;
    let word = match leave(farm, machine) {
        Some(Leave::Safe) => "safe",
        Some(_) if tells(machine) => "leaves",
        _ if !tells(machine) => "-",
        _ if is_awaited(farm, machine) => "away",
        _ if machine.keeps_copies => "keeps",
        _ if is_up(machine) => "caches",
        _ => "gone",
    };
    (word, role)
}

/// How the store of a machine goes on.
pub(crate) fn filling(farm: &Farm, machine: &Machine) -> Filling {
    if !is_up(machine) || machine.budget_bytes == 0 {
        return Filling::Unknown;
    }
    if machine.is_self {
        return match cache::forecast(farm) {
            Forecast::Unknown => Filling::Unknown,
            Forecast::Steady => Filling::Steady,
            Forecast::Evicting(_) => Filling::Full,
            Forecast::Full(_, after) => Filling::In(after),
        };
    }
    if machine.used_bytes as f64 >= FULL * machine.budget_bytes as f64 {
        return Filling::Full;
    }
    let Some(rate) = farm.copies.growth(&machine.name) else { return Filling::Unknown };
    if rate < 1.0 {
        return Filling::Steady;
    }
    let room = machine.budget_bytes.saturating_sub(machine.used_bytes);
    let room = machine.load.as_ref().map_or(room, |load| room.min(load.disk_free));
    Filling::In(Duration::from_secs_f64((room as f64 / rate).min(1e9)))
}

/// That in a few letters.
pub(crate) fn filling_word(filling: Filling) -> (String, Role) {
    match filling {
        Filling::Unknown => ("-".to_owned(), Role::Dim),
        Filling::Steady => ("steady".to_owned(), Role::Dim),
        Filling::Full => ("full".to_owned(), Role::Warn),
        Filling::In(after) => {
            let role = if after < Duration::from_secs(3600) { Role::Warn } else { Role::Text };
            (format!("~{}", format::age(after)), role)
        }
    }
}

/// How two machines stand to each other in a column of the table.
pub(crate) fn compare(farm: &Farm, a: &Machine, b: &Machine, column: usize) -> std::cmp::Ordering {
    let share = |machine: &Machine| super::machines::disk(machine).unwrap_or(-1.0);
    let full = |machine: &Machine| match filling(farm, machine) {
        Filling::Full => Duration::ZERO,
        Filling::In(after) => after,
        Filling::Steady | Filling::Unknown => Duration::MAX,
    };
    match column {
        0 => a.name.cmp(&b.name),
        1 => role_word(farm, a).0.cmp(role_word(farm, b).0),
        2 => share(a).total_cmp(&share(b)),
        3 => full(a).cmp(&full(b)),
        4 => (a.owed_bytes, a.owed_copies).cmp(&(b.owed_bytes, b.owed_copies)),
        _ => (a.sole_bytes, a.sole_entries).cmp(&(b.sole_bytes, b.sole_entries)),
    }
}

#[cfg(test)]
mod tests;
