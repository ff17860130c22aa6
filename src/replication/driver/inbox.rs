//! [`Inbox`]: what the store tells, until the driver takes it.
//!
//! It never has the store wait, and it is bounded: of more news than it holds, only the ranges are
//! remembered, which are then read from the store.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::cas::disk::StoreNews;
use crate::cas::entry::{EntryKey, RANGES};

/// News of each kind that are held.
const MOST: usize = 100_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Inbox {
    news: Mutex<News>,
    came: Notify,
    /// There is no other machine: what is written is found in the store when there is one.
    is_alone: AtomicBool,
    most: usize,
}

/// What the store told.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Entries that were written here, with their bytes.
    pub stored: Vec<(EntryKey, u64)>,
    /// Entries that others gave.
    pub given: Vec<EntryKey>,
    /// Entries whose lives were extended.
    pub used: Vec<EntryKey>,
    /// Entries that were dropped because they were damaged.
    pub damaged: Vec<EntryKey>,
    /// Ranges in which more was written than is told of here.
    pub missed: Missed,
}

/// Some of the ranges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Missed([u64; RANGES / 64]);

// === impl Inbox ===

impl Inbox {
    /// Empty; of a machine that is alone.
    pub(super) fn new() -> Self {
        Self::holding(MOST)
    }

    /// One that holds so many news of each kind.
    pub(super) fn holding(most: usize) -> Self {
        Self { news: Mutex::default(), came: Notify::new(), is_alone: AtomicBool::new(true), most }
    }

    /// Whether there is no other machine from now on. Before that is no more so, nothing that is written
    /// afterwards may have been looked for.
    pub(super) fn set_alone(&self, is_alone: bool) {
        self.is_alone.store(is_alone, Ordering::SeqCst);
    }

    /// Returns when there is something to take. Nothing is lost when this is dropped.
    pub(super) async fn came(&self) {
        loop {
            let came = self.came.notified();
            if !self.lock().is_empty() {
                return;
            }
            came.await;
        }
    }

    /// All that was told since this was last called.
    pub(super) fn take(&self) -> News {
        std::mem::take(&mut *self.lock())
    }

    fn tell(&self, add: impl FnOnce(&mut News)) {
        let mut news = self.lock();
        let was_empty = news.is_empty();
        add(&mut news);
        drop(news);
        if was_empty {
            self.came.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, News> {
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StoreNews for Inbox {
    fn stored(&self, key: EntryKey, bytes: u64) {
        if self.is_alone.load(Ordering::SeqCst) {
            return;
        }
        self.tell(|news| {
            if news.stored.len() < self.most {
                news.stored.push((key, bytes));
            } else {
                news.missed.insert(key.range());
            }
        });
    }

    fn given(&self, key: EntryKey) {
        self.tell(|news| {
            if news.given.len() < self.most {
                news.given.push(key);
            } else {
                news.missed.insert(key.range());
            }
        });
    }

    /// Uses beyond what is held are dropped: the next of the same entry is told again.
    fn used(&self, keys: Vec<EntryKey>) {
        if self.is_alone.load(Ordering::SeqCst) || keys.is_empty() {
            return;
        }
        self.tell(|news| {
            let room = self.most.saturating_sub(news.used.len());
            news.used.extend(keys.into_iter().take(room));
        });
    }

    /// As for uses: who reads one that is not brought back finds it on other machines all the same.
    fn damaged(&self, key: EntryKey) {
        self.tell(|news| {
            if news.damaged.len() < self.most {
                news.damaged.push(key);
            }
        });
    }
}

// === impl News ===

impl News {
    fn is_empty(&self) -> bool {
        let Self { stored, given, used, damaged, missed } = self;
        [used, damaged, given].into_iter().all(Vec::is_empty)
            && stored.is_empty()
            && *missed == Missed::default()
    }
}

// === impl Missed ===

impl Missed {
    fn insert(&mut self, range: u8) {
        self.0[usize::from(range) / 64] |= 1 << (range % 64);
    }

    /// The ranges.
    pub(super) fn iter(self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(move |range| self.0[usize::from(*range) / 64] >> (range % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(range: u8) -> EntryKey {
        EntryKey::action(&[range; 32])
    }

    #[tokio::test]
    async fn what_is_told_is_taken_once_and_of_too_much_the_ranges_are_kept() {
        let inbox = Inbox::holding(2);
        inbox.stored(key(9), 1);
        inbox.used(vec![key(9)]);
        assert!(inbox.take().is_empty(), "alone");
        inbox.set_alone(false);
        for range in [3, 200, 64, 255, 64, 0] {
            inbox.stored(key(range), range.into());
        }
        inbox.used(vec![key(1), key(2)]);
        inbox.used(vec![key(3)]);
        [3, 4, 5].into_iter().for_each(|range| inbox.given(key(range)));
        [1, 2, 3].into_iter().for_each(|range| inbox.damaged(key(range)));
        inbox.came().await;
        let news = inbox.take();
        assert_eq!(news.stored, [(key(3), 3), (key(200), 200)]);
        assert_eq!(news.missed.iter().collect::<Vec<_>>(), [0, 5, 64, 255]);
        assert_eq!(news.given, [key(3), key(4)]);
        assert_eq!((news.used, news.damaged), ([1, 2].map(key).to_vec(), [1, 2].map(key).to_vec()));
        assert!(inbox.take().is_empty());
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let inbox = Inbox::new();
        inbox.set_alone(false);
        let (told, ()) = tokio::join!(inbox.came(), async { inbox.stored(key(1), 1) });
        assert_eq!((told, inbox.take().stored.len()), ((), 1));
    }
}
