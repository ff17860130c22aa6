//! [`Instances`]: which instance names are served, and with what settings.

use std::collections::HashMap;
use std::sync::Arc;

use crate::digest::{DigestError, DigestFunction};
use crate::execution::action::PlatformRules;
use crate::instance::{InstanceName, InstanceNameError};

/// Settings of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceSettings {
    /// What an unset `digest_function` means.
    pub digest_function: DigestFunction,
    /// Whether clients may write to the action cache.
    pub action_cache_updates: bool,
    /// Whether actions are executed.
    pub execution: bool,
    /// How platform properties of actions are read.
    pub platform: PlatformRules,
}

/// What [`Instances`] is made of.
#[derive(Clone, Debug, Default)]
pub struct InstancesConfig {
    /// Settings of every name that has none of its own.
    pub default: InstanceSettings,
    /// Names with settings of their own.
    pub named: HashMap<InstanceName, InstanceSettings>,
    /// Serve the names in `named` only.
    pub restricted: bool,
}

/// The instances this node serves. Clones share the table.
#[derive(Clone, Debug, Default)]
pub struct Instances {
    config: Arc<InstancesConfig>,
}

/// An instance that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Its name.
    pub name: InstanceName,
    /// Its settings.
    pub settings: InstanceSettings,
}

/// Why a name is not served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstanceError {
    /// No valid name.
    #[error(transparent)]
    Name(#[from] InstanceNameError),
    /// A valid name that the configuration does not list.
    #[error("instance {0:?} is not served here")]
    Unknown(InstanceName),
}

// === impl InstanceSettings ===

impl Default for InstanceSettings {
    fn default() -> Self {
        Self {
            digest_function: DigestFunction::Sha256,
            action_cache_updates: true,
            execution: true,
            platform: PlatformRules::default(),
        }
    }
}

// === impl Instances ===

impl Instances {
    /// Serves what `config` says.
    pub fn new(config: InstancesConfig) -> Self {
        Self { config: Arc::new(config) }
    }

    /// The same for what runs in an action of another machine: results are read and not written, and the
    /// actions it has run pass nothing on.
    pub fn for_guests(&self) -> Self {
        let mut config = (*self.config).clone();
        for settings in config.named.values_mut().chain([&mut config.default]) {
            settings.action_cache_updates = false;
            settings.platform.is_last = true;
        }
        Self::new(config)
    }

    /// The instance a request names.
    ///
    /// # Errors
    /// [`InstanceError`], the same for every service.
    pub fn find(&self, name: &str) -> Result<Instance, InstanceError> {
        self.get(InstanceName::parse(name)?)
    }

    /// The instance of that name.
    ///
    /// # Errors
    /// [`InstanceError::Unknown`].
    pub fn get(&self, name: InstanceName) -> Result<Instance, InstanceError> {
        match self.config.named.get(&name) {
            Some(settings) => Ok(Instance { name, settings: *settings }),
            None if self.config.restricted => Err(InstanceError::Unknown(name)),
            None => Ok(Instance { name, settings: self.config.default }),
        }
    }

    /// What an unset digest function means in that instance, served or not.
    pub fn default_function(&self, name: &InstanceName) -> DigestFunction {
        self.config.named.get(name).unwrap_or(&self.config.default).digest_function
    }
}

// === impl Instance ===

impl Instance {
    /// Reads the `digest_function` field of a request to this instance.
    ///
    /// # Errors
    /// [`DigestError::UnsupportedFunction`].
    pub fn function(&self, wire: i32) -> Result<DigestFunction, DigestError> {
        DigestFunction::from_wire(wire, self.settings.digest_function)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_valid_name_is_served_unless_restricted() {
        let blake3 = InstanceSettings { digest_function: DigestFunction::Blake3, ..Default::default() };
        let mut config = InstancesConfig {
            named: HashMap::from([(InstanceName::parse("a/b").unwrap(), blake3)]),
            ..Default::default()
        };
        let open = Instances::new(config.clone());
        assert_eq!(open.find("a/b").unwrap().function(0), Ok(DigestFunction::Blake3));
        assert_eq!(open.find("projects/p/instances/i").unwrap().function(0), Ok(DigestFunction::Sha256));
        config.restricted = true;
        let closed = Instances::new(config);
        assert!(closed.find("a/b").is_ok());
        assert!(matches!(closed.find(""), Err(InstanceError::Unknown(_))));
        assert!(closed.find("zz").unwrap_err().to_string().contains("zz"));
        assert!(matches!(closed.find("a//b"), Err(InstanceError::Name(_))));
        let guests = closed.for_guests();
        for instance in [guests.find("a/b").unwrap(), open.for_guests().find("c").unwrap()] {
            assert!(!instance.settings.action_cache_updates && instance.settings.platform.is_last);
        }
    }
}
