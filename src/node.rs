//! The composition root: what runs in this process, and the only place that nests decorators.
//!
//! [`Node::start`] reads as the picture in ARCHITECTURE.md, from the doors inwards. A door that cannot
//! be opened is found before anything is touched; the store is opened (and its lock taken) before
//! anything else of the data directory is.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tokio::task::{JoinError, JoinHandle};
use tonic::service::Routes;

use crate::asset::Assets;
use crate::cas::disk::{DiskCas, OpenError, RebuildProgress};
use crate::config::Config;
use crate::history::History;
use crate::peer::trust::TrustError;
use crate::peer::{Peers, Trust};
use crate::rpc::asset::AssetService;
use crate::rpc::control::{ControlService, SocketFile, bind_private};
use crate::rpc::server::{Limits, Listener};
use crate::rpc::{Instances, health, reflection, server};
use crate::tasks::Tasks;
use crate::worker::RunError;
use crate::worker::sandbox::SpawnerPool;

mod boot;
mod claims;
mod engine;
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
mod work;

use engine::Engine;
use part::{FarmDoor, Inside, Part};
use safety::Safety;
use services::Apis;
use status::StatusSource;
use whole::Whole;
use work::Work;

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
        let (config, tasks) = (Arc::new(config), Tasks::default());
        let open_files = open_files::raise();
        let doors = Doors::open(&config).await?;
        let store = open_store(&config, progress, &tasks).await?;
        let history = open_history(&config, &tasks);
        let trust = open_trust(&config, &tasks).await?;
        let whole = Whole::new(&config, trust.me(), store, &tasks);
        whole.mend_pins(&tasks);

        let engine = Engine::start(&config, &whole, open_files.inherited, &tasks).await?;
        let history = history.await.map_err(|panic| lost(&config, &panic))?;
        let work = Work::start(&config, &whole, history, &tasks);
        let instances = Instances::new(settings::instances(&config));
        let apis = Apis::new(&config, &whole, &work, &instances, &tasks);
        let assets = open_assets(&config, &whole, &tasks)?;
        let routes = asset_routes(apis.routes().add_service(health::server().await), assets, &instances);
        let routes = reflection::add_to(routes);
        let http_results = apis.action_cache(&instances);
        engine.worker.offer(Arc::new(apis));

        let peer_config = settings::peers(&config, work.activity.epoch(), doors.endpoints.peers);
        let peers = Peers::start(peer_config, trust.clone(), &tasks).await;
        let safety = Safety::start(&config, &whole, &work.scheduler, &peers, &tasks);
        let inside = Inside {
            config: &config,
            endpoints: &doors.endpoints,
            whole: &whole,
            safety: &safety,
            engine: &engine,
            work: &work,
            instances: &instances,
            peers: &peers,
            trust: &trust,
            open_files: open_files.now,
            tasks: &tasks,
        };
        let Part { door, share } = Part::start(&inside)?;
        let source = Arc::new(StatusSource::new(&inside, share));
        let plain = inside.plain_http(http_results, source.clone());
        let control = inside.control(source);
        let (services, limits) =
            (server::Services::new(routes, plain), settings::limits(&config, open_files.now));
        let endpoints = doors.endpoints.clone();
        let sockets = doors.serve(services, limits, door, control, &tasks);
        let (store, history) = (whole.store, work.history);
        Ok(Self { endpoints, tasks, spawners: engine.spawners, store, history, _sockets: sockets })
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
