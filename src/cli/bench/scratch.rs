//! A temporary directory that is removed in the end.

use std::fs;
use std::path::{Path, PathBuf};

use super::super::error::{CliError, Explain};

/// The directory. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(super) fn new() -> Result<Self, CliError> {
        Self::below(&std::env::temp_dir())
    }

    /// One in memory, where the machine has a place for that.
    pub(super) fn in_memory() -> Result<Self, CliError> {
        Self::below(Path::new("/dev/shm")).or_else(|_| Self::new())
    }

    fn below(directory: &Path) -> Result<Self, CliError> {
        let path = directory.join(format!("farmhand-bench-{}", uuid::Uuid::new_v4()));
        fs::create_dir(&path).explain(format!("cannot make {}", path.display()))?;
        Ok(Self { path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left() {
        for scratch in [Scratch::new().unwrap(), Scratch::in_memory().unwrap()] {
            let path = scratch.path().to_owned();
            fs::write(path.join("file"), "x").unwrap();
            drop(scratch);
            assert!(!path.exists());
        }
    }
}
