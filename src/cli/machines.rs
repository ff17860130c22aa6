//! `farmhand machines`: the machines of the farm, what they may take on and what they do.

use std::fmt::Write as _;

use farmhand_proto::control::machine::State;
use farmhand_proto::control::{GetStatusRequest, Machine};
use farmhand_proto::time::std_duration;
use serde::Serialize;

use super::error::CliError;
use super::output::{Paint, bytes, print, print_json};
use super::status::{bar, state_name};
use super::target::TargetArgs;

/// List the machines of the farm
///
/// With --json keys are added, never renamed or removed. `state` is active, yielding, draining, paused
/// or lost; `drained` says that nothing runs on one that drains. Sizes are bytes; what is not known is
/// null.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand machines\n  farmhand machines --json | jq '.[] | select(.drained).name'"
)]
pub(super) struct MachinesArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

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
    load: Option<LoadJson>,
}

#[derive(Debug, Serialize)]
struct LoadJson {
    /// Of all CPUs, 0 to 1.
    cpu: f64,
    load1: f64,
    memory_total: u64,
    memory_available: u64,
}

/// Asks and prints.
pub(super) async fn run(args: MachinesArgs) -> Result<(), CliError> {
    let mut control = args.target.connect().await?;
    let machines = control.get_status(GetStatusRequest {}).await?.into_inner().machines;
    if args.json {
        return print_json(&machines.iter().map(machine_json).collect::<Vec<_>>());
    }
    print(&table(&machines, Paint::stdout()))
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
        load: machine.load.as_ref().map(|load| LoadJson {
            cpu: load.cpu,
            load1: load.load1,
            memory_total: load.memory_total,
            memory_available: load.memory_available,
        }),
    }
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
    let slots: Vec<_> = machines
        .iter()
        .map(|machine| format!("{} {} of {}", bar(machine.busy, machine.slots), machine.busy, machine.slots))
        .collect();
    let slots_width = slots.iter().map(|text| text.chars().count()).max().unwrap_or(0).max(5);
    let header = format!(
        "{:<width$}  {:<10}{:<slots_width$}  {:>5}  {:>21}  VERSION",
        "MACHINE", "STATE", "SLOTS", "CPU", "MEMORY FREE"
    );
    let mut text = format!("{}\n", paint.dim(&header));
    for (machine, slots) in machines.iter().zip(slots) {
        let state = format!("{:<10}", standing(machine));
        let state = match machine.state() {
            State::Active => paint.green(&state),
            State::Lost => paint.red(&state),
            _ => paint.yellow(&state),
        };
        let (cpu, memory) = match &machine.load {
            Some(load) => (
                format!("{:.0} %", load.cpu * 100.0),
                format!("{} of {}", bytes(load.memory_available), bytes(load.memory_total)),
            ),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let _ = writeln!(
            text,
            "{:<width$}  {state}{slots:<slots_width$}  {cpu:>5}  {memory:>21}  {}",
            machine.name, machine.version
        );
    }
    text
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
            ..Default::default()
        };
        let cellar = Machine {
            name: "cellar".into(),
            state: State::Draining.into(),
            is_self: false,
            busy: 0,
            load: None,
            ..attic.clone()
        };
        vec![attic, cellar]
    }

    #[test]
    fn a_table_for_people() {
        let expected = "\
MACHINE  STATE     SLOTS          CPU            MEMORY FREE  VERSION
attic    active    ▮▯▯▯ 1 of 4   25 %     3.0 GiB of 8.0 GiB  0.1.0
cellar   drained   ▯▯▯▯ 0 of 4      -                      -  0.1.0
";
        assert_eq!(table(&machines(), Paint::plain()), expected);
    }

    #[test]
    fn json_for_programs() {
        let machines = machines();
        let json = serde_json::to_value(machines.iter().map(machine_json).collect::<Vec<_>>()).unwrap();
        assert_eq!((&json[0]["state"], &json[0]["drained"]), (&"active".into(), &false.into()));
        assert_eq!((&json[1]["state"], &json[1]["drained"]), (&"draining".into(), &true.into()));
        assert_eq!(json[0]["load"]["cpu"], 0.25);
        assert_eq!(json[1]["load"], serde_json::Value::Null);
        assert_eq!(json[0]["os"], serde_json::Value::Null);
    }
}
