//! [`Announcement`]: what was heard of a machine, as far as it makes sense.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::peer::MachineId;
use crate::peer::interfaces::Interface;
use crate::peer::members::MOST_ADDRESSES;
use crate::peer::trust::FarmTag;

/// Version of what is announced; another one is not understood.
pub const PROTOCOL: u32 = 1;

/// What was heard, unchecked.
#[derive(Clone, Debug)]
pub struct Heard<'a> {
    /// The full name of the service.
    pub name: &'a str,
    /// The port.
    pub port: u16,
    /// The fact `v`.
    pub protocol: Option<&'a str>,
    /// The fact `farm`.
    pub farm: Option<&'a str>,
    /// Addresses, and the numbers of the interfaces on which they were heard.
    pub addresses: Vec<(IpAddr, Vec<u32>)>,
}

/// A machine that says it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Who it says it is.
    pub id: MachineId,
    /// The farm it says it belongs to.
    pub farm: FarmTag,
    /// Where, the likeliest first; not none.
    pub addresses: Vec<SocketAddr>,
    /// Names of the interfaces on which it was heard.
    pub interfaces: Vec<String>,
}

impl Announcement {
    /// What `heard` says; `None` if it makes no sense. `service` is the name all machines are announced
    /// under, `interfaces` are those of this one.
    pub fn read(heard: Heard<'_>, service: &str, interfaces: &[Interface]) -> Option<Self> {
        let id = id_of(heard.name, service)?;
        let farm = heard.farm?.parse().ok()?;
        if heard.port == 0 || heard.protocol?.parse() != Ok(PROTOCOL) {
            return None;
        }
        let (addresses, names) = places(&heard, interfaces);
        (!addresses.is_empty()).then_some(Self { id, farm, addresses, interfaces: names })
    }
}

/// Whose announcement has this full name.
pub fn id_of(name: &str, service: &str) -> Option<MachineId> {
    let label = name.get(..name.len().checked_sub(service.len())?)?.strip_suffix('.')?;
    let is_service = name.get(label.len() + 1..)?.eq_ignore_ascii_case(service);
    MachineId::from_label(label).filter(|_| is_service)
}

/// Where to dial, the likeliest first, and the names of the interfaces on which that was heard.
pub(super) fn places(heard: &Heard<'_>, interfaces: &[Interface]) -> (Vec<SocketAddr>, Vec<String>) {
    let mut ranked = Vec::new();
    let mut names = Vec::new();
    for (ip, numbers) in &heard.addresses {
        let heard_on: Vec<_> =
            interfaces.iter().filter(|interface| numbers.contains(&interface.index)).collect();
        if let Some(found) = usable(*ip, heard.port, &heard_on) {
            ranked.push((rank(*ip, &heard_on), found));
            names.extend(heard_on.iter().map(|interface| interface.name.clone()));
        }
    }
    ranked.sort();
    ranked.dedup();
    names.sort();
    names.dedup();
    (ranked.into_iter().map(|(_, address)| address).take(MOST_ADDRESSES).collect(), names)
}

/// The address to dial, if there is one.
fn usable(ip: IpAddr, port: u16, heard_on: &[&Interface]) -> Option<SocketAddr> {
    let ip = ip.to_canonical();
    // Only who is on this machine can mean this machine by it.
    if ip.is_loopback() && !heard_on.iter().any(|interface| interface.is_loopback) {
        return None;
    }
    match ip {
        IpAddr::V4(v4) => {
            let is_of_one = !v4.is_unspecified() && !v4.is_multicast() && !v4.is_broadcast();
            is_of_one.then(|| SocketAddrV4::new(v4, port).into())
        }
        IpAddr::V6(v6) if v6.is_unspecified() || v6.is_multicast() => None,
        // Such an address means something on one interface only.
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            let scope = heard_on.first()?.index;
            Some(SocketAddrV6::new(v6, port, 0, scope).into())
        }
        IpAddr::V6(v6) => Some(SocketAddrV6::new(v6, port, 0, 0).into()),
    }
}

/// The less, the better: on the same machine, by cable, by radio; then by kind of address.
fn rank(ip: IpAddr, heard_on: &[&Interface]) -> (u8, u8) {
    let way = if ip.is_loopback() {
        0
    } else if heard_on.iter().any(|interface| !interface.is_wireless) {
        1
    } else {
        2
    };
    let kind = match ip {
        IpAddr::V4(v4) if v4.is_link_local() => 2,
        IpAddr::V4(_) => 0,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => 3,
        IpAddr::V6(_) => 1,
    };
    (way, kind)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SERVICE: &str = "_farmhand._tcp.local.";

    fn interfaces() -> Vec<Interface> {
        let named = |name: &str, index| Interface { name: name.to_owned(), index, ..Interface::default() };
        vec![
            Interface { is_loopback: true, ..named("lo", 1) },
            named("eth0", 2),
            Interface { is_wireless: true, ..named("wlan0", 3) },
        ]
    }

    fn name(number: u8) -> String {
        format!("{}.{SERVICE}", MachineId::new([number; 32]).label())
    }

    fn heard<'a>(name: &'a str, addresses: &[(&str, u32)]) -> Heard<'a> {
        let address = |(ip, index): &(&str, u32)| (ip.parse().unwrap(), vec![*index]);
        Heard {
            name,
            port: 7,
            protocol: Some("1"),
            farm: Some("0123456789abcdef"),
            addresses: addresses.iter().map(address).collect(),
        }
    }

    fn read(heard: Heard<'_>) -> Option<Announcement> {
        Announcement::read(heard, SERVICE, &interfaces())
    }

    #[test]
    fn addresses_come_best_first_and_keep_their_interface() {
        let name = name(7);
        let heard = heard(
            &name,
            &[
                ("fe80::1", 3),
                ("10.0.0.9", 3),
                ("fe80::1", 2),
                ("2001:db8::1", 2),
                ("10.0.0.7", 2),
                ("10.0.0.7", 2),
                ("127.0.0.1", 1),
            ],
        );
        let announcement = read(heard).unwrap();
        let addresses: Vec<_> = announcement.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(
            addresses,
            ["127.0.0.1:7", "10.0.0.7:7", "[2001:db8::1]:7", "[fe80::1%2]:7", "10.0.0.9:7", "[fe80::1%3]:7"]
        );
        assert_eq!(announcement.id, MachineId::new([7; 32]));
        assert_eq!(announcement.interfaces, ["eth0", "lo", "wlan0"]);
    }

    #[test]
    fn forged_announcements_lead_nowhere() {
        let name = name(7);
        let good = || heard(&name, &[("10.0.0.7", 2)]);
        assert!(read(good()).is_some());
        for wrong in [
            Heard { port: 0, ..good() },
            Heard { protocol: None, ..good() },
            Heard { protocol: Some("2"), ..good() },
            Heard { farm: None, ..good() },
            Heard { farm: Some("0123"), ..good() },
            Heard { farm: Some("0123456789abcdeg"), ..good() },
            Heard { name: SERVICE, ..good() },
            Heard { name: "", ..good() },
            Heard { name: &format!("x{name}"), ..good() },
            Heard { name: &name.replace("farmhand", "farmhans"), ..good() },
            Heard { addresses: Vec::new(), ..good() },
        ] {
            assert_eq!(read(wrong.clone()), None, "{wrong:?}");
        }
        for (ip, index) in [
            ("0.0.0.0", 2),
            ("224.0.0.251", 2),
            ("255.255.255.255", 2),
            ("::", 2),
            ("ff02::fb", 2),
            ("127.0.0.1", 2),
            ("::ffff:127.0.0.1", 2),
            ("::1", 2),
            ("fe80::1", 9),
        ] {
            assert_eq!(read(heard(&name, &[(ip, index)])), None, "{ip}");
        }
        let many: Vec<_> = (0..200).map(|number| format!("10.0.0.{number}")).collect();
        let many: Vec<_> = many.iter().map(|ip| (ip.as_str(), 2)).collect();
        assert_eq!(read(heard(&name, &many)).unwrap().addresses.len(), MOST_ADDRESSES);
    }

    proptest! {
        #[test]
        fn whatever_is_heard_gives_what_can_be_dialled(
            text in "\\PC{0,80}", port: u16, farm in "[0-9a-f]{15,17}", ips: [u128; 4], index in 0_u32..5,
        ) {
            let name = format!("{text}.{SERVICE}");
            for name in [&*name, &*text, &self::name(1)] {
                let addresses = ips.iter().map(|bits| (IpAddr::V6((*bits).into()), vec![index])).collect();
                let heard = Heard { name, port, protocol: Some("1"), farm: Some(&farm), addresses };
                if let Some(announcement) = read(heard) {
                    prop_assert!(announcement.addresses.iter().all(|address| address.port() != 0));
                    prop_assert!(!announcement.addresses.is_empty());
                }
            }
        }
    }
}
