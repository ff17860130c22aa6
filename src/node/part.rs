//! How this machine takes part in its farm: what it lends and borrows, and who is told of it.

use std::sync::Arc;

use tokio::sync::watch;
use tonic::service::Routes;

use super::claims::Ledger;
use super::engine::Engine;
use super::farm::{self, Farm};
use super::manners::Welcome;
use super::safety::Safety;
use super::status::Tenancies;
use super::told::Teller;
use super::whole::Whole;
use super::work::Work;
use super::{Endpoints, NodeError, settings, toolchain};
use crate::activity::Activity;
use crate::cas::chunks::Chunks;
use crate::cas::fetch::Fetcher;
use crate::config::Config;
use crate::execution::Sequence;
use crate::execution::lending::{HomeWorker, Lender};
use crate::peer::discovery::Invitations;
use crate::peer::trust::join::{Introduce, Joining, Notices, Unannounced};
use crate::peer::{Peers, Trust};
use crate::platform::toolchain::OwnToolchain;
use crate::rpc::Instances;
use crate::rpc::action_cache::ActionCacheService;
use crate::rpc::byte_stream::ByteStreamService;
use crate::rpc::cas::CasService;
use crate::rpc::control::{ControlParts, ControlService, ControlSource, FarmParts};
use crate::rpc::copies::CopiesService;
use crate::rpc::http::{HttpParts, HttpService};
use crate::rpc::peer::PeerService;
use crate::rpc::server::Limits;
use crate::tasks::Tasks;
use crate::telemetry;

/// What is behind the door for other machines.
pub(super) struct FarmDoor {
    pub(super) trust: Trust,
    pub(super) routes: Routes,
    pub(super) limits: Limits,
}

/// What it is made of.
pub(super) struct Inside<'a> {
    pub(super) config: &'a Arc<Config>,
    pub(super) endpoints: &'a Endpoints,
    pub(super) whole: &'a Whole,
    pub(super) safety: &'a Safety,
    pub(super) engine: &'a Engine,
    pub(super) work: &'a Work,
    pub(super) instances: &'a Instances,
    pub(super) peers: &'a Peers,
    pub(super) trust: &'a Trust,
    /// Files and sockets that may be open at once.
    pub(super) open_files: Option<u64>,
    pub(super) tasks: &'a Tasks,
}

/// The part this machine takes.
pub(super) struct Part {
    pub(super) door: FarmDoor,
    pub(super) share: Share,
}

/// What is known of that part.
pub(super) struct Share {
    /// What others may have.
    pub(super) welcome: Welcome,
    /// What the toolchain is recognised by.
    pub(super) toolchain: watch::Receiver<Arc<str>>,
    pub(super) lender: Lender,
    /// Who uses this machine.
    pub(super) tenancies: Tenancies,
}

// === impl Part ===

impl Part {
    /// Takes part from now on: by tasks, until those end. The scheduler has the worker of this machine after
    /// that.
    pub(super) fn start(inside: &Inside<'_>) -> Result<Self, NodeError> {
        let Inside { config, whole, peers, tasks, .. } = *inside;
        let (scheduler, worker) = (&inside.work.scheduler, &inside.engine.worker);
        let toolchain = toolchain::follow(&config.data_dir, tasks);
        let farm = inside.farm(toolchain.clone())?;
        let lender = farm.lender.clone();
        scheduler.add_worker(Arc::new(HomeWorker::new(worker.clone(), lender.clone())));
        let guests = Arc::new(farm.guests(worker.clone()));
        let service = PeerService::new(peers.clone()).with(guests, Arc::new(farm.clone()));
        let welcome =
            Welcome::start(config.guests.clone(), worker.clone(), lender.clone(), peers.clone(), tasks);
        let tenancies = farm.tenancies();
        let teller = Teller {
            name: config.name.clone(),
            facts: inside.engine.facts.clone(),
            scheduler: scheduler.clone(),
            store: whole.store.clone(),
            directory: config.data_dir.clone(),
            peers: peers.clone(),
            welcome: welcome.clone(),
            toolchain: toolchain.clone(),
            lender: lender.clone(),
            tenancies: Arc::clone(&tenancies),
            safety: inside.safety.clone(),
        };
        tasks.spawn("teller", teller.run(tasks.token().clone()));
        tasks.spawn("farm", farm.run(tasks.token().clone()));
        let door = inside.door(service);
        Ok(Self { door, share: Share { welcome, toolchain, lender, tenancies } })
    }
}

// === impl Inside ===

impl Inside<'_> {
    /// What is lent, and what it takes to borrow.
    fn farm(&self, fingerprint: watch::Receiver<Arc<str>>) -> Result<Farm, NodeError> {
        let name: Arc<str> = self.config.name.as_str().into();
        let logs = farm::logs(&self.config.data_dir);
        let toolchain = OwnToolchain { rule: self.config.guests.toolchain_rule, fingerprint };
        let store = &self.whole.store;
        let home = Farm::home(Arc::new(store.clone()), toolchain, &logs)
            .map_err(|source| NodeError::Io { path: logs, source })?;
        Ok(Farm {
            lender: Farm::lender(&name, settings::lending(self.config), &self.work.scheduler, self.peers),
            luggage: Fetcher::new(store.of_others()),
            scheduler: self.work.scheduler.clone(),
            peers: self.peers.clone(),
            ledger: Ledger::default(),
            me: self.trust.me(),
            tasks: self.tasks.clone(),
            name,
            home,
        })
    }

    /// The door for other machines: links, and the blobs that are here. What they bring is theirs to see to;
    /// what they move counts for the builds of theirs, and not for those here.
    fn door(&self, service: PeerService) -> FarmDoor {
        let cas = self.whole.store.of_givers();
        let theirs = Arc::new(Activity::new(0, &self.config.name, Sequence::default()));
        let instances = Instances::default();
        let byte_stream = ByteStreamService::new(
            Arc::clone(&cas),
            instances.clone(),
            settings::byte_stream(self.config),
            Arc::clone(&theirs),
            self.tasks,
        );
        let (size, parts) = (self.config.chunk_size, self.whole.store.clone());
        let chunks = Chunks::new(size, Arc::clone(&cas), Arc::clone(&cas), Arc::new(parts));
        let replication = &self.whole.replication;
        let others = replication.others();
        let copies =
            CopiesService::new(Arc::new(self.whole.store.clone()), Arc::new(move || others.roster()))
                .asking(replication.news());
        let routes = Routes::new(service.into_server())
            .add_service(copies.into_server())
            .add_service(CasService::new(cas, chunks, instances, theirs))
            .add_service(byte_stream);
        let limits = settings::peer_limits(self.config, self.open_files);
        FarmDoor { trust: self.trust.clone(), routes, limits }
    }

    /// The door for plain HTTP, where `results` are read and written.
    pub(super) fn plain_http(
        &self,
        results: ActionCacheService,
        source: Arc<dyn ControlSource>,
    ) -> HttpService {
        HttpService::new(HttpParts {
            cas: Arc::clone(&self.whole.cas),
            results,
            instances: self.instances.clone(),
            activity: Arc::clone(&self.work.activity),
            source,
            other_results: self.config.http_results,
        })
    }

    /// The door for people.
    pub(super) fn control(&self, source: Arc<dyn ControlSource>) -> ControlService {
        let work = self.work;
        ControlService::new(ControlParts {
            source,
            activity: Arc::clone(&work.activity),
            history: work.history.clone(),
            explainer: work.explainer.clone(),
            cas: Arc::clone(&self.whole.cas),
            results: self.whole.results.clone(),
            pins: self.whole.results.clone(),
            scheduler: work.scheduler.clone(),
            instances: self.instances.clone(),
            config: Arc::clone(self.config),
            log: telemetry::recent(),
            farm: self.ways_in(),
        })
    }

    /// The farm as people see it, and the ways in. Where nothing is announced, people carry addresses.
    fn ways_in(&self) -> FarmParts {
        let (config, peers, tasks) = (self.config, self.peers.clone(), self.tasks.clone());
        let notices: Arc<dyn Notices> = if config.farm.discovery {
            Arc::new(Invitations::new(config.farm.interfaces.clone()))
        } else {
            Arc::new(Unannounced)
        };
        let introduce: Introduce = {
            let peers = peers.clone();
            Arc::new(move |met| peers.meet(met))
        };
        let settings = settings::joining(config, self.endpoints.peers);
        let joining = Joining::new(self.trust.clone(), settings, notices, introduce, tasks.clone());
        FarmParts { trust: self.trust.clone(), joining, fellows: Arc::new(peers), tasks }
    }
}
