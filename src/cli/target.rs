//! Which node a command talks to, and the connection to it.

use std::path::{Path, PathBuf};

use farmhand_proto::client::{Client, client};

use super::error::{CliError, chain};
use super::remote;
use crate::config::{Host, RawConfig};

/// Which node to talk to
#[derive(Debug, clap::Args)]
pub(super) struct TargetArgs {
    /// Runtime directory of the node; the same default as `serve` has
    #[arg(
        long,
        env = "FARMHAND_RUNTIME_DIR",
        value_name = "DIR",
        global = true,
        help_heading = "Which node"
    )]
    runtime_dir: Option<PathBuf>,
    /// Configuration file of the node, which may name the runtime directory
    #[arg(long, env = "FARMHAND_CONFIG", value_name = "FILE", global = true, help_heading = "Which node")]
    config: Option<PathBuf>,
    /// Control socket of the node, in place of the one in the runtime directory
    #[arg(long, env = "FARMHAND_CONNECT", value_name = "SOCKET", global = true, help_heading = "Which node")]
    connect: Option<PathBuf>,
}

impl TargetArgs {
    /// The control socket these arguments mean.
    ///
    /// # Errors
    /// When a configuration file that was named cannot be read.
    pub(super) fn socket(&self) -> Result<PathBuf, CliError> {
        if let Some(socket) = &self.connect {
            return Ok(socket.clone());
        }
        let directory = match &self.runtime_dir {
            Some(directory) => directory.clone(),
            None => configured_runtime_dir(self.config.as_deref())?,
        };
        Ok(directory.join("control.sock"))
    }

    /// The configuration file that was named.
    pub(super) fn config(&self) -> Option<PathBuf> {
        self.config.clone()
    }

    /// Connects to the node.
    ///
    /// # Errors
    /// When no node answers, or a configuration file that was named cannot be read.
    pub(super) async fn connect(&self) -> Result<Client, CliError> {
        connect(&self.socket()?).await
    }
}

/// Connects to the node with this control socket.
///
/// # Errors
/// When no node answers.
pub(super) async fn connect(socket: &Path) -> Result<Client, CliError> {
    let channel = remote::connect(&format!("unix:{}", socket.display()))
        .await
        .map_err(|error| not_running(socket, &chain(&error)))?;
    Ok(client(channel))
}

/// That of the configuration file, else that of the host. A file of the user that is being edited
/// does not keep him from asking a node that runs.
fn configured_runtime_dir(named: Option<&Path>) -> Result<PathBuf, CliError> {
    let host = Host::detect();
    let file = match named {
        Some(path) => Some(RawConfig::read(path)?),
        None => host.config_file.as_deref().and_then(|path| RawConfig::read(path).ok()),
    };
    Ok(file.and_then(|file| file.runtime_dir).unwrap_or(host.runtime_dir))
}

fn not_running(socket: &Path, reason: &str) -> CliError {
    if socket.exists() {
        return CliError::new(format!("the node at {} does not answer: {reason}", socket.display()))
            .hint("if it is not running, start one with: farmhand serve");
    }
    CliError::new(format!("no node is running (there is no {})", socket.display()))
        .hint("start one with: farmhand serve; a node elsewhere is found by --runtime-dir or --connect")
}
