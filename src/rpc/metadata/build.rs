//! The name of the build a call belongs to, without decoding the rest.
//!
//! Calls that move bytes are many and short, and all they need of their metadata is this one text. It is
//! read in place here. What does not look as clients send it is left to the full decoder.

use crate::request_metadata::MAX_FIELD;

/// The fields of `RequestMetadata` that name a build, as [`RequestMetadata::build`] weighs them.
///
/// [`RequestMetadata::build`]: crate::request_metadata::RequestMetadata::build
#[derive(Default)]
struct Names<'a> {
    tool: &'a str,
    invocation: &'a str,
    correlated: &'a str,
}

/// The name of the build in an encoded `RequestMetadata`; `None` if that needs a closer look.
pub(super) fn name(message: &[u8]) -> Option<&str> {
    let mut names = Names::default();
    each_field(message, |number, data| {
        match number {
            1 => each_field(data, |number, data| {
                if number == 1 {
                    names.tool = std::str::from_utf8(data).ok()?;
                }
                Some(())
            })?,
            3 => names.invocation = std::str::from_utf8(data).ok()?,
            4 => names.correlated = std::str::from_utf8(data).ok()?,
            _ => {}
        }
        Some(())
    })?;
    let all = [names.invocation, names.correlated, names.tool];
    let name = all.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
    // Longer ones are cut when they are decoded.
    (name.len() <= MAX_FIELD).then_some(name)
}

/// Calls `take` for each field of a message whose fields are all texts or messages.
fn each_field<'a>(mut message: &'a [u8], mut take: impl FnMut(u64, &'a [u8]) -> Option<()>) -> Option<()> {
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let length = usize::try_from(varint(&mut message)?).ok()?;
        // 2 is the wire type of what has a length.
        if key & 7 != 2 || length > message.len() {
            return None;
        }
        let (data, rest) = message.split_at(length);
        take(key >> 3, data)?;
        message = rest;
    }
    Some(())
}

/// A number of at most two bytes: larger ones do not occur in headers.
fn varint(message: &mut &[u8]) -> Option<u64> {
    let (first, rest) = message.split_first()?;
    *message = rest;
    if *first < 0x80 {
        return Some(u64::from(*first));
    }
    let (second, rest) = message.split_first().filter(|(second, _)| **second < 0x80)?;
    *message = rest;
    Some(u64::from(*first & 0x7f) | u64::from(*second) << 7)
}

#[cfg(test)]
mod tests {
    use farmhand_proto::reapi;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use crate::request_metadata::RequestMetadata;

    fn text() -> impl Strategy<Value = String> {
        prop_oneof![Just(String::new()), "[a-z]{1,5}", "[é]{100,200}"]
    }

    proptest! {
        #[test]
        fn it_is_that_of_the_full_decoder(
            tool in prop::option::of(text()),
            texts in prop::array::uniform6(text()),
        ) {
            let [action_id, tool_invocation_id, correlated_invocations_id, mnemonic, target_id, rest] = texts;
            let wire = reapi::RequestMetadata {
                tool_details: tool.map(|tool_name| reapi::ToolDetails { tool_name, tool_version: rest.clone() }),
                action_id,
                tool_invocation_id,
                correlated_invocations_id,
                action_mnemonic: mnemonic,
                target_id,
                configuration_id: rest,
            };
            let bytes = wire.encode_to_vec();
            let full = RequestMetadata::from(wire);
            prop_assert_eq!(name(&bytes), Some(full.build()));
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let (Some(name), Ok(wire)) = (name(&bytes), reapi::RequestMetadata::decode(&*bytes)) {
                let full = RequestMetadata::from(wire);
                prop_assert_eq!(name, full.build());
            }
        }
    }

    #[test]
    fn what_is_unusual_is_left_to_the_full_decoder() {
        assert_eq!(name(b""), Some(""));
        assert_eq!(name(b"\x1a\x02ab"), Some("ab"));
        for unusual in [&b"\x1a\x05ab"[..], b"\x18\x01", b"\x1a", b"\x1a\x01\xff", b"\x9a\x80\x80\x00\x00"] {
            assert_eq!(name(unusual), None, "{unusual:?}");
        }
    }
}
