//! [`InstanceName`]: the name in front of every resource, checked once.

use std::fmt;
use std::sync::Arc;

/// Segments the protocol keeps for itself (comment of `ContentAddressableStorage` in
/// `remote_execution.proto`): a name that held one could not be told from what follows it.
pub const RESERVED: [&str; 7] =
    ["blobs", "uploads", "actions", "actionResults", "operations", "capabilities", "compressed-blobs"];

/// Bytes a name may have.
const MAX_LEN: usize = 255;

/// An instance name: empty, or segments parted by single slashes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InstanceName(Arc<str>);

/// Why a text is no instance name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InstanceNameError {
    /// A segment the protocol keeps for itself.
    #[error("instance name {name:?} has the reserved segment {segment:?}")]
    Reserved {
        /// The whole name.
        name: String,
        /// The segment in it.
        segment: String,
    },
    /// Empty segment, control character, or too long.
    #[error("instance name {0:?} is not made of non-empty printable segments, {MAX_LEN} bytes at most")]
    Malformed(String),
}

impl InstanceName {
    /// Parses `name`.
    ///
    /// # Errors
    /// [`InstanceNameError`] says which rule it breaks.
    pub fn parse(name: &str) -> Result<Self, InstanceNameError> {
        if name.is_empty() {
            return Ok(Self::default());
        }
        if name.len() > MAX_LEN || name.chars().any(char::is_control) {
            return Err(InstanceNameError::Malformed(name.chars().take(80).collect()));
        }
        for segment in name.split('/') {
            if segment.is_empty() {
                return Err(InstanceNameError::Malformed(name.to_owned()));
            }
            if RESERVED.contains(&segment) {
                return Err(InstanceNameError::Reserved {
                    name: name.to_owned(),
                    segment: segment.to_owned(),
                });
            }
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for InstanceName {
    fn default() -> Self {
        Self("".into())
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_empty_and_nested_names() {
        for name in ["", "a", "projects/p/instances/i", "ü-1_2.3"] {
            assert_eq!(InstanceName::parse(name).map(|n| n.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn refuses_reserved_and_malformed_names() {
        for segment in RESERVED {
            let error = InstanceName::parse(&format!("a/{segment}")).unwrap_err();
            assert!(matches!(error, InstanceNameError::Reserved { .. }), "{error}");
        }
        for name in ["/", "a/", "/a", "a//b", "a\0b", "a\nb"] {
            assert!(matches!(InstanceName::parse(name), Err(InstanceNameError::Malformed(_))), "{name:?}");
        }
        assert!(InstanceName::parse(&"x".repeat(256)).is_err());
    }
}
