//! The whole of it: what ends is seen at once, is there after the next start, and damage costs the
//! history and nothing else.

use std::path::Path;

use farmhand_proto::control::{ActionFilter, action_filter::Outcome};
use farmhand_proto::reapi::{ActionResult, ExecuteResponse};
use proptest::prelude::*;
use prost::Message;
use tokio::time::Instant;

use super::record::tests::record;
use super::*;
use crate::digest::DigestFunction;
use crate::execution::inline::InlineHints;
use crate::execution::operations::{Operations, Timeline};
use crate::execution::{Call, Retention, Sequence, response};
use crate::instance::InstanceName;

fn hit(sequence: u64, name: &str) -> Record {
    let mut record = record(sequence, name);
    record.operation.cached = true;
    record.definition = None;
    record
}

async fn all(history: &History, filter: Option<ActionFilter>) -> Vec<control::Operation> {
    let (mut operations, mut before) = (Vec::new(), u64::MAX);
    loop {
        let page = history.page(Filter::new(filter.clone()), before, 7).await.unwrap();
        operations.extend(page.operations);
        match page.next {
            Some(next) => before = next,
            None => return operations,
        }
    }
}

async fn names(history: &History) -> Vec<String> {
    let target = |operation: control::Operation| operation.target.rsplit(':').next().unwrap().to_owned();
    all(history, None).await.into_iter().map(target).collect()
}

fn remember(history: &History, count: u64) {
    (1..=count).for_each(|n| history.remember(record(n, &format!("n{n}"))));
}

#[tokio::test]
async fn what_ended_is_seen_at_once_and_after_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history");
    let history = History::open(&path, 1000);
    for n in 1..=40 {
        history.remember(if n % 3 == 0 { hit(n, &format!("n{n}")) } else { record(n, &format!("n{n}")) });
    }
    history.settle().await;
    let expected: Vec<String> = (1..=40).rev().map(|n| format!("n{n}")).collect();
    assert_eq!(names(&history).await, expected);
    history.close();
    let history = History::open(&path, 1000);
    assert_eq!(names(&history).await, expected);
    assert_eq!(history.end(), 41);
    let action = record(0, "n7").action().unwrap();
    let found = history.of_action(action, u64::MAX, 5).await.unwrap();
    assert_eq!(found.iter().map(|record| record.sequence()).collect::<Vec<_>>(), [7]);
    let id = found[0].id().unwrap();
    assert_eq!(history.named(id).await.unwrap().unwrap().sequence(), 7);
    assert_eq!(history.actions_with(*action.hash()).await.unwrap(), [action]);
    assert!(history.named(OperationId::random()).await.unwrap().is_none());
}

#[tokio::test]
async fn numbers_go_on_where_they_were() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history");
    let history = History::open(&path, 1000);
    history.remember(record(1_000_000, "a"));
    history.remember(record(5, "late"));
    history.settle().await;
    assert_eq!(names(&history).await, ["late", "a"]);
    assert_eq!(history.last_sequence(), 1_000_001);
}

/// What is done to a file of the history.
type Damage = fn(&Path);

fn damages() -> Vec<(&'static str, Damage)> {
    vec![
        ("cut", |file| {
            let length = std::fs::metadata(file).unwrap().len();
            std::fs::File::options().write(true).open(file).unwrap().set_len(length / 2).unwrap();
        }),
        ("flipped", |file| {
            let mut data = std::fs::read(file).unwrap();
            data.iter_mut().step_by(511).for_each(|byte| *byte ^= 0x10);
            std::fs::write(file, data).unwrap();
        }),
        ("emptied", |file| std::fs::write(file, b"").unwrap()),
        ("deleted", |file| std::fs::remove_file(file).unwrap()),
        ("of a newer version", |file| std::fs::write(file, b"farmhis\x7fnew").unwrap()),
        ("a directory", |file| {
            std::fs::remove_file(file).unwrap();
            std::fs::create_dir(file).unwrap();
        }),
    ]
}

fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn damage_costs_what_it_hits_and_the_history_goes_on() {
    for (name, damage) in damages() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history");
        let history = History::open(&path, 1000);
        remember(&history, 300);
        history.remember(hit(301, "hit"));
        history.close();
        drop(history);
        let [file] = &files(&path.join("runs"))[..] else { panic!("one segment holds all") };
        damage(file);
        let history = History::open(&path, 1000);
        history.remember(record(u64::MAX / 2, "new"));
        history.settle().await;
        let expected: Vec<String> = (1..=300).map(|n| format!("n{n}")).collect();
        let seen = names(&history).await;
        assert!(seen.len() >= 2, "{name}: {seen:?}");
        assert_eq!(seen[..2], ["new", "hit"], "{name}");
        assert!(seen[2..].iter().all(|seen| expected.contains(seen)), "{name}");
        history.close();
        drop(history);
        let again = names(&History::open(&path, 1000)).await;
        assert_eq!(again, seen, "{name}");
    }
}

#[tokio::test]
async fn a_history_that_cannot_be_written_is_kept_in_memory() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let history = History::open(&file.join("history"), 1000);
    remember(&history, 10);
    history.settle().await;
    assert_eq!(names(&history).await.len(), 10);
    let forgetful = History::forgetful();
    forgetful.remember(record(1, "a"));
    forgetful.settle().await;
    assert!(names(&forgetful).await.is_empty());
}

#[tokio::test]
async fn pages_are_stable_while_new_ones_come() {
    let directory = tempfile::tempdir().unwrap();
    let history = History::open(&directory.path().join("history"), 1000);
    remember(&history, 10);
    history.settle().await;
    let first = history.page(Filter::default(), u64::MAX, 4).await.unwrap();
    (11..=30).for_each(|n| history.remember(record(n, "new")));
    history.settle().await;
    let second = history.page(Filter::default(), first.next.unwrap(), 100).await.unwrap();
    let sequences =
        |page: &Page| page.operations.iter().map(|operation| operation.sequence).collect::<Vec<_>>();
    assert_eq!(sequences(&first), [10, 9, 8, 7]);
    assert_eq!(sequences(&second), [6, 5, 4, 3, 2, 1]);
    assert_eq!(second.next, None);
}

/// An operation that `worker` had when somebody ended it.
fn cancelled(worker: &str) -> Arc<Operation> {
    let call = Call {
        kind: Kind::Execute,
        instance: InstanceName::default(),
        action: Digest::empty(DigestFunction::Sha256),
        invocation: Arc::default(),
        priority: 0,
        hints: InlineHints::default(),
    };
    let timeline = Timeline { worker: Some(worker.into()), ..Default::default() };
    let mut state = OperationState::completed(SystemTime::now(), Arc::new(response::cancelled("test")));
    state.timeline = Timeline { ended_at: state.timeline.ended_at, ..timeline };
    Arc::new(Operation::new(call, None, state))
}

#[tokio::test]
async fn what_a_worker_tells_late_is_in_the_record() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("history");
    let history = History::open(&path, 1000);
    let retention = Retention { age: Duration::from_secs(60), count: 10, bytes: 1 << 20 };
    let operations = Operations::new(retention, Sequence::default(), Arc::new(history.clone()));
    let operation = cancelled("m");
    operations.insert(Instant::now(), Arc::clone(&operation), None);
    history.settle().await;
    let result = async |history: &History| {
        let record = history.named(operation.id).await.unwrap().unwrap();
        (record.sequence(), record.result.as_deref().map(|result| ActionResult::decode(result).unwrap()))
    };
    let (sequence, before) = result(&history).await;
    assert_eq!(before, None, "the worker has not answered");
    // Longer than it takes until what ended is written.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let late = ActionResult { exit_code: 137, ..Default::default() };
    operations.amend(operation.id, &ExecuteResponse { result: Some(late.clone()), ..Default::default() });
    history.settle().await;
    let expected = (sequence, Some(late));
    assert_eq!(result(&history).await, expected);
    history.close();
    assert_eq!(result(&History::open(&path, 1000)).await, expected);
}

#[test]
fn explanations_that_nobody_fetches_are_forgotten() {
    let mut explained = Explained::default();
    let first = OperationId::random();
    explained.insert(first, Miss::default());
    (0..EXPLAINED).for_each(|_| explained.insert(OperationId::random(), Miss::default()));
    assert_eq!(explained.misses.len(), EXPLAINED);
    assert!(explained.remove(&first).is_none());
}

fn any_filter() -> impl Strategy<Value = ActionFilter> {
    let text = |values: &'static [&'static str]| prop::sample::select(values).prop_map(str::to_owned);
    const OUTCOMES: [Outcome; 4] = [Outcome::Succeeded, Outcome::Failed, Outcome::Cached, Outcome::Error];
    let time = prop::option::of(0..250_i64);
    let digest = prop::option::of(0..7_u64);
    (
        text(&["", "pkg:n1", "n2", "zzz"]),
        text(&["", "CppCompile", "Link"]),
        prop::collection::vec(prop::sample::select(&OUTCOMES[..]), 0..3),
        (time.clone(), time),
        digest,
    )
        .prop_map(|(target, mnemonic, outcomes, (since, until), digest)| {
            let at = |micros: i64| farmhand_proto::protobuf::Timestamp {
                seconds: 0,
                nanos: (micros * 1000) as i32,
            };
            ActionFilter {
                target,
                mnemonic,
                outcomes: outcomes.into_iter().map(Into::into).collect(),
                since: since.map(at),
                until: until.map(at),
                action_digest: digest
                    .map(|n| record(0, &format!("n{n}")).operation.action_digest)
                    .unwrap_or_default(),
                ..Default::default()
            }
        })
}

fn mixed(n: u64) -> Record {
    let mut record =
        if n.is_multiple_of(4) { hit(n, &format!("n{}", n % 7)) } else { record(n, &format!("n{}", n % 7)) };
    record.operation.exit_code = i32::from(n.is_multiple_of(5));
    record.operation.status_code = i32::from(n.is_multiple_of(11)) * 4;
    if n.is_multiple_of(3) {
        record.operation.mnemonic = "Link".into();
    }
    record
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_filtered_list_is_the_list_filtered(filters in prop::collection::vec(any_filter(), 8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("history");
            let history = History::open(&path, 1000);
            (1..=150).for_each(|n| history.remember(mixed(n)));
            history.close();
            drop(history);
            let history = History::open(&path, 1000);
            (151..=200).for_each(|n| history.remember(mixed(n)));
            history.settle().await;
            for wire in filters {
                let filter = Filter::new(Some(wire.clone()));
                let expected: Vec<u64> = (1..=200).rev().filter(|n| filter.matches(&mixed(*n).operation)).collect();
                let found: Vec<u64> = all(&history, Some(wire)).await.iter().map(|operation| operation.sequence).collect();
                assert_eq!(found, expected);
            }
        });
    }
}
