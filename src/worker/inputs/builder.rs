//! [`Builder`]: writes a [`Closure`] to disk, or the [`Patch`] that makes another tree into it.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, XattrFlags};
use rustix::io::Errno;

use super::closure::Closure;
use super::delta::{Below, Patch};
use super::file_pool::{FilePool, PoolKey};
use super::{FIXED_MTIME, InputError, node_mtime};
use crate::cas::{CasError, LocalBlobs};
use crate::digest::Digest;
use crate::merkle::{Directory, FileNode, NodeProperties, SymlinkNode};
use crate::worker::scratch::{Cursor, c_name, chmod, set_mtime};

/// Mode of a directory without `unix_mode`.
const DIRECTORY_MODE: u32 = 0o755;

/// Marks a directory that hides those below it, in overlays of ordinary users.
const OPAQUE: &CStr = c"user.overlay.opaque";

/// Permission bits that are honoured.
const PERMISSIONS: u32 = 0o777;

/// Builds one directory tree out of blobs.
pub(super) struct Builder<'a> {
    blobs: &'a dyn LocalBlobs,
    closure: &'a Closure,
    /// Where small files and symlinks are shared; without it everything is private.
    pool: Option<&'a FilePool>,
}

/// A directory that is being filled.
struct Frame {
    directory: Arc<Directory>,
    next: usize,
    read_only: bool,
}

/// Where an input root is read-only for the action, and where it is writable again.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// Directories that are read-only, with all that is below them.
    pub(super) read_only: Vec<PathBuf>,
    /// Directories below those that are writable again.
    pub(super) writable: Vec<PathBuf>,
}

impl<'a> Builder<'a> {
    /// Builds a tree whose files share their inodes with the store: only ever a lower layer.
    pub(super) fn shared(blobs: &'a dyn LocalBlobs, closure: &'a Closure, pool: &'a FilePool) -> Self {
        Self { blobs, closure, pool: Some(pool) }
    }

    /// Builds a tree of private copies.
    pub(super) fn private(blobs: &'a dyn LocalBlobs, closure: &'a Closure) -> Self {
        Self { blobs, closure, pool: None }
    }

    /// Fills the empty directory `at`. Tells what is read-only in it.
    pub(super) fn build(&self, at: &Path) -> Result<Marks, InputError> {
        let mut cursor = Cursor::open(at).map_err(|error| InputError::io(at, error))?;
        let marks = self.build_whole(&mut cursor, self.closure.root)?;
        let properties = &self.closure.directory(&self.closure.root).properties;
        finish(&cursor, c".", properties).map_err(|error| InputError::io(at, error))?;
        Ok(marks)
    }

    /// Fills the empty directory `at` with a layer that makes a tree below it the one of the closure.
    pub(super) fn build_patch(&self, at: &Path, patch: &Patch) -> Result<(), InputError> {
        let mut cursor = Cursor::open(at).map_err(|error| InputError::io(at, error))?;
        self.build_changes(&mut cursor, patch)?;
        finish(&cursor, c".", &patch.directory.properties).map_err(|error| InputError::io(at, error))
    }

    fn build_changes(&self, cursor: &mut Cursor, patch: &Patch) -> Result<(), InputError> {
        for name in &patch.removed {
            make_whiteout(cursor.fd(), name.as_str()).map_err(|error| failed(name.as_str(), error))?;
        }
        for index in &patch.files {
            self.place(cursor.fd(), &patch.directory.files[*index])?;
        }
        for index in &patch.symlinks {
            let link = &patch.directory.symlinks[*index];
            self.place_symlink(cursor.fd(), link).map_err(|error| failed(link.name.as_str(), error))?;
        }
        for (index, below) in &patch.directories {
            let child = &patch.directory.directories[*index];
            let name = child.name.as_str();
            enter_new(cursor, name).map_err(|error| failed(name, error))?;
            match below {
                Below::Patched(patch) => self.build_changes(cursor, patch)?,
                Below::Whole(digest) => {
                    hide_below(cursor.fd()).map_err(|error| failed(name, error))?;
                    self.build_whole(cursor, *digest)?;
                }
            }
            let properties = &self.closure.directory(&child.digest).properties;
            leave(cursor, name, properties).map_err(|error| failed(name, error))?;
        }
        Ok(())
    }

    /// Makes all that is below `root` in the empty directory at `cursor`, which gets no attributes yet.
    fn build_whole(&self, cursor: &mut Cursor, root: Digest) -> Result<Marks, InputError> {
        let mut path = PathBuf::new();
        let mut marks = Marks::default();
        let mut stack = vec![self.fill(cursor, root, false)?];
        marks.note(&path, stack[0].read_only, false);
        loop {
            let Some(frame) = stack.last_mut() else { return Ok(marks) };
            if let Some(child) = frame.directory.directories.get(frame.next) {
                frame.next += 1;
                let (digest, inherited) = (child.digest, frame.read_only);
                let name = child.name.as_str();
                enter_new(cursor, name).map_err(|error| failed(name, error))?;
                path.push(name);
                let child = self.fill(cursor, digest, inherited)?;
                marks.note(&path, child.read_only, inherited);
                stack.push(child);
                continue;
            }
            let frame = stack.pop().expect("invariant: it was there a moment ago");
            let Some(parent) = stack.last_mut() else { return Ok(marks) };
            let name = &parent.directory.directories[parent.next - 1].name;
            leave(cursor, name.as_str(), &frame.directory.properties)
                .map_err(|error| failed(name.as_str(), error))?;
            path.pop();
        }
    }

    /// Makes the files and symlinks of a directory.
    fn fill(&self, cursor: &Cursor, digest: Digest, inherited: bool) -> Result<Frame, InputError> {
        let directory = Arc::clone(self.closure.directory(&digest));
        for file in &directory.files {
            self.place(cursor.fd(), file)?;
        }
        for link in &directory.symlinks {
            self.place_symlink(cursor.fd(), link).map_err(|error| failed(link.name.as_str(), error))?;
        }
        let read_only = subtree_read_only(&directory.properties).unwrap_or(inherited);
        Ok(Frame { directory, next: 0, read_only })
    }

    fn place(&self, dir: BorrowedFd<'_>, file: &FileNode) -> Result<(), InputError> {
        let usual = if file.is_executable { 0o555 } else { 0o444 };
        let mode = file.properties.unix_mode.map_or(usual, |mode| mode & PERMISSIONS);
        let mtime = node_mtime(&file.properties);
        let name = c_name(file.name.as_str()).map_err(|error| failed(file.name.as_str(), error))?;
        let failed = |error| failed(file.name.as_str(), error);
        // A shared inode has the usual attributes.
        let pool = self.pool.filter(|_| mode == usual && mtime == FIXED_MTIME);
        let Some(source) = self.blobs.file(&file.digest, file.is_executable)? else {
            let key = PoolKey::file(&file.digest, file.is_executable);
            if pool.is_some_and(|pool| pool.link(&key, dir, &name)) {
                return Ok(());
            }
            let data = self.blobs.load(&file.digest)?;
            write_file(dir, &name, &data, mode, mtime).map_err(failed)?;
            if let Some(pool) = pool {
                pool.offer(&key, dir, &name);
            }
            return Ok(());
        };
        if pool.is_some() && link_blob(&source, dir, &name).map_err(failed)? {
            return Ok(());
        }
        match copy_file(&source, dir, &name, mode, mtime) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(CasError::NotFound(file.digest).into())
            }
            other => other.map_err(failed),
        }
    }

    fn place_symlink(&self, dir: BorrowedFd<'_>, link: &SymlinkNode) -> io::Result<()> {
        let name = c_name(link.name.as_str())?;
        let Some(pool) = self.pool else {
            return make_symlink(dir, link, &name);
        };
        let key = PoolKey::symlink(&link.target);
        if !pool.link(&key, dir, &name) {
            make_symlink(dir, link, &name)?;
            pool.offer(&key, dir, &name);
        }
        Ok(())
    }
}

impl Marks {
    /// Notes a directory that is not as the one it is in.
    fn note(&mut self, path: &Path, read_only: bool, inherited: bool) {
        match (read_only, inherited) {
            (true, false) => self.read_only.push(path.to_owned()),
            (false, true) => self.writable.push(path.to_owned()),
            _ => {}
        }
    }
}

/// What a directory says of the writability of all that is below it.
pub(super) fn subtree_read_only(properties: &NodeProperties) -> Option<bool> {
    let (_, value) = properties.strings.iter().find(|(name, _)| name == "SubtreeReadOnly")?;
    Some(value.eq_ignore_ascii_case("true"))
}

fn enter_new(cursor: &mut Cursor, name: &str) -> io::Result<()> {
    let name = c_name(name)?;
    rustix::fs::mkdirat(cursor.fd(), name.as_c_str(), Mode::RWXU)?;
    cursor.enter(&name)
}

/// Goes up and gives the directory its final attributes: from above, since its own mode may shut
/// us out.
fn leave(cursor: &mut Cursor, name: &str, properties: &NodeProperties) -> io::Result<()> {
    cursor.leave()?;
    finish(cursor, &c_name(name)?, properties)
}

fn finish(cursor: &Cursor, name: &CStr, properties: &NodeProperties) -> io::Result<()> {
    let mode = properties.unix_mode.map_or(DIRECTORY_MODE, |mode| mode & PERMISSIONS);
    set_mtime(cursor.fd(), name, node_mtime(properties))?;
    chmod(cursor.fd(), name, mode)
}

/// Makes the mark of overlayfs for a name that is to vanish.
fn make_whiteout(dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    let name = c_name(name)?;
    Ok(rustix::fs::mknodat(dir, name.as_c_str(), FileType::CharacterDevice, Mode::empty(), 0)?)
}

/// Makes a directory hide what has its name in the layers below.
fn hide_below(directory: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty())?)
}

fn make_symlink(dir: BorrowedFd<'_>, link: &SymlinkNode, name: &CStr) -> io::Result<()> {
    rustix::fs::symlinkat(link.target.as_str(), dir, name)?;
    set_mtime(dir, name, FIXED_MTIME)
}

/// Links a file of the store; `false` where that is not possible and a copy will do.
fn link_blob(source: &Path, dir: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    match rustix::fs::linkat(CWD, source, dir, name, AtFlags::empty()) {
        Ok(()) => {}
        Err(Errno::MLINK | Errno::XDEV | Errno::PERM | Errno::NOENT) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if (stat.st_mtime, stat.st_mtime_nsec as i64) != (FIXED_MTIME.tv_sec, FIXED_MTIME.tv_nsec) {
        set_mtime(dir, name, FIXED_MTIME)?;
    }
    Ok(true)
}

fn write_file(dir: BorrowedFd<'_>, name: &CStr, data: &Bytes, mode: u32, mtime: Timespec) -> io::Result<()> {
    let mut file = create(dir, name)?;
    file.write_all(data)?;
    seal(&file, mode, mtime)
}

fn copy_file(source: &Path, dir: BorrowedFd<'_>, name: &CStr, mode: u32, mtime: Timespec) -> io::Result<()> {
    let mut source = File::open(source)?;
    let mut file = create(dir, name)?;
    if rustix::fs::ioctl_ficlone(&file, &source).is_err() {
        io::copy(&mut source, &mut file)?;
    }
    seal(&file, mode, mtime)
}

fn create(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)?.into())
}

fn seal(file: &File, mode: u32, mtime: Timespec) -> io::Result<()> {
    let times = rustix::fs::Timestamps { last_access: mtime, last_modification: mtime };
    rustix::fs::futimens(file, &times)?;
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
}

/// Tells what the file system cannot hold from a file system that fails.
fn failed(name: &str, source: io::Error) -> InputError {
    let own_fault = [Errno::NAMETOOLONG, Errno::INVAL, Errno::ILSEQ, Errno::EXIST];
    if own_fault.iter().any(|errno| source.raw_os_error() == Some(errno.raw_os_error())) {
        InputError::Unstageable { name: name.to_owned(), source }
    } else {
        InputError::io(name, source)
    }
}
