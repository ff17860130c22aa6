use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};
use tokio::time::timeout;

use super::*;
use crate::cas::BlobStream;
use crate::replication::copies::memory::MemoryCopies;
use crate::replication::copies::testing::{Fault, TestFarm, machine_id};

/// Bytes of a blob that passes.
const LARGE: usize = 3_000_000;

struct Here {
    farm: Arc<TestFarm>,
    elsewhere: Elsewhere,
    tasks: Tasks,
}

// === impl Here ===

impl Here {
    /// This machine, and so many others.
    fn with(others: usize) -> Self {
        let farm = TestFarm::new(others + 1, 2);
        let tasks = Tasks::default();
        let kept = Arc::new(farm.machine(0).store.of_others());
        let elsewhere = Elsewhere::new(farm.clone(), kept, tasks.clone());
        Self { farm, elsewhere, tasks }
    }

    fn store(&self) -> &MemoryCopies {
        &self.farm.machine(0).store
    }

    /// Puts the blob onto all the other machines, which are numbered from the first that is asked on.
    fn everywhere(&self, data: &Bytes) -> (Digest, Vec<usize>) {
        let others = self.farm.roster().others().count();
        let digest = (1..=others).map(|other| self.put(other, data)).last().unwrap();
        let number = |other: Other| (1..=others).find(|number| machine_id(*number) == other.id).unwrap();
        (digest, self.elsewhere.candidates(&digest).into_iter().map(number).collect())
    }

    fn put(&self, machine: usize, data: &Bytes) -> Digest {
        self.farm.machine(machine).store.blob(data.clone()).digest().unwrap()
    }

    fn has(&self, digest: &Digest) -> bool {
        self.store().data(&EntryKey::from(digest)).is_some()
    }

    /// How often other machines were asked for bytes.
    fn reads(&self) -> usize {
        let others = 1..=self.farm.roster().others().count();
        others.map(|other| self.farm.machine(other).calls().read.len()).sum()
    }

    async fn whole(&self, digest: &Digest) -> BlobStream {
        self.elsewhere.read(digest, ByteRange::default()).await.unwrap()
    }
}

/// A blob of its own for each seed.
fn blob(seed: u8, len: usize) -> Bytes {
    (0..len).map(|at| (at / 1000 % 251) as u8 ^ seed).collect()
}

async fn collect(stream: BlobStream) -> Result<Bytes, CasError> {
    Ok(stream.try_collect::<Vec<Bytes>>().await?.concat().into())
}

#[tokio::test(start_paused = true)]
async fn the_likeliest_is_asked_alone_and_what_it_gives_is_kept() {
    for len in [1, 1000, LARGE] {
        let here = Here::with(3);
        let data = blob(1, len);
        let (digest, _) = here.everywhere(&data);
        assert_eq!(here.elsewhere.get(&digest).await.unwrap(), data);
        assert_eq!(here.reads(), 1);
        assert!(here.has(&digest));
        assert_eq!(here.elsewhere.fetched(), Fetched { blobs: 1, bytes: len as u64 });
        assert!(here.elsewhere.0.fetcher.flights().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_slower_than_usual_is_overtaken() {
    let here = Here::with(3);
    let data = blob(2, 1000);
    let (digest, order) = here.everywhere(&data);
    here.farm.machine(order[0]).set_fault(Fault::Silent);
    here.farm.machine(order[1]).set_fault(Fault::Slow(Duration::from_millis(500)));
    let found = timeout(Duration::from_millis(100), here.elsewhere.get(&digest)).await.unwrap();
    assert_eq!(found.unwrap(), data);
    assert_eq!(here.reads(), 3);
    let slow = here.elsewhere.pace().patience(machine_id(order[0]));
    assert!(slow > Duration::from_millis(20), "what it kept us waiting is remembered: {slow:?}");
}

#[tokio::test(start_paused = true)]
async fn who_fails_lacks_it_or_lies_is_followed_by_the_next() {
    for fault in [Fault::Error, Fault::Lacks, Fault::Wrong] {
        for len in [1000, LARGE] {
            let here = Here::with(3);
            let data = blob(3, len);
            let (digest, order) = here.everywhere(&data);
            here.farm.machine(order[0]).set_fault(fault);
            assert_eq!(here.elsewhere.get(&digest).await.unwrap(), data, "{fault:?}");
            for other in 1..=3 {
                here.farm.machine(other).set_fault(Fault::Wrong);
            }
            here.store().lose(&EntryKey::from(&digest));
            assert!(matches!(here.elsewhere.get(&digest).await, Err(CasError::NotFound(d)) if d == digest));
            assert!(!here.has(&digest));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for_for_ever() {
    let here = Here::with(2);
    for len in [10, LARGE] {
        let (digest, _) = here.everywhere(&blob(4, len));
        for other in [1, 2] {
            here.farm.machine(other).set_fault(Fault::Silent);
        }
        let before = here.reads();
        let get = join_all((0..9).map(|_| here.elsewhere.get(&digest)));
        let read = join_all((0..9).map(|_| here.elsewhere.read(&digest, ByteRange::default())));
        let (got, read) = timeout(2 * SILENCE, async { tokio::join!(get, read) }).await.unwrap();
        assert!(got.into_iter().all(|got| matches!(got, Err(CasError::NotFound(_)))));
        assert!(read.into_iter().all(|read| matches!(read, Err(CasError::NotFound(_)))));
        assert_eq!(here.reads(), before + 2, "all learn it from one who asked");
    }
    let (digest, _) = here.everywhere(&blob(4, 10));
    here.farm.link(1, false);
    here.farm.link(2, false);
    let before = here.reads();
    assert!(here.elsewhere.get(&digest).await.is_err());
    assert_eq!(here.reads(), before, "without a link nobody is asked");
}

#[tokio::test(start_paused = true)]
async fn many_who_want_the_same_ask_once() {
    for (len, room) in [(1000, None), (1000, Some(0)), (LARGE, None)] {
        let here = Here::with(3);
        here.store().set_room(room);
        let data = blob(5, len);
        let (digest, order) = here.everywhere(&data);
        here.farm.machine(order[0]).set_fault(Fault::Slow(Duration::from_millis(1)));
        let found = join_all((0..50).map(|_| here.elsewhere.get(&digest))).await;
        assert!(found.into_iter().all(|found| found.unwrap() == data));
        assert_eq!(here.reads(), 1, "{len} {room:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_first_goes_away_another_goes_on() {
    let here = Here::with(1);
    let data = blob(6, 1000);
    let (digest, _) = here.everywhere(&data);
    here.farm.machine(1).set_fault(Fault::Slow(Duration::from_millis(100)));
    let first = timeout(Duration::from_millis(50), here.elsewhere.get(&digest));
    let (first, second, third) =
        tokio::join!(first, here.elsewhere.get(&digest), here.elsewhere.get(&digest));
    assert!(first.is_err());
    assert_eq!((second.unwrap(), third.unwrap()), (data.clone(), data));
    assert_eq!(here.reads(), 2);
}

#[tokio::test]
async fn what_cannot_be_kept_is_read_all_the_same_and_verified() {
    for len in [1000, LARGE] {
        let here = Here::with(2);
        here.store().set_room(Some(10));
        let data = blob(7, len);
        let (digest, order) = here.everywhere(&data);
        here.farm.machine(order[0]).set_fault(Fault::Lacks);
        assert_eq!(here.elsewhere.get(&digest).await.unwrap(), data);
        assert_eq!(collect(here.whole(&digest).await).await.unwrap(), data);
        assert!(!here.has(&digest));
        here.farm.machine(order[1]).set_fault(Fault::Wrong);
        assert!(here.elsewhere.get(&digest).await.is_err());
    }
}

#[tokio::test]
async fn a_large_blob_passes_and_is_kept() {
    let here = Here::with(3);
    let data = blob(8, LARGE);
    let (digest, _) = here.everywhere(&data);
    assert_eq!(collect(here.whole(&digest).await).await.unwrap(), data);
    here.tasks.idle().await;
    assert!(here.has(&digest) && here.reads() == 1);
    assert_eq!(here.elsewhere.fetched().blobs, 1);
}

#[tokio::test(start_paused = true)]
async fn who_breaks_off_or_stands_still_is_followed_at_the_same_offset() {
    for fault in [Fault::Breaks(1_000_000), Fault::Stalls(1_000_000), Fault::Breaks(0), Fault::Stalls(0)] {
        let here = Here::with(3);
        let data = blob(9, LARGE);
        let (digest, order) = here.everywhere(&data);
        here.farm.machine(order[0]).set_fault(fault);
        assert_eq!(collect(here.whole(&digest).await).await.unwrap(), data, "{fault:?}");
        here.tasks.idle().await;
        assert!(here.has(&digest) && here.reads() == 2);
        for other in 1..=3 {
            here.farm.machine(other).set_fault(Fault::Breaks(500_000));
        }
        let range = ByteRange { offset: 1, limit: Some(1_400_000) };
        let part = here.elsewhere.part(&digest, range).await.unwrap();
        assert_eq!(collect(part).await.unwrap(), data[1..1_400_001], "each gives a third");
        let whole = here.elsewhere.part(&digest, ByteRange::default()).await.unwrap();
        assert!(matches!(collect(whole).await, Err(CasError::NotFound(_))));
    }
}

#[tokio::test]
async fn a_wrong_blob_never_looks_complete() {
    let here = Here::with(2);
    let data = blob(10, LARGE);
    let (digest, order) = here.everywhere(&data);
    here.farm.machine(order[0]).set_fault(Fault::Wrong);
    let mut stream = here.whole(&digest).await;
    let mut came = 0;
    let error = loop {
        match stream.next().await.unwrap() {
            Ok(piece) => came += piece.len(),
            Err(error) => break error,
        }
    };
    assert!(came < LARGE && matches!(error, CasError::Io { .. }), "{came}: {error}");
    assert!(stream.next().await.is_none());
    here.tasks.idle().await;
    assert!(!here.has(&digest));
    assert_eq!(collect(here.whole(&digest).await).await.unwrap(), data, "the liar is not asked again");
}

#[tokio::test]
async fn what_breaks_off_because_the_node_ends_does_not_look_complete() {
    let here = Here::with(1);
    let (digest, _) = here.everywhere(&blob(16, LARGE));
    let mut stream = here.whole(&digest).await;
    stream.next().await.unwrap().unwrap();
    here.tasks.stop().await;
    assert!(collect(stream).await.is_err());
}

#[tokio::test]
async fn when_the_reader_goes_away_half_a_blob_is_brought_and_less_is_not() {
    // 23 pieces, of which some are on their way to the reader.
    for (pieces, is_kept) in [(1, false), (12, true)] {
        let here = Here::with(1);
        let data = blob(11, 2 * LARGE);
        let (digest, _) = here.everywhere(&data);
        let stream = here.whole(&digest).await;
        assert_eq!(stream.take(pieces).count().await, pieces);
        here.tasks.idle().await;
        assert_eq!(here.has(&digest), is_kept, "{pieces}");
        assert!(here.elsewhere.0.fetcher.flights().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn who_wants_what_passes_waits_for_it_unless_its_reader_is_slow() {
    let here = Here::with(2);
    let data = blob(12, LARGE);
    let (digest, _) = here.everywhere(&data);
    let first = here.whole(&digest).await;
    let (first, second) = tokio::join!(collect(first), async { collect(here.whole(&digest).await).await });
    assert_eq!((first.unwrap(), second.unwrap()), (data.clone(), data));
    assert_eq!(here.reads(), 1);

    let data = blob(13, LARGE);
    let (digest, _) = here.everywhere(&data);
    let asleep = here.whole(&digest).await;
    assert_eq!(collect(here.whole(&digest).await).await.unwrap(), data);
    assert_eq!(here.reads(), 3);
    assert_eq!(collect(asleep).await.unwrap(), data);
}

#[tokio::test]
async fn a_part_passes_from_its_offset_on_and_the_whole_is_brought() {
    let here = Here::with(2);
    let data = blob(14, LARGE);
    let (digest, _) = here.everywhere(&data);
    for (offset, limit) in [(1_000_000, Some(5)), (LARGE - 1, None), (0, Some(600_000)), (LARGE, None)] {
        let range = ByteRange { offset: offset as u64, limit };
        let end = limit.map_or(LARGE, |limit| offset + limit as usize);
        let part = here.elsewhere.read(&digest, range).await.unwrap();
        assert_eq!(collect(part).await.unwrap(), data[offset..end]);
    }
    here.tasks.idle().await;
    assert!(here.has(&digest));
    let small = here.put(1, &blob(15, 100));
    let part = here.elsewhere.read(&small, ByteRange { offset: 98, limit: Some(9) }).await.unwrap();
    assert_eq!(collect(part).await.unwrap(), blob(15, 100)[98..]);
    for digest in [small, digest] {
        let beyond = ByteRange { offset: digest.size() + 1, limit: None };
        assert!(matches!(here.elsewhere.read(&digest, beyond).await, Err(CasError::OutOfRange { .. })));
    }
}

#[tokio::test]
async fn the_generation_grows_when_a_machine_comes_goes_or_starts_again() {
    let here = Here::with(2);
    let first = here.elsewhere.generation();
    here.farm.change(1, |machine| machine.weight = 7);
    assert_eq!(here.elsewhere.generation(), first, "nobody left");
    here.farm.link(1, false);
    let second = here.elsewhere.generation();
    here.farm.link(1, true);
    // Those who look for blobs see it, and not only those who ask for the number.
    here.elsewhere.lacking(vec![Digest::of(Default::default(), b"x")], true).await;
    here.farm.link(1, false);
    let third = here.elsewhere.generation();
    here.farm.change(2, |machine| machine.boot_epoch = 2);
    let fourth = here.elsewhere.generation();
    assert!(first < second && second + 1 < third && third < fourth);
}

/// Reads a blob in each of the ways there are, all at once; whether each of them found it.
async fn read_in_every_way(here: &Here, digest: &Digest) -> [bool; 4] {
    let part = ByteRange { offset: 1, limit: Some(5) };
    let (got, whole, part, lacking) = tokio::join!(
        here.elsewhere.get(digest),
        async { collect(here.elsewhere.read(digest, ByteRange::default()).await?).await },
        async { collect(here.elsewhere.read(digest, part).await?).await },
        here.elsewhere.bring(vec![*digest]),
    );
    [got.is_ok(), whole.is_ok(), part.is_ok(), lacking.unwrap().is_empty()]
}

#[tokio::test(start_paused = true)]
async fn who_lost_its_link_a_moment_ago_is_waited_for() {
    let returning = Duration::from_secs(5);
    for len in [10, LARGE] {
        let here = Here::with(2);
        let (digest, _) = here.everywhere(&blob(17, len));
        for other in [1, 2] {
            here.farm.lose(other, returning);
        }
        let comes_back = async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            here.farm.link(2, true);
        };
        let (found, ()) = tokio::join!(read_in_every_way(&here, &digest), comes_back);
        assert_eq!(found, [true; 4], "{len}");
        here.tasks.idle().await;

        here.store().lose(&EntryKey::from(&digest));
        here.farm.lose(2, returning);
        let began = Instant::now();
        assert_eq!(read_in_every_way(&here, &digest).await, [false; 4]);
        assert!(began.elapsed() >= returning && began.elapsed() < 2 * returning, "not for ever");
        let began = Instant::now();
        assert_eq!(read_in_every_way(&here, &digest).await, [false; 4]);
        assert_eq!(began.elapsed(), Duration::ZERO, "nobody is expected back any more");
    }
}

#[tokio::test(start_paused = true)]
async fn who_fails_because_its_link_is_lost_is_asked_over_the_next_one() {
    for len in [10, LARGE] {
        let here = Here::with(1);
        let (digest, _) = here.everywhere(&blob(18, len));
        here.farm.machine(1).set_fault(Fault::Error);
        let is_made_again = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            here.farm.lose(1, Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(900)).await;
            here.farm.machine(1).set_fault(Fault::None);
            here.farm.link(1, true);
        };
        let (found, ()) = tokio::join!(read_in_every_way(&here, &digest), is_made_again);
        assert_eq!(found, [true; 4], "{len}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_looked_for_again_is_not_for_ever() {
    let here = Here::with(2);
    let absent = Digest::of(Default::default(), b"absent");
    let flaps = async {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            here.farm.lose(1, Duration::from_secs(5));
            here.farm.link(1, true);
        }
    };
    let found = timeout(Duration::from_secs(12), async {
        tokio::select! {
            found = here.elsewhere.get(&absent) => found,
            () = flaps => unreachable!(),
        }
    });
    assert!(matches!(found.await.unwrap(), Err(CasError::NotFound(_))));
}
