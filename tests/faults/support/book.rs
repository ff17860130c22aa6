//! The checker: everything the node acknowledged, when, and whether it still has it.
//!
//! A blob follows from its number, so the book holds no bytes. Of an action result it holds every
//! version that was ever sent: after a crash the last acknowledged one must be there, or one that
//! was sent after it.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Mutex, MutexGuard};

use farmhand::digest::{Digest, DigestFunction};
use farmhand_proto::reapi::{ActionResult, OutputFile};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::{Client, Dice};

/// Digests in one FindMissingBlobs.
const ASKED: usize = 5000;

/// Bytes asked for in one BatchReadBlobs.
const BATCH: u64 = 3 << 20;

/// Violations that are named.
const NAMED: usize = 10;

/// A blob, by what its bytes follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blob {
    /// Random bytes, of a random size, from a number.
    Random(u64),
    /// What an action with this number writes.
    Made(u64),
}

/// A blob the node said it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) blob: Blob,
    pub(crate) digest: Digest,
    pub(crate) at: Instant,
}

/// A version of an action result that was sent.
#[derive(Clone, Debug)]
struct Version {
    number: u64,
    result: ActionResult,
    acknowledged: Option<Instant>,
}

/// What must be there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Demand {
    /// All that was acknowledged.
    All,
    /// All that was acknowledged up to this moment; the rest may be gone, but not wrong.
    Until(Instant),
    /// Nothing; what is there must be right.
    Right,
}

/// What a check saw.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Seen {
    /// Blobs that are there.
    pub(crate) blobs: usize,
    /// Those whose bytes were read.
    pub(crate) read: usize,
    /// Action results that are there.
    pub(crate) results: usize,
    /// Blobs and results that are rightly gone.
    pub(crate) gone: usize,
}

/// The book.
#[derive(Default)]
pub(crate) struct Book {
    pages: Mutex<Pages>,
}

#[derive(Default)]
struct Pages {
    blobs: Vec<Acknowledged>,
    /// Those that were found missing where they may be.
    lost: Vec<Acknowledged>,
    results: BTreeMap<u64, Vec<Version>>,
    /// Number of the next version of any result.
    next_version: u64,
}

// === impl Blob ===

impl Blob {
    /// Its bytes. Mostly small ones, some of some hundred KiB, a few of some MiB.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let number = match self {
            Self::Made(number) => return format!("made by action {number}\n").into_bytes(),
            Self::Random(number) => number,
        };
        let mut dice = Dice::from_number(number);
        let (from, to) = match dice.below(100) {
            0..75 => (1, 32 << 10),
            75..97 => (32 << 10, 400 << 10),
            _ => (1 << 20, 6 << 20),
        };
        let len = from + dice.below(to - from);
        random_bytes(&mut dice, len as usize)
    }
}

fn random_bytes(dice: &mut Dice, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&dice.roll().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

// === impl Book: writing ===

impl Book {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap()
    }

    /// Notes that the node has a blob.
    pub(crate) fn acknowledge(&self, blob: Blob, digest: Digest) {
        self.pages().blobs.push(Acknowledged { blob, digest, at: Instant::now() });
    }

    /// Some of the blobs it must have.
    pub(crate) fn some_blobs(&self, dice: &mut Dice, count: usize) -> Vec<Acknowledged> {
        let pages = self.pages();
        if pages.blobs.is_empty() {
            return Vec::new();
        }
        (0..count).map(|_| pages.blobs[dice.below(pages.blobs.len() as u64) as usize]).collect()
    }

    /// Notes that a new version of a result is about to be sent. Returns it.
    pub(crate) fn next_version(&self, key: u64, output: Digest) -> ActionResult {
        let mut pages = self.pages();
        let number = pages.next_version;
        pages.next_version += 1;
        let versions = pages.results.entry(key).or_default();
        let path = format!("version-{number}");
        let file = OutputFile { path, digest: Some(output.to_wire()), ..Default::default() };
        let result = ActionResult { output_files: vec![file], ..Default::default() };
        versions.push(Version { number, result: result.clone(), acknowledged: None });
        result
    }

    /// Notes that the last version of a result was taken.
    pub(crate) fn acknowledge_version(&self, key: u64) {
        let mut pages = self.pages();
        let last = pages.results.get_mut(&key).and_then(|versions| versions.last_mut());
        last.expect("it was sent").acknowledged = Some(Instant::now());
    }

    /// Blobs in it.
    pub(crate) fn len(&self) -> usize {
        self.pages().blobs.len()
    }
}

/// The digest of the action a result is kept under.
pub(crate) fn action_of(key: u64) -> Digest {
    Digest::of(DigestFunction::Sha256, format!("action {key}").as_bytes())
}

// === impl Book: checking ===

impl Book {
    /// Compares the node with the book: the presence of everything, the bytes of the youngest
    /// `reads` blobs and as many others. What is rightly gone is struck out. Panics with what is
    /// wrong.
    pub(crate) async fn check(&self, client: &Client, demand: Demand, reads: usize, dice: &mut Dice) -> Seen {
        let mut seen = Seen::default();
        let mut wrong = self.check_presence(client, demand, &mut seen).await;
        let chosen = {
            let blobs = &self.pages().blobs;
            let (old, young) = blobs.split_at(blobs.len().saturating_sub(reads));
            let step = old.len() / reads.max(1) + 1;
            let from = dice.below(step as u64) as usize;
            let others = old.iter().skip(from).step_by(step);
            young.iter().chain(others).copied().collect::<Vec<_>>()
        };
        seen.read = chosen.len();
        let amiss = read_all(client, &chosen).await;
        let may_go = matches!(demand, Demand::Right);
        wrong.extend(
            amiss
                .into_iter()
                .filter(|amiss| !(may_go && amiss.failure == Some(Code::NotFound)))
                .map(|amiss| amiss.text),
        );
        wrong.extend(self.check_results(client, demand, &mut seen).await);
        assert!(
            wrong.is_empty(),
            "{} violations of {demand:?}: {:#?}",
            wrong.len(),
            &wrong[..wrong.len().min(NAMED)]
        );
        seen
    }

    async fn check_presence(&self, client: &Client, demand: Demand, seen: &mut Seen) -> Vec<String> {
        // The load may go on meanwhile, and add to the book.
        let blobs = self.pages().blobs.clone();
        let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
        let mut missing = HashSet::new();
        for some in digests.chunks(ASKED) {
            missing.extend(client.find_missing(some).await.unwrap());
        }
        let count = blobs.len();
        let gone: Vec<_> = blobs.into_iter().filter(|blob| missing.contains(&blob.digest)).collect();
        let amiss = gone.iter().filter(|blob| demand.covers(blob.at));
        let wrong = amiss.map(|blob| format!("missing, {:?} old: {blob:?}", blob.at.elapsed())).collect();
        seen.blobs = count - gone.len();
        seen.gone += gone.len();
        let mut pages = self.pages();
        let later = pages.blobs.split_off(count);
        pages.blobs.retain(|blob| !missing.contains(&blob.digest));
        pages.blobs.extend(later);
        pages.lost.extend(gone);
        wrong
    }

    /// Reads everything and finds what is gone without leave. Panics if anything is wrong, or gone and
    /// still said to be there. Returns what it saw, and how many blobs are lost.
    pub(crate) async fn find_lost(&self, client: &Client) -> (Seen, usize) {
        let all = self.pages().blobs.clone();
        let mut wrong = read_all(client, &all).await;
        // Where a blob breaks off in the middle is told only by the failure.
        wrong.retain(|amiss| amiss.failure.is_none());
        assert!(wrong.is_empty(), "{wrong:#?}");
        // Reading found what was to be found: what is said to be there now is there.
        let mut seen = Seen::default();
        let wrong = self.check_presence(client, Demand::Right, &mut seen).await;
        assert!(wrong.is_empty(), "{wrong:#?}");
        let kept = self.pages().blobs.clone();
        let wrong = read_all(client, &kept).await;
        assert!(wrong.is_empty(), "said to be there: {wrong:#?}");
        let results = self.check_results(client, Demand::Right, &mut seen).await;
        assert!(results.is_empty(), "{results:#?}");
        let lost = self.pages().lost.len();
        (seen, lost)
    }

    /// Uploads again what is lost.
    pub(crate) async fn upload_lost(&self, client: &Client) {
        let lost = std::mem::take(&mut self.pages().lost);
        for blob in lost {
            client.put(&blob.blob.bytes()).await;
            self.acknowledge(blob.blob, blob.digest);
        }
    }

    async fn check_results(&self, client: &Client, demand: Demand, seen: &mut Seen) -> Vec<String> {
        // The load may go on meanwhile, and send further versions.
        let results = self.pages().results.clone();
        let mut wrong = Vec::new();
        for (key, known) in results {
            let must = known.iter().rfind(|version| version.acknowledged.is_some_and(|at| demand.covers(at)));
            let found = client.action_result(&action_of(key)).await;
            let mut pages = self.pages();
            let versions = pages.results.entry(key).or_default();
            let last = known.last().map_or(0, |last| last.number);
            // What is not there now, though it was sent, may come back, or be on its way.
            let lose = |versions: &mut Vec<Version>, above: Option<u64>| {
                let is_lost = |version: &&mut Version| version.number <= last && Some(version.number) > above;
                versions.iter_mut().filter(is_lost).for_each(|version| version.acknowledged = None);
            };
            let Some(found) = found else {
                seen.gone += usize::from(known.iter().any(|version| version.acknowledged.is_some()));
                if must.is_some() {
                    wrong.push(format!("result {key} is missing: {:?}", known.last()));
                }
                lose(versions, None);
                continue;
            };
            seen.results += 1;
            let same = |version: &&mut Version| version.result.output_files == found.output_files;
            let Some(version) = versions.iter_mut().find(same) else {
                wrong.push(format!("result {key} is none that was sent: {found:?}"));
                continue;
            };
            if must.is_some_and(|must| version.number < must.number) {
                wrong.push(format!("result {key} is an older version: {version:?}, not {must:?}"));
            }
            // From here on it must be this one, as if it had been acknowledged now.
            version.acknowledged = Some(Instant::now());
            let number = version.number;
            lose(versions, Some(number));
        }
        wrong
    }
}

impl Demand {
    fn covers(self, at: Instant) -> bool {
        match self {
            Self::All => true,
            Self::Until(moment) => at <= moment,
            Self::Right => false,
        }
    }
}

/// A blob that is not as it should be.
#[derive(Debug)]
pub(crate) struct Amiss {
    text: String,
    /// Why it cannot be read; `None` if what was read is wrong.
    failure: Option<Code>,
}

impl Amiss {
    fn new(blob: &Acknowledged, what: &str) -> Self {
        Self { text: format!("{what}: {blob:?}"), failure: None }
    }

    fn unreadable(blob: &Acknowledged, status: &Status) -> Self {
        let text = format!("not readable ({status}): {blob:?}");
        Self { text, failure: Some(status.code()) }
    }
}

/// Reads blobs, the small ones in batches. What is wrong with them.
pub(crate) async fn read_all(client: &Client, blobs: &[Acknowledged]) -> Vec<Amiss> {
    let mut wrong = Vec::new();
    let mut batch: Vec<Acknowledged> = Vec::new();
    let mut bytes = 0;
    for blob in blobs {
        if blob.digest.size() > BATCH / 4 {
            match client.read(&blob.digest).await {
                Ok(data) if data == blob.blob.bytes() => {}
                Ok(_) => wrong.push(Amiss::new(blob, "wrong bytes")),
                Err(status) => wrong.push(Amiss::unreadable(blob, &status)),
            }
            continue;
        }
        if bytes + blob.digest.size() > BATCH {
            wrong.extend(read_batch(client, &batch).await);
            batch.clear();
            bytes = 0;
        }
        bytes += blob.digest.size();
        batch.push(*blob);
    }
    wrong.extend(read_batch(client, &batch).await);
    wrong
}

async fn read_batch(client: &Client, blobs: &[Acknowledged]) -> Vec<Amiss> {
    if blobs.is_empty() {
        return Vec::new();
    }
    let digests: Vec<Digest> = blobs.iter().map(|blob| blob.digest).collect();
    let response = client.batch_read(&digests).await.unwrap();
    let mut answers: BTreeMap<Digest, Result<Vec<u8>, Status>> = BTreeMap::new();
    for answer in response.responses {
        let digest = Digest::from_field(client.function, answer.digest.as_ref()).unwrap();
        let status = answer.status.unwrap_or_default();
        let data = if status.code == 0 {
            Ok(answer.data)
        } else {
            Err(Status::new(Code::from(status.code), status.message))
        };
        answers.insert(digest, data);
    }
    let amiss = |blob: &Acknowledged| match answers.get(&blob.digest) {
        Some(Ok(data)) if *data == blob.blob.bytes() => None,
        Some(Ok(_)) => Some(Amiss::new(blob, "wrong bytes")),
        Some(Err(status)) => Some(Amiss::unreadable(blob, status)),
        None => Some(Amiss::new(blob, "not answered")),
    };
    blobs.iter().filter_map(amiss).collect()
}
