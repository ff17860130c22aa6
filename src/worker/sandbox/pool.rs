//! The daemon's side: one spawner process for each slot, and the [`Runner`] that uses them.
//!
//! The number of slots may change while commands run: spawners of new ones are started before anybody
//! gets a seat in them, and those that are too many end when their commands have.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recv, recvmsg, sendmsg,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::cgroup::ActionGroup;
use super::job::Job;
use super::memory::{MEMORY, Memory};
use super::wire::{Failure, HEADER, MAX_MESSAGE, Reply, Request};
use crate::worker::slots::{Slot, Slots};
use crate::worker::{Exit, Kept, Outcome, Overlay, PreparedCommand, RunError, Runner, Seat, differs};

mod kept;

/// The longest reply a spawner may send.
const MAX_REPLY: usize = 64 << 10;

/// How to start spawners.
#[derive(Clone, Debug)]
pub struct SpawnerConfig {
    /// The program that has [`spawner_main`](super::spawner_main) in its `main`.
    pub executable: PathBuf,
    /// Commands that run at once, at least one.
    pub slots: usize,
    /// With or without namespaces.
    pub mode: Mode,
    /// Directories of the host that sandboxed commands see, read-only, at their own paths, besides
    /// the usual ones. Missing ones are left out.
    pub shown: Vec<PathBuf>,
    /// Bytes a sandboxed command may keep in `/tmp`, and the same again in `/dev/shm`; both are in
    /// memory. `None`: what the kernel gives, half of the memory each.
    pub tmp_size: Option<u64>,
    /// What bounds the memory of all commands together.
    pub group: Option<Arc<ActionGroup>>,
    /// Files a command may have open until it asks for more, where this program has another limit
    /// than commands should.
    pub open_files: Option<u64>,
}

/// What keeps commands apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Namespaces for every command. Needs what [`probe`](super::probe()) tries.
    Sandbox,
    /// Nothing but a session; all processes are still killed at the end.
    Plain,
}

/// Runs commands in spawner processes that are started ahead of time.
#[derive(Debug)]
pub struct SpawnerPool {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: SpawnerConfig,
    /// Closed when the pool stops. Whoever has one may take a spawner or start one.
    slots: Arc<Slots>,
    idle: Mutex<Vec<Spawner>>,
}

/// A slot and the spawner in it, which goes back to the idle ones unless it was lost or is too many.
struct SpawnerSeat {
    spawner: Option<Spawner>,
    memory: Option<Arc<Memory>>,
    shared: Arc<Shared>,
    slot: Option<Slot>,
}

/// A spawner process. Dropping it closes the socket, which ends it with all it runs.
#[derive(Debug)]
struct Spawner {
    socket: UnixStream,
    process: Child,
    memory: Option<Arc<Memory>>,
}

// === impl SpawnerConfig ===

impl SpawnerConfig {
    /// Spawners from this very program, even if its file is replaced meanwhile.
    pub fn this_program(slots: usize, mode: Mode) -> Self {
        Self {
            executable: "/proc/self/exe".into(),
            slots,
            mode,
            shown: Vec::new(),
            tmp_size: None,
            group: None,
            open_files: None,
        }
    }
}

// === impl SpawnerPool ===

impl SpawnerPool {
    /// Starts all spawners and waits until they are ready. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// [`RunError`] if a spawner cannot be started or set up.
    pub async fn start(config: SpawnerConfig) -> Result<Self, RunError> {
        let slots = config.slots.max(1);
        let mut idle = Vec::with_capacity(slots);
        for _ in 0..slots {
            idle.push(Spawner::start(&config).await?);
        }
        let (slots, idle) = (Slots::new(slots), Mutex::new(idle));
        Ok(Self { shared: Arc::new(Shared { config, slots, idle }) })
    }

    /// Waits for the commands that run (cancel them first if they are not to finish), then ends all
    /// spawners. Commands that come later are refused.
    pub async fn stop(&self) {
        self.shared.slots.close().await;
        let idle = std::mem::take(&mut *self.shared.idle());
        for spawner in idle {
            spawner.end().await;
        }
    }
}

#[async_trait]
impl Runner for SpawnerPool {
    async fn seat(&self) -> Result<Box<dyn Seat>, RunError> {
        let shared = Arc::clone(&self.shared);
        let closed = || setup("take a slot", io::Error::other("the runner is stopping"));
        let slot = shared.slots.take().await.ok_or_else(closed)?;
        let spawner = shared.take().await?;
        let memory = spawner.memory.clone();
        Ok(Box::new(SpawnerSeat { spawner: Some(spawner), memory, shared, slot: Some(slot) }))
    }

    fn is_sandboxed(&self) -> bool {
        self.shared.config.mode == Mode::Sandbox
    }

    async fn resize(&self, seats: usize) -> Result<(), RunError> {
        let seats = seats.max(1);
        let mut fresh = Vec::new();
        for _ in self.shared.slots.wanted()..seats {
            fresh.push(Spawner::start(&self.shared.config).await?);
        }
        self.shared.idle().append(&mut fresh);
        self.shared.slots.resize(seats);
        let surplus: Vec<_> = {
            let mut idle = self.shared.idle();
            let kept = idle.len().min(seats);
            idle.drain(kept..).collect()
        };
        for spawner in surplus {
            spawner.end().await;
        }
        Ok(())
    }
}

// === impl Shared ===

impl Shared {
    /// An idle spawner, or a new one if those that should be idle are gone.
    async fn take(&self) -> Result<Spawner, RunError> {
        loop {
            let idle = self.idle().pop();
            match idle {
                Some(spawner) if spawner.is_alive() => return Ok(spawner),
                Some(spawner) => {
                    tracing::warn!("an idle spawner process ended; starting another");
                    spawner.end().await;
                }
                None => return Spawner::start(&self.config).await,
            }
        }
    }

    /// Adds to a failure what only the control group knows.
    fn explain(&self, mut exit: Exit) -> Exit {
        let failed = matches!(exit.outcome, Outcome::Signaled(_) | Outcome::Exited(1..));
        let group = self.config.group.as_ref().filter(|_| failed);
        exit.memory_exceeded = group.filter(|group| group.has_killed()).map(|group| group.memory());
        exit
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Spawner>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl SpawnerSeat ===

#[async_trait]
impl Seat for SpawnerSeat {
    fn memory(&self) -> Option<&Arc<Memory>> {
        self.memory.as_ref()
    }

    async fn run(
        &mut self,
        mut command: PreparedCommand,
        cancel: CancellationToken,
    ) -> Result<Exit, RunError> {
        if let (Some(memory), Some(overlay)) = (&self.memory, command.root.overlay_mut()) {
            as_seen_by_the_spawner(overlay, &memory.path());
        }
        let frame = Request::run_frame(&command);
        if frame.len() > MAX_MESSAGE {
            return Err(program(&command, io::Error::from_raw_os_error(libc::E2BIG)));
        }
        let mut spawner = self.spawner.take().ok_or(RunError::SpawnerLost)?;
        let asked = command.door.as_ref().map(|door| door.asked.clone());
        let ended = {
            let mut run = std::pin::pin!(spawner.run(&frame, &command, &cancel));
            tokio::select! {
                biased;
                ended = &mut run => ended,
                () = fires(asked) => {
                    drop(self.slot.take());
                    run.await
                }
            }
        };
        match ended {
            Ok(Reply::Ended { exit, retiring: false }) => {
                self.spawner = Some(spawner);
                Ok(self.shared.explain(exit))
            }
            Ok(Reply::Ended { exit, retiring: true }) => {
                tracing::warn!("an action changed its spawner process; starting another");
                spawner.end().await;
                Ok(self.shared.explain(exit))
            }
            Ok(Reply::Failed(failure)) => {
                self.spawner = Some(spawner);
                Err(refusal(failure, &command))
            }
            Ok(Reply::Ready | Reply::Settled | Reply::Resting(_)) | Err(_) => {
                spawner.end().await;
                Err(RunError::SpawnerLost)
            }
        }
    }

    async fn keep(mut self: Box<Self>, command: PreparedCommand) -> Result<Box<dyn Kept>, RunError> {
        let spawner = self.spawner.take().ok_or(RunError::SpawnerLost)?;
        kept::start(spawner, command).await
    }
}

impl Drop for SpawnerSeat {
    fn drop(&mut self) {
        let Some(spawner) = self.spawner.take() else { return };
        let mut idle = self.shared.idle();
        // One more than there are slots ends when it is dropped.
        if idle.len() < self.shared.slots.wanted() {
            idle.push(spawner);
        }
    }
}

/// Layers in the directory in memory are elsewhere for the spawner.
fn as_seen_by_the_spawner(overlay: &mut Overlay, memory: &Path) {
    for layer in [&mut overlay.upper, &mut overlay.work] {
        if let Ok(below) = layer.strip_prefix(memory) {
            *layer = Path::new(MEMORY).join(below);
        }
    }
}

// === impl Spawner ===

impl Spawner {
    async fn start(config: &SpawnerConfig) -> Result<Self, RunError> {
        let (mut spawner, reply) = async {
            let mut spawner = Self::launch(config)?;
            let reply = spawner.first_reply().await?;
            Ok((spawner, reply))
        }
        .await
        .map_err(|error| setup("start a spawner process", error))?;
        match reply {
            Reply::Ready => Ok(spawner),
            Reply::Failed(Failure::Setup { step, errno }) => {
                spawner.end().await;
                Err(setup(step, errno.into()))
            }
            Reply::Failed(_) | Reply::Ended { .. } | Reply::Settled | Reply::Resting(_) => {
                drop(spawner.process.start_kill());
                Err(RunError::SpawnerLost)
            }
        }
    }

    fn launch(config: &SpawnerConfig) -> io::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let process = Command::new(&config.executable)
            .arg0("farmhand-spawner")
            .args(Job::of(config).arguments())
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Self { socket: UnixStream::from_std(ours)?, process, memory: None })
    }

    /// The reply of a spawner that was just started, with what came with it.
    async fn first_reply(&mut self) -> io::Result<Reply> {
        let (header, descriptor) = self.socket.async_io(Interest::READABLE, || receive(&self.socket)).await?;
        self.memory = descriptor.map(|root| Arc::new(Memory::from_root(root)));
        read_reply(&mut header.as_slice().chain(&mut self.socket)).await
    }

    /// Has the spawner run a command. An error means that the spawner is lost.
    async fn run(
        &mut self,
        frame: &[u8],
        command: &PreparedCommand,
        cancel: &CancellationToken,
    ) -> io::Result<Reply> {
        self.order(frame, command).await?;
        let (mut reader, mut writer) = self.socket.split();
        let mut reply = std::pin::pin!(read_reply(&mut reader));
        let (mut guest, mut is_still) = (command.guest.clone(), false);
        loop {
            tokio::select! {
                biased;
                reply = &mut reply => return reply,
                () = cancel.cancelled() => break,
                () = differs(&mut guest, is_still) => {
                    is_still = !is_still;
                    writer.write_all(&Request::stand_still_frame(is_still)).await?;
                }
            }
        }
        writer.write_all(&Request::kill_frame()).await?;
        reply.await
    }

    /// Sends the order to run a command.
    async fn order(&mut self, frame: &[u8], command: &PreparedCommand) -> io::Result<()> {
        let streams = [Some(&command.stdout), Some(&command.stderr), command.stdin.as_ref()];
        let streams: Vec<_> = streams.into_iter().flatten().map(AsFd::as_fd).collect();
        let sent = self.send_with(frame, &streams).await?;
        self.socket.write_all(&frame[sent..]).await
    }

    /// Sends the first part of `frame`, and with it the descriptors. Returns its length.
    async fn send_with(&self, frame: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
        let send = || {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
            let parts = [io::IoSlice::new(frame)];
            Ok(sendmsg(&self.socket, &parts, &mut ancillary, SendFlags::NOSIGNAL)?)
        };
        self.socket.async_io(Interest::WRITABLE, send).await
    }

    /// Whether an idle spawner waits for work: it has neither spoken nor gone away.
    fn is_alive(&self) -> bool {
        let mut byte = [0_u8; 1];
        recv(&self.socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT) == Err(rustix::io::Errno::AGAIN)
    }

    /// Ends the spawner; returns when it and all it started are gone.
    async fn end(self) {
        let Self { socket, mut process, .. } = self;
        drop(socket);
        if let Err(error) = process.wait().await {
            tracing::warn!(%error, "cannot wait for a spawner process");
        }
    }
}

/// Waits for `token`; never ends without one.
async fn fires(token: Option<CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}

/// The first bytes that are there, and a descriptor if one came with them.
fn receive(socket: &UnixStream) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut bytes = vec![0; HEADER];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [io::IoSliceMut::new(&mut bytes)];
    let received = recvmsg(socket, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let mut descriptor = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptor = descriptors.last();
        }
    }
    bytes.truncate(received);
    Ok((bytes, descriptor))
}

async fn read_reply(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Reply> {
    let mut header = [0; HEADER];
    socket.read_exact(&mut header).await?;
    let length = u32::from_le_bytes(header) as usize;
    if length > MAX_REPLY {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; length];
    socket.read_exact(&mut message).await?;
    Reply::decode(&message).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Why a spawner did not run `command`.
fn refusal(failure: Failure, command: &PreparedCommand) -> RunError {
    match failure {
        Failure::Program(errno) => program(command, errno.into()),
        Failure::WorkingDirectory(errno) => RunError::WorkingDirectory { source: errno.into() },
        Failure::MemoryFull => RunError::MemoryFull,
        Failure::Setup { step, errno } => setup(step, errno.into()),
    }
}

fn program(command: &PreparedCommand, source: io::Error) -> RunError {
    let program = command.arguments.first().map(|name| name.to_string_lossy().into_owned());
    RunError::Program { program: program.unwrap_or_default(), source }
}

fn setup(step: impl Into<String>, source: io::Error) -> RunError {
    RunError::Setup { step: step.into(), source }
}
