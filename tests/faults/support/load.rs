//! Mixed load: small and large blobs by every way in, action results, reads, FindMissing, actions.
//! What is acknowledged goes into the book.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use farmhand::digest::Digest;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::book::{Blob, action_of};
use super::{ActionBuilder, Book, Client, Dice};

/// Tasks that put load on the node.
const WORKERS: u64 = 6;

/// Action results each of them works on.
const KEYS: u64 = 200;

/// Pause after an error that is put up with.
const PAUSE: Duration = Duration::from_millis(20);

/// What the load consists of, and what may happen to it.
#[derive(Clone, Copy)]
pub(crate) struct Mix {
    /// Whether actions run.
    pub(crate) actions: bool,
    /// Errors that are no surprise: the call is not counted as acknowledged.
    pub(crate) tolerated: &'static [Code],
    /// Whether blobs that were acknowledged may go.
    pub(crate) may_lose: bool,
}

/// Load under way.
pub(crate) struct Load {
    shared: Arc<Shared>,
    workers: JoinSet<()>,
}

struct Shared {
    book: Arc<Book>,
    mix: Mix,
    ending: AtomicBool,
    surprises: Mutex<Vec<String>>,
    tolerated: AtomicU64,
}

/// One task.
struct Worker {
    shared: Arc<Shared>,
    client: Client,
    dice: Dice,
    number: u64,
}

impl Default for Mix {
    fn default() -> Self {
        Self { actions: true, tolerated: &[], may_lose: false }
    }
}

// === impl Load ===

impl Load {
    /// Begins. Errors end it with a surprise, unless they come after [`expect_end`](Self::expect_end).
    pub(crate) async fn start(address: SocketAddr, book: &Arc<Book>, dice: &mut Dice, mix: Mix) -> Self {
        let shared = Arc::new(Shared {
            book: Arc::clone(book),
            mix,
            ending: AtomicBool::new(false),
            surprises: Mutex::default(),
            tolerated: AtomicU64::new(0),
        });
        let mut workers = JoinSet::new();
        for number in 0..WORKERS {
            let client = Client::connect(address, "").await;
            let dice = dice.fork(number);
            let worker = Worker { shared: Arc::clone(&shared), client, dice, number };
            workers.spawn(worker.run());
        }
        dice.roll();
        Self { shared, workers }
    }

    /// From here on errors are no surprise.
    pub(crate) fn expect_end(&self) {
        self.shared.ending.store(true, Ordering::SeqCst);
    }

    /// Errors that were put up with so far.
    pub(crate) fn tolerated(&self) -> u64 {
        self.shared.tolerated.load(Ordering::Relaxed)
    }

    /// Waits for all workers. Panics if there was a surprise.
    pub(crate) async fn end(mut self) {
        self.expect_end();
        while let Some(ended) = self.workers.join_next().await {
            ended.unwrap();
        }
        let surprises = self.shared.surprises.lock().unwrap();
        assert!(surprises.is_empty(), "under load: {surprises:#?}");
    }
}

// === impl Worker ===

impl Worker {
    async fn run(mut self) {
        while !self.is_ending() {
            let Err(status) = self.step().await else { continue };
            if self.is_ending() {
                return;
            }
            if self.shared.mix.tolerated.contains(&status.code()) {
                self.shared.tolerated.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            self.shared.surprises.lock().unwrap().push(status.to_string());
            return;
        }
    }

    fn is_ending(&self) -> bool {
        self.shared.ending.load(Ordering::SeqCst)
    }

    async fn step(&mut self) -> Result<(), Status> {
        match self.dice.below(100) {
            0..40 => self.write_batch().await,
            40..60 => self.write_stream().await,
            60..80 => self.update_result().await,
            80..88 => self.find_missing().await,
            88..96 => self.read().await,
            _ if self.shared.mix.actions => self.execute().await,
            _ => self.write_batch().await,
        }
    }

    fn new_blob(&mut self) -> (Blob, Vec<u8>, Digest) {
        let blob = Blob::Random(self.dice.roll());
        let data = blob.bytes();
        let digest = self.client.digest(&data);
        (blob, data, digest)
    }

    async fn write_batch(&mut self) -> Result<(), Status> {
        let count = 1 + self.dice.below(12) as usize;
        let mut blobs = Vec::new();
        while blobs.len() < count {
            let blob = self.new_blob();
            if blob.1.len() <= 300 << 10 {
                blobs.push(blob);
            }
        }
        let requests: Vec<(Digest, &[u8])> =
            blobs.iter().map(|(_, data, digest)| (*digest, &data[..])).collect();
        let response = self.client.batch_update(&requests).await?;
        let mut failed = None;
        for answer in response.responses {
            let digest = Digest::from_field(self.client.function, answer.digest.as_ref()).unwrap();
            let status = answer.status.unwrap_or_default();
            if status.code == 0 {
                let blob = blobs.iter().find(|(_, _, known)| *known == digest).unwrap();
                self.shared.book.acknowledge(blob.0, digest);
            } else {
                failed = Some(Status::new(Code::from(status.code), status.message));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn write_stream(&mut self) -> Result<(), Status> {
        let (blob, data, digest) = self.new_blob();
        let committed = self.client.write(&digest, &data).await?;
        assert_eq!(committed, data.len() as i64);
        self.shared.book.acknowledge(blob, digest);
        Ok(())
    }

    async fn update_result(&mut self) -> Result<(), Status> {
        let Some(output) = self.shared.book.some_blobs(&mut self.dice, 1).pop() else { return Ok(()) };
        // Nobody else writes this one, so versions have an order.
        let key = self.number * KEYS + self.dice.below(KEYS);
        let result = self.shared.book.next_version(key, output.digest);
        self.client.update_action_result(&action_of(key), result).await?;
        self.shared.book.acknowledge_version(key);
        Ok(())
    }

    async fn find_missing(&mut self) -> Result<(), Status> {
        let some = self.shared.book.some_blobs(&mut self.dice, 100);
        let digests: Vec<Digest> = some.iter().map(|blob| blob.digest).collect();
        let missing = self.client.find_missing(&digests).await?;
        if missing.is_empty() || self.shared.mix.may_lose {
            return Ok(());
        }
        Err(Status::data_loss(format!("acknowledged, and missing now: {missing:?}")))
    }

    async fn read(&mut self) -> Result<(), Status> {
        let some = self.shared.book.some_blobs(&mut self.dice, 1);
        let Some(blob) = some.first() else { return Ok(()) };
        match self.client.read(&blob.digest).await {
            Ok(data) if data == blob.blob.bytes() => Ok(()),
            Ok(_) => Err(Status::data_loss(format!("wrong bytes: {blob:?}"))),
            Err(status) if status.code() == Code::NotFound && self.shared.mix.may_lose => Ok(()),
            Err(status) if status.code() == Code::NotFound => {
                Err(Status::data_loss(format!("acknowledged, and not found now: {blob:?}")))
            }
            Err(status) => Err(status),
        }
    }

    /// Runs an action and takes over what it made.
    async fn execute(&mut self) -> Result<(), Status> {
        let number = self.dice.roll();
        let script = format!("printf 'made by action {number}\\n' > out");
        let action = ActionBuilder::sh(&script).outputs(&["out"]);
        let (digest, blobs) = action.blobs(&self.client);
        for data in &blobs {
            self.client.write(&self.client.digest(data), data).await?;
        }
        let stream = action.start(&self.client, &digest).await?;
        let outcome = last_response(stream).await?;
        let status = outcome.status.unwrap_or_default();
        if status.code != 0 {
            return Err(Status::new(Code::from(status.code), status.message));
        }
        let result = outcome.result.ok_or_else(|| Status::data_loss("no result"))?;
        let made = Blob::Made(number);
        let digest = self.client.digest(&made.bytes());
        if result.output_files[0].digest.as_ref() != Some(&digest.to_wire()) {
            return Err(Status::data_loss(format!("action {number} made something else")));
        }
        self.shared.book.acknowledge(made, digest);
        Ok(())
    }
}

/// The response of an Execute call. As the tests' `finish`, for calls that may break off.
async fn last_response(
    mut stream: tonic::Streaming<farmhand_proto::longrunning::Operation>,
) -> Result<farmhand_proto::reapi::ExecuteResponse, Status> {
    while let Some(operation) = stream.message().await? {
        if operation.done {
            return Ok(super::action::response(&operation));
        }
    }
    Err(Status::unavailable("the stream ended before the operation"))
}
