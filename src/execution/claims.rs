//! [`Claims`]: who has an action waiting or running, so that no two machines run the same one.
//!
//! For each action one machine of the farm keeps the claims, the same for all that see the same machines
//! ([`keeper`]). Who owns an action that others might own too tells the keeper, and hears of whoever
//! claimed it before. Nothing depends on it: a claim that is lost or too old costs a run that was not
//! needed, or a question that is answered with no.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::action_cache::ActionKey;
use crate::peer::MachineId;

/// How long a claim counts.
const LIFETIME: Duration = Duration::from_secs(60);

/// Claims that are kept.
const MOST: usize = 64 * 1024;

/// The claims one machine keeps.
#[derive(Debug, Default)]
pub struct Claims {
    claimants: HashMap<ActionKey, (MachineId, Instant)>,
    /// In the order in which they came.
    ages: VecDeque<(Instant, ActionKey)>,
}

// === impl Claims ===

impl Claims {
    /// `claimant` has the action; who else has it and came first, if anybody.
    pub fn claim(&mut self, now: Instant, claimant: MachineId, key: ActionKey) -> Option<MachineId> {
        self.expire(now);
        match self.claimants.get_mut(&key) {
            Some((first, _)) if *first != claimant => Some(*first),
            Some((_, since)) => {
                *since = now;
                self.ages.push_back((now, key));
                self.bound();
                None
            }
            None => {
                self.claimants.insert(key.clone(), (claimant, now));
                self.ages.push_back((now, key));
                self.bound();
                None
            }
        }
    }

    /// A machine is gone, and with it what it had.
    pub fn forget(&mut self, machine: MachineId) {
        self.claimants.retain(|_, (claimant, _)| *claimant != machine);
    }

    fn expire(&mut self, now: Instant) {
        while self.ages.front().is_some_and(|(since, _)| now.saturating_duration_since(*since) > LIFETIME) {
            self.drop_oldest();
        }
    }

    fn bound(&mut self) {
        while self.ages.len() > MOST {
            self.drop_oldest();
        }
    }

    /// One that was claimed again since is kept: it stands further back too.
    fn drop_oldest(&mut self) {
        let Some((since, key)) = self.ages.pop_front() else { return };
        if self.claimants.get(&key).is_some_and(|(_, latest)| *latest == since) {
            self.claimants.remove(&key);
        }
    }
}

/// The machine of `machines` that keeps the claims to an action.
pub fn keeper(key: &ActionKey, machines: impl Iterator<Item = MachineId>) -> Option<MachineId> {
    let hash = first_bytes(key.action.hash());
    machines.max_by_key(|machine| (mix(hash ^ first_bytes(machine.bytes())), *machine))
}

fn first_bytes(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The last step of splitmix64: every bit of the number counts for every bit of the result.
fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Digest, DigestFunction};
    use crate::instance::InstanceName;

    fn key(number: usize) -> ActionKey {
        let action = Digest::of(DigestFunction::Sha256, &number.to_be_bytes());
        ActionKey { instance: InstanceName::default(), action }
    }

    fn id(number: u8) -> MachineId {
        MachineId::new([number; 32])
    }

    #[test]
    fn who_comes_second_hears_of_the_first() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        assert_eq!(claims.claim(now, id(1), key(1)), None);
        assert_eq!(claims.claim(now, id(1), key(1)), None, "its own");
        assert_eq!(claims.claim(now, id(2), key(1)), Some(id(1)));
        assert_eq!(claims.claim(now, id(2), key(2)), None);
        claims.forget(id(1));
        assert_eq!(claims.claim(now, id(3), key(1)), None);
        assert_eq!(claims.claim(now, id(1), key(2)), Some(id(2)));
    }

    #[test]
    fn claims_grow_old_unless_they_are_made_again() {
        let (mut claims, start) = (Claims::default(), Instant::now());
        claims.claim(start, id(1), key(2));
        for half in 0..3 {
            claims.claim(start + LIFETIME / 2 * half, id(1), key(1));
        }
        let later = start + LIFETIME * 2 - Duration::from_secs(1);
        assert_eq!(claims.claim(later, id(2), key(1)), Some(id(1)));
        assert_eq!(claims.claim(later, id(2), key(2)), None);
        assert_eq!(claims.claim(later + LIFETIME * 2, id(3), key(1)), None);
    }

    #[test]
    fn there_are_only_so_many() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        for number in 0..MOST + 10 {
            claims.claim(now, id(1), key(number));
        }
        assert!(claims.claimants.len() <= MOST && claims.ages.len() <= MOST);
        assert_eq!(claims.claim(now, id(2), key(MOST + 9)), Some(id(1)));
    }

    #[test]
    fn all_machines_keep_about_as_many_and_few_move_when_one_goes() {
        let machines: Vec<_> = (0..8).map(id).collect();
        let mut kept = [0; 8];
        for number in 0..8000 {
            let all = keeper(&key(number), machines.iter().copied()).unwrap();
            let fewer = keeper(&key(number), machines[..7].iter().copied()).unwrap();
            kept[usize::from(all.bytes()[0])] += 1;
            assert!(all == fewer || all == id(7));
        }
        assert!(kept.iter().all(|count| (800..1200).contains(count)), "{kept:?}");
        assert_eq!(keeper(&key(1), std::iter::empty()), None);
    }
}
