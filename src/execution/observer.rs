//! [`Observer`]: who is told what becomes of operations.
//!
//! Execution knows nothing of dashboards, histories or statistics; whoever keeps them implements this,
//! and the composition root joins the two. Calls come on the hot path, so they must be short, and
//! never wait.

use farmhand_proto::reapi::ActionResult;

use super::action::PreparedAction;
use super::operations::{Operation, OperationState};
use super::scheduler::Request;

/// Is told of each operation, in the order of its states, before any client is.
pub trait Observer: Send + Sync + 'static {
    /// An Execute call asked the action cache, and got this.
    fn looked_up(&self, request: &Request, found: Option<&ActionResult>);

    /// An operation came, in this state; `action` is what it waits to have run, and `None` when it was
    /// over at once.
    fn came(&self, operation: &Operation, state: &OperationState, action: Option<&PreparedAction>);

    /// The operation is in a new state. Nothing comes after the completed one.
    fn changed(&self, operation: &Operation, state: &OperationState);
}

/// Nobody.
impl Observer for () {
    fn looked_up(&self, _request: &Request, _found: Option<&ActionResult>) {}

    fn came(&self, _operation: &Operation, _state: &OperationState, _action: Option<&PreparedAction>) {}

    fn changed(&self, _operation: &Operation, _state: &OperationState) {}
}
