//! Disks that are full: reads go on, writes are refused at most, copies go elsewhere, and nothing goes that was
//! promised.

use std::sync::Arc;
use std::time::Duration;

use farmhand::digest::Digest;
use tokio::time::sleep;
use tonic::Code;

use crate::disk::SmallDisk;
use crate::ledger::load::{Load, Pace};
use crate::ledger::{Blob, Ledger};
use crate::stores::{PATIENT, Stores};
use crate::support::{Client, Dice};

/// Small and large ones.
const SIZES: (u64, u64) = (1, 300 << 10);

/// Bytes left on a disk that is full.
const LEFT: u64 = 1 << 20;

/// A farm of three machines, each with a disk of its own of so many MiB.
async fn farm(mib: u64) -> Option<(Stores, Vec<SmallDisk>)> {
    let disks: Vec<SmallDisk> = (0..3).map(|_| SmallDisk::mount(mib)).collect();
    let arguments = |number: usize| {
        let data = disks[number].data();
        let own = ["--data-dir", &data, "--disk-reserve", "0"];
        PATIENT.iter().chain(&own).map(ToString::to_string).collect()
    };
    let stores = Stores::with(3, 2, arguments).await?;
    Some((stores, disks))
}

fn fill(stores: &Stores, disks: &[SmallDisk], machines: &[usize]) {
    for machine in machines {
        stores.conditions.is_full(*machine, true);
        disks[*machine].fill(LEFT);
    }
}

fn free(stores: &Stores, disks: &[SmallDisk]) {
    for (machine, disk) in disks.iter().enumerate() {
        disk.free();
        stores.conditions.is_full(machine, false);
    }
}

/// Writes a blob; whether it was taken, and not refused for want of room.
async fn is_taken(ledger: &Ledger, client: &Client, machine: usize, blob: Blob) -> bool {
    match ledger.try_put(client, machine, blob).await {
        Ok(_) => true,
        Err(status) if status.code() == Code::ResourceExhausted => false,
        Err(status) => panic!("m{machine}: {status}"),
    }
}

#[tokio::test]
async fn copies_go_elsewhere_when_a_disk_is_full() {
    let Some((mut stores, disks)) = farm(96).await else { return };
    let ledger = Ledger::default();
    ledger.put_some(&stores, 0, 30, SIZES).await;
    ledger.settle(&stores).await;
    fill(&stores, &disks, &[1]);
    let blobs = ledger.put_some(&stores, 0, 60, (40 << 10, 200 << 10)).await;
    ledger.settle(&stores).await;
    let copies = stores.copies_of(&blobs);
    assert!(copies.iter().all(|copies| *copies >= 2), "{copies:?}");
    ledger.check(&stores).await;
    stores.kill(0);
    ledger.check(&stores).await;
}

#[tokio::test]
async fn a_farm_whose_disks_are_full_refuses_and_serves() {
    let Some((stores, disks)) = farm(96).await else { return };
    let ledger = Ledger::default();
    ledger.put_some(&stores, 0, 60, SIZES).await;
    ledger.settle(&stores).await;
    let mut dice = Dice::from_number(3);
    for full in [&[1, 2][..], &[0, 1, 2]] {
        fill(&stores, &disks, full);
        let mut refused = 0;
        for number in 0..60 {
            let machine = number % 3;
            let blob = Blob::within(&mut dice, 1000, 200 << 10);
            refused += usize::from(!is_taken(&ledger, &stores.client(machine), machine, blob).await);
        }
        println!("{refused} of 60 were refused with {} full disks", full.len());
        assert!(refused > 0, "they are full");
        ledger.check(&stores).await;
    }
    free(&stores, &disks);
    ledger.put_some(&stores, 1, 20, SIZES).await;
    ledger.settle(&stores).await;
    ledger.check(&stores).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_that_fill_up_under_load_lose_nothing() {
    let Some((stores, disks)) = farm(160).await else { return };
    let (ledger, dice) = (Arc::new(Ledger::default()), Dice::seeded("disks fill up", "FARMHAND_SEED"));
    let load = Load::start(&ledger, &stores, &dice, Pace { clients: 4, pause: 10, written: 60 });
    for full in [&[0][..], &[1, 2], &[0, 1, 2]] {
        sleep(Duration::from_millis(800)).await;
        fill(&stores, &disks, full);
        sleep(Duration::from_millis(1500)).await;
        free(&stores, &disks);
    }
    sleep(Duration::from_millis(500)).await;
    load.end().await;
    ledger.settle(&stores).await;
    ledger.check(&stores).await;
    println!("{:?}", ledger.counts());
}

#[tokio::test]
async fn what_is_leased_is_never_evicted_for_a_copy() {
    let budget = [PATIENT[0], PATIENT[1], "--disk-budget", "24MB"];
    let Some(stores) = Stores::new(3, 2, &budget).await else { return };
    let ledger = Ledger::default();
    let mut dice = Dice::from_number(4);
    let mut refused = 0;
    // More than there is room for.
    for number in 0..420 {
        let machine = number % 3;
        let blob = Blob::within(&mut dice, 100 << 10, 300 << 10);
        refused += usize::from(!is_taken(&ledger, &stores.client(machine), machine, blob).await);
    }
    println!("{refused} of 420 were refused");
    assert!(refused > 0, "there is no room for all");
    ledger.check(&stores).await;
}

#[tokio::test]
async fn copies_beyond_those_that_count_go_first() {
    let budget = [PATIENT[0], PATIENT[1], "--disk-budget", "26MB", "--lease", "0s"];
    let Some(stores) = Stores::new(3, 2, &budget).await else { return };
    let ledger = Ledger::default();
    // Two thirds of it belong on each machine, and there is no room for much more.
    let mut blobs = Vec::new();
    for part in 0..6 {
        blobs.extend(ledger.put_some(&stores, part % 3, 27, (100 << 10, 260 << 10)).await);
        ledger.settle(&stores).await;
    }
    let bytes: u64 = blobs.iter().map(Digest::size).sum();
    let before = stores.copies_of(&blobs);
    assert!(before.iter().all(|copies| *copies >= 2), "{before:?}");
    // Each machine reads everything, and would keep what it read.
    for _ in 0..2 {
        for machine in 0..3 {
            let client = stores.client(machine);
            for (blob, digest) in ledger.blobs() {
                assert!(client.read(&digest).await.unwrap() == blob.bytes(), "m{machine}");
            }
        }
    }
    let mut evicted = 0;
    for machine in 0..3 {
        evicted += stores.machines[machine].status().await.unwrap().storage.unwrap().evictions;
    }
    let copies = stores.copies_of(&blobs);
    println!("{evicted} copies of {bytes} bytes were evicted");
    assert!(copies.iter().all(|copies| *copies >= 2), "{copies:?}");
    ledger.check(&stores).await;
}
