//! Results that a person pins stay, whatever else has to go, across restarts.

use farmhand::digest::Digest;
use farmhand_proto::control::PinActionRequest;
use farmhand_proto::reapi;
use tonic::{Code, Status};

use super::support::{ActionBuilder, Client, Node, random_bytes};

/// A node in which little has room, and nothing is kept for being used.
fn small_node() -> Node {
    Node::builder().config("lease = \"0s\"\ndisk-budget = \"32MiB\"").start()
}

/// Writes twice as much as there is room for, in large and small blobs.
async fn turn_over(client: &Client, seed: u64) {
    for number in 0..64 {
        client.put(&random_bytes(seed * 1000 + number, 1_000_000)).await;
        client.put(&random_bytes(seed * 1000 + number + 500, 20_000)).await;
    }
}

async fn result_of(client: &Client, action: &Digest) -> Result<reapi::ActionResult, Status> {
    let request =
        reapi::GetActionResultRequest { action_digest: Some(action.to_wire()), ..Default::default() };
    Ok(client.action_cache().get_action_result(request).await?.into_inner())
}

/// The result is there, and all its outputs can be read.
async fn assert_whole(client: &Client, action: &Digest) {
    let result = result_of(client, action).await.unwrap();
    let tree = result.output_directories[0].tree_digest.as_ref();
    let digests = [result.output_files[0].digest.as_ref(), tree, result.stdout_digest.as_ref()];
    for digest in digests {
        let digest = Digest::from_field(client.function, digest).unwrap();
        assert_eq!(client.read(&digest).await.unwrap().len() as u64, digest.size());
    }
    assert_eq!(client.read(&client.digest(b"inside\n")).await.unwrap(), b"inside\n");
}

fn stdout(output: &std::process::Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[tokio::test]
async fn a_pinned_result_stays_until_it_is_unpinned() {
    let mut node = small_node();
    let client = node.client().await;
    let script = "head -c 1000000 /dev/urandom > large; mkdir dir; echo inside > dir/f; echo said";
    let action = ActionBuilder::sh(script).outputs(&["large", "dir"]);
    let pinned = action.clone().run(&client).await;
    let other = action.salt("other").run(&client).await;
    pinned.success();
    other.success();
    let digest = pinned.action_digest.to_string();
    assert!(stdout(&node.cli(&["action", &digest, "pin"])).starts_with("pinned: "));
    assert!(stdout(&node.cli(&["action", &digest, "show"])).contains("pinned       yes"));
    assert!(stdout(&node.cli(&["status"])).contains("1 result pinned"));

    turn_over(&client, 1).await;
    assert_whole(&client, &pinned.action_digest).await;
    assert_eq!(result_of(&client, &other.action_digest).await.unwrap_err().code(), Code::NotFound);

    for (round, stop) in
        [Node::kill, |node: &mut Node| assert!(node.stop().success())].into_iter().enumerate()
    {
        stop(&mut node);
        node.restart();
        let client = node.client().await;
        turn_over(&client, 2 + round as u64).await;
        assert_whole(&client, &pinned.action_digest).await;
    }

    let client = node.client().await;
    assert!(stdout(&node.cli(&["action", &digest, "unpin"])).starts_with("not pinned"));
    turn_over(&client, 9).await;
    assert_eq!(result_of(&client, &pinned.action_digest).await.unwrap_err().code(), Code::NotFound);
    let again = node.cli(&["action", &digest, "pin"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("hint: run the action again"));
}

#[tokio::test]
async fn pins_leave_room_to_work_in() {
    let node = small_node();
    let client = node.client().await;
    let mut refused = None;
    for number in 0..8 {
        let script = format!("head -c 4000000 /dev/urandom > out; : {number}");
        let outcome = ActionBuilder::sh(&script).outputs(&["out"]).run(&client).await;
        outcome.success();
        let digest = outcome.action_digest.to_string();
        let request = PinActionRequest { digest, ..Default::default() };
        match node.control().await.pin_action(request).await {
            Ok(pinned) => {
                let pinned = pinned.into_inner();
                assert!(pinned.pinned && pinned.bytes >= 4_000_000, "{pinned:?}");
            }
            Err(status) => {
                refused = Some((number, status));
                break;
            }
        }
    }
    let (number, status) = refused.expect("half of the budget is the most");
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(number == 4 && status.message().contains("half of the budget"), "{number}: {status}");
    turn_over(&client, 1).await;
}
