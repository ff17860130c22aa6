//! What happened, told from the difference between what was known and what is.

use std::sync::Arc;

use farmhand_proto::control::machine::State;
use farmhand_proto::control::warning::Level;
use farmhand_proto::control::{Machine, Replication, miss};

use crate::glyphs::Glyphs;
use crate::model::op::{Op, Status};
use crate::model::time::Stamp;
use crate::theme::Role;

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    /// When, on the clock of the node.
    pub(crate) at: Option<Stamp>,
    /// What.
    pub(crate) kind: EventKind,
    /// To whom: a machine, a target, a build, a number.
    pub(crate) subject: Arc<str>,
    /// More of it; may be empty.
    pub(crate) text: Arc<str>,
    /// The build it belongs to.
    pub(crate) invocation: Option<Arc<str>>,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventKind {
    /// The node began anew.
    NodeRestarted,
    /// A machine came.
    MachineJoined,
    /// A machine went.
    MachineLeft,
    /// A machine is in another state.
    MachineIs(State),
    /// A build began.
    BuildBegan,
    /// A build has been quiet for a while.
    BuildEnded,
    /// An action failed.
    ActionFailed,
    /// An action could not be run, or was cancelled.
    ActionError,
    /// An action was given to another machine.
    ActionRetried,
    /// A machine asks to come in.
    NewcomerAsks,
    /// A result was evicted that was wanted again.
    MissedEvicted,
    /// Blobs were found damaged.
    Damaged,
    /// Damaged blobs were replaced by copies of other machines.
    Healed,
    /// What a machine that went or came made necessary is done.
    Repaired,
    /// A machine that is told to leave has nothing that others lack.
    SafeToLeave,
    /// The node warns.
    Warning(Level),
}

// === impl EventKind ===

impl EventKind {
    /// Its sign.
    pub(crate) fn glyph(self, glyphs: &Glyphs) -> &'static str {
        match self {
            Self::ActionFailed => glyphs.failed,
            Self::ActionError => glyphs.error,
            Self::ActionRetried => glyphs.retried,
            Self::MachineIs(state) => machine_glyph(state, glyphs),
            Self::MachineLeft => glyphs.lost,
            Self::BuildBegan => glyphs.running,
            Self::BuildEnded | Self::Healed | Self::Repaired | Self::SafeToLeave => glyphs.ok,
            Self::Warning(Level::Advice) => glyphs.advice,
            Self::Warning(_) | Self::Damaged => glyphs.alarm,
            Self::MissedEvicted => glyphs.down,
            Self::NewcomerAsks => glyphs.alarm,
            Self::NodeRestarted | Self::MachineJoined => glyphs.up,
        }
    }

    /// Its look.
    pub(crate) fn role(self) -> Role {
        match self {
            Self::ActionFailed | Self::ActionError | Self::Damaged => Role::Bad,
            Self::MachineIs(State::Lost | State::Refused | State::Incompatible)
            | Self::Warning(Level::Alarm) => Role::Bad,
            Self::MachineIs(State::Active) | Self::MachineJoined => Role::Good,
            Self::BuildBegan => Role::Running,
            Self::BuildEnded | Self::Healed | Self::Repaired | Self::SafeToLeave => Role::Good,
            _ => Role::Warn,
        }
    }

    /// What it says before and after its subject.
    pub(crate) fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::NodeRestarted => ("the node started anew", ""),
            Self::MachineJoined => ("", "joined"),
            Self::MachineLeft => ("", "left"),
            Self::MachineIs(State::Active) => ("", "takes actions"),
            Self::MachineIs(State::Yielding) => ("", "lends less for a while"),
            Self::MachineIs(State::Draining) => ("", "is draining"),
            Self::MachineIs(State::Paused) => ("", "is paused"),
            Self::MachineIs(State::Lost) => ("", "does not answer"),
            Self::MachineIs(State::Connecting) => ("", "is looked for"),
            Self::MachineIs(State::Refused) => ("", "has another farm key"),
            Self::MachineIs(State::Incompatible) => ("", "runs a program too old or too new"),
            Self::MachineIs(State::Unspecified) => ("", "is in a state this program does not know"),
            Self::BuildBegan => ("", "began"),
            Self::BuildEnded => ("", "ended:"),
            Self::ActionFailed => ("", "failed:"),
            Self::ActionError => ("", "did not run:"),
            Self::ActionRetried => ("", "was given to another machine"),
            Self::NewcomerAsks => ("", "asks to come into the farm; its check words:"),
            Self::MissedEvicted => ("", "missed: its result was evicted"),
            Self::Damaged => ("damaged blobs found:", ""),
            Self::Healed => ("damaged blobs replaced by good copies:", ""),
            Self::Repaired => ("repair is done: every blob has its copies", ""),
            Self::SafeToLeave => ("", "is safe to leave: others have all that it has"),
            Self::Warning(_) => ("", ""),
        }
    }
}

/// Whether a machine answers.
pub(crate) fn is_up(machine: &Machine) -> bool {
    let is_away = [State::Lost, State::Connecting, State::Refused, State::Incompatible];
    !is_away.contains(&machine.state())
}

/// The sign of a machine's state.
pub(crate) fn machine_glyph(state: State, glyphs: &Glyphs) -> &'static str {
    match state {
        State::Active => glyphs.ok,
        State::Yielding => glyphs.yielding,
        State::Draining => glyphs.draining,
        State::Paused => glyphs.paused,
        State::Lost | State::Refused | State::Incompatible | State::Connecting | State::Unspecified => {
            glyphs.lost
        }
    }
}

/// What happened to machines. Nothing is told of those known first.
pub(super) fn of_machines(old: &[Machine], new: &[Machine]) -> Vec<(EventKind, String)> {
    if old.is_empty() {
        return Vec::new();
    }
    let known =
        |all: &[Machine], name: &str| all.iter().find(|machine| machine.name == name).map(Machine::state);
    let mut events = Vec::new();
    for machine in new {
        match known(old, &machine.name) {
            None => events.push((EventKind::MachineJoined, machine.name.clone())),
            Some(state) if state != machine.state() => {
                events.push((EventKind::MachineIs(machine.state()), machine.name.clone()));
            }
            Some(_) => {}
        }
        let was_safe = |old: &Machine| old.name == machine.name && old.safe_to_leave;
        if machine.safe_to_leave && !old.iter().any(was_safe) {
            events.push((EventKind::SafeToLeave, machine.name.clone()));
        }
    }
    let gone = old.iter().filter(|machine| known(new, &machine.name).is_none());
    events.extend(gone.map(|machine| (EventKind::MachineLeft, machine.name.clone())));
    events
}

/// What happened to the copies on other machines. Nothing is told of those known first.
pub(super) fn of_copies(old: Option<&Replication>, new: &Replication) -> Vec<(EventKind, String)> {
    let mut events = Vec::new();
    let Some(old) = old else { return events };
    if new.healed > old.healed {
        events.push((EventKind::Healed, (new.healed - old.healed).to_string()));
    }
    let is_whole = new.repair_copies == 0 && new.refused_copies == 0 && new.compared >= 1.0;
    if old.repair_copies > 0 && is_whole && new.copies >= new.copies_wanted {
        events.push((EventKind::Repaired, String::new()));
    }
    events
}

/// What happened to an operation: kind, subject, more.
pub(super) fn of_op(before: Option<&Op>, op: &Op) -> Option<(EventKind, String, String)> {
    let was = before.map(|before| before.status);
    let subject = op.label().to_owned();
    if was != Some(op.status) {
        match op.status {
            Status::Failed => {
                return Some((
                    EventKind::ActionFailed,
                    subject,
                    format!("exit code {} on {}", op.exit_code, op.machine),
                ));
            }
            Status::Error => return Some((EventKind::ActionError, subject, op.message.to_string())),
            _ => {}
        }
    }
    let attempts = before.map_or(0, |before| before.attempts);
    if op.attempts > 1 && op.attempts > attempts && !op.status.is_over() {
        return Some((EventKind::ActionRetried, subject, String::new()));
    }
    if before.is_none_or(|before| before.miss != op.miss)
        && op.miss == miss::Kind::Evicted
        && !op.status.is_over()
    {
        return Some((EventKind::MissedEvicted, subject, String::new()));
    }
    None
}
