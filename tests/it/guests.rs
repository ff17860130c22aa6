//! GUEST: what becomes of actions of other machines, and of who sits at the machine that runs them.

use std::fs;

use farmhand::tasks::Tasks;
use farmhand_proto::control::machine::State;
use tokio::task::JoinHandle;

use crate::links::{Keys, desk_of, machines, until};
use crate::running::{eventually, is_running};
use crate::support::{ActionBuilder, Client, Node, Outcome};

/// Prints how nice the action is.
const NICENESS: &str = "cut -d' ' -f19 /proc/self/stat";

/// How nice the tests are, and so the nodes and what they run for themselves.
fn own_niceness() -> i32 {
    let told = std::process::Command::new("sh").args(["-c", NICENESS]).output().unwrap().stdout;
    String::from_utf8(told).unwrap().trim().parse().unwrap()
}

/// Two nodes: `desk`, whose actions all run at `host` until it is told to resume.
struct Pair {
    desk: Node,
    host: Node,
    client: Client,
}

// === impl Pair ===

impl Pair {
    async fn new(settings: &str) -> Self {
        let keys = Keys::new();
        let host = keys.node("host", &["--slots", "2"]).config(settings).start();
        let desk = desk_of(&host, &keys).await;
        let client = desk.client().await;
        Self { desk, host, client }
    }

    /// Starts an action, and waits until a process with `mark` among its arguments runs.
    async fn start(&self, script: &str, mark: &str) -> JoinHandle<Outcome> {
        let (action, client) = (ActionBuilder::sh(script), self.client.clone());
        let run = Tasks::default().spawn("action", async move { action.run(&client).await });
        eventually("the action runs", || is_running(mark)).await;
        run
    }

    fn lend(&self, slots: &str) {
        let told = self.host.cli(&["slots", "--guests", slots]);
        assert!(told.status.success(), "{told:?}");
    }
}

/// The machine that ran an action, and what that printed.
async fn told(outcome: &Outcome, client: &Client) -> (String, String) {
    let worker = outcome.success().execution_metadata.as_ref().unwrap().worker.clone();
    (worker, outcome.stdout(client).await)
}

/// Whether processes with `mark` among their arguments are there, and all are stopped.
fn is_stopped(mark: &str) -> bool {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let has_mark = |path: &std::path::PathBuf| {
        let arguments = fs::read(path.join("cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == mark.as_bytes())
    };
    let marked: Vec<_> = processes.filter(has_mark).collect();
    let is_stopped = |path: &std::path::PathBuf| {
        fs::read_to_string(path.join("stat")).is_ok_and(|stat| stat.contains(") T "))
    };
    !marked.is_empty() && marked.iter().all(is_stopped)
}

#[tokio::test]
async fn guests_are_nicer_than_actions_of_the_machine_itself() {
    let (pair, own) = (Pair::new("").await, own_niceness());
    let outcome = ActionBuilder::sh(NICENESS).run(&pair.client).await;
    let guest = own.max(10);
    assert_eq!(told(&outcome, &pair.client).await, ("host".into(), format!("{guest}\n")));
    let client = pair.host.client().await;
    let outcome = ActionBuilder::sh(NICENESS).do_not_cache().run(&client).await;
    assert_eq!(told(&outcome, &client).await, ("host".into(), format!("{own}\n")));
}

#[tokio::test]
async fn guests_stand_still_while_fewer_may_run() {
    let pair = Pair::new("running-guests = \"freeze\"").await;
    let nap = "1.7320508";
    let run = pair.start(&format!("sleep {nap}; echo rested"), nap).await;
    pair.lend("0");
    eventually("the guest stands still", || is_stopped(nap)).await;
    until(&pair.desk, "host", |host| host.guest_slots == Some(0)).await;
    pair.lend("all");
    let outcome = run.await.unwrap();
    assert_eq!(told(&outcome, &pair.client).await, ("host".into(), "rested\n".into()));
    let host = machines(&pair.host).await.remove(0);
    assert_eq!((host.state(), host.guest_slots), (State::Active, Some(2)));
}

#[tokio::test]
async fn guests_that_are_handed_back_run_elsewhere() {
    let pair = Pair::new("running-guests = \"hand-back\"").await;
    // As a guest it would sleep for long.
    let nap = "617.320508";
    let own = own_niceness();
    let script = format!("test $({NICENESS}) = {own} || sleep {nap}; echo home");
    let run = pair.start(&script, nap).await;
    pair.lend("0");
    eventually("the guest is gone", || !is_running(nap)).await;
    assert!(pair.desk.cli(&["resume"]).status.success());
    assert_eq!(told(&run.await.unwrap(), &pair.client).await, ("desk".into(), "home\n".into()));
}

#[tokio::test]
async fn machines_tell_their_toolchain() {
    let pair = Pair::new("").await;
    let host = until(&pair.desk, "host", |host| !host.toolchain.is_empty()).await;
    let desk = until(&pair.desk, "desk", |desk| !desk.toolchain.is_empty()).await;
    assert_eq!(host.toolchain, desk.toolchain, "they are the same machine");
    assert!(pair.host.data_dir().join("toolchain.json").exists());
}
