//! [`Rules`]: from where this node downloads.
//!
//! Pure. A client of the node may name any address, and so may every server that redirects; the node stands
//! inside a network to which these have no way. So an address counts after names were looked up, it is the one
//! that is connected to, and only public ones do unless the owner names the network.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::uri::Url;
use crate::config::{AssetConfig, HostPattern, Network};

/// What the owner of the node allows.
#[derive(Clone, Debug)]
pub struct Rules {
    hosts: Vec<HostPattern>,
    networks: Vec<Network>,
    plain_http: bool,
}

/// Why nothing is downloaded from somewhere.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not https.
    #[error("only https is downloaded from; asset-plain-http would allow http")]
    Plain,
    /// The host is not among those allowed.
    #[error("nothing is downloaded from {0}; asset-hosts says from where")]
    Host(String),
    /// No address of the host may be connected to.
    #[error("{0} is not on the internet; asset-networks would allow its network")]
    Address(String),
}

// === impl Rules ===

impl Rules {
    /// As `config` says.
    pub fn new(config: &AssetConfig) -> Self {
        let AssetConfig { hosts, networks, plain_http, .. } = config.clone();
        Self { hosts, networks, plain_http }
    }

    /// Whether anything is downloaded at all.
    pub fn any(&self) -> bool {
        self.hosts.iter().any(|pattern| !pattern.denies())
    }

    /// Judges what an address says of itself, before names are looked up.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check(&self, url: &Url) -> Result<(), Refused> {
        if !url.is_secure() && !self.plain_http {
            return Err(Refused::Plain);
        }
        let host = url.host();
        let verdict = self.hosts.iter().find(|pattern| pattern.is_of(host));
        if verdict.is_none_or(HostPattern::denies) {
            return Err(Refused::Host(host.to_owned()));
        }
        match host.parse() {
            Ok(address) if !self.allows(address) => Err(Refused::Address(host.to_owned())),
            _ => Ok(()),
        }
    }

    /// Whether `address` may be connected to.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        is_public(address) || self.networks.iter().any(|network| network.holds(address))
    }
}

/// Whether an address is one of the internet (IANA special-purpose address registries).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_special = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        || (a == 100 && b & 0xc0 == 64)
        || (a == 192 && b == 0 && c == 0)
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && b & 0xfe == 18);
    !is_special
}

/// Global unicast, but for what leads to IPv4 addresses or is for examples. Addresses of NAT64 are judged by
/// what they stand for.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    if segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
        let [.., a, b, c, d] = address.octets();
        return is_public_v4(Ipv4Addr::new(a, b, c, d));
    }
    let [first, second, ..] = segments;
    let is_special = (first == 0x2001 && (second < 0x200 || second == 0xdb8))
        || first == 0x2002
        || (first == 0x3fff && second < 0x1000);
    first & 0xe000 == 0x2000 && !is_special
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn rules(hosts: &[&str], networks: &[&str]) -> Rules {
        Rules {
            hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
            networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
            plain_http: true,
        }
    }

    fn check(rules: &Rules, url: &str) -> Result<(), Refused> {
        rules.check(&Url::parse(url).unwrap())
    }

    #[test]
    fn only_addresses_of_the_internet_count_by_default() {
        let rules = Rules::new(&Config::default().assets);
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "192.0.0.8",
            "198.18.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "fe80::1",
            "fc00::1",
            "fd12::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
        ] {
            assert!(!rules.allows(address.parse().unwrap()), "{address}");
        }
        for address in
            ["1.1.1.1", "100.128.0.1", "172.32.0.1", "2606:4700::1", "64:ff9b::101:101", "::ffff:1.1.1.1"]
        {
            assert!(rules.allows(address.parse().unwrap()), "{address}");
        }
        assert_eq!(check(&rules, "https://example.com/x"), Ok(()));
        assert!(matches!(check(&rules, "http://169.254.169.254/latest"), Err(Refused::Address(_))));
        assert!(matches!(check(&rules, "http://[::ffff:127.0.0.1]/"), Err(Refused::Address(_))));
    }

    #[test]
    fn the_owner_names_networks_and_hosts() {
        let rules = rules(&["!secret.lan", "*.lan", "127.0.0.*"], &["127.0.0.0/8", "192.168.1.0/24"]);
        assert!(
            rules.allows("127.0.0.1".parse().unwrap()) && rules.allows("::ffff:192.168.1.4".parse().unwrap())
        );
        assert!(!rules.allows("192.168.2.1".parse().unwrap()));
        assert_eq!(check(&rules, "http://git.lan/"), Ok(()));
        assert_eq!(check(&rules, "http://127.0.0.1:99/"), Ok(()));
        for url in ["http://SECRET.lan/", "http://secret.lan./", "http://example.com/"] {
            assert!(matches!(check(&rules, url), Err(Refused::Host(_))), "{url}");
        }
        assert!(rules.any() && !self::rules(&[], &[]).any() && !self::rules(&["!a"], &[]).any());
    }

    #[test]
    fn http_can_be_switched_off() {
        let rules = Rules { plain_http: false, ..rules(&["*"], &[]) };
        assert_eq!(check(&rules, "http://example.com/"), Err(Refused::Plain));
        assert_eq!(check(&rules, "https://example.com/"), Ok(()));
    }
}
