//! [`Inbox`]: what the thread of the history is told, bounded, and without waking it for each note.
//!
//! The first note rouses the thread, which then lets a second's worth of them come together; so what
//! ends costs its way a push, and an idle node nothing. Who wants to see everything at once says so.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Notes kept for the thread.
const LIMIT: usize = 8192;

/// Notes that are worth its while at once.
const MANY: usize = 1024;

/// Longest time a note waits for others.
const TOGETHER: Duration = Duration::from_secs(1);

/// Notes for a thread.
pub(super) struct Inbox<T> {
    state: Mutex<State<T>>,
    bell: Condvar,
}

struct State<T> {
    notes: Vec<T>,
    /// Somebody waits for them to be taken.
    is_urgent: bool,
    is_closed: bool,
}

/// What the thread is handed.
pub(super) struct Taken<T> {
    /// In the order they came.
    pub(super) notes: Vec<T>,
    /// Whether they have been together for long enough.
    pub(super) is_due: bool,
    /// Whether no others will come.
    pub(super) is_closed: bool,
}

impl<T> Inbox<T> {
    pub(super) fn new() -> Self {
        let state = State { notes: Vec::new(), is_urgent: false, is_closed: false };
        Self { state: Mutex::new(state), bell: Condvar::new() }
    }

    /// Leaves a note; gives it back where there is no room, or nobody to read it.
    pub(super) fn put(&self, note: T) -> Result<(), T> {
        let mut state = self.state();
        if state.is_closed || state.notes.len() >= LIMIT {
            return Err(note);
        }
        state.notes.push(note);
        let count = state.notes.len();
        drop(state);
        if count == 1 || count == MANY {
            self.bell.notify_one();
        }
        Ok(())
    }

    /// Has all notes taken now.
    pub(super) fn hurry(&self) {
        self.state().is_urgent = true;
        self.bell.notify_one();
    }

    /// Lets no more notes in.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.bell.notify_one();
    }

    /// Waits for notes, or until `due`.
    pub(super) fn take(&self, due: Option<Instant>) -> Taken<T> {
        let mut state = self.state();
        let mut first = None;
        loop {
            let now = Instant::now();
            if first.is_none() && !state.notes.is_empty() {
                first = Some(now);
            }
            let until = [due, first.map(|first| first + TOGETHER)].into_iter().flatten().min();
            let is_due = until.is_some_and(|until| now >= until) || state.notes.len() >= MANY;
            if is_due || state.is_urgent || state.is_closed {
                state.is_urgent = false;
                let (notes, is_closed) = (std::mem::take(&mut state.notes), state.is_closed);
                return Taken { notes, is_due, is_closed };
            }
            state = match until {
                None => self.bell.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let waited = self.bell.wait_timeout(state, until.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn notes_are_bounded_and_come_in_their_order() {
        let inbox = Inbox::new();
        assert!((0..LIMIT).all(|n| inbox.put(n).is_ok()));
        assert_eq!(inbox.put(7), Err(7));
        let taken = inbox.take(None);
        assert!(taken.notes.into_iter().eq(0..LIMIT) && taken.is_due && !taken.is_closed);
        inbox.close();
        assert_eq!(inbox.put(1), Err(1));
        let taken = inbox.take(None);
        assert!(taken.notes.is_empty() && taken.is_closed);
    }

    #[test]
    fn a_reader_in_a_hurry_gets_what_there_is() {
        let inbox = Arc::new(Inbox::new());
        let reader = Arc::clone(&inbox);
        let thread = std::thread::spawn(move || {
            let mut all = Vec::new();
            loop {
                let taken = reader.take(None);
                all.extend(taken.notes);
                if taken.is_closed {
                    return all;
                }
            }
        });
        for n in 0..100 {
            inbox.put(n).unwrap();
            inbox.hurry();
        }
        inbox.close();
        assert!(thread.join().unwrap().into_iter().eq(0..100));
    }

    #[test]
    fn what_is_due_does_not_wait_for_notes() {
        let inbox = Inbox::<()>::new();
        assert!(inbox.take(Some(Instant::now())).is_due);
    }
}
