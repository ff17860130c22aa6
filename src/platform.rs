//! Platform properties: what an action asks of the machine it runs on.
//!
//! [`Requirements::parse`] reads the `Platform` messages of an action once. Values that make no
//! sense are refused there, by name, as the client's fault. Whether a given machine can meet
//! them is for [`Requirements::mismatches`] with that machine's [`MachineFacts`]. Nothing is
//! silently dropped: each known property has an effect, is harmless by its meaning, or leads to a
//! mismatch; unknown ones follow the policy of the instance, [`UnknownProperties`].
//!
//! The names are those of the REAPI platform lexicon (`OSFamily`, `ISA`) and of the clients in use.

use std::collections::BTreeMap;
use std::path::{Component as PathComponent, Path, PathBuf};

use farmhand_proto::reapi;

use crate::config::UnknownProperties;

mod load;
mod machine;
pub mod manners;
pub mod presence;
pub mod toolchain;

pub use load::{Load, POWER_SUPPLIES, Readings, runs_on_battery};
pub use machine::{MachineFacts, architecture, total_memory};

/// What an action asks for, parsed from `Platform` messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// All properties as sent: name to its values.
    pub properties: BTreeMap<String, Vec<String>>,
    /// `OSFamily`, in lower case.
    pub os_family: Option<String>,
    /// `ISA` and `Arch`: names of the lexicon, all of which are needed.
    pub isa: Vec<String>,
    /// `Pool`: labels, all of which are needed.
    pub pools: Vec<String>,
    /// `network` and `dockerNetwork`; `None` when nothing is said.
    pub network: Option<NetworkAccess>,
    /// Where the input root stands: `InputRootAbsolutePath` and `input-root`.
    pub input_root: InputRootPlace,
    /// `unixUID`; 0 for `dockerRunAsRoot=true`.
    pub uid: Option<u32>,
    /// `unixGID`; 0 for `dockerRunAsRoot=true`.
    pub gid: Option<u32>,
    /// Thousandths of a CPU core.
    pub millicores: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Known properties with values that nothing here serves.
    pub unserved: Vec<Unserved>,
    /// Names that mean nothing to this version.
    pub unknown: Vec<String>,
    /// What becomes of those.
    pub unknown_policy: UnknownProperties,
    /// Name of the one machine it is to run on. No property says so; a person may.
    pub machine: Option<String>,
}

/// Network an action asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkAccess {
    /// A loopback interface only.
    Loopback,
    /// The network of the host.
    Host,
}

/// Where an action wants its input root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum InputRootPlace {
    /// Wherever the worker puts it.
    #[default]
    Worker,
    /// At this absolute path, beside the toolchain of the host.
    At(PathBuf),
    /// It is `/` itself: nothing of the host is visible.
    Filesystem,
}

/// A known property whose value cannot be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unserved {
    /// Name of the property.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Why not, and what would help.
    pub reason: &'static str,
}

/// A property that makes no sense: the client's fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// A value outside what the property can have.
    #[error("platform property {name}={value:?} is not valid: expected {expected}")]
    Value {
        /// Name of the property.
        name: String,
        /// The value sent.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Values that exclude each other.
    #[error("platform property {name} contradicts what was said before: {first:?} and {second:?}")]
    Conflict {
        /// Name of the property that came second.
        name: String,
        /// What was said first.
        first: String,
        /// What was said then.
        second: String,
    },
}

const NO_CONTAINERS: &str =
    "container images need podman or docker, and neither is set up for this farm; use \"none\"";
const NO_RUNTIME: &str = "actions run in the built-in sandbox, not in a container runtime";
const NO_PRIVILEGES: &str = "actions never get privileges on the host";
const NO_SOCKET: &str = "no Remote Execution API socket is offered inside actions";

/// Directories of a mounted root that an input root cannot stand in.
const TAKEN: [&str; 10] = ["bin", "dev", "etc", "lib", "lib32", "lib64", "proc", "sbin", "sys", "usr"];

// === impl Requirements ===

impl Requirements {
    /// Reads the properties of an action: those of the Action itself, or those of its Command when
    /// the Action's platform is absent or empty.
    ///
    /// # Errors
    /// [`PlatformError`] names the first property that makes no sense.
    pub fn parse(
        action: Option<&reapi::Platform>,
        command: Option<&reapi::Platform>,
    ) -> Result<Self, PlatformError> {
        let mut requirements = Self::default();
        let effective = action.filter(|platform| !platform.properties.is_empty()).or(command);
        for property in effective.map_or(&[][..], |platform| &platform.properties) {
            requirements.add(&property.name, &property.value)?;
            let values = requirements.properties.entry(property.name.clone()).or_default();
            values.push(property.value.clone());
        }
        Ok(requirements)
    }

    /// Whether anything said where the input root stands, be it `input-root=host`.
    pub fn says_input_root(&self) -> bool {
        self.input_root != InputRootPlace::Worker || self.properties.contains_key("input-root")
    }

    /// What the client calls the persistent worker that the action is for.
    pub fn persistent_worker(&self) -> Option<&str> {
        self.properties.get("persistentWorkerKey")?.first().map(String::as_str).filter(|key| !key.is_empty())
    }

    /// Why the machine called `name` is the wrong one, where a person chose another.
    pub fn wrong_machine(&self, name: &str) -> Option<String> {
        let wanted = self.machine.as_deref().filter(|wanted| *wanted != name)?;
        Some(format!("it is to run on {wanted}"))
    }

    fn add(&mut self, name: &str, value: &str) -> Result<(), PlatformError> {
        match name {
            "OSFamily" => set_once(&mut self.os_family, name, value.to_ascii_lowercase())?,
            "ISA" => self.isa.push(machine::lexicon_isa(value)),
            "Arch" | "arch" => self.isa.push(machine::lexicon_isa(value)),
            "Pool" | "pool" if !value.is_empty() => self.pools.push(value.to_owned()),
            "network" | "dockerNetwork" => set_once(&mut self.network, name, network(name, value)?)?,
            "InputRootAbsolutePath" | "input-root" => self.place(name, value)?,
            "unixUID" => set_once(&mut self.uid, name, id(name, value)?)?,
            "unixGID" => set_once(&mut self.gid, name, id(name, value)?)?,
            "dockerRunAsRoot" if flag(name, value)? => {
                set_once(&mut self.uid, name, 0)?;
                set_once(&mut self.gid, name, 0)?;
            }
            "resources:cpu" | "cpu_count" | "EstimatedCPU" => {
                self.millicores = self.millicores.max(Some(millicores(name, value)?));
            }
            "resources:memory" | "EstimatedMemory" => {
                self.memory = self.memory.max(Some(memory(name, value)?));
            }
            _ => self.add_served_elsewhere(name, value)?,
        }
        Ok(())
    }

    /// Properties without a field: harmless ones, those that are known and not served, unknown ones.
    fn add_served_elsewhere(&mut self, name: &str, value: &str) -> Result<(), PlatformError> {
        let reason = match name {
            "container-image" if !matches!(value, "" | "none") => NO_CONTAINERS,
            "dockerRuntime" if !value.is_empty() => NO_RUNTIME,
            "dockerPrivileged" | "dockerSiblingContainers" if flag(name, value)? => NO_PRIVILEGES,
            "dockerAddCapabilities" if !value.is_empty() => NO_PRIVILEGES,
            "dockerUlimits" | "dockerShmSize" if !value.is_empty() => NO_RUNTIME,
            "remoteApisSocketPath" if !value.is_empty() => NO_SOCKET,
            "container-image"
            | "dockerRuntime"
            | "dockerPrivileged"
            | "dockerSiblingContainers"
            | "dockerAddCapabilities"
            | "dockerDropCapabilities"
            | "dockerRunAsRoot"
            | "dockerUlimits"
            | "dockerShmSize"
            | "remoteApisSocketPath"
            | "Pool"
            | "pool"
            | "cache-silo"
            | "persistentWorkerKey"
            | "persistentWorkerProtocol" => return Ok(()),
            _ => {
                if !self.unknown.iter().any(|known| known == name) {
                    self.unknown.push(name.to_owned());
                }
                return Ok(());
            }
        };
        self.unserved.push(Unserved { name: name.to_owned(), value: value.to_owned(), reason });
        Ok(())
    }

    fn place(&mut self, name: &str, value: &str) -> Result<(), PlatformError> {
        let place = match (name, value) {
            (_, "/") => InputRootPlace::Filesystem,
            ("input-root", "" | "host") => return Ok(()),
            ("InputRootAbsolutePath", path) if is_free_absolute(path) => InputRootPlace::At(path.into()),
            ("InputRootAbsolutePath", _) => {
                return Err(invalid(
                    name,
                    value,
                    "\"/\", or an absolute path without \"..\" outside the host's own directories",
                ));
            }
            _ => return Err(invalid(name, value, "\"/\" or \"host\"")),
        };
        if self.input_root != InputRootPlace::Worker && self.input_root != place {
            return Err(PlatformError::Conflict {
                name: name.to_owned(),
                first: format!("{:?}", self.input_root),
                second: value.to_owned(),
            });
        }
        self.input_root = place;
        Ok(())
    }
}

fn set_once<T: PartialEq + std::fmt::Debug>(
    slot: &mut Option<T>,
    name: &str,
    value: T,
) -> Result<(), PlatformError> {
    match slot {
        Some(first) if *first != value => Err(PlatformError::Conflict {
            name: name.to_owned(),
            first: format!("{first:?}"),
            second: format!("{value:?}"),
        }),
        _ => {
            *slot = Some(value);
            Ok(())
        }
    }
}

fn invalid(name: &str, value: &str, expected: &'static str) -> PlatformError {
    PlatformError::Value { name: name.to_owned(), value: value.chars().take(200).collect(), expected }
}

fn network(name: &str, value: &str) -> Result<NetworkAccess, PlatformError> {
    match value.to_ascii_lowercase().as_str() {
        "on" | "standard" | "bridge" | "host" => Ok(NetworkAccess::Host),
        "off" | "none" | "" => Ok(NetworkAccess::Loopback),
        _ => Err(invalid(name, value, "\"on\", \"off\", \"standard\", \"bridge\", \"host\" or \"none\"")),
    }
}

fn flag(name: &str, value: &str) -> Result<bool, PlatformError> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" | "" => Ok(false),
        _ => Err(invalid(name, value, "\"true\" or \"false\"")),
    }
}

fn id(name: &str, value: &str) -> Result<u32, PlatformError> {
    match value.parse() {
        // The kernel keeps -1 for «no id».
        Ok(u32::MAX) | Err(_) => Err(invalid(name, value, "a number from 0 to 4294967294")),
        Ok(id) => Ok(id),
    }
}

fn is_free_absolute(path: &str) -> bool {
    let mut components = Path::new(path).components();
    components.next() == Some(PathComponent::RootDir)
        && !path.contains('\0')
        && components.clone().all(|part| matches!(part, PathComponent::Normal(_)))
        && components.next().is_some_and(|first| !TAKEN.iter().any(|taken| first.as_os_str() == *taken))
}

/// CPU cores: a number, or thousandths with the suffix `m`.
fn millicores(name: &str, value: &str) -> Result<u64, PlatformError> {
    let (number, scale) = value.strip_suffix('m').map_or((value, 1000.0), |number| (number, 1.0));
    scaled(number, scale).ok_or_else(|| invalid(name, value, "a number of cores, like 2, 0.5 or 1500m"))
}

/// Memory: bytes with a unit, or MiB without one, as Bazel counts.
fn memory(name: &str, value: &str) -> Result<u64, PlatformError> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = value[digits.len()..].to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" if unit == "b" => 0,
        "" | "m" => 2,
        "k" => 1,
        "g" => 3,
        "t" => 4,
        _ => return Err(invalid(name, value, "an amount of memory, like 512, 512M or 2GB")),
    };
    scaled(digits, 1024_f64.powi(power))
        .ok_or_else(|| invalid(name, value, "an amount of memory, like 512, 512M or 2GB"))
}

fn scaled(number: &str, scale: f64) -> Option<u64> {
    let number: f64 = number.parse().ok()?;
    let scaled = (number * scale).ceil();
    (number.is_finite() && (0.0..1e18).contains(&scaled)).then_some(scaled as u64)
}

#[cfg(test)]
mod tests {
    use farmhand_proto::reapi::platform::Property;
    use proptest::prelude::*;

    use super::*;

    pub(super) fn platform(properties: &[(&str, &str)]) -> reapi::Platform {
        let property =
            |(name, value): &(&str, &str)| Property { name: (*name).into(), value: (*value).into() };
        reapi::Platform { properties: properties.iter().map(property).collect() }
    }

    pub(super) fn parse(properties: &[(&str, &str)]) -> Result<Requirements, PlatformError> {
        Requirements::parse(Some(&platform(properties)), None)
    }

    #[test]
    fn the_action_wins_unless_it_says_nothing() {
        let action = platform(&[("Pool", "a")]);
        let command = platform(&[("Pool", "c")]);
        let empty = platform(&[]);
        let pools = |action, command| Requirements::parse(action, command).unwrap().pools;
        assert_eq!(pools(Some(&action), Some(&command)), ["a"]);
        assert_eq!(pools(Some(&empty), Some(&command)), ["c"]);
        assert_eq!(pools(None, Some(&command)), ["c"]);
        assert_eq!(pools(Some(&action), None), ["a"]);
        assert_eq!(Requirements::parse(None, None), Ok(Requirements::default()));
    }

    #[test]
    fn a_name_sent_twice_keeps_all_its_values() {
        let requirements = parse(&[("ISA", "x86-64"), ("ISA", "x86-avx2"), ("ISA", "x86-64")]).unwrap();
        assert_eq!(requirements.properties["ISA"], ["x86-64", "x86-avx2", "x86-64"]);
        assert_eq!(requirements.isa, ["x86-64", "x86-avx2", "x86-64"]);
    }

    #[test]
    fn os_family_is_single_and_case_blind() {
        assert_eq!(
            parse(&[("OSFamily", "Linux"), ("OSFamily", "linux")]).unwrap().os_family.unwrap(),
            "linux"
        );
        let error = parse(&[("OSFamily", "linux"), ("OSFamily", "windows")]).unwrap_err();
        assert!(error.to_string().contains("OSFamily"), "{error}");
    }

    #[test]
    fn network_has_two_names_and_may_not_contradict() {
        assert_eq!(parse(&[]).unwrap().network, None);
        for (name, value, expected) in [
            ("network", "on", NetworkAccess::Host),
            ("dockerNetwork", "standard", NetworkAccess::Host),
            ("network", "off", NetworkAccess::Loopback),
            ("dockerNetwork", "none", NetworkAccess::Loopback),
        ] {
            assert_eq!(parse(&[(name, value)]).unwrap().network, Some(expected), "{name}={value}");
        }
        assert!(matches!(parse(&[("network", "maybe")]), Err(PlatformError::Value { .. })));
        assert!(matches!(
            parse(&[("network", "on"), ("dockerNetwork", "off")]),
            Err(PlatformError::Conflict { .. })
        ));
    }

    #[test]
    fn input_root_places() {
        let place = |properties: &[(&str, &str)]| parse(properties).map(|r| r.input_root);
        assert_eq!(place(&[("input-root", "/")]), Ok(InputRootPlace::Filesystem));
        assert_eq!(place(&[("input-root", "host")]), Ok(InputRootPlace::Worker));
        for (properties, said) in [(&[("input-root", "host")], true), (&[("network", "on")], false)] {
            assert_eq!(parse(properties).unwrap().says_input_root(), said, "{properties:?}");
        }
        assert_eq!(place(&[("InputRootAbsolutePath", "/")]), Ok(InputRootPlace::Filesystem));
        assert_eq!(place(&[("InputRootAbsolutePath", "/b/c")]), Ok(InputRootPlace::At("/b/c".into())));
        for path in ["", "b", "/usr/x", "/proc", "/a/../b", "/a\0"] {
            assert!(place(&[("InputRootAbsolutePath", path)]).is_err(), "{path:?}");
        }
        assert!(place(&[("input-root", "/"), ("InputRootAbsolutePath", "/b")]).is_err());
        assert!(place(&[("input-root", "/x")]).is_err());
    }

    #[test]
    fn ids() {
        let requirements = parse(&[("unixUID", "5"), ("unixGID", "6")]).unwrap();
        assert_eq!((requirements.uid, requirements.gid), (Some(5), Some(6)));
        let root = parse(&[("dockerRunAsRoot", "true")]).unwrap();
        assert_eq!((root.uid, root.gid), (Some(0), Some(0)));
        assert_eq!(parse(&[("dockerRunAsRoot", "false")]).unwrap().uid, None);
        for value in ["-1", "x", "", "4294967295"] {
            assert!(parse(&[("unixUID", value)]).is_err(), "{value:?}");
        }
    }

    #[test]
    fn resources() {
        let requirements = parse(&[("resources:cpu", "1.5"), ("resources:memory", "512")]).unwrap();
        assert_eq!((requirements.millicores, requirements.memory), (Some(1500), Some(512 << 20)));
        let requirements = parse(&[("EstimatedCPU", "250m"), ("EstimatedMemory", "2GB")]).unwrap();
        assert_eq!((requirements.millicores, requirements.memory), (Some(250), Some(2 << 30)));
        assert_eq!(parse(&[("EstimatedMemory", "100B")]).unwrap().memory, Some(100));
        assert_eq!(parse(&[("EstimatedMemory", "3KiB")]).unwrap().memory, Some(3072));
        for value in ["", "x", "-1", "nan", "inf", "1e300"] {
            assert!(parse(&[("resources:cpu", value)]).is_err(), "{value:?}");
            assert!(parse(&[("resources:memory", value)]).is_err(), "{value:?}");
        }
    }

    #[test]
    fn known_names_are_harmless_or_refused_by_name() {
        for (name, value) in [
            ("container-image", "none"),
            ("container-image", ""),
            ("dockerPrivileged", "false"),
            ("dockerDropCapabilities", "ALL"),
            ("cache-silo", "salt"),
            ("persistentWorkerKey", "k"),
            ("persistentWorkerProtocol", "json"),
            ("Pool", ""),
        ] {
            let requirements = parse(&[(name, value)]).unwrap();
            assert!(requirements.unserved.is_empty() && requirements.unknown.is_empty(), "{name}={value}");
        }
        for (name, value) in [
            ("container-image", "docker://gcc"),
            ("dockerPrivileged", "true"),
            ("dockerRuntime", "runsc"),
            ("dockerAddCapabilities", "SYS_ADMIN"),
            ("remoteApisSocketPath", "run/casd.sock"),
        ] {
            assert_eq!(parse(&[(name, value)]).unwrap().unserved[0].name, name);
        }
        assert_eq!(parse(&[("foo", "bar"), ("foo", "baz")]).unwrap().unknown, ["foo"]);
    }

    proptest! {
        #[test]
        fn every_property_is_kept_or_refused(pairs in proptest::collection::vec(("[a-zA-Z:_-]{0,12}", ".{0,12}"), 0..6)) {
            let pairs: Vec<(&str, &str)> = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            if let Ok(requirements) = parse(&pairs) {
                let kept: usize = requirements.properties.values().map(Vec::len).sum();
                prop_assert_eq!(kept, pairs.len());
            }
        }
    }
}
