//! [`Keeping`]: whether copies on this machine count.
//!
//! A laptop may go at any moment, with what it has, so that nobody relies on it while it runs on battery.
//! Neither is anything moved because it was unplugged for a moment: it counts until it was on battery for
//! [`UNPLUGGED`], and again only after it had power for as long as a machine may be away. One that is on
//! battery when it is first looked at does not count.
//!
//! While no other machine has a link to this one or the other way round, nothing is read.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::config::{CopiesConfig, KeepCopies};
use crate::execution::Duty;
use crate::execution::scheduler::DutyByMachine;
use crate::peer::Peers;
use crate::peer::members::Standing;
use crate::platform;
use crate::replication::driver::Replication;
use crate::replication::roster::Role;
use crate::tasks::Tasks;

/// Time between two looks at what feeds the machine.
const PERIOD: Duration = Duration::from_secs(5);

/// On battery for so long, a machine does not count any more.
const UNPLUGGED: Duration = Duration::from_secs(60);

/// Why copies on a machine do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// A person said so.
    Told,
    /// It runs on battery, or did until a moment ago.
    Battery,
    /// It is about to leave.
    Leaving,
}

/// The state machine over what feeds the machine.
#[derive(Debug)]
pub(super) struct Keeping {
    keep: KeepCopies,
    /// How long it has to have power before it counts again.
    calm: Duration,
    /// Since when it runs on battery, or on mains, without a break; `None` before it was first looked at.
    since: Option<(bool, Instant)>,
    counts: bool,
}

/// Follows what feeds the machine, and what it was told to do.
pub(super) struct Watch {
    /// Of this machine.
    pub(super) name: String,
    pub(super) settings: CopiesConfig,
    /// Where the kernel tells what feeds it.
    pub(super) supplies: PathBuf,
    pub(super) duties: watch::Receiver<DutyByMachine>,
    pub(super) peers: Peers,
    /// Is told.
    pub(super) replication: Replication,
}

// === impl Reason ===

impl Reason {
    /// What a machine is for copies, of which this is known.
    pub(super) fn role(reason: Option<Self>) -> Role {
        match reason {
            None => Role::Counts,
            Some(Self::Told | Self::Battery) => Role::Transient,
            Some(Self::Leaving) => Role::Leaving,
        }
    }

    /// For people.
    pub(super) fn in_words(self) -> &'static str {
        match self {
            Self::Told => "it was told to (keep-copies = \"never\")",
            Self::Battery => "it runs on battery, or did until a moment ago",
            Self::Leaving => "it is about to leave",
        }
    }
}

// === impl Keeping ===

impl Keeping {
    /// As `settings` say.
    pub(super) fn new(settings: &CopiesConfig) -> Self {
        Self { keep: settings.keep, calm: settings.repair_after, since: None, counts: true }
    }

    /// Whether it makes a difference what feeds the machine.
    fn minds(&self) -> bool {
        self.keep == KeepCopies::Auto
    }

    /// Whether copies count now that it is seen what feeds the machine; `None` where that cannot be told.
    pub(super) fn see(&mut self, now: Instant, on_battery: Option<bool>) -> Option<Reason> {
        match self.keep {
            KeepCopies::Always => return None,
            KeepCopies::Never => return Some(Reason::Told),
            KeepCopies::Auto => {}
        }
        let on_battery = on_battery == Some(true);
        let is_first = self.since.is_none();
        let since = match self.since {
            Some((was, since)) if was == on_battery => since,
            _ => now,
        };
        self.since = Some((on_battery, since));
        let lasts = now.saturating_duration_since(since);
        self.counts = match on_battery {
            true => self.counts && !is_first && lasts < UNPLUGGED,
            false => self.counts || lasts >= self.calm,
        };
        (!self.counts).then_some(Reason::Battery)
    }

    /// What is seen next has nothing to do with what was seen last.
    fn look_away(&mut self) {
        (self.since, self.counts) = (None, true);
    }
}

/// Whether copies count on a machine with that duty, of which this was seen.
fn with_duty(seen: Option<Reason>, duty: Duty) -> Option<Reason> {
    if duty == Duty::Draining { Some(Reason::Leaving) } else { seen }
}

// === impl Watch ===

impl Watch {
    /// Follows it by a task of `tasks`: why copies here do not count, if they do not.
    pub(super) fn start(self, tasks: &Tasks) -> watch::Receiver<Option<Reason>> {
        let mut keeping = Keeping::new(&self.settings);
        let first = keeping.see(Instant::now(), platform::runs_on_battery(&self.supplies));
        self.replication.set_role(Reason::role(first));
        let (told, reason) = watch::channel(first);
        let stop = tasks.token().clone();
        tasks.spawn("keeping", stop.run_until_cancelled_owned(self.run(keeping, first, told)));
        reason
    }

    async fn run(
        mut self,
        mut keeping: Keeping,
        mut seen: Option<Reason>,
        told: watch::Sender<Option<Reason>>,
    ) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick(), if keeping.minds() => {
                    if self.is_linked() {
                        seen = self.look(&mut keeping).await;
                    } else {
                        keeping.look_away();
                    }
                }
                Ok(()) = self.duties.changed() => {}
                else => return,
            }
            let duty = self.duties.borrow_and_update().get(self.name.as_str()).copied().unwrap_or_default();
            let reason = with_duty(seen, duty);
            if told.send_if_modified(|told| std::mem::replace(told, reason) != reason) {
                self.replication.set_role(Reason::role(reason));
                let because = reason.map(Reason::in_words);
                tracing::info!(because, counts = reason.is_none(), "whether copies here count has changed");
            }
        }
    }

    fn is_linked(&self) -> bool {
        self.peers.list().iter().any(|peer| peer.calls || peer.standing == Standing::Linked)
    }

    async fn look(&self, keeping: &mut Keeping) -> Option<Reason> {
        let supplies = self.supplies.clone();
        let read = tokio::task::spawn_blocking(move || platform::runs_on_battery(&supplies)).await;
        // A panic there was logged.
        keeping.see(Instant::now(), read.ok().flatten())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::Config;

    fn keeping(keep: KeepCopies) -> Keeping {
        Keeping::new(&CopiesConfig { keep, ..Config::default().copies })
    }

    /// What is seen at each of these seconds.
    fn counts(keeping: &mut Keeping, seen: &[(u64, Option<bool>)]) -> Vec<bool> {
        let begin = Instant::now();
        let see = |(second, on_battery): &(u64, _)| {
            keeping.see(begin + Duration::from_secs(*second), *on_battery).is_none()
        };
        seen.iter().map(see).collect()
    }

    #[test]
    fn a_person_has_the_last_word() {
        let battery = [(0, Some(true)), (1000, Some(true))];
        assert_eq!(counts(&mut keeping(KeepCopies::Always), &battery), [true, true]);
        assert_eq!(counts(&mut keeping(KeepCopies::Never), &[(0, None)]), [false]);
        assert_eq!(keeping(KeepCopies::Never).see(Instant::now(), None), Some(Reason::Told));
    }

    #[test]
    fn a_machine_without_battery_counts_at_once() {
        assert_eq!(counts(&mut keeping(KeepCopies::Auto), &[(0, None), (5, None)]), [true, true]);
        assert_eq!(counts(&mut keeping(KeepCopies::Auto), &[(0, Some(false))]), [true]);
    }

    #[test]
    fn one_that_is_unplugged_for_a_moment_goes_on_counting() {
        let mut laptop = keeping(KeepCopies::Auto);
        let seen = [(0, Some(false)), (5, Some(true)), (64, Some(true)), (65, Some(false)), (70, Some(true))];
        assert_eq!(counts(&mut laptop, &seen), [true; 5]);
        assert_eq!(counts(&mut laptop, &[(100, Some(true)), (171, Some(true))]), [true, false]);
    }

    #[test]
    fn one_that_was_on_battery_counts_when_it_had_power_for_long() {
        let seen =
            [(0, Some(true)), (10, Some(false)), (600, Some(false)), (601, Some(true)), (610, Some(false))];
        let mut laptop = keeping(KeepCopies::Auto);
        assert_eq!(counts(&mut laptop, &seen), [false; 5], "it was on battery at first");
        let mut laptop = keeping(KeepCopies::Auto);
        let seen = [(0, Some(true)), (10, Some(false)), (609, Some(false)), (610, Some(false))];
        assert_eq!(counts(&mut laptop, &seen), [false, false, false, true]);
        laptop.look_away();
        assert_eq!(
            counts(&mut laptop, &[(0, Some(true))]),
            [false],
            "who comes with its battery goes with it"
        );
    }

    #[test]
    fn a_battery_is_read_from_the_files_of_the_kernel() {
        let supplies = tempfile::tempdir().unwrap();
        let write = |supply: &str, file: &str, text: &str| {
            fs::create_dir_all(supplies.path().join(supply)).unwrap();
            fs::write(supplies.path().join(supply).join(file), text).unwrap();
        };
        assert_eq!(platform::runs_on_battery(supplies.path()), None);
        assert_eq!(platform::runs_on_battery(&supplies.path().join("none")), None);
        write("BAT0", "type", "Battery\n");
        write("BAT0", "status", "Discharging\n");
        write("AC", "type", "Mains\n");
        write("AC", "online", "0\n");
        assert_eq!(platform::runs_on_battery(supplies.path()), Some(true));
        write("AC", "online", "1\n");
        assert_eq!(platform::runs_on_battery(supplies.path()), Some(false));
    }

    #[test]
    fn a_machine_that_drains_leaves_whatever_feeds_it() {
        assert_eq!(Reason::role(with_duty(None, Duty::Draining)), Role::Leaving);
        assert_eq!(Reason::role(with_duty(Some(Reason::Told), Duty::Draining)), Role::Leaving);
        assert_eq!(Reason::role(with_duty(Some(Reason::Battery), Duty::Active)), Role::Transient);
        assert_eq!(Reason::role(with_duty(None, Duty::Paused)), Role::Counts);
    }
}
