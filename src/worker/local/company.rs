//! [`Company`]: the actions of other machines that run here, and what becomes of those that are too many.
//!
//! The first to come is the last to suffer: those that came first go on, up to the number that is allowed.
//! One that stands still goes on when there is room for it again, or dies where it stands when it is
//! cancelled. One that is handed back ends at once, as if it had never been let in.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::RunningGuests;

/// All that run here.
#[derive(Debug)]
pub(super) struct Company(Mutex<State>);

#[derive(Debug)]
struct State {
    /// By the order in which they came.
    guests: BTreeMap<u64, Guest>,
    next: u64,
    /// How many may run, and what becomes of the others.
    most: usize,
    surplus: RunningGuests,
}

#[derive(Debug)]
struct Guest {
    still: watch::Sender<bool>,
    hand_back: CancellationToken,
}

/// One of them. It is gone when this is dropped.
#[derive(Debug)]
pub(super) struct Visit {
    number: u64,
    /// Whether it is to stand still.
    pub(super) still: watch::Receiver<bool>,
    /// Fires when it is to be handed back.
    pub(super) hand_back: CancellationToken,
    company: Arc<Company>,
}

// === impl Company ===

impl Company {
    /// Nobody, with room for all.
    pub(super) fn new() -> Arc<Self> {
        let state =
            State { guests: BTreeMap::new(), next: 0, most: usize::MAX, surplus: RunningGuests::default() };
        Arc::new(Self(Mutex::new(state)))
    }

    /// One more. It may have to stand still, or to be handed back, from the beginning.
    pub(super) fn arrive(self: &Arc<Self>) -> Visit {
        let (sender, still) = watch::channel(false);
        let hand_back = CancellationToken::new();
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.guests.insert(number, Guest { still: sender, hand_back: hand_back.clone() });
        state.settle();
        Visit { number, still, hand_back, company: Arc::clone(self) }
    }

    /// Lets at most `most` of them run from now on. Those beyond are treated as `surplus` says.
    pub(super) fn limit(&self, most: usize, surplus: RunningGuests) {
        let mut state = self.state();
        (state.most, state.surplus) = (most, surplus);
        state.settle();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    fn settle(&mut self) {
        for (place, guest) in self.guests.values().enumerate() {
            let is_surplus = place >= self.most;
            let is_still = is_surplus && self.surplus == RunningGuests::Freeze;
            guest.still.send_if_modified(|still| std::mem::replace(still, is_still) != is_still);
            if is_surplus && self.surplus == RunningGuests::HandBack {
                guest.hand_back.cancel();
            }
        }
    }
}

// === impl Visit ===

impl Drop for Visit {
    fn drop(&mut self) {
        let mut state = self.company.state();
        state.guests.remove(&self.number);
        state.settle();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many of these run, stand still, and are to be handed back.
    fn count(visits: &[Visit]) -> [usize; 3] {
        let back = visits.iter().filter(|visit| visit.hand_back.is_cancelled()).count();
        let still = visits.iter().filter(|visit| *visit.still.borrow()).count();
        [visits.len() - still - back, still, back]
    }

    #[test]
    fn the_first_to_come_go_on() {
        let company = Company::new();
        let mut visits: Vec<_> = (0..3).map(|_| company.arrive()).collect();
        company.limit(1, RunningGuests::Finish);
        assert_eq!(count(&visits), [3, 0, 0]);
        company.limit(1, RunningGuests::Freeze);
        assert_eq!(count(&visits), [1, 2, 0]);
        assert!(!*visits[0].still.borrow());
        visits.remove(0);
        assert_eq!(count(&visits), [1, 1, 0], "one ended, and the next goes on");
        company.limit(0, RunningGuests::Freeze);
        visits.push(company.arrive());
        assert_eq!(count(&visits), [0, 3, 0], "nor does a late one begin");
        company.limit(2, RunningGuests::HandBack);
        assert_eq!(count(&visits), [2, 0, 1]);
        assert!(visits[2].hand_back.is_cancelled());
    }

    proptest! {
        /// Whatever comes, goes and is allowed: as many stand still as are too many, and who is handed back
        /// stays so.
        #[test]
        fn as_many_as_are_allowed_and_no_more(steps in prop::collection::vec((0..4_u8, 0..6_usize), 1..60)) {
            let company = Company::new();
            let (mut visits, mut most, mut surplus) = (Vec::new(), usize::MAX, RunningGuests::Finish);
            for (kind, number) in steps {
                match kind {
                    0 => visits.push(company.arrive()),
                    1 if !visits.is_empty() => drop(visits.remove(number % visits.len())),
                    2 => {
                        (most, surplus) = (number, [RunningGuests::Finish, RunningGuests::Freeze][number % 2]);
                        company.limit(most, surplus);
                    }
                    3 => {
                        (most, surplus) = (number, RunningGuests::HandBack);
                        company.limit(most, surplus);
                    }
                    _ => {}
                }
                let beyond = visits.len().saturating_sub(most);
                let still = visits.iter().filter(|visit| *visit.still.borrow()).count();
                let back = visits.iter().skip(most).filter(|visit| visit.hand_back.is_cancelled()).count();
                prop_assert_eq!(still, if surplus == RunningGuests::Freeze { beyond } else { 0 });
                if surplus == RunningGuests::HandBack {
                    prop_assert_eq!(back, beyond);
                }
            }
        }
    }
}
