//! A temporary directory that is removed in the end.

use std::fs;
use std::path::{Path, PathBuf};

use super::error::{CliError, Explain};

/// Characters of the part of its name that is random. Short, because a socket in there has a path of 107
/// bytes at most.
const RANDOM: usize = 12;

/// The directory. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// One where temporary files go, named after the command it is for.
    pub(super) fn new(command: &str) -> Result<Self, CliError> {
        Self::below(&std::env::temp_dir(), command)
    }

    /// One in memory, where the machine has a place for that.
    pub(super) fn in_memory(command: &str) -> Result<Self, CliError> {
        Self::below(Path::new("/dev/shm"), command).or_else(|_| Self::new(command))
    }

    fn below(directory: &Path, command: &str) -> Result<Self, CliError> {
        let random = uuid::Uuid::new_v4().simple().to_string();
        let path = directory.join(format!("farmhand-{command}-{}", &random[..RANDOM]));
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
        for scratch in [Scratch::new("test").unwrap(), Scratch::in_memory("test").unwrap()] {
            let path = scratch.path().to_owned();
            fs::write(path.join("file"), "x").unwrap();
            drop(scratch);
            assert!(!path.exists());
        }
    }
}
