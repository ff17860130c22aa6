//! Asks who else has the actions of this machine, and answers who asks here.
//!
//! Nobody is asked while no other machine has work of its own: then nobody can have the same.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use farmhand_proto::peer::ClaimRequest;
use farmhand_proto::peer::claim_request::Claim;
use farmhand_proto::peer::peer_client::PeerClient;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::action_cache::ActionKey;
use crate::execution::claims::{Claims, keeper};
use crate::execution::scheduler::Claimer;
use crate::execution::{OperationId, Scheduler};
use crate::peer::{MachineId, Peer, Peers};
use crate::tasks::Tasks;

/// Actions that wait to be claimed; more are run without.
const WAITING: usize = 4096;

/// Actions that are claimed in one call.
const BATCH: usize = 256;

/// How long an answer is waited for: who has no claim is no worse off.
const LIMIT: Duration = Duration::from_secs(2);

/// Who has what, as far as this machine is asked. Clones are the same.
#[derive(Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Claims>>);

/// Claims actions of this machine.
#[derive(Clone)]
pub(super) struct Asker {
    /// Whether any other machine has work of its own.
    pub(super) is_worth_it: Arc<AtomicBool>,
    wanted: mpsc::Sender<(OperationId, ActionKey)>,
}

/// What the task of an [`Asker`] needs.
pub(super) struct Asking {
    pub(super) me: MachineId,
    pub(super) scheduler: Scheduler,
    pub(super) ledger: Ledger,
    pub(super) peers: Peers,
    pub(super) tasks: Tasks,
}

// === impl Ledger ===

impl Ledger {
    /// `claimant` has the action; who else has.
    pub(super) fn claim(&self, claimant: MachineId, key: ActionKey) -> Option<MachineId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).claim(Instant::now(), claimant, key)
    }

    /// A machine is gone.
    pub(super) fn forget(&self, machine: MachineId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).forget(machine);
    }
}

// === impl Asker ===

impl Asker {
    /// Claims, by a task of `asking.tasks`, until that ends.
    pub(super) fn start(asking: Asking) -> Self {
        let (wanted, waiting) = mpsc::channel(WAITING);
        let tasks = asking.tasks.clone();
        tasks.spawn("claims", asking.run(waiting, tasks.token().clone()));
        Self { is_worth_it: Arc::default(), wanted }
    }
}

impl Claimer for Asker {
    fn claim(&self, operation: OperationId, key: &ActionKey) {
        if self.is_worth_it.load(Ordering::Relaxed) {
            // Who is too late runs it.
            let _ = self.wanted.try_send((operation, key.clone()));
        }
    }
}

// === impl Asking ===

impl Asking {
    async fn run(self, mut waiting: mpsc::Receiver<(OperationId, ActionKey)>, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Some(1..) = stop.run_until_cancelled(waiting.recv_many(&mut batch, BATCH)).await {
            self.ask(batch.drain(..));
        }
    }

    fn ask(&self, batch: impl Iterator<Item = (OperationId, ActionKey)>) {
        let linked: BTreeMap<_, _> =
            self.peers.all_linked().into_iter().map(|peer| (peer.id, peer)).collect();
        let mut elsewhere: BTreeMap<MachineId, Vec<(OperationId, ActionKey)>> = BTreeMap::new();
        for (operation, key) in batch {
            let all = linked.keys().copied().chain([self.me]);
            match keeper(&key, all) {
                Some(keeper) if keeper != self.me => {
                    elsewhere.entry(keeper).or_default().push((operation, key))
                }
                _ => {
                    let owner = self.ledger.claim(self.me, key).and_then(|owner| linked.get(&owner));
                    owner.inspect(|owner| self.scheduler.found_elsewhere(operation, &owner.name));
                }
            }
        }
        for (keeper, claims) in elsewhere {
            let (keeper, linked, scheduler) =
                (linked[&keeper].clone(), linked.clone(), self.scheduler.clone());
            self.tasks.spawn("claim", async move {
                for (operation, owner) in ask_one(&keeper, claims).await {
                    if let Some(owner) = linked.get(&owner) {
                        scheduler.found_elsewhere(operation, &owner.name);
                    }
                }
            });
        }
    }
}

/// Who else has these actions.
async fn ask_one(keeper: &Peer, claims: Vec<(OperationId, ActionKey)>) -> Vec<(OperationId, MachineId)> {
    let wire = claims.iter().map(|(_, key)| Claim {
        instance_name: key.instance.to_string(),
        action_digest: key.action.to_string(),
    });
    let request = ClaimRequest { claims: wire.collect() };
    let mut client = PeerClient::new(keeper.channel());
    let Ok(Ok(answer)) = timeout(LIMIT, client.claim(request)).await else { return Vec::new() };
    let taken = answer.into_inner().taken.into_iter();
    let found = taken.filter_map(|taken| {
        let (operation, _) = claims.get(usize::try_from(taken.index).ok()?)?;
        Some((*operation, MachineId::read(&taken.machine)?))
    });
    found.collect()
}
