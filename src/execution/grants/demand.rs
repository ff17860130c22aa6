//! What owners say, and what they are told: here, and on the wire.
//!
//! Whatever comes from another machine is cut to size: texts to [`MAX_FIELD`] bytes, lists to
//! [`MOST_WANTS`] entries.
//!
//! [`MAX_FIELD`]: crate::request_metadata::MAX_FIELD

use std::sync::Arc;

use farmhand_proto::peer as wire;

use crate::request_metadata::shortened;

/// Builds in one demand, and people in one grant.
pub const MOST_WANTS: usize = 64;

/// The largest number of waiting actions that is told: more make no difference to any machine.
pub const MOST_TOLD: usize = 1024;

/// Actions that wait at an owner and that a certain machine could run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Build by build.
    pub wants: Vec<Want>,
}

/// What one build wants of that machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Whose build it is.
    pub person: Arc<str>,
    /// The build.
    pub build: Arc<str>,
    /// Actions that wait.
    pub waiting: usize,
    /// Actions that the owner has given to the machine and of whose end it has not heard. Those that are
    /// on the way are among them: their slots must not go to others meanwhile.
    pub given: usize,
    /// Further ones that would go there if nobody else wants the slots: second attempts, and runs that
    /// wait for their slots elsewhere.
    pub spare: usize,
    /// The most urgent priority among them; lower is sooner.
    pub priority: i32,
}

/// What an owner may run on a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Grows with each.
    pub number: u64,
    /// The slots.
    pub slots: Slots,
}

/// Slots of a machine that an owner may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slots {
    /// So many, for whom it likes. Told to the machine's own node only, and only while no other owner
    /// wants anything.
    Open(usize),
    /// So many for each person.
    Shared(Vec<Share>),
}

/// Slots for one person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Share {
    /// The person.
    pub person: Arc<str>,
    /// Actions that may run at once, those that run already included.
    pub slots: usize,
    /// Actions that may be sent there beyond these, to fetch their inputs and wait for a slot.
    pub ahead: usize,
}

// === impl Demand ===

impl Demand {
    /// Reads what another machine says.
    pub fn from_wire(demand: wire::Demand) -> Self {
        Self { wants: demand.wants.into_iter().take(MOST_WANTS).map(Want::from_wire).collect() }
    }

    /// As it is said to another machine.
    pub fn to_wire(&self) -> wire::Demand {
        wire::Demand { wants: self.wants.iter().map(Want::to_wire).collect() }
    }
}

// === impl Want ===

impl Want {
    fn from_wire(want: wire::Want) -> Self {
        Self {
            person: shortened(want.person).into(),
            build: shortened(want.build).into(),
            waiting: few(want.waiting),
            given: few(want.given),
            spare: few(want.spare),
            priority: want.priority,
        }
    }

    fn to_wire(&self) -> wire::Want {
        wire::Want {
            person: self.person.as_ref().to_owned(),
            build: self.build.as_ref().to_owned(),
            waiting: number(self.waiting),
            given: number(self.given),
            spare: number(self.spare),
            priority: self.priority,
        }
    }
}

// === impl Grant ===

impl Grant {
    /// Reads what another machine grants.
    pub fn from_wire(grant: wire::Grant) -> Self {
        let shares = grant.shares.into_iter().take(MOST_WANTS).map(Share::from_wire);
        Self { number: grant.number, slots: Slots::Shared(shares.collect()) }
    }

    /// As it is told to another machine; one that is open grants that nothing.
    pub fn to_wire(&self) -> wire::Grant {
        let shares = match &self.slots {
            Slots::Open(_) => Vec::new(),
            Slots::Shared(shares) => shares.iter().map(Share::to_wire).collect(),
        };
        wire::Grant { shares, number: self.number }
    }
}

// === impl Slots ===

impl Slots {
    /// How many are open to whom the owner likes; `None` if they are shared out.
    pub fn open(&self) -> Option<usize> {
        match self {
            Self::Open(slots) => Some(*slots),
            Self::Shared(_) => None,
        }
    }

    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        match self {
            Self::Open(slots) => *slots == 0,
            Self::Shared(shares) => shares.iter().all(|share| share.slots == 0),
        }
    }

    /// Slots in all.
    pub fn count(&self) -> usize {
        match self {
            Self::Open(slots) => *slots,
            Self::Shared(shares) => shares.iter().map(|share| share.slots).sum(),
        }
    }
}

// === impl Share ===

impl Share {
    fn from_wire(share: wire::Share) -> Self {
        let slots = few(share.slots);
        Self { person: shortened(share.person).into(), slots, ahead: few(share.ahead).min(slots) }
    }

    fn to_wire(&self) -> wire::Share {
        wire::Share {
            person: self.person.as_ref().to_owned(),
            slots: number(self.slots),
            ahead: number(self.ahead),
        }
    }
}

/// No machine has more slots than this, and no sum of these is too large.
fn few(number: u32) -> usize {
    usize::try_from(number).unwrap_or(MOST_TOLD).min(MOST_TOLD)
}

fn number(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(person: &str, waiting: usize) -> Want {
        Want { person: person.into(), build: "b".into(), waiting, given: 2, spare: 1, priority: -3 }
    }

    #[test]
    fn what_is_said_arrives() {
        let demand = Demand { wants: vec![want("ann", 7), want("ben", 0)] };
        assert_eq!(Demand::from_wire(demand.to_wire()), demand);
        let share = Share { person: "ann".into(), slots: 4, ahead: 3 };
        let grant = Grant { number: 9, slots: Slots::Shared(vec![share]) };
        assert_eq!(Grant::from_wire(grant.to_wire()), grant);
    }

    #[test]
    fn what_is_too_much_is_cut() {
        let long = wire::Want { waiting: u32::MAX, person: "\u{20ac}".repeat(999), ..want("", 0).to_wire() };
        let read = Demand::from_wire(wire::Demand { wants: vec![long; 1000] });
        assert_eq!(read.wants.len(), MOST_WANTS);
        assert_eq!((read.wants[0].waiting, read.wants[0].person.len()), (MOST_TOLD, 1023));
        let share = wire::Share { person: String::new(), slots: 2, ahead: u32::MAX };
        let read = Grant::from_wire(wire::Grant { shares: vec![share; 1000], number: 1 });
        assert_eq!(read.slots.count(), 2 * MOST_WANTS);
        let Slots::Shared(shares) = read.slots else { panic!("shared") };
        assert_eq!(shares[0].ahead, 2, "one for each slot at most");
    }
}
