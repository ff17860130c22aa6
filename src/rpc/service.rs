//! [`GrpcService`]: what a service that does not come from a generator owes to the router.
//!
//! Such a service is a set of [`Methods`] and answers HTTP requests by the names of these. How a
//! method decodes and encodes is its own business.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::Body as HttpBody;
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::server::NamedService;
use tower::Service;

/// The methods of one gRPC service.
pub trait Methods: Send + Sync + 'static {
    /// Full name of the service: package, dot, name.
    const NAME: &'static str;

    /// Answers a call of `method`; `UNIMPLEMENTED` if there is none of that name.
    fn serve<B: RequestBody>(
        self: Arc<Self>,
        method: &str,
        request: http::Request<B>,
    ) -> impl Future<Output = http::Response<Body>> + Send;
}

/// The body of a request, as the router hands it on.
pub trait RequestBody:
    HttpBody<Data = Bytes, Error: Into<StdError> + Send + 'static> + Send + 'static
{
}

/// Serves [`Methods`]. Clones share them.
#[derive(Debug)]
pub struct GrpcService<M> {
    methods: Arc<M>,
}

impl<B> RequestBody for B where
    B: HttpBody<Data = Bytes, Error: Into<StdError> + Send + 'static> + Send + 'static
{
}

impl<M> GrpcService<M> {
    /// The service that has `methods`.
    pub(super) fn of(methods: M) -> Self {
        Self { methods: Arc::new(methods) }
    }

    /// The service with other methods, before it has clones.
    pub(super) fn change(self, change: impl FnOnce(M) -> M) -> Self {
        let methods =
            Arc::into_inner(self.methods).expect("invariant: a service that is set up has no clones");
        Self::of(change(methods))
    }
}

impl<M> Clone for GrpcService<M> {
    fn clone(&self) -> Self {
        Self { methods: Arc::clone(&self.methods) }
    }
}

impl<M: Methods> NamedService for GrpcService<M> {
    const NAME: &'static str = M::NAME;
}

impl<M: Methods, B: RequestBody> Service<http::Request<B>> for GrpcService<M> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let methods = Arc::clone(&self.methods);
        Box::pin(async move {
            let path = request.uri().path().to_owned();
            let name = path.strip_prefix('/').and_then(|path| path.strip_prefix(M::NAME));
            let method = name.and_then(|name| name.strip_prefix('/')).unwrap_or(&path);
            Ok(methods.serve(method, request).await)
        })
    }
}
