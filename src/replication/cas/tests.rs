use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use futures_util::TryStreamExt;
use tokio::time::{Instant, timeout};

use super::*;
use crate::cas::conformance;
use crate::digest::DigestFunction;
use crate::replication::copies::Others;
use crate::replication::copies::memory::MemoryCopies;
use crate::replication::copies::testing::{Fault, TestFarm, machine_id};
use crate::tasks::Tasks;

/// Acknowledges at once, or never; remembers what for.
#[derive(Default)]
struct Policy {
    refuses: bool,
    admitted: Mutex<usize>,
    acknowledged: Mutex<Vec<EntryKey>>,
}

#[async_trait]
impl Acknowledge for Policy {
    async fn admitted(&self) {
        *self.admitted.lock().unwrap() += 1;
    }

    async fn acknowledged(&self, key: &EntryKey) -> Result<(), CasError> {
        self.acknowledged.lock().unwrap().push(*key);
        if self.refuses {
            return Err(CasError::NoSpace { wanted: 0, reason: "too few copies".to_owned() });
        }
        Ok(())
    }
}

fn replicated<C>(farm: &Arc<TestFarm>, local: C, policy: Policy) -> ReplicatedCas<C> {
    let kept = Arc::new(farm.machine(0).store.of_others());
    let elsewhere = Elsewhere::new(farm.clone(), kept, Tasks::default());
    ReplicatedCas::new(local, elsewhere, Arc::new(policy))
}

/// This machine, number 0 of the farm.
fn here(farm: &Arc<TestFarm>) -> ReplicatedCas<MemoryCopies> {
    replicated(farm, farm.machine(0).store.clone(), Policy::default())
}

fn put(farm: &TestFarm, machine: usize, data: &Bytes) -> Digest {
    farm.machine(machine).store.blob(data.clone()).digest().unwrap()
}

/// A blob that belongs on these machines and no others.
fn placed(farm: &TestFarm, holders: &[usize]) -> (Digest, Bytes) {
    let holders: HashSet<_> = holders.iter().map(|holder| machine_id(*holder)).collect();
    let data = (0_u32..).map(|number| Bytes::from(number.to_le_bytes().to_vec()));
    let blobs = data.map(|data| (Digest::of(DigestFunction::Sha256, &data), data));
    let is_placed = |digest: &Digest| -> bool {
        farm.roster().holders(&EntryKey::from(digest)).iter().collect::<HashSet<_>>() == holders
    };
    blobs.into_iter().find(|(digest, _)| is_placed(digest)).unwrap()
}

#[tokio::test]
async fn conforms_with_none_one_and_three_others() {
    for others in [0, 1, 3] {
        let farm = TestFarm::new(others + 1, 2);
        conformance::suite(&here(&farm)).await;
        conformance::suite(&BroughtCas::new(here(&TestFarm::new(others + 1, 2)))).await;
    }
}

#[tokio::test]
async fn what_anybody_has_is_there_and_the_rest_is_listed_once_in_order() {
    let farm = TestFarm::new(4, 2);
    let cas = here(&farm);
    let blobs: Vec<Digest> = (0..40).map(|number| Digest::of(DigestFunction::Sha256, &[number])).collect();
    for (number, digest) in blobs.iter().enumerate() {
        match number % 4 {
            0 => drop(put(&farm, 0, &Bytes::from(vec![number as u8]))),
            1 => {
                let holders = farm.holders(&EntryKey::from(digest));
                let holder = holders.iter().find(|holder| holder.id != machine_id(0)).unwrap();
                holder.store.blob(vec![number as u8]);
            }
            _ => {}
        }
    }
    let twice = [&blobs[..], &blobs[..]].concat();
    let expected: Vec<Digest> =
        blobs.iter().enumerate().filter(|(number, _)| number % 4 > 1).map(|(_, digest)| *digest).collect();
    assert_eq!(cas.peek_missing(&twice).await.unwrap(), expected);
    assert!((1..4).all(|other| farm.machine(other).store.extended().is_empty()));
    assert_eq!(cas.find_missing(&twice).await.unwrap(), expected);
    let extended: usize = (1..4).map(|other| farm.machine(other).store.extended().len()).sum();
    assert_eq!(extended, 10, "the life of what is there is renewed");
    for digest in blobs.iter().filter(|digest| !expected.contains(digest)) {
        cas.get(digest).await.unwrap();
    }
}

#[tokio::test]
async fn a_blob_is_found_by_its_hash_wherever_it_is() {
    let farm = TestFarm::new(4, 2);
    let cas = here(&farm);
    let (digest, data) = placed(&farm, &[1, 2]);
    let hash = BlobHash::from(&digest);
    assert_eq!(cas.find(&hash).await.unwrap(), None);
    put(&farm, 2, &data);
    assert_eq!(cas.find(&hash).await.unwrap(), Some(digest));
    assert!(farm.machine(3).calls().find.is_empty(), "no holder");
    put(&farm, 0, &data);
    let asked = farm.machine(1).calls().find.len();
    assert_eq!(cas.find(&hash).await.unwrap(), Some(digest));
    assert_eq!(farm.machine(1).calls().find.len(), asked, "it is here");
}

#[tokio::test]
async fn nobody_is_asked_about_what_is_here_nor_about_what_belongs_elsewhere() {
    let farm = TestFarm::new(4, 2);
    let cas = here(&farm);
    let (digest, data) = placed(&farm, &[1, 2]);
    put(&farm, 3, &data);
    assert_eq!(cas.find_missing(&[digest]).await.unwrap(), [digest]);
    assert!(farm.machine(3).calls().have.is_empty(), "no holder");
    farm.set_may_have_more(3, true);
    assert!(cas.find_missing(&[digest]).await.unwrap().is_empty());
    let asked = |machine| farm.machine(machine).calls().have.len();
    assert_eq!([asked(1), asked(2), asked(3)], [2, 2, 1], "all at the same time");
    put(&farm, 0, &data);
    assert!(cas.find_missing(&[digest]).await.unwrap().is_empty());
    assert_eq!([asked(1), asked(2), asked(3)], [2, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn no_answer_is_a_no_and_is_not_waited_for() {
    let farm = TestFarm::new(4, 2);
    let cas = here(&farm);
    let (digest, data) = placed(&farm, &[1, 2]);
    put(&farm, 1, &data);
    for fault in [Fault::Silent, Fault::Slow(Duration::from_secs(1)), Fault::Error] {
        farm.machine(1).set_fault(fault);
        let found = timeout(Duration::from_millis(200), cas.find_missing(&[digest])).await.unwrap();
        assert_eq!(found.unwrap(), [digest], "{fault:?}");
    }
    // What another one has is there, whoever else does not answer, and at once.
    put(&farm, 2, &data);
    farm.machine(1).set_fault(Fault::Silent);
    let began = Instant::now();
    assert!(cas.find_missing(&[digest]).await.unwrap().is_empty());
    assert_eq!(began.elapsed(), Duration::ZERO);
    farm.machine(1).set_fault(Fault::Slow(Duration::from_millis(100)));
    farm.machine(2).set_fault(Fault::Lacks);
    assert!(cas.find_missing(&[digest]).await.unwrap().is_empty(), "it is in time");
    farm.link(1, false);
    assert_eq!(cas.find_missing(&[digest]).await.unwrap(), [digest]);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_speaks_of_who_should_have_it_is_waited_for() {
    let farm = TestFarm::new(4, 2);
    let cas = here(&farm);
    let (digest, data) = placed(&farm, &[1, 2]);
    put(&farm, 1, &data);
    // Both are slow.
    farm.machine(1).set_fault(Fault::Slow(Duration::from_secs(1)));
    farm.machine(2).set_fault(Fault::Silent);
    assert!(cas.find_missing(&[digest]).await.unwrap().is_empty());
    // Neither has a link at the moment.
    farm.machine(1).set_fault(Fault::None);
    [1, 2].iter().for_each(|machine| farm.lose(*machine, Duration::from_secs(5)));
    let comes_back = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        farm.link(1, true);
    };
    let digests = [digest];
    let (missing, ()) = tokio::join!(cas.find_missing(&digests), comes_back);
    assert!(missing.unwrap().is_empty());
    // What belongs here, and is not, is not waited for; nor is what another one would have.
    let (mine, _) = placed(&farm, &[0, 1]);
    let (anothers, _) = placed(&farm, &[1, 3]);
    farm.lose(1, Duration::from_secs(5));
    let began = Instant::now();
    assert_eq!(cas.find_missing(&[mine, anothers]).await.unwrap(), [mine, anothers]);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn ten_thousand_that_one_other_has_are_asked_for_in_one_question() {
    let farm = TestFarm::new(2, 2);
    let cas = here(&farm);
    let digests: Vec<Digest> =
        (0_u32..10_000).map(|number| put(&farm, 1, &Bytes::from(number.to_le_bytes().to_vec()))).collect();
    assert!(cas.elsewhere.lacking(digests, true).await.is_empty());
    let asked: Vec<usize> = farm.machine(1).calls().have.iter().map(Vec::len).collect();
    assert_eq!(asked, [10_000]);
}

#[tokio::test]
async fn a_write_is_admitted_stored_and_then_acknowledged() {
    let farm = TestFarm::new(2, 2);
    let data = Bytes::from_static(b"some data");
    let digest = Digest::of(DigestFunction::Sha256, &data);
    let policy = Arc::new(Policy { refuses: true, ..Policy::default() });
    let mut cas = here(&farm);
    cas.policy = policy.clone();
    cas.put(&Digest::empty(DigestFunction::Sha256), Bytes::new()).await.unwrap();
    assert!(policy.acknowledged.lock().unwrap().is_empty());
    assert!(cas.put(&digest, data.clone()).await.is_err());
    assert!(cas.put(&digest, Bytes::from_static(b"other data")).await.is_err());
    let mut writer = cas.writer(&digest).await.unwrap();
    writer.write(data.clone()).await.unwrap();
    assert!(writer.commit().await.is_err());
    assert_eq!(*policy.admitted.lock().unwrap(), 3);
    assert_eq!(*policy.acknowledged.lock().unwrap(), [EntryKey::from(&digest); 2]);
    assert_eq!(cas.get(&digest).await.unwrap(), data);
}

/// A store whose blobs break off after so many bytes.
struct Damaged(MemoryCopies, usize);

#[async_trait]
impl ContentAddressableStorage for Damaged {
    async fn find_missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, CasError> {
        self.0.find_missing(digests).await
    }

    async fn find(&self, hash: &BlobHash) -> Result<Option<Digest>, CasError> {
        self.0.find(hash).await
    }

    async fn get(&self, digest: &Digest) -> Result<Bytes, CasError> {
        self.0.get(digest).await
    }

    async fn read(&self, digest: &Digest, range: ByteRange) -> Result<BlobStream, CasError> {
        let stream = self.0.read(digest, range).await?;
        let all: Vec<Bytes> = stream.try_collect().await?;
        let good = Bytes::from(all.concat()).slice(..self.1);
        let source = std::io::ErrorKind::InvalidData.into();
        let pieces = [Ok(good), Err(CasError::Io { path: PathBuf::new(), source })];
        Ok(Box::pin(stream::iter(pieces)))
    }

    async fn put(&self, digest: &Digest, data: Bytes) -> Result<(), CasError> {
        self.0.put(digest, data).await
    }

    async fn writer(&self, digest: &Digest) -> Result<Box<dyn BlobWriter>, CasError> {
        self.0.writer(digest).await
    }
}

#[tokio::test]
async fn what_is_damaged_here_goes_on_elsewhere() {
    let farm = TestFarm::new(2, 2);
    let cas = replicated(&farm, Damaged(farm.machine(0).store.clone(), 1000), Policy::default());
    let data: Bytes = (0..2_000_000).map(|at| (at / 7 % 256) as u8).collect();
    let digest = put(&farm, 0, &data);
    let range = ByteRange { offset: 5, limit: Some(1_000_000) };
    let alone: Result<Vec<Bytes>, CasError> = cas.read(&digest, range).await.unwrap().try_collect().await;
    assert!(matches!(alone, Err(CasError::Io { .. })), "nobody else has it");
    put(&farm, 1, &data);
    let mended: Vec<Bytes> = cas.read(&digest, range).await.unwrap().try_collect().await.unwrap();
    assert_eq!(mended.concat(), data[5..1_000_005]);
}

#[tokio::test]
async fn what_is_needed_here_comes_from_several_machines_in_few_questions() {
    let farm = TestFarm::new(4, 2);
    let cas = BroughtCas::new(here(&farm));
    let mut wanted = Vec::new();
    for number in 0_u32..5000 {
        let data = Bytes::from(number.to_le_bytes().to_vec());
        let digest = Digest::of(DigestFunction::Sha256, &data);
        wanted.push(digest);
        for holder in farm.holders(&EntryKey::from(&digest)) {
            holder.store.blob(data.clone());
        }
    }
    let nowhere = Digest::of(DigestFunction::Sha256, b"nowhere");
    wanted.push(nowhere);
    assert_eq!(cas.peek_missing(&wanted).await.unwrap(), [nowhere]);
    assert!((1..4).all(|other| farm.machine(other).calls().read.is_empty()), "a look brings nothing");
    assert_eq!(cas.find_missing(&wanted).await.unwrap(), [nowhere]);
    assert_eq!(farm.machine(0).store.find_missing(&wanted).await.unwrap(), [nowhere]);
    for other in 1..4 {
        let read = farm.machine(other).calls().read.len();
        assert!((400..1700).contains(&read), "each gives its share: {read}");
    }
}

#[tokio::test]
async fn who_should_have_it_and_fails_is_followed_by_the_rest() {
    for fault in [Fault::Error, Fault::Lacks, Fault::Wrong, Fault::Forgets] {
        let farm = TestFarm::new(4, 2);
        let cas = BroughtCas::new(here(&farm));
        let (digest, data) = placed(&farm, &[1, 2]);
        let large: Bytes = vec![7; 2_000_000].into();
        let wanted = [digest, Digest::of(DigestFunction::Sha256, &large)];
        for machine in 1..4 {
            put(&farm, machine, &data);
            put(&farm, machine, &large);
        }
        farm.machine(1).set_fault(fault);
        farm.machine(2).set_fault(fault);
        assert!(cas.find_missing(&wanted).await.unwrap().is_empty(), "{fault:?}");
        assert!(farm.machine(0).store.find_missing(&wanted).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_has_no_room_here_is_an_error_and_not_missing() {
    let farm = TestFarm::new(2, 2);
    let cas = BroughtCas::new(here(&farm));
    let digest = put(&farm, 1, &Bytes::from_static(b"data"));
    farm.machine(0).store.set_room(Some(0));
    assert!(matches!(cas.find_missing(&[digest]).await, Err(CasError::NoSpace { .. })));
    assert_eq!(cas.get(&digest).await.unwrap(), &b"data"[..]);
}
