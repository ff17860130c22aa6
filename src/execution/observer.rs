//! [`Observer`]: who is told what becomes of operations, and [`Sequence`], the numbers they end with.
//!
//! Execution knows nothing of dashboards, histories or statistics; whoever keeps them implements this,
//! and the composition root joins the two. Calls come on the hot path, so they must be short, and
//! never wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use farmhand_proto::reapi::ActionResult;

use super::action::PreparedAction;
use super::operations::{Operation, OperationState};
use super::scheduler::Request;

/// Is told of each operation, in the order of its states. Whoever does not care for a call leaves it.
pub trait Observer: Send + Sync + 'static {
    /// An Execute call asked the action cache, and got this.
    fn looked_up(&self, request: &Request, found: Option<&ActionResult>) {
        let _ = (request, found);
    }

    /// An operation came, in this state; `action` is what it waits to have run, and `None` when it was
    /// over at once. No client knows of it yet.
    fn came(&self, operation: &Arc<Operation>, state: &OperationState, action: Option<&PreparedAction>) {
        let _ = (operation, state, action);
    }

    /// The operation is about to be seen in a new state. Nothing comes after the completed one.
    fn changed(&self, operation: &Operation, state: &OperationState) {
        let _ = (operation, state);
    }

    /// The operation is over, and may be read.
    fn finished(&self, operation: &Arc<Operation>) {
        let _ = operation;
    }

    /// What its worker told after the operation was over has been added to it.
    fn amended(&self, operation: &Arc<Operation>) {
        let _ = operation;
    }
}

/// Nobody.
impl Observer for () {}

/// Both, one after the other.
impl<A: Observer, B: Observer> Observer for (A, B) {
    fn looked_up(&self, request: &Request, found: Option<&ActionResult>) {
        self.0.looked_up(request, found);
        self.1.looked_up(request, found);
    }

    fn came(&self, operation: &Arc<Operation>, state: &OperationState, action: Option<&PreparedAction>) {
        self.0.came(operation, state, action);
        self.1.came(operation, state, action);
    }

    fn changed(&self, operation: &Operation, state: &OperationState) {
        self.0.changed(operation, state);
        self.1.changed(operation, state);
    }

    fn finished(&self, operation: &Arc<Operation>) {
        self.0.finished(operation);
        self.1.finished(operation);
    }

    fn amended(&self, operation: &Arc<Operation>) {
        self.0.amended(operation);
        self.1.amended(operation);
    }
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn looked_up(&self, request: &Request, found: Option<&ActionResult>) {
        (**self).looked_up(request, found);
    }

    fn came(&self, operation: &Arc<Operation>, state: &OperationState, action: Option<&PreparedAction>) {
        (**self).came(operation, state, action);
    }

    fn changed(&self, operation: &Operation, state: &OperationState) {
        (**self).changed(operation, state);
    }

    fn finished(&self, operation: &Arc<Operation>) {
        (**self).finished(operation);
    }

    fn amended(&self, operation: &Arc<Operation>) {
        (**self).amended(operation);
    }
}

/// Numbers finished operations in the order of their ends. A number is the time in microseconds
/// since 1970, or one more than the last where that is not less: so it grows from one run of the
/// node to the next even if the last one could not be written down. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Sequence(Arc<AtomicU64>);

impl Sequence {
    /// Goes on after `last`.
    pub fn after(last: u64) -> Self {
        Self(Arc::new(AtomicU64::new(last)))
    }

    /// The number of what is over at `now`.
    pub fn next(&self, now: SystemTime) -> u64 {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let time = u64::try_from(since.as_micros()).unwrap_or(0);
        let number = |last: u64| time.max(last.saturating_add(1));
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(number(last)))
            .map_or(time, number)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn numbers_grow_whatever_the_clock_does() {
        let sequence = Sequence::after(5_000_000);
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(sequence.next(at(1)), 5_000_001);
        assert_eq!(sequence.next(at(9)), 9_000_000);
        assert_eq!(sequence.next(at(9)), 9_000_001);
        assert_eq!(sequence.next(at(0)), 9_000_002);
    }
}
