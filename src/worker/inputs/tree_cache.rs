//! [`TreeCache`]: built trees by root digest, kept while there is room.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::OnceCell;

use super::builder::Builder;
use super::closure::Closure;
use super::file_pool::FilePool;
use super::{InputError, InputLimits, blocking};
use crate::cas::{ContentAddressableStorage, LocalBlobs, Pins};
use crate::digest::Digest;
use crate::worker::scratch::Sweeper;

/// The trees of one staging area.
pub(super) struct TreeCache {
    shared: Arc<Shared>,
    limits: InputLimits,
    cas: Arc<dyn ContentAddressableStorage>,
    state: Mutex<State>,
}

/// What building threads need.
struct Shared {
    directory: PathBuf,
    pool: FilePool,
    blobs: Arc<dyn LocalBlobs>,
    sweeper: Sweeper,
    made: AtomicU64,
}

#[derive(Default)]
struct State {
    slots: HashMap<Digest, Slot>,
    clock: u64,
}

/// A tree that is there or being built. Its users hold the `Arc` of the tree.
struct Slot {
    cell: Arc<OnceCell<Arc<Tree>>>,
    used: u64,
}

/// A finished tree. Removed from the disk, beside the work, when nobody holds it any more.
pub(super) struct Tree {
    directory: TreeDirectory,
    pub(super) read_only: Vec<PathBuf>,
    digests: Vec<Digest>,
    entries: u64,
    bytes: u64,
    pins: Mutex<Weak<Pins>>,
}

struct TreeDirectory {
    path: PathBuf,
    sweeper: Sweeper,
}

// === impl TreeCache ===

impl TreeCache {
    /// An empty cache in the empty `directory`.
    pub(super) fn open(
        directory: &Path,
        limits: InputLimits,
        cas: Arc<dyn ContentAddressableStorage>,
        blobs: Arc<dyn LocalBlobs>,
        sweeper: Sweeper,
    ) -> io::Result<Self> {
        let trees = directory.join("trees");
        std::fs::create_dir(&trees)?;
        let pool = FilePool::open(&directory.join("files"), limits.pooled_files, sweeper.clone())?;
        let shared = Shared { directory: trees, pool, blobs, sweeper, made: AtomicU64::new(0) };
        Ok(Self { shared: Arc::new(shared), limits, cas, state: Mutex::default() })
    }

    pub(super) fn cas(&self) -> &dyn ContentAddressableStorage {
        &*self.cas
    }

    pub(super) fn blobs(&self) -> &Arc<dyn LocalBlobs> {
        &self.shared.blobs
    }

    /// The tree of `root` and the pins of its blobs. Whoever comes while it is being built waits
    /// for that one; should the builder give up, the next in line builds.
    pub(super) async fn acquire(
        &self,
        root: Digest,
        max_entries: u64,
    ) -> Result<(Arc<Tree>, Arc<Pins>), InputError> {
        let cell = self.slot(root);
        let mut building = false;
        let built = cell
            .get_or_try_init(|| {
                building = true;
                async {
                    let closure = Closure::load(&*self.cas, root, max_entries).await?;
                    let shared = Arc::clone(&self.shared);
                    blocking(move || shared.build(closure).map(Arc::new)).await
                }
            })
            .await
            .map(Arc::clone);
        drop(cell);
        if building {
            // The trees taken out are dropped here, without the lock.
            drop(self.evict());
        }
        let tree = built?;
        let pins = tree.pin(&*self.shared.blobs);
        Ok((tree, pins))
    }

    fn slot(&self, root: Digest) -> Arc<OnceCell<Arc<Tree>>> {
        let mut state = self.state();
        state.clock += 1;
        let used = state.clock;
        let slot = state.slots.entry(root).or_insert_with(|| Slot { cell: Arc::default(), used });
        slot.used = used;
        Arc::clone(&slot.cell)
    }

    /// Takes out what is over the limits, least recently used first, and what failed to build.
    /// Trees in use stay.
    fn evict(&self) -> Vec<Slot> {
        let mut state = self.state();
        state.slots.retain(|_, slot| slot.cell.initialized() || Arc::strong_count(&slot.cell) > 1);
        let mut totals = Totals::default();
        for tree in state.slots.values().filter_map(|slot| slot.cell.get()) {
            totals.add(tree);
        }
        let mut evicted = Vec::new();
        if totals.fit(&self.limits) {
            return evicted;
        }
        let mut unused: Vec<_> =
            state.slots.iter().filter(|(_, s)| s.is_unused()).map(|(root, s)| (s.used, *root)).collect();
        unused.sort_unstable();
        for (_, root) in unused {
            if totals.fit(&self.limits) {
                break;
            }
            let Some(slot) = state.slots.remove(&root) else { continue };
            if let Some(tree) = slot.cell.get() {
                totals.remove(tree);
            }
            evicted.push(slot);
        }
        evicted
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TreeCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TreeCache").field("directory", &self.shared.directory).finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// Builds beside the final place and moves the whole tree there when it is complete. The number
    /// in the name keeps a tree apart from an evicted one of the same root that is being removed.
    fn build(&self, closure: Closure) -> Result<Tree, InputError> {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let building = self.directory.join(format!("building-{number}"));
        let io = |error| InputError::io(&self.directory, error);
        std::fs::create_dir(&building).map_err(io)?;
        let mut directory = TreeDirectory { path: building, sweeper: self.sweeper.clone() };
        let read_only = Builder::shared(&*self.blobs, &closure, &self.pool).build(&directory.path)?;
        let (function, hash) = (closure.root.function(), closure.root.hash_hex());
        let done = self.directory.join(format!("{function}-{hash}.{number}"));
        std::fs::rename(&directory.path, &done).map_err(io)?;
        directory.path = done;
        let Closure { digests, entries, bytes, .. } = closure;
        Ok(Tree { directory, read_only, digests, entries, bytes, pins: Mutex::default() })
    }
}

// === impl Tree ===

impl Tree {
    pub(super) fn path(&self) -> &Path {
        &self.directory.path
    }

    /// Pins the blobs of the tree; all its users at a time share one pin.
    fn pin(&self, blobs: &dyn LocalBlobs) -> Arc<Pins> {
        let mut current = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        current.upgrade().unwrap_or_else(|| {
            let pins = Arc::new(blobs.pin(&self.digests));
            *current = Arc::downgrade(&pins);
            pins
        })
    }
}

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tree").field("path", &self.path()).finish_non_exhaustive()
    }
}

impl Drop for TreeDirectory {
    fn drop(&mut self) {
        self.sweeper.remove(std::mem::take(&mut self.path));
    }
}

impl Slot {
    fn is_unused(&self) -> bool {
        self.cell.get().is_some_and(|tree| Arc::strong_count(tree) == 1) && Arc::strong_count(&self.cell) == 1
    }
}

// === Totals ===

#[derive(Default)]
struct Totals {
    trees: usize,
    entries: u64,
    bytes: u64,
}

impl Totals {
    fn add(&mut self, tree: &Tree) {
        self.trees += 1;
        self.entries = self.entries.saturating_add(tree.entries);
        self.bytes = self.bytes.saturating_add(tree.bytes);
    }

    fn remove(&mut self, tree: &Tree) {
        self.trees -= 1;
        self.entries = self.entries.saturating_sub(tree.entries);
        self.bytes = self.bytes.saturating_sub(tree.bytes);
    }

    fn fit(&self, limits: &InputLimits) -> bool {
        self.trees <= limits.trees && self.entries <= limits.tree_entries && self.bytes <= limits.tree_bytes
    }
}
