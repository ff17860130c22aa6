//! A node of this binary in temporary directories, for as long as it is measured.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::super::error::{CliError, Explain};
use super::scratch::Scratch;

/// The running node. Dropping it ends it and removes what it wrote.
pub(super) struct PrivateNode {
    child: Child,
    address: String,
    // The last, so that it is removed when the process has ended.
    scratch: Scratch,
}

impl PrivateNode {
    /// Starts it and waits until it serves.
    pub(super) fn start() -> Result<Self, CliError> {
        let scratch = Scratch::new()?;
        let directory = scratch.path();
        let program = std::env::current_exe().explain("cannot find this program")?;
        // A file of its own, and no variables, keep the settings of the user out of the measurement.
        let config = directory.join("farmhand.toml");
        fs::write(&config, "").explain(format!("cannot write {}", config.display()))?;
        let settings = std::env::vars_os()
            .map(|(name, _)| name)
            .filter(|name| name.as_bytes().starts_with(b"FARMHAND_"));
        let mut command = Command::new(program);
        for name in settings {
            command.env_remove(name);
        }
        let child = command
            .args(["serve", "--listen", "127.0.0.1:0", "--no-discovery", "--log-filter", "warn"])
            .args([std::ffi::OsStr::new("--config"), config.as_os_str()])
            .args([std::ffi::OsStr::new("--data-dir"), directory.join("data").as_os_str()])
            .args([std::ffi::OsStr::new("--runtime-dir"), directory.join("run").as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .explain("cannot start a node to measure")?;
        let mut node = Self { child, address: String::new(), scratch };
        node.address = node.wait_until_ready()?;
        Ok(node)
    }

    /// Address of its REAPI.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Path of its Unix socket.
    pub(super) fn socket(&self) -> String {
        self.scratch.path().join("run/reapi.sock").display().to_string()
    }

    /// Path of its control socket.
    pub(super) fn control(&self) -> String {
        self.scratch.path().join("run/control.sock").display().to_string()
    }

    fn wait_until_ready(&mut self) -> Result<String, CliError> {
        let mut line = String::new();
        if let Some(stdout) = self.child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).explain("cannot hear from the node")?;
        }
        reapi_address(&line)
            .ok_or_else(|| CliError::new("the node to measure did not start").hint("its log is above"))
    }
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
