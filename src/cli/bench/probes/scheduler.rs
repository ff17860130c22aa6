//! What it costs to decide who runs what: a large farm in virtual time, in this process.

use std::time::Duration;

use super::super::super::error::{CliError, Explain};
use super::super::figure::Figure;
use crate::execution::simulation::measure;

/// Actions that the farm has to run for each second of measuring, and at most.
const ACTIONS: f64 = 100_000.0;

/// Decides all that is left to chance.
const SEED: u64 = 1;

/// What a decision may take, and what an action may take of the memory while it waits.
const DECISION: Duration = Duration::from_micros(20);
const BYTES: f64 = 2048.0;

/// A decision, on average and at most in 99 of 100 cases; an action that waits; and how well the slots of
/// the farm were used.
pub(super) async fn figures(time: Duration) -> Result<Vec<Figure>, CliError> {
    let actions = (ACTIONS * time.as_secs_f64().min(1.0)) as usize;
    let figures = tokio::task::spawn_blocking(move || measure(actions, SEED)).await;
    let figures = figures.explain("the simulated farm failed")?;
    let (mean, most) = figures.decision;
    let (took, ideal) = figures.took;
    let latency = |name, time: Duration| Figure::latency(name, time.as_secs_f64());
    Ok(vec![
        latency("decision", mean).beside("20 µs", DECISION.as_secs_f64()),
        latency("decision-p99", most).beside("20 µs, on average", DECISION.as_secs_f64()),
        Figure::memory("queued-action", figures.bytes as f64).beside("2 KiB", BYTES),
        latency("farm-time", took).beside("no slot ever idle", ideal.as_secs_f64()),
        latency("farm-idle-slot", figures.idle)
            .beside("two round trips", 2.0 * figures.round_trip.as_secs_f64()),
    ])
}
