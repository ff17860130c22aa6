//! Strangers who try hard, and members who were members: nothing is served to them, and the node stays as
//! it is.

use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use farmhand::peer::trust::join::{JoinError, JoinSettings, Joining, Request, Unannounced};
use farmhand::peer::{MachineId, Trust};
use farmhand::tasks::Tasks;
use farmhand_proto::control::GetFarmRequest;
use farmhand_proto::peer::TakeKeyRequest;
use farmhand_proto::peer::peer_client::PeerClient;
use farmhand_proto::reapi::FindMissingBlobsRequest;
use farmhand_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use http_body::{Body, Frame};
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tower::{Service, ServiceExt};

use crate::farm_key::key_of;
use crate::joining::{Invitation, let_in};
use crate::links::fake::Machine;
use crate::links::{Keys, is_linked, machines, until};
use crate::support::Node;

mod handshake;

const MIB: u64 = 1 << 20;

/// Whether the node answers a member, and its own person.
async fn assert_serves(node: &Node, other: &str) {
    until(node, other, is_linked).await;
    assert!(node.cli(&["status"]).status.success());
}

/// Two machines that are linked.
async fn pair(arguments: &[&str]) -> (Node, Node) {
    let start = |name| Node::builder().arguments(&["--name", name]).arguments(arguments).start();
    let (attic, cellar) = (start("attic"), start("cellar"));
    let_in(&attic, &cellar, &[]);
    until(&attic, "cellar", is_linked).await;
    (attic, cellar)
}

async fn find_missing(channel: &Channel) -> Result<(), Status> {
    let mut client = ContentAddressableStorageClient::new(channel.clone());
    client.find_missing_blobs(FindMissingBlobsRequest::default()).await.map(drop)
}

/// The connection was opened while its key was good, and is worth nothing from the moment it is not; the
/// new key is not one that a former member may replace.
#[tokio::test]
async fn an_old_key_opens_no_call_on_an_open_connection() {
    let attic = Node::builder().arguments(&["--name", "attic"]).start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("farm.key");
    assert!(attic.cli(&["key", "show", "-o", path.to_str().unwrap()]).status.success());
    let former = Machine::with(&path);
    let channel = former.connect(attic.peer_address).await.unwrap();
    find_missing(&channel).await.unwrap();
    assert!(attic.cli(&["key", "rotate"]).status.success());
    let new = key_of(&attic);
    let own = TakeKeyRequest { key: former.trust.key().bytes().to_vec() };
    for _ in 0..20 {
        let taken = PeerClient::new(channel.clone()).take_key(own.clone()).await.unwrap_err();
        assert!(
            [Code::PermissionDenied, Code::Unavailable, Code::Unknown].contains(&taken.code()),
            "{taken}"
        );
        assert!(find_missing(&channel).await.is_err());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(former.connect(attic.peer_address).await.is_err());
    assert_eq!(key_of(&attic), new);
}

/// The beginning of a message of a gigabyte, and as much of it as is taken.
struct Endless {
    has_begun: bool,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let piece = match std::mem::replace(&mut self.has_begun, true) {
            false => Bytes::from_static(&[0, 0x40, 0, 0, 0]),
            true => Bytes::from(vec![7; 64 * 1024]),
        };
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

/// Members are no strangers, and their mistakes cost the node no memory either.
#[tokio::test]
async fn a_message_of_a_gigabyte_is_refused_when_it_begins() {
    let keys = Keys::new();
    let attic = keys.node("attic", &[]).start();
    let _cellar = keys.node("cellar", &["--peer", &attic.peer_address.to_string()]).start();
    until(&attic, "cellar", is_linked).await;
    let member = Machine::new(&keys, 0);
    let before = attic.memory("VmRSS");
    for path in [
        "farmhand.peer.v1.Peer/Link",
        "farmhand.peer.v1.Peer/Run",
        "farmhand.peer.v1.Peer/TakeKey",
        "build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs",
    ] {
        let mut channel = member.connect(attic.peer_address).await.unwrap();
        let request = http::Request::post(format!("http://peer/{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(tonic::body::Body::new(Endless { has_begun: false }))
            .unwrap();
        let answered = channel.ready().await.unwrap().call(request);
        // Whether it says why or hangs up, it does not take the gigabyte.
        let answer = tokio::time::timeout(Duration::from_secs(30), answered).await.expect(path);
        if let Ok(answer) = answer {
            assert_ne!(answer.headers().get("grpc-status").map(|status| status.as_bytes()), Some(&b"0"[..]));
        }
    }
    let grown = attic.memory("VmRSS").saturating_sub(before);
    assert!(grown < 48 * MIB, "{} MiB", grown / MIB);
    assert_serves(&attic, "cellar").await;
}

/// Who is a member and says nothing is closed as a stranger is.
#[tokio::test]
async fn a_member_that_does_not_begin_is_closed() {
    let keys = Keys::new();
    let attic = keys.node("attic", &[]).start();
    let config = Machine::new(&keys, 0).trust.client_config();
    let socket = tokio::net::TcpStream::connect(attic.peer_address).await.unwrap();
    let name = rustls::pki_types::ServerName::try_from("farmhand").unwrap();
    let mut socket = TlsConnector::from(config).connect(name, socket).await.unwrap();
    let mut heard = Vec::new();
    let limit = Duration::from_secs(30);
    // An end without the farewell of TLS is one too.
    let _ = tokio::time::timeout(limit, socket.read_to_end(&mut heard)).await.expect("it is closed");
    assert!(heard.len() < 200, "{heard:?}");
}

/// Guesses of this many machines at once.
const GUESSERS: usize = 32;

/// Tries `codes` at `address`; how many were judged.
async fn guess(address: SocketAddr, codes: impl Iterator<Item = String>) -> usize {
    let directory = tempfile::tempdir().unwrap();
    let trust = Trust::open(directory.path(), None).unwrap();
    let settings = JoinSettings { name: "x".into(), program: "x".into(), bind: address.ip(), peer_port: 0 };
    let joining = Joining::new(trust, settings, Arc::new(Unannounced), Arc::new(drop), Tasks::default());
    let mut judged = 0;
    for code in codes {
        let code = code.parse().unwrap();
        let mut steps = joining.join(Request { code, from: Some(address.to_string()), leave: false });
        while let Some(step) = steps.recv().await {
            judged += usize::from(matches!(step, Err(JoinError::Code)));
        }
    }
    judged
}

/// Ten thousand guesses: five are judged, one a second, and the rest finds nobody.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_guesses_are_five() {
    let (attic, _cellar) = pair(&[]).await;
    let mut invitation = Invitation::of(&attic, &[]);
    let (address, right) = (invitation.address, invitation.code.clone());
    let before = attic.memory("VmRSS");
    let guessing = (0..GUESSERS).map(|guesser| {
        let numbers = (guesser..10_000).step_by(GUESSERS).map(|number| number % 1000);
        let codes = numbers.map(|number| format!("{number:03}-zoo-zoo"));
        guess(address, codes.filter(|code| *code != right))
    });
    let judged: usize = futures_util::future::join_all(guessing).await.into_iter().sum();
    assert!(judged <= 5, "{judged}");
    for left in (0..5).rev() {
        assert_eq!(invitation.event()["tries_left"], left);
    }
    assert_eq!(invitation.end().0["reason"], "tries");
    assert!(TcpStream::connect(address).is_err());
    let grown = attic.memory("VmRSS").saturating_sub(before);
    assert!(grown < 24 * MIB, "{} MiB", grown / MIB);
    assert_serves(&attic, "cellar").await;
}

/// Where multicast DNS is spoken.
const MDNS: (Ipv4Addr, u16) = (Ipv4Addr::new(224, 0, 0, 251), 5353);

/// A name, as DNS has it.
fn dns_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}

/// A record that is good for an hour (RFC 1035, section 3.2.1).
fn record(name: &str, kind: u16, data: &[u8]) -> Vec<u8> {
    let head = [&kind.to_be_bytes()[..], &1_u16.to_be_bytes(), &3600_u32.to_be_bytes()].concat();
    [&dns_name(name)[..], &head, &(data.len() as u16).to_be_bytes(), data].concat()
}

/// An answer that nobody asked for: a machine of the farm `tag`, whatever it is called.
fn forged(service: &str, label: &str, tag: &str, address: SocketAddr) -> Vec<u8> {
    let (instance, host) = (format!("{label}.{service}"), format!("{label}.local"));
    let facts: Vec<u8> = ["v=1".to_owned(), format!("farm={tag}")]
        .iter()
        .flat_map(|fact| [&[fact.len() as u8][..], fact.as_bytes()].concat())
        .collect();
    let at = [&[0; 4][..], &address.port().to_be_bytes(), &dns_name(&host)].concat();
    let SocketAddr::V4(address) = address else { panic!("one of IPv4") };
    let records = [
        record(service, 12, &dns_name(&instance)),
        record(&instance, 33, &at),
        record(&instance, 16, &facts),
        record(&host, 1, &address.ip().octets()),
    ];
    let head = [0, 0, 0x84, 0, 0, 0, 0, records.len() as u8, 0, 0, 0, 0];
    [&head[..], &records.concat()].concat()
}

/// Thousands of machines are announced that are not there, some of them as the one that is, in the name of
/// the farm and of its invitations: it stays linked, and what is kept of them is bounded.
#[tokio::test]
async fn forged_announcements_crowd_nobody_out() {
    let (attic, cellar) = pair(&["--no-discovery=false", "--interfaces", "lo"]).await;
    let before = attic.memory("VmRSS");
    let tag = key_of(&attic).tag().to_string();
    let farm = attic.control().await.get_farm(GetFarmRequest {}).await.unwrap().into_inner();
    let id = const_hex::decode(&farm.members[0].machine_id).unwrap();
    let real = MachineId::read(&id).unwrap().label();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut sent = 0;
    for number in 0..5000_u32 {
        let nobody = SocketAddr::from(([127, 9, (number >> 8) as u8, number as u8], 9));
        let mut id = [7; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        let id = MachineId::new(id).label();
        let packets = [
            forged("_farmhand._tcp.local", &id, &tag, nobody),
            forged("_farmhand._tcp.local", &real, &tag, nobody),
            forged("_farmhand-join._tcp.local", &id[..32], "x", nobody),
            forged("_farmhand._tcp.local", &"\u{1b}]0;x".repeat(9), "\u{1b}[2J", nobody),
        ];
        for packet in &packets[..if number % 50 == 0 { 4 } else { 1 }] {
            sent += usize::from(socket.send_to(packet, MDNS).is_ok());
        }
        if number % 20 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert!(sent > 4000, "{sent}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let grown = attic.memory("VmRSS").saturating_sub(before);
    assert!(grown < 32 * MIB, "{} MiB", grown / MIB);
    let known = machines(&attic).await;
    assert!((100..=258).contains(&known.len()), "heard and bounded: {}", known.len());
    let table = attic.cli(&["machines"]);
    assert!(!table.stdout.contains(&0x1b) && !attic.log().contains('\u{1b}'));
    assert_serves(&attic, "cellar").await;
    assert_serves(&cellar, "attic").await;
}
