//! [`Engine`]: what runs actions on this machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::whole::Whole;
use super::{NodeError, settings};
use crate::config::{Config, SandboxMode};
use crate::platform::MachineFacts;
use crate::tasks::Tasks;
use crate::worker::Runner;
use crate::worker::container::Containers;
use crate::worker::local::LocalWorker;
use crate::worker::sandbox::{self, ActionGroup, Mode, SandboxSupport, SpawnerConfig, SpawnerPool};

/// The worker of this machine, and the processes that start its actions.
pub(super) struct Engine {
    pub(super) spawners: Arc<SpawnerPool>,
    pub(super) worker: Arc<LocalWorker>,
    /// What actions find here.
    pub(super) facts: MachineFacts,
}

// === impl Engine ===

impl Engine {
    /// Ready to run actions, each of which may have as many files open as `open_files` says.
    pub(super) async fn start(
        config: &Config,
        whole: &Whole,
        open_files: Option<u64>,
        tasks: &Tasks,
    ) -> Result<Self, NodeError> {
        let spawners = Arc::new(start_spawners(config, open_files).await?);
        let containers = settings::containers(config);
        let facts = settings::facts(config, spawners.is_sandboxed(), containers.as_ref());
        let parts = (facts.clone(), containers);
        let worker = Arc::new(open_worker(config, parts, whole, Arc::clone(&spawners), tasks)?);
        Ok(Self { spawners, worker, facts })
    }
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
