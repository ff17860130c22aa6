//! [`Query`]: an action as a person names it, and the operation it means.

use farmhand_proto::control::Operation;
use tonic::Status;

use crate::digest::{Digest, DigestFunction, HASH_LEN};

/// What a person typed to name an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Query {
    /// The digest in full.
    Digest(Digest),
    /// A hash whose size must be looked up.
    Hash(String),
}

// === impl Query ===

impl Query {
    /// Reads `hash/size`, `blake3/hash/size` (`sha256/…` too), or a bare hash.
    pub(super) fn parse(text: &str) -> Result<Self, Status> {
        let bad = || {
            Status::invalid_argument(format!(
                "{text:?} is no digest: use HASH/SIZE, blake3/HASH/SIZE or HASH"
            ))
        };
        let (function, rest) = match text.split_once('/') {
            Some((first, rest)) => match DigestFunction::from_segment(first) {
                Some(function) => {
                    (function.map_err(|error| Status::invalid_argument(error.to_string()))?, rest)
                }
                None => (DigestFunction::default(), text),
            },
            None => (DigestFunction::default(), text),
        };
        let Some((hash, size)) = rest.split_once('/') else {
            let is_hash = text.len() == HASH_LEN * 2 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
            return if is_hash { Ok(Self::Hash(text.to_ascii_lowercase())) } else { Err(bad()) };
        };
        let size = size.parse().map_err(|_| bad())?;
        Digest::parse(function, hash, size)
            .map(Self::Digest)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }

    /// The digest in full, where only the hash was typed: the one in `operations` that has it.
    pub(super) fn resolve(self, operations: &[Operation]) -> Result<Digest, Status> {
        let hash = match self {
            Self::Digest(digest) => return Ok(digest),
            Self::Hash(hash) => hash,
        };
        let mut found: Vec<Digest> = operations
            .iter()
            .filter_map(|operation| match Self::parse(&operation.action_digest) {
                Ok(Self::Digest(digest)) if digest.hash_hex() == hash => Some(digest),
                _ => None,
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        match found.as_slice() {
            [one] => Ok(*one),
            [] => Err(Status::not_found(format!(
                "no action with hash {hash} in the history; an older one needs its size: HASH/SIZE"
            ))),
            several => Err(Status::failed_precondition(format!(
                "hash {hash} fits {} actions; add the size, as in {}",
                several.len(),
                several[0]
            ))),
        }
    }
}

/// The newest of `operations` that ran `digest` in `instance`.
pub(super) fn last_of(operations: Vec<Operation>, digest: &Digest, instance: &str) -> Option<Operation> {
    let digest = digest.to_string();
    operations
        .into_iter()
        .find(|operation| operation.action_digest == digest && operation.instance_name == instance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_as_people_type_them() {
        let hash = "ab".repeat(32);
        let digest = |function| Digest::parse(function, &hash, 7).unwrap();
        assert_eq!(
            Query::parse(&format!("{hash}/7")).unwrap(),
            Query::Digest(digest(DigestFunction::Sha256))
        );
        let blake3 = digest(DigestFunction::Blake3);
        assert_eq!(Query::parse(&blake3.to_string()).unwrap(), Query::Digest(blake3));
        assert_eq!(Query::parse(&hash.to_uppercase()).unwrap(), Query::Hash(hash.clone()));
        for text in
            ["", "abc", &format!("{hash}/x"), &format!("{hash}/-1"), &format!("md5/{hash}/1"), "a/b/c"]
        {
            assert_eq!(Query::parse(text).unwrap_err().code(), tonic::Code::InvalidArgument, "{text}");
        }
    }
}
