//! [`Flights`]: downloads under way, so that equal ones are made once.
//!
//! A download is nobody's: who asked for it may go away, and it goes on and is found by whoever asks again. What
//! it came to is told to all that wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use super::error::AssetError;

/// Downloads under way, and those that wait for their turn, at most.
const MOST: usize = 4096;

/// Tells downloads apart.
pub(super) type FlightKey = [u8; 32];

/// The downloads under way, each of which comes to a `T`.
#[derive(Debug)]
pub(super) struct Flights<T>(Mutex<Board<T>>);

#[derive(Debug)]
struct Board<T> {
    flights: HashMap<FlightKey, Listed<T>>,
    next: u64,
}

#[derive(Debug)]
struct Listed<T> {
    number: u64,
    began: SystemTime,
    landing: Landing<T>,
}

/// The duty to make a download; who waits for it is told when this is dropped, at the latest.
#[derive(Debug)]
pub(super) struct Flight<T> {
    flights: Arc<Flights<T>>,
    key: FlightKey,
    number: u64,
    told: watch::Sender<Option<T>>,
}

/// Where to wait for a download.
#[derive(Debug)]
pub(super) struct Landing<T>(watch::Receiver<Option<T>>);

// === impl Flights ===

impl<T: Clone> Flights<T> {
    /// Where to wait for the download of `key`, and the duty to make it if nobody does. One that began before
    /// `oldest` will not do, unless that has still to come.
    pub(super) fn board(
        self: &Arc<Self>,
        key: FlightKey,
        now: SystemTime,
        oldest: Option<SystemTime>,
    ) -> Result<(Landing<T>, Option<Flight<T>>), AssetError> {
        let mut board = self.board_now();
        let is_new_enough = |began: SystemTime| oldest.is_none_or(|oldest| oldest <= began || oldest > now);
        if let Some(listed) = board.flights.get(&key).filter(|listed| is_new_enough(listed.began)) {
            return Ok((Landing(listed.landing.0.clone()), None));
        }
        if board.flights.len() >= MOST {
            return Err(AssetError::Full);
        }
        let (told, landing) = watch::channel(None);
        board.next += 1;
        let number = board.next;
        let listed = Listed { number, began: now, landing: Landing(landing.clone()) };
        board.flights.insert(key, listed);
        drop(board);
        Ok((Landing(landing), Some(Flight { flights: Arc::clone(self), key, number, told })))
    }

    fn board_now(&self) -> MutexGuard<'_, Board<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self(Mutex::new(Board { flights: HashMap::new(), next: 0 }))
    }
}

// === impl Flight ===

impl<T> Flight<T> {
    /// Tells those who wait what it came to.
    pub(super) fn land(self, outcome: T) {
        self.told.send_replace(Some(outcome));
    }
}

impl<T> Drop for Flight<T> {
    fn drop(&mut self) {
        let mut board = self.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
        if board.flights.get(&self.key).is_some_and(|listed| listed.number == self.number) {
            board.flights.remove(&self.key);
        }
    }
}

// === impl Landing ===

impl<T: Clone> Landing<T> {
    /// What it came to; `None` when it was given up.
    pub(super) async fn landed(mut self) -> Option<T> {
        self.0.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    const KEY: FlightKey = [1; 32];

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[tokio::test]
    async fn equal_ones_are_made_once_and_all_are_told() {
        let flights: Arc<Flights<u8>> = Arc::default();
        let (first, mine) = flights.board(KEY, at(1), None).unwrap();
        let (second, none) = flights.board(KEY, at(2), None).unwrap();
        assert!(none.is_none());
        assert!(flights.board([2; 32], at(2), None).unwrap().1.is_some());
        mine.unwrap().land(7);
        assert_eq!((first.landed().await, second.landed().await), (Some(7), Some(7)));
        assert!(flights.board(KEY, at(3), None).unwrap().1.is_some(), "what has landed is no longer joined");
    }

    #[tokio::test]
    async fn one_that_began_too_early_is_not_joined() {
        let flights: Arc<Flights<u8>> = Arc::default();
        let (_, early) = flights.board(KEY, at(10), None).unwrap();
        assert!(flights.board(KEY, at(20), Some(at(10))).unwrap().1.is_none());
        assert!(flights.board(KEY, at(20), Some(at(90))).unwrap().1.is_none(), "nothing could be newer");
        let (_, later) = flights.board(KEY, at(20), Some(at(11))).unwrap();
        assert!(later.is_some());
        drop(early);
        assert!(flights.board(KEY, at(21), None).unwrap().1.is_none(), "the later one is still listed");
    }

    #[tokio::test]
    async fn one_that_is_given_up_is_told_as_such() {
        let flights: Arc<Flights<u8>> = Arc::default();
        let (landing, flight) = flights.board(KEY, at(1), None).unwrap();
        drop(flight);
        assert_eq!(landing.landed().await, None);
    }
}
