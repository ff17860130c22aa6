//! Advice in one line. Each rule looks at what the node told and speaks only when it is true; what
//! cannot be known from there is not guessed at.

use std::collections::BTreeMap;
use std::time::Duration;

use farmhand_proto::control::{Machine, machine, miss};
use farmhand_proto::time::std_duration;

use crate::format;
use crate::model::copies::{self, told};
use crate::model::farm::Farm;
use crate::model::op::{Op, Status};
use crate::model::time::Stamp;

/// How long a node keeps what clients were told of, when its settings are not known.
pub(crate) const LEASE: Duration = Duration::from_secs(3 * 3600);

/// What the rules look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    /// The farm.
    pub(crate) farm: &'a Farm,
    /// The time on its clock.
    pub(crate) now: Option<Stamp>,
    /// How long the node keeps what clients were told of.
    pub(crate) lease: Duration,
    /// How long a machine may be away before its copies are made anew, if that was told.
    pub(crate) repair_after: Option<Duration>,
}

/// A rule: what it has to say, if anything.
type Rule = fn(Facts<'_>) -> Option<String>;

/// The rules, the most urgent first.
const RULES: [Rule; 14] = [
    no_room_for_copies,
    disk_before_budget,
    all_is_leased,
    evicted_within_the_lease,
    evicted_and_wanted,
    copies_fall_behind,
    copies_are_waited_for,
    under_fed,
    sent_again,
    slow_machine,
    files_take_longer,
    versions_differ,
    on_battery,
    one_keeper,
];

/// The most urgent advice there is.
pub(crate) fn best(facts: Facts<'_>) -> Option<String> {
    RULES.iter().find_map(|rule| rule(facts))
}

/// There are copies that no machine takes.
fn no_room_for_copies(facts: Facts<'_>) -> Option<String> {
    let refused = told(facts.farm).map(|told| told.refused_copies).filter(|refused| *refused > 0)?;
    let what = format::plural(refused, "blob");
    Some(format!("no machine has room for copies of {what}: raise disk-budget, or add a machine"))
}

/// Copies are made more slowly than there is something new.
fn copies_fall_behind(facts: Facts<'_>) -> Option<String> {
    let told = told(facts.farm)?;
    let (before, now) = facts.farm.copies.behind()?;
    let (late, owed) = (format::age(now.lag), format::bytes(now.owed));
    let over = format::age(now.at.since(before.at));
    let speed = match told.bytes_per_second {
        0 => String::new(),
        speed => format!(" at {}", format::rate(speed)),
    };
    let grown = format::bytes(now.owed.saturating_sub(before.owed));
    Some(format!("copies fall behind: {late} late, {owed} owed{speed}, {grown} more than {over} ago"))
}

/// A machine is away that has copies which count.
fn copies_are_waited_for(facts: Facts<'_>) -> Option<String> {
    told(facts.farm)?;
    let away = facts.farm.machines.iter().find(|machine| copies::is_awaited(facts.farm, machine))?;
    let since = away.last_heard.as_ref().and_then(std_duration).map(format::age).unwrap_or_default();
    let until = match facts.repair_after {
        Some(after) => format!("from {} on they are made elsewhere", format::age(after)),
        None => "if it stays away they are made elsewhere (repair-after)".to_owned(),
    };
    Some(format!("{} is away for {since}, its copies are waited for; {until}", away.name))
}

/// Nothing is owed, and all the same there is but one copy.
fn one_keeper(facts: Facts<'_>) -> Option<String> {
    let told = told(facts.farm)?;
    let is_alone = told.keepers == 1 && told.copies_wanted > 1 && facts.farm.machines.len() > 1;
    if !is_alone || told.owed_copies > 0 || told.sole_entries == 0 {
        return None;
    }
    let keeper = facts.farm.machines.iter().find(|machine| machine.keeps_copies);
    let who = keeper.map_or("one machine", |machine| &machine.name);
    let other = facts.farm.machines.iter().find(|machine| !machine.caches_because.is_empty());
    Some(match other {
        Some(other) => format!(
            "only {who} keeps copies; {} caches only: {} (keep-copies changes that)",
            other.name, other.caches_because
        ),
        None => format!("only {who} keeps copies: a second machine that does would have them too"),
    })
}

/// The disk will be full before the store has what it may take.
fn disk_before_budget(facts: Facts<'_>) -> Option<String> {
    let own = facts.farm.machines.iter().find(|machine| machine.is_self)?;
    let load = own.load.as_ref().filter(|load| load.disk_total > 0)?;
    let storage = &facts.farm.storage;
    let allowed = storage.budget_bytes.checked_sub(storage.used_bytes)?;
    (load.disk_free < allowed).then(|| {
        let (free, allowed) = (format::bytes(load.disk_free), format::bytes(allowed));
        format!("the disk has {free} free, and the budget allows {allowed} more: it will be full first")
    })
}

/// Hardly anything may be evicted.
fn all_is_leased(facts: Facts<'_>) -> Option<String> {
    let storage = &facts.farm.storage;
    let share = storage.leased_bytes as f64 / storage.budget_bytes.max(1) as f64;
    (storage.budget_bytes > 0 && share >= 0.9).then(|| {
        format!(
            "{} of the budget is leased to clients: more is refused soon; raise disk-budget",
            format::share(share)
        )
    })
}

/// Something went that a client was told of not long ago.
fn evicted_within_the_lease(facts: Facts<'_>) -> Option<String> {
    let age = facts.farm.storage.youngest_victim.as_ref().and_then(std_duration)?;
    (age < facts.lease).then(|| {
        let (age, lease) = (format::duration(age), format::duration(facts.lease));
        format!("a blob was evicted when it was {age} old, clients count on {lease}: raise disk-budget")
    })
}

/// Results were evicted and wanted again: the budget is smaller than what is worked on.
fn evicted_and_wanted(facts: Facts<'_>) -> Option<String> {
    const LOOKED_AT: usize = 200;
    let ran = facts.farm.ops.over().filter(|(_, op)| has_run(op)).take(LOOKED_AT);
    let (all, evicted) = ran.fold((0_u64, 0_u64), |(all, evicted), (_, op)| {
        (all + 1, evicted + u64::from(op.miss == miss::Kind::Evicted))
    });
    (evicted >= 5 && evicted * 10 >= all).then(|| {
        format!("{evicted} of the last {all} actions ran again because their result was evicted: raise disk-budget")
    })
}

/// A build keeps the same number of actions going, and slots are free: it is the client that holds
/// back. Told only of a number that did not change while many actions came and went, so that a
/// build that waits for one long link is not meant.
fn under_fed(facts: Facts<'_>) -> Option<String> {
    const LOOKED_AT: usize = 20;
    let samples = &facts.farm.samples;
    let last: Vec<_> = samples.iter().rev().take(LOOKED_AT).collect();
    let running = last.first()?.running;
    let slots = last.first()?.slots;
    let ended: u64 = last.iter().map(|sample| u64::from(sample.executed)).sum();
    let is_steady =
        last.len() == LOOKED_AT && last.iter().all(|sample| sample.running == running && sample.queued == 0);
    if !is_steady || running < 2 || running >= slots || ended < u64::from(running) * 2 {
        return None;
    }
    let builds = facts.farm.builds.active(facts.now);
    let tool = match builds.as_slice() {
        [build] => build.tool_name(),
        _ => "",
    };
    let jobs = slots.saturating_mul(2);
    let flag = match tool {
        "bazel" => format!("--jobs={jobs}"),
        "buck2" => format!("-j {jobs}"),
        _ => format!("{jobs} jobs at once"),
    };
    Some(format!("the client keeps {running} of {slots} slots busy: {flag}"))
}

/// Clients sent bytes that were stored already.
fn sent_again(facts: Facts<'_>) -> Option<String> {
    const LOOKED_AT: usize = 60;
    const LEAST: u64 = 64 << 20;
    let samples = &facts.farm.samples;
    let first = samples.len().saturating_sub(LOOKED_AT);
    let last: Vec<_> = samples.iter().skip(first).collect();
    let (begin, end) = (last.first()?, last.last()?);
    let sent: u64 = last[1..].iter().map(|sample| sample.uploaded_bytes).sum();
    let is_quiet = last.iter().all(|sample| sample.evicted == 0 && sample.executed == 0);
    let grown = end.used_bytes.saturating_sub(begin.used_bytes);
    (last.len() == LOOKED_AT && is_quiet && sent >= LEAST && grown < sent / 4).then(|| {
        let again = format::bytes(sent - grown);
        format!("~{again} of what clients sent in the last minute was stored already")
    })
}

/// A kind of actions takes much longer on one machine than on another.
fn slow_machine(facts: Facts<'_>) -> Option<String> {
    const LEAST_RUNS: usize = 8;
    const LEAST: Duration = Duration::from_millis(200);
    let mut lengths: BTreeMap<(&str, &str), Vec<Duration>> = BTreeMap::new();
    for (_, op) in facts.farm.ops.over().filter(|(_, op)| op.status == Status::Ok) {
        if let Some(length) = command(op) {
            lengths.entry((&op.mnemonic, &op.machine)).or_default().push(length);
        }
    }
    let medians: Vec<_> = lengths
        .into_iter()
        .filter(|(_, lengths)| lengths.len() >= LEAST_RUNS)
        .map(|((mnemonic, machine), lengths)| (mnemonic, machine, median(lengths)))
        .collect();
    let pairs = medians.iter().flat_map(|slow| medians.iter().map(move |fast| (slow, fast)));
    let worst = pairs
        .filter(|(slow, fast)| slow.0 == fast.0 && slow.2 >= fast.2 * 2 && slow.2 >= fast.2 + LEAST)
        .max_by(|(slow, fast), (other_slow, other_fast)| {
            times(slow.2, fast.2).total_cmp(&times(other_slow.2, other_fast.2))
        });
    worst.map(|((mnemonic, slow, long), (_, fast, short))| {
        let kind = if mnemonic.is_empty() { "an action" } else { mnemonic };
        format!("{kind} takes {:.1} times as long on {slow} as on {fast}", times(*long, *short))
    })
}

/// Files take longer than commands.
fn files_take_longer(facts: Facts<'_>) -> Option<String> {
    const LEAST_RUNS: u32 = 20;
    const LEAST: Duration = Duration::from_millis(50);
    let mut sums: BTreeMap<&str, (u32, Duration, Duration)> = BTreeMap::new();
    for (_, op) in facts.farm.ops.over() {
        let Some((files, command)) = op.elapsed(None).zip(command(op)).filter(|_| has_run(op)) else {
            continue;
        };
        let sum = sums.entry(&op.mnemonic).or_default();
        *sum = (sum.0 + 1, sum.1 + files.saturating_sub(command), sum.2 + command);
    }
    let worst = sums
        .into_iter()
        .filter(|(_, (runs, files, command))| {
            *runs >= LEAST_RUNS && *files > *command * 2 && *files >= LEAST * *runs
        })
        .max_by_key(|(_, (_, files, _))| *files)?;
    let (mnemonic, (runs, files, command)) = worst;
    let kind = if mnemonic.is_empty() { "actions" } else { mnemonic };
    let (files, command) = (format::duration(files / runs), format::duration(command / runs));
    Some(format!("inputs and outputs of {kind} take {files}, its commands {command}"))
}

/// Machines do not run the same program.
fn versions_differ(facts: Facts<'_>) -> Option<String> {
    let told = |machine: &&Machine| machine.state() != machine::State::Lost && !machine.version.is_empty();
    let mut machines = facts.farm.machines.iter().filter(told);
    let first = machines.next()?;
    let other = machines.find(|machine| machine.version != first.version)?;
    Some(format!(
        "{} runs version {}, {} runs {}: let them be the same",
        first.name, first.version, other.name, other.version
    ))
}

/// A machine gives nothing because it is on battery.
fn on_battery(facts: Facts<'_>) -> Option<String> {
    let is_out = |machine: &&Machine| {
        let on_battery = machine.load.as_ref().and_then(|load| load.on_battery) == Some(true);
        on_battery && machine.state() == machine::State::Yielding
    };
    let machine = facts.farm.machines.iter().find(is_out)?;
    Some(format!("{} is on battery and takes nothing new", machine.name))
}

fn has_run(op: &Op) -> bool {
    matches!(op.status, Status::Ok | Status::Failed)
}

fn command(op: &Op) -> Option<Duration> {
    Some(op.command_ended?.since(op.command_started?))
}

fn median(mut lengths: Vec<Duration>) -> Duration {
    let middle = lengths.len() / 2;
    *lengths.select_nth_unstable(middle).1
}

fn times(long: Duration, short: Duration) -> f64 {
    long.as_secs_f64() / short.as_secs_f64().max(1e-6)
}

#[cfg(test)]
mod tests {
    use farmhand_proto::control::operation::Stage;
    use farmhand_proto::control::{Build, Load, Operation, Replication, Sample, Storage, WatchResponse};
    use farmhand_proto::protobuf::{self, Timestamp};

    use super::*;

    fn stamp(millis: i64) -> Option<Timestamp> {
        Some(Timestamp { seconds: millis / 1000, nanos: (millis % 1000 * 1_000_000) as i32 })
    }

    fn facts(farm: &Farm) -> Facts<'_> {
        Facts { farm, now: Some(Stamp(100_000_000)), lease: LEASE, repair_after: None }
    }

    fn told(message: WatchResponse, rule: Rule) -> Option<String> {
        let mut farm = Farm::default();
        farm.apply(message, Duration::ZERO);
        rule(facts(&farm))
    }

    fn storage(change: impl FnOnce(&mut Storage)) -> WatchResponse {
        let mut storage = Storage { used_bytes: 40 << 30, budget_bytes: 50 << 30, ..Default::default() };
        change(&mut storage);
        WatchResponse { storage: Some(storage), ..Default::default() }
    }

    fn run(number: u64, machine: &str, command: i64, change: impl FnOnce(&mut Operation)) -> Operation {
        let mut op = Operation {
            name: number.to_string(),
            machine: machine.into(),
            mnemonic: "Compile".into(),
            stage: Stage::Done.into(),
            sequence: number,
            started: stamp(1000),
            command_started: stamp(1010),
            command_ended: stamp(1010 + command),
            finished: stamp(1020 + command),
            ..Default::default()
        };
        change(&mut op);
        op
    }

    fn samples(count: i64, change: impl Fn(i64, &mut Sample)) -> Vec<Sample> {
        let sample = |i| {
            let mut sample =
                Sample { at: stamp(i * 1000), slots: 20, running: 4, executed: 3, ..Default::default() };
            change(i, &mut sample);
            sample
        };
        (1..=count).map(sample).collect()
    }

    #[test]
    fn nothing_is_said_of_nothing() {
        let farm = Farm::default();
        assert_eq!(best(Facts { now: None, ..facts(&farm) }), None);
    }

    #[test]
    fn the_store() {
        let young = |seconds| {
            storage(|storage| storage.youngest_victim = Some(protobuf::Duration { seconds, nanos: 0 }))
        };
        assert!(told(young(600), evicted_within_the_lease).unwrap().contains("10m00s old"));
        assert_eq!(told(young(11_000), evicted_within_the_lease), None);
        assert_eq!(told(storage(|_| {}), evicted_within_the_lease), None);
        assert!(told(storage(|storage| storage.leased_bytes = 47 << 30), all_is_leased).is_some());
        assert_eq!(told(storage(|storage| storage.leased_bytes = 9 << 30), all_is_leased), None);
        let disk = |free: u64| {
            let load = Load { disk_free: free << 30, disk_total: 100 << 30, ..Default::default() };
            let machine = Machine { is_self: true, load: Some(load), ..Default::default() };
            WatchResponse { machines: vec![machine], ..storage(|_| {}) }
        };
        assert!(told(disk(2), disk_before_budget).unwrap().contains("2.0 GiB free"));
        assert_eq!(told(disk(20), disk_before_budget), None);
    }

    #[test]
    fn results_that_went_too_soon() {
        let runs = |evicted: u64| {
            let kind = |number| if number < evicted { miss::Kind::Evicted } else { miss::Kind::First };
            let operations =
                (1..=40).map(|number| run(number, "attic", 50, |op| op.set_miss(kind(number - 1)))).collect();
            WatchResponse { operations, ..Default::default() }
        };
        assert!(told(runs(6), evicted_and_wanted).unwrap().starts_with("6 of the last 40"));
        assert_eq!(told(runs(4), evicted_and_wanted), None);
    }

    #[test]
    fn a_client_that_holds_back() {
        let with = |samples, tool: &str| WatchResponse {
            samples,
            builds: vec![Build {
                invocation: "x".into(),
                tool: tool.into(),
                running: 4,
                ..Default::default()
            }],
            ..Default::default()
        };
        let steady = || samples(20, |_, _| {});
        assert_eq!(
            told(with(steady(), "bazel 8.1"), under_fed).unwrap(),
            "the client keeps 4 of 20 slots busy: --jobs=40"
        );
        assert!(told(with(steady(), "recc"), under_fed).unwrap().ends_with("40 jobs at once"));
        assert_eq!(
            told(with(samples(20, |i, sample| sample.running = 4 + (i % 2) as u32), "x"), under_fed),
            None
        );
        assert_eq!(told(with(samples(20, |_, sample| sample.executed = 0), "x"), under_fed), None);
        assert_eq!(told(with(samples(20, |_, sample| sample.queued = 1), "x"), under_fed), None);
        assert_eq!(told(with(samples(20, |_, sample| sample.running = 20), "x"), under_fed), None);
        assert_eq!(told(with(samples(5, |_, _| {}), "x"), under_fed), None);
    }

    #[test]
    fn bytes_that_were_there() {
        let quiet = |grows: bool| {
            samples(60, move |i, sample| {
                sample.executed = 0;
                sample.uploaded_bytes = 2 << 20;
                sample.used_bytes = (1 << 30) + if grows { (i as u64) << 21 } else { 0 };
            })
        };
        let with = |samples| WatchResponse { samples, ..Default::default() };
        assert!(told(with(quiet(false)), sent_again).unwrap().starts_with("~118 MiB"));
        assert_eq!(told(with(quiet(true)), sent_again), None);
        assert_eq!(told(with(samples(60, |_, _| {})), sent_again), None);
    }

    #[test]
    fn a_slow_machine() {
        let runs = |slow: i64| {
            let operations = (1..=20)
                .map(|number| match number % 2 {
                    0 => run(number, "attic", 500, |_| {}),
                    _ => run(number, "shed", slow, |_| {}),
                })
                .collect();
            WatchResponse { operations, ..Default::default() }
        };
        assert_eq!(
            told(runs(1500), slow_machine).unwrap(),
            "Compile takes 3.0 times as long on shed as on attic"
        );
        assert_eq!(told(runs(600), slow_machine), None);
    }

    #[test]
    fn files_that_take_longer_than_commands() {
        let runs = |finished: i64| {
            let late = move |op: &mut Operation| op.finished = stamp(finished);
            WatchResponse {
                operations: (1..=25).map(|number| run(number, "attic", 40, late)).collect(),
                ..Default::default()
            }
        };
        assert_eq!(
            told(runs(1440), files_take_longer).unwrap(),
            "inputs and outputs of Compile take 400ms, its commands 40ms"
        );
        assert_eq!(told(runs(1060), files_take_longer), None);
    }

    #[test]
    fn machines_that_are_not_alike() {
        let machine = |name: &str, version: &str, state: machine::State, battery| Machine {
            name: name.into(),
            version: version.into(),
            state: state.into(),
            load: Some(Load { on_battery: battery, ..Default::default() }),
            ..Default::default()
        };
        let (active, lost, yielding) =
            (machine::State::Active, machine::State::Lost, machine::State::Yielding);
        let with = |machines| WatchResponse { machines, ..Default::default() };
        let two = |version, state| {
            with(vec![machine("attic", "0.2", active, None), machine("shed", version, state, None)])
        };
        assert!(told(two("0.1", active), versions_differ).unwrap().contains("shed runs 0.1"));
        assert_eq!(told(two("0.2", active), versions_differ), None);
        assert_eq!(told(two("0.1", lost), versions_differ), None);
        assert!(told(with(vec![machine("x", "", yielding, Some(true))]), on_battery).is_some());
        assert_eq!(told(with(vec![machine("x", "", active, Some(true))]), on_battery), None);
    }

    fn replication(change: impl FnOnce(&mut Replication)) -> WatchResponse {
        let mut told =
            Replication { copies_wanted: 2, copies: 2, keepers: 2, compared: 1.0, ..Default::default() };
        change(&mut told);
        storage(|storage| storage.replication = Some(told))
    }

    #[test]
    fn copies_that_have_no_room() {
        let words = told(replication(|told| told.refused_copies = 7), no_room_for_copies).unwrap();
        assert!(words.contains("copies of 7 blobs: raise disk-budget"), "{words}");
        assert_eq!(told(replication(|_| {}), no_room_for_copies), None);
        assert_eq!(told(storage(|_| {}), no_room_for_copies), None);
    }

    #[test]
    fn copies_that_fall_behind() {
        let mut farm = Farm::default();
        for at in 0..40_u64 {
            let message = replication(|told| {
                (told.owed_copies, told.owed_bytes) = (at + 1, at << 30);
                told.lag = Some(protobuf::Duration { seconds: at as i64, nanos: 0 });
                told.bytes_per_second = 1 << 20;
            });
            let now = stamp(100_000 + at as i64 * 1000);
            farm.apply(WatchResponse { now, ..message }, Duration::ZERO);
            let words = copies_fall_behind(facts(&farm));
            assert_eq!(words.is_some(), at >= 20, "{at}: {words:?}");
        }
        let words = copies_fall_behind(facts(&farm)).unwrap();
        assert!(
            words.contains("39s late, 39.0 GiB owed at 1.0 MiB/s, 20.0 GiB more than 20s ago"),
            "{words}"
        );
    }

    #[test]
    fn a_machine_whose_copies_are_waited_for() {
        let away = |keeps_copies| {
            let heard = Some(protobuf::Duration { seconds: 12, nanos: 0 });
            let state = machine::State::Lost.into();
            let machine =
                Machine { name: "shed".into(), state, keeps_copies, last_heard: heard, ..Default::default() };
            WatchResponse { machines: vec![machine], ..replication(|_| {}) }
        };
        let words = told(away(true), copies_are_waited_for).unwrap();
        assert!(words.starts_with("shed is away for 12s, its copies are waited for"), "{words}");
        assert_eq!(told(away(false), copies_are_waited_for), None);
        let mut farm = Farm::default();
        farm.apply(away(true), Duration::ZERO);
        let facts = Facts { repair_after: Some(Duration::from_secs(600)), ..facts(&farm) };
        let words = copies_are_waited_for(facts).unwrap();
        assert!(words.ends_with("from 10m on they are made elsewhere"), "{words}");
    }

    #[test]
    fn one_machine_that_keeps_copies_and_one_that_does_not() {
        let with = |because: &str, owed| {
            let attic = Machine { name: "attic".into(), keeps_copies: true, ..Default::default() };
            let laptop =
                Machine { name: "laptop".into(), caches_because: because.into(), ..Default::default() };
            let message = replication(|told| {
                (told.copies, told.keepers, told.sole_entries, told.owed_copies) = (1, 1, 9, owed);
            });
            WatchResponse { machines: vec![attic, laptop], ..message }
        };
        let words = told(with("it runs on battery", 0), one_keeper).unwrap();
        assert!(words.starts_with("only attic keeps copies; laptop caches only: it runs"), "{words}");
        assert!(told(with("", 0), one_keeper).unwrap().contains("a second machine"));
        assert_eq!(told(with("", 3), one_keeper), None);
    }
}
