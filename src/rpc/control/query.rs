//! [`Query`]: an action as a person names it.

use farmhand_proto::control::Operation;
use tonic::Status;

use super::ControlService;
use crate::digest::{Digest, DigestFunction, HASH_LEN};
use crate::execution::OperationId;

/// What a person typed to name an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Query {
    /// The digest in full.
    Digest(Digest),
    /// A hash whose size must be looked up.
    Hash([u8; HASH_LEN]),
    /// One operation of it.
    Operation(OperationId),
}

// === impl Query ===

impl Query {
    /// Reads `hash/size`, `blake3/hash/size` (`sha256/…` too), a bare hash, or the name of an operation.
    pub(super) fn parse(text: &str) -> Result<Self, Status> {
        if let Some(id) = OperationId::parse(text) {
            return Ok(Self::Operation(id));
        }
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
            let mut hash = [0; HASH_LEN];
            // A name of other letters is no hash, even if its length is right.
            return match const_hex::decode_to_slice(text, &mut hash) {
                Ok(()) if text.len() == HASH_LEN * 2 => Ok(Self::Hash(hash)),
                _ => Err(bad()),
            };
        };
        let size = size.parse().map_err(|_| bad())?;
        Digest::parse(function, hash, size)
            .map(Self::Digest)
            .map_err(|error| Status::invalid_argument(error.to_string()))
    }
}

impl ControlService {
    /// The action that `query` names, where `live` are the operations in flight.
    pub(super) async fn resolve(&self, query: &Query, live: &[Operation]) -> Result<Digest, Status> {
        match query {
            Query::Digest(digest) => Ok(*digest),
            Query::Hash(hash) => self.resolve_hash(hash, live).await,
            Query::Operation(id) => {
                let name = id.to_string();
                let running = live.iter().find(|operation| operation.name == name);
                let found = match running {
                    Some(operation) => operation.action_digest.parse().ok(),
                    None => self.history.named(*id).await?.and_then(|record| record.action()),
                };
                found.ok_or_else(|| Status::not_found(format!("there is no operation {name} any more")))
            }
        }
    }

    async fn resolve_hash(&self, hash: &[u8; HASH_LEN], live: &[Operation]) -> Result<Digest, Status> {
        let running = live.iter().filter_map(|operation| operation.action_digest.parse().ok());
        let mut found: Vec<Digest> = running.filter(|digest: &Digest| digest.hash() == hash).collect();
        found.extend(self.history.actions_with(*hash).await?);
        found.sort_unstable();
        found.dedup();
        let text = const_hex::encode(hash);
        match found.as_slice() {
            [one] => Ok(*one),
            [] => Err(Status::not_found(format!(
                "no action with hash {text} in the history; an older one needs its size: HASH/SIZE"
            ))),
            several => Err(Status::failed_precondition(format!(
                "hash {text} fits {} actions; add the size, as in {}",
                several.len(),
                several[0]
            ))),
        }
    }
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
        assert_eq!(Query::parse(&hash.to_uppercase()).unwrap(), Query::Hash([0xab; 32]));
        let id = OperationId::random();
        assert_eq!(Query::parse(&id.to_string()).unwrap(), Query::Operation(id));
        for text in [
            "",
            "abc",
            &format!("{hash}/x"),
            &format!("{hash}/-1"),
            &format!("md5/{hash}/1"),
            "a/b/c",
            "0xab",
        ] {
            assert_eq!(Query::parse(text).unwrap_err().code(), tonic::Code::InvalidArgument, "{text}");
        }
    }
}
