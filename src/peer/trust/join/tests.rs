//! Newcomers, strangers and those in between: over loopback, and over pipes where time stands still.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::*;
use crate::peer::trust::testing::trust;
use crate::peer::trust::{FarmKey, files};

mod hostile;
mod tampering;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const VISITOR: SocketAddr = SocketAddr::new(LOOPBACK, 9);

/// A machine with a farm of its own.
struct Machine {
    trust: Trust,
    joining: Joining,
    /// Machines that it was told of.
    met: mpsc::Receiver<Met>,
}

/// Links of this machine would be taken at the port that its name has letters.
fn settings(name: &str) -> JoinSettings {
    JoinSettings { name: name.into(), program: "1".into(), bind: LOOPBACK, peer_port: name.len() as u16 }
}

impl Machine {
    fn new(name: &str) -> Self {
        Self::hearing(name, Arc::new(Unannounced))
    }

    fn hearing(name: &str, notices: Arc<dyn Notices>) -> Self {
        Self::of(trust(&FarmKey::generate()), name, notices)
    }

    fn of(trust: Trust, name: &str, notices: Arc<dyn Notices>) -> Self {
        let settings = settings(name);
        let (tell, met) = mpsc::channel(8);
        let introduce: Introduce = Arc::new(move |met| tell.try_send(met).unwrap());
        let joining = Joining::new(trust.clone(), settings, notices, introduce, Tasks::default());
        Self { trust, joining, met }
    }

    /// Joins; all steps, and how it failed if it did.
    async fn join(&self, request: Request) -> (Vec<Step>, Option<JoinError>) {
        let mut told = self.joining.join(request);
        let mut steps = Vec::new();
        while let Some(step) = told.recv().await {
            match step {
                Ok(step) => steps.push(step),
                Err(error) => return (steps, Some(error)),
            }
        }
        (steps, None)
    }
}

fn request(invited: &Invited) -> Request {
    Request { code: invited.code.clone(), from: Some(invited.addresses[0].to_string()), leave: false }
}

/// A code that differs.
fn other(code: &Code) -> Code {
    let text = if code.text().starts_with("000") { "001-zoo-zoo" } else { "000-zoo-zoo" };
    text.parse().unwrap()
}

async fn end(invited: &mut Invited) -> End {
    loop {
        if let News::End(end) = invited.news.recv().await.expect("an end is told") {
            return end;
        }
    }
}

async fn pending(invited: &mut Invited) -> Newcomer {
    match invited.news.recv().await {
        Some(News::Pending(newcomer)) => newcomer,
        news => panic!("nobody waits: {news:?}"),
    }
}

#[tokio::test]
async fn a_newcomer_with_the_code_gets_the_key_and_both_see_the_same_words() {
    let (mut host, mut newcomer) = (Machine::new("attic"), Machine::new("cellar"));
    let mut invited = host.joining.invite(false).await.unwrap();
    assert_eq!(invited.farm, host.trust.farm());
    assert!(!host.trust.is_shared());
    let (steps, error) = newcomer.join(request(&invited)).await;
    assert!(error.is_none(), "{error:?}");
    let End::Joined(joined) = end(&mut invited).await else { panic!("it has joined") };
    assert_eq!((joined.name.as_str(), joined.machine), ("cellar", newcomer.trust.me()));
    let expected = [
        Step::Trying(invited.addresses[0]),
        Step::Proven(joined.check_words),
        Step::Joined(host.trust.tag()),
    ];
    assert_eq!(steps, expected);
    assert_eq!(newcomer.trust.key(), host.trust.key());
    assert!(newcomer.trust.is_shared() && host.trust.is_shared());
    for (met, other, name) in
        [(&mut host.met, &newcomer.trust, "cellar"), (&mut newcomer.met, &host.trust, "attic")]
    {
        let address = SocketAddr::new(LOOPBACK, name.len() as u16);
        assert_eq!(met.try_recv(), Ok(Met { machine: other.me(), name: name.to_owned(), address }));
    }
    let (_, error) = Machine::new("third").join(request(&invited)).await;
    assert!(matches!(error, Some(JoinError::Unreachable(..))), "it is used up: {error:?}");
}

#[tokio::test]
async fn a_wrong_code_gets_nothing_and_is_told_to_the_one_who_invited() {
    let (host, newcomer) = (Machine::new("attic"), Machine::new("cellar"));
    let mut invited = host.joining.invite(false).await.unwrap();
    let before = newcomer.trust.key();
    let (_, error) = newcomer.join(Request { code: other(&invited.code), ..request(&invited) }).await;
    assert!(matches!(error, Some(JoinError::Code)), "{error:?}");
    assert_eq!(invited.news.recv().await, Some(News::WrongCode { from: LOOPBACK, left: 4 }));
    assert_eq!(newcomer.trust.key(), before);
    assert!(!host.trust.is_shared());
    let (_, error) = newcomer.join(request(&invited)).await;
    assert!(error.is_none(), "the right one still holds: {error:?}");
    assert!(matches!(end(&mut invited).await, End::Joined(_)));
}

#[tokio::test]
async fn of_two_with_the_code_one_gets_in() {
    let host = Machine::new("attic");
    let mut invited = host.joining.invite(true).await.unwrap();
    let (first, second) = (Machine::new("first"), Machine::new("second"));
    let _waits = first.joining.join(request(&invited));
    let pending = pending(&mut invited).await;
    let (_, error) = second.join(request(&invited)).await;
    assert!(matches!(error, Some(JoinError::Taken)), "{error:?}");
    host.joining.answer(pending.number, true).unwrap();
    assert_eq!(end(&mut invited).await, End::Joined(pending));
    assert_eq!(first.trust.key(), host.trust.key());
    assert_ne!(second.trust.key(), host.trust.key());
}

#[tokio::test]
async fn many_at_once_are_one() {
    let host = Machine::new("attic");
    let mut invited = host.joining.invite(false).await.unwrap();
    let machines: Vec<_> = (0..6).map(|_| Machine::new("cellar")).collect();
    let tries = join_all(machines.iter().map(|machine| machine.join(request(&invited)))).await;
    assert_eq!(tries.iter().filter(|(_, error)| error.is_none()).count(), 1);
    let members = machines.iter().filter(|machine| machine.trust.tag() == host.trust.tag());
    assert_eq!(members.count(), 1);
    assert!(matches!(end(&mut invited).await, End::Joined(_)));
}

#[tokio::test]
async fn a_person_who_is_asked_decides() {
    let host = Machine::new("attic");
    for accept in [true, false] {
        let newcomer = Machine::new("cellar");
        let mut invited = host.joining.invite(true).await.unwrap();
        let request = request(&invited);
        let deciding = async {
            let pending = pending(&mut invited).await;
            assert_ne!(newcomer.trust.key(), host.trust.key(), "it has nothing before");
            assert_eq!(host.joining.answer(pending.number + 1, true), Err(NotWaiting));
            host.joining.answer(pending.number, accept).unwrap();
            assert_eq!(host.joining.answer(pending.number, true), Err(NotWaiting));
            (end(&mut invited).await, pending)
        };
        let ((steps, error), (end, pending)) = tokio::join!(newcomer.join(request), deciding);
        assert_eq!(steps[1..3], [Step::Proven(pending.check_words.clone()), Step::Pending]);
        assert_eq!(newcomer.trust.tag() == host.trust.tag(), accept);
        if accept {
            assert_eq!((end, error.is_none()), (End::Joined(pending), true));
        } else {
            assert_eq!(end, End::Refused(pending));
            assert!(matches!(error, Some(JoinError::Refused)), "{error:?}");
        }
    }
}

#[tokio::test]
async fn one_who_leaves_before_he_is_answered_makes_room() {
    let host = Machine::new("attic");
    let mut invited = host.joining.invite(true).await.unwrap();
    let first = Machine::new("first");
    let steps = first.joining.join(request(&invited));
    let gone = pending(&mut invited).await;
    drop(steps);
    assert_eq!(invited.news.recv().await, Some(News::Gone(gone.clone())));
    assert_eq!(host.joining.answer(gone.number, true), Err(NotWaiting));
    let second = Machine::new("second");
    let _steps = second.joining.join(request(&invited));
    let pending = pending(&mut invited).await;
    assert_eq!(pending.name, "second");
    host.joining.answer(pending.number, true).unwrap();
    assert_eq!(end(&mut invited).await, End::Joined(pending));
}

#[tokio::test]
async fn one_invitation_at_a_time_and_one_withdrawn_is_gone() {
    let host = Machine::new("attic");
    let mut invited = host.joining.invite(false).await.unwrap();
    assert!(matches!(host.joining.invite(false).await, Err(InviteError::Open)));
    let address = invited.addresses[0];
    // A visitor in the middle of it is cut off.
    let mut visitor = TcpStream::connect(address).await.unwrap();
    let (_, news) = tokio::sync::mpsc::channel(1);
    let mut news = std::mem::replace(&mut invited.news, news);
    drop(invited);
    assert_eq!(news.recv().await, Some(News::End(End::Stopped)));
    let _ = visitor.read_to_end(&mut Vec::new()).await;
    assert!(TcpStream::connect(address).await.is_err());
    let again = host.joining.invite(false).await.unwrap();
    assert_ne!(again.addresses[0], address);
}

/// The one who invites ends it while the key is on its way: who may have it is told, and known.
#[tokio::test]
async fn a_key_that_was_given_is_told_of_when_the_invitation_is_withdrawn() {
    let mut host = Machine::new("attic");
    let mut invited = host.joining.invite(false).await.unwrap();
    let stream = TcpStream::connect(invited.addresses[0]).await.unwrap();
    let introduction = hostile::introduction();
    let welcome = newcomer::converse(stream, &invited.code, &introduction, &|_| ()).await.unwrap();
    assert!(host.met.try_recv().is_err(), "it has not said that it keeps the key");
    let (_, news) = tokio::sync::mpsc::channel(1);
    let mut news = std::mem::replace(&mut invited.news, news);
    drop(invited);
    let Some(News::End(End::Unsure(newcomer))) = news.recv().await else { panic!("it has the key") };
    assert_eq!(newcomer.machine, introduction.machine);
    assert_eq!(host.met.recv().await.map(|met| met.machine), Some(introduction.machine));
    drop(welcome);
}

#[tokio::test(start_paused = true)]
async fn an_invitation_nobody_uses_ends_after_five_minutes() {
    let host = Machine::new("attic");
    let start = tokio::time::Instant::now();
    let mut invited = host.joining.invite(false).await.unwrap();
    assert_eq!(invited.news.recv().await, Some(News::End(End::Expired)));
    let lasted = start.elapsed();
    assert!(lasted >= LIFETIME && lasted < LIFETIME + Duration::from_secs(1), "{lasted:?}");
    assert_eq!(invited.news.recv().await, None);
    assert!(host.joining.invite(false).await.is_ok());
}

#[tokio::test]
async fn a_machine_among_others_leaves_them_only_when_told_to() {
    let (host, newcomer) = (Machine::new("attic"), Machine::new("cellar"));
    newcomer.trust.mark_shared(newcomer.trust.tag()).unwrap();
    let invited = host.joining.invite(false).await.unwrap();
    let (steps, error) = newcomer.join(request(&invited)).await;
    assert!(matches!(error, Some(JoinError::InFarm(farm)) if farm == newcomer.trust.farm()));
    assert_eq!(steps, [], "nobody was called");
    let (_, error) = newcomer.join(Request { leave: true, ..request(&invited) }).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(newcomer.trust.key(), host.trust.key());
}

#[tokio::test]
async fn a_key_that_a_file_sets_is_not_joined_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("set.key");
    files::write(&path, FarmKey::generate().file().as_bytes()).unwrap();
    let trust = Trust::open(&directory.path().join("farm"), Some(&path)).unwrap();
    let newcomer = Machine::of(trust, "cellar", Arc::new(Unannounced));
    let host = Machine::new("attic");
    let invited = host.joining.invite(false).await.unwrap();
    for leave in [false, true] {
        let (steps, error) = newcomer.join(Request { leave, ..request(&invited) }).await;
        assert!(matches!(error, Some(JoinError::Fixed(found)) if found == path));
        assert_eq!(steps, []);
    }
}

/// Hears of these, and of nothing else.
struct Heard(Vec<SocketAddr>);

#[async_trait]
impl Notices for Heard {
    fn announce(&self, _: &str, _: u16) -> Box<dyn std::any::Any + Send> {
        Box::new(())
    }

    async fn find(&self) -> Vec<SocketAddr> {
        self.0.clone()
    }
}

/// Takes connections and hangs up at once.
struct Rude {
    listener: TcpListener,
    address: SocketAddr,
}

impl Rude {
    async fn new() -> Self {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    /// Does so while this lasts.
    async fn beside<T>(&self, other: impl Future<Output = T>) -> T {
        let hang_up = async {
            loop {
                drop(self.listener.accept().await.unwrap());
            }
        };
        tokio::select! {
            done = other => done,
            () = hang_up => unreachable!("it goes on for ever"),
        }
    }
}

#[tokio::test]
async fn of_all_invitations_that_are_heard_of_the_one_with_the_code_is_found() {
    let (host, neighbour) = (Machine::new("attic"), Machine::new("neighbour"));
    let mut invited = host.joining.invite(false).await.unwrap();
    let elsewhere = neighbour.joining.invite(false).await.unwrap();
    let closed = SocketAddr::new(LOOPBACK, 1);
    let rude = Rude::new().await;
    let heard = Heard(vec![rude.address, closed, elsewhere.addresses[0], invited.addresses[0]]);
    let newcomer = Machine::hearing("cellar", Arc::new(heard));
    let joining = newcomer.join(Request { from: None, ..request(&invited) });
    let (steps, error) = rude.beside(joining).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(steps.iter().filter(|step| matches!(step, Step::Trying(_))).count(), 4);
    assert!(matches!(end(&mut invited).await, End::Joined(_)));
}

#[tokio::test]
async fn of_all_failures_the_one_that_tells_most_is_told() {
    let (neighbour, rude) = (Machine::new("neighbour"), Rude::new().await);
    let elsewhere = neighbour.joining.invite(false).await.unwrap();
    let closed = SocketAddr::new(LOOPBACK, 1);
    let fails = async |heard: &[SocketAddr]| {
        let newcomer = Machine::hearing("cellar", Arc::new(Heard(heard.to_vec())));
        let joining = newcomer.join(Request { code: other(&elsewhere.code), from: None, leave: false });
        rude.beside(joining).await.1.expect("nobody has the code")
    };
    let failure = fails(&[closed, rude.address, closed]).await;
    assert!(matches!(failure, JoinError::HungUp), "{failure:?}");
    let failure = fails(&[elsewhere.addresses[0], rude.address, closed]).await;
    assert!(matches!(failure, JoinError::Code), "{failure:?}");
}

#[tokio::test]
async fn where_nothing_is_to_be_found_it_says_so() {
    let newcomer = Machine::new("cellar");
    let code: Code = "123-zoo-zoo".parse().unwrap();
    let request =
        |from: Option<&str>| Request { code: code.clone(), from: from.map(ToOwned::to_owned), leave: false };
    let (_, error) = newcomer.join(request(None)).await;
    assert!(matches!(error, Some(JoinError::NotFound)), "{error:?}");
    let (_, error) = newcomer.join(request(Some("127.0.0.1"))).await;
    assert!(matches!(error, Some(JoinError::Address(..))), "{error:?}");
    let (_, error) = newcomer.join(request(Some("127.0.0.1:1"))).await;
    assert!(matches!(error, Some(JoinError::Unreachable(..))), "{error:?}");
}
