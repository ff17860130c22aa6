//! `farmhand pause`, `drain`, `resume` and `slots`: what a machine may take on.
//!
//! What is set lasts until it is set again, or the node ends. Actions that run are never harmed.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use farmhand_proto::client::Client;
use farmhand_proto::control::machine::State;
use farmhand_proto::control::{GetStatusRequest, Machine, Replication, SetMachineRequest};

use super::copies::entries;
use super::error::CliError;
use super::machines::{machine_json, standing};
use super::output::{Paint, plural, print, print_json};
use super::target::TargetArgs;

/// Time between two looks at a machine that drains.
const INTERVAL: Duration = Duration::from_millis(250);

/// Let a machine take no new actions
///
/// What runs goes on; what waits goes on waiting, or runs elsewhere. Lasts until `farmhand resume`, or
/// until the node ends.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  farmhand pause    this machine is yours")]
pub(super) struct PauseArgs {
    #[command(flatten)]
    which: WhichArgs,
}

/// Let a machine finish what it has, so that it may leave
///
/// It takes no new actions, and what it alone has of blobs and results is brought to other machines, until
/// `farmhand resume` or the end of the node.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  farmhand drain --wait && systemctl --user stop farmhand")]
pub(super) struct DrainArgs {
    /// Wait until nothing runs there and nothing is lost with it
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    which: WhichArgs,
}

/// Let a machine that is paused or drained take actions again
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  farmhand resume")]
pub(super) struct ResumeArgs {
    #[command(flatten)]
    which: WhichArgs,
}

/// Change how many actions a machine runs at once
///
/// Lasts until the node ends; the setting `slots` is for longer. Where it becomes fewer, what runs is
/// finished first.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand slots 2\n  farmhand slots --guests 0    nobody else runs anything here"
)]
pub(super) struct SlotsArgs {
    /// Actions at once, at least 1
    #[arg(value_name = "N", value_parser = clap::value_parser!(u32).range(1..), required_unless_present = "guests")]
    slots: Option<u32>,
    /// Of these, actions of other machines at once: a number, or all
    #[arg(long, value_name = "N", value_parser = guest_slots)]
    guests: Option<u32>,
    #[command(flatten)]
    which: WhichArgs,
}

/// Which machine, and how to tell of it.
#[derive(Debug, clap::Args)]
struct WhichArgs {
    /// Name of the machine, which must be the one whose node is asked: every machine is told by its own
    #[arg(long, value_name = "NAME")]
    machine: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// Pauses a machine.
pub(super) async fn pause(args: PauseArgs) -> Result<(), CliError> {
    args.which.set(State::Paused).await?.tell()
}

/// Drains a machine, and waits for it if that is wanted.
pub(super) async fn drain(args: DrainArgs) -> Result<(), CliError> {
    let mut changed = args.which.set(State::Draining).await?;
    if args.wait {
        changed.drained().await?;
    }
    changed.tell()
}

/// Lets a machine work again.
pub(super) async fn resume(args: ResumeArgs) -> Result<(), CliError> {
    args.which.set(State::Active).await?.tell()
}

/// Changes the slots of a machine.
pub(super) async fn slots(args: SlotsArgs) -> Result<(), CliError> {
    let SlotsArgs { slots, guests: guest_slots, which } = args;
    which.change(SetMachineRequest { slots, guest_slots, ..Default::default() }).await?.tell()
}

/// A machine that was told something.
struct Changed {
    control: Client,
    machine: Machine,
    /// Machines that keep copies, and that there is no link to.
    away: Vec<String>,
    json: bool,
}

// === impl WhichArgs ===

impl WhichArgs {
    async fn set(&self, state: State) -> Result<Changed, CliError> {
        self.change(SetMachineRequest { state: state.into(), ..Default::default() }).await
    }

    async fn change(&self, request: SetMachineRequest) -> Result<Changed, CliError> {
        let mut control = self.target.connect().await?;
        let machine = self.machine.clone().unwrap_or_default();
        let request = SetMachineRequest { machine, ..request };
        let answer = control.set_machine(request).await.map_err(explain)?.into_inner();
        let machine = answer.machine.ok_or_else(|| CliError::new("the node does not tell the machine"))?;
        Ok(Changed { control, machine, away: Vec::new(), json: self.json })
    }
}

/// A number of slots for others; as large as can be for all there are.
fn guest_slots(text: &str) -> Result<u32, String> {
    match text {
        "all" => Ok(u32::MAX),
        number => number.parse().map_err(|_| "write a number, or all".to_owned()),
    }
}

fn explain(status: tonic::Status) -> CliError {
    let code = status.code();
    let error = CliError::from(status);
    match code {
        tonic::Code::NotFound => error.hint("farmhand machines lists them"),
        _ => error,
    }
}

// === impl Changed ===

impl Changed {
    fn tell(&self) -> Result<(), CliError> {
        if self.json {
            return print_json(&machine_json(&self.machine));
        }
        print(&format!("{}\n", sentence(&self.machine, Paint::stdout())))
    }

    /// Waits until nothing runs and, where there are others to take it over, nothing is lost with the machine;
    /// says meanwhile what is left.
    async fn drained(&mut self) -> Result<(), CliError> {
        let mut progress = Progress::default();
        let paint = Paint::for_stream(progress.is_terminal);
        let left = loop {
            let replication = self.look().await?;
            if self.machine.state() != State::Draining {
                let (name, state) = (&self.machine.name, standing(&self.machine));
                return Err(CliError::new(format!("{name} is {state} now: somebody changed it"))
                    .hint("farmhand drain --wait begins anew"));
            }
            if self.machine.safe_to_leave || (self.machine.busy == 0 && replication.is_none()) {
                break left_behind(&self.machine, replication.as_ref());
            }
            progress.show(&to_hand_over(&self.machine, replication.as_ref(), &self.away, paint));
            tokio::time::sleep(INTERVAL).await;
        };
        progress.end();
        if let Some(words) = left {
            // Nobody reads it: nothing is lost.
            let _ = writeln!(io::stderr(), "{words}");
        }
        Ok(())
    }

    /// What the machine does now, and how far the copies of its farm are, if it is one of several.
    async fn look(&mut self) -> Result<Option<Replication>, CliError> {
        let status = self.control.get_status(GetStatusRequest {}).await?.into_inner();
        let is_away = |machine: &&Machine| machine.keeps_copies && machine.state() == State::Lost;
        self.away = status.machines.iter().filter(is_away).map(|machine| machine.name.clone()).collect();
        let machine = status.machines.into_iter().find(|machine| machine.name == self.machine.name);
        self.machine = machine.ok_or_else(|| {
            CliError::new(format!("{} is no machine of the farm any more", self.machine.name))
        })?;
        Ok(status.storage.and_then(|storage| storage.replication))
    }
}

/// What a machine that drains has left to do, as one line.
fn to_hand_over(
    machine: &Machine,
    replication: Option<&Replication>,
    away: &[String],
    paint: Paint,
) -> String {
    let mut left = Vec::new();
    if machine.busy > 0 {
        left.push(format!("{} left", plural(machine.busy.into(), "action")));
    }
    if let Some(replication) = replication {
        let [sole, owed] = [machine.sole_entries, machine.owed_copies];
        if sole > 0 {
            left.push(format!("{} to hand over", entries(sole, machine.sole_bytes)));
        } else if owed > 0 {
            left.push(format!("{} to see to", entries(owed, machine.owed_bytes)));
        }
        if replication.keepers == 0 {
            left.push("no other machine keeps copies".to_owned());
        }
        if left.is_empty() && !away.is_empty() {
            left.push(format!("what it has is on {} too, which must come back first", away.join(" and ")));
        }
    }
    if left.is_empty() {
        left.push("its builds, or what it stores, are not done yet".to_owned());
    }
    format!("{} is draining: {}", paint.bold(&machine.name), left.join(", "))
}

/// What people should know who let a machine leave that has nothing left to do: as one line.
fn left_behind(machine: &Machine, replication: Option<&Replication>) -> Option<String> {
    match replication {
        None if machine.sole_entries > 0 => {
            let sole = entries(machine.sole_entries, machine.sole_bytes);
            Some(format!("there is no other machine to take over what it stores: {sole}"))
        }
        Some(Replication { copies, copies_wanted, .. }) if copies < copies_wanted => {
            let there = if *copies == 1 { "is one copy".to_owned() } else { format!("are {copies} copies") };
            Some(format!("without it there {there} of each blob, and {copies_wanted} are wanted"))
        }
        _ => None,
    }
}

/// What a machine does now, as one line.
fn sentence(machine: &Machine, paint: Paint) -> String {
    let name = paint.bold(&machine.name);
    let runs = plural(machine.busy.into(), "action");
    match machine.state() {
        State::Draining if machine.safe_to_leave => {
            format!("{name} is drained: nothing runs, and nothing is lost if it leaves")
        }
        State::Draining if machine.busy == 0 => format!("{name} is drained: nothing runs"),
        State::Draining => format!("{name} is draining: {runs} left"),
        State::Paused if machine.busy == 0 => format!("{name} is paused: nothing runs"),
        State::Paused => format!("{name} is paused: {runs} left"),
        _ => {
            let slots = plural(machine.slots.into(), "slot");
            let lent = machine.guest_slots.filter(|lent| *lent < machine.slots);
            let lent = lent.map(|lent| format!(", {lent} for others")).unwrap_or_default();
            format!("{name} is {}: {} of {slots} busy{lent}", standing(machine), machine.busy)
        }
    }
}

/// A line on stderr that is written anew on a terminal, and only when it changes elsewhere.
struct Progress {
    is_terminal: bool,
    shown: String,
}

// === impl Progress ===

impl Default for Progress {
    fn default() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), shown: String::new() }
    }
}

impl Progress {
    fn show(&mut self, line: &str) {
        if line == self.shown {
            return;
        }
        self.shown = line.to_owned();
        let (before, after) = if self.is_terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        // Nobody reads it: nothing is lost.
        let _ = write!(io::stderr(), "{before}{line}{after}");
    }

    /// Leaves the line to what comes next.
    fn end(&mut self) {
        if self.is_terminal && !self.shown.is_empty() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_in_a_sentence() {
        let machine = |state: State, busy| Machine {
            name: "attic".into(),
            state: state.into(),
            slots: 4,
            busy,
            ..Default::default()
        };
        for (state, busy, expected) in [
            (State::Active, 1, "attic is active: 1 of 4 slots busy"),
            (State::Paused, 0, "attic is paused: nothing runs"),
            (State::Paused, 2, "attic is paused: 2 actions left"),
            (State::Draining, 1, "attic is draining: 1 action left"),
            (State::Draining, 0, "attic is drained: nothing runs"),
            (State::Lost, 0, "attic is lost: 0 of 4 slots busy"),
        ] {
            assert_eq!(sentence(&machine(state, busy), Paint::plain()), expected);
        }
        let safe = Machine { safe_to_leave: true, ..machine(State::Draining, 0) };
        let told = "attic is drained: nothing runs, and nothing is lost if it leaves";
        assert_eq!(sentence(&safe, Paint::plain()), told);
        let lent = |slots| Machine { guest_slots: Some(slots), ..machine(State::Yielding, 0) };
        let told = "attic is yielding: 0 of 4 slots busy, 2 for others";
        assert_eq!(sentence(&lent(2), Paint::plain()), told);
        assert_eq!(sentence(&lent(4), Paint::plain()), "attic is yielding: 0 of 4 slots busy");
    }

    #[test]
    fn what_is_left_while_a_machine_drains() {
        let machine = Machine {
            name: "attic".into(),
            busy: 1,
            owed_copies: 3,
            owed_bytes: 2048,
            sole_entries: 2,
            sole_bytes: 1024,
            ..Default::default()
        };
        let replication = Replication { keepers: 1, ..Default::default() };
        let told = |machine: &Machine, keepers| {
            let replication = Replication { keepers, ..replication };
            to_hand_over(machine, Some(&replication), &[], Paint::plain())
        };
        let left = "attic is draining: 1 action left, 2 blobs and results, 1.0 KiB to hand over";
        assert_eq!(told(&machine, 1), left);
        let idle = Machine { busy: 0, sole_entries: 0, ..machine.clone() };
        let left = "attic is draining: 3 blobs and results, 2.0 KiB to see to";
        assert_eq!(told(&idle, 1), left);
        assert_eq!(told(&idle, 0), format!("{left}, no other machine keeps copies"));
        let done = Machine { owed_copies: 0, ..idle };
        let away = to_hand_over(&done, Some(&replication), &["cellar".into()], Paint::plain());
        assert_eq!(away, "attic is draining: what it has is on cellar too, which must come back first");
        assert_eq!(to_hand_over(&machine, None, &[], Paint::plain()), "attic is draining: 1 action left");
    }

    #[test]
    fn what_is_left_without_it_is_told_where_that_is_too_little() {
        let machine = Machine { sole_entries: 2, sole_bytes: 1024, ..Default::default() };
        let alone = "there is no other machine to take over what it stores: 2 blobs and results, 1.0 KiB";
        assert_eq!(left_behind(&machine, None).as_deref(), Some(alone));
        assert_eq!(left_behind(&Machine::default(), None), None);
        let of = |copies| Replication { copies, copies_wanted: 3, ..Default::default() };
        let told = |copies| left_behind(&Machine::default(), Some(&of(copies)));
        let one = "without it there is one copy of each blob, and 3 are wanted";
        assert_eq!(told(1).as_deref(), Some(one));
        let two = "without it there are 2 copies of each blob, and 3 are wanted";
        assert_eq!(told(2).as_deref(), Some(two));
        assert_eq!(told(3), None);
    }
}
