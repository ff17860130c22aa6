//! The handshake in front of the peer port: who has no certificate of the farm gets nothing else.
//!
//! A stranger is a connection like any other to the bounds of the server, one without calls: it is the
//! first to go when there are too many, and goes anyway when its time is over.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::ledger::Account;
use crate::peer::link::Pulsed;
use crate::peer::link::incoming::Caller;
use crate::peer::trust::{Trust, peer_id};

/// A stranger from one address is told of once in so long.
const TELL_AGAIN: Duration = Duration::from_secs(600);

/// Addresses that are kept in mind for that.
const MOST_STRANGERS: usize = 64;

/// Decides who comes in.
pub(super) struct Gate {
    trust: Trust,
    /// When strangers were last told of.
    strangers: Mutex<BTreeMap<IpAddr, Instant>>,
}

/// A socket to a member of the farm.
pub(super) type Secured = TlsStream<Pulsed<TcpStream>>;

impl Gate {
    pub(super) fn new(trust: Trust) -> Arc<Self> {
        Arc::new(Self { trust, strangers: Mutex::default() })
    }

    /// The member at the other end of `socket`, if there is one and it shows so within `limit`. Its
    /// connection is hung up when the farm has another key.
    pub(super) async fn admit(
        &self,
        socket: TcpStream,
        address: SocketAddr,
        account: &Account,
        limit: Duration,
    ) -> Option<(Secured, Caller)> {
        let key = self.trust.changes();
        let (socket, pulse) = Pulsed::new(socket);
        let shaken = TlsAcceptor::from(self.trust.server_config()).accept(socket);
        let shaken = tokio::select! {
            shaken = timeout(limit, shaken) => shaken,
            () = account.closed() => return None,
        };
        let why = match shaken {
            Ok(Ok(socket)) => match peer_id(socket.get_ref().1.peer_certificates()) {
                Some(id) => {
                    let hang_up = CancellationToken::new();
                    return Some((socket, Caller { id, address, pulse, hang_up, key }));
                }
                None => "no certificate".to_owned(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it did not show who it is in time".to_owned(),
        };
        self.tell(address.ip(), &why);
        None
    }

    fn tell(&self, address: IpAddr, why: &str) {
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        strangers.retain(|_, told| told.elapsed() < TELL_AGAIN);
        if strangers.len() >= MOST_STRANGERS || strangers.contains_key(&address) {
            tracing::debug!(%address, why, "a stranger was sent away from the peer port");
            return;
        }
        strangers.insert(address, Instant::now());
        tracing::info!(%address, why, "a stranger was sent away from the peer port");
    }
}
