//! `farmhand doctor`: what this machine gives a node, and what is done where it does not.
//!
//! A check is a function from [`Facts`] to a [`Check`]; [`CHECKS`] is the list. What follows from the network
//! and its machines is as long as there are of these. Checks only look,
//! try and clean up: they change nothing.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::path::PathBuf;

use serde::Serialize;

use super::error::CliError;
use super::harmless::harmless;
use super::output::{Paint, print, print_json};
use super::serve;
use crate::config::{Config, RawConfig};
use crate::platform::toolchain::{self, Toolchain};
use crate::worker::sandbox::SandboxSupport;

mod kernel;
mod machine;
mod network;

/// Check what this machine gives a node, and what is done instead
///
/// The flags and variables of `serve` are those of the node that is meant; only the usual ones are
/// listed here.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  farmhand doctor\n  farmhand doctor --json | jq '.[] | select(.state != \"ok\")'"
)]
pub(super) struct DoctorArgs {
    /// Configuration file of the node
    #[arg(long, env = "FARMHAND_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: RawConfig,
    /// Print JSON: a list of objects with name, state (ok, degraded, failed), detail and instead
    #[arg(long)]
    json: bool,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum CheckState {
    /// As it should be.
    Ok,
    /// A node works, but something is done another way.
    Degraded,
    /// A node does not start, or fails at its work.
    Failed,
}

/// The outcome of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    name: Cow<'static, str>,
    state: CheckState,
    /// What was found.
    detail: String,
    /// What is done instead, or what to do; `None` where all is well.
    instead: Option<String>,
}

/// What the checks look at.
pub(super) struct Facts {
    config: Config,
    /// The data directory, or its nearest ancestor that exists.
    disk: PathBuf,
    /// Whether a node answers on the control socket.
    running: bool,
    /// What of the sandbox works.
    sandbox: SandboxSupport,
    /// Who else is there.
    network: network::Network,
    /// Compilers and libraries that actions see.
    toolchain: Toolchain,
}

/// All checks, in the order in which they are told.
const CHECKS: [fn(&Facts) -> Check; 15] = [
    kernel::release,
    kernel::namespaces,
    kernel::overlay,
    kernel::cgroups,
    machine::user,
    machine::data_directory,
    machine::reflinks,
    machine::disk_space,
    machine::file_descriptors,
    machine::clock,
    machine::port,
    machine::peer_port,
    machine::toolchain,
    machine::containers,
    machine::persistent_workers,
];

/// Runs all checks; fails when one of them did.
pub(super) async fn run(args: DoctorArgs) -> Result<(), CliError> {
    let mut facts = Facts::gather(serve::load(args.config, args.settings)?);
    facts.sandbox = kernel::try_sandbox(&facts.disk).await;
    facts.network = network::Network::look(&facts.config).await;
    let remembered = Toolchain::remembered(&facts.config.data_dir.join(toolchain::FILE));
    facts.toolchain = Toolchain::look(&toolchain::PATHS, &remembered).await;
    let checks = CHECKS.iter().map(|check| check(&facts)).chain(network::checks(&facts));
    let checks: Vec<Check> = checks.collect();
    if args.json {
        print_json(&checks)?;
    } else {
        print(&to_text(&checks, Paint::stdout()))?;
    }
    match checks.iter().filter(|check| check.state == CheckState::Failed).count() {
        0 => Ok(()),
        failed => Err(CliError::new(format!("{failed} of {} checks failed", checks.len()))
            .hint("the lines marked ✗ say what to do")),
    }
}

// === impl Facts ===

impl Facts {
    /// All that is known without starting a child.
    fn gather(config: Config) -> Self {
        let disk = config.data_dir.ancestors().find(|path| path.is_dir());
        let disk = disk.map_or_else(|| PathBuf::from("/"), ToOwned::to_owned);
        let socket = config.runtime_dir.join("control.sock");
        let running = std::os::unix::net::UnixStream::connect(socket).is_ok();
        let sandbox = kernel::unknown("no child was started");
        let (network, toolchain) = (network::Network::default(), Toolchain::default());
        Self { config, disk, running, sandbox, network, toolchain }
    }
}

// === impl Check ===

impl Check {
    fn ok(name: impl Into<Cow<'static, str>>, detail: impl Into<String>) -> Self {
        let name = name.into();
        Self { name, state: CheckState::Ok, detail: detail.into(), instead: None }
    }

    fn degraded(
        name: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
        instead: impl Into<String>,
    ) -> Self {
        let name = name.into();
        Self { name, state: CheckState::Degraded, detail: detail.into(), instead: Some(instead.into()) }
    }

    fn failed(
        name: impl Into<Cow<'static, str>>,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let name = name.into();
        Self { name, state: CheckState::Failed, detail: detail.into(), instead: Some(remedy.into()) }
    }
}

fn to_text(checks: &[Check], paint: Paint) -> String {
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    // Names and reasons come from other machines too.
    for Check { name, state, detail, instead } in checks {
        let mark = match state {
            CheckState::Ok => paint.green("✓"),
            CheckState::Degraded => paint.yellow("~"),
            CheckState::Failed => paint.red("✗"),
        };
        let _ = writeln!(text, "{mark} {:<width$}  {}", harmless(name), harmless(detail));
        if let Some(instead) = instead {
            let _ = writeln!(text, "  {:<width$}  {} {}", "", paint.cyan("→"), harmless(instead));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::values::Listen;
    use crate::config::{Host, SandboxMode};

    fn facts(directory: &std::path::Path) -> Facts {
        let flags = RawConfig {
            data_dir: Some(directory.join("data/deep")),
            runtime_dir: Some(directory.join("run")),
            listen: Some(Listen(([127, 0, 0, 1], 0).into())),
            peer_listen: Some(Listen(([127, 0, 0, 1], 0).into())),
            ..RawConfig::default()
        };
        Facts::gather(Config::resolve(flags, RawConfig::default(), &Host::detect()).unwrap())
    }

    #[test]
    fn every_check_says_something_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let facts = facts(directory.path());
        assert_eq!(facts.disk, directory.path());
        let mut names = std::collections::HashSet::new();
        for check in CHECKS {
            let check = check(&facts);
            assert!(!check.detail.is_empty() && names.insert(check.name.clone()), "{check:?}");
            assert_eq!(check.instead.is_none(), check.state == CheckState::Ok, "{check:?}");
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_taken_port_fails() {
        let directory = tempfile::tempdir().unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut facts = facts(directory.path());
        facts.config.listen = taken.local_addr().unwrap();
        assert_eq!(machine::port(&facts).state, CheckState::Failed);
        facts.config.farm.listen = taken.local_addr().unwrap();
        assert_eq!(machine::peer_port(&facts).state, CheckState::Failed);
        facts.running = true;
        assert_eq!(machine::port(&facts).state, CheckState::Ok);
        assert_eq!(machine::peer_port(&facts).state, CheckState::Ok);
    }

    #[test]
    fn a_missing_sandbox_fails_only_where_it_is_required() {
        let directory = tempfile::tempdir().unwrap();
        let mut facts = facts(directory.path());
        assert_eq!(kernel::overlay(&facts).state, CheckState::Degraded);
        facts.config.sandbox = SandboxMode::Require;
        assert_eq!(kernel::overlay(&facts).state, CheckState::Failed);
        facts.sandbox.overlay = Ok(());
        assert_eq!(kernel::overlay(&facts).state, CheckState::Ok);
        assert_eq!(kernel::namespaces(&facts).state, CheckState::Failed);
    }

    #[test]
    fn text_has_a_mark_and_a_remedy() {
        let checks = [Check::ok("a", "fine"), Check::degraded("long", "not there", "done by hand")];
        let text = to_text(&checks, Paint::plain());
        assert_eq!(text, "✓ a     fine\n~ long  not there\n        → done by hand\n");
    }

    #[test]
    fn what_other_machines_say_steers_no_terminal() {
        let check = Check::degraded("machine \u{1b}[2J", "it is \u{1b}]0;mine\u{7}\u{202e}", "\u{9b}2J");
        let text = to_text(&[check], Paint::plain());
        assert!(!text.chars().any(|c| c != '\n' && c.is_control() || c == '\u{202e}'), "{text:?}");
        assert!(text.contains("it is ␛]0;mine␇"), "{text:?}");
    }

    #[test]
    fn json_has_the_documented_keys() {
        let json = serde_json::to_value([Check::failed("a", "b", "c")]).unwrap();
        assert_eq!(
            json,
            serde_json::json!([{ "name": "a", "state": "failed", "detail": "b", "instead": "c" }])
        );
    }
}
