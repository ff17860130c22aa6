//! Records: what a pack is made of, and the scan that finds them again.
//!
//! This file owns the byte layout. It promises that a record is taken for one only if its checksum
//! holds, and that damage hides no record behind it: the scan searches on for the next one, and a
//! sector that cannot be read is damage like any other. The magic in front of each record is drawn at random when a store is made and told to nobody, so that
//! no client can upload a blob which, after damage, reads as records of its own making.

use std::io;
use std::os::unix::fs::FileExt;

pub(super) use crate::cas::entry::EntryKey as Key;

/// Bytes of a record in front of its data.
pub(super) const HEADER: usize = 72;

/// Bytes of data in the record of a part.
pub(super) const PART_LEN: usize = Key::LEN + 8;

/// Bytes checked or searched at a time.
const WINDOW: usize = 1 << 20;

/// Bytes read at a time where a read of more failed: what a disk loses at once.
const SECTOR: u64 = 4096;

/// The random mark of one store.
pub(super) type Magic = [u8; 8];

/// What the data of a record is. The numbers are stored: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The bytes of a small blob.
    Blob = 1,
    /// The piece checksums of a large blob, whose bytes are in a file of its own.
    Note = 2,
    /// An action result, in the encoding of the action cache.
    Action = 3,
    /// Where the bytes of a blob are that is a part of a larger one.
    Part = 4,
}

/// The fixed part of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    pub(super) key: Key,
    /// The epoch it was written in.
    pub(super) epoch: u64,
    /// When, in seconds since 1970.
    pub(super) written: u32,
    /// Bytes of data behind the header.
    pub(super) length: u32,
}

// === impl Kind ===

impl Kind {
    pub(super) fn from_tag(tag: u8) -> Option<Self> {
        [Self::Blob, Self::Note, Self::Action, Self::Part].into_iter().find(|kind| *kind as u8 == tag)
    }

    /// Whether a record of this kind can have this key and length.
    fn suits(self, key: &Key, length: u32) -> bool {
        match (self, key.digest()) {
            (Self::Blob, Some(digest)) => digest.size() == u64::from(length),
            (Self::Note, Some(_)) => true,
            (Self::Action, None) => key.is_action(),
            (Self::Part, Some(_)) => length as usize == PART_LEN,
            _ => false,
        }
    }
}

// === impl Header ===

impl Header {
    /// The bytes in front of `data`, checksum included.
    pub(super) fn encode(&self, magic: &Magic, data: &[u8]) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(magic);
        bytes[8] = self.kind as u8;
        bytes[9..50].copy_from_slice(&self.key.0);
        bytes[52..60].copy_from_slice(&self.epoch.to_le_bytes());
        bytes[60..64].copy_from_slice(&self.written.to_le_bytes());
        bytes[64..68].copy_from_slice(&self.length.to_le_bytes());
        let mut crc = crc32fast::Hasher::new();
        crc.update(&bytes[..68]);
        crc.update(data);
        bytes[68..].copy_from_slice(&crc.finalize().to_le_bytes());
        bytes
    }

    /// Reads the fixed part; the checksum is not looked at.
    pub(super) fn decode(magic: &Magic, bytes: &[u8; HEADER]) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        if bytes[..8] != magic[..] {
            return None;
        }
        let kind = Kind::from_tag(bytes[8])?;
        let key = Key(bytes[9..50].try_into().ok()?);
        let epoch = u64::from(word(52)) | u64::from(word(56)) << 32;
        let header = Self { kind, key, epoch, written: word(60), length: word(64) };
        kind.suits(&key, header.length).then_some(header)
    }

    /// Bytes of the whole record.
    pub(super) fn record_len(&self) -> u64 {
        record_len(self.length)
    }
}

/// Bytes of a record with `length` bytes of data.
pub(super) fn record_len(length: u32) -> u64 {
    HEADER as u64 + u64::from(length)
}

/// The header of a whole record in memory, if its checksum holds.
pub(super) fn parse(magic: &Magic, record: &[u8]) -> Option<Header> {
    let (head, data) = record.split_first_chunk::<HEADER>()?;
    let header = Header::decode(magic, head)?;
    (header.length as usize == data.len() && checksum(head, [data]) == stored_checksum(head))
        .then_some(header)
}

fn stored_checksum(head: &[u8; HEADER]) -> u32 {
    u32::from_le_bytes([head[68], head[69], head[70], head[71]])
}

fn checksum<'a>(head: &[u8; HEADER], data: impl IntoIterator<Item = &'a [u8]>) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&head[..68]);
    data.into_iter().for_each(|piece| crc.update(piece));
    crc.finalize()
}

// === scanning ===

/// Visits every whole record of `file` between `from` and `to` with its offset, in order. Returns
/// the end of the last one (`from` if there is none).
pub(super) fn scan<F: FileExt, E: From<io::Error>>(
    file: &F,
    magic: &Magic,
    from: u64,
    to: u64,
    mut visit: impl FnMut(u64, &Header) -> Result<(), E>,
) -> Result<u64, E> {
    let mut window = Window { file, to, start: 0, bytes: Vec::new() };
    let (mut offset, mut end) = (from, from);
    while offset + HEADER as u64 <= to {
        if let Some(header) = window.record_at(offset, magic)? {
            visit(offset, &header)?;
            offset += header.record_len();
            end = offset;
        } else {
            offset = window.find(offset + 1, magic)?;
        }
    }
    Ok(end)
}

/// A view into a file, read ahead.
struct Window<'a, F> {
    file: &'a F,
    to: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl<F: FileExt> Window<'_, F> {
    /// `len` bytes at `offset`, which must end before the end of the scanned range.
    fn slice(&mut self, offset: u64, len: usize) -> io::Result<&[u8]> {
        let held = self.start..self.start + self.bytes.len() as u64;
        if offset < held.start || offset + len as u64 > held.end {
            let wanted = (self.to - offset).min(len.max(WINDOW) as u64) as usize;
            self.bytes.resize(wanted, 0);
            self.start = offset;
            if let Err(error) = self.fill() {
                self.bytes.clear();
                return Err(error);
            }
        }
        let at = (offset - self.start) as usize;
        Ok(&self.bytes[at..at + len])
    }

    /// Reads what the view shows. Sectors that are lost show as zeros, which are part of no record.
    fn fill(&mut self) -> io::Result<()> {
        match self.file.read_exact_at(&mut self.bytes, self.start) {
            Err(error) if is_lost(&error) => {}
            done => return done,
        }
        let mut at = self.start;
        let mut rest = &mut self.bytes[..];
        while !rest.is_empty() {
            let len = rest.len().min((SECTOR - at % SECTOR) as usize);
            let (sector, behind) = rest.split_at_mut(len);
            match self.file.read_exact_at(sector, at) {
                Err(error) if is_lost(&error) => {
                    tracing::warn!(%error, offset = at, "a sector of a pack cannot be read");
                    sector.fill(0);
                }
                done => done?,
            }
            (rest, at) = (behind, at + len as u64);
        }
        Ok(())
    }

    fn record_at(&mut self, offset: u64, magic: &Magic) -> io::Result<Option<Header>> {
        let mut head = [0; HEADER];
        head.copy_from_slice(self.slice(offset, HEADER)?);
        let Some(header) = Header::decode(magic, &head) else { return Ok(None) };
        let end = offset + header.record_len();
        if end > self.to {
            return Ok(None);
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&head[..68]);
        let mut at = offset + HEADER as u64;
        while at < end {
            let len = (end - at).min(WINDOW as u64) as usize;
            crc.update(self.slice(at, len)?);
            at += len as u64;
        }
        Ok((crc.finalize() == stored_checksum(&head)).then_some(header))
    }

    /// The next offset from `offset` on where a record may begin; the end if there is none.
    fn find(&mut self, mut offset: u64, magic: &Magic) -> io::Result<u64> {
        while offset + magic.len() as u64 <= self.to {
            let len = (self.to - offset).min(WINDOW as u64) as usize;
            let piece = self.slice(offset, len)?;
            if let Some(at) = piece.windows(magic.len()).position(|bytes| bytes == magic) {
                return Ok(offset + at as u64);
            }
            offset += (len - magic.len() + 1) as u64;
        }
        Ok(self.to)
    }
}

/// Whether the disk has lost the bytes, and not the process the means to read them.
pub(super) fn is_lost(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::UnexpectedEof || error.raw_os_error() == Some(libc::EIO)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;
    use std::ops::Range;

    use proptest::prelude::*;

    use super::*;
    use crate::digest::{Digest, DigestFunction};

    const MAGIC: Magic = *b"\x01magic!\xff";

    fn blob(data: &[u8], epoch: u64) -> Vec<u8> {
        let key = Key::from(&Digest::of(DigestFunction::Sha256, data));
        let header = Header { kind: Kind::Blob, key, epoch, written: 7, length: data.len() as u32 };
        [&header.encode(&MAGIC, data)[..], data].concat()
    }

    fn scanned(bytes: &[u8]) -> (Vec<(u64, u64)>, u64) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let mut found = Vec::new();
        let end = scan(&file, &MAGIC, 0, bytes.len() as u64, |offset, header| {
            found.push((offset, header.epoch));
            Ok::<(), io::Error>(())
        });
        (found, end.unwrap())
    }

    #[test]
    fn a_kind_must_suit_its_key() {
        let data = b"data";
        let key = Key::from(&Digest::of(DigestFunction::Blake3, data));
        let header = Header { kind: Kind::Action, key, epoch: 1, written: 2, length: 4 };
        assert_eq!(parse(&MAGIC, &[&header.encode(&MAGIC, data)[..], data].concat()), None);
        let header = Header { kind: Kind::Blob, key: Key::action(&[3; 32]), ..header };
        assert_eq!(parse(&MAGIC, &[&header.encode(&MAGIC, data)[..], data].concat()), None);
        let header = Header { kind: Kind::Action, ..header };
        assert_eq!(parse(&MAGIC, &[&header.encode(&MAGIC, data)[..], data].concat()), Some(header));
        for (len, is_part) in [(4, false), (PART_LEN, true)] {
            let data = vec![1; len];
            let header = Header { kind: Kind::Part, key, length: len as u32, ..header };
            let record = [&header.encode(&MAGIC, &data)[..], &data].concat();
            assert_eq!(parse(&MAGIC, &record), is_part.then_some(header));
        }
    }

    #[test]
    fn another_store_s_records_inside_a_damaged_one_are_not_found() {
        let inner = blob(b"inner", 1);
        let mut foreign = inner.clone();
        foreign[..8].copy_from_slice(b"otherone");
        let mut outer = blob(&foreign, 2);
        outer[HEADER + 20] ^= 1;
        let last = outer.len() as u64;
        outer.extend(blob(b"behind", 3));
        assert_eq!(scanned(&outer).0, [(last, 3)]);
    }

    /// A file of which some bytes cannot be read.
    struct Faulty {
        file: File,
        lost: Range<u64>,
        error: i32,
    }

    impl FileExt for Faulty {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
            if offset < self.lost.end && self.lost.start < offset + buffer.len() as u64 {
                return Err(io::Error::from_raw_os_error(self.error));
            }
            self.file.read_at(buffer, offset)
        }

        fn write_at(&self, buffer: &[u8], offset: u64) -> io::Result<usize> {
            self.file.write_at(buffer, offset)
        }
    }

    #[test]
    fn a_lost_sector_hides_only_the_records_in_it() {
        let mut bytes = Vec::new();
        let mut file = tempfile::tempfile().unwrap();
        (0..100).for_each(|epoch| bytes.extend(blob(&[epoch as u8; 928], epoch)));
        file.write_all(&bytes).unwrap();
        let scanned = |error| {
            let file = Faulty { file: file.try_clone().unwrap(), lost: 40_961..40_970, error };
            let mut found = Vec::new();
            let visit = |_, header: &Header| {
                found.push(header.epoch);
                Ok::<(), io::Error>(())
            };
            scan(&file, &MAGIC, 0, bytes.len() as u64, visit).map(|end| (found, end))
        };
        // Records of 1000 bytes: the sector at 40,960 is in those from number 40 to 45.
        let kept = (0..40).chain(46..100).collect::<Vec<u64>>();
        assert_eq!(scanned(libc::EIO).unwrap(), (kept, bytes.len() as u64));
        let other = scanned(libc::ENOMEM).unwrap_err();
        assert_eq!(other.raw_os_error(), Some(libc::ENOMEM), "no fault of the disk");
    }

    #[test]
    fn a_record_longer_than_the_window_is_checked_whole() {
        let mut bytes = blob(&vec![5; WINDOW * 2 + 3], 1);
        bytes.extend(blob(b"behind", 2));
        assert_eq!(scanned(&bytes).0.len(), 2);
        bytes[WINDOW * 2] ^= 1;
        assert_eq!(scanned(&bytes).0.len(), 1);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn damage_hides_only_what_it_touches(
            blobs in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..12),
            damage: u64,
            cut in 0usize..100,
        ) {
            let mut bytes = Vec::new();
            let mut ranges = Vec::new();
            for (epoch, data) in blobs.iter().enumerate() {
                let start = bytes.len();
                bytes.extend(blob(data, epoch as u64));
                ranges.push((start, bytes.len()));
            }
            bytes.truncate(bytes.len().saturating_sub(cut));
            prop_assume!(!bytes.is_empty());
            let flipped = (damage % bytes.len() as u64) as usize;
            bytes[flipped] ^= 0x10;
            let intact: Vec<(u64, u64)> = ranges.iter().enumerate()
                .filter(|(_, (start, end))| *end <= bytes.len() && !(*start..*end).contains(&flipped))
                .map(|(epoch, (start, _))| (*start as u64, epoch as u64))
                .collect();
            let (found, end) = scanned(&bytes);
            let last = intact.last().map_or(0, |(_, epoch)| ranges[*epoch as usize].1 as u64);
            prop_assert_eq!(found, intact);
            prop_assert_eq!(end, last);
        }
    }
}
