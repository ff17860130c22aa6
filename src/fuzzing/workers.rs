//! What persistent workers answer.

use super::input::Input;
use crate::worker::persistent::fuzzing::read_answer;

/// An answer is the same whether it comes at once or byte by byte, and what is refused one way is refused
/// the other way.
///
/// # Panics
/// When that does not hold.
pub fn work_response(data: &[u8]) {
    let mut input = Input(data);
    let is_json = input.below(2) == 1;
    let whole = read_answer(is_json, input.0, usize::MAX);
    let pieces = read_answer(is_json, input.0, 1);
    match (&whole, &pieces) {
        (Ok(_), _) => assert_eq!(pieces, whole),
        // What comes behind an answer may come too late to be seen, and text is read only where it may end.
        (Err(_), Ok(pieces)) => assert!(is_json || pieces.is_some(), "{whole:?} {pieces:?}"),
        (Err(_), Err(_)) => {}
    }
}
