//! An owner and the machine that runs its actions, with a real connection between them and fake workers.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use bytes::Bytes;
use farmhand_proto::peer::peer_server::{Peer, PeerServer};
use futures_util::StreamExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response};

use super::*;
use crate::cas::ByteRange;
use crate::cas::fetch::{SourceError, SourceStream};
use crate::cas::memory::MemoryCas;
use crate::config::ToolchainRule;
use crate::digest::DigestFunction;
use crate::instance::InstanceName;
use crate::peer::MachineId;
use crate::tasks::Tasks;
use crate::worker::guests::{Admission, Answers, Guests, Host, Sources, Stay};
use crate::worker::inputs::InputError;

const OWNER: MachineId = MachineId::new([1; 32]);

/// The blobs of a store next door.
struct Neighbour(MemoryCas);

#[async_trait]
impl BlobSource for Neighbour {
    fn name(&self) -> &str {
        "neighbour"
    }

    async fn read_batch(&self, digests: &[Digest]) -> Result<Vec<(Digest, Bytes)>, SourceError> {
        let mut blobs = Vec::new();
        for digest in digests {
            if let Ok(data) = self.0.get(digest).await {
                blobs.push((*digest, data));
            }
        }
        Ok(blobs)
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<Option<SourceStream>, SourceError> {
        let data = self.0.get(digest).await.ok();
        assert_eq!(range, ByteRange::default());
        Ok(data.map(|data| futures_util::stream::iter([Ok(data)]).boxed()))
    }
}

/// What the fake worker does with an action.
type Script = Box<dyn Fn(&Lease, &mpsc::UnboundedSender<Progress>) -> Ending + Send + Sync>;

enum Ending {
    Response(Box<reapi::ExecuteResponse>),
    WhenCancelled,
    Lost,
}

struct FakeHost {
    cas: MemoryCas,
    /// What each root needs besides itself.
    inputs: Mutex<HashMap<Digest, Vec<Digest>>>,
    script: Script,
    was_cancelled: AtomicBool,
}

#[async_trait]
impl Worker for FakeHost {
    fn name(&self) -> &str {
        "host"
    }

    fn slots(&self) -> usize {
        1
    }

    async fn set_slots(&self, _: usize) -> Result<(), SlotsError> {
        Ok(())
    }

    fn mismatches(&self, _: &Requirements) -> Vec<String> {
        Vec::new()
    }

    async fn execute(
        &self,
        lease: Lease,
        progress: mpsc::UnboundedSender<Progress>,
        cancel: CancellationToken,
    ) -> Result<reapi::ExecuteResponse, NoResponse> {
        match (self.script)(&lease, &progress) {
            Ending::Response(response) => Ok(*response),
            Ending::Lost => {
                Err(WorkerLost { worker: "host".into(), reason: "its spawner died".into() }.into())
            }
            Ending::WhenCancelled => {
                cancel.cancelled().await;
                self.was_cancelled.store(true, Ordering::SeqCst);
                let status = Some(farmhand_proto::rpc::Status { code: 1, ..Default::default() });
                Ok(reapi::ExecuteResponse { status, ..Default::default() })
            }
        }
    }
}

#[async_trait]
impl Host for FakeHost {
    async fn missing_inputs(&self, root: Digest) -> Result<Vec<Digest>, InputError> {
        let missing = self.cas.find_missing(&[root]).await.unwrap();
        if !missing.is_empty() {
            return Ok(missing);
        }
        let inputs = self.inputs.lock().unwrap().get(&root).cloned().unwrap_or_default();
        Ok(self.cas.find_missing(&inputs).await.unwrap())
    }
}

/// Admits so many.
struct Door(AtomicUsize);

impl Admission for Door {
    fn arrive(&self, owner: MachineId, guest: &GuestLease) -> Option<Stay> {
        let is_known = owner == OWNER;
        let has_room = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |room| room.checked_sub(1));
        let (slot, waiting) = tokio::sync::oneshot::channel();
        if &*guest.lease.operation == "never" {
            return is_known.then(|| Stay::new(waiting, ()));
        }
        let _ = slot.send(());
        (is_known && has_room.is_ok()).then(|| Stay::new(waiting, ()))
    }
}

struct Neighbours(MemoryCas);

impl Sources for Neighbours {
    fn source(&self, id: MachineId) -> Option<Arc<dyn BlobSource>> {
        (id == OWNER).then(|| Arc::new(Neighbour(self.0.clone())) as Arc<dyn BlobSource>)
    }
}

/// Runs guests, and answers whoever joins an action.
struct Service(Guests, Joined);

/// What became of the action of others.
type Joined = Arc<Mutex<Option<reapi::ExecuteResponse>>>;

#[async_trait]
impl Peer for Service {
    type LinkStream = futures_util::stream::Empty<Result<peer::LinkMessage, Status>>;
    type RunStream = Answers;
    type JoinStream = Answers;

    async fn claim(&self, _: Request<peer::ClaimRequest>) -> Result<Response<peer::ClaimResponse>, Status> {
        Err(Status::unimplemented("no claims here"))
    }

    async fn join(&self, _: Request<peer::JoinActionRequest>) -> Result<Response<Answers>, Status> {
        let response = self.1.lock().unwrap().clone().ok_or(Status::not_found("no actions here"))?;
        let ended = peer::Ended { response: response.encode_to_vec() };
        let answer = peer::RunResponse { message: Some(run_response::Message::Ended(ended)) };
        Ok(Response::new(futures_util::stream::iter([Ok(answer)]).boxed()))
    }

    async fn link(
        &self,
        _: Request<Streaming<peer::LinkMessage>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        Err(Status::unimplemented("no links here"))
    }

    async fn run(&self, request: Request<Streaming<peer::RunRequest>>) -> Result<Response<Answers>, Status> {
        self.0.run(OWNER, request.into_inner().boxed()).await.map(Response::new)
    }

    async fn take_key(
        &self,
        _: Request<peer::TakeKeyRequest>,
    ) -> Result<Response<peer::TakeKeyResponse>, Status> {
        Err(Status::unimplemented("no keys here"))
    }
}

struct Bench {
    /// Of the owner, and of the machine that runs its actions.
    owner: MemoryCas,
    host: Arc<FakeHost>,
    worker: RemoteWorker,
    joined: Joined,
    server: CancellationToken,
    tasks: Tasks,
    logs: tempfile::TempDir,
}

impl Bench {
    async fn new(
        script: impl Fn(&Lease, &mpsc::UnboundedSender<Progress>) -> Ending + Send + Sync + 'static,
    ) -> Self {
        let (owner, cas, tasks) = (MemoryCas::default(), MemoryCas::default(), Tasks::default());
        let host = Arc::new(FakeHost {
            cas: cas.clone(),
            inputs: Mutex::default(),
            script: Box::new(script),
            was_cancelled: AtomicBool::new(false),
        });
        let guests = Guests::new(
            host.clone(),
            Fetcher::new(Arc::new(cas.clone())),
            Arc::new(Door(AtomicUsize::new(2))),
            Arc::new(Neighbours(owner.clone())),
            tasks.clone(),
        );
        let joined = Joined::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = CancellationToken::new();
        let serve = tonic::transport::Server::builder()
            .add_service(PeerServer::new(Service(guests, joined.clone())))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let end = server.clone();
        tasks.spawn("server", async move {
            tokio::select! { _ = serve => {}, () = end.cancelled() => {} }
        });
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
        let logs = tempfile::tempdir().unwrap();
        let home = Home {
            cas: Arc::new(owner.clone()),
            fetcher: Fetcher::new(Arc::new(owner.clone())),
            logs: logs.path().to_owned(),
            traces: Traces::default(),
            toolchain: OwnToolchain {
                rule: ToolchainRule::default(),
                fingerprint: watch::channel(Arc::default()).1,
            },
        };
        let blobs = Arc::new(Neighbour(cas));
        let channel = crate::peer::link::boxed(endpoint.connect().await.unwrap());
        let worker =
            RemoteWorker::new("far", MachineId::new([3; 32]), channel, blobs, MachineFacts::default(), home);
        worker.granted(2);
        Self { owner, host, worker, joined, server, tasks, logs }
    }

    fn lease(&self, root: Digest) -> Lease {
        Lease {
            operation: "op-1".into(),
            instance: InstanceName::default(),
            action_digest: digest(b"action"),
            command: Arc::new(reapi::Command { arguments: vec!["true".into()], ..Default::default() }),
            input_root: root,
            platform: Arc::default(),
            timeout: Duration::from_secs(60),
            queued_at: SystemTime::UNIX_EPOCH,
            person: "anna".into(),
            is_guest: false,
            invocation: Arc::default(),
        }
    }

    async fn run(&self, root: Digest) -> Result<reapi::ExecuteResponse, NoResponse> {
        let (progress, _steps) = mpsc::unbounded_channel();
        self.worker.execute(self.lease(root), progress, CancellationToken::new()).await
    }
}

fn digest(data: &[u8]) -> Digest {
    Digest::of(DigestFunction::Sha256, data)
}

fn result_with(outputs: &[&'static [u8]]) -> Ending {
    let file = |data: &&'static [u8]| reapi::OutputFile {
        path: format!("out-{}", data.len()),
        digest: Some(digest(data).to_wire()),
        ..Default::default()
    };
    let result = reapi::ActionResult {
        output_files: outputs.iter().map(file).collect(),
        execution_metadata: Some(reapi::ExecutedActionMetadata {
            worker: "it calls itself otherwise".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    Ending::Response(Box::new(reapi::ExecuteResponse { result: Some(result), ..Default::default() }))
}

async fn put(cas: &MemoryCas, data: &'static [u8]) -> Digest {
    cas.put(&digest(data), Bytes::from_static(data)).await.unwrap();
    digest(data)
}

#[tokio::test]
async fn inputs_go_there_and_outputs_come_back_before_it_is_told() {
    let bench = Bench::new(|lease, _| {
        assert_eq!((&*lease.person, lease.timeout), ("anna", Duration::from_secs(60)));
        result_with(&[b"made there"])
    })
    .await;
    let (root, below) = (put(&bench.owner, b"root").await, put(&bench.owner, b"below").await);
    bench.host.inputs.lock().unwrap().insert(root, vec![below]);
    let made = put(&bench.host.cas, b"made there").await;
    let response = bench.run(root).await.unwrap();
    let metadata = response.result.unwrap().execution_metadata.unwrap();
    assert_eq!(metadata.worker, "far", "the name that this farm knows it by");
    assert_eq!(metadata.queued_timestamp.unwrap().seconds, 0);
    assert!(bench.host.cas.find_missing(&[root, below]).await.unwrap().is_empty());
    assert!(bench.owner.find_missing(&[made]).await.unwrap().is_empty());
    assert!(std::fs::read_dir(bench.logs.path()).unwrap().next().is_none(), "no log stays");
}

#[tokio::test]
async fn inputs_that_nobody_has_are_named_as_they_are_at_home() {
    let bench = Bench::new(|_, _| result_with(&[])).await;
    let root = put(&bench.owner, b"root").await;
    bench.host.inputs.lock().unwrap().insert(root, vec![digest(b"lost")]);
    let response = bench.run(root).await.unwrap();
    let status = response.status.unwrap();
    assert_eq!(status, crate::worker::missing::missing_blobs(&[digest(b"lost")]));
}

#[tokio::test]
async fn outputs_that_do_not_come_are_a_loss() {
    let bench = Bench::new(|_, _| result_with(&[b"never stored"])).await;
    let root = put(&bench.owner, b"root").await;
    let lost = bench.run(root).await.unwrap_err();
    let NoResponse::Lost(lost) = lost else { panic!("lost") };
    assert_eq!(lost.worker, "far");
    assert!(lost.reason.contains("outputs did not come"), "{lost}");
}

#[tokio::test]
async fn a_worker_that_is_lost_there_is_lost_here_with_its_reason() {
    let bench = Bench::new(|_, _| Ending::Lost).await;
    let root = put(&bench.owner, b"root").await;
    let lost = bench.run(root).await.unwrap_err();
    assert!(lost.to_string().contains("its spawner died"), "{lost}");
}

#[tokio::test]
async fn output_comes_while_the_command_runs() {
    let directory = tempfile::tempdir().unwrap();
    let paths = ["out", "err"].map(|name| directory.path().join(name));
    std::fs::write(&paths[0], "so far").unwrap();
    std::fs::write(&paths[1], "").unwrap();
    let [stdout, stderr] = paths;
    let bench = Bench::new(move |_, progress| {
        progress.send(Progress::Running { stdout: stdout.clone(), stderr: stderr.clone() }).unwrap();
        Ending::WhenCancelled
    })
    .await;
    let root = put(&bench.owner, b"root").await;
    let (progress, mut steps) = mpsc::unbounded_channel();
    let cancel = CancellationToken::new();
    let look = async {
        let stdout = loop {
            match steps.recv().await.unwrap() {
                Progress::Running { stdout, .. } => break stdout,
                _ => continue,
            }
        };
        while std::fs::read_to_string(&stdout).unwrap() != "so far" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        cancel.cancel();
    };
    let (response, ()) =
        tokio::join!(bench.worker.execute(bench.lease(root), progress, cancel.clone()), look);
    assert_eq!(response.unwrap().status.unwrap().code, 1);
    assert!(bench.host.was_cancelled.load(Ordering::SeqCst));
}

#[tokio::test]
async fn an_owner_that_goes_away_takes_its_guests_along() {
    let bench = Bench::new(|_, _| Ending::WhenCancelled).await;
    let root = put(&bench.owner, b"root").await;
    let run = bench.run(root);
    tokio::time::timeout(Duration::from_millis(300), run).await.unwrap_err();
    while !bench.host.was_cancelled.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_link_that_breaks_is_a_loss() {
    let bench = Bench::new(|_, _| Ending::WhenCancelled).await;
    let root = put(&bench.owner, b"root").await;
    let stop = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        bench.server.cancel();
        bench.tasks.stop().await;
    };
    let (outcome, ()) = tokio::join!(bench.run(root), stop);
    // The guest was cancelled with its node, and said so, or the link broke before.
    assert!(outcome.is_err() || outcome.unwrap().status.unwrap().code == 1);
}

#[tokio::test]
async fn who_was_let_in_ahead_of_a_slot_may_be_handed_back() {
    let bench = Bench::new(|_, _| result_with(&[])).await;
    let root = put(&bench.owner, b"root").await;
    let (progress, _steps) = mpsc::unbounded_channel();
    let lease = Lease { operation: "never".into(), ..bench.lease(root) };
    let lost = bench.worker.execute(lease, progress, CancellationToken::new()).await.unwrap_err();
    assert!(matches!(lost, NoResponse::Busy), "{lost}");
}

#[tokio::test]
async fn what_ended_for_the_clients_there_ended_for_those_only() {
    let bench = Bench::new(|_, _| result_with(&[])).await;
    let root = put(&bench.owner, b"root").await;
    let join = async || {
        let (progress, _steps) = mpsc::unbounded_channel();
        bench.worker.join(bench.lease(root), progress, CancellationToken::new()).await
    };
    assert!(matches!(join().await, Err(NoResponse::Busy)), "nobody sees to it there");
    for code in [Code::Cancelled, Code::Aborted, Code::FailedPrecondition] {
        let status = Some(farmhand_proto::rpc::Status { code: code as i32, ..Default::default() });
        *bench.joined.lock().unwrap() = Some(reapi::ExecuteResponse { status, ..Default::default() });
        assert!(matches!(join().await, Err(NoResponse::Busy)), "{code:?}");
    }
    let result = Some(reapi::ActionResult { exit_code: 3, ..Default::default() });
    *bench.joined.lock().unwrap() = Some(reapi::ExecuteResponse { result, ..Default::default() });
    assert_eq!(join().await.unwrap().result.unwrap().exit_code, 3);
}
