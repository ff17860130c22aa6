//! [`FilePool`]: inodes of small files and of symlinks, shared by the trees.
//!
//! The store keeps small blobs inside packs, so they have no file to link to, and symlinks not at
//! all. Trees of one project hold the same thousands of headers, root file systems the same
//! hundreds of links, and making an inode costs ten times a link: the first tree that makes one
//! offers it here, and later ones link it.
//!
//! The pool forgets by generations: when the young one is full it becomes the old one, and the one
//! before is removed. What is still in use moves back into the young one.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::digest::{Digest, DigestFunction};
use crate::worker::scratch::{Sweeper, c_name};

/// Small files and symlinks of two generations.
#[derive(Debug)]
pub(super) struct FilePool {
    directory: PathBuf,
    /// Inodes in a generation.
    capacity: u64,
    generations: Mutex<Generations>,
    sweeper: Sweeper,
}

#[derive(Debug)]
struct Generations {
    young: Arc<Generation>,
    old: Option<Arc<Generation>>,
    made: u64,
}

/// One directory of inodes named by their keys. Removed when the last user lets go.
#[derive(Debug)]
struct Generation {
    path: PathBuf,
    fd: OwnedFd,
    files: AtomicU64,
    sweeper: Sweeper,
}

/// What makes two inodes the same to every tree.
#[derive(Debug)]
pub(super) struct PoolKey(CString);

// === impl PoolKey ===

impl PoolKey {
    /// A file of these bytes, with the usual attributes.
    pub(super) fn file(digest: &Digest, executable: bool) -> Self {
        let kind = if executable { "x" } else { "r" };
        Self::new(&format!("{}-{}-{}{kind}", digest.function(), digest.hash_hex(), digest.size()))
    }

    /// A symlink to that target, with the usual attributes.
    pub(super) fn symlink(target: &str) -> Self {
        let digest = Digest::of(DigestFunction::Sha256, target.as_bytes());
        Self::new(&format!("link-{}", digest.hash_hex()))
    }

    fn new(name: &str) -> Self {
        Self(c_name(name).expect("invariant: made of letters and digits"))
    }
}

// === impl FilePool ===

impl FilePool {
    /// An empty pool of `capacity` inodes in `directory`, which is made.
    pub(super) fn open(directory: &Path, capacity: u64, sweeper: Sweeper) -> io::Result<Self> {
        std::fs::create_dir(directory)?;
        let young = Arc::new(Generation::make(directory, 0, &sweeper)?);
        Ok(Self {
            directory: directory.to_owned(),
            capacity: (capacity / 2).max(1),
            generations: Mutex::new(Generations { young, old: None, made: 1 }),
            sweeper,
        })
    }

    /// Links the inode of `key` into `dir`; `false` if there is none, or it has too many links.
    pub(super) fn link(&self, key: &PoolKey, dir: BorrowedFd<'_>, name: &CStr) -> bool {
        let (young, old) = {
            let generations = self.generations();
            (Arc::clone(&generations.young), generations.old.clone())
        };
        if young.link(key, dir, name) {
            return true;
        }
        let found = old.is_some_and(|old| old.link(key, dir, name));
        if found {
            young.add(key, dir, name);
        }
        found
    }

    /// Takes a link to a finished file or symlink. Failing is no harm.
    pub(super) fn offer(&self, key: &PoolKey, dir: BorrowedFd<'_>, name: &CStr) {
        let young = Arc::clone(&self.generations().young);
        young.add(key, dir, name);
        if young.files.load(Ordering::Relaxed) >= self.capacity {
            self.age(&young);
        }
    }

    /// Begins a new generation, if `full` is still the young one.
    fn age(&self, full: &Arc<Generation>) {
        let number = {
            let mut generations = self.generations();
            if !Arc::ptr_eq(&generations.young, full) {
                return;
            }
            generations.made += 1;
            generations.made
        };
        match Generation::make(&self.directory, number, &self.sweeper) {
            Ok(fresh) => {
                let mut generations = self.generations();
                if Arc::ptr_eq(&generations.young, full) {
                    generations.old = Some(std::mem::replace(&mut generations.young, Arc::new(fresh)));
                }
            }
            Err(error) => tracing::warn!(%error, "cannot begin a new generation of small files"),
        }
    }

    fn generations(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generation {
    fn make(directory: &Path, number: u64, sweeper: &Sweeper) -> io::Result<Self> {
        let path = directory.join(number.to_string());
        std::fs::create_dir(&path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&path, flags, Mode::empty())?;
        Ok(Self { path, fd, files: AtomicU64::new(0), sweeper: sweeper.clone() })
    }

    fn link(&self, key: &PoolKey, dir: BorrowedFd<'_>, name: &CStr) -> bool {
        match rustix::fs::linkat(&self.fd, &key.0, dir, name, AtFlags::empty()) {
            Ok(()) => true,
            Err(Errno::MLINK) => {
                self.forget(key);
                false
            }
            Err(_) => false,
        }
    }

    fn add(&self, key: &PoolKey, dir: BorrowedFd<'_>, name: &CStr) {
        if rustix::fs::linkat(dir, name, &self.fd, &key.0, AtFlags::empty()).is_ok() {
            self.files.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Makes room for the next one of that key.
    fn forget(&self, key: &PoolKey) {
        if rustix::fs::unlinkat(&self.fd, &key.0, AtFlags::empty()).is_ok() {
            self.files.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.sweeper.remove(std::mem::take(&mut self.path));
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;
    use crate::tasks::Tasks;

    #[tokio::test]
    async fn an_inode_with_too_many_links_makes_room_for_the_next() {
        let scratch = tempfile::tempdir().unwrap();
        let tasks = Tasks::default();
        let pool = FilePool::open(&scratch.path().join("pool"), 8, Sweeper::new(tasks.clone())).unwrap();
        let dir = File::open(scratch.path()).unwrap();
        let key = PoolKey::symlink("target");
        let inode = |name: &str| fs::symlink_metadata(scratch.path().join(name)).unwrap().ino();
        let (first, second) = (c"first", c"second");
        std::os::unix::fs::symlink("target", scratch.path().join("first")).unwrap();
        std::os::unix::fs::symlink("target", scratch.path().join("second")).unwrap();

        pool.offer(&key, dir.as_fd(), first);
        pool.offer(&key, dir.as_fd(), second);
        assert!(pool.link(&key, dir.as_fd(), c"third"));
        assert_eq!(inode("third"), inode("first"));

        pool.generations().young.forget(&key);
        assert!(!pool.link(&key, dir.as_fd(), c"fourth"));
        pool.offer(&key, dir.as_fd(), second);
        assert!(pool.link(&key, dir.as_fd(), c"fourth"));
        assert_eq!(inode("fourth"), inode("second"));
        assert_eq!(pool.generations().young.files.load(Ordering::Relaxed), 1);
        drop(pool);
        tasks.idle().await;
    }
}
