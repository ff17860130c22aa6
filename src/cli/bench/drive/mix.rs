//! A bit of everything at once, for as long as it is asked: what a busy node goes through.
//!
//! Every answer is checked. The server may forget what nobody used for a while, and may be full; it may
//! never answer with something else.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use farmhand_proto::reapi;
use futures_util::future;
use prost::Message;
use serde_json::json;
use tokio::time::Instant;
use tonic::Code;

use super::super::super::error::CliError;
use super::super::super::remote::{Blob, CallError, Client};
use super::super::blobs::Maker;
use super::{action, print_line};
use crate::dice::Dice;
use crate::digest::{Digest, DigestFunction, Hasher};

/// What goes on at once.
const IN_FLIGHT: usize = 6;

/// Blobs and actions that are remembered, to be asked for again.
const REMEMBERED: usize = 2000;

/// Time between reports.
const REPORT: Duration = Duration::from_secs(1);

/// After how long a call that is to be cancelled is.
const CANCEL_AFTER: Duration = Duration::from_millis(30);

/// How often it is tried to go on with an upload before it is made anew.
const RESUMES: usize = 200;

/// The kinds of work, each as often as it stands here.
const WORK: [Work; 13] = [
    Work::WriteBatch,
    Work::WriteBatch,
    Work::WriteStream,
    Work::Read,
    Work::Read,
    Work::Read,
    Work::FindMissing,
    Work::Run,
    Work::Run,
    Work::RunAgain,
    Work::CancelRun,
    Work::CancelRead,
    Work::Resume,
];

#[derive(Clone, Copy, Debug)]
enum Work {
    WriteBatch,
    WriteStream,
    Read,
    FindMissing,
    Run,
    RunAgain,
    CancelRun,
    CancelRead,
    Resume,
}

/// The state all workers share.
struct Mix<'a> {
    client: &'a Client,
    maker: Maker,
    dice: Dice,
    end: Instant,
    blobs: RefCell<VecDeque<Digest>>,
    runs: RefCell<VecDeque<reapi::ExecuteRequest>>,
    done: RefCell<BTreeMap<&'static str, u64>>,
}

/// Runs it, and fails with the first answer that should not have been.
pub(super) async fn run(client: &Client, time: Duration, seed: u64) -> Result<(), CliError> {
    let mix = Mix {
        client,
        maker: Maker::new(),
        dice: Dice::new(seed),
        end: Instant::now() + time,
        blobs: RefCell::default(),
        runs: RefCell::default(),
        done: RefCell::default(),
    };
    let workers = future::try_join_all((0..IN_FLIGHT).map(|_| mix.work()));
    tokio::try_join!(workers, mix.report())?;
    print_line(&json!({ "end": true, "done": *mix.done.borrow() }))
}

// === impl Mix ===

impl Mix<'_> {
    async fn work(&self) -> Result<(), CliError> {
        while Instant::now() < self.end {
            let Some(work) = self.dice.pick(&WORK) else { break };
            let (name, ended) = match work {
                Work::WriteBatch => ("write-batch", self.write_batch().await),
                Work::WriteStream => ("write-stream", self.write_stream().await),
                Work::Read => ("read", self.read().await),
                Work::FindMissing => ("find-missing", self.find_missing().await),
                Work::Run => ("run", self.run().await),
                Work::RunAgain => ("run-again", self.run_again().await),
                Work::CancelRun => ("cancel-run", self.cancel_run().await),
                Work::CancelRead => ("cancel-read", self.cancel_read().await),
                Work::Resume => ("resume", self.resume().await),
            };
            match ended {
                Ok(()) => self.count(name),
                Err(error) if matches!(error.code(), Some(Code::NotFound | Code::FailedPrecondition)) => {
                    self.count("forgotten");
                }
                Err(error) if error.code() == Some(Code::ResourceExhausted) => {
                    self.count("full");
                    tokio::time::sleep(CANCEL_AFTER).await;
                }
                Err(error) => return Err(CliError::new(format!("{name}: {error}"))),
            }
        }
        Ok(())
    }

    /// Runs a no-op now and then, and tells how long it took and what else was done.
    async fn report(&self) -> Result<(), CliError> {
        while Instant::now() < self.end {
            tokio::time::sleep(REPORT).await;
            let (request, blobs) = action(self.client, &format!(": {:?}", self.maker.salt()), &[], &[]);
            let begin = Instant::now();
            let ended = async {
                self.client.store(&blobs).await?;
                self.client.execute(encode(&request)).await
            };
            let latency = match ended.await {
                Ok(_) => Some(begin.elapsed().as_secs_f64()),
                Err(error) if error.code() == Some(Code::ResourceExhausted) => None,
                Err(error) => return Err(CliError::new(format!("no-op: {error}"))),
            };
            print_line(&json!({ "no_op_seconds": latency, "done": *self.done.borrow() }))?;
        }
        Ok(())
    }

    fn count(&self, name: &'static str) {
        *self.done.borrow_mut().entry(name).or_default() += 1;
    }

    fn remember(&self, blobs: &[Blob]) {
        let mut known = self.blobs.borrow_mut();
        known.extend(blobs.iter().map(|blob| blob.digest));
        let surplus = known.len().saturating_sub(REMEMBERED);
        known.drain(..surplus);
    }

    fn known_blob(&self) -> Option<Digest> {
        self.dice.pick(self.blobs.borrow_mut().make_contiguous()).copied()
    }

    async fn write_batch(&self) -> Result<(), CallError> {
        let number = self.dice.between(1, 100);
        let blobs: Vec<Blob> = (0..number).map(|_| self.maker.blob(self.dice.between(1, 20_000))).collect();
        self.client.update(self.client.update_request(&blobs)).await?;
        self.remember(&blobs);
        Ok(())
    }

    async fn write_stream(&self) -> Result<(), CallError> {
        let most = if self.dice.between(0, 20) == 0 { 16 << 20 } else { 1 << 20 };
        let blob = self.maker.blob(self.dice.between(1, most));
        self.client.write(&blob).await?;
        self.remember(&[blob]);
        Ok(())
    }

    async fn read(&self) -> Result<(), CallError> {
        let Some(digest) = self.known_blob() else { return Ok(()) };
        let mut hasher = Hasher::new(DigestFunction::Sha256);
        self.client.read_with(&digest, |piece| hasher.update(piece)).await?;
        if hasher.finish() == digest { Ok(()) } else { Err(CallError::wrong("other bytes came back")) }
    }

    async fn find_missing(&self) -> Result<(), CallError> {
        let known: Vec<_> = self.blobs.borrow().iter().take(500).map(Digest::to_wire).collect();
        let absent = self.maker.blob(8).digest.to_wire();
        let blob_digests = [known, vec![absent.clone()]].concat();
        let request = reapi::FindMissingBlobsRequest { blob_digests, ..Default::default() };
        let path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/FindMissingBlobs";
        let answer = self.client.call(path, encode(&request)).await?;
        let missing = reapi::FindMissingBlobsResponse::decode(answer)
            .map_err(|error| CallError::wrong(error.to_string()))?
            .missing_blob_digests;
        if missing.contains(&absent) { Ok(()) } else { Err(CallError::wrong("a blob is said to be there")) }
    }

    /// A new action with inputs and outputs, one of which is read.
    async fn run(&self) -> Result<(), CallError> {
        let inputs = self.maker.blobs(self.dice.between(1, 12), 3000);
        let large = self.dice.between(1, 200_000);
        let script =
            format!("cat input* > all; head -c {large} /dev/urandom > random; mkdir -p d/e; cp all d/e");
        let outputs = ["all", "random", "d"].map(ToOwned::to_owned);
        let (request, blobs) = action(self.client, &script, &inputs, &outputs);
        self.client.store(&blobs).await?;
        self.execute(&request).await?;
        let mut runs = self.runs.borrow_mut();
        runs.push_back(request);
        if runs.len() > REMEMBERED {
            runs.pop_front();
        }
        Ok(())
    }

    /// An action that was run before: most likely a hit.
    async fn run_again(&self) -> Result<(), CallError> {
        let request = self.dice.pick(self.runs.borrow_mut().make_contiguous()).cloned();
        match request {
            Some(request) => self.execute(&request).await,
            None => Ok(()),
        }
    }

    /// Runs an action and reads its outputs.
    async fn execute(&self, request: &reapi::ExecuteRequest) -> Result<(), CallError> {
        let result = self.client.execute(encode(request)).await?.result.unwrap_or_default();
        if result.output_files.len() != 2 || result.output_directories.len() != 1 {
            return Err(CallError::wrong("an output of an action is not in its result"));
        }
        for file in &result.output_files {
            let digest = Digest::from_field(DigestFunction::Sha256, file.digest.as_ref())
                .map_err(|error| CallError::wrong(error.to_string()))?;
            self.client.read(&digest).await?;
        }
        Ok(())
    }

    /// An action whose client goes away.
    async fn cancel_run(&self) -> Result<(), CallError> {
        let script = format!("sleep 0.2; : {:?}", self.maker.salt());
        let (request, blobs) = action(self.client, &script, &[], &[]);
        self.client.store(&blobs).await?;
        let run = self.client.execute(encode(&request));
        tokio::time::timeout(CANCEL_AFTER, run).await.map_or(Ok(()), |ended| ended.map(drop))
    }

    /// A Read that is given up after its first piece.
    async fn cancel_read(&self) -> Result<(), CallError> {
        let Some(digest) = self.known_blob() else { return Ok(()) };
        self.client.read_stream(&digest).await?.message().await?;
        Ok(())
    }

    /// A Write that is given up in the middle, and gone on with by another call.
    async fn resume(&self) -> Result<(), CallError> {
        let blob = self.maker.blob(self.dice.between(2, 2 << 20));
        let name = self.client.upload_name(&blob.digest);
        let first = self.client.write_half(&blob, name.clone());
        if let Ok(ended) = tokio::time::timeout(CANCEL_AFTER, first).await {
            return ended;
        }
        // The server may have got none of it, or not know yet that the first call is over.
        for _ in 0..RESUMES {
            match self.client.write_rest(&blob, name.clone()).await {
                Err(error) if error.code() == Some(Code::ResourceExhausted) => return Err(error),
                Err(_) => tokio::time::sleep(CANCEL_AFTER).await,
                Ok(()) => return Ok(()),
            }
        }
        self.client.write(&blob).await
    }
}

fn encode(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}
