//! Archives: tar (plain, or in gzip, zstd, xz or bzip2) and zip, unpacked into a tree.
//!
//! The libraries decompress; what an entry may be is decided here. Which kind of archive it is, its first bytes
//! say. Everything is bounded: bytes that come out, entries, names, memory of the decompressors. Devices, sockets
//! and sparse files are refused, and so is all that `tree` refuses. Blocking: for threads that may
//! wait for a disk.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;

use super::error::{FetchError, OriginError};
use super::tree::{TreeBuilder, TreeError};
use crate::digest::Digest;
use crate::path::RootPath;

mod tar;
mod zip;

/// KiB that unpacking xz may take: more than `xz -9` needs, which is 64 MiB.
const XZ_MEMORY: u32 = 256 * 1024;

/// Base-2 logarithm of the window of zstd: what the command takes without being told.
const ZSTD_WINDOW: u32 = 27;

/// The bytes of an archive.
pub trait Source: Read + Seek {}

impl<S: Read + Seek> Source for S {}

/// Where the files of an archive go.
pub trait Shelf {
    /// Stores all that comes out of `content`, `limit` bytes at most.
    ///
    /// # Errors
    /// [`FetchError`]; [`OriginError::TooLarge`] when there is more.
    fn shelve(&self, content: &mut dyn Read, limit: u64) -> Result<Digest, FetchError>;
}

/// Says that nobody waits any more.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

/// Stops when it is dropped.
#[derive(Debug, Default)]
pub struct StopGuard(Stop);

/// What is unpacked.
pub(super) struct Unpacked<'a> {
    tree: TreeBuilder,
    shelf: &'a dyn Shelf,
    limit: u64,
    left: u64,
}

/// Gives no more than so many bytes, and none when stopped.
struct Bounded<R> {
    inner: R,
    left: u64,
    stop: Stop,
}

/// Unpacks `source`; what comes out of it has `limit` bytes at most.
///
/// # Errors
/// [`OriginError::Unusable`] for what is no archive, or one that is not safe; [`OriginError::TooLarge`].
pub fn unpack(
    source: &mut dyn Source,
    shelf: &dyn Shelf,
    limit: u64,
    stop: &Stop,
) -> Result<TreeBuilder, FetchError> {
    let mut magic = [0; 6];
    let length = read_full(source, &mut magic).map_err(unusable)?;
    source.seek(SeekFrom::Start(0)).map_err(unusable)?;
    if length == 0 {
        return Err(unusable("it is empty"));
    }
    let mut unpacked = Unpacked { tree: TreeBuilder::default(), shelf, limit, left: limit };
    if magic.starts_with(b"PK\x03\x04") || magic.starts_with(b"PK\x05\x06") {
        let mut bounded = Bounded { inner: source, left: u64::MAX, stop: stop.clone() };
        zip::unpack(&mut bounded, &mut unpacked)?;
        return Ok(unpacked.tree);
    }
    let plain: Box<dyn Read + '_> = match &magic[..length] {
        [0x1f, 0x8b, ..] => Box::new(MultiGzDecoder::new(io::BufReader::new(source))),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::stream::read::Decoder::new(source).map_err(unusable)?;
            decoder.window_log_max(ZSTD_WINDOW).map_err(unusable)?;
            Box::new(decoder)
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            Box::new(XzReader::new_mem_limit(io::BufReader::new(source), true, XZ_MEMORY))
        }
        [b'B', b'Z', b'h', ..] => Box::new(MultiBzDecoder::new(io::BufReader::new(source))),
        _ => Box::new(source),
    };
    let mut plain = Bounded { inner: plain, left: limit, stop: stop.clone() };
    // What compresses has checksums, and the last of them stands at the end.
    let done = tar::unpack(&mut plain, &mut unpacked)
        .and_then(|()| io::copy(&mut plain, &mut io::sink()).map(drop).map_err(unusable));
    if plain.left == 0 && done.is_err() {
        return Err(OriginError::TooLarge(limit).into());
    }
    done?;
    Ok(unpacked.tree)
}

/// An archive that does not read. Some words are out of the archive.
fn unusable(error: impl ToString) -> FetchError {
    let shown = error.to_string().chars().filter(|c| !c.is_control()).take(300).collect();
    OriginError::Unusable(shown).into()
}

/// Reads until `buffer` is full or nothing is left; the bytes read.
fn read_full(source: &mut (impl Read + ?Sized), buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match source.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

impl From<TreeError> for FetchError {
    fn from(error: TreeError) -> Self {
        match error {
            TreeError::Absent(directory) => {
                OriginError::Absent(format!("directory {directory:?} in it")).into()
            }
            error => unusable(error),
        }
    }
}

// === impl Unpacked ===

impl Unpacked<'_> {
    /// Stores the content of an entry.
    fn file(
        &mut self,
        path: &RootPath,
        is_executable: bool,
        content: &mut dyn Read,
    ) -> Result<(), FetchError> {
        let digest = self.shelf.shelve(content, self.left).map_err(|error| match error {
            FetchError::Origin(OriginError::TooLarge(_)) => OriginError::TooLarge(self.limit).into(),
            error => error,
        })?;
        self.left = self.left.saturating_sub(digest.size());
        Ok(self.tree.add_file(path, digest, is_executable)?)
    }
}

// === impl Stop ===

impl Stop {
    pub(super) fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl StopGuard {
    /// What to give to who works.
    pub fn stop(&self) -> Stop {
        self.0.clone()
    }
}

impl Drop for StopGuard {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

// === impl Bounded ===

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.is_stopped() {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        if self.left == 0 && !buffer.is_empty() {
            // The end may just be here.
            return match self.inner.read(&mut [0])? {
                0 => Ok(0),
                _ => Err(io::Error::other("it is too large")),
            };
        }
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let length = self.inner.read(&mut buffer[..most])?;
        self.left -= length as u64;
        Ok(length)
    }
}

impl<R: Seek> Seek for Bounded<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

#[cfg(test)]
mod tests;
