//! From [`Config`] to the settings each part understands.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::cas::disk::DiskConfig;
use crate::config::{Config, InputRootMode};
use crate::execution::action::PlatformRules;
use crate::execution::{Duty, Retention, Settings, grants};
use crate::peer::trust::join::JoinSettings;
use crate::peer::{MachineId, PeersConfig};
use crate::platform::{self, MachineFacts};
use crate::replication::census;
use crate::replication::driver::{LAG_LIMIT, ReplicationConfig};
use crate::rpc::byte_stream::ByteStreamSettings;
use crate::rpc::server::Limits;
use crate::rpc::{InstanceSettings, InstancesConfig};
use crate::worker;
use crate::worker::container::Containers;
use crate::worker::inputs::InputLimits;
use crate::worker::local::WorkerConfig;
use crate::worker::persistent::Bounds;
use crate::worker::sandbox::{ActionGroup, GroupError, Mode, SpawnerConfig};

/// Connections to the peer port at once, and from one address.
const PEER_CONNECTIONS: usize = 1024;
const PEER_CONNECTIONS_PER_ADDRESS: usize = 64;

/// How long another machine may take to show who it is.
const PEER_HANDSHAKE: Duration = Duration::from_secs(5);

/// The store.
pub(super) fn disk(config: &Config) -> DiskConfig {
    DiskConfig {
        budget: config.disk_budget,
        lease: config.lease,
        sync: config.sync,
        epoch_interval: config.epoch_interval,
        scrub_interval: config.scrub_interval,
        max_blob_size: config.max_blob_size,
        ..DiskConfig::new(&config.data_dir, 0)
    }
}

/// The worker of this machine, whose store has `budget` bytes.
pub(super) fn worker(
    config: &Config,
    scratch: PathBuf,
    budget: u64,
    containers: Option<Containers>,
) -> WorkerConfig {
    let limits = worker::Limits { processes: Some(config.action_processes), ..Default::default() };
    let all_memory = platform::total_memory();
    WorkerConfig {
        slots: config.slots,
        limits,
        memory: config.action_memory.resolve(all_memory).unwrap_or(all_memory),
        containers,
        disk_reserve: config.disk_reserve,
        inputs: InputLimits::beside(budget),
        persistent: Bounds {
            count: config.persistent_workers.count.resolve(config.slots),
            memory: config.persistent_workers.memory.resolve(platform::total_memory()).unwrap_or(u64::MAX),
            idle: config.persistent_workers.idle,
        },
        ..WorkerConfig::new(&config.name, scratch)
    }
}

/// What runs container images here.
pub(super) fn containers(config: &Config) -> Option<Containers> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    Containers::find(config.containers, &path, &config.data_dir)
}

/// The spawners, which actions of `group` share.
pub(super) fn spawners(config: &Config, mode: Mode, group: Option<Arc<ActionGroup>>) -> SpawnerConfig {
    let tmp_size = config.action_tmp.resolve(platform::total_memory());
    SpawnerConfig { tmp_size, group, ..SpawnerConfig::this_program(config.slots, mode) }
}

/// The control group of all actions, or the reason that there is none.
pub(super) fn action_group(config: &Config) -> Option<Result<ActionGroup, GroupError>> {
    let memory = config.action_memory.resolve(platform::total_memory())?;
    Some(ActionGroup::make(memory, config.slots))
}

/// What actions may ask of this machine.
pub(super) fn facts(config: &Config, sandboxed: bool, containers: Option<&Containers>) -> MachineFacts {
    let labels = config.labels.iter();
    MachineFacts {
        pools: config.pools.iter().cloned().collect(),
        labels: labels
            .map(|(name, values)| (name.clone(), values.iter().cloned().collect::<BTreeSet<_>>()))
            .collect::<BTreeMap<_, _>>(),
        container_tool: containers.map_or("", Containers::tool).to_owned(),
        ..MachineFacts::detect(sandboxed)
    }
}

/// The scheduler.
pub(super) fn execution(config: &Config) -> Settings {
    let usual = Settings::default();
    Settings {
        default_timeout: config.default_timeout,
        max_timeout: config.max_timeout,
        queue_limit: config.queue_limit,
        grace: config.orphan_grace,
        orphan_yield: config.orphan_yield,
        update_interval: config.update_interval,
        person: config.farm.person.as_str().into(),
        retention: Retention { age: config.keep_finished, ..usual.retention },
        ..usual
    }
}

/// What this machine lends: what the settings say, to every machine of the farm.
pub(super) fn lending(config: &Config) -> grants::Limits {
    grants::Limits {
        slots: config.slots,
        guests: config.guests.slots.resolve(config.slots),
        reserve: config.guests.reserve,
        person: config.farm.person.as_str().into(),
        duty: Duty::Active,
        ahead: true,
    }
}

/// Which instances are served, and how. Tables in the configuration restrict them.
pub(super) fn instances(config: &Config) -> InstancesConfig {
    let default = InstanceSettings {
        platform: PlatformRules { unknown: config.unknown_properties, ..Default::default() },
        ..Default::default()
    };
    let named = config.instances.iter().map(|(name, settings)| {
        let root_as_slash = settings.input_root == InputRootMode::Root;
        let settings = InstanceSettings {
            digest_function: settings.digest_function,
            action_cache_updates: settings.action_cache_updates,
            execution: settings.execution,
            platform: PlatformRules {
                root_as_slash,
                unknown: settings.unknown_properties,
                ..Default::default()
            },
        };
        (name.clone(), settings)
    });
    InstancesConfig { default, named: named.collect(), restricted: !config.instances.is_empty() }
}

/// What clients may take, with `open_files` descriptors for all: connections get half of them.
pub(super) fn limits(config: &Config, open_files: Option<u64>) -> Limits {
    let half = open_files.and_then(|all| usize::try_from(all / 2).ok()).unwrap_or(usize::MAX);
    Limits {
        connections: config.max_connections.min(half),
        per_address: config.max_connections_per_address,
        handshake: config.handshake_timeout,
        message_memory: config.message_memory,
    }
}

/// What other machines may take: there are few of them, and strangers come this way too.
pub(super) fn peer_limits(config: &Config, open_files: Option<u64>) -> Limits {
    let usual = limits(config, open_files);
    Limits {
        connections: usual.connections.min(PEER_CONNECTIONS),
        per_address: usual.per_address.min(PEER_CONNECTIONS_PER_ADDRESS),
        handshake: usual.handshake.min(PEER_HANDSHAKE),
        ..usual
    }
}

/// The copies of machine `me`, whose store has `budget` bytes.
pub(super) fn replication(config: &Config, me: MachineId, budget: u64) -> ReplicationConfig {
    ReplicationConfig {
        me,
        name: config.name.as_str().into(),
        copies: config.copies.wanted,
        before_ack: config.copies.before_ack,
        repair_after: config.copies.repair_after,
        weight: census::weight(budget),
        lag_limit_bytes: LAG_LIMIT,
        keepers_file: farm_directory(config).join("keepers"),
    }
}

/// Where keys and what is known of the farm are kept.
pub(super) fn farm_directory(config: &Config) -> PathBuf {
    config.data_dir.join("farm")
}

/// What newcomers and members are told of this machine, and where invitations listen: where other
/// machines may call at all. Links are taken at `door`.
pub(super) fn joining(config: &Config, door: Option<SocketAddr>) -> JoinSettings {
    JoinSettings {
        name: config.name.clone(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        bind: config.farm.listen.ip(),
        peer_port: door.map_or(0, |door| door.port()),
    }
}

/// The other machines, in the start of the node with this number; links are taken at `door`.
pub(super) fn peers(config: &Config, boot_epoch: u64, door: Option<SocketAddr>) -> PeersConfig {
    PeersConfig {
        name: config.name.clone(),
        boot_epoch,
        port: door.map_or(0, |door| door.port()),
        configured: config.farm.peers.clone(),
        remembered: farm_directory(config).join("peers"),
        interfaces: config.farm.discovery.then(|| config.farm.interfaces.clone()),
    }
}

/// ByteStream.
pub(super) fn byte_stream(config: &Config) -> ByteStreamSettings {
    ByteStreamSettings { committed_size: config.compressed_committed_size, ..Default::default() }
}
