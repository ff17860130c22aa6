//! What goes into the update function, and what comes out of it.
//!
//! Messages and commands are plain data, so that a session can be replayed in a test.

use std::path::PathBuf;
use std::time::Duration;

use crossterm::event::{KeyEvent, MouseEvent};
use farmhand_proto::control;

use crate::options::{FetchRequest, Fetched, Outcome};

/// Something that happened.
#[derive(Debug)]
pub(crate) enum Message {
    /// A key was pressed.
    Key(KeyEvent),
    /// The mouse was used.
    Mouse(MouseEvent),
    /// Text was pasted.
    Paste(String),
    /// The terminal has this many columns and rows now.
    Resize(u16, u16),
    /// The connection to the node, or what the farm tells, changed.
    Feed(FeedEvent),
    /// A call to the node answered.
    Answer(CallId, Answer),
    /// Inputs were fetched, or could not be.
    Fetched(Result<Fetched, String>),
    /// A file was written, or could not be.
    Written(Result<PathBuf, String>),
    /// A second or so passed.
    Tick,
}

/// What the connection to the node tells.
#[derive(Debug)]
pub(crate) enum FeedEvent {
    /// A stream of changes is open.
    Connected,
    /// A part of that stream.
    Changes(Box<control::WatchResponse>),
    /// There is no stream; another is tried in a while.
    Lost {
        /// Why not, in words.
        reason: String,
        /// When the next attempt is made.
        retry_in: Duration,
    },
}

/// Something to be done outside of the model.
#[derive(Debug, PartialEq)]
pub(crate) enum Command {
    /// Ask the node. An earlier call of the same slot is given up.
    Call(CallId, Box<Call>),
    /// Give up the call of this slot.
    Cancel(Slot),
    /// Put text into the clipboard of the person's terminal.
    Copy(String),
    /// Write a text file into the directory the program was started in; the name is a proposal.
    WriteFile {
        /// Name of the file.
        name: String,
        /// What goes into it.
        text: String,
    },
    /// Write what the screen shows into a text file.
    Snapshot,
    /// Fetch the inputs of an action.
    Fetch(FetchRequest),
    /// Try to connect now, not when the pause is over.
    Reconnect,
    /// Draw everything anew: something else wrote on the terminal.
    Repaint,
    /// Stop this process as the shell's job control does.
    Suspend,
    /// End the dashboard.
    Quit(Outcome),
}

/// A call of the control API.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Call {
    /// One action.
    Action(control::GetActionRequest),
    /// A page of operations.
    Actions(control::ListActionsRequest),
    /// A page of a directory.
    Directory(control::ListDirectoryRequest),
    /// A blob, in pieces.
    Blob(control::ReadBlobRequest),
    /// Output of an action, in pieces.
    Output(control::ReadOutputRequest),
    /// Why an action missed the cache.
    Miss(control::ExplainMissRequest),
    /// End an operation.
    Kill(control::KillActionRequest),
    /// Run an action again.
    Rerun(control::RerunActionRequest),
    /// Pin a result, or let go of it.
    Pin(control::PinActionRequest),
    /// Change a machine.
    Machine(control::SetMachineRequest),
    /// The settings.
    Settings(control::GetSettingsRequest),
    /// The log.
    Log(control::WatchLogRequest),
    /// Which farm this is.
    Farm(control::GetFarmRequest),
    /// Invite a machine, and follow what becomes of it.
    Invite(control::InviteRequest),
    /// Let a newcomer in, or turn it away.
    Newcomer(control::AnswerNewcomerRequest),
    /// Join another farm, and follow how it goes.
    Join(control::JoinRequest),
}

/// An answer to a [`Call`]; streams give several and then [`Answer::Ended`].
#[derive(Debug)]
pub(crate) enum Answer {
    /// One action.
    Action(Box<control::GetActionResponse>),
    /// A page of operations.
    Actions(control::ListActionsResponse),
    /// A page of a directory.
    Directory(control::ListDirectoryResponse),
    /// The next bytes of a blob.
    Blob(control::ReadBlobResponse),
    /// The next bytes of an output.
    Output(control::ReadOutputResponse),
    /// Why it missed.
    Miss(control::Miss),
    /// Operations were ended.
    Killed(control::KillActionResponse),
    /// A run began or ended, or all are over.
    Rerun(Box<control::RerunActionResponse>),
    /// A result is pinned, or not any more.
    Pinned(control::PinActionResponse),
    /// A machine as it stands now.
    Machine(Box<control::SetMachineResponse>),
    /// The settings.
    Settings(control::GetSettingsResponse),
    /// The next lines of the log.
    Log(control::WatchLogResponse),
    /// Which farm this is.
    Farm(Box<control::GetFarmResponse>),
    /// News of an invitation.
    Invite(Box<control::InviteResponse>),
    /// A newcomer was answered.
    Newcomer(control::AnswerNewcomerResponse),
    /// How joining goes.
    Join(Box<control::JoinResponse>),
    /// A stream is over.
    Ended,
    /// The call failed.
    Failed(Failure),
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// gRPC status code.
    pub(crate) code: i32,
    /// In words, harmless.
    pub(crate) text: String,
    /// Whether it was the connection to the node that failed: the node itself said nothing.
    pub(crate) lost: bool,
}

/// A place in the model that an answer belongs to. It holds one call at a time: a new one takes
/// the place of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Slot {
    /// The action view: the action.
    Action,
    /// The action view: an opened directory.
    Directory,
    /// The action view: a file or a message that is looked at.
    Blob,
    /// The action view: stdout.
    Stdout,
    /// The action view: stderr.
    Stderr,
    /// The action view: why it missed.
    Miss,
    /// The actions view: a page of the history.
    History,
    /// The log.
    Log,
    /// The settings.
    Settings,
    /// The invitation.
    Invite,
    /// Joining another farm.
    Join,
    /// Something a person did; several go on at a time.
    Deed(u8),
}

/// One call: its slot, and which of all calls it is. Answers of a call that was given up carry an
/// old serial and are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CallId {
    /// Where the answer belongs.
    pub(crate) slot: Slot,
    /// Grows with every call.
    pub(crate) serial: u64,
}

/// What an update asks for, collected while it runs.
#[derive(Debug, Default)]
pub(crate) struct Todo {
    /// To be done, in order.
    pub(crate) commands: Vec<Command>,
    /// Something that can be seen changed.
    pub(crate) redraw: bool,
}

// === impl Todo ===

impl Todo {
    /// Adds a command.
    pub(crate) fn push(&mut self, command: Command) {
        self.commands.push(command);
    }
}
