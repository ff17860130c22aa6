//! CMP: zstd in and out, by stream and by batch.

use farmhand::digest::Digest;
use farmhand_proto::reapi;
use tonic::{Code, Request};

use crate::support::client::write_requests;
use crate::support::{Client, Node, random_bytes};

const ZSTD: i32 = reapi::compressor::Value::Zstd as i32;

fn compressed_name(client: &Client, digest: &Digest) -> String {
    format!("compressed-blobs/zstd/{}", client.blob_segments(digest))
}

fn upload_name(client: &Client, digest: &Digest) -> String {
    format!("uploads/{}/{}", uuid::Uuid::new_v4(), compressed_name(client, digest))
}

fn compress(data: &[u8]) -> Vec<u8> {
    zstd::encode_all(data, 3).unwrap()
}

/// Half text, half noise: compresses a little.
fn sample(seed: u64, len: usize) -> Vec<u8> {
    let mut data = random_bytes(seed, len);
    data[..len / 2].fill(b'a');
    data
}

async fn batch_read_zstd(client: &Client, digest: &Digest) -> reapi::batch_read_blobs_response::Response {
    let request = reapi::BatchReadBlobsRequest {
        digests: vec![digest.to_wire()],
        acceptable_compressors: vec![ZSTD],
        ..Default::default()
    };
    client.cas().batch_read_blobs(request).await.unwrap().into_inner().responses.remove(0)
}

#[tokio::test]
async fn every_way_in_can_be_read_every_way_out() {
    let node = Node::start();
    let client = node.client().await;
    for len in [1_usize, 1000, 2_000_000] {
        for way in 0..3 {
            let data = sample(len as u64 * 10 + way, len);
            let digest = client.digest(&data);
            match way {
                0 => {
                    client.put(&data).await;
                }
                1 => {
                    let compressed = compress(&data);
                    let committed =
                        client.write_named(upload_name(&client, &digest), &compressed).await.unwrap();
                    assert_eq!(committed, compressed.len() as i64);
                }
                _ => {
                    let entry = reapi::batch_update_blobs_request::Request {
                        digest: Some(digest.to_wire()),
                        data: compress(&data),
                        compressor: ZSTD,
                    };
                    let request =
                        reapi::BatchUpdateBlobsRequest { requests: vec![entry], ..Default::default() };
                    let response = client.cas().batch_update_blobs(request).await.unwrap().into_inner();
                    assert_eq!(response.responses[0].status.as_ref().map_or(0, |s| s.code), 0);
                }
            }
            assert_eq!(client.read(&digest).await.unwrap(), data);
            let streamed = client.read_named(compressed_name(&client, &digest), 0, 0).await.unwrap();
            assert_eq!(zstd::decode_all(&streamed[..]).unwrap(), data);
            let entry = batch_read_zstd(&client, &digest).await;
            let read = if entry.compressor == ZSTD {
                zstd::decode_all(&entry.data[..]).unwrap()
            } else {
                entry.data
            };
            assert_eq!(read, data);
        }
    }
}

#[tokio::test]
async fn damaged_streams_are_invalid() {
    let node = Node::start();
    let client = node.client().await;
    for len in [5_000, 500_000] {
        let data = sample(len as u64, len);
        let digest = client.digest(&data);
        let good = compress(&data);
        let mut flipped = good.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 0x55;
        let other = compress(&sample(len as u64 + 1, len));
        let bad = [
            flipped,
            good[..good.len() - 3].to_vec(),
            [&good[..], b"junk"].concat(),
            b"not zstd at all".to_vec(),
            Vec::new(),
            other,
            data.clone(),
        ];
        for (i, bad) in bad.iter().enumerate() {
            let status = client.write_named(upload_name(&client, &digest), bad).await.unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{i}: {status}");
            assert!(!client.has(&digest).await, "{i}");
        }
    }
}

#[tokio::test]
async fn compressed_reads_begin_anywhere_and_take_no_limit() {
    let node = Node::start();
    let client = node.client().await;
    let data = sample(7, 1_000_000);
    let digest = client.put(&data).await;
    for offset in [0, 1, 499_999, 999_999, 1_000_000] {
        let read = client.read_named(compressed_name(&client, &digest), offset as i64, 0).await.unwrap();
        assert_eq!(zstd::decode_all(&read[..]).unwrap(), data[offset..], "from {offset}");
    }
    let limited = client.read_named(compressed_name(&client, &digest), 0, 10).await.unwrap_err();
    assert_eq!(limited.code(), Code::InvalidArgument);
    let beyond = client.read_named(compressed_name(&client, &digest), 1_000_001, 0).await.unwrap_err();
    assert_eq!(beyond.code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_compressed_upload_in_many_messages_and_of_a_present_blob() {
    let node = Node::start();
    let client = node.client().await;
    let data = sample(8, 5_000_000);
    let digest = client.digest(&data);
    let compressed = compress(&data);
    assert!(compressed.len() > 2 << 20, "several messages");
    let first = client.write_named(upload_name(&client, &digest), &compressed).await.unwrap();
    assert_eq!(first, compressed.len() as i64, "compressed bytes received");
    let again = client.write_named(upload_name(&client, &digest), &compressed).await.unwrap();
    assert!(again == -1 || again == compressed.len() as i64, "{again}");
}

/// Siso and the Go SDK compare with the uncompressed size; Bazel and Buck2 with the bytes they sent.
#[tokio::test]
async fn committed_size_suits_the_client() {
    let node = Node::start();
    let client = node.client().await;
    for (i, (tool, uncompressed)) in
        [("bazel", false), ("buck2", false), ("siso", true), ("reclient", true), ("remotetool", true)]
            .into_iter()
            .enumerate()
    {
        let data = sample(100 + i as u64, 100_000);
        let digest = client.digest(&data);
        let compressed = compress(&data);
        let messages = write_requests(upload_name(&client, &digest), &compressed);
        let mut request = Request::new(tokio_stream::iter(messages));
        crate::request_metadata::attach(
            &mut request,
            &reapi::RequestMetadata {
                tool_details: Some(reapi::ToolDetails { tool_name: tool.into(), tool_version: "1".into() }),
                ..Default::default()
            },
        );
        let committed = client.byte_stream().write(request).await.unwrap().into_inner().committed_size;
        let expected = if uncompressed { data.len() } else { compressed.len() };
        assert_eq!(committed, expected as i64, "{tool}");
    }
}

#[tokio::test]
async fn several_frames_skippable_frames_and_bombs() {
    let node = Node::start();
    let client = node.client().await;
    let data = sample(9, 200_000);
    let digest = client.digest(&data);
    let skippable = [&0x184D_2A50_u32.to_le_bytes()[..], &4_u32.to_le_bytes(), b"skip"].concat();
    let frames =
        [compress(&data[..70_000]), skippable.clone(), compress(&data[70_000..]), skippable].concat();
    client.write_named(upload_name(&client, &digest), &frames).await.unwrap();
    assert_eq!(client.read(&digest).await.unwrap(), data);

    let bomb = {
        let mut encoder = zstd::Encoder::new(Vec::new(), 19).unwrap();
        let zeros = vec![0; 1 << 20];
        (0..1024).for_each(|_| std::io::Write::write_all(&mut encoder, &zeros).unwrap());
        encoder.finish().unwrap()
    };
    assert!(bomb.len() < 200_000, "1 GiB in {} bytes", bomb.len());
    let five = client.digest(b"five!");
    let status = client.write_named(upload_name(&client, &five), &bomb).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let entry = reapi::batch_update_blobs_request::Request {
        digest: Some(five.to_wire()),
        data: bomb,
        compressor: ZSTD,
    };
    let request = reapi::BatchUpdateBlobsRequest { requests: vec![entry], ..Default::default() };
    let response = client.cas().batch_update_blobs(request).await.unwrap().into_inner();
    assert_eq!(response.responses[0].status.as_ref().unwrap().code, Code::InvalidArgument as i32);
}

#[tokio::test]
async fn compressors_that_are_not_offered_are_invalid_and_batches_may_mix() {
    let node = Node::start();
    let client = node.client().await;
    let digest = client.put(b"data").await;
    let cache = client.get_capabilities().await.unwrap().cache_capabilities.unwrap();
    for (name, value) in [("identity", 0), ("deflate", 2), ("brotli", 3)] {
        assert!(value == 0 || !cache.supported_compressors.contains(&value), "{name} is not offered");
        let resource = format!("compressed-blobs/{name}/{}", client.blob_segments(&digest));
        assert_eq!(
            client.read_named(resource, 0, 0).await.unwrap_err().code(),
            Code::InvalidArgument,
            "{name}"
        );
    }
    let (raw, packed, odd) = (b"raw".to_vec(), b"packed".to_vec(), b"odd".to_vec());
    let entry = |data: &[u8], sent: Vec<u8>, compressor| reapi::batch_update_blobs_request::Request {
        digest: Some(client.digest(data).to_wire()),
        data: sent,
        compressor,
    };
    let requests = vec![
        entry(&raw, raw.clone(), 0),
        entry(&packed, compress(&packed), ZSTD),
        entry(&odd, odd.clone(), 3),
    ];
    let request = reapi::BatchUpdateBlobsRequest { requests, ..Default::default() };
    let response = client.cas().batch_update_blobs(request).await.unwrap().into_inner();
    let codes: Vec<_> = response.responses.iter().map(|r| r.status.as_ref().map_or(0, |s| s.code)).collect();
    assert_eq!(codes, [0, 0, Code::InvalidArgument as i32]);
    assert_eq!(client.read(&client.digest(b"packed")).await.unwrap(), b"packed");
}
