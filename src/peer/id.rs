//! [`MachineId`]: who a machine is, wherever it is.

use std::fmt;

/// Bytes of an id.
pub const LEN: usize = 32;

/// The SHA-256 of a machine's public key. Addresses and names change, and may be anybody's; this is proven
/// by each connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MachineId([u8; LEN]);

// === impl MachineId ===

impl MachineId {
    /// The id of these bytes.
    pub const fn new(bytes: [u8; LEN]) -> Self {
        Self(bytes)
    }

    /// The id in a message; `None` if it is none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; LEN] {
        &self.0
    }
}

/// The first 16 hexadecimal digits: enough to tell machines of a farm apart.
impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_ids_are_read_and_they_are_told_apart_by_their_beginning() {
        let id = MachineId::read(&[0xab; LEN]).unwrap();
        assert_eq!(id.to_string(), "abababababababab");
        assert_eq!(MachineId::read(&[0; LEN - 1]), None);
        assert_eq!(MachineId::read(&[0; LEN + 1]), None);
    }
}
