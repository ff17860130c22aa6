//! `farmhand.peer.v1.Peer`: what this machine offers the others of its farm.
//!
//! Who calls was settled by the connection, which has a [`Caller`] among the extensions of every call. The
//! links themselves are those of [`Peers`]; actions of others are run by [`Guests`].

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use farmhand_proto::peer::claim_response::Taken;
use farmhand_proto::peer::peer_server::{self, PeerServer};
use farmhand_proto::peer::run_response::Message as Answer;
use farmhand_proto::peer::{
    ClaimRequest, ClaimResponse, Ended, JoinActionRequest, LinkMessage, RunRequest, RunResponse, Running,
    TakeKeyRequest, TakeKeyResponse,
};
use farmhand_proto::reapi::ExecuteResponse;
use futures_util::stream::{self, StreamExt};
use prost::Message as _;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use zeroize::Zeroizing;

use super::errors;
use crate::action_cache::ActionKey;
use crate::execution::scheduler::Followed;
use crate::execution::{OperationState, OperationWatch};
use crate::instance::InstanceName;
use crate::peer::link::incoming::Caller;
use crate::peer::{MachineId, Peers};
use crate::worker::guests::{Answers, Guests};

/// Actions that may be claimed in one call.
const MOST_CLAIMS: usize = 1024;

/// Bytes of the largest message another machine may send: a command with all its arguments, and more.
const MOST_BYTES: usize = 8 << 20;

/// What a call that streams returns.
type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service.
pub struct PeerService {
    peers: Peers,
    guests: Option<Arc<Guests>>,
    actions: Option<Arc<dyn Actions>>,
}

/// The actions that clients of this machine asked for, for others whose clients ask for the same.
#[async_trait]
pub trait Actions: Send + Sync + 'static {
    /// `claimant` has this action; who else has.
    fn claim(&self, claimant: MachineId, key: ActionKey) -> Option<MachineId>;

    /// Follows one that this machine sees to, or has the result of.
    async fn follow(&self, key: ActionKey) -> Option<Followed>;
}

// === impl PeerService ===

impl PeerService {
    /// Takes links for `peers`.
    pub fn new(peers: Peers) -> Self {
        Self { peers, guests: None, actions: None }
    }

    /// Has actions of others run by `guests`, and shares `actions` with them.
    pub fn with(self, guests: Arc<Guests>, actions: Arc<dyn Actions>) -> Self {
        Self { guests: Some(guests), actions: Some(actions), ..self }
    }

    fn actions(&self) -> Result<&dyn Actions, Status> {
        self.actions.as_deref().ok_or_else(|| Status::unimplemented("this machine shares no actions"))
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

    async fn claim(&self, request: Request<ClaimRequest>) -> Result<Response<ClaimResponse>, Status> {
        let (caller, actions) = (caller(&request)?, self.actions()?);
        let claims = request.into_inner().claims;
        if claims.len() > MOST_CLAIMS {
            return Err(Status::invalid_argument("too many claims in one call"));
        }
        let mut taken = Vec::new();
        for (index, claim) in (0..).zip(claims) {
            let owner = actions.claim(caller.id, key(&claim.instance_name, &claim.action_digest)?);
            taken.extend(owner.map(|owner| Taken { index, machine: owner.bytes().to_vec() }));
        }
        Ok(Response::new(ClaimResponse { taken }))
    }

    type JoinStream = Answers;

    async fn join(&self, request: Request<JoinActionRequest>) -> Result<Response<Answers>, Status> {
        caller(&request)?;
        let JoinActionRequest { instance_name, action_digest } = request.into_inner();
        let followed = self.actions()?.follow(key(&instance_name, &action_digest)?).await;
        match followed {
            Some(Followed::Live(watch)) => Ok(Response::new(told(watch))),
            Some(Followed::Known(response)) => {
                Ok(Response::new(stream::iter([Ok(ended(&response))]).boxed()))
            }
            None => Err(Status::not_found("this machine has no such action")),
        }
    }

    async fn take_key(&self, request: Request<TakeKeyRequest>) -> Result<Response<TakeKeyResponse>, Status> {
        let caller = caller(&request)?;
        let key = Zeroizing::new(request.into_inner().key);
        self.peers.take_key(&caller, &key).await.map_err(|error| errors::status(&error))?;
        Ok(Response::new(TakeKeyResponse {}))
    }
}

fn key(instance: &str, action: &str) -> Result<ActionKey, Status> {
    let instance = InstanceName::parse(instance).map_err(|error| errors::status(&error))?;
    let action = action.parse().map_err(|_| Status::invalid_argument("that is no digest of an action"))?;
    Ok(ActionKey { instance, action })
}

/// What becomes of an operation.
fn told(watch: OperationWatch) -> Answers {
    let news = stream::unfold(Some((watch, false)), |state| async move {
        let (mut watch, mut has_run) = state?;
        loop {
            let OperationState { timeline, response, .. } = watch.state();
            if let Some(response) = response {
                return Some((Ok(ended(&response)), None));
            }
            if timeline.running_at.is_some() && !std::mem::replace(&mut has_run, true) {
                return Some((Ok(answer(Answer::Running(Running {}))), Some((watch, has_run))));
            }
            watch.changed().await;
        }
    });
    news.boxed()
}

fn ended(response: &ExecuteResponse) -> RunResponse {
    answer(Answer::Ended(Ended { response: response.encode_to_vec() }))
}

fn answer(message: Answer) -> RunResponse {
    RunResponse { message: Some(message) }
}

/// The machine that calls; nobody else gets in.
pub(super) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| Status::permission_denied("this is for the machines of the farm"))
}
