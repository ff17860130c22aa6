//! The composition root: what runs in this process, and the only place that nests decorators.
//!
//! [`Node::start`] reads as the picture in ARCHITECTURE.md, from the doors inwards. A door that cannot
//! be opened is found before anything is touched; the store is opened (and its lock taken) before
//! anything else of the data directory is.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::net::{TcpListener, UnixListener};
use tokio::task::{JoinError, JoinHandle};
use tonic::service::Routes;

use crate::action_cache::ActionCache;
use crate::activity::Activity;
use crate::asset::Assets;
use crate::cas::disk::{DiskCas, OpenError, RebuildProgress};
use crate::config::{Config, SandboxMode};
use crate::execution::{Scheduler, Sequence};
use crate::history::{Explainer, History};
use crate::peer::trust::TrustError;
use crate::peer::{Peers, Trust};
use crate::platform::MachineFacts;
use crate::rpc::asset::AssetService;
use crate::rpc::control::{ControlParts, ControlService, SocketFile, bind_private};
use crate::rpc::http::{HttpParts, HttpService};
use crate::rpc::server::{Limits, Listener};
use crate::rpc::{Instances, health, server};
use crate::tasks::Tasks;
use crate::telemetry;
use crate::worker::container::Containers;
use crate::worker::local::LocalWorker;
use crate::worker::sandbox::{self, ActionGroup, Mode, SandboxSupport, SpawnerConfig, SpawnerPool};
use crate::worker::{RunError, Runner};

mod boot;
mod claims;
mod farm;
mod keeping;
mod manners;
mod meter;
mod open_files;
mod part;
mod safety;
mod services;
mod settings;
mod status;
mod told;
mod toolchain;
mod whole;
mod wire;

use meter::Meter;
use part::{FarmDoor, Inside, Part};
use safety::Safety;
use services::Apis;
use status::StatusSource;
use whole::Whole;

/// Shorter leases break builds: Bazel relies on three hours by default.
const USUAL_LEASE: Duration = Duration::from_secs(3 * 3600);

/// Told how far the start is, where it takes long.
pub trait StartProgress: Send + Sync + 'static {
    /// The index is being rebuilt from the blobs: `done` of `total` bytes are scanned.
    fn rebuilding(&self, done: u64, total: u64);
}

/// The doors of a running node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// REAPI over TCP.
    pub reapi: SocketAddr,
    /// REAPI on a Unix socket.
    pub reapi_socket: PathBuf,
    /// Other machines of the farm; `None` while that door is not open.
    pub peers: Option<SocketAddr>,
    /// The control API.
    pub control: PathBuf,
}

/// Why a node does not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A door cannot be opened.
    #[error("cannot listen on {address} ({door}): {source}")]
    Listen {
        /// `reapi`, `peers` or `control`.
        door: &'static str,
        /// Address or path.
        address: String,
        /// The system's words.
        source: io::Error,
    },
    /// The store does not open.
    #[error("cannot open the data directory: {0}")]
    Store(#[from] OpenError),
    /// The configuration insists on a sandbox that does not work here.
    #[error("the sandbox does not work here: {reason}")]
    Sandbox {
        /// The step that failed.
        reason: String,
        /// What may help, most likely first.
        remedies: Vec<String>,
    },
    /// The processes that start actions do not.
    #[error("cannot start the spawner processes: {0}")]
    Spawners(#[from] RunError),
    /// The secrets of this machine and its farm are no secrets, or damaged.
    #[error("cannot be a member of a farm: {0}")]
    Trust(#[from] TrustError),
    /// The operating system failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

/// A running node.
pub struct Node {
    endpoints: Endpoints,
    tasks: Tasks,
    spawners: Arc<SpawnerPool>,
    store: DiskCas,
    history: History,
    /// Removed with the node.
    _sockets: [SocketFile; 2],
}

/// The doors, open but not served yet.
struct Doors {
    reapi: TcpListener,
    peers: TcpListener,
    reapi_socket: UnixListener,
    control: UnixListener,
    sockets: [SocketFile; 2],
    endpoints: Endpoints,
}

// === impl Node ===

impl Node {
    /// Starts a node. It serves when this returns.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running then.
    pub async fn start(config: Config, progress: Arc<dyn StartProgress>) -> Result<Self, NodeError> {
        let tasks = Tasks::default();
        let open_files = open_files::raise();
        let doors = Doors::open(&config).await?;
        let store = open_store(&config, progress, &tasks).await?;
        let history = open_history(&config, &tasks);
        let trust = open_trust(&config, &tasks).await?;
        let whole = Whole::new(&config, trust.me(), store.clone(), &tasks);
        whole.mend_pins(&tasks);
        let (cas, results): (_, Arc<dyn ActionCache>) = (Arc::clone(&whole.cas), whole.results.clone());

        let spawners = Arc::new(start_spawners(&config, open_files.inherited).await?);
        let containers = settings::containers(&config);
        let facts = settings::facts(&config, spawners.is_sandboxed(), containers.as_ref());
        let worker = Arc::new(open_worker(
            &config,
            (facts.clone(), containers),
            &whole,
            Arc::clone(&spawners),
            &tasks,
        )?);
        let history = history.await.map_err(|panic| lost(&config, &panic))?;
        let sequence = Sequence::after(history.last_sequence());
        let activity = start_activity(&config, &store, sequence.clone(), &tasks);
        let explainer = start_explainer(&history, &whole, &activity, &tasks);
        let scheduler = Scheduler::start(
            Arc::clone(&cas),
            Arc::clone(&results),
            settings::execution(&config),
            sequence,
            Arc::new((Arc::clone(&activity), history.clone())),
            &tasks,
        );
        let instances = Instances::new(settings::instances(&config));
        let apis = Apis::new(&config, &whole, &instances, &scheduler, &activity, &history, &tasks);
        let http_results = apis.action_cache(&instances);
        let routes = apis.routes().add_service(health::server().await);
        let assets = open_assets(&config, &whole, &tasks)?;
        let routes = asset_routes(routes, assets, &instances);
        worker.offer(Arc::new(apis));
        let limits = settings::limits(&config, open_files.now);
        let peer_config = settings::peers(&config, activity.epoch(), doors.endpoints.peers);
        let peers = Peers::start(peer_config, trust.clone(), &tasks).await;
        let safety = Safety::start(&config, &whole, &scheduler, &peers, &tasks);
        let part = Part::start(&Inside {
            config: &config,
            whole: &whole,
            safety: &safety,
            scheduler: &scheduler,
            peers: &peers,
            trust: &trust,
            worker: &worker,
            facts,
            open_files: open_files.now,
            tasks: &tasks,
        })?;
        let settled = Arc::new(config.clone());
        let source = StatusSource {
            endpoints: doors.endpoints.clone(),
            started: SystemTime::now(),
            warnings: warnings(&config, spawners.is_sandboxed()),
            sandboxed: spawners.is_sandboxed(),
            meter: Meter::start(store.clone(), config.data_dir.clone(), &tasks),
            activity: Arc::clone(&activity),
            config,
            scheduler: scheduler.clone(),
            peers: peers.clone(),
            trust: trust.clone(),
            welcome: part.welcome,
            toolchain: part.toolchain,
            lender: part.lender,
            tenancies: part.tenancies,
            worker: Arc::clone(&worker),
            safety,
        };
        let join_settings = settings::joining(&source.config, doors.endpoints.peers);
        let parts = part::ways_in(&source.config, join_settings, trust, peers, &tasks);
        let source = Arc::new(source);
        let plain = HttpService::new(HttpParts {
            cas: Arc::clone(&cas),
            results: http_results,
            instances: instances.clone(),
            activity: Arc::clone(&activity),
            source: source.clone(),
            other_results: settled.http_results,
        });
        let control = ControlService::new(ControlParts {
            source,
            activity,
            history: history.clone(),
            explainer,
            cas,
            results,
            pins: whole.results,
            scheduler,
            instances,
            config: settled,
            log: telemetry::recent(),
            farm: parts,
        });
        let endpoints = doors.endpoints.clone();
        let sockets = doors.serve(server::Services::new(routes, plain), limits, part.door, control, &tasks);
        Ok(Self { endpoints, tasks, spawners, store, history, _sockets: sockets })
    }

    /// Its doors.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Returns when the node has ended by itself.
    pub async fn stopped(&self) {
        self.tasks.token().cancelled().await;
    }

    /// Ends it: no new calls, actions killed, stores closed.
    pub async fn stop(self) {
        self.tasks.stop().await;
        self.spawners.stop().await;
        let (store, history) = (self.store.clone(), self.history.clone());
        let close = move || {
            history.close();
            store.close();
        };
        // The last epoch is closed on a thread that may wait for the disk.
        if Tasks::default().spawn_blocking(close).await.is_err() {
            tracing::error!("closing the store panicked; it is recovered at the next start");
        }
    }
}

// === impl Doors ===

impl Doors {
    async fn open(config: &Config) -> Result<Self, NodeError> {
        let reapi = TcpListener::bind(config.listen)
            .await
            .map_err(|source| listen_error("reapi", config.listen, source))?;
        let socket = |door, name: &str| {
            let path = config.runtime_dir.join(name);
            let (listener, file) =
                bind_private(&path).map_err(|source| listen_error(door, path.display(), source))?;
            Ok::<_, NodeError>((path, listener, file))
        };
        let peers = TcpListener::bind(config.farm.listen)
            .await
            .map_err(|source| listen_error("peers", config.farm.listen, source))?;
        let (control_path, control, control_file) = socket("control", "control.sock")?;
        let (reapi_path, reapi_socket, reapi_file) = socket("reapi", "reapi.sock")?;
        let endpoints = Endpoints {
            reapi: reapi.local_addr().unwrap_or(config.listen),
            reapi_socket: reapi_path,
            peers: Some(peers.local_addr().unwrap_or(config.farm.listen)),
            control: control_path,
        };
        Ok(Self { reapi, peers, reapi_socket, control, sockets: [control_file, reapi_file], endpoints })
    }

    /// Lets callers in. A control server that fails ends the node. The sockets stay while their files do.
    fn serve(
        self,
        services: server::Services,
        limits: Limits,
        farm: FarmDoor,
        control: ControlService,
        tasks: &Tasks,
    ) -> [SocketFile; 2] {
        let listeners = vec![self.reapi.into(), self.reapi_socket.into()];
        let stop = tasks.token().clone();
        tasks.spawn("reapi", async move {
            server::serve(listeners, services, limits, stop).await;
        });
        let (listener, stop) = (Listener::Members(self.peers, farm.trust), tasks.token().clone());
        tasks.spawn("peer port", async move {
            server::serve(vec![listener], farm.routes, farm.limits, stop).await;
        });
        let (listener, stop) = (self.control, tasks.token().clone());
        tasks.spawn("control", async move {
            if let Err(error) = control.serve(listener, stop.clone()).await {
                tracing::error!(%error, "the control API failed");
            }
            stop.cancel();
        });
        self.sockets
    }
}

fn listen_error(door: &'static str, address: impl ToString, source: io::Error) -> NodeError {
    NodeError::Listen { door, address: address.to_string(), source }
}

async fn open_store(
    config: &Config,
    progress: Arc<dyn StartProgress>,
    tasks: &Tasks,
) -> Result<DiskCas, NodeError> {
    if config.lease < USUAL_LEASE {
        tracing::warn!(
            lease = %humantime::format_duration(config.lease),
            "the lease is short: build tools rely on blobs for three hours after they were told of them"
        );
    }
    let owned = config.clone();
    let told = move |now: RebuildProgress| progress.rebuilding(now.done, now.total);
    match tasks.spawn_blocking(move || DiskCas::open(settings::disk(&owned), &told)).await {
        Ok(opened) => Ok(opened?),
        Err(panic) => Err(lost(config, &panic)),
    }
}

/// A thread that worked on the data directory panicked.
fn lost(config: &Config, panic: &JoinError) -> NodeError {
    NodeError::Io { path: config.data_dir.clone(), source: io::Error::other(panic.to_string()) }
}

/// The key of the farm and that of this machine, which are made where there is none.
async fn open_trust(config: &Config, tasks: &Tasks) -> Result<Trust, NodeError> {
    let (directory, key_file) = (settings::farm_directory(config), config.farm.key_file.clone());
    let opened = tasks.spawn_blocking(move || Trust::open(&directory, key_file.as_deref())).await;
    let trust = opened.map_err(|panic| lost(config, &panic))??;
    tracing::info!(farm = trust.farm(), tag = %trust.tag(), machine = %trust.me(), "member of a farm");
    Ok(trust)
}

/// Opens the history while other parts start. It is in the data directory, so the store comes first,
/// which has the lock.
fn open_history(config: &Config, tasks: &Tasks) -> JoinHandle<History> {
    let (path, kept) = (config.data_dir.join("history"), config.history);
    tasks.spawn_blocking(move || History::open(&path, kept))
}

/// Who explains misses, and tells those who watch.
fn start_explainer(history: &History, whole: &Whole, activity: &Arc<Activity>, tasks: &Tasks) -> Explainer {
    let fates = whole.fates.clone();
    let explainer =
        Explainer::new(history.clone(), Arc::clone(&whole.cas), Arc::new(move |key| fates.of(key)));
    let activity = Arc::clone(activity);
    explainer.start(tasks, move |operation, miss| {
        activity.annotate(operation, |remarks| remarks.miss = miss.kind());
    });
    explainer
}

/// What people may see of this run of the node; its seconds are counted from here on.
fn start_activity(config: &Config, store: &DiskCas, sequence: Sequence, tasks: &Tasks) -> Arc<Activity> {
    let epoch = boot::count(&config.data_dir, SystemTime::now());
    let activity = Activity::new(epoch, &config.name, sequence).of_person(&config.farm.person);
    let activity = Arc::new(activity);
    let (counted, slots) = (Arc::clone(&activity), config.slots as u64);
    tasks.spawn("seconds", meter::seconds(counted, store.clone(), slots, tasks.token().clone()));
    activity
}

/// The spawners, with a sandbox where it works or is insisted on.
async fn start_spawners(config: &Config, open_files: Option<u64>) -> Result<SpawnerPool, NodeError> {
    let mode = match config.sandbox {
        SandboxMode::Off => {
            tracing::warn!("the sandbox is switched off: actions see the whole machine");
            Mode::Plain
        }
        SandboxMode::Auto | SandboxMode::Require => {
            let support = probe(&scratch(config)).await?;
            match support.failure() {
                None => Mode::Sandbox,
                Some(reason) if config.sandbox == SandboxMode::Require => {
                    return Err(NodeError::Sandbox { reason, remedies: support.remedies });
                }
                Some(reason) => {
                    let remedies = support.remedies.join("; ");
                    tracing::warn!(
                        reason,
                        remedies,
                        "no sandbox here: actions run plainly and see the whole machine"
                    );
                    Mode::Plain
                }
            }
        }
    };
    let spawners = SpawnerConfig { open_files, ..settings::spawners(config, mode, action_group(config)) };
    Ok(SpawnerPool::start(spawners).await?)
}

/// What bounds the memory of actions, where the machine lets us.
fn action_group(config: &Config) -> Option<Arc<ActionGroup>> {
    match settings::action_group(config)? {
        Ok(group) => Some(Arc::new(group)),
        Err(error) => {
            let reason = error.to_string();
            tracing::info!(reason, "the memory of actions is not bounded; see `farmhand doctor`");
            None
        }
    }
}

async fn probe(scratch: &Path) -> Result<SandboxSupport, NodeError> {
    let failed = |source| NodeError::Io { path: scratch.to_owned(), source };
    std::fs::create_dir_all(scratch).map_err(failed)?;
    sandbox::probe(Path::new("/proc/self/exe"), scratch).await.map_err(failed)
}

fn scratch(config: &Config) -> PathBuf {
    config.data_dir.join("scratch")
}

fn open_worker(
    config: &Config,
    (facts, containers): (MachineFacts, Option<Containers>),
    whole: &Whole,
    spawners: Arc<SpawnerPool>,
    tasks: &Tasks,
) -> Result<LocalWorker, NodeError> {
    if let Some(containers) = containers.clone() {
        tasks.spawn("old containers", async move {
            if let Err(error) = containers.clear().await {
                tracing::info!(%error, "containers of an earlier start may be left");
            }
        });
    }
    let budget = whole.store.usage().budget_bytes;
    let settings = settings::worker(config, scratch(config), budget, containers);
    let scratch = settings.scratch.clone();
    LocalWorker::open(settings, facts, whole.for_worker(), spawners, tasks)
        .map_err(|source| NodeError::Io { path: scratch, source })
}

/// What is downloaded comes to the disk of this machine; names are those of the farm.
fn open_assets(config: &Config, whole: &Whole, tasks: &Tasks) -> Result<Assets, NodeError> {
    let directory = config.data_dir.join("downloads");
    let opened = Assets::open(&config.assets, directory.clone(), whole.for_assets(), tasks);
    opened.map_err(|source| NodeError::Io { path: directory, source })
}

fn asset_routes(routes: Routes, assets: Assets, instances: &Instances) -> Routes {
    let (fetch, push) = AssetService::new(assets, instances.clone()).into_servers();
    routes.add_service(fetch).add_service(push)
}

/// What a person should know for as long as the node runs: text and remedy.
fn warnings(config: &Config, sandboxed: bool) -> Vec<(String, String)> {
    let mut warnings = Vec::new();
    if !sandboxed {
        let remedy = "farmhand doctor says what keeps the sandbox from working";
        warnings.push(("actions run without a sandbox".to_owned(), remedy.to_owned()));
    }
    if config.lease < USUAL_LEASE {
        let text = format!("the lease is only {}", humantime::format_duration(config.lease));
        warnings.push((text, "build tools rely on 3h; raise `lease`".to_owned()));
    }
    if !config.listen.ip().is_loopback() {
        let text = format!("anybody who reaches {} may run commands here", config.listen);
        warnings.push((text, "listen on 127.0.0.1 and unset `insecure-lan`".to_owned()));
    }
    warnings
}
