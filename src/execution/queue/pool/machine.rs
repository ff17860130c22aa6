//! [`Machine`]: what a machine can run, how much of it the queue may use, and what of that it does.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::execution::grants::{Demand, Grant, Share, Slots};
use crate::execution::placement::Site;
use crate::execution::queue::{Duty, Now};
use crate::platform::Requirements;

/// How long a machine that was busy after all gets nothing new, unless it grants something else before.
const BUSY: Duration = Duration::from_secs(1);

/// Grants in a row that were good for nothing before a machine is left alone.
const VAIN: u32 = 8;

/// Losses in a row that are taken for bad luck: on this machine, which nothing can take the place of.
const BAD_LUCK: u32 = 2;

/// How long a machine is left alone at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// Why a machine can never run something; empty if it can. Pure.
#[derive(Clone)]
pub struct Matcher(Arc<Judge>);

type Judge = dyn Fn(&Requirements) -> Vec<String> + Send + Sync;

/// A machine that is there, or may come back.
#[derive(Debug)]
pub(in crate::execution::queue) struct Machine {
    pub(in crate::execution::queue) name: Arc<str>,
    pub(super) matcher: Matcher,
    pub(in crate::execution::queue) site: Site,
    /// What may be used of it.
    slots: Slots,
    /// The grant that says so; 0 for a machine that takes what it has slots for.
    grant: u64,
    /// Runs it has, by whose slot they take.
    held: BTreeMap<Arc<str>, Held>,
    /// People it was busy for although it had granted a slot, and when that was; nobody in particular
    /// where slots are everybody's.
    busy_for: BTreeMap<Arc<str>, Instant>,
    /// Losses since it answered anything; those of one moment count once.
    losses: u32,
    /// Grants in a row that were good for nothing, and the latest of them.
    vain: (u32, u64),
    /// It gets nothing until then, as it was tried in vain.
    alone_until: Option<Instant>,
    /// It was left alone, and is tried with a single run.
    is_tried: bool,
    pub(super) duty: Duty,
    /// When it was told so; `None` for one that never was told anything.
    pub(super) told_at: Option<Now>,
    /// Set while it is away; it may come back.
    pub(super) left_at: Option<Instant>,
    /// The sum of the times at which its runs will likely end, since a time that is the same for all.
    due: Duration,
    /// What it was told last of the demand for it.
    pub(in crate::execution::queue) demand: Demand,
}

/// Runs for one person.
#[derive(Debug, Default)]
struct Held {
    count: usize,
    builds: BTreeMap<Arc<str>, usize>,
}

/// What a machine takes for a person.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::execution::queue) struct Room {
    /// Runs that can begin.
    pub now: usize,
    /// Runs that can be sent ahead of their slots.
    pub ahead: usize,
}

/// How a machine stands.
#[derive(Clone, Debug)]
pub struct MachineState {
    /// Its name.
    pub name: Arc<str>,
    /// Actions it runs at once for clients of this machine.
    pub slots: usize,
    /// Actions of these clients that it has.
    pub busy: usize,
    /// Whether it shares its slots out, and says who may use how many.
    pub is_shared: bool,
    /// What it was told to do.
    pub duty: Duty,
    /// When it was told so; `None` for one that never was told anything.
    pub told_at: Option<Now>,
    /// Set while it is away.
    pub left_at: Option<Instant>,
}

// === impl Matcher ===

impl Matcher {
    /// Wraps the judgement of a machine.
    pub fn new(judge: impl Fn(&Requirements) -> Vec<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(judge))
    }

    pub(super) fn mismatches(&self, requirements: &Requirements) -> Vec<String> {
        (self.0)(requirements)
    }

    pub(super) fn fits(&self, requirements: &Requirements) -> bool {
        self.mismatches(requirements).is_empty()
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Matcher")
    }
}

// === impl Machine ===

impl Machine {
    pub(super) fn new(name: Arc<str>, slots: usize, matcher: Matcher) -> Self {
        Self {
            name,
            matcher,
            site: Site::default(),
            slots: Slots::Open(slots),
            grant: 0,
            held: BTreeMap::new(),
            busy_for: BTreeMap::new(),
            losses: 0,
            vain: (0, 0),
            alone_until: None,
            is_tried: false,
            duty: Duty::default(),
            told_at: None,
            left_at: None,
            due: Duration::ZERO,
            demand: Demand::default(),
        }
    }

    /// It came again, or offers something else. What it granted while it was there holds.
    pub(super) fn join(&mut self, slots: usize, matcher: Matcher) {
        self.matcher = matcher;
        if self.grant == 0 || !self.is_present() {
            self.slots = Slots::Open(slots);
            self.forget_grants();
        }
        // A new link is a new chance; news of what it has is none.
        if self.left_at.take().is_some() {
            self.alone_until = None;
        }
    }

    /// It went away, and with it everything it had.
    pub(super) fn leave(&mut self, now: Instant) {
        self.left_at.get_or_insert(now);
        self.held.clear();
        self.due = Duration::ZERO;
        self.forget_grants();
    }

    fn forget_grants(&mut self) {
        self.grant = 0;
        self.vain = (0, 0);
        self.busy_for.clear();
        self.demand = Demand::default();
    }

    /// It says what may be used of it. What it said before that comes later is ignored.
    pub(super) fn grant(&mut self, grant: Grant) {
        if grant.number > self.grant {
            (self.slots, self.grant) = (grant.slots, grant.number);
            self.busy_for.clear();
        }
    }

    /// It was busy for a run that stood on that grant. Until it grants something else, or for a while,
    /// nothing follows.
    pub(super) fn was_busy(&mut self, now: Instant, person: Arc<str>, grant: u64) {
        if grant == self.grant {
            self.busy_for.insert(if self.is_open() { "".into() } else { person }, now);
        }
    }

    /// It had promised a slot by that grant, and had none. Where that happens again and again, something is
    /// wrong with it.
    pub(super) fn was_vain(&mut self, now: Instant, grant: u64) {
        let (count, latest) = self.vain;
        if grant > latest || count == 0 {
            self.vain = (count + 1, grant);
            if count + 1 >= VAIN {
                self.leave_alone(now, count + 1 - VAIN);
            }
        }
    }

    /// It lost a run. Machines that lose one after the other are left alone, longer each time, so that they
    /// do not use up the attempts of everything that waits.
    pub(super) fn was_lost(&mut self, now: Instant) {
        if self.alone_until.is_some() {
            return;
        }
        self.losses += 1;
        let bad_luck = if self.site.is_remote { 0 } else { BAD_LUCK };
        if self.losses > bad_luck {
            self.leave_alone(now, self.losses - bad_luck - 1);
        }
    }

    fn leave_alone(&mut self, now: Instant, times: u32) {
        let pause = FIRST_PAUSE.saturating_mul(1 << times.min(16)).min(LAST_PAUSE);
        self.alone_until = Some(now + pause);
    }

    /// A command has begun there: it may be well again.
    pub(super) fn has_begun(&mut self) {
        self.is_tried = false;
        self.vain.0 = 0;
    }

    /// It has answered: it is well.
    pub(super) fn has_answered(&mut self) {
        self.has_begun();
        (self.losses, self.alone_until) = (0, None);
    }

    /// Whether anything speaks against it.
    pub(super) fn is_doubtful(&self) -> bool {
        self.is_tried || self.losses > 0 || self.vain.0 > 0 || self.alone_until.is_some()
    }

    /// Losses since it answered anything.
    pub(super) fn losses(&self) -> u32 {
        self.losses
    }

    /// Until when it gets nothing, because it was tried in vain.
    pub(super) fn alone_until(&self) -> Option<Instant> {
        self.alone_until
    }

    fn is_busy_for(&self, person: &str) -> bool {
        self.busy_for.contains_key(if self.is_open() { "" } else { person })
    }

    /// Time passed. Whether it may have room again.
    pub(super) fn forgive(&mut self, now: Instant) -> bool {
        let before = self.busy_for.len();
        self.busy_for.retain(|_, at| now.saturating_duration_since(*at) < BUSY);
        let is_over = self.alone_until.is_some_and(|until| until <= now);
        if is_over {
            (self.alone_until, self.is_tried) = (None, true);
        }
        is_over || self.busy_for.len() < before
    }

    pub(super) fn is_present(&self) -> bool {
        self.left_at.is_none()
    }

    /// Whether it takes anything new at all.
    pub(super) fn is_taking(&self) -> bool {
        self.is_present() && self.duty == Duty::Active && !self.slots.is_none()
    }

    /// Whether anybody may use any of its slots.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.slots, Slots::Open(_))
    }

    /// Whether that person may use any of its slots, be they taken.
    pub(super) fn serves(&self, person: &str) -> bool {
        self.is_taking() && (self.is_open() || self.share(person).is_some_and(|share| share.slots > 0))
    }

    fn share(&self, person: &str) -> Option<&Share> {
        match &self.slots {
            Slots::Open(_) => None,
            Slots::Shared(shares) => shares.iter().find(|share| *share.person == *person),
        }
    }

    /// The grant that runs stand on that it gets now.
    pub(super) fn present_grant(&self) -> u64 {
        self.grant
    }

    /// Slots, and runs it has.
    pub(in crate::execution::queue) fn slots(&self) -> (usize, usize) {
        (self.slots.count(), self.busy())
    }

    pub(super) fn busy(&self) -> usize {
        self.held.values().map(|held| held.count).sum()
    }

    /// What it takes for that person.
    pub(super) fn room(&self, person: &str) -> Room {
        if !self.is_taking() || self.is_busy_for(person) || self.alone_until.is_some() {
            return Room::default();
        }
        if self.is_tried {
            let is_free = self.held.is_empty() && self.serves(person);
            return Room { now: usize::from(is_free), ahead: 0 };
        }
        match &self.slots {
            Slots::Open(slots) => Room { now: slots.saturating_sub(self.busy()), ahead: 0 },
            Slots::Shared(_) => {
                let Some(share) = self.share(person) else { return Room::default() };
                let held = self.held.get(person).map_or(0, |held| held.count);
                let ahead = (share.slots + share.ahead).saturating_sub(held.max(share.slots));
                Room { now: share.slots.saturating_sub(held), ahead }
            }
        }
    }

    /// What it takes for somebody: the most of anybody.
    pub(super) fn best_room(&self) -> Room {
        match &self.slots {
            Slots::Open(_) => self.room(""),
            Slots::Shared(shares) => {
                let rooms = shares.iter().map(|share| self.room(&share.person));
                rooms.max_by_key(|room| (room.now, room.ahead)).unwrap_or_default()
            }
        }
    }

    /// Slots that are free for `person`; negative if there are more runs than slots.
    pub(super) fn balance(&self, person: &str) -> isize {
        let (slots, busy) = match &self.slots {
            Slots::Open(slots) => (*slots, self.busy()),
            Slots::Shared(_) => {
                let share = self.share(person);
                let held = self.held.get(person).map_or(0, |held| held.count);
                (share.map_or(0, |share| share.slots), held)
            }
        };
        slots.cast_signed() - busy.cast_signed()
    }

    pub(super) fn take(&mut self, person: &Arc<str>, build: &Arc<str>) {
        let held = self.held.entry(person.clone()).or_default();
        held.count += 1;
        *held.builds.entry(build.clone()).or_default() += 1;
    }

    /// Gives a slot back; one of a machine that went away meanwhile is not there any more.
    pub(super) fn free(&mut self, person: &Arc<str>, build: &Arc<str>) {
        let Some(held) = self.held.get_mut(person) else { return };
        let Some(count) = held.builds.get_mut(build) else { return };
        *count -= 1;
        held.count -= 1;
        if *count == 0 {
            held.builds.remove(build);
        }
        if held.count == 0 {
            self.held.remove(person);
        }
    }

    /// One of its runs will likely end at `due`.
    pub(super) fn expect(&mut self, due: Duration) {
        self.due += due;
    }

    /// A run of which that was expected is over.
    pub(super) fn expect_no_more(&mut self, due: Duration) {
        self.due = self.due.saturating_sub(due);
    }

    /// What its runs will likely take yet, all together.
    pub(in crate::execution::queue) fn remaining(&self, now: Duration) -> Duration {
        let busy = u32::try_from(self.busy()).unwrap_or(u32::MAX);
        self.due.saturating_sub(now.saturating_mul(busy))
    }

    /// Runs it has, by person and build.
    pub(super) fn held(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>, usize)> {
        self.held
            .iter()
            .flat_map(|(person, held)| held.builds.iter().map(move |(build, count)| (person, build, *count)))
    }

    pub(super) fn state(&self) -> MachineState {
        let (slots, busy) = self.slots();
        MachineState {
            name: self.name.clone(),
            slots,
            busy,
            is_shared: !self.is_open(),
            duty: self.duty,
            told_at: self.told_at,
            left_at: self.left_at,
        }
    }
}
