//! What there still is of an action's result: whether it is pinned, and which blobs of it are gone.

use farmhand_proto::control::{GetActionResponse, Operation};
use farmhand_proto::reapi::ActionResult;
use prost::Message;
use tonic::Status;

use super::ControlService;
use super::query::Query;
use crate::action_cache::complete::{Named, named};
use crate::action_cache::{ActionCacheError, ActionKey, Pinning};
use crate::digest::{Digest, DigestFunction};
use crate::instance::InstanceName;

/// Missing blobs that are told by name.
const MOST_MISSING: usize = 1000;

impl ControlService {
    /// Fills in what is missing of the result in `response`, and whether the one in the action cache is
    /// pinned. Nothing is missing of the latter, whose bytes are `cached`.
    pub(super) async fn add_remains(
        &self,
        key: &ActionKey,
        cached: Option<&[u8]>,
        response: &mut GetActionResponse,
    ) -> Result<(), Status> {
        response.pinned = self.pins.is_pinned(key);
        if let Some(operation) = &mut response.operation {
            operation.pinned = response.pinned;
        }
        let Some(result) = response.result.as_deref().filter(|result| Some(*result) != cached) else {
            return Ok(());
        };
        let Ok(result) = ActionResult::decode(result) else { return Ok(()) };
        response.missing_outputs = self.missing_of(key.action.function(), &result).await?;
        Ok(())
    }

    /// Fills in which of `operations` have a pinned result.
    pub(super) fn mark_pinned(&self, operations: &mut [Operation]) {
        mark_pinned(&*self.pins, operations);
    }

    async fn missing_of(
        &self,
        function: DigestFunction,
        result: &ActionResult,
    ) -> Result<Vec<String>, ActionCacheError> {
        let Named { blobs, unread } = match named(&*self.cas, function, result).await {
            Ok(named) => named,
            // A result that nobody could use has nothing that could be missing.
            Err(ActionCacheError::Malformed(_)) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let blobs: Vec<Digest> = blobs.into_iter().collect();
        let mut missing = self.cas.peek_missing(&blobs).await?;
        missing.extend(unread);
        missing.sort_unstable();
        missing.dedup();
        Ok(missing.iter().take(MOST_MISSING).map(ToString::to_string).collect())
    }
}

/// Fills in which of `operations` have a result that `pins` keep.
pub(super) fn mark_pinned(pins: &dyn Pinning, operations: &mut [Operation]) {
    for operation in operations {
        let Ok(Query::Digest(action)) = Query::parse(&operation.action_digest) else { continue };
        let Ok(instance) = InstanceName::parse(&operation.instance_name) else { continue };
        operation.pinned = pins.is_pinned(&ActionKey { instance, action });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use farmhand_proto::control::GetStatusResponse;
    use farmhand_proto::reapi;

    use super::super::{ControlParts, ControlSource, testing};
    use super::*;
    use crate::action_cache::memory::MemoryActionCache;
    use crate::action_cache::{ActionCache, Pinning};
    use crate::cas::memory::MemoryCas;
    use crate::digest::DigestFunction::Sha256;

    struct Silent;

    #[async_trait]
    impl ControlSource for Silent {
        async fn status(&self) -> GetStatusResponse {
            GetStatusResponse::default()
        }

        async fn operations(&self) -> Vec<Operation> {
            Vec::new()
        }
    }

    fn file(digest: Digest) -> reapi::OutputFile {
        reapi::OutputFile { path: "f".into(), digest: Some(digest.to_wire()), ..Default::default() }
    }

    #[tokio::test]
    async fn what_is_gone_is_told_in_order_and_at_most_so_much() {
        let (cas, results) = (Arc::new(MemoryCas::default()), Arc::new(MemoryActionCache::default()));
        let parts = testing::over(Silent, &cas);
        let service =
            ControlService::new(ControlParts { results: results.clone(), pins: results.clone(), ..parts });
        let key = ActionKey { instance: InstanceName::default(), action: Digest::of(Sha256, b"action") };
        let missing = async |result: &ActionResult, cached: Option<&[u8]>| {
            let mut response =
                GetActionResponse { result: Some(result.encode_to_vec()), ..Default::default() };
            service.add_remains(&key, cached, &mut response).await.unwrap();
            (response.missing_outputs, response.pinned)
        };
        let stored = cas.insert(Sha256, b"stored".to_vec());
        let gone = |n: u32| Digest::of(Sha256, &n.to_be_bytes());
        let mut result = ActionResult { output_files: vec![file(stored)], ..Default::default() };
        assert_eq!(missing(&result, None).await, (Vec::new(), false));

        let tree = reapi::OutputDirectory { tree_digest: Some(gone(0).to_wire()), ..Default::default() };
        result.output_directories.push(tree);
        result.stdout_digest = Some(gone(1).to_wire());
        let mut expected = [gone(0), gone(1)];
        expected.sort();
        assert_eq!(missing(&result, None).await.0, expected.map(|digest| digest.to_string()));
        assert_eq!(
            missing(&result, Some(&result.encode_to_vec())).await.0,
            [""; 0],
            "complete, by its cache"
        );

        result.output_files.extend((2..2000).map(|n| file(gone(n))));
        assert_eq!(missing(&result, None).await.0.len(), MOST_MISSING);
        result.output_files[0].digest = None;
        results.put(&key, ActionResult::default()).await.unwrap();
        results.pin(&key).await.unwrap();
        assert_eq!(missing(&result, None).await, (Vec::new(), true), "malformed");
    }
}
