//! Finds machines of the farm on the local networks, by multicast DNS.
//!
//! A machine is announced as `_farmhand._tcp.local.` with its id as instance and host name, and two facts:
//! the protocol and the tag of its farm. Whatever is heard was said by anybody: it is checked
//! ([`announcement`]), kept within bounds, and is a hint where to dial. The engine is a thread of the
//! crate `mdns-sd`, which is named here alone; [`interfaces`] says where it may speak and listen.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mdns_sd::{IfKind, IfPredicate, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::MachineId;
use super::interfaces::{self, Interface, Rules};
use super::trust::FarmTag;
use crate::config::InterfacePattern;
use announcement::{Announcement, Heard};

pub mod announcement;
mod invitations;

pub use invitations::Invitations;

/// What machines are announced as.
const SERVICE: &str = "_farmhand._tcp.local.";

/// Machines that are kept in mind.
const MOST_HEARD: usize = 256;

/// Records of others that the engine may keep; with more it begins anew.
const MOST_RECORDS: i64 = 5000;

/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(30);

/// Pause before the engine is started again after it failed.
const AGAIN: Duration = Duration::from_secs(10);

/// Time for the announcement that this machine goes.
const GOODBYE: Duration = Duration::from_millis(500);

/// What is announced, and where.
#[derive(Clone, Debug)]
pub struct DiscoveryConfig {
    /// This machine.
    pub id: MachineId,
    /// Port on which it takes links.
    pub port: u16,
    /// Interfaces the settings name.
    pub interfaces: Vec<InterfacePattern>,
}

/// What a machine is heard to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// It is there, as is said.
    There(MachineId, Vec<SocketAddr>),
    /// It is announced no more.
    Gone(MachineId),
}

/// Finds machines. Clones are the same.
#[derive(Clone)]
pub struct Discovery(Arc<Shared>);

struct Shared {
    config: DiscoveryConfig,
    rules: Rules,
    /// All that are heard, those of other farms too.
    heard: Mutex<BTreeMap<MachineId, Seen>>,
}

/// A machine that was heard.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What was announced.
    pub announcement: Announcement,
    /// When it was last announced anew.
    pub at: Instant,
}

/// The engine, running.
struct Engine {
    daemon: ServiceDaemon,
    events: mdns_sd::Receiver<ServiceEvent>,
}

// === impl Discovery ===

impl Discovery {
    /// Finds nothing before it [runs](Self::run).
    pub fn new(config: DiscoveryConfig) -> Self {
        let rules = Rules::new(config.interfaces.clone());
        Self(Arc::new(Shared { config, rules, heard: Mutex::default() }))
    }

    /// All machines that are announced, those of other farms too.
    pub fn seen(&self) -> Vec<Seen> {
        self.heard().values().cloned().collect()
    }

    /// Announces this machine and tells what is heard of members of its farm, until `stop` fires; then
    /// announces that it goes.
    pub async fn run(
        self,
        mut farm: watch::Receiver<FarmTag>,
        mut tell: impl AsyncFnMut(Sighting),
        stop: CancellationToken,
    ) {
        loop {
            let tag = *farm.borrow_and_update();
            let engine = match Engine::start(&self.0, tag) {
                Ok(engine) => engine,
                Err(error) => {
                    tracing::warn!(%error, "machines cannot be looked for on the network; trying on");
                    match stop.run_until_cancelled(sleep(AGAIN)).await {
                        Some(()) => continue,
                        None => return,
                    }
                }
            };
            let ended = tokio::select! {
                why = self.listen(&engine, tag, &mut tell) => Some(why),
                Ok(()) = farm.changed() => None,
                () = stop.cancelled() => return engine.stop(&self.0.config.id).await,
            };
            engine.stop(&self.0.config.id).await;
            if let Some(why) = ended {
                tracing::warn!(why, "machines are looked for anew");
                if stop.run_until_cancelled(sleep(AGAIN)).await.is_none() {
                    return;
                }
            }
        }
    }

    /// Tells what is heard until that has to begin anew; why.
    async fn listen(
        &self,
        engine: &Engine,
        tag: FarmTag,
        tell: &mut impl AsyncFnMut(Sighting),
    ) -> &'static str {
        loop {
            tokio::select! {
                event = engine.events.recv_async() => match event {
                    Ok(event) => {
                        if let Some(sighting) = self.take_in(event, tag) {
                            tell(sighting).await;
                        }
                    }
                    Err(_) => return "more was announced than could be taken in",
                },
                () = sleep(LOOK) => {
                    if engine.records().await > MOST_RECORDS {
                        return "too much is announced on the network";
                    }
                }
            }
        }
    }

    fn take_in(&self, event: ServiceEvent, tag: FarmTag) -> Option<Sighting> {
        match event {
            ServiceEvent::ServiceResolved(service) => self.heard_of(&service, tag),
            ServiceEvent::ServiceRemoved(_, name) => {
                let id = announcement::id_of(&name, SERVICE)?;
                self.heard().remove(&id);
                Some(Sighting::Gone(id))
            }
            _ => None,
        }
    }

    fn heard_of(&self, service: &ResolvedService, tag: FarmTag) -> Option<Sighting> {
        let announcement = read(service)?;
        if announcement.id == self.0.config.id {
            return None;
        }
        let (id, addresses) = (announcement.id, announcement.addresses.clone());
        let is_ours = announcement.farm == tag;
        let is_new = self.keep(announcement);
        match (is_ours, is_new) {
            (true, _) => Some(Sighting::There(id, addresses)),
            (false, true) => {
                tracing::info!(%id, "a machine of another farm is on the network");
                Some(Sighting::Gone(id))
            }
            (false, false) => None,
        }
    }

    /// Keeps it in mind; whether it is new.
    fn keep(&self, announcement: Announcement) -> bool {
        let mut heard = self.heard();
        if heard.len() >= MOST_HEARD && !heard.contains_key(&announcement.id) {
            let oldest = heard.iter().min_by_key(|(_, seen)| seen.at).map(|(id, _)| *id);
            oldest.map(|oldest| heard.remove(&oldest));
        }
        let seen = Seen { at: Instant::now(), announcement };
        let farm = seen.announcement.farm;
        heard.insert(seen.announcement.id, seen).is_none_or(|before| before.announcement.farm != farm)
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<MachineId, Seen>> {
        self.0.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens for `time` to what is announced where `rules` allow it, this machine's own announcements
/// included.
///
/// # Errors
/// When the engine does not start, in words.
pub async fn listen(rules: &Rules, time: Duration) -> Result<Vec<Announcement>, String> {
    let heard = async {
        let daemon = Engine::daemon(rules)?;
        let events = daemon.browse(SERVICE)?;
        let mut heard = BTreeMap::new();
        let listen = async {
            while let Ok(event) = events.recv_async().await {
                if let ServiceEvent::ServiceResolved(service) = event
                    && let Some(announcement) = read(&service)
                    && heard.len() < MOST_HEARD
                {
                    heard.insert(announcement.id, announcement);
                }
            }
        };
        // It goes on until the time is over.
        let _ = timeout(time, listen).await;
        daemon.shutdown()?;
        Ok::<_, mdns_sd::Error>(heard.into_values().collect())
    };
    heard.await.map_err(|error| error.to_string())
}

fn read(service: &ResolvedService) -> Option<Announcement> {
    let text = |key| service.txt_properties.get_property_val_str(key);
    let heard = Heard {
        name: &service.fullname,
        port: service.port,
        protocol: text("v"),
        farm: text("farm"),
        addresses: service.addresses.iter().filter_map(scoped).collect(),
    };
    Announcement::read(heard, SERVICE, &interfaces::list())
}

/// An address with the numbers of the interfaces on which it was announced.
fn scoped(ip: &ScopedIp) -> Option<(IpAddr, Vec<u32>)> {
    match ip {
        ScopedIp::V4(v4) => {
            Some((IpAddr::V4(*v4.addr()), v4.interface_ids().iter().map(|id| id.index).collect()))
        }
        ScopedIp::V6(v6) => Some((IpAddr::V6(*v6.addr()), vec![v6.scope_id().index])),
        _ => None,
    }
}

// === impl Engine ===

impl Engine {
    /// The thread, where `rules` allow it.
    fn daemon(rules: &Rules) -> Result<ServiceDaemon, mdns_sd::Error> {
        let daemon = ServiceDaemon::new()?;
        let rules = rules.clone();
        let is_unused =
            move |interface: &if_addrs::Interface| rules.judge(&Interface::of(interface)).is_err();
        daemon.disable_interface(IfKind::Predicate(IfPredicate::new(is_unused)))?;
        Ok(daemon)
    }

    fn start(shared: &Shared, tag: FarmTag) -> Result<Self, mdns_sd::Error> {
        let daemon = Self::daemon(&shared.rules)?;
        let DiscoveryConfig { id, port, .. } = shared.config;
        let label = id.label();
        let (protocol, farm) = (announcement::PROTOCOL.to_string(), tag.to_string());
        let facts = [("v", protocol.as_str()), ("farm", farm.as_str())];
        let info = ServiceInfo::new(SERVICE, &label, &format!("{label}.local."), "", port, &facts[..])?;
        daemon.register(info.enable_addr_auto())?;
        let events = daemon.browse(SERVICE)?;
        Ok(Self { daemon, events })
    }

    /// Records of others that are kept; 0 if that cannot be told.
    async fn records(&self) -> i64 {
        let Ok(metrics) = self.daemon.get_metrics() else { return 0 };
        let Ok(Ok(metrics)) = timeout(GOODBYE, metrics.recv_async()).await else { return 0 };
        metrics.iter().filter(|(name, _)| name.starts_with("cached-")).map(|(_, count)| count).sum()
    }

    /// Announces that this machine goes, and ends the thread.
    async fn stop(self, id: &MachineId) {
        let goodbye = async {
            if let Ok(told) = self.daemon.unregister(&format!("{}.{SERVICE}", id.label())) {
                let _ = told.recv_async().await;
            }
            if let Ok(ended) = self.daemon.shutdown() {
                let _ = ended.recv_async().await;
            }
        };
        if timeout(GOODBYE, goodbye).await.is_err() {
            let _ = self.daemon.shutdown();
            tracing::debug!("the network was not told that this machine goes");
        }
    }
}
