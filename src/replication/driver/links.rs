//! Where links to other machines come from: [`Links`].

use std::sync::Arc;

use async_trait::async_trait;
use farmhand_proto::peer::MachineState;
use tokio::sync::watch;

use crate::cas::fetch::BlobSource;
use crate::cas::remote::RemoteBlobs;
use crate::peer::link::boxed;
use crate::peer::{MachineId, Peer, PeerEvent, PeerEvents, Peers};
use crate::replication::calls::RemoteCopies;
use crate::replication::copies::CopyPeer;

/// Tells of links as they come and go.
#[async_trait]
pub trait Links: Send + 'static {
    /// The next that becomes of one. Nothing is lost when this is dropped.
    async fn next(&mut self) -> LinkEvent;
}

/// What becomes of links.
pub enum LinkEvent {
    /// There is one.
    Linked(Link),
    /// That to this machine is over.
    Lost(MachineId),
}

/// A link to another machine.
#[derive(Clone)]
pub struct Link {
    /// Who it is.
    pub id: MachineId,
    /// Its name.
    pub name: Arc<str>,
    /// The start of its node.
    pub boot_epoch: u64,
    /// Its store, for copies.
    pub copies: Arc<dyn CopyPeer>,
    /// Its blobs.
    pub blobs: Arc<dyn BlobSource>,
    /// What it tells of itself; `None` until it has.
    pub state: watch::Receiver<Option<Arc<MachineState>>>,
}

/// The links of this machine to its peers.
pub struct PeerLinks {
    me: MachineId,
    events: PeerEvents,
}

// === impl PeerLinks ===

impl PeerLinks {
    /// Those of machine `me` to `peers`.
    pub fn new(me: MachineId, peers: &Peers) -> Self {
        Self { me, events: peers.events() }
    }

    fn link(&self, peer: &Peer) -> Link {
        let channel = boxed(peer.channel());
        Link {
            id: peer.id,
            name: Arc::clone(&peer.name),
            boot_epoch: peer.boot_epoch,
            copies: Arc::new(RemoteCopies::new(&*peer.name, self.me, channel.clone())),
            blobs: Arc::new(RemoteBlobs::new(&*peer.name, channel)),
            state: peer.state(),
        }
    }
}

#[async_trait]
impl Links for PeerLinks {
    async fn next(&mut self) -> LinkEvent {
        match self.events.next().await {
            PeerEvent::Linked(peer) => LinkEvent::Linked(self.link(&peer)),
            PeerEvent::Lost { id, .. } => LinkEvent::Lost(id),
        }
    }
}
