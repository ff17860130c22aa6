//! Finished operations as they are read back from the disk.

use std::sync::Arc;

use prost::Message;

use super::input::Input;
use crate::history::fuzzing::{Record, decode, encode, read, scan};

/// Any bytes are a block of records or none; records that come out of one can be used, and go into
/// another unchanged. Of a block that was damaged nothing comes out but records.
///
/// # Panics
/// When that does not hold.
pub fn history_record(data: &[u8]) {
    let mut input = Input(data);
    match input.byte() % 3 {
        1 => check(input.0),
        2 => check_segment(input.0),
        _ => damaged_block(&mut input),
    }
}

fn check_segment(segment: &[u8]) {
    if let Some((frames, end)) = scan(segment) {
        assert!(end <= segment.len() as u64 && frames.len() * 12 <= segment.len());
    }
}

fn check(block: &[u8]) {
    let Some(records) = decode(block) else { return };
    for record in &records {
        let (marks, _) = read(record);
        assert!(marks <= 3, "{record:?}");
    }
    let records: Vec<Arc<Record>> = records.into_iter().map(Arc::new).collect();
    assert!(records.is_sorted_by(|a, b| a.sequence() < b.sequence()));
    let again = decode(&encode(&records)).expect("what was written is read");
    assert!(again.iter().eq(records.iter().map(|record| &**record)));
}

fn damaged_block(input: &mut Input) {
    let mut records = Vec::new();
    for sequence in 1..=input.below(4) as u64 {
        let length = input.below(600);
        let mut record = Record::decode(input.take(length)).unwrap_or_default();
        record.operation.sequence = sequence;
        records.push(Arc::new(record));
    }
    let mut block = encode(&records);
    check(&block);
    for _ in 0..input.below(4) {
        let bit = input.below(block.len() * 8);
        block[bit / 8] ^= 1 << (bit % 8);
    }
    block.truncate(block.len() - input.below(block.len()));
    check(&block);
}
