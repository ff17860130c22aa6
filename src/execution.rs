//! Execution: from a request to run an action to its result.
//!
//! - [`action`] parses and checks what a client sent; past it, nothing is validated again;
//! - [`missing`] finds every absent input of an action in one pass;
//! - [`own_root`] tells input roots that are whole file systems;
//! - [`queue`] is the pure state machine that decides who runs what, where and when;
//! - [`placement`] knows what it costs to run something somewhere, [`run_times`] how long it will take;
//! - [`grants`] decides which machine of the farm may use the slots of this one, and for whom;
//! - [`lending`] lends the slots of this machine by what grants decides, to its own queue and to others;
//! - [`observer`] is told what becomes of operations, [`about`] is what they remember of their actions;
//! - [`operations`] remembers the operations, live and finished, that clients ask about by name;
//! - [`live_logs`] knows where the commands that run now write stdout and stderr;
//! - [`scheduler`] drives the queue: it asks the action cache, hands leases to workers, stores results;
//! - [`response`] words the responses that come from the scheduler and not from a worker;
//! - [`rerun`] runs an action again, to see whether the same comes of it;
//! - [`inline`] puts small outputs into a result for callers that asked for them;
//! - [`observer`] is the seam for whoever wants to know what becomes of operations.
//!
//! **Every call has an operation of its own**; several operations may share one *run*. So cancelling
//! one caller never harms another, each caller keeps its own hints, and a run ends early only when
//! its last operation is gone.
//!
//! The action cache is asked before an operation exists, without passing through the queue: a
//! cached result costs no hop to the scheduler's task, and stage `CACHE_CHECK` is never reported.

use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::reapi;

use crate::cas::CasError;
use crate::digest::DigestFunction;
use crate::instance::InstanceName;

pub mod about;
pub mod action;
pub mod grants;
pub mod inline;
pub mod lending;
pub mod live_logs;
pub mod missing;
pub mod observer;
pub mod operations;
pub mod own_root;
pub mod placement;
pub mod queue;
pub mod rerun;
pub mod response;
pub mod run_times;
pub mod scheduler;
#[cfg(test)]
pub(crate) mod testing;

pub use about::About;
pub use action::ActionError;
pub use observer::{Observer, Sequence};
pub use operations::{Call, Kind, Operation, OperationId, OperationState, Stage};
pub use queue::{Duty, MachineState, Refusal, Target, Waiting};
pub use scheduler::{
    KillError, LiveAction, MachineChange, MachineError, OperationWatch, Request, Scheduler, Snapshot,
};

/// The most and the least urgent value of `ExecutionPolicy.priority`; others are clamped.
pub const PRIORITIES: std::ops::RangeInclusive<i32> = -1000..=1000;

/// Names of `Command.output_node_properties` that workers can fill in.
pub const OUTPUT_NODE_PROPERTIES: [&str; 2] = ["mtime", "unix_mode"];

/// How executions are handled; the same for every instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time limit of an action that names none.
    pub default_timeout: Duration,
    /// Longest time limit an action may name.
    pub max_timeout: Duration,
    /// Runs that may wait for a slot; further ones are refused.
    pub queue_limit: usize,
    /// How long an operation goes on after its last caller went away.
    pub grace: Duration,
    /// How long a run keeps its slot after its last caller went away, if another needs it that has
    /// a caller.
    pub orphan_yield: Duration,
    /// Whose builds these are: slots are shared fairly between people, on this machine and on others.
    pub person: Arc<str>,
    /// Whether what takes much longer than its like gets a second attempt on an idle machine.
    pub second_attempts: bool,
    /// How long an action waits for a machine that has gone and could run it.
    pub absent_worker_wait: Duration,
    /// How often an unchanged state is repeated to a waiting client.
    pub update_interval: Duration,
    /// How long finished operations are remembered.
    pub retention: Retention,
}

/// How long finished operations are remembered: until the first of these is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Time since the end.
    pub age: Duration,
    /// Number of operations.
    pub count: usize,
    /// Encoded bytes of their responses.
    pub bytes: usize,
}

/// Why an Execute call got no operation.
#[derive(Debug, thiserror::Error)]
pub enum ExecuteError {
    /// The request or the action is malformed.
    #[error(transparent)]
    Invalid(#[from] ActionError),
    /// The queue did not take the action.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The blobs of the action could not be read.
    #[error("cannot read the action: {0}")]
    Cas(#[from] CasError),
    /// The instance is a cache only.
    #[error("execution is switched off for instance {0:?}")]
    SwitchedOff(InstanceName),
    /// The node is ending.
    #[error("this machine is shutting down")]
    ShuttingDown,
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_timeout: Duration::from_secs(3600),
            max_timeout: Duration::from_secs(24 * 3600),
            queue_limit: 100_000,
            grace: Duration::from_secs(300),
            orphan_yield: Duration::from_secs(5),
            person: Arc::default(),
            second_attempts: true,
            absent_worker_wait: Duration::from_secs(60),
            update_interval: Duration::from_secs(30),
            retention: Retention {
                age: Duration::from_secs(15 * 60),
                count: 50_000,
                bytes: 64 * 1024 * 1024,
            },
        }
    }
}

/// What `GetCapabilities` says about execution where it is switched on.
pub fn capabilities(default_function: DigestFunction) -> reapi::ExecutionCapabilities {
    reapi::ExecutionCapabilities {
        digest_function: default_function.to_wire(),
        exec_enabled: true,
        execution_priority_capabilities: Some(priorities()),
        supported_node_properties: OUTPUT_NODE_PROPERTIES.map(str::to_owned).to_vec(),
        digest_functions: DigestFunction::ALL.map(DigestFunction::to_wire).to_vec(),
    }
}

/// The accepted range, for executions and for results alike.
pub fn priorities() -> reapi::PriorityCapabilities {
    let range = reapi::priority_capabilities::PriorityRange {
        min_priority: *PRIORITIES.start(),
        max_priority: *PRIORITIES.end(),
    };
    reapi::PriorityCapabilities { priorities: vec![range] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_hold_together() {
        for function in DigestFunction::ALL {
            let capabilities = capabilities(function);
            assert!(capabilities.exec_enabled);
            assert!(capabilities.digest_functions.contains(&capabilities.digest_function));
            let ranges = capabilities.execution_priority_capabilities.unwrap().priorities;
            assert!(ranges.iter().any(|range| (range.min_priority..=range.max_priority).contains(&0)));
        }
    }
}
