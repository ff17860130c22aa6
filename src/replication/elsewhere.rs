//! [`Elsewhere`]: the stores of the other machines, as one that can be read.
//!
//! [`presence`] says what they have, [`race`] asks one after the other for one thing, [`trail`] follows the
//! bytes of a blob from machine to machine, [`passing`] hands them to a reader and into the store here at once,
//! [`bring`] fetches many.
//!
//! What is promised: a whole blob is given out, or kept, only after its hash was verified; a blob that several
//! want at once is fetched once; a machine that is slow, fails or lies is followed by the next; nothing waits
//! for one there is no link to. What cannot be kept for want of room is given to the reader all the same.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::candidates::Chart;
use super::copies::{Other, Others, SMALL};
use super::hedge::Pace;
use super::roster::Roster;
use crate::cas::entry::EntryKey;
use crate::cas::fetch::flights::{Landed, Seat};
use crate::cas::fetch::{Fetched, Fetcher, SourceError};
use crate::cas::{ByteRange, CasError, ContentAddressableStorage};
use crate::digest::Digest;
use crate::peer::MachineId;
use crate::recent::Recent;
use crate::tasks::Tasks;
use change::Changes;
use race::Race;
use trail::Trail;

mod again;
mod bring;
mod change;
mod passing;
mod presence;
mod race;
#[cfg(test)]
mod tests;
mod trail;

/// How long a machine may say nothing before it is given up for this time. Others are asked much sooner, and
/// the link to one that is dead ends sooner; but many streams over a slow link take turns.
const SILENCE: Duration = Duration::from_secs(15);

/// Times a blob is waited for that others fetch, before it is fetched all the same.
const PATIENCE: usize = 3;

/// Lies that are remembered, and how long: who sent what wrongly is not asked for it again meanwhile.
const LIES: usize = 1000;
const LIE_LASTS: Duration = Duration::from_secs(600);

/// Blobs that are fetched in the background because a part of them was read.
const BACKGROUND: usize = 4;

/// The blobs of the other machines. Clones are the same.
#[derive(Clone)]
pub struct Elsewhere(Arc<Shared>);

struct Shared {
    others: Arc<dyn Others>,
    kept: Arc<dyn ContentAddressableStorage>,
    fetcher: Fetcher,
    tasks: Tasks,
    pace: Mutex<Pace>,
    lies: Mutex<Lies>,
    changes: Changes,
    /// Calls that failed.
    failures: AtomicU64,
    background: Arc<Semaphore>,
    blobs: AtomicU64,
    bytes: AtomicU64,
}

/// Who sent bytes that were not those of which blob, and when.
type Lies = Recent<(Digest, MachineId), Instant>;

// === impl Elsewhere ===

impl Elsewhere {
    /// Those of `others`. What comes from them is put into `kept`, the store here for copies of what is others'.
    pub fn new(others: Arc<dyn Others>, kept: Arc<dyn ContentAddressableStorage>, tasks: Tasks) -> Self {
        let fetcher = Fetcher::new(Arc::clone(&kept)).patient_for(SILENCE);
        Self(Arc::new(Shared {
            others,
            kept,
            fetcher,
            tasks,
            pace: Mutex::default(),
            lies: Mutex::new(Recent::new(LIES)),
            changes: Changes::default(),
            failures: AtomicU64::new(0),
            background: Arc::new(Semaphore::new(BACKGROUND)),
            blobs: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }))
    }

    /// A number that grows whenever the machines there is a link to change, or one of them was started again.
    /// Who read it, then found blobs present elsewhere, knows that nobody left for as long as it stays the same.
    pub fn generation(&self) -> u64 {
        self.0.changes.observe(&self.0.others.roster())
    }

    /// What fetches into the store here, for who knows by itself where blobs are: what is on its way for
    /// anybody is not fetched again.
    pub fn fetcher(&self) -> &Fetcher {
        &self.0.fetcher
    }

    /// What was fetched so far because somebody read it here, or needs it here.
    pub fn fetched(&self) -> Fetched {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Fetched { blobs: get(&self.0.blobs), bytes: get(&self.0.bytes) }
    }

    /// Whether there is no other machine to ask, and none is expected back.
    pub(super) fn is_nowhere(&self) -> bool {
        let roster = self.0.others.roster();
        roster.others().next().is_none() && roster.returning().is_none_or(|end| end <= Instant::now())
    }

    /// The whole of a blob that is not here. It is kept, if there is room.
    ///
    /// # Errors
    /// [`CasError::NotFound`] when nobody gives it.
    pub(super) async fn get(&self, digest: &Digest) -> Result<Bytes, CasError> {
        let absent = || CasError::NotFound(*digest);
        for _ in 0..PATIENCE {
            match self.0.fetcher.flights().take_off(digest) {
                Seat::Mine(flight) => {
                    // It may have landed since it was looked for.
                    if let Ok(data) = self.0.kept.get(digest).await {
                        return Ok(data);
                    }
                    let data = self.fetch(digest).await;
                    flight.end(data.clone().map_or(Landed::Nowhere, Landed::Data));
                    return data.ok_or_else(absent);
                }
                Seat::Taken(landing) => match landing.landed().await {
                    Landed::Data(data) => return Ok(data),
                    Landed::Nowhere => return Err(absent()),
                    Landed::Perhaps => {
                        if let Ok(data) = self.0.kept.get(digest).await {
                            return Ok(data);
                        }
                    }
                },
            }
        }
        self.fetch(digest).await.ok_or_else(absent)
    }

    async fn fetch(&self, digest: &Digest) -> Option<Bytes> {
        if digest.size() > SMALL { self.fetch_large(digest).await } else { self.fetch_small(digest).await }
    }

    async fn fetch_small(&self, digest: &Digest) -> Option<Bytes> {
        let ask = |other: Other| {
            let (this, digest) = (self.clone(), *digest);
            async move {
                let wanted = [digest];
                let blobs = this.heard(other.id, other.blobs.read_batch(&wanted)).await.ok()?;
                let (_, data) = blobs.into_iter().find(|(found, _)| *found == digest)?;
                Some((other.id, data))
            }
        };
        let mut tries = self.tries();
        loop {
            let mut race = Race::new(self, self.candidates(digest), ask);
            while let Some((machine, data)) = race.next().await {
                match self.keep(digest, data).await {
                    Some(data) => return Some(data),
                    None => self.distrust(digest, &[machine]),
                }
            }
            if !tries.again(self).await {
                return None;
            }
        }
    }

    async fn fetch_large(&self, digest: &Digest) -> Option<Bytes> {
        // A lie is told apart from the truth at the end only, and its teller not asked again then.
        for _ in 0..PATIENCE {
            let mut trail = Trail::open(self, *digest, ByteRange::default()).await.ok()?;
            let data = trail.rest().await.ok()?;
            match self.keep(digest, data).await {
                Some(data) => return Some(data),
                None => self.distrust(digest, trail.machines()),
            }
        }
        None
    }

    /// Keeps what came, if there is room; gives it back if it is what it should be.
    async fn keep(&self, digest: &Digest, data: Bytes) -> Option<Bytes> {
        match self.0.kept.put(digest, data.clone()).await {
            Ok(()) => {}
            Err(CasError::Mismatch { .. } | CasError::TooLong(_)) => return None,
            Err(error) => {
                tracing::debug!(%digest, %error, "a blob of another machine is not kept here");
                if Digest::of(digest.function(), &data) != *digest {
                    return None;
                }
            }
        }
        self.count(Fetched { blobs: 1, bytes: digest.size() });
        Some(data)
    }

    /// What `other` says, if it says anything in time. How long it took is remembered.
    pub(super) async fn heard<T>(
        &self,
        machine: MachineId,
        said: impl Future<Output = Result<T, SourceError>>,
    ) -> Result<T, SourceError> {
        let watch = Watch { elsewhere: self, machine, began: Instant::now(), is_over: false };
        let said = in_time(said).await;
        watch.stop(said.is_ok());
        self.failed(said.is_err());
        said
    }

    /// The linked machines that may have `digest`, the likeliest first, but for those that lied about it.
    fn candidates(&self, digest: &Digest) -> Vec<Other> {
        let roster = self.roster();
        let mut order = Vec::new();
        self.chart(&roster).order(&EntryKey::from(digest), &mut order);
        order.retain(|machine| !self.is_liar(digest, *machine));
        order.into_iter().filter_map(|machine| self.other(machine)).collect()
    }

    /// Whether what `machine` has for this blob was found wrong lately.
    fn is_liar(&self, digest: &Digest, machine: MachineId) -> bool {
        let lies = self.lies();
        !lies.is_empty() && lies.peek(&(*digest, machine)).is_some_and(|at| at.elapsed() < LIE_LASTS)
    }

    /// Some of `machines` sent bytes that are not this blob.
    fn distrust(&self, digest: &Digest, machines: &[MachineId]) {
        let mut lies = self.lies();
        for machine in machines {
            tracing::warn!(%digest, %machine, "a machine sent bytes that are not the blob");
            lies.insert((*digest, *machine), Instant::now());
        }
    }

    /// The machines as they are now.
    pub(super) fn roster(&self) -> Arc<Roster> {
        let roster = self.0.others.roster();
        self.0.changes.observe(&roster);
        roster
    }

    /// Whom to ask.
    pub(super) fn chart<'a>(&self, roster: &'a Roster) -> Chart<'a> {
        let linked: Vec<MachineId> = roster.others().map(|machine| machine.id).collect();
        let slow = self.pace().slow(&linked);
        Chart::new(roster, |id| self.0.others.may_have_more(id), &slow)
    }

    /// That machine, while there is a link to it.
    pub(super) fn other(&self, id: MachineId) -> Option<Other> {
        self.0.others.other(id)
    }

    /// Notes whether a call failed.
    fn failed(&self, has_failed: bool) {
        self.0.failures.fetch_add(u64::from(has_failed), Ordering::Relaxed);
    }

    fn count(&self, fetched: Fetched) {
        self.0.blobs.fetch_add(fetched.blobs, Ordering::Relaxed);
        self.0.bytes.fetch_add(fetched.bytes, Ordering::Relaxed);
    }

    fn lies(&self) -> MutexGuard<'_, Lies> {
        self.0.lies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.0.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a machine says, if it says anything in time.
async fn in_time<T>(said: impl Future<Output = Result<T, SourceError>>) -> Result<T, SourceError> {
    let silent = |_| Err(SourceError::new("a machine", "it says nothing"));
    tokio::time::timeout(SILENCE, said).await.unwrap_or_else(silent)
}

/// Waits for an answer. What is no longer waited for counts as having taken so long, if that is long for it.
struct Watch<'a> {
    elsewhere: &'a Elsewhere,
    machine: MachineId,
    began: Instant,
    is_over: bool,
}

// === impl Watch ===

impl Watch<'_> {
    fn stop(mut self, is_answer: bool) {
        if is_answer {
            self.is_over = true;
            self.elsewhere.pace().note(self.machine, self.began.elapsed());
        }
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let (took, mut pace) = (self.began.elapsed(), self.elsewhere.pace());
        if !self.is_over && took > pace.patience(self.machine) {
            pace.note(self.machine, took);
        }
    }
}
