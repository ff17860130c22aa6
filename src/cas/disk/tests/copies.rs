//! What is here and what is a copy of others': standings, news, and who goes first.

use std::sync::Mutex;

use super::super::news::{Origin, StoreNews};
use super::super::store::lock;
use super::*;
use crate::cas::LocalBlobs;
use crate::cas::disk::Held;
use crate::cas::entry::{EntryKey, Standing};

const BUDGET: u64 = 16 * MIB;
const HOUR: u64 = 3600;
const LENS: [usize; 2] = [1000, 100_000];

/// What an observer was told.
#[derive(Default)]
struct Heard(Mutex<Told>);

#[derive(Default)]
struct Told {
    stored: Vec<(EntryKey, u64)>,
    used: Vec<EntryKey>,
    damaged: Vec<EntryKey>,
}

impl StoreNews for Heard {
    fn stored(&self, key: EntryKey, bytes: u64) {
        lock(&self.0).stored.push((key, bytes));
    }

    fn used(&self, keys: Vec<EntryKey>) {
        lock(&self.0).used.extend(keys);
    }

    fn damaged(&self, key: EntryKey) {
        lock(&self.0).damaged.push(key);
    }
}

impl Heard {
    fn of(cas: &DiskCas) -> Arc<Self> {
        let heard = Arc::new(Self::default());
        cas.observe(heard.clone());
        heard
    }

    /// What was stored since this was last called.
    fn stored(&self) -> Vec<(EntryKey, u64)> {
        std::mem::take(&mut lock(&self.0).stored)
    }

    fn used(&self, cas: &DiskCas) -> Vec<EntryKey> {
        cas.inner().tell_uses();
        std::mem::take(&mut lock(&self.0).used)
    }
}

fn standing(cas: &DiskCas, digest: &Digest) -> Standing {
    cas.entry(&EntryKey::from(digest)).unwrap().standing
}

/// A copy of blob `seed` that was not used for `age` seconds.
async fn keep(cas: &DiskCas, seed: u64, len: usize, standing: Standing, age: u64) -> bool {
    let (digest, data) = blob(seed, len);
    cas.keep_copy(&EntryKey::from(&digest), data, standing, Duration::from_secs(age)).await.unwrap()
}

#[tokio::test]
async fn what_others_bring_conforms() {
    for budget in [64 * MIB, 32 * MIB] {
        let place = Place::new();
        let cas = open(place.config(budget));
        crate::cas::conformance::suite(&*cas.of_others()).await;
        assert_eq!((cas.stats().sole, cas.stats().counted), (Held::default(), Held::default()));
    }
}

#[tokio::test]
async fn every_way_in_of_what_is_written_here_is_told_once() {
    let place = Place::new();
    let cas = place.open();
    let heard = Heard::of(&cas);
    let mut seed = 0;
    for len in LENS {
        let mut next = || {
            seed += 1;
            let (digest, data) = blob(seed, len);
            (digest, data, vec![(EntryKey::from(&digest), len as u64)])
        };
        let (digest, data, told) = next();
        cas.put(&digest, data.clone()).await.unwrap();
        assert_eq!(heard.stored(), told);
        cas.put(&digest, data.clone()).await.unwrap();
        LocalBlobs::store(&cas, &digest, &data).unwrap();
        let mut writer = cas.writer(&digest).await.unwrap();
        writer.write(data).await.unwrap();
        writer.commit().await.unwrap();
        assert_eq!(heard.stored(), [], "it was there");

        let (digest, data, told) = next();
        let mut writer = cas.writer(&digest).await.unwrap();
        writer.write(data).await.unwrap();
        writer.commit().await.unwrap();
        assert_eq!(heard.stored(), told);

        let (digest, data, told) = next();
        LocalBlobs::store(&cas, &digest, &data).unwrap();
        assert_eq!(heard.stored(), told);

        let (digest, data, told) = next();
        let file = place.root.path().join("output");
        std::fs::write(&file, &data).unwrap();
        cas.adopt(&digest, &file).unwrap();
        assert_eq!(heard.stored(), told);
    }
    assert_eq!(cas.stats().sole.entries, seed);
    assert_eq!(cas.stats().sole.bytes, 4 * (LENS[0] + LENS[1]) as u64);
}

#[tokio::test]
async fn a_result_is_told_when_its_bytes_are_new() {
    let place = Place::new();
    let cas = place.open();
    let heard = Heard::of(&cas);
    for len in LENS {
        let (hash, key) = ([len as u8; 32], EntryKey::action(&[len as u8; 32]));
        let data = |n| Bytes::from(vec![n; len]);
        let first = cas.put_action(&hash, data(1)).await.unwrap();
        assert_eq!(heard.stored(), [(key, len as u64)]);
        cas.set_standing(&key, Standing::Counted);
        assert_eq!(cas.put_action(&hash, data(1)).await.unwrap(), first, "nothing is written again");
        assert_eq!(heard.stored(), []);
        assert_eq!(cas.entry(&key).unwrap().standing, Standing::Counted);
        cas.put_action(&hash, data(2)).await.unwrap();
        assert_eq!(heard.stored(), [(key, len as u64)]);
        assert_eq!(cas.entry(&key).unwrap().standing, Standing::Sole);
        let keep = |n, age| cas.keep_copy(&key, data(n), Standing::Counted, Duration::from_secs(age));
        assert!(keep(2, 0).await.unwrap());
        assert_eq!(cas.entry(&key).unwrap().standing, Standing::Sole, "it is as it was");
        assert!(keep(3, 77).await.unwrap());
        let entry = cas.entry(&key).unwrap();
        assert_eq!((entry.standing, entry.age.as_secs()), (Standing::Counted, 77));
        assert_eq!(cas.peek_result(&key).await.unwrap(), Some(data(3)));
        assert_eq!(heard.stored(), []);
    }
}

#[tokio::test]
async fn copies_of_others_are_no_news_and_change_nothing_that_is_there() {
    let place = Place::new();
    let cas = place.open();
    let heard = Heard::of(&cas);
    let others = cas.of_others();
    for (seed, len) in LENS.into_iter().enumerate() {
        let (digest, data) = blob(seed as u64, len);
        others.put(&digest, data.clone()).await.unwrap();
        assert_eq!(standing(&cas, &digest), Standing::Spare);
        cas.put(&digest, data.clone()).await.unwrap();
        assert_eq!(standing(&cas, &digest), Standing::Spare, "written again");
        assert!(keep(&cas, seed as u64, len, Standing::Counted, 0).await);
        assert_eq!(standing(&cas, &digest), Standing::Spare);
        assert!(keep(&cas, 100 + seed as u64, len, Standing::Counted, 50).await);
        let entry = cas.entry(&EntryKey::from(&blob(100 + seed as u64, len).0)).unwrap();
        assert_eq!((entry.standing, entry.age.as_secs()), (Standing::Counted, 50));
    }
    assert_eq!(heard.stored(), []);
    let mine = put(&cas, 50, 1000).await;
    others.put(&mine, blob(50, 1000).1).await.unwrap();
    assert_eq!(standing(&cas, &mine), Standing::Sole);
}

#[tokio::test]
async fn of_two_that_write_at_once_here_wins() {
    let place = Place::new();
    let cas = place.open();
    let heard = Heard::of(&cas);
    for len in LENS {
        for (seed, here_is_first) in [(len as u64, true), (len as u64 + 1, false)] {
            let (digest, data) = blob(seed, len);
            let mut here = cas.writer(&digest).await.unwrap();
            let mut brought = cas.of_others().writer(&digest).await.unwrap();
            here.write(data.clone()).await.unwrap();
            brought.write(data).await.unwrap();
            let (first, second) = if here_is_first { (here, brought) } else { (brought, here) };
            first.commit().await.unwrap();
            second.commit().await.unwrap();
            assert_eq!(standing(&cas, &digest), Standing::Sole);
            assert_eq!(heard.stored(), [(EntryKey::from(&digest), len as u64)]);
        }
    }
}

#[tokio::test]
async fn uses_here_are_told_and_those_of_others_are_not() {
    let place = Place::new();
    let cas = place.open();
    let heard = Heard::of(&cas);
    let (digest, key) = {
        let digest = put(&cas, 1, 1000).await;
        (digest, EntryKey::from(&digest))
    };
    assert_eq!(heard.used(&cas), []);
    place.pass(HOUR);
    for use_nobody_notes in [cas.peek_blob(&digest).await, cas.of_others().get(&digest).await] {
        use_nobody_notes.unwrap();
        assert_eq!(heard.used(&cas), []);
    }
    place.pass(HOUR);
    assert!(cas.has_entry(&key, false));
    assert_eq!(cas.entry(&key).unwrap().age.as_secs(), HOUR);
    assert!(cas.has_entry(&key, true));
    assert_eq!(cas.entry(&key).unwrap().age.as_secs(), 0);
    assert_eq!(heard.used(&cas), [], "or two machines would keep each other's copies alive for ever");
    place.pass(HOUR);
    assert!(is_there(&cas, &digest).await);
    assert_eq!(heard.used(&cas), [key]);
    assert_eq!(heard.used(&cas), []);
}

#[tokio::test]
async fn what_is_damaged_is_told_and_what_is_evicted_is_not() {
    let place = Place::new();
    let cas = open(place.config(BUDGET));
    let heard = Heard::of(&cas);
    let digest = put(&cas, 1, 1000).await;
    flip(&place.packs()[0], 200);
    assert!(cas.get(&digest).await.is_err());
    let large = put(&cas, 2, 100_000).await;
    std::fs::remove_file(place.blob_path(&large)).unwrap();
    assert!(cas.read(&large, ByteRange::default()).await.is_err());
    let told: Vec<EntryKey> = [digest, large].iter().map(EntryKey::from).collect();
    assert_eq!(lock(&heard.0).damaged, told);
    for seed in 10..300 {
        place.pass(HOUR);
        put(&cas, seed, 100_000).await;
    }
    assert!(cas.stats().evicted > 0);
    assert_eq!(lock(&heard.0).damaged, told);
}

#[tokio::test]
async fn what_others_have_goes_first_and_what_nobody_else_has_goes_last() {
    for len in [20_000, 100_000] {
        let place = Place::new();
        let cas = open(place.config(BUDGET));
        let count = 4 * MIB / len as u64;
        let here = |seeds: std::ops::Range<u64>| {
            seeds.filter(|seed| cas.entry(&EntryKey::from(&blob(*seed, len).0)).is_some()).count() as u64
        };
        // The longest unused would be the only ones.
        for (seeds, standing) in [
            (0..count, Standing::Sole),
            (count..2 * count, Standing::Counted),
            (2 * count..3 * count, Standing::Spare),
        ] {
            for seed in seeds {
                put(&cas, seed, len).await;
                cas.set_standing(&EntryKey::from(&blob(seed, len).0), standing);
            }
            place.pass(60);
        }
        let pinned = blob(2 * count, len).0;
        let _pins = LocalBlobs::pin(&cas, &[pinned]);
        place.pass(4 * HOUR);
        let each = len as u64;
        assert!(cas.inner().evict(each * 2) > 0);
        assert_eq!((here(0..count), here(count..2 * count)), (count, count));
        assert!(here(2 * count..3 * count) < count && is_there(&cas, &pinned).await);
        // More than there is left of the first.
        cas.inner().evict(each * count);
        assert_eq!((here(0..count), here(2 * count..3 * count)), (count, 1));
        assert!(here(count..2 * count) < count);
        cas.inner().evict(each * count);
        assert_eq!(here(count..3 * count), 1, "the pinned one");
        assert!(here(0..count) < count && here(0..count) > 0);
        cas.inner().evict(u64::MAX);
        assert_eq!(here(0..3 * count), 1);
        assert!(is_there(&cas, &pinned).await);
    }
}

#[tokio::test]
async fn an_old_copy_pushes_out_nothing_that_is_younger() {
    let place = Place::new();
    let cas = open(place.config(BUDGET));
    let (len, mut seed) = (100_000, 0);
    let is_nearly_full = || cas.inner().space.used() > cas.inner().marks.low + 2 * len as u64;
    assert!(keep(&cas, 1_000_000, len, Standing::Counted, 100 * HOUR).await, "there is room");
    while !is_nearly_full() {
        assert!(keep(&cas, seed, len, Standing::Counted, 0).await);
        place.pass(HOUR / 4);
        seed += 1;
    }
    assert!(keep(&cas, 2_000_000, len, Standing::Counted, 90 * HOUR).await, "nothing has gone yet");
    cas.inner().evict(3 * len as u64);
    assert_eq!(cas.stats().evicted, 3);
    assert!(!keep(&cas, 2_000_001, len, Standing::Counted, 90 * HOUR).await, "it would be the next");
    assert!(!keep(&cas, 2_000_001, len, Standing::Spare, 4 * HOUR).await, "spare ones go first");
    assert!(keep(&cas, 2_000_002, len, Standing::Spare, HOUR).await, "leased");
    assert!(keep(&cas, 2_000_003, len, Standing::Counted, 4 * HOUR).await, "younger than what went");
    assert!(keep(&cas, 2_000_004, len, Standing::Sole, 90 * HOUR).await, "perhaps the only one");
}

#[tokio::test]
async fn where_all_is_leased_there_is_no_room_for_copies() {
    let place = Place::new();
    let cas = open(place.config(BUDGET));
    let mut seed = 0;
    while keep(&cas, seed, 100_000, Standing::Counted, 0).await {
        seed += 1;
    }
    assert!(seed > 100 && cas.stats().evicted == 0);
    let (digest, data) = blob(9999, 40 * MIB as usize);
    assert!(!cas.keep_copy(&EntryKey::from(&digest), data, Standing::Counted, Duration::ZERO).await.unwrap());
}

#[tokio::test]
async fn after_a_start_all_are_perhaps_the_only_ones_and_as_old_as_they_were() {
    let place = Place::new();
    let cas = place.open();
    for (seed, len) in LENS.into_iter().enumerate() {
        assert!(keep(&cas, seed as u64, len, Standing::Spare, 2 * HOUR).await);
        assert!(keep(&cas, 10 + seed as u64, len, Standing::Counted, 2 * HOUR).await);
    }
    let key = EntryKey::action(&[7; 32]);
    let data = Bytes::from_static(b"a result");
    assert!(cas.keep_copy(&key, data, Standing::Counted, Duration::from_secs(2 * HOUR)).await.unwrap());
    put(&cas, 20, 1000).await;
    let stats = cas.stats();
    let bytes = (LENS[0] + LENS[1]) as u64;
    assert_eq!(stats.spare, Held { entries: 2, bytes });
    assert_eq!(stats.counted, Held { entries: 3, bytes: bytes + 8 });
    assert_eq!(stats.sole, Held { entries: 1, bytes: 1000 });
    let killed = place.killed();
    let rebuilt = place.killed();
    std::fs::remove_dir_all(rebuilt.path().join("index")).unwrap();
    cas.close();
    drop(cas);
    for place in [killed, rebuilt, place] {
        let cas = place.open();
        let stats = cas.stats();
        assert_eq!(stats.sole, Held { entries: 6, bytes: 2 * bytes + 8 + 1000 });
        let is_old = |key: &EntryKey| cas.entry(key).is_some_and(|entry| entry.age.as_secs() == 2 * HOUR);
        assert!(is_old(&key) && is_old(&EntryKey::from(&blob(0, LENS[0]).0)));
    }
}

#[tokio::test]
async fn the_ranges_have_every_entry_once() {
    let place = Place::new();
    let cas = place.open();
    let mut stored = Vec::new();
    for seed in 0..300 {
        stored.push(EntryKey::from(&put(&cas, seed, 10).await));
    }
    let key = EntryKey::action(&[9; 32]);
    cas.put_action(&[9; 32], Bytes::from_static(b"a result")).await.unwrap();
    stored.push(key);
    let mut found = Vec::new();
    for range in 0..=255 {
        let entries = cas.entries_in(range);
        assert!(entries.iter().all(|entry| entry.key.range() == range));
        found.extend(entries.iter().map(|entry| entry.key));
    }
    stored.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, stored);
}

#[test]
fn an_origin_says_how_old_and_how_safe_an_entry_is() {
    let copy = Origin::Others { standing: Standing::Counted, age: 30 };
    assert_eq!((copy.last_use(100), copy.standing()), (70, Standing::Counted));
    assert_eq!(Origin::Others { standing: Standing::Spare, age: u32::MAX }.last_use(100), 0);
    assert_eq!(Origin::Here { anew: false }.last_use(100), 100);
    assert_eq!(Origin::Here { anew: true }.standing(), Standing::Sole);
}
