//! The end of a link at the machine that opened it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::peer::link_message::Message;
use farmhand_proto::peer::peer_client::PeerClient;
use farmhand_proto::peer::{Demand, Grant, Hello, LinkMessage, MachineState, TakeKeyRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message as _;
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status, Streaming};

use super::channel::PeerChannel;
use super::dial::{self, Connection};
use super::ear::{Ear, End, see_clock};
use super::life::Life;
use super::voice::Voice;
use super::{Closer, Closing, MOST_BYTES, Me, OPENING, closed, greeting, words};
use crate::peer::MachineId;
use crate::peer::members::{Failure, Greeting, Route};
use crate::peer::trust::FarmKey;
use crate::tasks::Tasks;

/// Flow-control window of a call and of the connection, in bytes, as the other end has them.
const WINDOW: u32 = 8 * 1024 * 1024;

/// Largest HTTP/2 frame taken, in bytes.
const FRAME: u32 = 1024 * 1024;

/// Bytes that are kept for calls whose receiver is slow, each.
const SEND_BUFFER: usize = 1024 * 1024;

/// Time for the last words.
const PARTING: Duration = Duration::from_millis(500);

/// Time in which a broken connection says why.
const EXPLAINING: Duration = Duration::from_millis(100);

/// What those above do with a link.
#[derive(Clone, Debug)]
pub struct Handle {
    channel: PeerChannel,
    life: Arc<Life>,
    state: watch::Receiver<Option<Arc<MachineState>>>,
    lines: Arc<watch::Sender<Option<Message>>>,
    grants: watch::Receiver<Grant>,
}

/// A link that is open.
pub struct Outgoing {
    /// Who is at the other end.
    pub greeting: Greeting,
    /// How it was found there.
    pub route: Route,
    /// For those above.
    pub handle: Handle,
    /// Ends it in good order.
    pub closer: Closer,
    ear: Ear,
    grants: watch::Sender<Grant>,
    closing: Closing,
    /// Ends with this.
    connection: AbortOnDropHandle<hyper::Result<()>>,
}

/// What it takes to open links.
#[derive(Clone)]
pub struct Opener {
    /// This machine.
    pub me: Me,
    /// How it is.
    pub state: watch::Receiver<Option<Arc<MachineState>>>,
    /// Has the connections run.
    pub tasks: Tasks,
}

// === impl Handle ===

impl Handle {
    /// For calls.
    pub fn channel(&self) -> PeerChannel {
        self.channel.clone()
    }

    /// Signs of life.
    pub fn life(&self) -> &Arc<Life> {
        &self.life
    }

    /// How the other machine is, as it says.
    pub fn state(&self) -> watch::Receiver<Option<Arc<MachineState>>> {
        self.state.clone()
    }

    /// Tells it what this machine would run there; the latest counts.
    pub fn demand(&self, demand: Demand) {
        self.lines.send_replace(Some(Message::Demand(demand)));
    }

    /// What this machine may run there.
    pub fn grants(&self) -> watch::Receiver<Grant> {
        self.grants.clone()
    }

    /// Has it keep a new key of the farm.
    ///
    /// # Errors
    /// When it does not, in words.
    pub async fn give_key(&self, key: &FarmKey) -> Result<(), String> {
        let request = TakeKeyRequest { key: key.bytes().to_vec() };
        let taken = PeerClient::new(self.channel()).take_key(request).await;
        taken.map(drop).map_err(|status| words::of_status(&status))
    }
}

// === impl Opener ===

impl Opener {
    /// Opens a link to the machine that answers by one of `routes`.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn open(&self, routes: Vec<Route>, config: &Arc<ClientConfig>) -> Result<Outgoing, Failure> {
        let Connection { socket, pulse, id, address, route } = dial::dial(routes, config).await?;
        let shaken = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_frame_size(FRAME)
            .max_send_buf_size(SEND_BUFFER)
            .handshake(TokioIo::new(socket));
        let (requests, connection) = match timeout(OPENING, shaken).await {
            Ok(Ok(made)) => made,
            Ok(Err(error)) => return Err(dial::of_handshake(address, &error)),
            Err(_) => return Err(Failure::Unreachable(format!("{address}: it does not speak"))),
        };
        let connection = AbortOnDropHandle::new(self.tasks.spawn("peer connection", connection));
        let channel = PeerChannel::new(requests);
        let (lines, all_lines) = watch::channel(None);
        let (closer, closing) = Closer::new();
        let voice = Voice::new(self.me.hello(), self.state.clone(), all_lines, closing.clone());
        let asked = Instant::now();
        let heard = timeout(OPENING, say_hello(channel.clone(), voice)).await;
        let (hello, messages) = match heard {
            Ok(Ok(heard)) => heard,
            Ok(Err(status)) => return Err(of_hello(id, address, &status)),
            Err(_) => return Err(Failure::Unreachable(format!("{address}: it did not say hello in time"))),
        };
        if let Some(reason) = self.me.incompatible(&hello) {
            return Err(Failure::Incompatible { peer: Some(greeting(id, &hello, Some(address))), reason });
        }
        let life = Arc::new(Life::new(pulse, Some(asked.elapsed())));
        see_clock(&life, hello.now.as_ref());
        let (state, states) = watch::channel(None);
        let (grants, all_grants) = watch::channel(Grant::default());
        let handle = Handle {
            channel,
            life: Arc::clone(&life),
            state: states,
            lines: Arc::new(lines),
            grants: all_grants,
        };
        let ear = Ear::new(messages, life, state);
        Ok(Outgoing {
            greeting: greeting(id, &hello, Some(address)),
            route,
            handle,
            closer,
            ear,
            grants,
            closing,
            connection,
        })
    }
}

/// Opens the stream of the link; what the other machine says first.
async fn say_hello(channel: PeerChannel, voice: Voice) -> Result<(Hello, Streaming<LinkMessage>), Status> {
    let mut client = PeerClient::new(channel).max_decoding_message_size(MOST_BYTES);
    let mut messages = client.link(voice.messages()).await?.into_inner();
    match messages.message().await?.and_then(|first| first.message) {
        Some(Message::Hello(hello)) => Ok((hello, messages)),
        _ => Err(Status::failed_precondition("it did not say hello")),
    }
}

/// Why it did not say hello.
fn of_hello(id: MachineId, address: SocketAddr, status: &Status) -> Failure {
    if let Some(source) = std::error::Error::source(status) {
        return dial::of_handshake(address, source);
    }
    let said = words::of_status(status);
    match (status.code(), Hello::decode(status.details())) {
        (Code::FailedPrecondition, Ok(hello)) if !status.details().is_empty() => {
            Failure::Incompatible { peer: Some(greeting(id, &hello, Some(address))), reason: said }
        }
        _ => Failure::Unreachable(format!("{address}: {said}")),
    }
}

// === impl Outgoing ===

impl Outgoing {
    /// Keeps the link up until it ends; why, in words.
    pub async fn run(mut self) -> String {
        let Self { ear, grants, closing, connection, .. } = &mut self;
        let take = |message| {
            if let Message::Grant(grant) = message {
                grants.send_replace(grant);
            }
        };
        let (end, is_ours) = tokio::select! {
            end = ear.listen(take) => (end, false),
            reason = closed(closing) => (End::Other(reason.to_owned()), true),
        };
        let mut reason = end.words();
        match end {
            // The voice says so and is heard to its end, if the other machine still listens.
            _ if is_ours => {
                let _ = timeout(PARTING, ear.listen(|_| ())).await;
            }
            // The connection knows better than one of its streams.
            End::Broken(_) => {
                if let Ok(Ok(Err(error))) = timeout(EXPLAINING, &mut *connection).await {
                    reason = words::of_error(&error);
                }
            }
            End::Farewell(_) | End::Other(_) => {}
        }
        reason
    }
}
