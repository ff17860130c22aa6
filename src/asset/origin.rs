//! [`Origins`]: requests to the servers that have content.
//!
//! HTTP/1.1, a connection for each request: what is downloaded is large, and the address that was judged is the one
//! that is connected to, whatever a name says a moment later. Each redirect is judged like the first address,
//! and headers of clients stay with the server they were meant for. A step that takes too long ends it; so does
//! whoever drops the answer.

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, USER_AGENT};
use http::{Method, Request, StatusCode};
use http_body_util::Full;

use super::error::OriginError;
use super::rules::Rules;
use super::uri::Url;
use crate::config::ProxyAddress;
use connection::{Dialer, exchange};

pub(super) use connection::Body;

mod connection;

/// Redirects followed for one request.
const MOST_REDIRECTS: usize = 10;

/// Who asks.
const AGENT: &str = concat!("farmhand/", env!("CARGO_PKG_VERSION"));

/// The way to servers, as the rules allow it.
pub(super) struct Origins {
    rules: Rules,
    dialer: Dialer,
}

/// What is asked of a server.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    /// Of the client; for the server that is asked first.
    pub(super) headers: HeaderMap,
    /// What is sent; without, it is a GET.
    pub(super) body: Option<Bytes>,
}

// === impl Origins ===

impl Origins {
    pub(super) fn new(rules: Rules, proxy: Option<ProxyAddress>) -> Self {
        Self { dialer: Dialer::new(rules.clone(), proxy), rules }
    }

    /// Whether anything is downloaded at all.
    pub(super) fn any(&self) -> bool {
        self.rules.any()
    }

    /// Asks `url`, and where it redirects to: who answered, and the answer, which is an OK.
    pub(super) async fn ask(&self, url: &Url, ask: &Ask) -> Result<(Url, Body), OriginError> {
        let (mut url, mut headers) = (url.clone(), ask.headers.clone());
        for _ in 0..=MOST_REDIRECTS {
            self.rules.check(&url)?;
            let request = self.request(&url, &headers, ask.body.clone())?;
            let stream = self.dialer.connect(&url).await?;
            let (parts, body) = exchange(stream, request).await?;
            match parts.status {
                StatusCode::OK => return Ok((url, body)),
                status if status.is_redirection() && ask.body.is_none() => {
                    let location = parts.headers.get(LOCATION).and_then(|location| location.to_str().ok());
                    let location = location.ok_or_else(|| OriginError::answered(status))?;
                    let next = url.join(location).ok_or(OriginError::Redirect)?;
                    if !next.is_same_origin(&url) {
                        headers.clear();
                    }
                    url = next;
                }
                status => return Err(OriginError::answered(status)),
            }
        }
        Err(OriginError::Redirects)
    }

    fn request(
        &self,
        url: &Url,
        headers: &HeaderMap,
        body: Option<Bytes>,
    ) -> Result<Request<Full<Bytes>>, OriginError> {
        let target = if self.dialer.is_relayed(url) { url.absolute() } else { url.target() };
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let request =
            Request::builder().method(method).uri(target).header(http::header::HOST, url.authority());
        let mut request =
            request.body(Full::new(body.unwrap_or_default())).map_err(|_| OriginError::Redirect)?;
        let sent = request.headers_mut();
        sent.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        if let Some(mut credentials) = url.credentials().and_then(|text| HeaderValue::from_str(&text).ok()) {
            credentials.set_sensitive(true);
            sent.insert(AUTHORIZATION, credentials);
        }
        sent.extend(headers.clone());
        Ok(request)
    }
}
