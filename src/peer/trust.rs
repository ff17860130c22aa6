//! Trust: who belongs to the farm, and how that is proven.
//!
//! A farm is the machines that hold the same [`FarmKey`]. From it each of them derives the same
//! certificate authority and signs a certificate for itself; peers speak TLS in which both sides show
//! theirs, so a machine without the key gets no byte of an answer. `key` has the secret and what is
//! derived from it, `certificate` and `tls` the proof, `files` how secrets lie on the disk.
//!
//! What lies in the directory of the farm: `farm.key` (the words), `machine.key` (this machine's own
//! private key, made once: its [`MachineId`] for good), and `shared` (the tag of the farm, once another machine has its key).
//! Ports, links and discovery are left to those above.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::MachineId;

mod certificate;
mod files;
pub mod join;
mod key;
pub mod rotation;
mod tls;
mod words;

pub use key::{FarmKey, FarmTag, KeyError, TagError};
pub use tls::SERVER_NAME;

use certificate::MachineKey;
use files::{FileError, Staged};
use tls::Configs;

/// Files in the directory of the farm.
const KEY_FILE: &str = "farm.key";
const MACHINE_FILE: &str = "machine.key";
const SHARED_FILE: &str = "shared";

/// This machine as a member of its farm. Clones are the same machine.
#[derive(Clone)]
pub struct Trust(Arc<Inner>);

struct Inner {
    directory: PathBuf,
    machine: MachineKey,
    me: MachineId,
    /// The file the key is set by, if it is.
    key_file: Option<PathBuf>,
    current: RwLock<Arc<Current>>,
    changes: watch::Sender<FarmTag>,
    /// Held while a key is replaced, over the writing too, so that the last one written is the one in
    /// force. Nobody who only asks takes it.
    replacing: Mutex<()>,
    /// One new key for the whole farm at a time.
    rotating: Semaphore,
    #[cfg(test)]
    _temporary: Option<tempfile::TempDir>,
}

/// What holds while one key does.
struct Current {
    key: FarmKey,
    configs: Configs,
    shared: bool,
}

/// A key that is written down, and not yet in force. Dropped, it never was.
pub(crate) struct StagedKey {
    trust: Trust,
    file: Staged,
    next: Current,
}

/// Why there is no trust, or no new key.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// Others may read or change a secret.
    #[error("others may read {} (mode {mode:03o}), and who has it is a member of the farm", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A secret belongs to somebody else.
    #[error("{} belongs to user {owner}, not to the user of this node", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Id of its owner.
        owner: u32,
    },
    /// A file that should hold a farm key does not.
    #[error("no farm key in {}: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyError,
    },
    /// A file is no small regular one, or no text where one should be.
    #[error("{} is no file with a key in it", path.display())]
    Odd {
        /// The file.
        path: PathBuf,
    },
    /// The private key of this machine is damaged.
    #[error("no private key in {}", path.display())]
    Machine {
        /// The file.
        path: PathBuf,
    },
    /// The key is set by a file, so nothing else may change it.
    #[error("the key of this farm comes from {}", path.display())]
    Fixed {
        /// The file.
        path: PathBuf,
    },
    /// This machine gives its farm a new key, or takes one.
    #[error("the farm of this machine gets another key right now; try again when that is done")]
    Busy,
    /// Who hands a key on has an old one.
    #[error("who hands that key on has an old one")]
    Former,
    /// Certificates cannot be made, or the TLS library does not take them.
    #[error("cannot make a certificate: {0}")]
    Certificate(String),
    /// The operating system failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

/// Who is at the other end of a finished handshake, by the certificates it showed; `None` when it showed
/// none. Those were judged in the handshake: here only the name is read.
pub fn peer_id(certificates: Option<&[CertificateDer<'_>]>) -> Option<MachineId> {
    certificates?.first().and_then(certificate::holder)
}

// === impl Trust ===

impl Trust {
    /// Opens what lies in `directory`, and makes what is missing: a key pair of this machine, and the key
    /// of a farm of one. The key in `key_file` wins over the one in the directory.
    ///
    /// Blocks for the disk.
    ///
    /// # Errors
    /// [`TrustError`], when a secret is damaged, or not a secret.
    pub fn open(directory: &Path, key_file: Option<&Path>) -> Result<Self, TrustError> {
        files::make_directory(directory).map_err(|source| io_error(directory, source))?;
        files::clean(directory).map_err(|source| io_error(directory, source))?;
        let machine = open_machine(&directory.join(MACHINE_FILE))?;
        let key = match key_file {
            Some(path) => read_key(path)?.ok_or_else(|| io_error(path, io::ErrorKind::NotFound.into()))?,
            None => open_key(&directory.join(KEY_FILE))?,
        };
        let shared = is_marked(&directory.join(SHARED_FILE), &key);
        let current = Current::new(key, &machine, shared)?;
        let changes = watch::Sender::new(current.key.tag());
        Ok(Self(Arc::new(Inner {
            directory: directory.to_owned(),
            me: machine.id(),
            machine,
            key_file: key_file.map(Path::to_owned),
            current: RwLock::new(Arc::new(current)),
            changes,
            replacing: Mutex::new(()),
            rotating: Semaphore::new(1),
            #[cfg(test)]
            _temporary: None,
        })))
    }

    /// This machine.
    pub fn me(&self) -> MachineId {
        self.0.me
    }

    /// What the farm is recognised by.
    pub fn tag(&self) -> FarmTag {
        self.current().key.tag()
    }

    /// The name of the farm, for people.
    pub fn farm(&self) -> String {
        self.tag().farm()
    }

    /// The key, for those who hand it on.
    pub fn key(&self) -> FarmKey {
        self.current().key.clone()
    }

    /// How to answer members, under the key of this moment.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current().configs.server)
    }

    /// How to call members, under the key of this moment; by the name [`SERVER_NAME`].
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current().configs.client)
    }

    /// Whether another machine has, or had, the key of this farm, as far as is known here.
    pub fn is_shared(&self) -> bool {
        self.current().shared || self.0.key_file.is_some()
    }

    /// The file that sets the key, if one does: then nothing else changes it.
    pub fn key_file(&self) -> Option<&Path> {
        self.0.key_file.as_deref()
    }

    /// Follows the key. Links that were made under another one are to be closed.
    pub fn changes(&self) -> watch::Receiver<FarmTag> {
        self.0.changes.subscribe()
    }

    /// Remembers that another machine has the key of the farm `tag`, if this one is still in that farm.
    /// Blocks for the disk the first time.
    ///
    /// # Errors
    /// When that cannot be written down; it holds for this run of the node all the same.
    pub fn mark_shared(&self, tag: FarmTag) -> Result<(), TrustError> {
        let _replacing = self.0.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.current();
        if now.shared || now.key.tag() != tag {
            return Ok(());
        }
        self.install(Current::new(now.key.clone(), &self.0.machine, true)?);
        self.write_mark(&now.key)
    }

    /// Puts the machine into the farm of `key`, which another machine has: first on the disk, then in force.
    /// Blocks for the disk.
    ///
    /// # Errors
    /// [`TrustError::Fixed`] when a file sets the key, [`TrustError::Busy`] while this machine gives the farm
    /// one itself, others when it cannot be written: the old one holds then.
    pub fn replace(&self, key: FarmKey) -> Result<(), TrustError> {
        self.replace_for(key, || true)
    }

    /// [Replaces](Self::replace) the key on the word of a member, which counts while `is_member` says so.
    ///
    /// # Errors
    /// As there, and [`TrustError::Former`] when it is no member any more.
    pub(crate) fn replace_for(
        &self,
        key: FarmKey,
        is_member: impl FnOnce() -> bool,
    ) -> Result<(), TrustError> {
        let _permit = self.begin_rotation().ok_or(TrustError::Busy)?;
        self.stage(key)?.commit_if(true, is_member)
    }

    /// The first half of [`replace`](Self::replace): the key lies on the disk, and does not hold.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn stage(&self, key: FarmKey) -> Result<StagedKey, TrustError> {
        if let Some(path) = &self.0.key_file {
            return Err(TrustError::Fixed { path: path.clone() });
        }
        let next = Current::new(key, &self.0.machine, false)?;
        let path = self.0.directory.join(KEY_FILE);
        let file = Staged::write(&path, next.key.file().as_bytes());
        let file = file.map_err(|source| io_error(&path, source))?;
        Ok(StagedKey { trust: self.clone(), file, next })
    }

    /// To be held while the whole farm gets a new key; `None` while another one holds it.
    fn begin_rotation(&self) -> Option<SemaphorePermit<'_>> {
        self.0.rotating.try_acquire().ok()
    }

    fn write_mark(&self, key: &FarmKey) -> Result<(), TrustError> {
        let path = self.0.directory.join(SHARED_FILE);
        files::write(&path, format!("{}\n", key.tag()).as_bytes()).map_err(|source| io_error(&path, source))
    }

    fn install(&self, next: Current) {
        let tag = next.key.tag();
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
        self.0.changes.send_if_modified(|now| std::mem::replace(now, tag) != tag);
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

// === impl StagedKey ===

impl StagedKey {
    /// Puts the key in force; `shared` says whether another machine has it. Blocks for the disk.
    ///
    /// # Errors
    /// When the old one cannot be replaced on the disk; it holds then.
    pub(crate) fn commit(self, shared: bool) -> Result<(), TrustError> {
        self.commit_if(shared, || true)
    }

    /// The same, if `may` says so once no other key can come in between.
    fn commit_if(self, shared: bool, may: impl FnOnce() -> bool) -> Result<(), TrustError> {
        let Self { trust, file, mut next } = self;
        next.shared = shared;
        let _replacing = trust.0.replacing.lock().unwrap_or_else(PoisonError::into_inner);
        if !may() {
            return Err(TrustError::Former);
        }
        file.commit().map_err(|source| io_error(&trust.0.directory.join(KEY_FILE), source))?;
        if shared && let Err(error) = trust.write_mark(&next.key) {
            tracing::error!(%error, "cannot write down that the farm has other members");
        }
        trust.install(next);
        Ok(())
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trust({} of {})", self.me(), self.tag())
    }
}

// === impl Current ===

impl Current {
    fn new(key: FarmKey, machine: &MachineKey, shared: bool) -> Result<Self, TrustError> {
        let issued = certificate::issue(&key, machine).map_err(|error| cannot_make(&error))?;
        let configs = Configs::new(issued, machine).map_err(|error| cannot_make(&error))?;
        Ok(Self { key, configs, shared })
    }
}

fn cannot_make(error: &dyn std::error::Error) -> TrustError {
    TrustError::Certificate(error.to_string())
}

fn open_machine(path: &Path) -> Result<MachineKey, TrustError> {
    match files::read(path) {
        Ok(document) => MachineKey::read(document).map_err(|_| TrustError::Machine { path: path.to_owned() }),
        Err(error) if is_missing(&error) => {
            let machine = MachineKey::generate();
            files::write(path, machine.document()).map_err(|source| io_error(path, source))?;
            Ok(machine)
        }
        Err(error) => Err(file_error(path, error)),
    }
}

fn open_key(path: &Path) -> Result<FarmKey, TrustError> {
    if let Some(key) = read_key(path)? {
        return Ok(key);
    }
    let key = FarmKey::generate();
    files::write(path, key.file().as_bytes()).map_err(|source| io_error(path, source))?;
    Ok(key)
}

/// The key in a file; `None` when there is no such file.
fn read_key(path: &Path) -> Result<Option<FarmKey>, TrustError> {
    let content = match files::read(path) {
        Ok(content) => content,
        Err(error) if is_missing(&error) => return Ok(None),
        Err(error) => return Err(file_error(path, error)),
    };
    let text = std::str::from_utf8(&content).map_err(|_| TrustError::Odd { path: path.to_owned() })?;
    text.parse().map(Some).map_err(|source| TrustError::Key { path: path.to_owned(), source })
}

/// Whether the mark at `path` is for the farm of `key`. One that cannot be read is none.
fn is_marked(path: &Path, key: &FarmKey) -> bool {
    let Ok(content) = files::read(path) else { return false };
    std::str::from_utf8(&content).ok().and_then(|text| text.trim().parse().ok()) == Some(key.tag())
}

fn is_missing(error: &FileError) -> bool {
    matches!(error, FileError::Io(source) if source.kind() == io::ErrorKind::NotFound)
}

fn file_error(path: &Path, error: FileError) -> TrustError {
    let path = path.to_owned();
    match error {
        FileError::Exposed(mode) => TrustError::Exposed { path, mode },
        FileError::Foreign(owner) => TrustError::Foreign { path, owner },
        FileError::Odd => TrustError::Odd { path },
        FileError::Io(source) => TrustError::Io { path, source },
    }
}

fn io_error(path: &Path, source: io::Error) -> TrustError {
    TrustError::Io { path: path.to_owned(), source }
}

/// Trust for tests of those above.
#[cfg(test)]
pub(crate) mod testing {
    use std::sync::Arc;

    use super::{FarmKey, KEY_FILE, Trust, files};

    /// A new machine in the farm of `key`, with a directory that goes when it does. Nobody else is known
    /// to be in that farm.
    pub(crate) fn trust(key: &FarmKey) -> Trust {
        let directory = tempfile::tempdir().unwrap();
        files::write(&directory.path().join(KEY_FILE), key.file().as_bytes()).unwrap();
        let trust = Trust::open(directory.path(), None).unwrap();
        let mut inner = Arc::into_inner(trust.0).unwrap();
        inner._temporary = Some(directory);
        Trust(Arc::new(inner))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    fn key_in(path: &Path, key: &FarmKey) {
        files::write(path, key.file().as_bytes()).unwrap();
    }

    #[test]
    fn a_machine_is_the_same_one_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let farm = directory.path().join("farm");
        let first = Trust::open(&farm, None).unwrap();
        let again = Trust::open(&farm, None).unwrap();
        assert_eq!((first.me(), first.tag(), first.key()), (again.me(), again.tag(), again.key()));
        assert!(!again.is_shared());
        assert_eq!(fs::metadata(&farm).unwrap().mode() & 0o777, 0o700);
        for name in [KEY_FILE, MACHINE_FILE] {
            assert_eq!(fs::metadata(farm.join(name)).unwrap().mode() & 0o777, 0o600, "{name}");
        }
        let other = Trust::open(&directory.path().join("other"), None).unwrap();
        assert!(other.me() != first.me() && other.tag() != first.tag());
    }

    #[test]
    fn a_new_key_is_told_holds_at_once_and_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let trust = Trust::open(directory.path(), None).unwrap();
        let (me, mut changes) = (trust.me(), trust.changes());
        let key = FarmKey::generate();
        let before = trust.server_config();
        trust.replace(key.clone()).unwrap();
        assert!(changes.has_changed().unwrap());
        assert_eq!(*changes.borrow_and_update(), key.tag());
        assert!(!Arc::ptr_eq(&before, &trust.server_config()));
        // The same key again is no change.
        trust.replace(key.clone()).unwrap();
        assert!(!changes.has_changed().unwrap());
        let again = Trust::open(directory.path(), None).unwrap();
        assert_eq!((again.me(), again.key(), again.is_shared()), (me, key, true));
    }

    #[test]
    fn a_farm_is_shared_once_another_has_its_key_and_a_new_farm_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let trust = Trust::open(directory.path(), None).unwrap();
        let changes = trust.changes();
        trust.mark_shared(trust.tag()).unwrap();
        trust.mark_shared(trust.tag()).unwrap();
        assert!(trust.is_shared() && !changes.has_changed().unwrap());
        assert!(Trust::open(directory.path(), None).unwrap().is_shared());
        fs::remove_file(directory.path().join(KEY_FILE)).unwrap();
        let anew = Trust::open(directory.path(), None).unwrap();
        assert!(!anew.is_shared());
        anew.mark_shared(trust.tag()).unwrap();
        assert!(!anew.is_shared(), "that is another farm");
    }

    #[test]
    fn a_key_is_taken_from_members_and_while_none_is_handed_out() {
        let trust = testing::trust(&FarmKey::generate());
        let (old, key) = (trust.key(), FarmKey::generate());
        assert!(matches!(trust.replace_for(key.clone(), || false), Err(TrustError::Former)));
        let permit = trust.begin_rotation();
        assert!(matches!(trust.replace_for(key.clone(), || true), Err(TrustError::Busy)));
        assert!(matches!(trust.replace(key.clone()), Err(TrustError::Busy)));
        drop(permit);
        assert_eq!(trust.key(), old);
        trust.replace_for(key.clone(), || true).unwrap();
        assert!(trust.key() == key && trust.is_shared());
    }

    #[test]
    fn a_key_file_wins_and_is_never_changed() {
        let directory = tempfile::tempdir().unwrap();
        let stored = Trust::open(&directory.path().join("farm"), None).unwrap();
        let (path, key) = (directory.path().join("set.key"), FarmKey::generate());
        key_in(&path, &key);
        let trust = Trust::open(&directory.path().join("farm"), Some(&path)).unwrap();
        assert_eq!((trust.key(), trust.me()), (key.clone(), stored.me()));
        let refused = trust.replace(FarmKey::generate());
        assert!(matches!(refused, Err(TrustError::Fixed { path: found }) if found == path));
        assert_eq!(trust.key(), key);
        // Without it the farm is the old one.
        assert_eq!(Trust::open(&directory.path().join("farm"), None).unwrap().key(), stored.key());
    }

    #[test]
    fn a_bad_key_file_is_refused_with_what_is_wrong_and_no_other_is_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("set.key");
        let open = || Trust::open(&directory.path().join("farm"), Some(&path)).unwrap_err();
        assert!(matches!(open(), TrustError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound));
        assert!(!path.exists());
        files::write(&path, b"twelve words").unwrap();
        assert!(matches!(open(), TrustError::Key { source: KeyError::Count(2), .. }));
        files::write(&path, &[0xff, 0xfe]).unwrap();
        assert!(matches!(open(), TrustError::Odd { .. }));
        key_in(&path, &FarmKey::generate());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(open(), TrustError::Exposed { mode: 0o644, .. }));
    }

    #[test]
    fn damaged_secrets_are_not_replaced_silently() {
        let directory = tempfile::tempdir().unwrap();
        Trust::open(directory.path(), None).unwrap();
        let machine = directory.path().join(MACHINE_FILE);
        let good = fs::read(&machine).unwrap();
        files::write(&machine, b"").unwrap();
        assert!(matches!(Trust::open(directory.path(), None), Err(TrustError::Machine { .. })));
        files::write(&machine, &good).unwrap();
        files::write(&directory.path().join(KEY_FILE), b"").unwrap();
        assert!(matches!(
            Trust::open(directory.path(), None),
            Err(TrustError::Key { source: KeyError::Empty, .. })
        ));
    }

    #[test]
    fn a_key_that_cannot_be_written_does_not_hold() {
        let directory = tempfile::tempdir().unwrap();
        let trust = Trust::open(&directory.path().join("farm"), None).unwrap();
        let (old, changes) = (trust.key(), trust.changes());
        fs::remove_dir_all(directory.path().join("farm")).unwrap();
        assert!(matches!(trust.replace(FarmKey::generate()), Err(TrustError::Io { .. })));
        assert_eq!(trust.key(), old);
        assert!(!changes.has_changed().unwrap());
    }

    #[test]
    fn only_a_certificate_names_somebody() {
        assert_eq!(peer_id(None), None);
        assert_eq!(peer_id(Some(&[])), None);
        assert_eq!(peer_id(Some(&[CertificateDer::from(vec![1, 2, 3])])), None);
    }
}
