//! [`Replication`]: has the store here and those of other machines come to as many copies as there should be.
//!
//! One task takes in what happens: links that come and go, what is written here, what other machines
//! answer. It asks [`Census`](super::census::Census) who counts and [`Owed`](super::owed::Owed) what is to be
//! done, and has it done by calls that are bounded in number and time. Nothing that uses the store waits for
//! it, but those who ask for copies before they go on ([`Replication::copied`]), and who writes faster than
//! copies can be made ([`Replication::room`]).

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};

use self::engine::{Engine, Happened};
use self::inbox::Inbox;
use self::links::{Links, PeerLinks};
use self::pace::Pace;
use self::waiting::Wait;
use super::copies::{CopyStore, Other, Others};
use super::owed::Figures;
use super::roster::{Machine, Role, Roster};
use crate::cas::ContentAddressableStorage;
use crate::cas::disk::StoreNews;
use crate::cas::entry::EntryKey;
use crate::peer::{MachineId, Peers};
use crate::tasks::Tasks;

mod calling;
mod engine;
mod healing;
mod inbox;
pub mod links;
mod pace;
#[cfg(test)]
mod tests;
mod waiting;

/// Bytes of new writes without their copies from which on writers wait, usually.
pub const LAG_LIMIT: u64 = 1 << 30;

/// How long who waits for copies waits for them.
const COPIED: Duration = Duration::from_secs(10);

/// How long who writes faster than copies are made is held up at most.
const CROWDED: Duration = Duration::from_secs(5);

/// Nobody is held up when no copy was made for so long.
const STANDSTILL: Duration = Duration::from_secs(3);

/// Things that happen and wait to be taken in.
const WAITING: usize = 256;

/// How copies are kept.
#[derive(Clone, Debug)]
pub struct ReplicationConfig {
    /// This machine.
    pub me: MachineId,
    /// Its name, for people.
    pub name: Arc<str>,
    /// Copies there should be of each entry, this machine's own included.
    pub copies: usize,
    /// Copies that are confirmed before a write is acknowledged, this machine's own included.
    pub before_ack: usize,
    /// How long a machine may be away before what it has is copied elsewhere.
    pub repair_after: Duration,
    /// Share of the copies that this machine takes: see [`weight`](super::census::weight); 0 for none.
    pub weight: u32,
    /// Bytes of new writes without their copies from which on writers wait.
    pub lag_limit_bytes: u64,
    /// Where the machines that keep copies are written down; its directory is there.
    pub keepers_file: PathBuf,
}

/// The copies of what is here, and of what others have. Clones are the same.
#[derive(Clone)]
pub struct Replication(Arc<Shared>);

/// How far copies are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// Copies there should be of each entry by the settings.
    pub copies_wanted: usize,
    /// Copies there can be with the machines there are.
    pub copies: usize,
    /// Machines on which copies count, away for a while or not; this one included if it is one.
    pub keepers: usize,
    /// Copies to be made in all, with their bytes.
    pub owed_copies: u64,
    /// See [`owed_copies`](Self::owed_copies).
    pub owed_bytes: u64,
    /// Those of them that are to be made because a machine is gone, came back, or joined.
    pub repair_copies: u64,
    /// See [`repair_copies`](Self::repair_copies).
    pub repair_bytes: u64,
    /// Age of the oldest write that has too few copies; `None` when there is none.
    pub lag: Option<Duration>,
    /// Bytes a second at which copies were made of late.
    pub bytes_per_second: u64,
    /// How long what is owed will take at that pace; `None` when nothing is owed or nothing moves.
    pub remaining: Option<Duration>,
    /// Share of the ranges of entries that were compared since the farm last changed, 0 to 1.
    pub compared: f64,
    /// Copies made on other machines since the start, with their bytes.
    pub sent_copies: u64,
    /// See [`sent_copies`](Self::sent_copies).
    pub sent_bytes: u64,
    /// Entries fetched from other machines since the start to replace damaged ones, with their bytes. Those
    /// that somebody read come on top of it.
    pub fetched_entries: u64,
    /// See [`fetched_entries`](Self::fetched_entries).
    pub fetched_bytes: u64,
    /// Damaged entries that were replaced by good copies since the start.
    pub healed: u64,
    /// Copies that no machine has room for.
    pub refused_copies: u64,
}

/// What other machines are told of the copies here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// What this machine is for copies.
    pub role: Role,
    /// Copies that it has to make, or to see to.
    pub owed_copies: u64,
    /// Their bytes.
    pub owed_bytes: u64,
}

/// Fewer copies are confirmed than were asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.words())]
pub struct TooFew {
    /// Copies that were asked for.
    pub wanted: usize,
    /// Copies that are known.
    pub have: usize,
    /// Copies there can be at most, with the machines there are.
    pub possible: usize,
}

struct Shared {
    config: ReplicationConfig,
    store: Arc<dyn CopyStore>,
    kept: Arc<dyn ContentAddressableStorage>,
    /// What the store tells. It is a thing of its own, as the store holds it.
    inbox: Arc<Inbox>,
    sender: mpsc::Sender<Happened>,
    /// Until it is started.
    happened: Mutex<Option<mpsc::Receiver<Happened>>>,
    role: watch::Sender<Role>,
    told: watch::Sender<Told>,
    roster: watch::Sender<Arc<Roster>>,
    links: RwLock<HashMap<MachineId, Reach>>,
    shown: Mutex<Shown>,
    /// Whether more is written than copies can be made of.
    is_crowded: watch::Sender<bool>,
    pace: Mutex<Pace>,
    sent_copies: AtomicU64,
    sent_bytes: AtomicU64,
    healed: AtomicU64,
    healed_bytes: AtomicU64,
}

/// How far copies were at a moment.
#[derive(Clone, Copy, Debug)]
struct Shown {
    at: Instant,
    figures: Figures,
}

/// A machine there is a link to.
struct Reach {
    other: Other,
    /// It says that it has what is not where it belongs yet.
    has_more: bool,
}

// === impl Replication ===

impl Replication {
    /// Of what `store` has; `kept` is the same store for what is fetched from other machines.
    pub fn new(
        config: ReplicationConfig,
        store: Arc<dyn CopyStore>,
        kept: Arc<dyn ContentAddressableStorage>,
    ) -> Self {
        Self::with_inbox(config, store, kept, Inbox::new())
    }

    fn with_inbox(
        config: ReplicationConfig,
        store: Arc<dyn CopyStore>,
        kept: Arc<dyn ContentAddressableStorage>,
        inbox: Inbox,
    ) -> Self {
        let me = Machine {
            id: config.me,
            name: Arc::clone(&config.name),
            weight: config.weight,
            role: Role::Counts,
            is_linked: true,
            boot_epoch: 0,
        };
        let roster = Arc::new(Roster::new(config.me, vec![me], config.copies));
        let told = Told { role: Role::Counts, owed_copies: 0, owed_bytes: 0 };
        let (sender, happened) = mpsc::channel(WAITING);
        let now = Instant::now();
        Self(Arc::new(Shared {
            config,
            store,
            kept,
            inbox: Arc::new(inbox),
            sender,
            happened: Mutex::new(Some(happened)),
            role: watch::Sender::new(Role::Counts),
            told: watch::Sender::new(told),
            roster: watch::Sender::new(roster),
            links: RwLock::default(),
            shown: Mutex::new(Shown { at: now, figures: Figures::default() }),
            is_crowded: watch::Sender::new(false),
            pace: Mutex::new(Pace::new(now)),
            sent_copies: AtomicU64::new(0),
            sent_bytes: AtomicU64::new(0),
            healed: AtomicU64::new(0),
            healed_bytes: AtomicU64::new(0),
        }))
    }

    /// Begins to see to copies on `peers`, by tasks of `tasks`, until those end.
    pub fn start(&self, peers: Peers, tasks: &Tasks) {
        let links = PeerLinks::new(self.0.config.me, &peers);
        self.start_over(Box::new(links), peers.boot_epoch(), tasks);
    }

    /// As [`start`](Self::start), with links from anywhere, in that start of the node. It starts once.
    pub fn start_over(&self, links: Box<dyn Links>, boot_epoch: u64, tasks: &Tasks) {
        let Some(happened) = lock(&self.0.happened).take() else { return };
        let (shared, of_engine) = (Arc::clone(&self.0), tasks.clone());
        tasks.spawn("replication", async move {
            Engine::new(shared, links, boot_epoch, happened, of_engine).await.run().await;
        });
    }

    /// What the store is to tell.
    pub fn news(&self) -> Arc<dyn StoreNews> {
        Arc::clone(&self.0.inbox) as Arc<dyn StoreNews>
    }

    /// This machine is that for copies from now on; others follow what it publishes.
    pub fn set_role(&self, role: Role) {
        self.0.role.send_if_modified(|now| std::mem::replace(now, role) != role);
    }

    /// The other machines, for who reads from them.
    pub fn others(&self) -> Arc<dyn Others> {
        Arc::clone(&self.0) as Arc<dyn Others>
    }

    /// How far copies are.
    pub fn status(&self) -> Status {
        let (shared, now) = (&self.0, Instant::now());
        // In this order: figures of a farm that has changed since are shown before the farm that it became.
        let roster = shared.roster();
        let Shown { at, figures } = *lock(&shared.shown);
        let healed = shared.healed.load(Ordering::Relaxed);
        let bytes_per_second = lock(&shared.pace).per_second(now);
        let owed_bytes = figures.writes.bytes + figures.repairs.bytes;
        let remaining = owed_bytes.checked_div(bytes_per_second).filter(|_| owed_bytes > 0);
        Status {
            copies_wanted: shared.config.copies,
            copies: roster.copies(),
            keepers: roster.machines().iter().filter(|machine| machine.counts()).count(),
            owed_copies: figures.owed_copies(),
            owed_bytes,
            repair_copies: figures.repairs.copies,
            repair_bytes: figures.repairs.bytes,
            lag: figures.lag.map(|lag| lag + now.saturating_duration_since(at)),
            bytes_per_second,
            remaining: remaining.map(Duration::from_secs),
            compared: figures.compared.into(),
            sent_copies: shared.sent_copies.load(Ordering::Relaxed),
            sent_bytes: shared.sent_bytes.load(Ordering::Relaxed),
            fetched_entries: healed,
            fetched_bytes: shared.healed_bytes.load(Ordering::Relaxed),
            healed,
            refused_copies: figures.refused,
        }
    }

    /// What other machines are to be told, whenever that changes; at most once a second.
    pub fn watch(&self) -> watch::Receiver<Told> {
        self.0.told.subscribe()
    }

    /// Waits until `copies` copies of `key`, which was written here, are known, this machine's own included;
    /// ten seconds at most.
    ///
    /// # Errors
    /// [`TooFew`], at once if there cannot be as many.
    pub async fn copied(&self, key: &EntryKey, copies: usize) -> Result<(), TooFew> {
        if copies <= 1 {
            return Ok(());
        }
        let (done, verdict) = oneshot::channel();
        let have = Arc::new(AtomicUsize::new(1));
        let wait = Wait { key: *key, wanted: copies, have: Arc::clone(&have), done };
        let waited = timeout(COPIED, async {
            self.0.sender.send(Happened::Wait(wait)).await.ok()?;
            verdict.await.ok()
        });
        match waited.await {
            Ok(Some(verdict)) => verdict,
            // Time is over, or the node ends.
            Ok(None) | Err(_) => {
                let (have, possible) = (have.load(Ordering::Relaxed), self.0.roster().copies());
                Err(TooFew { wanted: copies, have, possible })
            }
        }
    }

    /// Waits, for some seconds at most, while copies are made and cannot follow what is written here. Returns
    /// at once otherwise.
    pub async fn room(&self) {
        if !*self.0.is_crowded.borrow() {
            return;
        }
        let mut is_crowded = self.0.is_crowded.subscribe();
        let calm = async {
            while self.0.is_moving() {
                if let Ok(Ok(_)) = timeout(STANDSTILL, is_crowded.wait_for(|is_crowded| !is_crowded)).await {
                    return;
                }
            }
        };
        // Whatever is left is for the next to wait for.
        let _ = timeout(CROWDED, calm).await;
    }
}

// === impl TooFew ===

impl TooFew {
    fn words(&self) -> String {
        let Self { wanted, have, possible } = self;
        if possible < wanted {
            return format!(
                "{wanted} copies are wanted before a write is acknowledged, and the farm can keep {possible}; \
                 start more machines that keep copies, or lower copies-before-ack"
            );
        }
        format!(
            "{have} of the {wanted} copies that are wanted before a write is acknowledged are there; \
             try again, or lower copies-before-ack"
        )
    }
}

// === impl Shared ===

impl Shared {
    fn roster(&self) -> Arc<Roster> {
        Arc::clone(&self.roster.borrow())
    }

    fn set_roster(&self, roster: Roster) {
        self.roster.send_if_modified(|known| {
            let is_new = **known != roster;
            if is_new {
                *known = Arc::new(roster);
            }
            is_new
        });
    }

    fn links(&self) -> RwLockWriteGuard<'_, HashMap<MachineId, Reach>> {
        self.links.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes how far copies are.
    fn show(&self, shown: Shown) {
        *lock(&self.shown) = shown;
        // What only machines lack that are away is no reason to wait.
        let is_crowded = shown.figures.due.bytes > self.config.lag_limit_bytes;
        self.is_crowded.send_if_modified(|was| std::mem::replace(was, is_crowded) != is_crowded);
    }

    /// Whether a copy was made not long ago.
    fn is_moving(&self) -> bool {
        lock(&self.pace).idle(Instant::now()).is_some_and(|idle| idle < STANDSTILL)
    }

    fn count_sent(&self, now: Instant, copies: u64, bytes: u64) {
        if copies > 0 {
            self.sent_copies.fetch_add(copies, Ordering::Relaxed);
            self.sent_bytes.fetch_add(bytes, Ordering::Relaxed);
            lock(&self.pace).add(now, bytes);
        }
    }

    fn count_healed(&self, bytes: u64) {
        self.healed.fetch_add(1, Ordering::Relaxed);
        self.healed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Others for Shared {
    fn follow(&self) -> watch::Receiver<Arc<Roster>> {
        self.roster.subscribe()
    }

    fn other(&self, id: MachineId) -> Option<Other> {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        links.get(&id).map(|reach| reach.other.clone())
    }

    fn may_have_more(&self, id: MachineId) -> bool {
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        let Some(reach) = links.get(&id) else { return false };
        reach.has_more || lock(&self.shown).figures.compared < 1.0
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
