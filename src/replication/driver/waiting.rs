//! [`Waiting`]: those who wait for copies of what they wrote.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::oneshot;

use super::TooFew;
use crate::cas::entry::EntryKey;

/// Those who wait up to which nobody looks whether some gave up.
const FEW: usize = 64;

/// One who waits for copies of an entry.
#[derive(Debug)]
pub(super) struct Wait {
    pub key: EntryKey,
    pub wanted: usize,
    /// How many there were when it was last looked.
    pub have: Arc<AtomicUsize>,
    /// Is told when it is over; who gives up drops the other end.
    pub done: oneshot::Sender<Result<(), TooFew>>,
}

/// What is known of the copies of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing is: there is no roster yet.
    Nothing,
    /// There are so many, and more are to be made.
    Some(usize),
    /// There are as many as there should be.
    All,
    /// It is not here.
    Gone,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    by_key: HashMap<EntryKey, Vec<Wait>>,
    number: usize,
    look_at: usize,
}

// === impl Waiting ===

impl Waiting {
    /// Who waits for something.
    pub(super) fn keys(&self) -> Vec<EntryKey> {
        self.by_key.keys().copied().collect()
    }

    /// Whether somebody waits for `key`.
    pub(super) fn is_waited_for(&self, key: &EntryKey) -> bool {
        self.by_key.contains_key(key)
    }

    /// Somebody waits from now on.
    pub(super) fn add(&mut self, wait: Wait) {
        if self.number >= self.look_at {
            self.by_key.retain(|_, waits| {
                waits.retain(|wait| !wait.done.is_closed());
                !waits.is_empty()
            });
            self.number = self.by_key.values().map(Vec::len).sum();
            self.look_at = FEW.max(2 * self.number);
        }
        self.number += 1;
        self.by_key.entry(wait.key).or_default().push(wait);
    }

    /// Tells those who wait for `key` what became of it, if that ends their waiting. There can be `possible`
    /// copies.
    pub(super) fn look(&mut self, key: &EntryKey, known: Known, possible: usize) {
        let Some(waits) = self.by_key.remove(key) else { return };
        self.number -= waits.len();
        for wait in waits {
            match wait.verdict(known, possible) {
                // Who is not there any more need not be told.
                Some(verdict) => drop(wait.done.send(verdict)),
                None => {
                    self.number += 1;
                    self.by_key.entry(*key).or_default().push(wait);
                }
            }
        }
    }
}

// === impl Wait ===

impl Wait {
    fn verdict(&self, known: Known, possible: usize) -> Option<Result<(), TooFew>> {
        let wanted = self.wanted;
        match known {
            Known::Nothing => None,
            Known::Gone => Some(Err(TooFew { wanted, have: 0, possible })),
            _ if possible < wanted => Some(Err(TooFew { wanted, have: possible.min(1), possible })),
            Known::All => Some(Ok(())),
            Known::Some(have) => {
                self.have.store(have, Ordering::Relaxed);
                (have >= wanted).then_some(Ok(()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(key: EntryKey, wanted: usize) -> (Wait, oneshot::Receiver<Result<(), TooFew>>) {
        let (done, receiver) = oneshot::channel();
        (Wait { key, wanted, have: Arc::default(), done }, receiver)
    }

    #[test]
    fn who_waits_is_told_when_there_are_enough_or_can_never_be() {
        let key = EntryKey::action(&[1; 32]);
        let mut waiting = Waiting::default();
        let (two, mut two_done) = wait(key, 2);
        let (three, mut three_done) = wait(key, 3);
        let have = Arc::clone(&three.have);
        waiting.add(two);
        waiting.add(three);
        waiting.look(&key, Known::Nothing, 1);
        waiting.look(&key, Known::Some(1), 3);
        assert!(two_done.try_recv().is_err() && three_done.try_recv().is_err());
        waiting.look(&key, Known::Some(2), 3);
        assert_eq!((two_done.try_recv(), have.load(Ordering::Relaxed)), (Ok(Ok(())), 2));
        waiting.look(&key, Known::Some(2), 2);
        let too_few = TooFew { wanted: 3, have: 1, possible: 2 };
        assert_eq!(three_done.try_recv(), Ok(Err(too_few)));
        assert!(!waiting.is_waited_for(&key));
    }

    #[test]
    fn who_gave_up_is_forgotten() {
        let mut waiting = Waiting::default();
        for number in 0..10 * FEW {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_le_bytes());
            waiting.add(wait(EntryKey::action(&hash), 2).0);
        }
        assert!(waiting.keys().len() <= FEW, "{}", waiting.keys().len());
    }
}
