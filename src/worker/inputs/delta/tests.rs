use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use farmhand_proto::{protobuf, reapi};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::cas::memory::MemoryCas;
use crate::digest::DigestFunction::Sha256;
use crate::tasks::Tasks;
use crate::worker::inputs::builder::Builder;
use crate::worker::inputs::directories::Directories;
use crate::worker::inputs::file_pool::FilePool;
use crate::worker::scratch::Sweeper;

const MAX_ENTRIES: u64 = 10_000;

/// A tree to be staged.
#[derive(Clone, Debug)]
enum Node {
    File { content: u8, executable: bool, properties: Properties },
    Link(u8),
    Directory(BTreeMap<u8, Node>, Properties),
}

#[derive(Clone, Copy, Debug)]
struct Properties {
    mode: Option<u32>,
    mtime: Option<i64>,
}

/// Puts a node at a path, or takes it away.
type Edit = (Vec<u8>, Option<Node>);

fn properties() -> impl Strategy<Value = Properties> {
    let mode = prop_oneof![6 => Just(None), 1 => Just(Some(0o700)), 1 => Just(Some(0o750))];
    let mtime = prop_oneof![6 => Just(None), 1 => (1..3_i64).prop_map(Some)];
    (mode, mtime).prop_map(|(mode, mtime)| Properties { mode, mtime })
}

fn node() -> impl Strategy<Value = Node> {
    let leaf = prop_oneof![
        (0..4_u8, any::<bool>(), properties()).prop_map(|(content, executable, properties)| Node::File {
            content,
            executable,
            properties
        }),
        (0..3_u8).prop_map(Node::Link),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        (prop::collection::btree_map(0..4_u8, inner, 0..4), properties())
            .prop_map(|(children, properties)| Node::Directory(children, properties))
    })
}

fn root() -> impl Strategy<Value = Node> {
    prop::collection::btree_map(0..4_u8, node(), 1..5)
        .prop_map(|children| Node::Directory(children, Properties { mode: None, mtime: None }))
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let path = prop::collection::vec(0..4_u8, 1..4);
    prop::collection::vec((path, prop::option::weighted(0.7, node())), 1..4)
}

impl Node {
    fn edit(&mut self, path: &[u8], with: Option<Node>) {
        let (Self::Directory(children, _), [name, rest @ ..]) = (self, path) else { return };
        match (children.get_mut(name), with) {
            (Some(child), with) if !rest.is_empty() => child.edit(rest, with),
            (_, Some(node)) => drop(children.insert(*name, node)),
            (_, None) => drop(children.remove(name)),
        }
    }

    /// Stores a directory and all below it.
    fn store(&self, cas: &MemoryCas) -> Digest {
        let Self::Directory(children, properties) = self else { panic!("only directories are stored") };
        let mut directory = reapi::Directory { node_properties: properties.to_wire(), ..Default::default() };
        for (name, child) in children {
            let name = format!("n{name}");
            match child {
                Self::File { content, executable, properties } => {
                    let digest = Some(cas.insert(Sha256, vec![*content; 5]).to_wire());
                    let (is_executable, node_properties) = (*executable, properties.to_wire());
                    directory.files.push(reapi::FileNode { name, digest, is_executable, node_properties });
                }
                Self::Link(target) => {
                    let target = format!("to{target}");
                    directory.symlinks.push(reapi::SymlinkNode { name, target, ..Default::default() });
                }
                Self::Directory(..) => {
                    let digest = Some(child.store(cas).to_wire());
                    directory.directories.push(reapi::DirectoryNode { name, digest });
                }
            }
        }
        cas.insert(Sha256, directory.encode_to_vec())
    }
}

impl Properties {
    fn to_wire(self) -> Option<reapi::NodeProperties> {
        (self.mode.is_some() || self.mtime.is_some()).then(|| reapi::NodeProperties {
            unix_mode: self.mode.map(|value| protobuf::UInt32Value { value }),
            mtime: self.mtime.map(|seconds| protobuf::Timestamp { seconds, nanos: 0 }),
            ..Default::default()
        })
    }
}

/// What an overlay of `layers` (the uppermost first) shows: path, then kind, mode, time, content.
fn merged(layers: &[PathBuf]) -> BTreeMap<PathBuf, (u32, i64, Vec<u8>)> {
    let mut shown = BTreeMap::new();
    show(layers, Path::new(""), &mut shown);
    shown
}

fn show(layers: &[PathBuf], at: &Path, shown: &mut BTreeMap<PathBuf, (u32, i64, Vec<u8>)>) {
    let top = fs::symlink_metadata(&layers[0]).unwrap();
    let mut names: BTreeMap<_, (Vec<PathBuf>, bool)> = BTreeMap::new();
    for layer in layers {
        for entry in fs::read_dir(layer).unwrap() {
            let path = entry.unwrap().path();
            let (found, closed) = names.entry(path.file_name().unwrap().to_owned()).or_default();
            let is_directory = fs::symlink_metadata(&path).unwrap().is_dir();
            if *closed || (!is_directory && !found.is_empty()) {
                *closed = true;
                continue;
            }
            *closed = !is_directory || is_opaque(&path);
            found.push(path);
        }
    }
    for (name, (found, _)) in names {
        let (path, meta) = (at.join(name), fs::symlink_metadata(&found[0]).unwrap());
        if meta.is_dir() {
            show(&found, &path, shown);
        } else if meta.is_symlink() {
            let target = fs::read_link(&found[0]).unwrap().into_os_string().into_encoded_bytes();
            shown.insert(path, (meta.mode(), meta.mtime(), target));
        } else if meta.is_file() {
            shown.insert(path, (meta.mode(), meta.mtime(), fs::read(&found[0]).unwrap()));
        } else {
            assert_eq!(meta.rdev(), 0, "a whiteout");
        }
    }
    shown.insert(at.to_owned(), (top.mode(), top.mtime(), Vec::new()));
}

fn is_opaque(path: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::getxattr(path, "user.overlay.opaque", &mut value[..]).is_ok()
}

/// Stages the roots one after the other, each as a layer over those before it and once whole.
async fn stage(roots: &[Node]) {
    let (cas, directories, tasks) = (MemoryCas::default(), Directories::default(), Tasks::default());
    let scratch = tempfile::tempdir().unwrap();
    let sweeper = Sweeper::new(tasks.clone());
    let pool = FilePool::open(&scratch.path().join("files"), 1000, sweeper).unwrap();
    let mut layers: Vec<PathBuf> = Vec::new();
    let mut base = None;
    for (number, root) in roots.iter().enumerate() {
        let digest = root.store(&cas);
        let closure = Closure::load(&cas, &directories, digest, MAX_ENTRIES).await.unwrap();
        let builder = Builder::shared(&cas, &closure, &pool);
        let [whole, layer] = ["whole", "layer"].map(|kind| scratch.path().join(format!("{kind}{number}")));
        fs::create_dir(&whole).unwrap();
        builder.build(&whole).unwrap();
        if let Some(base) = base.replace(digest) {
            let known = |digest: &Digest| directories.get(digest);
            let (patch, _) = Patch::plan(base, &closure, MAX_ENTRIES, &known).unwrap();
            fs::create_dir(&layer).unwrap();
            builder.build_patch(&layer, &patch).unwrap();
            layers.insert(0, layer);
        } else {
            layers.push(whole.clone());
        }
        assert_eq!(merged(&layers), merged(&[whole]));
    }
    drop(pool);
    tasks.idle().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn layers_show_exactly_the_tree(first in root(), rounds in prop::collection::vec(edits(), 1..4)) {
        let mut roots = vec![first];
        for edits in rounds {
            let mut next = roots[roots.len() - 1].clone();
            edits.into_iter().for_each(|(path, node)| next.edit(&path, node));
            roots.push(next);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(stage(&roots));
    }
}

fn directory(children: impl IntoIterator<Item = (u8, Node)>) -> Node {
    Node::Directory(children.into_iter().collect(), Properties { mode: None, mtime: None })
}

fn file(content: u8) -> Node {
    Node::File { content, executable: false, properties: Properties { mode: None, mtime: None } }
}

#[tokio::test]
async fn a_layer_is_as_large_as_the_difference() {
    let (cas, directories) = (MemoryCas::default(), Directories::default());
    let many = || (0..50).map(|name| (name, file(name)));
    let old = directory([(0, directory(many())), (1, directory(many())), (2, file(1)), (3, file(2))]);
    let mut new = old.clone();
    new.edit(&[1, 7], Some(file(99)));
    new.edit(&[2], None);
    let [old, new] = [old, new].map(|root| root.store(&cas));
    Closure::load(&cas, &directories, old, MAX_ENTRIES).await.unwrap();
    let closure = Closure::load(&cas, &directories, new, MAX_ENTRIES).await.unwrap();
    let known = |digest: &Digest| directories.get(digest);
    let (patch, size) = Patch::plan(old, &closure, 4, &known).unwrap();
    assert_eq!(size, Size { entries: 4, bytes: 5 }, "the root, one directory, one file, one name gone");
    assert_eq!((patch.removed.len(), patch.files.len(), patch.directories.len()), (1, 0, 1));
    assert!(Patch::plan(old, &closure, 3, &known).is_none(), "more than allowed");
    assert!(Patch::plan(old, &closure, 4, &|_| None).is_none(), "the old tree is not known any more");
}
