//! What a machine answers that lacks something to run an action now: room on its disk, open files.
//!
//! A client is told at once, because trying again on the same machine would not help. Another machine
//! may have what this one lacks: an owner runs the action elsewhere.

use farmhand_proto::rpc;

/// `google.rpc.Code.RESOURCE_EXHAUSTED`.
const CODE: i32 = 8;

/// What every such answer begins with.
const WORDS: &str = "the machine cannot run the action now: ";

/// The status for a lack of what `reason` says.
pub fn shortage(reason: &str) -> rpc::Status {
    rpc::Status { code: CODE, message: format!("{WORDS}{reason}"), details: Vec::new() }
}

/// The reason, if `status` is such an answer.
pub fn shortage_of(status: &rpc::Status) -> Option<&str> {
    status.message.strip_prefix(WORDS).filter(|_| status.code == CODE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_told_from_an_action_that_wants_too_much() {
        assert_eq!(shortage_of(&shortage("no room")), Some("no room"));
        let excess =
            rpc::Status { code: CODE, message: "more than 1 GiB of scratch".into(), details: vec![] };
        assert_eq!(shortage_of(&excess), None);
        assert_eq!(shortage_of(&rpc::Status { code: 9, ..shortage("no room") }), None);
    }
}
