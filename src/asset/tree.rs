//! [`TreeBuilder`]: Directory messages out of entries that come in any order.
//!
//! Entries come from outside. Names that lead out of the tree, or through something that is no directory, are
//! refused, as are links that point out of it: whoever puts the tree on a disk and follows a link stays
//! inside. Depth, number and length of names are bounded.

use std::collections::BTreeMap;

use farmhand_proto::reapi;
use prost::Message;

use crate::digest::Digest;
use crate::path::{Component, PathError, RootPath};

/// Entries in one tree at most.
const MOST_ENTRIES: usize = 1_000_000;

/// Bytes of all names and targets together, at most.
const MOST_NAMES: usize = 128 << 20;

/// Directories inside one another at most.
const DEEPEST: usize = 200;

/// Bytes of the longest target of a link (`PATH_MAX`).
const LONGEST_TARGET: usize = 4096;

/// A tree that is being put together.
#[derive(Debug, Default)]
pub struct TreeBuilder {
    root: Folder,
    entries: usize,
    names: usize,
}

#[derive(Debug, Default)]
struct Folder(BTreeMap<Component, Node>);

#[derive(Clone, Debug)]
struct File {
    digest: Digest,
    is_executable: bool,
}

#[derive(Debug)]
enum Node {
    Folder(Folder),
    File(File),
    Link(String),
}

/// Why entries make no tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// No path, or one that leads out.
    #[error(transparent)]
    Path(#[from] PathError),
    /// A name that is no text.
    #[error("the name {0:?} is not UTF-8")]
    Text(String),
    /// A link that points out, or may.
    #[error("the link {0:?} points out of the tree, or may")]
    Link(String),
    /// Something else has that name, or stands on the way to it.
    #[error("{0:?} is both a directory and something else")]
    Conflict(String),
    /// A hard link to what is no file.
    #[error("the hard link {0:?} is to no file before it")]
    HardLink(String),
    /// Too many, too deep, or names that are too long.
    #[error("it has too many entries, or they lie too deep")]
    TooMuch,
    /// There is no such directory.
    #[error("there is no directory {0:?} in it")]
    Absent(String),
}

// === impl TreeBuilder ===

impl TreeBuilder {
    /// The place that an entry of that name has. Slashes at its end say that it is a directory, no more.
    ///
    /// # Errors
    /// [`TreeError`] for a name that is no text or leads out.
    pub fn place(name: &[u8]) -> Result<RootPath, TreeError> {
        let text = std::str::from_utf8(name)
            .map_err(|_| TreeError::Text(String::from_utf8_lossy(name).chars().take(80).collect()))?;
        let trimmed = text.trim_end_matches('/');
        // A name of slashes alone is the root of a machine.
        let trimmed = if trimmed.is_empty() && !text.is_empty() { text } else { trimmed };
        let path = RootPath::root().join(trimmed)?;
        if path.components().len() > DEEPEST { Err(TreeError::TooMuch) } else { Ok(path) }
    }

    /// Adds a directory; one that is there is fine.
    ///
    /// # Errors
    /// [`TreeError`], when something else is there.
    pub fn add_directory(&mut self, path: &RootPath) -> Result<(), TreeError> {
        self.folder(path.components()).map(drop)
    }

    /// Adds a file, in place of a file or link of that name.
    ///
    /// # Errors
    /// [`TreeError`], when a directory is there.
    pub fn add_file(
        &mut self,
        path: &RootPath,
        digest: Digest,
        is_executable: bool,
    ) -> Result<(), TreeError> {
        self.add(path, Node::File(File { digest, is_executable }))
    }

    /// Adds a symbolic link, in place of a file or link of that name.
    ///
    /// # Errors
    /// [`TreeError`], when a directory is there, or it points out.
    pub fn add_link(&mut self, path: &RootPath, target: &[u8]) -> Result<(), TreeError> {
        let outside = || TreeError::Link(path.to_string());
        let target = std::str::from_utf8(target).map_err(|_| outside())?;
        if target.is_empty()
            || target.len() > LONGEST_TARGET
            || target.starts_with('/')
            || target.contains('\0')
        {
            return Err(outside());
        }
        // A way up counts in what is known to be directories only: what comes after a name may be a link.
        let mut segments = target.split('/').filter(|segment| !matches!(*segment, "" | ".")).peekable();
        let mut above = path.components().len().saturating_sub(1);
        while segments.next_if_eq(&"..").is_some() {
            above = above.checked_sub(1).ok_or_else(outside)?;
        }
        if segments.any(|segment| segment == "..") {
            return Err(outside());
        }
        self.names += target.len();
        self.add(path, Node::Link(target.to_owned()))
    }

    /// Adds a file that is the same as one that was added before.
    ///
    /// # Errors
    /// [`TreeError`], when there is none.
    pub fn add_hard_link(&mut self, path: &RootPath, to: &RootPath) -> Result<(), TreeError> {
        let absent = || TreeError::HardLink(path.to_string());
        let (name, above) = to.components().split_last().ok_or_else(absent)?;
        let Some(Node::File(file)) = self.find(above).and_then(|folder| folder.0.get(name)) else {
            return Err(absent());
        };
        let file = file.clone();
        self.add(path, Node::File(file))
    }

    /// Hands each Directory at and below `directory` to `store`, those inside others first; the digest of
    /// the outermost.
    ///
    /// # Errors
    /// [`TreeError::Absent`] where there is no such directory, and whatever `store` says.
    pub fn finish<E: From<TreeError>>(
        &self,
        directory: &RootPath,
        mut store: impl FnMut(&[u8]) -> Result<Digest, E>,
    ) -> Result<Digest, E> {
        let folder = self.find(directory.components());
        let folder = folder.ok_or_else(|| TreeError::Absent(directory.to_string()))?;
        folder.finish(&mut store)
    }

    fn add(&mut self, path: &RootPath, node: Node) -> Result<(), TreeError> {
        let conflict = || TreeError::Conflict(path.to_string());
        let (name, above) = path.components().split_last().ok_or_else(conflict)?;
        self.count(name)?;
        let folder = self.folder(above)?;
        match folder.0.get(name) {
            Some(Node::Folder(_)) => Err(conflict()),
            _ => {
                folder.0.insert(name.clone(), node);
                Ok(())
            }
        }
    }

    fn count(&mut self, name: &Component) -> Result<(), TreeError> {
        self.entries += 1;
        self.names += name.as_str().len();
        if self.entries > MOST_ENTRIES || self.names > MOST_NAMES { Err(TreeError::TooMuch) } else { Ok(()) }
    }

    /// The directory at `path`, which is made where there is none.
    fn folder(&mut self, path: &[Component]) -> Result<&mut Folder, TreeError> {
        if path.len() > DEEPEST {
            return Err(TreeError::TooMuch);
        }
        let absent = self.absent(path);
        path.get(path.len() - absent..).unwrap_or_default().iter().try_for_each(|name| self.count(name))?;
        let mut folder = &mut self.root;
        for name in path {
            let node = folder.0.entry(name.clone()).or_insert_with(|| Node::Folder(Folder::default()));
            let Node::Folder(next) = node else { return Err(TreeError::Conflict(name.to_string())) };
            folder = next;
        }
        Ok(folder)
    }

    /// How many of the last directories of `path` are not there.
    fn absent(&self, path: &[Component]) -> usize {
        let mut folder = &self.root;
        for (at, name) in path.iter().enumerate() {
            let Some(Node::Folder(next)) = folder.0.get(name) else { return path.len() - at };
            folder = next;
        }
        0
    }

    fn find(&self, path: &[Component]) -> Option<&Folder> {
        let mut folder = &self.root;
        for name in path {
            let Node::Folder(next) = folder.0.get(name)? else { return None };
            folder = next;
        }
        Some(folder)
    }
}

// === impl Folder ===

impl Folder {
    fn finish<E: From<TreeError>>(
        &self,
        store: &mut impl FnMut(&[u8]) -> Result<Digest, E>,
    ) -> Result<Digest, E> {
        let mut message = reapi::Directory::default();
        for (name, node) in &self.0 {
            let name = name.to_string();
            match node {
                Node::File(File { digest, is_executable }) => message.files.push(reapi::FileNode {
                    name,
                    digest: Some(digest.to_wire()),
                    is_executable: *is_executable,
                    node_properties: None,
                }),
                Node::Link(target) => message.symlinks.push(reapi::SymlinkNode {
                    name,
                    target: target.clone(),
                    node_properties: None,
                }),
                Node::Folder(folder) => {
                    let digest = Some(folder.finish(store)?.to_wire());
                    message.directories.push(reapi::DirectoryNode { name, digest });
                }
            }
        }
        store(&message.encode_to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::digest::DigestFunction;
    use crate::merkle::Directory;

    fn path(name: &str) -> RootPath {
        TreeBuilder::place(name.as_bytes()).unwrap()
    }

    fn digest(text: &str) -> Digest {
        Digest::of(DigestFunction::Sha256, text.as_bytes())
    }

    fn finish(
        tree: &TreeBuilder,
        directory: &str,
    ) -> Result<(Directory, HashMap<Digest, Directory>), TreeError> {
        let mut all = HashMap::new();
        let root = tree.finish(&path(directory), |data| {
            let digest = Digest::of(DigestFunction::Sha256, data);
            all.insert(digest, Directory::parse(data, DigestFunction::Sha256).unwrap());
            Ok::<_, TreeError>(digest)
        })?;
        Ok((all[&root].clone(), all))
    }

    #[test]
    fn entries_in_any_order_become_sorted_directories() {
        let mut tree = TreeBuilder::default();
        tree.add_file(&path("b/x"), digest("1"), true).unwrap();
        tree.add_directory(&path("a/")).unwrap();
        tree.add_directory(&path("b")).unwrap();
        tree.add_link(&path("b/up"), b"../a").unwrap();
        tree.add_hard_link(&path("b/a"), &path("./b//x")).unwrap();
        tree.add_file(&path("b/x"), digest("2"), false).unwrap();
        let (root, all) = finish(&tree, ".").unwrap();
        assert_eq!(root.directories.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        let b = &all[&root.directories[1].digest];
        assert_eq!(
            b.files.iter().map(|f| (f.name.as_str(), f.is_executable)).collect::<Vec<_>>(),
            [("a", true), ("x", false)]
        );
        assert_eq!((b.files[0].digest, b.files[1].digest), (digest("1"), digest("2")));
        assert_eq!(b.symlinks[0].target, "../a");
        assert_eq!(finish(&tree, "b").unwrap().0, *b);
        assert_eq!(finish(&tree, "c").unwrap_err(), TreeError::Absent("c".into()));
    }

    #[test]
    fn nothing_leads_out() {
        for name in ["/etc/passwd", "../x", "a/../../x", "/", "a\0b", &"d/".repeat(DEEPEST + 1)] {
            assert!(TreeBuilder::place(name.as_bytes()).is_err(), "{name:?}");
        }
        assert!(TreeBuilder::place(b"\xff").is_err());
        let mut tree = TreeBuilder::default();
        for (at, target) in [
            ("a/l", "/etc/passwd"),
            ("a/l", "../../x"),
            ("l", ".."),
            ("a/l", "b/../../../x"),
            ("a/l", "b/.."),
            ("l", ""),
            ("l", "a\0"),
            ("a/b/l", "./../.././../x"),
        ] {
            let refused = tree.add_link(&path(at), target.as_bytes());
            assert!(matches!(refused, Err(TreeError::Link(_))), "{at} -> {target}: {refused:?}");
        }
        for (at, target) in [("a/l", ".."), ("a/b/l", "../../x"), ("l", "not/there"), ("l", ".")] {
            tree.add_link(&path(at), target.as_bytes()).unwrap();
        }
        // What is below a link would be wherever it points.
        assert!(matches!(tree.add_file(&path("l/x"), digest("1"), false), Err(TreeError::Conflict(_))));
        assert!(matches!(tree.add_link(&path("a"), b"b"), Err(TreeError::Conflict(_))));
        assert!(matches!(tree.add_file(&path("."), digest("1"), false), Err(TreeError::Conflict(_))));
        assert!(matches!(tree.add_hard_link(&path("h"), &path("a")), Err(TreeError::HardLink(_))));
    }
}
