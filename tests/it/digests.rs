//! DIG: digests, digest functions and instance names.

use farmhand::digest::{Digest, DigestFunction};
use farmhand_proto::reapi;
use farmhand_proto::reapi::digest_function::Value as Function;
use tonic::Code;

use crate::support::{ActionBuilder, Client, Node};

async fn find_missing_raw(
    client: &Client,
    hash: &str,
    size_bytes: i64,
    digest_function: i32,
) -> Result<usize, tonic::Status> {
    let request = reapi::FindMissingBlobsRequest {
        instance_name: client.instance.clone(),
        blob_digests: vec![reapi::Digest { hash: hash.into(), size_bytes }],
        digest_function,
    };
    Ok(client.cas().find_missing_blobs(request).await?.into_inner().missing_blob_digests.len())
}

#[tokio::test]
async fn malformed_digests_are_invalid_on_every_service() {
    let node = Node::start();
    let client = node.client().await;
    let good = client.digest(b"x").hash_hex();
    for hash in ["ABC", "zz", &good[..63], &good.to_uppercase(), &"g".repeat(64), ""] {
        let code = find_missing_raw(&client, hash, 1, 0).await.unwrap_err().code();
        assert_eq!(code, Code::InvalidArgument, "FindMissing {hash:?}");
        let digest = Some(reapi::Digest { hash: hash.into(), size_bytes: 1 });
        let read =
            reapi::BatchReadBlobsRequest { digests: vec![digest.clone().unwrap()], ..Default::default() };
        // A malformed entry may fail the call or only itself, but never as «not found».
        match client.cas().batch_read_blobs(read).await {
            Ok(answer) => {
                assert_eq!(
                    answer.into_inner().responses[0].status.as_ref().unwrap().code,
                    Code::InvalidArgument as i32
                );
            }
            Err(status) => assert_eq!(status.code(), Code::InvalidArgument),
        }
        let get = reapi::GetActionResultRequest { action_digest: digest.clone(), ..Default::default() };
        let status = client.action_cache().get_action_result(get).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "GetActionResult {hash:?}");
        let execute = reapi::ExecuteRequest { action_digest: digest, ..Default::default() };
        let status = client.execution().execute(execute).await.err().unwrap();
        assert_eq!(status.code(), Code::InvalidArgument, "Execute {hash:?}");
        let status = client.read_named(format!("blobs/{hash}/1"), 0, 0).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "Read {hash:?}");
    }
}

#[tokio::test]
async fn size_is_part_of_the_identity() {
    let node = Node::start();
    let client = node.client().await;
    let digest = client.put(b"seventeen bytes!!").await;
    for size in [digest.size() + 1, digest.size() - 1, 0] {
        let other = Digest::from_parts(DigestFunction::Sha256, *digest.hash(), size);
        assert!(!client.has(&other).await, "{other}");
        assert_eq!(client.read(&other).await.unwrap_err().code(), Code::NotFound);
        let refused = client.batch_update(&[(other, b"seventeen bytes!!")]).await.unwrap();
        assert_eq!(refused.responses[0].status.as_ref().unwrap().code, Code::InvalidArgument as i32);
    }
    assert_eq!(client.read(&digest).await.unwrap(), b"seventeen bytes!!");
}

#[tokio::test]
async fn sizes_below_zero_and_zero_sizes_of_other_hashes() {
    let node = Node::start();
    let client = node.client().await;
    let hash = client.digest(b"x").hash_hex();
    assert_eq!(find_missing_raw(&client, &hash, -1, 0).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(find_missing_raw(&client, &hash, 0, 0).await.unwrap(), 1, "not the empty blob");
    let empty = Digest::empty(DigestFunction::Sha256).hash_hex();
    assert_eq!(find_missing_raw(&client, &empty, 1, 0).await.unwrap(), 1, "not the empty blob either");
    assert_eq!(find_missing_raw(&client, &empty, 0, 0).await.unwrap(), 0);
}

/// Buck2, Justbuild and Pants leave the field unset on every call.
#[tokio::test]
async fn an_unset_function_means_sha256_everywhere() {
    let node = Node::start();
    let client = node.client().await;
    let digest = client.put(b"unset").await;
    assert!(client.has(&digest).await);
    assert_eq!(client.batch_read(&[digest]).await.unwrap().responses[0].data, b"unset");
    let outcome = ActionBuilder::sh("cat in > out").file("in", "unset").outputs(&["out"]).run(&client).await;
    assert_eq!(outcome.output(&client, "out").await, b"unset");
    assert!(client.action_result(&outcome.action_digest).await.is_some());
    assert_eq!(find_missing_raw(&client, &digest.hash_hex(), 5, Function::Sha256 as i32).await.unwrap(), 0);
}

#[tokio::test]
async fn functions_of_equal_length_are_kept_apart() {
    let node = Node::start();
    let sha256 = node.client().await;
    let blake3 = sha256.clone().with_function(DigestFunction::Blake3);
    let digest = blake3.put(b"one content, two names").await;
    assert!(blake3.has(&digest).await);
    let hash = digest.hash_hex();
    assert_eq!(find_missing_raw(&sha256, &hash, 22, 0).await.unwrap(), 1, "unset is SHA256");
    assert_eq!(find_missing_raw(&sha256, &hash, 22, Function::Sha256 as i32).await.unwrap(), 1);
    assert_eq!(sha256.read_named(format!("blobs/{hash}/22"), 0, 0).await.unwrap_err().code(), Code::NotFound);
    let explicit = sha256.read_named(format!("blobs/blake3/{hash}/22"), 0, 0).await.unwrap();
    assert_eq!(explicit, b"one content, two names");
    let as_sha256 = sha256.put(b"one content, two names").await;
    assert_ne!(as_sha256.hash(), digest.hash());
}

#[tokio::test]
async fn an_instance_may_have_another_default_function() {
    let node = Node::builder().config("[instances.buck]\ndigest-function = \"blake3\"").start();
    let client = node.client_of("buck").await.with_function(DigestFunction::Blake3);
    let digest = client.put(b"buck2").await;
    let hash = digest.hash_hex();
    assert_eq!(find_missing_raw(&client, &hash, 5, 0).await.unwrap(), 0, "unset is BLAKE3 here");
    let capabilities = client.get_capabilities().await.unwrap();
    assert_eq!(capabilities.execution_capabilities.unwrap().digest_function, Function::Blake3 as i32);
}

#[tokio::test]
async fn unsupported_functions_are_refused_by_name() {
    let node = Node::start();
    let client = node.client().await;
    let hash = client.digest(b"x").hash_hex();
    for (function, hash) in [
        (Function::Vso as i32, hash.as_str()),
        (Function::Sha1 as i32, hash.as_str()),
        (Function::Sha1 as i32, &hash[..40]),
        (99, hash.as_str()),
        (Function::Sha256 as i32, &hash[..40]),
    ] {
        let status = find_missing_raw(&client, hash, 1, function).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{function}: {status}");
    }
}

#[tokio::test]
async fn a_result_uses_the_function_of_its_action_throughout() {
    let node = Node::start();
    let client = node.client().await.with_function(DigestFunction::Blake3);
    let script = "echo out; echo err >&2; mkdir d; echo x > d/f; echo y > g";
    let outcome = ActionBuilder::sh(script).outputs(&["d", "g"]).run(&client).await;
    let result = outcome.success();
    let read =
        |digest: &Option<reapi::Digest>| Digest::from_field(DigestFunction::Blake3, digest.as_ref()).unwrap();
    assert_eq!(client.read(&read(&result.stdout_digest)).await.unwrap(), b"out\n");
    assert_eq!(client.read(&read(&result.stderr_digest)).await.unwrap(), b"err\n");
    assert_eq!(outcome.output(&client, "g").await, b"y\n");
    let tree = client.read(&read(&result.output_directories[0].tree_digest)).await.unwrap();
    let tree = farmhand::merkle::parse_tree(&tree).unwrap();
    let file = &tree.root.unwrap().files[0];
    assert_eq!(client.read(&read(&file.digest)).await.unwrap(), b"x\n");
    assert_eq!(read(&result.stdout_digest), Digest::of(DigestFunction::Blake3, b"out\n"));
}

/// Vectors published with each function.
#[tokio::test]
async fn functions_match_their_published_vectors() {
    let node = Node::start();
    let client = node.client().await;
    let vectors: [(DigestFunction, &[u8], &str); 4] = [
        (DigestFunction::Sha256, b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            DigestFunction::Sha256,
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (DigestFunction::Blake3, b"\0", "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"),
        (DigestFunction::Blake3, b"abc", "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"),
    ];
    for (function, data, hash) in vectors {
        let client = client.clone().with_function(function);
        let digest = Digest::parse(function, hash, data.len() as i64).unwrap();
        assert_eq!(client.write(&digest, data).await.unwrap(), data.len() as i64, "{function}");
        assert_eq!(client.read(&digest).await.unwrap(), data);
    }
}

#[tokio::test]
async fn instance_names_of_any_depth_work_on_every_call() {
    let node = Node::start();
    for instance in ["", "a", "projects/p/instances/i"] {
        let client = node.client_of(instance).await;
        let data = format!("blob of {instance}");
        let digest = client.digest(data.as_bytes());
        client.write(&digest, data.as_bytes()).await.unwrap();
        assert!(client.has(&digest).await);
        assert_eq!(client.read(&digest).await.unwrap(), data.as_bytes());
        let outcome = ActionBuilder::sh("echo hi > out").outputs(&["out"]).salt(instance).run(&client).await;
        assert_eq!(outcome.output(&client, "out").await, b"hi\n");
        assert!(client.action_result(&outcome.action_digest).await.is_some());
    }
}

#[tokio::test]
async fn reserved_segments_are_refused_in_the_configuration_and_on_calls() {
    let directory = tempfile::tempdir().unwrap();
    let (code, log) =
        Node::builder().config("[instances.\"a/blobs\"]\nexecution = true").refused(directory.path());
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("blobs"), "{log}");
    let node = Node::start();
    let client = node.client_of("a/uploads").await;
    assert_eq!(client.get_capabilities().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn an_unknown_instance_is_one_clear_error_and_results_do_not_leak() {
    let node = Node::builder().config("[instances.a]\n[instances.b]\n").start();
    let a = node.client_of("a").await;
    let b = a.clone().with_instance("b");
    let action = a.digest(b"an action");
    a.update_action_result(&action, reapi::ActionResult::default()).await.unwrap();
    assert!(a.action_result(&action).await.is_some());
    assert!(b.action_result(&action).await.is_none());

    let c = a.clone().with_instance("c");
    let digest = c.digest(b"x");
    let mut errors = vec![
        c.get_capabilities().await.unwrap_err(),
        c.find_missing(&[digest]).await.unwrap_err(),
        c.batch_update(&[(digest, b"x")]).await.unwrap_err(),
        c.batch_read(&[digest]).await.unwrap_err(),
        c.read(&digest).await.unwrap_err(),
        c.write(&digest, b"x").await.unwrap_err(),
        c.update_action_result(&action, reapi::ActionResult::default()).await.unwrap_err(),
    ];
    errors.extend(ActionBuilder::sh("true").start(&c, &action).await.err());
    for status in &errors {
        assert_eq!(status.code(), Code::NotFound, "{status}");
        assert!(status.message().contains("\"c\""), "{status}");
    }
    assert_eq!(errors.len(), 8);
}
