//! [`Board`]: the latest of each machine, for those who follow at their own pace.
//!
//! Nothing queues: a follower that is slow misses what was between, and holds no more than one number for
//! each machine.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::MachineId;

/// Machines that are gone and still told of.
const MOST_GONE: usize = 256;

/// The latest of each machine.
#[derive(Debug)]
pub(super) struct Board<V> {
    entries: Mutex<BTreeMap<MachineId, Entry<V>>>,
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct Entry<V> {
    version: u64,
    is_gone: bool,
    value: V,
}

/// One who follows.
#[derive(Debug)]
pub(super) struct Follower<V> {
    board: Arc<Board<V>>,
    version: watch::Receiver<u64>,
    seen: BTreeMap<MachineId, u64>,
}

// === impl Board ===

impl<V: Clone> Board<V> {
    /// Empty.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { entries: Mutex::default(), version: watch::Sender::new(0) })
    }

    /// The latest of `id` is `value`; `is_gone` says that no more is to be expected.
    pub(super) fn put(&self, id: MachineId, value: V, is_gone: bool) {
        let mut entries = self.entries();
        self.version.send_modify(|version| {
            *version += 1;
            entries.insert(id, Entry { version: *version, is_gone, value });
        });
        let gone = entries.iter().filter(|(_, entry)| entry.is_gone);
        if gone.clone().count() > MOST_GONE {
            let oldest = gone.min_by_key(|(_, entry)| entry.version).map(|(id, _)| *id);
            oldest.map(|oldest| entries.remove(&oldest));
        }
    }

    /// The latest of `id`.
    pub(super) fn get(&self, id: MachineId) -> Option<V> {
        self.entries().get(&id).map(|entry| entry.value.clone())
    }

    /// The latest of each.
    pub(super) fn list(&self) -> Vec<V> {
        self.entries().values().map(|entry| entry.value.clone()).collect()
    }

    /// One who is told everything, what is there first.
    pub(super) fn follow(self: &Arc<Self>) -> Follower<V> {
        let mut version = self.version.subscribe();
        version.mark_changed();
        Follower { board: Arc::clone(self), version, seen: BTreeMap::new() }
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<MachineId, Entry<V>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Follower ===

impl<V: Clone> Follower<V> {
    /// The next that is new, the oldest first. Nothing is lost when this is dropped.
    pub(super) async fn next(&mut self) -> (MachineId, V) {
        loop {
            if let Some(next) = self.look() {
                return next;
            }
            // The board is held, and with it the sender.
            let _ = self.version.changed().await;
        }
    }

    fn look(&mut self) -> Option<(MachineId, V)> {
        let entries = self.board.entries();
        let is_new =
            |id: &MachineId, entry: &Entry<V>| self.seen.get(id).is_none_or(|seen| *seen < entry.version);
        let new = entries.iter().filter(|(id, entry)| is_new(id, entry));
        let (id, entry) = new.min_by_key(|(_, entry)| entry.version)?;
        let found = (*id, entry.value.clone());
        self.seen.insert(*id, entry.version);
        self.seen.retain(|id, _| entries.contains_key(id));
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn id(number: u16) -> MachineId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        MachineId::new(bytes)
    }

    #[tokio::test]
    async fn the_latest_of_each_comes_once() {
        let board = Board::new();
        board.put(id(2), "two", false);
        board.put(id(1), "one", false);
        let mut follower = board.follow();
        assert_eq!(follower.next().await, (id(2), "two"));
        board.put(id(2), "deux", false);
        board.put(id(2), "zwei", true);
        assert_eq!(follower.next().await, (id(1), "one"));
        assert_eq!(follower.next().await, (id(2), "zwei"));
        assert!(follower.next().now_or_never().is_none());
        assert_eq!((board.get(id(2)), board.get(id(3))), (Some("zwei"), None));
        let waiting = async {
            tokio::task::yield_now().await;
            board.put(id(1), "eins", false);
        };
        let (next, ()) = tokio::join!(follower.next(), waiting);
        assert_eq!(next, (id(1), "eins"));
    }

    #[tokio::test]
    async fn those_who_are_gone_are_forgotten_some_day() {
        let board = Board::new();
        let mut follower = board.follow();
        for number in 0..1000 {
            board.put(id(number), number, true);
            follower.next().await;
        }
        board.put(id(1000), 1000, false);
        assert_eq!(board.entries().len(), MOST_GONE + 1);
        assert!(follower.seen.len() <= MOST_GONE + 1);
        assert_eq!(board.get(id(1000)), Some(1000));
    }
}
