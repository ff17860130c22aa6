//! Interfaces of this machine, and which of them lead to other machines of the farm.
//!
//! [`Rules::judge`] decides by what an interface is called and is; the rest of this file asks the system.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::InterfacePattern;

/// Bits of an interface, as Linux has them in `/sys/class/net/NAME/flags` (linux/if.h).
const UP: u32 = 0x1;
const LOOPBACK: u32 = 0x8;
const POINT_TO_POINT: u32 = 0x10;
const MULTICAST: u32 = 0x1000;

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Whether it is switched on and has a cable, or what stands for one.
    pub is_up: bool,
    /// Whether it leads nowhere but to this machine.
    pub is_loopback: bool,
    /// Whether many can be spoken to at once over it.
    pub has_multicast: bool,
    /// Whether it has two ends only, as tunnels have.
    pub is_point_to_point: bool,
    /// Whether it is a radio.
    pub is_wireless: bool,
}

/// Why an interface is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unused {
    /// The settings name others.
    NotNamed,
    /// The settings say so, by this pattern.
    Denied(String),
    /// It is switched off, or nothing is plugged in.
    Down,
    /// It has no address.
    NoAddress,
    /// It is a tunnel, as those of virtual private networks.
    Tunnel,
    /// It belongs to containers or virtual machines on this one.
    Virtual,
    /// It does not do multicast.
    NoMulticast,
}

/// Which interfaces are used.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    patterns: Vec<InterfacePattern>,
}

/// How long a list of interfaces is good for.
const FRESH: Duration = Duration::from_secs(1);

/// The interfaces of this machine, as they were a second ago or later. To list them takes some files, and
/// whoever announces anything has it asked for.
#[derive(Debug, Default)]
pub struct Interfaces(Option<(Instant, Vec<Interface>)>);

/// What names of tunnels begin with: anything may follow, or a digit.
const TUNNELS: [&str; 5] = ["tailscale", "zt", "ipsec", "nordlynx", "utun"];
const NUMBERED_TUNNELS: [&str; 4] = ["tun", "tap", "wg", "ppp"];

/// What names of interfaces of containers and virtual machines begin with.
const VIRTUAL: [&str; 12] = [
    "docker", "veth", "virbr", "vnet", "cni", "flannel", "cali", "podman", "lxcbr", "lxdbr", "vmnet",
    "vboxnet",
];

// === impl Rules ===

impl Rules {
    /// As the settings say; without any pattern the usual ones.
    pub fn new(patterns: Vec<InterfacePattern>) -> Self {
        Self { patterns }
    }

    /// Whether `interface` is used.
    ///
    /// # Errors
    /// [`Unused`].
    pub fn judge(&self, interface: &Interface) -> Result<(), Unused> {
        let meant = |pattern: &&InterfacePattern| pattern.is_of(&interface.name);
        let mut denied = self.patterns.iter().filter(|pattern| pattern.denies());
        if let Some(pattern) = denied.find(meant) {
            return Err(Unused::Denied(pattern.to_string()));
        }
        let mut named = self.patterns.iter().filter(|pattern| !pattern.denies()).peekable();
        let is_asked_for = named.peek().is_some();
        if is_asked_for && !named.any(|pattern| meant(&pattern)) {
            return Err(Unused::NotNamed);
        }
        if !is_asked_for {
            interface.check_usual()?;
        }
        if !interface.is_up {
            return Err(Unused::Down);
        }
        if interface.addresses.is_empty() {
            return Err(Unused::NoAddress);
        }
        // The loopback does without the flag.
        if !interface.has_multicast && !interface.is_loopback {
            return Err(Unused::NoMulticast);
        }
        Ok(())
    }
}

// === impl Interfaces ===

impl Interfaces {
    /// As they were not long ago.
    pub async fn list(&mut self) -> &[Interface] {
        if self.0.as_ref().is_none_or(|(at, _)| at.elapsed() >= FRESH) {
            let listed = tokio::task::spawn_blocking(list).await;
            // A panic was logged; the next to ask tries again.
            self.0 = listed.ok().map(|listed| (Instant::now(), listed));
        }
        self.0.as_ref().map_or(&[], |(_, listed)| listed)
    }
}

/// Whether it is the bridge of a network of Docker: `br-` and twelve digits of its id.
fn is_of_docker(name: &str) -> bool {
    let id = name.strip_prefix("br-").filter(|id| id.len() == 12);
    id.is_some_and(|id| id.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

// === impl Unused ===

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotNamed => "`interfaces` names others",
            Self::Denied(pattern) => return write!(f, "`interfaces` has {pattern}"),
            Self::Down => "it is down",
            Self::NoAddress => "it has no address",
            Self::Tunnel => "it is a tunnel; name it in `interfaces` to use it",
            Self::Virtual => {
                "it belongs to containers or virtual machines; name it in `interfaces` to use it"
            }
            Self::NoMulticast => "it does no multicast",
        })
    }
}

// === impl Interface ===

impl Interface {
    /// Whether it leads to other machines of a network, as far as its name and kind tell.
    ///
    /// # Errors
    /// [`Unused::Tunnel`] and [`Unused::Virtual`].
    pub fn check_usual(&self) -> Result<(), Unused> {
        let name = self.name.as_str();
        let begins = |with: &[&str]| with.iter().any(|with| name.starts_with(with));
        let is_numbered = |begin: &&str| {
            name.strip_prefix(begin).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        };
        if self.is_point_to_point || begins(&TUNNELS) || NUMBERED_TUNNELS.iter().any(is_numbered) {
            return Err(Unused::Tunnel);
        }
        if begins(&VIRTUAL) || is_of_docker(name) {
            return Err(Unused::Virtual);
        }
        Ok(())
    }

    /// One address of an interface, with what the system says of that.
    pub fn of(found: &if_addrs::Interface) -> Self {
        let flags = flags(&found.name).unwrap_or_else(|| {
            let if_true = |is_true, flag| if is_true { flag } else { 0 };
            UP | MULTICAST | if_true(found.is_loopback(), LOOPBACK) | if_true(found.is_p2p(), POINT_TO_POINT)
        });
        let has = |flag| flags & flag != 0;
        Self {
            name: found.name.clone(),
            index: found.index.unwrap_or_default(),
            addresses: vec![found.ip()],
            is_up: has(UP) && (found.is_oper_up() || has(LOOPBACK)),
            is_loopback: has(LOOPBACK),
            has_multicast: has(MULTICAST),
            is_point_to_point: has(POINT_TO_POINT),
            is_wireless: is_wireless(&found.name),
        }
    }
}

/// All interfaces that have an address, or that Linux lists, by name.
pub fn list() -> Vec<Interface> {
    let mut all: Vec<Interface> = Vec::new();
    for found in if_addrs::get_if_addrs().unwrap_or_default() {
        match all.iter_mut().find(|known| known.name == found.name) {
            Some(known) => known.addresses.push(found.ip()),
            None => all.push(Interface::of(&found)),
        }
    }
    let listed = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    for name in listed.filter_map(|entry| entry.file_name().into_string().ok()) {
        if all.iter().all(|known| known.name != name) {
            let flags = flags(&name).unwrap_or_default();
            all.push(Interface {
                index: number(&name, "ifindex").unwrap_or_default(),
                is_up: flags & UP != 0,
                is_loopback: flags & LOOPBACK != 0,
                has_multicast: flags & MULTICAST != 0,
                is_point_to_point: flags & POINT_TO_POINT != 0,
                is_wireless: is_wireless(&name),
                addresses: Vec::new(),
                name,
            });
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

fn flags(name: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/sys/class/net/{name}/flags")).ok()?;
    u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

fn number(name: &str, file: &str) -> Option<u32> {
    fs::read_to_string(format!("/sys/class/net/{name}/{file}")).ok()?.trim().parse().ok()
}

fn is_wireless(name: &str) -> bool {
    fs::exists(format!("/sys/class/net/{name}/wireless")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> Interface {
        let addresses = vec![IpAddr::from([10, 0, 0, 1])];
        Interface {
            name: name.to_owned(),
            addresses,
            is_up: true,
            has_multicast: true,
            ..Interface::default()
        }
    }

    fn rules(patterns: &[&str]) -> Rules {
        Rules::new(patterns.iter().map(|pattern| pattern.parse().unwrap()).collect())
    }

    #[test]
    fn cables_radios_and_bridges_are_used_and_tunnels_and_containers_are_not() {
        let rules = rules(&[]);
        for name in ["eth0", "enp3s0", "wlan0", "br0", "br-lan", "bond0", "tundra", "wgbr", "tapestry"] {
            assert_eq!(rules.judge(&named(name)), Ok(()), "{name}");
        }
        let lo = Interface { is_loopback: true, has_multicast: false, ..named("lo") };
        assert_eq!(rules.judge(&lo), Ok(()));
        for name in ["tun0", "tap7", "wg0", "tailscale0", "ztabcdefgh", "ppp0"] {
            assert_eq!(rules.judge(&named(name)), Err(Unused::Tunnel), "{name}");
        }
        for name in
            ["docker0", "docker_gwbridge", "br-0123456789ab", "veth12ab", "virbr0", "vnet3", "podman1"]
        {
            assert_eq!(rules.judge(&named(name)), Err(Unused::Virtual), "{name}");
        }
        let tunnel = Interface { is_point_to_point: true, ..named("odd") };
        assert_eq!(rules.judge(&tunnel), Err(Unused::Tunnel));
    }

    #[test]
    fn what_cannot_be_used_is_not() {
        let rules = rules(&[]);
        assert_eq!(rules.judge(&Interface { is_up: false, ..named("eth0") }), Err(Unused::Down));
        assert_eq!(rules.judge(&Interface { addresses: vec![], ..named("eth0") }), Err(Unused::NoAddress));
        assert_eq!(
            rules.judge(&Interface { has_multicast: false, ..named("eth0") }),
            Err(Unused::NoMulticast)
        );
    }

    #[test]
    fn the_settings_win() {
        let only = rules(&["wg*", "!wg1"]);
        assert_eq!(only.judge(&named("wg0")), Ok(()));
        assert_eq!(only.judge(&named("wg1")), Err(Unused::Denied("!wg1".to_owned())));
        assert_eq!(only.judge(&named("eth0")), Err(Unused::NotNamed));
        let without = rules(&["!wlan*"]);
        assert_eq!(without.judge(&named("eth0")), Ok(()));
        assert_eq!(without.judge(&named("wg0")), Err(Unused::Tunnel));
        assert!(without.judge(&named("wlan0")).unwrap_err().to_string().contains("!wlan*"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_list_is_asked_for_anew_after_a_while() {
        let mut interfaces = Interfaces::default();
        assert!(!interfaces.list().await.is_empty());
        let first = interfaces.0.as_ref().map(|(at, _)| *at).unwrap();
        for (pause, is_anew) in [(FRESH / 2, false), (FRESH, true)] {
            tokio::time::sleep(pause).await;
            assert!(!interfaces.list().await.is_empty());
            assert_eq!(interfaces.0.as_ref().is_some_and(|(at, _)| *at > first), is_anew);
        }
    }

    #[test]
    fn this_machine_has_a_loopback() {
        let all = list();
        let lo = all.iter().find(|interface| interface.is_loopback).unwrap();
        assert!(lo.is_up && lo.index > 0 && !lo.is_wireless, "{lo:?}");
        assert!(lo.addresses.iter().any(IpAddr::is_loopback));
    }
}
