//! The action cache (AC): results of actions, by instance and action digest.
//!
//! `disk` keeps them beside the blobs of this machine; `complete` is the decorator that lets a
//! result be seen only while everything it names can be read; `pinned` is the one that lets a person
//! keep results from eviction. `fate` tells what became of others.

use async_trait::async_trait;
use farmhand_proto::reapi::ActionResult;

use crate::cas::CasError;
use crate::digest::Digest;
use crate::instance::InstanceName;

pub mod complete;
pub mod disk;
pub mod fate;
pub mod memory;
pub mod pinned;

/// What a result is stored under. Salt and timeout are part of it by being in the Action's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ActionKey {
    /// Results never leak between instances.
    pub instance: InstanceName,
    /// Digest of the Action message.
    pub action: Digest,
}

/// What can go wrong with a result.
#[derive(Debug, thiserror::Error)]
pub enum ActionCacheError {
    /// The result names blobs that are not stored; it was not taken.
    #[error("the result names {} blobs that are not in the CAS, the first is {}", .0.len(), .0.first().map_or_else(String::new, ToString::to_string))]
    Incomplete(Vec<Digest>),
    /// The result itself is malformed; it was not taken.
    #[error("malformed action result: {0}")]
    Malformed(String),
    /// The store below failed.
    #[error(transparent)]
    Cas(#[from] CasError),
}

/// A store of action results.
#[async_trait]
pub trait ActionCache: Send + Sync + 'static {
    /// The result stored under `key`.
    async fn get(&self, key: &ActionKey) -> Result<Option<ActionResult>, ActionCacheError>;

    /// Stores `result` under `key`, in place of an earlier one.
    async fn put(&self, key: &ActionKey, result: ActionResult) -> Result<(), ActionCacheError>;
}

/// Why a result is not pinned.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// There is none, or not all it names is stored.
    #[error("the action cache has no complete result for this action")]
    NoResult,
    /// Too much would be pinned: bytes or blobs.
    #[error("no room to pin this: {0}")]
    NoRoom(String),
    /// The cache failed.
    #[error(transparent)]
    Cache(#[from] ActionCacheError),
}

/// Keeps results from eviction, for people.
#[async_trait]
pub trait Pinning: Send + Sync + 'static {
    /// Keeps the result of `key` and all blobs it names until it is unpinned, across restarts.
    /// Returns their bytes. Pinning again is fine.
    async fn pin(&self, key: &ActionKey) -> Result<u64, PinError>;

    /// Lets go of the result of `key`; false if it was not pinned.
    async fn unpin(&self, key: &ActionKey) -> Result<bool, PinError>;

    /// Whether the result of `key` is pinned.
    fn is_pinned(&self, key: &ActionKey) -> bool;
}
