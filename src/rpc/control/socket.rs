//! The private Unix socket of a door: made, replaced when its owner died, removed with it.
//!
//! Who may connect is decided by the mode of the file and of its directory alone.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tokio::net::UnixListener;

/// The file of a Unix socket. Dropping it removes the file, unless another process has put its own
/// in that place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Held open, so that its inode number is not given to another file.
    file: fs::File,
}

// === impl SocketFile ===

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        let file = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { path: path.to_owned(), file: file.into() })
    }

    fn is_in_place(&self) -> io::Result<bool> {
        let (own, found) = (self.file.metadata()?, fs::symlink_metadata(&self.path)?);
        Ok((own.dev(), own.ino()) == (found.dev(), found.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_in_place().is_ok_and(|is| is) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Binds a Unix socket of mode 0600 at `path`, in a directory that nobody else may write to. A
/// socket that a dead process left behind is replaced; one that somebody answers on is not.
///
/// # Errors
/// `AddrInUse` when a process listens there, `PermissionDenied` when others may write to the
/// directory, and what the system says.
pub fn bind_private(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    if let Some(directory) = path.parent() {
        private_directory(directory)?;
    }
    if UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on this socket"));
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    let file = SocketFile::at(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok((listener, file))
}

/// Makes `directory` with mode 0700, or checks that the one there is ours alone to write to.
fn private_directory(directory: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let metadata = fs::symlink_metadata(directory)?;
    let is_ours = metadata.uid() == rustix::process::geteuid().as_raw();
    if !metadata.is_dir() || !is_ours || metadata.mode() & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the directory must belong to this user, and others must not write to it",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_private_and_a_stale_one_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/control.sock");
        let first = bind_private(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(bind_private(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let (listener, file) = first;
        drop(listener);
        let second = bind_private(&path).unwrap();
        drop(file);
        assert!(path.exists(), "the file is that of the second");
        drop(second);
        assert!(!path.exists());

        fs::set_permissions(path.parent().unwrap(), fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!(bind_private(&path).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    }
}
