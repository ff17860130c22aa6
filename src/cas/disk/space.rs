//! Room on the disk: what is used, what is promised to writers, and how the rest of the store asks
//! its maintenance thread for more.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Bytes used and promised.
pub(super) struct Space {
    used: AtomicU64,
    limit: u64,
}

/// Bytes promised to a writer; given back unless kept.
pub(super) struct Reservation {
    space: Arc<Space>,
    bytes: u64,
}

/// What the maintenance thread is asked to do.
pub(super) struct Work {
    state: Mutex<WorkState>,
    changed: Condvar,
    dirty: AtomicBool,
}

#[derive(Default)]
struct WorkState {
    todo: Todo,
    rounds: u64,
}

/// Work handed to the maintenance thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Todo {
    /// Something was written or removed.
    pub(super) dirty: bool,
    /// Somebody waits for the epoch to be closed.
    pub(super) close: bool,
    /// Bytes somebody waits for, and the number of the eviction round that is to make them.
    pub(super) room: Option<(u64, u64)>,
    /// The end of the thread.
    pub(super) stop: Option<Stop>,
}

/// How the maintenance thread ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Everything is synced and marked clean.
    Clean,
    /// At once, as if the process had been killed.
    Abrupt,
}

// === impl Space ===

impl Space {
    pub(super) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), limit })
    }

    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Promises `bytes`, if they are there.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reservation> {
        let fits = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.limit);
        self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Reservation { space: self.clone(), bytes })
    }

    /// Counts bytes that are used whether they fit or not.
    pub(super) fn add(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes as free.
    pub(super) fn remove(&self, bytes: u64) {
        let less = |used: u64| Some(used.saturating_sub(bytes));
        // The closure never refuses.
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }
}

impl Reservation {
    /// The bytes are on the disk now.
    pub(super) fn keep(mut self) {
        self.bytes = 0;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.space.remove(self.bytes);
    }
}

// === impl Work ===

impl Work {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), dirty: AtomicBool::new(false) }
    }

    /// Tells that something was written or removed. Cheap when that is known.
    pub(super) fn mark_dirty(&self) {
        if !self.dirty.swap(true, Ordering::AcqRel) {
            self.change(|state| state.todo.dirty = true);
        }
    }

    /// Asks for the epoch to be closed soon.
    pub(super) fn request_close(&self) {
        self.change(|state| state.todo.close = true);
    }

    /// Asks for `bytes` of room. Returns the number of the round that begins after this call.
    pub(super) fn request_room(&self, bytes: u64) -> u64 {
        self.change(|state| {
            let earlier = state.todo.room.map_or(0, |(bytes, _)| bytes);
            let round = state.rounds + 1;
            state.todo.room = Some((bytes.max(earlier), round));
            round
        })
    }

    /// Ends the thread.
    pub(super) fn stop(&self, how: Stop) {
        self.change(|state| {
            state.todo.stop.get_or_insert(how);
        });
    }

    /// Takes what is to be done, waiting for it up to `timeout` (for ever without one).
    pub(super) fn take(&self, timeout: Option<Duration>) -> Todo {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let idle = |state: &mut WorkState| state.todo == Todo::default();
        let mut state = match timeout {
            Some(timeout) => {
                let waited = self.changed.wait_timeout_while(state, timeout, idle);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.changed.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner),
        };
        self.take_from(&mut state)
    }

    /// Puts back that an epoch is open: it was not closed by what `take` returned.
    pub(super) fn clear_dirty(&self) {
        self.dirty.store(false, Ordering::Release);
    }

    fn take_from(&self, state: &mut WorkState) -> Todo {
        let todo = std::mem::take(&mut state.todo);
        state.rounds += u64::from(todo.room.is_some());
        // A stop stays: whoever looks next has to see it as well.
        state.todo.stop = todo.stop;
        todo
    }

    fn change<T>(&self, change: impl FnOnce(&mut WorkState) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut state);
        self.changed.notify_all();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_are_given_back_unless_kept() {
        let space = Space::new(100);
        let first = space.reserve(60).unwrap();
        assert!(space.reserve(41).is_none());
        assert!(space.reserve(u64::MAX).is_none());
        drop(first);
        space.reserve(90).unwrap().keep();
        assert_eq!(space.used(), 90);
        space.add(20);
        space.remove(200);
        assert_eq!(space.used(), 0);
    }

    #[test]
    fn a_round_begins_after_it_was_asked_for() {
        let work = Work::new();
        assert_eq!(work.request_room(5), 1);
        assert_eq!(work.request_room(3), 1);
        assert_eq!(work.take(None).room, Some((5, 1)));
        assert_eq!(work.request_room(7), 2);
        work.mark_dirty();
        work.mark_dirty();
        let todo = work.take(Some(Duration::ZERO));
        assert_eq!((todo.room, todo.dirty, todo.close), (Some((7, 2)), true, false));
        assert_eq!(work.take(Some(Duration::ZERO)), Todo::default());
        work.stop(Stop::Clean);
        work.stop(Stop::Abrupt);
        assert_eq!(work.take(None).stop, Some(Stop::Clean));
        assert_eq!(work.take(None).stop, Some(Stop::Clean));
    }
}
