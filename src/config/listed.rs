//! The settings in force, written as a person would write them in the configuration file.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use clap::ValueEnum;

use super::values::ByteSize;
use super::{
    AssetConfig, Config, CopiesConfig, FarmConfig, GuestConfig, InputRootMode, InstanceSettings, LogConfig,
};

/// A setting in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its key; those in tables with the names of the tables in front, parted by dots.
    pub name: String,
    /// Its value as the file has it; empty where there is none.
    pub value: String,
    /// Whether it would be the same on this machine if nobody had set anything.
    pub is_default: bool,
}

/// Keys with their values.
#[derive(Default)]
struct Listed(BTreeMap<String, String>);

impl Config {
    /// Every setting, by name.
    pub fn settings(&self) -> Vec<Setting> {
        let mut defaults = Listed::of(&Self::default());
        for name in self.instances.keys() {
            defaults.instance(name.as_str(), &self.default_instance());
        }
        let mut settings: Vec<_> = (Listed::of(self).0.into_iter())
            .map(|(name, value)| {
                let is_default = defaults.0.get(&name) == Some(&value);
                Setting { name, value, is_default }
            })
            .collect();
        settings.sort_by(|a, b| a.name.cmp(&b.name));
        settings
    }
}

// === impl Listed ===

impl Listed {
    /// All of them: a test shows that no key of the file is left out.
    fn of(config: &Config) -> Self {
        let mut listed = Self::default();
        listed.node(config);
        listed.actions(config);
        let Config { farm, guests, copies, assets, log, labels, instances, .. } = config;
        let FarmConfig { listen, discovery, peers, interfaces, person, key_file } = farm;
        listed.guests(guests);
        listed.copies(copies);
        listed.assets(assets);
        listed.put("peer-listen", text(listen));
        listed.put("no-discovery", (!discovery).to_string());
        listed.put("peer", list(peers));
        listed.put("interfaces", list(interfaces));
        listed.put("person", text(person));
        listed.put("farm-key-file", key_file.as_deref().map(path).unwrap_or_default());
        let LogConfig { filter, format } = log;
        listed.put("log-filter", text(filter));
        listed.put("log-format", choice(format));
        for (name, values) in labels {
            listed.put(&format!("labels.{}", key(name)), list(values));
        }
        for (name, settings) in instances {
            listed.instance(name.as_str(), settings);
        }
        listed
    }

    /// How it is reached, where its files are, and how it keeps blobs.
    fn node(&mut self, config: &Config) {
        let Config {
            name,
            listen,
            insecure_lan,
            max_connections,
            max_connections_per_address,
            handshake_timeout,
            message_memory,
            data_dir,
            runtime_dir,
            disk_budget,
            max_blob_size,
            chunk_size,
            lease,
            sync,
            epoch_interval,
            scrub_interval,
            history,
            compressed_committed_size,
            http_results,
            disk_reserve,
            ..
        } = config;
        self.put_all([
            ("name", text(name)),
            ("listen", text(listen)),
            ("insecure-lan", insecure_lan.to_string()),
            ("max-connections", max_connections.to_string()),
            ("max-connections-per-address", max_connections_per_address.to_string()),
            ("handshake-timeout", span(*handshake_timeout)),
            ("message-memory", size(*message_memory)),
            ("data-dir", path(data_dir)),
            ("runtime-dir", path(runtime_dir)),
            ("disk-budget", text(disk_budget)),
            ("max-blob-size", size(*max_blob_size)),
            ("chunk-size", size(chunk_size.bytes())),
            ("lease", span(*lease)),
            ("sync", choice(sync)),
            ("epoch-interval", span(*epoch_interval)),
            ("scrub-interval", span(*scrub_interval)),
            ("history", history.to_string()),
            ("compressed-committed-size", choice(compressed_committed_size)),
            ("http-results", choice(http_results)),
            ("disk-reserve", size(*disk_reserve)),
        ]);
    }

    /// What runs actions, and how.
    fn actions(&mut self, config: &Config) {
        let Config {
            slots,
            sandbox,
            containers,
            action_memory,
            action_tmp,
            action_processes,
            persistent_workers: workers,
            unknown_properties,
            pools,
            default_timeout,
            max_timeout,
            queue_limit,
            keep_finished,
            orphan_grace,
            orphan_yield,
            update_interval,
            ..
        } = config;
        self.put_all([
            ("slots", slots.to_string()),
            ("sandbox", choice(sandbox)),
            ("containers", choice(containers)),
            ("action-memory", text(action_memory)),
            ("action-tmp", text(action_tmp)),
            ("action-processes", action_processes.to_string()),
            ("persistent-workers", text(workers.count)),
            ("persistent-worker-memory", text(workers.memory)),
            ("persistent-worker-idle", span(workers.idle)),
            ("unknown-properties", choice(unknown_properties)),
            ("pools", list(pools)),
            ("default-timeout", span(*default_timeout)),
            ("max-timeout", span(*max_timeout)),
            ("queue-limit", queue_limit.to_string()),
            ("keep-finished", span(*keep_finished)),
            ("orphan-grace", span(*orphan_grace)),
            ("orphan-yield", span(*orphan_yield)),
            ("update-interval", span(*update_interval)),
        ]);
    }

    fn guests(&mut self, guests: &GuestConfig) {
        let GuestConfig {
            slots,
            reserve,
            on_battery,
            under_pressure,
            while_used,
            used_for,
            running,
            toolchain_rule,
        } = guests;
        self.put_all([
            ("guest-slots", text(slots)),
            ("reserve-for-me", reserve.to_string()),
            ("guests-on-battery", on_battery.to_string()),
            ("guests-under-pressure", under_pressure.to_string()),
            ("guest-slots-while-used", text(while_used)),
            ("used-for", span(*used_for)),
            ("running-guests", choice(running)),
            ("toolchain-rule", choice(toolchain_rule)),
        ]);
    }

    fn copies(&mut self, copies: &CopiesConfig) {
        let CopiesConfig { wanted, before_ack, repair_after, keep } = copies;
        self.put_all([
            ("copies", wanted.to_string()),
            ("copies-before-ack", before_ack.to_string()),
            ("repair-after", span(*repair_after)),
            ("keep-copies", choice(keep)),
        ]);
    }

    fn assets(&mut self, assets: &AssetConfig) {
        let AssetConfig { hosts, networks, plain_http, proxy, max_size, timeout, push } = assets;
        self.put_all([
            ("asset-hosts", list(hosts)),
            ("asset-networks", list(networks)),
            ("asset-plain-http", plain_http.to_string()),
            ("asset-proxy", proxy.as_ref().map(text).unwrap_or_default()),
            ("asset-max-size", size(*max_size)),
            ("asset-timeout", span(*timeout)),
            ("asset-push", push.to_string()),
        ]);
    }

    fn instance(&mut self, name: &str, settings: &InstanceSettings) {
        let InstanceSettings {
            digest_function,
            input_root,
            execution,
            action_cache_updates,
            unknown_properties,
        } = settings;
        let input_root = match input_root {
            InputRootMode::Auto => "auto",
            InputRootMode::Root => "/",
        };
        for (setting, value) in [
            ("digest-function", text(digest_function)),
            ("input-root", text(input_root)),
            ("execution", execution.to_string()),
            ("action-cache-updates", action_cache_updates.to_string()),
            ("unknown-properties", choice(unknown_properties)),
        ] {
            self.put(&format!("instances.{}.{setting}", key(name)), value);
        }
    }

    fn put_all<const COUNT: usize>(&mut self, settings: [(&str, String); COUNT]) {
        for (name, value) in settings {
            self.put(name, value);
        }
    }

    fn put(&mut self, name: &str, value: String) {
        self.0.insert(name.to_owned(), value);
    }
}

// === values ===

fn text(value: impl ToString) -> String {
    toml::Value::String(value.to_string()).to_string()
}

fn path(path: &Path) -> String {
    text(path.display())
}

fn span(length: Duration) -> String {
    text(humantime::format_duration(length))
}

fn size(bytes: u64) -> String {
    text(ByteSize(bytes))
}

fn choice(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| text(value.get_name())).unwrap_or_default()
}

fn list<T: ToString>(values: &[T]) -> String {
    toml::Value::from(values.iter().map(ToString::to_string).collect::<Vec<_>>()).to_string()
}

/// A name as a part of a dotted key: quoted where it has to be.
fn key(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if !name.is_empty() && name.chars().all(is_bare) { name.to_owned() } else { text(name) }
}

#[cfg(test)]
mod tests {
    use super::super::raw::DEFAULTS;
    use super::super::{Host, RawConfig};
    use super::*;

    fn config(file: &str) -> Config {
        let file = RawConfig::parse(file, Path::new("f.toml")).unwrap();
        Config::resolve(RawConfig::default(), file, &Host::detect()).unwrap()
    }

    /// Everything that differs from the default, and how to say it otherwise.
    const OTHER: &str = r#"
        name = "attic"
        disk-budget = "50GiB"
        max-blob-size = 65537
        chunk-size = "256KiB"
        action-memory = "none"
        action-tmp = "33%"
        persistent-workers = 3
        persistent-worker-memory = "1GiB"
        persistent-worker-idle = "90s"
        lease = "90m"
        scrub-interval = "0s"
        sync = "always"
        peer = ["a:1", "[fe80::1%eth0]:9"]
        interfaces = ["en*", "!docker0"]
        person = "ada"
        guest-slots = 3
        guest-slots-while-used = "all"
        reserve-for-me = 2
        running-guests = "hand-back"
        guests-under-pressure = true
        toolchain-rule = "strict"
        copies = 3
        copies-before-ack = 2
        repair-after = "90s"
        keep-copies = "never"
        asset-hosts = ["!*.example.com", "*"]
        asset-networks = ["10.0.0.0/8", "::1/128"]
        asset-proxy = "http://proxy:3128"
        asset-push = false
        no-discovery = true
        farm-key-file = "/k"
        log-filter = "warn,farmhand::cas=trace"
        [labels]
        "a b" = ["x", "y"]
        [instances."linux/main"]
        input-root = "/"
        digest-function = "blake3"
        [instances.""]
    "#;

    #[test]
    fn a_file_of_all_settings_is_the_same_configuration() {
        for config in [Config::default(), config(OTHER)] {
            let lines = config.settings().into_iter().filter(|setting| !setting.value.is_empty());
            let file: String =
                lines.map(|setting| format!("{} = {}\n", setting.name, setting.value)).collect();
            assert_eq!(self::config(&file), config, "{file}");
        }
    }

    #[test]
    fn every_key_of_the_file_is_listed() {
        let listed = Listed::of(&Config::default()).0;
        let before_tables = DEFAULTS.lines().take_while(|line| *line != "# [labels]");
        let keys = before_tables.filter_map(|line| Some(line.trim_start_matches("# ").split_once(" = ")?.0));
        let keys: Vec<_> = keys.filter(|key| !key.contains(' ')).collect();
        assert!(keys.len() > 40 && keys.contains(&"person"), "{keys:?}");
        for key in &keys {
            assert!(listed.contains_key(*key), "{key}");
        }
        assert_eq!(listed.len(), keys.len(), "{listed:?}");
    }

    #[test]
    fn what_differs_from_the_default_is_marked() {
        let none = Config::default().settings();
        assert!(none.iter().all(|setting| setting.is_default));
        assert!(none.is_sorted_by_key(|setting| &setting.name));
        let changed: Vec<_> =
            config(OTHER).settings().into_iter().filter(|setting| !setting.is_default).collect();
        let value =
            |name: &str| changed.iter().find(|setting| setting.name == name).map(|s| s.value.as_str());
        assert_eq!(value("lease"), Some("\"1h 30m\""));
        assert_eq!(value("disk-budget"), Some("\"50GiB\""));
        assert_eq!(value("max-blob-size"), Some("\"65537\""));
        assert_eq!(value("labels.\"a b\""), Some("[\"x\", \"y\"]"));
        assert_eq!(value("instances.\"linux/main\".input-root"), Some("\"/\""));
        assert_eq!((value("slots"), value("instances.\"linux/main\".execution")), (None, None));
    }
}
