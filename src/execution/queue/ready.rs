//! [`Ready`]: who is next among the runs that wait for the same kind of machine.
//!
//! What somebody waits for goes before what nobody waits for. Then priority decides. Within a
//! priority, the *shares* (one build each, usually) take turns, and within a share the oldest run is
//! first. So a run at the head of its share waits for at most
//! one run of each other share, however long their lines are. Every step is logarithmic.
//!
//! A run that several callers wait for stands in the line of each of them, and goes when the first
//! of these is served: it has the most urgent of its callers' ranks by construction.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::RunId;

/// Where one caller's wish puts a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// What decides first.
    pub rank: Rank,
    /// What turns are taken by.
    pub share: Arc<str>,
}

/// How urgent a wish is: lower is sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Nobody waits for the outcome.
    pub alone: bool,
    /// The caller's number.
    pub priority: i32,
}

/// The waiting runs of one class.
#[derive(Debug, Default)]
pub(super) struct Ready {
    levels: BTreeMap<Rank, Level>,
}

/// The waiting runs of one rank.
#[derive(Debug, Default)]
struct Level {
    lines: HashMap<Arc<str>, Line>,
    turns: BTreeMap<u64, Arc<str>>,
    next_turn: u64,
}

/// The waiting runs of one share.
#[derive(Debug)]
struct Line {
    turn: u64,
    runs: BTreeSet<RunId>,
}

impl Ready {
    /// Puts `run` at `place`. Twice is once.
    pub(super) fn insert(&mut self, place: &Place, run: RunId) {
        self.levels.entry(place.rank).or_default().insert(&place.share, run);
    }

    /// Takes `run` away from `place`, if it is there.
    pub(super) fn remove(&mut self, place: &Place, run: RunId) {
        let Some(level) = self.levels.get_mut(&place.rank) else { return };
        level.remove(&place.share, run);
        if level.lines.is_empty() {
            self.levels.remove(&place.rank);
        }
    }

    /// Rank and id of the run that is next.
    pub(super) fn first(&self) -> Option<(Rank, RunId)> {
        let (rank, level) = self.levels.first_key_value()?;
        Some((*rank, level.first()?))
    }

    /// Takes the run that is next out of the line that was served, and sends that share to the
    /// back. The run may still stand elsewhere.
    pub(super) fn serve(&mut self) -> Option<RunId> {
        let (&rank, level) = self.levels.first_key_value()?;
        let run = level.first()?;
        let level = self.levels.get_mut(&rank)?;
        level.serve(run);
        if level.lines.is_empty() {
            self.levels.remove(&rank);
        }
        Some(run)
    }

    /// All runs, each once.
    pub(super) fn runs(&self) -> BTreeSet<RunId> {
        self.levels.values().flat_map(Level::runs).collect()
    }

    /// Runs that go before `run`, which stands at `place`: those of better ranks, and those of the same.
    pub(super) fn ahead_of(&self, place: &Place, run: RunId) -> (usize, usize) {
        let (better, _) = self.count(place.rank);
        (better, self.levels.get(&place.rank).map_or(0, |level| level.ahead_of(&place.share, run)))
    }

    /// Runs of better ranks than `rank`, and those of just that rank. One that stands in several lines
    /// counts for each.
    pub(super) fn count(&self, rank: Rank) -> (usize, usize) {
        let better = self.levels.range(..rank).map(|(_, level)| level.len()).sum();
        (better, self.levels.get(&rank).map_or(0, Level::len))
    }

    /// The number of runs somebody waits for, counted up to `limit`.
    pub(super) fn waited_for(&self, limit: usize) -> usize {
        let waited_for = self.levels.iter().take_while(|(rank, _)| !rank.alone);
        let mut seen = BTreeSet::new();
        for run in waited_for.flat_map(|(_, level)| level.runs()) {
            if seen.len() >= limit {
                break;
            }
            seen.insert(run);
        }
        seen.len()
    }
}

impl Level {
    fn first(&self) -> Option<RunId> {
        let (_, share) = self.turns.first_key_value()?;
        self.lines.get(share)?.runs.first().copied()
    }

    /// All runs, each once for every line it stands in.
    fn runs(&self) -> impl Iterator<Item = RunId> {
        self.lines.values().flat_map(|line| line.runs.iter().copied())
    }

    /// The length of all lines together.
    fn len(&self) -> usize {
        self.lines.values().map(|line| line.runs.len()).sum()
    }

    /// Runs that go before `run` of `share`: those before it in its own line, and for each of its
    /// turns one of every other line, and one more of those whose turn is sooner.
    fn ahead_of(&self, share: &Arc<str>, run: RunId) -> usize {
        let Some(own) = self.lines.get(share) else { return 0 };
        let position = own.runs.range(..run).count();
        let others = self.lines.iter().filter(|(name, _)| *name != share).map(|(_, line)| {
            let turns = position + usize::from(line.turn < own.turn);
            turns.min(line.runs.len())
        });
        position + others.sum::<usize>()
    }

    fn insert(&mut self, share: &Arc<str>, run: RunId) {
        if let Some(line) = self.lines.get_mut(share) {
            line.runs.insert(run);
            return;
        }
        let turn = self.take_turn(share);
        self.lines.insert(share.clone(), Line { turn, runs: BTreeSet::from([run]) });
    }

    fn remove(&mut self, share: &Arc<str>, run: RunId) {
        let Some(line) = self.lines.get_mut(share) else { return };
        line.runs.remove(&run);
        if line.runs.is_empty() {
            self.turns.remove(&line.turn);
            self.lines.remove(share);
        }
    }

    fn serve(&mut self, run: RunId) {
        let Some((_, share)) = self.turns.pop_first() else { return };
        let turn = self.take_turn(&share);
        if let Some(line) = self.lines.get_mut(&share) {
            line.turn = turn;
        }
        self.remove(&share, run);
    }

    /// The last of all turns goes to `share`.
    fn take_turn(&mut self, share: &Arc<str>) -> u64 {
        let turn = self.next_turn;
        self.next_turn += 1;
        self.turns.insert(turn, share.clone());
        turn
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rank(priority: i32) -> Rank {
        Rank { alone: false, priority }
    }

    fn place(priority: i32, share: &str) -> Place {
        Place { rank: rank(priority), share: share.into() }
    }

    fn drain(ready: &mut Ready) -> Vec<u64> {
        std::iter::from_fn(|| ready.serve()).map(|run| run.0).collect()
    }

    #[test]
    fn lower_priorities_go_first_and_then_the_oldest() {
        let mut ready = Ready::default();
        for (run, priority) in [(1, 5), (2, 0), (3, -5), (4, 0)] {
            ready.insert(&place(priority, "a"), RunId(run));
        }
        assert_eq!(ready.first(), Some((rank(-5), RunId(3))));
        assert_eq!(drain(&mut ready), [3, 2, 4, 1]);
        assert!(ready.levels.is_empty());
    }

    #[test]
    fn what_somebody_waits_for_goes_before_every_priority() {
        let mut ready = Ready::default();
        let alone = Place { rank: Rank { alone: true, priority: -1000 }, share: "a".into() };
        ready.insert(&alone, RunId(1));
        assert_eq!(ready.waited_for(9), 0);
        ready.insert(&place(5, "a"), RunId(2));
        ready.insert(&place(6, "b"), RunId(2));
        ready.insert(&place(7, "b"), RunId(3));
        assert_eq!((ready.waited_for(1), ready.waited_for(9)), (1, 2));
        ready.remove(&place(6, "b"), RunId(2));
        assert_eq!(drain(&mut ready), [2, 3, 1]);
    }

    #[test]
    fn shares_take_turns() {
        let mut ready = Ready::default();
        for run in 0..5 {
            ready.insert(&place(0, "a"), RunId(run));
        }
        ready.insert(&place(0, "b"), RunId(10));
        ready.insert(&place(0, "b"), RunId(11));
        ready.insert(&place(0, "c"), RunId(20));
        assert_eq!(drain(&mut ready), [0, 10, 20, 1, 11, 2, 3, 4]);
    }

    #[test]
    fn a_shared_run_goes_with_the_first_of_its_places() {
        let mut ready = Ready::default();
        let places = [place(0, "a"), place(-1, "b")];
        ready.insert(&places[0], RunId(1));
        ready.insert(&places[0], RunId(2));
        ready.insert(&places[1], RunId(2));
        assert_eq!(ready.serve(), Some(RunId(2)));
        ready.remove(&places[0], RunId(2));
        assert_eq!(drain(&mut ready), [1]);
    }

    proptest! {
        /// Between two services of one share, every other share that waits is served at most once.
        #[test]
        fn no_share_is_served_twice_while_another_waits(shares in proptest::collection::vec(0..4_u8, 1..60)) {
            let mut ready = Ready::default();
            let mut waiting = [0; 4];
            for (run, share) in shares.iter().enumerate() {
                ready.insert(&place(0, &share.to_string()), RunId(run as u64));
                waiting[usize::from(*share)] += 1;
            }
            let mut since_served = [[0; 4]; 4];
            while let Some(run) = ready.serve() {
                let share = usize::from(shares[run.0 as usize]);
                waiting[share] -= 1;
                for other in 0..4 {
                    since_served[other][share] += 1;
                    prop_assert!(other == share || waiting[other] == 0 || since_served[other][share] <= 1);
                }
                since_served[share] = [0; 4];
            }
            prop_assert_eq!(waiting, [0; 4]);
        }
    }
}
