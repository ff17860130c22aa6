//! The start of a spawner process: the guardian, and the spawner proper below it.
//!
//! - The guardian is what the daemon started and waits for. It makes the namespaces, starts the
//!   spawner as the first process in them, and ends after it. By then nothing is left of what
//!   the spawner had started: the kernel kills a pid namespace with its first process, and without
//!   namespaces the guardian itself kills what it inherits. So the end of the guardian tells the
//!   daemon that the action is gone.
//! - When the guardian is killed, the spawner is killed with it, by its parent death signal. Then
//!   the daemon may hear of the loss a moment before the last process is gone.
//! - Meanwhile the guardian takes apart the mount namespaces of actions that have ended. That keeps
//!   whoever does it waiting for all processors, and the spawner has better things to do.

use std::ffi::{CStr, OsString};
use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, setrlimit};
use rustix::thread::UnshareFlags;

use super::channel::Channel;
use super::job::{Job, PROBE};
use super::spawner::Spawner;
use super::template::Template;
use super::wire::{Failure, Reply};
use super::{cgroup, enter, pool, probe, sys};
use crate::worker::plain;

/// Raised over the daemon's, so that the kernel, short of memory, spares it. Actions have more.
const OOM_SCORE: &[u8] = b"500";

/// Namespaces of a spawner. Each action gets its own of the other kinds.
const NAMESPACES: UnshareFlags = UnshareFlags::NEWNS.union(UnshareFlags::NEWPID).union(UnshareFlags::NEWUTS);

/// Which of the two processes this is.
enum Role {
    Guardian(Guarded),
    Spawner(Box<Spawner>),
}

/// The spawner as its guardian sees it.
struct Guarded {
    pid: Pid,
    rubbish: OwnedFd,
    sandboxed: bool,
}

/// The spawner's way to its guardian.
pub(super) struct Guardian(OwnedFd);

// === impl Guardian ===

impl Guardian {
    /// Has the guardian close `descriptor` as the last one who has it. If the guardian is too
    /// busy, it is closed here.
    pub(super) fn close(&self, descriptor: impl AsFd) {
        let borrowed = [descriptor.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
        self.send(&mut ancillary);
        drop(descriptor);
        self.send(&mut SendAncillaryBuffer::default());
    }

    /// A message that is refused leaves the closing to this process.
    fn send(&self, ancillary: &mut SendAncillaryBuffer<'_, '_, '_>) {
        let _ = sendmsg(&self.0, &[IoSlice::new(&[0])], ancillary, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }

    /// Has this process killed when its guardian ends, also if that has happened already.
    fn follow(&self) -> Result<(), Errno> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        if polled[0].revents().contains(PollFlags::HUP) { Err(Errno::SRCH) } else { Ok(()) }
    }
}

/// Lowers the limit on open files to what the daemon had before it raised its own.
fn limit_open_files(current: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // The limit it has is the only worse one.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum });
}

/// Runs this process as what `arguments` (those after [`WORD`](super::job::WORD)) say.
pub(super) fn main(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let word = arguments.next().unwrap_or_default();
    if word == PROBE {
        return probe::child(&PathBuf::from(arguments.next().unwrap_or_default()));
    }
    Job::parse(&word, arguments).map_or(ExitCode::from(2), |job| serve(&job))
}

/// Serves the daemon at the other end of stdin.
fn serve(job: &Job) -> ExitCode {
    if let Some(limit) = job.open_files {
        limit_open_files(limit);
    }
    let Ok(channel) = take_channel() else { return ExitCode::from(2) };
    match guard(job) {
        Ok(Role::Guardian(spawner)) => {
            name_process(c"farmhand-guard");
            drop(channel);
            wait_for(spawner);
            ExitCode::SUCCESS
        }
        Ok(Role::Spawner(mut spawner)) => {
            name_process(c"farmhand-spawn");
            spawner.serve(&channel)
        }
        Err(failure) => {
            // If the daemon is gone there is nobody to tell.
            let _ = channel.send(&Reply::Failed(failure));
            ExitCode::FAILURE
        }
    }
}

/// Splits this process into guardian and spawner.
fn guard(job: &Job) -> Result<Role, Failure> {
    let children = settle().map_err(Failure::step("start the spawner"))?;
    let seat = match &job.group {
        Some(group) => cgroup::join(group, job.seats.as_deref()).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
            Failure::at("join the control group", group)(errno)
        })?,
        None => None,
    };
    let sandboxed = job.mode == pool::Mode::Sandbox;
    if sandboxed {
        enter_namespaces()?;
    } else {
        become_subreaper()?;
    }
    let (guardian, rubbish) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(Failure::step("start the spawner"))?;
    if let Some(pid) = sys::fork().map_err(Failure::step("start the spawner"))? {
        return Ok(Role::Guardian(Guarded { pid, rubbish, sandboxed }));
    }
    drop(rubbish);
    let guardian = Guardian(guardian);
    guardian.follow().map_err(Failure::step("follow the guardian"))?;
    let spawner = if sandboxed {
        Spawner::sandboxed(children, guardian, Template::build(&job.shown, job.tmp_size)?, seat)?
    } else {
        become_subreaper()?;
        Spawner::plain(children, guardian, seat)?
    };
    Ok(Role::Spawner(Box::new(spawner)))
}

/// Waits until the spawner and all it started are gone, and closes what it sends.
fn wait_for(guarded: Guarded) {
    let mut kept = Vec::new();
    while receive(&guarded.rubbish, &mut kept) {}
    while let Ok(ended) = sys::wait_any(true) {
        if ended.is_some_and(|ended| ended.pid == guarded.pid) {
            break;
        }
    }
    if !guarded.sandboxed {
        plain::kill_descendants(|| {
            loop {
                match sys::wait_any(false) {
                    Ok(Some(_)) => {}
                    Ok(None) => return true,
                    Err(_) => return false,
                }
            }
        });
    }
}

/// Takes a message of the spawner: a descriptor is kept, a message without one has all kept ones
/// closed. Returns whether the spawner lives.
fn receive(rubbish: &OwnedFd, kept: &mut Vec<OwnedFd>) -> bool {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(rubbish, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
    let before = kept.len();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            kept.extend(descriptors);
        }
    }
    if kept.len() == before {
        kept.clear();
    }
    match received {
        Ok(message) => message.bytes > 0,
        Err(error) => error == Errno::INTR,
    }
}

/// Takes the socket that stdin is, and puts `/dev/null` in its place.
fn take_channel() -> Result<Channel, Errno> {
    let socket = rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3)?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    sys::redirect(null.as_fd(), 0)?;
    Ok(Channel::new(socket))
}

/// Names this process in the lists of `ps` and `top`, which show 15 bytes. Nothing depends on it.
fn name_process(name: &CStr) {
    let _ = rustix::thread::set_name(name);
}

/// Leaves what was inherited from the daemon. Returns what tells of ended children.
fn settle() -> Result<OwnedFd, Errno> {
    let children = sys::child_signals()?;
    // A terminal's interrupt is for the daemon, which ends its actions in good order. A spawner
    // that already leads a group has a session of its own.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/")?;
    rustix::process::umask(Mode::empty());
    if let Ok(mut file) = std::fs::File::options().write(true).open("/proc/self/oom_score_adj") {
        // Only a preference.
        let _ = file.write_all(OOM_SCORE);
    }
    Ok(children)
}

fn enter_namespaces() -> Result<(), Failure> {
    // Nobody else may.
    if rustix::process::geteuid().is_root() {
        sys::drop_groups().map_err(Failure::step("leave the groups"))?;
    }
    enter::map_ids((0, 0)).map_err(Failure::step("make a user namespace"))?;
    sys::unshare(NAMESPACES).map_err(Failure::step("make the namespaces"))
}

fn become_subreaper() -> Result<(), Failure> {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(Failure::step("adopt orphans"))
}
