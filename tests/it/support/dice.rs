//! [`Dice`]: randomness that can be had again.

use std::time::{Duration, SystemTime};

/// Numbers that follow from a seed.
#[derive(Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice whose seed an environment variable names, or the time of day; the seed is printed.
    pub(crate) fn seeded(scenario: &str, variable: &str) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let given = std::env::var(variable).ok().map(|seed| seed.parse().unwrap());
        let seed = given.unwrap_or(since.as_nanos() as u64);
        println!("{scenario}: {variable}={seed}");
        Self(seed)
    }

    /// Dice that follow from a number alone.
    pub(crate) fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// Others that follow from these and a number.
    pub(crate) fn fork(&self, number: u64) -> Self {
        let mut dice = Self(self.0 ^ number.wrapping_mul(0xd605_1cd4_1a8f_7e2b));
        dice.roll();
        dice
    }

    /// The next number (splitmix64).
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.roll() % end.max(1)
    }

    /// A time between two, in milliseconds.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from))
    }
}
