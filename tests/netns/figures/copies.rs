//! What copies cost: beside what the link carries, and what the machine itself needs for the same.

use std::time::Duration;

use farmhand::digest::Digest;
use farmhand_proto::bytestream::ReadRequest;
use tokio::time::{Instant, sleep};

use super::{is_full, median, tls};
use crate::ledger::{Blob, Ledger};
use crate::stores::{GRACE, PATIENT, Stores};
use crate::support::{Client, Dice};

const MIB: f64 = (1 << 20) as f64;

/// Megabits a second of a link that is slower than any machine.
const SLOW: u32 = 200;

/// Megabits a second of a usual one.
const USUAL: u32 = 1000;

/// Ticks of the processor clock in a second, as the kernel tells them.
const TICKS: f64 = 100.0;

/// Two machines of which only the first keeps what it has.
async fn keeper_and_reader() -> Option<Stores> {
    let keep = |number: usize| {
        let keep = ["always", "never"][number];
        PATIENT.iter().chain(&["--keep-copies", keep]).map(ToString::to_string).collect()
    };
    Stores::with(2, 1, keep).await
}

/// Blobs of that size which do not compress; their digests.
async fn upload(client: &Client, count: usize, size: usize) -> Vec<Digest> {
    let mut dice = Dice::from_number(size as u64);
    let mut digests = Vec::new();
    if size > 2 << 20 {
        for _ in 0..count {
            digests.push(client.put(&Blob { number: dice.roll() | 1, size }.bytes()).await);
        }
        return digests;
    }
    let at_once = ((2 << 20) / size.max(1)).clamp(1, 1000);
    while digests.len() < count {
        let blobs: Vec<(Digest, Vec<u8>)> = (0..at_once.min(count - digests.len()))
            .map(|_| {
                let bytes = Blob { number: dice.roll() | 1, size }.bytes();
                (client.digest(&bytes), bytes)
            })
            .collect();
        let pairs: Vec<(Digest, &[u8])> = blobs.iter().map(|(digest, bytes)| (*digest, &bytes[..])).collect();
        let response = client.batch_update(&pairs).await.unwrap();
        assert!(response.responses.iter().all(|answer| answer.status.clone().unwrap_or_default().code == 0));
        digests.extend(blobs.iter().map(|(digest, _)| *digest));
    }
    digests
}

/// Waits until a machine owes nothing any more.
async fn until_nothing_is_owed(stores: &Stores, machine: usize) {
    let since = Instant::now();
    while stores.replication(machine).await.owed_copies > 0 {
        assert!(since.elapsed() < Duration::from_secs(240));
        sleep(Duration::from_millis(10)).await;
    }
}

/// Megabits a second of the links that are measured: a slow one, a usual one, and as fast as these machines are.
fn rates() -> Vec<Option<u32>> {
    if is_full() { vec![Some(SLOW), Some(USUAL), None] } else { vec![Some(SLOW), None] }
}

/// Limits what a machine gets, if that is asked for; the link in words. `None`: that cannot be done here.
fn limited(stores: &Stores, machine: usize, rate: Option<u32>) -> Option<String> {
    let Some(rate) = rate else { return Some("an unlimited link".to_owned()) };
    match stores.lan.limit(machine, rate) {
        Ok(()) => Some(format!("a link of {rate} Mbit/s")),
        Err(words) => {
            println!("SKIPPED: no slow links here: {words}");
            None
        }
    }
}

/// Blobs of which copies are made, how large each is, and megabits a second of the link, if those are few.
fn loads() -> Vec<(usize, usize, Option<u32>)> {
    let count = if is_full() { 4096 } else { 256 };
    let of_one_size = rates().into_iter().map(|rate| (count, 64 << 10, rate));
    let others = if is_full() { vec![(10_000, 20 << 10, None), (4, 256 << 20, None)] } else { Vec::new() };
    of_one_size.chain(others).collect()
}

/// Waits until copies begin to go: after a start nothing is copied until it is clear who is there.
async fn until_copies_go(stores: &Stores, machine: usize) {
    let before = stores.lan.sent(machine);
    while stores.lan.sent(machine) < before + (256 << 10) {
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn copies_are_made_as_fast_as_the_link_carries_them() {
    for (count, size, rate) in loads() {
        let Some(mut stores) = Stores::new(2, 2, &PATIENT).await else { return };
        let Some(link) = limited(&stores, 1, rate) else { continue };
        // So that all of it is owed when there is somebody to have it.
        stores.kill(1);
        let (bytes, since) = (count * size, Instant::now());
        upload(&stores.client(0), count, size).await;
        let upload = since.elapsed().as_secs_f64();
        stores.restart(1).await;
        until_copies_go(&stores, 0).await;
        let since = Instant::now();
        until_nothing_is_owed(&stores, 0).await;
        let took = since.elapsed().as_secs_f64();
        let raw = tls::time(&stores.lan, 0, 1, bytes as u64).as_secs_f64();
        println!(
            "FIGURE {count} copies of {} KiB over {link}: {:.1} MiB/s, {:.1} % of raw TLS ({:.1} MiB/s), {:.2} \
             times as fast as a client brings them",
            size >> 10,
            bytes as f64 / MIB / took,
            raw / took * 100.0,
            bytes as f64 / MIB / raw,
            upload / took
        );
    }
}

#[tokio::test]
async fn what_was_lost_is_repaired() {
    let (count, size) = if is_full() { (10_000, 107_374) } else { (400, 50_000) };
    let Some(mut stores) = Stores::new(4, 2, &GRACE).await else { return };
    let digests = upload(&stores.client(0), count, size).await;
    stores.settled().await;
    let lost = stores.held(3, &digests).iter().filter(|held| **held).count();
    stores.kill(3);
    // Until it is given up; what is to be done is known from then on.
    while stores.replication(0).await.keepers == 4 {
        sleep(Duration::from_millis(5)).await;
    }
    let since = Instant::now();
    let sent = |stores: &Stores| (0..3).map(|machine| stores.lan.sent(machine)).sum::<u64>();
    let before = sent(&stores);
    stores.settled().await;
    let took = since.elapsed().as_secs_f64();
    let raw = tls::time(&stores.lan, 0, 1, (lost * size) as u64).as_secs_f64();
    println!(
        "FIGURE {lost} of {count} blobs of {size} bytes were on a lost machine: copied again within {took:.2} s, \
         {:.1} MiB/s, {:.1} % of raw TLS over one link, {:.2} bytes sent a byte lost",
        (lost * size) as f64 / MIB / took,
        raw / took * 100.0,
        (sent(&stores) - before) as f64 / (lost * size) as f64
    );
    assert!(stores.copies_of(&digests).iter().all(|copies| *copies >= 2));
}

/// The time to the first byte of each of these blobs, in the order of their length.
async fn first_bytes(client: &Client, digests: &[Digest]) -> Vec<Duration> {
    let mut times = Vec::new();
    for digest in digests {
        let request = ReadRequest { resource_name: client.read_name(digest), ..Default::default() };
        let since = Instant::now();
        let mut stream = client.byte_stream().read(request).await.unwrap().into_inner();
        stream.message().await.unwrap().expect("some bytes");
        times.push(since.elapsed());
        while stream.message().await.unwrap().is_some() {}
    }
    times.sort();
    times
}

#[tokio::test]
async fn the_first_byte_from_another_machine_takes_a_round_trip() {
    let count = if is_full() { 200 } else { 30 };
    let Some(stores) = keeper_and_reader().await else { return };
    let digests = upload(&stores.client(0), count, 100_000).await;
    let local = median(&first_bytes(&stores.client(0), &digests).await);
    let far = median(&first_bytes(&stores.client(1), &digests).await);
    let machines = stores.machines[1].machines().await;
    let round_trip = machines.iter().find_map(|machine| machine.round_trip).unwrap();
    let round_trip = f64::from(round_trip.nanos) / 1e6;
    println!(
        "FIGURE first byte of 100 KB: {local:.2} ms here, {far:.2} ms from another machine, {:.1} of its round \
         trips ({round_trip:.2} ms) more",
        (far - local) / round_trip
    );
}

#[tokio::test]
async fn a_large_blob_comes_as_fast_as_the_link_carries_it() {
    let size: usize = if is_full() { 1 << 30 } else { 64 << 20 };
    for rate in rates() {
        let Some(stores) = keeper_and_reader().await else { return };
        let Some(link) = limited(&stores, 0, rate) else { continue };
        let bytes = Blob { number: 1, size }.bytes();
        let digest = stores.client(0).put(&bytes).await;
        let raw = tls::time(&stores.lan, 0, 1, size as u64).as_secs_f64();
        let client = stores.client(1);
        let mut times = Vec::new();
        // From the other machine, then from its own disk.
        for _ in 0..2 {
            let since = Instant::now();
            assert!(client.read(&digest).await.unwrap() == bytes);
            times.push(since.elapsed().as_secs_f64());
        }
        println!(
            "FIGURE a blob of {} MiB from another machine over {link}: {:.1} MiB/s, {:.1} % of raw TLS \
             ({:.1} MiB/s); read again here {:.1} MiB/s",
            size >> 20,
            size as f64 / MIB / times[0],
            raw / times[0] * 100.0,
            size as f64 / MIB / raw,
            size as f64 / MIB / times[1]
        );
    }
}

#[tokio::test]
async fn what_is_missing_is_known_soon() {
    let (count, rounds) = if is_full() { (10_000, 20) } else { (2_000, 5) };
    let Some(stores) = keeper_and_reader().await else { return };
    let digests = upload(&stores.client(0), count, 100).await;
    let mut medians = Vec::new();
    for machine in 0..2 {
        let client = stores.client(machine);
        let mut times = Vec::new();
        for _ in 0..rounds {
            let since = Instant::now();
            let missing = client.find_missing(&digests).await.unwrap();
            times.push(since.elapsed());
            if !missing.is_empty() {
                println!("{} of {count} were said to be missing at m{machine}", missing.len());
            }
        }
        times.sort();
        medians.push(median(&times));
    }
    println!(
        "FIGURE FindMissing of {count}: {:.1} ms all here, {:.1} ms all on another machine, {:.1} times as long",
        medians[0],
        medians[1],
        medians[1] / medians[0]
    );
}

/// Seconds of processor time that a process has used.
fn processor(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    ticks as f64 / TICKS
}

#[tokio::test]
async fn a_farm_at_rest_does_next_to_nothing() {
    let (machines, seconds, entries) = if is_full() { (8, 60, 20_000) } else { (3, 5, 500) };
    let Some(stores) = Stores::new(machines, 2, &PATIENT).await else { return };
    let ledger = Ledger::default();
    upload(&stores.client(0), entries, 1000).await;
    ledger.settle(&stores).await;
    let used = || -> Vec<(f64, u64)> {
        let each = (0..machines)
            .map(|machine| (processor(stores.machines[machine].pid()), stores.lan.sent(machine)));
        each.collect()
    };
    let before = used();
    let since = Instant::now();
    sleep(Duration::from_secs(seconds)).await;
    let (after, seconds) = (used(), since.elapsed().as_secs_f64());
    let spent = before.iter().zip(&after);
    let [shares, sent] = [
        spent.clone().map(|(before, after)| (after.0 - before.0) / seconds * 100.0).collect::<Vec<_>>(),
        spent.map(|(before, after)| (after.1 - before.1) as f64 / seconds).collect(),
    ];
    let most = |of: &[f64]| of.iter().copied().fold(0.0, f64::max);
    println!(
        "FIGURE a farm of {machines} at rest with {entries} blobs: {:.2} % of a processor and {:.0} bytes/s sent, \
         each, at most",
        most(&shares),
        most(&sent)
    );
}
