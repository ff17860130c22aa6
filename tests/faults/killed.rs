//! SIGKILL at random moments under load: nothing that was acknowledged is missing or wrong.

use std::sync::Arc;

use super::support::book::Demand;
use super::support::load::Mix;
use super::support::{Book, Dice, Load, Setup, rounds};

/// Kills that one data directory goes through.
const LIVES: usize = 20;

/// Blobs read after each start.
const READS: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_node_has_all_it_acknowledged() {
    let mut dice = Dice::new("killed");
    let cycles = rounds(5, 100);
    for first in (0..cycles).step_by(LIVES) {
        live(&mut dice, first, LIVES.min(cycles - first)).await;
    }
}

/// Goes through `kills` kills on one directory.
async fn live(dice: &mut Dice, first: usize, kills: usize) {
    let setup = Setup::with_own_data("disk-budget = \"20GB\"\n");
    let book = Arc::new(Book::default());
    for cycle in first..=first + kills {
        let mut node = setup.start();
        let client = node.client().await;
        let is_last = cycle == first + kills;
        let seen = book.check(&client, Demand::All, if is_last { usize::MAX } else { READS }, dice).await;
        println!("killed: after {cycle} kills: {seen:?}");
        if is_last {
            assert!(node.stop().success());
            return;
        }
        let load = Load::start(node.address, &book, dice, Mix::default()).await;
        tokio::time::sleep(dice.between(50, 1500)).await;
        load.expect_end();
        node.kill();
        load.end().await;
    }
}

/// With a budget that is always too small and no lease, so that there is eviction and compaction in
/// every phase: what is served is right.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_while_it_evicts_serves_nothing_wrong() {
    let mut dice = Dice::new("killed while evicting");
    let setup = Setup::with_own_data("disk-budget = \"48MB\"\nlease = \"0s\"\n");
    let book = Arc::new(Book::default());
    let mix = Mix {
        may_lose: true,
        actions: false,
        tolerated: &[tonic::Code::ResourceExhausted, tonic::Code::FailedPrecondition],
    };
    for _ in 0..rounds(3, 30) {
        let mut node = setup.start();
        let seen = book.check(&node.client().await, Demand::Right, READS, &mut dice).await;
        println!("killed while evicting: {seen:?}");
        let load = Load::start(node.address, &book, &mut dice, mix).await;
        tokio::time::sleep(dice.between(500, 2500)).await;
        load.expect_end();
        node.kill();
        load.end().await;
    }
}
