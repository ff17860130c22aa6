//! [`Driver`]: takes in what happens, asks [`Members`] what is to be done, and does it.
//!
//! One task owns everything here. Dials and links are tasks of their own that report to it; nothing
//! else decides anything.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use farmhand_proto::peer::MachineState;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::addresses::{self, Remembered};
use super::link::incoming::{CallHandle, Caller};
use super::link::outgoing::{Handle, Opener};
use super::link::{Closer, Life};
use super::members::{CallId, Effect, Event, Failure, Greeting, LinkId, Listed, Members, Route, Standing};
use super::trust::{FarmTag, Trust};
use super::{LinkNews, MachineId, Peer, PeerInfo, Peers, PeersConfig};

/// What is remembered is written so long after it changed, so that many changes are one.
const SAVE_AFTER: Duration = Duration::from_secs(2);

/// What other machines are told when this one ends.
pub(super) const ENDING: &str = "its node is ending";

/// What a link is told that was begun under a key which is the farm's no more.
pub(super) const OLD_KEY: &str = "the farm got another key meanwhile";

/// What the driver takes in.
pub(super) enum Happened {
    /// Something that has nothing with it to keep.
    Event(Event),
    /// A dial is over, which was for a member of this farm.
    Dialled { link: LinkId, farm: FarmTag, outcome: Result<Opened, Failure> },
    /// A machine has opened a link to this one, over this connection.
    Called { call: CallId, caller: Caller, greeting: Greeting, handle: CallHandle },
    /// That link of this machine is over.
    CallEnded { id: MachineId, call: CallId, reason: String },
}

/// A link this machine has opened.
pub(super) struct Opened {
    pub(super) greeting: Greeting,
    pub(super) route: Route,
    pub(super) handle: Handle,
    pub(super) closer: Closer,
}

/// A machine, with what tells more of it.
#[derive(Clone)]
pub(super) struct Shown {
    listed: Listed,
    life: Option<Arc<Life>>,
    /// What it tells of itself; without a link, what it told last.
    state: Option<watch::Receiver<Option<Arc<MachineState>>>>,
}

/// A link of a caller.
struct Call {
    greeting: Greeting,
    handle: CallHandle,
}

/// See the module.
pub(super) struct Driver {
    peers: Peers,
    trust: Trust,
    key: watch::Receiver<FarmTag>,
    opener: Opener,
    members: Members,
    links: BTreeMap<LinkId, Opened>,
    calls: BTreeMap<CallId, Call>,
    happened: mpsc::Receiver<Happened>,
    dice: RandomState,
    thrown: u64,
    remembered: PathBuf,
    save_at: Option<Instant>,
    /// What is being written, however long the disk takes: one at a time.
    saving: Option<JoinHandle<()>>,
    stop: CancellationToken,
}

impl Driver {
    pub(super) async fn new(
        peers: Peers,
        trust: Trust,
        config: PeersConfig,
        happened: mpsc::Receiver<Happened>,
    ) -> Self {
        let shared = &peers.0;
        let opener =
            Opener { me: shared.me.clone(), state: shared.state.subscribe(), tasks: shared.tasks.clone() };
        let members = Members::new(shared.me.id, Arc::clone(&shared.me.name), shared.me.boot_epoch);
        let stop = shared.tasks.token().clone();
        let mut driver = Self {
            key: trust.changes(),
            trust,
            opener,
            members,
            links: BTreeMap::new(),
            calls: BTreeMap::new(),
            happened,
            dice: RandomState::new(),
            thrown: 0,
            remembered: config.remembered,
            save_at: None,
            saving: None,
            stop,
            peers,
        };
        for address in config.configured {
            driver.apply(Event::Configured(address));
        }
        driver.recall().await;
        driver
    }

    /// Runs until the node ends, and takes leave of all.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        while stop.run_until_cancelled(self.step()).await.is_some() {}
        self.links.values().for_each(|link| link.closer.close(ENDING));
        self.calls.values().for_each(|call| call.handle.close(ENDING));
        // The later one is to be the one that stays.
        saved(&mut self.saving).await;
        if self.save_at.is_some() {
            self.save();
            saved(&mut self.saving).await;
        }
    }

    async fn step(&mut self) {
        let wake = self.members.wake();
        tokio::select! {
            happened = self.happened.recv() => {
                if let Some(happened) = happened {
                    self.take_in(happened);
                }
            }
            Ok(()) = self.key.changed() => self.apply(Event::KeyChanged),
            () = at(wake) => self.apply(Event::Tick),
            () = at(self.save_at), if self.saving.is_none() => self.save(),
            Some(()) = saved(&mut self.saving) => {}
        }
    }

    fn take_in(&mut self, happened: Happened) {
        match happened {
            Happened::Event(event) => {
                if let Event::Ended { link, .. } = &event {
                    let link = *link;
                    self.apply(event);
                    self.links.remove(&link);
                    return self.show();
                }
                self.apply(event);
            }
            Happened::Dialled { link, farm, outcome } => {
                let outcome = match outcome {
                    // However long the handshake took, what it has proven is worth nothing now.
                    Ok(opened) if farm != self.trust.tag() => {
                        opened.closer.close(OLD_KEY);
                        Err(Failure::Unreachable(OLD_KEY.to_owned()))
                    }
                    Ok(opened) => {
                        let found = (opened.greeting.clone(), opened.route.clone());
                        self.links.insert(link, opened);
                        Ok(found)
                    }
                    Err(failure) => Err(failure),
                };
                self.apply(Event::Dialled { link, outcome });
            }
            // As for a link this machine has opened: it began under a key that is the farm's no more.
            Happened::Called { caller, handle, .. } if !caller.is_member() => handle.close(OLD_KEY),
            Happened::Called { call, greeting, handle, .. } => {
                self.calls.insert(call, Call { greeting: greeting.clone(), handle });
                self.apply(Event::Called { call, greeting });
            }
            Happened::CallEnded { id, call, reason } => {
                if let Some(Call { greeting: Greeting { name, .. }, .. }) = self.calls.remove(&call) {
                    tracing::info!(machine = %name, %id, reason, "a machine has no link to this one any more");
                }
                self.peers.0.calls.close(id, call, &reason);
                self.apply(Event::CallEnded(call));
            }
        }
    }

    fn apply(&mut self, event: Event) {
        let jitter = self.throw();
        let effects = self.members.apply(Instant::now(), jitter, event);
        for effect in effects {
            self.perform(effect);
        }
        self.show();
    }

    /// From 0 to below 1.
    fn throw(&mut self) -> f64 {
        self.thrown += 1;
        let mut hasher = self.dice.build_hasher();
        hasher.write_u64(self.thrown);
        (hasher.finish() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Dial { link, routes } => self.dial(link, routes),
            Effect::Linked { link, name } => self.linked(link, name),
            Effect::Lost { link, reason } => self.lost(link, &reason),
            Effect::Close { link, reason } => {
                if let Some(opened) = self.links.get(&link) {
                    opened.closer.close(reason);
                }
            }
            Effect::CallNamed { call, name } => {
                let Some(Call { greeting, handle }) = self.calls.get(&call) else { return };
                let Greeting { id, boot_epoch, program, .. } = greeting;
                tracing::info!(machine = %name, %id, %program, "a machine has a link to this one");
                self.peers.0.calls.open(*id, call, name, *boot_epoch, handle.clone());
                self.mark_shared();
            }
            Effect::CloseCall { call, reason } => {
                if let Some(Call { greeting, handle }) = self.calls.get(&call) {
                    self.peers.0.calls.close(greeting.id, call, reason);
                    handle.close(reason);
                }
            }
            Effect::Remember => {
                self.save_at.get_or_insert(Instant::now() + SAVE_AFTER);
            }
        }
    }

    // --- links ---

    /// Has a link opened and kept, by a task that reports.
    fn dial(&self, link: LinkId, routes: Vec<Route>) {
        let farm = self.trust.tag();
        let (opener, config, sender) =
            (self.opener.clone(), self.trust.client_config(), self.peers.0.happened.clone());
        let stop = self.stop.clone();
        self.peers.0.tasks.spawn("link", async move {
            let Some(outcome) = stop.run_until_cancelled(opener.open(routes, &config)).await else { return };
            let outgoing = match outcome {
                Ok(outgoing) => outgoing,
                Err(failure) => {
                    tracing::debug!(?failure, "a machine cannot be linked with");
                    let told = sender.send(Happened::Dialled { link, farm, outcome: Err(failure) });
                    stop.run_until_cancelled(told).await;
                    return;
                }
            };
            let opened = Opened {
                greeting: outgoing.greeting.clone(),
                route: outgoing.route.clone(),
                handle: outgoing.handle.clone(),
                closer: outgoing.closer.clone(),
            };
            let told = sender.send(Happened::Dialled { link, farm, outcome: Ok(opened) });
            if stop.run_until_cancelled(told).await.is_none() {
                outgoing.closer.close(ENDING);
            }
            let reason = outgoing.run().await;
            let told = sender.send(Happened::Event(Event::Ended { link, reason }));
            stop.run_until_cancelled(told).await;
        });
    }

    fn linked(&self, link: LinkId, name: Arc<str>) {
        let Some(opened) = self.links.get(&link) else { return };
        let Greeting { id, boot_epoch, program, .. } = &opened.greeting;
        tracing::info!(machine = %name, %id, %program, route = %opened.route, "linked");
        let before = match self.peers.0.links.get(*id) {
            Some(LinkNews::Down(reason)) => Some(reason),
            _ => None,
        };
        let peer = Peer { id: *id, name, boot_epoch: *boot_epoch, link, handle: opened.handle.clone() };
        self.peers.0.links.put(*id, LinkNews::Up(peer, before), false);
        self.mark_shared();
    }

    /// Remembers that there is another machine in this farm, once one has shown so.
    fn mark_shared(&self) {
        // A link that is told of now was made under the key before, if there is a new one.
        if self.trust.is_shared() || self.key.has_changed().is_ok_and(|has_changed| has_changed) {
            return;
        }
        let (trust, tag) = (self.trust.clone(), *self.key.borrow());
        drop(self.peers.0.tasks.spawn_blocking(move || {
            if let Err(error) = trust.mark_shared(tag) {
                tracing::error!(%error, "cannot write down that the farm has another member");
            }
        }));
    }

    fn lost(&self, link: LinkId, reason: &str) {
        let Some(opened) = self.links.get(&link) else { return };
        let id = opened.greeting.id;
        tracing::info!(machine = %opened.greeting.name, %id, reason, "the link is lost");
        self.peers.0.links.put(id, LinkNews::Down(reason.into()), true);
    }

    // --- what people see ---

    fn show(&self) {
        let before = self.peers.0.shown.borrow().clone();
        let last_state = |listed: &Listed| {
            let last = before.iter().find(|shown| shown.listed.id.is_some() && shown.listed.id == listed.id);
            last.and_then(|shown| shown.state.clone())
        };
        let shown = self.members.list().into_iter().map(|listed| {
            let outgoing = listed.link.and_then(|link| self.links.get(&link)).map(|link| &link.handle);
            let incoming = listed.call.and_then(|call| self.calls.get(&call)).map(|call| &call.handle);
            let life = outgoing.map(Handle::life).or(incoming.map(CallHandle::life)).cloned();
            let state = outgoing.map(Handle::state).or(incoming.map(CallHandle::state));
            let state = state.or_else(|| last_state(&listed));
            Shown { listed, life, state }
        });
        let shown: Vec<_> = shown.collect();
        self.peers.0.shown.send_if_modified(|before| {
            let is_same = before.len() == shown.len()
                && before.iter().zip(&shown).all(|(before, now)| before.listed == now.listed);
            if !is_same {
                *before = Arc::new(shown);
            }
            !is_same
        });
    }

    // --- what is remembered ---

    async fn recall(&mut self) {
        let path = self.remembered.clone();
        let tasks = &self.peers.0.tasks;
        let read = tasks.spawn_blocking(move || addresses::read(&path, SystemTime::now())).await;
        let known = match read {
            Ok(Ok(known)) => known,
            Ok(Err(error)) => {
                tracing::warn!(%error, path = %self.remembered.display(), "nobody is remembered");
                return;
            }
            // The panic was logged.
            Err(_) => return,
        };
        for Remembered { id, name, addresses, .. } in known {
            self.apply(Event::Remembered { id, name: name.into(), addresses });
        }
    }

    /// Has it written; [`saved`] tells when it is.
    fn save(&mut self) {
        self.save_at = None;
        let (now, clock) = (Instant::now(), SystemTime::now());
        let peers: Vec<_> = (self.members.proven().into_iter())
            .map(|proven| Remembered {
                id: proven.id,
                heard: clock - now.saturating_duration_since(proven.heard),
                addresses: proven.addresses,
                name: proven.name.to_string(),
            })
            .collect();
        let path = self.remembered.clone();
        self.saving = Some(self.peers.0.tasks.spawn_blocking(move || {
            if let Err(error) = addresses::write(&path, &peers) {
                tracing::warn!(%error, path = %path.display(), "the machines of the farm are not remembered");
            }
        }));
    }
}

/// Waits for what is being written; `None` if nothing is. Nothing is lost when this is dropped.
async fn saved(saving: &mut Option<JoinHandle<()>>) -> Option<()> {
    // A panic was logged.
    let _ = saving.as_mut()?.await;
    *saving = None;
    Some(())
}

/// Returns at `moment`, if there is one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

/// Numbers for links of callers.
pub(super) fn next_call() -> CallId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    CallId(NEXT.fetch_add(1, Ordering::Relaxed))
}

// === impl Shown ===

impl Shown {
    pub(super) fn info(&self) -> PeerInfo {
        let Listed { id, name, program, standing, found_by, route, boot_epoch, call, .. } =
            self.listed.clone();
        let since = match &standing {
            Standing::Lost { since, .. } => Some(since.elapsed()),
            _ => None,
        };
        let life = self.life.as_deref();
        PeerInfo {
            id,
            name,
            program,
            standing,
            found_by,
            address: route.map(|route| route.to_string()),
            boot_epoch,
            last_heard: life.map(|life| life.pulse().last().elapsed()).or(since),
            round_trip: life.and_then(Life::round_trip),
            clock_ahead: life.map(Life::clock_ahead),
            calls: call.is_some(),
            state: self.state.as_ref().and_then(|state| state.borrow().clone()),
        }
    }
}
