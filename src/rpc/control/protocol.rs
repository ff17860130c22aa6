//! Which version of this API a caller needs: the metadata `farmhand-protocol` of a call.
//!
//! A caller that says nothing takes what it gets. One that needs a newer meaning than this node knows is
//! refused before anything is done for it.

use farmhand_proto::client::{PROTOCOL_METADATA, PROTOCOL_VERSION};
use tonic::{Request, Status};

/// Lets a call pass, or says why not.
///
/// # Errors
/// `FAILED_PRECONDITION` for a caller that is newer, `INVALID_ARGUMENT` where the number is none.
pub(super) fn check(request: Request<()>) -> Result<Request<()>, Status> {
    let Some(value) = request.metadata().get(PROTOCOL_METADATA) else { return Ok(request) };
    let text = value.to_str().unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Status::invalid_argument(format!("{PROTOCOL_METADATA} is not a number")));
    }
    // A number too large to read is larger than ours.
    if text.parse().is_ok_and(|wanted: u32| wanted <= PROTOCOL_VERSION) {
        return Ok(request);
    }
    let wanted: String = text.chars().take(20).collect();
    Err(Status::failed_precondition(format!(
        "the caller needs version {wanted} of the control API, this node has version {PROTOCOL_VERSION}; \
         update farmhand on this machine and restart the node, or use the program it was started from"
    )))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn check(value: Option<&'static str>) -> Result<(), Status> {
        let mut request = Request::new(());
        if let Some(value) = value {
            request.metadata_mut().insert(PROTOCOL_METADATA, value.parse().unwrap());
        }
        super::check(request).map(drop)
    }

    #[test]
    fn what_we_know_passes_and_what_is_newer_is_refused_with_both_numbers() {
        for value in [None, Some("0"), Some("1"), Some("2"), Some("002")] {
            check(value).unwrap();
        }
        for value in ["3", "4294967296", "99999999999999999999999999"] {
            let status = check(Some(value)).unwrap_err();
            assert_eq!(status.code(), Code::FailedPrecondition);
            let both = [&value[..value.len().min(20)], "version 2"];
            assert!(both.iter().all(|part| status.message().contains(part)), "{status}");
        }
        for value in ["", "x", "-1", "2.0", "+2"] {
            assert_eq!(check(Some(value)).unwrap_err().code(), Code::InvalidArgument, "{value}");
        }
    }
}
