//! The bytes of a blob as another machine sends them.

use farmhand_proto::bytestream::ReadResponse;
use prost::Message;

use super::input::Input;
use crate::cas::remote::wire::testing::read_all;

/// Bytes in front of each message.
const PREFIX: usize = 5;

/// Whatever comes is refused, or read as the data of its messages, however it is cut.
///
/// # Panics
/// When that does not hold.
pub fn read_pieces(data: &[u8]) {
    let mut input = Input(data);
    let cut = input.below(50) + 1;
    let mut rest = input.0;
    let read = read_all(rest, &[cut]);
    assert_eq!(read.as_ref().ok(), read_all(rest, &[usize::MAX]).as_ref().ok());
    let Ok(read) = read else { return };
    let mut expected = Vec::new();
    while let Some((prefix, behind)) = rest.split_at_checked(PREFIX) {
        let length = prefix[1..].iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        let (message, later) = behind.split_at(length);
        expected.extend(ReadResponse::decode(message).expect("it was read").data);
        rest = later;
    }
    assert_eq!(read, expected);
}
