//! [`Peer`]: what waits for one machine, and what is on its way to it.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::model::{Amount, Item, Kind, Limits, Rank, Stage};
use crate::cas::entry::EntryKey;
use crate::replication::copies::SMALL;

/// One machine.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub is_linked: bool,
    asks: BTreeSet<Rank>,
    /// Those that extend a life.
    extensions: BTreeSet<Rank>,
    /// Of new writes, and of repair.
    gives: [BTreeSet<Rank>; 2],
    sends: [BTreeSet<Rank>; 2],
    /// New writes it has not got.
    writes: BTreeSet<u64>,
    due: Amount,
    flights: HashMap<EntryKey, Flight>,
    asking: usize,
    giving: [usize; 2],
    sending: [usize; 2],
    /// It did not answer: it is left alone until then.
    retry_at: Option<Instant>,
    backoff: Option<Duration>,
    /// Complete entries that it is to be told of.
    pub settled: Vec<EntryKey>,
    /// Complete entries that it is to ask for itself.
    pub looks: Vec<EntryKey>,
}

/// What is on its way with an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Ask,
    Give(Class),
    Send(Class),
}

/// Whether it is about new writes or repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Write = 0,
    Repair = 1,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    request: Request,
    /// Whether the answer says something of what is under way now.
    counts: bool,
}

// === impl Class ===

impl From<Kind> for Class {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Write => Self::Write,
            Kind::Repair | Kind::Use => Self::Repair,
        }
    }
}

// === impl Peer ===

impl Peer {
    // --- what it is to be told ---

    /// Whether there is anything.
    pub(super) fn has_to_tell(&self) -> bool {
        !self.settled.is_empty() || !self.looks.is_empty()
    }

    /// There is nothing any more.
    pub(super) fn tell_nothing(&mut self) {
        self.settled.clear();
        self.looks.clear();
    }

    // --- what waits ---

    /// Where an item waits whose copy here is at `stage`.
    fn queue(&mut self, item: &Item, stage: Stage) -> Option<&mut BTreeSet<Rank>> {
        let class = Class::from(item.kind) as usize;
        match stage {
            Stage::Unasked if item.kind == Kind::Use => Some(&mut self.extensions),
            Stage::Unasked => Some(&mut self.asks),
            Stage::Lacking if item.bytes > SMALL && !item.key.is_action() => Some(&mut self.sends[class]),
            Stage::Lacking => Some(&mut self.gives[class]),
            _ => None,
        }
    }

    pub(super) fn enqueue(&mut self, serial: u64, item: &Item, stage: Stage) {
        if let Some(queue) = self.queue(item, stage) {
            queue.insert(item.rank(serial));
        }
        if item.kind == Kind::Write && stage.is_pending() {
            self.writes.insert(serial).then(|| self.due.add(item.bytes));
        }
    }

    pub(super) fn dequeue(&mut self, serial: u64, item: &Item, stage: Stage) {
        if let Some(queue) = self.queue(item, stage) {
            queue.remove(&item.rank(serial));
        }
        self.writes.remove(&serial).then(|| self.due.subtract(item.bytes));
    }

    fn is_waited_for(&self) -> bool {
        let queues = [&self.asks, &self.extensions];
        queues.into_iter().chain(&self.gives).chain(&self.sends).any(|queue| !queue.is_empty())
    }

    /// The new writes that it has not got.
    pub(super) fn due_writes(&self) -> Amount {
        self.due
    }

    /// Number of copies that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        let queues = [&self.asks, &self.extensions].into_iter().chain(&self.gives).chain(&self.sends);
        queues.map(BTreeSet::len).sum()
    }

    /// The oldest new write that it has not got.
    pub(super) fn oldest_write(&self) -> Option<u64> {
        self.writes.first().copied()
    }

    // --- what comes next ---

    fn is_ready(&self) -> bool {
        self.is_linked && self.retry_at.is_none()
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) {
        self.retry_at = self.retry_at.filter(|at| *at > now);
    }

    /// When something can be tried again, if that is to be waited for.
    pub(super) fn due(&self) -> Option<Instant> {
        self.retry_at.filter(|_| self.is_linked && self.is_waited_for())
    }

    /// What it can be asked for, and whether to extend lives.
    pub(super) fn next_asks(&self) -> Option<(&BTreeSet<Rank>, bool)> {
        if !self.is_ready() || self.asking > 0 {
            return None;
        }
        let asks = (!self.asks.is_empty()).then_some((&self.asks, false));
        asks.or_else(|| (!self.extensions.is_empty()).then_some((&self.extensions, true)))
    }

    /// What it can be given in a batch.
    pub(super) fn next_gives(&self, limits: &Limits) -> Option<&BTreeSet<Rank>> {
        self.is_ready().then(|| choose(&self.gives, self.giving, limits.gives, limits.repairs))?
    }

    /// What it can be sent.
    pub(super) fn next_sends(&self, limits: &Limits) -> Option<&BTreeSet<Rank>> {
        self.is_ready().then(|| choose(&self.sends, self.sending, limits.sends, limits.repairs))?
    }

    // --- what is on its way ---

    /// A request begins with these.
    pub(super) fn take_off(&mut self, request: Request, keys: &[EntryKey]) {
        *self.number_of(request) += 1;
        self.flights.extend(keys.iter().map(|key| (*key, Flight { request, counts: true })));
    }

    /// A request with these was answered: for each whether the answer counts, `None` if it was not asked for.
    pub(super) fn land(
        &mut self,
        keys: &[EntryKey],
        is_it: impl Fn(Request) -> bool,
    ) -> Option<Vec<Option<bool>>> {
        let mut landed = None;
        let mut take = |key| {
            let flight = self.flights.get(key).filter(|flight| is_it(flight.request)).copied()?;
            self.flights.remove(key);
            landed = Some(flight.request);
            Some(flight.counts)
        };
        let counts = keys.iter().map(&mut take).collect();
        let number = self.number_of(landed?);
        *number = number.saturating_sub(1);
        Some(counts)
    }

    /// Whatever is answered of `key` from now on says nothing of what is under way.
    pub(super) fn disregard(&mut self, key: &EntryKey) {
        if let Some(flight) = self.flights.get_mut(key) {
            flight.counts = false;
        }
    }

    /// Whether something about `key` is on its way.
    pub(super) fn is_busy_with(&self, key: &EntryKey) -> bool {
        self.flights.contains_key(key)
    }

    /// Whether nothing is left of it.
    pub(super) fn is_idle(&self) -> bool {
        self.flights.is_empty() && !self.is_waited_for()
    }

    fn number_of(&mut self, request: Request) -> &mut usize {
        match request {
            Request::Ask => &mut self.asking,
            Request::Give(class) => &mut self.giving[class as usize],
            Request::Send(class) => &mut self.sending[class as usize],
        }
    }

    // --- whether it answers ---

    pub(super) fn answered(&mut self) {
        self.backoff = None;
        self.retry_at = None;
    }

    pub(super) fn failed(&mut self, now: Instant, [first, most]: [Duration; 2]) {
        if self.retry_at.is_some() {
            return;
        }
        let backoff = self.backoff.map_or(first, |last| (last * 2).min(most));
        self.backoff = Some(backoff);
        self.retry_at = Some(now + backoff);
    }
}

/// The queue whose first is first of all, if there is room for one of its class beside what is on its way.
fn choose(
    [writes, repairs]: &[BTreeSet<Rank>; 2],
    on_their_way: [usize; 2],
    most: usize,
    most_repairs: usize,
) -> Option<&BTreeSet<Rank>> {
    if on_their_way.iter().sum::<usize>() >= most {
        return None;
    }
    let may_repair = writes.is_empty() || on_their_way[Class::Repair as usize] < most_repairs;
    match (writes.first(), repairs.first().filter(|_| may_repair)) {
        (Some(write), Some(repair)) => Some(if repair < write { repairs } else { writes }),
        (Some(_), None) => Some(writes),
        (None, Some(_)) => Some(repairs),
        (None, None) => None,
    }
}
