//! What the scenarios share: a node that can be harmed, load for it, and the checker.

pub(crate) mod book;
pub(crate) mod disk;
pub(crate) mod load;
pub(crate) mod node;

#[allow(dead_code, reason = "shared with other tests, which use more of it")]
#[path = "../it/support/action.rs"]
pub(crate) mod action;
#[allow(dead_code, reason = "shared with other tests, which use more of it")]
#[path = "../it/support/client.rs"]
pub(crate) mod client;

use std::time::{Duration, SystemTime};

pub(crate) use action::ActionBuilder;
pub(crate) use book::Book;
pub(crate) use client::Client;
pub(crate) use disk::Disk;
pub(crate) use load::Load;
pub(crate) use node::{Node, Setup};

/// Whether scenarios run at length.
pub(crate) fn is_long() -> bool {
    std::env::var("FARMHAND_FAULTS").is_ok_and(|value| value == "long")
}

/// How often something is done: in the tests, and at length.
pub(crate) fn rounds(bounded: usize, long: usize) -> usize {
    if is_long() { long } else { bounded }
}

/// Randomness that can be had again.
#[derive(Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice for one scenario; the seed is printed.
    pub(crate) fn new(scenario: &str) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let given = std::env::var("FARMHAND_FAULTS_SEED").ok().map(|seed| seed.parse().unwrap());
        let seed = given.unwrap_or(since.as_nanos() as u64);
        println!("{scenario}: FARMHAND_FAULTS_SEED={seed}");
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

/// Asks again and again until the answer is yes. Panics with `what` after a long while.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    const PAUSE: Duration = Duration::from_millis(50);
    for _ in 0..1200 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
    panic!("{what}: not within a minute");
}
