//! CAP: what GetCapabilities promises, and that the promises hold.

use farmhand_proto::reapi;
use farmhand_proto::reapi::digest_function::Value as Function;
use farmhand_proto::reapi::symlink_absolute_path_strategy::Value as SymlinkStrategy;
use tonic::Code;

use crate::support::{ActionBuilder, Client, Node, random_bytes};

const ZSTD: i32 = reapi::compressor::Value::Zstd as i32;

async fn cache(client: &Client) -> reapi::CacheCapabilities {
    client.get_capabilities().await.unwrap().cache_capabilities.unwrap()
}

async fn execution(client: &Client) -> reapi::ExecutionCapabilities {
    client.get_capabilities().await.unwrap().execution_capabilities.unwrap()
}

#[tokio::test]
async fn every_instance_answers_without_an_earlier_call() {
    let node = Node::start();
    for instance in ["", "main", "a/b/c"] {
        let capabilities = node.client_of(instance).await.get_capabilities().await.unwrap();
        assert!(capabilities.cache_capabilities.is_some(), "{instance:?}");
        assert!(capabilities.execution_capabilities.unwrap().exec_enabled, "{instance:?}");
    }
}

#[tokio::test]
async fn a_cache_only_instance_says_so_and_refuses_to_execute() {
    let node = Node::builder().config("[instances.cache]\nexecution = false").start();
    let client = node.client_of("cache").await;
    let capabilities = client.get_capabilities().await.unwrap();
    assert!(capabilities.cache_capabilities.is_some());
    assert!(!capabilities.execution_capabilities.is_some_and(|execution| execution.exec_enabled));
    let refused = ActionBuilder::sh("true").try_run(&client).await.err().unwrap();
    assert!(matches!(refused.code(), Code::Unimplemented | Code::PermissionDenied), "{refused}");
}

#[tokio::test]
async fn versions_span_2_0_and_are_plain() {
    let node = Node::start();
    let capabilities = node.client().await.get_capabilities().await.unwrap();
    let low = capabilities.low_api_version.unwrap();
    let high = capabilities.high_api_version.unwrap();
    assert_eq!((low.major, low.minor), (2, 0));
    assert_eq!(high.major, 2);
    assert!(high.minor >= 3, "PATH lookup, Action.platform and output_paths are there: {high:?}");
    assert!(high.minor < 14, "nothing newer is known: {high:?}");
    assert!(low.prerelease.is_empty() && high.prerelease.is_empty());
    assert_eq!(capabilities.deprecated_api_version, None);
}

/// One action of each style that the advertised versions promise.
#[tokio::test]
async fn each_promised_style_of_action_runs() {
    let node = Node::start();
    let client = node.client().await;
    let mut old = ActionBuilder::sh("mkdir -p d; echo f > f; echo g > d/g");
    old.command.output_files = vec!["f".into()];
    old.command.output_directories = vec!["d".into()];
    old.command.platform = Some(reapi::Platform::default());
    let old = old.run(&client).await;
    assert_eq!((old.success().output_files.len(), old.result().output_directories.len()), (1, 1));
    let new = ActionBuilder::sh("mkdir -p d; echo f > f; echo g > d/g").outputs(&["f", "d"]);
    let new = new.property("OSFamily", "linux").run(&client).await;
    assert_eq!((new.success().output_files.len(), new.result().output_directories.len()), (1, 1));
    ActionBuilder::new(&["true"]).run(&client).await.success();
}

#[tokio::test]
async fn digest_functions_are_listed_and_consistent() {
    let node = Node::start();
    let client = node.client().await;
    let cache = cache(&client).await;
    assert!(cache.digest_functions.contains(&(Function::Sha256 as i32)));
    assert!(cache.digest_functions.contains(&(Function::Blake3 as i32)));
    assert!(!cache.digest_functions.contains(&(Function::Unknown as i32)));
    let execution = execution(&client).await;
    assert_eq!(execution.digest_function, Function::Sha256 as i32);
    assert!(execution.digest_functions.contains(&execution.digest_function));
    for function in &execution.digest_functions {
        assert!(cache.digest_functions.contains(function), "{function}");
    }
}

#[tokio::test]
async fn update_enabled_tells_the_truth() {
    let node =
        Node::builder().config("[instances.\"\"]\n[instances.fixed]\naction-cache-updates = false").start();
    let open = node.client_of("").await;
    assert!(cache(&open).await.action_cache_update_capabilities.unwrap().update_enabled);
    let fixed = node.client_of("fixed").await;
    assert!(!cache(&fixed).await.action_cache_update_capabilities.unwrap().update_enabled);
    let action = fixed.digest(b"some action");
    let refused = fixed.update_action_result(&action, reapi::ActionResult::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
}

#[tokio::test]
async fn a_batch_of_exactly_the_limit_is_taken() {
    let node = Node::start();
    let client = node.client().await;
    let limit = usize::try_from(cache(&client).await.max_batch_total_size_bytes).unwrap();
    assert!(limit > 1024 * 1024, "{limit}");
    for size in [1024, 1024 * 1024] {
        let mut blobs = Vec::new();
        let mut left = limit;
        while left > 0 {
            let len = size.min(left);
            let data = random_bytes((size + left) as u64, len);
            blobs.push((client.digest(&data), data));
            left -= len;
        }
        let requests: Vec<_> = blobs.iter().map(|(digest, data)| (*digest, data.as_slice())).collect();
        let response = client.batch_update(&requests).await.unwrap();
        assert_eq!(response.responses.len(), blobs.len());
        assert!(response.responses.iter().all(|r| r.status.as_ref().is_none_or(|s| s.code == 0)));
        let digests: Vec<_> = blobs.iter().map(|(digest, _)| *digest).collect();
        let read = client.batch_read(&digests).await.unwrap();
        assert_eq!(read.responses.iter().map(|r| r.data.len()).sum::<usize>(), limit);
    }
}

#[tokio::test]
async fn compressors_are_listed_with_zstd_first_and_work() {
    let node = Node::start();
    let client = node.client().await;
    let cache = cache(&client).await;
    assert_eq!(cache.supported_compressors.first(), Some(&ZSTD));
    assert_eq!(cache.supported_batch_update_compressors.first(), Some(&ZSTD));
    // The round trip of each is in `compression`; here: nothing is listed that is not tested there.
    for compressor in cache.supported_compressors.iter().chain(&cache.supported_batch_update_compressors) {
        assert!([ZSTD, reapi::compressor::Value::Identity as i32].contains(compressor), "{compressor}");
    }
}

#[tokio::test]
async fn absolute_symlinks_are_allowed_as_advertised() {
    let node = Node::start();
    let client = node.client().await;
    assert_eq!(cache(&client).await.symlink_absolute_path_strategy, SymlinkStrategy::Allowed as i32);
    let action = ActionBuilder::sh("readlink link; ln -s /etc/hostname out").symlink("link", "/nowhere/x");
    let outcome = action.outputs(&["out"]).run(&client).await;
    outcome.success();
    assert_eq!(outcome.stdout(&client).await, "/nowhere/x\n");
    assert_eq!(outcome.result().output_symlinks[0].target, "/etc/hostname");
}

#[tokio::test]
async fn node_properties_are_those_honoured() {
    let node = Node::start();
    let client = node.client().await;
    let mut names = execution(&client).await.supported_node_properties;
    names.sort();
    for name in ["mtime", "unix_mode"] {
        assert!(names.iter().any(|n| n == name), "{names:?}");
    }
}
