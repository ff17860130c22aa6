//! What goes into [`Owed`](super::Owed), what comes out of it, and what it keeps of an entry.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::cas::entry::{EntryKey, Standing};
use crate::peer::MachineId;
use crate::replication::copies::{Entry, LARGEST_RESULT, Taken};
use crate::replication::placement::MOST_COPIES;
use crate::replication::roster::Roster;

/// Bounds of what is under way.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Entries that are under way at once; the rest waits in the store.
    pub entries: usize,
    /// Entries under way up to which ranges are walked.
    pub walking: usize,
    /// Ranges that are walked at once.
    pub walks: usize,
    /// Batches that are on their way to one machine at once.
    pub gives: usize,
    /// Of these, batches of repair while new writes are owed to the machine.
    pub repairs: usize,
    /// Large entries that are on their way to one machine at once.
    pub sends: usize,
    /// Bytes up to which what was written here is given without asking for it.
    pub unasked: u64,
    /// Time in which everything is compared with the other machines once.
    pub compare: Duration,
    /// Time after which a machine that did not answer is tried again: at first, and at most.
    pub retry: [Duration; 2],
    /// Time after which what no machine had room for is tried again: at first, and at most.
    pub refused: [Duration; 2],
    /// Time for which machines are not told that entries are complete, so that they are told of many at once.
    pub settle: Duration,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The farm looks like this now.
    Roster(Arc<Roster>),
    /// An entry was written here.
    Stored {
        /// Which.
        key: EntryKey,
        /// Bytes of the blob, or of the stored result.
        bytes: u64,
    },
    /// The lives of these were extended here.
    Used(Vec<EntryKey>),
    /// The answer to [`Effect::Walk`].
    Walked {
        /// The range.
        range: u8,
        /// All that is in it.
        entries: Vec<Entry>,
    },
    /// The answer to [`Effect::Ask`].
    Asked {
        /// Who was asked.
        machine: MachineId,
        /// What for.
        keys: Vec<EntryKey>,
        /// Whether it has each of them; `None` if there was no answer.
        present: Option<Vec<bool>>,
    },
    /// The answer to [`Effect::Give`].
    Given {
        /// To whom.
        machine: MachineId,
        /// What became of those that were sent, in any order; `None` if there was no answer. What is not in
        /// it is tried again after a while.
        taken: Option<Vec<(EntryKey, Taken)>>,
        /// All that were to be given.
        keys: Vec<EntryKey>,
    },
    /// The answer to [`Effect::Send`].
    Sent {
        /// To whom.
        machine: MachineId,
        /// What.
        key: EntryKey,
        /// What became of it; `None` if there was no answer.
        taken: Option<Taken>,
    },
    /// These are not here any more.
    Gone(Vec<EntryKey>),
    /// More was written in this range than was told of.
    Missed(u8),
    /// Time has passed.
    Tick,
}

/// Something to be done. Each [`Ask`](Effect::Ask), [`Give`](Effect::Give), [`Send`](Effect::Send) and
/// [`Walk`](Effect::Walk) is answered with one event, whatever becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Ask a machine which of these it has.
    Ask {
        /// Whom.
        machine: MachineId,
        /// What for.
        keys: Vec<EntryKey>,
        /// Whether the life of those it has is extended there.
        extend: bool,
    },
    /// Give a machine these in one batch.
    Give {
        /// Whom.
        machine: MachineId,
        /// What.
        keys: Vec<EntryKey>,
    },
    /// Give a machine this, which is too large for a batch.
    Send {
        /// Whom.
        machine: MachineId,
        /// What.
        key: EntryKey,
    },
    /// Tell a machine that there are as many of these as there should be in the farm of the last roster, and
    /// that its own count. It believes it only if its own farm has the same [fingerprint](Roster::fingerprint);
    /// otherwise it asks for itself, as for what was [used](Event::Used).
    Settle {
        /// Whom.
        machine: MachineId,
        /// What.
        keys: Vec<EntryKey>,
    },
    /// Tell a machine to ask for these itself, as for what was [used](Event::Used): there are enough copies, but
    /// not all where they belong.
    Look {
        /// Whom.
        machine: MachineId,
        /// What.
        keys: Vec<EntryKey>,
    },
    /// Note in the store here what is known of the other copies of these.
    Mark {
        /// Which.
        keys: Vec<EntryKey>,
        /// What is known.
        standing: Standing,
    },
    /// Read all entries of a range.
    Walk(u8),
}

/// Copies, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Number of copies.
    pub copies: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// How far copies are behind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// What was written here and is to go to other machines still.
    pub writes: Amount,
    /// Of these, what machines are to get that there is a link to.
    pub due: Amount,
    /// Other copies that are known to be missing.
    pub repairs: Amount,
    /// Copies that are to be asked for, and may be there.
    pub unknown: u64,
    /// Entries that wait for machines that are away, and are not counted above.
    pub parked: u64,
    /// Age of the oldest write that some machine which is there should have and has not got.
    pub lag: Option<Duration>,
    /// Share of the entries that were compared with the farm as it is now.
    pub compared: f32,
    /// Entries that no machine had room for.
    pub refused: u64,
}

/// Why an entry is under way; what comes first goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// It was written here.
    Write,
    /// It was found in the store.
    Repair,
    /// It was used.
    Use,
}

/// How far the copy on one machine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Whether it is there is to be asked.
    Unasked,
    /// It is being asked.
    Asking,
    /// It is not there.
    Lacking,
    /// It is being given.
    Giving,
    /// The answer to something earlier is waited for, which says nothing any more.
    Held,
    /// It is there.
    Has,
    /// It is not wanted there.
    Refused,
}

/// A machine that is to have an entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub machine: MachineId,
    pub stage: Stage,
}

/// Fewest copies first, then by kind, then the oldest.
pub(super) type Rank = (u8, Kind, u64);

/// An entry that is under way.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub key: EntryKey,
    pub bytes: u64,
    pub kind: Kind,
    pub since: Instant,
    /// Whether it is marked as such in the store.
    pub is_sole: bool,
    /// Whether others are told when it is complete.
    pub is_told: bool,
    /// Whether the copy here is one of those there should be.
    pub is_mine: bool,
    /// Whether there are fewer machines than copies, because some refused.
    pub is_short: bool,
    /// Copies on machines that count, as far as is known.
    pub confirmed: u8,
    pub targets: Vec<Target>,
}

/// What is to become of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Pending,
    Complete,
    /// There is nobody to give it to.
    Unowed,
    /// Those there are do not take it.
    Refused,
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 100_000,
            walking: 50_000,
            walks: 4,
            gives: 2,
            repairs: 1,
            sends: 2,
            unasked: 4 << 10,
            compare: Duration::from_secs(6 * 3600),
            retry: [1, 30].map(Duration::from_secs),
            refused: [15, 600].map(Duration::from_secs),
            settle: Duration::from_millis(100),
        }
    }
}

// === impl Figures ===

impl Figures {
    /// Copies that are to be made in all.
    pub fn owed_copies(&self) -> u64 {
        self.writes.copies + self.repairs.copies + self.parked
    }
}

// === impl Amount ===

impl Amount {
    pub(super) fn add(&mut self, bytes: u64) {
        self.copies += 1;
        self.bytes += bytes;
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self { copies: self.copies + other.copies, bytes: self.bytes + other.bytes }
    }

    pub(super) fn subtract(&mut self, bytes: u64) {
        self.copies -= 1;
        self.bytes -= bytes;
    }
}

// === impl Stage ===

impl Stage {
    pub(super) fn is_pending(self) -> bool {
        !matches!(self, Self::Has | Self::Refused)
    }

    pub(super) fn is_in_flight(self) -> bool {
        matches!(self, Self::Asking | Self::Giving | Self::Held)
    }
}

// === impl Item ===

impl Item {
    pub(super) fn rank(&self, serial: u64) -> Rank {
        (self.confirmed, self.kind, serial)
    }

    /// Where a copy begins of which nothing is known. A result may have replaced one that is there, so
    /// asking says nothing of it.
    pub(super) fn first_stage(&self) -> Stage {
        match self.kind {
            Kind::Write if self.key.is_action() => Stage::Lacking,
            _ => Stage::Unasked,
        }
    }

    pub(super) fn target(&mut self, machine: MachineId) -> Option<&mut Target> {
        self.targets.iter_mut().find(|target| target.machine == machine)
    }

    pub(super) fn pending(&self) -> impl Iterator<Item = &Target> {
        self.targets.iter().filter(|target| target.stage.is_pending())
    }

    fn has_refused(&self, machine: MachineId) -> bool {
        self.targets.iter().any(|target| target.machine == machine && target.stage == Stage::Refused)
    }

    /// Whether it is too large to travel.
    pub(super) fn is_unwieldy(&self) -> bool {
        self.key.is_action() && self.bytes > LARGEST_RESULT
    }

    /// Chooses the machines that are to have it: the first that did not refuse. What is known of those that
    /// stay is kept, `begin` says where others begin.
    pub(super) fn plan(&mut self, roster: &Roster, begin: impl Fn(MachineId, Stage) -> Stage) {
        let places = roster.places(&self.key, MOST_COPIES);
        let chosen: Vec<MachineId> =
            places.iter().filter(|id| !self.has_refused(*id)).take(roster.copies()).collect();
        self.is_mine = chosen.contains(&roster.me());
        self.is_short = chosen.len() < roster.copies();
        let is_there = |target: &Target| roster.machine(target.machine).is_some();
        self.targets.retain(|target| {
            chosen.contains(&target.machine) || target.stage == Stage::Refused && is_there(target)
        });
        for machine in chosen {
            if machine != roster.me() && self.target(machine).is_none() {
                let stage = begin(machine, self.first_stage());
                self.targets.push(Target { machine, stage });
            }
        }
    }

    /// Counts the copies that are known.
    pub(super) fn count(&mut self, counts_here: bool) {
        let others = self.targets.iter().filter(|target| target.stage == Stage::Has).count();
        self.confirmed = others as u8 + u8::from(counts_here);
    }

    pub(super) fn outcome(&self) -> Outcome {
        if self.pending().next().is_some() {
            return Outcome::Pending;
        }
        let is_elsewhere = self.targets.iter().any(|target| target.stage == Stage::Has);
        match is_elsewhere {
            true if !self.is_short => Outcome::Complete,
            false if self.targets.is_empty() => Outcome::Unowed,
            _ => Outcome::Refused,
        }
    }
}
