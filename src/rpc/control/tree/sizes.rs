//! What is below a directory: bytes and files, as far as a bounded walk finds out.
//!
//! Each Directory is read once, however often it stands in the tree, and counted as often as it
//! stands there: a few small messages can name more files than there are atoms, so sums stop at the
//! largest number there is.

use std::collections::{HashMap, HashSet, VecDeque};

use super::Directories;
use crate::digest::Digest;
use crate::merkle::Directory;

/// Directories read in one walk at most, and their bytes.
const MOST_DIRECTORIES: usize = 2000;
const MOST_BYTES: u64 = 16 << 20;

/// What is below a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) bytes: u64,
    pub(super) files: u64,
}

/// A Directory that was read.
struct Read {
    own: Total,
    children: Vec<Digest>,
}

/// What is below each of `roots`; those are left out of which a part could not be read, or not within
/// the bounds. The walk goes breadth first, so that one huge directory does not hide all the others.
pub(super) async fn totals(
    directories: &Directories,
    roots: impl Iterator<Item = Digest>,
) -> HashMap<Digest, Total> {
    let mut queue: VecDeque<Digest> = roots.collect();
    let roots: Vec<Digest> = queue.iter().copied().collect();
    let mut seen: HashSet<Digest> = roots.iter().copied().collect();
    let mut read: HashMap<Digest, Read> = HashMap::new();
    let mut bytes = 0;
    while let Some(digest) = queue.pop_front() {
        if read.len() == MOST_DIRECTORIES {
            break;
        }
        if digest.size() > MOST_BYTES - bytes {
            continue;
        }
        bytes += digest.size();
        let Ok(directory) = directories.read(&digest).await else { continue };
        let node = Read::of(&directory);
        queue.extend(node.children.iter().copied().filter(|child| seen.insert(*child)));
        read.insert(digest, node);
    }
    let mut known = HashMap::new();
    for root in &roots {
        add_up(*root, &read, &mut known);
    }
    roots.into_iter().filter_map(|root| Some((root, known[&root]?))).collect()
}

/// Notes the totals of `root` and of everything below it; `None` where a part is unknown.
fn add_up(root: Digest, read: &HashMap<Digest, Read>, known: &mut HashMap<Digest, Option<Total>>) {
    let mut stack = vec![root];
    while let Some(digest) = stack.last().copied() {
        let Some(node) = read.get(&digest).filter(|_| !known.contains_key(&digest)) else {
            known.entry(digest).or_insert(None);
            stack.pop();
            continue;
        };
        let unknown = node.children.iter().filter(|child| !known.contains_key(child));
        let before = stack.len();
        stack.extend(unknown);
        if stack.len() == before {
            let total = node.children.iter().try_fold(node.own, |sum, child| Some(sum.and(known[child]?)));
            known.insert(digest, total);
            stack.pop();
        }
    }
}

// === impl Total ===

impl Total {
    fn and(self, other: Self) -> Self {
        Self { bytes: self.bytes.saturating_add(other.bytes), files: self.files.saturating_add(other.files) }
    }
}

// === impl Read ===

impl Read {
    fn of(directory: &Directory) -> Self {
        let files = directory.files.iter().map(|file| Total { bytes: file.digest.size(), files: 1 });
        Self {
            own: files.fold(Total::default(), Total::and),
            children: directory.directories.iter().map(|child| child.digest).collect(),
        }
    }
}
