//! Repositories of git: the tree of one commit, by HTTP.
//!
//! A commit is asked for alone (`deepen 1`), by the second version of the protocol, over the same
//! connections as everything else, so that the rules for addresses, times and sizes hold here too. That is why no
//! git is run and no library of it used: those make connections of their own, and take what a pack claims to
//! unpack to for granted. `wire` has the protocol, `pack` what comes back. What a commit holds is proven by its
//! name alone; SHA-1 that somebody has tampered with is noticed. Submodules are empty directories, as
//! after a plain clone.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};

use super::archive::{Shelf, Source, Stop};
use super::error::{FetchError, OriginError};
use super::origin::{Ask, Body, Origins};
use super::qualifiers::{QualifierError, Qualifiers};
use super::tree::TreeBuilder;
use super::uri::Url;
use crate::digest::Digest;
use pack::Pack;
use wire::{Offer, Reference};

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod pack;
mod wire;

pub use pack::ObjectId;
pub(super) use wire::Demultiplexer;

/// The resource type of a repository.
const TYPE: &str = "application/x-git";

/// Bytes of what a server says of itself, and of its references.
const LISTING: usize = 16 << 20;

/// What of a repository is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Revision {
    /// What the server takes for the main branch.
    Head,
    /// A branch, else a tag.
    Named(String),
    /// A commit.
    Commit(ObjectId),
}

/// A repository on a server.
pub(super) struct Repository<'a> {
    origins: &'a Origins,
    url: Url,
    headers: HeaderMap,
}

// === impl Revision ===

impl Revision {
    /// What is wanted, if it is something of a repository.
    pub(super) fn of(qualifiers: &Qualifiers) -> Result<Option<Self>, QualifierError> {
        let versioned = qualifiers.versioned();
        match qualifiers.resource_type() {
            Some(TYPE) => {}
            None if versioned.is_some() => {}
            _ => return Ok(None),
        }
        if qualifiers.checksum().is_some() {
            return Err(QualifierError::Unsupported("checksum.sri".to_owned()));
        }
        if let Some(commit) = qualifiers.commit() {
            let id = ObjectId::parse(commit.as_bytes());
            let shown = || commit.chars().take(80).collect();
            return id
                .map(Self::Commit)
                .map(Some)
                .ok_or_else(|| QualifierError::Value { name: "vcs.commit", value: shown() });
        }
        Ok(Some(qualifiers.branch().map_or(Self::Head, |branch| Self::Named(branch.to_owned()))))
    }
}

// === impl Repository ===

impl<'a> Repository<'a> {
    /// Finds the repository at `url`, which may have moved.
    pub(super) async fn find(
        origins: &'a Origins,
        url: &Url,
        headers: HeaderMap,
    ) -> Result<Self, FetchError> {
        let unusable = || OriginError::Unusable("this is no address of a repository".to_owned());
        let listing = url.below("info/refs?service=git-upload-pack").ok_or_else(unusable)?;
        let mut repository = Self { origins, url: url.clone(), headers };
        let ask = Ask { headers: repository.said(), body: None };
        let (answered, body) = origins.ask(&listing, &ask).await?;
        Offer::parse(&whole(body).await?).map_err(OriginError::Unusable)?;
        if answered != listing {
            repository.url = answered.above("/info/refs").ok_or_else(unusable)?;
            if !repository.url.is_same_origin(url) {
                repository.headers.clear();
            }
        }
        Ok(repository)
    }

    /// The commit that `revision` is now.
    pub(super) async fn commit(&self, revision: &Revision) -> Result<ObjectId, FetchError> {
        let prefixes = match revision {
            Revision::Commit(id) => return Ok(*id),
            Revision::Head => vec!["HEAD".to_owned()],
            Revision::Named(name) => vec![format!("refs/heads/{name}"), format!("refs/tags/{name}")],
        };
        let request = wire::list_references(&prefixes).ok_or_else(|| absent(revision))?;
        let answer = whole(self.post(request).await?).await?;
        let references = Reference::parse_all(&answer).map_err(OriginError::Unusable)?;
        let found =
            prefixes.iter().find_map(|name| references.iter().find(|reference| reference.name == *name));
        Ok(found.ok_or_else(|| absent(revision))?.commit)
    }

    /// Asks for all that `commit` holds: the answer to a [`Demultiplexer`].
    pub(super) async fn fetch(&self, commit: &ObjectId) -> Result<Body, FetchError> {
        self.post(wire::fetch(commit)).await
    }

    async fn post(&self, request: Vec<u8>) -> Result<Body, FetchError> {
        let unusable = || OriginError::Unusable("this is no address of a repository".to_owned());
        let url = self.url.below("git-upload-pack").ok_or_else(unusable)?;
        let mut headers = self.said();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-git-upload-pack-request"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/x-git-upload-pack-result"));
        let ask = Ask { headers, body: Some(Bytes::from(request)) };
        Ok(self.origins.ask(&url, &ask).await?.1)
    }

    fn said(&self) -> HeaderMap {
        let mut headers = self.headers.clone();
        headers.insert(HeaderName::from_static("git-protocol"), HeaderValue::from_static("version=2"));
        headers
    }
}

fn absent(revision: &Revision) -> OriginError {
    match revision {
        Revision::Named(name) => OriginError::Absent(format!("branch or tag {name:?}")),
        Revision::Head => OriginError::Absent("main branch".to_owned()),
        Revision::Commit(id) => OriginError::Absent(format!("commit {id}")),
    }
}

/// What went wrong when `commit` was asked for: git has no code for that it lacks it, only these words.
pub(super) fn of_commit(commit: &ObjectId, error: FetchError) -> FetchError {
    match error {
        FetchError::Origin(OriginError::Unusable(said)) if said.contains("not our ref") => {
            absent(&Revision::Commit(*commit)).into()
        }
        other => other,
    }
}

/// A body that is small.
async fn whole(mut body: Body) -> Result<Vec<u8>, OriginError> {
    let mut all = Vec::new();
    while let Some(piece) = body.next().await? {
        if all.len() + piece.len() > LISTING {
            return Err(OriginError::TooLarge(LISTING as u64));
        }
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

/// The tree of `commit`, out of a pack that has all of it. Blocking, as `unpack` of archives is.
pub(super) fn tree(
    pack: &mut dyn Source,
    commit: &ObjectId,
    shelf: &dyn PackShelf,
    limit: u64,
    stop: &Stop,
) -> Result<TreeBuilder, FetchError> {
    Pack::read(pack, shelf, limit, stop)?.tree(commit, shelf)
}

/// Where the blobs of a pack go, and come from again when others are told by their differences.
pub trait PackShelf: Shelf {
    /// The bytes of a blob that was stored here.
    ///
    /// # Errors
    /// When the store fails.
    fn take(&self, digest: &Digest) -> Result<Bytes, FetchError>;
}
