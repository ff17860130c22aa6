use async_trait::async_trait;
use farmhand_proto::control::{GetStatusResponse, Operation};
use farmhand_proto::reapi;
use proptest::prelude::*;
use tonic::Code;

use super::super::{ControlSource, testing};
use super::*;
use crate::cas::memory::MemoryCas;
use crate::digest::DigestFunction::Sha256;

struct Silent;

#[async_trait]
impl ControlSource for Silent {
    async fn status(&self) -> GetStatusResponse {
        GetStatusResponse::default()
    }

    async fn operations(&self) -> Vec<Operation> {
        Vec::new()
    }
}

fn service(cas: &MemoryCas) -> ControlService {
    ControlService::new(testing::over(Silent, &Arc::new(cas.clone())))
}

fn file(name: &str, data: &[u8]) -> reapi::FileNode {
    let digest = Some(Digest::of(Sha256, data).to_wire());
    reapi::FileNode { name: name.into(), digest, ..Default::default() }
}

fn child(name: &str, digest: Digest) -> reapi::DirectoryNode {
    reapi::DirectoryNode { name: name.into(), digest: Some(digest.to_wire()) }
}

fn link(name: &str, target: &str) -> reapi::SymlinkNode {
    reapi::SymlinkNode { name: name.into(), target: target.into(), ..Default::default() }
}

fn put(cas: &MemoryCas, directory: &reapi::Directory) -> Digest {
    cas.insert(Sha256, directory.encode_to_vec())
}

fn directory(files: Vec<reapi::FileNode>, directories: Vec<reapi::DirectoryNode>) -> reapi::Directory {
    reapi::Directory { files, directories, ..Default::default() }
}

async fn list(cas: &MemoryCas, request: ListDirectoryRequest) -> Result<ListDirectoryResponse, Status> {
    service(cas).list_directory(Request::new(request)).await.map(Response::into_inner)
}

async fn at(cas: &MemoryCas, digest: Digest, path: &str) -> Result<Vec<DirectoryEntry>, Status> {
    let request =
        ListDirectoryRequest { digest: digest.to_string(), path: path.into(), ..Default::default() };
    Ok(list(cas, request).await?.entries)
}

fn names(entries: &[DirectoryEntry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.name.as_str()).collect()
}

/// A root with `lib/`, which has a file that is stored and one that is not, and more.
fn small_tree(cas: &MemoryCas) -> (Digest, reapi::Directory, reapi::Directory) {
    cas.insert(Sha256, b"here".to_vec());
    let lib = directory(vec![file("here", b"here"), file("gone", b"gone!")], Vec::new());
    let root = reapi::Directory {
        files: vec![file("b", b"here"), reapi::FileNode { is_executable: true, ..file("a", b"here") }],
        directories: vec![child("lib", put(cas, &lib)), child("empty", Digest::empty(Sha256))],
        symlinks: vec![link("link", "lib/here")],
        ..Default::default()
    };
    (put(cas, &root), root, lib)
}

#[tokio::test]
async fn entries_come_by_kind_and_name_with_what_is_known_of_them() {
    let cas = MemoryCas::default();
    let (root, ..) = small_tree(&cas);
    let entries = at(&cas, root, "").await.unwrap();
    assert_eq!(names(&entries), ["empty", "lib", "a", "b", "link"]);
    let [empty, lib, a, _, link] = &entries[..] else { panic!("{entries:?}") };
    assert_eq!((lib.kind(), lib.size_bytes, lib.files, lib.is_stored), (Kind::Directory, 9, Some(2), true));
    assert_eq!((empty.files, empty.is_stored), (Some(0), true));
    assert_eq!((a.kind(), a.size_bytes, a.is_executable, a.is_stored), (Kind::File, 4, true, true));
    assert_eq!((link.kind(), link.target.as_str()), (Kind::Symlink, "lib/here"));
    let below = at(&cas, root, "lib").await.unwrap();
    assert_eq!(names(&below), ["gone", "here"]);
    assert_eq!((below[0].is_stored, below[1].is_stored), (false, true));
}

#[tokio::test]
async fn a_tree_needs_nothing_but_itself() {
    let cas = MemoryCas::default();
    let (_, root, lib) = small_tree(&MemoryCas::default());
    let tree = reapi::Tree { root: Some(root), children: vec![lib] };
    let digest = cas.insert(Sha256, tree.encode_to_vec()).to_string();
    let request = ListDirectoryRequest { digest, is_tree: true, ..Default::default() };
    let entries = list(&cas, request.clone()).await.unwrap().entries;
    assert_eq!(names(&entries), ["empty", "lib", "a", "b", "link"]);
    assert_eq!((entries[1].files, entries[1].is_stored, entries[2].is_stored), (Some(2), true, false));
    let below = list(&cas, ListDirectoryRequest { path: "lib".into(), ..request }).await.unwrap();
    assert_eq!(names(&below.entries), ["gone", "here"]);
}

#[tokio::test]
async fn what_is_not_there_is_told_apart() {
    let cas = MemoryCas::default();
    let (root, ..) = small_tree(&cas);
    let absent = Digest::of(Sha256, b"absent");
    let garbage = cas.insert(Sha256, b"\xff\xff\xff".to_vec());
    let evil = put(&cas, &directory(vec![file("../x", b"here")], Vec::new()));
    let huge = Digest::from_parts(Sha256, [7; 32], 1 << 40);
    for (digest, path, code, part) in [
        (root, "nothing", Code::NotFound, "there is no nothing"),
        (root, "a", Code::NotFound, "a is a file"),
        (root, "link", Code::NotFound, "link is a symlink"),
        (root, "../x", Code::InvalidArgument, "leads out"),
        (absent, "", Code::NotFound, "is not stored"),
        (garbage, "", Code::InvalidArgument, "is no Directory"),
        (evil, "", Code::InvalidArgument, "bad entry name"),
        (huge, "", Code::OutOfRange, "too large"),
    ] {
        let error = at(&cas, digest, path).await.unwrap_err();
        assert!(error.code() == code && error.message().contains(part), "{path}: {error}");
    }
}

#[tokio::test]
async fn sizes_are_told_only_where_all_parts_are_known_and_few() {
    let cas = MemoryCas::default();
    let torn = put(&cas, &directory(Vec::new(), vec![child("gone", Digest::of(Sha256, b"gone"))]));
    // Two of each level in the one above: a few messages that name more files than can be counted.
    let mut endless = put(&cas, &directory(vec![file("f", b"here")], Vec::new()));
    for _ in 0..70 {
        endless = put(&cas, &directory(Vec::new(), vec![child("a", endless), child("b", endless)]));
    }
    let wide: Vec<_> = (0..2500_u32)
        .map(|n| child(&n.to_string(), put(&cas, &directory(vec![file(&n.to_string(), b"x")], Vec::new()))))
        .collect();
    let wide = put(&cas, &directory(Vec::new(), wide));
    let deep = (0..500_u32).fold(Digest::empty(Sha256), |below, n| {
        put(&cas, &directory(vec![file(&n.to_string(), b"x")], vec![child("d", below)]))
    });
    let of = async |digest| {
        let root = put(&cas, &directory(Vec::new(), vec![child("it", digest)]));
        let entries = at(&cas, root, "").await.unwrap();
        (entries[0].files, entries[0].size_bytes)
    };
    assert_eq!(of(torn).await, (None, 0));
    assert_eq!(of(endless).await, (Some(u64::MAX), u64::MAX));
    assert_eq!(of(wide).await, (None, 0));
    assert_eq!(of(deep).await, (Some(500), 500));
}

#[tokio::test]
async fn a_long_target_is_shortened() {
    let cas = MemoryCas::default();
    let symlinks = vec![link("l", &"é".repeat(4000))];
    let root = put(&cas, &reapi::Directory { symlinks, ..Default::default() });
    let entries = at(&cas, root, "").await.unwrap();
    assert!(entries[0].target.len() < 4200 && entries[0].target.ends_with("é…"));
}

#[tokio::test]
async fn blobs_are_read_by_range() {
    let cas = MemoryCas::default();
    let data: Vec<u8> = (0..600_000_u32).map(|n| n as u8).collect();
    let digest = cas.insert(Sha256, data.clone());
    for (offset, limit, expected) in [
        (0, 0, &data[..]),
        (599_990, 0, &data[599_990..]),
        (5, 300_000, &data[5..300_005]),
        (600_000, 9, &[][..]),
    ] {
        let request = ReadBlobRequest { digest: digest.to_string(), offset, limit };
        let mut pieces = service(&cas).read_blob(Request::new(request)).await.unwrap().into_inner();
        let mut read = Vec::new();
        while let Some(piece) = pieces.next().await {
            read.extend(piece.unwrap().data);
        }
        assert!(read == expected, "{offset} {limit}");
    }
    let code = async |digest: String, offset| {
        let request = ReadBlobRequest { digest, offset, limit: 0 };
        service(&cas).read_blob(Request::new(request)).await.err().map(|error| error.code())
    };
    assert_eq!(code(digest.to_string(), 600_001).await, Some(Code::OutOfRange));
    assert_eq!(code(Digest::of(Sha256, b"absent").to_string(), 0).await, Some(Code::NotFound));
    assert_eq!(code(digest.hash_hex(), 0).await, Some(Code::InvalidArgument));
}

proptest! {
    #[test]
    fn pages_join_to_the_whole(
        entries in proptest::collection::btree_map("[a-e/]{1,3}", 0..3_u8, 0..40),
        limit in 1..7_usize,
    ) {
        let mut wire = reapi::Directory::default();
        for (name, kind) in entries.iter().rev().filter(|(name, _)| !name.contains('/')) {
            match kind {
                0 => wire.directories.push(child(name, Digest::empty(Sha256))),
                1 => wire.files.push(file(name, b"x")),
                _ => wire.symlinks.push(link(name, "x")),
            }
        }
        let directory = Directory::from_wire(wire, Sha256).unwrap();
        let shown = |places: &[Place<'_>]| -> Vec<(u8, String)> {
            places.iter().map(|place| (place.kind, place.name.to_owned())).collect()
        };
        let (whole, none) = page(&directory, "", usize::MAX).unwrap();
        prop_assert!(whole.is_sorted() && none.is_empty() && whole.len() == directory.entries());
        let (mut joined, mut token) = (Vec::new(), String::new());
        loop {
            let (places, next) = page(&directory, &token, limit).unwrap();
            prop_assert!(places.len() <= limit);
            joined.extend(shown(&places));
            if next.is_empty() {
                break;
            }
            token = next;
        }
        prop_assert_eq!(joined, shown(&whole));
    }

    #[test]
    fn tokens_of_others_are_refused_or_harmless(token in ".{0,20}") {
        let directory = Directory::from_wire(directory(vec![file("a", b"x")], Vec::new()), Sha256).unwrap();
        if let Err(error) = page(&directory, &token, 1) {
            prop_assert_eq!(error.code(), Code::InvalidArgument);
        }
    }
}
