//! One action by its digest, and the operations in flight and in the history.

use farmhand_proto::control::operation::Stage;
use farmhand_proto::control::{
    GetActionRequest, GetActionResponse, ListActionsRequest, ListActionsResponse, Operation, WaitReason,
};
use farmhand_proto::reapi;
use prost::Message;
use tonic::{Request, Response, Status};

use super::ControlService;
use super::query::{Query, last_of};
use crate::action_cache::ActionKey;
use crate::cas::CasError;
use crate::digest::Digest;
use crate::instance::InstanceName;

/// Bytes of the largest Action or Command that is shown: three of them fit a message.
const MAX_SHOWN_BYTES: u64 = 8 << 20;

/// Operations listed when the caller sets no limit.
const DEFAULT_LIST: usize = 100;

impl ControlService {
    pub(super) async fn get_action(
        &self,
        request: Request<GetActionRequest>,
    ) -> Result<Response<GetActionResponse>, Status> {
        let request = request.into_inner();
        let instance = InstanceName::parse(&request.instance_name)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let operations = self.source.operations().await;
        let digest = Query::parse(&request.digest)?.resolve(&operations)?;
        let operation = last_of(operations, &digest, instance.as_str());
        let (action, command) = self.definition(&digest).await?;
        let cached = self.cached_result(instance, digest).await?;
        let (waiting, ahead) = self.waiting(operation.as_ref()).await;
        if action.is_empty() && cached.is_none() && operation.is_none() {
            return Err(Status::not_found(format!("action {digest} is neither stored nor in the history")));
        }
        Ok(Response::new(GetActionResponse {
            digest: digest.to_string(),
            instance_name: request.instance_name,
            action,
            command,
            in_action_cache: cached.is_some(),
            result: operation.as_ref().and_then(|operation| operation.result.clone()).or(cached),
            operation,
            waiting,
            ahead,
            ..Default::default()
        }))
    }

    /// Why an operation waits, if it does, and how many will be started before it.
    async fn waiting(&self, operation: Option<&Operation>) -> (Vec<WaitReason>, Option<u64>) {
        let Some(queued) = operation.filter(|operation| operation.stage() == Stage::Queued) else {
            return (Vec::new(), None);
        };
        // It may have begun meanwhile.
        let Some(waiting) = self.scheduler.explain(&queued.name).await else {
            return (Vec::new(), None);
        };
        let reasons = waiting.obstacles.into_iter().map(|(machine, obstacle)| WaitReason {
            machine: machine.to_string(),
            text: obstacle.to_string(),
        });
        (reasons.collect(), Some(waiting.ahead as u64))
    }

    pub(super) async fn list_actions(
        &self,
        request: Request<ListActionsRequest>,
    ) -> Result<Response<ListActionsResponse>, Status> {
        let limit = match request.into_inner().limit {
            0 => DEFAULT_LIST,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        let mut operations = self.source.operations().await;
        operations.truncate(limit);
        for operation in &mut operations {
            operation.result = None;
        }
        Ok(Response::new(ListActionsResponse { operations, ..Default::default() }))
    }

    /// The bytes of `digest`; empty when they are not stored.
    async fn load(&self, digest: &Digest) -> Result<Vec<u8>, Status> {
        if digest.size() > MAX_SHOWN_BYTES {
            return Err(Status::out_of_range(format!("{digest} is larger than {MAX_SHOWN_BYTES} bytes")));
        }
        match self.cas.get(digest).await {
            Ok(data) => Ok(data.to_vec()),
            Err(CasError::NotFound(_)) => Ok(Vec::new()),
            Err(error) => Err(Status::internal(error.to_string())),
        }
    }

    /// The Action and its Command, as far as they are stored.
    async fn definition(&self, digest: &Digest) -> Result<(Vec<u8>, Vec<u8>), Status> {
        let bytes = self.load(digest).await?;
        if bytes.is_empty() {
            return Ok((bytes, Vec::new()));
        }
        let not_an_action =
            |reason: String| Status::invalid_argument(format!("{digest} is no Action: {reason}"));
        let action =
            reapi::Action::decode(bytes.as_slice()).map_err(|error| not_an_action(error.to_string()))?;
        let command = Digest::from_field(digest.function(), action.command_digest.as_ref())
            .map_err(|error| not_an_action(format!("command_digest: {error}")))?;
        let command = self.load(&command).await?;
        Ok((bytes, command))
    }

    async fn cached_result(&self, instance: InstanceName, action: Digest) -> Result<Option<Vec<u8>>, Status> {
        let result = self.results.get(&ActionKey { instance, action }).await;
        let result = result.map_err(|error| Status::internal(error.to_string()))?;
        Ok(result.map(|result| result.encode_to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use bytes::Bytes;
    use farmhand_proto::control::GetStatusResponse;

    use super::super::{ControlParts, ControlSource, testing};
    use super::*;
    use crate::action_cache::ActionCache;
    use crate::action_cache::memory::MemoryActionCache;
    use crate::cas::ContentAddressableStorage;
    use crate::cas::memory::MemoryCas;
    use crate::digest::DigestFunction;

    struct FakeSource(Vec<Operation>);

    #[async_trait]
    impl ControlSource for FakeSource {
        async fn status(&self) -> GetStatusResponse {
            GetStatusResponse::default()
        }

        async fn operations(&self) -> Vec<Operation> {
            self.0.clone()
        }
    }

    struct Fixture {
        cas: Arc<MemoryCas>,
        results: Arc<MemoryActionCache>,
        action: Digest,
    }

    impl Fixture {
        async fn new() -> Self {
            let cas = Arc::new(MemoryCas::default());
            let command = reapi::Command { arguments: vec!["true".into()], ..Default::default() };
            let command = store(&cas, command.encode_to_vec()).await;
            let action = reapi::Action { command_digest: Some(command.to_wire()), ..Default::default() };
            let action = store(&cas, action.encode_to_vec()).await;
            Self { cas, results: Arc::default(), action }
        }

        fn service(&self, operations: Vec<Operation>) -> ControlService {
            let parts = testing::parts(FakeSource(operations));
            ControlService::new(ControlParts {
                cas: self.cas.clone(),
                results: self.results.clone(),
                ..parts
            })
        }

        async fn get(&self, digest: &str, operations: Vec<Operation>) -> Result<GetActionResponse, Status> {
            let service = self.service(operations);
            let request = GetActionRequest { digest: digest.into(), instance_name: String::new() };
            service.get_action(Request::new(request)).await.map(Response::into_inner)
        }
    }

    async fn store(cas: &MemoryCas, data: Vec<u8>) -> Digest {
        let digest = Digest::of(DigestFunction::Sha256, &data);
        cas.put(&digest, Bytes::from(data)).await.unwrap();
        digest
    }

    fn operation(digest: impl ToString, name: &str) -> Operation {
        Operation { action_digest: digest.to_string(), name: name.into(), ..Default::default() }
    }

    #[tokio::test]
    async fn an_action_comes_with_its_command_and_its_result() {
        let fixture = Fixture::new().await;
        let got = fixture.get(&fixture.action.to_string(), Vec::new()).await.unwrap();
        let command = reapi::Command::decode(got.command.as_slice()).unwrap();
        assert_eq!(command.arguments, ["true"]);
        assert_eq!((got.result, got.in_action_cache), (None, false));

        let key = ActionKey { instance: InstanceName::default(), action: fixture.action };
        let result = reapi::ActionResult { exit_code: 3, ..Default::default() };
        fixture.results.put(&key, result.clone()).await.unwrap();
        let got = fixture.get(&fixture.action.to_string(), Vec::new()).await.unwrap();
        assert_eq!((got.result, got.in_action_cache), (Some(result.encode_to_vec()), true));
    }

    #[tokio::test]
    async fn a_bare_hash_is_looked_up_in_the_history() {
        let fixture = Fixture::new().await;
        let hash = fixture.action.hash_hex();
        let missing = fixture.get(&hash, Vec::new()).await.unwrap_err();
        assert_eq!(missing.code(), tonic::Code::NotFound);

        let history = vec![operation(fixture.action, "newest"), operation(fixture.action, "older")];
        let got = fixture.get(&hash, history.clone()).await.unwrap();
        assert_eq!(got.digest, fixture.action.to_string());
        assert_eq!(got.operation.unwrap().name, "newest");

        let twin = Digest::from_parts(DigestFunction::Sha256, *fixture.action.hash(), 1);
        let both = history.into_iter().chain([operation(twin, "twin")]).collect();
        let ambiguous = fixture.get(&hash, both).await.unwrap_err();
        assert_eq!(ambiguous.code(), tonic::Code::FailedPrecondition);
    }

    #[tokio::test]
    async fn what_is_no_action_is_refused_and_what_is_unknown_is_not_found() {
        let fixture = Fixture::new().await;
        let text = store(&fixture.cas, b"hello".to_vec()).await;
        let error = fixture.get(&text.to_string(), Vec::new()).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument);
        let unknown = Digest::of(DigestFunction::Sha256, b"unknown");
        let error = fixture.get(&unknown.to_string(), Vec::new()).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::NotFound);
        let gone = fixture.get(&unknown.to_string(), vec![operation(unknown, "gone")]).await.unwrap();
        assert!(gone.action.is_empty() && gone.operation.is_some());
    }

    #[tokio::test]
    async fn the_list_is_bounded_and_light() {
        let fixture = Fixture::new().await;
        let many = (0..300)
            .map(|i| Operation { result: Some(vec![1]), ..operation(fixture.action, &i.to_string()) });
        let service = fixture.service(many.collect());
        for (limit, expected) in [(0, DEFAULT_LIST), (7, 7), (1000, 300)] {
            let listed = service
                .list_actions(Request::new(ListActionsRequest { limit, ..Default::default() }))
                .await
                .unwrap();
            let operations = listed.into_inner().operations;
            assert_eq!(operations.len(), expected);
            assert!(operations.iter().all(|operation| operation.result.is_none()));
        }
    }
}
