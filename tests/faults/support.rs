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
#[path = "../it/support/dice.rs"]
mod dice;

use std::time::Duration;

pub(crate) use action::ActionBuilder;
pub(crate) use book::Book;
pub(crate) use client::Client;
pub(crate) use dice::Dice;
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

impl Dice {
    /// Dice for one scenario; the seed is printed.
    pub(crate) fn new(scenario: &str) -> Self {
        Self::seeded(scenario, "FARMHAND_FAULTS_SEED")
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
