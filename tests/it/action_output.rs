//! What an action writes, read over the control API while it runs and afterwards: by several at once,
//! whole, unchanged, however the action ended.

use farmhand::digest::{Digest, DigestFunction, Hasher};
use farmhand::tasks::Tasks;
use farmhand_proto::control::ReadOutputRequest;
use farmhand_proto::control::control_client::ControlClient;
use farmhand_proto::control::read_output_request::Stream;
use farmhand_proto::{longrunning, reapi};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::support::action::{finish, response};
use super::support::{ActionBuilder, Client, Node};

type Operations = tonic::Streaming<longrunning::Operation>;

/// What a reader was told.
#[derive(Debug)]
struct Told {
    hash: Digest,
    /// The first bytes.
    text: Vec<u8>,
    ended: bool,
}

fn request(operation: &str, offset: i64, follow: bool) -> ReadOutputRequest {
    let stream = Stream::Stdout.into();
    ReadOutputRequest { operation: operation.to_owned(), stream, offset, follow }
}

/// Reads a stream to its end, beginning anew where it does.
async fn read(mut control: ControlClient<Channel>, request: ReadOutputRequest) -> Result<Told, Status> {
    let mut pieces = control.read_output(request).await?.into_inner();
    let (mut hasher, mut text, mut ended) = (Hasher::new(DigestFunction::Sha256), Vec::new(), false);
    let mut next = None;
    while let Some(piece) = pieces.message().await? {
        if next.is_some_and(|next| piece.offset < next) {
            assert_eq!(piece.offset, 0);
            (hasher, text) = (Hasher::new(DigestFunction::Sha256), Vec::new());
        } else {
            assert!(next.is_none_or(|next| piece.offset == next), "a gap before {}", piece.offset);
        }
        assert!(piece.data.len() <= 64 << 10);
        next = Some(piece.offset + piece.data.len() as u64);
        hasher.update(&piece.data);
        text.extend(piece.data.iter().take(100_000 - text.len().min(100_000)));
        ended = piece.ended;
    }
    Ok(Told { hash: hasher.finish(), text, ended })
}

/// Reads beside the test.
fn begin(
    read: impl Future<Output = Result<Told, Status>> + Send + 'static,
) -> JoinHandle<Result<Told, Status>> {
    Tasks::default().spawn("reader", read)
}

/// Starts an action; the name of the operation, and the stream that tells of it.
async fn start(client: &Client, action: &ActionBuilder) -> (String, Digest, Operations) {
    let digest = action.upload(client).await;
    let mut stream = action.start(client, &digest).await.unwrap();
    let name = stream.message().await.unwrap().unwrap().name;
    (name, digest, stream)
}

fn stdout_of(result: &reapi::ActionResult) -> Digest {
    Digest::from_field(DigestFunction::Sha256, result.stdout_digest.as_ref()).unwrap()
}

/// Waits until the action has written `text`, and goes away.
async fn wait_for(node: &Node, operation: &str, text: &str) {
    let mut control = node.control().await;
    let mut pieces = control.read_output(request(operation, 0, true)).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(text) {
        seen.extend(pieces.message().await.unwrap().expect("it goes on").data);
    }
}

#[tokio::test]
async fn two_watchers_of_a_running_action_see_all_of_it() {
    let node = Node::start();
    let client = node.client().await;
    let script = "for i in 1 2 3 4 5 6; do echo line $i; echo other $i >&2; sleep 0.2; done; printf end";
    let (name, digest, stream) = start(&client, &ActionBuilder::sh(script)).await;
    let early = begin(read(node.control().await, request(&name, 0, true)));
    wait_for(&node, &name, "line 3").await;
    // From the beginning all the same, and by the digest of the action.
    let late = begin(read(node.control().await, request(&digest.to_string(), 0, true)));
    let tail = begin(read(node.control().await, request(&name, -2, true)));
    let now = read(node.control().await, request(&name, 0, false)).await.unwrap();
    let outcome = finish(stream, digest).await.unwrap();
    let stdout = stdout_of(outcome.success());
    for told in [early, late] {
        let told = told.await.unwrap().unwrap();
        assert_eq!((told.hash, told.ended), (stdout, true), "{}", String::from_utf8_lossy(&told.text));
    }
    let tail = tail.await.unwrap().unwrap();
    assert!(tail.text.ends_with(b"line 6\nend") && tail.text.len() < 40, "{tail:?}");
    assert!(!now.ended && now.text.starts_with(b"line 1\nline 2\nline 3\n"), "{now:?}");
    let after = read(node.control().await, request(&name, 0, false)).await.unwrap();
    assert_eq!((after.hash, after.ended), (stdout, true));
}

#[tokio::test]
async fn three_hundred_megabytes_pass_without_staying_in_memory() {
    let node = Node::start();
    let client = node.client().await;
    ActionBuilder::sh("echo warm").run(&client).await.success();
    let before = node.memory("VmRSS");
    // More than memory is for: the command is started again on the disk, before the eyes of the reader.
    let script = "head -c 300000000 /dev/zero | tr '\\0' x";
    let (name, digest, stream) = start(&client, &ActionBuilder::sh(script)).await;
    let told = read(node.control().await, request(&name, 0, true)).await.unwrap();
    let outcome = finish(stream, digest).await.unwrap();
    let stdout = stdout_of(outcome.success());
    assert_eq!((stdout.size(), told.hash, told.ended), (300_000_000, stdout, true));
    let again = read(node.control().await, request(&name, 0, false)).await.unwrap();
    assert_eq!(again.hash, stdout);
    let growth = node.memory("VmHWM").saturating_sub(before);
    assert!(growth < 40_000_000, "the node grew by {growth} bytes");
}

#[tokio::test]
async fn every_byte_passes_as_it_is() {
    let node = Node::start();
    let client = node.client().await;
    let all: Vec<u8> = (0..=255).chain(*b"\x1b[2J\x1b]0;title\x07\xff\xfe\0\r\n").collect();
    let action = ActionBuilder::sh("cat data; cat data >&2; sleep 0.3").file("data", &all);
    let (name, digest, stream) = start(&client, &action).await;
    let live = read(node.control().await, request(&name, 0, true)).await.unwrap();
    finish(stream, digest).await.unwrap().success();
    let stderr = ReadOutputRequest { stream: Stream::Stderr.into(), ..request(&name, 0, false) };
    let kept = read(node.control().await, stderr).await.unwrap();
    assert_eq!((live.text, kept.text), (all.clone(), all.clone()));

    let raw = node.cli(&["action", &digest.to_string(), "log"]);
    assert_eq!(raw.stdout, all, "no terminal: the bytes as they are");
}

#[tokio::test]
async fn what_a_timed_out_action_wrote_is_kept() {
    let node = Node::start();
    let client = node.client().await;
    let action = ActionBuilder::sh("echo before; sleep 100; echo after").timeout_ms(1000);
    let (name, digest, stream) = start(&client, &action).await;
    let live = read(node.control().await, request(&name, 0, true)).await.unwrap();
    let outcome = finish(stream, digest).await.unwrap();
    assert_eq!(outcome.code(), Code::DeadlineExceeded as i32);
    let kept = read(node.control().await, request(&digest.to_string(), 0, false)).await.unwrap();
    for told in [live, kept] {
        assert_eq!((told.text.as_slice(), told.ended), (&b"before\n"[..], true));
    }
}

#[tokio::test]
async fn what_a_cancelled_action_wrote_is_kept() {
    let node = Node::start();
    let client = node.client().await;
    let action = ActionBuilder::sh("echo before; sleep 100");
    let (name, _, stream) = start(&client, &action).await;
    let follower = begin(read(node.control().await, request(&name, 0, true)));
    wait_for(&node, &name, "before").await;
    let cancel = longrunning::CancelOperationRequest { name: name.clone() };
    client.operations().cancel_operation(cancel).await.unwrap();
    let outcome = finish(stream, Digest::empty(DigestFunction::Sha256)).await.unwrap();
    assert_eq!(outcome.code(), Code::Cancelled as i32);
    let live = follower.await.unwrap().unwrap();
    let kept = read(node.control().await, request(&name, 0, true)).await.unwrap();
    for told in [live, kept] {
        assert_eq!((told.text.as_slice(), told.ended), (&b"before\n"[..], true));
    }
    // Whoever asks for the operation is told of the log, too.
    let get = longrunning::GetOperationRequest { name };
    let operation = client.operations().get_operation(get).await.unwrap().into_inner();
    let result = response(&operation).result.unwrap();
    assert_eq!((stdout_of(&result).size(), result.exit_code), (7, 137));
}

#[tokio::test]
async fn what_an_action_wrote_whose_client_went_away_is_kept() {
    let mut node = Node::builder().config("orphan-grace = \"100ms\"").start();
    let client = node.client().await;
    let (name, digest, stream) = start(&client, &ActionBuilder::sh("echo before; sleep 100")).await;
    let follower = begin(read(node.control().await, request(&name, 0, true)));
    wait_for(&node, &name, "before").await;
    drop(stream);
    // A watcher is no client: it does not keep the action alive.
    let live = follower.await.unwrap().unwrap();
    let kept = read(node.control().await, request(&digest.to_string(), 0, false)).await.unwrap();
    for told in [live, kept] {
        assert_eq!((told.text.as_slice(), told.ended), (&b"before\n"[..], true));
    }
    assert!(node.stop().success());
    node.restart();
    let after = read(node.control().await, request(&digest.to_string(), 0, false)).await.unwrap();
    assert_eq!(after.text, b"before\n", "what the worker told late is in the history");
}

#[tokio::test]
async fn watchers_do_not_hold_up_the_end_of_the_node() {
    let mut node = Node::start();
    let client = node.client().await;
    let (name, _, _stream) = start(&client, &ActionBuilder::sh("echo before; sleep 100")).await;
    wait_for(&node, &name, "before").await;
    let follower = begin(read(node.control().await, request(&name, 0, true)));
    assert!(node.stop().success());
    let told = follower.await.unwrap();
    assert!(told.is_err() || !told.unwrap().ended, "it was not all");
}

#[tokio::test]
async fn the_command_line_prints_what_was_written() {
    let node = Node::start();
    let client = node.client().await;
    let script = "seq 1 50000; echo complaint >&2";
    let outcome = ActionBuilder::sh(script).run(&client).await;
    outcome.success();
    let digest = outcome.action_digest.to_string();
    let log = |arguments: &[&str]| {
        let output = node.cli(&[&["action", &digest, "log"], arguments].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let whole: String = (1..=50_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(log(&[]), whole);
    assert_eq!(log(&["--follow"]), whole);
    assert_eq!(log(&["--stderr"]), "complaint\n");
    assert_eq!(log(&["--tail", "2"]), "49999\n50000\n");
    assert_eq!(log(&["--tail", "30000"]).lines().count(), 30_000);
    let unknown = node.cli(&["action", &format!("{}/1", "ab".repeat(32)), "log"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("error: "));
}
