//! [`TreeCache`]: built trees by root digest, kept while there is room.
//!
//! A tree is a stack of layers. The lowest is a whole tree; a root that is much like one that is there
//! gets a thin layer over the layers of that one. A layer stays on the disk as long as a tree has it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::OnceCell;

use super::builder::{Builder, Marks};
use super::closure::Closure;
use super::delta::Patch;
use super::directories::Directories;
use super::file_pool::FilePool;
use super::sketch::Sketch;
use super::{InputError, InputLimits, Stores, blocking};
use crate::cas::{ContentAddressableStorage, LocalBlobs, Pins};
use crate::digest::Digest;
use crate::worker::scratch::{Sweeper, spread};

/// Layers of a tree at most. Each costs every look at a name a little.
const MAX_LAYERS: usize = 8;

/// Entries from which a tree is worth a look for one like it.
const WORTH_PATCHING: u64 = 64;

/// How much alike two roots have to be for one to be made out of the other.
const ALIKE: f64 = 0.6;

/// A layer has at most this part of the entries of its tree; others are built whole.
const MAX_PART: u64 = 4;

/// The trees of one staging area.
pub(super) struct TreeCache {
    shared: Arc<Shared>,
    limits: InputLimits,
    cas: Arc<dyn ContentAddressableStorage>,
    here: Arc<dyn ContentAddressableStorage>,
    state: Mutex<State>,
}

/// What building threads need.
struct Shared {
    directory: PathBuf,
    pool: FilePool,
    blobs: Arc<dyn LocalBlobs>,
    directories: Directories,
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

/// A finished tree.
pub(super) struct Tree {
    /// The uppermost first.
    layers: Vec<Arc<Layer>>,
    pub(super) marks: Marks,
    digests: Vec<Digest>,
    entries: u64,
    sketch: Sketch,
    pins: Mutex<Weak<Pins>>,
}

/// A directory of a tree. Removed from the disk, beside the work, when no tree has it any more.
struct Layer {
    path: PathBuf,
    /// What it makes, with those that were below it when it was built.
    root: Digest,
    bytes: u64,
    sweeper: Sweeper,
}

// === impl TreeCache ===

impl TreeCache {
    /// An empty cache in the empty `directory`.
    pub(super) fn open(
        directory: &Path,
        limits: InputLimits,
        stores: Stores,
        sweeper: Sweeper,
    ) -> io::Result<Self> {
        let Stores { cas, here, blobs } = stores;
        let trees = directory.join("trees");
        std::fs::create_dir(&trees)?;
        spread(&trees);
        let pool = FilePool::open(&directory.join("files"), limits.pooled_files, sweeper.clone())?;
        let (directories, made) = (Directories::default(), AtomicU64::new(0));
        let shared = Shared { directory: trees, pool, blobs, directories, sweeper, made };
        Ok(Self { shared: Arc::new(shared), limits, cas, here, state: Mutex::default() })
    }

    /// All that `root` names, read and checked.
    pub(super) async fn closure(&self, root: Digest, max_entries: u64) -> Result<Closure, InputError> {
        Closure::load(&*self.cas, &self.shared.directories, root, max_entries).await
    }

    /// The same, of what is on this disk.
    pub(super) async fn closure_here(&self, root: Digest, max_entries: u64) -> Result<Closure, InputError> {
        Closure::load(&*self.here, &self.shared.directories, root, max_entries).await
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
                    let closure = self.closure(root, max_entries).await?;
                    let sketch = Sketch::of(&closure.digests);
                    let base = self.most_like(&sketch, &closure);
                    let shared = Arc::clone(&self.shared);
                    blocking(move || shared.build(closure, sketch, base).map(Arc::new)).await
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

    /// The tree that is most like what `sketch` is of, if it is worth while.
    fn most_like(&self, sketch: &Sketch, closure: &Closure) -> Option<Arc<Tree>> {
        if closure.entries < WORTH_PATCHING || closure.has_read_only() {
            return None;
        }
        let state = self.state();
        let trees = state.slots.values().filter_map(|slot| Some((slot.used, slot.cell.get()?)));
        trees
            .map(|(used, tree)| (tree.sketch.likeness(sketch), used, tree))
            .filter(|(likeness, ..)| *likeness >= ALIKE)
            .max_by(|(a, used_a, _), (b, used_b, _)| a.total_cmp(b).then(used_a.cmp(used_b)))
            .map(|(.., tree)| Arc::clone(tree))
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
    /// Builds the tree over `base`, or whole if that is not possible or not much less.
    fn build(&self, closure: Closure, sketch: Sketch, base: Option<Arc<Tree>>) -> Result<Tree, InputError> {
        let patched = base.and_then(|base| self.patch(&closure, &base));
        let (layers, marks) = match patched {
            Some(layers) => (layers, Marks::default()),
            None => {
                let mut marks = Marks::default();
                let layer = self.layer(closure.root, closure.bytes, |at| {
                    marks = Builder::shared(&*self.blobs, &closure, &self.pool).build(at)?;
                    Ok(())
                })?;
                (vec![layer], marks)
            }
        };
        let Closure { digests, entries, .. } = closure;
        Ok(Tree { layers, marks, digests, entries, sketch, pins: Mutex::default() })
    }

    /// The layers of `base` with one over them that makes it the tree of `closure`. If it has too many,
    /// the new layer lies over the lowest alone.
    fn patch(&self, closure: &Closure, base: &Tree) -> Option<Vec<Arc<Layer>>> {
        let lowest = base.layers.len() - 1;
        let below = if base.layers.len() < MAX_LAYERS { &base.layers[..] } else { &base.layers[lowest..] };
        let max_entries = closure.entries / MAX_PART;
        let known = |digest: &Digest| self.directories.get(digest);
        let (patch, size) = Patch::plan(below[0].root, closure, max_entries, &known)?;
        let made = self.layer(closure.root, size.bytes, |at| {
            Builder::shared(&*self.blobs, closure, &self.pool).build_patch(at, &patch)
        });
        match made {
            Ok(layer) => Some([layer].into_iter().chain(below.iter().cloned()).collect()),
            Err(error) => {
                tracing::debug!(%error, "cannot make a layer over a staged tree; it is built whole");
                None
            }
        }
    }

    /// Has a layer built in a new directory, which is removed if that fails.
    fn layer(
        &self,
        root: Digest,
        bytes: u64,
        build: impl FnOnce(&Path) -> Result<(), InputError>,
    ) -> Result<Arc<Layer>, InputError> {
        // The number keeps it apart from an evicted one of the same root that is being removed.
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let path = self.directory.join(format!("{}-{}.{number}", root.function(), root.hash_hex()));
        std::fs::create_dir(&path).map_err(|error| InputError::io(&self.directory, error))?;
        let layer = Layer { path, root, bytes, sweeper: self.sweeper.clone() };
        build(&layer.path)?;
        Ok(Arc::new(layer))
    }
}

// === impl Tree ===

impl Tree {
    /// Its layers, the uppermost first.
    pub(super) fn lower(&self) -> Vec<PathBuf> {
        self.layers.iter().map(|layer| layer.path.clone()).collect()
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
        f.debug_struct("Tree").field("lower", &self.lower()).finish_non_exhaustive()
    }
}

impl Drop for Layer {
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
    /// In how many of the trees each layer is.
    layers: HashMap<*const Layer, usize>,
}

impl Totals {
    fn add(&mut self, tree: &Tree) {
        self.trees += 1;
        self.entries = self.entries.saturating_add(tree.entries);
        for layer in &tree.layers {
            let users = self.layers.entry(Arc::as_ptr(layer)).or_default();
            if *users == 0 {
                self.bytes = self.bytes.saturating_add(layer.bytes);
            }
            *users += 1;
        }
    }

    fn remove(&mut self, tree: &Tree) {
        self.trees -= 1;
        self.entries = self.entries.saturating_sub(tree.entries);
        for layer in &tree.layers {
            if let Some(users) = self.layers.get_mut(&Arc::as_ptr(layer)) {
                *users -= 1;
                if *users == 0 {
                    self.bytes = self.bytes.saturating_sub(layer.bytes);
                }
            }
        }
    }

    fn fit(&self, limits: &InputLimits) -> bool {
        self.trees <= limits.trees && self.entries <= limits.tree_entries && self.bytes <= limits.tree_bytes
    }
}
