//! What the ledger demands of a farm at rest: at every machine everything is there, and right.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use farmhand::digest::Digest;
use tokio::time::sleep;
use tonic::{Code, Status};

use super::{Blob, Entry, Ledger, Standing, What};
use crate::stores::Stores;
use crate::support::Client;

/// Digests in one FindMissingBlobs.
const ASKED: usize = 5000;

/// Bytes asked for in one BatchReadBlobs.
const BATCH: u64 = 3 << 20;

/// How often a machine is asked for what it says is missing. It never waits for one that is slow to answer.
const TRIES: usize = 4;

/// What is wrong with a blob that was read.
enum Amiss {
    Wrong,
    Unreadable(Status),
}

impl Ledger {
    /// Compares what every machine that runs says and serves with the ledger, and panics if anything is wrong.
    pub(crate) async fn check(&self, stores: &Stores) {
        for machine in stores.up() {
            self.check_at(stores, machine).await;
        }
        self.assert_right();
    }

    /// The same at one machine; what is wrong is noted.
    pub(crate) async fn check_at(&self, stores: &Stores, machine: usize) {
        let client = stores.client(machine);
        let entries: Vec<Entry> = self.with(|pages| pages.entries.clone());
        let blobs: Vec<_> = entries.iter().filter_map(|entry| Some((entry, entry.blob()?))).collect();
        let digests: Vec<Digest> = blobs.iter().map(|(_, (_, digest))| *digest).collect();
        let missing = missing(&client, &digests).await;
        for (entry, (_, digest)) in &blobs {
            if missing.contains(digest) && entry.must_be_there() {
                self.violate(format!("missing at m{machine}: {entry:?}"));
            }
        }
        let there: Vec<_> = blobs.iter().map(|(_, blob)| *blob).collect();
        let there: Vec<_> = there.into_iter().filter(|(_, digest)| !missing.contains(digest)).collect();
        self.with(|pages| pages.counts.read += there.len());
        for (digest, amiss) in read_all(&client, &there).await {
            self.violate(match amiss {
                Amiss::Wrong => format!("m{machine} served wrong bytes for {digest:?}"),
                Amiss::Unreadable(status) => {
                    format!("m{machine} said that it has {digest:?}, and cannot read it: {status}")
                }
            });
        }
        self.check_results(&client, machine, &entries).await;
    }

    async fn check_results(&self, client: &Client, machine: usize, entries: &[Entry]) {
        for entry in entries {
            let What::Result(action, output) = &entry.what else { continue };
            let mut found = None;
            for attempt in 0..TRIES {
                if attempt > 0 {
                    sleep(Duration::from_millis(500)).await;
                }
                found = client.action_result(action).await;
                if found.is_some() || !entry.must_be_there() {
                    break;
                }
            }
            match found {
                Some(found) if found.output_files == super::result_naming(output).output_files => {}
                Some(found) => {
                    self.violate(format!("m{machine} has another result of {action:?}: {found:?}"))
                }
                None if entry.must_be_there() => {
                    self.violate(format!("a result is missing at m{machine}: {entry:?}"));
                }
                None => {}
            }
        }
    }
}

impl Entry {
    fn must_be_there(&self) -> bool {
        self.standing != Standing::Excused
    }
}

/// What a machine says is missing however often it is asked.
async fn missing(client: &Client, digests: &[Digest]) -> HashSet<Digest> {
    let mut missing: Vec<Digest> = digests.to_vec();
    for attempt in 0..TRIES {
        if attempt > 0 {
            sleep(Duration::from_millis(500)).await;
        }
        let mut still = Vec::new();
        for some in missing.chunks(ASKED) {
            still.extend(client.find_missing(some).await.unwrap());
        }
        missing = still;
        if missing.is_empty() {
            break;
        }
    }
    missing.into_iter().collect()
}

/// Reads blobs, the small ones in batches; those that are not as they should be.
async fn read_all(client: &Client, blobs: &[(Blob, Digest)]) -> Vec<(Digest, Amiss)> {
    let mut wrong = Vec::new();
    let mut batch: Vec<(Blob, Digest)> = Vec::new();
    let mut bytes = 0;
    for (blob, digest) in blobs {
        if digest.size() > BATCH / 4 {
            match client.read(digest).await {
                Ok(data) if data == blob.bytes() => {}
                Ok(_) => wrong.push((*digest, Amiss::Wrong)),
                Err(status) => wrong.push((*digest, Amiss::Unreadable(status))),
            }
            continue;
        }
        if bytes + digest.size() > BATCH {
            wrong.extend(read_batch(client, &batch).await);
            batch.clear();
            bytes = 0;
        }
        bytes += digest.size();
        batch.push((*blob, *digest));
    }
    wrong.extend(read_batch(client, &batch).await);
    wrong
}

async fn read_batch(client: &Client, blobs: &[(Blob, Digest)]) -> Vec<(Digest, Amiss)> {
    let digests: Vec<Digest> = blobs.iter().map(|(_, digest)| *digest).collect();
    if digests.is_empty() {
        return Vec::new();
    }
    let response = match client.batch_read(&digests).await {
        Ok(response) => response,
        Err(status) => {
            return digests.into_iter().map(|digest| (digest, Amiss::Unreadable(status.clone()))).collect();
        }
    };
    let mut answers: BTreeMap<Digest, Result<Vec<u8>, Status>> = BTreeMap::new();
    for answer in response.responses {
        let digest = Digest::from_field(client.function, answer.digest.as_ref()).unwrap();
        let status = answer.status.unwrap_or_default();
        let failed = Status::new(Code::from(status.code), status.message);
        answers.insert(digest, if status.code == 0 { Ok(answer.data) } else { Err(failed) });
    }
    let amiss = |(blob, digest): &(Blob, Digest)| match answers.remove(digest) {
        Some(Ok(data)) if data == blob.bytes() => None,
        Some(Ok(_)) => Some((*digest, Amiss::Wrong)),
        Some(Err(status)) => Some((*digest, Amiss::Unreadable(status))),
        None => Some((*digest, Amiss::Unreadable(Status::internal("not answered")))),
    };
    blobs.iter().filter_map(amiss).collect()
}
