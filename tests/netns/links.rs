//! That the LAN of these tests does what it says: a farm that survives a cut that was none proves nothing.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::Instant;

use crate::lan::{Lan, Quality, address};

/// Answers whoever connects, until it is killed.
const LISTEN: &str = "
import socket
server = socket.create_server(('0.0.0.0', 7))
print('ready', flush=True)
while True:
    server.accept()[0].close()
";

/// Connects once, within a second.
const CONNECT: &str = "
import socket, sys
socket.create_connection((sys.argv[1], 7), 1).close()
";

/// A machine that listens.
struct Listener(Child);

impl Listener {
    fn start(lan: &Lan, machine: usize) -> Self {
        let mut child = python(lan, machine, LISTEN).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
        Self(child)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn python(lan: &Lan, machine: usize, script: &str) -> Command {
    let [program, words @ ..] = lan.on(machine);
    let mut command = Command::new(program);
    command.args(words).args(["python3", "-c", script]).stdin(Stdio::null());
    command
}

fn reaches(lan: &Lan, from: usize, to: usize) -> bool {
    let mut command = python(lan, from, CONNECT);
    command.arg(address(to)).stderr(Stdio::null()).status().unwrap().success()
}

#[test]
fn machines_reach_one_another_as_long_as_they_are_let() {
    let Some(lan) = Lan::new(3) else { return };
    let _listeners: Vec<_> = (0..3).map(|machine| Listener::start(&lan, machine)).collect();
    let reached = || [(0, 1), (1, 2), (2, 0)].map(|(from, to)| reaches(&lan, from, to));
    assert_eq!(reached(), [true; 3]);
    lan.unplug(1);
    assert_eq!(reached(), [false, false, true]);
    lan.plug(1);
    lan.silence(0);
    assert_eq!(reached(), [false, true, false]);
    lan.unsilence(0);
    lan.part(1, 2);
    assert_eq!(reached(), [true, false, true]);
    lan.unite(1, 2);
    assert_eq!(reached(), [true; 3]);
}

#[test]
fn a_slow_link_is_slow_and_passes_everything_on() {
    let Some(mut lan) = Lan::new(2) else { return };
    let _listener = Listener::start(&lan, 1);
    lan.worsen(0, Quality { delay: 40, ..Quality::WIFI });
    let until = Instant::now() + Duration::from_secs(10);
    while !reaches(&lan, 0, 1) {
        assert!(Instant::now() < until, "nothing passes");
    }
    let begin = Instant::now();
    while !reaches(&lan, 0, 1) {
        assert!(Instant::now() < until, "nothing passes any more");
    }
    assert!(begin.elapsed() >= Duration::from_millis(80), "there and back");
}
