use super::*;
use crate::cas::memory::MemoryCas;
use crate::digest::DigestFunction;

const SHA256: DigestFunction = DigestFunction::Sha256;

fn chunks(cas: &MemoryCas) -> Chunks {
    let shared = || -> Arc<dyn ContentAddressableStorage> { Arc::new(cas.clone()) };
    Chunks::new(ChunkSize::new(64 << 10).unwrap(), shared(), shared(), Arc::new(cas.clone()))
}

fn noise(seed: u8, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

#[tokio::test]
async fn a_blob_is_split_into_blobs_that_make_it_up() {
    let cas = MemoryCas::default();
    let data = noise(1, 3 << 20);
    let blob = cas.insert(SHA256, data.clone());
    let chunks = chunks(&cas);
    for wire in [0, 2] {
        let chunking = chunks.offer().choose(wire);
        let list = chunks.split(&blob, chunking).await.unwrap();
        assert!(list.len() > 10);
        let mut joined = Vec::new();
        for chunk in list.iter() {
            joined.extend_from_slice(&cas.get(chunk).await.unwrap());
        }
        assert_eq!(joined, data);
        assert_eq!(chunks.split(&blob, chunking).await.unwrap(), list);
        cas.remove(&list[3]);
        assert_eq!(chunks.split(&blob, chunking).await.unwrap(), list);
        assert_eq!(cas.find_missing(&list).await.unwrap(), [], "it is there again");
    }
}

#[tokio::test]
async fn what_is_nowhere_is_not_split_though_it_was_once() {
    let cas = MemoryCas::default();
    let blob = cas.insert(SHA256, noise(1, 1 << 20));
    let chunks = chunks(&cas);
    let chunking = chunks.offer().choose(0);
    chunks.split(&blob, chunking).await.unwrap();
    cas.remove(&blob);
    let error = chunks.split(&blob, chunking).await.unwrap_err();
    assert!(matches!(error, CasError::NotFound(digest) if digest == blob), "{error}");
    assert!(chunks.split(&Digest::empty(SHA256), chunking).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_splice_is_the_blob_it_says_or_none() {
    let cas = MemoryCas::default();
    let chunks = chunks(&cas);
    let (first, second) = (cas.insert(SHA256, &b"first"[..]), cas.insert(SHA256, &b"second"[..]));
    let blob = Digest::of(SHA256, b"firstsecond");

    let mut splice = chunks.splice(&blob).await.unwrap();
    splice.add(&[second, first]).await.unwrap();
    assert!(matches!(splice.finish().await, Err(CasError::Mismatch { .. })));
    let mut splice = chunks.splice(&blob).await.unwrap();
    splice.add(&[first]).await.unwrap();
    assert!(matches!(splice.add(&[second, first]).await, Err(CasError::TooLong(_))));
    let absent = Digest::of(SHA256, b"absent");
    let mut splice = chunks.splice(&blob).await.unwrap();
    let error = splice.add(&[first, absent]).await.unwrap_err();
    assert!(matches!(error, CasError::NotFound(digest) if digest == absent), "{error}");
    assert_eq!(cas.find_missing(&[blob]).await.unwrap(), [blob]);

    let mut splice = chunks.splice(&blob).await.unwrap();
    splice.add(&[first]).await.unwrap();
    splice.add(&[]).await.unwrap();
    splice.add(&[second]).await.unwrap();
    splice.finish().await.unwrap();
    assert_eq!(cas.get(&blob).await.unwrap(), "firstsecond");

    let mut again = chunks.splice(&blob).await.unwrap();
    again.add(&[absent]).await.unwrap();
    again.finish().await.unwrap();
}
