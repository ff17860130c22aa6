//! [`RawConfig`]: settings as they were written, each one once: the same definition is the key of
//! the file, the flag of `farmhand serve` and the `FARMHAND_…` variable.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::network::{HostPattern, InterfacePattern, Network, PeerAddress, ProxyAddress};
use super::values::{ByteSize, DiskBudget, Listen, MemoryShare, SlotShare, Span};
use super::{
    CommittedSize, ConfigError, ContainerTool, HttpResults, InputRootMode, KeepCopies, LogFormat,
    RunningGuests, SandboxMode, SyncMode, ToolchainRule, UnknownProperties,
};
use crate::digest::DigestFunction;

/// The defaults, as the commented file people read.
pub const DEFAULTS: &str = include_str!("../../assets/farmhand.toml");

/// One layer of settings; what it does not set is left to the layer below.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, clap::Args)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawConfig {
    /// Name of this machine in results and in the farm; the host name if not set
    #[arg(long, env = "FARMHAND_NAME", value_name = "NAME", help_heading = "Who and where")]
    pub name: Option<String>,
    /// Address of the Remote Execution API for the build tools of this machine
    #[arg(long, env = "FARMHAND_LISTEN", value_name = "ADDR", help_heading = "Who and where")]
    pub listen: Option<Listen>,
    /// Serve `--listen` beyond loopback although nobody is asked who he is
    #[arg(long, env = "FARMHAND_INSECURE_LAN", help_heading = "Who and where")]
    #[arg(value_parser = clap::builder::BoolishValueParser::new())]
    #[arg(value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub insecure_lan: Option<bool>,
    /// Connections at once; one more closes the one that is quiet for longest
    #[arg(long, env = "FARMHAND_MAX_CONNECTIONS", value_name = "N", help_heading = "Who and where")]
    pub max_connections: Option<usize>,
    /// Connections at once from one address other than loopback
    #[arg(long, env = "FARMHAND_MAX_CONNECTIONS_PER_ADDRESS", value_name = "N")]
    #[arg(help_heading = "Who and where")]
    pub max_connections_per_address: Option<usize>,
    /// How long a client may take to begin to speak
    #[arg(long, env = "FARMHAND_HANDSHAKE_TIMEOUT", value_name = "TIME", help_heading = "Who and where")]
    pub handshake_timeout: Option<Span>,
    /// Memory for messages under way; with more, the connection that holds most is closed
    #[arg(long, env = "FARMHAND_MESSAGE_MEMORY", value_name = "BYTES", help_heading = "Who and where")]
    pub message_memory: Option<ByteSize>,
    /// Directory of the blobs, results and index
    #[arg(long, env = "FARMHAND_DATA_DIR", value_name = "DIR", help_heading = "Who and where")]
    pub data_dir: Option<PathBuf>,
    /// Directory of the Unix sockets
    #[arg(long, env = "FARMHAND_RUNTIME_DIR", value_name = "DIR", help_heading = "Who and where")]
    pub runtime_dir: Option<PathBuf>,

    /// Bytes the store may use: a size (50GiB), a share of the disk (10%), or auto
    #[arg(long, env = "FARMHAND_DISK_BUDGET", value_name = "BYTES", help_heading = "Store")]
    pub disk_budget: Option<DiskBudget>,
    /// Largest blob taken
    #[arg(long, env = "FARMHAND_MAX_BLOB_SIZE", value_name = "BYTES", help_heading = "Store")]
    pub max_blob_size: Option<ByteSize>,
    /// Mean size of the chunks large blobs are split into: a power of two from 64KiB to 1MiB
    #[arg(long, env = "FARMHAND_CHUNK_SIZE", value_name = "BYTES", help_heading = "Store")]
    pub chunk_size: Option<ByteSize>,
    /// How long a blob is kept for sure after a client was told of it
    #[arg(long, env = "FARMHAND_LEASE", value_name = "TIME", help_heading = "Store")]
    pub lease: Option<Span>,
    /// When a write is acknowledged: safe from a killed process, or always on the disk first
    #[arg(long, env = "FARMHAND_SYNC", value_name = "WHEN", help_heading = "Store")]
    pub sync: Option<SyncMode>,
    /// Most time between two syncs of the disk with `--sync epoch`
    #[arg(long, env = "FARMHAND_EPOCH_INTERVAL", value_name = "TIME", help_heading = "Store")]
    pub epoch_interval: Option<Span>,
    /// Time in which everything stored is read once to find damage; 0s for never
    #[arg(long, env = "FARMHAND_SCRUB_INTERVAL", value_name = "TIME", help_heading = "Store")]
    pub scrub_interval: Option<Span>,
    /// Finished actions that are remembered, on disk
    #[arg(long, env = "FARMHAND_HISTORY", value_name = "N", help_heading = "Store")]
    pub history: Option<u64>,
    /// What a compressed upload answers as its committed size
    #[arg(long, env = "FARMHAND_COMPRESSED_COMMITTED_SIZE", value_name = "HOW", help_heading = "Store")]
    pub compressed_committed_size: Option<CommittedSize>,
    /// What becomes of bodies that HTTP clients store as results and that are none
    #[arg(long, env = "FARMHAND_HTTP_RESULTS", value_name = "HOW", help_heading = "Store")]
    pub http_results: Option<HttpResults>,

    /// Actions that run at once; the number of cores if not set
    #[arg(long, env = "FARMHAND_SLOTS", value_name = "N", help_heading = "Running actions")]
    pub slots: Option<usize>,
    /// Whether every action gets namespaces of its own
    #[arg(long, env = "FARMHAND_SANDBOX", value_name = "HOW", help_heading = "Running actions")]
    pub sandbox: Option<SandboxMode>,
    /// What runs the container images that actions ask for
    #[arg(long, env = "FARMHAND_CONTAINERS", value_name = "HOW", help_heading = "Running actions")]
    pub containers: Option<ContainerTool>,
    /// Memory that all actions together may use: a size, a share of all (85%), or none
    #[arg(long, env = "FARMHAND_ACTION_MEMORY", value_name = "BYTES", help_heading = "Running actions")]
    pub action_memory: Option<MemoryShare>,
    /// Bytes an action may keep in its /tmp, which is in memory: a size, a share (25%), or none
    #[arg(long, env = "FARMHAND_ACTION_TMP", value_name = "BYTES", help_heading = "Running actions")]
    pub action_tmp: Option<MemoryShare>,
    /// Processes and threads an action may have at once
    #[arg(long, env = "FARMHAND_ACTION_PROCESSES", value_name = "N", help_heading = "Running actions")]
    pub action_processes: Option<u64>,
    /// Persistent workers (tools that stay in memory between actions): a number, half of the slots, or all
    #[arg(long, env = "FARMHAND_PERSISTENT_WORKERS", value_name = "N", help_heading = "Running actions")]
    pub persistent_workers: Option<SlotShare>,
    /// Memory they may have together while they are idle: a size, a share (25%), or none for no limit
    #[arg(long, env = "FARMHAND_PERSISTENT_WORKER_MEMORY", value_name = "BYTES")]
    #[arg(help_heading = "Running actions")]
    pub persistent_worker_memory: Option<MemoryShare>,
    /// How long one stays without work
    #[arg(
        long,
        env = "FARMHAND_PERSISTENT_WORKER_IDLE",
        value_name = "TIME",
        help_heading = "Running actions"
    )]
    pub persistent_worker_idle: Option<Span>,
    /// Free disk below which the action that wrote most is ended
    #[arg(long, env = "FARMHAND_DISK_RESERVE", value_name = "BYTES", help_heading = "Running actions")]
    pub disk_reserve: Option<ByteSize>,
    /// What becomes of actions with platform properties that mean nothing here
    #[arg(long, env = "FARMHAND_UNKNOWN_PROPERTIES", value_name = "HOW", help_heading = "Running actions")]
    pub unknown_properties: Option<UnknownProperties>,
    /// Pools this machine belongs to, parted by commas
    #[arg(long, env = "FARMHAND_POOLS", value_name = "NAMES", help_heading = "Running actions")]
    #[arg(value_delimiter = ',')]
    pub pools: Option<Vec<String>>,
    /// Time an action may run when it names none
    #[arg(long, env = "FARMHAND_DEFAULT_TIMEOUT", value_name = "TIME", help_heading = "Running actions")]
    pub default_timeout: Option<Span>,
    /// Most time an action may ask for
    #[arg(long, env = "FARMHAND_MAX_TIMEOUT", value_name = "TIME", help_heading = "Running actions")]
    pub max_timeout: Option<Span>,
    /// Actions that may wait before more are refused
    #[arg(long, env = "FARMHAND_QUEUE_LIMIT", value_name = "N", help_heading = "Running actions")]
    pub queue_limit: Option<usize>,
    /// How long a finished operation can still be asked for
    #[arg(long, env = "FARMHAND_KEEP_FINISHED", value_name = "TIME", help_heading = "Running actions")]
    pub keep_finished: Option<Span>,
    /// How long an action goes on after its last client went away
    #[arg(long, env = "FARMHAND_ORPHAN_GRACE", value_name = "TIME", help_heading = "Running actions")]
    pub orphan_grace: Option<Span>,
    /// How long such an action keeps its slot when one that has a client needs it
    #[arg(long, env = "FARMHAND_ORPHAN_YIELD", value_name = "TIME", help_heading = "Running actions")]
    pub orphan_yield: Option<Span>,
    /// How often a client that waits hears that nothing has changed
    #[arg(long, env = "FARMHAND_UPDATE_INTERVAL", value_name = "TIME", help_heading = "Running actions")]
    pub update_interval: Option<Span>,

    /// Slots that actions of other machines may have: a number, half, or all
    #[arg(long, env = "FARMHAND_GUEST_SLOTS", value_name = "N", help_heading = "Guests")]
    pub guest_slots: Option<SlotShare>,
    /// Slots that your own actions get before those of others
    #[arg(long, env = "FARMHAND_RESERVE_FOR_ME", value_name = "N", help_heading = "Guests")]
    pub reserve_for_me: Option<usize>,
    /// Let guests run while this machine runs on battery
    #[arg(long, env = "FARMHAND_GUESTS_ON_BATTERY", help_heading = "Guests")]
    #[arg(value_parser = clap::builder::BoolishValueParser::new())]
    #[arg(value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub guests_on_battery: Option<bool>,
    /// Let guests run while programs wait for memory or disks, or little memory is left
    #[arg(long, env = "FARMHAND_GUESTS_UNDER_PRESSURE", help_heading = "Guests")]
    #[arg(value_parser = clap::builder::BoolishValueParser::new())]
    #[arg(value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub guests_under_pressure: Option<bool>,
    /// Slots of guests while somebody uses this machine: a number, half of theirs, or all
    #[arg(long, env = "FARMHAND_GUEST_SLOTS_WHILE_USED", value_name = "N", help_heading = "Guests")]
    pub guest_slots_while_used: Option<SlotShare>,
    /// How long this machine counts as used after somebody typed or moved something
    #[arg(long, env = "FARMHAND_USED_FOR", value_name = "TIME", help_heading = "Guests")]
    pub used_for: Option<Span>,
    /// What becomes of guests that run when fewer may
    #[arg(long, env = "FARMHAND_RUNNING_GUESTS", value_name = "WHAT", help_heading = "Guests")]
    pub running_guests: Option<RunningGuests>,
    /// Whether actions that use the compilers of the host run where those are others
    #[arg(long, env = "FARMHAND_TOOLCHAIN_RULE", value_name = "RULE", help_heading = "Guests")]
    pub toolchain_rule: Option<ToolchainRule>,

    /// Copies that the farm keeps of each blob and result, on as many machines
    #[arg(long, env = "FARMHAND_COPIES", value_name = "N", help_heading = "Copies")]
    pub copies: Option<usize>,
    /// Machines that have what is written before that is acknowledged
    #[arg(long, env = "FARMHAND_COPIES_BEFORE_ACK", value_name = "N", help_heading = "Copies")]
    pub copies_before_ack: Option<usize>,
    /// How long a machine may be away before its copies are made anew on others
    #[arg(long, env = "FARMHAND_REPAIR_AFTER", value_name = "TIME", help_heading = "Copies")]
    pub repair_after: Option<Span>,
    /// Whether copies on this machine count: auto (not while on battery), always or never
    #[arg(long, env = "FARMHAND_KEEP_COPIES", value_name = "WHEN", help_heading = "Copies")]
    pub keep_copies: Option<KeepCopies>,

    /// Hosts from which downloads are made, as *.example.com; !NAME for not that one; may be repeated
    #[arg(long, env = "FARMHAND_ASSET_HOSTS", value_name = "NAMES", help_heading = "Assets")]
    #[arg(value_delimiter = ',')]
    pub asset_hosts: Option<Vec<HostPattern>>,
    /// Private networks inside which downloads are made, as 10.0.0.0/8; may be repeated
    #[arg(long, env = "FARMHAND_ASSET_NETWORKS", value_name = "NETWORKS", help_heading = "Assets")]
    #[arg(value_delimiter = ',')]
    pub asset_networks: Option<Vec<Network>>,
    /// Download by http too, not only by https
    #[arg(long, env = "FARMHAND_ASSET_PLAIN_HTTP", help_heading = "Assets")]
    #[arg(value_parser = clap::builder::BoolishValueParser::new())]
    #[arg(value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub asset_plain_http: Option<bool>,
    /// Proxy through which downloads are made: http://HOST:PORT
    #[arg(long, env = "FARMHAND_ASSET_PROXY", value_name = "ADDR", help_heading = "Assets")]
    pub asset_proxy: Option<ProxyAddress>,
    /// Most bytes of one download, and of what an archive holds
    #[arg(long, env = "FARMHAND_ASSET_MAX_SIZE", value_name = "BYTES", help_heading = "Assets")]
    pub asset_max_size: Option<ByteSize>,
    /// Most time for one download
    #[arg(long, env = "FARMHAND_ASSET_TIMEOUT", value_name = "TIME", help_heading = "Assets")]
    pub asset_timeout: Option<Span>,
    /// Whether clients may name blobs, for others to fetch by these names
    #[arg(long, env = "FARMHAND_ASSET_PUSH", help_heading = "Assets")]
    #[arg(value_parser = clap::builder::BoolishValueParser::new())]
    #[arg(value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub asset_push: Option<bool>,

    /// Address for the other machines of the farm
    #[arg(long, env = "FARMHAND_PEER_LISTEN", value_name = "ADDR", help_heading = "The farm")]
    pub peer_listen: Option<Listen>,
    /// Neither announce this machine on the network nor look for others there
    #[arg(long, env = "FARMHAND_NO_DISCOVERY", help_heading = "The farm")]
    #[arg(value_parser = clap::builder::BoolishValueParser::new())]
    #[arg(value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub no_discovery: Option<bool>,
    /// Another machine of the farm: HOST or HOST:PORT, IPv6 addresses in brackets; may be repeated
    #[arg(long, env = "FARMHAND_PEER", value_name = "ADDR", help_heading = "The farm")]
    #[arg(value_delimiter = ',')]
    pub peer: Option<Vec<PeerAddress>>,
    /// Interfaces to look for others on, as eth0 or en*; !NAME for not that one; may be repeated
    #[arg(long, env = "FARMHAND_INTERFACES", value_name = "NAMES", help_heading = "The farm")]
    #[arg(value_delimiter = ',')]
    pub interfaces: Option<Vec<InterfacePattern>>,
    /// Whose builds those of this machine are, for fair shares; its user if not set
    #[arg(long, env = "FARMHAND_PERSON", value_name = "NAME", help_heading = "The farm")]
    pub person: Option<String>,
    /// File that holds the farm key
    #[arg(long, env = "FARMHAND_FARM_KEY_FILE", value_name = "FILE", help_heading = "The farm")]
    pub farm_key_file: Option<PathBuf>,

    /// What is logged: a level, or levels by module as in info,farmhand::cas=debug
    #[arg(long, env = "FARMHAND_LOG_FILTER", value_name = "FILTER", help_heading = "Logs")]
    pub log_filter: Option<String>,
    /// Logs for people or for machines
    #[arg(long, env = "FARMHAND_LOG_FORMAT", value_name = "FORMAT", help_heading = "Logs")]
    pub log_format: Option<LogFormat>,

    /// Labels of this machine: one value or several for a name.
    #[arg(skip)]
    pub labels: Option<BTreeMap<String, OneOrMany>>,
    /// Settings of instances by their names.
    #[arg(skip)]
    pub instances: Option<BTreeMap<String, RawInstance>>,
}

/// One text, or a list of them.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// `"a"`
    One(String),
    /// `["a", "b"]`
    Many(Vec<String>),
}

/// A table below `[instances]`; what it does not set is as for an instance without a table.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RawInstance {
    /// Function of digests in requests that name none.
    pub digest_function: Option<DigestFunction>,
    /// What the input root is to an action.
    pub input_root: Option<InputRootMode>,
    /// Whether actions run.
    pub execution: Option<bool>,
    /// Whether clients may write results.
    pub action_cache_updates: Option<bool>,
    /// What becomes of unknown platform properties.
    pub unknown_properties: Option<UnknownProperties>,
}

/// `$upper`'s fields where they are set, else `$lower`'s; a field left out does not compile.
macro_rules! layer {
    ($upper:ident over $lower:ident: $($field:ident)*) => {
        RawConfig { $($field: $upper.$field.or($lower.$field)),* }
    };
}

impl RawConfig {
    /// The layer of the defaults.
    pub fn defaults() -> Self {
        toml::from_str(DEFAULTS).expect("invariant: a test parses the compiled-in defaults")
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`ConfigError::Read`], or [`ConfigError::File`] with line and key.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Parses the text of a file; `path` is for errors.
    ///
    /// # Errors
    /// [`ConfigError::File`] with line and key.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| {
            let (line, key) = place(text, error.span());
            ConfigError::File { path: path.to_owned(), line, key, reason: one_line(error.message()) }
        })
    }

    /// This layer over `lower`.
    #[must_use]
    pub fn over(self, lower: Self) -> Self {
        layer! { self over lower:
            name listen insecure_lan data_dir runtime_dir
            max_connections max_connections_per_address handshake_timeout message_memory
            disk_budget max_blob_size chunk_size lease sync epoch_interval scrub_interval history compressed_committed_size http_results
            slots sandbox containers action_memory action_tmp action_processes
            persistent_workers persistent_worker_memory persistent_worker_idle
            disk_reserve unknown_properties pools default_timeout max_timeout
            queue_limit keep_finished orphan_grace orphan_yield update_interval
            guest_slots reserve_for_me guests_on_battery guests_under_pressure guest_slots_while_used used_for running_guests toolchain_rule
            copies copies_before_ack repair_after keep_copies
            asset_hosts asset_networks asset_plain_http asset_proxy asset_max_size asset_timeout asset_push
            peer_listen no_discovery peer interfaces person farm_key_file
            log_filter log_format
            labels instances
        }
    }
}

impl OneOrMany {
    /// All of them.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(value) => vec![value],
            Self::Many(values) => values,
        }
    }
}

/// Line (from 1) and key an error of the parser points at.
fn place(text: &str, span: Option<std::ops::Range<usize>>) -> (usize, String) {
    let start = span.map_or(0, |span| span.start.min(text.len()));
    let line = text.as_bytes()[..start].iter().filter(|&&byte| byte == b'\n').count();
    let key = text.lines().nth(line).and_then(|line| line.split_once('=')).map(|(key, _)| key.trim());
    (line + 1, key.unwrap_or_default().to_owned())
}

/// The parser's words on one line, without its list of every key there is and its words for numbers.
fn one_line(message: &str) -> String {
    let message = match message.split_once(", expected one of") {
        Some((reason, _)) if reason.starts_with("unknown field") => reason,
        _ => message,
    };
    let message = message.replace("expected usize", "expected a whole number");
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}
