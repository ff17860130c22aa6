//! [`Downloads`]: content from where it is into the store of this machine.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::mpsc;
use tokio::task::JoinError;

use super::archive::StopGuard;
use super::error::{FetchError, OriginError};
use super::git::{Demultiplexer, Repository, Revision};
use super::integrity::{Checksum, Integrity};
use super::origin::{Ask, Body, Origins};
use super::qualifiers::Qualifiers;
use super::rules::Rules;
use super::spool::{Bound, Scratch, Spool, Spooled, Stored};
use super::tree::TreeBuilder;
use super::uri::{Place, Url};
use super::{Kind, Wanted, archive, git};
use crate::cas::{CasError, LocalBlobs};
use crate::config::AssetConfig;
use crate::digest::{Digest, DigestFunction};
use crate::path::RootPath;

/// Pieces that have come and are not written yet.
const PIECES: usize = 16;

/// Media types of archives. Which one it is, its bytes say.
const ARCHIVES: [&str; 13] = [
    "application/gzip",
    "application/octet-stream",
    "application/x-bzip",
    "application/x-bzip2",
    "application/x-compressed-tar",
    "application/x-gtar",
    "application/x-gzip",
    "application/x-tar",
    "application/x-xz",
    "application/x-zip-compressed",
    "application/x-zstd",
    "application/zip",
    "application/zstd",
];

/// Downloads, by the rules of the owner of the node.
pub(super) struct Downloads {
    origins: Origins,
    spool: Spool,
    limit: u64,
}

// === impl Downloads ===

impl Downloads {
    /// As `config` says; what is under way lies in `directory`, and becomes blobs in `here`.
    pub(super) fn open(
        config: &AssetConfig,
        directory: PathBuf,
        here: Arc<dyn LocalBlobs>,
    ) -> io::Result<Self> {
        Ok(Self {
            origins: Origins::new(Rules::new(config), config.proxy.clone()),
            spool: Spool::open(directory, here)?,
            limit: config.max_size,
        })
    }

    /// Whether anything is downloaded at all.
    pub(super) fn any(&self) -> bool {
        self.origins.any()
    }

    /// The content that the URI with that index names, and those of the wanted checksums that it has.
    pub(super) async fn get(
        &self,
        wanted: &Wanted,
        index: usize,
    ) -> Result<(Digest, Vec<Checksum>), FetchError> {
        let url = match wanted.uris[index].place() {
            Place::Web(url) => url,
            Place::Nowhere => return Err(OriginError::Unknown.into()),
            Place::Elsewhere => return Err(OriginError::Scheme.into()),
        };
        let ask = Ask { headers: wanted.qualifiers.headers(index), body: None };
        let integrity = wanted.qualifiers.checksum();
        match wanted.kind {
            Kind::Blob => {
                let stored = self.blob(wanted, url, &ask).await?;
                Ok((stored.digest, fitting(&stored, integrity)))
            }
            Kind::Directory => {
                if let Some(revision) = Revision::of(&wanted.qualifiers)? {
                    return Ok((self.commit(wanted, url, ask.headers, &revision).await?, Vec::new()));
                }
                let directory = inside_archive(&wanted.qualifiers)?;
                let stored = self.blob(wanted, url, &ask).await?;
                let root = self.unpack(wanted.function, stored.digest, directory).await?;
                Ok((root, fitting(&stored, integrity)))
            }
        }
    }

    /// The tree of a commit of the repository at `url`.
    async fn commit(
        &self,
        wanted: &Wanted,
        url: &Url,
        headers: HeaderMap,
        revision: &Revision,
    ) -> Result<Digest, FetchError> {
        let directory = inside(&wanted.qualifiers)?;
        let repository = Repository::find(&self.origins, url, headers).await?;
        let commit = repository.commit(revision).await?;
        let mut body = repository.fetch(&commit).await?;
        let (spool, function, limit) = (self.spool.clone(), wanted.function, self.limit);
        let guard = StopGuard::default();
        let stop = guard.stop();
        let (pieces, coming) = mpsc::channel::<Bytes>(PIECES);
        let reading = tokio::task::spawn_blocking(move || -> Result<Digest, FetchError> {
            let mut scratch =
                receive(&spool, coming, limit).map_err(|error| git::of_commit(&commit, error))?;
            let shelf = Bound { spool, function };
            let tree = git::tree(scratch.source()?, &commit, &shelf, limit, &stop)?;
            tree.finish(&directory, |data| shelf.spool.store(function, data))
        });
        forward(&mut body, pieces).await?;
        let root = finished(reading.await);
        drop(guard);
        root
    }

    /// Unpacks an archive that is in the store; the digest of `directory` in it.
    async fn unpack(
        &self,
        function: DigestFunction,
        archive: Digest,
        directory: RootPath,
    ) -> Result<Digest, FetchError> {
        let (spool, limit) = (self.spool.clone(), self.limit);
        let guard = StopGuard::default();
        let stop = guard.stop();
        let unpacked = blocking(move || {
            let mut source = spool.open_blob(&archive)?;
            let shelf = Bound { spool, function };
            let tree = archive::unpack(&mut *source, &shelf, limit, &stop)?;
            tree.finish(&directory, |data| shelf.spool.store(function, data))
        });
        let root = unpacked.await;
        drop(guard);
        root
    }

    /// The bytes at `url`, which have a wanted checksum.
    async fn blob(&self, wanted: &Wanted, url: &Url, ask: &Ask) -> Result<Stored, FetchError> {
        let (_, body) = self.origins.ask(url, ask).await?;
        let integrity = wanted.qualifiers.checksum();
        let spooled = self.spool.begin(wanted.function, integrity, self.limit);
        let spooled = self.pour(body, spooled).await?;
        let wanted = integrity.cloned();
        blocking(move || spooled.finish(|sums| check(wanted.as_ref(), sums))).await
    }

    /// Writes all of `body`. Only a thread that may do so waits for the disk.
    async fn pour(&self, mut body: Body, mut spooled: Spooled) -> Result<Spooled, FetchError> {
        if body.announced() > self.limit {
            return Err(OriginError::TooLarge(self.limit).into());
        }
        let (pieces, mut coming) = mpsc::channel::<Bytes>(PIECES);
        let writing = tokio::task::spawn_blocking(move || {
            while let Some(piece) = coming.blocking_recv() {
                spooled.write(&piece)?;
            }
            Ok(spooled)
        });
        forward(&mut body, pieces).await?;
        finished(writing.await)
    }
}

/// Hands on what comes.
async fn forward(body: &mut Body, pieces: mpsc::Sender<Bytes>) -> Result<(), FetchError> {
    while let Some(piece) = body.next().await? {
        // Who takes them has failed, and says why.
        if pieces.send(piece).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The pack in an answer, `limit` bytes at most.
fn receive(spool: &Spool, mut coming: mpsc::Receiver<Bytes>, limit: u64) -> Result<Scratch, FetchError> {
    let mut scratch = spool.scratch()?;
    let mut demultiplexer = Demultiplexer::default();
    let mut left = limit;
    while let Some(piece) = coming.blocking_recv() {
        left = left.checked_sub(piece.len() as u64).ok_or(OriginError::TooLarge(limit))?;
        demultiplexer.feed(&piece, |data| scratch.write(data))?;
    }
    if demultiplexer.is_over() {
        Ok(scratch)
    } else {
        Err(OriginError::Unusable("it is cut off".to_owned()).into())
    }
}

/// The directory that is wanted of an archive.
fn inside_archive(qualifiers: &Qualifiers) -> Result<RootPath, FetchError> {
    if qualifiers.resource_type().is_some_and(|given| !ARCHIVES.contains(&given)) {
        return Err(qualifiers.bad_resource_type().into());
    }
    match qualifiers.versioned() {
        Some(error) => Err(error.into()),
        None => inside(qualifiers),
    }
}

/// The directory that is wanted of what a name stands for.
fn inside(qualifiers: &Qualifiers) -> Result<RootPath, FetchError> {
    Ok(TreeBuilder::place(qualifiers.directory().unwrap_or_default().as_bytes())?)
}

/// Those of the wanted checksums that the bytes have.
fn fitting(stored: &Stored, integrity: Option<&Integrity>) -> Vec<Checksum> {
    integrity.map(|integrity| integrity.fitting(&stored.sums)).unwrap_or_default()
}

/// Refuses bytes that have none of the wanted checksums.
fn check(integrity: Option<&Integrity>, sums: &[Checksum]) -> Result<(), OriginError> {
    match integrity {
        Some(integrity) if integrity.fitting(sums).is_empty() => {
            let actual: Vec<_> = sums.iter().map(ToString::to_string).collect();
            Err(OriginError::Checksum(actual.join(" ")))
        }
        _ => Ok(()),
    }
}

/// Runs `work` where waiting for the disk is allowed.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    finished(tokio::task::spawn_blocking(work).await)
}

fn finished<T>(ended: Result<Result<T, FetchError>, JoinError>) -> Result<T, FetchError> {
    ended.unwrap_or_else(|panic| Err(CasError::io("download", panic.into()).into()))
}
