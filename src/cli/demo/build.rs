//! A small build tool: runs the steps of a [`Job`] on a server, as Bazel would.
//!
//! Each step becomes an action. The action cache is asked first; on a miss what the server lacks is uploaded
//! and the action is executed. Outputs stay on the server, only digests travel on. When a step fails, what
//! depends on it is left out and all else goes on.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use farmhand_proto::reapi;
use futures_util::stream::{FuturesUnordered, StreamExt};
use prost::Message;
use tokio::time::Instant;

use super::super::error::CliError;
use super::super::remote::{Blob, CallError, Client};
use super::SEARCH_PATH;
use super::job::{Job, Step};
use super::roots::{self, File};
use crate::digest::{Digest, DigestFunction};

/// Bytes of the output of a step that are looked at.
const MOST_OUTPUT: u64 = 1 << 20;

/// A build tool with a server.
pub(super) struct Builder {
    client: Client,
    /// Its name, as the server is told.
    tool: &'static str,
    /// Actions in flight at most.
    jobs: usize,
    /// Ties the builds of this run together.
    session: String,
}

/// What came of a build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Summary {
    /// Actions that were run.
    pub(super) executed: usize,
    /// Actions whose results were there.
    pub(super) cached: usize,
    /// Actions that failed, as they should.
    pub(super) failed: usize,
    /// From the first call to the last.
    pub(super) took: Duration,
}

/// One build that goes on.
struct Build<'a> {
    builder: &'a Builder,
    job: &'a Job,
    invocation: String,
}

/// What came of a step.
struct Done {
    cached: bool,
    failed: bool,
    outputs: Vec<(String, File)>,
}

// === impl Builder ===

impl Builder {
    pub(super) fn new(client: Client, tool: &'static str, jobs: usize) -> Self {
        Self { client, tool, jobs, session: uuid::Uuid::new_v4().to_string() }
    }

    /// Runs a job to its end. `tell` hears of each step that ended, and how many have.
    ///
    /// # Errors
    ///
    /// When the server refuses something, or a step does not come to what it must.
    pub(super) async fn build(
        &self,
        job: &Job,
        tell: &(dyn Fn(&Step, usize) + Sync),
    ) -> Result<Summary, CliError> {
        let invocation = uuid::Uuid::new_v4().to_string();
        let build = Build { builder: self, job, invocation };
        let begin = Instant::now();
        let mut summary = Summary::default();
        let mut files: HashMap<String, File> = HashMap::new();
        for (path, blob) in &job.sources {
            files.insert(path.clone(), File { digest: blob.digest, is_executable: false });
        }
        let mut waiting: Vec<&Step> = job.steps.iter().collect();
        let mut running = FuturesUnordered::new();
        let mut ended = 0;
        loop {
            let room = self.jobs - running.len();
            let is_ready = |step: &&Step| step.inputs.iter().all(|input| files.contains_key(input));
            let ready: Vec<&Step> = waiting.iter().copied().filter(is_ready).take(room).collect();
            waiting.retain(|step| !ready.iter().any(|ready| std::ptr::eq(*ready, *step)));
            running.extend(ready.into_iter().map(|step| build.run(step, inputs_of(step, &files))));
            let Some(done) = running.next().await else { break };
            let (step, done): (&Step, Done) = done?;
            ended += 1;
            tell(step, ended);
            summary.count(&done);
            files.extend(done.outputs);
        }
        summary.took = begin.elapsed();
        Ok(summary)
    }
}

fn inputs_of(step: &Step, files: &HashMap<String, File>) -> BTreeMap<String, File> {
    step.inputs.iter().filter_map(|path| Some((path.clone(), *files.get(path)?))).collect()
}

// === impl Summary ===

impl Summary {
    /// Actions that came to an end.
    pub(super) fn actions(&self) -> usize {
        self.executed + self.cached
    }

    fn count(&mut self, done: &Done) {
        self.cached += usize::from(done.cached);
        self.executed += usize::from(!done.cached);
        self.failed += usize::from(done.failed);
    }
}

// === impl Build ===

impl<'a> Build<'a> {
    /// Runs a step to its end, or finds its result.
    async fn run(
        &self,
        step: &'a Step,
        inputs: BTreeMap<String, File>,
    ) -> Result<(&'a Step, Done), CliError> {
        let done = self.try_run(step, inputs).await;
        done.map(|done| (step, done)).map_err(|error| CliError::new(format!("{}: {error}", step.target)))
    }

    async fn try_run(&self, step: &Step, inputs: BTreeMap<String, File>) -> Result<Done, CliError> {
        let (mut blobs, root) = roots::directories(&inputs);
        blobs.extend(step.inputs.iter().filter_map(|path| self.job.sources.get(path).cloned()));
        let command = Blob::of(&command(step));
        let action = Blob::of(&reapi::Action {
            command_digest: Some(command.digest.to_wire()),
            input_root_digest: Some(root.to_wire()),
            ..Default::default()
        });
        let digest = action.digest;
        blobs.extend([command, action]);
        let client = self.builder.client.on_behalf_of(&self.metadata(step, &digest));
        if let Some(result) = client.cached_result(&digest).await? {
            return self.finish(&client, step, result, true).await;
        }
        upload(&client, blobs).await?;
        let request = reapi::ExecuteRequest {
            instance_name: client.instance(),
            action_digest: Some(digest.to_wire()),
            ..Default::default()
        };
        let response = client.run(request.encode_to_vec().into()).await?;
        let result = response.result.ok_or_else(|| CliError::new("the server told no result"))?;
        self.finish(&client, step, result, response.cached_result).await
    }

    /// Holds the result of a step against what it must be.
    async fn finish(
        &self,
        client: &Client,
        step: &Step,
        result: reapi::ActionResult,
        cached: bool,
    ) -> Result<Done, CliError> {
        let failed = result.exit_code != 0;
        if failed != step.must_fail {
            let told = text(client, &result.stderr_raw, result.stderr_digest.as_ref()).await?;
            let line = told.lines().find(|line| line.contains("error")).or(told.lines().next());
            let what = format!("exit code {}: {}", result.exit_code, line.unwrap_or_default());
            return Err(CliError::new(what));
        }
        if let Some(expected) = &step.must_say {
            let told = text(client, &result.stdout_raw, result.stdout_digest.as_ref()).await?;
            if told.lines().last() != Some(expected) {
                return Err(CliError::new(format!("it said {:?}, not {expected:?}", told.lines().last())));
            }
        }
        let mut outputs = Vec::new();
        for file in result.output_files {
            let digest = Digest::from_field(DigestFunction::Sha256, file.digest.as_ref());
            let digest = digest.map_err(|error| CliError::new(format!("{}: {error}", file.path)))?;
            outputs.push((file.path, File { digest, is_executable: file.is_executable }));
        }
        let missing = step.outputs.iter().find(|path| !outputs.iter().any(|(made, _)| made == *path));
        match missing.filter(|_| !failed) {
            Some(path) => Err(CliError::new(format!("{path} was not made"))),
            None => Ok(Done { cached, failed, outputs }),
        }
    }

    /// What a build tool tells of itself with each call.
    fn metadata(&self, step: &Step, action: &Digest) -> reapi::RequestMetadata {
        reapi::RequestMetadata {
            tool_details: Some(reapi::ToolDetails {
                tool_name: self.builder.tool.to_owned(),
                tool_version: env!("CARGO_PKG_VERSION").to_owned(),
            }),
            action_id: action.hash_hex(),
            tool_invocation_id: self.invocation.clone(),
            correlated_invocations_id: self.builder.session.clone(),
            action_mnemonic: step.mnemonic.to_owned(),
            target_id: step.target.clone(),
            ..Default::default()
        }
    }
}

/// Stores what the server lacks of these.
async fn upload(client: &Client, blobs: Vec<Blob>) -> Result<(), CallError> {
    let missing = client.find_missing(blobs.iter().map(|blob| blob.digest).collect()).await?;
    let missing: Vec<Blob> = blobs.into_iter().filter(|blob| missing.contains(&blob.digest)).collect();
    client.store(&missing).await
}

fn command(step: &Step) -> reapi::Command {
    let path = ("PATH".to_owned(), SEARCH_PATH.to_owned());
    let mut variables: Vec<(String, String)> = step.variables.iter().cloned().chain([path]).collect();
    variables.sort();
    let variable = |(name, value)| reapi::command::EnvironmentVariable { name, value };
    let mut outputs = step.outputs.clone();
    outputs.sort();
    reapi::Command {
        arguments: step.arguments.clone(),
        environment_variables: variables.into_iter().map(variable).collect(),
        output_paths: outputs,
        ..Default::default()
    }
}

/// An output stream of an action, which may be in its result or be stored.
async fn text(client: &Client, raw: &[u8], digest: Option<&reapi::Digest>) -> Result<String, CliError> {
    let mut data = raw.to_vec();
    let stored = digest.and_then(|_| Digest::from_field(DigestFunction::Sha256, digest).ok());
    if let Some(digest) = stored.filter(|digest| data.is_empty() && (1..MOST_OUTPUT).contains(&digest.size()))
    {
        client.read_with(&digest, |piece| data.extend_from_slice(piece)).await?;
    }
    Ok(String::from_utf8_lossy(&data).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_outputs_are_in_order() {
        let step = Step {
            variables: vec![("Z".into(), "1".into()), ("A".into(), "2".into())],
            outputs: vec!["b".into(), "a".into()],
            ..Step::default()
        };
        let command = command(&step);
        let names: Vec<_> = command.environment_variables.iter().map(|variable| &*variable.name).collect();
        assert_eq!((names, command.output_paths), (vec!["A", "PATH", "Z"], vec!["a".into(), "b".into()]));
    }

    #[test]
    fn a_summary_counts_each_action_once() {
        let mut summary = Summary::default();
        let done = |cached, failed| Done { cached, failed, outputs: Vec::new() };
        for done in [done(true, false), done(false, false), done(false, true)] {
            summary.count(&done);
        }
        assert_eq!((summary.executed, summary.cached, summary.failed, summary.actions()), (2, 1, 1, 3));
    }
}
