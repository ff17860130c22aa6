//! [`Memory`]: a file system in memory for what actions write.
//!
//! An overlay makes seven inodes each time it is mounted, and a run needs some more. On a disk that
//! can cost more than the command itself, so each spawner has a file system in memory, in its own
//! mount namespace: it is gone with the spawner, and the daemon reaches it through a descriptor.
//!
//! It is for actions that write little, as most do, and has no limit that an action could run
//! into. Instead the spawner watches how much is in it, and kills an action that writes too
//! much: the daemon runs it again with its layers on the disk.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags, XattrFlags};

use super::template::{make_directory, mount_tmpfs};

/// Where a spawner mounts it, below the host's root, whose own directory of that name is covered: no
/// layer is ever in there.
const PLACE: &str = "sys";

/// Where a spawner has the directory for layers in it.
pub(super) const MEMORY: &str = "/sys/runs";

/// The directory for layers.
const RUNS: &str = "runs";

/// What an action may write into it while running it again costs little.
const EARLY: Allowance = Allowance { bytes: 32 << 20, inodes: 16_384, look_again: Duration::from_millis(10) };

/// What it may write after [`SHORT`]: running it again would cost more than the memory.
const LATE: Allowance = Allowance { bytes: 256 << 20, inodes: 65_536, look_again: Duration::from_millis(50) };

/// An action that ran longer than this is killed for what it wrote only if it is very much.
const SHORT: Duration = Duration::from_secs(3);

/// A file system in memory, for as long as this or its spawner lives.
#[derive(Debug)]
pub struct Memory {
    root: OwnedFd,
}

/// What is in a [`Memory`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Bytes of files.
    pub bytes: u64,
    /// Files, directories and all else.
    pub inodes: u64,
}

/// Watches what one action adds.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    memory: &'a Memory,
    before: Used,
}

struct Allowance {
    bytes: u64,
    inodes: u64,
    look_again: Duration,
}

// === impl Memory ===

impl Memory {
    /// Mounts an empty one where the host's root is `host`. `None` if that cannot be, or this kernel has none that takes
    /// the attributes of overlays (before 6.6).
    pub(super) fn mount(host: &Path) -> Option<Self> {
        let place = &host.join(PLACE);
        mount_tmpfs(place, c"mode=0700,size=1t,nr_inodes=1g").ok()?;
        make_directory(place.join(RUNS), 0o700).ok()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(place, flags, Mode::empty()).ok()?;
        rustix::fs::fsetxattr(&root, "user.overlay.probe", b"y", XattrFlags::empty()).ok()?;
        Some(Self { root })
    }

    /// The one that `root` is open in.
    pub(super) fn from_root(root: OwnedFd) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// A path to its directory for layers, for this process, as long as this lives.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}/{RUNS}", self.root.as_raw_fd()).into()
    }

    /// How much is in it.
    pub fn used(&self) -> Used {
        // It fails for remote file systems only.
        let Ok(stat) = rustix::fs::fstatfs(&self.root) else { return Used::default() };
        let block = u64::try_from(stat.f_bsize).unwrap_or(1);
        let bytes = stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(block);
        Used { bytes, inodes: stat.f_files.saturating_sub(stat.f_ffree) }
    }

    /// Begins to watch an action.
    pub(super) fn watch(&self) -> Watch<'_> {
        Watch { memory: self, before: self.used() }
    }
}

// === impl Watch ===

impl Watch<'_> {
    /// Whether the action, which runs for so long now, has written more than it may.
    pub(super) fn is_over(&self, running_for: Duration) -> bool {
        let (allowed, used) = (allowed(running_for), self.memory.used());
        used.bytes > self.before.bytes + allowed.bytes || used.inodes > self.before.inodes + allowed.inodes
    }

    /// When to look again.
    pub(super) fn look_again(running_for: Duration) -> Duration {
        allowed(running_for).look_again
    }
}

fn allowed(running_for: Duration) -> Allowance {
    if running_for <= SHORT { EARLY } else { LATE }
}
