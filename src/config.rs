//! Settings: many layers in, one validated [`Config`] out.
//!
//! A flag wins over a variable, a variable over the file, the file over the defaults, which stand
//! in `assets/farmhand.toml` and are compiled in. [`raw`] holds the layers as written, [`values`]
//! the sizes, durations and addresses in them, [`network`] machines and interfaces, [`paths`] what the
//! host decides, `set` puts the layers together, `checks` says what each setting may be, `listed` writes them
//! down again for people. Nobody else parses or checks a setting, and nobody else reads the environment for
//! one.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;

use crate::digest::DigestFunction;
use crate::instance::InstanceName;
use set::Set;

mod checks;
mod listed;
pub mod network;
pub mod paths;
pub mod raw;
mod set;
pub mod values;

pub use listed::Setting;
pub use network::{HostPattern, InterfacePattern, Network, PeerAddress, ProxyAddress};
pub use paths::Host;
pub use raw::RawConfig;
pub use values::{ChunkSize, DiskBudget, MemoryShare, SlotShare};

/// The settings of a node, all of them valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Name of this machine; not empty.
    pub name: String,
    /// Address of the Remote Execution API; loopback unless [`insecure_lan`](Self::insecure_lan).
    pub listen: SocketAddr,
    /// Whether the API may be served beyond loopback without TLS.
    pub insecure_lan: bool,
    /// Connections at once; 16 at least.
    pub max_connections: usize,
    /// Connections at once from one address other than loopback; 1 at least.
    pub max_connections_per_address: usize,
    /// How long a client may take to begin.
    pub handshake_timeout: Duration,
    /// Bytes for messages that are not complete and answers not taken yet; 64 MiB at least.
    pub message_memory: u64,
    /// Absolute path of the data directory; need not exist.
    pub data_dir: PathBuf,
    /// Absolute path of the directory of the sockets; need not exist.
    pub runtime_dir: PathBuf,
    /// What the store may use.
    pub disk_budget: DiskBudget,
    /// Bytes of the largest blob taken.
    pub max_blob_size: u64,
    /// Mean size of the chunks that blobs are split into.
    pub chunk_size: ChunkSize,
    /// How long a blob that a client knows of is kept for sure.
    pub lease: Duration,
    /// When writes are acknowledged.
    pub sync: SyncMode,
    /// Most time between two syncs.
    pub epoch_interval: Duration,
    /// Time in which everything stored is read once to find damage; zero for never.
    pub scrub_interval: Duration,
    /// Finished actions that are remembered; 1,000 at least.
    pub history: u64,
    /// Committed size of compressed uploads.
    pub compressed_committed_size: CommittedSize,
    /// What becomes of bodies at `/ac` that are no results.
    pub http_results: HttpResults,
    /// Actions that run at once; 1 at least.
    pub slots: usize,
    /// What actions of other machines may do here.
    pub guests: GuestConfig,
    /// Copies of blobs and results on several machines.
    pub copies: CopiesConfig,
    /// Downloads, and names for blobs.
    pub assets: AssetConfig,
    /// Whether actions get namespaces.
    pub sandbox: SandboxMode,
    /// What runs the container images that actions ask for.
    pub containers: ContainerTool,
    /// Memory of all actions together.
    pub action_memory: MemoryShare,
    /// Bytes of an action's `/tmp`, and of its `/dev/shm`.
    pub action_tmp: MemoryShare,
    /// Processes and threads of an action; [`LEAST_PROCESSES`] at least.
    pub action_processes: u64,
    /// Persistent workers that are kept.
    pub persistent_workers: PersistentWorkerConfig,
    /// Bytes of free disk below which the action that wrote most is ended; 0: never.
    pub disk_reserve: u64,
    /// What becomes of unknown platform properties where the instance does not say.
    pub unknown_properties: UnknownProperties,
    /// Pools this machine belongs to.
    pub pools: Vec<String>,
    /// Labels of this machine: name to its values.
    pub labels: BTreeMap<String, Vec<String>>,
    /// Time limit of actions that name none; not above [`max_timeout`](Self::max_timeout).
    pub default_timeout: Duration,
    /// Longest time limit an action may ask for.
    pub max_timeout: Duration,
    /// Actions that may wait.
    pub queue_limit: usize,
    /// How long finished operations are kept.
    pub keep_finished: Duration,
    /// How long an action without a client goes on.
    pub orphan_grace: Duration,
    /// How long an action without a client keeps its slot when another with a client needs it.
    pub orphan_yield: Duration,
    /// How often a state that did not change is told again to a client that waits.
    pub update_interval: Duration,
    /// Instances with settings of their own. If there are any, no others are served.
    pub instances: BTreeMap<InstanceName, InstanceSettings>,
    /// The other machines.
    pub farm: FarmConfig,
    /// Logs.
    pub log: LogConfig,
    /// Files that settings were read from, for people.
    pub files: Vec<PathBuf>,
}

/// Persistent workers that are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PersistentWorkerConfig {
    /// How many, by the slots there are.
    pub count: SlotShare,
    /// Memory of all idle ones together.
    pub memory: MemoryShare,
    /// How long one may be idle.
    pub idle: Duration,
}

/// What actions of other machines, the guests, may do here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestConfig {
    /// Of the slots, those for guests at most.
    pub slots: SlotShare,
    /// Slots that the person of this machine gets before others.
    pub reserve: usize,
    /// Whether guests may run while the machine runs on battery.
    pub on_battery: bool,
    /// Whether guests may run while programs of the machine wait for memory or disks, or little memory is left.
    pub under_pressure: bool,
    /// Of the slots for guests, those that they have while somebody uses the machine.
    pub while_used: SlotShare,
    /// How long after the last sign of a person the machine counts as used.
    pub used_for: Duration,
    /// What becomes of guests that run when fewer may.
    pub running: RunningGuests,
    /// What other machines are for actions that use the toolchain of the host.
    pub toolchain_rule: ToolchainRule,
}

/// How many machines have a copy of what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopiesConfig {
    /// Copies of each blob and result, where the farm has so many machines; 1 to [`MOST_COPIES`].
    pub wanted: usize,
    /// Machines that have what is written before that is acknowledged; 1 to [`wanted`](Self::wanted).
    pub before_ack: usize,
    /// How long a machine may be away before its copies are made anew on others.
    pub repair_after: Duration,
    /// Whether copies on this machine count.
    pub keep: KeepCopies,
}

/// From where build tools have things downloaded, and who names blobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AssetConfig {
    /// Hosts that may be asked; the first that fits decides.
    pub hosts: Vec<HostPattern>,
    /// Networks that are not public, and may be reached all the same.
    pub networks: Vec<Network>,
    /// Whether http will do.
    pub plain_http: bool,
    /// What to connect to in place of the hosts themselves.
    pub proxy: Option<ProxyAddress>,
    /// Bytes of one download, and of what an archive holds; 64 KiB at least.
    pub max_size: u64,
    /// Most time of one download; a second at least.
    pub timeout: Duration,
    /// Whether clients may name blobs and directories.
    pub push: bool,
}

/// How this node meets the other machines of its farm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FarmConfig {
    /// Address of the door for other machines.
    pub listen: SocketAddr,
    /// Whether to look for others on the network.
    pub discovery: bool,
    /// Machines to dial.
    pub peers: Vec<PeerAddress>,
    /// Interfaces to look for others on; empty for the usual ones.
    pub interfaces: Vec<InterfacePattern>,
    /// Whose builds those of this machine are; not empty.
    pub person: String,
    /// File of the farm key.
    pub key_file: Option<PathBuf>,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Directives of `tracing_subscriber::EnvFilter`.
    pub filter: String,
    /// Shape of a line.
    pub format: LogFormat,
}

/// Settings of one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceSettings {
    /// Function of digests in requests that name none.
    pub digest_function: DigestFunction,
    /// What the input root is to an action.
    pub input_root: InputRootMode,
    /// Whether actions run; without, the instance is a cache.
    pub execution: bool,
    /// Whether clients may write results.
    pub action_cache_updates: bool,
    /// What becomes of unknown platform properties.
    pub unknown_properties: UnknownProperties,
}

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SyncMode {
    /// Once it survives the death of the process; the disk follows within an epoch.
    #[default]
    Epoch,
    /// Once it is on the disk.
    Always,
}

/// What `committed_size` counts after a complete compressed upload. The protocol leaves it open, and
/// each choice is an error to some client. One that ends early, because the blob is there, is told -1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CommittedSize {
    /// By the tool's name: uncompressed bytes for Siso and the tools of the Go SDK, compressed bytes
    /// for all others.
    #[default]
    Auto,
    /// The compressed bytes received: Bazel, Buck2.
    Compressed,
    /// The size of the blob.
    Uncompressed,
}

/// What becomes of bodies that HTTP clients store as results, and that are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum HttpResults {
    /// They are kept as they are, for clients of HTTP alone.
    #[default]
    Any,
    /// They are refused.
    Checked,
}

/// Whether actions get namespaces of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SandboxMode {
    /// Where the kernel allows it.
    #[default]
    Auto,
    /// Always; the node does not start where it cannot.
    Require,
    /// Never.
    Off,
}

/// What runs the container images that actions ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ContainerTool {
    /// Podman if it is installed, else docker if its daemon answers.
    #[default]
    Auto,
    /// Podman.
    Podman,
    /// Docker.
    Docker,
    /// Nothing: such actions do not run here.
    Off,
}

/// What becomes of an action with a platform property that means nothing here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum UnknownProperties {
    /// Refused, with the name.
    #[default]
    Reject,
    /// Run as if it were not there.
    Ignore,
    /// Run where the labels have the same name and value.
    Match,
}

/// What becomes of guests that run when fewer may.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum RunningGuests {
    /// They go on to their end.
    #[default]
    Finish,
    /// They stand still until more may run again.
    Freeze,
    /// They are ended, and run elsewhere.
    HandBack,
}

/// What becomes of actions that use the host's toolchain, and of machines where that is another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum ToolchainRule {
    /// They never run there.
    Strict,
    /// They run there when no other machine has a slot.
    #[default]
    Warn,
}

/// Whether copies on a machine count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum KeepCopies {
    /// While it does not run on battery.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never: it keeps what it uses, and no other machine relies on that.
    Never,
}

/// What the input root is to an action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum InputRootMode {
    /// Decided by platform property, client, and whether it holds a shell.
    #[default]
    #[serde(rename = "auto")]
    Auto,
    /// The whole file system: it is `/`.
    #[serde(rename = "/")]
    Root,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Why there is no valid [`Config`].
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// The file holds something that is no setting.
    #[error("{}:{line}: {}{reason}", path.display(), if key.is_empty() { String::new() } else { format!("{key}: ") })]
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key on that line; may be empty.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A setting is well-formed and cannot be used.
    #[error("{key}: {reason}")]
    Invalid {
        /// The key.
        key: &'static str,
        /// Why not.
        reason: String,
        /// What to do instead.
        remedy: String,
    },
}

/// Copies that can be asked for at most.
pub const MOST_COPIES: usize = 8;

/// Processes without which hardly any compiler driver works.
pub const LEAST_PROCESSES: u64 = 16;

// === impl Config ===

impl Config {
    /// Validates `flags` (flags and variables) over `file` over the defaults, on `host`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] names the first setting that cannot be used.
    pub fn resolve(flags: RawConfig, file: RawConfig, host: &Host) -> Result<Self, ConfigError> {
        Set::new(flags, file).validate(host)
    }

    /// The settings of an instance without a table of its own.
    pub fn default_instance(&self) -> InstanceSettings {
        InstanceSettings {
            digest_function: DigestFunction::default(),
            input_root: InputRootMode::default(),
            execution: true,
            action_cache_updates: true,
            unknown_properties: self.unknown_properties,
        }
    }
}

/// The defaults on this machine.
impl Default for Config {
    fn default() -> Self {
        let mut host = Host::detect();
        host.data_dir.get_or_insert_with(|| std::env::temp_dir().join("farmhand-data"));
        Self::resolve(RawConfig::default(), RawConfig::default(), &host)
            .expect("invariant: the compiled-in defaults are valid, as a test shows")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::values::{ByteSize, Listen, Span};
    use super::*;

    fn host() -> Host {
        Host {
            name: "attic".into(),
            person: "u".into(),
            cores: 6,
            data_dir: Some("/home/u/.local/share/farmhand".into()),
            config_file: None,
            runtime_dir: "/run/user/7/farmhand".into(),
        }
    }

    fn file(text: &str) -> RawConfig {
        RawConfig::parse(text, Path::new("f.toml")).unwrap()
    }

    fn is_setting(line: &str) -> bool {
        line.starts_with('[') || line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '))
    }

    fn error_of(text: &str) -> String {
        RawConfig::parse(text, Path::new("f.toml"))
            .and_then(|file| Config::resolve(RawConfig::default(), file, &host()))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn the_defaults_as_a_file_are_the_default_config() {
        let as_file = Config::resolve(RawConfig::default(), file(raw::DEFAULTS), &Host::detect()).unwrap();
        assert_eq!(as_file, Config::default());
    }

    #[test]
    fn the_defaults_are_what_the_code_calls_default() {
        let config = Config::resolve(RawConfig::default(), RawConfig::default(), &host()).unwrap();
        assert_eq!((config.name.as_str(), config.slots), ("attic", 6));
        assert_eq!(config.listen, SocketAddr::from(([127, 0, 0, 1], 8980)));
        assert_eq!(config.disk_budget, DiskBudget::Auto);
        assert_eq!(config.sync, SyncMode::default());
        assert_eq!(config.sandbox, SandboxMode::default());
        assert_eq!(config.containers, ContainerTool::default());
        assert_eq!(config.unknown_properties, UnknownProperties::default());
        assert_eq!(config.compressed_committed_size, CommittedSize::default());
        assert_eq!(config.chunk_size, ChunkSize::default());
        assert_eq!(config.log.format, LogFormat::default());
        assert_eq!(config.guests.running, RunningGuests::default());
        assert_eq!(config.guests.toolchain_rule, ToolchainRule::default());
        assert_eq!(config.copies.keep, KeepCopies::default());
        assert_eq!(config.lease, Duration::from_secs(3 * 3600));
        assert!(config.instances.is_empty() && !config.insecure_lan);
    }

    /// Keys shown commented out are real ones too: uncommented, the file still parses, and an
    /// instance table with the values shown is the same as none.
    #[test]
    fn the_commented_out_defaults_are_valid() {
        let uncommented: String = raw::DEFAULTS
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if is_setting(rest) => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let config = Config::resolve(RawConfig::default(), file(&uncommented), &host()).unwrap();
        assert_eq!((config.name.as_str(), config.slots), ("attic", 8));
        assert_eq!(config.labels["room"], ["attic", "house"]);
        let name = InstanceName::parse("linux/main").unwrap();
        assert_eq!(config.instances[&name], config.default_instance());
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_defaults() {
        let flags =
            RawConfig { slots: Some(3), lease: Some(Span(Duration::from_secs(9))), ..Default::default() };
        let file = file("slots = 5\nmax-blob-size = \"2MiB\"\nname = \"cellar\"");
        let config = Config::resolve(flags, file, &host()).unwrap();
        assert_eq!(config.slots, 3);
        assert_eq!(config.lease, Duration::from_secs(9));
        assert_eq!(config.max_blob_size, 2 << 20);
        assert_eq!(config.name, "cellar");
        assert_eq!(config.max_timeout, Duration::from_secs(24 * 3600));
    }

    #[test]
    fn a_bad_file_is_told_with_line_and_key() {
        for (text, message) in [
            (
                "slots = 1\ndisk-budget = \"20XB\"",
                "f.toml:2: disk-budget: \"20XB\" is not a disk budget; write a size (50GiB), a share (10%), or auto",
            ),
            ("slotz = 1", "f.toml:1: slotz: unknown field `slotz`"),
            (
                "\n\nlease = true",
                "f.toml:3: lease: invalid type: boolean `true`, expected a text or a whole number",
            ),
            ("[instances.a]\nexecutes = 1", "f.toml:2: executes: unknown field `executes`"),
            ("slots = \"many\"", "f.toml:1: slots: invalid type: string \"many\", expected a whole number"),
            (
                "sandbox = \"on\"",
                "f.toml:1: sandbox: unknown variant `on`, expected one of `auto`, `require`, `off`",
            ),
        ] {
            assert!(error_of(text).starts_with(message), "{}", error_of(text));
            assert_eq!(error_of(text).lines().count(), 1);
        }
    }

    #[test]
    fn settings_that_cannot_work_are_refused_by_name() {
        for (text, start) in [
            ("listen = \"0.0.0.0:8980\"", "listen: 0.0.0.0:8980 can be reached"),
            ("slots = 0", "slots: 0 is too small"),
            ("name = \"a b\"", "name: \"a b\""),
            ("default-timeout = \"2h\"\nmax-timeout = \"1h\"", "default-timeout: "),
            ("epoch-interval = \"2m\"", "epoch-interval: "),
            ("update-interval = \"0s\"", "update-interval: "),
            ("[instances.\"a//b\"]", "instances: "),
            ("person = \"\"", "person: "),
            ("copies = 0", "copies: 0 is "),
            ("copies = 9", "copies: 9 is "),
            ("copies-before-ack = 3", "copies-before-ack: 3 is more than copies (2)"),
            ("copies-before-ack = 0", "copies-before-ack: 0 is too small"),
            ("repair-after = \"999ms\"", "repair-after: "),
            ("repair-after = \"8d\"", "repair-after: "),
        ] {
            assert!(error_of(text).starts_with(start), "{}", error_of(text));
        }
        let long = RawConfig {
            runtime_dir: Some(PathBuf::from(format!("/{}", "x".repeat(100)))),
            ..Default::default()
        };
        let error = Config::resolve(long, RawConfig::default(), &host()).unwrap_err();
        assert!(error.to_string().starts_with("runtime-dir: "), "{error}");
    }

    #[test]
    fn the_lan_needs_a_spelled_out_yes() {
        let flags = RawConfig {
            listen: Some(Listen(SocketAddr::from(([0, 0, 0, 0], 1)))),
            insecure_lan: Some(true),
            max_blob_size: Some(ByteSize(1 << 30)),
            ..Default::default()
        };
        let config = Config::resolve(flags, RawConfig::default(), &host()).unwrap();
        assert!(!config.listen.ip().is_loopback());
    }

    #[test]
    fn an_instance_takes_what_it_does_not_set_from_the_node() {
        let config = Config::resolve(
            RawConfig::default(),
            file("unknown-properties = \"ignore\"\n[instances.bst]\ninput-root = \"/\"\ndigest-function = \"blake3\""),
            &host(),
        )
        .unwrap();
        let bst = &config.instances[&InstanceName::parse("bst").unwrap()];
        assert_eq!(bst.input_root, InputRootMode::Root);
        assert_eq!(bst.digest_function, DigestFunction::Blake3);
        assert_eq!(bst.unknown_properties, UnknownProperties::Ignore);
        assert!(bst.execution && bst.action_cache_updates);
    }

    #[test]
    fn without_a_home_the_data_directory_must_be_named() {
        let host = Host { data_dir: None, ..host() };
        let error = Config::resolve(RawConfig::default(), RawConfig::default(), &host).unwrap_err();
        assert!(error.to_string().starts_with("data-dir: "), "{error}");
    }
}
