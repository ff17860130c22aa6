//! The scheduler with fakes around it. The clock stands still unless a test waits for time.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use farmhand_proto::{any, raw, rpc};
use tonic::Code;

use super::*;
use crate::digest::DigestFunction::Sha256;
use crate::execution::ActionError;
use crate::execution::grants::{Grant, Share, Slots};
use crate::execution::operations::Outcome;
use crate::execution::placement::Site;
use crate::execution::queue::{Duty, Target};
use crate::execution::testing::{Farm, NEEDS, platform, request};
use crate::platform::InputRootPlace;

fn status(state: &OperationState) -> rpc::Status {
    state.response.as_ref().unwrap().status.clone().unwrap_or_default()
}

fn code(state: &OperationState) -> Code {
    status(state).code.into()
}

fn key(action: Digest) -> ActionKey {
    ActionKey { instance: InstanceName::default(), action }
}

async fn run(farm: &Farm, action: Digest) -> OperationState {
    farm.scheduler.execute(request(action)).await.unwrap().done().await
}

/// Waits until the operation is with a worker whose command runs.
async fn running(watch: &mut OperationWatch) {
    while watch.state().timeline.running_at.is_none() {
        watch.changed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn runs_once_and_then_answers_from_the_cache() {
    let (farm, worker) = Farm::with_worker(1);
    let action = farm.action(&["true"]);
    let first = run(&farm, action).await;
    assert_eq!((code(&first), first.timeline.worker.as_deref()), (Code::Ok, Some("worker")));
    assert!(!first.response.unwrap().cached_result);
    assert!(farm.action_cache.get(&key(action)).await.unwrap().is_some());
    let second = run(&farm, action).await;
    assert!(second.response.unwrap().cached_result);
    assert_eq!(worker.runs(), 1);
    assert_eq!(farm.outcomes(), [Outcome::Succeeded; 2]);
}

#[tokio::test(start_paused = true)]
async fn the_result_is_in_the_cache_before_it_is_announced() {
    let (farm, _worker) = Farm::with_worker(1);
    for number in 0..20 {
        let action = farm.action(&["true", &number.to_string()]);
        run(&farm, action).await;
        assert!(farm.action_cache.get(&key(action)).await.unwrap().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn only_clean_results_are_cached() {
    let (farm, worker) = Farm::with_worker(1);
    let private = farm.action_with(&["true"], |action, _| action.do_not_cache = true);
    for action in [farm.action(&["false"]), farm.action(&["timeout"]), private] {
        run(&farm, action).await;
        run(&farm, action).await;
        assert!(farm.action_cache.get(&key(action)).await.unwrap().is_none());
    }
    assert_eq!(worker.runs(), 6);
    let outcomes = farm.outcomes();
    assert_eq!(outcomes[0], Outcome::Succeeded);
    assert_eq!(outcomes[2], Outcome::Error(Code::DeadlineExceeded as i32));
    assert_eq!(outcomes[4], Outcome::Failed(1));
}

#[tokio::test(start_paused = true)]
async fn a_failed_result_that_a_client_put_there_is_no_hit() {
    let (farm, worker) = Farm::with_worker(1);
    let action = farm.action(&["true"]);
    let failed = reapi::ActionResult { exit_code: 1, ..Default::default() };
    farm.action_cache.put(&key(action), failed).await.unwrap();
    assert!(!run(&farm, action).await.response.unwrap().cached_result);
    assert_eq!(worker.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn skipping_the_lookup_heals_the_cache() {
    let (farm, worker) = Farm::with_worker(1);
    let action = farm.action(&["true"]);
    let poison = reapi::ActionResult { stdout_raw: b"poison".to_vec(), ..Default::default() };
    farm.action_cache.put(&key(action), poison.clone()).await.unwrap();
    let request = Request { skip_cache_lookup: true, ..request(action) };
    let state = farm.scheduler.execute(request).await.unwrap().done().await;
    assert!(!state.response.unwrap().cached_result);
    assert_eq!(worker.runs(), 1);
    assert_ne!(farm.action_cache.get(&key(action)).await.unwrap(), Some(poison));
}

#[tokio::test(start_paused = true)]
async fn ten_at_once_run_once_and_one_may_cancel() {
    let (farm, worker) = Farm::with_worker(4);
    let action = farm.action(&["wait"]);
    let mut watches = Vec::new();
    for _ in 0..10 {
        watches.push(farm.scheduler.execute(request(action)).await.unwrap());
    }
    running(&mut watches[0]).await;
    let snapshot = farm.scheduler.snapshot();
    assert_eq!((snapshot.running.len(), snapshot.running[0].callers), (1, 10));
    assert!(farm.scheduler.cancel(&watches[3].operation().id.to_string()));
    assert_eq!(code(&watches[3].done().await), Code::Cancelled);
    worker.release();
    for (number, watch) in watches.iter_mut().enumerate() {
        let expected = if number == 3 { Code::Cancelled } else { Code::Ok };
        assert_eq!(code(&watch.done().await), expected, "{number}");
    }
    assert_eq!((worker.runs(), worker.cancelled.load(Ordering::SeqCst)), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn cancelling_kills_the_run_and_frees_the_slot() {
    let (farm, worker) = Farm::with_worker(1);
    let mut watch = farm.scheduler.execute(request(farm.action(&["wait"]))).await.unwrap();
    running(&mut watch).await;
    let name = watch.operation().id.to_string();
    assert!(farm.scheduler.cancel(&name));
    assert_eq!(code(&watch.done().await), Code::Cancelled);
    assert_eq!(code(&run(&farm, farm.action(&["true"])).await), Code::Ok);
    assert_eq!(worker.cancelled.load(Ordering::SeqCst), 1);
    assert!(farm.scheduler.cancel(&name), "a finished one is left alone");
    assert!(!farm.scheduler.cancel("operations/nothing"));
}

#[tokio::test(start_paused = true)]
async fn a_run_outlives_its_client_for_the_grace_period() {
    let (farm, worker) = Farm::with_worker(1);
    let mut watch = farm.scheduler.execute(request(farm.action(&["wait"]))).await.unwrap();
    running(&mut watch).await;
    let name = watch.operation().id.to_string();
    drop(watch);
    tokio::time::sleep(Duration::from_secs(200)).await;
    let mut again = farm.scheduler.attach(&name).unwrap();
    tokio::time::sleep(Duration::from_secs(1000)).await;
    assert!(!again.state().is_done(), "somebody waits");
    drop(again);
    tokio::time::sleep(Duration::from_secs(302)).await;
    let operation = farm.scheduler.get(&name).unwrap();
    assert_eq!(code(&operation.state()), Code::Cancelled);
    assert_eq!(worker.cancelled.load(Ordering::SeqCst), 1);
    tokio::time::sleep(Settings::default().retention.age).await;
    assert!(farm.scheduler.get(&name).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_run_without_clients_gives_its_slot_to_one_that_has_a_client() {
    let (farm, worker) = Farm::with_worker(1);
    let mut watch = farm.scheduler.execute(request(farm.action(&["wait"]))).await.unwrap();
    running(&mut watch).await;
    let orphan = watch.operation().clone();
    drop(watch);
    let start = Instant::now();
    assert_eq!(code(&run(&farm, farm.action(&["true"])).await), Code::Ok);
    let waited = start.elapsed();
    let orphan_yield = farm.scheduler.settings().orphan_yield;
    assert!((orphan_yield..orphan_yield + Duration::from_secs(2)).contains(&waited), "{waited:?}");
    assert_eq!((code(&orphan.state()), worker.cancelled.load(Ordering::SeqCst)), (Code::Cancelled, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_before_its_answer_leaves_no_eternal_operation() {
    let farm = Farm::new(Settings::default());
    let action = farm.action(&["true"]);
    let call = farm.scheduler.execute(request(action));
    assert!(futures_util::FutureExt::now_or_never(call).is_none(), "waits for the queue's answer");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(farm.scheduler.snapshot().queued.len(), 1);
    tokio::time::sleep(Duration::from_secs(301)).await;
    assert!(farm.scheduler.snapshot().queued.is_empty());
}

#[tokio::test(start_paused = true)]
async fn lost_and_panicking_workers_are_given_up_after_four_tries() {
    let (farm, worker) = Farm::with_worker(1);
    for (tries, program) in ["lose", "panic"].into_iter().enumerate() {
        let state = run(&farm, farm.action(&[program])).await;
        assert_eq!((code(&state), worker.runs()), (Code::Aborted, 4 * (tries + 1)));
        assert!(status(&state).message.contains("worker: "), "{}", status(&state).message);
    }
    let names: std::collections::HashSet<_> =
        worker.leases.lock().unwrap().iter().map(|lease| lease.operation.clone()).collect();
    assert_eq!(names.len(), 8, "every try has a name of its own");
    assert!(names.iter().all(|name| !name.contains('/')));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_leaves_is_replaced() {
    let (farm, _first) = Farm::with_worker(1);
    let mut watch = farm.scheduler.execute(request(farm.action(&["wait"]))).await.unwrap();
    running(&mut watch).await;
    farm.scheduler.remove_worker("worker", "closed its lid");
    let second = farm.add_worker("second", 1);
    second.release();
    let state = watch.done().await;
    assert_eq!((code(&state), state.timeline.worker.as_deref()), (Code::Ok, Some("second")));
}

#[tokio::test(start_paused = true)]
async fn missing_blobs_are_all_named_in_the_response() {
    let (farm, worker) = Farm::with_worker(1);
    let absent = Digest::of(Sha256, b"absent");
    let other = Digest::of(Sha256, b"other");
    let no_command = farm.action_with(&["true"], |action, _| {
        action.command_digest = Some(absent.to_wire());
        action.input_root_digest = Some(other.to_wire());
    });
    for (action, expected) in [(absent, vec![absent]), (no_command, vec![absent, other])] {
        let mut watch = farm.scheduler.execute(request(action)).await.unwrap();
        let status = status(&watch.state());
        assert_eq!(status.code, Code::FailedPrecondition as i32);
        let failure: raw::PreconditionFailure = any::unpack(&status.details[0]).unwrap();
        let subjects: Vec<_> = failure.violations.into_iter().map(|violation| violation.subject).collect();
        assert_eq!(subjects, expected.iter().map(Digest::missing_subject).collect::<Vec<_>>());
        assert!(farm.scheduler.get(&watch.operation().id.to_string()).is_some());
    }
    assert_eq!(worker.runs(), 0);
}

#[tokio::test(start_paused = true)]
async fn faults_of_the_action_are_errors_of_the_call() {
    let (farm, _worker) = Farm::with_worker(1);
    let seconds = |seconds| Some(farmhand_proto::protobuf::Duration { seconds, nanos: 0 });
    let rubbish = farm.cas.insert(Sha256, &b"\xff\xff\xff"[..]);
    let bad_command = farm.action_with(&["x"], |a, _| a.command_digest = Some(rubbish.to_wire()));
    let no_root = farm.action_with(&["x"], |a, _| a.input_root_digest = None);
    let error = async |action| match farm.scheduler.execute(request(action)).await {
        Err(ExecuteError::Invalid(error)) => error,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("no error"),
    };
    assert!(matches!(error(rubbish).await, ActionError::Decode { role: "Action", .. }));
    assert!(matches!(error(bad_command).await, ActionError::Decode { role: "Command", .. }));
    assert!(matches!(error(no_root).await, ActionError::Digest { .. }));
    assert!(matches!(error(farm.action(&[])).await, ActionError::Arguments(_)));
    for bad in [-1, 24 * 3600 + 1, i64::MAX] {
        let action = farm.action_with(&["x"], |action, _| action.timeout = seconds(bad));
        assert!(matches!(error(action).await, ActionError::Timeout { .. }), "{bad}");
    }
    let outside = farm.action_with(&["x"], |_, command| command.output_paths = vec!["../x".into()]);
    assert!(matches!(error(outside).await, ActionError::OutputPath(_)));
}

#[tokio::test(start_paused = true)]
async fn leases_carry_what_the_client_asked_for() {
    let (farm, worker) = Farm::with_worker(1);
    let action = farm.action_with(&["true"], |action, command| {
        action.timeout = Some(farmhand_proto::protobuf::Duration { seconds: 7, nanos: 0 });
        action.platform = platform(NEEDS, "worker");
        command.working_directory = "a/./b".into();
    });
    let invocation = Arc::new(RequestMetadata { tool_name: "BuildStream".into(), ..Default::default() });
    let mut watch = farm.scheduler.execute(Request { invocation, ..request(action) }).await.unwrap();
    watch.done().await;
    run(&farm, farm.action(&["true", "plain"])).await;
    let leases = worker.leases.lock().unwrap();
    assert_eq!((leases[0].timeout, &*leases[0].command.working_directory), (Duration::from_secs(7), "a/b"));
    assert_eq!(leases[0].platform.input_root, InputRootPlace::Filesystem);
    assert_eq!(leases[1].timeout, Settings::default().default_timeout);
    assert!(leases[1].platform.properties.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_nobody_can_run_and_what_does_not_fit_is_refused() {
    let (farm, _worker) = Farm::with_worker(0);
    let picky = farm.action_with(&["true"], |action, _| action.platform = platform(NEEDS, "gpu"));
    let error = farm.scheduler.execute(request(picky)).await.err().unwrap();
    assert!(error.to_string().contains("worker: needs=gpu"), "{error}");

    let farm = Farm::new(Settings { queue_limit: 1, ..Settings::default() });
    let _first = farm.scheduler.execute(request(farm.action(&["a"]))).await.unwrap();
    let error = farm.scheduler.execute(request(farm.action(&["b"]))).await.err().unwrap();
    assert!(matches!(error, ExecuteError::Refused(Refusal::Full(1))));
    assert_eq!(farm.scheduler.snapshot().queued.len(), 1, "the refused one is forgotten");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_node_ends_runs_and_refuses_new_ones() {
    let (farm, worker) = Farm::with_worker(1);
    let mut watch = farm.scheduler.execute(request(farm.action(&["wait"]))).await.unwrap();
    running(&mut watch).await;
    farm.tasks.stop().await;
    assert_eq!(worker.cancelled.load(Ordering::SeqCst), 1);
    let error = farm.scheduler.execute(request(farm.action(&["true"]))).await.err().unwrap();
    assert!(matches!(error, ExecuteError::ShuttingDown));
}

/// Writes down what an observer is told: look-ups, and each operation with its stage.
#[derive(Default)]
struct Witness(std::sync::Mutex<Vec<String>>);

impl Witness {
    fn note(&self, text: String) {
        self.0.lock().unwrap().push(text);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Observer for Witness {
    fn looked_up(&self, _request: &Request, found: Option<&reapi::ActionResult>) {
        self.note(format!("looked up {}", found.is_some()));
    }

    fn came(&self, _: &Arc<Operation>, state: &OperationState, action: Option<&PreparedAction>) {
        let output = action.and_then(PreparedAction::first_output).unwrap_or("-");
        self.note(format!("came {:?} {output}", state.stage));
    }

    fn changed(&self, operation: &Operation, state: &OperationState) {
        assert!(!operation.is_done(), "told before the clients are");
        self.note(format!("{:?}", state.stage));
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_is_told_of_every_step() {
    let witness = Arc::new(Witness::default());
    let farm = Farm::observed(Settings::default(), witness.clone());
    farm.add_worker("worker", 1);
    let action = farm.action_with(&["true"], |_, command| command.output_paths = vec!["out".into()]);
    run(&farm, action).await;
    assert_eq!(witness.take(), ["looked up false", "came Queued out", "Queued", "Executing", "Completed"]);
    run(&farm, action).await;
    assert_eq!(witness.take(), ["looked up true", "came Completed -"]);
    let absent = Digest::of(Sha256, b"absent");
    run(&farm, absent).await;
    assert_eq!(witness.take(), ["came Completed -"]);
    let skipping = Request { skip_cache_lookup: true, ..request(action) };
    farm.scheduler.execute(skipping).await.unwrap().done().await;
    assert_eq!(witness.take()[0], "came Queued out");
}

#[tokio::test(start_paused = true)]
async fn a_killed_run_ends_for_all_its_callers_with_what_the_worker_has() {
    let (farm, worker) = Farm::with_worker(1);
    let action = farm.action(&["wait"]);
    let mut first = farm.scheduler.execute(request(action)).await.unwrap();
    let mut second = farm.scheduler.execute(request(action)).await.unwrap();
    let mut waiting = farm.scheduler.execute(request(farm.action(&["true", "waits"]))).await.unwrap();
    running(&mut first).await;
    let waits = farm.scheduler.explain(&waiting.operation().id.to_string()).await.unwrap();
    assert_eq!(waits.obstacles[0].1.to_string(), "its slot is busy");
    assert_eq!(farm.scheduler.kill(Target::Operation(waiting.operation().id)).await.unwrap(), 1);
    assert_eq!(code(&waiting.done().await), Code::Cancelled);

    assert_eq!(farm.scheduler.kill(Target::Action(action)).await.unwrap(), 2);
    for watch in [&mut first, &mut second] {
        let state = watch.done().await;
        assert_eq!(code(&state), Code::Cancelled);
        assert!(status(&state).message.contains("killed by a person"));
    }
    assert_eq!(worker.cancelled.load(Ordering::SeqCst), 1);
    assert!(farm.action_cache.get(&key(action)).await.unwrap().is_none());
    for over in [Target::Operation(first.operation().id), Target::Action(action)] {
        assert!(matches!(farm.scheduler.kill(over).await, Err(KillError::Over(_))));
    }
    for unknown in [Target::Operation(OperationId::random()), Target::Action(Digest::of(Sha256, b"x"))] {
        assert!(matches!(farm.scheduler.kill(unknown).await, Err(KillError::Unknown(_))));
    }
    assert!(farm.scheduler.explain(&first.operation().id.to_string()).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_machine_does_what_it_is_told() {
    let (farm, worker) = Farm::with_worker(1);
    let set = async |duty, slots| farm.scheduler.set_machine("worker", MachineChange { duty, slots }).await;
    assert_eq!(set(Some(Duty::Paused), None).await.unwrap().duty, Duty::Paused);
    let mut waiting = farm.scheduler.execute(request(farm.action(&["true"]))).await.unwrap();
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!((waiting.state().stage, worker.runs()), (Stage::Queued, 0));
    let state = set(Some(Duty::Active), Some(3)).await.unwrap();
    assert_eq!((state.slots, state.duty), (3, Duty::Active));
    assert_eq!(code(&waiting.done().await), Code::Ok);

    let mut watches = Vec::new();
    for number in ["1", "2", "3", "4"] {
        watches.push(farm.scheduler.execute(request(farm.action(&["wait", number]))).await.unwrap());
    }
    assert_eq!(farm.scheduler.machines().await[0].busy, 3);
    assert_eq!(set(None, Some(1)).await.unwrap().busy, 3, "none is stopped");
    for _ in 0..4 {
        worker.release();
    }
    for watch in &mut watches {
        assert_eq!(code(&watch.done().await), Code::Ok);
    }
    assert!(matches!(set(None, Some(101)).await, Err(MachineError::Slots(_))));
    assert_eq!(farm.scheduler.machines().await[0].slots, 1, "as before");
    let unknown = farm.scheduler.set_machine("nobody", MachineChange::default()).await;
    assert!(matches!(unknown, Err(MachineError::Unknown(name)) if name == "nobody"));
}

#[tokio::test(start_paused = true)]
async fn steps_that_come_with_the_end_are_not_lost() {
    let (farm, _worker) = Farm::with_worker(1);
    let timeline = run(&farm, farm.action(&["quick"])).await.timeline;
    assert!(timeline.running_at.is_some() && timeline.collecting_at.is_some(), "{timeline:?}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_without_a_slot_leaves_the_action_waiting_as_if_it_had_not_been_asked() {
    let (farm, worker) = Farm::with_worker(1);
    let mut watch = farm.scheduler.execute(request(farm.action(&["busy"]))).await.unwrap();
    while worker.runs() < 2 {
        watch.changed().await;
    }
    while watch.state().stage != Stage::Queued {
        watch.changed().await;
    }
    assert_eq!(watch.state().timeline.attempts, 0);
    assert!(farm.scheduler.cancel(&watch.operation().id.to_string()));
    assert_eq!(code(&watch.done().await), Code::Cancelled);
}

/// Takes note of what is to be claimed.
#[derive(Default)]
struct Claims(Mutex<Vec<ActionKey>>);

impl Claimer for Claims {
    fn claim(&self, _: OperationId, key: &ActionKey) {
        self.0.lock().unwrap().push(key.clone());
    }
}

#[tokio::test(start_paused = true)]
async fn only_what_may_be_had_elsewhere_is_claimed() {
    let (farm, _) = Farm::with_worker(1);
    let claims = Arc::new(Claims::default());
    farm.scheduler.set_claimer(claims.clone());
    let private = farm.action_with(&["true", "private"], |action, _| action.do_not_cache = true);
    run(&farm, private).await;
    let anew = Request { skip_cache_lookup: true, ..request(farm.action(&["true", "anew"])) };
    farm.scheduler.execute(anew).await.unwrap().done().await;
    assert!(claims.0.lock().unwrap().is_empty());
    let usual = farm.action(&["true", "usual"]);
    run(&farm, usual).await;
    assert_eq!(*claims.0.lock().unwrap(), [key(usual)]);
}

#[tokio::test(start_paused = true)]
async fn what_was_wanted_of_a_machine_that_left_is_forgotten() {
    let farm = Farm::new(Settings { person: "ann".into(), ..Settings::default() });
    farm.add_worker("far", 0);
    let mut demand = farm.scheduler.demand();
    let mut watch = farm.scheduler.execute(request(farm.action(&["true"]))).await.unwrap();
    demand.wait_for(|demand| demand.contains_key("far")).await.unwrap();
    farm.scheduler.remove_worker("far", "unplugged");
    assert!(farm.scheduler.cancel(&watch.operation().id.to_string()));
    watch.done().await;
    farm.scheduler.machines().await;
    assert!(!demand.borrow().contains_key("far"), "when it is back it hears what is wanted then");
}

#[tokio::test(start_paused = true)]
async fn what_is_wanted_of_a_machine_is_told_and_what_it_grants_is_used() {
    let farm = Farm::new(Settings { person: "ann".into(), ..Settings::default() });
    let worker = farm.add_worker("far", 0);
    let mut demand = farm.scheduler.demand();
    let mut watch = farm.scheduler.execute(request(farm.action(&["true"]))).await.unwrap();
    let wanted = demand.wait_for(|demand| demand.contains_key("far")).await.unwrap().clone();
    let want = &wanted["far"].wants[0];
    assert_eq!((&*want.person, want.waiting, want.given), ("ann", 1, 0));
    let share = Share { person: "ann".into(), slots: 1, ahead: 0 };
    farm.scheduler.site("far", Site { is_remote: true, ..Site::default() });
    farm.scheduler.grant("far", Grant { number: 1, slots: Slots::Shared(vec![share]) });
    assert_eq!((code(&watch.done().await), worker.runs()), (Code::Ok, 1));
    demand.wait_for(|demand| demand["far"].wants.is_empty()).await.unwrap();
}
