//! Settings that name parts of the network: machines to dial, interfaces to use, hosts to download from.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::Deserialize;

use super::values::{Scalar, ValueError};

/// The port of a machine for the others of its farm, where nobody says another.
pub const PEER_PORT: u16 = 8981;

/// Bytes of the longest host name there is.
const HOST_MAX: usize = 253;

/// A machine to dial: `HOST`, `HOST:PORT`, `IP`, `[IPV6]:PORT`. Names are looked up when it is dialled.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct PeerAddress {
    host: String,
    port: u16,
}

/// Interfaces by name: `eth0`, `en*`; with `!` in front those that are not to be used.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct InterfacePattern {
    denies: bool,
    glob: String,
}

/// Hosts by name or address: `example.com`, `*.example.com`, `10.0.0.*`; with `!` in front those that are not
/// meant. Letters are small.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct HostPattern {
    denies: bool,
    glob: String,
}

/// A network: `10.0.0.0/8`, `::1/128`; an address alone is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct Network(IpNet);

/// A proxy: `http://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Scalar")]
pub struct ProxyAddress(PeerAddress);

// === impl PeerAddress ===

impl PeerAddress {
    /// Name or address of the host.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port there; not 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// With the port, whichever it is.
    pub fn with_port(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

impl FromStr for PeerAddress {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (host, port) = split(text.trim()).unwrap_or_default();
        let port = port.map_or(Ok(PEER_PORT), str::parse).unwrap_or(0);
        let is_name = !host.is_empty()
            && host.len() <= HOST_MAX
            && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
        if port == 0 || !(is_name || is_ipv6(host)) {
            return Err(ValueError::Peer(text.to_owned()));
        }
        // Names of interfaces are not what they are in other letters.
        let host = if is_name { host.to_ascii_lowercase() } else { host.to_owned() };
        Ok(Self { host, port })
    }
}

impl TryFrom<Scalar> for PeerAddress {
    type Error = ValueError;

    fn try_from(text: Scalar) -> Result<Self, ValueError> {
        text.as_str().parse()
    }
}

/// Host and port of `HOST`, `HOST:PORT`, `IPV6`, `[IPV6]`, `[IPV6]:PORT`.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').filter(|(host, _)| is_ipv6(host))?;
        return match rest {
            "" => Some((host, None)),
            rest => Some((host, Some(rest.strip_prefix(':')?))),
        };
    }
    match text.split_once(':') {
        None => Some((text, None)),
        Some((_, rest)) if rest.contains(':') => Some((text, None)),
        Some((host, port)) => Some((host, Some(port))),
    }
}

/// An IPv6 address, with or without the interface it belongs to: `fe80::1%eth0`.
fn is_ipv6(host: &str) -> bool {
    let (address, scope) = host.split_once('%').unwrap_or((host, "0"));
    let is_scope = !scope.is_empty() && scope.len() < 16 && scope.chars().all(|c| c.is_ascii_graphic());
    address.parse::<Ipv6Addr>().is_ok() && is_scope && !scope.contains(['%', ']', '['])
}

/// As a person would write it: without the port that is usual.
impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            PEER_PORT => f.write_str(&self.host),
            _ => f.write_str(&self.with_port()),
        }
    }
}

impl From<(IpAddr, u16)> for PeerAddress {
    fn from((ip, port): (IpAddr, u16)) -> Self {
        Self { host: ip.to_string(), port }
    }
}

// === impl InterfacePattern ===

impl InterfacePattern {
    /// Whether it is about interfaces that are not to be used.
    pub fn denies(&self) -> bool {
        self.denies
    }

    /// Whether it means the interface called `name`.
    pub fn is_of(&self, name: &str) -> bool {
        matches(self.glob.as_bytes(), name.as_bytes())
    }
}

impl FromStr for InterfacePattern {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (denies, glob) = match text.trim().strip_prefix('!') {
            Some(glob) => (true, glob),
            None => (false, text.trim()),
        };
        let is_name = |c: char| c.is_ascii_graphic() && !"/!".contains(c);
        if glob.is_empty() || glob.len() > 64 || !glob.chars().all(is_name) {
            return Err(ValueError::Interface(text.to_owned()));
        }
        Ok(Self { denies, glob: glob.to_owned() })
    }
}

impl TryFrom<Scalar> for InterfacePattern {
    type Error = ValueError;

    fn try_from(text: Scalar) -> Result<Self, ValueError> {
        text.as_str().parse()
    }
}

impl fmt::Display for InterfacePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.denies { "!" } else { "" }, self.glob)
    }
}

// === impl HostPattern ===

impl HostPattern {
    /// Whether it is about hosts that are not meant.
    pub fn denies(&self) -> bool {
        self.denies
    }

    /// Whether it fits `host`, in small letters.
    pub fn is_of(&self, host: &str) -> bool {
        matches(self.glob.as_bytes(), host.as_bytes())
    }
}

impl FromStr for HostPattern {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let (denies, glob) = match text.trim().strip_prefix('!') {
            Some(glob) => (true, glob),
            None => (false, text.trim()),
        };
        let is_host = |c: char| c.is_ascii_alphanumeric() || "-._:*?".contains(c);
        if glob.is_empty() || glob.len() > HOST_MAX || !glob.chars().all(is_host) {
            return Err(ValueError::Host(text.to_owned()));
        }
        Ok(Self { denies, glob: glob.to_ascii_lowercase() })
    }
}

impl TryFrom<Scalar> for HostPattern {
    type Error = ValueError;

    fn try_from(text: Scalar) -> Result<Self, ValueError> {
        text.as_str().parse()
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.denies { "!" } else { "" }, self.glob)
    }
}

// === impl Network ===

impl Network {
    /// Whether `address` is in it.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl FromStr for Network {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let text = text.trim();
        let network = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(|network: IpNet| Self(network.trunc())).map_err(|_| ValueError::Network(text.to_owned()))
    }
}

impl TryFrom<Scalar> for Network {
    type Error = ValueError;

    fn try_from(text: Scalar) -> Result<Self, ValueError> {
        text.as_str().parse()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

// === impl ProxyAddress ===

impl ProxyAddress {
    /// Name or address of the host.
    pub fn host(&self) -> &str {
        self.0.host()
    }

    /// The port there; not 0.
    pub fn port(&self) -> u16 {
        self.0.port()
    }
}

impl FromStr for ProxyAddress {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let rest = text.trim().strip_prefix("http://").ok_or(ValueError::Proxy)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let has_port = matches!(split(rest), Some((_, Some(_))));
        rest.parse().ok().filter(|_| has_port).map(Self).ok_or(ValueError::Proxy)
    }
}

impl TryFrom<Scalar> for ProxyAddress {
    type Error = ValueError;

    fn try_from(text: Scalar) -> Result<Self, ValueError> {
        text.as_str().parse()
    }
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.0.with_port())
    }
}

/// Whether `glob` means `name`: `*` stands for any bytes, `?` for one.
fn matches(glob: &[u8], name: &[u8]) -> bool {
    // Where to go on when what follows the last star does not fit there.
    let mut again = None;
    let (mut at, mut in_name) = (0, 0);
    while in_name < name.len() {
        match glob.get(at) {
            Some(b'*') => {
                again = Some((at + 1, in_name));
                at += 1;
            }
            Some(c) if *c == b'?' || *c == name[in_name] => {
                at += 1;
                in_name += 1;
            }
            _ => {
                let Some((after_star, from)) = again else { return false };
                again = Some((after_star, from + 1));
                (at, in_name) = (after_star, from + 1);
            }
        }
    }
    glob[at..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(text: &str) -> Option<(String, u16)> {
        text.parse().ok().map(|peer: PeerAddress| (peer.host().to_owned(), peer.port()))
    }

    #[test]
    fn machines_are_named_in_every_usual_way() {
        for (text, host, port) in [
            ("Attic", "attic", PEER_PORT),
            ("attic.local:9000", "attic.local", 9000),
            ("10.0.0.7", "10.0.0.7", PEER_PORT),
            ("10.0.0.7:1", "10.0.0.7", 1),
            ("fe80::1", "fe80::1", PEER_PORT),
            ("[fe80::1]", "fe80::1", PEER_PORT),
            ("[fe80::1%eth0]:9", "fe80::1%eth0", 9),
            ("fe80::1%3", "fe80::1%3", PEER_PORT),
        ] {
            assert_eq!(peer(text), Some((host.to_owned(), port)), "{text}");
        }
        for wrong in [
            "", ":1", "a:0", "a:65536", "a:b", "[a]:1", "[::1", "[::1]1", "a b", "a/b", "::1%", "1::2::3",
            "ä",
        ] {
            assert_eq!(peer(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn patterns_mean_names() {
        let is_of = |pattern: &str, name: &str| pattern.parse::<InterfacePattern>().unwrap().is_of(name);
        assert!(is_of("en*", "enp3s0") && is_of("en*", "en") && !is_of("en*", "wlan0"));
        assert!(is_of("*", "lo") && is_of("e?h0", "eth0") && !is_of("e?h0", "eh0"));
        assert!(is_of("*a*b", "xaxbxb") && !is_of("*a*b", "xaxbxc") && is_of("eth0", "eth0"));
        let denied: InterfacePattern = "!docker*".parse().unwrap();
        assert!(denied.denies() && denied.is_of("docker0"));
        assert!("".parse::<InterfacePattern>().is_err() && "!".parse::<InterfacePattern>().is_err());
        assert!("a b".parse::<InterfacePattern>().is_err());
    }

    #[test]
    fn hosts_networks_and_proxies_are_what_they_say() {
        let host = |text: &str| text.parse::<HostPattern>().unwrap();
        assert!(
            host("*.Example.com").is_of("a.b.example.com") && !host("*.example.com").is_of("example.com")
        );
        assert!(host("!evil").denies() && !host("[::1]".trim_matches(['[', ']'])).denies());
        assert!("a b".parse::<HostPattern>().is_err() && "".parse::<HostPattern>().is_err());
        let network = |text: &str| text.parse::<Network>().unwrap();
        assert!(network("10.0.0.0/8").holds("10.9.8.7".parse().unwrap()));
        assert!(!network("10.0.0.0/8").holds("11.0.0.1".parse().unwrap()));
        assert_eq!(network("10.1.2.3/8").to_string(), "10.0.0.0/8");
        assert_eq!(network("::1").to_string(), "::1/128");
        assert!("10.0.0.0/33".parse::<Network>().is_err() && "x".parse::<Network>().is_err());
        let proxy: ProxyAddress = "http://proxy:3128/".parse().unwrap();
        assert_eq!(
            (proxy.host(), proxy.port(), proxy.to_string().as_str()),
            ("proxy", 3128, "http://proxy:3128")
        );
        for wrong in
            ["proxy:3128", "https://proxy:1", "http://proxy", "http://u:secret@proxy:1", "http://p:1/x"]
        {
            let error = wrong.parse::<ProxyAddress>().unwrap_err();
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_is_written_so_that_it_parses_to_the_same(text in "\\PC{0,40}|[a-f0-9:.%\\[\\]]{0,30}") {
            if let Ok(peer) = text.parse::<PeerAddress>() {
                prop_assert_eq!(&peer.with_port().parse::<PeerAddress>().unwrap(), &peer);
                prop_assert_eq!(peer.to_string().parse::<PeerAddress>().unwrap(), peer);
            }
            if let Ok(pattern) = text.parse::<InterfacePattern>() {
                prop_assert_eq!(pattern.to_string().parse::<InterfacePattern>().unwrap(), pattern);
            }
        }

        #[test]
        fn a_name_with_parts_left_out_means_it(name in "[a-z0-9]{0,12}", from in 0_usize..12, to in 0_usize..12) {
            let (from, to) = (from.min(to).min(name.len()), to.max(from).min(name.len()));
            let glob = format!("{}*{}", &name[..from], &name[to..]);
            prop_assert!(matches(glob.as_bytes(), name.as_bytes()));
        }
    }
}
