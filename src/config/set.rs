//! [`Set`]: all layers of the settings in one, and what becomes of them: one [`Config`], or the first setting
//! that cannot be used. What each may be is said by `checks`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::checks::{
    absolute, at_least, check_asset_timeout, check_before_ack, check_chunk_size, check_copies, check_epoch,
    check_handshake, check_listen, check_name, check_person, check_repair_after, check_runtime_dir,
    check_timeouts, check_update_interval, invalid,
};
use super::raw::{OneOrMany, RawInstance};
use super::{
    AssetConfig, Config, ConfigError, CopiesConfig, FarmConfig, GuestConfig, Host, InstanceSettings,
    LEAST_PROCESSES, LogConfig, PersistentWorkerConfig, RawConfig, UnknownProperties,
};
use crate::instance::InstanceName;

/// All layers in one; every key of the defaults is set.
pub(super) struct Set(RawConfig);

// === impl Set ===

impl Set {
    /// `flags` over `file` over the defaults.
    pub(super) fn new(flags: RawConfig, file: RawConfig) -> Self {
        Self(flags.over(file).over(RawConfig::defaults()))
    }

    /// The settings, all of them valid on `host`.
    pub(super) fn validate(self, host: &Host) -> Result<Config, ConfigError> {
        let mut raw = self.0;
        let insecure_lan = required(raw.insecure_lan);
        let unknown_properties = required(raw.unknown_properties);
        check_timeouts(required(raw.default_timeout).0, required(raw.max_timeout).0)?;
        let per_address = required(raw.max_connections_per_address);
        Ok(Config {
            guests: guests(&raw),
            copies: copies(&raw)?,
            assets: assets(&mut raw)?,
            farm: farm(&mut raw, host)?,
            name: check_name(raw.name.unwrap_or_else(|| host.name.clone()))?,
            listen: check_listen(required(raw.listen).0, insecure_lan)?,
            insecure_lan,
            max_connections: at_least("max-connections", required(raw.max_connections), 16)?,
            max_connections_per_address: at_least("max-connections-per-address", per_address, 1)?,
            handshake_timeout: check_handshake(required(raw.handshake_timeout).0)?,
            message_memory: at_least("message-memory", required(raw.message_memory).0, 64 << 20)?,
            data_dir: absolute("data-dir", raw.data_dir.or_else(|| host.data_dir.clone()))?,
            runtime_dir: runtime_dir(raw.runtime_dir, host)?,
            disk_budget: required(raw.disk_budget),
            max_blob_size: at_least("max-blob-size", required(raw.max_blob_size).0, 1 << 16)?,
            chunk_size: check_chunk_size(required(raw.chunk_size).0)?,
            lease: required(raw.lease).0,
            sync: required(raw.sync),
            epoch_interval: check_epoch(required(raw.epoch_interval).0)?,
            scrub_interval: required(raw.scrub_interval).0,
            history: at_least("history", required(raw.history), 1000)?,
            compressed_committed_size: required(raw.compressed_committed_size),
            http_results: required(raw.http_results),
            slots: at_least("slots", raw.slots.unwrap_or(host.cores), 1)?,
            sandbox: required(raw.sandbox),
            containers: required(raw.containers),
            action_memory: required(raw.action_memory),
            action_tmp: required(raw.action_tmp),
            action_processes: at_least("action-processes", required(raw.action_processes), LEAST_PROCESSES)?,
            persistent_workers: PersistentWorkerConfig {
                count: required(raw.persistent_workers),
                memory: required(raw.persistent_worker_memory),
                idle: required(raw.persistent_worker_idle).0,
            },
            disk_reserve: required(raw.disk_reserve).0,
            unknown_properties,
            pools: required(raw.pools),
            labels: labels(raw.labels.unwrap_or_default()),
            default_timeout: required(raw.default_timeout).0,
            max_timeout: required(raw.max_timeout).0,
            queue_limit: at_least("queue-limit", required(raw.queue_limit), 1)?,
            keep_finished: required(raw.keep_finished).0,
            orphan_grace: required(raw.orphan_grace).0,
            orphan_yield: required(raw.orphan_yield).0,
            update_interval: check_update_interval(required(raw.update_interval).0)?,
            instances: instances(raw.instances.unwrap_or_default(), unknown_properties)?,
            log: LogConfig { filter: required(raw.log_filter), format: required(raw.log_format) },
            files: Vec::new(),
        })
    }
}

fn runtime_dir(raw: Option<PathBuf>, host: &Host) -> Result<PathBuf, ConfigError> {
    let dir = raw.unwrap_or_else(|| host.runtime_dir.clone());
    check_runtime_dir(absolute("runtime-dir", Some(dir))?)
}

fn labels(raw: BTreeMap<String, OneOrMany>) -> BTreeMap<String, Vec<String>> {
    raw.into_iter().map(|(name, values)| (name, values.into_vec())).collect()
}

/// What others may use of this machine.
fn guests(raw: &RawConfig) -> GuestConfig {
    GuestConfig {
        slots: required(raw.guest_slots),
        reserve: required(raw.reserve_for_me),
        on_battery: required(raw.guests_on_battery),
        under_pressure: required(raw.guests_under_pressure),
        while_used: required(raw.guest_slots_while_used),
        used_for: required(raw.used_for).0,
        running: required(raw.running_guests),
        toolchain_rule: required(raw.toolchain_rule),
    }
}

/// How many machines have what is stored.
fn copies(raw: &RawConfig) -> Result<CopiesConfig, ConfigError> {
    let wanted = check_copies(required(raw.copies))?;
    Ok(CopiesConfig {
        wanted,
        before_ack: check_before_ack(required(raw.copies_before_ack), wanted)?,
        repair_after: check_repair_after(required(raw.repair_after).0)?,
        keep: required(raw.keep_copies),
    })
}

/// What is downloaded, and from where. Takes its settings out of `raw`.
fn assets(raw: &mut RawConfig) -> Result<AssetConfig, ConfigError> {
    Ok(AssetConfig {
        hosts: required(raw.asset_hosts.take()),
        networks: required(raw.asset_networks.take()),
        plain_http: required(raw.asset_plain_http),
        proxy: raw.asset_proxy.take(),
        max_size: at_least("asset-max-size", required(raw.asset_max_size).0, 1 << 16)?,
        timeout: check_asset_timeout(required(raw.asset_timeout).0)?,
        push: required(raw.asset_push),
    })
}

/// How other machines are met. Takes its settings out of `raw`.
fn farm(raw: &mut RawConfig, host: &Host) -> Result<FarmConfig, ConfigError> {
    Ok(FarmConfig {
        listen: required(raw.peer_listen).0,
        discovery: !required(raw.no_discovery),
        peers: required(raw.peer.take()),
        interfaces: required(raw.interfaces.take()),
        person: check_person(raw.person.take().unwrap_or_else(|| host.person.clone()))?,
        key_file: raw.farm_key_file.take(),
    })
}

fn required<T>(value: Option<T>) -> T {
    value.expect("invariant: the compiled-in defaults set this key, as a test shows")
}

fn instances(
    raw: BTreeMap<String, RawInstance>,
    unknown_properties: UnknownProperties,
) -> Result<BTreeMap<InstanceName, InstanceSettings>, ConfigError> {
    let parse = |(name, raw): (String, RawInstance)| {
        let name = InstanceName::parse(&name).or_else(|error| {
            invalid(
                "instances",
                error.to_string(),
                "give it another name; segments are parted by single slashes",
            )
        })?;
        let settings = InstanceSettings {
            digest_function: raw.digest_function.unwrap_or_default(),
            input_root: raw.input_root.unwrap_or_default(),
            execution: raw.execution.unwrap_or(true),
            action_cache_updates: raw.action_cache_updates.unwrap_or(true),
            unknown_properties: raw.unknown_properties.unwrap_or(unknown_properties),
        };
        Ok((name, settings))
    };
    raw.into_iter().map(parse).collect()
}
