//! Messages: those of clients on the byte paths, held against the published types; the header that says
//! who is asking; and those between daemon and spawner.

use farmhand_proto::{bytestream, raw, reapi};
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;
use tonic::metadata::BinaryMetadataValue;

use super::input::Input;
use crate::digest::{Digest, DigestFunction};
use crate::rpc::{cas, metadata};
use crate::worker::sandbox::fuzzing as wire;

/// Bytes mean to our own messages what they mean to the published ones.
///
/// # Panics
/// When that does not hold.
pub fn message(data: &[u8]) {
    let mut input = Input(data);
    match input.below(8) {
        0 => same::<raw::ReadResponse, bytestream::ReadResponse>(input.0),
        1 => same::<raw::WriteRequest, bytestream::WriteRequest>(input.0),
        2 => same::<raw::BatchUpdateBlobsRequest, reapi::BatchUpdateBlobsRequest>(input.0),
        3 => same::<raw::BatchReadBlobsResponse, reapi::BatchReadBlobsResponse>(input.0),
        4 | 5 => find_missing_request(input.0),
        6 => no_stricter::<raw::GetTreeResponse, reapi::GetTreeResponse>(input.0),
        _ => no_stricter::<raw::Tree, reapi::Tree>(input.0),
    }
}

/// Both take the bytes for the same message, or both refuse them.
fn same<A: Message + Default, B: Message + Default>(data: &[u8]) {
    assert_eq!(A::decode(data).is_ok(), B::decode(data).is_ok());
    no_stricter::<A, B>(data);
}

/// What `B` takes, `A` takes for the same message. `A` may leave what is embedded unread.
fn no_stricter<A: Message + Default, B: Message + Default>(data: &[u8]) {
    let Ok(published) = B::decode(data) else { return };
    let ours = A::decode(data).expect("the published type takes it");
    let again = B::decode(&*ours.encode_to_vec()).expect("the published type takes what ours writes");
    // Encoded, since a NaN never equals itself and a message may hold one.
    assert_eq!(again.encode_to_vec(), published.encode_to_vec());
}

/// The digests that are read in place are those of the published message.
fn find_missing_request(data: &[u8]) {
    let published = reapi::FindMissingBlobsRequest::decode(data).ok().and_then(|request| {
        let digests = request.blob_digests.iter();
        digests
            .map(|digest| Digest::from_wire(DigestFunction::Sha256, digest).ok())
            .collect::<Option<Vec<_>>>()
    });
    assert_eq!(cas::fuzzing::listed_digests(data), published);
}

/// Rubbish in front of a good value hides nothing of it.
///
/// # Panics
/// When that does not hold.
pub fn request_metadata(data: &[u8]) {
    const NAMES: [&str; 3] = [
        "build.bazel.remote.execution.v2.requestmetadata-bin",
        "google.devtools.remoteexecution.v1test.requestmetadata-bin",
        "requestmetadata-bin",
    ];
    let mut input = Input(data);
    let first = input.below(3);
    let mut headers = HeaderMap::new();
    for (at, line) in input.0.split(|byte| *byte == b'\n').take(8).enumerate() {
        let name = HeaderName::from_static(NAMES[(first + at) % 3]);
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append(name, value);
        }
    }
    let read = metadata::of_headers(&headers);
    assert_eq!(read, metadata::of_headers(&headers));
    let known = reapi::RequestMetadata { tool_invocation_id: "inv".to_owned(), ..Default::default() };
    let known = BinaryMetadataValue::from_bytes(&known.encode_to_vec());
    let known = HeaderValue::from_bytes(known.as_encoded_bytes()).expect("base64 is a header value");
    headers.append(HeaderName::from_static(NAMES[0]), known);
    let read = metadata::of_headers(&headers);
    assert_eq!(read.tool_invocation_id, "inv");
    assert_eq!(&*read.share(), "inv");
}

/// A message that is read is written as one that is read as the same.
///
/// # Panics
/// When that does not hold.
pub fn sandbox_wire(data: &[u8]) {
    for recode in [wire::recode_request, wire::recode_reply] {
        if let Some(written) = recode(data) {
            let again = recode(&written).expect("what was written is read");
            assert_eq!(again, written);
        }
    }
}
