//! Handshakes of members and strangers, in both directions, over pipes in memory.

use std::sync::Arc;

use proptest::prelude::*;
use rcgen::{CertificateParams, PKCS_ED25519};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::server::Acceptor;
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConnection, ServerConnection};
use std::io::{Read, Write};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::peer::MachineId;
use crate::peer::trust::testing::trust;
use crate::peer::trust::{FarmKey, Trust, peer_id};

const SECRET: &[u8] = b"what only members hear";

/// What a handshake came to.
struct Meeting {
    /// Whom the server let in.
    served: Result<Option<MachineId>, String>,
    /// Whom the client took for a member.
    met: Result<Option<MachineId>, String>,
    /// What the client heard.
    heard: Vec<u8>,
}

/// A server that says something to each member, and a client that listens.
async fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Meeting {
    let (near, far) = duplex(64 << 10);
    let serving = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await.map_err(|error| error.to_string())?;
        let id = peer_id(stream.get_ref().1.peer_certificates());
        let _ = stream.write_all(SECRET).await;
        let _ = stream.shutdown().await;
        Ok(id)
    };
    let calling = async {
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let connected = TlsConnector::from(client).connect(name, near).await;
        let mut stream = connected.map_err(|error| error.to_string())?;
        let mut heard = Vec::new();
        let _ = stream.read_to_end(&mut heard).await;
        Ok((peer_id(stream.get_ref().1.peer_certificates()), heard))
    };
    let (served, called) = tokio::join!(serving, calling);
    let (met, heard) = match called {
        Ok((id, heard)) => (Ok(id), heard),
        Err(error) => (Err(error), Vec::new()),
    };
    Meeting { served, met, heard }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Takes any server for a member, and shows the certificate it was given, if any.
fn careless(shown: Option<CertifiedKey>) -> Arc<ClientConfig> {
    #[derive(Debug)]
    struct Anybody(WebPkiSupportedAlgorithms);

    impl ServerCertVerifier for Anybody {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, certificate, signature, &self.0)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.supported_schemes()
        }
    }

    /// Shows it to whoever asks; and nobody names whom he wants to see.
    #[derive(Debug)]
    struct Shown(Arc<CertifiedKey>);

    impl ResolvesClientCert for Shown {
        fn resolve(&self, hints: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            assert!(hints.is_empty(), "the server told names: {hints:?}");
            Some(Arc::clone(&self.0))
        }

        fn has_certs(&self) -> bool {
            true
        }
    }

    let verifier = Arc::new(Anybody(provider().signature_verification_algorithms));
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => builder.with_client_cert_resolver(Arc::new(Shown(Arc::new(shown)))),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    Arc::new(config)
}

fn signing(key: PrivatePkcs8KeyDer<'static>) -> Arc<dyn rustls::sign::SigningKey> {
    rustls::crypto::ring::sign::any_supported_type(&key.into()).unwrap()
}

/// What a machine of the farm of `key` shows.
fn member(key: &FarmKey) -> CertifiedKey {
    let machine = MachineKey::generate();
    let issued = certificate::issue(key, &machine).unwrap();
    CertifiedKey::new(vec![issued.leaf], signing(machine.pkcs8()))
}

/// A certificate somebody made for himself, with the names of ours.
fn self_made() -> CertifiedKey {
    let key = rcgen::KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "farmhand");
    let certificate = params.self_signed(&key).unwrap();
    let private = PrivatePkcs8KeyDer::from(key.serialize_der());
    CertifiedKey::new(vec![certificate.der().clone()], signing(private))
}

/// A certificate as the authority signs its own, by another authority of the same name.
fn chained() -> CertifiedKey {
    let (farm, machine) = (FarmKey::generate(), MachineKey::generate());
    let issued = certificate::issue(&farm, &machine).unwrap();
    CertifiedKey::new(vec![issued.leaf, issued.authority], signing(machine.pkcs8()))
}

/// The certificate of a member in the hands of somebody without its private key.
fn stolen(key: &FarmKey) -> CertifiedKey {
    let shown = member(key);
    CertifiedKey::new(shown.cert, signing(MachineKey::generate().pkcs8()))
}

async fn refuses(server: &Trust, shown: Option<CertifiedKey>) {
    let meeting = meet(server.server_config(), careless(shown)).await;
    assert!(meeting.served.is_err(), "{:?}", meeting.served);
    assert_eq!(meeting.heard, b"");
}

#[tokio::test]
async fn members_know_each_other_by_their_ids() {
    let key = FarmKey::generate();
    let (a, b) = (trust(&key), trust(&key));
    for (server, client) in [(&a, &b), (&b, &a), (&a, &a)] {
        let meeting = meet(server.server_config(), client.client_config()).await;
        assert_eq!(meeting.served, Ok(Some(client.me())));
        assert_eq!(meeting.met, Ok(Some(server.me())));
        assert_eq!(meeting.heard, SECRET);
    }
}

#[tokio::test]
async fn a_stranger_is_let_in_nowhere_and_hears_nothing() {
    let key = FarmKey::generate();
    let server = trust(&key);
    refuses(&server, None).await;
    refuses(&server, Some(self_made())).await;
    refuses(&server, Some(member(&FarmKey::generate()))).await;
    refuses(&server, Some(chained())).await;
    refuses(&server, Some(stolen(&key))).await;
    // The same way in is open to a member.
    let meeting = meet(server.server_config(), careless(Some(member(&key)))).await;
    assert_eq!(meeting.heard, SECRET);
}

/// A chain of more than one certificate is none, even if its end is good.
#[tokio::test]
async fn nothing_comes_with_a_certificate() {
    let key = FarmKey::generate();
    let server = trust(&key);
    let mut shown = member(&key);
    shown.cert.push(self_made().cert[0].clone());
    refuses(&server, Some(shown)).await;
}

#[tokio::test]
async fn a_client_shows_its_certificate_to_members_only() {
    let client = trust(&FarmKey::generate());
    for shown in [member(&FarmKey::generate()), self_made(), chained()] {
        let server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
        let meeting = meet(Arc::new(server), client.client_config()).await;
        assert!(meeting.met.is_err());
        // The server went on to its end without a certificate, or was told that the client left.
        assert!(!matches!(meeting.served, Ok(Some(_))), "{:?}", meeting.served);
    }
}

#[tokio::test]
async fn an_old_key_opens_nothing_in_either_direction() {
    let key = FarmKey::generate();
    let (stays, leaves) = (trust(&key), trust(&key));
    stays.replace(FarmKey::generate()).unwrap();
    for (server, client) in [(&stays, &leaves), (&leaves, &stays)] {
        let meeting = meet(server.server_config(), client.client_config()).await;
        assert!(meeting.served.is_err() && meeting.met.is_err() && meeting.heard.is_empty());
    }
    leaves.replace(stays.key()).unwrap();
    let meeting = meet(stays.server_config(), leaves.client_config()).await;
    assert_eq!(meeting.heard, SECRET);
}

/// With TLS 1.3 a client may take a handshake for finished before the server has judged it. Whatever the
/// server has to say by then waits.
#[test]
fn what_a_server_says_early_stays_with_it_until_the_client_is_proven() {
    let key = FarmKey::generate();
    for (shown, is_member) in [(None, false), (Some(self_made()), false), (Some(member(&key)), true)] {
        let config = trust(&key).server_config();
        assert!(!config.send_half_rtt_data && config.max_early_data_size == 0);
        let mut server = ServerConnection::new(config).unwrap();
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let mut client = ClientConnection::new(careless(shown), name).unwrap();
        server.writer().write_all(SECRET).unwrap();
        let (mut heard, mut refused) = (Vec::new(), false);
        for _ in 0..8 {
            let mut wire = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut wire).unwrap();
            }
            let mut wire = wire.as_slice();
            while !wire.is_empty() && !refused {
                server.read_tls(&mut wire).unwrap();
                refused = server.process_new_packets().is_err();
            }
            let mut wire = Vec::new();
            while server.wants_write() {
                server.write_tls(&mut wire).unwrap();
            }
            let mut wire = wire.as_slice();
            while !wire.is_empty() {
                client.read_tls(&mut wire).unwrap();
                if client.process_new_packets().is_err() {
                    break;
                }
            }
            let _ = client.reader().read_to_end(&mut heard);
        }
        assert_eq!((heard == SECRET, refused), (is_member, !is_member));
        assert!(is_member || heard.is_empty());
    }
}

/// Nothing of an earlier session is worth anything: each handshake judges anew.
#[tokio::test]
async fn sessions_are_not_resumed() {
    let key = FarmKey::generate();
    let server = trust(&key);
    let mut client = ClientConfig::clone(&careless(Some(member(&key))));
    client.resumption = Resumption::in_memory_sessions(16);
    let client = Arc::new(client);
    for _ in 0..2 {
        let (near, far) = duplex(64 << 10);
        let accepted = TlsAcceptor::from(server.server_config()).accept(far);
        let name = ServerName::try_from(SERVER_NAME).unwrap();
        let connected = TlsConnector::from(Arc::clone(&client)).connect(name, near);
        let (mut accepted, connected) = tokio::try_join!(accepted, connected).unwrap();
        let mut stream = connected;
        accepted.write_all(SECRET).await.unwrap();
        accepted.shutdown().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
        let session = stream.get_ref().1;
        assert_eq!(session.tls13_tickets_received(), 0);
        assert_eq!(session.handshake_kind(), Some(rustls::HandshakeKind::Full));
    }
}

/// What passes a listener in the clear says neither which farm it is nor what is wanted.
#[tokio::test]
async fn the_first_words_name_nobody() {
    let key = FarmKey::generate();
    let client = trust(&key);
    let name = ServerName::try_from(SERVER_NAME).unwrap();
    let mut connection = ClientConnection::new(client.client_config(), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    let (tag, me) = (key.tag(), client.me());
    let secrets: [&[u8]; 5] = [SERVER_NAME.as_bytes(), tag.bytes(), key.bytes(), me.bytes(), b"farmhand"];
    for secret in secrets {
        assert!(!hello.windows(secret.len()).any(|window| window == secret));
    }
    let mut acceptor = Acceptor::default();
    acceptor.read_tls(&mut hello.as_slice()).unwrap();
    let accepted = acceptor.accept().unwrap().unwrap();
    assert_eq!(accepted.client_hello().server_name(), None);
}

/// A board without a battery thinks that it is 1970; another is a century ahead.
#[tokio::test]
async fn wrong_clocks_keep_nobody_out() {
    #[derive(Debug)]
    struct Clock(u64);

    impl TimeProvider for Clock {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(self.0)))
        }
    }

    let key = FarmKey::generate();
    let (a, b) = (trust(&key), trust(&key));
    for (early, late) in [(0, 5_000_000_000), (5_000_000_000, 0), (1, 1)] {
        let mut server = ServerConfig::clone(&a.server_config());
        server.time_provider = Arc::new(Clock(early));
        let mut client = ClientConfig::clone(&b.client_config());
        client.time_provider = Arc::new(Clock(late));
        let meeting = meet(Arc::new(server), Arc::new(client)).await;
        assert_eq!(meeting.heard, SECRET);
    }
}

/// Everything a server says to `bytes`, which are followed by silence.
async fn says_to(server: &Trust, bytes: &[u8]) -> (bool, Vec<u8>) {
    let (mut near, far): (DuplexStream, _) = duplex(64 << 10);
    let accepting = TlsAcceptor::from(server.server_config()).accept(far);
    let calling = async {
        let _ = near.write_all(bytes).await;
        let _ = near.shutdown().await;
        let mut heard = Vec::new();
        let _ = near.read_to_end(&mut heard).await;
        heard
    };
    let (accepted, heard) = tokio::join!(accepting, calling);
    (accepted.is_ok(), heard)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// What is no TLS gets an alert at most, and never a certificate.
    #[test]
    fn noise_gets_an_alert_at_most(noise in proptest::collection::vec(any::<u8>(), 0..600)) {
        let server = trust(&FarmKey::read(&[1; 16]).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (accepted, heard) = runtime.block_on(says_to(&server, &noise));
        prop_assert!(!accepted && heard.len() <= 7, "{heard:?}");
    }
}

#[tokio::test]
async fn other_protocols_get_an_alert_at_most() {
    let server = trust(&FarmKey::generate());
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"",
        b"\x16\x03\x01\xff\xff",
    ] {
        let (accepted, heard) = says_to(&server, bytes).await;
        assert!(!accepted && heard.len() <= 7, "{heard:?}");
    }
}
