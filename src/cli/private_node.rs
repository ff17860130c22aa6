//! A node of this binary in temporary directories, for as long as a command needs one.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::error::{CliError, Explain};
use super::scratch::Scratch;

/// The running node. Dropping it ends it and removes what it wrote.
///
/// It is in a process group of its own: Ctrl-C reaches the command, and the command ends the node. A command
/// that is killed takes the node with it; only its files stay then. It must be started by a thread that lives
/// as long as the command.
pub(super) struct PrivateNode {
    child: Child,
    address: String,
    // The last, so that it is removed when the process has ended.
    scratch: Scratch,
}

/// Where the log of a private node goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeLog {
    /// To stderr, warnings only.
    Stderr,
    /// To a file beside its data, because the terminal is not free.
    File,
}

// === impl PrivateNode ===

impl PrivateNode {
    /// Starts it for `command`, with these arguments beside the necessary ones, and waits until it serves.
    pub(super) fn start(command: &str, log: NodeLog, arguments: &[&str]) -> Result<Self, CliError> {
        let scratch = Scratch::new(command)?;
        let mut process = serve(scratch.path())?;
        process.args(arguments);
        if log == NodeLog::File {
            let path = log_path(&scratch);
            process.stderr(File::create(&path).explain(format!("cannot write {}", path.display()))?);
        } else {
            process.args(["--log-filter", "warn"]);
        }
        let child = process.spawn().explain("cannot start a node")?;
        let mut node = Self { child, address: String::new(), scratch };
        node.address = node.wait_until_ready(log)?;
        Ok(node)
    }

    /// Address of its REAPI.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Path of the Unix socket of its REAPI.
    pub(super) fn socket(&self) -> String {
        self.scratch.path().join("run/reapi.sock").display().to_string()
    }

    /// Path of its control socket.
    pub(super) fn control_socket(&self) -> PathBuf {
        self.scratch.path().join("run/control.sock")
    }

    /// A place for files of the command, removed with the node.
    pub(super) fn directory(&self) -> &Path {
        self.scratch.path()
    }

    fn wait_until_ready(&mut self, log: NodeLog) -> Result<String, CliError> {
        let mut line = String::new();
        if let Some(stdout) = self.child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).explain("cannot hear from the node")?;
        }
        reapi_address(&line).ok_or_else(|| {
            let why = match log {
                NodeLog::Stderr => "its log is above".to_owned(),
                NodeLog::File => fs::read_to_string(log_path(&self.scratch)).unwrap_or_default(),
            };
            CliError::new("the node of this command did not start").hint(why)
        })
    }
}

fn log_path(scratch: &Scratch) -> PathBuf {
    scratch.path().join("node.log")
}

/// `farmhand serve` in this directory. An empty configuration file, and no variables, keep the settings of
/// the user out of it.
fn serve(directory: &Path) -> Result<Command, CliError> {
    let program = std::env::current_exe().explain("cannot find this program")?;
    let config = directory.join("farmhand.toml");
    fs::write(&config, "").explain(format!("cannot write {}", config.display()))?;
    let settings =
        std::env::vars_os().map(|(name, _)| name).filter(|name| name.as_bytes().starts_with(b"FARMHAND_"));
    let mut command = Command::new(program);
    for name in settings {
        command.env_remove(name);
    }
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--peer-listen", "127.0.0.1:0", "--no-discovery"])
        .args(["--end-with", &std::process::id().to_string()])
        .args([OsStr::new("--config"), config.as_os_str()])
        .args([OsStr::new("--data-dir"), directory.join("data").as_os_str()])
        .args([OsStr::new("--runtime-dir"), directory.join("run").as_os_str()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0);
    Ok(command)
}

/// The REAPI address in the line a node prints when it is ready.
fn reapi_address(line: &str) -> Option<String> {
    let rest = line.strip_prefix("ready: ")?;
    rest.split_whitespace().find_map(|part| part.strip_prefix("reapi=")).map(ToOwned::to_owned)
}

impl Drop for PrivateNode {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        match pid.map(|pid| kill_process(pid, Signal::TERM)) {
            Some(Ok(())) => {}
            _ => drop(self.child.kill()),
        }
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_in_the_ready_line() {
        let line = "ready: reapi=127.0.0.1:1 peers=- control=/x\n";
        assert_eq!(reapi_address(line).as_deref(), Some("127.0.0.1:1"));
        assert_eq!(reapi_address(""), None);
        assert_eq!(reapi_address("error: no"), None);
    }
}
