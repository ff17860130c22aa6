//! Chunks: SplitBlob and SpliceBlob, GetChunkMapping and RegisterChunkMapping.

use std::time::Duration;

use farmhand::digest::{Digest, DigestFunction};
use farmhand_proto::reapi;
use tonic::{Code, Status};

use crate::support::{ActionBuilder, Client, Node, random_bytes};

/// Chunks of 64 KiB, so that blobs of a few MiB have many.
fn node() -> Node {
    Node::builder().config("chunk-size = \"64KiB\"").start()
}

fn split_request(client: &Client, blob: &Digest) -> reapi::SplitBlobRequest {
    reapi::SplitBlobRequest {
        instance_name: client.instance.clone(),
        blob_digest: Some(blob.to_wire()),
        digest_function: client.wire_function(),
        chunking_function: 0,
    }
}

async fn split(client: &Client, request: reapi::SplitBlobRequest) -> Result<(Vec<Digest>, i32), Status> {
    let answer = client.cas().split_blob(request).await?.into_inner();
    Ok((parsed(client, &answer.chunk_digests), answer.chunking_function))
}

/// The same by `GetChunkMapping`, which must be told the digest function.
async fn mapping(client: &Client, request: reapi::SplitBlobRequest) -> Result<(Vec<Digest>, i32), Status> {
    let request = reapi::GetChunkMappingRequest {
        instance_name: request.instance_name,
        blob_digest: request.blob_digest,
        digest_function: client.function.to_wire(),
        chunking_function: request.chunking_function,
    };
    let mut stream = client.cas().get_chunk_mapping(request).await?.into_inner();
    let (mut chunks, mut function) = (Vec::new(), None);
    while let Some(answer) = stream.message().await? {
        chunks.extend(parsed(client, &answer.chunk_digests));
        match function {
            None => function = Some(answer.chunking_function),
            Some(_) => assert_eq!(answer.chunking_function, 0, "it stands in the first answer alone"),
        }
    }
    Ok((chunks, function.expect("there is an answer")))
}

fn parsed(client: &Client, digests: &[reapi::Digest]) -> Vec<Digest> {
    digests.iter().map(|digest| Digest::from_wire(client.function, digest).unwrap()).collect()
}

async fn splice(client: &Client, blob: &Digest, chunks: &[Digest], function: i32) -> Result<(), Status> {
    let request = reapi::SpliceBlobRequest {
        instance_name: client.instance.clone(),
        blob_digest: Some(blob.to_wire()),
        chunk_digests: chunks.iter().map(Digest::to_wire).collect(),
        digest_function: client.wire_function(),
        chunking_function: function,
    };
    let answer = client.cas().splice_blob(request).await?.into_inner();
    assert_eq!(answer.blob_digest, Some(blob.to_wire()));
    Ok(())
}

fn registration(client: &Client, blob: &Digest, chunks: &[Digest]) -> reapi::RegisterChunkMappingRequest {
    reapi::RegisterChunkMappingRequest {
        instance_name: client.instance.clone(),
        blob_digest: Some(blob.to_wire()),
        chunk_digests: chunks.iter().map(Digest::to_wire).collect(),
        digest_function: client.function.to_wire(),
        chunking_function: 0,
    }
}

async fn register(
    client: &Client,
    messages: Vec<reapi::RegisterChunkMappingRequest>,
) -> Result<Option<reapi::Digest>, Status> {
    let answer = client.cas().register_chunk_mapping(tokio_stream::iter(messages)).await?;
    Ok(answer.into_inner().blob_digest)
}

/// Uploads `data` in pieces of `each` bytes: the digest of the whole, which is not there yet, and its chunks.
async fn pieces(client: &Client, data: &[u8], each: usize) -> (Digest, Vec<Digest>) {
    let mut chunks = Vec::new();
    for chunk in data.chunks(each) {
        chunks.push(client.put(chunk).await);
    }
    (client.digest(data), chunks)
}

fn disk_used(node: &Node) -> u64 {
    fn of(directory: &std::path::Path) -> u64 {
        let entries = std::fs::read_dir(directory).unwrap().map(Result::unwrap);
        let size = |entry: std::fs::DirEntry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => of(&entry.path()),
            metadata => metadata.map_or(0, |metadata| metadata.len()),
        };
        entries.map(size).sum()
    }
    of(&node.data_dir().join("packs")) + of(&node.data_dir().join("blobs"))
}

#[tokio::test]
async fn a_blob_is_split_into_chunks_that_are_blobs() {
    let mut node = node();
    let client = node.client().await;
    let data = random_bytes(1, 5_000_000);
    let blob = client.put(&data).await;
    let before = disk_used(&node);
    let (chunks, function) = split(&client, split_request(&client, &blob)).await.unwrap();
    assert_eq!(function, 1, "FastCDC, if nothing else is asked for");
    assert_eq!(mapping(&client, split_request(&client, &blob)).await.unwrap(), (chunks.clone(), 1));
    assert!(disk_used(&node) < before + 50_000, "chunks are no second copy");

    assert!(chunks.len() > 30 && chunks.iter().all(|chunk| chunk.size() > 0));
    assert_eq!(chunks.iter().map(Digest::size).sum::<u64>(), blob.size());
    node.kill();
    node.restart();
    let client = node.client().await;
    assert_eq!(client.find_missing(&chunks).await.unwrap(), []);
    let mut joined = Vec::new();
    for chunk in &chunks {
        joined.extend(client.read(chunk).await.unwrap());
    }
    assert!(joined == data);
    let read = client.batch_read(&chunks[..3]).await.unwrap();
    assert_eq!(read.responses.iter().map(|blob| blob.data.clone()).collect::<Vec<_>>().concat(), {
        let len = chunks[..3].iter().map(|chunk| chunk.size() as usize).sum();
        data[..len].to_vec()
    });
    let part = client.read_named(client.read_name(&chunks[4]), 100, 50).await.unwrap();
    assert_eq!(part, client.read(&chunks[4]).await.unwrap()[100..150]);

    let small = client.put(b"small").await;
    assert_eq!(split(&client, split_request(&client, &small)).await.unwrap().0, [small]);
    let empty = client.digest(b"");
    assert_eq!(split(&client, split_request(&client, &empty)).await.unwrap().0, []);
    assert_eq!(mapping(&client, split_request(&client, &empty)).await.unwrap().0, []);
}

#[tokio::test]
async fn a_chunk_is_an_input_like_any_blob() {
    let node = node();
    let client = node.client().await;
    let data = random_bytes(2, 1_000_000);
    let blob = client.put(&data).await;
    let (chunks, _) = split(&client, split_request(&client, &blob)).await.unwrap();
    let start: usize = chunks[..3].iter().map(|chunk| chunk.size() as usize).sum();
    let input = &data[start..start + chunks[3].size() as usize];
    let action = ActionBuilder::sh("sha256sum < chunk").file("chunk", input);
    let outcome = action.run(&client).await;
    let stdout = outcome.stdout(&client).await;
    assert!(stdout.starts_with(&chunks[3].hash_hex()));
}

#[tokio::test]
async fn what_is_absent_is_not_found() {
    let node = node();
    let client = node.client().await;
    let absent = client.digest(b"absent");
    let code = |result: Result<_, Status>| result.map(|_: (Vec<Digest>, i32)| ()).unwrap_err().code();
    assert_eq!(code(split(&client, split_request(&client, &absent)).await), Code::NotFound);
    assert_eq!(code(mapping(&client, split_request(&client, &absent)).await), Code::NotFound);

    let (blob, mut chunks) = pieces(&client, &random_bytes(3, 300_000), 100_000).await;
    chunks[1] = client.digest(&random_bytes(4, 100_000));
    let error = splice(&client, &blob, &chunks, 0).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.message().contains(&chunks[1].hash_hex()), "{error}");
    let messages = chunks.iter().map(|chunk| registration(&client, &blob, &[*chunk])).collect();
    assert_eq!(register(&client, messages).await.unwrap_err().code(), Code::NotFound);
    assert!(!client.has(&blob).await);
}

/// A store for a few blobs: the one whose split is asked for again and again outlives the others, and so do its
/// chunks.
#[tokio::test]
async fn a_split_extends_the_life_of_the_blob_and_of_its_chunks() {
    let config = "lease = \"1s\"\nchunk-size = \"64KiB\"";
    let node = Node::builder().config(config).arguments(&["--disk-budget", "12MB"]).start();
    let client = node.client().await;
    let kept = client.put(&random_bytes(1, 500_000)).await;
    let gone = client.put(&random_bytes(2, 500_000)).await;
    let (lost, _) = split(&client, split_request(&client, &gone)).await.unwrap();
    let mut chunks = Vec::new();
    for seed in 10..150 {
        chunks = split(&client, split_request(&client, &kept)).await.expect("it stays").0;
        let data = random_bytes(seed, 200_000);
        // May be refused while nothing may go.
        client.batch_update(&[(client.digest(&data), &data)]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(client.find_missing(&chunks).await.unwrap(), []);
    assert_eq!(client.find_missing(&lost).await.unwrap(), lost, "the store did not evict at all");
    let error = split(&client, split_request(&client, &gone)).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}

#[tokio::test]
async fn a_splice_is_verified_before_the_blob_exists() {
    let node = node();
    let client = node.client().await;
    let (blob, chunks) = pieces(&client, &random_bytes(5, 350_000), 100_000).await;
    let swapped = [chunks[1], chunks[0], chunks[2], chunks[3]];
    let longer = [&chunks[..], &chunks[..1]].concat();
    for wrong in [&swapped[..], &longer, &chunks[..3], &[]] {
        let error = splice(&client, &blob, wrong, 1).await.unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument, "{error}");
        let messages = vec![registration(&client, &blob, wrong)];
        assert_eq!(register(&client, messages).await.unwrap_err().code(), Code::InvalidArgument);
        assert!(!client.has(&blob).await);
    }
    for _ in 0..2 {
        splice(&client, &blob, &chunks, 1).await.unwrap();
        assert!(client.has(&blob).await);
    }
    let messages = vec![registration(&client, &blob, &chunks)];
    assert_eq!(register(&client, messages).await.unwrap(), Some(blob.to_wire()));
}

#[tokio::test]
async fn a_registration_listens_to_its_first_message_and_ends_with_the_stream() {
    let node = node();
    let client = node.client().await;
    let (blob, chunks) = pieces(&client, &random_bytes(6, 450_000), 100_000).await;
    let noise = reapi::RegisterChunkMappingRequest {
        instance_name: "another".into(),
        blob_digest: Some(client.digest(b"another").to_wire()),
        chunk_digests: Vec::new(),
        digest_function: 99,
        chunking_function: 77,
    };
    let with = |chunks: &[Digest]| reapi::RegisterChunkMappingRequest {
        chunk_digests: chunks.iter().map(Digest::to_wire).collect(),
        ..noise.clone()
    };
    let first = registration(&client, &blob, &[]);
    let messages = vec![first.clone(), with(&chunks[..2]), noise.clone(), with(&chunks[2..])];

    let broken = messages[..3].to_vec();
    let (sender, receiver) = tokio::sync::mpsc::channel(8);
    let mut cas = client.cas();
    let call = cas.register_chunk_mapping(tokio_stream::wrappers::ReceiverStream::new(receiver));
    let told = async {
        for message in broken {
            sender.send(message).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    // The call is dropped when all is told that will be.
    tokio::select! {
        answer = call => panic!("the stream has not ended: {answer:?}"),
        () = told => {}
    }
    assert!(!client.has(&blob).await, "nobody has said that this is all");
    drop(sender);

    assert_eq!(register(&client, messages).await.unwrap(), Some(blob.to_wire()));
    assert!(client.has(&blob).await);
    assert_eq!(register(&client, Vec::new()).await.unwrap_err().code(), Code::InvalidArgument);
    let unset = reapi::RegisterChunkMappingRequest { digest_function: 0, ..first };
    let error = register(&client, vec![unset]).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("digest_function"), "{error}");
}

/// Tens of thousands of chunks of a few bytes.
#[tokio::test]
async fn a_blob_may_be_spliced_of_very_many_chunks() {
    let node = node();
    let client = node.client().await;
    let two = [client.put(b"ab").await, client.put(b"cde").await];
    let chunks: Vec<Digest> = two.into_iter().cycle().take(60_000).collect();
    let data: Vec<u8> = b"abcde".iter().copied().cycle().take(150_000).collect();
    let blob = client.digest(&data);
    let messages = chunks.chunks(7_000).map(|chunks| registration(&client, &blob, chunks)).collect();
    register(&client, messages).await.unwrap();
    assert!(client.read(&blob).await.unwrap() == data);
}

#[tokio::test]
async fn what_is_not_said_is_invalid_and_chunks_are_of_the_function_of_the_blob() {
    let node = node();
    let client = node.client().await;
    let unset = reapi::SplitBlobRequest::default();
    assert_eq!(split(&client, unset.clone()).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(mapping(&client, unset).await.unwrap_err().code(), Code::InvalidArgument);
    let unset = reapi::SpliceBlobRequest::default();
    assert_eq!(client.cas().splice_blob(unset).await.unwrap_err().code(), Code::InvalidArgument);
    let unset = reapi::RegisterChunkMappingRequest { digest_function: 1, ..Default::default() };
    assert_eq!(register(&client, vec![unset]).await.unwrap_err().code(), Code::InvalidArgument);
    let blob = client.put(b"known").await;
    let unset = reapi::GetChunkMappingRequest { blob_digest: Some(blob.to_wire()), ..Default::default() };
    let error = client.cas().get_chunk_mapping(unset).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);

    let client = client.with_function(DigestFunction::Blake3);
    let data = random_bytes(7, 700_000);
    let blob = client.put(&data).await;
    let (chunks, _) = mapping(&client, split_request(&client, &blob)).await.unwrap();
    assert!(chunks.len() > 3);
    let first = client.read(&chunks[0]).await.unwrap();
    assert_eq!(Digest::of(DigestFunction::Blake3, &first), chunks[0]);
    let (joined, chunks) = pieces(&client, &random_bytes(8, 200_000), 90_000).await;
    splice(&client, &joined, &chunks, 0).await.unwrap();
    assert_eq!(client.read(&joined).await.unwrap().len(), 200_000);
}

#[tokio::test]
async fn a_spliced_blob_is_a_blob_like_any() {
    let node = node();
    let client = node.client().await;
    let data = random_bytes(9, 3_000_000);
    let (blob, chunks) = pieces(&client, &data, 300_000).await;
    splice(&client, &blob, &chunks, 0).await.unwrap();
    assert!(client.has(&blob).await);
    assert!(client.read(&blob).await.unwrap() == data);
    let name = format!("compressed-blobs/zstd/{}/{}", blob.hash_hex(), blob.size());
    let compressed = client.read_named(name, 0, 0).await.unwrap();
    assert!(zstd::decode_all(&compressed[..]).unwrap() == data);
    let action = ActionBuilder::sh("sha256sum < blob").file("blob", &data);
    let stdout = action.run(&client).await.stdout(&client).await;
    assert!(stdout.starts_with(&blob.hash_hex()));
    let (again, _) = split(&client, split_request(&client, &blob)).await.unwrap();
    assert_eq!(again.iter().map(Digest::size).sum::<u64>(), blob.size());
}

#[tokio::test]
async fn any_chunking_function_may_be_named() {
    let node = node();
    let client = node.client().await;
    let data = random_bytes(10, 2_000_000);
    let blob = client.put(&data).await;
    for (asked, answered) in [(0, 1), (1, 1), (2, 2), (99, 1)] {
        let request = reapi::SplitBlobRequest { chunking_function: asked, ..split_request(&client, &blob) };
        let (chunks, function) = split(&client, request.clone()).await.unwrap();
        assert_eq!(function, answered, "asked for {asked}");
        assert_eq!(chunks.iter().map(Digest::size).sum::<u64>(), blob.size());
        assert_eq!(mapping(&client, request).await.unwrap(), (chunks, answered));
        let (other, pieces) = pieces(&client, &random_bytes(20 + asked as u64, 100_000), 40_000).await;
        splice(&client, &other, &pieces, asked).await.unwrap();
    }
}

/// Clients that cut blobs by themselves do so by what is advertised: the same chunks come of it.
#[tokio::test]
async fn what_is_advertised_goes_together_and_is_how_blobs_are_cut() {
    for (config, average) in [("", 512 << 10), ("chunk-size = \"64KiB\"", 64 << 10)] {
        let node = Node::builder().config(config).start();
        let client = node.client().await;
        let cache = client.get_capabilities().await.unwrap().cache_capabilities.unwrap();
        assert!(cache.split_blob_support && cache.splice_blob_support);
        let fast = cache.fast_cdc_2020_params.unwrap();
        assert_eq!((fast.avg_chunk_size_bytes, fast.seed), (average, 0));
        let rep_max = cache.rep_max_cdc_params.unwrap();
        assert_eq!(rep_max.min_chunk_size_bytes, average / 2);
        assert_eq!(rep_max.horizon_size_bytes, rep_max.min_chunk_size_bytes * 8);

        let data = random_bytes(11, 6_000_000);
        let blob = client.put(&data).await;
        let (chunks, _) = split(&client, split_request(&client, &blob)).await.unwrap();
        let average = average as usize;
        let level = fastcdc::v2020::Normalization::Level2;
        let cut = fastcdc::v2020::FastCDC::with_level(&data, average / 4, average, average * 4, level);
        let lengths: Vec<u64> = cut.map(|chunk| chunk.length as u64).collect();
        assert_eq!(chunks.iter().map(Digest::size).collect::<Vec<_>>(), lengths);

        let request = reapi::SplitBlobRequest { chunking_function: 2, ..split_request(&client, &blob) };
        let (chunks, _) = split(&client, request).await.unwrap();
        let sizes = rep_max.min_chunk_size_bytes..rep_max.min_chunk_size_bytes * 2;
        assert!(chunks.iter().all(|chunk| sizes.contains(&chunk.size())), "{chunks:?}");
    }
    let refused =
        Node::builder().config("chunk-size = \"3KiB\"").refused(tempfile::tempdir().unwrap().path());
    assert!(refused.1.contains("chunk-size"), "{}", refused.1);
}

/// What comes anew of a blob that changed a little is a few chunks.
#[tokio::test]
async fn a_blob_that_changed_a_little_shares_nearly_all_chunks() {
    let node = node();
    let client = node.client().await;
    let old = random_bytes(12, 4_000_000);
    let new = [&old[..1_500_000], b"inserted", &old[1_500_000..3_000_000], &old[3_000_010..]].concat();
    let mut lists = Vec::new();
    for data in [&old, &new] {
        let blob = client.put(data).await;
        lists.push(split(&client, split_request(&client, &blob)).await.unwrap().0);
    }
    let fresh: u64 = lists[1].iter().filter(|chunk| !lists[0].contains(chunk)).map(Digest::size).sum();
    assert!(fresh < 800_000, "{fresh} of 4 MB are new");
}
