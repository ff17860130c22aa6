//! The messages in which machines speak of copies, written and read: keys one after the other, a bit for
//! each of them.

use super::copies::{LARGEST_RESULT, MOST_KEYS, Taken};
use crate::cas::entry::EntryKey;
use farmhand_proto::peer::give_response::Taken as WireTaken;

/// Keys of results in one question.
pub const MOST_RESULTS: usize = 1000;

/// Copies in one call, and the bytes of all of them, compressed or not.
pub const MOST_GIVEN: usize = 2000;
/// See [`MOST_GIVEN`]. A result that is alone may have more.
pub const GIVEN_BYTES: u64 = 4 << 20;

/// Bytes of the largest message: a result that is alone, and what is around it.
pub const MOST_BYTES: usize = LARGEST_RESULT as usize + (1 << 20);

/// Why a message says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Not whole keys.
    #[error("{0} bytes are no list of keys, of {len} bytes each", len = EntryKey::LEN)]
    Ragged(usize),
    /// More than one call may have.
    #[error("{count} entries are more than the {most} that one call may have")]
    TooMany {
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// Something that is no key of a blob or a result.
    #[error("entry {0} has no key that an entry of a store has")]
    NoKey(usize),
    /// Not the hash of a blob.
    #[error("these are not the tag of a digest function and a hash of it")]
    NoHash,
    /// A blob where results are asked for.
    #[error("entry {0} is a blob, and results are asked for")]
    NoResult(usize),
    /// More than one call may carry.
    #[error("{bytes} bytes are more than the {most} that one call may carry")]
    TooLarge {
        /// Bytes there are.
        bytes: u64,
        /// Bytes there may be.
        most: u64,
    },
    /// An answer to other questions.
    #[error("{answers} answers to {questions} questions")]
    Answers {
        /// How many it has.
        answers: usize,
        /// How many were asked.
        questions: usize,
    },
}

/// Keys, one after the other.
pub fn write_keys(keys: &[EntryKey]) -> Vec<u8> {
    keys.iter().flat_map(|key| key.bytes()).copied().collect()
}

/// Reads what [`write_keys`] wrote, of `most` keys at most.
///
/// # Errors
/// [`MessageError`].
pub fn read_keys(bytes: &[u8], most: usize) -> Result<Vec<EntryKey>, MessageError> {
    let (keys, rest) = bytes.as_chunks::<{ EntryKey::LEN }>();
    if !rest.is_empty() {
        return Err(MessageError::Ragged(bytes.len()));
    }
    if keys.len() > most {
        return Err(MessageError::TooMany { count: keys.len(), most });
    }
    let read =
        |(number, key): (usize, &[u8; EntryKey::LEN])| EntryKey::read(key).ok_or(MessageError::NoKey(number));
    keys.iter().enumerate().map(read).collect()
}

/// As [`read_keys`], of results alone.
///
/// # Errors
/// [`MessageError`].
pub fn read_result_keys(bytes: &[u8]) -> Result<Vec<EntryKey>, MessageError> {
    let keys = read_keys(bytes, MOST_RESULTS)?;
    match keys.iter().position(|key| !key.is_action()) {
        Some(number) => Err(MessageError::NoResult(number)),
        None => Ok(keys),
    }
}

/// A bit for each of `present`, the lowest of each byte first.
pub fn write_bits(present: &[bool]) -> Vec<u8> {
    let byte = |bits: &[bool]| bits.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
    present.chunks(8).map(byte).collect()
}

/// Reads the bits that stand for `count` questions; what fills the last byte does not count.
///
/// # Errors
/// [`MessageError::Answers`] when there are fewer, or bytes more.
pub fn read_bits(bytes: &[u8], count: usize) -> Result<Vec<bool>, MessageError> {
    if bytes.len() != count.div_ceil(8) {
        return Err(MessageError::Answers { answers: bytes.len().saturating_mul(8), questions: count });
    }
    let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    Ok(bits.take(count).collect())
}

/// What became of a copy, as it is told.
pub fn write_taken(taken: Taken) -> i32 {
    let taken = match taken {
        Taken::Stored => WireTaken::Stored,
        Taken::NoRoom => WireTaken::NoRoom,
        Taken::Bad => WireTaken::Bad,
    };
    taken.into()
}

/// What is told of a copy; `None` if nothing is.
pub fn read_taken(taken: i32) -> Option<Taken> {
    match WireTaken::try_from(taken) {
        Ok(WireTaken::Stored) => Some(Taken::Stored),
        Ok(WireTaken::NoRoom) => Some(Taken::NoRoom),
        Ok(WireTaken::Bad) => Some(Taken::Bad),
        Ok(WireTaken::Unspecified) | Err(_) => None,
    }
}

const _: () = assert!(MOST_RESULTS <= MOST_KEYS, "results are keys");

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::digest::{Digest, DigestFunction};

    #[test]
    fn keys_are_read_as_they_were_written_and_nothing_else_is() {
        let (blob, result) =
            (EntryKey::from(&Digest::of(DigestFunction::Blake3, b"a")), EntryKey::action(&[3; 32]));
        let bytes = write_keys(&[blob, result]);
        assert_eq!(read_keys(&bytes, 2), Ok(vec![blob, result]));
        assert_eq!(read_keys(&[], 2), Ok(vec![]));
        assert_eq!(read_keys(&bytes, 1), Err(MessageError::TooMany { count: 2, most: 1 }));
        assert_eq!(read_keys(&bytes[1..], 2), Err(MessageError::Ragged(81)));
        let mut odd = bytes.clone();
        odd[41] = 0xee;
        assert_eq!(read_keys(&odd, 2), Err(MessageError::NoKey(1)));
        assert_eq!(read_result_keys(&bytes[41..]), Ok(vec![result]));
        assert_eq!(read_result_keys(&bytes), Err(MessageError::NoResult(0)));
    }

    #[test]
    fn what_became_of_a_copy_is_told() {
        for taken in [Taken::Stored, Taken::NoRoom, Taken::Bad] {
            assert_eq!(read_taken(write_taken(taken)), Some(taken));
        }
        assert_eq!([read_taken(0), read_taken(4), read_taken(-1)], [None; 3]);
    }

    proptest! {
        #[test]
        fn bits_are_read_as_they_were_written(present in proptest::collection::vec(any::<bool>(), 0..40)) {
            let bits = write_bits(&present);
            prop_assert_eq!(read_bits(&bits, present.len()), Ok(present.clone()));
            prop_assert!(read_bits(&bits, present.len() + 8).is_err());
            prop_assert!(present.len() < 8 || read_bits(&bits, present.len() - 8).is_err());
        }
    }
}
