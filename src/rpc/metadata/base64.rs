//! Base64 as gRPC has it in binary headers: the standard alphabet, padded or not.

/// No letter of the alphabet.
const NONE: u8 = 0xff;

/// The value of each letter.
const VALUES: [u8; 256] = {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut values = [NONE; 256];
    let mut at = 0;
    while at < alphabet.len() {
        values[alphabet[at] as usize] = at as u8;
        at += 1;
    }
    values
};

/// The bytes that `text` stands for; `None` if it stands for none.
pub(super) fn decode(text: &[u8]) -> Option<Vec<u8>> {
    let padding = text.iter().rev().take(2).take_while(|byte| **byte == b'=').count();
    let letters = &text[..text.len() - padding];
    if letters.len() % 4 == 1 || (padding > 0 && !text.len().is_multiple_of(4)) {
        return None;
    }
    let mut bytes = Vec::with_capacity(letters.len() / 4 * 3 + 2);
    for four in letters.chunks(4) {
        let mut bits = 0_u32;
        for letter in four {
            let value = VALUES[usize::from(*letter)];
            if value == NONE {
                return None;
            }
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - four.len());
        let three = bits.to_be_bytes();
        let (whole, beyond) = three[1..].split_at(four.len() - 1);
        if beyond.iter().any(|byte| *byte != 0) {
            return None;
        }
        bytes.extend_from_slice(whole);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tonic::metadata::{BinaryMetadataValue, MetadataMap};

    use super::*;

    /// What the library for gRPC makes of a value.
    fn library(text: &[u8]) -> Option<Vec<u8>> {
        let mut headers = http::HeaderMap::new();
        headers.insert("one-bin", http::HeaderValue::from_bytes(text).ok()?);
        Some(MetadataMap::from_headers(headers).get_bin("one-bin")?.to_bytes().ok()?.to_vec())
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..50)) {
            let value = BinaryMetadataValue::from_bytes(&bytes);
            let text = value.as_encoded_bytes();
            prop_assert_eq!(decode(text), Some(bytes.clone()));
            let padded = [text, &b"=="[..(4 - text.len() % 4) % 4]].concat();
            prop_assert_eq!(decode(&padded), Some(bytes));
        }

        #[test]
        fn it_is_as_strict_as_the_library(text in "[A-Za-c0-1+/=_ -]{0,12}") {
            prop_assert_eq!(decode(text.as_bytes()), library(text.as_bytes()));
        }
    }
}
