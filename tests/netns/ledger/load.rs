//! Clients of a ledger at random machines: blobs by every way in and out, results, FindMissing, ranges.
//!
//! What a machine answers wrongly is noted at once. A call may fail only for a reason: the machine is killed,
//! frozen or cut off, or a disk is full.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use farmhand::digest::Digest;
use farmhand_proto::reapi;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use super::{Blob, Ledger, Standing, What, result_naming};
use crate::stores::{Conditions, Outlook, Stores};
use crate::support::{Client, Dice};

const ZSTD: i32 = reapi::compressor::Value::Zstd as i32;

/// Within this any machine that is there answers; more than any of its own deadlines.
const PATIENCE: Duration = Duration::from_secs(60);

/// How much load there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Clients.
    pub(crate) clients: u64,
    /// What each waits between two calls, in milliseconds.
    pub(crate) pause: u64,
    /// Entries that all together write in a second, on the average.
    pub(crate) written: u64,
}

/// Load under way.
pub(crate) struct Load {
    ending: Arc<AtomicBool>,
    clients: JoinSet<()>,
}

struct Caller {
    ledger: Arc<Ledger>,
    conditions: Arc<Conditions>,
    ending: Arc<AtomicBool>,
    clients: Vec<Client>,
    copies: usize,
    pace: Pace,
    since: Instant,
    dice: Dice,
}

// === impl Load ===

impl Load {
    /// Begins.
    pub(crate) fn start(ledger: &Arc<Ledger>, stores: &Stores, dice: &Dice, pace: Pace) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for number in 0..pace.clients {
            let caller = Caller {
                ledger: Arc::clone(ledger),
                conditions: Arc::clone(&stores.conditions),
                ending: Arc::clone(&ending),
                clients: (0..stores.machines.len()).map(|machine| stores.client(machine)).collect(),
                copies: stores.copies(),
                pace,
                since: Instant::now(),
                dice: dice.fork(number),
            };
            clients.spawn(caller.run());
        }
        Self { ending, clients }
    }

    /// Waits for the calls under way.
    pub(crate) async fn end(mut self) {
        self.ending.store(true, Ordering::SeqCst);
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
    }
}

// === impl Caller ===

impl Caller {
    async fn run(mut self) {
        while !self.ending.load(Ordering::SeqCst) && !self.ledger.is_violated() {
            let machine = self.dice.below(self.conditions.count() as u64) as usize;
            let before = self.conditions.look(machine);
            if before.is_out && self.dice.below(10) > 0 {
                // Most people do not build on a machine that is not there.
                sleep(Duration::from_millis(10)).await;
                continue;
            }
            let ended = timeout(PATIENCE, self.step(machine, before)).await;
            let ended = ended.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in a minute")));
            if let Err(status) = ended {
                self.judge(machine, before, &status);
                sleep(Duration::from_millis(20)).await;
            }
            sleep(Duration::from_millis(self.pace.pause)).await;
        }
    }

    /// Notes a call that failed, if it may not.
    fn judge(&self, machine: usize, before: Outlook, status: &Status) {
        let now = self.conditions.look(machine);
        let was_out = before.is_out || now.is_out || now.is_any_weak || now.changes > before.changes;
        let is_full = status.code() == Code::ResourceExhausted && (before.is_any_full || now.is_any_full);
        if was_out || is_full {
            self.ledger.with(|pages| pages.counts.failed += 1);
        } else {
            self.ledger.violate(format!("a call at m{machine} failed: {status} ({before:?}, {now:?})"));
        }
    }

    async fn step(&mut self, machine: usize, before: Outlook) -> Result<(), Status> {
        let client = self.clients[machine].clone();
        let due = self.pace.written as f64 * self.since.elapsed().as_secs_f64();
        let (written, is_resting) = self.ledger.with(|pages| (pages.counts.written, pages.is_resting));
        let may_write = (written as f64) < due && !is_resting;
        match self.dice.below(100) {
            0..28 if may_write => self.write_batch(&client, machine, before).await,
            28..45 if may_write => self.write_stream(&client, machine, before).await,
            45..55 if may_write => self.write_result(&client, machine, before).await,
            0..70 => self.find_and_read(&client, machine).await,
            70..80 => self.ask_result(&client, machine).await,
            _ => self.read(&client, machine, before).await,
        }
    }

    /// Notes what a machine acknowledged, unless its store is lost by now.
    fn acknowledge(&self, machine: usize, before: Outlook, what: What) {
        if self.conditions.look(machine).life == before.life {
            self.ledger.acknowledge(machine, what);
        }
    }

    async fn write_batch(&mut self, client: &Client, machine: usize, before: Outlook) -> Result<(), Status> {
        let blobs: Vec<Blob> =
            (0..=self.dice.below(8)).map(|_| Blob::within(&mut self.dice, 1, 100 << 10)).collect();
        let mut known = Vec::new();
        let mut requests = Vec::new();
        for blob in blobs {
            let bytes = blob.bytes();
            let digest = client.digest(&bytes);
            known.push((blob, digest));
            let is_compressed = self.dice.below(2) == 0;
            requests.push(reapi::batch_update_blobs_request::Request {
                digest: Some(digest.to_wire()),
                data: if is_compressed { zstd::encode_all(&bytes[..], 1)? } else { bytes },
                compressor: if is_compressed { ZSTD } else { 0 },
            });
        }
        let request = reapi::BatchUpdateBlobsRequest { requests, ..Default::default() };
        let response = client.cas().batch_update_blobs(request).await?.into_inner();
        let mut failed = None;
        for answer in response.responses {
            let digest = Digest::from_field(client.function, answer.digest.as_ref()).unwrap();
            let status = answer.status.unwrap_or_default();
            if status.code == 0 {
                let (blob, _) = known.iter().find(|(_, known)| *known == digest).unwrap();
                self.acknowledge(machine, before, What::Blob(*blob, digest));
            } else {
                failed = Some(Status::new(Code::from(status.code), status.message));
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn write_one(
        &mut self,
        client: &Client,
        machine: usize,
        before: Outlook,
    ) -> Result<Digest, Status> {
        let blob = Blob::any(&mut self.dice);
        let bytes = blob.bytes();
        let digest = client.digest(&bytes);
        if self.dice.below(2) == 0 {
            let segments = client.blob_segments(&digest);
            let name = format!("uploads/{}/compressed-blobs/zstd/{segments}", uuid::Uuid::new_v4());
            client.write_named(name, &zstd::encode_all(&bytes[..], 1)?).await?;
        } else {
            client.write(&digest, &bytes).await?;
        }
        self.acknowledge(machine, before, What::Blob(blob, digest));
        Ok(digest)
    }

    async fn write_stream(&mut self, client: &Client, machine: usize, before: Outlook) -> Result<(), Status> {
        self.write_one(client, machine, before).await.map(drop)
    }

    async fn write_result(&mut self, client: &Client, machine: usize, before: Outlook) -> Result<(), Status> {
        let output = self.write_one(client, machine, before).await?;
        let action = client.digest(&self.dice.roll().to_le_bytes());
        client.update_action_result(&action, result_naming(&output)).await?;
        self.acknowledge(machine, before, What::Result(action, output));
        Ok(())
    }

    /// Some blobs that must be there, with what they are.
    fn some_blobs(&mut self, count: usize) -> Vec<(Blob, Digest, Standing)> {
        let dice = &mut self.dice;
        self.ledger.with(|pages| {
            let entries = &pages.entries;
            let any = (0..count).filter_map(|_| entries.get(dice.below(entries.len() as u64) as usize));
            let kept = any.filter(|entry| entry.standing != Standing::Excused);
            kept.filter_map(|entry| entry.blob().map(|(blob, digest)| (blob, digest, entry.standing)))
                .collect()
        })
    }

    /// Asks for many blobs, and reads some of those that are said to be there.
    async fn find_and_read(&mut self, client: &Client, machine: usize) -> Result<(), Status> {
        let blobs = self.some_blobs(60);
        let digests: Vec<Digest> = blobs.iter().map(|(_, digest, _)| *digest).collect();
        let before = self.conditions.look(machine);
        let missing = client.find_missing(&digests).await?;
        self.ledger.with(|pages| {
            pages.counts.asked += digests.len();
            pages.counts.missing += missing.len();
        });
        let there: Vec<_> = blobs.into_iter().filter(|(_, digest, _)| !missing.contains(digest)).collect();
        for (blob, digest, _) in there.iter().take(3) {
            let found = self.fetch(client, *blob, digest).await;
            self.ledger.with(|pages| pages.counts.read += 1);
            match found {
                Ok(true) => {}
                Ok(false) => self.ledger.violate(format!("m{machine} served wrong bytes for {digest:?}")),
                Err(status) if status.code() == Code::NotFound => {
                    let now = self.conditions.look(machine);
                    if now == before && before.unreachable == 0 && !before.is_out {
                        self.ledger.violate(format!(
                            "m{machine} said that it has {digest:?}, and then that it has not: {status} ({now:?})"
                        ));
                    }
                }
                Err(status) => return Err(status),
            }
        }
        Ok(())
    }

    /// Reads a blob, which is there if it is protected and few enough machines are out of reach.
    async fn read(&mut self, client: &Client, machine: usize, before: Outlook) -> Result<(), Status> {
        let Some((blob, digest, standing)) = self.some_blobs(1).pop() else { return Ok(()) };
        let found = self.fetch(client, blob, &digest).await;
        self.ledger.with(|pages| pages.counts.read += 1);
        match found {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.ledger.violate(format!("m{machine} served wrong bytes for {digest:?}"));
                Ok(())
            }
            Err(status) if status.code() == Code::NotFound => {
                let now = self.conditions.look(machine);
                let is_sure = standing == Standing::Protected && now == before && !before.is_out;
                if is_sure && before.unreachable < self.copies {
                    self.ledger.violate(format!("m{machine} does not find {digest:?}: {status} ({now:?})"));
                }
                Ok(())
            }
            Err(status) => Err(status),
        }
    }

    /// Reads a blob or a part of it, in one of the ways there are; whether it is as it should be.
    async fn fetch(&mut self, client: &Client, blob: Blob, digest: &Digest) -> Result<bool, Status> {
        let bytes = blob.bytes();
        let size = bytes.len();
        match self.dice.below(4) {
            0 => {
                let name = format!("compressed-blobs/zstd/{}", client.blob_segments(digest));
                let compressed = client.read_named(name, 0, 0).await?;
                Ok(zstd::decode_all(&compressed[..]).is_ok_and(|data| data == bytes))
            }
            1 => {
                let from = self.dice.below(size as u64) as usize;
                let len = 1 + self.dice.below((size - from) as u64) as usize;
                let part = client.read_named(client.read_name(digest), from as i64, len as i64).await?;
                Ok(part == bytes[from..from + len])
            }
            2 if size < 1 << 20 => {
                let response = client.batch_read(&[*digest]).await?.responses.remove(0);
                let status = response.status.unwrap_or_default();
                if status.code != 0 {
                    return Err(Status::new(Code::from(status.code), status.message));
                }
                Ok(response.data == bytes)
            }
            _ => Ok(client.read(digest).await? == bytes),
        }
    }

    /// Asks for a result, which is the right one if there is one.
    async fn ask_result(&mut self, client: &Client, machine: usize) -> Result<(), Status> {
        let dice = &mut self.dice;
        let results = self.ledger.with(|pages| {
            let results = pages.entries.iter().filter_map(|entry| match entry.what {
                What::Result(action, output) => Some((action, output)),
                What::Blob(..) => None,
            });
            results.collect::<Vec<_>>()
        });
        let Some((action, output)) = results.get(dice.below(results.len() as u64) as usize) else {
            return Ok(());
        };
        let request =
            reapi::GetActionResultRequest { action_digest: Some(action.to_wire()), ..Default::default() };
        match client.action_cache().get_action_result(request).await {
            Ok(found) => {
                let found = found.into_inner();
                if found.output_files != result_naming(output).output_files {
                    self.ledger.violate(format!("m{machine} has another result of {action:?}: {found:?}"));
                }
                Ok(())
            }
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(status),
        }
    }
}
