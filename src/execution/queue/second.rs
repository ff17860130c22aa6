//! Who gets a second attempt, in a slot that nobody else wants.
//!
//! - A run that was sent ahead of its slot and has not begun, when another machine has a slot at once. The
//!   attempt that waits is stopped.
//! - A *straggler*: a run that takes much longer than its like, when nothing of its build waits any
//!   more. Something may be wrong with its machine, and the whole build waits for it. Both attempts go on
//!   until one has a response. Never one that must not be run twice at once, because its result is not
//!   to be shared.

use std::collections::BTreeSet;
use std::time::Duration;

use super::ahead::Kind;
use super::{AttemptId, Phase, Queue};

/// Times its usual run time after which a run takes too long.
const PATIENCE: u32 = 2;

/// Nothing shorter than this takes too long.
const LEAST: Duration = Duration::from_secs(2);

impl Queue {
    /// Uses slots that are free although everything that waits could have had them.
    pub(super) fn use_spare_slots(&mut self) {
        if (self.ahead.is_empty() && self.stragglers.is_empty()) || !self.pool.has_free_slot() {
            return;
        }
        self.call_back();
        self.copy_stragglers();
    }

    /// Gives runs a slot elsewhere that wait for theirs where they were sent; the oldest first.
    fn call_back(&mut self) {
        let groups = self.ahead.groups().map(|((class, person, _), _)| (*class, person.clone()));
        let mut served: BTreeSet<_> = groups.collect();
        served.retain(|(class, person)| self.pool.has_slot_for(*class, person));
        let mut in_vain = BTreeSet::new();
        while self.pool.has_free_slot() && !served.is_empty() {
            let may_go =
                |kind: &Kind| served.contains(&(kind.class, kind.person.clone())) && !in_vain.contains(kind);
            let Some((kind, id)) = self.ahead.oldest(may_go) else { return };
            match self.assign_again(id) {
                Some(other) => {
                    self.stop(id);
                    self.show(other);
                }
                None => {
                    in_vain.insert(kind);
                }
            }
        }
    }

    fn copy_stragglers(&mut self) {
        for id in self.stragglers.clone() {
            if !self.is_straggler(id) || self.assign_again(id).is_some() {
                self.stragglers.remove(&id);
            }
        }
    }

    /// Looks for runs that take too long.
    pub(super) fn find_stragglers(&mut self) {
        if !self.second_attempts {
            return;
        }
        let found: BTreeSet<_> = self.attempts.keys().copied().filter(|id| self.is_straggler(*id)).collect();
        if found != self.stragglers {
            self.stragglers = found;
            self.pool.note_change();
        }
    }

    fn is_straggler(&self, id: AttemptId) -> bool {
        let (Some(attempt), Some(run)) = (self.attempts.get(&id), self.runs.get(&id.run)) else {
            return false;
        };
        let is_wanted = matches!(run.phase, Phase::Executing) && self.orphan_since(run).is_none();
        let may_be_copied = is_wanted && !run.action.do_not_cache;
        if !may_be_copied
            || attempt.is_ahead
            || !attempt.has_slot()
            || attempt.is_stopping
            || self.attempts_of(id.run).count() > 1
        {
            return false;
        }
        let Some(expected) = self.placement.expected(run.like, &attempt.worker) else { return false };
        let took = self.now.instant.saturating_duration_since(attempt.began_at());
        took > LEAST.max(expected * PATIENCE) && !self.pool.waits(&attempt.person, &attempt.build)
    }
}
