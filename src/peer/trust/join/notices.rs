//! How invitations are heard of on the network, and at which addresses.

use std::any::Any;
use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;

/// Addresses that are shown at most.
const MOST_SHOWN: usize = 4;

/// Interfaces of containers and private networks, by the beginnings of their names: the other machine
/// is not there.
const NOT_THERE: [&str; 10] =
    ["docker", "br-", "veth", "virbr", "vnet", "tun", "tap", "wg", "tailscale", "zt"];

/// Tells the network of invitations, and hears of those of others. What is heard is a hint: anybody may
/// say anything.
#[async_trait]
pub trait Notices: Send + Sync + 'static {
    /// Tells, until what is returned is dropped, that the farm called `farm` takes newcomers at `port`.
    fn announce(&self, farm: &str, port: u16) -> Box<dyn Any + Send>;

    /// Where newcomers are taken, as far as it is heard within some seconds.
    async fn find(&self) -> Vec<SocketAddr>;
}

/// Neither tells nor hears: people carry addresses.
pub struct Unannounced;

#[async_trait]
impl Notices for Unannounced {
    fn announce(&self, _: &str, _: u16) -> Box<dyn Any + Send> {
        Box::new(())
    }

    async fn find(&self) -> Vec<SocketAddr> {
        Vec::new()
    }
}

/// The addresses at which a listener on `bound` is reached, the likeliest first.
pub(super) fn shown(bound: SocketAddr) -> Vec<SocketAddr> {
    if !bound.ip().is_unspecified() {
        return vec![bound];
    }
    // Where the system does not tell, the person knows.
    let all = if_addrs::get_if_addrs().unwrap_or_default();
    let found = all.into_iter().map(|interface| (interface.name.clone(), interface.ip()));
    let addresses = likely(found.collect(), bound.is_ipv6());
    addresses.into_iter().map(|address| SocketAddr::new(address, bound.port())).collect()
}

/// Those of other interfaces than loopback, containers' and tunnels'; loopback where there are none.
fn likely(found: Vec<(String, IpAddr)>, takes_v6: bool) -> Vec<IpAddr> {
    let is_likely = |name: &str, address: &IpAddr| {
        let is_there = !NOT_THERE.iter().any(|prefix| name.starts_with(prefix));
        is_there && !address.is_loopback() && !is_link_local(address)
    };
    let mut likely: Vec<_> = found
        .into_iter()
        .filter(|(name, address)| (takes_v6 || address.is_ipv4()) && is_likely(name, address))
        .map(|(_, address)| address)
        .collect();
    likely.sort_by_key(IpAddr::is_ipv6);
    likely.truncate(MOST_SHOWN);
    if likely.is_empty() { vec![IpAddr::from([127, 0, 0, 1])] } else { likely }
}

/// Such an address needs the name of an interface, which differs from machine to machine.
fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_others_can_dial_come_first() {
        let found = [
            ("lo", "127.0.0.1"),
            ("docker0", "172.17.0.1"),
            ("wlan0", "2001:db8::7"),
            ("wlan0", "192.168.1.7"),
            ("wlan0", "fe80::7"),
            ("wg0", "10.0.0.7"),
        ];
        let found: Vec<_> = found.map(|(name, address)| (name.to_owned(), address.parse().unwrap())).into();
        let shown = |takes_v6| -> Vec<_> {
            likely(found.clone(), takes_v6).iter().map(ToString::to_string).collect()
        };
        assert_eq!(shown(true), ["192.168.1.7", "2001:db8::7"]);
        assert_eq!(shown(false), ["192.168.1.7"]);
        assert_eq!(likely(found[..2].to_vec(), true), [IpAddr::from([127, 0, 0, 1])]);
    }

    #[test]
    fn a_listener_on_one_address_is_reached_there() {
        let bound = SocketAddr::from(([192, 168, 1, 7], 4000));
        assert_eq!(shown(bound), [bound]);
        let all = shown(SocketAddr::from(([0, 0, 0, 0], 4000)));
        assert!(!all.is_empty() && all.iter().all(|address| address.port() == 4000 && address.is_ipv4()));
    }
}
