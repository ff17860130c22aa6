//! LINK: nodes that find each other, lose each other and find each other again; strangers at the peer port.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use farmhand_proto::control::machine::State;
use farmhand_proto::control::{GetStatusRequest, Machine};
use tempfile::TempDir;

use crate::support::Node;
use crate::support::node::NodeBuilder;

pub(crate) mod fake;
mod strangers;
mod versions;

/// Two keys, as people have them.
const KEYS: [&str; 2] = [
    "abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon abandon about",
    "legal winner thank year wave sausage worth useful legal winner thank yellow",
];

/// A directory with farm keys.
pub(crate) struct Keys(TempDir);

impl Keys {
    pub(crate) fn new() -> Self {
        let directory = TempDir::new().unwrap();
        for (number, words) in KEYS.iter().enumerate() {
            let path = directory.path().join(number.to_string());
            let mut file =
                fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).unwrap();
            file.write_all(words.as_bytes()).unwrap();
        }
        Self(directory)
    }

    /// The file of one of them.
    pub(crate) fn file(&self, number: usize) -> PathBuf {
        self.0.path().join(number.to_string())
    }

    /// A node with the first of them.
    pub(crate) fn node(&self, name: &str, arguments: &[&str]) -> NodeBuilder {
        self.node_of(0, name, arguments)
    }

    fn node_of(&self, key: usize, name: &str, arguments: &[&str]) -> NodeBuilder {
        let key = self.file(key).display().to_string();
        Node::builder().arguments(&["--name", name, "--farm-key-file", &key]).arguments(arguments)
    }
}

/// What `node` tells of all machines.
pub(crate) async fn machines(node: &Node) -> Vec<Machine> {
    node.control().await.get_status(GetStatusRequest {}).await.unwrap().into_inner().machines
}

/// Waits until `node` tells of a machine called `name` as wanted; gives what it tells.
pub(crate) async fn until(node: &Node, name: &str, is_so: impl Fn(&Machine) -> bool) -> Machine {
    for _ in 0..600 {
        let all = machines(node).await;
        if let Some(machine) = all.iter().find(|machine| machine.name == name && is_so(machine)) {
            return machine.clone();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{name} is not as wanted after 30 s: {:?}\n{}", machines(node).await, node.log());
}

/// Whether there are links in both directions, and the machine has told of itself.
pub(crate) fn is_linked(machine: &Machine) -> bool {
    machine.state() == State::Active && machine.linked && machine.links_back && machine.slots > 0
}

/// A node `desk`, linked with `host`, where all its actions run until it is told to resume.
pub(crate) async fn desk_of(host: &Node, keys: &Keys) -> Node {
    let at_host = host.peer_address.to_string();
    let desk = keys.node("desk", &["--slots", "1", "--peer", &at_host]).start();
    until(&desk, "host", is_linked).await;
    assert!(desk.cli(&["pause"]).status.success());
    desk
}

/// A port that is free now.
fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn one_address_is_enough_for_links_in_both_directions() {
    let keys = Keys::new();
    let attic = keys.node("attic", &["--slots", "3"]).start();
    let cellar = keys.node("cellar", &["--peer", &attic.peer_address.to_string()]).start();
    let seen = until(&cellar, "attic", is_linked).await;
    assert_eq!((seen.slots, seen.found_by.as_str()), (3, "configured"));
    assert_eq!(seen.version, env!("CARGO_PKG_VERSION"));
    assert!(seen.round_trip.is_some() && seen.clock_ahead.is_some() && seen.cpus > 0);
    assert_eq!(seen.address, attic.peer_address.to_string());
    let back = until(&attic, "cellar", is_linked).await;
    assert_eq!(back.found_by, "called");
    let own = machines(&attic).await.remove(0);
    assert!(own.is_self && own.id == seen.id && own.boot_epoch == seen.boot_epoch, "{own:?} {seen:?}");
}

#[tokio::test]
async fn three_machines_see_each_other_and_the_load() {
    let keys = Keys::new();
    let attic = keys.node("attic", &[]).start();
    let at_attic = attic.peer_address.to_string();
    let cellar = keys.node("cellar", &["--peer", &at_attic]).start();
    let at_cellar = cellar.peer_address.to_string();
    let shed = keys.node("shed", &["--peer", &at_attic, "--peer", &at_cellar]).start();
    for (node, others) in
        [(&attic, ["cellar", "shed"]), (&cellar, ["attic", "shed"]), (&shed, ["attic", "cellar"])]
    {
        for other in others {
            until(node, other, |machine| is_linked(machine) && machine.load.is_some()).await;
        }
        assert_eq!(machines(node).await.len(), 3);
    }
    assert!(attic.cli(&["pause"]).status.success());
    until(&shed, "attic", |machine| machine.state() == State::Paused).await;
}

#[tokio::test]
async fn a_node_that_ends_says_goodbye_and_is_back_with_another_start() {
    let keys = Keys::new();
    let port = free_port().to_string();
    let mut attic = keys.node("attic", &["--peer-listen", &port]).start();
    let cellar = keys.node("cellar", &["--peer", &port]).start();
    let first = until(&cellar, "attic", is_linked).await;
    assert!(attic.stop().success());
    let lost = until(&cellar, "attic", |machine| machine.state() == State::Lost).await;
    assert!(lost.reason.contains("goodbye") && lost.reason.contains("ending"), "{}", lost.reason);
    attic.restart();
    let second = until(&cellar, "attic", is_linked).await;
    assert!(second.boot_epoch > first.boot_epoch && second.id == first.id, "{first:?} {second:?}");
    until(&attic, "cellar", is_linked).await;
}

#[tokio::test]
async fn a_killed_node_is_lost_at_once_and_comes_back() {
    let keys = Keys::new();
    let port = free_port().to_string();
    let mut attic = keys.node("attic", &["--peer-listen", &port]).start();
    let cellar = keys.node("cellar", &["--peer", &port]).start();
    until(&cellar, "attic", is_linked).await;
    attic.kill();
    let lost = until(&cellar, "attic", |machine| machine.state() == State::Lost).await;
    assert!(lost.reason.contains("closed") || lost.reason.contains("reset"), "{}", lost.reason);
    attic.restart();
    until(&cellar, "attic", is_linked).await;
    until(&attic, "cellar", is_linked).await;
}

#[tokio::test]
async fn a_frozen_node_is_lost_and_found_again() {
    let keys = Keys::new();
    let attic = keys.node("attic", &[]).start();
    let cellar = keys.node("cellar", &["--peer", &attic.peer_address.to_string()]).start();
    until(&cellar, "attic", is_linked).await;
    attic.signal("STOP");
    let lost = until(&cellar, "attic", |machine| machine.state() == State::Lost).await;
    assert!(lost.reason.contains("silent"), "{}", lost.reason);
    attic.signal("CONT");
    until(&cellar, "attic", is_linked).await;
    until(&attic, "cellar", is_linked).await;
}

#[tokio::test]
async fn who_was_linked_with_is_found_without_being_named_again() {
    let keys = Keys::new();
    let port = free_port().to_string();
    let mut attic = keys.node("attic", &["--peer-listen", &port]).start();
    let mut cellar = keys.node("cellar", &["--peer", &port]).start();
    until(&cellar, "attic", is_linked).await;
    assert!(cellar.stop().success() && attic.stop().success());
    cellar.change_arguments(|arguments| {
        let at = arguments.iter().position(|argument| argument == "--peer").unwrap();
        arguments.drain(at..at + 2);
    });
    attic.restart();
    cellar.restart();
    let found = until(&cellar, "attic", is_linked).await;
    assert!(["remembered", "called"].contains(&found.found_by.as_str()), "{}", found.found_by);
}

#[tokio::test]
async fn a_machine_of_another_farm_is_shown_as_such() {
    let keys = Keys::new();
    let attic = keys.node_of(1, "attic", &[]).start();
    let address = attic.peer_address.to_string();
    let cellar = keys.node("cellar", &["--peer", &address]).start();
    let refused = until(&cellar, &address, |machine| machine.state() == State::Refused).await;
    assert!(refused.reason.contains("another farm key"), "{}", refused.reason);
    assert_eq!((refused.linked, refused.links_back), (false, false));
    assert_eq!(machines(&attic).await.len(), 1, "a stranger has no name");
    let text = cellar.cli(&["machines"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("refused") && text.contains("another farm key"), "{text}");
}

#[tokio::test]
async fn a_node_that_is_named_to_itself_is_no_machine_more() {
    let keys = Keys::new();
    let port = free_port().to_string();
    let attic = keys.node("attic", &["--peer-listen", &port, "--peer", &port]).start();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(machines(&attic).await.len(), 1);
}

/// Reads until the other end closes, for at most 20 s.
fn is_closed(socket: &mut TcpStream) -> bool {
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut buffer = [0; 4096];
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// Multicast works on the loopback of every machine that is tested on; two farms share it here.
#[tokio::test]
async fn machines_of_one_farm_find_each_other_on_the_network() {
    let keys = Keys::new();
    let found = ["--no-discovery=false", "--interfaces", "lo"];
    let attic = keys.node("attic", &found).start();
    let cellar = keys.node("cellar", &found).start();
    let other = keys.node_of(1, "other", &found).start();
    let mut seen = until(&cellar, "attic", is_linked).await;
    assert!(["mdns", "called"].contains(&seen.found_by.as_str()), "{}", seen.found_by);
    until(&attic, "cellar", is_linked).await;
    assert_eq!(machines(&other).await.len(), 1);
    assert_eq!(machines(&attic).await.len(), 2);
    let mut attic = attic;
    assert!(attic.stop().success());
    seen = until(&cellar, "attic", |machine| machine.state() == State::Lost).await;
    assert!(seen.reason.contains("goodbye"), "{}", seen.reason);
    attic.restart();
    until(&cellar, "attic", is_linked).await;
}
