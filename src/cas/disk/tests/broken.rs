//! Directories that something happened to.

use std::sync::Mutex;

use proptest::prelude::*;

use super::super::SyncMode;
use super::*;
use crate::cas::LocalBlobs;

/// Puts small and large blobs; some acknowledged only in memory of the page cache.
async fn fill(cas: &DiskCas, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        put(cas, seed, len_of(seed)).await;
    }
}

fn len_of(seed: u64) -> usize {
    if seed % 5 == 4 { 40_000 + seed as usize } else { 1000 + seed as usize }
}

async fn assert_all(cas: &DiskCas, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        assert_good(cas, seed, len_of(seed)).await;
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing() {
    let place = Place::new();
    let cas = place.open();
    fill(&cas, 0..30).await;
    let killed = place.killed();
    drop(cas);
    assert_all(&place.open(), 0..30).await;
    let cas = killed.open();
    assert_all(&cas, 0..30).await;
    fill(&cas, 30..60).await;
    let again = killed.killed();
    assert_all(&again.open(), 0..60).await;
}

#[tokio::test]
async fn a_torn_end_of_a_pack_hides_nothing() {
    let place = Place::new();
    let cas = place.open();
    fill(&cas, 0..8).await;
    let torn = put(&cas, 100, 3000).await;
    let killed = place.killed();
    let pack = std::fs::File::options().write(true).open(&killed.packs()[0]).unwrap();
    pack.set_len(pack.metadata().unwrap().len() - 7).unwrap();
    let cas = killed.open();
    assert_all(&cas, 0..8).await;
    assert!(!is_there(&cas, &torn).await);
    fill(&cas, 8..12).await;
    assert_all(&killed.killed().open(), 0..12).await;
}

#[tokio::test]
async fn unclosed_epochs_are_dropped_after_a_power_loss_only() {
    let place = Place::new();
    let cas = place.open();
    fill(&cas, 0..10).await;
    cas.close();
    drop(cas);
    let cas = place.open();
    fill(&cas, 10..20).await;
    let (same, other) = (place.killed(), place.killed());
    assert_all(&same.open(), 0..20).await;
    let cas = open(other.on_boot(other.config(64 * MIB), "second"));
    assert_all(&cas, 0..10).await;
    for seed in 10..20 {
        let (digest, _) = blob(seed, len_of(seed));
        assert!(!is_there(&cas, &digest).await);
        assert!(!other.blob_path(&digest).exists());
    }
    fill(&cas, 15..25).await;
    cas.close();
    drop(cas);
    std::fs::remove_dir_all(other.path().join("index")).unwrap();
    let cas = open(other.on_boot(other.config(64 * MIB), "second"));
    assert_all(&cas, 15..25).await;
    assert!(!is_there(&cas, &blob(10, len_of(10)).0).await, "a rebuild does not bring it back");
}

#[tokio::test]
async fn what_always_acknowledged_survives_a_power_loss() {
    let place = Place::new();
    let cas = open(DiskConfig { sync: SyncMode::Always, ..place.config(64 * MIB) });
    fill(&cas, 0..10).await;
    let other = place.killed();
    let cas = open(other.on_boot(other.config(64 * MIB), "second"));
    assert_all(&cas, 0..10).await;
}

#[tokio::test]
async fn a_lost_index_is_rebuilt() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("deleted", |index| std::fs::remove_dir_all(index).unwrap()),
        ("emptied", |index| {
            std::fs::remove_dir_all(index).unwrap();
            std::fs::create_dir(index).unwrap();
        }),
        ("truncated", |index| {
            let db = std::fs::File::options().write(true).open(index.join("db")).unwrap();
            db.set_len(100).unwrap();
        }),
        ("overwritten", |index| {
            let len = index.join("db").metadata().unwrap().len();
            (0..len).step_by(300).for_each(|at| flip(&index.join("db"), at));
        }),
    ];
    let place = Place::new();
    let cas = place.open();
    fill(&cas, 0..40).await;
    cas.close();
    for (name, damage) in damages {
        let place = place.killed();
        damage(&place.path().join("index"));
        let reports = Mutex::new(Vec::new());
        let cas = DiskCas::open(place.config(64 * MIB), &|progress| reports.lock().unwrap().push(progress))
            .unwrap();
        assert_all(&cas, 0..40).await;
        let last = *reports.lock().unwrap().last().expect(name);
        assert_eq!((last.done, last.entries), (last.total, 40), "{name}");
        cas.close();
        drop(cas);
        let quiet = DiskCas::open(place.config(64 * MIB), &|_| panic!("{name}: rebuilt twice")).unwrap();
        assert_all(&quiet, 0..40).await;
    }
}

#[tokio::test]
async fn a_flipped_bit_in_a_pack_is_never_served() {
    let place = Place::new();
    let cas = place.open();
    fill(&cas, 0..3).await;
    let generation = cas.generation();
    flip(&place.packs()[0], super::super::packs::PACK_HEADER + 72 + 500);
    let (digest, _) = blob(0, len_of(0));
    assert!(matches!(cas.get(&digest).await, Err(CasError::NotFound(_))));
    assert!(!is_there(&cas, &digest).await);
    assert_all(&cas, 1..3).await;
    assert_eq!(cas.stats().corrupt, 1);
    assert!(cas.generation() > generation);
    fill(&cas, 0..1).await;
    assert_all(&cas, 0..3).await;
}

#[tokio::test]
async fn a_flipped_bit_in_a_file_is_never_served() {
    let place = Place::new();
    let cas = place.open();
    for at in [0, 600_000, 999_999] {
        let digest = put(&cas, 1, 1_000_000).await;
        assert_eq!(read_all(&cas, &digest).await.unwrap(), blob(1, 1_000_000).1);
        flip(&place.blob_path(&digest), at);
        let mut good = 0;
        match cas.read(&digest, ByteRange::default()).await {
            Err(CasError::NotFound(_)) => assert_eq!(at, 0),
            Err(error) => panic!("{error}"),
            Ok(mut stream) => {
                while let Some(Ok(piece)) = stream.next().await {
                    assert_eq!(piece, blob(1, 1_000_000).1[good..good + piece.len()]);
                    good += piece.len();
                }
                assert!(good <= at as usize, "{good} bytes before the damage at {at}");
            }
        }
        assert!(!is_there(&cas, &digest).await);
    }
    assert_eq!(cas.stats().corrupt, 3);
}

#[tokio::test]
async fn a_scrub_finds_damage_nobody_asked_for_and_renews_no_lease() {
    let place = Place::new();
    let cas = place.open();
    fill(&cas, 0..20).await;
    let (small, large) = (blob(0, len_of(0)).0, blob(4, len_of(4)).0);
    let generation = cas.generation();
    flip(&place.packs()[0], super::super::packs::PACK_HEADER + 72 + 500);
    flip(&place.blob_path(&large), 39_000);
    place.pass(4 * 3600);
    let leased = cas.stats().leased_bytes;
    let mut scrub = super::super::scrub::Scrub::new(cas.inner().clone(), 7);
    while scrub.step().is_some() {}
    let stats = cas.stats();
    assert_eq!((stats.corrupt, stats.scrub_passes, stats.leased_bytes), (2, 1, leased));
    assert_eq!((leased, cas.generation()), (0, generation + 2));
    assert!(!is_there(&cas, &small).await && !is_there(&cas, &large).await);
    fill(&cas, 0..20).await;
    assert_all(&cas, 0..20).await;
    while scrub.step().is_some() {}
    assert_eq!(cas.stats().corrupt, 2, "the rest is whole");
}

#[tokio::test]
async fn a_scrub_ends_with_the_store() {
    let place = Place::new();
    let config = place.config(64 * MIB);
    let cas = open(DiskConfig { scrub_interval: Duration::from_secs(3600), ..config });
    fill(&cas, 0..3).await;
    cas.close();
    drop(cas);
    assert_all(&place.open(), 0..3).await;
}

#[tokio::test]
async fn a_truncated_or_lost_file_is_absent() {
    let place = Place::new();
    let cas = place.open();
    let damages: [fn(&Path); 2] = [
        |path| std::fs::File::options().write(true).open(path).unwrap().set_len(10).unwrap(),
        |path| std::fs::remove_file(path).unwrap(),
    ];
    for (seed, damage) in damages.into_iter().enumerate() {
        for reader in 0..3 {
            let digest = put(&cas, seed as u64, 50_000).await;
            damage(&place.blob_path(&digest));
            let error = match reader {
                0 => cas.get(&digest).await.err(),
                1 => cas.read(&digest, ByteRange { offset: 20, limit: Some(5) }).await.err(),
                _ => cas.file(&digest, false).err(),
            };
            assert!(matches!(error, Some(CasError::NotFound(_))), "{error:?}");
            assert!(!is_there(&cas, &digest).await);
        }
        put(&cas, seed as u64, 50_000).await;
        let killed = place.killed();
        damage(&killed.blob_path(&blob(seed as u64, 50_000).0));
        assert!(!is_there(&killed.open(), &blob(seed as u64, 50_000).0).await, "found at start");
    }
}

#[tokio::test]
async fn files_without_a_note_are_hashed_or_removed() {
    let place = Place::new();
    let cas = place.open();
    fill(&cas, 0..5).await;
    let (good, data) = blob(50, 60_000);
    let (bad, _) = blob(51, 60_000);
    std::fs::write(place.blob_path(&good), &data).unwrap();
    std::fs::write(place.blob_path(&bad), &data).unwrap();
    let (same, other) = (place.killed(), place.killed());
    let cas = same.open();
    assert_good(&cas, 50, 60_000).await;
    assert!(!is_there(&cas, &bad).await && !same.blob_path(&bad).exists());
    let cas = open(other.on_boot(other.config(64 * MIB), "second"));
    assert!(!is_there(&cas, &good).await && !other.blob_path(&good).exists());
}

#[tokio::test]
async fn uploads_cut_off_leave_nothing() {
    let place = Place::new();
    let cas = place.open();
    let (digest, data) = blob(1, 2_000_000);
    let mut writer = cas.writer(&digest).await.unwrap();
    writer.write(data.slice(..1_500_000)).await.unwrap();
    let killed = place.killed();
    let cas = killed.open();
    assert!(!is_there(&cas, &digest).await);
    assert_eq!(std::fs::read_dir(killed.path().join("tmp")).unwrap().count(), 0);
    let used = cas.stats().used_bytes;
    let forgotten = cas.writer(&digest).await.unwrap();
    assert!(cas.stats().used_bytes >= used + 2_000_000);
    drop(forgotten);
    assert_eq!(cas.stats().used_bytes, used);
}

#[tokio::test]
async fn a_lost_state_or_format_file_loses_no_blob() {
    let place = Place::new();
    let cas = place.open();
    fill(&cas, 0..20).await;
    for file in ["STATE", "FORMAT"] {
        let killed = place.killed();
        std::fs::remove_file(killed.path().join(file)).unwrap();
        assert_all(&killed.open(), 0..20).await;
    }
}

#[tokio::test]
async fn a_damaged_state_or_format_file_loses_no_blob() {
    let place = Place::new();
    let cas = place.open();
    fill(&cas, 0..20).await;
    for (file, at) in [("FORMAT", 0), ("FORMAT", 20), ("FORMAT", 30), ("STATE", 3), ("STATE", 4100)] {
        let killed = place.killed();
        flip(&killed.path().join(file), at);
        assert_all(&killed.open(), 0..20).await;
        assert_all(&killed.killed().open(), 0..20).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    /// Whatever byte of whatever pack changes, with or without an index: what is served is right, and
    /// at most the blob hit is gone.
    #[test]
    fn one_flipped_byte_costs_one_blob_at_most(at: u64, without_index: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let place = Place::new();
            let cas = place.open();
            fill(&cas, 0..12).await;
            if without_index {
                cas.close();
            }
            let killed = place.killed();
            if without_index {
                std::fs::remove_dir_all(killed.path().join("index")).unwrap();
            }
            let pack = &killed.packs()[0];
            flip(pack, at % pack.metadata().unwrap().len());
            let cas = killed.open();
            let mut lost = 0;
            for seed in 0..12 {
                let (digest, data) = blob(seed, len_of(seed));
                match cas.get(&digest).await {
                    Ok(served) => assert_eq!(served, data),
                    Err(_) => lost += 1,
                }
            }
            assert!(lost <= 1, "{lost} blobs lost");
        });
    }
}

#[tokio::test]
async fn a_damaged_file_is_not_staged() {
    let place = Place::new();
    let cas = place.open();
    let (plain, for_twin, with_twin) =
        (put(&cas, 1, 50_000).await, put(&cas, 2, 50_000).await, put(&cas, 3, 50_000).await);
    let twin = cas.file(&with_twin, true).unwrap().unwrap();
    cas.close();
    drop(cas);
    flip(&place.blob_path(&plain), 20_000);
    flip(&place.blob_path(&for_twin), 20_000);
    flip(&twin, 20_000);
    let cas = place.open();
    assert!(matches!(cas.file(&plain, false), Err(CasError::NotFound(_))));
    assert!(matches!(cas.file(&for_twin, true), Err(CasError::NotFound(_))));
    assert_eq!(cas.stats().corrupt, 2);
    assert!(!is_there(&cas, &plain).await && !is_there(&cas, &for_twin).await);
    let mended = cas.file(&with_twin, true).unwrap().unwrap();
    assert_eq!(std::fs::read(mended).unwrap(), blob(3, 50_000).1, "the twin is made anew");
    put(&cas, 1, 50_000).await;
    assert!(cas.file(&plain, false).unwrap().is_some(), "an upload heals it");
}
