//! The root directory that all actions of one spawner share: the host's toolchain read-only, `/dev`,
//! `/proc`, an `/etc` of its own.
//!
//! It is built once and lives in three kinds of mount namespaces, between which the spawner moves:
//!
//! - *home*, where the spawner is when nothing runs. It has the host's file system at [`HOST`],
//!   so that the layers of overlays can be found;
//! - *clean*, a copy of home without the host. No process stays in there;
//! - a [`struct@Copy`] of clean for each action, which adds its own mounts. It is made ahead of need.
//!
//! Copying a namespace is much cheaper than making its mounts again, and unmounting is worst of all:
//! the kernel waits for all its processors. So nothing is unmounted for an action, and what it
//! leaves is taken apart by the guardian.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, statat};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MoveMountFlags, UnmountFlags, mount, move_mount, open_tree, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use super::etc::Etc;
use super::memory::Memory;
use super::processes::ProcessLimit;
use super::sys::{self, attribute};
use super::wire::{Failure, Order};
use crate::worker::{InputRoot, Network};

/// Where the template has the host's file system. Actions have a `/tmp` of their own there.
pub(super) const HOST: &CStr = c"/tmp";

/// Below [`HOST`]: a directory with the mount points that a complete file system may lack.
/// The host's own `/proc` is covered by it; no layer is ever in there.
pub(super) const SKELETON: &str = "proc";

/// Directories of the host that are shown if they exist, besides those in the root that start with
/// `lib`.
const SHOWN: &[&str] =
    &["bin", "gnu/store", "nix/store", "sbin", "usr", "var/cache/fontconfig", "var/lib/ghc", "var/lib/texmf"];

/// Device files of the host that are shown.
const DEVICES: &[&str] = &["full", "null", "random", "tty", "urandom", "zero"];

/// Links in `/dev`, with what they lead to.
const DEVICE_LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("ptmx", "pts/ptmx"),
    ("stderr", "/proc/self/fd/2"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
];

/// Parts of `/proc` through which an action could change the host (as its uid 0, even without
/// capabilities), or its spawner's namespaces. Missing ones are left out.
const SETTINGS: &[&str] = &[
    "acpi",
    "asound",
    "bus",
    "driver",
    "dynamic_debug",
    "fs",
    "irq",
    "mtrr",
    "scsi",
    "sys",
    "sysrq-trigger",
    "sysvipc",
    "tty",
];

/// A finished template; this process lives in its home.
pub(super) struct Template {
    etc: Etc,
    /// Mount point of the last action.
    at: Option<PathBuf>,
    /// The directories made for it, the innermost first.
    made: Vec<PathBuf>,
    processes: ProcessLimit,
    memory: Option<Memory>,
    home: OwnedFd,
    clean: OwnedFd,
    spare: Option<Copy>,
    /// Options of an action's own directories in memory.
    scratch: CString,
}

/// A mount namespace for one action.
pub(super) struct Copy(OwnedFd);

// === impl Template ===

impl Template {
    /// Builds the template and moves into it. This process must be the first of a new pid
    /// namespace and have mount and UTS namespaces of its own. `shown` are more directories of
    /// the host to show read-only, `tmp_size` the bytes of an action's `/tmp`, and of its `/dev/shm`.
    pub(super) fn build(shown: &[PathBuf], tmp_size: Option<u64>) -> Result<Self, Failure> {
        rustix::system::sethostname(b"farmhand").map_err(Failure::step("set the host name"))?;
        enter_new_root()?;
        let host = rustix::fs::open(HOST, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(Failure::step("open the host's root"))?;
        let processes = mount_proc()?;
        show_directories(host.as_fd(), shown)?;
        make_devices(host.as_fd())?;
        make_rest()?;
        let host_path = Path::new(OsStr::from_bytes(HOST.to_bytes()));
        let etc = Etc::build(host.as_fd(), host_path)?;
        make_skeleton(&host_path.join(SKELETON))?;
        let memory = Memory::mount(host_path);
        let home = this_namespace()?;
        let clean = make_clean(&home)?;
        let scratch = scratch_options(tmp_size)?;
        let mut template =
            Self { etc, at: None, made: Vec::new(), processes, memory, home, clean, spare: None, scratch };
        template.stock()?;
        Ok(template)
    }

    /// Where actions that write little do so.
    pub(super) fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }

    /// Makes what `order` needs of the shared part: its mount point, the right `/etc`, the limit on
    /// processes.
    pub(super) fn prepare(&mut self, order: &Order) -> Result<(), Failure> {
        if self.etc.refresh(order.network == Network::Host)? {
            self.clean = make_clean(&self.home)?;
            self.spare = None;
        }
        self.processes.set(order.limits.processes)?;
        match &order.root {
            // Below `/tmp` it is made in the action's own.
            InputRoot::Mounted { at, .. } | InputRoot::Parted { at, .. } if !at.starts_with("/tmp") => {
                self.make_mount_point(at)?;
            }
            _ => self.remove_mount_point(),
        }
        self.stock()
    }

    /// Makes sure that a copy is ready: `/tmp` and `/dev/shm` are empty directories in memory there.
    /// Moves this process into a new IPC namespace too, for the next action.
    pub(super) fn stock(&mut self) -> Result<(), Failure> {
        if self.spare.is_none() {
            enter(&self.clean)?;
            let copy = make_copy(&self.scratch);
            self.go_home()?;
            self.spare = Some(copy?);
        }
        Ok(())
    }

    /// Moves this process, and so the children it starts, into a copy for one action.
    pub(super) fn enter_copy(&mut self) -> Result<Copy, Failure> {
        self.stock()?;
        let copy = self.spare.take().ok_or(Failure::step("take a mount namespace")(Errno::NOENT))?;
        enter(&copy.0)?;
        Ok(copy)
    }

    /// Moves this process into a copy that it has been in.
    pub(super) fn enter_again(copy: &Copy) -> Result<(), Failure> {
        enter(&copy.0)
    }

    /// Moves this process out of a copy. Does nothing at home.
    pub(super) fn go_home(&self) -> Result<(), Failure> {
        enter(&self.home)
    }

    /// Makes the directory `at`, and removes the one of the last action, unless it is the same.
    fn make_mount_point(&mut self, at: &Path) -> Result<(), Failure> {
        if self.at.as_deref() == Some(at) {
            return Ok(());
        }
        self.remove_mount_point();
        self.made = at.ancestors().take_while(|path| !path.exists()).map(Path::to_owned).collect();
        self.at = Some(at.to_owned());
        make_directories(at)
    }

    fn remove_mount_point(&mut self) {
        self.at = None;
        for directory in self.made.drain(..) {
            // A left-over would be an empty directory.
            let _ = rustix::fs::rmdir(directory);
        }
    }
}

impl AsFd for Copy {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn this_namespace() -> Result<OwnedFd, Failure> {
    rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Failure::step("open the mount namespace"))
}

fn enter(namespace: &OwnedFd) -> Result<(), Failure> {
    rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
        .map_err(Failure::step("enter a mount namespace"))
}

fn make_clean(home: &OwnedFd) -> Result<OwnedFd, Failure> {
    sys::unshare(UnshareFlags::NEWNS).map_err(Failure::step("copy the mount namespace"))?;
    let clean = unmount(HOST, UnmountFlags::DETACH)
        .map_err(Failure::step("leave the host's root"))
        .and_then(|()| seal(Path::new("/")))
        .and_then(|()| this_namespace());
    enter(home)?;
    clean
}

fn scratch_options(size: Option<u64>) -> Result<CString, Failure> {
    let size = size.map(|size| format!(",size={size}")).unwrap_or_default();
    CString::new(format!("mode=1777{size}")).map_err(|_| Failure::step("size /tmp")(Errno::INVAL))
}

fn make_copy(scratch: &CStr) -> Result<Copy, Failure> {
    sys::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWIPC)
        .map_err(Failure::step("copy the mount namespace"))?;
    mount_tmpfs(Path::new("/tmp"), scratch)?;
    mount_tmpfs(Path::new("/dev/shm"), scratch)?;
    this_namespace().map(Copy)
}

/// Makes an empty root and moves this process into it; the old root stands at [`HOST`].
fn enter_new_root() -> Result<(), Failure> {
    // The place it is mounted on is free again after pivot_root.
    let place = Path::new("/tmp");
    mount_tmpfs(place, c"mode=0755,size=64m")?;
    make_directory("/tmp/tmp", 0o1777)?;
    rustix::process::pivot_root(place, "/tmp/tmp").map_err(Failure::step("change the root"))?;
    rustix::process::chdir("/").map_err(Failure::step("enter the new root"))
}

/// Mounts `/proc`. Processes that an action could not trace, that is the spawner, are invisible.
fn mount_proc() -> Result<ProcessLimit, Failure> {
    make_directory("/proc", 0o555)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, c"hidepid=4").map_err(Failure::step("mount /proc"))?;
    let processes = ProcessLimit::open();
    for name in SETTINGS {
        let path = Path::new("/proc").join(name);
        if path.exists() {
            bind(CWD, &path, &path, attribute::READ_ONLY)?;
        }
    }
    Ok(processes)
}

fn show_directories(host: BorrowedFd<'_>, more: &[PathBuf]) -> Result<(), Failure> {
    let root = std::fs::read_dir(Path::new(OsStr::from_bytes(HOST.to_bytes())))
        .map_err(|_| Failure::step("read the host's root")(Errno::IO))?;
    let libraries = root
        .filter_map(|entry| Some(PathBuf::from(entry.ok()?.file_name())))
        .filter(|name| name.as_os_str().as_bytes().starts_with(b"lib"));
    let more = more.iter().map(|path| path.strip_prefix("/").unwrap_or(path).to_owned());
    for path in SHOWN.iter().map(PathBuf::from).chain(libraries).chain(more) {
        show_directory(host, &path)?;
    }
    Ok(())
}

fn show_directory(host: BorrowedFd<'_>, path: &Path) -> Result<(), Failure> {
    let Ok(status) = statat(host, path, AtFlags::SYMLINK_NOFOLLOW) else { return Ok(()) };
    let target = Path::new("/").join(path);
    match FileType::from_raw_mode(status.st_mode) {
        FileType::Symlink => {
            let link =
                rustix::fs::readlinkat(host, path, Vec::new()).map_err(Failure::at("read", &target))?;
            make_parent(&target)?;
            rustix::fs::symlink(link, &target).map_err(Failure::at("link", &target))
        }
        FileType::Directory => {
            make_directories(&target)?;
            bind_read_only(host, path, &target)
        }
        _ => Ok(()),
    }
}

fn make_devices(host: BorrowedFd<'_>) -> Result<(), Failure> {
    make_directory("/dev", 0o755)?;
    mount_tmpfs(Path::new("/dev"), c"mode=0755,size=64k")?;
    for name in DEVICES {
        let (path, target) = (Path::new("dev").join(name), Path::new("/dev").join(name));
        if statat(host, &path, AtFlags::empty()).is_err() {
            continue;
        }
        rustix::fs::open(
            &target,
            OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o666),
        )
        .map_err(Failure::at("make", &target))?;
        let device = open_in(host, &path, OFlags::PATH).map_err(Failure::at("open", &target))?;
        bind(&device, Path::new(""), &target, attribute::READ_ONLY)?;
    }
    for (name, destination) in DEVICE_LINKS {
        let target = Path::new("/dev").join(name);
        rustix::fs::symlink(*destination, &target).map_err(Failure::at("link", &target))?;
    }
    make_directory("/dev/shm", 0o1777)?;
    make_directory("/dev/pts", 0o755)?;
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devpts", "/dev/pts", "devpts", flags, c"newinstance,ptmxmode=0666,mode=0620")
        .map_err(Failure::step("mount /dev/pts"))?;
    seal(Path::new("/dev"))
}

fn make_rest() -> Result<(), Failure> {
    for path in ["/run", "/var", "/var/lib"] {
        if !Path::new(path).exists() {
            make_directory(path, 0o755)?;
        }
    }
    rustix::fs::symlink("/tmp", "/var/tmp").map_err(Failure::step("link /var/tmp"))?;
    rustix::fs::symlink("/run", "/var/run").map_err(Failure::step("link /var/run"))
}

fn make_skeleton(path: &Path) -> Result<(), Failure> {
    mount_tmpfs(path, c"mode=0755,size=64k")?;
    for name in ["proc", "dev", "tmp"] {
        make_directory(path.join(name), 0o755)?;
    }
    Ok(())
}

// === parts that others build with ===

/// Opens `path` below the directory `root` as if that were `/`: links cannot lead out.
pub(super) fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
}

/// Binds `path` of the host, with all that is mounted below, to `target`; nothing there can be changed.
pub(super) fn bind_read_only(host: BorrowedFd<'_>, path: &Path, target: &Path) -> Result<(), Failure> {
    let source = open_in(host, path, OFlags::PATH).map_err(Failure::at("open the host's", target))?;
    let attributes = attribute::READ_ONLY | attribute::NO_SUID | attribute::NO_DEVICES;
    bind(&source, Path::new(""), target, attributes)
}

/// Binds `path` (of `directory`, or that itself if empty) to `target` with these attributes.
pub(super) fn bind(directory: impl AsFd, path: &Path, target: &Path, attributes: u64) -> Result<(), Failure> {
    let tree = open_tree(directory, path, sys::clone_tree_flags()).map_err(Failure::at("bind", target))?;
    sys::set_mount_attributes(&tree, attributes, true).map_err(Failure::at("protect", target))?;
    attach(&tree, target)
}

/// Puts the detached mount `tree` at `target`.
pub(super) fn attach(tree: impl AsFd, target: &Path) -> Result<(), Failure> {
    move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(Failure::at("mount", target))
}

/// Makes the mount at `target` read-only, not those below it.
pub(super) fn seal(target: &Path) -> Result<(), Failure> {
    let failed = Failure::at("protect", target);
    let mount = rustix::fs::open(target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(&failed)?;
    sys::set_mount_attributes(&mount, attribute::READ_ONLY, false).map_err(failed)
}

/// Mounts an empty file system in memory.
pub(super) fn mount_tmpfs(target: &Path, options: &CStr) -> Result<(), Failure> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", target, "tmpfs", flags, options)
        .map_err(Failure::at("mount an empty directory at", target))
}

/// Makes one directory with exactly this mode.
pub(super) fn make_directory(path: impl AsRef<Path>, mode: u32) -> Result<(), Failure> {
    let path = path.as_ref();
    rustix::fs::mkdir(path, Mode::from_raw_mode(mode)).map_err(Failure::at("make", path))
}

/// Makes a directory and those above it, as far as they are missing.
pub(super) fn make_directories(path: &Path) -> Result<(), Failure> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(Errno::NOENT) => {
            make_parent(path)?;
            make_directory(path, 0o755)
        }
        Err(errno) => Err(Failure::at("make", path)(errno)),
    }
}

fn make_parent(path: &Path) -> Result<(), Failure> {
    path.parent().map_or(Ok(()), make_directories)
}
