//! Strangers at the port of an invitation, and strangers who claim to have one.

use std::sync::Arc;
use std::time::Duration;

use farmhand_proto::peer::join_message::Message;
use farmhand_proto::peer::join_refusal::Reason;
use farmhand_proto::peer::{JoinHello, JoinProof, JoinSealed};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::frame;
use super::super::host::{Host, HostParts, LIMIT, MOST_CONNECTIONS};
use super::super::newcomer::{Introduction, Welcome, converse};
use super::super::session::{Exchange, Side, VERSION};
use super::*;

/// An invitation without a port: visitors come by pipes.
pub(super) struct Reception {
    pub(super) host: Host,
    pub(super) trust: Trust,
    pub(super) code: Code,
    pub(super) news: mpsc::Receiver<News>,
    pub(super) waiting: Waiting,
}

impl Reception {
    pub(super) fn new(ask: bool) -> Self {
        let trust = trust(&FarmKey::generate());
        let code: Code = "482-zoo-zoo".parse().unwrap();
        let (tell, news) = mpsc::channel(64);
        let waiting = Waiting::default();
        let host = Host::new(HostParts {
            trust: trust.clone(),
            me: settings("attic"),
            code: code.clone(),
            ask,
            waiting: waiting.clone(),
            tell,
            tasks: Tasks::default(),
        });
        Self { host, trust, code, news, waiting }
    }

    /// A visitor who sends `bytes` and then says nothing more; all that he hears, and whether that was
    /// the end of the invitation.
    async fn hears(&self, visitor: u64, bytes: &[u8]) -> (Vec<u8>, bool) {
        let (mut near, far) = duplex(64 << 10);
        let received = self.host.receive(far, VISITOR, visitor);
        let visiting = async {
            near.write_all(bytes).await.unwrap();
            let mut heard = Vec::new();
            near.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let (received, heard) = tokio::join!(received, visiting);
        (heard, received.is_ok())
    }
}

pub(super) fn introduction() -> Introduction {
    Introduction {
        machine: MachineId::new([7; 32]),
        name: "cellar".into(),
        program: "1".into(),
        peer_port: 7,
    }
}

pub(super) async fn joins(stream: DuplexStream, code: &Code) -> Result<Welcome<DuplexStream>, JoinError> {
    converse(stream, code, &introduction(), &|_| ()).await
}

fn framed(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

async fn message(message: Message) -> Vec<u8> {
    let mut wire = Vec::new();
    frame::write(&mut wire, message).await.unwrap();
    wire
}

/// Twelve guessers at once get five tries in all, one a second, and the code is worth nothing after.
#[tokio::test(start_paused = true)]
async fn guesses_are_judged_one_a_second_and_five_in_all() {
    let mut reception = Reception::new(false);
    let (start, wrong) = (Instant::now(), other(&reception.code));
    let guesses = (0..12_u64).map(|visitor| {
        let (near, far) = duplex(64 << 10);
        let (host, wrong) = (&reception.host, &wrong);
        async move { tokio::join!(host.receive(far, VISITOR, visitor), joins(near, wrong)) }
    });
    let outcomes = join_all(guesses).await;
    assert_eq!(outcomes.iter().filter(|(received, _)| received.is_err()).count(), 12);
    let count = |is: fn(&JoinError) -> bool| {
        outcomes.iter().filter(|(_, joined)| joined.as_ref().err().is_some_and(is)).count()
    };
    assert_eq!(count(|error| matches!(error, JoinError::Code)), 5);
    assert_eq!(count(|error| matches!(error, JoinError::Over)), 7);
    assert!(start.elapsed() >= Duration::from_secs(5), "{:?}", start.elapsed());
    for left in (0..5).rev() {
        assert_eq!(reception.news.recv().await, Some(News::WrongCode { from: LOOPBACK, left }));
    }
    let (near, far) = duplex(64 << 10);
    let right = tokio::join!(reception.host.receive(far, VISITOR, 99), joins(near, &reception.code));
    assert!(matches!(right, (Err(_), Err(JoinError::Over))), "the right code comes too late");
}

/// Who sends nothing, or not enough, is gone after ten seconds and has heard nothing but an element.
#[tokio::test(start_paused = true)]
async fn who_dawdles_is_cut_off() {
    let reception = Reception::new(false);
    let (_, element) = Exchange::start(Side::Newcomer, &reception.code);
    let hello =
        message(Message::Hello(JoinHello { least_version: VERSION, most_version: VERSION, element })).await;
    for (bytes, most_heard) in
        [(&hello[..0], 0), (&hello[..1], 0), (&hello[..hello.len() - 1], 0), (&hello, 64)]
    {
        let start = Instant::now();
        let (heard, ended) = reception.hears(1, bytes).await;
        assert!(!ended && heard.len() <= most_heard, "{heard:?}");
        assert_eq!(start.elapsed().as_secs(), LIMIT.as_secs());
    }
}

/// What is no part of an exchange ends it at once, however long it claims to be.
#[tokio::test(start_paused = true)]
async fn nonsense_ends_a_visit_at_once() {
    let reception = Reception::new(false);
    let hello = |version, element: &[u8]| {
        let (least_version, most_version) = (version, version);
        Message::Hello(JoinHello { least_version, most_version, element: element.to_vec() })
    };
    let (_, element) = Exchange::start(Side::Newcomer, &reception.code);
    let (_, own_side) = Exchange::start(Side::Member, &reception.code);
    let first = message(hello(VERSION, &element)).await;
    let twice = [first.clone(), first.clone()].concat();
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 5000],
        framed(&[]),
        framed(&[0xff; 100]),
        framed(&vec![0; 4097]),
        message(Message::Proof(JoinProof { mac: vec![0; 32] })).await,
        message(Message::Sealed(JoinSealed { sealed: vec![0; 100] })).await,
        message(hello(VERSION, &[])).await,
        message(hello(VERSION, &[0x41; 33])).await,
        message(hello(VERSION, &own_side)).await,
        message(hello(VERSION + 1, &element)).await,
        twice,
    ] {
        let start = Instant::now();
        let (heard, ended) = reception.hears(1, &bytes).await;
        assert!(!ended && heard.len() <= 64, "{heard:?}");
        assert!(start.elapsed() < Duration::from_secs(2), "{:?} after {bytes:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn another_version_is_told_so() {
    let reception = Reception::new(false);
    let hello = JoinHello { least_version: VERSION + 1, most_version: VERSION + 7, element: Vec::new() };
    let (heard, _) = reception.hears(1, &message(Message::Hello(hello)).await).await;
    let Some(Message::Refusal(refusal)) = frame::parse(&heard[2..]) else { panic!("{heard:?}") };
    assert_eq!(refusal.reason(), Reason::Version);
}

/// Connections that only stand there keep nobody out.
#[tokio::test]
async fn a_newcomer_comes_through_a_crowd() {
    let (host, newcomer) = (Machine::new("attic"), Machine::new("cellar"));
    let mut invited = host.joining.invite(false).await.unwrap();
    let mut crowd = Vec::new();
    for _ in 0..3 * MOST_CONNECTIONS {
        crowd.push(TcpStream::connect(invited.addresses[0]).await.unwrap());
    }
    let (_, error) = newcomer.join(request(&invited)).await;
    assert!(error.is_none(), "{error:?}");
    assert!(matches!(end(&mut invited).await, End::Joined(_)));
    for mut stranger in crowd {
        let mut heard = Vec::new();
        let _ = stranger.read_to_end(&mut heard).await;
        assert_eq!(heard, b"");
    }
}

/// Also when the last guesser does not wait to hear that he was wrong.
#[tokio::test]
async fn five_wrong_codes_end_an_invitation_that_nobody_listens_to() {
    let host = Machine::new("attic");
    let mut invited = host.joining.invite(false).await.unwrap();
    let wrong = other(&invited.code);
    for left in (0..5).rev() {
        let stream = TcpStream::connect(invited.addresses[0]).await.unwrap();
        let introduction = introduction();
        let guessing = converse(stream, &wrong, &introduction, &|_| ());
        tokio::select! {
            joined = guessing => assert!(joined.is_err()),
            news = invited.news.recv() => assert_eq!(news, Some(News::WrongCode { from: LOOPBACK, left })),
        }
    }
    assert_eq!(end(&mut invited).await, End::Tries);
    let (_, error) = Machine::new("late").join(request(&invited)).await;
    assert!(matches!(error, Some(JoinError::Unreachable(..))), "{error:?}");
}

/// What a newcomer once sent is worth nothing when somebody sends it again.
#[tokio::test(start_paused = true)]
async fn a_recorded_newcomer_is_no_newcomer() {
    let mut reception = Reception::new(true);
    // A real one shows the code, waits for a person, and leaves; somebody listens.
    let (near, recorder) = duplex(64 << 10);
    let (tap, far) = duplex(64 << 10);
    let recording = async {
        let (mut from_newcomer, mut to_newcomer) = tokio::io::split(recorder);
        let (mut from_host, mut to_host) = tokio::io::split(tap);
        let recorded = async {
            let mut recorded = Vec::new();
            let mut buffer = [0; 1024];
            while let Ok(count @ 1..) = from_newcomer.read(&mut buffer).await {
                recorded.extend_from_slice(&buffer[..count]);
                to_host.write_all(&buffer[..count]).await.unwrap();
            }
            to_host.shutdown().await.unwrap();
            recorded
        };
        let (recorded, _) = tokio::join!(recorded, tokio::io::copy(&mut from_host, &mut to_newcomer));
        recorded
    };
    let leaving = async {
        let left = tokio::select! {
            joined = joins(near, &reception.code) => Some(joined),
            news = reception.news.recv() => { assert!(matches!(news, Some(News::Pending(_)))); None }
        };
        assert!(left.is_none());
    };
    let (received, recorded, ()) = tokio::join!(reception.host.receive(far, VISITOR, 1), recording, leaving);
    assert!(received.is_err());
    let left = |reception: &mut Reception| loop {
        match reception.news.try_recv() {
            Ok(News::WrongCode { left, .. }) => return left,
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    };
    reception.host.rules().leave(1);
    let (heard, ended) = reception.hears(2, &recorded).await;
    assert!(!ended);
    assert_eq!(left(&mut reception), 4);
    // An element, and a refusal.
    assert!(heard.len() < 80, "{heard:?}");
    assert_eq!(reception.waiting.answer(2, true), Err(NotWaiting));
}

/// One who claims to have invited hears an element and a proof, and not even a name.
#[tokio::test(start_paused = true)]
async fn who_does_not_know_the_code_is_no_member() {
    let code: Code = "482-zoo-zoo".parse().unwrap();
    for guess in [Some("483-zoo-zoo"), None] {
        let (near, mut far) = duplex(64 << 10);
        let posing = async {
            let hello = frame::read(&mut far).await.unwrap();
            let Message::Hello(JoinHello { element, .. }) = hello.message else { panic!("no hello") };
            let guessed: Code = guess.unwrap_or("000-zoo-zoo").parse().unwrap();
            let (exchange, own) = Exchange::start(Side::Member, &guessed);
            let own = farmhand_proto::peer::JoinOpening { version: VERSION, element: own };
            let opening = frame::write(&mut far, Message::Opening(own)).await.unwrap();
            let session = exchange.finish(&element, &hello.bytes, &opening).ok().unwrap();
            let Message::Proof(theirs) = frame::read(&mut far).await.unwrap().message else {
                panic!("no proof")
            };
            let mac = if guess.is_some() { session.proof() } else { theirs.mac };
            frame::write(&mut far, Message::Proof(JoinProof { mac })).await.unwrap();
            let mut heard = Vec::new();
            far.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let (joined, heard) = tokio::join!(joins(near, &code), posing);
        assert!(matches!(joined, Err(JoinError::Impostor)));
        assert_eq!(heard, b"");
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_says_nothing_is_given_up() {
    let code: Code = "482-zoo-zoo".parse().unwrap();
    let (near, _far) = duplex(64 << 10);
    let start = Instant::now();
    assert!(matches!(joins(near, &code).await, Err(JoinError::Silent)));
    assert_eq!(start.elapsed().as_secs(), LIMIT.as_secs());
}

/// Arcs of the trust of a host do not outlive it: nothing hangs on.
#[tokio::test]
async fn nothing_is_left_of_an_invitation() {
    let host = Machine::new("attic");
    let mut invited = host.joining.invite(false).await.unwrap();
    let (_, error) = Machine::new("cellar").join(request(&invited)).await;
    assert!(error.is_none());
    end(&mut invited).await;
    host.joining.0.tasks.idle().await;
    let joining = Arc::clone(&host.joining.0);
    drop(host.joining);
    assert_eq!(Arc::strong_count(&joining), 1);
}
