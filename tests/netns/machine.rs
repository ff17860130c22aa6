//! [`Machine`]: a node in a network namespace, and a client of it on the same machine.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use farmhand_proto::control::control_client::ControlClient;
use farmhand_proto::control::{self, GetStatusRequest};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::transport::{Channel, Endpoint};

use crate::lan::Lan;
use crate::support::Client;

/// The binary under test, unless `FARMHAND_BINARY` names another one.
const BINARY: &str = env!("CARGO_BIN_EXE_farmhand");

/// A farm key, for machines that are set up by a program.
const KEY: &str = "legal winner thank year wave sausage worth useful legal winner thank yellow";

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A machine of a LAN that runs a node. Dropping it kills the node.
pub(crate) struct Machine {
    child: Child,
    number: usize,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    directory: TempDir,
}

impl Machine {
    /// Starts a node called `m` and the number of the machine, which is ready then.
    pub(crate) fn start(lan: &Lan, number: usize, arguments: &[&str]) -> Self {
        Self::start_with(lan, number, arguments, &[])
    }

    /// The same with variables of its environment.
    pub(crate) fn start_with(
        lan: &Lan,
        number: usize,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let directory = TempDir::with_prefix("farmhand-netns-").unwrap();
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let child = launch(lan, number, (&arguments, &environment), directory.path());
        Self { child, number, arguments, environment, directory }
    }

    /// Its number on the LAN.
    pub(crate) fn number(&self) -> usize {
        self.number
    }

    /// Its name.
    pub(crate) fn name(&self) -> String {
        format!("m{}", self.number)
    }

    /// Kills the node as `kill -9` does.
    pub(crate) fn kill(&mut self) {
        // The child is `ip netns exec`, which becomes the node.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on what it has on disk.
    pub(crate) fn restart(&mut self, lan: &Lan) {
        self.kill();
        self.child = launch(lan, self.number, (&self.arguments, &self.environment), self.directory.path());
    }

    /// Sends the node a signal: `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn socket(&self, name: &str) -> Endpoint {
        let socket = self.directory.path().join("run").join(name);
        Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap()
    }

    /// A build tool on that machine.
    pub(crate) async fn client(&self) -> Client {
        let channel = self.socket("reapi.sock").connect().await.unwrap();
        Client::over(channel, "")
    }

    /// Its control API.
    pub(crate) async fn control(&self) -> ControlClient<Channel> {
        ControlClient::new(self.socket("control.sock").connect().await.unwrap())
    }

    /// The machines it knows.
    pub(crate) async fn machines(&self) -> Vec<control::Machine> {
        let status = self.control().await.get_status(GetStatusRequest::default()).await.unwrap();
        status.into_inner().machines
    }

    /// Waits until it is linked with these and they with it, both ways.
    pub(crate) async fn links_with(&self, others: &[&Machine]) {
        let since = Instant::now();
        loop {
            let machines = self.machines().await;
            let is_linked = |other: &&Machine| {
                let mut found = machines.iter().filter(|machine| machine.name == other.name());
                found.any(|machine| machine.linked && machine.links_back && machine.slots > 0)
            };
            if others.iter().all(is_linked) {
                return;
            }
            assert!(since.elapsed() < PATIENCE, "{} knows {machines:#?}\n{}", self.name(), self.log());
            sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // One that is stopped, or was killed by the test, ends all the same.
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{}", self.name(), self.log());
        }
    }
}

fn launch(
    lan: &Lan,
    number: usize,
    (arguments, environment): (&[String], &[(String, String)]),
    directory: &Path,
) -> Child {
    let log = fs::File::options().create(true).append(true).open(directory.join("log")).unwrap();
    let [program, words @ ..] = lan.on(number);
    let binary = std::env::var("FARMHAND_BINARY").unwrap_or_else(|_| BINARY.to_owned());
    let mut child = Command::new(program)
        .args(words)
        .args([&*binary, "serve", "--listen", "127.0.0.1:0", "--peer-listen", "0.0.0.0:8981"])
        .args(["--name", &format!("m{number}"), "--sandbox", "auto"])
        // Whoever runs the tests, on whatever machine: guests are let in.
        .args(["--used-for", "0s", "--guests-on-battery", "--guests-under-pressure"])
        .arg("--farm-key-file")
        .arg(key_file(directory))
        .arg("--data-dir")
        .arg(directory.join("data"))
        .arg("--runtime-dir")
        .arg(directory.join("run"))
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let log = || fs::read_to_string(directory.join("log")).unwrap_or_default();
    assert!(line.starts_with("ready: "), "m{number} is not ready: {line}\n{}", log());
    // The pipe stays open, and read, for as long as the node lives.
    std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
    child
}

fn key_file(directory: &Path) -> PathBuf {
    let path = directory.join("farm.key");
    fs::write(&path, KEY).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}
