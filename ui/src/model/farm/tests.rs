//! What the farm makes of messages.

use std::time::Duration;

use farmhand_proto::control::machine::State;
use farmhand_proto::control::operation::Stage;
use farmhand_proto::control::{self, WatchResponse};
use proptest::prelude::*;

use super::*;
use crate::testing::{self, BUILDS, ago};

fn known() -> Farm {
    let mut farm = Farm::default();
    farm.apply(testing::farm(), Duration::ZERO);
    farm
}

fn kinds(farm: &Farm) -> Vec<EventKind> {
    farm.events.iter().map(|event| event.kind).collect()
}

#[test]
fn numbers_are_told_from_what_is_known() {
    let farm = known();
    assert_eq!((farm.name(), farm.up(), farm.slots()), ("lab", (3, 4), (10, 24)));
    assert_eq!(farm.running_on("attic").count(), 5);
    assert_eq!(farm.builds.active(farm.clock.at(Duration::ZERO)).len(), 2);
}

#[test]
fn what_was_there_at_first_is_no_event() {
    let farm = known();
    assert_eq!(kinds(&farm), [EventKind::Warning(control::warning::Level::Advice)]);
}

#[test]
fn machines_that_come_go_and_change_are_events() {
    let mut farm = known();
    farm.events.clear();
    let mut machines = testing::farm().machines;
    machines.remove(2);
    machines[1].set_state(State::Draining);
    machines.push(control::Machine { name: "barn".into(), ..machines[0].clone() });
    farm.apply(WatchResponse { machines, ..Default::default() }, Duration::ZERO);
    assert_eq!(
        kinds(&farm),
        [EventKind::MachineIs(State::Draining), EventKind::MachineJoined, EventKind::MachineLeft]
    );
}

#[test]
fn an_action_that_fails_is_an_event_once() {
    let mut farm = known();
    farm.events.clear();
    let mut op = testing::farm().operations.remove(12);
    op.set_stage(Stage::Done);
    op.exit_code = 2;
    op.sequence = 50;
    for _ in 0..2 {
        farm.apply(WatchResponse { operations: vec![op.clone()], ..Default::default() }, Duration::ZERO);
    }
    assert_eq!(kinds(&farm), [EventKind::ActionFailed]);
    assert_eq!(&*farm.events[0].text, "exit code 2 on attic");
    assert_eq!(farm.events[0].invocation.as_deref(), Some(BUILDS[0]));
}

#[test]
fn a_snapshot_in_parts_voids_nothing_before_it_is_complete() {
    let mut farm = known();
    farm.apply(WatchResponse { snapshot: true, now: ago(-1.0), ..Default::default() }, Duration::ZERO);
    assert_eq!(farm.ops.counts(), (14, 9, 12));
    let build = control::Build { invocation: BUILDS[1].into(), ..Default::default() };
    let last = WatchResponse { builds: vec![build], complete: true, ..Default::default() };
    farm.apply(last, Duration::ZERO);
    assert_eq!((farm.ops.counts(), farm.builds.all().count()), ((0, 0, 0), 1));
}

#[test]
fn a_node_that_restarts_is_an_event() {
    let mut farm = known();
    farm.events.clear();
    let mut again = testing::farm();
    if let Some(node) = &mut again.node {
        node.boot_epoch += 1;
    }
    farm.apply(again, Duration::ZERO);
    assert_eq!(kinds(&farm), [EventKind::NodeRestarted]);
}

#[test]
fn samples_told_twice_count_once() {
    let mut farm = known();
    let before = farm.samples.len();
    farm.apply(WatchResponse { samples: testing::farm().samples, ..Default::default() }, Duration::ZERO);
    assert_eq!(farm.samples.len(), before);
}

#[test]
fn a_build_tells_its_speed_and_when_it_will_be_done() {
    let mut farm = known();
    for second in 1..=10_u32 {
        let mut build = testing::farm().builds.remove(0);
        build.executed += u64::from(second) * 4;
        let message =
            WatchResponse { now: ago(-f64::from(second)), builds: vec![build], ..Default::default() };
        farm.apply(message, Duration::from_secs(second.into()));
    }
    let now = farm.clock.at(Duration::from_secs(10));
    let build = farm.builds.get(BUILDS[0]).unwrap();
    assert!((build.speed(now).unwrap() - 4.0).abs() < 0.01, "{:?}", build.speed(now));
    assert_eq!(build.remaining(now).unwrap().as_secs(), 4);
}

#[test]
fn a_build_that_falls_quiet_has_ended_once() {
    let mut farm = known();
    farm.events.clear();
    let mut build = testing::farm().builds.remove(0);
    (build.queued, build.running) = (0, 0);
    for second in 0..3_u32 {
        let now = ago(-f64::from(second) * 20.0);
        farm.apply(WatchResponse { now, builds: vec![build.clone()], ..Default::default() }, Duration::ZERO);
    }
    assert_eq!(kinds(&farm), [EventKind::BuildEnded]);
    assert_eq!(&*farm.events[0].text, "420 run, 2 failed, 53% hits in 1m34s");
}

#[test]
fn colours_follow_the_person_or_the_build() {
    let mut farm = known();
    let number = |farm: &Farm, at: usize| farm.builds.get(BUILDS[at]).unwrap().sender;
    assert_eq!(number(&farm, 0), number(&farm, 2));
    assert_ne!(number(&farm, 0), number(&farm, 1));
    farm.set_colouring(Colouring::Build);
    assert_ne!(number(&farm, 0), number(&farm, 2));
}

/// Messages of any content, of which a node would send none.
fn any_message() -> impl Strategy<Value = WatchResponse> {
    let op = (0..20_u8, -1..6_i32, -2..9_i32, 0..30_u64, any::<i64>(), 0..4_u8);
    let ops = prop::collection::vec(op, 0..12).prop_map(|ops| {
        ops.into_iter()
            .map(|(name, stage, kind, sequence, seconds, build)| control::Operation {
                name: format!("op{name}"),
                stage,
                kind,
                sequence,
                queued: Some(farmhand_proto::protobuf::Timestamp { seconds, nanos: 7 }),
                invocation: format!("{build}"),
                attempts: u32::from(name),
                ..Default::default()
            })
            .collect::<Vec<_>>()
    });
    let builds = prop::collection::vec((0..4_u8, any::<u64>(), any::<u64>()), 0..4).prop_map(|builds| {
        builds
            .into_iter()
            .map(|(build, executed, failed)| control::Build {
                invocation: format!("{build}"),
                executed,
                failed: failed.min(executed),
                running: executed % 5,
                ..Default::default()
            })
            .collect::<Vec<_>>()
    });
    (any::<bool>(), any::<bool>(), any::<i64>(), ops, builds).prop_map(
        |(snapshot, complete, seconds, operations, builds)| WatchResponse {
            snapshot,
            complete,
            now: Some(farmhand_proto::protobuf::Timestamp { seconds, nanos: 0 }),
            operations,
            builds,
            ..Default::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_messages_breaks_it(messages in prop::collection::vec(any_message(), 0..20)) {
        let mut model = testing::blank(crate::options::View::Actions);
        for message in messages {
            let complete = message.complete;
            let event = crate::message::FeedEvent::Changes(Box::new(message));
            testing::send(&mut model, crate::message::Message::Feed(event));
            let (queued, running, over) = model.live.ops.counts();
            prop_assert_eq!(model.live.ops.all().count(), queued + running + over);
            prop_assert_eq!(model.actions.len(), queued + running + over);
            for (_, op) in model.live.ops.all() {
                prop_assert!(op.invocation.is_empty() || !complete || model.live.builds.get(&op.invocation).is_some());
            }
            testing::paint(&mut model, 90, 30);
            testing::press(&mut model, "1");
            testing::paint(&mut model, 90, 30);
            testing::press(&mut model, "3");
        }
    }
}
