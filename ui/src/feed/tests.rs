//! The connection against nodes that come, go, hang and talk nonsense.

use std::path::PathBuf;
use std::time::Duration;

use farmhand_proto::control::{GetActionRequest, ReadOutputRequest};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;

use super::*;
use crate::message::{Answer, Call, CallId, Slot};
use crate::testing::fake_node::{FakeNode, Manner};

/// A pace at which tests need not be waited for.
const QUICK: Pace = Pace {
    silence: Duration::from_millis(300),
    first_pause: Duration::from_millis(5),
    longest_pause: Duration::from_millis(20),
};

fn place() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("control.sock");
    (directory, socket)
}

/// The next event that is not of this kind.
async fn after(feed: &mut Feed, skip: fn(&FeedEvent) -> bool) -> FeedEvent {
    loop {
        let event = feed.next().await.unwrap();
        if !skip(&event) {
            return event;
        }
    }
}

fn is_lost(event: &FeedEvent) -> bool {
    matches!(event, FeedEvent::Lost { .. })
}

fn reason(event: FeedEvent) -> String {
    match event {
        FeedEvent::Lost { reason, .. } => reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_node_is_waited_for() {
    let (_directory, socket) = place();
    let mut feed = Feed::start_at(socket.clone(), QUICK);
    assert!(reason(feed.next().await.unwrap()).contains("no node is running"));
    let _node = FakeNode::start(&socket, Manner::Tells);
    assert!(matches!(after(&mut feed, is_lost).await, FeedEvent::Connected));
    let FeedEvent::Changes(changes) = feed.next().await.unwrap() else { panic!() };
    assert!(changes.snapshot && changes.complete);
    assert!(feed.client().is_some());
}

#[tokio::test]
async fn a_stream_is_resumed_where_it_stopped() {
    let (_directory, socket) = place();
    let node = FakeNode::start(&socket, Manner::HangsUp);
    let mut feed = Feed::start_at(socket, QUICK);
    let told = |event: &FeedEvent| !is_lost(event);
    assert!(reason(after(&mut feed, told).await).contains("the node ended"));
    after(&mut feed, told).await;
    let watched = node.watched.lock().unwrap().clone();
    assert_eq!(watched[0].resume, None);
    assert_eq!(watched[1].resume.map(|position| position.sequence), Some(100));
}

#[tokio::test]
async fn a_node_that_restarts_is_found_again() {
    let (_directory, socket) = place();
    let node = FakeNode::start(&socket, Manner::Tells);
    let mut feed = Feed::start_at(socket.clone(), QUICK);
    assert!(matches!(feed.next().await.unwrap(), FeedEvent::Connected));
    drop(node);
    after(&mut feed, |event| !is_lost(event)).await;
    assert!(feed.client().is_none());
    let _node = FakeNode::start(&socket, Manner::Tells);
    assert!(matches!(after(&mut feed, is_lost).await, FeedEvent::Connected));
}

#[tokio::test]
async fn a_node_that_hangs_is_given_up() {
    let (_directory, socket) = place();
    let _node = FakeNode::start(&socket, Manner::Silent);
    let mut feed = Feed::start_at(socket, QUICK);
    assert!(matches!(feed.next().await.unwrap(), FeedEvent::Connected));
    assert!(reason(feed.next().await.unwrap()).contains("says nothing"));
}

#[tokio::test]
async fn a_socket_nobody_answers_at_is_given_up() {
    let (_directory, socket) = place();
    let _listener = UnixListener::bind(&socket).unwrap();
    let mut feed = Feed::start_at(socket, QUICK);
    assert!(reason(feed.next().await.unwrap()).contains("does not answer"));
}

#[tokio::test]
async fn nonsense_is_given_up() {
    let (_directory, socket) = place();
    let listener = UnixListener::bind(&socket).unwrap();
    let mut nonsense = JoinSet::new();
    nonsense.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.write_all(&[0x42; 4096]).await;
        }
    });
    let mut feed = Feed::start_at(socket, QUICK);
    for _ in 0..3 {
        assert!(is_lost(&feed.next().await.unwrap()));
    }
}

#[tokio::test]
async fn a_refusal_is_told_harmlessly() {
    let (_directory, socket) = place();
    let _node = FakeNode::start(&socket, Manner::Refuses);
    let mut feed = Feed::start_at(socket, QUICK);
    assert_eq!(reason(feed.next().await.unwrap()), "too old \u{fffd}[2J");
}

fn id(serial: u64) -> CallId {
    CallId { slot: Slot::Action, serial }
}

fn action(digest: &str) -> Call {
    Call::Action(GetActionRequest { digest: digest.to_owned(), ..Default::default() })
}

#[tokio::test]
async fn calls_are_answered_refused_and_given_up() {
    let (_directory, socket) = place();
    let _node = FakeNode::start(&socket, Manner::Tells);
    let client = connect(&socket).await.unwrap();
    let mut calls = Calls::new();
    calls.ask(Some(client.clone()), id(1), action("never"));
    calls.ask(Some(client.clone()), id(2), action("abc/1"));
    let (answered, answer) = calls.next().await.unwrap();
    assert_eq!(answered, id(2));
    assert!(matches!(answer, Answer::Action(action) if action.digest == "abc/1"));
    calls.ask(Some(client), id(3), action(""));
    let (_, answer) = calls.next().await.unwrap();
    let Answer::Failed(failure) = answer else { panic!("{answer:?}") };
    assert_eq!((failure.code, failure.text.as_str()), (5, "there is none of that name"));
    calls.ask(None, id(4), action("abc/1"));
    assert!(
        matches!(calls.next().await.unwrap().1, Answer::Failed(failure) if failure.code == 14 && failure.lost)
    );
}

#[tokio::test]
async fn streams_end() {
    let (_directory, socket) = place();
    let _node = FakeNode::start(&socket, Manner::Tells);
    let client = connect(&socket).await.unwrap();
    let mut calls = Calls::new();
    let id = CallId { slot: Slot::Stdout, serial: 1 };
    calls.ask(Some(client), id, Call::Output(ReadOutputRequest::default()));
    let mut data = Vec::new();
    loop {
        match calls.next().await.unwrap().1 {
            Answer::Output(piece) => data.extend(piece.data),
            Answer::Ended => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(data, b"one two");
}
