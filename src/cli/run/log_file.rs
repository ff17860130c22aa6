//! The log of a node whose terminal is taken by the dashboard: a file in its data directory.
//!
//! While a [`LogFile`] lives, stderr of the whole process goes there: log lines, and whatever a library or a
//! panic has to say. Nothing of that may reach the screen.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The directory, below the data directory.
const DIRECTORY: &str = "log";

/// Bytes after which a new file is begun. One old one is kept.
const MOST_BYTES: u64 = 8 << 20;

/// Stderr, led into a file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    /// What stderr was.
    terminal: OwnedFd,
}

// === impl LogFile ===

impl LogFile {
    /// Leads stderr into the log below `data_dir`.
    ///
    /// # Errors
    ///
    /// When the file cannot be made.
    pub(super) fn lead_stderr(data_dir: &Path) -> io::Result<Self> {
        let path = path_below(data_dir)?;
        let file = open(&path)?;
        let terminal = rustix::io::dup(rustix::stdio::stderr())?;
        rustix::stdio::dup2_stderr(&file)?;
        Ok(Self { path, terminal })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Begins a new file if this one is large. What cannot be done now is tried again the next time.
    pub(super) fn keep_small(&self) {
        let size = fs::metadata(&self.path).map_or(0, |metadata| metadata.len());
        if size > MOST_BYTES
            && let Ok(file) = set_aside(&self.path).and_then(|()| open(&self.path))
        {
            let _ = rustix::stdio::dup2_stderr(&file);
        }
    }
}

/// Gives stderr back.
impl Drop for LogFile {
    fn drop(&mut self) {
        let _ = rustix::stdio::dup2_stderr(&self.terminal);
    }
}

/// The path of the log. Its directory is for this user only: command lines may hold secrets.
fn path_below(data_dir: &Path) -> io::Result<PathBuf> {
    let directory = data_dir.join(DIRECTORY);
    fs::create_dir_all(data_dir)?;
    match fs::DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    Ok(directory.join("farmhand.log"))
}

fn open(path: &Path) -> io::Result<File> {
    File::options().append(true).create(true).mode(0o600).open(path)
}

fn set_aside(path: &Path) -> io::Result<()> {
    fs::rename(path, path.with_extension("log.1"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_log_is_for_its_user_only_and_goes_on_after_a_restart() {
        let data = tempfile::tempdir().unwrap();
        let path = path_below(&data.path().join("data")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for line in ["first\n", "second\n"] {
            io::Write::write_all(&mut open(&path).unwrap(), line.as_bytes()).unwrap();
            assert_eq!(path_below(&data.path().join("data")).unwrap(), path);
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "first\nsecond\n");
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        set_aside(&path).unwrap();
        assert!(!path.exists() && path.with_file_name("farmhand.log.1").exists());
    }
}
