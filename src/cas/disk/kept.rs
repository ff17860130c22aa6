//! What a person keeps: action results that are not evicted, with blobs of theirs, until they are let
//! go, whatever happens to the process in between.
//!
//! `kept/` has a file for each, named by the hash that the result is stored under: a mark, the keys of
//! all entries that stay, a checksum. These files are read before anything can be evicted. One that is
//! damaged costs the list: the result itself is still kept, and whoever can tell what it names
//! keeps it anew ([`DiskCas::damaged_keeps`]).
//!
//! Bounded: all together take at most half of the budget, so that there is room to work in, and name at
//! most [`MOST_KEYS`] entries, since their keys are in memory.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::DiskCas;
use super::eviction::cost;
use super::files::remove_if_there;
use super::record::Key;
use super::store::{Store, lock};
use crate::cas::CasError;
use crate::digest::{Digest, KEY_LEN};

/// First bytes of a file; the last but one is the version.
const MARK: &[u8; 8] = b"FHKEPT1\n";

/// Entries that can be kept, all results together.
const MOST_KEYS: usize = 100_000;

/// Bytes of a file besides its keys.
const FRAME: usize = MARK.len() + 4;

/// Name of the directory.
const DIRECTORY: &str = "kept";

/// End of the name of a file that is being written.
const UNFINISHED: &str = ".new";

/// What keeping needs besides the table of pins.
#[derive(Default)]
pub(super) struct Keeping {
    /// Held while the files of one result change, for seconds on a slow disk: others who keep or let go
    /// wait, and nobody else.
    writing: Mutex<()>,
    /// Results whose lists were damaged.
    damaged: Mutex<Vec<[u8; 32]>>,
}

/// Why a result is not kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// Blobs went meanwhile.
    #[error("{0} blobs are not stored")]
    Missing(usize),
    /// It would leave too little room.
    #[error("{bytes} bytes would be kept; half of the budget, {limit} bytes, is the most")]
    TooMuch {
        /// Bytes of everything kept, with this.
        bytes: u64,
        /// The most.
        limit: u64,
    },
    /// Too many keys to hold in memory.
    #[error("{0} entries would be kept; {MOST_KEYS} are the most")]
    TooMany(usize),
    /// The file cannot be written.
    #[error(transparent)]
    Cas(#[from] CasError),
}

// === impl DiskCas ===

impl DiskCas {
    /// Keeps the action result stored under `hash`, and `digests`, in place of what was kept for it
    /// before. Returns the bytes of disk they take. It is on the disk when this returns. Blocks.
    pub(crate) fn keep(&self, hash: &[u8; 32], digests: &[Digest]) -> Result<u64, KeepError> {
        let blobs = digests.iter().filter(|digest| !digest.is_empty_blob()).map(Key::from);
        let mut keys: Vec<Key> = blobs.chain([Key::action(hash)]).collect();
        keys.sort_unstable();
        keys.dedup();
        self.inner().keep(hash, keys.into())
    }

    /// Lets go of a result; false if it was not kept. Blocks.
    pub(crate) fn let_go(&self, hash: &[u8; 32]) -> Result<bool, CasError> {
        self.inner().let_go(hash)
    }

    /// Whether the result stored under `hash` is kept.
    pub(crate) fn is_kept(&self, hash: &[u8; 32]) -> bool {
        lock(&self.inner().pins).kept.contains_key(hash)
    }

    /// Whether any result is kept.
    pub(crate) fn keeps_any(&self) -> bool {
        !lock(&self.inner().pins).kept.is_empty()
    }

    /// Results whose lists of blobs were found damaged at the start, told once.
    pub(crate) fn damaged_keeps(&self) -> Vec<[u8; 32]> {
        std::mem::take(&mut *lock(&self.inner().keeping.damaged))
    }
}

// === impl Store ===

impl Store {
    /// Takes in what the directory says, before anything is evicted. What cannot be read keeps no node
    /// from starting.
    pub(super) fn load_kept(&self) {
        let directory = self.kept_directory();
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::error!(%error, path = %directory.display(), "what was pinned is not known");
                return;
            }
        };
        entries.flatten().for_each(|entry| self.load_one(&entry.path()));
    }

    fn load_one(&self, path: &Path) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let mut hash = [0; 32];
        if const_hex::decode_to_slice(name, &mut hash).is_err() {
            if name.ends_with(UNFINISHED) {
                // One that stays is looked at again at the next start.
                let _ = remove_if_there(path);
            }
            return;
        }
        let keys = read(path).unwrap_or_else(|reason| {
            tracing::warn!(path = %path.display(), reason, "a list of pinned blobs is damaged");
            lock(&self.keeping.damaged).push(hash);
            vec![Key::action(&hash)]
        });
        let mut table = lock(&self.pins);
        let number = table.insert(keys.into());
        table.kept.insert(hash, number);
    }

    fn keep(&self, hash: &[u8; 32], keys: Arc<[Key]>) -> Result<u64, KeepError> {
        let _writing = lock(&self.keeping.writing);
        // First of all, so that none of them goes while the others are looked at.
        let number = lock(&self.pins).insert(Arc::clone(&keys));
        for key in &*keys {
            self.map.touch(key, self.now());
        }
        let written = self.check_keep(hash, &keys).and_then(|bytes| {
            self.write_kept(hash, &keys)?;
            Ok(bytes)
        });
        let mut table = lock(&self.pins);
        let outdated = match &written {
            Ok(_) => table.kept.insert(*hash, number),
            Err(_) => Some(number),
        };
        outdated.and_then(|number| table.pinned.remove(&number));
        written
    }

    /// Bytes of what is to be kept for a result, if it is there and there is room for it beside what is
    /// kept already.
    fn check_keep(&self, hash: &[u8; 32], keys: &[Key]) -> Result<u64, KeepError> {
        let missing = keys.iter().filter(|key| self.map.peek(key).is_none()).count();
        if missing > 0 {
            return Err(KeepError::Missing(missing));
        }
        let others: Vec<Arc<[Key]>> = {
            let table = lock(&self.pins);
            let others = table.kept.iter().filter(|(other, _)| *other != hash);
            others.filter_map(|(_, number)| table.pinned.get(number).cloned()).collect()
        };
        let entries = others.iter().map(|other| other.len()).sum::<usize>() + keys.len();
        if entries > MOST_KEYS {
            return Err(KeepError::TooMany(entries));
        }
        let all: HashSet<&Key> = others.iter().flat_map(|other| other.iter()).chain(keys).collect();
        let (bytes, limit) = (self.bytes_of(all.into_iter()), self.marks.budget / 2);
        if bytes > limit {
            return Err(KeepError::TooMuch { bytes, limit });
        }
        Ok(self.bytes_of(keys.iter()))
    }

    fn bytes_of<'a>(&self, keys: impl Iterator<Item = &'a Key>) -> u64 {
        keys.filter_map(|key| Some(cost(key, &self.map.peek(key)?))).sum()
    }

    fn write_kept(&self, hash: &[u8; 32], keys: &[Key]) -> Result<(), CasError> {
        let (directory, path) = (self.kept_directory(), self.kept_path(hash));
        let unfinished = path.with_extension(&UNFINISHED[1..]);
        let write = || {
            std::fs::create_dir_all(&directory)?;
            let mut file = File::create(&unfinished)?;
            file.write_all(&encode(keys))?;
            file.sync_all()?;
            std::fs::rename(&unfinished, &path)?;
            File::open(&directory)?.sync_all()
        };
        write().map_err(|error| CasError::io(&path, error))
    }

    fn let_go(&self, hash: &[u8; 32]) -> Result<bool, CasError> {
        let _writing = lock(&self.keeping.writing);
        let path = self.kept_path(hash);
        let failed = |error| CasError::io(&path, error);
        if !lock(&self.pins).kept.contains_key(hash) {
            return Ok(false);
        }
        remove_if_there(&path).map_err(failed)?;
        File::open(self.kept_directory()).and_then(|directory| directory.sync_all()).map_err(failed)?;
        let mut table = lock(&self.pins);
        let number = table.kept.remove(hash);
        number.and_then(|number| table.pinned.remove(&number));
        Ok(number.is_some())
    }

    fn kept_directory(&self) -> PathBuf {
        self.config.directory.join(DIRECTORY)
    }

    fn kept_path(&self, hash: &[u8; 32]) -> PathBuf {
        self.kept_directory().join(const_hex::encode(hash))
    }
}

// === files ===

fn encode(keys: &[Key]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(FRAME + keys.len() * KEY_LEN);
    bytes.extend_from_slice(MARK);
    keys.iter().for_each(|key| bytes.extend_from_slice(&key.0));
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

fn read(path: &Path) -> Result<Vec<Key>, String> {
    let length = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > (FRAME + MOST_KEYS * KEY_LEN) as u64 {
        return Err(format!("it has {length} bytes"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    decode(&bytes).ok_or_else(|| "its checksum does not hold".to_owned())
}

fn decode(bytes: &[u8]) -> Option<Vec<Key>> {
    let (framed, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32fast::hash(framed).to_le_bytes() != *checksum {
        return None;
    }
    let keys = framed.strip_prefix(MARK)?;
    let is_whole = keys.len().is_multiple_of(KEY_LEN);
    let (keys, _) = keys.as_chunks::<KEY_LEN>();
    is_whole.then(|| keys.iter().copied().map(Key).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_list_is_read_back_whole_or_not_at_all(
            hashes in proptest::collection::vec(any::<[u8; 32]>(), 0..20),
            at in any::<prop::sample::Index>(),
            change in 1..=255_u8,
        ) {
            let keys: Vec<Key> = hashes.iter().map(Key::action).collect();
            let mut bytes = encode(&keys);
            prop_assert_eq!(decode(&bytes), Some(keys));
            prop_assert_eq!(decode(&bytes[..at.index(bytes.len())]), None);
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            prop_assert_eq!(decode(&bytes), None);
        }
    }
}
