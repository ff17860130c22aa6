//! No-op actions: what the node adds to a command. Each is new to the server, so that each is looked
//! up in vain, run, and kept in the action cache.

use std::time::Duration;

use bytes::Bytes;
use farmhand_proto::reapi;
use farmhand_proto::reapi::command::EnvironmentVariable;
use prost::Message;
use tokio::time::Instant;

use super::super::super::error::CliError;
use super::super::super::remote::Blob;
use super::super::Bench;
use super::super::figure::Figure;
use super::super::load::{Samples, round_rate, time_all};
use super::super::spawner::Spawners;
use crate::digest::Digest;

/// Actions in flight in the parallel benchmark.
const IN_FLIGHT: usize = 8;

/// Actions prepared at once.
pub(super) const ROUND: usize = 200;

/// Small files that an action has as inputs.
const INPUTS: usize = 10;

/// Median and 99th percentile, one in flight.
pub(super) async fn latency(bench: &Bench) -> Result<Vec<Figure>, CliError> {
    let root = small_root(bench).await?;
    // What has to be built once is not what this is about.
    samples(bench, root, Duration::ZERO).await?;
    let samples = samples(bench, root, bench.time).await?;
    let spawners = Spawners::start().await?;
    let alone = spawners.latencies(bench.time / 2).await;
    spawners.stop().await;
    let (alone, process) = (alone?, bench.limits.spawn()?);
    Ok(vec![
        Figure::latency("action-p50", samples.p50())
            .beside("fork+exec", process.p50())
            .beside("spawner alone", alone.p50()),
        Figure::latency("action-p99", samples.p99())
            .beside("fork+exec", process.p99())
            .beside("spawner alone", alone.p99()),
    ])
}

/// Actions a second, several in flight.
pub(super) async fn rate(bench: &Bench) -> Result<Figure, CliError> {
    let root = small_root(bench).await?;
    let rate = round_rate(bench.time, async || Ok((ROUND, timed_round(bench, &root).await?))).await?;
    let spawners = Spawners::start().await?;
    let alone = spawners.rate(IN_FLIGHT, bench.time / 2).await;
    spawners.stop().await;
    Ok(Figure::rate("parallel-actions", rate)
        .beside("fork+exec, 8 at once", bench.limits.spawn_rate()?)
        .beside("spawners alone", alone?))
}

/// Runs [`ROUND`] new actions, several in flight.
pub(super) async fn timed_round(bench: &Bench, root: &Digest) -> Result<Duration, CliError> {
    let requests = fresh(bench, root, ROUND).await?;
    let run = async |request| bench.client.execute(request).await.map(drop);
    Ok(time_all(IN_FLIGHT, requests.into_iter().map(run)).await?)
}

async fn samples(bench: &Bench, root: Digest, time: Duration) -> Result<Samples, CliError> {
    let mut samples = Samples::default();
    loop {
        for request in fresh(bench, &root, ROUND).await? {
            let begin = Instant::now();
            bench.client.execute(request).await?;
            samples.add(begin.elapsed());
            if samples.sum() >= time.as_secs_f64() {
                return Ok(samples);
            }
        }
    }
}

/// Requests to run `number` actions on `root` that nobody has run before.
async fn fresh(bench: &Bench, root: &Digest, number: usize) -> Result<Vec<Bytes>, CliError> {
    let command = Blob::of(&no_op(&[]));
    let actions: Vec<Blob> = (0..number).map(|_| action(bench, &command.digest, root)).collect();
    bench.client.store(std::slice::from_ref(&command)).await?;
    bench.client.store(&actions).await?;
    Ok(actions.iter().map(|action| request(bench, &action.digest)).collect())
}

/// A command that does nothing, with these arguments.
pub(super) fn no_op(arguments: &[&str]) -> reapi::Command {
    let path = EnvironmentVariable { name: "PATH".into(), value: "/usr/bin:/bin".into() };
    reapi::Command {
        arguments: [&["true"], arguments].concat().iter().map(ToString::to_string).collect(),
        environment_variables: vec![path],
        ..Default::default()
    }
}

/// An action that differs from all others.
pub(super) fn action(bench: &Bench, command: &Digest, root: &Digest) -> Blob {
    Blob::of(&reapi::Action {
        command_digest: Some(command.to_wire()),
        input_root_digest: Some(root.to_wire()),
        salt: bench.blobs.salt(),
        ..Default::default()
    })
}

/// The request that runs an action.
pub(super) fn request(bench: &Bench, action: &Digest) -> Bytes {
    let request = reapi::ExecuteRequest {
        instance_name: bench.client.instance(),
        action_digest: Some(action.to_wire()),
        ..Default::default()
    };
    request.encode_to_vec().into()
}

/// A directory of a few small files, which the server has.
pub(super) async fn small_root(bench: &Bench) -> Result<Digest, CliError> {
    let mut blobs = bench.blobs.blobs(INPUTS, 500);
    let node = |(i, blob): (usize, &Blob)| reapi::FileNode {
        name: format!("input{i}"),
        digest: Some(blob.digest.to_wire()),
        ..Default::default()
    };
    let files = blobs.iter().enumerate().map(node).collect();
    let root = Blob::of(&reapi::Directory { files, ..Default::default() });
    let digest = root.digest;
    blobs.push(root);
    bench.client.store(&blobs).await?;
    Ok(digest)
}
