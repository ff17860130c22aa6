//! `farmhand machines`: the machines of the farm, what they may take on, what they do, and for whom.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::time::Duration;

use farmhand_proto::client::Client;
use farmhand_proto::control::machine::State;
use farmhand_proto::control::{GetStatusRequest, Machine, Tenancy};
use farmhand_proto::protobuf::Duration as WireDuration;
use farmhand_proto::time::std_duration;
use serde::Serialize;

use super::copies::{CopiesJson, copies_json, remarks};
use super::error::{CliError, Explain};
use super::harmless::harmless;
use super::output::{Paint, bytes, duration, plural, print, print_json};
use super::status::{bar, state_name};
use super::target::TargetArgs;

/// List the machines of the farm
///
/// Guests are actions of other machines that run there, and how many may. Below this machine stands who uses
/// it, below each which copies of blobs and results it has still to make, and what nobody else has. With --watch the list is shown anew when something changes, until it is interrupted.
///
/// With --json keys are added, never renamed or removed; with --watch each line is a list. `state` is active, yielding, draining, paused,
/// lost, connecting (looked for), refused (it has another farm key) or incompatible (its program is too
/// old or too new); `reason` says more. `drained` says that nothing runs on one that drains, `linked` that
/// the node can use it, `links_back` that it can use the node. `guest_slots` are those that others may have
/// now; `toolchain` is equal on machines whose compilers and libraries are. `keeps_copies` says that the farm
/// relies on what the machine stores, `caches_because` why not. `sole_entries` are blobs and results that are
/// lost if it leaves, until `safe_to_leave` on one that drains. Sizes are bytes; what is not known is null.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand machines\n  farmhand machines --watch\n  farmhand machines --json | jq '.[] | select(.drained).name'"
)]
pub(super) struct MachinesArgs {
    /// Show them again when something changes
    #[arg(long)]
    watch: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// Time between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Clears a terminal, and goes to its first line.
const CLEAR: &str = "\x1b[H\x1b[2J\x1b[3J";

/// Width of the column of states.
pub(super) const STATE: usize = 14;

/// A machine as `--json` prints it.
#[derive(Debug, Serialize)]
pub(super) struct MachineJson<'a> {
    name: &'a str,
    state: &'static str,
    drained: bool,
    #[serde(rename = "self")]
    is_self: bool,
    slots: u32,
    busy: u32,
    last_heard_seconds: Option<f64>,
    version: &'a str,
    os: Option<&'a str>,
    arch: Option<&'a str>,
    cpus: Option<u32>,
    toolchain: Option<&'a str>,
    load: Option<LoadJson>,
    guests: Option<u32>,
    guest_slots: Option<u32>,
    used_bytes: u64,
    budget_bytes: u64,
    tenancies: Vec<TenancyJson<'a>>,
    #[serde(flatten)]
    copies: CopiesJson<'a>,
    #[serde(flatten)]
    link: LinkJson<'a>,
}

/// The use that somebody makes of a machine.
#[derive(Debug, Serialize)]
struct TenancyJson<'a> {
    /// Whose actions these are, and the machine they came from.
    person: &'a str,
    machine: &'a str,
    granted: u32,
    running: u32,
    ahead: u32,
    waiting: u32,
}

/// How a machine is reached.
#[derive(Debug, Serialize)]
struct LinkJson<'a> {
    id: Option<&'a str>,
    address: Option<&'a str>,
    found_by: Option<&'a str>,
    reason: Option<&'a str>,
    linked: bool,
    links_back: bool,
    round_trip_seconds: Option<f64>,
    clock_ahead_seconds: Option<f64>,
    boot_epoch: Option<u64>,
}

#[derive(Debug, Serialize)]
struct LoadJson {
    /// Of all CPUs, 0 to 1.
    cpu: f64,
    load1: f64,
    memory_total: u64,
    memory_available: u64,
    disk_total: u64,
    disk_free: u64,
    on_battery: Option<bool>,
}

/// Asks and prints.
pub(super) async fn run(args: MachinesArgs) -> Result<(), CliError> {
    let mut control = args.target.connect().await?;
    if args.watch {
        return watch(control, args.json).await;
    }
    let machines = ask(&mut control).await?;
    if args.json {
        return print_json(&machines.iter().map(machine_json).collect::<Vec<_>>());
    }
    print(&table(&machines, Paint::stdout()))
}

async fn ask(control: &mut Client) -> Result<Vec<Machine>, CliError> {
    Ok(control.get_status(GetStatusRequest {}).await?.into_inner().machines)
}

/// Prints them whenever they are not what they were: over what stood there on a terminal, else below it.
async fn watch(mut control: Client, json: bool) -> Result<(), CliError> {
    let over = io::stdout().is_terminal() && !json;
    let mut shown = String::new();
    loop {
        let machines = ask(&mut control).await?;
        let text = match json {
            true => {
                let list: Vec<_> = machines.iter().map(machine_json).collect();
                format!("{}\n", serde_json::to_string(&list).explain("cannot write JSON")?)
            }
            false => table(&machines, Paint::stdout()),
        };
        if text != shown {
            let gap = if json || shown.is_empty() { "" } else { "\n" };
            print(&if over { format!("{CLEAR}{text}") } else { format!("{gap}{text}") })?;
            shown = text;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// For programs.
pub(super) fn machine_json(machine: &Machine) -> MachineJson<'_> {
    let text = |text: &'_ str| !text.is_empty();
    MachineJson {
        name: &machine.name,
        state: state_name(machine.state()),
        drained: is_drained(machine),
        is_self: machine.is_self,
        slots: machine.slots,
        busy: machine.busy,
        last_heard_seconds: machine.last_heard.as_ref().and_then(std_duration).map(|time| time.as_secs_f64()),
        version: &machine.version,
        os: Some(machine.os.as_str()).filter(|os| text(os)),
        arch: Some(machine.arch.as_str()).filter(|arch| text(arch)),
        cpus: (machine.cpus > 0).then_some(machine.cpus),
        toolchain: Some(machine.toolchain.as_str()).filter(|toolchain| text(toolchain)),
        load: machine.load.as_ref().map(|load| LoadJson {
            cpu: load.cpu,
            load1: load.load1,
            memory_total: load.memory_total,
            memory_available: load.memory_available,
            disk_total: load.disk_total,
            disk_free: load.disk_free,
            on_battery: load.on_battery,
        }),
        guests: machine.guests,
        guest_slots: machine.guest_slots,
        used_bytes: machine.used_bytes,
        budget_bytes: machine.budget_bytes,
        tenancies: machine.tenancies.iter().map(|tenancy| tenancy_json(tenancy, machine)).collect(),
        copies: copies_json(machine),
        link: link_json(machine),
    }
}

fn tenancy_json<'a>(tenancy: &'a Tenancy, machine: &'a Machine) -> TenancyJson<'a> {
    let Tenancy { owner, person, granted, running, ahead, waiting } = tenancy;
    let owner = if owner.is_empty() { &machine.name } else { owner };
    let (granted, running, ahead, waiting) = (*granted, *running, *ahead, *waiting);
    TenancyJson { person, machine: owner, granted, running, ahead, waiting }
}

/// How a machine is reached, for programs.
fn link_json(machine: &Machine) -> LinkJson<'_> {
    let text = |text: &'_ str| !text.is_empty();
    LinkJson {
        id: Some(machine.id.as_str()).filter(|id| text(id)),
        address: Some(machine.address.as_str()).filter(|address| text(address)),
        found_by: Some(machine.found_by.as_str()).filter(|how| text(how)),
        reason: Some(machine.reason.as_str()).filter(|reason| text(reason)),
        linked: machine.linked,
        links_back: machine.links_back,
        round_trip_seconds: machine.round_trip.as_ref().map(seconds),
        clock_ahead_seconds: machine.clock_ahead.as_ref().map(seconds),
        boot_epoch: (machine.boot_epoch > 0).then_some(machine.boot_epoch),
    }
}

/// A length of time that may be negative.
pub(super) fn seconds(length: &WireDuration) -> f64 {
    length.seconds as f64 + f64::from(length.nanos) / 1e9
}

/// What a person should know of a machine besides its state.
pub(super) fn remark(machine: &Machine) -> Option<String> {
    let reason = machine.reason.as_str();
    let heard = machine.last_heard.as_ref().and_then(std_duration);
    let clock = machine.clock_ahead.as_ref().map(seconds).filter(|ahead| ahead.abs() > CLOCK_OFF);
    match (machine.state(), clock) {
        (State::Lost, _) => Some(format!("last heard {} ago: {reason}", duration(heard.unwrap_or_default()))),
        (State::Connecting, _) => {
            let way = if machine.address.is_empty() { "nowhere" } else { &machine.address };
            let tried = if reason.is_empty() { "not tried yet" } else { reason };
            Some(format!("looked for at {way}: {tried}"))
        }
        (_, _) if !reason.is_empty() => Some(reason.to_owned()),
        (_, Some(ahead)) => Some(format!("its clock is {}", off(ahead))),
        (_, None) if machine.linked && !machine.links_back => {
            Some("it has no link to this machine: it is used and cannot use this one".to_owned())
        }
        (_, None) => None,
    }
}

/// Seconds by which a clock may be off before people are told.
pub(super) const CLOCK_OFF: f64 = 5.0;

/// How far a clock is off.
pub(super) fn off(ahead: f64) -> String {
    let length = duration(Duration::from_secs_f64(ahead.abs().min(1e9)));
    format!("{length} {}", if ahead < 0.0 { "behind" } else { "ahead" })
}

/// Whether anything is known of its slots.
pub(super) fn has_slots(machine: &Machine) -> bool {
    machine.slots > 0
}

/// Whether it answers.
pub(super) fn is_up(machine: &Machine) -> bool {
    !matches!(machine.state(), State::Lost | State::Connecting | State::Refused | State::Incompatible)
}

/// The farm in a line; nothing where there is one machine only.
pub(super) fn totals(machines: &[Machine]) -> Option<String> {
    let up: Vec<_> = machines.iter().filter(|machine| is_up(machine)).collect();
    let sum = |number: fn(&Machine) -> u32| up.iter().map(|machine| u64::from(number(machine))).sum::<u64>();
    let (busy, slots) = (sum(|machine| machine.busy), sum(|machine| machine.slots));
    let machines = (machines.len() > 1).then_some(machines.len())?;
    Some(format!("{} of {machines} machines up, {busy} of {slots} slots busy", up.len()))
}

/// Who uses it, a line each.
fn users(machine: &Machine) -> Vec<String> {
    let words = |tenancy: &Tenancy| {
        let TenancyJson { person, machine: owner, granted, running, ahead, waiting } =
            tenancy_json(tenancy, machine);
        let who = if person == owner || person.is_empty() {
            owner.to_owned()
        } else {
            format!("{person} on {owner}")
        };
        let mut text = format!("{who} runs {running} of {granted} granted");
        for (number, what) in [(ahead, "ahead"), (waiting, "waiting")] {
            if number > 0 {
                let _ = write!(text, ", {number} {what}");
            }
        }
        text
    };
    machine.tenancies.iter().map(words).collect()
}

/// Who uses it, the persistent workers it keeps and, in a farm of several, how its copies stand: a line each.
pub(super) fn details(machine: &Machine, has_others: bool) -> Vec<String> {
    let copies = if has_others { remarks(machine) } else { Vec::new() };
    let warm = (machine.warm_workers > 0).then(|| {
        let what = plural(u64::from(machine.warm_workers), "warm persistent worker");
        format!("{what} ({})", bytes(machine.warm_worker_bytes))
    });
    users(machine).into_iter().chain(warm).chain(copies).collect()
}

/// How it stands, in a word: one that drains and has nothing left is drained.
pub(super) fn standing(machine: &Machine) -> &'static str {
    if is_drained(machine) { "drained" } else { state_name(machine.state()) }
}

fn is_drained(machine: &Machine) -> bool {
    machine.state() == State::Draining && machine.busy == 0
}

fn table(machines: &[Machine], paint: Paint) -> String {
    let width = machines.iter().map(|machine| machine.name.chars().count()).max().unwrap_or(0).max(7);
    let slots = |machine: &Machine| match has_slots(machine) {
        true => format!("{} {} of {}", bar(machine.busy, machine.slots), machine.busy, machine.slots),
        false => "-".to_owned(),
    };
    let slots: Vec<_> = machines.iter().map(slots).collect();
    let slots_width = slots.iter().map(|text| text.chars().count()).max().unwrap_or(0).max(5);
    let header = format!(
        "{:<width$}  {:<STATE$}{:<slots_width$}  {:>6}  {:>5}  {:>21}  {:>7}  VERSION",
        "MACHINE", "STATE", "SLOTS", "GUESTS", "CPU", "MEMORY FREE", "RTT"
    );
    let mut text = format!("{}\n", paint.dim(&header));
    for (machine, slots) in machines.iter().zip(slots) {
        let state = paint_state(machine, paint);
        let (cpu, memory) = match &machine.load {
            Some(load) => (
                format!("{:.0} %", load.cpu * 100.0),
                format!("{} of {}", bytes(load.memory_available), bytes(load.memory_total)),
            ),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let _ = writeln!(
            text,
            "{:<width$}  {state}{slots:<slots_width$}  {:>6}  {cpu:>5}  {memory:>21}  {:>7}  {}",
            machine.name,
            guests(machine),
            round_trip(machine),
            machine.version
        );
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
    text
}

/// Actions of others that run there, and how many may.
fn guests(machine: &Machine) -> String {
    match (machine.guests, machine.guest_slots) {
        (Some(guests), Some(slots)) => format!("{guests}/{slots}"),
        (Some(guests), None) => guests.to_string(),
        (None, _) => "-".to_owned(),
    }
}

fn round_trip(machine: &Machine) -> String {
    match machine.round_trip.as_ref().map(seconds) {
        Some(time) => format!("{:.1} ms", time * 1000.0),
        None => "-".to_owned(),
    }
}

/// How it stands, in its colour and as wide as the column.
pub(super) fn paint_state(machine: &Machine, paint: Paint) -> String {
    let state = format!("{:<STATE$}", standing(machine));
    match machine.state() {
        State::Active => paint.green(&state),
        State::Lost | State::Refused | State::Incompatible => paint.red(&state),
        _ => paint.yellow(&state),
    }
}

#[cfg(test)]
mod tests {
    use farmhand_proto::control::Load;

    use super::*;

    fn machines() -> Vec<Machine> {
        let load = Load {
            cpu: 0.25,
            memory_total: 8 << 30,
            memory_available: 3 << 30,
            disk_free: 5 << 30,
            disk_total: 9 << 30,
            on_battery: Some(false),
            load1: 1.5,
            ..Default::default()
        };
        let attic = Machine {
            name: "attic".into(),
            state: State::Active.into(),
            is_self: true,
            slots: 4,
            busy: 1,
            version: "0.1.0".into(),
            load: Some(load),
            guests: Some(1),
            warm_workers: 2,
            warm_worker_bytes: 3 << 30,
            tenancies: vec![Tenancy {
                owner: "cellar".into(),
                person: "ada".into(),
                granted: 2,
                running: 1,
                waiting: 30,
                ..Default::default()
            }],
            ..Default::default()
        };
        let cellar = Machine {
            name: "cellar".into(),
            state: State::Draining.into(),
            is_self: false,
            busy: 0,
            load: None,
            guests: Some(0),
            guest_slots: Some(3),
            tenancies: Vec::new(),
            warm_workers: 0,
            round_trip: Some(WireDuration { seconds: 0, nanos: 400_000 }),
            ..attic.clone()
        };
        let shed = Machine {
            name: "shed".into(),
            state: State::Refused.into(),
            is_self: false,
            slots: 0,
            version: String::new(),
            reason: "it has another\u{1b} farm key".into(),
            load: None,
            ..Default::default()
        };
        vec![attic, cellar, shed]
    }

    #[test]
    fn a_table_for_people() {
        let expected = "\
MACHINE  STATE         SLOTS        GUESTS    CPU            MEMORY FREE      RTT  VERSION
attic    active        ▮▯▯▯ 1 of 4       1   25 %     3.0 GiB of 8.0 GiB        -  0.1.0
         · ada on cellar runs 1 of 2 granted, 30 waiting
         · 2 warm persistent workers (3.0 GiB)
cellar   drained       ▯▯▯▯ 0 of 4     0/3      -                      -   0.4 ms  0.1.0
shed     refused       -                 -      -                      -        -  
         → it has another␛ farm key
2 of 3 machines up, 1 of 8 slots busy
";
        assert_eq!(table(&machines(), Paint::plain()), expected);
    }

    #[test]
    fn what_a_person_should_know_is_told() {
        let clock =
            |seconds: i64| Some(WireDuration { seconds, nanos: seconds.signum() as i32 * 500_000_000 });
        let linked = Machine { linked: true, links_back: true, ..machines().remove(0) };
        assert_eq!(remark(&linked), None);
        assert_eq!(remark(&Machine { clock_ahead: clock(1), ..linked.clone() }), None);
        let behind = remark(&Machine { clock_ahead: clock(-90), ..linked.clone() });
        assert_eq!(behind.unwrap(), "its clock is 1m 30s behind");
        let one_way = remark(&Machine { links_back: false, ..linked.clone() });
        assert!(one_way.unwrap().contains("cannot use this one"));
        let lost = Machine {
            state: State::Lost.into(),
            last_heard: Some(WireDuration { seconds: 61, nanos: 0 }),
            reason: "it was silent for 3 s".into(),
            ..linked
        };
        assert_eq!(remark(&lost).unwrap(), "last heard 1m 1s ago: it was silent for 3 s");
    }

    #[test]
    fn how_a_machine_is_reached_is_told_to_programs() {
        let round_trip = Some(WireDuration { seconds: 0, nanos: 500_000 });
        let machine = Machine { round_trip, boot_epoch: 7, linked: true, ..machines().remove(2) };
        let json = serde_json::to_value(machine_json(&machine)).unwrap();
        assert_eq!((&json["state"], &json["linked"]), (&"refused".into(), &true.into()));
        assert_eq!((&json["round_trip_seconds"], &json["boot_epoch"]), (&0.0005.into(), &7.into()));
        assert_eq!(
            (&json["address"], &json["clock_ahead_seconds"]),
            (&serde_json::Value::Null, &serde_json::Value::Null)
        );
    }

    #[test]
    fn json_for_programs() {
        let machines = machines();
        let json = serde_json::to_value(machines.iter().map(machine_json).collect::<Vec<_>>()).unwrap();
        assert_eq!((&json[0]["state"], &json[0]["drained"]), (&"active".into(), &false.into()));
        assert_eq!((&json[1]["state"], &json[1]["drained"]), (&"draining".into(), &true.into()));
        let load = &json[0]["load"];
        assert_eq!((&load["cpu"], &load["on_battery"]), (&0.25.into(), &false.into()));
        assert_eq!((&load["disk_free"], &load["disk_total"]), (&(5_u64 << 30).into(), &(9_u64 << 30).into()));
        assert_eq!(json[1]["load"], serde_json::Value::Null);
        assert_eq!(json[0]["os"], serde_json::Value::Null);
        assert_eq!(json[0]["guest_slots"], serde_json::Value::Null);
        let lent = Machine { guest_slots: Some(2), toolchain: "ab".into(), ..machines[0].clone() };
        let lent = serde_json::to_value(machine_json(&lent)).unwrap();
        assert_eq!((&lent["guest_slots"], &lent["toolchain"]), (&2.into(), &"ab".into()));
        assert_eq!((&json[0]["tenancies"][0]["machine"], &json[0]["guests"]), (&"cellar".into(), &1.into()));
        assert_eq!((&json[1]["guest_slots"], &json[2]["guests"]), (&3.into(), &serde_json::Value::Null));
    }
}
