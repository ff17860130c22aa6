//! [`Spool`]: bytes whose digest is not known before the last of them, on their way into the store.
//!
//! They are written to a file, hashed on the way, and the file becomes the blob. Files that a killed node
//! left are removed when the next one starts.

use std::fs::{self, File};
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::archive::{Shelf, Source};
use super::error::{FetchError, OriginError};
use super::git::PackShelf;
use super::integrity::{Checker, Checksum, Integrity};
use crate::cas::{CasError, LocalBlobs};
use crate::digest::{Digest, DigestFunction, Hasher};

/// Bytes that are kept in memory before there is a file.
const IN_MEMORY: usize = 256 * 1024;

/// Bytes read at once.
const PIECE: usize = 64 * 1024;

/// Where bytes wait for their end.
#[derive(Clone)]
pub(super) struct Spool(Arc<Inner>);

struct Inner {
    directory: PathBuf,
    blobs: Arc<dyn LocalBlobs>,
    next: AtomicU64,
}

/// A spool for blobs of one digest function.
pub(super) struct Bound {
    pub(super) spool: Spool,
    pub(super) function: DigestFunction,
}

/// Bytes under way. Dropping it forgets them. Its calls may wait for a disk.
pub(super) struct Spooled {
    spool: Spool,
    hasher: Hasher,
    checker: Checker,
    limit: u64,
    memory: Vec<u8>,
    file: Option<TemporaryFile>,
}

struct TemporaryFile {
    file: File,
    path: PathBuf,
}

/// Bytes that become no blob. Its calls may wait for a disk.
pub(super) struct Scratch(TemporaryFile);

/// What became of the bytes.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) digest: Digest,
    /// By the algorithms that were asked for.
    pub(super) sums: Vec<Checksum>,
}

// === impl Spool ===

impl Spool {
    /// Has files in `directory`, which is emptied, and blobs in `blobs`.
    pub(super) fn open(directory: PathBuf, blobs: Arc<dyn LocalBlobs>) -> io::Result<Self> {
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&directory)?,
        }
        Ok(Self(Arc::new(Inner { directory, blobs, next: AtomicU64::new(0) })))
    }

    /// Begins a blob of `limit` bytes at most.
    pub(super) fn begin(
        &self,
        function: DigestFunction,
        integrity: Option<&Integrity>,
        limit: u64,
    ) -> Spooled {
        Spooled {
            spool: self.clone(),
            hasher: Hasher::new(function),
            checker: Checker::new(integrity),
            limit,
            memory: Vec::new(),
            file: None,
        }
    }

    /// Stores bytes that are in memory.
    pub(super) fn store(&self, function: DigestFunction, data: &[u8]) -> Result<Digest, FetchError> {
        let digest = Digest::of(function, data);
        self.0.blobs.store(&digest, data)?;
        Ok(digest)
    }

    /// The bytes of a blob that is here. Others may evict it meanwhile.
    pub(super) fn open_blob(&self, digest: &Digest) -> Result<Box<dyn Source + Send>, FetchError> {
        let Some(path) = self.0.blobs.file(digest, false)? else {
            return Ok(Box::new(Cursor::new(self.0.blobs.load(digest)?)));
        };
        let file = File::open(&path).map_err(|error| FetchError::file(&path, error))?;
        Ok(Box::new(file))
    }

    /// A file for bytes that are to be no blob; it is gone when this is dropped.
    pub(super) fn scratch(&self) -> Result<Scratch, FetchError> {
        Ok(Scratch(self.temporary()?))
    }

    fn temporary(&self) -> Result<TemporaryFile, FetchError> {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let path = self.0.directory.join(number.to_string());
        let file = File::options().read(true).write(true).create_new(true).open(&path);
        Ok(TemporaryFile { file: file.map_err(|error| FetchError::file(&path, error))?, path })
    }
}

impl Shelf for Bound {
    fn shelve(&self, content: &mut dyn Read, limit: u64) -> Result<Digest, FetchError> {
        let mut spooled = self.spool.begin(self.function, None, limit);
        let mut buffer = vec![0; PIECE];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => return Ok(spooled.finish(|_| Ok(()))?.digest),
                Ok(length) => spooled.write(&buffer[..length])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(OriginError::Unusable(error.to_string()).into()),
            }
        }
    }
}

impl PackShelf for Bound {
    fn take(&self, digest: &Digest) -> Result<Bytes, FetchError> {
        let mut data = Vec::new();
        let read = self.spool.open_blob(digest)?.read_to_end(&mut data);
        read.map_err(|error| CasError::io(digest.to_string(), error))?;
        Ok(data.into())
    }
}

// === impl Spooled ===

impl Spooled {
    /// Takes the next bytes.
    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), FetchError> {
        if self.hasher.size() + data.len() as u64 > self.limit {
            return Err(OriginError::TooLarge(self.limit).into());
        }
        self.hasher.update(data);
        self.checker.update(data);
        if self.file.is_none() && self.memory.len() + data.len() <= IN_MEMORY {
            self.memory.extend_from_slice(data);
            return Ok(());
        }
        if self.file.is_none() {
            let mut file = self.spool.temporary()?;
            file.write(&std::mem::take(&mut self.memory))?;
            self.file = Some(file);
        }
        self.file.as_mut().map_or(Ok(()), |file| file.write(data))
    }

    /// Stores what was taken.
    pub(super) fn finish(
        self,
        fits: impl FnOnce(&[Checksum]) -> Result<(), OriginError>,
    ) -> Result<Stored, FetchError> {
        let stored = Stored { digest: self.hasher.finish(), sums: self.checker.finish() };
        fits(&stored.sums)?;
        let blobs = &self.spool.0.blobs;
        match self.file {
            None => blobs.store(&stored.digest, &self.memory)?,
            Some(file) => blobs.adopt(&stored.digest, &file.path)?,
        }
        Ok(stored)
    }
}

// === impl Scratch ===

impl Scratch {
    /// Adds the next bytes.
    pub(super) fn write(&mut self, data: &[u8]) -> Result<(), FetchError> {
        self.0.write(data)
    }

    /// All that was written, from the beginning.
    pub(super) fn source(&mut self) -> Result<&mut File, FetchError> {
        let TemporaryFile { file, path } = &mut self.0;
        file.seek(SeekFrom::Start(0)).map_err(|error| FetchError::file(path, error))?;
        Ok(file)
    }
}

// === impl TemporaryFile ===

impl TemporaryFile {
    fn write(&mut self, data: &[u8]) -> Result<(), FetchError> {
        self.file.write_all(data).map_err(|error| FetchError::file(&self.path, error))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a file that may be a blob by now.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %path.display(), "a temporary file is left until the next start");
    }
}
