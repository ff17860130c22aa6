//! `google.bytestream.ByteStream`: blobs of any size, in and out.
//!
//! An own service in place of the generated one, so that blobs are not copied between socket and
//! store. `read` and `write` hold one call each; `incoming` reads the messages of an upload; `upload` is
//! a blob on its way in; `partial` keeps what came of interrupted uploads for a while, so that
//! clients can go on where they were.
//!
//! An upload may be answered before the client has sent everything: the blob is there already, or
//! the bytes are wrong. The rest is then read and thrown away, within bounds, because clients that
//! send first and read afterwards would see a reset stream in place of the answer.

use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::bytestream;
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Request, Response, Status, Streaming};
use tower::service_fn;

use super::codec::BlobCodec;
use super::log_stream::LogStreams;
use super::resource_name::{LogName, WriteName};
use super::server::Held;
use super::service::{GrpcService, Methods, RequestBody};
use super::{Instances, MAX_RECEIVED_MESSAGE, codec, metadata};
use crate::activity::Activity;
use crate::cas::remote::wire;
use crate::cas::{CasError, ContentAddressableStorage};
use crate::config::CommittedSize;
use crate::digest::Digest;
use crate::tasks::Tasks;
use drain::Drain;
use incoming::Incoming;
use partial::Partials;

mod drain;
mod incoming;
mod partial;
mod read;
pub(super) mod upload;
mod write;

pub use read::ReadError;
pub use write::WriteError;

/// Bytes an open upload counts for: on the average it holds so much until a thread writes it, and a file.
pub(super) const OPEN_UPLOAD: u64 = 256 * 1024;

/// How long and how much interrupted uploads are kept, and what uploads are told.
#[derive(Clone, Debug)]
pub struct ByteStreamSettings {
    /// An upload that sends nothing for so long is ended; one that was interrupted is forgotten.
    pub idle: Duration,
    /// Interrupted uploads kept at most; the oldest goes first.
    pub partial_uploads: usize,
    /// What a complete compressed upload is told it has committed.
    pub committed_size: CommittedSize,
}

/// The service. Clones share their uploads.
pub type ByteStreamService = GrpcService<ByteStreamMethods>;

/// The methods of [`ByteStreamService`].
pub struct ByteStreamMethods {
    cas: Arc<dyn ContentAddressableStorage>,
    instances: Instances,
    settings: ByteStreamSettings,
    activity: Arc<Activity>,
    partials: Arc<Partials>,
    drain: Drain,
    logs: Option<LogStreams>,
}

// === impl ByteStreamSettings ===

impl Default for ByteStreamSettings {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(600),
            partial_uploads: 256,
            committed_size: CommittedSize::default(),
        }
    }
}

// === CommittedSize ===

/// Whether that tool is told the uncompressed size.
fn counts_uncompressed(setting: CommittedSize, tool_name: &str) -> bool {
    match setting {
        CommittedSize::Auto => {
            let tool = tool_name.to_ascii_lowercase();
            ["siso", "reclient", "re-client", "rewrapper", "reproxy", "remotetool", "remote-apis-sdks"]
                .iter()
                .any(|name| tool.contains(name))
        }
        CommittedSize::Compressed => false,
        CommittedSize::Uncompressed => true,
    }
}

// === impl ByteStreamService ===

impl ByteStreamService {
    /// Serves the blobs of `cas`. `activity` is told how many bytes are moved. Idle uploads are dropped, and rests of answered ones read, by
    /// tasks of `tasks`.
    pub fn new(
        cas: Arc<dyn ContentAddressableStorage>,
        instances: Instances,
        settings: ByteStreamSettings,
        activity: Arc<Activity>,
        tasks: &Tasks,
    ) -> Self {
        let partials = Arc::new(Partials::new(settings.idle, settings.partial_uploads));
        tasks.spawn("expire uploads", partial::expire(Arc::clone(&partials), tasks.token().clone()));
        let drain = Drain::new(tasks.clone());
        Self::of(ByteStreamMethods { cas, instances, settings, activity, partials, drain, logs: None })
    }

    /// The same with log streams beside the blobs.
    pub fn with_logs(self, logs: LogStreams) -> Self {
        self.change(|methods| ByteStreamMethods { logs: Some(logs), ..methods })
    }
}

// === impl ByteStreamMethods ===

impl Methods for ByteStreamMethods {
    const NAME: &'static str = "google.bytestream.ByteStream";

    async fn serve<B: RequestBody>(
        self: Arc<Self>,
        method: &str,
        request: http::Request<B>,
    ) -> http::Response<Body> {
        match method {
            "Read" => self.serve_read(request).await,
            "Write" => self.serve_write(request).await,
            "QueryWriteStatus" => self.serve_query(request).await,
            _ => Status::unimplemented(format!("{method} is not served")).into_http(),
        }
    }
}

impl ByteStreamMethods {
    async fn serve_read<B: RequestBody>(self: Arc<Self>, request: http::Request<B>) -> http::Response<Body> {
        let meter = metadata::meter(&self.activity, request.headers());
        let decoder = codec::BlobDecoder::<bytestream::ReadRequest>::default();
        let mut messages =
            Streaming::new_request(decoder, request.into_body(), None, Some(MAX_RECEIVED_MESSAGE));
        let pieces = match messages.message().await {
            Ok(Some(request)) => self.read(request, meter).await,
            Ok(None) => Err(Status::invalid_argument("no request message")),
            Err(status) => Err(status),
        };
        pieces.map_or_else(Status::into_http, codec::data_stream)
    }

    async fn serve_write<B: RequestBody>(self: Arc<Self>, request: http::Request<B>) -> http::Response<Body> {
        let (parts, body) = request.into_parts();
        if parts.headers.get("grpc-encoding").is_some_and(|encoding| encoding != "identity") {
            return Status::unimplemented("gRPC compression is not supported here").into_http();
        }
        let _held = Held::for_call(&parts.extensions, OPEN_UPLOAD);
        let committed = self.write(&parts.headers, Incoming::new(Body::new(body))).await;
        let answer = |committed_size| codec::single(bytestream::WriteResponse { committed_size });
        committed.map_or_else(Status::into_http, answer)
    }

    async fn serve_query<B: RequestBody>(self: Arc<Self>, request: http::Request<B>) -> http::Response<Body> {
        let method = service_fn(move |request: Request<bytestream::QueryWriteStatusRequest>| {
            let methods = Arc::clone(&self);
            async move {
                let age = wire::age_of(request.metadata().as_ref());
                let name = request.into_inner().resource_name;
                methods.query_write_status(&name, age).await.map(Response::new)
            }
        });
        Grpc::new(BlobCodec::default()).unary(method, request).await
    }

    /// How far an upload is; that there is no room for it, if it is a copy of that age.
    async fn query_write_status(
        &self,
        name: &str,
        age: Option<Duration>,
    ) -> Result<bytestream::QueryWriteStatusResponse, Status> {
        let name = match self.parse_write_name(name) {
            Ok(name) => name,
            Err(status) => {
                let (logs, name) = self.log_named(name).ok_or(status)?;
                let (committed, complete) = logs.written(&name)?;
                return Ok(bytestream::QueryWriteStatusResponse {
                    committed_size: signed(committed),
                    complete,
                });
            }
        };
        if self.is_present(&name.digest).await? {
            let committed_size = signed(name.digest.size());
            return Ok(bytestream::QueryWriteStatusResponse { committed_size, complete: true });
        }
        if age.is_some_and(|age| !self.cas.takes_copy(&name.digest, age)) {
            let reason = "what was used later has just been evicted here".to_owned();
            return Err(CasError::NoSpace { wanted: name.digest.size(), reason }.into());
        }
        let committed_size = signed(self.partials.committed(&name.into()));
        Ok(bytestream::QueryWriteStatusResponse { committed_size, complete: false })
    }

    /// Parses the name of an upload into an instance that is served.
    fn parse_write_name(&self, name: &str) -> Result<WriteName, Status> {
        let name = WriteName::parse(name, |instance| self.instances.default_function(instance))?;
        self.instances.get(name.instance.clone())?;
        Ok(name)
    }

    /// The log stream of what is no name of a blob, if it is that of a log stream and they are served here.
    fn log_named(&self, name: &str) -> Option<(&LogStreams, LogName)> {
        Some((self.logs.as_ref()?, LogName::parse(name).ok()?))
    }

    async fn is_present(&self, digest: &Digest) -> Result<bool, Status> {
        Ok(self.cas.find_missing(std::slice::from_ref(digest)).await?.is_empty())
    }
}

/// Sizes on the wire are signed.
fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
