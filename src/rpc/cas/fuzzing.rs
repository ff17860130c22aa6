//! A door for [`fuzzing`](crate::fuzzing).

use super::listing::Listing;
use crate::digest::{Digest, DigestFunction};

/// The digests in a `FindMissingBlobsRequest`, if all of it can be read.
pub(crate) fn listed_digests(message: &[u8]) -> Option<Vec<Digest>> {
    Listing::parse(message).ok()?.digests(DigestFunction::Sha256).ok()
}
