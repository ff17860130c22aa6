//! [`CompleteActionCache`]: a result is seen only while all it names can be read.
//!
//! Wrap it around the cache that stores results; everybody above relies on it: a client that gets a
//! result does not look for its outputs before it needs them. All blobs of a result are asked for in
//! one `find_missing`, which also extends their life: files, stdout and stderr, Trees and the files
//! in them, root directories and all below them.
//!
//! That walk is remembered. While no blob has vanished from the store (its *generation* stands still)
//! and the walk is recent, a hit costs one look into a table. Results of failed actions are neither
//! stored nor seen.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use farmhand_proto::raw;
use farmhand_proto::reapi::{self, ActionResult};
use prost::Message;
use tokio::time::Instant;

use super::{ActionCache, ActionCacheError, ActionKey};
use crate::cas::{CasError, ContentAddressableStorage};
use crate::digest::{Digest, DigestFunction};
use crate::merkle::Directory;
use crate::path::{PathError, RootPath};
use remembered::{Remembered, fingerprint};

pub use incomplete::Incomplete;

mod incomplete;
mod remembered;

/// Bytes of the largest Tree, Directory, Action or Command that is read.
const MAX_MESSAGE: u64 = 64 * 1024 * 1024;

/// Tells how often blobs have vanished from the store; grows whenever one does.
pub type Generation = Arc<dyn Fn() -> u64 + Send + Sync>;

/// An action cache that shows complete results only.
pub struct CompleteActionCache<A> {
    inner: A,
    cas: Arc<dyn ContentAddressableStorage>,
    generation: Generation,
    remembered: Remembered,
    incomplete: Arc<Incomplete>,
}

/// The blobs that a result names, those in its Trees and below its root directories included.
#[derive(Clone, Debug, Default)]
pub struct Named {
    /// All that are known.
    pub blobs: HashSet<Digest>,
    /// Trees and Directories among them that could not be read: what these name is not known.
    pub unread: Vec<Digest>,
}

/// Everything one result names.
struct Walk<'a> {
    cas: &'a dyn ContentAddressableStorage,
    function: DigestFunction,
    named: HashSet<Digest>,
    /// Trees and Directories that could not be read.
    missing: Vec<Digest>,
}

/// Finds the blobs that `result` names, whose digests are made by `function`.
///
/// # Errors
/// [`ActionCacheError::Malformed`] when it, or a Tree of it, is not to be understood; or when the
/// store fails.
pub async fn named(
    cas: &dyn ContentAddressableStorage,
    function: DigestFunction,
    result: &ActionResult,
) -> Result<Named, ActionCacheError> {
    let mut walk = Walk::new(cas, function);
    walk.result(result).await?;
    Ok(Named { blobs: walk.named, unread: walk.missing })
}

// === impl CompleteActionCache ===

impl<A: ActionCache> CompleteActionCache<A> {
    /// Decorates `inner`, whose results name blobs of `cas`. A walk is good for `fresh`: a minute, or
    /// less where blobs live so shortly that a hit has to extend their life sooner.
    pub fn new(
        inner: A,
        cas: Arc<dyn ContentAddressableStorage>,
        generation: Generation,
        fresh: Duration,
    ) -> Self {
        Self { inner, cas, generation, remembered: Remembered::new(fresh), incomplete: Arc::default() }
    }

    /// The results that were found incomplete.
    pub fn incomplete(&self) -> &Arc<Incomplete> {
        &self.incomplete
    }

    /// The blobs `result` names that are not in the CAS; the life of the others is extended.
    async fn missing(
        &self,
        function: DigestFunction,
        result: &ActionResult,
    ) -> Result<Vec<Digest>, ActionCacheError> {
        let Named { blobs, unread: mut missing } = named(&*self.cas, function, result).await?;
        let blobs: Vec<Digest> = blobs.into_iter().filter(|digest| !missing.contains(digest)).collect();
        missing.extend(self.cas.find_missing(&blobs).await?);
        Ok(missing)
    }

    /// Refuses paths that are absolute or lead out of the input root. Output paths are relative to the
    /// working directory, so one that climbs is judged by the Command, if that is stored.
    async fn check_paths(&self, key: &ActionKey, result: &ActionResult) -> Result<(), ActionCacheError> {
        let mut climbing = Vec::new();
        for path in output_paths(result) {
            match RootPath::root().join(path) {
                Ok(_) => {}
                Err(PathError::Escapes(_)) => climbing.push(path),
                Err(error) => return Err(malformed(error)),
            }
        }
        if climbing.is_empty() {
            return Ok(());
        }
        let directory = self.working_directory(key).await?;
        climbing.into_iter().try_for_each(|path| directory.join(path).map(drop)).map_err(malformed)
    }

    /// Where the action runs; the input root if its Action or Command is not stored.
    async fn working_directory(&self, key: &ActionKey) -> Result<RootPath, ActionCacheError> {
        let mut walk = Walk::new(&*self.cas, key.action.function());
        let Some(action) = walk.read::<reapi::Action>(&key.action).await? else {
            return Ok(RootPath::root());
        };
        let command = walk.digest("command_digest", action.command_digest.as_ref())?;
        let command = walk.read::<reapi::Command>(&command).await?.unwrap_or_default();
        RootPath::root().join(&command.working_directory).map_err(malformed)
    }
}

#[async_trait]
impl<A: ActionCache> ActionCache for CompleteActionCache<A> {
    async fn get(&self, key: &ActionKey) -> Result<Option<ActionResult>, ActionCacheError> {
        let Some(result) = self.inner.get(key).await?.filter(|result| result.exit_code == 0) else {
            return Ok(None);
        };
        let generation = (self.generation)();
        let fingerprint = fingerprint(&result);
        if self.remembered.holds(key, fingerprint, generation, Instant::now()) {
            return Ok(Some(result));
        }
        match self.missing(key.action.function(), &result).await {
            Ok(missing) if missing.is_empty() => {
                self.remembered.insert(key, fingerprint, generation, Instant::now());
                Ok(Some(result))
            }
            Ok(missing) => {
                tracing::debug!(action = %key.action, missing = missing.len(), "result is no longer complete");
                missing.first().inspect(|digest| self.incomplete.note(key, **digest));
                Ok(None)
            }
            Err(ActionCacheError::Malformed(reason)) => {
                tracing::warn!(action = %key.action, reason, "stored result is malformed");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn put(&self, key: &ActionKey, result: ActionResult) -> Result<(), ActionCacheError> {
        if result.exit_code != 0 {
            return Ok(());
        }
        self.check_paths(key, &result).await?;
        let generation = (self.generation)();
        let missing = self.missing(key.action.function(), &result).await?;
        if !missing.is_empty() {
            return Err(ActionCacheError::Incomplete(missing));
        }
        let fingerprint = fingerprint(&result);
        self.inner.put(key, result).await?;
        self.remembered.insert(key, fingerprint, generation, Instant::now());
        Ok(())
    }
}

fn output_paths(result: &ActionResult) -> impl Iterator<Item = &str> {
    #[expect(deprecated, reason = "clients of version 2.0 fill the two old lists")]
    let symlinks = result
        .output_symlinks
        .iter()
        .chain(&result.output_file_symlinks)
        .chain(&result.output_directory_symlinks);
    (result.output_files.iter().map(|file| file.path.as_str()))
        .chain(result.output_directories.iter().map(|directory| directory.path.as_str()))
        .chain(symlinks.map(|symlink| symlink.path.as_str()))
}

fn malformed(reason: impl ToString) -> ActionCacheError {
    ActionCacheError::Malformed(reason.to_string())
}

// === impl Walk ===

impl<'a> Walk<'a> {
    fn new(cas: &'a dyn ContentAddressableStorage, function: DigestFunction) -> Self {
        Self { cas, function, named: HashSet::new(), missing: Vec::new() }
    }

    async fn result(&mut self, result: &ActionResult) -> Result<(), ActionCacheError> {
        for digest in [&result.stdout_digest, &result.stderr_digest].into_iter().flatten() {
            self.name("stdout or stderr", Some(digest))?;
        }
        for file in &result.output_files {
            self.name(&file.path, file.digest.as_ref())?;
        }
        for directory in &result.output_directories {
            if directory.tree_digest.is_none() && directory.root_directory_digest.is_none() {
                return Err(malformed(format!("output directory {:?} has no digest", directory.path)));
            }
            if directory.tree_digest.is_some() {
                self.tree(&directory.path, directory.tree_digest.as_ref()).await?;
            }
            if directory.root_directory_digest.is_some() {
                self.root_directory(&directory.path, directory.root_directory_digest.as_ref()).await?;
            }
        }
        Ok(())
    }

    /// A Tree and all files in it. Clients look its directories up by digest, and some break when one
    /// is not there, so each has to be.
    async fn tree(&mut self, path: &str, digest: Option<&reapi::Digest>) -> Result<(), ActionCacheError> {
        let digest = self.name(path, digest)?;
        let Some(tree) = self.read::<raw::Tree>(&digest).await? else { return Ok(()) };
        let children = tree.children.iter().map(|child| Digest::of(self.function, child));
        let held: HashSet<Digest> = children.chain([Digest::empty(self.function)]).collect();
        let root = tree.root.concat().into();
        for data in [&root].into_iter().chain(&tree.children) {
            let directory = Directory::parse(data, self.function)
                .map_err(|error| malformed(format!("Tree {digest}: {error}")))?;
            self.named.extend(directory.files.iter().map(|file| file.digest));
            if let Some(lost) = directory.directories.iter().find(|child| !held.contains(&child.digest)) {
                return Err(malformed(format!("Tree {digest} lacks its directory {:?}", lost.name.as_str())));
            }
        }
        Ok(())
    }

    /// A Directory, all Directories below it and all files in them.
    async fn root_directory(
        &mut self,
        path: &str,
        digest: Option<&reapi::Digest>,
    ) -> Result<(), ActionCacheError> {
        let root = self.name(path, digest)?;
        let mut queue = vec![root];
        let mut seen = HashSet::from([root]);
        while let Some(digest) = queue.pop() {
            let Some(directory) = self.read::<reapi::Directory>(&digest).await? else { continue };
            let directory = Directory::from_wire(directory, self.function)
                .map_err(|error| malformed(format!("Directory {digest}: {error}")))?;
            self.named.extend(directory.files.iter().map(|file| file.digest));
            for child in directory.directories {
                self.named.insert(child.digest);
                if seen.insert(child.digest) {
                    queue.push(child.digest);
                }
            }
        }
        Ok(())
    }

    /// Notes a blob that has to be there.
    fn name(&mut self, what: &str, digest: Option<&reapi::Digest>) -> Result<Digest, ActionCacheError> {
        let digest = self.digest(what, digest)?;
        self.named.insert(digest);
        Ok(digest)
    }

    fn digest(&self, what: &str, digest: Option<&reapi::Digest>) -> Result<Digest, ActionCacheError> {
        Digest::from_field(self.function, digest).map_err(|error| malformed(format!("{what:?}: {error}")))
    }

    /// Reads a message; `None` if it is absent, which is noted.
    async fn read<M: Message + Default>(&mut self, digest: &Digest) -> Result<Option<M>, ActionCacheError> {
        if digest.size() > MAX_MESSAGE {
            return Err(malformed(format!("blob {digest} is too large for a message")));
        }
        match self.cas.get(digest).await {
            Ok(data) => {
                M::decode(data).map(Some).map_err(|error| malformed(format!("blob {digest}: {error}")))
            }
            Err(CasError::NotFound(_)) => {
                self.missing.push(*digest);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests;
