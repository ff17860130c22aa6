//! The wire types of Farmhand.
//!
//! Most of them are the published ones, re-exported from `bazel-remote-apis` under the names the
//! rest of the code uses. [`raw`] holds what that crate cannot give: messages whose byte fields
//! are [`bytes::Bytes`], so that a blob is not copied between socket and disk, and the error
//! details of `google.rpc` that REAPI clients look for. [`control`] and [`peer`] are Farmhand's own APIs, generated
//! from `farmhand/v1/control.proto` and `farm.proto`, and checked in; [`client`] is how to call it.

pub mod any;
pub mod client;
pub mod raw;
pub mod time;

/// The control API, `farmhand.v1`: see `farmhand/v1/control.proto` and `farm.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod control {
    include!("generated/farmhand.v1.rs");
}

/// What machines of a farm say to each other, `farmhand.peer.v1`: see `farmhand/peer/v1/peer.proto` and
/// `join.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated")]
pub mod peer {
    include!("generated/farmhand.peer.v1.rs");
}

/// The published APIs, and what they are made of, as an encoded `google.protobuf.FileDescriptorSet`: for server
/// reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/reapi.bin");

pub use bazel_remote_apis::build::bazel::remote::asset::v1 as asset;
pub use bazel_remote_apis::build::bazel::remote::execution::v2 as reapi;
pub use bazel_remote_apis::build::bazel::remote::logstream::v1 as logstream;
pub use bazel_remote_apis::build::bazel::semver;
pub use bazel_remote_apis::google::bytestream;
pub use bazel_remote_apis::google::longrunning;
pub use bazel_remote_apis::google::protobuf;
pub use bazel_remote_apis::google::rpc;
