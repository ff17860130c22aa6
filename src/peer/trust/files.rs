//! Secrets on the disk: files of this user alone, whole or not there.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// Largest file that is read.
const MOST_BYTES: u64 = 4096;

/// What the names of files end with that are to replace others.
const NEW: &str = "new";

/// Why a file is not taken for a secret.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    /// Others than its owner may read or change it, with this mode.
    #[error("others may read it (mode {0:03o})")]
    Exposed(u32),
    /// It belongs to somebody else, with this user id.
    #[error("it belongs to user {0}")]
    Foreign(u32),
    /// No regular file, or too long for what it should be.
    #[error("it is no small regular file")]
    Odd,
    /// The operating system failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Makes `directory` with its parents, for this user alone.
pub(super) fn make_directory(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let mode = fs::metadata(directory)?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700))
}

/// The content of a file that nobody but its owner may read; the owner is this user, or root.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    // Not blocking, so that a pipe does not hold up the start.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    let (mode, owner) = (metadata.mode() & 0o777, metadata.uid());
    if !metadata.is_file() || metadata.len() > MOST_BYTES {
        return Err(FileError::Odd);
    }
    if owner != rustix::process::geteuid().as_raw() && owner != 0 {
        return Err(FileError::Foreign(owner));
    }
    if mode & 0o077 != 0 {
        return Err(FileError::Exposed(mode));
    }
    let mut content = Zeroizing::new(Vec::with_capacity(MOST_BYTES as usize));
    file.take(MOST_BYTES).read_to_end(&mut content)?;
    Ok(content)
}

/// Writes a file that only this user may read, in place of what is there: after a crash the old one is
/// there or the new one, whole.
pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    Staged::write(path, content)?.commit()
}

/// A file that lies beside the one it is to replace, on the disk already. Dropping it removes it.
pub(super) struct Staged {
    new: PathBuf,
    path: PathBuf,
}

// === impl Staged ===

impl Staged {
    /// Writes what is to replace `path`.
    pub(super) fn write(path: &Path, content: &[u8]) -> io::Result<Self> {
        let unique = const_hex::encode(*super::key::random::<8>());
        let new = path.with_extension(format!("{unique}.{NEW}"));
        let staged = Self { new, path: path.to_owned() };
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&staged.new)?;
        file.write_all(content)?;
        file.sync_all()?;
        Ok(staged)
    }

    /// Replaces it.
    pub(super) fn commit(self) -> io::Result<()> {
        fs::rename(&self.new, &self.path)?;
        File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Gone already where it was committed.
        let _ = fs::remove_file(&self.new);
    }
}

/// Removes what a crash left beside the files of `directory`.
pub(super) fn clean(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == NEW) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_is_written_is_private_and_replaced_whole() {
        let directory = tempfile::tempdir().unwrap();
        let farm = directory.path().join("a/farm");
        make_directory(&farm).unwrap();
        assert_eq!(fs::metadata(&farm).unwrap().mode() & 0o777, 0o700);
        let path = farm.join("secret.key");
        fs::write(farm.join("secret.0011.new"), "half, and then the power went").unwrap();
        clean(&farm).unwrap();
        for content in ["one", "two"] {
            write(&path, content.as_bytes()).unwrap();
            assert_eq!(read(&path).unwrap().as_slice(), content.as_bytes());
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        }
        drop(Staged::write(&path, b"three").unwrap());
        assert_eq!(read(&path).unwrap().as_slice(), b"two");
        assert_eq!(fs::read_dir(&farm).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_others_may_enter_is_closed() {
        let directory = tempfile::tempdir().unwrap();
        set_mode(directory.path(), 0o755);
        make_directory(directory.path()).unwrap();
        assert_eq!(fs::metadata(directory.path()).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_others_may_read_is_no_secret() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        write(&path, b"x").unwrap();
        for mode in [0o640, 0o604, 0o620, 0o601, 0o777] {
            set_mode(&path, mode);
            assert!(matches!(read(&path), Err(FileError::Exposed(found)) if found == mode), "{mode:o}");
        }
        set_mode(&path, 0o400);
        assert!(read(&path).is_ok());
    }

    #[test]
    fn only_small_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(read(directory.path()), Err(FileError::Odd)));
        assert!(matches!(read(&directory.path().join("none")), Err(FileError::Io(_))));
        let path = directory.path().join("long");
        write(&path, &[b'x'; MOST_BYTES as usize + 1]).unwrap();
        assert!(matches!(read(&path), Err(FileError::Odd)));
        let pipe = directory.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(matches!(read(&pipe), Err(FileError::Odd)));
    }
}
