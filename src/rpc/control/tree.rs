//! `ListDirectory` and `ReadBlob`: what a person looks into.
//!
//! Directories come out of the store one by one, or all out of one Tree. Whoever made them may have
//! meant harm: they are parsed by [`merkle`](crate::merkle), one that is too large is not read, and
//! what is counted below an entry is bounded (`sizes`). Looking is no use of what is listed: only the
//! Directories that are read live on for it.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use farmhand_proto::control::directory_entry::Kind;
use farmhand_proto::control::{
    DirectoryEntry, ListDirectoryRequest, ListDirectoryResponse, ReadBlobRequest, ReadBlobResponse,
};
use farmhand_proto::raw;
use futures_util::StreamExt;
use prost::Message;
use tonic::{Request, Response, Status};

use super::query::Query;
use super::{ControlService, Replies};
use crate::cas::{ByteRange, CasError, ContentAddressableStorage};
use crate::digest::{Digest, DigestFunction};
use crate::merkle::{Directory, MerkleError};
use crate::path::RootPath;
use sizes::totals;

mod sizes;
#[cfg(test)]
mod tests;

/// Entries of a page when the caller sets no limit, and at most.
const USUAL_PAGE: usize = 500;
const LARGEST_PAGE: usize = 2000;

/// Bytes of the largest Directory, and of the largest Tree, that is read.
const MAX_DIRECTORY: u64 = 32 << 20;
const MAX_TREE: u64 = 64 << 20;

/// Bytes of a symlink's target that are told: no system follows longer ones.
const MAX_TARGET: usize = 4096;

/// Where Directories come from.
struct Directories {
    cas: Arc<dyn ContentAddressableStorage>,
    function: DigestFunction,
    /// Those of a Tree, by digest; `None`: the store.
    tree: Option<HashMap<Digest, Bytes>>,
}

/// Why a Directory cannot be had.
#[derive(Debug, thiserror::Error)]
enum LookError {
    /// Not stored, or not in its Tree.
    #[error("Directory {0} is not stored")]
    Missing(Digest),
    /// A message larger than any build has.
    #[error("{0} is too large for a {1}")]
    TooLarge(Digest, &'static str),
    /// Something else, or made with ill will.
    #[error("{0} is no {1}: {2}")]
    Malformed(Digest, &'static str, MerkleError),
    /// The store failed.
    #[error(transparent)]
    Cas(CasError),
}

/// An entry of a Directory: its kind and its place in the list of that kind. Ordered as pages are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place<'a> {
    kind: u8,
    name: &'a str,
    index: usize,
}

/// Kinds in the order of a page, with the words that stand for them in page tokens.
const KINDS: [(Kind, &str); 3] =
    [(Kind::Directory, "directory"), (Kind::File, "file"), (Kind::Symlink, "symlink")];

// === impl ControlService ===

impl ControlService {
    pub(super) async fn list_directory(
        &self,
        request: Request<ListDirectoryRequest>,
    ) -> Result<Response<ListDirectoryResponse>, Status> {
        let request = request.into_inner();
        let digest = full_digest(&request.digest)?;
        let path = RootPath::root()
            .join(&request.path)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (directories, root) = if request.is_tree {
            Directories::of_tree(Arc::clone(&self.cas), digest).await?
        } else {
            (Directories::stored(Arc::clone(&self.cas), digest.function()), digest)
        };
        let directory = directories.find(root, &path).await?;
        let limit = match request.limit as usize {
            0 => USUAL_PAGE,
            limit => limit.min(LARGEST_PAGE),
        };
        let (places, next_page_token) = page(&directory, &request.page_token, limit)?;
        let mut entries: Vec<_> = places.iter().map(|place| entry(&directory, place)).collect();
        directories.add_sizes(&directory, &places, &mut entries).await;
        directories.add_stored(&directory, &places, &mut entries).await?;
        Ok(Response::new(ListDirectoryResponse { entries, next_page_token }))
    }

    pub(super) async fn read_blob(
        &self,
        request: Request<ReadBlobRequest>,
    ) -> Result<Response<Replies<ReadBlobResponse>>, Status> {
        let request = request.into_inner();
        let limit = (request.limit > 0).then_some(request.limit);
        let range = ByteRange { offset: request.offset, limit };
        let blob = self.cas.read(&full_digest(&request.digest)?, range).await?;
        let pieces = blob.map(|piece| Ok(ReadBlobResponse { data: piece?.into() }));
        Ok(Response::new(Box::pin(pieces)))
    }
}

fn full_digest(text: &str) -> Result<Digest, Status> {
    match Query::parse(text)? {
        Query::Digest(digest) => Ok(digest),
        Query::Operation(_) => Err(Status::invalid_argument(format!("{text} is no digest"))),
        Query::Hash(_) => Err(Status::invalid_argument(format!("{text} has no size: use HASH/SIZE"))),
    }
}

// === impl Directories ===

impl Directories {
    fn stored(cas: Arc<dyn ContentAddressableStorage>, function: DigestFunction) -> Self {
        Self { cas, function, tree: None }
    }

    /// Those of a Tree, and the digest of its root.
    async fn of_tree(
        cas: Arc<dyn ContentAddressableStorage>,
        digest: Digest,
    ) -> Result<(Self, Digest), LookError> {
        if digest.size() > MAX_TREE {
            return Err(LookError::TooLarge(digest, "Tree"));
        }
        let data = cas.get(&digest).await.map_err(|error| missing_or(digest, error))?;
        let function = digest.function();
        // Hashing takes a while for the largest ones.
        let opened = tokio::task::spawn_blocking(move || open_tree(data, function)).await;
        let opened = opened.map_err(|panic| MerkleError::Decode { what: "Tree", reason: panic.to_string() });
        let (tree, root) =
            opened.and_then(|tree| tree).map_err(|error| LookError::Malformed(digest, "Tree", error))?;
        Ok((Self { cas, function, tree: Some(tree) }, root))
    }

    /// The Directory at `path` below `root`. Symlinks are not followed.
    async fn find(&self, root: Digest, path: &RootPath) -> Result<Directory, Status> {
        let mut directory = self.read(&root).await?;
        let mut here = RootPath::root();
        for name in path.components() {
            here = here.child(name.clone());
            let child = directory.directories.iter().find(|child| child.name == *name);
            let child = child.ok_or_else(|| Status::not_found(absent(&directory, &here)))?;
            directory = self.read(&child.digest).await?;
        }
        Ok(directory)
    }

    async fn read(&self, digest: &Digest) -> Result<Directory, LookError> {
        if digest.size() > MAX_DIRECTORY {
            return Err(LookError::TooLarge(*digest, "Directory"));
        }
        let data = match &self.tree {
            // Everybody knows the empty one: a Tree may leave it out.
            _ if digest.is_empty_blob() => Bytes::new(),
            Some(tree) => tree.get(digest).cloned().ok_or(LookError::Missing(*digest))?,
            None => self.cas.get(digest).await.map_err(|error| missing_or(*digest, error))?,
        };
        Directory::parse(&data, self.function)
            .map_err(|error| LookError::Malformed(*digest, "Directory", error))
    }

    /// Fills in what is below the directories of a page.
    async fn add_sizes(&self, directory: &Directory, places: &[Place<'_>], entries: &mut [DirectoryEntry]) {
        let children: Vec<Option<Digest>> = places
            .iter()
            .map(|place| (place.kind == 0).then(|| directory.directories[place.index].digest))
            .collect();
        let totals = totals(self, children.iter().copied().flatten()).await;
        for (entry, child) in entries.iter_mut().zip(children) {
            if let Some(total) = child.and_then(|child| totals.get(&child)) {
                entry.size_bytes = total.bytes;
                entry.files = Some(total.files);
            }
        }
    }

    /// Fills in which entries of a page are stored. The Directories of a Tree are, within it.
    async fn add_stored(
        &self,
        directory: &Directory,
        places: &[Place<'_>],
        entries: &mut [DirectoryEntry],
    ) -> Result<(), LookError> {
        let digests: Vec<Option<Digest>> = places
            .iter()
            .map(|place| match place.kind {
                0 if self.tree.is_some() => None,
                0 => Some(directory.directories[place.index].digest),
                1 => Some(directory.files[place.index].digest),
                _ => None,
            })
            .collect();
        let asked: Vec<Digest> = digests.iter().copied().flatten().collect();
        let missing = self.cas.peek_missing(&asked).await.map_err(LookError::Cas)?;
        let missing: std::collections::HashSet<Digest> = missing.into_iter().collect();
        for (entry, digest) in entries.iter_mut().zip(digests) {
            entry.is_stored = digest.is_none_or(|digest| !missing.contains(&digest));
        }
        Ok(())
    }
}

fn open_tree(data: Bytes, function: DigestFunction) -> Result<(HashMap<Digest, Bytes>, Digest), MerkleError> {
    let tree = raw::Tree::decode(data)
        .map_err(|error| MerkleError::Decode { what: "Tree", reason: error.to_string() })?;
    let root: Bytes = tree.root.concat().into();
    let digest = Digest::of(function, &root);
    let children = tree.children.into_iter().map(|child| (Digest::of(function, &child), child));
    Ok((children.chain([(digest, root)]).collect(), digest))
}

fn missing_or(digest: Digest, error: CasError) -> LookError {
    match error {
        CasError::NotFound(_) => LookError::Missing(digest),
        error => LookError::Cas(error),
    }
}

/// Why there is no directory at `path`, whose last name `parent` should have.
fn absent(parent: &Directory, path: &RootPath) -> String {
    let last = path.components().last();
    let is = |name| Some(name) == last;
    if parent.files.iter().any(|file| is(&file.name)) {
        return format!("{path} is a file");
    }
    match parent.symlinks.iter().find(|link| is(&link.name)) {
        Some(_) => format!("{path} is a symlink"),
        None => format!("there is no {path}"),
    }
}

impl From<LookError> for Status {
    fn from(error: LookError) -> Self {
        match error {
            LookError::Missing(_) => Self::not_found(error.to_string()),
            LookError::TooLarge(..) => Self::out_of_range(error.to_string()),
            LookError::Malformed(..) => Self::invalid_argument(error.to_string()),
            LookError::Cas(error) => error.into(),
        }
    }
}

// === pages ===

/// The entries of one page, and the token of the next.
fn page<'a>(directory: &'a Directory, token: &str, limit: usize) -> Result<(Vec<Place<'a>>, String), Status> {
    let files = directory.files.iter().map(|file| file.name.as_str());
    let directories = directory.directories.iter().map(|child| child.name.as_str());
    let symlinks = directory.symlinks.iter().map(|link| link.name.as_str());
    let of_kind = |kind| move |(index, name)| Place { kind, name, index };
    let mut places: Vec<_> = (directories.enumerate().map(of_kind(0)))
        .chain(files.enumerate().map(of_kind(1)))
        .chain(symlinks.enumerate().map(of_kind(2)))
        .collect();
    places.sort_unstable();
    let after = parse_token(token)?;
    let from = places.partition_point(|place| after.is_some_and(|after| (place.kind, place.name) <= after));
    places.drain(..from);
    let is_last = places.len() <= limit;
    places.truncate(limit);
    let token = match places.last().filter(|_| !is_last) {
        Some(last) => format!("{}/{}", KINDS[usize::from(last.kind)].1, last.name),
        None => String::new(),
    };
    Ok((places, token))
}

/// Kind and name of the last entry of the page before. Tokens stay good: a Directory never changes.
fn parse_token(token: &str) -> Result<Option<(u8, &str)>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    let parsed = token.split_once('/').and_then(|(word, name)| {
        let kind = (0_u8..).zip(KINDS).find(|(_, (_, known))| *known == word)?.0;
        Some((kind, name))
    });
    parsed.map(Some).ok_or_else(|| Status::invalid_argument("page_token is none of this call"))
}

fn entry(directory: &Directory, place: &Place<'_>) -> DirectoryEntry {
    let entry = DirectoryEntry {
        name: place.name.to_owned(),
        kind: KINDS[usize::from(place.kind)].0.into(),
        ..Default::default()
    };
    match place.kind {
        0 => DirectoryEntry { digest: directory.directories[place.index].digest.to_string(), ..entry },
        1 => {
            let file = &directory.files[place.index];
            DirectoryEntry {
                digest: file.digest.to_string(),
                is_executable: file.is_executable,
                size_bytes: file.digest.size(),
                ..entry
            }
        }
        _ => DirectoryEntry { target: shortened(&directory.symlinks[place.index].target), ..entry },
    }
}

fn shortened(target: &str) -> String {
    if target.len() <= MAX_TARGET {
        return target.to_owned();
    }
    let mut end = MAX_TARGET;
    while !target.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &target[..end])
}
