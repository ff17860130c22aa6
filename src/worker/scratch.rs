//! Scratch directories: walking, filling and removing trees of any depth.
//!
//! Everything here works relative to open directories, so no path is ever too long, a
//! symlink is never followed, and a tree of 10,000 levels needs one descriptor and no stack. The
//! trees are private to this process while it works on them: that is what makes going up by `..` safe.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, IFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

mod sweeper;

pub(super) use sweeper::Sweeper;

/// How directories are opened: never through a symlink.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A place in a tree of directories, held by one descriptor.
#[derive(Debug)]
pub(super) struct Cursor {
    fd: OwnedFd,
}

/// One entry of a directory.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its name.
    pub(super) name: CString,
    /// Its kind, as far as the directory tells.
    pub(super) kind: FileType,
}

// === impl Cursor ===

impl Cursor {
    /// Stands at the directory `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { fd: rustix::fs::open(path, DIRECTORY, Mode::empty())? })
    }

    /// Stands at the directory that `fd` has open for reading.
    pub(super) fn at(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// Goes down into the subdirectory `name`. One that its owner may not read is made readable
    /// first: the trees of actions are ours.
    pub(super) fn enter(&mut self, name: &CStr) -> io::Result<()> {
        self.fd = match rustix::fs::openat(&self.fd, name, DIRECTORY, Mode::empty()) {
            Err(Errno::ACCESS) => {
                chmod(self.fd.as_fd(), name, 0o700)?;
                rustix::fs::openat(&self.fd, name, DIRECTORY, Mode::empty())?
            }
            other => other?,
        };
        Ok(())
    }

    /// Goes up to the parent.
    pub(super) fn leave(&mut self) -> io::Result<()> {
        self.fd = rustix::fs::openat(&self.fd, c"..", DIRECTORY, Mode::empty())?;
        Ok(())
    }

    /// The descriptor of the place.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// All entries but `.` and `..`, in the order of the file system.
    pub(super) fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.fd)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                known => known,
            };
            entries.push(Entry { name: name.to_owned(), kind });
        }
        Ok(entries)
    }
}

// === free functions ===

/// Tells the file system that what is made in `directory` has nothing to do with each other (the flag
/// `T` of `chattr`). Some then spread it over the disk, and making inodes does not get slower where
/// many were removed a short while ago. Others do not know the flag, which is no harm.
pub(super) fn spread(directory: &Path) {
    let Ok(cursor) = Cursor::open(directory) else { return };
    if let Ok(flags) = rustix::fs::ioctl_getflags(cursor.fd()) {
        let _ = rustix::fs::ioctl_setflags(cursor.fd(), flags | IFlags::TOPDIR);
    }
}

/// Sets the permission bits of the entry `name`, which must not be a symlink.
pub(super) fn chmod(dir: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmodat(dir, name, Mode::from_raw_mode(mode), AtFlags::empty())?)
}

/// Sets the modification time of the entry `name` itself.
pub(super) fn set_mtime(dir: BorrowedFd<'_>, name: &CStr, mtime: Timespec) -> io::Result<()> {
    let times = Timestamps { last_access: mtime, last_modification: mtime };
    Ok(rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// A file name for the system; fails for names with NUL.
pub(super) fn c_name(name: impl AsRef<OsStr>) -> io::Result<CString> {
    CString::new(name.as_ref().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Removes `path` and all below it, whatever its modes and depth, for as long as it may `proceed`, which
/// is asked before each directory. What is not there is fine.
pub(super) fn remove_tree(path: &Path, proceed: impl Fn() -> bool) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    match Cursor::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => remove_entry(other?, c_name(name)?, proceed),
    }
}

/// Removes the entry `name` of the place of `cursor`, in the same way.
pub(super) fn remove_entry(mut cursor: Cursor, name: CString, proceed: impl Fn() -> bool) -> io::Result<()> {
    match rustix::fs::unlinkat(cursor.fd(), name.as_c_str(), AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(error.into()),
    }
    // Each level holds the subdirectories still to be removed; the last of them is the one we are in.
    let mut pending = vec![vec![name]];
    while let Some(level) = pending.last_mut() {
        if !proceed() {
            return Ok(());
        }
        if let Some(name) = level.last() {
            cursor.enter(name)?;
            pending.push(empty_of_files(&cursor)?);
            continue;
        }
        pending.pop();
        if let Some(name) = pending.last_mut().and_then(Vec::pop) {
            cursor.leave()?;
            rustix::fs::unlinkat(cursor.fd(), name.as_c_str(), AtFlags::REMOVEDIR)?;
        }
    }
    Ok(())
}

/// Removes all entries that are no directories and returns the names of those that are.
fn empty_of_files(cursor: &Cursor) -> io::Result<Vec<CString>> {
    let entries = cursor.entries()?;
    let unlink = |name: &CStr| rustix::fs::unlinkat(cursor.fd(), name, AtFlags::empty());
    let mut directories = Vec::new();
    let mut writable = false;
    for entry in entries {
        if entry.kind == FileType::Directory {
            directories.push(entry.name);
            continue;
        }
        match unlink(&entry.name) {
            Err(Errno::ACCESS) if !writable => {
                rustix::fs::fchmod(cursor.fd(), Mode::from_raw_mode(0o700))?;
                writable = true;
                unlink(&entry.name)?;
            }
            other => other?,
        }
    }
    if !directories.is_empty() && !writable {
        rustix::fs::fchmod(cursor.fd(), Mode::from_raw_mode(0o700))?;
    }
    Ok(directories)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn removes_what_ordinary_means_cannot() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("tree");
        fs::create_dir(&root).unwrap();
        let mut cursor = Cursor::open(&root).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(cursor.fd(), c"d", Mode::RWXU).unwrap();
            cursor.enter(c"d").unwrap();
        }
        let closed = root.join("closed");
        fs::create_dir_all(closed.join("inner")).unwrap();
        fs::write(closed.join("inner/f"), "x").unwrap();
        fs::set_permissions(closed.join("inner"), fs::Permissions::from_mode(0o500)).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "x").unwrap();
        symlink(&outside, root.join("link")).unwrap();
        remove_tree(&root, || true).unwrap();
        assert!(!root.exists());
        assert!(outside.join("kept").exists());
        remove_tree(&root, || true).unwrap();
        remove_tree(&outside.join("kept"), || true).unwrap();
        assert!(!outside.join("kept").exists());
    }

    #[test]
    fn does_not_enter_symlinks() {
        let dir = tempfile::tempdir().unwrap();
        symlink("/", dir.path().join("link")).unwrap();
        assert!(Cursor::open(dir.path()).unwrap().enter(c"link").is_err());
    }
}
