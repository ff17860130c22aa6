//! [`Grants`]: what this machine runs, and for whom. A pure state machine.
//!
//! Every machine of a farm decides alone who may use its slots. An *owner* is a machine that took
//! actions from clients; this machine is one itself, [`Owner::Own`]. Each owner says what it would run
//! here, its [`Demand`], and is told what it may run, its [`Grant`]. [`Grants::apply`] takes one
//! [`Event`] and the time, and returns the [`Effect`]s that somebody else performs. What it promises,
//! whatever the order of events:
//!
//! - no more is granted than there are slots, and no more to other owners than are lent; while slots
//!   became fewer than run, nothing is;
//! - an owner is granted no more than it wants, with what it runs;
//! - a free slot goes to the person who holds fewest, whichever owners act for that person; then to
//!   the build of that person that holds fewest; then by priority. Who holds equally many goes by what
//!   was used in the last seconds. The person of this machine goes first up to the reserve;
//! - what runs is left to run: who holds too much is told a lower number, and gives way as its runs end;
//! - a grant that was not used for [`UNUSED`] goes to whoever else wants it;
//! - while no other owner wants anything, this machine has all its slots at once, without asking.
//!
//! A run may be sent *ahead* of its slot, to have its inputs fetched while the slot is busy: one for each
//! slot that is granted, and no more than wait. It gets the next slot of its person, or is handed back
//! when the grant went to somebody else: nothing of it was begun, and its owner runs it elsewhere.
//!
//! `demand` has what owners say and are told, `sharing` the policy, `usage` what was used of late.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::queue::Duty;
use crate::peer::MachineId;

mod demand;
#[cfg(test)]
mod model;
mod sharing;
#[cfg(test)]
mod tests;
mod usage;

pub use demand::{Demand, Grant, MOST_TOLD, MOST_WANTS, Share, Slots, Want};
use usage::Usage;

/// How long a slot stays granted that is not used, if somebody else wants it.
pub const UNUSED: Duration = Duration::from_secs(1);

/// A machine that took actions from clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Owner {
    /// This machine.
    Own,
    /// Another one. What it runs here is a guest.
    Peer(MachineId),
}

/// One run on this machine, from its arrival to its end. The caller of [`Grants::apply`] numbers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StayId(pub u64);

/// What this machine offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Actions it runs at once.
    pub slots: usize,
    /// Of those, actions it runs at once for other owners. Manners make it smaller for a while.
    pub guests: usize,
    /// Slots that `person` gets before others.
    pub reserve: usize,
    /// Whose machine it is.
    pub person: Arc<str>,
    /// Whether it takes anything new.
    pub duty: Duty,
    /// Whether other owners may send runs ahead.
    pub ahead: bool,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The machine offers something else from now on.
    Limits(Limits),
    /// An owner says what it would run here, in place of what it said before.
    Demand(Owner, Demand),
    /// Another machine went away. The runs it has here are stopped by the caller, and end one by one.
    Gone(MachineId),
    /// A run came.
    Arrived(Arrival),
    /// A run is over, or was called back: its slot is free.
    Ended(StayId),
    /// Time passed.
    Tick,
}

/// A run that an owner sent.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// To answer under.
    pub stay: StayId,
    /// Who sent it.
    pub owner: Owner,
    /// For whom.
    pub person: Arc<str>,
    /// The build it belongs to.
    pub build: Arc<str>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Tell the owner what it may run, in place of what it was told before.
    Grant(Owner, Grant),
    /// The run has a slot.
    Start(StayId),
    /// The run has no slot yet: its inputs may be fetched, and nothing more.
    Ahead(StayId),
    /// The run has no slot, and gets none: tell its owner. It is forgotten here.
    Busy(StayId),
}

/// What an owner has here for one person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenancy {
    /// The owner.
    pub owner: Owner,
    /// The person.
    pub person: Arc<str>,
    /// Slots it may use.
    pub granted: usize,
    /// Runs that have a slot.
    pub running: usize,
    /// Runs that wait here for one.
    pub ahead: usize,
    /// Actions that wait at the owner.
    pub waiting: usize,
}

/// The state machine.
#[derive(Debug)]
pub struct Grants {
    now: Instant,
    limits: Limits,
    tenants: BTreeMap<Owner, Tenant>,
    stays: HashMap<StayId, Stay>,
    people: HashMap<Arc<str>, Usage>,
    /// Counts what was told to anybody.
    told: u64,
    effects: Vec<Effect>,
}

/// An owner.
#[derive(Debug, Default)]
struct Tenant {
    is_gone: bool,
    people: BTreeMap<Arc<str>, Part>,
    /// What it was told last.
    told: Option<Slots>,
}

/// What an owner wants and has for one person.
#[derive(Debug)]
struct Part {
    builds: BTreeMap<Arc<str>, Build>,
    /// Slots it may use, in use or not. Fewer than run here once they are taken back.
    granted: usize,
    /// Runs it may send ahead.
    may_send: usize,
    /// Runs that wait here for a slot, the oldest first.
    ahead: VecDeque<StayId>,
    /// Since when it might have used more than it does.
    unused_since: Instant,
    /// It left a slot unused for too long. It gets what nobody else wants, until it uses something.
    is_idle: bool,
}

/// What an owner wants and has for one build.
#[derive(Debug, Default)]
struct Build {
    waiting: usize,
    /// Runs here or on the way here, as its owner counts.
    given: usize,
    spare: usize,
    priority: i32,
    running: usize,
    ahead: usize,
    usage: Usage,
}

#[derive(Clone, Debug)]
struct Stay {
    owner: Owner,
    person: Arc<str>,
    build: Arc<str>,
    has_slot: bool,
}

// === impl Grants ===

impl Grants {
    /// A machine nobody has asked for anything. Its own node has `limits.slots` from the first event on.
    pub fn new(limits: Limits, now: Instant) -> Self {
        let tenants = BTreeMap::from([(Owner::Own, Tenant::default())]);
        let (stays, people, effects) = (HashMap::new(), HashMap::new(), Vec::new());
        Self { now, limits, tenants, stays, people, told: 0, effects }
    }

    /// Takes in what happened at `now`, and says what is to be done, in this order.
    pub fn apply(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        self.now = now;
        match event {
            Event::Limits(limits) => self.set_limits(limits),
            Event::Demand(owner, demand) => self.demanded(owner, demand),
            Event::Gone(machine) => self.gone(Owner::Peer(machine)),
            Event::Arrived(arrival) => self.arrived(arrival),
            Event::Ended(stay) => self.ended(stay),
            Event::Tick => self.people.retain(|_, usage| !usage.is_forgotten(now)),
        }
        self.share_out();
        std::mem::take(&mut self.effects)
    }

    /// What every owner has here.
    pub fn tenancies(&self) -> impl Iterator<Item = Tenancy> {
        self.tenants.iter().flat_map(|(owner, tenant)| {
            tenant.people.iter().map(|(person, part)| Tenancy {
                owner: *owner,
                person: person.clone(),
                granted: part.granted,
                running: part.running(),
                ahead: part.ahead.len(),
                waiting: part.builds.values().map(|build| build.waiting).sum(),
            })
        })
    }

    /// What the machine offers.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Runs that have a slot.
    pub fn busy(&self) -> usize {
        self.stays.values().filter(|stay| stay.has_slot).count()
    }

    /// What was granted before holds only as far as it is used.
    fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
        for part in self.tenants.values_mut().flat_map(|tenant| tenant.people.values_mut()) {
            part.granted = part.granted.min(part.running());
        }
    }

    fn demanded(&mut self, owner: Owner, demand: Demand) {
        let tenant = self.tenants.entry(owner).or_default();
        tenant.is_gone = false;
        tenant.forget_demand();
        for want in demand.wants.into_iter().take(MOST_WANTS) {
            let part = tenant.people.entry(want.person).or_insert_with(|| Part::new(self.now));
            let build = part.builds.entry(want.build).or_default();
            build.waiting += want.waiting;
            build.given += want.given;
            build.spare += want.spare;
            build.priority = want.priority;
        }
        tenant.tidy();
    }

    fn gone(&mut self, owner: Owner) {
        let Some(tenant) = self.tenants.get_mut(&owner) else { return };
        tenant.is_gone = true;
        tenant.told = None;
        tenant.forget_demand();
        self.tidy(owner);
    }

    fn arrived(&mut self, arrival: Arrival) {
        let Arrival { stay, owner, person, build } = arrival;
        let tenant = self.tenants.entry(owner).or_default();
        let open = tenant.told.as_ref().and_then(Slots::open);
        let part = tenant.people.entry(person.clone()).or_insert_with(|| Part::new(self.now));
        let has_slot = open.map_or(part.running() < part.granted, |slots| self.stays.len() < slots);
        if !has_slot && part.ahead.len() >= part.may_send {
            self.effects.push(Effect::Busy(stay));
            tenant.tidy();
            return;
        }
        let held = part.builds.entry(build.clone()).or_default();
        held.given = held.given.max(held.held() + 1);
        held.ahead += 1;
        part.ahead.push_back(stay);
        self.stays.insert(stay, Stay { owner, person, build, has_slot: false });
        if has_slot {
            self.start(stay);
        } else {
            self.effects.push(Effect::Ahead(stay));
        }
    }

    /// Gives a slot to a run that is here.
    fn start(&mut self, id: StayId) {
        let Some(stay) = self.stays.get_mut(&id) else { return };
        stay.has_slot = true;
        let tenant = self.tenants.get_mut(&stay.owner).expect("invariant: who has a run here is a tenant");
        let part = tenant.people.get_mut(&stay.person).expect("invariant: with a part for its person");
        part.ahead.retain(|other| *other != id);
        part.unused_since = self.now;
        part.is_idle = false;
        let build = part.builds.get_mut(&stay.build).expect("invariant: and its build");
        build.ahead -= 1;
        build.running += 1;
        build.usage.change(self.now, build.running);
        let person = stay.person.clone();
        self.count_usage(person, 1);
        self.effects.push(Effect::Start(id));
    }

    fn ended(&mut self, id: StayId) {
        let Some(Stay { owner, person, build, has_slot }) = self.stays.remove(&id) else { return };
        let tenant = self.tenants.get_mut(&owner).expect("invariant: who has a run here is a tenant");
        let part = tenant.people.get_mut(&person).expect("invariant: with a part for its person");
        part.ahead.retain(|other| *other != id);
        if has_slot && part.granted >= part.running() {
            // Its slot goes to whoever is next. One that was taken back before is not granted any more.
            part.granted -= 1;
        }
        let build = part.builds.get_mut(&build).expect("invariant: and its build");
        build.given = build.given.saturating_sub(1);
        if has_slot {
            build.running -= 1;
            build.usage.change(self.now, build.running);
            self.count_usage(person, -1);
        } else {
            build.ahead -= 1;
        }
        self.tidy(owner);
    }

    /// Forgets what an owner neither wants nor has.
    fn tidy(&mut self, owner: Owner) {
        let Some(tenant) = self.tenants.get_mut(&owner) else { return };
        tenant.tidy();
        if tenant.is_gone && !tenant.is_present() {
            self.tenants.remove(&owner);
        }
    }

    fn count_usage(&mut self, person: Arc<str>, change: isize) {
        let usage = self.people.entry(person).or_default();
        let running = usage.running().saturating_add_signed(change);
        usage.change(self.now, running);
    }
}

// === impl Tenant ===

impl Tenant {
    fn forget_demand(&mut self) {
        for build in self.people.values_mut().flat_map(|part| part.builds.values_mut()) {
            (build.waiting, build.given, build.spare) = (0, 0, 0);
        }
    }

    /// Forgets what it neither wants nor has.
    fn tidy(&mut self) {
        for part in self.people.values_mut() {
            part.builds.retain(|_, build| build.is_needed());
        }
        self.people.retain(|_, part| !part.builds.is_empty());
    }

    /// Whether it wants or has anything here.
    fn is_present(&self) -> bool {
        !self.people.is_empty()
    }
}

// === impl Part ===

impl Part {
    fn new(now: Instant) -> Self {
        Self {
            builds: BTreeMap::new(),
            granted: 0,
            may_send: 0,
            ahead: VecDeque::new(),
            unused_since: now,
            is_idle: false,
        }
    }

    /// Runs that have a slot.
    fn running(&self) -> usize {
        self.builds.values().map(|build| build.running).sum()
    }

    /// What it wants, with what it has.
    fn wanted(&self) -> usize {
        self.builds.values().map(Build::wanted).sum()
    }
}

// === impl Build ===

impl Build {
    /// Runs that are here.
    fn held(&self) -> usize {
        self.running + self.ahead
    }

    /// What it wants, with what is here or on the way.
    fn wanted(&self) -> usize {
        self.waiting + self.given.max(self.held())
    }

    fn is_needed(&self) -> bool {
        self.wanted() + self.spare > 0
    }
}
