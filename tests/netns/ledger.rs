//! [`Ledger`]: the checker. It knows every blob and result that any machine of a farm acknowledged, where and
//! when, and whether the farm had as many copies as it should since.
//!
//! What was *protected* must be there whatever happens to fewer machines than there are copies. What was not
//! must be there unless the store of the machine that took it is lost. What is read must be right, always.

pub(crate) mod check;
pub(crate) mod load;

use std::sync::Mutex;

use farmhand::digest::Digest;
use farmhand_proto::reapi::{ActionResult, OutputFile};
use tokio::time::Instant;
use tonic::Status;

use crate::stores::Stores;
use crate::support::{Client, Dice};

/// Violations that are named.
const NAMED: usize = 10;

/// A blob, by the number its bytes follow from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Blob {
    pub(crate) number: u64,
    pub(crate) size: usize,
}

/// What may be said of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// A machine acknowledged it.
    Taken,
    /// The farm said that it has all the copies.
    Protected,
    /// The only machine that is sure to have had it lost its store.
    Excused,
}

/// An entry that was acknowledged.
#[derive(Clone, Debug)]
struct Entry {
    what: What,
    /// The machine that did so.
    by: usize,
    at: Instant,
    standing: Standing,
}

#[derive(Clone, Debug)]
enum What {
    Blob(Blob, Digest),
    /// The result of an action, with the blob it names.
    Result(Digest, Digest),
}

/// The ledger.
#[derive(Default)]
pub(crate) struct Ledger(Mutex<Pages>);

#[derive(Default)]
struct Pages {
    entries: Vec<Entry>,
    violations: Vec<String>,
    counts: Counts,
    /// Whether the farm is to come to rest: nobody writes meanwhile.
    is_resting: bool,
}

/// What happened, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Blobs and results that were acknowledged.
    pub(crate) written: usize,
    /// Reads that were compared.
    pub(crate) read: usize,
    /// Digests that were asked for.
    pub(crate) asked: usize,
    /// Those said to be missing.
    pub(crate) missing: usize,
    /// Calls that failed as they may.
    pub(crate) failed: usize,
    /// Entries that went with a store.
    pub(crate) excused: usize,
}

// === impl Blob ===

impl Blob {
    /// Mostly small ones, some of some hundred KiB, a few of some MiB.
    pub(crate) fn any(dice: &mut Dice) -> Self {
        let (from, to) = match dice.below(100) {
            0..80 => (1, 32 << 10),
            80..97 => (32 << 10, 256 << 10),
            _ => (1 << 20, 4 << 20),
        };
        Self::within(dice, from, to)
    }

    /// One of a size between two.
    pub(crate) fn within(dice: &mut Dice, from: u64, to: u64) -> Self {
        Self { number: dice.roll(), size: (from + dice.below(to - from)) as usize }
    }

    /// Its bytes. Half of them compress well.
    pub(crate) fn bytes(self) -> Vec<u8> {
        let mut dice = Dice::from_number(self.number);
        let repeats = if self.number.is_multiple_of(2) { 16 } else { 1 };
        let mut bytes = Vec::with_capacity(self.size + 8 * repeats);
        while bytes.len() < self.size {
            let word = dice.roll().to_le_bytes();
            (0..repeats).for_each(|_| bytes.extend_from_slice(&word));
        }
        bytes.truncate(self.size);
        bytes
    }
}

// === impl Ledger ===

impl Ledger {
    fn with<T>(&self, change: impl FnOnce(&mut Pages) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    fn acknowledge(&self, by: usize, what: What) {
        self.with(|pages| {
            pages.counts.written += 1;
            pages.entries.push(Entry { what, by, at: Instant::now(), standing: Standing::Taken });
        });
    }

    /// Uploads a blob to a machine, which must take it.
    pub(crate) async fn put(&self, client: &Client, machine: usize, blob: Blob) -> Digest {
        let digest = client.put(&blob.bytes()).await;
        self.acknowledge(machine, What::Blob(blob, digest));
        digest
    }

    /// Uploads a blob to a machine, which may refuse it.
    pub(crate) async fn try_put(
        &self,
        client: &Client,
        machine: usize,
        blob: Blob,
    ) -> Result<Digest, Status> {
        let bytes = blob.bytes();
        let digest = client.digest(&bytes);
        client.write(&digest, &bytes).await?;
        self.acknowledge(machine, What::Blob(blob, digest));
        Ok(digest)
    }

    /// Uploads so many of a size between two.
    pub(crate) async fn put_some(
        &self,
        stores: &Stores,
        machine: usize,
        count: usize,
        (from, to): (u64, u64),
    ) -> Vec<Digest> {
        let client = stores.client(machine);
        let mut dice = Dice::from_number(uuid::Uuid::new_v4().as_u64_pair().0);
        let mut digests = Vec::new();
        for _ in 0..count {
            let blob = Blob::within(&mut dice, from, to);
            digests.push(self.put(&client, machine, blob).await);
        }
        digests
    }

    /// Uploads the result of an action, which names a blob.
    pub(crate) async fn put_result(&self, stores: &Stores, machine: usize, output: Digest) {
        let client = stores.client(machine);
        let action = client.digest(uuid::Uuid::new_v4().as_bytes());
        client.update_action_result(&action, result_naming(&output)).await.unwrap();
        self.acknowledge(machine, What::Result(action, output));
    }

    /// Notes that all acknowledged by now has its copies, once the farm has come to rest.
    pub(crate) async fn settle(&self, stores: &Stores) {
        self.settle_with(stores, stores.up().len()).await;
    }

    /// The same where so many machines count.
    pub(crate) async fn settle_with(&self, stores: &Stores, keepers: usize) {
        let asked = Instant::now();
        self.with(|pages| pages.is_resting = true);
        stores.settled_with(keepers).await;
        self.with(|pages| {
            pages.is_resting = false;
            let taken = pages.entries.iter_mut().filter(|entry| entry.standing == Standing::Taken);
            taken.filter(|entry| entry.at < asked).for_each(|entry| entry.standing = Standing::Protected);
        });
    }

    /// Notes that a machine is about to lose its store.
    pub(crate) fn lose_store(&self, machine: usize) {
        self.with(|pages| {
            let taken = pages.entries.iter_mut().filter(|entry| entry.standing == Standing::Taken);
            for entry in taken.filter(|entry| entry.by == machine) {
                entry.standing = Standing::Excused;
                pages.counts.excused += 1;
            }
            // What names such a blob is nothing without it.
            let gone: Vec<Digest> = pages.entries.iter().filter_map(Entry::excused_blob).collect();
            for entry in &mut pages.entries {
                if matches!(entry.what, What::Result(_, output) if gone.contains(&output)) {
                    entry.standing = Standing::Excused;
                }
            }
        });
    }

    /// Some protected blob; `None` while there is none.
    pub(crate) fn any_protected(&self, dice: &mut Dice) -> Option<(Blob, Digest)> {
        self.with(|pages| {
            let protected = pages.entries.iter().filter(|entry| entry.standing == Standing::Protected);
            let blobs: Vec<_> = protected.filter_map(Entry::blob).collect();
            blobs.get(dice.below(blobs.len() as u64) as usize).copied()
        })
    }

    /// The blobs that must be there.
    pub(crate) fn blobs(&self) -> Vec<(Blob, Digest)> {
        self.with(|pages| {
            let kept = pages.entries.iter().filter(|entry| entry.standing != Standing::Excused);
            kept.filter_map(Entry::blob).collect()
        })
    }

    /// What happened so far.
    pub(crate) fn counts(&self) -> Counts {
        self.with(|pages| pages.counts)
    }

    fn violate(&self, what: String) {
        self.with(|pages| pages.violations.push(what));
    }

    /// Whether anything was wrong so far.
    pub(crate) fn is_violated(&self) -> bool {
        self.with(|pages| !pages.violations.is_empty())
    }

    /// What was wrong, which is forgotten by that.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.with(|pages| std::mem::take(&mut pages.violations))
    }

    /// Panics if anything was wrong.
    pub(crate) fn assert_right(&self) {
        let wrong = self.violations();
        assert!(wrong.is_empty(), "{} violations: {:#?}", wrong.len(), &wrong[..wrong.len().min(NAMED)]);
    }
}

// === impl Entry ===

impl Entry {
    fn blob(&self) -> Option<(Blob, Digest)> {
        match self.what {
            What::Blob(blob, digest) => Some((blob, digest)),
            What::Result(..) => None,
        }
    }

    fn excused_blob(&self) -> Option<Digest> {
        let (_, digest) = self.blob()?;
        (self.standing == Standing::Excused).then_some(digest)
    }
}

/// A result with one output file.
fn result_naming(output: &Digest) -> ActionResult {
    let file = OutputFile { path: "out".into(), digest: Some(output.to_wire()), ..Default::default() };
    ActionResult { output_files: vec![file], ..Default::default() }
}
