//! One connection: names looked up and judged, TCP, a proxy where there is one, TLS, and a request with its answer.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, response};
use http_body::Body as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::super::error::OriginError;
use super::super::rules::{Refused, Rules};
use super::super::uri::Url;
use crate::config::ProxyAddress;

/// How long one address is tried.
const CONNECT: Duration = Duration::from_secs(15);

/// How long a server may be silent.
const SILENCE: Duration = Duration::from_secs(60);

/// Bytes of the headers of an answer, and of what is read ahead of its body.
const BUFFER: usize = 256 * 1024;

/// Bytes of the answer of a proxy.
const PROXY_ANSWER: usize = 16 * 1024;

/// Bytes both ways.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// Makes connections.
pub(super) struct Dialer {
    rules: Rules,
    proxy: Option<ProxyAddress>,
    /// Made when it is needed first: the certificates of the system are many.
    tls: OnceCell<TlsConnector>,
}

/// The body of an answer. The connection is driven by who reads, and closed when this is dropped.
pub(in crate::asset) struct Body {
    connection: Option<BoxFuture<'static, ()>>,
    incoming: Incoming,
}

// === impl Dialer ===

impl Dialer {
    pub(super) fn new(rules: Rules, proxy: Option<ProxyAddress>) -> Self {
        Self { rules, proxy, tls: OnceCell::new() }
    }

    /// Whether a request to `url` is for the proxy to make, not for the server itself.
    pub(super) fn is_relayed(&self, url: &Url) -> bool {
        self.proxy.is_some() && !url.is_secure()
    }

    /// A connection for requests to `url`.
    pub(super) async fn connect(&self, url: &Url) -> Result<Box<dyn Stream>, OriginError> {
        let stream = match &self.proxy {
            None => self.dial(url).await?,
            Some(proxy) => {
                let mut stream = reach(&addresses(proxy.host(), proxy.port()).await?).await?;
                if url.is_secure() {
                    within(SILENCE, "the proxy", tunnel(&mut stream, url)).await?;
                }
                stream
            }
        };
        if !url.is_secure() {
            return Ok(Box::new(stream));
        }
        let tls = self.tls.get_or_try_init(connector).await?;
        let name = ServerName::try_from(url.host().to_owned()).map_err(OriginError::broken)?;
        let stream = within(SILENCE, "the handshake", tls.connect(name, stream)).await?;
        Ok(Box::new(stream))
    }

    /// Connects to one of those addresses of the server that may be connected to.
    async fn dial(&self, url: &Url) -> Result<TcpStream, OriginError> {
        let mut addresses = addresses(url.host(), url.port()).await?;
        addresses.retain(|address| self.rules.allows(address.ip()));
        if addresses.is_empty() {
            return Err(Refused::Address(url.host().to_owned()).into());
        }
        reach(&addresses).await
    }
}

/// The addresses of a host, at least one.
async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, OriginError> {
    let found = within(SILENCE, "looking the host up", tokio::net::lookup_host((host, port))).await?;
    let found: Vec<_> = found.collect();
    if found.is_empty() { Err(OriginError::broken("the host has no address")) } else { Ok(found) }
}

/// A connection to the first address that takes one.
async fn reach(addresses: &[SocketAddr]) -> Result<TcpStream, OriginError> {
    let mut failed = OriginError::broken("there is no address");
    for address in addresses {
        match within(CONNECT, "connecting", TcpStream::connect(address)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Has a proxy pass everything on to the server (RFC 9110, 9.3.6).
async fn tunnel(stream: &mut TcpStream, url: &Url) -> io::Result<()> {
    let host = if url.host().contains(':') { format!("[{}]", url.host()) } else { url.host().to_owned() };
    let server = format!("{host}:{}", url.port());
    let request = format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    // The server says nothing before it is spoken to, so there is nothing after the answer of the proxy.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == PROXY_ANSWER {
            return Err(io::Error::other("the proxy says too much"));
        }
        answer.push(stream.read_u8().await?);
    }
    let line =
        String::from_utf8_lossy(answer.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    let is_open = line.strip_prefix("HTTP/1.").is_some_and(|rest| rest.get(1..3) == Some(" 2"));
    if is_open { Ok(()) } else { Err(io::Error::other("the proxy refuses to connect to the server")) }
}

/// TLS that believes the certificates the system believes.
async fn connector() -> Result<TlsConnector, OriginError> {
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let found = found.map_err(OriginError::broken)?;
    let mut roots = RootCertStore::empty();
    let (known, _) = roots.add_parsable_certificates(found.certs);
    if known == 0 {
        return Err(OriginError::broken("this system has no certificates of authorities"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(OriginError::broken)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Waits for a step.
async fn within<T, E: ToString>(
    limit: Duration,
    what: &'static str,
    step: impl Future<Output = Result<T, E>>,
) -> Result<T, OriginError> {
    match timeout(limit, step).await {
        Ok(done) => done.map_err(OriginError::broken),
        Err(_) => Err(OriginError::Slow(what)),
    }
}

// === the exchange ===

/// Sends `request` and waits for the head of the answer.
pub(super) async fn exchange(
    stream: Box<dyn Stream>,
    request: Request<Full<Bytes>>,
) -> Result<(response::Parts, Body), OriginError> {
    let builder = http1::Builder::new().max_buf_size(BUFFER).clone();
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(OriginError::broken)?;
    // What ends a connection is told to who reads from it.
    let connection: BoxFuture<'static, ()> = Box::pin(async move {
        if let Err(error) = connection.await {
            tracing::trace!(%error, "a connection to an origin ended");
        }
    });
    let mut connection = Some(connection);
    let mut answer = Box::pin(sender.send_request(request));
    let answered = poll_fn(|context| {
        drive(&mut connection, context);
        answer.as_mut().poll(context)
    });
    let (parts, incoming) = within(SILENCE, "the answer", answered).await?.into_parts();
    drop(answer);
    Ok((parts, Body { connection, incoming }))
}

/// Lets a connection do what it can.
fn drive(connection: &mut Option<BoxFuture<'static, ()>>, context: &mut Context<'_>) {
    if connection.as_mut().is_some_and(|connection| connection.as_mut().poll(context).is_ready()) {
        *connection = None;
    }
}

// === impl Body ===

impl Body {
    /// Bytes that are announced; at least as many, where that is not known.
    pub(in crate::asset) fn announced(&self) -> u64 {
        self.incoming.size_hint().lower()
    }

    /// The next bytes; `None` after the last of what was announced.
    pub(in crate::asset) async fn next(&mut self) -> Result<Option<Bytes>, OriginError> {
        loop {
            let Self { connection, incoming } = self;
            let frame = poll_fn(|context| {
                drive(connection, context);
                match Pin::new(&mut *incoming).poll_frame(context) {
                    Poll::Ready(frame) => Poll::Ready(frame.transpose()),
                    Poll::Pending => Poll::Pending,
                }
            });
            let Some(frame) = within(SILENCE, "the next bytes", frame).await? else { return Ok(None) };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => return Ok(Some(data)),
                // Trailers say nothing that counts.
                Err(_) => {}
            }
        }
    }
}
