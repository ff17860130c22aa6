//! What a member of the farm says of actions: leases, demands, grants. It may be broken, or lie.

use std::time::SystemTime;

use farmhand_proto::peer;
use prost::Message;

use super::input::Input;
use crate::execution::grants::{Demand, Grant, MOST_TOLD, MOST_WANTS};
use crate::request_metadata::MAX_FIELD;
use crate::worker::lease::GuestLease;

/// What is taken in is bounded, fit to be shown, and says the same when it is said again.
///
/// # Panics
/// When that does not hold.
pub fn lease(data: &[u8]) {
    let mut input = Input(data);
    if input.flag() {
        return shares(input.0);
    }
    let Ok(wire) = peer::Lease::decode(input.0) else { return };
    let Ok(guest) = GuestLease::parse(wire, SystemTime::UNIX_EPOCH) else { return };
    assert!(!guest.lease.operation.contains(char::is_control));
    assert!(!guest.lease.person.contains(char::is_control));
    let again = GuestLease::parse(guest.to_wire(), SystemTime::UNIX_EPOCH);
    let again = again.expect("what was taken in is well-formed");
    assert_eq!(again.to_wire(), guest.to_wire());
}

fn shares(data: &[u8]) {
    if let Ok(wire) = peer::Demand::decode(data) {
        let demand = Demand::from_wire(wire);
        assert!(demand.wants.len() <= MOST_WANTS);
        let is_bounded = |text: &str| text.len() <= MAX_FIELD;
        assert!(demand.wants.iter().all(|want| is_bounded(&want.person) && is_bounded(&want.build)));
        assert!(demand.wants.iter().all(|want| want.waiting.max(want.given).max(want.spare) <= MOST_TOLD));
        assert_eq!(Demand::from_wire(demand.to_wire()), demand);
    }
    if let Ok(wire) = peer::Grant::decode(data) {
        let grant = Grant::from_wire(wire);
        assert!(grant.slots.count() <= MOST_WANTS * MOST_TOLD);
        assert_eq!(Grant::from_wire(grant.to_wire()), grant);
    }
}
