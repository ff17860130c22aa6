//! What a person may do to a node that works: end actions, let it rest, change its slots, ask why
//! something waits, and run an action again.

use std::io::{BufRead, BufReader};
use std::process::{Output, Stdio};
use std::time::Duration;

use farmhand::digest::Digest;
use farmhand_proto::control::control_client::ControlClient;
use farmhand_proto::control::operation::{Kind, Stage as OperationStage};
use farmhand_proto::control::{
    GetActionRequest, GetActionResponse, KillActionRequest, OutputDifference, RerunActionRequest,
    RerunVerdict, SetMachineRequest, machine,
};
use farmhand_proto::longrunning::Operation;
use farmhand_proto::reapi::execution_stage::Value as Stage;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};

use crate::running::{eventually, is_running};
use crate::support::action::{finish, metadata};
use crate::support::node::BINARY;
use crate::support::{ActionBuilder, Client, Node, Outcome};

async fn control(node: &Node) -> ControlClient<Channel> {
    let socket = node.runtime_dir().join("control.sock");
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
    ControlClient::new(endpoint.connect().await.unwrap())
}

fn with_slots(slots: &str) -> Node {
    Node::builder().arguments(&["--slots", slots]).start()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{}", stderr(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// An Execute call that goes on.
struct Call {
    stream: Streaming<Operation>,
    action: Digest,
    name: String,
}

impl Call {
    async fn start(action: &ActionBuilder, client: &Client) -> Self {
        let digest = action.upload(client).await;
        let mut stream = action.start(client, &digest).await.unwrap();
        let name = stream.message().await.unwrap().unwrap().name;
        Self { stream, action: digest, name }
    }

    /// Starts one and waits until a machine has it.
    async fn running(action: &ActionBuilder, client: &Client) -> Self {
        let mut call = Self::start(action, client).await;
        while metadata(&call.stream.message().await.unwrap().unwrap()).stage() != Stage::Executing {}
        call
    }

    async fn end(self) -> Outcome {
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, finish(self.stream, self.action)).await.expect("it ends").unwrap()
    }
}

async fn busy(control: &mut ControlClient<Channel>) -> u32 {
    control.get_status(farmhand_proto::control::GetStatusRequest {}).await.unwrap().into_inner().machines[0]
        .busy
}

async fn until_busy(node: &Node, wanted: u32) {
    let mut control = control(node).await;
    for _ in 0..500 {
        if busy(&mut control).await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{} actions run, not {wanted}", busy(&mut control).await);
}

async fn kill(node: &Node, name: &str) -> Result<u32, Code> {
    let request = KillActionRequest { operation: name.into() };
    let answer = control(node).await.kill_action(request).await;
    answer.map(|answer| answer.into_inner().killed).map_err(|status| status.code())
}

async fn get(node: &Node, action: &Digest) -> GetActionResponse {
    let request = GetActionRequest { digest: action.to_string(), instance_name: String::new() };
    control(node).await.get_action(request).await.unwrap().into_inner()
}

fn killed(outcome: &Outcome) {
    assert_eq!(outcome.code(), Code::Cancelled as i32, "{:?}", outcome.response);
    let message = &outcome.response.status.as_ref().unwrap().message;
    assert!(message.contains("killed by a person"), "{message}");
}

// === kill ===

#[tokio::test]
async fn a_killed_action_ends_with_what_it_wrote_and_leaves_nothing() {
    let node = with_slots("1");
    let client = node.client().await;
    let script = "n=8642; echo before; echo problem >&2; sleep $n.5 & sleep $n.7; echo after";
    let call = Call::running(&ActionBuilder::sh(script), &client).await;
    eventually("both sleep", || is_running("8642.5") && is_running("8642.7")).await;
    assert_eq!(kill(&node, &call.name).await, Ok(1));
    let (name, action) = (call.name.clone(), call.action);
    let outcome = call.end().await;
    killed(&outcome);
    assert_eq!(outcome.stdout(&client).await, "before\n");
    assert_eq!(outcome.stderr(&client).await, "problem\n");
    assert!(!is_running("8642.5") && !is_running("8642.7"), "no process is left when the answer is there");
    ActionBuilder::sh("echo the slot is free").run(&client).await.success();

    let found = get(&node, &action).await;
    assert!(!found.in_action_cache);
    assert!(found.operation.unwrap().message.starts_with("killed by a person"));
    assert_eq!(kill(&node, &name).await, Err(Code::FailedPrecondition));
    assert_eq!(kill(&node, "operations/00000000-0000-0000-0000-000000000000").await, Err(Code::NotFound));
}

#[tokio::test]
async fn killing_ends_all_who_wait_and_what_only_stands_in_the_queue() {
    let node = with_slots("1");
    let client = node.client().await;
    let action = ActionBuilder::sh("n=8643; echo shared; sleep $n.5");
    let first = Call::running(&action, &client).await;
    eventually("it has written", || is_running("8643.5")).await;
    let second = Call::start(&action, &client).await;
    let queued = Call::start(&ActionBuilder::sh("echo never"), &client).await;
    let refused = node.cli(&["action", &"ab".repeat(32), "kill"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("hint: "), "{}", stderr(&refused));

    let told = node.cli(&["action", &queued.name, "kill"]);
    assert_eq!(stdout(&told), "1 operation killed\n", "{}", stderr(&told));
    killed(&queued.end().await);
    let told = node.cli(&["action", &first.action.to_string(), "kill"]);
    assert_eq!(stdout(&told), "2 operations killed\n", "{}", stderr(&told));
    for call in [first, second] {
        let outcome = call.end().await;
        killed(&outcome);
        assert_eq!(outcome.stdout(&client).await, "shared\n");
    }
    assert!(!is_running("8643.5"));
    until_busy(&node, 0).await;
}

// === machines ===

#[tokio::test]
async fn a_paused_machine_lets_wait_and_says_why() {
    let node = with_slots("1");
    let client = node.client().await;
    let told = node.cli(&["pause"]);
    assert_eq!(stdout(&told), "testnode is paused: nothing runs\n", "{}", stderr(&told));
    let call = Call::start(&ActionBuilder::sh("echo ran"), &client).await;
    let found = get(&node, &call.action).await;
    assert_eq!(found.ahead, Some(0));
    assert_eq!((found.waiting.len(), found.waiting[0].machine.as_str()), (1, "testnode"));
    assert!(found.waiting[0].text.starts_with("paused for "), "{:?}", found.waiting);
    let shown = stdout(&node.cli(&["action", &call.action.to_string(), "show"]));
    assert!(shown.contains("testnode: paused for "), "{shown}");
    let status = json(&node.cli(&["status", "--json"]));
    assert_eq!(status["machines"][0]["state"], "paused");
    assert_eq!(status["warnings"][0]["text"], "an action waits while testnode is paused");

    let told = json(&node.cli(&["resume", "--json"]));
    assert_eq!((&told["state"], &told["slots"]), (&"active".into(), &1.into()));
    call.end().await.success();
}

#[tokio::test]
async fn a_drained_machine_has_finished_what_it_had() {
    let node = with_slots("2");
    let client = node.client().await;
    let running = Call::running(&ActionBuilder::sh("sleep 8646.5"), &client).await;
    let told = node.cli(&["drain", "--machine", "testnode"]);
    assert_eq!(stdout(&told), "testnode is draining: 1 action left\n", "{}", stderr(&told));
    let waiting = Call::start(&ActionBuilder::sh("echo later"), &client).await;
    let listed = json(&node.cli(&["machines", "--json"]));
    assert_eq!((&listed[0]["state"], &listed[0]["drained"]), (&"draining".into(), &false.into()));

    let mut drain = std::process::Command::new(BINARY)
        .args(["drain", "--wait", "--runtime-dir"])
        .arg(node.runtime_dir())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut progress = String::new();
    BufReader::new(drain.stderr.take().unwrap()).read_line(&mut progress).unwrap();
    assert_eq!(progress, "testnode is draining: 1 action left\n");
    assert_eq!(drain.try_wait().unwrap(), None);
    kill(&node, &running.name).await.unwrap();
    killed(&running.end().await);
    let told = drain.wait_with_output().unwrap();
    assert!(told.status.success());
    assert_eq!(stdout(&told), "testnode is drained: nothing runs\n");

    assert!(stdout(&node.cli(&["machines"])).contains("drained"));
    assert_eq!(get(&node, &waiting.action).await.waiting[0].text, "drained");
    node.cli(&["resume"]);
    waiting.end().await.success();
}

#[tokio::test]
async fn slots_follow_a_person_while_actions_run() {
    let node = with_slots("1");
    let client = node.client().await;
    let mut calls = Vec::new();
    for number in 0..6 {
        let script = format!("n=865{number}; sleep $n.5");
        calls.push(Call::start(&ActionBuilder::sh(&script), &client).await);
    }
    let sleeping = || (0..6).filter(|number| is_running(&format!("sleep\0865{number}.5"))).count();
    eventually("one runs", || sleeping() == 1).await;
    let told = node.cli(&["slots", "3"]);
    // Those that got a slot just now may not have begun.
    let is_told =
        |text: &str| text.starts_with("testnode is active: ") && text.ends_with(" of 3 slots busy\n");
    assert!(is_told(&stdout(&told)), "{}{}", stdout(&told), stderr(&told));
    eventually("three run", || sleeping() == 3).await;
    let told = json(&node.cli(&["slots", "1", "--json"]));
    assert_eq!((&told["slots"], &told["busy"]), (&1.into(), &3.into()), "none is stopped");

    let execution = || json(&node.cli(&["status", "--json"]))["execution"].clone();
    for left in [2, 1] {
        let call = calls.remove(0);
        kill(&node, &call.name).await.unwrap();
        killed(&call.end().await);
        let execution = execution();
        assert_eq!((&execution["running"], &execution["queued"]), (&left.into(), &3.into()), "{execution}");
    }
    assert_eq!(sleeping(), 1);
    node.cli(&["slots", "4"]);
    eventually("all that are left run", || sleeping() == 4).await;
    for call in calls {
        kill(&node, &call.name).await.unwrap();
        killed(&call.end().await);
    }
    until_busy(&node, 0).await;
}

#[tokio::test]
async fn what_no_machine_can_be_told_is_refused_with_a_remedy() {
    let node = with_slots("1");
    let refused = |arguments: &[&str], error: &str, hint: Option<&str>| {
        let output = node.cli(arguments);
        let log = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{log}");
        assert!(log.starts_with("error: ") && log.contains(error), "{log}");
        assert!(hint.is_none_or(|hint| log.contains(hint)), "{log}");
    };
    refused(&["pause", "--machine", "nobody"], "there is no machine \"nobody\"", Some("farmhand machines"));
    refused(&["slots", "100000"], "the most this machine takes", None);
    assert_eq!(node.cli(&["slots", "0"]).status.code(), Some(2), "the command line itself is wrong");
    let request = SetMachineRequest { state: machine::State::Lost.into(), ..Default::default() };
    let status = control(&node).await.set_machine(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(json(&node.cli(&["machines", "--json"]))[0]["slots"], 1);
}

#[tokio::test]
async fn who_waits_learns_what_is_before_it() {
    let node = with_slots("1");
    let client = node.client().await;
    let _held = Call::running(&ActionBuilder::sh("sleep 8644.5"), &client).await;
    let mut calls = Vec::new();
    for number in 0..3 {
        calls.push(Call::start(&ActionBuilder::sh(&format!("echo {number}")), &client).await);
    }
    for (number, call) in calls.iter().enumerate() {
        let found = get(&node, &call.action).await;
        assert_eq!(found.ahead, Some(number as u64));
        assert!(found.waiting[0].text.starts_with("its slot is busy"), "{:?}", found.waiting);
    }
}

// === rerun ===

/// All that a rerun tells: how each run ended, and the verdict.
async fn rerun(node: &Node, request: RerunActionRequest) -> (Vec<i32>, RerunVerdict) {
    let mut stream = control(node).await.rerun_action(request).await.unwrap().into_inner();
    let mut codes = Vec::new();
    loop {
        let message = stream.message().await.unwrap().expect("a verdict comes last");
        if let Some(verdict) = message.verdict {
            assert!(stream.message().await.unwrap().is_none());
            return (codes, verdict);
        }
        let operation = message.operation.unwrap();
        assert_eq!(operation.kind(), Kind::Rerun);
        if operation.stage() == OperationStage::Done {
            codes.push(operation.exit_code);
        }
    }
}

fn times(action: &Digest, times: u32) -> RerunActionRequest {
    RerunActionRequest { digest: action.to_string(), times, ..Default::default() }
}

#[tokio::test]
async fn a_deterministic_action_makes_the_same_each_time() {
    let node = with_slots("2");
    let client = node.client().await;
    let script = "mkdir -p d/e; cat in > d/e/f; ln -s f d/e/link; cp in tool; chmod +x tool; echo out";
    let action = ActionBuilder::sh(script).file("in", "data").outputs(&["d", "tool"]);
    let outcome = action.run(&client).await;
    outcome.success();
    let before = get(&node, &outcome.action_digest).await.result;
    let (codes, verdict) = rerun(&node, times(&outcome.action_digest, 4)).await;
    assert_eq!(codes, [0; 4]);
    let expected = RerunVerdict { succeeded: 4, compared_with_cache: true, ..Default::default() };
    assert_eq!(verdict, expected);
    assert!(before.is_some());

    let digest = outcome.action_digest.to_string();
    let told = node.cli(&["action", &digest, "rerun", "-n", "2"]);
    assert_eq!(stdout(&told), "same: 2 runs and the cached result made the same\n", "{}", stderr(&told));
    assert!(stderr(&told).contains("run 2 of 2 "), "{}", stderr(&told));
    let told = json(&node.cli(&["action", &digest, "rerun", "--json", "--on", "testnode"]));
    assert_eq!((&told["same"], &told["runs"][0]["machine"]), (&true.into(), &"testnode".into()));
}

#[tokio::test]
async fn what_differs_is_named_down_to_the_file_and_leaves_no_trace_in_the_cache() {
    let node = with_slots("2");
    let client = node.client().await;
    let script = "mkdir -p d/e; echo same > d/e/same; date +%N > d/e/time; date +%N; echo same > f";
    let action = ActionBuilder::sh(script).outputs(&["d", "f"]);
    let outcome = action.run(&client).await;
    let cached = outcome.stdout(&client).await;
    let (_, verdict) = rerun(&node, times(&outcome.action_digest, 3)).await;
    assert_eq!((verdict.succeeded, verdict.compared_with_cache), (3, true));
    let paths: Vec<_> = verdict.differences.iter().map(|row| row.path.as_str()).collect();
    assert_eq!(paths, ["stdout", "d/e/time"]);
    for OutputDifference { path, values } in &verdict.differences {
        let distinct: std::collections::BTreeSet<_> = values.iter().collect();
        assert_eq!((values.len(), distinct.len()), (4, 4), "{path}");
    }
    assert_eq!(action.run(&client).await.stdout(&client).await, cached, "the cached result stayed");

    let told = node.cli(&["action", &outcome.action_digest.to_string(), "rerun", "-n", "2"]);
    assert_eq!(told.status.code(), Some(1));
    assert!(stdout(&told).starts_with("OUTPUT    RUN 1"), "{}", stdout(&told));
    assert!(
        stderr(&told).contains("error: the action does not make the same each time"),
        "{}",
        stderr(&told)
    );

    let failing = ActionBuilder::sh("test -e /nonexistent").run(&client).await;
    let (codes, verdict) = rerun(&node, times(&failing.action_digest, 2)).await;
    assert_eq!((codes, verdict.failed, verdict.compared_with_cache), (vec![1, 1], 2, false));
    assert!(verdict.differences.is_empty(), "it fails the same way each time");
    let told = node.cli(&["action", &failing.action_digest.to_string(), "rerun", "--json"]);
    assert_eq!(told.status.code(), Some(1));
}

#[tokio::test]
async fn leaving_a_rerun_ends_its_runs() {
    let node = with_slots("4");
    let client = node.client().await;
    let action = ActionBuilder::sh("n=8645; sleep $n.5").upload(&client).await;
    let mut stream = control(&node).await.rerun_action(times(&action, 9)).await.unwrap().into_inner();
    let mut running = 0;
    while running < 2 {
        let operation = stream.message().await.unwrap().unwrap().operation.unwrap();
        running += usize::from(operation.stage() == OperationStage::Running);
    }
    until_busy(&node, 2).await;
    drop(stream);
    until_busy(&node, 0).await;
    eventually("nothing sleeps", || !is_running("8645.5")).await;
}

#[tokio::test]
async fn what_cannot_be_run_again_is_refused() {
    let node = with_slots("1");
    let client = node.client().await;
    let absent = Digest::parse(client.function, &"ab".repeat(32), 7).unwrap();
    let mut control = control(&node).await;
    let on_nobody = |digest: &Digest| RerunActionRequest { machine: "nobody".into(), ..times(digest, 1) };
    let stored = ActionBuilder::sh("true").upload(&client).await;
    for (request, code) in [
        (times(&absent, 1), Code::NotFound),
        (times(&stored, 101), Code::InvalidArgument),
        (on_nobody(&stored), Code::NotFound),
        (RerunActionRequest { digest: "nonsense".into(), ..Default::default() }, Code::InvalidArgument),
    ] {
        let status = control.rerun_action(request.clone()).await.err().unwrap();
        assert_eq!(status.code(), code, "{request:?}: {}", status.message());
    }
    let told = node.cli(&["action", &absent.to_string(), "rerun"]);
    assert!(stderr(&told).contains("hint: "), "{}", stderr(&told));
}
