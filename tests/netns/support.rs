//! What tests of a farm share with those of a single node.

#[path = "../it/support/action.rs"]
#[expect(dead_code, reason = "tests of a single node use more of it")]
mod action;
#[path = "../it/support/client.rs"]
#[expect(dead_code, reason = "tests of a single node use more of it")]
mod client;
#[path = "../it/support/dice.rs"]
mod dice;

pub(crate) use action::{ActionBuilder, Outcome, finish};
pub(crate) use client::Client;
pub(crate) use dice::Dice;

/// How often something is done whose outcome is a matter of chance: `FARMHAND_RUNS`, or this often.
pub(crate) fn runs(usual: u64) -> u64 {
    std::env::var("FARMHAND_RUNS").map_or(usual, |runs| runs.parse().unwrap())
}
