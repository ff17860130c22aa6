//! PRI: who runs first.

use std::time::Duration;

use farmhand_proto::reapi::{self, ExecutionPolicy, RequestMetadata};
use tonic::Request;

use crate::request_metadata::attach;
use crate::support::action::finish;
use crate::support::{ActionBuilder, Client, Node};

/// Starts actions while the only slot is held, in this order; the salts in the order of their runs.
async fn order(client: &Client, actions: &[(&str, i32, &str)]) -> Vec<String> {
    let holder = ActionBuilder::sh("sleep 1").do_not_cache();
    let digest = holder.upload(client).await;
    let held = holder.start(client, &digest).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut runs = tokio::task::JoinSet::new();
    for (salt, priority, invocation) in actions {
        let mut action = ActionBuilder::sh("sleep 0.02").salt(salt);
        action.request.execution_policy = Some(ExecutionPolicy { priority: *priority });
        let digest = action.upload(client).await;
        let mut request = Request::new(action.execute_request(client, &digest));
        attach(
            &mut request,
            &RequestMetadata { tool_invocation_id: (*invocation).into(), ..Default::default() },
        );
        let stream = client.execution().execute(request).await.unwrap().into_inner();
        let salt = (*salt).to_owned();
        runs.spawn(async move {
            let outcome = finish(stream, digest).await.unwrap();
            let metadata = outcome.success().execution_metadata.clone().unwrap();
            let start = metadata.execution_start_timestamp.unwrap();
            ((start.seconds, start.nanos), salt)
        });
    }
    finish(held, digest).await.unwrap();
    let mut started = runs.join_all().await;
    started.sort();
    started.into_iter().map(|(_, salt)| salt).collect()
}

#[tokio::test]
async fn lower_numbers_run_sooner() {
    let node = Node::builder().arguments(&["--slots", "1"]).start();
    let client = node.client().await;
    let actions = [("later", 5, "i"), ("default", 0, "i"), ("sooner", -5, "i")];
    assert_eq!(order(&client, &actions).await, ["sooner", "default", "later"]);
}

#[tokio::test]
async fn one_action_of_another_build_is_not_starved() {
    let node = Node::builder().arguments(&["--slots", "1"]).start();
    let client = node.client().await;
    let salts: Vec<String> = (0..40).map(|i| format!("many {i}")).collect();
    let mut actions: Vec<_> = salts.iter().map(|salt| (salt.as_str(), 0, "A")).collect();
    actions.push(("the one", 0, "B"));
    let order = order(&client, &actions).await;
    let place = order.iter().position(|salt| salt == "the one").unwrap();
    assert!(place <= 3, "ran as number {place}");
}

#[tokio::test]
async fn ranges_are_listed_and_everything_inside_and_outside_is_taken() {
    let node = Node::start();
    let client = node.client().await;
    let capabilities = client.get_capabilities().await.unwrap();
    let covers = |capabilities: Option<reapi::PriorityCapabilities>| {
        let ranges = capabilities.expect("priorities are listed").priorities;
        ranges.iter().any(|range| range.min_priority <= -100 && range.max_priority >= 100)
    };
    assert!(covers(capabilities.execution_capabilities.unwrap().execution_priority_capabilities));
    assert!(covers(capabilities.cache_capabilities.unwrap().cache_priority_capabilities));
    for priority in [i32::MIN, -1, 3, 99_999, i32::MAX] {
        let mut action = ActionBuilder::sh("true").salt(&priority.to_string());
        action.request.execution_policy = Some(ExecutionPolicy { priority });
        action.request.results_cache_policy = Some(reapi::ResultsCachePolicy { priority });
        action.run(&client).await.success();
    }
}

/// Two callers of one action, the second more urgent: it overtakes what was queued between them.
#[tokio::test]
async fn a_merged_action_takes_the_most_urgent_priority() {
    let node = Node::builder().arguments(&["--slots", "1"]).start();
    let client = node.client().await;
    let actions = [("merged", 5, "i"), ("between", 0, "i"), ("merged", -5, "i")];
    let order = order(&client, &actions).await;
    assert_eq!(order, ["merged", "merged", "between"]);
}
