//! [`Rerun`]: an action that is run again, to see whether the same comes of it.
//!
//! Its runs are operations like those of clients, and are seen, listed and killed like these. But
//! they leave no trace in the action cache and do not look into it, they share nothing with others or
//! with each other, and they are in nobody's way: every build that did not ask for the least
//! priority goes before them, and they take half of the slots at most.
//!
//! `compare` tells in what the results differ.

use std::sync::Arc;

use farmhand_proto::reapi;
use futures_util::future::select_all;
use uuid::Uuid;

use super::action::{Action, ActionError, Loaded, PlatformRules, PreparedAction};
use super::inline::InlineHints;
use super::missing::missing_inputs;
use super::{
    Duty, ExecuteError, Kind, Operation, OperationState, OperationWatch, PRIORITIES, Request, Scheduler,
};
use crate::cas::CasError;
use crate::digest::Digest;
use crate::instance::InstanceName;
use crate::request_metadata::RequestMetadata;

mod compare;
mod trees;

pub use compare::{Comparison, Difference, MAX_DIFFERENCES};

/// What is to be run again.
#[derive(Clone, Debug)]
pub struct RerunRequest {
    /// Instance the action belongs to.
    pub instance: InstanceName,
    /// Digest of the Action.
    pub action: Digest,
    /// How its platform properties are read.
    pub platform: PlatformRules,
    /// How often.
    pub times: u32,
    /// Name of the machine to run on; `None` for any.
    pub machine: Option<String>,
}

/// Runs under way. Those that are not over when this is dropped are ended.
pub struct Rerun {
    scheduler: Scheduler,
    request: Request,
    action: Arc<PreparedAction>,
    times: u32,
    at_once: usize,
    begun: u32,
    live: Vec<Live>,
}

struct Live {
    run: u32,
    watch: OperationWatch,
    told: Option<super::Stage>,
}

/// A run that came a stage further.
#[derive(Clone, Debug)]
pub struct Step {
    /// Counts from 1.
    pub run: u32,
    /// Its operation.
    pub operation: Arc<Operation>,
    /// Where it is.
    pub state: OperationState,
}

/// Why an action cannot be run again.
#[derive(Debug, thiserror::Error)]
pub enum RerunError {
    /// What it consists of is not stored any more.
    #[error("the store lacks {} blobs of the action, the first is {}", .0.len(), .0.first().map_or_else(String::new, ToString::to_string))]
    Missing(Vec<Digest>),
    /// No machine has the name that was asked for.
    #[error("there is no machine {0:?}")]
    UnknownMachine(String),
    /// It cannot be run at all.
    #[error(transparent)]
    Execute(#[from] ExecuteError),
}

// === impl Scheduler ===

impl Scheduler {
    /// Prepares an action to be run again. Nothing runs before [`Rerun::next`] is called.
    ///
    /// # Errors
    /// [`RerunError`].
    pub async fn rerun(&self, request: RerunRequest) -> Result<Rerun, RerunError> {
        let RerunRequest { instance, action: digest, mut platform, times, machine } = request;
        let at_once = self.half_of_the_slots(machine.as_deref()).await?;
        let earlier = self.latest(|other| other.action == digest && other.kind == Kind::Execute).await;
        let earlier = earlier.as_ref().map(|operation| &*operation.invocation);
        platform.root_as_slash |= earlier.is_some_and(RequestMetadata::expects_root_as_slash);
        let mut action = self.load_again(&instance, digest, platform).await?;
        action.do_not_cache = true;
        if machine.is_some() {
            Arc::make_mut(&mut action.requirements).machine = machine;
        }
        let request = Request {
            kind: Kind::Rerun,
            instance,
            action: digest,
            skip_cache_lookup: true,
            priority: *PRIORITIES.end(),
            hints: InlineHints::default(),
            invocation: Arc::new(invocation(earlier)),
            person: None,
            platform,
        };
        let action = Arc::new(action);
        Ok(Rerun { scheduler: self.clone(), request, action, times, at_once, begun: 0, live: Vec::new() })
    }

    /// The action with all its inputs, or what is missing of it.
    async fn load_again(
        &self,
        instance: &InstanceName,
        digest: Digest,
        platform: PlatformRules,
    ) -> Result<PreparedAction, RerunError> {
        let cas = self.cas();
        let loaded = Action::load(cas, instance, digest, self.settings()).await??;
        let action = match loaded {
            Loaded::Ready(action) => action.prepare(cas, platform).await??,
            Loaded::Missing(missing) => return Err(RerunError::Missing(missing)),
        };
        match action {
            Loaded::Ready(action) => {
                let missing = missing_inputs(cas, action.input_root).await??;
                if missing.is_empty() { Ok(action) } else { Err(RerunError::Missing(missing)) }
            }
            Loaded::Missing(missing) => Err(RerunError::Missing(missing)),
        }
    }

    /// Half of the slots of the machines that may run it, and one at least.
    async fn half_of_the_slots(&self, machine: Option<&str>) -> Result<usize, RerunError> {
        let mut machines = self.machines().await;
        if let Some(name) = machine {
            machines.retain(|machine| &*machine.name == name);
            if machines.is_empty() {
                return Err(RerunError::UnknownMachine(name.chars().take(200).collect()));
            }
        }
        let active = machines.iter().filter(|machine| machine.duty == Duty::Active);
        Ok((active.map(|machine| machine.slots).sum::<usize>() / 2).max(1))
    }
}

impl From<CasError> for RerunError {
    fn from(error: CasError) -> Self {
        Self::Execute(error.into())
    }
}

impl From<ActionError> for RerunError {
    fn from(error: ActionError) -> Self {
        Self::Execute(error.into())
    }
}

/// Who asks: this program, for what the client called `earlier`. All runs are one build.
fn invocation(earlier: Option<&RequestMetadata>) -> RequestMetadata {
    RequestMetadata {
        tool_name: "farmhand rerun".to_owned(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        tool_invocation_id: Uuid::new_v4().to_string(),
        action_mnemonic: earlier.map(|earlier| earlier.action_mnemonic.clone()).unwrap_or_default(),
        target_id: earlier.map(|earlier| earlier.target_id.clone()).unwrap_or_default(),
        configuration_id: earlier.map(|earlier| earlier.configuration_id.clone()).unwrap_or_default(),
        ..Default::default()
    }
}

// === impl Rerun ===

impl Rerun {
    /// The result the action cache holds, to be compared with.
    pub async fn cached(&self) -> Option<reapi::ActionResult> {
        self.scheduler.lookup(&self.action.key).await
    }

    /// What happens next; `None` when all runs are over. May be dropped and called again.
    ///
    /// # Errors
    /// When a run is not taken. The others go on until this is dropped.
    pub async fn next(&mut self) -> Option<Result<Step, ExecuteError>> {
        loop {
            let has_room = self.live.len() < self.at_once && self.begun < self.times;
            if has_room && let Err(error) = self.begin().await {
                return Some(Err(error));
            }
            if let Some(step) = self.news() {
                return Some(Ok(step));
            }
            if self.live.is_empty() {
                return None;
            }
            let changes = self.live.iter_mut().map(|live| Box::pin(live.watch.changed()));
            tokio::select! {
                _ = select_all(changes) => {}
                () = self.scheduler.stopping().cancelled() => return Some(Err(ExecuteError::ShuttingDown)),
            }
        }
    }

    async fn begin(&mut self) -> Result<(), ExecuteError> {
        let (watch, answer) = self.scheduler.offer(self.request.clone(), self.action.clone(), None);
        self.begun += 1;
        self.live.push(Live { run: self.begun, watch, told: None });
        answer.await.map_err(|_| ExecuteError::ShuttingDown)??;
        Ok(())
    }

    /// The first run that came to a stage that was not told.
    fn news(&mut self) -> Option<Step> {
        for (index, live) in self.live.iter_mut().enumerate() {
            let state = live.watch.state();
            if live.told.replace(state.stage) == Some(state.stage) {
                continue;
            }
            let step = Step { run: live.run, operation: live.watch.operation().clone(), state };
            if step.state.is_done() {
                self.live.remove(index);
            }
            return Some(step);
        }
        None
    }
}

impl Drop for Rerun {
    fn drop(&mut self) {
        for live in &self.live {
            self.scheduler.give_up(live.watch.operation());
        }
    }
}

#[cfg(test)]
mod tests;
