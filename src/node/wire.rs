//! How machines are put into messages, for people and for one another.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use farmhand_proto::control::{self, machine};
use farmhand_proto::peer::MachineState;
use farmhand_proto::protobuf;
use farmhand_proto::time::{duration, timestamp};

use super::safety;
use crate::execution::Duty;
use crate::execution::grants::Tenancy;
use crate::peer::PeerInfo;
use crate::peer::members::Standing;
use crate::platform::manners::Allowance;
use crate::platform::{Load, MachineFacts};

/// A number of things, as far as it can be told.
pub(super) fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// How a machine stands, as it is told.
pub(super) fn state(duty: Duty, allowance: &Allowance) -> machine::State {
    match duty {
        Duty::Active if allowance.reason.is_some() => machine::State::Yielding,
        Duty::Active => machine::State::Active,
        Duty::Draining => machine::State::Draining,
        Duty::Paused => machine::State::Paused,
    }
}

/// How busy a machine was when that was `measured`.
pub(super) fn load(measured: SystemTime, load: &Load) -> control::Load {
    control::Load {
        measured: Some(timestamp(measured)),
        cpu: load.cpu,
        memory_total: load.memory_total,
        memory_available: load.memory_available,
        cpu_pressure: load.cpu_pressure,
        memory_pressure: load.memory_pressure,
        io_pressure: load.io_pressure,
        received: load.received,
        sent: load.sent,
        disk_free: load.disk_free,
        disk_total: load.disk_total,
        load1: load.load1,
        on_battery: load.on_battery,
    }
}

/// Who uses slots, or waits for them; `owner` is the name of the machine.
pub(super) fn tenancy(owner: String, tenancy: &Tenancy) -> control::Tenancy {
    control::Tenancy {
        owner,
        person: tenancy.person.to_string(),
        // What is open to all is granted to nobody in particular.
        granted: count(tenancy.granted.max(tenancy.running)),
        running: count(tenancy.running),
        ahead: count(tenancy.ahead),
        waiting: count(tenancy.waiting),
    }
}

/// Actions of other machines that run here.
pub(super) fn guests(tenancies: &[control::Tenancy]) -> u32 {
    let others = tenancies.iter().filter(|tenancy| !tenancy.owner.is_empty());
    others.fold(0, |sum, tenancy| sum.saturating_add(tenancy.running))
}

/// What a machine is and has, and does not change.
pub(super) fn facts_to_wire(facts: &MachineFacts) -> MachineState {
    let labels = facts.labels.iter();
    MachineState {
        os: facts.os.clone(),
        isa: facts.isa.iter().cloned().collect(),
        cpus: u32::try_from(facts.cores).unwrap_or(u32::MAX),
        memory: facts.memory,
        pools: facts.pools.iter().cloned().collect(),
        labels: labels
            .flat_map(|(name, values)| values.iter().map(move |value| format!("{name}={value}")))
            .collect(),
        sandboxed: facts.sandboxed,
        container_tool: facts.container_tool.clone(),
        toolchain: facts.toolchain.clone(),
        ..Default::default()
    }
}

/// What a machine says it is and has.
pub(super) fn facts(state: &MachineState) -> MachineFacts {
    let mut labels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, value) in state.labels.iter().filter_map(|label| label.split_once('=')) {
        labels.entry(name.to_owned()).or_default().insert(value.to_owned());
    }
    MachineFacts {
        os: state.os.clone(),
        isa: state.isa.iter().cloned().collect(),
        cores: state.cpus.into(),
        memory: state.memory,
        pools: state.pools.iter().cloned().collect(),
        labels,
        sandboxed: state.sandboxed,
        container_tool: state.container_tool.clone(),
        toolchain: state.toolchain.clone(),
    }
}

/// Another machine, as it said and as its link shows.
pub(super) fn other_machine(peer: &PeerInfo) -> control::Machine {
    let told = peer.state.as_deref().cloned().unwrap_or_default();
    let (state, reason) = match &peer.standing {
        Standing::Linked => (told.state(), told.reason.clone()),
        Standing::Dialling => (machine::State::Connecting, "it is being dialled".to_owned()),
        Standing::Known(last_try) => (machine::State::Connecting, last_try.clone().unwrap_or_default()),
        Standing::Lost { reason, last_try, .. } => {
            let again = last_try.iter().map(|last_try| format!("; not reached since: {last_try}"));
            (machine::State::Lost, format!("{reason}{}", again.collect::<String>()))
        }
        Standing::Refused(reason) => (machine::State::Refused, reason.clone()),
        Standing::Incompatible(reason) => (machine::State::Incompatible, reason.clone()),
    };
    let mut machine = control::Machine {
        name: peer.name.to_string(),
        state: state.into(),
        is_self: false,
        slots: told.slots,
        busy: if peer.standing == Standing::Linked { told.busy } else { 0 },
        last_heard: peer.last_heard.map(duration),
        version: peer.program.to_string(),
        os: told.os.clone(),
        // Of several that hold there, the widest: `x86-64` and not `x86-32`.
        arch: told.isa.iter().max().cloned().unwrap_or_default(),
        cpus: told.cpus,
        load: told.load,
        found_by: peer.found_by.to_string(),
        used_bytes: told.used_bytes,
        budget_bytes: told.budget_bytes,
        id: peer.id.map(|id| id.to_string()).unwrap_or_default(),
        address: peer.address.clone().unwrap_or_default(),
        reason,
        round_trip: peer.round_trip.map(duration),
        clock_ahead: peer.clock_ahead.map(signed_micros),
        linked: peer.standing == Standing::Linked,
        links_back: peer.calls,
        boot_epoch: peer.boot_epoch.unwrap_or_default(),
        guest_slots: peer.state.as_ref().map(|told| told.guest_slots),
        guests: told.guests.filter(|_| peer.standing == Standing::Linked),
        toolchain: told.toolchain.clone(),
        ..Default::default()
    };
    safety::show_other(&told, &mut machine);
    machine
}

fn signed_micros(micros: i64) -> protobuf::Duration {
    let nanos = i32::try_from(micros % 1_000_000 * 1000).unwrap_or_default();
    protobuf::Duration { seconds: micros / 1_000_000, nanos }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_actions_of_others() {
        let tenancy =
            |owner: &str, running| control::Tenancy { owner: owner.into(), running, ..Default::default() };
        assert_eq!(guests(&[]), 0);
        assert_eq!(guests(&[tenancy("", 3), tenancy("cellar", 2), tenancy("shed", 1)]), 3);
        assert_eq!(guests(&[tenancy("cellar", u32::MAX), tenancy("shed", 1)]), u32::MAX);
    }
}
