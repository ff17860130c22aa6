//! [`RunDirectory`]: the scratch space of one action, gone with it.
//!
//! It is on the disk, or in the memory that the seat of the action offers (see
//! [`Memory`]): there it costs next to nothing to make and to remove.
//!
//! Every run gets new directories and new log files: an overlay cannot use a work directory twice,
//! and who still reads the log of an ended action must not see that of the next one.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::worker::inputs::FIXED_MTIME;
use crate::worker::sandbox::Memory;
use crate::worker::scratch::{Cursor, Sweeper, remove_tree, set_mtime, spread};

/// Where inputs are staged, below the scratch directory.
pub(super) const INPUTS: &str = "inputs";

/// Where actions run, below the scratch directory.
pub(super) const RUNS: &str = "runs";

/// Begin of the names of what waits for its removal.
const TRASH: &str = "trash-";

/// Bytes and inodes in memory up to which they are removed at once, on whatever thread it is.
const REMOVED_AT_ONCE: (u64, u64) = (256 << 10, 256);

/// Makes run directories.
#[derive(Debug)]
pub(super) struct RunDirectories {
    directory: PathBuf,
    made: AtomicU64,
    sweeper: Sweeper,
}

/// The directory of one run. Removed, beside the work, when dropped.
#[derive(Debug)]
pub(super) struct RunDirectory {
    path: PathBuf,
    /// Where it is, unless that is the disk.
    memory: Option<Arc<Memory>>,
    sweeper: Sweeper,
}

impl RunDirectories {
    /// Makes runs in the empty `directory`.
    pub(super) fn new(directory: PathBuf, sweeper: Sweeper) -> Self {
        Self { directory, made: AtomicU64::new(0), sweeper }
    }

    /// Layers for a sandboxed run, on the disk.
    pub(super) fn make_layers(&self) -> io::Result<RunDirectory> {
        let run = self.make(&self.directory, None)?;
        run.add_layers()?;
        Ok(run)
    }

    /// Layers for a sandboxed run, in `memory`.
    pub(super) fn make_layers_in(&self, memory: Arc<Memory>) -> io::Result<RunDirectory> {
        let run = self.make(&memory.path(), Some(memory))?;
        run.add_layers()?;
        Ok(run)
    }

    /// A plain root and a `tmp`.
    pub(super) fn make_plain(&self) -> io::Result<RunDirectory> {
        let run = self.make(&self.directory, None)?;
        make_root(&run.plain_root())?;
        fs::create_dir(run.plain_tmp())?;
        Ok(run)
    }

    fn make(&self, parent: &Path, memory: Option<Arc<Memory>>) -> io::Result<RunDirectory> {
        let path = parent.join(self.made.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&path)?;
        Ok(RunDirectory { path, memory, sweeper: self.sweeper.clone() })
    }
}

impl RunDirectory {
    fn add_layers(&self) -> io::Result<()> {
        make_root(&self.upper())?;
        fs::create_dir(self.work())
    }

    /// Whether working in it never waits for a disk.
    pub(super) fn is_in_memory(&self) -> bool {
        self.memory.is_some()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn upper(&self) -> PathBuf {
        self.path.join("upper")
    }

    pub(super) fn work(&self) -> PathBuf {
        self.path.join("work")
    }

    pub(super) fn plain_root(&self) -> PathBuf {
        self.path.join("root")
    }

    pub(super) fn plain_tmp(&self) -> PathBuf {
        self.path.join("tmp")
    }

    pub(super) fn stdout(&self) -> PathBuf {
        self.path.join("stdout")
    }

    pub(super) fn stderr(&self) -> PathBuf {
        self.path.join("stderr")
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        let path = std::mem::take(&mut self.path);
        let Some(memory) = self.memory.take() else { return self.sweeper.remove(path) };
        let used = memory.used();
        if used.bytes > REMOVED_AT_ONCE.0 || used.inodes > REMOVED_AT_ONCE.1 {
            self.sweeper.remove_within(path, memory);
        } else if let Err(error) = remove_tree(&path, || true) {
            tracing::warn!(%error, "cannot remove the scratch directory of an action");
        }
    }
}

fn make_root(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o755))?;
    set_mtime(Cursor::open(path)?.fd(), c".", FIXED_MTIME)
}

/// Makes the scratch directory and moves what an earlier process left in it out of the way. Touches
/// only what this worker makes itself, should somebody name a directory that has other things in it.
pub(super) fn clear(scratch: &Path, sweeper: &Sweeper) -> io::Result<()> {
    fs::create_dir_all(scratch)?;
    let trash = scratch.join(format!("{TRASH}{}", uuid::Uuid::new_v4()));
    fs::create_dir(&trash)?;
    for entry in fs::read_dir(scratch)? {
        let name = entry?.file_name();
        let left = [INPUTS, RUNS].iter().any(|own| name == *own) || is_trash(&name);
        if left && scratch.join(&name) != trash {
            fs::rename(scratch.join(&name), trash.join(&name))?;
        }
    }
    sweeper.remove(trash);
    for own in [INPUTS, RUNS] {
        // Inputs and outputs are no business of other users of the machine.
        fs::DirBuilder::new().mode(0o700).create(scratch.join(own))?;
        spread(&scratch.join(own));
    }
    Ok(())
}

fn is_trash(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(TRASH))
}
