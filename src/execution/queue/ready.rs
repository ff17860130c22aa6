//! [`Ready`]: who is next among the runs that wait for the same kind of machine.
//!
//! What somebody waits for goes before what nobody waits for. Then priority decides. Within a
//! priority, whoever was served longest ago is next among the people; within a person, builds take
//! turns; and within a build the oldest run is first. So a run at the head of its build waits for at most
//! one run of each other build of its person, and for one of each other person for each of these, however
//! long their lines are. One exception: a machine may take one of the next few runs of a build before the
//! first, because it has the inputs; how often in a row is bounded. Whose turn it is and cannot go now is in
//! nobody's way: the next few are asked. Every step is logarithmic, or counts people.
//!
//! A run that several callers wait for stands in the line of each of them, and goes when the first
//! of these is served: it has the most urgent of its callers' ranks by construction.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::RunId;

/// How often in a row the first run of a build may be passed over.
const PATIENCE: u32 = 8;

/// Where one caller's wish puts a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// What decides first.
    pub rank: Rank,
    /// Whose build it is.
    pub person: Arc<str>,
    /// The build.
    pub build: Arc<str>,
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
    /// The ranks at which each person has lines.
    ranks: BTreeMap<Arc<str>, BTreeSet<Rank>>,
}

/// Waiting runs of one build and rank.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting<'a> {
    pub rank: Rank,
    pub person: &'a Arc<str>,
    pub build: &'a Arc<str>,
    pub count: usize,
}

/// The waiting runs of one rank: those of each person.
type Level = BTreeMap<Arc<str>, Builds>;

/// The waiting runs of one person.
#[derive(Debug, Default)]
struct Builds {
    lines: HashMap<Arc<str>, Line>,
    turns: BTreeMap<u64, Arc<str>>,
    next_turn: u64,
}

/// The waiting runs of one build.
#[derive(Debug)]
struct Line {
    turn: u64,
    runs: BTreeSet<RunId>,
    /// How often in a row the first run was passed over.
    passed: u32,
}

// === impl Ready ===

impl Ready {
    /// Puts `run` at `place`. Twice is once.
    pub(super) fn insert(&mut self, place: &Place, run: RunId) {
        let level = self.levels.entry(place.rank).or_default();
        match level.get_mut(&place.person) {
            Some(builds) => builds.insert(&place.build, run),
            None => {
                level.entry(place.person.clone()).or_default().insert(&place.build, run);
                self.ranks.entry(place.person.clone()).or_default().insert(place.rank);
            }
        }
    }

    /// Takes `run` away from `place`, if it is there.
    pub(super) fn remove(&mut self, place: &Place, run: RunId) {
        if let Some(builds) = self.builds_mut(place.rank, &place.person) {
            builds.remove(&place.build, run);
            self.tidy(place.rank, &place.person);
        }
    }

    /// Everybody who has something waiting.
    pub(super) fn people(&self) -> impl Iterator<Item = &Arc<str>> {
        self.ranks.keys()
    }

    /// Everybody who has something waiting, with the best ranks of it, `most` at most of each.
    pub(super) fn ranks(&self, most: usize) -> impl Iterator<Item = (Rank, &Arc<str>)> {
        self.ranks
            .iter()
            .flat_map(move |(person, ranks)| ranks.iter().take(most).map(move |rank| (*rank, person)))
    }

    /// The builds of a person, by whose turn it is.
    pub(super) fn builds(&self, rank: Rank, person: &str) -> impl Iterator<Item = &Arc<str>> {
        self.builds_of(rank, person).into_iter().flat_map(|builds| builds.turns.values())
    }

    /// The first runs of a build, `most` at most; only the very first when that was passed over often
    /// enough.
    pub(super) fn candidates(
        &self,
        rank: Rank,
        person: &str,
        build: &str,
        most: usize,
    ) -> impl Iterator<Item = RunId> {
        let line = self.builds_of(rank, person).and_then(|builds| builds.lines.get(build));
        let most = line.map_or(0, |line| if line.passed >= PATIENCE { 1 } else { most });
        line.into_iter().flat_map(move |line| line.runs.iter().take(most).copied())
    }

    /// Takes `run` out of the line of `build`, and sends that build to the back. The run may still stand
    /// elsewhere.
    pub(super) fn serve(&mut self, rank: Rank, person: &Arc<str>, build: &Arc<str>, run: RunId) {
        if let Some(builds) = self.builds_mut(rank, person) {
            builds.serve(build, run);
            self.tidy(rank, person);
        }
    }

    /// All runs, each once.
    pub(super) fn runs(&self) -> BTreeSet<RunId> {
        self.levels.values().flat_map(BTreeMap::values).flat_map(Builds::runs).collect()
    }

    /// Every line, the most urgent first. A run that stands in several lines counts for each.
    pub(super) fn lines(&self) -> impl Iterator<Item = Waiting<'_>> {
        self.levels.iter().flat_map(|(rank, level)| {
            level.iter().flat_map(|(person, builds)| {
                builds.lines.iter().map(|(build, line)| {
                    let count = line.runs.len();
                    Waiting { rank: *rank, person, build, count }
                })
            })
        })
    }

    /// Runs that go before `run`, which stands at `place`: those of better ranks, and those of the same.
    /// `is_sooner` tells of a person who goes before that of `place` when both wait.
    pub(super) fn ahead_of(
        &self,
        place: &Place,
        run: RunId,
        is_sooner: impl Fn(&Arc<str>) -> bool,
    ) -> (usize, usize) {
        let (better, _) = self.count(place.rank);
        let Some(level) = self.levels.get(&place.rank) else { return (better, 0) };
        let own = level.get(&place.person).map_or(0, |builds| builds.ahead_of(&place.build, run));
        let others = level.iter().filter(|(person, _)| **person != place.person);
        let among = others.map(|(person, builds)| {
            let turns = own + usize::from(is_sooner(person));
            turns.min(builds.len())
        });
        (better, own + among.sum::<usize>())
    }

    /// Runs of better ranks than `rank`, and those of just that rank. One that stands in several lines
    /// counts for each.
    pub(super) fn count(&self, rank: Rank) -> (usize, usize) {
        let length = |level: &Level| level.values().map(Builds::len).sum::<usize>();
        let better = self.levels.range(..rank).map(|(_, level)| length(level)).sum();
        (better, self.levels.get(&rank).map_or(0, length))
    }

    /// The number of runs of a person that somebody waits for, counted up to `limit`.
    pub(super) fn waited_for(&self, person: &str, limit: usize) -> usize {
        let waited_for = self.levels.iter().take_while(|(rank, _)| !rank.alone);
        let builds = waited_for.filter_map(|(_, level)| level.get(person));
        let mut seen = BTreeSet::new();
        for run in builds.flat_map(Builds::runs) {
            if seen.len() >= limit {
                break;
            }
            seen.insert(run);
        }
        seen.len()
    }

    /// Whether anything of a build waits that somebody waits for.
    pub(super) fn waits(&self, person: &str, build: &str) -> bool {
        let waited_for = self.levels.iter().take_while(|(rank, _)| !rank.alone);
        let mut builds = waited_for.filter_map(|(_, level)| level.get(person));
        builds.any(|builds| builds.lines.contains_key(build))
    }

    fn builds_of(&self, rank: Rank, person: &str) -> Option<&Builds> {
        self.levels.get(&rank)?.get(person)
    }

    fn builds_mut(&mut self, rank: Rank, person: &str) -> Option<&mut Builds> {
        self.levels.get_mut(&rank)?.get_mut(person)
    }

    /// Forgets who has nothing waiting any more.
    fn tidy(&mut self, rank: Rank, person: &Arc<str>) {
        let Some(level) = self.levels.get_mut(&rank) else { return };
        if level.get(person).is_some_and(|builds| !builds.lines.is_empty()) {
            return;
        }
        level.remove(person);
        if level.is_empty() {
            self.levels.remove(&rank);
        }
        let Some(ranks) = self.ranks.get_mut(person) else { return };
        ranks.remove(&rank);
        if ranks.is_empty() {
            self.ranks.remove(person);
        }
    }
}

// === impl Builds ===

impl Builds {
    /// All runs, each once for every line it stands in.
    fn runs(&self) -> impl Iterator<Item = RunId> {
        self.lines.values().flat_map(|line| line.runs.iter().copied())
    }

    /// The length of all lines together.
    fn len(&self) -> usize {
        self.lines.values().map(|line| line.runs.len()).sum()
    }

    /// Runs that go before `run` of `build`: those before it in its own line, and for each of its
    /// turns one of every other line, and one more of those whose turn is sooner.
    fn ahead_of(&self, build: &Arc<str>, run: RunId) -> usize {
        let Some(own) = self.lines.get(build) else { return 0 };
        let position = own.runs.range(..run).count();
        let others = self.lines.iter().filter(|(name, _)| *name != build).map(|(_, line)| {
            let turns = position + usize::from(line.turn < own.turn);
            turns.min(line.runs.len())
        });
        position + others.sum::<usize>()
    }

    fn insert(&mut self, build: &Arc<str>, run: RunId) {
        if let Some(line) = self.lines.get_mut(build) {
            line.runs.insert(run);
            return;
        }
        let turn = self.take_turn(build);
        self.lines.insert(build.clone(), Line { turn, runs: BTreeSet::from([run]), passed: 0 });
    }

    fn remove(&mut self, build: &Arc<str>, run: RunId) {
        let Some(line) = self.lines.get_mut(build) else { return };
        line.runs.remove(&run);
        if line.runs.is_empty() {
            self.turns.remove(&line.turn);
            self.lines.remove(build);
        }
    }

    fn serve(&mut self, build: &Arc<str>, run: RunId) {
        let next_turn = self.next_turn;
        let Some(line) = self.lines.get_mut(build) else { return };
        self.turns.remove(&std::mem::replace(&mut line.turn, next_turn));
        line.passed = if line.runs.first() == Some(&run) { 0 } else { line.passed + 1 };
        self.take_turn(build);
        self.remove(build, run);
    }

    /// The last of all turns goes to `build`.
    fn take_turn(&mut self, build: &Arc<str>) -> u64 {
        let turn = self.next_turn;
        self.next_turn += 1;
        self.turns.insert(turn, build.clone());
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

    fn place(priority: i32, build: &str) -> Place {
        Place { rank: rank(priority), person: "ann".into(), build: build.into() }
    }

    /// Serves the first of the only person.
    fn serve(ready: &mut Ready) -> Option<RunId> {
        let (rank, person) = ready.ranks(1).next().map(|(rank, person)| (rank, person.clone()))?;
        let build = ready.builds(rank, &person).next()?.clone();
        let run = ready.candidates(rank, &person, &build, 1).next()?;
        ready.serve(rank, &person, &build, run);
        Some(run)
    }

    fn drain(ready: &mut Ready) -> Vec<u64> {
        std::iter::from_fn(|| serve(ready)).map(|run| run.0).collect()
    }

    #[test]
    fn lower_priorities_go_first_and_then_the_oldest() {
        let mut ready = Ready::default();
        for (run, priority) in [(1, 5), (2, 0), (3, -5), (4, 0)] {
            ready.insert(&place(priority, "a"), RunId(run));
        }
        assert_eq!(ready.ranks(1).next(), Some((rank(-5), &"ann".into())));
        assert_eq!(ready.ranks(2).nth(1), Some((rank(0), &"ann".into())));
        assert_eq!(drain(&mut ready), [3, 2, 4, 1]);
        assert!(ready.levels.is_empty() && ready.ranks.is_empty());
    }

    #[test]
    fn what_somebody_waits_for_goes_before_every_priority() {
        let mut ready = Ready::default();
        let alone = Place { rank: Rank { alone: true, priority: -1000 }, ..place(0, "a") };
        ready.insert(&alone, RunId(1));
        assert_eq!(ready.waited_for("ann", 9), 0);
        ready.insert(&place(5, "a"), RunId(2));
        ready.insert(&place(6, "b"), RunId(2));
        ready.insert(&place(7, "b"), RunId(3));
        assert_eq!((ready.waited_for("ann", 1), ready.waited_for("ann", 9)), (1, 2));
        assert_eq!(ready.waited_for("ben", 9), 0);
        ready.remove(&place(6, "b"), RunId(2));
        assert_eq!(drain(&mut ready), [2, 3, 1]);
    }

    #[test]
    fn builds_take_turns() {
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
    fn each_person_has_a_first() {
        let mut ready = Ready::default();
        ready.insert(&Place { person: "ben".into(), ..place(-1, "b") }, RunId(1));
        ready.insert(&Place { person: "ben".into(), ..place(0, "b") }, RunId(2));
        ready.insert(&place(0, "a"), RunId(3));
        let first: Vec<_> = ready.ranks(1).map(|(rank, person)| (rank.priority, &**person)).collect();
        assert_eq!(first, [(0, "ann"), (-1, "ben")]);
        ready.serve(rank(-1), &"ben".into(), &"b".into(), RunId(1));
        assert_eq!(ready.ranks(1).nth(1).map(|(rank, _)| rank.priority), Some(0));
        let ahead = |person: &str, is_sooner| {
            let place = Place { person: person.into(), ..place(0, "a") };
            ready.ahead_of(&place, RunId(3), |_| is_sooner)
        };
        assert_eq!((ahead("ann", false), ahead("ann", true)), ((0, 0), (0, 1)));
    }

    #[test]
    fn the_first_of_a_build_is_passed_over_only_so_often() {
        let mut ready = Ready::default();
        for run in 0..20 {
            ready.insert(&place(0, "a"), RunId(run));
        }
        let mut passed = 0;
        loop {
            let candidates: Vec<_> = ready.candidates(rank(0), "ann", "a", 3).collect();
            let Some(other) = candidates.get(1) else { break };
            assert_eq!((candidates[0], candidates.len()), (RunId(0), 3));
            ready.serve(rank(0), &"ann".into(), &"a".into(), *other);
            passed += 1;
        }
        assert_eq!(passed, PATIENCE);
        assert_eq!(serve(&mut ready), Some(RunId(0)));
        assert_eq!(ready.candidates(rank(0), "ann", "a", 3).count(), 3);
    }

    #[test]
    fn a_shared_run_goes_with_the_first_of_its_places() {
        let mut ready = Ready::default();
        let places = [place(0, "a"), place(-1, "b")];
        ready.insert(&places[0], RunId(1));
        ready.insert(&places[0], RunId(2));
        ready.insert(&places[1], RunId(2));
        assert_eq!(serve(&mut ready), Some(RunId(2)));
        ready.remove(&places[0], RunId(2));
        assert_eq!(drain(&mut ready), [1]);
    }

    proptest! {
        /// Between two services of one build, every other build that waits is served at most once.
        #[test]
        fn no_build_is_served_twice_while_another_waits(builds in proptest::collection::vec(0..4_u8, 1..60)) {
            let mut ready = Ready::default();
            let mut waiting = [0; 4];
            for (run, build) in builds.iter().enumerate() {
                ready.insert(&place(0, &build.to_string()), RunId(run as u64));
                waiting[usize::from(*build)] += 1;
            }
            let mut since_served = [[0; 4]; 4];
            while let Some(run) = serve(&mut ready) {
                let build = usize::from(builds[run.0 as usize]);
                waiting[build] -= 1;
                for other in 0..4 {
                    since_served[other][build] += 1;
                    prop_assert!(other == build || waiting[other] == 0 || since_served[other][build] <= 1);
                }
                since_served[build] = [0; 4];
            }
            prop_assert_eq!(waiting, [0; 4]);
        }
    }
}
