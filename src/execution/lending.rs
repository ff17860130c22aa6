//! [`Lender`]: lends the slots of this machine, by what [`Grants`] decides.
//!
//! Everybody who would run something here asks it: the queue of this machine through a [`HomeWorker`], and
//! other machines through [`Admission`]. It answers at once, and tells owners what they may run through
//! an [`Outlet`]. Nothing in here waits for anything, so it is a lock and no task: a run of this
//! machine's own costs no hop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use farmhand_proto::reapi;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::grants::{Arrival, Effect, Event, Grant, Grants, Limits, Owner, StayId, Tenancy};
use crate::peer::MachineId;
use crate::platform::Requirements;
use crate::worker::guests::{Admission, Stay};
use crate::worker::lease::GuestLease;
use crate::worker::{Lease, NoResponse, Progress, SlotsError, Worker};

/// Tells owners what they may run here.
pub trait Outlet: Send + Sync + 'static {
    /// `to` may run what `grant` says, from now on. Must neither wait nor ask the lender anything.
    fn grant(&self, to: Owner, grant: Grant);
}

/// Lends slots. Clones are the same.
#[derive(Clone)]
pub struct Lender(Arc<Shared>);

struct Shared {
    ledger: Mutex<Ledger>,
    outlet: Box<dyn Outlet>,
}

/// What is lent, and who waits to hear of a slot.
struct Ledger {
    grants: Grants,
    arrivals: u64,
    waiting: HashMap<StayId, oneshot::Sender<()>>,
}

/// What this machine does, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lent {
    /// Actions it runs at once.
    pub slots: usize,
    /// Of those, actions of other machines.
    pub guests: usize,
    /// Actions that run, whose they may be.
    pub busy: usize,
}

/// A run that was let in. It is over when this is dropped.
struct Place {
    slot: oneshot::Receiver<()>,
    over: Over,
}

/// Ends a run.
struct Over {
    lender: Lender,
    stay: StayId,
}

/// The worker of this machine, for its own actions: they take slots as those of others do.
pub struct HomeWorker {
    inner: Arc<dyn Worker>,
    lender: Lender,
}

// === impl Lender ===

impl Lender {
    /// Offers what `limits` say, and tells owners through `outlet`.
    pub fn new(limits: Limits, outlet: impl Outlet) -> Self {
        let grants = Grants::new(limits.clone(), Instant::now());
        let ledger = Mutex::new(Ledger { grants, arrivals: 0, waiting: HashMap::new() });
        let lender = Self(Arc::new(Shared { ledger, outlet: Box::new(outlet) }));
        lender.apply(Event::Limits(limits));
        lender
    }

    /// Takes in what happened.
    pub fn apply(&self, event: Event) {
        self.take_in(&mut self.ledger(), event);
    }

    /// Offers something else from now on.
    pub fn change_limits(&self, change: impl FnOnce(&mut Limits)) {
        let mut ledger = self.ledger();
        let mut limits = ledger.grants.limits().clone();
        change(&mut limits);
        if limits != *ledger.grants.limits() {
            self.take_in(&mut ledger, Event::Limits(limits));
        }
    }

    /// What every owner has here.
    pub fn tenancies(&self) -> Vec<Tenancy> {
        self.ledger().grants.tenancies().collect()
    }

    /// What this machine does.
    pub fn lent(&self) -> Lent {
        let ledger = self.ledger();
        let Limits { slots, guests, .. } = *ledger.grants.limits();
        Lent { slots, guests: guests.min(slots), busy: ledger.grants.busy() }
    }

    /// Owners are told through the outlet while the lock is held, so that none hears of an older grant
    /// after a newer one.
    fn take_in(&self, ledger: &mut Ledger, event: Event) {
        for effect in ledger.grants.apply(Instant::now(), event) {
            match effect {
                Effect::Grant(owner, grant) => self.0.outlet.grant(owner, grant),
                Effect::Start(stay) => {
                    // Who waited may have given up; then its end is on its way.
                    ledger.waiting.remove(&stay).map(|waiting| waiting.send(()));
                }
                Effect::Ahead(_) => {}
                Effect::Busy(stay) => drop(ledger.waiting.remove(&stay)),
            }
        }
    }

    /// Lets a run in; `None` if it has no place.
    fn arrive(&self, owner: Owner, person: Arc<str>, build: Arc<str>) -> Option<Place> {
        let (told, mut slot) = oneshot::channel();
        let mut ledger = self.ledger();
        ledger.arrivals += 1;
        let stay = StayId(ledger.arrivals);
        ledger.waiting.insert(stay, told);
        self.take_in(&mut ledger, Event::Arrived(Arrival { stay, owner, person, build }));
        let is_in = ledger.waiting.contains_key(&stay) || slot.try_recv().is_ok();
        let is_waiting = ledger.waiting.contains_key(&stay);
        drop(ledger);
        is_in.then(|| {
            let slot = if is_waiting { slot } else { at_once() };
            Place { slot, over: Over { lender: self.clone(), stay } }
        })
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What says that a run has a slot.
fn at_once() -> oneshot::Receiver<()> {
    let (told, slot) = oneshot::channel();
    // The receiver is there.
    let _ = told.send(());
    slot
}

impl Admission for Lender {
    fn arrive(&self, owner: MachineId, guest: &GuestLease) -> Option<Stay> {
        let Lease { person, invocation, .. } = &guest.lease;
        let place = Self::arrive(self, Owner::Peer(owner), person.clone(), invocation.share())?;
        Some(Stay::new(place.slot, place.over))
    }
}

// === impl Over ===

impl Drop for Over {
    fn drop(&mut self) {
        let mut ledger = self.lender.ledger();
        ledger.waiting.remove(&self.stay);
        self.lender.take_in(&mut ledger, Event::Ended(self.stay));
    }
}

// === impl HomeWorker ===

impl HomeWorker {
    /// Runs by `inner` what `lender` has a slot for.
    pub fn new(inner: Arc<dyn Worker>, lender: Lender) -> Self {
        Self { inner, lender }
    }

    /// Runs what may wait for actions of its own: then its place is over before it is.
    async fn execute_until_it_yields(
        &self,
        lease: Lease,
        progress: mpsc::UnboundedSender<Progress>,
        cancel: CancellationToken,
        over: Over,
    ) -> Result<reapi::ExecuteResponse, NoResponse> {
        let (told, mut steps) = mpsc::unbounded_channel();
        let mut execution = self.inner.execute(lease, told, cancel);
        let mut over = Some(over);
        let ended = loop {
            tokio::select! {
                biased;
                Some(step) = steps.recv() => {
                    if matches!(step, Progress::Yielded) {
                        drop(over.take());
                    }
                    // Who does not listen does not care.
                    let _ = progress.send(step);
                }
                ended = &mut execution => break ended,
            }
        };
        while let Ok(step) = steps.try_recv() {
            let _ = progress.send(step);
        }
        drop(over);
        ended
    }
}

#[async_trait]
impl Worker for HomeWorker {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn slots(&self) -> usize {
        self.inner.slots()
    }

    async fn set_slots(&self, slots: usize) -> Result<(), SlotsError> {
        self.inner.set_slots(slots).await?;
        let slots = self.inner.slots();
        self.lender.change_limits(|limits| {
            let lends_all = limits.guests >= limits.slots;
            limits.slots = slots;
            limits.guests = if lends_all { slots } else { limits.guests.min(slots) };
        });
        Ok(())
    }

    fn mismatches(&self, requirements: &Requirements) -> Vec<String> {
        self.inner.mismatches(requirements)
    }

    async fn execute(
        &self,
        lease: Lease,
        progress: mpsc::UnboundedSender<Progress>,
        cancel: CancellationToken,
    ) -> Result<reapi::ExecuteResponse, NoResponse> {
        let (person, build) = (lease.person.clone(), lease.invocation.share());
        let Some(place) = self.lender.arrive(Owner::Own, person, build) else { return Err(NoResponse::Busy) };
        let Place { slot, over } = place;
        // Own runs are never sent ahead of their slots, so it has one.
        slot.await.map_err(|_| NoResponse::Busy)?;
        if lease.platform.apis_socket.is_some() {
            return self.execute_until_it_yields(lease, progress, cancel, over).await;
        }
        let ended = self.inner.execute(lease, progress, cancel).await;
        drop(over);
        ended
    }
}

#[cfg(test)]
mod tests;
