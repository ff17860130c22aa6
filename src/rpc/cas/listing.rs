//! The messages of `FindMissingBlobs`, read and written without a value for each digest in between:
//! builds ask for hundreds of thousands of digests before they do anything else.
//!
//! The request is read in place. What prost would refuse is refused, and what it would skip is
//! skipped.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_varint, encoded_len_varint, skip_field,
};
use tonic::Status;

use crate::digest::{Digest, DigestFunction, HASH_LEN};
use crate::rpc::codec::undecodable;

/// Field numbers of `FindMissingBlobsRequest`.
const INSTANCE_NAME: u32 = 1;
const BLOB_DIGESTS: u32 = 2;
const DIGEST_FUNCTION: u32 = 3;

/// Field numbers of `Digest`.
const HASH: u32 = 1;
const SIZE_BYTES: u32 = 2;

/// Bytes of the text of a hash.
const TEXT: usize = HASH_LEN * 2;

/// Why a request does not decode.
const WRONG_TYPE: &str = "a field has the wrong wire type";

/// A `FindMissingBlobsRequest` whose digests are still to be read.
#[derive(Debug)]
pub(super) struct Listing<'a> {
    pub(super) instance_name: &'a str,
    pub(super) digest_function: i32,
    message: &'a [u8],
    count: usize,
}

/// The value of a field.
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a wire type that none of the known fields has.
    Other,
}

// === impl Listing ===

impl<'a> Listing<'a> {
    /// Reads everything but the digests, which are only counted.
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, Status> {
        let mut listing = Self { instance_name: "", digest_function: 0, message, count: 0 };
        each_field(message, |tag, value| {
            match (tag, value) {
                (INSTANCE_NAME, Value::Bytes(name)) => {
                    listing.instance_name = std::str::from_utf8(name).map_err(undecodable)?;
                }
                (BLOB_DIGESTS, Value::Bytes(_)) => listing.count += 1,
                // Enumerations are sent as signed numbers of 64 bits.
                (DIGEST_FUNCTION, Value::Number(function)) => listing.digest_function = function as i32,
                (INSTANCE_NAME | BLOB_DIGESTS | DIGEST_FUNCTION, _) => return Err(undecodable(WRONG_TYPE)),
                _ => {}
            }
            Ok(())
        })?;
        Ok(listing)
    }

    /// The digests, all of `function`.
    pub(super) fn digests(&self, function: DigestFunction) -> Result<Vec<Digest>, Status> {
        let mut digests = Vec::with_capacity(self.count);
        each_field(self.message, |tag, value| {
            if let (BLOB_DIGESTS, Value::Bytes(message)) = (tag, value) {
                digests.push(read_digest(function, message)?);
            }
            Ok(())
        })?;
        Ok(digests)
    }
}

fn read_digest(function: DigestFunction, message: &[u8]) -> Result<Digest, Status> {
    let (mut hash, mut size_bytes) = (&[][..], 0);
    each_field(message, |tag, value| {
        match (tag, value) {
            (HASH, Value::Bytes(text)) => hash = text,
            (SIZE_BYTES, Value::Number(size)) => size_bytes = size as i64,
            (HASH | SIZE_BYTES, _) => return Err(undecodable(WRONG_TYPE)),
            _ => {}
        }
        Ok(())
    })?;
    Ok(Digest::parse(function, hash, size_bytes)?)
}

/// Visits the fields of a message in their order.
fn each_field<'a>(
    mut rest: &'a [u8],
    mut visit: impl FnMut(u32, Value<'a>) -> Result<(), Status>,
) -> Result<(), Status> {
    while !rest.is_empty() {
        let (tag, value) = next_field(&mut rest)?;
        visit(tag, value)?;
    }
    Ok(())
}

fn next_field<'a>(rest: &mut &'a [u8]) -> Result<(u32, Value<'a>), Status> {
    let (tag, wire_type) = decode_key(rest).map_err(undecodable)?;
    let value = match wire_type {
        WireType::Varint => Value::Number(decode_varint(rest).map_err(undecodable)?),
        WireType::LengthDelimited => {
            let length = decode_varint(rest).map_err(undecodable)?;
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let Some((bytes, behind)) = rest.split_at_checked(length) else {
                return Err(undecodable("a field is longer than its message"));
            };
            *rest = behind;
            Value::Bytes(bytes)
        }
        other => {
            skip_field(other, tag, rest, DecodeContext::default()).map_err(undecodable)?;
            Value::Other
        }
    };
    Ok((tag, value))
}

/// A `FindMissingBlobsResponse` that names `digests`.
pub(super) fn encode_missing(digests: &[Digest]) -> Bytes {
    const LENGTH_DELIMITED: u8 = 2;
    // Two keys, two lengths, the hash, a key and a number.
    let mut message = BytesMut::with_capacity(digests.len() * (4 + TEXT + 1 + 9));
    for digest in digests {
        let size = digest.size().min(i64::MAX as u64);
        let size_len = if size == 0 { 0 } else { 1 + encoded_len_varint(size) };
        message.put_slice(&[(BLOB_DIGESTS as u8) << 3 | LENGTH_DELIMITED, (2 + TEXT + size_len) as u8]);
        message.put_slice(&[(HASH as u8) << 3 | LENGTH_DELIMITED, TEXT as u8]);
        let mut text = [0; TEXT];
        const_hex::encode_to_slice(digest.hash(), &mut text)
            .expect("invariant: the text has twice the length");
        message.put_slice(&text);
        if size > 0 {
            message.put_u8((SIZE_BYTES as u8) << 3);
            encode_varint(size, &mut message);
        }
    }
    message.freeze()
}

#[cfg(test)]
mod tests {
    use farmhand_proto::reapi;
    use proptest::prelude::*;
    use prost::Message;
    use tonic::Code;

    use super::*;

    const SHA256: DigestFunction = DigestFunction::Sha256;

    fn digests(message: &[u8]) -> Result<Vec<Digest>, Status> {
        Listing::parse(message)?.digests(SHA256)
    }

    fn any_digest() -> impl Strategy<Value = Digest> {
        (any::<[u8; HASH_LEN]>(), prop_oneof![Just(0), 0..1000_u64, 0..=i64::MAX as u64])
            .prop_map(|(hash, size)| Digest::from_parts(SHA256, hash, size))
    }

    proptest! {
        #[test]
        fn published_requests_are_read(
            asked in proptest::collection::vec(any_digest(), 0..20),
            instance_name in "[a-z]{0,8}",
            digest_function in prop_oneof![Just(0), any::<i32>()],
        ) {
            let blob_digests = asked.iter().map(Digest::to_wire).collect();
            let theirs =
                reapi::FindMissingBlobsRequest { instance_name, blob_digests, digest_function }.encode_to_vec();
            let ours = Listing::parse(&theirs).unwrap();
            let published = reapi::FindMissingBlobsRequest::decode(&*theirs).unwrap();
            prop_assert_eq!(ours.instance_name, published.instance_name);
            prop_assert_eq!(ours.digest_function, published.digest_function);
            prop_assert_eq!(ours.count, asked.len());
            prop_assert_eq!(ours.digests(SHA256).unwrap(), asked);
        }

        #[test]
        fn answers_are_published_ones(missing in proptest::collection::vec(any_digest(), 0..20)) {
            let theirs = reapi::FindMissingBlobsResponse {
                missing_blob_digests: missing.iter().map(Digest::to_wire).collect(),
            };
            prop_assert_eq!(encode_missing(&missing), theirs.encode_to_vec());
        }

        /// Damaged requests are read as the published decoder reads them, or refused.
        #[test]
        fn damage_is_seen_as_the_published_decoder_sees_it(
            asked in proptest::collection::vec(any_digest(), 1..4),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
            whole: bool,
        ) {
            let blob_digests = asked.iter().map(Digest::to_wire).collect();
            let instance_name = "i".into();
            let mut message =
                reapi::FindMissingBlobsRequest { instance_name, blob_digests, digest_function: 1 }.encode_to_vec();
            for (at, byte) in changes {
                let at = at.index(message.len());
                message[at] = byte;
            }
            if !whole {
                message.truncate(cut.index(message.len()));
            }
            let published = reapi::FindMissingBlobsRequest::decode(&*message).ok().and_then(|request| {
                let read = request.blob_digests.iter().map(|digest| Digest::from_wire(SHA256, digest));
                read.collect::<Result<Vec<_>, _>>().ok()
            });
            prop_assert_eq!(digests(&message).ok(), published);
        }

        #[test]
        fn any_bytes_are_read_or_refused(message: Vec<u8>) {
            if let Err(status) = digests(&message) {
                prop_assert_eq!(status.code(), Code::InvalidArgument);
            }
        }
    }

    #[test]
    fn fields_come_in_any_order_and_unknown_ones_are_skipped() {
        let digest = Digest::of(SHA256, b"x");
        let inner = [&[0x10, 1, 0x1d, 0, 0, 0, 0, 0x0a, 64][..], digest.hash_hex().as_bytes()].concat();
        let message =
            [&[0x18, 9, 0x25, 1, 2, 3, 4, 0x12, inner.len() as u8][..], &inner, b"\x0a\x01i"].concat();
        let listing = Listing::parse(&message).unwrap();
        assert_eq!((listing.instance_name, listing.digest_function), ("i", 9));
        assert_eq!(listing.digests(SHA256).unwrap(), [digest]);
    }
}
