//! `farmhand status`: the node at a glance, for people or as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use farmhand_proto::control::machine::State;
use farmhand_proto::control::warning::Level;
use farmhand_proto::control::{Entrance, GetStatusRequest, GetStatusResponse, Machine, Warning};
use farmhand_proto::time::{std_duration, system_time};
use serde::Serialize;

use super::copies::{ReplicationJson, replication_json, summary};
use super::error::CliError;
use super::harmless::harmless;
use super::machines::{MachineJson, STATE, details, has_slots, machine_json, paint_state, remark, totals};
use super::output::{Paint, bytes, count, duration, plural, print, print_json};
use super::target::TargetArgs;

/// Show what the node is doing
///
/// With --json the schema is stable: keys are added, never renamed or removed, and `schema` grows
/// when a meaning changes. `machines` names every machine of the farm with its `state` and what else
/// `farmhand machines --json` has. Sizes are bytes and times are seconds; what is not known is null.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  farmhand status\n  farmhand status --json | jq '.machines[].state'")]
pub(super) struct StatusArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// Version of the JSON below.
const SCHEMA: u32 = 1;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct StatusJson<'a> {
    schema: u32,
    node: NodeJson<'a>,
    machines: Vec<MachineJson<'a>>,
    execution: ExecutionJson,
    storage: StorageJson,
    warnings: Vec<WarningJson<'a>>,
}

#[derive(Debug, Serialize)]
struct NodeJson<'a> {
    name: &'a str,
    version: &'a str,
    protocol_version: u32,
    pid: u32,
    started: Option<String>,
    uptime_seconds: Option<f64>,
    boot_epoch: u64,
    data_dir: &'a str,
    sandbox: &'a str,
    endpoints: EndpointsJson<'a>,
    farm: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct EndpointsJson<'a> {
    reapi: Option<&'a str>,
    reapi_socket: Option<&'a str>,
    peers: Option<&'a str>,
    control: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct ExecutionJson {
    queued: u64,
    running: u64,
    executed: u64,
    cached: u64,
    failed: u64,
    errors: u64,
    recent_hits: u64,
    recent_lookups: u64,
    hits: u64,
    lookups: u64,
    /// Of the last minute, 0 to 1; null without a look-up.
    hit_rate: Option<f64>,
}

#[derive(Debug, Serialize)]
struct StorageJson {
    used_bytes: u64,
    budget_bytes: u64,
    blobs: u64,
    leased_bytes: u64,
    evictions: u64,
    youngest_victim_seconds: Option<f64>,
    action_results: u64,
    /// Age of the oldest write that a power cut would take; null when everything is on the disk.
    unsynced_seconds: Option<f64>,
    damaged: u64,
    /// Of this pass of the search for damage, 0 to 1.
    scrub_progress: f64,
    scrub_passes: u64,
    /// Results that a person pinned.
    pinned: u64,
    /// Copies on other machines; null where the farm keeps none.
    replication: Option<ReplicationJson>,
}

#[derive(Debug, Serialize)]
struct WarningJson<'a> {
    level: &'static str,
    text: &'a str,
    remedy: Option<&'a str>,
}

/// Asks and prints.
pub(super) async fn run(args: StatusArgs) -> Result<(), CliError> {
    let mut control = args.target.connect().await?;
    let status = control.get_status(GetStatusRequest {}).await?.into_inner();
    if args.json { print_json(&to_json(&status)) } else { print(&to_text(&status, Paint::stdout())) }
}

// === JSON ===

fn to_json(status: &GetStatusResponse) -> StatusJson<'_> {
    StatusJson {
        schema: SCHEMA,
        node: node_json(status),
        machines: status.machines.iter().map(machine_json).collect(),
        execution: execution_json(status),
        storage: storage_json(status),
        warnings: status
            .warnings
            .iter()
            .map(|warning| WarningJson {
                level: if is_alarm(warning) { "alarm" } else { "advice" },
                text: &warning.text,
                remedy: set(&warning.remedy),
            })
            .collect(),
    }
}

fn node_json(status: &GetStatusResponse) -> NodeJson<'_> {
    let node = status.node.as_ref();
    let endpoints = node.and_then(|node| node.endpoints.as_ref());
    let text = |text: Option<&'static str>| text.unwrap_or_default();
    NodeJson {
        name: node.map_or(text(None), |node| &node.name),
        version: node.map_or(text(None), |node| &node.version),
        protocol_version: node.map_or(0, |node| node.protocol_version),
        pid: node.map_or(0, |node| node.pid),
        started: node
            .and_then(|node| system_time(node.started.as_ref()?))
            .map(|started| humantime::format_rfc3339_seconds(started).to_string()),
        uptime_seconds: node.and_then(|node| seconds(node.uptime.as_ref())),
        boot_epoch: node.map_or(0, |node| node.boot_epoch),
        data_dir: node.map_or(text(None), |node| &node.data_dir),
        sandbox: node.map_or(text(None), |node| &node.sandbox),
        endpoints: EndpointsJson {
            reapi: endpoints.and_then(|doors| set(&doors.reapi)),
            reapi_socket: endpoints.and_then(|doors| set(&doors.reapi_socket)),
            peers: endpoints.and_then(|doors| set(&doors.peers)),
            control: endpoints.and_then(|doors| set(&doors.control)),
        },
        farm: node.and_then(|node| set(&node.farm)),
    }
}

fn execution_json(status: &GetStatusResponse) -> ExecutionJson {
    let execution = status.execution.unwrap_or_default();
    ExecutionJson {
        queued: execution.queued,
        running: execution.running,
        executed: execution.executed,
        cached: execution.cached,
        failed: execution.failed,
        errors: execution.errors,
        recent_hits: execution.recent_hits,
        recent_lookups: execution.recent_lookups,
        hits: execution.hits,
        lookups: execution.lookups,
        hit_rate: (execution.recent_lookups > 0)
            .then(|| execution.recent_hits as f64 / execution.recent_lookups as f64),
    }
}

fn storage_json(status: &GetStatusResponse) -> StorageJson {
    let storage = status.storage.unwrap_or_default();
    StorageJson {
        used_bytes: storage.used_bytes,
        budget_bytes: storage.budget_bytes,
        blobs: storage.blobs,
        leased_bytes: storage.leased_bytes,
        evictions: storage.evictions,
        youngest_victim_seconds: seconds(storage.youngest_victim.as_ref()),
        action_results: storage.action_results,
        unsynced_seconds: seconds(storage.unsynced.as_ref()),
        damaged: storage.damaged,
        scrub_progress: storage.scrub_progress,
        scrub_passes: storage.scrub_passes,
        pinned: storage.pinned,
        replication: storage.replication.as_ref().map(replication_json),
    }
}

fn seconds(length: Option<&farmhand_proto::protobuf::Duration>) -> Option<f64> {
    length.and_then(std_duration).map(|length| length.as_secs_f64())
}

fn set(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn is_alarm(warning: &Warning) -> bool {
    warning.level() == Level::Alarm
}

/// A state as JSON has it.
pub(super) fn state_name(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Active => "active",
        State::Yielding => "yielding",
        State::Draining => "draining",
        State::Paused => "paused",
        State::Lost => "lost",
        State::Connecting => "connecting",
        State::Refused => "refused",
        State::Incompatible => "incompatible",
    }
}

// === text ===

fn to_text(status: &GetStatusResponse, paint: Paint) -> String {
    let mut text = String::new();
    let json = to_json(status);
    node_text(&mut text, &json.node, paint);
    machines_text(&mut text, &status.machines, paint);
    execution_text(&mut text, &json.execution);
    storage_text(&mut text, &json.storage);
    let replication = status.storage.as_ref().and_then(|storage| storage.replication.as_ref());
    for (at, line) in replication.map(summary).unwrap_or_default().iter().enumerate() {
        let _ = writeln!(text, "{:<10}{line}", if at == 0 { "Copies" } else { "" });
    }
    entrance_text(&mut text, status.entrance.as_ref(), paint);
    for warning in &status.warnings {
        let mark = if is_alarm(warning) { paint.red("alarm:") } else { paint.yellow("advice:") };
        let _ = writeln!(text, "{mark} {}", warning.text);
        if !warning.remedy.is_empty() {
            let _ = writeln!(text, "  {} {}", paint.cyan("hint:"), warning.remedy);
        }
    }
    text
}

fn node_text(text: &mut String, node: &NodeJson<'_>, paint: Paint) {
    let uptime = duration(Duration::from_secs_f64(node.uptime_seconds.unwrap_or_default().max(0.0)));
    let _ = writeln!(
        text,
        "{} is serving · farmhand {} · up {uptime} · pid {}",
        paint.bold(node.name),
        node.version,
        node.pid
    );
    for (label, value) in [
        ("REAPI", node.endpoints.reapi),
        ("socket", node.endpoints.reapi_socket),
        ("peers", node.endpoints.peers),
        ("farm", node.farm),
        ("data", set(node.data_dir)),
        ("sandbox", set(node.sandbox)),
    ] {
        if let Some(value) = value {
            let _ = writeln!(text, "  {} {value}", paint.dim(&format!("{label:<8}")));
        }
    }
    text.push('\n');
}

/// Width of the bar of slots.
const BAR: u32 = 20;

fn machines_text(text: &mut String, machines: &[Machine], paint: Paint) {
    let width = machines.iter().map(|machine| machine.name.chars().count()).max().unwrap_or(0).max(7);
    let _ = writeln!(text, "{}", paint.dim(&format!("{:<width$}  {:<STATE$}SLOTS", "MACHINE", "STATE")));
    for machine in machines {
        let state = paint_state(machine, paint);
        let (busy, slots) = (machine.busy, machine.slots);
        let slots = match has_slots(machine) {
            true => format!("{} {busy} of {slots} busy", bar(busy, slots)),
            false => "-".to_owned(),
        };
        let _ = writeln!(text, "{:<width$}  {state}{slots}", machine.name);
        if let Some(remark) = remark(machine) {
            let _ = writeln!(text, "{:<width$}  {} {}", "", paint.cyan("→"), harmless(&remark));
        }
        for line in details(machine, machines.len() > 1) {
            let _ = writeln!(text, "{:<width$}  {} {}", "", paint.cyan("·"), harmless(&line));
        }
    }
    if let Some(totals) = totals(machines) {
        let _ = writeln!(text, "{totals}");
    }
    text.push('\n');
}

/// Who may come in, where anybody may.
fn entrance_text(text: &mut String, entrance: Option<&Entrance>, paint: Paint) {
    let Some(entrance) = entrance else { return };
    for newcomer in &entrance.waiting {
        let asks = format!("{} asks to come in, check words {}", newcomer.name, newcomer.check_words);
        let _ = writeln!(text, "{} {}", paint.yellow("newcomer:"), harmless(&asks));
        let _ = writeln!(text, "  {} farmhand top, then a in 6 Machines", paint.cyan("hint:"));
    }
    if let Some(open) = &entrance.invitation {
        let left = open.expires.as_ref().and_then(system_time);
        let left = left.and_then(|end| end.duration_since(std::time::SystemTime::now()).ok());
        let left = left.unwrap_or_default().as_secs();
        let left = format!("{}:{:02}", left / 60, left % 60);
        let _ = writeln!(text, "{} open for one machine, {left} left", paint.yellow("invitation:"));
    }
}

/// One sign for each slot, or a fixed width where there are many.
pub(super) fn bar(busy: u32, slots: u32) -> String {
    let width = slots.min(BAR);
    let filled = if slots == 0 { 0 } else { (u64::from(busy) * u64::from(width)).div_ceil(u64::from(slots)) };
    (0..u64::from(width)).map(|i| if i < filled { '▮' } else { '▯' }).collect()
}

fn execution_text(text: &mut String, execution: &ExecutionJson) {
    let _ = writeln!(
        text,
        "Actions   {} queued · {} running · {} executed · {} cached · {} failed · {}",
        count(execution.queued),
        count(execution.running),
        count(execution.executed),
        count(execution.cached),
        count(execution.failed),
        plural(execution.errors, "error")
    );
    let rate = match execution.hit_rate {
        Some(rate) => format!(
            "{:.0} % in the last minute ({} of {})",
            rate * 100.0,
            count(execution.recent_hits),
            plural(execution.recent_lookups, "look-up")
        ),
        None => "no look-up in the last minute".to_owned(),
    };
    let _ = writeln!(text, "Hit rate  {rate}");
}

fn storage_text(text: &mut String, storage: &StorageJson) {
    let share = storage.used_bytes.saturating_mul(100).checked_div(storage.budget_bytes).unwrap_or(0);
    let _ = writeln!(
        text,
        "Store     {} of {} ({share} %) · {} · {} · {} leased",
        bytes(storage.used_bytes),
        bytes(storage.budget_bytes),
        plural(storage.blobs, "blob"),
        plural(storage.action_results, "result"),
        bytes(storage.leased_bytes),
    );
    if storage.pinned > 0 {
        let _ = writeln!(text, "          {} pinned", plural(storage.pinned, "result"));
    }
    if let Some(age) = storage.youngest_victim_seconds {
        let age = duration(Duration::from_secs_f64(age));
        let _ = writeln!(text, "          {}, the youngest {age} old", plural(storage.evictions, "eviction"));
    }
}

#[cfg(test)]
mod tests {
    use farmhand_proto::control::{Endpoints, Execution, Node, Storage};
    use farmhand_proto::protobuf::{Duration as WireDuration, Timestamp};

    use super::*;

    fn status() -> GetStatusResponse {
        GetStatusResponse {
            node: Some(Node {
                name: "attic".into(),
                version: "0.1.0".into(),
                protocol_version: 1,
                pid: 42,
                started: Some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
                uptime: Some(WireDuration { seconds: 7500, nanos: 0 }),
                boot_epoch: 3,
                endpoints: Some(Endpoints {
                    reapi: "127.0.0.1:8980".into(),
                    reapi_socket: "/run/farmhand/reapi.sock".into(),
                    peers: String::new(),
                    control: "/run/farmhand/control.sock".into(),
                }),
                data_dir: "/data".into(),
                sandbox: "namespaces and overlay".into(),
                farm: String::new(),
            }),
            machines: vec![Machine {
                name: "attic".into(),
                state: State::Active.into(),
                is_self: true,
                slots: 4,
                busy: 1,
                last_heard: None,
                version: "0.1.0".into(),
                ..Default::default()
            }],
            execution: Some(Execution {
                running: 1,
                executed: 1200,
                recent_hits: 3,
                recent_lookups: 4,
                errors: 1,
                ..Default::default()
            }),
            storage: Some(Storage {
                used_bytes: 1 << 30,
                budget_bytes: 4 << 30,
                blobs: 5,
                action_results: 1,
                ..Default::default()
            }),
            warnings: vec![Warning {
                level: Level::Alarm.into(),
                text: "the disk is full".into(),
                remedy: "free some".into(),
            }],
            entrance: None,
        }
    }

    #[test]
    fn text_for_people() {
        let expected = "\
attic is serving · farmhand 0.1.0 · up 2h 5m · pid 42
  REAPI    127.0.0.1:8980
  socket   /run/farmhand/reapi.sock
  data     /data
  sandbox  namespaces and overlay

MACHINE  STATE         SLOTS
attic    active        ▮▯▯▯ 1 of 4 busy

Actions   0 queued · 1 running · 1,200 executed · 0 cached · 0 failed · 1 error
Hit rate  75 % in the last minute (3 of 4 look-ups)
Store     1.0 GiB of 4.0 GiB (25 %) · 5 blobs · 1 result · 0 B leased
alarm: the disk is full
  hint: free some
";
        assert_eq!(to_text(&status(), Paint::plain()), expected);
    }

    #[test]
    fn newcomers_and_invitations_are_told() {
        let newcomer = farmhand_proto::control::Newcomer {
            name: "annex\u{1b}".into(),
            check_words: "a b c".into(),
            ..Default::default()
        };
        let entrance = Entrance { waiting: vec![newcomer], invitation: Some(Default::default()) };
        let text = to_text(&GetStatusResponse { entrance: Some(entrance), ..status() }, Paint::plain());
        assert!(text.contains("newcomer: annex␛ asks to come in, check words a b c\n"), "{text}");
        assert!(text.contains("invitation: open for one machine, 0:00 left\n"), "{text}");
    }

    #[test]
    fn json_for_programs() {
        let status = status();
        let json = serde_json::to_value(to_json(&status)).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["machines"][0]["name"], "attic");
        assert_eq!(json["machines"][0]["state"], "active");
        assert_eq!(json["machines"][0]["self"], true);
        assert_eq!(json["node"]["started"], "2023-11-14T22:13:20Z");
        assert_eq!(json["node"]["endpoints"]["peers"], serde_json::Value::Null);
        assert_eq!(json["execution"]["hit_rate"], 0.75);
        assert_eq!(json["machines"][0], serde_json::to_value(machine_json(&status.machines[0])).unwrap());
        assert_eq!(json["machines"][0]["load"], serde_json::Value::Null);
        assert_eq!(json["machines"][0]["cpus"], serde_json::Value::Null);
        assert_eq!(json["machines"][0]["drained"], false);
        assert_eq!(json["storage"]["youngest_victim_seconds"], serde_json::Value::Null);
        assert_eq!(json["warnings"][0]["level"], "alarm");
    }

    #[test]
    fn a_status_that_tells_nothing_is_still_printed() {
        let text = to_text(&GetStatusResponse::default(), Paint::plain());
        assert!(text.contains("no look-up in the last minute"), "{text}");
    }

    #[test]
    fn a_bar_shows_work_as_soon_as_there_is_any() {
        assert_eq!([bar(0, 3), bar(3, 3), bar(0, 0)], ["▯▯▯", "▮▮▮", ""]);
        assert_eq!(bar(1, 200), format!("▮{}", "▯".repeat(19)));
        assert_eq!(bar(9, 4), "▮▮▮▮");
    }
}
