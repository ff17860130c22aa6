//! [`Pace`]: how long each machine takes to answer, and so when to ask the next one as well.
//!
//! Pure: it is told times. One that answers as fast as it usually does is never asked twice; one in twenty
//! answers takes longer than that, and then another machine is asked too (Dean and Barroso 2013).

use std::collections::HashMap;
use std::time::Duration;

use crate::peer::MachineId;

/// Answers that are remembered of each machine.
const REMEMBERED: usize = 64;

/// The next one is asked after this at the earliest, and at the latest.
const SOONEST: Duration = Duration::from_millis(2);
const LATEST: Duration = Duration::from_secs(1);

/// When it is asked while nothing is known.
const UNKNOWN: Duration = Duration::from_millis(20);

/// How much slower than the fastest a machine is before others are asked first.
const MARKEDLY: u32 = 4;

/// Machines that are remembered at most: more than a farm has.
const MACHINES: usize = 256;

/// How long machines take to answer.
#[derive(Clone, Debug, Default)]
pub struct Pace(HashMap<MachineId, Times>);

/// The latest of one machine.
#[derive(Clone, Debug)]
struct Times {
    /// Microseconds, a ring.
    recent: [u32; REMEMBERED],
    len: usize,
    next: usize,
    /// What 19 in 20 of these were not longer than.
    usual: Duration,
}

// === impl Pace ===

impl Pace {
    /// `id` began to answer after `took`, or has not for that long.
    pub fn note(&mut self, id: MachineId, took: Duration) {
        if self.0.len() >= MACHINES && !self.0.contains_key(&id) {
            self.0.clear();
        }
        let unknown = Times { recent: [0; REMEMBERED], len: 0, next: 0, usual: UNKNOWN };
        self.0.entry(id).or_insert(unknown).note(took);
    }

    /// When to ask another machine as well as `id`, which was asked: after what 19 of 20 of its answers
    /// take at most.
    pub fn patience(&self, id: MachineId) -> Duration {
        self.known(id).unwrap_or(UNKNOWN)
    }

    /// Those of `machines` that are markedly slower than the fastest of them. One that is not known is not slow.
    pub fn slow(&self, machines: &[MachineId]) -> Vec<MachineId> {
        let fastest = machines.iter().filter_map(|id| self.known(*id)).min();
        let Some(fastest) = fastest else { return Vec::new() };
        let is_slow = |id: &&MachineId| self.known(**id).is_some_and(|usual| usual > fastest * MARKEDLY);
        machines.iter().filter(is_slow).copied().collect()
    }

    fn known(&self, id: MachineId) -> Option<Duration> {
        self.0.get(&id).map(|times| times.usual.clamp(SOONEST, LATEST))
    }
}

// === impl Times ===

impl Times {
    fn note(&mut self, took: Duration) {
        self.recent[self.next] = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.next = (self.next + 1) % REMEMBERED;
        self.len = (self.len + 1).min(REMEMBERED);
        let mut known = self.recent;
        let known = &mut known[..self.len];
        let (_, usual, _) = known.select_nth_unstable((self.len * 19).div_ceil(20) - 1);
        self.usual = Duration::from_micros((*usual).into());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: MachineId = MachineId::new([1; 32]);
    const B: MachineId = MachineId::new([2; 32]);
    const C: MachineId = MachineId::new([3; 32]);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn one_in_twenty_is_asked_twice() {
        let mut pace = Pace::default();
        assert_eq!(pace.patience(A), ms(20), "nothing is known");
        for took in 1..=60 {
            pace.note(A, ms(took));
        }
        assert_eq!(pace.patience(A), ms(57));
        for _ in 0..REMEMBERED {
            pace.note(A, ms(5));
        }
        assert_eq!(pace.patience(A), ms(5), "what was long ago is forgotten");
        assert_eq!(pace.patience(B), ms(20));
    }

    #[test]
    fn others_are_asked_before_one_that_is_markedly_slower() {
        let mut pace = Pace::default();
        assert!(pace.slow(&[A, B, C]).is_empty());
        pace.note(A, ms(3));
        pace.note(B, ms(12));
        assert!(pace.slow(&[A, B, C]).is_empty());
        pace.note(B, ms(13));
        assert_eq!(pace.slow(&[A, B, C]), [B]);
        assert!(pace.slow(&[B, C]).is_empty(), "of these it is the fastest");
    }

    #[test]
    fn machines_that_are_remembered_are_bounded() {
        let mut pace = Pace::default();
        for number in 0..=u16::try_from(MACHINES).unwrap() {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&number.to_le_bytes());
            pace.note(MachineId::new(id), ms(1));
        }
        assert!(pace.0.len() <= MACHINES);
    }

    proptest! {
        #[test]
        fn it_is_what_19_in_20_were_not_longer_than(took in prop::collection::vec(0_u64..2_000_000, 1..200)) {
            let mut pace = Pace::default();
            for took in &took {
                pace.note(A, Duration::from_micros(*took));
            }
            let latest = &took[took.len().saturating_sub(REMEMBERED)..];
            let patience = pace.patience(A);
            prop_assert!((SOONEST..=LATEST).contains(&patience));
            let longer = latest.iter().filter(|took| Duration::from_micros(**took) > patience).count();
            prop_assert!(longer * 20 <= latest.len() || patience == LATEST);
        }
    }
}
