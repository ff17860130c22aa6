//! [`EntryKey`]: what a store keeps, blobs and action results alike; [`Standing`]: who else has it.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};

use crate::digest::{BlobHash, Digest, HASH_LEN, KEY_LEN};

/// First byte of the key of an action result; never the tag of a digest function.
const ACTION_TAG: u8 = 0xac;

const LONG_ENOUGH: &str = "invariant: a key is longer than ten bytes";

/// The number of ranges that keys fall into, evenly.
pub const RANGES: usize = 256;

/// What an entry of a store is about: a blob by its digest, or an action result by the hash of its key.
#[derive(Clone, Copy, Eq, PartialOrd, Ord)]
pub struct EntryKey(pub(super) [u8; KEY_LEN]);

/// What is known here of the other copies of an entry of this machine's store. It says what may go first
/// when room is needed, and what would be lost with this machine; it is never proof that a copy can be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Standing {
    /// Perhaps this is the only one.
    #[default]
    Sole = 0,
    /// There are as many as there should be, and this is one that counts.
    Counted = 1,
    /// There are as many as there should be without this one.
    Spare = 2,
}

/// What a table of keys is looked through by: a key without the size in it. A blob has one size, so that
/// there are no two keys in a table that differ in nothing else.
pub(super) trait Unsized {
    /// Function tag and hash.
    fn unsized_key(&self) -> &[u8; 1 + HASH_LEN];
}

/// The key of a blob, but for the size in it.
pub(super) struct UnsizedKey([u8; 1 + HASH_LEN]);

// === impl EntryKey ===

impl EntryKey {
    /// Bytes of a key.
    pub const LEN: usize = KEY_LEN;

    /// The key of an action result whose identity hashes to `hash`.
    pub fn action(hash: &[u8; 32]) -> Self {
        let mut key = [0; KEY_LEN];
        key[0] = ACTION_TAG;
        key[1..33].copy_from_slice(hash);
        Self(key)
    }

    /// The key of these bytes; `None` if they are none, or that of the empty blob, which is everywhere.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let key = Self(bytes.try_into().ok()?);
        let is_action = key.is_action() && key.0[33..].iter().all(|byte| *byte == 0);
        (is_action || key.digest().is_some_and(|digest| !digest.is_empty_blob())).then_some(key)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// The blob this is the key of; `None` for an action result.
    pub fn digest(&self) -> Option<Digest> {
        Digest::from_key(&self.0)
    }

    /// Whether it is that of an action result.
    pub fn is_action(&self) -> bool {
        self.0[0] == ACTION_TAG
    }

    /// Which of the [`RANGES`] it is in.
    pub fn range(&self) -> u8 {
        self.0[1]
    }

    /// Eight bytes of the hash: all the randomness a table needs.
    pub fn spread(&self) -> u64 {
        u64::from_le_bytes(self.0[1..9].try_into().expect(LONG_ENOUGH))
    }
}

impl From<&Digest> for EntryKey {
    fn from(digest: &Digest) -> Self {
        Self(digest.to_key())
    }
}

/// In two parts, each of a length that is compared without a call: every look into the map does it.
impl PartialEq for EntryKey {
    fn eq(&self, other: &Self) -> bool {
        let (hash, size) = self.0.split_at(33);
        let (other_hash, other_size) = other.0.split_at(33);
        hash[1..] == other_hash[1..] && size == other_size && hash[0] == other_hash[0]
    }
}

impl Hash for EntryKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_unsized(self.unsized_key(), state);
    }
}

/// Without the range: keys of one range share tables.
fn hash_unsized<H: Hasher>(key: &[u8; 1 + HASH_LEN], state: &mut H) {
    state.write_u64(u64::from_le_bytes(key[2..10].try_into().expect(LONG_ENOUGH)));
}

impl Unsized for EntryKey {
    fn unsized_key(&self) -> &[u8; 1 + HASH_LEN] {
        self.0.first_chunk().expect(LONG_ENOUGH)
    }
}

impl Unsized for UnsizedKey {
    fn unsized_key(&self) -> &[u8; 1 + HASH_LEN] {
        &self.0
    }
}

impl From<&BlobHash> for UnsizedKey {
    fn from(hash: &BlobHash) -> Self {
        Self(hash.to_bytes())
    }
}

impl<'a> Borrow<dyn Unsized + 'a> for EntryKey {
    fn borrow(&self) -> &(dyn Unsized + 'a) {
        self
    }
}

impl PartialEq for dyn Unsized + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.unsized_key() == other.unsized_key()
    }
}

impl Eq for dyn Unsized + '_ {}

impl Hash for dyn Unsized + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_unsized(self.unsized_key(), state);
    }
}

impl std::fmt::Debug for EntryKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.digest() {
            Some(digest) => write!(f, "{digest}"),
            None => write!(f, "action {}", const_hex::encode(&self.0[1..33])),
        }
    }
}

// === impl Standing ===

impl Standing {
    /// The standing with this number; the safest for one that is none.
    pub(super) fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Counted,
            2 => Self::Spare,
            _ => Self::Sole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::DigestFunction;

    #[test]
    fn keys_are_read_as_they_were_written_and_nothing_else_is_one() {
        let blob = EntryKey::from(&Digest::of(DigestFunction::Sha256, b"a"));
        let action = EntryKey::action(&[7; 32]);
        for key in [blob, action] {
            assert_eq!(EntryKey::read(key.bytes()), Some(key));
        }
        assert!(action.is_action() && !blob.is_action() && action.digest().is_none());
        let empty = EntryKey::from(&Digest::empty(DigestFunction::Sha256));
        let mut long = *action.bytes();
        long[40] = 1;
        for bytes in [&empty.bytes()[..], &long, &[7; KEY_LEN], &blob.bytes()[..40], b""] {
            assert_eq!(EntryKey::read(bytes), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_standing_is_the_number_it_is_stored_as() {
        for standing in [Standing::Sole, Standing::Counted, Standing::Spare] {
            assert_eq!(Standing::from_number(standing as u8), standing);
        }
        assert_eq!(Standing::from_number(9), Standing::Sole);
    }
}
