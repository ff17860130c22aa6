use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;

use super::*;
use crate::cas::memory::MemoryCas;
use crate::digest::DigestFunction;

/// A source that has some blobs, and may lie, fail or stand still.
#[derive(Default)]
struct Source {
    blobs: HashMap<Digest, Bytes>,
    is_broken: bool,
    /// Blobs it begins to send, and never ends.
    stuck: Vec<Digest>,
    asked: AtomicUsize,
}

impl Source {
    fn with(blobs: &[(Digest, Bytes)]) -> Self {
        Self { blobs: blobs.iter().cloned().collect(), ..Self::default() }
    }

    fn check(&self) -> Result<(), SourceError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.is_broken { Err(SourceError::new("source", "broken")) } else { Ok(()) }
    }
}

#[async_trait]
impl BlobSource for Source {
    fn name(&self) -> &str {
        "source"
    }

    async fn read_batch(&self, digests: &[Digest]) -> Result<Vec<(Digest, Bytes)>, SourceError> {
        self.check()?;
        tokio::task::yield_now().await;
        Ok(digests.iter().filter_map(|digest| Some((*digest, self.blobs.get(digest)?.clone()))).collect())
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<Option<SourceStream>, SourceError> {
        self.check()?;
        let Some(data) = self.blobs.get(digest).cloned() else { return Ok(None) };
        assert_eq!(range, ByteRange::default(), "a fetch takes all of a blob");
        let pieces: Vec<_> = data.chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        if self.stuck.contains(digest) {
            return Ok(Some(stream::iter(pieces).take(1).chain(stream::pending()).boxed()));
        }
        Ok(Some(stream::iter(pieces).boxed()))
    }
}

fn blob(number: u8, size: usize) -> (Digest, Bytes) {
    let data = Bytes::from(vec![number; size]);
    (Digest::of(DigestFunction::Sha256, &data), data)
}

fn digests(blobs: &[(Digest, Bytes)]) -> Vec<Digest> {
    blobs.iter().map(|(digest, _)| *digest).collect()
}

fn sources(all: Vec<Source>) -> Vec<Arc<dyn BlobSource>> {
    all.into_iter().map(|source| Arc::new(source) as Arc<dyn BlobSource>).collect()
}

fn fetcher() -> (Fetcher, MemoryCas) {
    let local = MemoryCas::default();
    (Fetcher::new(Arc::new(local.clone())), local)
}

#[tokio::test]
async fn what_is_not_here_comes_from_whoever_has_it() {
    let (fetcher, local) = fetcher();
    let blobs = [blob(1, 10), blob(2, 900_000), blob(3, 7), blob(4, 2_000_000)];
    local.put(&blobs[0].0, blobs[0].1.clone()).await.unwrap();
    let all = sources(vec![Source::with(&blobs[1..3]), Source::with(&blobs)]);
    let fetched = fetcher.fetch(&digests(&blobs), &all).await.unwrap();
    assert_eq!(fetched, Fetched { blobs: 3, bytes: 2_900_007 });
    assert!(local.find_missing(&digests(&blobs)).await.unwrap().is_empty());
    assert_eq!(fetcher.fetch(&digests(&blobs), &all).await.unwrap(), Fetched::default());
}

#[tokio::test]
async fn what_nobody_has_is_named_and_the_rest_is_brought() {
    let (fetcher, local) = fetcher();
    let blobs = [blob(1, 10), blob(2, 900_000), blob(3, 11), blob(4, 1_000_000)];
    let error = fetcher.fetch(&digests(&blobs), &sources(vec![Source::with(&blobs[..2])])).await.unwrap_err();
    let FetchError::Missing(mut missing) = error else { panic!("{error}") };
    missing.sort_unstable();
    let mut expected = digests(&blobs[2..]);
    expected.sort_unstable();
    assert_eq!(missing, expected);
    assert!(local.find_missing(&digests(&blobs[..2])).await.unwrap().is_empty());
    assert!(fetcher.flights.is_empty());
}

#[tokio::test]
async fn wrong_bytes_are_not_stored_and_the_next_source_is_asked() {
    let (good, other) = (blob(1, 900_000), blob(2, 5));
    for size in [5, 900_000, 899_999, 900_001] {
        let lie = Bytes::from(vec![9; size]);
        let liar = Source::with(&[(good.0, lie.clone()), (other.0, lie)]);
        let (fetcher, local) = fetcher();
        let wanted = [good.0, other.0];
        let all = sources(vec![liar, Source::with(&[good.clone(), other.clone()])]);
        let error = fetcher.fetch(&wanted, &all[..1]).await.unwrap_err();
        assert!(
            matches!(&error, FetchError::Source(SourceError { source_name, .. }) if source_name == "source")
        );
        assert_eq!(local.find_missing(&wanted).await.unwrap(), wanted);
        assert_eq!(fetcher.fetch(&wanted, &all).await.unwrap().blobs, 2);
    }
}

#[tokio::test]
async fn a_broken_source_is_blamed_only_if_nobody_else_has_it() {
    let (fetcher, _) = fetcher();
    let blobs = [blob(1, 10), blob(2, 900_000)];
    let broken = || Source { is_broken: true, ..Source::default() };
    let all = sources(vec![broken(), Source::with(&blobs[..1])]);
    let error = fetcher.fetch(&digests(&blobs), &all).await.unwrap_err();
    assert_eq!(error.to_string(), "source: broken");
    assert_eq!(fetcher.fetch(&digests(&blobs[..1]), &all).await.unwrap(), Fetched::default());
}

#[tokio::test]
async fn many_who_want_the_same_ask_once() {
    let (fetcher, _) = fetcher();
    let blobs: Vec<_> = (0..50).map(|number| blob(number, 100)).collect();
    let source = Arc::new(Source::with(&blobs));
    let all: Vec<Arc<dyn BlobSource>> = vec![source.clone()];
    let wanted = digests(&blobs);
    let outcomes = join_all((0..20).map(|_| fetcher.fetch(&wanted, &all))).await;
    let brought: u64 = outcomes.into_iter().map(|outcome| outcome.unwrap().blobs).sum();
    assert_eq!((brought, source.asked.load(Ordering::SeqCst)), (50, 1));
}

#[tokio::test]
async fn who_waits_for_another_that_gives_up_tries_itself() {
    let (fetcher, _) = fetcher();
    let wanted = blob(1, 10);
    let useless = sources(vec![Source::default()]);
    let useful = sources(vec![Source::with(std::slice::from_ref(&wanted))]);
    let digest = [wanted.0];
    let (first, second) = tokio::join!(fetcher.fetch(&digest, &useless), fetcher.fetch(&digest, &useful));
    assert!(matches!(first, Err(FetchError::Missing(_))));
    assert_eq!(second.unwrap().blobs, 1);
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_for_long_is_followed_by_the_next() {
    let (fetcher, _) = fetcher();
    let large = blob(1, 900_000);
    let stuck = Source { stuck: vec![large.0], ..Source::with(std::slice::from_ref(&large)) };
    let all = sources(vec![stuck, Source::with(std::slice::from_ref(&large))]);
    let error = fetcher.fetch(&[large.0], &all[..1]).await.unwrap_err();
    assert_eq!(error.to_string(), "source: it sent nothing for 60 seconds");
    assert_eq!(fetcher.fetch(&[large.0], &all).await.unwrap().blobs, 1);
}

#[tokio::test]
async fn who_waits_for_a_blob_waits_for_no_other() {
    let (fetcher, _) = fetcher();
    let (small, large) = (blob(1, 10), blob(2, 900_000));
    let source = Source { stuck: vec![large.0], ..Source::with(&[small.clone(), large.clone()]) };
    let all = sources(vec![source]);
    let both = [small.0, large.0];
    let endless = fetcher.fetch(&both, &all);
    let quick = async {
        while fetcher.local.peek_missing(&[small.0]).await.unwrap().len() == 1 {
            tokio::task::yield_now().await;
        }
        // It has been brought by the other one, or is fetched here: in no case does it wait for the rest.
        fetcher.fetch(&[small.0], &all).await.unwrap()
    };
    tokio::select! {
        _ = endless => panic!("it cannot end"),
        fetched = quick => assert_eq!(fetched, Fetched::default()),
    }
    assert!(fetcher.flights.is_empty());
}

#[tokio::test]
async fn what_others_failed_to_bring_is_fetched_all_the_same() {
    let (fetcher, _) = fetcher();
    let one = blob(1, 10);
    let nothing = sources(vec![Source::default()]);
    let has_it = sources(vec![Source::with(std::slice::from_ref(&one))]);
    let wanted = [one.0];
    // Each takes the blob for itself before the others look again.
    let failing = join_all((0..10).map(|_| fetcher.fetch(&wanted, &nothing)));
    let (failed, fetched) = tokio::join!(failing, fetcher.fetch(&wanted, &has_it));
    assert!(fetched.is_ok(), "{fetched:?}");
    drop(failed);
}
