//! Output directories: captured as a Tree and as Directory blobs.
//!
//! Entries are sorted by name, each distinct Directory stands once in the Tree, and parents come
//! before their children, so the bytes depend on the content alone. The Tree is written in the
//! record form that `OutputDirectory.is_topologically_sorted` promises.

use std::collections::HashSet;
use std::ffi::CString;
use std::vec;

use farmhand_proto::reapi;
use prost::Message;
use prost::encoding::encode_varint;

use super::view::{Found, Kind, Position};
use super::{Collector, OutputError};
use crate::digest::Digest;

/// Tag of `Tree.root`, length-delimited.
const ROOT_TAG: u8 = 0x0a;

/// Tag of `Tree.children`, length-delimited.
const CHILD_TAG: u8 = 0x12;

/// Digests of a captured directory.
pub(super) struct Captured {
    pub(super) tree: Digest,
    pub(super) root: Digest,
}

/// A directory that is being read.
struct Frame {
    name: String,
    left: vec::IntoIter<(CString, Found)>,
    directory: reapi::Directory,
}

/// Distinct directories, children before parents.
#[derive(Default)]
struct Finished {
    seen: HashSet<Digest>,
    encoded: Vec<Vec<u8>>,
}

impl Collector<'_> {
    /// Captures the directory that `at` stands in, and comes back to it.
    pub(super) fn capture(&mut self, at: &mut Position<'_>) -> Result<Captured, OutputError> {
        let mut finished = Finished::default();
        let mut stack = vec![self.open(at, String::new())?];
        loop {
            let frame = stack.last_mut().expect("invariant: the root leaves by return");
            if let Some((name, found)) = frame.left.next() {
                if let Some(child) = self.take(at, frame, name, found)? {
                    stack.push(child);
                }
                continue;
            }
            let frame = stack.pop().expect("invariant: it was there a moment ago");
            let root = self.finish(frame.directory, &mut finished)?;
            let Some(parent) = stack.last_mut() else {
                let tree = self.files.keep_bytes(&finished.into_tree())?;
                return Ok(Captured { tree, root });
            };
            at.leave()?;
            parent
                .directory
                .directories
                .push(reapi::DirectoryNode { name: frame.name, digest: Some(root.to_wire()) });
        }
    }

    fn open(&mut self, at: &Position<'_>, name: String) -> Result<Frame, OutputError> {
        let mut entries = at.entries()?;
        self.count(entries.len())?;
        entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let node_properties = self.properties(&at.attributes());
        let directory = reapi::Directory { node_properties, ..Default::default() };
        Ok(Frame { name, left: entries.into_iter(), directory })
    }

    /// Adds an entry to its directory; a subdirectory is entered and becomes a frame.
    fn take(
        &mut self,
        at: &mut Position<'_>,
        frame: &mut Frame,
        name: CString,
        found: Found,
    ) -> Result<Option<Frame>, OutputError> {
        let Ok(text) = name.to_str().map(str::to_owned) else {
            let note = format!("an output named {:?} is not UTF-8 and was left out", name.to_string_lossy());
            self.note(note);
            return Ok(None);
        };
        match found.kind {
            Kind::Directory => {
                at.enter(&name)?;
                return self.open(at, text).map(Some);
            }
            Kind::Symlink(target) => match String::from_utf8(target) {
                Ok(target) => frame.directory.symlinks.push(reapi::SymlinkNode {
                    name: text,
                    target,
                    node_properties: self.properties(&found.attributes),
                }),
                Err(_) => self.note(format!(
                    "{text:?} in an output directory is a symlink whose target is not UTF-8; it was left out"
                )),
            },
            Kind::Special(what) => {
                self.note(format!("{text:?} in an output directory is a {what} and was left out"));
            }
            Kind::UpperFile | Kind::LowerFile(_) => {
                let (digest, attributes) = self.keep(at, &name, &found)?;
                frame.directory.files.push(reapi::FileNode {
                    name: text,
                    digest: Some(digest.to_wire()),
                    is_executable: attributes.is_executable(),
                    node_properties: self.properties(&attributes),
                });
            }
        }
        Ok(None)
    }

    fn finish(
        &mut self,
        directory: reapi::Directory,
        finished: &mut Finished,
    ) -> Result<Digest, OutputError> {
        let encoded = directory.encode_to_vec();
        let digest = Digest::of(self.files.function(), &encoded);
        if finished.seen.insert(digest) {
            self.files.keep_bytes(&encoded)?;
            finished.encoded.push(encoded);
        }
        Ok(digest)
    }
}

impl Finished {
    /// The Tree. A directory is finished for the first time after all it holds, so the order of
    /// finishing, backwards, has every parent before its children.
    fn into_tree(self) -> Vec<u8> {
        let size: usize = self.encoded.iter().map(|directory| directory.len() + 11).sum();
        let mut tree = Vec::with_capacity(size);
        for (i, directory) in self.encoded.iter().rev().enumerate() {
            tree.push(if i == 0 { ROOT_TAG } else { CHILD_TAG });
            encode_varint(directory.len() as u64, &mut tree);
            tree.extend_from_slice(directory);
        }
        tree
    }
}
