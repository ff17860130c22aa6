//! Pins over a real store, whose clock and whose restarts are in the hands of the tests.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use farmhand_proto::reapi;
use prost::Message;

use super::*;
use crate::action_cache::complete::CompleteActionCache;
use crate::action_cache::disk::DiskActionCache;
use crate::cas::ContentAddressableStorage;
use crate::cas::disk::{DiskConfig, Host};
use crate::digest::DigestFunction::Sha256;
use crate::instance::InstanceName;

const BUDGET: u64 = 16 << 20;

type Cache = PinnedActionCache<CompleteActionCache<DiskActionCache>>;

struct Place {
    root: tempfile::TempDir,
    clock: Arc<AtomicU64>,
}

impl Place {
    fn new() -> Self {
        Self { root: tempfile::tempdir().unwrap(), clock: Arc::new(AtomicU64::new(1_700_000_000)) }
    }

    fn open(&self) -> (DiskCas, Cache) {
        let clock = Arc::clone(&self.clock);
        let now = move || SystemTime::UNIX_EPOCH + Duration::from_secs(clock.load(Ordering::Relaxed));
        let config = DiskConfig {
            host: Host::new("boot", now),
            lease: Duration::from_secs(60),
            ..DiskConfig::new(self.root.path(), BUDGET)
        };
        let store = DiskCas::open(config, &|_| {}).unwrap();
        let generation = {
            let store = store.clone();
            Arc::new(move || store.generation())
        };
        let cas = Arc::new(store.clone());
        let fresh = Duration::ZERO;
        let inner = CompleteActionCache::new(DiskActionCache::new(store.clone()), cas, generation, fresh);
        (store.clone(), PinnedActionCache::new(inner, store.clone(), Arc::new(store)))
    }

    fn reopen(&self, store: DiskCas, cache: Cache) -> (DiskCas, Cache) {
        store.close();
        drop((store, cache));
        self.open()
    }

    /// Lets every lease end, and writes more than the store can hold.
    async fn turn_over(&self, store: &DiskCas, seed: u64) {
        self.clock.fetch_add(3600, Ordering::Relaxed);
        for number in 0..2 * BUDGET / 100_000 {
            self.clock.fetch_add(1, Ordering::Relaxed);
            put(store, blob(seed * 1_000_000 + number, 100_000)).await;
        }
    }

    fn lists(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.root.path().join("kept")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

fn blob(seed: u64, len: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = move |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(next).collect()
}

async fn put(store: &DiskCas, data: Bytes) -> Digest {
    let digest = Digest::of(Sha256, &data);
    store.put(&digest, data).await.unwrap();
    digest
}

fn key(name: &str) -> ActionKey {
    ActionKey { instance: InstanceName::parse("main").unwrap(), action: Digest::of(Sha256, name.as_bytes()) }
}

/// A result with a large output, a small one, a Tree with a file in it, and a log; and its blobs.
async fn result(store: &DiskCas, seed: u64) -> (ActionResult, Vec<Digest>) {
    let large = put(store, blob(seed, 300_000)).await;
    let small = put(store, blob(seed + 1, 100)).await;
    let inside = put(store, blob(seed + 2, 50_000)).await;
    let log = put(store, blob(seed + 3, 2000)).await;
    let node = reapi::FileNode { name: "f".into(), digest: Some(inside.to_wire()), ..Default::default() };
    let root = reapi::Directory { files: vec![node], ..Default::default() };
    let tree = put(store, reapi::Tree { root: Some(root), children: vec![] }.encode_to_vec().into()).await;
    let file = |path: &str, digest: &Digest| reapi::OutputFile {
        path: path.into(),
        digest: Some(digest.to_wire()),
        ..Default::default()
    };
    let result = ActionResult {
        output_files: vec![file("large", &large), file("small", &small)],
        output_directories: vec![reapi::OutputDirectory {
            path: "dir".into(),
            tree_digest: Some(tree.to_wire()),
            ..Default::default()
        }],
        stdout_digest: Some(log.to_wire()),
        stderr_digest: Some(Digest::empty(Sha256).to_wire()),
        ..Default::default()
    };
    (result, vec![large, small, inside, log, tree])
}

async fn is_whole(store: &DiskCas, cache: &Cache, name: &str, blobs: &[Digest]) -> bool {
    cache.get(&key(name)).await.unwrap().is_some() && store.peek_missing(blobs).await.unwrap().is_empty()
}

#[tokio::test]
async fn what_is_pinned_outlives_everything_else_until_it_is_unpinned() {
    let place = Place::new();
    let (store, cache) = place.open();
    let (kept, blobs) = result(&store, 10).await;
    cache.put(&key("kept"), kept).await.unwrap();
    let (other, others) = result(&store, 20).await;
    cache.put(&key("other"), other).await.unwrap();
    let bytes = cache.pin(&key("kept")).await.unwrap();
    assert!((352_100..500_000).contains(&bytes), "{bytes}");
    assert!(cache.is_pinned(&key("kept")) && !cache.is_pinned(&key("other")));

    place.turn_over(&store, 1).await;
    assert!(is_whole(&store, &cache, "kept", &blobs).await);
    assert!(!is_whole(&store, &cache, "other", &others).await, "the store did turn over");

    // Twice, so that nothing is there only because it was just asked for.
    let (store, cache) = place.reopen(store, cache);
    assert_eq!(store.stats().kept, 1);
    place.turn_over(&store, 2).await;
    place.turn_over(&store, 3).await;
    assert!(is_whole(&store, &cache, "kept", &blobs).await);

    assert!(cache.unpin(&key("kept")).await.unwrap());
    assert!(!cache.unpin(&key("kept")).await.unwrap());
    place.turn_over(&store, 4).await;
    assert!(!is_whole(&store, &cache, "kept", &blobs).await);
    let (store, _cache) = place.reopen(store, cache);
    assert_eq!((store.stats().kept, place.lists().len()), (0, 0));
}

#[tokio::test]
async fn only_complete_results_are_pinned() {
    let place = Place::new();
    let (store, cache) = place.open();
    assert!(matches!(cache.pin(&key("none")).await, Err(PinError::NoResult)));
    let (some, _) = result(&store, 10).await;
    cache.put(&key("some"), some.clone()).await.unwrap();
    // As if a blob had gone between the look and the pin.
    let hash = identity(&key("some"));
    let absent = Digest::of(Sha256, b"absent");
    assert!(matches!(store.keep(&hash, &[absent]), Err(KeepError::Missing(1))));
    assert!(!cache.is_pinned(&key("some")) && store.stats().pins == 0);
}

#[tokio::test]
async fn half_of_the_budget_is_the_most_and_shared_blobs_count_once() {
    let place = Place::new();
    let (store, cache) = place.open();
    let shared = put(&store, blob(1, 5 << 20)).await;
    let with = |digest: Digest| ActionResult {
        output_files: vec![reapi::OutputFile {
            path: "f".into(),
            digest: Some(digest.to_wire()),
            ..Default::default()
        }],
        ..Default::default()
    };
    for name in ["a", "b", "c"] {
        cache.put(&key(name), with(shared)).await.unwrap();
        assert!(cache.pin(&key(name)).await.unwrap() >= 5 << 20);
    }
    let more = put(&store, blob(2, 4 << 20)).await;
    cache.put(&key("more"), with(more)).await.unwrap();
    let refused = cache.pin(&key("more")).await.unwrap_err();
    assert!(matches!(refused, PinError::NoRoom(_)) && refused.to_string().contains("half of the budget"));
    assert!(!cache.is_pinned(&key("more")));
    assert_eq!((store.stats().kept, store.stats().pins), (3, 0));
    cache.unpin(&key("a")).await.unwrap();
    place.turn_over(&store, 1).await;
    assert!(is_whole(&store, &cache, "b", &[shared]).await, "others still need it");
}

#[tokio::test]
async fn a_new_result_of_a_pinned_action_takes_the_place_of_the_earlier_one() {
    let place = Place::new();
    let (store, cache) = place.open();
    let (first, before) = result(&store, 10).await;
    cache.put(&key("a"), first).await.unwrap();
    cache.pin(&key("a")).await.unwrap();
    let (second, blobs) = result(&store, 20).await;
    cache.put(&key("a"), second.clone()).await.unwrap();
    place.turn_over(&store, 1).await;
    assert_eq!(cache.get(&key("a")).await.unwrap(), Some(second));
    assert!(is_whole(&store, &cache, "a", &blobs).await);
    assert_eq!(store.peek_missing(&before).await.unwrap().len(), before.len());
}

#[tokio::test]
async fn a_damaged_list_is_made_anew_from_the_result() {
    let place = Place::new();
    let (store, cache) = place.open();
    let (kept, blobs) = result(&store, 10).await;
    cache.put(&key("kept"), kept).await.unwrap();
    cache.pin(&key("kept")).await.unwrap();
    store.close();
    drop((store, cache));
    let list = place.lists().remove(0);
    std::fs::write(&list, b"FHKEPT1\nnothing of the kind").unwrap();
    std::fs::write(list.with_extension("new"), b"half").unwrap();
    let (store, cache) = place.open();
    assert!(cache.is_pinned(&key("kept")));
    cache.mend().await;
    assert_eq!(place.lists(), [list]);
    let (store, cache) = place.reopen(store, cache);
    place.turn_over(&store, 1).await;
    assert!(is_whole(&store, &cache, "kept", &blobs).await);
}

#[tokio::test]
async fn a_list_whose_result_is_lost_harms_nobody() {
    let place = Place::new();
    let (store, cache) = place.open();
    store.close();
    drop((store, cache));
    let directory = place.root.path().join("kept");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("ab".repeat(32)), b"").unwrap();
    std::fs::write(directory.join("README"), b"not ours").unwrap();
    let (store, cache) = place.open();
    cache.mend().await;
    assert_eq!(store.stats().kept, 1);
    assert!(directory.join("README").exists());
}
