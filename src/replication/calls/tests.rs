//! Two stores, with a loopback connection between them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use farmhand_proto::reapi::ActionResult;
use tokio::net::TcpListener;
use tonic::Request;
use tonic::service::Routes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Endpoint;
use tower::service_fn;

use super::*;
use crate::action_cache::ActionKey;
use crate::activity::Activity;
use crate::cas::CasError;
use crate::cas::entry::Standing;
use crate::digest::DigestFunction;
use crate::execution::Sequence;
use crate::instance::InstanceName;
use crate::peer::link::boxed;
use crate::peer::link::incoming::Caller;
use crate::replication::copies::memory::MemoryCopies;
use crate::replication::copies::testing::{TestFarm, machine_id};
use crate::replication::copies::{Entry, Others};
use crate::rpc::byte_stream::{ByteStreamService, ByteStreamSettings};
use crate::rpc::copies::CopiesService;
use crate::rpc::{Instances, server};
use crate::tasks::Tasks;

const MIB: usize = 1 << 20;

/// Another machine, with a store and a door to it.
struct Far {
    store: MemoryCopies,
    address: SocketAddr,
    tasks: Tasks,
}

impl Far {
    async fn start() -> Self {
        let (store, tasks, farm) = (MemoryCopies::default(), Tasks::default(), TestFarm::new(1, 1));
        let copies = CopiesService::new(Arc::new(store.clone()), Arc::new(move || farm.roster()));
        let known = |mut request: Request<()>| {
            request.extensions_mut().insert(Caller::made_up(machine_id(1)));
            Ok(request)
        };
        let byte_stream = ByteStreamService::new(
            Arc::new(store.of_others()),
            Instances::default(),
            ByteStreamSettings::default(),
            Arc::new(Activity::new(0, "far", Sequence::default())),
            &tasks,
        );
        let routes =
            Routes::new(InterceptedService::new(copies.into_server(), known)).add_service(byte_stream);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let token = tasks.token().clone();
        let serving = server::serve(vec![listener.into()], routes, server::Limits::default(), token);
        tasks.spawn("serve", serving);
        Self { store, address, tasks }
    }

    /// It, over a new connection.
    async fn link(&self) -> RemoteCopies {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        RemoteCopies::new("far", machine_id(1), boxed(endpoint.connect().await.unwrap()))
    }

    /// It, over a new connection that seems to be slow.
    async fn slow_link(&self) -> RemoteCopies {
        let link = self.link().await;
        link.pace().note(Instant::now(), 8 << 20, Duration::from_secs(10_000));
        link
    }
}

/// A store whose streams break, or stall, after some bytes.
struct Frail {
    store: MemoryCopies,
    good: u64,
    stalls: bool,
    /// Where the last stream began.
    offset: AtomicU64,
}

impl Frail {
    fn new(store: &MemoryCopies, good: u64, stalls: bool) -> Self {
        Self { store: store.clone(), good, stalls, offset: AtomicU64::new(u64::MAX) }
    }

    /// Where the last stream began; `u64::MAX` if there was none.
    fn offset(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl CopyStore for Frail {
    fn have(&self, keys: &[EntryKey], extend: bool) -> Vec<bool> {
        self.store.have(keys, extend)
    }

    fn find(&self, hash: &BlobHash) -> Option<Digest> {
        CopyStore::find(&self.store, hash)
    }

    fn look(&self, key: &EntryKey) -> Option<Entry> {
        self.store.look(key)
    }

    fn range(&self, range: u8) -> Vec<Entry> {
        self.store.range(range)
    }

    fn mark(&self, keys: &[EntryKey], standing: Standing) {
        self.store.mark(keys, standing);
    }

    async fn load(&self, key: &EntryKey) -> Result<Option<Bytes>, CasError> {
        self.store.load(key).await
    }

    async fn stream(&self, key: &EntryKey, offset: u64) -> Result<BlobStream, CasError> {
        self.offset.store(offset, Ordering::Relaxed);
        let (mut left, stalls) = (self.good, self.stalls);
        let pieces = self.store.stream(key, offset).await?;
        Ok(Box::pin(pieces.then(move |piece| {
            let length = piece.as_ref().map_or(0, |piece| piece.len() as u64);
            let is_good = left >= length;
            left = left.saturating_sub(length);
            async move {
                match is_good {
                    true => piece,
                    false if stalls => std::future::pending().await,
                    false => Err(CasError::io("/blob", std::io::Error::other("a bad sector"))),
                }
            }
        })))
    }

    async fn keep(&self, copy: Copy, standing: Standing) -> Taken {
        self.store.keep(copy, standing).await
    }
}

/// Bytes that compress to about half, and differ by seed.
fn data(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_862_933_555_777_941_757) | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 60) as u8
    };
    (0..len).map(next).collect()
}

fn insert(store: &MemoryCopies, function: DigestFunction, data: Vec<u8>) -> EntryKey {
    let key = EntryKey::from(&Digest::of(function, &data));
    store.insert(key, data, Standing::Sole);
    key
}

fn result(store: &MemoryCopies, number: u8, bytes: usize) -> EntryKey {
    let action = Digest::of(DigestFunction::Sha256, &[number]);
    let result = ActionResult { stdout_raw: data(number.into(), bytes), ..Default::default() };
    store.result(&ActionKey { instance: InstanceName::default(), action }, &result)
}

#[tokio::test]
async fn small_entries_are_asked_for_given_settled_and_read() {
    let (far, here) = (Far::start().await, MemoryCopies::default());
    for (round, link) in [far.link().await, far.slow_link().await].into_iter().enumerate() {
        let seed = round as u64;
        let keys = [
            here.blob(data(seed, 100_000)),
            insert(&here, DigestFunction::Blake3, data(seed, 100_000)),
            result(&here, round as u8, 50),
        ];
        let lacking = EntryKey::action(&[9; 32]);
        assert_eq!(link.have(&keys, false).await.unwrap(), [false; 3]);
        let age = Duration::from_secs(77);
        let copies = keys.map(|key| Copy { key, data: here.data(&key).unwrap(), age }).to_vec();
        assert_eq!(link.pack(copies.clone()).await.0.compressed, round == 1);
        let mut sent = copies.clone();
        sent.push(Copy { key: lacking, ..copies[2].clone() });
        let stored = Taken::Stored;
        assert_eq!(link.give(sent).await.unwrap(), [stored, stored, stored, Taken::Bad]);
        for copy in &copies {
            let Entry { standing, age, .. } = far.store.look(&copy.key).unwrap();
            assert_eq!((standing, age), (Standing::Sole, Duration::from_secs(77)));
            assert_eq!(far.store.data(&copy.key).unwrap(), copy.data);
        }
        assert_eq!(link.have(&[keys[0], lacking], true).await.unwrap(), [true, false]);
        let farm = TestFarm::new(1, 1).roster().fingerprint();
        link.settle(&keys, farm + 1).await.unwrap();
        assert_eq!(far.store.standing(&keys[1]), Some(Standing::Sole));
        link.settle(&keys, farm).await.unwrap();
        assert_eq!(far.store.standing(&keys[1]), Some(Standing::Counted));
        let results = link.results(&[lacking, keys[2]]).await.unwrap();
        assert_eq!(results, [(keys[2], here.data(&keys[2]).unwrap())]);
    }
    far.tasks.stop().await;
}

#[tokio::test]
async fn large_blobs_arrive_in_either_form_and_functions_and_are_sent_once() {
    let (far, here) = (Far::start().await, MemoryCopies::default());
    let mut seed = 0;
    for link in [far.link().await, far.slow_link().await] {
        for function in DigestFunction::ALL {
            for len in [1, 600_000, 5 * MIB + 17] {
                seed += 1;
                let key = insert(&here, function, data(seed, len));
                assert_eq!(link.send(&key, &here).await, Ok(Taken::Stored), "{len}");
                assert_eq!(far.store.data(&key), here.data(&key));
                assert_eq!(far.store.standing(&key), Some(Standing::Spare));
                let again = Frail::new(&here, u64::MAX, false);
                assert_eq!(link.send(&key, &again).await, Ok(Taken::Stored));
                assert_eq!(again.offset() == u64::MAX, len as u64 >= RESUMED, "not even read again");
            }
        }
    }
    for (number, bytes) in [(7, 2 * MIB), (8, 9 * MIB)] {
        for link in [far.link().await, far.slow_link().await] {
            let large = result(&here, number, bytes);
            assert_eq!(link.send(&large, &here).await, Ok(Taken::Stored));
            assert_eq!(far.store.data(&large), here.data(&large));
            assert_eq!(link.results(&[large]).await.unwrap(), [(large, here.data(&large).unwrap())]);
        }
    }
    far.tasks.stop().await;
}

#[tokio::test]
async fn what_is_large_tells_how_fast_the_link_is_and_in_which_form_the_next_goes() {
    let (far, here) = (Far::start().await, MemoryCopies::default());
    let link = far.link().await;
    let key = here.blob(data(1, 2 * MIB));
    assert_eq!(link.pace().bytes_per_second(Instant::now()), None);
    let first = Bytes::from(data(2, 300_000));
    assert_eq!(link.form(&first), Form::Plain);
    link.send(&key, &here).await.unwrap();
    assert!(link.pace().bytes_per_second(Instant::now()).is_some());
    assert_eq!(far.slow_link().await.form(&first), Form::Zstd);
    far.tasks.stop().await;
}

#[tokio::test]
async fn a_transfer_that_broke_off_goes_on_where_it_was_over_another_connection() {
    let (far, here) = (Far::start().await, MemoryCopies::default());
    let plain_first = [true, true, false, false];
    let then_plain = [true, false, true, false];
    for (seed, (first, then)) in plain_first.into_iter().zip(then_plain).enumerate() {
        let key = here.blob(data(seed as u64, 9 * MIB));
        let link = if first { far.link().await } else { far.slow_link().await };
        let breaks = Frail::new(&here, 6 * MIB as u64, false);
        assert_eq!(link.send(&key, &breaks).await, Ok(Taken::Bad));
        assert_eq!(far.store.data(&key), None);
        drop(link);
        let link = if then { far.link().await } else { far.slow_link().await };
        let whole = Frail::new(&here, u64::MAX, false);
        assert_eq!(link.send(&key, &whole).await, Ok(Taken::Stored));
        assert!((1..=6 * MIB as u64).contains(&whole.offset()), "{}", whole.offset());
        assert_eq!(far.store.data(&key), here.data(&key));
    }
    far.tasks.stop().await;
}

#[tokio::test]
async fn a_transfer_that_is_dropped_ends_and_can_go_on() {
    let (far, here) = (Far::start().await, MemoryCopies::default());
    let link = far.link().await;
    let key = here.blob(data(1, 9 * MIB));
    let stalls = Frail::new(&here, 6 * MIB as u64, true);
    let digest = key.digest().unwrap();
    tokio::select! {
        _ = link.send(&key, &stalls) => panic!("it stalls"),
        () = async {
            let all = Committed::Bytes(6 * MIB as u64);
            while link.committed(&digest, Duration::ZERO).await.unwrap() != all {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    let whole = Frail::new(&here, u64::MAX, false);
    // The other end may not have seen yet that it is over.
    while link.send(&key, &whole).await != Ok(Taken::Stored) {
        tokio::task::yield_now().await;
    }
    assert_eq!(whole.offset(), 6 * MIB as u64);
    assert_eq!(far.store.data(&key), here.data(&key));
    far.tasks.stop().await;
}

#[tokio::test]
async fn what_cannot_be_taken_has_no_room_and_what_is_not_what_it_says_is_bad() {
    let (far, here) = (Far::start().await, MemoryCopies::default());
    let link = far.link().await;
    let key = here.blob(data(1, 5 * MIB));
    far.store.set_room(Some(MIB as u64));
    let unread = Frail::new(&here, u64::MAX, false);
    assert_eq!(link.send(&key, &unread).await, Ok(Taken::NoRoom));
    assert_eq!(unread.offset(), u64::MAX, "it is not even read");
    let short = here.blob(data(4, 2 * MIB));
    assert_eq!(link.send(&short, &here).await, Ok(Taken::NoRoom));
    far.store.set_room(None);
    here.set_age(&short, Duration::from_secs(77));
    assert_eq!(link.send(&short, &here).await, Ok(Taken::Stored));
    assert_eq!(far.store.look(&short).unwrap().age, Duration::from_secs(77));
    far.store.lose(&short);

    let wrong = insert(&here, DigestFunction::Sha256, data(2, 5 * MIB));
    here.insert(wrong, data(3, 5 * MIB), Standing::Sole);
    assert_eq!(link.send(&wrong, &here).await, Ok(Taken::Bad));
    here.insert(wrong, data(2, MIB), Standing::Sole);
    let gone = EntryKey::from(&Digest::of(DigestFunction::Sha256, b"gone"));
    assert_eq!(link.send(&gone, &here).await, Ok(Taken::Bad));
    assert_eq!(link.send(&EntryKey::action(&[1; 32]), &here).await, Ok(Taken::Bad));
    assert!(far.store.keys().is_empty());
    far.tasks.stop().await;
}

/// A machine that answers every call alike.
fn answering<F>(answer: impl Fn() -> F + Clone + Send + Sync + 'static) -> RemoteCopies
where
    F: Future<Output = Status> + Send + 'static,
{
    let service = service_fn(move |_: http::Request<Body>| {
        let answer = answer.clone();
        async move { Ok::<_, Infallible>(answer().await.into_http::<Body>()) }
    });
    RemoteCopies::new("odd", machine_id(1), boxed(service))
}

#[tokio::test]
async fn a_machine_that_takes_no_blob_of_that_kind_has_no_room_and_others_fail() {
    let here = MemoryCopies::default();
    let key = here.blob(data(1, MIB));
    let refuses = answering(|| async { Status::invalid_argument("larger than this store takes") });
    assert_eq!(refuses.send(&key, &here).await, Ok(Taken::NoRoom));
    let old = answering(|| async { Status::unimplemented("what?") });
    let error = old.send(&key, &here).await.unwrap_err();
    assert_eq!(error.to_string(), "odd: what? (Unimplemented)");
    assert!(old.have(&[key], true).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_waited_for_without_end() {
    let here = MemoryCopies::default();
    let (small, large) = (here.blob(data(1, 600_000)), here.blob(data(2, 5 * MIB)));
    let silent = answering(std::future::pending);
    let copy = Copy { key: small, data: here.data(&small).unwrap(), age: Duration::ZERO };
    assert!(silent.have(&[small], false).await.is_err());
    assert!(silent.give(vec![copy]).await.is_err());
    assert!(silent.settle(&[small], 0).await.is_err());
    assert!(silent.results(&[small]).await.is_err());
    assert!(silent.send(&small, &here).await.is_err());
    let error = silent.send(&large, &here).await.unwrap_err();
    assert_eq!(error.to_string(), "odd: it did not answer within 5 seconds");
}
