//! `farmhand serve`: a node in the foreground, from its start to its clean end.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::error::{CliError, Explain, chain};
use super::output::{print, shell_word};
use super::signals::Signals;
use crate::cas::disk::OpenError;
use crate::config::{Config, Host, RawConfig};
use crate::node::{Endpoints, Node, NodeError, StartProgress};
use crate::peer::trust::TrustError;
use crate::tasks::{self, Heartbeat};
use crate::telemetry;
use crate::worker::RunError;

/// How long threads that wait for a disk may hold up the end of the process.
pub(super) const LAST_THREADS: Duration = Duration::from_secs(5);

/// Serve the build tools of this machine
///
/// Opens the Remote Execution API on localhost, over TCP and on a Unix socket. When it serves, one
/// line is printed: `ready: reapi=ADDR peers=ADDR control=SOCKET` (`-` for a door that is not
/// open). SIGTERM and Ctrl-C end it cleanly; a second one ends it at once.
///
/// Other machines of the same farm are looked for on the local networks and linked with: see
/// `farmhand machines`.
///
/// Every flag is also a variable, shown beside it, and a key of the configuration file. A flag wins
/// over a variable, a variable over the file; of a flag given twice the last one counts.
#[derive(Debug, clap::Args)]
#[command(
    args_override_self = true,
    after_help = "Examples:\n  farmhand serve\n  farmhand serve --slots 4 --disk-budget 50GiB\n  FARMHAND_LISTEN=127.0.0.1:9000 farmhand serve --data-dir /srv/farmhand"
)]
pub(super) struct ServeArgs {
    /// Configuration file; ~/.config/farmhand/farmhand.toml if not set and there
    #[arg(long, env = "FARMHAND_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Process that started this one, which ends when that does
    #[arg(long, env = "FARMHAND_END_WITH", value_name = "PID", hide = true)]
    end_with: Option<i32>,
    #[command(flatten)]
    settings: RawConfig,
}

// === impl ServeArgs ===

impl ServeArgs {
    /// The settings these arguments mean, on this host.
    pub(super) fn config(self) -> Result<Config, CliError> {
        load(self.config, self.settings)
    }
}

/// Serves until a signal comes.
pub(super) fn run(args: ServeArgs) -> Result<(), CliError> {
    if let Some(parent) = args.end_with {
        end_with(parent)?;
    }
    serve_with(args.config()?)
}

/// Asks the kernel for a SIGTERM at the end of the process that started this one, however it ends.
fn end_with(parent: i32) -> Result<(), CliError> {
    let set = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    set.explain("cannot end with another process")?;
    match rustix::process::getppid() {
        Some(found) if found.as_raw_pid() == parent => Ok(()),
        _ => Err(CliError::new("the process that started this one is gone")),
    }
}

/// Serves with these settings until a signal comes.
pub(super) fn serve_with(config: Config) -> Result<(), CliError> {
    telemetry::init(&config.log)?;
    let runtime = tasks::runtime().explain("cannot start the runtime")?;
    let _heartbeat = Heartbeat::start(runtime.handle().clone()).explain("cannot start the runtime")?;
    let outcome = runtime.block_on(serve(config));
    runtime.shutdown_timeout(LAST_THREADS);
    outcome
}

/// The settings on this host, from all their layers. A file that was named must be there.
pub(super) fn load(file: Option<PathBuf>, flags: RawConfig) -> Result<Config, CliError> {
    let host = Host::detect();
    let path = file_of(file, &host);
    let mut config = Config::resolve(flags, read_at(path.as_deref())?, &host)?;
    config.files.extend(path);
    Ok(config)
}

/// The layer of the configuration file: the one named, else that of the user, if there is one.
pub(super) fn read(file: Option<PathBuf>, host: &Host) -> Result<RawConfig, CliError> {
    read_at(file_of(file, host).as_deref())
}

fn file_of(named: Option<PathBuf>, host: &Host) -> Option<PathBuf> {
    named.or_else(|| host.config_file.clone().filter(|path| path.exists()))
}

fn read_at(path: Option<&Path>) -> Result<RawConfig, CliError> {
    Ok(path.map(RawConfig::read).transpose()?.unwrap_or_default())
}

async fn serve(config: Config) -> Result<(), CliError> {
    // Before the start, so that a signal during a long rebuild counts too.
    let mut signals = Signals::of_service().explain("cannot wait for signals")?;
    let progress = Arc::new(Rebuild::new(ProgressDrawTarget::stderr(), io::stderr().is_terminal()));
    let node = tokio::select! {
        node = Node::start(config, progress.clone()) => node.map_err(explain_start)?,
        () = signals.next() => return Ok(()),
    };
    progress.finish();
    let outcome = until_its_end(&node, &mut signals).await;
    tracing::info!("ending; a second signal ends at once");
    tokio::select! {
        () = node.stop() => outcome,
        () = signals.next() => std::process::exit(130),
    }
}

/// Tells that the node is ready and waits for a reason to end it.
async fn until_its_end(node: &Node, signals: &mut Signals) -> Result<(), CliError> {
    print(&ready_line(node.endpoints()))?;
    tokio::select! {
        () = signals.next() => Ok(()),
        () = node.stopped() => {
            Err(CliError::new("the node ended by itself").hint("the log lines above say why"))
        }
    }
}

/// The line scripts wait for.
fn ready_line(endpoints: &Endpoints) -> String {
    let peers = endpoints.peers.map_or_else(|| "-".to_owned(), |address| address.to_string());
    format!("ready: reapi={} peers={peers} control={}\n", endpoints.reapi, endpoints.control.display())
}

pub(super) fn explain_start(error: NodeError) -> CliError {
    let explained = CliError::new(chain(&error));
    match remedy(&error) {
        Some(hint) => explained.hint(hint),
        None => explained,
    }
}

fn remedy(error: &NodeError) -> Option<String> {
    match error {
        NodeError::Listen { address, source, .. } if address.starts_with('/') => Some(match source.kind() {
            io::ErrorKind::AddrInUse => {
                "another node is running: see farmhand status, or give this one a --runtime-dir".to_owned()
            }
            _ => "choose a directory of this user's own with --runtime-dir".to_owned(),
        }),
        NodeError::Listen { door, address, source } if source.kind() == io::ErrorKind::AddrInUse => {
            let port = address.rsplit(':').next().unwrap_or(address);
            Some(format!("another program has port {port}; choose a free one with {}", flag(door)))
        }
        NodeError::Listen { door, source, .. } if source.kind() == io::ErrorKind::AddrNotAvailable => {
            Some(format!("no interface of this machine has that address; use {}", flag(door)))
        }
        NodeError::Listen { door, source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Some(format!("ports below 1024 need rights; choose a higher one with {}", flag(door)))
        }
        NodeError::Trust(error) => trust_remedy(error),
        NodeError::Store(error) => store_remedy(error).map(ToOwned::to_owned),
        NodeError::Sandbox { remedies, .. } => {
            let first = remedies.first().map_or("farmhand doctor says more", String::as_str);
            Some(format!("{first}; or set --sandbox auto"))
        }
        NodeError::Spawners(RunError::Setup { source, .. }) if !is_want(source) => {
            Some("farmhand doctor says more".to_owned())
        }
        NodeError::Spawners(_) => {
            Some("lower --slots, or raise the limits of open files and processes (ulimit -n, -u)".to_owned())
        }
        NodeError::Listen { .. } | NodeError::Io { .. } => None,
    }
}

/// The flag that opens a door elsewhere.
fn flag(door: &str) -> &'static str {
    if door == "peers" { "--peer-listen 0.0.0.0:PORT" } else { "--listen 127.0.0.1:PORT" }
}

/// Whether it is for want of descriptors, processes or memory.
fn is_want(error: &io::Error) -> bool {
    let wants = [libc::EMFILE, libc::ENFILE, libc::EAGAIN, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| wants.contains(&code))
}

fn trust_remedy(error: &TrustError) -> Option<String> {
    let named = |path: &Path| shell_word(&path.display().to_string());
    Some(match error {
        TrustError::Exposed { path, .. } => format!("chmod 600 {}", named(path)),
        TrustError::Foreign { path, .. } => {
            format!("chown {} {}", rustix::process::geteuid().as_raw(), named(path))
        }
        TrustError::Key { .. } | TrustError::Odd { .. } => {
            "it holds the twelve words that farmhand key show prints on a member; put them back, or remove \
             the file to begin a farm anew"
                .to_owned()
        }
        TrustError::Machine { path } => {
            format!("put it back, or remove {} to be a new machine, and join the farm again", named(path))
        }
        TrustError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            "farmhand key new -o FILE makes one; --farm-key-file names it".to_owned()
        }
        TrustError::Io { .. } => "give this user the file, or name another with --farm-key-file".to_owned(),
        TrustError::Fixed { .. } | TrustError::Busy | TrustError::Former | TrustError::Certificate(_) => {
            return None;
        }
    })
}

fn store_remedy(error: &OpenError) -> Option<&'static str> {
    match error {
        OpenError::InUse { .. } => {
            Some("a node is running there: see farmhand status, or give this one a --data-dir")
        }
        OpenError::ReadOnly { .. } | OpenError::Io { .. } => {
            Some("give this user the directory, or choose another with --data-dir")
        }
        OpenError::Newer { .. } => Some("start the newer version, or give this one a --data-dir of its own"),
        OpenError::Malformed { .. } => Some("put the file back, or start afresh with another --data-dir"),
    }
}

/// Shows how far a rebuild of the index is: a bar on a terminal, else a log line for each tenth.
pub(super) struct Rebuild {
    bar: ProgressBar,
    tenth: std::sync::atomic::AtomicU64,
}

// === impl Rebuild ===

impl Rebuild {
    /// On `target`, if that is a terminal.
    pub(super) fn new(target: ProgressDrawTarget, is_terminal: bool) -> Self {
        let target = if is_terminal { target } else { ProgressDrawTarget::hidden() };
        let style = ProgressStyle::with_template("rebuilding the index {bar:30} {percent}% {eta}")
            .expect("invariant: the template is constant");
        Self {
            bar: ProgressBar::with_draw_target(Some(0), target).with_style(style),
            tenth: std::sync::atomic::AtomicU64::new(0),
        }
    }

    /// The start is over.
    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl StartProgress for Rebuild {
    fn rebuilding(&self, done: u64, total: u64) {
        if !self.bar.is_hidden() {
            self.bar.set_length(total);
            self.bar.set_position(done);
            return;
        }
        let tenth = done.saturating_mul(10).checked_div(total).unwrap_or(0);
        if self.tenth.swap(tenth, std::sync::atomic::Ordering::Relaxed) != tenth {
            tracing::info!(percent = tenth * 10, "rebuilding the index");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_is_the_contract() {
        let mut endpoints = Endpoints {
            reapi: ([127, 0, 0, 1], 8980).into(),
            reapi_socket: "/r/reapi.sock".into(),
            peers: None,
            control: "/r/control.sock".into(),
        };
        let line = "ready: reapi=127.0.0.1:8980 peers=- control=/r/control.sock\n";
        assert_eq!(ready_line(&endpoints), line);
        endpoints.peers = Some(([0, 0, 0, 0], 8981).into());
        assert!(ready_line(&endpoints).contains(" peers=0.0.0.0:8981 "));
    }

    #[test]
    fn a_taken_port_has_a_remedy() {
        let error = explain_start(NodeError::Listen {
            door: "reapi",
            address: "127.0.0.1:8980".into(),
            source: io::ErrorKind::AddrInUse.into(),
        });
        assert!(format!("{error:?}").contains("another program has port 8980"), "{error:?}");
        let socket = |kind: io::ErrorKind| {
            let address = "/run/x/control.sock".into();
            format!(
                "{:?}",
                explain_start(NodeError::Listen { door: "control", address, source: kind.into() })
            )
        };
        assert!(socket(io::ErrorKind::AddrInUse).contains("another node is running"));
        assert!(socket(io::ErrorKind::ReadOnlyFilesystem).contains("directory of this user's own"));
    }

    #[test]
    fn spawners_that_do_not_start_have_the_remedy_that_fits() {
        let remedy = |code| {
            let source = io::Error::from_raw_os_error(code);
            remedy(&NodeError::Spawners(RunError::Setup { step: "fork".to_owned(), source })).unwrap()
        };
        assert!(remedy(libc::EMFILE).contains("--slots"));
        assert!(remedy(libc::ENOENT).contains("doctor"));
    }
}
