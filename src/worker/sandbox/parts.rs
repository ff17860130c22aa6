//! [`Parts`]: an input root that can be exchanged while processes live in it.
//!
//! The working directory of a process stays what it is, whatever is mounted over it. So such a root is a
//! directory in memory, and each entry of the overlay is mounted in there by itself, as are those of the
//! directories on the way to the working directory. To exchange them, the mounts are taken away and others
//! made; the directory stays. Files that the processes have open, or their programs mapped, stay theirs.
//!
//! The processes may do to the directory what they like. Whatever it is, it is gone after an exchange, and
//! nothing outside of it is touched: everything here goes by descriptors, and through no link.

use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, open_tree, unmount};

use super::enter::move_to;
use super::sys;
use super::template::{attach, make_directories, mount_tmpfs};
use super::wire::Failure;
use crate::worker::scratch::{Cursor, Entry, remove_entry};

/// Where an overlay is for the moment in which its entries are taken from it.
const ASIDE: &str = "/run";

/// Options of the directory in memory: what the processes leave at its top stays until the next exchange.
const OPTIONS: &CStr = c"mode=0755,size=64m,nr_inodes=16k";

/// Entries that are mounted at most; each costs a mount for every exchange.
const MAX_PARTS: usize = 256;

/// The input root of a kept command, in its mount namespace.
pub(super) struct Parts {
    root: OwnedFd,
    /// The working directory, below the root.
    way: PathBuf,
    mounted: Vec<OwnedFd>,
}

impl Parts {
    /// In the namespace of the command: mounts the entries of `overlay` at `at`. The directories that `way`
    /// names are there for as long as this is.
    pub(super) fn mount(at: &Path, way: &Path, overlay: &OwnedFd) -> Result<Self, Failure> {
        if at.starts_with("/tmp") {
            make_directories(at)?;
        }
        mount_tmpfs(at, OPTIONS)?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(at, flags, Mode::empty()).map_err(Failure::at("open", at))?;
        make_directories(&at.join(way))?;
        let mut parts = Self { root, way: way.to_owned(), mounted: Vec::new() };
        parts.show(overlay)?;
        Ok(parts)
    }

    /// In the namespace of the command, which stands still: has the entries of `overlay` take the places of
    /// those that are there, and removes everything else.
    pub(super) fn exchange(&mut self, overlay: &OwnedFd) -> Result<(), Failure> {
        for part in self.mounted.drain(..) {
            unmount(itself(&part), UnmountFlags::DETACH).map_err(Failure::step("take the inputs away"))?;
        }
        for (here, next) in steps(&self.way) {
            self.clear(&here, next)?;
        }
        self.show(overlay)
    }

    /// Removes all that is in `here` but `spared`.
    fn clear(&self, here: &Path, spared: Option<&OsStr>) -> Result<(), Failure> {
        let directory = open_below(self.root.as_fd(), here)?;
        let failed = |error| Failure::at("clear", here)(errno_of(&error));
        for Entry { name, .. } in entries(&directory, here)? {
            if Some(OsStr::from_bytes(name.to_bytes())) != spared {
                let cursor = directory.try_clone().map(Cursor::at).map_err(failed)?;
                remove_entry(cursor, name, || true).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn show(&mut self, overlay: &OwnedFd) -> Result<(), Failure> {
        attach(overlay, Path::new(ASIDE))?;
        let way = self.way.clone();
        let shown = steps(&way).try_for_each(|(here, next)| self.show_directory(overlay, &here, next));
        unmount(ASIDE, UnmountFlags::DETACH).map_err(Failure::step("put the overlay away"))?;
        shown
    }

    /// Shows all entries of `here` but the next directory on the way, whose own entries come next.
    fn show_directory(
        &mut self,
        overlay: &OwnedFd,
        here: &Path,
        next: Option<&OsStr>,
    ) -> Result<(), Failure> {
        let target = open_below(self.root.as_fd(), here)?;
        let source = open_below(overlay.as_fd(), here)?;
        for Entry { name, kind } in entries(&source, here)? {
            if Some(OsStr::from_bytes(name.to_bytes())) == next {
                continue;
            }
            if self.mounted.len() >= MAX_PARTS {
                return Err(Failure::at("show", here)(Errno::TOOBIG));
            }
            let part =
                show(&source, &target, &name, kind).map_err(Failure::at("show the inputs of", here))?;
            self.mounted.extend(part);
        }
        Ok(())
    }
}

/// Makes `name` of the directory `source` visible in `target`. Gives the mount, but for links.
fn show(source: &OwnedFd, target: &OwnedFd, name: &CStr, kind: FileType) -> Result<Option<OwnedFd>, Errno> {
    let mode = Mode::from_raw_mode(0o755);
    match kind {
        FileType::Symlink => {
            let link = rustix::fs::readlinkat(source, name, Vec::new())?;
            return rustix::fs::symlinkat(link, target, name).map(|()| None);
        }
        FileType::Directory => rustix::fs::mkdirat(target, name, mode)?,
        _ => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            drop(rustix::fs::openat(target, name, flags, mode)?);
        }
    }
    let open = |directory: &OwnedFd| {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(directory, name, flags, Mode::empty())
    };
    let part = open_tree(open(source)?, "", sys::clone_tree_flags())?;
    move_to(part.as_fd(), open(target)?.as_fd())?;
    Ok(Some(part))
}

/// The directories on the way to `way`, from the root on, each with the name of the next one.
fn steps(way: &Path) -> impl Iterator<Item = (PathBuf, Option<&OsStr>)> {
    let mut here = PathBuf::new();
    let names = way.iter().map(Some).chain([None]);
    names.map(move |next| {
        let step = (here.clone(), next);
        here.extend(next);
        step
    })
}

fn open_below(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Failure> {
    let name = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    openat2(root, name, flags, Mode::empty(), resolve).map_err(|errno| match errno {
        Errno::NOTDIR | Errno::LOOP | Errno::NOENT => Failure::WorkingDirectory(errno),
        errno => Failure::at("open", path)(errno),
    })
}

fn entries(directory: &OwnedFd, path: &Path) -> Result<Vec<Entry>, Failure> {
    let cursor = directory.try_clone().map(Cursor::at);
    cursor.and_then(|cursor| cursor.entries()).map_err(|error| Failure::at("read", path)(errno_of(&error)))
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// A path to what is open there.
fn itself(descriptor: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_is_gone_step_by_step() {
        let shown = |way: &str| -> Vec<_> {
            let steps: Vec<_> =
                steps(Path::new(way)).map(|(here, next)| (here, next.map(OsStr::to_owned))).collect();
            steps.into_iter().map(|(here, next)| format!("{}:{next:?}", here.display())).collect()
        };
        assert_eq!(shown(""), [":None"]);
        assert_eq!(shown("a/b"), [":Some(\"a\")", "a:Some(\"b\")", "a/b:None"]);
    }
}
