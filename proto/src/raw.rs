//! Hand-written messages, wire-compatible with the published ones.
//!
//! Two reasons only: the byte paths need [`Bytes`] where `bazel-remote-apis` has `Vec<u8>`
//! (ByteStream, and the CAS calls that carry blobs), and `google/rpc/error_details.proto` is not in that crate.
//! Field numbers are those of the published definitions; a test in this file holds each
//! message against the published type.

use bytes::Bytes;

use crate::{protobuf, reapi, rpc};

/// `google.bytestream.ReadResponse`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct ReadResponse {
    /// The next bytes of the resource.
    #[prost(bytes = "bytes", tag = "10")]
    pub data: Bytes,
}

/// `google.bytestream.WriteRequest`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct WriteRequest {
    /// Name of the upload; clients may leave it empty after the first message.
    #[prost(string, tag = "1")]
    pub resource_name: String,
    /// Offset of `data` in the resource, in bytes.
    #[prost(int64, tag = "2")]
    pub write_offset: i64,
    /// Set on the last message of a complete upload.
    #[prost(bool, tag = "3")]
    pub finish_write: bool,
    /// The bytes to append.
    #[prost(bytes = "bytes", tag = "10")]
    pub data: Bytes,
}

/// `build.bazel.remote.execution.v2.BatchUpdateBlobsRequest`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct BatchUpdateBlobsRequest {
    /// Instance of the execution system.
    #[prost(string, tag = "1")]
    pub instance_name: String,
    /// The blobs to store.
    #[prost(message, repeated, tag = "2")]
    pub requests: Vec<BlobUpdate>,
    /// Digest function of all digests in this request; 0 means by hash length.
    #[prost(int32, tag = "5")]
    pub digest_function: i32,
}

/// `build.bazel.remote.execution.v2.BatchUpdateBlobsRequest.Request`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct BlobUpdate {
    /// Digest of the uncompressed bytes.
    #[prost(message, optional, tag = "1")]
    pub digest: Option<reapi::Digest>,
    /// The bytes, compressed as `compressor` says.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
    /// A `Compressor.Value`.
    #[prost(int32, tag = "3")]
    pub compressor: i32,
}

/// `build.bazel.remote.execution.v2.BatchReadBlobsResponse`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct BatchReadBlobsResponse {
    /// One entry for each digest asked for.
    #[prost(message, repeated, tag = "1")]
    pub responses: Vec<BlobRead>,
}

/// `build.bazel.remote.execution.v2.BatchReadBlobsResponse.Response`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct BlobRead {
    /// Digest as it was asked for.
    #[prost(message, optional, tag = "1")]
    pub digest: Option<reapi::Digest>,
    /// The bytes, compressed as `compressor` says.
    #[prost(bytes = "bytes", tag = "2")]
    pub data: Bytes,
    /// Outcome for this digest; present even when OK.
    #[prost(message, optional, tag = "3")]
    pub status: Option<rpc::Status>,
    /// A `Compressor.Value`.
    #[prost(int32, tag = "4")]
    pub compressor: i32,
}

/// `build.bazel.remote.execution.v2.GetTreeResponse`, whose directories are the stored bytes as they
/// are: an embedded message and a bytes field look alike on the wire.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct GetTreeResponse {
    /// Encoded `Directory` messages.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub directories: Vec<Bytes>,
    /// Continues after this message; empty on the last one.
    #[prost(string, tag = "2")]
    pub next_page_token: String,
}

/// `build.bazel.remote.execution.v2.Tree`, whose directories are the bytes that were sent: those are what
/// the digests in it are made of.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
pub struct Tree {
    /// The encoded root `Directory`, nearly always one. What decodes messages takes several for the parts
    /// of one: joined, they are its encoding.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    pub root: Vec<Bytes>,
    /// Encoded `Directory` messages: all below the root.
    #[prost(bytes = "bytes", repeated, tag = "2")]
    pub children: Vec<Bytes>,
}

/// `google.rpc.PreconditionFailure`: names the blobs a client has to upload before it tries again.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct PreconditionFailure {
    /// One entry for each condition that failed.
    #[prost(message, repeated, tag = "1")]
    pub violations: Vec<Violation>,
}

/// `google.rpc.PreconditionFailure.Violation`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct Violation {
    /// `MISSING` for an absent blob.
    #[prost(string, tag = "1")]
    pub r#type: String,
    /// `blobs/{hash}/{size}` for an absent blob.
    #[prost(string, tag = "2")]
    pub subject: String,
    /// For people.
    #[prost(string, tag = "3")]
    pub description: String,
}

/// `google.rpc.BadRequest`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct BadRequest {
    /// What is wrong with the request.
    #[prost(message, repeated, tag = "1")]
    pub field_violations: Vec<FieldViolation>,
}

/// `google.rpc.BadRequest.FieldViolation`.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct FieldViolation {
    /// Path to the field.
    #[prost(string, tag = "1")]
    pub field: String,
    /// Why it is bad, for developers.
    #[prost(string, tag = "2")]
    pub description: String,
}

/// `google.rpc.RetryInfo`: when it makes sense to try again.
#[derive(Clone, PartialEq, ::prost::Message)]
pub struct RetryInfo {
    /// The least time to wait.
    #[prost(message, optional, tag = "1")]
    pub retry_delay: Option<protobuf::Duration>,
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::bytestream;

    fn digest() -> Option<reapi::Digest> {
        Some(reapi::Digest { hash: "ab".repeat(32), size_bytes: 3 })
    }

    #[test]
    fn byte_stream_messages_equal_the_published_ones() {
        let theirs = bytestream::WriteRequest {
            resource_name: "uploads/x".into(),
            write_offset: 7,
            finish_write: true,
            data: b"abc".to_vec(),
        };
        let ours = WriteRequest::decode(theirs.encode_to_vec().as_slice()).expect("decodes");
        assert_eq!(
            (&*ours.resource_name, ours.write_offset, ours.finish_write, &*ours.data),
            ("uploads/x", 7, true, &b"abc"[..])
        );
        assert_eq!(ours.encode_to_vec(), theirs.encode_to_vec());
        let read = ReadResponse { data: Bytes::from_static(b"xyz") };
        let theirs = bytestream::ReadResponse::decode(read.encode_to_vec().as_slice()).expect("decodes");
        assert_eq!(theirs.data, b"xyz");
    }

    #[test]
    fn batch_messages_equal_the_published_ones() {
        let theirs = reapi::BatchUpdateBlobsRequest {
            instance_name: "i".into(),
            requests: vec![reapi::batch_update_blobs_request::Request {
                digest: digest(),
                data: b"abc".to_vec(),
                compressor: 1,
            }],
            digest_function: 9,
        };
        let ours = BatchUpdateBlobsRequest::decode(theirs.encode_to_vec().as_slice()).expect("decodes");
        assert_eq!(ours.encode_to_vec(), theirs.encode_to_vec());
        assert_eq!((ours.digest_function, ours.requests[0].compressor), (9, 1));

        let ours = BatchReadBlobsResponse {
            responses: vec![BlobRead {
                digest: digest(),
                data: Bytes::from_static(b"abc"),
                status: Some(rpc::Status { code: 5, ..Default::default() }),
                compressor: 1,
            }],
        };
        let theirs = reapi::BatchReadBlobsResponse::decode(ours.encode_to_vec().as_slice()).expect("decodes");
        assert_eq!(theirs.encode_to_vec(), ours.encode_to_vec());
        assert_eq!(theirs.responses[0].compressor, 1);
    }

    #[test]
    fn a_listed_tree_equals_the_published_one() {
        let directory = reapi::Directory {
            directories: vec![reapi::DirectoryNode { name: "d".into(), digest: digest() }],
            ..Default::default()
        };
        let ours = GetTreeResponse {
            directories: vec![directory.encode_to_vec().into(), Bytes::new()],
            next_page_token: "t".into(),
        };
        let theirs = reapi::GetTreeResponse::decode(ours.encode_to_vec().as_slice()).expect("decodes");
        assert_eq!(theirs.directories, [directory, reapi::Directory::default()]);
        assert_eq!(theirs.next_page_token, "t");
    }

    #[test]
    fn a_tree_equals_the_published_one() {
        let directory = |name: &str| reapi::Directory {
            directories: vec![reapi::DirectoryNode { name: name.into(), digest: digest() }],
            ..Default::default()
        };
        let theirs =
            reapi::Tree { root: Some(directory("r")), children: vec![directory("a"), directory("b")] };
        let ours = Tree::decode(theirs.encode_to_vec().as_slice()).expect("decodes");
        assert_eq!(ours.encode_to_vec(), theirs.encode_to_vec());
        assert_eq!(ours.root, [directory("r").encode_to_vec()]);
        assert_eq!(ours.children[1], directory("b").encode_to_vec());

        let more = reapi::Tree { root: Some(directory("s")), children: Vec::new() };
        let both = [theirs.encode_to_vec(), more.encode_to_vec()].concat();
        let root = reapi::Tree::decode(both.as_slice()).expect("decodes").root.unwrap_or_default();
        assert_eq!(root.directories.len(), 2);
        let ours = Tree::decode(both.as_slice()).expect("decodes");
        assert_eq!(ours.root.concat(), root.encode_to_vec());
    }
}
