//! One machine invites, another joins, over loopback; and both are linked then.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use farmhand_proto::control::AnswerNewcomerRequest;
use serde_json::Value;

use crate::farm_key::{key_of, stderr, stdout};
use crate::links::{is_linked, machines, until};
use crate::running::eventually;
use crate::support::Node;
use crate::support::node::BINARY;

/// A running `farmhand invite --json`. Dropping it ends it.
pub(crate) struct Invitation {
    child: Child,
    lines: BufReader<ChildStdout>,
    pub(crate) code: String,
    pub(crate) address: SocketAddr,
}

impl Invitation {
    pub(crate) fn of(host: &Node, arguments: &[&str]) -> Self {
        let mut child = Command::new(BINARY)
            .args(["invite", "--json"])
            .args(arguments)
            .arg("--runtime-dir")
            .arg(host.runtime_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut invitation = Self { child, lines, code: String::new(), address: ([0, 0, 0, 0], 0).into() };
        let told = invitation.event();
        assert_eq!(told["event"], "invitation");
        invitation.code = told["code"].as_str().unwrap().to_owned();
        invitation.address = told["addresses"][0].as_str().unwrap().parse().unwrap();
        invitation
    }

    pub(crate) fn event(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    /// Types an answer.
    fn type_line(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Process id of the command.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The last event, and whether the command was a success.
    pub(crate) fn end(mut self) -> (Value, bool) {
        let event = self.event();
        assert_eq!(event["event"], "end");
        (event, self.child.wait().unwrap().success())
    }
}

impl Drop for Invitation {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(name: &str) -> Node {
    Node::builder().arguments(&["--name", name]).start()
}

/// Has `newcomer` join the farm of `host`.
#[track_caller]
pub(crate) fn let_in(host: &Node, newcomer: &Node, arguments: &[&str]) {
    let invitation = Invitation::of(host, &[]);
    let joined = join(newcomer, &invitation.code, invitation.address, arguments);
    assert!(joined.status.success(), "{}", stderr(&joined));
    assert!(invitation.end().1);
}

/// `farmhand join` on `node`, with the code on stdin.
fn join(node: &Node, code: &str, address: SocketAddr, arguments: &[&str]) -> Output {
    let address = address.to_string();
    join_somewhere(node, code, &[&["--from", &address], arguments].concat())
}

fn join_somewhere(node: &Node, code: &str, arguments: &[&str]) -> Output {
    let mut child = Command::new(BINARY)
        .args(["join", "-", "--runtime-dir"])
        .arg(node.runtime_dir())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{code}").unwrap();
    child.wait_with_output().unwrap()
}

/// A code that differs.
fn other(code: &str) -> &'static str {
    if code.starts_with("000") { "001-zoo-zoo" } else { "000-zoo-zoo" }
}

#[test]
fn a_machine_joins_by_a_code_and_stays() {
    let (host, mut newcomer) = (start("attic"), start("cellar"));
    let key = key_of(&host);
    assert_ne!(key_of(&newcomer), key);
    let invitation = Invitation::of(&host, &[]);
    let (code, address) = (invitation.code.clone(), invitation.address);
    let joined = join(&newcomer, &code.to_uppercase().replace('-', " "), address, &[]);
    assert!(joined.status.success(), "{}", stderr(&joined));
    assert!(stdout(&joined).contains(&key.farm()), "{}", stdout(&joined));
    let (end, success) = invitation.end();
    assert!(success);
    assert_eq!((&end["reason"], &end["newcomer"]["name"]), (&"joined".into(), &"cellar".into()));
    let words = end["newcomer"]["check_words"].as_str().unwrap();
    assert!(stdout(&joined).contains(words), "{words}: {}", stdout(&joined));
    assert_eq!(key_of(&newcomer), key);
    newcomer.kill();
    newcomer.restart();
    assert_eq!(key_of(&newcomer), key);
    assert!(TcpStream::connect(address).is_err());
    let again = join(&start("third"), &code, address, &[]);
    assert!(!again.status.success());
    assert!(stderr(&again).contains("does farmhand invite still run there"), "{}", stderr(&again));
    assert!(host.log().contains("cellar"), "who came is in the log");
}

/// Nothing is announced here, and no address is in any file or argument but that of the invitation.
#[tokio::test]
async fn who_has_joined_is_linked_and_stays_so() {
    let (mut host, mut newcomer) = (start("attic"), start("cellar"));
    let_in(&host, &newcomer, &[]);
    for (node, other) in [(&host, "cellar"), (&newcomer, "attic")] {
        let machine = until(node, other, is_linked).await;
        assert!(["joining", "called"].contains(&machine.found_by.as_str()), "{machine:?}");
        assert_eq!(machines(node).await.len(), 2);
        let table = stdout(&node.cli(&["machines"]));
        let line = table.lines().find(|line| line.starts_with(other)).expect(&table);
        assert!(line.contains("active"), "{table}");
    }
    assert!(newcomer.stop().success());
    newcomer.restart();
    until(&newcomer, "attic", is_linked).await;
    until(&host, "cellar", is_linked).await;
    assert!(host.stop().success());
    assert!(fs::read_to_string(host.data_dir().join("farm/peers")).unwrap().contains("cellar"));
}

/// Multicast works on the loopback of every machine that is tested on.
#[tokio::test]
async fn an_invitation_is_found_on_the_network() {
    let found = ["--no-discovery=false", "--interfaces", "lo"];
    let node = |name| Node::builder().arguments(&["--name", name]).arguments(&found).start();
    let (host, newcomer) = (node("attic"), node("cellar"));
    let nowhere = newcomer.cli(&["join", "123-zoo-zoo"]);
    assert!(stderr(&nowhere).contains("--from HOST:PORT"), "{}", stderr(&nowhere));
    let invitation = Invitation::of(&host, &[]);
    let code = invitation.code.clone();
    let joined = join_somewhere(&newcomer, &code, &[]);
    assert!(joined.status.success(), "{}", stderr(&joined));
    let (end, success) = invitation.end();
    assert!(success && stdout(&joined).contains(end["newcomer"]["check_words"].as_str().unwrap()));
    until(&newcomer, "attic", is_linked).await;
    until(&host, "cellar", is_linked).await;
    // It is withdrawn: nobody hears of it any more.
    let late = node("late");
    let late = join_somewhere(&late, &code, &[]);
    assert!(stderr(&late).contains("no invitation is heard of"), "{}", stderr(&late));
}

/// Nobody was invited: the machines found each other by the key alone, which a person has copied.
#[tokio::test]
async fn who_is_linked_with_others_is_in_a_farm_with_them() {
    let attic = start("attic");
    let mut cellar = start("cellar");
    cellar.stop();
    fs::copy(attic.data_dir().join("farm/farm.key"), cellar.data_dir().join("farm/farm.key")).unwrap();
    cellar.change_arguments(|all| all.extend(["--peer".into(), attic.peer_address.to_string()]));
    cellar.restart();
    until(&cellar, "attic", is_linked).await;
    until(&attic, "cellar", is_linked).await;
    for node in [&attic, &cellar] {
        eventually("it is written down", || node.data_dir().join("farm/shared").exists()).await;
        let refused = node.cli(&["join", "123-zoo-zoo", "--from", "127.0.0.1:1"]);
        assert!(stderr(&refused).contains("--leave"), "{}", stderr(&refused));
    }
}

#[test]
fn five_wrong_codes_end_an_invitation() {
    let (host, newcomer) = (start("attic"), start("cellar"));
    let mut invitation = Invitation::of(&host, &[]);
    let (code, address) = (invitation.code.clone(), invitation.address);
    for left in (0..5).rev() {
        assert!(!join(&newcomer, other(&code), address, &[]).status.success());
        let told = invitation.event();
        assert_eq!((&told["event"], &told["tries_left"]), (&"wrong-code".into(), &left.into()));
    }
    let (end, success) = invitation.end();
    assert_eq!((&end["reason"], success), (&"tries".into(), false));
    let late = join(&newcomer, &code, address, &[]);
    assert!(!late.status.success());
    assert_ne!(key_of(&newcomer), key_of(&host));
}

#[test]
fn who_is_in_a_farm_with_others_leaves_it_only_when_told_to() {
    let (first, second, other) = (start("first"), start("second"), start("other"));
    let invitation = Invitation::of(&first, &[]);
    assert!(join(&second, &invitation.code, invitation.address, &[]).status.success());
    assert!(invitation.end().1);
    let invitation = Invitation::of(&other, &[]);
    // Of the farm that shares a key both the one who came and the one who invited.
    for member in [&first, &second] {
        let refused = join(member, &invitation.code, invitation.address, &[]);
        assert!(!refused.status.success());
        let told = stderr(&refused);
        assert!(told.contains(&key_of(&first).farm()) && told.contains("--leave"), "{told}");
    }
    let left = join(&second, &invitation.code, invitation.address, &["--leave", "--json"]);
    assert!(left.status.success(), "{}", stderr(&left));
    let last: Value = serde_json::from_str(stdout(&left).lines().last().unwrap()).unwrap();
    assert_eq!((&last["event"], &last["farm"]), (&"joined".into(), &key_of(&other).farm().into()));
    assert_eq!(key_of(&second), key_of(&other));
    assert_ne!(key_of(&first), key_of(&other));
}

#[test]
fn a_wrong_code_is_told_on_both_sides_and_the_right_one_still_holds() {
    let (host, newcomer) = (start("attic"), start("cellar"));
    let mut invitation = Invitation::of(&host, &[]);
    let wrong = join(&newcomer, other(&invitation.code), invitation.address, &[]);
    assert!(!wrong.status.success());
    assert!(stderr(&wrong).contains("not that of the invitation"), "{}", stderr(&wrong));
    let told = invitation.event();
    assert_eq!((&told["event"], &told["tries_left"]), (&"wrong-code".into(), &4.into()));
    let no_code = join(&newcomer, "let me in", invitation.address, &[]);
    assert!(stderr(&no_code).contains("three digits and two words"), "{}", stderr(&no_code));
    assert_ne!(key_of(&newcomer), key_of(&host));
    assert!(join(&newcomer, &invitation.code, invitation.address, &[]).status.success());
    assert!(invitation.end().1);
}

#[tokio::test]
async fn a_person_is_asked_where_that_is_wanted() {
    let host = start("attic");
    for accept in [false, true] {
        let newcomer = start("cellar");
        let mut invitation = Invitation::of(&host, &["--ask"]);
        let (code, address) = (invitation.code.clone(), invitation.address);
        let joining = tokio::task::spawn_blocking(move || (join(&newcomer, &code, address, &[]), newcomer));
        let pending = invitation.event();
        assert_eq!((&pending["event"], &pending["name"]), (&"pending".into(), &"cellar".into()));
        let words = pending["check_words"].as_str().unwrap();
        let status = stdout(&host.cli(&["status"]));
        assert!(status.contains(&format!("cellar asks to come in, check words {words}")), "{status}");
        assert!(status.contains("invitation: open for one machine"), "{status}");
        match accept {
            true => invitation.type_line("yes"),
            false => {
                // By another program, such as the dashboard.
                let number = pending["number"].as_u64().unwrap();
                let answer = AnswerNewcomerRequest { number, accept };
                host.control().await.answer_newcomer(answer).await.unwrap();
            }
        }
        let (joined, newcomer) = joining.await.unwrap();
        assert_eq!(joined.status.success(), accept, "{}", stderr(&joined));
        let (end, success) = invitation.end();
        assert_eq!(success, accept);
        assert_eq!(end["reason"], if accept { "joined" } else { "refused" });
        let status = stdout(&host.cli(&["status"]));
        assert!(!status.contains("asks to come in") && !status.contains("invitation:"), "{status}");
        assert_eq!(key_of(&newcomer) == key_of(&host), accept);
    }
}

#[tokio::test]
async fn an_invitation_lasts_as_long_as_its_command() {
    let host = start("attic");
    let invitation = Invitation::of(&host, &[]);
    let second = host.cli(&["invite"]);
    assert!(!second.status.success());
    assert!(stderr(&second).contains("open already"), "{}", stderr(&second));
    let address = invitation.address;
    assert!(TcpStream::connect(address).is_ok());
    drop(invitation);
    eventually("the port is closed", || TcpStream::connect(address).is_err()).await;
    drop(Invitation::of(&host, &[]));
}

#[test]
fn a_key_that_a_file_sets_is_not_joined_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("farm.key");
    assert!(Command::new(BINARY).args(["key", "new", "-o"]).arg(&path).status().unwrap().success());
    let node = Node::builder().arguments(&["--farm-key-file", path.to_str().unwrap()]).start();
    let refused = node.cli(&["join", "123-zoo-zoo", "--from", "127.0.0.1:1", "--leave"]);
    assert!(!refused.status.success());
    assert!(stderr(&refused).contains("farm-key-file"), "{}", stderr(&refused));
}

#[test]
fn where_nothing_answers_it_says_what_to_do() {
    let node = start("cellar");
    let nowhere = node.cli(&["join", "123-zoo-zoo"]);
    assert!(stderr(&nowhere).contains("--from HOST:PORT"), "{}", stderr(&nowhere));
    let closed = node.cli(&["join", "123", "zoo", "zoo", "--from", "127.0.0.1:1"]);
    assert!(stderr(&closed).contains("firewall"), "{}", stderr(&closed));
}
