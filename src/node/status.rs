//! What the node tells of itself over the control API.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use farmhand_proto::control::{self, GetStatusResponse, operation, warning};
use farmhand_proto::time::{duration, timestamp};
use prost::Message;

use super::Endpoints;
use crate::cas::disk::{DiskCas, DiskStats};
use crate::config::Config;
use crate::execution::operations::{Outcome, Record, Timeline};
use crate::execution::scheduler::LiveAction;
use crate::execution::{OperationId, Scheduler, Snapshot, Stage};
use crate::request_metadata::RequestMetadata;
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
        let live = snapshot.running.iter().chain(&snapshot.queued).map(live);
        live.chain(snapshot.history.iter().map(|record| self.finished(record))).collect()
    }
}

impl StatusSource {
    fn finished(&self, record: &Record) -> control::Operation {
        let (status_code, exit_code) = match record.outcome {
            Outcome::Succeeded => (0, 0),
            Outcome::Failed(code) => (0, code),
            Outcome::Error(code) => (code, 0),
        };
        let response =
            self.scheduler.get(&record.id.to_string()).and_then(|operation| operation.state().response);
        let result = response.as_ref().and_then(|response| response.result.as_ref());
        control::Operation {
            action_digest: record.action.to_string(),
            instance_name: record.instance.to_string(),
            stage: operation::Stage::Done.into(),
            cached: record.cached,
            status_code,
            exit_code,
            message: response.as_ref().map(|response| message(response)).unwrap_or_default(),
            result: result.map(Message::encode_to_vec),
            ..common(record.id, &record.timeline, &record.invocation)
        }
    }
}

fn warn(text: &str, remedy: &str) -> control::Warning {
    control::Warning {
        level: warning::Level::Advice.into(),
        text: text.to_owned(),
        remedy: remedy.to_owned(),
    }
}

fn message(response: &farmhand_proto::reapi::ExecuteResponse) -> String {
    let status = response.status.as_ref().map(|status| status.message.as_str()).unwrap_or_default();
    let parts = [status, &response.message];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("\n")
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
        pinned: stats.kept,
    }
}

fn live(action: &LiveAction) -> control::Operation {
    let stage = match action.state.stage {
        Stage::Queued => operation::Stage::Queued,
        Stage::Executing => operation::Stage::Running,
        Stage::Completed => operation::Stage::Done,
    };
    control::Operation {
        action_digest: action.operation.action.to_string(),
        instance_name: action.operation.instance.to_string(),
        stage: stage.into(),
        ..common(action.operation.id, &action.state.timeline, &action.operation.invocation)
    }
}

fn common(id: OperationId, timeline: &Timeline, invocation: &RequestMetadata) -> control::Operation {
    let tool = format!("{} {}", invocation.tool_name, invocation.tool_version);
    control::Operation {
        name: id.to_string(),
        machine: timeline.worker.as_deref().unwrap_or_default().to_owned(),
        queued: timeline.queued_at.map(timestamp),
        started: timeline.assigned_at.map(timestamp),
        finished: timeline.ended_at.map(timestamp),
        target: invocation.target_id.clone(),
        mnemonic: invocation.action_mnemonic.clone(),
        invocation: invocation.tool_invocation_id.clone(),
        tool: tool.trim().to_owned(),
        ..Default::default()
    }
}
