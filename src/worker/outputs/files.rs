//! [`FileStore`]: files an action wrote, on their way into the store.

use std::collections::HashMap;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::OutputError;
use super::view::Attributes;
use crate::cas::LocalBlobs;
use crate::digest::{Digest, DigestFunction, Hasher};
use crate::worker::scratch::chmod;

/// Files up to this size are handed over as bytes, larger ones as files.
const SMALL: u64 = 32 * 1024;

/// Bytes read at once.
const PIECE: usize = 256 * 1024;

/// Hashes files and hands them to the store.
pub(super) struct FileStore {
    blobs: Arc<dyn LocalBlobs>,
    function: DigestFunction,
    spool: PathBuf,
    spooled: u64,
    /// Whether files are copied before they are looked at.
    copies_first: bool,
    /// What is known of inodes that may come by again: their mode may have changed since.
    known: HashMap<(u64, u64), (Digest, Attributes)>,
    buffer: Vec<u8>,
}

impl FileStore {
    pub(super) fn new(
        blobs: Arc<dyn LocalBlobs>,
        function: DigestFunction,
        spool: PathBuf,
        copies_first: bool,
    ) -> Self {
        Self { blobs, function, spool, spooled: 0, copies_first, known: HashMap::new(), buffer: Vec::new() }
    }

    pub(super) fn function(&self) -> DigestFunction {
        self.function
    }

    /// Stores bytes that were made here.
    pub(super) fn keep_bytes(&self, data: &[u8]) -> Result<Digest, OutputError> {
        let digest = Digest::of(self.function, data);
        self.blobs.store(&digest, data)?;
        Ok(digest)
    }

    /// Stores the file `name` of `dir`, and tells the attributes the action gave it.
    pub(super) fn keep(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
    ) -> Result<(Digest, Attributes), OutputError> {
        let failed = |error| OutputError::io(name.to_string_lossy(), error);
        let (mut file, stat) = open(dir, name).map_err(failed)?;
        let inode = (stat.st_dev, stat.st_ino);
        if let Some(known) = self.known.get(&inode) {
            return Ok(*known);
        }
        let attributes = Attributes::of(&stat);
        if self.copies_first {
            let path = self.copy(&file).map_err(failed)?;
            let digest = self.keep_log(&path)?;
            discard(&path).map_err(failed)?;
            return Ok((digest, attributes));
        }
        let digest = self.hash(&mut file).map_err(failed)?;
        if digest.size() <= SMALL {
            self.blobs.store(&digest, &self.buffer[..digest.size() as usize])?;
        } else {
            let spooled = self.spool(dir, name, &file, &stat).map_err(failed)?;
            drop(file);
            self.blobs.adopt(&digest, &spooled)?;
            discard(&spooled).map_err(failed)?;
            self.known.insert(inode, (digest, attributes));
        }
        Ok((digest, attributes))
    }

    /// Stores the log (or the copy) at `path`, which nobody writes any more. An absent one is empty.
    pub(super) fn keep_log(&mut self, path: &Path) -> Result<Digest, OutputError> {
        let failed = |error| OutputError::io(path.to_string_lossy(), error);
        let mut file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return self.keep_bytes(&[]),
            other => other.map_err(failed)?,
        };
        let digest = self.hash(&mut file).map_err(failed)?;
        if digest.size() <= SMALL {
            self.blobs.store(&digest, &self.buffer[..digest.size() as usize])?;
        } else {
            drop(file);
            self.blobs.adopt(&digest, path)?;
        }
        Ok(digest)
    }

    /// Hashes `file` up to its end. A file of one piece is left in the buffer.
    fn hash(&mut self, file: &mut File) -> io::Result<Digest> {
        self.buffer.resize(PIECE, 0);
        let mut hasher = Hasher::new(self.function);
        loop {
            let mut filled = 0;
            while filled < PIECE {
                match file.read(&mut self.buffer[filled..]) {
                    Ok(0) => break,
                    Ok(more) => filled += more,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
            hasher.update(&self.buffer[..filled]);
            if filled < PIECE {
                return Ok(hasher.finish());
            }
        }
    }

    /// A second name for the file, which the store may take away: the first one stays for outputs
    /// that contain this one too. Files with further names are copied, since the action may have put
    /// one where it outlives the run.
    fn spool(&mut self, dir: BorrowedFd<'_>, name: &CStr, file: &File, stat: &Stat) -> io::Result<PathBuf> {
        let path = self.next_in_spool();
        let single = u64::from(stat.st_nlink as u32) == 1;
        if single && rustix::fs::linkat(dir, name, CWD, &path, AtFlags::empty()).is_ok() {
            return Ok(path);
        }
        copy_to(&path, file)?;
        Ok(path)
    }

    /// A file that is nobody else's, with the bytes of this one.
    fn copy(&mut self, file: &File) -> io::Result<PathBuf> {
        let path = self.next_in_spool();
        copy_to(&path, file)?;
        Ok(path)
    }

    fn next_in_spool(&mut self) -> PathBuf {
        self.spooled += 1;
        self.spool.join(format!("output-{}", self.spooled))
    }
}

fn copy_to(path: &Path, file: &File) -> io::Result<()> {
    let mut copy = File::create_new(path)?;
    if rustix::fs::ioctl_ficlone(&copy, file).is_err() {
        rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0))?;
        io::copy(&mut &*file, &mut copy)?;
    }
    Ok(())
}

/// Opens a regular file for reading, whatever its mode.
fn open(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<(File, Stat)> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let try_open = || rustix::fs::openat(dir, name, flags, Mode::empty());
    let before = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let fd = match try_open() {
        Err(Errno::ACCESS) => {
            chmod(dir, name, 0o600)?;
            let opened = try_open();
            chmod(dir, name, before.st_mode & 0o7777)?;
            opened?
        }
        other => other?,
    };
    Ok((fd.into(), before))
}

/// Removes what the store did not take.
fn discard(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
