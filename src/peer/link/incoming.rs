//! The end of a link at the machine that was called.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::peer::link_message::Message;
use farmhand_proto::peer::{Grant, LinkMessage, MachineState};
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::ear::{Ear, End, see_clock};
use super::life::{Life, Pulse};
use super::voice::Voice;
use super::{Closer, Closing, Me, OPENING, closed, greeting};
use crate::peer::MachineId;
use crate::peer::members::Greeting;
use crate::peer::trust::FarmTag;

/// Time for the last words.
const PARTING: Duration = Duration::from_secs(1);

/// The other end of a connection to the peer port. Every call over it has this among its extensions.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is, as its certificate shows.
    pub id: MachineId,
    /// Where the connection comes from.
    pub address: SocketAddr,
    /// Signs of life on it.
    pub pulse: Pulse,
    /// Ends the connection, with all calls over it.
    pub hang_up: CancellationToken,
    /// The farm whose key it has shown.
    pub key: watch::Receiver<FarmTag>,
}

/// What those above do with the link of a caller.
#[derive(Clone, Debug)]
pub struct CallHandle {
    life: Arc<Life>,
    state: watch::Receiver<Option<Arc<MachineState>>>,
    lines: Arc<watch::Sender<Option<Message>>>,
    closer: Closer,
}

/// A link of a caller that is open.
pub struct Incoming {
    /// Who calls.
    pub greeting: Greeting,
    /// For those above.
    pub handle: CallHandle,
    ear: Ear,
    closing: Closing,
    hang_up: CancellationToken,
}

/// Why a caller was sent away.
#[derive(Debug)]
pub struct Rejection {
    /// Who it was, if it has said so and is known to speak another version, and why in words.
    pub incompatible: Option<(Greeting, String)>,
    /// What it is told.
    pub status: Status,
}

// === impl Caller ===

impl Caller {
    /// One that is nowhere.
    #[cfg(any(test, fuzzing))]
    pub fn made_up(id: MachineId) -> Self {
        let key = crate::peer::trust::FarmKey::read(&[7; 16]).expect("invariant: any 16 bytes are a key");
        Self {
            id,
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            pulse: Pulse::start(),
            hang_up: CancellationToken::new(),
            key: watch::channel(key.tag()).1,
        }
    }

    /// Whether the key that it has shown is that of the farm still.
    pub fn is_member(&self) -> bool {
        self.key.has_changed().is_ok_and(|has_changed| !has_changed)
    }

    /// Returns when the connection is to end: it was hung up, or the farm has another key. The answer that
    /// this machine has taken that key is on its way then, and gets a moment.
    pub async fn hung_up(self) {
        let Self { hang_up, mut key, .. } = self;
        tokio::select! {
            () = hang_up.cancelled_owned() => {}
            Ok(()) = key.changed() => sleep(PARTING).await,
        }
    }
}

// === impl CallHandle ===

impl CallHandle {
    /// Signs of life.
    pub fn life(&self) -> &Arc<Life> {
        &self.life
    }

    /// How the caller is, as it says.
    pub fn state(&self) -> watch::Receiver<Option<Arc<MachineState>>> {
        self.state.clone()
    }

    /// Tells the caller what it may run here; the latest counts.
    pub fn grant(&self, grant: Grant) {
        self.lines.send_replace(Some(Message::Grant(grant)));
    }

    /// Ends the link in good order.
    pub fn close(&self, reason: &'static str) {
        self.closer.close(reason);
    }
}

// === impl Incoming ===

impl Incoming {
    /// Hears the hello of `caller` out, and gives the link with what is said over it.
    ///
    /// # Errors
    /// [`Rejection`].
    pub async fn accept(
        me: &Me,
        state: watch::Receiver<Option<Arc<MachineState>>>,
        caller: &Caller,
        mut messages: Streaming<LinkMessage>,
    ) -> Result<(Self, impl Stream<Item = Result<LinkMessage, Status>> + Send + use<>), Rejection> {
        let first = timeout(OPENING, messages.message())
            .await
            .map_err(|_| Status::deadline_exceeded("a link begins with a hello, which did not come"));
        let hello = match first.and_then(|first| first)?.and_then(|first| first.message) {
            Some(Message::Hello(hello)) => hello,
            _ => return Err(Status::invalid_argument("a link begins with a hello").into()),
        };
        // A port of 0 is one that cannot be dialled.
        let port = u16::try_from(hello.peer_port).ok().filter(|port| *port != 0);
        let listens = port.map(|port| {
            let mut address = caller.address;
            address.set_port(port);
            address
        });
        let greeting = greeting(caller.id, &hello, listens);
        if let Some(reason) = me.incompatible(&hello) {
            let mine = me.hello().encode_to_vec().into();
            let status = Status::with_details(Code::FailedPrecondition, reason.clone(), mine);
            return Err(Rejection { incompatible: Some((greeting, reason)), status });
        }
        let life = Arc::new(Life::new(caller.pulse.clone(), None));
        see_clock(&life, hello.now.as_ref());
        let (lines, all_lines) = watch::channel(None);
        let (closer, closing) = Closer::new();
        let voice = Voice::new(me.hello(), state, all_lines, closing.clone());
        let (state, states) = watch::channel(None);
        let handle = CallHandle { life: Arc::clone(&life), state: states, lines: Arc::new(lines), closer };
        let ear = Ear::new(messages, life, state);
        let incoming = Self { greeting, handle, ear, closing, hang_up: caller.hang_up.clone() };
        Ok((incoming, voice.messages().map(Ok)))
    }

    /// Listens until the link ends, and ends the connection then; why, in words. `take` is told what the
    /// caller demands, and a new key.
    pub async fn run(mut self, take: impl FnMut(Message)) -> String {
        let Self { ear, closing, hang_up, .. } = &mut self;
        let (end, is_ours) = tokio::select! {
            end = ear.listen(take) => (end, false),
            reason = closed(closing) => (End::Other(reason.to_owned()), true),
        };
        if is_ours {
            // The voice says so; the caller ends the connection when it has heard it.
            let _ = timeout(PARTING, ear.listen(|_| ())).await;
        }
        hang_up.cancel();
        end.words()
    }
}

// === impl Rejection ===

impl From<Status> for Rejection {
    fn from(status: Status) -> Self {
        Self { incompatible: None, status }
    }
}

/// Links of callers for tests of those above.
#[cfg(test)]
pub(in crate::peer) mod testing {
    use super::*;

    /// A link without a connection; with what tells that it is to end.
    pub(in crate::peer) fn handle() -> (CallHandle, Closing) {
        let (closer, closing) = Closer::new();
        let handle = CallHandle {
            life: Arc::new(Life::new(Pulse::start(), None)),
            state: watch::channel(None).1,
            lines: Arc::new(watch::channel(None).0),
            closer,
        };
        (handle, closing)
    }
}
