//! GetAction, ListActions and ExplainMiss over a store in memory and a history on disk.

use async_trait::async_trait;
use bytes::Bytes;
use farmhand_proto::control::operation::Stage;
use farmhand_proto::control::{
    ActionFilter, ExplainMissRequest, GetStatusResponse, Miss, action_filter, miss,
};
use farmhand_proto::protobuf::Timestamp;

use super::super::{ControlParts, ControlSource, testing};
use super::*;
use crate::action_cache::ActionCache;
use crate::action_cache::memory::MemoryActionCache;
use crate::cas::ContentAddressableStorage;
use crate::cas::memory::MemoryCas;
use crate::digest::DigestFunction;
use crate::execution::OperationId;
use crate::history::record::Definition;
use crate::history::{Explainer, History};

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
    history: History,
    action: Digest,
    _directory: tempfile::TempDir,
}

impl Fixture {
    async fn new() -> Self {
        let cas = Arc::new(MemoryCas::default());
        let directory = tempfile::tempdir().unwrap();
        let history = History::open(&directory.path().join("history"), 1000);
        let action = store_action(&cas, "true").await;
        Self { cas, results: Arc::default(), history, action, _directory: directory }
    }

    fn service(&self, live: Vec<Operation>) -> ControlService {
        let cas: Arc<dyn ContentAddressableStorage> = self.cas.clone();
        let explainer = Explainer::new(self.history.clone(), cas.clone(), Arc::new(|_| None));
        let (results, history) = (self.results.clone(), self.history.clone());
        let parts = testing::parts(FakeSource(live));
        ControlService::new(ControlParts { cas, results, history, explainer, ..parts })
    }

    async fn get(&self, digest: &str) -> Result<GetActionResponse, Status> {
        let request = GetActionRequest { digest: digest.into(), instance_name: String::new() };
        self.service(Vec::new()).get_action(Request::new(request)).await.map(Response::into_inner)
    }

    async fn explain(&self, digest: &str) -> Result<Miss, Status> {
        let request = ExplainMissRequest { digest: digest.into(), instance_name: String::new() };
        self.service(Vec::new()).explain_miss(Request::new(request)).await.map(Response::into_inner)
    }

    /// Remembers a run of `action`; its name.
    fn ran(&self, sequence: u64, action: Digest, result: reapi::ActionResult) -> String {
        let mut record = record(sequence, action);
        record.operation.exit_code = result.exit_code;
        record.kept = result.exit_code == 0;
        record.result = Some(result.encode_to_vec());
        let name = record.operation.name.clone();
        self.history.remember(record);
        name
    }
}

fn record(sequence: u64, action: Digest) -> Record {
    let operation = Operation {
        name: OperationId::random().to_string(),
        action_digest: action.to_string(),
        stage: Stage::Done.into(),
        first_output: "out".into(),
        finished: Some(Timestamp { seconds: 0, nanos: (sequence * 1000) as i32 }),
        sequence,
        ..Default::default()
    };
    let definition = Definition {
        command: action.to_key().to_vec(),
        input_root: action.to_key().to_vec(),
        program: "cc".into(),
        ..Default::default()
    };
    Record { operation, definition: Some(definition), kept: true, ..Default::default() }
}

async fn store(cas: &MemoryCas, data: Vec<u8>) -> Digest {
    let digest = Digest::of(DigestFunction::Sha256, &data);
    cas.put(&digest, Bytes::from(data)).await.unwrap();
    digest
}

async fn store_action(cas: &MemoryCas, argument: &str) -> Digest {
    let arguments = vec!["cc".into(), argument.into()];
    let command = reapi::Command { arguments, output_paths: vec!["out".into()], ..Default::default() };
    let command = store(cas, command.encode_to_vec()).await;
    let input_root = store(cas, reapi::Directory::default().encode_to_vec()).await;
    let action = reapi::Action {
        command_digest: Some(command.to_wire()),
        input_root_digest: Some(input_root.to_wire()),
        ..Default::default()
    };
    store(cas, action.encode_to_vec()).await
}

fn exit(exit_code: i32) -> reapi::ActionResult {
    reapi::ActionResult { exit_code, ..Default::default() }
}

fn live(seconds: i64, stage: Stage) -> Operation {
    Operation {
        name: OperationId::random().to_string(),
        stage: stage.into(),
        queued: Some(Timestamp { seconds, nanos: 0 }),
        ..Default::default()
    }
}

// === one action ===

#[tokio::test]
async fn an_action_comes_with_its_command_and_its_result() {
    let fixture = Fixture::new().await;
    let got = fixture.get(&fixture.action.to_string()).await.unwrap();
    let command = reapi::Command::decode(got.command.as_slice()).unwrap();
    assert_eq!(command.arguments, ["cc", "true"]);
    assert_eq!((got.result, got.in_action_cache), (None, false));

    let key = ActionKey { instance: InstanceName::default(), action: fixture.action };
    fixture.results.put(&key, exit(0)).await.unwrap();
    let got = fixture.get(&fixture.action.to_string()).await.unwrap();
    assert_eq!((got.result, got.in_action_cache), (Some(exit(0).encode_to_vec()), true));
}

#[tokio::test]
async fn the_last_run_comes_with_its_result_and_those_before() {
    let fixture = Fixture::new().await;
    let names: Vec<String> = (1..=30).map(|n| fixture.ran(n, fixture.action, exit(n as i32))).collect();
    let got = fixture.get(&fixture.action.to_string()).await.unwrap();
    assert_eq!(got.operation.unwrap().name, names[29]);
    assert_eq!(got.result, Some(exit(30).encode_to_vec()));
    let earlier: Vec<u64> = got.earlier.iter().map(|operation| operation.sequence).collect();
    assert_eq!(earlier, (10..30).rev().collect::<Vec<u64>>());

    let named = fixture.get(&names[1]).await.unwrap();
    assert_eq!((named.digest, named.result), (fixture.action.to_string(), Some(exit(2).encode_to_vec())));
    assert_eq!(named.operation.unwrap().name, names[1]);
    assert_eq!(named.earlier.len(), 1);
}

#[tokio::test]
async fn a_result_that_was_kept_in_part_gives_way_to_that_of_the_cache() {
    let fixture = Fixture::new().await;
    let short =
        |kept| Record { result_is_short: true, kept, result: Some(vec![1]), ..record(1, fixture.action) };
    let cached = Some(vec![2]);
    assert_eq!(shown_result(Some(&short(true)), cached.clone()), cached);
    assert_eq!(shown_result(Some(&short(true)), None), Some(vec![1]));
    assert_eq!(shown_result(Some(&short(false)), cached.clone()), Some(vec![1]));
    assert_eq!(shown_result(None, cached.clone()), cached);
}

#[tokio::test]
async fn a_bare_hash_is_looked_up_in_the_history() {
    let fixture = Fixture::new().await;
    let hash = fixture.action.hash_hex();
    let missing = fixture.get(&hash).await.unwrap_err();
    assert_eq!(missing.code(), tonic::Code::NotFound);

    fixture.ran(1, fixture.action, exit(0));
    let newest = fixture.ran(2, fixture.action, exit(0));
    let got = fixture.get(&hash).await.unwrap();
    assert_eq!(got.digest, fixture.action.to_string());
    assert_eq!(got.operation.unwrap().name, newest);

    fixture.ran(3, Digest::from_parts(DigestFunction::Sha256, *fixture.action.hash(), 1), exit(0));
    let ambiguous = fixture.get(&hash).await.unwrap_err();
    assert_eq!(ambiguous.code(), tonic::Code::FailedPrecondition);
}

#[tokio::test]
async fn what_is_no_action_is_refused_and_what_is_unknown_is_not_found() {
    let fixture = Fixture::new().await;
    let text = store(&fixture.cas, b"hello".to_vec()).await;
    let error = fixture.get(&text.to_string()).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    let unknown = Digest::of(DigestFunction::Sha256, b"unknown");
    for text in [unknown.to_string(), OperationId::random().to_string()] {
        assert_eq!(fixture.get(&text).await.unwrap_err().code(), tonic::Code::NotFound, "{text}");
        assert_eq!(fixture.explain(&text).await.unwrap_err().code(), tonic::Code::NotFound, "{text}");
    }
    fixture.ran(1, unknown, exit(0));
    let gone = fixture.get(&unknown.to_string()).await.unwrap();
    assert!(gone.action.is_empty() && gone.operation.is_some());
}

// === lists ===

async fn list(service: &ControlService, request: ListActionsRequest) -> ListActionsResponse {
    service.list_actions(Request::new(request)).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_list_begins_with_what_is_not_over_and_its_pages_join() {
    let fixture = Fixture::new().await;
    (1..=20).for_each(|n| drop(fixture.ran(n, fixture.action, exit(0))));
    let running: Vec<Operation> = [5, 9, 7].map(|seconds| live(seconds, Stage::Running)).into();
    let service = fixture.service(running.clone());
    let mut expected: Vec<String> = [1, 2, 0].map(|n: usize| running[n].name.clone()).into();
    let whole = list(&service, ListActionsRequest::default()).await;
    assert!(whole.next_page_token.is_empty());
    expected.extend(whole.operations[3..].iter().map(|operation| operation.name.clone()));
    let sequences: Vec<u64> = whole.operations[3..].iter().map(|operation| operation.sequence).collect();
    assert_eq!(sequences, (1..=20).rev().collect::<Vec<u64>>());
    for limit in [1, 2, 3, 4, 7] {
        let (mut names, mut page_token) = (Vec::new(), String::new());
        loop {
            let page = list(&service, ListActionsRequest { limit, page_token, ..Default::default() }).await;
            names.extend(page.operations.into_iter().map(|operation| operation.name));
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        assert_eq!(names, expected, "{limit} at a time");
    }
}

#[tokio::test]
async fn filters_hold_for_live_and_finished_ones() {
    let fixture = Fixture::new().await;
    fixture.ran(1, fixture.action, exit(0));
    fixture.ran(2, fixture.action, exit(1));
    let other = Digest::of(DigestFunction::Sha256, b"other");
    fixture.ran(3, other, exit(1));
    let service = fixture.service(vec![live(1, Stage::Queued)]);
    let count = async |filter: ActionFilter| {
        let request = ListActionsRequest { filter: Some(filter), ..Default::default() };
        list(&service, request).await.operations.len()
    };
    let outcomes = |outcomes: &[action_filter::Outcome]| ActionFilter {
        outcomes: outcomes.iter().map(|outcome| (*outcome).into()).collect(),
        ..Default::default()
    };
    assert_eq!(count(outcomes(&[action_filter::Outcome::Failed])).await, 2);
    assert_eq!(count(outcomes(&[action_filter::Outcome::Failed, action_filter::Outcome::Queued])).await, 3);
    let action_digest = fixture.action.to_string();
    assert_eq!(count(ActionFilter { action_digest, ..Default::default() }).await, 2);
}

#[tokio::test]
async fn a_token_that_is_none_is_refused() {
    let fixture = Fixture::new().await;
    let request = ListActionsRequest { page_token: "garbage".into(), ..Default::default() };
    let error = fixture.service(Vec::new()).list_actions(Request::new(request)).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
}

// === misses ===

#[tokio::test]
async fn a_miss_is_explained_on_demand_from_what_was_known_then() {
    let fixture = Fixture::new().await;
    let first = fixture.ran(1, fixture.action, exit(0));
    let changed = store_action(&fixture.cas, "false").await;
    let second = fixture.ran(2, changed, exit(1));
    let third = fixture.ran(3, changed, exit(0));
    assert_eq!(fixture.explain(&first).await.unwrap().kind(), miss::Kind::First);
    let miss = fixture.explain(&second).await.unwrap();
    assert_eq!((miss.kind(), &*miss.summary), (miss::Kind::Changed, "the argument true became false"));
    let miss = fixture.explain(&third).await.unwrap();
    assert_eq!(miss.kind(), miss::Kind::FailedBefore);
    assert_eq!(fixture.explain(&changed.to_string()).await.unwrap(), miss, "the last run is meant");
}

#[tokio::test]
async fn an_action_nobody_ran_is_explained_by_its_definition() {
    let fixture = Fixture::new().await;
    let digest = fixture.action.to_string();
    assert_eq!(fixture.explain(&digest).await.unwrap().kind(), miss::Kind::First);
    let other = store_action(&fixture.cas, "other").await;
    fixture.ran(1, other, exit(0));
    let miss = fixture.explain(&digest).await.unwrap();
    assert_eq!(miss.summary, "the argument other became true");
    let key = ActionKey { instance: InstanceName::default(), action: fixture.action };
    fixture.results.put(&key, exit(0)).await.unwrap();
    assert_eq!(fixture.explain(&digest).await.unwrap().kind(), miss::Kind::Hit);
}
