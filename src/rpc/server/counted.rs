//! [`Counted`]: services whose calls are entered in the [`Ledger`](super::ledger::Ledger), with what they hold.
//! A plain HTTP request has no messages: its service counts what it holds itself.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body::{Body as _, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use super::is_grpc;
use super::ledger::{Account, Call, Holding};

/// Bytes in front of each gRPC message: a compression flag and the length.
const PREFIX: usize = 5;

/// The services, wrapped. A call must have the [`Account`] of its connection among its extensions.
#[derive(Clone, Debug)]
pub(super) struct Counted<S>(S);

/// What a client sends: the parts of a message that is not complete yet are counted.
struct RequestBody {
    inner: Body,
    framing: Framing,
    holding: Holding,
}

/// What a client is sent: a frame is counted until the next is asked for, which is not before the client
/// has taken most of it.
struct ResponseBody {
    inner: Body,
    /// The first frame, read ahead: it stands for the answer while the client takes nothing.
    first: Option<Result<Frame<Bytes>, Status>>,
    /// There was no first frame, and so there is no other.
    is_empty: bool,
    holding: Holding,
    _call: Call,
}

/// Finds where messages end in a stream of bytes.
#[derive(Debug, Default)]
struct Framing {
    prefix: [u8; PREFIX],
    prefix_len: usize,
    /// Bytes of the message that have not come, once its prefix is complete.
    missing: u64,
    /// Bytes of the message that have come.
    come: u64,
}

// === impl Counted ===

impl<S> Counted<S> {
    pub(super) fn new(services: S) -> Self {
        Self(services)
    }
}

impl<S> Service<http::Request<Body>> for Counted<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let Some(account) = request.extensions().get::<Account>().cloned() else {
            return Box::pin(self.0.call(request));
        };
        let (call, holding) = (account.call(), account.holding());
        let mut answer_holding = account.holding();
        let is_grpc = is_grpc(request.headers());
        let answer = self.0.call(if is_grpc {
            request.map(|inner| Body::new(RequestBody { inner, framing: Framing::default(), holding }))
        } else {
            request
        });
        Box::pin(async move {
            // Calls that came before the connection was closed would still be answered one by one.
            if account.is_condemned() {
                return Ok(condemned(is_grpc));
            }
            let (parts, mut inner) = answer.await?.into_parts();
            let first = poll_fn(|context| Pin::new(&mut inner).poll_frame(context)).await;
            answer_holding.set(size_of(first.as_ref()));
            let is_empty = first.is_none();
            let body = ResponseBody { inner, first, is_empty, holding: answer_holding, _call: call };
            Ok(http::Response::from_parts(parts, Body::new(body)))
        })
    }
}

/// What a call on a connection that is being closed is told.
fn condemned(is_grpc: bool) -> http::Response<Body> {
    if is_grpc {
        return Status::resource_exhausted("this connection is being closed").into_http();
    }
    let mut response = http::Response::new(Body::empty());
    *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    response
}

fn size_of(frame: Option<&Result<Frame<Bytes>, Status>>) -> u64 {
    let data = frame.and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref);
    data.map_or(0, |data| data.len() as u64)
}

// === impl RequestBody ===

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        if let Some(data) = frame.as_ref().and_then(|frame| frame.as_ref().ok()).and_then(Frame::data_ref) {
            let held = self.framing.feed(data);
            self.holding.set(held);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

// === impl ResponseBody ===

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        if self.is_empty {
            return Poll::Ready(None);
        }
        self.holding.set(0);
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        self.holding.set(size_of(frame.as_ref()));
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty || (self.first.is_none() && self.inner.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        if self.first.is_some() { SizeHint::default() } else { self.inner.size_hint() }
    }
}

// === impl Framing ===

impl Framing {
    /// Takes in what came next. Returns how much has come of a message that is not complete.
    fn feed(&mut self, mut data: &[u8]) -> u64 {
        while !data.is_empty() {
            if self.prefix_len < PREFIX {
                let taken = data.len().min(PREFIX - self.prefix_len);
                self.prefix[self.prefix_len..][..taken].copy_from_slice(&data[..taken]);
                self.prefix_len += taken;
                data = &data[taken..];
                if self.prefix_len < PREFIX {
                    break;
                }
                let [_, length @ ..] = self.prefix;
                self.missing = u32::from_be_bytes(length).into();
            }
            let taken = self.missing.min(data.len() as u64);
            self.missing -= taken;
            self.come += taken;
            data = &data[taken as usize..];
            if self.missing == 0 {
                *self = Self::default();
            }
        }
        self.come
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_held_is_what_came_of_the_last_message(
            lengths in proptest::collection::vec(0usize..50, 0..8),
            cuts in proptest::collection::vec(1usize..20, 1..40),
        ) {
            let mut bytes = Vec::new();
            let mut held = Vec::new();
            for length in lengths {
                bytes.extend([0, 0, 0, 0, length as u8]);
                bytes.extend(vec![7; length]);
                held.extend([0; PREFIX]);
                held.extend((0..length as u64).map(|at| (at + 1) % length as u64));
            }
            let mut framing = Framing::default();
            let mut at = 0;
            for cut in cuts.iter().cycle() {
                if at == bytes.len() {
                    break;
                }
                let end = (at + cut).min(bytes.len());
                prop_assert_eq!(framing.feed(&bytes[at..end]), held[end - 1]);
                at = end;
            }
        }
    }
}
