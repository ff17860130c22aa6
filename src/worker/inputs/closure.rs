//! [`Closure`]: everything below a root Directory, read and checked before anything is staged.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::StreamExt;

use super::InputError;
use super::builder::subtree_read_only;
use super::directories::Directories;
use crate::cas::ContentAddressableStorage;
use crate::digest::Digest;
use crate::merkle::Directory;

/// Directory messages read at once.
const READS_AT_ONCE: usize = 8;

/// A root Directory and all it names. Each distinct Directory is held once.
#[derive(Debug)]
pub(super) struct Closure {
    pub(super) root: Digest,
    pub(super) directories: HashMap<Digest, Arc<Directory>>,
    /// Every distinct blob, Directories and files.
    pub(super) digests: Vec<Digest>,
    /// Entries of the whole root, counted as often as they appear.
    pub(super) entries: u64,
    /// Bytes of all distinct files.
    pub(super) bytes: u64,
}

impl Closure {
    /// Reads the whole Merkle tree of `root`, as far as it is not in `known`, and makes sure that
    /// every blob in it is stored.
    pub(super) async fn load(
        cas: &dyn ContentAddressableStorage,
        known: &Directories,
        root: Digest,
        max_entries: u64,
    ) -> Result<Self, InputError> {
        let too_many = InputError::TooManyEntries { limit: max_entries };
        let mut directories = HashMap::new();
        let mut missing = Vec::new();
        let mut files = HashSet::new();
        let mut seen = HashSet::from([root]);
        let mut level = vec![root];
        let mut distinct = 0;
        while !level.is_empty() {
            known.prepare(cas, &level).await?;
            let mut reads = futures_util::stream::iter(std::mem::take(&mut level))
                .map(async |digest| (digest, known.load(cas, digest).await))
                .buffer_unordered(READS_AT_ONCE);
            while let Some((digest, directory)) = reads.next().await {
                let directory = match directory {
                    Err(InputError::Missing(_)) => {
                        missing.push(digest);
                        continue;
                    }
                    Err(InputError::Malformed { digest, source, .. }) if digest == root => {
                        return Err(InputError::Malformed { digest, source, role: "input root" });
                    }
                    other => other?,
                };
                distinct += directory.entries() as u64;
                if distinct > max_entries {
                    return Err(too_many);
                }
                files.extend(directory.files.iter().map(|file| file.digest));
                let children = directory.directories.iter().map(|child| child.digest);
                level.extend(children.filter(|child| seen.insert(*child)));
                directories.insert(digest, directory);
            }
        }
        let bytes = files.iter().map(Digest::size).fold(0, u64::saturating_add);
        let mut digests: Vec<Digest> = files.into_iter().collect();
        digests.extend(seen);
        missing.extend(cas.find_missing(&digests).await?);
        if !missing.is_empty() {
            missing.sort_unstable();
            missing.dedup();
            return Err(InputError::Missing(missing));
        }
        let entries = count_entries(root, &directories);
        if entries > max_entries {
            return Err(too_many);
        }
        Ok(Self { root, directories, digests, entries, bytes })
    }

    /// Whether a directory in it is marked `SubtreeReadOnly`.
    pub(super) fn has_read_only(&self) -> bool {
        self.directories.values().any(|directory| subtree_read_only(&directory.properties).is_some())
    }

    /// A Directory of this closure.
    pub(super) fn directory(&self, digest: &Digest) -> &Arc<Directory> {
        self.directories.get(digest).expect("invariant: a closure holds every Directory it names")
    }
}

/// Entries of the tree that `root` unfolds to. A Directory named twice counts twice, so 30 small
/// messages can unfold to billions of entries: this counts each message once and adds up.
fn count_entries(root: Digest, directories: &HashMap<Digest, Arc<Directory>>) -> u64 {
    let mut totals: HashMap<Digest, u64> = HashMap::new();
    let mut stack = vec![(root, 0, 0)];
    while let Some((digest, next, total)) = stack.pop() {
        let Some(directory) = directories.get(&digest) else {
            totals.insert(digest, 0);
            continue;
        };
        let Some(child) = directory.directories.get(next) else {
            totals.insert(digest, (directory.entries() as u64).saturating_add(total));
            continue;
        };
        match totals.get(&child.digest) {
            Some(below) => stack.push((digest, next + 1, total.saturating_add(*below))),
            None => stack.extend([(digest, next, total), (child.digest, 0, 0)]),
        }
    }
    totals.get(&root).copied().unwrap_or_default()
}
