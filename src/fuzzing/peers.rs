//! What is said of other machines by anybody: announcements on the network, the file of those remembered,
//! addresses in settings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::input::Input;
use crate::config::{InterfacePattern, PeerAddress};
use crate::peer::addresses;
use crate::peer::discovery::announcement::{Announcement, Heard};
use crate::peer::interfaces::Interface;
use crate::peer::members::{MOST_ADDRESSES, MOST_MEMBERS};

/// What all machines are announced under.
const SERVICE: &str = "_farmhand._tcp.local.";

/// What parses can be dialled, is bounded, and is written as a text that parses to the same.
///
/// # Panics
/// When that does not hold.
pub fn peers(data: &[u8]) {
    let mut input = Input(data);
    if input.flag() {
        announcement(input.0);
    }
    let Ok(text) = std::str::from_utf8(input.0) else { return };
    let remembered = addresses::parse(text);
    assert!(remembered.len() <= MOST_MEMBERS);
    for peer in &remembered {
        assert!(!peer.name.is_empty() && !peer.name.contains(char::is_control));
        assert!(!peer.addresses.is_empty() && peer.addresses.len() <= MOST_ADDRESSES);
    }
    assert_eq!(addresses::parse(&addresses::to_text(&remembered)), remembered);
    if let Ok(peer) = text.parse::<PeerAddress>() {
        assert!(peer.port() != 0);
        assert_eq!(peer.to_string().parse(), Ok(peer));
    }
    if let Ok(pattern) = text.parse::<InterfacePattern>() {
        assert_eq!(pattern.to_string().parse(), Ok(pattern.clone()));
        let _ = pattern.is_of(text);
    }
}

/// Lines: name, tag of the farm, protocol; then a port and addresses of 17 bytes each, with the number of
/// an interface in front.
fn announcement(data: &[u8]) {
    let mut parts = data.splitn(4, |byte| *byte == b'\n');
    let mut text = || parts.next().and_then(|part| std::str::from_utf8(part).ok());
    let (Some(name), farm, protocol) = (text(), text(), text()) else { return };
    let rest = parts.next().unwrap_or_default();
    let (port, rest) = rest.split_at(rest.len().min(2));
    let address = |bytes: &[u8]| {
        let v6 = Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[1..17]).unwrap_or_default());
        let v4 = Ipv4Addr::new(bytes[1], bytes[2], bytes[3], bytes[4]);
        let ip = if bytes[0] & 0x80 == 0 { IpAddr::V4(v4) } else { IpAddr::V6(v6) };
        (ip, vec![u32::from(bytes[0] & 3)])
    };
    let heard = Heard {
        name,
        port: port.try_into().map_or(0, u16::from_be_bytes),
        protocol,
        farm,
        addresses: rest.chunks_exact(17).map(address).collect(),
    };
    let lo = Interface { name: "lo".to_owned(), index: 1, is_loopback: true, ..Interface::default() };
    let eth0 = Interface { name: "eth0".to_owned(), index: 2, ..Interface::default() };
    let Some(announcement) = Announcement::read(heard, SERVICE, &[lo, eth0]) else { return };
    assert!(name.to_ascii_lowercase().starts_with(&announcement.id.label()));
    assert_eq!(Some(announcement.farm.to_string()), farm.map(str::to_ascii_lowercase));
    assert!((1..=MOST_ADDRESSES).contains(&announcement.addresses.len()));
    for address in &announcement.addresses {
        assert!(address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast());
    }
}
