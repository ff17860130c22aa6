//! [`Misses`]: so that one wish is one look-up.
//!
//! A client such as Bazel asks for a result (GetActionResult), uploads the inputs when there is none, and
//! calls Execute, which looks again. The rule: a look-up by Execute is not counted when the same build
//! asked for the same action before in vain, and did not execute it since. Should Execute find a
//! result after all, the miss was a hit. So hits never outnumber look-ups, and a hit rate tells of actions
//! and not of calls.
//!
//! What was missed is forgotten after a while, and the oldest first when there is much of it: uploads
//! take minutes, and clients without Execute never come back.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

use crate::action_cache::ActionKey;

/// How long a build may take from a miss to Execute.
const KEPT: Duration = Duration::from_secs(15 * 60);

/// What was missed and may be executed yet.
#[derive(Debug)]
pub(super) struct Misses {
    hasher: RandomState,
    /// Each with the number of its latest miss.
    open: HashMap<u64, u64>,
    order: VecDeque<Miss>,
    next: u64,
    limit: usize,
}

#[derive(Debug)]
struct Miss {
    at: Instant,
    number: u64,
    wish: u64,
}

/// One wish of one build for one action. Two that share a number would be one look-up too few.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish(u64);

// === impl Misses ===

impl Misses {
    /// None yet; `limit` are remembered at most.
    pub(super) fn new(limit: usize) -> Self {
        let (open, order) = (HashMap::new(), VecDeque::new());
        Self { hasher: RandomState::new(), open, order, next: 0, limit }
    }

    /// The wish of a build for an action.
    pub(super) fn wish(&self, build: &str, key: &ActionKey) -> Wish {
        Wish(self.hasher.hash_one((build, key)))
    }

    /// There was no result.
    pub(super) fn add(&mut self, now: Instant, wish: Wish) {
        self.expire(now);
        self.order.push_back(Miss { at: now, number: self.next, wish: wish.0 });
        self.open.insert(wish.0, self.next);
        self.next += 1;
        if self.order.len() > self.limit {
            self.drop_oldest();
        }
    }

    /// Ends a wish, since it is executed now; `false` if it was not asked for before.
    pub(super) fn take(&mut self, now: Instant, wish: Wish) -> bool {
        self.expire(now);
        self.open.remove(&wish.0).is_some()
    }

    fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|miss| now.saturating_duration_since(miss.at) >= KEPT) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        let Some(miss) = self.order.pop_front() else { return };
        if self.open.get(&miss.wish) == Some(&miss.number) {
            self.open.remove(&miss.wish);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Digest, DigestFunction};
    use crate::instance::InstanceName;

    fn key(text: &str) -> ActionKey {
        ActionKey {
            instance: InstanceName::default(),
            action: Digest::of(DigestFunction::Sha256, text.as_bytes()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_miss_is_taken_once_and_by_its_build_only() {
        let mut misses = Misses::new(10);
        let now = Instant::now();
        let wish = misses.wish("b", &key("a"));
        misses.add(now, wish);
        for (build, action) in [("c", "a"), ("b", "x")] {
            let other = misses.wish(build, &key(action));
            assert!(!misses.take(now, other));
        }
        assert!(misses.take(now, wish));
        assert!(!misses.take(now, wish));
    }

    #[tokio::test(start_paused = true)]
    async fn asking_twice_in_vain_is_one_wish_that_is_open() {
        let mut misses = Misses::new(3);
        let now = Instant::now();
        let wish = misses.wish("b", &key("a"));
        misses.add(now, wish);
        misses.add(now, wish);
        assert!(misses.take(now, wish));
        assert!(!misses.take(now, wish));
        misses.add(now, wish);
        for text in ["1", "2"] {
            let other = misses.wish("b", &key(text));
            misses.add(now, other);
        }
        assert!(misses.take(now, wish), "it was the miss before that was dropped");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_old_or_too_much_is_forgotten() {
        let mut misses = Misses::new(2);
        let now = Instant::now();
        let wishes = ["a", "b", "c"].map(|text| misses.wish("", &key(text)));
        for wish in wishes {
            misses.add(now, wish);
        }
        assert!(!misses.take(now, wishes[0]));
        assert!(misses.take(now, wishes[1]));
        assert!(!misses.take(now + KEPT, wishes[2]));
        assert!(misses.order.is_empty() && misses.open.is_empty());
    }
}
