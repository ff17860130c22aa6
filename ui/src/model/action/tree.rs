//! A tree of directories that is read as far as it is opened.
//!
//! Every node but the roots came from a page of a directory. Which directory is asked for next is
//! decided here; asking is left to the update.

use std::collections::VecDeque;

use farmhand_proto::control::directory_entry::Kind;
use farmhand_proto::control::{DirectoryEntry, ListDirectoryRequest, ListDirectoryResponse};

use crate::model::filter::Filter;
use crate::sanitize;

/// Entries of one directory that are shown; more are asked for by a person.
const PAGE: u32 = 500;

/// Nodes that are kept; a tree that is larger is told so.
const MOST: usize = 100_000;

/// What stands for the name of the input root.
pub(crate) const INPUT_ROOT: &str = "(input root)";

/// A node within its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(usize);

/// What a directory is asked for by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The digest of a Directory.
    Directory(String),
    /// A path in a Tree of that digest.
    Tree(String, String),
}

/// How far a directory is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Not at all.
    Unread,
    /// Asked for.
    Asked,
    /// Up to this page token; empty when to the end.
    Read(String),
    /// It could not be read.
    Failed(String),
}

/// A file, a directory or a symlink.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// Its name; of a root its whole path. Harmless.
    pub(crate) name: String,
    /// What it is.
    pub(crate) kind: Kind,
    /// Digest of a file or directory, as the node writes it.
    pub(crate) digest: String,
    /// Where a symlink leads. Harmless.
    pub(crate) target: String,
    /// Whether a file may be executed.
    pub(crate) is_executable: bool,
    /// Whether its blob is stored.
    pub(crate) is_stored: bool,
    /// Bytes of a file, or of everything below.
    pub(crate) bytes: u64,
    /// Files below, as far as known.
    pub(crate) files: Option<u64>,
    /// Directories above it.
    pub(crate) depth: u16,
    /// Whether what is below is shown.
    pub(crate) is_open: bool,
    /// How far it is read.
    pub(crate) progress: Progress,
    pub(super) source: Option<Source>,
    pub(super) parent: Option<NodeId>,
    pub(super) children: Vec<NodeId>,
}

/// One row of the list a tree is shown as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TreeRow {
    /// A node.
    Node(NodeId),
    /// What stands in for the rest of a directory, or for why there is none.
    Rest(NodeId),
}

/// The tree.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    roots: Vec<NodeId>,
    /// Directories to be asked for, one at a time; the first of them is under way.
    waiting: VecDeque<NodeId>,
    rows: Vec<TreeRow>,
    filter: Option<Filter>,
}

// === impl Node ===

impl Node {
    /// A root of a tree: `name` is its path.
    pub(crate) fn root(name: &str, kind: Kind, digest: String, source: Option<Source>) -> Self {
        Self {
            name: sanitize::line(name).into_owned(),
            kind,
            digest,
            target: String::new(),
            is_executable: false,
            is_stored: true,
            bytes: 0,
            files: None,
            depth: 0,
            is_open: false,
            progress: Progress::Unread,
            source,
            parent: None,
            children: Vec::new(),
        }
    }

    /// Whether it has something below it.
    pub(crate) fn is_directory(&self) -> bool {
        self.kind == Kind::Directory
    }

    fn of(entry: DirectoryEntry, parent: NodeId, above: &Source, depth: u16) -> Self {
        let source = match above {
            Source::Directory(_) => Source::Directory(entry.digest.clone()),
            Source::Tree(digest, path) if path.is_empty() => Source::Tree(digest.clone(), entry.name.clone()),
            Source::Tree(digest, path) => Source::Tree(digest.clone(), format!("{path}/{}", entry.name)),
        };
        let kind = entry.kind();
        Self {
            is_executable: entry.is_executable,
            is_stored: entry.is_stored || kind == Kind::Symlink,
            target: sanitize::line(&entry.target).into_owned(),
            bytes: entry.size_bytes,
            files: entry.files,
            depth,
            parent: Some(parent),
            ..Self::root(&entry.name, kind, entry.digest, Some(source))
        }
    }
}

// === impl Tree ===

impl Tree {
    /// A tree of these roots.
    pub(crate) fn new(roots: Vec<Node>) -> Self {
        let mut tree =
            Self { roots: (0..roots.len()).map(NodeId).collect(), nodes: roots, ..Self::default() };
        tree.list();
        tree
    }

    /// The rows that are shown.
    pub(crate) fn rows(&self) -> &[TreeRow] {
        &self.rows
    }

    /// A node.
    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// The path of a node, from its root on.
    pub(crate) fn path(&self, id: NodeId) -> String {
        let mut names = vec![self.node(id).name.as_str()];
        let mut at = self.node(id).parent;
        while let Some(parent) = at {
            let node = self.node(parent);
            // The root of the inputs has no name of its own.
            if node.parent.is_some() || node.name != INPUT_ROOT {
                names.push(&node.name);
            }
            at = node.parent;
        }
        names.reverse();
        names.join("/")
    }

    /// What it is filtered by.
    pub(crate) fn filter(&self) -> Option<&Filter> {
        self.filter.as_ref()
    }

    /// Shows only what is wanted, among what is read, with the directories above it.
    pub(crate) fn set_filter(&mut self, filter: Option<Filter>) {
        self.filter = filter;
        self.list();
    }

    /// The number of the row that shows the directory above that of `row`.
    pub(crate) fn parent_row(&self, row: usize) -> Option<usize> {
        let above = match *self.rows.get(row)? {
            TreeRow::Node(id) => self.node(id).parent?,
            TreeRow::Rest(id) => id,
        };
        self.rows.iter().position(|row| *row == TreeRow::Node(above))
    }

    /// Opens a directory, and wants it read if it was not.
    pub(crate) fn open(&mut self, id: NodeId) {
        let node = &mut self.nodes[id.0];
        if !node.is_directory() {
            return;
        }
        node.is_open = true;
        if matches!(node.progress, Progress::Unread | Progress::Failed(_)) {
            self.want(id);
        }
        self.list();
    }

    /// Closes a directory.
    pub(crate) fn close(&mut self, id: NodeId) {
        self.nodes[id.0].is_open = false;
        self.list();
    }

    /// Wants the next page of a directory.
    pub(crate) fn want(&mut self, id: NodeId) {
        if !self.waiting.contains(&id) && self.nodes[id.0].source.is_some() {
            self.waiting.push_back(id);
        }
    }

    /// What to ask the node for next, if it is not asked yet.
    pub(crate) fn next_request(&mut self) -> Option<ListDirectoryRequest> {
        let id = *self.waiting.front()?;
        let node = &mut self.nodes[id.0];
        let page_token = match std::mem::replace(&mut node.progress, Progress::Asked) {
            Progress::Read(token) => token,
            Progress::Asked => return None,
            Progress::Unread | Progress::Failed(_) => String::new(),
        };
        let (digest, path, is_tree) = match node.source.clone()? {
            Source::Directory(digest) => (digest, String::new(), false),
            Source::Tree(digest, path) => (digest, path, true),
        };
        Some(ListDirectoryRequest { digest, is_tree, path, limit: PAGE, page_token })
    }

    /// The call that was under way will not be answered: it is asked again.
    pub(crate) fn forget_request(&mut self) {
        if let Some(id) = self.waiting.front() {
            self.nodes[id.0].progress = Progress::Unread;
            self.nodes[id.0].children.clear();
            self.list();
        }
    }

    /// Takes the answer to the request under way.
    pub(crate) fn take(&mut self, answer: Result<ListDirectoryResponse, String>) {
        let Some(id) = self.waiting.pop_front() else { return };
        match answer {
            Ok(page) => self.take_page(id, page),
            Err(reason) => self.nodes[id.0].progress = Progress::Failed(reason),
        }
        self.list();
    }

    fn take_page(&mut self, id: NodeId, page: ListDirectoryResponse) {
        let node = &self.nodes[id.0];
        let (Some(source), depth) = (node.source.clone(), node.depth.saturating_add(1)) else { return };
        let room = MOST.saturating_sub(self.nodes.len());
        let is_cut = page.entries.len() > room;
        for entry in page.entries.into_iter().take(room) {
            let child = NodeId(self.nodes.len());
            self.nodes.push(Node::of(entry, id, &source, depth));
            self.nodes[id.0].children.push(child);
        }
        self.nodes[id.0].progress = if is_cut {
            Progress::Failed("there is more than this program shows".to_owned())
        } else {
            Progress::Read(page.next_page_token)
        };
    }

    /// Makes the rows anew.
    fn list(&mut self) {
        let mut rows = Vec::new();
        for root in &self.roots {
            self.list_below(*root, &mut rows);
        }
        self.rows = rows;
    }

    /// Adds the rows of a node; whether there are any.
    fn list_below(&self, id: NodeId, rows: &mut Vec<TreeRow>) -> bool {
        let node = self.node(id);
        let wanted = self.filter.as_ref().is_none_or(|filter| filter.wants(&[&node.name]));
        let before = rows.len();
        rows.push(TreeRow::Node(id));
        let mut any = wanted;
        // What a filter looks for may lie in a directory that is closed.
        if node.is_open || self.filter.is_some() && !node.children.is_empty() {
            for child in &node.children {
                any |= self.list_below(*child, rows);
            }
            if !matches!(&node.progress, Progress::Read(token) if token.is_empty()) && any {
                rows.push(TreeRow::Rest(id));
            }
        }
        if !any {
            rows.truncate(before);
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, kind: Kind) -> DirectoryEntry {
        DirectoryEntry {
            name: name.into(),
            kind: kind.into(),
            digest: format!("d-{name}"),
            is_stored: true,
            ..Default::default()
        }
    }

    fn page(entries: &[(&str, Kind)], token: &str) -> ListDirectoryResponse {
        let entries = entries.iter().map(|(name, kind)| entry(name, *kind)).collect();
        ListDirectoryResponse { entries, next_page_token: token.into() }
    }

    fn inputs() -> Tree {
        let source = Source::Directory("root/1".into());
        let mut tree =
            Tree::new(vec![Node::root(INPUT_ROOT, Kind::Directory, "root/1".into(), Some(source))]);
        tree.open(NodeId(0));
        tree
    }

    fn shown(tree: &Tree) -> Vec<String> {
        let text = |row: &TreeRow| match row {
            TreeRow::Node(id) => {
                format!("{}{}", " ".repeat(tree.node(*id).depth.into()), tree.node(*id).name)
            }
            TreeRow::Rest(_) => "...".to_owned(),
        };
        tree.rows().iter().map(text).collect()
    }

    #[test]
    fn directories_are_read_when_they_are_opened() {
        let mut tree = inputs();
        assert_eq!(shown(&tree), [INPUT_ROOT, "..."]);
        let request = tree.next_request().unwrap();
        assert_eq!((request.digest.as_str(), request.is_tree), ("root/1", false));
        assert_eq!(tree.next_request(), None);
        tree.take(Ok(page(&[("src", Kind::Directory), ("a.c", Kind::File)], "")));
        assert_eq!(shown(&tree), [INPUT_ROOT, " src", " a.c"]);
        tree.open(NodeId(1));
        assert_eq!(tree.next_request().unwrap().digest, "d-src");
        tree.take(Ok(page(&[("b.c", Kind::File)], "")));
        assert_eq!(shown(&tree), [INPUT_ROOT, " src", "  b.c", " a.c"]);
        assert_eq!((tree.parent_row(2), tree.parent_row(0)), (Some(1), None));
        assert_eq!((tree.path(NodeId(3)), tree.path(NodeId(0))), ("src/b.c".into(), INPUT_ROOT.into()));
        tree.close(NodeId(1));
        assert_eq!(shown(&tree), [INPUT_ROOT, " src", " a.c"]);
        tree.open(NodeId(1));
        assert_eq!(tree.next_request(), None);
    }

    #[test]
    fn long_directories_come_in_pages() {
        let mut tree = inputs();
        tree.next_request();
        tree.take(Ok(page(&[("a", Kind::File)], "next")));
        assert_eq!(shown(&tree), [INPUT_ROOT, " a", "..."]);
        tree.want(NodeId(0));
        assert_eq!(tree.next_request().unwrap().page_token, "next");
        tree.take(Ok(page(&[("b", Kind::File)], "")));
        assert_eq!(shown(&tree), [INPUT_ROOT, " a", " b"]);
    }

    #[test]
    fn trees_are_asked_by_path() {
        let source = Source::Tree("tree/9".into(), String::new());
        let mut tree = Tree::new(vec![Node::root("out/dir", Kind::Directory, "tree/9".into(), Some(source))]);
        tree.open(NodeId(0));
        assert!(tree.next_request().unwrap().is_tree);
        tree.take(Ok(page(&[("x", Kind::Directory)], "")));
        tree.open(NodeId(1));
        tree.next_request();
        tree.take(Ok(page(&[("y", Kind::Directory)], "")));
        tree.open(NodeId(2));
        assert_eq!(tree.next_request().unwrap().path, "x/y");
    }

    #[test]
    fn what_cannot_be_read_says_so_and_may_be_tried_again() {
        let mut tree = inputs();
        tree.next_request();
        tree.take(Err("not stored any more".into()));
        assert_eq!(tree.node(NodeId(0)).progress, Progress::Failed("not stored any more".into()));
        assert_eq!(shown(&tree), [INPUT_ROOT, "..."]);
        tree.open(NodeId(0));
        assert!(tree.next_request().is_some());
        tree.forget_request();
        assert!(tree.next_request().is_some());
        tree.take(Ok(page(&[], "")));
        tree.take(Ok(page(&[("unasked", Kind::File)], "")));
        assert_eq!(shown(&tree), [INPUT_ROOT]);
    }

    #[test]
    fn a_filter_shows_what_is_wanted_and_the_way_to_it() {
        let mut tree = inputs();
        tree.next_request();
        tree.take(Ok(page(&[("src", Kind::Directory), ("a.c", Kind::File)], "")));
        tree.open(NodeId(1));
        tree.next_request();
        tree.take(Ok(page(&[("b.h", Kind::File), ("c\x1b.c", Kind::File)], "")));
        tree.close(NodeId(1));
        tree.set_filter(Filter::parse(".h").unwrap());
        assert_eq!(shown(&tree), [INPUT_ROOT, " src", "  b.h"]);
        tree.set_filter(Filter::parse("/nothing/").unwrap());
        assert!(tree.rows().is_empty());
        tree.set_filter(None);
        assert_eq!(shown(&tree), [INPUT_ROOT, " src", " a.c"]);
    }
}
