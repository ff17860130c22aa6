//! The door of the fuzz targets to the stored form of records.

use std::sync::Arc;

use super::block;
pub(crate) use super::record::Record;

/// The block with these records.
pub(crate) fn encode(records: &[Arc<Record>]) -> Vec<u8> {
    block::encode(records)
}

/// The records of a block; `None` if it is none.
pub(crate) fn decode(data: &[u8]) -> Option<Vec<Record>> {
    block::decode(data)
}

/// Sequences of the first records of the frames found in the bytes of a segment, and where the last ends.
pub(crate) fn scan(data: &[u8]) -> Option<(Vec<u64>, u64)> {
    let scanned = super::segment::scan(data)?;
    Some((scanned.frames.iter().map(|frame| frame.first).collect(), scanned.end))
}

/// Uses a record as every reader may.
pub(crate) fn read(record: &Record) -> (usize, bool) {
    let marks = super::record::marks(record).count();
    let _ = (record.key(), record.kin(), record.parts(), record.result_message());
    (marks, record.as_earlier().is_some())
}
