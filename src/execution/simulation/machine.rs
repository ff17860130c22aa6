//! [`Machine`]: one machine of the farm, with what it is given and has given away.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::{Setup, Time};
use crate::action_cache::ActionKey;
use crate::dice::Dice;
use crate::digest::{Digest, DigestFunction};
use crate::execution::action::PreparedAction;
use crate::execution::grants::{Grants, Limits, Owner, StayId};
use crate::execution::queue::{Assignment, AttemptId, Duty, Event, Matcher, Now, Queue};
use crate::instance::InstanceName;
use crate::peer::MachineId;
use crate::platform::Requirements;

/// A machine.
pub(super) struct Machine {
    pub name: Arc<str>,
    index: usize,
    pub queue: Queue,
    pub grants: Grants,
    /// Counts its starts.
    pub epoch: u64,
    pub is_alive: bool,
    pub frozen_until: Time,
    /// How far its clocks are from those of others.
    off: Duration,
    /// How many times longer than usual commands take.
    pub pace: f64,
    pub limits: Limits,
    /// It loses everything it runs.
    pub is_lossy: bool,
    /// Some of what it runs takes much too long.
    pub strays: bool,
    /// Attempts that it gave away and that were not answered, and who has them.
    pub given: BTreeMap<AttemptId, usize>,
    /// What it runs, or is to run.
    pub stays: BTreeMap<StayId, Stay>,
    next_stay: u64,
    /// Its slots, and those of them that others may use.
    slots: Idle,
    guests: Idle,
}

/// A run on a machine.
#[derive(Debug)]
pub(super) struct Stay {
    pub owner: usize,
    /// By which it came.
    pub link: u64,
    pub attempt: AttemptId,
    pub is_private: bool,
    /// What it takes on a machine of the usual pace.
    pub time: Duration,
    pub is_running: bool,
}

/// Slots, and since when each of those is free that are.
#[derive(Debug, Default)]
struct Idle {
    count: usize,
    taken: usize,
    free: VecDeque<Time>,
}

// === impl Machine ===

impl Machine {
    /// One that is not there yet.
    pub(super) fn new(index: usize, setup: &Setup, dice: &Dice) -> Self {
        let name: Arc<str> = format!("m{index}").into();
        let off = dice.time(setup.clocks_off);
        let slots = setup.slots[index];
        let (duty, person) = (Duty::Active, format!("p{index}").into());
        let limits = Limits { slots, guests: slots, reserve: 0, person, duty, ahead: setup.ahead };
        let begin = Now { instant: Instant::now() + off, wall: SystemTime::UNIX_EPOCH + off };
        Self {
            queue: Queue::new(&setup.settings, begin),
            grants: Grants::new(limits.clone(), begin.instant),
            name,
            index,
            epoch: 0,
            is_alive: false,
            frozen_until: Time::ZERO,
            off,
            pace: 1.0,
            limits,
            is_lossy: false,
            strays: false,
            given: BTreeMap::new(),
            stays: BTreeMap::new(),
            next_stay: 0,
            slots: Idle::default(),
            guests: Idle::default(),
        }
    }

    /// Starts it, without a memory of what was before. Its queue is to be told what is returned.
    pub(super) fn start(&mut self, setup: &Setup, began_at: Instant, time: Time) -> Event {
        let now = self.now(began_at, time);
        self.queue = Queue::new(&setup.settings, now);
        self.limits.duty = Duty::Active;
        self.grants = Grants::new(self.limits.clone(), now.instant);
        self.epoch += 1;
        self.is_alive = true;
        self.given.clear();
        self.stays.clear();
        (self.slots, self.guests) = (Idle::default(), Idle::default());
        self.note_limits(time);
        Event::WorkerJoined {
            worker: self.name.clone(),
            slots: self.limits.slots,
            matcher: matcher(&self.name),
        }
    }

    /// The time on its clocks.
    pub(super) fn now(&self, began_at: Instant, time: Time) -> Now {
        let (instant, wall) = (began_at + self.off + time, SystemTime::UNIX_EPOCH + self.off + time);
        Now { instant, wall }
    }

    /// Another machine as this one's grants know it.
    pub(super) fn owner(&self, index: usize) -> Owner {
        if index == self.index { Owner::Own } else { Owner::Peer(id(index)) }
    }

    /// What it offers has changed.
    pub(super) fn note_limits(&mut self, time: Time) {
        let Limits { slots, guests, duty, .. } = self.limits;
        let is_taking = duty == Duty::Active;
        self.slots.resize(time, if is_taking { slots } else { 0 });
        self.guests.resize(time, if is_taking { guests.min(slots) } else { 0 });
    }

    /// A lease came.
    pub(super) fn admit(&mut self, (owner, link): (usize, u64), assignment: &Assignment) -> StayId {
        let id = StayId(self.next_stay);
        self.next_stay += 1;
        let Assignment { attempt, action, .. } = assignment;
        let stay = Stay {
            owner,
            link,
            attempt: *attempt,
            is_private: action.do_not_cache,
            time: action.timeout,
            is_running: false,
        };
        self.stays.insert(id, stay);
        id
    }

    /// What an owner knows by the number of its attempt.
    pub(super) fn stay_of(&self, from: (usize, u64), attempt: AttemptId) -> Option<StayId> {
        let mut stays = self.stays.iter();
        stays.find(|(_, stay)| (stay.owner, stay.link) == from && stay.attempt == attempt).map(|(id, _)| *id)
    }

    /// A run has got a slot, which was free since the time returned.
    pub(super) fn begin(&mut self, is_guest: bool) -> Time {
        let free = self.slots.take();
        if is_guest { free.max(self.guests.take()) } else { free }
    }

    /// A run has given its slot back.
    pub(super) fn end(&mut self, time: Time, stay: &Stay, is_guest: bool) {
        if stay.is_running {
            self.slots.give(time);
        }
        if stay.is_running && is_guest {
            self.guests.give(time);
        }
    }

    /// Since when it has had a slot free.
    pub(super) fn free_since(&self, is_guest: bool) -> Option<Time> {
        let free = self.slots.free.front()?;
        if is_guest { Some(*free.max(self.guests.free.front()?)) } else { Some(*free) }
    }

    /// Whether others may use any of its slots.
    pub(super) fn has_guests(&self) -> bool {
        self.guests.count > 0
    }

    /// What must not be run twice at once is with nobody else.
    pub(super) fn check_attempts(&self, assignment: &Assignment) {
        let AttemptId { run, number } = assignment.attempt;
        let all = AttemptId { run, number: 0 }..=AttemptId { run, number: u32::MAX };
        assert!(self.given.range(all).all(|(other, _)| other.number < number), "{assignment:?}: twice");
    }
}

// === impl Idle ===

impl Idle {
    fn resize(&mut self, time: Time, count: usize) {
        self.count = count;
        let free = count.saturating_sub(self.taken);
        self.free.truncate(free);
        self.free.resize(free, time);
    }

    fn take(&mut self) -> Time {
        self.taken += 1;
        self.free.pop_front().expect("a run was started although every slot was taken")
    }

    fn give(&mut self, time: Time) {
        self.taken -= 1;
        if self.taken < self.count {
            self.free.push_back(time);
        }
    }
}

/// Who a machine is.
pub(super) fn id(index: usize) -> MachineId {
    let mut bytes = [0; 32];
    [bytes[0], bytes[1]] = (index as u16).to_be_bytes();
    MachineId::new(bytes)
}

/// Runs everything, but what asks for another machine by the property `on`.
pub(super) fn matcher(name: &str) -> Matcher {
    let name = name.to_owned();
    Matcher::new(move |requirements| match requirements.properties.get("on") {
        Some(names) if !names.contains(&name) => vec![format!("on={} is not {name}", names.join(","))],
        _ => Vec::new(),
    })
}

/// An action that runs for so long, told from others by its number; `on` names the machine it needs.
pub fn action(number: u64, time: Duration, on: Option<&str>, is_private: bool) -> Arc<PreparedAction> {
    let mut requirements = Requirements::default();
    if let Some(machine) = on {
        requirements.properties.insert("on".into(), vec![machine.into()]);
    }
    Arc::new(PreparedAction {
        key: ActionKey {
            instance: InstanceName::default(),
            action: Digest::of(DigestFunction::Blake3, &number.to_le_bytes()),
        },
        command: Arc::default(),
        command_digest: Digest::empty(DigestFunction::Blake3),
        input_root: Digest::empty(DigestFunction::Blake3),
        requirements: Arc::new(requirements),
        timeout: time,
        do_not_cache: is_private,
    })
}
