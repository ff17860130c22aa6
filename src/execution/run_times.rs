//! [`RunTimes`]: how long commands ran, and so how long the next of their like will.
//!
//! A mean in which later runs weigh more, for each target and mnemonic, and for each mnemonic alone.
//! What was not used for longest is forgotten. Names are kept as numbers only; two that share one
//! would spoil an estimate and nothing else.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::time::Duration;

use crate::recent::Recent;

/// Part of the mean that the latest run makes up: one of so many.
const WEIGHT: u32 = 4;

/// What an action is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Like {
    target: Option<u64>,
    mnemonic: Option<u64>,
}

/// What was learned.
#[derive(Debug)]
pub struct RunTimes {
    means: Recent<u64, Duration>,
}

// === impl Like ===

impl Like {
    /// An action of that target and mnemonic. One without a name has no like.
    pub fn new(target: &str, mnemonic: &str) -> Self {
        Self {
            target: (!target.is_empty()).then(|| number(&(target, mnemonic))),
            mnemonic: (!mnemonic.is_empty()).then(|| number(&mnemonic)),
        }
    }

    /// The number of its mnemonic on a machine.
    pub(super) fn on(&self, machine: &str) -> Option<u64> {
        self.mnemonic.map(|mnemonic| number(&(mnemonic, machine)))
    }

    fn keys(self) -> impl Iterator<Item = u64> {
        [self.target, self.mnemonic].into_iter().flatten()
    }
}

/// A name as a number.
pub(super) fn number(name: &impl std::hash::Hash) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(name)
}

// === impl RunTimes ===

impl RunTimes {
    /// Nothing yet; `kept` names are remembered at most.
    pub fn new(kept: usize) -> Self {
        Self { means: Recent::new(kept) }
    }

    /// A command ran for so long.
    pub fn learn(&mut self, like: Like, time: Duration) {
        for key in like.keys() {
            let mean = match self.means.get(&key).copied() {
                Some(mean) => mean - mean / WEIGHT + time / WEIGHT,
                None => time,
            };
            self.means.insert(key, mean);
        }
    }

    /// How long such a command will likely run. Its name counts as used.
    pub fn expected(&mut self, like: Like) -> Option<Duration> {
        like.keys().find_map(|key| self.means.get(&key).copied())
    }

    /// The same for those who ask often: its name does not count as used.
    pub fn glance(&self, like: Like) -> Option<Duration> {
        like.keys().find_map(|key| self.means.peek(&key).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn like(target: &str, mnemonic: &str) -> Like {
        Like::new(target, mnemonic)
    }

    #[test]
    fn the_target_knows_best_and_the_mnemonic_next() {
        let mut times = RunTimes::new(100);
        times.learn(like("//a", "Cpp"), seconds(8));
        times.learn(like("//b", "Cpp"), seconds(4));
        assert_eq!(times.expected(like("//a", "Cpp")), Some(seconds(8)));
        assert_eq!(times.glance(like("//a", "Cpp")), Some(seconds(8)));
        assert_eq!(times.expected(like("//c", "Cpp")), Some(seconds(7)));
        assert_eq!(times.expected(like("//a", "Java")), None);
        times.learn(like("", ""), seconds(1));
        assert_eq!(times.expected(like("", "")), None, "what has no name has no like");
    }

    #[test]
    fn later_runs_weigh_more() {
        let mut times = RunTimes::new(100);
        times.learn(like("", "x"), seconds(100));
        for _ in 0..20 {
            times.learn(like("", "x"), seconds(10));
        }
        let expected = times.expected(like("", "x")).unwrap();
        assert!(expected < seconds(11) && expected >= seconds(10), "{expected:?}");
    }

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let mut times = RunTimes::new(20);
        times.learn(like("//used", ""), seconds(5));
        for number in 0..1000 {
            times.learn(like(&number.to_string(), ""), seconds(1));
            assert_eq!(times.expected(like("//used", "")), Some(seconds(5)));
        }
        assert_eq!(times.expected(like("0", "")), None);
    }
}
