//! Parts: blobs that are stretches of a larger one in the same store, kept as a note of where they are.
//!
//! A part is an entry like any, in the map and in the packs, whose record says which blob has its bytes, and from
//! where on. It is there while that blob is: a look at one whose whole is gone drops it. A use of a part is one of
//! the whole, too, and what pins a part pins the whole. A part that is read is hashed, as a small blob is. One that
//! is written as a blob of its own replaces the note.
//!
//! Parts are this machine's affair: they are no copies, and other machines are not told of them.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use super::DiskCas;
use super::map::{Found, Use};
use super::news::Origin;
use super::packs::Wait;
use super::record::{Key, Kind, PART_LEN, record_len};
use super::store::{Store, new_entry};
use super::sums::PIECE;
use crate::cas::{BlobParts, CasError};
use crate::digest::{Digest, KEY_LEN};

/// Parts of parts of parts there may be. A part is noted as one of what is no part itself, but that may have become
/// one since.
const DEPTH: usize = 4;

/// Parts that are noted before the tail of the packs is free for others.
const TURN: usize = 256;

/// Where the bytes of a part are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) whole: Digest,
    pub(super) offset: u64,
}

// === impl Stretch ===

impl Stretch {
    fn encode(&self) -> [u8; PART_LEN] {
        let mut bytes = [0; PART_LEN];
        bytes[..KEY_LEN].copy_from_slice(Key::from(&self.whole).bytes());
        bytes[KEY_LEN..].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    /// Where `part` is, by the data of its record; `None` if it does not fit in there.
    fn decode(part: &Digest, bytes: &[u8]) -> Option<Self> {
        let (key, offset) = bytes.split_first_chunk::<KEY_LEN>()?;
        let whole = Key::read(key)?.digest()?;
        let offset = u64::from_le_bytes(offset.try_into().ok()?);
        let end = offset.checked_add(part.size())?;
        (end <= whole.size() && part.size() < whole.size()).then_some(Self { whole, offset })
    }
}

// === impl Store ===

impl Store {
    /// Where the bytes of a part are, in a blob that is no part and is there; its life is renewed as `using` says.
    /// A part that leads nowhere is dropped, and `None`.
    pub(super) fn stretch(&self, part: &Digest, found: &Found, using: Use) -> Option<(Stretch, Found)> {
        let stretch = self.try_stretch(part, found, using).unwrap_or_else(|error| {
            tracing::debug!(digest = %part, %error, "where a part is cannot be read");
            None
        });
        if stretch.is_none() {
            self.drop_part(part, found);
        }
        stretch
    }

    fn try_stretch(&self, part: &Digest, found: &Found, using: Use) -> io::Result<Option<(Stretch, Found)>> {
        let (mut digest, mut found, mut within) = (*part, *found, 0);
        for _ in 0..DEPTH {
            let data = self.packs.read_checked(found.place, &Key::from(&digest), found.length, Wait::Yes)?;
            let stretch = data.and_then(|data| Stretch::decode(&digest, &data));
            let Some(Stretch { whole, offset }) = stretch else { return Ok(None) };
            within += offset;
            let Some(next) = self.map.look(&Key::from(&whole), self.now(), using) else { return Ok(None) };
            if next.kind != Kind::Part {
                return Ok(Some((Stretch { whole, offset: within }, next)));
            }
            (digest, found) = (whole, next);
        }
        Ok(None)
    }

    fn drop_part(&self, part: &Digest, found: &Found) {
        self.remove(&Key::from(part), |now| now.place == found.place);
    }

    /// The bytes of a part, hashed.
    pub(super) fn load_part(&self, part: &Digest, found: &Found, using: Use) -> Result<Bytes, CasError> {
        let absent = || CasError::NotFound(*part);
        let (Stretch { whole, offset }, of_whole) = self.stretch(part, found, using).ok_or_else(absent)?;
        let data = match of_whole.kind {
            Kind::Note => self.load_stretch(&whole, &of_whole, offset, part.size()).map_err(|_| absent())?,
            _ => {
                let data = self.load(&whole, using).map_err(|_| absent())?;
                data.slice(offset as usize..(offset + part.size()) as usize)
            }
        };
        if Digest::of(part.function(), &data) != *part {
            tracing::error!(digest = %part, %whole, "a part is not where it was noted to be: it is dropped");
            self.drop_part(part, found);
            return Err(absent());
        }
        Ok(data)
    }

    /// `len` bytes of a large blob from `offset` on, checked.
    fn load_stretch(&self, whole: &Digest, found: &Found, offset: u64, len: u64) -> Result<Bytes, CasError> {
        let large = self.open_large(whole, found)?;
        let mut data = Vec::with_capacity(len as usize);
        let (piece, end) = (PIECE as u64, offset + len);
        for number in offset / piece..end.div_ceil(piece) {
            let bytes = large.read(number).map_err(|error| {
                self.drop_large_piece(whole, &error);
                CasError::NotFound(*whole)
            })?;
            let start = number * piece;
            let from = offset.saturating_sub(start) as usize;
            let until = (end - start).min(bytes.len() as u64) as usize;
            data.extend_from_slice(&bytes[from..until]);
        }
        Ok(data.into())
    }

    /// The blobs that the parts among `pinned` are stretches of.
    pub(super) fn wholes_of(&self, pinned: &HashSet<Key>) -> Vec<Key> {
        let whole = |key: &Key| {
            let found = self.map.peek(key).filter(|found| found.kind == Kind::Part)?;
            Some(Key::from(&self.stretch(&key.digest()?, &found, Use::Nobody)?.0.whole))
        };
        pinned.iter().filter_map(whole).collect()
    }

    /// Notes those of `parts` that are not there. Returns the epoch to settle.
    fn note_parts(&self, parts: &[(Digest, Stretch)]) -> Result<u64, CasError> {
        let now = self.now();
        let mut appender = self.packs.appender();
        let mut epoch = appender.last_written_epoch();
        for (part, stretch) in parts {
            let key = Key::from(part);
            if self.map.touch(&key, now).is_some() {
                continue;
            }
            let place = appender
                .append(Kind::Part, key, now, &stretch.encode())
                .map_err(|error| CasError::io(self.packs.directory(), error))?;
            let origin = Origin::Here { anew: true };
            self.map.insert(key, &new_entry(place, PART_LEN as u32, Kind::Part, now, origin));
            self.space.add(record_len(PART_LEN as u32));
            self.work.mark_dirty();
            epoch = appender.epoch();
        }
        Ok(epoch)
    }

    /// Those of `parts` that are not there, with their places in `whole`. Those that are get a longer life.
    fn lacking_parts(&self, whole: &Digest, parts: &[Digest]) -> Result<Vec<(Digest, Stretch)>, CasError> {
        let now = self.now();
        let found = self.map.touch(&Key::from(whole), now).ok_or(CasError::NotFound(*whole))?;
        let root = match found.kind {
            Kind::Part => self.stretch(whole, &found, Use::Here).ok_or(CasError::NotFound(*whole))?.0,
            _ => Stretch { whole: *whole, offset: 0 },
        };
        let (mut offset, mut lacking) = (root.offset, Vec::new());
        for part in parts {
            let stretch = Stretch { whole: root.whole, offset };
            offset += part.size();
            let known = self.map.touch(&Key::from(part), now);
            let is_there = known.is_some_and(|found| {
                found.kind != Kind::Part || self.stretch(part, &found, Use::Here).is_some()
            });
            // What is the whole itself, or empty, needs no note.
            if !is_there && part.size() < root.whole.size() && !part.is_empty_blob() {
                lacking.push((*part, stretch));
            }
        }
        Ok(lacking)
    }
}

#[async_trait]
impl BlobParts for DiskCas {
    async fn divide(&self, whole: &Digest, parts: &[Digest]) -> Result<(), CasError> {
        let (digest, wanted): (_, Arc<[Digest]>) = (*whole, parts.into());
        let lacking = self.blocking(move |store| store.lacking_parts(&digest, &wanted)).await?;
        if lacking.is_empty() {
            return Ok(());
        }
        let store = self.inner();
        let each = record_len(PART_LEN as u32);
        let reservation = store.admit(each * lacking.len() as u64).await?;
        let noting = self.blocking(move |store| {
            let mut epoch = 0;
            for turn in lacking.chunks(TURN) {
                epoch = store.note_parts(turn)?;
            }
            // What was noted has been counted.
            drop(reservation);
            Ok(epoch)
        });
        let epoch = noting.await?;
        store.settle(epoch).await
    }
}
