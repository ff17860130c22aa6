//! What a person asks of the scheduler: to end what runs, to let a machine rest, why something waits.
//!
//! The driver answers each by message: nothing here looks into the queue from outside.

use std::fmt;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::{Message, Scheduler};
use crate::action_cache::ActionKey;
use crate::execution::operations::{Operation, OperationId};
use crate::execution::queue::{Duty, Event, MachineState, Target, Waiting};
use crate::worker::{SlotsError, Worker};

/// Operations looked at in one step.
const STRIDE: usize = 256;

/// Asked of the driver.
pub(super) enum Question {
    /// Ends what runs; the number of operations that end with it.
    Kill(Target, oneshot::Sender<usize>),
    /// Why an operation waits, if it does.
    Explain(OperationId, oneshot::Sender<Option<Waiting>>),
    /// A live operation with this action that no other machine sees to.
    Find(ActionKey, oneshot::Sender<Option<OperationId>>),
    /// How every machine stands.
    Machines(oneshot::Sender<Vec<MachineState>>),
    /// The worker of that name.
    Worker(Arc<str>, oneshot::Sender<Option<Arc<dyn Worker>>>),
}

/// What is to become of a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MachineChange {
    /// What it shall do; `None` leaves it.
    pub duty: Option<Duty>,
    /// Actions it shall run at once; `None` leaves it.
    pub slots: Option<usize>,
}

/// Why nothing was ended.
#[derive(Debug, thiserror::Error)]
pub enum KillError {
    /// Nothing of that name is known (any more).
    #[error("there is no {0} (any more)")]
    Unknown(Target),
    /// It was, and it has ended.
    #[error("{0} is over: there is nothing to end")]
    Over(Target),
    /// The node is ending.
    #[error("this machine is shutting down")]
    ShuttingDown,
}

/// Why a machine goes on as before.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// No machine has this name.
    #[error("there is no machine {0:?}")]
    Unknown(String),
    /// Its slots cannot be so many.
    #[error(transparent)]
    Slots(#[from] SlotsError),
    /// The node is ending.
    #[error("this machine is shutting down")]
    ShuttingDown,
}

// === impl Scheduler ===

impl Scheduler {
    /// Ends the runs that `target` means, for everybody who waits for them. Those that are with a
    /// worker end when it has stopped them, with their logs. Returns the number of operations that
    /// end.
    ///
    /// # Errors
    /// [`KillError`], when there is none.
    pub async fn kill(&self, target: Target) -> Result<usize, KillError> {
        let ended = self.ask(|reply| Question::Kill(target, reply)).await.ok_or(KillError::ShuttingDown)?;
        match ended {
            0 if self.is_known(&target).await => Err(KillError::Over(target)),
            0 => Err(KillError::Unknown(target)),
            ended => Ok(ended),
        }
    }

    /// Why the operation called `name` waits; `None` unless it does.
    pub async fn explain(&self, name: &str) -> Option<Waiting> {
        let operation = OperationId::parse(name)?;
        self.ask(|reply| Question::Explain(operation, reply)).await.flatten()
    }

    /// How every machine stands that is there, or may come back; none once the node is ending.
    pub async fn machines(&self) -> Vec<MachineState> {
        self.ask(Question::Machines).await.unwrap_or_default()
    }

    /// Changes what a machine does, until it is changed again or the node ends. Nothing that runs is
    /// harmed. The change is made whole even if the caller goes away. Returns how it stands then.
    ///
    /// # Errors
    /// [`MachineError`]; nothing has changed then.
    pub async fn set_machine(&self, name: &str, change: MachineChange) -> Result<MachineState, MachineError> {
        let (this, name): (_, Arc<str>) = (self.clone(), name.into());
        let changing = self.shared.tasks.spawn("set machine", async move { this.change(name, change).await });
        changing.await.unwrap_or(Err(MachineError::ShuttingDown))
    }

    async fn change(&self, name: Arc<str>, change: MachineChange) -> Result<MachineState, MachineError> {
        let worker = self.ask(|reply| Question::Worker(name.clone(), reply)).await;
        let unknown = || MachineError::Unknown(name.chars().take(200).collect());
        let worker = worker.ok_or(MachineError::ShuttingDown)?.ok_or_else(unknown)?;
        if let Some(slots) = change.slots {
            worker.set_slots(slots).await?;
            self.add_worker(worker);
        }
        if let Some(duty) = change.duty {
            self.send(Message::Event(Event::Told { worker: name.clone(), duty }));
        }
        let machines = self.ask(Question::Machines).await.ok_or(MachineError::ShuttingDown)?;
        machines.into_iter().find(|machine| machine.name == name).ok_or_else(unknown)
    }

    /// The newest operation in the history, live or over, that is `wanted`.
    pub(in crate::execution) async fn latest(
        &self,
        wanted: impl Fn(&Operation) -> bool,
    ) -> Option<Arc<Operation>> {
        let (mut latest, mut after) = (None, None);
        loop {
            let page = self.list(after, STRIDE);
            let Some(last) = page.last() else { return latest.map(|(_, operation)| operation) };
            after = Some(last.id);
            for operation in page.into_iter().filter(|operation| wanted(operation)) {
                let queued_at = operation.state().timeline.queued_at;
                if latest.as_ref().is_none_or(|(at, _)| *at < queued_at) {
                    latest = Some((queued_at, operation));
                }
            }
            tokio::task::consume_budget().await;
        }
    }

    /// Whether an operation of this name, or of this action, is in the history.
    async fn is_known(&self, target: &Target) -> bool {
        match target {
            Target::Operation(id) => self.shared.operations.get(*id).is_some(),
            Target::Action(action) => self.latest(|operation| operation.action == *action).await.is_some(),
        }
    }

    /// Asks the driver; `None` once that has ended.
    pub(super) async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Question(question(reply)));
        answer.await.ok()
    }
}

// === impl Target ===

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operation(operation) => write!(f, "operation {operation}"),
            Self::Action(action) => write!(f, "operation of action {action}"),
        }
    }
}
