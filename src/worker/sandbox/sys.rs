//! The system calls that neither the standard library nor `rustix` offers, each behind a safe
//! function. All `unsafe` of this crate is in this file.
//!
//! The functions promise no more than the calls they wrap. What they are used for is said by
//! their callers: [`spawner`](super::spawner), [`enter`](super::enter), [`launch`](super::launch).

#![expect(unsafe_code, reason = "wraps system calls that no safe crate offers")]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use libc::{c_int, c_void};
use rustix::io::Errno;
use rustix::mount::OpenTreeFlags;
use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;

use crate::worker::{Outcome, Usage};

/// Bytes of a [`ChildStack`] that may be used; pages that are never touched cost nothing.
const STACK_SIZE: usize = 1 << 20;

/// Bytes below a [`ChildStack`] that may not be touched; a multiple of every page size.
const GUARD_SIZE: usize = 1 << 16;

/// Signals of the kernel on all platforms but MIPS, which is none of ours.
const SIGNALS: c_int = 64;

/// Says in calls about I/O priorities that one process is meant.
const WHO_PROCESS: c_int = 1;

/// Mount attributes for [`set_mount_attributes`], from `linux/mount.h`.
pub(super) mod attribute {
    /// Nothing below may be changed.
    pub(in super::super) const READ_ONLY: u64 = 0x1;
    /// Set-user-id bits have no effect.
    pub(in super::super) const NO_SUID: u64 = 0x2;
    /// Device files have no effect.
    pub(in super::super) const NO_DEVICES: u64 = 0x4;
}

/// A stack for children of [`spawn_sharing`], used by one of them at a time.
pub(super) struct ChildStack {
    base: *mut c_void,
}

/// A child that has ended and was waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reaped {
    /// Which one.
    pub(super) pid: Pid,
    /// How it ended.
    pub(super) outcome: Outcome,
    /// What it used, with the children it waited for itself.
    pub(super) usage: Usage,
}

/// Layout of `struct mount_attr` in `linux/mount.h`.
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// A `sigaction` as the kernel has it, with the default disposition: handler, flags, restorer, mask.
#[repr(C)]
#[derive(Default)]
struct DefaultAction([u64; 4]);

/// What a child of [`spawn_sharing`] runs.
type ChildBody<'a> = &'a mut dyn FnMut();

// === impl ChildStack ===

impl ChildStack {
    /// Maps a new stack with a guard below it.
    pub(super) fn new() -> Result<Self, Errno> {
        // SAFETY: asks for fresh memory at any address; no existing mapping is touched.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                GUARD_SIZE + STACK_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(last_error());
        }
        let stack = Self { base };
        // SAFETY: the range is the lower end of the mapping made above, which nobody uses yet.
        check(unsafe { libc::mprotect(base, GUARD_SIZE, libc::PROT_NONE) })?;
        Ok(stack)
    }

    fn top(&mut self) -> *mut c_void {
        self.base.wrapping_byte_add(GUARD_SIZE + STACK_SIZE)
    }
}

impl Drop for ChildStack {
    fn drop(&mut self) {
        // SAFETY: this is exactly the mapping of `new`; a child that used it has called exec or
        // ended before `spawn_sharing` gave back the exclusive borrow.
        unsafe { libc::munmap(self.base, GUARD_SIZE + STACK_SIZE) };
    }
}

// === processes ===

/// Starts a child in new namespaces (`namespaces` are `CLONE_NEW…` and `CLONE_FILES` bits) that
/// borrows the memory of this process, as `vfork` does. This process sleeps until the child calls
/// exec or ends; when `body` returns, the child ends with code 127. What `body` writes to memory
/// is seen here afterwards: that is how failures are told.
///
/// Only for single-threaded processes: with more threads the child could wait for a lock that
/// none of its own threads holds.
pub(super) fn spawn_sharing(
    stack: &mut ChildStack,
    namespaces: c_int,
    mut body: ChildBody<'_>,
) -> Result<Pid, Errno> {
    extern "C" fn trampoline(body: *mut c_void) -> c_int {
        // SAFETY: `body` points to the `ChildBody` below, alive and untouched by the sleeping
        // parent until this child is gone. A panic aborts the child at this `extern "C"` border.
        let body = unsafe { &mut *body.cast::<ChildBody<'_>>() };
        body();
        127
    }
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD | namespaces;
    // SAFETY: the child runs on a stack of its own (exclusively borrowed, aligned by the page),
    // and CLONE_VFORK keeps this process asleep while the child uses the shared memory.
    let pid = check(unsafe { libc::clone(trampoline, stack.top(), flags, (&raw mut body).cast()) })?;
    Ok(Pid::from_raw(pid).expect("invariant: clone returns a process id in the parent"))
}

/// `fork(2)`: `None` in the child. Only for single-threaded processes.
pub(super) fn fork() -> Result<Option<Pid>, Errno> {
    // SAFETY: this process has one thread, so the child finds no lock held by another.
    Ok(Pid::from_raw(check(unsafe { libc::fork() })?))
}

/// Takes in one ended child, waiting for it if `block`. `None`: none has ended yet.
///
/// # Errors
/// `ECHILD` if there is no child at all.
pub(super) fn wait_any(block: bool) -> Result<Option<Reaped>, Errno> {
    let mut status = 0;
    // SAFETY: an all-zero rusage is a valid value of this plain C struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let options = if block { libc::__WALL } else { libc::__WALL | libc::WNOHANG };
    let pid = loop {
        // SAFETY: both pointers are valid for writes for the time of the call.
        match check(unsafe { libc::wait4(-1, &raw mut status, options, &raw mut usage) }) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
    let outcome = if libc::WIFSIGNALED(status) {
        Outcome::Signaled(libc::WTERMSIG(status))
    } else {
        Outcome::Exited(libc::WEXITSTATUS(status))
    };
    let usage = Usage {
        user: duration(usage.ru_utime),
        system: duration(usage.ru_stime),
        max_rss: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
    };
    Ok(Some(Reaped { pid, outcome, usage }))
}

/// Sends `signal` to every process of this process's pid namespace but itself, at one moment: none of
/// them can start another meanwhile that does not get it.
///
/// # Errors
/// `EPERM` unless this process is the first of its namespace: elsewhere the call would
/// reach processes that have nothing to do with us.
pub(super) fn signal_namespace(signal: Signal) -> Result<(), Errno> {
    if rustix::process::getpid() != Pid::INIT {
        return Err(Errno::PERM);
    }
    // SAFETY: kill has no memory effects.
    match check(unsafe { libc::kill(-1, signal.as_raw()) }) {
        Err(Errno::SRCH) => Ok(()),
        other => other.map(drop),
    }
}

/// Moves this process into new namespaces (`CLONE_NEW…` only).
pub(super) fn unshare(namespaces: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: namespace flags leave descriptors and memory as they are; callers never pass FILES.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// Leaves all supplementary groups.
pub(super) fn drop_groups() -> Result<(), Errno> {
    // SAFETY: an empty list is read from no memory.
    check(unsafe { libc::setgroups(0, ptr::null()) }).map(drop)
}

/// Joins a new, empty session keyring, so that the keys of whoever started the daemon stay his.
/// Kernels without keyrings have nothing to hide: failures do not matter.
pub(super) fn leave_session_keyring() {
    const JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: a null name asks for an anonymous keyring; no memory is read.
    unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, ptr::null::<c_void>()) };
}

/// Removes every capability from the bounding set, those unknown to this program too.
pub(super) fn empty_bounding_set() -> Result<(), Errno> {
    for capability in 0..libc::c_ulong::from(u64::BITS) {
        // SAFETY: prctl with this option takes a number and touches no memory.
        match check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) }) {
            Ok(_) => {}
            Err(Errno::INVAL) if capability > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Has this process, and what it will start, use disks only when nobody else does.
pub(super) fn use_disks_last() -> Result<(), Errno> {
    /// Class 3, in the upper bits of an I/O priority.
    const IDLE: libc::c_long = 3 << 13;
    // SAFETY: the call takes numbers and touches no memory.
    check_long(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, IDLE) }).map(drop)
}

/// Scheduling policy and I/O priority of this process, as the kernel encodes them.
pub(super) fn scheduling() -> (c_int, libc::c_long) {
    // SAFETY: both calls take numbers and touch no memory.
    unsafe { (libc::sched_getscheduler(0), libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0)) }
}

/// Replaces the program. Returns only if that failed. `arguments` and `environment` are arrays of
/// pointers to C strings, made by [`pointers`].
pub(super) fn execute(
    program: &CString,
    arguments: &StringArray<'_>,
    environment: &StringArray<'_>,
) -> Errno {
    // SAFETY: all three are NUL-terminated, the arrays end with a null pointer, and the borrows
    // keep the strings alive.
    unsafe { libc::execve(program.as_ptr(), arguments.0.as_ptr(), environment.0.as_ptr()) };
    last_error()
}

/// An array of C strings as exec wants it.
pub(super) struct StringArray<'a>(Vec<*const libc::c_char>, std::marker::PhantomData<&'a CString>);

/// Makes the array that exec wants.
pub(super) fn pointers(strings: &[CString]) -> StringArray<'_> {
    let array = strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect();
    StringArray(array, std::marker::PhantomData)
}

// === signals and descriptors ===

/// Gives every signal its default disposition, blocks SIGCHLD alone, and returns a descriptor that
/// is readable while a SIGCHLD waits.
pub(super) fn child_signals() -> Result<OwnedFd, Errno> {
    for signal in 1..=SIGNALS {
        let action = DefaultAction::default();
        // SAFETY: the kernel reads as many bytes as its sigaction has, which are no more than
        // given; all zero they mean SIG_DFL. Past the C library, which refuses to touch two signals.
        // SIGKILL and SIGSTOP are refused, which cannot have another disposition anyway.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                &raw const action,
                ptr::null_mut::<c_void>(),
                SIGNALS as usize / 8,
            )
        };
    }
    // SAFETY: the set is initialised by sigemptyset before it is read; -1 asks for a new descriptor,
    // which is ours alone if the call succeeds.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()))?;
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Blocks no signal.
pub(super) fn unblock_signals() -> Result<(), Errno> {
    // SAFETY: the set is initialised by sigemptyset before it is read.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut())).map(drop)
    }
}

/// Makes `number` (0, 1 or 2) a copy of `fd`.
pub(super) fn redirect(fd: BorrowedFd<'_>, number: c_int) -> Result<(), Errno> {
    assert!((0..=2).contains(&number), "only standard streams are redirected");
    // SAFETY: standard streams are owned by nobody in this process, so nothing is closed under
    // its owner.
    check(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(drop)
}

/// Closes every descriptor but the standard streams. For a child that is about to call exec.
pub(super) fn close_all_but_standard() -> Result<(), Errno> {
    // SAFETY: the child's table is a copy: the owners of these descriptors, in the parent, keep
    // theirs; the child calls exec next and uses none.
    check_long(unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) }).map(drop)
}

// === mounts and network ===

/// Sets mount attributes ([`attribute`]) of the mount that `tree` refers to, of all below
/// it too if `recursive`.
pub(super) fn set_mount_attributes(tree: impl AsFd, attributes: u64, recursive: bool) -> Result<(), Errno> {
    change_mount_attributes(tree, (attributes, 0), recursive)
}

/// Takes mount attributes from the mount that `tree` refers to.
pub(super) fn clear_mount_attributes(tree: impl AsFd, attributes: u64) -> Result<(), Errno> {
    change_mount_attributes(tree, (0, attributes), false)
}

fn change_mount_attributes(tree: impl AsFd, (set, clear): (u64, u64), recursive: bool) -> Result<(), Errno> {
    let attributes = MountAttributes { set, clear, propagation: 0, user_namespace: 0 };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, the struct has the layout and the size told.
    check_long(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    })
    .map(drop)
}

/// Flags for a private copy of a mount and all below it.
pub(super) fn clone_tree_flags() -> OpenTreeFlags {
    OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH
}

/// Brings the loopback interface of this process's network namespace up.
pub(super) fn loopback_up() -> Result<(), Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: an all-zero ifreq is a valid value of this plain C struct.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which lives for the time of the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }).map(drop)
}

// === helpers ===

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

fn check(result: c_int) -> Result<c_int, Errno> {
    if result < 0 { Err(last_error()) } else { Ok(result) }
}

fn check_long(result: libc::c_long) -> Result<libc::c_long, Errno> {
    if result < 0 { Err(last_error()) } else { Ok(result) }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u32::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_micros(micros.into())
}
