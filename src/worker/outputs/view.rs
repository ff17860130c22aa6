//! [`MergedRoot`]: the file system of an action as the action saw it, without a mount.
//!
//! The upper layer is the directory that took the action's writes, in the format of overlayfs:
//! what was deleted is a character device 0/0 (or an empty file with the `overlay.whiteout`
//! attribute), a replaced directory is marked opaque. The lower layer is not read from disk: it is the
//! Directory messages of the input root, which have the digests too. Without a lower layer the upper one is an
//! ordinary directory.

use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec};
use rustix::io::Errno;

use super::OutputError;
use super::request::OutputRequest;
use crate::cas::LocalBlobs;
use crate::digest::Digest;
use crate::merkle::{Directory, NodeProperties};
use crate::path::RootPath;
use crate::worker::inputs::{FIXED_MTIME, node_mtime};
use crate::worker::scratch::{Cursor, c_name, chmod, set_mtime};

/// Symlinks followed on one path, as the kernel has it.
const MAX_LINKS: usize = 40;

/// Mode of a directory without `unix_mode`.
const DIRECTORY_MODE: u32 = 0o755;

/// Prefixes of overlayfs attributes, as an ordinary user and as root.
const XATTR_PREFIXES: [&str; 2] = ["user.overlay.", "trusted.overlay."];

/// Input directories remembered for the paths of one action.
const MAX_REMEMBERED: usize = 1024;

/// The file system of an action.
pub struct MergedRoot {
    upper: PathBuf,
    lower: Option<Digest>,
    blobs: Arc<dyn LocalBlobs>,
    links: LinkRoot,
    parsed: Mutex<HashMap<Digest, Arc<Directory>>>,
}

/// Where absolute symlinks of an action lead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkRoot {
    /// The input root is `/`: they lead into it.
    Filesystem,
    /// The input root stands at this path: those below it lead into it, others out of it.
    At(PathBuf),
}

/// A place in a [`MergedRoot`].
pub(super) struct Position<'a> {
    root: &'a MergedRoot,
    upper: Cursor,
    /// Levels that were entered without the upper layer having them.
    absent: usize,
    /// The directories entered, down from the root.
    levels: Vec<Level>,
}

struct Level {
    /// The lower layer's directory.
    lower: Option<Arc<Directory>>,
    attributes: Attributes,
}

/// One entry.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) kind: Kind,
    /// Not for directories: enter them and ask [`Position::attributes`].
    pub(super) attributes: Attributes,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// A file the action wrote.
    UpperFile,
    /// An input file, unchanged.
    LowerFile(Digest),
    /// The target, byte by byte.
    Symlink(Vec<u8>),
    Directory,
    /// A socket, pipe or device.
    Special(&'static str),
}

/// Permission bits and modification time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes {
    pub(super) mode: u32,
    pub(super) mtime: Timespec,
}

/// Where a path leads.
#[derive(Debug)]
pub(super) enum Resolved {
    /// Nowhere.
    Absent,
    /// Out of the root.
    Outside,
    /// To a directory; the position stands in it.
    Directory,
    /// To something else of this name; the position stands in the directory that holds it.
    Entry(CString, Found),
}

// === impl MergedRoot ===

impl MergedRoot {
    /// The layer `upper`, which took the writes, over the input root `lower`, whose Directory
    /// messages are in `blobs`. Without `lower`, the directory `upper` has the inputs too.
    pub fn new(upper: PathBuf, lower: Option<Digest>, blobs: Arc<dyn LocalBlobs>, links: LinkRoot) -> Self {
        Self { upper, lower, blobs, links, parsed: Mutex::default() }
    }

    /// Makes the working directory and the parents of all outputs where the inputs lack them. What
    /// stands in the way stays: the action will meet it.
    ///
    /// # Errors
    /// [`OutputError`] when the scratch disk or the store fails.
    pub fn make_parents(&self, request: &OutputRequest) -> Result<(), OutputError> {
        let mut position = self.position()?;
        for parent in request.parents() {
            if !matches!(position.resolve(&parent, true)?, Resolved::Directory) {
                position.walk(&parent, true, true)?;
            }
        }
        Ok(())
    }

    /// The root directory.
    pub(super) fn position(&self) -> Result<Position<'_>, OutputError> {
        let upper = Cursor::open(&self.upper)
            .map_err(|error| OutputError::io(self.upper.to_string_lossy(), error))?;
        let stat = rustix::fs::fstat(upper.fd()).map_err(|error| OutputError::io(".", error.into()))?;
        let lower = self.lower.map(|digest| self.directory(&digest)).transpose()?;
        let level = Level { lower, attributes: Attributes::of(&stat) };
        Ok(Position { root: self, upper, absent: 0, levels: vec![level] })
    }

    /// An input directory: remembered, since the same few lead to all outputs.
    fn directory(&self, digest: &Digest) -> Result<Arc<Directory>, OutputError> {
        if let Some(directory) = self.parsed().get(digest) {
            return Ok(Arc::clone(directory));
        }
        let data = match self.blobs.file(digest, false)? {
            Some(path) => {
                std::fs::read(&path).map_err(|error| OutputError::io(path.to_string_lossy(), error))?.into()
            }
            None => self.blobs.load(digest)?,
        };
        let directory = Directory::parse(&data, digest.function())
            .map(Arc::new)
            .map_err(|source| OutputError::Malformed { digest: *digest, source })?;
        let mut parsed = self.parsed();
        if parsed.len() < MAX_REMEMBERED {
            parsed.insert(*digest, Arc::clone(&directory));
        }
        Ok(directory)
    }

    fn parsed(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Directory>>> {
        self.parsed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_overlay(&self) -> bool {
        self.lower.is_some()
    }
}

// === impl Position ===

impl Position<'_> {
    /// The upper layer's directory, where the kinds [`Kind::UpperFile`] are.
    pub(super) fn upper_fd(&self) -> BorrowedFd<'_> {
        self.upper.fd()
    }

    /// Goes where `path` leads. Symlinks on the way are followed inside the root, the last
    /// component only if `follow_last`.
    pub(super) fn resolve(&mut self, path: &RootPath, follow_last: bool) -> Result<Resolved, OutputError> {
        self.walk(path, follow_last, false)
    }

    /// As [`resolve`](Self::resolve), with all directories on the way in the upper layer: made where there are
    /// none.
    pub(super) fn make_all(&mut self, path: &RootPath) -> Result<Resolved, OutputError> {
        self.walk(path, true, true)
    }

    /// Whether the upper layer has this directory.
    pub(super) fn is_in_upper(&self) -> bool {
        self.absent == 0
    }

    /// As [`resolve`](Self::resolve); with `make`, absent directories are made in the upper layer.
    fn walk(&mut self, path: &RootPath, follow_last: bool, make: bool) -> Result<Resolved, OutputError> {
        self.rewind()?;
        let mut left: VecDeque<Vec<u8>> =
            path.components().iter().map(|name| name.as_str().as_bytes().to_vec()).collect();
        let mut links = 0;
        while let Some(segment) = left.pop_front() {
            if segment == b".." {
                if self.levels.len() > 1 {
                    self.leave()?;
                } else if matches!(self.root.links, LinkRoot::At(_)) {
                    return Ok(Resolved::Outside);
                }
                continue;
            }
            let Ok(name) = CString::new(segment) else { return Ok(Resolved::Absent) };
            let Some(found) = self.look(&name)? else {
                if make && self.make(&name)? {
                    continue;
                }
                return Ok(Resolved::Absent);
            };
            match found.kind {
                Kind::Directory if make => {
                    if !self.make(&name)? {
                        return Ok(Resolved::Absent);
                    }
                }
                Kind::Directory => self.enter(&name)?,
                Kind::Symlink(target) if follow_last || !left.is_empty() => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Ok(Resolved::Absent);
                    }
                    let Some(segments) = self.follow(&target)? else { return Ok(Resolved::Outside) };
                    segments.into_iter().rev().for_each(|segment| left.push_front(segment));
                }
                _ if left.is_empty() => return Ok(Resolved::Entry(name, found)),
                _ => return Ok(Resolved::Absent),
            }
        }
        Ok(Resolved::Directory)
    }

    /// The way a symlink leads from here, or from the root for an absolute one.
    fn follow(&mut self, target: &[u8]) -> Result<Option<Vec<Vec<u8>>>, OutputError> {
        let mut segments: VecDeque<Vec<u8>> = target
            .split(|byte| *byte == b'/')
            .filter(|segment| !matches!(*segment, b"" | b"."))
            .map(<[u8]>::to_vec)
            .collect();
        if target.first() == Some(&b'/') {
            if let LinkRoot::At(at) = &self.root.links {
                for part in at.iter().skip(1) {
                    if segments.pop_front().as_deref() != Some(part.as_encoded_bytes()) {
                        return Ok(None);
                    }
                }
            }
            self.rewind()?;
        }
        Ok(Some(segments.into()))
    }

    /// Enters the subdirectory `name`.
    pub(super) fn enter(&mut self, name: &CStr) -> Result<(), OutputError> {
        let failed = |error| OutputError::io(name.to_string_lossy(), error);
        let below = self.lower_child(name);
        let upper = if self.absent == 0 { self.upper_stat(name).map_err(failed)? } else { None };
        let mut hidden = false;
        if upper.is_some() {
            self.upper.enter(name).map_err(failed)?;
            hidden = self.root.is_overlay() && is_opaque(&self.upper).map_err(failed)?;
        } else {
            self.absent += 1;
        }
        let lower = below.filter(|_| !hidden).map(|digest| self.root.directory(&digest)).transpose()?;
        let attributes = match (&upper, &lower) {
            (Some(stat), _) => Attributes::of(stat),
            (None, Some(lower)) => Attributes::of_node(&lower.properties, DIRECTORY_MODE),
            (None, None) => return Err(failed(io::ErrorKind::NotFound.into())),
        };
        self.levels.push(Level { lower, attributes });
        Ok(())
    }

    /// Goes up.
    pub(super) fn leave(&mut self) -> Result<(), OutputError> {
        self.levels.pop();
        if self.absent > 0 {
            self.absent -= 1;
            return Ok(());
        }
        self.upper.leave().map_err(|error| OutputError::io("..", error))
    }

    fn rewind(&mut self) -> Result<(), OutputError> {
        while self.levels.len() > 1 {
            self.leave()?;
        }
        Ok(())
    }

    /// Enters `name` with the upper layer having it; `false` if it may not be made here.
    fn make(&mut self, name: &CStr) -> Result<bool, OutputError> {
        let failed = |error| OutputError::io(name.to_string_lossy(), error);
        let properties = match self.lower_child(name) {
            Some(digest) => self.root.directory(&digest)?.properties.clone(),
            None => NodeProperties::default(),
        };
        match rustix::fs::mkdirat(self.upper.fd(), name, Mode::RWXU) {
            Ok(()) => {
                let mode = properties.unix_mode.map_or(DIRECTORY_MODE, |mode| mode & 0o777);
                chmod(self.upper.fd(), name, mode).map_err(failed)?;
                set_mtime(self.upper.fd(), name, node_mtime(&properties)).map_err(failed)?;
                set_mtime(self.upper.fd(), c".", FIXED_MTIME).map_err(failed)?;
            }
            Err(Errno::EXIST) => {}
            Err(Errno::ACCESS | Errno::PERM | Errno::NAMETOOLONG) => return Ok(false),
            Err(error) => return Err(failed(error.into())),
        }
        self.enter(name)?;
        Ok(true)
    }

    /// Attributes of this directory itself, as the action left them.
    pub(super) fn attributes(&self) -> Attributes {
        self.levels.last().expect("invariant: the root is never left").attributes
    }

    /// The entry `name` of this directory.
    pub(super) fn look(&self, name: &CStr) -> Result<Option<Found>, OutputError> {
        let failed = |error| OutputError::io(name.to_string_lossy(), error);
        if self.absent == 0
            && let Some(stat) = self.upper_stat(name).map_err(failed)?
        {
            return self.upper_entry(name, &stat).map_err(failed);
        }
        let Some(here) = self.lower_here() else { return Ok(None) };
        let is = |other: &str| other.as_bytes() == name.to_bytes();
        if let Some(file) = here.files.iter().find(|file| is(file.name.as_str())) {
            return Ok(Some(lower_file(file)));
        }
        if let Some(link) = here.symlinks.iter().find(|link| is(link.name.as_str())) {
            return Ok(Some(lower_symlink(&link.target)));
        }
        let directory = here.directories.iter().any(|directory| is(directory.name.as_str()));
        Ok(directory.then(lower_directory))
    }

    /// All entries of this directory, in no order.
    pub(super) fn entries(&self) -> Result<Vec<(CString, Found)>, OutputError> {
        let mut entries = Vec::new();
        let mut decided = HashSet::new();
        if self.absent == 0 {
            let listed = self.upper.entries().map_err(|error| OutputError::io(".", error))?;
            for name in listed.into_iter().map(|entry| entry.name) {
                let failed = |error| OutputError::io(name.to_string_lossy(), error);
                let Some(stat) = self.upper_stat(&name).map_err(failed)? else { continue };
                let found = self.upper_entry(&name, &stat).map_err(failed)?;
                decided.insert(name.clone());
                entries.extend(found.map(|found| (name, found)));
            }
        }
        let Some(here) = self.lower_here() else { return Ok(entries) };
        let mut add = |name: &str, found: Found| {
            let name = c_name(name).expect("invariant: components have no NUL");
            if !decided.contains(&name) {
                entries.push((name, found));
            }
        };
        here.files.iter().for_each(|file| add(file.name.as_str(), lower_file(file)));
        here.symlinks.iter().for_each(|link| add(link.name.as_str(), lower_symlink(&link.target)));
        for directory in &here.directories {
            add(directory.name.as_str(), lower_directory());
        }
        Ok(entries)
    }

    fn upper_stat(&self, name: &CStr) -> io::Result<Option<Stat>> {
        match rustix::fs::statat(self.upper.fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What the upper layer says of `name`; `None` for a deletion.
    fn upper_entry(&self, name: &CStr, stat: &Stat) -> io::Result<Option<Found>> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if stat.st_size == 0 && self.root.is_overlay() => {
                if is_whiteout(self.upper.fd(), name)? {
                    return Ok(None);
                }
                Kind::UpperFile
            }
            FileType::RegularFile => Kind::UpperFile,
            FileType::Directory => Kind::Directory,
            FileType::Symlink => {
                Kind::Symlink(rustix::fs::readlinkat(self.upper.fd(), name, Vec::new())?.into_bytes())
            }
            FileType::CharacterDevice if stat.st_rdev == 0 && self.root.is_overlay() => return Ok(None),
            FileType::CharacterDevice => Kind::Special("character device"),
            FileType::BlockDevice => Kind::Special("block device"),
            FileType::Fifo => Kind::Special("named pipe"),
            FileType::Socket => Kind::Special("socket"),
            FileType::Unknown => Kind::Special("file of unknown type"),
        };
        Ok(Some(Found { kind, attributes: Attributes::of(stat) }))
    }

    fn lower_here(&self) -> Option<&Directory> {
        self.levels.last()?.lower.as_deref()
    }

    fn lower_child(&self, name: &CStr) -> Option<Digest> {
        let children = &self.lower_here()?.directories;
        children
            .iter()
            .find(|child| child.name.as_str().as_bytes() == name.to_bytes())
            .map(|child| child.digest)
    }
}

fn lower_directory() -> Found {
    let attributes = Attributes::of_node(&NodeProperties::default(), DIRECTORY_MODE);
    Found { kind: Kind::Directory, attributes }
}

fn lower_file(file: &crate::merkle::FileNode) -> Found {
    let usual = if file.is_executable { 0o555 } else { 0o444 };
    Found { kind: Kind::LowerFile(file.digest), attributes: Attributes::of_node(&file.properties, usual) }
}

fn lower_symlink(target: &str) -> Found {
    Found {
        kind: Kind::Symlink(target.as_bytes().to_vec()),
        attributes: Attributes { mode: 0o777, mtime: FIXED_MTIME },
    }
}

/// Whether a directory hides what the lower layer has at its place. Fails for one that was renamed
/// in a way that only a mount can follow: overlays must be mounted with `redirect_dir=off`.
fn is_opaque(directory: &Cursor) -> io::Result<bool> {
    for prefix in XATTR_PREFIXES {
        if xattr(directory.fd(), &format!("{prefix}redirect"))?.is_some() {
            return Err(io::Error::other("the overlay recorded a rename (redirect_dir)"));
        }
        if xattr(directory.fd(), &format!("{prefix}opaque"))? == Some(b'y') {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_whiteout(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(dir, name, flags, Mode::empty()) {
        // Whiteouts are made readable; a file the action shut is its own.
        Err(Errno::ACCESS) => return Ok(false),
        other => other?,
    };
    for prefix in XATTR_PREFIXES {
        if xattr(file.as_fd(), &format!("{prefix}whiteout"))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// First byte of an extended attribute (0 for an empty one); `None` if it is not set.
fn xattr(fd: BorrowedFd<'_>, name: &str) -> io::Result<Option<u8>> {
    let mut value = [0; 1];
    match rustix::fs::fgetxattr(fd, name, &mut value) {
        Ok(_) | Err(Errno::RANGE) => Ok(Some(value[0])),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM | Errno::ACCESS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

// === impl Attributes ===

impl Attributes {
    pub(super) fn of(stat: &Stat) -> Self {
        let mtime = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
        Self { mode: stat.st_mode & 0o7777, mtime }
    }

    fn of_node(properties: &NodeProperties, usual: u32) -> Self {
        let mode = properties.unix_mode.map_or(usual, |mode| mode & 0o777);
        Self { mode, mtime: node_mtime(properties) }
    }

    /// Whether the owner may execute it.
    pub(super) fn is_executable(&self) -> bool {
        self.mode & 0o100 != 0
    }
}
