//! Who is one of us: the farm key, and the certificates that follow from it.
//!
//! The smallest thing with the interface that links need: a certificate authority that follows from the
//! farm key, and a certificate of each machine under it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ED25519};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::MachineId;

/// The name all certificates of machines have.
pub const SERVER_NAME: &str = "farmhand";

/// What makes machines members of one farm.
#[derive(Clone, PartialEq, Eq)]
pub struct FarmKey([u8; 16]);

/// What anybody may know of a farm key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FarmTag([u8; 8]);

/// Why there is no trust.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// It cannot be made.
    #[error("{0}")]
    Made(String),
}

/// Decides who is one of us. Clones are the same.
#[derive(Clone)]
pub struct Trust(Arc<Inner>);

struct Inner {
    own: Vec<u8>,
    me: MachineId,
    now: Mutex<Now>,
    changes: watch::Sender<FarmTag>,
}

struct Now {
    key: FarmKey,
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

// === impl FarmKey ===

impl FarmKey {
    /// The key of these bytes.
    pub fn new(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The key in a message; `None` if it is none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// What anybody may know of it.
    pub fn tag(&self) -> FarmTag {
        let hash = Sha256::digest([&b"tag"[..], &self.0].concat());
        FarmTag(hash[..8].try_into().expect("invariant: a hash is longer"))
    }

    fn authority(&self) -> Result<(KeyPair, CertificateParams), rcgen::Error> {
        let seed = Sha256::digest([&b"authority"[..], &self.0].concat());
        let params = {
            let mut params = CertificateParams::new(Vec::new())?;
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params
        };
        Ok((key_pair(&seed)?, params))
    }
}

impl fmt::Debug for FarmKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FarmKey(…)")
    }
}

fn key_pair(seed: &[u8]) -> Result<KeyPair, rcgen::Error> {
    let mut der = const_hex::decode("302e020100300506032b657004220420").unwrap_or_default();
    der.extend_from_slice(seed);
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(der), &PKCS_ED25519)
}

// === impl FarmTag ===

impl fmt::Display for FarmTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&const_hex::encode(self.0))
    }
}

impl FromStr for FarmTag {
    type Err = const_hex::FromHexError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const_hex::decode_to_array(text).map(Self)
    }
}

// === impl Trust ===

impl Trust {
    /// Trust as `directory` has it; what is missing is made.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn open(directory: &Path, key_file: Option<&Path>) -> Result<Self, TrustError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| TrustError::Io { path, source }
        };
        std::fs::create_dir_all(directory).map_err(io(directory))?;
        let own_path = directory.join("machine.key");
        let own = match std::fs::read(&own_path) {
            Ok(own) => own,
            Err(_) => {
                let own = [uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat();
                std::fs::write(&own_path, &own).map_err(io(&own_path))?;
                own
            }
        };
        let stored = directory.join("farm.key");
        let key = match key_file.map(std::fs::read) {
            Some(text) => text.map_err(io(key_file.unwrap_or(&stored)))?,
            None => match std::fs::read(&stored) {
                Ok(text) => text,
                Err(_) => {
                    let key = uuid::Uuid::new_v4().into_bytes().to_vec();
                    std::fs::write(&stored, &key).map_err(io(&stored))?;
                    key
                }
            },
        };
        let key = Sha256::digest(key);
        Self::new(FarmKey(key[..16].try_into().expect("invariant: a hash is longer")), own)
    }

    /// Trust of a machine whose own key follows from `own`.
    ///
    /// # Errors
    /// [`TrustError::Made`].
    pub fn new(key: FarmKey, own: Vec<u8>) -> Result<Self, TrustError> {
        let (me, now) = make(key, &own).map_err(TrustError::Made)?;
        let changes = watch::Sender::new(now.key.tag());
        Ok(Self(Arc::new(Inner { own, me, now: Mutex::new(now), changes })))
    }

    /// This machine.
    pub fn me(&self) -> MachineId {
        self.0.me
    }

    /// The farm, as it is announced.
    pub fn tag(&self) -> FarmTag {
        self.with(|now| now.key.tag())
    }

    /// The farm, for people.
    pub fn farm(&self) -> String {
        self.tag().to_string()
    }

    /// For those who dial this machine.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        self.with(|now| Arc::clone(&now.server))
    }

    /// To dial others.
    pub fn client_config(&self) -> Arc<ClientConfig> {
        self.with(|now| Arc::clone(&now.client))
    }

    /// The key.
    pub fn key(&self) -> FarmKey {
        self.with(|now| now.key.clone())
    }

    /// The farm has another key from now on.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn replace(&self, key: FarmKey) -> Result<(), TrustError> {
        let (_, now) = make(key, &self.0.own).map_err(TrustError::Made)?;
        let tag = now.key.tag();
        *self.0.now.lock().unwrap_or_else(PoisonError::into_inner) = now;
        self.0.changes.send_replace(tag);
        Ok(())
    }

    /// Tells when the key is another.
    pub fn changes(&self) -> watch::Receiver<FarmTag> {
        self.0.changes.subscribe()
    }

    fn with<T>(&self, look: impl FnOnce(&Now) -> T) -> T {
        look(&self.0.now.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Whom these certificates name, which were verified.
pub fn peer_id(certificates: Option<&[CertificateDer<'_>]>) -> Option<MachineId> {
    let parsed = ParsedCertificate::try_from(certificates?.first()?).ok()?;
    Some(MachineId::new(Sha256::digest(parsed.subject_public_key_info()).into()))
}

fn make(key: FarmKey, own: &[u8]) -> Result<(MachineId, Now), String> {
    let made = || -> Result<_, Box<dyn std::error::Error>> {
        let (authority, params) = key.authority()?;
        let root = params.self_signed(&authority)?;
        let pair = key_pair(&Sha256::digest(own))?;
        let leaf = CertificateParams::new(vec![SERVER_NAME.to_owned()])?
            .signed_by(&pair, &Issuer::new(params, authority))?;
        let mut roots = RootCertStore::empty();
        roots.add(root.der().clone())?;
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = vec![leaf.der().clone()];
        let me = peer_id(Some(&chain)).ok_or("the certificate has no key")?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier.build()?)
            .with_single_cert(chain.clone(), private.clone_key())?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, private)?;
        client.alpn_protocols = vec![b"h2".to_vec()];
        Ok((me, server, client))
    };
    let (me, server, client) = made().map_err(|error| error.to_string())?;
    Ok((me, Now { key, server: Arc::new(server), client: Arc::new(client) }))
}
