//! What a stranger learns of a machine that it shakes hands with: its id, and nothing else.

use std::sync::{Arc, Mutex};

use farmhand::peer::trust::FarmKey;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::farm_key::key_of;
use crate::support::Node;

/// Believes anybody, remembers what it was told, and shows what it has.
#[derive(Debug, Default)]
struct Curious {
    certificates: Mutex<Vec<Vec<u8>>>,
    /// Names of authorities whose certificates the server asks for.
    hints: Mutex<Vec<Vec<u8>>>,
    shows: Option<Arc<CertifiedKey>>,
}

impl ServerCertVerifier for Curious {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let all = [end_entity].into_iter().chain(intermediates);
        self.certificates.lock().unwrap().extend(all.map(|certificate| certificate.to_vec()));
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        panic!("TLS 1.3 is spoken");
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

impl ResolvesClientCert for Curious {
    fn resolve(&self, hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.hints.lock().unwrap().extend(hints.iter().map(|hint| hint.to_vec()));
        self.shows.clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// A certificate that anybody can make, in the name of the authority of farms.
fn self_made() -> Arc<CertifiedKey> {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, "farmhand");
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let certificate = params.self_signed(&pair).unwrap().der().clone();
    let key = PrivateKeyDer::try_from(pair.serialize_der()).unwrap();
    let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
    Arc::new(CertifiedKey::new(vec![certificate], key))
}

/// Shakes hands with `node`, says a few words of HTTP/2, and gives what came back after the handshake.
async fn visit(node: &Node, shows: Option<Arc<CertifiedKey>>) -> (Arc<Curious>, Vec<u8>) {
    let curious = Arc::new(Curious { shows, ..Default::default() });
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&curious) as Arc<dyn ServerCertVerifier>)
        .with_client_cert_resolver(Arc::clone(&curious) as Arc<dyn ResolvesClientCert>);
    config.alpn_protocols = vec![b"h2".to_vec()];
    let socket = tokio::net::TcpStream::connect(node.peer_address).await.unwrap();
    let name = ServerName::try_from("farmhand").unwrap();
    let mut heard = Vec::new();
    if let Ok(mut socket) = TlsConnector::from(Arc::new(config)).connect(name, socket).await {
        let _ = socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
        assert!(socket.read_to_end(&mut heard).await.is_err(), "an alert");
    }
    (curious, heard)
}

/// Texts in a certificate (UTF8String and PrintableString of ASN.1), without the shortest.
fn texts(certificate: &[u8]) -> Vec<String> {
    let starts = (0..certificate.len()).filter(|at| [0x0c, 0x13].contains(&certificate[*at]));
    let text = |at: usize| {
        let length = usize::from(*certificate.get(at + 1)?);
        let bytes = certificate.get(at + 2..at + 2 + length)?;
        (length > 4 && bytes.iter().all(u8::is_ascii_graphic))
            .then(|| String::from_utf8_lossy(bytes).into_owned())
    };
    starts.filter_map(text).collect()
}

#[tokio::test]
async fn a_handshake_tells_the_id_and_nothing_else() {
    let attic = Node::builder().arguments(&["--name", "a-name-of-its-own"]).start();
    let key = key_of(&attic);
    for shows in [None, Some(self_made())] {
        let (curious, heard) = visit(&attic, shows).await;
        assert!(heard.is_empty(), "{heard:?}");
        assert!(curious.hints.lock().unwrap().is_empty(), "nobody is told whose certificate is wanted");
        let certificates = curious.certificates.lock().unwrap();
        let [certificate] = &certificates[..] else { panic!("{} certificates", certificates.len()) };
        let told = texts(certificate);
        let [issuer, id] = &told[..] else { panic!("{told:?}") };
        assert_eq!((issuer.as_str(), id.len()), ("farmhand", 64));
        assert!(attic.log().contains(&id[..16]), "it is the id");
        for secret in secrets(&key) {
            assert!(!certificate.windows(secret.len()).any(|window| window == secret));
        }
    }
}

fn secrets(key: &FarmKey) -> [Vec<u8>; 5] {
    [
        key.bytes().to_vec(),
        key.tag().bytes().to_vec(),
        key.tag().to_string().into_bytes(),
        key.farm().into_bytes(),
        b"a-name-of-its-own".to_vec(),
    ]
}
