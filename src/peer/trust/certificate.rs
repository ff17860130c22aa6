//! Certificates of a farm: the authority that its key stands for, and what it signs for this machine.
//!
//! Every member can sign, so a certificate proves that its holder knew the key of the farm, and that it
//! has the private key of the machine named in it. It carries nothing else.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SignatureAlgorithm, SigningKey, date_time_ymd,
};
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use zeroize::Zeroizing;

use super::key::FarmKey;
use crate::peer::MachineId;

/// The issuer that all farms write: it says nothing of which it is.
const AUTHORITY_NAME: &str = "farmhand";

/// The time at which certificates are judged, within the centuries that all of them are good for. A
/// member's clock may be off by years (a board without a battery), and the farm is where it may learn
/// better; what ends trust is a new key of the farm, not a date.
pub(super) fn judged_at() -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_000_000_000))
}

/// A machine's own key pair.
pub(super) struct MachineKey {
    pair: Ed25519KeyPair,
    document: Zeroizing<Vec<u8>>,
}

/// A key pair as the certificate writer wants it.
struct Signer<'a>(&'a Ed25519KeyPair);

/// Bytes that are no private key of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no Ed25519 private key in PKCS #8")]
pub(super) struct NoMachineKey;

/// The certificate of a farm, and one that it signed for a machine.
pub(super) struct Issued {
    /// What chains end at.
    pub(super) authority: CertificateDer<'static>,
    /// The machine's own.
    pub(super) leaf: CertificateDer<'static>,
}

// === impl MachineKey ===

impl MachineKey {
    /// A new one.
    ///
    /// # Panics
    /// When the system has no random numbers.
    pub(super) fn generate() -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
            .expect("invariant: the system has random numbers");
        Self::read(Zeroizing::new(document.as_ref().to_vec())).expect("invariant: it was just written")
    }

    /// The one in a file.
    pub(super) fn read(document: Zeroizing<Vec<u8>>) -> Result<Self, NoMachineKey> {
        let pair = Ed25519KeyPair::from_pkcs8(&document).map_err(|_| NoMachineKey)?;
        Ok(Self { pair, document })
    }

    /// As it is written to a file.
    pub(super) fn document(&self) -> &[u8] {
        &self.document
    }

    /// As the TLS library wants it.
    pub(super) fn pkcs8(&self) -> PrivatePkcs8KeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.document.to_vec())
    }

    /// Whose it is.
    pub(super) fn id(&self) -> MachineId {
        id_of(&Signer(&self.pair).subject_public_key_info())
    }
}

impl PublicKeyData for Signer<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl SigningKey for Signer<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.0.sign(message).as_ref().to_vec())
    }
}

/// Signs for `machine` with the key of a farm.
///
/// # Errors
/// When the certificate writer fails, which nobody has seen.
pub(super) fn issue(key: &FarmKey, machine: &MachineKey) -> Result<Issued, rcgen::Error> {
    let seed = key.authority();
    let pair = Ed25519KeyPair::from_seed_unchecked(&*seed).map_err(|_| rcgen::Error::RemoteKeyError)?;
    let signer = Signer(&pair);
    let params = authority_params();
    let authority = params.self_signed(&signer)?;
    let issuer = Issuer::from_params(&params, &signer);
    let leaf = leaf_params(&machine.id()).signed_by(&Signer(&machine.pair), &issuer)?;
    Ok(Issued { authority: authority.der().clone(), leaf: leaf.der().clone() })
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(1975, 1, 1);
    params.not_after = date_time_ymd(4096, 1, 1);
    params
}

fn authority_params() -> CertificateParams {
    let mut params = named(AUTHORITY_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn leaf_params(id: &MachineId) -> CertificateParams {
    let mut params = named(&const_hex::encode(id.bytes()));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params
}

/// Whose certificate it is; `None` if it is none.
pub(super) fn holder(certificate: &CertificateDer<'_>) -> Option<MachineId> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    Some(id_of(&parsed.subject_public_key_info()))
}

fn id_of(public_key_info: &[u8]) -> MachineId {
    let digest = digest(&SHA256, public_key_info);
    MachineId::read(digest.as_ref()).expect("invariant: SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_names_its_holder_and_nothing_else() {
        let (key, machine) = (FarmKey::generate(), MachineKey::generate());
        let issued = issue(&key, &machine).unwrap();
        assert_eq!(holder(&issued.leaf), Some(machine.id()));
        let text = String::from_utf8_lossy(&issued.leaf).into_owned();
        assert!(text.contains(&const_hex::encode(machine.id().bytes())));
        assert!(!text.contains(&key.farm()));
        assert!(!issued.leaf.windows(8).any(|window| window == key.tag().bytes()));
        assert_eq!(holder(&CertificateDer::from(vec![0x30, 0x03, 1, 2, 3])), None);
    }

    #[test]
    fn every_member_signs_as_the_same_authority() {
        let key = FarmKey::generate();
        let [one, two] = [(); 2].map(|()| issue(&key, &MachineKey::generate()).unwrap());
        assert_eq!(one.authority, two.authority);
        assert_ne!(one.leaf, two.leaf);
        let other = issue(&FarmKey::generate(), &MachineKey::generate()).unwrap();
        assert_ne!(one.authority, other.authority);
    }

    #[test]
    fn a_machine_key_is_read_as_it_was_written() {
        let machine = MachineKey::generate();
        let document = machine.document().to_vec();
        let again = MachineKey::read(Zeroizing::new(document.clone())).unwrap();
        assert_eq!(again.id(), machine.id());
        for length in [0, 1, document.len() - 1] {
            assert!(MachineKey::read(Zeroizing::new(document[..length].to_vec())).is_err());
        }
        let mut other = document;
        // The private half does not belong to the public one any more.
        other[20] ^= 1;
        assert!(MachineKey::read(Zeroizing::new(other)).is_err());
    }
}
