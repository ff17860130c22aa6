//! Power cuts: the file system of the data directory stops without writing its journal, and the node
//! starts on what the disk has, on another boot of the machine.
//!
//! With `sync = "epoch"` the node itself says how old the oldest write is that a power cut would take
//! (`unsynced_seconds` of its status): nothing older may be missing. With `sync = "always"`, nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::support::book::Demand;
use super::support::load::Mix;
use super::support::{Book, Dice, Disk, Load, Node, Setup, rounds};

/// Makes the kernel's word for this boot what a file says, for the node alone.
const ON_ANOTHER_BOOT: &str = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";

/// Blobs read after each start.
const READS: usize = 500;

/// MiB of the disk.
const DISK: u64 = 6000;

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_cut_only_the_last_epochs_are_gone() {
    cut_power("epoch", rounds(4, 30)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_power_cut_all_is_there_that_always_acknowledged() {
    cut_power("always", rounds(3, 30)).await;
}

async fn cut_power(sync: &str, cycles: usize) {
    let scenario = format!("power cuts, sync = {sync}");
    let mut dice = Dice::new(&scenario);
    let Some(disk) = Disk::new(&scenario, DISK) else { return };
    let config = format!("disk-budget = \"5GB\"\nsandbox = \"off\"\nsync = \"{sync}\"\n");
    let setup = Setup::new(disk.path().join("data"), &config);
    let boot = setup.own().join("boot").to_str().unwrap().to_owned();
    let setup = setup.wrapper(&["unshare", "--mount", "sh", "-c", ON_ANOTHER_BOOT, &boot]);
    let book = Arc::new(Book::default());
    let mut demand = Demand::All;
    for cycle in 0..=cycles {
        std::fs::write(&boot, format!("boot-{cycle}\n")).unwrap();
        let mut node = setup.start();
        let reads = if cycle == cycles { usize::MAX } else { READS };
        let seen = book.check(&node.client().await, demand, reads, &mut dice).await;
        println!("{scenario}: after {cycle} cuts: {seen:?}");
        if cycle == cycles {
            assert!(node.stop().success());
            return;
        }
        let begin = Instant::now();
        let load =
            Load::start(node.address, &book, &mut dice, Mix { actions: false, ..Mix::default() }).await;
        let time = dice.between(300, 3000);
        let durable = tokio::task::block_in_place(|| watch(&node, begin, time));
        demand = if sync == "always" { Demand::All } else { Demand::Until(durable) };
        load.expect_end();
        disk.cut_power();
        node.kill();
        load.end().await;
        disk.remount();
    }
}

/// Asks the node for as long as `time`. Returns the latest moment up to which everything was on the
/// disk: `begin`, when the load had not begun, or what the node said later.
fn watch(node: &Node, begin: Instant, time: Duration) -> Instant {
    let mut durable = begin;
    while begin.elapsed() < time {
        durable = durable.max(node.durable_until().expect("the node answers"));
        std::thread::sleep(Duration::from_millis(50));
    }
    durable
}
