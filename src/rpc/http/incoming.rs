//! [`Incoming`]: the body of a request, in pieces, decompressed where it has to be.
//!
//! It never holds more than a piece. What is not wanted any more is [read to its end](Incoming::drain), within
//! bounds: a connection on which a body stands can carry nothing else.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::body::Body;

use super::headers::{Announced, waits_to_send};
use super::refusal::Refusal;
use crate::activity::Meter;
use crate::cas::compression::{Compressor, Decoder};

/// A body of which nothing comes for so long is given up.
const IDLE: Duration = Duration::from_secs(60);

/// Bytes of a body that are read for nothing, and the time it may take.
const DRAINED: u64 = 64 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(10);

/// The body of a request.
pub(super) struct Incoming {
    body: Body,
    /// The client sends nothing before it is asked to, which the first read does.
    waits: bool,
    ended: bool,
    broken: bool,
}

/// The bytes that a body stands for.
pub(super) struct Decoded<'a> {
    incoming: &'a mut Incoming,
    meter: Meter,
    decoder: Option<Decoder>,
    /// What has come and is not decompressed yet.
    input: Bytes,
    /// What came out and was not wanted yet.
    left: Bytes,
}

// === impl Incoming ===

impl Incoming {
    /// The body of a request with these headers.
    pub(super) fn new(body: Body, headers: &HeaderMap) -> Self {
        let ended = body.is_end_stream();
        Self { body, waits: waits_to_send(headers), ended, broken: false }
    }

    /// What it stands for, as announced. What comes is counted by `meter`.
    pub(super) fn decoded(&mut self, announced: Announced, meter: Meter) -> Result<Decoded<'_>, Refusal> {
        let decoder = match announced.coding {
            Compressor::Identity => None,
            Compressor::Zstd => Some(Decoder::new(announced.size)?),
        };
        Ok(Decoded { incoming: self, meter, decoder, input: Bytes::new(), left: Bytes::new() })
    }

    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        self.waits = false;
        while !self.ended && !self.broken {
            let frame = poll_fn(|context| Pin::new(&mut self.body).poll_frame(context));
            let frame = match timeout(IDLE, frame).await {
                Ok(frame) => frame,
                Err(_) => return Err(self.broken("nothing came of the body for too long")),
            };
            match frame {
                None => self.ended = true,
                Some(Err(error)) => return Err(self.broken(error.message())),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    _ => {}
                },
            }
        }
        Ok(None)
    }

    /// Nothing more comes of it that could be read.
    fn broken(&mut self, reason: &str) -> Refusal {
        self.broken = true;
        Refusal::new(StatusCode::REQUEST_TIMEOUT, format!("the body broke off: {reason}"))
    }

    /// Reads what is left of it. False if there is more than is worth reading, or it does not come.
    pub(super) async fn drain(&mut self) -> bool {
        if self.waits || self.broken {
            return self.ended;
        }
        let deadline = Instant::now() + DRAIN_TIME;
        let mut seen = 0;
        while seen <= DRAINED {
            match timeout_at(deadline, self.next()).await {
                Ok(Ok(Some(data))) => seen += data.len() as u64,
                Ok(Ok(None)) => return true,
                Ok(Err(_)) | Err(_) => return false,
            }
        }
        false
    }
}

// === impl Decoded ===

impl Decoded<'_> {
    /// The next bytes; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        if !self.left.is_empty() {
            return Ok(Some(std::mem::take(&mut self.left)));
        }
        loop {
            let Some(decoder) = &mut self.decoder else { return self.receive().await };
            if let Some(data) = decoder.step(&mut self.input)? {
                // Others have their turn between two steps.
                tokio::task::yield_now().await;
                return Ok(Some(data));
            }
            match self.receive().await? {
                Some(data) => self.input = data,
                None => break,
            }
        }
        self.decoder.as_ref().map_or(Ok(()), Decoder::finish)?;
        Ok(None)
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, Refusal> {
        let data = self.incoming.next().await?;
        self.meter.uploaded(data.as_ref().map_or(0, |data| data.len() as u64));
        Ok(data)
    }

    /// The next `most` bytes, or all that is left.
    pub(super) async fn collect(&mut self, most: usize) -> Result<Bytes, Refusal> {
        let mut all = BytesMut::new();
        while all.len() < most {
            let Some(mut data) = self.next().await? else { break };
            self.left = data.split_off(data.len().min(most - all.len()));
            all.extend_from_slice(&data);
        }
        Ok(all.freeze())
    }
}
