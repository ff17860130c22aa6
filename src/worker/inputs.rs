//! Staging: the input root of an action, put on disk.
//!
//! For a sandboxed action the root becomes a *tree*, built once for each root digest out of the store
//! and shared by all actions with that root ([`Inputs::stage`]): a directory of hard links that serves as
//! the read-only layer of an overlay, or a thin layer over a tree that is there and differs little. No action ever gets such a directory in its own hands:
//! a hardlink can be written through. Without a sandbox it gets private copies
//! ([`Inputs::copy_into`]).
//!
//! What an action finds: files with exactly their bytes, mode 0444 or 0555 (the permission bits of
//! `unix_mode` if given; set-id bits are dropped), directories of mode 0755, symlinks with their
//! target as sent, and the modification time [`FIXED_MTIME`] unless the node has one. Other node
//! properties have no effect, but for `SubtreeReadOnly` on directories.
//!
//! The blobs of a root are pinned while it is in use. Whether the command fits the root is
//! not looked at here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use farmhand_proto::protobuf;
use rustix::fs::Timespec;

use crate::cas::{CasError, ContentAddressableStorage, LocalBlobs, Pins};
use crate::digest::Digest;
use crate::merkle::{MerkleError, NodeProperties};

mod builder;
mod closure;
mod delta;
mod directories;
mod file_pool;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod listing;
mod sketch;
mod tree_cache;

use builder::{Builder, Marks};
use closure::Closure;
use tree_cache::{Tree, TreeCache};

use super::scratch::Sweeper;

pub use listing::InputFile;

/// Modification time of staged entries, 1 January 2000, UTC: equal on every machine and run, old
/// enough that whatever the action makes is newer, and new enough for archive formats that cannot
/// count before 1980.
pub const FIXED_MTIME: Timespec = Timespec { tv_sec: 946_684_800, tv_nsec: 0 };

/// How much staging may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InputLimits {
    /// Files, directories and symlinks in one input root, counted as often as they appear.
    pub entries: u64,
    /// Trees kept for later actions.
    pub trees: usize,
    /// Entries of all trees kept.
    pub tree_entries: u64,
    /// Bytes of all trees kept. Hardlinks count in full: they keep evicted blobs on the disk.
    pub tree_bytes: u64,
    /// Small files kept for other trees.
    pub pooled_files: u64,
}

/// Why an input root cannot be staged.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// Blobs are not in the CAS: all of them, found in one pass.
    #[error("{} input blobs are missing, the first is {}", .0.len(), .0[0])]
    Missing(Vec<Digest>),
    /// Bytes that are no usable Directory.
    #[error("{role} {digest}: {source}")]
    Malformed {
        /// Digest of the bytes.
        digest: Digest,
        /// What they should have been.
        role: &'static str,
        /// What is wrong.
        source: MerkleError,
    },
    /// More entries than allowed.
    #[error("the input root has more than {limit} entries")]
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
    /// A Directory message too large to be read.
    #[error("input directory {digest} is larger than the {limit} bytes a Directory message may have")]
    DirectoryTooLarge {
        /// Its digest.
        digest: Digest,
        /// The limit in bytes.
        limit: u64,
    },
    /// An entry that this file system cannot hold (a symlink target that is too long, say).
    #[error("cannot stage input {name:?}: {source}")]
    Unstageable {
        /// Name of the entry.
        name: String,
        /// The system's words.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Cas(CasError),
    /// The scratch disk failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was worked on.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

/// The blobs of a worker.
#[derive(Clone)]
pub struct Stores {
    /// All there are: those it does not list as missing are on this disk from then on.
    pub cas: Arc<dyn ContentAddressableStorage>,
    /// Those that are on this disk already.
    pub here: Arc<dyn ContentAddressableStorage>,
    /// The files they are in.
    pub blobs: Arc<dyn LocalBlobs>,
}

/// Stages input roots below one scratch directory.
#[derive(Debug)]
pub struct Inputs {
    cache: Arc<TreeCache>,
    max_entries: u64,
}

/// A staged input root. The layers stay, and its blobs stay pinned, while this lives.
pub struct StagedInputs {
    /// Read-only layers, the uppermost first; at least one.
    pub lower: Vec<PathBuf>,
    /// Directories below the root that the action must not write in, relative to the root; an
    /// empty path is the root itself.
    pub read_only: Vec<PathBuf>,
    /// Directories below those that it may write in all the same.
    pub writable: Vec<PathBuf>,
    _tree: Arc<Tree>,
    _pins: Arc<Pins>,
}

// === impl InputLimits ===

impl InputLimits {
    /// Limits that fit beside a store of `budget` bytes, on the same disk.
    pub fn beside(budget: u64) -> Self {
        let default = Self::default();
        // A small file takes a block of 4 KiB at least, and 32 KiB at most.
        let pooled_files = (budget / 16 / (8 << 10)).clamp(2_000, default.pooled_files);
        Self { tree_bytes: (budget / 2).clamp(64 << 20, default.tree_bytes), pooled_files, ..default }
    }
}

impl Default for InputLimits {
    fn default() -> Self {
        Self {
            entries: 1_000_000,
            trees: 1024,
            tree_entries: 1_000_000,
            tree_bytes: 32 << 30,
            pooled_files: 200_000,
        }
    }
}

// === impl InputError ===

impl InputError {
    fn io(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }
}

impl From<CasError> for InputError {
    fn from(error: CasError) -> Self {
        match error {
            CasError::NotFound(digest) => Self::Missing(vec![digest]),
            other => Self::Cas(other),
        }
    }
}

// === impl Inputs ===

impl Inputs {
    /// Opens a staging area in the empty `directory`.
    ///
    /// # Errors
    /// When its parts cannot be made.
    pub(super) fn open(
        directory: &Path,
        limits: InputLimits,
        stores: Stores,
        sweeper: Sweeper,
    ) -> io::Result<Self> {
        let cache = TreeCache::open(directory, limits, stores, sweeper)?;
        Ok(Self { cache: Arc::new(cache), max_entries: limits.entries })
    }

    /// The tree of `root`: built now, or joined, or found ready.
    ///
    /// # Errors
    /// [`InputError`].
    pub async fn stage(&self, root: Digest) -> Result<StagedInputs, InputError> {
        let (tree, pins) = self.cache.acquire(root, self.max_entries).await?;
        let Marks { read_only, writable } = &tree.marks;
        let (read_only, writable) = (read_only.clone(), writable.clone());
        Ok(StagedInputs { lower: tree.lower(), read_only, writable, _tree: tree, _pins: pins })
    }

    /// All files of `root`, by path.
    ///
    /// # Errors
    /// [`InputError`].
    pub async fn files(&self, root: Digest) -> Result<Vec<InputFile>, InputError> {
        Ok(listing::files(&self.cache.closure(root, self.max_entries).await?))
    }

    /// Blobs below `root` that are not on this disk, as far as can be told without those of them that are
    /// Directories. Nothing is brought here.
    ///
    /// # Errors
    /// [`InputError`] other than [`Missing`](InputError::Missing).
    pub async fn missing(&self, root: Digest) -> Result<Vec<Digest>, InputError> {
        missing(self.cache.closure_here(root, self.max_entries).await)
    }

    /// Has the blobs below `root` on this disk, as far as they are anywhere; those that are not.
    ///
    /// # Errors
    /// As for [`missing`](Self::missing).
    pub async fn bring(&self, root: Digest) -> Result<Vec<Digest>, InputError> {
        missing(self.cache.closure(root, self.max_entries).await)
    }

    /// Fills the empty directory `target` with private copies.
    ///
    /// # Errors
    /// [`InputError`]; the directory may then be half full.
    pub async fn copy_into(&self, root: Digest, target: PathBuf) -> Result<Pins, InputError> {
        let closure = self.cache.closure(root, self.max_entries).await?;
        let blobs = Arc::clone(self.cache.blobs());
        blocking(move || {
            let pins = blobs.pin(&closure.digests);
            Builder::private(&*blobs, &closure).build(&target)?;
            Ok(pins)
        })
        .await
    }
}

/// Blobs without which there is no closure.
fn missing(closure: Result<Closure, InputError>) -> Result<Vec<Digest>, InputError> {
    match closure {
        Ok(_) => Ok(Vec::new()),
        Err(InputError::Missing(missing)) => Ok(missing),
        Err(error) => Err(error),
    }
}

/// The modification time of a node: its own, or the fixed one.
pub(super) fn node_mtime(properties: &NodeProperties) -> Timespec {
    let own = |time: &protobuf::Timestamp| Timespec {
        tv_sec: time.seconds,
        tv_nsec: time.nanos.clamp(0, 999_999_999).into(),
    };
    properties.mtime.as_ref().map_or(FIXED_MTIME, own)
}

/// Runs disk work on a thread that may wait for it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, InputError> + Send + 'static,
) -> Result<T, InputError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(InputError::io("staging", io::Error::other(error))),
    }
}

#[cfg(test)]
mod tests;
