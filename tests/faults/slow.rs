//! A disk that stands still for a while: writers wait, everybody else goes on, memory stays bounded, and
//! nothing is lost.

use std::sync::Arc;
use std::time::Duration;

use super::support::book::{Acknowledged, Demand};
use super::support::load::Mix;
use super::support::{Book, Client, Dice, Disk, Load, Node, Setup, rounds};

/// Rounds of reads and questions that must be answered while nothing can be written.
const ANSWERS: usize = 50;

/// How long the disk stands still at most. Nothing is as slow as that, so it is no measure of speed.
const PATIENCE: Duration = Duration::from_secs(20);

/// KiB of memory that waiting writers may cost.
const MEMORY: u64 = 200 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stands_still_stops_only_writers() {
    let mut dice = Dice::new("slow disk");
    let Some(disk) = Disk::new("slow disk", 2000) else { return };
    let setup = Setup::new(disk.path().join("data"), "disk-budget = \"1500MB\"\nsandbox = \"off\"\n");
    let node = setup.start();
    let book = Arc::new(Book::default());
    let mix = Mix { actions: false, ..Mix::default() };
    for round in 0..rounds(2, 20) {
        let load = Load::start(node.address, &book, &mut dice, mix).await;
        tokio::time::sleep(dice.between(300, 1500)).await;
        let client = node.client().await;
        let known = book.some_blobs(&mut dice, ANSWERS);
        let before = memory(&node);
        let frozen = disk.freeze();
        tokio::time::sleep(dice.between(500, 1500)).await;
        let answered = tokio::time::timeout(PATIENCE, answers(&client, &known)).await;
        assert!(answered.is_ok(), "nobody is answered while a disk stands still");
        let grown = memory(&node).saturating_sub(before);
        drop(frozen);
        load.end().await;
        let seen = book.check(&client, Demand::All, 100, &mut dice).await;
        println!("slow disk, round {round}: {grown} KiB more memory, {seen:?}");
        assert!(grown < MEMORY, "{grown} KiB");
    }
}

async fn answers(client: &Client, known: &[Acknowledged]) {
    for blob in known {
        assert!(client.has(&blob.digest).await);
        assert_eq!(client.read(&blob.digest).await.unwrap(), blob.blob.bytes());
        client.get_capabilities().await.unwrap();
    }
}

/// KiB of memory the node has.
fn memory(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
