//! What it costs to be watched: no-op actions with dashboards open, and without, in turns.

use std::time::Duration;

use farmhand_proto::client::client;
use farmhand_proto::control::{WatchRequest, WatchResponse};
use futures_util::future::try_join_all;
use tonic::Streaming;
use tonic::transport::Channel;

use super::super::super::error::CliError;
use super::super::super::remote;
use super::super::Bench;
use super::super::figure::Figure;
use super::actions::{ROUND, small_root, timed_round};

/// Watchers at once.
const WATCHERS: usize = 2;

/// Actions a second while somebody watches, beside those while nobody does.
pub(super) async fn rate(bench: &Bench) -> Result<Figure, CliError> {
    let control = bench.control.as_ref().ok_or_else(|| CliError::new("no control socket is known"))?;
    let channel = remote::connect(control).await.map_err(|error| CliError::new(error.to_string()))?;
    let root = small_root(bench).await?;
    timed_round(bench, &root).await?;
    let (mut alone, mut watched, mut rounds) = (Duration::ZERO, Duration::ZERO, 0);
    while watched < bench.time || alone < bench.time {
        alone += timed_round(bench, &root).await?;
        watched += watched_round(bench, &root, &channel).await?;
        rounds += 1;
    }
    let each_second = |time: Duration| f64::from(rounds) * ROUND as f64 / time.as_secs_f64();
    Ok(Figure::rate("watched", each_second(watched)).beside("nobody watches", each_second(alone)))
}

async fn watched_round(
    bench: &Bench,
    root: &crate::digest::Digest,
    channel: &Channel,
) -> Result<Duration, CliError> {
    let mut watchers = try_join_all((0..WATCHERS).map(|_| open(channel))).await?;
    tokio::select! {
        took = timed_round(bench, root) => took,
        ended = try_join_all(watchers.iter_mut().map(read)) => {
            ended?;
            Err(CliError::new("the node stopped telling what changes"))
        }
    }
}

/// A watcher that has its snapshot.
async fn open(channel: &Channel) -> Result<Streaming<WatchResponse>, CliError> {
    let mut control = client(channel.clone());
    let mut messages = control.watch(WatchRequest::default()).await?.into_inner();
    while !messages.message().await?.is_none_or(|message| message.complete) {}
    Ok(messages)
}

/// Reads until the node ends.
async fn read(messages: &mut Streaming<WatchResponse>) -> Result<(), CliError> {
    while messages.message().await?.is_some() {}
    Ok(())
}
