use farmhand_proto::reapi;
use farmhand_proto::reapi::batch_update_blobs_request::Request as Update;
use prost::Message;
use tonic::{Code, Status};

use super::*;
use crate::activity::Gauges;
use crate::cas::compression::{compress, decompress};
use crate::digest::{Digest, DigestFunction};
use crate::rpc::testing::{TestServer, blob};
use crate::rpc::{InstanceSettings, MAX_BATCH, MAX_SENT_MESSAGE};

const SHA256: DigestFunction = DigestFunction::Sha256;
const ZSTD: i32 = 1;

async fn find_missing(
    server: &TestServer,
    digests: Vec<reapi::Digest>,
    function: i32,
) -> Result<Vec<reapi::Digest>, Status> {
    let request = reapi::FindMissingBlobsRequest {
        blob_digests: digests,
        digest_function: function,
        ..Default::default()
    };
    Ok(server.cas().find_missing_blobs(request).await?.into_inner().missing_blob_digests)
}

async fn update(
    server: &TestServer,
    requests: Vec<Update>,
) -> Result<Vec<(Option<reapi::Digest>, i32)>, Status> {
    let request = reapi::BatchUpdateBlobsRequest { requests, ..Default::default() };
    let answer = server.cas().batch_update_blobs(request).await?.into_inner();
    let entry = |entry: reapi::batch_update_blobs_response::Response| {
        (entry.digest, entry.status.expect("each entry has a status").code)
    };
    Ok(answer.responses.into_iter().map(entry).collect())
}

async fn read(
    server: &TestServer,
    digests: Vec<reapi::Digest>,
    acceptable_compressors: Vec<i32>,
) -> Result<reapi::BatchReadBlobsResponse, Status> {
    let request = reapi::BatchReadBlobsRequest { digests, acceptable_compressors, ..Default::default() };
    Ok(server.cas().batch_read_blobs(request).await?.into_inner())
}

fn wire(data: &[u8]) -> reapi::Digest {
    Digest::of(SHA256, data).to_wire()
}

fn plain(data: &[u8]) -> Update {
    Update { digest: Some(wire(data)), data: data.to_vec(), compressor: 0 }
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.unwrap_err().code()
}

#[tokio::test]
async fn exactly_the_absent_ones_are_missing() {
    let server = TestServer::start().await;
    let present = server.cas.insert(SHA256, "present").to_wire();
    let (a, b) = (wire(b"a"), wire(b"b"));
    let asked = vec![a.clone(), present.clone(), b.clone(), a.clone(), present, wire(b"")];
    assert_eq!(find_missing(&server, asked, 0).await.unwrap(), [a, b]);
    assert_eq!(find_missing(&server, vec![], 0).await.unwrap(), []);
}

#[tokio::test]
async fn digests_are_checked() {
    let server = TestServer::start().await;
    let present = server.cas.insert(SHA256, "present").to_wire();
    let hash = present.hash.clone();
    let digest = |hash: &str, size_bytes| reapi::Digest { hash: hash.into(), size_bytes };
    for bad in [
        digest("ABC", 1),
        digest(&hash.to_uppercase(), 7),
        digest("zz", 1),
        digest(&hash[1..], 7),
        digest("", 0),
        digest(&hash, -1),
    ] {
        let result = find_missing(&server, vec![present.clone(), bad.clone()], 0).await;
        assert_eq!(code(result), Code::InvalidArgument, "{bad:?}");
    }
    let other_size = digest(&hash, 8);
    assert_eq!(find_missing(&server, vec![other_size.clone()], 0).await.unwrap(), [other_size]);
    let empty_hash = digest(&wire(b"").hash, 1);
    let zero_size = digest(&hash, 0);
    let asked = vec![empty_hash.clone(), zero_size.clone()];
    assert_eq!(find_missing(&server, asked, 0).await.unwrap(), [empty_hash, zero_size]);
}

#[tokio::test]
async fn functions_are_apart_and_only_those_advertised() {
    let server = TestServer::start().await;
    let blake3 = server.cas.insert(DigestFunction::Blake3, "b").to_wire();
    assert_eq!(find_missing(&server, vec![blake3.clone()], 9).await.unwrap(), []);
    for function in [0, 1] {
        let missing = find_missing(&server, vec![blake3.clone()], function).await.unwrap();
        assert_eq!(missing.first(), Some(&blake3), "{function}");
    }
    for unsupported in [2, 4, 99] {
        let result = find_missing(&server, vec![blake3.clone()], unsupported).await;
        assert_eq!(code(result), Code::InvalidArgument, "{unsupported}");
    }
}

#[tokio::test]
async fn an_unknown_instance_is_not_found() {
    let server = TestServer::with_instance("a", InstanceSettings::default()).await;
    let status = find_missing(&server, vec![], 0).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn two_hundred_thousand_digests_in_one_call() {
    let server = TestServer::start().await;
    let present = server.cas.insert(SHA256, "p").to_wire();
    let mut asked = vec![present; 199_999];
    asked.push(wire(b"absent"));
    assert_eq!(find_missing(&server, asked, 0).await.unwrap(), [wire(b"absent")]);
}

#[tokio::test]
async fn each_entry_of_an_update_has_its_own_status() {
    let server = TestServer::start().await;
    let good = [blob(1, 10), blob(2, 5000), blob(3, 300_000)];
    let mut requests: Vec<_> = good.iter().map(|data| plain(data)).collect();
    requests.insert(1, Update { data: b"other bytes".to_vec(), ..plain(b"wrong bytes") });
    requests.push(Update { digest: None, ..plain(b"no digest") });
    requests.push(Update { compressor: 3, ..plain(b"brotli") });
    requests.push(plain(b""));
    let entries = update(&server, requests.clone()).await.unwrap();
    assert_eq!(entries.iter().map(|entry| entry.1).collect::<Vec<_>>(), [0, 3, 0, 0, 3, 3, 0]);
    for (entry, request) in entries.iter().zip(&requests) {
        assert_eq!(entry.0, request.digest);
    }
    assert_eq!(find_missing(&server, vec![wire(b"wrong bytes")], 0).await.unwrap().len(), 1);
    for data in &good {
        assert_eq!(server.cas.get(&Digest::of(SHA256, data)).await.unwrap(), *data);
    }
    assert_eq!(update(&server, requests[..1].to_vec()).await.unwrap()[0].1, 0, "again is fine");
}

#[tokio::test]
async fn compressed_entries_are_verified_uncompressed() {
    let server = TestServer::start().await;
    let data = [blob(4, 1000), vec![7; 600_000]].concat();
    let zstd = |digest, wire| Update { digest: Some(digest), data: wire, compressor: ZSTD };
    let bomb = compress(&vec![0; 20_000_000]).unwrap();
    let entries = update(
        &server,
        vec![
            zstd(wire(&data), compress(&data).unwrap()),
            zstd(wire(b"x"), b"rubbish".to_vec()),
            zstd(wire(b"y"), compress(b"z").unwrap()),
            zstd(wire(b"bomb!"), bomb),
            plain(b"mixed"),
        ],
    );
    let codes: Vec<_> = entries.await.unwrap().into_iter().map(|entry| entry.1).collect();
    assert_eq!(codes, [0, 3, 3, 3, 0]);
    assert_eq!(server.cas.get(&Digest::of(SHA256, &data)).await.unwrap(), data);
}

#[tokio::test]
async fn a_batch_at_the_limit_passes_and_one_beyond_does_not() {
    let server = TestServer::start().await;
    let data = blob(5, MAX_BATCH as usize);
    for size in [1024, 64 * 1024, 1024 * 1024] {
        let requests: Vec<_> = data.chunks(size).map(plain).collect();
        let digests: Vec<_> = data.chunks(size).map(wire).collect();
        assert!(update(&server, requests).await.unwrap().iter().all(|entry| entry.1 == 0));
        let answer = read(&server, digests, vec![]).await.unwrap();
        assert!(answer.encoded_len() < MAX_SENT_MESSAGE, "{}", answer.encoded_len());
        let all: Vec<u8> = answer.responses.into_iter().flat_map(|entry| entry.data).collect();
        assert!(all == data, "blobs of {size} bytes");
    }
    let mut requests: Vec<_> = data.chunks(1024 * 1024).map(plain).collect();
    let mut digests: Vec<_> = data.chunks(1024 * 1024).map(wire).collect();
    requests.push(plain(b"x"));
    digests.push(wire(b"x"));
    assert_eq!(code(update(&server, requests).await), Code::InvalidArgument);
    assert_eq!(code(read(&server, digests, vec![]).await), Code::InvalidArgument);
    let huge = Update { digest: Some(reapi::Digest { size_bytes: i64::MAX, ..wire(b"") }), ..plain(b"") };
    let huge = Update { compressor: ZSTD, ..huge };
    assert_eq!(code(update(&server, vec![huge.clone(), huge]).await), Code::InvalidArgument);
    assert_eq!(code(read(&server, vec![wire(b""); 100_000], vec![]).await), Code::InvalidArgument);
}

#[tokio::test]
async fn each_blob_asked_for_has_an_entry() {
    let server = TestServer::start().await;
    let data = blob(6, 2000);
    server.cas.insert(SHA256, data.clone());
    let bad = reapi::Digest { hash: "zz".into(), size_bytes: 3 };
    let asked = vec![wire(&data), wire(b"absent"), wire(b""), bad, wire(&data)];
    let answer = read(&server, asked.clone(), vec![]).await.unwrap();
    assert_eq!(answer.responses.len(), 5);
    for (entry, asked) in answer.responses.iter().zip(asked) {
        assert_eq!(entry.digest, Some(asked));
        assert_eq!(entry.compressor, 0);
    }
    let codes: Vec<_> = answer.responses.iter().map(|entry| entry.status.as_ref().unwrap().code).collect();
    assert_eq!(codes, [0, Code::NotFound as i32, 0, Code::InvalidArgument as i32, 0]);
    assert_eq!(answer.responses[0].data, data);
    assert!(answer.responses[1].data.is_empty());
}

#[tokio::test]
async fn answers_are_compressed_only_when_asked_and_worth_it() {
    let server = TestServer::start().await;
    let soft = vec![3; 400_000];
    let hard = blob(7, 400_000);
    let digests: Vec<_> =
        [&soft, &hard].map(|data| server.cas.insert(SHA256, data.clone()).to_wire()).to_vec();
    let answer = read(&server, digests, vec![ZSTD, 2]).await.unwrap().responses;
    assert_eq!(answer[0].compressor, ZSTD);
    assert_eq!(decompress(answer[0].data.clone().into(), 400_000).unwrap(), soft);
    let entry = &answer[1];
    let data = match entry.compressor {
        0 => entry.data.clone(),
        _ => decompress(entry.data.clone().into(), 400_000).unwrap().into(),
    };
    assert!(data == hard && entry.data.len() <= hard.len());
}

#[tokio::test]
async fn a_message_that_does_not_decode_is_the_clients_fault() {
    let server = TestServer::start().await;
    let mut grpc = tonic::client::Grpc::new(server.channel());
    grpc.ready().await.unwrap();
    let path = http::uri::PathAndQuery::from_static(
        "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs",
    );
    let codec = tonic_prost::ProstCodec::<farmhand_proto::bytestream::ReadRequest, ()>::default();
    // Field 2 is a number here and a message there.
    let request = farmhand_proto::bytestream::ReadRequest { read_offset: 7, ..Default::default() };
    let result = grpc.unary(Request::new(request), path, codec).await;
    assert_eq!(code(result), Code::InvalidArgument);
}

fn directory(names: &[(&str, &reapi::Directory)]) -> reapi::Directory {
    let directories = names
        .iter()
        .map(|(name, child)| reapi::DirectoryNode {
            name: (*name).to_owned(),
            digest: Some(wire(&child.encode_to_vec())),
        })
        .collect();
    reapi::Directory { directories, ..Default::default() }
}

fn file(name: &str) -> reapi::Directory {
    let node = reapi::FileNode { name: name.into(), digest: Some(wire(b"f")), ..Default::default() };
    reapi::Directory { files: vec![node], ..Default::default() }
}

/// Stores all of `directories`; gives the digest of the last.
fn store(server: &TestServer, directories: &[&reapi::Directory]) -> reapi::Digest {
    let mut root = reapi::Digest::default();
    for directory in directories {
        root = server.cas.insert(SHA256, directory.encode_to_vec()).to_wire();
    }
    root
}

async fn pages(
    server: &TestServer,
    root: &reapi::Digest,
    page_size: i32,
    page_token: &str,
) -> Result<Vec<reapi::GetTreeResponse>, Status> {
    let request = reapi::GetTreeRequest {
        root_digest: Some(root.clone()),
        page_size,
        page_token: page_token.to_owned(),
        ..Default::default()
    };
    let mut stream = server.cas().get_tree(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(page) = stream.message().await? {
        all.push(page);
    }
    Ok(all)
}

#[tokio::test]
async fn a_tree_is_listed_once_however_many_paths_lead_there() {
    let server = TestServer::start().await;
    let mut levels = vec![file("leaf")];
    for _ in 0..20 {
        let below = levels.last().unwrap();
        levels.push(directory(&[("a", below), ("b", below)]));
    }
    let root = store(&server, &levels.iter().collect::<Vec<_>>());
    let pages = pages(&server, &root, 0, "").await.unwrap();
    let listed: Vec<_> = pages.iter().flat_map(|page| page.directories.clone()).collect();
    levels.reverse();
    assert_eq!(listed, levels);
    assert_eq!(pages.last().unwrap().next_page_token, "");
}

#[tokio::test]
async fn pages_can_be_taken_up_anywhere() {
    let server = TestServer::start().await;
    let (x, y, z) = (file("x"), file("y"), file("z"));
    let sub = directory(&[("x", &x), ("y", &y)]);
    let top = directory(&[("sub", &sub), ("z", &z), ("empty", &reapi::Directory::default())]);
    let root = store(&server, &[&x, &y, &z, &sub, &top]);
    let all = pages(&server, &root, 1, "").await.unwrap();
    assert!(all.iter().all(|page| page.directories.len() == 1));
    assert_eq!(all.len(), 6);
    for (i, page) in all.iter().enumerate() {
        assert_eq!(page.next_page_token.is_empty(), i == 5);
        if i < 5 {
            let rest = pages(&server, &root, 4, &page.next_page_token).await.unwrap();
            let rest: Vec<_> = rest.into_iter().flat_map(|page| page.directories).collect();
            let expected: Vec<_> = all[i + 1..].iter().flat_map(|page| page.directories.clone()).collect();
            assert_eq!(rest, expected);
        }
    }
    let foreign = format!("{}-1", "ab".repeat(32));
    for token in ["nonsense", "zz-1", foreign.as_str()] {
        assert_eq!(code(pages(&server, &root, 1, token).await), Code::InvalidArgument, "{token}");
    }
    assert_eq!(code(pages(&server, &root, -1, "").await), Code::InvalidArgument);
}

#[tokio::test]
async fn absent_parts_of_a_tree() {
    let server = TestServer::start().await;
    let (x, y) = (file("x"), file("y"));
    let top = directory(&[("x", &x), ("y", &y)]);
    assert_eq!(code(pages(&server, &wire(&top.encode_to_vec()), 0, "").await), Code::NotFound);
    let root = store(&server, &[&y, &top]);
    let pages_of = pages(&server, &root, 0, "").await.unwrap();
    assert_eq!(pages_of[0].directories, [top, y]);
    let empty = pages(&server, &wire(b""), 0, "").await.unwrap();
    assert_eq!(empty[0].directories, [reapi::Directory::default()]);
    let rubbish = server.cas.insert(SHA256, "\u{7f}rubbish").to_wire();
    assert_eq!(code(pages(&server, &rubbish, 0, "").await), Code::InvalidArgument);
}

#[tokio::test]
async fn large_trees_come_in_messages_below_four_megabytes() {
    let server = TestServer::start().await;
    let big: Vec<_> = (0..12).map(|i| file(&format!("{i}{}", "n".repeat(900_000)))).collect();
    let names: Vec<_> = (0..12).map(|i| format!("d{i}")).collect();
    let top = directory(&names.iter().map(String::as_str).zip(&big).collect::<Vec<_>>());
    let mut all: Vec<_> = big.iter().collect();
    all.push(&top);
    let root = store(&server, &all);
    let pages = pages(&server, &root, 0, "").await.unwrap();
    assert!(pages.iter().all(|page| page.encoded_len() <= MAX_SENT_MESSAGE));
    assert_eq!(pages.iter().map(|page| page.directories.len()).sum::<usize>(), 13);
}

#[tokio::test]
async fn the_bytes_of_batches_are_counted() {
    let server = TestServer::start().await;
    let data = blob(7, 5000);
    update(&server, vec![plain(&data)]).await.unwrap();
    read(&server, vec![wire(&data), wire(&data)], Vec::new()).await.unwrap();
    server.activity.second(Gauges::default());
    let builds = server.activity.follow(None, 0).unwrap().read().builds;
    assert_eq!((builds[0].uploaded_bytes, builds[0].downloaded_bytes), (5000, 10_000));
}
