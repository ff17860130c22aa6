//! Too few file descriptors: calls fail clearly, nothing acknowledged is lost, and the node goes on by
//! itself once there are enough.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use tonic::Code;

use super::support::book::Demand;
use super::support::load::Mix;
use super::support::{Book, Dice, Load, Setup, rounds, until};

/// Connections opened for nothing: more than the node can have.
const CONNECTIONS: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_out_of_descriptors_recovers() {
    let mut dice = Dice::new("descriptors");
    let setup = Setup::with_own_data("disk-budget = \"2GB\"\n").wrapper(&["prlimit", "--nofile=112:112"]);
    let node = setup.start();
    let client = node.client().await;
    let book = Arc::new(Book::default());
    let tolerated = &[Code::ResourceExhausted, Code::Unavailable];
    for round in 0..rounds(2, 20) {
        let load = Load::start(node.address, &book, &mut dice, Mix { tolerated, ..Mix::default() }).await;
        tokio::time::sleep(dice.between(200, 600)).await;
        let idle: Vec<TcpStream> =
            (0..CONNECTIONS).filter_map(|_| TcpStream::connect(node.address).ok()).collect();
        tokio::time::sleep(dice.between(1500, 2500)).await;
        drop(idle);
        // A connection that waited in the queue meanwhile is served in the end.
        let again = async || tokio::time::timeout(Duration::from_secs(5), node.client()).await.is_ok();
        until("it takes connections again", again).await;
        let (before, tolerated) = (book.len(), load.tolerated());
        until("load goes on", async || book.len() > before + 20).await;
        load.end().await;
        let seen = book.check(&client, Demand::All, 200, &mut dice).await;
        println!("descriptors, round {round}: {tolerated} refused, {seen:?}");
    }
    let log = node.log();
    assert!(!log.contains("panicked") && !log.contains("no more writes"), "{log}");
}
