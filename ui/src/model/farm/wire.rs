//! Makes the texts of messages harmless.

use farmhand_proto::control;

use crate::sanitize::in_place;

/// Users of a machine, newcomers and addresses that are kept.
const TENANCIES: usize = 256;
const NEWCOMERS: usize = 16;
const ADDRESSES: usize = 8;

/// Of the node.
pub(super) fn clean_node(node: &mut control::Node) {
    for text in [&mut node.name, &mut node.version, &mut node.data_dir, &mut node.sandbox, &mut node.farm] {
        in_place(text);
    }
    if let Some(doors) = &mut node.endpoints {
        for text in [&mut doors.reapi, &mut doors.reapi_socket, &mut doors.peers, &mut doors.control] {
            in_place(text);
        }
    }
}

/// Of a machine.
pub(super) fn clean_machine(machine: &mut control::Machine) {
    let control::Machine { name, version, os, arch, found_by, id, address, reason, tenancies, .. } = machine;
    for text in [name, version, os, arch, found_by, id, address, reason, &mut machine.caches_because] {
        in_place(text);
    }
    tenancies.truncate(TENANCIES);
    for tenancy in tenancies {
        in_place(&mut tenancy.owner);
        in_place(&mut tenancy.person);
    }
}

/// Of what stands open to newcomers.
pub(super) fn clean_entrance(entrance: &mut control::Entrance) {
    entrance.waiting.truncate(NEWCOMERS);
    for newcomer in &mut entrance.waiting {
        for text in [&mut newcomer.name, &mut newcomer.machine_id, &mut newcomer.check_words] {
            in_place(text);
        }
    }
    if let Some(open) = &mut entrance.invitation {
        open.addresses.truncate(ADDRESSES);
        open.addresses.iter_mut().chain([&mut open.farm]).for_each(in_place);
    }
}

/// Of a warning.
pub(super) fn clean_warning(warning: &mut control::Warning) {
    in_place(&mut warning.text);
    in_place(&mut warning.remedy);
}

/// Of a build.
pub(super) fn clean_build(build: &mut control::Build) {
    let control::Build { invocation, correlated, tool, user, machine, .. } = build;
    for text in [invocation, correlated, tool, user, machine] {
        in_place(text);
    }
}
