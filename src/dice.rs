//! [`Dice`]: chance that a seed decides, for whatever must happen again as it did: simulations, loads.
//!
//! It is no source of secrets.

use std::cell::Cell;
use std::time::Duration;

/// Numbers that look random (SplitMix64, Steele and others 2014), the same for the same seed.
#[derive(Clone, Debug)]
pub struct Dice(Cell<u64>);

// === impl Dice ===

impl Dice {
    /// Other numbers for another seed.
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// Any number.
    pub fn number(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which must not be 0.
    pub fn below(&self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }

    /// A number from `least` up to, but not including, `end`, which must be larger.
    pub fn between(&self, least: usize, end: usize) -> usize {
        least + self.below(end - least)
    }

    /// Whether something happens that happens once in so many times.
    pub fn one_in(&self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of `items`; `None` of none.
    pub fn pick<'a, T>(&self, items: &'a [T]) -> Option<&'a T> {
        if items.is_empty() { None } else { items.get(self.below(items.len())) }
    }

    /// A time below `end`.
    pub fn time(&self, end: Duration) -> Duration {
        end.mul_f64(self.part())
    }

    /// Times of which many are short and a few long, so long on average.
    pub fn exponential(&self, mean: Duration) -> Duration {
        mean.mul_f64(-(1.0 - self.part()).ln())
    }

    /// From 0 up to, but not including, 1.
    fn part(&self) -> f64 {
        (self.number() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Runs `test` with the seed of `FARMHAND_SIMULATION_SEED`, or with as many as `FARMHAND_SIMULATION_RUNS` says,
/// others each time, or else with the same `usual` ones. Tells the seed if it panics.
#[cfg(test)]
pub fn for_each_seed(usual: u64, test: impl Fn(u64)) {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match (number("FARMHAND_SIMULATION_SEED"), number("FARMHAND_SIMULATION_RUNS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(runs)) => {
            let first = u64::from(std::process::id()) << 20;
            first..first + runs
        }
        (None, None) => 0..usual,
    };
    for seed in seeds {
        let _told = tests::Seed(seed);
        test(seed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tells the seed if the test fails.
    pub(super) struct Seed(pub(super) u64);

    impl Drop for Seed {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the seed was {}: run again with FARMHAND_SIMULATION_SEED={}", self.0, self.0);
            }
        }
    }

    #[test]
    fn the_seed_decides() {
        let throws = |seed| {
            let dice = Dice::new(seed);
            (0..100).map(|_| dice.between(5, 1000)).collect::<Vec<_>>()
        };
        assert_eq!(throws(1), throws(1));
        assert_ne!(throws(1), throws(2));
        assert!(throws(3).iter().all(|number| (5..1000).contains(number)));
        assert_eq!(Dice::new(1).pick::<u8>(&[]), None);
    }

    #[test]
    fn times_have_the_mean_that_was_asked_for() {
        let dice = Dice::new(7);
        let sum: Duration = (0..10_000).map(|_| dice.exponential(Duration::from_millis(100))).sum();
        let mean = sum / 10_000;
        assert!((95..105).contains(&mean.as_millis()), "{mean:?}");
    }
}
