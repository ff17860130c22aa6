//! [`RunTimes`]: how long commands ran, and so how long the next of their like will.
//!
//! A mean in which later runs weigh more, for each target and mnemonic, and for each mnemonic alone. What
//! was not used for longest is forgotten: there are two halves, a full one takes the place of the other.
//! Names are kept as numbers only; two that share one would spoil an estimate and nothing else.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// Part of the mean that the latest run makes up: one of so many.
const WEIGHT: u32 = 4;

/// What was learned.
#[derive(Debug)]
pub(super) struct RunTimes {
    hasher: RandomState,
    recent: HashMap<u64, Duration>,
    older: HashMap<u64, Duration>,
    /// Entries of one half.
    half: usize,
}

// === impl RunTimes ===

impl RunTimes {
    /// Nothing yet; `kept` names are remembered at most.
    pub(super) fn new(kept: usize) -> Self {
        let (recent, older) = (HashMap::new(), HashMap::new());
        Self { hasher: RandomState::new(), recent, older, half: kept / 2 }
    }

    /// A command of that target and mnemonic ran for so long.
    pub(super) fn learn(&mut self, target: &str, mnemonic: &str, time: Duration) {
        for key in self.keys(target, mnemonic).into_iter().flatten() {
            let mean = match self.get(key) {
                Some(mean) => mean - mean / WEIGHT + time / WEIGHT,
                None => time,
            };
            self.recent.insert(key, mean);
        }
    }

    /// How long such a command will likely run.
    pub(super) fn expected(&mut self, target: &str, mnemonic: &str) -> Option<Duration> {
        let [both, alone] = self.keys(target, mnemonic);
        both.and_then(|key| self.get(key)).or_else(|| alone.and_then(|key| self.get(key)))
    }

    /// The names a run counts for; none for what has no name.
    fn keys(&self, target: &str, mnemonic: &str) -> [Option<u64>; 2] {
        let both = (!target.is_empty()).then(|| self.hasher.hash_one((target, mnemonic)));
        let alone = (!mnemonic.is_empty()).then(|| self.hasher.hash_one(mnemonic));
        [both, alone]
    }

    fn get(&mut self, key: u64) -> Option<Duration> {
        if let Some(mean) = self.recent.get(&key) {
            return Some(*mean);
        }
        if self.recent.len() >= self.half {
            self.older = std::mem::take(&mut self.recent);
        }
        let mean = self.older.remove(&key)?;
        self.recent.insert(key, mean);
        Some(mean)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_target_knows_best_and_the_mnemonic_next() {
        let mut times = RunTimes::new(100);
        times.learn("//a", "Cpp", seconds(8));
        times.learn("//b", "Cpp", seconds(4));
        assert_eq!(times.expected("//a", "Cpp"), Some(seconds(8)));
        assert_eq!(times.expected("//c", "Cpp"), Some(seconds(7)));
        assert_eq!(times.expected("//a", "Java"), None);
        times.learn("", "", seconds(1));
        assert_eq!(times.expected("", ""), None, "what has no name has no like");
    }

    #[test]
    fn later_runs_weigh_more() {
        let mut times = RunTimes::new(100);
        times.learn("", "x", seconds(100));
        for _ in 0..20 {
            times.learn("", "x", seconds(10));
        }
        let expected = times.expected("", "x").unwrap();
        assert!(expected < seconds(11) && expected >= seconds(10), "{expected:?}");
    }

    #[test]
    fn what_is_used_stays_and_the_rest_is_bounded() {
        let mut times = RunTimes::new(20);
        times.learn("//used", "", seconds(5));
        for number in 0..1000 {
            times.learn(&number.to_string(), "", seconds(1));
            assert_eq!(times.expected("//used", ""), Some(seconds(5)));
            assert!(times.recent.len() + times.older.len() <= 22);
        }
        assert_eq!(times.expected("0", ""), None);
    }
}
