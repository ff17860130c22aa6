//! Outputs: what an action left behind, turned into digests.
//!
//! [`OutputRequest`] is what a Command asks for, checked. Before the run
//! [`MergedRoot::make_parents`] makes the working directory and the parents of all outputs, never
//! an output itself. After it [`collect`] looks at the action's file system as the action saw it, without
//! mounting it: the layer it wrote over the Directory messages of its inputs ([`MergedRoot`]), or the
//! plain directory it ran in. Inputs that come out unchanged keep their digest and are not read.
//!
//! Promises: an output is never reached through a symlink that leads out of the root, and a
//! symlink is reported, not followed; results carry the path exactly as asked; equal directories
//! give equal Tree bytes; when [`collect`] returns, every blob it names is stored, except for the unchanged
//! inputs, which it lists. Sockets, pipes and devices are left out, with a note for people.
//!
//! It may only be called when no process of the action is left, or with [`Collection::are_open`]: then nothing
//! enters the store but copies, which are hashed themselves.

use std::collections::HashSet;
use std::ffi::CString;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use farmhand_proto::{protobuf, reapi};
use prost::Message;

use crate::cas::{CasError, LocalBlobs};
use crate::digest::{Digest, DigestFunction};
use crate::merkle::MerkleError;

mod files;
mod place;
mod request;
mod tree;
mod view;

use files::FileStore;
use request::Declared;
use view::{Attributes, Found, Kind, Position, Resolved};

pub use place::Place;
pub use request::{OutputRequest, RequestError};
pub use view::{LinkRoot, MergedRoot};

/// Why outputs could not be collected.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// More entries than allowed.
    #[error("the outputs have more than {limit} entries")]
    TooManyEntries {
        /// The limit.
        limit: u64,
    },
    /// Inputs that came out as outputs are gone from the CAS.
    #[error("{} input blobs are missing, the first is {}", .0.len(), .0[0])]
    Missing(Vec<Digest>),
    /// An input Directory that does not parse any more.
    #[error("input directory {digest}: {source}")]
    Malformed {
        /// Its digest.
        digest: Digest,
        /// What is wrong.
        source: MerkleError,
    },
    /// The store failed.
    #[error(transparent)]
    Cas(CasError),
    /// The scratch disk failed.
    #[error("{name:?}: {source}")]
    Io {
        /// What was worked on.
        name: String,
        /// The system's words.
        source: io::Error,
    },
}

/// Bytes of the largest result of an action: with what stands around it in an `Operation`, it has
/// to fit into a message of 4 MiB, the most that clients take.
pub const MAX_RESULT: usize = 4 * 1024 * 1024 - 64 * 1024;

/// Outputs that were left out and are told one by one; the rest is only counted.
const MAX_NOTES: usize = 50;

/// Everything [`collect`] needs to know besides the root.
pub struct Collection {
    /// Takes the blobs.
    pub blobs: Arc<dyn LocalBlobs>,
    /// Names them.
    pub function: DigestFunction,
    /// A directory on the file system of the outputs, for files (`output-*`) on their way to the store.
    pub spool: PathBuf,
    /// Entries of all outputs together.
    pub max_entries: u64,
    /// Whether a process may have the outputs open still, and write to them.
    pub are_open: bool,
}

/// What came of an action.
#[derive(Debug, Default)]
pub struct Collected {
    /// The output fields of the result.
    pub result: reapi::ActionResult,
    /// Why the outputs cannot be taken, as when one is of another kind than the Command says.
    pub refused: Option<String>,
    /// Things people should know: what was left out.
    pub notes: Vec<String>,
    /// Input blobs that the result names: the caller makes sure that they are stored.
    pub reused: HashSet<Digest>,
}

struct Collector<'a> {
    request: &'a OutputRequest,
    files: FileStore,
    entries: u64,
    max_entries: u64,
    done: Collected,
    /// Notes beyond [`MAX_NOTES`].
    unnoted: usize,
}

/// Collects the outputs of `request` from `root`. Blocks: it reads and hashes everything new.
///
/// # Errors
/// [`OutputError`].
pub fn collect(
    root: &MergedRoot,
    request: &OutputRequest,
    collection: Collection,
) -> Result<Collected, OutputError> {
    let mut collector = Collector {
        request,
        files: FileStore::new(collection.blobs, collection.function, collection.spool, collection.are_open),
        entries: 0,
        max_entries: collection.max_entries,
        done: Collected::default(),
        unnoted: 0,
    };
    let mut position = root.position()?;
    for path in &request.paths {
        collector.collect(&mut position, path)?;
    }
    Ok(collector.into_collected())
}

/// Stores the log at `path`; an absent one is empty. Blocks.
///
/// # Errors
/// [`OutputError`].
pub fn store_log(collection: &Collection, path: &std::path::Path) -> Result<Digest, OutputError> {
    let (blobs, spool) = (Arc::clone(&collection.blobs), collection.spool.clone());
    FileStore::new(blobs, collection.function, spool, false).keep_log(path)
}

// === impl OutputError ===

impl OutputError {
    /// Whether the action is at fault, and not the machine.
    pub fn is_of_the_action(&self) -> bool {
        matches!(self, Self::TooManyEntries { .. } | Self::Cas(CasError::TooLarge { .. }))
    }

    fn io(name: impl Into<String>, source: io::Error) -> Self {
        Self::Io { name: name.into(), source }
    }
}

impl From<CasError> for OutputError {
    fn from(error: CasError) -> Self {
        match error {
            CasError::NotFound(digest) => Self::Missing(vec![digest]),
            other => Self::Cas(other),
        }
    }
}

// === impl Collector ===

impl Collector<'_> {
    fn collect(&mut self, at: &mut Position<'_>, path: &request::RequestedPath) -> Result<(), OutputError> {
        match at.resolve(&path.place, false)? {
            Resolved::Absent | Resolved::Outside => {}
            Resolved::Directory if path.declared == Declared::File => {
                self.refuse(format!("output_files entry {:?} is a directory", path.asked));
            }
            Resolved::Directory => {
                let captured = self.capture(at)?;
                self.done.result.output_directories.push(reapi::OutputDirectory {
                    path: path.asked.clone(),
                    tree_digest: Some(captured.tree.to_wire()),
                    is_topologically_sorted: true,
                    root_directory_digest: Some(captured.root.to_wire()),
                });
            }
            Resolved::Entry(name, found) => self.collect_entry(at, path, name, found)?,
        }
        Ok(())
    }

    fn collect_entry(
        &mut self,
        at: &mut Position<'_>,
        path: &request::RequestedPath,
        name: CString,
        found: Found,
    ) -> Result<(), OutputError> {
        self.count(1)?;
        match found.kind {
            Kind::Symlink(target) => self.collect_symlink(at, path, target, found.attributes)?,
            Kind::Special(what) => {
                self.note(format!("output {:?} is a {what} and was left out", path.asked));
            }
            _ if path.declared == Declared::Directory => {
                self.refuse(format!("output_directories entry {:?} is a file", path.asked));
            }
            _ => {
                let (digest, attributes) = self.keep(at, &name, &found)?;
                self.done.result.output_files.push(reapi::OutputFile {
                    path: path.asked.clone(),
                    digest: Some(digest.to_wire()),
                    is_executable: attributes.is_executable(),
                    contents: Vec::new(),
                    node_properties: self.properties(&attributes),
                });
            }
        }
        Ok(())
    }

    #[expect(deprecated, reason = "older clients read the older fields")]
    fn collect_symlink(
        &mut self,
        at: &mut Position<'_>,
        path: &request::RequestedPath,
        target: Vec<u8>,
        attributes: Attributes,
    ) -> Result<(), OutputError> {
        let Ok(target) = String::from_utf8(target) else {
            let note =
                format!("output {:?} is a symlink whose target is not UTF-8; it was left out", path.asked);
            self.note(note);
            return Ok(());
        };
        let leads_to = at.resolve(&path.place, true)?;
        let to_directory = matches!(leads_to, Resolved::Directory);
        let to_file = matches!(leads_to, Resolved::Entry(..));
        match path.declared {
            Declared::File if to_directory => {
                self.refuse(format!("output_files entry {:?} is a symlink to a directory", path.asked));
                return Ok(());
            }
            Declared::Directory if to_file => {
                self.refuse(format!("output_directories entry {:?} is a symlink to a file", path.asked));
                return Ok(());
            }
            _ => {}
        }
        let symlink = reapi::OutputSymlink {
            path: path.asked.clone(),
            target,
            node_properties: self.properties(&attributes),
        };
        let result = &mut self.done.result;
        if path.declared == Declared::Any {
            result.output_symlinks.push(symlink.clone());
        }
        // A dangling link counts as one to a file unless a directory was asked for.
        if to_directory || path.declared == Declared::Directory {
            result.output_directory_symlinks.push(symlink);
        } else {
            result.output_file_symlinks.push(symlink);
        }
        Ok(())
    }

    /// Digest and attributes of a file, which is stored if the action wrote it.
    fn keep(
        &mut self,
        at: &Position<'_>,
        name: &CString,
        found: &Found,
    ) -> Result<(Digest, Attributes), OutputError> {
        if let Kind::LowerFile(digest) = found.kind {
            self.done.reused.insert(digest);
            return Ok((digest, found.attributes));
        }
        self.files.keep(at.upper_fd(), name)
    }

    /// The node properties that were asked for.
    fn properties(&self, attributes: &Attributes) -> Option<reapi::NodeProperties> {
        let wanted = self.request.properties;
        (wanted.mtime || wanted.unix_mode).then(|| reapi::NodeProperties {
            properties: Vec::new(),
            mtime: wanted.mtime.then(|| protobuf::Timestamp {
                seconds: attributes.mtime.tv_sec,
                nanos: i32::try_from(attributes.mtime.tv_nsec).unwrap_or_default(),
            }),
            unix_mode: wanted.unix_mode.then_some(protobuf::UInt32Value { value: attributes.mode }),
        })
    }

    fn note(&mut self, text: String) {
        if self.done.notes.len() < MAX_NOTES {
            self.done.notes.push(text);
        } else {
            self.unnoted += 1;
        }
    }

    /// What was collected, as far as it can be sent.
    fn into_collected(mut self) -> Collected {
        let size = self.done.result.encoded_len();
        if size > MAX_RESULT {
            self.refuse(format!(
                "the outputs make a result of {size} bytes, and no message can have more than {MAX_RESULT}; \
                 output directories take less than single files"
            ));
            self.done.result = reapi::ActionResult::default();
        }
        if self.unnoted > 0 {
            self.done.notes.push(format!("{} more were left out", self.unnoted));
        }
        self.done
    }

    fn refuse(&mut self, text: String) {
        self.done.refused.get_or_insert(text);
    }

    fn count(&mut self, entries: usize) -> Result<(), OutputError> {
        self.entries = self.entries.saturating_add(entries as u64);
        if self.entries > self.max_entries {
            return Err(OutputError::TooManyEntries { limit: self.max_entries });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
