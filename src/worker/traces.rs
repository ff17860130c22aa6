//! [`Traces`]: what runs left on other machines, as far as this one has seen.
//!
//! Who ran an action has its inputs and what it made. So another action with the same inputs costs
//! nothing to move there, and one of the same build may fetch what was made from where it was made.
//! All of this is a guess: machines evict what they like, and whoever acts on it asks before.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::digest::Digest;
use crate::peer::MachineId;
use crate::recent::Recent;

/// Input roots that are remembered for each machine.
const ROOTS: usize = 8 * 1024;

/// Blobs sent along that are remembered for each machine.
const SENT: usize = 32 * 1024;

/// Builds that are remembered.
const BUILDS: usize = 128;

/// Machines that are named for one action.
const MOST_HOLDERS: usize = 3;

/// Bytes from which on a fetch tells how fast they come; less is over before it is at its pace.
const TELLING: u64 = 1 << 20;

/// Part of the mean that the latest run makes up: one of so many.
const WEIGHT: u64 = 8;

/// What is remembered. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Traces(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    machines: HashMap<Arc<str>, Machine>,
    /// Bytes that each machine made for each build.
    made: Recent<Arc<str>, BTreeMap<MachineId, u64>>,
}

#[derive(Debug)]
struct Machine {
    roots: Recent<Digest, ()>,
    /// Blobs that were sent along with leases.
    sent: Recent<Digest, ()>,
    /// Bytes a run there fetched, in the mean.
    fetched: u64,
    /// Bytes a second that came there, in the mean.
    speed: Option<u64>,
}

impl Default for Inner {
    fn default() -> Self {
        Self { machines: HashMap::new(), made: Recent::new(BUILDS) }
    }
}

impl Default for Machine {
    fn default() -> Self {
        Self { roots: Recent::new(ROOTS), sent: Recent::new(SENT), fetched: 0, speed: None }
    }
}

// === impl Traces ===

impl Traces {
    /// A run of an action with this input root has its inputs on `machine`, and so many bytes had to be
    /// fetched for that, in that time.
    pub fn staged(&self, machine: &Arc<str>, root: Digest, fetched: u64, took: Duration) {
        let mut inner = self.inner();
        let machine = inner.machines.entry(machine.clone()).or_default();
        if fetched >= TELLING {
            let speed = (fetched as f64 / took.as_secs_f64().max(0.001)) as u64;
            machine.speed = Some(match machine.speed {
                Some(known) => known - known / WEIGHT + speed / WEIGHT,
                None => speed,
            });
        }
        machine.fetched = machine.fetched - machine.fetched / WEIGHT + fetched / WEIGHT;
        machine.roots.insert(root, ());
    }

    /// Whether there is anything to send along for an action with this input root.
    pub fn is_new(&self, machine: &str, root: &Digest) -> bool {
        self.inner().machines.get(machine).is_none_or(|machine| machine.roots.peek(root).is_none())
    }

    /// Takes note that `machine` is sent this blob; `false` if it was before.
    pub fn send(&self, machine: &Arc<str>, blob: Digest) -> bool {
        let mut inner = self.inner();
        let sent = &mut inner.machines.entry(machine.clone()).or_default().sent;
        let is_new = sent.get(&blob).is_none();
        if is_new {
            sent.insert(blob, ());
        }
        is_new
    }

    /// These were not sent after all.
    pub fn unsend(&self, machine: &str, blobs: &[Digest]) {
        if let Some(machine) = self.inner().machines.get_mut(machine) {
            blobs.iter().for_each(|blob| machine.sent.remove(blob));
        }
    }

    /// A run for `build` made so many bytes on `machine`.
    pub fn made(&self, machine: MachineId, build: &Arc<str>, bytes: u64) {
        if !build.is_empty() && bytes > 0 {
            let mut inner = self.inner();
            let mut made = inner.made.get(build).cloned().unwrap_or_default();
            let sum = made.entry(machine).or_default();
            *sum = sum.saturating_add(bytes);
            inner.made.insert(build.clone(), made);
        }
    }

    /// A machine began anew, or is gone.
    pub fn forget(&self, machine: &str) {
        self.inner().machines.remove(machine);
    }

    /// About how many bytes `machine` would have to fetch to run an action with this input root.
    pub fn lacking(&self, machine: &str, root: &Digest) -> u64 {
        let inner = self.inner();
        let known = inner.machines.get(machine);
        known.map_or(0, |machine| if machine.roots.peek(root).is_some() { 0 } else { machine.fetched })
    }

    /// Bytes a second that come to `machine`, if that was seen.
    pub fn speed(&self, machine: &str) -> Option<u64> {
        self.inner().machines.get(machine)?.speed
    }

    /// Machines that made most of what `build` has made so far, without the one that asks.
    pub fn holders(&self, build: &str, without: MachineId) -> Vec<MachineId> {
        let inner = self.inner();
        let made = inner.made.peek(build).into_iter().flatten();
        let mut made: Vec<_> = made.filter(|(id, _)| **id != without).map(|(id, sum)| (*sum, *id)).collect();
        made.sort_unstable_by(|one, other| other.cmp(one));
        made.into_iter().take(MOST_HOLDERS).map(|(_, id)| id).collect()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::DigestFunction;

    const SECOND: Duration = Duration::from_secs(1);

    fn root(number: usize) -> Digest {
        Digest::of(DigestFunction::Sha256, &number.to_be_bytes())
    }

    fn id(number: u8) -> MachineId {
        MachineId::new([number; 32])
    }

    #[test]
    fn what_ran_somewhere_costs_nothing_there_again() {
        let (traces, attic) = (Traces::default(), Arc::from("attic"));
        assert_eq!(traces.lacking("attic", &root(1)), 0, "nothing is known");
        for _ in 0..100 {
            traces.staged(&attic, root(1), 8000, SECOND);
        }
        assert_eq!(traces.lacking("attic", &root(1)), 0);
        let usual = traces.lacking("attic", &root(2));
        assert!((7000..=8000).contains(&usual), "{usual}");
        assert_eq!(traces.lacking("cellar", &root(2)), 0);
        traces.forget("attic");
        assert_eq!(traces.lacking("attic", &root(2)), 0);
    }

    #[test]
    fn what_much_was_fetched_tells_how_fast_it_came() {
        let (traces, attic) = (Traces::default(), Arc::from("attic"));
        traces.staged(&attic, root(1), TELLING - 1, SECOND);
        assert_eq!(traces.speed("attic"), None, "too little to tell");
        for _ in 0..100 {
            traces.staged(&attic, root(1), 4 << 20, 2 * SECOND);
        }
        assert_eq!(traces.speed("attic"), Some(2 << 20));
        for _ in 0..2 {
            traces.staged(&attic, root(1), u64::MAX, Duration::ZERO);
        }
        assert!(
            traces.speed("attic") > Some(2 << 20) && traces.lacking("attic", &root(9)) > 0,
            "and no sum overflows"
        );
    }

    #[test]
    fn a_blob_is_sent_along_once() {
        let (traces, attic) = (Traces::default(), Arc::from("attic"));
        assert!(traces.is_new("attic", &root(1)));
        assert!(traces.send(&attic, root(1)));
        assert!(!traces.send(&attic, root(1)));
        assert!(traces.send(&Arc::from("cellar"), root(1)));
        traces.unsend("attic", &[root(1)]);
        assert!(traces.send(&attic, root(1)), "it never arrived");
        traces.staged(&attic, root(1), 0, SECOND);
        assert!(!traces.is_new("attic", &root(1)));
    }

    #[test]
    fn who_made_most_of_a_build_is_named_first() {
        let (traces, build) = (Traces::default(), Arc::from("b"));
        for (machine, bytes) in [(1, 10), (2, 500), (3, 40), (4, 1), (5, 0), (2, 1)] {
            traces.made(id(machine), &build, bytes);
        }
        assert_eq!(traces.holders("b", id(9)), [id(2), id(3), id(1)]);
        assert_eq!(traces.holders("b", id(2)), [id(3), id(1), id(4)]);
        assert!(traces.holders("other", id(9)).is_empty());
        traces.made(id(1), &Arc::from(""), 7);
        assert!(traces.holders("", id(9)).is_empty(), "no build is nobody's");
    }

    #[test]
    fn what_is_long_ago_is_forgotten() {
        let (traces, attic) = (Traces::default(), Arc::from("attic"));
        for number in 0..3 * ROOTS {
            traces.staged(&attic, root(number), 1 << 20, SECOND);
            traces.made(id(1), &format!("{number}").into(), 1);
        }
        let inner = traces.inner();
        let machine = &inner.machines["attic"];
        let knows = |number| machine.roots.peek(&root(number)).is_some();
        assert!(!knows(0) && !knows(2 * ROOTS - 1) && knows(3 * ROOTS - 1));
        assert!(inner.made.peek("0").is_none());
    }
}
