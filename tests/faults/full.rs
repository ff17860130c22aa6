//! A disk that is full, at every point something is written: the writer is told RESOURCE_EXHAUSTED
//! and what helps, reads go on, nothing acknowledged is lost, and once there is room again the node
//! goes on by itself, with the index it had.

use std::sync::Arc;

use tonic::{Code, Status};

use super::support::book::Demand;
use super::support::load::Mix;
use super::support::{ActionBuilder, Book, Client, Dice, Disk, Load, Node, Setup, rounds, until};

/// Blobs read while the disk is full.
const READS: usize = 100;

/// Refusals that are waited for.
const REFUSALS: u64 = 20;

const FULL: Mix = Mix { actions: false, tolerated: &[Code::ResourceExhausted], may_lose: false };

/// The budget is larger than the disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_filled_by_blobs_refuses_and_recovers() {
    let mut dice = Dice::new("disk filled by blobs");
    let Some(disk) = Disk::new("disk filled by blobs", 250) else { return };
    let setup = Setup::new(disk.path().join("data"), "disk-budget = \"10GB\"\nsandbox = \"off\"\n");
    let ballast = disk.fill(120 << 20);
    let mut node = setup.start();
    let client = node.client().await;
    let book = Arc::new(Book::default());
    // The first fills the journal of the file system, the second the rest.
    let action = ActionBuilder::sh("cat in > out").file("in", vec![7; 3000]).outputs(&["out"]);
    let action_digest = action.upload(&client).await;
    let load = Load::start(node.address, &book, &mut dice, FULL).await;
    until("the disk is full", async || load.tolerated() > REFUSALS).await;
    refused(&client, &mut dice).await;
    run_on_full(&action, &client).await;
    let seen = book.check(&client, Demand::All, READS, &mut dice).await;
    println!("disk filled by blobs, and full: {seen:?}");
    load.end().await;
    drop(ballast);
    until("it takes blobs again", async || put(&client, &mut dice).await.is_ok()).await;
    action.start(&client, &action_digest).await.expect("actions run again");
    assert_kept_index(&node);
    let before = book.len();
    let load = Load::start(node.address, &book, &mut dice, FULL).await;
    until("load goes on", async || book.len() > before + 100).await;
    load.end().await;
    node.kill();
    let mut node = setup.start();
    let seen = book.check(&node.client().await, Demand::All, usize::MAX, &mut dice).await;
    println!("disk filled by blobs, in the end: {seen:?}");
    assert!(node.stop().success());
}

/// Somebody else fills the disk again and again, in the middle of whatever is going on.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_filled_by_others_refuses_and_recovers() {
    let mut dice = Dice::new("disk filled by others");
    let Some(disk) = Disk::new("disk filled by others", 4000) else { return };
    let setup = Setup::new(disk.path().join("data"), "disk-budget = \"10GB\"\nsandbox = \"off\"\n");
    let mut node = setup.start();
    let book = Arc::new(Book::default());
    for round in 0..rounds(3, 20) {
        let load = Load::start(node.address, &book, &mut dice, FULL).await;
        tokio::time::sleep(dice.between(100, 1200)).await;
        let filler = disk.fill(dice.below(400 << 10));
        until("the disk is full", async || load.tolerated() > REFUSALS).await;
        tokio::time::sleep(dice.between(100, 2500)).await;
        let client = node.client().await;
        book.check(&client, Demand::All, READS, &mut dice).await;
        drop(filler);
        until("it takes blobs again", async || put(&client, &mut dice).await.is_ok()).await;
        load.end().await;
        let seen = book.check(&client, Demand::All, READS, &mut dice).await;
        println!("disk filled by others, round {round}: {seen:?}");
    }
    assert_kept_index(&node);
    assert!(node.stop().success());
    let node = setup.start();
    book.check(&node.client().await, Demand::All, usize::MAX, &mut dice).await;
    assert_kept_index(&node);
}

/// The same while the budget is too small, so that there is eviction and compaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_filled_during_compaction_spoils_nothing() {
    let mut dice = Dice::new("disk filled during compaction");
    let Some(disk) = Disk::new("disk filled during compaction", 400) else { return };
    let config = "disk-budget = \"64MB\"\nlease = \"0s\"\nsandbox = \"off\"\n";
    let setup = Setup::new(disk.path().join("data"), config);
    let node = setup.start();
    let book = Arc::new(Book::default());
    let tolerated = &[Code::ResourceExhausted, Code::FailedPrecondition];
    let mix = Mix { may_lose: true, tolerated, ..FULL };
    let load = Load::start(node.address, &book, &mut dice, mix).await;
    let client = node.client().await;
    for _ in 0..rounds(3, 20) {
        tokio::time::sleep(dice.between(500, 2000)).await;
        let filler = disk.fill(dice.below(400 << 10));
        tokio::time::sleep(dice.between(200, 1500)).await;
        drop(filler);
        until("it takes blobs again", async || put(&client, &mut dice).await.is_ok()).await;
    }
    load.end().await;
    let seen = book.check(&client, Demand::Right, READS, &mut dice).await;
    println!("disk filled during compaction: {seen:?}");
}

async fn put(client: &Client, dice: &mut Dice) -> Result<i64, Status> {
    let data = super::support::book::Blob::Random(dice.roll()).bytes();
    client.write(&client.digest(&data), &data).await
}

/// Sooner or later a write is refused, with the reason and the remedy.
async fn refused(client: &Client, dice: &mut Dice) {
    for _ in 0..1000 {
        if let Err(status) = put(client, dice).await {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            assert!(status.message().contains("disk"), "{status}");
            assert!(status.message().contains("free some room"), "{status}");
            return;
        }
    }
    panic!("a full disk takes a thousand blobs");
}

/// An action on a full disk runs, or fails for want of room; no other way.
async fn run_on_full(action: &ActionBuilder, client: &Client) {
    let (digest, _) = action.blobs(client);
    let ended = match action.start(client, &digest).await {
        Ok(stream) => super::support::action::finish(stream, digest).await,
        Err(status) => Err(status),
    };
    let code = match ended {
        Ok(outcome) if outcome.code() == 0 => return,
        Ok(outcome) => Code::from(outcome.code()),
        Err(status) => status.code(),
    };
    assert_eq!(code, Code::ResourceExhausted);
}

fn assert_kept_index(node: &Node) {
    let log = node.log();
    for word in ["starts over", "rebuil", "moved aside", "panicked"] {
        assert!(!log.contains(word), "{log}");
    }
}
