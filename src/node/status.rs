//! What the node tells of itself over the control API.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use farmhand_proto::control::{self, GetStatusResponse, warning};
use farmhand_proto::time::{duration, timestamp};

use super::Endpoints;
use crate::cas::disk::{DiskCas, DiskStats};
use crate::config::Config;
use crate::execution::{Scheduler, Snapshot};
use crate::history::describe;
use crate::rpc::control::{ControlSource, PROTOCOL_VERSION};

/// The hit rate is that of this much time.
const RECENT: Duration = Duration::from_secs(60);

/// Everything a status is made of.
pub(super) struct StatusSource {
    pub(super) config: Config,
    pub(super) endpoints: Endpoints,
    pub(super) started: SystemTime,
    pub(super) sandboxed: bool,
    pub(super) warnings: Vec<(String, String)>,
    pub(super) scheduler: Scheduler,
    pub(super) store: DiskCas,
}

// === impl StatusSource ===

impl StatusSource {
    fn node(&self) -> control::Node {
        control::Node {
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            protocol_version: PROTOCOL_VERSION,
            pid: std::process::id(),
            started: Some(timestamp(self.started)),
            uptime: Some(duration(self.started.elapsed().unwrap_or_default())),
            boot_epoch: self.started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
            endpoints: Some(control::Endpoints {
                reapi: self.endpoints.reapi.to_string(),
                reapi_socket: self.endpoints.reapi_socket.display().to_string(),
                peers: self.endpoints.peers.map(|address| address.to_string()).unwrap_or_default(),
                control: self.endpoints.control.display().to_string(),
            }),
            data_dir: self.config.data_dir.display().to_string(),
            sandbox: if self.sandboxed { "namespaces" } else { "none" }.into(),
            farm: String::new(),
        }
    }

    fn machine(&self, snapshot: &Snapshot) -> control::Machine {
        control::Machine {
            name: self.config.name.clone(),
            state: control::machine::State::Active.into(),
            is_self: true,
            slots: u32::try_from(self.config.slots).unwrap_or(u32::MAX),
            busy: u32::try_from(snapshot.running.len()).unwrap_or(u32::MAX),
            last_heard: None,
            version: env!("CARGO_PKG_VERSION").into(),
            ..Default::default()
        }
    }

    fn warnings(&self, stats: &DiskStats) -> Vec<control::Warning> {
        let mut warnings: Vec<_> = self.warnings.iter().map(|(text, remedy)| warn(text, remedy)).collect();
        if let Some(age) = stats.youngest_victim.filter(|age| *age < self.config.lease) {
            let text = format!("a blob was evicted {} after its last use", humantime::format_duration(age));
            warnings.push(warn(&text, "raise `disk-budget`"));
        }
        if stats.leased_bytes > stats.budget_bytes / 10 * 9 {
            warnings
                .push(warn("leases hold nearly all of the budget", "raise `disk-budget` or shorten `lease`"));
        }
        if stats.corrupt > 0 {
            let text = format!("{} blobs were found broken on disk and dropped", stats.corrupt);
            warnings.push(warn(&text, "check the disk"));
        }
        warnings
    }
}

#[async_trait]
impl ControlSource for StatusSource {
    async fn status(&self) -> GetStatusResponse {
        let (snapshot, stats) = (self.scheduler.snapshot(), self.store.stats());
        GetStatusResponse {
            node: Some(self.node()),
            machines: vec![self.machine(&snapshot)],
            execution: Some(execution(&snapshot, SystemTime::now())),
            storage: Some(storage(&stats)),
            warnings: self.warnings(&stats),
        }
    }

    async fn operations(&self) -> Vec<control::Operation> {
        let snapshot = self.scheduler.snapshot();
        snapshot.running.iter().chain(&snapshot.queued).map(describe::live).collect()
    }
}

fn warn(text: &str, remedy: &str) -> control::Warning {
    control::Warning {
        level: warning::Level::Advice.into(),
        text: text.to_owned(),
        remedy: remedy.to_owned(),
    }
}

fn execution(snapshot: &Snapshot, now: SystemTime) -> control::Execution {
    let counters = snapshot.counters;
    let recent = snapshot.history.iter().filter(|record| {
        let ended = record.timeline.ended_at.unwrap_or(SystemTime::UNIX_EPOCH);
        now.duration_since(ended).unwrap_or_default() <= RECENT
    });
    let (mut recent_hits, mut recent_lookups) = (0, 0);
    for record in recent {
        recent_lookups += 1;
        recent_hits += u64::from(record.cached);
    }
    control::Execution {
        queued: snapshot.queued.len() as u64,
        running: snapshot.running.len() as u64,
        executed: counters.succeeded + counters.failed,
        cached: counters.cached,
        failed: counters.failed,
        errors: counters.errors + counters.cancelled,
        recent_hits,
        recent_lookups,
        ..Default::default()
    }
}

fn storage(stats: &DiskStats) -> control::Storage {
    control::Storage {
        used_bytes: stats.used_bytes,
        budget_bytes: stats.budget_bytes,
        blobs: stats.blobs,
        leased_bytes: stats.leased_bytes,
        evictions: stats.evicted,
        youngest_victim: stats.youngest_victim.map(duration),
        action_results: stats.actions,
        unsynced: stats.unsynced.map(duration),
        damaged: stats.corrupt,
        scrub_progress: stats.scrub_progress,
        scrub_passes: stats.scrub_passes,
        ..Default::default()
    }
}
