use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::action_cache::memory::MemoryActionCache;
use crate::cas::memory::MemoryCas;
use crate::cas::{BlobStream, BlobWriter, ByteRange};
use crate::digest::BlobHash;
use crate::instance::InstanceName;

const SHA256: DigestFunction = DigestFunction::Sha256;

/// A CAS that counts the calls of `find_missing`.
#[derive(Clone, Default)]
struct CountingCas {
    inner: MemoryCas,
    walks: Arc<AtomicUsize>,
}

#[async_trait]
impl ContentAddressableStorage for CountingCas {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, CasError> {
        self.walks.fetch_add(1, Ordering::Relaxed);
        self.inner.find_missing(digests).await
    }

    async fn find(&self, hash: &BlobHash) -> Result<Option<Digest>, CasError> {
        self.inner.find(hash).await
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes, CasError> {
        self.inner.get(digest).await
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, CasError> {
        self.inner.read(digest, range).await
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<(), CasError> {
        self.inner.put(digest, data).await
    }

    async fn writer(&self, digest: &Digest) -> Result<Box<dyn BlobWriter>, CasError> {
        self.inner.writer(digest).await
    }
}

struct Bench {
    cas: CountingCas,
    generation: Arc<AtomicU64>,
    inner: MemoryActionCache,
    cache: CompleteActionCache<MemoryActionCache>,
}

impl Bench {
    fn new() -> Self {
        let cas = CountingCas::default();
        let generation = Arc::new(AtomicU64::new(0));
        let read = Arc::clone(&generation);
        let inner = MemoryActionCache::default();
        let cache = CompleteActionCache::new(
            inner.clone(),
            Arc::new(cas.clone()),
            Arc::new(move || read.load(Ordering::Relaxed)),
            Duration::from_secs(60),
        );
        Self { cas, generation, inner, cache }
    }

    fn blob(&self, text: &str) -> Option<reapi::Digest> {
        Some(self.cas.inner.insert(SHA256, text.to_owned()).to_wire())
    }

    fn message(&self, message: &impl Message) -> Option<reapi::Digest> {
        Some(self.cas.inner.insert(SHA256, message.encode_to_vec()).to_wire())
    }

    fn evict(&self, text: &str) {
        self.cas.inner.remove(&Digest::of(SHA256, text.as_bytes()));
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    fn walks(&self) -> usize {
        self.cas.walks.load(Ordering::Relaxed)
    }

    /// A Directory with one file, whose content is its name with the prefix `tree/` or `root/`.
    fn directory(&self, file: &str, below: Option<&reapi::Directory>) -> reapi::Directory {
        let node = |name: &str, digest| reapi::FileNode { name: name.into(), digest, ..Default::default() };
        reapi::Directory {
            files: vec![node(file.trim_start_matches("tree/").trim_start_matches("root/"), self.blob(file))],
            directories: below
                .map(|below| reapi::DirectoryNode { name: "deeper".into(), digest: self.message(below) })
                .into_iter()
                .collect(),
            ..Default::default()
        }
    }

    /// A file, stdout, stderr, a Tree and a root directory, both two levels deep.
    fn result(&self) -> ActionResult {
        let tree_below = self.directory("tree/below", None);
        let tree = reapi::Tree {
            root: Some(self.directory("tree/file", Some(&tree_below))),
            children: vec![tree_below],
        };
        let root = self.directory("root/file", Some(&self.directory("root/below", None)));
        ActionResult {
            output_files: vec![file("out", self.blob("out"))],
            output_directories: vec![
                directory("t", self.message(&tree), None),
                directory("d", None, self.message(&root)),
            ],
            stdout_digest: self.blob("stdout"),
            stderr_digest: self.blob("stderr"),
            ..Default::default()
        }
    }
}

fn file(path: &str, digest: Option<reapi::Digest>) -> reapi::OutputFile {
    reapi::OutputFile { path: path.into(), digest, ..Default::default() }
}

fn directory(
    path: &str,
    tree_digest: Option<reapi::Digest>,
    root_directory_digest: Option<reapi::Digest>,
) -> reapi::OutputDirectory {
    reapi::OutputDirectory { path: path.into(), tree_digest, root_directory_digest, ..Default::default() }
}

fn key() -> ActionKey {
    ActionKey { instance: InstanceName::default(), action: Digest::of(SHA256, b"action") }
}

#[tokio::test]
async fn any_lost_blob_hides_the_result() {
    let names = ["out", "stdout", "stderr", "tree/file", "tree/below", "root/file", "root/below"];
    for name in names {
        let bench = Bench::new();
        let result = bench.result();
        bench.cache.put(&key(), result.clone()).await.unwrap();
        assert_eq!(bench.cache.get(&key()).await.unwrap(), Some(result.clone()));
        bench.evict(name);
        assert_eq!(bench.cache.get(&key()).await.unwrap(), None, "{name}");
        bench.blob(name);
        assert_eq!(bench.cache.get(&key()).await.unwrap(), Some(result), "{name}");
    }
}

#[tokio::test]
async fn lost_trees_and_directories_hide_the_result() {
    let bench = Bench::new();
    let result = bench.result();
    bench.cache.put(&key(), result.clone()).await.unwrap();
    let below = Digest::of(SHA256, &bench.directory("root/below", None).encode_to_vec());
    let named = &result.output_directories;
    let wire = [named[0].tree_digest.as_ref(), named[1].root_directory_digest.as_ref()];
    let mut all = vec![below];
    all.extend(wire.map(|digest| Digest::from_field(SHA256, digest).unwrap()));
    for digest in all {
        let data = bench.cas.inner.get(&digest).await.unwrap();
        bench.cas.inner.remove(&digest);
        bench.generation.fetch_add(1, Ordering::Relaxed);
        assert_eq!(bench.cache.get(&key()).await.unwrap(), None, "{digest}");
        let refused = bench.cache.put(&key(), result.clone()).await.unwrap_err();
        assert!(matches!(refused, ActionCacheError::Incomplete(missing) if missing == [digest]));
        bench.cas.inner.put(&digest, data).await.unwrap();
    }
    assert!(bench.cache.get(&key()).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn one_walk_serves_many_hits() {
    let bench = Bench::new();
    bench.cache.put(&key(), bench.result()).await.unwrap();
    for _ in 0..10 {
        assert!(bench.cache.get(&key()).await.unwrap().is_some());
    }
    assert_eq!(bench.walks(), 1, "the put's own");
    tokio::time::advance(Duration::from_secs(61)).await;
    assert!(bench.cache.get(&key()).await.unwrap().is_some());
    assert_eq!(bench.walks(), 2, "the life of the blobs has to be extended now and then");
    bench.generation.fetch_add(1, Ordering::Relaxed);
    assert!(bench.cache.get(&key()).await.unwrap().is_some());
    assert_eq!(bench.walks(), 3);
}

#[tokio::test]
async fn a_result_replaced_below_is_walked_again() {
    let bench = Bench::new();
    bench.cache.put(&key(), bench.result()).await.unwrap();
    let absent = Digest::of(SHA256, b"absent").to_wire();
    let other = ActionResult { output_files: vec![file("o", Some(absent))], ..Default::default() };
    bench.inner.put(&key(), other).await.unwrap();
    assert_eq!(bench.cache.get(&key()).await.unwrap(), None);
}

#[tokio::test]
async fn failed_actions_are_no_hits() {
    let bench = Bench::new();
    let failed = ActionResult { exit_code: 1, ..Default::default() };
    bench.cache.put(&key(), failed.clone()).await.unwrap();
    assert_eq!(bench.inner.get(&key()).await.unwrap(), None);
    bench.inner.put(&key(), failed).await.unwrap();
    assert_eq!(bench.cache.get(&key()).await.unwrap(), None);
}

#[tokio::test]
async fn a_tree_whose_root_comes_in_parts_is_looked_at_whole() {
    let bench = Bench::new();
    let part = |file| reapi::Tree { root: Some(bench.directory(file, None)), children: Vec::new() };
    let tree = [part("first").encode_to_vec(), part("second").encode_to_vec()].concat();
    let digest = Some(bench.cas.inner.insert(SHA256, tree).to_wire());
    let result =
        ActionResult { output_directories: vec![directory("d", digest, None)], ..Default::default() };
    bench.cache.put(&key(), result.clone()).await.unwrap();
    assert_eq!(bench.cache.get(&key()).await.unwrap(), Some(result));
    bench.evict("first");
    assert_eq!(bench.cache.get(&key()).await.unwrap(), None);
}

#[tokio::test]
async fn malformed_results_are_refused() {
    let bench = Bench::new();
    let bad = Some(reapi::Digest { hash: "zz".into(), size_bytes: 1 });
    let files = |file| ActionResult { output_files: vec![file], ..Default::default() };
    let directories = |it| ActionResult { output_directories: vec![it], ..Default::default() };
    let link = reapi::OutputSymlink { path: "/abs".into(), target: "x".into(), ..Default::default() };
    let below = bench.directory("below", None);
    let lacking = reapi::Tree { root: Some(bench.directory("file", Some(&below))), children: Vec::new() };
    let climbing = bench.directory("../file", None);
    let escaping = reapi::Tree { root: Some(climbing.clone()), children: Vec::new() };
    for result in [
        directories(directory("d", bench.message(&lacking), None)),
        directories(directory("d", bench.message(&escaping), None)),
        directories(directory("d", None, bench.message(&climbing))),
        files(file("a", bad.clone())),
        files(file("a", None)),
        files(file("/etc/x", bench.blob("x"))),
        files(file("../x", bench.blob("x"))),
        files(file("a/", bench.blob("x"))),
        directories(directory("d", None, None)),
        directories(directory("d", bad, None)),
        directories(directory("d", bench.blob("\u{7f}not a tree"), None)),
        ActionResult { output_symlinks: vec![link], ..Default::default() },
    ] {
        let error = bench.cache.put(&key(), result.clone()).await.unwrap_err();
        assert!(matches!(error, ActionCacheError::Malformed(_)), "{result:?}: {error}");
        assert_eq!(bench.inner.get(&key()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn climbing_paths_are_judged_by_the_working_directory() {
    let bench = Bench::new();
    let command = reapi::Command { working_directory: "a/b".into(), ..Default::default() };
    let action = reapi::Action { command_digest: bench.message(&command), ..Default::default() };
    let action = Digest::from_field(SHA256, bench.message(&action).as_ref()).unwrap();
    let key = ActionKey { instance: InstanceName::default(), action };
    let result =
        |path| ActionResult { output_files: vec![file(path, bench.blob("x"))], ..Default::default() };
    bench.cache.put(&key, result("../../x")).await.unwrap();
    let error = bench.cache.put(&key, result("../../../x")).await.unwrap_err();
    assert!(matches!(error, ActionCacheError::Malformed(_)), "{error}");
}

#[tokio::test]
async fn stored_rubbish_is_a_miss() {
    let bench = Bench::new();
    let rubbish = ActionResult { output_files: vec![file("a", None)], ..Default::default() };
    bench.inner.put(&key(), rubbish).await.unwrap();
    assert_eq!(bench.cache.get(&key()).await.unwrap(), None);
}
