//! What may happen to a machine, done to a real node under load: killed, cut off from power, its disk
//! full, slow or damaged, its clock wrong, its limits tight. A checker that knows everything the node
//! ever acknowledged (`support::book`) then looks at what is left.
//!
//! As part of the tests each scenario runs for seconds; `just faults`, which sets
//! `FARMHAND_FAULTS=long`, runs all of them at length. A scenario prints its seed, and
//! `FARMHAND_FAULTS_SEED` repeats it. Those that need root and loop devices say so where they have to
//! be skipped.

#![expect(clippy::unwrap_used, reason = "a test that meets what it did not expect should end there")]

mod clock;
mod damage;
mod full;
mod killed;
mod limits;
mod power;
mod rebuild;
mod slow;
mod support;
