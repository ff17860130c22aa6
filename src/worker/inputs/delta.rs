//! [`Patch`]: what has to lie over a staged tree to turn it into another one.
//!
//! Roots of one project differ in a few files. A thin layer over a tree that is there costs as much as
//! they differ. Planning is pure: it compares Directory messages, and does not enter what is
//! equal. The format of the layer is that of overlayfs; `builder` writes it.

use std::collections::HashMap;
use std::sync::Arc;

use super::closure::Closure;
use crate::digest::Digest;
use crate::merkle::{Directory, FileNode, SymlinkNode};
use crate::path::Component;

/// Levels that are compared; trees that differ further down are built anew.
const MAX_DEPTH: usize = 200;

/// A directory that is another than in the tree below.
#[derive(Debug)]
pub(super) struct Patch {
    /// As it is to be.
    pub(super) directory: Arc<Directory>,
    /// Names of the tree below that are to vanish.
    pub(super) removed: Vec<Component>,
    /// Files of `directory`, by number, that are others than below.
    pub(super) files: Vec<usize>,
    /// Symlinks of `directory`, by number, that are others than below.
    pub(super) symlinks: Vec<usize>,
    /// Subdirectories of `directory`, by number, that are others than below.
    pub(super) directories: Vec<(usize, Below)>,
}

/// What becomes of a subdirectory.
#[derive(Debug)]
pub(super) enum Below {
    /// It is there already and is changed.
    Patched(Patch),
    /// There is none below: it is built whole, and hides what has its name.
    Whole(Digest),
}

/// Size of a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// Entries in it.
    pub(super) entries: u64,
    /// Bytes of its files.
    pub(super) bytes: u64,
}

/// Entries of a directory of the tree below.
enum Old<'a> {
    File(&'a FileNode),
    Symlink(&'a SymlinkNode),
    Directory(Digest),
}

struct Planner<'a> {
    new: &'a Closure,
    old: &'a dyn Fn(&Digest) -> Option<Arc<Directory>>,
    size: Size,
    max_entries: u64,
}

impl Patch {
    /// What turns the tree of the root `base` into that of `new`, and how much it is. `None` if it
    /// takes more than `max_entries`, or directories of the old tree are not known (`old`) any more.
    pub(super) fn plan(
        base: Digest,
        new: &Closure,
        max_entries: u64,
        old: &dyn Fn(&Digest) -> Option<Arc<Directory>>,
    ) -> Option<(Self, Size)> {
        let mut planner = Planner { new, old, size: Size::default(), max_entries };
        let patch = planner.directory(&new.root, &base, 0)?;
        Some((patch, planner.size))
    }
}

// === impl Planner ===

impl Planner<'_> {
    fn directory(&mut self, new: &Digest, old: &Digest, depth: usize) -> Option<Patch> {
        if depth > MAX_DEPTH {
            return None;
        }
        let directory = Arc::clone(self.new.directory(new));
        let below = (self.old)(old)?;
        let mut left = old_entries(&below);
        self.count(1, 0)?;
        let (mut files, mut symlinks, mut directories) = (Vec::new(), Vec::new(), Vec::new());
        for (index, file) in directory.files.iter().enumerate() {
            if !matches!(left.remove(file.name.as_str()), Some(Old::File(same)) if same == file) {
                self.count(1, file.digest.size())?;
                files.push(index);
            }
        }
        for (index, link) in directory.symlinks.iter().enumerate() {
            if !matches!(left.remove(link.name.as_str()), Some(Old::Symlink(same)) if same == link) {
                self.count(1, 0)?;
                symlinks.push(index);
            }
        }
        for (index, child) in directory.directories.iter().enumerate() {
            match left.remove(child.name.as_str()) {
                Some(Old::Directory(same)) if same == child.digest => {}
                Some(Old::Directory(other)) => {
                    let patch = self.directory(&child.digest, &other, depth + 1)?;
                    directories.push((index, Below::Patched(patch)));
                }
                _ => {
                    self.count_whole(&child.digest, depth + 1)?;
                    directories.push((index, Below::Whole(child.digest)));
                }
            }
        }
        self.count(left.len() as u64, 0)?;
        let removed = left.into_keys().map(Component::parse).collect::<Result<_, _>>().ok()?;
        Some(Patch { directory, removed, files, symlinks, directories })
    }

    fn count(&mut self, entries: u64, bytes: u64) -> Option<()> {
        self.size.entries += entries;
        self.size.bytes = self.size.bytes.saturating_add(bytes);
        (self.size.entries <= self.max_entries).then_some(())
    }

    /// Counts a subtree; what is too large is given up early.
    fn count_whole(&mut self, digest: &Digest, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        let directory = Arc::clone(self.new.directory(digest));
        let bytes = directory.files.iter().map(|file| file.digest.size()).fold(0, u64::saturating_add);
        self.count((directory.files.len() + directory.symlinks.len()) as u64 + 1, bytes)?;
        directory.directories.iter().try_for_each(|child| self.count_whole(&child.digest, depth + 1))
    }
}

fn old_entries(directory: &Directory) -> HashMap<&str, Old<'_>> {
    let files = directory.files.iter().map(|file| (file.name.as_str(), Old::File(file)));
    let links = directory.symlinks.iter().map(|link| (link.name.as_str(), Old::Symlink(link)));
    let directories =
        directory.directories.iter().map(|child| (child.name.as_str(), Old::Directory(child.digest)));
    files.chain(links).chain(directories).collect()
}

#[cfg(test)]
mod tests;
