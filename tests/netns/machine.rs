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

/// Lines of its log that are shown of a test that failed.
const LOGGED: usize = 200;

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a store consists of; who the machine is lies beside it.
const STORE: [&str; 7] = ["packs", "blobs", "index", "STATE", "FORMAT", "kept", "history"];

/// A machine of a LAN that runs a node. Dropping it kills the node.
pub(crate) struct Machine {
    child: Option<Child>,
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
        let mut machine = Self { child: None, number, arguments, environment, directory };
        machine.restart(lan);
        machine
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
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on what it has on disk.
    pub(crate) fn restart(&mut self, lan: &Lan) {
        if let Err(words) = self.try_restart(lan) {
            panic!("{} is not ready: {words}\n{}", self.name(), self.log());
        }
    }

    /// The same where that may fail; with what it said in place of being ready.
    pub(crate) fn try_restart(&mut self, lan: &Lan) -> Result<(), String> {
        self.kill();
        let child = self.child.insert(self.launch(lan));
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        if !line.starts_with("ready: ") {
            self.kill();
            return Err(line);
        }
        // The pipe stays open, and read, for as long as the node lives.
        std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        Ok(())
    }

    /// Whether its node was started, and not killed since.
    pub(crate) fn is_up(&self) -> bool {
        self.child.is_some()
    }

    /// The process of its node.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Sends the node a signal: `STOP`, `CONT`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Where its store is.
    pub(crate) fn data(&self) -> PathBuf {
        let at = self.arguments.iter().rposition(|argument| argument == "--data-dir");
        at.map_or_else(|| self.directory.path().join("data"), |at| PathBuf::from(&self.arguments[at + 1]))
    }

    /// Takes its store away, but not who it is. The node does not run.
    pub(crate) fn empty(&self) {
        assert!(!self.is_up());
        STORE.iter().for_each(|name| remove(&self.data().join(name)));
    }

    /// Takes the index of its store away. The node does not run.
    pub(crate) fn lose_index(&self) {
        assert!(!self.is_up());
        remove(&self.data().join("index"));
    }

    /// Puts another machine in its place, which has its address and nothing else. The node does not run.
    pub(crate) fn become_another(&self) {
        assert!(!self.is_up());
        remove(&self.data());
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    fn socket(&self, name: &str) -> Endpoint {
        let socket = self.directory.path().join("run").join(name);
        Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap()
    }

    /// A build tool on that machine which outlives the node, and calls again whenever there is one.
    pub(crate) fn patient_client(&self) -> Client {
        Client::over(self.socket("reapi.sock").connect_lazy(), "")
    }

    /// What it says of itself and of the others; `None` while it does not answer.
    pub(crate) async fn status(&self) -> Option<control::GetStatusResponse> {
        let ask = async {
            let channel = self.socket("control.sock").connect().await.ok()?;
            let status = ControlClient::new(channel).get_status(GetStatusRequest::default()).await;
            status.ok().map(tonic::Response::into_inner)
        };
        tokio::time::timeout(Duration::from_secs(5), ask).await.ok().flatten()
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
                // One that took the place of another is told apart from it by what follows the name.
                let is_meant = |name: &str| name.split('-').next() == Some(&other.name());
                let mut found = machines.iter().filter(|machine| is_meant(&machine.name));
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

impl Machine {
    fn launch(&self, lan: &Lan) -> Child {
        let directory = self.directory.path();
        let log = fs::File::options().create(true).append(true).open(directory.join("log")).unwrap();
        let [program, words @ ..] = lan.on(self.number);
        let binary = std::env::var("FARMHAND_BINARY").unwrap_or_else(|_| BINARY.to_owned());
        Command::new(program)
            .args(words)
            .args([&*binary, "serve", "--listen", "127.0.0.1:0", "--peer-listen", "0.0.0.0:8981"])
            .args(["--name", &self.name(), "--sandbox", "auto"])
            // Whoever runs the tests, on whatever machine: guests are let in.
            .args(["--used-for", "0s", "--guests-on-battery", "--guests-under-pressure"])
            .arg("--farm-key-file")
            .arg(key_file(directory))
            .arg("--data-dir")
            .arg(directory.join("data"))
            .arg("--runtime-dir")
            .arg(directory.join("run"))
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // One that is stopped, or was killed by the test, ends all the same.
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOGGED)..];
            eprintln!(
                "--- log of {}, {} of {} lines ---\n{}",
                self.name(),
                last.len(),
                lines.len(),
                last.join("\n")
            );
        }
    }
}

/// Removes a file, or a directory with all it holds, if it is there.
fn remove(path: &Path) {
    let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    assert!(!path.exists(), "{} cannot be removed", path.display());
}

fn key_file(directory: &Path) -> PathBuf {
    let path = directory.join("farm.key");
    fs::write(&path, KEY).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}
