//! A worker that a test plays by hand, and readers of what its commands write.

use std::fs;
use std::path::PathBuf;

use async_trait::async_trait;
use farmhand_proto::control::operation::Stage;
use farmhand_proto::control::{self, GetStatusResponse};
use farmhand_proto::reapi::ActionResult;
use farmhand_proto::{reapi, rpc};
use futures_util::StreamExt;
use prost::Message;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::super::{ControlSource, testing};
use super::*;
use crate::cas::memory::MemoryCas;
use crate::digest::DigestFunction::Sha256;
use crate::execution::testing::{Farm, request};
use crate::execution::{OperationId, OperationWatch, Settings, response};
use crate::history::History;
use crate::platform::Requirements;
use crate::worker::{Lease, NoResponse, Progress, SlotsError, Worker, WorkerLost};

/// Hands each lease to the test.
struct HandWorker(mpsc::UnboundedSender<Handed>);

/// A lease in the hands of the test.
struct Handed {
    progress: mpsc::UnboundedSender<Progress>,
    cancel: CancellationToken,
    reply: oneshot::Sender<Result<reapi::ExecuteResponse, NoResponse>>,
}

#[async_trait]
impl Worker for HandWorker {
    fn name(&self) -> &str {
        "hand"
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
        _: Lease,
        progress: mpsc::UnboundedSender<Progress>,
        cancel: CancellationToken,
    ) -> Result<reapi::ExecuteResponse, NoResponse> {
        let (reply, answer) = oneshot::channel();
        self.0.send(Handed { progress, cancel, reply }).ok();
        answer.await.unwrap()
    }
}

/// A node that runs nothing else.
struct Silent;

#[async_trait]
impl ControlSource for Silent {
    async fn status(&self) -> GetStatusResponse {
        GetStatusResponse::default()
    }

    async fn operations(&self) -> Vec<control::Operation> {
        Vec::new()
    }
}

struct Bench {
    farm: Farm,
    leases: mpsc::UnboundedReceiver<Handed>,
    directory: tempfile::TempDir,
    service: Arc<ControlService>,
}

impl Bench {
    fn new() -> Self {
        Self::with_history(&[])
    }

    /// Where the scheduler has forgotten what is in the history.
    fn with_history(records: &[Record]) -> Self {
        let farm = Farm::new(Settings::default());
        let (sender, leases) = mpsc::unbounded_channel();
        farm.scheduler.add_worker(Arc::new(HandWorker(sender)));
        let directory = tempfile::tempdir().unwrap();
        let mut parts = testing::of_farm(Silent, &farm);
        if !records.is_empty() {
            parts.history = History::open(&directory.path().join("history"), 1000);
            records.iter().for_each(|record| parts.history.remember(record.clone()));
        }
        let service = Arc::new(ControlService::new(parts));
        Self { farm, leases, directory, service }
    }

    /// Starts an action and takes its lease.
    async fn start(&mut self) -> (OperationWatch, Handed) {
        let action = self.farm.action_with(&["any"], |action, _| action.do_not_cache = true);
        let watch = self.farm.scheduler.execute(request(action)).await.unwrap();
        (watch, self.leases.recv().await.unwrap())
    }

    /// A file that a command writes to.
    fn log(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Opens a stream of `operation`.
    async fn read(
        &self,
        operation: &str,
        offset: i64,
        follow: bool,
    ) -> Result<Replies<ReadOutputResponse>, Status> {
        let stream = WireStream::Stdout.into();
        let request = ReadOutputRequest { operation: operation.to_owned(), stream, offset, follow };
        self.service.read_output(Request::new(request)).await.map(Response::into_inner)
    }

    /// Reads all that is told without following: bytes, and whether it was all.
    async fn all(&self, operation: &str, offset: i64) -> Result<(String, bool), Status> {
        rest(&mut self.read(operation, offset, false).await?).await
    }
}

impl Handed {
    fn runs(&self, stdout: PathBuf) {
        let stderr = "/nowhere".into();
        self.progress.send(Progress::Running { stdout, stderr }).unwrap();
    }

    fn end(self, status: Code, log: Digest) {
        let response = reapi::ExecuteResponse {
            result: Some(reapi::ActionResult { stdout_digest: Some(log.to_wire()), ..Default::default() }),
            status: Some(rpc::Status { code: status as i32, ..Default::default() }),
            ..Default::default()
        };
        self.reply.send(Ok(response)).unwrap();
    }
}

fn append(path: &std::path::Path, text: &str) {
    use std::io::Write;
    fs::File::options().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn kept(cas: &MemoryCas, text: &str) -> Digest {
    cas.insert(Sha256, text.to_owned())
}

async fn rest(stream: &mut Replies<ReadOutputResponse>) -> Result<(String, bool), Status> {
    let (mut text, mut ended) = (Vec::new(), false);
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        assert!(!ended, "nothing follows the end");
        ended = piece.ended;
        text.extend(piece.data);
    }
    Ok((String::from_utf8(text).unwrap(), ended))
}

/// The next message, which has bytes: where they begin, and they.
async fn piece(stream: &mut Replies<ReadOutputResponse>) -> (u64, String) {
    let piece = stream.next().await.unwrap().unwrap();
    (piece.offset, String::from_utf8(piece.data).unwrap())
}

fn name(watch: &OperationWatch) -> String {
    watch.operation().id.to_string()
}

#[tokio::test(start_paused = true)]
async fn goes_on_in_the_kept_log_without_gap_or_doubling() {
    let mut bench = Bench::new();
    let (mut watch, lease) = bench.start().await;
    let mut waiting = bench.read(&name(&watch), 0, true).await.unwrap();
    let log = bench.log("out", "one ");
    lease.runs(log.clone());
    assert_eq!(piece(&mut waiting).await, (0, "one ".into()));
    append(&log, "two ");
    assert_eq!(piece(&mut waiting).await, (4, "two ".into()));
    assert_eq!(bench.all(&name(&watch), 0).await.unwrap(), ("one two ".into(), false));
    assert_eq!(bench.all(&name(&watch), -3).await.unwrap(), ("wo ".into(), false));
    // What was written last is seen in the kept log only.
    fs::remove_file(&log).unwrap();
    lease.end(Code::Ok, kept(&bench.farm.cas, "one two three"));
    assert_eq!(rest(&mut waiting).await.unwrap(), ("three".into(), true));
    watch.done().await;
    assert_eq!(bench.all(&name(&watch), 4).await.unwrap(), ("two three".into(), true));
    assert_eq!(bench.all(&name(&watch), -5).await.unwrap(), ("three".into(), true));
    assert_eq!(bench.all(&name(&watch), 99).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test(start_paused = true)]
async fn begins_anew_when_the_command_does() {
    let mut bench = Bench::new();
    let (watch, lease) = bench.start().await;
    let mut stream = bench.read(&name(&watch), 0, true).await.unwrap();
    lease.runs(bench.log("first", "in memory"));
    assert_eq!(piece(&mut stream).await, (0, "in memory".into()));
    lease.runs(bench.log("second", "on disk"));
    assert_eq!(piece(&mut stream).await, (0, "on disk".into()));
    // The third is over before anybody has seen it.
    lease.runs(bench.log("third", "unseen"));
    lease.end(Code::Ok, kept(&bench.farm.cas, "third one"));
    let (mut text, mut began) = (String::new(), false);
    while let Some(piece) = stream.next().await {
        let piece = piece.unwrap();
        began |= piece.offset == 0;
        if piece.offset == 0 {
            text.clear();
        }
        text.push_str(std::str::from_utf8(&piece.data).unwrap());
    }
    assert_eq!((text.as_str(), began), ("third one", true));
}

#[tokio::test(start_paused = true)]
async fn begins_anew_when_the_worker_was_lost_or_the_file_cut() {
    let mut bench = Bench::new();
    let (watch, lease) = bench.start().await;
    let mut stream = bench.read(&name(&watch), 0, true).await.unwrap();
    let log = bench.log("a", "long text");
    lease.runs(log.clone());
    assert_eq!(piece(&mut stream).await, (0, "long text".into()));
    fs::write(&log, "cut").unwrap();
    assert_eq!(piece(&mut stream).await, (0, "cut".into()));
    let lost = WorkerLost { worker: "hand".into(), reason: "unplugged".into() };
    lease.reply.send(Err(lost.into())).unwrap();
    let lease = bench.leases.recv().await.unwrap();
    lease.runs(bench.log("b", "again"));
    assert_eq!(piece(&mut stream).await, (0, "again".into()));
    lease.end(Code::Ok, kept(&bench.farm.cas, "again!"));
    assert_eq!(rest(&mut stream).await.unwrap(), ("!".into(), true));
}

#[tokio::test(start_paused = true)]
async fn what_a_cancelled_action_wrote_is_kept() {
    let mut bench = Bench::new();
    let (mut watch, lease) = bench.start().await;
    lease.runs(bench.log("out", "so far"));
    let mut stream = bench.read(&name(&watch), 0, true).await.unwrap();
    assert_eq!(piece(&mut stream).await, (0, "so far".into()));
    assert!(bench.farm.scheduler.cancel(&name(&watch)));
    watch.done().await;
    // The operation is over; its command is being stopped, and writes its last.
    lease.cancel.cancelled().await;
    lease.end(Code::Cancelled, kept(&bench.farm.cas, "so far, so good"));
    assert_eq!(rest(&mut stream).await.unwrap(), (", so good".into(), true));
    assert_eq!(bench.all(&name(&watch), 0).await.unwrap(), ("so far, so good".into(), true));
}

#[tokio::test(start_paused = true)]
async fn what_never_ran_wrote_nothing_and_says_why() {
    let mut bench = Bench::new();
    let (_running, lease) = bench.start().await;
    let queued = bench.farm.scheduler.execute(request(bench.farm.action(&["other"]))).await.unwrap();
    assert_eq!(bench.all(&name(&queued), 0).await.unwrap(), (String::new(), false));
    let mut stream = bench.read(&name(&queued), 0, true).await.unwrap();
    bench.farm.scheduler.cancel(&name(&queued));
    let error = stream.next().await.unwrap().err().unwrap();
    assert_eq!(error.code(), Code::NotFound);
    assert!(error.message().contains("cancelled the operation"), "{error}");
    drop(lease.reply.send(Ok(response::cancelled("test"))));
    for unknown in ["operations/x", &OperationId::random().to_string(), &format!("{}/1", "ab".repeat(32))] {
        let error = bench.read(unknown, 0, false).await.err().unwrap();
        assert!(matches!(error.code(), Code::NotFound | Code::InvalidArgument), "{unknown}: {error}");
    }
}

#[tokio::test]
async fn an_action_is_found_by_digest_in_history_and_cache() {
    let action = Digest::of(Sha256, b"an action");
    let record = |id: u32, result: Option<ActionResult>| Record {
        operation: control::Operation {
            name: OperationId::from_number(id.into()).to_string(),
            action_digest: action.to_string(),
            stage: Stage::Done.into(),
            sequence: id.into(),
            ..Default::default()
        },
        result: result.map(|result| result.encode_to_vec()),
        ..Default::default()
    };
    let log = ActionResult { stdout_raw: b"from the history".to_vec(), ..Default::default() };
    let bench = Bench::with_history(&[record(1, None), record(2, Some(log))]);
    let old = OperationId::from_number(2).to_string();
    for named in [action.to_string(), action.hash_hex(), old] {
        assert_eq!(bench.all(&named, -7).await.unwrap(), ("history".into(), true), "{named}");
    }

    let bench = Bench::with_history(&[record(1, None)]);
    assert_eq!(bench.all(&action.to_string(), 0).await.unwrap_err().code(), Code::NotFound);
    let result = ActionResult { stdout_raw: b"from the cache".to_vec(), ..Default::default() };
    let key = ActionKey { instance: InstanceName::default(), action };
    crate::action_cache::ActionCache::put(&bench.farm.action_cache, &key, result).await.unwrap();
    assert_eq!(bench.all(&action.to_string(), 0).await.unwrap(), ("from the cache".into(), true));
}

#[tokio::test(start_paused = true)]
async fn long_logs_come_in_small_pieces() {
    let mut bench = Bench::new();
    let (mut watch, lease) = bench.start().await;
    let text = "0123456789abcdef".repeat(30_000);
    lease.runs(bench.log("out", &text));
    let mut stream = bench.read(&name(&watch), 0, true).await.unwrap();
    let mut live = String::new();
    while live.len() < text.len() {
        let (offset, data) = piece(&mut stream).await;
        assert!(offset == live.len() as u64 && data.len() <= 64 << 10);
        live.push_str(&data);
    }
    assert_eq!(live, text);
    lease.end(Code::Ok, kept(&bench.farm.cas, &text));
    watch.done().await;
    let mut stream = bench.read(&name(&watch), 0, false).await.unwrap();
    while let Some(piece) = stream.next().await {
        assert!(piece.unwrap().data.len() <= 64 << 10);
    }
}
