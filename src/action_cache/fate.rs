//! [`Fates`]: what became of results that are not served any more, as far as the store remembers.

use std::sync::Arc;
use std::time::SystemTime;

use super::ActionKey;
use super::complete::Incomplete;
use super::disk::DiskActionCache;
use crate::cas::disk::DiskCas;
use crate::digest::Digest;

/// Why a result is not served any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fate {
    /// The blob it lacks; `None` when the result itself is gone.
    pub lacking: Option<Digest>,
    /// When that left the store, where it is remembered.
    pub at: Option<SystemTime>,
    /// Whether it was damaged on the disk; else it was evicted.
    pub damaged: bool,
}

/// Who knows what becomes of results.
#[derive(Clone)]
pub struct Fates {
    cas: DiskCas,
    results: DiskActionCache,
    incomplete: Arc<Incomplete>,
}

impl Fates {
    /// Over the stores that serve results.
    pub fn new(cas: DiskCas, results: DiskActionCache, incomplete: Arc<Incomplete>) -> Self {
        Self { cas, results, incomplete }
    }

    /// What became of the result under `key`; `None` where nothing is remembered. There may be a new
    /// one in its place.
    pub fn of(&self, key: &ActionKey) -> Option<Fate> {
        let Some(digest) = self.incomplete.lacking(key) else {
            let left = self.results.departure(key)?;
            return Some(Fate { lacking: None, at: Some(left.at), damaged: left.damaged });
        };
        let left = self.cas.departure(&digest);
        Some(Fate {
            lacking: Some(digest),
            at: left.map(|left| left.at),
            damaged: left.is_some_and(|left| left.damaged),
        })
    }
}
