//! A node as a child process with directories of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use farmhand_proto::control::control_client::ControlClient;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use super::Client;

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_farmhand");

/// Settings of a node before its start.
pub(crate) struct NodeBuilder {
    config: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
}

/// A running node. Dropping it kills it and removes its directories.
pub(crate) struct Node {
    child: Child,
    builder: NodeBuilder,
    directory: TempDir,
    /// Where REAPI is served over TCP.
    pub(crate) address: SocketAddr,
    /// Where other machines of its farm are served.
    pub(crate) peer_address: SocketAddr,
    /// The line the node printed when it was ready.
    pub(crate) ready_line: String,
}

/// A node that has become ready.
struct Launched {
    child: Child,
    address: SocketAddr,
    peer_address: SocketAddr,
    ready_line: String,
}

impl NodeBuilder {
    /// Adds lines to the configuration file.
    pub(crate) fn config(mut self, lines: &str) -> Self {
        self.config.push_str(lines);
        self.config.push('\n');
        self
    }

    /// Adds command-line arguments to `serve`.
    pub(crate) fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(ToString::to_string));
        self
    }

    /// Sets an environment variable of the node.
    pub(crate) fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts the node and waits until it is ready.
    pub(crate) fn start(self) -> Node {
        let directory = TempDir::with_prefix("farmhand-it-").unwrap();
        let Launched { child, address, peer_address, ready_line } = launch(&self, directory.path())
            .unwrap_or_else(|log| panic!("the node did not become ready; its log:\n{log}"));
        Node { child, builder: self, directory, address, peer_address, ready_line }
    }

    /// Starts a node that must refuse to: its exit code and what it wrote to stderr.
    pub(crate) fn refused(self, directory: &Path) -> (Option<i32>, String) {
        let mut child = command(&self, directory).spawn().unwrap();
        let status = wait(&mut child, Duration::from_secs(20)).expect("the node ends");
        (status.code(), read_log(directory))
    }
}

impl Node {
    /// A node with nothing but defaults.
    pub(crate) fn start() -> Self {
        Self::builder().start()
    }

    /// Settings to start from. Whoever runs the tests, on whatever machine: guests are let in, and copies count.
    pub(crate) fn builder() -> NodeBuilder {
        let heedless =
            ["USED_FOR=0s", "GUESTS_ON_BATTERY=true", "GUESTS_UNDER_PRESSURE=true", "KEEP_COPIES=always"];
        let heedless = heedless.iter().filter_map(|setting| setting.split_once('='));
        let environment = heedless.map(|(name, value)| (format!("FARMHAND_{name}"), value.to_owned()));
        NodeBuilder { config: String::new(), arguments: Vec::new(), environment: environment.collect() }
    }

    /// A client of this node for the instance named `""`.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.address, "").await
    }

    /// A client of this node for `instance`.
    pub(crate) async fn client_of(&self, instance: &str) -> Client {
        Client::connect(self.address, instance).await
    }

    /// A client of its control API.
    pub(crate) async fn control(&self) -> ControlClient<Channel> {
        let socket = self.runtime_dir().join("control.sock");
        let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
        ControlClient::new(endpoint.connect().await.unwrap()).max_decoding_message_size(32 << 20)
    }

    /// Bytes of the memory it has, by the name of a line of `/proc/PID/status`.
    pub(crate) fn memory(&self, line: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let rest = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':')).unwrap();
        rest.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Process id of the node.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its data directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Its runtime directory.
    pub(crate) fn runtime_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        read_log(self.directory.path())
    }

    /// Kills it as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end by SIGTERM; its status.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(killed.success());
        wait(&mut self.child, Duration::from_secs(20)).expect("the node ends within 20 s of SIGTERM")
    }

    /// Starts it again on the same directories; it must not be running.
    pub(crate) fn restart(&mut self) {
        let launched = launch(&self.builder, self.directory.path())
            .unwrap_or_else(|log| panic!("the node did not become ready again; its log:\n{log}"));
        let Launched { child, address, peer_address, ready_line } = launched;
        (self.child, self.address, self.ready_line) = (child, address, ready_line);
        self.peer_address = peer_address;
    }

    /// Sends it a signal: `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Has it started with these arguments too when it is started again.
    pub(crate) fn change_arguments(&mut self, change: impl FnOnce(&mut Vec<String>)) {
        change(&mut self.builder.arguments);
    }

    /// Runs a command of the command line against this node.
    pub(crate) fn cli(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(BINARY)
            .args(arguments)
            .arg("--runtime-dir")
            .arg(self.runtime_dir())
            .env_remove("RUST_LOG")
            .output()
            .unwrap()
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

fn command(builder: &NodeBuilder, directory: &Path) -> Command {
    let config = directory.join("farmhand.toml");
    fs::write(&config, &builder.config).unwrap();
    let log = fs::File::create(directory.join("log")).unwrap();
    let mut command = Command::new(BINARY);
    command
        .args([
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--peer-listen",
            "127.0.0.1:0",
            "--no-discovery",
            "--name",
            "testnode",
        ])
        .arg("--data-dir")
        .arg(directory.join("data"))
        .arg("--runtime-dir")
        .arg(directory.join("run"))
        .arg("--config")
        .arg(&config)
        .args(&builder.arguments)
        .envs(builder.environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    command
}

fn launch(builder: &NodeBuilder, directory: &Path) -> Result<Launched, String> {
    let mut child = command(builder, directory).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let door = |name: &str| {
        let mut parts = line.strip_prefix("ready: ")?.split_whitespace();
        parts.find_map(|part| part.strip_prefix(name))?.parse().ok()
    };
    let (Some(address), Some(peer_address)) = (door("reapi="), door("peers=")) else {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("{line}{}", read_log(directory)));
    };
    // The pipe stays open, and read, for as long as the node lives.
    std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
    Ok(Launched { child, address, peer_address, ready_line: line })
}

fn read_log(directory: &Path) -> String {
    fs::read(directory.join("log")).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let pause = Duration::from_millis(20);
    for _ in 0..limit.as_millis() / pause.as_millis() {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(pause);
    }
    None
}
