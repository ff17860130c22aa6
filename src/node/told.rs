//! What the other machines of the farm are told of this one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use farmhand_proto::{control, peer};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::manners::{Welcome, in_words};
use super::safety::Safety;
use super::status::Tenancies;
use super::wire::{self, count};
use crate::cas::disk::{DiskCas, Held};
use crate::execution::Scheduler;
use crate::execution::lending::{Lender, Lent};
use crate::peer::Peers;
use crate::peer::members::Standing;
use crate::platform::{Load, MachineFacts, Readings};

/// How often it is looked whether there is something new.
const PERIOD: Duration = Duration::from_secs(1);

/// Time between two measurements of the load.
const LOAD_PERIOD: Duration = Duration::from_secs(5);

/// Least time between two counts of what perhaps no other machine has, and the part of the time that they may
/// take.
const SOLE_PERIOD: Duration = Duration::from_secs(2);
const SPARING: u32 = 100;

/// Tells them.
pub(super) struct Teller {
    pub(super) name: String,
    pub(super) facts: MachineFacts,
    pub(super) scheduler: Scheduler,
    pub(super) store: DiskCas,
    /// A directory on the disk of the store.
    pub(super) directory: PathBuf,
    pub(super) peers: Peers,
    /// What others may have.
    pub(super) welcome: Welcome,
    /// What the toolchain is recognised by.
    pub(super) toolchain: watch::Receiver<Arc<str>>,
    pub(super) lender: Lender,
    /// Who uses this machine.
    pub(super) tenancies: Tenancies,
    pub(super) safety: Safety,
}

/// What takes time to measure, while somebody is told of it.
#[derive(Default)]
struct Measured {
    before: Option<Readings>,
    at: Option<Instant>,
    load: Option<control::Load>,
    /// What perhaps no other machine has, and when that is counted again.
    sole: Held,
    count_at: Option<Instant>,
}

impl Teller {
    /// Tells them what is new until `stop` fires. Costs next to nothing while there are no others.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut measured = Measured::default();
        let mut is_told = false;
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            let is_heard = self.is_heard();
            if is_heard {
                self.measure(&mut measured).await;
                self.count_sole(&mut measured).await;
            } else {
                measured = Measured::default();
            }
            if is_heard || !is_told {
                is_told = self.tell(&measured).await;
            }
        }
    }

    fn is_heard(&self) -> bool {
        self.peers.list().iter().any(|peer| peer.calls || peer.standing == Standing::Linked)
    }

    async fn measure(&self, measured: &mut Measured) {
        if measured.at.is_some_and(|at| at.elapsed() < LOAD_PERIOD) {
            return;
        }
        let directory = self.directory.clone();
        let Ok(after) = tokio::task::spawn_blocking(move || Readings::take(&directory)).await else { return };
        if let Some(before) = &measured.before {
            measured.load = Some(wire::load(SystemTime::now(), &Load::between(before, &after)));
            measured.at = Some(Instant::now());
        }
        measured.before = Some(after);
    }

    /// Each entry of the store is looked at for it, so it is done sparingly.
    async fn count_sole(&self, measured: &mut Measured) {
        let begin = Instant::now();
        if measured.count_at.is_some_and(|at| begin < at) {
            return;
        }
        let store = self.store.clone();
        let Ok(stats) = tokio::task::spawn_blocking(move || store.stats()).await else { return };
        measured.sole = stats.sole;
        measured.count_at = Some(Instant::now() + SOLE_PERIOD.max(begin.elapsed() * SPARING));
    }

    async fn tell(&self, measured: &Measured) -> bool {
        let machines = self.scheduler.machines().await;
        let Some(machine) = machines.into_iter().find(|machine| *machine.name == *self.name) else {
            return false;
        };
        let Lent { slots, busy, .. } = self.lender.lent();
        let (usage, allowance) = (self.store.usage(), self.welcome.now(slots));
        let copies = self.safety.now(measured.sole);
        let mut state = peer::MachineState {
            slots: count(slots),
            busy: count(busy),
            guest_slots: count(allowance.slots),
            guests: Some(wire::guests(&(self.tenancies)())),
            state: wire::state(machine.duty, &allowance).into(),
            reason: in_words(machine.duty, &allowance, slots),
            toolchain: self.toolchain.borrow().to_string(),
            load: measured.load,
            used_bytes: usage.used_bytes,
            budget_bytes: usage.budget_bytes,
            ..wire::facts_to_wire(&self.facts)
        };
        copies.tell(&mut state);
        self.peers.publish(state);
        true
    }
}
