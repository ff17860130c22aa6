//! Machines of a farm in one process, over the loopback, with the real peer port.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use farmhand_proto::peer::{Share, Want};
use futures_util::FutureExt;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::driver::OLD_KEY;
use super::link::Pulse;
use super::link::incoming::{Caller, testing};
use super::members::{CallId, Greeting};
use super::trust::FarmKey;
use super::trust::rotation::Fellows;
use super::trust::testing::trust;
use super::*;
use crate::rpc::peer::PeerService;
use crate::rpc::server::{self, Limits, Listener};

/// A machine: its part of the farm, and the door to it.
struct Machine {
    peers: Peers,
    trust: Trust,
    address: SocketAddr,
    tasks: Tasks,
    directory: TempDir,
}

/// The file of machines that were there.
const REMEMBERED: &str = "peers";

impl Machine {
    async fn start(name: &str, boot_epoch: u64, others: &[&Machine]) -> Self {
        let trust = trust(&FarmKey::read(&[7; 16]).unwrap());
        Self::with(trust, name, boot_epoch, others).await
    }

    async fn with(trust: Trust, name: &str, boot_epoch: u64, others: &[&Machine]) -> Self {
        let addresses: Vec<_> = others.iter().map(|other| other.address).collect();
        Self::dialling(trust, name, boot_epoch, &addresses).await
    }

    async fn dialling(trust: Trust, name: &str, boot_epoch: u64, addresses: &[SocketAddr]) -> Self {
        let (tasks, directory) = (Tasks::default(), TempDir::new().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = PeersConfig {
            name: name.to_owned(),
            boot_epoch,
            port: address.port(),
            configured: addresses.iter().map(|address| address.to_string().parse().unwrap()).collect(),
            remembered: directory.path().join(REMEMBERED),
            interfaces: None,
        };
        let peers = Peers::start(config, trust.clone(), &tasks).await;
        let service = PeerService::new(peers.clone());
        let listener = Listener::Members(listener, trust.clone());
        let token = tasks.token().clone();
        tasks.spawn("port", async move {
            server::serve(vec![listener], Routes::new(service.into_server()), Limits::default(), token).await;
        });
        Self { peers, trust, address, tasks, directory }
    }

    fn id(&self) -> MachineId {
        self.trust.me()
    }
}

/// The next event, which comes soon.
async fn next(events: &mut PeerEvents) -> PeerEvent {
    timeout(Duration::from_secs(30), events.next()).await.expect("something happens")
}

async fn linked(events: &mut PeerEvents) -> Peer {
    match next(events).await {
        PeerEvent::Linked(peer) => peer,
        PeerEvent::Lost { reason, .. } => panic!("lost: {reason}"),
    }
}

async fn demanded(calls: &mut Calls) -> DemandEvent {
    timeout(Duration::from_secs(30), calls.next()).await.expect("something is demanded")
}

#[tokio::test]
async fn links_carry_states_demands_and_grants() {
    let attic = Machine::start("attic", 1, &[]).await;
    attic.peers.publish(MachineState { slots: 4, ..Default::default() });
    let cellar = Machine::start("cellar", 1, &[&attic]).await;
    let peer = linked(&mut cellar.peers.events()).await;
    assert_eq!((peer.id, &*peer.name, peer.boot_epoch), (attic.id(), "attic", 1));
    let mut state = peer.state();
    let told = state.wait_for(|state| state.as_ref().is_some_and(|state| state.slots == 4)).await;
    drop(told.unwrap());

    let want = |waiting| Want { person: "ada".into(), build: "b".into(), waiting, ..Want::default() };
    let mut calls = attic.peers.calls();
    for waiting in 1..=3 {
        peer.demand(Demand { wants: vec![want(waiting)] });
    }
    let mut last = 0;
    while last != 3 {
        let DemandEvent::Demand { id, name, demand, .. } = demanded(&mut calls).await else { panic!("gone") };
        assert_eq!((id, &*name), (cellar.id(), "cellar"));
        assert!(demand.wants[0].waiting > last);
        last = demand.wants[0].waiting;
    }
    // A second listener is told the latest.
    let again = demanded(&mut attic.peers.calls()).await;
    assert!(matches!(again, DemandEvent::Demand { demand, .. } if demand.wants[0].waiting == 3));

    let mut grants = peer.grants();
    let share = Share { person: "ada".into(), slots: 2, ahead: 1 };
    attic.peers.grant(cellar.id(), Grant { shares: vec![share], number: 9 });
    drop(grants.wait_for(|grant| grant.number == 9).await.unwrap());
    // Nobody is there.
    attic.peers.grant(MachineId::new([9; 32]), Grant::default());

    cellar.tasks.stop().await;
    let DemandEvent::Gone { id, reason } = demanded(&mut calls).await else { panic!("still there") };
    assert_eq!(id, cellar.id());
    assert!(reason.contains("ending"), "{reason}");
    attic.tasks.stop().await;
}

#[tokio::test]
async fn who_says_too_much_at_once_is_heard_no_more() {
    let attic = Machine::start("attic", 1, &[]).await;
    let cellar = Machine::start("cellar", 1, &[&attic]).await;
    let peer = linked(&mut cellar.peers.events()).await;
    let mut calls = attic.peers.calls();
    let want = |person: String| Demand { wants: vec![Want { person, ..Want::default() }] };
    peer.demand(want("ada".into()));
    assert!(matches!(demanded(&mut calls).await, DemandEvent::Demand { .. }));
    peer.demand(want("a".repeat(300 << 10)));
    let DemandEvent::Gone { reason, .. } = demanded(&mut calls).await else { panic!("it is heard") };
    assert_eq!(reason, "it said too much at once");
    attic.tasks.stop().await;
    cellar.tasks.stop().await;
}

#[tokio::test]
async fn what_is_known_at_the_end_is_remembered() {
    let attic = Machine::start("attic", 1, &[]).await;
    let cellar = Machine::start("cellar", 1, &[&attic]).await;
    linked(&mut cellar.peers.events()).await;
    cellar.tasks.stop().await;
    let known = addresses::read(&cellar.directory.path().join(REMEMBERED), SystemTime::now()).unwrap();
    assert_eq!(known.iter().map(|known| known.id).collect::<Vec<_>>(), [attic.id()]);
    attic.tasks.stop().await;
}

#[tokio::test]
async fn who_listens_late_is_told_of_what_is_there_and_a_new_start_in_order() {
    let attic = Machine::start("attic", 1, &[]).await;
    let cellar = Machine::start("cellar", 1, &[&attic]).await;
    let mut events = attic.peers.events();
    linked(&mut events).await;
    cellar.tasks.stop().await;
    let cellar = Machine::with(cellar.trust.clone(), "cellar", 2, &[&attic]).await;
    // What is told in between is the loss of the first, however late this listens.
    let PeerEvent::Lost { id, boot_epoch, reason } = next(&mut events).await else { panic!("two links") };
    assert_eq!((id, boot_epoch), (cellar.id(), 1));
    assert!(!reason.is_empty());
    assert_eq!(linked(&mut events).await.boot_epoch, 2);
    assert!(events.next().now_or_never().is_none());
    let list = attic.peers.list();
    assert_eq!((list.len(), &list[0].standing, list[0].calls), (1, &Standing::Linked, true));
    assert_eq!((&*list[0].name, list[0].boot_epoch), ("cellar", Some(2)));
    attic.tasks.stop().await;
    cellar.tasks.stop().await;
}

#[tokio::test]
async fn a_new_key_is_handed_on_and_who_does_not_get_it_is_out() {
    let attic = Machine::start("attic", 1, &[]).await;
    let cellar = Machine::start("cellar", 1, &[&attic]).await;
    let shed = Machine::start("shed", 1, &[&attic]).await;
    let mut events = attic.peers.events();
    let mut there = vec![linked(&mut events).await.id, linked(&mut events).await.id];
    there.sort();
    let mut both = vec![cellar.id(), shed.id()];
    both.sort();
    assert_eq!(there, both);

    let key = FarmKey::read(&[8; 16]).unwrap();
    let nobody = MachineId::new([9; 32]);
    assert_eq!(attic.peers.hand_on(&key, &[cellar.id(), nobody]).await, [cellar.id()]);
    assert_eq!(cellar.trust.tag(), key.tag());
    attic.trust.replace(key).unwrap();
    let mut shed_events = shed.peers.events();
    loop {
        let is_linked = |peer: &PeerInfo| peer.standing == Standing::Linked;
        let (at_attic, at_shed) = (attic.peers.list(), shed.peers.list());
        let refused = at_shed.iter().any(|peer| matches!(peer.standing, Standing::Refused(_)));
        let names: Vec<_> = at_attic.iter().filter(|peer| is_linked(peer)).map(|peer| peer.id).collect();
        if refused && names == [Some(cellar.id())] {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What it was told of the links it had ends, and no other begins.
    while let Some(event) = shed_events.next().now_or_never() {
        assert!(matches!(event, PeerEvent::Lost { .. }), "{event:?}");
    }
    for machine in [attic, cellar, shed] {
        machine.tasks.stop().await;
    }
}

/// One who was thrown out drags out a handshake that began before: it is worth nothing in the end.
#[tokio::test]
async fn a_handshake_under_an_old_key_makes_no_link() {
    let former = Machine::start("former", 1, &[]).await;
    let slow = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let trust = trust(&FarmKey::read(&[7; 16]).unwrap());
    let attic = Machine::dialling(trust, "attic", 1, &[slow.local_addr().unwrap()]).await;
    let mut events = attic.peers.events();
    let (mut near, _) = slow.accept().await.unwrap();
    attic.trust.replace(FarmKey::read(&[8; 16]).unwrap()).unwrap();
    let mut far = tokio::net::TcpStream::connect(former.address).await.unwrap();
    // It ends when the link is closed that was opened.
    let passed = timeout(Duration::from_secs(30), tokio::io::copy_bidirectional(&mut near, &mut far)).await;
    assert!(passed.is_ok(), "the link stays");
    assert!(events.next().now_or_never().is_none());
    assert!(attic.peers.list().iter().all(|peer| peer.standing != Standing::Linked));
    for machine in [attic, former] {
        machine.tasks.stop().await;
    }
}

/// The other way round: it was let in at the door, and says hello when the farm has another key.
#[tokio::test]
async fn a_call_that_began_under_an_old_key_does_not_count() {
    let attic = Machine::start("attic", 1, &[]).await;
    let id = MachineId::new([9; 32]);
    let caller = Caller {
        id,
        address: attic.address,
        pulse: Pulse::start(),
        hang_up: CancellationToken::new(),
        key: attic.trust.changes(),
    };
    let (name, program) = ("former".into(), "1".into());
    let greeting = Greeting { id, boot_epoch: 1, name, program, address: None };
    attic.trust.replace(FarmKey::read(&[8; 16]).unwrap()).unwrap();
    let (handle, mut closing) = testing::handle();
    let called = Happened::Called { call: CallId(u64::MAX), caller, greeting, handle };
    assert!(attic.peers.0.happened.send(called).await.is_ok());
    let closed = timeout(Duration::from_secs(30), closing.wait_for(Option::is_some)).await;
    assert_eq!(*closed.expect("it is sent away").unwrap(), Some(OLD_KEY));
    assert!(attic.peers.list().is_empty());
    attic.tasks.stop().await;
}

#[tokio::test]
async fn a_copy_of_a_machine_is_told_so() {
    let attic = Machine::start("attic", 1, &[]).await;
    let twin = Machine::with(attic.trust.clone(), "attic", 2, &[&attic]).await;
    loop {
        let list = twin.peers.list();
        if list
            .iter()
            .any(|peer| matches!(&peer.standing, Standing::Refused(reason) if reason.contains("copy")))
        {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(attic.peers.list().is_empty());
    attic.tasks.stop().await;
    twin.tasks.stop().await;
}
