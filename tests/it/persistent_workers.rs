//! PW: actions that a persistent worker runs. The worker is a script (`persistent_workers/worker.py`) that does
//! what each line of its arguments says, and can be run without being a worker too.

use farmhand::digest::Digest;
use farmhand::tasks::Tasks;
use farmhand::worker::local::PersistentWorker;
use farmhand_proto::longrunning::CancelOperationRequest;
use tonic::Code;

use crate::links::{Keys, desk_of};
use crate::running::{eventually, is_running};
use crate::support::action::finish;
use crate::support::{ActionBuilder, Client, Node, Outcome};

const WORKER: &str = include_str!("persistent_workers/worker.py");

/// An action with these lines as its arguments, for a worker of that key.
fn asking(key: &str, lines: &[&str]) -> ActionBuilder {
    with_tool(WORKER, key, &[], lines)
}

fn with_tool(worker: &str, key: &str, arguments: &[&str], lines: &[&str]) -> ActionBuilder {
    let arguments = [&["./tool/worker.py"], arguments, &["@out/flags"]].concat();
    ActionBuilder::new(&arguments)
        .tool("tool/worker.py", worker)
        .file("out/flags", lines.join("\n"))
        .outputs(&["out/result"])
        .property("persistentWorkerKey", key)
        .do_not_cache()
}

/// What an action said that must end well.
async fn said(action: ActionBuilder, client: &Client) -> String {
    let outcome = action.run(client).await;
    outcome.success();
    outcome.stderr(client).await
}

/// Who it was, requests it had served, and whether it was a worker, of an action that says `tell`.
async fn told(action: ActionBuilder, client: &Client) -> (u32, u32, bool) {
    let said = said(action, client).await;
    let line = said.lines().find(|line| line.starts_with("pid ")).unwrap();
    let words: Vec<_> = line.split(' ').collect();
    (words[1].parse().unwrap(), words[3].parse().unwrap(), words[4] == "warm")
}

/// Requests that the worker of a result had answered before; `None` if there was none.
fn before(outcome: &Outcome) -> Option<u64> {
    PersistentWorker::of(outcome.result()).map(|worker| worker.requests_before)
}

/// Runs an action that a worker cannot do, and that has to be done without one; what is told of the reason.
async fn done_without(action: ActionBuilder, client: &Client) -> String {
    let outcome = action.run(client).await;
    outcome.success();
    assert_eq!(before(&outcome), None);
    outcome.response.message
}

#[tokio::test]
async fn one_process_serves_all_actions_of_a_key() {
    let node = Node::start();
    let client = node.client().await;
    let mut first = None;
    for served in 0..4 {
        let write = format!("write out/result {served}");
        let action = asking("k", &["tell", "cat in/file", &write]).file("in/file", format!("input {served}"));
        let outcome = action.run(&client).await;
        assert_eq!(before(&outcome), Some(served), "{:?}", outcome.response);
        assert_eq!(outcome.output(&client, "out/result").await, served.to_string().into_bytes());
        assert_eq!(outcome.stdout(&client).await, "");
        let said = outcome.stderr(&client).await;
        assert!(said.ends_with(&format!("before {served} warm\ninput {served}\n")), "{said}");
        let pid = said.split(' ').nth(1).unwrap().to_owned();
        assert_eq!(*first.get_or_insert(pid.clone()), pid, "the same process");
    }
}

#[tokio::test]
async fn nothing_of_one_request_is_there_in_the_next() {
    let node = Node::start();
    let client = node.client().await;
    let lines = ["write left-at-the-top x", "write out/left x", "write tool/left x", "write in/left x"];
    let action = asking("k", &lines).file("in/a", "1").file("top", "t").symlink("link", "in/a");
    assert_eq!(said(action.directory("empty"), &client).await, "");
    let action = asking("k", &["tell", "list .", "cat link"]).file("in/b", "2").symlink("link", "in/b");
    let outcome = action.run(&client).await;
    assert_eq!(before(&outcome), Some(1), "{:?}", outcome.response);
    let said = outcome.stderr(&client).await;
    assert_eq!(said.lines().nth(1).unwrap(), "./in/b ./link ./out/flags ./tool/worker.py");
    assert_eq!(said.lines().nth(2).unwrap(), "2");
}

#[tokio::test]
async fn workers_are_shared_by_nothing_that_differs() {
    let node = Node::builder().arguments(&["--persistent-workers", "9", "--slots", "9"]).start();
    let client = node.client().await;
    let usual = || asking("k", &["tell"]);
    let other_tool = format!("{WORKER}\n");
    let actions = [
        usual(),
        asking("another", &["tell"]),
        with_tool(&other_tool, "k", &[], &["tell"]),
        with_tool(WORKER, "k", &["--some-option"], &["tell"]),
        usual().env("VARIABLE", "1"),
        usual().tool("tool/more", "x"),
        usual().property("unixUID", "7"),
        usual().property("InputRootAbsolutePath", "/elsewhere"),
        usual().property("persistentWorkerProtocol", "proto"),
    ];
    let count = actions.len();
    let mut pids = Vec::new();
    for action in actions {
        pids.push(told(action, &client).await.0);
    }
    // The protocol that is meant anyway is the same.
    assert_eq!(pids.pop(), Some(pids[0]));
    let distinct: std::collections::BTreeSet<_> = pids.iter().collect();
    assert_eq!(distinct.len(), count - 1, "{pids:?}");
    let other_instance = node.client_of("other").await;
    assert!(!pids.contains(&told(usual(), &other_instance).await.0));
    assert_eq!(told(usual(), &client).await.0, pids[0], "the first one is there still");
}

#[tokio::test]
async fn requests_name_the_inputs_with_their_digests_in_either_protocol() {
    let node = Node::start();
    let client = node.client().await;
    for (protocol, arguments) in [("proto", &[][..]), ("json", &["--json"][..])] {
        for served in 0..2 {
            let action = with_tool(WORKER, "k", arguments, &["inputs", "echo ä\"\\"]);
            let action = action.file("in/b", "content").property("persistentWorkerProtocol", protocol);
            let outcome = action.run(&client).await;
            assert_eq!(before(&outcome), Some(served), "{:?}", outcome.response);
            let name = |data: &[u8]| client.digest(data).hash_hex()[..8].to_owned();
            let [b, flags, tool] =
                [b"content".as_slice(), "inputs\necho ä\"\\".as_bytes(), WORKER.as_bytes()].map(name);
            let expected = format!("ä\"\\\nin/b={b} out/flags={flags} tool/worker.py={tool}\n");
            assert_eq!(outcome.stderr(&client).await, expected);
        }
    }
}

#[tokio::test]
async fn the_working_directory_may_be_below_the_root() {
    let node = Node::start();
    let client = node.client().await;
    for served in 0..2 {
        let write = format!("write ../out/result {served}");
        let lines = ["where", "list ..", "cat own", &write].join("\n");
        let mut action = ActionBuilder::new(&["../tool/worker.py", "@flags/f"]).working_directory("main");
        for (path, data) in [("main/flags/f", lines.as_str()), ("main/own", "mine")] {
            action = action.file(path, data);
        }
        let action = action.tool("tool/worker.py", WORKER).outputs(&["../out/result"]).do_not_cache();
        let outcome = action.property("persistentWorkerKey", "k").run(&client).await;
        assert_eq!(before(&outcome), Some(served), "{:?}", outcome.response);
        assert_eq!(outcome.output(&client, "../out/result").await, served.to_string().into_bytes());
        let files = "../main/flags/f ../main/own ../tool/worker.py";
        assert_eq!(outcome.stderr(&client).await, format!("/build/main\n{files}\nmine\n"));
    }
}

#[tokio::test]
async fn exit_codes_are_those_of_the_answer_and_the_worker_stays() {
    let node = Node::start();
    let client = node.client().await;
    for served in 0..2 {
        let outcome =
            asking("k", &["echo no such symbol", "write out/result part", "exit 3"]).run(&client).await;
        assert_eq!((outcome.code(), outcome.result().exit_code), (0, 3));
        assert_eq!(outcome.stderr(&client).await, "no such symbol\n");
        assert_eq!(outcome.output(&client, "out/result").await, b"part");
        assert_eq!(before(&outcome), Some(served));
    }
}

#[tokio::test]
async fn a_worker_that_breaks_down_is_done_without() {
    let node = Node::start();
    let client = node.client().await;
    let note = done_without(asking("k", &["crash", "echo fine"]), &client).await;
    assert!(note.contains("exit code 7") && note.contains("about to crash"), "{note}");
    for (line, reasons) in [
        ("print Hello, world", ["Hello, world"; 2]),
        ("bytes ffffffff7f", ["bytes, and 16777216 is the most"; 2]),
        // Its own answer may come with what it said before.
        ("bytes 021807", ["answered request 7", "more than its answer"]),
        ("bytes 022001", ["was cancelled", "more than its answer"]),
        ("bytes 0000", ["more than its answer"; 2]),
        ("close", ["closed its stdout"; 2]),
    ] {
        // Another key for each: a tool that does it again and again gets no more workers.
        let note = done_without(asking(line, &[line, "echo fine"]), &client).await;
        assert!(reasons.iter().any(|reason| note.contains(reason)), "{line}: {note}");
    }
}

#[tokio::test]
async fn a_worker_that_dies_of_a_second_request_is_replaced() {
    let node = Node::start();
    let client = node.client().await;
    let lines = ["crash-if-warm", "tell"];
    let mut pids = Vec::new();
    for _ in 0..3 {
        let (pid, served, is_warm) = told(asking("k", &lines), &client).await;
        assert_eq!((served, is_warm), (0, true));
        pids.push(pid);
    }
    pids.dedup();
    assert_eq!(pids.len(), 3, "{pids:?}");
}

#[tokio::test]
async fn a_tool_that_breaks_down_again_and_again_gets_no_more_workers() {
    let node = Node::start();
    let client = node.client().await;
    for _ in 0..3 {
        assert!(!done_without(asking("k", &["crash"]), &client).await.is_empty());
    }
    assert_eq!(done_without(asking("k", &["crash"]), &client).await, "", "it was not tried any more");
}

#[tokio::test]
async fn time_limits_and_cancelling_end_the_worker() {
    let node = Node::start();
    let client = node.client().await;
    let marked = |mark: &str, lines: &[&str]| with_tool(WORKER, "k", &[mark], lines);
    let lines = ["write out/result before", "leave 86421.5", "sleep 600"];
    let outcome = marked("--late-42", &lines).timeout_ms(3000).run(&client).await;
    assert_eq!(outcome.code(), Code::DeadlineExceeded as i32, "{:?}", outcome.response);
    assert_eq!(outcome.output(&client, "out/result").await, b"before");
    assert!(!is_running("--late-42") && !is_running("86421.5"), "nothing is left when the answer is there");

    let action = marked("--cancelled-42", &["sleep 600"]);
    let digest = action.upload(&client).await;
    let mut stream = action.start(&client, &digest).await.unwrap();
    let name = stream.message().await.unwrap().unwrap().name;
    eventually("the worker is there", || is_running("--cancelled-42")).await;
    client.operations().cancel_operation(CancelOperationRequest { name }).await.unwrap();
    let outcome = finish(stream, digest).await.unwrap();
    assert_eq!(outcome.code(), Code::Cancelled as i32, "{:?}", outcome.response);
    // Who cancels is told at once.
    eventually("nothing is left", || !is_running("--cancelled-42")).await;
}

#[tokio::test]
async fn idle_workers_stand_still_and_end() {
    let node = Node::builder().config("persistent-worker-idle = \"1s\"").start();
    let client = node.client().await;
    let action = || with_tool(WORKER, "k", &["--idle-42"], &["tell", "leave 86421.25"]);
    let (pid, ..) = told(action(), &client).await;
    eventually("it has ended", || !is_running("--idle-42") && !is_running("86421.25")).await;
    let (other, served, is_warm) = told(action(), &client).await;
    assert!(other != pid && served == 0 && is_warm, "another process");
}

#[tokio::test]
async fn nothing_is_left_when_the_node_ends() {
    for is_killed in [false, true] {
        let mut node = Node::start();
        let client = node.client().await;
        let mark = format!("--end-{is_killed}-42");
        let action = with_tool(WORKER, "k", &[&mark], &["tell", "leave 86421.125"]);
        told(action, &client).await;
        assert!(is_running(&mark), "it waits for more");
        if is_killed {
            node.kill()
        } else {
            assert!(node.stop().success())
        }
        eventually("all is gone", || !is_running(&mark) && !is_running("86421.125")).await;
    }
}

/// What a worker has open of an output that is in the store by now.
#[tokio::test]
async fn outputs_cannot_be_changed_once_they_are_stored() {
    let node = Node::start();
    let client = node.client().await;
    let outcome = asking("k", &["large out/result", "hold out/result"]).run(&client).await;
    assert_eq!(before(&outcome), Some(0), "{:?}", outcome.response);
    let large = b"large".repeat(20000);
    assert_eq!(outcome.output(&client, "out/result").await, large);
    let stored = outcome.result().output_files[0].digest.clone();
    let outcome = asking("k", &["scribble gotcha"]).run(&client).await;
    assert_eq!(before(&outcome), Some(1), "{:?}", outcome.response);
    let stored = Digest::from_field(client.function, stored.as_ref()).unwrap();
    assert_eq!(client.read(&stored).await.unwrap(), large);
    let reader = ActionBuilder::new(&["/usr/bin/head", "-c", "10", "in"]).file("in", &large);
    assert_eq!(reader.run(&client).await.stdout(&client).await, "largelarge");
}

#[tokio::test]
async fn inputs_cannot_be_changed() {
    let node = Node::start();
    let client = node.client().await;
    let input = "i".repeat(100_000);
    for served in 0..2 {
        let outcome = asking("k", &["append in/file"]).file("in/file", &input).run(&client).await;
        assert_eq!(before(&outcome), Some(served));
        assert_eq!(outcome.stderr(&client).await, "Permission denied\n");
    }
}

#[tokio::test]
async fn what_is_not_for_a_worker_runs_as_a_command() {
    let without_workers = Node::builder().arguments(&["--persistent-workers", "0"]).start();
    let plain = Node::builder().arguments(&["--sandbox", "off"]).start();
    for node in [&without_workers, &plain] {
        let client = node.client().await;
        assert!(!told(asking("k", &["tell"]), &client).await.2);
    }
    let node = Node::start();
    let client = node.client().await;
    let unmarked =
        ActionBuilder::new(&["./tool/worker.py", "@out/flags"]).executable("tool/worker.py", WORKER);
    let unmarked = unmarked.file("out/flags", "tell").property("persistentWorkerKey", "k");
    let at_the_top = asking("k", &["tell"]).outputs(&["result"]);
    let no_request = ActionBuilder::new(&["./tool/worker.py"]).tool("tool/worker.py", WORKER);
    let absent = asking("k", &["@out/absent"]);
    assert!(!told(unmarked, &client).await.2);
    assert!(!told(at_the_top, &client).await.2);
    assert_eq!(said(no_request.property("persistentWorkerKey", "k"), &client).await, "");
    assert_eq!(said(absent, &client).await, "", "to the script a line like any other");
}

#[tokio::test]
async fn workers_of_several_actions_at_once_are_as_many_as_slots() {
    let node = Node::builder().arguments(&["--slots", "2"]).start();
    let client = node.client().await;
    let runs: Vec<_> = (0..6)
        .map(|number| {
            let (client, number) = (client.clone(), number.to_string());
            let run = async move { told(asking("k", &["tell", "sleep 0.2", &number]), &client).await };
            Tasks::default().spawn("action", run)
        })
        .collect();
    let mut pids = std::collections::BTreeSet::new();
    for run in runs {
        let (pid, _, is_warm) = run.await.unwrap();
        assert!(is_warm);
        pids.insert(pid);
    }
    assert!(pids.len() <= 2, "{pids:?}");
}

#[tokio::test]
async fn guests_have_workers_of_their_own() {
    let keys = Keys::new();
    let host = keys.node("host", &["--slots", "2"]).start();
    let desk = desk_of(&host, &keys).await;
    let (guest, own) = (desk.client().await, host.client().await);
    let first = told(asking("k", &["tell"]), &guest).await;
    let second = told(asking("k", &["tell", "echo again"]), &guest).await;
    assert_eq!((second.0, second.1), (first.0, 1), "the same process");
    let of_host = told(asking("k", &["tell"]), &own).await;
    assert!(of_host.1 == 0 && of_host.2, "another one: {of_host:?}");
}

/// The compiler of the JDK as a worker: a real tool, that is slow to start and has many threads. With
/// `--no-capture` this says what it saves.
#[tokio::test]
async fn a_java_compiler_stays_warm() {
    let built = tempfile::tempdir().unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/persistent_workers/Javac.java");
    let javac = std::process::Command::new("javac").arg("-d").arg(built.path()).arg(source).status();
    if !javac.is_ok_and(|status| status.success()) {
        eprintln!("skipped: there is no JDK here");
        return;
    }
    let tool = std::fs::read(built.path().join("Javac.class")).unwrap();
    let node = Node::start();
    let client = node.client().await;
    let compile = |number: usize, is_warm: bool| {
        let source = format!("public class A {{ static int number() {{ return {number}; }} }}");
        let action = ActionBuilder::new(&["/usr/bin/java", "-cp", "tool", "Javac", "@out/flags"])
            .tool("tool/Javac.class", &tool)
            .file("out/flags", "-d\nout\nsrc/A.java")
            .file("src/A.java", source)
            .outputs(&["out/A.class"])
            .do_not_cache();
        if is_warm { action.property("persistentWorkerKey", "javac") } else { action }
    };
    let mut compilers = std::collections::BTreeSet::new();
    let mut times = [Vec::new(), Vec::new()];
    for number in 0..8 {
        let [warm, cold] = [true, false].map(|is_warm| compile(number, is_warm));
        let (warm, cold) = (warm.run(&client).await, cold.run(&client).await);
        warm.success();
        compilers.insert(warm.stderr(&client).await);
        assert_eq!(before(&warm), Some(number as u64));
        assert_eq!(before(&cold), None);
        let classes = [&warm, &cold].map(|outcome| &outcome.success().output_files[0].digest);
        assert_eq!(classes[0], classes[1], "the same comes of it");
        for (times, outcome) in times.iter_mut().zip([warm, cold]) {
            let metadata = outcome.result().execution_metadata.clone().unwrap();
            let took = metadata.virtual_execution_duration.unwrap();
            times.push(took.seconds * 1000 + i64::from(took.nanos / 1_000_000));
        }
    }
    assert_eq!(compilers.len(), 1, "{compilers:?}");
    eprintln!("ms in a worker: {:?}, as a command: {:?}", times[0], times[1]);
}
