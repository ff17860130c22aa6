//! Watchers that come, fall behind and come back.

use std::collections::BTreeMap;
use std::time::Duration;

use farmhand_proto::control::miss;
use farmhand_proto::control::operation::Stage as WireStage;
use proptest::prelude::*;

use super::super::testing::{at, done, exit, metadata, operation, state};
use super::super::{Gauges, WATCHERS};
use super::*;
use crate::execution::{Observer, Operation, OperationState, Sequence, Stage};

fn activity() -> Arc<Activity> {
    Arc::new(Activity::new(3, "m", Sequence::default()))
}

/// An operation that comes.
fn come(activity: &Activity, number: usize) -> Arc<Operation> {
    let operation = Arc::new(operation(metadata("b", &format!("//t:{number}"), "M")));
    activity.came(&operation, &OperationState::queued(at(1)), None);
    operation
}

fn finish(activity: &Activity, operation: &Operation) {
    activity.changed(operation, &state(Stage::Executing, 1));
    activity.changed(operation, &done(1, 1, exit(0)));
}

/// What a watcher holds.
#[derive(Default)]
struct Table {
    operations: BTreeMap<String, control::Operation>,
    builds: BTreeMap<String, control::Build>,
    samples: usize,
    snapshots: usize,
    position: u64,
}

impl Table {
    fn apply(&mut self, update: Update) {
        if update.is_snapshot {
            *self = Self { snapshots: self.snapshots + 1, ..Self::default() };
        }
        self.position = update.change;
        self.samples += update.samples.len();
        let operations = update.operations.into_iter().map(|operation| (operation.name.clone(), operation));
        self.operations.extend(operations);
        self.builds.extend(update.builds.into_iter().map(|build| (build.invocation.clone(), build)));
    }

    /// Reads all there is.
    fn catch_up(&mut self, follower: &mut Follower) {
        loop {
            self.apply(follower.read());
            if !follower.is_in_snapshot() && follower.after == follower.activity.book().changes() {
                return;
            }
        }
    }

    fn live(&self) -> Vec<&str> {
        let live = self.operations.values().filter(|operation| operation.stage() != WireStage::Done);
        live.map(|operation| operation.name.as_str()).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_comes_in_bounded_pieces_and_is_complete_once() {
    let activity = activity();
    let long = "x".repeat(1000);
    for number in 0..2500 {
        come(&activity, number);
        if number % 2 == 0 {
            let operation = Arc::new(operation(metadata(&long, &format!("{long}{number}"), &long)));
            activity.came(&operation, &OperationState::queued(at(1)), None);
        }
    }
    let mut follower = activity.follow(None, 0).unwrap();
    let mut table = Table::default();
    let mut complete = Vec::new();
    while follower.is_in_snapshot() {
        let update = follower.read();
        let bytes: usize = update.operations.iter().map(Message::encoded_len).sum();
        assert!(bytes <= PIECE && !update.operations.is_empty(), "{bytes}");
        complete.push((update.is_snapshot, update.is_complete));
        table.apply(update);
    }
    assert!(complete.len() > 2, "{}", complete.len());
    assert_eq!((complete.first(), complete.last()), (Some(&(true, false)), Some(&(false, true))));
    assert_eq!(complete.iter().filter(|(snapshot, complete)| *snapshot || *complete).count(), 2);
    assert_eq!(table.operations.len(), 3750);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_has_all_live_ones_and_the_latest_finished() {
    let activity = activity();
    let all: Vec<_> = (0..20).map(|number| come(&activity, number)).collect();
    for operation in &all[..15] {
        finish(&activity, operation);
    }
    let mut table = Table::default();
    table.catch_up(&mut activity.follow(None, 4).unwrap());
    let mut names: Vec<_> = all[11..].iter().map(|operation| operation.id.to_string()).collect();
    names.sort();
    assert_eq!(table.operations.keys().cloned().collect::<Vec<_>>(), names);
    assert_eq!(table.builds["b"].executed, 15);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_gets_what_was_missed_once() {
    let activity = activity();
    let first = come(&activity, 0);
    activity.second(Gauges::default());
    let mut table = Table::default();
    table.catch_up(&mut activity.follow(None, 0).unwrap());
    finish(&activity, &first);
    come(&activity, 1);
    activity.second(Gauges::default());
    let position = Position { epoch: 3, change: table.position };
    let mut follower = activity.follow(Some(position), 0).unwrap();
    let update = follower.read();
    assert!(!update.is_snapshot && !update.is_complete);
    assert_eq!((update.operations.len(), update.samples.len()), (2, 1));
    table.apply(update);
    assert_eq!((table.samples, table.live().len(), table.snapshots), (2, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn another_start_or_an_unknown_place_gives_a_snapshot() {
    let activity = activity();
    come(&activity, 0);
    for position in [Position { epoch: 2, change: 1 }, Position { epoch: 3, change: 99 }] {
        assert!(activity.follow(Some(position), 0).unwrap().read().is_snapshot, "{position:?}");
    }
    assert!(!activity.follow(Some(Position { epoch: 3, change: 1 }), 0).unwrap().read().is_snapshot);
}

#[tokio::test(start_paused = true)]
async fn who_falls_too_far_behind_begins_anew_and_loses_nothing() {
    let activity = activity();
    let mut follower = activity.follow(None, FINISHED).unwrap();
    let mut table = Table::default();
    let early = come(&activity, 0);
    table.catch_up(&mut follower);
    finish(&activity, &early);
    for number in 0..FINISHED {
        finish(&activity, &come(&activity, number));
    }
    let last = come(&activity, 0);
    table.catch_up(&mut follower);
    assert_eq!(table.snapshots, 2);
    assert_eq!(table.live(), [last.id.to_string()]);
    assert_eq!(table.operations.len(), FINISHED + 1);
}

/// While a long snapshot is read, old operations may be dropped without end: that is no falling behind.
#[tokio::test(start_paused = true)]
async fn a_snapshot_ends_while_operations_go_on_ending() {
    let activity = activity();
    for number in 0..FINISHED {
        finish(&activity, &come(&activity, number));
    }
    let mut follower = activity.follow(None, FINISHED).unwrap();
    let mut table = Table::default();
    while follower.is_in_snapshot() {
        table.apply(follower.read());
        for number in 0..100 {
            finish(&activity, &come(&activity, number));
        }
    }
    assert_eq!(table.snapshots, 1);
}

#[tokio::test(start_paused = true)]
async fn only_so_many_may_watch() {
    let activity = activity();
    let mut all: Vec<_> = (0..WATCHERS).map(|_| activity.follow(None, 0).unwrap()).collect();
    assert_eq!(activity.follow(None, 0).unwrap_err(), Full);
    all.pop();
    activity.follow(None, 0).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_change_wakes_all_who_wait_and_nothing_else_does() {
    let activity = activity();
    let mut followers = [activity.follow(None, 0).unwrap(), activity.follow(None, 0).unwrap()];
    for follower in &mut followers {
        follower.read();
    }
    let hour = Duration::from_secs(3600);
    assert!(tokio::time::timeout(hour, followers[0].changed()).await.is_err());
    let [first, second] = &followers;
    let wake = async {
        tokio::task::yield_now().await;
        activity.second(Gauges::default());
    };
    tokio::join!(first.changed(), second.changed(), wake);
    for follower in &mut followers {
        assert_eq!(follower.read().samples.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_are_told_by_the_second() {
    let activity = activity();
    let meter = activity.meter("b", || metadata("b", "", ""));
    let mut follower = activity.follow(None, 0).unwrap();
    assert_eq!(follower.read().builds[0].uploaded_bytes, 0);
    meter.uploaded(10);
    activity.meter("b", || panic!("it is known")).downloaded(20);
    activity.second(Gauges { slots: 2, ..Gauges::default() });
    let update = follower.read();
    let (build, sample) = (&update.builds[0], &update.samples[0]);
    assert_eq!((build.uploaded_bytes, build.downloaded_bytes, build.machine.as_str()), (10, 20, "m"));
    assert_eq!((sample.uploaded_bytes, sample.downloaded_bytes, sample.slots), (10, 20, 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// A watcher that reads now and then, and reconnects now and then, ends with what a fresh one gets.
    #[test]
    fn any_watcher_ends_with_the_table_of_a_fresh_one(
        steps in prop::collection::vec((0..6_u8, 0..12_usize), 0..150),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _guard = runtime.enter();
        let activity = activity();
        let mut follower = activity.follow(None, 0).unwrap();
        let mut table = Table::default();
        let mut all: Vec<Arc<Operation>> = Vec::new();
        for (what, which) in steps {
            match (what, all.get(which)) {
                (0, _) => all.push(come(&activity, which)),
                (1, Some(operation)) => activity.changed(operation, &state(Stage::Executing, which as u64)),
                (2, Some(_)) => {
                    let operation = all.swap_remove(which);
                    activity.changed(&operation, &done(which as u64, 1, exit(0)));
                }
                (3, Some(operation)) => {
                    activity.annotate(&operation.id.to_string(), |remarks| remarks.miss = miss::Kind::First);
                }
                (4, _) => table.apply(follower.read()),
                (5, _) => {
                    activity.second(Gauges::default());
                    let position = Position { epoch: 3, change: table.position };
                    follower = activity.follow((table.snapshots > 0).then_some(position), 0).unwrap();
                }
                _ => {}
            }
        }
        table.catch_up(&mut follower);
        let mut fresh = Table::default();
        fresh.catch_up(&mut activity.follow(None, 0).unwrap());
        prop_assert_eq!(table.operations, fresh.operations);
        prop_assert_eq!(table.builds, fresh.builds);
        prop_assert_eq!(table.samples, fresh.samples);
    }
}
