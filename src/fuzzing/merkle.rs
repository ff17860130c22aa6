//! Directories, and trees of them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::reapi;
use futures_util::FutureExt;
use prost::Message;

use super::input::Input;
use crate::action_cache::complete::CompleteActionCache;
use crate::action_cache::memory::MemoryActionCache;
use crate::action_cache::{ActionCache, ActionKey};
use crate::cas::memory::MemoryCas;
use crate::digest::{Digest, DigestFunction};
use crate::instance::InstanceName;
use crate::merkle::Directory;
use crate::path::Component;
use crate::worker::inputs::fuzzing::entries;

/// Entries an input root may have here.
const LIMIT: u64 = 200;

/// A Directory that parses has file names only, each once, and loses no entry.
///
/// # Panics
/// When that does not hold.
pub fn directory(data: &[u8]) {
    let mut input = Input(data);
    let function = if input.flag() { DigestFunction::Blake3 } else { DigestFunction::Sha256 };
    let Ok(directory) = Directory::parse(input.0, function) else { return };
    let wire = reapi::Directory::decode(input.0).expect("what parses decodes");
    assert_eq!(directory.files.len(), wire.files.len());
    assert_eq!(directory.directories.len(), wire.directories.len());
    assert_eq!(directory.symlinks.len(), wire.symlinks.len());
    let names = (directory.files.iter().map(|file| &file.name))
        .chain(directory.directories.iter().map(|directory| &directory.name))
        .chain(directory.symlinks.iter().map(|symlink| &symlink.name));
    let mut seen = HashSet::new();
    for name in names {
        assert!(Component::is_valid(name.as_str()) && seen.insert(name), "{name:?}");
    }
    assert!(directory.files.iter().all(|file| file.digest.function() == function));
    assert!(directory.symlinks.iter().all(|symlink| !symlink.target.is_empty()));
    for mode in directory.files.iter().filter_map(|file| file.properties.unix_mode) {
        assert!(mode <= 0o7777);
    }
}

/// A result is taken only if a client finds all it names: every Directory of a Tree, every file below. An
/// input root has as many entries as it unfolds to, counted without unfolding it.
///
/// # Panics
/// When that does not hold.
pub fn tree(data: &[u8]) {
    let forest = Forest::plant(&mut Input(data));
    let Some(root) = forest.directories.last() else { return };
    check_tree(&forest);
    check_root_directory(&forest, root);
    check_entries(&forest, root);
}

/// Directories made of a fuzzer's choices. Each may name those made before it.
struct Forest {
    cas: MemoryCas,
    directories: Vec<Digest>,
    /// By digest, whether stored or not.
    messages: HashMap<Digest, reapi::Directory>,
    tree: Vec<u8>,
}

// === impl Forest ===

impl Forest {
    fn plant(input: &mut Input) -> Self {
        let mut forest = Self {
            cas: MemoryCas::default(),
            directories: Vec::new(),
            messages: HashMap::new(),
            tree: Vec::new(),
        };
        let mut children = Vec::new();
        for _ in 0..=input.below(32) {
            let message = forest.directory(input);
            let data = message.encode_to_vec();
            let digest = Digest::of(DigestFunction::Sha256, &data);
            let choice = input.below(16);
            if choice != 1 {
                forest.cas.insert(DigestFunction::Sha256, data);
            }
            if choice != 2 {
                children.push(message.clone());
            }
            forest.directories.push(digest);
            forest.messages.insert(digest, message);
            if input.is_empty() {
                break;
            }
        }
        let root = children.last().cloned();
        forest.tree = reapi::Tree { root, children }.encode_to_vec();
        if input.flag() {
            // As the encoding allows: another part of the root, behind the rest.
            let root = Some(forest.directory(input));
            forest.tree.extend(reapi::Tree { root, children: Vec::new() }.encode_to_vec());
        }
        forest
    }

    fn directory(&self, input: &mut Input) -> reapi::Directory {
        let mut directory = reapi::Directory::default();
        for _ in 0..input.below(6) {
            let choice = input.byte();
            let name = match choice >> 4 {
                0 => "..".to_owned(),
                letter => char::from(b'a' + letter).to_string(),
            };
            match choice & 7 {
                0..=3 => {
                    let digest = self.directories.get(input.below(self.directories.len()));
                    let digest = digest.map(Digest::to_wire);
                    directory.directories.push(reapi::DirectoryNode { name, digest });
                }
                4..=5 => {
                    let digest = self.cas.insert(DigestFunction::Sha256, name.clone());
                    let digest = Some(digest.to_wire());
                    directory.files.push(reapi::FileNode { name, digest, ..Default::default() });
                }
                6 => {
                    let digest = Some(Digest::of(DigestFunction::Sha256, b"never stored").to_wire());
                    directory.files.push(reapi::FileNode { name, digest, ..Default::default() });
                }
                _ => {
                    let target = "/".to_owned();
                    directory.symlinks.push(reapi::SymlinkNode { name, target, ..Default::default() });
                }
            }
        }
        directory
    }

    fn has(&self, digest: &Digest) -> bool {
        use crate::cas::ContentAddressableStorage;
        now(self.cas.get(digest)).is_ok()
    }

    /// Whether an action cache over these blobs takes this result, and shows it then.
    fn is_taken(&self, directory: reapi::OutputDirectory) -> bool {
        let result = reapi::ActionResult { output_directories: vec![directory], ..Default::default() };
        let action = Digest::of(DigestFunction::Sha256, b"the action");
        let key = ActionKey { instance: InstanceName::default(), action };
        let cas = Arc::new(self.cas.clone());
        let generation = Arc::new(|| 0);
        let cache = CompleteActionCache::new(MemoryActionCache::default(), cas, generation, Duration::ZERO);
        let taken = now(cache.put(&key, result.clone())).is_ok();
        let shown = now(cache.get(&key)).expect("memory is read without errors");
        assert_eq!(shown, taken.then_some(result));
        taken
    }

    /// Holds that a client that knows `held` finds everything below `root`.
    fn check_complete(&self, root: &reapi::Directory, held: &HashMap<Digest, reapi::Directory>) {
        let mut waiting = vec![root];
        let mut seen = HashSet::new();
        while let Some(message) = waiting.pop() {
            let directory = Directory::from_wire(message.clone(), DigestFunction::Sha256);
            let directory = directory.expect("a directory that was taken is valid");
            for file in &directory.files {
                assert!(self.has(&file.digest), "the file {:?} is absent", file.name);
            }
            for child in directory.directories.iter().filter(|child| seen.insert(child.digest)) {
                waiting.push(held.get(&child.digest).expect("every directory is there"));
            }
        }
    }
}

fn check_tree(forest: &Forest) {
    let digest = forest.cas.insert(DigestFunction::Sha256, forest.tree.clone());
    let tree_digest = Some(digest.to_wire());
    if forest.is_taken(reapi::OutputDirectory { tree_digest, ..Default::default() }) {
        let tree = reapi::Tree::decode(&*forest.tree).expect("a tree that was taken decodes");
        // Everybody knows the empty Directory.
        let children = tree.children.into_iter().chain([reapi::Directory::default()]);
        let held = children.map(|child| (Digest::of(DigestFunction::Sha256, &child.encode_to_vec()), child));
        forest.check_complete(&tree.root.unwrap_or_default(), &held.collect());
    }
}

fn check_root_directory(forest: &Forest, root: &Digest) {
    let root_directory_digest = Some(root.to_wire());
    if forest.is_taken(reapi::OutputDirectory { root_directory_digest, ..Default::default() }) {
        let held = forest.messages.clone().into_iter().filter(|(digest, _)| forest.has(digest));
        forest.check_complete(&forest.messages[root], &held.collect());
    }
}

fn check_entries(forest: &Forest, root: &Digest) {
    let Ok(counted) = block_on(entries(&forest.cas, *root, LIMIT)) else { return };
    let mut unfolded = 0;
    let mut waiting = vec![root];
    let digests: HashMap<String, &Digest> =
        forest.directories.iter().map(|digest| (digest.hash_hex(), digest)).collect();
    while let Some(directory) = waiting.pop().filter(|_| unfolded <= LIMIT) {
        let message = &forest.messages[directory];
        unfolded += (message.files.len() + message.directories.len() + message.symlinks.len()) as u64;
        let children = message.directories.iter().filter_map(|child| child.digest.as_ref());
        waiting.extend(children.map(|child| digests[&child.hash]));
    }
    assert_eq!(counted, Some(unfolded).filter(|_| unfolded <= LIMIT));
}

/// The result of what never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("memory is there at once")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a thread can wait").block_on(future)
}
