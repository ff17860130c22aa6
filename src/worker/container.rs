//! [`Containers`]: runs commands in container images, by podman or docker.
//!
//! What an image needs (to be fetched, unpacked, mounted) is the business of tools that exist. This module has
//! one of them make a container of the image with the inputs at their place, run the command in it, and
//! take it away again. The tool is called as a person would call it; nothing of its files is touched.
//!
//! Promises: no network but a loopback interface unless asked for; no capabilities and no new privileges; when a
//! run has returned nothing of the container is left, whether the command ended, its time was over or it was
//! cancelled. A node that was killed removes its containers at the next start ([`Containers::clear`]).
//!
//! The command is the first process of its container, as it is everywhere with these tools. It has the
//! variables of the image besides its own. It runs as the user of the node, who is root inside with podman, so
//! that what it writes is the node's. It stands still for nobody.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Resource, getgid, getrlimit, getuid};
use tokio::process::{Child, Command};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::sandbox::Memory;
use super::{Exit, InputRoot, Network, Outcome, PreparedCommand, RunError, Seat, Usage};
use crate::config::ContainerTool;
use crate::digest::{Digest, DigestFunction};
use crate::platform::ImageName;

/// Where docker listens, unless a variable says otherwise.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// Name of the file that tells that there were containers.
const MARKER: &str = "containers";

/// Characters of what a tool said that are passed on.
const WORDS: usize = 500;

/// How long a tool may take to take note of a kill.
const KILLING: Duration = Duration::from_secs(20);

/// How long it may take to end after a kill, before there is another.
const AGAIN: Duration = Duration::from_secs(1);

/// What of a container tells how it ended.
const STATE: &str = "{{.State.Status}} {{.State.ExitCode}}";

/// A tool that runs containers.
#[derive(Clone, Debug)]
pub struct Containers {
    program: PathBuf,
    kind: Kind,
    /// Label of all containers of this node.
    label: String,
    /// A file that is there once there were any.
    marker: PathBuf,
}

/// What the tool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Podman,
    Docker,
}

/// A place for one command, in a container of an image.
pub struct ContainerSeat {
    containers: Containers,
    image: ImageName,
    at: PathBuf,
}

/// How a container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    has_run: bool,
    exit_code: i32,
}

// === impl Containers ===

impl Containers {
    /// The tool that the setting allows and `path` (as in the variable `PATH`) has, for the node with its
    /// files in `directory`. That of docker counts only where its daemon answers.
    pub fn find(wanted: ContainerTool, path: &OsStr, directory: &Path) -> Option<Self> {
        let kinds: &[Kind] = match wanted {
            ContainerTool::Auto => &[Kind::Podman, Kind::Docker],
            ContainerTool::Podman => &[Kind::Podman],
            ContainerTool::Docker => &[Kind::Docker],
            ContainerTool::Off => &[],
        };
        let (kind, program) = kinds.iter().find_map(|kind| {
            let program = program(path, kind.name())?;
            kind.is_ready().then_some((*kind, program))
        })?;
        let of_directory = Digest::of(DigestFunction::Sha256, directory.as_os_str().as_encoded_bytes());
        let label = format!("farmhand.node={}", &of_directory.hash_hex()[..16]);
        Some(Self { program, kind, label, marker: directory.join(MARKER) })
    }

    /// Name of the tool.
    pub fn tool(&self) -> &'static str {
        self.kind.name()
    }

    /// User and group that actions are inside.
    pub fn ids(&self) -> (u32, u32) {
        match self.kind {
            Kind::Podman => (0, 0),
            Kind::Docker => (getuid().as_raw(), getgid().as_raw()),
        }
    }

    /// Removes what an earlier process of this node left. Where there never was a container, the tool is not
    /// called.
    ///
    /// # Errors
    /// The tool's words.
    pub async fn clear(&self) -> io::Result<()> {
        if !self.marker.exists() {
            return Ok(());
        }
        let filter = format!("label={}", self.label);
        let listed = self.call(["ps", "--all", "--quiet", "--filter", &filter]).await?;
        let names = String::from_utf8_lossy(&listed.stdout).into_owned();
        for name in names.split_whitespace() {
            self.call(["rm", "--force", name]).await?;
        }
        Ok(())
    }

    /// A place in a container of `image`, with the inputs at `at`, once the image is here: fetched if it is
    /// not. `None` if that was cancelled.
    ///
    /// # Errors
    /// [`RunError::Image`] with the tool's words.
    pub async fn seat(
        &self,
        image: ImageName,
        at: PathBuf,
        cancel: &CancellationToken,
    ) -> Result<Option<ContainerSeat>, RunError> {
        let bring = async {
            if self.call(["image", "inspect", "--format", "{{.Id}}", image.as_str()]).await.is_err() {
                self.call(["pull", "--quiet", image.as_str()])
                    .await
                    .map_err(|source| RunError::Image { image: image.as_str().to_owned(), source })?;
            }
            Ok::<_, RunError>(())
        };
        // A call that is dropped is killed.
        match cancel.run_until_cancelled(bring).await {
            Some(brought) => brought?,
            None => return Ok(None),
        }
        Ok(Some(ContainerSeat { containers: self.clone(), image, at }))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Calls the tool and waits for its end. What it says when it fails is the error.
    async fn call(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> io::Result<Output> {
        let output = self.command().args(arguments).output().await?;
        if output.status.success() { Ok(output) } else { Err(failed(&output)) }
    }

    /// What makes a container and runs `command` in it, with its streams.
    fn run_call(
        &self,
        name: &str,
        seat: &ContainerSeat,
        command: &PreparedCommand,
        directory: &Path,
    ) -> io::Result<Command> {
        let mut mount = OsString::from(directory);
        mount.push(":");
        mount.push(&seat.at);
        // Joining an empty path would add a slash.
        let workdir = if command.working_directory.as_os_str().is_empty() {
            seat.at.clone()
        } else {
            seat.at.join(&command.working_directory)
        };
        let network = match command.network {
            Network::Loopback => "none",
            Network::Host => "host",
        };
        let (user, group) = self.ids();
        let mut call = self.command();
        call.stdout(command.stdout.try_clone()?).stderr(command.stderr.try_clone()?);
        call.args(["run", "--name", name, "--label", &self.label, "--pull=never", "--log-driver=none"])
            .args(["--cap-drop=all", "--security-opt=no-new-privileges", "--security-opt=label=disable"])
            .args(["--network", network, "--entrypoint="])
            .arg("--volume")
            .arg(mount)
            .arg("--workdir")
            .arg(workdir)
            .args(["--user", &format!("{user}:{group}")])
            .args(limits(command.limits.processes));
        if let (Kind::Docker, Some(processes)) = (self.kind, command.limits.processes) {
            call.args(["--pids-limit", &processes.to_string()]);
        }
        for (name, value) in &command.environment {
            let mut variable = name.clone();
            variable.push("=");
            variable.push(value);
            call.arg("--env").arg(variable);
        }
        call.arg(seat.image.as_str()).args(&command.arguments);
        Ok(call)
    }

    /// Makes a container and runs it to its end, or to the end of its time.
    async fn run(
        &self,
        name: &str,
        (seat, directory): (&ContainerSeat, &Path),
        command: &PreparedCommand,
        cancel: &CancellationToken,
    ) -> io::Result<Outcome> {
        if !self.marker.exists() {
            std::fs::write(&self.marker, "")?;
        }
        let mut attached = self.run_call(name, seat, command, directory)?.spawn()?;
        let time_is_over = async {
            match command.limits.timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            biased;
            ended = attached.wait() => {
                let code = ended?.code();
                return self.outcome(name, code, command).await;
            }
            () = cancel.cancelled() => Outcome::Cancelled,
            () = time_is_over => Outcome::TimedOut,
        };
        self.end(name, &mut attached).await?;
        Ok(outcome)
    }

    /// Kills a container, which may be about to begin or to end, and waits until the tool has seen its end.
    async fn end(&self, name: &str, attached: &mut Child) -> io::Result<()> {
        let end = async {
            loop {
                // What has not begun yet, or is over, cannot be killed.
                let _ = self.call(["kill", name]).await;
                if let Ok(ended) = tokio::time::timeout(AGAIN, attached.wait()).await {
                    return ended.map(drop);
                }
            }
        };
        tokio::time::timeout(KILLING, end)
            .await
            .unwrap_or_else(|_| Err(io::Error::other(format!("{} did not end the container", self.tool()))))
    }

    /// How a container ended whose tool ended with `code`.
    async fn outcome(&self, name: &str, code: Option<i32>, command: &PreparedCommand) -> io::Result<Outcome> {
        let told = self.call(["inspect", "--format", STATE, name]).await;
        let state = told.ok().and_then(|told| State::parse(&String::from_utf8_lossy(&told.stdout)));
        let kind = match (state, code) {
            (Some(State { has_run: true, exit_code }), _) => return Ok(Outcome::Exited(exit_code)),
            (Some(_), Some(127)) => io::ErrorKind::NotFound,
            (Some(_), Some(126)) => io::ErrorKind::PermissionDenied,
            _ => {
                // Its own words are where those of the command would be.
                let own = format!("/proc/self/fd/{}", command.stderr.as_raw_fd());
                let words = std::fs::read(own).unwrap_or_default();
                return Err(io::Error::other(shown(&words, "it says nothing")));
            }
        };
        let program = command.arguments.first().map(|program| program.to_string_lossy().into_owned());
        Err(io::Error::new(kind, NotStarted(program.unwrap_or_default())))
    }
}

/// The command of a container could not be started.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} cannot be executed in the image")]
struct NotStarted(String);

// === impl Kind ===

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Podman => "podman",
            Self::Docker => "docker",
        }
    }

    /// Whether it has all it needs besides its program.
    fn is_ready(self) -> bool {
        match self {
            Self::Podman => true,
            Self::Docker => {
                std::env::var_os("DOCKER_HOST").is_some() || UnixStream::connect(DOCKER_SOCKET).is_ok()
            }
        }
    }
}

// === impl State ===

impl State {
    /// Reads the answer to [`STATE`].
    fn parse(text: &str) -> Option<Self> {
        let (status, exit_code) = text.trim().split_once(' ')?;
        let has_run = !matches!(status, "created" | "configured" | "initialized");
        Some(Self { has_run, exit_code: exit_code.parse().ok()? })
    }
}

// === impl ContainerSeat ===

#[async_trait]
impl Seat for ContainerSeat {
    fn memory(&self) -> Option<&std::sync::Arc<Memory>> {
        None
    }

    async fn run(&mut self, command: PreparedCommand, cancel: CancellationToken) -> Result<Exit, RunError> {
        let InputRoot::Plain { directory } = &command.root else {
            return Err(setup("mount the input root", io::ErrorKind::InvalidInput.into()));
        };
        let containers = &self.containers;
        if command.ids != containers.ids() {
            let (user, group) = containers.ids();
            let words =
                format!("with {} actions are {user}:{group} in an image, and no other", containers.tool());
            return Err(RunError::Image {
                image: self.image.as_str().to_owned(),
                source: io::Error::other(words),
            });
        }
        let name = format!("farmhand-{}", Uuid::new_v4());
        let started = Instant::now();
        let ended = containers.run(&name, (&*self, directory.as_path()), &command, &cancel).await;
        let wall = started.elapsed();
        if let Err(error) = containers.call(["rm", "--force", &name]).await {
            tracing::warn!(%error, name, "a container was not removed");
        }
        let outcome = ended.map_err(|source| {
            match source.get_ref().and_then(|inner| inner.downcast_ref::<NotStarted>()) {
                Some(NotStarted(program)) => RunError::Program { program: program.clone(), source },
                None => setup("run a container", source),
            }
        })?;
        Ok(Exit { outcome, wall, usage: Usage::default(), memory_exceeded: None })
    }
}

/// Limits that are not above those of this process: by default the tools ask for more than may be had.
fn limits(processes: Option<u64>) -> [String; 4] {
    let number = |limit: Option<u64>| limit.map_or("-1".to_owned(), |limit| limit.to_string());
    let files = getrlimit(Resource::Nofile);
    let most = getrlimit(Resource::Nproc).maximum;
    let processes = number(most.into_iter().chain(processes).min());
    let files = format!("nofile={}:{}", number(files.current), number(files.maximum));
    let option = || "--ulimit".to_owned();
    [option(), files, option(), format!("nproc={processes}:{processes}")]
}

fn setup(step: &str, source: io::Error) -> RunError {
    RunError::Setup { step: step.to_owned(), source }
}

/// What a tool said when it failed.
fn failed(output: &Output) -> io::Error {
    io::Error::other(shown(&output.stderr, &output.status.to_string()))
}

/// The words of a tool in one line, or others where it has none.
fn shown(words: &[u8], or: &str) -> String {
    let words = String::from_utf8_lossy(words);
    let words = words.trim().replace('\n', "; ");
    if words.is_empty() {
        return or.to_owned();
    }
    words.chars().filter(|c| !c.is_control()).take(WORDS).collect()
}

/// The first program called `name` in the directories of `path`.
fn program(path: &OsStr, name: &str) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|directory| directory.join(name))
        .find(|program| rustix::fs::access(program, rustix::fs::Access::EXEC_OK).is_ok() && program.is_file())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn states_are_told_apart() {
        let state = |has_run, exit_code| Some(State { has_run, exit_code });
        assert_eq!(State::parse("exited 3\n"), state(true, 3));
        assert_eq!(State::parse("created 127"), state(false, 127));
        assert_eq!(State::parse("stopped 137"), state(true, 137));
        for text in ["", "exited", "exited x"] {
            assert_eq!(State::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_tool_is_found_where_the_setting_allows_it() {
        let directory = tempfile::tempdir().unwrap();
        let find = |wanted| Containers::find(wanted, directory.path().as_os_str(), Path::new("/data"));
        assert!(find(ContainerTool::Auto).is_none());
        std::fs::write(directory.path().join("podman"), "#!/bin/sh\n").unwrap();
        assert!(find(ContainerTool::Auto).is_none(), "not executable");
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path().join("podman"), executable).unwrap();
        assert_eq!(find(ContainerTool::Auto).unwrap().tool(), "podman");
        assert_eq!(find(ContainerTool::Podman).unwrap().ids(), (0, 0));
        assert!(find(ContainerTool::Docker).is_none() && find(ContainerTool::Off).is_none());
    }
}
