//! `/status`: how the store is, under the names that bazel-remote gives these numbers.

use std::time::{SystemTime, UNIX_EPOCH};

use farmhand_proto::control::GetStatusResponse;
use serde::Serialize;

/// Numbers of the store. Nothing is stored compressed, and nothing is set aside for what is on its way.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Numbers<'a> {
    curr_size: u64,
    uncompressed_size: u64,
    reserved_size: u64,
    max_size: u64,
    num_files: u64,
    /// Seconds since 1970.
    server_time: u64,
    /// The version of the program: its commit is not known to it.
    git_commit: &'a str,
    machine: &'a str,
}

/// The document.
pub(super) fn json(status: &GetStatusResponse) -> String {
    let storage = status.storage.unwrap_or_default();
    let node = status.node.as_ref();
    let numbers = Numbers {
        curr_size: storage.used_bytes,
        uncompressed_size: storage.used_bytes,
        reserved_size: 0,
        max_size: storage.budget_bytes,
        num_files: storage.blobs + storage.action_results,
        server_time: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
        git_commit: node.map_or("", |node| &node.version),
        machine: node.map_or("", |node| &node.name),
    };
    let text = serde_json::to_string_pretty(&numbers).expect("invariant: numbers and texts are JSON");
    text + "\n"
}
