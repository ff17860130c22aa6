use farmhand_proto::reapi::ActionResult;
use tokio::time::sleep;

use self::farm::{Farm, GRACE, Node, machine, until};
use super::*;
use crate::action_cache::ActionKey;
use crate::cas::entry::Standing;
use crate::digest::{Digest, DigestFunction};
use crate::instance::InstanceName;
use crate::replication::census::keepers::{self, Keeper};

mod farm;

/// Writes so many blobs on a machine.
fn write(node: &Node, number: usize) -> Vec<EntryKey> {
    (0..number).map(|number| node.write(format!("blob {number} of {}", node.id))).collect()
}

#[tokio::test(start_paused = true)]
async fn what_is_written_gets_its_copies_and_whoever_has_one_knows() {
    let farm = Farm::linked(3, |_| ()).await;
    let mut keys = write(&farm.nodes[0], 50);
    let key = ActionKey {
        instance: InstanceName::default(),
        action: Digest::of(DigestFunction::Sha256, b"action"),
    };
    let result = farm.nodes[0].store.result(&key, &ActionResult::default());
    farm.nodes[0].replication.news().stored(result, 100);
    keys.push(result);
    let large = vec![7; 1 << 20];
    keys.push(farm.nodes[1].write(large));
    farm.settled().await;
    for key in &keys {
        let holders = farm.holders(0, key);
        for number in farm.having(key) {
            let is_holder = holders.contains(&number);
            let standing = if is_holder { Standing::Counted } else { Standing::Spare };
            assert_eq!(farm.nodes[number].store.standing(key), Some(standing), "{key:?} on {number}");
        }
        assert!(holders.iter().all(|holder| farm.having(key).contains(holder)));
    }
    let status = farm.nodes[0].replication.status();
    assert_eq!((status.copies, status.keepers, status.lag, status.owed_bytes), (2, 3, None, 0));
    assert!(status.sent_copies >= 50 && status.sent_bytes > 0 && status.bytes_per_second > 0);
    assert!(farm.nodes[1].replication.status().sent_bytes >= 1 << 20);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_before_there_was_anybody_gets_its_copies_too() {
    let farm = Farm::apart(2, |_| ());
    let early = write(&farm.nodes[0], 20);
    sleep(Duration::from_secs(60)).await;
    let later = farm.nodes[0].write("later");
    sleep(Duration::from_secs(60)).await;
    let status = farm.nodes[0].replication.status();
    assert_eq!((status.copies, status.owed_copies, status.compared), (1, 0, 1.0));
    assert_eq!(farm.nodes[0].store.standing(&later), Some(Standing::Sole));
    farm.link(0, 1);
    farm.settled().await;
    for key in early.iter().chain([&later]) {
        assert_eq!(farm.having(key), [0, 1]);
        assert_eq!(farm.nodes[0].store.standing(key), Some(Standing::Counted));
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_away_gets_what_it_missed_and_nobody_gets_it_instead() {
    let farm = Farm::linked(3, |_| ()).await;
    farm.unlink(2);
    sleep(Duration::from_secs(5)).await;
    let keys = write(&farm.nodes[0], 50);
    let missed: Vec<_> = keys.iter().filter(|key| farm.holders(0, key).contains(&2)).collect();
    assert!(!missed.is_empty());
    sleep(GRACE / 2).await;
    assert!(missed.iter().all(|key| farm.having(key).len() < 3 && !farm.having(key).contains(&2)));
    assert!(farm.nodes[0].replication.others().other(machine(2)).is_none());
    let status = farm.nodes[0].replication.status();
    assert!(status.owed_copies > 0 && status.keepers == 3, "{status:?}");
    farm.link(2, 0);
    farm.link(2, 1);
    farm.settled().await;
    for key in &keys {
        let mut having = farm.holders(0, key);
        having.push(0);
        having.sort_unstable();
        having.dedup();
        assert_eq!(farm.having(key), having);
    }
}

#[tokio::test(start_paused = true)]
async fn when_the_grace_period_is_over_those_who_are_left_make_up_for_it() {
    let farm = Farm::linked(3, |_| ()).await;
    let keys: Vec<_> = farm.nodes.iter().flat_map(|node| write(node, 30)).collect();
    farm.settled().await;
    farm.unlink(2);
    sleep(GRACE - Duration::from_secs(5)).await;
    let on_two = |key: &&EntryKey| farm.having(key) == [0, 2] || farm.having(key) == [1, 2];
    assert!(keys.iter().filter(on_two).count() > 0, "nothing is repaired early");
    sleep(Duration::from_secs(60)).await;
    for node in &farm.nodes[..2] {
        assert_eq!((node.replication.status().keepers, node.replication.status().owed_copies), (2, 0));
    }
    assert!(
        keys.iter().filter(|key| farm.having(key) != [2]).all(|key| farm.having(key).starts_with(&[0, 1]))
    );
    let alone = farm.nodes[2].replication.status();
    assert_eq!((alone.keepers, alone.copies, alone.owed_copies), (1, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn who_is_about_to_leave_brings_elsewhere_what_it_has() {
    let farm = Farm::linked(3, |_| ()).await;
    let keys: Vec<_> = farm.nodes.iter().flat_map(|node| write(node, 30)).collect();
    farm.settled().await;
    farm.nodes[0].replication.set_role(Role::Leaving);
    let mut told = farm.nodes[0].replication.watch();
    told.wait_for(|told| told.role == Role::Leaving).await.unwrap();
    farm.settled().await;
    for key in &keys {
        assert!(farm.having(key).ends_with(&[1, 2]), "{key:?} on {:?}", farm.having(key));
        let standing = farm.nodes[0].store.standing(key);
        assert!(standing.is_none_or(|standing| standing == Standing::Spare), "{standing:?}");
    }
    assert_eq!(farm.nodes[1].replication.status().keepers, 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_damaged_is_replaced_by_what_others_have() {
    let farm = Farm::linked(3, |_| ()).await;
    let blob = farm.nodes[0].write("blob");
    let key = ActionKey {
        instance: InstanceName::default(),
        action: Digest::of(DigestFunction::Sha256, b"action"),
    };
    let result = farm.nodes[0].store.result(&key, &ActionResult::default());
    farm.nodes[0].replication.news().stored(result, 100);
    farm.settled().await;
    let damaged = [blob, result].map(|key| {
        farm.nodes[0].store.lose(&key);
        farm.nodes[0].replication.news().damaged(key);
        key
    });
    until("both are back", || damaged.iter().all(|key| farm.having(key).contains(&0))).await;
    farm.settled().await;
    assert_eq!(farm.nodes[0].replication.status().healed, 2);
    let is_sole = |key| farm.nodes[0].store.standing(key) == Some(Standing::Sole);
    assert!(!damaged.iter().any(is_sole));
}

#[tokio::test(start_paused = true)]
async fn who_wants_copies_first_waits_for_them() {
    let farm = Farm::linked(3, |_| ()).await;
    let replication = &farm.nodes[0].replication;
    let key = farm.nodes[0].write("blob");
    replication.copied(&key, 2).await.unwrap();
    assert!(farm.having(&key).len() >= 2);
    // It was written before: nothing is told of it.
    replication.copied(&key, 2).await.unwrap();
    let again = farm.nodes[0].store.blob("nobody was told");
    replication.copied(&again, 2).await.unwrap();

    let before = Instant::now();
    let error = replication.copied(&key, 3).await.unwrap_err();
    assert_eq!((error.possible, before.elapsed().as_secs()), (2, 0));
    assert!(error.to_string().contains("lower copies-before-ack"), "{error}");
    farm.nodes[0].store.lose(&key);
    assert_eq!(replication.copied(&key, 2).await.unwrap_err().have, 0);

    farm.nodes[1].silence(true);
    farm.nodes[2].silence(true);
    let key = farm.nodes[0].write("another");
    let error = replication.copied(&key, 2).await.unwrap_err();
    assert_eq!((error.wanted, error.possible, before.elapsed()), (2, 2, COPIED));
    replication.copied(&key, 1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_was_written_faster_than_it_could_be_told_is_found() {
    let mut farm = Farm::apart(0, |_| ());
    farm.add_with_inbox(4);
    farm.add_with_inbox(4);
    farm.link(0, 1);
    farm.settled().await;
    let keys = write(&farm.nodes[0], 200);
    farm.settled().await;
    assert!(keys.iter().all(|key| farm.having(key) == [0, 1]));
}

#[tokio::test(start_paused = true)]
async fn who_writes_too_fast_is_held_up_and_by_nobody_who_does_nothing() {
    let farm = Farm::linked(2, |config| config.lag_limit_bytes = 100_000).await;
    let replication = &farm.nodes[0].replication;
    let took = async || {
        let before = Instant::now();
        replication.room().await;
        before.elapsed()
    };
    farm.nodes[0].write("moves");
    farm.settled().await;
    write(&farm.nodes[0], 10);
    assert_eq!(took().await, Duration::ZERO);

    // Nothing moves: nobody waits.
    farm.nodes[1].silence(true);
    let slow = farm.nodes[0].write(vec![1; 200_000]);
    sleep(STANDSTILL).await;
    assert!(*farm.nodes[0].replication.0.is_crowded.borrow());
    assert_eq!(took().await, Duration::ZERO);
    farm.nodes[1].silence(false);
    farm.settled().await;
    assert!(farm.having(&slow) == [0, 1]);

    // It does, but not fast enough.
    farm.nodes[0].write("moves too");
    sleep(Duration::from_secs(1)).await;
    farm.nodes[1].silence(true);
    farm.nodes[0].write(vec![2; 200_000]);
    sleep(Duration::from_millis(10)).await;
    let waited = took().await;
    assert!(waited > Duration::ZERO && waited <= CROWDED, "{waited:?}");

    // A machine that is away holds up nobody.
    farm.unlink(1);
    sleep(Duration::from_secs(5)).await;
    replication.0.count_sent(Instant::now(), 1, 1);
    assert_eq!(took().await, Duration::ZERO);
    assert!(replication.status().owed_bytes >= 200_000);
}

#[tokio::test(start_paused = true)]
async fn what_was_given_is_asked_for_if_nobody_says_that_there_is_enough() {
    let farm = Farm::linked(2, |_| ()).await;
    let keys = write(&farm.nodes[0], 20);
    until("all is copied", || keys.iter().all(|key| farm.having(key) == [0, 1])).await;
    sleep(Duration::from_secs(1)).await;
    let kept = &farm.nodes[1];
    kept.store.mark(&keys, Standing::Sole);
    keys.iter().for_each(|key| kept.replication.news().given(*key));
    sleep(Duration::from_secs(14)).await;
    assert!(keys.iter().all(|key| kept.store.standing(key) == Some(Standing::Sole)), "it may still be said");
    sleep(Duration::from_secs(2)).await;
    assert!(keys.iter().all(|key| kept.store.standing(key) == Some(Standing::Counted)));
}

#[tokio::test(start_paused = true)]
async fn who_counts_is_remembered_and_waited_for() {
    let farm = Farm::linked(2, |_| ()).await;
    let path = farm.nodes[0].keepers_file.clone();
    until("it is written down", || keepers::read(&path).unwrap().len() == 1).await;
    farm.unlink(1);
    sleep(2 * GRACE).await;
    assert_eq!(keepers::read(&path).unwrap(), []);

    let keeper = Keeper { id: machine(9), name: "nine".into(), boot_epoch: 1, weight: 4 };
    let farm =
        Farm::apart(2, |config| keepers::write(&config.keepers_file, std::slice::from_ref(&keeper)).unwrap());
    let keys = write(&farm.nodes[0], 50);
    farm.link(0, 1);
    sleep(GRACE / 2).await;
    assert_eq!(farm.nodes[0].replication.status().keepers, 3);
    assert!(keys.iter().any(|key| farm.having(key) == [0]), "what nine has is not made again");
    sleep(GRACE).await;
    assert!(keys.iter().all(|key| farm.having(key) == [0, 1]));
}

#[tokio::test(start_paused = true)]
async fn others_are_known_at_once_and_a_farm_at_rest_is_silent() {
    let farm = Farm::apart(2, |_| ());
    farm.link(0, 1);
    let others = farm.nodes[0].replication.others();
    until("there is a link", || others.other(machine(1)).is_some()).await;
    assert!(others.may_have_more(machine(1)) && others.roster().is_linked(machine(1)));
    assert!(others.other(machine(0)).is_none() && !others.may_have_more(machine(0)));
    write(&farm.nodes[0], 20);
    farm.settled().await;
    assert!(!others.may_have_more(machine(1)));
    let given = lock(&farm.nodes[1].calls).given.len();
    sleep(Duration::from_secs(3600)).await;
    assert_eq!(lock(&farm.nodes[1].calls).given.len(), given);
}
