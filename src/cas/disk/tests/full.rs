//! Stores that run out of room.

use super::*;
use crate::action_cache::disk::DiskActionCache;
use crate::action_cache::{ActionCache, ActionKey};
use crate::cas::LocalBlobs;
use crate::instance::InstanceName;
use farmhand_proto::reapi::ActionResult;

const BUDGET: u64 = 16 * MIB;
const HOUR: u64 = 3600;

/// Bytes of all files below `path`.
fn disk_use(path: &Path) -> u64 {
    let entries = std::fs::read_dir(path).unwrap().map(Result::unwrap);
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => disk_use(&entry.path()),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

fn key(n: u64) -> ActionKey {
    ActionKey { instance: InstanceName::parse("main").unwrap(), action: blob(n, 9).0 }
}

fn result(code: i32) -> ActionResult {
    ActionResult { exit_code: code, stdout_raw: vec![7; 1000], ..ActionResult::default() }
}

#[tokio::test]
async fn the_longest_unused_goes_first_and_what_is_leased_stays() {
    for len in [20_000, 100_000] {
        let place = Place::new();
        let cas = open(place.config(BUDGET));
        let count = 8 * MIB / len as u64;
        for seed in 0..count {
            put(&cas, seed, len).await;
        }
        place.pass(4 * HOUR);
        let touched: Vec<Digest> = (0..count / 4).map(|seed| blob(seed, len).0).collect();
        assert!(cas.find_missing(&touched).await.unwrap().is_empty());
        place.pass(60);
        for seed in count..count * 2 {
            put(&cas, seed, len).await;
        }
        assert!(cas.find_missing(&touched).await.unwrap().is_empty(), "asked for an hour ago");
        let fresh: Vec<Digest> = (count..count * 2).map(|seed| blob(seed, len).0).collect();
        assert!(cas.find_missing(&fresh).await.unwrap().is_empty());
        let stats = cas.stats();
        assert!(stats.evicted > 0);
        assert_eq!(stats.youngest_victim, Some(Duration::from_secs(4 * HOUR + 60)));
    }
}

#[tokio::test]
async fn the_budget_holds_while_everything_turns_over() {
    let place = Place::new();
    let cas = open(DiskConfig { lease: Duration::from_secs(60), ..place.config(BUDGET) });
    let len_of =
        |seed: u64| if seed.is_multiple_of(7) { 300_000 } else { 500 + (seed as usize * 7919) % 30_000 };
    for seed in 0..900 {
        place.pass(1);
        put(&cas, seed, len_of(seed)).await;
        if seed % 250 == 0 {
            assert!(disk_use(&place.path()) <= BUDGET, "{}", disk_use(&place.path()));
        }
    }
    assert!(disk_use(&place.path()) <= BUDGET);
    for seed in 845..900 {
        assert_good(&cas, seed, len_of(seed)).await;
    }
    let mut kept = Vec::new();
    for seed in 0..900 {
        if is_there(&cas, &blob(seed, len_of(seed)).0).await {
            assert_good(&cas, seed, len_of(seed)).await;
            kept.push(seed);
        }
    }
    assert!(kept.len() > 200, "a budget is there to be used: {}", kept.len());
    let killed = place.killed();
    let cas = open(DiskConfig { lease: Duration::from_secs(60), ..killed.config(BUDGET) });
    for seed in kept {
        assert_good(&cas, seed, len_of(seed)).await;
    }
    assert_eq!(cas.stats().corrupt, 0);
}

#[tokio::test]
async fn compaction_keeps_what_is_used() {
    let place = Place::new();
    let cas = open(place.config(BUDGET));
    let cache = DiskActionCache::new(cas.clone());
    for seed in 0..500 {
        put(&cas, seed, 20_000).await;
        cache.put(&key(seed), result(seed as i32)).await.unwrap();
    }
    place.pass(4 * HOUR);
    for seed in (0..500).step_by(10) {
        assert!(is_there(&cas, &blob(seed, 20_000).0).await);
        cache.get(&key(seed)).await.unwrap().unwrap();
    }
    for seed in 500..900 {
        put(&cas, seed, 20_000).await;
    }
    let packs = place.packs();
    let last = packs.last().and_then(|pack| pack.file_stem()?.to_str()).unwrap();
    assert!(packs.len() < usize::from_str_radix(last, 16).unwrap(), "some pack was compacted away");
    cas.close();
    drop((cas, cache));
    let cas = open(place.config(BUDGET));
    let cache = DiskActionCache::new(cas.clone());
    for seed in (0..500).step_by(10) {
        assert_good(&cas, seed, 20_000).await;
        assert_eq!(cache.get(&key(seed)).await.unwrap(), Some(result(seed as i32)));
    }
}

#[tokio::test]
async fn what_is_leased_or_pinned_makes_writers_wait_for_nothing() {
    let place = Place::new();
    let cas = open(place.config(BUDGET));
    let mut stored = Vec::new();
    let error = loop {
        let (digest, data) = blob(stored.len() as u64, 200_000);
        match cas.put(&digest, data).await {
            Ok(()) => stored.push(digest),
            Err(error) => break error,
        }
    };
    let CasError::NoSpace { wanted, reason } = &error else { panic!("{error}") };
    assert_eq!(*wanted, 200_704);
    assert!(reason.contains("disk-budget") && reason.contains("shorten lease"), "{reason}");
    assert!(cas.find_missing(&stored).await.unwrap().is_empty(), "reads go on");
    assert!(stored.len() as u64 * 200_000 > BUDGET * 3 / 4);
    let pins = cas.pin(&stored);
    place.pass(4 * HOUR);
    let (digest, data) = blob(1000, 200_000);
    assert!(matches!(cas.put(&digest, data.clone()).await, Err(CasError::NoSpace { .. })), "pinned");
    drop(pins);
    cas.put(&digest, data).await.unwrap();
    assert!(cas.stats().evicted > 0);
}

#[tokio::test]
async fn recency_survives_a_restart() {
    let place = Place::new();
    let cas = open(place.config(BUDGET));
    for seed in 0..60 {
        put(&cas, seed, 100_000).await;
    }
    place.pass(2 * HOUR);
    let used: Vec<Digest> = (0..20).map(|seed| blob(seed, 100_000).0).collect();
    assert!(cas.find_missing(&used).await.unwrap().is_empty());
    cas.close();
    drop(cas);
    let cas = open(place.config(BUDGET));
    place.pass(2 * HOUR);
    for seed in 100..200 {
        put(&cas, seed, 100_000).await;
    }
    assert!(cas.find_missing(&used).await.unwrap().is_empty(), "their lease is an hour from its end");
    assert!(cas.stats().evicted > 0);
}

#[tokio::test]
async fn the_last_result_wins_in_memory_and_on_disk() {
    let place = Place::new();
    let cas = place.open();
    let cache = DiskActionCache::new(cas.clone());
    assert_eq!(cache.get(&key(1)).await.unwrap(), None);
    for code in 0..5 {
        cache.put(&key(1), result(code)).await.unwrap();
        assert_eq!(cache.get(&key(1)).await.unwrap(), Some(result(code)));
    }
    let other = ActionKey { instance: InstanceName::default(), ..key(1) };
    assert_eq!(cache.get(&other).await.unwrap(), None, "instances are apart");
    let big = ActionResult { stdout_raw: vec![1; 700_000], ..result(9) };
    cache.put(&key(2), big.clone()).await.unwrap();
    for restart in 0..2 {
        let killed = place.killed();
        if restart == 1 {
            std::fs::remove_dir_all(killed.path().join("index")).unwrap();
        }
        let cas = killed.open();
        assert_eq!(cas.stats().actions, 2);
        let cache = DiskActionCache::new(cas);
        assert_eq!(cache.get(&key(1)).await.unwrap(), Some(result(4)));
        assert_eq!(cache.get(&key(2)).await.unwrap(), Some(big.clone()));
    }
    flip(&place.packs()[0], disk_use(&place.path().join("packs")) - 100);
    let cold = DiskActionCache::new(cas);
    assert_eq!(cold.get(&key(2)).await.unwrap(), None, "a damaged result is no result");
    assert_eq!(cold.get(&key(1)).await.unwrap(), Some(result(4)));
}

#[tokio::test]
async fn a_smaller_budget_is_kept_from_the_start() {
    let place = Place::new();
    let cas = open(place.config(64 * MIB));
    for seed in 0..200 {
        put(&cas, seed, 150_000).await;
    }
    cas.close();
    drop(cas);
    let cas = open(place.config(BUDGET));
    place.pass(4 * HOUR);
    put(&cas, 1000, 150_000).await;
    assert!(disk_use(&place.path()) <= BUDGET);
    assert_good(&cas, 1000, 150_000).await;
}

#[tokio::test]
async fn a_clock_that_jumps_ends_no_lease_and_makes_none_last_for_ever() {
    const YEAR: u64 = 365 * 24 * HOUR;
    let place = Place::new();
    place.pass(2 * YEAR);
    let cas = open(place.config(BUDGET));
    let mut young = Vec::new();
    for seed in 0..60 {
        young.push(put(&cas, seed, 100_000).await);
    }
    cas.close();
    drop(cas);
    for jump in [YEAR, 4 * YEAR, 2 * YEAR] {
        place.clock.store(START + jump, Ordering::Relaxed);
        let cas = open(place.config(BUDGET));
        loop {
            let (digest, data) = blob(1000 + young.len() as u64, 100_000);
            if cas.put(&digest, data).await.is_err() {
                break;
            }
            young.push(digest);
        }
        assert!(cas.find_missing(&young).await.unwrap().is_empty(), "leased, whatever the clock says");
        assert_eq!(cas.stats().evicted, 0);
        cas.close();
    }
    let cas = open(place.config(BUDGET));
    place.pass(4 * HOUR);
    put(&cas, 1, 300_000).await;
    assert!(cas.stats().evicted > 0, "leases end in their time");
}
