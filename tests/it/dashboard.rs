//! What needs no terminal of the commands with a dashboard: `farmhand` alone, `top --once` and `--json`, and what
//! they say where there is no terminal. `tests/clients/dashboard.py` has the rest.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::cli::{assert_refused, farmhand, json, stderr, stdout};
use super::support::Node;
use super::support::node::BINARY;

#[test]
fn without_a_node_there_is_nothing_to_watch() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [&["top"][..], &["top", "--once"], &["top", "--json"]] {
        assert_refused(&farmhand(home.path(), arguments), "no node is running", "farmhand serve");
    }
}

#[test]
fn alone_it_serves_without_a_terminal_with_the_variables_of_serve() {
    let home = tempfile::tempdir().unwrap();
    let mut node = Command::new(BINARY)
        .env_clear()
        .env("HOME", home.path())
        .env("FARMHAND_LISTEN", "127.0.0.1:0")
        .env("FARMHAND_RUNTIME_DIR", home.path().join("run"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(node.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid = i32::try_from(node.id()).ok().and_then(Pid::from_raw).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    assert!(line.starts_with("ready: reapi=127.0.0.1:"), "{line}");
    assert!(line.contains(&format!("control={}", home.path().join("run/control.sock").display())), "{line}");
    assert!(node.wait().unwrap().success());
}

#[test]
fn without_a_terminal_the_farm_can_be_printed_once() {
    let node = Node::start();
    let refused = node.cli(&["top"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("top --once"), "{}", stderr(&refused));
    let printed = node.cli(&["top", "--once"]);
    assert!(printed.status.success(), "{}", stderr(&printed));
    assert!(
        stdout(&printed).contains("testnode") && !stdout(&printed).contains('\x1b'),
        "{}",
        stdout(&printed)
    );
    assert_eq!(json(&node.cli(&["top", "--json"]))["schema"], 1);
}
