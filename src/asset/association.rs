//! [`Associations`]: which content a name stands for.
//!
//! An association is an entry of the action cache, under a key that no client can name: the size in it is one
//! that the wire cannot hold. All that results have, associations have by that: they survive a kill, are copied to
//! other machines and found there, age with the store, and are seen only while all that they name can be
//! read. This module owns the key and what is written into the entry; who may push, and what is
//! downloaded, is for those above.

use std::sync::Arc;
use std::time::SystemTime;

use farmhand_proto::any::{self, Named};
use farmhand_proto::reapi::{ActionResult, ExecutedActionMetadata, OutputDirectory, OutputFile};
use farmhand_proto::{protobuf, time};
use prost::Message;
use sha2::Digest as _;

use super::error::AssetError;
use super::integrity::Checksum;
use super::qualifiers::Qualifiers;
use super::uri::AssetUri;
use crate::action_cache::{ActionCache, ActionKey};
use crate::digest::{Digest, DigestFunction};
use crate::instance::InstanceName;

/// Separates these hashes from all others.
const DOMAIN: &[u8] = b"farmhand asset\0";

/// Sizes on the wire are signed, so no client can send this one.
const BEYOND_THE_WIRE: u64 = 1 << 63;

/// Bytes of an entry at most: a few ten thousand references.
const LARGEST: usize = 4 * 1024 * 1024;

/// Where the content itself stands in an entry; references have numbers.
const CONTENT: &str = "content";

/// What kind of content is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A blob.
    Blob,
    /// A directory, by the digest of its root.
    Directory,
}

/// Under what content is found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Name<'a> {
    pub(super) instance: &'a InstanceName,
    pub(super) function: DigestFunction,
    pub(super) kind: Kind,
    pub(super) uri: &'a AssetUri,
    pub(super) qualifiers: &'a Qualifiers,
    /// The checksum that the content is known to have, where one was named.
    pub(super) checksum: Option<&'a Checksum>,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Association {
    /// Of the blob, or of the root directory.
    pub(super) content: Digest,
    /// When it was pushed, or its download began.
    pub(super) since: SystemTime,
    /// From when on it does not count.
    pub(super) until: Option<SystemTime>,
    /// What has to live as long.
    pub(super) blobs: Vec<Digest>,
    /// The same, with all below.
    pub(super) directories: Vec<Digest>,
}

/// The associations of the whole farm.
#[derive(Clone)]
pub(super) struct Associations(Arc<dyn ActionCache>);

/// What an entry says beside what it names.
#[derive(Clone, PartialEq, ::prost::Message)]
struct Note {
    #[prost(message, optional, tag = "1")]
    since: Option<protobuf::Timestamp>,
    #[prost(message, optional, tag = "2")]
    until: Option<protobuf::Timestamp>,
}

impl Named for Note {
    const NAME: &'static str = "farmhand.Asset";
}

// === impl Name ===

impl Name<'_> {
    /// The bytes that tell it from all others, but for instance and function.
    fn identity(&self) -> [u8; 32] {
        let mut hash = sha2::Sha256::new();
        hash.update(DOMAIN);
        hash.update([match self.kind {
            Kind::Blob => 0,
            Kind::Directory => 1,
        }]);
        let mut part = |text: &str| {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text);
        };
        part(self.uri.as_str());
        part(&self.checksum.map(ToString::to_string).unwrap_or_default());
        for (name, value) in self.qualifiers.keyed() {
            part(name);
            part(value);
        }
        hash.finalize().into()
    }

    fn key(&self) -> ActionKey {
        let action = Digest::from_parts(self.function, self.identity(), BEYOND_THE_WIRE);
        ActionKey { instance: self.instance.clone(), action }
    }
}

// === impl Association ===

impl Association {
    /// Content that is good since `since`, and comes alone.
    pub(super) fn of(content: Digest, since: SystemTime) -> Self {
        Self { content, since, until: None, blobs: Vec::new(), directories: Vec::new() }
    }

    /// Whether it counts at `now` for who takes nothing older than `oldest`.
    pub(super) fn counts(&self, now: SystemTime, oldest: Option<SystemTime>) -> bool {
        self.until.is_none_or(|until| now < until) && oldest.is_none_or(|oldest| oldest <= self.since)
    }

    fn to_entry(&self, kind: Kind) -> ActionResult {
        let file = |path: String, digest: &Digest| OutputFile {
            path,
            digest: Some(digest.to_wire()),
            ..Default::default()
        };
        let directory = |path: String, digest: &Digest| OutputDirectory {
            path,
            root_directory_digest: Some(digest.to_wire()),
            ..Default::default()
        };
        let mut entry = ActionResult::default();
        match kind {
            Kind::Blob => entry.output_files.push(file(CONTENT.to_owned(), &self.content)),
            Kind::Directory => entry.output_directories.push(directory(CONTENT.to_owned(), &self.content)),
        }
        let blobs = self.blobs.iter().enumerate();
        entry.output_files.extend(blobs.map(|(at, digest)| file(at.to_string(), digest)));
        let directories = self.directories.iter().enumerate();
        entry.output_directories.extend(directories.map(|(at, digest)| directory(at.to_string(), digest)));
        let note = Note { since: Some(time::timestamp(self.since)), until: self.until.map(time::timestamp) };
        let auxiliary_metadata = vec![any::pack(&note)];
        entry.execution_metadata = Some(ExecutedActionMetadata { auxiliary_metadata, ..Default::default() });
        entry
    }

    /// Reads what [`to_entry`](Self::to_entry) writes; `None` for anything else.
    fn from_entry(entry: &ActionResult, kind: Kind, function: DigestFunction) -> Option<Self> {
        let digest = |wire: &Option<_>| Digest::from_field(function, wire.as_ref()).ok();
        let files = entry.output_files.iter().map(|file| (&file.path, &file.digest));
        let directories = entry.output_directories.iter();
        let directories = directories.map(|directory| (&directory.path, &directory.root_directory_digest));
        let content = match kind {
            Kind::Blob => files.clone().find(|(path, _)| *path == CONTENT),
            Kind::Directory => directories.clone().find(|(path, _)| *path == CONTENT),
        };
        let metadata = entry.execution_metadata.as_ref()?;
        let note: Note = metadata.auxiliary_metadata.iter().find_map(any::unpack)?;
        let until = match &note.until {
            Some(until) => Some(time::system_time(until)?),
            None => None,
        };
        Some(Self {
            content: digest(content?.1)?,
            since: time::system_time(note.since.as_ref()?)?,
            until,
            blobs: files.filter(|(path, _)| *path != CONTENT).filter_map(|(_, wire)| digest(wire)).collect(),
            directories: directories
                .filter(|(path, _)| *path != CONTENT)
                .filter_map(|(_, wire)| digest(wire))
                .collect(),
        })
    }
}

// === impl Associations ===

impl Associations {
    /// Kept in `cache`, which shows complete entries only.
    pub(super) fn new(cache: Arc<dyn ActionCache>) -> Self {
        Self(cache)
    }

    /// What `name` stands for; all that it names can be read.
    pub(super) async fn get(&self, name: Name<'_>) -> Result<Option<Association>, AssetError> {
        let entry = self.0.get(&name.key()).await?;
        Ok(entry.and_then(|entry| Association::from_entry(&entry, name.kind, name.function)))
    }

    /// Has `name` stand for something, in place of what it stood for. All of it must be in the store.
    pub(super) async fn put(&self, name: Name<'_>, association: &Association) -> Result<(), AssetError> {
        let entry = association.to_entry(name.kind);
        let size = entry.encoded_len();
        if size > LARGEST {
            return Err(AssetError::TooManyReferences(size));
        }
        Ok(self.0.put(&name.key(), entry).await?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::action_cache::memory::MemoryActionCache;
    use crate::asset::integrity::Integrity;

    fn digest(text: &str) -> Digest {
        Digest::of(DigestFunction::Sha256, text.as_bytes())
    }

    fn qualifiers(given: &[(&str, &str)]) -> Qualifiers {
        let given = given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Qualifiers::parse(given, 1).unwrap()
    }

    #[test]
    fn entries_come_back_as_they_were() {
        let since = UNIX_EPOCH + Duration::new(1_800_000_000, 5);
        let plain = Association::of(digest("a"), since);
        let full = Association {
            until: Some(since + Duration::from_secs(9)),
            blobs: vec![digest("b"), digest("c")],
            directories: vec![digest("d")],
            ..plain.clone()
        };
        for association in [plain, full] {
            for kind in [Kind::Blob, Kind::Directory] {
                let entry = association.to_entry(kind);
                assert_eq!(
                    Association::from_entry(&entry, kind, DigestFunction::Sha256).as_ref(),
                    Some(&association)
                );
            }
        }
        let strange = ActionResult::default();
        assert_eq!(Association::from_entry(&strange, Kind::Blob, DigestFunction::Sha256), None);
    }

    #[test]
    fn age_and_end_decide_whether_it_counts() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let forever = Association::of(digest("a"), at(10));
        assert!(forever.counts(at(99), None) && forever.counts(at(99), Some(at(10))));
        assert!(!forever.counts(at(99), Some(at(11))));
        let ends = Association { until: Some(at(20)), ..forever };
        assert!(ends.counts(at(19), None) && !ends.counts(at(20), None));
    }

    #[tokio::test]
    async fn every_part_of_a_name_tells_it_from_others() {
        let instances = [InstanceName::default(), InstanceName::parse("a").unwrap()];
        let uris = [AssetUri::parse("urn:a").unwrap(), AssetUri::parse("urn:b").unwrap()];
        let lists = [qualifiers(&[]), qualifiers(&[("a", "bc")]), qualifiers(&[("ab", "c")])];
        let integrity = Integrity::parse("sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=").unwrap();
        let checksums = [None, integrity.checksums().first()];
        let mut keys = HashSet::new();
        let mut names = 0;
        for instance in &instances {
            for function in DigestFunction::ALL {
                for kind in [Kind::Blob, Kind::Directory] {
                    for uri in &uris {
                        for qualifiers in &lists {
                            for checksum in checksums {
                                let name = Name { instance, function, kind, uri, qualifiers, checksum };
                                keys.insert(name.key());
                                names += 1;
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(keys.len(), names);
        assert!(keys.iter().all(|key| i64::try_from(key.action.size()).is_err()), "no client can name one");
    }

    #[tokio::test]
    async fn the_last_one_counts_and_headers_do_not() {
        let associations = Associations::new(Arc::new(MemoryActionCache::default()));
        let (instance, uri) = (InstanceName::default(), AssetUri::parse("urn:a").unwrap());
        let (with, without) = (qualifiers(&[("http_header:x", "secret")]), qualifiers(&[]));
        let name = |qualifiers| Name {
            instance: &instance,
            function: DigestFunction::Sha256,
            kind: Kind::Blob,
            uri: &uri,
            qualifiers,
            checksum: None,
        };
        for text in ["a", "b"] {
            let association = Association::of(digest(text), UNIX_EPOCH);
            associations.put(name(&with), &association).await.unwrap();
            assert_eq!(associations.get(name(&without)).await.unwrap(), Some(association));
        }
        let many =
            Association { blobs: vec![digest("r"); 60_000], ..Association::of(digest("a"), UNIX_EPOCH) };
        let error = associations.put(name(&with), &many).await.unwrap_err();
        assert!(matches!(error, AssetError::TooManyReferences(_)), "{error}");
    }
}
