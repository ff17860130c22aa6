//! The composition root: what runs in this process.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use farmhand_proto::control::{self, GetStatusResponse, Operation};
use tokio::net::TcpListener;

use crate::action_cache::memory::MemoryActionCache;
use crate::cas::memory::MemoryCas;
use crate::config::Config;
use crate::rpc::control::{ControlService, ControlSource, PROTOCOL_VERSION, bind_private};
use crate::tasks::Tasks;

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
    /// Other machines; `None` while that door is not open.
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
}

/// A running node.
pub struct Node {
    endpoints: Endpoints,
    tasks: Tasks,
}

impl Node {
    /// Starts a node.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn start(config: Config, progress: Arc<dyn StartProgress>) -> Result<Self, NodeError> {
        progress.rebuilding(0, 0);
        let listener = TcpListener::bind(config.listen).await.map_err(|source| NodeError::Listen {
            door: "reapi",
            address: config.listen.to_string(),
            source,
        })?;
        let reapi = listener.local_addr().unwrap_or(config.listen);
        let path = config.runtime_dir.join("control.sock");
        let control = bind_private(&path).map_err(|source| NodeError::Listen {
            door: "control",
            address: path.display().to_string(),
            source,
        })?;
        let tasks = Tasks::default();
        let endpoints = Endpoints {
            reapi,
            reapi_socket: config.runtime_dir.join("reapi.sock"),
            peers: None,
            control: path,
        };
        let source = Empty { config, endpoints: endpoints.clone(), started: SystemTime::now() };
        let service = ControlService::new(
            Arc::new(source),
            Arc::new(MemoryCas::default()),
            Arc::new(MemoryActionCache::default()),
        );
        let stop = tasks.token().clone();
        tasks.spawn("control", async move {
            let _listener = listener;
            let _ = service.serve(control, stop).await;
        });
        Ok(Self { endpoints, tasks })
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
    }
}

struct Empty {
    config: Config,
    endpoints: Endpoints,
    started: SystemTime,
}

#[async_trait]
impl ControlSource for Empty {
    async fn status(&self) -> GetStatusResponse {
        let uptime = self.started.elapsed().unwrap_or_default();
        GetStatusResponse {
            node: Some(control::Node {
                name: self.config.name.clone(),
                version: env!("CARGO_PKG_VERSION").into(),
                protocol_version: PROTOCOL_VERSION,
                pid: std::process::id(),
                started: Some(farmhand_proto::time::timestamp(self.started)),
                uptime: Some(farmhand_proto::time::duration(uptime)),
                boot_epoch: 1,
                endpoints: Some(control::Endpoints {
                    reapi: self.endpoints.reapi.to_string(),
                    reapi_socket: self.endpoints.reapi_socket.display().to_string(),
                    peers: String::new(),
                    control: self.endpoints.control.display().to_string(),
                }),
                data_dir: self.config.data_dir.display().to_string(),
                sandbox: "none".into(),
            }),
            machines: vec![control::Machine {
                name: self.config.name.clone(),
                state: control::machine::State::Active.into(),
                is_self: true,
                slots: u32::try_from(self.config.slots).unwrap_or(u32::MAX),
                busy: 0,
                last_heard: None,
                version: env!("CARGO_PKG_VERSION").into(),
            }],
            ..Default::default()
        }
    }

    async fn operations(&self) -> Vec<Operation> {
        Vec::new()
    }
}
