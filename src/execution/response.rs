//! `ExecuteResponse`s that come from the scheduler itself: the action never ran to an end.
//!
//! These are outcomes of operations, so they carry their status inside (`Operation.error` is never
//! set). Which code means what to which client decides about endless retries; hence one file.

use farmhand_proto::{reapi, rpc};
use tonic::Code;

use super::queue::Loss;
use crate::digest::Digest;
use crate::worker::missing::missing_blobs;

/// What the callers of a run are told that a person ended.
const KILLED: &str = "killed by a person (farmhand action … kill, or the dashboard)";

/// What stands in front of the reason why a good result is not in the action cache.
pub const NOT_CACHED: &str = "the result was not cached: ";

/// The action needs blobs that are absent. The one detail names them; clients upload them and try
/// again.
pub fn missing(digests: &[Digest]) -> reapi::ExecuteResponse {
    with_status(missing_blobs(digests))
}

/// Nobody wants the result any more, for the reason given.
pub fn cancelled(reason: &str) -> reapi::ExecuteResponse {
    ended(Code::Cancelled, reason.to_owned())
}

/// A person ended the run: what its worker answered, if it did, with the logs that are in it.
pub fn killed(answer: Option<&reapi::ExecuteResponse>) -> reapi::ExecuteResponse {
    let status =
        rpc::Status { code: Code::Cancelled as i32, message: KILLED.to_owned(), details: Vec::new() };
    let Some(answer) = answer else { return with_status(status) };
    let mut response =
        reapi::ExecuteResponse { status: Some(status), message: KILLED.to_owned(), ..answer.clone() };
    if !answer.message.is_empty() {
        add_message(&mut response, &answer.message);
    }
    response
}

/// No machine can run the action; `reason` says why, machine by machine.
pub fn unrunnable(reason: String) -> reapi::ExecuteResponse {
    ended(Code::FailedPrecondition, reason)
}

/// Every worker that had the action was lost. ABORTED, because clients take UNAVAILABLE here for
/// the end of the whole build.
pub fn lost(losses: &[Loss]) -> reapi::ExecuteResponse {
    let each: Vec<_> = losses.iter().map(|loss| format!("{}: {}", loss.worker, loss.reason)).collect();
    let message =
        format!("no machine brought the action to an end in {} attempts: {}", losses.len(), each.join("; "));
    ended(Code::Aborted, message)
}

/// A result out of the action cache.
pub fn cached(result: reapi::ActionResult) -> reapi::ExecuteResponse {
    reapi::ExecuteResponse {
        result: Some(result),
        cached_result: true,
        status: Some(rpc::Status::default()),
        ..Default::default()
    }
}

/// Whether `response` may be stored in the action cache: it ran, and it succeeded.
pub fn is_success(response: &reapi::ExecuteResponse) -> bool {
    let is_ok = response.status.as_ref().is_none_or(|status| status.code == 0);
    is_ok && response.result.as_ref().is_some_and(|result| result.exit_code == 0)
}

/// Adds a line to what clients show beside the result.
pub fn add_message(response: &mut reapi::ExecuteResponse, line: &str) {
    if !response.message.is_empty() {
        response.message.push('\n');
    }
    response.message.push_str(line);
}

fn with_status(status: rpc::Status) -> reapi::ExecuteResponse {
    reapi::ExecuteResponse { message: status.message.clone(), status: Some(status), ..Default::default() }
}

fn ended(code: Code, message: String) -> reapi::ExecuteResponse {
    with_status(rpc::Status { code: code as i32, message, details: Vec::new() })
}

#[cfg(test)]
mod tests {
    use farmhand_proto::{any, raw};

    use super::*;
    use crate::digest::DigestFunction;

    #[test]
    fn missing_blobs_are_one_detail_with_a_violation_each() {
        let digests = [b"a", b"b"].map(|data| Digest::of(DigestFunction::Sha256, data));
        let status = missing(&digests).status.unwrap();
        assert_eq!((status.code, status.details.len()), (Code::FailedPrecondition as i32, 1));
        assert_eq!(status.details[0].type_url, "type.googleapis.com/google.rpc.PreconditionFailure");
        let failure = any::unpack::<raw::PreconditionFailure>(&status.details[0]).unwrap();
        let subjects: Vec<_> = failure.violations.iter().map(|v| (&*v.r#type, v.subject.clone())).collect();
        assert_eq!(subjects, digests.map(|digest| ("MISSING", digest.missing_subject())));
    }

    #[test]
    fn a_killed_run_keeps_what_its_worker_told() {
        let answer = reapi::ExecuteResponse {
            result: Some(reapi::ActionResult { stdout_raw: b"so far".to_vec(), ..Default::default() }),
            message: "a note".into(),
            ..Default::default()
        };
        for (answer, message) in [(Some(&answer), format!("{KILLED}\na note")), (None, KILLED.to_owned())] {
            let response = killed(answer);
            assert_eq!(response.status.unwrap().code, Code::Cancelled as i32);
            assert_eq!((response.result.is_some(), response.message), (answer.is_some(), message));
        }
    }

    #[test]
    fn only_clean_ends_are_successes() {
        let result = |exit_code| Some(reapi::ActionResult { exit_code, ..Default::default() });
        let response = |result, status| reapi::ExecuteResponse { result, status, ..Default::default() };
        assert!(is_success(&response(result(0), None)));
        assert!(is_success(&response(result(0), Some(rpc::Status::default()))));
        assert!(!is_success(&response(result(1), None)));
        assert!(!is_success(&response(None, None)));
        let timeout = rpc::Status { code: Code::DeadlineExceeded as i32, ..Default::default() };
        assert!(!is_success(&response(result(0), Some(timeout))));
    }
}
