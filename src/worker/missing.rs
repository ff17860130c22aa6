//! The status that names absent blobs, wherever it is found that they are.

use farmhand_proto::{any, raw, rpc};
use tonic::Code;

use crate::digest::Digest;

/// Missing blobs that are named at most: the status has to fit into one message of 4 MiB. A client
/// that uploads these is told of the rest when it tries again.
const MAX_NAMED: usize = 20_000;

/// Names blobs that a client has to upload before it tries again (`google.rpc.PreconditionFailure` as
/// the REAPI's `Execute` wants it). Clients do so if this is the status's only detail.
pub fn missing_blobs(digests: &[Digest]) -> rpc::Status {
    let violation = |digest: &Digest| raw::Violation {
        r#type: "MISSING".to_owned(),
        subject: digest.missing_subject(),
        description: String::new(),
    };
    let violations = digests.iter().take(MAX_NAMED).map(violation).collect();
    let are = if digests.len() == 1 { "blob of the action is" } else { "blobs of the action are" };
    rpc::Status {
        code: Code::FailedPrecondition as i32,
        message: format!("{} {are} not in the CAS", digests.len()),
        details: vec![any::pack(&raw::PreconditionFailure { violations })],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::DigestFunction;

    #[test]
    fn names_each_up_to_what_a_message_holds() {
        let digests: Vec<_> = (0..MAX_NAMED as u64 + 7)
            .map(|size| Digest::from_parts(DigestFunction::Sha256, [7; 32], size))
            .collect();
        let status = missing_blobs(&digests);
        let failure: raw::PreconditionFailure = any::unpack(&status.details[0]).unwrap();
        assert_eq!((failure.violations.len(), status.details.len()), (MAX_NAMED, 1));
        assert!(status.message.starts_with(&format!("{} blobs of the action are", digests.len())));
        assert_eq!(failure.violations[3].subject, digests[3].missing_subject());
        assert!(missing_blobs(&digests[..1]).message.starts_with("1 blob of the action is"));
    }
}
