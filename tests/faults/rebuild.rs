//! A store whose index is gone: all of it is found again, and a person sees how far that is.

use std::sync::Arc;

use farmhand::digest::Digest;
use tokio::time::Instant;

use super::support::{Client, Dice, Setup, rounds};

/// Blobs in a call.
const BATCH: usize = 2000;

/// Bytes of a blob, beside its number.
const FILLING: usize = 400;

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_index_is_rebuilt_with_progress_shown() {
    let dice = Dice::new("rebuild");
    let count = rounds(20_000, 1_000_000);
    let setup = Setup::with_own_data("disk-budget = \"20GB\"\nsandbox = \"off\"\n");
    let mut node = setup.start();
    let client = node.client().await;
    let filling = Arc::new(vec![dice.clone().roll() as u8; FILLING]);
    for first in (0..count).step_by(BATCH) {
        upload(&client, &filling, first).await;
    }
    assert!(node.stop().success());
    std::fs::remove_dir_all(setup.data.join("index")).unwrap();
    let begin = Instant::now();
    let node = setup.start();
    println!("rebuild: ready with {count} blobs after {:?}", begin.elapsed());
    let client = node.client().await;
    for first in (0..count).step_by(BATCH) {
        let digests: Vec<Digest> = blobs(&filling, first).map(|data| client.digest(&data)).collect();
        let missing = client.find_missing(&digests).await.unwrap();
        assert!(missing.is_empty(), "{missing:?}");
    }
    let log = node.log();
    assert!(log.contains("rebuilding the index"), "{log}");
    assert!(log.contains("percent="), "progress is shown: {log}");
}

fn blobs(filling: &[u8], first: usize) -> impl Iterator<Item = Vec<u8>> {
    (first..first + BATCH).map(move |number| [&number.to_le_bytes(), filling].concat())
}

async fn upload(client: &Client, filling: &[u8], first: usize) {
    let blobs: Vec<(Digest, Vec<u8>)> =
        blobs(filling, first).map(|data| (client.digest(&data), data)).collect();
    let requests: Vec<(Digest, &[u8])> = blobs.iter().map(|(digest, data)| (*digest, &data[..])).collect();
    let response = client.batch_update(&requests).await.unwrap();
    assert!(response.responses.iter().all(|answer| answer.status.clone().unwrap_or_default().code == 0));
}
