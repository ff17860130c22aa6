//! [`Links`]: who sees whom, and when a message arrives.
//!
//! A link keeps the order of what is told on it, and that of the messages of each run; but what is told
//! and what belongs to a run may overtake each other. Nothing is lost while the link holds. When it breaks,
//! each end notices in its own time, and what arrives meanwhile is lost.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::{Setup, Time};
use crate::dice::Dice;
use crate::execution::grants::{Demand, Grant};
use crate::execution::queue::{Assignment, AttemptId};

/// Orders of messages that are kept in mind before old ones are forgotten.
const MOST_KEPT: usize = 100_000;

/// What machines tell each other.
#[derive(Debug)]
pub(super) enum Message {
    Demand(Demand),
    Grant(Grant),
    // From the owner of a run:
    Lease(Box<Assignment>),
    Cancel(AttemptId),
    // To the owner:
    Running(AttemptId),
    Ended(AttemptId, i32),
    Lost(AttemptId, String),
    Busy(AttemptId),
}

#[derive(Debug)]
pub(super) struct Links {
    /// The link that a machine sees to another one, and since when.
    seen: Vec<Vec<Option<(u64, Time)>>>,
    /// Links that carry nothing any more.
    cut: BTreeSet<u64>,
    next: u64,
    /// When the last message arrives of those that keep their order.
    last: HashMap<(usize, usize, Option<AttemptId>), Time>,
}

// === impl Links ===

impl Links {
    pub(super) fn new(machines: usize) -> Self {
        let seen = vec![vec![None; machines]; machines];
        Self { seen, cut: BTreeSet::new(), next: 0, last: HashMap::new() }
    }

    /// Links two machines.
    pub(super) fn link(&mut self, time: Time, (a, b): (usize, usize)) {
        self.next += 1;
        self.seen[a][b] = Some((self.next, time));
        self.seen[b][a] = Some((self.next, time));
    }

    /// The link that a machine sees to another.
    pub(super) fn number(&self, machine: usize, peer: usize) -> Option<u64> {
        self.seen[machine][peer].map(|(number, _)| number)
    }

    /// From now on the link between two machines carries nothing.
    pub(super) fn cut(&mut self, a: usize, b: usize) {
        self.cut.extend(self.number(a, b));
        self.cut.extend(self.number(b, a));
    }

    /// A machine has noticed that the link is broken.
    pub(super) fn forget(&mut self, machine: usize, peer: usize) {
        self.seen[machine][peer] = None;
    }

    /// Since when two machines have been linked, if they are.
    pub(super) fn since(&self, a: usize, b: usize) -> Option<Time> {
        let (number, since) = self.seen[a][b]?;
        let is_whole = self.number(b, a) == Some(number) && !self.cut.contains(&number);
        is_whole.then_some(since)
    }

    /// By which link a message goes, and when it arrives; `None` if it is lost.
    pub(super) fn send(
        &mut self,
        now: Time,
        (from, to): (usize, usize),
        message: &Message,
        setup: &Setup,
        dice: &Dice,
    ) -> Option<(u64, Time)> {
        let number = self.number(from, to).filter(|number| !self.cut.contains(number))?;
        if self.last.len() > MOST_KEPT {
            self.last.retain(|_, at| *at > now);
        }
        let last = self.last.entry((from, to, message.attempt())).or_default();
        let at = (now + setup.latency + dice.time(setup.jitter)).max(*last + Duration::from_nanos(1));
        *last = at;
        Some((number, at))
    }
}

// === impl Message ===

impl Message {
    /// The run it belongs to.
    fn attempt(&self) -> Option<AttemptId> {
        match self {
            Self::Demand(_) | Self::Grant(_) => None,
            Self::Lease(assignment) => Some(assignment.attempt),
            Self::Cancel(attempt)
            | Self::Running(attempt)
            | Self::Ended(attempt, _)
            | Self::Lost(attempt, _)
            | Self::Busy(attempt) => Some(*attempt),
        }
    }
}
