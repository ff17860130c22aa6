//! META: ExecutedActionMetadata of results and of running operations.

use farmhand_proto::protobuf::Timestamp;
use farmhand_proto::reapi::ExecutedActionMetadata;
use farmhand_proto::reapi::execution_stage::Value as Stage;

use crate::support::{ActionBuilder, Node};

fn seconds(timestamp: &Option<Timestamp>) -> f64 {
    let timestamp = timestamp.as_ref().expect("every timestamp is set");
    assert!(timestamp.seconds > 1_600_000_000, "{timestamp:?}");
    timestamp.seconds as f64 + f64::from(timestamp.nanos) / 1e9
}

fn timeline(metadata: &ExecutedActionMetadata) -> Vec<f64> {
    [
        &metadata.queued_timestamp,
        &metadata.worker_start_timestamp,
        &metadata.input_fetch_start_timestamp,
        &metadata.input_fetch_completed_timestamp,
        &metadata.execution_start_timestamp,
        &metadata.execution_completed_timestamp,
        &metadata.output_upload_start_timestamp,
        &metadata.output_upload_completed_timestamp,
        &metadata.worker_completed_timestamp,
    ]
    .map(seconds)
    .to_vec()
}

#[tokio::test]
async fn runs_have_a_worker_and_a_whole_timeline() {
    let node = Node::start();
    let client = node.client().await;
    for script in ["sleep 0.2", "exit 1"] {
        let outcome = ActionBuilder::sh(script).run(&client).await;
        let metadata = outcome.result().execution_metadata.clone().expect("always there");
        assert_eq!(metadata.worker, "testnode");
        let timeline = timeline(&metadata);
        assert!(timeline.is_sorted(), "{timeline:?}");
    }
}

#[tokio::test]
async fn the_virtual_duration_is_that_of_the_run() {
    let node = Node::start();
    let client = node.client().await;
    let outcome = ActionBuilder::sh("sleep 0.3").run(&client).await;
    let metadata = outcome.success().execution_metadata.clone().unwrap();
    let duration = metadata.virtual_execution_duration.expect("set");
    let duration = duration.seconds as f64 + f64::from(duration.nanos) / 1e9;
    let measured =
        seconds(&metadata.execution_completed_timestamp) - seconds(&metadata.execution_start_timestamp);
    assert!(duration >= 0.3, "{duration}");
    assert!(duration <= measured + 0.05, "{duration} of {measured}");
}

#[tokio::test]
async fn auxiliary_metadata_has_proper_type_urls() {
    let node = Node::start();
    let client = node.client().await;
    let outcome = ActionBuilder::sh("true").run(&client).await;
    for any in outcome.success().execution_metadata.clone().unwrap().auxiliary_metadata {
        assert!(any.type_url.starts_with("type.googleapis.com/"), "{}", any.type_url);
    }
}

#[tokio::test]
async fn the_worker_is_named_while_the_action_runs() {
    let node = Node::start();
    let client = node.client().await;
    let outcome = ActionBuilder::sh("sleep 0.3").run(&client).await;
    let executing: Vec<_> =
        outcome.metadata().into_iter().filter(|metadata| metadata.stage() == Stage::Executing).collect();
    assert!(!executing.is_empty());
    let last = executing.last().unwrap().partial_execution_metadata.as_ref().expect("filled while it runs");
    assert_eq!(last.worker, "testnode");
}

#[tokio::test]
async fn cached_results_keep_it_byte_for_byte() {
    let node = Node::start();
    let client = node.client().await;
    let action = ActionBuilder::sh("echo metadata");
    let first = action.run(&client).await;
    let second = action.run(&client).await;
    assert!(second.response.cached_result);
    assert_eq!(first.success().execution_metadata, second.success().execution_metadata);
}
