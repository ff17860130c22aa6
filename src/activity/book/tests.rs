//! The rules of counting.

use farmhand_proto::control::miss;
use proptest::prelude::*;
use tokio::time::Instant;

use super::super::testing::{at, digest, done, error, exit, key, metadata, now, operation, state};
use super::*;
use crate::instance::InstanceName;

/// A book with a clock.
struct Bench {
    book: Book,
    start: Instant,
}

impl Bench {
    fn new() -> Self {
        Self { book: Book::new(Sequence::default()), start: Instant::now() }
    }

    fn came(&mut self, operation: &Operation) {
        let now = now(self.start, 1);
        self.book.came(now, operation, &OperationState::queued(at(1)), None);
    }

    fn look_up(&mut self, via: Via, build: &str, action: &str, found: Option<&ActionResult>) {
        let metadata = metadata(build, "//t", "M");
        self.book.looked_up(now(self.start, 1), via, &key(action), &metadata, found);
    }

    /// Look-ups and hits.
    fn hits(&self) -> (u64, u64) {
        let execution = self.book.execution();
        (execution.lookups, execution.hits)
    }

    fn build(&self, name: &str) -> control::Build {
        let page = self.book.page(0, 0, usize::MAX);
        page.builds
            .iter()
            .map(|build| build.to_wire("m", "ada"))
            .find(|build| build.invocation == name)
            .unwrap()
    }

    fn mnemonic(&self, name: &str) -> control::Mnemonic {
        let page = self.book.page(0, 0, usize::MAX);
        page.mnemonics.iter().map(Mnemonic::to_wire).find(|kind| kind.name == name).unwrap()
    }

    fn operations(&self) -> Vec<control::Operation> {
        self.book.page(0, 0, usize::MAX).operations.iter().map(|(_, entry)| entry.to_wire()).collect()
    }
}

fn took(seconds: u64) -> ActionResult {
    let metadata = farmhand_proto::reapi::ExecutedActionMetadata {
        virtual_execution_duration: Some(farmhand_proto::time::duration(Duration::from_secs(seconds))),
        ..Default::default()
    };
    ActionResult { execution_metadata: Some(metadata), ..Default::default() }
}

#[tokio::test(start_paused = true)]
async fn a_miss_that_is_executed_is_one_look_up() {
    let mut bench = Bench::new();
    bench.look_up(Via::GetActionResult, "b", "a", None);
    bench.look_up(Via::Execute, "b", "a", None);
    assert_eq!(bench.hits(), (1, 0));
    bench.look_up(Via::Execute, "b", "a", None);
    assert_eq!(bench.hits(), (2, 0), "again, for itself");
    bench.look_up(Via::Execute, "other", "a", Some(&took(1)));
    assert_eq!(bench.hits(), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_miss_that_execute_finds_after_all_is_a_hit() {
    let mut bench = Bench::new();
    bench.look_up(Via::GetActionResult, "b", "a", None);
    bench.look_up(Via::Execute, "b", "a", Some(&took(3)));
    assert_eq!(bench.hits(), (1, 1));
    let (build, kind) = (bench.build("b"), bench.mnemonic("M"));
    assert_eq!((build.lookups, build.hits, kind.lookups, kind.hits), (1, 1, 1, 1));
    assert_eq!(kind.saved_time.unwrap().seconds, 3);
}

#[tokio::test(start_paused = true)]
async fn hits_that_tell_what_they_are_become_operations() {
    let mut bench = Bench::new();
    bench.look_up(Via::GetActionResult, "b", "a", Some(&took(2)));
    let anonymous = RequestMetadata::default();
    bench.book.looked_up(now(bench.start, 1), Via::GetActionResult, &key("x"), &anonymous, Some(&took(2)));
    bench.look_up(Via::GetActionResult, "b", "missed", None);
    bench.book.stored(now(bench.start, 2), &key("u"), &metadata("b", "//u", "M"), &took(5));
    let operations = bench.operations();
    let [hit, upload] = operations.as_slice() else { panic!("{operations:?}") };
    assert_eq!(
        (hit.kind(), hit.cached, hit.stage()),
        (control::operation::Kind::Lookup, true, control::operation::Stage::Done)
    );
    assert_eq!((hit.expected.as_ref().unwrap().seconds, hit.sequence), (2, 1_000_000));
    assert_eq!((hit.action_digest.clone(), hit.invocation.as_str()), (digest("a").to_string(), "b"));
    assert_eq!((upload.kind(), upload.cached), (control::operation::Kind::Upload, false));
    assert_eq!((bench.hits(), bench.build("b").uploads), ((3, 2), 1));
}

#[tokio::test(start_paused = true)]
async fn beyond_a_thousand_a_second_hits_are_only_counted() {
    let mut bench = Bench::new();
    for number in 0..u64::from(AT_ONCE) + 200 {
        bench.look_up(Via::GetActionResult, "b", &number.to_string(), Some(&took(1)));
    }
    assert_eq!(bench.hits(), (1200, 1200));
    assert_eq!(bench.operations().len(), 1000);
}

#[tokio::test(start_paused = true)]
async fn an_operation_is_told_from_its_coming_to_its_end() {
    let mut bench = Bench::new();
    let operation = operation(metadata("b", "//t", "M"));
    bench.came(&operation);
    bench.book.changed(&operation, &state(Stage::Queued, 7));
    assert_eq!((bench.book.execution().queued, bench.build("b").queued), (1, 1));
    bench.book.changed(&operation, &state(Stage::Executing, 7));
    let running = &bench.operations()[0];
    assert_eq!((running.machine.as_str(), running.attempts, running.sequence), ("m", 1, 0));
    assert_eq!((bench.book.execution().running, bench.build("b").running), (1, 1));
    bench.book.changed(&operation, &done(7, 6, exit(1)));
    let over = &bench.operations()[0];
    assert_eq!((over.exit_code, over.status_code), (1, 0));
    assert_eq!((over.command_started.unwrap().seconds, over.command_ended.unwrap().seconds), (3, 9));
    let execution = bench.book.execution();
    assert_eq!((execution.running, execution.executed, execution.failed, execution.errors), (0, 1, 1, 0));
    let kind = bench.mnemonic("M");
    assert_eq!((kind.executed, kind.failed, kind.run_time.unwrap().seconds), (1, 1, 6));
}

#[tokio::test(start_paused = true)]
async fn a_shared_run_is_one_action_of_the_node_and_each_knows_of_the_other() {
    let mut bench = Bench::new();
    let both = [operation(metadata("b", "//t", "M")), operation(metadata("c", "//t", "M"))];
    for operation in &both {
        bench.came(operation);
        bench.book.changed(operation, &state(Stage::Executing, 1));
    }
    assert!(bench.operations().iter().all(|operation| operation.callers == 2));
    assert_eq!(bench.book.execution().running, 1);
    for operation in &both {
        bench.book.changed(operation, &done(1, 1, exit(0)));
    }
    let execution = bench.book.execution();
    assert_eq!((execution.executed, execution.running), (1, 0));
    assert_eq!((bench.build("b").executed, bench.build("c").executed), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn who_cancels_leaves_the_other_alone() {
    let mut bench = Bench::new();
    let both = [operation(metadata("b", "//t", "M")), operation(metadata("b", "//t", "M"))];
    for operation in &both {
        bench.came(operation);
        bench.book.changed(operation, &state(Stage::Executing, 1));
    }
    bench.book.changed(&both[0], &done(1, 1, error(tonic::Code::Cancelled)));
    assert_eq!(bench.operations()[1].callers, 1);
    let execution = bench.book.execution();
    assert_eq!((execution.errors, execution.running, bench.build("b").failed), (1, 1, 0));
    bench.book.changed(&both[1], &done(1, 1, error(tonic::Code::Aborted)));
    assert_eq!(
        (bench.book.execution().errors, bench.build("b").failed, bench.build("b").executed),
        (2, 1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn what_ran_before_tells_how_long_the_next_will() {
    let mut bench = Bench::new();
    let action = {
        let command =
            farmhand_proto::reapi::Command { output_paths: vec!["out".into()], ..Default::default() };
        let mut requirements = crate::platform::Requirements::default();
        requirements.properties.insert("OSFamily".into(), vec!["linux".into()]);
        PreparedAction {
            key: key("a"),
            command: Arc::new(command),
            command_digest: digest("command"),
            input_root: digest(""),
            requirements: Arc::new(requirements),
            timeout: Duration::from_secs(1),
            do_not_cache: false,
        }
    };
    let mut expected = Vec::new();
    for (target, code) in [("//t", 0), ("//t", 0), ("//u", 1), ("//v", 0)] {
        let operation = operation(metadata("b", target, "M"));
        bench.book.came(now(bench.start, 1), &operation, &OperationState::queued(at(1)), Some(&action));
        let shown = bench.operations().pop().unwrap();
        assert_eq!(
            (shown.first_output.as_str(), shown.needs.as_slice()),
            ("out", &["OSFamily=linux".to_owned()][..])
        );
        expected.push(shown.expected.map(|time| time.seconds));
        bench.book.changed(&operation, &state(Stage::Executing, expected.len() as u64));
        bench.book.changed(&operation, &done(expected.len() as u64, 8, exit(code)));
    }
    assert_eq!(expected, [None, Some(8), Some(8), Some(8)]);
}

#[tokio::test(start_paused = true)]
async fn what_ends_at_once_is_no_executed_action() {
    let mut bench = Bench::new();
    for response in [error(tonic::Code::FailedPrecondition), crate::execution::response::cached(took(4))] {
        let operation = operation(metadata("b", "//t", "M"));
        let state = OperationState::completed(at(2), Arc::new(response));
        bench.book.came(now(bench.start, 2), &operation, &state, None);
    }
    let (execution, build) = (bench.book.execution(), bench.build("b"));
    assert_eq!((execution.executed, execution.errors, execution.cached), (0, 1, 1));
    assert_eq!((build.executed, build.failed, build.queued), (0, 0, 0));
    let operations = bench.operations();
    assert_eq!((operations[0].status_code, operations[0].message.as_str()), (9, "why"));
    assert_eq!((operations[1].cached, operations[1].expected.as_ref().unwrap().seconds), (true, 4));
}

#[tokio::test(start_paused = true)]
async fn remarks_are_a_change() {
    let mut bench = Bench::new();
    let operation = operation(metadata("b", "//t", "M"));
    bench.came(&operation);
    let before = bench.book.changes();
    assert!(bench.book.annotate(operation.id, |remarks| remarks.miss = miss::Kind::First));
    let page = bench.book.page(before, 0, 10);
    assert_eq!(page.operations[0].1.to_wire().miss(), miss::Kind::First);
    assert!(!bench.book.annotate(OperationId::from_number(9), |_| ()));
}

#[tokio::test(start_paused = true)]
async fn operations_of_a_touched_action_count_as_changed() {
    let mut bench = Bench::new();
    let operations = [operation(metadata("b", "//t", "M")), operation(metadata("c", "//t", "M"))];
    operations.iter().for_each(|operation| bench.came(operation));
    let before = bench.book.changes();
    let key = ActionKey { instance: operations[0].instance.clone(), action: operations[0].action };
    bench.book.touch(&key);
    assert_eq!(bench.book.page(before, 0, 10).operations.len(), 2);
    let before = bench.book.changes();
    bench.book.touch(&ActionKey { instance: InstanceName::parse("another").unwrap(), ..key });
    assert!(bench.book.page(before, 0, 10).operations.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_page_has_everything_up_to_its_end_and_nothing_after() {
    let mut bench = Bench::new();
    for number in 0..10 {
        bench.came(&operation(metadata(&format!("b{number}"), "//t", "M")));
        bench.book.second(at(number), Gauges::default(), Moved::default());
    }
    let (mut after, mut seen) = (0, (0, 0, 0));
    loop {
        let page = bench.book.page(after, 0, 3);
        assert!(page.operations.iter().all(|(change, _)| (after + 1..=page.to).contains(change)));
        seen = (seen.0 + page.operations.len(), seen.1 + page.builds.len(), seen.2 + page.samples.len());
        after = page.to;
        if page.is_last {
            break;
        }
    }
    assert_eq!((seen, after), ((10, 10, 10), bench.book.changes()));
}

/// What may become of one of a few operations.
#[derive(Clone, Debug)]
enum Step {
    Come { build: u8 },
    Queue(usize),
    Run(usize),
    End { which: usize, code: i32 },
    Cancel(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let which = 0..8_usize;
    prop_oneof![
        (0..3_u8).prop_map(|build| Step::Come { build }),
        which.clone().prop_map(Step::Queue),
        which.clone().prop_map(Step::Run),
        (which.clone(), 0..2_i32).prop_map(|(which, code)| Step::End { which, code }),
        which.prop_map(Step::Cancel),
    ]
}

proptest! {
    /// Whatever happens: the numbers of the node and of the builds are those of the operations.
    #[test]
    fn counts_add_up(steps in prop::collection::vec(step(), 0..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _guard = runtime.enter();
        let mut bench = Bench::new();
        let mut all: Vec<Operation> = Vec::new();
        for step in steps {
            let run = |which: usize| which as u64;
            let mut tell = |which: usize, state: OperationState| {
                if let Some(operation) = all.get(which) {
                    let is_over = bench.book.journal.get(operation.id).is_none_or(|entry| entry.end.is_some());
                    if !is_over {
                        bench.book.changed(operation, &state);
                    }
                }
            };
            match step {
                Step::Come { build } => {
                    let operation = operation(metadata(&build.to_string(), "//t", "M"));
                    bench.came(&operation);
                    all.push(operation);
                }
                Step::Queue(which) => tell(which, state(Stage::Queued, run(which))),
                Step::Run(which) => tell(which, state(Stage::Executing, run(which))),
                Step::End { which, code } => tell(which, done(run(which), 1, exit(code))),
                Step::Cancel(which) => tell(which, done(run(which), 1, error(tonic::Code::Cancelled))),
            }
        }
        let operations = bench.operations();
        let count = |stage| operations.iter().filter(|operation| operation.stage() == stage).count() as u64;
        let builds = bench.book.page(0, 0, usize::MAX).builds;
        let sum = |field: fn(&control::Build) -> u64| {
            builds.iter().map(|build| field(&build.to_wire("m", "ada"))).sum::<u64>()
        };
        prop_assert_eq!(sum(|build| build.queued), count(control::operation::Stage::Queued));
        prop_assert_eq!(sum(|build| build.running), count(control::operation::Stage::Running));
        let execution = bench.book.execution();
        prop_assert_eq!(execution.running, count(control::operation::Stage::Running));
        prop_assert!(execution.queued <= count(control::operation::Stage::Queued));
        let over = operations.iter().filter(|operation| operation.stage() == control::operation::Stage::Done);
        let failed = over.clone().filter(|operation| operation.exit_code != 0).count() as u64;
        prop_assert_eq!(sum(|build| build.failed), failed);
        prop_assert!(execution.executed + execution.errors <= over.count() as u64);
    }
}
