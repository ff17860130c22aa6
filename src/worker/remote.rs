//! [`RemoteWorker`]: another machine of the farm, as a worker of this one.
//!
//! It hands over a lease, follows the run, and brings its outputs into the store of this machine
//! before it tells that the action is over: what a client is told is here survives the loss of the
//! machine that made it. Times are told by the clock of this machine, whatever the other one's says.
//!
//! How many slots it has is for those who are granted them to say; this only carries actions.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use farmhand_proto::peer::peer_client::PeerClient;
use farmhand_proto::peer::{self, run_request, run_response};
use farmhand_proto::reapi;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::lease::GuestLease;
use super::shortage::shortage_of;
use super::traces::Traces;
use super::{Lease, NoResponse, Progress, SlotsError, Worker, WorkerLost};
use crate::action_cache::complete::named;
use crate::cas::ContentAddressableStorage;
use crate::cas::fetch::{BlobSource, FetchError, Fetcher};
use crate::digest::{Digest, DigestFunction};
use crate::peer::MachineId;
use crate::peer::link::AnyChannel;
use crate::platform::toolchain::OwnToolchain;
use crate::platform::{MachineFacts, Requirements};

mod clock;
mod luggage;

use luggage::Luggage;

/// Bytes of the largest message taken: a result with very many outputs.
const MAX_MESSAGE: usize = 32 << 20;

/// How long a machine may take to end an action that it was told to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of each output that are kept to be shown while an action runs.
const MOST_SHOWN: usize = 64 << 20;

/// Times the blobs of a result are looked for: Trees first, then what they name.
const ROUNDS: usize = 3;

/// Another machine.
pub struct RemoteWorker {
    name: Arc<str>,
    id: MachineId,
    client: PeerClient<AnyChannel>,
    blobs: Arc<dyn BlobSource>,
    facts: RwLock<Arc<MachineFacts>>,
    home: Home,
    slots: AtomicUsize,
}

/// What is needed of this machine to have actions run elsewhere.
#[derive(Clone)]
pub struct Home {
    /// Its store.
    pub cas: Arc<dyn ContentAddressableStorage>,
    /// Brings blobs into it.
    pub fetcher: Fetcher,
    /// A directory for output of running actions, as it comes.
    pub logs: PathBuf,
    /// What runs left elsewhere.
    pub traces: Traces,
    /// Compilers and libraries that its actions see, which they may have to find elsewhere, too.
    pub toolchain: OwnToolchain,
}

/// Output of a running action, as it comes. The files go with it.
struct Logs {
    paths: [PathBuf; 2],
    files: [File; 2],
    /// Bytes that may yet be shown of each.
    room: [usize; 2],
}

// === impl RemoteWorker ===

impl RemoteWorker {
    /// The machine of this `name` and `id` at the other end of `channel`, which has these `facts` and `blobs`.
    pub fn new(
        name: impl Into<Arc<str>>,
        id: MachineId,
        channel: AnyChannel,
        blobs: Arc<dyn BlobSource>,
        facts: MachineFacts,
        home: Home,
    ) -> Self {
        Self {
            name: name.into(),
            id,
            client: PeerClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
            blobs,
            facts: RwLock::new(Arc::new(facts)),
            home,
            slots: AtomicUsize::new(0),
        }
    }

    /// Takes note of what the machine is and has now.
    pub fn learn(&self, facts: MachineFacts) {
        *self.facts.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(facts);
    }

    /// Takes note of a grant of so many slots.
    pub fn granted(&self, slots: usize) {
        self.slots.store(slots, Ordering::Relaxed);
    }

    fn lost(&self, reason: impl Into<String>) -> WorkerLost {
        WorkerLost { worker: self.name.to_string(), reason: reason.into() }
    }

    fn refused(&self, status: &Status) -> NoResponse {
        let lost = match status.code() {
            Code::ResourceExhausted => return NoResponse::Busy,
            // It says what became of it.
            Code::Aborted => self.lost(status.message()),
            Code::Unavailable | Code::Unknown | Code::Cancelled => {
                self.lost(format!("the link broke: {}", status.message()))
            }
            code => self.lost(format!("it refused the action: {} ({code:?})", status.message())),
        };
        lost.into()
    }

    fn open_logs(&self, lease: &Lease) -> Result<Logs, WorkerLost> {
        let unable = |error| self.lost(format!("no place for its output here: {error}"));
        Logs::open(&self.home.logs, &lease.operation).map_err(unable)
    }

    /// Follows a run to its end.
    async fn follow(
        &self,
        mut answers: Streaming<peer::RunResponse>,
        requests: mpsc::Sender<peer::RunRequest>,
        progress: &mpsc::UnboundedSender<Progress>,
        cancel: &CancellationToken,
        logs: &mut Logs,
        root: Digest,
    ) -> Result<Vec<u8>, NoResponse> {
        let (sent, mut deadline) = (Instant::now(), None::<Instant>);
        loop {
            let answer = tokio::select! {
                answer = answers.message() => answer.map_err(|status| self.refused(&status))?,
                () = cancel.cancelled(), if deadline.is_none() => {
                    deadline = Some(Instant::now() + PATIENCE);
                    let end = run_request::Message::Cancel(peer::Cancel {});
                    // A machine that takes nothing is waited for all the same, and then given up.
                    let _ = requests.try_send(peer::RunRequest { message: Some(end) });
                    continue;
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    return Err(self.lost("it did not end an action when it was told to").into());
                }
            };
            let Some(answer) = answer else {
                return Err(self.lost("it ended a run without an answer").into());
            };
            match answer.message {
                Some(run_response::Message::Staging(staging)) => {
                    self.home.traces.staged(&self.name, root, staging.fetched_bytes, sent.elapsed());
                    tell(progress, Progress::Staging);
                }
                Some(run_response::Message::Running(_)) => tell(progress, logs.progress()),
                Some(run_response::Message::Output(output)) => logs.append(&output),
                Some(run_response::Message::Collecting(_)) => tell(progress, Progress::Collecting),
                Some(run_response::Message::Ended(ended)) => return Ok(ended.response),
                // From a newer version.
                None => {}
            }
        }
    }

    /// Reads what it answered, and brings the outputs here. Times are told by our clock.
    async fn take_in(
        &self,
        response: &[u8],
        function: DigestFunction,
        queued_at: SystemTime,
    ) -> Result<reapi::ExecuteResponse, NoResponse> {
        let mut response = reapi::ExecuteResponse::decode(response)
            .map_err(|error| self.lost(format!("its answer does not decode: {error}")))?;
        if let Some(reason) = response.status.as_ref().and_then(shortage_of) {
            return Err(self.lost(reason).into());
        }
        if let Some(result) = &mut response.result {
            self.bring(function, result).await?;
            if let Some(metadata) = &mut result.execution_metadata {
                clock::align(metadata, queued_at, SystemTime::now());
            }
        }
        Ok(response)
    }

    /// Brings what the result names into the store of this machine.
    async fn bring(&self, function: DigestFunction, result: &reapi::ActionResult) -> Result<(), WorkerLost> {
        let nonsense = |error| self.lost(format!("its result cannot be read: {error}"));
        for _ in 0..ROUNDS {
            let named = named(&*self.home.cas, function, result).await.map_err(nonsense)?;
            let is_last = named.unread.is_empty();
            let wanted: Vec<Digest> = if is_last { named.blobs.into_iter().collect() } else { named.unread };
            match self.home.fetcher.fetch(&wanted, std::slice::from_ref(&self.blobs)).await {
                Ok(_) if is_last => return Ok(()),
                Ok(_) => {}
                Err(error @ (FetchError::Missing(_) | FetchError::Source(_))) => {
                    return Err(self.lost(format!("its outputs did not come: {error}")));
                }
                Err(FetchError::Cas(error)) => {
                    return Err(self.lost(format!("its outputs cannot be stored here: {error}")));
                }
            }
        }
        Err(self.lost("its outputs are nested deeper than any client makes them"))
    }
}

/// Bytes of the files that a result names itself.
fn bytes_of(result: &reapi::ActionResult) -> u64 {
    let sizes = result.output_files.iter().filter_map(|file| file.digest.as_ref());
    sizes.map(|digest| u64::try_from(digest.size_bytes).unwrap_or_default()).sum()
}

fn tell(progress: &mpsc::UnboundedSender<Progress>, news: Progress) {
    // Whoever listened may have gone.
    let _ = progress.send(news);
}

#[async_trait]
impl Worker for RemoteWorker {
    fn name(&self) -> &str {
        &self.name
    }

    fn slots(&self) -> usize {
        self.slots.load(Ordering::Relaxed)
    }

    async fn set_slots(&self, _: usize) -> Result<(), SlotsError> {
        Err(SlotsError::Remote(self.name.to_string()))
    }

    fn mismatches(&self, requirements: &Requirements) -> Vec<String> {
        let facts = self.facts.read().unwrap_or_else(PoisonError::into_inner);
        let mut mismatches = requirements.mismatches(&facts);
        mismatches.extend(self.home.toolchain.mismatch(&facts.toolchain, requirements));
        mismatches
    }

    async fn execute(
        &self,
        lease: Lease,
        progress: mpsc::UnboundedSender<Progress>,
        cancel: CancellationToken,
    ) -> Result<reapi::ExecuteResponse, NoResponse> {
        let mut logs = self.open_logs(&lease)?;
        let (function, queued_at, root) = (lease.function(), lease.queued_at, lease.input_root);
        let build = lease.invocation.share();
        let holders = self.home.traces.holders(&build, self.id);
        let mut luggage = Luggage::pack(&*self.home.cas, &self.home.traces, &self.name, root).await;
        let guest = GuestLease { lease, holders, luggage: luggage.blobs() };
        let (requests, waiting) = mpsc::channel(2);
        let first = run_request::Message::Lease(guest.to_wire());
        // The channel is empty.
        let _ = requests.try_send(peer::RunRequest { message: Some(first) });
        let run = self.client.clone().run(ReceiverStream::new(waiting)).await;
        let run = match run.map_err(|status| self.refused(&status)) {
            Ok(run) => self.follow(run.into_inner(), requests, &progress, &cancel, &mut logs, root).await,
            Err(none) => Err(none),
        };
        let response = run.inspect_err(|_| luggage.came_back())?;
        let given_up = async {
            cancel.cancelled().await;
            sleep(PATIENCE).await;
        };
        let mut response = tokio::select! {
            biased;
            taken = self.take_in(&response, function, queued_at) => taken?,
            () = given_up => return Err(self.lost("its outputs did not come in time").into()),
        };
        if let Some(result) = &mut response.result {
            self.home.traces.made(self.id, &build, bytes_of(result));
            if let Some(metadata) = &mut result.execution_metadata {
                metadata.worker = self.name.to_string();
            }
        }
        Ok(response)
    }

    async fn join(
        &self,
        lease: Lease,
        progress: mpsc::UnboundedSender<Progress>,
        cancel: CancellationToken,
    ) -> Result<reapi::ExecuteResponse, NoResponse> {
        let mut logs = self.open_logs(&lease)?;
        let request = peer::JoinActionRequest {
            instance_name: lease.instance.to_string(),
            action_digest: lease.action_digest.to_string(),
        };
        // It goes on there for others: it is enough that nobody listens any more.
        let gave_up = || NoResponse::from(self.lost("it was waited for in vain"));
        let followed = async {
            let answers = self.client.clone().join(request).await.map_err(|_| NoResponse::Busy)?.into_inner();
            let (requests, _) = mpsc::channel(1);
            let run = self.follow(answers, requests, &progress, &cancel, &mut logs, lease.input_root);
            self.take_in(&run.await?, lease.function(), lease.queued_at).await
        };
        let response = cancel.run_until_cancelled(followed).await.ok_or_else(gave_up)??;
        // Why it did not run there concerns the clients there.
        let has_run = response.status.as_ref().is_none_or(|status| status.code == 0);
        if has_run { Ok(response) } else { Err(NoResponse::Busy) }
    }
}

// === impl Logs ===

impl Logs {
    fn open(directory: &Path, operation: &str) -> std::io::Result<Self> {
        let paths = ["stdout", "stderr"].map(|kind| directory.join(format!("{operation}.{kind}")));
        let files = [File::create_new(&paths[0])?, File::create_new(&paths[1])?];
        Ok(Self { paths, files, room: [MOST_SHOWN; 2] })
    }

    fn progress(&self) -> Progress {
        let [stdout, stderr] = self.paths.clone();
        Progress::Running { stdout, stderr }
    }

    /// Adds a piece, which is small. What cannot be written, or is too much, is not shown while it runs; the
    /// blobs of the result have it.
    fn append(&mut self, output: &peer::Output) {
        let which = usize::from(output.is_stderr);
        let left = self.room[which].checked_sub(output.data.len());
        // Nothing follows a piece that was left out.
        self.room[which] = left.unwrap_or(0);
        if left.is_some() {
            let _ = self.files[which].write_all(&output.data);
        }
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        // Whoever follows them has them open.
        self.paths.iter().for_each(|path| drop(std::fs::remove_file(path)));
    }
}

#[cfg(test)]
mod tests;
