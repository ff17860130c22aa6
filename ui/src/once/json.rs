//! The farm as JSON.

use std::time::Duration;

use farmhand_proto::control::machine::State;
use farmhand_proto::control::warning::Level;
use farmhand_proto::control::{
    Build, Entrance, Execution, Load, Machine, Mnemonic, Node, Replication, Sample, Storage, Tenancy, Warning,
};
use farmhand_proto::protobuf;
use farmhand_proto::time::{std_duration, system_time};
use serde_json::{Value, json};

use crate::model::farm::{BuildRow, Farm, tenant};
use crate::model::machines::{clock_ahead, round_trip};
use crate::model::{Op, Stamp};

/// Grows when a meaning changes.
const SCHEMA: u32 = 1;

/// Operations of each list that are told; the counts are of all.
const MOST: usize = 1000;

/// All of it.
pub(super) fn farm(farm: &Farm) -> Value {
    let now = farm.clock.at(Duration::ZERO);
    let (busy, slots) = farm.slots();
    let (up, machines) = farm.up();
    json!({
        "schema": SCHEMA,
        "complete": farm.complete,
        "now": time(now),
        "farm": name(farm.name()),
        "node": farm.node.as_ref().map(node),
        "summary": {
            "machines_up": up,
            "machines": machines,
            "slots": slots,
            "busy": busy,
            "queued": farm.execution.queued,
            "running": farm.execution.running,
            "actions_per_second": farm.rate(5),
            "hit_rate": ratio(farm.execution.recent_hits, farm.execution.recent_lookups),
        },
        "machines": farm.machines.iter().map(machine).collect::<Vec<_>>(),
        "entrance": entrance(&farm.entrance),
        "builds": builds(farm, now),
        "running": farm.ops.running().take(MOST).map(|(_, op)| operation(op, now)).collect::<Vec<_>>(),
        "queued": farm.ops.queued().take(MOST).map(|(_, op)| operation(op, now)).collect::<Vec<_>>(),
        "execution": execution(&farm.execution),
        "storage": storage(&farm.storage),
        "mnemonics": farm.mnemonics.values().map(mnemonic).collect::<Vec<_>>(),
        "last_second": farm.samples.back().map(sample),
        "warnings": farm.warnings.iter().map(warning).collect::<Vec<_>>(),
    })
}

fn node(node: &Node) -> Value {
    let doors = node.endpoints.clone().unwrap_or_default();
    json!({
        "name": node.name,
        "version": node.version,
        "protocol_version": node.protocol_version,
        "pid": node.pid,
        "started": wire_time(node.started.as_ref()),
        "uptime_seconds": length(node.uptime.as_ref()),
        "boot_epoch": node.boot_epoch,
        "data_dir": node.data_dir,
        "sandbox": node.sandbox,
        "endpoints": {
            "reapi": name(&doors.reapi),
            "reapi_socket": name(&doors.reapi_socket),
            "peers": name(&doors.peers),
            "control": name(&doors.control),
        },
    })
}

fn machine(machine: &Machine) -> Value {
    json!({
        "name": machine.name,
        "state": state(machine.state()),
        "self": machine.is_self,
        "slots": machine.slots,
        "busy": machine.busy,
        "last_heard_seconds": length(machine.last_heard.as_ref()),
        "version": name(&machine.version),
        "os": name(&machine.os),
        "arch": name(&machine.arch),
        "cpus": machine.cpus,
        "found_by": name(&machine.found_by),
        "used_bytes": machine.used_bytes,
        "budget_bytes": machine.budget_bytes,
        "keeps_copies": machine.keeps_copies,
        "caches_because": name(&machine.caches_because),
        "owed_copies": machine.owed_copies,
        "owed_bytes": machine.owed_bytes,
        "sole_entries": machine.sole_entries,
        "sole_bytes": machine.sole_bytes,
        "safe_to_leave": machine.safe_to_leave,
        "load": machine.load.as_ref().map(load),
        "id": name(&machine.id),
        "address": name(&machine.address),
        "reason": name(&machine.reason),
        "linked": machine.linked,
        "links_back": machine.links_back,
        "round_trip_seconds": round_trip(machine).map(|time| time.as_secs_f64()),
        "clock_ahead_seconds": clock_ahead(machine),
        "guests": machine.guests,
        "guest_slots": machine.guest_slots,
        "tenancies": machine.tenancies.iter().map(|tenancy| self::tenancy(tenancy, machine)).collect::<Vec<_>>(),
    })
}

fn tenancy(tenancy: &Tenancy, machine: &Machine) -> Value {
    json!({
        "machine": tenant(tenancy, machine),
        "person": name(&tenancy.person),
        "granted": tenancy.granted,
        "running": tenancy.running,
        "ahead": tenancy.ahead,
        "waiting": tenancy.waiting,
    })
}

fn entrance(entrance: &Entrance) -> Value {
    let invitation = entrance.invitation.as_ref().map(|open| {
        json!({
            "addresses": open.addresses,
            "asks": open.asks,
            "expires": wire_time(open.expires.as_ref()),
            "wrong_codes": open.wrong_codes,
            "tries_left": open.tries_left,
        })
    });
    let waiting = entrance.waiting.iter().map(|newcomer| {
        json!({
            "number": newcomer.number,
            "name": newcomer.name,
            "machine_id": newcomer.machine_id,
            "check_words": newcomer.check_words,
        })
    });
    json!({ "invitation": invitation, "waiting": waiting.collect::<Vec<_>>() })
}

fn state(state: State) -> Option<&'static str> {
    match state {
        State::Unspecified => None,
        State::Active => Some("active"),
        State::Yielding => Some("yielding"),
        State::Draining => Some("draining"),
        State::Paused => Some("paused"),
        State::Lost => Some("lost"),
        State::Connecting => Some("connecting"),
        State::Refused => Some("refused"),
        State::Incompatible => Some("incompatible"),
    }
}

fn load(load: &Load) -> Value {
    json!({
        "measured": wire_time(load.measured.as_ref()),
        "cpu": load.cpu,
        "load1": load.load1,
        "memory_total": load.memory_total,
        "memory_available": load.memory_available,
        "cpu_pressure": load.cpu_pressure,
        "memory_pressure": load.memory_pressure,
        "io_pressure": load.io_pressure,
        "received_bytes_per_second": load.received,
        "sent_bytes_per_second": load.sent,
        "disk_free": load.disk_free,
        "disk_total": load.disk_total,
        "on_battery": load.on_battery,
    })
}

fn builds(farm: &Farm, now: Option<Stamp>) -> Vec<Value> {
    let mut rows: Vec<_> = farm.builds.all().collect();
    rows.sort_unstable_by_key(|row| row.number);
    rows.into_iter().map(|row| build(row, now)).collect()
}

fn build(row: &BuildRow, now: Option<Stamp>) -> Value {
    let Build { invocation, correlated, tool, user, machine, .. } = &row.wire;
    json!({
        "invocation": invocation,
        "correlated": name(correlated),
        "tool": name(tool),
        "user": name(user),
        "machine": name(machine),
        "active": row.is_active(now),
        "first_seen": wire_time(row.wire.first_seen.as_ref()),
        "last_seen": wire_time(row.wire.last_seen.as_ref()),
        "queued": row.wire.queued,
        "running": row.wire.running,
        "executed": row.wire.executed,
        "failed": row.wire.failed,
        "lookups": row.wire.lookups,
        "hits": row.wire.hits,
        "uploads": row.wire.uploads,
        "uploaded_bytes": row.wire.uploaded_bytes,
        "downloaded_bytes": row.wire.downloaded_bytes,
    })
}

fn operation(op: &Op, now: Option<Stamp>) -> Value {
    json!({
        "name": &*op.name,
        "action_digest": &*op.digest,
        "instance": &*op.instance,
        "status": op.status.word(),
        "phase": op.phase().map(|phase| phase.word()),
        "target": name(&op.target),
        "mnemonic": name(&op.mnemonic),
        "first_output": name(&op.first_output),
        "invocation": name(&op.invocation),
        "machine": name(&op.machine),
        "queued": time(op.queued),
        "started": time(op.started),
        "elapsed_seconds": op.elapsed(now).map(|length| length.as_secs_f64()),
        "expected_seconds": op.expected.map(|length| length.as_secs_f64()),
        "attempts": op.attempts,
        "losses": op.losses.iter().map(|(machine, reason)| json!({ "machine": &**machine, "reason": &**reason })).collect::<Vec<_>>(),
        "priority": op.priority,
        "callers": op.callers,
    })
}

fn execution(execution: &Execution) -> Value {
    json!({
        "queued": execution.queued,
        "running": execution.running,
        "executed": execution.executed,
        "cached": execution.cached,
        "failed": execution.failed,
        "errors": execution.errors,
        "recent_hits": execution.recent_hits,
        "recent_lookups": execution.recent_lookups,
        "hits": execution.hits,
        "lookups": execution.lookups,
    })
}

fn storage(storage: &Storage) -> Value {
    json!({
        "used_bytes": storage.used_bytes,
        "budget_bytes": storage.budget_bytes,
        "blobs": storage.blobs,
        "leased_bytes": storage.leased_bytes,
        "evictions": storage.evictions,
        "youngest_victim_seconds": length(storage.youngest_victim.as_ref()),
        "action_results": storage.action_results,
        "unsynced_seconds": length(storage.unsynced.as_ref()),
        "damaged": storage.damaged,
        "scrub_progress": storage.scrub_progress,
        "scrub_passes": storage.scrub_passes,
        "pinned": storage.pinned,
        "replication": storage.replication.as_ref().map(replication),
    })
}

fn replication(told: &Replication) -> Value {
    json!({
        "copies_wanted": told.copies_wanted,
        "copies": told.copies,
        "keepers": told.keepers,
        "owed_copies": told.owed_copies,
        "owed_bytes": told.owed_bytes,
        "repair_copies": told.repair_copies,
        "repair_bytes": told.repair_bytes,
        "lag_seconds": length(told.lag.as_ref()),
        "bytes_per_second": told.bytes_per_second,
        "remaining_seconds": length(told.remaining.as_ref()),
        "compared": told.compared,
        "sole_entries": told.sole_entries,
        "sole_bytes": told.sole_bytes,
        "counted_entries": told.counted_entries,
        "counted_bytes": told.counted_bytes,
        "spare_entries": told.spare_entries,
        "spare_bytes": told.spare_bytes,
        "sent_copies": told.sent_copies,
        "sent_bytes": told.sent_bytes,
        "fetched_entries": told.fetched_entries,
        "fetched_bytes": told.fetched_bytes,
        "healed": told.healed,
        "refused_copies": told.refused_copies,
    })
}

fn mnemonic(mnemonic: &Mnemonic) -> Value {
    json!({
        "name": mnemonic.name,
        "lookups": mnemonic.lookups,
        "hits": mnemonic.hits,
        "executed": mnemonic.executed,
        "failed": mnemonic.failed,
        "run_seconds": length(mnemonic.run_time.as_ref()),
        "saved_seconds": length(mnemonic.saved_time.as_ref()),
    })
}

fn sample(sample: &Sample) -> Value {
    json!({
        "at": wire_time(sample.at.as_ref()),
        "executed": sample.executed,
        "lookups": sample.lookups,
        "hits": sample.hits,
        "queued": sample.queued,
        "running": sample.running,
        "slots": sample.slots,
        "uploaded_bytes": sample.uploaded_bytes,
        "downloaded_bytes": sample.downloaded_bytes,
        "evicted": sample.evicted,
    })
}

fn warning(warning: &Warning) -> Value {
    let level = if warning.level() == Level::Alarm { "alarm" } else { "advice" };
    json!({ "level": level, "text": warning.text, "remedy": name(&warning.remedy) })
}

/// An empty text is one that is not known.
fn name(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn length(length: Option<&protobuf::Duration>) -> Option<f64> {
    Some(std_duration(length?)?.as_secs_f64())
}

fn wire_time(time: Option<&protobuf::Timestamp>) -> Option<String> {
    system_time(time?).and_then(rfc3339)
}

fn time(stamp: Option<Stamp>) -> Option<String> {
    let micros = u64::try_from(stamp?.0).ok()?;
    std::time::UNIX_EPOCH.checked_add(Duration::from_micros(micros)).and_then(rfc3339)
}

/// Years beyond 9999 cannot be written.
fn rfc3339(time: std::time::SystemTime) -> Option<String> {
    const LAST: Duration = Duration::from_secs(253_402_300_799);
    let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
    (since <= LAST).then(|| humantime::format_rfc3339_millis(time).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::View;
    use crate::testing;

    #[test]
    fn everything_is_told_by_name() {
        let model = testing::model(View::Overview);
        let json = farm(model.farm());
        assert_eq!(json["schema"], 1);
        assert_eq!(json["summary"]["machines_up"], 3);
        assert_eq!(json["machines"][3]["state"], "lost");
        assert_eq!(json["machines"][3]["last_heard_seconds"], 12.0);
        assert_eq!(json["machines"][0]["last_heard_seconds"], Value::Null);
        assert_eq!(json["builds"][0]["user"], "ann");
        assert_eq!(json["machines"][0]["tenancies"][1]["machine"], "kitchen");
        assert_eq!(json["machines"][1]["round_trip_seconds"], 0.0004);
        assert_eq!(json["entrance"]["invitation"], Value::Null);
        assert_eq!(json["storage"]["replication"]["lag_seconds"], 3.0);
        assert_eq!(json["machines"][2]["caches_because"], "it runs on battery");
        assert_eq!(json["machines"][0]["sole_entries"], 12);
        assert_eq!(json["running"][1]["losses"][0]["machine"], "shed");
        assert_eq!(json["running"].as_array().unwrap().len(), 9);
        assert_eq!(json["queued"][0]["elapsed_seconds"], 9.0);
        assert_eq!(json["now"], "2023-11-15T17:00:00.000Z");
    }

    #[test]
    fn a_farm_that_told_nothing_is_valid_too() {
        let json = farm(&Farm::default());
        assert_eq!((&json["node"], &json["now"]), (&Value::Null, &Value::Null));
    }

    #[test]
    fn times_out_of_range_are_not_written() {
        assert_eq!(time(Some(Stamp(i64::MAX))), None);
        assert_eq!(time(Some(Stamp(-1))), None);
    }
}
