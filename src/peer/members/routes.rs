//! [`Routes`]: where one machine may answer.

use std::fmt;
use std::net::SocketAddr;

use crate::config::network::PeerAddress;

/// Addresses of each kind that are kept for a machine.
pub const MOST_ADDRESSES: usize = 16;

/// Where a machine may answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Route {
    /// At this address.
    Address(SocketAddr),
    /// At what this name stands for when it is dialled.
    Host(PeerAddress),
}

/// All that is known of where a machine may answer.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Where it answered last.
    good: Option<SocketAddr>,
    /// Where it says it answers, when it called.
    called: Option<SocketAddr>,
    sighted: Vec<SocketAddr>,
    hosts: Vec<PeerAddress>,
    remembered: Vec<SocketAddr>,
}

// === impl Route ===

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host(host) => host.fmt(f),
        }
    }
}

// === impl Routes ===

impl Routes {
    /// All, the likeliest first, each once.
    pub(super) fn list(&self) -> Vec<Route> {
        let mut list = Vec::new();
        let known = self.good.iter().chain(&self.called).chain(&self.sighted);
        let known = known.copied().map(Route::Address);
        let hosts = self.hosts.iter().cloned().map(Route::Host);
        for route in known.chain(hosts).chain(self.remembered.iter().copied().map(Route::Address)) {
            if !list.contains(&route) {
                list.push(route);
            }
        }
        list
    }

    /// Addresses at which it was there, or said so itself.
    pub(super) fn proven(&self) -> Vec<SocketAddr> {
        let mut addresses: Vec<_> = self.good.into_iter().chain(self.called).collect();
        addresses.dedup();
        for address in &self.remembered {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        addresses.truncate(MOST_ADDRESSES);
        addresses
    }

    pub(super) fn is_empty(&self) -> bool {
        self.good.is_none()
            && self.called.is_none()
            && self.sighted.is_empty()
            && self.hosts.is_empty()
            && self.remembered.is_empty()
    }

    /// Whether the settings name it.
    pub(super) fn has_host(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// It is announced at these addresses and no others. Whether one of them is new.
    pub(super) fn sight(&mut self, mut addresses: Vec<SocketAddr>) -> bool {
        addresses.truncate(MOST_ADDRESSES);
        let is_new = |address: &SocketAddr| {
            !self.sighted.contains(address) && self.good != Some(*address) && self.called != Some(*address)
        };
        let any_new = addresses.iter().any(is_new);
        self.sighted = addresses;
        any_new
    }

    /// It was there in an earlier run of the node.
    pub(super) fn remember(&mut self, mut addresses: Vec<SocketAddr>) {
        addresses.truncate(MOST_ADDRESSES);
        self.remembered = addresses;
    }

    /// The settings say it is there.
    pub(super) fn add_host(&mut self, host: PeerAddress) {
        if !self.hosts.contains(&host) && self.hosts.len() < MOST_ADDRESSES {
            self.hosts.push(host);
        }
    }

    /// It answered there.
    pub(super) fn found(&mut self, address: Option<SocketAddr>) {
        self.good = address.or(self.good);
    }

    /// It called, and says that it answers there.
    pub(super) fn called(&mut self, address: Option<SocketAddr>) {
        self.called = address.or(self.called);
    }

    /// Another machine answered there.
    pub(super) fn lose(&mut self, route: &Route) {
        match route {
            Route::Host(host) => self.hosts.retain(|other| other != host),
            Route::Address(address) => {
                self.good.take_if(|good| good == address);
                self.called.take_if(|called| called == address);
                self.sighted.retain(|other| other != address);
                self.remembered.retain(|other| other != address);
            }
        }
    }
}
