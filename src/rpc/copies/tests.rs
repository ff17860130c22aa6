use farmhand_proto::peer::copies_server::Copies as _;
use farmhand_proto::reapi::ActionResult;
use tonic::Code;

use super::*;
use crate::action_cache::ActionKey;
use crate::cas::compression::compress;
use crate::digest::{Digest, DigestFunction};
use crate::instance::InstanceName;
use crate::peer::MachineId;
use crate::peer::link::incoming::Caller;
use crate::replication::copies::Others;
use crate::replication::copies::memory::MemoryCopies;
use crate::replication::copies::testing::{TestFarm, machine_id};
use crate::replication::messages::{read_bits, read_taken, write_keys};

/// The service of machine 0 of three, each entry being on one of them.
fn service() -> (CopiesService, MemoryCopies, Arc<TestFarm>) {
    let (farm, store) = (TestFarm::new(3, 1), MemoryCopies::default());
    let others = Arc::clone(&farm);
    let service = CopiesService::new(Arc::new(store.clone()), Arc::new(move || others.roster()));
    (service, store, farm)
}

/// A call of a member.
fn of_member<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Caller::made_up(MachineId::new([9; 32])));
    request
}

fn result(number: usize, bytes: usize) -> (ActionKey, ActionResult) {
    let action = Digest::of(DigestFunction::Sha256, &number.to_le_bytes());
    let result = ActionResult { stdout_raw: vec![7; bytes], ..Default::default() };
    (ActionKey { instance: InstanceName::default(), action }, result)
}

fn entry(key: &EntryKey, data: impl Into<Vec<u8>>) -> Entry {
    Entry { key: key.bytes().to_vec(), data: Bytes::from(data.into()), age: 60 }
}

async fn given(service: &CopiesService, entries: Vec<Entry>, compressed: bool) -> Result<Vec<Taken>, Status> {
    let answer = service.give(of_member(GiveRequest { entries, compressed })).await?.into_inner();
    Ok(answer.taken.into_iter().map(|taken| read_taken(taken).unwrap()).collect())
}

#[tokio::test]
async fn nobody_but_members_gets_in() {
    let (service, ..) = service();
    let codes = [
        service.have(Request::new(HaveRequest::default())).await.unwrap_err().code(),
        service.find(Request::new(FindRequest::default())).await.unwrap_err().code(),
        service.give(Request::new(GiveRequest::default())).await.unwrap_err().code(),
        service.settle(Request::new(SettleRequest::default())).await.unwrap_err().code(),
        service.results(Request::new(ResultsRequest::default())).await.unwrap_err().code(),
    ];
    assert_eq!(codes, [Code::PermissionDenied; 5]);
}

#[tokio::test]
async fn blobs_are_found_by_their_hash() {
    let (service, store, _) = service();
    let here = store.blob(&b"here"[..]).digest().unwrap();
    let absent = Digest::of(DigestFunction::Blake3, b"absent");
    for (digest, size) in [(here, Some(4)), (absent, None), (Digest::empty(DigestFunction::Sha256), Some(0))]
    {
        let hash = BlobHash::from(&digest).to_bytes().to_vec();
        let found = service.find(of_member(FindRequest { hash })).await.unwrap().into_inner();
        assert_eq!(found.size, size, "{digest}");
    }
    assert!(store.extended().is_empty());
    for hash in [vec![], vec![1; 32], vec![2; 33], vec![1; 34]] {
        let refused = service.find(of_member(FindRequest { hash })).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn what_is_here_is_told_and_extended_where_it_is_asked_for() {
    let (service, store, _) = service();
    let here: Vec<EntryKey> = (0..1500_u32).map(|i| store.blob(i.to_le_bytes().to_vec())).collect();
    let mut keys = here.clone();
    keys.insert(700, EntryKey::action(&[1; 32]));
    for extend in [false, true] {
        let request = of_member(HaveRequest { keys: write_keys(&keys), extend });
        let bits = service.have(request).await.unwrap().into_inner().present;
        let present = read_bits(&bits, keys.len()).unwrap();
        assert!(present.iter().enumerate().all(|(number, is_here)| *is_here == (number != 700)));
        assert_eq!(store.extended(), if extend { here.clone() } else { Vec::new() });
    }
}

#[tokio::test]
async fn copies_are_verified_and_stand_as_the_roster_has_them() {
    for compressed in [false, true] {
        let (service, store, _) = service();
        let from = MemoryCopies::default();
        for number in 0..50_usize {
            from.blob(vec![number as u8; 100 * number + 1]);
            let (key, message) = result(number, number);
            from.result(&key, &message);
        }
        let form = |data: &[u8]| if compressed { compress(data).unwrap() } else { data.to_vec() };
        let keys = from.keys();
        let mut entries: Vec<Entry> =
            keys.iter().map(|key| entry(key, form(&from.data(key).unwrap()))).collect();
        entries[3].data = form(b"something else").into();
        entries[4].data = b"\x28\xb5\x2f\xfd and no more"[..].into();
        let taken = given(&service, entries, compressed).await.unwrap();
        for (number, (key, taken)) in keys.iter().zip(taken).enumerate() {
            let is_good = !(3..5).contains(&number);
            assert_eq!(taken, if is_good { Taken::Stored } else { Taken::Bad });
            assert_eq!(store.standing(key), is_good.then_some(Standing::Sole));
            assert!(!is_good || store.look(key).unwrap().age == Duration::from_secs(60));
            assert!(!is_good || store.data(key) == from.data(key));
        }
    }
}

#[tokio::test]
async fn a_full_store_says_so_for_each() {
    let (service, store, _) = service();
    let from = MemoryCopies::default();
    let (small, large) = (from.blob(vec![1; 10]), from.blob(vec![2; 100]));
    store.set_room(Some(50));
    let entries = [large, small].map(|key| entry(&key, from.data(&key).unwrap())).to_vec();
    assert_eq!(given(&service, entries, false).await.unwrap(), [Taken::NoRoom, Taken::Stored]);
}

#[tokio::test]
async fn too_much_and_nonsense_are_refused_as_a_whole() {
    let (service, store, _) = service();
    let key = EntryKey::from(&Digest::of(DigestFunction::Sha256, b"a"));
    let huge = EntryKey::from(&Digest::from_parts(DigestFunction::Sha256, [1; 32], GIVEN_BYTES + 1));
    for (entries, compressed, text) in [
        (vec![entry(&key, b"a"); MOST_GIVEN + 1], false, "2001 entries are more than the 2000"),
        (vec![entry(&key, b"a"), Entry::default()], false, "entry 1 has no key"),
        (vec![entry(&key, vec![0; 1 << 20]); 5], false, "5242880 bytes are more than the 4194304"),
        (vec![entry(&huge, b"")], true, "4194305 bytes are more than the 4194304"),
    ] {
        let status = given(&service, entries, compressed).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(text), "{}", status.message());
    }
    let many = write_keys(&vec![key; MOST_KEYS + 1]);
    for keys in [many, vec![0; 41], vec![0; 40]] {
        let have = service.have(of_member(HaveRequest { keys: keys.clone(), extend: true })).await;
        assert_eq!(have.unwrap_err().code(), Code::InvalidArgument);
        let settle = service.settle(of_member(SettleRequest { keys: keys.clone(), farm: 0 })).await;
        assert_eq!(settle.unwrap_err().code(), Code::InvalidArgument);
        let results = service.results(of_member(ResultsRequest { keys })).await;
        assert_eq!(results.unwrap_err().code(), Code::InvalidArgument);
    }
    let status = service.results(of_member(ResultsRequest { keys: write_keys(&[key]) })).await.unwrap_err();
    assert_eq!(status.message(), "entry 0 is a blob, and results are asked for");
    assert!(store.keys().is_empty());
}

#[tokio::test]
async fn results_that_come_out_larger_than_a_call_may_be_are_bad() {
    let (service, store, _) = service();
    let from = MemoryCopies::default();
    let results: Vec<EntryKey> =
        (0..3).map(|number| result(number, 3 << 20)).map(|(k, r)| from.result(&k, &r)).collect();
    let packed = |key: &EntryKey| entry(key, compress(&from.data(key).unwrap()).unwrap());
    let taken = given(&service, results.iter().map(packed).collect(), true).await.unwrap();
    assert_eq!(taken, [Taken::Stored, Taken::Bad, Taken::Bad]);
    assert_eq!(store.keys().len(), 1);
}

/// What was told as used.
#[derive(Default)]
struct Told(std::sync::Mutex<Vec<EntryKey>>);

impl StoreNews for Told {
    fn stored(&self, _: EntryKey, _: u64) {}

    fn used(&self, keys: Vec<EntryKey>) {
        self.0.lock().unwrap().extend(keys);
    }

    fn damaged(&self, _: EntryKey) {}
}

#[tokio::test]
async fn what_is_settled_counts_where_the_roster_has_it_here() {
    let (service, store, farm) = service();
    let mut keys: Vec<EntryKey> = (0..1200_u32).map(|i| store.blob(i.to_le_bytes().to_vec())).collect();
    let sole = keys.pop().unwrap();
    keys.push(EntryKey::action(&[1; 32]));
    let (told, farm_is) = (Arc::new(Told::default()), farm.roster().fingerprint());
    let service = service.asking(Arc::<Told>::clone(&told));
    let request = |farm| of_member(SettleRequest { keys: write_keys(&keys), farm });
    service.settle(request(farm_is + 1)).await.unwrap();
    assert_eq!(*told.0.lock().unwrap(), keys, "who sees another farm asks for itself");
    assert!(keys.iter().all(|key| store.standing(key).is_none_or(|standing| standing == Standing::Sole)));
    service.settle(request(farm_is)).await.unwrap();
    for key in &keys[..keys.len() - 1] {
        let is_holder = farm.roster().is_holder(machine_id(0), key);
        assert_eq!(store.standing(key), Some(if is_holder { Standing::Counted } else { Standing::Spare }));
    }
    assert_eq!(store.standing(&sole), Some(Standing::Sole));
    assert_eq!(store.keys().len(), 1200);
}

#[tokio::test]
async fn results_are_given_as_far_as_they_fit_into_one_message() {
    let (service, store, _) = service();
    let mut keys = vec![EntryKey::action(&[1; 32])];
    for (number, bytes) in [1000, 3 << 20, 2 << 20, 10].into_iter().enumerate() {
        let (key, message) = result(number, bytes);
        keys.push(store.result(&key, &message));
    }
    let answer = service.results(of_member(ResultsRequest { keys: write_keys(&keys) })).await.unwrap();
    let answer = answer.into_inner();
    assert!(prost::Message::encoded_len(&answer) < 4 << 20);
    let sent: Vec<_> = answer.entries.iter().map(|entry| EntryKey::read(&entry.key).unwrap()).collect();
    assert_eq!(sent, [keys[1], keys[2], keys[4]]);
    for entry in &answer.entries {
        assert_eq!(store.data(&EntryKey::read(&entry.key).unwrap()).unwrap(), entry.data);
    }
}
