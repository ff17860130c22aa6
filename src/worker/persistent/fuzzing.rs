//! The door of the fuzz targets to what workers answer.

use super::protocol::{Answer, AnswerError, WorkResponse};
use crate::platform::WorkerProtocol;

/// Reads an answer that comes in pieces of `step` bytes. Bytes behind a whole answer are surplus.
pub(crate) fn read_answer(
    is_json: bool,
    bytes: &[u8],
    step: usize,
) -> Result<Option<WorkResponse>, AnswerError> {
    let mut answer = Answer::new(if is_json { WorkerProtocol::Json } else { WorkerProtocol::Proto });
    let mut response = None;
    for piece in bytes.chunks(step.max(1)) {
        response = answer.feed(piece)?;
        if response.is_some() {
            break;
        }
    }
    Ok(response)
}
