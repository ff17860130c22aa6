//! The names of platform properties: what each one of them means here.
//!
//! Clients and servers have made many names for few things. [`meaning`] is the only place that knows them, and
//! the table in ARCHITECTURE.md says the same for people (a test compares the two). A name that is not here is
//! *unknown*, which the instance has a policy for; none is passed over in silence.

use std::fmt;

/// What a property asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The family of operating systems.
    OsFamily,
    /// An instruction set that is needed.
    Isa,
    /// A pool the machine has to be in.
    Pool,
    /// The network: words for on and off.
    Network,
    /// The network of the host if true.
    NeedsNetwork,
    /// No network if true.
    BlocksNetwork,
    /// Where the input root stands.
    Root,
    /// User id.
    Uid,
    /// Group id.
    Gid,
    /// User id, or user and group id with a colon.
    User,
    /// User and group 0 if true.
    AsRoot,
    /// macOS if true.
    NeedsDarwin,
    /// Cores of a processor.
    Cores,
    /// Memory, in this unit where the value has none.
    Memory(Unit),
    /// Cores and memory in one number.
    ComputeUnits,
    /// How many of something that only labels say a machine has.
    Amount,
    /// A label of the machine.
    Label,
    /// An image of a container to run in.
    Container,
    /// A socket of the Remote Execution API in the input root.
    ApisSocket,
    /// Tells persistent workers apart.
    WorkerKey,
    /// What a persistent worker speaks.
    WorkerProtocol,
    /// Nothing has to be done for it, whatever the value: see ARCHITECTURE.md why.
    Harmless,
    /// Nothing has to be done for these values, in small letters; all others are refused.
    Only(&'static [&'static str], Refused),
}

/// Unit of an amount of memory without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// 1.
    Bytes,
    /// 1024.
    KiB,
    /// 1024 * 1024.
    MiB,
}

/// Why the value of a known property is not served, and what would help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is about a container runtime.
    Runtime,
    /// It is about rights on the host.
    Privileges,
    /// It is about virtual machines, or other ways to keep actions apart.
    Isolation,
    /// It is about a root that is named apart from the inputs.
    OtherRoot,
    /// It hands out secrets.
    Secrets,
    /// It is a container image that nothing but a tag names.
    Unpinned,
    /// It is a container, and the input root is to be `/`.
    TwoRoots,
    /// It is a container, with an id that is not the usual one.
    ContainerUser,
    /// It is a container, and a socket is to be in it.
    ContainerSocket,
    /// It is a socket for an action of an action of another machine.
    NestedGuest,
}

/// Values that switch something off.
const OFF: &[&str] = &["", "false", "0", "no"];

/// What a name means; `None` if it means nothing here.
pub(super) fn meaning(name: &str) -> Option<Meaning> {
    use Meaning::*;
    Some(match name {
        "OSFamily" | "os_family" => OsFamily,
        "requires-darwin" => NeedsDarwin,
        "ISA" | "Arch" | "arch" | "cpu_arch" | "cpu-arch" => Isa,
        "Pool" | "pool" | "choose-queue" => Pool,
        "network" | "dockerNetwork" => Network,
        "requires-network" => NeedsNetwork,
        "block-network" => BlocksNetwork,
        "InputRootAbsolutePath" | "input-root" => Root,
        "unixUID" => Uid,
        "unixGID" => Gid,
        "dockerUser" => User,
        "dockerRunAsRoot" | "requires-fakeroot" => AsRoot,
        "resources:cpu" | "cpu_count" | "min_cpu" | "min-cpu" | "min-cores" | "EstimatedCPU" => Cores,
        "resources:memory" | "memory" | "min_mem" | "min-mem" => Memory(Unit::MiB),
        "memory_kb" => Memory(Unit::KiB),
        "EstimatedMemory" => Memory(Unit::Bytes),
        "EstimatedComputeUnits" => ComputeUnits,
        "container-image" | "docker_image" => Container,
        "remoteApisSocketPath" => ApisSocket,
        "persistentWorkerKey" => WorkerKey,
        "persistentWorkerProtocol" | "requires-worker-protocol" => WorkerProtocol,
        "dockerRuntime" => Only(&["", "runc", "crun"], Refused::Runtime),
        "dockerUlimits" | "dockerShmSize" => Only(&[""], Refused::Runtime),
        "dockerPrivileged" | "dockerSiblingContainers" => Only(OFF, Refused::Privileges),
        "dockerAddCapabilities" => Only(&[""], Refused::Privileges),
        "workload-isolation-type" => Only(&["", "none", "sandbox", "docker", "podman"], Refused::Isolation),
        "include-secrets" => Only(OFF, Refused::Secrets),
        "chrootRootDigest" => Only(&[""], Refused::OtherRoot),
        "cache-silo"
        | "cache-silo-key"
        | "dockerReuse"
        | "dockerInit"
        | "dockerDropCapabilities"
        | "recycle-runner"
        | "preserve-workspace"
        | "nonroot-workspace"
        | "use-self-hosted-executors"
        | "max-cores"
        | "max-mem"
        | "EstimatedFreeDiskBytes"
        | "no-sandbox" => Harmless,
        "gceMachineType" | "machine-type" | "cpu_model" | "cpu_vendor" | "kernel_version" => Label,
        _ if name.strip_prefix("label:").is_some_and(|rest| !rest.is_empty()) => Label,
        _ if name.strip_prefix("resources:").is_some_and(|rest| !rest.is_empty()) => Amount,
        _ => return None,
    })
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Runtime => "how containers are run is not for actions to say; leave it out",
            Self::Privileges => "actions never get privileges on the host",
            Self::Isolation => "actions run in the built-in sandbox or in a container; leave it out",
            Self::OtherRoot => {
                "a root apart from the inputs is not staged; make it the input root, with input-root=/"
            }
            Self::Secrets => "there are no secrets to hand out here; leave it out",
            Self::Unpinned => {
                "an image may change under its name, and cached results would be wrong then; \
                 name it by digest: docker://NAME@sha256:… (`podman image inspect NAME` shows it)"
            }
            Self::TwoRoots => "an action has its root from its inputs or from an image, not from both",
            Self::ContainerSocket => "there is no such socket in containers; run it without container-image",
            Self::NestedGuest => "an action that runs for another machine has no socket to pass on",
            Self::ContainerUser => {
                "in a container actions run as the user of the node, who is root there; leave the id out"
            }
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The column of names in the table of ARCHITECTURE.md.
    fn documented() -> Vec<&'static str> {
        let text = include_str!("../../ARCHITECTURE.md");
        let (_, table) = text.split_once("| property | what becomes of it |").unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let columns = rows.map(|row| row.split('|').nth(1).unwrap());
        columns.flat_map(|column| column.split('`').skip(1).step_by(2)).collect()
    }

    #[test]
    fn every_name_that_is_documented_is_known_and_the_other_way_round() {
        let documented = documented();
        for name in &documented {
            assert!(meaning(name).is_some(), "{name} is in the table and means nothing");
        }
        let code = include_str!("names.rs");
        let (_, code) = code.split_once("use Meaning::*;").unwrap();
        let (code, _) = code.split_once("_ if name").unwrap();
        let names = code.lines().filter_map(|line| line.split("=>").next()).filter(|line| line.contains('"'));
        let names: Vec<_> = names.flat_map(|line| line.split('"').skip(1).step_by(2)).collect();
        assert!(names.len() > 50, "{names:?}");
        for name in names {
            assert!(documented.contains(&name), "{name} is not in the table of ARCHITECTURE.md");
        }
    }

    #[test]
    fn families_of_names_need_a_name() {
        assert_eq!(meaning("label:large"), Some(Meaning::Label));
        assert_eq!(meaning("resources:gpu"), Some(Meaning::Amount));
        for name in ["label:", "resources:", "", "osfamily", "foo"] {
            assert_eq!(meaning(name), None, "{name:?}");
        }
    }
}
