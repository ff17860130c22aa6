//! Which node a command talks to, and the connection to it.

use std::path::{Path, PathBuf};

use farmhand_proto::control::control_client::ControlClient;
use tonic::transport::Channel;

use super::error::{CliError, chain};
use super::remote;
use crate::config::{Host, RawConfig};
use crate::rpc::control::MAX_MESSAGE_BYTES;

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
    /// Control socket of the node, in place of the one in the runtime directory
    #[arg(long, env = "FARMHAND_CONNECT", value_name = "SOCKET", global = true, help_heading = "Which node")]
    connect: Option<PathBuf>,
}

impl TargetArgs {
    /// The control socket these arguments mean.
    pub(super) fn socket(&self) -> PathBuf {
        if let Some(socket) = &self.connect {
            return socket.clone();
        }
        let directory = self.runtime_dir.clone().unwrap_or_else(default_runtime_dir);
        directory.join("control.sock")
    }

    /// Connects to the node.
    ///
    /// # Errors
    /// When no node answers.
    pub(super) async fn connect(&self) -> Result<ControlClient<Channel>, CliError> {
        let socket = self.socket();
        let channel = remote::connect(&format!("unix:{}", socket.display()))
            .await
            .map_err(|error| not_running(&socket, &chain(&error)))?;
        Ok(ControlClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }
}

/// That of the user's configuration file, else that of the host.
fn default_runtime_dir() -> PathBuf {
    let host = Host::detect();
    let file = host.config_file.as_deref().and_then(|path| RawConfig::read(path).ok());
    file.and_then(|file| file.runtime_dir).unwrap_or(host.runtime_dir)
}

fn not_running(socket: &Path, reason: &str) -> CliError {
    if socket.exists() {
        return CliError::new(format!("the node at {} does not answer: {reason}", socket.display()))
            .hint("if it is not running, start one with: farmhand serve");
    }
    CliError::new(format!("no node is running (there is no {})", socket.display()))
        .hint("start one with: farmhand serve; a node elsewhere is found by --runtime-dir or --connect")
}
