//! What a link carries at best: one TLS connection with nothing around it, between two machines of a LAN.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tokio::time::Instant;

use crate::lan::{Lan, address};

const NAME: &str = "raw";
const PORT: u16 = 7777;

/// Bytes written and read at a time.
const PIECE: usize = 256 << 10;

/// Runs on a machine of the LAN.
fn on<T: Send + 'static>(
    lan: &Lan,
    machine: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let space = File::open(lan.space_file(machine)).unwrap();
    std::thread::spawn(move || {
        move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        work()
    })
}

/// How long so many bytes take from one machine to the other, from the connection on.
pub(super) fn time(lan: &Lan, from: usize, to: usize, bytes: u64) -> Duration {
    let own = rcgen::generate_simple_self_signed(vec![NAME.to_owned()]).unwrap();
    let certificate = own.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()).into();
    let server = ServerConfig::builder().with_no_client_auth();
    let server = Arc::new(server.with_single_cert(vec![certificate.clone()], key).unwrap());
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
    let (ready, is_ready) = std::sync::mpsc::channel();
    let sending = on(lan, from, move || {
        let listener = TcpListener::bind(("0.0.0.0", PORT)).unwrap();
        ready.send(()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        let mut stream = StreamOwned::new(ServerConnection::new(server).unwrap(), socket);
        let piece = vec![7; PIECE];
        let mut left = bytes;
        while left > 0 {
            let len = left.min(PIECE as u64);
            stream.write_all(&piece[..len as usize]).unwrap();
            left -= len;
        }
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        // Until the other side has read it all.
        let _ = stream.sock.read(&mut [0]);
    });
    is_ready.recv().unwrap();
    let address = address(from);
    let receiving = on(lan, to, move || {
        let since = Instant::now();
        let socket = TcpStream::connect((&*address, PORT)).unwrap();
        let connection = ClientConnection::new(client, ServerName::try_from(NAME).unwrap()).unwrap();
        let mut stream = StreamOwned::new(connection, socket);
        let (mut piece, mut got) = (vec![0; PIECE], 0);
        while got < bytes {
            let len = stream.read(&mut piece).unwrap();
            assert!(len > 0, "{got} of {bytes} bytes");
            got += len as u64;
        }
        since.elapsed()
    });
    let took = receiving.join().unwrap();
    sending.join().unwrap();
    took
}
