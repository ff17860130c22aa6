//! How invitations are heard of on the network, and at which addresses.

use std::any::Any;
use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;

use crate::peer::interfaces::{self, Interface};

/// Addresses that are shown at most.
const MOST_SHOWN: usize = 4;

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
    let addresses = likely(&interfaces::list(), bound.is_ipv6());
    addresses.into_iter().map(|address| SocketAddr::new(address, bound.port())).collect()
}

/// Those of interfaces that lead to other machines; loopback where there are none.
fn likely(all: &[Interface], takes_v6: bool) -> Vec<IpAddr> {
    let leading = all
        .iter()
        .filter(|interface| interface.is_up && !interface.is_loopback && interface.check_usual().is_ok());
    let addresses = leading.flat_map(|interface| interface.addresses.iter().copied());
    let mut likely: Vec<_> = addresses
        .filter(|address| {
            (takes_v6 || address.is_ipv4()) && !address.is_loopback() && !is_link_local(address)
        })
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
        let interface = |name: &str, addresses: &[&str]| Interface {
            name: name.to_owned(),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            is_up: true,
            is_loopback: name == "lo",
            ..Interface::default()
        };
        let found = [
            interface("lo", &["127.0.0.1"]),
            interface("docker0", &["172.17.0.1"]),
            interface("wlan0", &["2001:db8::7", "192.168.1.7", "fe80::7"]),
            interface("wg0", &["10.0.0.7"]),
            Interface { is_up: false, ..interface("eth0", &["192.168.1.8"]) },
        ];
        let shown =
            |takes_v6| -> Vec<_> { likely(&found, takes_v6).iter().map(ToString::to_string).collect() };
        assert_eq!(shown(true), ["192.168.1.7", "2001:db8::7"]);
        assert_eq!(shown(false), ["192.168.1.7"]);
        assert_eq!(likely(&found[..2], true), [IpAddr::from([127, 0, 0, 1])]);
    }

    #[test]
    fn a_listener_on_one_address_is_reached_there() {
        let bound = SocketAddr::from(([192, 168, 1, 7], 4000));
        assert_eq!(shown(bound), [bound]);
        let all = shown(SocketAddr::from(([0, 0, 0, 0], 4000)));
        assert!(!all.is_empty() && all.iter().all(|address| address.port() == 4000 && address.is_ipv4()));
    }
}
