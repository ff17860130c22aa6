//! What is written at one machine is on others soon, whatever becomes of the first.

use std::time::Duration;

use farmhand_proto::control::machine::State;
use farmhand_proto::reapi;
use prost::Message;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use crate::ledger::{Blob, Ledger};
use crate::stores::{GRACE, PATIENT, Stores};
use crate::support::{ActionBuilder, Client, Dice};

/// Small and large ones.
const SIZES: (u64, u64) = (1, 300 << 10);

#[tokio::test]
async fn the_ledger_notices_what_a_farm_without_copies_loses() {
    let Some(mut stores) = Stores::new(2, 1, &GRACE).await else { return };
    let ledger = Ledger::default();
    ledger.put_some(&stores, 0, 10, SIZES).await;
    let kept = ledger.put_some(&stores, 1, 10, (40 << 10, 300 << 10)).await;
    // Nobody reads them: who did would have a copy.
    stores.kill(0);
    ledger.check_at(&stores, 1).await;
    assert!(!ledger.violations().is_empty(), "it is gone, and nobody said so");
    ledger.lose_store(0);
    ledger.check(&stores).await;
    let (blob, digest) = ledger.blobs().into_iter().find(|(_, digest)| kept.contains(digest)).unwrap();
    assert!(stores.flip(1, &digest, &blob.bytes()));
    ledger.check_at(&stores, 1).await;
    assert_eq!(ledger.violations().len(), 1, "one blob is damaged");
}

#[tokio::test]
async fn what_is_written_at_one_machine_is_read_at_all() {
    let Some(mut stores) = Stores::new(3, 2, &PATIENT).await else { return };
    let ledger = Ledger::default();
    let blobs = ledger.put_some(&stores, 0, 60, SIZES).await;
    for output in &blobs[..5] {
        ledger.put_result(&stores, 0, *output).await;
    }
    ledger.check(&stores).await;
    ledger.settle(&stores).await;
    let copies = stores.copies_of(&blobs);
    assert!(copies.iter().all(|copies| *copies >= 2), "{copies:?}");
    stores.kill(0);
    ledger.check(&stores).await;
}

#[tokio::test]
async fn a_machine_of_its_own_has_nothing_to_do_until_there_is_another() {
    let Some(mut stores) = Stores::new(2, 2, &GRACE).await else { return };
    let ledger = Ledger::default();
    stores.kill(1);
    stores.machines[1].become_another();
    stores.settled().await;
    ledger.put_some(&stores, 0, 30, SIZES).await;
    ledger.settle(&stores).await;
    stores.restart(1).await;
    ledger.settle(&stores).await;
    stores.kill(0);
    ledger.check(&stores).await;
}

#[tokio::test]
async fn a_machine_that_is_back_is_compared_and_not_filled_again() {
    let Some(mut stores) = Stores::new(3, 2, &PATIENT).await else { return };
    let ledger = Ledger::default();
    ledger.put_some(&stores, 0, 30, (300 << 10, 700 << 10)).await;
    let bytes: u64 = ledger.blobs().iter().map(|(_, digest)| digest.size()).sum();
    ledger.settle(&stores).await;
    stores.kill(2);
    let while_away = ledger.put_some(&stores, 0, 10, (50_000, 100_000)).await;
    let before = stores.lan.received(2);
    stores.restart(2).await;
    ledger.settle(&stores).await;
    let got = stores.lan.received(2) - before;
    let new: u64 = while_away.iter().map(|digest| digest.size()).sum();
    println!("FIGURE back with {bytes} bytes in the farm and {new} new ones: {got} came over the wire");
    assert!(got < bytes / 4 + new, "{got} bytes for {new} new ones");
    let held = stores.copies_of(&while_away);
    assert!(held.iter().all(|copies| *copies >= 2), "{held:?}");
    stores.kill(0);
    ledger.check(&stores).await;
}

#[tokio::test]
async fn another_machine_at_the_same_address_is_another_machine() {
    let Some(mut stores) = Stores::new(3, 2, &GRACE).await else { return };
    let ledger = Ledger::default();
    let blobs = ledger.put_some(&stores, 1, 40, SIZES).await;
    ledger.settle(&stores).await;
    stores.kill(1);
    stores.machines[1].become_another();
    ledger.lose_store(1);
    stores.restart(1).await;
    ledger.check(&stores).await;
    ledger.settle(&stores).await;
    let copies = stores.copies_of(&blobs);
    assert!(copies.iter().all(|copies| *copies >= 2), "{copies:?}");
    stores.kill(0);
    ledger.check(&stores).await;
}

/// Waits until a machine says that nothing is lost if it leaves.
async fn until_safe_to_leave(stores: &Stores, machine: usize) {
    let since = Instant::now();
    loop {
        let said = stores.myself(machine).await;
        if said.safe_to_leave {
            assert_eq!((said.state(), said.owed_copies, said.sole_entries), (State::Draining, 0, 0));
            return;
        }
        assert!(since.elapsed() < Duration::from_secs(60), "{said:#?}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_machine_that_may_leave_takes_nothing_with_it() {
    let Some(mut stores) = Stores::new(3, 2, &PATIENT).await else { return };
    let ledger = Ledger::default();
    ledger.put_some(&stores, 0, 60, SIZES).await;
    let output = ledger.put_some(&stores, 1, 1, SIZES).await[0];
    ledger.put_result(&stores, 1, output).await;
    assert!(!stores.myself(0).await.safe_to_leave, "nobody told it to leave");
    stores.drain(0).await;
    // It still serves its own people meanwhile.
    ledger.put_some(&stores, 0, 5, SIZES).await;
    until_safe_to_leave(&stores, 0).await;
    stores.kill(0);
    ledger.check(&stores).await;
    let copies = stores.copies_of(&ledger.blobs().iter().map(|(_, digest)| *digest).collect::<Vec<_>>());
    assert!(copies.iter().all(|copies| *copies == 2), "{copies:?}");
}

#[tokio::test]
async fn a_laptop_keeps_no_copies_for_others_and_may_be_closed() {
    let laptop = |number: usize| {
        let keep = if number == 2 { "never" } else { "always" };
        PATIENT.iter().chain(&["--keep-copies", keep]).map(ToString::to_string).collect()
    };
    let Some(mut stores) = Stores::with(3, 2, laptop).await else { return };
    let ledger = Ledger::default();
    let of_others = ledger.put_some(&stores, 0, 30, SIZES).await;
    let own = ledger.put_some(&stores, 2, 30, SIZES).await;
    ledger.settle_with(&stores, 2).await;
    let held = stores.held(2, &of_others);
    assert!(!held.contains(&true), "the laptop got copies: {held:?}");
    for machine in 0..2 {
        assert!(!stores.held(machine, &own).contains(&false), "m{machine} has not got all of the laptop's");
    }
    assert!(!stores.myself(2).await.keeps_copies);
    stores.kill(2);
    ledger.check(&stores).await;
}

/// Uploads a directory with one file that is stored already.
async fn directory_of(client: &Client, name: &str, file: reapi::Digest) -> farmhand::digest::Digest {
    let file = reapi::FileNode { name: name.into(), digest: Some(file), ..Default::default() };
    let directory = reapi::Directory { files: vec![file], ..Default::default() };
    client.put(&directory.encode_to_vec()).await
}

#[tokio::test]
async fn what_a_machine_made_is_used_when_it_is_gone() {
    let pool = |number: usize| {
        let pool = ["home", "makers", "users"][number];
        PATIENT.iter().chain(&["--pools", pool]).map(ToString::to_string).collect()
    };
    let Some(mut stores) = Stores::with(3, 2, pool).await else { return };
    let salt = uuid::Uuid::new_v4().to_string();
    let make = ActionBuilder::sh("head -c 3000000 /dev/urandom > out; echo made")
        .outputs(&["out"])
        .salt(&salt)
        .property("Pool", "makers");
    let client = stores.client(0);
    let made = make.run(&client).await;
    let result = made.success().clone();
    assert_eq!(result.execution_metadata.as_ref().unwrap().worker, "m1");
    stores.settled().await;
    stores.kill(1);
    let input = directory_of(&client, "in", result.output_files[0].digest.clone().unwrap()).await;
    let using = ActionBuilder::sh("wc -c < in").input_root(input).salt(&salt).property("Pool", "users");
    let used = using.run(&client).await;
    assert_eq!(used.stdout(&client).await, "3000000\n");
    // Whoever asks next, and where the one who asked first is gone too.
    let (action, _) = make.blobs(&client);
    let found = stores.client(2).action_result(&action).await.expect("the result is there");
    assert_eq!(found.output_files, result.output_files);
    stores.restart(1).await;
    stores.settled().await;
    stores.kill(0);
    let (client, using) = (stores.client(2), using.blobs(&client).0);
    let found = client.action_result(&using).await.expect("the result is there");
    assert_eq!(found.output_files, used.success().output_files);
    assert_eq!(used.stdout(&client).await, "3000000\n");
}

#[tokio::test]
async fn copies_before_the_answer_outlive_who_gave_it() {
    let arguments = [PATIENT[0], PATIENT[1], "--copies-before-ack", "2"];
    let Some(mut stores) = Stores::new(3, 2, &arguments).await else { return };
    let (ledger, client) = (std::sync::Arc::new(Ledger::default()), stores.client(0));
    let writing = {
        let (ledger, client) = (std::sync::Arc::clone(&ledger), client.clone());
        tokio::spawn(async move {
            let mut dice = Dice::from_number(1);
            loop {
                ledger.put(&client, 0, Blob::within(&mut dice, 1, 100 << 10)).await;
            }
        })
    };
    while ledger.counts().written < 40 {
        assert!(!writing.is_finished());
        sleep(Duration::from_millis(5)).await;
    }
    stores.kill(0);
    let _ = writing.await;
    println!("{} blobs were acknowledged", ledger.counts().written);
    ledger.check(&stores).await;
    // Nobody is left to keep the second one.
    stores.kill(1);
    let client = stores.client(2);
    let alone = Blob::within(&mut Dice::from_number(2), 1000, 2000).bytes();
    let written = timeout(Duration::from_secs(60), client.write(&client.digest(&alone), &alone)).await;
    let refused = written.expect("an answer").expect_err("two copies cannot be had");
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
}
