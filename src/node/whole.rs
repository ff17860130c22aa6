//! [`Whole`]: the store of the whole farm, as each part of the node sees it.
//!
//! ```text
//! clients, scheduler   cas: what is here, and what other machines have
//! worker               brought: the same; what is needed comes to this disk first
//! peers' door, guests  kept: this disk, for copies of what others have
//! ```
//!
//! Results are nested: pinned, complete, acknowledged, replicated, on this disk.

use std::sync::Arc;
use std::time::Duration;

use super::settings;
use crate::action_cache::complete::CompleteActionCache;
use crate::action_cache::disk::DiskActionCache;
use crate::action_cache::fate::Fates;
use crate::action_cache::pinned::PinnedActionCache;
use crate::asset::AssetStores;
use crate::cas::ContentAddressableStorage;
use crate::cas::chunks::Chunks;
use crate::cas::disk::DiskCas;
use crate::config::{ChunkSize, Config};
use crate::peer::MachineId;
use crate::replication::acknowledged::{AcknowledgedActionCache, Copied};
use crate::replication::action_cache::{ReplicatedActionCache, generation};
use crate::replication::cas::{BroughtCas, ReplicatedCas};
use crate::replication::driver::Replication;
use crate::replication::elsewhere::Elsewhere;
use crate::tasks::Tasks;
use crate::worker::inputs::Stores;

/// A result that was found complete is shown again without another look for this long, or for a
/// quarter of the lease where that is shorter, so that what it names never ages past its lease.
const FRESH: Duration = Duration::from_secs(60);

/// The store.
pub(super) struct Whole {
    /// Of this machine.
    pub(super) store: DiskCas,
    /// Blobs wherever they are.
    pub(super) cas: Arc<dyn ContentAddressableStorage>,
    /// The same; those it does not list as missing are on this disk.
    brought: Arc<dyn ContentAddressableStorage>,
    /// Results wherever they are.
    pub(super) results: Arc<Results>,
    /// What became of results that are not here.
    pub(super) fates: Fates,
    /// Sees to copies.
    pub(super) replication: Replication,
    pub(super) elsewhere: Elsewhere,
}

/// Results as they are shown: complete ones only, and what a person pinned stays.
type Results =
    PinnedActionCache<CompleteActionCache<AcknowledgedActionCache<ReplicatedActionCache<DiskActionCache>>>>;

// === impl Whole ===

impl Whole {
    /// The store of the farm of machine `me`, which has `store`. Nothing is copied before it is told of
    /// other machines.
    pub(super) fn new(config: &Config, me: MachineId, store: DiskCas, tasks: &Tasks) -> Self {
        let replication = Replication::new(
            settings::replication(config, me, store.usage().budget_bytes),
            Arc::new(store.clone()),
            store.of_others(),
        );
        store.observe(replication.news());
        let elsewhere = Elsewhere::new(replication.others(), store.of_others(), tasks.clone());
        let policy = Copied::new(replication.clone(), config.copies.before_ack);
        let cas = ReplicatedCas::new(store.clone(), elsewhere.clone(), Arc::new(policy.clone()));
        let brought: Arc<dyn ContentAddressableStorage> = Arc::new(BroughtCas::new(cas.clone()));
        let cas: Arc<dyn ContentAddressableStorage> = Arc::new(cas);

        let disk = DiskActionCache::new(store.clone());
        let results = ReplicatedActionCache::new(disk.clone(), Arc::new(store.clone()), elsewhere.clone());
        let results = AcknowledgedActionCache::new(results, policy, Arc::new(store.clone()));
        let generation = {
            let store = store.clone();
            generation(Arc::new(move || store.generation()), elsewhere.clone())
        };
        let fresh = FRESH.min(config.lease / 4);
        let complete = CompleteActionCache::new(results, Arc::clone(&cas), generation, fresh);
        let fates = Fates::new(store.clone(), disk, Arc::clone(complete.incomplete()));
        let pinned = PinnedActionCache::new(complete, store.clone(), Arc::clone(&brought));
        Self { results: Arc::new(pinned), fates, replication, elsewhere, cas, brought, store }
    }

    /// Has what is pinned stay, by a task.
    pub(super) fn mend_pins(&self, tasks: &Tasks) {
        let results = Arc::clone(&self.results);
        tasks.spawn("mend pins", async move { results.mend().await });
    }

    /// Splits blobs into chunks of `size` in the mean, on this disk, and splices them.
    pub(super) fn chunks(&self, size: ChunkSize) -> Chunks {
        let (cas, brought) = (Arc::clone(&self.cas), Arc::clone(&self.brought));
        Chunks::new(size, cas, brought, Arc::new(self.store.clone()))
    }

    /// For downloads and names.
    pub(super) fn for_assets(&self) -> AssetStores {
        let (results, here) = (self.results.clone(), Arc::new(self.store.clone()));
        AssetStores { results, cas: Arc::clone(&self.cas), here }
    }

    /// For the worker of this machine.
    pub(super) fn for_worker(&self) -> Stores {
        let here = Arc::new(self.store.clone());
        Stores { cas: Arc::clone(&self.brought), here: here.clone(), blobs: here }
    }
}
