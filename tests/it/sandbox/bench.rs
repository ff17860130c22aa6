//! Where the actions of these tests run, and what is seen of them from the host.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use farmhand::worker::sandbox::{Mode, SpawnerConfig, SpawnerPool, probe};
use farmhand::worker::{
    Exit, InputRoot, Limits, Network, Outcome, Overlay, PreparedCommand, RunError, Runner,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Where sandboxed actions of these tests have their input root.
const AT: &str = "/build";

/// Time after which a test gives up on something that should happen.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A pool and a place for the files of actions.
pub(super) struct Bench {
    pub(super) pool: SpawnerPool,
    pub(super) mode: Mode,
    pub(super) files: TempDir,
}

/// One action under construction.
pub(super) struct Action {
    pub(super) command: PreparedCommand,
    pub(super) directory: PathBuf,
}

/// What came of an action.
pub(super) struct Done {
    pub(super) result: Result<Exit, RunError>,
    pub(super) stdout: String,
    pub(super) stderr: String,
    /// Where its writes are.
    pub(super) upper: PathBuf,
}

// === impl Bench ===

impl Bench {
    pub(super) async fn new(mode: Mode, slots: usize) -> Option<Self> {
        let files = TempDir::new().unwrap();
        let executable = PathBuf::from(env!("CARGO_BIN_EXE_farmhand"));
        if mode == Mode::Sandbox {
            let support = probe(&executable, files.path()).await.unwrap();
            assert_eq!(fs::read_dir(files.path()).unwrap().count(), 0, "probing leaves nothing");
            if !support.is_complete() {
                eprintln!("skipped: no sandbox here: {support:?}");
                return None;
            }
        }
        let config = SpawnerConfig { executable, ..SpawnerConfig::this_program(slots, mode) };
        Some(Self { pool: SpawnerPool::start(config).await.unwrap(), mode, files })
    }

    pub(super) async fn sandbox() -> Option<Self> {
        Self::new(Mode::Sandbox, 1).await
    }

    /// An action with an empty input root.
    pub(super) fn action<S: Into<OsString>>(&self, arguments: impl IntoIterator<Item = S>) -> Action {
        let directory = tempfile::Builder::new().tempdir_in(self.files.path()).unwrap().keep();
        for name in ["lower", "upper", "work", "plain"] {
            fs::create_dir(directory.join(name)).unwrap();
        }
        let root = match self.mode {
            Mode::Sandbox => InputRoot::Mounted { at: AT.into(), overlay: overlay(&directory) },
            Mode::Plain => InputRoot::Plain { directory: directory.join("plain") },
        };
        let command = PreparedCommand {
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            root,
            working_directory: PathBuf::new(),
            stdin: None,
            stdout: File::create(directory.join("stdout")).unwrap(),
            stderr: File::create(directory.join("stderr")).unwrap(),
            limits: Limits::default(),
            network: Network::Loopback,
            ids: (1000, 1000),
            door: None,
            guest: None,
        };
        Action { command, directory }
    }

    pub(super) fn shell(&self, script: &str) -> Action {
        self.action(["sh", "-c", script])
    }

    pub(super) async fn run(&self, action: Action) -> Done {
        self.run_until(action, CancellationToken::new()).await
    }

    pub(super) async fn run_until(&self, action: Action, cancel: CancellationToken) -> Done {
        let Action { command, directory } = action;
        let result = tokio::time::timeout(4 * PATIENCE, self.pool.run(command, cancel)).await.unwrap();
        let read = |name| String::from_utf8_lossy(&fs::read(directory.join(name)).unwrap()).into_owned();
        let upper = if self.mode == Mode::Sandbox { "upper" } else { "plain" };
        Done { result, stdout: read("stdout"), stderr: read("stderr"), upper: directory.join(upper) }
    }

    /// Runs a shell script that has to succeed, and returns what it printed.
    pub(super) async fn output_of(&self, script: &str) -> String {
        let done = self.run(self.shell(script)).await;
        assert_eq!(done.outcome(), Outcome::Exited(0), "{}{}", done.stdout, done.stderr);
        done.stdout
    }
}

fn overlay(directory: &Path) -> Overlay {
    Overlay {
        lower: vec![directory.join("lower")],
        upper: directory.join("upper"),
        work: directory.join("work"),
        read_only: Vec::new(),
        writable: Vec::new(),
    }
}

// === impl Action ===

impl Action {
    pub(super) fn set(mut self, change: impl FnOnce(&mut PreparedCommand)) -> Self {
        change(&mut self.command);
        self
    }

    /// Writes an input file.
    pub(super) fn input(self, path: &str, content: &str, mode: u32) -> Self {
        let root = match self.command.root {
            InputRoot::Plain { .. } => "plain",
            _ => "lower",
        };
        let path = self.directory.join(root).join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    pub(super) fn overlay(&mut self) -> &mut Overlay {
        match &mut self.command.root {
            InputRoot::Mounted { overlay, .. }
            | InputRoot::Filesystem { overlay }
            | InputRoot::Parted { overlay, .. } => overlay,
            InputRoot::Plain { .. } => panic!("a plain action has no overlay"),
        }
    }
}

// === impl Done ===

impl Done {
    pub(super) fn exit(&self) -> &Exit {
        self.result.as_ref().unwrap_or_else(|error| panic!("{error}: {}", self.stderr))
    }

    pub(super) fn outcome(&self) -> Outcome {
        self.exit().outcome
    }

    pub(super) fn program_error(&self) -> Option<i32> {
        match &self.result {
            Err(RunError::Program { source, .. }) => source.raw_os_error(),
            other => panic!("{other:?}"),
        }
    }
}

// === processes of the host ===

/// Ids of the host's processes that have `marker` among their arguments.
pub(super) fn marked(marker: &str) -> Vec<u32> {
    let has = |pid: u32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        arguments.split(|byte| *byte == 0).any(|argument| argument == marker.as_bytes())
    };
    let names = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.to_str()?.parse().ok()).filter(|pid| has(*pid)).collect()
}

pub(super) fn parent(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

pub(super) fn kill(pid: u32) {
    assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
}

pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A number of seconds to sleep that no other process sleeps, so that it can be found.
pub(super) fn unique_nap() -> String {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{}{:03}", 100_000 + std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
