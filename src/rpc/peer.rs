//! `farmhand.peer.v1.Peer`: what this machine offers the others of its farm.
//!
//! Who calls was settled by the connection, which has a [`Caller`] among the extensions of every call. The
//! links themselves are those of [`Peers`]; who runs actions of others is a [`Guests`].

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use farmhand_proto::peer::peer_server::{self, PeerServer};
use farmhand_proto::peer::{LinkMessage, RunRequest, RunResponse, TakeKeyRequest, TakeKeyResponse};
use futures_util::future;
use futures_util::stream::{BoxStream, StreamExt};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::errors;
use crate::peer::Peers;
use crate::peer::link::incoming::Caller;

/// Bytes of the largest message another machine may send: a command with all its arguments, and more.
const MOST_BYTES: usize = 8 << 20;

/// What a call that streams returns.
type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Runs actions of other machines.
#[async_trait]
pub trait Guests: Send + Sync + 'static {
    /// Runs what `owner` asks for in `requests`, which end when it gives up or is gone; tells how it goes.
    /// Dropping what is returned cancels the action.
    ///
    /// # Errors
    /// [`GuestError`]; nothing was begun then.
    async fn run(
        &self,
        owner: &Caller,
        requests: BoxStream<'static, RunRequest>,
    ) -> Result<BoxStream<'static, RunResponse>, GuestError>;
}

/// Why an action of another machine is not run.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// This machine runs none.
    #[error("this machine runs no actions of others")]
    Unserved,
    /// Nothing is granted to the owner any more.
    #[error("no slot is granted to you any more")]
    NotGranted,
    /// The request means nothing.
    #[error("{0}")]
    Malformed(&'static str),
}

/// Runs nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoGuests;

/// The service.
pub struct PeerService {
    peers: Peers,
    guests: Arc<dyn Guests>,
}

// === impl NoGuests ===

#[async_trait]
impl Guests for NoGuests {
    async fn run(
        &self,
        _owner: &Caller,
        _requests: BoxStream<'static, RunRequest>,
    ) -> Result<BoxStream<'static, RunResponse>, GuestError> {
        Err(GuestError::Unserved)
    }
}

// === impl PeerService ===

impl PeerService {
    /// Takes links for `peers`, and has actions of others run by `guests`.
    pub fn new(peers: Peers, guests: Arc<dyn Guests>) -> Self {
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

    type RunStream = Replies<RunResponse>;

    async fn run(
        &self,
        request: Request<Streaming<RunRequest>>,
    ) -> Result<Response<Self::RunStream>, Status> {
        let caller = caller(&request)?;
        // A stream that breaks is one that ends: the owner is gone.
        let requests = request.into_inner().take_while(|request| future::ready(request.is_ok()));
        let requests = requests.filter_map(|request| future::ready(request.ok())).boxed();
        let told = self.guests.run(&caller, requests).await.map_err(|error| errors::status(&error))?;
        Ok(Response::new(Box::pin(told.map(Ok))))
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
