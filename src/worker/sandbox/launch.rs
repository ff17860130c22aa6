//! The last steps of every command, in a sandbox or not: limits, streams, session, exec.
//!
//! A [`Launch`] is made by the spawner ahead of time, so that the child, which borrows the
//! spawner's memory, has nothing left to compute. Searching `PATH` happens in the child,
//! because only there the action's own root is in place.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};

use super::sys::{self, StringArray};
use super::wire::{Failure, Order};
use crate::worker::Limits;

/// Where programs without a slash are searched when the command's environment has no `PATH`, or an
/// empty one. It is not added to the environment.
pub(super) const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// How much rather than others the kernel, short of memory, kills an action: of 1000, and more than
/// its spawner.
const OOM_SCORE: &[u8] = b"800";

/// How far actions of other machines stand back.
const GUEST_NICE: i32 = 10;

/// Strings and descriptors of a command, owned.
pub(super) struct Launch {
    candidates: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
    directory: CString,
    streams: [OwnedFd; 3],
    limits: Limits,
    is_guest: bool,
}

/// A [`Launch`] in the form that exec wants.
pub(super) struct Ready<'a> {
    launch: &'a Launch,
    arguments: StringArray<'a>,
    environment: StringArray<'a>,
}

// === impl Launch ===

impl Launch {
    /// Prepares `order`, to run in `directory` (as seen by the command) with these streams.
    ///
    /// # Errors
    /// [`Failure::Program`] if there is no program or a string contains NUL.
    pub(super) fn new(order: &Order, directory: &Path, streams: [OwnedFd; 3]) -> Result<Self, Failure> {
        let program = order.arguments.first().ok_or(Failure::Program(Errno::NOENT))?;
        let candidates = candidates(program, path_of(&order.environment));
        Ok(Self {
            candidates: candidates.iter().map(|path| c_string(path)).collect::<Result<_, _>>()?,
            arguments: order.arguments.iter().map(|text| c_string(text)).collect::<Result<_, _>>()?,
            environment: order.environment.iter().map(variable).collect::<Result<_, _>>()?,
            directory: c_string(directory.as_os_str())?,
            streams,
            limits: order.limits,
            is_guest: order.is_guest,
        })
    }

    /// The last preparation, before the child is started.
    pub(super) fn ready(&self) -> Ready<'_> {
        Ready {
            launch: self,
            arguments: sys::pointers(&self.arguments),
            environment: sys::pointers(&self.environment),
        }
    }
}

// === impl Ready ===

impl Ready<'_> {
    /// In the child: a session of its own, the working directory, streams, limits. Afterwards the
    /// child has no descriptor but its three streams.
    pub(super) fn settle(&self) -> Result<(), Failure> {
        rustix::process::setsid().map_err(Failure::step("start a session"))?;
        if self.launch.is_guest {
            stand_back();
        }
        umask(Mode::WGRP | Mode::WOTH);
        sys::leave_session_keyring();
        rustix::process::chdir(&*self.launch.directory).map_err(not_entered)?;
        for (number, stream) in (0..).zip(&self.launch.streams) {
            sys::redirect(stream.as_fd(), number).map_err(Failure::step("redirect the streams"))?;
        }
        sys::close_all_but_standard().map_err(Failure::step("close descriptors"))?;
        apply_limits(&self.launch.limits).map_err(Failure::step("set limits"))?;
        rustix::thread::set_no_new_privs(true).map_err(Failure::step("forbid new privileges"))?;
        sys::unblock_signals().map_err(Failure::step("unblock signals"))
    }

    /// In the child: becomes the program. Returns only if that failed.
    pub(super) fn execute(&self) -> Failure {
        let mut worst = Errno::NOENT;
        for candidate in &self.launch.candidates {
            match sys::execute(candidate, &self.arguments, &self.environment) {
                Errno::NOENT | Errno::NOTDIR => {}
                Errno::ACCESS if self.launch.candidates.len() > 1 => worst = Errno::ACCESS,
                error => return Failure::Program(error),
            }
        }
        Failure::Program(worst)
    }
}

/// In the child, first of all: becomes what the kernel kills when memory runs out, so that the spawner
/// and the daemon live. Only a preference: whether it worked is nobody's business.
pub(super) fn volunteer() {
    let open = rustix::fs::open("/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    if let Ok(file) = open {
        let _ = rustix::io::write(&file, OOM_SCORE);
    }
}

/// In the child, in its own session: gives way to everybody else who wants processors or disks. What it
/// starts does so too. A kernel that knows no such thing is no reason not to run.
fn stand_back() {
    if rustix::process::getpriority_process(None).is_ok_and(|nice| nice < GUEST_NICE) {
        let _ = rustix::process::setpriority_process(None, GUEST_NICE);
    }
    let _ = sys::use_disks_last();
    // Where sessions share the processors equally, niceness counts only within one.
    let open = rustix::fs::open("/proc/self/autogroup", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    if let Ok(file) = open {
        let _ = rustix::io::write(&file, GUEST_NICE.to_string().as_bytes());
    }
}

/// Why the working directory could not be entered. It was made where the inputs lack it, so what
/// stands in the way is an input: a file, or a symlink that leads to none.
fn not_entered(errno: Errno) -> Failure {
    match errno {
        Errno::NOTDIR | Errno::NOENT | Errno::LOOP | Errno::ACCESS | Errno::NAMETOOLONG => {
            Failure::WorkingDirectory(errno)
        }
        errno => Failure::step("enter the working directory")(errno),
    }
}

/// `stream` as a descriptor that a [`Launch`] can own.
pub(super) fn copy(stream: BorrowedFd<'_>) -> Result<OwnedFd, Failure> {
    rustix::io::fcntl_dupfd_cloexec(stream, 3).map_err(Failure::step("copy a descriptor"))
}

/// Paths to try for `program`: itself if it has a slash, else one for each entry of `path`. An empty
/// entry is the working directory, as everywhere.
fn candidates(program: &OsStr, path: &OsStr) -> Vec<OsString> {
    if program.is_empty() || program.as_bytes().contains(&b'/') {
        return vec![program.to_owned()];
    }
    let path = if path.is_empty() { OsStr::new(DEFAULT_PATH) } else { path };
    path.as_bytes()
        .split(|byte| *byte == b':')
        .map(|entry| Path::new(OsStr::from_bytes(entry)).join(program).into_os_string())
        .collect()
}

fn path_of(environment: &[(OsString, OsString)]) -> &OsStr {
    let found = environment.iter().find(|(name, _)| name == "PATH");
    found.map_or(OsStr::new(""), |(_, value)| value.as_os_str())
}

fn variable((name, value): &(OsString, OsString)) -> Result<CString, Failure> {
    let mut text = name.clone();
    text.push("=");
    text.push(value);
    c_string(&text)
}

fn c_string(text: &OsStr) -> Result<CString, Failure> {
    CString::new(text.as_bytes()).map_err(|_| Failure::Program(Errno::INVAL))
}

fn apply_limits(limits: &Limits) -> Result<(), Errno> {
    lower(Resource::Core, Some(0))?;
    lower(Resource::Nproc, limits.processes)?;
    lower(Resource::Nofile, limits.open_files)?;
    lower(Resource::Fsize, limits.file_size)?;
    lower(Resource::As, limits.address_space)
}

/// Lowers both limits of `resource` to `value`, or as far as the hard limit allows.
fn lower(resource: Resource, value: Option<u64>) -> Result<(), Errno> {
    let Some(value) = value else { return Ok(()) };
    let value = getrlimit(resource).maximum.map_or(value, |maximum| value.min(maximum));
    setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(program: &str, path: &str) -> Vec<String> {
        let found = candidates(OsStr::new(program), OsStr::new(path));
        found.into_iter().map(|path| path.into_string().unwrap()).collect()
    }

    #[test]
    fn a_program_with_a_slash_is_not_searched() {
        assert_eq!(paths("./tool", "/usr/bin"), ["./tool"]);
        assert_eq!(paths("/bin/sh", "/usr/bin"), ["/bin/sh"]);
        assert_eq!(paths("", "/usr/bin"), [""]);
    }

    #[test]
    fn other_programs_are_searched_in_order() {
        assert_eq!(paths("cc", "/a:/b/"), ["/a/cc", "/b/cc"]);
        assert_eq!(paths("cc", "/a::b"), ["/a/cc", "cc", "b/cc"]);
        assert_eq!(paths("cc", ""), ["/usr/local/bin/cc", "/usr/bin/cc", "/bin/cc"]);
    }

    #[test]
    fn nul_in_a_string_is_the_fault_of_the_command() {
        assert_eq!(c_string(OsStr::new("a\0b")), Err(Failure::Program(Errno::INVAL)));
    }
}
