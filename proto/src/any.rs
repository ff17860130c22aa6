//! `google.protobuf.Any`: packing a message under the type URL that clients compare against.

use prost::Message;

use crate::protobuf::Any;
use crate::{raw, reapi};

const PREFIX: &str = "type.googleapis.com/";

/// A message that travels inside `google.protobuf.Any`.
pub trait Named: Message + Default {
    /// Full protobuf name, without the `type.googleapis.com/` prefix.
    const NAME: &'static str;
}

impl Named for reapi::ExecuteResponse {
    const NAME: &'static str = "build.bazel.remote.execution.v2.ExecuteResponse";
}

impl Named for reapi::ExecuteOperationMetadata {
    const NAME: &'static str = "build.bazel.remote.execution.v2.ExecuteOperationMetadata";
}

impl Named for raw::PreconditionFailure {
    const NAME: &'static str = "google.rpc.PreconditionFailure";
}

impl Named for raw::BadRequest {
    const NAME: &'static str = "google.rpc.BadRequest";
}

impl Named for raw::RetryInfo {
    const NAME: &'static str = "google.rpc.RetryInfo";
}

/// Packs `message` with its type URL.
pub fn pack<M: Named>(message: &M) -> Any {
    Any { type_url: format!("{PREFIX}{}", M::NAME), value: message.encode_to_vec().into() }
}

/// Unpacks `any` if it holds an `M`; `None` when it holds something else or does not decode.
pub fn unpack<M: Named>(any: &Any) -> Option<M> {
    let name = any.type_url.rsplit('/').next()?;
    if name != M::NAME {
        return None;
    }
    M::decode(any.value.as_ref()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusal() {
        let info = raw::RetryInfo { retry_delay: None };
        let any = pack(&info);
        assert_eq!(any.type_url, "type.googleapis.com/google.rpc.RetryInfo");
        assert_eq!(unpack::<raw::RetryInfo>(&any), Some(info));
        assert_eq!(unpack::<raw::PreconditionFailure>(&any), None);
    }
}
