//! What there still is of an action's result: whether it is pinned, and which blobs of it are gone.

use farmhand_proto::control::GetActionResponse;
use farmhand_proto::reapi::ActionResult;
use prost::Message;
use tonic::Status;

use super::ControlService;
use crate::action_cache::complete::{Named, named};
use crate::action_cache::{ActionCacheError, ActionKey};
use crate::digest::{Digest, DigestFunction};

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
        response.pinned = self.inspected.pins.is_pinned(key);
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
