use std::fs;
use std::os::unix::fs::MetadataExt;

use farmhand_proto::{protobuf, reapi};
use prost::Message;

use super::*;
use crate::cas::memory::MemoryCas;
use crate::digest::DigestFunction;
use crate::tasks::Tasks;

const SHA256: DigestFunction = DigestFunction::Sha256;

/// A store whose larger blobs are files, like the one on disk.
struct FileCas {
    memory: MemoryCas,
    directory: tempfile::TempDir,
}

impl LocalBlobs for FileCas {
    fn file(&self, digest: &Digest, executable: bool) -> Result<Option<PathBuf>, CasError> {
        let data = self.memory.load(digest)?;
        if data.len() < 100 {
            return Ok(None);
        }
        let path = self.directory.path().join(format!("{}-{executable}", digest.hash_hex()));
        if !path.exists() {
            fs::write(&path, data).unwrap();
            let mode = if executable { 0o555 } else { 0o444 };
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        }
        Ok(Some(path))
    }

    fn load(&self, digest: &Digest) -> Result<bytes::Bytes, CasError> {
        self.memory.load(digest)
    }

    fn adopt(&self, digest: &Digest, path: &Path) -> Result<(), CasError> {
        self.memory.adopt(digest, path)
    }

    fn store(&self, digest: &Digest, data: &[u8]) -> Result<(), CasError> {
        self.memory.store(digest, data)
    }

    fn pin(&self, digests: &[Digest]) -> Pins {
        self.memory.pin(digests)
    }
}

struct Stage {
    cas: MemoryCas,
    inputs: Arc<Inputs>,
    scratch: tempfile::TempDir,
    tasks: Tasks,
}

impl Stage {
    fn new(limits: InputLimits) -> Self {
        let (cas, tasks) = (MemoryCas::default(), Tasks::default());
        let scratch = tempfile::tempdir().unwrap();
        let blobs = FileCas { memory: cas.clone(), directory: tempfile::tempdir().unwrap() };
        let inputs = Inputs::open(
            scratch.path(),
            limits,
            Stores { cas: Arc::new(cas.clone()), here: Arc::new(cas.clone()), blobs: Arc::new(blobs) },
            Sweeper::new(tasks.clone()),
        );
        Self { cas, inputs: Arc::new(inputs.unwrap()), scratch, tasks }
    }

    fn put(&self, data: &[u8]) -> Digest {
        self.cas.insert(SHA256, data.to_vec())
    }

    fn put_directory(&self, directory: &reapi::Directory) -> Digest {
        self.put(&directory.encode_to_vec())
    }

    fn trees(&self) -> usize {
        fs::read_dir(self.scratch.path().join("trees")).unwrap().count()
    }
}

fn file(name: &str, digest: Digest) -> reapi::FileNode {
    reapi::FileNode { name: name.into(), digest: Some(digest.to_wire()), ..Default::default() }
}

fn child(name: &str, digest: Digest) -> reapi::DirectoryNode {
    reapi::DirectoryNode { name: name.into(), digest: Some(digest.to_wire()) }
}

fn link(name: &str, target: &str) -> reapi::SymlinkNode {
    reapi::SymlinkNode { name: name.into(), target: target.into(), ..Default::default() }
}

fn properties(mode: Option<u32>, mtime: Option<i64>) -> Option<reapi::NodeProperties> {
    Some(reapi::NodeProperties {
        unix_mode: mode.map(|value| protobuf::UInt32Value { value }),
        mtime: mtime.map(|seconds| protobuf::Timestamp { seconds, nanos: 5 }),
        ..Default::default()
    })
}

/// A root with one of everything.
fn varied(stage: &Stage) -> Digest {
    let small = stage.put(b"small");
    let large = stage.put(&[7; 500]);
    let empty = stage.put_directory(&reapi::Directory::default());
    let executable = |name: &str, digest| reapi::FileNode { is_executable: true, ..file(name, digest) };
    let own = reapi::FileNode { node_properties: properties(Some(0o4640), Some(77)), ..file("own", large) };
    stage.put_directory(&reapi::Directory {
        files: vec![
            file("small", small),
            executable("small.x", small),
            file("large", large),
            executable("large.x", large),
            own,
            file("odd \n ü", small),
            file(&"n".repeat(255), Digest::empty(SHA256)),
        ],
        directories: vec![child("empty", empty)],
        symlinks: vec![
            link("dangling", "no/where/.."),
            link("absolute", "/etc/passwd"),
            link("dir", "empty"),
        ],
        ..Default::default()
    })
}

fn check_varied(root: &Path) {
    for (name, content, mode, mtime) in [
        ("small", &b"small"[..], 0o444, FIXED_MTIME.tv_sec),
        ("small.x", b"small", 0o555, FIXED_MTIME.tv_sec),
        ("large", &[7; 500], 0o444, FIXED_MTIME.tv_sec),
        ("large.x", &[7; 500], 0o555, FIXED_MTIME.tv_sec),
        ("own", &[7; 500], 0o640, 77),
        ("odd \n ü", b"small", 0o444, FIXED_MTIME.tv_sec),
    ] {
        let path = root.join(name);
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), content, "{name}");
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (mode, mtime), "{name}");
    }
    assert_eq!(fs::metadata(root.join("n".repeat(255))).unwrap().len(), 0);
    for (name, target) in [("dangling", "no/where/.."), ("absolute", "/etc/passwd"), ("dir", "empty")] {
        assert_eq!(fs::read_link(root.join(name)).unwrap(), Path::new(target));
        assert_eq!(fs::symlink_metadata(root.join(name)).unwrap().mtime(), FIXED_MTIME.tv_sec);
    }
    for directory in [root.to_owned(), root.join("empty")] {
        let metadata = fs::metadata(directory).unwrap();
        assert_eq!((metadata.mode() & 0o7777, metadata.mtime()), (0o755, FIXED_MTIME.tv_sec));
    }
}

#[tokio::test]
async fn a_tree_is_as_its_directories_say() {
    let stage = Stage::new(InputLimits::default());
    let staged = stage.inputs.stage(varied(&stage)).await.unwrap();
    check_varied(&staged.lower[0]);
    let links = |name: &str| fs::metadata(staged.lower[0].join(name)).unwrap().nlink();
    assert_eq!((links("large"), links("large.x"), links("own")), (2, 2, 1));
    assert!(links("small") > 1, "small files are pooled");
    let symlink = fs::symlink_metadata(staged.lower[0].join("dangling")).unwrap();
    assert_eq!(symlink.nlink(), 2, "symlinks are pooled");
    assert_eq!(staged.read_only, Vec::<PathBuf>::new());
}

#[tokio::test]
async fn copies_are_private() {
    let stage = Stage::new(InputLimits::default());
    let target = stage.scratch.path().join("copy");
    fs::create_dir(&target).unwrap();
    let _pins = stage.inputs.copy_into(varied(&stage), target.clone()).await.unwrap();
    check_varied(&target);
    for entry in fs::read_dir(&target).unwrap() {
        let metadata = entry.unwrap().metadata().unwrap();
        assert!(metadata.is_dir() || metadata.nlink() == 1);
    }
}

#[tokio::test]
async fn one_root_is_built_once_and_kept() {
    let stage = Stage::new(InputLimits::default());
    let root = varied(&stage);
    let many = futures_util::future::join_all((0..20).map(|_| stage.inputs.stage(root))).await;
    let paths: Vec<_> = many.iter().map(|staged| staged.as_ref().unwrap().lower[0].clone()).collect();
    assert!(paths.iter().all(|path| *path == paths[0]));
    let name = paths[0].file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with(&format!("sha256-{}", root.hash_hex())), "{name}");
    drop(many);
    assert_eq!(stage.inputs.stage(root).await.unwrap().lower[0], paths[0]);
    assert_eq!(stage.trees(), 1);
}

#[tokio::test]
async fn unused_trees_go_least_recently_used_first() {
    let stage = Stage::new(InputLimits { trees: 2, ..InputLimits::default() });
    let roots: Vec<_> = (0..4_u8)
        .map(|i| {
            stage.put_directory(&reapi::Directory {
                files: vec![file("f", stage.put(&[i]))],
                ..Default::default()
            })
        })
        .collect();
    let held = stage.inputs.stage(roots[0]).await.unwrap();
    let second = stage.inputs.stage(roots[1]).await.unwrap().lower[0].clone();
    let third = stage.inputs.stage(roots[2]).await.unwrap().lower[0].clone();
    stage.tasks.idle().await;
    assert!(held.lower[0].exists() && !second.exists() && third.exists());
    drop(held);
    let fourth = stage.inputs.stage(roots[3]).await.unwrap().lower[0].clone();
    stage.tasks.idle().await;
    assert!(third.exists() && fourth.exists());
    assert_eq!(stage.trees(), 2);
    let again = stage.inputs.stage(roots[1]).await.unwrap();
    assert_eq!(fs::read(again.lower[0].join("f")).unwrap(), [1]);
}

/// A root of 100 files, of which one is different.
fn nearly(stage: &Stage, number: u8) -> Digest {
    let files = (0..100_u8).map(|i| {
        let content = if i == 50 { [number, 1] } else { [i, 0] };
        file(&format!("f{i}"), stage.put(&content))
    });
    stage.put_directory(&reapi::Directory { files: files.collect(), ..Default::default() })
}

#[tokio::test]
async fn a_root_like_another_is_a_layer_over_it() {
    let stage = Stage::new(InputLimits::default());
    for number in 0..20 {
        let staged = stage.inputs.stage(nearly(&stage, number)).await.unwrap();
        let layers = if number == 0 { 1..=1 } else { 2..=8 };
        assert!(layers.contains(&staged.lower.len()), "{number}: {:?}", staged.lower);
        assert_eq!(fs::read(staged.lower[0].join("f50")).unwrap(), [number, 1]);
        let entries = fs::read_dir(&staged.lower[0]).unwrap().count();
        assert_eq!(entries, if number == 0 { 100 } else { 1 });
    }
}

#[tokio::test]
async fn layers_stay_while_a_tree_has_them() {
    let stage = Stage::new(InputLimits { trees: 1, ..InputLimits::default() });
    let first = stage.inputs.stage(nearly(&stage, 0)).await.unwrap().lower;
    let second = stage.inputs.stage(nearly(&stage, 1)).await.unwrap();
    assert_eq!(second.lower[1], first[0]);
    stage.tasks.idle().await;
    assert!(first[0].exists(), "its own tree is evicted, the one over it is not");
    let lower = second.lower.clone();
    drop(second);
    let other = stage.put_directory(&reapi::Directory::default());
    stage.inputs.stage(other).await.unwrap();
    stage.tasks.idle().await;
    assert!(lower.iter().all(|layer| !layer.exists()));
    assert_eq!(stage.trees(), 1);
}

#[tokio::test]
async fn all_missing_blobs_are_named_at_once() {
    let stage = Stage::new(InputLimits::default());
    let absent: Vec<_> = (0..3).map(|i| Digest::of(SHA256, &[i])).collect();
    let gone =
        stage.put_directory(&reapi::Directory { symlinks: vec![link("l", "x")], ..Default::default() });
    stage.cas.remove(&gone);
    let inner = stage.put_directory(&reapi::Directory {
        files: vec![file("a", absent[0]), file("b", absent[1])],
        ..Default::default()
    });
    let root = stage.put_directory(&reapi::Directory {
        files: vec![file("a", absent[2]), file("here", stage.put(b"here")), file("again", absent[0])],
        directories: vec![child("gone", gone), child("inner", inner)],
        ..Default::default()
    });
    let mut expected = [absent, vec![gone]].concat();
    expected.sort_unstable();
    let Err(InputError::Missing(missing)) = stage.inputs.stage(root).await else { panic!() };
    assert_eq!(missing, expected);
    for i in 0..3 {
        stage.put(&[i]);
    }
    stage.put_directory(&reapi::Directory { symlinks: vec![link("l", "x")], ..Default::default() });
    assert!(stage.inputs.stage(root).await.is_ok(), "a failed root can be tried again");
}

#[tokio::test]
async fn a_missing_root_and_a_malformed_directory() {
    let stage = Stage::new(InputLimits::default());
    let absent = Digest::of(SHA256, b"absent");
    assert!(matches!(stage.inputs.stage(absent).await, Err(InputError::Missing(m)) if m == [absent]));
    let bad = stage.put(b"\xff\xff");
    let error = stage.inputs.stage(bad).await.err().unwrap().to_string();
    assert!(error.contains("input root") && error.contains(&bad.hash_hex()), "{error}");
    let root =
        stage.put_directory(&reapi::Directory { directories: vec![child("d", bad)], ..Default::default() });
    let error = stage.inputs.stage(root).await.err().unwrap().to_string();
    assert!(error.contains("input directory") && error.contains(&bad.hash_hex()), "{error}");
}

#[tokio::test]
async fn the_empty_root_needs_no_upload() {
    let stage = Stage::new(InputLimits::default());
    let staged = stage.inputs.stage(Digest::empty(SHA256)).await.unwrap();
    assert_eq!(fs::read_dir(&staged.lower[0]).unwrap().count(), 0);
}

#[tokio::test]
async fn a_small_dag_that_unfolds_to_millions_is_refused() {
    let stage = Stage::new(InputLimits::default());
    let mut digest = Digest::empty(SHA256);
    for _ in 0..40 {
        digest = stage.put_directory(&reapi::Directory {
            directories: vec![child("a", digest), child("b", digest)],
            ..Default::default()
        });
    }
    let error = stage.inputs.stage(digest).await.err().unwrap();
    assert!(matches!(error, InputError::TooManyEntries { limit: 1_000_000 }), "{error}");
    assert_eq!(stage.trees(), 0);
}

#[tokio::test]
async fn thousands_of_levels() {
    let stage = Stage::new(InputLimits::default());
    let mut digest = stage.put_directory(&reapi::Directory {
        files: vec![file("bottom", stage.put(b"deep"))],
        ..Default::default()
    });
    for _ in 0..5000 {
        let directory = reapi::Directory { directories: vec![child("d", digest)], ..Default::default() };
        digest = stage.put_directory(&directory);
    }
    let staged = stage.inputs.stage(digest).await.unwrap();
    let mut cursor = crate::worker::scratch::Cursor::open(&staged.lower[0]).unwrap();
    for _ in 0..5000 {
        cursor.enter(c"d").unwrap();
    }
    assert_eq!(cursor.entries().unwrap()[0].name.as_c_str(), c"bottom");
    drop(staged);
    crate::worker::scratch::remove_tree(&stage.scratch.path().join("trees"), || true).unwrap();
}

#[tokio::test]
async fn a_target_that_is_too_long_is_named() {
    let stage = Stage::new(InputLimits::default());
    let long = reapi::Directory { symlinks: vec![link("l", &"x/".repeat(4000))], ..Default::default() };
    let root = stage.put_directory(&long);
    let error = stage.inputs.stage(root).await.err().unwrap();
    assert!(matches!(&error, InputError::Unstageable { name, .. } if name == "l"), "{error}");
    stage.tasks.idle().await;
    assert_eq!(stage.trees(), 0, "what was begun is removed");
}

#[tokio::test]
async fn read_only_subtrees_are_listed_by_their_tops() {
    let stage = Stage::new(InputLimits::default());
    let marked = |value: &str, directories| reapi::Directory {
        directories,
        node_properties: Some(reapi::NodeProperties {
            properties: vec![reapi::NodeProperty { name: "SubtreeReadOnly".into(), value: value.into() }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let empty = stage.put_directory(&reapi::Directory::default());
    let writable = stage.put_directory(&marked("false", vec![]));
    let read_only = marked("true", vec![child("lib", empty), child("usr", empty)]);
    let whole = stage.put_directory(&read_only);
    assert_eq!(stage.inputs.stage(whole).await.unwrap().read_only, [PathBuf::new()]);
    let root = reapi::Directory {
        directories: vec![child("plain", empty), child("ro", whole)],
        ..Default::default()
    };
    let root = stage.put_directory(&root);
    assert_eq!(stage.inputs.stage(root).await.unwrap().read_only, [PathBuf::from("ro")]);
    let mixed = marked("true", vec![child("build", writable), child("lib", empty), child("usr", empty)]);
    let mixed = stage.put_directory(&mixed);
    let staged = stage.inputs.stage(mixed).await.unwrap();
    assert_eq!((staged.read_only, staged.writable), (vec![PathBuf::new()], vec![PathBuf::from("build")]));
}

#[tokio::test]
async fn the_pool_forgets_by_generations() {
    let stage = Stage::new(InputLimits { pooled_files: 8, ..InputLimits::default() });
    for round in 0..6_u8 {
        let files = (0..4).map(|i| file(&i.to_string(), stage.put(&[round, i]))).collect();
        let common = file("common", stage.put(b"common"));
        let root = reapi::Directory { files: [files, vec![common]].concat(), ..Default::default() };
        let staged = stage.inputs.stage(stage.put_directory(&root)).await.unwrap();
        let links = fs::metadata(staged.lower[0].join("common")).unwrap().nlink();
        assert!(links > u64::from(round) + 1, "round {round}: {links}");
    }
    stage.tasks.idle().await;
    assert!(fs::read_dir(stage.scratch.path().join("files")).unwrap().count() <= 2);
}

#[test]
fn staging_takes_its_share_of_a_small_disk_and_no_more_than_it_needs_of_a_large_one() {
    let small = InputLimits::beside(200 << 20);
    assert_eq!((small.tree_bytes, small.pooled_files), (100 << 20, 2_000));
    assert_eq!(InputLimits::beside(0).pooled_files, 2_000);
    assert_eq!(InputLimits::beside(1 << 50), InputLimits::default());
}
