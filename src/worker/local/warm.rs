//! An action that a persistent worker runs: as a request, where that is possible.
//!
//! It is possible for an action that names a worker (`persistentWorkerKey`) and marks the inputs that are the
//! tool, in the usual kind of root, with outputs that are not at its top: that is a directory of the
//! worker's own. Everything else, and what a worker could not do, runs as if there were none.
//!
//! The result is that of a command: exit code, outputs from the layer above the inputs, time limit, kill.
//! What the answer says goes to stderr, as Bazel has it. Outputs are copied into the store, since the
//! worker lives on and may have them open.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::any::{self, Named};
use farmhand_proto::reapi;

use super::failure::Failure;
use super::timeline::{Stage, Timeline};
use super::{Attempt, Left, LinkRoot, Run, Staged, blocking};
use crate::cas::CasError;
use crate::platform::{NetworkAccess, WorkerProtocol};
use crate::worker::inputs::InputFile;
use crate::worker::persistent::{Berth, Ending, Key, KeyMaker, Parted, Process, Step, Terms, WorkRequest};
use crate::worker::{Exit, InputRoot, Limits, Outcome, Progress, Usage};

/// Workers that are tried: one that waited may have died of what others asked of it.
const TRIES: usize = 2;

/// Bytes of a file of arguments.
const MAX_FLAGS: u64 = 16 << 20;

/// Files of an input root, all of which are named in a request.
const MAX_INPUTS: usize = 100_000;

/// That a persistent worker ran an action: `farmhand.v1.PersistentWorker`, in
/// `ExecutedActionMetadata.auxiliary_metadata`.
#[derive(Clone, Copy, PartialEq, Eq, ::prost::Message)]
pub struct PersistentWorker {
    /// Requests that the process had answered before; 0 if it was started for this one.
    #[prost(uint64, tag = "1")]
    pub requests_before: u64,
}

/// What came of the try to have a worker run an action.
pub(super) enum Warmed {
    /// It was run.
    Response(Box<reapi::ExecuteResponse>),
    /// It has to run as any other one; with what people should know of the reason.
    Without(Option<String>),
}

/// An action as a request.
struct Errand {
    key: Key,
    startup: Vec<OsString>,
    request: Vec<u8>,
    protocol: WorkerProtocol,
}

/// How a try ended.
enum Tried {
    Response(Box<reapi::ExecuteResponse>),
    /// The worker is no good, for this reason.
    Broken(String),
}

impl Named for PersistentWorker {
    const NAME: &'static str = "farmhand.v1.PersistentWorker";
}

impl PersistentWorker {
    /// Whether, and by which worker, the run was done that made `result`.
    pub fn of(result: &reapi::ActionResult) -> Option<Self> {
        result.execution_metadata.as_ref()?.auxiliary_metadata.iter().find_map(any::unpack)
    }
}

impl Run<'_> {
    /// Has a persistent worker run it, if it is for one and one can be had.
    pub(super) async fn warmly(&self, staged: &Staged, timeline: &mut Timeline) -> Result<Warmed, Failure> {
        let Some(errand) = self.errand(staged).await? else { return Ok(Warmed::Without(None)) };
        let workers = &self.worker.persistent;
        let mut reason = None;
        for _ in 0..TRIES {
            let Some((berth, process)) = workers.take(&errand.key).await else { break };
            let was_fresh = process.is_none();
            match self.try_worker(&errand, staged, (berth, process), timeline).await? {
                Tried::Response(response) => return Ok(Warmed::Response(response)),
                Tried::Broken(what) => reason = Some(what),
            }
            if was_fresh {
                workers.distrust(errand.key);
                break;
            }
        }
        let note = reason.map(|reason| {
            tracing::warn!(operation = self.lease.operation, reason, "a persistent worker broke down");
            format!("the persistent worker broke down, so the command was run without it: {reason}")
        });
        Ok(Warmed::Without(note))
    }

    /// One try, in a directory of its own.
    async fn try_worker(
        &self,
        errand: &Errand,
        staged: &Staged,
        (berth, process): (Berth, Option<Process>),
        timeline: &mut Timeline,
    ) -> Result<Tried, Failure> {
        let runs = Arc::clone(&self.worker.runs);
        let directory = blocking(move || Ok(runs.make_layers()?)).await?;
        let attempt = self.attempt(directory, staged);
        let mut process = match attempt.begin(errand, process).await? {
            Ok(process) => process,
            Err(reason) => return Ok(Tried::Broken(reason)),
        };
        let (stdout, stderr) = (attempt.directory.stdout(), attempt.directory.stderr());
        let _ = self.progress.send(Progress::Running { stdout, stderr });
        timeline.enter(Stage::Executing);
        let watch = self.worker.guard.watch(attempt.directory.path(), self.cancel);
        let terms = Terms { timeout: self.lease.timeout, cancel: watch.stop(), guest: self.guest.cloned() };
        let before = process.answered;
        let ending = process.exchange(&errand.request, errand.protocol, terms).await;
        let (exit, kept) = match ending {
            Ending::Answered(answer, wall) => {
                let rested = process.rest().await;
                attempt.keep_output(answer.output).await?;
                let kept = if rested.is_some() { Some(process) } else { ended(process).await };
                (exit(Outcome::Exited(answer.exit_code), wall, rested.unwrap_or_default()), kept)
            }
            Ending::TimedOut => {
                process.end().await;
                (exit(Outcome::TimedOut, self.lease.timeout, Usage::default()), None)
            }
            Ending::Cancelled => {
                process.end().await;
                (exit(Outcome::Cancelled, Duration::ZERO, Usage::default()), None)
            }
            Ending::Broken(breakage) => {
                let (exit, log) = process.end().await;
                return Ok(Tried::Broken(breakage.describe(exit.as_ref(), &log)));
            }
        };
        let mut response =
            attempt.conclude(&exit, &watch, Left { place: None, are_open: kept.is_some() }, timeline).await?;
        note(&mut response, before);
        if let Some(process) = kept {
            self.worker.persistent.trust(errand.key);
            berth.put_back(errand.key, process, exit.usage.max_rss).await;
        }
        Ok(Tried::Response(Box::new(response)))
    }

    /// The action as a request; `None` if it is not for a worker.
    async fn errand(&self, staged: &Staged) -> Result<Option<Errand>, Failure> {
        let (lease, platform) = (self.lease, &self.lease.platform);
        let is_usual = self.request.are_below_the_top()
            && platform.network != Some(NetworkAccess::Host)
            && platform.apis_socket.is_none()
            && self.worker.place(platform) != LinkRoot::Filesystem
            && matches!(staged, Staged::Layers(layers) if layers.read_only.is_empty());
        let name = platform.worker_key.as_deref().filter(|_| is_usual && self.worker.persistent.is_on());
        let (Some(name), Some(parted)) = (name, Parted::of(&lease.command.arguments)) else {
            return Ok(None);
        };
        let protocol = platform.worker_protocol.unwrap_or(WorkerProtocol::Proto);
        let files = self.worker.inputs.files(lease.input_root).await?;
        if files.len() > MAX_INPUTS || !files.iter().any(|file| file.is_tool) {
            return Ok(None);
        }
        let Some(arguments) = self.arguments(&parted, &files).await? else { return Ok(None) };
        let request = WorkRequest::new(arguments, &files, &self.request.working_directory.to_string());
        let key = self.key(name, protocol, &parted.startup, &files);
        let startup = parted.startup.into_iter().map(OsString::from).collect();
        Ok(Some(Errand { key, startup, request: request.bytes(protocol), protocol }))
    }

    /// The arguments of the request, out of the files of arguments among the inputs; `None` if these are no
    /// files of the usual kind.
    async fn arguments(&self, parted: &Parted, files: &[InputFile]) -> Result<Option<Vec<String>>, Failure> {
        let mut expansion = parted.expand();
        loop {
            let path = match expansion.step() {
                Step::Done(arguments) => return Ok(Some(arguments)),
                Step::TooMuch => return Ok(None),
                Step::Read(path) => path,
            };
            let Ok(place) = self.request.working_directory.join(&path) else { return Ok(None) };
            let place = place.to_string();
            let Ok(index) = files.binary_search_by(|file| file.path.as_str().cmp(&place)) else {
                return Ok(None);
            };
            let digest = files[index].digest;
            if digest.size() > MAX_FLAGS {
                return Ok(None);
            }
            let content = match self.worker.cas.get(&digest).await {
                Ok(content) => content,
                Err(CasError::NotFound(digest)) => return Err(Failure::Missing(vec![digest])),
                Err(error) => return Err(Failure::Lost(error.to_string())),
            };
            let Ok(content) = std::str::from_utf8(&content) else { return Ok(None) };
            expansion.read(content);
        }
    }

    /// All that a worker has from its start: what one is asked by one key, another one of that key can do.
    /// What the client calls it is a part, and the rest makes sure.
    fn key(&self, name: &str, protocol: WorkerProtocol, startup: &[String], files: &[InputFile]) -> Key {
        let (lease, platform) = (self.lease, &self.lease.platform);
        let variables = &lease.command.environment_variables;
        let ids = format!("{:?} {:?} {protocol:?} {}", platform.uid, platform.gid, lease.is_guest);
        let tools: Vec<_> = files.iter().filter(|file| file.is_tool).collect();
        KeyMaker::new("persistent worker")
            .with(name)
            .with(lease.instance.to_string())
            .with(&*lease.person)
            .with(ids)
            .with(self.request.working_directory.to_string())
            .with(format!("{:?}", self.worker.place(platform)))
            .with_all(startup.iter())
            .with_all(variables.iter().map(|variable| &variable.name))
            .with_all(variables.iter().map(|variable| &variable.value))
            .with_all(tools.iter().map(|tool| &tool.path))
            .with_all(tools.iter().map(|tool| tool.digest.to_key()))
            .with_all(tools.iter().map(|tool| [u8::from(tool.is_executable)]))
            .finish()
    }
}

impl Attempt<'_> {
    /// Has a worker ready with the inputs of this action: the one that is there, or a new one. `Err` in the
    /// result: it could not be, for this reason.
    async fn begin(
        &self,
        errand: &Errand,
        process: Option<Process>,
    ) -> Result<Result<Process, String>, Failure> {
        let (mut command, _) = self.prepare().await?;
        let InputRoot::Mounted { at, overlay } = command.root else {
            return Ok(Err("its input root is not of the usual kind".into()));
        };
        if let Some(mut process) = process {
            return Ok(match process.change(overlay).await {
                Ok(()) => Ok(process),
                Err(error) => {
                    let (_, log) = process.end().await;
                    Err(format!("{error} {log}"))
                }
            });
        }
        command.root = InputRoot::Parted { at, overlay };
        command.arguments.clone_from(&errand.startup);
        command.limits = Limits { timeout: None, ..command.limits };
        let seat = self.run.seat().await?;
        Ok(Process::start(seat, command).await.map_err(|error| error.to_string()))
    }

    /// What the worker says of the action is what a command would have written to stderr.
    async fn keep_output(&self, output: Vec<u8>) -> Result<(), Failure> {
        let path = self.directory.stderr();
        if output.is_empty() {
            return Ok(());
        }
        blocking(move || Ok(std::fs::write(path, output)?)).await
    }
}

/// Ends a process that cannot be kept.
async fn ended(process: Process) -> Option<Process> {
    process.end().await;
    None
}

fn exit(outcome: Outcome, wall: Duration, usage: Usage) -> Exit {
    Exit { outcome, wall, usage, memory_exceeded: None }
}

/// Says in the result that a worker did it.
fn note(response: &mut reapi::ExecuteResponse, requests_before: u64) {
    let result = response.result.get_or_insert_default();
    let metadata = result.execution_metadata.get_or_insert_default();
    metadata.auxiliary_metadata.push(any::pack(&PersistentWorker { requests_before }));
}
