//! The header in which build tools tell who is asking, read into a [`RequestMetadata`].
//!
//! Nothing in here fails: a header that is absent or rubbish gives empty fields.

use farmhand_proto::reapi;
use http::{HeaderMap, HeaderName};
use prost::Message;
use tonic::metadata::MetadataMap;

use crate::activity::{Activity, Meter};
use crate::request_metadata::RequestMetadata;

mod base64;
mod build;

/// The header's names, the current one first. Pants sends the second, recc of 2021 the third.
const HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("build.bazel.remote.execution.v2.requestmetadata-bin"),
    HeaderName::from_static("google.devtools.remoteexecution.v1test.requestmetadata-bin"),
    HeaderName::from_static("requestmetadata-bin"),
];

/// Reads the metadata of a call. The first of the names that has a readable value wins.
pub fn of(metadata: &MetadataMap) -> RequestMetadata {
    of_headers(metadata.as_ref())
}

/// As [`of`], from the headers as HTTP has them.
pub fn of_headers(headers: &HeaderMap) -> RequestMetadata {
    HEADERS.iter().find_map(|name| decode(headers, name)).map(RequestMetadata::from).unwrap_or_default()
}

/// What counts the bytes of a call with these headers.
pub(super) fn meter(activity: &Activity, headers: &HeaderMap) -> Meter {
    let message = only_value(headers);
    match message.as_deref().and_then(build::name) {
        Some(name) => activity.meter(name, || of_headers(headers)),
        None => {
            let metadata = of_headers(headers);
            activity.meter(metadata.build(), || metadata.clone())
        }
    }
}

/// The message in the headers where there is one header with one value, as nearly all clients have it.
fn only_value(headers: &HeaderMap) -> Option<Vec<u8>> {
    let mut values = headers.get_all(&HEADERS[0]).iter();
    let value = values.next()?.as_bytes();
    if values.next().is_some() || value.contains(&b',') {
        return None;
    }
    base64::decode(value.trim_ascii())
}

/// The message in all values of one header. A value may hold several, joined by commas; later ones
/// add to the earlier.
fn decode(headers: &HeaderMap, name: &HeaderName) -> Option<reapi::RequestMetadata> {
    let mut merged = None;
    for value in headers.get_all(name) {
        for part in value.as_bytes().split(|byte| *byte == b',') {
            let Some(bytes) = base64::decode(part.trim_ascii()) else { continue };
            let mut message: reapi::RequestMetadata = merged.clone().unwrap_or_default();
            if message.merge(bytes.as_slice()).is_ok() {
                merged = Some(message);
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic::metadata::BinaryMetadataValue;

    use http::HeaderValue;

    use super::*;

    fn wire() -> reapi::RequestMetadata {
        reapi::RequestMetadata {
            tool_details: Some(reapi::ToolDetails { tool_name: "bazel".into(), tool_version: "8".into() }),
            action_id: "lease-extension".into(),
            tool_invocation_id: "inv".into(),
            correlated_invocations_id: "ci".into(),
            action_mnemonic: "CppCompile".into(),
            target_id: "//a:b".into(),
            configuration_id: "cfg".into(),
        }
    }

    /// Unpadded base64 of a message.
    fn base64(message: &reapi::RequestMetadata) -> String {
        let value = BinaryMetadataValue::from_bytes(&message.encode_to_vec());
        String::from_utf8(value.as_encoded_bytes().to_vec()).unwrap()
    }

    fn read(name: &HeaderName, value: &str) -> RequestMetadata {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        of_headers(&headers)
    }

    #[test]
    fn all_names_padded_or_not() {
        let text = base64(&wire());
        let padded = format!("{text}{}", "=".repeat((4 - text.len() % 4) % 4));
        for name in &HEADERS {
            for value in [&text, &padded] {
                let metadata = read(name, value);
                assert_eq!(metadata, RequestMetadata::from(wire()), "{name}");
                assert_eq!(metadata.tool_name, "bazel");
                assert_eq!(metadata.action_id, "lease-extension");
            }
        }
    }

    #[test]
    fn comma_joined_values_add_up() {
        let tool = reapi::RequestMetadata { tool_details: wire().tool_details, ..Default::default() };
        let rest = reapi::RequestMetadata { tool_details: None, ..wire() };
        let joined = format!("{}, {}", base64(&tool), base64(&rest));
        assert_eq!(read(&HEADERS[0], &joined), RequestMetadata::from(wire()));
    }

    #[test]
    fn eight_kilobytes_of_ids() {
        let ids = "x".repeat(8192);
        let message = reapi::RequestMetadata { correlated_invocations_id: ids.clone(), ..wire() };
        let metadata = read(&HEADERS[0], &base64(&message));
        assert!(ids.starts_with(&metadata.correlated_invocations_id));
        assert_eq!(metadata.target_id, "//a:b");
    }

    proptest! {
        #[test]
        fn rubbish_is_tolerated(value in "[ -~]{0,200}", good: bool) {
            let value = if good { format!("{value},{}", base64(&wire())) } else { value };
            let metadata = read(&HEADERS[0], &value);
            if good {
                prop_assert_eq!(metadata.tool_invocation_id, "inv");
            }
        }
    }
}
