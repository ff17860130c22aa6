//! What every [`ContentAddressableStorage`] must do; each implementation's tests run [`suite`].

use bytes::Bytes;
use futures_util::StreamExt;

use super::{ByteRange, CasError, ContentAddressableStorage};
use crate::digest::{BlobHash, Digest, DigestFunction};

/// Runs the whole suite on a store that is empty and has room for 16 MiB.
pub async fn suite(cas: &dyn ContentAddressableStorage) {
    for function in DigestFunction::ALL {
        empty_blob_is_always_there(cas, function).await;
        stores_and_reads(cas, function).await;
        refuses_wrong_bytes(cas, function).await;
        writes_in_pieces(cas, function).await;
    }
    functions_are_apart(cas).await;
    reads_ranges(cas).await;
}

fn blob(seed: u64, len: usize) -> Bytes {
    let mut state = seed | 1;
    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect()
}

async fn collect(cas: &dyn ContentAddressableStorage, digest: &Digest, range: ByteRange) -> Vec<u8> {
    let mut stream = cas.read(digest, range).await.unwrap();
    let mut all = Vec::new();
    while let Some(piece) = stream.next().await {
        let piece = piece.unwrap();
        assert!(!piece.is_empty(), "no empty piece");
        all.extend_from_slice(&piece);
    }
    all
}

async fn empty_blob_is_always_there(cas: &dyn ContentAddressableStorage, function: DigestFunction) {
    let empty = Digest::empty(function);
    assert_eq!(cas.find_missing(&[empty]).await.unwrap(), []);
    assert_eq!(cas.find(&BlobHash::from(&empty)).await.unwrap(), Some(empty));
    assert!(cas.get(&empty).await.unwrap().is_empty());
    assert!(collect(cas, &empty, ByteRange::default()).await.is_empty());
    cas.put(&empty, Bytes::new()).await.unwrap();
    cas.writer(&empty).await.unwrap().commit().await.unwrap();
}

async fn stores_and_reads(cas: &dyn ContentAddressableStorage, function: DigestFunction) {
    for len in [1, 100, 4096, 32 * 1024, 32 * 1024 + 1, 1024 * 1024 + 7] {
        let data = blob(len as u64, len);
        let digest = Digest::of(function, &data);
        assert_eq!(cas.find_missing(&[digest, digest]).await.unwrap(), [digest]);
        assert!(matches!(cas.get(&digest).await, Err(CasError::NotFound(d)) if d == digest));
        let hash = BlobHash::from(&digest);
        assert_eq!(cas.find(&hash).await.unwrap(), None);
        cas.put(&digest, data.clone()).await.unwrap();
        cas.put(&digest, data.clone()).await.unwrap();
        assert_eq!(cas.find(&hash).await.unwrap(), Some(digest));
        assert_eq!(cas.find_missing(&[digest]).await.unwrap(), []);
        assert_eq!(cas.peek_missing(&[digest]).await.unwrap(), []);
        assert_eq!(cas.get(&digest).await.unwrap(), data);
        assert_eq!(collect(cas, &digest, ByteRange::default()).await, data);
    }
}

async fn refuses_wrong_bytes(cas: &dyn ContentAddressableStorage, function: DigestFunction) {
    let data = blob(77, 5000);
    let digest = Digest::of(function, &data);
    for wrong in [blob(78, 5000), data.slice(..4999), [&data[..], b"x"].concat().into()] {
        assert!(matches!(
            cas.put(&digest, wrong).await,
            Err(CasError::Mismatch { .. } | CasError::TooLong(_))
        ));
    }
    let other_size = Digest::from_parts(function, *digest.hash(), 4999);
    assert!(matches!(
        cas.put(&other_size, data).await,
        Err(CasError::Mismatch { .. } | CasError::TooLong(_))
    ));
    for missing in
        [cas.find_missing(&[digest, other_size]).await, cas.peek_missing(&[digest, other_size]).await]
    {
        assert_eq!(missing.unwrap(), [digest, other_size]);
    }
}

async fn writes_in_pieces(cas: &dyn ContentAddressableStorage, function: DigestFunction) {
    for len in [10_000, 2_000_000] {
        let data = blob(len as u64 + 1, len);
        let digest = Digest::of(function, &data);
        let mut forgotten = cas.writer(&digest).await.unwrap();
        forgotten.write(data.slice(..100)).await.unwrap();
        drop(forgotten);
        let mut short = cas.writer(&digest).await.unwrap();
        short.write(data.slice(..100)).await.unwrap();
        assert_eq!(short.written(), 100);
        assert!(matches!(short.commit().await, Err(CasError::Mismatch { .. })));
        let mut long = cas.writer(&digest).await.unwrap();
        long.write(data.clone()).await.unwrap();
        assert!(matches!(long.write(Bytes::from_static(b"x")).await, Err(CasError::TooLong(_))));
        drop(long);
        assert_eq!(cas.find_missing(&[digest]).await.unwrap(), [digest]);
        let mut writer = cas.writer(&digest).await.unwrap();
        for start in (0..len).step_by(70_001) {
            writer.write(data.slice(start..len.min(start + 70_001))).await.unwrap();
        }
        writer.commit().await.unwrap();
        assert_eq!(cas.get(&digest).await.unwrap(), data);
    }
}

async fn functions_are_apart(cas: &dyn ContentAddressableStorage) {
    let data = blob(5, 2000);
    let blake3 = Digest::of(DigestFunction::Blake3, &data);
    cas.put(&blake3, data).await.unwrap();
    let as_sha256 = Digest::from_parts(DigestFunction::Sha256, *blake3.hash(), blake3.size());
    assert_eq!(cas.find_missing(&[as_sha256]).await.unwrap(), [as_sha256]);
}

async fn reads_ranges(cas: &dyn ContentAddressableStorage) {
    for len in [3000, 3_000_000] {
        let data = blob(len as u64 + 2, len);
        let digest = Digest::of(DigestFunction::Sha256, &data);
        cas.put(&digest, data.clone()).await.unwrap();
        for (offset, limit) in
            [(0, Some(1)), (1, None), (len / 2, Some(999)), (len - 1, Some(50)), (len, None)]
        {
            let range = ByteRange { offset: offset as u64, limit: limit.map(|l: usize| l as u64) };
            let end = limit.map_or(len, |limit| len.min(offset + limit));
            assert_eq!(collect(cas, &digest, range).await, data[offset..end]);
        }
        let beyond = cas.read(&digest, ByteRange { offset: len as u64 + 1, limit: None }).await;
        assert!(matches!(beyond, Err(CasError::OutOfRange { .. })));
    }
}
