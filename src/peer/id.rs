//! [`MachineId`]: who a machine is, wherever it is.

use std::fmt;

/// Bytes of an id.
pub const LEN: usize = 32;

/// Letters of the label of an id: five bits each.
const LABEL_LEN: usize = (LEN * 8).div_ceil(5);
const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The SHA-256 of a machine's public key. Addresses and names change, and may be anybody's; this is proven
/// by each connection.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MachineId([u8; LEN]);

// === impl MachineId ===

impl MachineId {
    /// The id of these bytes.
    pub fn new(bytes: [u8; LEN]) -> Self {
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

    /// All of it as one label of a host name: base32 (RFC 4648) in lower case, without padding.
    pub fn label(&self) -> String {
        let digit = |at: usize| {
            let bit = |bit: usize| self.0.get(bit / 8).is_some_and(|byte| byte >> (7 - bit % 8) & 1 == 1);
            let value = (at * 5..at * 5 + 5).fold(0, |value, at| value << 1 | usize::from(bit(at)));
            char::from(DIGITS[value])
        };
        (0..LABEL_LEN).map(digit).collect()
    }

    /// The id that has this label, in whatever case; `None` if none has.
    pub fn from_label(label: &str) -> Option<Self> {
        if label.len() != LABEL_LEN {
            return None;
        }
        let mut id = Self([0; LEN]);
        for (at, letter) in label.bytes().enumerate() {
            let value = DIGITS.iter().position(|digit| *digit == letter.to_ascii_lowercase())?;
            for bit in (0..5).filter(|bit| value >> (4 - bit) & 1 == 1) {
                let at = at * 5 + bit;
                // The last digit has more bits than are left.
                *id.0.get_mut(at / 8)? |= 0x80 >> (at % 8);
            }
        }
        Some(id)
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
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_label_is_base32() {
        let id = MachineId::new(*b"the quick brown fox jumps over t");
        assert_eq!(id.label(), "orugkidrovuwg2zamjzg653oebtg66banj2w24dtebxxmzlseb2a");
        assert_eq!(MachineId::from_label(&id.label().to_uppercase()), Some(id));
        let label = MachineId::new([0xff; LEN]).label();
        assert_eq!(
            MachineId::from_label(&format!("{}7", &label[..LABEL_LEN - 1])),
            None,
            "more than 256 bits"
        );
        for wrong in ["", "a", &"1".repeat(LABEL_LEN), &"a".repeat(LABEL_LEN + 1), &"ä".repeat(LABEL_LEN / 2)]
        {
            assert_eq!(MachineId::from_label(wrong), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_label_names_one_id(bytes: [u8; LEN]) {
            let id = MachineId::new(bytes);
            prop_assert_eq!(MachineId::from_label(&id.label()), Some(id));
        }
    }

    #[test]
    fn only_whole_ids_are_read_and_they_are_told_apart_by_their_beginning() {
        let id = MachineId::read(&[0xab; LEN]).unwrap();
        assert_eq!(id.to_string(), "abababababababab");
        assert_eq!(MachineId::read(&[0; LEN - 1]), None);
        assert_eq!(MachineId::read(&[0; LEN + 1]), None);
    }
}
