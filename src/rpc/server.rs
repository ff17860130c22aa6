//! Listeners, HTTP/2 and HTTP/1.1: serves a set of services on sockets that are already bound. Which of the two
//! a client speaks shows in the first bytes it sends.
//!
//! The settings are those that move blobs fastest on loopback, and the bounds that keep one client from
//! taking the node away from the others: on connections (here), on the time a client may take to begin
//! (`connection`), on headers and calls, and on what the node holds for clients that do not finish or do
//! not take their answers (`ledger`, `counted`). What the services do is none of this module's business.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;

use calls::Calls;
use connection::Connection;
use corked::Corked;
use counted::Counted;
use in_place::InPlace;
pub(super) use in_place::leave_connection;
use ledger::{Account, Ledger};
use tls::Gate;

use super::http::HttpService;
use crate::peer::link::incoming::Caller;
use crate::peer::trust::Trust;

mod calls;
mod connection;
mod corked;
mod counted;
mod in_place;
mod ledger;
mod tls;

/// Flow-control window of a stream and of a connection, in bytes.
const WINDOW: u32 = 8 * 1024 * 1024;

/// Largest HTTP/2 frame taken, in bytes.
const FRAME: u32 = 1024 * 1024;

/// Bytes of headers in one request: tools merge invocation ids to 8 KiB and more.
const HEADERS: u32 = 64 * 1024;

/// Calls at once on one connection. Waiting for an action is a call, so this bounds `-j` of a client.
const STREAMS: u32 = 4096;

/// Streams a client may reset before they are accepted. An interrupted build resets all of its calls at
/// once, which must not look like an attack.
const RESETS: usize = 2 * STREAMS as usize;

/// Calls at once on one connection, those included that the client has given up and the node has not
/// cleared away. A client that opens and resets calls faster than that is closed.
const CALLS: usize = STREAMS as usize + RESETS;

/// A silent connection is asked for a sign of life after this time …
const KEEPALIVE: Duration = Duration::from_secs(60);

/// … and closed if there is none within this.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);

/// Time that calls under way get to end after the token has fired.
const GRACE: Duration = Duration::from_secs(3);

/// Pause after a connection could not be accepted, for want of descriptors most of the time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often it is told that connections cannot be accepted.
const TELL_AGAIN: Duration = Duration::from_secs(600);

/// How long a full server waits for a connection that it closes, before it looks for another.
const CLOSE_PAUSE: Duration = Duration::from_millis(50);

/// What clients may take of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once. One more closes that which has been without calls for longest; while all have
    /// calls, it waits.
    pub connections: usize,
    /// Connections at once from one address other than loopback; more are closed.
    pub per_address: usize,
    /// How long a client may take to begin, after it has connected.
    pub handshake: Duration,
    /// Bytes of messages that have come in part, and of answers not taken yet. With more, the connection
    /// that holds most is closed.
    pub message_memory: u64,
}

/// A socket that accepts connections.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
    /// TCP for the members of a farm alone. Their calls have a [`Caller`] among their extensions.
    Members(TcpListener, Trust),
}

/// What is served on sockets.
pub struct Services {
    routes: Routes,
    plain: Option<HttpService>,
}

/// A connection that was accepted.
enum Accepted {
    /// Anybody who may come this way is served.
    Open(Box<dyn Socket>),
    /// He has to show who he is.
    Gated(TcpStream, SocketAddr, Arc<Gate>),
}

/// The way in, shared by all listeners of a server.
#[derive(Clone)]
struct Door {
    limits: Limits,
    ledger: Arc<Ledger>,
}

/// A socket of a client.
trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Socket for S {}

/// Bytes that a call holds besides its messages, counted for its connection until this is dropped.
#[derive(Debug)]
pub struct Held(#[expect(dead_code, reason = "held for its Drop")] ledger::Holding);

impl Held {
    /// Counts `bytes` for the connection of a call with these extensions. A call that came another way
    /// is not counted.
    pub fn for_call(extensions: &http::Extensions, bytes: u64) -> Option<Self> {
        let mut holding = extensions.get::<Account>()?.holding();
        holding.set(bytes);
        Some(Self(holding))
    }
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            per_address: 1024,
            handshake: Duration::from_secs(10),
            message_memory: 512 << 20,
        }
    }
}

// === impl Listener ===

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self::Tcp(listener)
    }
}

impl From<UnixListener> for Listener {
    fn from(listener: UnixListener) -> Self {
        Self::Unix(listener)
    }
}

impl Listener {
    /// Who decides who comes in here, if anybody does.
    fn gate(&self) -> Option<Arc<Gate>> {
        match self {
            Self::Members(_, trust) => Some(Gate::new(trust.clone())),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }

    /// The next socket, and the address it comes from if that means anything.
    async fn accept(&self, gate: Option<&Arc<Gate>>) -> io::Result<(Accepted, Option<IpAddr>)> {
        let (socket, from) = match self {
            Self::Tcp(listener) | Self::Members(listener, _) => listener.accept().await?,
            Self::Unix(listener) => return Ok((Accepted::Open(Box::new(listener.accept().await?.0)), None)),
        };
        socket.set_nodelay(true)?;
        let address = Some(from.ip().to_canonical()).filter(|ip| !ip.is_loopback());
        let accepted = match gate {
            Some(gate) => Accepted::Gated(socket, from, Arc::clone(gate)),
            None => Accepted::Open(Box::new(socket)),
        };
        Ok((accepted, address))
    }
}

// === impl Door ===

impl Door {
    /// Serves the connections of `listener` until `token` fires, and those that are open then to their
    /// end. Failures to accept one are waited out.
    async fn serve(self, listener: Listener, services: &Counted<Routes>, token: &CancellationToken) {
        let open = TaskTracker::new();
        let gate = listener.gate();
        let accept_all = async {
            let mut told = None;
            loop {
                let (socket, address) = self.accept(&listener, gate.as_ref(), &mut told).await;
                self.room().await;
                if let Some(account) = self.admit(address) {
                    open.spawn(self.welcome(socket, account, services.clone(), token.clone()));
                }
            }
        };
        token.run_until_cancelled(accept_all).await;
        drop(listener);
        open.close();
        open.wait().await;
    }

    /// The next socket of `listener`; `told` is when a failure was last told.
    async fn accept(
        &self,
        listener: &Listener,
        gate: Option<&Arc<Gate>>,
        told: &mut Option<Instant>,
    ) -> (Accepted, Option<IpAddr>) {
        loop {
            let error = match listener.accept(gate).await {
                Ok(accepted) => return accepted,
                Err(error) => error,
            };
            if told.is_none_or(|told| told.elapsed() > TELL_AGAIN) {
                tracing::warn!(%error, "cannot accept connections; trying on");
                *told = Some(Instant::now());
            }
            // With all descriptors in use the next try would fail at once. Quiet connections have some.
            self.ledger.close_quietest();
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }

    /// Returns when there is room for one more connection, which it makes where it can.
    async fn room(&self) {
        while self.ledger.len() >= self.limits.connections {
            let gone = self.ledger.one_less();
            self.ledger.close_quietest();
            // Nobody may be quiet now and somebody soon.
            let _ = tokio::time::timeout(CLOSE_PAUSE, gone).await;
        }
    }

    fn admit(&self, address: Option<IpAddr>) -> Option<Account> {
        if let Some(address) = address.filter(|address| self.ledger.from(*address) >= self.limits.per_address)
        {
            tracing::debug!(%address, "refused: too many connections from there");
            return None;
        }
        Some(self.ledger.enter(address))
    }

    /// Serves one connection, once it is known to be one that may be served.
    fn welcome(
        &self,
        socket: Accepted,
        account: Account,
        services: Counted<Routes>,
        token: CancellationToken,
    ) -> BoxFuture<'static, ()> {
        let limit = self.limits.handshake;
        match socket {
            Accepted::Open(socket) => {
                let connection = Connection::new(socket, account.clone(), limit);
                Box::pin(serve_connection(connection, Calls::new(account, services, None), token))
            }
            Accepted::Gated(socket, from, gate) => Box::pin(async move {
                let admitted = tokio::select! {
                    admitted = gate.admit(socket, from, &account, limit) => admitted,
                    () = token.cancelled() => None,
                };
                let Some((socket, caller)) = admitted else { return };
                let connection = Connection::new(socket, account.clone(), limit);
                let calls = Calls::new(account, services, Some(caller.clone()));
                tokio::select! {
                    () = serve_connection(connection, calls, token) => {}
                    () = caller.hung_up() => {}
                }
            }),
        }
    }
}

/// Serves `services` on all `listeners` until `token` fires. Calls under way then get a few seconds
/// to end; connections that stay open longer are left to their fate.
pub async fn serve(
    listeners: Vec<Listener>,
    services: impl Into<Services>,
    limits: Limits,
    token: CancellationToken,
) {
    let services = Counted::new(services.into().with_fallback().prepare());
    let door = Door { limits, ledger: Ledger::new(limits.message_memory) };
    let all = listeners.into_iter().map(|listener| door.clone().serve(listener, &services, &token));
    let too_long = async {
        token.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        _ = join_all(all) => {}
        () = too_long => tracing::debug!("connections were still open at the end"),
    }
}

/// Serves one connection until its client closes it, or until the calls have ended that are under way
/// when `token` fires.
async fn serve_connection<S: Socket>(connection: Connection<S>, calls: Calls, token: CancellationToken) {
    let executor = InPlace::default();
    let http = http(executor.clone());
    let socket = Corked::new(connection);
    let connection = http.serve_connection(TokioIo::new(socket.clone()), TowerToHyperService::new(calls));
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = executor.run(connection.as_mut(), &socket) => served,
        () = token.cancelled() => {
            connection.as_mut().graceful_shutdown();
            executor.run(connection, &socket).await
        }
    };
    if let Err(error) = served {
        tracing::debug!(error, "a connection failed");
    }
}

fn http(executor: InPlace) -> auto::Builder<InPlace> {
    let mut builder = auto::Builder::new(executor);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(KEEPALIVE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(RESETS)
        .keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE_ANSWER)
        .auto_date_header(false);
    builder
}

// === impl Services ===

impl From<Routes> for Services {
    fn from(routes: Routes) -> Self {
        Self { routes, plain: None }
    }
}

impl Services {
    /// The same, with `plain` for what is no gRPC.
    pub fn new(routes: Routes, plain: HttpService) -> Self {
        Self { routes, plain: Some(plain) }
    }

    /// The services, and what answers the rest: gRPC calls get `UNIMPLEMENTED`, plain HTTP 404 where nothing
    /// serves it.
    fn with_fallback(self) -> Routes {
        let Self { mut routes, plain } = self;
        let router = std::mem::take(routes.axum_router_mut());
        *routes.axum_router_mut() = match plain {
            Some(plain) => router.fallback_service(plain),
            None => router.fallback(unknown),
        };
        routes
    }
}

/// Whether a request with these headers is a call of gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

async fn unknown(headers: HeaderMap, uri: Uri) -> Response<Body> {
    if is_grpc(&headers) {
        return Status::unimplemented(format!("{} is not served", uri.path())).into_http();
    }
    let mut response = Response::new(Body::new("not found\n".to_owned()));
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use farmhand_proto::reapi::GetCapabilitiesRequest;
    use farmhand_proto::reapi::capabilities_client::CapabilitiesClient;
    use farmhand_proto::reapi::execution_client::ExecutionClient;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tonic::Code;

    use super::*;
    use crate::rpc::Instances;
    use crate::rpc::capabilities::CapabilitiesService;
    use crate::rpc::testing::TestServer;

    #[tokio::test]
    async fn what_is_not_served_is_told_in_the_language_asked() {
        let server = TestServer::start().await;
        let status = ExecutionClient::new(server.channel())
            .execute(farmhand_proto::reapi::ExecuteRequest::default())
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented);
        let mut socket = TcpStream::connect(server.address()).await.unwrap();
        socket.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
        assert!(answer.ends_with("not found\n"), "{answer}");
    }

    #[tokio::test]
    async fn a_unix_socket_serves_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("reapi.sock");
        let routes = Routes::new(CapabilitiesService::new(Instances::default(), Vec::new()).into_server());
        let token = CancellationToken::new();
        let listener = UnixListener::bind(&path).unwrap();
        let server = serve(vec![listener.into()], routes, Limits::default(), token.clone());
        let client = async {
            let channel = tonic::transport::Endpoint::try_from(format!("unix:{}", path.display()))
                .unwrap()
                .connect()
                .await
                .unwrap();
            let answer = CapabilitiesClient::new(channel)
                .get_capabilities(GetCapabilitiesRequest::default())
                .await
                .unwrap();
            assert!(answer.get_ref().low_api_version.is_some());
            token.cancel();
        };
        tokio::join!(server, client);
    }

    #[tokio::test]
    async fn an_open_connection_does_not_hold_up_the_end() {
        let server = TestServer::start().await;
        let idle = TcpStream::connect(server.address()).await.unwrap();
        tokio::time::timeout(Duration::from_secs(60), server.stop()).await.unwrap();
        drop(idle);
    }

    #[tokio::test]
    async fn long_headers_are_taken() {
        let server = TestServer::start().await;
        let mut request = tonic::Request::new(GetCapabilitiesRequest::default());
        let value = tonic::metadata::MetadataValue::from_bytes(&[7; 24 * 1024]);
        request.metadata_mut().insert_bin("build.bazel.remote.execution.v2.requestmetadata-bin", value);
        server.capabilities().get_capabilities(request).await.unwrap();
    }
}
