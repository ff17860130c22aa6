//! What is lost on one machine is made good by the others.

use std::time::Duration;

use farmhand::digest::Digest;
use tokio::time::{Instant, sleep};

use crate::ledger::{Blob, Ledger};
use crate::stores::{GRACE, PATIENT, Stores};
use crate::support::Client;

/// Small and large ones.
const SIZES: (u64, u64) = (1, 200 << 10);

/// Ones with a file of their own.
const LARGE: (u64, u64) = (40 << 10, 90 << 10);

/// How long anything may take that is waited for.
const PATIENCE: Duration = Duration::from_secs(90);

fn assert_copies(stores: &Stores, blobs: &[Digest], wanted: usize) {
    let copies = stores.copies_of(blobs);
    assert!(copies.iter().all(|copies| *copies >= wanted), "{wanted} are wanted: {copies:?}");
}

#[tokio::test]
async fn what_was_on_a_lost_machine_is_copied_again() {
    let Some(mut stores) = Stores::new(4, 2, &GRACE).await else { return };
    let ledger = Ledger::default();
    let blobs = ledger.put_some(&stores, 0, 80, SIZES).await;
    ledger.put_result(&stores, 0, blobs[0]).await;
    ledger.settle(&stores).await;
    for lost in 0..2 {
        stores.kill(lost);
        ledger.settle(&stores).await;
        assert_copies(&stores, &blobs, 2);
    }
    ledger.check(&stores).await;
}

#[tokio::test]
async fn a_farm_whose_power_went_is_as_it_was() {
    let Some(mut stores) = Stores::new(3, 2, &PATIENT).await else { return };
    let ledger = Ledger::default();
    let blobs = ledger.put_some(&stores, 1, 60, SIZES).await;
    ledger.settle(&stores).await;
    let before: u64 = (0..3).map(|machine| stores.lan.sent(machine)).sum();
    (0..3).for_each(|machine| stores.kill(machine));
    for machine in 0..3 {
        stores.machines[machine].restart(&stores.lan);
    }
    stores.linked().await;
    ledger.settle(&stores).await;
    let after: u64 = (0..3).map(|machine| stores.lan.sent(machine)).sum();
    let bytes: u64 = blobs.iter().map(Digest::size).sum();
    println!("FIGURE a farm of {bytes} bytes started again: {} went over the wire", after - before);
    assert!(after - before < bytes / 2, "nothing had to be copied");
    ledger.check(&stores).await;
}

/// When each of these blobs was on so many disks of the machines that run, in the order of the blobs.
async fn when_copied(stores: &Stores, blobs: &[(Digest, usize)]) -> Vec<Duration> {
    let since = Instant::now();
    let digests: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
    let mut times: Vec<Option<Duration>> = vec![None; blobs.len()];
    while times.contains(&None) {
        let copies = stores.copies_of(&digests);
        for (at, copies) in copies.into_iter().enumerate() {
            if times[at].is_none() && copies >= blobs[at].1 {
                times[at] = Some(since.elapsed());
            }
        }
        assert!(since.elapsed() < PATIENCE, "some are not copied: {times:?}");
        sleep(Duration::from_millis(20)).await;
    }
    times.into_iter().flatten().collect()
}

#[tokio::test]
async fn who_has_the_fewest_copies_gets_one_first() {
    let Some(mut stores) = Stores::new(5, 3, &GRACE).await else { return };
    let ledger = Ledger::default();
    let blobs = ledger.put_some(&stores, 2, 300, LARGE).await;
    ledger.settle(&stores).await;
    // So slow that there is an order to be seen.
    for machine in 2..5 {
        if let Err(words) = stores.lan.limit(machine, 30) {
            println!("SKIPPED: no slow links here: {words}");
            return;
        }
    }
    stores.kill(0);
    stores.kill(1);
    let left = stores.copies_of(&blobs);
    // One more than is left of each.
    let wanted: Vec<_> = blobs.iter().zip(&left).map(|(digest, left)| (*digest, left + 1)).collect();
    let wanted: Vec<_> = wanted.into_iter().filter(|(_, wanted)| *wanted <= 3).collect();
    let times = when_copied(&stores, &wanted).await;
    let median = |wanted_now: usize| {
        let timed = wanted.iter().zip(&times).filter(|((_, wanted), _)| *wanted == wanted_now);
        let mut times: Vec<Duration> = timed.map(|(_, time)| *time).collect();
        times.sort();
        (times.len(), times[times.len() / 2])
    };
    let ((few, last_copies), (more, others)) = (median(2), median(3));
    println!(
        "FIGURE {few} blobs with one copy got another {last_copies:.1?} after the loss, {more} with two {others:.1?}"
    );
    assert!(last_copies < others, "those with one copy come first");
    ledger.settle(&stores).await;
    ledger.check(&stores).await;
}

#[tokio::test]
async fn an_index_that_is_gone_costs_no_copy() {
    let Some(mut stores) = Stores::new(3, 2, &PATIENT).await else { return };
    let ledger = Ledger::default();
    let blobs = ledger.put_some(&stores, 0, 60, SIZES).await;
    ledger.settle(&stores).await;
    stores.kill(1);
    stores.machines[1].lose_index();
    let before = stores.lan.received(1);
    stores.restart(1).await;
    ledger.settle(&stores).await;
    let (got, bytes) = (stores.lan.received(1) - before, blobs.iter().map(Digest::size).sum::<u64>());
    assert!(got < bytes / 3, "{got} bytes came, of {bytes} in the farm");
    stores.kill(0);
    ledger.check(&stores).await;
}

#[tokio::test]
async fn a_store_that_was_emptied_is_filled_again() {
    let Some(mut stores) = Stores::new(3, 2, &PATIENT).await else { return };
    let ledger = Ledger::default();
    let blobs = ledger.put_some(&stores, 1, 60, SIZES).await;
    ledger.settle(&stores).await;
    stores.kill(1);
    stores.machines[1].empty();
    ledger.lose_store(1);
    stores.restart(1).await;
    ledger.check(&stores).await;
    ledger.settle(&stores).await;
    assert_copies(&stores, &blobs, 2);
    stores.kill(0);
    ledger.check(&stores).await;
}

/// A blob that is on the disk of that machine and of a size between two.
fn held_by(stores: &Stores, ledger: &Ledger, machine: usize, (from, to): (u64, u64)) -> (Blob, Digest) {
    let of_size = |(_, digest): &(Blob, Digest)| (from..to).contains(&digest.size());
    let blobs: Vec<_> = ledger.blobs().into_iter().filter(of_size).collect();
    let digests: Vec<Digest> = blobs.iter().map(|(_, digest)| *digest).collect();
    let held = stores.held(machine, &digests);
    blobs.into_iter().zip(held).find(|(_, held)| *held).expect("some are there").0
}

/// Waits until the bytes of a blob on the disk of a machine are right.
async fn until_sound(stores: &Stores, machine: usize, blob: &(Blob, Digest)) {
    let (since, bytes) = (Instant::now(), blob.0.bytes());
    while !stores.is_sound(machine, &blob.1, &bytes) {
        let words = stores.replication(machine).await;
        assert!(since.elapsed() < PATIENCE, "it is not replaced: {words:?}");
        sleep(Duration::from_millis(50)).await;
    }
}

async fn assert_read(client: &Client, (blob, digest): &(Blob, Digest)) {
    assert!(client.read(digest).await.unwrap() == blob.bytes());
}

#[tokio::test]
async fn a_blob_that_is_damaged_is_read_from_another_machine_and_replaced() {
    let Some(mut stores) = Stores::new(3, 2, &PATIENT).await else { return };
    let ledger = Ledger::default();
    ledger.put_some(&stores, 0, 20, (1 << 10, 30 << 10)).await;
    ledger.put_some(&stores, 0, 20, (40 << 10, 2 << 20)).await;
    ledger.settle(&stores).await;
    // Nothing is in anybody's memory.
    for machine in 0..3 {
        stores.bounce(machine).await;
    }
    ledger.settle(&stores).await;
    for size in [(1 << 10, 30 << 10), (40 << 10, 2 << 20)] {
        let blob = held_by(&stores, &ledger, 1, size);
        assert!(stores.flip(1, &blob.1, &blob.0.bytes()));
        assert!(!stores.is_sound(1, &blob.1, &blob.0.bytes()));
        assert_read(&stores.client(1), &blob).await;
        until_sound(&stores, 1, &blob).await;
    }
    assert!(stores.replication(1).await.healed >= 2, "{:?}", stores.replication(1).await);
    ledger.check(&stores).await;
}

#[tokio::test]
async fn a_blob_that_is_damaged_is_replaced_before_anybody_reads_it() {
    let arguments = [PATIENT[0], PATIENT[1], "--scrub-interval", "5s"];
    let Some(stores) = Stores::new(2, 2, &arguments).await else { return };
    let ledger = Ledger::default();
    ledger.put_some(&stores, 0, 20, SIZES).await;
    ledger.settle(&stores).await;
    let blob = held_by(&stores, &ledger, 1, (40 << 10, 200 << 10));
    assert!(stores.flip(1, &blob.1, &blob.0.bytes()));
    until_sound(&stores, 1, &blob).await;
    assert!(stores.replication(1).await.healed >= 1);
    ledger.check(&stores).await;
}

/// Reads blobs again and again, for so long; those that were not found, with the time of it.
async fn not_found(client: &Client, blobs: &[(Blob, Digest)], time: Duration) -> Vec<String> {
    let (since, mut absent) = (Instant::now(), Vec::new());
    for (blob, digest) in blobs.iter().cycle() {
        if since.elapsed() > time {
            break;
        }
        match client.read(digest).await {
            Ok(bytes) => assert!(bytes == blob.bytes(), "wrong bytes for {digest:?}"),
            Err(status) => absent.push(format!("{:.2?}: {digest:?}: {status}", since.elapsed())),
        }
        sleep(Duration::from_millis(5)).await;
    }
    absent
}

#[tokio::test]
async fn a_network_that_fails_for_a_moment_hides_no_blob() {
    let Some(stores) = Stores::new(5, 2, &PATIENT).await else { return };
    let ledger = Ledger::default();
    // Links are found lost three seconds after the last word, and words that were lost come late: most of these
    // moments are over when it happens.
    for millis in [1500, 1900, 2300, 2700, 3500] {
        ledger.put_some(&stores, 0, 300, SIZES).await;
        ledger.settle(&stores).await;
        // What is read is kept, so each may be read once.
        let known: Vec<(Blob, Digest)> = ledger.blobs();
        let fresh = &known[known.len() - 300..];
        stores.lan.silence(2);
        sleep(Duration::from_millis(millis)).await;
        stores.lan.unsilence(2);
        let absent = not_found(&stores.client(2), fresh, Duration::from_secs(5)).await;
        assert!(absent.is_empty(), "after {millis} ms: {} not found: {:#?}", absent.len(), &absent[..1]);
        stores.linked().await;
    }
}
