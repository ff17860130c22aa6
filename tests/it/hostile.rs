//! Clients that mean no good, or lost their way: whatever they do, the node holds a bounded amount for
//! them, serves the others meanwhile, and is as before when they are gone.
//!
//! Bounded for every day. `FARMHAND_HOSTILE=50` does fifty times as much and prints what it took.

use std::fs;
use std::time::Duration;

use farmhand_proto::{bytestream, reapi};
use prost::Message;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use crate::support::wire::{Wire, grpc};
use crate::support::{ActionBuilder, Client, Node, random_bytes};

const WRITE: &str = "/google.bytestream.ByteStream/Write";
const READ: &str = "/google.bytestream.ByteStream/Read";
const CAS: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage";
const EXECUTE: &str = "/build.bazel.remote.execution.v2.Execution/Execute";
const CAPABILITIES: &str = "/build.bazel.remote.execution.v2.Capabilities/GetCapabilities";

/// The window clients have unless they say otherwise.
const WINDOW: u32 = 65_535;

const MIB: u64 = 1 << 20;

/// How many times what a test usually does.
fn scale() -> usize {
    std::env::var("FARMHAND_HOSTILE").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// What a node takes of the machine.
#[derive(Clone, Copy, Debug)]
struct Usage {
    memory: u64,
    descriptors: usize,
}

impl Usage {
    fn of(node: &Node) -> Self {
        let process = format!("/proc/{}", node.pid());
        let status = fs::read_to_string(format!("{process}/status")).unwrap();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: u64 = kib.trim().trim_end_matches(" kB").parse().unwrap();
        let descriptors = fs::read_dir(format!("{process}/fd")).unwrap().count();
        Self { memory: kib * 1024, descriptors }
    }
}

/// A node under attack, and what it took before.
struct Attacked {
    node: Node,
    before: Usage,
}

impl Attacked {
    async fn start(config: &str) -> Self {
        let node = Node::builder().config(config).start();
        healthy(&node).await;
        let before = Usage::of(&node);
        Self { node, before }
    }

    /// Asserts that others are served now, and that the node took no more than `mib` MiB.
    async fn stands(&self, what: &str, mib: u64) {
        let during = Usage::of(&self.node);
        healthy(&self.node).await;
        let after = Usage::of(&self.node);
        eprintln!("{what}: {:?}, then {during:?}, then {after:?}", self.before);
        let most = self.before.memory + mib * MIB;
        assert!(during.memory.max(after.memory) <= most, "{what}: {:?}, {during:?}, {after:?}", self.before);
    }

    /// Asserts that everything the attackers had open is closed in the end.
    async fn recovers(&self) {
        let is_over = || Usage::of(&self.node).descriptors <= self.before.descriptors + 2;
        eventually("descriptors are freed", is_over).await;
        healthy(&self.node).await;
    }

    fn temporary_files(&self) -> usize {
        fs::read_dir(self.node.data_dir().join("tmp")).unwrap().count()
    }
}

/// A client like any other: it is served.
async fn healthy(node: &Node) {
    let work = async {
        let client = node.client().await;
        client.get_capabilities().await.unwrap();
        let data = random_bytes(u64::from(std::process::id()) + node.log().len() as u64, 100_000);
        let digest = client.digest(&data);
        client.write(&digest, &data).await.unwrap();
        assert!(client.read(&digest).await.unwrap() == data);
        assert!(client.has(&client.put(&data[..1000]).await).await);
    };
    tokio::time::timeout(Duration::from_secs(60), work).await.expect("others are served");
}

async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..600 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{what}: not within 30 s");
}

/// The first message of an upload of `size` bytes that will not come.
fn first_message(size: usize, number: usize, data: usize) -> bytestream::WriteRequest {
    let hash = format!("{number:064x}");
    bytestream::WriteRequest {
        resource_name: format!("uploads/{number}/blobs/{hash}/{size}"),
        data: vec![7; data],
        ..Default::default()
    }
}

#[tokio::test]
async fn connections_that_say_nothing_are_closed_and_idle_ones_are_kept() {
    let attacked = Attacked::start("handshake-timeout = \"1s\"").await;
    let count = 50 * scale();
    let mut idle = Vec::new();
    let mut silent = Vec::new();
    let mut slow = Vec::new();
    for _ in 0..count {
        idle.push(Wire::begin(attacked.node.address, WINDOW).await);
        silent.push(Wire::connect(attacked.node.address).await);
        let mut begun = Wire::connect(attacked.node.address).await;
        begun.send(b"PRI * HTTP/2.0\r\n").await;
        slow.push(begun);
    }
    attacked.stands("silent and idle connections", 64).await;
    for wire in silent.iter_mut().chain(&mut slow) {
        assert!(wire.is_closed().await);
    }
    eventually("idle ones stay", || {
        Usage::of(&attacked.node).descriptors <= attacked.before.descriptors + count + 2
    })
    .await;
    assert!(idle[0].call(CAPABILITIES, &reapi::GetCapabilitiesRequest::default()).await);
    drop(idle);
    attacked.recovers().await;
}

#[tokio::test]
async fn one_connection_too_many_closes_the_one_that_is_quiet_for_longest() {
    let attacked = Attacked::start("max-connections = 20").await;
    let mut idle = Vec::new();
    for _ in 0..60 {
        idle.push(Wire::begin(attacked.node.address, WINDOW).await);
    }
    healthy(&attacked.node).await;
    assert!(idle[0].is_closed().await);
    let descriptors = Usage::of(&attacked.node).descriptors;
    assert!(descriptors <= attacked.before.descriptors + 20, "{descriptors}");
    drop(idle);

    // While every connection has a call, others wait for one of them to end.
    let mut busy = Vec::new();
    for _ in 0..20 {
        let mut wire = Wire::begin(attacked.node.address, WINDOW).await;
        wire.open(WRITE).await;
        busy.push(wire);
    }
    let mut waiting = Box::pin(healthy(&attacked.node));
    let soon = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    busy.truncate(10);
    if soon.is_err() {
        waiting.await;
    }
    drop(busy);
    attacked.recovers().await;
}

#[tokio::test]
async fn the_node_outlives_a_want_of_descriptors_and_tells_it_once() {
    let node = Node::start();
    let before = Usage::of(&node);
    let pid = Pid::from_raw(node.pid() as i32).unwrap();
    let few = Some(before.descriptors as u64 + 24);
    let maximum = getrlimit(Resource::Nofile).maximum;
    let usual = prlimit(Some(pid), Resource::Nofile, Rlimit { current: few, maximum }).unwrap();
    let mut idle = Vec::new();
    for _ in 0..60 {
        idle.push(Wire::begin(node.address, WINDOW).await);
    }
    node.client().await.get_capabilities().await.unwrap();
    assert_eq!(node.log().matches("cannot accept connections").count(), 1);
    drop(idle);
    prlimit(Some(pid), Resource::Nofile, usual).unwrap();
    Attacked { node, before }.recovers().await;
}

#[tokio::test]
async fn streams_that_stay_half_open() {
    let attacked = Attacked::start("").await;
    let mut wires = Vec::new();
    for connection in 0..3 {
        let mut wire = Wire::begin(attacked.node.address, WINDOW).await;
        for number in 0..40 * scale().min(100) {
            let id = wire.open(WRITE).await;
            let number = connection * 10_000 + number;
            wire.data(id, &grpc(&first_message(100_000, number, 1000)), false).await;
            let id = wire.open(&format!("{CAS}/BatchUpdateBlobs")).await;
            wire.data(id, &[0, 0], false).await;
            wire.open(EXECUTE).await;
            let wait = reapi::WaitExecutionRequest { name: format!("nothing/{number}") };
            wire.call("/build.bazel.remote.execution.v2.Execution/WaitExecution", &wait).await;
        }
        wires.push(wire);
    }
    attacked.stands("half-open streams", 256).await;
    drop(wires);
    attacked.recovers().await;
}

#[tokio::test]
async fn abandoned_uploads_leave_little_behind() {
    let attacked = Attacked::start("").await;
    let mut wire = Wire::begin(attacked.node.address, WINDOW).await;
    for number in 0..200 * scale() {
        let id = wire.open(WRITE).await;
        // Enough that a file is begun for the first of them.
        let data = if number < 20 { 600_000 } else { 2000 };
        let message = grpc(&first_message(700_000, number, data));
        let is_open = wire.data(id, &message, false).await && wire.reset(id).await;
        if !is_open || number % 100 == 99 {
            // This one is not even given up.
            wire = Wire::begin(attacked.node.address, WINDOW).await;
            let id = wire.open(WRITE).await;
            wire.data(id, &message, false).await;
        }
    }
    attacked.stands("abandoned uploads", 256).await;
    drop(wire);
    eventually("what is kept is bounded", || attacked.temporary_files() <= 256).await;
    attacked.stands("abandoned uploads, their client gone", 256).await;
    let mut attacked = attacked;
    assert!(attacked.node.stop().success());
    assert_eq!(attacked.temporary_files(), 0);
}

#[tokio::test]
async fn messages_that_never_end_cost_their_connection() {
    let attacked = Attacked::start("message-memory = \"64MiB\"").await;
    let mut wires = Vec::new();
    let mut closed = 0;
    for _ in 0..2 * scale() {
        let mut wire = Wire::begin(attacked.node.address, WINDOW).await;
        let piece = vec![7; MIB as usize];
        let mut is_open = true;
        for _ in 0..40 {
            let id = wire.open(&format!("{CAS}/BatchUpdateBlobs")).await;
            is_open = is_open && wire.data(id, &[0, 1, 0xf0, 0, 0], false).await;
            is_open = is_open && wire.data(id, &piece, false).await;
        }
        closed += usize::from(!is_open);
        wires.push(wire);
    }
    attacked.stands("messages that never end", 192).await;
    eventually("the greediest is closed", || attacked.node.log().contains("closing the connection")).await;
    eprintln!("{closed} of {} connections closed while they sent", wires.len());
    drop(wires);
    attacked.recovers().await;
}

#[tokio::test]
async fn answers_that_nobody_takes_cost_their_connection() {
    let attacked = Attacked::start("message-memory = \"64MiB\"").await;
    let client = attacked.node.client().await;
    let digest = client.put(&random_bytes(3, 3 << 20)).await;
    let batch = reapi::BatchReadBlobsRequest { digests: vec![digest.to_wire()], ..Default::default() };
    let read = bytestream::ReadRequest { resource_name: client.read_name(&digest), ..Default::default() };
    let mut wires = Vec::new();
    for _ in 0..scale() {
        for window in [0, 1] {
            let mut wire = Wire::begin(attacked.node.address, window).await;
            for _ in 0..60 {
                wire.call(&format!("{CAS}/BatchReadBlobs"), &batch).await;
                wire.call(READ, &read).await;
            }
            wires.push(wire);
        }
    }
    eventually("the greediest is closed", || attacked.node.log().contains("closing the connection")).await;
    attacked.stands("answers that nobody takes", 384).await;
    drop(wires);
    attacked.recovers().await;
}

#[tokio::test]
async fn headers_without_an_end() {
    let attacked = Attacked::start("").await;
    let value = "x".repeat(60_000);
    let mut wires = Vec::new();
    for _ in 0..4 * scale() {
        let mut wire = Wire::begin(attacked.node.address, WINDOW).await;
        wire.open_with(CAPABILITIES, &[("a", &value[..10_000]), ("b", &value)]).await;
        wire.open_with(CAPABILITIES, &vec![("name", "value"); 3000]).await;
        wires.push(wire);
        let mut wire = Wire::begin(attacked.node.address, WINDOW).await;
        // A name of nothing and a value of 1,000 bytes, again and again.
        let piece = [&[0, 1, b'n', 0x7f, 0xe9, 0x06][..], &[b'v'; 1000]].concat().repeat(16);
        let is_open = wire.endless_headers(CAPABILITIES, &piece, 2000).await;
        assert!(!is_open || wire.is_closed().await);
    }
    attacked.stands("endless headers", 64).await;
    drop(wires);
    attacked.recovers().await;
}

#[tokio::test]
async fn rapid_resets() {
    let attacked = Attacked::start("").await;
    let mut wire = Wire::begin(attacked.node.address, WINDOW).await;
    for number in 0..5000 * scale() {
        let id = wire.open(if number % 2 == 0 { CAPABILITIES } else { WRITE }).await;
        if !wire.reset(id).await {
            wire = Wire::begin(attacked.node.address, WINDOW).await;
        }
    }
    attacked.stands("rapid resets", 128).await;
    drop(wire);
    attacked.recovers().await;
}

#[tokio::test]
async fn bombs() {
    let attacked = Attacked::start("").await;
    let client = attacked.node.client().await;

    // A Directory that names one below twice, and so on: a billion places, 31 blobs.
    let mut below = reapi::Directory::default();
    for _ in 0..30 {
        let digest = Some(client.put(&below.encode_to_vec()).await.to_wire());
        let node = |name: &str| reapi::DirectoryNode { name: name.into(), digest: digest.clone() };
        below = reapi::Directory { directories: vec![node("a"), node("b")], ..Default::default() };
    }
    let root = client.put(&below.encode_to_vec()).await;
    let request = reapi::GetTreeRequest { root_digest: Some(root.to_wire()), ..Default::default() };
    let mut pages = client.cas().get_tree(request).await.unwrap().into_inner();
    let mut directories = 0;
    while let Some(page) = pages.message().await.unwrap() {
        directories += page.directories.len();
    }
    assert_eq!(directories, 31);
    let outcome = ActionBuilder::sh("true").input_root(root).run(&client).await;
    let status = outcome.response.status.unwrap_or_default();
    assert!(status.message.contains("entries"), "{status:?}");

    attacked.stands("trees", 32).await;
    large_messages(&client).await;
    // A message of 33 MiB is taken, looked at, and gone.
    attacked.stands("large messages", 160).await;

    let mut wire = Wire::begin(attacked.node.address, WINDOW).await;
    let id = wire.open(&format!("{CAS}/FindMissingBlobs")).await;
    wire.data(id, &[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3], false).await;
    attacked.stands("a message of 4 GiB, announced", 160).await;
}

/// Messages that are too large, or grow: all are refused, and say why.
async fn large_messages(client: &Client) {
    let digests = vec![client.digest(b"x"); 1_000_000.min(500_000 * scale())];
    let error = client.find_missing(&digests).await.unwrap_err();
    assert!(matches!(error.code(), tonic::Code::OutOfRange | tonic::Code::ResourceExhausted), "{error}");
    assert!(client.find_missing(&digests[..200_000]).await.unwrap().len() <= 1);

    let blob = vec![0; 8 << 20];
    let error = client.batch_update(&[(client.digest(&blob), &blob)]).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");

    let zeros = vec![0; 64 << 20];
    let bomb = zstd::bulk::compress(&zeros, 3).unwrap();
    let announced = reapi::Digest { size_bytes: 1000, ..client.digest(b"no zeros").to_wire() };
    let entry = reapi::batch_update_blobs_request::Request {
        digest: Some(announced.clone()),
        data: bomb.clone(),
        compressor: 1,
    };
    let request = reapi::BatchUpdateBlobsRequest { requests: vec![entry], ..Default::default() };
    let answer = client.cas().batch_update_blobs(request).await.unwrap().into_inner();
    assert_ne!(answer.responses[0].status.clone().unwrap_or_default().code, 0);
    let name = format!("uploads/u/compressed-blobs/zstd/{}/{}", announced.hash, announced.size_bytes);
    client.write_named(name, &bomb).await.unwrap_err();
}

#[tokio::test]
async fn floods_of_actions_end_at_the_limit_of_the_queue() {
    let attacked = Attacked::start("queue-limit = 20\nslots = 1").await;
    let client = attacked.node.client().await;
    let mut wire = Wire::begin(attacked.node.address, WINDOW).await;
    for number in 0..60 * scale() {
        let action = ActionBuilder::sh("sleep 60").salt(&number.to_string()).do_not_cache();
        let digest = action.upload(&client).await;
        wire.call(EXECUTE, &action.execute_request(&client, &digest)).await;
    }
    attacked.stands("a flood of actions", 64).await;
    let refused = ActionBuilder::sh("true").salt("mine").try_run(&client).await.err().unwrap();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused}");
}
