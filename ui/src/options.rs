//! What the dashboard is started with, and what comes of it.
//!
//! Owns the public types of the crate. They are plain values; the command line makes them.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

/// What the dashboard is started with.
#[derive(Clone)]
pub struct Options {
    /// Path of the control socket of the node.
    pub socket: PathBuf,
    /// How it looks.
    pub look: Look,
    /// Nothing can be changed from here: what would is neither offered nor done.
    pub read_only: bool,
    /// The node runs in this process, and ends with it.
    pub owns_node: bool,
    /// Fetches the inputs of actions; without one that is not offered.
    pub fetcher: Option<Arc<dyn Fetcher>>,
    /// What is shown first.
    pub view: View,
}

/// How the dashboard looks; what is unset is found out from the terminal.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Name of a theme that comes with the program, or path of a theme file.
    pub theme: Option<String>,
    /// Draw with ASCII only.
    pub ascii: Option<bool>,
    /// Colours the terminal can show.
    pub colours: Option<ColourDepth>,
}

/// Colours a terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ColourDepth {
    /// None, as `NO_COLOR` asks.
    None,
    /// The sixteen of the terminal's own palette.
    Ansi16,
    /// Those, and a fixed cube of 240.
    Ansi256,
    /// All.
    True,
}

/// A view of the dashboard; its number is its key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum View {
    /// The farm at a glance.
    #[default]
    Overview = 1,
    /// A row a build.
    Builds = 2,
    /// What waits, runs, and ran.
    Actions = 3,
    /// One action in full.
    Action = 4,
    /// Lanes of slots over time.
    Timeline = 5,
    /// A row a machine.
    Machines = 6,
    /// The action cache and the store.
    Cache = 7,
    /// The log of the node.
    Logs = 8,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The person left. A node in this process is to be stopped.
    Quit,
    /// A signal ended it; its number.
    Signal(i32),
}

/// Why there is no dashboard.
#[derive(Debug, thiserror::Error)]
pub enum UiError {
    /// Not started in a terminal.
    #[error("the dashboard needs a terminal; `farmhand top --once` prints the farm as plain text")]
    NoTerminal,
    /// A terminal without cursor control.
    #[error("the dashboard cannot draw on a terminal of type {0:?}; `farmhand top --once` prints plain text")]
    DumbTerminal(String),
    /// The theme cannot be used.
    #[error("theme {name:?}: {reason}")]
    Theme {
        /// As it was asked for.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The terminal failed.
    #[error("the terminal failed")]
    Terminal(#[source] std::io::Error),
    /// No node answers; only for what is printed once.
    #[error("no node answers at {}: {reason}", socket.display())]
    Unreachable {
        /// Where it should be.
        socket: PathBuf,
        /// Why not.
        reason: String,
    },
}

/// Fetches what an action needs, so that a person can run it by hand. The command line has one.
#[async_trait]
pub trait Fetcher: Send + Sync {
    /// Writes the inputs of an action into a directory, and tells how to run it there; or why it
    /// could not, in one sentence.
    async fn fetch(&self, request: FetchRequest) -> Result<Fetched, String>;
}

/// What is to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchRequest {
    /// Digest of the action, as the control API writes it.
    pub digest: String,
    /// Instance of the action.
    pub instance: String,
}

/// What was fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetched {
    /// Where it is.
    pub directory: PathBuf,
    /// The shell line that runs the action there.
    pub command: String,
}

// === impl View ===

impl View {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Overview,
        Self::Builds,
        Self::Actions,
        Self::Action,
        Self::Timeline,
        Self::Machines,
        Self::Cache,
        Self::Logs,
    ];

    /// Its name: in tabs, and, in lower case, on command lines.
    pub fn title(self) -> &'static str {
        match self {
            Self::Overview => "Overview",
            Self::Builds => "Builds",
            Self::Actions => "Actions",
            Self::Action => "Action",
            Self::Timeline => "Timeline",
            Self::Machines => "Machines",
            Self::Cache => "Cache",
            Self::Logs => "Logs",
        }
    }

    /// The view of a name, in any case.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|view| view.title().eq_ignore_ascii_case(name))
    }

    /// Its number key.
    pub fn number(self) -> u8 {
        self as u8
    }
}
