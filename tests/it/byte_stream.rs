//! BS: ByteStream reads, writes in every shape clients send, and their resumption.

use farmhand_proto::bytestream::{QueryWriteStatusRequest, WriteRequest};
use futures_util::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::support::client::write_requests;
use crate::support::{Client, Node, random_bytes};

async fn query(client: &Client, resource_name: &str) -> (i64, bool) {
    let request = QueryWriteStatusRequest { resource_name: resource_name.into() };
    let status = client.byte_stream().query_write_status(request).await.unwrap().into_inner();
    (status.committed_size, status.complete)
}

fn message(name: &str, write_offset: usize, data: &[u8], finish_write: bool) -> WriteRequest {
    WriteRequest {
        resource_name: name.into(),
        write_offset: write_offset as i64,
        finish_write,
        data: data.to_vec(),
    }
}

#[tokio::test]
async fn valid_read_names() {
    let node = Node::start();
    let client = node.client().await;
    let digest = client.put(b"names").await;
    let tail = format!("{}/5", digest.hash_hex());
    for name in [
        format!("blobs/{tail}"),
        format!("a/blobs/{tail}"),
        format!("a/b/c/blobs/{tail}"),
        format!("blobs/sha256/{tail}"),
        format!("a/blobs/sha256/{tail}"),
    ] {
        assert_eq!(client.read_named(name.clone(), 0, 0).await.unwrap(), b"names", "{name}");
    }
}

#[tokio::test]
async fn valid_write_names_with_trailing_metadata() {
    let node = Node::start();
    let client = node.client().await;
    for (i, (front, back)) in [
        ("uploads/u/blobs", ""),
        ("uploads/u/blobs", "/foo/bar.o"),
        ("a/b/uploads/u/blobs", "/x"),
        ("uploads/not-even-a-uuid/blobs/sha256", "/a b/ü"),
    ]
    .into_iter()
    .enumerate()
    {
        let data = format!("write name {i}");
        let digest = client.digest(data.as_bytes());
        let name = format!("{front}/{}/{}{back}", digest.hash_hex(), digest.size());
        assert_eq!(client.write_named(name, data.as_bytes()).await.unwrap(), data.len() as i64);
        assert!(client.has(&digest).await);
    }
}

#[tokio::test]
async fn malformed_names_are_invalid() {
    let node = Node::start();
    let client = node.client().await;
    let hash = client.digest(b"x").hash_hex();
    let names = [
        String::new(),
        "blobs".into(),
        format!("blobs/{hash}"),
        format!("blobs/{hash}/x1"),
        format!("blobs/{hash}/-1"),
        format!("blobs/{hash}/99999999999999999999999"),
        format!("blobs/frob/{hash}/1"),
        format!("blobs/md5/{hash}/1"),
        format!("blobs/{hash}/1/extra"),
        format!("/blobs/{hash}/1"),
        format!("a//blobs/{hash}/1"),
        format!("actions/blobs/{hash}/1"),
        format!("compressed-blobs/identity/{hash}/1"),
        format!("compressed-blobs/lzma/{hash}/1"),
        format!("compressed-blobs/{hash}/1"),
    ];
    for name in &names {
        let status = client.read_named(name.clone(), 0, 0).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "read {name:?}: {status}");
    }
    let uploads = names.iter().skip(1).map(|name| format!("uploads/u/{name}"));
    for name in uploads.chain([format!("uploads/blobs/{hash}/1"), format!("blobs/{hash}/1")]) {
        if name.ends_with("/extra") {
            continue; // Trailing segments of an upload are metadata.
        }
        let status = client.write_named(name.clone(), b"x").await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "write {name:?}: {status}");
    }
}

#[tokio::test]
async fn random_names_never_crash_the_node() {
    let node = Node::start();
    let client = node.client().await;
    let hash = client.digest(b"x").hash_hex();
    let parts = [
        "blobs",
        "uploads",
        "compressed-blobs",
        "zstd",
        "sha256",
        "u",
        "",
        "1",
        "-",
        "..",
        "\u{1F980}",
        &hash,
    ];
    for seed in 0..300_u64 {
        let picks = random_bytes(seed, 1 + (seed % 9) as usize);
        let name: Vec<_> = picks.iter().map(|pick| parts[*pick as usize % parts.len()]).collect();
        let code =
            client.read_named(name.join("/"), 0, 0).await.err().map_or(Code::Ok, |status| status.code());
        assert!(matches!(code, Code::InvalidArgument | Code::NotFound | Code::Ok), "{name:?}: {code:?}");
    }
    assert!(client.get_capabilities().await.is_ok());
}

#[tokio::test]
async fn an_absent_blob_is_not_found() {
    let node = Node::start();
    let client = node.client().await;
    for data in [&b"never uploaded"[..], &random_bytes(1, 1_000_000)] {
        assert_eq!(client.read(&client.digest(data)).await.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn offsets_and_limits() {
    let node = Node::start();
    let client = node.client().await;
    for len in [1000_usize, 1_500_000] {
        let data = random_bytes(2 + len as u64, len);
        let digest = client.put(&data).await;
        let read = |offset: i64, limit: i64| client.read_named(client.read_name(&digest), offset, limit);
        let n = len as i64;
        assert_eq!(read(0, 1).await.unwrap(), data[..1]);
        assert_eq!(read(n, 0).await.unwrap(), b"");
        assert_eq!(read(n - 1, 0).await.unwrap(), data[len - 1..]);
        assert_eq!(read(0, n + 5).await.unwrap(), data);
        assert_eq!(read(500, 100).await.unwrap(), data[500..600]);
        for offset in [-1, n + 1] {
            assert_eq!(read(offset, 0).await.unwrap_err().code(), Code::OutOfRange, "{offset}");
        }
        assert_eq!(read(0, -1).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn reads_resume_anywhere_and_have_no_empty_messages() {
    let node = Node::start();
    let client = node.client().await;
    let data = random_bytes(3, 2_000_003);
    let digest = client.put(&data).await;
    for cut in [1, 65_536, 999_999, 2_000_002] {
        let head = client.read_named(client.read_name(&digest), 0, cut as i64).await.unwrap();
        let tail = client.read_named(client.read_name(&digest), cut as i64, 0).await.unwrap();
        assert_eq!([head, tail].concat(), data);
    }
    let request = farmhand_proto::bytestream::ReadRequest {
        resource_name: client.read_name(&digest),
        read_offset: 0,
        read_limit: 0,
    };
    let stream = client.byte_stream().read(request).await.unwrap().into_inner();
    let sizes: Vec<_> = stream.map(|message| message.unwrap().data.len()).collect().await;
    let (last, full) = sizes.split_last().unwrap();
    assert!(full.iter().all(|size| (64 * 1024..=1024 * 1024).contains(size)), "{sizes:?}");
    assert!((1..=1024 * 1024).contains(last), "{sizes:?}");
}

/// Finish on the last data (Bazel), in a message of its own (Siso), and a first without data (recc).
#[tokio::test]
async fn three_shapes_of_an_upload() {
    let node = Node::start();
    let client = node.client().await;
    for (i, len) in [1000_usize, 600_000].into_iter().enumerate() {
        for shape in 0..4 {
            let data = random_bytes((10 * i + shape) as u64, len);
            let digest = client.digest(&data);
            let name = client.write_name(&digest);
            let half = len / 2;
            let messages = match shape {
                0 => vec![message(&name, 0, &data[..half], false), message("", half, &data[half..], true)],
                1 => vec![message(&name, 0, &data, false), message("", len, b"", true)],
                2 => vec![message(&name, 0, b"", false), message(&name, 0, &data, true)],
                _ => vec![
                    message(&name, 0, &data[..half], false),
                    message(&name, half, b"", false),
                    message(&name, half, &data[half..], true),
                ],
            };
            assert_eq!(client.write_messages(messages).await.unwrap(), len as i64, "shape {shape}");
            assert_eq!(client.read(&digest).await.unwrap(), data);
        }
    }
}

#[tokio::test]
async fn a_differing_later_name_and_a_gap_are_invalid() {
    let node = Node::start();
    let client = node.client().await;
    let data = random_bytes(20, 1000);
    let digest = client.digest(&data);
    let name = client.write_name(&digest);
    let other = client.write_name(&digest);
    let code = |messages| async { client.write_messages(messages).await.unwrap_err().code() };
    let differing = vec![message(&name, 0, &data[..500], false), message(&other, 500, &data[500..], true)];
    assert_eq!(code(differing).await, Code::InvalidArgument);
    for messages in [
        vec![message(&client.write_name(&digest), 5, &data[5..], true)],
        vec![
            message(&client.write_name(&digest), 0, &data[..500], false),
            message("", 600, &data[600..], true),
        ],
        vec![
            message(&client.write_name(&digest), 0, &data[..500], false),
            message("", 400, &data[400..], true),
        ],
        vec![
            message(&client.write_name(&digest), 0, &data[..500], false),
            message("", -1_i64 as usize, b"x", true),
        ],
    ] {
        assert!(matches!(code(messages).await, Code::InvalidArgument | Code::OutOfRange));
    }
    assert!(!client.has(&digest).await);
}

#[tokio::test]
async fn a_message_after_the_last_is_an_error() {
    let node = Node::start();
    let client = node.client().await;
    let data = random_bytes(21, 1000);
    let digest = client.digest(&data);
    let name = client.write_name(&digest);
    let messages = vec![message(&name, 0, &data, true), message(&name, 1000, b"more", false)];
    assert_eq!(client.write_messages(messages).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_cut_upload_continues_where_it_stopped() {
    let node = Node::start();
    let client = node.client().await;
    for len in [1000_usize, 900_000] {
        let data = random_bytes(22 + len as u64, len);
        let digest = client.digest(&data);
        let name = client.write_name(&digest);
        assert_eq!(query(&client, &name).await, (0, false), "unknown uploads are at zero");
        let half = len / 2;
        let committed = client.write_messages(vec![message(&name, 0, &data[..half], false)]).await.unwrap();
        assert_eq!(committed, half as i64);
        assert!(!client.has(&digest).await);
        assert_eq!(query(&client, &name).await, (half as i64, false));
        let rest = vec![message(&name, half, &data[half..], true)];
        assert_eq!(client.write_messages(rest).await.unwrap(), len as i64);
        assert_eq!(query(&client, &name).await, (len as i64, true));
        assert_eq!(client.read(&digest).await.unwrap(), data);
    }
    // Or it begins anew.
    let data = random_bytes(24, 900_000);
    let digest = client.digest(&data);
    let name = client.write_name(&digest);
    client.write_messages(vec![message(&name, 0, &data[..100_000], false)]).await.unwrap();
    assert_eq!(client.write_messages(write_requests(name, &data)).await.unwrap(), 900_000);
    assert_eq!(client.read(&digest).await.unwrap(), data);
}

#[tokio::test]
async fn committed_size_is_the_full_size() {
    let node = Node::start();
    let client = node.client().await;
    for len in [1, 1 << 20, 64 << 20] {
        let data = random_bytes(25 + len as u64, len);
        assert_eq!(client.write(&client.digest(&data), &data).await.unwrap(), len as i64);
    }
}

/// The client of this test ignores answers until it has sent everything, as simple clients do.
#[tokio::test]
async fn a_present_blob_is_answered_early_and_without_a_broken_stream() {
    let node = Node::start();
    let client = node.client().await;
    let data = random_bytes(26, 100 << 20);
    let digest = client.digest(&data);
    client.write(&digest, &data).await.unwrap();
    assert_eq!(client.write(&digest, &data).await.unwrap(), data.len() as i64, "everything is sent again");

    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let name = client.write_name(&digest);
    sender.send(message(&name, 0, &data[..1 << 20], false)).await.unwrap();
    let committed = client.byte_stream().write(ReceiverStream::new(receiver)).await.unwrap();
    assert_eq!(committed.into_inner().committed_size, data.len() as i64, "answered before all was sent");
    drop(sender);
}

#[tokio::test]
async fn wrong_bytes_short_and_long_are_invalid() {
    let node = Node::start();
    let client = node.client().await;
    for len in [1000_usize, 500_000] {
        let data = random_bytes(27 + len as u64, len);
        let digest = client.digest(&data);
        let mut wrong = data.clone();
        wrong[len / 2] ^= 1;
        for bad in [&wrong[..], &data[..len - 1], &[&data[..], b"x"].concat()] {
            let status = client.write(&digest, bad).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
            assert!(!client.has(&digest).await);
        }
        assert_eq!(client.write(&digest, &data).await.unwrap(), len as i64);
    }
}

#[tokio::test]
async fn query_of_a_present_blob_is_complete() {
    let node = Node::start();
    let client = node.client().await;
    let digest = client.put(b"present").await;
    assert_eq!(query(&client, &client.write_name(&digest)).await, (7, true));
    let status = client
        .byte_stream()
        .query_write_status(QueryWriteStatusRequest { resource_name: "nonsense".into() })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn one_message_as_large_as_a_batch() {
    let node = Node::start();
    let client = node.client().await;
    let cache = client.get_capabilities().await.unwrap().cache_capabilities.unwrap();
    let len = usize::try_from(cache.max_batch_total_size_bytes).unwrap().max(4_000_000);
    let data = random_bytes(28, len);
    let digest = client.digest(&data);
    let name = client.write_name(&digest);
    assert_eq!(client.write_messages(vec![message(&name, 0, &data, true)]).await.unwrap(), len as i64);
}

#[tokio::test]
async fn the_empty_blob_shared_uuids_and_the_extra_header() {
    let node = Node::start();
    let client = node.client().await;
    let empty = client.digest(b"");
    assert_eq!(client.write(&empty, b"").await.unwrap(), 0);
    let no_finish = vec![message(&client.write_name(&empty), 0, b"", false)];
    assert_eq!(client.write_messages(no_finish).await.unwrap(), 0, "recc sends no finish_write");
    let mut digests = Vec::new();
    for data in [&b"first"[..], b"second"] {
        let digest = client.digest(data);
        let name = format!("uploads/same-uuid/blobs/{}/{}", digest.hash_hex(), digest.size());
        let mut request = tonic::Request::new(tokio_stream::iter(write_requests(name.clone(), data)));
        let header = "build.bazel.remote.execution.v2.resource-name";
        request.metadata_mut().insert(header, name.parse().unwrap());
        let written = client.byte_stream().write(request).await.unwrap().into_inner();
        assert_eq!(written.committed_size, data.len() as i64);
        digests.push(digest);
    }
    assert!(client.find_missing(&digests).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_write_without_any_message_is_invalid() {
    let node = Node::start();
    let client = node.client().await;
    assert_eq!(client.write_messages(vec![]).await.unwrap_err().code(), Code::InvalidArgument);
}
