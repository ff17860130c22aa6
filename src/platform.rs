//! Platform properties: what an action asks of the machine it runs on.

use std::collections::BTreeMap;

/// What an action asks for, parsed from `Platform` messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirements {
    /// All properties as sent: name to its values.
    pub properties: BTreeMap<String, Vec<String>>,
}
