//! A whole farm in one process, in virtual time: nothing of it is real but the state machines.
//!
//! Every machine has a [`Queue`](super::queue::Queue) of its own for what its clients want, and [`Grants`](grants::Grants) for its slots. What
//! lies between them is simulated: links with latency that break and come back, machines that are killed,
//! freeze and return, commands that take their time, clients that submit and leave. One seed decides
//! all of it, so whatever happened happens again.
//!
//! [`Farm`] is the loop: the next thing that happens, and what follows from it. `machine` is what a machine
//! is made of, `links` what the machines tell each other and when that arrives, `faults` what goes wrong.
//! The [`Ledger`] looks on from outside: it panics when something is true that must never be, and notes
//! how long slots were idle while something waited. Tests let anything happen; `farmhand bench scheduler`
//! measures.
//!
//! What is simplified: inputs and outputs take no time, a result is stored at once or never, and the two
//! directions of a link break in the same moment, although they are noticed at different ones.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::reapi;
use tokio::time::Instant;

use super::Settings;
use super::grants::{self, Arrival, Owner, StayId};
use super::operations::OperationId;
use super::queue::{AttemptId, Effect, Event, Step, Submission};
use crate::dice::Dice;

mod faults;
mod figures;
mod ledger;
mod links;
mod machine;
#[cfg(test)]
mod tests;

pub use faults::Fault;
pub use figures::{Figures, measure};
pub use ledger::{Ledger, Outcome};
use links::{Links, Message};
pub use machine::action;
use machine::{Machine, Stay};

/// What a message within a machine takes.
const HOP: Duration = Duration::from_micros(20);

/// What the result of an action takes into the action cache.
const STORE: Duration = Duration::from_micros(200);

/// What a command that is told to end takes.
const STOP: Duration = Duration::from_millis(2);

/// Time since the farm began.
pub type Time = Duration;

/// How a farm begins.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// Slots of each machine.
    pub slots: Vec<usize>,
    /// What a message to another machine takes at least.
    pub latency: Duration,
    /// What it may take in addition.
    pub jitter: Duration,
    /// Whether runs may be sent ahead of their slots.
    pub ahead: bool,
    /// How far the clocks of people may be off.
    pub clocks_off: Duration,
    /// How queues behave.
    pub settings: Settings,
}

/// The farm.
pub struct Farm {
    setup: Setup,
    now: Time,
    began_at: Instant,
    dice: Dice,
    machines: Vec<Machine>,
    links: Links,
    agenda: BinaryHeap<Reverse<(Time, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    next_number: u64,
    /// Happenings that are more than time passing.
    unfinished: usize,
    /// Looks on.
    pub ledger: Ledger,
    costs: Costs,
    responses: [Arc<reapi::ExecuteResponse>; 2],
}

/// What each decision took, in real nanoseconds.
#[derive(Debug, Default)]
pub struct Costs {
    /// Events in queues.
    pub queue: Vec<u32>,
    /// Events in grants.
    pub grants: Vec<u32>,
    /// Looking for what is wanted of each machine.
    pub demand: Vec<u32>,
}

/// What happens on a machine, or between two.
#[derive(Debug)]
enum Happening {
    Tick { machine: usize, epoch: u64 },
    Event { machine: usize, epoch: u64, event: Box<Event> },
    Demand { machine: usize, epoch: u64 },
    Arrived { to: usize, from: usize, link: u64, message: Box<Message> },
    Over { machine: usize, epoch: u64, stay: StayId, code: Option<i32> },
    Broken { machine: usize, peer: usize, link: u64 },
    Linked { machines: (usize, usize) },
    Fault(Fault),
}

// === impl Farm ===

impl Farm {
    /// Machines that have just been started and see each other.
    pub fn new(setup: Setup) -> Self {
        let dice = Dice::new(setup.seed);
        let count = setup.slots.len();
        let mut farm = Self {
            now: Time::ZERO,
            began_at: Instant::now() + Duration::from_secs(1),
            machines: (0..count).map(|index| Machine::new(index, &setup, &dice)).collect(),
            links: Links::new(count),
            agenda: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next_number: 0,
            unfinished: 0,
            ledger: Ledger::new(setup.slots.len()),
            costs: Costs::default(),
            responses: [0, 1].map(exit),
            dice,
            setup,
        };
        for index in 0..count {
            farm.start(index);
        }
        farm
    }

    /// The time in the farm.
    pub fn now(&self) -> Time {
        self.now
    }

    /// What chance decides.
    pub fn dice(&self) -> &Dice {
        &self.dice
    }

    /// What the decisions took so far.
    pub fn costs(&self) -> &Costs {
        &self.costs
    }

    /// From now on the costs count.
    fn forget_costs(&mut self) {
        self.costs = Costs::default();
    }

    /// Name of a machine.
    pub fn name(&self, machine: usize) -> Arc<str> {
        self.machines[machine].name.clone()
    }

    /// What a message to another machine and its answer take at most, on the way and within the machines.
    pub fn round_trip(&self) -> Duration {
        2 * (self.setup.latency + self.setup.jitter + 2 * HOP)
    }

    /// A client of that machine wants something run. Its action tells by its time limit how long it
    /// runs. `None` if the machine is not there.
    pub fn submit(&mut self, machine: usize, submission: Submission) -> Option<OperationId> {
        let id = submission.operation;
        let Machine { is_alive: true, epoch, .. } = self.machines[machine] else { return None };
        self.ledger.submitted(machine, &submission);
        self.plan(HOP, Happening::Event { machine, epoch, event: Box::new(Event::Submitted(submission)) });
        Some(id)
    }

    /// The client of an operation goes away.
    pub fn leave(&mut self, machine: usize, operation: OperationId) {
        self.ledger.left(operation);
        self.tell(machine, Event::WaiterGone(operation));
    }

    /// Something else happens to the queue of a machine.
    pub fn tell(&mut self, machine: usize, event: Event) {
        let epoch = self.machines[machine].epoch;
        self.plan(HOP, Happening::Event { machine, epoch, event: Box::new(event) });
    }

    /// Something goes wrong, or right again, in a while.
    pub fn fault(&mut self, after: Duration, fault: Fault) {
        self.plan(after, Happening::Fault(fault));
    }

    /// Lets that much time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(Reverse((at, _))) = self.agenda.peek().filter(|Reverse((at, _))| *at <= end) {
            self.step(*at);
        }
        self.now = end;
    }

    /// Lets everything happen that is under way, and what follows from it, for so long at most. Whether
    /// nothing is left.
    pub fn finish(&mut self, most: Duration) -> bool {
        let end = self.now + most;
        while self.unfinished > 0 || self.ledger.live() > 0 {
            match self.agenda.peek().copied() {
                Some(Reverse((at, _))) if at <= end => self.step(at),
                _ => return false,
            }
        }
        true
    }

    fn step(&mut self, at: Time) {
        let Some(Reverse((_, number))) = self.agenda.pop() else { return };
        let Some(happening) = self.happenings.remove(&number) else { return };
        self.unfinished -= usize::from(!matches!(happening, Happening::Tick { .. }));
        self.now = at;
        if let Some(until) = self.frozen_until(&happening) {
            self.plan(until - at, happening);
            return;
        }
        self.happen(happening);
    }

    fn plan(&mut self, after: Duration, happening: Happening) {
        self.unfinished += usize::from(!matches!(happening, Happening::Tick { .. }));
        self.next_number += 1;
        self.agenda.push(Reverse((self.now + after, self.next_number)));
        self.happenings.insert(self.next_number, happening);
    }

    /// When the machine that this happens to goes on, if it is frozen.
    fn frozen_until(&self, happening: &Happening) -> Option<Time> {
        let machine = match happening {
            Happening::Tick { machine, .. }
            | Happening::Event { machine, .. }
            | Happening::Demand { machine, .. }
            | Happening::Over { machine, .. }
            | Happening::Broken { machine, .. }
            | Happening::Arrived { to: machine, .. } => *machine,
            Happening::Linked { .. } | Happening::Fault(_) => return None,
        };
        Some(self.machines[machine].frozen_until).filter(|until| *until > self.now)
    }

    fn is_present(&self, machine: usize, epoch: u64) -> bool {
        self.machines[machine].is_alive && self.machines[machine].epoch == epoch
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Tick { machine, epoch } if self.is_present(machine, epoch) => {
                self.plan(Duration::from_secs(1), Happening::Tick { machine, epoch });
                self.apply(machine, Event::Tick);
                self.apply_grants(machine, grants::Event::Tick);
            }
            Happening::Event { machine, epoch, event } if self.is_present(machine, epoch) => {
                self.apply(machine, *event);
            }
            Happening::Demand { machine, epoch } if self.is_present(machine, epoch) => {
                self.tell_demand(machine);
            }
            Happening::Over { machine, epoch, stay, code } if self.is_present(machine, epoch) => {
                self.over(machine, stay, code);
            }
            Happening::Arrived { to, from, link, message } if self.is_linked(to, from, link) => {
                self.arrived(to, from, link, *message);
            }
            Happening::Broken { machine, peer, link } if self.is_linked(machine, peer, link) => {
                self.broken(machine, peer);
            }
            Happening::Linked { machines } => self.link(machines.0, machines.1),
            Happening::Fault(fault) => self.go_wrong(fault),
            _ => {}
        }
    }

    // --- the queue of a machine ---

    fn apply(&mut self, index: usize, event: Event) {
        let machine = &mut self.machines[index];
        let now = machine.now(self.began_at, self.now);
        let before = Instant::now();
        let effects = machine.queue.apply(now, event);
        self.costs.queue.push(nanoseconds(before));
        for effect in effects {
            self.perform(index, effect);
        }
    }

    fn perform(&mut self, index: usize, effect: Effect) {
        let epoch = self.machines[index].epoch;
        match effect {
            Effect::Notify(operation, state) => {
                if let Some(since) = self.ledger.notified(self.now, operation, &state) {
                    let idle = self.idle_beside(index, since);
                    self.ledger.was_idle(self.now, idle);
                }
            }
            Effect::Refuse(operation, refusal) => self.ledger.refused(operation, &refusal),
            Effect::Assign(assignment) => {
                self.machines[index].check_attempts(&assignment);
                let worker = self.index_of(&assignment.worker);
                self.machines[index].given.insert(assignment.attempt, worker);
                let lease = Message::Lease(Box::new(assignment));
                self.send(index, worker, lease);
            }
            Effect::CancelRun(attempt) => {
                if let Some(worker) = self.machines[index].given.get(&attempt).copied() {
                    self.send(index, worker, Message::Cancel(attempt));
                }
            }
            Effect::Store(run, ..) => {
                let event = Box::new(Event::Stored(run, Ok(())));
                self.plan(STORE, Happening::Event { machine: index, epoch, event });
            }
            Effect::DemandChanged => self.plan(HOP, Happening::Demand { machine: index, epoch }),
            Effect::Amend(..) => {}
        }
    }

    fn tell_demand(&mut self, index: usize) {
        let before = Instant::now();
        let changed = self.machines[index].queue.demands();
        self.costs.demand.push(nanoseconds(before));
        for (name, demand) in changed {
            let to = self.index_of(&name);
            self.send(index, to, Message::Demand(demand));
        }
    }

    /// For how long something that waits at `owner` has stood beside an idle slot.
    fn idle_beside(&self, owner: usize, since: Time) -> Duration {
        let since = since.max(self.machines[owner].frozen_until);
        let free = (0..self.machines.len()).filter_map(|index| self.free_for(index, owner));
        free.map(|free| self.now.saturating_sub(free.max(since))).max().unwrap_or_default()
    }

    /// Since when a machine has had a slot that an owner might use.
    fn free_for(&self, index: usize, owner: usize) -> Option<Time> {
        let machine = &self.machines[index];
        let reachable = if index == owner { Time::ZERO } else { self.links.since(owner, index)? };
        let is_taking = machine.is_alive && machine.frozen_until <= self.now;
        let free = machine.free_since(index != owner).filter(|_| is_taking)?;
        Some(free.max(reachable).max(machine.frozen_until))
    }

    // --- the slots of a machine ---

    fn apply_grants(&mut self, index: usize, event: grants::Event) {
        let machine = &mut self.machines[index];
        let now = machine.now(self.began_at, self.now).instant;
        let before = Instant::now();
        let effects = machine.grants.apply(now, event);
        self.costs.grants.push(nanoseconds(before));
        for effect in effects {
            match effect {
                grants::Effect::Grant(owner, grant) => {
                    let to = self.index_of_owner(index, owner);
                    self.send(index, to, Message::Grant(grant));
                }
                grants::Effect::Start(stay) => self.begin(index, stay),
                grants::Effect::Ahead(_) => self.ledger.sent_ahead += 1,
                grants::Effect::Busy(stay) => {
                    let Some(stay) = self.machines[index].stays.remove(&stay) else { continue };
                    self.ledger.busy += 1;
                    self.answer(index, &stay, Message::Busy(stay.attempt));
                }
            }
        }
    }

    fn begin(&mut self, index: usize, id: StayId) {
        let waited = self.oldest_waiting(index);
        let strays = self.machines[index].strays && self.dice.one_in(10);
        let machine = &mut self.machines[index];
        let Some(mut stay) = machine.stays.remove(&id) else { return };
        stay.is_running = true;
        let free_since = machine.begin(index != stay.owner).max(machine.frozen_until);
        let time = stay.time.mul_f64(machine.pace) * if strays { 30 } else { 1 };
        let (epoch, code) = (machine.epoch, (!machine.is_lossy).then_some(0));
        if let Some(waited) = waited {
            self.ledger.was_idle(self.now, self.now.saturating_sub(waited.max(free_since)));
        }
        self.check_private(&stay);
        self.ledger.began(self.now, index, stay.owner);
        self.answer(index, &stay, Message::Running(stay.attempt));
        self.machines[index].stays.insert(id, stay);
        self.plan(time, Happening::Over { machine: index, epoch, stay: id, code });
    }

    /// What must not be run twice at once is not.
    fn check_private(&self, stay: &Stay) {
        for (index, machine) in self.machines.iter().enumerate().filter(|_| stay.is_private) {
            let is_linked = index == stay.owner || self.links.since(index, stay.owner).is_some();
            let is_same = |other: &Stay| {
                other.owner == stay.owner && other.is_running && other.attempt.run == stay.attempt.run
            };
            let twice = machine.stays.values().any(|other| self.is_heard(index, other) && is_same(other));
            assert!(!is_linked || !twice, "{stay:?} runs twice");
        }
    }

    /// Since when what waits longest that this machine could run has waited.
    fn oldest_waiting(&self, index: usize) -> Option<Time> {
        let owners =
            (0..self.machines.len()).filter(|owner| *owner == index || self.machines[index].has_guests());
        let reachable = owners.filter_map(|owner| {
            let since = if owner == index { Time::ZERO } else { self.links.since(owner, index)? };
            let frozen_until = self.machines[owner].frozen_until;
            Some(self.ledger.oldest_waiting(owner)?.max(since).max(frozen_until))
        });
        reachable.min()
    }

    /// A command has ended, or was stopped, or came to nothing.
    fn over(&mut self, index: usize, id: StayId, code: Option<i32>) {
        let machine = &mut self.machines[index];
        let Some(stay) = machine.stays.remove(&id) else { return };
        machine.end(self.now, &stay, index != stay.owner);
        if stay.is_running {
            self.ledger.ended(self.now, index, stay.owner);
        }
        let answer = match code {
            Some(code) => Message::Ended(stay.attempt, code),
            None => Message::Lost(stay.attempt, "it went wrong".into()),
        };
        self.answer(index, &stay, answer);
        self.apply_grants(index, grants::Event::Ended(id));
    }

    // --- messages ---

    /// Sends something to another machine, or to the other half of the same one.
    fn send(&mut self, from: usize, to: usize, message: Message) {
        let message = Box::new(message);
        if from == to {
            let link = self.machines[from].epoch;
            self.plan(HOP, Happening::Arrived { to, from, link, message });
        } else if let Some((link, at)) =
            self.links.send(self.now, (from, to), &message, &self.setup, &self.dice)
        {
            self.ledger.messages += 1;
            self.plan(at - self.now, Happening::Arrived { to, from, link, message });
        }
    }

    /// Tells the owner of a run what has become of it, unless it does not listen any more.
    fn answer(&mut self, index: usize, stay: &Stay, message: Message) {
        if self.is_heard(index, stay) {
            self.send(index, stay.owner, message);
        }
    }

    fn is_heard(&self, index: usize, stay: &Stay) -> bool {
        self.is_linked(index, stay.owner, stay.link)
    }

    /// Whether a machine sees that link to another, or is in that life of its own.
    fn is_linked(&self, index: usize, peer: usize, link: u64) -> bool {
        let is_own = index == peer && self.is_present(index, link);
        is_own || self.links.number(index, peer) == Some(link)
    }

    fn arrived(&mut self, index: usize, from: usize, link: u64, message: Message) {
        if !self.machines[index].is_alive {
            return;
        }
        match message {
            Message::Demand(demand) => {
                let owner = self.machines[index].owner(from);
                self.apply_grants(index, grants::Event::Demand(owner, demand));
            }
            Message::Grant(grant) => {
                let worker = self.machines[from].name.clone();
                self.apply(index, Event::Granted { worker, grant });
            }
            Message::Lease(assignment) => {
                let machine = &mut self.machines[index];
                let (owner, stay) = (machine.owner(from), machine.admit((from, link), &assignment));
                let (person, build) = (assignment.person, assignment.build);
                self.apply_grants(index, grants::Event::Arrived(Arrival { stay, owner, person, build }));
            }
            Message::Cancel(attempt) => {
                let Some(stay) = self.machines[index].stay_of((from, link), attempt) else { return };
                let epoch = self.machines[index].epoch;
                self.plan(STOP, Happening::Over { machine: index, epoch, stay, code: Some(137) });
            }
            Message::Running(attempt) => self.answered(index, Event::Progress(attempt, Step::Running), None),
            Message::Ended(attempt, code) => {
                let response = self.responses[usize::from(code != 0)].clone();
                self.answered(index, Event::Ended(attempt, response), Some(attempt));
            }
            Message::Lost(attempt, reason) => {
                self.answered(index, Event::Lost(attempt, reason), Some(attempt));
            }
            Message::Busy(attempt) => self.answered(index, Event::Busy(attempt), Some(attempt)),
        }
    }

    fn answered(&mut self, index: usize, event: Event, over: Option<AttemptId>) {
        if let Some(attempt) = over {
            self.machines[index].given.remove(&attempt);
        }
        self.apply(index, event);
    }

    fn index_of(&self, name: &str) -> usize {
        name.strip_prefix('m')
            .and_then(|number| number.parse().ok())
            .expect("invariant: machines are numbered")
    }

    fn index_of_owner(&self, index: usize, owner: Owner) -> usize {
        match owner {
            Owner::Own => index,
            Owner::Peer(id) => usize::from(id.bytes()[0]) << 8 | usize::from(id.bytes()[1]),
        }
    }
}

fn exit(exit_code: i32) -> Arc<reapi::ExecuteResponse> {
    let result = reapi::ActionResult { exit_code, ..Default::default() };
    Arc::new(reapi::ExecuteResponse { result: Some(result), ..Default::default() })
}

fn nanoseconds(since: Instant) -> u32 {
    u32::try_from(since.elapsed().as_nanos()).unwrap_or(u32::MAX)
}
