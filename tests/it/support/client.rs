//! The generated clients of every service, and short forms of what tests do most.

use std::net::SocketAddr;

use bytes::Bytes;
use farmhand::digest::{Digest, DigestFunction};
use farmhand_proto::reapi::action_cache_client::ActionCacheClient;
use farmhand_proto::reapi::capabilities_client::CapabilitiesClient;
use farmhand_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use farmhand_proto::reapi::execution_client::ExecutionClient;
use farmhand_proto::reapi::{self, ActionResult};
use farmhand_proto::{bytestream, longrunning};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Messages the server sends stay below this, the default receive limit of gRPC clients.
pub(crate) const MESSAGE_LIMIT: usize = 4 * 1024 * 1024;

/// A connection to a node, for one instance and one digest function.
#[derive(Clone)]
pub(crate) struct Client {
    /// The connection.
    pub(crate) channel: Channel,
    /// Instance in every request.
    pub(crate) instance: String,
    /// Function of every digest made here.
    pub(crate) function: DigestFunction,
}

impl Client {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr, instance: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().tcp_nodelay(true);
        Self::over(endpoint.connect().await.unwrap(), instance)
    }

    /// For calls over that connection.
    pub(crate) fn over(channel: Channel, instance: &str) -> Self {
        Self { channel, instance: instance.to_owned(), function: DigestFunction::Sha256 }
    }

    /// The same connection with another digest function.
    pub(crate) fn with_function(mut self, function: DigestFunction) -> Self {
        self.function = function;
        self
    }

    /// The same connection for another instance.
    pub(crate) fn with_instance(mut self, instance: &str) -> Self {
        self.instance = instance.to_owned();
        self
    }

    pub(crate) fn cas(&self) -> ContentAddressableStorageClient<Channel> {
        ContentAddressableStorageClient::new(self.channel.clone()).max_encoding_message_size(usize::MAX)
    }

    pub(crate) fn action_cache(&self) -> ActionCacheClient<Channel> {
        ActionCacheClient::new(self.channel.clone())
    }

    pub(crate) fn capabilities(&self) -> CapabilitiesClient<Channel> {
        CapabilitiesClient::new(self.channel.clone())
    }

    pub(crate) fn execution(&self) -> ExecutionClient<Channel> {
        ExecutionClient::new(self.channel.clone())
    }

    pub(crate) fn byte_stream(&self) -> bytestream::byte_stream_client::ByteStreamClient<Channel> {
        bytestream::byte_stream_client::ByteStreamClient::new(self.channel.clone())
            .max_encoding_message_size(usize::MAX)
    }

    pub(crate) fn operations(&self) -> longrunning::operations_client::OperationsClient<Channel> {
        longrunning::operations_client::OperationsClient::new(self.channel.clone())
    }

    /// `digest_function` for requests: unset for SHA256, as most clients leave it.
    pub(crate) fn wire_function(&self) -> i32 {
        match self.function {
            DigestFunction::Sha256 => 0,
            other => other.to_wire(),
        }
    }

    /// The digest of `data`.
    pub(crate) fn digest(&self, data: &[u8]) -> Digest {
        Digest::of(self.function, data)
    }

    /// `[instance/]` in front of a resource name.
    fn prefix(&self) -> String {
        if self.instance.is_empty() { String::new() } else { format!("{}/", self.instance) }
    }

    /// `[function/]hash/size` as resource names have it.
    pub(crate) fn blob_segments(&self, digest: &Digest) -> String {
        let function = match self.function {
            DigestFunction::Sha256 => String::new(),
            other => format!("{other}/"),
        };
        format!("{function}{}/{}", digest.hash_hex(), digest.size())
    }

    /// Resource name for reading.
    pub(crate) fn read_name(&self, digest: &Digest) -> String {
        format!("{}blobs/{}", self.prefix(), self.blob_segments(digest))
    }

    /// Resource name for writing.
    pub(crate) fn write_name(&self, digest: &Digest) -> String {
        format!("{}uploads/{}/blobs/{}", self.prefix(), uuid::Uuid::new_v4(), self.blob_segments(digest))
    }

    /// Uploads one blob, by batch or by stream as its size demands.
    pub(crate) async fn put(&self, data: &[u8]) -> Digest {
        let digest = self.digest(data);
        if data.len() > 2 * 1024 * 1024 {
            self.write(&digest, data).await.unwrap();
            return digest;
        }
        let response = self.batch_update(&[(digest, data)]).await.unwrap();
        let status = response.responses[0].status.clone().unwrap_or_default();
        assert_eq!(status.code, 0, "{}", status.message);
        digest
    }

    /// `BatchUpdateBlobs` without compression.
    pub(crate) async fn batch_update(
        &self,
        blobs: &[(Digest, &[u8])],
    ) -> Result<reapi::BatchUpdateBlobsResponse, Status> {
        let requests = blobs
            .iter()
            .map(|(digest, data)| reapi::batch_update_blobs_request::Request {
                digest: Some(digest.to_wire()),
                data: data.to_vec(),
                compressor: 0,
            })
            .collect();
        let request = reapi::BatchUpdateBlobsRequest {
            instance_name: self.instance.clone(),
            requests,
            digest_function: self.wire_function(),
        };
        Ok(self.cas().batch_update_blobs(request).await?.into_inner())
    }

    /// `BatchReadBlobs` without compression.
    pub(crate) async fn batch_read(
        &self,
        digests: &[Digest],
    ) -> Result<reapi::BatchReadBlobsResponse, Status> {
        let request = reapi::BatchReadBlobsRequest {
            instance_name: self.instance.clone(),
            digests: digests.iter().map(Digest::to_wire).collect(),
            digest_function: self.wire_function(),
            ..Default::default()
        };
        Ok(self.cas().batch_read_blobs(request).await?.into_inner())
    }

    /// `FindMissingBlobs`.
    pub(crate) async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, Status> {
        let request = reapi::FindMissingBlobsRequest {
            instance_name: self.instance.clone(),
            blob_digests: digests.iter().map(Digest::to_wire).collect(),
            digest_function: self.wire_function(),
        };
        let response =
            self.cas().max_decoding_message_size(usize::MAX).find_missing_blobs(request).await?.into_inner();
        let digests = response.missing_blob_digests.iter();
        Ok(digests.map(|digest| Digest::from_wire(self.function, digest).unwrap()).collect())
    }

    /// Whether the node has the blob.
    pub(crate) async fn has(&self, digest: &Digest) -> bool {
        self.find_missing(&[*digest]).await.unwrap().is_empty()
    }

    /// Writes by ByteStream in pieces of 1 MiB; `committed_size` of the answer.
    pub(crate) async fn write(&self, digest: &Digest, data: &[u8]) -> Result<i64, Status> {
        self.write_named(self.write_name(digest), data).await
    }

    /// Writes under a resource name of the test's choice.
    pub(crate) async fn write_named(&self, resource_name: String, data: &[u8]) -> Result<i64, Status> {
        self.write_messages(write_requests(resource_name, data)).await
    }

    /// Sends exactly these messages.
    pub(crate) async fn write_messages(
        &self,
        messages: Vec<bytestream::WriteRequest>,
    ) -> Result<i64, Status> {
        let response = self.byte_stream().write(tokio_stream::iter(messages)).await?;
        Ok(response.into_inner().committed_size)
    }

    /// Reads a whole blob by ByteStream.
    pub(crate) async fn read(&self, digest: &Digest) -> Result<Vec<u8>, Status> {
        self.read_named(self.read_name(digest), 0, 0).await
    }

    /// Reads under a resource name of the test's choice.
    pub(crate) async fn read_named(
        &self,
        resource_name: String,
        offset: i64,
        limit: i64,
    ) -> Result<Vec<u8>, Status> {
        let request = bytestream::ReadRequest { resource_name, read_offset: offset, read_limit: limit };
        let mut stream = self.byte_stream().read(request).await?.into_inner();
        let mut all = Vec::new();
        while let Some(message) = stream.message().await? {
            all.extend_from_slice(&message.data);
        }
        Ok(all)
    }

    /// `GetActionResult` without inlining; `None` when there is none.
    pub(crate) async fn action_result(&self, action: &Digest) -> Option<ActionResult> {
        let request = reapi::GetActionResultRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(action.to_wire()),
            digest_function: self.wire_function(),
            ..Default::default()
        };
        match self.action_cache().get_action_result(request).await {
            Ok(response) => Some(response.into_inner()),
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => panic!("GetActionResult: {status}"),
        }
    }

    /// `UpdateActionResult`.
    pub(crate) async fn update_action_result(
        &self,
        action: &Digest,
        result: ActionResult,
    ) -> Result<ActionResult, Status> {
        let request = reapi::UpdateActionResultRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(action.to_wire()),
            action_result: Some(result),
            digest_function: self.wire_function(),
            ..Default::default()
        };
        Ok(self.action_cache().update_action_result(request).await?.into_inner())
    }

    /// `GetCapabilities`.
    pub(crate) async fn get_capabilities(&self) -> Result<reapi::ServerCapabilities, Status> {
        let request = reapi::GetCapabilitiesRequest { instance_name: self.instance.clone() };
        Ok(self.capabilities().get_capabilities(request).await?.into_inner())
    }
}

/// The messages of a plain upload: name in the first only, pieces of 1 MiB, finished in the last.
pub(crate) fn write_requests(resource_name: String, data: &[u8]) -> Vec<bytestream::WriteRequest> {
    let data = Bytes::copy_from_slice(data);
    let pieces: Vec<Bytes> = if data.is_empty() {
        vec![Bytes::new()]
    } else {
        (0..data.len()).step_by(1 << 20).map(|at| data.slice(at..data.len().min(at + (1 << 20)))).collect()
    };
    let last = pieces.len() - 1;
    let mut offset = 0;
    let requests = pieces.into_iter().enumerate().map(|(i, piece)| {
        let request = bytestream::WriteRequest {
            resource_name: if i == 0 { resource_name.clone() } else { String::new() },
            write_offset: offset,
            finish_write: i == last,
            data: piece.to_vec(),
        };
        offset += piece.len() as i64;
        request
    });
    requests.collect()
}
