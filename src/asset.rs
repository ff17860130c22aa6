//! Assets: content by name, for build tools that would otherwise download it themselves (Remote Asset API).
//!
//! ```text
//! fetch ─► associations ── a name that is known ─────────────────────────► digest
//!             │ no
//!             └─► flights ─► origin ─► spool ─► archive, git ─► tree ────► digest
//! push  ─► associations
//! ```
//!
//! [`Assets`] ties it together. It promises that what it answers with is in the store whole, and verified where
//! there was a checksum; that equal downloads are made once, and go on when nobody waits for them; and that
//! nothing is asked of a server that the [`rules`] do not allow. It leaves to the action cache below how
//! [`association`]s are kept and copied, and to `rpc` what requests look like.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sha2::Digest as _;
use tokio::sync::Semaphore;

use crate::action_cache::ActionCache;
use crate::cas::{ByteRange, CasError, ContentAddressableStorage, LocalBlobs};
use crate::config::AssetConfig;
use crate::digest::{Digest, DigestFunction};
use crate::instance::InstanceName;
use crate::tasks::Tasks;
use association::{Association, Associations, Name};
use download::Downloads;
use error::FetchError;
use flights::{Flight, Flights};
use integrity::{Checker, Checksum, Integrity};
use qualifiers::Qualifiers;
use uri::{AssetUri, Place};

pub mod archive;
pub mod association;
mod download;
pub mod error;
mod flights;
pub mod git;
pub mod integrity;
mod origin;
pub mod qualifiers;
pub mod rules;
mod spool;
pub mod tree;
pub mod uri;

pub use association::Kind;
pub use error::{AssetError, MOST_URIS, OriginError};

/// Downloads at once; more wait.
const AT_ONCE: usize = 16;

/// Content by name. Clones are the same.
#[derive(Clone)]
pub struct Assets(Arc<Inner>);

struct Inner {
    associations: Associations,
    cas: Arc<dyn ContentAddressableStorage>,
    downloads: Downloads,
    flights: Arc<Flights<Outcome>>,
    turns: Semaphore,
    timeout: Duration,
    push: bool,
    tasks: Tasks,
}

/// What assets are kept in.
pub struct AssetStores {
    /// Associations; complete ones only are to be seen.
    pub results: Arc<dyn ActionCache>,
    /// Blobs wherever they are.
    pub cas: Arc<dyn ContentAddressableStorage>,
    /// Blobs of this machine, for what is downloaded.
    pub here: Arc<dyn LocalBlobs>,
}

/// What a client wants.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Associations never leak between instances.
    pub instance: InstanceName,
    /// Of the digest it wants.
    pub function: DigestFunction,
    /// A blob or a directory.
    pub kind: Kind,
    /// Names of the same content; one at least, [`MOST_URIS`] at most.
    pub uris: Vec<AssetUri>,
    /// What else is said of it.
    pub qualifiers: Qualifiers,
    /// What became known before that is not wanted.
    pub oldest: Option<SystemTime>,
    /// How long a download may take.
    pub timeout: Option<Duration>,
}

/// What a client names.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// The instance it is for.
    pub instance: InstanceName,
    /// A blob or a directory.
    pub kind: Kind,
    /// Names it gets; one at least.
    pub uris: Vec<AssetUri>,
    /// What else is said of it.
    pub qualifiers: Qualifiers,
    /// The content, which is in the store.
    pub content: Digest,
    /// When the names end.
    pub until: Option<SystemTime>,
    /// Blobs that have to live as long.
    pub blobs: Vec<Digest>,
    /// Directories that have to live as long, with all below.
    pub directories: Vec<Digest>,
}

/// Content that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Of the names in the request, the one it was found by.
    pub uri: AssetUri,
    /// The blob, or the root directory.
    pub content: Digest,
    /// When the name ends.
    pub until: Option<SystemTime>,
}

/// Content that is not to be had.
#[derive(Clone, Debug)]
pub struct NotFound {
    /// Of the names in the request, the one that this is said of.
    pub uri: AssetUri,
    /// Why not.
    pub error: OriginError,
}

/// What a request comes to, where nothing is wrong with it and with this node.
pub type Answer = Result<Found, NotFound>;

/// The same for all who wait for one download.
type Outcome = Result<Answer, Arc<AssetError>>;

// === impl Assets ===

impl Assets {
    /// As `config` says, in `stores`; what is under way lies in `directory`, which is emptied.
    ///
    /// # Errors
    /// When `directory` cannot be used.
    pub fn open(
        config: &AssetConfig,
        directory: PathBuf,
        stores: AssetStores,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let AssetStores { results, cas, here } = stores;
        Ok(Self(Arc::new(Inner {
            associations: Associations::new(results),
            downloads: Downloads::open(config, directory, here)?,
            cas,
            flights: Arc::default(),
            turns: Semaphore::new(AT_ONCE),
            timeout: config.timeout,
            push: config.push,
            tasks: tasks.clone(),
        })))
    }

    /// Gives content its names, in place of what they stood for.
    ///
    /// # Errors
    /// [`AssetError`], when pushing is switched off, a checksum is wrong, or something is not in the store.
    pub async fn push(&self, pushed: Pushed) -> Result<(), AssetError> {
        let inner = &self.0;
        if !inner.push {
            return Err(AssetError::PushOff);
        }
        let Pushed { instance, kind, uris, qualifiers, content, until, blobs, directories } = pushed;
        check_count(&uris)?;
        let checksums = inner.pushed_checksums(kind, &qualifiers, &content).await?;
        let association = Association { content, since: SystemTime::now(), until, blobs, directories };
        for uri in &uris {
            for checksum in each_or_none(&checksums) {
                let name = Name {
                    instance: &instance,
                    function: content.function(),
                    kind,
                    uri,
                    qualifiers: &qualifiers,
                    checksum,
                };
                inner.associations.put(name, &association).await?;
            }
            tracing::info!(%uri, digest = %content, "a client named an asset");
        }
        Ok(())
    }

    /// Finds content, and downloads it where it is not known. Nothing but `wanted.timeout` and the caller end
    /// the waiting; the download itself goes on.
    ///
    /// # Errors
    /// [`AssetError`], when the request cannot be served or this node fails.
    pub async fn fetch(&self, wanted: Wanted) -> Outcome {
        check_count(&wanted.uris)?;
        if let Some(found) = self.0.known(&wanted).await? {
            return Ok(Ok(found));
        }
        if let Some(answer) = self.0.without_download(&wanted)? {
            return Ok(Err(answer));
        }
        let (landing, flight) =
            self.0.flights.board(wanted.flight_key(), SystemTime::now(), wanted.oldest)?;
        let limit = wanted.timeout.map_or(self.0.timeout, |timeout| timeout.min(self.0.timeout));
        let late = NotFound { uri: wanted.uris[0].clone(), error: OriginError::Slow("the download") };
        if let Some(flight) = flight {
            let (inner, stop) = (Arc::clone(&self.0), self.0.tasks.token().clone());
            self.0.tasks.spawn("download", async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = inner.fly(wanted, flight) => {}
                }
            });
        }
        match tokio::time::timeout(limit, landing.landed()).await {
            Ok(outcome) => outcome.unwrap_or(Err(Arc::new(AssetError::Ending))),
            Err(_) => Ok(Err(late)),
        }
    }
}

/// Each of `checksums`, or none once.
fn each_or_none(checksums: &[Checksum]) -> impl Iterator<Item = Option<&Checksum>> {
    let none = checksums.is_empty().then_some(None);
    checksums.iter().map(Some).chain(none)
}

fn check_count(uris: &[AssetUri]) -> Result<(), AssetError> {
    match uris.len() {
        0 => Err(AssetError::NoUri),
        1..=MOST_URIS => Ok(()),
        more => Err(AssetError::TooManyUris(more)),
    }
}

// === impl Wanted ===

impl Wanted {
    fn name<'a>(&'a self, uri: &'a AssetUri, checksum: Option<&'a Checksum>) -> Name<'a> {
        let Self { instance, function, kind, qualifiers, .. } = self;
        Name { instance, function: *function, kind: *kind, uri, qualifiers, checksum }
    }

    /// Tells downloads apart: by all that a request says, secrets too. For memory only.
    fn flight_key(&self) -> flights::FlightKey {
        let mut hash = sha2::Sha256::new();
        let mut part = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        part(self.instance.as_str().as_bytes());
        part(&[self.function.tag(), u8::from(self.kind == Kind::Blob)]);
        part(self.qualifiers.checksum().map(ToString::to_string).unwrap_or_default().as_bytes());
        part(&self.qualifiers.secrets());
        part(&(self.uris.len() as u64).to_le_bytes());
        for uri in &self.uris {
            part(uri.as_str().as_bytes());
        }
        for (name, value) in self.qualifiers.keyed() {
            part(name.as_bytes());
            part(value.as_bytes());
        }
        hash.finalize().into()
    }
}

// === impl Inner ===

impl Inner {
    /// Content that one of the names stands for.
    async fn known(&self, wanted: &Wanted) -> Result<Option<Found>, AssetError> {
        let now = SystemTime::now();
        let checksums = wanted.qualifiers.checksum().map(Integrity::checksums).unwrap_or_default();
        for uri in &wanted.uris {
            let found = |association: &Association| Found {
                uri: uri.clone(),
                content: association.content,
                until: association.until,
            };
            for checksum in each_or_none(checksums) {
                let association = self.associations.get(wanted.name(uri, checksum)).await?;
                if let Some(association) = association.filter(|it| it.counts(now, wanted.oldest)) {
                    return Ok(Some(found(&association)));
                }
            }
            if let Some(integrity) = wanted.qualifiers.checksum().filter(|_| wanted.kind == Kind::Blob) {
                let association = self.associations.get(wanted.name(uri, None)).await?;
                let association = association.filter(|it| it.counts(now, wanted.oldest));
                if let Some(association) = association
                    && self.vouch(wanted, uri, &association, integrity).await?
                {
                    return Ok(Some(found(&association)));
                }
            }
        }
        Ok(None)
    }

    /// Whether what a name stands for without a checksum has the one that is wanted; that is remembered.
    async fn vouch(
        &self,
        wanted: &Wanted,
        uri: &AssetUri,
        association: &Association,
        integrity: &Integrity,
    ) -> Result<bool, AssetError> {
        let sums = match self.sums(&association.content, integrity).await {
            Err(AssetError::Cas(CasError::NotFound(_))) => return Ok(false),
            sums => sums?,
        };
        let fitting = integrity.fitting(&sums);
        for checksum in &fitting {
            self.associations.put(wanted.name(uri, Some(checksum)), association).await?;
        }
        Ok(!fitting.is_empty())
    }

    /// The checksums of a blob by the algorithms of `integrity`.
    async fn sums(&self, blob: &Digest, integrity: &Integrity) -> Result<Vec<Checksum>, AssetError> {
        let mut checker = Checker::new(Some(integrity));
        let mut pieces = self.cas.read(blob, ByteRange::default()).await?;
        while let Some(piece) = futures_util::StreamExt::next(&mut pieces).await {
            checker.update(&piece?);
        }
        Ok(checker.finish())
    }

    /// The checksums that pushed content is found by. That of a directory is of what it was made from, which is
    /// for who pushes to know.
    async fn pushed_checksums(
        &self,
        kind: Kind,
        qualifiers: &Qualifiers,
        content: &Digest,
    ) -> Result<Vec<Checksum>, AssetError> {
        let Some(integrity) = qualifiers.checksum() else { return Ok(Vec::new()) };
        if kind == Kind::Directory {
            return Ok(integrity.checksums().to_vec());
        }
        let fitting = integrity.fitting(&self.sums(content, integrity).await?);
        if fitting.is_empty() { Err(AssetError::Checksum) } else { Ok(fitting) }
    }

    /// Why nothing is downloaded for a request, if that is so.
    fn without_download(&self, wanted: &Wanted) -> Result<Option<NotFound>, AssetError> {
        let is_place = |uri: &&AssetUri| matches!(uri.place(), Place::Web(_));
        let unsupported = match wanted.kind {
            Kind::Blob => wanted.qualifiers.unsupported_for_blob(),
            Kind::Directory => wanted.qualifiers.unsupported_for_directory(),
        };
        // Who cannot push cannot have meant a key.
        if let Some(error) = unsupported
            && (!self.push || wanted.uris.iter().any(|uri| is_place(&uri)))
        {
            return Err(error.into());
        }
        if self.downloads.any() && wanted.uris.iter().any(|uri| is_place(&uri)) {
            return Ok(None);
        }
        let uri = wanted.uris.iter().find(|uri| *uri.place() == Place::Elsewhere);
        let error = match uri {
            Some(_) => OriginError::Scheme,
            None => OriginError::Unknown,
        };
        Ok(Some(NotFound { uri: uri.unwrap_or(&wanted.uris[0]).clone(), error }))
    }

    /// Makes a download and tells what it came to.
    async fn fly(&self, wanted: Wanted, flight: Flight<Outcome>) {
        let Ok(_turn) = self.turns.acquire().await else { return };
        let late = NotFound { uri: wanted.uris[0].clone(), error: OriginError::Slow("the download") };
        let outcome = match tokio::time::timeout(self.timeout, self.download(&wanted)).await {
            Ok(outcome) => outcome.map_err(Arc::new),
            Err(_) => Ok(Err(late)),
        };
        match &outcome {
            Ok(Ok(found)) => tracing::info!(uri = %found.uri, digest = %found.content, "downloaded an asset"),
            Ok(Err(failed)) => {
                tracing::info!(uri = %failed.uri, error = %failed.error, "an asset is not to be had")
            }
            Err(error) => tracing::warn!(uri = %wanted.uris[0], %error, "cannot download an asset"),
        }
        flight.land(outcome);
    }

    /// Downloads from the first place that has it.
    async fn download(&self, wanted: &Wanted) -> Result<Answer, AssetError> {
        let mut worst: Option<NotFound> = None;
        for (index, uri) in wanted.uris.iter().enumerate() {
            let since = SystemTime::now();
            let error = match self.downloads.get(wanted, index).await {
                Ok((content, fitting)) => {
                    let association = Association::of(content, since);
                    for checksum in each_or_none(&fitting) {
                        self.associations.put(wanted.name(uri, checksum), &association).await?;
                    }
                    return Ok(Ok(Found { uri: uri.clone(), content, until: None }));
                }
                Err(FetchError::Own(error)) => return Err(error),
                Err(FetchError::Origin(error)) => error,
            };
            if worst.as_ref().is_none_or(|worst| worst.error.weight() < error.weight()) {
                worst = Some(NotFound { uri: uri.clone(), error });
            }
        }
        let unknown = || NotFound { uri: wanted.uris[0].clone(), error: OriginError::Unknown };
        Ok(Err(worst.unwrap_or_else(unknown)))
    }
}
