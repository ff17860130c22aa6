//! Parts of blobs: there while the whole is, at no cost, whatever else happens.

use super::*;
use crate::cas::{BlobParts, LocalBlobs};

/// A blob of `len` bytes, and those of its parts of `each` bytes.
async fn divided(cas: &DiskCas, seed: u64, len: usize, each: usize) -> (Digest, Vec<(Digest, Bytes)>) {
    let (whole, data) = blob(seed, len);
    cas.put(&whole, data.clone()).await.unwrap();
    let part = |at: usize| {
        let bytes = data.slice(at..len.min(at + each));
        (Digest::of(DigestFunction::Sha256, &bytes), bytes)
    };
    let parts: Vec<_> = (0..len).step_by(each).map(part).collect();
    cas.divide(&whole, &digests(&parts)).await.unwrap();
    (whole, parts)
}

fn digests(parts: &[(Digest, Bytes)]) -> Vec<Digest> {
    parts.iter().map(|(digest, _)| *digest).collect()
}

async fn assert_all_there(cas: &DiskCas, parts: &[(Digest, Bytes)]) {
    assert_eq!(cas.find_missing(&digests(parts)).await.unwrap(), []);
    assert_eq!(cas.of_others().find_missing(&digests(parts)).await.unwrap(), []);
    for (digest, bytes) in parts {
        assert_eq!(&cas.get(digest).await.unwrap(), bytes);
        assert_eq!(&read_all(cas, digest).await.unwrap(), bytes);
        assert_eq!(&cas.load(digest).unwrap(), bytes);
        assert_eq!(cas.file(digest, false).unwrap(), None);
        cas.verify(digest).unwrap();
    }
    let (digest, bytes) = &parts[parts.len() / 2];
    let range = ByteRange { offset: 7, limit: Some(90) };
    let pieces: Vec<_> = cas.read(digest, range).await.unwrap().collect().await;
    assert_eq!(pieces.into_iter().map(Result::unwrap).collect::<Vec<_>>().concat(), bytes[7..97]);
}

#[tokio::test]
async fn parts_are_blobs_at_next_to_no_cost_and_outlive_a_restart_and_a_kill() {
    let place = Place::new();
    let cas = place.open();
    let mut all = Vec::new();
    for (seed, len, each) in [(1, 5_000_000, 700_000), (2, 20_000, 1000), (3, 900_000, 20_000)] {
        let before = cas.usage().used_bytes;
        let (whole, parts) = divided(&cas, seed, len, each).await;
        let stats = cas.stats();
        assert!(stats.used_bytes - before < len as u64 * 11 / 10 + 20_000, "{stats:?}");
        assert_eq!((stats.blobs, stats.corrupt), (seed, 0));
        cas.divide(&whole, &digests(&parts)).await.unwrap();
        assert_eq!(cas.stats().pack_bytes, stats.pack_bytes, "nothing is noted twice");
        assert_all_there(&cas, &parts).await;
        all.extend(parts);
    }
    let packed = cas.stats().pack_bytes;
    assert_all_there(&open(place.killed().config(64 * MIB)), &all).await;
    cas.close();
    drop(cas);
    let cas = place.open();
    assert_eq!((cas.stats().pack_bytes, cas.stats().dead_bytes), (packed, 0));
    assert_all_there(&cas, &all).await;
    std::fs::remove_dir_all(place.path().join("index")).unwrap();
    drop(cas);
    assert_all_there(&place.open(), &all).await;
}

#[tokio::test]
async fn a_part_goes_with_its_whole_and_a_use_of_it_keeps_both() {
    let place = Place::new();
    let cas = open(place.config(16 * MIB));
    let (kept, kept_parts) = divided(&cas, 1, 1_000_000, 200_000).await;
    let (gone, gone_parts) = divided(&cas, 2, 1_000_000, 200_000).await;
    let (pinned, pinned_parts) = divided(&cas, 3, 1_000_000, 200_000).await;
    let _pins = cas.pin(&[pinned_parts[4].0]);
    place.pass(3 * 3600);
    assert!(is_there(&cas, &kept_parts[2].0).await);
    place.pass(3 * 3600);
    assert!(is_there(&cas, &kept_parts[2].0).await, "and its whole is used with it");
    place.pass(3600);
    for seed in 10..40 {
        put(&cas, seed, 1_000_000).await;
        place.pass(3600);
        cas.find_missing(&[kept_parts[2].0]).await.unwrap();
    }
    for (whole, parts, is_left) in
        [(kept, &kept_parts, true), (gone, &gone_parts, false), (pinned, &pinned_parts, true)]
    {
        assert_eq!(is_there(&cas, &whole).await, is_left);
        let at = if whole == kept { 2 } else { 4 };
        assert_eq!(is_there(&cas, &parts[at].0).await, is_left);
        assert_eq!(cas.get(&parts[at].0).await.is_ok(), is_left);
    }
    assert_eq!(cas.peek_missing(&digests(&gone_parts)).await.unwrap(), digests(&gone_parts));
    assert!(matches!(cas.divide(&gone, &digests(&gone_parts)).await, Err(CasError::NotFound(_))));
}

#[tokio::test]
async fn damage_of_the_whole_is_damage_of_its_parts() {
    let place = Place::new();
    let cas = place.open();
    let (whole, parts) = divided(&cas, 1, 1_000_000, 300_000).await;
    flip(&place.blob_path(&whole), 950_000);
    assert_eq!(cas.get(&parts[0].0).await.unwrap(), parts[0].1);
    assert!(matches!(cas.get(&parts[3].0).await, Err(CasError::NotFound(_))));
    assert!(!is_there(&cas, &whole).await, "it was dropped");
    let order: Vec<Digest> = [3, 1, 0].map(|at: usize| parts[at].0).to_vec();
    assert_eq!(cas.find_missing(&order).await.unwrap(), order);
    assert_eq!(cas.stats().corrupt, 1);
}

#[tokio::test]
async fn a_part_that_comes_as_a_blob_of_its_own_is_one() {
    let place = Place::new();
    let cas = place.open();
    for (seed, each) in [(1, 300_000), (2, 10_000)] {
        let (whole, parts) = divided(&cas, seed, 1_000_000, each).await;
        let (digest, bytes) = &parts[1];
        cas.put(digest, bytes.clone()).await.unwrap();
        flip(&place.blob_path(&whole), 500);
        assert!(cas.verify(&whole).is_err());
        assert!(!is_there(&cas, &parts[0].0).await);
        assert_eq!(&cas.get(digest).await.unwrap(), bytes);
    }
    cas.close();
    drop(cas);
    let (_, data) = blob(1, 1_000_000);
    let digest = Digest::of(DigestFunction::Sha256, &data[300_000..600_000]);
    assert_eq!(place.open().get(&digest).await.unwrap(), data[300_000..600_000]);
}

#[tokio::test]
async fn parts_of_parts_lead_to_the_bytes() {
    let place = Place::new();
    let cas = place.open();
    let (_, parts) = divided(&cas, 1, 2_000_000, 400_000).await;
    let (part, data) = &parts[3];
    let inner: Vec<_> = (0..4)
        .map(|n| data.slice(n * 100_000..(n + 1) * 100_000))
        .map(|bytes| (Digest::of(DigestFunction::Sha256, &bytes), bytes))
        .collect();
    cas.divide(part, &digests(&inner)).await.unwrap();
    assert_all_there(&cas, &inner).await;
}

#[tokio::test]
async fn what_is_not_where_it_is_said_to_be_is_not_served() {
    let place = Place::new();
    let cas = place.open();
    let whole = put(&cas, 1, 1_000_000).await;
    let (other, _) = blob(9, 400_000);
    cas.divide(&whole, &[other]).await.unwrap();
    assert!(matches!(cas.get(&other).await, Err(CasError::NotFound(_))));
    assert!(!is_there(&cas, &other).await);
    assert!(is_there(&cas, &whole).await);
}

#[tokio::test]
async fn parts_are_no_copies() {
    let place = Place::new();
    let cas = place.open();
    let (whole, parts) = divided(&cas, 1, 1_000_000, 300_000).await;
    let keys: Vec<_> = (0..=255).flat_map(|range| cas.entries_in(range)).map(|entry| entry.key).collect();
    assert_eq!(keys, [(&whole).into()]);
    assert!(!cas.has_entry(&(&parts[0].0).into(), true) && cas.has_entry(&(&whole).into(), true));
}

#[tokio::test]
async fn a_full_store_says_so() {
    let place = Place::new();
    let cas = open(place.config(8 * MIB));
    let whole = put(&cas, 1, 2_000_000).await;
    let mut seed = 2;
    let filler = async |seed| {
        let (digest, data) = blob(seed, 30_000);
        cas.put(&digest, data).await
    };
    while filler(seed).await.is_ok() {
        seed += 1;
    }
    let (_, data) = blob(1, 2_000_000);
    let part = |n: usize| Digest::of(DigestFunction::Sha256, &data[n * 1000..(n + 1) * 1000]);
    let parts: Vec<_> = (0..2000).map(part).collect();
    assert!(matches!(cas.divide(&whole, &parts).await, Err(CasError::NoSpace { .. })));
}
