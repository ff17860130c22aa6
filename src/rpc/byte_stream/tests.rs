use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use farmhand_proto::bytestream::{QueryWriteStatusRequest, ReadRequest, WriteRequest};
use farmhand_proto::reapi;
use futures_util::{Stream, StreamExt, stream};
use prost::Message;
use tokio::sync::Notify;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};

use super::*;
use crate::activity::Gauges;
use crate::cas::compression::{compress, decompress};
use crate::digest::DigestFunction;
use crate::rpc::testing::{TestServer, blob};
use crate::rpc::{InstanceSettings, InstancesConfig};

const SHA256: DigestFunction = DigestFunction::Sha256;
const HASH_OF_NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn upload_name(digest: &Digest) -> String {
    format!("uploads/00000000-0000-4000-8000-000000000000/blobs/{digest}")
}

fn zstd_name(digest: &Digest) -> String {
    format!("uploads/u/compressed-blobs/zstd/{digest}")
}

fn message(name: &str, offset: usize, data: &[u8], finish_write: bool) -> WriteRequest {
    let (resource_name, data) = (name.to_owned(), data.to_vec());
    WriteRequest { resource_name, write_offset: offset as i64, finish_write, data }
}

/// Contiguous messages of `piece` bytes, the name in the first only.
fn messages(name: &str, data: &[u8], piece: usize) -> Vec<WriteRequest> {
    let last = data.len().div_ceil(piece).max(1) - 1;
    let piece_of = |i: usize| &data[i * piece..data.len().min((i + 1) * piece)];
    (0..=last).map(|i| message(if i == 0 { name } else { "" }, i * piece, piece_of(i), i == last)).collect()
}

async fn write(server: &TestServer, messages: Vec<WriteRequest>) -> Result<i64, Status> {
    let answer = server.byte_stream().write(stream::iter(messages)).await?;
    Ok(answer.into_inner().committed_size)
}

async fn read_pieces(
    server: &TestServer,
    name: &str,
    read_offset: i64,
    read_limit: i64,
) -> Result<Vec<Vec<u8>>, Status> {
    let request = ReadRequest { resource_name: name.to_owned(), read_offset, read_limit };
    let mut pieces = server.byte_stream().read(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(piece) = pieces.message().await? {
        all.push(piece.data);
    }
    Ok(all)
}

async fn read(server: &TestServer, name: &str, offset: i64, limit: i64) -> Result<Vec<u8>, Status> {
    Ok(read_pieces(server, name, offset, limit).await?.concat())
}

async fn query(server: &TestServer, name: &str) -> (i64, bool) {
    let request = QueryWriteStatusRequest { resource_name: name.to_owned() };
    let status = server.byte_stream().query_write_status(request).await.unwrap().into_inner();
    (status.committed_size, status.complete)
}

fn code<T: std::fmt::Debug>(result: Result<T, Status>) -> Code {
    result.unwrap_err().code()
}

#[tokio::test]
async fn blobs_of_any_size_in_every_instance_and_function() {
    let server = TestServer::start().await;
    let mut seed = 0;
    for prefix in ["", "a/", "projects/p/instances/i/"] {
        for function in DigestFunction::ALL {
            for len in [1, 1000, 64 * 1024, 64 * 1024 + 1, 3_000_000] {
                seed += 1;
                let data = blob(seed, len);
                let digest = Digest::of(function, &data);
                let name = format!("{prefix}{}/foo/bar.o", upload_name(&digest));
                assert_eq!(write(&server, messages(&name, &data, 500_000)).await.unwrap(), len as i64);
                let pieces = read_pieces(&server, &format!("{prefix}blobs/{digest}"), 0, 0).await.unwrap();
                assert!(pieces.iter().all(|piece| !piece.is_empty() && piece.len() <= 1024 * 1024));
                assert_eq!(pieces.concat(), data);
            }
        }
    }
}

#[tokio::test]
async fn the_default_function_of_an_instance_is_used() {
    let settings = InstanceSettings { digest_function: DigestFunction::Blake3, ..Default::default() };
    let server = TestServer::with_instance("b3", settings).await;
    let data = blob(1, 100);
    let digest = Digest::of(DigestFunction::Blake3, &data);
    let bare = format!("{}/{}", digest.hash_hex(), digest.size());
    let name = format!("b3/uploads/u/blobs/{bare}");
    assert_eq!(write(&server, messages(&name, &data, 50)).await.unwrap(), 100);
    assert_eq!(read(&server, &format!("b3/blobs/{bare}"), 0, 0).await.unwrap(), data);
    assert_eq!(code(read(&server, &format!("b3/blobs/sha256/{bare}"), 0, 0).await), Code::NotFound);
    let unknown = read(&server, &format!("other/blobs/{bare}"), 0, 0).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert!(unknown.message().contains("other"), "{unknown}");
    assert_eq!(code(write(&server, messages(&format!("other/{name}"), &data, 50)).await), Code::NotFound);
}

#[tokio::test]
async fn offsets_and_limits() {
    let server = TestServer::start().await;
    let data = blob(2, 700_000);
    let name = format!("blobs/{}", server.cas.insert(SHA256, data.clone()));
    let len = data.len() as i64;
    for (offset, limit) in [(0, 0), (0, 1), (1, 0), (300_000, 5), (len - 1, 9), (0, len + 5), (len, 0)] {
        let end = if limit == 0 { len } else { len.min(offset + limit) };
        let expected = &data[offset as usize..end as usize];
        assert_eq!(read(&server, &name, offset, limit).await.unwrap(), expected, "{offset} {limit}");
    }
    assert_eq!(code(read(&server, &name, -1, 0).await), Code::OutOfRange);
    assert_eq!(code(read(&server, &name, len + 1, 0).await), Code::OutOfRange);
    assert_eq!(code(read(&server, &name, 0, -1).await), Code::InvalidArgument);
    assert_eq!(code(read(&server, &format!("blobs/{HASH_OF_NOTHING}/9"), 0, 0).await), Code::NotFound);
    let longer = format!("{}1", name);
    assert_eq!(code(read(&server, &longer, 0, 0).await), Code::NotFound, "size is part of the name");
    assert_eq!(code(read(&server, "blobs/rubbish", 0, 0).await), Code::InvalidArgument);
}

#[tokio::test]
async fn compressed_reads_count_offsets_uncompressed() {
    let server = TestServer::start().await;
    let mut data = blob(3, 600_000);
    data.extend(vec![5; 600_000]);
    let digest = server.cas.insert(SHA256, data.clone());
    let name = format!("compressed-blobs/zstd/{digest}");
    for offset in [0, 1, 599_999, data.len()] {
        let compressed = read(&server, &name, offset as i64, 0).await.unwrap();
        let rest = (data.len() - offset) as u64;
        assert_eq!(decompress(compressed.into(), rest).unwrap(), data[offset..], "{offset}");
    }
    assert!(read(&server, &name, 0, 0).await.unwrap().len() < 700_000);
    assert_eq!(code(read(&server, &name, 0, 10).await), Code::InvalidArgument);
    let identity = format!("compressed-blobs/identity/{digest}");
    assert_eq!(code(read(&server, &identity, 0, 0).await), Code::InvalidArgument);
}

/// Cuts the data of an upload into messages.
type Shape = fn(&str, &[u8]) -> Vec<WriteRequest>;

#[tokio::test]
async fn every_shape_of_an_upload() {
    let server = TestServer::start().await;
    let shapes: [Shape; 6] = [
        |name, data| messages(name, data, 1_000_000),
        |name, data| vec![message(name, 0, data, false), message("", data.len(), b"", true)],
        |name, data| vec![message(name, 0, b"", false), message("", 0, data, true)],
        |name, data| {
            vec![
                message(name, 0, b"", false),
                message(name, 0, data, false),
                message(name, data.len(), b"", true),
            ]
        },
        |name, data| {
            let all = messages(name, data, 1000);
            all.into_iter().map(|m| WriteRequest { resource_name: name.to_owned(), ..m }).collect()
        },
        |name, data| {
            let keepalive = |m: WriteRequest| {
                let empty = message("", m.write_offset as usize, b"", false);
                if m.write_offset == 0 { vec![m] } else { vec![empty, m] }
            };
            messages(name, data, 10_000).into_iter().flat_map(keepalive).collect()
        },
    ];
    for (i, shape) in shapes.into_iter().enumerate() {
        for len in [100, 200_000] {
            let data = blob(100 + i as u64, len);
            let digest = Digest::of(SHA256, &data);
            let committed = write(&server, shape(&upload_name(&digest), &data)).await;
            assert_eq!(committed.unwrap(), len as i64, "shape {i}");
            assert_eq!(server.cas.get(&digest).await.unwrap(), data);
        }
    }
}

#[tokio::test]
async fn a_message_of_four_megabytes_is_taken() {
    let server = TestServer::start().await;
    let data = blob(4, 4_100_000);
    let digest = Digest::of(SHA256, &data);
    assert_eq!(write(&server, messages(&upload_name(&digest), &data, 5_000_000)).await.unwrap(), 4_100_000);
}

#[tokio::test]
async fn the_empty_blob_needs_no_data() {
    let server = TestServer::start().await;
    for function in DigestFunction::ALL {
        let digest = Digest::empty(function);
        let name = upload_name(&digest);
        assert_eq!(write(&server, vec![message(&name, 0, b"", true)]).await.unwrap(), 0);
        assert_eq!(write(&server, vec![message(&name, 0, b"", false)]).await.unwrap(), 0);
        assert_eq!(query(&server, &name).await, (0, true));
        assert!(read(&server, &format!("blobs/{digest}"), 0, 0).await.unwrap().is_empty());
        let compressed = read(&server, &format!("compressed-blobs/zstd/{digest}"), 0, 0).await.unwrap();
        assert!(decompress(compressed.into(), 0).unwrap().is_empty());
    }
}

#[tokio::test]
async fn broken_sequences_are_refused_and_store_nothing() {
    let server = TestServer::start().await;
    let data = blob(5, 200_000);
    let digest = Digest::of(SHA256, &data);
    let name = upload_name(&digest);
    let (head, tail) = data.split_at(100_000);
    let other = upload_name(&Digest::of(SHA256, b"other"));
    for (why, messages) in [
        ("starts late", vec![message(&name, 5, &data[5..], true)]),
        ("negative", vec![WriteRequest { write_offset: -1, ..message(&name, 0, &data, true) }]),
        ("gap", vec![message(&name, 0, head, false), message("", 100_001, tail, true)]),
        ("overlap", vec![message(&name, 0, head, false), message("", 99_999, tail, true)]),
        ("renamed", vec![message(&name, 0, head, false), message(&other, 100_000, tail, true)]),
        ("after the end", vec![message(&name, 0, &data, true), message("", 200_000, b"", false)]),
        ("no name", vec![message("", 0, &data, true)]),
        ("a read name", vec![message(&format!("blobs/{digest}"), 0, &data, true)]),
        ("no message", vec![]),
        ("too long", vec![message(&name, 0, &data, false), message("", 200_000, b"x", true)]),
        ("too short", vec![message(&name, 0, head, true)]),
        ("wrong bytes", vec![message(&name, 0, &blob(6, 200_000), true)]),
    ] {
        assert_eq!(code(write(&server, messages).await), Code::InvalidArgument, "{why}");
        assert!(server.cas.get(&digest).await.is_err(), "{why}");
    }
}

#[tokio::test]
async fn an_interrupted_upload_can_go_on() {
    let server = TestServer::start().await;
    let data = blob(7, 300_000);
    let digest = Digest::of(SHA256, &data);
    let name = upload_name(&digest);
    assert_eq!(query(&server, &name).await, (0, false));
    assert_eq!(write(&server, vec![message(&name, 0, &data[..120_000], false)]).await.unwrap(), 120_000);
    assert_eq!(query(&server, &name).await, (120_000, false));
    assert!(server.cas.get(&digest).await.is_err());
    let wrong = write(&server, vec![message(&name, 7, &data[7..], true)]).await;
    assert_eq!(code(wrong), Code::InvalidArgument);
    let rest = vec![message(&name, 120_000, &data[120_000..], false), message("", 300_000, b"", true)];
    assert_eq!(write(&server, rest).await.unwrap(), 300_000);
    assert_eq!(query(&server, &name).await, (300_000, true));
    assert_eq!(server.cas.get(&digest).await.unwrap(), data);
}

#[tokio::test]
async fn an_upload_cut_off_by_the_client_is_kept() {
    let server = TestServer::start().await;
    let data = blob(8, 300_000);
    let digest = Digest::of(SHA256, &data);
    let name = upload_name(&digest);
    let first = message(&name, 0, &data[..200_000], false);
    let mut client = server.byte_stream();
    let call = client.write(stream::iter([first]).chain(stream::pending()));
    let watch = async {
        while query(&server, &name).await != (200_000, false) {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        answer = call => panic!("answered before the end: {answer:?}"),
        () = watch => {}
    }
    let rest = message(&name, 200_000, &data[200_000..], true);
    let committed = loop {
        match write(&server, vec![rest.clone()]).await {
            // The server has not seen yet that the first call is gone.
            Err(status) if status.code() == Code::Aborted => tokio::task::yield_now().await,
            other => break other,
        }
    };
    assert_eq!(committed.unwrap(), 300_000);
    assert_eq!(server.cas.get(&digest).await.unwrap(), data);
}

#[tokio::test]
async fn idle_uploads_are_dropped() {
    let settings = ByteStreamSettings { idle: Duration::from_millis(50), ..Default::default() };
    let server = TestServer::with(InstancesConfig::default(), settings).await;
    let name = upload_name(&Digest::of(SHA256, &blob(9, 1000)));
    let first = message(&name, 0, &blob(9, 1000)[..10], false);
    let answer = server.byte_stream().write(stream::iter([first]).chain(stream::pending())).await;
    assert_eq!(code(answer), Code::DeadlineExceeded);
    while query(&server, &name).await.0 != 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Messages that count themselves; `sent` fires when the last has been taken.
fn counted(
    name: String,
    data: Bytes,
    piece: usize,
    sent: Arc<Notify>,
    count: Arc<AtomicUsize>,
) -> impl Stream<Item = WriteRequest> {
    let pieces = data.len().div_ceil(piece);
    stream::unfold(0, move |i| {
        let message = (i < pieces).then(|| {
            count.fetch_add(1, Ordering::Relaxed);
            let end = data.len().min((i + 1) * piece);
            message(&name, i * piece, &data[i * piece..end], end == data.len())
        });
        if message.is_none() {
            sent.notify_one();
        }
        std::future::ready(message.map(|message| (message, i + 1)))
    })
}

#[tokio::test]
async fn a_present_blob_is_answered_early_and_the_rest_is_read() {
    let server = TestServer::start().await;
    let small = server.cas.insert(SHA256, blob(10, 100_000));
    let first = message(&upload_name(&small), 0, &blob(10, 1000), false);
    let answer = server.byte_stream().write(stream::iter([first]).chain(stream::pending())).await.unwrap();
    assert_eq!(answer.into_inner().committed_size, 100_000, "answered although the client never ends");

    let data: Bytes = blob(11, 40_000_000).into();
    let digest = server.cas.insert(SHA256, data.clone());
    let (sent, count) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let messages = counted(upload_name(&digest), data, 100_000, Arc::clone(&sent), Arc::clone(&count));
    let answer = server.byte_stream().write(messages).await.unwrap();
    assert_eq!(answer.into_inner().committed_size, 40_000_000);
    // A client that goes on is neither reset nor held up: 40 MB are more than all windows together.
    sent.notified().await;
    assert_eq!(count.load(Ordering::Relaxed), 400);
}

#[tokio::test]
async fn a_client_that_sends_all_before_it_reads_sees_a_refusal() {
    let server = TestServer::start().await;
    let data: Bytes = blob(11, 30_000_000).into();
    let digest = Digest::of(SHA256, &data[..100_000]);
    let (sent, count) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let messages = counted(upload_name(&digest), data, 100_000, Arc::clone(&sent), Arc::clone(&count));
    let status = server.byte_stream().write(messages).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    sent.notified().await;
}

#[tokio::test]
async fn parallel_uploads_in_every_form_succeed() {
    let server = TestServer::start().await;
    let data = blob(12, 2_000_000);
    let digest = Digest::of(SHA256, &data);
    let compressed = compress(&data).unwrap();
    let uploads = (0..32).map(|i| {
        let (server, data, compressed) = (&server, &data, &compressed);
        async move {
            if i % 2 == 0 {
                write(server, messages(&upload_name(&digest), data, 70_000)).await
            } else {
                write(server, messages(&zstd_name(&digest), compressed, 70_000)).await
            }
        }
    });
    for committed in futures_util::future::join_all(uploads).await {
        let committed = committed.unwrap();
        assert!([2_000_000, compressed.len() as i64, -1].contains(&committed), "{committed}");
    }
    assert_eq!(server.cas.get(&digest).await.unwrap(), data);
}

fn as_tool(messages: Vec<WriteRequest>, tool: &str) -> Request<impl Stream<Item = WriteRequest>> {
    let tool_details = Some(reapi::ToolDetails { tool_name: tool.into(), ..Default::default() });
    let metadata = reapi::RequestMetadata { tool_details, ..Default::default() };
    let mut request = Request::new(stream::iter(messages));
    request.metadata_mut().insert_bin(
        "build.bazel.remote.execution.v2.requestmetadata-bin",
        MetadataValue::from_bytes(&metadata.encode_to_vec()),
    );
    request
}

#[tokio::test]
async fn committed_size_of_compressed_uploads_suits_the_tool() {
    let auto = TestServer::start().await;
    let forced = |committed_size| ByteStreamSettings { committed_size, ..Default::default() };
    let compressed = TestServer::with(Default::default(), forced(CommittedSize::Compressed)).await;
    let uncompressed = TestServer::with(Default::default(), forced(CommittedSize::Uncompressed)).await;
    let mut seed = 1000;
    for (server, tool, counts_uncompressed) in [
        (&auto, "bazel", false),
        (&auto, "buck2", false),
        (&auto, "", false),
        (&auto, "siso", true),
        (&auto, "re-client", true),
        (&auto, "remotetool", true),
        (&compressed, "siso", false),
        (&uncompressed, "bazel", true),
    ] {
        seed += 1;
        let data = [blob(seed, 1000), vec![0; 100_000]].concat();
        let digest = Digest::of(SHA256, &data);
        let wire = compress(&data).unwrap();
        for again in [false, true] {
            let messages = messages(&zstd_name(&digest), &wire, 300);
            let answer = server.byte_stream().write(as_tool(messages, tool)).await.unwrap();
            let expected = match (counts_uncompressed, again) {
                (true, _) => data.len() as i64,
                (false, false) => wire.len() as i64,
                (false, true) => -1,
            };
            assert_eq!(answer.into_inner().committed_size, expected, "{tool} {again}");
        }
        assert_eq!(server.cas.get(&digest).await.unwrap(), data);
    }
}

#[tokio::test]
async fn bad_compressed_uploads_store_nothing() {
    let server = TestServer::start().await;
    let data = blob(13, 100_000);
    let digest = Digest::of(SHA256, &data);
    let good = compress(&data).unwrap();
    let mut flipped = good.clone();
    flipped[50_000] ^= 1;
    let bomb = compress(&vec![0; 30_000_000]).unwrap();
    for (why, wire) in [
        ("one bit", flipped),
        ("junk behind", [&good[..], b"some junk"].concat()),
        ("cut short", good[..good.len() - 1].to_vec()),
        ("not compressed", data.clone()),
        ("another blob", compress(&blob(14, 100_000)).unwrap()),
        ("shorter blob", compress(&data[..99_999]).unwrap()),
        ("a bomb", bomb),
        ("nothing", Vec::new()),
    ] {
        let result = write(&server, messages(&zstd_name(&digest), &wire, 10_000)).await;
        assert_eq!(code(result), Code::InvalidArgument, "{why}");
        assert!(server.cas.get(&digest).await.is_err(), "{why}");
    }
    let brotli = zstd_name(&digest).replace("zstd", "brotli");
    assert_eq!(code(write(&server, messages(&brotli, &good, 10_000)).await), Code::InvalidArgument);
    assert_eq!(
        write(&server, messages(&zstd_name(&digest), &good, 10_000)).await.unwrap(),
        good.len() as i64
    );
}

#[tokio::test]
async fn a_compressed_upload_goes_on_from_an_uncompressed_offset() {
    let server = TestServer::start().await;
    let data = blob(15, 500_000);
    let digest = Digest::of(SHA256, &data);
    let name = zstd_name(&digest);
    let head = compress(&data[..200_000]).unwrap();
    assert_eq!(write(&server, vec![message(&name, 0, &head, false)]).await.unwrap(), 200_000);
    assert_eq!(query(&server, &name).await, (200_000, false));
    let tail = compress(&data[200_000..]).unwrap();
    let (a, b) = tail.split_at(1000);
    let rest = vec![message(&name, 200_000, a, false), message("", 201_000, b, true)];
    write(&server, rest).await.unwrap();
    assert_eq!(server.cas.get(&digest).await.unwrap(), data);
}

/// Also those of an upload that was answered before all of it had come.
#[tokio::test]
async fn the_bytes_of_streams_are_counted_as_they_come() {
    let server = TestServer::start().await;
    let data = blob(8, 300_000);
    let digest = Digest::of(SHA256, &data);
    write(&server, messages(&upload_name(&digest), &data, 100_000)).await.unwrap();
    write(&server, vec![message(&upload_name(&digest), 0, &data[..7], false)]).await.unwrap();
    read_pieces(&server, &format!("blobs/{digest}"), 100_000, 50_000).await.unwrap();
    server.activity.second(Gauges::default());
    let builds = server.activity.follow(None, 0).unwrap().read().builds;
    assert_eq!((builds[0].uploaded_bytes, builds[0].downloaded_bytes), (300_007, 50_000));
}
