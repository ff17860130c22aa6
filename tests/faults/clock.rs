//! Clocks that jump by a year, forth and back, under load and across restarts: no lease ends early,
//! none lasts for ever, timeouts of actions are what they were, nothing panics.

use std::path::Path;
use std::sync::Arc;

use tonic::Code;

use super::support::book::Demand;
use super::support::load::Mix;
use super::support::{ActionBuilder, Book, Dice, Load, Setup, rounds};

/// Debian's libfaketime: the clock of a process by a file.
const LIBRARY: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_expires_nothing() {
    let mut dice = Dice::new("clock");
    if !Path::new(LIBRARY).exists() {
        println!("SKIPPED clock: libfaketime is not installed ({LIBRARY})");
        return;
    }
    let setup = Setup::with_own_data("disk-budget = \"150MB\"\n");
    let file = setup.own().join("clock");
    let jump = |offset: &str| std::fs::write(&file, offset).unwrap();
    jump("+0");
    let setup = setup
        .environment("LD_PRELOAD", LIBRARY)
        .environment("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap())
        .environment("FAKETIME_NO_CACHE", "1")
        .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let book = Arc::new(Book::default());
    // More than the budget comes in, so that whatever is not leased would have to go.
    let mix = Mix { tolerated: &[Code::ResourceExhausted], ..Mix::default() };
    let mut node = setup.start();
    for round in 0..rounds(1, 10) {
        for offset in ["+365d", "-365d", "+0"] {
            let load = Load::start(node.address, &book, &mut dice, mix).await;
            tokio::time::sleep(dice.between(200, 800)).await;
            jump(offset);
            let client = node.client().await;
            tokio::join!(in_time(&client, offset), too_late(&client, offset));
            load.end().await;
            let seen = book.check(&client, Demand::All, 100, &mut dice).await;
            println!("clock, round {round}, at {offset}: {seen:?}");
            if dice.below(2) == 0 {
                node.kill()
            } else {
                assert!(node.stop().success())
            }
            let log = node.log();
            assert!(!log.contains("panicked"), "{log}");
            node = setup.start();
            book.check(&node.client().await, Demand::All, 100, &mut dice).await;
        }
    }
}

/// An action that keeps within its time.
async fn in_time(client: &super::support::Client, salt: &str) {
    let action = ActionBuilder::sh("sleep 1").timeout_ms(60_000).salt(salt).do_not_cache();
    if let Ok(outcome) = run(&action, client).await {
        assert_eq!(outcome.code(), 0, "{:?}", outcome.response);
    }
}

/// An action that does not.
async fn too_late(client: &super::support::Client, salt: &str) {
    let action = ActionBuilder::sh("sleep 100").timeout_ms(700).salt(salt).do_not_cache();
    if let Ok(outcome) = run(&action, client).await {
        assert_eq!(Code::from(outcome.code()), Code::DeadlineExceeded, "{:?}", outcome.response);
    }
}

/// Runs an action; an error where the budget has no room for its blobs.
async fn run(
    action: &ActionBuilder,
    client: &super::support::Client,
) -> Result<super::support::action::Outcome, tonic::Status> {
    let (digest, blobs) = action.blobs(client);
    for data in &blobs {
        client.write(&client.digest(data), data).await?;
    }
    let stream = action.start(client, &digest).await?;
    super::support::action::finish(stream, digest).await
}
