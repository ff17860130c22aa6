//! The farm, as this node takes part in it: it has actions run by other machines, and runs those of others.
//!
//! One task follows everything that concerns both: links that come and go, what others would run here, what
//! this machine would have run elsewhere, and what a person told it. Each machine that is linked has a
//! task of its own, for as long as the link lasts, that keeps the scheduler's view of it true.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::claims::{Asker, Asking, Ledger};
use super::status::Tenancies;
use super::wire;
use crate::action_cache::ActionKey;
use crate::cas::ContentAddressableStorage;
use crate::cas::fetch::{BlobSource, Fetcher};
use crate::cas::remote::RemoteBlobs;
use crate::execution::Scheduler;
use crate::execution::action::PreparedAction;
use crate::execution::grants::{Demand, Event, Grant, Limits, Owner};
use crate::execution::lending::{Lender, Outlet};
use crate::execution::placement::{Holdings, Site};
use crate::execution::scheduler::{DemandByMachine, Followed};
use crate::peer::{Calls, DemandEvent, MachineId, Peer, PeerEvent, PeerEvents, Peers, link};
use crate::platform::MachineFacts;
use crate::platform::toolchain::OwnToolchain;
use crate::rpc::peer::Actions;
use crate::tasks::Tasks;
use crate::worker::guests::{Guests, Host, Sources};
use crate::worker::remote::{Home, RemoteWorker};
use crate::worker::traces::Traces;

/// How often the lender is told that time passes, once others had anything to do with it.
const TICK: Duration = Duration::from_millis(250);

/// What the node takes part with.
#[derive(Clone)]
pub(super) struct Farm {
    pub(super) name: Arc<str>,
    pub(super) scheduler: Scheduler,
    pub(super) peers: Peers,
    pub(super) lender: Lender,
    pub(super) home: Home,
    /// Brings inputs of guests here.
    pub(super) luggage: Fetcher,
    pub(super) ledger: Ledger,
    pub(super) me: MachineId,
    pub(super) tasks: Tasks,
}

/// A machine that is linked, and who looks after it.
struct Linked {
    peer: Peer,
    /// Ends its task, which takes it out of the scheduler for the reason that is set.
    ending: watch::Sender<Option<String>>,
    task: JoinHandle<()>,
    told: Demand,
}

/// Where grants go.
struct Post {
    name: Arc<str>,
    scheduler: Scheduler,
    peers: Peers,
}

struct Driver {
    farm: Farm,
    asker: Asker,
    linked: BTreeMap<MachineId, Linked>,
    /// What others would run here, those too that this machine has no link to.
    wanted: BTreeMap<MachineId, Demand>,
    /// What this machine wants of each; `None` until there is anybody else.
    demand: Option<watch::Receiver<DemandByMachine>>,
    /// What its own worker was told to be wanted.
    told: Demand,
}

impl Holdings for Traces {
    fn lacking(&self, action: &PreparedAction, machine: &str) -> u64 {
        Self::lacking(self, machine, &action.input_root)
    }

    fn speed(&self, machine: &str) -> Option<u64> {
        Self::speed(self, machine)
    }
}

// === impl Farm ===

impl Farm {
    /// What this machine lends, to itself and to others.
    pub(super) fn lender(name: &Arc<str>, limits: Limits, scheduler: &Scheduler, peers: &Peers) -> Lender {
        let (name, scheduler, peers) = (name.clone(), scheduler.clone(), peers.clone());
        Lender::new(limits, Post { name, scheduler, peers })
    }

    /// What is needed of this machine to have actions run elsewhere; their output comes to a directory
    /// that is made here.
    ///
    /// # Errors
    /// When the directory cannot be made.
    pub(super) fn home(
        cas: Arc<dyn ContentAddressableStorage>,
        toolchain: OwnToolchain,
        logs: &Path,
    ) -> io::Result<Home> {
        // What an earlier start left there.
        match std::fs::remove_dir_all(logs) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => private_directory(logs)?,
        }
        let fetcher = Fetcher::new(Arc::clone(&cas));
        Ok(Home { cas, fetcher, logs: logs.to_owned(), traces: Traces::default(), toolchain })
    }

    /// Who uses the slots of this machine, by names.
    pub(super) fn tenancies(&self) -> Tenancies {
        let (lender, peers) = (self.lender.clone(), self.peers.clone());
        Arc::new(move || {
            let known = peers.list();
            let name = |owner| match owner {
                Owner::Own => String::new(),
                Owner::Peer(id) => {
                    let peer = known.iter().find(|peer| peer.id == Some(id));
                    peer.map_or_else(|| id.to_string(), |peer| peer.name.to_string())
                }
            };
            lender.tenancies().iter().map(|tenancy| wire::tenancy(name(tenancy.owner), tenancy)).collect()
        })
    }

    /// Takes guests in, that `host` runs.
    pub(super) fn guests(&self, host: Arc<dyn Host>) -> Guests {
        let (fetcher, lender) = (self.luggage.clone(), Arc::new(self.lender.clone()));
        Guests::new(host, fetcher, lender, Arc::new(self.clone()), self.tasks.clone())
    }

    /// Takes part, until `stop` fires.
    pub(super) async fn run(self, stop: CancellationToken) {
        let (links, calls) = (self.peers.events(), self.peers.calls());
        self.scheduler.set_holdings(Arc::new(self.home.traces.clone()));
        let asker = Asker::start(Asking {
            me: self.me,
            scheduler: self.scheduler.clone(),
            ledger: self.ledger.clone(),
            peers: self.peers.clone(),
            tasks: self.tasks.clone(),
        });
        self.scheduler.set_claimer(Arc::new(asker.clone()));
        let driver = Driver {
            farm: self,
            asker,
            linked: BTreeMap::new(),
            wanted: BTreeMap::new(),
            demand: None,
            told: Demand::default(),
        };
        stop.run_until_cancelled_owned(driver.run(links, calls)).await;
    }

    /// That machine, as a worker of this one.
    fn worker(&self, peer: &Peer) -> Arc<RemoteWorker> {
        let channel = link::boxed(peer.channel());
        // What it is comes next.
        let facts = MachineFacts::default();
        Arc::new(RemoteWorker::new(
            peer.name.clone(),
            peer.id,
            channel,
            blobs(peer),
            facts,
            self.home.clone(),
        ))
    }
}

#[async_trait]
impl Actions for Farm {
    fn claim(&self, claimant: MachineId, key: ActionKey) -> Option<MachineId> {
        self.ledger.claim(claimant, key)
    }

    async fn follow(&self, key: ActionKey) -> Option<Followed> {
        self.scheduler.follow(key).await
    }
}

impl Sources for Farm {
    fn source(&self, id: MachineId) -> Option<Arc<dyn BlobSource>> {
        self.peers.linked(id).as_ref().map(blobs)
    }
}

/// Where output of actions that run elsewhere comes.
pub(super) fn logs(data_dir: &Path) -> PathBuf {
    data_dir.join("scratch").join("elsewhere")
}

/// Its blobs.
fn blobs(peer: &Peer) -> Arc<dyn BlobSource> {
    Arc::new(RemoteBlobs::new(&*peer.name, link::boxed(peer.channel())))
}

fn private_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

// === impl Driver ===

impl Driver {
    async fn run(mut self, mut links: PeerEvents, mut calls: Calls) {
        let mut duties = self.farm.scheduler.duties();
        duties.mark_changed();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                event = links.next() => self.link(event).await,
                event = calls.next() => self.called(event),
                () = changed(&mut self.demand) => self.tell_demand(),
                Ok(()) = duties.changed() => {
                    let duty = duties.borrow_and_update().get(&self.farm.name).copied();
                    self.farm.lender.change_limits(|limits| limits.duty = duty.unwrap_or_default());
                }
                _ = ticks.tick(), if self.demand.is_some() => self.farm.lender.apply(Event::Tick),
            }
        }
    }

    async fn link(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Linked(peer) => self.linked(peer),
            PeerEvent::Lost { id, reason, .. } => {
                let Some(linked) = self.linked.remove(&id) else { return };
                self.farm.ledger.forget(id);
                self.note_wanted(id);
                linked.ending.send_replace(Some(reason));
                // Soon: it waits for nothing else. The next link to that machine comes after.
                let _ended = linked.task.await;
            }
        }
    }

    fn linked(&mut self, peer: Peer) {
        tracing::info!(machine = %peer.name, id = %peer.id, "linked with a machine of the farm");
        let (ending, ended) = watch::channel(None);
        let keeper = keep(self.farm.clone(), peer.clone(), ended);
        let (id, task) = (peer.id, self.farm.tasks.spawn("machine", keeper));
        self.linked.insert(id, Linked { peer, ending, task, told: Demand::default() });
        self.note_wanted(id);
        self.watch_demand();
        self.tell_demand();
    }

    fn called(&mut self, event: DemandEvent) {
        match event {
            DemandEvent::Demand { id, demand, .. } => {
                self.watch_demand();
                self.wanted.insert(id, Demand::from_wire(demand.as_ref().clone()));
                self.note_wanted(id);
                self.note_work();
            }
            DemandEvent::Gone { id, .. } => {
                self.wanted.remove(&id);
                self.note_work();
                self.farm.lender.apply(Event::Gone(id));
            }
        }
    }

    /// Others that have work of their own may have the same as this machine.
    fn note_work(&self) {
        let is_any = self.wanted.values().any(|demand| !demand.wants.is_empty());
        self.asker.is_worth_it.store(is_any, Ordering::Relaxed);
    }

    /// The lender hears of what a machine wants only while this one has a link to it: otherwise inputs
    /// could not be fetched from there, and nothing could be run for it.
    fn note_wanted(&self, id: MachineId) {
        let Some(wanted) = self.wanted.get(&id) else { return };
        let is_linked = self.linked.contains_key(&id);
        let demand = if is_linked { wanted.clone() } else { Demand::default() };
        self.farm.lender.apply(Event::Demand(Owner::Peer(id), demand));
    }

    /// From the first moment on at which anybody else is there.
    fn watch_demand(&mut self) {
        self.demand.get_or_insert_with(|| self.farm.scheduler.demand());
    }

    fn tell_demand(&mut self) {
        let Some(demand) = &mut self.demand else { return };
        let demand = demand.borrow_and_update();
        if let Some(own) = demand.get(&self.farm.name).filter(|own| **own != self.told) {
            self.told = own.clone();
            self.farm.lender.apply(Event::Demand(Owner::Own, own.clone()));
        }
        for linked in self.linked.values_mut() {
            if let Some(wanted) = demand.get(&linked.peer.name).filter(|wanted| **wanted != linked.told) {
                linked.told = wanted.clone();
                linked.peer.demand(wanted.to_wire());
            }
        }
    }
}

/// Returns when there is something new; never while there is nothing to follow.
async fn changed<T>(followed: &mut Option<watch::Receiver<T>>) {
    let news = match followed {
        Some(followed) => followed.changed().await.is_ok(),
        None => false,
    };
    if !news {
        std::future::pending().await
    }
}

/// Has the scheduler know a machine as it is, until its link ends.
async fn keep(farm: Farm, peer: Peer, mut ended: watch::Receiver<Option<String>>) {
    let (mut state, mut grants) = (peer.state(), peer.grants());
    let mut known: Option<(Arc<RemoteWorker>, MachineFacts)> = None;
    let mut toolchain = farm.home.toolchain.fingerprint.clone();
    state.mark_changed();
    loop {
        tokio::select! {
            biased;
            _ = ended.changed() => break,
            Ok(()) = toolchain.changed() => {
                // What is known of the machine is to be compared anew.
                known.iter_mut().for_each(|(_, facts)| *facts = MachineFacts::default());
                state.mark_changed();
            }
            Ok(()) = state.changed() => {
                let told = state.borrow_and_update().clone();
                let Some(facts) = told.as_deref().map(wire::facts) else { continue };
                if known.as_ref().is_some_and(|(_, known)| *known == facts) {
                    continue;
                }
                let worker = known.take().map(|(worker, _)| worker);
                let worker = worker.unwrap_or_else(|| farm.worker(&peer));
                worker.learn(facts.clone());
                farm.scheduler.add_worker(worker.clone());
                let has_other_toolchain = farm.home.toolchain.differs(&facts.toolchain);
                farm.scheduler.site(&peer.name, Site { has_other_toolchain, ..site(&peer) });
                known = Some((worker, facts));
                grants.mark_changed();
            }
            Ok(()) = grants.changed(), if known.is_some() => {
                let grant = Grant::from_wire(grants.borrow_and_update().clone());
                if let Some((worker, _)) = &known {
                    worker.granted(grant.slots.count());
                }
                farm.scheduler.grant(&peer.name, grant);
            }
        }
    }
    farm.home.traces.forget(&peer.name);
    if known.is_some() {
        let reason = ended.borrow().clone();
        farm.scheduler.remove_worker(&peer.name, &reason.unwrap_or_default());
    }
}

/// Where a machine is.
fn site(peer: &Peer) -> Site {
    let latency = peer.round_trip().unwrap_or_default();
    Site { is_remote: true, latency, ..Site::default() }
}

// === impl Post ===

impl Outlet for Post {
    fn grant(&self, to: Owner, grant: Grant) {
        match to {
            Owner::Own => self.scheduler.grant(&self.name, grant),
            Owner::Peer(id) => self.peers.grant(id, grant.to_wire()),
        }
    }
}
