//! What a client does, as fast as it can. Each probe returns seconds, things a second or bytes a
//! second.

use bytes::Bytes;
use farmhand_proto::bytestream::{ReadRequest, WriteResponse};
use farmhand_proto::raw::{
    BatchReadBlobsResponse, BatchUpdateBlobsRequest, BlobUpdate, ReadResponse, WriteRequest,
};
use farmhand_proto::reapi::action_cache_client::ActionCacheClient;
use farmhand_proto::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use farmhand_proto::reapi::execution_client::ExecutionClient;
use farmhand_proto::{any, longrunning, reapi};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use http::uri::PathAndQuery;
use prost::Message;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{IntoRequest, IntoStreamingRequest, Status};
use tonic_prost::ProstCodec;

use super::super::error::CliError;
use super::super::remote::resource_name;
use super::TIME;
use super::limits::median;
use crate::digest::{Digest, DigestFunction};

/// Bytes of a small blob.
pub(super) const SMALL_BLOB: usize = 1024;

/// Bytes of a digest on the wire: two tags, two lengths, 64 hex digits, a size.
pub(super) const DIGEST_BYTES: f64 = 71.0;

/// Blobs in a batch, and digests in a FindMissing.
const BATCH: usize = 500;

/// Bytes of the large blob.
const LARGE: usize = 64 << 20;

/// Bytes of a message of a stream.
const PIECE: usize = 1 << 20;

/// Calls in flight in the parallel probes.
const IN_FLIGHT: usize = 8;

/// Bytes of the largest message taken.
const MAX_MESSAGE: usize = 16 << 20;

/// A client with the blobs it has stored so far.
pub(super) struct Bench {
    channel: Channel,
    instance: String,
    /// Makes the blobs of this run differ from those of every other.
    salt: [u8; 16],
    made: u64,
    small: Vec<Digest>,
    large: Option<Digest>,
    action: Option<reapi::Digest>,
}

// === impl Bench ===

impl Bench {
    /// A client of `instance` behind `channel`.
    pub(super) fn new(channel: Channel, instance: &str) -> Self {
        let salt = uuid::Uuid::new_v4().into_bytes();
        let instance = instance.to_owned();
        Self { channel, instance, salt, made: 0, small: Vec::new(), large: None, action: None }
    }

    /// Median seconds of a no-op action, one after the other.
    pub(super) async fn action_latency(&mut self) -> Result<f64, CliError> {
        let request = self.no_op().await?;
        let mut times = Vec::new();
        let start = Instant::now();
        while start.elapsed() < TIME {
            let begin = Instant::now();
            execute(self.channel.clone(), request.clone()).await?;
            times.push(begin.elapsed().as_secs_f64());
        }
        Ok(median(&mut times))
    }

    /// No-op actions a second, several in flight.
    pub(super) async fn action_rate(&mut self) -> Result<f64, CliError> {
        let request = self.no_op().await?;
        let channel = self.channel.clone();
        in_flight(|| execute(channel.clone(), request.clone())).await
    }

    /// Small blobs stored a second, in batches, one after the other.
    pub(super) async fn batch_write(&mut self) -> Result<f64, CliError> {
        let mut spent = 0.0;
        let mut stored = 0;
        while spent < TIME.as_secs_f64() {
            let blobs: Vec<Bytes> = (0..BATCH).map(|_| self.fresh(SMALL_BLOB)).collect();
            let digests: Vec<Digest> = blobs.iter().map(|blob| digest_of(blob)).collect();
            let begin = Instant::now();
            self.store(&digests, blobs).await?;
            spent += begin.elapsed().as_secs_f64();
            stored += digests.len();
            self.small = digests;
        }
        Ok(stored as f64 / spent)
    }

    /// Small blobs read a second, in batches, one after the other.
    pub(super) async fn batch_read(&mut self) -> Result<f64, CliError> {
        self.need_small().await?;
        let request = reapi::BatchReadBlobsRequest {
            instance_name: self.instance.clone(),
            digests: self.small.iter().map(Digest::to_wire).collect(),
            ..Default::default()
        };
        let start = Instant::now();
        let mut read = 0;
        while start.elapsed() < TIME {
            let path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchReadBlobs";
            let mut grpc = self.grpc().await?;
            let codec = ProstCodec::<_, BatchReadBlobsResponse>::default();
            let answer = grpc.unary(request.clone().into_request(), PathAndQuery::from_static(path), codec);
            let responses = answer.await?.into_inner().responses;
            if let Some(bad) = responses.iter().find(|response| response.data.len() != SMALL_BLOB) {
                return Err(CliError::new(format!("a blob of the batch was not read: {:?}", bad.status)));
            }
            read += responses.len();
        }
        Ok(read as f64 / start.elapsed().as_secs_f64())
    }

    /// Bytes a second of a large blob on its way in.
    pub(super) async fn stream_write(&mut self) -> Result<f64, CliError> {
        let mut times = Vec::new();
        let start = Instant::now();
        while start.elapsed() < TIME * 2 {
            let blob = self.fresh(LARGE);
            let digest = digest_of(&blob);
            let begin = Instant::now();
            self.upload(&digest, &blob).await?;
            times.push(begin.elapsed().as_secs_f64());
            self.large = Some(digest);
        }
        Ok(LARGE as f64 / median(&mut times))
    }

    /// Bytes a second of a large blob on its way out.
    pub(super) async fn stream_read(&mut self) -> Result<f64, CliError> {
        let digest = match self.large {
            Some(digest) => digest,
            None => {
                let blob = self.fresh(LARGE);
                let digest = digest_of(&blob);
                self.upload(&digest, &blob).await?;
                *self.large.insert(digest)
            }
        };
        let mut times = Vec::new();
        let start = Instant::now();
        while start.elapsed() < TIME {
            let begin = Instant::now();
            let read = self.download(&digest).await?;
            if read != LARGE {
                return Err(CliError::new(format!("{read} bytes of {LARGE} were read")));
            }
            times.push(begin.elapsed().as_secs_f64());
        }
        Ok(LARGE as f64 / median(&mut times))
    }

    /// Digests asked for a second, all present, one call after the other.
    pub(super) async fn find_missing(&mut self) -> Result<f64, CliError> {
        self.need_small().await?;
        let mut cas = ContentAddressableStorageClient::new(self.channel.clone());
        let request = reapi::FindMissingBlobsRequest {
            instance_name: self.instance.clone(),
            blob_digests: self.small.iter().map(Digest::to_wire).collect(),
            ..Default::default()
        };
        let start = Instant::now();
        let mut asked = 0;
        while start.elapsed() < TIME {
            let missing = cas.find_missing_blobs(request.clone()).await?.into_inner().missing_blob_digests;
            if !missing.is_empty() {
                return Err(CliError::new(format!("{} blobs that were stored are missing", missing.len())));
            }
            asked += self.small.len();
        }
        Ok(asked as f64 / start.elapsed().as_secs_f64())
    }

    /// Results read from the action cache a second, several calls in flight.
    pub(super) async fn cache_hits(&mut self) -> Result<f64, CliError> {
        let action = reapi::Action { salt: self.salt.to_vec(), ..Default::default() }.encode_to_vec();
        let digest = digest_of(&action).to_wire();
        let mut client = ActionCacheClient::new(self.channel.clone());
        let update = reapi::UpdateActionResultRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(digest.clone()),
            action_result: Some(reapi::ActionResult { stdout_raw: b"hit".to_vec(), ..Default::default() }),
            ..Default::default()
        };
        client.update_action_result(update).await?;
        let request = reapi::GetActionResultRequest {
            instance_name: self.instance.clone(),
            action_digest: Some(digest),
            ..Default::default()
        };
        in_flight(|| {
            let (mut client, request) = (client.clone(), request.clone());
            async move { Ok(client.get_action_result(request).await.map(drop)?) }
        })
        .await
    }

    /// Stores what a no-op action needs, once; the request that runs it.
    async fn no_op(&mut self) -> Result<reapi::ExecuteRequest, CliError> {
        let action = match &self.action {
            Some(action) => action.clone(),
            None => {
                let digest = self.store_no_op().await?;
                self.action.insert(digest).clone()
            }
        };
        Ok(reapi::ExecuteRequest {
            instance_name: self.instance.clone(),
            skip_cache_lookup: true,
            action_digest: Some(action),
            ..Default::default()
        })
    }

    async fn store_no_op(&mut self) -> Result<reapi::Digest, CliError> {
        let path = reapi::command::EnvironmentVariable { name: "PATH".into(), value: "/usr/bin:/bin".into() };
        let command = reapi::Command {
            arguments: vec!["true".into()],
            environment_variables: vec![path],
            ..Default::default()
        }
        .encode_to_vec();
        let action = reapi::Action {
            command_digest: Some(digest_of(&command).to_wire()),
            input_root_digest: Some(Digest::empty(DigestFunction::Sha256).to_wire()),
            do_not_cache: true,
            ..Default::default()
        }
        .encode_to_vec();
        let blobs = vec![Bytes::from(command), Bytes::from(action), Bytes::new()];
        let digests: Vec<Digest> = blobs.iter().map(|blob| digest_of(blob)).collect();
        self.store(&digests, blobs).await?;
        Ok(digests[1].to_wire())
    }

    async fn need_small(&mut self) -> Result<(), CliError> {
        if self.small.is_empty() {
            let blobs: Vec<Bytes> = (0..BATCH).map(|_| self.fresh(SMALL_BLOB)).collect();
            let digests: Vec<Digest> = blobs.iter().map(|blob| digest_of(blob)).collect();
            self.store(&digests, blobs).await?;
            self.small = digests;
        }
        Ok(())
    }

    /// Bytes nobody has stored before, incompressible.
    fn fresh(&mut self, len: usize) -> Bytes {
        self.made += 1;
        let mut data = vec![0; len];
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.salt).update(&self.made.to_le_bytes());
        hasher.finalize_xof().fill(&mut data);
        Bytes::from(data)
    }

    async fn grpc(&self) -> Result<tonic::client::Grpc<Channel>, CliError> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        grpc.ready().await.map_err(|error| CliError::new(format!("the connection is lost: {error}")))?;
        Ok(grpc)
    }

    async fn store(&self, digests: &[Digest], blobs: Vec<Bytes>) -> Result<(), CliError> {
        let updates = digests.iter().zip(blobs);
        let request = BatchUpdateBlobsRequest {
            instance_name: self.instance.clone(),
            requests: updates
                .map(|(digest, data)| BlobUpdate { digest: Some(digest.to_wire()), data, compressor: 0 })
                .collect(),
            digest_function: 0,
        };
        let path = "/build.bazel.remote.execution.v2.ContentAddressableStorage/BatchUpdateBlobs";
        let codec = ProstCodec::<_, reapi::BatchUpdateBlobsResponse>::default();
        let answer =
            self.grpc().await?.unary(request.into_request(), PathAndQuery::from_static(path), codec).await?;
        let refused = answer
            .into_inner()
            .responses
            .into_iter()
            .filter_map(|response| response.status)
            .find(|status| status.code != 0);
        match refused {
            Some(status) => Err(CliError::new(format!("a blob was refused: {}", status.message))),
            None => Ok(()),
        }
    }

    async fn upload(&self, digest: &Digest, blob: &Bytes) -> Result<(), CliError> {
        let slash = if self.instance.is_empty() { "" } else { "/" };
        let upload = uuid::Uuid::new_v4();
        let name = format!("{}{slash}uploads/{upload}/{}", self.instance, resource_name("", digest));
        let pieces: Vec<WriteRequest> = (0..blob.len())
            .step_by(PIECE)
            .map(|offset| {
                let end = (offset + PIECE).min(blob.len());
                WriteRequest {
                    resource_name: if offset == 0 { name.clone() } else { String::new() },
                    write_offset: i64::try_from(offset).unwrap_or(i64::MAX),
                    finish_write: end == blob.len(),
                    data: blob.slice(offset..end),
                }
            })
            .collect();
        let codec = ProstCodec::<_, WriteResponse>::default();
        let path = PathAndQuery::from_static("/google.bytestream.ByteStream/Write");
        let request = stream::iter(pieces).into_streaming_request();
        let answer = self.grpc().await?.client_streaming(request, path, codec).await?;
        let committed = answer.into_inner().committed_size;
        if usize::try_from(committed) != Ok(blob.len()) {
            return Err(CliError::new(format!("{committed} bytes of {} were taken", blob.len())));
        }
        Ok(())
    }

    async fn download(&self, digest: &Digest) -> Result<usize, CliError> {
        let request =
            ReadRequest { resource_name: resource_name(&self.instance, digest), ..Default::default() };
        let path = PathAndQuery::from_static("/google.bytestream.ByteStream/Read");
        let codec = ProstCodec::<_, ReadResponse>::default();
        let answer = self.grpc().await?.server_streaming(request.into_request(), path, codec).await?;
        let sizes = answer.into_inner().map_ok(|response| response.data.len());
        Ok(sizes.try_fold(0, |sum, size| async move { Ok(sum + size) }).await?)
    }
}

fn digest_of(data: &[u8]) -> Digest {
    Digest::of(DigestFunction::Sha256, data)
}

/// How often a second `call` succeeds with [`IN_FLIGHT`] of them at once.
async fn in_flight<F: Future<Output = Result<(), CliError>>>(call: impl Fn() -> F) -> Result<f64, CliError> {
    let start = Instant::now();
    let calls = stream::repeat_with(call).take_while(|_| std::future::ready(start.elapsed() < TIME));
    let mut answers = calls.buffer_unordered(IN_FLIGHT);
    let mut done = 0_u32;
    while let Some(answer) = answers.next().await {
        answer?;
        done += 1;
    }
    Ok(f64::from(done) / start.elapsed().as_secs_f64())
}

/// Runs an action to its end, which must be a success.
async fn execute(channel: Channel, request: reapi::ExecuteRequest) -> Result<(), CliError> {
    let mut updates = ExecutionClient::new(channel).execute(request).await?.into_inner();
    while let Some(operation) = updates.message().await? {
        if operation.done {
            return check_success(&operation);
        }
    }
    Err(CliError::from(Status::unavailable("the server ended the stream before the action was done")))
}

fn check_success(operation: &longrunning::Operation) -> Result<(), CliError> {
    let response = match &operation.result {
        Some(longrunning::operation::Result::Response(any)) => any::unpack::<reapi::ExecuteResponse>(any),
        _ => None,
    };
    let response = response.ok_or_else(|| CliError::new("the server ended the action without a response"))?;
    match (response.status, response.result) {
        (Some(status), _) if status.code != 0 => {
            Err(CliError::new(format!("the action was not run: {}", status.message)))
        }
        (_, Some(result)) if result.exit_code == 0 => Ok(()),
        (_, Some(result)) => Err(CliError::new(format!("`true` ended with exit code {}", result.exit_code))),
        (_, None) => Err(CliError::new("the response has no result")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(response: reapi::ExecuteResponse) -> longrunning::Operation {
        longrunning::Operation {
            done: true,
            result: Some(longrunning::operation::Result::Response(any::pack(&response))),
            ..Default::default()
        }
    }

    #[test]
    fn only_a_success_counts() {
        let with_code = |exit_code| reapi::ExecuteResponse {
            result: Some(reapi::ActionResult { exit_code, ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(check_success(&finished(with_code(0))), Ok(()));
        assert!(check_success(&finished(with_code(1))).is_err());
        assert!(check_success(&finished(reapi::ExecuteResponse::default())).is_err());
        assert!(check_success(&longrunning::Operation::default()).is_err());
    }

    #[tokio::test]
    async fn a_failed_call_ends_the_measurement() {
        let rate = in_flight(|| std::future::ready(Err(CliError::new("no")))).await;
        assert_eq!(rate, Err(CliError::new("no")));
    }
}
