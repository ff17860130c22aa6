//! The cache over plain HTTP, as bazel-remote has it: `GET`, `HEAD` and `PUT` of `[/instance]/cas/HASH` and
//! `[/instance]/ac/HASH`; `/status` and `/metrics` beside.
//!
//! [`path`] says what is asked for, [`headers`] what a request says of its body and wants of the answer,
//! [`incoming`] is that body, [`blobs`] and [`results`] serve, [`refusal`] is what failures look like. The
//! stores are those of gRPC: what came one way is had the other way. Who is asking is not checked, as on the
//! rest of this port.
//!
//! A request is answered when its body was read to the end, within bounds, so that a client that writes first
//! and reads afterwards gets its answer, and keeps its connection. Bodies pass in pieces.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::header::{ALLOW, CONNECTION};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::action_cache::ActionCacheService;
use super::control::ControlSource;
use super::server::is_grpc;
use super::service::RequestBody;
use super::{Instance, InstanceError, Instances};
use crate::activity::Activity;
use crate::cas::ContentAddressableStorage;
use crate::config::HttpResults;
use crate::instance::InstanceName;
use counts::Counts;
use incoming::Incoming;
use path::Resource;
use refusal::Refusal;

mod blobs;
mod counts;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod headers;
mod incoming;
mod metrics;
mod outgoing;
pub mod path;
mod refusal;
mod results;
mod status;

/// What the service speaks of.
pub struct HttpParts {
    /// Blobs.
    pub cas: Arc<dyn ContentAddressableStorage>,
    /// Results.
    pub results: ActionCacheService,
    /// Which names are served.
    pub instances: Instances,
    /// Told what is moved.
    pub activity: Arc<Activity>,
    /// The node.
    pub source: Arc<dyn ControlSource>,
    /// What becomes of results that are none.
    pub other_results: HttpResults,
}

/// The service, for what no gRPC service answers. Clones are the same.
#[derive(Clone)]
pub struct HttpService(Arc<Shared>);

struct Shared {
    parts: HttpParts,
    counts: Counts,
}

// === impl HttpService ===

impl HttpService {
    /// Serves what `parts` has.
    pub fn new(parts: HttpParts) -> Self {
        Self(Arc::new(Shared { parts, counts: Counts::default() }))
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let mut body = Incoming::new(body, &head.headers);
        let mut response = match self.serve(&head, &mut body).await {
            Ok(response) => response,
            Err(refusal) => refusal.into_response(),
        };
        if !body.drain().await && head.version < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        self.0.counts.note(&head.method, response.status());
        response
    }

    async fn serve(&self, head: &Parts, body: &mut Incoming) -> Result<Response<Body>, Refusal> {
        let default_function = |name: &_| self.0.parts.instances.default_function(name);
        let resource = Resource::parse(head.uri.path(), default_function)?;
        let is_read = matches!(head.method, Method::GET | Method::HEAD);
        let is_write = head.method == Method::PUT;
        match resource {
            Resource::Blob { instance, hash } if is_read => {
                self.instance(instance)?;
                self.get_blob(head, &hash).await
            }
            Resource::Blob { instance, hash } if is_write => {
                self.instance(instance)?;
                self.put_blob(head, body, &hash).await
            }
            Resource::Result { instance, hash } if is_read => {
                self.get_result(head, &self.instance(instance)?, &hash).await
            }
            Resource::Result { instance, hash } if is_write => {
                self.put_result(head, body, self.instance(instance)?, &hash).await
            }
            Resource::Status if is_read => {
                let text = status::json(&self.0.parts.source.status().await);
                Ok(outgoing::whole(headers::JSON, text))
            }
            Resource::Metrics if is_read => {
                let status = self.0.parts.source.status().await;
                let text = metrics::text(&status, self.0.parts.activity.moved(), &self.0.counts);
                Ok(outgoing::whole(metrics::CONTENT_TYPE, text))
            }
            Resource::Blob { .. } | Resource::Result { .. } => Err(not_allowed(head, "GET, HEAD, PUT")),
            Resource::Status | Resource::Metrics => Err(not_allowed(head, "GET, HEAD")),
        }
    }

    fn instance(&self, name: InstanceName) -> Result<Instance, InstanceError> {
        self.0.parts.instances.get(name)
    }
}

fn not_allowed(head: &Parts, allowed: &'static str) -> Refusal {
    let text = format!("{} is not served here; {allowed} are", head.method);
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, text).with(ALLOW, HeaderValue::from_static(allowed))
}

impl<B: RequestBody> Service<Request<B>> for HttpService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    /// gRPC calls that no service has come here too.
    fn call(&mut self, request: Request<B>) -> Self::Future {
        if is_grpc(request.headers()) {
            let status = Status::unimplemented(format!("{} is not served", request.uri().path()));
            return Box::pin(std::future::ready(Ok(status.into_http())));
        }
        let (this, is_head) = (self.clone(), request.method() == Method::HEAD);
        Box::pin(async move {
            let response = this.answer(request.map(Body::new)).await;
            Ok(if is_head { response.map(|_| Body::empty()) } else { response })
        })
    }
}
