//! What differs below an output directory of which there are several.
//!
//! The Trees are walked side by side from their roots, and only into directories that differ.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use farmhand_proto::raw;
use prost::Message;

use super::compare::Value;
use crate::cas::ContentAddressableStorage;
use crate::digest::{Digest, DigestFunction};
use crate::merkle::Directory;

/// Bytes of all Trees of one output together; larger ones are not looked into.
const MAX_BYTES: u64 = 16 << 20;

/// Directories looked into: the same one may be in many places.
const MAX_STEPS: usize = 10_000;

/// A path, and what each run made of it.
type Row = (String, Vec<Value>);

/// A Tree that can be walked.
struct Walkable {
    function: DigestFunction,
    root: Bytes,
    children: HashMap<Digest, Bytes>,
}

/// One directory, as each run made it; `None` for runs that do not count.
struct Step {
    path: String,
    columns: Vec<Option<(usize, Bytes)>>,
}

/// Up to `limit` rows for what differs below `path`, for the runs that are `complete`. `None` if
/// that cannot be told: one of them made no directory, or a Tree is absent, malformed, or too large,
/// or they differ in nothing that is compared.
pub(super) async fn differences(
    cas: &dyn ContentAddressableStorage,
    path: &str,
    values: &[Value],
    complete: &[bool],
    limit: usize,
) -> Option<Vec<Row>> {
    let mut digests: Vec<Digest> = Vec::new();
    let mut columns = Vec::new();
    for (value, complete) in values.iter().zip(complete) {
        let tree = match value {
            Value::Directory { tree: Some(tree), .. } if *complete => *tree,
            _ if !*complete => {
                columns.push(None);
                continue;
            }
            _ => return None,
        };
        let known = digests.iter().position(|digest| *digest == tree);
        columns.push(Some(known.unwrap_or(digests.len())));
        if known.is_none() {
            digests.push(tree);
        }
    }
    if digests.iter().map(Digest::size).fold(0, u64::saturating_add) > MAX_BYTES {
        return None;
    }
    let mut blobs = Vec::new();
    for digest in &digests {
        blobs.push((*digest, cas.get(digest).await.ok()?));
    }
    let path = path.to_owned();
    let walk = move || {
        let trees: Option<Vec<_>> =
            blobs.into_iter().map(|(digest, data)| Walkable::parse(digest, data)).collect();
        walk(&trees?, path, &columns, limit).filter(|rows| !rows.is_empty())
    };
    tokio::task::spawn_blocking(walk).await.ok().flatten()
}

fn walk(trees: &[Walkable], path: String, columns: &[Option<usize>], limit: usize) -> Option<Vec<Row>> {
    let roots = columns.iter().map(|column| column.map(|tree| (tree, trees[tree].root.clone())));
    let mut waiting = vec![Step { path, columns: roots.collect() }];
    let mut rows = Vec::new();
    for _ in 0..MAX_STEPS {
        let Some(step) = waiting.pop() else { return Some(rows) };
        let mut deeper = Vec::new();
        for (name, values) in step.entries(trees)? {
            let counted =
                || values.iter().zip(&step.columns).filter(|(_, column)| column.is_some()).map(|(v, _)| v);
            let Some(first) = counted().next() else { continue };
            if counted().all(|value| value.is_same(first)) {
                continue;
            }
            let path = format!("{}/{name}", step.path);
            if counted().all(|value| matches!(value, Value::Directory { .. })) {
                deeper.push(Step { path, columns: step.below(trees, &values)? });
            } else if rows.len() < limit {
                rows.push((path, values));
            } else {
                return Some(rows);
            }
        }
        // The first is to be the next.
        waiting.extend(deeper.into_iter().rev());
    }
    None
}

// === impl Walkable ===

impl Walkable {
    fn parse(digest: Digest, data: Bytes) -> Option<Self> {
        let tree = raw::Tree::decode(data).ok()?;
        let function = digest.function();
        let mut children: HashMap<_, _> =
            tree.children.into_iter().map(|child| (Digest::of(function, &child), child)).collect();
        children.insert(Digest::empty(function), Bytes::new());
        Some(Self { function, root: tree.root.concat().into(), children })
    }
}

// === impl Step ===

impl Step {
    /// Everything in it by name, with what each run made of it.
    fn entries(&self, trees: &[Walkable]) -> Option<BTreeMap<String, Vec<Value>>> {
        let mut entries: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        let count = self.columns.len();
        for (number, column) in self.columns.iter().enumerate() {
            let Some((tree, data)) = column else { continue };
            let directory = Directory::parse(data, trees[*tree].function).ok()?;
            let mut set = |name: &str, value| {
                entries.entry(name.to_owned()).or_insert_with(|| vec![Value::Absent; count])[number] = value;
            };
            for file in directory.files {
                let (digest, is_executable) = (file.digest, file.is_executable);
                set(file.name.as_str(), Value::Blob { digest, is_executable });
            }
            for link in directory.symlinks {
                set(link.name.as_str(), Value::Link(link.target));
            }
            for child in directory.directories {
                set(child.name.as_str(), Value::Directory { tree: None, root: Some(child.digest) });
            }
        }
        Some(entries)
    }

    /// The directories that `values` name, each in the Tree of its run.
    fn below(&self, trees: &[Walkable], values: &[Value]) -> Option<Vec<Option<(usize, Bytes)>>> {
        let columns = self.columns.iter().zip(values).map(|(column, value)| match (column, value) {
            (Some((tree, _)), Value::Directory { root: Some(digest), .. }) => {
                Some(Some((*tree, trees[*tree].children.get(digest)?.clone())))
            }
            _ => Some(None),
        });
        columns.collect()
    }
}

#[cfg(test)]
mod tests {
    use farmhand_proto::reapi;

    use super::*;
    use crate::cas::memory::MemoryCas;
    use crate::digest::DigestFunction::Sha256;

    /// A Tree with `same/x`, `sub/f` with this content, and a link, a mode and a name that follow it.
    fn tree(cas: &MemoryCas, content: &str) -> Digest {
        let digest = |text: &str| Some(Digest::of(Sha256, text.as_bytes()).to_wire());
        let file = |name: &str, text: &str| reapi::FileNode {
            name: name.into(),
            digest: digest(text),
            is_executable: name == "mode" && content == "1",
            ..Default::default()
        };
        let child = |name: &str, directory: &reapi::Directory| reapi::DirectoryNode {
            name: name.into(),
            digest: Some(Digest::of(Sha256, &directory.encode_to_vec()).to_wire()),
        };
        let same = reapi::Directory { files: vec![file("x", "x")], ..Default::default() };
        let sub = reapi::Directory { files: vec![file("f", content)], ..Default::default() };
        let link = reapi::SymlinkNode { name: "link".into(), target: content.into(), ..Default::default() };
        let root = reapi::Directory {
            files: vec![file("mode", "m"), file(&format!("only-{content}"), "o")],
            directories: vec![child("same", &same), child("sub", &sub)],
            symlinks: vec![link],
            ..Default::default()
        };
        cas.insert(Sha256, reapi::Tree { root: Some(root), children: vec![same, sub] }.encode_to_vec())
    }

    fn value(tree: Digest) -> Value {
        Value::Directory { tree: Some(tree), root: None }
    }

    async fn shown(
        cas: &MemoryCas,
        values: &[Value],
        complete: &[bool],
        limit: usize,
    ) -> Option<Vec<String>> {
        let rows = differences(cas, "d", values, complete, limit).await?;
        let row = |(path, values): Row| {
            let values: Vec<_> = values.iter().map(|value| value.to_string()).collect();
            format!("{path}: {}", values.join(" | "))
        };
        Some(rows.into_iter().map(row).collect())
    }

    #[tokio::test]
    async fn only_what_differs_is_named() {
        let cas = MemoryCas::default();
        let values = [value(tree(&cas, "1")), Value::Absent, value(tree(&cas, "2")), value(tree(&cas, "1"))];
        let text = |text: &str| Digest::of(Sha256, text.as_bytes()).to_string();
        let (mode, only, one, two) = (text("m"), text("o"), text("1"), text("2"));
        let expected = [
            "d/link: -> 1 |  | -> 2 | -> 1".to_owned(),
            format!("d/mode: {mode} (executable) |  | {mode} | {mode} (executable)"),
            format!("d/only-1: {only} |  |  | {only}"),
            format!("d/only-2:  |  | {only} | "),
            format!("d/sub/f: {one} |  | {two} | {one}"),
        ];
        let complete = [true, false, true, true];
        assert_eq!(shown(&cas, &values, &complete, 100).await.unwrap(), expected);
        assert_eq!(shown(&cas, &values, &complete, 2).await.unwrap(), expected[..2]);
        assert_eq!(shown(&cas, &values, &[true; 4], 100).await, None, "one made no directory");
    }

    #[tokio::test]
    async fn trees_that_unfold_without_end_are_left_to_their_digests() {
        let cas = MemoryCas::default();
        let endless = |content: &str| {
            let digest = Some(Digest::of(Sha256, content.as_bytes()).to_wire());
            let file = reapi::FileNode { name: "f".into(), digest, ..Default::default() };
            let mut children = vec![reapi::Directory { files: vec![file], ..Default::default() }];
            for _ in 0..40 {
                let below = children.last().map(Message::encode_to_vec).unwrap_or_default();
                let digest = Some(Digest::of(Sha256, &below).to_wire());
                let node = |name: &str| reapi::DirectoryNode { name: name.into(), digest: digest.clone() };
                let directories = vec![node("a"), node("b")];
                children.push(reapi::Directory { directories, ..Default::default() });
            }
            value(cas.insert(Sha256, reapi::Tree { root: children.pop(), children }.encode_to_vec()))
        };
        let rows = shown(&cas, &[endless("1"), endless("2")], &[true; 2], usize::MAX).await;
        assert_eq!(rows, None);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_left_to_the_digests() {
        let cas = MemoryCas::default();
        let good = value(tree(&cas, "1"));
        let absent = Digest::of(Sha256, b"absent");
        let rubbish = cas.insert(Sha256, &b"\xff\xff"[..]);
        let large = Digest::from_parts(Sha256, [7; 32], MAX_BYTES);
        let torn = reapi::Directory {
            directories: vec![reapi::DirectoryNode { name: "sub".into(), digest: Some(absent.to_wire()) }],
            ..Default::default()
        };
        let torn = cas.insert(Sha256, reapi::Tree { root: Some(torn), children: Vec::new() }.encode_to_vec());
        for bad in [absent, rubbish, large] {
            assert_eq!(shown(&cas, &[good.clone(), value(bad)], &[true; 2], 9).await, None, "{bad}");
        }
        let other = tree(&cas, "2");
        assert_eq!(shown(&cas, &[value(torn), value(other)], &[true; 2], 9).await, None, "torn");
    }
}
