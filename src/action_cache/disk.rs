//! [`DiskActionCache`]: results beside the blobs of this machine.
//!
//! It owns the encoding of a stored result (its key, then the message) and a small memory of hot ones.
//! The records live in the packs of a [`DiskCas`] and share its promises: the last write of a key
//! wins, what was acknowledged survives a kill, and entries age out with the blobs, longest unused
//! first. Whether the blobs a result names are still there is for `complete` to check.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use farmhand_proto::reapi::ActionResult;
use prost::Message;
use sha2::Digest as _;

use super::{ActionCache, ActionCacheError, ActionKey};
use crate::cas::CasError;
use crate::cas::disk::{ActionPlace, Departure, DiskCas};
use crate::cas::entry::EntryKey;
use crate::digest::{Digest, KEY_LEN};
use crate::instance::InstanceName;
use crate::recent::Recent;

/// Bytes of results kept in memory.
const HOT_BYTES: usize = 8 << 20;

/// Separates these hashes from all others.
const DOMAIN: &[u8] = b"farmhand action result\0";

/// The action cache on the disk of this machine. Clones are the same cache.
#[derive(Clone)]
pub struct DiskActionCache {
    cas: DiskCas,
    hot: Arc<Mutex<Hot>>,
}

/// Encoded results that were used lately, with their places.
type Hot = Recent<[u8; 32], (ActionPlace, Bytes)>;

// === impl DiskActionCache ===

impl DiskActionCache {
    /// The action cache in the packs of `cas`.
    pub fn new(cas: DiskCas) -> Self {
        let hot = Hot::weighed(HOT_BYTES, |(_, data)| data.len());
        Self { cas, hot: Arc::new(Mutex::new(hot)) }
    }

    /// How the result under `key` left the store last, if that is remembered.
    pub(super) fn departure(&self, key: &ActionKey) -> Option<Departure> {
        self.cas.action_departure(&identity(key))
    }

    fn hot(&self) -> MutexGuard<'_, Hot> {
        self.hot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ActionCache for DiskActionCache {
    async fn get(&self, key: &ActionKey) -> Result<Option<ActionResult>, ActionCacheError> {
        let hash = identity(key);
        let Some(stored) = self.cas.find_action(&hash) else { return Ok(None) };
        let hot = self.hot().get(&hash).cloned();
        let data = match hot {
            Some((place, data)) if place == stored.place() => data,
            _ => {
                let Some(data) = self.cas.read_action(stored).await? else { return Ok(None) };
                self.hot().insert(hash, (stored.place(), data.clone()));
                data
            }
        };
        Ok(decode(key, &data))
    }

    async fn put(&self, key: &ActionKey, result: ActionResult) -> Result<(), ActionCacheError> {
        let hash = identity(key);
        let data = encode(key, &result);
        let place = self.cas.put_action(&hash, data.clone()).await?;
        self.hot().insert(hash, (place, data));
        Ok(())
    }
}

// === the stored form ===

/// What a result is stored under.
pub(crate) fn identity(key: &ActionKey) -> [u8; 32] {
    let mut hash = sha2::Sha256::new();
    hash.update(DOMAIN);
    hash.update(key.action.to_key());
    hash.update(key.instance.as_str());
    hash.finalize().into()
}

/// Whether `data` is the stored form of a result that belongs under `key`, by what it says of itself: an
/// action, an instance, and a message that can be read.
pub(crate) fn is_stored_under(key: &EntryKey, data: &[u8]) -> bool {
    let Some((action, message)) = parse(data) else { return false };
    EntryKey::action(&identity(&action)) == *key && ActionResult::decode(message).is_ok()
}

/// The key that a record carries, and its message.
fn parse(data: &[u8]) -> Option<(ActionKey, &[u8])> {
    let (action, instance, message) = split(data)?;
    let instance = InstanceName::parse(std::str::from_utf8(instance).ok()?).ok()?;
    Some((ActionKey { instance, action: Digest::from_key(action)? }, message))
}

/// The key of the result stored under `hash`, out of the result's own record.
pub(super) async fn key_of(cas: &DiskCas, hash: &[u8; 32]) -> Result<Option<ActionKey>, CasError> {
    let Some(stored) = cas.find_action(hash) else { return Ok(None) };
    let Some(data) = cas.read_action(stored).await? else { return Ok(None) };
    Ok(parse(&data).map(|(key, _)| key))
}

/// Key of the action, length of the instance name, instance name, message.
fn encode(key: &ActionKey, result: &ActionResult) -> Bytes {
    let instance = key.instance.as_str().as_bytes();
    let mut data = Vec::with_capacity(KEY_LEN + 2 + instance.len() + result.encoded_len());
    data.extend_from_slice(&key.action.to_key());
    let length = u16::try_from(instance.len()).expect("invariant: instance names are short");
    data.extend_from_slice(&length.to_le_bytes());
    data.extend_from_slice(instance);
    data.extend_from_slice(&result.encode_to_vec());
    data.into()
}

/// The message, if the record is one of `key`.
pub(crate) fn decode(key: &ActionKey, data: &[u8]) -> Option<ActionResult> {
    let (action, instance, message) = split(data)?;
    let is_same = *action == key.action.to_key() && instance == key.instance.as_str().as_bytes();
    is_same.then(|| ActionResult::decode(message).ok()).flatten()
}

/// The parts of a record.
fn split(data: &[u8]) -> Option<(&[u8; KEY_LEN], &[u8], &[u8])> {
    let (action, rest) = data.split_first_chunk::<KEY_LEN>()?;
    let (length, rest) = rest.split_first_chunk::<2>()?;
    let (instance, message) = rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
    Some((action, instance, message))
}
