//! How load is made and counted: calls in flight, rounds of prepared calls, samples.

use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use tokio::time::Instant;

use super::super::error::CliError;

/// Latencies, in seconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<f64>);

// === impl Samples ===

impl Samples {
    pub(super) fn add(&mut self, sample: Duration) {
        self.0.push(sample.as_secs_f64());
    }

    /// All of them together.
    pub(super) fn sum(&self) -> f64 {
        self.0.iter().sum()
    }

    /// The median, in seconds.
    pub(super) fn p50(&self) -> f64 {
        self.percentile(50)
    }

    /// The 99th percentile, in seconds.
    pub(super) fn p99(&self) -> f64 {
        self.percentile(99)
    }

    /// The smallest sample that `percent` of all do not exceed; 0 of none.
    fn percentile(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let rank = (sorted.len() * percent).div_ceil(100).max(1);
        sorted.get(rank - 1).copied().unwrap_or(0.0)
    }
}

/// Makes calls for `time`, `in_flight` at once, each of them at least once. Returns how many succeeded
/// a second; the first failure ends it.
pub(super) async fn call_rate<F, E>(
    in_flight: usize,
    time: Duration,
    call: impl FnMut() -> F,
) -> Result<f64, E>
where
    F: Future<Output = Result<(), E>>,
{
    let start = Instant::now();
    let mut made = 0;
    let calls = stream::repeat_with(call).take_while(|_| {
        made += 1;
        std::future::ready(made <= in_flight || start.elapsed() < time)
    });
    let done = finish(in_flight, calls).await?;
    Ok(f64::from(done) / start.elapsed().as_secs_f64())
}

/// Makes these calls, `in_flight` at once. Returns the time from the first to the last.
pub(super) async fn time_all<F, E>(in_flight: usize, calls: impl Iterator<Item = F>) -> Result<Duration, E>
where
    F: Future<Output = Result<(), E>>,
{
    let start = Instant::now();
    finish(in_flight, stream::iter(calls)).await?;
    Ok(start.elapsed())
}

/// Repeats `round` until its rounds took `time` together. A round prepares what it needs, and returns
/// how much it did then and how long that took. Returns how much was done a second.
pub(super) async fn round_rate(
    time: Duration,
    mut round: impl AsyncFnMut() -> Result<(usize, Duration), CliError>,
) -> Result<f64, CliError> {
    let mut spent = Duration::ZERO;
    let mut done = 0;
    while spent < time {
        let (more, took) = round().await?;
        done += more;
        spent += took;
    }
    Ok(done as f64 / spent.as_secs_f64())
}

async fn finish<F, E>(in_flight: usize, calls: impl futures_util::Stream<Item = F>) -> Result<u32, E>
where
    F: Future<Output = Result<(), E>>,
{
    let mut answers = std::pin::pin!(calls.buffer_unordered(in_flight));
    let mut done = 0;
    while let Some(answer) = answers.next().await {
        answer?;
        done += 1;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn samples(values: impl IntoIterator<Item = u64>) -> Samples {
        let mut samples = Samples::default();
        values.into_iter().for_each(|seconds| samples.add(Duration::from_secs(seconds)));
        samples
    }

    #[test]
    fn percentiles_are_of_the_sorted_samples() {
        let hundred = samples((1..=100).rev());
        assert_eq!((hundred.p50(), hundred.p99(), hundred.sum()), (50.0, 99.0, 5050.0));
        let one = samples([7]);
        assert_eq!((one.p50(), one.p99()), (7.0, 7.0));
        assert_eq!(Samples::default().p99(), 0.0);
    }

    #[tokio::test]
    async fn a_failed_call_ends_the_measurement() {
        let call = || std::future::ready(Err(CliError::new("no")));
        assert_eq!(call_rate(8, Duration::from_secs(9), call).await, Err(CliError::new("no")));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_overlap() {
        let (running, most) = (Cell::new(0), Cell::new(0));
        let call = || async {
            running.set(running.get() + 1);
            most.set(most.get().max(running.get()));
            tokio::time::sleep(Duration::from_millis(100)).await;
            running.set(running.get() - 1);
            Ok::<_, CliError>(())
        };
        let rate = call_rate(3, Duration::from_secs(1), call).await.unwrap();
        assert_eq!(most.get(), 3);
        assert!((29.0..31.0).contains(&rate), "{rate}");
        let took = time_all(2, (0..4).map(|_| call())).await.unwrap();
        assert!((200..220).contains(&took.as_millis()), "{took:?}");
    }

    #[tokio::test]
    async fn preparing_is_not_counted() {
        let rate = round_rate(Duration::from_secs(2), async || Ok((10, Duration::from_secs(1)))).await;
        assert_eq!(rate, Ok(10.0));
    }
}
