//! [`Welcome`]: how many slots others may have now, so that whoever sits at this machine never minds.
//!
//! Every two seconds the signs of the machine are read ([`Signs`]) and judged ([`Manners`]). What comes of
//! it is told to who lends the slots, and guests that run are treated as the setting says: the node's own
//! worker has them stand still, or hands them back. While no other machine has a link to this one or the
//! other way round there are no guests, and nothing is read.
//!
//! That a person told the machine to rest is no matter of manners, but of its [`Duty`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::config::{GuestConfig, SlotShare};
use crate::execution::Duty;
use crate::execution::lending::Lender;
use crate::peer::Peers;
use crate::peer::members::Standing;
use crate::platform::Load;
use crate::platform::manners::{Allowance, Manners, Rules, Signs};
use crate::platform::presence::Presence;
use crate::tasks::Tasks;
use crate::worker::Worker;
use crate::worker::local::LocalWorker;

/// Time between two looks at the machine.
const PERIOD: Duration = Duration::from_secs(2);

/// What others may have. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Welcome {
    wanted: Arc<watch::Sender<SlotShare>>,
    allowance: watch::Receiver<Allowance>,
}

/// Watches over the machine.
struct Watch {
    settings: GuestConfig,
    wanted: watch::Receiver<SlotShare>,
    allowance: watch::Sender<Allowance>,
    manners: Manners,
    /// Nobody has it while it looks.
    presence: Option<Presence>,
    worker: Arc<LocalWorker>,
    lender: Lender,
    peers: Peers,
}

// === impl Welcome ===

impl Welcome {
    /// Watches over the machine of `worker`, whose slots `lender` lends, by a task of `tasks`.
    pub(super) fn start(
        settings: GuestConfig,
        worker: Arc<LocalWorker>,
        lender: Lender,
        peers: Peers,
        tasks: &Tasks,
    ) -> Self {
        let (wanted, told) = watch::channel(settings.slots);
        let rules = rules(&settings, settings.slots, worker.slots());
        let (allowance, told_allowance) =
            watch::channel(Allowance { slots: rules.guest_slots, reason: None });
        let manners = Manners::new(rules);
        let presence = Some(Presence::default());
        let watch = Watch { settings, wanted: told, allowance, manners, presence, worker, lender, peers };
        tasks.spawn("manners", watch.run(tasks.token().clone()));
        Self { wanted: Arc::new(wanted), allowance: told_allowance }
    }

    /// What others may have of a machine that has so many slots now.
    pub(super) fn now(&self, slots: usize) -> Allowance {
        let (wanted, allowance) = (self.wanted.borrow().resolve(slots), *self.allowance.borrow());
        // Where nothing speaks against it, what a person said a moment ago holds already.
        let allowed = if allowance.reason.is_some() { allowance.slots } else { wanted };
        Allowance { slots: allowed.min(wanted), ..allowance }
    }

    /// Lends so many slots from now on, until the node ends.
    pub(super) fn lend(&self, slots: SlotShare) {
        self.wanted.send_replace(slots);
    }
}

// === impl Watch ===

impl Watch {
    async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.watch()).await;
    }

    async fn watch(&mut self) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut members, mut was_linked) = (self.peers.changes(), false);
        loop {
            let is_due = tokio::select! {
                _ = ticks.tick() => true,
                Ok(()) = self.wanted.changed() => true,
                Ok(()) = members.changed() => false,
            };
            let is_linked = self.is_linked();
            if is_due || is_linked != was_linked {
                self.judge(is_linked).await;
            }
            was_linked = is_linked;
        }
    }

    fn is_linked(&self) -> bool {
        self.peers.list().iter().any(|peer| peer.calls || peer.standing == Standing::Linked)
    }

    /// Finds out what others may have, tells it, and has guests that run keep to it.
    async fn judge(&mut self, is_linked: bool) {
        let wanted = *self.wanted.borrow_and_update();
        let rules = rules(&self.settings, wanted, self.worker.slots());
        self.manners.keep_to(rules);
        let signs = if is_linked { self.read().await } else { self.look_away() };
        let allowance = match signs {
            Some(signs) => self.manners.see(Instant::now(), &signs),
            None => Allowance { slots: rules.guest_slots, reason: None },
        };
        self.lender.change_limits(|limits| limits.guests = allowance.slots);
        self.worker.limit_guests(allowance.slots, self.settings.running);
        let changed = self.allowance.send_if_modified(|told| {
            // How much memory is left is no news.
            let is_news = told.slots != allowance.slots
                || told.reason.map(|reason| reason.kind()) != allowance.reason.map(|reason| reason.kind());
            *told = allowance;
            is_news
        });
        if changed {
            let reason = allowance.reason.map(|reason| reason.to_string());
            tracing::info!(slots = allowance.slots, reason, "others may use this machine");
        }
    }

    /// What is seen next has nothing to do with what was seen last.
    fn look_away(&mut self) -> Option<Signs> {
        self.presence = Some(Presence::default());
        None
    }

    /// `None` if the reading panicked, which was logged.
    async fn read(&mut self) -> Option<Signs> {
        let mut presence = self.presence.take().unwrap_or_default();
        let read = move || {
            let untouched = presence.look(Instant::now(), SystemTime::now());
            (Signs { load: Load::of_vitals(), untouched }, presence)
        };
        let (signs, presence) = tokio::task::spawn_blocking(read).await.ok()?;
        self.presence = Some(presence);
        Some(signs)
    }
}

/// What a person allows, with so many slots.
fn rules(settings: &GuestConfig, wanted: SlotShare, slots: usize) -> Rules {
    let guest_slots = wanted.resolve(slots);
    Rules {
        guest_slots,
        on_battery: settings.on_battery,
        under_pressure: settings.under_pressure,
        while_used: settings.while_used.resolve(guest_slots),
        used_for: settings.used_for,
    }
}

/// Why a machine with so many slots lends fewer of them, in words; empty where it does not, and where a
/// person told it to rest.
pub(super) fn in_words(duty: Duty, allowance: &Allowance, slots: usize) -> String {
    match (duty, allowance.reason, allowance.slots) {
        (Duty::Active, Some(reason), 0) => format!("takes no guests: {reason}"),
        (Duty::Active, Some(reason), some) => format!("takes guests on {some} of {slots} slots: {reason}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::platform::manners::Reason;

    #[test]
    fn settings_are_resolved_with_the_slots_there_are() {
        let settings = Config::default().guests;
        let of = |wanted, slots| {
            let rules = rules(&settings, wanted, slots);
            (rules.guest_slots, rules.while_used)
        };
        assert_eq!(of(SlotShare::All, 8), (8, 4));
        assert_eq!(of(SlotShare::Half, 7), (4, 2));
        assert_eq!(of(SlotShare::Slots(9), 3), (3, 2));
        assert_eq!(of(SlotShare::Slots(0), 3), (0, 0));
    }

    #[test]
    fn what_is_taken_away_is_explained() {
        let words = |slots, reason| in_words(Duty::Active, &Allowance { slots, reason }, 8);
        assert_eq!(words(4, None), "");
        assert_eq!(words(0, Some(Reason::Battery)), "takes no guests: it runs on battery");
        let used = words(4, Some(Reason::Used));
        assert_eq!(used, "takes guests on 4 of 8 slots: somebody uses it");
        let used = Allowance { slots: 4, reason: Some(Reason::Used) };
        assert_eq!(in_words(Duty::Paused, &used, 8), "", "that is reason enough");
    }
}
