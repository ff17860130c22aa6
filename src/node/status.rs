//! What the node tells of itself over the control API.

use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use farmhand_proto::client::PROTOCOL_VERSION;
use farmhand_proto::control::{self, GetStatusResponse, warning};
use farmhand_proto::time::{duration, timestamp};
use tokio::sync::watch;

use super::manners::{Welcome, in_words};
use super::meter::{Measured, Meter};
use super::part::{Inside, Share};
use super::safety::{self, Safety};
use super::wire::{self, count};
use super::{Endpoints, USUAL_LEASE};
use crate::activity::Activity;
use crate::cas::disk::DiskStats;
use crate::config::{Config, SlotShare};
use crate::execution::lending::{Lender, Lent};
use crate::execution::{Duty, MachineState, Scheduler};
use crate::history::describe;
use crate::peer::members::Standing;
use crate::peer::trust::Trust;
use crate::peer::{PeerInfo, Peers};
use crate::platform;
use crate::rpc::control::ControlSource;
use crate::worker::Runner;
use crate::worker::local::LocalWorker;

/// Everything a status is made of.
pub(super) struct StatusSource {
    config: Arc<Config>,
    endpoints: Endpoints,
    started: SystemTime,
    sandboxed: bool,
    warnings: Vec<(String, String)>,
    scheduler: Scheduler,
    activity: Arc<Activity>,
    meter: Meter,
    peers: Peers,
    trust: Trust,
    welcome: Welcome,
    /// What the toolchain is recognised by.
    toolchain: watch::Receiver<Arc<str>>,
    lender: Lender,
    tenancies: Tenancies,
    worker: Arc<LocalWorker>,
    safety: Safety,
}

/// Who uses the slots of this machine, or waits for them, now. Must not wait for anything.
pub(super) type Tenancies = Arc<dyn Fn() -> Vec<control::Tenancy> + Send + Sync>;

// === impl StatusSource ===

impl StatusSource {
    /// Of a machine that takes its `share` in the farm, as long as it runs: from now on.
    pub(super) fn new(inside: &Inside<'_>, share: Share) -> Self {
        let Inside { config, engine, work, tasks, .. } = *inside;
        let store = inside.whole.store.clone();
        let sandboxed = engine.spawners.is_sandboxed();
        Self {
            endpoints: inside.endpoints.clone(),
            started: SystemTime::now(),
            warnings: standing_warnings(config, sandboxed),
            sandboxed,
            meter: Meter::start(store, config.data_dir.clone(), tasks),
            activity: Arc::clone(&work.activity),
            config: Arc::clone(config),
            scheduler: work.scheduler.clone(),
            peers: inside.peers.clone(),
            trust: inside.trust.clone(),
            welcome: share.welcome,
            toolchain: share.toolchain,
            lender: share.lender,
            tenancies: share.tenancies,
            worker: Arc::clone(&engine.worker),
            safety: inside.safety.clone(),
        }
    }

    fn node(&self) -> control::Node {
        control::Node {
            name: self.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            protocol_version: PROTOCOL_VERSION,
            pid: std::process::id(),
            started: Some(timestamp(self.started)),
            uptime: Some(duration(self.started.elapsed().unwrap_or_default())),
            boot_epoch: self.activity.epoch(),
            endpoints: Some(control::Endpoints {
                reapi: self.endpoints.reapi.to_string(),
                reapi_socket: self.endpoints.reapi_socket.display().to_string(),
                peers: self.endpoints.peers.map(|address| address.to_string()).unwrap_or_default(),
                control: self.endpoints.control.display().to_string(),
            }),
            data_dir: self.config.data_dir.display().to_string(),
            sandbox: if self.sandboxed { "namespaces" } else { "none" }.into(),
            farm: self.trust.farm(),
        }
    }

    /// This machine, as the scheduler knows it; not at all once the node is ending.
    async fn machine_state(&self) -> Option<MachineState> {
        let machines = self.scheduler.machines().await;
        machines.into_iter().find(|machine| *machine.name == *self.config.name)
    }

    fn machine(&self, machine: Option<&MachineState>, measured: &Measured) -> control::Machine {
        let duty = machine.map(|machine| machine.duty).unwrap_or_default();
        let Lent { slots, busy, .. } = self.lender.lent();
        let allowance = self.welcome.now(slots);
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let stats = measured.stats.as_ref();
        let tenancies = (self.tenancies)();
        let guests = wire::guests(&tenancies);
        let warm = self.worker.warm_workers();
        control::Machine {
            name: self.config.name.clone(),
            state: wire::state(duty, &allowance).into(),
            is_self: true,
            slots: count(slots),
            busy: count(busy),
            last_heard: None,
            version: env!("CARGO_PKG_VERSION").into(),
            os: std::env::consts::OS.into(),
            arch: platform::architecture(),
            cpus: count(cpus),
            load: measured.load.as_ref().map(|(at, load)| wire::load(*at, load)),
            found_by: "self".into(),
            used_bytes: stats.map_or(0, |stats| stats.used_bytes),
            budget_bytes: stats.map_or(0, |stats| stats.budget_bytes),
            id: self.trust.me().to_string(),
            address: self.endpoints.peers.map(|address| address.to_string()).unwrap_or_default(),
            boot_epoch: self.activity.epoch(),
            reason: in_words(duty, &allowance, slots),
            guest_slots: Some(count(allowance.slots)),
            toolchain: self.toolchain.borrow().to_string(),
            guests: Some(guests),
            tenancies,
            warm_workers: count(warm.count),
            warm_worker_bytes: warm.memory,
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

    async fn response(&self, measured: &Measured) -> GetStatusResponse {
        let machine = self.machine_state().await;
        let execution = self.activity.execution();
        let stats = measured.stats.clone().unwrap_or_default();
        let (others, copies) = (self.peers.list(), self.safety.status());
        let mut warnings = self.warnings(&stats);
        warnings.extend(machine.as_ref().and_then(|machine| at_rest(machine, execution.queued)));
        let mut this = self.machine(machine.as_ref(), measured);
        let is_idle = this.busy == 0 && execution.queued == 0 && execution.running == 0;
        self.safety.now(stats.sole).show(&mut this, is_idle);
        warnings.extend(other_toolchains(&this.toolchain, &others));
        warnings.extend(safety::warnings(&self.config.copies, &copies, &others));
        GetStatusResponse {
            node: Some(self.node()),
            machines: std::iter::once(this).chain(others.iter().map(wire::other_machine)).collect(),
            execution: Some(execution),
            storage: measured.stats.as_ref().map(|stats| control::Storage {
                replication: self.safety.has_others().then(|| safety::replication(&copies, stats)),
                ..storage(stats)
            }),
            warnings,
            entrance: None,
        }
    }
}

#[async_trait]
impl ControlSource for StatusSource {
    async fn status(&self) -> GetStatusResponse {
        self.response(&self.meter.measure().await).await
    }

    async fn glance(&self) -> GetStatusResponse {
        self.response(&self.meter.glance()).await
    }

    fn lend(&self, slots: usize) {
        self.welcome.lend(SlotShare::Slots(slots));
    }

    async fn operations(&self) -> Vec<control::Operation> {
        let snapshot = self.scheduler.snapshot();
        snapshot.running.iter().chain(&snapshot.queued).map(describe::live).collect()
    }

    async fn operation(&self, name: &str) -> Option<control::Operation> {
        self.scheduler.get(name).map(|operation| describe::told(&operation))
    }
}

fn warn(text: &str, remedy: &str) -> control::Warning {
    control::Warning {
        level: warning::Level::Advice.into(),
        text: text.to_owned(),
        remedy: remedy.to_owned(),
    }
}

/// Machines whose compilers and libraries are others than here.
fn other_toolchains(here: &str, others: &[PeerInfo]) -> Option<control::Warning> {
    let differs = |peer: &&PeerInfo| {
        let there = peer.state.as_ref().map_or("", |state| &state.toolchain);
        peer.standing == Standing::Linked && !there.is_empty() && there != here
    };
    let names: Vec<&str> = others.iter().filter(differs).map(|peer| &*peer.name).collect();
    (!here.is_empty() && !names.is_empty()).then(|| {
        let text = format!("{} have another toolchain: actions that use it may give other results there", names.join(", "));
        warn(&text, "install the same, or set `toolchain-rule` to \"strict\"; `farmhand doctor` on each shows what it has")
    })
}

/// A build hangs on a machine that rests, and nothing in the build tool says why.
fn at_rest(machine: &MachineState, queued: u64) -> Option<control::Warning> {
    let what = match machine.duty {
        Duty::Active => return None,
        Duty::Draining => "is draining",
        Duty::Paused => "is paused",
    };
    (queued > 0).then(|| {
        let actions =
            if queued == 1 { "an action waits".to_owned() } else { format!("{queued} actions wait") };
        warn(&format!("{actions} while {} {what}", machine.name), "farmhand resume")
    })
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
        replication: None,
    }
}

/// What a person should know for as long as the node runs: text and remedy.
fn standing_warnings(config: &Config, sandboxed: bool) -> Vec<(String, String)> {
    let mut warnings = Vec::new();
    if !sandboxed {
        let remedy = "farmhand doctor says what keeps the sandbox from working";
        warnings.push(("actions run without a sandbox".to_owned(), remedy.to_owned()));
    }
    if config.lease < USUAL_LEASE {
        let text = format!("the lease is only {}", humantime::format_duration(config.lease));
        warnings.push((text, "build tools rely on 3h; raise `lease`".to_owned()));
    }
    if !config.listen.ip().is_loopback() {
        let text = format!("anybody who reaches {} may run commands here", config.listen);
        warnings.push((text, "listen on 127.0.0.1 and unset `insecure-lan`".to_owned()));
    }
    warnings
}
