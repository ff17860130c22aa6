//! What is read back from the disk.

use super::input::Input;
use crate::cas::disk::fuzzing::{MAGIC, count_uses, is_record, recode_block, record, scanned};
use crate::index::fuzzing::{frame, read_sentinel, unframe};

/// Bytes of one entry in a block, and of one use in the journal.
const ITEM: usize = 54;
const USE: usize = 45;

/// A scan of any bytes finds what is a record and nothing else. Of a pack that was damaged it finds all that was
/// not touched, and nothing that was never written.
///
/// # Panics
/// When that does not hold.
pub fn pack_record(data: &[u8]) {
    let mut input = Input(data);
    if input.flag() {
        let pack = with_magic(input.0);
        check_scan(&pack);
    } else {
        damaged_pack(&mut input);
    }
}

/// `data` with the mark of the store in place of each 0xff.
fn with_magic(data: &[u8]) -> Vec<u8> {
    data.iter().flat_map(|byte| if *byte == 0xff { MAGIC.to_vec() } else { vec![*byte] }).collect()
}

fn check_scan(pack: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (found, end) = scanned(pack);
    let mut last = 0;
    for range in &found {
        assert!(range.start >= last && range.end <= pack.len(), "{range:?} after {last}");
        assert!(is_record(&pack[range.clone()]), "{range:?} is no record");
        last = range.end;
    }
    assert_eq!(end, last);
    found
}

fn damaged_pack(input: &mut Input) {
    let mut pack = Vec::new();
    let mut written = Vec::new();
    for epoch in 0..input.below(6) {
        let (kind, length) = (input.byte(), input.below(400));
        // Without the eighth bit, which every byte of the mark has: nothing reads as a record by itself.
        let data: Vec<u8> = input.take(length).iter().map(|byte| byte & 0x7f).collect();
        let record = record(kind, epoch as u64, &data);
        written.push(pack.len()..pack.len() + record.len());
        pack.extend(record);
    }
    let whole = pack.clone();
    // CRC-32 finds any three bits flipped in a record this short. More could be made to fit.
    let flipped: Vec<usize> = (0..input.below(4)).map(|_| input.below(pack.len() * 8)).collect();
    for bit in &flipped {
        if let Some(byte) = pack.get_mut(bit / 8) {
            *byte ^= 1 << (bit % 8);
        }
    }
    // Cut, as by a kill, or with nothing behind the cut, as by a power loss.
    let cut = if input.flag() { input.below(pack.len() + 1) } else { pack.len() };
    if input.flag() {
        pack.truncate(cut)
    } else {
        pack[cut..].fill(0)
    }

    let found = check_scan(&pack);
    for range in &found {
        assert!(written.contains(range) && pack[range.clone()] == whole[range.clone()], "{range:?} is new");
    }
    for range in written {
        let untouched = pack.get(range.clone()) == Some(&whole[range.clone()]);
        assert!(!untouched || found.contains(&range), "{range:?} is hidden");
    }
}

/// What is read from a value of the index was written there: no bit of it is another.
///
/// # Panics
/// When that does not hold.
pub fn index_record(data: &[u8]) {
    let mut input = Input(data);
    let flipped = input.word() as usize;
    let pack = input.word();
    if let Some(value) = unframe(input.0) {
        assert_eq!(&frame(value)[1..], &input.0[1..], "a value has one form");
    }
    if let Some((generation, records)) = read_sentinel(input.0) {
        let value = [generation.to_le_bytes(), records.to_le_bytes()].concat();
        assert_eq!(unframe(input.0), Some(&value[..]));
    }
    let mut framed = frame(input.0);
    assert_eq!(unframe(&framed), Some(input.0));
    let bit = flipped % (framed.len() * 8);
    framed[bit / 8] ^= 1 << (bit % 8);
    assert!(bit < 8 || unframe(&framed).is_none(), "bit {bit} was flipped unseen");

    let block = recode_block(pack, input.0);
    assert!(block.len() <= input.0.len() && block.len().is_multiple_of(ITEM));
    assert_eq!(recode_block(pack, &block), block);
    assert_eq!(count_uses(input.0), input.0.len() / USE);
}
