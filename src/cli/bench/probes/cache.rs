//! Results that the action cache has, with outputs that can be read.

use bytes::Bytes;
use farmhand_proto::reapi;
use prost::Message;

use super::super::super::error::CliError;
use super::super::super::remote::{Blob, CallError};
use super::super::Bench;
use super::super::figure::Figure;
use super::super::load::call_rate;
use super::actions::{action, no_op, request};
use crate::digest::{Digest, DigestFunction};

/// Results asked for in turns.
const RESULTS: usize = 64;

/// Output files of each result.
const OUTPUTS: usize = 2;

/// Calls in flight.
const IN_FLIGHT: usize = 8;

/// Hits a second by GetActionResult.
pub(super) async fn hits(bench: &Bench) -> Result<Figure, CliError> {
    let mut expected = Vec::new();
    for action in store_results(bench).await? {
        let request = reapi::GetActionResultRequest {
            instance_name: bench.client.instance(),
            action_digest: Some(action.to_wire()),
            ..Default::default()
        };
        let request = Bytes::from(request.encode_to_vec());
        let answer = get(bench, request.clone()).await?;
        let result = reapi::ActionResult::decode(answer.clone());
        if !result.is_ok_and(|result| result.output_files.len() == OUTPUTS) {
            return Err(CliError::new("the server sent another result than was stored"));
        }
        expected.push((request, answer));
    }
    let mut turn = expected.iter().cycle();
    let rate = call_rate(IN_FLIGHT, bench.time, || {
        let (request, answer) = turn.next().cloned().unwrap_or_default();
        async move {
            match get(bench, request).await?.len() == answer.len() {
                true => Ok(()),
                false => Err(CliError::new("a result changed while it was read")),
            }
        }
    })
    .await?;
    beside(bench, Figure::rate("cache-hits", rate))
}

/// Hits a second by Execute.
pub(super) async fn execute_hits(bench: &Bench) -> Result<Figure, CliError> {
    let actions = store_results(bench).await?;
    let requests: Vec<Bytes> = actions.iter().map(|action| request(bench, action)).collect();
    let mut turn = requests.iter().cycle();
    let hit = || {
        let request = turn.next().cloned().unwrap_or_default();
        async {
            match bench.client.execute(request).await?.cached_result {
                true => Ok(()),
                false => Err(CliError::new("an action was run although its result was stored")),
            }
        }
    };
    let rate = call_rate(IN_FLIGHT, bench.time, hit).await?;
    beside(bench, Figure::rate("execute-hits", rate))
}

async fn get(bench: &Bench, request: Bytes) -> Result<Bytes, CallError> {
    bench.client.call("/build.bazel.remote.execution.v2.ActionCache/GetActionResult", request).await
}

/// Stores actions with all they name, and a result for each; their digests.
async fn store_results(bench: &Bench) -> Result<Vec<Digest>, CliError> {
    let root = Blob::of(&reapi::Directory::default());
    let command = Blob::of(&no_op(&[]));
    let actions: Vec<Blob> = (0..RESULTS).map(|_| action(bench, &command.digest, &root.digest)).collect();
    bench.client.store(&[root, command]).await?;
    bench.client.store(&actions).await?;
    for action in &actions {
        let outputs = bench.blobs.blobs(OUTPUTS, 2000);
        bench.client.store(&outputs).await?;
        let update = reapi::UpdateActionResultRequest {
            instance_name: bench.client.instance(),
            action_digest: Some(action.digest.to_wire()),
            action_result: Some(result(&outputs)),
            ..Default::default()
        };
        let path = "/build.bazel.remote.execution.v2.ActionCache/UpdateActionResult";
        bench.client.call(path, update.encode_to_vec().into()).await?;
    }
    Ok(actions.iter().map(|action| action.digest).collect())
}

fn result(outputs: &[Blob]) -> reapi::ActionResult {
    let file = |(i, blob): (usize, &Blob)| reapi::OutputFile {
        path: format!("out/file{i}"),
        digest: Some(blob.digest.to_wire()),
        ..Default::default()
    };
    let empty = Digest::empty(DigestFunction::Sha256).to_wire();
    reapi::ActionResult {
        output_files: outputs.iter().enumerate().map(file).collect(),
        stdout_digest: Some(empty.clone()),
        stderr_digest: Some(empty),
        ..Default::default()
    }
}

fn beside(bench: &Bench, figure: Figure) -> Result<Figure, CliError> {
    Ok(figure.beside("loopback round trips", bench.limits.round_trip_rate()?))
}
