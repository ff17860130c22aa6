use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use farmhand_proto::reapi::ActionResult;
use futures_util::TryStreamExt;
use prost::Message;

use super::*;
use crate::action_cache::disk::DiskActionCache;
use crate::action_cache::{ActionCache, ActionKey};
use crate::cas::ContentAddressableStorage;
use crate::cas::disk::DiskConfig;
use crate::digest::{Digest, DigestFunction};
use crate::instance::InstanceName;

const BUDGET: u64 = 16 << 20;
const LENS: [usize; 3] = [10, 100_000, SMALL as usize];

fn open() -> (tempfile::TempDir, DiskCas) {
    let directory = tempfile::tempdir().unwrap();
    let cas = DiskCas::open(DiskConfig::new(directory.path(), BUDGET), &|_| {}).unwrap();
    (directory, cas)
}

fn store(cas: &DiskCas) -> Arc<dyn CopyStore> {
    Arc::new(cas.clone())
}

fn blob(n: u8, len: usize) -> (EntryKey, Digest, Bytes) {
    let data = Bytes::from(vec![n; len]);
    let digest = Digest::of(DigestFunction::Blake3, &data);
    (EntryKey::from(&digest), digest, data)
}

fn copy(key: EntryKey, data: Bytes) -> Copy {
    Copy { key, data, age: Duration::from_secs(50) }
}

fn action(n: u8) -> ActionKey {
    ActionKey { instance: InstanceName::parse("main").unwrap(), action: blob(n, 9).1 }
}

fn result(code: i32) -> ActionResult {
    ActionResult { exit_code: code, stdout_raw: vec![7; 1000], ..ActionResult::default() }
}

/// The key of the one result that is stored, and its stored form.
async fn only_result(cas: &DiskCas) -> (EntryKey, Bytes) {
    let ranges = (0..=255).flat_map(|range| store(cas).range(range));
    let results: Vec<Entry> = ranges.filter(|entry| entry.key.is_action()).collect();
    let [entry] = results[..] else { panic!("{results:?}") };
    let data = store(cas).load(&entry.key).await.unwrap().unwrap();
    assert_eq!(data.len() as u64, entry.bytes);
    (entry.key, data)
}

#[tokio::test]
async fn a_blob_goes_from_store_to_store() {
    let ((_here, here), (_there, there)) = (open(), open());
    for (n, len) in LENS.into_iter().enumerate() {
        let (key, digest, data) = blob(n as u8, len);
        here.put(&digest, data.clone()).await.unwrap();
        let entry = store(&here).look(&key).unwrap();
        assert_eq!((entry.key, entry.bytes, entry.standing), (key, len as u64, Standing::Sole));
        assert_eq!(store(&there).load(&key).await.unwrap(), None);
        let loaded = store(&here).load(&key).await.unwrap().unwrap();
        assert_eq!(store(&there).keep(copy(key, loaded), Standing::Counted).await, Taken::Stored);
        let entry = store(&there).look(&key).unwrap();
        assert_eq!(entry.standing, Standing::Counted);
        assert!(entry.age >= Duration::from_secs(50));
        assert_eq!(there.get(&digest).await.unwrap(), data);
        store(&there).mark(&[key, blob(99, 9).0], Standing::Spare);
        assert_eq!(store(&there).look(&key).unwrap().standing, Standing::Spare);
        let absent = blob(77, len).0;
        assert_eq!(store(&there).have(&[key, absent, key], false), [true, false, true]);
    }
}

#[tokio::test]
async fn a_blob_too_large_for_a_batch_is_streamed_from_any_offset() {
    let (_directory, cas) = open();
    let (key, digest, data) = blob(1, SMALL as usize + 1);
    cas.put(&digest, data.clone()).await.unwrap();
    assert!(matches!(store(&cas).load(&key).await, Err(CasError::TooLarge { .. })));
    for offset in [0, 1, 300_000, data.len()] {
        let stream = store(&cas).stream(&key, offset as u64).await.unwrap();
        let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
        assert_eq!(pieces.concat(), data[offset..]);
    }
    assert!(store(&cas).stream(&key, data.len() as u64 + 1).await.is_err());
    assert!(store(&cas).stream(&blob(2, 10).0, 0).await.is_err());
}

#[tokio::test]
async fn what_is_no_copy_of_its_key_is_refused() {
    let (_directory, cas) = open();
    let ((key, _, data), (_, _, wrong)) = (blob(1, 5000), blob(2, 5000));
    let longer: Bytes = [&data[..], b"x"].concat().into();
    for bytes in [wrong.clone(), data.slice(1..), longer, Bytes::new()] {
        assert_eq!(store(&cas).keep(copy(key, bytes), Standing::Counted).await, Taken::Bad);
    }
    assert_eq!(store(&cas).have(&[key], true), [false]);

    let (_elsewhere, elsewhere) = open();
    DiskActionCache::new(elsewhere.clone()).put(&action(1), result(1)).await.unwrap();
    let (key, data) = only_result(&elsewhere).await;
    let mut other_action = data.to_vec();
    other_action[5] ^= 1;
    let mut other_instance = data.to_vec();
    other_instance[44] ^= 1;
    let mut no_message = data[..47].to_vec();
    no_message.extend([0xff; 20]);
    let forged: [Bytes; 6] = [
        other_action.into(),
        other_instance.into(),
        no_message.into(),
        data.slice(..30),
        Bytes::new(),
        result(1).encode_to_vec().into(),
    ];
    for bytes in forged {
        assert_eq!(store(&cas).keep(copy(key, bytes), Standing::Counted).await, Taken::Bad);
    }
    let another = EntryKey::action(&[3; 32]);
    assert_eq!(store(&cas).keep(copy(another, data.clone()), Standing::Counted).await, Taken::Bad);
    assert_eq!(store(&cas).keep(copy(key, data), Standing::Counted).await, Taken::Stored);
    assert_eq!(DiskActionCache::new(cas).get(&action(1)).await.unwrap(), Some(result(1)));
}

#[tokio::test]
async fn a_kept_result_replaces_the_one_here_and_no_memory_holds_on_to_that() {
    let ((_here, here), (_there, there)) = (open(), open());
    let (mine, theirs) = (DiskActionCache::new(here.clone()), DiskActionCache::new(there.clone()));
    for code in 0..4 {
        mine.put(&action(1), result(-code)).await.unwrap();
        assert_eq!(mine.get(&action(1)).await.unwrap(), Some(result(-code)));
        theirs.put(&action(1), result(100 + code)).await.unwrap();
        let (key, data) = only_result(&there).await;
        assert_eq!(store(&here).keep(copy(key, data.clone()), Standing::Spare).await, Taken::Stored);
        assert_eq!(mine.get(&action(1)).await.unwrap(), Some(result(100 + code)));
        assert_eq!(only_result(&here).await, (key, data));
        assert_eq!(store(&here).look(&key).unwrap().standing, Standing::Spare);
    }
}

#[tokio::test]
async fn a_result_too_large_for_a_batch_is_had_whole() {
    let ((_here, here), (_there, there)) = (open(), open());
    let large = ActionResult { stdout_raw: vec![1; 700_000], ..result(1) };
    DiskActionCache::new(here.clone()).put(&action(1), large.clone()).await.unwrap();
    let (key, data) = only_result(&here).await;
    let stream = store(&here).stream(&key, 1000).await.unwrap();
    assert_eq!(stream.try_collect::<Vec<Bytes>>().await.unwrap().concat(), data[1000..]);
    assert_eq!(store(&there).keep(copy(key, data), Standing::Counted).await, Taken::Stored);
    assert_eq!(DiskActionCache::new(there).get(&action(1)).await.unwrap(), Some(large));
}

#[tokio::test]
async fn a_closed_store_takes_nothing() {
    let (_directory, cas) = open();
    cas.close();
    let (key, _, data) = blob(1, 10);
    assert_eq!(store(&cas).keep(copy(key, data), Standing::Counted).await, Taken::NoRoom);
}
