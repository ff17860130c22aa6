//! [`SmallDisk`]: a file system of its own for a store, which can be full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// What the names of their directories begin with; the process of the test follows.
const PREFIX: &str = "farmhand-netns-disk-";

/// A file system of some MiB, in memory. Dropping it unmounts it.
pub(crate) struct SmallDisk(TempDir);

impl SmallDisk {
    /// A disk of so many MiB.
    pub(crate) fn mount(mib: u64) -> Self {
        sweep();
        let disk = Self(TempDir::with_prefix(format!("{PREFIX}{}-", std::process::id())).unwrap());
        let size = format!("size={mib}m");
        let options = ["-t", "tmpfs", "-o", &size, "farmhand-test"];
        let mounted = Command::new("mount").args(options).arg(disk.0.path()).status().unwrap();
        assert!(mounted.success());
        disk
    }

    /// A data directory on it.
    pub(crate) fn data(&self) -> String {
        self.0.path().join("data").to_str().unwrap().to_owned()
    }

    /// Fills it with a file of somebody else's, but for about so many bytes.
    pub(crate) fn fill(&self, left: u64) {
        let room = rustix::fs::statvfs(self.0.path()).unwrap();
        let len = (room.f_bavail * room.f_frsize).saturating_sub(left);
        let file = fs::File::create(self.filler()).unwrap();
        // What there is, if not all that was asked for.
        let _ = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len.max(1));
    }

    /// Removes that file.
    pub(crate) fn free(&self) {
        let _ = fs::remove_file(self.filler());
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("foreign")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        unmount(self.0.path());
    }
}

fn unmount(path: &Path) {
    // Lazily: a process may be dying on it still.
    let _ = Command::new("umount").arg("-l").arg(path).stderr(Stdio::null()).status();
}

/// Unmounts what a test left that was killed.
fn sweep() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    for path in mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            unmount(path);
            let _ = fs::remove_dir(path);
        }
    }
}
