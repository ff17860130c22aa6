//! [`Changes`]: counts how often the machines there is a link to became others.

use std::sync::{Arc, Mutex, PoisonError};

use crate::replication::roster::Roster;

/// Who was linked last, and how often that changed.
#[derive(Debug, Default)]
pub(super) struct Changes(Mutex<(Option<Arc<Roster>>, u64)>);

// === impl Changes ===

impl Changes {
    /// Looks at the machines as they are; the number of changes so far.
    pub(super) fn observe(&self, roster: &Arc<Roster>) -> u64 {
        let mut changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, count) = &mut *changes;
        match last {
            Some(last) if Arc::ptr_eq(last, roster) => return *count,
            Some(last) if linked(last).eq(linked(roster)) => {}
            Some(_) => *count += 1,
            None => {}
        }
        *last = Some(Arc::clone(roster));
        *count
    }
}

fn linked(roster: &Roster) -> impl Iterator<Item = (crate::peer::MachineId, u64)> + '_ {
    roster.others().map(|machine| (machine.id, machine.boot_epoch))
}
