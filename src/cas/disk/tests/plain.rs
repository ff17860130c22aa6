//! Stores that nothing happens to but being closed and opened.

use std::io::Write;
use std::os::unix::fs::MetadataExt;

use super::super::{OpenError, SyncMode};
use super::*;
use crate::cas::LocalBlobs;

#[tokio::test]
async fn conforms() {
    let place = Place::new();
    crate::cas::conformance::suite(&place.open()).await;
}

#[tokio::test]
async fn conforms_with_every_write_synced() {
    let place = Place::new();
    let cas = open(DiskConfig { sync: SyncMode::Always, ..place.config(64 * MIB) });
    crate::cas::conformance::suite(&cas).await;
}

#[tokio::test]
async fn keeps_everything_over_a_restart() {
    let place = Place::new();
    let lens = [1, 4096, 32 * 1024, 32 * 1024 + 1, 700_000];
    for round in 0..3u64 {
        let cas = place.open();
        for seed in 0..round * 40 {
            assert_good(&cas, seed, lens[seed as usize % lens.len()]).await;
        }
        for seed in round * 40..(round + 1) * 40 {
            put(&cas, seed, lens[seed as usize % lens.len()]).await;
        }
        let before = cas.stats();
        cas.close();
        let (digest, data) = blob(999, 10);
        assert!(matches!(cas.put(&digest, data).await, Err(CasError::Io { .. })), "closed");
        drop(cas);
        let stats = place.open().stats();
        assert_eq!((stats.blobs, stats.blob_bytes), (before.blobs, before.blob_bytes));
        assert_eq!(
            (stats.blobs, stats.dead_bytes, stats.pack_bytes),
            ((round + 1) * 40, 0, before.pack_bytes)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_writers_of_one_blob_all_succeed() {
    let place = Place::new();
    let cas = place.open();
    for len in [2000, 900_000] {
        let (digest, data) = blob(1, len);
        let puts = (0..32).map(|n| {
            let (cas, data) = (cas.clone(), data.clone());
            async move {
                if n % 2 == 0 {
                    return cas.put(&digest, data).await;
                }
                let mut writer = cas.writer(&digest).await?;
                for piece in data.chunks(100_000) {
                    writer.write(data.slice_ref(piece)).await?;
                }
                writer.commit().await
            }
        });
        for outcome in futures_util::future::join_all(puts).await {
            outcome.unwrap();
        }
        assert_good(&cas, 1, len).await;
    }
    let stats = cas.stats();
    assert_eq!((stats.blobs, stats.dead_bytes), (2, 0), "a blob is written once");
}

#[tokio::test]
async fn one_node_for_a_directory() {
    let place = Place::new();
    let cas = place.open();
    let error = DiskCas::open(place.config(MIB), &|_| {}).err().unwrap();
    let pid = std::process::id().to_string();
    assert!(matches!(&error, OpenError::InUse { pid: holder, .. } if *holder == pid), "{error}");
    drop(cas);
    place.open();
}

#[tokio::test]
async fn a_newer_format_is_refused_and_not_touched() {
    let place = Place::new();
    place.open().close();
    let format = place.path().join("FORMAT");
    let text = std::fs::read_to_string(&format).unwrap().replace("store 1", "store 2");
    std::fs::write(&format, &text).unwrap();
    let before = std::fs::read(place.path().join("STATE")).unwrap();
    let error = DiskCas::open(place.config(MIB), &|_| {}).err().unwrap();
    assert!(matches!(error, OpenError::Newer { found: 2, known: 1, .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&format).unwrap(), text);
    assert_eq!(std::fs::read(place.path().join("STATE")).unwrap(), before);
}

#[tokio::test]
async fn files_for_staging() {
    let place = Place::new();
    let cas = place.open();
    let small = put(&cas, 1, 100).await;
    let large = put(&cas, 2, 50_000).await;
    assert_eq!(cas.file(&small, true).unwrap(), None);
    assert_eq!(cas.file(&Digest::empty(DigestFunction::Sha256), false).unwrap(), None);
    assert!(matches!(cas.file(&blob(3, 50_000).0, false), Err(CasError::NotFound(_))));
    let used = cas.stats().used_bytes;
    let plain = cas.file(&large, false).unwrap().unwrap();
    let twin = cas.file(&large, true).unwrap().unwrap();
    assert_eq!(cas.file(&large, true).unwrap().unwrap(), twin);
    let (plain, twin) = (plain.metadata().unwrap(), twin.metadata().unwrap());
    assert_ne!(plain.ino(), twin.ino());
    assert_eq!((plain.mode() & 0o7777, twin.mode() & 0o7777), (0o444, 0o555));
    assert_eq!(cas.stats().used_bytes - used, 53_248, "the twin counts, once, in blocks");
    cas.close();
    drop(cas);
    let cas = place.open();
    assert!(cas.stats().used_bytes >= used + 53_248 - cas.stats().index_bytes, "also after a restart");
    assert_eq!(cas.file(&large, true).unwrap().unwrap().metadata().unwrap().ino(), twin.ino());
}

#[tokio::test]
async fn takes_in_outputs_without_hashing_them() {
    let place = Place::new();
    let cas = place.open();
    for (seed, len) in [(1, 500), (2, 600_000)] {
        let (digest, data) = blob(seed, len);
        let path = place.root.path().join("output");
        std::fs::File::create(&path).unwrap().write_all(&data).unwrap();
        cas.adopt(&digest, &path).unwrap();
        assert_good(&cas, seed, len).await;
        let (digest, data) = blob(seed + 10, len);
        LocalBlobs::store(&cas, &digest, &data).unwrap();
        assert_good(&cas, seed + 10, len).await;
        assert_eq!(cas.load(&digest).unwrap(), data);
    }
    let path = place.root.path().join("output");
    std::fs::write(&path, vec![0; 40_000]).unwrap();
    let (digest, _) = blob(30, 50_000);
    assert!(cas.adopt(&digest, &path).is_err(), "the length shows that it is another file");
    assert!(!is_there(&cas, &digest).await);
}

#[tokio::test]
async fn a_blob_that_can_never_fit_is_refused_at_once() {
    let place = Place::new();
    let cas = open(DiskConfig { max_blob_size: 5000, ..place.config(64 * MIB) });
    let (digest, data) = blob(1, 5001);
    assert!(matches!(cas.writer(&digest).await.err(), Some(CasError::TooLarge { limit: 5000, .. })));
    assert!(cas.put(&digest, data.clone()).await.is_err());
    assert!(LocalBlobs::store(&cas, &digest, &data).is_err());
    drop(cas);
    let huge = Digest::from_parts(DigestFunction::Sha256, [7; 32], 65 * MIB);
    assert!(matches!(place.open().writer(&huge).await.err(), Some(CasError::TooLarge { .. })));
}

#[tokio::test]
async fn a_large_request_lists_each_missing_digest_once_in_order() {
    let place = Place::new();
    let cas = place.open();
    let present = put(&cas, 1, 10).await;
    let absent: Vec<Digest> = (2..30).map(|seed| blob(seed, 10).0).collect();
    let asked: Vec<Digest> = absent.iter().chain([&present]).chain(absent.iter().rev()).copied().collect();
    assert_eq!(cas.find_missing(&asked).await.unwrap(), absent);
}
