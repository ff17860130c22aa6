//! Values a setting may have, each parsed from the text a person writes, the same in a flag, a
//! variable and the file.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

/// A number of bytes: `20GB`, `1.5GiB`, `4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct ByteSize(pub u64);

/// A length of time: `500ms`, `90s`, `1h 30m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct Span(pub Duration);

/// An address to listen on: `IP:PORT`, `localhost:PORT`; port 0 takes any that is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct Listen(pub SocketAddr);

/// How much of the disk the store may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub enum DiskBudget {
    /// [`AUTO_PERCENT`] of the disk, [`AUTO_MOST`] at most.
    Auto,
    /// This many bytes.
    Bytes(u64),
    /// Percent of what is free or already held by the store; 1 to 100.
    Percent(u8),
}

/// The mean size of the chunks that blobs are split into: what all clients that cut blobs take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkSize(u32);

/// A part of the machine's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub enum MemoryShare {
    /// As much as there is.
    Unlimited,
    /// This many bytes.
    Bytes(u64),
    /// Percent of all memory; 1 to 100.
    Percent(u8),
}

/// A part of the slots there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub enum SlotShare {
    /// As many as there are.
    All,
    /// Half of them, rounded up.
    Half,
    /// This many, if there are so many.
    Slots(usize),
}

/// Percent of the disk that [`DiskBudget::Auto`] takes.
pub const AUTO_PERCENT: u8 = 20;

/// Bytes that [`DiskBudget::Auto`] takes at most: 100 GiB.
pub const AUTO_MOST: u64 = 100 << 30;

/// Why a text is not the value a setting needs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// No size.
    #[error("{0:?} is not a size; write bytes with a unit, for example 20GB or 50GiB")]
    Size(String),
    /// No budget.
    #[error("{0:?} is not a disk budget; write a size (50GiB), a share (10%), or auto")]
    Budget(String),
    /// No share of the memory.
    #[error("{0:?} is not a part of the memory; write a size (4GiB), a share (50%), or none for no limit")]
    Memory(String),
    /// No share of the slots.
    #[error("{0:?} is not a part of the slots; write a number, half or all")]
    Slots(String),
    /// No duration.
    #[error("{0:?} is not a duration; write a number with a unit, for example 90s, 10m or 3h")]
    Duration(String),
    /// No address.
    #[error("{0:?} is not an address; write IP:PORT, for example 127.0.0.1:8980")]
    Address(String),
    /// No machine to dial.
    #[error("{0:?} is not the address of a machine; write HOST, HOST:PORT or [IPV6]:PORT")]
    Peer(String),
    /// No interfaces.
    #[error("{0:?} does not name interfaces; write a name, a part with * for the rest, or !NAME")]
    Interface(String),
    /// No hosts.
    #[error("{0:?} does not name hosts; write a name, a part with * for the rest, or !NAME")]
    Host(String),
    /// No network.
    #[error("{0:?} is not a network; write ADDRESS/BITS, for example 10.0.0.0/8")]
    Network(String),
    /// No proxy. What was written may hold a password, so it is not shown.
    #[error("this is not a proxy; write http://HOST:PORT, without a user or a password")]
    Proxy,
}

/// What the file may hold where a text is expected: `max-blob-size = 4096` is fine.
#[derive(Debug)]
pub struct Scalar(String);

// === impl ByteSize ===

impl FromStr for ByteSize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad = || ValueError::Size(text.to_owned());
        let trimmed = text.trim();
        let unit_at = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(unit_at);
        let scale = unit_bytes(unit.trim()).ok_or_else(bad)?;
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(scale).map(Self).ok_or_else(bad);
        }
        let number: f64 = number.parse().map_err(|_| bad())?;
        let bytes = number * scale as f64;
        if bytes.is_finite() && bytes < u64::MAX as f64 { Ok(Self(bytes as u64)) } else { Err(bad()) }
    }
}

/// In the largest unit that it is a whole number of: what is parsed is the same again.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = ["TiB", "GiB", "MiB", "KiB"].into_iter().zip([1_u64 << 40, 1 << 30, 1 << 20, 1 << 10]);
        match units.into_iter().find(|(_, bytes)| self.0 > 0 && self.0.is_multiple_of(*bytes)) {
            Some((unit, bytes)) => write!(f, "{}{unit}", self.0 / bytes),
            None => write!(f, "{}", self.0),
        }
    }
}

// === impl ChunkSize ===

impl ChunkSize {
    /// The least: lists of smaller chunks outgrow the messages they travel in.
    const LEAST: u32 = 64 << 10;
    /// The largest that clients of every version take (`FastCdc2020Params` before API 2.13).
    const MOST: u32 = 1 << 20;

    /// So many bytes; `None` if that is no power of two, or out of range.
    pub fn new(bytes: u64) -> Option<Self> {
        let bytes = u32::try_from(bytes).ok()?;
        (bytes.is_power_of_two() && (Self::LEAST..=Self::MOST).contains(&bytes)).then_some(Self(bytes))
    }

    /// The bytes.
    pub fn bytes(self) -> u64 {
        self.0.into()
    }
}

/// What the specification advises.
impl Default for ChunkSize {
    fn default() -> Self {
        Self(512 << 10)
    }
}

fn unit_bytes(unit: &str) -> Option<u64> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return None,
    })
}

// === impl Span ===

impl FromStr for Span {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        humantime::parse_duration(text.trim()).map(Self).map_err(|_| ValueError::Duration(text.to_owned()))
    }
}

// === impl Listen ===

impl FromStr for Listen {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad = || ValueError::Address(text.to_owned());
        if let Some(port) = text.strip_prefix("localhost:") {
            let port = port.parse().map_err(|_| bad())?;
            return Ok(Self(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)));
        }
        text.parse().map(Self).map_err(|_| bad())
    }
}

// === impl DiskBudget ===

impl DiskBudget {
    /// The budget in bytes on a disk with `free` bytes left for this user, of which the store holds
    /// `held` more already. What the store holds counts as free, so that the budget does not shrink
    /// as the store fills.
    pub fn resolve(self, free: u64, held: u64) -> u64 {
        let share = |percent: u8| {
            let all = u128::from(free) + u128::from(held);
            u64::try_from(all * u128::from(percent) / 100).unwrap_or(u64::MAX)
        };
        match self {
            Self::Auto => share(AUTO_PERCENT).min(AUTO_MOST),
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => share(percent),
        }
    }
}

impl fmt::Display for DiskBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Bytes(bytes) => ByteSize(*bytes).fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for DiskBudget {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad = || ValueError::Budget(text.to_owned());
        let trimmed = text.trim();
        if trimmed == "auto" {
            return Ok(Self::Auto);
        }
        if let Some(percent) = trimmed.strip_suffix('%') {
            return parse_percent(percent).map(Self::Percent).ok_or_else(bad);
        }
        trimmed.parse().map(|ByteSize(bytes)| Self::Bytes(bytes)).map_err(|_| bad())
    }
}

// === impl MemoryShare ===

impl MemoryShare {
    /// The share of a machine with `total` bytes of memory; `None` without a limit.
    pub fn resolve(self, total: u64) -> Option<u64> {
        match self {
            Self::Unlimited => None,
            Self::Bytes(bytes) => Some(bytes),
            Self::Percent(percent) => Some(total / 100 * u64::from(percent)),
        }
    }
}

impl fmt::Display for MemoryShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unlimited => f.write_str("none"),
            Self::Bytes(bytes) => ByteSize(*bytes).fmt(f),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for MemoryShare {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let bad = || ValueError::Memory(text.to_owned());
        let trimmed = text.trim();
        if trimmed == "none" {
            return Ok(Self::Unlimited);
        }
        if let Some(percent) = trimmed.strip_suffix('%') {
            return parse_percent(percent).map(Self::Percent).ok_or_else(bad);
        }
        match trimmed.parse() {
            Ok(ByteSize(bytes)) if bytes > 0 => Ok(Self::Bytes(bytes)),
            _ => Err(bad()),
        }
    }
}

// === impl SlotShare ===

impl SlotShare {
    /// The share of so many slots.
    pub fn resolve(self, slots: usize) -> usize {
        match self {
            Self::All => slots,
            Self::Half => slots.div_ceil(2),
            Self::Slots(wanted) => wanted.min(slots),
        }
    }
}

impl fmt::Display for SlotShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Half => f.write_str("half"),
            Self::Slots(slots) => slots.fmt(f),
        }
    }
}

impl FromStr for SlotShare {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        match text.trim() {
            "all" => Ok(Self::All),
            "half" => Ok(Self::Half),
            number => number.parse().map(Self::Slots).map_err(|_| ValueError::Slots(text.to_owned())),
        }
    }
}

fn parse_percent(text: &str) -> Option<u8> {
    text.trim().parse().ok().filter(|percent| (1..=100).contains(percent))
}

// === impl Scalar ===

impl Scalar {
    /// The text.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a whole number")
            }

            fn visit_str<E>(self, text: &str) -> Result<Scalar, E> {
                Ok(Scalar(text.to_owned()))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Scalar, E> {
                Ok(Scalar(number.to_string()))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl TryFrom<Scalar> for ByteSize {
    type Error = ValueError;

    fn try_from(Scalar(text): Scalar) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl TryFrom<Scalar> for Span {
    type Error = ValueError;

    fn try_from(Scalar(text): Scalar) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl TryFrom<Scalar> for Listen {
    type Error = ValueError;

    fn try_from(Scalar(text): Scalar) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl TryFrom<Scalar> for MemoryShare {
    type Error = ValueError;

    fn try_from(Scalar(text): Scalar) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl TryFrom<Scalar> for SlotShare {
    type Error = ValueError;

    fn try_from(Scalar(text): Scalar) -> Result<Self, ValueError> {
        text.parse()
    }
}

impl TryFrom<Scalar> for DiskBudget {
    type Error = ValueError;

    fn try_from(Scalar(text): Scalar) -> Result<Self, ValueError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_of_slots() {
        for (text, share, of_seven) in
            [("all", SlotShare::All, 7), ("half", SlotShare::Half, 4), ("9", SlotShare::Slots(9), 7)]
        {
            assert_eq!(text.parse(), Ok(share));
            assert_eq!((share.to_string().as_str(), share.resolve(7), share.resolve(0)), (text, of_seven, 0));
        }
        for text in ["", "-1", "most", "50%"] {
            assert_eq!(text.parse::<SlotShare>(), Err(ValueError::Slots(text.into())));
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("20GB", 20_000_000_000),
            ("50GiB", 50 << 30),
            ("1.5 GiB", 3 << 29),
            ("2k", 2000),
            ("7B", 7),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
        for text in ["", "GB", "-1", "20XB", "1..5GB", "20 GB free", "99999999999TiB", "NaN"] {
            assert_eq!(text.parse::<ByteSize>(), Err(ValueError::Size(text.into())), "{text}");
        }
    }

    #[test]
    fn sizes_of_chunks() {
        for bytes in [64 << 10, 512 << 10, 1 << 20] {
            assert_eq!(ChunkSize::new(bytes).map(ChunkSize::bytes), Some(bytes));
        }
        for bytes in [0, 1024, 65_535, 65_537, 3 << 17, 2 << 20, 1 << 32, u64::MAX] {
            assert_eq!(ChunkSize::new(bytes), None, "{bytes}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!("3h".parse(), Ok(Span(Duration::from_secs(10_800))));
        assert_eq!("1h 30m".parse(), Ok(Span(Duration::from_secs(5400))));
        assert!("3".parse::<Span>().is_err());
        assert!("soon".parse::<Span>().is_err());
    }

    #[test]
    fn addresses() {
        assert_eq!("localhost:80".parse(), Ok(Listen(SocketAddr::from(([127, 0, 0, 1], 80)))));
        assert_eq!("[::1]:0".parse::<Listen>().map(|listen| listen.0.is_ipv6()), Ok(true));
        for text in ["8980", "localhost", "example.org:80", "1.2.3.4", "127.0.0.1:99999"] {
            assert_eq!(text.parse::<Listen>(), Err(ValueError::Address(text.into())), "{text}");
        }
    }

    #[test]
    fn budgets() {
        assert_eq!("auto".parse(), Ok(DiskBudget::Auto));
        assert_eq!("10%".parse(), Ok(DiskBudget::Percent(10)));
        assert_eq!("1GiB".parse(), Ok(DiskBudget::Bytes(1 << 30)));
        for text in ["0%", "101%", "-5%", "%", "lots"] {
            assert_eq!(text.parse::<DiskBudget>(), Err(ValueError::Budget(text.into())), "{text}");
        }
    }

    #[test]
    fn shares_of_the_memory() {
        for (text, share, of_a_thousand) in [
            ("none", MemoryShare::Unlimited, None),
            ("85%", MemoryShare::Percent(85), Some(850)),
            ("1GiB", MemoryShare::Bytes(1 << 30), Some(1 << 30)),
        ] {
            assert_eq!(text.parse(), Ok(share), "{text}");
            assert_eq!(share.resolve(1000), of_a_thousand, "{text}");
        }
        for text in ["0%", "101%", "0", "-1", "lots", ""] {
            assert_eq!(text.parse::<MemoryShare>(), Err(ValueError::Memory(text.into())), "{text}");
        }
    }

    proptest! {
        #[test]
        fn values_are_written_as_they_are_read(bytes: u64, shift in 0..64_u32, percent in 1_u8..=100) {
            let bytes = (bytes >> shift << shift).max(1);
            prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
            for budget in [DiskBudget::Auto, DiskBudget::Bytes(bytes), DiskBudget::Percent(percent)] {
                prop_assert_eq!(budget.to_string().parse(), Ok(budget));
            }
            for share in [MemoryShare::Unlimited, MemoryShare::Bytes(bytes), MemoryShare::Percent(percent)] {
                prop_assert_eq!(share.to_string().parse(), Ok(share));
            }
        }

        /// Filling the store moves bytes from free to held and never changes the budget.
        #[test]
        fn a_share_does_not_shrink_as_the_store_fills(disk: u64, part in 0.0..1.0, percent in 1_u8..=100) {
            let held = (disk as f64 * part) as u64;
            for budget in [DiskBudget::Percent(percent), DiskBudget::Auto] {
                prop_assert_eq!(budget.resolve(disk.saturating_sub(held), held.min(disk)), budget.resolve(disk, 0));
                prop_assert!(budget.resolve(disk, 0) <= disk);
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,12}") {
            let _ = text.parse::<ByteSize>();
            let _ = text.parse::<DiskBudget>();
            let _ = text.parse::<MemoryShare>();
            let _ = text.parse::<Span>();
            let _ = text.parse::<Listen>();
        }
    }
}
