//! What a node remembers: over restarts, kills and damage, and why actions missed.

use farmhand_proto::reapi::RequestMetadata;
use serde_json::Value;
use tonic::Request;

use super::request_metadata::attach;
use super::support::action::finish;
use super::support::{ActionBuilder, Client, Node, Outcome, random_bytes};

/// Longer than the history takes to write down what ended.
const WRITTEN: std::time::Duration = std::time::Duration::from_secs(3);

fn json(node: &Node, arguments: &[&str]) -> Value {
    let output = node.cli(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn actions(node: &Node, arguments: &[&str]) -> Vec<Value> {
    let all = [&["actions", "--json"], arguments].concat();
    json(node, &all).as_array().unwrap().clone()
}

/// Why the last operation in the list missed.
fn why_last(node: &Node) -> Value {
    let listed = actions(node, &["--limit", "1"]);
    json(node, &["action", listed[0]["name"].as_str().unwrap(), "why", "--json"])
}

/// Runs an action for a target of a build.
async fn run_for(client: &Client, build: &str, target: &str, action: &ActionBuilder) -> Outcome {
    let digest = action.upload(client).await;
    let mut request = Request::new(action.execute_request(client, &digest));
    let metadata = RequestMetadata {
        tool_invocation_id: build.into(),
        action_mnemonic: "CppCompile".into(),
        target_id: target.into(),
        ..Default::default()
    };
    attach(&mut request, &metadata);
    let stream = client.execution().execute(request).await.unwrap().into_inner();
    finish(stream, digest).await.unwrap()
}

fn compile(flag: &str, header: &str) -> ActionBuilder {
    ActionBuilder::new(&["/bin/sh", "-c", "cat src/*.h > foo.o", "cc", flag])
        .file("src/foo.c", "int x;")
        .file("src/foo.h", header)
        .outputs(&["foo.o"])
}

#[tokio::test]
async fn the_reason_of_a_miss_is_told_in_words_and_differences() {
    let node = Node::start();
    let client = node.client().await;
    run_for(&client, "b1", "//a:foo", &compile("-O2", "1")).await.success();
    assert_eq!(why_last(&node)["miss"], "first");
    run_for(&client, "b2", "//a:foo", &compile("-O2", "2")).await.success();
    let why = why_last(&node);
    assert_eq!((&why["miss"], &why["total_differences"]), (&"changed".into(), &1.into()), "{why}");
    assert!(why["summary"].as_str().unwrap().starts_with("src/foo.h changed ("), "{why}");
    run_for(&client, "b2", "//a:foo", &compile("-O3", "2")).await.success();
    assert_eq!(why_last(&node)["summary"], "the argument -O2 became -O3");
    run_for(&client, "b3", "//a:bar", &compile("-O3", "3")).await.success();
    assert_eq!(why_last(&node)["miss"], "first", "another target is another thing");

    let text = String::from_utf8(node.cli(&["actions", "--target", "a:foo"]).stdout).unwrap();
    assert!(text.contains("CppCompile //a:foo  (changed)") && text.contains("3 listed"), "{text}");
}

#[tokio::test]
async fn an_action_that_failed_says_so_when_it_misses_again() {
    let node = Node::start();
    let client = node.client().await;
    let failing = ActionBuilder::sh("echo oh no >&2; exit 7");
    failing.run(&client).await;
    failing.run(&client).await;
    let why = why_last(&node);
    assert_eq!(why["summary"], "the last run failed with exit code 7, so nothing was kept");
    let cached_never = ActionBuilder::sh("true").do_not_cache();
    cached_never.run(&client).await.success();
    assert_eq!(why_last(&node)["miss"], "not cached");
    let plain = ActionBuilder::sh("true # plain");
    plain.run(&client).await.success();
    plain.run(&client).await.success();
    assert_eq!(actions(&node, &["--limit", "1"])[0]["cached"], true);
    assert_eq!(why_last(&node)["miss"], "hit");
    plain.skip_cache_lookup().run(&client).await.success();
    assert_eq!(why_last(&node)["miss"], "skipped");
}

/// The explanation may come when they are over, and remembered.
#[tokio::test]
async fn quick_actions_do_not_take_themselves_for_earlier_ones() {
    let node = Node::start();
    let client = node.client().await;
    for number in 0..30 {
        let action = ActionBuilder::new(&["/bin/true", &number.to_string()]);
        run_for(&client, "b1", &format!("//quick:{number}"), &action).await.success();
    }
    for action in actions(&node, &[]) {
        let why = json(&node, &["action", action["name"].as_str().unwrap(), "why", "--json"]);
        assert_eq!(why["miss"], "first", "{why}");
    }
}

#[tokio::test]
async fn a_result_that_was_evicted_is_told_from_a_change() {
    let node = Node::builder().config("disk-budget = \"64MB\"\nlease = \"0s\"").start();
    let client = node.client().await;
    let action = compile("-O2", "1");
    run_for(&client, "b", "//a:foo", &action).await.success();
    // Uses are told apart by the second.
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    for seed in 0..90 {
        client.put(&random_bytes(seed, 1 << 20)).await;
    }
    let again = run_for(&client, "b", "//a:foo", &action).await;
    assert!(!again.response.cached_result, "it was evicted");
    let why = why_last(&node);
    assert_eq!(why["miss"], "evicted", "{why}");
    assert!(why["summary"].as_str().unwrap().contains("was evicted"), "{why}");
}

#[tokio::test]
async fn lists_are_filtered_and_go_back_over_restarts_and_kills() {
    let mut node = Node::start();
    let client = node.client().await;
    run_for(&client, "b1", "//a:foo", &compile("-O1", "1")).await.success();
    run_for(&client, "b1", "//a:foo", &compile("-O1", "1")).await.success();
    let failing = ActionBuilder::sh("echo oh no >&2; exit 7");
    let failed = run_for(&client, "b2", "//a:bar", &failing).await.action_digest;
    assert!(node.stop().success());
    node.restart();
    let client = node.client().await;
    run_for(&client, "b3", "//a:foo", &compile("-O2", "1")).await.success();
    tokio::time::sleep(WRITTEN).await;
    node.kill();
    node.restart();

    let count = |arguments: &[&str]| actions(&node, arguments).len();
    assert_eq!(count(&[]), 4);
    assert_eq!(count(&["--limit", "2"]), 2);
    assert_eq!(count(&["--build", "b1"]), 2);
    assert_eq!(count(&["--target", "a:foo", "--outcome", "succeeded"]), 2);
    assert_eq!(count(&["--outcome", "cached,failed"]), 2);
    assert_eq!(count(&["--mnemonic", "CppCompile", "--machine", "testnode", "--since", "1h"]), 3);
    assert_eq!(count(&["--until", "1h"]), 0);
    let sequences: Vec<u64> =
        actions(&node, &[]).iter().map(|action| action["sequence"].as_u64().unwrap()).collect();
    assert!(sequences.is_sorted_by(|newer, older| newer > older), "{sequences:?}");

    // Nothing of a failed action is in the action cache; that it is shown comes from the history.
    let shown = node.cli(&["action", &failed.hash_hex(), "show"]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("exit 7") && shown.contains("exit code    7"), "{shown}");
    let line = shown.lines().find(|line| line.trim_start().starts_with("stderr")).unwrap();
    let stderr = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_eq!(node.client().await.read(&stderr).await.unwrap(), b"oh no\n");
    let why = json(&node, &["action", &failed.to_string(), "why", "--json"]);
    assert_eq!(why["miss"], "first");
}

#[tokio::test]
async fn damage_to_the_history_costs_nothing_else() {
    let mut node = Node::start();
    let client = node.client().await;
    let action = ActionBuilder::sh("echo kept > out").outputs(&["out"]);
    action.run(&client).await.success();
    for damage in ["cut", "flipped", "deleted"] {
        assert!(node.stop().success());
        for entry in std::fs::read_dir(node.data_dir().join("history/runs")).unwrap() {
            let file = entry.unwrap().path();
            let data = std::fs::read(&file).unwrap();
            match damage {
                "cut" => std::fs::write(&file, &data[..data.len() / 2]).unwrap(),
                "flipped" => {
                    let flipped: Vec<u8> = data.iter().map(|byte| byte ^ 0x10).collect();
                    std::fs::write(&file, flipped).unwrap();
                }
                _ => std::fs::remove_file(&file).unwrap(),
            }
        }
        node.restart();
        let client = node.client().await;
        assert!(action.run(&client).await.response.cached_result, "{damage}: the store is whole");
        let listed = actions(&node, &[]);
        assert!(listed.iter().any(|action| action["cached"] == true), "{damage}: it goes on");
        let log = node.log();
        assert!(!log.contains("rebuilding the index"), "{damage}: {log}");
        assert_eq!(log.contains("damaged and passed over"), damage == "flipped", "{damage}: {log}");
        // So that there is something to damage.
        ActionBuilder::sh(&format!("true # {damage}")).run(&client).await.success();
    }
}
