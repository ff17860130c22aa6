//! [`Calls`]: what every call goes through before its service sees it.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service;

use super::Caller;
use super::counted::Counted;
use super::ledger::Account;

/// The services as one connection sees them.
#[derive(Clone)]
pub(super) struct Calls {
    account: Account,
    services: Counted<Routes>,
    /// Whose connection it is, where that is known.
    caller: Option<Caller>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Calls {
    pub(super) fn new(account: Account, services: Counted<Routes>, caller: Option<Caller>) -> Self {
        Self { account, services, caller }
    }
}

impl<B> Service<Request<B>> for Calls
where
    B: http_body::Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let limit = time_limit(request.headers());
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.account.clone());
        if let Some(caller) = &self.caller {
            if !caller.is_member() {
                let status = Status::permission_denied("the farm has another key");
                return Box::pin(std::future::ready(Ok(status.into_http())));
            }
            request.extensions_mut().insert(caller.clone());
        }
        let answer = self.services.call(request);
        match limit {
            None => answer,
            Some(limit) => Box::pin(within(limit, answer)),
        }
    }
}

/// The answer, or `DEADLINE_EXCEEDED` if it has not begun in time.
async fn within(
    limit: Duration,
    answer: Pin<Box<impl Future<Output = Result<Response<Body>, Infallible>> + ?Sized>>,
) -> Result<Response<Body>, Infallible> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer,
        Err(_) => Ok(Status::deadline_exceeded("the time the client gives this call is over").into_http()),
    }
}

/// How long the client waits for an answer: the header `grpc-timeout`, at most eight digits and a unit
/// (gRPC over HTTP/2). One that cannot be read is as if it were not there.
fn time_limit(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-timeout")?.to_str().ok()?;
    let unit = value.chars().last()?;
    let digits = value.strip_suffix(unit)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(count * 3600)),
        'M' => Some(Duration::from_secs(count * 60)),
        'S' => Some(Duration::from_secs(count)),
        'm' => Some(Duration::from_millis(count)),
        'u' => Some(Duration::from_micros(count)),
        'n' => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_limit_of_a_client() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", value.parse().unwrap());
            time_limit(&headers)
        };
        assert_eq!(read("3H"), Some(Duration::from_secs(10_800)));
        assert_eq!(read("2M"), Some(Duration::from_secs(120)));
        assert_eq!(read("99999999S"), Some(Duration::from_secs(99_999_999)));
        assert_eq!(read("82m"), Some(Duration::from_millis(82)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        assert_eq!(read("0n"), Some(Duration::ZERO));
        for wrong in ["", "S", "5", "5s", "-5S", "+5S", "1 S", "100000000S", "5é"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        assert_eq!(time_limit(&HeaderMap::new()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_takes_longer_is_answered_by_a_status() {
        let never = Box::pin(std::future::pending::<Result<Response<Body>, Infallible>>());
        let answer = within(Duration::from_secs(3), never).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "4");
        let soon = Box::pin(std::future::ready(Ok(Response::new(Body::empty()))));
        let answer = within(Duration::from_secs(3), soon).await.unwrap();
        assert!(!answer.headers().contains_key("grpc-status"));
    }
}
