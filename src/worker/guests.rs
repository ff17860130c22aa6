//! [`Guests`]: runs actions of other machines on this one.
//!
//! A guest is let in by whoever grants slots ([`Admission`]). Its inputs are fetched from the machines that
//! have them, if need be while it waits for its slot; then the worker of this machine runs it as its own. Its
//! owner is told each step, and its output as it comes. Whatever happens to the owner, nothing of a
//! guest stays: when its call ends, it is cancelled.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use farmhand_proto::peer::run_response::Message as Answer;
use farmhand_proto::peer::{self, run_request};
use farmhand_proto::reapi;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::inputs::InputError;
use super::lease::GuestLease;
use super::missing::missing_blobs;
use super::{Lease, NoResponse, Progress, Worker};
use crate::cas::fetch::{BlobSource, FetchError, Fetched, Fetcher};
use crate::digest::Digest;
use crate::peer::MachineId;
use crate::tasks::Tasks;

mod tail;

use tail::Tail;

/// Answers that wait to be sent.
const WAITING: usize = 16;

/// How often new output is looked for.
const INTERVAL: Duration = Duration::from_millis(100);

/// Rounds of fetching: each brings the directories one level further down.
const MAX_DEPTH: usize = 200;

/// Bytes from which on other machines than the owner are asked for them first.
const WORTH_ASKING: u64 = 1 << 20;

/// A worker that can say what it lacks for an action.
#[async_trait]
pub trait Host: Worker {
    /// Blobs below `root` that are not here, as far as can be told: of what is in Directories that
    /// are missing nothing is known. Empty when all is here.
    ///
    /// # Errors
    /// When the root is no usable one, or the store fails.
    async fn missing_inputs(&self, root: Digest) -> Result<Vec<Digest>, InputError>;

    /// Has them here as far as any machine of the farm has them; those that none has.
    ///
    /// # Errors
    /// As for [`missing_inputs`](Self::missing_inputs).
    async fn bring_inputs(&self, root: Digest) -> Result<Vec<Digest>, InputError> {
        self.missing_inputs(root).await
    }
}

/// Who may run an action here now.
pub trait Admission: Send + Sync + 'static {
    /// An action of `owner` came; `None` where it has no place here.
    fn arrive(&self, owner: MachineId, lease: &GuestLease) -> Option<Stay>;
}

/// An action of another machine that was let in: it has a slot, or has its inputs fetched until there is
/// one. It is over when this is dropped.
pub struct Stay {
    slot: oneshot::Receiver<()>,
    over: Option<Box<dyn Send + Sync>>,
}

/// Machines that blobs can be fetched from.
pub trait Sources: Send + Sync + 'static {
    /// The machine with this id, if it is linked.
    fn source(&self, id: MachineId) -> Option<Arc<dyn BlobSource>>;
}

/// Takes guests in.
pub struct Guests {
    host: Arc<dyn Host>,
    admission: Arc<dyn Admission>,
    sources: Arc<dyn Sources>,
    fetcher: Fetcher,
    tasks: Tasks,
}

/// What an owner sends.
pub type Requests = BoxStream<'static, Result<peer::RunRequest, Status>>;

/// What an owner is told.
pub type Answers = BoxStream<'static, Result<peer::RunResponse, Status>>;

/// A guest on its way.
struct Guest {
    host: Arc<dyn Host>,
    fetcher: Fetcher,
    lease: Lease,
    luggage: Vec<Bytes>,
    sources: Vec<Arc<dyn BlobSource>>,
    answers: mpsc::Sender<Result<peer::RunResponse, Status>>,
    cancel: CancellationToken,
}

// === impl Stay ===

impl Stay {
    /// It has a slot when `slot` says so, and none at all when that is dropped. `over` is dropped with it.
    pub fn new(slot: oneshot::Receiver<()>, over: impl Send + Sync + 'static) -> Self {
        Self { slot, over: Some(Box::new(over)) }
    }

    /// Gives the slot back.
    fn leave(&mut self) {
        drop(self.over.take());
    }

    /// Waits for the slot; `false` if there will be none.
    async fn has_slot(&mut self) -> bool {
        (&mut self.slot).await.is_ok()
    }
}

// === impl Guests ===

impl Guests {
    /// Has guests run by `host`, as `admission` allows, with blobs of `sources`.
    pub fn new(
        host: Arc<dyn Host>,
        fetcher: Fetcher,
        admission: Arc<dyn Admission>,
        sources: Arc<dyn Sources>,
        tasks: Tasks,
    ) -> Self {
        Self { host, fetcher, admission, sources, tasks }
    }

    /// Runs an action of `owner`, which sends `requests`. It ends when the answers are dropped.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` where nothing is granted, `INVALID_ARGUMENT` for a lease that makes no sense.
    pub async fn run(&self, owner: MachineId, mut requests: Requests) -> Result<Answers, Status> {
        let first = requests.next().await.transpose()?.and_then(|request| request.message);
        let Some(run_request::Message::Lease(lease)) = first else {
            return Err(Status::invalid_argument("a run begins with its lease"));
        };
        let guest = GuestLease::parse(lease, SystemTime::now())
            .map_err(|error| Status::invalid_argument(format!("the lease cannot be read: {error}")))?;
        let Some(home) = self.sources.source(owner) else {
            return Err(Status::resource_exhausted("there is no link to you to fetch inputs over"));
        };
        let Some(stay) = self.admission.arrive(owner, &guest) else {
            return Err(Status::resource_exhausted("no slot is granted to you any more"));
        };
        let (answers, told) = mpsc::channel(WAITING);
        let cancel = self.tasks.token().child_token();
        let until_dropped = cancel.clone().drop_guard();
        let guest = Guest {
            host: Arc::clone(&self.host),
            fetcher: self.fetcher.clone(),
            sources: self.sources_of(owner, home, &guest),
            lease: guest.lease,
            luggage: guest.luggage,
            answers,
            cancel,
        };
        self.tasks.spawn("guest", guest.work(requests, stay));
        let told = ReceiverStream::new(told).map(move |answer| {
            let _lives = &until_dropped;
            answer
        });
        Ok(told.boxed())
    }

    /// Those that the owner named, and itself at last.
    fn sources_of(
        &self,
        owner: MachineId,
        home: Arc<dyn BlobSource>,
        guest: &GuestLease,
    ) -> Vec<Arc<dyn BlobSource>> {
        let others = guest.holders.iter().filter(|holder| **holder != owner);
        others.filter_map(|id| self.sources.source(*id)).chain([home]).collect()
    }
}

// === impl Guest ===

impl Guest {
    async fn work(self, requests: Requests, mut stay: Stay) {
        let last = tokio::select! {
            biased;
            () = obey(requests, &self.cancel) => return,
            last = self.run(&mut stay) => last,
        };
        let last =
            last.map(|response| answer(Answer::Ended(peer::Ended { response: response.encode_to_vec() })));
        // An owner that went away hears nothing.
        let _ = self.answers.send(last).await;
    }

    async fn run(&self, stay: &mut Stay) -> Result<reapi::ExecuteResponse, Status> {
        // What is not to be run here needs no inputs here.
        match tokio::try_join!(self.inputs(), self.slot(stay))? {
            (Some(missing), ()) => {
                let status = Some(missing_blobs(&missing));
                Ok(reapi::ExecuteResponse { status, ..Default::default() })
            }
            (None, ()) => self.execute(stay).await.map_err(|none| match none {
                NoResponse::Lost(lost) => Status::aborted(lost.reason),
                NoResponse::Busy => Status::resource_exhausted("there is no slot for it after all"),
            }),
        }
    }

    async fn slot(&self, stay: &mut Stay) -> Result<(), Status> {
        match self.cancel.run_until_cancelled(stay.has_slot()).await {
            Some(false) => Err(Status::resource_exhausted("the slot went to somebody else")),
            Some(true) | None => Ok(()),
        }
    }

    /// Has the inputs here; those that nobody has.
    async fn inputs(&self) -> Result<Option<Vec<Digest>>, Status> {
        match self.bring_inputs().await {
            Ok(Fetched { blobs, bytes }) => {
                self.tell(Answer::Staging(peer::Staging { fetched_bytes: bytes, fetched_blobs: blobs }))
                    .await;
                Ok(None)
            }
            Err(FetchError::Missing(missing)) => Ok(Some(missing)),
            Err(FetchError::Source(error)) => Err(Status::aborted(format!("inputs did not come: {error}"))),
            Err(FetchError::Cas(error)) => Err(Status::aborted(format!("inputs cannot be stored: {error}"))),
        }
    }

    /// Fetches what is missing below the input root. What is wrong with it otherwise, the host says when it
    /// stages it.
    async fn bring_inputs(&self) -> Result<Fetched, FetchError> {
        let function = self.lease.input_root.function();
        let mut fetched = self.fetcher.keep(function, &self.luggage).await.map_err(FetchError::Cas)?;
        for _ in 0..MAX_DEPTH {
            let missing = match self.host.missing_inputs(self.lease.input_root).await {
                Ok(missing) if !missing.is_empty() => missing,
                _ => break,
            };
            let fetch = self.fetcher.fetch(&missing, self.sources_for(&missing));
            match self.cancel.run_until_cancelled(fetch).await {
                Some(Err(FetchError::Missing(_))) => {
                    self.bring_from_others().await?;
                    break;
                }
                Some(brought) => fetched += brought?,
                None => break,
            }
        }
        Ok(fetched)
    }

    /// Brings what those do not have of whom it is known what they have.
    async fn bring_from_others(&self) -> Result<(), FetchError> {
        let bring = self.host.bring_inputs(self.lease.input_root);
        match self.cancel.run_until_cancelled(bring).await {
            Some(Ok(missing)) if !missing.is_empty() => Err(FetchError::Missing(missing)),
            _ => Ok(()),
        }
    }

    /// Only what is large is worth asking others for before its owner, who surely has it.
    fn sources_for(&self, missing: &[Digest]) -> &[Arc<dyn BlobSource>] {
        let bytes = missing.iter().fold(0_u64, |sum, digest| sum.saturating_add(digest.size()));
        let owner = self.sources.len().saturating_sub(1);
        if bytes < WORTH_ASKING { &self.sources[owner..] } else { &self.sources }
    }

    async fn execute(&self, stay: &mut Stay) -> Result<reapi::ExecuteResponse, NoResponse> {
        let (progress, mut steps) = mpsc::unbounded_channel();
        let mut execution = self.host.execute(self.lease.clone(), progress, self.cancel.clone());
        let mut tail: Option<Tail> = None;
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                end = &mut execution => return end,
                Some(step) = steps.recv() => match step {
                    Progress::Staging => {}
                    // Its owner goes on to count it, which costs the owner only.
                    Progress::Yielded => stay.leave(),
                    Progress::Running { stdout, stderr } => {
                        tail = Tail::open([&stdout, &stderr]).ok();
                        self.tell(Answer::Running(peer::Running {})).await;
                    }
                    Progress::Collecting => {
                        tail = None;
                        self.tell(Answer::Collecting(peer::Collecting {})).await;
                    }
                },
                _ = ticks.tick(), if tail.is_some() => {
                    if let Some(tail) = &mut tail {
                        self.tell_output(tail);
                    }
                }
            }
        }
    }

    async fn tell(&self, news: Answer) {
        let _ = self.answers.send(Ok(answer(news))).await;
    }

    /// Tells new output as far as the owner takes it now; the rest is told next time.
    fn tell_output(&self, tail: &mut Tail) {
        while let Ok(room) = self.answers.try_reserve() {
            let Some(output) = tail.read() else { return };
            room.send(Ok(answer(Answer::Output(output))));
        }
    }
}

/// Cancels when the owner says so, or breaks off; never ends before the guest is cancelled and over.
async fn obey(mut requests: Requests, cancel: &CancellationToken) {
    while let Some(request) = requests.next().await {
        let is_end = match &request {
            Ok(request) => matches!(request.message, Some(run_request::Message::Cancel(_))),
            Err(_) => true,
        };
        if is_end {
            cancel.cancel();
        }
    }
    std::future::pending().await
}

fn answer(message: Answer) -> peer::RunResponse {
    peer::RunResponse { message: Some(message) }
}
