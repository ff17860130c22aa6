//! Merkle directories: `Directory` messages parsed into values that are safe to stage.
//!
//! The bytes of a Directory are never re-encoded (its digest is that of the bytes received), so
//! unsorted entries are taken as they are. What is refused is what would be unsafe or ambiguous:
//! names that are no file names, and the same name twice.

use std::collections::HashSet;

use farmhand_proto::{protobuf, reapi};
use prost::Message;

use crate::digest::{Digest, DigestError, DigestFunction};
use crate::path::{Component, PathError};

/// A parsed `build.bazel.remote.execution.v2.Directory`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Directory {
    /// Regular files.
    pub files: Vec<FileNode>,
    /// Subdirectories.
    pub directories: Vec<DirectoryNode>,
    /// Symbolic links.
    pub symlinks: Vec<SymlinkNode>,
    /// Properties of the directory itself.
    pub properties: NodeProperties,
}

/// A regular file in a [`Directory`].
#[derive(Clone, Debug, PartialEq)]
pub struct FileNode {
    /// Its name.
    pub name: Component,
    /// Its content.
    pub digest: Digest,
    /// Whether it may be executed.
    pub is_executable: bool,
    /// Its properties.
    pub properties: NodeProperties,
}

/// A subdirectory in a [`Directory`].
#[derive(Clone, Debug, PartialEq)]
pub struct DirectoryNode {
    /// Its name.
    pub name: Component,
    /// Digest of its own Directory message.
    pub digest: Digest,
}

/// A symbolic link in a [`Directory`].
#[derive(Clone, Debug, PartialEq)]
pub struct SymlinkNode {
    /// Its name.
    pub name: Component,
    /// Its target, unchanged: may dangle, climb or be absolute.
    pub target: String,
}

/// The `NodeProperties` this node honours; unknown ones are dropped.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeProperties {
    /// Permission bits.
    pub unix_mode: Option<u32>,
    /// Modification time.
    pub mtime: Option<protobuf::Timestamp>,
    /// Names and values of the plain string properties (`SubtreeReadOnly`, `bazel_tool_input`).
    pub strings: Vec<(String, String)>,
}

/// Why bytes are no usable Directory or Tree.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MerkleError {
    /// Not a protobuf message of that type.
    #[error("does not decode as a {what}: {reason}")]
    Decode {
        /// `Directory` or `Tree`.
        what: &'static str,
        /// The decoder's words.
        reason: String,
    },
    /// An entry with a name that is no file name.
    #[error("bad entry name: {0}")]
    Name(#[from] PathError),
    /// Two entries share a name.
    #[error("the name {0:?} is used twice")]
    DuplicateName(String),
    /// An entry with a malformed digest.
    #[error("entry {name:?}: {source}")]
    Digest {
        /// The entry.
        name: String,
        /// What is wrong with its digest.
        source: DigestError,
    },
    /// An empty symlink target, or one with NUL.
    #[error("symlink {0:?} has an empty target or one with NUL")]
    Target(String),
}

impl Directory {
    /// Decodes and checks a Directory whose digests are made by `function`.
    ///
    /// # Errors
    /// [`MerkleError`] names the first entry that cannot be staged safely.
    pub fn parse(data: &[u8], function: DigestFunction) -> Result<Self, MerkleError> {
        let wire = reapi::Directory::decode(data)
            .map_err(|error| MerkleError::Decode { what: "Directory", reason: error.to_string() })?;
        Self::from_wire(wire, function)
    }

    /// Entries in it, not counting those below.
    pub fn entries(&self) -> usize {
        self.files.len() + self.directories.len() + self.symlinks.len()
    }

    /// Checks a decoded Directory.
    ///
    /// # Errors
    /// As [`Directory::parse`].
    pub fn from_wire(wire: reapi::Directory, function: DigestFunction) -> Result<Self, MerkleError> {
        check_unique(&wire)?;
        let digest_of = |name: &str, digest: Option<&reapi::Digest>| {
            Digest::from_field(function, digest)
                .map_err(|source| MerkleError::Digest { name: name.to_owned(), source })
        };
        let files = wire.files.into_iter().map(|file| {
            Ok(FileNode {
                digest: digest_of(&file.name, file.digest.as_ref())?,
                name: Component::parse(&file.name)?,
                is_executable: file.is_executable,
                properties: file.node_properties.map(NodeProperties::from_wire).unwrap_or_default(),
            })
        });
        let directories = wire.directories.into_iter().map(|directory| {
            Ok(DirectoryNode {
                digest: digest_of(&directory.name, directory.digest.as_ref())?,
                name: Component::parse(&directory.name)?,
            })
        });
        let symlinks = wire.symlinks.into_iter().map(|symlink| {
            if symlink.target.is_empty() || symlink.target.contains('\0') {
                return Err(MerkleError::Target(symlink.name));
            }
            Ok(SymlinkNode { name: Component::parse(&symlink.name)?, target: symlink.target })
        });
        Ok(Self {
            files: files.collect::<Result<_, MerkleError>>()?,
            directories: directories.collect::<Result<_, MerkleError>>()?,
            symlinks: symlinks.collect::<Result<_, MerkleError>>()?,
            properties: wire.node_properties.map(NodeProperties::from_wire).unwrap_or_default(),
        })
    }
}

impl NodeProperties {
    fn from_wire(wire: reapi::NodeProperties) -> Self {
        Self {
            unix_mode: wire.unix_mode.map(|mode| mode.value & 0o7777),
            mtime: wire.mtime,
            strings: wire.properties.into_iter().map(|p| (p.name, p.value)).collect(),
        }
    }
}

/// Decodes a `Tree` (the result form of an output directory).
///
/// # Errors
/// [`MerkleError::Decode`] if it is not one.
pub fn parse_tree(data: &[u8]) -> Result<reapi::Tree, MerkleError> {
    reapi::Tree::decode(data).map_err(|error| MerkleError::Decode { what: "Tree", reason: error.to_string() })
}

fn check_unique(wire: &reapi::Directory) -> Result<(), MerkleError> {
    let names = (wire.files.iter().map(|f| &f.name))
        .chain(wire.directories.iter().map(|d| &d.name))
        .chain(wire.symlinks.iter().map(|s| &s.name));
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name.as_str()) {
            return Err(MerkleError::DuplicateName(name.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> Option<reapi::Digest> {
        Some(Digest::of(DigestFunction::Sha256, b"x").to_wire())
    }

    fn file(name: &str) -> reapi::FileNode {
        reapi::FileNode { name: name.into(), digest: digest(), ..Default::default() }
    }

    fn parse(wire: &reapi::Directory) -> Result<Directory, MerkleError> {
        Directory::parse(&wire.encode_to_vec(), DigestFunction::Sha256)
    }

    #[test]
    fn unsorted_entries_are_taken_in_their_order() {
        let wire = reapi::Directory { files: vec![file("b"), file("a")], ..Default::default() };
        let names: Vec<_> = parse(&wire).unwrap().files.into_iter().map(|f| f.name.to_string()).collect();
        assert_eq!(names, ["b", "a"]);
    }

    #[test]
    fn one_probe_per_defect() {
        for name in ["", ".", "..", "a/b", "../../etc/x", "a\0b"] {
            let wire = reapi::Directory { files: vec![file(name)], ..Default::default() };
            assert!(matches!(parse(&wire), Err(MerkleError::Name(_))), "{name:?}");
        }
        let twice = reapi::Directory {
            files: vec![file("a")],
            directories: vec![reapi::DirectoryNode { name: "a".into(), digest: digest() }],
            ..Default::default()
        };
        assert_eq!(parse(&twice), Err(MerkleError::DuplicateName("a".into())));
        let unset = reapi::Directory {
            files: vec![reapi::FileNode { name: "a".into(), ..Default::default() }],
            ..Default::default()
        };
        assert!(matches!(parse(&unset), Err(MerkleError::Digest { .. })));
        let link = reapi::Directory {
            symlinks: vec![reapi::SymlinkNode { name: "l".into(), ..Default::default() }],
            ..Default::default()
        };
        assert_eq!(parse(&link), Err(MerkleError::Target("l".into())));
        assert!(matches!(
            Directory::parse(b"\xff\xff\xff", DigestFunction::Sha256),
            Err(MerkleError::Decode { .. })
        ));
    }
}
