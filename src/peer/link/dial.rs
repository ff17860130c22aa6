//! [`dial`]: a connection to one of several addresses, to a machine that has shown who it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::life::{Pulse, Pulsed};
use super::{OPENING, words};
use crate::config::network::PeerAddress;
use crate::peer::MachineId;
use crate::peer::members::{Failure, Route};
use crate::peer::trust::{SERVER_NAME, peer_id};

/// An address that does not answer at once is not waited for before the next is tried.
const STAGGER: Duration = Duration::from_millis(250);

/// Addresses that a name may stand for, at most.
const MOST_RESOLVED: usize = 8;

/// Addresses whose failures are told.
const TOLD: usize = 3;

/// A connection, and who is at its other end.
pub(super) struct Connection {
    pub(super) socket: TlsStream<Pulsed<TcpStream>>,
    pub(super) pulse: Pulse,
    pub(super) id: MachineId,
    pub(super) address: SocketAddr,
    pub(super) route: Route,
}

/// Where one try goes.
struct Try {
    route: Route,
    address: SocketAddr,
}

/// Tries `routes`, one soon after the other, until a machine of the farm answers.
pub(super) async fn dial(routes: Vec<Route>, config: &Arc<ClientConfig>) -> Result<Connection, Failure> {
    let mut failures = Failures::default();
    let mut waiting = resolve(routes, &mut failures).await.into_iter();
    let mut running = FuturesUnordered::new();
    loop {
        match waiting.next() {
            Some(next) => running.push(connect(next, config)),
            None if running.is_empty() => return Err(failures.told()),
            None => {}
        }
        let pause = async {
            match waiting.len() {
                0 => std::future::pending().await,
                _ => sleep(STAGGER).await,
            }
        };
        tokio::select! {
            Some(outcome) = running.next() => match outcome {
                Ok(connection) => return Ok(connection),
                Err(failure) => failures.add(failure),
            },
            () = pause => {}
        }
    }
}

async fn resolve(routes: Vec<Route>, failures: &mut Failures) -> Vec<Try> {
    let mut tries: Vec<Try> = Vec::new();
    for route in routes {
        let addresses = match &route {
            Route::Address(address) => vec![*address],
            Route::Host(host) => match look_up(host).await {
                Ok(addresses) => addresses,
                Err(reason) => {
                    failures.add(Failure::Unreachable(format!("{host}: {reason}")));
                    continue;
                }
            },
        };
        for address in addresses {
            if tries.iter().all(|other| other.address != address) {
                tries.push(Try { route: route.clone(), address });
            }
        }
    }
    tries
}

async fn look_up(host: &PeerAddress) -> Result<Vec<SocketAddr>, String> {
    let found = timeout(OPENING, tokio::net::lookup_host((host.host(), host.port()))).await;
    match found {
        Ok(Ok(addresses)) => Ok(addresses.take(MOST_RESOLVED).collect()),
        Ok(Err(error)) => Err(format!("the name is not known ({})", words::of_io(&error))),
        Err(_) => Err("the name was not found in time".to_owned()),
    }
}

async fn connect(Try { route, address }: Try, config: &Arc<ClientConfig>) -> Result<Connection, Failure> {
    let unreachable = |reason: String| Failure::Unreachable(format!("{address}: {reason}"));
    let socket = match timeout(OPENING, TcpStream::connect(address)).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return Err(unreachable(words::of_io(&error))),
        Err(_) => return Err(unreachable("no answer".to_owned())),
    };
    socket.set_nodelay(true).map_err(|error| unreachable(words::of_io(&error)))?;
    let (socket, pulse) = Pulsed::new(socket);
    let name = ServerName::try_from(SERVER_NAME).expect("invariant: it is a valid name");
    let shaken = timeout(OPENING, TlsConnector::from(Arc::clone(config)).connect(name, socket)).await;
    let socket = match shaken {
        Ok(Ok(socket)) => socket,
        Ok(Err(error)) => return Err(of_handshake(address, &error)),
        Err(_) => return Err(unreachable("whoever answers there does not show who he is".to_owned())),
    };
    match peer_id(socket.get_ref().1.peer_certificates()) {
        Some(id) => Ok(Connection { socket, pulse, id, address, route }),
        None => Err(unreachable("whoever answers there does not show who he is".to_owned())),
    }
}

/// Why no machine of the farm is at `address`.
pub(super) fn of_handshake(address: SocketAddr, error: &(dyn std::error::Error + 'static)) -> Failure {
    match words::refusal(error) {
        Some(reason) => Failure::Refused(format!("{address}: {reason}")),
        None => Failure::Unreachable(format!("{address}: {}", words::of_error(error))),
    }
}

/// What came of addresses that did not do.
#[derive(Default)]
struct Failures {
    refused: Option<String>,
    unreachable: Vec<String>,
}

impl Failures {
    fn add(&mut self, failure: Failure) {
        match failure {
            Failure::Refused(reason) => self.refused = Some(reason),
            Failure::Unreachable(reason) | Failure::Incompatible { reason, .. } => {
                self.unreachable.push(reason)
            }
        }
    }

    /// The most telling one.
    fn told(mut self) -> Failure {
        if let Some(reason) = self.refused {
            return Failure::Refused(reason);
        }
        let more = self.unreachable.len().saturating_sub(TOLD);
        self.unreachable.truncate(TOLD);
        let mut words = self.unreachable.join("; ");
        if more > 0 {
            words.push_str(&format!("; and {more} more"));
        }
        Failure::Unreachable(words)
    }
}
