//! Streams without a network, over an activity of the test's own.

use std::sync::Mutex;

use async_trait::async_trait;
use farmhand_proto::control::{self, Execution, Machine, Node, Operation, Storage, Warning};
use farmhand_proto::protobuf;
use futures_util::StreamExt;
use tonic::Code;

use super::super::{ControlParts, testing};
use super::*;
use crate::activity::{Activity, Gauges, WATCHERS};
use crate::execution::Sequence;

/// A node that says what the test wants.
#[derive(Default)]
struct FakeSource(Mutex<GetStatusResponse>);

#[async_trait]
impl ControlSource for FakeSource {
    async fn status(&self) -> GetStatusResponse {
        let mut status = self.0.lock().unwrap();
        // An uptime that is another one each time.
        let node = status.node.get_or_insert_default();
        let uptime = node.uptime.get_or_insert_default();
        uptime.seconds += 1;
        status.clone()
    }

    async fn operations(&self) -> Vec<Operation> {
        Vec::new()
    }
}

struct Bench {
    source: Arc<FakeSource>,
    activity: Arc<Activity>,
    service: ControlService,
}

impl Bench {
    fn new() -> Self {
        let status = GetStatusResponse {
            node: Some(Node { name: "n".into(), ..Default::default() }),
            machines: vec![Machine::default()],
            execution: Some(Execution { executed: 1, ..Default::default() }),
            storage: Some(Storage { blobs: 1, ..Default::default() }),
            warnings: vec![Warning::default()],
            entrance: None,
        };
        let source = Arc::new(FakeSource(Mutex::new(status)));
        let activity = Arc::new(Activity::new(5, "m", Sequence::default()));
        let parts = testing::parts(FakeSource::default());
        let service =
            ControlService::new(ControlParts { source: source.clone(), activity: activity.clone(), ..parts });
        Self { source, activity, service }
    }

    async fn watch(&self, request: WatchRequest) -> Replies<WatchResponse> {
        self.service.watch(Request::new(request)).await.unwrap().into_inner()
    }

    fn set(&self, change: impl FnOnce(&mut GetStatusResponse)) {
        change(&mut self.source.0.lock().unwrap());
        self.activity.second(Gauges::default());
    }
}

fn milliseconds(number: i32) -> WatchRequest {
    let interval = Some(protobuf::Duration { seconds: 0, nanos: number * 1_000_000 });
    WatchRequest { interval, ..Default::default() }
}

#[tokio::test(start_paused = true)]
async fn the_first_message_has_everything_and_later_ones_what_is_new() {
    let bench = Bench::new();
    let mut watch = bench.watch(WatchRequest::default()).await;
    let first = watch.next().await.unwrap().unwrap();
    assert!(first.snapshot && first.complete && first.has_warnings);
    assert_eq!((first.node.unwrap().name.as_str(), first.machines.len()), ("n", 1));
    assert_eq!((first.execution.unwrap().executed, first.storage.unwrap().blobs), (1, 1));
    assert_eq!(first.position.unwrap(), WatchPosition { boot_epoch: 5, sequence: 0 });

    bench.set(|status| status.execution.as_mut().unwrap().executed = 2);
    let second = watch.next().await.unwrap().unwrap();
    assert!(!second.snapshot && !second.complete && !second.has_warnings);
    assert_eq!((second.node, second.machines.len(), second.storage), (None, 0, None), "only older");
    assert_eq!((second.execution.unwrap().executed, second.samples.len()), (2, 1));

    bench.set(|status| {
        status.warnings.clear();
        status.storage = None;
        status.machines[0].busy = 3;
    });
    let third = watch.next().await.unwrap().unwrap();
    assert_eq!((third.has_warnings, third.warnings.len()), (true, 0));
    assert_eq!((third.machines[0].busy, third.execution, third.storage), (3, None, None));
    assert_eq!(third.position.unwrap().sequence, 2);
}

#[tokio::test(start_paused = true)]
async fn who_may_come_in_is_told_at_once_and_when_it_is_over() {
    let bench = Bench::new();
    let mut watch = bench.watch(WatchRequest::default()).await;
    let first = watch.next().await.unwrap().unwrap();
    assert_eq!(first.entrance, Some(control::Entrance::default()), "nobody, and that is told");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let invited = bench.service.farm.joining.invite(true).await.unwrap();
    let told = watch.next().await.unwrap().unwrap().entrance.unwrap();
    let open = told.invitation.unwrap();
    assert_eq!((open.asks, open.wrong_codes, open.tries_left > 0), (true, 0, true));
    assert_eq!((open.farm, open.addresses.len()), (invited.farm.clone(), 1));
    drop(invited);
    let told = watch.next().await.unwrap().unwrap();
    assert_eq!((told.entrance, told.machines.len()), (Some(control::Entrance::default()), 0));
}

#[tokio::test(start_paused = true)]
async fn messages_keep_their_distance_and_nothing_is_said_for_nothing() {
    let bench = Bench::new();
    for (wanted, expected) in [(0, 20), (50, 50), (500, 500)] {
        let mut watch = bench.watch(milliseconds(wanted)).await;
        watch.next().await.unwrap().unwrap();
        let start = Instant::now();
        bench.activity.second(Gauges::default());
        watch.next().await.unwrap().unwrap();
        assert_eq!(start.elapsed().as_millis(), expected);
        let silence = tokio::time::timeout(Duration::from_secs(3600), watch.next()).await;
        assert!(silence.is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_after_a_pause_is_told_at_once() {
    let bench = Bench::new();
    let mut watch = bench.watch(WatchRequest::default()).await;
    watch.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    bench.activity.second(Gauges::default());
    let start = Instant::now();
    watch.next().await.unwrap().unwrap();
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn who_resumes_is_told_of_the_node_anew_and_of_changes_once() {
    let bench = Bench::new();
    let mut watch = bench.watch(WatchRequest::default()).await;
    let first = watch.next().await.unwrap().unwrap();
    drop(watch);
    bench.activity.second(Gauges::default());
    let request = WatchRequest { resume: first.position, ..Default::default() };
    let again = bench.watch(request).await.next().await.unwrap().unwrap();
    assert!(!again.snapshot && !again.complete && again.node.is_some());
    assert_eq!(again.samples.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn one_watcher_too_many_is_told_so_and_any_that_leaves_makes_room() {
    let bench = Bench::new();
    let mut all = Vec::new();
    for _ in 0..WATCHERS {
        all.push(bench.watch(WatchRequest::default()).await);
    }
    let refused = bench.service.watch(Request::new(WatchRequest::default())).await.err().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("close a dashboard"), "{refused}");
    all.pop();
    drop(bench.watch(WatchRequest::default()).await);
}

#[tokio::test(start_paused = true)]
async fn streams_end_with_the_node() {
    let bench = Bench::new();
    let mut watch = bench.watch(WatchRequest::default()).await;
    watch.next().await.unwrap().unwrap();
    let stop = async {
        tokio::task::yield_now().await;
        bench.service.stopping.cancel();
    };
    let (last, ()) = tokio::join!(watch.next(), stop);
    assert_eq!(last.unwrap().unwrap_err().code(), Code::Unavailable);
    assert!(watch.next().await.is_none());
}
