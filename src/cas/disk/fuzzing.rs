//! The door of the fuzz targets to what is stored: records in packs, entries in the index.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;

use super::catalog::{decode_block, decode_uses, encode_block};
use super::record::{Header, Key, Kind, Magic, parse, scan};
use crate::digest::{Digest, DigestFunction};

/// The mark of the store that the targets look at.
pub(crate) const MAGIC: Magic = *b"\xfa\xc3\xe5\x96\x8b\xd7\xb9\xfe";

/// A record that holds `data`.
pub(crate) fn record(kind: u8, epoch: u64, data: &[u8]) -> Vec<u8> {
    let digest = Digest::of(DigestFunction::Sha256, data);
    let (kind, key) = match kind % 3 {
        0 => (Kind::Blob, Key::from(&digest)),
        1 => (Kind::Note, Key::from(&digest)),
        _ => (Kind::Action, Key::action(digest.hash())),
    };
    let header = Header { kind, key, epoch, written: 7, length: data.len() as u32 };
    [&header.encode(&MAGIC, data)[..], data].concat()
}

/// Whether these bytes are one record.
pub(crate) fn is_record(bytes: &[u8]) -> bool {
    parse(&MAGIC, bytes).is_some()
}

/// Where a scan finds records in a pack, and the end of the last.
pub(crate) fn scanned(pack: &[u8]) -> (Vec<Range<usize>>, usize) {
    let file = rustix::fs::memfd_create("pack", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(file.expect("there is memory"));
    file.write_all(pack).expect("there is memory");
    let mut found = Vec::new();
    let end = scan(&file, &MAGIC, 0, pack.len() as u64, |offset, header| {
        let start = offset as usize;
        found.push(start..start + header.record_len() as usize);
        Ok::<(), io::Error>(())
    });
    (found, end.expect("memory is read without errors") as usize)
}

/// The entries of a block of the index, read and written again.
pub(crate) fn recode_block(pack: u32, block: &[u8]) -> Vec<u8> {
    let items: Vec<_> = decode_block(pack, block).collect();
    assert!(items.iter().all(|item| item.found.place.pack == pack));
    encode_block(&items)
}

/// How many uses a record of the journal holds.
pub(crate) fn count_uses(record: &[u8]) -> usize {
    decode_uses(record).count()
}
