//! How a machine comes into a farm: a member invites, a person carries a code, the newcomer joins.
//!
//! An invitation opens a TCP port of its own for one newcomer and five minutes. What is spoken there
//! stands in `farmhand/peer/v1/join.proto`: `session` is its cryptography, `frame` its messages, `host`
//! and `newcomer` the two sides, `invitation` the rules of who may try when. A stranger at that port can
//! try five codes of 31.9 bits, a second each, and can keep others from joining by doing so; no more.
//!
//! [`Joining`] is what those above hold. How invitations are found on the network is left to a
//! [`Notices`].

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::DropGuard;

use super::Trust;
use crate::peer::MachineId;
use crate::tasks::Tasks;

mod code;
mod entrance;
mod frame;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod host;
mod invitation;
mod newcomer;
mod notices;
mod session;
#[cfg(test)]
mod tests;

pub use code::{Code, CodeError};
pub use entrance::{Entrance, Open};
pub use invitation::LIFETIME;
pub use newcomer::{JoinError, Step};
pub use notices::{Notices, Unannounced};

use entrance::Doorplate;
use host::{Host, HostParts};
use newcomer::Introduction;

/// News that wait for a slow listener; what is more is dropped, but for the end.
const WAITING_NEWS: usize = 16;

/// Inviting and joining, for one machine. Clones share invitations.
#[derive(Clone)]
pub struct Joining(Arc<Inner>);

struct Inner {
    trust: Trust,
    settings: JoinSettings,
    notices: Arc<dyn Notices>,
    introduce: Introduce,
    tasks: Tasks,
    /// One invitation at a time.
    free: Arc<Semaphore>,
    waiting: Waiting,
}

/// What this machine says of itself, and where it listens.
#[derive(Clone, Debug)]
pub struct JoinSettings {
    /// Its name, for people.
    pub name: String,
    /// Version of its program.
    pub program: String,
    /// Address on which invitations listen.
    pub bind: IpAddr,
    /// Port on which it takes links.
    pub peer_port: u16,
}

/// The machine at the other end of an exchange that both have proven themselves in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// What it says its id is.
    pub machine: MachineId,
    /// What it says it is called, fit to be shown.
    pub name: String,
    /// Where it says it takes links.
    pub address: SocketAddr,
}

/// Is told of machines that are members from now on, so that links to them are opened where nothing is
/// announced.
pub type Introduce = Arc<dyn Fn(Met) + Send + Sync>;

/// An open invitation. Dropping it withdraws it.
pub struct Invited {
    /// What the person types on the other machine.
    pub code: Code,
    /// Name of the farm.
    pub farm: String,
    /// Where it can be used.
    pub addresses: Vec<SocketAddr>,
    /// What happens, until the end.
    pub news: mpsc::Receiver<News>,
    _withdrawn: DropGuard,
}

/// What happens to an invitation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// Somebody tried a wrong code; so many tries are left.
    WrongCode {
        /// Where from.
        from: IpAddr,
        /// Tries.
        left: u32,
    },
    /// A newcomer waits for a person.
    Pending(Newcomer),
    /// One that waited is gone.
    Gone(Newcomer),
    /// It is over. Nothing comes after.
    End(End),
}

/// How an invitation ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The newcomer has the key.
    Joined(Newcomer),
    /// The key was sent, and that it came was not said.
    Unsure(Newcomer),
    /// A person turned the newcomer away.
    Refused(Newcomer),
    /// Nobody came in time.
    Expired,
    /// Too many wrong codes.
    Tries,
    /// The node ends, or the invitation cannot go on.
    Stopped,
}

/// A machine that has shown the code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newcomer {
    /// Counts newcomers of this node.
    pub number: u64,
    /// What it says it is called: a word of at most 64 characters, none of which steers a terminal.
    pub name: String,
    /// What it says its id is; proven only once it is linked.
    pub machine: MachineId,
    /// The words both screens show.
    pub check_words: String,
    /// Where it says it takes links.
    pub address: Option<SocketAddr>,
}

/// Why there is no invitation.
#[derive(Debug, thiserror::Error)]
pub enum InviteError {
    /// One is open.
    #[error("an invitation of this machine is open already")]
    Open,
    /// It cannot listen.
    #[error("cannot listen for a newcomer on {bind}: {source}")]
    Listen {
        /// Where.
        bind: IpAddr,
        /// The system's words.
        source: io::Error,
    },
}

/// No newcomer of that number waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no newcomer waits under that number (any more)")]
pub struct NotWaiting;

/// A way into another farm, asked for by a person.
#[derive(Clone, Debug)]
pub struct Request {
    /// The code.
    pub code: Code,
    /// `HOST:PORT`; `None` to look for it.
    pub from: Option<String>,
    /// Leaves the farm this machine is in, although others are in it.
    pub leave: bool,
}

/// Newcomers that wait for a person.
#[derive(Clone, Default)]
struct Waiting {
    numbers: Arc<AtomicU64>,
    now: Arc<Mutex<Option<Asked>>>,
    doorplate: Doorplate,
}

/// One of them, and where its answer goes.
struct Asked {
    number: u64,
    answer: oneshot::Sender<bool>,
}

// === impl End ===

impl End {
    /// The newcomer that has the key, or may have it.
    fn met(&self) -> Option<Met> {
        let (Self::Joined(newcomer) | Self::Unsure(newcomer)) = self else { return None };
        let Newcomer { machine, name, address, .. } = newcomer.clone();
        Some(Met { machine, name, address: address? })
    }
}

// === impl Joining ===

impl Joining {
    /// For the machine of `trust`.
    pub fn new(
        trust: Trust,
        settings: JoinSettings,
        notices: Arc<dyn Notices>,
        introduce: Introduce,
        tasks: Tasks,
    ) -> Self {
        let (free, waiting) = (Arc::new(Semaphore::new(1)), Waiting::default());
        Self(Arc::new(Inner { trust, settings, notices, introduce, tasks, free, waiting }))
    }

    /// Opens an invitation; with `ask` a person is asked about who comes.
    ///
    /// # Errors
    /// While another one is open, or when nothing can be opened.
    pub async fn invite(&self, ask: bool) -> Result<Invited, InviteError> {
        let Inner { trust, settings, notices, introduce, tasks, free, waiting } = &*self.0;
        let permit = Arc::clone(free).try_acquire_owned().map_err(|_| InviteError::Open)?;
        let failed = |source| InviteError::Listen { bind: settings.bind, source };
        let listener = TcpListener::bind((settings.bind, 0)).await.map_err(failed)?;
        let bound = listener.local_addr().map_err(failed)?;
        let (code, farm) = (Code::generate(), trust.farm());
        let announced = notices.announce(&farm, bound.port());
        let withdrawn = tasks.token().child_token();
        let (tell, news) = mpsc::channel(WAITING_NEWS);
        let host = Host::new(HostParts {
            trust: trust.clone(),
            me: settings.clone(),
            code: code.clone(),
            ask,
            waiting: waiting.clone(),
            tell: tell.clone(),
            tasks: tasks.clone(),
        });
        let (stop, introduce) = (withdrawn.clone(), Arc::clone(introduce));
        let addresses = notices::shown(bound);
        let open = waiting.doorplate.open(&farm, &addresses, ask, SystemTime::now() + LIFETIME);
        tasks.spawn("invitation", async move {
            let end = host.serve(listener, stop).await;
            // In this order: the next invitation puts up its own.
            drop((announced, open, permit));
            if let Some(met) = end.met() {
                introduce(met);
            }
            let _ = tell.send(News::End(end)).await;
        });
        tracing::info!(farm, port = bound.port(), ask, "an invitation is open");
        Ok(Invited { code, farm, addresses, news, _withdrawn: withdrawn.drop_guard() })
    }

    /// What stands open to newcomers, now and from now on.
    pub fn entrance(&self) -> watch::Receiver<Entrance> {
        self.0.waiting.doorplate.watch()
    }

    /// Lets a newcomer in that waits, or turns it away.
    ///
    /// # Errors
    /// When it does not wait.
    pub fn answer(&self, number: u64, accept: bool) -> Result<(), NotWaiting> {
        self.0.waiting.answer(number, accept)
    }

    /// Joins another farm, and tells how it goes; the last step is [`Step::Joined`] or an error. Dropping the
    /// receiver gives up.
    pub fn join(&self, request: Request) -> mpsc::Receiver<Result<Step, JoinError>> {
        let (tell, steps) = mpsc::channel(WAITING_NEWS);
        let inner = Arc::clone(&self.0);
        let stop = self.0.tasks.token().clone();
        self.0.tasks.spawn("join", async move {
            let joined = inner.join(request, &tell);
            let outcome = tokio::select! {
                outcome = joined => outcome,
                () = tell.closed() => return,
                () = stop.cancelled() => return,
            };
            let _ = tell.send(outcome).await;
        });
        steps
    }
}

// === impl Inner ===

impl Inner {
    async fn join(
        &self,
        request: Request,
        tell: &mpsc::Sender<Result<Step, JoinError>>,
    ) -> Result<Step, JoinError> {
        let Self { trust, settings, notices, introduce, tasks, .. } = self;
        if let Some(path) = trust.key_file() {
            return Err(JoinError::Fixed(path.to_owned()));
        }
        if trust.is_shared() && !request.leave {
            return Err(JoinError::InFarm(trust.farm()));
        }
        let introduction = Introduction {
            machine: trust.me(),
            name: settings.name.clone(),
            program: settings.program.clone(),
            peer_port: settings.peer_port,
        };
        let addresses = newcomer::addresses(request.from.as_deref(), &**notices).await?;
        let told = |step| drop(tell.try_send(Ok(step)));
        let (welcome, address) = newcomer::dial_each(&addresses, &request.code, &introduction, told).await?;
        let tag = welcome.key.tag();
        let (owned, key) = (trust.clone(), welcome.key.clone());
        match tasks.spawn_blocking(move || owned.replace(key)).await {
            Ok(replaced) => replaced?,
            Err(panic) => return Err(JoinError::Panicked(panic.to_string())),
        }
        tracing::info!(farm = tag.farm(), %tag, "this machine has joined a farm");
        if let Some(met) = welcome.met(address) {
            introduce(met);
        }
        welcome.keep().await;
        Ok(Step::Joined(tag))
    }
}

// === impl Waiting ===

impl Waiting {
    /// A number for the next newcomer.
    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The answer to come for `number`.
    fn ask(&self, number: u64) -> oneshot::Receiver<bool> {
        let (answer, answered) = oneshot::channel();
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Some(Asked { number, answer });
        answered
    }

    fn answer(&self, number: u64, accept: bool) -> Result<(), NotWaiting> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = now.take_if(|asked| asked.number == number).ok_or(NotWaiting)?;
        asked.answer.send(accept).map_err(|_| NotWaiting)
    }
}
