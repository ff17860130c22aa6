//! A disk that can be harmed: an ext4 file system in a file, mounted by a loop device.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

/// The file system is told to stop at once, without writing its journal: what a power cut does.
const SHUTDOWN: &str = "import fcntl, os, struct, sys
EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), EXT4_IOC_SHUTDOWN, struct.pack('I', NO_LOG_FLUSH))";

/// The disk. Dropping it unmounts and removes it.
pub(crate) struct Disk {
    directory: TempDir,
}

impl Disk {
    /// A disk of `mib` MiB, or `None` and a loud word where none can be had.
    pub(crate) fn new(scenario: &str, mib: u64) -> Option<Self> {
        let directory = TempDir::with_prefix("farmhand-disk-").unwrap();
        let disk = Self { directory };
        std::fs::create_dir(disk.path()).unwrap();
        let image = std::fs::File::create(disk.image()).unwrap();
        image.set_len(mib << 20).unwrap();
        let made =
            run("mkfs.ext4", &["-q", "-F", "-m", "0"], &[&disk.image()]).and_then(|()| disk.try_mount());
        if let Err(why) = made {
            println!("SKIPPED {scenario}: it needs root, mkfs.ext4 and loop devices ({why})");
            return None;
        }
        Some(disk)
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("mounted")
    }

    fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    /// Cuts the power: nothing more is written, and what was not synced is lost.
    pub(crate) fn cut_power(&self) {
        run("python3", &["-c", SHUTDOWN], &[&self.path()]).unwrap();
    }

    /// Unmounts it and mounts it again. Nothing may use it.
    pub(crate) fn remount(&self) {
        run("umount", &[], &[&self.path()]).unwrap();
        // Processes that are dying hold it for a moment longer, in namespaces of their own.
        while !self.is_detached() {
            std::thread::sleep(Duration::from_millis(20));
        }
        self.try_mount().unwrap();
    }

    fn is_detached(&self) -> bool {
        let output = Command::new("losetup").arg("--associated").arg(self.image()).output().unwrap();
        output.stdout.is_empty()
    }

    /// Fills it with a file of somebody else's, but for about `left` bytes.
    pub(crate) fn fill(&self, left: u64) -> Filler {
        let path = self.path().join("foreign");
        let file = std::fs::File::create(&path).unwrap();
        let room = rustix::fs::fstatvfs(&file).unwrap();
        let len = (room.f_bavail * room.f_frsize).saturating_sub(left);
        // What there is, if not all that was asked for.
        let _ = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len.max(1));
        Filler(path)
    }

    /// Holds all writing up; reading what is in memory goes on.
    pub(crate) fn freeze(&self) -> Frozen<'_> {
        run("fsfreeze", &["--freeze"], &[&self.path()]).unwrap();
        Frozen(self)
    }

    fn try_mount(&self) -> Result<(), String> {
        run("mount", &["-o", "loop"], &[&self.image(), &self.path()])
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a process may be dying on it still.
        let _ = run("umount", &["--lazy"], &[&self.path()]);
    }
}

/// A file that takes all room until this is dropped.
pub(crate) struct Filler(PathBuf);

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A disk that takes no writes until this is dropped.
pub(crate) struct Frozen<'a>(&'a Disk);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        run("fsfreeze", &["--unfreeze"], &[&self.0.path()]).unwrap();
    }
}

fn run(program: &str, words: &[&str], paths: &[&Path]) -> Result<(), String> {
    let output = Command::new(program).args(words).args(paths).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
