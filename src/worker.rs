//! Running actions: the [`Worker`] trait the scheduler sees, and the [`Runner`] trait a worker
//! starts processes with.
//!
//! `local` is the worker of this machine: it stages the inputs (`inputs`), has a `runner` run the
//! command, and collects what came of it (`outputs`). `sandbox` is the pre-started spawner that
//! gives every action its own namespaces; `plain` runs it without them where the kernel forbids
//! them; `container` has podman or docker run it in an image. `persistent` has workers of the actions' own that
//! live on between them. `remote` is another machine of the farm; `lease` is how an action travels there.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use farmhand_proto::reapi;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::digest::{Digest, DigestFunction};
use crate::instance::InstanceName;
use crate::request_metadata::RequestMetadata;

pub mod container;
pub mod guests;
pub mod inputs;
pub mod lease;
pub mod local;
pub mod missing;
pub mod outputs;
pub mod persistent;
pub mod plain;
pub mod remote;
pub mod sandbox;
mod scratch;
pub mod shortage;
mod slots;
pub mod traces;

/// One action handed to a worker: everything it needs besides the CAS.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Name of the operation, for logs and for the action's scratch directory.
    pub operation: String,
    /// Instance the client named.
    pub instance: InstanceName,
    /// Digest of the Action; its function is the function of all digests of the result.
    pub action_digest: Digest,
    /// The Command, already checked by the execution service.
    pub command: Arc<reapi::Command>,
    /// Digest of the root Directory.
    pub input_root: Digest,
    /// Effective platform properties in the order sent (Action's over Command's), all understood.
    pub platform: Arc<crate::platform::Requirements>,
    /// Wall time the command may run; staging and output upload do not count.
    pub timeout: Duration,
    /// When the action was queued.
    pub queued_at: SystemTime,
    /// For whom it runs; empty where nobody said.
    pub person: Arc<str>,
    /// Whether it came from another machine, and so gives way to what this one does for its own.
    pub is_guest: bool,
    /// Who called.
    pub invocation: Arc<RequestMetadata>,
}

impl Lease {
    /// The function of every digest in this action and its result.
    pub fn function(&self) -> DigestFunction {
        self.action_digest.function()
    }
}

/// What a worker tells while it works. The scheduler turns these into operation updates.
#[derive(Clone, Debug)]
pub enum Progress {
    /// The inputs are being fetched and staged.
    Staging,
    /// The command runs; its output grows in these files until the lease ends.
    Running {
        /// File that takes stdout.
        stdout: PathBuf,
        /// File that takes stderr.
        stderr: PathBuf,
    },
    /// It has actions of its own run, and waits for them from now on: its slot is free.
    Yielded,
    /// The command ended; outputs are being collected.
    Collecting,
}

/// The worker went away in mid-run; the action may run elsewhere.
#[derive(Clone, Debug, thiserror::Error)]
#[error("worker {worker} was lost: {reason}")]
pub struct WorkerLost {
    /// Name of the worker.
    pub worker: String,
    /// What was seen.
    pub reason: String,
}

/// Why a worker gave no response; the action may run elsewhere.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoResponse {
    /// It went away.
    #[error(transparent)]
    Lost(#[from] WorkerLost),
    /// It had no slot for the action after all, or needs the slot for itself; nothing is left of it.
    #[error("the worker had no slot for it")]
    Busy,
}

/// Why a worker keeps the slots it has.
#[derive(Debug, thiserror::Error)]
pub enum SlotsError {
    /// Not a number of slots this machine can have.
    #[error("{wanted} slots are not between 1 and {most}, the most this machine takes")]
    Range {
        /// What was asked for.
        wanted: usize,
        /// The most.
        most: usize,
    },
    /// What the new slots need could not be started.
    #[error("cannot add slots: {0}")]
    Run(#[from] RunError),
    /// Another machine's slots are its own.
    #[error("{0} says itself how many slots it has: run `farmhand slots` there")]
    Remote(String),
}

/// Takes leases and runs them.
#[async_trait]
pub trait Worker: Send + Sync + 'static {
    /// Name of the machine, for `ExecutedActionMetadata.worker`; never empty.
    fn name(&self) -> &str;

    /// Actions it runs at once.
    fn slots(&self) -> usize;

    /// Changes how many actions it runs at once. Those that run go on, be they too many.
    ///
    /// # Errors
    /// [`SlotsError`]; nothing has changed then.
    async fn set_slots(&self, slots: usize) -> Result<(), SlotsError>;

    /// Why this worker can never run an action with these requirements; empty if it can. Each
    /// entry names one property.
    fn mismatches(&self, requirements: &crate::platform::Requirements) -> Vec<String>;

    /// Waits for this action, which clients of that machine asked for too, and which it sees to without a
    /// slot of ours. [`NoResponse::Busy`] when it has no such action any more.
    async fn join(
        &self,
        lease: Lease,
        progress: tokio::sync::mpsc::UnboundedSender<Progress>,
        cancel: CancellationToken,
    ) -> Result<reapi::ExecuteResponse, NoResponse> {
        let _ = (lease, progress, cancel);
        Err(NoResponse::Busy)
    }

    /// Runs the action to its end. The response carries its own status: a failed, timed out or
    /// refused action is a response, and logs and partial metadata survive in it. When `cancel`
    /// fires, the processes are killed and the response has status CANCELLED. Only a worker that was
    /// lost, or that had no slot for it, is an error.
    async fn execute(
        &self,
        lease: Lease,
        progress: tokio::sync::mpsc::UnboundedSender<Progress>,
        cancel: CancellationToken,
    ) -> Result<reapi::ExecuteResponse, NoResponse>;
}

/// A command ready to run: inputs staged, places for its output open.
#[derive(Debug)]
pub struct PreparedCommand {
    /// Arguments, the program first. A program without a slash is searched in the `PATH` of
    /// `environment`, inside the action's own root.
    pub arguments: Vec<OsString>,
    /// The whole environment; nothing of the daemon's own is added.
    pub environment: Vec<(OsString, OsString)>,
    /// How the file system of the action is put together.
    pub root: InputRoot,
    /// Working directory below the input root; empty for the root itself.
    pub working_directory: PathBuf,
    /// Gives stdin; without it there is nothing to read.
    pub stdin: Option<File>,
    /// Takes stdout.
    pub stdout: File,
    /// Takes stderr.
    pub stderr: File,
    /// What the action may use.
    pub limits: Limits,
    /// Which network it sees.
    pub network: Network,
    /// User and group id the action sees itself as (sandbox only).
    pub ids: (u32, u32),
    /// The socket that is to be in its input root.
    pub door: Option<Door>,
    /// Set where it runs for another machine: then it has the least claim to processors and disks, and
    /// stands still while this says so.
    pub guest: Option<watch::Receiver<bool>>,
}

/// The file system an action sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputRoot {
    /// The overlay stands at the fixed path `at` in a small root that has the toolchain of the
    /// host, read-only, beside it.
    Mounted {
        /// Absolute path of the input root inside the sandbox.
        at: PathBuf,
        /// The layers.
        overlay: Overlay,
    },
    /// The overlay is `/` itself, with `/proc`, `/dev` and `/tmp` mounted into it; nothing of the host
    /// is visible.
    Filesystem {
        /// The layers.
        overlay: Overlay,
    },
    /// As `Mounted`, for a command that is kept ([`Seat::keep`]): what stands at `at` is a directory in memory,
    /// and each entry of the overlay is mounted in it by itself, so that those of another overlay can take
    /// their places.
    Parted {
        /// Absolute path of the input root inside the sandbox.
        at: PathBuf,
        /// The layers.
        overlay: Overlay,
    },
    /// A plain directory with private copies of the inputs; no namespaces.
    Plain {
        /// Absolute path of the directory.
        directory: PathBuf,
    },
}

/// Layers of an overlay mount. Everything the action writes is in `upper`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    /// Read-only layers, the uppermost first; at least one.
    pub lower: Vec<PathBuf>,
    /// Takes the writes.
    pub upper: PathBuf,
    /// Scratch of the overlay itself, empty, on the file system of `upper`.
    pub work: PathBuf,
    /// Paths below the root that are read-only for the action, with all below them (`SubtreeReadOnly`).
    pub read_only: Vec<PathBuf>,
    /// Paths below those that are writable again.
    pub writable: Vec<PathBuf>,
}

/// A Unix socket of this machine that an action finds in its input root.
#[derive(Clone, Debug)]
pub struct Door {
    /// The socket.
    pub socket: PathBuf,
    /// Where the action finds it, below the input root.
    pub at: PathBuf,
    /// Fires when the action has actions of its own run: its seat is somebody else's from then on.
    pub asked: CancellationToken,
}

/// Serves the Remote Execution API to what runs in actions.
pub trait NestedApis: Send + Sync + 'static {
    /// Serves `listener` to the action of `lease` until `over` fires, and has `asked` fire when that has the
    /// first action of its own run.
    fn serve(&self, listener: UnixListener, lease: &Lease, asked: CancellationToken, over: CancellationToken);
}

/// Network of an action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// An own, empty loopback interface.
    #[default]
    Loopback,
    /// The network of the host.
    Host,
}

/// Resource limits of an action; `None` leaves the one of the daemon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Processes and threads.
    pub processes: Option<u64>,
    /// Open files for each process.
    pub open_files: Option<u64>,
    /// Bytes of address space for each process.
    pub address_space: Option<u64>,
    /// Bytes of the largest file it may write.
    pub file_size: Option<u64>,
    /// Wall time, without the time it has to stand still; the whole tree is killed when it is over.
    pub timeout: Option<Duration>,
}

/// How a command ended. When this exists, no process of the action is left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit status of the main process.
    pub outcome: Outcome,
    /// Wall time from start to end of the main process, without the time it had to stand still.
    pub wall: Duration,
    /// What all its processes used.
    pub usage: Usage,
    /// Set when it failed and the kernel had killed processes for want of memory: the bytes that all
    /// actions together may have.
    pub memory_exceeded: Option<u64>,
}

/// How the main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It exited with this code.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
    /// It was killed because its time was over.
    TimedOut,
    /// It was killed because the lease was cancelled.
    Cancelled,
}

/// Resources used, as the kernel counted them for the main process and the children it waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time in user mode.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// Largest resident set, in bytes.
    pub max_rss: u64,
}

/// Why a command could not be run at all.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The program is not there, or cannot be executed: the action's own fault.
    #[error("cannot execute {program:?}: {source}")]
    Program {
        /// `arguments[0]`.
        program: String,
        /// Not found, permission denied, bad format …
        source: io::Error,
    },
    /// The inputs have no directory where the command is to run: the action's own fault.
    #[error("cannot enter the working directory: {source}")]
    WorkingDirectory {
        /// Not a directory, a symlink to nowhere …
        source: io::Error,
    },
    /// The image is not to be had: the action's own fault most of the time.
    #[error("cannot get the container image {image}: {source}")]
    Image {
        /// Its name.
        image: String,
        /// The tool's words.
        source: io::Error,
    },
    /// The machinery failed in `step`: the machine's fault, the action may run elsewhere.
    #[error("cannot set up the action ({step}): {source}")]
    Setup {
        /// What was being done.
        step: String,
        /// The system's words.
        source: io::Error,
    },
    /// The command wrote more than the directory in memory is for, and was killed: it has to run again
    /// with its layers on the disk.
    #[error("the command wrote more than memory is for")]
    MemoryFull,
    /// The spawner died; every process of the action died with it.
    #[error("the spawner process was lost")]
    SpawnerLost,
}

/// Starts processes.
#[async_trait]
pub trait Runner: Send + Sync + 'static {
    /// Takes a seat for one command, waiting until one is free.
    async fn seat(&self) -> Result<Box<dyn Seat>, RunError>;

    /// Runs `command` in the next free seat; as [`Seat::run`].
    async fn run(&self, command: PreparedCommand, cancel: CancellationToken) -> Result<Exit, RunError> {
        let mut seat = tokio::select! {
            biased;
            () = cancel.cancelled() => return Ok(Exit::before_start()),
            seat = self.seat() => seat?,
        };
        seat.run(command, cancel).await
    }

    /// Whether commands get namespaces of their own: decides how inputs are staged.
    fn is_sandboxed(&self) -> bool;

    /// Makes it `seats` seats, ready to be taken. Those that are taken stay with who has them.
    ///
    /// # Errors
    /// [`RunError`]; the number is as before then.
    async fn resize(&self, seats: usize) -> Result<(), RunError>;
}

/// A place for one command, free again when this is dropped.
#[async_trait]
pub trait Seat: Send + Sync {
    /// A directory in memory, where the layers of a command may be that runs in this seat. Whatever
    /// is put there has to be removed before the seat is given back.
    fn memory(&self) -> Option<&Arc<sandbox::Memory>>;

    /// Runs `command` to its end. When `cancel` fires, or the time limit is over, all its processes
    /// are killed first. Returns only when none of them is left, whatever they did to get away.
    async fn run(&mut self, command: PreparedCommand, cancel: CancellationToken) -> Result<Exit, RunError>;

    /// Starts `command`, whose root is [`InputRoot::Parted`], to be kept for several requests. It has no time
    /// limit. The seat is free again afterwards.
    ///
    /// # Errors
    /// [`RunError`]; nothing of it is left then.
    async fn keep(self: Box<Self>, command: PreparedCommand) -> Result<Box<dyn Kept>, RunError> {
        let source = io::ErrorKind::Unsupported.into();
        drop(command);
        Err(RunError::Setup { step: "keep a command".into(), source })
    }
}

/// A command that lives on between requests. All its processes are killed when this is dropped.
#[async_trait]
pub trait Kept: Send + Sync {
    /// Has everything of it stand still, and tells what it used since its start and what memory it has now.
    async fn rest(&mut self) -> Result<Usage, RunError>;

    /// Puts other layers in the place of those it saw, and has it go on. Nothing that it left in its input
    /// root is there any more.
    async fn change(&mut self, overlay: Overlay) -> Result<(), RunError>;

    /// Has everything of it stand still, or go on, in the midst of a request.
    async fn stand_still(&mut self, still: bool) -> Result<(), RunError>;

    /// Waits until there is news of it that nobody asked for: it ended.
    async fn stirs(&self);

    /// Whether it lives, as far as is known.
    fn is_alive(&self) -> bool;

    /// Ends it. When this returns, no process of it is left.
    async fn end(self: Box<Self>) -> Option<Exit>;
}

// === impl InputRoot ===

impl InputRoot {
    /// Its layers, if it has any.
    pub fn overlay(&self) -> Option<&Overlay> {
        match self {
            Self::Mounted { overlay, .. } | Self::Filesystem { overlay } | Self::Parted { overlay, .. } => {
                Some(overlay)
            }
            Self::Plain { .. } => None,
        }
    }

    fn overlay_mut(&mut self) -> Option<&mut Overlay> {
        match self {
            Self::Mounted { overlay, .. } | Self::Filesystem { overlay } | Self::Parted { overlay, .. } => {
                Some(overlay)
            }
            Self::Plain { .. } => None,
        }
    }
}

// === impl Exit ===

impl Exit {
    /// A command that was cancelled before it began.
    fn before_start() -> Self {
        Self {
            outcome: Outcome::Cancelled,
            wall: Duration::ZERO,
            usage: Usage::default(),
            memory_exceeded: None,
        }
    }
}

/// Waits until a guest is to do otherwise than it does: to stand still, or to go on. Never ends for what is
/// no guest.
async fn differs(guest: &mut Option<watch::Receiver<bool>>, is_still: bool) {
    let told = match guest {
        Some(guest) => guest.wait_for(|still| *still != is_still).await.is_ok(),
        None => false,
    };
    if !told {
        std::future::pending().await
    }
}
