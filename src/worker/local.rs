//! [`LocalWorker`]: runs actions on this machine.
//!
//! A lease is staged ([`inputs`](super::inputs)), run by a [`Runner`], and its outputs are collected
//! ([`outputs`]). This module owns the scratch directory with one directory for each
//! running action, and turns whatever happens into an `ExecuteResponse`: how the command ended, or
//! why it could not be run. Only what is this machine's own fault becomes a [`WorkerLost`], so that
//! the action may run elsewhere.
//!
//! Promises: nothing of one action is left for the next; logs survive every ending; the metadata has
//! all timestamps, in order; the blobs of the inputs are pinned to the end.
//!
//! The environment of an action is that of its Command over [`WorkerConfig::environment`], and
//! nothing else.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use farmhand_proto::reapi;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::container::Containers;
use super::guests::Host;
use super::inputs::{InputError, InputLimits, Inputs, StagedInputs, Stores};
use super::outputs::{self, Collected, Collection, LinkRoot, MergedRoot, OutputRequest, Place};
use super::persistent::{Bounds, PersistentWorkers, Warm};
use super::scratch::Sweeper;
use super::{
    Exit, Lease, Limits, NestedApis, NoResponse, Outcome, Progress, RunError, Runner, Seat, SlotsError,
    Worker, WorkerLost,
};
use crate::cas::{ContentAddressableStorage, LocalBlobs, Pins};
use crate::config::RunningGuests;
use crate::digest::Digest;
use crate::platform::{
    self, ImageName, InputRootPlace, MachineFacts, NetworkAccess, Requirements, total_memory,
};
use crate::tasks::Tasks;

mod company;
mod disk_guard;
mod failure;
mod nested;
mod portion;
mod prepare;
mod response;
mod run_directory;
mod spills;
mod timeline;
mod warm;

use company::{Company, Visit};
use disk_guard::{DiskGuard, Watch};
use failure::{Code, Failure};
use portion::Portions;
pub use response::ResourceUsage;
use run_directory::{RunDirectories, RunDirectory};
use spills::Spills;
use timeline::{Stage, Timeline};
pub use warm::PersistentWorker;
use warm::Warmed;

/// User and group that actions see themselves as, unless they ask for others.
const USUAL_ID: u32 = 1000;

/// Slots a person may give each hardware thread. Every slot is a process that waits, so there is an end
/// to what is sensible.
const SLOTS_PER_CPU: usize = 32;

/// How a [`LocalWorker`] works.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Name of the machine, shown to clients.
    pub name: String,
    /// Actions it runs at once.
    pub slots: usize,
    /// Scratch directory, best on the file system of the CAS, so that files need no copying. What an
    /// earlier process left in it is removed.
    pub scratch: PathBuf,
    /// Where actions see their input root.
    pub input_root: PathBuf,
    /// Limits of each action; the lease gives the time limit.
    pub limits: Limits,
    /// Bytes of memory that actions which say how much they need may have together.
    pub memory: u64,
    /// What runs container images; `None` where nothing does.
    pub containers: Option<Containers>,
    /// Free bytes on the disk of `scratch` below which the action that wrote most is ended; 0: never.
    pub disk_reserve: u64,
    /// Limits of staging.
    pub inputs: InputLimits,
    /// Entries of all outputs of an action together.
    pub output_entries: u64,
    /// Variables an action gets unless its Command sets them. `PATH` is the only one by default,
    /// for Commands that name a program without a directory. `HOME`, `USER`, `LANG` and the like stay
    /// unset: a value made up here would end in outputs without being in the cache key.
    pub environment: Vec<(String, String)>,
    /// Persistent workers that are kept.
    pub persistent: Bounds,
}

/// The worker of this machine.
pub struct LocalWorker {
    config: WorkerConfig,
    facts: MachineFacts,
    cas: Arc<dyn ContentAddressableStorage>,
    blobs: Arc<dyn LocalBlobs>,
    runner: Arc<dyn Runner>,
    inputs: Inputs,
    runs: Arc<RunDirectories>,
    guard: DiskGuard,
    spills: Spills,
    portions: Portions,
    apis: OnceLock<Arc<dyn NestedApis>>,
    company: Arc<Company>,
    persistent: PersistentWorkers,
}

/// Inputs on disk, kept as long as this lives.
enum Staged {
    /// Layers for an overlay.
    Layers(StagedInputs),
    /// Private copies in the action's own directory.
    Copies { _pins: Pins },
}

/// An action on its way.
struct Run<'a> {
    worker: &'a LocalWorker,
    lease: &'a Lease,
    /// Whether to stand still, for an action of another machine.
    guest: Option<&'a watch::Receiver<bool>>,
    request: Arc<OutputRequest>,
    progress: &'a mpsc::UnboundedSender<Progress>,
    cancel: &'a CancellationToken,
    /// Fires when it has actions of its own run.
    asked: &'a CancellationToken,
}

/// One try to run it, in a directory of its own.
struct Attempt<'a> {
    run: &'a Run<'a>,
    directory: Arc<RunDirectory>,
    staged: &'a Staged,
    root: Arc<MergedRoot>,
}

/// What is left beside the outputs when a command ends.
struct Left {
    /// What was made for its socket in the input root.
    place: Option<Place>,
    /// A process lives on that may have outputs open.
    are_open: bool,
}

// === impl WorkerConfig ===

impl WorkerConfig {
    /// The defaults of a machine named `name` with its scratch space in `scratch`: a slot for each
    /// core.
    pub fn new(name: impl Into<String>, scratch: impl Into<PathBuf>) -> Self {
        let slots = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            name: name.into(),
            slots,
            scratch: scratch.into(),
            input_root: PathBuf::from("/build"),
            limits: Limits::default(),
            memory: platform::total_memory(),
            containers: None,
            disk_reserve: 0,
            inputs: InputLimits::default(),
            output_entries: 1_000_000,
            environment: vec![("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())],
            persistent: Bounds { count: slots, memory: total_memory() / 4, idle: Duration::from_secs(600) },
        }
    }
}

// === impl LocalWorker ===

impl LocalWorker {
    /// Opens the scratch directory of `config`; what an earlier process left in it is removed
    /// beside the work.
    ///
    /// # Errors
    /// When the scratch directory cannot be made.
    pub fn open(
        config: WorkerConfig,
        facts: MachineFacts,
        stores: Stores,
        runner: Arc<dyn Runner>,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let sweeper = Sweeper::new(tasks.clone());
        run_directory::clear(&config.scratch, &sweeper)?;
        let inputs = Inputs::open(
            &config.scratch.join(run_directory::INPUTS),
            config.inputs,
            stores.clone(),
            sweeper.clone(),
        )?;
        let runs = Arc::new(RunDirectories::new(config.scratch.join(run_directory::RUNS), sweeper));
        let guard = DiskGuard::start(&config.scratch, config.disk_reserve, tasks);
        let portions = Portions::new(config.slots, config.memory);
        let (spills, company) = (Spills::default(), Company::new());
        let persistent = PersistentWorkers::start(config.persistent, tasks);
        let Stores { cas, blobs, .. } = stores;
        let apis = OnceLock::new();
        Ok(Self {
            config,
            facts,
            cas,
            blobs,
            runner,
            inputs,
            runs,
            guard,
            spills,
            portions,
            apis,
            company,
            persistent,
        })
    }

    /// Has `apis` serve what runs in actions, from the first time that this is called.
    pub fn offer(&self, apis: Arc<dyn NestedApis>) {
        // The first one stays.
        let _ = self.apis.set(apis);
    }

    /// What this machine is and has.
    pub fn facts(&self) -> &MachineFacts {
        &self.facts
    }

    /// The persistent workers that wait for their next request.
    pub fn warm_workers(&self) -> Warm {
        self.persistent.warm()
    }

    /// Lets at most `most` actions of other machines run from now on: those that came first. What becomes
    /// of the others that run, and of those that still come, `surplus` says.
    pub fn limit_guests(&self, most: usize, surplus: RunningGuests) {
        self.company.limit(most, surplus);
    }

    /// Runs an action of another machine, unless it is handed back before its end.
    async fn host(
        &self,
        lease: Lease,
        visit: &Visit,
        progress: mpsc::UnboundedSender<Progress>,
        cancel: CancellationToken,
    ) -> Result<reapi::ExecuteResponse, NoResponse> {
        let stop = cancel.child_token();
        let mut work = Box::pin(self.perform(lease, Some(visit), progress, stop.clone()));
        tokio::select! {
            biased;
            ended = &mut work => return ended,
            () = visit.hand_back.cancelled() => stop.cancel(),
        }
        match work.await {
            Ok(response) if is_cancelled(&response) && !cancel.is_cancelled() => Err(NoResponse::Busy),
            ended => ended,
        }
    }

    async fn perform(
        &self,
        lease: Lease,
        visit: Option<&Visit>,
        progress: mpsc::UnboundedSender<Progress>,
        cancel: CancellationToken,
    ) -> Result<reapi::ExecuteResponse, NoResponse> {
        let mut timeline = Timeline::start(&self.config.name, lease.queued_at);
        let portion = tokio::select! {
            biased;
            () = cancel.cancelled() => None,
            portion = self.portions.take(&lease.platform) => portion,
        };
        let guest = visit.map(|visit| &visit.still);
        let asked = CancellationToken::new();
        let ended = match portion {
            Some(portion) => {
                let call = (&progress, &cancel, &asked);
                let mut work = std::pin::pin!(self.run(&lease, guest, call, &mut timeline));
                tokio::select! {
                    biased;
                    ended = &mut work => ended,
                    () = asked.cancelled() => {
                        drop(portion);
                        let _ = progress.send(Progress::Yielded);
                        work.await
                    }
                }
            }
            None => Err(Failure::Cancelled),
        };
        let mut response = match ended {
            Ok(response) => response,
            Err(failure) => failure.into_response().map_err(|reason| {
                tracing::warn!(operation = lease.operation, reason, "an action could not be run here");
                WorkerLost { worker: self.config.name.clone(), reason }
            })?,
        };
        let empty = Digest::empty(lease.function()).to_wire();
        let result = response.result.get_or_insert_default();
        result.stdout_digest.get_or_insert_with(|| empty.clone());
        result.stderr_digest.get_or_insert(empty);
        timeline.fill(result.execution_metadata.get_or_insert_default());
        Ok(response)
    }

    async fn run(
        &self,
        lease: &Lease,
        guest: Option<&watch::Receiver<bool>>,
        (progress, cancel, asked): (&mpsc::UnboundedSender<Progress>, &CancellationToken, &CancellationToken),
        timeline: &mut Timeline,
    ) -> Result<reapi::ExecuteResponse, Failure> {
        let request = Arc::new(OutputRequest::parse(&lease.command)?);
        if lease.command.arguments.first().is_none_or(String::is_empty) {
            return Err(Failure::invalid("the Command has no program to run: arguments[0] is empty"));
        }
        let run = Run { worker: self, lease, guest, request, progress, cancel, asked };
        let _ = progress.send(Progress::Staging);
        timeline.enter(Stage::Fetching);
        if let Some(image) = &lease.platform.container {
            run.contained(image, timeline).await
        } else if self.runner.is_sandboxed() {
            run.sandboxed(timeline).await
        } else {
            run.plainly(timeline).await
        }
    }

    /// Where the input root stands for an action with these requirements.
    fn place(&self, requirements: &Requirements) -> LinkRoot {
        match &requirements.input_root {
            InputRootPlace::Worker => LinkRoot::At(self.config.input_root.clone()),
            InputRootPlace::At(path) => LinkRoot::At(path.clone()),
            InputRootPlace::Filesystem => LinkRoot::Filesystem,
        }
    }
}

#[async_trait]
impl Host for LocalWorker {
    async fn missing_inputs(&self, root: Digest) -> Result<Vec<Digest>, InputError> {
        self.inputs.missing(root).await
    }

    async fn bring_inputs(&self, root: Digest) -> Result<Vec<Digest>, InputError> {
        self.inputs.bring(root).await
    }
}

#[async_trait]
impl Worker for LocalWorker {
    fn name(&self) -> &str {
        &self.config.name
    }

    fn slots(&self) -> usize {
        self.portions.slots()
    }

    async fn set_slots(&self, slots: usize) -> Result<(), SlotsError> {
        let cores = usize::try_from(self.facts.cores).unwrap_or(usize::MAX);
        let most = self.config.slots.max(cores.saturating_mul(SLOTS_PER_CPU));
        if !(1..=most).contains(&slots) {
            return Err(SlotsError::Range { wanted: slots, most });
        }
        self.runner.resize(slots).await?;
        self.portions.resize(slots);
        Ok(())
    }

    fn mismatches(&self, requirements: &Requirements) -> Vec<String> {
        requirements.mismatches(&self.facts)
    }

    async fn execute(
        &self,
        lease: Lease,
        progress: mpsc::UnboundedSender<Progress>,
        cancel: CancellationToken,
    ) -> Result<reapi::ExecuteResponse, NoResponse> {
        if lease.is_guest {
            let visit = self.company.arrive();
            return self.host(lease, &visit, progress, cancel).await;
        }
        self.perform(lease, None, progress, cancel).await
    }
}

// === impl Run ===

impl Run<'_> {
    /// Runs it over shared inputs: by a persistent worker if it is for one, else in memory if it is likely to
    /// write little, and once more on the disk if it does not.
    async fn sandboxed(&self, timeline: &mut Timeline) -> Result<reapi::ExecuteResponse, Failure> {
        let staged = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(Failure::Cancelled),
            staged = self.worker.inputs.stage(self.lease.input_root) => Staged::Layers(staged?),
        };
        let note = match self.warmly(&staged, timeline).await? {
            Warmed::Response(response) => return Ok(*response),
            Warmed::Without(note) => note,
        };
        let mut response = self.coldly(&staged, timeline).await?;
        if let Some(note) = note {
            response.message =
                if response.message.is_empty() { note } else { response.message + "\n" + &note };
        }
        Ok(response)
    }

    /// Runs it as a command, in memory or on the disk.
    async fn coldly(
        &self,
        staged: &Staged,
        timeline: &mut Timeline,
    ) -> Result<reapi::ExecuteResponse, Failure> {
        let mut seat = self.seat().await?;
        let runs = Arc::clone(&self.worker.runs);
        if let Some(memory) = seat.memory().filter(|_| self.writes_little()).cloned() {
            let attempt = self.attempt(runs.make_layers_in(memory)?, staged);
            match attempt.finish(&mut *seat, timeline).await? {
                Some(response) => return Ok(response),
                None => self.worker.spills.note(&self.lease.command),
            }
        }
        let directory = blocking(move || Ok(runs.make_layers()?)).await?;
        let response = self.attempt(directory, staged).finish(&mut *seat, timeline).await?;
        response.ok_or_else(|| Failure::Lost("a run on the disk wrote too much for memory".into()))
    }

    /// Runs it in a container, in private copies of its inputs.
    async fn contained(
        &self,
        image: &ImageName,
        timeline: &mut Timeline,
    ) -> Result<reapi::ExecuteResponse, Failure> {
        let Some(containers) = &self.worker.config.containers else {
            return Err(Failure::Lost("there is nothing here that runs container images".into()));
        };
        let LinkRoot::At(at) = self.worker.place(&self.lease.platform) else {
            return Err(Failure::invalid("container-image: the input root cannot be / in an image"));
        };
        let seat = containers.seat(image.clone(), at, self.cancel).await.map_err(Failure::from_run)?;
        let mut seat = seat.ok_or(Failure::Cancelled)?;
        let (directory, staged) = self.copies().await?;
        let response = self.attempt(directory, &staged).finish(&mut seat, timeline).await?;
        response.ok_or_else(|| Failure::Lost("a run on the disk wrote too much for memory".into()))
    }

    async fn copies(&self) -> Result<(RunDirectory, Staged), Failure> {
        let runs = Arc::clone(&self.worker.runs);
        let directory = blocking(move || Ok(runs.make_plain()?)).await?;
        let pins = self.worker.inputs.copy_into(self.lease.input_root, directory.plain_root()).await?;
        Ok((directory, Staged::Copies { _pins: pins }))
    }

    /// Runs it in private copies of its inputs.
    async fn plainly(&self, timeline: &mut Timeline) -> Result<reapi::ExecuteResponse, Failure> {
        let (directory, staged) = self.copies().await?;
        let mut seat = self.seat().await?;
        let response = self.attempt(directory, &staged).finish(&mut *seat, timeline).await?;
        response.ok_or_else(|| Failure::Lost("a run on the disk wrote too much for memory".into()))
    }

    async fn seat(&self) -> Result<Box<dyn Seat>, Failure> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(Failure::Cancelled),
            seat = self.worker.runner.seat() => seat.map_err(Failure::from_run),
        }
    }

    /// Whether to begin in memory. Not what may have effects elsewhere, which would be had twice, and not
    /// whole file systems: whoever has one installs things in it.
    fn writes_little(&self) -> bool {
        let platform = &self.lease.platform;
        platform.network != Some(NetworkAccess::Host)
            && platform.apis_socket.is_none()
            && self.worker.place(platform) != LinkRoot::Filesystem
            && !self.worker.spills.expects(&self.lease.command)
    }

    fn attempt<'a>(&'a self, directory: RunDirectory, staged: &'a Staged) -> Attempt<'a> {
        let blobs = Arc::clone(&self.worker.blobs);
        let root = match staged {
            Staged::Layers(_) => {
                let links = self.worker.place(&self.lease.platform);
                MergedRoot::new(directory.upper(), Some(self.lease.input_root), blobs, links)
            }
            Staged::Copies { .. } => {
                let root = directory.plain_root();
                let links = match self.lease.platform.container {
                    Some(_) => self.worker.place(&self.lease.platform),
                    None => LinkRoot::At(root.clone()),
                };
                MergedRoot::new(root, None, blobs, links)
            }
        };
        Attempt { run: self, directory: Arc::new(directory), staged, root: Arc::new(root) }
    }
}

// === impl Attempt ===

impl Attempt<'_> {
    /// `None`: it wrote too much for memory, and has to be tried on the disk.
    async fn finish(
        self,
        seat: &mut dyn Seat,
        timeline: &mut Timeline,
    ) -> Result<Option<reapi::ExecuteResponse>, Failure> {
        let (command, nested) = self.prepare().await?;
        let (stdout, stderr) = (self.directory.stdout(), self.directory.stderr());
        let _ = self.run.progress.send(Progress::Running { stdout, stderr });
        timeline.enter(Stage::Executing);
        let watch = self.run.worker.guard.watch(self.directory.path(), self.run.cancel);
        let ended = seat.run(command, watch.stop().clone()).await;
        let exit = match ended {
            Ok(exit) => exit,
            Err(RunError::MemoryFull) => return Ok(None),
            Err(error) => return Err(Failure::from_run(error)),
        };
        let place = nested.and_then(|nested| nested.place);
        self.conclude(&exit, &watch, Left { place, are_open: false }, timeline).await.map(Some)
    }

    /// Collects what it left.
    async fn conclude(
        &self,
        exit: &Exit,
        watch: &Watch,
        left: Left,
        timeline: &mut Timeline,
    ) -> Result<reapi::ExecuteResponse, Failure> {
        let _ = self.run.progress.send(Progress::Collecting);
        timeline.enter(Stage::Uploading);
        let collected = self.collect(exit, left).await?;
        let mut response = response::of_run(exit, collected);
        if let Some(excess) = watch.excess() {
            response.status = Some(failure::status(Code::ResourceExhausted, excess.to_string()));
        }
        Ok(response)
    }

    /// Stores logs and outputs. Of a cancelled action, whose outputs nobody wants, only the logs;
    /// of one that ran out of time, the outputs too, since clients look at them.
    async fn collect(&self, exit: &Exit, left: Left) -> Result<Collected, Failure> {
        if self.left_nothing() {
            return Ok(Collected::default());
        }
        let (request, directory, root) =
            (Arc::clone(&self.run.request), Arc::clone(&self.directory), Arc::clone(&self.root));
        let with_outputs = exit.outcome != Outcome::Cancelled;
        let collection = Collection {
            blobs: Arc::clone(&self.run.worker.blobs),
            function: self.run.lease.function(),
            spool: directory.path().to_owned(),
            max_entries: self.run.worker.config.output_entries,
            are_open: left.are_open,
        };
        let collected = blocking(move || {
            let stdout = outputs::store_log(&collection, &directory.stdout())?;
            let stderr = outputs::store_log(&collection, &directory.stderr())?;
            let mut collected = Collected::default();
            if let Some(place) = &left.place {
                root.remove_place(place)?;
            }
            if with_outputs {
                collected = match outputs::collect(&root, &request, collection) {
                    Err(error) if error.is_of_the_action() => {
                        Collected { refused: Some(error.to_string()), ..Collected::default() }
                    }
                    other => other?,
                };
            }
            collected.result.stdout_digest = Some(stdout.to_wire());
            collected.result.stderr_digest = Some(stderr.to_wire());
            Ok(collected)
        })
        .await?;
        self.check_reused(&collected.reused).await?;
        Ok(collected)
    }

    /// Whether no output is asked for and both logs are empty, as far as that is known without a disk.
    fn left_nothing(&self) -> bool {
        let is_empty = |log: &Path| std::fs::metadata(log).is_ok_and(|log| log.len() == 0);
        self.directory.is_in_memory()
            && self.run.request.is_empty()
            && is_empty(&self.directory.stdout())
            && is_empty(&self.directory.stderr())
    }

    /// Inputs that come out as outputs may have been evicted while only their tree was left.
    async fn check_reused(&self, reused: &HashSet<Digest>) -> Result<(), Failure> {
        if reused.is_empty() {
            return Ok(());
        }
        let digests: Vec<_> = reused.iter().copied().collect();
        match self.run.worker.cas.find_missing(&digests).await {
            Ok(missing) if missing.is_empty() => Ok(()),
            Ok(missing) => Err(Failure::Missing(missing)),
            Err(error) => Err(Failure::Lost(error.to_string())),
        }
    }
}

fn is_cancelled(response: &reapi::ExecuteResponse) -> bool {
    response.status.as_ref().is_some_and(|status| status.code == Code::Cancelled as i32)
}

fn create(path: &Path) -> Result<File, Failure> {
    File::create_new(path).map_err(|error| Failure::Lost(format!("{}: {error}", path.display())))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Failure::Lost(format!("a worker thread ended early: {error}"))),
    }
}

#[cfg(test)]
mod tests;
