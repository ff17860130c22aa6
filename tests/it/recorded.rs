//! Build tools that no package registry has, as a sequence of their calls: what each sends, in its order and
//! with its peculiar fields, and what it relies on in the answers.
//!
//! Written down from their sources and from logged calls. Tools that can be had are run for real, by
//! `tests/clients`.

use farmhand::digest::Digest;
use farmhand_proto::reapi::{self, RequestMetadata, ToolDetails};
use prost::Message;
use tonic::{Request, Status};

use crate::request_metadata::insert;
use crate::support::action::finish;
use crate::support::{ActionBuilder, Client, Outcome};

mod buck2;
mod goma;
mod justbuild;
mod please;
mod recc;
mod reclient;
mod siso;

/// A tool, by what it says of itself in each call.
#[derive(Clone)]
struct Tool {
    /// Name of the metadata header it knows.
    header: &'static str,
    metadata: RequestMetadata,
}

impl Tool {
    /// With the header of today.
    fn new(name: &str, version: &str) -> Self {
        let details = ToolDetails { tool_name: name.into(), tool_version: version.into() };
        let metadata = RequestMetadata {
            tool_details: Some(details),
            tool_invocation_id: "7f4c0a52-5b6e-4b0e-9d4a-2f1f6f1d0c11".into(),
            ..Default::default()
        };
        Self { header: crate::request_metadata::NAMES[0], metadata }
    }

    /// A message as it sends it.
    fn says<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        insert(&mut request, self.header, &self.metadata.encode_to_vec());
        request
    }

    /// Asks for all of these at once; how many are missing.
    async fn finds_missing(&self, client: &Client, digests: &[Digest]) -> usize {
        let request = reapi::FindMissingBlobsRequest {
            instance_name: client.instance.clone(),
            blob_digests: digests.iter().map(Digest::to_wire).collect(),
            ..Default::default()
        };
        let answer = client.cas().find_missing_blobs(self.says(request)).await.unwrap();
        answer.into_inner().missing_blob_digests.len()
    }

    /// Uploads small blobs in one call; an answer for each, all of them good.
    async fn batch_updates(&self, client: &Client, blobs: &[Vec<u8>]) {
        let entry = |data: &Vec<u8>| reapi::batch_update_blobs_request::Request {
            digest: Some(client.digest(data).to_wire()),
            data: data.clone(),
            compressor: 0,
        };
        let request = reapi::BatchUpdateBlobsRequest {
            instance_name: client.instance.clone(),
            requests: blobs.iter().map(entry).collect(),
            ..Default::default()
        };
        let answer = client.cas().batch_update_blobs(self.says(request)).await.unwrap().into_inner();
        assert_eq!(answer.responses.len(), blobs.len());
        for entry in answer.responses {
            assert_eq!(entry.status.expect("it is read without a look").code, 0);
        }
    }

    /// Looks into the action cache.
    async fn looks_up(
        &self,
        client: &Client,
        request: reapi::GetActionResultRequest,
    ) -> Result<reapi::ActionResult, Status> {
        Ok(client.action_cache().get_action_result(self.says(request)).await?.into_inner())
    }

    /// Executes an action that was uploaded, and reads the stream to its end.
    async fn executes(&self, client: &Client, action: &ActionBuilder, digest: Digest) -> Outcome {
        let request = self.says(action.execute_request(client, &digest));
        let stream = client.execution().execute(request).await.unwrap().into_inner();
        finish(stream, digest).await.unwrap()
    }
}

/// A look-up of `digest` that asks for nothing besides.
fn lookup(client: &Client, digest: &Digest) -> reapi::GetActionResultRequest {
    reapi::GetActionResultRequest {
        instance_name: client.instance.clone(),
        action_digest: Some(digest.to_wire()),
        ..Default::default()
    }
}

/// Uploads an action as most do: what is missing, in one batch.
async fn upload(tool: &Tool, client: &Client, action: &ActionBuilder) -> Digest {
    let (digest, blobs) = action.blobs(client);
    let digests: Vec<Digest> = blobs.iter().map(|blob| client.digest(blob)).collect();
    // The Command and the Action at least.
    assert!(tool.finds_missing(client, &digests).await >= 2);
    tool.batch_updates(client, &blobs).await;
    digest
}
