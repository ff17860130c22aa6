//! What people and other machines are told of copies: how far they are, what would be lost with a machine,
//! and what to do about it.

use std::time::Duration;

use farmhand_proto::control::{self, warning};
use farmhand_proto::peer::MachineState;
use farmhand_proto::time::duration;
use tokio::sync::watch;

use super::keeping::{self, Reason};
use super::whole::Whole;
use super::wire::count;
use crate::cas::disk::{DiskStats, Held};
use crate::config::{Config, CopiesConfig};
use crate::execution::Scheduler;
use crate::peer::members::Standing;
use crate::peer::{PeerInfo, Peers};
use crate::platform::POWER_SUPPLIES;
use crate::replication::driver::{Replication, Status};
use crate::replication::elsewhere::Elsewhere;
use crate::replication::roster::Role;
use crate::tasks::Tasks;

/// A write that has too few copies for so long is worth a word.
const LONG: Duration = Duration::from_secs(60);

/// Sees to copies, and knows how they stand. Clones are the same.
#[derive(Clone)]
pub(super) struct Safety {
    replication: Replication,
    elsewhere: Elsewhere,
    /// Why copies here do not count, if they do not.
    keeping: watch::Receiver<Option<Reason>>,
}

/// How copies stand on this machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copies {
    /// Why they do not count, if they do not.
    pub(super) reason: Option<Reason>,
    /// Copies to be made, with their bytes.
    pub(super) owed: Held,
    /// What perhaps nobody else has.
    pub(super) sole: Held,
    /// Whether all that is here was compared with what others have since this machine is what it is.
    pub(super) is_compared: bool,
    /// Whether of each entry that has its copies one is on a machine there is a link to.
    pub(super) is_reachable: bool,
}

// === impl Safety ===

impl Safety {
    /// Has copies made of what is here, by tasks of `tasks`, as this machine and its `peers` come and go.
    pub(super) fn start(
        config: &Config,
        whole: &Whole,
        scheduler: &Scheduler,
        peers: &Peers,
        tasks: &Tasks,
    ) -> Self {
        let watch = keeping::Watch {
            name: config.name.clone(),
            settings: config.copies,
            supplies: POWER_SUPPLIES.into(),
            duties: scheduler.duties(),
            peers: peers.clone(),
            replication: whole.replication.clone(),
        };
        let keeping = watch.start(tasks);
        whole.replication.start(peers.clone(), tasks);
        Self { replication: whole.replication.clone(), elsewhere: whole.elsewhere.clone(), keeping }
    }

    /// How far copies are.
    pub(super) fn status(&self) -> Status {
        let (status, read) = (self.replication.status(), self.elsewhere.fetched());
        Status {
            fetched_entries: status.fetched_entries + read.blobs,
            fetched_bytes: status.fetched_bytes + read.bytes,
            ..status
        }
    }

    /// Whether there are other machines that could have copies.
    pub(super) fn has_others(&self) -> bool {
        self.replication.others().roster().machines().len() > 1
    }

    /// How copies stand on this machine, where that is `sole`.
    pub(super) fn now(&self, sole: Held) -> Copies {
        let (status, roster) = (self.replication.status(), self.replication.others().roster());
        let (reason, known) = (*self.keeping.borrow(), roster.machine(roster.me()).map(|me| me.role));
        let away = roster.machines().iter().filter(|machine| machine.counts() && !machine.is_linked).count();
        Copies {
            reason,
            owed: Held { entries: status.owed_copies, bytes: status.owed_bytes },
            sole,
            is_compared: known == Some(Reason::role(reason)) && status.compared >= 1.0,
            is_reachable: away < status.copies,
        }
    }
}

// === impl Copies ===

impl Copies {
    /// Puts it into what other machines are told.
    pub(super) fn tell(&self, state: &mut MachineState) {
        let role = Reason::role(self.reason);
        state.keeps_copies = Some(role == Role::Counts);
        state.transient = role == Role::Transient;
        state.leaving = role == Role::Leaving;
        (state.owed_copies, state.owed_bytes) = (self.owed.entries, self.owed.bytes);
        (state.sole_entries, state.sole_bytes) = (self.sole.entries, self.sole.bytes);
    }

    /// Puts it into what people are told; `is_idle` where nothing waits or runs here.
    pub(super) fn show(&self, machine: &mut control::Machine, is_idle: bool) {
        machine.keeps_copies = self.reason.is_none();
        machine.caches_because = self.reason.map(Reason::in_words).unwrap_or_default().to_owned();
        (machine.owed_copies, machine.owed_bytes) = (self.owed.entries, self.owed.bytes);
        (machine.sole_entries, machine.sole_bytes) = (self.sole.entries, self.sole.bytes);
        let is_leaving = self.reason == Some(Reason::Leaving) && self.is_compared;
        machine.safe_to_leave =
            is_leaving && self.is_reachable && is_idle && self.owed.entries == 0 && self.sole.entries == 0;
    }
}

/// Puts what another machine `told` of its copies into what people are told of it.
pub(super) fn show_other(told: &MachineState, machine: &mut control::Machine) {
    machine.keeps_copies = told.keeps_copies.unwrap_or_default();
    machine.caches_because = match told {
        _ if machine.keeps_copies => "",
        MachineState { leaving: true, .. } => "it is about to leave",
        MachineState { transient: true, .. } => "it runs on battery, or was told to keep none",
        MachineState { keeps_copies: None, os, .. } if !os.is_empty() => "its program keeps none",
        _ => "",
    }
    .to_owned();
    (machine.owed_copies, machine.owed_bytes) = (told.owed_copies, told.owed_bytes);
    (machine.sole_entries, machine.sole_bytes) = (told.sole_entries, told.sole_bytes);
    let nothing_left = told.busy == 0 && told.owed_copies == 0 && told.sole_entries == 0;
    machine.safe_to_leave = told.leaving && nothing_left && machine.linked;
}

/// How far the copies of the farm are, of which this node has `stats`.
pub(super) fn replication(status: &Status, stats: &DiskStats) -> control::Replication {
    let DiskStats { sole, counted, spare, .. } = stats;
    control::Replication {
        copies_wanted: count(status.copies_wanted),
        copies: count(status.copies),
        keepers: count(status.keepers),
        owed_copies: status.owed_copies,
        owed_bytes: status.owed_bytes,
        repair_copies: status.repair_copies,
        repair_bytes: status.repair_bytes,
        lag: status.lag.map(duration),
        bytes_per_second: status.bytes_per_second,
        remaining: status.remaining.map(duration),
        compared: status.compared,
        sole_entries: sole.entries,
        sole_bytes: sole.bytes,
        counted_entries: counted.entries,
        counted_bytes: counted.bytes,
        spare_entries: spare.entries,
        spare_bytes: spare.bytes,
        sent_copies: status.sent_copies,
        sent_bytes: status.sent_bytes,
        fetched_entries: status.fetched_entries,
        fetched_bytes: status.fetched_bytes,
        healed: status.healed,
        refused_copies: status.refused_copies,
    }
}

/// What people should know of the copies of a farm with these other machines.
pub(super) fn warnings(
    settings: &CopiesConfig,
    status: &Status,
    others: &[PeerInfo],
) -> Vec<control::Warning> {
    let mut warnings = Vec::new();
    if settings.before_ack > status.copies.max(1) {
        let text = format!(
            "writes fail: copies-before-ack is {}, and the farm can keep {} of each blob",
            settings.before_ack, status.copies
        );
        warnings.push(alarm(&text, "start more machines that keep copies, or lower `copies-before-ack`"));
    }
    let is_farm = others.iter().any(|peer| peer.standing == Standing::Linked);
    if is_farm && status.copies < settings.wanted {
        let text = match status.keepers {
            0 => "no machine of the farm keeps copies".to_owned(),
            1 => format!(
                "one machine keeps copies, and {} are wanted: what it has is nowhere else",
                settings.wanted
            ),
            some => format!("{some} machines keep copies, and {} are wanted", settings.wanted),
        };
        let remedy =
            "farmhand invite lets another machine in; or lower `copies`, or set `keep-copies` to \"always\"";
        warnings.push(advice(&text, remedy));
    }
    let lost: Vec<_> = others.iter().filter_map(|peer| lost(peer, settings.repair_after)).collect();
    let is_any_lost = !lost.is_empty();
    warnings.extend(lost);
    if status.refused_copies > 0 {
        let text = format!("no machine has room for {}", copies(status.refused_copies));
        warnings
            .push(alarm(&text, "raise `disk-budget` on a machine that keeps copies, or have another join"));
    }
    let stuck = status.lag.filter(|lag| *lag > LONG && status.bytes_per_second == 0 && !is_any_lost);
    if let Some(lag) = stuck.filter(|_| status.refused_copies == 0) {
        let text = format!("no copies could be made for {}: {} wait", words(lag), copies(status.owed_copies));
        warnings
            .push(alarm(&text, "farmhand machines says which machines answer, farmhand logs what they said"));
    }
    warnings
}

/// A machine whose copies will be made anew elsewhere, unless it comes back.
fn lost(peer: &PeerInfo, grace: Duration) -> Option<control::Warning> {
    let Standing::Lost { since, .. } = &peer.standing else { return None };
    let told = peer.state.as_ref().filter(|told| told.keeps_copies == Some(true))?;
    let left = grace.checked_sub(since.elapsed()).filter(|left| !left.is_zero())?;
    let text = format!(
        "{} is gone; if it does not come back within {}, the copies it has ({} MiB) are made anew elsewhere",
        peer.name,
        words(left),
        told.used_bytes.div_ceil(1 << 20)
    );
    Some(advice(&text, "start it again; or do nothing, and they are"))
}

fn words(length: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(length.as_secs()))
}

fn copies(number: u64) -> String {
    if number == 1 { "a copy".to_owned() } else { format!("{number} copies") }
}

fn advice(text: &str, remedy: &str) -> control::Warning {
    control::Warning {
        level: warning::Level::Advice.into(),
        text: text.to_owned(),
        remedy: remedy.to_owned(),
    }
}

fn alarm(text: &str, remedy: &str) -> control::Warning {
    control::Warning { level: warning::Level::Alarm.into(), ..advice(text, remedy) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::*;
    use crate::peer::members::FoundBy;

    fn peer(standing: Standing) -> PeerInfo {
        let told = MachineState { keeps_copies: Some(true), used_bytes: 3 << 20, ..Default::default() };
        PeerInfo {
            id: None,
            name: "cellar".into(),
            program: "0".into(),
            standing,
            found_by: FoundBy::Mdns,
            address: None,
            boot_epoch: None,
            last_heard: None,
            round_trip: None,
            clock_ahead: None,
            calls: false,
            state: Some(Arc::new(told)),
        }
    }

    fn told(status: &Status, others: &[PeerInfo]) -> Vec<String> {
        let settings = Config::default().copies;
        warnings(&settings, status, others).into_iter().map(|warning| warning.text).collect()
    }

    fn status(copies: usize) -> Status {
        Status { copies_wanted: 2, copies, keepers: copies, compared: 1.0, ..Status::default() }
    }

    #[tokio::test]
    async fn too_few_machines_are_worth_a_word_in_a_farm_only() {
        assert_eq!(told(&status(1), &[]), [""; 0]);
        let linked = [peer(Standing::Linked)];
        assert_eq!(told(&status(2), &linked), [""; 0]);
        let one = "one machine keeps copies, and 2 are wanted: what it has is nowhere else";
        assert_eq!(told(&status(1), &linked), [one]);
        assert_eq!(told(&status(0), &linked), ["no machine of the farm keeps copies"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_is_gone_is_waited_for() {
        let lost = Standing::Lost { since: Instant::now(), reason: String::new(), last_try: None };
        let others = [peer(lost)];
        let gone = "cellar is gone; if it does not come back within 10m, the copies it has (3 MiB) are made anew \
                    elsewhere";
        assert_eq!(told(&status(2), &others), [gone]);
        tokio::time::advance(Config::default().copies.repair_after).await;
        assert_eq!(told(&status(2), &others), [""; 0]);
    }

    #[test]
    fn copies_that_cannot_be_made_are_an_alarm() {
        let stuck = Status { lag: Some(Duration::from_secs(61)), owed_copies: 3, ..status(2) };
        assert_eq!(told(&stuck, &[]), ["no copies could be made for 1m 1s: 3 copies wait"]);
        assert_eq!(told(&Status { bytes_per_second: 1, ..stuck.clone() }, &[]), [""; 0]);
        let full = Status { refused_copies: 1, ..stuck };
        assert_eq!(told(&full, &[]), ["no machine has room for a copy"]);
        let settings = CopiesConfig { before_ack: 2, ..Config::default().copies };
        let failing = warnings(&settings, &status(1), &[]);
        assert_eq!(failing[0].level(), warning::Level::Alarm);
        assert_eq!(
            failing[0].text,
            "writes fail: copies-before-ack is 2, and the farm can keep 1 of each blob"
        );
    }

    #[test]
    fn who_leaves_is_safe_when_all_it_has_is_elsewhere() {
        let nothing = Held::default();
        let some = Held { entries: 1, bytes: 2 };
        let leaving = Copies {
            reason: Some(Reason::Leaving),
            owed: nothing,
            sole: nothing,
            is_compared: true,
            is_reachable: true,
        };
        let is_safe = |copies: Copies, is_idle| {
            let mut machine = control::Machine::default();
            copies.show(&mut machine, is_idle);
            machine.safe_to_leave
        };
        assert!(is_safe(leaving, true));
        for copies in [
            Copies { reason: None, ..leaving },
            Copies { owed: some, ..leaving },
            Copies { sole: some, ..leaving },
            Copies { is_compared: false, ..leaving },
            Copies { is_reachable: false, ..leaving },
        ] {
            assert!(!is_safe(copies, true), "{copies:?}");
        }
        assert!(!is_safe(leaving, false));
    }

    #[test]
    fn what_another_machine_is_for_copies_is_told_in_words() {
        let because = |told: MachineState| {
            let mut machine = control::Machine::default();
            show_other(&told, &mut machine);
            machine.caches_because
        };
        let no = MachineState { keeps_copies: Some(false), os: "linux".into(), ..Default::default() };
        assert!(because(MachineState { transient: true, ..no.clone() }).contains("battery"));
        assert_eq!(because(MachineState { leaving: true, ..no.clone() }), "it is about to leave");
        assert_eq!(because(MachineState { keeps_copies: None, ..no.clone() }), "its program keeps none");
        assert_eq!(because(MachineState { keeps_copies: Some(true), ..no }), "");
        assert_eq!(because(MachineState::default()), "", "nothing is known yet");
    }
}
