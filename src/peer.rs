//! The other machines of the farm: who they are, where they are, and a link to each.
//!
//! [`id`] names machines, [`trust`] decides who is one of us, [`discovery`] and [`addresses`] say where one
//! may be, [`members`] decides whom to dial, [`link`] is what comes of it, and the driver has all of them
//! work together. Nothing in here knows of blobs or actions: what those above say to each other
//! travels over links as messages of `farmhand.peer.v1` that this module passes on, and as calls of theirs.
//!
//! Each machine opens one link to each other one and makes its calls over that. So there are two between
//! any two, and each is lost for itself: where calls are possible in one direction only, the farm works in
//! that direction.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::peer::{Demand, Grant, MachineState};
use tokio::sync::{mpsc, watch};

use crate::config::{InterfacePattern, PeerAddress};
use crate::tasks::Tasks;
use board::{Board, Follower};
use discovery::{Discovery, DiscoveryConfig, Sighting};
use driver::{Driver, Happened, Shown};
use link::outgoing::Handle;
use link::{Me, PeerChannel};
use members::{Event, LinkId, Standing};
use trust::join::Met;

pub mod addresses;
mod board;
mod calls;
pub mod discovery;
mod driver;
pub mod id;
pub mod interfaces;
mod keys;
pub mod link;
pub mod machine_file;
pub mod members;
pub mod trust;

pub use calls::{Calls, DemandEvent};
pub use id::MachineId;
pub use keys::KeyRefused;
pub use members::FoundBy;
pub use trust::Trust;

/// Things that happen and wait to be taken in.
const WAITING: usize = 64;

/// How a node meets the other machines.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// Name of this machine.
    pub name: String,
    /// Number of this start of its node.
    pub boot_epoch: u64,
    /// Port on which it takes links.
    pub port: u16,
    /// Machines the settings name.
    pub configured: Vec<PeerAddress>,
    /// File of machines it was linked with; its directory is there.
    pub remembered: PathBuf,
    /// Interfaces on which it looks for others; `None` if it does not.
    pub interfaces: Option<Vec<InterfacePattern>>,
}

/// The other machines. Clones are the same.
#[derive(Clone)]
pub struct Peers(Arc<Shared>);

/// What is known of them by all who ask.
struct Shared {
    me: Me,
    trust: Trust,
    /// What every other machine is told of this one.
    state: watch::Sender<Option<Arc<MachineState>>>,
    links: Arc<Board<LinkNews>>,
    calls: Arc<calls::Book>,
    shown: watch::Sender<Arc<Vec<Shown>>>,
    happened: mpsc::Sender<Happened>,
    tasks: Tasks,
}

/// A machine this one has a link to. Clones are the same.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Who it is.
    pub id: MachineId,
    /// What it is called here: no two have the same.
    pub name: Arc<str>,
    /// The start of its node: what an earlier one had is gone.
    pub boot_epoch: u64,
    link: LinkId,
    handle: Handle,
}

/// What becomes of links to other machines.
#[derive(Clone, Debug)]
pub enum PeerEvent {
    /// There is one.
    Linked(Peer),
    /// It is over.
    Lost {
        /// To whom.
        id: MachineId,
        /// In which start of its node.
        boot_epoch: u64,
        /// Why, in words.
        reason: String,
    },
}

/// What becomes of links, told at the pace of who listens: those that are there first, then changes. What
/// came and went in between is not told.
pub struct PeerEvents {
    follower: Follower<LinkNews>,
    /// Links that were told: with the start of the node at the other end.
    told: std::collections::BTreeMap<MachineId, (LinkId, u64)>,
    next: Option<PeerEvent>,
}

/// The latest of the link to a machine.
#[derive(Clone, Debug)]
enum LinkNews {
    /// It is there; with the reason for which the one before ended.
    Up(Peer, Option<Arc<str>>),
    Down(Arc<str>),
}

/// Another machine, for people.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Who it is; `None` for one that the settings name and that has never answered.
    pub id: Option<MachineId>,
    /// What it is called here: no two have the same.
    pub name: Arc<str>,
    /// Version of its program; empty while it is not known.
    pub program: Arc<str>,
    /// How it stands.
    pub standing: Standing,
    /// How it was found.
    pub found_by: FoundBy,
    /// Where it answered last, or would be dialled first.
    pub address: Option<String>,
    /// The start of its node that is known.
    pub boot_epoch: Option<u64>,
    /// Time since it was last heard; `None` if it never was.
    pub last_heard: Option<Duration>,
    /// Time from this machine's hello to its answer.
    pub round_trip: Option<Duration>,
    /// How far its clock is ahead, in microseconds; negative if it is behind.
    pub clock_ahead: Option<i64>,
    /// Whether it has a link to this machine.
    pub calls: bool,
    /// What it told of itself last.
    pub state: Option<Arc<MachineState>>,
}

// === impl Peers ===

impl Peers {
    /// Meets the other machines of the farm, by tasks of `tasks`, until those end.
    pub async fn start(config: PeersConfig, trust: Trust, tasks: &Tasks) -> Self {
        let (sender, happened) = mpsc::channel(WAITING);
        let me = Me {
            id: trust.me(),
            name: config.name.as_str().into(),
            boot_epoch: config.boot_epoch,
            port: config.port,
        };
        let discovery = config
            .interfaces
            .clone()
            .map(|interfaces| Discovery::new(DiscoveryConfig { id: me.id, port: config.port, interfaces }));
        let peers = Self(Arc::new(Shared {
            me,
            trust: trust.clone(),
            state: watch::Sender::new(None),
            links: Board::new(),
            calls: calls::Book::new(),
            shown: watch::Sender::default(),
            happened: sender,
            tasks: tasks.clone(),
        }));
        if let Some(discovery) = discovery {
            let sender = peers.0.happened.clone();
            let tell = async move |sighting| {
                let event = match sighting {
                    Sighting::There(id, addresses) => Event::Sighted { id, addresses },
                    Sighting::Gone(id) => Event::Vanished(id),
                };
                // Without a driver the node is ending, and so will this.
                let _ = sender.send(Happened::Event(event)).await;
            };
            let found = discovery.run(trust.changes(), tell, tasks.token().clone());
            tasks.spawn("discovery", found);
        }
        let driver = Driver::new(peers.clone(), trust, config, happened).await;
        tasks.spawn("peers", driver.run());
        peers
    }

    /// Which start of the node of this machine this is, as others know it.
    pub fn boot_epoch(&self) -> u64 {
        self.0.me.boot_epoch
    }

    /// All that are known, with how they stand.
    pub fn list(&self) -> Vec<PeerInfo> {
        self.0.shown.borrow().iter().map(Shown::info).collect()
    }

    /// Tells when that has changed.
    pub fn changes(&self) -> watch::Receiver<impl Sized + use<>> {
        self.0.shown.subscribe()
    }

    /// Takes note of a machine that joined, or let this one in.
    pub fn meet(&self, met: Met) {
        let Met { machine: id, name, address } = met;
        let (sender, event) = (self.0.happened.clone(), Event::Met { id, name: name.into(), address });
        self.0.tasks.spawn("meet", async move {
            // Without a driver the node is ending.
            let _ = sender.send(Happened::Event(event)).await;
        });
    }

    /// The link to that machine, if there is one.
    pub fn linked(&self, id: MachineId) -> Option<Peer> {
        self.0.links.get(id)?.up()
    }

    /// All links there are.
    pub fn all_linked(&self) -> Vec<Peer> {
        self.0.links.list().into_iter().filter_map(LinkNews::up).collect()
    }

    /// What becomes of links to them.
    pub fn events(&self) -> PeerEvents {
        PeerEvents { follower: self.0.links.follow(), told: Default::default(), next: None }
    }

    /// Every other machine is told this of the machine; what did not change is not told again.
    pub fn publish(&self, state: MachineState) {
        self.0.state.send_if_modified(|published| {
            let is_new = published.as_deref() != Some(&state);
            if is_new {
                *published = Some(Arc::new(state));
            }
            is_new
        });
    }

    /// What other machines would run here.
    pub fn calls(&self) -> Calls {
        self.0.calls.follow()
    }

    /// Tells `to` what it may run here; the latest counts. Nobody is told when it has no link to this machine.
    pub fn grant(&self, to: MachineId, grant: Grant) {
        self.0.calls.grant(to, grant);
    }
}

// === impl LinkNews ===

impl LinkNews {
    fn up(self) -> Option<Peer> {
        match self {
            Self::Up(peer, _) => Some(peer),
            Self::Down(_) => None,
        }
    }
}

// === impl Peer ===

impl Peer {
    /// For calls of the generated clients, over the link.
    pub fn channel(&self) -> PeerChannel {
        self.handle.channel()
    }

    /// What it tells of itself; `None` until it has.
    pub fn state(&self) -> watch::Receiver<Option<Arc<MachineState>>> {
        self.handle.state()
    }

    /// Tells it what this machine would run there; the latest counts.
    pub fn demand(&self, demand: Demand) {
        self.handle.demand(demand);
    }

    /// What this machine may run there.
    pub fn grants(&self) -> watch::Receiver<Grant> {
        self.handle.grants()
    }

    /// Time from this machine's hello to its answer.
    pub fn round_trip(&self) -> Option<Duration> {
        self.handle.life().round_trip()
    }
}

// === impl PeerEvents ===

impl PeerEvents {
    /// The next. Nothing is lost when this is dropped.
    pub async fn next(&mut self) -> PeerEvent {
        loop {
            if let Some(event) = self.next.take() {
                return event;
            }
            let (id, news) = self.follower.next().await;
            if let Some(event) = self.event(id, news) {
                return event;
            }
        }
    }

    fn event(&mut self, id: MachineId, news: LinkNews) -> Option<PeerEvent> {
        match news {
            LinkNews::Up(peer, before) => {
                let told = self.told.insert(id, (peer.link, peer.boot_epoch));
                let linked = PeerEvent::Linked(peer);
                let Some((_, boot_epoch)) = told else { return Some(linked) };
                self.next = Some(linked);
                Some(PeerEvent::Lost { id, boot_epoch, reason: before.unwrap_or_default().to_string() })
            }
            LinkNews::Down(reason) => {
                let (_, boot_epoch) = self.told.remove(&id)?;
                Some(PeerEvent::Lost { id, boot_epoch, reason: reason.to_string() })
            }
        }
    }
}

#[cfg(test)]
mod tests;
