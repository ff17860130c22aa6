//! The newcomer's side: from a code to a key.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use farmhand_proto::peer::join_message::Message;
use farmhand_proto::peer::join_refusal::Reason;
use farmhand_proto::peer::{
    JoinAnswer, JoinHello, JoinKept, JoinNewcomer, JoinOpening, JoinProof, join_answer,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Code;
use super::Met;
use super::frame::{self, FrameError};
use super::host::{LIMIT, peer_address, readable};
use super::invitation::LIFETIME;
use super::notices::Notices;
use super::session::{Exchange, Garbled, Session, Side, VERSION};
use crate::peer::MachineId;
use crate::peer::trust::{FarmKey, FarmTag, TrustError};

/// Addresses that are tried.
const MOST_ADDRESSES: usize = 8;

/// Time for a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// How a way into a farm goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// An invitation is tried.
    Trying(SocketAddr),
    /// The other side knows the code too; the words both screens show.
    Proven(String),
    /// A person over there is asked.
    Pending,
    /// This machine is in the farm.
    Joined(FarmTag),
}

/// Why this machine is in no other farm.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// A file sets the key.
    #[error("the key of this machine's farm comes from {}", .0.display())]
    Fixed(PathBuf),
    /// It is in a farm with others, by this name.
    #[error("this machine is in the farm \"{0}\" with others, and would leave it")]
    InFarm(String),
    /// That is no `HOST:PORT`, or there is no such host.
    #[error("no machine is found at {0:?}: {1}")]
    Address(String, io::Error),
    /// No invitation was heard of.
    #[error("no invitation is heard of on the network")]
    NotFound,
    /// Nobody listens there.
    #[error("nobody answers at {0}: {1}")]
    Unreachable(SocketAddr, io::Error),
    /// The code is another one.
    #[error("the code is not that of the invitation")]
    Code,
    /// The invitation is used, withdrawn or too old.
    #[error("the invitation is over")]
    Over,
    /// Another newcomer is before us.
    #[error("another machine uses the invitation right now")]
    Taken,
    /// The other program is another version.
    #[error("that machine has another version of farmhand, which joins in another way")]
    Version,
    /// A person said no.
    #[error("the newcomer was turned away over there")]
    Refused,
    /// The other side does not know the code, or is something else altogether.
    #[error("who answers there is not who gave out the code")]
    Impostor,
    /// It says nothing.
    #[error("that machine does not answer in time")]
    Silent,
    /// The connection ended before the other side had shown anything.
    #[error("who answers there hung up before showing that it knows the code")]
    HungUp,
    /// The connection ended in the middle.
    #[error("the connection ended before this machine was let in")]
    Lost,
    /// The key came and cannot be kept.
    #[error("cannot keep the key: {0}")]
    Trust(#[from] TrustError),
    /// Writing it down failed as nothing should.
    #[error("cannot keep the key: {0}")]
    Panicked(String),
}

/// What a newcomer says of itself, sealed.
#[derive(Clone, Debug)]
pub(super) struct Introduction {
    pub(super) machine: MachineId,
    pub(super) name: String,
    pub(super) program: String,
    pub(super) peer_port: u16,
}

/// The key, and the way to say that it is kept.
pub(super) struct Welcome<S> {
    pub(super) key: FarmKey,
    member: Option<Member>,
    session: Session,
    stream: S,
}

/// What a member says of itself.
struct Member {
    machine: MachineId,
    name: String,
    peer_port: u32,
}

// === impl Welcome ===

impl<S> Welcome<S> {
    /// The member, which answered at `address`; `None` if it does not say who it is.
    pub(super) fn met(&self, address: SocketAddr) -> Option<Met> {
        let Member { machine, name, peer_port } = self.member.as_ref()?;
        Some(Met { machine: *machine, name: name.clone(), address: peer_address(address, *peer_port)? })
    }
}

impl<S: AsyncWrite + Unpin> Welcome<S> {
    /// Tells the other side that the key is kept. It makes do without.
    pub(super) async fn keep(mut self) {
        let sealed = self.session.seal(&JoinKept {});
        let _ = timeout(LIMIT, frame::write(&mut self.stream, Message::Sealed(sealed))).await;
    }
}

/// Where the invitation may be: at `from`, or where one was heard of.
pub(super) async fn addresses(
    from: Option<&str>,
    notices: &dyn Notices,
) -> Result<Vec<SocketAddr>, JoinError> {
    let mut addresses = match from {
        Some(from) => {
            let failed = |error| JoinError::Address(from.to_owned(), error);
            tokio::net::lookup_host(from).await.map_err(failed)?.collect()
        }
        None => notices.find().await,
    };
    addresses.truncate(MOST_ADDRESSES);
    if addresses.is_empty() { Err(JoinError::NotFound) } else { Ok(addresses) }
}

/// Tries the code at each address until one knows it; which one that was. If none does, the failure that
/// tells most counts, the last of those that tell the same.
pub(super) async fn dial_each(
    addresses: &[SocketAddr],
    code: &Code,
    introduction: &Introduction,
    told: impl Fn(Step),
) -> Result<(Welcome<TcpStream>, SocketAddr), JoinError> {
    let mut failure = JoinError::NotFound;
    for address in addresses {
        told(Step::Trying(*address));
        match dial(*address, code, introduction, &told).await {
            Ok(welcome) => return Ok((welcome, *address)),
            Err(error) => match weight(&error) {
                None => return Err(error),
                // Somebody else's invitation, or none at all: ours may be the next.
                found if found >= weight(&failure) => failure = error,
                Some(_) => {}
            },
        }
    }
    Err(failure)
}

/// How much a failure tells of where the invitation is; `None` if that is found.
fn weight(error: &JoinError) -> Option<u8> {
    match error {
        JoinError::NotFound => Some(0),
        JoinError::Unreachable(..) => Some(1),
        JoinError::Silent | JoinError::HungUp | JoinError::Impostor | JoinError::Version => Some(2),
        JoinError::Over | JoinError::Taken => Some(3),
        JoinError::Code => Some(4),
        JoinError::Fixed(_)
        | JoinError::InFarm(_)
        | JoinError::Address(..)
        | JoinError::Refused
        | JoinError::Lost
        | JoinError::Trust(_)
        | JoinError::Panicked(_) => None,
    }
}

async fn dial(
    address: SocketAddr,
    code: &Code,
    introduction: &Introduction,
    told: &impl Fn(Step),
) -> Result<Welcome<TcpStream>, JoinError> {
    let failed = |error| JoinError::Unreachable(address, error);
    let connected = timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
    let stream = connected.map_err(|_| failed(io::ErrorKind::TimedOut.into()))?.map_err(failed)?;
    let _ = stream.set_nodelay(true);
    converse(stream, code, introduction, told).await
}

/// The whole exchange with a member.
pub(super) async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    code: &Code,
    introduction: &Introduction,
    told: &impl Fn(Step),
) -> Result<Welcome<S>, JoinError> {
    let met = timeout(LIMIT, meet(&mut stream, code)).await.map_err(|_| JoinError::Silent)?;
    let mut session = met.map_err(|error| match error {
        JoinError::Lost => JoinError::HungUp,
        error => error,
    })?;
    told(Step::Proven(session.check_words().to_owned()));
    let newcomer = JoinNewcomer {
        machine: introduction.machine.bytes().to_vec(),
        name: introduction.name.clone(),
        program: introduction.program.clone(),
        peer_port: introduction.peer_port.into(),
    };
    let sealed = session.seal(&newcomer);
    let sent = timeout(LIMIT, frame::write(&mut stream, Message::Sealed(sealed))).await;
    sent.map_err(|_| JoinError::Silent)?.map_err(|_| JoinError::Lost)?;
    let mut patience = LIMIT;
    loop {
        let heard = timeout(patience, frame::read(&mut stream)).await.map_err(|_| JoinError::Silent)?;
        let Message::Sealed(sealed) = heard?.message else { return Err(JoinError::Impostor) };
        let answer: JoinAnswer = session.open(sealed)?;
        match answer.answer.ok_or(JoinError::Impostor)? {
            join_answer::Answer::Pending(_) => {
                told(Step::Pending);
                patience = LIFETIME + LIMIT;
            }
            join_answer::Answer::Refused(_) => return Err(JoinError::Refused),
            join_answer::Answer::Welcome(welcome) => {
                let bytes = zeroize::Zeroizing::new(welcome.key);
                let key = FarmKey::read(&bytes).ok_or(JoinError::Impostor)?;
                let member = MachineId::read(&welcome.machine).map(|machine| Member {
                    machine,
                    name: readable(&welcome.name),
                    peer_port: welcome.peer_port,
                });
                return Ok(Welcome { key, member, session, stream });
            }
        }
    }
}

/// Until both know that the other has the code.
async fn meet(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), code: &Code) -> Result<Session, JoinError> {
    let (exchange, element) = Exchange::start(Side::Newcomer, code);
    let hello = JoinHello { least_version: VERSION, most_version: VERSION, element };
    let hello = frame::write(stream, Message::Hello(hello)).await.map_err(|_| JoinError::Lost)?;
    let opening = frame::read(stream).await?;
    let JoinOpening { version, element } = match opening.message {
        Message::Opening(opening) => opening,
        other => return Err(refusal(&other)),
    };
    if version != VERSION {
        return Err(JoinError::Version);
    }
    let session = exchange.finish(&element, &hello, &opening.bytes)?;
    let proof = Message::Proof(JoinProof { mac: session.proof() });
    frame::write(stream, proof).await.map_err(|_| JoinError::Lost)?;
    match frame::read(stream).await?.message {
        Message::Proof(JoinProof { mac }) if session.is_proof(&mac) => Ok(session),
        other => Err(refusal(&other)),
    }
}

fn refusal(message: &Message) -> JoinError {
    let Message::Refusal(refusal) = message else { return JoinError::Impostor };
    match refusal.reason() {
        Reason::Code => JoinError::Code,
        Reason::Over => JoinError::Over,
        Reason::Taken => JoinError::Taken,
        Reason::Version => JoinError::Version,
        Reason::Unspecified => JoinError::Impostor,
    }
}

impl From<FrameError> for JoinError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::Io(_) => Self::Lost,
            FrameError::Garbled => Self::Impostor,
        }
    }
}

impl From<Garbled> for JoinError {
    fn from(Garbled: Garbled) -> Self {
        Self::Impostor
    }
}
