//! Programs that are too old or too new for each other say so; newer messages do no harm.

use std::time::Duration;

use farmhand_proto::control::machine::State;
use farmhand_proto::peer::link_message::Message;
use farmhand_proto::peer::peer_client::PeerClient;
use farmhand_proto::peer::{Beat, Demand, Farewell, LinkMessage, MachineState};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::fake::{self, Machine, hello, say};
use super::{Keys, machines, until};
use crate::support::Node;

/// Opens a link to `node` that begins with `first`; what it says is sent by what is returned.
async fn open(
    machine: &Machine,
    node: &Node,
    first: Message,
) -> Result<(mpsc::Sender<LinkMessage>, Streaming<LinkMessage>), Status> {
    let channel = machine.connect(node.peer_address).await.unwrap();
    let (sender, messages) = mpsc::channel(10);
    sender.send(say(first)).await.unwrap();
    let answers = PeerClient::new(channel).link(ReceiverStream::new(messages)).await?;
    Ok((sender, answers.into_inner()))
}

#[tokio::test]
async fn a_caller_with_another_protocol_is_sent_away_with_both_versions() {
    let keys = Keys::new();
    let attic = keys.node("attic", &[]).start();
    let future = Machine::new(&keys, 0);
    let status = open(&future, &attic, Message::Hello(hello("future", [7, 8]))).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    for part in ["future", "9.9.9", "7 to 8", "attic", env!("CARGO_PKG_VERSION"), "protocol 1"] {
        assert!(status.message().contains(part), "{part}: {}", status.message());
    }
    let theirs = farmhand_proto::peer::Hello::decode(status.details()).unwrap();
    assert_eq!((theirs.name.as_str(), theirs.least_protocol), ("attic", 1));
    let shown = until(&attic, "future", |machine| machine.state() == State::Incompatible).await;
    assert!(shown.reason.contains("7 to 8") && shown.version == "9.9.9", "{shown:?}");
}

#[tokio::test]
async fn a_machine_that_answers_with_another_protocol_is_shown() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let keys = Keys::new();
            let future = Machine::new(&keys, 0);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            future.serve(listener, hello("future", [7, 8]));
            let cellar = keys.node("cellar", &["--peer", &address]).start();
            let shown = until(&cellar, "future", |machine| machine.state() == State::Incompatible).await;
            assert!(shown.reason.contains("7 to 8"), "{}", shown.reason);
            assert_eq!(shown.id, future.trust.me().to_string());
            assert_eq!(machines(&cellar).await.len(), 2);
        })
        .await;
}

#[tokio::test]
async fn what_a_newer_machine_says_besides_is_passed_over() {
    let keys = Keys::new();
    let attic = keys.node("attic", &[]).start();
    let newer = Machine::new(&keys, 0);
    let (say_it, mut answers) = open(&newer, &attic, Message::Hello(hello("newer", [1, 8]))).await.unwrap();
    let first = answers.message().await.unwrap().unwrap().message;
    assert!(matches!(first, Some(Message::Hello(hello)) if hello.name == "attic"));
    say_it.send(LinkMessage { message: None }).await.unwrap();
    let state = MachineState { slots: 7, ..Default::default() };
    say_it.send(say(Message::State(state))).await.unwrap();
    say_it.send(say(Message::Demand(Demand::default()))).await.unwrap();
    let seen = until(&attic, "newer", |machine| machine.slots == 7 && machine.links_back).await;
    assert!(!seen.linked, "it listens nowhere");
    say_it.send(say(Message::Farewell(Farewell { reason: "enough\x1b[31m".into() }))).await.unwrap();
    until(&attic, "newer", |machine| !machine.links_back).await;
    assert!(!attic.log().contains("enough\x1b[31m") && attic.log().contains("enough"));
}

#[tokio::test]
async fn a_caller_that_breaks_the_rules_is_let_go() {
    let keys = Keys::new();
    let attic = keys.node("attic", &[]).start();
    let odd = Machine::new(&keys, 0);
    let status = open(&odd, &attic, Message::Beat(Beat::default())).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let (say_it, mut answers) = open(&odd, &attic, Message::Hello(hello("odd", [1, 1]))).await.unwrap();
    until(&attic, "odd", |machine| machine.links_back).await;
    say_it.send(say(Message::Hello(hello("odd", [1, 1])))).await.unwrap();
    until(&attic, "odd", |machine| !machine.links_back).await;
    let mut last = answers.message().await;
    while let Ok(Some(_)) = last {
        last = answers.message().await;
    }
    let huge = MachineState { pools: vec!["x".repeat(1 << 20)], ..Default::default() };
    let (say_it, _answers) = open(&odd, &attic, Message::Hello(hello("odd", [1, 1]))).await.unwrap();
    until(&attic, "odd", |machine| machine.links_back).await;
    // It may be refused before all of it is sent.
    let _ = say_it.send(say(Message::State(huge))).await;
    until(&attic, "odd", |machine| !machine.links_back).await;
}

#[tokio::test]
async fn a_silent_caller_is_lost() {
    let keys = Keys::new();
    let attic = keys.node("attic", &[]).start();
    let mute = Machine::new(&keys, 0);
    let (_say_it, _answers) = open(&mute, &attic, Message::Hello(hello("mute", [1, 1]))).await.unwrap();
    until(&attic, "mute", |machine| machine.links_back).await;
    until(&attic, "mute", |machine| !machine.links_back).await;
    assert!(attic.log().contains("silent") || attic.log().contains("said nothing"), "{}", attic.log());
}

#[tokio::test]
async fn an_answering_machine_is_heard_and_told() {
    tokio::task::LocalSet::new()
        .run_until(async {
            let keys = Keys::new();
            let other = Machine::new(&keys, 0);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let heard = other.serve(listener, hello("other", [1, 1]));
            let cellar = keys.node("cellar", &["--slots", "5", "--peer", &address]).start();
            until(&cellar, "other", |machine| machine.linked && !machine.links_back).await;
            tokio::time::sleep(Duration::from_secs(4)).await;
            until(&cellar, "other", |machine| machine.linked).await;
            let heard: Vec<_> =
                heard.lock().unwrap().iter().filter_map(|heard| heard.message.clone()).collect();
            assert!(
                matches!(&heard[0], Message::Hello(hello) if hello.name == "cellar" && hello.peer_port > 0)
            );
            assert!(heard.iter().any(|said| matches!(said, Message::State(state) if state.slots == 5)));
            let beats = heard.iter().filter(|said| matches!(said, Message::Beat(beat) if beat.now.is_some()));
            assert!(beats.count() >= 2, "{heard:?}");
            let _ = fake::say;
        })
        .await;
}
