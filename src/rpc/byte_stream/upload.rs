//! [`Upload`]: one blob on its way in.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::cas::{BlobWriter, CasError, ContentAddressableStorage};
use crate::digest::Digest;

/// Blobs up to so many bytes are collected in memory; larger ones go to the store as they come.
const COLLECTED: u64 = 64 * 1024;

/// A blob of which some bytes may have come. Nothing is visible before [`commit`](Self::commit).
pub(in crate::rpc) struct Upload {
    cas: Arc<dyn ContentAddressableStorage>,
    digest: Digest,
    /// Time since its last use, if it is a copy of another machine.
    age: Option<Duration>,
    state: State,
}

enum State {
    Empty,
    /// All of it, from one message.
    Whole(Bytes),
    Collected(BytesMut),
    Stream(Box<dyn BlobWriter>),
}

impl Upload {
    pub(in crate::rpc) fn new(
        cas: Arc<dyn ContentAddressableStorage>,
        digest: Digest,
        age: Option<Duration>,
    ) -> Self {
        Self { cas, digest, age, state: State::Empty }
    }

    /// Bytes that have come.
    pub(in crate::rpc) fn written(&self) -> u64 {
        match &self.state {
            State::Empty => 0,
            State::Whole(data) => data.len() as u64,
            State::Collected(data) => data.len() as u64,
            State::Stream(writer) => writer.written(),
        }
    }

    /// Begins a large blob in the store, which refuses one that it can never hold.
    pub(in crate::rpc) async fn open(&mut self) -> Result<(), CasError> {
        if matches!(self.state, State::Empty) && self.digest.size() > COLLECTED {
            let writer = match self.age {
                Some(age) => self.cas.copy_writer(&self.digest, age).await?,
                None => self.cas.writer(&self.digest).await?,
            };
            self.state = State::Stream(writer);
        }
        Ok(())
    }

    /// Takes the next bytes. `is_last` promises that no more come: a blob that arrives in one message
    /// is then stored without another copy.
    pub(in crate::rpc) async fn write(&mut self, data: Bytes, is_last: bool) -> Result<(), CasError> {
        if data.is_empty() {
            return Ok(());
        }
        if self.written() + data.len() as u64 > self.digest.size() {
            return Err(CasError::TooLong(self.digest));
        }
        if matches!(self.state, State::Empty) && is_last && data.len() as u64 == self.digest.size() {
            self.state = State::Whole(data);
            return Ok(());
        }
        self.open().await?;
        if let State::Empty = self.state {
            self.state = State::Collected(BytesMut::with_capacity(self.digest.size() as usize));
        }
        match &mut self.state {
            State::Empty | State::Whole(_) => Err(CasError::TooLong(self.digest)),
            State::Collected(all) => {
                all.extend_from_slice(&data);
                Ok(())
            }
            State::Stream(writer) => writer.write(data).await,
        }
    }

    /// Verifies the blob and makes it visible.
    pub(in crate::rpc) async fn commit(self) -> Result<(), CasError> {
        match self.state {
            State::Empty => self.cas.put(&self.digest, Bytes::new()).await,
            State::Whole(data) => self.cas.put(&self.digest, data).await,
            State::Collected(data) => self.cas.put(&self.digest, data.freeze()).await,
            State::Stream(writer) => writer.commit().await,
        }
    }
}
