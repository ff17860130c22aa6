//! Blocks: several records compressed together, with enough in front of them to pass a block over without
//! unpacking it.
//!
//! Layout: version, number of records, number of marks, first and last sequence, earliest and latest end,
//! bytes unpacked; the marks; then, compressed, each record behind its length. Numbers are little-endian.

use std::sync::Arc;

use prost::Message;

use super::record::{Kept, Record, marks};

/// Version of the layout, its first byte.
const VERSION: u8 = 1;

const HEADER: usize = 1 + 2 + 2 + 8 + 8 + 8 + 8 + 4;

/// Bytes a block may have unpacked. Blocks are closed long before that.
const MAX_RAW: usize = 4 << 20;

/// Records of one build are alike: the quickest level makes a fifth of them.
const LEVEL: i32 = 1;

/// What stands in front of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Records in it.
    pub(super) count: usize,
    /// Sequences of the first and the last of them.
    pub(super) first: u64,
    pub(super) last: u64,
    /// When the first and the last of them ended, in microseconds since 1970.
    pub(super) earliest: u64,
    pub(super) latest: u64,
    /// What they are looked up by.
    pub(super) marks: Vec<u32>,
    raw: usize,
}

/// The stored form of `records`, which are in the order of their sequences.
pub(super) fn encode(records: &[Arc<Record>]) -> Vec<u8> {
    let mut raw = Vec::new();
    for record in records {
        let length = u32::try_from(record.encoded_len()).expect("invariant: texts in records are cut");
        raw.extend_from_slice(&length.to_le_bytes());
        record.encode(&mut raw).expect("invariant: a vector grows");
    }
    let marks: Vec<u32> = records.iter().flat_map(|record| marks(record)).collect();
    let times = || records.iter().map(|record| record.finished_micros());
    let mut data = vec![VERSION];
    data.extend_from_slice(&short(records.len()).to_le_bytes());
    data.extend_from_slice(&short(marks.len()).to_le_bytes());
    data.extend_from_slice(&records.first().map_or(0, |record| record.sequence()).to_le_bytes());
    data.extend_from_slice(&records.last().map_or(0, |record| record.sequence()).to_le_bytes());
    data.extend_from_slice(&times().min().unwrap_or(0).to_le_bytes());
    data.extend_from_slice(&times().max().unwrap_or(0).to_le_bytes());
    data.extend_from_slice(&u32::try_from(raw.len()).unwrap_or(u32::MAX).to_le_bytes());
    marks.iter().for_each(|mark| data.extend_from_slice(&mark.to_le_bytes()));
    let packed = zstd::bulk::compress(&raw, LEVEL).expect("invariant: memory is compressed without errors");
    data.extend_from_slice(&packed);
    data
}

fn short(number: usize) -> u16 {
    u16::try_from(number).expect("invariant: blocks are closed before they have that many")
}

/// What stands in front of a block; `None` if it is none.
pub(super) fn header(data: &[u8]) -> Option<Header> {
    let (front, rest) = data.split_first_chunk::<HEADER>()?;
    let word = |at: usize| u64::from_le_bytes(front[at..at + 8].try_into().unwrap_or_default());
    let half = |at: usize| usize::from(u16::from_le_bytes([front[at], front[at + 1]]));
    let raw = u32::from_le_bytes(front[37..41].try_into().ok()?) as usize;
    if front[0] != VERSION || raw > MAX_RAW {
        return None;
    }
    let marks = rest.get(..half(3) * 4)?.chunks_exact(4);
    let marks = marks.map(|mark| u32::from_le_bytes(mark.try_into().unwrap_or_default())).collect();
    let (first, last, earliest, latest) = (word(5), word(13), word(21), word(29));
    Some(Header { count: half(1), first, last, earliest, latest, marks, raw })
}

/// The records of a block, in the order of their sequences; `None` if it is none.
pub(super) fn decode<T: Kept>(data: &[u8]) -> Option<Vec<T>> {
    let header = header(data)?;
    let packed = data.get(HEADER + header.marks.len() * 4..)?;
    let raw = zstd::bulk::decompress(packed, header.raw).ok()?;
    let mut rest = raw.as_slice();
    let mut records: Vec<T> = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (record, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        let record = T::decode(record).ok()?;
        let last = records.last().map(Kept::sequence);
        if last.is_some_and(|last| last >= record.sequence()) {
            return None;
        }
        records.push(record);
        rest = after;
    }
    let is_whole = rest.is_empty() && records.len() == header.count;
    let ends = [records.first(), records.last()].map(|record| record.map_or(0, Kept::sequence));
    (is_whole && ends == [header.first, header.last]).then_some(records)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::record::Listed;
    use super::super::record::tests::record;
    use super::*;

    fn records(count: u64) -> Vec<Arc<Record>> {
        (0..count).map(|n| Arc::new(record(n * 10 + 7, &format!("name{n}")))).collect()
    }

    #[test]
    fn a_block_gives_back_its_records_and_tells_them_in_front() {
        let records = records(64);
        let data = encode(&records);
        let header = header(&data).unwrap();
        assert_eq!((header.count, header.first, header.last), (64, 7, 637));
        assert_eq!((header.earliest, header.latest), (7, 637));
        assert_eq!(header.marks.len(), 3 * 64);
        let decoded: Vec<Record> = decode(&data).unwrap();
        assert!(decoded.iter().eq(records.iter().map(|record| &**record)));
        let listed: Vec<Listed> = decode(&data).unwrap();
        assert!(listed.iter().map(|one| &one.operation).eq(records.iter().map(|record| &record.operation)));
        assert_eq!(decode::<Record>(&encode(&[])), Some(Vec::new()));
    }

    #[test]
    fn records_of_a_build_take_little() {
        let data = encode(&records(64));
        assert!(data.len() < 64 * 150, "{} bytes", data.len());
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(data in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Record>(&data);
        }

        /// A block that was cut or had bits flipped is none, or one of the same number of records.
        #[test]
        fn a_spoiled_block_does_no_harm(count in 0..5_u64, cut in 0..2000_usize, flips in prop::collection::vec(0..16_000_usize, 0..3)) {
            let mut data = encode(&records(count));
            data.truncate(cut.max(1));
            for flip in flips {
                if let Some(byte) = data.get_mut(flip / 8) {
                    *byte ^= 1 << (flip % 8);
                }
            }
            if let Some(records) = decode::<Record>(&data) {
                prop_assert_eq!(records.len(), header(&data).unwrap().count);
            }
        }
    }
}
