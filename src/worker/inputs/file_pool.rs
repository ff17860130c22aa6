//! [`FilePool`]: inodes of small files, shared by the trees.
//!
//! The store keeps small blobs inside packs, so they have no file to link to. Trees of one
//! project hold the same thousands of headers, and making an inode costs ten times a link: the
//! first tree that writes such a file offers it here, and later ones link it.
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

use crate::digest::Digest;
use crate::worker::scratch::{Sweeper, c_name};

/// Small files of two generations.
#[derive(Debug)]
pub(super) struct FilePool {
    directory: PathBuf,
    /// Files in a generation.
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

/// One directory of files named by digest and executability. Removed when the last user lets go.
#[derive(Debug)]
struct Generation {
    path: PathBuf,
    fd: OwnedFd,
    files: AtomicU64,
    sweeper: Sweeper,
}

impl FilePool {
    /// An empty pool of `capacity` files in `directory`, which is made.
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

    /// Links the file of `digest` into `dir`; `false` if there is none, or it has too many links.
    pub(super) fn link(&self, digest: &Digest, executable: bool, dir: BorrowedFd<'_>, name: &CStr) -> bool {
        let key = key(digest, executable);
        let (young, old) = {
            let generations = self.generations();
            (Arc::clone(&generations.young), generations.old.clone())
        };
        if young.link(&key, dir, name) {
            return true;
        }
        let found = old.is_some_and(|old| old.link(&key, dir, name));
        if found {
            young.add(&key, dir, name);
        }
        found
    }

    /// Takes a link to a finished file. Failing is no harm.
    pub(super) fn offer(&self, digest: &Digest, executable: bool, dir: BorrowedFd<'_>, name: &CStr) {
        let young = Arc::clone(&self.generations().young);
        young.add(&key(digest, executable), dir, name);
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

    fn link(&self, key: &CStr, dir: BorrowedFd<'_>, name: &CStr) -> bool {
        rustix::fs::linkat(&self.fd, key, dir, name, AtFlags::empty()).is_ok()
    }

    fn add(&self, key: &CStr, dir: BorrowedFd<'_>, name: &CStr) {
        if rustix::fs::linkat(dir, name, &self.fd, key, AtFlags::empty()).is_ok() {
            self.files.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.sweeper.remove(std::mem::take(&mut self.path));
    }
}

fn key(digest: &Digest, executable: bool) -> CString {
    let kind = if executable { "x" } else { "r" };
    let name = format!("{}-{}-{}{kind}", digest.function(), digest.hash_hex(), digest.size());
    c_name(name).expect("invariant: made of letters and digits")
}
