//! `ActionCache`: results of actions, read and written by clients.
//!
//! What is stored holds digests only: bytes that a client puts into a result go to the CAS, and bytes
//! that it asks to have in a result come from there. Whether a result is complete is for the cache
//! below to decide; results of failed actions are neither stored nor served.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use farmhand_proto::reapi;
use farmhand_proto::reapi::action_cache_server::{ActionCache as ActionCacheApi, ActionCacheServer};
use prost::Message;
use tonic::{Request, Response, Status};

use super::{Instance, Instances, MAX_RECEIVED_MESSAGE, MAX_SENT_MESSAGE, metadata};
use crate::action_cache::{ActionCache, ActionCacheError, ActionKey};
use crate::activity::Activity;
use crate::cas::ContentAddressableStorage;
use crate::digest::{Digest, DigestFunction};
use crate::execution::inline::{InlineHints, inline};
use crate::history::{History, Record};
use crate::instance::InstanceName;
use crate::request_metadata::RequestMetadata;

/// The service. Clones share their caches.
#[derive(Clone)]
pub struct ActionCacheService {
    cache: Arc<dyn ActionCache>,
    cas: Arc<dyn ContentAddressableStorage>,
    instances: Instances,
    activity: Arc<Activity>,
    history: History,
}

/// Why a result is not taken or not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// There is none under that digest, or none that may be served.
    #[error("no result is stored for this action")]
    NotFound,
    /// Writes are switched off.
    #[error("instance {0:?} does not take action results from clients")]
    NotAllowed(InstanceName),
    /// The field is not set.
    #[error("action_result is not set")]
    NoResult,
    /// Bytes in the result do not have the digest beside them.
    #[error("the bytes given for {0} do not have the digest given for it")]
    RawMismatch(String),
    /// Could never be sent to a client.
    #[error("the result has {0} bytes; more than {MAX_SENT_MESSAGE} cannot be served")]
    TooLarge(usize),
}

// === impl ActionCacheService ===

impl ActionCacheService {
    /// Serves the results of `cache`; bytes inside them go to and come from `cas`. `activity` is told who
    /// asked for what, and `history` remembers it.
    pub fn new(
        cache: Arc<dyn ActionCache>,
        cas: Arc<dyn ContentAddressableStorage>,
        instances: Instances,
        activity: Arc<Activity>,
        history: History,
    ) -> Self {
        Self { cache, cas, instances, activity, history }
    }

    /// The service for [`Routes`](tonic::service::Routes).
    pub fn into_server(self) -> ActionCacheServer<Self> {
        ActionCacheServer::new(self).max_decoding_message_size(MAX_RECEIVED_MESSAGE)
    }
}

#[async_trait]
impl ActionCacheApi for ActionCacheService {
    async fn get_action_result(
        &self,
        request: Request<reapi::GetActionResultRequest>,
    ) -> Result<Response<reapi::ActionResult>, Status> {
        let metadata = metadata::of(request.metadata());
        let request = request.into_inner();
        let instance = self.instances.find(&request.instance_name)?;
        let function = instance.function(request.digest_function)?;
        let action = Digest::from_field(function, request.action_digest.as_ref())?;
        let key = ActionKey { instance: instance.name, action };
        let found = self.find(&key).await?;
        self.told_lookup(&key, &metadata, found.as_ref());
        let result = found.ok_or(UpdateError::NotFound)?;
        let hints = InlineHints {
            stdout: request.inline_stdout,
            stderr: request.inline_stderr,
            files: request.inline_output_files.into_iter().collect(),
        };
        let result = inline(&*self.cas, function, &hints, result).await;
        if result.encoded_len() > MAX_SENT_MESSAGE {
            return Err(UpdateError::NotFound.into());
        }
        Ok(Response::new(result))
    }

    async fn update_action_result(
        &self,
        request: Request<reapi::UpdateActionResultRequest>,
    ) -> Result<Response<reapi::ActionResult>, Status> {
        let metadata = metadata::of(request.metadata());
        let request = request.into_inner();
        let instance = self.instances.find(&request.instance_name)?;
        self.check_updates(&instance)?;
        let function = instance.function(request.digest_function)?;
        let action = Digest::from_field(function, request.action_digest.as_ref())?;
        let result = request.action_result.ok_or(UpdateError::NoResult)?;
        let result = self.update(instance, action, result, &metadata).await?;
        Ok(Response::new(result))
    }
}

impl ActionCacheService {
    /// The complete result of `key`, as it is stored.
    pub(super) async fn find(
        &self,
        key: &ActionKey,
    ) -> Result<Option<reapi::ActionResult>, ActionCacheError> {
        Ok(self.cache.get(key).await?.filter(|result| result.exit_code == 0))
    }

    /// A client asked for the result of `key`, and `found` this.
    pub(super) fn told_lookup(
        &self,
        key: &ActionKey,
        metadata: &RequestMetadata,
        found: Option<&reapi::ActionResult>,
    ) {
        let told = self.activity.looked_up(key, metadata, found);
        if let (Some(told), Some(result)) = (told.filter(|_| self.history.wants_hit()), found) {
            self.history.remember(Record::passed(told.to_operation(), result));
        }
    }

    /// Whether clients may write results of that instance.
    pub(super) fn check_updates(&self, instance: &Instance) -> Result<(), UpdateError> {
        if instance.settings.action_cache_updates {
            return Ok(());
        }
        Err(UpdateError::NotAllowed(instance.name.clone()))
    }

    /// Stores the result of an action that a client tells, if it is of a success; as it is stored then.
    pub(super) async fn update(
        &self,
        instance: Instance,
        action: Digest,
        mut result: reapi::ActionResult,
        metadata: &RequestMetadata,
    ) -> Result<reapi::ActionResult, Status> {
        self.store_inlined(action.function(), &mut result).await?;
        let size = result.encoded_len();
        if size > MAX_SENT_MESSAGE {
            return Err(UpdateError::TooLarge(size).into());
        }
        if result.exit_code == 0 {
            let key = ActionKey { instance: instance.name, action };
            self.keep(&key, result.clone()).await?;
            self.told_update(&key, metadata, &result);
        }
        Ok(result)
    }

    /// Stores a complete result.
    pub(super) async fn keep(
        &self,
        key: &ActionKey,
        result: reapi::ActionResult,
    ) -> Result<(), ActionCacheError> {
        self.cache.put(key, result).await
    }

    /// A client told the result of `key`.
    pub(super) fn told_update(
        &self,
        key: &ActionKey,
        metadata: &RequestMetadata,
        result: &reapi::ActionResult,
    ) {
        if let Some(told) = self.activity.stored(key, metadata, result) {
            self.history.remember(Record::passed(told.to_operation(), result));
        }
    }

    /// Moves the bytes inside `result` to the CAS and leaves their digests.
    async fn store_inlined(
        &self,
        function: DigestFunction,
        result: &mut reapi::ActionResult,
    ) -> Result<(), Status> {
        let streams = [
            ("stdout_raw", &mut result.stdout_raw, &mut result.stdout_digest),
            ("stderr_raw", &mut result.stderr_raw, &mut result.stderr_digest),
        ];
        for (what, data, digest) in streams {
            self.store_one(function, what, std::mem::take(data), digest).await?;
        }
        for file in &mut result.output_files {
            self.store_one(function, &file.path, std::mem::take(&mut file.contents), &mut file.digest)
                .await?;
        }
        Ok(())
    }

    async fn store_one(
        &self,
        function: DigestFunction,
        what: &str,
        data: Vec<u8>,
        digest: &mut Option<reapi::Digest>,
    ) -> Result<(), Status> {
        if data.is_empty() {
            return Ok(());
        }
        let actual = Digest::of(function, &data);
        if digest.as_ref().is_some_and(|given| *given != actual.to_wire()) {
            return Err(UpdateError::RawMismatch(what.to_owned()).into());
        }
        self.cas.put(&actual, Bytes::from(data)).await?;
        *digest = Some(actual.to_wire());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
