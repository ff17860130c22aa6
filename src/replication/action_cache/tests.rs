use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::action_cache::memory::MemoryActionCache;
use crate::digest::{Digest, DigestFunction};
use crate::instance::InstanceName;
use crate::replication::copies::testing::{Fault, TestFarm};
use crate::tasks::Tasks;

fn cache(farm: &Arc<TestFarm>) -> ReplicatedActionCache<MemoryActionCache> {
    let store = Arc::new(farm.machine(0).store.clone());
    let kept = Arc::new(farm.machine(0).store.of_others());
    let elsewhere = Elsewhere::new(farm.clone(), kept, Tasks::default());
    ReplicatedActionCache::new(MemoryActionCache::default(), store, elsewhere)
}

fn key(number: u8) -> ActionKey {
    ActionKey { instance: InstanceName::default(), action: Digest::of(DigestFunction::Sha256, &[number]) }
}

fn result(exit_code: i32) -> ActionResult {
    ActionResult { exit_code, ..Default::default() }
}

#[tokio::test(start_paused = true)]
async fn a_result_comes_from_whoever_has_it_and_is_kept() {
    let farm = TestFarm::new(4, 3);
    let cache = cache(&farm);
    for number in 0..20 {
        let (key, entry) = (key(number), EntryKey::action(&identity(&key(number))));
        assert_eq!(cache.get(&key).await.unwrap(), None);
        let holders = farm.holders(&entry);
        let others: Vec<_> = holders.iter().filter(|holder| holder.id != farm.machine(0).id).collect();
        for silent in &others[1..] {
            silent.set_fault(Fault::Silent);
        }
        // That there was none a moment ago is not remembered.
        others[0].store.result(&key, &result(7));
        assert_eq!(cache.get(&key).await.unwrap(), Some(result(7)));
        assert_eq!(farm.machine(0).store.standing(&entry), Some(Standing::Spare));
        for healthy in &others[1..] {
            healthy.set_fault(Fault::None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_here_comes_first_and_nobody_is_waited_for() {
    let farm = TestFarm::new(3, 3);
    let cache = cache(&farm);
    farm.machine(1).store.result(&key(1), &result(1));
    cache.put(&key(1), result(0)).await.unwrap();
    assert_eq!(cache.get(&key(1)).await.unwrap(), Some(result(0)));
    assert!(farm.machine(1).calls().results.is_empty());
    farm.machine(1).store.result(&key(2), &result(2));
    for fault in [Fault::Silent, Fault::Slow(Duration::from_millis(200)), Fault::Error, Fault::Wrong] {
        farm.machine(1).set_fault(fault);
        let began = Instant::now();
        assert_eq!(cache.get(&key(2)).await.unwrap(), None, "{fault:?}");
        assert!(began.elapsed() <= DEADLINE + Duration::from_millis(1));
    }
}

#[tokio::test]
async fn the_result_of_another_action_is_none() {
    let farm = TestFarm::new(2, 2);
    let cache = cache(&farm);
    let (wrong, asked) = (EntryKey::action(&identity(&key(1))), EntryKey::action(&identity(&key(2))));
    farm.machine(1).store.result(&key(1), &result(1));
    let data = farm.machine(1).store.data(&wrong).unwrap();
    farm.machine(1).store.insert(asked, data, Standing::Sole);
    assert_eq!(cache.get(&key(2)).await.unwrap(), None);
    assert!(farm.machine(0).store.keys().is_empty());
}

#[tokio::test]
async fn a_generation_grows_with_that_of_the_store_and_with_machines() {
    let farm = TestFarm::new(2, 2);
    let count = Arc::new(AtomicU64::new(5));
    let local = Arc::clone(&count);
    let local: Generation = Arc::new(move || local.load(Ordering::Relaxed));
    let both = generation(local, cache(&farm).elsewhere);
    let first = both();
    count.store(6, Ordering::Relaxed);
    let second = both();
    farm.link(1, false);
    assert!(first < second && second < both());
}
