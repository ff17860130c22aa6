//! `farmhand.peer.v1.Peer`: what this machine offers the others of its farm.
//!
//! Who calls was settled by the connection, which has a [`Caller`] among the extensions of every call. The
//! links themselves are those of [`Peers`]; actions of others are run by [`Guests`].

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use farmhand_proto::peer::peer_server::{self, PeerServer};
use farmhand_proto::peer::{LinkMessage, RunRequest, TakeKeyRequest, TakeKeyResponse};
use futures_util::StreamExt;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::errors;
use crate::peer::Peers;
use crate::peer::link::incoming::Caller;
use crate::worker::guests::{Answers, Guests};

/// Bytes of the largest message another machine may send: a command with all its arguments, and more.
const MOST_BYTES: usize = 8 << 20;

/// What a call that streams returns.
type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
pub struct PeerService {
    peers: Peers,
    guests: Option<Arc<Guests>>,
}

// === impl PeerService ===

impl PeerService {
    /// Takes links for `peers`, and has actions of others run by `guests`, if by anybody.
    pub fn new(peers: Peers, guests: Option<Arc<Guests>>) -> Self {
        Self { peers, guests }
    }

    /// For the router.
    pub fn into_server(self) -> PeerServer<Self> {
        PeerServer::new(self).max_decoding_message_size(MOST_BYTES).max_encoding_message_size(MOST_BYTES)
    }
}

#[async_trait]
impl peer_server::Peer for PeerService {
    type LinkStream = Replies<LinkMessage>;

    async fn link(
        &self,
        request: Request<Streaming<LinkMessage>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let caller = caller(&request)?;
        let said = self.peers.answer(&caller, request.into_inner()).await?;
        Ok(Response::new(Box::pin(said)))
    }

    type RunStream = Answers;

    async fn run(
        &self,
        request: Request<Streaming<RunRequest>>,
    ) -> Result<Response<Self::RunStream>, Status> {
        let caller = caller(&request)?;
        let Some(guests) = &self.guests else {
            return Err(Status::unimplemented("this machine runs no actions of others"));
        };
        Ok(Response::new(guests.run(caller.id, request.into_inner().boxed()).await?))
    }

    async fn take_key(&self, request: Request<TakeKeyRequest>) -> Result<Response<TakeKeyResponse>, Status> {
        let caller = caller(&request)?;
        let key = request.into_inner().key;
        self.peers.take_key(&caller, &key).await.map_err(|error| errors::status(&error))?;
        Ok(Response::new(TakeKeyResponse {}))
    }
}

fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::permission_denied("this is for the machines of the farm"))
}
