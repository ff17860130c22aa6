//! What the lender answers, and what owners hear of it.

use std::sync::Mutex;

use super::*;
use crate::execution::grants::{Demand, Slots, Want};
use crate::execution::queue::Duty;

#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<(Owner, Grant)>>>);

impl Outlet for Heard {
    fn grant(&self, to: Owner, grant: Grant) {
        self.0.lock().unwrap().push((to, grant));
    }
}

impl Heard {
    /// What `owner` may run, as it was told last.
    fn slots(&self, owner: Owner) -> Option<Slots> {
        let told = self.0.lock().unwrap();
        told.iter().rev().find(|(to, _)| *to == owner).map(|(_, grant)| grant.slots.clone())
    }
}

const ATTIC: Owner = Owner::Peer(MachineId::new([1; 32]));

fn limits(slots: usize) -> Limits {
    Limits { slots, guests: slots, reserve: 0, person: "ada".into(), duty: Duty::Active, ahead: true }
}

fn lender(slots: usize) -> (Lender, Heard) {
    let heard = Heard::default();
    (Lender::new(limits(slots), heard.clone()), heard)
}

fn wants(person: &str, waiting: usize) -> Demand {
    let (person, build) = (person.into(), "b".into());
    Demand { wants: vec![Want { person, build, waiting, given: 0, spare: 0, priority: 0 }] }
}

fn arrive(lender: &Lender, owner: Owner) -> Option<Place> {
    let person = if owner == Owner::Own { "ada" } else { "ben" };
    lender.arrive(owner, person.into(), "b".into())
}

#[tokio::test]
async fn alone_a_machine_runs_as_much_as_it_has_slots() {
    let (lender, heard) = lender(2);
    assert_eq!(heard.slots(Owner::Own), Some(Slots::Open(2)));
    let first = arrive(&lender, Owner::Own).unwrap();
    let second = arrive(&lender, Owner::Own).unwrap();
    assert!(arrive(&lender, Owner::Own).is_none());
    assert_eq!(lender.lent(), Lent { slots: 2, guests: 2, busy: 2 });
    assert!(first.slot.await.is_ok());
    drop(first.over);
    let third = arrive(&lender, Owner::Own).unwrap();
    assert!(third.slot.await.is_ok());
    drop((second, third.over));
    assert_eq!(lender.lent().busy, 0);
    assert!(lender.ledger().waiting.is_empty());
}

#[tokio::test]
async fn a_guest_without_a_grant_has_no_place_and_one_ahead_waits_for_its_slot() {
    let (lender, heard) = lender(1);
    assert!(arrive(&lender, ATTIC).is_none());
    lender.apply(Event::Demand(ATTIC, wants("ben", 3)));
    assert_eq!(heard.slots(ATTIC).unwrap().count(), 1);
    let first = arrive(&lender, ATTIC).unwrap();
    assert!(first.slot.await.is_ok());
    let mut ahead = arrive(&lender, ATTIC).unwrap();
    assert!(ahead.slot.try_recv().is_err());
    drop(first.over);
    assert!(ahead.slot.await.is_ok());
    assert_eq!(lender.tenancies().iter().map(|tenancy| tenancy.running).sum::<usize>(), 1);
}

#[tokio::test]
async fn who_was_sent_ahead_is_handed_back_when_the_machine_rests() {
    let (lender, heard) = lender(1);
    lender.apply(Event::Demand(ATTIC, wants("ben", 3)));
    let first = arrive(&lender, ATTIC).unwrap();
    let ahead = arrive(&lender, ATTIC).unwrap();
    lender.change_limits(|limits| limits.duty = Duty::Draining);
    assert!(ahead.slot.await.is_err(), "there will be no slot");
    assert_eq!(heard.slots(ATTIC).unwrap().count(), 0);
    assert_eq!(lender.lent().busy, 1, "what runs goes on");
    drop((first, ahead.over));
    assert_eq!(lender.lent().busy, 0);
}

#[tokio::test]
async fn a_change_of_slots_reaches_every_owner() {
    let (lender, heard) = lender(4);
    lender.apply(Event::Demand(ATTIC, wants("ben", 9)));
    assert_eq!(heard.slots(ATTIC).unwrap().count(), 4);
    lender.change_limits(|limits| limits.guests = 1);
    assert_eq!(heard.slots(ATTIC).unwrap().count(), 1);
    lender.apply(Event::Gone(MachineId::new([1; 32])));
    assert_eq!(heard.slots(Owner::Own), Some(Slots::Open(4)));
    assert!(lender.tenancies().is_empty());
}

#[tokio::test]
async fn whoever_goes_away_while_it_waits_leaves_nothing() {
    let (lender, _) = lender(1);
    lender.apply(Event::Demand(ATTIC, wants("ben", 3)));
    let first = arrive(&lender, ATTIC).unwrap();
    drop(arrive(&lender, ATTIC).unwrap());
    assert!(lender.ledger().waiting.is_empty());
    drop(first);
    lender.apply(Event::Demand(ATTIC, Demand::default()));
    assert!(lender.tenancies().is_empty());
}
