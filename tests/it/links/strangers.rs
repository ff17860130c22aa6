//! Whoever is at the peer port without the key of the farm gets nothing, and is in nobody's way.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::peer::RunRequest;
use farmhand_proto::peer::peer_client::PeerClient;
use farmhand_proto::reapi::BatchReadBlobsRequest;
use farmhand_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tonic::Code;

use super::fake::Machine;
use super::{Keys, is_closed, is_linked, until};
use crate::support::Node;

fn descriptors(node: &Node) -> usize {
    fs::read_dir(format!("/proc/{}/fd", node.pid())).unwrap().count()
}

#[tokio::test]
async fn blobs_are_served_to_members_and_to_nobody_else() {
    let keys = Keys::new();
    let attic = keys.node("attic", &[]).start();
    let client = attic.client().await;
    let digest = client.put(b"hello, other machine").await;
    let request = BatchReadBlobsRequest { digests: vec![digest.to_wire()], ..Default::default() };
    let member = Machine::new(&keys, 0).connect(attic.peer_address).await.unwrap();
    let read = ContentAddressableStorageClient::new(member.clone()).batch_read_blobs(request.clone()).await;
    assert_eq!(read.unwrap().into_inner().responses[0].data, b"hello, other machine");
    let run = PeerClient::new(member).run(tokio_stream::iter([RunRequest::default()])).await;
    assert_eq!(run.unwrap_err().code(), Code::InvalidArgument, "a run begins with its lease");
    // A client of another farm is sent away by its own look at the certificate, or by that of the node.
    assert!(Machine::new(&keys, 1).connect(attic.peer_address).await.is_err());
    // The services of the build tools are not there.
    let plain = tonic::transport::Endpoint::from_shared(format!("http://{}", attic.peer_address)).unwrap();
    let mut plain = ContentAddressableStorageClient::new(plain.connect_lazy());
    assert!(plain.batch_read_blobs(request).await.is_err());
}

/// Believes anybody.
#[derive(Debug)]
struct Credulous;

impl rustls::client::danger::ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[tokio::test]
async fn who_has_no_certificate_gets_no_byte_of_an_answer() {
    let keys = Keys::new();
    let attic = keys.node("attic", &[]).start();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous))
        .with_no_client_auth();
    let socket = tokio::net::TcpStream::connect(attic.peer_address).await.unwrap();
    let name = ServerName::try_from("farmhand").unwrap();
    let mut socket = TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap();
    let _ = socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await;
    let mut answer = Vec::new();
    let read = socket.read_to_end(&mut answer).await;
    assert!(read.is_err() && answer.is_empty(), "{read:?} {answer:?}");
}

#[tokio::test]
async fn garbage_and_half_handshakes_are_closed_and_links_stay() {
    let keys = Keys::new();
    let attic = keys.node("attic", &[]).start();
    let cellar = keys.node("cellar", &["--peer", &attic.peer_address.to_string()]).start();
    let linked = until(&cellar, "attic", is_linked).await;
    until(&attic, "cellar", is_linked).await;
    let before = descriptors(&attic);
    let mut strangers: Vec<TcpStream> = Vec::new();
    for number in 0..200_usize {
        let mut socket = TcpStream::connect(attic.peer_address).unwrap();
        let beginning: &[u8] = match number % 4 {
            0 => b"",
            1 => b"GET / HTTP/1.1\r\nHost: attic\r\n\r\n",
            2 => &[0x16, 3, 1, 2, 0, 1, 0],
            _ => b"\x16\x03\x01\xff\xff",
        };
        // What is refused early may be closed before all of it is written.
        let _ = socket.write_all(beginning);
        strangers.push(socket);
    }
    let memory = attic.memory("VmRSS");
    assert!(memory < 150 << 20, "{memory}");
    until(&attic, "cellar", is_linked).await;
    let closed = tokio::task::spawn_blocking(move || strangers.iter_mut().all(is_closed)).await.unwrap();
    assert!(closed);
    for _ in 0..200 {
        if descriptors(&attic) <= before + 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(descriptors(&attic) <= before + 2, "{before} {}", descriptors(&attic));
    let after = until(&cellar, "attic", is_linked).await;
    assert_eq!(after.round_trip, linked.round_trip, "it is the same link");
}
