//! Why the action cache had no result for an action, in one word, one sentence, and differences.
//!
//! [`cause`] decides from what is remembered of earlier actions, without any I/O. Where the nearest of
//! them differs, [`explain`] reads both out of the CAS and compares: `definition` the messages,
//! `arguments` the command lines, `inputs` the Merkle trees, descending only where digests differ.
//! `words` makes the sentence. What is read is bounded, so that an explanation takes milliseconds
//! whatever the size of the inputs. Who remembers, and when it is asked, is for
//! [`history`](crate::history).

use std::time::SystemTime;

use farmhand_proto::control::{Difference, Miss, miss};
use farmhand_proto::time::timestamp;
use prost::Message;

use crate::action_cache::ActionKey;
use crate::action_cache::fate::Fate;
use crate::cas::ContentAddressableStorage;
use crate::digest::Digest;

mod arguments;
mod definition;
mod inputs;
mod words;

pub use words::span;

use definition::{Comparison, Definition};

/// Differences told at most.
const MAX_DIFFERENCES: usize = 32;

/// Bytes of an encoded [`Miss`] at most.
const MAX_BYTES: usize = 2048;

/// Earlier actions compared with a new one.
pub const CANDIDATES: usize = 3;

/// An action that the action cache had no result for.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Instance and digest.
    pub key: ActionKey,
    /// When it came in.
    pub at: SystemTime,
    /// What it builds, in words; may be empty.
    pub name: String,
    /// Whether its result is never kept.
    pub do_not_cache: bool,
    /// Whether the client wanted no result out of the action cache.
    pub skip_cache_lookup: bool,
    /// Digests of its Command and its root Directory, where they are remembered.
    pub parts: Option<Parts>,
}

/// What an action consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Digest of the Command.
    pub command: Digest,
    /// Digest of the root Directory.
    pub input_root: Digest,
}

/// An action that ended before, as it is remembered.
#[derive(Clone, Debug)]
pub struct Earlier {
    /// Instance and digest.
    pub key: ActionKey,
    /// When it ended.
    pub finished: SystemTime,
    /// How.
    pub ended: Ended,
    /// What it consisted of.
    pub parts: Option<Parts>,
    /// Paths of its outputs with their digests, where they are remembered.
    pub outputs: Vec<(String, Digest)>,
}

/// How an earlier action ended, as far as the action cache is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With a result that was stored, or came out of the action cache.
    Kept,
    /// Well, but its result was not stored.
    NotKept,
    /// With this exit code.
    Failed(i32),
    /// The command was not run to its end: status code and message.
    Error(i32, String),
}

/// What is remembered that bears on a miss; each list begins with the newest.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The same action.
    pub same: Vec<Earlier>,
    /// Other actions that made the same thing.
    pub kin: Vec<Earlier>,
}

/// Why there was no result, as far as the memory tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cause<'a> {
    /// The action forbids to keep results.
    DoNotCache,
    /// The client did not want the result there was.
    Skipped,
    /// There was a result.
    Gone(&'a Earlier),
    /// The same action left nothing to keep.
    LeftNothing(&'a Earlier),
    /// The same action ran in another instance.
    OtherInstance(&'a Earlier),
    /// Only others are known that made the same.
    Kin,
    /// Nothing is known.
    First,
}

/// What two actions are told apart by is the identity of what is remembered.
impl PartialEq for Earlier {
    fn eq(&self, other: &Self) -> bool {
        (&self.key, self.finished, &self.ended) == (&other.key, other.finished, &other.ended)
    }
}

/// Why there was no result for `subject`.
pub fn cause<'a>(subject: &Subject, known: &'a Known) -> Cause<'a> {
    if subject.do_not_cache {
        return Cause::DoNotCache;
    }
    let (here, elsewhere): (Vec<&Earlier>, Vec<&Earlier>) =
        known.same.iter().partition(|earlier| earlier.key.instance == subject.key.instance);
    let kept = |earlier: &&&Earlier| earlier.ended == Ended::Kept;
    if let Some(earlier) = here.iter().find(kept) {
        return if subject.skip_cache_lookup { Cause::Skipped } else { Cause::Gone(earlier) };
    }
    if let Some(earlier) = here.first() {
        return Cause::LeftNothing(earlier);
    }
    if let Some(earlier) = elsewhere.iter().find(kept) {
        return Cause::OtherInstance(earlier);
    }
    if known.kin.is_empty() { Cause::First } else { Cause::Kin }
}

/// Explains the miss of `subject`. `fate` tells what became of a result that was there.
pub async fn explain(
    cas: &dyn ContentAddressableStorage,
    subject: &Subject,
    known: &Known,
    fate: Option<Fate>,
) -> Miss {
    let miss = match cause(subject, known) {
        Cause::DoNotCache => told(miss::Kind::DoNotCache, words::do_not_cache()),
        Cause::Skipped => told(miss::Kind::Skipped, words::skipped()),
        Cause::First => told(miss::Kind::First, words::first(&subject.name)),
        Cause::Gone(earlier) => {
            let fate =
                fate.filter(|fate| fate.at.is_none_or(|at| at >= earlier.finished && at <= subject.at));
            let kind =
                if fate.is_some_and(|f| f.damaged) { miss::Kind::Damaged } else { miss::Kind::Evicted };
            after(earlier, told(kind, words::gone(subject, earlier, fate)))
        }
        Cause::LeftNothing(earlier) => {
            after(earlier, told(miss::Kind::FailedBefore, words::left_nothing(&earlier.ended)))
        }
        Cause::OtherInstance(earlier) => {
            let summary = words::other_instance(earlier.key.instance.as_str());
            after(earlier, told(miss::Kind::OtherInstance, summary))
        }
        Cause::Kin => compare_with_kin(cas, subject, &known.kin).await,
    };
    bounded(miss)
}

/// What is said of an operation that was no miss.
pub fn hit() -> Miss {
    told(miss::Kind::Hit, words::hit())
}

fn told(kind: miss::Kind, summary: String) -> Miss {
    Miss { kind: kind.into(), summary, ..Default::default() }
}

fn after(earlier: &Earlier, miss: Miss) -> Miss {
    Miss {
        earlier_digest: earlier.key.action.to_string(),
        earlier_finished: Some(timestamp(earlier.finished)),
        ..miss
    }
}

/// Finds the nearest of `kin`: the one with the fewest differences.
async fn compare_with_kin(cas: &dyn ContentAddressableStorage, subject: &Subject, kin: &[Earlier]) -> Miss {
    let mut nearest: Option<(&Earlier, Comparison)> = None;
    if let Some(new) = Definition::load(cas, &subject.key.action).await {
        for earlier in kin.iter().take(CANDIDATES) {
            let Some(old) = Definition::load(cas, &earlier.key.action).await else { continue };
            let Some(comparison) = definition::compare(cas, &old, &new).await else { continue };
            let is_nearer = nearest.as_ref().is_none_or(|(_, best)| comparison.total < best.total);
            if is_nearer {
                nearest = Some((earlier, comparison));
            }
            if nearest.as_ref().is_some_and(|(_, best)| best.total <= 1) {
                break;
            }
        }
    }
    match (nearest, kin.first()) {
        (Some((earlier, comparison)), _) => {
            let Comparison { differences, total, is_whole } = comparison;
            let summary = words::changed(&differences, total, is_whole);
            let miss = told(miss::Kind::Changed, summary);
            after(earlier, Miss { differences, total_differences: total, ..miss })
        }
        (None, Some(earlier)) => {
            after(earlier, told(miss::Kind::Forgotten, words::forgotten(subject, earlier)))
        }
        (None, None) => told(miss::Kind::First, words::first(&subject.name)),
    }
}

/// The same within [`MAX_DIFFERENCES`] and [`MAX_BYTES`].
fn bounded(mut miss: Miss) -> Miss {
    miss.differences.truncate(MAX_DIFFERENCES);
    while miss.encoded_len() > MAX_BYTES && miss.differences.pop().is_some() {}
    miss
}

/// A difference with its texts shortened around what differs.
fn difference(
    kind: farmhand_proto::control::difference::Kind,
    name: &str,
    old: &str,
    new: &str,
) -> Difference {
    let (old, new) = words::shortened_pair(old, new);
    Difference { kind: kind.into(), name: words::shortened(name), old, new }
}

#[cfg(test)]
mod tests;
