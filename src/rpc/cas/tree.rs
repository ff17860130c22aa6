//! `GetTree`: a root Directory and all below it.
//!
//! The walk goes breadth first and names each distinct Directory once, however many paths lead to
//! it. A page token is the digest of the last Directory sent, so that it stays good when blobs vanish
//! or the node starts again. The stored bytes go out as they are.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use farmhand_proto::{raw, reapi};
use futures_util::stream::{self, BoxStream, StreamExt};
use prost::Message;
use tonic::Status;

use super::CasMethods;
use crate::cas::CasError;
use crate::digest::{Digest, DigestFunction};
use crate::rpc::MAX_SENT_MESSAGE;
use crate::rpc::server::leave_connection;

/// Directories in a page when the client does not say.
const PAGE: usize = 1000;

/// Bytes of a page token and of the tags around it.
const TOKEN: usize = 256;

/// Bytes of tag and length around one directory.
const TAG: usize = 8;

/// Bytes of the largest Directory that is read.
const MAX_DIRECTORY: u64 = 32 * 1024 * 1024;

/// Why a tree cannot be listed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// Not a token this tree has given out.
    #[error("page_token {0:?} is not one of this tree")]
    Token(String),
    /// Negative.
    #[error("page_size {0} is negative")]
    PageSize(i32),
    /// A blob in the tree is no Directory.
    #[error("blob {digest} is not a Directory: {reason}")]
    Malformed {
        /// The blob.
        digest: Digest,
        /// What is wrong with it.
        reason: String,
    },
}

/// A walk under way.
struct Walk {
    methods: Arc<CasMethods>,
    function: DigestFunction,
    queue: VecDeque<Digest>,
    seen: HashSet<Digest>,
    /// Directories up to this one are passed over.
    resume_after: Option<Digest>,
    page_size: usize,
    /// Read and not yet sent.
    held: Option<(Digest, Bytes)>,
    ended: bool,
}

impl CasMethods {
    pub(super) async fn get_tree(
        self: &Arc<Self>,
        request: reapi::GetTreeRequest,
    ) -> Result<BoxStream<'static, Result<raw::GetTreeResponse, Status>>, Status> {
        leave_connection().await;
        let function = self.instances.find(&request.instance_name)?.function(request.digest_function)?;
        let root = Digest::from_field(function, request.root_digest.as_ref())?;
        let resume_after = parse_token(&request.page_token, function)?;
        let page_size = match usize::try_from(request.page_size) {
            Ok(0) => PAGE,
            Ok(size) => size.min(PAGE),
            Err(_) => return Err(TreeError::PageSize(request.page_size).into()),
        };
        let mut walk = Walk {
            methods: Arc::clone(self),
            function,
            queue: VecDeque::new(),
            seen: HashSet::from([root]),
            resume_after,
            page_size,
            held: None,
            ended: false,
        };
        walk.begin(root).await?;
        let pages = stream::try_unfold(walk, |mut walk| async move {
            let page = walk.next_page().await?;
            Ok(page.map(|page| (page, walk)))
        });
        Ok(pages.boxed())
    }
}

impl Walk {
    /// Reads the root, which must be there, and goes to the first Directory that is to be sent.
    async fn begin(&mut self, root: Digest) -> Result<(), Status> {
        let Some(data) = self.read(&root).await? else { return Err(CasError::NotFound(root).into()) };
        self.held = Some((root, data));
        let Some(last) = self.resume_after.take() else { return Ok(()) };
        while let Some((digest, _)) = self.next_directory().await? {
            if digest == last {
                return Ok(());
            }
        }
        Err(TreeError::Token(last.to_string()).into())
    }

    /// The next message; `None` after the last.
    async fn next_page(&mut self) -> Result<Option<raw::GetTreeResponse>, Status> {
        if self.ended {
            return Ok(None);
        }
        let mut page = raw::GetTreeResponse::default();
        let mut bytes = TOKEN;
        let mut last = None;
        while let Some((digest, data)) = self.next_directory().await? {
            bytes += data.len() + TAG;
            let is_full = page.directories.len() == self.page_size || bytes > MAX_SENT_MESSAGE;
            if let Some(last) = last.filter(|_| is_full) {
                self.held = Some((digest, data));
                page.next_page_token = token_of(&last);
                return Ok(Some(page));
            }
            page.directories.push(data);
            last = Some(digest);
        }
        self.ended = true;
        Ok(Some(page))
    }

    /// The next Directory that is present.
    async fn next_directory(&mut self) -> Result<Option<(Digest, Bytes)>, Status> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        while let Some(digest) = self.queue.pop_front() {
            if let Some(data) = self.read(&digest).await? {
                return Ok(Some((digest, data)));
            }
        }
        Ok(None)
    }

    /// Reads a Directory and queues those below it; `None` if it is absent.
    async fn read(&mut self, digest: &Digest) -> Result<Option<Bytes>, Status> {
        let malformed = |reason: String| TreeError::Malformed { digest: *digest, reason };
        if digest.size() > MAX_DIRECTORY {
            return Err(malformed(format!("it is larger than {MAX_DIRECTORY} bytes")).into());
        }
        let data = match self.methods.cas.get(digest).await {
            Ok(data) => data,
            Err(CasError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let directory =
            reapi::Directory::decode(data.clone()).map_err(|error| malformed(error.to_string()))?;
        for child in &directory.directories {
            let child = Digest::from_field(self.function, child.digest.as_ref())
                .map_err(|error| malformed(error.to_string()))?;
            if self.seen.insert(child) {
                self.queue.push_back(child);
            }
        }
        Ok(Some(data))
    }
}

fn token_of(digest: &Digest) -> String {
    format!("{}-{}", digest.hash_hex(), digest.size())
}

fn parse_token(token: &str, function: DigestFunction) -> Result<Option<Digest>, TreeError> {
    if token.is_empty() {
        return Ok(None);
    }
    let bad = || TreeError::Token(token.chars().take(200).collect());
    let (hash, size) = token.split_once('-').ok_or_else(bad)?;
    let size = size.parse().map_err(|_| bad())?;
    Digest::parse(function, hash, size).map(Some).map_err(|_| bad())
}
