//! Platform properties: what an action asks of the machine it runs on.
//!
//! [`Requirements::parse`] reads the `Platform` messages of an action once, whatever names its client has for
//! things (`names` knows them all, `values` reads what they say). Values that make no
//! sense are refused there, by name, as the client's fault. Whether a given machine can meet
//! them is for [`Requirements::mismatches`] with that machine's [`MachineFacts`]. Nothing is
//! silently dropped: each known property has an effect, is harmless by its meaning, or leads to a
//! mismatch; unknown ones follow the policy of the instance, [`UnknownProperties`].

use std::collections::BTreeMap;
use std::path::PathBuf;

use farmhand_proto::reapi;

use crate::config::UnknownProperties;
use crate::path::RootPath;

mod load;
mod machine;
pub mod manners;
mod names;
pub mod presence;
pub mod toolchain;
mod values;

pub use load::{Load, POWER_SUPPLIES, Readings, runs_on_battery};
pub use machine::{MachineFacts, architecture, total_memory};
pub use names::Refused;
use names::{Meaning, meaning};
pub use values::ImageName;
use values::{ContainerValue, invalid};

/// Thousandths of a core, and bytes of memory, in one `EstimatedComputeUnits`.
const COMPUTE_UNIT: (u64, u64) = (1000, 2500 << 20);

/// What an action asks for, parsed from `Platform` messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// All properties as sent: name to its values.
    pub properties: BTreeMap<String, Vec<String>>,
    /// The family of operating systems, in lower case.
    pub os_family: Option<String>,
    /// Instruction sets: names of the lexicon, all of which are needed.
    pub isa: Vec<String>,
    /// Pools, all of which are needed.
    pub pools: Vec<String>,
    /// Labels, all of which are needed: names with values.
    pub labels: Vec<(String, String)>,
    /// How many of what labels say a machine has: names with thousandths.
    pub amounts: BTreeMap<String, u64>,
    /// The network; `None` when nothing is said.
    pub network: Option<NetworkAccess>,
    /// Where the input root stands.
    pub input_root: InputRootPlace,
    /// User id.
    pub uid: Option<u32>,
    /// Group id.
    pub gid: Option<u32>,
    /// Thousandths of a CPU core.
    pub millicores: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// The container image to run in.
    pub container: Option<ImageName>,
    /// Where in the input root a socket is to be that leads to the Remote Execution API.
    pub apis_socket: Option<RootPath>,
    /// What tells persistent workers apart.
    pub worker_key: Option<String>,
    /// What a persistent worker speaks.
    pub worker_protocol: Option<WorkerProtocol>,
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

/// What a persistent worker speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerProtocol {
    /// `blaze.worker.WorkRequest` messages with their length before them.
    Proto,
    /// The same in JSON, one after the other.
    Json,
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
    pub reason: Refused,
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
        requirements.check_container();
        Ok(requirements)
    }

    /// Whether anything said where the input root stands, be it `input-root=host`.
    pub fn says_input_root(&self) -> bool {
        self.input_root != InputRootPlace::Worker
            || self.container.is_some()
            || self.properties.contains_key("input-root")
    }

    /// Why the machine called `name` is the wrong one, where a person chose another.
    pub fn wrong_machine(&self, name: &str) -> Option<String> {
        let wanted = self.machine.as_deref().filter(|wanted| *wanted != name)?;
        Some(format!("it is to run on {wanted}"))
    }

    fn add(&mut self, name: &str, value: &str) -> Result<(), PlatformError> {
        let Some(meaning) = meaning(name) else {
            if !self.unknown.iter().any(|known| known == name) {
                self.unknown.push(name.to_owned());
            }
            return Ok(());
        };
        match meaning {
            Meaning::OsFamily | Meaning::Isa | Meaning::Pool | Meaning::Label | Meaning::Amount => {
                self.add_match(meaning, name, value)
            }
            Meaning::NeedsDarwin if values::flag(name, value, true)? => {
                self.add_match(Meaning::OsFamily, name, "macos")
            }
            Meaning::NeedsDarwin => Ok(()),
            Meaning::Cores | Meaning::Memory(_) | Meaning::ComputeUnits => {
                self.add_size(meaning, name, value)
            }
            Meaning::Harmless => Ok(()),
            Meaning::Only(harmless, reason) => {
                if !harmless.contains(&value.to_ascii_lowercase().as_str()) {
                    self.refuse(name, value, reason);
                }
                Ok(())
            }
            _ => self.add_way(meaning, name, value),
        }
    }

    /// What the machine has to be or have.
    fn add_match(&mut self, meaning: Meaning, name: &str, value: &str) -> Result<(), PlatformError> {
        match meaning {
            Meaning::OsFamily => return set_once(&mut self.os_family, name, value.to_ascii_lowercase()),
            Meaning::Isa => self.isa.push(machine::lexicon_isa(value)),
            Meaning::Pool if value.is_empty() => {}
            Meaning::Pool => self.pools.push(value.to_owned()),
            Meaning::Amount => {
                let wanted = values::amount(name, value)?;
                let most = self.amounts.entry(name.to_owned()).or_default();
                *most = wanted.max(*most);
            }
            _ => self.labels.push((name.to_owned(), value.to_owned())),
        }
        Ok(())
    }

    /// How much of the machine it takes: the most that any name says.
    fn add_size(&mut self, meaning: Meaning, name: &str, value: &str) -> Result<(), PlatformError> {
        let (millicores, memory) = match meaning {
            Meaning::Cores => (Some(values::millicores(name, value)?), None),
            Meaning::Memory(unit) => (None, Some(values::memory(name, value, unit)?)),
            _ => {
                let units = values::amount(name, value)?;
                let of_unit = |whole: u64| u64::try_from(u128::from(units) * u128::from(whole) / 1000).ok();
                (of_unit(COMPUTE_UNIT.0), of_unit(COMPUTE_UNIT.1))
            }
        };
        self.millicores = self.millicores.max(millicores);
        self.memory = self.memory.max(memory);
        Ok(())
    }

    /// How it is run.
    fn add_way(&mut self, meaning: Meaning, name: &str, value: &str) -> Result<(), PlatformError> {
        match meaning {
            Meaning::Network => set_once(&mut self.network, name, values::network(name, value)?),
            Meaning::NeedsNetwork if values::flag(name, value, true)? => {
                set_once(&mut self.network, name, NetworkAccess::Host)
            }
            Meaning::BlocksNetwork if values::flag(name, value, true)? => {
                set_once(&mut self.network, name, NetworkAccess::Loopback)
            }
            Meaning::Root => self.place(name, value),
            Meaning::Uid => set_once(&mut self.uid, name, values::id(name, value)?),
            Meaning::Gid => set_once(&mut self.gid, name, values::id(name, value)?),
            Meaning::User if !value.is_empty() => {
                let (user, group) =
                    value.split_once(':').map_or((value, None), |(user, group)| (user, Some(group)));
                let id = |text| values::id(name, if text == "root" { "0" } else { text });
                set_once(&mut self.uid, name, id(user)?)?;
                group.map_or(Ok(()), |group| set_once(&mut self.gid, name, id(group)?))
            }
            Meaning::AsRoot if values::flag(name, value, name != "dockerRunAsRoot")? => {
                set_once(&mut self.uid, name, 0)?;
                set_once(&mut self.gid, name, 0)
            }
            Meaning::Container => self.contain(name, value),
            Meaning::ApisSocket if !value.is_empty() => {
                set_once(&mut self.apis_socket, name, values::inside(name, value)?)
            }
            Meaning::WorkerKey if !value.is_empty() => set_once(&mut self.worker_key, name, value.to_owned()),
            Meaning::WorkerProtocol => match value.to_ascii_lowercase().as_str() {
                "" => Ok(()),
                "proto" => set_once(&mut self.worker_protocol, name, WorkerProtocol::Proto),
                "json" => set_once(&mut self.worker_protocol, name, WorkerProtocol::Json),
                _ => Err(invalid(name, value, "\"proto\" or \"json\"")),
            },
            _ => Ok(()),
        }
    }

    fn contain(&mut self, name: &str, value: &str) -> Result<(), PlatformError> {
        match values::container(name, value)? {
            ContainerValue::None => Ok(()),
            ContainerValue::Pinned(image) => set_once(&mut self.container, name, image),
            ContainerValue::Unpinned => {
                self.refuse(name, value, Refused::Unpinned);
                Ok(())
            }
        }
    }

    /// Has it run nowhere, if it asks for a socket of the Remote Execution API.
    pub fn refuse_socket(&mut self) {
        if let Some(path) = self.apis_socket.as_ref().map(ToString::to_string) {
            self.refuse("remoteApisSocketPath", &path, Refused::NestedGuest);
        }
    }

    /// What cannot be had together with a container.
    fn check_container(&mut self) {
        let Some(image) = self.container.as_ref().map(|image| image.as_str().to_owned()) else { return };
        if self.input_root == InputRootPlace::Filesystem {
            self.refuse("container-image", &image, Refused::TwoRoots);
        }
        if let Some(path) = &self.apis_socket {
            let path = path.to_string();
            self.refuse("remoteApisSocketPath", &path, Refused::ContainerSocket);
        }
        for (name, id) in [("unixUID", self.uid), ("unixGID", self.gid)] {
            if let Some(id) = id.filter(|id| *id != 0) {
                self.refuse(name, &id.to_string(), Refused::ContainerUser);
            }
        }
    }

    fn refuse(&mut self, name: &str, value: &str, reason: Refused) {
        self.unserved.push(Unserved { name: name.to_owned(), value: value.to_owned(), reason });
    }

    fn place(&mut self, name: &str, value: &str) -> Result<(), PlatformError> {
        let place = match (name, value) {
            (_, "/") => InputRootPlace::Filesystem,
            ("input-root", "" | "host") => return Ok(()),
            ("InputRootAbsolutePath", path) if values::is_free_absolute(path) => {
                InputRootPlace::At(path.into())
            }
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

#[cfg(test)]
mod tests;
