//! Invitations on the local networks: announced while they are open, and heard by who wants in.
//!
//! An invitation is announced as `_farmhand-join._tcp.local.` under a random name, with one fact: what
//! the farm is called. What is heard is a hint where to try a code, and whoever answers there must know it.

use std::any::Any;
use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use mdns_sd::{ServiceEvent, ServiceInfo};
use tokio::time::{Instant, timeout_at};

use super::announcement::{self, Heard};
use super::{Daemon, scoped};
use crate::config::InterfacePattern;
use crate::peer::interfaces::{Interfaces, Rules};
use crate::peer::trust::join::Notices;

/// What invitations are announced as.
const SERVICE: &str = "_farmhand-join._tcp.local.";

/// How long is listened for the first invitation.
const FIRST: Duration = Duration::from_secs(5);

/// How long is listened for others after that.
const MORE: Duration = Duration::from_millis(500);

/// Addresses that are tried at most.
const MOST_ADDRESSES: usize = 8;

/// Announces invitations where the settings allow it, and hears those of others there.
pub struct Invitations(Rules);

/// An announcement; withdrawn when it is dropped.
struct Announced {
    daemon: Daemon,
    name: String,
}

// === impl Invitations ===

impl Invitations {
    /// On the interfaces that these patterns name.
    pub fn new(interfaces: Vec<InterfacePattern>) -> Self {
        Self(Rules::new(interfaces))
    }

    fn tell(&self, farm: &str, port: u16) -> Result<Announced, mdns_sd::Error> {
        let daemon = Daemon::start(&self.0)?;
        let label = uuid::Uuid::new_v4().simple().to_string();
        let info =
            ServiceInfo::new(SERVICE, &label, &format!("{label}.local."), "", port, &[("farm", farm)][..])?;
        daemon.0.register(info.enable_addr_auto())?;
        Ok(Announced { daemon, name: format!("{label}.{SERVICE}") })
    }

    async fn hear(&self) -> Result<Vec<SocketAddr>, mdns_sd::Error> {
        let daemon = Daemon::start(&self.0)?;
        let events = daemon.0.browse(SERVICE)?;
        let (mut found, mut interfaces) = (Vec::new(), Interfaces::default());
        let mut until = Instant::now() + FIRST;
        while let Ok(Ok(event)) = timeout_at(until, events.recv_async()).await {
            let ServiceEvent::ServiceResolved(service) = event else { continue };
            let addresses = service.addresses.iter().filter_map(scoped).collect();
            let heard =
                Heard { name: &service.fullname, port: service.port, protocol: None, farm: None, addresses };
            if service.port == 0 || found.len() >= MOST_ADDRESSES {
                continue;
            }
            let (places, _) = announcement::places(&heard, interfaces.list().await);
            let new: Vec<_> = places.into_iter().filter(|place| !found.contains(place)).collect();
            if found.is_empty() && !new.is_empty() {
                until = Instant::now() + MORE;
            }
            found.extend(new);
        }
        found.truncate(MOST_ADDRESSES);
        Ok(found)
    }
}

#[async_trait]
impl Notices for Invitations {
    fn announce(&self, farm: &str, port: u16) -> Box<dyn Any + Send> {
        match self.tell(farm, port) {
            Ok(announced) => Box::new(announced),
            Err(error) => {
                tracing::warn!(%error, "the invitation is not announced on the network; give its address");
                Box::new(())
            }
        }
    }

    async fn find(&self) -> Vec<SocketAddr> {
        self.hear().await.unwrap_or_else(|error| {
            tracing::warn!(%error, "invitations are not heard of on the network");
            Vec::new()
        })
    }
}

// === impl Announced ===

impl Drop for Announced {
    fn drop(&mut self) {
        // The thread ends whether that was told or not.
        let _ = self.daemon.0.unregister(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Threads of engines in this process.
    fn threads() -> usize {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.filter(|name| name.starts_with("mDNS")).count()
    }

    #[tokio::test]
    async fn no_thread_outlives_whom_it_works_for() {
        let invitations = Invitations::new(Vec::new());
        for _ in 0..3 {
            let announced = invitations.announce("term forward", 1);
            // Who wants in gives up.
            assert!(invitations.find().now_or_never().is_none());
            drop(announced);
        }
        let ended = async {
            while threads() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(30), ended).await.is_ok(), "{} are left", threads());
    }
}
