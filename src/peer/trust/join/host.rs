//! The member's side: a port for strangers, one of whom may know the code.
//!
//! What strangers can cost is bounded: eight connections at once, each with ten seconds and messages of
//! 4 KiB, fifty new ones a second. When there are eight, the oldest that has not shown the code makes
//! room: who only holds connections keeps nobody out.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use farmhand_proto::peer::join_message::Message;
use farmhand_proto::peer::join_refusal::Reason;
use farmhand_proto::peer::{
    JoinAnswer, JoinHello, JoinKept, JoinNewcomer, JoinOpening, JoinPending, JoinProof, JoinRefusal,
    JoinRefused, JoinSealed, JoinWelcome, join_answer,
};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use zeroize::Zeroize as _;

use super::frame::{self, FrameError};
use super::invitation::{COST, Invitation, Verdict, Visitor};
use super::session::{Exchange, Garbled, Session, Side, VERSION};
use super::{Code, End, JoinSettings, Newcomer, News, Waiting};
use crate::peer::MachineId;
use crate::peer::link::words;
use crate::peer::trust::Trust;
use crate::tasks::Tasks;

/// Connections at once.
pub(super) const MOST_CONNECTIONS: usize = 8;

/// Least time between two new ones.
const PACE: Duration = Duration::from_millis(20);

/// Time for an exchange, but for a person's answer.
pub(super) const LIMIT: Duration = Duration::from_secs(10);

/// Characters of a name that are shown.
const MOST_NAME: usize = 64;

/// What a newcomer is called that does not say how.
const NAMELESS: &str = "a-machine-without-a-name";

/// An invitation with all that it needs.
pub(super) struct Host {
    parts: HostParts,
    rules: Mutex<Invitation>,
    /// Who may have the key: it is on its way there, or has come.
    given: OnceLock<Newcomer>,
}

/// What an invitation needs.
pub(super) struct HostParts {
    pub(super) trust: Trust,
    /// What newcomers are told of this machine.
    pub(super) me: JoinSettings,
    pub(super) code: Code,
    /// Whether a person is asked.
    pub(super) ask: bool,
    pub(super) waiting: Waiting,
    pub(super) tell: mpsc::Sender<News>,
    pub(super) tasks: Tasks,
}

/// A visit ends without a newcomer: the connection is broken, what came is no part of an exchange, or
/// the visitor was refused.
#[derive(Debug)]
pub(super) struct Left;

// === impl Host ===

impl Host {
    pub(super) fn new(parts: HostParts) -> Self {
        Self { parts, rules: Mutex::new(Invitation::new(Instant::now())), given: OnceLock::new() }
    }

    /// Takes visitors until the invitation ends or is withdrawn; how it ended. A key that was given away by
    /// then stays so.
    pub(super) async fn serve(self, listener: TcpListener, withdrawn: CancellationToken) -> End {
        let end = tokio::select! {
            biased;
            end = self.take(listener) => end,
            () = withdrawn.cancelled() => self.given.get().cloned().map_or(End::Stopped, End::Unsure),
        };
        log(&end);
        end
    }

    async fn take(&self, listener: TcpListener) -> End {
        let expires = self.rules().expires();
        let mut visits = FuturesUnordered::new();
        let mut present: VecDeque<(Visitor, CancellationToken)> = VecDeque::new();
        let (mut next, mut count) = (Instant::now(), 0);
        loop {
            let accepted = async {
                sleep_until(next).await;
                listener.accept().await
            };
            tokio::select! {
                Some((visitor, end)) = visits.next() => {
                    present.retain(|(other, _)| *other != visitor);
                    if let Some(end) = end {
                        return end;
                    }
                }
                () = sleep_until(expires), if !self.rules().is_given() => {
                    if !self.rules().is_given() {
                        return End::Expired;
                    }
                }
                accepted = accepted => {
                    next = Instant::now() + PACE;
                    // What keeps it from accepting (descriptors, a peer that is gone) passes.
                    let Ok((stream, from)) = accepted else { continue };
                    if present.len() >= MOST_CONNECTIONS {
                        self.make_room(&mut present);
                    }
                    count += 1;
                    let gone = CancellationToken::new();
                    present.push_back((count, gone.clone()));
                    visits.push(self.visit(stream, from, count, gone));
                }
            }
        }
    }

    /// Ends the oldest visit but that of the one who has shown the code.
    fn make_room(&self, present: &mut VecDeque<(Visitor, CancellationToken)>) {
        let holder = self.rules().holder();
        let oldest = present.iter().position(|(visitor, _)| Some(*visitor) != holder);
        if let Some((_, gone)) = oldest.and_then(|at| present.remove(at)) {
            gone.cancel();
        }
    }

    /// One connection; with the end of the invitation, if it brought it.
    async fn visit(
        &self,
        stream: TcpStream,
        from: SocketAddr,
        visitor: Visitor,
        gone: CancellationToken,
    ) -> (Visitor, Option<End>) {
        let _ = stream.set_nodelay(true);
        let received = tokio::select! {
            received = self.receive(stream, from, visitor) => received,
            () = gone.cancelled() => Err(Left),
        };
        let mut rules = self.rules();
        rules.leave(visitor);
        (visitor, received.ok().or(rules.is_worn_out().then_some(End::Tries)))
    }

    /// The whole exchange with one visitor.
    pub(super) async fn receive(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        from: SocketAddr,
        visitor: Visitor,
    ) -> Result<End, Left> {
        let met = timeout(LIMIT, self.meet(&mut stream, from, visitor)).await;
        let (mut session, newcomer) = met.map_err(|_| Left)??;
        if self.parts.ask && !self.is_wanted(&mut stream, &mut session, &newcomer).await? {
            let refused = join_answer::Answer::Refused(JoinRefused {});
            let _ = timeout(LIMIT, answer(&mut stream, &mut session, refused)).await;
            return Ok(End::Refused(newcomer));
        }
        self.welcome(stream, session, newcomer, visitor).await
    }

    /// Until the visitor has shown the code, and who it is.
    async fn meet(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        from: SocketAddr,
        visitor: Visitor,
    ) -> Result<(Session, Newcomer), Left> {
        let mut session = self.open(stream).await?;
        let Message::Proof(JoinProof { mac }) = frame::read(stream).await?.message else {
            return Err(Left);
        };
        self.judge(stream, &session, &mac, from.ip(), visitor).await?;
        frame::write(stream, Message::Proof(JoinProof { mac: session.proof() })).await?;
        let Message::Sealed(sealed) = frame::read(stream).await?.message else { return Err(Left) };
        let told: JoinNewcomer = session.open(sealed)?;
        let machine = MachineId::read(&told.machine).ok_or(Left)?;
        let newcomer = Newcomer {
            number: self.parts.waiting.number(),
            name: readable(&told.name),
            machine,
            check_words: session.check_words().to_owned(),
            address: peer_address(from, told.peer_port),
        };
        Ok((session, newcomer))
    }

    /// Both elements.
    async fn open(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<Session, Left> {
        let hello = frame::read(stream).await?;
        let Message::Hello(JoinHello { least_version, most_version, element }) = hello.message else {
            return Err(Left);
        };
        if !(least_version..=most_version).contains(&VERSION) {
            return Err(refuse(stream, Reason::Version).await);
        }
        let (exchange, own) = Exchange::start(Side::Member, &self.parts.code);
        let opening = Message::Opening(JoinOpening { version: VERSION, element: own });
        let opening = frame::write(stream, opening).await?;
        Ok(exchange.finish(&element, &hello.bytes, &opening)?)
    }

    /// Whether the proof is one, as the rules of the invitation have it.
    async fn judge(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        session: &Session,
        mac: &[u8],
        from: IpAddr,
        visitor: Visitor,
    ) -> Result<(), Left> {
        loop {
            let verdict = self.rules().judge(Instant::now(), visitor, || session.is_proof(mac));
            match verdict {
                Verdict::Right => return Ok(()),
                Verdict::Wait(time) => sleep(time).await,
                Verdict::Taken => return Err(refuse(stream, Reason::Taken).await),
                Verdict::Over => return Err(refuse(stream, Reason::Over).await),
                Verdict::Wrong { left } => {
                    tracing::warn!(%from, left, "somebody tried a wrong code to join");
                    self.parts.waiting.doorplate.tried(left);
                    let _ = self.parts.tell.try_send(News::WrongCode { from, left });
                    sleep(COST).await;
                    return Err(refuse(stream, Reason::Code).await);
                }
            }
        }
    }

    /// Asks a person.
    async fn is_wanted(
        &self,
        stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
        session: &mut Session,
        newcomer: &Newcomer,
    ) -> Result<bool, Left> {
        let pending = join_answer::Answer::Pending(JoinPending {});
        timeout(LIMIT, answer(stream, session, pending)).await.map_err(|_| Left)??;
        let answered = self.parts.waiting.ask(newcomer.number);
        let _shown = self.parts.waiting.doorplate.wait(newcomer);
        let _ = self.parts.tell.try_send(News::Pending(newcomer.clone()));
        tokio::select! {
            answer = answered => Ok(answer.unwrap_or(false)),
            // It has nothing to say before it is answered: whatever comes is its end.
            _ = frame::read(stream) => {
                let _ = self.parts.tell.try_send(News::Gone(newcomer.clone()));
                Err(Left)
            }
        }
    }

    /// Gives the key away.
    async fn welcome(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        mut session: Session,
        newcomer: Newcomer,
        visitor: Visitor,
    ) -> Result<End, Left> {
        let trust = self.parts.trust.clone();
        let marked = self.parts.tasks.spawn_blocking(move || trust.mark_shared(trust.tag())).await;
        if let Ok(Err(error)) = marked {
            tracing::error!(%error, "cannot write down that the farm has another member");
        }
        if !self.rules().give(Instant::now(), visitor) {
            return Err(Left);
        }
        let _ = self.given.set(newcomer.clone());
        let sealed = self.sealed_key(&mut session);
        let kept = timeout(LIMIT, async {
            frame::write(&mut stream, Message::Sealed(sealed)).await?;
            let Message::Sealed(sealed) = frame::read(&mut stream).await?.message else {
                return Err(Left);
            };
            Ok(session.open::<JoinKept>(sealed)?)
        });
        Ok(match kept.await {
            Ok(Ok(JoinKept {})) => End::Joined(newcomer),
            _ => End::Unsure(newcomer),
        })
    }

    fn sealed_key(&self, session: &mut Session) -> JoinSealed {
        let HostParts { trust, me, .. } = &self.parts;
        let welcome = JoinWelcome {
            key: trust.key().bytes().to_vec(),
            machine: trust.me().bytes().to_vec(),
            name: me.name.clone(),
            peer_port: me.peer_port.into(),
        };
        let answer = JoinAnswer { answer: Some(join_answer::Answer::Welcome(welcome)) };
        let sealed = session.seal(&answer);
        if let Some(join_answer::Answer::Welcome(mut welcome)) = answer.answer {
            welcome.key.zeroize();
        }
        sealed
    }

    pub(super) fn rules(&self) -> MutexGuard<'_, Invitation> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(
    stream: &mut (impl AsyncWrite + Unpin),
    session: &mut Session,
    answer: join_answer::Answer,
) -> io::Result<()> {
    let sealed = session.seal(&JoinAnswer { answer: Some(answer) });
    frame::write(stream, Message::Sealed(sealed)).await.map(drop)
}

/// Says why, to one who has not shown the code.
async fn refuse(stream: &mut (impl AsyncWrite + Unpin), reason: Reason) -> Left {
    let refusal = JoinRefusal { reason: reason.into() };
    let _ = frame::write(stream, Message::Refusal(refusal)).await;
    Left
}

/// Where the one at `address` takes links, if it says so.
pub(super) fn peer_address(mut address: SocketAddr, port: u32) -> Option<SocketAddr> {
    address.set_port(u16::try_from(port).ok().filter(|port| *port != 0)?);
    Some(address)
}

/// A name as it may be shown: whoever has the code chose it.
pub(super) fn readable(name: &str) -> String {
    let name = words::name(name, MOST_NAME);
    if name.is_empty() { NAMELESS.to_owned() } else { name }
}

fn log(end: &End) {
    match end {
        End::Joined(newcomer) => {
            let (name, machine) = (&newcomer.name, &newcomer.machine);
            tracing::info!(name, %machine, "a machine has joined the farm by invitation");
        }
        End::Unsure(newcomer) => {
            let (name, machine) = (&newcomer.name, &newcomer.machine);
            tracing::warn!(name, %machine, "a machine was sent the key and did not say that it has it");
        }
        End::Refused(newcomer) => tracing::info!(name = newcomer.name, "a newcomer was turned away"),
        End::Tries => tracing::warn!("an invitation ended after too many wrong codes"),
        End::Expired | End::Stopped => tracing::info!("an invitation ended, and nobody came"),
    }
}

impl From<FrameError> for Left {
    fn from(_: FrameError) -> Self {
        Self
    }
}

impl From<io::Error> for Left {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl From<Garbled> for Left {
    fn from(_: Garbled) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_short_word_that_steers_nothing() {
        assert_eq!(readable("attic\n\u{1b}[31m\u{9b}"), "attic\u{240a}\u{241b}[31m\u{fffd}");
        assert_eq!(readable("the attic\u{202e}\u{200b}"), "the-attic\u{fffd}\u{fffd}");
        assert_eq!(readable(&"x".repeat(5000)).len(), MOST_NAME);
        for name in ["", "  ", "\u{3000}"] {
            assert_eq!(readable(name), NAMELESS);
        }
    }
}
