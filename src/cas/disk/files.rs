//! Files: one for each large blob, named by its digest, and the temporary ones on their way there.
//!
//! `blobs/ab/<function>-<hash>-<size>` has mode 0444; an executable twin, made when first asked for,
//! has `-x` behind its name and mode 0555. Installing and removing the file of one digest exclude
//! each other by [`Files::lock`]. Whether a file counts is decided by its note in a pack, never by
//! its being there.

use std::fs::File;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::digest::{Digest, DigestFunction};

const STRIPES: usize = 64;
const TWIN_SUFFIX: &str = "-x";

/// Bytes of a block: what a file's size is rounded up to on disk.
const BLOCK: u64 = 4096;

/// The files of a store.
pub(super) struct Files {
    blobs: PathBuf,
    temporary: PathBuf,
    counter: AtomicU64,
    stripes: Vec<Mutex<()>>,
}

/// A file that vanishes unless it is given its final name.
pub(super) struct TempFile {
    pub(super) file: File,
    path: PathBuf,
    kept: bool,
}

/// A name found in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlobName {
    pub(super) digest: Digest,
    pub(super) is_twin: bool,
}

/// Bytes of disk a file of `size` takes.
pub(super) fn disk_bytes(size: u64) -> u64 {
    size.div_ceil(BLOCK) * BLOCK
}

// === impl Files ===

impl Files {
    /// The files below `root`, with all directories made and nothing left of earlier uploads.
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let (blobs, temporary) = (root.join("blobs"), root.join("tmp"));
        if !blobs.join("ff").exists() {
            std::fs::create_dir_all(&blobs)?;
            for first in 0..=u8::MAX {
                make_directory(&blobs.join(format!("{first:02x}")))?;
            }
            File::open(&blobs)?.sync_all()?;
        }
        make_directory(&temporary)?;
        for entry in std::fs::read_dir(&temporary)? {
            std::fs::remove_file(entry?.path())?;
        }
        let stripes = (0..STRIPES).map(|_| Mutex::default()).collect();
        Ok(Self { blobs, temporary, counter: AtomicU64::new(0), stripes })
    }

    /// Path of the blob, or of its executable twin.
    pub(super) fn path(&self, digest: &Digest, twin: bool) -> PathBuf {
        let hash = digest.hash_hex();
        let suffix = if twin { TWIN_SUFFIX } else { "" };
        let name = format!("{}-{hash}-{}{suffix}", digest.function(), digest.size());
        self.blobs.join(&hash[..2]).join(name)
    }

    /// The directory the blob's file is in.
    pub(super) fn directory(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(format!("{:02x}", digest.hash()[0]))
    }

    /// Excludes other changes to the files of this digest.
    pub(super) fn lock(&self, digest: &Digest) -> MutexGuard<'_, ()> {
        let stripe = usize::from(digest.hash()[1]) % STRIPES;
        self.stripes[stripe].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new temporary file.
    pub(super) fn temporary(&self) -> Result<TempFile, (PathBuf, io::Error)> {
        let path = self.temporary.join(self.counter.fetch_add(1, Ordering::Relaxed).to_string());
        match File::options().read(true).write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => Ok(TempFile { file, path, kept: false }),
            Err(error) => Err((path, error)),
        }
    }

    /// Removes the blob's file and its twin. What is not there is fine.
    pub(super) fn remove(&self, digest: &Digest) -> io::Result<()> {
        remove_if_there(&self.path(digest, true))?;
        remove_if_there(&self.path(digest, false))
    }

    /// Visits every file in the tree; names that are none of ours are passed over.
    pub(super) fn walk<E: From<io::Error>>(
        &self,
        mut visit: impl FnMut(&Path, BlobName) -> Result<(), E>,
    ) -> Result<(), E> {
        for directory in std::fs::read_dir(&self.blobs)? {
            let directory = directory?;
            if !directory.file_type()?.is_dir() {
                continue;
            }
            for entry in std::fs::read_dir(directory.path())? {
                let entry = entry?;
                if let Some(name) = entry.file_name().to_str().and_then(BlobName::parse) {
                    visit(&entry.path(), name)?;
                }
            }
        }
        Ok(())
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

/// Removes a file; one that is not there is fine.
pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

// === impl TempFile ===

impl TempFile {
    /// Takes hold of a file that was made elsewhere; it vanishes unless persisted.
    pub(super) fn take_over(file: File, path: PathBuf) -> Self {
        Self { file, path, kept: false }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the mode, closes the file and gives it its name. On failure the file is gone.
    pub(super) fn persist(mut self, target: &Path, mode: u32) -> io::Result<()> {
        self.file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        std::fs::rename(&self.path, target)?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.kept {
            // A leftover is removed at the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

// === impl BlobName ===

impl BlobName {
    fn parse(name: &str) -> Option<Self> {
        let (plain, is_twin) = name.strip_suffix(TWIN_SUFFIX).map_or((name, false), |plain| (plain, true));
        let mut parts = plain.splitn(3, '-');
        let function = DigestFunction::from_segment(parts.next()?)?.ok()?;
        let (hash, size) = (parts.next()?, parts.next()?);
        let digest = Digest::parse(function, hash, size.parse().ok()?).ok()?;
        // Only the one spelling of a number.
        (digest.size().to_string() == size).then_some(Self { digest, is_twin })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn names_round_trip_and_strangers_are_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let files = Files::open(root.path()).unwrap();
        for function in DigestFunction::ALL {
            let digest = Digest::of(function, b"some data");
            for is_twin in [false, true] {
                let path = files.path(&digest, is_twin);
                assert!(path.starts_with(files.directory(&digest)));
                let name = path.file_name().unwrap().to_str().unwrap();
                assert_eq!(BlobName::parse(name), Some(BlobName { digest, is_twin }));
            }
        }
        let hash = "ab".repeat(32);
        for name in ["", "sha256", "x-y-z", &format!("sha256-{hash}-+5"), &format!("sha256-{hash}-05")] {
            assert_eq!(BlobName::parse(name), None, "{name}");
        }
    }

    #[test]
    fn temporary_files_vanish_unless_persisted() {
        use std::os::unix::fs::MetadataExt;
        let root = tempfile::tempdir().unwrap();
        let files = Files::open(root.path()).unwrap();
        let digest = Digest::of(DigestFunction::Sha256, b"#!/bin/true\n");
        for (twin, mode) in [(false, 0o444), (true, 0o555)] {
            let temp = files.temporary().unwrap();
            (&temp.file).write_all(b"#!/bin/true\n").unwrap();
            temp.persist(&files.path(&digest, twin), mode).unwrap();
            assert_eq!(files.path(&digest, twin).metadata().unwrap().mode() & 0o777, mode);
        }
        let mut seen = 0;
        files.walk(|_, name| Ok::<(), io::Error>(seen += usize::from(name.digest == digest))).unwrap();
        assert_eq!(seen, 2);
        files.remove(&digest).unwrap();
        files.remove(&digest).unwrap();
        drop(files.temporary().unwrap());
        assert_eq!(std::fs::read_dir(root.path().join("tmp")).unwrap().count(), 0);
    }
}
