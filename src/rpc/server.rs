//! Listeners and HTTP/2: serves a set of services on sockets that are already bound.
//!
//! The settings are those that move blobs fastest on loopback, and the bounds that keep one client from
//! taking the node's memory. What the services do is none of this module's business.

use std::io;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Response, StatusCode, Uri};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

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

/// A silent connection is asked for a sign of life after this time …
const KEEPALIVE: Duration = Duration::from_secs(60);

/// … and closed if there is none within this.
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(20);

/// Time that calls under way get to end after the token has fired.
const GRACE: Duration = Duration::from_secs(3);

/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket that accepts connections.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

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

/// Serves `routes` on all `listeners` until `token` fires. Calls under way then get a few seconds
/// to end; connections that stay open longer are left to their fate.
///
/// # Errors
/// The first failure of a listener's server.
pub async fn serve(
    listeners: Vec<Listener>,
    routes: Routes,
    token: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let routes = with_fallback(routes).prepare();
    let servers = listeners.into_iter().map(|listener| serve_one(listener, routes.clone(), token.clone()));
    let all = async { join_all(servers).await.into_iter().collect() };
    let too_long = async {
        token.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        result = all => result,
        () = too_long => {
            tracing::debug!("connections were still open at the end");
            Ok(())
        }
    }
}

async fn serve_one(
    listener: Listener,
    routes: Routes,
    token: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let shutdown = token.cancelled_owned();
    match listener {
        Listener::Tcp(listener) => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true)).then(after_failure);
            http2().serve_with_incoming_shutdown(routes, incoming, shutdown).await
        }
        Listener::Unix(listener) => {
            let incoming = UnixListenerStream::new(listener).then(after_failure);
            http2().serve_with_incoming_shutdown(routes, incoming, shutdown).await
        }
    }
}

/// Waits a little when a connection could not be accepted: with all descriptors in use, the next try
/// would fail at once.
async fn after_failure<T>(accepted: io::Result<T>) -> io::Result<T> {
    if let Err(error) = &accepted {
        tracing::warn!(%error, "cannot accept a connection");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
    accepted
}

fn http2() -> Server {
    Server::builder()
        .accept_http1(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME)
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEADERS)
        .http2_max_pending_accept_reset_streams(Some(RESETS))
        .http2_max_local_error_reset_streams(Some(RESETS))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_ANSWER))
}

/// Answers what no service has: gRPC calls with `UNIMPLEMENTED`, plain HTTP with 404.
fn with_fallback(mut routes: Routes) -> Routes {
    let router = std::mem::take(routes.axum_router_mut());
    *routes.axum_router_mut() = router.fallback(unknown);
    routes
}

async fn unknown(headers: HeaderMap, uri: Uri) -> Response<Body> {
    let is_grpc = headers.get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
    if is_grpc {
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
        let server = serve(vec![listener.into()], routes, token.clone());
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
        let (served, ()) = tokio::join!(server, client);
        served.unwrap();
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
