//! [`RunDirectory`]: the scratch space of one action, gone with it.
//!
//! Every run gets new directories and new log files: an overlay cannot use a work directory twice,
//! and who still reads the log of an ended action must not see that of the next one.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::worker::inputs::FIXED_MTIME;
use crate::worker::scratch::{Cursor, Sweeper, set_mtime};

/// Where inputs are staged, below the scratch directory.
pub(super) const INPUTS: &str = "inputs";

/// Where actions run, below the scratch directory.
pub(super) const RUNS: &str = "runs";

/// Begin of the names of what waits for its removal.
const TRASH: &str = "trash-";

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
    sweeper: Sweeper,
}

impl RunDirectories {
    /// Makes runs in the empty `directory`.
    pub(super) fn new(directory: PathBuf, sweeper: Sweeper) -> Self {
        Self { directory, made: AtomicU64::new(0), sweeper }
    }

    /// Scratch space for one run: layers for a sandboxed one, else a plain root and a `tmp`.
    pub(super) fn make(&self, sandboxed: bool) -> io::Result<RunDirectory> {
        let path = self.directory.join(self.made.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&path)?;
        let run = RunDirectory { path, sweeper: self.sweeper.clone() };
        if sandboxed {
            make_root(&run.upper())?;
            fs::create_dir(run.work())?;
        } else {
            make_root(&run.plain_root())?;
            fs::create_dir(run.plain_tmp())?;
        }
        Ok(run)
    }
}

impl RunDirectory {
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
        self.sweeper.remove(std::mem::take(&mut self.path));
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
    }
    Ok(())
}

fn is_trash(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(TRASH))
}
