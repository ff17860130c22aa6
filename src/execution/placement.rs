//! Where a run goes: what it costs to run it on each machine that could.
//!
//! What it costs is time: what its inputs take to get there, and what it will likely run there. The
//! second is learned, by target and mnemonic, and by machine. Costs that are nearly equal count as equal:
//! then this machine goes before others, and of these the one with the most free slots. Pure: what
//! machines hold already is told by whoever implements [`Holdings`].
//!
//! [`Queue`](super::queue::Queue) asks, and decides who is next; nothing in here knows of fairness.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::action::PreparedAction;
use super::run_times::{Like, RunTimes, number};
use crate::recent::Recent;

/// Names whose run times are remembered.
const NAMES: usize = 8192;

/// Mnemonics whose pace is remembered, once for each machine.
const PACES: usize = 4096;

/// Part of the pace that the latest run makes up: one of so many.
const WEIGHT: f64 = 8.0;

/// No machine is taken for more than so many times slower or faster than usual.
const EXTREME: f64 = 8.0;

/// What a persistent worker takes to start, and until it is as fast as it will be: some seconds of a compiler on
/// a virtual machine, of which this is the least.
const COLD: Duration = Duration::from_secs(1);

/// Persistent workers that are remembered, once for each machine.
const WORKERS: usize = 1024;

/// Bytes a second of a link of which nothing is known: a wired network of a home.
const USUAL_LINK: u64 = 100_000_000;

/// What machines hold already.
pub trait Holdings: Send + Sync {
    /// About how many bytes the machine of that name lacks to run the action. Must not wait for
    /// anything: it is asked many times for each decision.
    fn lacking(&self, action: &PreparedAction, machine: &str) -> u64;

    /// Bytes a second that come there, if that is known. Must not wait either.
    fn speed(&self, _machine: &str) -> Option<u64> {
        None
    }
}

/// Where a machine is, as seen from the queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// Whether its runs have to be sent over a link.
    pub is_remote: bool,
    /// What a message there and its answer take.
    pub latency: Duration,
    /// Whether the host's toolchain there is another than here. Machines with the same are preferred for
    /// actions that see it.
    pub has_other_toolchain: bool,
}

/// What it costs to run something somewhere, without what decides first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Price {
    /// What its inputs take to get there, and its persistent worker to start if none is there.
    pub moving: Duration,
    /// What it will run there; `None` for what has no like.
    pub running: Option<Duration>,
}

/// What was learned, and who is asked.
pub(super) struct Placement {
    times: RunTimes,
    paces: Recent<u64, f64>,
    /// Persistent workers that are likely there still, by key and machine.
    workers: Recent<u64, ()>,
    holdings: Arc<dyn Holdings>,
}

/// Nothing has to be moved.
struct Everywhere;

// === impl Holdings ===

impl Holdings for Everywhere {
    fn lacking(&self, _: &PreparedAction, _: &str) -> u64 {
        0
    }
}

// === impl Price ===

impl Price {
    /// Both.
    pub(super) fn total(&self) -> Duration {
        self.moving + self.running.unwrap_or_default()
    }
}

/// A number for a time, the same for times of which none is more than a quarter longer than another.
pub(super) fn step(time: Duration) -> u32 {
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    match milliseconds {
        0..4 => 0,
        _ => {
            let power = milliseconds.ilog2();
            let quarter = (milliseconds >> (power - 2)) & 3;
            power * 4 + quarter as u32
        }
    }
}

// === impl Placement ===

impl Placement {
    /// Nothing learned yet; nothing has to be moved anywhere.
    pub(super) fn new() -> Self {
        Self {
            times: RunTimes::new(NAMES),
            paces: Recent::new(PACES),
            workers: Recent::new(WORKERS),
            holdings: Arc::new(Everywhere),
        }
    }

    /// From now on `holdings` is asked.
    pub(super) fn set_holdings(&mut self, holdings: Arc<dyn Holdings>) {
        self.holdings = holdings;
    }

    /// A command ran for so long on that machine.
    pub(super) fn learn(&mut self, like: Like, machine: &str, time: Duration) {
        let pace = self.pace(like, machine);
        if let (Some(usual), Some(key)) = (self.times.glance(like), like.on(machine)) {
            let latest = time.as_secs_f64() / usual.as_secs_f64().max(0.001);
            let next = pace + (latest.clamp(1.0 / EXTREME, EXTREME) - pace) / WEIGHT;
            self.paces.insert(key, next);
        }
        self.times.learn(like, time.div_f64(pace));
    }

    /// The action goes to that machine: its persistent worker, if it is for one, will be there for the next.
    pub(super) fn send(&mut self, action: &PreparedAction, machine: &str) {
        if let Some(key) = action.requirements.worker_key.as_deref() {
            self.workers.insert(number(&(key, machine)), ());
        }
    }

    /// What a persistent worker takes to start there, where the action needs one that is not there.
    fn starting(&self, action: &PreparedAction, machine: &str) -> Duration {
        let key = action.requirements.worker_key.as_deref();
        let is_cold = key.is_some_and(|key| self.workers.peek(&number(&(key, machine))).is_none());
        if is_cold { COLD } else { Duration::ZERO }
    }

    /// How long a command will likely run on that machine.
    pub(super) fn expected(&self, like: Like, machine: &str) -> Option<Duration> {
        self.times.glance(like).map(|usual| usual.mul_f64(self.pace(like, machine)))
    }

    /// What it costs to run the action on that machine.
    pub(super) fn price(&self, action: &PreparedAction, like: Like, machine: &str, site: &Site) -> Price {
        let moving = if site.is_remote {
            let lacking = self.holdings.lacking(action, machine);
            let speed = || self.holdings.speed(machine).unwrap_or(USUAL_LINK).max(1);
            let seconds = if lacking > 0 { lacking as f64 / speed() as f64 } else { 0.0 };
            site.latency + Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX / 4)
        } else {
            Duration::ZERO
        };
        let moving = moving + self.starting(action, machine);
        Price { moving, running: self.expected(like, machine) }
    }

    /// How many times longer than usual a machine takes.
    fn pace(&self, like: Like, machine: &str) -> f64 {
        let pace = like.on(machine).and_then(|key| self.paces.peek(&key));
        pace.copied().unwrap_or(1.0)
    }
}

impl fmt::Debug for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Placement").field("times", &self.times).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn machines_have_their_pace() {
        let mut placement = Placement::new();
        let like = Like::new("//a", "Cpp");
        assert_eq!(placement.expected(like, "fast"), None);
        for _ in 0..60 {
            placement.learn(like, "fast", seconds(10));
            placement.learn(like, "slow", seconds(30));
        }
        let [fast, slow, new] = ["fast", "slow", "new"].map(|name| placement.expected(like, name).unwrap());
        assert!(fast.as_secs_f64() > 9.0 && fast.as_secs_f64() < 11.0, "{fast:?}");
        assert!(slow.as_secs_f64() > 27.0 && slow.as_secs_f64() < 33.0, "{slow:?}");
        assert!(new > fast && new < slow, "{new:?}: usual");
        let another = Like::new("//b", "Cpp");
        assert!(placement.expected(another, "slow") > placement.expected(another, "fast"));
        assert_eq!(placement.expected(Like::new("//c", ""), "fast"), None);
    }

    proptest! {
        #[test]
        fn steps_grow_with_time_and_are_a_quarter_wide(short in 4..1_000_000_u64, more in 0..1_000_000_u64) {
            let step = |milliseconds| step(Duration::from_millis(milliseconds));
            prop_assert!(step(short) <= step(short + more));
            prop_assert!(step(short) < step(short + short.div_ceil(4)));
            prop_assert!(step(short + short / 8) <= step(short) + 1);
        }
    }
}
