//! The copies of blobs and results on the machines of a farm, in words and for programs.

use std::time::Duration;

use farmhand_proto::control::machine::State;
use farmhand_proto::control::{Machine, Replication};
use farmhand_proto::time::std_duration;
use serde::Serialize;

use super::machines::is_up;
use super::output::{bytes, count, duration, plural};

/// What a machine is for copies, for programs.
#[derive(Debug, Serialize)]
pub(super) struct CopiesJson<'a> {
    /// Whether copies on it count.
    keeps_copies: bool,
    caches_because: Option<&'a str>,
    /// Copies that it has still to make.
    owed_copies: u64,
    owed_bytes: u64,
    /// Blobs and results that perhaps nobody else has.
    sole_entries: u64,
    sole_bytes: u64,
    /// Whether it is told to leave, and nothing is lost if it does.
    safe_to_leave: bool,
}

/// How far copies are, for programs.
#[derive(Debug, Serialize)]
pub(super) struct ReplicationJson {
    copies_wanted: u32,
    copies: u32,
    keepers: u32,
    owed_copies: u64,
    owed_bytes: u64,
    repair_copies: u64,
    repair_bytes: u64,
    /// Age of the oldest write with too few copies; null when there is none.
    lag_seconds: Option<f64>,
    bytes_per_second: u64,
    remaining_seconds: Option<f64>,
    /// Of what is here, compared with others since the farm last changed, 0 to 1.
    compared: f64,
    sole_entries: u64,
    sole_bytes: u64,
    counted_entries: u64,
    counted_bytes: u64,
    spare_entries: u64,
    spare_bytes: u64,
    sent_copies: u64,
    sent_bytes: u64,
    fetched_entries: u64,
    fetched_bytes: u64,
    healed: u64,
    refused_copies: u64,
}

/// For programs.
pub(super) fn copies_json(machine: &Machine) -> CopiesJson<'_> {
    CopiesJson {
        keeps_copies: machine.keeps_copies,
        caches_because: Some(machine.caches_because.as_str()).filter(|reason| !reason.is_empty()),
        owed_copies: machine.owed_copies,
        owed_bytes: machine.owed_bytes,
        sole_entries: machine.sole_entries,
        sole_bytes: machine.sole_bytes,
        safe_to_leave: machine.safe_to_leave,
    }
}

/// For programs.
pub(super) fn replication_json(replication: &Replication) -> ReplicationJson {
    let seconds = |length: &Option<_>| length.as_ref().and_then(std_duration).map(|time| time.as_secs_f64());
    ReplicationJson {
        copies_wanted: replication.copies_wanted,
        copies: replication.copies,
        keepers: replication.keepers,
        owed_copies: replication.owed_copies,
        owed_bytes: replication.owed_bytes,
        repair_copies: replication.repair_copies,
        repair_bytes: replication.repair_bytes,
        lag_seconds: seconds(&replication.lag),
        bytes_per_second: replication.bytes_per_second,
        remaining_seconds: seconds(&replication.remaining),
        compared: replication.compared,
        sole_entries: replication.sole_entries,
        sole_bytes: replication.sole_bytes,
        counted_entries: replication.counted_entries,
        counted_bytes: replication.counted_bytes,
        spare_entries: replication.spare_entries,
        spare_bytes: replication.spare_bytes,
        sent_copies: replication.sent_copies,
        sent_bytes: replication.sent_bytes,
        fetched_entries: replication.fetched_entries,
        fetched_bytes: replication.fetched_bytes,
        healed: replication.healed,
        refused_copies: replication.refused_copies,
    }
}

/// So many blobs and results of so many bytes.
pub(super) fn entries(number: u64, size: u64) -> String {
    let noun = if number == 1 { "blob or result" } else { "blobs and results" };
    format!("{} {noun}, {}", count(number), bytes(size))
}

/// What a person should know of the copies of a machine in a farm of several, a line each.
pub(super) fn remarks(machine: &Machine) -> Vec<String> {
    let (mut lines, is_up) = (Vec::new(), is_up(machine));
    if is_up && !machine.keeps_copies && !machine.caches_because.is_empty() {
        lines.push(format!("keeps no copies for others: {}", machine.caches_because));
    }
    if is_up && machine.owed_copies > 0 {
        lines.push(format!("{} to make, {}", copies(machine.owed_copies), bytes(machine.owed_bytes)));
    }
    let sole = entries(machine.sole_entries, machine.sole_bytes);
    match machine.state() {
        _ if machine.safe_to_leave => lines.push("nothing is lost if it leaves".to_owned()),
        _ if machine.sole_entries == 0 => {}
        State::Lost => lines.push(format!("perhaps lost with it: {sole}")),
        _ if is_up => lines.push(format!("lost if it leaves: {sole}")),
        _ => {}
    }
    lines
}

/// How far copies are, for people: a line or two.
pub(super) fn summary(replication: &Replication) -> Vec<String> {
    let Replication { copies_wanted: wanted, copies: there, keepers, .. } = replication;
    let of = if wanted == there { String::new() } else { format!(" (of {wanted} wanted)") };
    let machines = plural((*keepers).into(), "machine");
    let mut first = format!("{there} of each{of} on {machines}");
    if replication.owed_copies > 0 {
        let remaining = replication.remaining.as_ref().and_then(std_duration);
        let left = remaining.map(|left| format!(", {} left", duration(left))).unwrap_or_default();
        let owed = copies(replication.owed_copies);
        first += &format!(" · {owed} to make ({}{left})", bytes(replication.owed_bytes));
    } else if replication.compared < 1.0 {
        first += &format!(" · {:.0} % compared", replication.compared * 100.0);
    } else {
        first += " · all made";
    }
    let mut lines = vec![first];
    if replication.sole_entries > 0 {
        lines.push(format!("only here: {}", entries(replication.sole_entries, replication.sole_bytes)));
    }
    let lag = replication.lag.as_ref().and_then(std_duration);
    if let Some(lag) = lag.filter(|lag| *lag >= Duration::from_secs(1)) {
        lines.push(format!("the oldest write without its copies is {} old", duration(lag)));
    }
    if replication.healed > 0 {
        lines.push(format!("{} replaced by good copies", plural(replication.healed, "damaged blob")));
    }
    lines
}

fn copies(number: u64) -> String {
    if number == 1 { "1 copy".to_owned() } else { format!("{} copies", count(number)) }
}

#[cfg(test)]
mod tests {
    use farmhand_proto::protobuf;

    use super::*;

    fn machine(state: State) -> Machine {
        Machine { state: state.into(), keeps_copies: true, ..Default::default() }
    }

    #[test]
    fn what_a_machine_is_for_copies_is_told() {
        assert_eq!(remarks(&machine(State::Active)), [""; 0]);
        let laptop = Machine {
            keeps_copies: false,
            caches_because: "it runs on battery".into(),
            owed_copies: 1,
            owed_bytes: 1 << 20,
            sole_entries: 1200,
            sole_bytes: 3 << 20,
            ..machine(State::Active)
        };
        let told = [
            "keeps no copies for others: it runs on battery",
            "1 copy to make, 1.0 MiB",
            "lost if it leaves: 1,200 blobs and results, 3.0 MiB",
        ];
        assert_eq!(remarks(&laptop), told);
        let lost = Machine { state: State::Lost.into(), sole_entries: 1, ..laptop.clone() };
        assert_eq!(remarks(&lost), ["perhaps lost with it: 1 blob or result, 3.0 MiB"]);
        let drained = Machine { safe_to_leave: true, ..machine(State::Draining) };
        assert_eq!(remarks(&drained), ["nothing is lost if it leaves"]);
        assert_eq!(remarks(&Machine { state: State::Connecting.into(), ..laptop }), [""; 0]);
    }

    #[test]
    fn how_far_copies_are_is_told() {
        let made =
            Replication { copies_wanted: 2, copies: 2, keepers: 3, compared: 1.0, ..Default::default() };
        assert_eq!(summary(&made), ["2 of each on 3 machines · all made"]);
        let compared = Replication { compared: 0.5, ..made };
        assert_eq!(summary(&compared), ["2 of each on 3 machines · 50 % compared"]);
        let behind = Replication {
            copies: 1,
            keepers: 1,
            owed_copies: 12,
            owed_bytes: 3 << 20,
            remaining: Some(protobuf::Duration { seconds: 61, nanos: 0 }),
            lag: Some(protobuf::Duration { seconds: 7, nanos: 0 }),
            sole_entries: 9,
            sole_bytes: 1024,
            healed: 1,
            ..made
        };
        let told = [
            "1 of each (of 2 wanted) on 1 machine · 12 copies to make (3.0 MiB, 1m 1s left)",
            "only here: 9 blobs and results, 1.0 KiB",
            "the oldest write without its copies is 7.00 s old",
            "1 damaged blob replaced by good copies",
        ];
        assert_eq!(summary(&behind), told);
    }

    #[test]
    fn programs_are_told_too() {
        let json = serde_json::to_value(copies_json(&machine(State::Active))).unwrap();
        assert_eq!((&json["keeps_copies"], &json["caches_because"]), (&true.into(), &().into()));
        let replication = Replication {
            lag: Some(protobuf::Duration { seconds: 1, nanos: 500_000_000 }),
            ..Default::default()
        };
        let json = serde_json::to_value(replication_json(&replication)).unwrap();
        assert_eq!((&json["lag_seconds"], &json["remaining_seconds"]), (&1.5.into(), &().into()));
    }
}
