//! REAPI from the side of a client: what `action fetch`, `bench` and `demo` need of a node, or of any other
//! server.
//!
//! Here is how to connect, and a store to read from, verified. [`Client`] makes the other calls.

use std::time::Duration;

use bytes::Bytes;
use farmhand_proto::bytestream::byte_stream_client::ByteStreamClient;
use farmhand_proto::bytestream::{ReadRequest, ReadResponse};
use farmhand_proto::reapi;
use farmhand_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::error::CliError;
use crate::digest::{Digest, DigestFunction};

mod blob;
mod client;

pub(super) use blob::Blob;
pub(super) use client::{CallError, Client};

/// Time a connection may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long a server may be silent before it is asked for a sign of life, and how long that may take.
const SILENCE: Duration = Duration::from_secs(10);

/// Bytes of a flow-control window: enough for a fast loopback.
const WINDOW: u32 = 8 << 20;

/// Bytes of the largest message taken.
const MAX_MESSAGE: usize = 16 << 20;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// Not an address.
    #[error("{0:?} is no address; use IP:PORT or unix:PATH")]
    Address(String),
    /// Nobody there.
    #[error("cannot connect to {address}")]
    Transport {
        /// Where.
        address: String,
        /// Why not.
        source: tonic::transport::Error,
    },
}

/// Connects to `address`: `IP:PORT`, `grpc://HOST:PORT`, `http://HOST:PORT`, `unix:PATH`.
pub(super) async fn connect(address: &str) -> Result<Channel, ConnectError> {
    let uri = match address.split_once("://") {
        Some(("grpc", rest)) => format!("http://{rest}"),
        Some(_) => address.to_owned(),
        None if address.starts_with("unix:") => address.to_owned(),
        None => format!("http://{address}"),
    };
    let endpoint = Endpoint::from_shared(uri).map_err(|_| ConnectError::Address(address.to_owned()))?;
    endpoint
        .connect_timeout(CONNECT_LIMIT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(SILENCE)
        .keep_alive_timeout(SILENCE)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .connect()
        .await
        .map_err(|source| ConnectError::Transport { address: address.to_owned(), source })
}

/// The store of a server, for one instance.
#[derive(Clone)]
pub(super) struct RemoteCas {
    cas: ContentAddressableStorageClient<Channel>,
    stream: ByteStreamClient<Channel>,
    instance: String,
}

// === impl RemoteCas ===

impl RemoteCas {
    /// The store of `instance` behind `channel`.
    pub(super) fn new(channel: Channel, instance: &str) -> Self {
        Self {
            cas: ContentAddressableStorageClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            stream: ByteStreamClient::new(channel).max_decoding_message_size(MAX_MESSAGE),
            instance: instance.to_owned(),
        }
    }

    /// Small blobs in one call, verified, in the order asked; 3 MiB together at most.
    pub(super) async fn read_batch(&mut self, digests: &[Digest]) -> Result<Vec<Bytes>, CliError> {
        let Some(first) = digests.first() else { return Ok(Vec::new()) };
        let request = reapi::BatchReadBlobsRequest {
            instance_name: self.instance.clone(),
            digests: digests.iter().map(Digest::to_wire).collect(),
            digest_function: first.function().to_wire(),
            ..Default::default()
        };
        let mut responses = self.cas.batch_read_blobs(request).await?.into_inner().responses;
        digests.iter().map(|digest| take_blob(&mut responses, digest)).collect()
    }

    /// A blob in pieces. The caller verifies what it put together.
    pub(super) async fn read_stream(&mut self, digest: &Digest) -> Result<Streaming<ReadResponse>, CliError> {
        let request =
            ReadRequest { resource_name: resource_name(&self.instance, digest), ..Default::default() };
        Ok(self.stream.read(request).await?.into_inner())
    }
}

/// The blob of `digest` among the answers of a batch.
fn take_blob(
    responses: &mut [reapi::batch_read_blobs_response::Response],
    digest: &Digest,
) -> Result<Bytes, CliError> {
    let wire = digest.to_wire();
    let missing = || CliError::new(format!("the server did not send blob {digest}"));
    let response =
        responses.iter_mut().find(|response| response.digest.as_ref() == Some(&wire)).ok_or_else(missing)?;
    if let Some(status) = response.status.as_ref().filter(|status| status.code != 0) {
        return Err(CliError::new(format!("blob {digest}: {}", status.message)));
    }
    // Cloned, because one blob may be asked for under several names.
    let data = Bytes::from(response.data.clone());
    if Digest::of(digest.function(), &data) != *digest {
        return Err(CliError::new(format!("the server sent wrong bytes for blob {digest}")));
    }
    Ok(data)
}

/// `instance/blobs/[function/]hash/size`.
pub(super) fn resource_name(instance: &str, digest: &Digest) -> String {
    let slash = if instance.is_empty() { "" } else { "/" };
    let function = match digest.function() {
        DigestFunction::Sha256 => "",
        DigestFunction::Blake3 => "blake3/",
    };
    format!("{instance}{slash}blobs/{function}{}/{}", digest.hash_hex(), digest.size())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resource_names() {
        let digest = Digest::of(DigestFunction::Sha256, b"abc");
        assert_eq!(resource_name("", &digest), format!("blobs/{digest}"));
        assert_eq!(resource_name("a/b", &digest), format!("a/b/blobs/{digest}"));
        let digest = Digest::of(DigestFunction::Blake3, b"abc");
        assert_eq!(resource_name("", &digest), format!("blobs/{digest}"));
    }

    #[test]
    fn wrong_bytes_are_not_taken() {
        let digest = Digest::of(DigestFunction::Sha256, b"abc");
        let response = |data: &[u8]| reapi::batch_read_blobs_response::Response {
            digest: Some(digest.to_wire()),
            data: data.to_vec(),
            ..Default::default()
        };
        assert_eq!(take_blob(&mut [response(b"abc")], &digest).as_deref(), Ok(&b"abc"[..]));
        assert!(take_blob(&mut [response(b"abd")], &digest).is_err());
        assert!(take_blob(&mut [], &digest).is_err());
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_told_so() {
        let error = connect("not an address").await.unwrap_err();
        assert!(matches!(error, ConnectError::Address(_)), "{error}");
    }
}
