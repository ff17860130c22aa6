//! [`PeerChannel`]: calls over the connection of a link.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tonic::Status;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt};

/// What stands for the machine in requests: which one it is was settled before.
const AUTHORITY: &str = "farmhand";

/// Makes calls to one machine, over the one connection of the link to it: once that is over, every call
/// fails. Made for the generated clients. Clones share the connection.
#[derive(Clone)]
pub struct PeerChannel {
    requests: SendRequest<Body>,
}

/// Where calls go, whatever carries them.
pub type AnyChannel = BoxCloneSyncService<Request<Body>, Response<Body>, Status>;

impl PeerChannel {
    pub(super) fn new(requests: SendRequest<Body>) -> Self {
        Self { requests }
    }

    /// Whether the connection is over.
    pub fn is_closed(&self) -> bool {
        self.requests.is_closed()
    }
}

/// Any service of HTTP/2, for calls.
pub fn boxed<S, B>(service: S) -> AnyChannel
where
    S: Service<Request<Body>, Response = Response<B>, Error: Into<BoxError>> + Clone + Send + Sync + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    let plain = service
        .map_response(|response| response.map(Body::new))
        .map_err(|error| Status::from_error(error.into()));
    BoxCloneSyncService::new(plain)
}

impl fmt::Debug for PeerChannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerChannel").field("is_closed", &self.is_closed()).finish()
    }
}

impl Service<Request<Body>> for PeerChannel {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.requests.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        *request.uri_mut() = whole(request.uri());
        Box::pin(self.requests.send_request(request))
    }
}

/// A URI as HTTP/2 wants it; the generated clients give the path alone.
fn whole(uri: &Uri) -> Uri {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Some(Authority::from_static(AUTHORITY));
    parts.path_and_query =
        Some(uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/")));
    Uri::from_parts(parts).expect("invariant: all parts are there")
}
