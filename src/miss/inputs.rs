//! Which inputs changed: two Merkle trees walked in step, descending only where digests differ.

use std::collections::BTreeMap;

use crate::cas::ContentAddressableStorage;
use crate::digest::Digest;
use crate::merkle::{Directory, NodeProperties};

/// Bytes of the largest Directory that is read.
const MAX_DIRECTORY: u64 = 8 << 20;

/// How much is read and kept at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Directory messages read.
    pub(super) reads: usize,
    /// Changes kept of each sort; the others are counted.
    pub(super) kept: usize,
}

/// One input that is not the same in both trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// Its path; that of an empty directory, and of properties of one, ends with a slash.
    pub(super) path: String,
    /// What it was; `None` where it was not there.
    pub(super) old: Option<String>,
    /// What it is.
    pub(super) new: Option<String>,
}

/// What became of the inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Changed, then removed, then added inputs, each sort in the order of a walk.
    pub(super) kept: Vec<Change>,
    /// All of them.
    pub(super) total: u32,
    /// Whether everything was looked at.
    pub(super) is_whole: bool,
}

/// An input as it is compared.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Value {
    /// Digest, or target of a symlink.
    content: String,
    /// What else there is to it.
    properties: String,
}

/// Directories to compare; one of them may be missing on one side.
struct Pair {
    path: String,
    old: Option<Digest>,
    new: Option<Digest>,
}

/// The three sorts of changes, each bounded.
#[derive(Default)]
struct Sorts {
    changed: Vec<Change>,
    removed: Vec<Change>,
    added: Vec<Change>,
    total: u32,
}

struct Walk<'a> {
    cas: &'a dyn ContentAddressableStorage,
    limits: Limits,
    reads: usize,
    waiting: Vec<Pair>,
    sorts: Sorts,
    is_whole: bool,
}

/// Compares the trees below two root Directories; `None` when one of these cannot be read.
pub(super) async fn compare(
    cas: &dyn ContentAddressableStorage,
    old: Digest,
    new: Digest,
    limits: Limits,
) -> Option<Changes> {
    let mut walk =
        Walk { cas, limits, reads: 0, waiting: Vec::new(), sorts: Sorts::default(), is_whole: true };
    if old != new {
        let (old, new) = (walk.read(Some(old)).await?, walk.read(Some(new)).await?);
        walk.step("", old.as_ref(), new.as_ref());
        walk.run().await;
    }
    let Sorts { mut changed, removed, added, total } = walk.sorts;
    changed.extend(removed);
    changed.extend(added);
    Some(Changes { kept: changed, total, is_whole: walk.is_whole })
}

// === impl Walk ===

impl Walk<'_> {
    async fn run(&mut self) {
        while let Some(Pair { path, old, new }) = self.waiting.pop() {
            let (Some(old), Some(new)) = (self.read(old).await, self.read(new).await) else {
                self.is_whole = false;
                continue;
            };
            self.step(&path, old.as_ref(), new.as_ref());
        }
    }

    /// `Some(None)` for a Directory that is not there, `None` for one that cannot be read.
    async fn read(&mut self, digest: Option<Digest>) -> Option<Option<Directory>> {
        let Some(digest) = digest else { return Some(None) };
        if self.reads >= self.limits.reads || digest.size() > MAX_DIRECTORY {
            return None;
        }
        self.reads += 1;
        let data = self.cas.get(&digest).await.ok()?;
        Directory::parse(&data, digest.function()).ok().map(Some)
    }

    /// Compares what is directly in two directories; those below wait.
    fn step(&mut self, path: &str, old: Option<&Directory>, new: Option<&Directory>) {
        let (old_items, new_items) = (items(path, old), items(path, new));
        for (path, value) in &old_items {
            self.sorts.note(self.limits.kept, path, Some(value), new_items.get(path));
        }
        for (path, value) in new_items.iter().filter(|(path, _)| !old_items.contains_key(*path)) {
            self.sorts.note(self.limits.kept, path, None, Some(value));
        }
        let mut below: BTreeMap<&str, (Option<Digest>, Option<Digest>)> = BTreeMap::new();
        for directory in old.iter().flat_map(|old| &old.directories) {
            below.entry(directory.name.as_str()).or_default().0 = Some(directory.digest);
        }
        for directory in new.iter().flat_map(|new| &new.directories) {
            below.entry(directory.name.as_str()).or_default().1 = Some(directory.digest);
        }
        // The last is looked at next.
        for (name, (old, new)) in below.into_iter().rev().filter(|(_, (old, new))| old != new) {
            self.waiting.push(Pair { path: format!("{path}{name}/"), old, new });
        }
    }
}

// === impl Sorts ===

impl Sorts {
    fn note(&mut self, most: usize, path: &str, old: Option<&Value>, new: Option<&Value>) {
        let sort = match (old, new) {
            (Some(old), Some(new)) if old == new => return,
            (Some(_), Some(_)) => &mut self.changed,
            (Some(_), None) => &mut self.removed,
            (None, _) => &mut self.added,
        };
        self.total = self.total.saturating_add(1);
        if sort.len() < most {
            // What tells two apart, where their content does not.
            let is_same = matches!((old, new), (Some(old), Some(new)) if old.content == new.content);
            let text = |value: &Value| {
                if is_same { value.properties.clone() } else { value.content.clone() }
            };
            sort.push(Change { path: path.to_owned(), old: old.map(text), new: new.map(text) });
        }
    }
}

/// What is in a directory, by path. Subdirectories count by what is in them, so an empty one counts
/// itself; so do properties of a directory.
fn items(path: &str, directory: Option<&Directory>) -> BTreeMap<String, Value> {
    let Some(directory) = directory else { return BTreeMap::new() };
    let mut items = BTreeMap::new();
    for file in &directory.files {
        let kind = if file.is_executable { "executable" } else { "not executable" };
        let value =
            Value { content: file.digest.to_string(), properties: properties(kind, &file.properties) };
        items.insert(format!("{path}{}", file.name), value);
    }
    for link in &directory.symlinks {
        let value = Value { content: link.target.clone(), properties: "symlink".to_owned() };
        items.insert(format!("{path}{}", link.name), value);
    }
    let is_empty = directory.entries() == 0 && !path.is_empty();
    if is_empty || directory.properties != NodeProperties::default() {
        let content = if is_empty { "empty directory" } else { "directory" }.to_owned();
        let value = Value { content, properties: properties("directory", &directory.properties) };
        items.insert(if path.is_empty() { "./".to_owned() } else { path.to_owned() }, value);
    }
    items
}

fn properties(kind: &str, properties: &NodeProperties) -> String {
    let mut text = kind.to_owned();
    if let Some(mode) = properties.unix_mode {
        text.push_str(&format!(", mode {mode:04o}"));
    }
    if let Some(mtime) = &properties.mtime {
        text.push_str(&format!(", time {}.{:09}", mtime.seconds, mtime.nanos));
    }
    for (name, value) in &properties.strings {
        text.push_str(&format!(", {name}={value}"));
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use farmhand_proto::reapi;
    use futures_util::FutureExt;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::cas::memory::MemoryCas;
    use crate::digest::DigestFunction::Sha256;

    const LIMITS: Limits = Limits { reads: 10_000, kept: 10_000 };

    /// A tree as a test writes it down.
    #[derive(Clone, Debug, Default)]
    pub(in crate::miss) struct Tree(pub(in crate::miss) BTreeMap<String, Node>);

    #[derive(Clone, Debug)]
    pub(in crate::miss) enum Node {
        File(u8, bool),
        Link(u8),
        Directory(Tree),
    }

    impl Tree {
        pub(in crate::miss) fn store(&self, cas: &MemoryCas) -> Digest {
            let mut message = reapi::Directory::default();
            for (name, node) in &self.0 {
                let name = name.clone();
                match node {
                    Node::File(content, is_executable) => {
                        let digest = Some(Digest::of(Sha256, &[*content]).to_wire());
                        let is_executable = *is_executable;
                        message.files.push(reapi::FileNode {
                            name,
                            digest,
                            is_executable,
                            ..Default::default()
                        });
                    }
                    Node::Link(target) => {
                        let target = format!("to{target}");
                        message.symlinks.push(reapi::SymlinkNode { name, target, ..Default::default() });
                    }
                    Node::Directory(tree) => {
                        let digest = Some(tree.store(cas).to_wire());
                        message.directories.push(reapi::DirectoryNode { name, digest });
                    }
                }
            }
            cas.insert(Sha256, message.encode_to_vec())
        }

        /// Everything in it by path, found the plain way.
        fn flatten(&self, path: &str, all: &mut BTreeMap<String, String>) {
            for (name, node) in &self.0 {
                match node {
                    Node::File(content, is_executable) => {
                        all.insert(format!("{path}{name}"), format!("{content} {is_executable}"));
                    }
                    Node::Link(target) => {
                        all.insert(format!("{path}{name}"), format!("-> {target}"));
                    }
                    Node::Directory(tree) if tree.0.is_empty() => {
                        all.insert(format!("{path}{name}/"), String::new());
                    }
                    Node::Directory(tree) => tree.flatten(&format!("{path}{name}/"), all),
                }
            }
        }
    }

    fn any_tree() -> impl Strategy<Value = Tree> {
        let leaf = prop_oneof![
            (0..4_u8, any::<bool>()).prop_map(|(content, bit)| Node::File(content, bit)),
            (0..3_u8).prop_map(Node::Link),
        ];
        let node = leaf.prop_recursive(3, 24, 4, |inner| {
            prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|tree| Node::Directory(Tree(tree)))
        });
        prop::collection::btree_map("[a-d]", node, 0..4).prop_map(Tree)
    }

    fn compare_now(cas: &MemoryCas, old: Digest, new: Digest, limits: Limits) -> Option<Changes> {
        compare(cas, old, new, limits).now_or_never().expect("memory is there at once")
    }

    fn tree(paths: &[(&str, u8)]) -> Tree {
        let mut root = Tree::default();
        for (path, content) in paths {
            let mut place = &mut root;
            let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
            for part in above.split('/').filter(|part| !part.is_empty()) {
                let node = place.0.entry(part.to_owned()).or_insert_with(|| Node::Directory(Tree::default()));
                let Node::Directory(inner) = node else { panic!("{part} is a file") };
                place = inner;
            }
            place.0.insert((*name).to_owned(), Node::File(*content, false));
        }
        root
    }

    #[test]
    fn what_changed_stands_first_and_equal_directories_are_not_read() {
        let cas = MemoryCas::default();
        let old = tree(&[("a/old", 1), ("lib/x/y", 1), ("src/foo.h", 1)]).store(&cas);
        let new = tree(&[("a/new", 1), ("lib/x/y", 1), ("src/foo.h", 2)]).store(&cas);
        let limits = Limits { reads: 6, kept: 9 };
        let changes = compare_now(&cas, old, new, limits).unwrap();
        let paths: Vec<&str> = changes.kept.iter().map(|change| change.path.as_str()).collect();
        assert_eq!(paths, ["src/foo.h", "a/old", "a/new"]);
        assert_eq!((changes.total, changes.is_whole), (3, true));
        assert_eq!(changes.kept[0].new, Some(Digest::of(Sha256, &[2]).to_string()));
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let cas = MemoryCas::default();
        let (old, new) = (tree(&[("a/b/c", 1), ("d", 1)]), tree(&[("a/b/c", 2), ("d", 2)]));
        let (old, new) = (old.store(&cas), new.store(&cas));
        let few = compare_now(&cas, old, new, Limits { reads: 3, kept: 9 }).unwrap();
        assert_eq!((few.total, few.is_whole), (1, false));
        cas.remove(&old);
        assert_eq!(compare_now(&cas, old, new, LIMITS), None);
    }

    #[test]
    fn a_mode_alone_is_a_difference_too() {
        let cas = MemoryCas::default();
        let file = |bit| Tree(BTreeMap::from([("run".to_owned(), Node::File(1, bit))])).store(&cas);
        let changes = compare_now(&cas, file(false), file(true), LIMITS).unwrap();
        let change =
            Change { path: "run".into(), old: Some("not executable".into()), new: Some("executable".into()) };
        assert_eq!(changes.kept, [change]);
    }

    proptest! {
        #[test]
        fn the_walk_finds_what_a_full_comparison_finds(old in any_tree(), new in any_tree()) {
            let cas = MemoryCas::default();
            let changes = compare_now(&cas, old.store(&cas), new.store(&cas), LIMITS).unwrap();
            let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
            old.flatten("", &mut before);
            new.flatten("", &mut after);
            let mut expected: Vec<&String> =
                before.iter().filter(|(path, value)| after.get(*path) != Some(value)).map(|(path, _)| path).collect();
            expected.extend(after.keys().filter(|path| !before.contains_key(*path)));
            expected.sort();
            let mut found: Vec<&String> = changes.kept.iter().map(|change| &change.path).collect();
            found.sort();
            prop_assert_eq!(found, expected);
            prop_assert!(changes.is_whole);
            prop_assert_eq!(changes.total as usize, changes.kept.len());
            for change in &changes.kept {
                prop_assert_eq!(change.old.is_some(), before.contains_key(&change.path));
                prop_assert_eq!(change.new.is_some(), after.contains_key(&change.path));
                prop_assert!(change.old != change.new);
            }
        }
    }
}
