//! Which inputs of an action are absent: one bounded walk over its Merkle tree.
//!
//! Only called when something is known to be absent, so it need not be fast; it must be
//! complete, because a client uploads what is named and tries again, once.

use std::collections::HashSet;

use crate::cas::{CasError, ContentAddressableStorage};
use crate::digest::Digest;
use crate::merkle::{Directory, MerkleError};

use super::action::ActionError;

/// Distinct blobs looked at; a larger tree is reported as far as this.
const VISIT_LIMIT: usize = 2_000_000;

/// Absent blobs reported: their subjects must fit into one message of 4 MiB.
const REPORT_LIMIT: usize = 20_000;

/// Digests asked for in one query.
const BATCH: usize = 10_000;

/// Bytes of a Directory message that is read to look for its children.
const DIRECTORY_LIMIT: u64 = 64 * 1024 * 1024;

/// Every absent Directory and file below `root`, each once, as far as the Directories that are
/// present tell.
///
/// # Errors
/// The outer error is the store's; the inner one names a Directory that is malformed.
pub async fn missing_inputs(
    cas: &dyn ContentAddressableStorage,
    root: Digest,
) -> Result<Result<Vec<Digest>, ActionError>, CasError> {
    let mut walk = Walk { seen: HashSet::from([root]), missing: Vec::new() };
    let mut level = vec![root];
    let mut files = Vec::new();
    while !level.is_empty() && !walk.is_full() {
        let present = walk.sort_out(cas, &level).await?;
        level.clear();
        for digest in present {
            let directory = match read_directory(cas, digest).await? {
                Ok(Some(directory)) => directory,
                Ok(None) => {
                    walk.missing.push(digest);
                    continue;
                }
                Err(error) => return Ok(Err(error)),
            };
            walk.children(directory, &mut level, &mut files);
            if files.len() >= BATCH {
                walk.sort_out(cas, &std::mem::take(&mut files)).await?;
            }
        }
    }
    walk.sort_out(cas, &files).await?;
    walk.missing.truncate(REPORT_LIMIT);
    Ok(Ok(walk.missing))
}

struct Walk {
    seen: HashSet<Digest>,
    missing: Vec<Digest>,
}

impl Walk {
    fn is_full(&self) -> bool {
        self.seen.len() >= VISIT_LIMIT || self.missing.len() >= REPORT_LIMIT
    }

    /// Notes the absent ones of `digests` and returns the others.
    async fn sort_out(
        &mut self,
        cas: &dyn ContentAddressableStorage,
        digests: &[Digest],
    ) -> Result<Vec<Digest>, CasError> {
        let mut present = Vec::new();
        for batch in digests.chunks(BATCH) {
            let missing = cas.find_missing(batch).await?;
            let absent: HashSet<_> = missing.iter().collect();
            present.extend(batch.iter().filter(|digest| !absent.contains(digest)));
            self.missing.extend(missing);
        }
        Ok(present)
    }

    /// Adds the children of `directory` that were not met before.
    fn children(&mut self, directory: Directory, directories: &mut Vec<Digest>, files: &mut Vec<Digest>) {
        let mut is_new = |digest: &Digest| self.seen.len() < VISIT_LIMIT && self.seen.insert(*digest);
        directories.extend(directory.directories.into_iter().map(|node| node.digest).filter(&mut is_new));
        files.extend(directory.files.into_iter().map(|node| node.digest).filter(&mut is_new));
    }
}

/// Reads one Directory; `None` if it went away since it was asked for.
pub(super) async fn read_directory(
    cas: &dyn ContentAddressableStorage,
    digest: Digest,
) -> Result<Result<Option<Directory>, ActionError>, CasError> {
    if digest.size() > DIRECTORY_LIMIT {
        return Ok(Err(ActionError::TooLarge { role: "Directory", digest, limit: DIRECTORY_LIMIT }));
    }
    let data = match cas.get(&digest).await {
        Ok(data) => data,
        Err(CasError::NotFound(_)) => return Ok(Ok(None)),
        Err(error) => return Err(error),
    };
    let malformed =
        |error: MerkleError| ActionError::Decode { role: "Directory", digest, reason: error.to_string() };
    Ok(Directory::parse(&data, digest.function()).map(Some).map_err(malformed))
}

#[cfg(test)]
mod tests {
    use farmhand_proto::reapi;
    use prost::Message;

    use super::*;
    use crate::cas::memory::MemoryCas;
    use crate::digest::DigestFunction::Sha256;

    fn directory(files: &[(&str, Digest)], directories: &[(&str, Digest)]) -> Vec<u8> {
        let file = |&(name, digest): &(&str, Digest)| reapi::FileNode {
            name: name.into(),
            digest: Some(digest.to_wire()),
            ..Default::default()
        };
        let child = |&(name, digest): &(&str, Digest)| reapi::DirectoryNode {
            name: name.into(),
            digest: Some(digest.to_wire()),
        };
        reapi::Directory {
            files: files.iter().map(file).collect(),
            directories: directories.iter().map(child).collect(),
            ..Default::default()
        }
        .encode_to_vec()
    }

    #[tokio::test]
    async fn names_every_absent_blob_once() {
        let cas = MemoryCas::default();
        let absent = |text: &str| Digest::of(Sha256, text.as_bytes());
        let here = cas.insert(Sha256, "here");
        let low = cas.insert(Sha256, directory(&[("x", absent("x")), ("h", here)], &[]));
        let gone = Digest::of(Sha256, &directory(&[("never", absent("seen"))], &[]));
        let middle =
            cas.insert(Sha256, directory(&[("x", absent("x")), ("y", absent("y"))], &[("low", low)]));
        let root = cas.insert(Sha256, directory(&[], &[("m", middle), ("low", low), ("gone", gone)]));

        let mut missing = missing_inputs(&cas, root).await.unwrap().unwrap();
        missing.sort();
        let mut expected = vec![absent("x"), absent("y"), gone];
        expected.sort();
        assert_eq!(missing, expected);
    }

    #[tokio::test]
    async fn a_complete_tree_lacks_nothing_and_the_empty_directory_needs_no_upload() {
        let cas = MemoryCas::default();
        let root = cas.insert(Sha256, directory(&[], &[("empty", Digest::empty(Sha256))]));
        assert_eq!(missing_inputs(&cas, root).await.unwrap().unwrap(), []);
    }

    #[tokio::test]
    async fn a_shared_subtree_is_walked_once() {
        let cas = MemoryCas::default();
        let mut digest = cas.insert(Sha256, directory(&[("f", Digest::of(Sha256, b"absent"))], &[]));
        for _ in 0..64 {
            digest = cas.insert(Sha256, directory(&[], &[("a", digest), ("b", digest)]));
        }
        assert_eq!(missing_inputs(&cas, digest).await.unwrap().unwrap(), [Digest::of(Sha256, b"absent")]);
    }

    #[tokio::test]
    async fn a_malformed_directory_is_named() {
        let cas = MemoryCas::default();
        let bad = cas.insert(Sha256, &b"\xff\xff\xff"[..]);
        let root = cas.insert(Sha256, directory(&[], &[("bad", bad)]));
        let error = missing_inputs(&cas, root).await.unwrap().unwrap_err();
        assert!(matches!(error, ActionError::Decode { role: "Directory", digest, .. } if digest == bad));
    }
}
