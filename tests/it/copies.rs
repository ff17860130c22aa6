//! COPY: blobs and results of a farm, which survive the loss of any machine.

use std::time::Duration;

use farmhand::digest::Digest;
use farmhand_proto::control::machine::State;
use farmhand_proto::control::{GetStatusRequest, Replication};
use farmhand_proto::reapi::ActionResult;
use tonic::Code;

use crate::links::{Keys, is_linked, machines, until};
use crate::support::{ActionBuilder, Client, Node, random_bytes};

/// Machines of a farm, each of which is linked with each.
struct Farm {
    nodes: Vec<Node>,
    _keys: Keys,
}

/// Names of the machines.
const NAMES: [&str; 3] = ["attic", "cellar", "shed"];

// === impl Farm ===

impl Farm {
    /// So many machines with these settings, linked.
    async fn new(count: usize, config: &str) -> Self {
        let keys = Keys::new();
        let mut nodes: Vec<Node> = Vec::new();
        for name in &NAMES[..count] {
            let peers = nodes.iter().map(|node| node.peer_address.to_string());
            let arguments: Vec<String> = peers.flat_map(|address| ["--peer".to_owned(), address]).collect();
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            nodes.push(keys.node(name, &arguments).arguments(&["--slots", "2"]).config(config).start());
        }
        let farm = Self { nodes, _keys: keys };
        farm.linked().await;
        farm
    }

    /// Waits until all are linked, and agree on who keeps copies.
    async fn linked(&self) {
        for (number, node) in self.nodes.iter().enumerate() {
            for other in (0..self.nodes.len()).filter(|other| *other != number) {
                until(node, NAMES[other], |machine| is_linked(machine) && machine.keeps_copies).await;
            }
            let all = u32::try_from(self.nodes.len()).unwrap();
            copies(node, |copies| copies.keepers == all && copies.compared >= 1.0).await;
        }
    }

    async fn clients(&self) -> Vec<Client> {
        let mut clients = Vec::new();
        for node in &self.nodes {
            clients.push(node.client().await);
        }
        clients
    }
}

/// How far the copies are of what `node` has; `None` where there is nobody else.
async fn replication(node: &Node) -> Option<Replication> {
    let status = node.control().await.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    status.storage.unwrap().replication
}

/// Waits until the copies of what `node` has are as wanted.
async fn copies(node: &Node, is_so: impl Fn(&Replication) -> bool) -> Replication {
    for _ in 0..600 {
        if let Some(copies) = replication(node).await.filter(|copies| is_so(copies)) {
            return copies;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("copies are not as wanted after 30 s: {:#?}\n{}", replication(node).await, node.log());
}

/// Waits until there are as many copies as there should be of all that `node` has.
async fn all_copied(node: &Node) {
    copies(node, |copies| copies.sole_entries == 0 && copies.owed_copies == 0 && copies.compared >= 1.0)
        .await;
}

/// Blobs of all sizes that travel differently.
fn blobs() -> Vec<Vec<u8>> {
    let small = (0..40_u64).map(|seed| random_bytes(seed, 50 + usize::try_from(seed).unwrap() * 37));
    small.chain([random_bytes(100, 300 << 10), random_bytes(101, 700 << 10), vec![7; 5 << 20]]).collect()
}

async fn put_all(client: &Client, blobs: &[Vec<u8>]) -> Vec<Digest> {
    let mut digests = Vec::new();
    for blob in blobs {
        digests.push(client.put(blob).await);
    }
    digests
}

/// A node that can be asked says that all are there, and has them.
async fn assert_all_there(client: &Client, digests: &[Digest], blobs: &[Vec<u8>]) {
    assert_eq!(client.find_missing(digests).await.unwrap(), []);
    for (digest, blob) in digests.iter().zip(blobs) {
        assert!(client.read(digest).await.unwrap() == *blob, "{digest}");
    }
}

#[tokio::test]
async fn what_is_written_on_one_machine_is_there_on_all() {
    let farm = Farm::new(3, "").await;
    let (clients, blobs) = (farm.clients().await, blobs());
    let digests = put_all(&clients[0], &blobs).await;
    for client in &clients {
        assert_all_there(client, &digests, &blobs).await;
    }
    let nowhere = clients[1].digest(b"nowhere");
    assert_eq!(clients[1].find_missing(&[nowhere, digests[0]]).await.unwrap(), [nowhere]);
    assert_eq!(clients[1].read(&nowhere).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn what_was_copied_survives_the_loss_of_a_machine() {
    let mut farm = Farm::new(3, "").await;
    let (clients, blobs) = (farm.clients().await, blobs());
    let digests = put_all(&clients[0], &blobs).await;
    let action = clients[0].digest(b"an action");
    let result = ActionResult {
        stdout_digest: Some(digests[0].to_wire()),
        stderr_digest: Some(digests[42].to_wire()),
        ..Default::default()
    };
    clients[0].update_action_result(&action, result.clone()).await.unwrap();
    all_copied(&farm.nodes[0]).await;
    farm.nodes[0].kill();
    for client in &clients[1..] {
        assert_all_there(client, &digests, &blobs).await;
        let found = client.action_result(&action).await.expect("the result is there");
        assert_eq!(
            (found.stdout_digest, found.stderr_digest),
            (result.stdout_digest.clone(), result.stderr_digest.clone())
        );
    }
}

#[tokio::test]
async fn results_of_one_machine_are_hits_on_another() {
    let farm = Farm::new(2, "").await;
    let clients = farm.clients().await;
    let action =
        ActionBuilder::sh("cat in > out; echo made >> out; echo done").file("in", "text").outputs(&["out"]);
    let made = action.run(&clients[0]).await;
    assert!(!made.response.cached_result);
    let found = action.run(&clients[1]).await;
    assert!(found.response.cached_result, "{:?}", found.response);
    assert_eq!(found.output(&clients[1], "out").await, b"textmade\n");
    assert_eq!(found.stdout(&clients[1]).await, "done\n");
}

#[tokio::test]
async fn inputs_of_an_action_may_be_on_another_machine() {
    let farm = Farm::new(2, "guest-slots = 0").await;
    let clients = farm.clients().await;
    let large = random_bytes(7, 3 << 20);
    let action =
        ActionBuilder::sh("cat d/small large | wc -c").file("d/small", "small").file("large", &large);
    let digest = action.upload(&clients[0]).await;
    let stream = action.start(&clients[1], &digest).await.unwrap();
    let outcome = crate::support::action::finish(stream, digest).await.unwrap();
    let metadata = outcome.success().execution_metadata.as_ref().unwrap();
    assert_eq!(metadata.worker, "cellar");
    assert_eq!(outcome.stdout(&clients[1]).await.trim(), (large.len() + 5).to_string());
}

#[tokio::test]
async fn what_a_lost_machine_had_is_copied_anew() {
    let mut farm = Farm::new(3, "repair-after = \"10s\"").await;
    let (clients, blobs) = (farm.clients().await, blobs());
    let digests = put_all(&clients[0], &blobs).await;
    all_copied(&farm.nodes[0]).await;
    farm.nodes[0].kill();
    until(&farm.nodes[1], "attic", |attic| attic.state() == State::Lost).await;
    let status = farm.nodes[1].control().await.get_status(GetStatusRequest {}).await.unwrap().into_inner();
    let told = status.warnings.iter().any(|warning| warning.text.contains("attic is gone; if it does not"));
    assert!(told, "{:?}", status.warnings);
    for node in &farm.nodes[1..] {
        copies(node, |copies| copies.keepers == 2).await;
        all_copied(node).await;
    }
    farm.nodes[1].kill();
    assert_all_there(&clients[2], &digests, &blobs).await;
}

#[tokio::test]
async fn what_a_machine_missed_while_it_was_away_comes_when_it_is_back() {
    let mut farm = Farm::new(2, "").await;
    let address = farm.nodes[0].peer_address.to_string();
    farm.nodes[0].change_arguments(|arguments| arguments.extend(["--peer-listen".to_owned(), address]));
    let client = farm.nodes[1].client().await;
    farm.nodes[0].kill();
    let blobs = blobs();
    let digests = put_all(&client, &blobs).await;
    copies(&farm.nodes[1], |copies| copies.owed_copies > 0).await;
    farm.nodes[0].restart();
    all_copied(&farm.nodes[1]).await;
    farm.nodes[1].kill();
    assert_all_there(&farm.nodes[0].client().await, &digests, &blobs).await;
}

#[tokio::test]
async fn a_machine_that_was_drained_takes_nothing_with_it() {
    for wanted in [1, 2] {
        let mut farm = Farm::new(3, &format!("copies = {wanted}")).await;
        let (clients, blobs) = (farm.clients().await, blobs());
        let digests = put_all(&clients[0], &blobs).await;
        let drained = farm.nodes[0].cli(&["drain", "--wait"]);
        let text = String::from_utf8(drained.stdout).unwrap();
        assert!(drained.status.success() && text.contains("nothing is lost if it leaves"), "{text}");
        farm.nodes[0].kill();
        for client in &clients[1..] {
            assert_all_there(client, &digests, &blobs).await;
        }
    }
}

#[tokio::test]
async fn a_machine_alone_says_that_nobody_takes_over() {
    let node = Node::start();
    node.client().await.put(b"only here").await;
    let drained = node.cli(&["drain", "--wait"]);
    let told = String::from_utf8(drained.stderr).unwrap();
    assert!(drained.status.success(), "{told}");
    assert!(told.contains("no other machine to take over") && told.contains("1 blob or result"), "{told}");
    assert_eq!(replication(&node).await, None);
}

#[tokio::test]
async fn writes_may_wait_for_their_copies() {
    let settings = "copies-before-ack = 2";
    let alone = Node::builder().config(settings).start();
    let client = alone.client().await;
    let error = client.write(&client.digest(b"alone"), b"alone").await.unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert!(error.message().contains("1 of the 2 machines"), "{error}");
    let status = String::from_utf8(alone.cli(&["status"]).stdout).unwrap();
    assert!(status.contains("writes fail: copies-before-ack is 2"), "{status}");

    let mut farm = Farm::new(2, settings).await;
    let (clients, blobs) = (farm.clients().await, blobs());
    let digests = put_all(&clients[0], &blobs).await;
    farm.nodes[0].kill();
    assert_all_there(&clients[1], &digests, &blobs).await;
    let late = clients[1].write(&clients[1].digest(b"late"), b"late").await.unwrap_err();
    assert_eq!(late.code(), Code::Unavailable, "{late}");
}

#[tokio::test]
async fn a_machine_may_keep_no_copies() {
    let keys = Keys::new();
    let attic = keys.node("attic", &[]).start();
    let at_attic = attic.peer_address.to_string();
    let laptop =
        keys.node("laptop", &["--peer", &at_attic]).environment("FARMHAND_KEEP_COPIES", "never").start();
    until(&attic, "laptop", |laptop| is_linked(laptop) && !laptop.caches_because.is_empty()).await;
    until(&laptop, "attic", |attic| is_linked(attic) && attic.keeps_copies).await;
    let (client, blobs) = (laptop.client().await, blobs());
    let digests = put_all(&client, &blobs).await;
    all_copied(&laptop).await;
    let own = machines(&laptop).await.remove(0);
    assert!(!own.keeps_copies && own.caches_because.contains("keep-copies"), "{own:?}");
    let text = String::from_utf8(attic.cli(&["machines"]).stdout).unwrap();
    assert!(text.contains("keeps no copies for others"), "{text}");
    drop(laptop);
    assert_all_there(&attic.client().await, &digests, &blobs).await;
}

#[tokio::test]
async fn how_copies_stand_is_told() {
    let farm = Farm::new(2, "copies = 3").await;
    let client = farm.nodes[0].client().await;
    client.put(b"told of").await;
    all_copied(&farm.nodes[0]).await;
    let text = String::from_utf8(farm.nodes[0].cli(&["status"]).stdout).unwrap();
    assert!(text.contains("Copies    2 of each (of 3 wanted) on 2 machines · all made"), "{text}");
    assert!(text.contains("2 machines keep copies, and 3 are wanted"), "{text}");
    let json: serde_json::Value =
        serde_json::from_slice(&farm.nodes[0].cli(&["status", "--json"]).stdout).unwrap();
    assert_eq!(json["storage"]["replication"]["sent_copies"], 1);
    assert_eq!(json["machines"][1]["keeps_copies"], true);
}
