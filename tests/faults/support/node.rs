//! A node as a child process whose data directory, surroundings and death are up to the scenario.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;

use super::Client;

/// The binary under test: the one built with the tests, or the one that `FARMHAND_BIN` names.
pub(crate) fn binary() -> String {
    std::env::var("FARMHAND_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_farmhand").to_owned())
}

/// How a node is started, again and again.
pub(crate) struct Setup {
    /// Where its blobs are.
    pub(crate) data: PathBuf,
    config: String,
    /// Words in front of its command line.
    wrapper: Vec<String>,
    environment: Vec<(String, String)>,
    /// Runtime directory, configuration and log; on a disk that is left alone.
    own: TempDir,
}

/// A running node. Dropping it kills it.
pub(crate) struct Node {
    child: Child,
    own: PathBuf,
    /// Where REAPI is served.
    pub(crate) address: SocketAddr,
    /// Where its log of this run begins.
    log_start: u64,
}

// === impl Setup ===

impl Setup {
    /// A node with its data in `data` and these lines of configuration.
    pub(crate) fn new(data: PathBuf, config: &str) -> Self {
        let own = TempDir::with_prefix("farmhand-faults-").unwrap();
        Self { data, config: config.to_owned(), wrapper: Vec::new(), environment: Vec::new(), own }
    }

    /// A node with its data in a directory beside its log.
    pub(crate) fn with_own_data(config: &str) -> Self {
        let mut setup = Self::new(PathBuf::new(), config);
        setup.data = setup.own.path().join("data");
        setup
    }

    /// Runs it by way of another program, which must become the node by exec.
    pub(crate) fn wrapper(mut self, words: &[&str]) -> Self {
        self.wrapper = words.iter().map(ToString::to_string).collect();
        self
    }

    /// Sets an environment variable.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A directory that is there for as long as this.
    pub(crate) fn own(&self) -> &Path {
        self.own.path()
    }

    /// Starts it and waits until it is ready.
    pub(crate) fn start(&self) -> Node {
        let own = self.own.path().to_owned();
        let log_start = std::fs::metadata(own.join("log")).map_or(0, |meta| meta.len());
        let mut child = self.command().spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let address = line
            .strip_prefix("ready: ")
            .and_then(|rest| rest.split_whitespace().find_map(|part| part.strip_prefix("reapi=")))
            .and_then(|address| address.parse().ok());
        let Some(address) = address else {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the node did not become ready: {line}{}", read_log(&own, log_start));
        };
        // The pipe stays open, and read, for as long as the node lives.
        std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        Node { child, own, address, log_start }
    }

    fn command(&self) -> Command {
        let own = self.own.path();
        let config = own.join("farmhand.toml");
        std::fs::write(&config, &self.config).unwrap();
        let log = std::fs::File::options().append(true).create(true).open(own.join("log")).unwrap();
        let mut words = self.wrapper.iter().cloned().chain([binary()]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--peer-listen",
                "127.0.0.1:0",
                "--no-discovery",
                "--name",
                "faulty",
            ])
            .arg("--data-dir")
            .arg(&self.data)
            .arg("--runtime-dir")
            .arg(own.join("run"))
            .arg("--config")
            .arg(&config)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        command
    }
}

// === impl Node ===

impl Node {
    /// A client of it.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address, "").await
    }

    /// Process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it logged since it was started.
    pub(crate) fn log(&self) -> String {
        read_log(&self.own, self.log_start)
    }

    /// Kills it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end by SIGTERM; its status.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let told = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(told.success());
        for _ in 0..3000 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the node does not end");
    }

    /// What `farmhand status --json` says; `None` when it cannot say it.
    pub(crate) fn status(&self) -> Option<Value> {
        let mut command = Command::new(binary());
        command.args(["status", "--json", "--runtime-dir"]).arg(self.own.join("run"));
        let output = command.output().unwrap();
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// The latest moment up to which all that was acknowledged is on the disk, by its own account.
    pub(crate) fn durable_until(&self) -> Option<Instant> {
        let asked = Instant::now();
        let status = self.status()?;
        let age = &status["storage"]["unsynced_seconds"];
        assert!(age.is_null() || age.is_f64(), "{status}");
        asked.checked_sub(Duration::from_secs_f64(age.as_f64().unwrap_or(0.0)))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of the node ---\n{}", self.log());
        }
    }
}

fn read_log(own: &Path, from: u64) -> String {
    let mut log = Vec::new();
    if let Ok(mut file) = std::fs::File::open(own.join("log")) {
        file.seek(SeekFrom::Start(from)).unwrap();
        file.read_to_end(&mut log).unwrap();
    }
    String::from_utf8_lossy(&log).into_owned()
}
