//! What goes into the queue and what comes out: to know what it can do, read this file.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use farmhand_proto::reapi::ExecuteResponse;
use tokio::time::Instant;

use super::pool::Matcher;
use crate::action_cache::ActionKey;
use crate::digest::Digest;
use crate::execution::action::PreparedAction;
use crate::execution::grants::Grant;
use crate::execution::operations::{OperationId, OperationState};
use crate::execution::placement::Site;
use crate::execution::run_times::Like;

/// The time of an event, on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For durations.
    pub instant: Instant,
    /// For people and clients.
    pub wall: SystemTime,
}

/// One execution of an action, for one or more operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RunId(pub u64);

/// One try of a run on one worker. Late news of an earlier try is told by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptId {
    /// The run.
    pub run: RunId,
    /// Counts from 1.
    pub number: u32,
}

/// An action on its way into the queue.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The operation made for the call.
    pub operation: OperationId,
    /// What to run.
    pub action: Arc<PreparedAction>,
    /// Lower is sooner.
    pub priority: i32,
    /// Who is served by turns.
    pub person: Arc<str>,
    /// The build, which takes turns with others of that person.
    pub build: Arc<str>,
    /// What its run time is learned by.
    pub like: Like,
    /// When the action cache was asked, in vain; `None` if the caller does not want cached results.
    pub looked_up_at: Option<Instant>,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client wants an action run, and waits for it.
    Submitted(Submission),
    /// A worker came, or offers another number of slots.
    WorkerJoined {
        /// Its name.
        worker: Arc<str>,
        /// Actions it takes at once.
        slots: usize,
        /// What it can run.
        matcher: Matcher,
    },
    /// A worker says who may use its slots. One that did not join is not known; the slots it joined
    /// with are not counted any more.
    Granted {
        /// Its name.
        worker: Arc<str>,
        /// What may be used; older than what is known, it means nothing.
        grant: Grant,
    },
    /// Where a worker is, which is at hand unless that is told.
    Sited {
        /// Its name.
        worker: Arc<str>,
        /// Where.
        site: Site,
    },
    /// A worker went away, with everything it had.
    WorkerLeft {
        /// Its name.
        worker: Arc<str>,
        /// What was seen.
        reason: String,
    },
    /// An attempt went a step on.
    Progress(AttemptId, Step),
    /// An attempt ended.
    Ended(AttemptId, Arc<ExecuteResponse>),
    /// The worker of an attempt was lost.
    Lost(AttemptId, String),
    /// A machine sees to the action of an operation already, for clients of its own.
    FoundElsewhere {
        /// The operation.
        operation: OperationId,
        /// The machine.
        worker: Arc<str>,
    },
    /// The worker of an attempt had no slot for it, and has not begun it.
    Busy(AttemptId),
    /// A result is in the action cache, or could not be put there for the reason given.
    Stored(RunId, Result<(), String>),
    /// One more client waits for the operation.
    WaiterJoined(OperationId),
    /// One client less.
    WaiterGone(OperationId),
    /// A client does not want the operation any more.
    Cancel(OperationId),
    /// A person ends what runs, for everybody who waits for it.
    Kill(Target),
    /// A person told a machine what to do. One that is not known is not told.
    Told {
        /// Its name.
        worker: Arc<str>,
        /// What it shall do.
        duty: Duty,
    },
    /// Time passed.
    Tick,
}

/// What a person means by the name of something that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The run of this operation.
    Operation(OperationId),
    /// All runs of this action, in every instance.
    Action(Digest),
}

/// What a machine was told to do. Whatever that is, it finishes what it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duty {
    /// Take what comes.
    #[default]
    Active,
    /// Take nothing new, so that it may leave.
    Draining,
    /// Take nothing new, and rest.
    Paused,
}

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The command runs.
    Running,
    /// The command ended; its outputs are collected.
    Collecting,
    /// It has actions of its own run, and gave its slot back.
    Yielded,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub enum Effect {
    /// The submission is not taken, and forgotten.
    Refuse(OperationId, Refusal),
    /// Give the action to the worker.
    Assign(Assignment),
    /// Stop the attempt; its end is still to be reported.
    CancelRun(AttemptId),
    /// Put the result into the action cache, then report it.
    Store(RunId, ActionKey, Arc<ExecuteResponse>),
    /// Tell the operation's waiters its new state.
    Notify(OperationId, OperationState),
    /// Add to a completed operation what the worker told of its run afterwards.
    Amend(OperationId, Arc<ExecuteResponse>),
    /// What is wanted of some machine has changed: see [`Queue::demands`](super::Queue::demands).
    DemandChanged,
}

/// An action for a worker.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// To report under.
    pub attempt: AttemptId,
    /// Who gets it.
    pub worker: Arc<str>,
    /// The first operation that wants it.
    pub operation: OperationId,
    /// What to run.
    pub action: Arc<PreparedAction>,
    /// When it was queued first.
    pub queued_at: SystemTime,
    /// Whose slot it takes.
    pub person: Arc<str>,
    /// For which build.
    pub build: Arc<str>,
    /// Whether the worker sees to it for clients of its own, so that it is only waited for.
    pub is_joined: bool,
}

/// Why a submission is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Too many runs wait already.
    #[error("{0} actions are queued already, which is the limit")]
    Full(usize),
    /// No machine can ever run it.
    #[error("no machine can run this action: {}", explain(.0))]
    NoWorker(Vec<Mismatch>),
}

/// Why one machine does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The machine.
    pub machine: Arc<str>,
    /// Each names one property.
    pub reasons: Vec<String>,
}

/// A worker that was lost with a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// Its name.
    pub worker: Arc<str>,
    /// What was seen.
    pub reason: String,
}

fn explain(mismatches: &[Mismatch]) -> String {
    if mismatches.is_empty() {
        return "none is there".into();
    }
    let each: Vec<_> = mismatches.iter().map(ToString::to_string).collect();
    each.join("; ")
}

// === impl Mismatch ===

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.machine, self.reasons.join(", "))
    }
}
