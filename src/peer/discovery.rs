//! Finds machines of the farm on the local networks, by multicast DNS.
//!
//! A machine is announced as `_farmhand._tcp.local.` with its id as instance and host name, and two facts:
//! the protocol and the tag of its farm. Whatever is heard was said by anybody: it is checked
//! ([`announcement`]), kept within bounds, and is a hint where to dial. The engine is a thread of the
//! crate `mdns-sd`, which is named here alone; [`interfaces`](super::interfaces) says where it may speak and listen.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use mdns_sd::{IfKind, IfPredicate, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent, ServiceInfo};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::MachineId;
use super::interfaces::{Interface, Interfaces, Rules};
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

/// Time for the engine to count them.
const COUNT: Duration = Duration::from_secs(2);

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

/// Finds machines.
pub struct Discovery {
    config: DiscoveryConfig,
    rules: Rules,
    interfaces: Interfaces,
    /// All that are heard, those of other farms too.
    heard: BTreeMap<MachineId, Seen>,
}

/// A machine that was heard.
struct Seen {
    /// The farm it is said to be of.
    farm: FarmTag,
    /// When it was last announced anew.
    at: Instant,
}

/// The engine, running.
struct Engine {
    daemon: Daemon,
    events: mdns_sd::Receiver<ServiceEvent>,
}

/// Its thread, which ends when this is dropped.
struct Daemon(ServiceDaemon);

// === impl Discovery ===

impl Discovery {
    /// Finds nothing before it [runs](Self::run).
    pub fn new(config: DiscoveryConfig) -> Self {
        let rules = Rules::new(config.interfaces.clone());
        Self { config, rules, interfaces: Interfaces::default(), heard: BTreeMap::new() }
    }

    /// Announces this machine and tells what is heard of members of its farm, until `stop` fires; then
    /// announces that it goes.
    pub async fn run(
        mut self,
        mut farm: watch::Receiver<FarmTag>,
        mut tell: impl AsyncFnMut(Sighting),
        stop: CancellationToken,
    ) {
        loop {
            let tag = *farm.borrow_and_update();
            let engine = match Engine::start(&self.config, &self.rules, tag) {
                Ok(engine) => engine,
                Err(error) => {
                    tracing::warn!(%error, "machines cannot be looked for on the network; trying on");
                    match stop.run_until_cancelled(sleep(AGAIN)).await {
                        Some(()) => continue,
                        None => return,
                    }
                }
            };
            let daemon = engine.daemon.0.clone();
            let count = move || records(daemon.clone());
            let ended = tokio::select! {
                why = self.listen(engine.events.stream(), count, tag, &mut tell) => Some(why),
                Ok(()) = farm.changed() => None,
                () = stop.cancelled() => return engine.stop(&self.config.id).await,
            };
            engine.stop(&self.config.id).await;
            if let Some(why) = ended {
                tracing::warn!(why, "machines are looked for anew");
                if stop.run_until_cancelled(sleep(AGAIN)).await.is_none() {
                    return;
                }
            }
        }
    }

    /// Tells what is heard until that has to begin anew; why. `records` counts what the engine keeps of
    /// others.
    async fn listen<C: Future<Output = Option<i64>>>(
        &mut self,
        mut events: impl Stream<Item = ServiceEvent> + Unpin,
        records: impl Fn() -> C,
        tag: FarmTag,
        tell: &mut impl AsyncFnMut(Sighting),
    ) -> &'static str {
        let mut looks = interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                // However much is announced, that is looked at.
                biased;
                _ = looks.tick() => {
                    // An engine that has no time to count has too much to do.
                    if records().await.is_none_or(|records| records > MOST_RECORDS) {
                        return "too much is announced on the network";
                    }
                }
                event = events.next() => match event {
                    Some(event) => {
                        if let Some(sighting) = self.take_in(event, tag).await {
                            tell(sighting).await;
                        }
                    }
                    None => return "more was announced than could be taken in",
                },
            }
        }
    }

    async fn take_in(&mut self, event: ServiceEvent, tag: FarmTag) -> Option<Sighting> {
        match event {
            ServiceEvent::ServiceResolved(service) => {
                let announcement = read(&service, self.interfaces.list().await)?;
                self.heard_of(announcement, tag)
            }
            ServiceEvent::ServiceRemoved(_, name) => {
                let id = announcement::id_of(&name, SERVICE)?;
                self.heard.remove(&id);
                Some(Sighting::Gone(id))
            }
            _ => None,
        }
    }

    fn heard_of(&mut self, announcement: Announcement, tag: FarmTag) -> Option<Sighting> {
        let Announcement { id, farm, addresses, .. } = announcement;
        if id == self.config.id {
            return None;
        }
        let is_new = self.keep(id, farm);
        match (farm == tag, is_new) {
            (true, _) => Some(Sighting::There(id, addresses)),
            (false, true) => {
                // Anybody may announce as many as he likes.
                tracing::debug!(%id, "a machine of another farm is on the network");
                Some(Sighting::Gone(id))
            }
            (false, false) => None,
        }
    }

    /// Keeps it in mind; whether it is new.
    fn keep(&mut self, id: MachineId, farm: FarmTag) -> bool {
        if self.heard.len() >= MOST_HEARD && !self.heard.contains_key(&id) {
            let oldest = self.heard.iter().min_by_key(|(_, seen)| seen.at).map(|(id, _)| *id);
            oldest.map(|oldest| self.heard.remove(&oldest));
        }
        let seen = Seen { at: Instant::now(), farm };
        self.heard.insert(id, seen).is_none_or(|before| before.farm != farm)
    }
}

/// Listens for `time` to what is announced where `rules` allow it, this machine's own announcements
/// included.
///
/// # Errors
/// When the engine does not start, in words.
pub async fn listen(rules: &Rules, time: Duration) -> Result<Vec<Announcement>, String> {
    let heard = async {
        let daemon = Daemon::start(rules)?;
        let events = daemon.0.browse(SERVICE)?;
        let (mut heard, mut interfaces) = (BTreeMap::new(), Interfaces::default());
        let listen = async {
            while let Ok(event) = events.recv_async().await {
                if let ServiceEvent::ServiceResolved(service) = event
                    && let Some(announcement) = read(&service, interfaces.list().await)
                    && heard.len() < MOST_HEARD
                {
                    heard.insert(announcement.id, announcement);
                }
            }
        };
        // It goes on until the time is over.
        let _ = timeout(time, listen).await;
        Ok::<_, mdns_sd::Error>(heard.into_values().collect())
    };
    heard.await.map_err(|error| error.to_string())
}

fn read(service: &ResolvedService, interfaces: &[Interface]) -> Option<Announcement> {
    let text = |key| service.txt_properties.get_property_val_str(key);
    let heard = Heard {
        name: &service.fullname,
        port: service.port,
        protocol: text("v"),
        farm: text("farm"),
        addresses: service.addresses.iter().filter_map(scoped).collect(),
    };
    Announcement::read(heard, SERVICE, interfaces)
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

// === impl Daemon ===

impl Daemon {
    /// Speaks and listens where `rules` allow it.
    fn start(rules: &Rules) -> Result<Self, mdns_sd::Error> {
        let daemon = Self(ServiceDaemon::new()?);
        let rules = rules.clone();
        let is_unused =
            move |interface: &if_addrs::Interface| rules.judge(&Interface::of(interface)).is_err();
        daemon.0.disable_interface(IfKind::Predicate(IfPredicate::new(is_unused)))?;
        Ok(daemon)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It fails where the thread has ended before.
        let _ = self.0.shutdown();
    }
}

/// Records of others that an engine keeps; `None` if they are not counted in time.
async fn records(daemon: ServiceDaemon) -> Option<i64> {
    let metrics = daemon.get_metrics().ok()?;
    let metrics = timeout(COUNT, metrics.recv_async()).await.ok()?.ok()?;
    Some(metrics.iter().filter(|(name, _)| name.starts_with("cached-")).map(|(_, count)| count).sum())
}

// === impl Engine ===

impl Engine {
    fn start(config: &DiscoveryConfig, rules: &Rules, tag: FarmTag) -> Result<Self, mdns_sd::Error> {
        let daemon = Daemon::start(rules)?;
        let DiscoveryConfig { id, port, .. } = config;
        let label = id.label();
        let (protocol, farm) = (announcement::PROTOCOL.to_string(), tag.to_string());
        let facts = [("v", protocol.as_str()), ("farm", farm.as_str())];
        let info = ServiceInfo::new(SERVICE, &label, &format!("{label}.local."), "", *port, &facts[..])?;
        daemon.0.register(info.enable_addr_auto())?;
        let events = daemon.0.browse(SERVICE)?;
        Ok(Self { daemon, events })
    }

    /// Announces that this machine goes, and ends the thread.
    async fn stop(self, id: &MachineId) {
        let goodbye = async {
            if let Ok(told) = self.daemon.0.unregister(&format!("{}.{SERVICE}", id.label())) {
                let _ = told.recv_async().await;
            }
            if let Ok(ended) = self.daemon.0.shutdown() {
                let _ = ended.recv_async().await;
            }
        };
        if timeout(GOODBYE, goodbye).await.is_err() {
            tracing::debug!("the network was not told that this machine goes");
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    const FARM: [&str; 2] = ["0123456789abcdef", "fedcba9876543210"];

    fn discovery() -> Discovery {
        Discovery::new(DiscoveryConfig { id: MachineId::new([1; 32]), port: 1, interfaces: Vec::new() })
    }

    fn announced(number: u8, farm: &str) -> Announcement {
        Announcement {
            id: MachineId::new([number; 32]),
            farm: farm.parse().unwrap(),
            addresses: vec![([10, 0, 0, number], 7).into()],
            interfaces: Vec::new(),
        }
    }

    #[test]
    fn members_are_told_of_and_others_once() {
        let (mut discovery, tag) = (discovery(), FARM[0].parse().unwrap());
        let there = |number| {
            Some(Sighting::There(MachineId::new([number; 32]), vec![([10, 0, 0, number], 7).into()]))
        };
        assert_eq!(discovery.heard_of(announced(1, FARM[0]), tag), None, "this is myself");
        for _ in 0..2 {
            assert_eq!(discovery.heard_of(announced(2, FARM[0]), tag), there(2));
        }
        // It is in another farm now.
        let gone = Some(Sighting::Gone(MachineId::new([2; 32])));
        assert_eq!(discovery.heard_of(announced(2, FARM[1]), tag), gone);
        assert_eq!(discovery.heard_of(announced(2, FARM[1]), tag), None);
    }

    #[test]
    fn only_so_many_are_kept_in_mind() {
        let mut discovery = discovery();
        for number in 0..=u16::MAX / 64 {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&number.to_be_bytes());
            discovery.keep(MachineId::new(id), FARM[1].parse().unwrap());
        }
        assert_eq!(discovery.heard.len(), MOST_HEARD);
    }

    /// Something is announced each second: what the engine keeps is looked at all the same.
    #[tokio::test(start_paused = true)]
    async fn a_flood_does_not_hide_itself() {
        for records in [Some(MOST_RECORDS + 1), None] {
            let flood = Box::pin(stream::unfold((), |()| async {
                sleep(Duration::from_secs(1)).await;
                Some((ServiceEvent::SearchStarted(SERVICE.to_owned()), ()))
            }));
            let (mut discovery, tag) = (discovery(), FARM[0].parse().unwrap());
            let mut tell = async |_| ();
            let listening = discovery.listen(flood, || async move { records }, tag, &mut tell);
            let why = timeout(3 * LOOK, listening).await.expect("it is looked at");
            assert_eq!(why, "too much is announced on the network");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_keeps_little_goes_on_until_it_ends() {
        let mut tell = async |_| ();
        let few = || async { Some(MOST_RECORDS) };
        let (mut discovery, tag) = (discovery(), FARM[0].parse().unwrap());
        let listening = discovery.listen(stream::pending(), few, tag, &mut tell);
        assert!(timeout(3 * LOOK, listening).await.is_err());
        let why = discovery.listen(stream::empty(), few, tag, &mut tell).await;
        assert_eq!(why, "more was announced than could be taken in");
    }
}
