//! [`Flights`]: blobs on their way here, so that each is fetched once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use crate::digest::Digest;

/// Blobs on their way: who waits for one holds a [`Landing`], who fetches it the [`Flight`].
#[derive(Debug, Default)]
pub(crate) struct Flights(Mutex<HashMap<Digest, Landing>>);

/// The right to fetch a blob; others wait until this is dropped.
#[derive(Debug)]
pub(crate) struct Flight {
    flights: Arc<Flights>,
    digest: Digest,
    way: watch::Sender<Landed>,
}

/// A blob that somebody else fetches.
#[derive(Clone, Debug)]
pub(crate) struct Landing(watch::Receiver<Landed>);

/// What became of a blob on its way.
#[derive(Clone, Debug, Default)]
pub(crate) enum Landed {
    /// It is stored, or was given up: the store knows which.
    #[default]
    Perhaps,
    /// This is all of it, stored or not.
    Data(Bytes),
    /// Nobody gave it.
    Nowhere,
}

/// Who fetches a blob.
pub(crate) enum Seat {
    /// Who asked.
    Mine(Flight),
    /// Somebody else, already.
    Taken(Landing),
}

// === impl Flights ===

impl Flights {
    /// The right to fetch `digest`, or who has it.
    pub(crate) fn take_off(self: &Arc<Self>, digest: &Digest) -> Seat {
        self.seat(&mut self.map(), digest)
    }

    /// Of `digests`, those that nobody fetches, which are the caller's to fetch now, and the others.
    pub(super) fn take_off_all(
        self: &Arc<Self>,
        digests: &[Digest],
    ) -> (Vec<Flight>, Vec<(Digest, Landing)>) {
        let (mut mine, mut others) = (Vec::new(), Vec::new());
        let mut map = self.map();
        for digest in digests {
            match self.seat(&mut map, digest) {
                Seat::Mine(flight) => mine.push(flight),
                Seat::Taken(landing) => others.push((*digest, landing)),
            }
        }
        (mine, others)
    }

    /// Whether somebody fetches `digest` now.
    pub(crate) fn is_under_way(&self, digest: &Digest) -> bool {
        self.map().contains_key(digest)
    }

    /// Whether nothing is on its way.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.map().is_empty()
    }

    fn seat(self: &Arc<Self>, map: &mut HashMap<Digest, Landing>, digest: &Digest) -> Seat {
        if let Some(landing) = map.get(digest) {
            return Seat::Taken(landing.clone());
        }
        let (way, landing) = watch::channel(Landed::default());
        map.insert(*digest, Landing(landing));
        Seat::Mine(Flight { flights: Arc::clone(self), digest: *digest, way })
    }

    fn map(&self) -> MutexGuard<'_, HashMap<Digest, Landing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Flight ===

impl Flight {
    /// Of what.
    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Tells those who wait what became of it, so that they need not look.
    pub(crate) fn end(self, landed: Landed) {
        self.way.send_replace(landed);
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.map().remove(&self.digest);
    }
}

// === impl Landing ===

impl Landing {
    /// Waits until it landed or was given up.
    pub(crate) async fn landed(mut self) -> Landed {
        // An error says that it is over.
        while self.0.changed().await.is_ok() {}
        self.0.borrow().clone()
    }
}
