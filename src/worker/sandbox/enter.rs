//! What is a sandboxed action's own, over what it shares by the template: its overlay, its network,
//! its ids.
//!
//! The spawner makes the overlay, and what else comes from the host, where it can see that; the child puts it
//! in its place. The child has all capabilities in the spawner's user namespace, over nothing else. At the end
//! it makes a last user namespace, which maps the ids the action is to have: mounts and network belong to the
//! outer one, so that the action can change neither, even if it found a way to capabilities. Then it drops
//! those it has.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
};
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use super::network::Loopback;
use super::sys::{self, attribute};
use super::template::{HOST, SKELETON, attach, make_directories, open_in};
use super::wire::{Failure, Order};
use crate::worker::{InputRoot, Overlay};

/// Directories that an overlay makes in its work directory, without any permission.
const WORK_DIRECTORIES: [&str; 3] = ["work", "work/incompat", "work/incompat/volatile"];

/// Where the command starts, as it sees it.
pub(super) fn working_directory(order: &Order) -> PathBuf {
    let root = match &order.root {
        InputRoot::Mounted { at, .. } | InputRoot::Parted { at, .. } => at.as_path(),
        InputRoot::Filesystem { .. } => Path::new("/"),
        InputRoot::Plain { directory } => directory.as_path(),
    };
    // Joining an empty path would add a slash.
    if order.working_directory.as_os_str().is_empty() {
        root.to_owned()
    } else {
        root.join(&order.working_directory)
    }
}

/// What an action's file system is made of: mounts that are not mounted anywhere yet.
pub(super) struct Mounts {
    pub(super) overlay: OwnedFd,
    /// A socket of the host.
    door: Option<OwnedFd>,
}

/// In the spawner, at home: makes the mounts of the file system of the action.
pub(super) fn make_mounts(order: &Order) -> Result<Mounts, Failure> {
    let overlay = make_root(&order.root)?;
    let door = order.door.as_ref().map(|(socket, _)| copy_socket(socket)).transpose()?;
    Ok(Mounts { overlay, door })
}

/// A mount of nothing but that socket. It leads to who listens there, wherever it is mounted.
fn copy_socket(socket: &Path) -> Result<OwnedFd, Failure> {
    open_in(open_host()?.as_fd(), socket, OFlags::PATH | OFlags::NOFOLLOW)
        .and_then(|socket| open_tree(&socket, "", sys::clone_tree_flags()))
        .map_err(Failure::at("open the socket", socket))
}

/// In the spawner, at home: makes the overlay of the action, not yet mounted anywhere.
pub(super) fn make_root(root: &InputRoot) -> Result<OwnedFd, Failure> {
    let host = open_host()?;
    match root {
        InputRoot::Mounted { at, .. } | InputRoot::Parted { at, .. }
            if !at.is_absolute() || at.parent().is_none() =>
        {
            Err(Failure::at("mount the input root at", at)(Errno::INVAL))
        }
        InputRoot::Mounted { overlay, .. } | InputRoot::Parted { overlay, .. } => {
            mount_overlay(host.as_fd(), overlay, false)
        }
        InputRoot::Filesystem { overlay } => {
            let bare = lacks_mount_points(host.as_fd(), overlay);
            mount_overlay(host.as_fd(), overlay, bare)
        }
        InputRoot::Plain { .. } => Err(Failure::step("mount the input root")(Errno::INVAL)),
    }
}

/// In the spawner, at home: makes an overlay, not yet mounted anywhere.
pub(super) fn make_overlay_of(overlay: &Overlay) -> Result<OwnedFd, Failure> {
    mount_overlay(open_host()?.as_fd(), overlay, false)
}

/// In the child: puts the mounts in their places and enters the network.
pub(super) fn enter(order: &Order, mounts: &Mounts, network: Option<&Loopback>) -> Result<(), Failure> {
    if let Some(network) = network {
        network.enter().map_err(Failure::step("enter the network"))?;
    }
    let door = mounts.door.as_ref().zip(order.door.as_ref().map(|(_, at)| at.as_path()));
    let mount = mounts.overlay.as_fd();
    match &order.root {
        InputRoot::Mounted { at, overlay } => {
            enter_mounted(at, mount, overlay)?;
            door.map_or(Ok(()), |(socket, at)| open_door(mount, socket.as_fd(), at))
        }
        InputRoot::Filesystem { overlay } => enter_filesystem(mount, overlay, door),
        // The spawner has done so.
        InputRoot::Parted { .. } => Ok(()),
        InputRoot::Plain { .. } => Err(Failure::step("mount the input root")(Errno::INVAL)),
    }
}

/// In the child: becomes user and group `ids`, in a user namespace that knows no other, without
/// capabilities.
pub(super) fn become_user(ids: (u32, u32)) -> Result<(), Failure> {
    map_ids(ids).map_err(Failure::step("take the ids"))?;
    sys::empty_bounding_set().map_err(Failure::step("drop capabilities"))?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, sets).map_err(Failure::step("drop capabilities"))
}

/// Makes a user namespace that maps `ids` to the ids of this process.
pub(super) fn map_ids((user, group): (u32, u32)) -> Result<(), Errno> {
    let (outer_user, outer_group) = (rustix::process::geteuid(), rustix::process::getegid());
    sys::unshare(UnshareFlags::NEWUSER)?;
    write_file(c"/proc/self/setgroups", "deny")?;
    write_file(c"/proc/self/uid_map", &format!("{user} {} 1", outer_user.as_raw()))?;
    write_file(c"/proc/self/gid_map", &format!("{group} {} 1", outer_group.as_raw()))
}

fn write_file(path: &CStr, content: &str) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, content.as_bytes()).map(drop)
}

fn enter_mounted(at: &Path, mount: BorrowedFd<'_>, overlay: &Overlay) -> Result<(), Failure> {
    if at.starts_with("/tmp") {
        make_directories(at)?;
    }
    attach(mount, at)?;
    protect(mount, overlay)
}

fn enter_filesystem(
    mount: BorrowedFd<'_>,
    overlay: &Overlay,
    door: Option<(&OwnedFd, &Path)>,
) -> Result<(), Failure> {
    // Any directory will do; this one has nothing in it that is still needed.
    let place = Path::new("/run");
    attach(mount, place)?;
    protect(mount, overlay)?;
    for name in ["proc", "dev", "tmp"] {
        move_into(mount, &Path::new("/").join(name), Path::new(name))?;
    }
    if let Some((socket, at)) = door {
        open_door(mount, socket.as_fd(), at)?;
    }
    // The old root then lies over the new one, and is what "." unmounts.
    rustix::process::chdir(place)
        .and_then(|()| rustix::process::pivot_root(".", "."))
        .and_then(|()| unmount(".", UnmountFlags::DETACH))
        .and_then(|()| rustix::process::chdir("/"))
        .map_err(Failure::step("change the root"))
}

fn open_host() -> Result<OwnedFd, Failure> {
    rustix::fs::open(HOST, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(Failure::step("open the host's root"))
}

/// Whether a complete file system has no place for `/proc`, `/dev` or `/tmp`.
fn lacks_mount_points(host: BorrowedFd<'_>, overlay: &Overlay) -> bool {
    let layers = || overlay.lower.iter().chain([&overlay.upper]);
    let has = |name: &str| {
        layers().any(|layer| open_in(host, &layer.join(name), OFlags::PATH | OFlags::NOFOLLOW).is_ok())
    };
    !["proc", "dev", "tmp"].into_iter().all(has)
}

/// Makes the overlay, not yet mounted anywhere. A `bare` one gets the mount points of a complete file
/// system in a layer below all others, so that none of them shows up among the outputs.
///
/// Layers are named by descriptor: no path of the host is seen in the action's mount
/// table, none needs escaping, and the list stays short enough for the kernel (255 bytes).
fn mount_overlay(host: BorrowedFd<'_>, overlay: &Overlay, bare: bool) -> Result<OwnedFd, Failure> {
    let open = |path: &Path| {
        open_in(host, path, OFlags::PATH | OFlags::DIRECTORY).map_err(Failure::at("open the layer", path))
    };
    let skeleton = bare.then(|| PathBuf::from(SKELETON));
    let lower =
        overlay.lower.iter().chain(&skeleton).map(|path| open(path)).collect::<Result<Vec<_>, _>>()?;
    let (upper, work) = (open(&overlay.upper)?, open(&overlay.work)?);
    rustix::process::chdir("/proc/self/fd").map_err(Failure::step("name the layers"))?;
    let mount = make_overlay(&lower, &upper, &work).map_err(Failure::step("mount the overlay"))?;
    rustix::process::chdir("/").map_err(Failure::step("name the layers"))?;
    // So that whoever cleans up needs no privilege for it.
    for directory in WORK_DIRECTORIES {
        match rustix::fs::chmodat(&work, directory, Mode::RWXU, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(Failure::step("open the work directory")(errno)),
        }
    }
    Ok(mount)
}

fn make_overlay(lower: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd) -> Result<OwnedFd, Errno> {
    let name = |fd: &OwnedFd| fd.as_raw_fd().to_string();
    let lower = lower.iter().map(name).collect::<Vec<_>>().join(":");
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "lowerdir", &lower)?;
    fsconfig_set_string(&context, "upperdir", name(upper))?;
    fsconfig_set_string(&context, "workdir", name(work))?;
    fsconfig_set_flag(&context, "userxattr")?;
    fsconfig_set_flag(&context, "volatile")?;
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Makes the read-only parts of the input root read-only, and those in them writable that are to be. From
/// above, so that each is looked up through what lies over it.
fn protect(root: BorrowedFd<'_>, overlay: &Overlay) -> Result<(), Failure> {
    let read_only = overlay.read_only.iter().map(|path| (path, true));
    let mut marks: Vec<_> = read_only.chain(overlay.writable.iter().map(|path| (path, false))).collect();
    marks.sort_unstable();
    for (path, is_read_only) in marks {
        let failed = Failure::at("protect", path);
        if path.as_os_str().is_empty() {
            sys::set_mount_attributes(root, attribute::READ_ONLY, false).map_err(failed)?;
            continue;
        }
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let place = rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
            .map_err(&failed)?;
        open_tree(&place, "", sys::clone_tree_flags())
            .and_then(|tree| {
                if is_read_only {
                    sys::set_mount_attributes(&tree, attribute::READ_ONLY, true)?;
                } else {
                    sys::clear_mount_attributes(&tree, attribute::READ_ONLY)?;
                }
                move_to(tree.as_fd(), place.as_fd())
            })
            .map_err(failed)?;
    }
    Ok(())
}

/// Mounts a socket at `at` in the input root, wherever links lead there. The worker has made a place for
/// it; below the action's own `/tmp`, which nobody has seen yet, it is made here.
fn open_door(root: BorrowedFd<'_>, socket: BorrowedFd<'_>, at: &Path) -> Result<(), Failure> {
    let failed = || Failure::at("mount the socket", at);
    let place = match open_in(root, at, OFlags::PATH) {
        Err(Errno::NOENT) => make_place(root, at).map_err(failed())?,
        other => other.map_err(failed())?,
    };
    move_to(socket, place.as_fd()).map_err(failed())
}

/// Makes an empty file, and the directories above it.
fn make_place(root: BorrowedFd<'_>, at: &Path) -> Result<OwnedFd, Errno> {
    let mut directory = open_in(root, Path::new(""), OFlags::PATH | OFlags::DIRECTORY)?;
    let above = at.parent().unwrap_or(Path::new(""));
    let mut path = PathBuf::new();
    for name in above {
        path.push(name);
        directory = match open_in(root, &path, OFlags::PATH | OFlags::DIRECTORY) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755))?;
                open_in(root, &path, OFlags::PATH | OFlags::DIRECTORY)?
            }
            other => other?,
        };
    }
    let name = at.file_name().ok_or(Errno::INVAL)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    drop(rustix::fs::openat(&directory, name, flags, Mode::RUSR | Mode::WUSR)?);
    open_in(root, at, OFlags::PATH)
}

/// Moves the mount at `source` to `name` in the new root, wherever a link of that name leads in there.
fn move_into(root: BorrowedFd<'_>, source: &Path, name: &Path) -> Result<(), Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    rustix::fs::open(source, flags | OFlags::CLOEXEC, Mode::empty())
        .and_then(|mount| move_to(mount.as_fd(), open_in(root, name, flags)?.as_fd()))
        .map_err(Failure::at("mount in the new root", name))
}

/// Moves a detached mount, or one of this namespace, to where `place` is.
pub(super) fn move_to(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", place, "", flags)
}
